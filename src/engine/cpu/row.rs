//! Room: engines, CPU. What is done with one row of similarities: maximum, exponentials, scaling,
//! written as plain loops that `pulp` compiles for the machine's widest vectors.

use std::sync::LazyLock;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Independent accumulators: wide enough for two of the widest registers.
const LANES: usize = 32;

/// Values summed in `f32` before the sum moves to `f64`.
const CHUNK: usize = 32 * LANES;

/// Defines a function whose body is compiled once for each instruction set and chosen at run time.
/// The body is a method of its own, which inlines where a closure's would not: it must meet the
/// target's features, or `mul_add` becomes a call.
macro_rules! vectorized {
    ($($(#[$doc:meta])* fn $name:ident as $call:ident($($arg:ident: $type:ty),*) -> $out:ty $body:block)*) => {$(
        struct $call<'a> {
            $($arg: $type,)*
            lifetime: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> pulp::NullaryFnOnce for $call<'a> {
            type Output = $out;
            #[inline(always)]
            fn call(self) -> $out {
                let Self { $($arg,)* .. } = self;
                $body
            }
        }

        $(#[$doc])*
        pub(super) fn $name<'a>($($arg: $type),*) -> $out {
            ARCH.dispatch($call { $($arg,)* lifetime: std::marker::PhantomData })
        }
    )*};
}

vectorized! {
    /// The largest value; −∞ for an empty row. NaN is passed over: it shows in the sum.
    fn max as Max(row: &'a [f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = row.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane = if value > *lane { value } else { *lane };
            }
        }
        let mut max = f32::NEG_INFINITY;
        for &value in lanes.iter().chain(rest) {
            max = if value > max { value } else { max };
        }
        max
    }

    /// Replaces every S by exp(s·(S − max)) and returns the sum. `max` must be finite; −∞ gives 0.
    fn exponentials as Exponentials(row: &'a mut [f32], scale: f32, max: f32) -> f64 {
        let mut sum = 0.0f64;
        for part in row.chunks_mut(CHUNK) {
            let mut lanes = [0.0f32; LANES];
            let mut chunks = part.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *value = exp(scale * (*value - max));
                    *lane += *value;
                }
            }
            for (lane, value) in lanes.iter_mut().zip(chunks.into_remainder()) {
                *value = exp(scale * (*value - max));
                *lane += *value;
            }
            for lane in lanes {
                sum += f64::from(lane);
            }
        }
        sum
    }

    /// Multiplies every value.
    fn multiply as Multiply(row: &'a mut [f32], factor: f32) -> () {
        for value in row {
            *value *= factor;
        }
    }

    /// Whether every value is finite.
    fn is_finite as IsFinite(row: &'a [f32]) -> bool {
        // No early end: most rows are, and vectors have none.
        row.iter().fold(true, |finite, value| finite & value.is_finite())
    }

    /// Σ a·b in `f64`.
    fn dot as Dot(a: &'a [f32], b: &'a [f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += f64::from(a) * f64::from(b);
            }
        }
        let mut sum = 0.0;
        for lane in lanes {
            sum += lane;
        }
        sum
    }

    /// a += factor·b.
    fn add_scaled as AddScaled(a: &'a mut [f32], factor: f32, b: &'a [f32]) -> () {
        for (a, &b) in a.iter_mut().zip(b) {
            *a = factor.mul_add(b, *a);
        }
    }
}

/// e^x for x ≤ 88 within 1.2 ulp; 0 below −87.3, where the result would be denormal; NaN stays.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that k times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = k.mul_add(-LN_2_LOW, k.mul_add(-LN_2_HIGH, x));
    // Taylor's series; |r| ≤ ln 2 / 2 makes the rest smaller than 6e-9.
    let mut p = 1.0 / 5040.0;
    p = r.mul_add(p, 1.0 / 720.0);
    p = r.mul_add(p, 1.0 / 120.0);
    p = r.mul_add(p, 1.0 / 24.0);
    p = r.mul_add(p, 1.0 / 6.0);
    p = r.mul_add(p, 0.5);
    p = r.mul_add(p, 1.0);
    p = r.mul_add(p, 1.0);
    // p is in [0.7, 1.42]: adding k to its exponent multiplies by 2^k.
    let value = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < LOWEST {
        0.0
    } else if x.is_nan() {
        x
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        let mut worst = 0.0f64;
        for i in 0..=2_000_000 {
            let x = -87.3 + 175.0 * (f64::from(i) / 2e6);
            let x = x as f32;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            worst = worst.max(error);
        }
        assert!(worst < 1.5e-7, "relative error {worst:e}");
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-87.4), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_at_every_length() {
        for len in 0..200 {
            let row: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&row), top);
            if len == 0 {
                continue;
            }
            let exact: f64 =
                row.iter().map(|&v| (3.0 * (f64::from(v) - f64::from(top))).exp()).sum();
            let mut weights = row.clone();
            let sum = exponentials(&mut weights, 3.0, top);
            assert!((sum - exact).abs() < 1e-6 * exact, "{len}: {sum} {exact}");
            for (w, v) in weights.iter().zip(&row) {
                let exact = (3.0 * (f64::from(*v) - f64::from(top))).exp();
                assert!((f64::from(*w) - exact).abs() < 5e-7 * exact);
            }
            let exact: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((dot(&row, &row) - exact).abs() <= 1e-12 * exact);
        }
    }

    #[test]
    fn nan_is_passed_over_by_the_maximum_and_kept_by_the_sum() {
        for at in [0, 5, 31, 32, 40] {
            let mut row = vec![0.5; 41];
            row[at] = f32::NAN;
            assert_eq!(max(&row), 0.5);
            assert!(exponentials(&mut row, 1.0, 0.5).is_nan());
        }
    }
}
