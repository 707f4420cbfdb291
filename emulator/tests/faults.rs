//! Planted faults: every check catches the kernel that has the fault, naming kernel, line, block, thread and address,
//! and lets the corrected twin pass.

mod common;

use std::time::Duration;

use common::*;
use cuda_emulator::exec::{Fault, FaultKind};
use cuda_emulator::memory::Memory;

/// The seeds under which a kernel that is right by luck has to fail at least once.
const SEEDS: std::ops::Range<u64> = 0..8;

/// Checks everything that a report says but the address. The line is the one marked `// fault`.
#[track_caller]
fn at(fault: &Fault, ptx: &str, want: FaultKind, block: u32, thread: u32) {
    assert_eq!(fault.kind, want, "{fault}");
    assert_eq!(fault.kernel, "test", "{fault}");
    assert_eq!(fault.line, line_of(ptx, "// fault"), "{fault}");
    let text = ptx.lines().nth(fault.line as usize - 1).unwrap();
    let opcode = fault.instruction.split_whitespace().find(|w| !w.starts_with('@')).unwrap_or("");
    assert!(!opcode.is_empty() && text.contains(opcode), "{fault:?}");
    assert_eq!(fault.block, [block, 0, 0], "{fault}");
    assert_eq!(fault.thread, [thread, 0, 0], "{fault}");
    assert!(!fault.message.is_empty(), "{fault:?}");
}

/// Runs under every seed and answers with the seeds' faults.
fn everywhere(shape: &Shape, run: impl Fn(&Shape) -> Result<(), Fault>) -> Vec<Option<Fault>> {
    SEEDS.map(|seed| run(&shape.clone().seed(seed)).err()).collect()
}

/// The kernel must be caught under every seed, with this kind, on one of the lines marked `// fault`.
#[track_caller]
fn always(
    shape: &Shape,
    ptx: &str,
    want: FaultKind,
    run: impl Fn(&Shape, &str) -> Result<(), Fault>,
) {
    for (seed, fault) in everywhere(shape, |s| run(s, ptx)).into_iter().enumerate() {
        let fault = fault.unwrap_or_else(|| panic!("seed {seed}: the fault is not seen:\n{ptx}"));
        assert_eq!(fault.kind, want, "seed {seed}: {fault}");
        assert_eq!(fault.kernel, "test");
        let text = ptx.lines().nth((fault.line as usize).saturating_sub(1)).unwrap();
        assert!(text.contains("// fault"), "seed {seed}: {fault}\n is not at a marked line");
    }
}

#[track_caller]
fn never(shape: &Shape, ptx: &str, run: impl Fn(&Shape, &str) -> Result<(), Fault>) {
    for (seed, fault) in everywhere(shape, |s| run(s, ptx)).into_iter().enumerate() {
        if let Some(fault) = fault {
            panic!("seed {seed}: the correct kernel is refused: {fault}");
        }
    }
}

/// Runs `test(in, out)` on 1024 words each.
fn plain(shape: &Shape, ptx: &str) -> Result<(), Fault> {
    shape.run(ptx, &(0..1024).collect::<Vec<_>>(), 1024).map(|_| ())
}

// ---- bounds ----

#[test]
fn one_element_past_the_end() {
    let body = |guard: &str, access: &str| {
        kernel(
            "",
            &format!(
                "
    .reg .pred inside;
    .reg .b32 v, i;
    .reg .b64 p, q;
    mad.lo.u32 i, cta, 64, tid;
    setp.lt.u32 inside, i, 127;
    mad.wide.u32 p, i, 4, in;
    mad.wide.u32 q, i, 4, out;
    mov.u32 v, 1;
    {guard} {access} // fault"
            ),
        )
    };
    // 127 words of 128 threads; 508 bytes leave room to the next multiple of 512 that belongs to nobody.
    for access in [
        "ld.global.u32 v, [p];",
        "ld.global.nc.f32 v, [p];",
        "st.global.u32 [p], v;",
        "red.global.add.u32 [p], v;",
        "atom.global.add.u32 v, [p], 1;",
        "ld.u32 v, [p];",
        "ld.volatile.global.u32 v, [p];",
    ] {
        for seed in 0..3 {
            let memory = Memory::new();
            let (source, target) = (buffer(&memory, &[0; 127]), buffer(&memory, &[0; 128]));
            let ptx = body("", access);
            let fault = fault(shape(2, 64).seed(seed).run_on(&memory, &ptx, &[source, target]));
            at(&fault, &ptx, FaultKind::OutOfBounds, 1, 63);
            assert_eq!(fault.address, Some(source + 4 * 127), "{fault}");
            let twin = body("@inside", access);
            shape(2, 64).seed(seed).run_on(&memory, &twin, &[source, target]).unwrap();
        }
    }
}

#[test]
fn before_the_start() {
    let ptx = kernel(
        "",
        "
    .reg .b32 v;
    .reg .b64 p;
    mad.wide.u32 p, tid, 4, in;
    ld.global.u32 v, [p+-4]; // fault
    mad.wide.u32 p, tid, 4, out;
    st.global.u32 [p], v;",
    );
    let memory = Memory::new();
    let _first = buffer(&memory, &[0; 128]);
    let (source, target) = (buffer(&memory, &[0; 128]), buffer(&memory, &[0; 128]));
    let caught = fault(shape(1, 128).run_on(&memory, &ptx, &[source, target]));
    at(&caught, &ptx, FaultKind::OutOfBounds, 0, 0);
    assert_eq!(caught.address, Some(source - 4));
    // One element later everything is inside.
    shape(1, 127).run_on(&memory, &ptx, &[source + 4, target]).unwrap();
}

#[test]
fn between_two_buffers() {
    let ptx = kernel(
        "",
        "
    .reg .b32 v;
    ld.global.u32 v, [in]; // fault
    st.global.u32 [out], v;",
    );
    let memory = Memory::new();
    // Full multiples of 512 bytes, so that the end of one could be the start of the next.
    let buffers: Vec<u64> = (0..4).map(|i| buffer(&memory, &vec![i; 128])).collect();
    let target = buffer(&memory, &[0]);
    for &b in &buffers {
        for wrong in [b + 512, b - 4, b + 512 + 60] {
            let fault = fault(shape(1, 1).run_on(&memory, &ptx, &[wrong, target]));
            at(&fault, &ptx, FaultKind::OutOfBounds, 0, 0);
            assert_eq!(fault.address, Some(wrong));
        }
        for right in [b, b + 508] {
            shape(1, 1).run_on(&memory, &ptx, &[right, target]).unwrap();
        }
    }
    let fault = fault(shape(1, 1).run_on(&memory, &ptx, &[0, target]));
    at(&fault, &ptx, FaultKind::OutOfBounds, 0, 0);
    assert_eq!(fault.address, Some(0));
}

