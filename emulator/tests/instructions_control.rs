//! Control flow: branches, loops, calls, divergence and reconvergence, exits, barriers, special registers, printf.

mod common;

use common::*;
use cuda_emulator::memory::Memory;

const SEEDS: std::ops::Range<u64> = 0..4;

/// Runs under every seed and compares the words of `out`.
#[track_caller]
fn gives(shape: &Shape, ptx: &str, input: &[u32], want: &[u32]) {
    for seed in SEEDS {
        let (got, _) = shape
            .clone()
            .seed(seed)
            .run(ptx, input, want.len())
            .unwrap_or_else(|f| panic!("seed {seed}: {f}"));
        assert_eq!(got, want, "seed {seed}");
    }
}

/// A kernel that stores `v` of every thread at its place in the grid.
fn value(declarations: &str, body: &str) -> String {
    kernel(
        declarations,
        &format!(
            "
    .reg .pred p, r, s;
    .reg .b32 v, i, j, n, t;
    .reg .b64 q, w;
{body}
    mov.u32 n, %ntid.x;
    mad.lo.u32 i, cta, n, tid;
    mad.wide.u32 q, i, 4, out;
    st.global.u32 [q], v;"
        ),
    )
}

fn threads(count: u32, f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..count).map(f).collect()
}

#[test]
fn branches_and_loops_of_different_lengths() {
    // The number of steps of the Collatz sequence, a different one in each lane.
    let ptx = value(
        "",
        "
    add.u32 t, tid, 1;
    mov.u32 v, 0;
LOOP:
    setp.eq.u32 p, t, 1;
    @p bra DONE;
    and.b32 i, t, 1;
    setp.eq.u32 r, i, 1;
    @r bra ODD;
    shr.u32 t, t, 1;
    bra NEXT;
ODD:
    mad.lo.u32 t, t, 3, 1;
NEXT:
    add.u32 v, v, 1;
    bra LOOP;
DONE:",
    );
    let steps = |i: u32| {
        let (mut n, mut count) = (i + 1, 0);
        while n != 1 {
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            count += 1;
        }
        count
    };
    gives(&shape(1, 96), &ptx, &[0], &threads(96, steps));
}

#[test]
fn nested_branches_reconverge() {
    let ptx = value(
        "",
        "
    mov.u32 v, 0;
    and.b32 i, tid, 1;
    and.b32 j, tid, 2;
    setp.eq.u32 p, i, 1;
    setp.eq.u32 r, j, 2;
    @!p bra EVEN;
    @!r bra ODD_LOW;
    add.u32 v, v, 30;
    bra ODD_END;
ODD_LOW:
    add.u32 v, v, 10;
ODD_END:
    add.u32 v, v, 1;
    bra END;
EVEN:
    @r add.u32 v, v, 20;
    bra.uni END;
END:
    bar.warp.sync -1;
    vote.sync.ballot.b32 t, p, -1;
    add.u32 v, v, t;",
    );
    gives(
        &shape(1, 32),
        &ptx,
        &[0],
        &threads(32, |i| [0, 11, 20, 31][i as usize % 4] + 0xaaaa_aaaa),
    );
}

#[test]
fn indirect_branches() {
    let ptx = value(
        "",
        "
    rem.u32 i, tid, 3;
targets: .branchtargets ZERO, ONE, TWO;
    brx.idx i, targets;
ZERO:
    mov.u32 v, 100;
    bra END;
ONE:
    mov.u32 v, 200;
    bra END;
TWO:
    mov.u32 v, 300;
END:
    add.u32 v, v, tid;",
    );
    gives(&shape(1, 64), &ptx, &[0], &threads(64, |i| (i % 3 + 1) * 100 + i));
}

