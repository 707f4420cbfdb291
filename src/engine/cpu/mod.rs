//! Room: engines, CPU.

use crate::engine::{Engine, GradientsMut, Problem, sealed};
use crate::matrix::{Host, Matrix, MatrixMut, Scalar};
use crate::{Element, Result, Scope};

/// The CPU engine.
#[derive(Default)]
pub struct CpuEngine {}

impl CpuEngine {
    /// A new engine.
    pub fn new() -> Self {
        Self::default()
    }
}
impl sealed::Sealed for CpuEngine {}
/// stats
pub struct Statistics {}
impl Engine for CpuEngine {
    type Device = Host;
    type Buffer = Vec<f32>;
    type Statistics = Statistics;
    fn name(&self) -> String {
        "cpu".into()
    }
    fn buffer(&mut self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn read(&mut self, buffer: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(buffer.clone())
    }
    fn check<T: Element>(&mut self, _problem: &Problem<'_, Host, T>) -> Result<()> {
        todo!()
    }
    fn forward<T: Element>(
        &mut self,
        _problem: &Problem<'_, Host, T>,
    ) -> Result<(Vec<f32>, Statistics)> {
        todo!()
    }
    fn backward<T: Element>(
        &mut self,
        _problem: &Problem<'_, Host, T>,
        _statistics: &Statistics,
        _upstream: Scalar<'_, Host>,
        _out: GradientsMut<'_, Host>,
    ) -> Result<()> {
        todo!()
    }
    fn loss_and_gradients<T: Element>(
        &mut self,
        _problem: &Problem<'_, Host, T>,
        _out: GradientsMut<'_, Host>,
    ) -> Result<Vec<f32>> {
        todo!()
    }
    fn similarity<T: Element>(
        &mut self,
        _x: Matrix<'_, Host, T>,
        _y: Matrix<'_, Host, T>,
        _out: MatrixMut<'_, Host, f32>,
    ) -> Result<()> {
        todo!()
    }
    fn log_sum_exp<T: Element>(
        &mut self,
        _x: Matrix<'_, Host, T>,
        _y: Matrix<'_, Host, T>,
        _scale: Scalar<'_, Host>,
        _scope: Scope,
    ) -> Result<Vec<f32>> {
        todo!()
    }
    fn normalize<T: Element>(
        &mut self,
        _x: Matrix<'_, Host, T>,
        _out: MatrixMut<'_, Host, f32>,
    ) -> Result<()> {
        todo!()
    }
    fn normalize_backward<T: Element>(
        &mut self,
        _x: Matrix<'_, Host, T>,
        _g: Matrix<'_, Host, f32>,
        _out: MatrixMut<'_, Host, f32>,
    ) -> Result<()> {
        todo!()
    }
}
