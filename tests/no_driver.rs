//! A machine without a CUDA driver: an error that says what mends it, never a panic.

use metric_kernels::engine::cuda::available;
use metric_kernels::{CudaEngine, Error};

#[test]
fn opening_a_cuda_engine_without_a_driver_is_an_error() {
    let Err(unavailable) = available() else {
        println!("SKIPPED: opening_a_cuda_engine_without_a_driver_is_an_error: there is a driver");
        return;
    };
    for error in [unavailable, CudaEngine::open(0).map(drop).unwrap_err()] {
        let Error::CudaUnavailable { reason, remedy } = &error else { panic!("{error:?}") };
        assert!(!reason.is_empty() && !remedy.is_empty());
        assert!(error.to_string().contains("to mend it"), "{error}");
    }
}