const FUNCTIONS: &str = "
.func (.param .b32 result) square(.param .b32 x)
{
    .reg .b32 r;
    ld.param.b32 r, [x];
    mul.lo.u32 r, r, r;
    st.param.b32 [result], r;
    ret;
}
.func (.param .b32 result) twice(.param .b32 x)
{
    .reg .b32 r;
    .reg .pred p;
    ld.param.b32 r, [x];
    add.u32 r, r, r;
    setp.gt.u32 p, r, 20;
    @p bra BIG;
    st.param.b32 [result], r;
    ret;
BIG:
    add.u32 r, r, 1000;
    st.param.b32 [result], r;
    ret;
}
.func (.param .align 8 .b8 result[16]) swap(.param .align 8 .b8 pair[16], .param .b64 more)
{
    .reg .b64 a, b, c;
    ld.param.b64 a, [pair];
    ld.param.b64 b, [pair+8];
    ld.param.b64 c, [more];
    add.u64 a, a, c;
    st.param.b64 [result], b;
    st.param.b64 [result+8], a;
    ret;
}
.func (.param .b32 result) factorial(.param .b32 x)
{
    .reg .b32 n, m, r;
    .reg .pred p;
    ld.param.b32 n, [x];
    setp.gt.u32 p, n, 1;
    @p bra MORE;
    st.param.b32 [result], 1;
    ret;
MORE:
    sub.u32 m, n, 1;
    {
    .param .b32 arg;
    .param .b32 back;
    st.param.b32 [arg], m;
    call.uni (back), factorial, (arg);
    ld.param.b32 r, [back];
    }
    mul.lo.u32 r, r, n;
    st.param.b32 [result], r;
    ret;
}
.func store(.param .b64 address, .param .b32 x)
{
    .reg .b64 a;
    .reg .b32 r;
    ld.param.b64 a, [address];
    ld.param.b32 r, [x];
    st.global.b32 [a], r;
    ret;
}
";

fn call(name: &str, x: &str, into: &str) -> String {
    format!(
        "
    {{
    .param .b32 arg;
    .param .b32 back;
    st.param.b32 [arg], {x};
    call.uni (back), {name}, (arg);
    ld.param.b32 {into}, [back];
    }}"
    )
}

#[test]
fn calls_with_parameters_and_results() {
    let nested = format!("{}{}", call("square", "tid", "v"), call("twice", "v", "v"));
    gives(
        &shape(1, 40),
        &value(FUNCTIONS, &nested),
        &[0],
        &threads(40, |i| {
            let r = 2 * i * i;
            if r > 20 { r + 1000 } else { r }
        }),
    );
    // A call that some lanes make.
    let some = format!(
        "
    mov.u32 v, 7;
    and.b32 i, tid, 1;
    setp.eq.u32 p, i, 1;
    @!p bra SKIP;
    {}
SKIP:",
        call("square", "tid", "v")
    );
    gives(
        &shape(1, 40),
        &value(FUNCTIONS, &some),
        &[0],
        &threads(40, |i| if i % 2 == 1 { i * i } else { 7 }),
    );
    let structure = "
    {
    .param .align 8 .b8 pair[16];
    .param .b64 more;
    .param .align 8 .b8 back[16];
    cvt.u64.u32 q, tid;
    st.param.b64 [pair], q;
    st.param.b64 [pair+8], 5;
    st.param.b64 [more], 100;
    call.uni (back), swap, (pair, more);
    ld.param.b32 v, [back];
    ld.param.b32 t, [back+8];
    }
    mad.lo.u32 v, v, 1000, t;";
    gives(&shape(1, 8), &value(FUNCTIONS, structure), &[0], &threads(8, |i| 5000 + 100 + i));
    let nothing = "
    add.u32 v, tid, 3;
    mad.wide.u32 q, tid, 4, in;
    {
    .param .b64 address;
    .param .b32 x;
    st.param.b64 [address], q;
    st.param.b32 [x], v;
    call.uni store, (address, x);
    }
    ld.global.u32 v, [q];";
    gives(&shape(1, 4), &value(FUNCTIONS, nothing), &[0; 4], &threads(4, |i| i + 3));
}