#[test]
fn a_vector_that_crosses_the_end() {
    for (access, bytes) in
        [("ld.global.v4.f32 {a, b, c, d}, [p];", 16), ("st.global.v2.f32 [p], {a, b};", 8)]
    {
        let ptx = kernel(
            "",
            &format!(
                "
    .reg .b32 a, b, c, d;
    .reg .b64 p;
    mov.b32 a, 0;
    mov.b32 b, 0;
    mad.wide.u32 p, tid, {bytes}, in;
    {access} // fault"
            ),
        );
        let memory = Memory::new();
        let source = buffer(&memory, &vec![0; 4 * bytes / 4 - 1]);
        let caught = fault(shape(1, 4).run_on(&memory, &ptx, &[source, source]));
        at(&caught, &ptx, FaultKind::OutOfBounds, 0, 3);
        let address = caught.address.unwrap();
        assert!(
            (source + 3 * bytes as u64..source + 4 * bytes as u64).contains(&address),
            "{caught}"
        );
        shape(1, 3).run_on(&memory, &ptx, &[source, source]).unwrap();
    }
}

#[test]
fn past_the_end_of_shared_memory() {
    let body = |declaration: &str, index: &str| {
        kernel(
            declaration,
            &format!(
                "
    .reg .b32 v, p, i;
    mov.u32 p, first;
    mov.u32 i, tid;
    {index}
    mad.lo.u32 p, i, 4, p;
    st.shared.u32 [p], i; // fault"
            ),
        )
    };
    // The end of one array is not the start of the next.
    for declaration in [
        ".shared .align 4 .b8 first[128];",
        ".shared .align 4 .b8 first[128];\n.shared .align 4 .b8 second[128];",
        ".shared .b32 first[32];\n.shared .b32 second[32];",
    ] {
        let user = format!("{declaration}\n.shared .b32 after[8];");
        let ptx = body(&user, "add.u32 i, i, 1;");
        let fault = fault(shape(3, 32).run(&ptx, &[0], 1));
        assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
        assert_eq!((fault.line, fault.thread), (line_of(&ptx, "// fault"), [31, 0, 0]), "{fault}");
        assert!(fault.address.is_some());
        shape(3, 32).run(&body(&user, ""), &[0], 1).unwrap();
    }
    let dynamic = ".extern .shared .align 16 .b8 first[];";
    let ptx = body(dynamic, "");
    let caught = fault(shape(1, 33).dynamic(128).run(&ptx, &[0], 1));
    at(&caught, &ptx, FaultKind::OutOfBounds, 0, 32);
    shape(1, 33).dynamic(132).run(&ptx, &[0], 1).unwrap();
    let below = body(dynamic, "sub.u32 i, i, 64;");
    at(&fault(shape(1, 1).dynamic(128).run(&below, &[0], 1)), &below, FaultKind::OutOfBounds, 0, 0);
    // The generic address of the array's end is no better.
    let generic = kernel(
        dynamic,
        "
    .reg .b32 p;
    .reg .b64 g;
    mov.u32 p, first;
    cvt.u64.u32 g, p;
    cvta.shared.u64 g, g;
    st.u32 [g+128], p; // fault",
    );
    at(
        &fault(shape(1, 1).dynamic(128).run(&generic, &[0], 1)),
        &generic,
        FaultKind::OutOfBounds,
        0,
        0,
    );
    shape(1, 1).dynamic(132).run(&generic, &[0], 1).unwrap();
}

#[test]
fn past_the_end_of_local_memory() {
    let ptx = kernel(
        "",
        "
    .local .align 4 .b8 stack[64];
    .reg .b32 p, v;
    mov.u32 p, stack;
    mad.lo.u32 p, tid, 4, p;
    st.local.u32 [p], tid; // fault
    ld.local.u32 v, [p];",
    );
    at(&fault(shape(1, 17).run(&ptx, &[0], 1)), &ptx, FaultKind::OutOfBounds, 0, 16);
    shape(1, 16).run(&ptx, &[0], 1).unwrap();
}

// ---- alignment ----

#[test]
fn misaligned_accesses() {
    for (access, bytes) in [
        ("ld.global.u16 h, [p];", 2),
        ("ld.global.u32 a, [p];", 4),
        ("ld.global.u64 w, [p];", 8),
        ("ld.global.v2.u32 {a, b}, [p];", 8),
        ("ld.global.v4.f32 {a, b, c, d}, [p];", 16),
        ("ld.global.v2.u64 {w, x}, [p];", 16),
        ("st.global.u64 [p], w;", 8),
        ("st.global.v4.u32 [p], {a, b, c, d};", 16),
        ("red.global.add.u32 [p], a;", 4),
        ("atom.global.add.u64 w, [p], w;", 8),
    ] {
        let ptx = kernel(
            "",
            &format!(
                "
    .reg .b16 h;
    .reg .b32 a, b, c, d;
    .reg .b64 p, w, x;
    mov.b32 a, 0;
    mov.b32 b, 0;
    mov.b32 c, 0;
    mov.b32 d, 0;
    mov.b64 w, 0;
    mad.wide.u32 p, tid, 32, in;
    {access} // fault"
            ),
        );
        let memory = Memory::new();
        let source = buffer(&memory, &[0; 256]);
        for off in [1, bytes / 2, bytes - 1] {
            let caught = fault(shape(1, 2).run_on(&memory, &ptx, &[source + off, source]));
            at(&caught, &ptx, FaultKind::Misaligned, 0, 0);
            assert_eq!(caught.address, Some(source + off), "{caught}");
        }
        shape(1, 2).run_on(&memory, &ptx, &[source + bytes, source]).unwrap();
    }
}

#[test]
fn misaligned_shared_accesses() {
    let ptx = |off: u32| {
        kernel(
            ".shared .align 16 .b8 tile[64];",
            &format!(
                "
    .reg .b32 a, b, c, d, p;
    mov.u32 p, tile;
    add.u32 p, p, {off};
    mov.b32 a, 0;
    st.shared.v2.b32 [p], {{a, a}}; // fault"
            ),
        )
    };
    for off in [1, 4, 7, 12] {
        at(&fault(shape(1, 1).run(&ptx(off), &[0], 1)), &ptx(off), FaultKind::Misaligned, 0, 0);
    }
    shape(1, 1).run(&ptx(8), &[0], 1).unwrap();
}

// ---- lifetime ----

