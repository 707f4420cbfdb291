//! Loads, stores, state spaces and their addresses, variables and their initial values, parameters, and the values
//! that asynchronous copies land.

mod common;

use common::exact::{F16, F32, F64, Mode};
use common::*;
use cuda_emulator::exec::{self, Launch};
use cuda_emulator::memory::Memory;

const WORD: u64 = 0x8091_a2b3_c4d5_e6f7;

#[test]
fn loads_extend_by_the_sign_of_their_type() {
    let t = table();
    let rows = each(&[WORD, 0x7f6e_5d4c_3b2a_1908, 0, u64::MAX]);
    let byte = |r: &[u64], i: u32| r[0] >> (8 * i) & 0xff;
    for i in 0..8 {
        for target in [16, 32, 64] {
            let sig = format!("b64 -> b{target}");
            t.check(&format!("ld.global.u8 d, [row_in+{i}];"), &sig, &rows, |r| vec![byte(r, i)]);
            t.check(&format!("ld.global.s8 d, [row_in+{i}];"), &sig, &rows, |r| {
                vec![cut(signed(byte(r, i), 8), target)]
            });
        }
    }
    for i in [0, 2, 4, 6] {
        for target in [32, 64] {
            let sig = format!("b64 -> b{target}");
            let two = |r: &[u64]| r[0] >> (8 * i) & 0xffff;
            t.check(&format!("ld.global.u16 d, [row_in+{i}];"), &sig, &rows, |r| vec![two(r)]);
            t.check(&format!("ld.global.s16 d, [row_in+{i}];"), &sig, &rows, |r| {
                vec![cut(signed(two(r), 16), target)]
            });
        }
    }
    t.check(
        "ld.global.s32 d, [row_in+4]; ld.global.u32 x, [row_in];",
        "b64 -> b64 b64",
        &rows,
        |r| vec![cut(signed(r[0] >> 32, 32), 64), r[0] & 0xffff_ffff],
    );
    t.check(
        "ld.global.f32 d, [row_in+4]; ld.global.f64 x, [row_in];",
        "b64 -> b32 b64",
        &rows,
        |r| vec![r[0] >> 32, r[0]],
    );
}

#[test]
fn stores_write_their_width_alone() {
    let t = table();
    let rows = pairs(&[WORD, 0], &[0x1122_3344_5566_7788]);
    for (bits, kinds) in [
        (8, ["u8", "s8", "b8"]),
        (16, ["u16", "s16", "b16"]),
        (32, ["u32", "f32", "b32"]),
        (64, ["u64", "f64", "b64"]),
    ] {
        for kind in kinds {
            for at in (0..64).step_by(bits as usize) {
                let mask = (u64::MAX >> (64 - bits)) << at;
                let op = format!(
                    "st.global.b64 [row_out], a; st.global.{kind} [row_out+{}], b; ld.global.b64 d, [row_out];",
                    at / 8
                );
                // Only 8- and 16-bit stores and integers of the register's own type take a wider register.
                let op = match kind {
                    "f32" => format!(
                        ".reg .f32 n; .reg .b32 h; cvt.u32.u64 h, b; mov.b32 n, h; {}",
                        op.replace(", b;", ", n;")
                    ),
                    "f64" => format!(".reg .f64 n; mov.b64 n, b; {}", op.replace(", b;", ", n;")),
                    _ => op,
                };
                t.check(&op, "b64 b64 -> b64", &rows, |r| vec![r[0] & !mask | r[1] << at & mask]);
            }
        }
    }
}

