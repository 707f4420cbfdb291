//! The arithmetic: from an opcode with its modifiers to the function that computes it over a warp's lanes.

use super::convert;
use super::float::{
    self, MinMax, Round, canon, flush, from_bf16, from_f16, saturate, to_bf16, to_f16,
};
use super::regs::{Alu, AluFn, Cell, IMM, LANES, Regs, SRC, Slots, hot, lanes, op, plain, twice};
use crate::ptx::parser::Type;
use crate::report::Class;
use std::cell::Cell as Counter;

/// The modifiers of an instruction. Each is taken once; what is left over makes the instruction unknown.
pub(crate) struct Mods<'a> {
    words: &'a [String],
    used: Counter<u64>,
}

impl<'a> Mods<'a> {
    pub fn new(words: &'a [String]) -> Mods<'a> {
        Mods { words, used: Counter::new(0) }
    }

    fn claim(&self, want: impl Fn(&str) -> bool) -> Option<&'a str> {
        for (i, word) in self.words.iter().enumerate().take(64) {
            if self.used.get() >> i & 1 == 0 && want(word) {
                self.used.set(self.used.get() | 1 << i);
                return Some(word);
            }
        }
        None
    }

    /// Takes a modifier if it is there.
    pub fn take(&self, word: &str) -> bool {
        self.claim(|w| w == word).is_some()
    }

    /// Takes the first of several modifiers and answers its place in the list.
    pub fn one_of(&self, words: &[&str]) -> Option<usize> {
        self.claim(|w| words.contains(&w)).and_then(|w| words.iter().position(|x| *x == w))
    }

    /// Takes every modifier that satisfies the condition.
    pub fn drop_all(&self, want: impl Fn(&str) -> bool) {
        while self.claim(&want).is_some() {}
    }

    /// Takes the next type.
    pub fn ty(&self) -> Option<Type> {
        self.claim(|w| Type::parse(w).is_some()).and_then(Type::parse)
    }

    /// Takes the next word, whatever it is.
    pub fn any(&self) -> Option<&'a str> {
        self.claim(|_| true)
    }

    fn round(&self) -> Round {
        match self.one_of(&["rn", "rz", "rm", "rp", "rna"]) {
            Some(i) => Round::from_code(i as u32),
            None => Round::Near,
        }
    }

    /// Whether a modifier is there, taken or not.
    pub fn words_have(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// Whether every modifier was taken.
    pub fn all_used(&self) -> bool {
        self.used.get().count_ones() as usize == self.words.len()
    }
}

/// An operation chosen for an instruction.
pub(crate) struct Selected {
    pub alu: Alu,
    pub imm: u32,
    pub class: Class,
    /// Exponentials it computes in one lane.
    pub exponentials: u8,
}

macro_rules! by_int {
    ($ty:expr, $T:ident => $e:expr) => {
        match $ty {
            Type::U16 | Type::B16 => Some({
                type $T = u16;
                $e
            }),
            Type::S16 => Some({
                type $T = i16;
                $e
            }),
            Type::U32 | Type::B32 => Some({
                type $T = u32;
                $e
            }),
            Type::S32 => Some({
                type $T = i32;
                $e
            }),
            Type::U64 | Type::B64 => Some({
                type $T = u64;
                $e
            }),
            Type::S64 => Some({
                type $T = i64;
                $e
            }),
            _ => None,
        }
    };
}

macro_rules! by_bits {
    ($ty:expr, $T:ident => $e:expr) => {
        match $ty.size() {
            2 => Some({
                type $T = u16;
                $e
            }),
            4 => Some({
                type $T = u32;
                $e
            }),
            8 => Some({
                type $T = u64;
                $e
            }),
            _ => None,
        }
    };
}

/// Integer widths, signed and unsigned, as the operations need them.
trait Int: Copy + PartialOrd {
    const BITS: u32;
    fn wide(self) -> i128;
    fn narrow(v: i128) -> Self;
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl Int for $t {
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn wide(self) -> i128 { self as i128 }
            #[inline(always)]
            fn narrow(v: i128) -> $t { v as $t }
        }
    )*};
}
int!(u16, i16, u32, i32, u64, i64);

const FTZ: u32 = 8;
const SAT: u32 = 16;
const RELU: u32 = 32;

/// Rounding and flags of the general float route, packed in an immediate.
fn flags(round: Round, ftz: bool, sat: bool, relu: bool) -> u32 {
    round as u32
        | if ftz { FTZ } else { 0 }
        | if sat { SAT } else { 0 }
        | if relu { RELU } else { 0 }
}

#[inline(always)]
fn input(v: f32, flags: u32) -> f32 {
    if flags & FTZ != 0 { flush(v) } else { v }
}

/// Rounds an odd-rounded double to single with the flags' direction, then flushes and clamps.
#[inline(always)]
fn output(v: f64, flags: u32) -> f32 {
    let r = f32::from_bits(float::round_to(v, float::F32, Round::from_code(flags & 7)) as u32);
    let r = if flags & FTZ != 0 { flush(r) } else { r };
    if flags & SAT != 0 { saturate(r) } else { r }
}

fn round_of(flags: u32) -> Round {
    Round::from_code(flags & 7)
}

/// A binary operation of the halves of a packed register.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    f(a as u16, b as u16) as u32 | (f((a >> 16) as u16, (b >> 16) as u16) as u32) << 16
}

#[inline(always)]
fn halves3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    f(a as u16, b as u16, c as u16) as u32
        | (f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16) as u32) << 16
}

/// f16 input flush: subnormals become zeros of their sign.
#[inline(always)]
fn flush16(h: u16) -> u16 {
    if h & 0x7c00 == 0 { h & 0x8000 } else { h }
}

#[inline(always)]
fn finish_f16(v: f64, flags: u32) -> u16 {
    let mut h = float::round_to(v, float::F16, Round::Near) as u16;
    if flags & FTZ != 0 {
        h = flush16(h);
    }
    clamp_half(h, flags, 0x3c00)
}

#[inline(always)]
fn finish_bf16(v: f64, flags: u32) -> u16 {
    clamp_half(float::round_to(v, float::BF16, Round::Near) as u16, flags, 0x3f80)
}

/// `.sat` and `.relu` of a half; for both a NaN becomes... +0 for `.sat`, canonical NaN for `.relu`.
#[inline(always)]
fn clamp_half(h: u16, flags: u32, one: u16) -> u16 {
    let nan = h & 0x7fff > if one == 0x3c00 { 0x7c00 } else { 0x7f80 };
    if flags & SAT != 0 {
        return if nan || h & 0x8000 != 0 { 0 } else { h.min(one) };
    }
    if flags & RELU != 0 && h & 0x8000 != 0 && !nan { 0 } else { h }
}

#[inline(always)]
fn f16_in(h: u16, flags: u32) -> f64 {
    from_f16(if flags & FTZ != 0 { flush16(h) } else { h }) as f64
}

#[inline(always)]
fn bf16_in(h: u16) -> f64 {
    from_bf16(h) as f64
}

fn f16_add(a: u16, b: u16, f: u32) -> u16 {
    finish_f16(f16_in(a, f) + f16_in(b, f), f)
}

fn f16_sub(a: u16, b: u16, f: u32) -> u16 {
    finish_f16(f16_in(a, f) - f16_in(b, f), f)
}

fn f16_mul(a: u16, b: u16, f: u32) -> u16 {
    finish_f16(f16_in(a, f) * f16_in(b, f), f)
}

fn f16_fma(a: u16, b: u16, c: u16, f: u32) -> u16 {
    finish_f16(float::fma_odd(f16_in(a, f), f16_in(b, f), f16_in(c, f)), f)
}

fn bf16_add(a: u16, b: u16, f: u32) -> u16 {
    finish_bf16(float::add_odd(bf16_in(a), bf16_in(b)), f)
}