#[test]
fn recursion_of_a_different_depth_in_each_lane() {
    let body = format!("rem.u32 i, tid, 10;{}", call("factorial", "i", "v"));
    gives(
        &shape(1, 64),
        &value(FUNCTIONS, &body),
        &[0],
        &threads(64, |i| (1..=i % 10).product::<u32>().max(1)),
    );
}

#[test]
fn calls_through_pointers() {
    let body = "
    .reg .b64 f;
    and.b32 i, tid, 1;
    setp.eq.u32 p, i, 1;
    mov.u64 q, square;
    mov.u64 w, twice;
    selp.b64 f, q, w, p;
    {
    .param .b32 arg;
    .param .b32 back;
    st.param.b32 [arg], tid;
    prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
    call (back), f, (arg), prototype;
    ld.param.b32 v, [back];
    }";
    let want = |i: u32| {
        if i % 2 == 1 {
            i * i
        } else if 2 * i > 20 {
            2 * i + 1000
        } else {
            2 * i
        }
    };
    gives(&shape(1, 32), &value(FUNCTIONS, body), &[0], &threads(32, want));
    // The same through a table in memory.
    let declarations = format!("{FUNCTIONS}\n.global .u64 table[2] = {{twice, square}};");
    let body = body.replace(
        "selp.b64 f, q, w, p;",
        "mov.u64 q, table;\n    mad.wide.u32 q, i, 8, q;\n    ld.global.u64 f, [q];",
    );
    gives(&shape(1, 32), &value(&declarations, &body), &[0], &threads(32, want));
}

#[test]
fn parts_of_a_warp_exit() {
    let ptx = value(
        "",
        "
    mov.u32 v, 1;
    setp.lt.u32 p, tid, 5;
    @p exit;
    mov.u32 i, 0;
LOOP:
    add.u32 v, v, 2;
    add.u32 i, i, 1;
    setp.eq.u32 r, i, tid;
    @r bra OUT;
    bra LOOP;
OUT:
    setp.eq.u32 s, tid, 9;
    @s ret;",
    );
    gives(
        &shape(2, 33),
        &ptx,
        &[0],
        &threads(66, |i| {
            let t = i % 33;
            if t < 5 || t == 9 { 0 } else { 1 + 2 * t }
        }),
    );
}

#[test]
fn lanes_of_one_warp_hand_over_to_each_other() {
    // Each lane waits for the one below: no order of whole branches gets through, progress of every lane does.
    let ptx = value(
        "",
        "
    setp.eq.u32 p, tid, 0;
    @p bra GO;
    mad.wide.u32 q, tid, 4, in;
WAIT:
    ld.acquire.gpu.global.u32 v, [q+-4];
    setp.eq.u32 r, v, 0;
    @r bra WAIT;
    bra GIVE;
GO:
    mov.u32 v, 100;
GIVE:
    add.u32 v, v, 1;
    mad.wide.u32 q, tid, 4, in;
    st.release.gpu.global.u32 [q], v;",
    );
    gives(&shape(1, 64), &ptx, &[0; 64], &threads(64, |i| 101 + i));
    // And downwards.
    let ptx =
        ptx.replace("setp.eq.u32 p, tid, 0", "setp.eq.u32 p, tid, 63").replace("[q+-4]", "[q+4]");
    gives(&shape(1, 64), &ptx, &[0; 64], &threads(64, |i| 164 - i));
}

#[test]
fn a_spin_lock_between_the_lanes_of_a_warp() {
    let ptx = kernel(
        ".shared .b32 lock;\n.shared .b32 count;",
        "
    .reg .pred p;
    .reg .b32 l, c, v;
    mov.u32 l, lock;
    mov.u32 c, count;
    setp.eq.u32 p, tid, 0;
    @p st.shared.u32 [l], 0;
    @p st.shared.u32 [c], 0;
    bar.sync 0;
TRY:
    atom.acquire.cta.shared.cas.b32 v, [l], 0, 1;
    setp.ne.u32 p, v, 0;
    @p bra TRY;
    ld.shared.u32 v, [c];
    add.u32 v, v, 1;
    st.shared.u32 [c], v;
    membar.cta;
    atom.release.cta.shared.exch.b32 v, [l], 0;
    bar.sync 0;
    ld.shared.u32 v, [c];
    .reg .b64 q;
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], v;",
    );
    gives(&shape(1, 80), &ptx, &[0], &[80; 80]);
}

