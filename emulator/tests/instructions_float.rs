//! Floating-point arithmetic and comparisons of f32, f64, f16 and bf16, plain and packed, in every rounding mode,
//! against exact arithmetic; and the approximations against the bounds that the PTX ISA states.

mod common;

use common::exact::{
    BF16, F16, F32, F64, Format, MODES, Mode, Value, add, bits, divide, float, multiply, negate,
    square_root,
};
use common::*;

/// Values whose sums and products need rounding: random significands, exponents around 1.
fn near_one(format: Format, count: usize, seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let bias = (1u64 << (format.exponent - 1)) - 1;
    let value = |word: u64| {
        let exponent = bias - 4 + (word >> 60) % 9;
        let fraction = (word >> 4) & ((1 << format.mantissa) - 1);
        ((word & 1) * format.sign()) | (exponent << format.mantissa) | fraction
    };
    (0..count).map(|_| value(random.next())).collect()
}

fn some(values: &[u64], step: usize) -> Vec<u64> {
    values.iter().copied().step_by(step).collect()
}

fn operation(name: &str, v: &[Value], mode: Mode) -> Value {
    match name {
        "add" => add(&v[0], &v[1], mode),
        "sub" => add(&v[0], &negate(&v[1]), mode),
        "mul" => multiply(&v[0], &v[1]),
        "fma" | "mad" => add(&multiply(&v[0], &v[1]), &v[2], mode),
        "div" => divide(&v[0], &v[1]),
        "rcp" => divide(&exact::integer(1), &v[0]),
        "sqrt" => square_root(&v[0]),
        _ => panic!("{name}"),
    }
}

/// The result in every detail; `None` where the ISA leaves a detail open: whether a result just below the least
/// normal number is flushed before or after rounding.
fn result(format: Format, name: &str, inputs: &[u64], mode: Mode, flush: bool) -> Option<u64> {
    let values: Vec<Value> =
        inputs.iter().map(|&b| format.decode(if flush { format.flush(b) } else { b })).collect();
    let exact = operation(name, &values, mode);
    let rounded = format.encode(&exact, mode);
    if !flush {
        return Some(rounded);
    }
    let cut = format.encode(&exact, Mode::Zero);
    let least = 1 << format.mantissa;
    if cut & !format.sign() < least && rounded & !format.sign() == least {
        return None;
    }
    Some(format.flush(rounded))
}

fn rows(format: Format, inputs: usize) -> Vec<Vec<u64>> {
    let edges = floats(format);
    let random = near_one(format, 192, 1);
    match inputs {
        1 => each(&edges).into_iter().chain(each(&random)).collect(),
        2 => {
            pairs(&edges, &edges).into_iter().chain(random.chunks(2).map(<[u64]>::to_vec)).collect()
        }
        _ => {
            let few = some(&edges, 3);
            let tight = random.chunks(2).map(|p| {
                // The product of two nearly cancelled: what is left is what one rounding more would lose.
                let product = format
                    .encode(&multiply(&format.decode(p[0]), &format.decode(p[1])), Mode::Nearest);
                vec![p[0], p[1], product ^ format.sign()]
            });
            triples(&few, &few, &few)
                .into_iter()
                .chain(tight)
                .chain(random.chunks(3).map(<[u64]>::to_vec))
                .collect()
        }
    }
}

/// One operation in one rounding mode, with and without `.ftz` and `.sat` as far as the type has them.
fn arithmetic(
    t: &Table,
    (kind, format): (&str, Format),
    name: &str,
    inputs: usize,
    mode: (&str, Mode),
    ftz: bool,
    sat: bool,
) {
    let operands = ["a", "a, b", "a, b, c"][inputs - 1];
    let signature = format!("{}-> {kind}", format!("{kind} ").repeat(inputs));
    let dot = |word: &str| if word.is_empty() { String::new() } else { format!(".{word}") };
    for flush in [false, true] {
        for saturate in [false, true] {
            if flush && !ftz || saturate && !sat {
                continue;
            }
            let op = format!(
                "{name}{}{}{}.{kind} d, {operands};",
                dot(mode.0),
                if flush { ".ftz" } else { "" },
                if saturate { ".sat" } else { "" }
            );
            let (mut cases, mut want) = (Vec::new(), Vec::new());
            for row in rows(format, inputs) {
                let Some(value) = result(format, name, &row, mode.1, flush) else { continue };
                // The sign of a zero that saturation sees is left open.
                if saturate && value == format.sign() {
                    continue;
                }
                want.push(vec![if saturate { format.saturate(value) } else { value }]);
                cases.push(row);
            }
            t.check_all(&op, &signature, &cases, &want);
        }
    }
}