fn bf16_sub(a: u16, b: u16, f: u32) -> u16 {
    finish_bf16(float::add_odd(bf16_in(a), -bf16_in(b)), f)
}

fn bf16_mul(a: u16, b: u16, f: u32) -> u16 {
    finish_bf16(bf16_in(a) * bf16_in(b), f)
}

fn bf16_fma(a: u16, b: u16, c: u16, f: u32) -> u16 {
    finish_bf16(float::fma_odd(bf16_in(a), bf16_in(b), bf16_in(c)), f)
}

const MAX: u32 = 1;
const NAN: u32 = 2;
const XORSIGN: u32 = 4;

fn how(flags: u32) -> MinMax {
    MinMax { max: flags & MAX != 0, nan: flags & NAN != 0, xorsign: flags & XORSIGN != 0 }
}

fn f16_min_max(a: u16, b: u16, f: u32) -> u16 {
    float::min_max(f16_in(a, f), f16_in(b, f), how(f)).map_or(0x7fff, |v| to_f16(v as f32))
}

fn bf16_min_max(a: u16, b: u16, f: u32) -> u16 {
    float::min_max(bf16_in(a), bf16_in(b), how(f)).map_or(0x7fff, |v| to_bf16(v as f32))
}

#[inline(always)]
fn f32_min_max(a: f32, b: f32, f: u32) -> f32 {
    let (a, b) = (input(a, f), input(b, f));
    float::min_max(a as f64, b as f64, how(f)).map_or(f32::from_bits(float::NAN32), |v| v as f32)
}

/// Comparison operators in the order of their numbers, as [`compare`] takes them. The unordered twins come 8 later.
const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "num", "nan", "equ", "neu", "ltu", "leu", "gtu", "geu",
    "lo", "ls", "hi", "hs",
];

/// What a comparison answers for (less, equal, greater, unordered).
#[inline(always)]
fn truth(code: u32) -> [bool; 4] {
    match code {
        0 => [false, true, false, false],
        1 => [true, false, true, false],
        2 | 14 => [true, false, false, false],
        3 | 15 => [true, true, false, false],
        4 | 16 => [false, false, true, false],
        5 | 17 => [false, true, true, false],
        6 => [true, true, true, false],
        7 => [false, false, false, true],
        8 => [false, true, false, true],
        9 => [true, false, true, true],
        10 => [true, false, false, true],
        11 => [true, true, false, true],
        12 => [false, false, true, true],
        _ => [false, true, true, true],
    }
}

#[inline(always)]
fn compare<T: PartialOrd>(a: T, b: T, code: u32) -> bool {
    let [lt, eq, gt, un] = truth(code & 0x1f);
    if a < b {
        lt
    } else if a == b {
        eq
    } else if a > b {
        gt
    } else {
        un
    }
}

const BOOL_AND: u32 = 1 << 8;
const BOOL_OR: u32 = 2 << 8;
const BOOL_XOR: u32 = 3 << 8;
const SET_FTZ: u32 = 1 << 10;

/// Joins a comparison with a predicate.
#[inline(always)]
fn join(v: bool, c: bool, imm: u32) -> bool {
    match imm & BOOL_XOR {
        BOOL_AND => v && c,
        BOOL_OR => v || c,
        BOOL_XOR => v != c,
        _ => v,
    }
}

#[inline(always)]
fn flush_if(v: f32, imm: u32) -> f32 {
    if imm & SET_FTZ != 0 { flush(v) } else { v }
}

#[inline(always)]
fn flush16_if(v: u16, imm: u32) -> f32 {
    from_f16(if imm & SET_FTZ != 0 { flush16(v) } else { v })
}

/// Chooses the operation for an opcode; `None` where there is none of that form.
/// `operands` is the number of operands written, by which some forms differ.
pub(crate) fn select(
    opcode: &str,
    mods: &Mods,
    operands: usize,
    two_results: bool,
) -> Option<Selected> {
    let (alu, imm, class) = arithmetic(opcode, mods, operands, two_results)?;
    if !mods.all_used() {
        return None;
    }
    let exponentials = match opcode {
        "ex2" if mods.words.iter().any(|w| w.ends_with("x2")) => 2,
        "ex2" => 1,
        _ => 0,
    };
    Some(Selected { alu, imm, class, exponentials })
}

type Choice = Option<(Alu, u32, Class)>;

fn arithmetic(opcode: &str, mods: &Mods, operands: usize, two_results: bool) -> Choice {
    match opcode {
        "add" | "sub" | "mul" | "mad" | "fma" => add_mul(opcode, mods, operands),
        "addc" | "subc" | "madc" => carry(opcode, mods),
        "div" | "rem" => division(opcode, mods),
        "min" | "max" => minimum(opcode == "max", mods, operands),
        "neg" | "abs" => sign(opcode == "neg", mods),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" => logic(opcode, mods),
        "bfe" | "bfi" | "bfind" | "brev" | "clz" | "popc" | "fns" | "lop3" | "prmt" | "shf"
        | "bmsk" | "szext" => bits(opcode, mods, operands),
        "sad" | "mul24" | "mad24" | "dp4a" | "dp2a" => integer_sums(opcode, mods),
        "setp" => setp(mods, operands, two_results),
        "set" => set(mods, operands),
        "selp" | "slct" | "mov" => moves(opcode, mods),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => special(opcode, mods),
        "copysign" => {
            let alu = match mods.ty()? {
                Type::F32 => op!(|a: u32, b: u32; _i| -> u32 { b & 0x7fff_ffff | a & 0x8000_0000 }),
                Type::F64 => op!(|a: u64, b: u64; _i| -> u64 { b & !(1 << 63) | a & 1 << 63 }),
                _ => return None,
            };
            Some((alu, 0, Class::Integer))
        }
        "testp" => testp(mods),
        "cvt" => convert::select(mods, operands).map(|(alu, imm)| (alu, imm, Class::Conversion)),
        _ => None,
    }
}

fn add_mul(opcode: &str, mods: &Mods, operands: usize) -> Choice {
    let half = [Type::F16, Type::F16x2, Type::Bf16, Type::Bf16x2];
    let float_words = [Type::F32, Type::F64, Type::F32x2];
    let last = mods.words.iter().rev().find_map(|w| Type::parse(w))?;
    if half.contains(&last) {
        return half_arithmetic(opcode, mods);
    }
    if float_words.contains(&last) {
        return float_arithmetic(opcode, mods);
    }
    let part = mods.one_of(&["lo", "hi", "wide"]);
    let cc = mods.take("cc");
    let sat = mods.take("sat");
    let ty = mods.ty()?;
    if cc {
        return carry_out(opcode, part, ty);
    }
    let alu = match (opcode, part, sat) {
        ("add", None, true) if ty == Type::S32 => {
            op!(|a: i32, b: i32; _i| -> i32 { a.saturating_add(b) })
        }
        ("sub", None, true) if ty == Type::S32 => {
            op!(|a: i32, b: i32; _i| -> i32 { a.saturating_sub(b) })
        }
        ("add", None, false) if matches!(ty, Type::U16x2 | Type::S16x2) => {
            op!(|a: u32, b: u32; _i| -> u32 { halves(a, b, |x, y| x.wrapping_add(y)) })
        }
        ("add", None, false) => by_int!(ty, T => op!(|a: T, b: T; _i| -> T { a.wrapping_add(b) }))?,
        ("sub", None, false) => by_int!(ty, T => op!(|a: T, b: T; _i| -> T { a.wrapping_sub(b) }))?,
        ("mul", Some(0), false) => {
            by_int!(ty, T => op!(|a: T, b: T; _i| -> T { a.wrapping_mul(b) }))?
        }
        ("mul", Some(1), false) => by_int!(ty, T => op!(|a: T, b: T; _i| -> T { high(a, b) }))?,
        ("mul", Some(2), false) => match ty {
            Type::U16 => op!(|a: u16, b: u16; _i| -> u32 { a as u32 * b as u32 }),
            Type::S16 => op!(|a: i16, b: i16; _i| -> i32 { a as i32 * b as i32 }),
            Type::U32 => op!(|a: u32, b: u32; _i| -> u64 { a as u64 * b as u64 }),
            Type::S32 => op!(|a: i32, b: i32; _i| -> i64 { a as i64 * b as i64 }),
            _ => return None,
        },
        ("mad", Some(0), false) => {
            by_int!(ty, T => op!(|a: T, b: T, c: T; _i| -> T { a.wrapping_mul(b).wrapping_add(c) }))?
        }
        ("mad", Some(1), false) => {
            by_int!(ty, T => op!(|a: T, b: T, c: T; _i| -> T { high(a, b).wrapping_add(c) }))?
        }
        ("mad", Some(1), true) if ty == Type::S32 => {
            op!(|a: i32, b: i32, c: i32; _i| -> i32 { high(a, b).saturating_add(c) })
        }
        ("mad", Some(2), false) => match ty {
            Type::U16 => {
                op!(|a: u16, b: u16, c: u32; _i| -> u32 { (a as u32 * b as u32).wrapping_add(c) })
            }
            Type::S16 => {
                op!(|a: i16, b: i16, c: i32; _i| -> i32 { (a as i32 * b as i32).wrapping_add(c) })
            }
            Type::U32 => {
                op!(|a: u32, b: u32, c: u64; _i| -> u64 { (a as u64 * b as u64).wrapping_add(c) })
            }
            Type::S32 => {
                op!(|a: i32, b: i32, c: i64; _i| -> i64 { (a as i64 * b as i64).wrapping_add(c) })
            }
            _ => return None,
        },
        _ => return None,
    };
    let _ = operands;
    Some((alu, 0, Class::Integer))
}

