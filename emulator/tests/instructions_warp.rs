//! Instructions in which the lanes of a warp look at each other: shuffles, votes, matches, reductions.

mod common;

use common::*;

/// One row for each lane.
fn lanes(f: impl Fn(u64) -> Vec<u64>) -> Vec<Vec<u64>> {
    (0..32).map(f).collect()
}

/// The ISA's definition of `shfl`: the lane read, and whether it lies in the segment.
fn source(mode: &str, lane: u64, b: u64, c: u64) -> (u64, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let most = lane & segment | clamp & !segment & 31;
    let least = lane & segment;
    let (j, inside) = match mode {
        "up" => (lane as i64 - b as i64, lane as i64 - b as i64 >= most as i64),
        "down" => ((lane + b) as i64, lane + b <= most),
        "bfly" => ((lane ^ b) as i64, lane ^ b <= most),
        _ => {
            let j = least | b & !segment & 31;
            (j as i64, j <= most)
        }
    };
    if inside { (j as u64, true) } else { (lane, false) }
}

#[test]
fn shfl_in_every_mode_with_clamps_and_segments() {
    for seed in [0, 1, 2] {
        let t = table().with(|c| c.seed = seed);
        let mut random = Random::new(4);
        let values = random.many(32, 32);
        for mode in ["up", "down", "bfly", "idx"] {
            // Segments of 32, 16, 8 and 2 lanes, with the clamps that CUDA's functions pass, and odd ones.
            for c in
                [0x001f, 0x0000, 0x101f, 0x1000, 0x181f, 0x1800, 0x1e1f, 0x1e00, 0x0013, 0x1803]
            {
                for b in [0, 1, 2, 5, 8, 16, 31, 33] {
                    let rows = lanes(|i| vec![values[i as usize], b, c]);
                    let want: Vec<Vec<u64>> = (0..32)
                        .map(|lane| source(mode, lane, b, c))
                        .map(|(j, inside)| vec![values[j as usize], u64::from(inside)])
                        .collect();
                    let op = format!("shfl.sync.{mode}.b32 d|x, a, b, c, 0xffffffff;");
                    t.check_all(&op, "b32 b32 b32 -> b32 pred", &rows, &want);
                }
            }
            // Each lane asks for another distance.
            let rows = lanes(|i| vec![values[i as usize], (i * 7 + 3) % 32, 0x1f]);
            let want: Vec<Vec<u64>> = (0..32)
                .map(|lane| source(mode, lane, (lane * 7 + 3) % 32, 0x1f))
                .map(|(j, _)| vec![values[j as usize]])
                .collect();
            let op = format!("shfl.sync.{mode}.b32 d, a, b, c, -1;");
            t.check_all(&op, "b32 b32 b32 -> b32", &rows, &want);
        }
        // By hand: __shfl_down_sync(all, lane, 16, 32) and __shfl_up_sync(all, lane, 1, 8).
        let want = lanes(|i| vec![if i < 16 { i + 16 } else { i }]);
        t.check_all(
            "shfl.sync.down.b32 d, a, 16, 31, -1;",
            "b32 -> b32",
            &lanes(|i| vec![i]),
            &want,
        );
        let want = lanes(|i| vec![if i % 8 == 0 { i } else { i - 1 }]);
        t.check_all(
            "shfl.sync.up.b32 d, a, 1, 0x1800, -1;",
            "b32 -> b32",
            &lanes(|i| vec![i]),
            &want,
        );
    }
}

#[test]
fn votes_see_every_lane() {
    for seed in [0, 3] {
        let t = table().with(|c| c.seed = seed);
        for pattern in [0u64, 0xffff_ffff, 1, 0x8000_0000, 0x5a5a_1234, 0xffff_fffe] {
            let rows = lanes(|i| vec![pattern >> i & 1]);
            let (all, any) = (pattern == 0xffff_ffff, pattern != 0);
            let op = "vote.sync.all.pred d, a, -1; vote.sync.any.pred x, a, -1; vote.sync.uni.pred y, a, -1; \
                      vote.sync.ballot.b32 z, a, -1; vote.sync.ballot.b32 w, !a, -1;";
            let want = vec![
                u64::from(all),
                u64::from(any),
                u64::from(all || !any),
                pattern,
                !pattern & 0xffff_ffff,
            ];
            t.check(op, "pred -> pred pred pred b32 b32", &rows, |_| want.clone());
        }
    }
}

