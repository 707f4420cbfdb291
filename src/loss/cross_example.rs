//! Room: losses. Cross-example softmax.

use super::{Family, Loss, Scope};

/// Cross-example softmax (Veit & Wilber 2020, arXiv 2011.08824): one softmax over *all*
/// non-matching pairs of the batch.
///
/// ```text
/// l = log Σ_{all negative pairs (a,b)} exp(s·S_ab)
/// L = mean over positive pairs of softplus(l − s·S_ij)
/// ```
///
/// Every query is pushed above the same threshold l/s, so similarity becomes comparable between
/// queries. L(S) = L(Sᵀ): there is no second direction. With [`Loss::hardest`] it is cross-example
/// negative mining, of the same paper, whose K and schedule could not be read: K is an argument.
///
/// The method is the subject of US patent application US20230111978A1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossExampleSoftmax(Family);

impl CrossExampleSoftmax {
    /// With scale s, the inverse temperature: finite and above 0, checked at each call.
    pub fn new(scale: f32) -> Self {
        Self(Family::new(scale, Scope::Matrix))
    }
}

impl Loss for CrossExampleSoftmax {
    fn family(&self) -> &Family {
        &self.0
    }
    fn family_mut(&mut self) -> &mut Family {
        &mut self.0
    }
}
