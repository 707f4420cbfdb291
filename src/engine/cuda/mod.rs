//! Room: engines, CUDA.

use crate::engine::{Engine, GradientsMut, Problem, sealed};
use crate::matrix::{Cuda, Matrix, MatrixMut, Scalar};
use crate::{Element, Result, Scope};

/// The kernels, loaded into one CUDA context.
pub struct Kernels {}
/// Result memory.
pub struct Buffer(cudarc::driver::CudaSlice<f32>);
impl crate::Storage for Buffer {
    type Device = Cuda;
    type Element = f32;
    fn view(&self) -> &dyn cudarc::driver::DevicePtr<f32> {
        &self.0
    }
}
impl crate::StorageMut for Buffer {
    fn view_mut(&mut self) -> &mut dyn cudarc::driver::DevicePtrMut<f32> {
        &mut self.0
    }
}

/// The CUDA engine.
#[derive(Default)]
pub struct CudaEngine {}

impl CudaEngine {
    /// A new engine.
    pub fn new() -> Self {
        Self::default()
    }
}
impl sealed::Sealed for CudaEngine {}
/// stats
pub struct Statistics {}
impl Engine for CudaEngine {
    type Device = Cuda;
    type Buffer = Buffer;
    type Statistics = Statistics;
    fn name(&self) -> String {
        "cuda".into()
    }
    fn buffer(&mut self, len: usize) -> Result<Buffer> {
        let _ = len;
        todo!()
    }
    fn read(&mut self, _buffer: &Buffer) -> Result<Vec<f32>> {
        todo!()
    }
    fn check<T: Element>(&mut self, _problem: &Problem<'_, Cuda, T>) -> Result<()> {
        todo!()
    }
    fn forward<T: Element>(
        &mut self,
        _problem: &Problem<'_, Cuda, T>,
    ) -> Result<(Buffer, Statistics)> {
        todo!()
    }
    fn backward<T: Element>(
        &mut self,
        _problem: &Problem<'_, Cuda, T>,
        _statistics: &Statistics,
        _upstream: Scalar<'_, Cuda>,
        _out: GradientsMut<'_, Cuda>,
    ) -> Result<()> {
        todo!()
    }
    fn loss_and_gradients<T: Element>(
        &mut self,
        _problem: &Problem<'_, Cuda, T>,
        _out: GradientsMut<'_, Cuda>,
    ) -> Result<Buffer> {
        todo!()
    }
    fn similarity<T: Element>(
        &mut self,
        _x: Matrix<'_, Cuda, T>,
        _y: Matrix<'_, Cuda, T>,
        _out: MatrixMut<'_, Cuda, f32>,
    ) -> Result<()> {
        todo!()
    }
    fn log_sum_exp<T: Element>(
        &mut self,
        _x: Matrix<'_, Cuda, T>,
        _y: Matrix<'_, Cuda, T>,
        _scale: Scalar<'_, Cuda>,
        _scope: Scope,
    ) -> Result<Buffer> {
        todo!()
    }
    fn normalize<T: Element>(
        &mut self,
        _x: Matrix<'_, Cuda, T>,
        _out: MatrixMut<'_, Cuda, f32>,
    ) -> Result<()> {
        todo!()
    }
    fn normalize_backward<T: Element>(
        &mut self,
        _x: Matrix<'_, Cuda, T>,
        _g: Matrix<'_, Cuda, f32>,
        _out: MatrixMut<'_, Cuda, f32>,
    ) -> Result<()> {
        todo!()
    }
}
