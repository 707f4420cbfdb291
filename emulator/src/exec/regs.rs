//! The register file of a warp, and how an operation runs over its lanes.
//!
//! Registers are rows of 32 lanes. Registers of 32 bits or fewer share one file, 64-bit registers another, predicates
//! are 32-bit masks. Constants and special registers are rows too, so that an operation never asks where its operand
//! comes from. Every operation computes all lanes and keeps those of its mask.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// Set in a predicate's slot: read it negated.
pub(crate) const NEGATED: u32 = 1 << 31;

/// The registers of one warp.
#[derive(Default)]
pub(crate) struct Regs {
    pub r32: Vec<[u32; LANES]>,
    pub r64: Vec<[u64; LANES]>,
    pub pred: Vec<u32>,
}

impl Regs {
    /// The mask of lanes in which a predicate (perhaps negated) holds.
    #[inline(always)]
    pub fn predicate(&self, slot: u32) -> u32 {
        let mask = self.pred[(slot & !NEGATED) as usize];
        if slot & NEGATED != 0 { !mask } else { mask }
    }

    #[inline(always)]
    pub fn set_predicate(&mut self, slot: u32, value: u32, mask: u32) {
        let p = &mut self.pred[slot as usize];
        *p = *p & !mask | value & mask;
    }
}

/// Slots of an operation: two results, four operands, one immediate.
pub(crate) type Slots = [u32; 7];
/// Where operands begin in [`Slots`].
pub(crate) const SRC: usize = 2;
/// Where the immediate is.
pub(crate) const IMM: usize = 6;

/// An operation over the lanes of a mask.
///
/// # Safety
/// The function may use instructions that `fast_cpu` found; it is only taken from tables that asked it.
pub(crate) type AluFn = unsafe fn(&mut Regs, &Slots, u32);

/// What an operand is made of: tells the lowering which file it lives in and how a literal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    U16,
    U32,
    F32,
    U64,
    F64,
    Pred,
}

/// An operation with the kinds of its operands.
#[derive(Clone, Copy)]
pub(crate) struct Alu {
    pub f: AluFn,
    pub dst: &'static [Operand],
    pub src: &'static [Operand],
}

/// A type that lanes can hold.
pub(crate) trait Cell: Copy {
    const OPERAND: Operand;
    const ZERO: Self;
    fn read(regs: &Regs, slot: u32) -> [Self; LANES];
    fn write(regs: &mut Regs, slot: u32, values: &[Self; LANES], mask: u32);
}

macro_rules! cell {
    ($ty:ty, $operand:ident, $file:ident, $from:expr, $to:expr) => {
        impl Cell for $ty {
            const OPERAND: Operand = Operand::$operand;
            const ZERO: $ty = 0 as $ty;
            #[inline(always)]
            fn read(regs: &Regs, slot: u32) -> [$ty; LANES] {
                let row = &regs.$file[slot as usize];
                std::array::from_fn(|l| $from(row[l]))
            }
            #[inline(always)]
            fn write(regs: &mut Regs, slot: u32, values: &[$ty; LANES], mask: u32) {
                let row = &mut regs.$file[slot as usize];
                if mask == !0 {
                    for l in 0..LANES {
                        row[l] = $to(values[l]);
                    }
                } else {
                    for l in 0..LANES {
                        row[l] = if mask >> l & 1 == 1 { $to(values[l]) } else { row[l] };
                    }
                }
            }
        }
    };
}

cell!(u16, U16, r32, |v| v as u16, |v: u16| v as u32);
cell!(i16, U16, r32, |v| v as i16, |v: i16| v as u16 as u32);
cell!(u32, U32, r32, |v| v, |v| v);
cell!(i32, U32, r32, |v| v as i32, |v: i32| v as u32);
cell!(f32, F32, r32, f32::from_bits, f32::to_bits);
cell!(u64, U64, r64, |v| v, |v| v);
cell!(i64, U64, r64, |v| v as i64, |v: i64| v as u64);
cell!(f64, F64, r64, f64::from_bits, f64::to_bits);

