//! Matrix instructions: `mma`, `ldmatrix`, `stmatrix`, `movmatrix`. All fragment layouts are here.
//!
//! Products are exact and summed in double precision (in integers for the integer forms), then rounded once: what a
//! tensor core computes lies within its own, unpublished rounding of that.

use super::alu::Mods;
use super::float::{self, NAN32, from_bf16, from_f16};
use super::program::Address;
use super::regs::{LANES, Regs};
use crate::ptx::parser::Type;

/// What a matrix instruction does, before its operands are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Mma { m: usize, n: usize, k: usize, d: Type, a: Type, b: Type, c: Type, saturate: bool },
    Load { count: usize, transpose: bool },
    Store { count: usize, transpose: bool },
    Transpose,
}

impl Shape {
    /// Whether the operand's registers are 64 bits wide.
    pub fn wide(self, _operand: usize) -> bool {
        matches!(self, Shape::Mma { d: Type::F64, .. })
    }
}

/// Reads the modifiers of a matrix instruction; `None` where there is no such form.
pub(crate) fn shape(opcode: &str, mods: &Mods) -> Option<Shape> {
    if !mods.take("sync") || !mods.take("aligned") {
        return None;
    }
    let shape = match opcode {
        "mma" => {
            let dims = [(16, 8, 16), (16, 8, 8), (16, 8, 4), (16, 8, 32), (8, 8, 4), (8, 8, 16)];
            let words = ["m16n8k16", "m16n8k8", "m16n8k4", "m16n8k32", "m8n8k4", "m8n8k16"];
            let (m, n, k) = dims[mods.one_of(&words)?];
            if !mods.take("row") || !mods.take("col") {
                return None;
            }
            let saturate = mods.take("satfinite");
            let (d, a, b, c) = (mods.ty()?, mods.ty()?, mods.ty()?, mods.ty()?);
            let known = match (a, m, k) {
                (Type::F16, 16, 8 | 16) => b == a && matches!(d, Type::F16 | Type::F32) && c == d,
                (Type::Bf16, 16, 8 | 16) => b == a && d == Type::F32 && c == d,
                (Type::Tf32, 16, 4 | 8) => b == a && d == Type::F32 && c == d,
                (Type::F64, 8, 4) => b == a && d == Type::F64 && c == d,
                (Type::F64, 16, 4 | 8 | 16) => b == a && d == Type::F64 && c == d,
                (Type::S8 | Type::U8, 16, 16 | 32) | (Type::S8 | Type::U8, 8, 16) => {
                    matches!(b, Type::S8 | Type::U8) && d == Type::S32 && c == d
                }
                _ => false,
            };
            if !known || saturate && d != Type::S32 {
                return None;
            }
            Shape::Mma { m, n, k, d, a, b, c, saturate }
        }
        "movmatrix" => {
            if !mods.take("m8n8") || !mods.take("trans") || mods.ty()? != Type::B16 {
                return None;
            }
            Shape::Transpose
        }
        _ => {
            if !mods.take("m8n8") {
                return None;
            }
            let count = [1, 2, 4][mods.one_of(&["x1", "x2", "x4"])?];
            let transpose = mods.take("trans");
            mods.one_of(&["shared", "shared::cta"]);
            if mods.ty()? != Type::B16 {
                return None;
            }
            if opcode == "ldmatrix" {
                Shape::Load { count, transpose }
            } else {
                Shape::Store { count, transpose }
            }
        }
    };
    mods.all_used().then_some(shape)
}

/// A matrix instruction with its registers: the results, then the operands.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub shape: Shape,
    pub groups: Vec<Vec<u32>>,
    pub address: Address,
}

impl Matrix {
    /// Checks that every operand has as many registers as the shape wants.
    pub fn new(shape: Shape, groups: Vec<Vec<u32>>, address: Address) -> Option<Matrix> {
        let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
        let fits = match shape {
            Shape::Mma { m, n, k, d, a, b, c, .. } => {
                let registers =
                    |elements: usize, ty: Type| elements * ty.size() / (LANES * ty.size().max(4));
                let size = |ty: Type| if ty == Type::Tf32 { Type::F32 } else { ty };
                lengths
                    == [
                        registers(m * n, size(d)),
                        registers(m * k, size(a)),
                        registers(k * n, size(b)),
                        registers(m * n, size(c)),
                    ]
            }
            Shape::Load { count, .. } | Shape::Store { count, .. } => lengths == [count],
            Shape::Transpose => lengths == [1, 1],
        };
        fits.then_some(Matrix { shape, groups, address })
    }