#[test]
fn f32_add_sub_mul_in_every_rounding_mode() {
    let t = table();
    for name in ["add", "sub", "mul"] {
        for mode in MODES.into_iter().chain([("", Mode::Nearest)]) {
            arithmetic(&t, ("f32", F32), name, 2, mode, true, true);
        }
    }
}

#[test]
fn f32_fma_rounds_once_in_every_mode() {
    let t = table();
    for mode in MODES {
        arithmetic(&t, ("f32", F32), "fma", 3, mode, true, true);
    }
    arithmetic(&t, ("f32", F32), "mad", 3, MODES[0], true, true);
    // (1 + 2⁻²³)² − (1 + 2⁻²²) = 2⁻⁴⁶, which a rounded product loses.
    t.literal(
        "fma.rn.f32 d, a, b, c;",
        "f32 f32 f32 -> f32",
        &[(&[0x3f80_0001, 0x3f80_0001, 0xbf80_0002], &[0x2880_0000])],
    );
}

#[test]
fn f32_div_rcp_sqrt_in_every_rounding_mode() {
    let t = table();
    for mode in MODES {
        arithmetic(&t, ("f32", F32), "div", 2, mode, true, false);
        arithmetic(&t, ("f32", F32), "rcp", 1, mode, true, false);
        arithmetic(&t, ("f32", F32), "sqrt", 1, mode, true, false);
    }
}

#[test]
fn f64_in_every_rounding_mode() {
    let t = table();
    for mode in MODES {
        for name in ["add", "sub", "mul", "div"] {
            arithmetic(&t, ("f64", F64), name, 2, mode, false, false);
        }
        arithmetic(&t, ("f64", F64), "fma", 3, mode, false, false);
        arithmetic(&t, ("f64", F64), "rcp", 1, mode, false, false);
        arithmetic(&t, ("f64", F64), "sqrt", 1, mode, false, false);
    }
}

#[test]
fn f16_arithmetic() {
    let t = table();
    for name in ["add", "sub", "mul"] {
        arithmetic(&t, ("f16", F16), name, 2, ("rn", Mode::Nearest), true, true);
        arithmetic(&t, ("f16", F16), name, 2, ("", Mode::Nearest), true, true);
    }
    arithmetic(&t, ("f16", F16), "fma", 3, ("rn", Mode::Nearest), true, true);
}

#[test]
fn bf16_arithmetic() {
    let t = table_90();
    for name in ["add", "sub", "mul"] {
        arithmetic(&t, ("bf16", BF16), name, 2, ("rn", Mode::Nearest), false, false);
    }
    arithmetic(&table(), ("bf16", BF16), "fma", 3, ("rn", Mode::Nearest), false, false);
}

/// Both halves of a packed operation, each with its own values.
fn packed(t: &Table, kind: &str, format: Format, name: &str, inputs: usize) {
    let operands = ["a", "a, b", "a, b, c"][inputs - 1];
    let all = rows(format, inputs);
    let shift = all.len() / 2 + 1;
    let cases: Vec<Vec<u64>> = (0..all.len())
        .map(|i| (0..inputs).map(|k| all[i][k] | all[(i + shift) % all.len()][k] << 16).collect())
        .collect();
    let want: Vec<Vec<u64>> = cases
        .iter()
        .map(|row| {
            let half = |i: u32| {
                let inputs: Vec<u64> = row.iter().map(|v| v >> (16 * i) & 0xffff).collect();
                result(format, name, &inputs, Mode::Nearest, false).unwrap()
            };
            vec![half(0) | half(1) << 16]
        })
        .collect();
    t.check_all(
        &format!("{name}.rn.{kind} d, {operands};"),
        &format!("{}-> {kind}", format!("{kind} ").repeat(inputs)),
        &cases,
        &want,
    );
}