#[inline(always)]
fn high<T: Int>(a: T, b: T) -> T {
    T::narrow(a.wide().wrapping_mul(b.wide()) >> T::BITS)
}

/// The forms with `.cc`: the carry goes to the second result, a predicate the lowering keeps for it.
fn carry_out(opcode: &str, part: Option<usize>, ty: Type) -> Choice {
    macro_rules! forms {
        ($t:ty, $w:ty) => {
            match (opcode, part) {
                ("add", None) => op!(|a: $t, b: $t; _i| -> ($t, bool) a.overflowing_add(b)),
                ("sub", None) => op!(|a: $t, b: $t; _i| -> ($t, bool) a.overflowing_sub(b)),
                ("mad", Some(0)) => op!(|a: $t, b: $t, c: $t; _i| -> ($t, bool) a.wrapping_mul(b).overflowing_add(c)),
                ("mad", Some(1)) => op!(|a: $t, b: $t, c: $t; _i| -> ($t, bool) high(a, b).overflowing_add(c)),
                _ => return None,
            }
        };
    }
    let alu = match ty {
        Type::U32 | Type::B32 => forms!(u32, u64),
        Type::U64 | Type::B64 => forms!(u64, u128),
        // The product's high part depends on the sign; the carry is that of the unsigned sum.
        Type::S32 => match (opcode, part) {
            ("mad", Some(1)) => {
                op!(|a: i32, b: i32, c: u32; _i| -> (u32, bool) (high(a, b) as u32).overflowing_add(c))
            }
            _ => forms!(u32, u64),
        },
        Type::S64 => match (opcode, part) {
            ("mad", Some(1)) => {
                op!(|a: i64, b: i64, c: u64; _i| -> (u64, bool) (high(a, b) as u64).overflowing_add(c))
            }
            _ => forms!(u64, u128),
        },
        _ => return None,
    };
    Some((alu, 0, Class::Integer))
}

/// `addc`, `subc`, `madc`: the carry comes in as the last operand and, with `.cc`, goes out as the second result.
fn carry(opcode: &str, mods: &Mods) -> Choice {
    let part = mods.one_of(&["lo", "hi"]);
    mods.take("cc");
    let ty = mods.ty()?;
    macro_rules! forms {
        ($t:ty, $s:ty) => {
            match (opcode, part, ty.is_signed()) {
                ("addc", None, _) => op!(|a: $t, b: $t, cf: bool; _i| -> ($t, bool) {
                    let (x, c) = a.overflowing_add(b);
                    let (y, d) = x.overflowing_add(cf as $t);
                    (y, c | d)
                }),
                ("subc", None, _) => op!(|a: $t, b: $t, cf: bool; _i| -> ($t, bool) {
                    let (x, c) = a.overflowing_sub(b);
                    let (y, d) = x.overflowing_sub(cf as $t);
                    (y, c | d)
                }),
                ("madc", Some(0), _) => op!(|a: $t, b: $t, c: $t, cf: bool; _i| -> ($t, bool) {
                    let (x, c) = a.wrapping_mul(b).overflowing_add(c);
                    let (y, d) = x.overflowing_add(cf as $t);
                    (y, c | d)
                }),
                ("madc", Some(1), false) => op!(|a: $t, b: $t, c: $t, cf: bool; _i| -> ($t, bool) {
                    let (x, c) = high(a, b).overflowing_add(c);
                    let (y, d) = x.overflowing_add(cf as $t);
                    (y, c | d)
                }),
                ("madc", Some(1), true) => op!(|a: $s, b: $s, c: $t, cf: bool; _i| -> ($t, bool) {
                    let (x, c) = (high(a, b) as $t).overflowing_add(c);
                    let (y, d) = x.overflowing_add(cf as $t);
                    (y, c | d)
                }),
                _ => return None,
            }
        };
    }
    let alu = match ty {
        Type::U32 | Type::S32 | Type::B32 => forms!(u32, i32),
        Type::U64 | Type::S64 | Type::B64 => forms!(u64, i64),
        _ => return None,
    };
    Some((alu, 0, Class::Integer))
}