impl Cell for bool {
    const OPERAND: Operand = Operand::Pred;
    const ZERO: bool = false;
    #[inline(always)]
    fn read(regs: &Regs, slot: u32) -> [bool; LANES] {
        let mask = regs.predicate(slot);
        std::array::from_fn(|l| mask >> l & 1 == 1)
    }
    #[inline(always)]
    fn write(regs: &mut Regs, slot: u32, values: &[bool; LANES], mask: u32) {
        let mut bits = 0;
        for (l, &v) in values.iter().enumerate() {
            bits |= (v as u32) << l;
        }
        regs.set_predicate(slot, bits, mask);
    }
}

/// Whether the faster versions of the operations may run on this machine.
pub(crate) fn fast_cpu() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("bmi2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The function as it is.
macro_rules! plain {
    ($body:ident) => {{
        unsafe fn plain(r: &mut Regs, x: &Slots, m: u32) {
            $body(r, x, m)
        }
        plain as AluFn
    }};
}

/// The function, compiled twice: for any machine, and for those with AVX2 and FMA. For the operations that kernels
/// spend their time in; the others would only take longer to compile.
macro_rules! twice {
    ($body:ident) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi2")]
        unsafe fn fast(r: &mut Regs, x: &Slots, m: u32) {
            $body(r, x, m)
        }
        #[cfg(target_arch = "x86_64")]
        let f = if $crate::exec::regs::fast_cpu() { fast as AluFn } else { plain!($body) };
        #[cfg(not(target_arch = "x86_64"))]
        let f = plain!($body);
        f
    }};
}

/// `op!(|a: f32, b: f32; imm| -> f32 { a + b })`: an [`Alu`] that computes the expression lane by lane.
/// With `-> (A, B)` it has two results. `hot!` takes the same and compiles it twice.
macro_rules! op {
    ($($rest:tt)*) => { lanes!(plain $($rest)*) };
}

macro_rules! hot {
    ($($rest:tt)*) => { lanes!(twice $($rest)*) };
}

macro_rules! lanes {
    ($version:ident |$($n:ident : $t:ty),* ; $imm:ident| -> ($d:ty, $e:ty) $body:expr) => {{
        #[inline(always)]
        #[allow(unused_assignments, unused_variables)]
        fn body(r: &mut Regs, x: &Slots, m: u32) {
            let $imm = x[IMM];
            let mut i = SRC;
            $(let $n = <$t as Cell>::read(r, x[i]); i += 1;)*
            let mut first = [<$d as Cell>::ZERO; LANES];
            let mut second = [<$e as Cell>::ZERO; LANES];
            for l in 0..LANES {
                $(let $n = $n[l];)*
                (first[l], second[l]) = $body;
            }
            <$d as Cell>::write(r, x[0], &first, m);
            <$e as Cell>::write(r, x[1], &second, m);
        }
        Alu {
            f: $version!(body),
            dst: &[<$d as Cell>::OPERAND, <$e as Cell>::OPERAND],
            src: &[$(<$t as Cell>::OPERAND),*],
        }
    }};
    ($version:ident |$($n:ident : $t:ty),* ; $imm:ident| -> $d:ty $body:block) => {{
        #[inline(always)]
        #[allow(unused_assignments, unused_variables)]
        fn body(r: &mut Regs, x: &Slots, m: u32) {
            let $imm = x[IMM];
            let mut i = SRC;
            $(let $n = <$t as Cell>::read(r, x[i]); i += 1;)*
            let mut out = [<$d as Cell>::ZERO; LANES];
            for l in 0..LANES {
                $(let $n = $n[l];)*
                out[l] = $body;
            }
            <$d as Cell>::write(r, x[0], &out, m);
        }
        Alu { f: $version!(body), dst: &[<$d as Cell>::OPERAND], src: &[$(<$t as Cell>::OPERAND),*] }
    }};
}

pub(crate) use {hot, lanes, op, plain, twice};
