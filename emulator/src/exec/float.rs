//! Floating point as PTX defines it: rounding to any format in any direction, half formats, flushing, minima.
//!
//! Directed roundings and the narrow formats go through one route: the operation is carried out in `f64`, *rounded to
//! odd* (an inexact result gets a last bit of one), and then rounded once to the format. Rounding to odd keeps, in two
//! bits beyond the target precision, all that the second rounding must know, so that the result is the one of a single
//! rounding of the exact value.

/// Direction of a rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Round {
    /// To nearest, ties to even (`.rn`).
    Near = 0,
    /// Toward zero (`.rz`).
    Zero = 1,
    /// Toward minus infinity (`.rm`).
    Down = 2,
    /// Toward plus infinity (`.rp`).
    Up = 3,
    /// To nearest, ties away from zero (`.rna`).
    Away = 4,
}

impl Round {
    pub fn from_code(code: u32) -> Round {
        match code {
            1 => Round::Zero,
            2 => Round::Down,
            3 => Round::Up,
            4 => Round::Away,
            _ => Round::Near,
        }
    }
}

/// A binary format: widths of exponent and fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub exponent: u32,
    pub fraction: u32,
    pub nan: u64,
}

pub(crate) const F16: Format = Format { exponent: 5, fraction: 10, nan: 0x7fff };
pub(crate) const BF16: Format = Format { exponent: 8, fraction: 7, nan: 0x7fff };
pub(crate) const TF32: Format = Format { exponent: 8, fraction: 10, nan: 0x3ffff };
pub(crate) const F32: Format = Format { exponent: 8, fraction: 23, nan: 0x7fff_ffff };
pub(crate) const F64: Format = Format { exponent: 11, fraction: 52, nan: 0x7fff_ffff_ffff_ffff };

/// `mantissa · 2^exponent` (plus something less than one unit of the mantissa where `sticky`) in a format.
pub(crate) fn pack(
    negative: bool,
    mantissa: u128,
    exponent: i32,
    sticky: bool,
    format: Format,
    round: Round,
) -> u64 {
    let sign = (negative as u64) << (format.exponent + format.fraction);
    if mantissa == 0 && !sticky {
        return sign;
    }
    // A spare low bit pair makes room for the sticky bit.
    let (m, e) = (mantissa << 2 | sticky as u128, exponent - 2);
    let top = 127 - m.leading_zeros() as i32 + e;
    let least = 2 - (1 << (format.exponent - 1)) - format.fraction as i32;
    let quantum = (top - format.fraction as i32).max(least);
    let shift = quantum - e;
    let kept = if shift <= 0 {
        m << -shift
    } else {
        let shift = shift.min(126);
        let kept = m >> shift;
        let (rest, half) = (m & ((1 << shift) - 1), 1u128 << (shift - 1));
        let up = match round {
            Round::Near => rest > half || (rest == half && kept & 1 == 1),
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => negative && rest != 0,
            Round::Up => !negative && rest != 0,
        };
        kept + up as u128
    };
    let bits = (((quantum - least) as u64) << format.fraction) + kept as u64;
    let infinity = ((1u64 << format.exponent) - 1) << format.fraction;
    if bits < infinity {
        return sign | bits;
    }
    let to_infinity = match round {
        Round::Near | Round::Away => true,
        Round::Zero => false,
        Round::Down => negative,
        Round::Up => !negative,
    };
    sign | if to_infinity { infinity } else { infinity - 1 }
}

/// Rounds a double to a format. A NaN becomes the format's canonical one.
pub(crate) fn round_to(v: f64, format: Format, round: Round) -> u64 {
    if v.is_nan() {
        return format.nan;
    }
    let negative = v.is_sign_negative();
    if v.is_infinite() {
        let infinity = ((1u64 << format.exponent) - 1) << format.fraction;
        return (negative as u64) << (format.exponent + format.fraction) | infinity;
    }
    let (mantissa, exponent) = split(v);
    pack(negative, mantissa as u128, exponent, false, format, round)
}

/// A finite double as integer mantissa and exponent.
pub(crate) fn split(v: f64) -> (u64, i32) {
    let bits = v.to_bits();
    let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) }
}

