//! Exact arithmetic on binary floating-point numbers of any format, with one explicit rounding at the end: the
//! reference that the instruction tests compare with. Nothing here uses the emulator or the host's floating point.

use std::cmp::Ordering;

/// A natural number of any size, little-endian, without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Big(Vec<u32>);

impl Big {
    pub fn new(value: u128) -> Big {
        Big((0..4).map(|i| (value >> (32 * i)) as u32).collect()).trim()
    }

    fn trim(mut self) -> Big {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of bits up to the highest one set.
    pub fn bits(&self) -> i32 {
        self.0.last().map_or(0, |top| 32 * self.0.len() as i32 - top.leading_zeros() as i32)
    }

    fn bit(&self, index: i32) -> bool {
        index >= 0
            && self.0.get(index as usize / 32).is_some_and(|word| word >> (index % 32) & 1 == 1)
    }

    /// Whether any bit below `index` is set.
    fn any_below(&self, index: i32) -> bool {
        (0..index.min(self.bits())).any(|i| self.bit(i))
    }

    fn shl(&self, by: i32) -> Big {
        let mut words = vec![0u32; by as usize / 32];
        let small = by % 32;
        let mut carry = 0u64;
        for &word in &self.0 {
            let wide = (u64::from(word) << small) | carry;
            words.push(wide as u32);
            carry = wide >> 32;
        }
        words.push(carry as u32);
        Big(words).trim()
    }

    /// Drops the lowest `by` bits; what remains must fit 128 bits.
    fn shr(&self, by: i32) -> u128 {
        (0..128).filter(|&i| self.bit(i + by)).fold(0, |sum, i| sum | 1 << i)
    }

    fn add(&self, other: &Big) -> Big {
        let mut words = Vec::new();
        let mut carry = 0u64;
        for i in 0..=self.0.len().max(other.0.len()) {
            let sum = u64::from(*self.0.get(i).unwrap_or(&0))
                + u64::from(*other.0.get(i).unwrap_or(&0))
                + carry;
            words.push(sum as u32);
            carry = sum >> 32;
        }
        Big(words).trim()
    }

    /// `self − other`, which must not be negative.
    fn sub(&self, other: &Big) -> Big {
        let mut words = Vec::new();
        let mut borrow = 0i64;
        for i in 0..self.0.len() {
            let diff = i64::from(self.0[i]) - i64::from(*other.0.get(i).unwrap_or(&0)) - borrow;
            words.push(diff as u32);
            borrow = i64::from(diff < 0);
        }
        assert_eq!(borrow, 0);
        Big(words).trim()
    }

    fn mul(&self, other: &Big) -> Big {
        let mut words = vec![0u32; self.0.len() + other.0.len() + 1];
        for (i, &x) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, &y) in other.0.iter().enumerate() {
                let sum = u64::from(x) * u64::from(y) + u64::from(words[i + j]) + carry;
                words[i + j] = sum as u32;
                carry = sum >> 32;
            }
            words[i + other.0.len()] = carry as u32;
        }
        Big(words).trim()
    }

    fn compare(&self, other: &Big) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

/// A binary floating-point format: bits of its exponent and of its stored significand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub exponent: u32,
    pub mantissa: u32,
}

pub const F16: Format = Format { exponent: 5, mantissa: 10 };
pub const BF16: Format = Format { exponent: 8, mantissa: 7 };
pub const TF32: Format = Format { exponent: 8, mantissa: 10 };
pub const F32: Format = Format { exponent: 8, mantissa: 23 };
pub const F64: Format = Format { exponent: 11, mantissa: 52 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To nearest, ties to even (`.rn`, `.rni`).
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    Away,
    /// Towards zero (`.rz`, `.rzi`).
    Zero,
    /// Towards minus infinity (`.rm`, `.rmi`).
    Down,
    /// Towards plus infinity (`.rp`, `.rpi`).
    Up,
}

pub const MODES: [(&str, Mode); 4] =
    [("rn", Mode::Nearest), ("rz", Mode::Zero), ("rm", Mode::Down), ("rp", Mode::Up)];

/// An exact value: ± magnitude · 2^scale, an infinity, or not a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nan,
    Infinite { negative: bool },
    Finite { negative: bool, magnitude: Big, scale: i32 },
}