#[test]
fn vectors_of_every_shape() {
    let t = table();
    let rows: Vec<Vec<u64>> = vec![vec![WORD, 0x0102_0384_0506_8788], vec![5, u64::MAX]];
    let whole = |r: &[u64]| u128::from(r[0]) | u128::from(r[1]) << 64;
    for (count, list) in [(2, "{d, x}"), (4, "{d, x, y, z}")] {
        for (kind, bits, register) in [
            ("u8", 8, 16),
            ("s8", 8, 32),
            ("u16", 16, 16),
            ("b32", 32, 32),
            ("f32", 32, 32),
            ("u64", 64, 64),
        ] {
            if count * bits > 128 {
                continue;
            }
            let outputs = format!(" b{register}").repeat(count as usize);
            for at in (0..16).step_by((count * bits / 8) as usize) {
                t.check(
                    &format!("ld.global.v{count}.{kind} {list}, [row_in+{at}];"),
                    &format!("b64 b64 ->{outputs}"),
                    &rows,
                    |r| {
                        (0..count)
                            .map(|i| {
                                (whole(r) >> (8 * at as u32 + i * bits)) as u64
                                    & (u64::MAX >> (64 - bits))
                            })
                            .map(|v| if kind == "s8" { cut(signed(v, 8), register) } else { v })
                            .collect()
                    },
                );
            }
        }
    }
    let four = "b32 b32 b32 b32 -> b64 b64";
    let rows = vec![vec![0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444]];
    let back = "ld.global.v2.b64 {d, x}, [row_out];";
    let zero = ".reg .b64 nil; mov.b64 nil, 0; st.global.v2.b64 [row_out], {nil, nil};";
    t.check(&format!("st.global.v4.b32 [row_out], {{a, b, c, e}}; {back}"), four, &rows, |_| {
        vec![0x2222_2222_1111_1111, 0x4444_4444_3333_3333]
    });
    t.check(&format!("{zero} st.global.v2.b32 [row_out+8], {{b, a}}; {back}"), four, &rows, |_| {
        vec![0, 0x1111_1111_2222_2222]
    });
    t.check(
        &format!("{zero} st.global.v4.u8 [row_out+4], {{a, b, c, e}}; {back}"),
        four,
        &rows,
        |_| vec![0x4433_2211_0000_0000, 0],
    );
    let halves = "b16 b16 b16 b16 -> b64 b64";
    let rows = vec![vec![1, 2, 3, 4]];
    t.check(
        &format!("{zero} st.global.v4.b16 [row_out], {{a, b, c, e}}; {back}"),
        halves,
        &rows,
        |_| vec![0x0004_0003_0002_0001, 0],
    );
    t.check(
        &format!("{zero} st.global.v2.f16 [row_out+12], {{a, b}}; {back}").replace(".f16", ".b16"),
        halves,
        &rows,
        |_| vec![0, 0x0002_0001_0000_0000],
    );
}

#[test]
fn every_cache_operator_and_scope_moves_the_same_bytes() {
    let t = table();
    let rows = each(&[WORD]);
    for load in [
        "ld.global.ca",
        "ld.global.cg",
        "ld.global.cs",
        "ld.global.lu",
        "ld.global.cv",
        "ld.global.nc",
        "ld.global.ca.nc",
        "ld.global.cg.nc",
        "ld.volatile.global",
        "ld.volatile",
        "ld.relaxed.cta.global",
        "ld.relaxed.gpu.global",
        "ld.relaxed.sys.global",
        "ld.acquire.gpu.global",
        "ld.acquire.cta",
        "ld.weak.global",
        "ld.global.L1::no_allocate",
        "ld.global.L1::evict_last",
        "ld.global.nc.L1::no_allocate",
        "ld.global.L2::128B",
        "ld.global.nc.L1::no_allocate.L2::256B",
        "ld",
        "ldu.global",
    ] {
        t.check(&format!("{load}.b64 d, [row_in];"), "b64 -> b64", &rows, |r| vec![r[0]]);
        t.check(&format!("{load}.v2.b32 {{d, x}}, [row_in];"), "b64 -> b32 b32", &rows, |r| {
            vec![r[0] & 0xffff_ffff, r[0] >> 32]
        });
    }
    for store in [
        "st.global.wb",
        "st.global.cg",
        "st.global.cs",
        "st.global.wt",
        "st.volatile.global",
        "st.volatile",
        "st.relaxed.gpu.global",
        "st.relaxed.cta",
        "st.release.gpu.global",
        "st.release.sys",
        "st.weak.global",
        "st.global.L1::no_allocate",
        "st",
    ] {
        t.check(
            &format!("{store}.b64 [row_out], a; ld.global.b64 d, [row_out];"),
            "b64 -> b64",
            &rows,
            |r| vec![r[0]],
        );
    }
    for hint in [
        "prefetch.global.L1 [row_in];",
        "prefetch.global.L2 [row_in];",
        "prefetchu.L1 [row_in];",
        "prefetch.L2 [row_in];",
    ] {
        t.check(&format!("{hint} mov.b64 d, a;"), "b64 -> b64", &rows, |r| vec![r[0]]);
    }
    for fence in [
        "membar.cta;",
        "membar.gl;",
        "membar.sys;",
        "fence.sc.cta;",
        "fence.acq_rel.gpu;",
        "fence.sc.sys;",
        "fence.acq_rel.cta;",
    ] {
        t.check(&format!("{fence} mov.b64 d, a;"), "b64 -> b64", &rows, |r| vec![r[0]]);
    }
}