    /// Multiplications and additions of one execution by a warp.
    pub fn flops(&self) -> u64 {
        match self.shape {
            Shape::Mma { m, n, k, .. } => 2 * (m * n * k) as u64,
            _ => 0,
        }
    }

    /// Runs `mma` or `movmatrix` over the registers.
    pub fn compute(&self, regs: &mut Regs) {
        match self.shape {
            Shape::Mma { d: Type::S32, .. } => self.integer(regs),
            Shape::Mma { d: Type::F64, .. } => self.double(regs),
            Shape::Mma { .. } => self.float(regs),
            Shape::Transpose => {
                let source = regs.r32[self.groups[1][0] as usize];
                let element =
                    |row: usize, col: usize| source[row * 4 + col / 2] >> (16 * (col % 2)) & 0xffff;
                let out = std::array::from_fn(|lane| {
                    let (row, col) = (lane / 4, lane % 4 * 2);
                    element(col, row) | element(col + 1, row) << 16
                });
                regs.r32[self.groups[0][0] as usize] = out;
            }
            _ => {}
        }
    }

    /// Operand A as rows of up to 16 doubles, B as k rows of 8.
    fn operands(&self, regs: &Regs) -> ([[f64; 32]; 16], [[f64; 8]; 32]) {
        let Shape::Mma { a: ty, .. } = self.shape else { return ([[0.0; 32]; 16], [[0.0; 8]; 32]) };
        let mut a = [[0.0; 32]; 16];
        let mut b = [[0.0; 8]; 32];
        let value = |bits: u32| match ty {
            Type::F16 => from_f16(bits as u16) as f64,
            Type::Bf16 => from_bf16(bits as u16) as f64,
            // The low 13 bits of a tf32 operand are not looked at.
            _ => f32::from_bits(bits & !0x1fff) as f64,
        };
        let per = if ty == Type::Tf32 { 1 } else { 2 };
        let shift = 32 / per;
        for (r, &slot) in self.groups[1].iter().enumerate() {
            let row = &regs.r32[slot as usize];
            for (lane, &bits) in row.iter().enumerate() {
                for e in 0..per {
                    let at = (lane % 4) * per + e + (r / 2) * 4 * per;
                    a[lane / 4 + 8 * (r % 2)][at] = value(bits >> ((shift * e) as u32 % 32));
                }
            }
        }
        for (r, &slot) in self.groups[2].iter().enumerate() {
            let row = &regs.r32[slot as usize];
            for (lane, &bits) in row.iter().enumerate() {
                for e in 0..per {
                    b[(lane % 4) * per + e + r * 4 * per][lane / 4] =
                        value(bits >> ((shift * e) as u32 % 32));
                }
            }
        }
        (a, b)
    }