#[test]
fn packed_halves() {
    let t = table();
    for name in ["add", "sub", "mul"] {
        packed(&t, "f16x2", F16, name, 2);
    }
    packed(&t, "f16x2", F16, "fma", 3);
    packed(&t, "bf16x2", BF16, "fma", 3);
    let t = table_90();
    for name in ["add", "sub", "mul"] {
        packed(&t, "bf16x2", BF16, name, 2);
    }
}

#[test]
fn fma_relu_clamps_negatives() {
    let t = table();
    for (kind, format) in [("f16", F16), ("bf16", BF16)] {
        let (mut cases, mut want) = (Vec::new(), Vec::new());
        for row in rows(format, 3) {
            let value = result(format, "fma", &row, Mode::Nearest, false).unwrap();
            if value == format.sign() {
                continue;
            }
            cases.push(row);
            // Not-a-number stays one: the canonical.
            want.push(vec![if format.is_nan(value) {
                0x7fff
            } else if value & format.sign() != 0 {
                0
            } else {
                value
            }]);
        }
        let sig = format!("{kind} {kind} {kind} -> b16");
        t.check_all(&format!("fma.rn.relu.{kind} d, a, b, c;"), &sig, &cases, &want);
    }
}

#[test]
fn abs_and_neg_change_the_sign_alone() {
    let t = table();
    for (kind, format) in [("f32", F32), ("f64", F64), ("f16", F16), ("bf16", BF16)] {
        let cases = each(&floats(format));
        let sig = format!("{kind} -> {kind}");
        t.check(&format!("abs.{kind} d, a;"), &sig, &cases, |r| vec![r[0] & !format.sign()]);
        t.check(&format!("neg.{kind} d, a;"), &sig, &cases, |r| vec![r[0] ^ format.sign()]);
        if kind == "f32" || kind == "f16" {
            t.check(&format!("abs.ftz.{kind} d, a;"), &sig, &cases, |r| {
                vec![format.flush(r[0]) & !format.sign()]
            });
            t.check(&format!("neg.ftz.{kind} d, a;"), &sig, &cases, |r| {
                vec![format.flush(r[0]) ^ format.sign()]
            });
        }
    }
    for kind in ["f16x2", "bf16x2"] {
        let cases = each(&[0x3c00_bc00, 0x8000_0000, 0x0001_8001, 0xff80_7c00]);
        t.check(&format!("abs.{kind} d, a;"), &format!("{kind} -> {kind}"), &cases, |r| {
            vec![r[0] & 0x7fff_7fff]
        });
        t.check(&format!("neg.{kind} d, a;"), &format!("{kind} -> {kind}"), &cases, |r| {
            vec![r[0] ^ 0x8000_8000]
        });
    }
}

/// Minimum or maximum: −0 is below +0; one not-a-number gives the other operand, or with `.NaN` itself; with
/// `.xorsign.abs` of the magnitudes, with the product's sign.
fn extreme(
    format: Format,
    most: bool,
    propagate: bool,
    xorsign: bool,
    flush: bool,
    a: u64,
    b: u64,
) -> u64 {
    let canonical = if format == F64 { format.nan() } else { format.sign() - 1 };
    let (mut a, mut b) = if flush { (format.flush(a), format.flush(b)) } else { (a, b) };
    let sign = (a ^ b) & format.sign();
    if xorsign {
        (a, b) = (a & !format.sign(), b & !format.sign());
    }
    let chosen = match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => return canonical,
        (true, false) | (false, true) if propagate => return canonical,
        (true, false) => b,
        (false, true) => a,
        _ => {
            // Sign and magnitude as one ordered integer, −0 right below +0.
            let key = |v: u64| {
                if v & format.sign() != 0 { -((v & !format.sign()) as i128) - 1 } else { v as i128 }
            };
            if (key(a) < key(b)) != most { a } else { b }
        }
    };
    if xorsign { chosen | sign } else { chosen }
}