/// Makes a result with a known error (exact value − result) odd.
fn to_odd(result: f64, error: f64) -> f64 {
    if error == 0.0 || error.is_nan() || !result.is_finite() || result.to_bits() & 1 == 1 {
        return result;
    }
    // The neighbour on the side of the exact value is odd, as the result is even.
    let away = (error > 0.0) == (result > 0.0) || result == 0.0;
    if result == 0.0 {
        return f64::from_bits(1).copysign(error);
    }
    f64::from_bits(if away { result.to_bits() + 1 } else { result.to_bits() - 1 })
}

/// a + b in double, rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let bb = s - a;
    to_odd(s, (a - (s - bb)) + (b - bb))
}

/// a · b + c for factors whose product is exact in double (24 bits each), rounded to odd.
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// a / b in double, rounded to odd.
pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if q == 0.0 || !q.is_finite() || b.is_infinite() {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b > 0.0 { rest } else { -rest })
}

/// √a in double, rounded to odd.
pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let s = a.sqrt();
    if s == 0.0 || !s.is_finite() {
        return s;
    }
    to_odd(s, (-s).mul_add(s, a))
}

/// A zero sum's sign under a directed rounding: exact cancellation is −0 toward minus infinity.
pub(crate) fn zero_sum(sum: f64, a: f64, b: f64, round: Round) -> f64 {
    if sum == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    sum
}

/// Canonical NaN of a single.
pub(crate) const NAN32: u32 = 0x7fff_ffff;

/// Replaces a NaN by the canonical one.
#[inline(always)]
pub(crate) fn canon(v: f32) -> f32 {
    if v.is_nan() { f32::from_bits(NAN32) } else { v }
}

/// Flushes a subnormal to a zero of its sign.
#[inline(always)]
pub(crate) fn flush(v: f32) -> f32 {
    let bits = v.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// `.sat`: clamps to [0, 1], a NaN to +0.
#[inline(always)]
pub(crate) fn saturate(v: f32) -> f32 {
    if v > 0.0 { if v < 1.0 { v } else { 1.0 } } else { 0.0 }
}

/// Half to single, exactly.
#[inline(always)]
pub(crate) fn from_f16(h: u16) -> f32 {
    let (sign, rest) = ((h as u32 & 0x8000) << 16, h as u32 & 0x7fff);
    if rest >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (rest & 0x3ff) << 13);
    }
    // Shifted into place the exponent is off by 112; the product mends normals and subnormals alike.
    let v = f32::from_bits(rest << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(sign | v.to_bits())
}