#[test]
fn variables_and_their_initial_values() {
    let declarations = "
.const .align 4 .b32 table[4] = {10, 20, 30, 0xffffffff};
.const .f32 third = 0f3EAAAAAB;
.const .f64 wide = 0d3FF8000000000000;
.global .align 8 .b8 bytes[16] = {1, 2, 255, 4};
.global .u32 nothing;
.global .s16 grid[2][3] = {{1, 2, 3}, {-1, -2, -3}};
.global .u64 place = bytes;
.global .u64 inside = generic(bytes)+2;";
    let t = table_for(HEADER, declarations);
    let zero = each(&[0]);
    t.check(
        "ld.const.b32 d, [table+8]; ld.const.b32 x, [table+12]; ld.const.f32 y, [third];",
        "b32 -> b32 b32 b32",
        &zero,
        |_| vec![30, 0xffff_ffff, 0x3eaa_aaab],
    );
    t.check(
        "ld.const.f64 d, [wide]; ld.const.v2.b32 {x, y}, [table];",
        "b32 -> b64 b32 b32",
        &zero,
        |_| vec![0x3ff8 << 48, 10, 20],
    );
    t.check(
        ".reg .b64 p; mov.u64 p, table; mad.wide.u32 p, a, 4, p; ld.const.b32 d, [p];",
        "b32 -> b32",
        &each(&[0, 1, 2, 3]),
        |r| vec![[10, 20, 30, 0xffff_ffff][r[0] as usize]],
    );
    t.check(
        "ld.global.b32 d, [bytes]; ld.global.b32 x, [bytes+12]; ld.global.u32 y, [nothing];",
        "b32 -> b32 b32 b32",
        &zero,
        |_| vec![0x04ff_0201, 0, 0],
    );
    t.check(
        "ld.global.s16 d, [grid+4]; ld.global.s16 x, [grid+10];",
        "b32 -> b32 b32",
        &zero,
        |_| vec![3, 0xffff_fffd],
    );
    // The address of a variable, and the generic one of a byte within.
    t.check(
        ".reg .b64 p, q; ld.global.u64 p, [place]; mov.u64 q, bytes; setp.eq.u64 d, p, q;",
        "b32 -> pred",
        &zero,
        |_| vec![1],
    );
    t.check(".reg .b64 p; ld.global.u64 p, [inside]; ld.u8 d, [p];", "b32 -> b32", &zero, |_| {
        vec![255]
    });
    t.check(
        ".reg .b64 p; mov.u64 p, table; cvta.const.u64 p, p; ld.b32 d, [p+4];",
        "b32 -> b32",
        &zero,
        |_| vec![20],
    );
    t.check(
        ".reg .b64 p; mov.u64 p, bytes+2; cvta.global.u64 p, p; ld.u8 d, [p];",
        "b32 -> b32",
        &zero,
        |_| vec![255],
    );
}

#[test]
fn global_variables_outlive_a_launch_and_the_host_finds_them() {
    let ptx = kernel(
        ".visible .global .align 4 .u32 total = 5;",
        "
    .reg .b32 v;
    ld.global.u32 v, [total];
    add.u32 v, v, 1;
    st.global.u32 [total], v;
    st.global.u32 [out], v;",
    );
    let memory = Memory::new();
    let module = load(&ptx, &memory, &config()).unwrap();
    let (address, size) = module.global("total").expect("the variable");
    assert_eq!(size, 4);
    assert!(module.global("absent").is_none() && module.kernel("absent").is_none());
    let target = buffer(&memory, &[0]);
    let kernel = module.kernel("test").unwrap();
    let params: Vec<u8> = [target, target].iter().flat_map(|p| p.to_le_bytes()).collect();
    for want in [6, 7] {
        exec::launch(&memory, &kernel, &Launch::new([1, 1, 1], [1, 1, 1]), &params, &config())
            .unwrap();
        assert_eq!(words(&memory, target, 1), [want]);
        assert_eq!(words(&memory, address, 1), [want]);
    }
    memory.write(address, &90u32.to_le_bytes()).unwrap();
    exec::launch(&memory, &kernel, &Launch::new([1, 1, 1], [1, 1, 1]), &params, &config()).unwrap();
    assert_eq!(words(&memory, target, 1), [91]);
}