fn float_arithmetic(opcode: &str, mods: &Mods) -> Choice {
    let round = mods.round();
    let (ftz, sat) = (mods.take("ftz"), mods.take("sat"));
    let ty = mods.ty()?;
    if ty == Type::F32x2 {
        let alu = match (opcode, round, sat) {
            (_, _, true) => return None,
            ("add", ..) => {
                op!(|a: u64, b: u64; i| -> u64 { pairs(a, b, 0, i, |x, y, _| float::add_odd(x, y)) })
            }
            ("sub", ..) => {
                op!(|a: u64, b: u64; i| -> u64 { pairs(a, b, 0, i, |x, y, _| float::add_odd(x, -y)) })
            }
            ("mul", ..) => op!(|a: u64, b: u64; i| -> u64 { pairs(a, b, 0, i, |x, y, _| x * y) }),
            ("fma", ..) => {
                op!(|a: u64, b: u64, c: u64; i| -> u64 { pairs(a, b, c, i, float::fma_odd) })
            }
            _ => return None,
        };
        return Some((alu, flags(round, ftz, false, false), Class::F32));
    }
    if ty == Type::F64 {
        if ftz || sat {
            return None;
        }
        let alu = match (opcode, round) {
            ("add", Round::Near) => hot!(|a: f64, b: f64; _i| -> f64 { a + b }),
            ("sub", Round::Near) => hot!(|a: f64, b: f64; _i| -> f64 { a - b }),
            ("mul", Round::Near) => hot!(|a: f64, b: f64; _i| -> f64 { a * b }),
            ("fma" | "mad", Round::Near) => {
                hot!(|a: f64, b: f64, c: f64; _i| -> f64 { a.mul_add(b, c) })
            }
            ("add", _) => op!(|a: f64, b: f64; i| -> f64 { super::wide::add64(a, b, round_of(i)) }),
            ("sub", _) => {
                op!(|a: f64, b: f64; i| -> f64 { super::wide::add64(a, -b, round_of(i)) })
            }
            ("mul", _) => {
                op!(|a: f64, b: f64; i| -> f64 { super::wide::fma64(a, b, None, round_of(i)) })
            }
            ("fma" | "mad", _) => {
                op!(|a: f64, b: f64, c: f64; i| -> f64 { super::wide::fma64(a, b, Some(c), round_of(i)) })
            }
            _ => return None,
        };
        return Some((alu, round as u32, Class::F64));
    }
    let plain = round == Round::Near && !sat;
    let alu = match (opcode, plain, ftz) {
        ("add", true, false) => hot!(|a: f32, b: f32; _i| -> f32 { canon(a + b) }),
        ("sub", true, false) => hot!(|a: f32, b: f32; _i| -> f32 { canon(a - b) }),
        ("mul", true, false) => hot!(|a: f32, b: f32; _i| -> f32 { canon(a * b) }),
        ("fma" | "mad", true, false) => {
            hot!(|a: f32, b: f32, c: f32; _i| -> f32 { canon(a.mul_add(b, c)) })
        }
        ("add", true, true) => {
            hot!(|a: f32, b: f32; _i| -> f32 { canon(flush(flush(a) + flush(b))) })
        }
        ("sub", true, true) => {
            hot!(|a: f32, b: f32; _i| -> f32 { canon(flush(flush(a) - flush(b))) })
        }
        ("mul", true, true) => {
            hot!(|a: f32, b: f32; _i| -> f32 { canon(flush(flush(a) * flush(b))) })
        }
        ("fma" | "mad", true, true) => {
            hot!(|a: f32, b: f32, c: f32; _i| -> f32 { canon(flush(flush(a).mul_add(flush(b), flush(c)))) })
        }
        ("add", ..) => {
            op!(|a: f32, b: f32; i| -> f32 { sum(input(a, i) as f64, input(b, i) as f64, i) })
        }
        ("sub", ..) => {
            op!(|a: f32, b: f32; i| -> f32 { sum(input(a, i) as f64, -input(b, i) as f64, i) })
        }
        ("mul", ..) => {
            op!(|a: f32, b: f32; i| -> f32 { output(input(a, i) as f64 * input(b, i) as f64, i) })
        }
        ("fma" | "mad", ..) => op!(|a: f32, b: f32, c: f32; i| -> f32 {
            sum(input(a, i) as f64 * input(b, i) as f64, input(c, i) as f64, i)
        }),
        _ => return None,
    };
    Some((alu, flags(round, ftz, sat, false), Class::F32))
}

/// a + b of exact doubles, rounded once to single.
#[inline(always)]
fn sum(a: f64, b: f64, flags: u32) -> f32 {
    output(float::zero_sum(float::add_odd(a, b), a, b, round_of(flags)), flags)
}

/// An operation on the two singles of a packed 64-bit register.
fn pairs(a: u64, b: u64, c: u64, flags: u32, f: impl Fn(f64, f64, f64) -> f64) -> u64 {
    let part = |v: u64, s: u32| input(f32::from_bits((v >> s) as u32), flags) as f64;
    let one = |s| output(f(part(a, s), part(b, s), part(c, s)), flags).to_bits() as u64;
    one(0) | one(32) << 32
}

fn half_arithmetic(opcode: &str, mods: &Mods) -> Choice {
    mods.take("rn");
    let f = flags(Round::Near, mods.take("ftz"), mods.take("sat"), mods.take("relu"));
    let ty = mods.ty()?;
    if f & RELU != 0 && opcode != "fma" || f & FTZ != 0 && matches!(ty, Type::Bf16 | Type::Bf16x2) {
        return None;
    }
    let alu = match (opcode, ty) {
        ("add", Type::F16) => op!(|a: u16, b: u16; i| -> u16 { f16_add(a, b, i) }),
        ("sub", Type::F16) => op!(|a: u16, b: u16; i| -> u16 { f16_sub(a, b, i) }),
        ("mul", Type::F16) => op!(|a: u16, b: u16; i| -> u16 { f16_mul(a, b, i) }),
        ("fma", Type::F16) => op!(|a: u16, b: u16, c: u16; i| -> u16 { f16_fma(a, b, c, i) }),
        ("add", Type::F16x2) => {
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| f16_add(x, y, i)) })
        }
        ("sub", Type::F16x2) => {
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| f16_sub(x, y, i)) })
        }
        ("mul", Type::F16x2) => {
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| f16_mul(x, y, i)) })
        }
        ("fma", Type::F16x2) => {
            op!(|a: u32, b: u32, c: u32; i| -> u32 { halves3(a, b, c, |x, y, z| f16_fma(x, y, z, i)) })
        }
        ("add", Type::Bf16) => op!(|a: u16, b: u16; i| -> u16 { bf16_add(a, b, i) }),
        ("sub", Type::Bf16) => op!(|a: u16, b: u16; i| -> u16 { bf16_sub(a, b, i) }),
        ("mul", Type::Bf16) => op!(|a: u16, b: u16; i| -> u16 { bf16_mul(a, b, i) }),
        ("fma", Type::Bf16) => op!(|a: u16, b: u16, c: u16; i| -> u16 { bf16_fma(a, b, c, i) }),
        ("add", Type::Bf16x2) => {
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| bf16_add(x, y, i)) })
        }
        ("sub", Type::Bf16x2) => {
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| bf16_sub(x, y, i)) })
        }
        ("mul", Type::Bf16x2) => {
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| bf16_mul(x, y, i)) })
        }
        ("fma", Type::Bf16x2) => {
            op!(|a: u32, b: u32, c: u32; i| -> u32 { halves3(a, b, c, |x, y, z| bf16_fma(x, y, z, i)) })
        }
        _ => return None,
    };
    Some((alu, f, Class::Half))
}

fn division(opcode: &str, mods: &Mods) -> Choice {
    if opcode == "div" {
        let approximate = mods.one_of(&["approx", "full"]).is_some();
        let round = mods.round();
        let ftz = mods.take("ftz");
        let ty = mods.ty()?;
        match ty {
            Type::F32 if approximate || round == Round::Near => {
                let alu = if ftz {
                    op!(|a: f32, b: f32; _i| -> f32 { canon(flush(flush(a) / flush(b))) })
                } else {
                    op!(|a: f32, b: f32; _i| -> f32 { canon(a / b) })
                };
                return Some((alu, 0, if approximate { Class::Special } else { Class::F32 }));
            }
            Type::F32 => {
                let alu = op!(|a: f32, b: f32; i| -> f32 {
                    output(float::div_odd(input(a, i) as f64, input(b, i) as f64), i)
                });
                return Some((alu, flags(round, ftz, false, false), Class::F32));
            }
            Type::F64 if !ftz && !approximate => {
                let alu = op!(|a: f64, b: f64; i| -> f64 { super::wide::div64(a, b, round_of(i)) });
                return Some((alu, round as u32, Class::F64));
            }
            _ => {}
        }
        // Integer division by zero is unspecified; the hardware answers all ones.
        let alu = by_int!(ty, T => op!(|a: T, b: T; _i| -> T {
            if b == 0 { !(0 as T) } else { a.wrapping_div(b) }
        }))?;
        return Some((alu, 0, Class::Integer));
    }
    let alu = by_int!(mods.ty()?, T => op!(|a: T, b: T; _i| -> T { if b == 0 { a } else { a.wrapping_rem(b) } }))?;
    Some((alu, 0, Class::Integer))
}

