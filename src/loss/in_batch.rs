//! Room: losses. In-batch sampled softmax.

use super::{Family, Loss, Scope};

/// In-batch sampled softmax, also known as InfoNCE (van den Oord et al. 2018, arXiv 1807.03748)
/// or one direction of CLIP: a positive against the negatives of its row.
///
/// ```text
/// l_i = log Σ_{negatives j of row i} exp(s·S_ij)
/// L   = mean over positive pairs of softplus(l_i − s·S_ij)
/// ```
///
/// With [`Loss::hardest_per_row`] it is stochastic negative mining (Reddi et al. 2019, arXiv
/// 1810.07076). With one positive a row this is the cross entropy of the row's logits. For both directions of
/// CLIP, take the mean with a second call in which x and y change places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InBatchSoftmax(Family);

impl InBatchSoftmax {
    /// With scale s, the inverse temperature: finite and above 0, checked at each call.
    pub fn new(scale: f32) -> Self {
        Self(Family::new(scale, Scope::Row))
    }
}

impl Loss for InBatchSoftmax {
    fn family(&self) -> &Family {
        &self.0
    }
    fn family_mut(&mut self) -> &mut Family {
        &mut self.0
    }
}
