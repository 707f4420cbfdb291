//! `cvt` between floating-point types and between them and integers, in every rounding mode, with saturation,
//! flushing and clamping at zero.

mod common;

use common::exact::{BF16, F16, F32, F64, Format, MODES, Mode, TF32, bits, integer, to_integer};
use common::*;

const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

const INTEGER_MODES: [(&str, Mode); 4] =
    [("rni", Mode::Nearest), ("rzi", Mode::Zero), ("rmi", Mode::Down), ("rpi", Mode::Up)];

fn limits(width: u32, is_signed: bool) -> (i128, i128) {
    if is_signed {
        (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1)
    } else {
        (0, (1i128 << width) - 1)
    }
}

/// Halves, and numbers around the limits of every integer type, beside the edges of the format.
fn near_integers(format: Format) -> Vec<u64> {
    let mut values = floats(format);
    for half in [
        0.25, 0.5, 0.75, 1.5, 2.5, 3.5, 7.49, 126.5, 127.5, 128.5, 254.5, 255.5, 1000.5, 32766.5,
        32768.0, 65504.0,
    ] {
        values.extend([bits(format, half), bits(format, -half)]);
    }
    for power in [7, 8, 15, 16, 31, 32, 63, 64] {
        let code = bits(format, f64::from(power).exp2());
        if code < format.infinity() {
            values.extend(
                [code - 1, code, code + 1].into_iter().flat_map(|v| [v, v | format.sign()]),
            );
        }
    }
    values
}

#[test]
fn floats_to_integers_clamp() {
    for (t, kind, format) in [
        (table(), "f32", F32),
        (table(), "f64", F64),
        (table(), "f16", F16),
        (table_90(), "bf16", BF16),
    ] {
        for (name, width, is_signed) in INTEGERS {
            let (least, most) = limits(width, is_signed);
            // bf16 takes registers of the exact width alone.
            if kind == "bf16" && width == 8 {
                continue;
            }
            let target = if kind == "bf16" { width } else { width.max(32) };
            for (mode_name, mode) in INTEGER_MODES {
                for flush in [false, true] {
                    if flush && kind != "f32" {
                        continue;
                    }
                    let rows: Vec<Vec<u64>> = each(&near_integers(format))
                        .into_iter()
                        // What not-a-number becomes in a narrow type is stated for whole registers alone.
                        .filter(|r| width >= 32 || !format.is_nan(r[0]))
                        .collect();
                    let ftz = if flush { ".ftz" } else { "" };
                    t.check(
                        &format!("cvt.{mode_name}{ftz}.{name}.{kind} d, a;"),
                        &format!("{kind} -> b{target}"),
                        &rows,
                        |r| {
                            if format.is_nan(r[0]) {
                                return vec![if kind == "f64" || width == 64 {
                                    1 << (width - 1)
                                } else {
                                    0
                                }];
                            }
                            let infinite = if r[0] & format.sign() != 0 { least } else { most };
                            let input =
                                format.decode(if flush { format.flush(r[0]) } else { r[0] });
                            let value =
                                to_integer(&input, mode).map_or(infinite, |v| v.clamp(least, most));
                            vec![cut(value, target)]
                        },
                    );
                }
            }
        }
    }
}

#[test]
fn integers_to_floats_round() {
    for (t, kind, format) in [
        (table(), "f32", F32),
        (table(), "f64", F64),
        (table(), "f16", F16),
        (table_90(), "bf16", BF16),
    ] {
        for (name, width, is_signed) in INTEGERS {
            if kind == "bf16" && width == 8 {
                continue;
            }
            let source = width.max(16);
            // Numbers that lie between two of the format, and some that overflow f16.
            let mut values = integers(width);
            let extra = [
                0x0100_0001u64,
                0x0100_0003,
                0x0801,
                0x0803,
                0x0101,
                0x0103,
                65519,
                65520,
                0x20_0000_0000_0001,
                0x20_0000_0000_0003,
            ];
            values.extend(extra.map(|v| v & (u64::MAX >> (64 - width))));
            let rows = each(&values);
            for (mode_name, mode) in MODES {
                let sat = if mode_name == "rn" { &["", ".sat"][..] } else { &[""] };
                for sat in sat {
                    if kind == "bf16" && !sat.is_empty() {
                        continue;
                    }
                    t.check(
                        &format!("cvt.{mode_name}{sat}.{kind}.{name} d, a;"),
                        &format!("b{source} -> {kind}"),
                        &rows,
                        |r| {
                            let input =
                                if is_signed { signed(r[0], width) } else { i128::from(r[0]) };
                            let value = format.encode(&integer(input), mode);
                            vec![if sat.is_empty() { value } else { format.saturate(value) }]
                        },
                    );
                }
            }
        }
    }
}

