//! The report's figures: what a kernel did and takes, against what it must, and how two reports
//! compare.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The shape that a workload has, for the floors.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub n: f64,
    pub m: f64,
    pub d: f64,
    /// Bytes of an input element.
    pub element: f64,
}

/// What a kernel must at least do: flop and bytes (kernels/NOTES.md). `None` for kernels whose work
/// is O(n) or small beside the rest.
pub fn floor(kernel: &str, shape: Shape) -> Option<(f64, f64)> {
    let Shape { n, m, d, element } = shape;
    let product = 2.0 * n * m * d;
    let inputs = (n + m) * d * element;
    // The panel is f32 on ordinary cores, of 16 bits where tensor cores read it.
    let panel = n * m * if kernel.contains("simt") { 4.0 } else { 2.0 };
    let family = |name: &str| kernel.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
    if family("stats") {
        Some((product, inputs))
    } else if family("weights") || family("rows_columns") || family("columns_columns") {
        Some((product, inputs + panel))
    } else if family("rows_rows") {
        Some((product, inputs + 4.0 * n * m))
    } else {
        None
    }
}

/// Registers and static shared memory of a kernel on an architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    pub registers: u64,
    pub shared: u64,
}

/// kernels/resources.txt by kernel and architecture.
pub fn resources(text: &str) -> BTreeMap<(String, String), Resources> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, kernel, arch, registers, shared, ..] = words[..] else { continue };
        if let (Ok(registers), Ok(shared)) = (registers.parse(), shared.parse()) {
            found.insert((kernel.to_string(), arch.to_string()), Resources { registers, shared });
        }
    }
    found
}

/// A chip as far as occupancy goes.
#[derive(Clone, Copy, Debug)]
pub struct Chip {
    pub name: &'static str,
    pub arch: &'static str,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared: u64,
}

pub const CHIPS: [Chip; 2] = [
    Chip { name: "A100", arch: "sm_80", shared: 164 << 10 },
    Chip { name: "H100", arch: "sm_90a", shared: 228 << 10 },
];

impl Chip {
    /// Resident warps out of the 64 that a multiprocessor can hold.
    pub fn occupancy(&self, takes: Resources, dynamic: u64, threads: u64) -> f64 {
        const WARPS: u64 = 64;
        const BLOCKS: u64 = 32;
        let warps = threads.div_ceil(32).max(1);
        // Registers come in units of 256 a warp, shared memory in units of 128 bytes, and the
        // system keeps 1 KiB a block.
        let of_warp = (takes.registers.max(1) * 32).next_multiple_of(256);
        let by_registers = (65_536 / of_warp) / warps;
        let by_shared = self.shared / ((takes.shared + dynamic).next_multiple_of(128) + 1024);
        let blocks = BLOCKS.min(WARPS / warps).min(by_registers).min(by_shared);
        (blocks * warps) as f64 / WARPS as f64
    }
}

/// The name of the row that holds a whole workload.
const ALL: &str = "all";

/// Adds up a workload's launches: one object for all of them, of which the flop over the floor are
/// those of tensor cores over one product, where there are any; then one a kernel.
pub fn rows(
    workload: &str,
    shape: Shape,
    counters: &Value,
    resources: &BTreeMap<(String, String), Resources>,
) -> Result<Vec<Value>, String> {
    let launches = counters["launches"].as_array().ok_or("the counters list no launches")?;
    let mut kernels: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for launch in launches {
        let kernel = launch["kernel"].as_str().ok_or("a launch without a name")?;
        kernels.entry(kernel).or_default().push(launch);
    }
    let mut rows = Vec::new();
    let all = (ALL, launches.iter().collect());
    for (kernel, launches) in std::iter::once(all).chain(kernels) {
        let sum = |pick: &dyn Fn(&Value) -> &Value| {
            launches.iter().map(|launch| pick(launch).as_f64().unwrap_or(0.0)).sum::<f64>()
        };
        let threads = |launch: &Value| {
            let sides = launch["block"].as_array().map_or(&[][..], |sides| sides);
            sides.iter().filter_map(Value::as_u64).product::<u64>()
        };
        let threads = launches.iter().map(|launch| threads(launch)).max().unwrap_or(0);
        let dynamic =
            launches.iter().filter_map(|l| l["dynamic_shared"].as_u64()).max().unwrap_or(0);
        let mma = sum(&|l| &l["mma_instructions"]);
        let fma = sum(&|l| &l["instructions"]["f32"]["warp"]);
        // An f32 instruction counts as a multiplication and an addition, as in a product it is.
        let tensor_flop = sum(&|l| &l["mma_flops"]);
        let flop = tensor_flop + 2.0 * sum(&|l| &l["instructions"]["f32"]["thread"]);
        let bytes = sum(&|l| &l["bytes_read"]) + sum(&|l| &l["bytes_written"]);
        let mut row = Map::new();
        let mut put = |key: &str, value: Value| {
            row.insert(key.to_string(), value);
        };
        put("workload", json!(workload));
        put("kernel", json!(kernel));
        put("launches", json!(launches.len()));
        put("shared_bytes", json!(dynamic));
        for chip in CHIPS {
            let Some(&takes) = resources.get(&(kernel.to_string(), chip.arch.to_string())) else {
                continue;
            };
            put("shared_bytes", json!(takes.shared + dynamic));
            put(&format!("registers_{}", chip.name), json!(takes.registers));
            put(
                &format!("occupancy_{}", chip.name),
                json!(chip.occupancy(takes, dynamic, threads)),
            );
        }
        put("flop", json!(flop));
        put("bytes", json!(bytes));
        if kernel == ALL {
            put("thread_instructions", json!(sum(&|l| &l["thread_instructions"])));
            let products = if mma > 0.0 { tensor_flop } else { flop };
            put("flop_over_floor", json!(products / (2.0 * shape.n * shape.m * shape.d)));
        } else if let Some((least_flop, least_bytes)) = floor(kernel, shape) {
            put("flop_over_floor", json!(flop / least_flop));
            put("bytes_over_floor", json!(bytes / least_bytes));
        }
        put("instructions", json!(sum(&|l| &l["warp_instructions"])));
        let useful = if mma > 0.0 { mma } else { fma };
        if useful > 0.0 {
            put("instructions_per_mma", json!(sum(&|l| &l["warp_instructions"]) / useful));
        }
        put("tensor_cores", json!(mma > 0.0));
        put("bank_conflicts", json!(sum(&|l| &l["bank_conflicts"])));
        put("exponentials", json!(sum(&|l| &l["exponentials"])));
        rows.push(Value::Object(row));
    }
    Ok(rows)
}

