//! Room: errors. One type for the whole crate; bad input is reported before anything runs.

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument cannot be used. Nothing was launched and nothing was written.
    #[error("{argument}: got {given}, expected {expected}")]
    InvalidArgument {
        /// The argument's name, as the documentation of the call spells it.
        argument: &'static str,
        /// What was handed over.
        given: String,
        /// What the call needs instead.
        expected: String,
    },
    /// The call needs more workspace than the caller allows. Nothing was launched.
    #[error("workspace: this call needs {needed} bytes, the bound set by the caller is {bound}")]
    WorkspaceTooSmall {
        /// Bytes the call needs in all.
        needed: usize,
        /// Bytes the caller allows.
        bound: usize,
    },
    /// CUDA cannot be used on this machine, or not by this build.
    #[error("CUDA is not available: {reason} (to mend it: {remedy})")]
    CudaUnavailable {
        /// Why.
        reason: String,
        /// The command or setting that mends it.
        remedy: String,
    },
    /// The CUDA driver refused a call.
    #[error("CUDA driver: {0}")]
    Driver(#[from] cudarc::driver::DriverError),
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::InvalidArgument`].
    pub(crate) fn argument(
        argument: &'static str,
        given: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidArgument { argument, given: given.into(), expected: expected.into() }
    }
}
