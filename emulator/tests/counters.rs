//! Counters of kernels whose numbers can be counted by hand.

mod common;

use common::*;
use cuda_emulator::report::{Class, Counters};

/// Seed 0 never splits a warp: the counts are those of a converged machine.
fn count(shape: Shape, ptx: &str, words: usize) -> Counters {
    let input = vec![0x3f80_0000; words];
    shape.seed(0).run(ptx, &input, words).unwrap_or_else(|f| panic!("{f}")).1
}

/// One warp runs `access` with `p` = in + `stride` · lane + `start` and `q` likewise from out.
fn global(stride: u32, start: u32, access: &str) -> Counters {
    let ptx = kernel(
        "",
        &format!(
            "
    .reg .b32 a, b, c, d;
    .reg .b16 h;
    .reg .b64 p, q, w, x;
    mad.wide.u32 p, lane, {stride}, in;
    mad.wide.u32 q, lane, {stride}, out;
    add.u64 p, p, {start};
    add.u64 q, q, {start};
    mov.b32 a, 0;
    mov.b32 b, 0;
    mov.b32 c, 0;
    mov.b32 d, 0;
    mov.b64 w, 0;
    mov.b16 h, 0;
    {access}"
        ),
    );
    count(shape(1, 32), &ptx, 4096)
}

#[test]
fn sectors_of_loads() {
    for (stride, start, access, sectors, bytes) in [
        (4, 0, "ld.global.u32 a, [p];", 4, 128),
        // Shifted by one word, the warp touches a fifth sector.
        (4, 4, "ld.global.u32 a, [p];", 5, 128),
        (8, 0, "ld.global.u32 a, [p];", 8, 128),
        (32, 0, "ld.global.u32 a, [p];", 32, 128),
        (128, 0, "ld.global.u32 a, [p];", 32, 128),
        (0, 0, "ld.global.u32 a, [p];", 1, 4),
        (16, 0, "ld.global.v4.u32 {a, b, c, d}, [p];", 16, 512),
        (8, 0, "ld.global.u64 w, [p];", 8, 256),
        (1, 0, "ld.global.u8 a, [p];", 1, 32),
        (2, 0, "ld.global.u16 h, [p];", 2, 64),
        (64, 0, "ld.global.v4.u32 {a, b, c, d}, [p];", 32, 512),
        (4, 0, "ld.global.nc.f32 a, [p];", 4, 128),
        (4, 0, "ld.u32 a, [p];", 4, 128),
        // Two lanes share each word.
        (
            4,
            0,
            ".reg .b32 half; shr.u32 half, lane, 1; mad.wide.u32 p, half, 4, in; ld.global.u32 a, [p];",
            2,
            64,
        ),
    ] {
        let c = global(stride, start, access);
        assert_eq!(
            (c.global_sectors_read, c.bytes_read),
            (sectors, bytes),
            "{access} with stride {stride}"
        );
        assert_eq!((c.global_sectors_written, c.bytes_written, c.global_requests), (0, 0, 1));
        assert_eq!((c.class(Class::LoadGlobal).warp, c.class(Class::LoadGlobal).thread), (1, 32));
        assert_eq!(c.global_sectors_requested(), sectors);
        assert_eq!(c.global_bytes_used(), bytes);
    }
}

#[test]
fn sectors_of_stores() {
    for (stride, start, access, sectors, bytes) in [
        (4, 0, "st.global.u32 [q], a;", 4, 128),
        (4, 4, "st.global.u32 [q], a;", 5, 128),
        (32, 0, "st.global.u32 [q], a;", 32, 128),
        (16, 0, "st.global.v4.u32 [q], {a, b, c, d};", 16, 512),
        (1, 0, "st.global.u8 [q], a;", 1, 32),
    ] {
        let c = global(stride, start, access);
        assert_eq!(
            (c.global_sectors_written, c.bytes_written),
            (sectors, bytes),
            "{access} with stride {stride}"
        );
        assert_eq!((c.global_sectors_read, c.bytes_read, c.global_requests), (0, 0, 1));
        assert_eq!((c.class(Class::StoreGlobal).warp, c.class(Class::StoreGlobal).thread), (1, 32));
    }
}

#[test]
fn atomics_are_counted_as_writes() {
    for access in ["red.global.add.u32 [q], a;", "atom.global.add.u32 a, [q], 1;"] {
        let c = global(4, 0, access);
        assert_eq!(
            (c.class(Class::Atomic).warp, c.class(Class::Atomic).thread),
            (1, 32),
            "{access}"
        );
        assert_eq!((c.global_sectors_written, c.bytes_written, c.global_requests), (4, 128, 1));
    }
}

