//! `cvt` in all its forms. The common ones have a loop of their own; the others share one scalar routine.

use super::alu::Mods;
use super::float::{
    self, Format, Round, canon, flush, from_bf16, from_f16, pack, round_to, to_bf16, to_f16,
};
use super::regs::{Alu, AluFn, Cell, IMM, LANES, Regs, SRC, Slots, hot, lanes, op, plain, twice};
use crate::ptx::parser::Type;

const TYPES: [Type; 15] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::Bf16,
    Type::Tf32,
    Type::F32,
    Type::F64,
    Type::F16x2,
    Type::Bf16x2,
];

const INTEGRAL: u32 = 1 << 11;
const FTZ: u32 = 1 << 12;
const SAT: u32 = 1 << 13;
const RELU: u32 = 1 << 14;
const FINITE: u32 = 1 << 15;

fn code(ty: Type) -> Option<u32> {
    TYPES.iter().position(|t| *t == ty).map(|i| i as u32)
}

/// Chooses the operation of a `cvt`.
pub(crate) fn select(mods: &Mods, operands: usize) -> Option<(Alu, u32)> {
    let integral = mods.one_of(&["rni", "rzi", "rmi", "rpi"]);
    let round = mods.one_of(&["rn", "rz", "rm", "rp", "rna"]);
    let (ftz, sat) = (mods.take("ftz"), mods.take("sat"));
    let (relu, finite) = (mods.take("relu"), mods.take("satfinite"));
    let (to, from) = (mods.ty()?, mods.ty()?);
    let imm = code(to)?
        | code(from)? << 4
        | (integral.or(round).unwrap_or(0) as u32) << 8
        | if integral.is_some() { INTEGRAL } else { 0 }
        | if ftz { FTZ } else { 0 }
        | if sat { SAT } else { 0 }
        | if relu { RELU } else { 0 }
        | if finite { FINITE } else { 0 };
    if matches!(to, Type::F16x2 | Type::Bf16x2) {
        if from != Type::F32 || operands != 3 {
            return None;
        }
        // The first operand becomes the upper half.
        let half = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
        let imm = imm & !0xf | code(half)?;
        let alu = op!(|a: u32, b: u32; i| -> u32 { (scalar(a as u64, i) << 16 | scalar(b as u64, i)) as u32 });
        return Some((alu, imm));
    }
    if operands != 2 || matches!(from, Type::F16x2 | Type::Bf16x2) {
        return None;
    }
    let plain = !ftz && !sat && !relu && !finite;
    let nearest = plain && round == Some(0);
    let alu = match (to, from) {
        (Type::U64, Type::U32) if plain => hot!(|a: u32; _i| -> u64 { a as u64 }),
        (Type::S64, Type::S32) if plain => hot!(|a: i32; _i| -> i64 { a as i64 }),
        (Type::U32 | Type::S32, Type::U64 | Type::S64) if plain => {
            hot!(|a: u64; _i| -> u32 { a as u32 })
        }
        (Type::U32 | Type::S32, Type::U16) if plain => hot!(|a: u16; _i| -> u32 { a as u32 }),
        (Type::U16, Type::U32 | Type::S32) if plain => hot!(|a: u32; _i| -> u16 { a as u16 }),
        (Type::F32, Type::S32) if nearest => hot!(|a: i32; _i| -> f32 { a as f32 }),
        (Type::F32, Type::U32) if nearest => hot!(|a: u32; _i| -> f32 { a as f32 }),
        (Type::F32, Type::F16) if plain => hot!(|a: u16; _i| -> f32 { canon(from_f16(a)) }),
        (Type::F32, Type::Bf16) if plain => hot!(|a: u16; _i| -> f32 { canon(from_bf16(a)) }),
        (Type::F16, Type::F32) if nearest => hot!(|a: f32; _i| -> u16 { to_f16(a) }),
        (Type::Bf16, Type::F32) if nearest => hot!(|a: f32; _i| -> u16 { to_bf16(a) }),
        (Type::F64, Type::F32) if plain => hot!(|a: f32; _i| -> f64 { canon64(a as f64) }),
        _ => match (to.size() == 8, from.size() == 8) {
            (false, false) => op!(|a: u32; i| -> u32 { scalar(a as u64, i) as u32 }),
            (false, true) => op!(|a: u64; i| -> u32 { scalar(a, i) as u32 }),
            (true, false) => op!(|a: u32; i| -> u64 { scalar(a as u64, i) }),
            (true, true) => op!(|a: u64; i| -> u64 { scalar(a, i) }),
        },
    };
    Some((alu, imm))
}

fn canon64(v: f64) -> f64 {
    if v.is_nan() { f64::from_bits(float::F64.nan) } else { v }
}

fn format(ty: Type) -> Option<Format> {
    Some(match ty {
        Type::F16 => float::F16,
        Type::Bf16 => float::BF16,
        Type::Tf32 => float::TF32,
        Type::F32 => float::F32,
        Type::F64 => float::F64,
        _ => return None,
    })
}