/// Figures of which more is worse, and how much more of one is a regression: counts repeat exactly,
/// and a change of half a percent is somebody's decision.
const WORSE_IF_MORE: [&str; 9] = [
    "launches",
    "shared_bytes",
    "registers_A100",
    "registers_H100",
    "flop",
    "bytes",
    "instructions",
    "thread_instructions",
    "bank_conflicts",
];
const WORSE_IF_LESS: [&str; 2] = ["occupancy_A100", "occupancy_H100"];
const TOLERANCE: f64 = 0.005;

/// What changed between two reports.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub regressions: Vec<String>,
    /// Improvements, and kernels that came or went.
    pub notices: Vec<String>,
}

/// Compares a report with the one on record.
pub fn compare(recorded: &[Value], found: &[Value]) -> Changes {
    let key = |row: &Value| format!("{} in {}", text(&row["kernel"]), text(&row["workload"]));
    let mut changes = Changes::default();
    for row in found {
        let name = key(row);
        let Some(old) = recorded.iter().find(|old| key(old) == name) else {
            changes.notices.push(format!("{name}: new"));
            continue;
        };
        let figures = WORSE_IF_MORE.iter().map(|f| (f, 1.0));
        for (figure, sign) in figures.chain(WORSE_IF_LESS.iter().map(|f| (f, -1.0))) {
            let (Some(before), Some(now)) = (old[*figure].as_f64(), row[*figure].as_f64()) else {
                continue;
            };
            let what = || format!("{name}: {figure} {} → {}", number(before), number(now));
            let more = sign * (now - before);
            if more > TOLERANCE * before.abs() {
                changes.regressions.push(what());
            } else if -more > TOLERANCE * before.abs() {
                changes.notices.push(what());
            }
        }
    }
    for old in recorded {
        let name = key(old);
        if !found.iter().any(|row| key(row) == name) {
            changes.notices.push(format!("{name}: gone"));
        }
    }
    changes
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number without a fraction that says nothing.
fn number(value: f64) -> String {
    if value == value.trunc() { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// The report as Markdown.
pub fn markdown(rows: &[Value]) -> String {
    let mut out = String::from(
        "| workload | kernel | launches | registers A100 / H100 | shared memory | occupancy A100 / \
         H100 | flop (over floor) | bytes (over floor) | instructions per mma or f32 | bank \
         conflicts |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let figure = |key: &str, show: &dyn Fn(f64) -> String| {
            row[key].as_f64().map_or_else(|| "–".to_string(), show)
        };
        let plain = |value: f64| format!("{value:.0}");
        let percent = |value: f64| format!("{:.0}%", 100.0 * value);
        let over = |key: &str| figure(key, &|value| format!(" ({value:.2})")).replace('–', "");
        // Writing into a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | `{}` | {} | {} / {} | {} | {} / {} | {}{} | {}{} | {}{} | {} |",
            text(&row["workload"]),
            text(&row["kernel"]),
            figure("launches", &plain),
            figure("registers_A100", &plain),
            figure("registers_H100", &plain),
            figure("shared_bytes", &|bytes| format!("{:.1} KiB", bytes / 1024.0)),
            figure("occupancy_A100", &percent),
            figure("occupancy_H100", &percent),
            figure("flop", &metric),
            over("flop_over_floor"),
            figure("bytes", &metric),
            over("bytes_over_floor"),
            figure("instructions_per_mma", &|value| format!("{value:.2}")),
            if row["tensor_cores"] == true { " (mma)" } else { "" },
            figure("bank_conflicts", &plain),
        );
    }
    out
}

/// 12345678 as 12.3 M.
fn metric(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.1} M", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}