#[test]
fn min_and_max_order_zeros_and_skip_not_a_number() {
    let (t, hopper) = (table(), table_90());
    for (kind, format) in [("f32", F32), ("f64", F64), ("f16", F16), ("bf16", BF16)] {
        let cases = pairs(&floats(format), &floats(format));
        let sig = format!(
            "{kind} {kind} -> {}",
            if format == F64 {
                "f64"
            } else if format == F32 {
                "b32"
            } else {
                "b16"
            }
        );
        for (name, most) in [("min", false), ("max", true)] {
            for (modifiers, propagate, xorsign, flush) in [
                ("", false, false, false),
                (".NaN", true, false, false),
                (".xorsign.abs", false, true, false),
                (".NaN.xorsign.abs", true, true, false),
                (".ftz", false, false, true),
                (".ftz.NaN", true, false, true),
            ] {
                if format == F64 && !modifiers.is_empty() || kind == "bf16" && flush {
                    continue;
                }
                let rows: Vec<Vec<u64>> = cases
                    .iter()
                    // Which sign the exchanged sign gives beside a not-a-number is left open.
                    .filter(|r| !xorsign || !format.is_nan(r[0]) && !format.is_nan(r[1]))
                    .cloned()
                    .collect();
                let t = if xorsign { &hopper } else { &t };
                t.check(&format!("{name}{modifiers}.{kind} d, a, b;"), &sig, &rows, |r| {
                    vec![extreme(format, most, propagate, xorsign, flush, r[0], r[1])]
                });
            }
        }
    }
    for (kind, format) in [("f16x2", F16), ("bf16x2", BF16)] {
        let values = floats(format);
        let n = values.len();
        let two = |i: usize| values[i % n] | values[(i * 7 + 3) % n] << 16;
        let rows: Vec<Vec<u64>> = (0..n * n).map(|i| vec![two(i), two(i / n)]).collect();
        for (name, most) in [("min", false), ("max", true)] {
            t.check(&format!("{name}.{kind} d, a, b;"), "b32 b32 -> b32", &rows, |r| {
                let half = |i: u32| {
                    extreme(
                        format,
                        most,
                        false,
                        false,
                        false,
                        r[0] >> (16 * i) & 0xffff,
                        r[1] >> (16 * i) & 0xffff,
                    )
                };
                vec![half(0) | half(1) << 16]
            });
        }
    }
}

/// Order of two numbers; `None` where one is not a number.
fn order(format: Format, a: u64, b: u64) -> Option<std::cmp::Ordering> {
    let key =
        |v: u64| if v & format.sign() != 0 { -((v & !format.sign()) as i128) } else { v as i128 };
    (!format.is_nan(a) && !format.is_nan(b)).then(|| key(a).cmp(&key(b)))
}

fn compares(name: &str, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match name {
        "num" => return order.is_some(),
        "nan" => return order.is_none(),
        _ => {}
    }
    let (base, unordered) = match name.strip_suffix('u') {
        Some(base) => (base, true),
        None => (name, false),
    };
    let Some(order) = order else { return unordered };
    match base {
        "eq" => order == Equal,
        "ne" => order != Equal,
        "lt" => order == Less,
        "le" => order != Greater,
        "gt" => order == Greater,
        "ge" => order != Less,
        _ => panic!("{name}"),
    }
}

const COMPARISONS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

#[test]
fn comparisons_ordered_and_unordered() {
    for (t, kind, format) in [
        (table(), "f32", F32),
        (table(), "f64", F64),
        (table(), "f16", F16),
        (table_90(), "bf16", BF16),
    ] {
        let rows = pairs(&floats(format), &floats(format));
        for name in COMPARISONS {
            for flush in [false, true] {
                if flush && (kind == "f64" || kind == "bf16") {
                    continue;
                }
                let ftz = if flush { ".ftz" } else { "" };
                // The 16-bit forms give one predicate alone.
                let both =
                    if format.mantissa > 10 { "d|x, a, b;" } else { "d, a, b; not.pred x, d;" };
                let op =
                    format!("setp.{name}{ftz}.{kind} {both} set.{name}{ftz}.u32.{kind} y, a, b;");
                t.check(&op, &format!("{kind} {kind} -> pred pred b32"), &rows, |r| {
                    let flushed = |v| if flush { format.flush(v) } else { v };
                    let yes = compares(name, order(format, flushed(r[0]), flushed(r[1])));
                    vec![u64::from(yes), u64::from(!yes), if yes { 0xffff_ffff } else { 0 }]
                });
            }
        }
    }
}