#[test]
fn blocks_wait_for_each_other() {
    // All blocks fit the machine: a barrier of the grid through an atomic counter.
    let ptx = value(
        "",
        "
    .reg .b64 mine;
    mad.wide.u32 mine, cta, 4, in;
    add.u32 v, cta, 1;
    setp.eq.u32 p, tid, 0;
    @!p bra WAITED;
    st.global.u32 [mine+4], v;
    membar.gl;
    red.release.gpu.global.add.u32 [in], 1;
SPIN:
    ld.acquire.gpu.global.u32 t, [in];
    setp.lt.u32 r, t, 4;
    @r bra SPIN;
WAITED:
    bar.sync 0;
    xor.b32 i, cta, 3;
    mad.wide.u32 q, i, 4, in;
    ld.global.u32 v, [q+4];",
    );
    let want: Vec<u32> = (0..128).map(|i| 4 - i / 32).collect();
    for threads in [1, 2] {
        let together = Shape { cooperative: true, ..shape(4, 32).threads(threads) };
        gives(&together, &ptx, &[0; 5], &want);
    }
}

#[test]
fn barriers_reduce() {
    let ptx = |op: &str| {
        value(
            "",
            &format!(
                "
    rem.u32 i, tid, 3;
    setp.eq.u32 p, i, 0;
    {op}"
            ),
        )
    };
    let count = (0..96).filter(|i| i % 3 == 0).count() as u32;
    gives(&shape(2, 96), &ptx("bar.red.popc.u32 v, 0, p;"), &[0], &[count; 192]);
    gives(&shape(2, 96), &ptx("bar.red.popc.u32 v, 1, !p;"), &[0], &[96 - count; 192]);
    for (op, negated, want) in [("and", "p", 0), ("or", "p", 1), ("or", "!p", 1), ("and", "!p", 0)]
    {
        let text = ptx(&format!("bar.red.{op}.pred r, 0, {negated};\n    selp.u32 v, 1, 0, r;"));
        gives(&shape(1, 96), &text, &[0], &[want; 96]);
    }
    let all =
        ptx("setp.ge.u32 p, tid, 0;\n    barrier.red.and.pred r, 0, p;\n    selp.u32 v, 1, 0, r;");
    gives(&shape(1, 64), &all, &[0], &[1; 64]);
    let none =
        ptx("setp.lt.u32 p, tid, 0;\n    bar.red.or.pred r, 0, p;\n    selp.u32 v, 1, 0, r;");
    gives(&shape(1, 64), &none, &[0], &[0; 64]);
    // Among 64 of 128 threads.
    let half =
        ptx("mov.u32 v, 0;\n    setp.lt.u32 s, tid, 64;\n    @s bar.red.popc.u32 v, 3, 64, p;");
    gives(&shape(1, 128), &half, &[0], &threads(128, |i| if i < 64 { 22 } else { 0 }));
}