#[test]
fn use_after_free() {
    let ptx = kernel(
        "",
        "
    .reg .b32 v;
    .reg .b64 p;
    mad.wide.u32 p, tid, 4, in;
    ld.global.u32 v, [p]; // fault
    mad.wide.u32 p, tid, 4, out;
    st.global.u32 [p], v;",
    );
    let memory = Memory::new();
    let (source, target) = (buffer(&memory, &[5; 64]), buffer(&memory, &[0; 64]));
    shape(1, 64).run_on(&memory, &ptx, &[source, target]).unwrap();
    memory.free(source).unwrap();
    let fault = fault(shape(1, 1).run_on(&memory, &ptx, &[source, target]));
    at(&fault, &ptx, FaultKind::UseAfterFree, 0, 0);
    assert_eq!(fault.address, Some(source));
    // A new allocation is not taken for the freed one, nor does it bring it back.
    let again = buffer(&memory, &[6; 64]);
    assert_ne!(again, source);
    shape(1, 64).run_on(&memory, &ptx, &[again, target]).unwrap();
    assert_eq!(
        kind(shape(1, 1).run_on(&memory, &ptx, &[source, target]), FaultKind::UseAfterFree).address,
        Some(source)
    );
    assert!(memory.free(source).is_err(), "freed twice");
    assert!(memory.free(again + 4).is_err(), "freed in the middle");
}

#[test]
fn leaks_are_what_is_still_alive() {
    let memory = Memory::new();
    let (first, second) = (blank(&memory, 100), blank(&memory, 4));
    assert_eq!(memory.live(), vec![(first, 100), (second, 4)]);
    memory.free(first).unwrap();
    assert_eq!(memory.live(), vec![(second, 4)]);
    memory.free(second).unwrap();
    assert_eq!(memory.live(), vec![]);
}

// ---- initialisation ----

#[test]
fn reads_of_global_memory_nobody_wrote() {
    let ptx = kernel(
        "",
        "
    .reg .b32 v;
    .reg .b64 p;
    mad.wide.u32 p, tid, 4, in;
    ld.global.u32 v, [p]; // fault
    mad.wide.u32 p, tid, 4, out;
    st.global.u32 [p], v;",
    );
    let memory = Memory::new();
    let (source, target) = (blank(&memory, 256), blank(&memory, 256));
    let words: Vec<u8> = vec![1; 4 * 63];
    memory.write(source, &words).unwrap();
    let caught = fault(shape(1, 64).run_on(&memory, &ptx, &[source, target]));
    at(&caught, &ptx, FaultKind::Uninitialised, 0, 63);
    assert_eq!(caught.address, Some(source + 252));
    // What a kernel writes counts; what the host sets counts; a copy carries the holes along.
    shape(1, 63).run_on(&memory, &ptx, &[source, target]).unwrap();
    shape(1, 63).run_on(&memory, &ptx, &[target, source]).unwrap();
    let copied = blank(&memory, 256);
    memory.copy(copied, source, 256).unwrap();
    let caught = fault(shape(1, 64).run_on(&memory, &ptx, &[copied, target]));
    at(&caught, &ptx, FaultKind::Uninitialised, 0, 63);
    memory.fill(source + 252, &[0], 4).unwrap();
    shape(1, 64).run_on(&memory, &ptx, &[source, target]).unwrap();
}

#[test]
fn every_byte_of_a_read_must_be_written() {
    // Bytes 0 … 2 of a word, 12 bytes of a vector of 16.
    for (write, read, bytes) in [
        ("st.global.u16 [in], h;\n    st.global.u8 [in+2], h;", "ld.global.u32 a, [in];", 4),
        (
            "st.global.v2.b32 [in], {a, b};\n    st.global.b32 [in+8], a;",
            "ld.global.v4.b32 {a, b, c, d}, [in];",
            16,
        ),
        ("st.global.b32 [in+4], a;", "ld.global.v2.b32 {a, b}, [in];", 8),
        ("st.global.b32 [in], a;", "atom.global.add.u64 w, [in], 1;", 8),
        ("", "atom.global.add.u32 a, [in], 1;", 4),
        ("", "red.global.add.f32 [in], a;", 4),
    ] {
        let make = |last: &str| {
            kernel(
                "",
                &format!(
                    "
    .reg .b16 h;
    .reg .b32 a, b, c, d;
    .reg .b64 w;
    mov.b16 h, 1;
    mov.b32 a, 1;
    mov.b32 b, 2;
    {write}
    {last}
    {read} // fault"
                ),
            )
        };
        let memory = Memory::new();
        let source = blank(&memory, 64);
        let ptx = make("");
        let caught = fault(shape(1, 1).run_on(&memory, &ptx, &[source, source]));
        at(&caught, &ptx, FaultKind::Uninitialised, 0, 0);
        assert!((source..source + bytes).contains(&caught.address.unwrap()), "{caught}");
        // The twin writes the rest.
        let all = (0..bytes)
            .map(|i| format!("st.global.u8 [in+{i}], h;"))
            .collect::<Vec<_>>()
            .join("\n    ");
        shape(1, 1).run_on(&memory, &make(&all), &[source, source]).unwrap();
    }
}

#[test]
fn shared_memory_starts_unwritten_in_every_block() {
    // The first block writes; a second that finds its values would be right by luck.
    let ptx = |condition: &str| {
        kernel(
            ".shared .b32 tile[32];",
            &format!(
                "
    .reg .pred first;
    .reg .b32 p, v;
    .reg .b64 q;
    mov.u32 p, tile;
    mad.lo.u32 p, tid, 4, p;
    {condition}
    @first st.shared.u32 [p], tid;
    ld.shared.u32 v, [p]; // fault
    mad.lo.u32 v, cta, 32, tid;
    mad.wide.u32 q, v, 4, out;
    st.global.u32 [q], v;"
            ),
        )
    };
    let wrong = ptx("setp.eq.u32 first, cta, 0;");
    always(&shape(4, 32).threads(1), &wrong, FaultKind::Uninitialised, plain);
    let fault = fault(shape(2, 32).seed(0).run(&wrong, &[0], 64));
    at(&fault, &wrong, FaultKind::Uninitialised, 1, 0);
    never(&shape(4, 32), &ptx("setp.ge.u32 first, cta, 0;"), plain);
    // Lane 9 alone has nothing.
    let hole = ptx("setp.ne.u32 first, tid, 9;");
    at(
        &kind(shape(1, 32).run(&hole, &[0], 32), FaultKind::Uninitialised),
        &hole,
        FaultKind::Uninitialised,
        0,
        9,
    );
}