#[test]
fn shared_and_local_memory_by_every_kind_of_address() {
    let t = table_for(
        HEADER,
        ".shared .align 16 .b8 tile[2048];\n.extern .shared .align 16 .b8 more[];",
    );
    let rows = each(&[WORD, 3, 0x1234_5678_9abc_def0]);
    let own = ".reg .b32 p, lane; .reg .b64 g, w; mov.u32 lane, %tid.x; mov.u32 p, tile; mad.lo.u32 p, lane, 16, p;";
    let same = |r: &[u64]| vec![r[0]];
    t.check(
        &format!("{own} st.shared.b64 [p+8], a; ld.shared.b64 d, [p+8];"),
        "b64 -> b64",
        &rows,
        same,
    );
    t.check(
        &format!("{own} cvt.u64.u32 w, p; st.shared.b64 [w], a; ld.shared.b64 d, [p];"),
        "b64 -> b64",
        &rows,
        same,
    );
    t.check(
        &format!("{own} st.shared::cta.b64 [p], a; ld.shared::cta.b64 d, [p];"),
        "b64 -> b64",
        &rows,
        same,
    );
    t.check(
        &format!(
            "{own} cvt.u64.u32 g, p; cvta.shared.u64 g, g; st.b64 [g+8], a; ld.shared.b64 d, [p+8];"
        ),
        "b64 -> b64",
        &rows,
        same,
    );
    t.check(&format!("{own} cvt.u64.u32 g, p; cvta.shared.u64 g, g; cvta.to.shared.u64 w, g; st.shared.b64 [w], a; ld.b64 d, [g];"), "b64 -> b64", &rows, same);
    // The shape that compilers give to local memory.
    let local = ".local .align 16 .b8 depot[64]; .reg .b64 sp, spl, q; mov.u64 spl, depot; cvta.local.u64 sp, spl;";
    t.check(
        &format!("{local} st.b64 [sp+24], a; add.u64 q, spl, 24; ld.local.b64 d, [q];"),
        "b64 -> b64",
        &rows,
        same,
    );
    t.check(
        &format!("{local} st.local.b64 [spl+8], a; ld.b64 d, [sp+8];"),
        "b64 -> b64",
        &rows,
        same,
    );
    t.check(&format!("{local} st.local.v2.b32 [depot+16], {{b, b}}; st.local.u8 [depot+18], a; ld.local.b32 d, [depot+16];"), "b64 b32 -> b32", &[vec![WORD, 0]], |_| {
        vec![0xf7_0000]
    });
    let spaces = format!(
        "{own} {local} cvt.u64.u32 g, p; cvta.shared.u64 g, g; isspacep.shared d, g; isspacep.global x, g; \
         isspacep.shared y, sp; isspacep.local z, sp;"
    );
    t.check(&spaces, "b64 -> pred pred pred pred", &rows, |_| vec![1, 0, 0, 1]);
    t.check(
        "isspacep.global d, row_out; isspacep.local x, row_out;",
        "b64 -> pred pred",
        &rows,
        |_| vec![1, 0],
    );
}

#[test]
fn local_memory_belongs_to_one_thread() {
    let ptx = kernel(
        "",
        "
    .local .align 4 .b8 stack[128];
    .reg .b32 p, v, i, sum;
    .reg .pred more;
    .reg .b64 q;
    mov.u32 i, 0;
FILL:
    mov.u32 p, stack;
    mad.lo.u32 p, i, 4, p;
    mad.lo.u32 v, tid, 1000, i;
    st.local.u32 [p], v;
    add.u32 i, i, 1;
    setp.lt.u32 more, i, 32;
    @more bra FILL;
    bar.sync 0;
    // Each thread reads at an index of its own.
    mov.u32 p, stack;
    and.b32 i, tid, 31;
    mad.lo.u32 p, i, 4, p;
    ld.local.u32 v, [p];
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], v;",
    );
    let (got, _) = shape(1, 64).seed(3).run(&ptx, &[0], 64).unwrap();
    assert!((0..64).all(|t| got[t] == (t * 1000 + t % 32) as u32), "{got:?}");
}