#[test]
fn named_barriers_with_counts() {
    // Warp 0 makes rounds of data that warp 1 takes: full on barrier 1, empty on barrier 2.
    let ptx = value(
        ".shared .b32 box[32];",
        "
    .reg .b32 b;
    mov.u32 b, box;
    and.b32 t, tid, 31;
    mad.lo.u32 b, t, 4, b;
    mov.u32 j, 0;
    mov.u32 v, 0;
    setp.ge.u32 p, tid, 32;
    @p bra TAKE;
MAKE:
    mad.lo.u32 t, j, 100, tid;
    st.shared.u32 [b], t;
    bar.arrive 1, 64;
    bar.sync 2, 64;
    add.u32 j, j, 1;
    setp.lt.u32 r, j, 5;
    @r bra MAKE;
    bra END;
TAKE:
    bar.sync 1, 64;
    ld.shared.u32 t, [b];
    add.u32 v, v, t;
    bar.arrive 2, 64;
    add.u32 j, j, 1;
    setp.lt.u32 r, j, 5;
    @r bra TAKE;
END:",
    );
    gives(
        &shape(2, 64),
        &ptx,
        &[0],
        &threads(128, |i| if i % 64 < 32 { 0 } else { 1000 + 5 * (i % 32) }),
    );
}

#[test]
fn barriers_order_shared_memory_round_after_round() {
    let ptx = value(
        ".shared .b32 ring[256];",
        "
    .reg .b32 b, mine, next;
    mov.u32 b, ring;
    mov.u32 n, %ntid.x;
    mad.lo.u32 mine, tid, 4, b;
    add.u32 t, tid, 33;
    rem.u32 t, t, n;
    mad.lo.u32 next, t, 4, b;
    mov.u32 v, tid;
    mov.u32 j, 0;
LOOP:
    st.shared.u32 [mine], v;
    barrier.sync.aligned 0;
    ld.shared.u32 v, [next];
    barrier.cta.sync 0;
    add.u32 j, j, 1;
    setp.lt.u32 p, j, 7;
    @p bra LOOP;",
    );
    gives(&shape(2, 100), &ptx, &[0], &threads(200, |i| (i % 100 + 7 * 33) % 100));
}

#[test]
fn special_registers() {
    let names = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ntid.x",
        "%ntid.y",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%nctaid.x",
        "%nctaid.y",
        "%nctaid.z",
        "%laneid",
        "%warpid",
        "%lanemask_eq",
        "%lanemask_lt",
        "%lanemask_le",
        "%lanemask_gt",
        "%lanemask_ge",
        "%dynamic_smem_size",
        "%total_smem_size",
        "WARP_SZ",
    ];
    let stores: String = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("    mov.u32 v, {name};\n    st.global.u32 [q+{}], v;\n", 4 * i))
        .collect();
    let body = format!(
        "
    .reg .b32 v, i, j, k, m, t;
    .reg .b64 q;
    mov.u32 t, words;
    // The thread's number in its block, the block's number in the grid.
    mov.u32 i, %tid.z;
    mov.u32 j, %tid.y;
    mad.lo.u32 i, i, 3, j;
    mad.lo.u32 i, i, 5, tid;
    mov.u32 k, %ctaid.z;
    mov.u32 m, %ctaid.y;
    mad.lo.u32 k, k, 2, m;
    mad.lo.u32 k, k, 3, cta;
    mad.lo.u32 i, k, 60, i;
    mad.wide.u32 q, i, {}, out;
{stores}",
        4 * names.len()
    );
    let mut s = shape(1, 1).dynamic(64);
    s.grid = [3, 2, 2];
    s.block = [5, 3, 4];
    let (got, _) = s
        .run(
            &kernel(".shared .b32 words[8];\n.extern .shared .b8 more[];", &body),
            &[0],
            12 * 60 * names.len(),
        )
        .unwrap();
    for block in 0..12u32 {
        for thread in 0..60u32 {
            let row = &got[(block * 60 + thread) as usize * names.len()..][..names.len()];
            let lane = thread % 32;
            assert_eq!(row[..3], [thread % 5, thread / 5 % 3, thread / 15]);
            assert_eq!(row[3..6], [5, 3, 4]);
            assert_eq!(row[6..9], [block % 3, block / 3 % 2, block / 6]);
            assert_eq!(row[9..12], [3, 2, 2]);
            assert_eq!(row[12..14], [lane, thread / 32]);
            let below = (1u32 << lane) - 1;
            assert_eq!(
                row[14..19],
                [1 << lane, below, below | 1 << lane, !(below | 1 << lane), !below]
            );
            assert_eq!(row[19], 64);
            assert!(row[20] >= 96, "{}", row[20]);
            assert_eq!(row[21], 32);
        }
    }
}