/// Values that matter when `from` is narrowed to `to`: the edges of both, and numbers between two of `to`.
fn between(from: Format, to: Format) -> Vec<u64> {
    let mut values = floats(from);
    for code in floats(to) {
        let code = from.encode(&to.decode(code), Mode::Nearest);
        if !from.is_nan(code) {
            values.extend([code, code.wrapping_add(1), code.wrapping_sub(1)]);
        }
    }
    if from.mantissa > to.mantissa {
        let spare = from.mantissa - to.mantissa;
        let one = from.encode(&integer(1), Mode::Nearest);
        for tail in [
            1u64,
            2,
            (1 << spare) / 2 - 1,
            (1 << spare) / 2,
            (1 << spare) / 2 + 1,
            (1 << spare) - 1,
        ] {
            for odd in [0, 1 << spare] {
                values.extend([one + odd + tail, (one + odd + tail) | from.sign()]);
            }
        }
    }
    values
}

#[test]
fn floats_to_narrower_floats_round() {
    let t = table();
    let narrowing = [("f32", F32, "f64", F64), ("f16", F16, "f64", F64), ("f16", F16, "f32", F32)];
    for (to, target, from, source) in narrowing {
        for (mode_name, mode) in MODES {
            for flush in [false, true] {
                for saturate in [false, true] {
                    if flush && to != "f32" && from != "f32" {
                        continue;
                    }
                    let ftz = if flush { ".ftz" } else { "" };
                    let sat = if saturate { ".sat" } else { "" };
                    let op = format!("cvt.{mode_name}{ftz}{sat}.{to}.{from} d, a;");
                    let (mut rows, mut want) = (Vec::new(), Vec::new());
                    for input in between(source, target) {
                        let flushed =
                            if flush && from == "f32" { source.flush(input) } else { input };
                        let mut value = target.encode(&source.decode(flushed), mode);
                        if flush && to == "f32" {
                            let cut = target.encode(&source.decode(flushed), Mode::Zero);
                            if target.is_subnormal(cut) && !target.is_subnormal(value) {
                                continue;
                            }
                            value = target.flush(value);
                        }
                        if saturate && value == target.sign() {
                            continue;
                        }
                        rows.push(vec![input]);
                        want.push(vec![if saturate { target.saturate(value) } else { value }]);
                    }
                    t.check_all(&op, &format!("{from} -> {to}"), &rows, &want);
                }
            }
        }
    }
}

#[test]
fn floats_to_wider_floats_are_exact() {
    let t = table();
    for (to, target, from, source) in
        [("f64", F64, "f32", F32), ("f64", F64, "f16", F16), ("f32", F32, "f16", F16)]
    {
        let rows = each(&floats(source));
        let widen = |v: u64| target.encode(&source.decode(v), Mode::Zero);
        t.check(&format!("cvt.{to}.{from} d, a;"), &format!("{from} -> {to}"), &rows, |r| {
            vec![widen(r[0])]
        });
        let plain: Vec<Vec<u64>> = rows
            .iter()
            .filter(|r| r[0] != source.sign() && !source.is_subnormal(r[0]))
            .cloned()
            .collect();
        t.check(&format!("cvt.sat.{to}.{from} d, a;"), &format!("{from} -> {to}"), &plain, |r| {
            vec![target.saturate(widen(r[0]))]
        });
    }
    let all: Vec<u64> = (0..0x1_0000).step_by(7).collect();
    t.check("cvt.f32.f16 d, a;", "f16 -> f32", &each(&all), |r| {
        vec![F32.encode(&F16.decode(r[0]), Mode::Zero)]
    });
    t.check("cvt.ftz.f64.f32 d, a;", "f32 -> f64", &each(&floats(F32)), |r| {
        vec![F64.encode(&F32.decode(F32.flush(r[0])), Mode::Zero)]
    });
    let hopper = table_90();
    hopper.check("cvt.f32.bf16 d, a;", "bf16 -> f32", &each(&floats(BF16)), |r| vec![r[0] << 16]);
}

