//! Integer, bit, comparison, selection and move instructions, one table each, against 128-bit arithmetic or the
//! bit-by-bit definitions of the PTX ISA.

mod common;

use common::*;

/// Integers of the four register types: name, width, signedness.
const TYPES: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

fn value(bits: u64, width: u32, is_signed: bool) -> i128 {
    if is_signed { signed(bits, width) } else { i128::from(bits & (u64::MAX >> (64 - width))) }
}

/// `b32 b32 -> b32` and so on: `count` inputs and one output, all of `width` bits.
fn same(width: u32, count: usize) -> String {
    format!("{}-> b{width}", format!("b{width} ").repeat(count))
}

#[test]
fn add_sub_and_mul_wrap_around() {
    let t = table();
    for (name, width, is_signed) in TYPES {
        let rows = pairs(&integers(width), &integers(width));
        let at = |row: &[u64], i: usize| value(row[i], width, is_signed);
        let sig = same(width, 2);
        t.check(&format!("add.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(at(r, 0) + at(r, 1), width)]
        });
        t.check(&format!("sub.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(at(r, 0) - at(r, 1), width)]
        });
        let product = |r: &[u64]| at(r, 0).wrapping_mul(at(r, 1));
        t.check(&format!("mul.lo.{name} d, a, b;"), &sig, &rows, |r| vec![cut(product(r), width)]);
        t.check(&format!("mul.hi.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(high(r[0], r[1], width, is_signed), width)]
        });
        if width < 64 {
            let wide = format!("b{width} b{width} -> b{}", 2 * width);
            t.check(&format!("mul.wide.{name} d, a, b;"), &wide, &rows, |r| {
                vec![cut(product(r), 2 * width)]
            });
        }
    }
}

/// The upper half of the product, from four 32-bit parts where 128 bits do not hold it.
fn high(a: u64, b: u64, width: u32, is_signed: bool) -> i128 {
    if width < 64 {
        return (value(a, width, is_signed) * value(b, width, is_signed)) >> width;
    }
    let unsigned = (u128::from(a) * u128::from(b)) >> 64;
    let mut result = unsigned as i128;
    if is_signed && (a as i64) < 0 {
        result -= i128::from(b);
    }
    if is_signed && (b as i64) < 0 {
        result -= i128::from(a);
    }
    result
}

#[test]
fn mad_adds_to_the_chosen_half() {
    let t = table();
    for (name, width, is_signed) in TYPES {
        let edge = integers(width);
        let rows = triples(&edge, &edge[4..12], &edge[..12]);
        let at = |row: &[u64], i: usize| value(row[i], width, is_signed);
        let sig = same(width, 3);
        t.check(&format!("mad.lo.{name} d, a, b, c;"), &sig, &rows, |r| {
            vec![cut(at(r, 0).wrapping_mul(at(r, 1)).wrapping_add(at(r, 2)), width)]
        });
        t.check(&format!("mad.hi.{name} d, a, b, c;"), &sig, &rows, |r| {
            vec![cut(high(r[0], r[1], width, is_signed) + at(r, 2), width)]
        });
        if width < 64 {
            let wide = format!("b{width} b{width} b{} -> b{}", 2 * width, 2 * width);
            let rows = triples(&edge, &edge[4..12], &integers(2 * width));
            t.check(&format!("mad.wide.{name} d, a, b, c;"), &wide, &rows, |r| {
                vec![cut(at(r, 0) * at(r, 1) + value(r[2], 2 * width, is_signed), 2 * width)]
            });
        }
    }
}