fn minimum(max: bool, mods: &Mods, operands: usize) -> Choice {
    let ftz = mods.take("ftz");
    let nan = mods.take("NaN");
    let xorsign = mods.take("xorsign") && mods.take("abs");
    let relu = mods.take("relu");
    let ty = mods.ty()?;
    let f = if max { MAX } else { 0 }
        | if nan { NAN } else { 0 }
        | if xorsign { XORSIGN } else { 0 }
        | if ftz { FTZ } else { 0 }
        | if relu { RELU } else { 0 };
    let float = |alu, class| Some((alu, f, class));
    match ty {
        Type::F32 if operands == 4 => float(
            op!(|a: f32, b: f32, c: f32; i| -> f32 { f32_min_max(f32_min_max(a, b, i), c, i) }),
            Class::F32,
        ),
        Type::F32 => float(hot!(|a: f32, b: f32; i| -> f32 { f32_min_max(a, b, i) }), Class::F32),
        Type::F64 => float(
            op!(|a: f64, b: f64; i| -> f64 { float::min_max(a, b, how(i)).unwrap_or(f64::NAN) }),
            Class::F64,
        ),
        Type::F16 => float(op!(|a: u16, b: u16; i| -> u16 { f16_min_max(a, b, i) }), Class::Half),
        Type::Bf16 => float(op!(|a: u16, b: u16; i| -> u16 { bf16_min_max(a, b, i) }), Class::Half),
        Type::F16x2 => float(
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| f16_min_max(x, y, i)) }),
            Class::Half,
        ),
        Type::Bf16x2 => float(
            op!(|a: u32, b: u32; i| -> u32 { halves(a, b, |x, y| bf16_min_max(x, y, i)) }),
            Class::Half,
        ),
        _ if ftz || nan || xorsign => None,
        Type::U16x2 => float(
            op!(|a: u32, b: u32; i| -> u32 {
                halves(a, b, |x, y| if i & MAX != 0 { x.max(y) } else { x.min(y) })
            }),
            Class::Integer,
        ),
        Type::S16x2 => float(
            op!(|a: u32, b: u32; i| -> u32 {
                halves(a, b, |x, y| {
                    let (x, y) = (x as i16, y as i16);
                    let r = if i & MAX != 0 { x.max(y) } else { x.min(y) };
                    (if i & RELU != 0 { r.max(0) } else { r }) as u16
                })
            }),
            Class::Integer,
        ),
        Type::S32 if relu => float(
            op!(|a: i32, b: i32; i| -> i32 { (if i & MAX != 0 { a.max(b) } else { a.min(b) }).max(0) }),
            Class::Integer,
        ),
        _ if relu => None,
        _ => {
            let alu = if max {
                by_int!(ty, T => op!(|a: T, b: T; _i| -> T { a.max(b) }))?
            } else {
                by_int!(ty, T => op!(|a: T, b: T; _i| -> T { a.min(b) }))?
            };
            float(alu, Class::Integer)
        }
    }
}

fn sign(neg: bool, mods: &Mods) -> Choice {
    let ftz = mods.take("ftz");
    let ty = mods.ty()?;
    let alu = match (ty, neg) {
        (Type::F32, true) if ftz => op!(|a: f32; _i| -> f32 { -flush(a) }),
        (Type::F32, false) if ftz => op!(|a: f32; _i| -> f32 { flush(a).abs() }),
        (Type::F32, true) => op!(|a: u32; _i| -> u32 { a ^ 1 << 31 }),
        (Type::F32, false) => op!(|a: u32; _i| -> u32 { a & !(1 << 31) }),
        (Type::F64, true) => op!(|a: u64; _i| -> u64 { a ^ 1 << 63 }),
        (Type::F64, false) => op!(|a: u64; _i| -> u64 { a & !(1 << 63) }),
        (Type::F16, _) if ftz && neg => op!(|a: u16; _i| -> u16 { flush16(a) ^ 0x8000 }),
        (Type::F16, _) if ftz => op!(|a: u16; _i| -> u16 { flush16(a) & 0x7fff }),
        (Type::F16x2, _) if ftz && neg => {
            op!(|a: u32; _i| -> u32 { halves(a, 0, |x, _| flush16(x) ^ 0x8000) })
        }
        (Type::F16x2, _) if ftz => {
            op!(|a: u32; _i| -> u32 { halves(a, 0, |x, _| flush16(x) & 0x7fff) })
        }
        (Type::F16 | Type::Bf16, true) => op!(|a: u16; _i| -> u16 { a ^ 0x8000 }),
        (Type::F16 | Type::Bf16, false) => op!(|a: u16; _i| -> u16 { a & 0x7fff }),
        (Type::F16x2 | Type::Bf16x2, true) => op!(|a: u32; _i| -> u32 { a ^ 0x8000_8000 }),
        (Type::F16x2 | Type::Bf16x2, false) => op!(|a: u32; _i| -> u32 { a & 0x7fff_7fff }),
        (Type::S16, true) => op!(|a: i16; _i| -> i16 { a.wrapping_neg() }),
        (Type::S32, true) => op!(|a: i32; _i| -> i32 { a.wrapping_neg() }),
        (Type::S64, true) => op!(|a: i64; _i| -> i64 { a.wrapping_neg() }),
        (Type::S16, false) => op!(|a: i16; _i| -> i16 { a.wrapping_abs() }),
        (Type::S32, false) => op!(|a: i32; _i| -> i32 { a.wrapping_abs() }),
        (Type::S64, false) => op!(|a: i64; _i| -> i64 { a.wrapping_abs() }),
        _ => return None,
    };
    let class = match ty {
        Type::F32 => Class::F32,
        Type::F64 => Class::F64,
        Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => Class::Half,
        _ => Class::Integer,
    };
    Some((alu, 0, class))
}

fn logic(opcode: &str, mods: &Mods) -> Choice {
    let ty = mods.ty()?;
    if ty == Type::Pred {
        let alu = match opcode {
            "and" => op!(|a: bool, b: bool; _i| -> bool { a & b }),
            "or" => op!(|a: bool, b: bool; _i| -> bool { a | b }),
            "xor" => op!(|a: bool, b: bool; _i| -> bool { a ^ b }),
            "not" => op!(|a: bool; _i| -> bool { !a }),
            _ => return None,
        };
        return Some((alu, 0, Class::Predicate));
    }
    let alu = match opcode {
        "and" => by_bits!(ty, T => op!(|a: T, b: T; _i| -> T { a & b }))?,
        "or" => by_bits!(ty, T => op!(|a: T, b: T; _i| -> T { a | b }))?,
        "xor" => by_bits!(ty, T => op!(|a: T, b: T; _i| -> T { a ^ b }))?,
        "not" => by_bits!(ty, T => op!(|a: T; _i| -> T { !a }))?,
        "cnot" => by_bits!(ty, T => op!(|a: T; _i| -> T { (a == 0) as T }))?,
        "shl" => {
            by_bits!(ty, T => op!(|a: T, n: u32; _i| -> T { if n < T::BITS { a << n } else { 0 } }))?
        }
        _ => {
            by_int!(ty, T => op!(|a: T, n: u32; _i| -> T { a >> n.min(T::BITS - 1) >> (n >= T::BITS) as u32 }))?
        }
    };
    Some((alu, 0, Class::Integer))
}