use Value::{Finite, Infinite, Nan};

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    pub fn largest(self) -> u64 {
        self.infinity() - 1
    }

    pub fn sign(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }

    pub fn nan(self) -> u64 {
        self.infinity() | 1 << (self.mantissa - 1)
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign() - 1) > self.infinity()
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign() - 1);
        magnitude != 0 && magnitude < 1 << self.mantissa
    }

    /// A subnormal becomes the zero of its sign.
    pub fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) { bits & self.sign() } else { bits }
    }

    /// The number clamped to [0, 1]; not-a-number becomes +0.
    pub fn saturate(self, bits: u64) -> u64 {
        let one = (self.bias() as u64) << self.mantissa;
        if self.is_nan(bits) || bits & self.sign() != 0 { 0 } else { bits.min(one) }
    }

    pub fn decode(self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let biased = (bits >> self.mantissa & ((1 << self.exponent) - 1)) as i32;
        let fraction = bits & ((1 << self.mantissa) - 1);
        if biased == (1 << self.exponent) - 1 {
            return if fraction == 0 { Infinite { negative } } else { Nan };
        }
        let hidden = if biased == 0 { 0 } else { 1 << self.mantissa };
        let scale = biased.max(1) - self.bias() - self.mantissa as i32;
        Finite { negative, magnitude: Big::new(u128::from(fraction | hidden)), scale }
    }

    pub fn encode(self, value: &Value, mode: Mode) -> u64 {
        let (negative, magnitude, scale) = match value {
            Nan => return self.nan(),
            Infinite { negative } => {
                return self.infinity() | if *negative { self.sign() } else { 0 };
            }
            Finite { negative, magnitude, scale } => (*negative, magnitude, *scale),
        };
        let sign = if negative { self.sign() } else { 0 };
        if magnitude.is_zero() {
            return sign;
        }
        let smallest = 1 - self.bias();
        let top = (scale + magnitude.bits() - 1).max(smallest);
        let unit = top - self.mantissa as i32;
        let (kept, half, below) = if unit <= scale {
            (magnitude.shl(scale - unit).shr(0), false, false)
        } else {
            let cut = unit - scale;
            (magnitude.shr(cut), magnitude.bit(cut - 1), magnitude.any_below(cut - 1))
        };
        let up = match mode {
            Mode::Nearest => half && (below || kept & 1 == 1),
            Mode::Away => half,
            Mode::Zero => false,
            Mode::Down => negative && (half || below),
            Mode::Up => !negative && (half || below),
        };
        // A subnormal's exponent field is 0, and its significand has no hidden bit; a carry does the rest.
        let field = (top - smallest) as u128;
        let code = (field << self.mantissa) + kept + u128::from(up);
        if code >= u128::from(self.infinity()) {
            let stays = match mode {
                Mode::Nearest | Mode::Away => false,
                Mode::Zero => true,
                Mode::Down => !negative,
                Mode::Up => negative,
            };
            return sign | if stays { self.largest() } else { self.infinity() };
        }
        sign | code as u64
    }
}

pub fn integer(value: i128) -> Value {
    Finite { negative: value < 0, magnitude: Big::new(value.unsigned_abs()), scale: 0 }
}

pub fn negate(value: &Value) -> Value {
    match value.clone() {
        Nan => Nan,
        Infinite { negative } => Infinite { negative: !negative },
        Finite { negative, magnitude, scale } => Finite { negative: !negative, magnitude, scale },
    }
}

/// The sum; a zero that results from cancelling is negative in mode `Down` alone.
pub fn add(a: &Value, b: &Value, mode: Mode) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite { negative: x }, Infinite { negative: y }) if x != y => Nan,
        (Infinite { .. }, _) => a.clone(),
        (_, Infinite { .. }) => b.clone(),
        (
            Finite { negative: sa, magnitude: ma, scale: ea },
            Finite { negative: sb, magnitude: mb, scale: eb },
        ) => {
            let scale = (*ea).min(*eb);
            let (ma, mb) = (ma.shl(ea - scale), mb.shl(eb - scale));
            if sa == sb {
                return Finite { negative: *sa, magnitude: ma.add(&mb), scale };
            }
            match ma.compare(&mb) {
                Ordering::Equal => {
                    Finite { negative: mode == Mode::Down, magnitude: Big::new(0), scale }
                }
                Ordering::Greater => Finite { negative: *sa, magnitude: ma.sub(&mb), scale },
                Ordering::Less => Finite { negative: *sb, magnitude: mb.sub(&ma), scale },
            }
        }
    }
}