#[test]
fn a_shared_vector_written_in_part() {
    let ptx = |bytes: u32| {
        kernel(
            ".shared .align 16 .b8 tile[16];",
            &format!(
                "
    .reg .pred more;
    .reg .b32 a, b, c, d, p;
    mov.u32 p, tile;
    mov.b32 a, 1;
    st.shared.v2.b32 [p], {{a, a}};
    st.shared.u32 [p+8], a;
    setp.eq.u32 more, {bytes}, 16;
    @more st.shared.u32 [p+12], a;
    ld.shared.v4.b32 {{a, b, c, d}}, [p]; // fault"
            ),
        )
    };
    at(&fault(shape(1, 1).run(&ptx(12), &[0], 1)), &ptx(12), FaultKind::Uninitialised, 0, 0);
    shape(1, 1).run(&ptx(16), &[0], 1).unwrap();
}

// ---- races in shared memory ----

/// Each thread has written its own word, and a barrier has passed; then `middle` runs. `mine` and `other` are the
/// addresses of the own word and of that of the thread 32 further (in another warp).
fn tile(distance: u32, middle: &str) -> String {
    kernel(
        ".shared .b32 tile[1024];\n.shared .b32 flag[4];",
        &format!(
            "
    .reg .pred first;
    .reg .b32 mine, other, v, n, flagged;
    .reg .b64 q;
    mov.u32 flagged, flag;
    mov.u32 other, tile;
    mad.lo.u32 mine, tid, 4, other;
    mov.u32 n, %ntid.x;
    add.u32 v, tid, {distance};
    rem.u32 v, v, n;
    mad.lo.u32 other, v, 4, other;
    setp.eq.u32 first, tid, 0;
    @first st.shared.u32 [flagged], tid;
    st.shared.u32 [mine], tid;
    bar.sync 0;
    {middle}
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], v;"
        ),
    )
}

#[test]
fn a_missing_syncthreads_in_both_orders() {
    let race = FaultKind::SharedRace;
    // Write, then another warp's read; read, then another warp's write.
    for distance in [32, 96] {
        for (one, two) in [
            ("st.shared.u32 [mine], v; // fault", "ld.shared.u32 v, [other]; // fault"),
            ("ld.shared.u32 v, [other]; // fault", "st.shared.u32 [mine], v; // fault"),
            ("st.shared.u32 [mine], v; // fault", "st.shared.u32 [other], v; // fault"),
        ] {
            always(&shape(1, 128), &tile(distance, &format!("{one}\n    {two}")), race, plain);
            never(
                &shape(1, 128),
                &tile(distance, &format!("{one}\n    bar.sync 0;\n    {two}")),
                plain,
            );
        }
    }
    // Reads alone are no race.
    never(
        &shape(1, 128),
        &tile(32, "ld.shared.u32 v, [other];\n    ld.shared.u32 v, [mine];"),
        plain,
    );
    // A barrier of the warp orders nothing between warps.
    let warp = "st.shared.u32 [mine], v; // fault\n    bar.warp.sync -1;\n    ld.shared.u32 v, [other]; // fault";
    always(&shape(1, 64), &tile(32, warp), race, plain);
}

#[test]
fn a_race_names_its_place() {
    let ptx = tile(
        32,
        "
    .reg .pred writer, reader;
    setp.eq.u32 writer, tid, 40;
    setp.eq.u32 reader, tid, 8;
    @writer st.shared.u32 [mine], v; // fault one
    @reader ld.shared.u32 v, [other]; // fault two",
    );
    for seed in SEEDS {
        let fault = kind(shape(1, 64).seed(seed).run(&ptx, &[0], 64), FaultKind::SharedRace);
        let (one, two) = (line_of(&ptx, "// fault one"), line_of(&ptx, "// fault two"));
        // Whichever came second is reported.
        let place = (fault.line, fault.thread);
        assert!(place == (one, [40, 0, 0]) || place == (two, [8, 0, 0]), "seed {seed}: {fault}");
        assert_eq!(fault.block, [0, 0, 0]);
        assert!(fault.address.is_some());
        // The message tells who was there before.
        assert!(
            fault.message.contains("thread") || fault.message.contains("warp"),
            "seed {seed}: {fault}"
        );
    }
}

#[test]
fn a_loop_that_lacks_its_second_barrier() {
    let ptx = |second: &str| {
        tile(
            32,
            &format!(
                "
    .reg .pred more;
    .reg .b32 round, sum;
    mov.u32 round, 0;
    mov.u32 sum, 0;
LOOP:
    add.u32 v, tid, round;
    st.shared.u32 [mine], v; // fault
    bar.sync 0;
    ld.shared.u32 v, [other]; // fault
    add.u32 sum, sum, v;
    {second}
    add.u32 round, round, 1;
    setp.lt.u32 more, round, 4;
    @more bra LOOP;
    mov.u32 v, sum;"
            ),
        )
    };
    always(&shape(1, 96), &ptx(""), FaultKind::SharedRace, plain);
    never(&shape(1, 96), &ptx("bar.sync 0;"), plain);
}

#[test]
fn a_missing_syncwarp() {
    let race = FaultKind::SharedRace;
    for (one, two) in [
        ("st.shared.u32 [mine], v; // fault", "ld.shared.u32 v, [other]; // fault"),
        ("ld.shared.u32 v, [other]; // fault", "st.shared.u32 [mine], v; // fault"),
    ] {
        always(&shape(1, 32), &tile(1, &format!("{one}\n    {two}")), race, plain);
        never(&shape(1, 32), &tile(1, &format!("{one}\n    bar.warp.sync -1;\n    {two}")), plain);
        never(&shape(1, 32), &tile(1, &format!("{one}\n    bar.sync 0;\n    {two}")), plain);
        // Each lane alone needs none.
        never(&shape(1, 32), &tile(0, &format!("{one}\n    {two}")), plain);
    }
    // The warp-synchronous sum of old, and as it is written today.
    let sum = |sync: &str| {
        let step = |d: u32| {
            format!(
                "
    setp.lt.u32 first, tid, {d};
    @first ld.shared.u32 v, [mine+{}]; // fault
    @first ld.shared.u32 n, [mine];
    @first add.u32 v, v, n;
    {sync}
    @first st.shared.u32 [mine], v; // fault
    {sync}",
                4 * d
            )
        };
        tile(0, &[16, 8, 4, 2, 1].map(step).join("\n"))
    };
    always(&shape(1, 32), &sum(""), race, plain);
    never(&shape(1, 32), &sum("bar.warp.sync 0xffffffff;"), plain);
}