fn bits(opcode: &str, mods: &Mods, operands: usize) -> Choice {
    let mut imm = 0;
    let alu = match opcode {
        "bfe" => {
            by_int!(mods.ty()?, T => op!(|a: T, pos: u32, len: u32; _i| -> T { T::narrow(extract(a, pos & 255, len & 255)) }))?
        }
        "bfi" => match mods.ty()? {
            Type::B32 => op!(|a: u32, b: u32, pos: u32, len: u32; _i| -> u32 {
                insert(a as u64, b as u64, pos, len, 32) as u32
            }),
            Type::B64 => {
                op!(|a: u64, b: u64, pos: u32, len: u32; _i| -> u64 { insert(a, b, pos, len, 64) })
            }
            _ => return None,
        },
        "bfind" => {
            imm = mods.take("shiftamt") as u32;
            match mods.ty()? {
                Type::U32 => op!(|a: u32; i| -> u32 { find_top(a as u64, 32, i) }),
                Type::S32 => {
                    op!(|a: i32; i| -> u32 { find_top((a ^ a >> 31) as u32 as u64, 32, i) })
                }
                Type::U64 => op!(|a: u64; i| -> u32 { find_top(a, 64, i) }),
                Type::S64 => op!(|a: i64; i| -> u32 { find_top((a ^ a >> 63) as u64, 64, i) }),
                _ => return None,
            }
        }
        "brev" => by_bits!(mods.ty()?, T => op!(|a: T; _i| -> T { a.reverse_bits() }))?,
        "clz" => by_bits!(mods.ty()?, T => op!(|a: T; _i| -> u32 { a.leading_zeros() }))?,
        "popc" => by_bits!(mods.ty()?, T => op!(|a: T; _i| -> u32 { a.count_ones() }))?,
        "fns" => {
            mods.ty()?;
            op!(|mask: u32, base: u32, offset: i32; _i| -> u32 { find_nth(mask, base, offset) })
        }
        "lop3" => {
            mods.ty()?;
            if operands != 5 {
                return None;
            }
            op!(|a: u32, b: u32, c: u32, lut: u32; _i| -> u32 { logic3(a, b, c, lut) })
        }
        "prmt" => {
            mods.ty()?;
            imm = mods
                .one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"])
                .map_or(0, |i| i as u32 + 1);
            op!(|a: u32, b: u32, c: u32; i| -> u32 { permute(a, b, c, i) })
        }
        "shf" => {
            let right = mods.one_of(&["l", "r"])? == 1;
            imm = mods.one_of(&["clamp", "wrap"])? as u32;
            mods.ty()?;
            if right {
                op!(|a: u32, b: u32, n: u32; i| -> u32 {
                    let n = if i == 1 { n & 31 } else { n.min(32) };
                    (((b as u64) << 32 | a as u64) >> n) as u32
                })
            } else {
                op!(|a: u32, b: u32, n: u32; i| -> u32 {
                    let n = if i == 1 { n & 31 } else { n.min(32) };
                    ((((b as u64) << 32 | a as u64) << n) >> 32) as u32
                })
            }
        }
        "bmsk" => {
            imm = mods.one_of(&["clamp", "wrap"])? as u32;
            mods.ty()?;
            op!(|a: u32, b: u32; i| -> u32 {
                let (a, b) = if i == 1 { (a & 31, b & 31) } else { (a, b.min(32)) };
                if a >= 32 { 0 } else { ((((1u64 << b) - 1) << a) & 0xffff_ffff) as u32 }
            })
        }
        _ => {
            imm = mods.one_of(&["clamp", "wrap"])? as u32;
            match mods.ty()? {
                Type::U32 => op!(|a: u32, n: u32; i| -> u32 {
                    let n = if i == 1 { n & 31 } else { n };
                    if n >= 32 { a } else { a & ((1u32 << n) - 1) }
                }),
                Type::S32 => op!(|a: i32, n: u32; i| -> i32 {
                    let n = if i == 1 { n & 31 } else { n };
                    if n >= 32 { a } else if n == 0 { 0 } else { a << (32 - n) >> (32 - n) }
                }),
                _ => return None,
            }
        }
    };
    Some((alu, imm, Class::Integer))
}

/// The bit field of `bfe`: beyond the top bit the field is filled with its own top bit.
#[inline(always)]
fn extract<T: Int>(a: T, pos: u32, len: u32) -> i128 {
    if len == 0 {
        return 0;
    }
    // Wide, a signed value already has its sign beyond the top bit, and an unsigned one has zeros there.
    let field = a.wide() >> pos.min(127);
    if len >= T::BITS {
        return field;
    }
    let signed = T::narrow(-1).wide() < 0;
    let cut = 128 - len;
    if signed { field << cut >> cut } else { field & ((1 << len) - 1) }
}

fn insert(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos >= width || len == 0 {
        return b;
    }
    let field = if len >= 64 { !0 } else { (1u64 << len) - 1 };
    let mask = field << pos;
    b & !mask | (a & field) << pos
}

/// `bfind`: position of the highest bit set, or the shift that brings it to the top; all ones where there is none.
fn find_top(a: u64, width: u32, shift_amount: u32) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    let top = 63 - a.leading_zeros();
    if shift_amount != 0 { width - 1 - top } else { top }
}

/// `fns`: the n-th set bit of the mask from a base, upward or (n < 0) downward; all ones where there is none.
pub(crate) fn find_nth(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    if offset == 0 {
        return if mask >> base & 1 == 1 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    let mut at = base as i32;
    while (0..32).contains(&at) {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += offset.signum();
    }
    u32::MAX
}

#[inline(always)]
fn logic3(a: u32, b: u32, c: u32, lut: u32) -> u32 {
    let mut r = 0;
    for i in 0..8 {
        let term = (if i & 4 != 0 { a } else { !a })
            & (if i & 2 != 0 { b } else { !b })
            & (if i & 1 != 0 { c } else { !c });
        r |= if lut >> i & 1 == 1 { term } else { 0 };
    }
    r
}

fn permute(a: u32, b: u32, c: u32, mode: u32) -> u32 {
    let source = (b as u64) << 32 | a as u64;
    let n = c & 3;
    let pick = |selectors: [u32; 4]| {
        let mut r = 0;
        for (i, s) in selectors.into_iter().enumerate() {
            let byte = (source >> ((s & 7) * 8)) as u8;
            let byte = if s & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
            r |= (byte as u32) << (8 * i);
        }
        r
    };
    match mode {
        0 => pick(std::array::from_fn(|i| c >> (4 * i) & 15)),
        1 => pick(std::array::from_fn(|i| n + i as u32)),
        2 => pick(std::array::from_fn(|i| n.wrapping_sub(i as u32) & 7)),
        3 => pick([n; 4]),
        4 => pick(std::array::from_fn(|i| n.max(i as u32))),
        5 => pick(std::array::from_fn(|i| n.min(i as u32))),
        _ => pick([(n & 1) * 2, (n & 1) * 2 + 1, (n & 1) * 2, (n & 1) * 2 + 1]),
    }
}

fn integer_sums(opcode: &str, mods: &Mods) -> Choice {
    let mut imm = 0;
    let alu = match opcode {
        "sad" => by_int!(mods.ty()?, T => op!(|a: T, b: T, c: T; _i| -> T {
            c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) })
        }))?,
        "mul24" | "mad24" => {
            let hi = mods.one_of(&["lo", "hi"])? == 1;
            imm = hi as u32 * 16;
            let sat = mods.take("sat");
            match (opcode, mods.ty()?, sat) {
                ("mul24", Type::U32, false) => op!(|a: u32, b: u32; i| -> u32 { low24u(a, b, i) }),
                ("mul24", Type::S32, false) => op!(|a: i32, b: i32; i| -> i32 { low24s(a, b, i) }),
                ("mad24", Type::U32, false) => {
                    op!(|a: u32, b: u32, c: u32; i| -> u32 { low24u(a, b, i).wrapping_add(c) })
                }
                ("mad24", Type::S32, false) => {
                    op!(|a: i32, b: i32, c: i32; i| -> i32 { low24s(a, b, i).wrapping_add(c) })
                }
                ("mad24", Type::S32, true) if hi => {
                    op!(|a: i32, b: i32, c: i32; i| -> i32 { low24s(a, b, i).saturating_add(c) })
                }
                _ => return None,
            }
        }
        _ => {
            let high = if opcode == "dp2a" { mods.one_of(&["lo", "hi"])? == 1 } else { false };
            let (x, y) = (mods.ty()?, mods.ty()?);
            imm = (x == Type::S32) as u32 | ((y == Type::S32) as u32) << 1 | (high as u32) << 2;
            if opcode == "dp4a" {
                op!(|a: u32, b: u32, c: u32; i| -> u32 {
                    let mut s = c;
                    for k in 0..4 {
                        s = s.wrapping_add(byte(a, k, i & 1).wrapping_mul(byte(b, k, i >> 1 & 1)) as u32);
                    }
                    s
                })
            } else {
                op!(|a: u32, b: u32, c: u32; i| -> u32 {
                    let mut s = c;
                    for k in 0..2 {
                        let x = if i & 1 != 0 { (a >> (16 * k)) as i16 as i32 } else { (a >> (16 * k)) as u16 as i32 };
                        s = s.wrapping_add(x.wrapping_mul(byte(b, k + 2 * (i >> 2 & 1), i >> 1 & 1)) as u32);
                    }
                    s
                })
            }
        }
    };
    Some((alu, imm, Class::Integer))
}

