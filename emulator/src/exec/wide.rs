//! Double precision in the directed roundings: the nearest result, corrected by the sign of its exact error.

use super::float::{Round, direct};

/// a · b (+ c) in a rounding.
pub(crate) fn fma64(a: f64, b: f64, c: Option<f64>, round: Round) -> f64 {
    let product = a * b;
    let low = a.mul_add(b, -product);
    match c {
        None => direct(product, low, round),
        Some(c) => {
            let r = a.mul_add(b, c);
            let s = product + c;
            let bb = s - product;
            let error = ((s - r) + ((product - (s - bb)) + (c - bb))) + low;
            super::float::zero_sum(direct(r, error, round), product, c, round)
        }
    }
}

/// a / b in a rounding.
pub(crate) fn div64(a: f64, b: f64, round: Round) -> f64 {
    let q = a / b;
    if round == Round::Near || !q.is_finite() || q == 0.0 && a == 0.0 || b.is_infinite() {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    direct(q, if b > 0.0 { rest } else { -rest }, round)
}

/// √a in a rounding.
pub(crate) fn sqrt64(a: f64, round: Round) -> f64 {
    let s = a.sqrt();
    if round == Round::Near || !s.is_finite() {
        return s;
    }
    direct(s, (-s).mul_add(s, a), round)
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
    }
}