#[test]
fn a_missing_syncwarp_of_half_a_warp() {
    let body = |last: &str| {
        tile(
            1,
            &format!(
                "
    .reg .pred upper;
    setp.ge.u32 upper, tid, 16;
    and.b32 other, tid, 8;
    add.u32 v, tid, 1;
    and.b32 v, v, 7;
    or.b32 v, v, other;
    mov.u32 other, tile;
    mad.lo.u32 other, v, 4, other;
    @upper bra AFTER;
    st.shared.u32 [mine], v;
    bar.warp.sync 0x0000ffff;
    ld.shared.u32 v, [other];
    bar.warp.sync 0x0000ffff;
    ld.shared.u32 v, [other]; // fault
    {last}
    st.shared.u32 [mine], v; // fault
AFTER:
    bar.sync 0;"
            ),
        )
    };
    // The second read is open although the first one is not.
    always(&shape(1, 32), &body(""), FaultKind::SharedRace, plain);
    never(&shape(1, 32), &body("bar.warp.sync 0x0000ffff;"), plain);
}

#[test]
fn atomics_and_named_barriers_are_no_races() {
    never(
        &shape(1, 128),
        &tile(32, "atom.shared.add.u32 v, [flagged], 1;\n    red.shared.max.u32 [flagged], v;"),
        plain,
    );
    // Warps 0 and 1 share barrier 1; warps 2 and 3 share barrier 2.
    let half = |id: &str| {
        tile(
            0,
            &format!(
                "
    .reg .b32 id, which;
    shr.u32 id, tid, 6;
    add.u32 id, id, 1;
    xor.b32 other, tid, {id};
    mov.u32 which, tile;
    mad.lo.u32 other, other, 4, which;
    st.shared.u32 [mine], v; // fault
    barrier.sync id, 64;
    ld.shared.u32 v, [other]; // fault"
            ),
        )
    };
    never(&shape(1, 128), &half("32"), plain);
    always(&shape(1, 128), &half("64"), FaultKind::SharedRace, plain);
    // One warp makes, one takes: arrive orders what came before it.
    let handover = |arrive: &str| {
        tile(
            32,
            &format!(
                "
    .reg .pred maker;
    setp.ge.u32 maker, tid, 32;
    @!maker bra TAKE;
    st.shared.u32 [mine], v; // fault
    {arrive}
    bra DONE;
TAKE:
    bar.sync 3, 64;
    ld.shared.u32 v, [other]; // fault
DONE:"
            ),
        )
    };
    never(&shape(1, 64), &handover("bar.arrive 3, 64;"), plain);
    let late = handover("bar.arrive 3, 64;\n    st.shared.u32 [mine], v; // fault");
    always(&shape(1, 64), &late, FaultKind::SharedRace, plain);
}

// ---- races in global memory ----

fn all_shapes(grid: u32, block: u32) -> [Shape; 2] {
    [shape(grid, block).threads(1), shape(grid, block).threads(2)]
}

#[test]
fn blocks_that_race_in_global_memory() {
    let race = FaultKind::GlobalRace;
    let body = |middle: &str| {
        kernel(
            "",
            &format!(
                "
    .reg .pred first, zero;
    .reg .b32 v, i;
    .reg .b64 mine, next;
    setp.eq.u32 first, tid, 0;
    setp.eq.u32 zero, cta, 0;
    mad.lo.u32 i, cta, 32, tid;
    mad.wide.u32 mine, i, 4, out;
    mov.u32 v, cta;
    {middle}"
            ),
        )
    };
    for s in all_shapes(4, 32) {
        // All write one word; one writes what the others read; neighbours overlap by one word.
        always(&s, &body("@first st.global.u32 [out], v; // fault"), race, plain);
        let mixed = "@zero st.global.u32 [mine+400], v; // fault\n    @!zero ld.global.u32 v, [out+400]; // fault";
        always(&s, &body(mixed), race, plain);
        let mixed =
            "@zero ld.global.u32 v, [mine]; // fault\n    @!zero st.global.u32 [out], v; // fault";
        always(&s, &body(mixed), race, plain);
        always(
            &s,
            &body("st.global.u32 [mine], v; // fault\n    ld.global.u32 v, [mine+4]; // fault"),
            race,
            plain,
        );
        // Twins: own words, reads alone, atomics.
        never(&s, &body("st.global.u32 [mine], v;\n    ld.global.u32 v, [mine];"), plain);
        never(&s, &body("ld.global.u32 v, [out];\n    ld.global.u32 v, [in];"), plain);
        never(
            &s,
            &body("red.global.add.u32 [out], v;\n    atom.global.max.u32 v, [out], 7;"),
            plain,
        );
        // Bytes of one word are different places.
        let bytes = "cvt.u64.u32 next, cta;\n    add.u64 next, next, out;\n    @first st.global.u8 [next], v;";
        never(&s, &body(bytes), plain);
    }
    // The place: two blocks, one thread each.
    let ptx = body("st.global.u32 [out+8], v; // fault");
    let memory = Memory::new();
    let target = buffer(&memory, &[0; 64]);
    let fault = kind(shape(2, 1).run_on(&memory, &ptx, &[target, target]), race);
    assert_eq!((fault.line, fault.thread), (line_of(&ptx, "// fault"), [0, 0, 0]), "{fault}");
    assert!(fault.block == [0, 0, 0] || fault.block == [1, 0, 0]);
    assert_eq!(fault.address, Some(target + 8));
    // One launch after the other is no race.
    let memory = Memory::new();
    let target = buffer(&memory, &[0; 64]);
    for _ in 0..3 {
        shape(1, 1).run_on(&memory, &ptx, &[target, target]).unwrap();
    }
}

/// Each block writes its part; the last to finish, found by an atomic counter, adds them up.
fn last_block(before: &str, ticket: &str, after: &str) -> String {
    kernel(
        ".shared .b32 last;",
        &format!(
            "
    .reg .pred p, done, more;
    .reg .b32 v, n, i, sum, flag;
    .reg .b64 q;
    mad.lo.u32 i, cta, 64, tid;
    mad.wide.u32 q, i, 4, out;
    mov.u32 v, i;
    st.global.u32 [q+4], v; // fault
    {before}
    bar.sync 0;
    mov.u32 n, %nctaid.x;
    mov.u32 flag, last;
    setp.ne.u32 p, tid, 0;
    @p bra WAIT;
    {ticket}
    sub.u32 n, n, 1;
    setp.eq.u32 done, v, n;
    selp.u32 v, 1, 0, done;
    st.shared.u32 [flag], v;
WAIT:
    bar.sync 0;
    ld.shared.u32 v, [flag];
    setp.eq.u32 done, v, 0;
    @done bra END;
    {after}
    mov.u32 sum, 0;
    mov.u32 i, 0;
NEXT:
    mad.lo.u32 v, i, 64, tid;
    mad.wide.u32 q, v, 4, out;
    ld.global.u32 v, [q+4]; // fault
    add.u32 sum, sum, v;
    add.u32 i, i, 1;
    mov.u32 n, %nctaid.x;
    setp.lt.u32 more, i, n;
    @more bra NEXT;
    mad.wide.u32 q, tid, 4, in;
    st.global.u32 [q], sum;
END:"
        ),
    )
}