#[inline(always)]
fn byte(v: u32, k: u32, signed: u32) -> i32 {
    let b = (v >> (8 * k)) as u8;
    if signed != 0 { b as i8 as i32 } else { b as i32 }
}

#[inline(always)]
fn low24u(a: u32, b: u32, shift: u32) -> u32 {
    (((a as u64 & 0xff_ffff) * (b as u64 & 0xff_ffff)) >> shift) as u32
}

#[inline(always)]
fn low24s(a: i32, b: i32, shift: u32) -> i32 {
    (((a << 8 >> 8) as i64 * (b << 8 >> 8) as i64) >> shift) as i32
}

/// `setp`: one or two predicates. A third operand joins them with another predicate.
fn setp(mods: &Mods, operands: usize, two: bool) -> Choice {
    let mut imm = mods.one_of(&COMPARISONS)? as u32;
    imm |= mods.one_of(&["and", "or", "xor"]).map_or(0, |i| (i as u32 + 1) << 8);
    if mods.take("ftz") {
        imm |= SET_FTZ;
    }
    let ty = mods.ty()?;
    macro_rules! forms {
        ($a:ident, $b:ident, $t:ty, $v:expr, $i:ident) => {
            match (two, operands) {
                (false, 3) => op!(|$a: $t, $b: $t; $i| -> bool { $v }),
                (false, _) => op!(|$a: $t, $b: $t, c: bool; $i| -> bool { join($v, c, $i) }),
                (true, 3) => op!(|$a: $t, $b: $t; $i| -> (bool, bool) ($v, !$v)),
                (true, _) => op!(|$a: $t, $b: $t, c: bool; $i| -> (bool, bool) (join($v, c, $i), join(!$v, c, $i))),
            }
        };
    }
    let alu = match ty {
        Type::F32 => forms!(a, b, f32, compare(flush_if(a, i), flush_if(b, i), i), i),
        Type::F64 => forms!(a, b, f64, compare(a, b, i), i),
        Type::F16 => forms!(a, b, u16, compare(flush16_if(a, i), flush16_if(b, i), i), i),
        Type::Bf16 => forms!(a, b, u16, compare(from_bf16(a), from_bf16(b), i), i),
        // Packed: p compares the low halves, q the high ones.
        Type::F16x2 | Type::Bf16x2 => {
            imm |= ((ty == Type::Bf16x2) as u32) << 11;
            if operands == 3 {
                op!(|a: u32, b: u32; i| -> (bool, bool) (packed(a, b, 0, i), packed(a, b, 16, i)))
            } else {
                op!(|a: u32, b: u32, c: bool; i| -> (bool, bool)
                    (join(packed(a, b, 0, i), c, i), join(packed(a, b, 16, i), c, i)))
            }
        }
        _ => by_int!(ty, T => forms!(a, b, T, compare(a, b, i), i))?,
    };
    Some((alu, imm, Class::Predicate))
}

fn packed(a: u32, b: u32, shift: u32, imm: u32) -> bool {
    let value = |v: u32| {
        let h = (v >> shift) as u16;
        if imm >> 11 & 1 == 1 { from_bf16(h) } else { flush16_if(h, imm) }
    };
    compare(value(a), value(b), imm)
}

/// `set`: the comparison as a number: all ones for integers, 1.0 for floats.
fn set(mods: &Mods, operands: usize) -> Choice {
    let mut imm = mods.one_of(&COMPARISONS)? as u32;
    imm |= mods.one_of(&["and", "or", "xor"]).map_or(0, |i| (i as u32 + 1) << 8);
    if mods.take("ftz") {
        imm |= SET_FTZ;
    }
    let (to, from) = (mods.ty()?, mods.ty()?);
    let one: u32 = match to {
        Type::F32 => 1.0f32.to_bits(),
        Type::U32 | Type::S32 | Type::B32 => !0,
        Type::F16 => 0x3c00,
        Type::Bf16 => 0x3f80,
        Type::U16 | Type::S16 => 0xffff,
        Type::F16x2 => 0x3c00,
        Type::Bf16x2 => 0x3f80,
        _ => return None,
    };
    let packed_source = matches!(from, Type::F16x2 | Type::Bf16x2);
    imm |= ((from == Type::Bf16x2) as u32) << 11
        | (if one == !0 && packed_source { 0xffff } else { one & 0xffff }) << 12;
    macro_rules! forms {
        ($a:ident, $b:ident, $t:ty, $v:expr, $i:ident) => {
            match (one, operands) {
                (u32::MAX, 3) => op!(|$a: $t, $b: $t; $i| -> u32 { if $v { !0 } else { 0 } }),
                (u32::MAX, _) => op!(|$a: $t, $b: $t, c: bool; $i| -> u32 { if join($v, c, $i) { !0 } else { 0 } }),
                (0x3f80_0000, 3) => op!(|$a: $t, $b: $t; $i| -> f32 { if $v { 1.0 } else { 0.0 } }),
                (0x3f80_0000, _) => op!(|$a: $t, $b: $t, c: bool; $i| -> f32 { if join($v, c, $i) { 1.0 } else { 0.0 } }),
                (_, 3) => op!(|$a: $t, $b: $t; $i| -> u16 { if $v { ($i >> 12) as u16 } else { 0 } }),
                (_, _) => op!(|$a: $t, $b: $t, c: bool; $i| -> u16 { if join($v, c, $i) { ($i >> 12) as u16 } else { 0 } }),
            }
        };
    }
    let alu = match from {
        Type::F32 => forms!(a, b, f32, compare(flush_if(a, i), flush_if(b, i), i), i),
        Type::F64 => forms!(a, b, f64, compare(a, b, i), i),
        Type::F16 => forms!(a, b, u16, compare(flush16_if(a, i), flush16_if(b, i), i), i),
        Type::Bf16 => forms!(a, b, u16, compare(from_bf16(a), from_bf16(b), i), i),
        Type::F16x2 | Type::Bf16x2 if operands == 3 => op!(|a: u32, b: u32; i| -> u32 {
            (if packed(a, b, 0, i) { i >> 12 & 0xffff } else { 0 }) | if packed(a, b, 16, i) { (i >> 12 & 0xffff) << 16 } else { 0 }
        }),
        _ => by_int!(from, T => forms!(a, b, T, compare(a, b, i), i))?,
    };
    Some((alu, imm, Class::Predicate))
}