/// Single to half, to nearest even.
#[inline(always)]
pub(crate) fn to_f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let (sign, a) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    if a > 0x7f80_0000 {
        return 0x7fff;
    }
    if a >= 0x4780_0000 {
        return sign | 0x7c00;
    }
    if a < 0x3880_0000 {
        // Subnormal: adding 0.5 leaves the rounded value in the low bits, in units of 2^-24.
        let r = f32::from_bits(a) + 0.5;
        return sign | (r.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let rounded = a - 0x3800_0000 + 0xfff + (a >> 13 & 1);
    sign | (rounded >> 13) as u16
}

/// Brain float to single, exactly.
#[inline(always)]
pub(crate) fn from_bf16(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

/// Single to brain float, to nearest even.
#[inline(always)]
pub(crate) fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// How a minimum or maximum treats its operands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MinMax {
    /// Maximum rather than minimum.
    pub max: bool,
    /// A NaN operand makes the result NaN.
    pub nan: bool,
    /// The result is taken of absolute values and gets the xor of the signs.
    pub xorsign: bool,
}

/// `min` and `max` of doubles, into which every narrower format fits; `None` stands for the canonical NaN.
#[inline(always)]
pub(crate) fn min_max(a: f64, b: f64, how: MinMax) -> Option<f64> {
    let sign = a.is_sign_negative() != b.is_sign_negative();
    let (x, y) = if how.xorsign { (a.abs(), b.abs()) } else { (a, b) };
    let r = match (x.is_nan(), y.is_nan()) {
        (true, true) => return None,
        (true, false) | (false, true) if how.nan => return None,
        (true, false) => y,
        (false, true) => x,
        // −0 is less than +0.
        _ if x == y => {
            if x.is_sign_negative() != how.max {
                x
            } else {
                y
            }
        }
        _ if (x < y) != how.max => x,
        _ => y,
    };
    Some(if how.xorsign { r.abs() * if sign { -1.0 } else { 1.0 } } else { r })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_round_trips_and_agrees_with_the_general_route() {
        for h in 0..=0xffffu16 {
            let v = from_f16(h);
            if v.is_nan() {
                assert!(h & 0x7fff > 0x7c00);
                assert_eq!(to_f16(v), 0x7fff);
                continue;
            }
            assert_eq!(to_f16(v), h);
            assert_eq!(round_to(v as f64, F16, Round::Near), h as u64);
            let b = from_bf16(h);
            if !b.is_nan() {
                assert_eq!(to_bf16(b), h);
                assert_eq!(round_to(b as f64, BF16, Round::Zero), h as u64);
            }
        }
        let mut bits = 12345u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let v = f32::from_bits(bits ^ bits >> 15);
            assert_eq!(to_f16(v) as u64, round_to(v as f64, F16, Round::Near), "{v:e}");
            assert_eq!(to_bf16(v) as u64, round_to(v as f64, BF16, Round::Near), "{v:e}");
            if !v.is_nan() {
                assert_eq!(round_to(v as f64, F32, Round::Up), v.to_bits() as u64);
                assert_eq!(round_to(v as f64, F64, Round::Up), (v as f64).to_bits());
            }
        }
    }

    #[test]
    fn directed_roundings_bracket_the_value() {
        let third = div_odd(1.0, 3.0);
        let down = round_to(third, F32, Round::Down) as u32;
        let up = round_to(third, F32, Round::Up) as u32;
        assert_eq!(up, down + 1);
        assert_eq!(round_to(-third, F32, Round::Zero) as u32, down | 1 << 31);
        assert_eq!(round_to(-third, F32, Round::Up) as u32, down | 1 << 31);
        // 1 + 2^-80: invisible in double, but not to a directed rounding.
        let sum = add_odd(1.0, 2f64.powi(-80));
        assert_eq!(round_to(sum, F32, Round::Up) as u32, 0x3f80_0001);
        assert_eq!(round_to(sum, F32, Round::Near) as u32, 0x3f80_0000);
        assert_eq!(round_to(1e300, F32, Round::Zero) as u32, 0x7f7f_ffff);
        assert_eq!(round_to(1e300, F32, Round::Near) as u32, 0x7f80_0000);
        assert_eq!(round_to(1e-300, F32, Round::Up) as u32, 1);
        assert_eq!(
            pack(false, u64::MAX as u128, 0, false, F64, Round::Zero),
            18_446_744_073_709_549_568f64.to_bits()
        );
        assert_eq!(
            pack(true, u64::MAX as u128, 0, false, F64, Round::Near),
            (-18_446_744_073_709_551_616f64).to_bits()
        );
    }

    #[test]
    fn fused_products_of_bf16_do_not_round_twice() {
        // The product lies on a tie of bf16 and a far smaller addend decides.
        let (a, b) = (from_bf16(0x3f81) as f64, from_bf16(0x3fc0) as f64);
        let up = round_to(fma_odd(a, b, 1e-30), BF16, Round::Near);
        let down = round_to(fma_odd(a, b, -1e-30), BF16, Round::Near);
        assert_eq!(up, down + 1);
    }

    #[test]
    fn minima_order_zeros_and_skip_nans() {
        let min = MinMax::default();
        let max = MinMax { max: true, ..min };
        assert!(min_max(0.0, -0.0, min).unwrap().is_sign_negative());
        assert!(min_max(-0.0, 0.0, max).unwrap().is_sign_positive());
        assert_eq!(min_max(f64::NAN, 1.0, min), Some(1.0));
        assert_eq!(min_max(f64::NAN, 1.0, MinMax { nan: true, ..min }), None);
        assert_eq!(min_max(-3.0, 2.0, MinMax { xorsign: true, ..max }), Some(-3.0));
    }
}
