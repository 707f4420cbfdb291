//! What the type system promises: asserted at compile time. What must not compile as an expression
//! is in compile_fail.md, whose snippets are documentation tests.

use half::{bf16, f16};
use metric_kernels::engine::cuda::Buffer;
use metric_kernels::{
    Batch, CpuEngine, Cuda, CudaEngine, Element, Engine, Host, Kernels, Matrix, MatrixMut, Storage,
    StorageMut,
};

/// Does not compile if `$type` is `$bound`: two implementations would then fit.
macro_rules! is_not {
    ($type:ty: $($bound:tt)+) => {
        const _: fn() = || {
            trait AmbiguousIf<A> {
                fn some() {}
            }
            impl<T: ?Sized> AmbiguousIf<()> for T {}
            #[allow(dead_code)]
            struct Invalid;
            impl<T: ?Sized + $($bound)+> AmbiguousIf<Invalid> for T {}
            let _ = <$type as AmbiguousIf<_>>::some;
        };
    };
}

macro_rules! is {
    ($type:ty: $($bound:tt)+) => {
        const _: fn() = || {
            fn check<T: ?Sized + $($bound)+>() {}
            check::<$type>();
        };
    };
}

// Engines take views of their own device.
is!(CpuEngine: Engine<Device = Host>);
is!(CudaEngine: Engine<Device = Cuda>);
is_not!(CpuEngine: Engine<Device = Cuda>);
is_not!(CudaEngine: Engine<Device = Host>);
is!((Matrix<'static, Host, f32>, Matrix<'static, Host, f32>): Into<Batch<'static, Host, f32>>);
is_not!((Matrix<'static, Host, f32>, Matrix<'static, Host, f32>): Into<Batch<'static, Cuda, f32>>);
is_not!((Matrix<'static, Cuda, f32>, Matrix<'static, Host, f32>): Into<Batch<'static, Cuda, f32>>);

// Where buffers live.
is!(Vec<f32>: Storage<Device = Host>);
is_not!(Vec<f32>: Storage<Device = Cuda>);
is!(cudarc::driver::CudaSlice<f32>: StorageMut<Device = Cuda>);
is_not!(cudarc::driver::CudaSlice<f32>: Storage<Device = Host>);
is_not!(cudarc::driver::CudaView<'static, f32>: StorageMut);
is!(Buffer: StorageMut<Device = Cuda, Element = f32>);
is!(Buffer<u32>: StorageMut<Device = Cuda, Element = u32>);

// What embeddings are made of.
is!(f32: Element);
is!(f16: Element);
is!(bf16: Element);
is_not!(f64: Element);
is_not!(u32: Element);

// Views to read are copied freely; there is one to write.
is!(Matrix<'static, Cuda, f32>: Copy);
is!(Batch<'static, Cuda, f16>: Copy);
is_not!(MatrixMut<'static, Host, f32>: Clone);

// Kernels are shared between threads; an engine moves to another.
is!(Kernels: Clone + Send + Sync);
is!(CpuEngine: Send);
is!(CudaEngine: Send);

#[test]
fn promises_are_checked_when_this_file_compiles() {
    // Whoever reads the list of tests sees that they exist.
    assert_eq!(size_of::<Matrix<'static, Host, f32>>(), 5 * size_of::<usize>());
}
