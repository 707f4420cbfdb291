//! What atomics compute.

use super::float::{self, MinMax, from_bf16, from_f16, to_bf16, to_f16};
use super::program::{AtomOp, AtomType};

/// Bytes of an element.
pub(crate) fn width(ty: AtomType) -> usize {
    use AtomType::*;
    match ty {
        U16 | F16 | Bf16 => 2,
        U32 | S32 | F16x2 | Bf16x2 | F32 => 4,
        U64 | S64 | F64 => 8,
        B128 => 16,
    }
}

/// The new value of a location.
pub(crate) fn combine(op: AtomOp, ty: AtomType, ftz: bool, old: u64, src: u64, swap: u64) -> u64 {
    match op {
        AtomOp::Exch => return src,
        AtomOp::And => return old & src,
        AtomOp::Or => return old | src,
        AtomOp::Xor => return old ^ src,
        AtomOp::Inc => return if old as u32 >= src as u32 { 0 } else { old + 1 },
        AtomOp::Dec => {
            return if old as u32 == 0 || old as u32 > src as u32 { src } else { old - 1 };
        }
        AtomOp::Cas => {
            let mask = if width(ty) >= 8 { !0 } else { (1 << (8 * width(ty))) - 1 };
            return if old & mask == src & mask { swap } else { old };
        }
        AtomOp::Add | AtomOp::Min | AtomOp::Max => {}
    }
    let how = MinMax { max: op == AtomOp::Max, ..MinMax::default() };
    let halves = |f: &dyn Fn(u16, u16) -> u16| {
        let low = f(old as u16, src as u16) as u64;
        low | (f((old >> 16) as u16, (src >> 16) as u16) as u64) << 16
    };
    let f16 = |a: u16, b: u16| {
        let (x, y) = (from_f16(a) as f64, from_f16(b) as f64);
        match op {
            AtomOp::Add => float::round_to(x + y, float::F16, float::Round::Near) as u16,
            _ => float::min_max(x, y, how).map_or(0x7fff, |v| to_f16(v as f32)),
        }
    };
    let bf16 = |a: u16, b: u16| {
        let (x, y) = (from_bf16(a) as f64, from_bf16(b) as f64);
        match op {
            AtomOp::Add => {
                float::round_to(float::add_odd(x, y), float::BF16, float::Round::Near) as u16
            }
            _ => float::min_max(x, y, how).map_or(0x7fff, |v| to_bf16(v as f32)),
        }
    };
    match (ty, op) {
        (AtomType::F32, AtomOp::Add) => {
            let flush = |v: f32| if ftz { float::flush(v) } else { v };
            let sum = flush(f32::from_bits(old as u32)) + flush(f32::from_bits(src as u32));
            float::canon(flush(sum)).to_bits() as u64
        }
        (AtomType::F32, _) => {
            let (a, b) = (f32::from_bits(old as u32) as f64, f32::from_bits(src as u32) as f64);
            float::min_max(a, b, how).map_or(float::NAN32, |v| (v as f32).to_bits()) as u64
        }
        (AtomType::F64, AtomOp::Add) => (f64::from_bits(old) + f64::from_bits(src)).to_bits(),
        (AtomType::F64, _) => float::min_max(f64::from_bits(old), f64::from_bits(src), how)
            .unwrap_or(f64::NAN)
            .to_bits(),
        (AtomType::F16, _) => f16(old as u16, src as u16) as u64,
        (AtomType::Bf16, _) => bf16(old as u16, src as u16) as u64,
        (AtomType::F16x2, _) => halves(&f16),
        (AtomType::Bf16x2, _) => halves(&bf16),
        (AtomType::U64, AtomOp::Min) => old.min(src),
        (AtomType::U64, AtomOp::Max) => old.max(src),
        (AtomType::S64, AtomOp::Min) => (old as i64).min(src as i64) as u64,
        (AtomType::S64, AtomOp::Max) => (old as i64).max(src as i64) as u64,
        (AtomType::S32, AtomOp::Min) => (old as i32).min(src as i32) as u32 as u64,
        (AtomType::S32, AtomOp::Max) => (old as i32).max(src as i32) as u32 as u64,
        (_, AtomOp::Min) => (old as u32).min(src as u32) as u64,
        (_, AtomOp::Max) => (old as u32).max(src as u32) as u64,
        (AtomType::U64 | AtomType::S64, _) => old.wrapping_add(src),
        _ => (old as u32).wrapping_add(src as u32) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        use AtomOp::*;
        use AtomType::*;
        assert_eq!(combine(Add, U32, false, 0xffff_ffff, 2, 0), 1);
        assert_eq!(combine(Inc, U32, false, 5, 5, 0), 0);
        assert_eq!(combine(Inc, U32, false, 4, 5, 0), 5);
        assert_eq!(combine(Dec, U32, false, 0, 5, 0), 5);
        assert_eq!(combine(Dec, U32, false, 9, 5, 0), 5);
        assert_eq!(combine(Min, S32, false, 0xffff_ffff, 3, 0), 0xffff_ffff);
        assert_eq!(combine(Max, S64, false, u64::MAX, 3, 0), 3);
        assert_eq!(combine(Cas, U16, false, 7, 7, 9), 9);
        assert_eq!(combine(Cas, U64, false, 7, 8, 9), 7);
        assert_eq!(combine(Add, F16x2, false, 0x3c00_4000, 0x3c00_3c00, 0), 0x4000_4200);
        assert_eq!(combine(Add, F32, true, 1, 0, 0), 0);
    }
}
