//! From a fault to the driver's error code, and the one report of it on stderr.

use crate::exec::{Fault, FaultKind};
use crate::memory::MemoryError;

use super::error::CUresult;
use super::ffi::say;

/// Reports the fault of a launch; the answer is what the context returns from now on.
pub fn of_launch(fault: &Fault) -> CUresult {
    say(&format!("fault: {fault}"));
    code_of(fault)
}

/// The code that a GPU gives for the fault, or for its nearest relative there: a GPU does not
/// notice races or unwritten memory, so those are an unspecified launch failure.
fn code_of(fault: &Fault) -> CUresult {
    match fault.kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => CUresult::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => CUresult::MISALIGNED_ADDRESS,
        FaultKind::IllegalInstruction => CUresult::ILLEGAL_INSTRUCTION,
        FaultKind::Timeout => CUresult::LAUNCH_TIMEOUT,
        FaultKind::StackOverflow => CUresult::HARDWARE_STACK_ERROR,
        FaultKind::InvalidLaunch => CUresult::INVALID_VALUE,
        FaultKind::Trap if fault.message.to_ascii_lowercase().contains("assert") => {
            CUresult::ASSERT
        }
        FaultKind::Trap
        | FaultKind::Uninitialised
        | FaultKind::SharedRace
        | FaultKind::GlobalRace
        | FaultKind::BarrierDivergence
        | FaultKind::MaskMismatch => CUresult::LAUNCH_FAILED,
    }
}

/// Reports a copy or fill that met memory it may not touch.
pub fn of_copy(call: &str, error: &MemoryError) -> CUresult {
    say(&format!("fault: {call}: {error}"));
    CUresult::ILLEGAL_ADDRESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_assertion_has_its_own_code() {
        let mut fault = Fault {
            kind: FaultKind::Trap,
            kernel: "k".into(),
            line: 1,
            instruction: "trap;".into(),
            block: [0; 3],
            thread: [0; 3],
            address: None,
            message: "trap".into(),
        };
        assert_eq!(code_of(&fault), CUresult::LAUNCH_FAILED);
        fault.message = "Assertion `i < n` failed".into();
        assert_eq!(code_of(&fault), CUresult::ASSERT);
    }
}
