//! The tests' own reference arithmetic is itself checked against the host, which rounds to nearest.

mod common;

use common::exact::*;

#[test]
fn agrees_with_the_host_where_the_host_rounds_to_nearest() {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state ^ state >> 29
    };
    let edges: [u32; 9] = [
        0,
        1,
        0x8000_0000,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
        0x3f80_0000,
    ];
    for round in 0..6_000 {
        let pick = |word: u64| {
            if word & 7 == 0 { edges[(word >> 8) as usize % 9] } else { (word >> 32) as u32 }
        };
        let (a, b, c) = (pick(next()), pick(next()), pick(next()));
        // Near exponents make the sums interesting.
        let c = if round % 2 == 0 { c } else { (c & 0x807f_ffff) | (a & 0x7f80_0000) };
        let (x, y, z) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        let [da, db, dc] = [a, b, c].map(|v| F32.decode(u64::from(v)));
        let near = Mode::Nearest;
        let same = |want: f32, got: Value, name: &str| {
            let got = f32::from_bits(F32.encode(&got, near) as u32);
            assert!(
                want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(),
                "{name} {a:x} {b:x} {c:x}"
            );
        };
        same(x + z, add(&da, &dc, near), "add");
        same(x * y, multiply(&da, &db), "mul");
        same(x / y, divide(&da, &db), "div");
        same(x.sqrt(), square_root(&da), "sqrt");
        same(x.mul_add(y, z), add(&multiply(&da, &db), &dc, near), "fma");
        same(f64::from(x) as f32, da.clone(), "cvt");
        let (p, q) = (f64::from_bits(next()), f64::from_bits(next()));
        let (dp, dq) = (F64.decode(p.to_bits()), F64.decode(q.to_bits()));
        let same = |want: f64, got: Value, name: &str| {
            let got = f64::from_bits(F64.encode(&got, near));
            assert!(
                want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(),
                "{name} {p:e} {q:e}"
            );
        };
        same(p + q, add(&dp, &dq, near), "add");
        same(p * q, multiply(&dp, &dq), "mul");
        same(p / q, divide(&dp, &dq), "div");
        same(p.sqrt(), square_root(&dp), "sqrt");
        same(p.mul_add(q, p), add(&multiply(&dp, &dq), &dp, near), "fma");
        assert_eq!(
            f64::from_bits(u64::from(a)) as f32,
            f32::from_bits(F32.encode(&F64.decode(u64::from(a)), near) as u32)
        );
    }
    let max = F32.largest();
    assert_eq!(F32.encode(&add(&F32.decode(max), &F32.decode(max), Mode::Down), Mode::Down), max);
    assert_eq!(
        F32.encode(&add(&F32.decode(max), &F32.decode(max), Mode::Up), Mode::Up),
        F32.infinity()
    );
    assert_eq!(F16.encode(&integer(65_519), Mode::Nearest), 0x7bff);
    assert_eq!(F16.encode(&integer(65_520), Mode::Nearest), 0x7c00);
    assert_eq!(to_integer(&F32.decode(0xc020_0000), Mode::Nearest), Some(-2));
    assert_eq!(to_integer(&F32.decode(0xc020_0000), Mode::Down), Some(-3));
}