#[test]
fn comparisons_with_other_results() {
    let t = table();
    let rows = triples(&[0x3f80_0000, 0x7fc0_0000, 0x8000_0000], &[0x3f80_0000, 0], &[0, 1]);
    t.check(
        "set.le.xor.f32.f32 d, a, b, !c; setp.gtu.or.f32 x|y, a, b, c;",
        "f32 f32 pred -> f32 pred pred",
        &rows,
        |r| {
            let le = compares("le", order(F32, r[0], r[1]));
            let gtu = compares("gtu", order(F32, r[0], r[1]));
            let c = r[2] == 1;
            vec![if le == c { 0x3f80_0000 } else { 0 }, u64::from(gtu || c), u64::from(!gtu || c)]
        },
    );
    let halves = pairs(
        &[0x3c00_bc00, 0x7e00_3c00, 0x8000_0000, 0x4000_0001],
        &[0x3c00_3c00, 0x0000_7e00, 0x0001_0000],
    );
    for name in ["lt", "geu", "eq", "nan"] {
        let half = |r: &[u64], i: u32| {
            compares(name, order(F16, r[0] >> (16 * i) & 0xffff, r[1] >> (16 * i) & 0xffff))
        };
        t.check(&format!("setp.{name}.f16x2 d|x, a, b;"), "b32 b32 -> pred pred", &halves, |r| {
            vec![u64::from(half(r, 0)), u64::from(half(r, 1))]
        });
        t.check(&format!("set.{name}.f16x2.f16x2 d, a, b;"), "b32 b32 -> b32", &halves, |r| {
            vec![(0..2).map(|i| if half(r, i) { 0x3c00 << (16 * i) } else { 0 }).sum()]
        });
        t.check(
            &format!("set.{name}.f16.f16 d, a, b;"),
            "b16 b16 -> b16",
            &pairs(&floats(F16), &floats(F16)),
            |r| vec![if compares(name, order(F16, r[0], r[1])) { 0x3c00 } else { 0 }],
        );
    }
}

#[test]
fn testp_classifies_and_copysign_copies() {
    let t = table();
    for (kind, format) in [("f32", F32), ("f64", F64)] {
        let cases = each(&floats(format));
        let sig = format!("{kind} -> pred");
        let magnitude = |r: &[u64]| r[0] & !format.sign();
        let check = |name: &str, holds: &dyn Fn(u64) -> bool| {
            t.check(&format!("testp.{name}.{kind} d, a;"), &sig, &cases, |r| {
                vec![u64::from(holds(magnitude(r)))]
            });
        };
        check("finite", &|m| m < format.infinity());
        check("infinite", &|m| m == format.infinity());
        check("number", &|m| m <= format.infinity());
        check("notanumber", &|m| m > format.infinity());
        check("subnormal", &|m| format.is_subnormal(m));
        // The zeros count as normal.
        check("normal", &|m| m < format.infinity() && !format.is_subnormal(m));
        let rows = pairs(&floats(format), &[1, format.sign() | 5, format.infinity()]);
        t.check(
            &format!("copysign.{kind} d, a, b;"),
            &format!("{kind} {kind} -> {kind}"),
            &rows,
            |r| vec![r[0] & format.sign() | r[1] & !format.sign()],
        );
    }
}

/// Numbers of both signs from 2⁻²⁰ to 2²⁰.
fn spread() -> Vec<u32> {
    let mut random = Random::new(77);
    (0..400)
        .map(|_| random.next() as u32)
        .map(|w| w & 0x807f_ffff | (107 + (w >> 23) % 41) << 23)
        .collect()
}

fn positive() -> Vec<u32> {
    spread().into_iter().map(|v| v & 0x7fff_ffff).collect()
}

/// Relative error below 2^`exponent`.
fn relative(exponent: f64) -> impl Fn(f64, f64, f64) -> bool {
    move |_, want, got| (got - want).abs() <= want.abs() * exponent.exp2()
}

fn absolute(exponent: f64) -> impl Fn(f64, f64, f64) -> bool {
    move |_, want, got| (got - want).abs() <= exponent.exp2()
}