#[test]
fn clocks_go_forward_and_multiprocessors_exist() {
    let ptx = value(
        "",
        "
    .reg .b32 c;
    .reg .b64 d;
    mov.u32 c, %clock;
    mov.u64 q, %clock64;
    mov.u64 d, %globaltimer;
    nanosleep.u32 20;
    mov.u64 w, %clock64;
    setp.ge.u64 p, w, q;
    mov.u64 w, %globaltimer;
    setp.ge.and.u64 p, w, d, p;
    mov.u32 i, %smid;
    mov.u32 j, %nsmid;
    setp.lt.and.u32 p, i, j, p;
    mov.u32 i, %nwarpid;
    setp.gt.and.u32 p, i, 0, p;
    mov.u64 d, %gridid;
    selp.u32 v, 1, 0, p;",
    );
    gives(&shape(4, 32), &ptx, &[0], &[1; 128]);
}

#[test]
fn volatile_labels_scopes_and_pragmas_do_no_harm() {
    // What NVRTC's output is full of: .loc and .file lines, line comments, pragmas, nested scopes that hide names.
    let ptx = value(
        "",
        "
    .pragma \"nounroll\";
    mov.u32 v, 1; // a comment; with a semicolon
    /* and another
       over two lines: mov.u32 v, 9; */
    {
    .reg .b32 v, %r<4>;
    mov.u32 v, 50;
    mov.u32 %r3, v;
    {
        .reg .b32 %r<4>;
        mov.u32 %r3, 7;
    }
    add.u32 t, %r3, 0;
    }
    .loc 1 7 3
    add.u32 v, v, t;
$L__BB0_1:",
    );
    let ptx = ptx.replace(".address_size 64", ".address_size 64\n.file 1 \"a file.cu\"");
    gives(&shape(1, 4), &ptx, &[0], &[51; 4]);
}

#[test]
fn kernels_with_directives() {
    let ptx = kernel(
        "",
        "
    .reg .b32 v;
    mov.u32 v, 3;
    st.global.u32 [out], v;",
    )
    .replace("param_out)\n{", "param_out)\n.maxntid 128, 1, 1\n.minnctapersm 2\n.maxnreg 64\n{");
    let memory = Memory::new();
    let module = load(&ptx, &memory, &config()).unwrap();
    assert_eq!(module.kernel("test").unwrap().max_threads_per_block(), 128);
    assert_eq!(module.kernels().count(), 1);
    gives(&shape(1, 1), &ptx, &[0], &[3]);
    assert!(shape(1, 129).run(&ptx, &[0], 1).is_err(), "more threads than .maxntid");
}

#[test]
fn printf_prints() {
    // The format and the arguments as compilers pass them; the call answers the number of arguments.
    let declarations = "
.extern .func (.param .b32 status) vprintf(.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 text[13] = {116, 61, 37, 100, 32, 120, 61, 37, 46, 50, 102, 10, 0};";
    let body = "
    .local .align 8 .b8 depot[16];
    .reg .b64 sp, f, x;
    mov.u64 sp, depot;
    cvta.local.u64 sp, sp;
    st.u32 [sp], tid;
    mov.f64 x, 0d3FF8000000000000;
    st.f64 [sp+8], x;
    mov.u64 f, text;
    cvta.global.u64 f, f;
    {
    .param .b64 first;
    .param .b64 second;
    .param .b32 back;
    st.param.b64 [first], f;
    st.param.b64 [second], sp;
    call.uni (back), vprintf, (first, second);
    ld.param.b32 v, [back];
    }";
    let (got, _) =
        shape(1, 2).run(&value(declarations, body), &[0], 2).unwrap_or_else(|f| panic!("{f}"));
    assert!(got.iter().all(|&v| v as i32 >= 0), "{got:?}");
}