#[test]
fn inactive_lanes_count_nothing() {
    let c = global(
        4,
        0,
        ".reg .pred p8; setp.lt.u32 p8, lane, 8; @p8 ld.global.u32 a, [p]; @p8 st.global.u32 [q], a;",
    );
    assert_eq!((c.global_sectors_read, c.bytes_read), (1, 32));
    assert_eq!((c.global_sectors_written, c.bytes_written), (1, 32));
    assert_eq!((c.class(Class::LoadGlobal).warp, c.class(Class::LoadGlobal).thread), (1, 8));
    let c =
        global(4, 0, ".reg .pred none; setp.gt.u32 none, lane, 99; @none ld.global.u32 a, [p];");
    assert_eq!((c.global_sectors_read, c.global_requests), (0, 0));
    assert_eq!(c.class(Class::LoadGlobal).thread, 0);
}

#[test]
fn counts_add_up_over_warps_blocks_and_host_threads() {
    let ptx = kernel(
        "",
        "
    .reg .b32 v, i;
    .reg .b64 p;
    mad.lo.u32 i, cta, 128, tid;
    mad.wide.u32 p, i, 4, in;
    ld.global.u32 v, [p];
    mad.wide.u32 p, i, 4, out;
    st.global.u32 [p], v;",
    );
    let base = count(shape(6, 128), &ptx, 1024);
    assert_eq!((base.global_sectors_read, base.bytes_read, base.blocks), (6 * 16, 6 * 512, 6));
    assert_eq!(
        (base.global_sectors_written, base.bytes_written, base.global_requests),
        (6 * 16, 6 * 512, 48)
    );
    assert_eq!(count(shape(6, 128).threads(2), &ptx, 1024), base);
    // Neither time nor chance changes them.
    assert_eq!(count(shape(6, 128), &ptx, 1024), base);
    let mut twice = base.clone();
    twice.add(&base);
    assert_eq!(twice.global_requests, 96);
    assert_eq!(twice.thread_instructions(), 2 * base.thread_instructions());
}

/// One warp runs `access` with `s` = tile + `stride` · lane. Everything was written before, without conflicts.
fn shared(stride: u32, access: &str) -> Counters {
    let ptx = |access: &str| {
        kernel(
            ".shared .align 128 .b8 tile[4096];",
            &format!(
                "
    .reg .b32 s, a, b, c, d, i, t;
    .reg .b64 w, x;
    .reg .pred p;
    mov.b32 a, 0;
    mov.b32 b, 0;
    mov.b32 c, 0;
    mov.b32 d, 0;
    mov.b64 w, 0;
    mov.u32 t, tile;
    mov.u32 i, 0;
FILL:
    mad.lo.u32 s, lane, 4, t;
    add.u32 s, s, i;
    st.shared.u32 [s], a;
    add.u32 i, i, 128;
    setp.lt.u32 p, i, 4096;
    @p bra FILL;
    bar.sync 0;
    mad.lo.u32 s, lane, {stride}, t;
    {access}"
            ),
        )
    };
    let (with, without) = (count(shape(1, 32), &ptx(access), 1), count(shape(1, 32), &ptx(""), 1));
    assert_eq!(
        (without.shared_requests, without.shared_transactions, without.bank_conflicts),
        (32, 32, 0),
        "the fill"
    );
    Counters {
        shared_requests: with.shared_requests - without.shared_requests,
        shared_transactions: with.shared_transactions - without.shared_transactions,
        bank_conflicts: with.bank_conflicts - without.bank_conflicts,
        ..Counters::default()
    }
}

#[test]
fn bank_conflicts_of_1_2_and_32_ways() {
    for (stride, access, transactions, conflicts) in [
        (4, "ld.shared.u32 a, [s];", 1, 0),
        (8, "ld.shared.u32 a, [s];", 2, 1),
        (12, "ld.shared.u32 a, [s];", 1, 0),
        (16, "ld.shared.u32 a, [s];", 4, 3),
        (128, "ld.shared.u32 a, [s];", 32, 31),
        // All lanes ask for one word, or for bytes of a few words: one pass.
        (0, "ld.shared.u32 a, [s];", 1, 0),
        (1, "ld.shared.u8 a, [s];", 1, 0),
        (2, "ld.shared.u16 b16, [s];", 1, 0),
        // Wide accesses take a pass for each 128 bytes.
        (8, "ld.shared.u64 w, [s];", 2, 0),
        (16, "ld.shared.v4.u32 {a, b, c, d}, [s];", 4, 0),
        (4, "st.shared.u32 [s], a;", 1, 0),
        (8, "st.shared.u32 [s], a;", 2, 1),
        (128, "st.shared.u32 [s], a;", 32, 31),
        (16, "st.shared.v4.u32 [s], {a, b, c, d};", 4, 0),
    ] {
        let text = access.replace("ld.shared.u16 b16", ".reg .b16 b16; ld.shared.u16 b16");
        let c = shared(stride, &text);
        assert_eq!(
            (c.shared_requests, c.shared_transactions, c.bank_conflicts),
            (1, transactions, conflicts),
            "{access} with stride {stride}"
        );
    }
}