#[test]
fn parameters_of_every_type() {
    let ptx = format!(
        "{HEADER}
.visible .entry test(
    .param .u64 out,
    .param .u8 byte,
    .param .s16 short,
    .param .f32 single,
    .param .u8 second,
    .param .f64 double,
    .param .align 8 .b8 pack[24],
    .param .u32 last
)
{{
    .reg .b64 p, w, a;
    .reg .b32 r, i;
    ld.param.u64 p, [out];
    ld.param.u8 r, [byte];
    st.global.u32 [p], r;
    ld.param.s16 r, [short];
    st.global.u32 [p+4], r;
    ld.param.f32 r, [single];
    st.global.u32 [p+8], r;
    ld.param.u8 r, [second];
    st.global.u32 [p+12], r;
    ld.param.f64 w, [double];
    st.global.u64 [p+16], w;
    ld.param.u32 r, [pack+12];
    st.global.u32 [p+24], r;
    ld.param.u32 r, [last];
    st.global.u32 [p+28], r;
    ld.param.v2.u32 {{r, i}}, [pack+16];
    st.global.u32 [p+32], i;
    mov.b64 a, pack;
    ld.param.u32 r, [a+4];
    st.global.u32 [p+36], r;
    ret;
}}
"
    );
    let memory = Memory::new();
    let module = load(&ptx, &memory, &config()).unwrap();
    let kernel = module.kernel("test").unwrap();
    assert_eq!(kernel.name(), "test");
    let layout: Vec<(usize, usize)> = kernel.params().iter().map(|p| (p.offset, p.size)).collect();
    assert_eq!(layout, [(0, 8), (8, 1), (10, 2), (12, 4), (16, 1), (24, 8), (32, 24), (56, 4)]);
    let target = buffer(&memory, &[0; 10]);
    let mut bytes = vec![0u8; 60];
    bytes[..8].copy_from_slice(&target.to_le_bytes());
    bytes[8] = 200;
    bytes[10..12].copy_from_slice(&(-2i16).to_le_bytes());
    bytes[12..16].copy_from_slice(&1.5f32.to_le_bytes());
    bytes[16] = 7;
    bytes[24..32].copy_from_slice(&2.5f64.to_le_bytes());
    for i in 0..6u32 {
        bytes[32 + 4 * i as usize..][..4].copy_from_slice(&(100 + i).to_le_bytes());
    }
    bytes[56..60].copy_from_slice(&99u32.to_le_bytes());
    exec::launch(&memory, &kernel, &Launch::new([1, 1, 1], [1, 1, 1]), &bytes, &config()).unwrap();
    let double = 2.5f64.to_bits();
    let want = [
        200,
        0xffff_fffe,
        1.5f32.to_bits(),
        7,
        double as u32,
        (double >> 32) as u32,
        103,
        99,
        105,
        101,
    ];
    assert_eq!(words(&memory, target, 10), want);
}

// ---- atomics ----

/// The value after an atomic operation, from the old one and the operand.
type Change = Box<dyn Fn(u64, u64) -> u64>;

fn float_add(format: exact::Format) -> Change {
    Box::new(move |a, b| {
        format
            .encode(&exact::add(&format.decode(a), &format.decode(b), Mode::Nearest), Mode::Nearest)
    })
}