#[test]
fn the_last_block_pattern_needs_its_fence() {
    let run = |shape: &Shape, ptx: &str| {
        let memory = Memory::new();
        let (sums, parts) = (buffer(&memory, &[0; 64]), buffer(&memory, &[0; 1 + 5 * 64]));
        shape.run_on(&memory, ptx, &[sums, parts])?;
        let want: Vec<u32> = (0..64).map(|t| (0..5).map(|b| b * 64 + t).sum()).collect();
        assert_eq!(words(&memory, sums, 64), want);
        Ok(())
    };
    let plain_ticket = "atom.global.add.u32 v, [out], 1;";
    for s in all_shapes(5, 64) {
        for fence in ["membar.gl;", "fence.acq_rel.gpu;", "fence.sc.gpu;"] {
            never(&s, &last_block(fence, plain_ticket, fence), run);
        }
        // Release and acquire in the atomic itself, carried on by the block's barriers.
        never(&s, &last_block("", "atom.acq_rel.gpu.global.add.u32 v, [out], 1;", ""), run);
        always(&s, &last_block("", plain_ticket, ""), FaultKind::GlobalRace, run);
        always(
            &s,
            &last_block("", "atom.relaxed.gpu.global.add.u32 v, [out], 1;", ""),
            FaultKind::GlobalRace,
            run,
        );
    }
}

// ---- barriers and masks ----

#[test]
fn a_barrier_that_part_of_the_block_reaches() {
    let divergent = FaultKind::BarrierDivergence;
    let body = |middle: &str| {
        kernel(
            "",
            &format!(
                "
    .reg .pred some;
    .reg .b32 v;
    .reg .b64 q;
    {middle}
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], tid;"
            ),
        )
    };
    // Half wait at another barrier; too few come; some never come.
    let other = body(
        "setp.lt.u32 some, tid, 32;\n    @!some bra ELSE;\n    bar.sync 0; // fault\n    bra AFTER;\nELSE:\n    bar.sync 1; // fault\nAFTER:",
    );
    always(&shape(1, 64), &other, divergent, plain);
    let few = body("bar.sync 2, 96; // fault");
    always(&shape(1, 64), &few, divergent, plain);
    let nobody = body("setp.lt.u32 some, tid, 32;\n    @some bar.sync 2, 64; // fault");
    always(&shape(1, 64), &nobody, divergent, plain);
    // Twins.
    never(&shape(1, 64), &body("bar.sync 0;"), plain);
    never(&shape(1, 64), &body("barrier.sync 0;"), plain);
    never(&shape(1, 96), &body("setp.lt.u32 some, tid, 64;\n    @some bar.sync 2, 64;"), plain);
    never(&shape(1, 40), &body("bar.sync 0;\n    bar.sync 0;"), plain);
}

/// A thread that ends without having come to a barrier is one that does not reach it.
#[test]
fn a_barrier_that_part_of_the_block_skips() {
    let divergent = FaultKind::BarrierDivergence;
    let body = |middle: &str| kernel("", &format!("\n    .reg .pred some;\n    {middle}"));
    // One warp skips it; part of a warp skips it.
    let whole = body("setp.lt.u32 some, tid, 32;\n    @some bar.sync 0; // fault");
    always(&shape(1, 64), &whole, divergent, plain);
    let part =
        body("setp.lt.u32 some, tid, 48;\n    @!some bra AFTER;\n    bar.sync 0; // fault\nAFTER:");
    always(&shape(1, 64), &part, divergent, plain);
    // A loop whose number of barriers depends on the warp.
    let rounds = body(
        "
    .reg .b32 left;
    shr.u32 left, tid, 5;
LOOP:
    bar.sync 0; // fault
    sub.s32 left, left, 1;
    setp.ge.s32 some, left, 0;
    @some bra LOOP;",
    );
    always(&shape(1, 96), &rounds, divergent, plain);
    never(&shape(1, 64), &body("setp.lt.u32 some, tid, 32;\n    bar.sync 0;"), plain);
}

#[test]
fn a_barrier_after_part_of_the_block_has_left() {
    let body = |order: &str| {
        kernel(
            "",
            &format!(
                "
    .reg .pred out_of_range;
    setp.ge.u32 out_of_range, tid, 40;
    {order}"
            ),
        )
    };
    let wrong = body("@out_of_range ret;\n    bar.sync 0; // fault");
    always(&shape(1, 64), &wrong, FaultKind::BarrierDivergence, plain);
    never(&shape(1, 64), &body("bar.sync 0;\n    @out_of_range ret;"), plain);
}

#[test]
fn mismatched_masks() {
    let mismatch = FaultKind::MaskMismatch;
    let body = |middle: &str| {
        kernel(
            "",
            &format!(
                "
    .reg .pred some, p;
    .reg .b32 v, mask;
    .reg .b64 q;
    mov.u32 v, tid;
    setp.lt.u32 some, tid, 16;
    {middle}
AFTER:
    mad.wide.u32 q, tid, 4, out;
    st.global.u32 [q], v;"
            ),
        )
    };
    let operations = |mask: &str| {
        [
            format!("shfl.sync.bfly.b32 v, v, 1, 31, {mask}; // fault"),
            format!("vote.sync.ballot.b32 v, some, {mask}; // fault"),
            format!("match.any.sync.b32 v, v, {mask}; // fault"),
            format!("redux.sync.add.u32 v, v, {mask}; // fault"),
            format!("bar.warp.sync {mask}; // fault"),
        ]
    };
    for op in operations("0xffffffff") {
        // The upper half is elsewhere.
        always(&shape(1, 32), &body(&format!("@!some bra AFTER;\n    {op}")), mismatch, plain);
        always(&shape(1, 32), &body(&format!("@some {op}")), mismatch, plain);
        // Both halves, but each at an instruction of its own.
        let two = format!("@!some bra ELSE;\n    {op}\n    bra AFTER;\nELSE:\n    {op}");
        // A plain warp barrier may be met at any instruction with the same mask (PTX ISA, `bar.warp.sync`).
        if op.starts_with("bar.warp.sync") {
            never(&shape(1, 32), &body(&two), plain);
        } else {
            always(&shape(1, 32), &body(&two), mismatch, plain);
        }
        // Lanes that have left, or that a small block never had, need not come.
        never(&shape(1, 32), &body(&format!("@!some ret;\n    {op}")), plain);
        never(&shape(1, 20), &body(&op), plain);
        never(&shape(1, 64), &body(&op), plain);
    }
    for op in operations("0x0000ffff") {
        never(&shape(1, 32), &body(&format!("@!some bra AFTER;\n    {op}")), plain);
        never(&shape(1, 32), &body(&format!("@some {op}")), plain);
        // A lane executes what its own mask leaves out.
        always(&shape(1, 32), &body(&op), mismatch, plain);
    }
    for op in operations("mask") {
        // Lanes of one instruction with two masks that overlap.
        let two = format!("selp.b32 mask, 0xffffffff, 0xfffffffe, some;\n    {op}");
        always(&shape(1, 32), &body(&two), mismatch, plain);
        // Two masks that do not.
        let two = format!("selp.b32 mask, 0x0000ffff, 0xffff0000, some;\n    {op}");
        never(&shape(1, 32), &body(&two), plain);
    }
}