/// Eight rows of a tile whose rows are 128 bytes, read by ldmatrix, with and without the xor swizzle.
#[test]
fn ldmatrix_swizzled_and_not() {
    let address = |column: &str| {
        format!(
            "
    .reg .b32 row, col;
    and.b32 row, lane, 31;
    {column}
    mad.lo.u32 s, row, 128, t;
    mad.lo.u32 s, col, 16, s;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{a, b, c, d}}, [s];"
        )
    };
    // Without: the eight rows of each matrix are in the same banks, so each matrix takes 8 passes.
    let c = shared(4, &address("mov.u32 col, 3;"));
    assert_eq!((c.shared_requests, c.shared_transactions, c.bank_conflicts), (1, 32, 28));
    // With: column xor row puts them in eight different groups of banks.
    let c = shared(4, &address("and.b32 col, row, 7;\n    xor.b32 col, col, 3;"));
    assert_eq!((c.shared_requests, c.shared_transactions, c.bank_conflicts), (1, 4, 0));
    // Half of it: row / 2 leaves pairs of rows in conflict.
    let c = shared(4, &address("and.b32 col, row, 7;\n    shr.u32 col, col, 1;"));
    assert_eq!((c.shared_requests, c.shared_transactions, c.bank_conflicts), (1, 8, 4));
    // One matrix in a row of its own: 8 rows of 16 bytes in a row take one pass.
    let one = "mad.lo.u32 s, lane, 16, t;\n    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {a}, [s];";
    let c = shared(4, one);
    assert_eq!((c.shared_requests, c.shared_transactions, c.bank_conflicts), (1, 1, 0));
}

#[test]
fn flops_of_matrix_instructions() {
    for (op, flops) in [
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {a, b, c, d}, {a, b, c, d}, {a, b}, {a, b, c, d};",
            2 * 16 * 8 * 16,
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {a, b, c, d}, {a, b, c, d}, {a, b}, {a, b, c, d};",
            2 * 16 * 8 * 16,
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {a, b, c, d}, {a, b, c, d}, {a, b}, {a, b, c, d};",
            2 * 16 * 8 * 8,
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {a, b, c, d}, {a, b}, {a}, {a, b, c, d};",
            2 * 16 * 8 * 8,
        ),
    ] {
        let ptx = kernel(
            "",
            &format!(
                "
    .reg .b32 a, b, c, d;
    mov.b32 a, 0;
    mov.b32 b, 0;
    mov.b32 c, 0;
    mov.b32 d, 0;
    {op}
    {op}
    {op}"
            ),
        );
        let c = count(shape(2, 64), &ptx, 1);
        // Three in each of four warps.
        assert_eq!(
            (c.mma_flops, c.class(Class::Mma).warp, c.class(Class::Mma).thread),
            (12 * flops, 12, 384),
            "{op}"
        );
    }
}

#[test]
fn exponentials_by_lane_and_by_element() {
    let ptx = |op: &str| {
        kernel(
            "",
            &format!(
                "
    .reg .pred some;
    .reg .b32 a;
    .reg .b16 h;
    setp.lt.u32 some, tid, 10;
    mov.b32 a, 0;
    mov.b16 h, 0;
    {op}"
            ),
        )
    };
    for (op, want) in [
        ("ex2.approx.f32 a, a;", 64),
        ("ex2.approx.ftz.f32 a, a;", 64),
        ("ex2.approx.f16 h, h;", 64),
        ("ex2.approx.f16x2 a, a;", 128),
        ("@some ex2.approx.f32 a, a;", 10),
        ("@!some ex2.approx.f16x2 a, a;", 108),
        ("lg2.approx.f32 a, a;", 0),
        ("ex2.approx.f32 a, a;\n    ex2.approx.f32 a, a;", 128),
    ] {
        assert_eq!(count(shape(1, 64), &ptx(op), 1).exponentials, want, "{op}");
    }
}

