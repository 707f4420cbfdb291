//! `mma.sync`, `ldmatrix` and `stmatrix`: every position of every fragment holds a value of its own, so that any
//! permutation of a layout shows.

mod common;

use common::exact::{BF16, F16, F32, Format, TF32, bits};
use common::*;

/// Distinct nonzero integers ±1 … ±128 in an arbitrary order: exact in every format, as are their sums of products.
fn distinct(count: usize, seed: u64) -> Vec<f64> {
    let mut values: Vec<f64> =
        (0..256).map(|i| f64::from(if i < 128 { i + 1 } else { 127 - i })).collect();
    let mut random = Random::new(seed);
    for i in (1..256).rev() {
        values.swap(i, random.next() as usize % (i + 1));
    }
    values.truncate(count);
    values
}

/// Where lane and element of a fragment lie in its matrix.
type Layout = fn(usize, usize) -> (usize, usize);

struct Mma {
    /// As in the instruction: shape and types.
    name: &'static str,
    depth: usize,
    format: Format,
    /// Elements of A and of B in one lane.
    counts: (usize, usize),
    a: Layout,
    b: Layout,
}

/// The accumulator's layout, the same in all of them.
fn accumulator(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

const fn deep(name: &'static str, format: Format) -> Mma {
    Mma {
        name,
        depth: 16,
        format,
        counts: (8, 4),
        a: |lane, i| (lane / 4 + 8 * (i / 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i / 4)),
        b: |lane, i| (lane % 4 * 2 + i % 2 + 8 * (i / 2), lane / 4),
    }
}

const fn shallow(name: &'static str, format: Format) -> Mma {
    Mma {
        name,
        depth: 8,
        format,
        counts: (4, 2),
        a: |lane, i| (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2),
        b: |lane, i| (lane % 4 * 2 + i, lane / 4),
    }
}

const FORMS: [Mma; 6] = [
    deep("m16n8k16.row.col.f32.f16.f16.f32", F16),
    deep("m16n8k16.row.col.f32.bf16.bf16.f32", BF16),
    shallow("m16n8k8.row.col.f32.f16.f16.f32", F16),
    shallow("m16n8k8.row.col.f32.bf16.bf16.f32", BF16),
    Mma {
        name: "m16n8k8.row.col.f32.tf32.tf32.f32",
        depth: 8,
        format: TF32,
        counts: (4, 2),
        a: |lane, i| (lane / 4 + 8 * (i % 2), lane % 4 + 4 * (i / 2)),
        b: |lane, i| (lane % 4 + 4 * i, lane / 4),
    },
    Mma {
        name: "m16n8k4.row.col.f32.tf32.tf32.f32",
        depth: 4,
        format: TF32,
        counts: (2, 1),
        a: |lane, i| (lane / 4 + 8 * i, lane % 4),
        b: |lane, _| (lane % 4, lane / 4),
    },
];

impl Mma {
    /// A fragment's registers in one lane.
    fn pack(
        &self,
        matrix: &[f64],
        columns: usize,
        lane: usize,
        count: usize,
        layout: Layout,
    ) -> Vec<u64> {
        let element = |i: usize| {
            let (row, column) = layout(lane, i);
            bits(self.format, matrix[row * columns + column])
        };
        if self.format == TF32 {
            return (0..count).map(|i| element(i) << 13).collect();
        }
        (0..count / 2).map(|i| element(2 * i) | element(2 * i + 1) << 16).collect()
    }

    fn check(&self, t: &Table, a: &[f64], b: &[f64], c: &[f64]) {
        let (in_a, in_b) = self.counts;
        let per = if self.format == TF32 { 1 } else { 2 };
        let (regs_a, regs_b) = (in_a / per, in_b / per);
        let rows: Vec<Vec<u64>> = (0..32)
            .map(|lane| {
                let mut row = self.pack(a, self.depth, lane, in_a, self.a);
                row.extend(self.pack(b, 8, lane, in_b, self.b));
                row.extend((0..4).map(|i| {
                    let (r, n) = accumulator(lane, i);
                    bits(F32, c[r * 8 + n])
                }));
                row
            })
            .collect();
        let names: Vec<&str> = "a b c e f g h i j k".split(' ').collect();
        let list = |from: usize, count: usize| names[from..from + count].join(", ");
        let op = format!(
            "mma.sync.aligned.{} {{d, x, y, z}}, {{{}}}, {{{}}}, {{{}}};",
            self.name,
            list(0, regs_a),
            list(regs_a, regs_b),
            list(regs_a + regs_b, 4)
        );
        let signature =
            format!("{}f32 f32 f32 f32 -> f32 f32 f32 f32", "b32 ".repeat(regs_a + regs_b));
        let want: Vec<Vec<u64>> = (0..32)
            .map(|lane| {
                let element = |i: usize| {
                    let (r, n) = accumulator(lane, i);
                    let sum: f64 =
                        (0..self.depth).map(|k| a[r * self.depth + k] * b[k * 8 + n]).sum();
                    bits(F32, c[r * 8 + n] + sum)
                };
                (0..4).map(element).collect()
            })
            .collect();
        t.check_all(&op, &signature, &rows, &want);
    }
}

#[test]
fn mma_of_distinct_values() {
    for seed in [0, 1] {
        let t = table().with(|c| c.seed = seed);
        for form in &FORMS {
            let a = distinct(16 * form.depth, 1);
            let b = distinct(form.depth * 8, 2);
            let c: Vec<f64> = distinct(128, 3).iter().map(|v| v * 0.25).collect();
            form.check(&t, &a, &b, &c);
        }
    }
}

/// A single product at a time: row r, depth k, column n all appear.
#[test]
fn mma_of_single_elements() {
    let t = table();
    for form in &FORMS {
        let zeros = vec![0.0; 128];
        for k in 0..form.depth {
            let mut a = vec![0.0; 16 * form.depth];
            let mut b = vec![0.0; form.depth * 8];
            for r in 0..16 {
                a[r * form.depth + k] = r as f64 + 1.0;
            }
            for n in 0..8 {
                b[k * 8 + n] = 17.0 * (n as f64 + 1.0);
            }
            form.check(&t, &a, &b, &zeros);
        }
    }
}

#[test]
fn mma_keeps_infinities_and_not_a_number_in_their_row() {
    let t = table();
    for form in &FORMS {
        let mut a = vec![1.0; 16 * form.depth];
        let mut b = vec![2.0; form.depth * 8];
        let c = vec![0.5; 128];
        a[3 * form.depth + 1] = f64::INFINITY;
        a[9 * form.depth] = f64::NAN;
        b[8 * 2 + 5] = 0.0;
        form.check(&t, &a, &b, &c);
        a[4 * form.depth + 2] = f64::NEG_INFINITY;
        // −∞ · 0 in column 5 is not a number.
        form.check(&t, &a, &b, &c);
    }
}

#[test]
fn mma_reads_subnormal_f16_and_accumulates_in_f32() {
    let t = table();
    for form in FORMS.iter().filter(|f| f.format == F16) {
        let mut a = vec![0.0; 16 * form.depth];
        let mut b = vec![0.0; form.depth * 8];
        // 2⁻²⁴, the least f16, and 60000 · 60000, beyond the largest.
        a[0] = (-24f64).exp2();
        b[0] = 3.0;
        a[form.depth + 1] = 60000.0;
        b[8 + 1] = 60000.0;
        form.check(&t, &a, &b, &vec![0.0; 128]);
    }
}

/// The row of 16 bytes whose address lane `i` gives lies at this offset: no two overlap, none in order.
fn place(row: usize) -> usize {
    (row * 11 + 5) % 32 * 48 + 16
}

fn half(row: usize, column: usize) -> u64 {
    (0x1000 + row * 8 + column) as u64
}

/// A kernel whose lanes each write their row of eight halves to shared memory, then run `op` with registers
/// `at` (the address of the lane's own row), `r0` … `r3`, and store those.
fn matrix_kernel(header: &str, op: &str) -> String {
    kernel_for(
        header,
        ".shared .align 16 .b8 tile[2048];",
        &format!(
            "
    .reg .b32 at, r0, r1, r2, r3, w0, w1, w2, w3, t;
    .reg .b64 slot;
    mov.u32 r0, 0;
    mov.u32 r1, 0;
    mov.u32 r2, 0;
    mov.u32 r3, 0;
    mad.lo.u32 at, lane, 11, 5;
    and.b32 at, at, 31;
    mad.lo.u32 at, at, 48, 16;
    mov.u32 t, tile;
    add.u32 at, at, t;
    mad.wide.u32 slot, lane, 16, in;
    ld.global.v4.b32 {{w0, w1, w2, w3}}, [slot];
    st.shared.v4.b32 [at], {{w0, w1, w2, w3}};
    bar.warp.sync -1;
    {op}
    bar.warp.sync -1;
    mad.wide.u32 slot, lane, 16, out;
    st.global.v4.b32 [slot], {{r0, r1, r2, r3}};"
        ),
    )
}

fn rows_of_halves() -> Vec<u32> {
    let pair = |row: usize, i: usize| (half(row, 2 * i) | half(row, 2 * i + 1) << 16) as u32;
    (0..32).flat_map(|row| (0..4).map(move |i| pair(row, i))).collect()
}

#[test]
fn ldmatrix_of_one_two_and_four_with_and_without_transposition() {
    assert!((0..32).all(|i| (0..i).all(|j| place(i) != place(j))));
    for seed in [0, 1] {
        for (count, registers) in [(1, "{r0}"), (2, "{r0, r1}"), (4, "{r0, r1, r2, r3}")] {
            for transposed in [false, true] {
                // Only the first 8·count lanes give addresses: the others' are not looked at.
                let op = format!(
                    ".reg .pred idle;
    setp.ge.u32 idle, lane, {};
    @idle mov.u32 at, 0xfffffff1;
    ldmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 {registers}, [at];",
                    8 * count,
                    if transposed { ".trans" } else { "" }
                );
                let ptx = matrix_kernel(HEADER, &op);
                let (got, _) = shape(1, 32)
                    .seed(seed)
                    .run(&ptx, &rows_of_halves(), 128)
                    .unwrap_or_else(|f| panic!("{f}"));
                for lane in 0..32 {
                    for m in 0..4 {
                        let (row, column) = (lane / 4, lane % 4 * 2);
                        let two = if transposed {
                            [half(8 * m + column, row), half(8 * m + column + 1, row)]
                        } else {
                            [half(8 * m + row, column), half(8 * m + row, column + 1)]
                        };
                        let want = if m < count { (two[0] | two[1] << 16) as u32 } else { 0 };
                        assert_eq!(
                            got[4 * lane + m],
                            want,
                            "x{count} transposed {transposed} lane {lane} matrix {m}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn stmatrix_of_one_two_and_four_with_and_without_transposition() {
    for (count, registers) in [(1, "{r0}"), (2, "{r0, r1}"), (4, "{r0, r1, r2, r3}")] {
        for transposed in [false, true] {
            // Lane and matrix are in every half that is stored; afterwards each lane reads its own row back.
            let op = format!(
                ".reg .b32 base;
    mad.lo.u32 base, lane, 0x00020002, 0x00010000;
    mov.u32 r0, base;
    add.u32 r1, base, 0x01000100;
    add.u32 r2, base, 0x02000200;
    add.u32 r3, base, 0x03000300;
    stmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 [at], {registers};
    bar.warp.sync -1;
    ld.shared.v4.b32 {{r0, r1, r2, r3}}, [at];",
                if transposed { ".trans" } else { "" }
            );
            let ptx = matrix_kernel(HEADER_90, &op);
            let (got, _) =
                shape(1, 32).run(&ptx, &rows_of_halves(), 128).unwrap_or_else(|f| panic!("{f}"));
            for row in 0..32 {
                for column in 0..8 {
                    let stored = |m: usize, i: usize, j: usize| {
                        let (i, j) = if transposed { (j, i) } else { (i, j) };
                        // Element (i, j) of matrix m is in lane 4 i + j / 2, its lower or upper half.
                        (m * 0x100 + (4 * i + j / 2) * 2 + j % 2) as u32
                    };
                    let want = if row < 8 * count {
                        stored(row / 8, row % 8, column)
                    } else {
                        half(row, column) as u32
                    };
                    let have = got[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
                    assert_eq!(
                        have, want,
                        "x{count} transposed {transposed} row {row} column {column}"
                    );
                }
            }
        }
    }
}

/// The same product through shared memory, as kernels do it: ldmatrix of A, ldmatrix.trans of a row-major B.
#[test]
fn ldmatrix_feeds_mma() {
    let ptx = kernel(
        ".shared .align 16 .b8 sa[512];\n.shared .align 16 .b8 sb[256];",
        "
    .reg .b32 a<4>, b<2>, d<4>, t, u, pa, pb;
    .reg .b64 at;
    .reg .pred low;
    .reg .b32 w<4>;
    mov.u32 pa, sa;
    mov.u32 pb, sb;
    // A: 16 rows of 32 bytes; each lane copies 16 bytes.
    mad.wide.u32 at, lane, 16, in;
    ld.global.v4.b32 {w0, w1, w2, w3}, [at];
    mad.lo.u32 t, lane, 16, pa;
    st.shared.v4.b32 [t], {w0, w1, w2, w3};
    // B: 16 rows of 16 bytes.
    setp.lt.u32 low, lane, 16;
    @low ld.global.v4.b32 {w0, w1, w2, w3}, [at+512];
    mad.lo.u32 u, lane, 16, pb;
    @low st.shared.v4.b32 [u], {w0, w1, w2, w3};
    bar.sync 0;
    // Lane l gives row l % 16 of the column block l / 16.
    and.b32 t, lane, 15;
    shr.u32 u, lane, 4;
    shl.b32 u, u, 4;
    mad.lo.u32 t, t, 32, u;
    add.u32 t, t, pa;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {a0, a1, a2, a3}, [t];
    and.b32 u, lane, 15;
    mad.lo.u32 u, u, 16, pb;
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {b0, b1}, [u];
    mov.b32 d0, 0;
    mov.b32 d1, 0;
    mov.b32 d2, 0;
    mov.b32 d3, 0;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {d0, d1, d2, d3}, {a0, a1, a2, a3}, {b0, b1}, {d0, d1, d2, d3};
    mad.wide.u32 at, lane, 16, out;
    st.global.v4.b32 [at], {d0, d1, d2, d3};",
    );
    let (a, b) = (distinct(256, 8), distinct(128, 9));
    let pack = |m: &[f64]| -> Vec<u32> {
        m.chunks(2).map(|p| (bits(F16, p[0]) | bits(F16, p[1]) << 16) as u32).collect()
    };
    let input: Vec<u32> = pack(&a).into_iter().chain(pack(&b)).collect();
    for seed in 0..4 {
        let (got, _) =
            shape(1, 32).seed(seed).run(&ptx, &input, 128).unwrap_or_else(|f| panic!("{f}"));
        for lane in 0..32 {
            for i in 0..4 {
                let (r, n) = accumulator(lane, i);
                let sum: f64 = (0..16).map(|k| a[r * 16 + k] * b[k * 8 + n]).sum();
                assert_eq!(f64::from(f32::from_bits(got[4 * lane + i])), sum, "row {r} column {n}");
            }
        }
    }
}

/// A form of other types: integers, f64, or f16 accumulators. `small` bounds the values so that all sums are exact.
struct Other {
    name: &'static str,
    shape: (usize, usize, usize),
    /// Bits of an element of A and B, and of C and D.
    bits: (usize, usize),
    /// Elements of A, B and C in one lane.
    counts: (usize, usize, usize),
    a: Layout,
    b: Layout,
    c: Layout,
    encode: fn(f64) -> u64,
    result: fn(f64) -> u64,
    values: (f64, f64),
}

fn byte(value: f64) -> u64 {
    value as i64 as u64 & 0xff
}

fn word(value: f64) -> u64 {
    value as i64 as u64 & 0xffff_ffff
}

fn half_bits(value: f64) -> u64 {
    bits(F16, value)
}

const BYTES_32: Other = Other {
    name: "m16n8k32.row.col.s32.s8.s8.s32",
    shape: (16, 8, 32),
    bits: (8, 32),
    counts: (16, 8, 4),
    a: |lane, i| (lane / 4 + 8 * (i / 4 % 2), lane % 4 * 4 + i % 4 + 16 * (i / 8)),
    b: |lane, i| (lane % 4 * 4 + i % 4 + 16 * (i / 4), lane / 4),
    c: accumulator,
    encode: byte,
    result: word,
    values: (-128.0, 127.0),
};

const OTHERS: [Other; 6] = [
    BYTES_32,
    Other { name: "m16n8k32.row.col.s32.u8.u8.s32", values: (0.0, 255.0), ..BYTES_32 },
    Other {
        name: "m16n8k16.row.col.s32.s8.s8.s32",
        shape: (16, 8, 16),
        counts: (8, 4, 4),
        a: |lane, i| (lane / 4 + 8 * (i / 4), lane % 4 * 4 + i % 4),
        b: |lane, i| (lane % 4 * 4 + i, lane / 4),
        ..BYTES_32
    },
    Other {
        name: "m8n8k4.row.col.f64.f64.f64.f64",
        shape: (8, 8, 4),
        bits: (64, 64),
        counts: (1, 1, 2),
        a: |lane, _| (lane / 4, lane % 4),
        b: |lane, _| (lane % 4, lane / 4),
        c: |lane, i| (lane / 4, lane % 4 * 2 + i),
        encode: f64::to_bits,
        result: f64::to_bits,
        values: (-1000.0, 1000.0),
    },
    Other {
        name: "m16n8k16.row.col.f16.f16.f16.f16",
        shape: (16, 8, 16),
        bits: (16, 16),
        counts: (8, 4, 4),
        a: |lane, i| (lane / 4 + 8 * (i / 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i / 4)),
        b: |lane, i| (lane % 4 * 2 + i % 2 + 8 * (i / 2), lane / 4),
        c: accumulator,
        encode: half_bits,
        result: half_bits,
        values: (-8.0, 8.0),
    },
    Other {
        name: "m16n8k8.row.col.f16.f16.f16.f16",
        shape: (16, 8, 8),
        bits: (16, 16),
        counts: (4, 2, 4),
        a: |lane, i| (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2),
        b: |lane, i| (lane % 4 * 2 + i, lane / 4),
        c: accumulator,
        encode: half_bits,
        result: half_bits,
        values: (-8.0, 8.0),
    },
];

#[test]
fn mma_of_bytes_doubles_and_f16_accumulators() {
    let t = table();
    let mut random = Random::new(12);
    for form in &OTHERS {
        let (m, n, k) = form.shape;
        let (low, high) = form.values;
        let mut matrix = |count: usize| -> Vec<f64> {
            (0..count).map(|_| low + (random.next() % (high - low + 1.0) as u64) as f64).collect()
        };
        let (a, b, c) = (matrix(m * k), matrix(k * n), matrix(m * n));
        let width = form.bits.0.max(32);
        let pack = |values: Vec<u64>, bits: usize| -> Vec<u64> {
            let each = (width / bits).max(1);
            let join =
                |p: &[u64]| p.iter().rev().fold(0u64, |sum, v| sum.unbounded_shl(bits as u32) | v);
            values.chunks(each).map(join).collect()
        };
        let fragment = |matrix: &[f64],
                        columns: usize,
                        layout: Layout,
                        count: usize,
                        lane: usize|
         -> Vec<f64> {
            (0..count).map(|i| layout(lane, i)).map(|(r, c)| matrix[r * columns + c]).collect()
        };
        let encoded =
            |values: Vec<f64>, f: fn(f64) -> u64| values.into_iter().map(f).collect::<Vec<u64>>();
        let products: Vec<f64> = (0..m * n)
            .map(|i| c[i] + (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum::<f64>())
            .collect();
        let (mut rows, mut want, mut lengths) = (Vec::new(), Vec::new(), [0; 3]);
        for lane in 0..32 {
            let fa = pack(
                encoded(fragment(&a, k, form.a, form.counts.0, lane), form.encode),
                form.bits.0,
            );
            let fb = pack(
                encoded(fragment(&b, n, form.b, form.counts.1, lane), form.encode),
                form.bits.0,
            );
            let fc = pack(
                encoded(fragment(&c, n, form.c, form.counts.2, lane), form.result),
                form.bits.1,
            );
            lengths = [fa.len(), fb.len(), fc.len()];
            rows.push([fa, fb, fc].concat());
            want.push(pack(
                encoded(fragment(&products, n, form.c, form.counts.2, lane), form.result),
                form.bits.1,
            ));
        }
        let inputs: Vec<&str> = "a b c e f g h i j k".split(' ').collect();
        let outputs = ["d", "x", "y", "z"];
        let [la, lb, lc] = lengths;
        let op = format!(
            "mma.sync.aligned.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};",
            form.name,
            outputs[..lc].join(", "),
            inputs[..la].join(", "),
            inputs[la..la + lb].join(", "),
            inputs[la + lb..la + lb + lc].join(", ")
        );
        let kind = match (width, form.bits.1) {
            (64, _) => "f64",
            (_, 16) => "f16x2",
            _ => "b32",
        };
        // Registers of f64 are typed: the instruction takes no others.
        let signature = format!(
            "{}-> {}",
            format!("b{width} ").repeat(la + lb + lc),
            [kind].repeat(lc).join(" ")
        );
        t.check_all(&op, &signature, &rows, &want);
    }
}

#[test]
fn movmatrix_transposes() {
    let t = table();
    let rows: Vec<Vec<u64>> = (0..32)
        .map(|lane| vec![half(lane / 4, lane % 4 * 2) | half(lane / 4, lane % 4 * 2 + 1) << 16])
        .collect();
    let want: Vec<Vec<u64>> = (0..32)
        .map(|lane| vec![half(lane % 4 * 2, lane / 4) | half(lane % 4 * 2 + 1, lane / 4) << 16])
        .collect();
    t.check_all("movmatrix.sync.aligned.m8n8.trans.b16 d, a;", "b32 -> b32", &rows, &want);
}
