//! A tower: a small multi-layer perceptron with its backward pass and Adam.
//!
//! Every product here is of the form A·Bᵀ, which is what `ops::similarity` computes: the crate
//! brings all the arithmetic this example needs.

use fastrand::Rng;
use metric_kernels::{CpuEngine, Matrix, Result, ops};

/// Dense layers with ReLU between them.
pub struct Tower {
    engine: CpuEngine,
    /// Subtracted from every input: the mean of those to come.
    centre: Vec<f32>,
    layers: Vec<Layer>,
    updates: i32,
}

/// outputs = inputs·weightsᵀ + bias, weights being fan_out × fan_in.
struct Layer {
    fan_in: usize,
    fan_out: usize,
    weights: Parameter,
    bias: Parameter,
    /// What the last forward pass was given: backward needs it.
    inputs: Vec<f32>,
}

impl Tower {
    /// A tower for inputs like `samples`; `widths` are those of the layers behind them, the
    /// embedding's last.
    pub fn new(samples: &[f32], input: usize, widths: &[usize], random: &mut Rng) -> Self {
        let count = (samples.len() / input) as f32;
        let column = |c: usize| samples.iter().skip(c).step_by(input).sum::<f32>() / count;
        let layer = |pair: &[usize]| {
            let (fan_in, fan_out) = (pair[0], pair[1]);
            // Uniform with variance 2/fan_in (He et al. 2015) keeps activations level under ReLU.
            let bound = (6.0 / fan_in as f32).sqrt();
            let mut weight = || bound * (2.0 * random.f32() - 1.0);
            Layer {
                fan_in,
                fan_out,
                weights: Parameter::new((0..fan_in * fan_out).map(|_| weight()).collect()),
                bias: Parameter::new(vec![0.0; fan_out]),
                inputs: Vec::new(),
            }
        };
        Self {
            engine: CpuEngine::new(),
            centre: (0..input).map(column).collect(),
            layers: [&[input], widths].concat().windows(2).map(layer).collect(),
            updates: 0,
        }
    }

    /// n inputs to n embeddings.
    pub fn forward(&mut self, inputs: Vec<f32>) -> Result<Vec<f32>> {
        let last = self.layers.len() - 1;
        let mut values = inputs;
        for row in values.chunks_mut(self.centre.len()) {
            row.iter_mut().zip(&self.centre).for_each(|(value, centre)| *value -= centre);
        }
        for (number, layer) in self.layers.iter_mut().enumerate() {
            layer.inputs = values;
            let shape = (layer.fan_in, layer.fan_out);
            values = product(&mut self.engine, &layer.inputs, &layer.weights.value, shape)?;
            for row in values.chunks_mut(layer.fan_out) {
                for (value, bias) in row.iter_mut().zip(&layer.bias.value) {
                    *value += bias;
                    if number < last {
                        *value = value.max(0.0);
                    }
                }
            }
        }
        Ok(values)
    }

    /// Takes the loss's gradient with respect to the embeddings of the last
    /// [`forward`](Self::forward) and updates every parameter.
    pub fn backward(&mut self, gradient: Vec<f32>, rate: f32) -> Result<()> {
        self.updates += 1;
        let mut gradient = gradient;
        for (number, layer) in self.layers.iter_mut().enumerate().rev() {
            let n = gradient.len() / layer.fan_out;
            let by_output = transposed(&gradient, layer.fan_out);
            let by_input = transposed(&layer.inputs, layer.fan_in);
            let for_bias: Vec<f32> = by_output.chunks(n).map(|row| row.iter().sum()).collect();
            // dW = dOutᵀ·In, and dIn = dOut·W, which stops where ReLU did.
            let for_weights = product(&mut self.engine, &by_output, &by_input, (n, layer.fan_in))?;
            if number > 0 {
                let weights = transposed(&layer.weights.value, layer.fan_in);
                let shape = (layer.fan_out, layer.fan_in);
                gradient = product(&mut self.engine, &gradient, &weights, shape)?;
                for (gradient, &input) in gradient.iter_mut().zip(&layer.inputs) {
                    if input <= 0.0 {
                        *gradient = 0.0;
                    }
                }
            }
            layer.weights.update(&for_weights, rate, self.updates);
            layer.bias.update(&for_bias, rate, self.updates);
        }
        Ok(())
    }
}

/// A·Bᵀ for A of any number of rows, B of `rows` rows, both `depth` wide.
fn product(
    engine: &mut CpuEngine,
    a: &[f32],
    b: &[f32],
    (depth, rows): (usize, usize),
) -> Result<Vec<f32>> {
    ops::similarity(engine, Matrix::new(a, a.len() / depth, depth)?, Matrix::new(b, rows, depth)?)
}

/// A matrix of `cols` columns, turned.
fn transposed(matrix: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| matrix.iter().skip(j).step_by(cols).copied()).collect()
}

/// Numbers to be learned and Adam's memory of them (Kingma & Ba 2015).
struct Parameter {
    value: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Parameter {
    fn new(value: Vec<f32>) -> Self {
        Self { mean: vec![0.0; value.len()], square: vec![0.0; value.len()], value }
    }

    fn update(&mut self, gradient: &[f32], rate: f32, updates: i32) {
        let (keep_mean, keep_square) = (0.9f32, 0.999f32);
        let mean_bias = 1.0 - keep_mean.powi(updates);
        let square_bias = 1.0 - keep_square.powi(updates);
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((value, gradient), (mean, square)) in self.value.iter_mut().zip(gradient).zip(moments)
        {
            *mean += (1.0 - keep_mean) * (gradient - *mean);
            *square += (1.0 - keep_square) * (gradient * gradient - *square);
            *value -= rate * (*mean / mean_bias) / ((*square / square_bias).sqrt() + 1e-8);
        }
    }
}