fn operations() -> Vec<(&'static str, u32, Vec<u64>, Change)> {
    let mut list: Vec<(&'static str, u32, Vec<u64>, Change)> = Vec::new();
    let mut push = |name, width: u32, change: Change| {
        let all = u64::MAX >> (64 - width);
        list.push((name, width, integers(width), Box::new(move |a, b| change(a, b) & all)));
    };
    for width in [32, 64] {
        let s = move |v| signed(v, width);
        let names = |a, b| if width == 32 { a } else { b };
        push(names("add.u32", "add.u64"), width, Box::new(u64::wrapping_add));
        push(names("min.u32", "min.u64"), width, Box::new(u64::min));
        push(names("max.u32", "max.u64"), width, Box::new(u64::max));
        push(
            names("min.s32", "min.s64"),
            width,
            Box::new(move |a, b| if s(a) < s(b) { a } else { b }),
        );
        push(
            names("max.s32", "max.s64"),
            width,
            Box::new(move |a, b| if s(a) > s(b) { a } else { b }),
        );
        push(names("and.b32", "and.b64"), width, Box::new(|a, b| a & b));
        push(names("or.b32", "or.b64"), width, Box::new(|a, b| a | b));
        push(names("xor.b32", "xor.b64"), width, Box::new(|a, b| a ^ b));
    }
    push("add.s32", 32, Box::new(u64::wrapping_add));
    push("inc.u32", 32, Box::new(|a, b| if a >= b { 0 } else { a + 1 }));
    push("dec.u32", 32, Box::new(|a, b| if a == 0 || a > b { b } else { a - 1 }));
    // Whether f32 flushes subnormals depends on the state space and the architecture: none are asked for.
    let normal = |format: exact::Format| -> Vec<u64> {
        floats(format)
            .into_iter()
            .filter(|&v| !format.is_subnormal(v) && !format.is_nan(v))
            .collect()
    };
    list.push((
        "add.f32",
        32,
        normal(F32)
            .into_iter()
            .filter(|v| v & 0x7fff_ffff != 0x0080_0000 && v & 0x7fff_ffff != 0x0080_0001)
            .collect(),
        float_add(F32),
    ));
    list.push(("add.f64", 64, normal(F64), float_add(F64)));
    list.push((
        "add.noftz.f16",
        16,
        floats(F16).into_iter().filter(|&v| !F16.is_nan(v)).collect(),
        float_add(F16),
    ));
    let half = float_add(F16);
    let two = move |a: u64, b: u64| half(a & 0xffff, b & 0xffff) | half(a >> 16, b >> 16) << 16;
    list.push((
        "add.noftz.f16x2",
        32,
        vec![0x3c00_4000, 0xbc00_0001, 0x7bff_8000, 0x0400_3555],
        Box::new(two),
    ));
    list
}

fn kind_of(name: &str) -> &str {
    match name {
        "add.f32" => "f32",
        "add.f64" => "f64",
        "add.noftz.f16" => "f16",
        "add.noftz.f16x2" => "f16x2",
        _ => "",
    }
}

const SLOTS: &str = ".shared .align 16 .b8 slots[512];";
/// Declares `s`, the lane's slot in shared memory, and `g`, the generic address of it.
const SLOT: &str = ".reg .b32 s; .reg .b64 g; mov.u32 s, %tid.x; shl.b32 s, s, 3; .reg .b32 base; mov.u32 base, slots; add.u32 s, s, base; cvt.u64.u32 g, s; cvta.shared.u64 g, g;";

#[test]
fn atomics_of_every_type_and_operation() {
    let t = table_for(HEADER, SLOTS);
    for (name, width, values, change) in operations() {
        let kind = match kind_of(name) {
            "" => format!("b{width}"),
            kind => kind.to_string(),
        };
        let rows = pairs(&values, &values);
        let sig = format!("{kind} {kind} -> {kind} {kind}");
        let want = |r: &[u64]| vec![r[0], change(r[0], r[1])];
        let b = format!("b{width}");
        t.check(&format!("st.global.{b} [row_out], a; atom.global.{name} d, [row_out], b; ld.global.{b} x, [row_out];"), &sig, &rows, want);
        t.check(
            &format!(
                "{SLOT} st.shared.{b} [s], a; atom.shared.{name} d, [s], b; ld.shared.{b} x, [s];"
            ),
            &sig,
            &rows,
            want,
        );
        t.check(&format!("st.global.{b} [row_out], a; atom.{name} d, [row_out], b; ld.global.{b} x, [row_out];"), &sig, &rows, want);
        t.check(
            &format!("{SLOT} st.shared.{b} [s], a; atom.{name} d, [g], b; ld.shared.{b} x, [s];"),
            &sig,
            &rows,
            want,
        );
        let sig = format!("{kind} {kind} -> {kind}");
        let want = |r: &[u64]| vec![change(r[0], r[1])];
        t.check(&format!("st.global.{b} [row_out], a; red.global.{name} [row_out], b; ld.global.{b} d, [row_out];"), &sig, &rows, want);
        t.check(
            &format!(
                "{SLOT} st.shared.{b} [s], a; red.shared.{name} [s], b; ld.shared.{b} d, [s];"
            ),
            &sig,
            &rows,
            want,
        );
        t.check(&format!("st.global.{b} [row_out], a; red.relaxed.gpu.global.{name} [row_out], b; ld.global.{b} d, [row_out];"), &sig, &rows, want);
    }
}

#[test]
fn exchange_and_compare_and_swap() {
    let t = table_for(HEADER, SLOTS);
    for width in [16, 32, 64] {
        let b = format!("b{width}");
        let values = &integers(width)[..8];
        let rows: Vec<Vec<u64>> = triples(values, values, &[0x55, 0xaa]);
        let sig = format!("{b} {b} {b} -> {b} {b}");
        let swapped = |r: &[u64]| vec![r[0], if r[0] == r[1] { r[2] } else { r[0] }];
        t.check(&format!("st.global.{b} [row_out], a; atom.global.cas.{b} d, [row_out], b, c; ld.global.{b} x, [row_out];"), &sig, &rows, swapped);
        t.check(&format!("{SLOT} st.shared.{b} [s], a; atom.shared.cas.{b} d, [s], b, c; ld.shared.{b} x, [s];"), &sig, &rows, swapped);
        t.check(&format!("{SLOT} st.shared.{b} [s], a; atom.acq_rel.cta.cas.{b} d, [g], b, c; ld.shared.{b} x, [s];"), &sig, &rows, swapped);
        if width > 16 {
            let sig = format!("{b} {b} -> {b} {b}");
            let rows = pairs(values, values);
            let exchanged = |r: &[u64]| vec![r[0], r[1]];
            t.check(&format!("st.global.{b} [row_out], a; atom.global.exch.{b} d, [row_out], b; ld.global.{b} x, [row_out];"), &sig, &rows, exchanged);
            t.check(&format!("{SLOT} st.shared.{b} [s], a; atom.relaxed.gpu.shared.exch.{b} d, [s], b; ld.shared.{b} x, [s];"), &sig, &rows, exchanged);
        }
    }
}

#[test]
fn atomics_of_bf16() {
    let t = table_90();
    let format = exact::BF16;
    let values: Vec<u64> = floats(format).into_iter().filter(|&v| !format.is_nan(v)).collect();
    let sum = float_add(format);
    let rows = pairs(&values, &values);
    t.check("st.global.b16 [row_out], a; atom.global.add.noftz.bf16 d, [row_out], b; ld.global.b16 x, [row_out];", "bf16 bf16 -> bf16 bf16", &rows, |r| {
        vec![r[0], sum(r[0], r[1])]
    });
    let rows = pairs(&[0x3f80_4000, 0xbf80_0001], &[0x4000_3f80, 0x0001_8000]);
    t.check("st.global.b32 [row_out], a; red.global.add.noftz.bf16x2 [row_out], b; ld.global.b32 d, [row_out];", "bf16x2 bf16x2 -> bf16x2", &rows, |r| {
        vec![sum(r[0] & 0xffff, r[1] & 0xffff) | sum(r[0] >> 16, r[1] >> 16) << 16]
    });
}

#[test]
fn many_threads_at_one_address() {
    let ptx = kernel(
        ".shared .b32 count;",
        "
    .reg .pred first;
    .reg .b32 v, c, i;
    .reg .b64 q, w;
    mov.u32 c, count;
    setp.eq.u32 first, tid, 0;
    @first st.shared.u32 [c], 0;
    bar.sync 0;
    // Tickets of the block, all different; of the grid; a sum of 64 bits; a wrapped counter.
    atom.shared.add.u32 i, [c], 1;
    mad.lo.u32 i, cta, 96, i;
    mad.wide.u32 q, i, 4, out;
    st.global.u32 [q+32], tid;
    red.global.add.u32 [out], 1;
    cvt.u64.u32 w, tid;
    red.global.add.u64 [out+8], w;
    red.global.max.s32 [out+16], tid;
    atom.global.inc.u32 v, [out+20], 6;
    red.global.add.f32 [out+24], 0f3F000000;
    red.global.or.b32 [out+28], tid;",
    );
    for seed in 0..4 {
        for threads in [1, 2] {
            let (got, _) =
                shape(5, 96).seed(seed).threads(threads).run(&ptx, &[0], 8 + 480).unwrap();
            let sum = 5 * (0..96).sum::<u32>();
            assert_eq!(got[..8], [480, 0, sum, 0, 95, 480 % 7, 240f32.to_bits(), 127]);
            for block in 0..5 {
                let mut taken = got[8 + 96 * block..][..96].to_vec();
                taken.sort();
                assert!((0..96).all(|i| taken[i] == i as u32), "seed {seed}: {taken:?}");
            }
        }
    }
}

#[test]
fn a_lock_made_of_compare_and_swap() {
    // Every thread of every block, lanes of one warp among them, adds to a counter that is no atomic.
    let ptx = kernel(
        "",
        "
    .reg .pred got;
    .reg .b32 v;
TRY:
    atom.acquire.gpu.global.cas.b32 v, [out], 0, 1;
    setp.ne.u32 got, v, 0;
    @got bra TRY;
    ld.global.u32 v, [out+4];
    add.u32 v, v, 1;
    st.global.u32 [out+4], v;
    membar.gl;
    atom.release.gpu.global.exch.b32 v, [out], 0;",
    );
    for seed in 0..4 {
        let (got, _) = shape(3, 48)
            .seed(seed)
            .threads(2)
            .run(&ptx, &[0], 2)
            .unwrap_or_else(|f| panic!("seed {seed}: {f}"));
        assert_eq!(got, [0, 144], "seed {seed}");
    }
}

// ---- asynchronous copies ----

#[test]
fn copies_land_whole_in_part_and_as_zeros() {
    for late in [false, true] {
        let t =
            table_for(HEADER, ".shared .align 16 .b8 slots[512];").with(|c| c.late_copies = late);
        let slot =
            ".reg .b32 s, base; mov.u32 s, %tid.x; mov.u32 base, slots; mad.lo.u32 s, s, 16, base;";
        let ones = "st.shared.v2.b64 [s], {f, f}; ".to_string();
        let read = "ld.shared.v2.b64 {d, x}, [s];";
        let rows: Vec<Vec<u64>> =
            (0..40).map(|i| vec![WORD + i, !WORD - i, 0, 0, u64::MAX, 0]).collect();
        let sig = "b64 b64 b64 b64 b64 b64 -> b64 b64";
        let fill = u64::MAX;
        for (operator, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
            let low = |v: u64, n: u32| if n >= 8 { v } else { v & ((1 << (8 * n)) - 1) };
            let high = |v: u64, n: u32| if n >= 8 { v } else { v & !((1 << (8 * n)) - 1) };
            let parts =
                |r: &[u64], n: u32| vec![low(r[0], n.min(8)), low(r[1], n.saturating_sub(8))];
            // Beyond the copy the old bytes stay.
            let keep = |landed: Vec<u64>| {
                vec![
                    landed[0] | high(fill, bytes.min(8)) & if bytes >= 8 { 0 } else { fill },
                    if bytes == 16 { landed[1] } else { fill },
                ]
            };
            let plain = format!(
                "{slot} {ones} cp.async.{operator}.shared.global [s], [row_in], {bytes}; cp.async.wait_all; {read}"
            );
            t.check(&plain, sig, &rows, |r| keep(parts(r, bytes)));
            for given in [0, 1, 3, 4, 7, 8, 12, 16] {
                if given > bytes {
                    continue;
                }
                let part = format!(
                    "{slot} {ones} .reg .b32 n; mov.u32 n, {given}; cp.async.{operator}.shared.global [s], [row_in], {bytes}, n; \
                     cp.async.commit_group; cp.async.wait_group 0; {read}"
                );
                t.check(&part, sig, &rows, |r| keep(parts(r, given)));
            }
        }
        let hint = format!(
            "{slot} {ones} cp.async.cg.shared.global.L2::128B [s], [row_in], 16; cp.async.wait_all; {read}"
        );
        t.check(&hint, sig, &rows, |r| vec![r[0], r[1]]);
        // Nothing is read where nothing is asked for: the address need not exist.
        let none = format!(
            "{slot} {ones} .reg .b64 nowhere; mov.b64 nowhere, 16; cp.async.ca.shared.global [s], [nowhere], 16, 0; cp.async.wait_all; {read}"
        );
        t.check(&none, sig, &rows, |_| vec![0, 0]);
    }
}

#[test]
fn groups_land_in_order() {
    // A pipeline of three stages over eight tiles, each thread copying and reading its own 16 bytes.
    let ptx = kernel(
        ".shared .align 16 .b8 stage[6144];",
        "
    .reg .pred p;
    .reg .b32 i, j, base, s, a, b, c, d, sum, t;
    .reg .b64 q;
    mov.u32 base, stage;
    mad.lo.u32 base, tid, 16, base;
    mad.wide.u32 q, tid, 16, in;
    cp.async.cg.shared.global [base], [q], 16;
    cp.async.commit_group;
    cp.async.cg.shared.global [base+2048], [q+2048], 16;
    cp.async.commit_group;
    mov.u32 i, 0;
    mov.u32 sum, 0;
LOOP:
    cp.async.wait_group 1;
    bar.sync 0;
    add.u32 j, i, 2;
    setp.lt.u32 p, j, 8;
    rem.u32 t, j, 3;
    mad.lo.u32 s, t, 2048, base;
    mul.lo.u32 t, j, 2048;
    mad.wide.u32 q, tid, 16, in;
    .reg .b64 w;
    cvt.u64.u32 w, t;
    add.u64 q, q, w;
    @p cp.async.cg.shared.global [s], [q], 16;
    cp.async.commit_group;
    rem.u32 t, i, 3;
    mad.lo.u32 s, t, 2048, base;
    ld.shared.v4.b32 {a, b, c, d}, [s];
    add.u32 i, i, 1;
    mad.lo.u32 sum, a, i, sum;
    add.u32 sum, sum, d;
    setp.lt.u32 p, i, 8;
    @p bra LOOP;
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], sum;",
    );
    let input: Vec<u32> = (0..8 * 512).map(|i| i * 7 + 1).collect();
    for late in [false, true] {
        for seed in 0..4 {
            let (got, _) = shape(1, 128)
                .seed(seed)
                .late(late)
                .run(&ptx, &input, 128)
                .unwrap_or_else(|f| panic!("{f}"));
            for t in 0..128 {
                let at = |tile: usize, i: usize| input[tile * 512 + t * 4 + i];
                let want = (0..8)
                    .fold(0u32, |sum, tile| sum + at(tile, 0) * (tile as u32 + 1) + at(tile, 3));
                assert_eq!(got[t], want, "thread {t}, late {late}, seed {seed}");
            }
        }
    }
}
