//! Every identity of the family, on the oracle and on the CPU engine.

mod common;

mod oracle {
    use crate::common::identities::Oracle;
    crate::identity_tests!(|_| Some(Oracle));
}

mod cpu {
    use crate::common::run::Cpu;
    crate::identity_tests!(|_| Some(Cpu::default()));
}