// ---- asynchronous copies ----

/// Each thread copies 16 bytes to shared memory, then runs `wait` and reads what thread `tid ^ partner` copied.
fn copied(partner: u32, before: &str, wait: &str) -> String {
    kernel(
        ".shared .align 16 .b8 tile[1024];\n.shared .align 16 .b8 next[1024];",
        &format!(
            "
    .reg .b32 mine, other, a, b, c, d, t, u, later;
    .reg .b64 p;
    mov.u32 t, tile;
    mov.u32 later, next;
    mad.lo.u32 mine, tid, 16, t;
    mad.lo.u32 later, tid, 16, later;
    xor.b32 u, tid, {partner};
    mad.lo.u32 other, u, 16, t;
    mad.wide.u32 p, tid, 16, in;
    mov.u32 a, 0;
    {before}
    cp.async.ca.shared.global [mine], [p], 16;
    {wait}
    ld.shared.v4.b32 {{a, b, c, d}}, [other]; // fault
    mad.wide.u32 p, tid, 16, out;
    st.global.v4.b32 [p], {{a, b, c, d}};"
        ),
    )
}

fn copy_result(shape: &Shape, ptx: &str, partner: u32) -> Result<bool, Fault> {
    let input: Vec<u32> = (0..256).map(|i| i * 3 + 1).collect();
    let (got, _) = shape.run(ptx, &input, 256)?;
    Ok((0..64).all(|t| got[4 * t..][..4] == input[4 * (t ^ partner as usize)..][..4]))
}

#[test]
fn a_copy_that_is_read_before_it_is_waited_for() {
    for seed in SEEDS {
        let s = |late: bool| shape(1, 64).seed(seed).late(late);
        for (wait, what) in [
            ("", "no wait"),
            ("cp.async.commit_group;", "a commit alone"),
            (
                "cp.async.commit_group;\n    cp.async.wait_group 1;",
                "a wait that leaves the group out",
            ),
            ("cp.async.wait_group 0;", "a wait for groups without a commit"),
        ] {
            let ptx = copied(0, "", wait);
            let fault = copy_result(&s(true), &ptx, 0).expect_err(what);
            at(&fault, &ptx, fault.kind, 0, fault.thread[0]);
            assert!(
                matches!(fault.kind, FaultKind::Uninitialised | FaultKind::SharedRace),
                "{what}: {fault}"
            );
            // Where something was there before, it is the old value that is read, or the fault is named.
            let ptx = copied(0, "st.shared.v4.b32 [mine], {a, a, a, a};", wait);
            let result = copy_result(&s(true), &ptx, 0);
            assert!(matches!(result, Ok(false) | Err(_)), "{what}: a copy landed early");
        }
        for wait in [
            "cp.async.wait_all;",
            "cp.async.commit_group;\n    cp.async.wait_group 0;",
            "cp.async.commit_group;\n    cp.async.commit_group;\n    cp.async.wait_group 1;",
        ] {
            for late in [false, true] {
                assert!(
                    copy_result(&s(late), &copied(0, "", wait), 0).unwrap(),
                    "{wait} late {late}"
                );
            }
        }
    }
}

#[test]
fn a_copy_of_another_thread_needs_a_barrier_too() {
    for seed in SEEDS {
        for late in [false, true] {
            let s = shape(1, 64).seed(seed).late(late);
            for partner in [1, 32] {
                let full = "cp.async.wait_all;\n    bar.sync 0;";
                assert!(
                    copy_result(&s, &copied(partner, "", full), partner).unwrap(),
                    "seed {seed} late {late}"
                );
                let fault = copy_result(&s, &copied(partner, "", "cp.async.wait_all;"), partner)
                    .expect_err("the barrier is missing");
                let kinds = [FaultKind::SharedRace, FaultKind::Uninitialised];
                assert!(kinds.contains(&fault.kind), "seed {seed} late {late}: {fault}");
                // The barrier without the wait.
                let result = copy_result(&s, &copied(partner, "", "bar.sync 0;"), partner);
                assert!(!late || result.is_err(), "seed {seed}: a copy landed early");
            }
        }
    }
}

#[test]
fn of_two_groups_the_first_lands_first() {
    let text = |read: &str| {
        copied(
            0,
            "
    cp.async.cg.shared.global [later], [p], 16;
    cp.async.commit_group;",
            &format!(
                "cp.async.commit_group;\n    cp.async.wait_group 1;\n    mov.u32 other, {read};"
            ),
        )
    };
    for seed in 0..4 {
        for late in [false, true] {
            let s = shape(1, 64).seed(seed).late(late);
            assert!(copy_result(&s, &text("later"), 0).unwrap());
            let result = copy_result(&s, &text("mine"), 0);
            assert!(
                if late { result.is_err() } else { true },
                "the second group landed with the first"
            );
        }
    }
}

#[test]
fn copies_are_checked_as_other_accesses_are() {
    let ptx = |offset: i32, bytes: u32, shift: u32| {
        kernel(
            ".shared .align 16 .b8 tile[528];",
            &format!(
                "
    .reg .b32 t;
    .reg .b64 p;
    mov.u32 t, tile;
    mad.lo.u32 t, tid, 16, t;
    mad.wide.u32 p, tid, 16, in;
    cp.async.ca.shared.global [t+{shift}], [p+{offset}], {bytes}; // fault
    cp.async.wait_all;"
            ),
        )
    };
    for late in [false, true] {
        let s = shape(1, 32).late(late);
        let memory = Memory::new();
        let source = buffer(&memory, &[1; 128]);
        let run = |ptx: &str| s.run_on(&memory, ptx, &[source, source]);
        run(&ptx(0, 16, 0)).unwrap();
        at(&fault(run(&ptx(16, 16, 0))), &ptx(16, 16, 0), FaultKind::OutOfBounds, 0, 31);
        at(&fault(run(&ptx(-16, 16, 0))), &ptx(-16, 16, 0), FaultKind::OutOfBounds, 0, 0);
        at(&fault(run(&ptx(0, 16, 32))), &ptx(0, 16, 32), FaultKind::OutOfBounds, 0, 31);
        at(&fault(run(&ptx(8, 16, 0))), &ptx(8, 16, 0), FaultKind::Misaligned, 0, 0);
        at(&fault(run(&ptx(0, 16, 4))), &ptx(0, 16, 4), FaultKind::Misaligned, 0, 0);
        at(&fault(run(&ptx(2, 4, 0))), &ptx(2, 4, 0), FaultKind::Misaligned, 0, 0);
        let empty = blank(&memory, 512);
        memory.write(empty, &[0; 496]).unwrap();
        let caught = fault(s.run_on(&memory, &ptx(0, 16, 0), &[empty, empty]));
        at(&caught, &ptx(0, 16, 0), FaultKind::Uninitialised, 0, 31);
    }
}

