//! Gradients against float64 finite differences of the oracle's loss, on the oracle and the CPU.

mod common;

mod oracle {
    use crate::common::identities::Oracle;
    crate::identity_tests!(|_| Some(Oracle) =>
        gradients_are_finite_differences_of_the_loss,
        anchor_normalized_is_the_gradient_of_its_functional_not_of_the_loss,
    );
}

mod cpu {
    use crate::common::run::Cpu;
    crate::identity_tests!(|_| Some(Cpu::default()) =>
        gradients_are_finite_differences_of_the_loss,
        anchor_normalized_is_the_gradient_of_its_functional_not_of_the_loss,
    );
}