#[test]
fn approximations_keep_their_bounds() {
    let t = table();
    for ftz in ["", ".ftz"] {
        let ulp = relative(-22.0);
        t.approximates(&format!("rcp.approx{ftz}.f32 d, a;"), &spread(), |x| 1.0 / x, &ulp);
        t.approximates(
            &format!("rsqrt.approx{ftz}.f32 d, a;"),
            &positive(),
            |x| 1.0 / x.sqrt(),
            &ulp,
        );
        t.approximates(&format!("sqrt.approx{ftz}.f32 d, a;"), &positive(), f64::sqrt, &ulp);
        let small: Vec<u32> =
            spread().into_iter().filter(|&v| f32::from_bits(v).abs() < 100.0).collect();
        t.approximates(&format!("ex2.approx{ftz}.f32 d, a;"), &small, f64::exp2, relative(-21.5));
        t.approximates(
            &format!("lg2.approx{ftz}.f32 d, a;"),
            &positive(),
            f64::log2,
            |x, want, got| {
                let bound = if x > 0.5 && x < 2.0 { 1.0 } else { want.abs() };
                (got - want).abs() <= bound * (-21.0f64).exp2()
            },
        );
        let turn: Vec<u32> =
            spread().into_iter().filter(|&v| f32::from_bits(v).abs() < 3.0).collect();
        t.approximates(&format!("sin.approx{ftz}.f32 d, a;"), &turn, f64::sin, absolute(-20.0));
        t.approximates(&format!("cos.approx{ftz}.f32 d, a;"), &turn, f64::cos, absolute(-20.0));
    }
    t.approximates("tanh.approx.f32 d, a;", &spread(), f64::tanh, relative(-10.9));
    // The ex2 of a large negative number is subnormal, and only .ftz may lose it.
    t.approximates("ex2.approx.f32 d, a;", &[0xc300_0000], f64::exp2, relative(-15.0));
    t.literal(
        "ex2.approx.ftz.f32 d, a;",
        "f32 -> f32",
        &[(&[0xc300_0000], &[0]), (&[0xc2fc_0000], &[0x0080_0000])],
    );
    let rows: Vec<Vec<u64>> =
        spread().chunks(2).map(|c| vec![u64::from(c[0]), u64::from(c[1])]).collect();
    for op in ["div.approx.f32", "div.approx.ftz.f32", "div.full.f32", "div.full.ftz.f32"] {
        let Some(got) = t.outputs(&format!("{op} d, a, b;"), "f32 f32 -> f32", &rows) else {
            continue;
        };
        for (row, got) in rows.iter().zip(got) {
            let want = float(F32, row[0]) / float(F32, row[1]);
            let got = float(F32, got[0]);
            assert!(
                (got - want).abs() <= want.abs() * (-21.0f64).exp2(),
                "{op} {row:x?} gave {got:e}, not {want:e}"
            );
        }
    }
}

const INFINITY: u64 = 0x7f80_0000;
const MINUS: u64 = 0x8000_0000;
const NAN: u64 = 0x7fc0_0000;
const ONE: u64 = 0x3f80_0000;

