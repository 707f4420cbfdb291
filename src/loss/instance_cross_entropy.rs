//! Room: losses. Instance cross entropy.

use super::{Family, Loss, Scope};

/// Instance cross entropy (Wang et al. 2019, arXiv 1911.09976): every anchor a with each of its
/// positives i forms one matching distribution against all instances of other classes. Positives
/// come from labels; the anchor's other positives are left out of the denominator.
///
/// ```text
/// p(i|a) = exp(s·S_ai) / (exp(s·S_ai) + Σ_{j of other classes} exp(s·S_aj))
/// L      = mean over (a, i) of −log p(i|a)
/// ```
///
/// Two weightings are offered, both meant for L2-normalised rows: [`Weighting::Analytic`], the
/// gradient of L (equal to supervised NT-Xent at temperature 1/s), and
/// [`Weighting::AnchorNormalized`], the sample reweighting as recalled from the paper's family of
/// methods. The paper's text could not be compared, so neither is called the paper's own.
///
/// [`Weighting::Analytic`]: super::Weighting::Analytic
/// [`Weighting::AnchorNormalized`]: super::Weighting::AnchorNormalized
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceCrossEntropy(Family);

impl InstanceCrossEntropy {
    /// With scale s: finite and above 0, checked at each call.
    pub fn new(scale: f32) -> Self {
        Self(Family::new(scale, Scope::Row))
    }
}

impl Loss for InstanceCrossEntropy {
    fn family(&self) -> &Family {
        &self.0
    }
    fn family_mut(&mut self) -> &mut Family {
        &mut self.0
    }
}