fn moves(opcode: &str, mods: &Mods) -> Choice {
    let ftz = mods.take("ftz");
    let ty = mods.ty()?;
    let alu = match opcode {
        "mov" if ty == Type::Pred => op!(|a: bool; _i| -> bool { a }),
        "mov" => match ty {
            Type::F32 => op!(|a: f32; _i| -> f32 { a }),
            Type::F64 => op!(|a: f64; _i| -> f64 { a }),
            _ => by_bits!(ty, T => op!(|a: T; _i| -> T { a }))?,
        },
        "selp" => match ty {
            Type::F32 => op!(|a: f32, b: f32, c: bool; _i| -> f32 { if c { a } else { b } }),
            Type::F64 => op!(|a: f64, b: f64, c: bool; _i| -> f64 { if c { a } else { b } }),
            _ => by_bits!(ty, T => op!(|a: T, b: T, c: bool; _i| -> T { if c { a } else { b } }))?,
        },
        _ => {
            let by = mods.ty()?;
            match (by, ty) {
                (Type::S32, Type::F32) => {
                    op!(|a: f32, b: f32, c: i32; _i| -> f32 { if c >= 0 { a } else { b } })
                }
                (Type::S32, Type::F64) => {
                    op!(|a: f64, b: f64, c: i32; _i| -> f64 { if c >= 0 { a } else { b } })
                }
                (Type::S32, _) => {
                    by_bits!(ty, T => op!(|a: T, b: T, c: i32; _i| -> T { if c >= 0 { a } else { b } }))?
                }
                (Type::F32, Type::F32) => op!(|a: f32, b: f32, c: f32; i| -> f32 {
                    if input(c, i) >= 0.0 { a } else { b }
                }),
                (Type::F32, Type::F64) => op!(|a: f64, b: f64, c: f32; i| -> f64 {
                    if input(c, i) >= 0.0 { a } else { b }
                }),
                (Type::F32, _) => by_bits!(ty, T => op!(|a: T, b: T, c: f32; i| -> T {
                    if input(c, i) >= 0.0 { a } else { b }
                }))?,
                _ => return None,
            }
        }
    };
    Some((alu, flags(Round::Near, ftz, false, false), Class::Move))
}

fn testp(mods: &Mods) -> Choice {
    let imm =
        mods.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])? as u32;
    let alu = match mods.ty()? {
        Type::F32 => op!(|a: f32; i| -> bool { property(a.classify(), i) }),
        Type::F64 => op!(|a: f64; i| -> bool { property(a.classify(), i) }),
        _ => return None,
    };
    Some((alu, imm, Class::Predicate))
}

fn property(category: std::num::FpCategory, which: u32) -> bool {
    use std::num::FpCategory::*;
    match which {
        0 => !matches!(category, Nan | Infinite),
        1 => category == Infinite,
        2 => category != Nan,
        3 => category == Nan,
        // A zero counts as normal (PTX ISA, `testp`).
        4 => matches!(category, Normal | Zero),
        _ => category == Subnormal,
    }
}

/// A special function on a single, computed in double and rounded.
macro_rules! unary {
    ($a:ident => $e:expr) => {
        op!(|v: f32; i| -> f32 {
            let $a = input(v, i) as f64;
            let r = canon($e as f32);
            if i & FTZ != 0 { flush(r) } else { r }
        })
    };
}

fn special(opcode: &str, mods: &Mods) -> Choice {
    let approximate = mods.take("approx");
    let round = mods.round();
    let ftz = mods.take("ftz");
    let ty = mods.ty()?;
    let class = if approximate { Class::Special } else { Class::F32 };
    let f = flags(round, ftz, false, false);
    let alu = match (opcode, ty) {
        ("rcp", Type::F32) if round == Round::Near => unary!(a => 1.0 / a),
        ("rcp", Type::F32) => {
            op!(|a: f32; i| -> f32 { output(float::div_odd(1.0, input(a, i) as f64), i) })
        }
        ("sqrt", Type::F32) if round == Round::Near => unary!(a => a.sqrt()),
        ("sqrt", Type::F32) => {
            op!(|a: f32; i| -> f32 { output(float::sqrt_odd(input(a, i) as f64), i) })
        }
        ("rsqrt", Type::F32) => unary!(a => 1.0 / a.sqrt()),
        ("sin", Type::F32) => unary!(a => a.sin()),
        ("cos", Type::F32) => unary!(a => a.cos()),
        ("lg2", Type::F32) => unary!(a => a.log2()),
        ("ex2", Type::F32) => unary!(a => a.exp2()),
        ("tanh", Type::F32) => unary!(a => a.tanh()),
        // The approximate reciprocal of a double looks at its upper word only.
        ("rcp", Type::F64) if approximate => op!(|a: f64; _i| -> f64 { upper(1.0 / upper(a)) }),
        ("rsqrt", Type::F64) if approximate => {
            op!(|a: f64; _i| -> f64 { upper(1.0 / upper(a).sqrt()) })
        }
        ("rcp", Type::F64) => op!(|a: f64; i| -> f64 { super::wide::div64(1.0, a, round_of(i)) }),
        ("sqrt", Type::F64) => op!(|a: f64; i| -> f64 { super::wide::sqrt64(a, round_of(i)) }),
        ("ex2", Type::F16) => op!(|a: u16; i| -> u16 { finish_f16(f16_in(a, i).exp2(), i) }),
        ("ex2", Type::F16x2) => {
            op!(|a: u32; i| -> u32 { halves(a, 0, |x, _| finish_f16(f16_in(x, i).exp2(), i)) })
        }
        ("ex2", Type::Bf16) => op!(|a: u16; _i| -> u16 { finish_bf16(bf16_in(a).exp2(), 0) }),
        ("ex2", Type::Bf16x2) => {
            op!(|a: u32; _i| -> u32 { halves(a, 0, |x, _| finish_bf16(bf16_in(x).exp2(), 0)) })
        }
        ("tanh", Type::F16) => op!(|a: u16; i| -> u16 { finish_f16(f16_in(a, i).tanh(), i) }),
        ("tanh", Type::F16x2) => {
            op!(|a: u32; i| -> u32 { halves(a, 0, |x, _| finish_f16(f16_in(x, i).tanh(), i)) })
        }
        ("tanh", Type::Bf16) => op!(|a: u16; _i| -> u16 { finish_bf16(bf16_in(a).tanh(), 0) }),
        ("tanh", Type::Bf16x2) => {
            op!(|a: u32; _i| -> u32 { halves(a, 0, |x, _| finish_bf16(bf16_in(x).tanh(), 0)) })
        }
        _ => return None,
    };
    Some((alu, f, if ty == Type::F64 && !approximate { Class::F64 } else { class }))
}

/// A double without its lower word.
fn upper(v: f64) -> f64 {
    f64::from_bits(v.to_bits() & !0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields_at_the_edges() {
        assert_eq!(u32::narrow(extract(0x8000_0000u32, 31, 4)), 1);
        assert_eq!(i32::narrow(extract(0x8000_0000u32 as i32, 31, 4)), -1);
        assert_eq!(i32::narrow(extract(0x40i32, 6, 1)), -1);
        assert_eq!(i32::narrow(extract(-1i32, 40, 3)), -1);
        assert_eq!(u32::narrow(extract(!0u32, 40, 3)), 0);
        assert_eq!(i64::narrow(extract(i64::MIN, 63, 0)), 0);
        assert_eq!(insert(0xff, 0, 28, 8, 32) as u32, 0xf000_0000);
        assert_eq!(insert(0xff, 5, 32, 8, 32), 5);
        assert_eq!(insert(!0, 0, 0, 64, 64), !0);
    }

    #[test]
    fn permutes() {
        let (a, b) = (0x3322_1100, 0x7766_5544);
        assert_eq!(permute(a, b, 0x7531, 0), 0x7755_3311);
        assert_eq!(permute(0x80, b, 0x8888, 0), 0xffff_ffff);
        assert_eq!(permute(a, b, 1, 1), 0x4433_2211);
        assert_eq!(permute(a, b, 1, 2), 0x6677_0011);
        assert_eq!(permute(a, b, 2, 3), 0x2222_2222);
        assert_eq!(permute(a, b, 2, 4), 0x3322_2222);
        assert_eq!(permute(a, b, 2, 5), 0x2222_1100);
        assert_eq!(permute(a, b, 1, 6), 0x3322_3322);
    }

    #[test]
    fn nth_set_bits() {
        assert_eq!(find_nth(0b1010, 0, 1), 1);
        assert_eq!(find_nth(0b1010, 1, 2), 3);
        assert_eq!(find_nth(0b1010, 3, -2), 1);
        assert_eq!(find_nth(0b1010, 3, 0), 3);
        assert_eq!(find_nth(0b1010, 2, 0), u32::MAX);
        assert_eq!(logic3(0b1100, 0b1010, 0b0110, 0x96), 0b1100 ^ 0b1010 ^ 0b0110);
    }
}