#[test]
fn approximations_of_special_values() {
    let t = table();
    let check = |op: &str, cases: &[(u64, u64)]| {
        let rows: Vec<Vec<u64>> = cases.iter().map(|c| vec![c.0]).collect();
        let want: Vec<Vec<u64>> = cases.iter().map(|c| vec![c.1]).collect();
        t.check_all(&format!("{op}.f32 d, a;"), "f32 -> f32", &rows, &want);
    };
    for ftz in ["", ".ftz"] {
        let zeros = |op: &str, cases: &[(u64, u64)]| check(&format!("{op}.approx{ftz}"), cases);
        zeros(
            "ex2",
            &[
                (0, ONE),
                (MINUS, ONE),
                (1, ONE),
                (INFINITY, INFINITY),
                (MINUS | INFINITY, 0),
                (NAN, NAN),
            ],
        );
        zeros(
            "ex2",
            &[
                (ONE, 0x4000_0000),
                (MINUS | ONE, 0x3f00_0000),
                (0x4380_0000, INFINITY),
                (0xc380_0000, 0),
            ],
        );
        zeros(
            "lg2",
            &[(0, MINUS | INFINITY), (MINUS, MINUS | INFINITY), (INFINITY, INFINITY), (NAN, NAN)],
        );
        zeros(
            "lg2",
            &[(MINUS | ONE, NAN), (MINUS | INFINITY, NAN), (ONE, 0), (0x4100_0000, 0x4040_0000)],
        );
        zeros(
            "rcp",
            &[
                (0, INFINITY),
                (MINUS, MINUS | INFINITY),
                (INFINITY, 0),
                (MINUS | INFINITY, MINUS),
                (NAN, NAN),
            ],
        );
        zeros("rcp", &[(ONE, ONE), (0xc000_0000, 0xbf00_0000)]);
        zeros(
            "rsqrt",
            &[
                (0, INFINITY),
                (MINUS, MINUS | INFINITY),
                (INFINITY, 0),
                (MINUS | ONE, NAN),
                (NAN, NAN),
            ],
        );
        zeros("rsqrt", &[(ONE, ONE), (MINUS | INFINITY, NAN), (0x4080_0000, 0x3f00_0000)]);
        zeros(
            "sqrt",
            &[
                (0, 0),
                (MINUS, MINUS),
                (INFINITY, INFINITY),
                (MINUS | ONE, NAN),
                (MINUS | INFINITY, NAN),
                (NAN, NAN),
            ],
        );
        zeros("sqrt", &[(ONE, ONE), (0x4080_0000, 0x4000_0000)]);
        zeros(
            "sin",
            &[(0, 0), (MINUS, MINUS), (INFINITY, NAN), (MINUS | INFINITY, NAN), (NAN, NAN)],
        );
        zeros(
            "cos",
            &[(0, ONE), (MINUS, ONE), (INFINITY, NAN), (MINUS | INFINITY, NAN), (NAN, NAN)],
        );
    }
    check("lg2.approx.ftz", &[(1, MINUS | INFINITY), (0x8000_0001, MINUS | INFINITY)]);
    // 2⁻¹²⁷ is subnormal: its logarithm is −127 unless it is flushed.
    check("lg2.approx", &[(0x0040_0000, 0xc2fe_0000), (0x8000_0001, NAN)]);
    check("rcp.approx.ftz", &[(1, INFINITY), (0x8000_0001, MINUS | INFINITY), (0x7f00_0000, 0)]);
    check("rcp.approx", &[(0x7f00_0000, 0x0040_0000), (0x0040_0000, 0x7f00_0000)]);
    check("rsqrt.approx.ftz", &[(1, INFINITY), (0x8000_0001, MINUS | INFINITY)]);
    check("sqrt.approx.ftz", &[(1, 0), (0x8000_0001, MINUS)]);
    check("sin.approx.ftz", &[(1, 0), (0x8000_0001, MINUS)]);
    check(
        "tanh.approx",
        &[(0, 0), (MINUS, MINUS), (INFINITY, ONE), (MINUS | INFINITY, MINUS | ONE), (NAN, NAN)],
    );
    check("tanh.approx", &[(0x4180_0000, ONE), (0xc180_0000, MINUS | ONE)]);
    let cases: [(&[u64], &[u64]); 8] = [
        (&[ONE, 0], &[INFINITY]),
        (&[MINUS | ONE, 0], &[MINUS | INFINITY]),
        (&[0, 0], &[NAN]),
        (&[INFINITY, INFINITY], &[NAN]),
        (&[ONE, INFINITY], &[0]),
        (&[ONE, MINUS | INFINITY], &[MINUS]),
        (&[NAN, ONE], &[NAN]),
        (&[0x40c0_0000, 0x4000_0000], &[0x4040_0000]),
    ];
    for op in ["div.approx.f32", "div.approx.ftz.f32", "div.full.f32", "div.full.ftz.f32"] {
        t.literal(&format!("{op} d, a, b;"), "f32 f32 -> f32", &cases);
    }
}

