//! What the benchmarks make of their measurements: tables, floors, comparisons.

#[path = "../benches/compare/table.rs"]
mod compared;
#[path = "../benches/common/machine.rs"]
#[allow(dead_code, reason = "only the date is tested")]
mod machine;
#[path = "../benches/report/table.rs"]
mod report;

use compared::{Difference, Row};
use report::{CHIPS, Resources, Shape};
use serde_json::json;

fn row() -> Row {
    Row {
        loss: "in-batch".into(),
        n: 32_768,
        d: 512,
        peer: "torch 1".into(),
        times: vec![(0.1, 0.2), (0.2, 0.2), (0.1, 0.4)],
        processor: vec![(0.2, 0.3), (0.2, 0.5), (0.2, 0.4)],
        bare: vec![0.1, 0.125, 0.25],
        peak: vec![0.1, 0.1, 0.125],
        memory: (1.0 * 1048576.0, 20.0 * 1048576.0),
        difference: Difference { loss: 0.0, gradient: 2e-6 },
    }
}

#[test]
fn a_row_has_medians_of_interleaved_ratios() {
    let row = row();
    assert_eq!((row.ours(), row.theirs()), (0.1, 0.2));
    assert_eq!(row.ratios(), (2.0, 1.0));
    assert!((row.processor_ratio() - 2.0).abs() < 1e-12);
    assert_eq!(row.bare_ratio(), 1.6);
    assert_eq!(row.peak_ratio(), Some(2.0));
    assert_eq!(row.memory_share(), 0.05);
    let line = "| in-batch | 32,768 | 512 | torch 1 | 100 ms | 200 ms | 2.00 (1.00) | 2.00 | 1.60 \
                | 2.00 | 1.0 MiB | 20 MiB | 5.0% | 2e-6 |";
    assert_eq!(compared::markdown(std::slice::from_ref(&row)).lines().nth(2), Some(line));
    assert_eq!(row.json()["ratio"], 2.0);
    // On a device nobody measures the processor.
    let row = Row { peak: Vec::new(), ..row };
    assert_eq!(row.peak_ratio(), None);
    assert!(compared::markdown(&[row]).contains("| 1.60 | – | 1.0 MiB |"));
}

#[test]
fn what_was_required_is_missed_by_name() {
    let rows = [row()];
    assert!(compared::misses(&rows, Some(2.0), Some(0.05)).is_empty());
    let missed = compared::misses(&rows, Some(2.1), Some(0.04));
    assert_eq!(missed.len(), 2);
    assert!(missed[0].contains("in-batch at n = 32768, d = 512 against torch 1: 2.00 times"));
    assert!(missed[1].contains("5.0% of the memory"));
    // Nothing measured is a miss, too.
    let nothing = Row { times: Vec::new(), ..row() };
    assert_eq!(compared::misses(&[nothing], Some(1.0), None).len(), 1);
}

#[test]
fn values_are_compared_relative_to_the_largest() {
    let apart = Difference::of((1.0, 2.0), (&[1.0, 4.0], &[1.0, 5.0])).unwrap();
    assert_eq!(apart, Difference { loss: 0.5, gradient: 0.2 });
    assert!(apart.check("f32").unwrap_err().contains("loss by 5.0e-1"));
    assert!(Difference { loss: 1e-3, gradient: 1e-2 }.check("bf16").is_ok());
    assert!(Difference { loss: 1e-6, gradient: 1e-3 }.check("f32").is_err());
    assert!(Difference::of((1.0, 1.0), (&[1.0], &[])).is_err());
    assert!(Difference::of((1.0, 1.0), (&[f32::NAN], &[1.0])).is_err());
    assert!(Difference::of((f64::NAN, 1.0), (&[1.0], &[1.0])).is_err());
    assert_eq!(Difference::of((0.0, 0.0), (&[0.0], &[0.0])).unwrap().check("f32"), Ok(()));
}

#[test]
fn dates_are_those_of_the_calendar() {
    let days = [(0, "1970-01-01"), (19_782, "2024-02-29"), (20_514, "2026-03-02")];
    for (day, date) in days {
        assert_eq!(machine::civil(day), date);
    }
}