#[test]
fn saturation_stops_at_the_limits() {
    let t = table();
    let rows = pairs(&integers(32), &integers(32));
    let clamp = |v: i128| cut(v.clamp(-(1 << 31), (1 << 31) - 1), 32);
    t.check("add.sat.s32 d, a, b;", "b32 b32 -> b32", &rows, |r| {
        vec![clamp(signed(r[0], 32) + signed(r[1], 32))]
    });
    t.check("sub.sat.s32 d, a, b;", "b32 b32 -> b32", &rows, |r| {
        vec![clamp(signed(r[0], 32) - signed(r[1], 32))]
    });
    let rows =
        triples(&integers(32), &integers(32)[4..], &[0, 5, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
    t.check("mad.hi.sat.s32 d, a, b, c;", "b32 b32 b32 -> b32", &rows, |r| {
        vec![clamp(((signed(r[0], 32) * signed(r[1], 32)) >> 32) + signed(r[2], 32))]
    });
}

#[test]
fn products_of_24_bits() {
    let t = table();
    let rows = triples(
        &integers(32),
        &[0, 1, 0xffffff, 0x800000, 0x7fffff, 0x1234_5678],
        &[0, 1, 0xffff_ffff],
    );
    for (name, is_signed) in [("u32", false), ("s32", true)] {
        let product = |r: &[u64]| {
            value(r[0] & 0xff_ffff, 24, is_signed) * value(r[1] & 0xff_ffff, 24, is_signed)
        };
        let sig = "b32 b32 b32 -> b32";
        t.check(&format!("mul24.lo.{name} d, a, b; add.u32 d, d, c;"), sig, &rows, |r| {
            vec![cut(product(r) + i128::from(r[2]), 32)]
        });
        t.check(&format!("mul24.hi.{name} d, a, b; add.u32 d, d, c;"), sig, &rows, |r| {
            vec![cut((product(r) >> 16) + i128::from(r[2]), 32)]
        });
        t.check(&format!("mad24.lo.{name} d, a, b, c;"), sig, &rows, |r| {
            vec![cut(product(r) + i128::from(r[2]), 32)]
        });
    }
}

#[test]
fn division_truncates_and_the_remainder_has_the_dividends_sign() {
    let t = table();
    for (name, width, is_signed) in TYPES {
        let least = 1u64 << (width - 1);
        let all = u64::MAX >> (64 - width);
        let rows: Vec<Vec<u64>> = pairs(&integers(width), &integers(width))
            .into_iter()
            // Division by zero and the one overflowing quotient have no defined result.
            .filter(|r| r[1] != 0 && !(is_signed && r[0] == least && r[1] == all))
            .collect();
        let at = |row: &[u64], i: usize| value(row[i], width, is_signed);
        let sig = same(width, 2);
        t.check(&format!("div.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(at(r, 0) / at(r, 1), width)]
        });
        t.check(&format!("rem.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(at(r, 0) % at(r, 1), width)]
        });
        // Undefined, but no fault: the GPU goes on, and so must the emulator.
        let undefined = [vec![5, 0], vec![0, 0], vec![least, all]];
        for op in ["div", "rem"] {
            assert!(t.outputs(&format!("{op}.{name} d, a, b;"), &sig, &undefined).is_some());
        }
    }
}

#[test]
fn abs_neg_min_max_and_sad() {
    let t = table();
    for (name, width, is_signed) in TYPES {
        let rows = pairs(&integers(width), &integers(width));
        let at = |row: &[u64], i: usize| value(row[i], width, is_signed);
        let sig = same(width, 2);
        t.check(&format!("min.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(at(r, 0).min(at(r, 1)), width)]
        });
        t.check(&format!("max.{name} d, a, b;"), &sig, &rows, |r| {
            vec![cut(at(r, 0).max(at(r, 1)), width)]
        });
        if is_signed {
            let ones = each(&integers(width));
            t.check(&format!("abs.{name} d, a;"), &same(width, 1), &ones, |r| {
                vec![cut(at(r, 0).abs(), width)]
            });
            t.check(&format!("neg.{name} d, a;"), &same(width, 1), &ones, |r| {
                vec![cut(-at(r, 0), width)]
            });
        }
        let rows = triples(&integers(width)[..12], &integers(width), &[0, 9]);
        t.check(&format!("sad.{name} d, a, b, c;"), &same(width, 3), &rows, |r| {
            vec![cut(at(r, 2) + (at(r, 0) - at(r, 1)).abs(), width)]
        });
    }
}

#[test]
fn carries_ripple_through_add_sub_and_mad() {
    let t = table();
    for width in [32, 64] {
        let edge = integers(width);
        let rows: Vec<Vec<u64>> = pairs(&pick(&edge, 6), &pick(&edge, 6))
            .iter()
            .flat_map(|low| {
                pairs(&pick(&edge, 5), &pick(&edge, 5))
                    .into_iter()
                    .map(|h| vec![low[0], h[0], low[1], h[1]])
            })
            .collect();
        let sig = format!("b{0} b{0} b{0} b{0} -> b{0} b{0} b{0}", width);
        let mask = u128::from(u64::MAX >> (64 - width));
        let split = |low: u128, high: u128, third: u64| {
            vec![(low & mask) as u64, (high & mask) as u64, third]
        };
        t.check(
            &format!("add.cc.u{width} d, a, c; addc.cc.u{width} x, b, e; addc.u{width} y, 0, 0;"),
            &sig,
            &rows,
            |r| {
                let low = u128::from(r[0]) + u128::from(r[2]);
                let high = u128::from(r[1]) + u128::from(r[3]) + (low >> width);
                split(low, high, (high >> width) as u64)
            },
        );
        // A borrow leaves a third word of all ones.
        t.check(
            &format!("sub.cc.s{width} d, a, c; subc.cc.s{width} x, b, e; subc.s{width} y, 0, 0;"),
            &sig,
            &rows,
            |r| {
                let borrow = u128::from(r[0] < r[2]);
                let low = u128::from(r[0]).wrapping_sub(u128::from(r[2]));
                let high = u128::from(r[1]).wrapping_sub(u128::from(r[3])).wrapping_sub(borrow);
                let under = u128::from(r[1]) < u128::from(r[3]) + borrow;
                split(low, high, if under { mask as u64 } else { 0 })
            },
        );
        t.check(
            &format!(
                "mad.lo.cc.u{width} d, a, b, c; madc.hi.cc.u{width} x, a, b, e; addc.u{width} y, 0, 0;"
            ),
            &sig,
            &rows,
            |r| {
                let product = u128::from(r[0]) * u128::from(r[1]);
                let low = (product & mask) + u128::from(r[2]);
                let high = (product >> width) + u128::from(r[3]) + (low >> width);
                split(low, high, (high >> width) as u64)
            },
        );
    }
}

/// `count` values spread over the list.
fn pick(values: &[u64], count: usize) -> Vec<u64> {
    (0..count).map(|i| values[i * (values.len() - 1) / (count - 1)]).collect()
}

#[test]
fn shifts_clamp_their_count() {
    let t = table();
    let counts = [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0x8000_0000, 0xffff_ffff];
    for width in [16, 32, 64] {
        let rows = pairs(&integers(width), &counts);
        let sig = format!("b{width} b32 -> b{width}");
        let count = |r: &[u64]| r[1].min(u64::from(width));
        t.check(&format!("shl.b{width} d, a, b;"), &sig, &rows, |r| {
            vec![cut(i128::from(r[0]) << count(r), width)]
        });
        for name in ["u", "b"] {
            t.check(&format!("shr.{name}{width} d, a, b;"), &sig, &rows, |r| {
                vec![cut(i128::from(r[0]) >> count(r), width)]
            });
        }
        t.check(&format!("shr.s{width} d, a, b;"), &sig, &rows, |r| {
            vec![cut(signed(r[0], width) >> count(r), width)]
        });
    }
    t.literal("shl.b32 d, a, 33;", "b32 -> b32", &[(&[1], &[0])]);
    t.literal("shr.s32 d, a, 40;", "b32 -> b32", &[(&[0x8000_0000], &[0xffff_ffff])]);
}

#[test]
fn funnel_shifts_clamp_or_wrap() {
    let t = table();
    let rows = triples(
        &pick(&integers(32), 8),
        &pick(&integers(32), 9),
        &[0, 1, 5, 31, 32, 33, 63, 64, 0xffff_ffff],
    );
    for (mode, count) in [("clamp", (|c| c.min(32)) as fn(u64) -> u64), ("wrap", |c| c & 31)] {
        let both = |r: &[u64]| r[1] << 32 | r[0];
        t.check(&format!("shf.l.{mode}.b32 d, a, b, c;"), "b32 b32 b32 -> b32", &rows, |r| {
            vec![(u128::from(both(r)) << count(r[2]) >> 32) as u64 & 0xffff_ffff]
        });
        t.check(&format!("shf.r.{mode}.b32 d, a, b, c;"), "b32 b32 b32 -> b32", &rows, |r| {
            vec![both(r) >> count(r[2]) & 0xffff_ffff]
        });
    }
}

#[test]
fn logic_of_every_width() {
    let t = table();
    for width in [16, 32, 64] {
        let rows = pairs(&integers(width), &integers(width));
        let sig = same(width, 2);
        let all = u64::MAX >> (64 - width);
        t.check(&format!("and.b{width} d, a, b;"), &sig, &rows, |r| vec![r[0] & r[1]]);
        t.check(&format!("or.b{width} d, a, b;"), &sig, &rows, |r| vec![r[0] | r[1]]);
        t.check(&format!("xor.b{width} d, a, b;"), &sig, &rows, |r| vec![r[0] ^ r[1]]);
        let ones = each(&integers(width));
        t.check(&format!("not.b{width} d, a;"), &same(width, 1), &ones, |r| vec![!r[0] & all]);
        t.check(&format!("cnot.b{width} d, a;"), &same(width, 1), &ones, |r| {
            vec![u64::from(r[0] == 0)]
        });
    }
    let bits = pairs(&[0, 1], &[0, 1]);
    t.check("and.pred d, a, b;", "pred pred -> pred", &bits, |r| vec![r[0] & r[1]]);
    t.check("or.pred d, a, b;", "pred pred -> pred", &bits, |r| vec![r[0] | r[1]]);
    t.check("xor.pred d, a, b;", "pred pred -> pred", &bits, |r| vec![r[0] ^ r[1]]);
    t.check("not.pred d, a;", "pred -> pred", &each(&[0, 1]), |r| vec![1 - r[0]]);
    t.check("mov.pred d, a;", "pred -> pred", &each(&[0, 1]), |r| vec![r[0]]);
}

#[test]
fn lop3_is_its_table() {
    let t = table();
    let mut random = Random::new(3);
    let rows: Vec<Vec<u64>> =
        (0..16).map(|_| random.many(3, 32)).chain([vec![0xf0, 0xcc, 0xaa]]).collect();
    for lut in (0u64..256).step_by(5).chain([0xe8, 0x96, 0x1e, 0xca]) {
        t.check(&format!("lop3.b32 d, a, b, c, {lut};"), "b32 b32 b32 -> b32", &rows, |r| {
            let bit =
                |i: u32| lut >> ((r[0] >> i & 1) << 2 | (r[1] >> i & 1) << 1 | (r[2] >> i & 1)) & 1;
            vec![(0..32).fold(0, |sum, i| sum | bit(i) << i)]
        });
    }
    // By hand: the table of a & b ^ c is (0xf0 & 0xcc) ^ 0xaa = 0x6a.
    t.literal(
        "lop3.b32 d, a, b, c, 0x6a;",
        "b32 b32 b32 -> b32",
        &[(&[0xff00, 0xf0f0, 0x1111], &[0xe111])],
    );
}

#[test]
fn counting_and_finding_bits() {
    let t = table();
    for width in [32, 64] {
        let values: Vec<u64> = integers(width)
            .into_iter()
            .chain((0..width).map(|i| 1 << i))
            .chain(Random::new(9).many(16, width))
            .collect();
        let rows = each(&values);
        let narrow = format!("b{width} -> b32");
        let bits = |v: u64| (0..width).filter(move |i| v >> i & 1 == 1);
        let none = 0xffff_ffff;
        t.check(&format!("popc.b{width} d, a;"), &narrow, &rows, |r| {
            vec![bits(r[0]).count() as u64]
        });
        t.check(&format!("clz.b{width} d, a;"), &narrow, &rows, |r| {
            vec![u64::from(bits(r[0]).max().map_or(width, |top| width - 1 - top))]
        });
        t.check(&format!("brev.b{width} d, a;"), &same(width, 1), &rows, |r| {
            vec![bits(r[0]).fold(0, |sum, i| sum | 1 << (width - 1 - i))]
        });
        let find = |v: u64| bits(v).max().map_or(none, u64::from);
        let shift = |found: u64| if found == none { none } else { u64::from(width) - 1 - found };
        let all = u64::MAX >> (64 - width);
        let magnitude = |v: u64| if v >> (width - 1) == 1 { !v & all } else { v };
        t.check(&format!("bfind.u{width} d, a;"), &narrow, &rows, |r| vec![find(r[0])]);
        t.check(&format!("bfind.s{width} d, a;"), &narrow, &rows, |r| vec![find(magnitude(r[0]))]);
        t.check(&format!("bfind.shiftamt.u{width} d, a;"), &narrow, &rows, |r| {
            vec![shift(find(r[0]))]
        });
        t.check(&format!("bfind.shiftamt.s{width} d, a;"), &narrow, &rows, |r| {
            vec![shift(find(magnitude(r[0])))]
        });
    }
}

#[test]
fn fns_walks_from_the_base() {
    let t = table();
    let masks = [0, 1, 0x8000_0000, 0xffff_ffff, 0xaaaa_aaaa, 0x0001_8000, 0x1234_5678];
    let offsets: Vec<u64> =
        [-33i64, -32, -2, -1, 0, 1, 2, 3, 16, 32, 33].iter().map(|&o| o as u32 as u64).collect();
    t.check(
        "fns.b32 d, a, b, c;",
        "b32 b32 b32 -> b32",
        &triples(&masks, &[0, 1, 15, 30, 31], &offsets),
        |r| {
            let (mask, base, offset) = (r[0], r[1] as i64, r[2] as u32 as i32 as i64);
            let set = |i: i64| mask >> i & 1 == 1;
            let found = match offset {
                0 => Some(base).filter(|&i| set(i)),
                1.. => (base..32).filter(|&i| set(i)).nth(offset as usize - 1),
                _ => (0..=base).rev().filter(|&i| set(i)).nth(-offset as usize - 1),
            };
            vec![found.map_or(0xffff_ffff, |i| i as u64)]
        },
    );
}

#[test]
fn bit_fields() {
    let t = table();
    // Position and length count modulo 256.
    let places = [0, 1, 7, 31, 32, 33, 63, 64, 200, 255, 256, 0x1_04];
    for width in [32, 64] {
        let values = pick(&integers(width), 7);
        let rows = triples(&values, &places, &places);
        let sig = format!("b{width} b32 b32 -> b{width}");
        for is_signed in [false, true] {
            let name = if is_signed { "s" } else { "u" };
            t.check(&format!("bfe.{name}{width} d, a, b, c;"), &sig, &rows, |r| {
                let (position, length) = (r[1] & 0xff, r[2] & 0xff);
                let top = u64::from(width) - 1;
                let fill =
                    is_signed && length > 0 && r[0] >> (position + length - 1).min(top) & 1 == 1;
                let bit = |i: u64| {
                    if i < length && position + i <= top {
                        r[0] >> (position + i) & 1 == 1
                    } else {
                        fill
                    }
                };
                vec![(0..=top).fold(0, |sum, i| sum | u64::from(bit(i)) << i)]
            });
        }
        let rows: Vec<Vec<u64>> = pairs(&values, &pick(&values, 4))
            .iter()
            .flat_map(|v| pairs(&places, &places).into_iter().map(|p| vec![v[0], v[1], p[0], p[1]]))
            .collect();
        let sig = format!("b{width} b{width} b32 b32 -> b{width}");
        t.check(&format!("bfi.b{width} d, a, b, c, e;"), &sig, &rows, |r| {
            let (position, length) = (r[2] & 0xff, r[3] & 0xff);
            let inside = |i: u64| i >= position && i < position + length;
            let bit = |i: u64| if inside(i) { r[0] >> (i - position) & 1 } else { r[1] >> i & 1 };
            vec![(0..u64::from(width)).fold(0, |sum, i| sum | bit(i) << i)]
        });
    }
}

#[test]
fn masks_and_extensions_of_a_width() {
    let t = table();
    let places = [0, 1, 5, 16, 31, 32, 33, 64, 0xffff_ffff];
    for (mode, wraps) in [("clamp", false), ("wrap", true)] {
        t.check(
            &format!("bmsk.{mode}.b32 d, a, b;"),
            "b32 b32 -> b32",
            &pairs(&places, &places),
            |r| {
                let (from, count) =
                    if wraps { (r[0] & 31, r[1] & 31) } else { (r[0].min(32), r[1].min(32)) };
                vec![(((1u64 << count) - 1) << from) & 0xffff_ffff]
            },
        );
        for is_signed in [false, true] {
            let name = if is_signed { "s32" } else { "u32" };
            let rows = pairs(&integers(32), &places);
            t.check(&format!("szext.{mode}.{name} d, a, b;"), "b32 b32 -> b32", &rows, |r| {
                let width = if wraps { r[1] & 31 } else { r[1].min(32) };
                let low = r[0] & ((1u64 << width) - 1);
                let negative = is_signed && width > 0 && low >> (width - 1) & 1 == 1;
                vec![if negative { (low | u64::MAX << width) & 0xffff_ffff } else { low }]
            });
        }
    }
}

#[test]
fn prmt_in_every_mode() {
    let t = table();
    let bytes = |r: &[u64], i: u64| (r[1] << 32 | r[0]) >> (8 * (i & 7)) & 0xff;
    let mut random = Random::new(5);
    let values =
        [[0x0302_0180, 0x0786_0504], [0x8899_aabb, 0xccdd_eeff], [0x7f80_7f80, 0x0102_0304]];
    let selectors: Vec<u64> =
        [0x3210, 0x7654, 0x0123, 0xba98, 0xfedc, 0x8888, 0xffff, 0x4040, 0xffff_5140]
            .into_iter()
            .chain(random.many(23, 16))
            .collect();
    let rows: Vec<Vec<u64>> =
        values.iter().flat_map(|v| selectors.iter().map(|&s| vec![v[0], v[1], s])).collect();
    let sig = "b32 b32 b32 -> b32";
    t.check("prmt.b32 d, a, b, c;", sig, &rows, |r| {
        vec![(0..4).fold(0, |sum, i| {
            let selector = r[2] >> (4 * i) & 15;
            let byte = bytes(r, selector);
            let byte = if selector & 8 == 0 {
                byte
            } else if byte & 0x80 != 0 {
                0xff
            } else {
                0
            };
            sum | byte << (8 * i)
        })]
    });
    // The bytes of the result from the highest to the lowest, by the lowest two bits of the selector.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, choice) in modes {
        let rows: Vec<Vec<u64>> = values
            .iter()
            .flat_map(|v| [0, 1, 2, 3, 6, 0xffff_fffd].map(|s| vec![v[0], v[1], s]))
            .collect();
        t.check(&format!("prmt.b32.{mode} d, a, b, c;"), sig, &rows, |r| {
            let order = choice[(r[2] & 3) as usize];
            vec![order.iter().fold(0, |sum, &i| sum << 8 | bytes(r, i))]
        });
    }
}

#[test]
fn dot_products_of_bytes_and_halves() {
    let t = table();
    let mut random = Random::new(11);
    let rows: Vec<Vec<u64>> = (0..24)
        .map(|_| random.many(3, 32))
        .chain([vec![0x8080_8080, 0x7f7f_7f7f, 0], vec![0xffff_ffff, 0xffff_ffff, 0xffff_ffff]])
        .collect();
    for (at, a_signed) in [("u32", false), ("s32", true)] {
        for (bt, b_signed) in [("u32", false), ("s32", true)] {
            let byte = |v: u64, i: u32, s: bool| value(v >> (8 * i) & 0xff, 8, s);
            t.check(&format!("dp4a.{at}.{bt} d, a, b, c;"), "b32 b32 b32 -> b32", &rows, |r| {
                let sum: i128 =
                    (0..4).map(|i| byte(r[0], i, a_signed) * byte(r[1], i, b_signed)).sum();
                vec![cut(sum + i128::from(r[2]), 32)]
            });
            for (half, first) in [("lo", 0), ("hi", 2)] {
                t.check(
                    &format!("dp2a.{half}.{at}.{bt} d, a, b, c;"),
                    "b32 b32 b32 -> b32",
                    &rows,
                    |r| {
                        let part = |i: u32| {
                            value(r[0] >> (16 * i) & 0xffff, 16, a_signed)
                                * byte(r[1], first + i, b_signed)
                        };
                        vec![cut(part(0) + part(1) + i128::from(r[2]), 32)]
                    },
                );
            }
        }
    }
}

type Compare = fn(i128, i128) -> bool;

const COMPARISONS: [(&str, Compare); 6] = [
    ("eq", |a, b| a == b),
    ("ne", |a, b| a != b),
    ("lt", |a, b| a < b),
    ("le", |a, b| a <= b),
    ("gt", |a, b| a > b),
    ("ge", |a, b| a >= b),
];

type Combine = fn(bool, bool) -> bool;

const COMBINATIONS: [(&str, Combine); 3] =
    [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];

#[test]
fn setp_and_set_compare() {
    let t = table();
    for (name, width, is_signed) in TYPES {
        let rows = pairs(&integers(width), &integers(width));
        let at = |row: &[u64], i: usize| value(row[i], width, is_signed);
        let sig = format!("b{width} b{width} -> pred pred b32 b32");
        for (comparison, holds) in COMPARISONS {
            let op = format!(
                "setp.{comparison}.{name} d|x, a, b; set.{comparison}.u32.{name} y, a, b; set.{comparison}.f32.{name} z, a, b;"
            );
            t.check(&op, &sig, &rows, |r| {
                let yes = holds(at(r, 0), at(r, 1));
                vec![
                    u64::from(yes),
                    u64::from(!yes),
                    if yes { 0xffff_ffff } else { 0 },
                    if yes { 0x3f80_0000 } else { 0 },
                ]
            });
        }
        if !is_signed {
            for (comparison, like) in [("lo", 2), ("ls", 3), ("hi", 4), ("hs", 5)] {
                let holds = COMPARISONS[like].1;
                t.check(
                    &format!("setp.{comparison}.{name} d, a, b;"),
                    &format!("b{width} b{width} -> pred"),
                    &rows,
                    |r| vec![u64::from(holds(at(r, 0), at(r, 1)))],
                );
            }
        }
    }
    let rows = pairs(&integers(32), &integers(32));
    t.check("setp.eq.b32 d, a, b; setp.ne.b32 x, a, b;", "b32 b32 -> pred pred", &rows, |r| {
        vec![u64::from(r[0] == r[1]), u64::from(r[0] != r[1])]
    });
}

#[test]
fn setp_and_set_combine_with_a_predicate() {
    let t = table();
    let rows = triples(&[1, 5, 0xffff_ffff], &[1, 5, 0xffff_ffff], &[0, 1]);
    for (name, combine) in COMBINATIONS {
        for negated in [false, true] {
            let c = if negated { "!c" } else { "c" };
            let op =
                format!("setp.lt.{name}.s32 d|x, a, b, {c}; set.lt.{name}.s32.s32 y, a, b, {c};");
            t.check(&op, "b32 b32 pred -> pred pred b32", &rows, |r| {
                let less = signed(r[0], 32) < signed(r[1], 32);
                let other = (r[2] != 0) != negated;
                // The second predicate combines the opposite comparison.
                let (p, q) = (combine(less, other), combine(!less, other));
                vec![u64::from(p), u64::from(q), if p { 0xffff_ffff } else { 0 }]
            });
        }
    }
}

#[test]
fn selp_and_slct_choose() {
    let t = table();
    for width in [16, 32, 64] {
        let sig = format!("b{width} b{width} pred -> b{width}");
        let rows = triples(&pick(&integers(width), 4), &pick(&integers(width), 5), &[0, 1]);
        t.check(&format!("selp.b{width} d, a, b, c;"), &sig, &rows, |r| {
            vec![if r[2] == 1 { r[0] } else { r[1] }]
        });
        let sig = format!("b{width} b{width} b32 -> b{width}");
        let rows = triples(&[3], &[4], &[0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
        t.check(&format!("slct.b{width}.s32 d, a, b, c;"), &sig, &rows, |r| {
            vec![if signed(r[2], 32) >= 0 { r[0] } else { r[1] }]
        });
        // −0 is not less than 0; not-a-number chooses the second; a negative subnormal is −0 only where flushed.
        for (flush, subnormal) in [("", 4), (".ftz", 3)] {
            let cases: [(u64, u64); 9] = [
                (0, 3),
                (0x8000_0000, 3),
                (0x3f80_0000, 3),
                (0xbf80_0000, 4),
                (0x7f80_0000, 3),
                (0xff80_0000, 4),
                (0x7fc0_0000, 4),
                (0x0000_0001, 3),
                (0x8000_0001, subnormal),
            ];
            let rows: Vec<Vec<u64>> = cases.iter().map(|c| vec![3, 4, c.0]).collect();
            let want: Vec<Vec<u64>> = cases.iter().map(|c| vec![c.1]).collect();
            t.check_all(&format!("slct{flush}.b{width}.f32 d, a, b, c;"), &sig, &rows, &want);
        }
    }
}

#[test]
fn mov_packs_and_unpacks() {
    let t = table();
    t.check(
        "mov.b32 d, {a, b};",
        "b16 b16 -> b32",
        &pairs(&integers(16), &[0x1234, 0xfedc]),
        |r| vec![r[1] << 16 | r[0]],
    );
    t.check("mov.b64 d, {a, b};", "b32 b32 -> b64", &pairs(&integers(32), &[0x1234_5678]), |r| {
        vec![r[1] << 32 | r[0]]
    });
    t.check("mov.b64 d, {a, b, c, e};", "b16 b16 b16 b16 -> b64", &[vec![1, 2, 3, 0xffff]], |_| {
        vec![0xffff_0003_0002_0001]
    });
    t.check("mov.b32 {d, x}, a;", "b32 -> b16 b16", &each(&integers(32)), |r| {
        vec![r[0] & 0xffff, r[0] >> 16]
    });
    t.check("mov.b64 {d, x}, a;", "b64 -> b32 b32", &each(&integers(64)), |r| {
        vec![r[0] & 0xffff_ffff, r[0] >> 32]
    });
    t.check("mov.b64 {d, x, y, z}, a;", "b64 -> b16 b16 b16 b16", &each(&integers(64)), |r| {
        (0..4).map(|i| r[0] >> (16 * i) & 0xffff).collect()
    });
    t.check("mov.b64 {_, d}, a;", "b64 -> b32", &each(&integers(64)), |r| vec![r[0] >> 32]);
    let constants = [
        ("mov.u32 d, 0xdeadbeef;", 0xdead_beef),
        ("mov.s32 d, -1;", 0xffff_ffff),
        ("mov.u32 d, 4294967295;", 0xffff_ffff),
        ("mov.s32 d, -2147483648;", 0x8000_0000),
        ("mov.u32 d, 0b1011;", 11),
        ("mov.u32 d, 017;", 15),
        ("mov.f32 d, 0f3F800000;", 0x3f80_0000),
        ("mov.f32 d, 0fFF800000;", 0xff80_0000),
        ("mov.f32 d, 0d3FF8000000000000;", 0x3fc0_0000),
    ];
    for (op, want) in constants {
        t.check(op, "b32 -> b32", &each(&[0]), |_| vec![want]);
    }
    t.check("mov.f64 d, 0d3FF0000000000000;", "b32 -> b64", &each(&[0]), |_| {
        vec![0x3ff0_0000_0000_0000]
    });
    t.check("mov.u64 d, -2;", "b32 -> b64", &each(&[0]), |_| vec![0xffff_ffff_ffff_fffe]);
    t.check("mov.u16 d, -2;", "b32 -> b16", &each(&[0]), |_| vec![0xfffe]);
}

#[test]
fn predicated_instructions_leave_the_register() {
    let t = table();
    let rows = pairs(&[10, 20], &[0, 1]);
    t.check(
        "mov.u32 d, 7; @b mov.u32 d, a; mov.u32 x, 8; @!b mov.u32 x, a;",
        "b32 pred -> b32 b32",
        &rows,
        |r| {
            if r[1] == 1 { vec![r[0], 8] } else { vec![7, r[0]] }
        },
    );
}

#[test]
fn conversions_between_integers() {
    let t = table();
    let kinds = [("u8", 8, false), ("s8", 8, true), ("u16", 16, false), ("s16", 16, true)]
        .into_iter()
        .chain([("u32", 32, false), ("s32", 32, true), ("u64", 64, false), ("s64", 64, true)]);
    let kinds: Vec<(&str, u32, bool)> = kinds.collect();
    for &(from, from_width, from_signed) in &kinds {
        for &(to, to_width, to_signed) in &kinds {
            let (source, target) = (from_width.max(16), to_width.max(32));
            // A source register wider than its type is cut; a result narrower than its register is extended.
            let rows = each(&integers(source));
            let sig = format!("b{source} -> b{target}");
            let input =
                |r: &[u64]| value(r[0] & (u64::MAX >> (64 - from_width)), from_width, from_signed);
            t.check(&format!("cvt.{to}.{from} d, a;"), &sig, &rows, |r| {
                vec![cut(value(cut(input(r), to_width), to_width, to_signed), target)]
            });
            let limits = |width: u32, is_signed: bool| {
                if is_signed {
                    (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1)
                } else {
                    (0, (1i128 << width) - 1)
                }
            };
            let (least, most) = limits(to_width, to_signed);
            let (from_least, from_most) = limits(from_width, from_signed);
            // `.sat` is allowed only where the value might not fit.
            if from_least < least || from_most > most {
                t.check(&format!("cvt.sat.{to}.{from} d, a;"), &sig, &rows, |r| {
                    vec![cut(input(r).clamp(least, most), target)]
                });
            }
        }
    }
}

#[test]
fn packed_integers_of_hopper() {
    let t = table_90();
    let rows = pairs(
        &[0x0001_ffff, 0x8000_7fff, 0x7fff_8000, 0x1234_5678],
        &[0x0001_0001, 0xffff_8000, 0x8000_ffff],
    );
    let halves = |r: &[u64], is_signed: bool, f: &dyn Fn(i128, i128) -> i128| {
        let half = |v: u64, i: u32| value(v >> (16 * i) & 0xffff, 16, is_signed);
        vec![(0..2).fold(0, |sum, i| sum | cut(f(half(r[0], i), half(r[1], i)), 16) << (16 * i))]
    };
    for (name, is_signed) in [("u16x2", false), ("s16x2", true)] {
        let sig = "b32 b32 -> b32";
        t.check(&format!("add.{name} d, a, b;"), sig, &rows, |r| {
            halves(r, is_signed, &|a, b| a + b)
        });
        t.check(&format!("min.{name} d, a, b;"), sig, &rows, |r| halves(r, is_signed, &i128::min));
        t.check(&format!("max.{name} d, a, b;"), sig, &rows, |r| halves(r, is_signed, &i128::max));
    }
    t.check("max.relu.s32 d, a, b;", "b32 b32 -> b32", &pairs(&integers(32), &integers(32)), |r| {
        vec![cut(signed(r[0], 32).max(signed(r[1], 32)).max(0), 32)]
    });
}