#[test]
fn matches_find_equal_lanes() {
    let t = table();
    for width in [32, 64] {
        let high = if width == 64 { 0xdead_0000_0000 } else { 0 };
        let value = |i: u64| (i * i % 7) | if i.is_multiple_of(2) { high } else { 0 };
        let rows = lanes(|i| vec![value(i)]);
        let op = format!("match.any.sync.b{width} d, a, -1;");
        t.check(&op, &format!("b{width} -> b32"), &rows, |r| {
            vec![(0..32).filter(|&j| value(j) == r[0]).fold(0, |sum, j| sum | 1 << j)]
        });
        let op = format!("match.all.sync.b{width} d|x, a, -1;");
        t.check(&op, &format!("b{width} -> b32 pred"), &rows, |_| vec![0, 0]);
        t.check(&op, &format!("b{width} -> b32 pred"), &lanes(|_| vec![high + 9]), |_| {
            vec![0xffff_ffff, 1]
        });
        let last = lanes(|i| vec![if i == 31 { high } else { high + 1 }]);
        t.check(&op, &format!("b{width} -> b32 pred"), &last, |_| vec![0, 0]);
    }
}

#[test]
fn redux_reduces() {
    let t = table();
    let mut random = Random::new(6);
    for values in [
        random.many(32, 32),
        vec![0xffff_ffff; 32],
        (0..32).map(|i| 1 << i).collect(),
        (0..32).collect(),
    ] {
        let rows = each(&values);
        let s = |v: &u64| signed(*v, 32);
        let cases = [
            ("add.u32", cut(values.iter().map(|&v| i128::from(v)).sum(), 32)),
            ("add.s32", cut(values.iter().map(s).sum(), 32)),
            ("min.u32", *values.iter().min().unwrap()),
            ("max.u32", *values.iter().max().unwrap()),
            ("min.s32", cut(values.iter().map(s).min().unwrap(), 32)),
            ("max.s32", cut(values.iter().map(s).max().unwrap(), 32)),
            ("and.b32", values.iter().fold(0xffff_ffff, |x, y| x & y)),
            ("or.b32", values.iter().fold(0, |x, y| x | y)),
            ("xor.b32", values.iter().fold(0, |x, y| x ^ y)),
        ];
        for (op, want) in cases {
            t.check(&format!("redux.sync.{op} d, a, 0xffffffff;"), "b32 -> b32", &rows, |_| {
                vec![want]
            });
        }
    }
}

#[test]
fn elect_chooses_one_lane() {
    let t = table_90();
    let rows = lanes(|i| vec![i]);
    if let Some(got) = t.outputs("elect.sync d|x, -1;", "b32 -> b32 pred", &rows) {
        let chosen: Vec<usize> = (0..32).filter(|&i| got[i][1] == 1).collect();
        assert_eq!(chosen.len(), 1, "{got:?}");
        assert!(got.iter().all(|g| g[0] == chosen[0] as u64), "{got:?}");
    }
}