#[test]
fn floors_are_those_of_a_kernel_s_family() {
    let shape = Shape { n: 4.0, m: 8.0, d: 2.0, element: 2.0 };
    assert_eq!(report::floor("stats_bf16_128", shape), Some((128.0, 48.0)));
    assert_eq!(report::floor("weights_simt32", shape), Some((128.0, 48.0 + 128.0)));
    assert_eq!(report::floor("rows_columns_bf16_128", shape), Some((128.0, 48.0 + 64.0)));
    assert_eq!(report::floor("rows_rows_f16_128", shape), Some((128.0, 48.0 + 128.0)));
    assert_eq!(report::floor("statistics", shape), None);
}

#[test]
fn occupancy_is_that_of_the_scarcest_resource() {
    let [a100, h100] = CHIPS;
    let takes = |registers, shared| Resources { registers, shared };
    // 128 registers × 256 threads: two blocks of 8 warps.
    assert_eq!(a100.occupancy(takes(128, 34_816), 0, 256), 0.25);
    // Dynamic shared memory: 100 KiB a block leave one on an A100, two on an H100.
    assert_eq!(a100.occupancy(takes(32, 0), 100 << 10, 256), 0.125);
    assert_eq!(h100.occupancy(takes(32, 0), 100 << 10, 256), 0.25);
    // 32 blocks at most.
    assert_eq!(a100.occupancy(takes(16, 0), 0, 32), 0.5);
}

#[test]
fn launches_of_a_kernel_are_added_up() {
    let resources = "# a comment\n\nprogram kernel arch registers shared local\n\
                     p stats_simt32 sm_80 68 10240 0 0 0\np stats_simt32 sm_90a 77 10240 0 0 0\n";
    let resources = report::resources(resources);
    assert_eq!(resources.len(), 2);
    let launch = |kernel: &str| {
        json!({
            "kernel": kernel, "block": [64, 1, 1], "dynamic_shared": 1024, "mma_instructions": 0,
            "mma_flops": 0, "bytes_read": 40, "bytes_written": 8, "bank_conflicts": 3,
            "warp_instructions": 10, "thread_instructions": 300, "exponentials": 5,
            "instructions": { "f32": { "warp": 4, "thread": 128 } },
        })
    };
    let counters =
        json!({ "launches": [launch("stats_simt32"), launch("stats_simt32"), launch("x")] });
    let shape = Shape { n: 4.0, m: 8.0, d: 2.0, element: 4.0 };
    let rows = report::rows("w", shape, &counters, &resources).unwrap();
    assert_eq!(rows.len(), 3);
    let all = &rows[0];
    assert_eq!((&all["kernel"], &all["launches"]), (&json!("all"), &json!(3)));
    assert_eq!(all["thread_instructions"], 900.0);
    // 3 × 256 flop over the 128 of a product.
    assert_eq!(all["flop_over_floor"], 6.0);
    assert!(all["registers_A100"].is_null());
    let stats = &rows[1];
    assert_eq!(stats["launches"], 2);
    assert_eq!(stats["flop"], 512.0);
    assert_eq!(stats["flop_over_floor"], 4.0);
    assert_eq!(stats["bytes_over_floor"], 1.0);
    assert_eq!(stats["instructions_per_mma"], 2.5);
    assert_eq!(stats["shared_bytes"], 11_264);
    assert_eq!(stats["registers_H100"], 77);
    assert!(rows[2]["registers_A100"].is_null());
    let table = report::markdown(&rows);
    assert!(table.contains("| w | `stats_simt32` | 2 | 68 / 77 | 11.0 KiB |"), "{table}");
    assert!(report::rows("w", shape, &json!({}), &resources).is_err());
}

#[test]
fn only_what_became_worse_is_a_regression() {
    let row = |kernel: &str, bytes: f64, occupancy: f64| json!({ "workload": "w", "kernel": kernel, "bytes": bytes, "occupancy_A100": occupancy });
    let recorded = [row("a", 1000.0, 0.5), row("b", 1000.0, 0.5), row("gone", 1.0, 1.0)];
    let found = [row("a", 1004.0, 0.5), row("b", 1010.0, 0.25), row("new", 1.0, 1.0)];
    let changes = report::compare(&recorded, &found);
    assert_eq!(
        changes.regressions,
        ["b in w: bytes 1000 → 1010", "b in w: occupancy_A100 0.500 → 0.250"]
    );
    assert_eq!(changes.notices, ["new in w: new", "gone in w: gone"]);
    let better = report::compare(&found, &recorded);
    assert!(better.regressions.is_empty());
    assert_eq!(better.notices[0], "b in w: bytes 1010 → 1000");
}