#[test]
fn approximations_of_f64() {
    let t = table();
    let mut random = Random::new(8);
    let rows: Vec<Vec<u64>> = (0..100)
        .map(|_| vec![random.next() & 0x000f_ffff_ffff_ffff | (1000 + random.next() % 50) << 52])
        .collect();
    for (op, f) in [
        ("rcp.approx.ftz.f64", (|x: f64| 1.0 / x) as fn(f64) -> f64),
        ("rsqrt.approx.f64", |x| 1.0 / x.sqrt()),
    ] {
        let Some(got) = t.outputs(&format!("{op} d, a;"), "f64 -> f64", &rows) else { continue };
        for (row, got) in rows.iter().zip(got) {
            let (want, got) = (f(f64::from_bits(row[0])), f64::from_bits(got[0]));
            assert!(
                (got - want).abs() <= want.abs() * (-19.0f64).exp2(),
                "{op} {row:x?} gave {got:e}, not {want:e}"
            );
        }
    }
    let infinity = F64.infinity();
    let sign = F64.sign();
    t.literal(
        "rcp.approx.ftz.f64 d, a;",
        "f64 -> f64",
        &[
            (&[0], &[infinity]),
            (&[sign], &[sign | infinity]),
            (&[1], &[infinity]),
            (&[infinity], &[0]),
            (&[sign | infinity], &[sign]),
            (&[F64.nan()], &[F64.nan()]),
        ],
    );
    t.literal(
        "rsqrt.approx.f64 d, a;",
        "f64 -> f64",
        &[
            (&[0], &[infinity]),
            (&[sign], &[sign | infinity]),
            (&[infinity], &[0]),
            (&[sign | 0x3ff0_0000_0000_0000], &[F64.nan()]),
        ],
    );
}

#[test]
fn approximations_of_halves() {
    let ampere = table();
    let hopper = table_90();
    let values: Vec<f64> = (-40..40).map(|i| f64::from(i) * 0.173).collect();
    let near = |t: &Table,
                op: &str,
                kind: &str,
                format: Format,
                f: fn(f64) -> f64,
                bound: &dyn Fn(f64) -> f64| {
        let halves: Vec<u64> = values.iter().map(|&v| bits(format, v)).collect();
        let two = kind.ends_with("x2");
        let rows: Vec<Vec<u64>> = (0..halves.len())
            .map(|i| {
                vec![if two {
                    halves[i] | halves[(i + 11) % halves.len()] << 16
                } else {
                    halves[i]
                }]
            })
            .collect();
        let Some(got) =
            t.outputs(&format!("{op}.{kind} d, a;"), &format!("{kind} -> {kind}"), &rows)
        else {
            return;
        };
        for (row, got) in rows.iter().zip(got) {
            for i in 0..if two { 2 } else { 1 } {
                let (x, got) = (
                    float(format, row[0] >> (16 * i) & 0xffff),
                    float(format, got[0] >> (16 * i) & 0xffff),
                );
                assert!(
                    (got - f(x)).abs() <= bound(f(x)),
                    "{op}.{kind} of {x} gave {got}, not {}",
                    f(x)
                );
            }
        }
    };
    for kind in ["f16", "f16x2"] {
        near(&ampere, "ex2.approx", kind, F16, f64::exp2, &|want| want * (-9.8f64).exp2());
        near(&ampere, "tanh.approx", kind, F16, f64::tanh, &|_| (-10.5f64).exp2());
    }
    for kind in ["bf16", "bf16x2"] {
        near(&hopper, "ex2.approx.ftz", kind, BF16, f64::exp2, &|want| want * (-7.0f64).exp2());
        near(&hopper, "tanh.approx", kind, BF16, f64::tanh, &|_| (-8.0f64).exp2());
    }
    ampere.literal(
        "ex2.approx.f16 d, a;",
        "f16 -> f16",
        &[
            (&[0], &[0x3c00]),
            (&[0x8000], &[0x3c00]),
            (&[0x7c00], &[0x7c00]),
            (&[0xfc00], &[0]),
            (&[0x7e00], &[0x7e00]),
            (&[0x4c00], &[0x7c00]),
            (&[0xcb80], &[0x0200]),
        ],
    );
    ampere.literal(
        "tanh.approx.f16 d, a;",
        "f16 -> f16",
        &[
            (&[0], &[0]),
            (&[0x8000], &[0x8000]),
            (&[0x7c00], &[0x3c00]),
            (&[0xfc00], &[0xbc00]),
            (&[0x7e00], &[0x7e00]),
        ],
    );
}