/// Range of an integer type.
fn range(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.size() as u32;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Converts the bits of one value.
fn scalar(bits: u64, imm: u32) -> u64 {
    let (to, from) = (TYPES[(imm & 15) as usize], TYPES[(imm >> 4 & 15) as usize]);
    let round = Round::from_code(imm >> 8 & 7);
    match (format(from), format(to)) {
        (None, None) => {
            let mut v = integer(bits, from);
            if imm & SAT != 0 {
                let (low, high) = range(to);
                v = v.clamp(low, high);
            }
            // Narrow results are extended as their type demands: the register may be wider.
            extend(v as u64, to)
        }
        (None, Some(format)) => {
            let v = integer(bits, from);
            finish(pack(v < 0, v.unsigned_abs(), 0, false, format, round), to, format, imm)
        }
        (Some(_), None) => {
            let v = value(bits, from, imm);
            if v.is_nan() {
                // Zero where both are narrow, else the type's top bit alone (PTX ISA, `cvt`).
                let narrow = from != Type::F64 && to.size() < 8;
                return if narrow { 0 } else { extend(1 << (8 * to.size() - 1), to) };
            }
            let r = integral(v, round) as i128;
            let (low, high) = range(to);
            extend(r.clamp(low, high) as u64, to)
        }
        (Some(_), Some(format)) => {
            let mut v = value(bits, from, imm);
            if imm & INTEGRAL != 0 {
                v = integral(v, round);
            }
            finish(round_to(v, format, round), to, format, imm)
        }
    }
}

fn integer(bits: u64, ty: Type) -> i128 {
    match ty {
        Type::U8 => bits as u8 as i128,
        Type::U16 => bits as u16 as i128,
        Type::U32 => bits as u32 as i128,
        Type::U64 => bits as i128,
        Type::S8 => bits as i8 as i128,
        Type::S16 => bits as i16 as i128,
        Type::S32 => bits as i32 as i128,
        _ => bits as i64 as i128,
    }
}

fn extend(v: u64, ty: Type) -> u64 {
    integer(v, ty) as u64
}

fn value(bits: u64, ty: Type, imm: u32) -> f64 {
    let ftz = imm & FTZ != 0;
    match ty {
        Type::F16 => from_f16(bits as u16) as f64,
        Type::Bf16 => from_bf16(bits as u16) as f64,
        Type::F64 => f64::from_bits(bits),
        _ => {
            let v = f32::from_bits(bits as u32);
            (if ftz { flush(v) } else { v }) as f64
        }
    }
}

/// Rounds to an integral value.
fn integral(v: f64, round: Round) -> f64 {
    match round {
        Round::Near => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
        Round::Away => v.round(),
    }
}

/// Applies flushing, saturation and rectification to a converted float.
fn finish(mut bits: u64, to: Type, format: Format, imm: u32) -> u64 {
    let width = format.exponent + format.fraction;
    let infinity = ((1u64 << format.exponent) - 1) << format.fraction;
    let (negative, magnitude) = (bits >> width & 1 == 1, bits & ((1 << width) - 1));
    let nan = magnitude > infinity;
    let mut magnitude = magnitude;
    if imm & FTZ != 0 && to == Type::F32 && magnitude >> format.fraction == 0 {
        magnitude = 0;
        bits &= 1 << width;
    }
    if imm & SAT != 0 {
        let one = ((1u64 << (format.exponent - 1)) - 1) << format.fraction;
        bits = if nan || negative { 0 } else { magnitude.min(one) };
    }
    if imm & RELU != 0 && negative && !nan {
        bits = 0;
    } else if imm & FINITE != 0 && magnitude == infinity {
        bits = (bits & 1 << width) | (infinity - 1);
    }
    // A tf32 lives in the upper bits of a single.
    if to == Type::Tf32 { if nan { float::F32.nan } else { bits << 13 } } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cvt(words: &str, bits: u64) -> u64 {
        let words: Vec<String> = words.split('.').map(str::to_string).collect();
        let mods = Mods::new(&words);
        let (_, imm) = select(&mods, 2).unwrap();
        assert!(mods.all_used());
        scalar(bits, imm)
    }

    #[test]
    fn conversions() {
        let f = |v: f32| v.to_bits() as u64;
        assert_eq!(cvt("rzi.s32.f32", f(-2.9)) as u32, -2i32 as u32);
        assert_eq!(cvt("rni.s32.f32", f(2.5)), 2);
        assert_eq!(cvt("rpi.u32.f32", f(-0.5)), 0);
        assert_eq!(cvt("rzi.u32.f32", f(1e30)), u32::MAX as u64);
        assert_eq!(cvt("rzi.s64.f32", f(f32::NEG_INFINITY)), i64::MIN as u64);
        assert_eq!(cvt("rzi.s32.f32", f(f32::NAN)), 0);
        assert_eq!(cvt("sat.u8.s32", -5i64 as u64), 0);
        assert_eq!(cvt("sat.s8.s32", 300), 127);
        assert_eq!(cvt("s32.s8", 0x80) as u32, -128i32 as u32);
        assert_eq!(cvt("rn.f32.u64", u64::MAX), f(18_446_744_073_709_551_616.0));
        assert_eq!(cvt("rz.f32.s32", 0x7fff_ffff), f(2_147_483_520.0));
        assert_eq!(cvt("rn.f16.f64", 65520f64.to_bits()), 0x7c00);
        assert_eq!(cvt("rz.f16.f32", f(65520.0)), 0x7bff);
        assert_eq!(cvt("rna.tf32.f32", 0x3f80_1000), 0x3f80_2000);
        assert_eq!(cvt("rn.tf32.f32", 0x3f80_1000), 0x3f80_0000);
        assert_eq!(cvt("rmi.f32.f32", f(-0.5)), f(-1.0));
        assert_eq!(cvt("rni.f32.f32", f(-0.25)), f(-0.0));
        assert_eq!(cvt("ftz.sat.f32.f32", f(2.0)), f(1.0));
        assert_eq!(cvt("rn.relu.f16.f32", f(-2.0)), 0);
        assert_eq!(cvt("rn.ftz.f32.f64", 1e-40f64.to_bits()), 0);
    }
}