#[test]
fn floats_round_to_integral_values() {
    let t = table();
    for (kind, format) in [("f32", F32), ("f64", F64), ("f16", F16)] {
        let values: Vec<u64> = near_integers(format);
        for (name, mode) in INTEGER_MODES {
            for sat in ["", ".sat"] {
                let rows: Vec<Vec<u64>> = each(&values)
                    .into_iter()
                    .filter(|r| sat.is_empty() || r[0] & format.sign() == 0)
                    .collect();
                t.check(
                    &format!("cvt.{name}{sat}.{kind}.{kind} d, a;"),
                    &format!("{kind} -> {kind}"),
                    &rows,
                    |r| {
                        let sign = r[0] & format.sign();
                        let value = match to_integer(&format.decode(r[0]), mode) {
                            // Already integral; 2¹²⁰ is the reference's limit, not the instruction's.
                            Some(v) if v.abs() < 1 << 100 => {
                                format.encode(&integer(v.abs()), mode) | sign
                            }
                            _ => r[0],
                        };
                        vec![if sat.is_empty() { value } else { format.saturate(value) }]
                    },
                );
            }
        }
        let rows: Vec<Vec<u64>> =
            each(&values).into_iter().filter(|r| r[0] != format.sign()).collect();
        t.check(
            &format!("cvt.sat.{kind}.{kind} d, a;"),
            &format!("{kind} -> {kind}"),
            &rows,
            |r| {
                let tiny_negative = r[0] & format.sign() != 0;
                vec![if tiny_negative { 0 } else { format.saturate(r[0]) }]
            },
        );
    }
    t.check("cvt.ftz.f32.f32 d, a;", "f32 -> f32", &each(&floats(F32)), |r| vec![F32.flush(r[0])]);
    t.check("cvt.rpi.ftz.f32.f32 d, a;", "f32 -> f32", &each(&[1, 0x007f_ffff]), |_| vec![0]);
}

#[test]
fn f32_to_bf16_and_packed_pairs() {
    let t = table();
    let relu = |format: Format, value: u64| {
        if format.is_nan(value) {
            format.nan()
        } else if value & format.sign() != 0 {
            0
        } else {
            value
        }
    };
    for (kind, format) in [("bf16", BF16), ("f16", F16)] {
        let values = between(F32, format);
        // The sign of a zero that is clamped is left open.
        let not_minus_zero = |v: &u64, mode| format.encode(&F32.decode(*v), mode) != format.sign();
        for (mode_name, mode) in [("rn", Mode::Nearest), ("rz", Mode::Zero)] {
            let narrow = |v: u64| format.encode(&F32.decode(v), mode);
            t.check(
                &format!("cvt.{mode_name}.{kind}.f32 d, a;"),
                &format!("f32 -> {kind}"),
                &each(&values),
                |r| vec![narrow(r[0])],
            );
            let positive: Vec<u64> =
                values.iter().copied().filter(|v| not_minus_zero(v, mode)).collect();
            t.check(
                &format!("cvt.{mode_name}.relu.{kind}.f32 d, a;"),
                &format!("f32 -> {kind}"),
                &each(&positive),
                |r| vec![relu(format, narrow(r[0]))],
            );
            // The first operand goes to the upper half.
            let n = values.len();
            let rows: Vec<Vec<u64>> =
                (0..n).map(|i| vec![values[i], values[(i + 5) % n]]).collect();
            t.check(
                &format!("cvt.{mode_name}.{kind}x2.f32 d, a, b;"),
                &format!("f32 f32 -> {kind}x2"),
                &rows,
                |r| vec![narrow(r[0]) << 16 | narrow(r[1])],
            );
            let n = positive.len();
            let rows: Vec<Vec<u64>> =
                (0..n).map(|i| vec![positive[i], positive[(i + 5) % n]]).collect();
            t.check(
                &format!("cvt.{mode_name}.relu.{kind}x2.f32 d, a, b;"),
                &format!("f32 f32 -> {kind}x2"),
                &rows,
                |r| vec![relu(format, narrow(r[0])) << 16 | relu(format, narrow(r[1]))],
            );
        }
    }
}

#[test]
fn f32_to_tf32_keeps_ten_bits() {
    let values = between(F32, TF32);
    // The 13 bits that tf32 lacks are not looked at.
    let narrow = |v: u64, mode| TF32.encode(&F32.decode(v), mode) << 13;
    let sig = "f32 -> f32";
    table().check("cvt.rna.tf32.f32 d, a; and.b32 d, d, 0xffffe000;", sig, &each(&values), |r| {
        vec![narrow(r[0], Mode::Away)]
    });
    let t = table_90();
    for (name, mode) in [("rn", Mode::Nearest), ("rz", Mode::Zero)] {
        t.check(
            &format!("cvt.{name}.tf32.f32 d, a; and.b32 d, d, 0xffffe000;"),
            sig,
            &each(&values),
            |r| vec![narrow(r[0], mode)],
        );
    }
}