#[test]
fn instructions_by_class() {
    let ptx = kernel(
        ".shared .b32 tile[64];",
        "
    .reg .pred p;
    .reg .b32 a, s, n;
    .reg .b64 w;
    .reg .f64 g;
    mov.u32 s, tile;
    mad.lo.u32 s, tid, 4, s;
    mov.f32 a, 0f3F800000;
    mov.u32 n, 0;
LOOP:
    fma.rn.f32 a, a, a, a;
    add.f32 a, a, a;
    add.u32 n, n, 1;
    setp.lt.u32 p, n, 5;
    @p bra LOOP;
    mov.f64 g, 0d3FF0000000000000;
    add.rn.f64 g, g, g;
    fma.rn.f16x2 a, a, a, a;
    rsqrt.approx.f32 a, a;
    cvt.rzi.u32.f32 n, a;
    st.shared.u32 [s], a;
    bar.sync 0;
    ld.shared.u32 a, [s];
    shfl.sync.bfly.b32 a, a, 1, 31, -1;
    vote.sync.ballot.b32 n, p, -1;
    membar.gl;",
    );
    let c = count(shape(3, 64), &ptx, 1);
    let warps = 6;
    let same = |class: Class, each: u64| {
        assert_eq!(
            (c.class(class).warp, c.class(class).thread),
            (warps * each, warps * 32 * each),
            "{class:?}"
        );
    };
    same(Class::F32, 10);
    same(Class::F64, 1);
    same(Class::Half, 1);
    same(Class::Special, 1);
    same(Class::Conversion, 1);
    same(Class::LoadShared, 1);
    same(Class::StoreShared, 1);
    same(Class::Shuffle, 1);
    same(Class::Vote, 1);
    same(Class::Barrier, 1);
    same(Class::Fence, 1);
    same(Class::Predicate, 5);
    assert_eq!(c.blocks, 3);
    // Every warp is full in every instruction, the last branch back but for its guard.
    let (warp, thread) = (c.warp_instructions(), c.thread_instructions());
    assert!(warp * 32 == thread || warp * 32 == thread + warps * 32, "{warp} {thread}");
    let json = c.to_json();
    assert!(
        json.contains("\"blocks\":3") && json.contains("\"f32\":{\"warp\":60,\"thread\":1920}"),
        "{json}"
    );
}

#[test]
fn asynchronous_copies_are_global_reads_and_shared_writes() {
    for late in [false, true] {
        let ptx = kernel(
            ".shared .align 16 .b8 tile[1024];",
            "
    .reg .b32 s;
    .reg .b64 p;
    mov.u32 s, tile;
    mad.lo.u32 s, tid, 16, s;
    mad.wide.u32 p, tid, 16, in;
    cp.async.cg.shared.global [s], [p], 16;
    cp.async.wait_all;",
        );
        let c = count(shape(1, 64).late(late), &ptx, 256);
        assert_eq!(
            (c.class(Class::CpAsync).warp >= 2, c.global_requests),
            (true, 2),
            "late {late}"
        );
        assert_eq!((c.global_sectors_read, c.bytes_read), (32, 1024), "late {late}");
        assert_eq!(c.bytes_written, 0);
    }
}

/// The same kernel under another seed may issue more warp instructions, but each thread does the same.
#[test]
fn thread_counts_do_not_depend_on_the_seed() {
    let ptx = kernel(
        "",
        "
    .reg .pred p;
    .reg .b32 v, i;
    .reg .b64 q;
    mov.u32 i, 0;
LOOP:
    add.u32 i, i, 1;
    setp.le.u32 p, i, tid;
    @p bra LOOP;
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], i;",
    );
    let base = count(shape(1, 64), &ptx, 64);
    for seed in 1..8 {
        let (_, c) = shape(1, 64).seed(seed).run(&ptx, &[0], 64).unwrap();
        assert_eq!(c.thread_instructions(), base.thread_instructions(), "seed {seed}");
        assert!(c.warp_instructions() >= base.warp_instructions(), "seed {seed}");
        // Asked for once by each warp, or by its parts.
        assert!(c.bytes_written == 256 && c.global_sectors_written >= 8, "seed {seed}");
    }
    // The loop runs as often as its longest lane, 32 and 64 times.
    assert_eq!(base.class(Class::Predicate).warp, 32 + 64);
    assert_eq!(base.class(Class::Predicate).thread, (1..=64).sum::<u64>());
}
