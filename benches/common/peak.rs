//! How many fused multiply-adds the processor makes: what no product is faster than.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};

/// Chains of multiply-adds, enough to hide that each waits for the one before, few enough for the
/// registers of any instruction set.
const CHAINS: usize = 12;

/// Multiply-adds of every chain: some milliseconds.
const STEPS: usize = 1 << 20;

struct Chains;

impl WithSimd for Chains {
    /// Multiply-adds made.
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let (by, plus) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(1e-6)));
        let mut chains = [simd.splat_f32s(1.0); CHAINS];
        for _ in 0..STEPS {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(by, *chain, plus);
            }
        }
        black_box(chains);
        STEPS * CHAINS * size_of::<S::f32s>() / size_of::<f32>()
    }
}

/// Flop a second, f32, of all threads of rayon's pool together. Takes some milliseconds.
pub fn flop_rate() -> f64 {
    let arch = Arch::new();
    let start = Instant::now();
    let made: usize = rayon::broadcast(|_| arch.dispatch(Chains)).into_iter().sum();
    2.0 * made as f64 / start.elapsed().as_secs_f64()
}
