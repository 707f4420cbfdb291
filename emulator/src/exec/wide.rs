//! Double precision in the directed roundings, by exact integer arithmetic.

use super::float::{F64, Round, pack, split, zero_sum};

/// A number of 256 bits: upper and lower half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wide(u128, u128);

impl Wide {
    fn shifted(v: u128, by: u32) -> Wide {
        match by {
            0 => Wide(0, v),
            1..128 => Wide(v >> (128 - by), v << by),
            _ => Wide(v << (by - 128), 0),
        }
    }

    fn add(self, other: Wide) -> Wide {
        let (low, carry) = self.1.overflowing_add(other.1);
        Wide(self.0 + other.0 + carry as u128, low)
    }

    fn sub(self, other: Wide) -> Wide {
        let (low, borrow) = self.1.overflowing_sub(other.1);
        Wide(self.0 - other.0 - borrow as u128, low)
    }

    /// The upper bits as a mantissa of at most 120 bits, the exponent they add, and whether bits were lost.
    fn cut(self) -> (u128, i32, bool) {
        let top =
            if self.0 != 0 { 256 - self.0.leading_zeros() } else { 128 - self.1.leading_zeros() };
        match top.saturating_sub(120) {
            0 => (self.1, 0, false),
            by @ 1..128 => {
                (self.0 << (128 - by) | self.1 >> by, by as i32, self.1 << (128 - by) != 0)
            }
            by => {
                let lost = self.1 != 0 || by > 128 && self.0 << (256 - by) != 0;
                (self.0 >> (by - 128), by as i32, lost)
            }
        }
    }
}

/// x·2^ex + y·2^ey with the signs given, in a rounding. Neither is zero.
fn sum(x: (bool, u128, i32), y: (bool, u128, i32), round: Round) -> f64 {
    let top = |v: (bool, u128, i32)| 128 - v.1.leading_zeros() as i32 + v.2;
    let (big, small) = if top(x) >= top(y) { (x, y) } else { (y, x) };
    let same = big.0 == small.0;
    // Far below the larger one, the smaller only tells that there is something.
    if top(big) - top(small) > 120 {
        let room = big.1.leading_zeros().saturating_sub(4);
        let m = big.1 << room;
        let m = if same { m } else { m - 1 };
        return f64::from_bits(pack(big.0, m, big.2 - room as i32, true, F64, round));
    }
    let least = big.2.min(small.2);
    let place = |v: (bool, u128, i32)| Wide::shifted(v.1, (v.2 - least) as u32);
    let (a, b) = (place(big), place(small));
    let (negative, total) = if same {
        (big.0, a.add(b))
    } else if a >= b {
        (big.0, a.sub(b))
    } else {
        (small.0, b.sub(a))
    };
    if total == Wide(0, 0) {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    let (m, e, sticky) = total.cut();
    f64::from_bits(pack(negative, m, least + e, sticky, F64, round))
}

/// a · b (+ c) in a rounding.
pub(crate) fn fma64(a: f64, b: f64, c: Option<f64>, round: Round) -> f64 {
    let product = a * b;
    let Some(c) = c else {
        if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
            return product;
        }
        let ((x, ex), (y, ey)) = (split(a), split(b));
        return f64::from_bits(pack(
            (a < 0.0) != (b < 0.0),
            x as u128 * y as u128,
            ex + ey,
            false,
            F64,
            round,
        ));
    };
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    if a == 0.0 || b == 0.0 {
        return if c == 0.0 { zero_sum(product + c, product, c, round) } else { c };
    }
    if c == 0.0 {
        return fma64(a, b, None, round);
    }
    let ((x, ex), (y, ey), (z, ez)) = (split(a), split(b), split(c));
    sum(((a < 0.0) != (b < 0.0), x as u128 * y as u128, ex + ey), (c < 0.0, z as u128, ez), round)
}

/// a + b in a rounding.
pub(crate) fn add64(a: f64, b: f64, round: Round) -> f64 {
    if !a.is_finite() || !b.is_finite() {
        return a + b;
    }
    if a == 0.0 && b == 0.0 {
        return zero_sum(a + b, a, b, round);
    }
    if a == 0.0 || b == 0.0 {
        return a + b;
    }
    let ((x, ex), (y, ey)) = (split(a), split(b));
    sum((a < 0.0, x as u128, ex), (b < 0.0, y as u128, ey), round)
}

/// a / b in a rounding.
pub(crate) fn div64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Near || !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let ((x, ex), (y, ey)) = (split(a), split(b));
    // The numerator gets its top bit at 120, so that the quotient has at least 66 bits.
    let room = 67 + (x.leading_zeros() as i32 - 11);
    let n = (x as u128) << room;
    let (q, rest) = (n / y as u128, n % y as u128);
    f64::from_bits(pack((a < 0.0) != (b < 0.0), q, ex - ey - room, rest != 0, F64, round))
}

/// √a in a rounding.
pub(crate) fn sqrt64(a: f64, round: Round) -> f64 {
    if round == Round::Near || !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let (x, ex) = split(a);
    let mut room = 67 + (x.leading_zeros() as i32 - 11);
    // The exponent must be even.
    room -= (ex - room) & 1;
    let n = (x as u128) << room;
    let root = n.isqrt();
    f64::from_bits(pack(false, root, (ex - room) / 2, root * root != n, F64, round))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_bracket_the_exact_value() {
        let (down, up) = (div64(1.0, 3.0, Round::Down), div64(1.0, 3.0, Round::Up));
        assert_eq!(down.next_up(), up);
        assert_eq!(div64(-1.0, 3.0, Round::Zero), -down);
        assert_eq!(sqrt64(2.0, Round::Down).next_up(), sqrt64(2.0, Round::Up));
        assert_eq!(sqrt64(4.0, Round::Up), 2.0);
        let tiny = f64::MIN_POSITIVE;
        assert_eq!(fma64(1.0, 1.0, Some(tiny), Round::Up), 1.0f64.next_up());
        assert_eq!(fma64(1.0, 1.0, Some(-tiny), Round::Zero), 1.0f64.next_down());
        assert_eq!(fma64(0.1, 0.1, None, Round::Down).next_up(), fma64(0.1, 0.1, None, Round::Up));
        assert!(fma64(1.0, 1.0, Some(-1.0), Round::Down).is_sign_negative());
        assert_eq!(add64(f64::MAX, f64::MAX, Round::Zero), f64::MAX);
        assert_eq!(fma64(f64::from_bits(1), 0.999, None, Round::Zero), 0.0);
    }

    #[test]
    fn nearest_agrees_with_the_host() {
        let mut r = super::super::block::Random(5);
        for _ in 0..20_000 {
            // Exponents near each other, so that additions overlap.
            let mut v =
                || f64::from_bits(r.next() & 0x800f_ffff_ffff_ffff | (0x3f0 + r.next() % 60) << 52);
            let (a, b, c) = (v(), v(), v());
            assert_eq!(
                fma64(a, b, Some(c), Round::Near).to_bits(),
                a.mul_add(b, c).to_bits(),
                "{a:e} {b:e} {c:e}"
            );
            assert_eq!(add64(a, b, Round::Near), a + b);
            assert_eq!(fma64(a, b, None, Round::Near), a * b);
        }
    }
}