/// Both sides of a branch run warp instructions with their own mask, whichever runs first.
#[test]
fn each_side_of_a_branch_has_its_own_mask() {
    let body = "
    .reg .pred odd, p, q;
    .reg .b32 bit, mask, sum, ballot, same, active, all, t, n;
    .reg .b64 at;
    and.b32 bit, lane, 1;
    setp.eq.u32 odd, bit, 1;
    @odd bra ODD;
    mov.u32 mask, 0x55555555;
    shfl.sync.bfly.b32 sum, lane, 2, 31, 0x55555555;
    setp.lt.u32 p, lane, 9;
    vote.sync.ballot.b32 ballot, p, 0x55555555;
    and.b32 t, lane, 4;
    match.any.sync.b32 same, t, 0x55555555;
    redux.sync.add.s32 all, lane, 0x55555555;
    bra JOIN;
ODD:
    mov.u32 mask, 0xaaaaaaaa;
    shfl.sync.idx.b32 sum, lane, 31, 31, 0xaaaaaaaa;
    setp.gt.u32 p, lane, 28;
    vote.sync.ballot.b32 ballot, p, 0xaaaaaaaa;
    and.b32 t, lane, 8;
    match.any.sync.b32 same, t, 0xaaaaaaaa;
    redux.sync.max.u32 all, lane, 0xaaaaaaaa;
JOIN:
    bar.warp.sync -1;
    mad.wide.u32 at, lane, 16, out;
    st.global.v4.b32 [at], {sum, ballot, same, all};";
    let ptx = kernel("", body);
    for seed in 0..8 {
        let (got, _) = shape(1, 32)
            .seed(seed)
            .run(&ptx, &[0], 128)
            .unwrap_or_else(|f| panic!("seed {seed}: {f}"));
        for lane in 0..32u32 {
            let mine = |f: &dyn Fn(u32) -> bool| {
                (0..32).filter(|&i| f(i)).fold(0u32, |sum, i| sum | 1 << i)
            };
            let want = if lane % 2 == 0 {
                [
                    lane ^ 2,
                    0x155,
                    mine(&|i| i % 2 == 0 && i & 4 == lane & 4),
                    (0..32).step_by(2).sum(),
                ]
            } else {
                [31, 0xa000_0000, mine(&|i| i % 2 == 1 && i & 8 == lane & 8), 31]
            };
            assert_eq!(got[4 * lane as usize..][..4], want, "seed {seed} lane {lane}");
        }
    }
}

#[test]
fn a_lane_that_leaves_is_no_longer_asked_for() {
    let body = "
    .reg .pred gone;
    .reg .b32 ballot, active;
    .reg .b64 at;
    setp.ge.u32 gone, lane, 20;
    @gone ret;
    vote.sync.ballot.b32 ballot, !gone, 0x000fffff;
    activemask.b32 active;
    and.b32 active, active, 0xfff00000;
    mad.wide.u32 at, lane, 8, out;
    st.global.v2.b32 [at], {ballot, active};";
    for seed in 0..4 {
        let (got, _) = shape(1, 32).seed(seed).run(&kernel("", body), &[0], 64).unwrap();
        for lane in 0..32 {
            let want = if lane < 20 { [0x000f_ffff, 0] } else { [0, 0] };
            assert_eq!(got[2 * lane..][..2], want, "seed {seed} lane {lane}");
        }
    }
}

#[test]
fn activemask_of_a_converged_warp_and_of_one_lane() {
    let body = "
    .reg .pred p;
    .reg .b32 before, inside;
    .reg .b64 at;
    activemask.b32 before;
    mov.u32 inside, 0;
    setp.eq.u32 p, lane, 5;
    @!p bra NEXT;
    activemask.b32 inside;
NEXT:
    mad.wide.u32 at, lane, 8, out;
    st.global.v2.b32 [at], {before, inside};";
    // Seed 0 never splits a warp; under the others a mask holds the lane itself at least.
    let (got, _) = shape(1, 32).seed(0).run(&kernel("", body), &[0], 64).unwrap();
    for lane in 0..32 {
        assert_eq!(
            got[2 * lane..][..2],
            [0xffff_ffff, if lane == 5 { 32 } else { 0 }],
            "lane {lane}"
        );
    }
    let (got, _) = shape(1, 20).seed(0).run(&kernel("", body), &[0], 64).unwrap();
    assert_eq!(got[0], 0x000f_ffff, "a warp that is not full");
    for seed in 1..8 {
        let (got, _) = shape(1, 32).seed(seed).run(&kernel("", body), &[0], 64).unwrap();
        assert!((0..32).all(|lane| got[2 * lane] >> lane & 1 == 1), "seed {seed}");
        assert_eq!(got[11], 32);
    }
}