// ---- right by luck ----

/// What fails under some seed of eight: a fault, or a wrong result.
fn some_seed_fails(shape: Shape, ptx: &str, outputs: usize, right: impl Fn(&[u32]) -> bool) {
    let failing = SEEDS
        .filter(|&seed| !matches!(shape.clone().seed(seed).run(ptx, &[0; 256], outputs), Ok((got, _)) if right(&got)))
        .count();
    assert!(failing > 0, "right under all of 8 seeds:\n{ptx}");
}

#[test]
fn a_kernel_that_is_right_by_luck_fails_under_some_seed() {
    // Warp 1 hopes that warp 0 was faster, through global memory of its own block.
    let warps = kernel(
        "",
        "
    .reg .pred p;
    .reg .b32 v;
    .reg .b64 q;
    mad.wide.u32 q, tid, 4, out;
    setp.lt.u32 p, tid, 32;
    mov.u32 v, 7;
    @p st.global.u32 [q], v;
    @!p ld.global.u32 v, [q+-128];
    @!p st.global.u32 [q], v;",
    );
    some_seed_fails(shape(1, 64), &warps, 64, |got| got.iter().all(|&v| v == 7));
    // And the other way round, so that no fixed order of warps is right.
    let warps = warps
        .replace("setp.lt.u32 p, tid, 32", "setp.ge.u32 p, tid, 32")
        .replace("[q+-128]", "[q+128]");
    some_seed_fails(shape(1, 64), &warps, 64, |got| got.iter().all(|&v| v == 7));
    // Lanes that hope to march in step: each reads its right neighbour, then its left one.
    for (guard, offset) in [("31", "4"), ("0", "-4")] {
        let lanes = kernel(
            "",
            &format!(
                "
    .reg .pred p;
    .reg .b32 v;
    .reg .b64 q;
    mad.wide.u32 q, tid, 4, out;
    setp.ne.u32 p, tid, {guard};
    mov.u32 v, 7;
    st.global.u32 [q], v;
    @p ld.global.u32 v, [q+{offset}];
    st.global.u32 [q+128], v;"
            ),
        );
        some_seed_fails(shape(1, 32), &lanes, 64, |got| got.iter().all(|&v| v == 7));
    }
    // Blocks that hope to take their tickets in order.
    let blocks = kernel(
        "",
        "
    .reg .b32 v;
    .reg .b64 q;
    atom.global.add.u32 v, [out], 1;
    mad.wide.u32 q, cta, 4, out;
    st.global.u32 [q+4], v;",
    );
    some_seed_fails(shape(8, 1), &blocks, 9, |got| (0..8).all(|i| got[1 + i] == i as u32));
}

#[test]
fn a_seed_repeats_itself() {
    let ptx = tile(32, "st.shared.u32 [mine], v;\n    ld.shared.u32 v, [other];");
    for seed in SEEDS {
        let run = || format!("{:?}", fault(shape(1, 256).seed(seed).run(&ptx, &[0], 256)));
        assert_eq!(run(), run(), "seed {seed}");
    }
}

// ---- the rest ----

#[test]
fn trap_names_its_thread() {
    let ptx = kernel(
        "",
        "
    .reg .pred p;
    setp.ne.u32 p, tid, 37;
    @p bra GO;
    trap; // fault
GO:",
    );
    let body = |block: u32| shape(1, block).run(&ptx, &[0], 1);
    at(&fault(body(64)), &ptx, FaultKind::Trap, 0, 37);
    body(37).unwrap();
}

#[test]
fn a_kernel_that_never_ends_is_stopped() {
    let ptx = kernel(
        "",
        "
    .reg .pred p;
    .reg .b32 v;
LOOP:
    ld.volatile.global.u32 v, [in]; // fault
    setp.eq.u32 p, v, 0;
    @p bra LOOP;",
    );
    let mut s = shape(1, 32);
    s.config.timeout = Duration::from_millis(300);
    assert_eq!(kind(s.run(&ptx, &[0], 1), FaultKind::Timeout).kernel, "test");
    s.run(&ptx, &[1], 1).unwrap();
}

#[test]
fn impossible_launches() {
    let ptx = kernel(".extern .shared .b8 tile[];", "");
    let invalid = FaultKind::InvalidLaunch;
    kind(shape(1, 1025).run(&ptx, &[0], 1), invalid);
    kind(shape(0, 32).run(&ptx, &[0], 1), invalid);
    kind(shape(1, 0).run(&ptx, &[0], 1), invalid);
    let memory = Memory::new();
    let address = buffer(&memory, &[0]);
    // One parameter of two.
    kind(shape(1, 1).run_on(&memory, &ptx, &[address]), invalid);
    kind(shape(1, 32).dynamic(300 << 10).run(&ptx, &[0], 1), invalid);
    shape(1, 1024).dynamic(100 << 10).run(&ptx, &[0], 1).unwrap();
}

#[test]
fn endless_recursion_overflows_the_stack() {
    let declarations = |end: u32| {
        format!(
            "
.func deep(.param .b32 depth)
{{
    .reg .b32 d;
    .reg .pred p;
    ld.param.u32 d, [depth];
    setp.eq.u32 p, d, {end};
    @p ret;
    add.u32 d, d, 1;
    {{
    .param .b32 next;
    st.param.b32 [next], d;
    call deep, (next);
    }}
    ret;
}}"
        )
    };
    let body = "
    {
    .param .b32 first;
    st.param.b32 [first], 0;
    call deep, (first);
    }";
    assert_eq!(
        kind(
            shape(1, 1).run(&kernel(&declarations(0xffff_ffff), body), &[0], 1),
            FaultKind::StackOverflow
        )
        .kernel,
        "test"
    );
    shape(1, 33).run(&kernel(&declarations(9), body), &[0], 1).unwrap();
}