pub fn multiply(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite { negative: x }, Infinite { negative: y }) => Infinite { negative: x != y },
        (Infinite { negative: x }, Finite { negative: y, magnitude, .. })
        | (Finite { negative: x, magnitude, .. }, Infinite { negative: y }) => {
            if magnitude.is_zero() { Nan } else { Infinite { negative: x != y } }
        }
        (
            Finite { negative: sa, magnitude: ma, scale: ea },
            Finite { negative: sb, magnitude: mb, scale: eb },
        ) => Finite { negative: sa != sb, magnitude: ma.mul(mb), scale: ea + eb },
    }
}

fn small(magnitude: &Big) -> u128 {
    assert!(magnitude.bits() <= 56);
    magnitude.shr(0)
}

/// A value whose bits below the last one kept are summed up in that last bit: it rounds as the exact one does to any
/// format of at most 60 bits.
fn sticky(negative: bool, kept: u128, inexact: bool, scale: i32) -> Value {
    Finite { negative, magnitude: Big::new(kept << 1 | u128::from(inexact)), scale: scale - 1 }
}

pub fn divide(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
        (Infinite { negative: x }, Finite { negative: y, .. }) => Infinite { negative: x != y },
        (Finite { negative: x, .. }, Infinite { negative: y }) => {
            Finite { negative: x != y, magnitude: Big::new(0), scale: 0 }
        }
        (
            Finite { negative: sa, magnitude: ma, scale: ea },
            Finite { negative: sb, magnitude: mb, scale: eb },
        ) => {
            let negative = sa != sb;
            match (ma.is_zero(), mb.is_zero()) {
                (true, true) => Nan,
                (false, true) => Infinite { negative },
                _ => {
                    // Both significands are first brought to 56 bits, so that the quotient has 70 or 71.
                    let (la, lb) = (56 - ma.bits(), 56 - mb.bits());
                    let (x, y) = (small(ma) << la << 70, small(mb) << lb);
                    sticky(negative, x / y, x % y != 0, ea - la - eb + lb - 70)
                }
            }
        }
    }
}

pub fn square_root(a: &Value) -> Value {
    match a {
        Infinite { negative: false } => a.clone(),
        Finite { magnitude, .. } if magnitude.is_zero() => a.clone(),
        Finite { negative: false, magnitude, scale } => {
            let mut shift = 124 - magnitude.bits();
            if (scale - shift) % 2 != 0 {
                shift += 1;
            }
            let x = small(magnitude) << shift;
            let root = x.isqrt();
            sticky(false, root, root * root != x, (scale - shift) / 2)
        }
        _ => Nan,
    }
}

/// The integer a finite value rounds to; `None` for the others. Values beyond ±2¹²⁰ are clamped there.
pub fn to_integer(a: &Value, mode: Mode) -> Option<i128> {
    let Finite { negative, magnitude, scale } = a else { return None };
    if magnitude.bits() + scale > 120 {
        return Some(if *negative { -(1 << 120) } else { 1 << 120 });
    }
    let (kept, half, below) = if *scale >= 0 {
        (magnitude.shl(*scale).shr(0), false, false)
    } else {
        (magnitude.shr(-scale), magnitude.bit(-scale - 1), magnitude.any_below(-scale - 1))
    };
    let up = match mode {
        Mode::Nearest => half && (below || kept & 1 == 1),
        Mode::Away => half,
        Mode::Zero => false,
        Mode::Down => *negative && (half || below),
        Mode::Up => !*negative && (half || below),
    };
    let kept = (kept + u128::from(up)) as i128;
    Some(if *negative { -kept } else { kept })
}

/// The nearest `f64`, for comparisons with a tolerance.
pub fn float(format: Format, bits: u64) -> f64 {
    f64::from_bits(F64.encode(&format.decode(bits), Mode::Nearest))
}

/// `value` rounded to nearest in `format`.
pub fn bits(format: Format, value: f64) -> u64 {
    format.encode(&F64.decode(value.to_bits()), Mode::Nearest)
}