    fn float(&self, regs: &mut Regs) {
        let Shape::Mma { k, d, .. } = self.shape else { return };
        let (a, b) = self.operands(regs);
        let mut sums = [[0.0f64; 8]; 16];
        let c: Vec<[u32; LANES]> = self.groups[3].iter().map(|&s| regs.r32[s as usize]).collect();
        for lane in 0..LANES {
            for i in 0..4 {
                let v = if d == Type::F32 {
                    f32::from_bits(c[i][lane]) as f64
                } else {
                    from_f16((c[i / 2][lane] >> (16 * (i % 2))) as u16) as f64
                };
                sums[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2] = v;
            }
        }
        multiply(&a, &b, &mut sums, k);
        for (r, &slot) in self.groups[0].iter().enumerate() {
            let row = &mut regs.r32[slot as usize];
            for (lane, out) in row.iter_mut().enumerate() {
                let at = |i: usize| sums[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
                *out = if d == Type::F32 {
                    let v = at(r) as f32;
                    if v.is_nan() { NAN32 } else { v.to_bits() }
                } else {
                    let half = |v: f64| float::round_to(v, float::F16, float::Round::Near) as u32;
                    half(at(2 * r)) | half(at(2 * r + 1)) << 16
                };
            }
        }
    }

    fn double(&self, regs: &mut Regs) {
        let Shape::Mma { m, k, .. } = self.shape else { return };
        let halves = m / 8;
        let read = |slot: u32, lane: usize| f64::from_bits(regs.r64[slot as usize][lane]);
        let mut out = vec![[0u64; LANES]; self.groups[0].len()];
        for (r, row) in out.iter_mut().enumerate() {
            for (lane, v) in row.iter_mut().enumerate() {
                let (i, j) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                let mut sum = read(self.groups[3][r], lane);
                for x in 0..k {
                    let a = read(self.groups[1][i / 8 + halves * (x / 4)], i % 8 * 4 + x % 4);
                    let b = read(self.groups[2][x / 4], j * 4 + x % 4);
                    sum = a.mul_add(b, sum);
                }
                *v = sum.to_bits();
            }
        }
        for (&slot, row) in self.groups[0].iter().zip(&out) {
            regs.r64[slot as usize] = *row;
        }
    }

    fn integer(&self, regs: &mut Regs) {
        let Shape::Mma { m, k, a: a_type, b: b_type, saturate, .. } = self.shape else { return };
        let halves = m / 8;
        let byte = |bits: u32, i: usize, ty: Type| {
            let b = (bits >> (8 * i)) as u8;
            if ty == Type::S8 { b as i8 as i64 } else { b as i64 }
        };
        let mut out = vec![[0u32; LANES]; self.groups[0].len()];
        for (r, row) in out.iter_mut().enumerate() {
            for (lane, v) in row.iter_mut().enumerate() {
                let (i, j) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                let mut sum = regs.r32[self.groups[3][r] as usize][lane] as i32 as i64;
                for x in 0..k {
                    let a = regs.r32[self.groups[1][i / 8 + halves * (x / 16)] as usize]
                        [i % 8 * 4 + x % 16 / 4];
                    let b = regs.r32[self.groups[2][x / 16] as usize][j * 4 + x % 16 / 4];
                    sum += byte(a, x % 4, a_type) * byte(b, x % 4, b_type);
                }
                *v = if saturate {
                    sum.clamp(i32::MIN as i64, i32::MAX as i64) as u32
                } else {
                    sum as u32
                };
            }
        }
        for (&slot, row) in self.groups[0].iter().zip(&out) {
            regs.r32[slot as usize] = *row;
        }
    }
}

fn multiply(a: &[[f64; 32]; 16], b: &[[f64; 8]; 32], sums: &mut [[f64; 8]; 16], k: usize) {
    #[inline(always)]
    fn body(a: &[[f64; 32]; 16], b: &[[f64; 8]; 32], sums: &mut [[f64; 8]; 16], k: usize) {
        for (row, sum) in a.iter().zip(sums) {
            for x in 0..k {
                for j in 0..8 {
                    sum[j] += row[x] * b[x][j];
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn fast(a: &[[f64; 32]; 16], b: &[[f64; 8]; 32], sums: &mut [[f64; 8]; 16], k: usize) {
            body(a, b, sums, k)
        }
        if super::regs::fast_cpu() {
            // SAFETY: the instructions were just found to exist.
            return unsafe { fast(a, b, sums, k) };
        }
    }
    body(a, b, sums, k)
}

/// The two elements of matrix `rows` (8 rows of 8 halves) that a lane holds.
pub(crate) fn pick(rows: &[[u16; 8]; 8], lane: usize, transpose: bool) -> u32 {
    let (row, col) = (lane / 4, lane % 4 * 2);
    let (x, y) = if transpose {
        (rows[col][row], rows[col + 1][row])
    } else {
        (rows[row][col], rows[row][col + 1])
    };
    x as u32 | (y as u32) << 16
}

/// The inverse of [`pick`]: puts a lane's two elements into the matrix.
pub(crate) fn put(rows: &mut [[u16; 8]; 8], lane: usize, transpose: bool, bits: u32) {
    let (row, col) = (lane / 4, lane % 4 * 2);
    for (i, v) in [bits as u16, (bits >> 16) as u16].into_iter().enumerate() {
        if transpose {
            rows[col + i][row] = v;
        } else {
            rows[row][col + i] = v;
        }
    }
}
