//! NVIDIA's product, as the measure of ours: cuBLAS through the dynamic loader, where there is one.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use metric_kernels::DType;

use super::place::Data;

type Handle = *mut c_void;
type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// A handle on one stream.
pub struct Cublas {
    handle: Handle,
    gemm: GemmEx,
    stream: Arc<CudaStream>,
    /// Holds the code.
    _library: libloading::Library,
}

impl Cublas {
    /// The newest cuBLAS that the loader finds; `None` where there is none.
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        // SAFETY: cuBLAS runs no code of ours when it is loaded; the types are those of cublas_api.h.
        unsafe {
            let names = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];
            let library = names.iter().find_map(|name| libloading::Library::new(*name).ok())?;
            type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
            type SetStream = unsafe extern "C" fn(Handle, *mut c_void) -> c_int;
            let create = *library.get::<Create>(b"cublasCreate_v2\0").ok()?;
            let set_stream = *library.get::<SetStream>(b"cublasSetStream_v2\0").ok()?;
            let gemm = *library.get::<GemmEx>(b"cublasGemmEx\0").ok()?;
            let mut handle = std::ptr::null_mut();
            stream.context().bind_to_thread().ok()?;
            if create(&mut handle) != 0 || set_stream(handle, stream.cu_stream().cast()) != 0 {
                return None;
            }
            Some(Self { handle, gemm, stream: stream.clone(), _library: library })
        }
    }

    /// out (n×n, of T) = x·yᵀ for rows of d, accumulated in f32. Asynchronous.
    pub fn product<T: Data + metric_kernels::Element>(
        &self,
        x: &CudaSlice<T>,
        y: &CudaSlice<T>,
        out: &mut CudaSlice<T>,
        (n, d): (usize, usize),
    ) {
        assert!(x.len() == n * d && y.len() == n * d && out.len() == n * n);
        // The numbers of cudaDataType_t, CUBLAS_COMPUTE_32F, CUBLAS_OP_N, CUBLAS_OP_T.
        let kind = match T::DTYPE {
            DType::F32 => 0,
            DType::F16 => 2,
            DType::Bf16 => 14,
        };
        const COMPUTE_32F: c_int = 68;
        const DEFAULT: c_int = -1;
        let (one, zero) = (1.0f32, 0.0f32);
        let (n, d) = (n as c_int, d as c_int);
        let (x, _x) = x.device_ptr(&self.stream);
        let (y, _y) = y.device_ptr(&self.stream);
        let (out, _out) = out.device_ptr_mut(&self.stream);
        // SAFETY: three matrices of the checked sizes on this stream's device. Row-major out is
        // column-major outᵀ = y·xᵀ.
        let code = unsafe {
            (self.gemm)(
                self.handle,
                1,
                0,
                n,
                n,
                d,
                (&raw const one).cast(),
                y as *const c_void,
                kind,
                d,
                x as *const c_void,
                kind,
                d,
                (&raw const zero).cast(),
                out as *mut c_void,
                kind,
                n,
                COMPUTE_32F,
                DEFAULT,
            )
        };
        assert_eq!(code, 0, "cublasGemmEx");
    }
}
