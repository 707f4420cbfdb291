//! Room: benches. What the kernels cost, counted: a table of every kernel that a few small steps
//! launch on the emulated driver, with what ptxas says of it (kernels/resources.txt).
//!
//! A kernel comes in by being launched: nothing here names one but the floors of its family.
//! `cargo xtask report` builds the emulator and runs this. As `report workload …` it is one step
//! for a profiler, on whatever driver there is.

#[path = "../common/mod.rs"]
mod common;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use half::{bf16, f16};
use metric_kernels::engine::cuda::{Tile, TileEngine};
use metric_kernels::{
    Batch, CrossExampleSoftmax, Element, Engine, Family, InBatchSoftmax, InstanceCrossEntropy,
    Loss, Matrix,
};
use serde_json::{Value, json};

use common::place::{Cuda, Data, Place};
use table::Shape;

/// Counts what the kernels do, on the emulated driver.
#[derive(Parser)]
#[command(name = "report", args_conflicts_with_subcommands = true)]
struct Options {
    /// The folder of the emulator's libcuda.so.
    #[arg(long, required = true)]
    emulator: Option<PathBuf>,
    /// kernels/resources.txt.
    #[arg(long, required = true)]
    resources: Option<PathBuf>,
    /// Where kernels.json and kernels.md are, or go.
    #[arg(long, required = true)]
    results: Option<PathBuf>,
    /// Compare with what is there, and fail on a regression; write nothing.
    #[arg(long)]
    check: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Steps of one loss on the CUDA driver that there is, and nothing else.
    Workload(Workload),
}

#[derive(Clone, Args)]
struct Workload {
    #[arg(long)]
    loss: Kind,
    /// Rows of either side.
    #[arg(long)]
    n: usize,
    #[arg(long)]
    d: usize,
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// The tile size; by default what the engine chooses.
    #[arg(long)]
    tile: Option<Size>,
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// L2-normalise first.
    #[arg(long)]
    normalize: bool,
    /// The matrix of similarities instead of a loss.
    #[arg(long)]
    similarity: bool,
    /// Positives by labels, so many rows a class; one class after the other.
    #[arg(long)]
    class: Option<usize>,
    /// Labels in any order.
    #[arg(long)]
    shuffled: bool,
    /// The hardest negatives alone, of the whole matrix.
    #[arg(long)]
    hardest: Option<usize>,
    /// The hardest negatives alone, of each row.
    #[arg(long)]
    hardest_per_row: Option<usize>,
    /// Without tensor cores.
    #[arg(long)]
    simt: bool,
    /// The loss without its gradients.
    #[arg(long)]
    forward: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    CrossExample,
    InBatch,
    Ice,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum DType {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Size {
    Large,
    Small,
}

/// The workloads, and the compute capability that the emulator is asked to have. Small enough that
/// an interpreter of kernels has done them within seconds; whole tiles of 128.
const WORKLOADS: [(&str, &str); 13] = [
    ("8.0", "--loss cross-example --n 256 --d 128 --tile large"),
    ("8.0", "--loss cross-example --n 96 --d 64 --tile small"),
    ("8.0", "--loss in-batch --n 256 --d 128 --tile large"),
    ("8.0", "--loss ice --n 128 --d 64 --normalize"),
    ("8.0", "--loss cross-example --n 256 --d 128 --dtype bf16 --tile large"),
    ("8.0", "--loss in-batch --n 256 --d 128 --dtype f16 --tile large"),
    ("8.0", "--loss in-batch --n 256 --d 128 --similarity"),
    ("8.0", "--loss cross-example --n 128 --d 64 --tile large --simt"),
    ("8.0", "--loss in-batch --n 256 --d 128 --dtype bf16 --tile large"),
    ("8.0", "--loss in-batch --n 256 --d 128 --dtype bf16 --tile large --class 4 --shuffled"),
    ("8.0", "--loss cross-example --n 256 --d 128 --dtype bf16 --tile large --class 4 --shuffled"),
    (
        "8.0",
        "--loss cross-example --n 512 --d 128 --dtype bf16 --tile large --hardest 512 --forward",
    ),
    (
        "8.0",
        "--loss in-batch --n 512 --d 128 --dtype bf16 --tile large --hardest-per-row 8 --forward",
    ),
];

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, and wants no measurement.
    if std::env::args().skip(1).any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let done = match &options.role {
        Some(Role::Workload(workload)) => run(workload).map_err(|error| error.to_string()),
        None => report(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(workload: &Workload) -> Result<(), Box<dyn std::error::Error>> {
    let mut place = Cuda::open()?.with_tile(workload.tile.map(|size| match size {
        Size::Large => Tile::Large,
        Size::Small => Tile::Small,
    }));
    if workload.simt {
        place = place.with_tile_engine(TileEngine::Simt);
    }
    match workload.dtype {
        DType::F32 => steps::<f32>(&mut place, workload),
        DType::F16 => steps::<f16>(&mut place, workload),
        DType::Bf16 => steps::<bf16>(&mut place, workload),
    }
}

fn steps<T: Data + Element>(
    place: &mut Cuda,
    workload: &Workload,
) -> Result<(), Box<dyn std::error::Error>> {
    let (n, d) = (workload.n, workload.d);
    let x = place.upload_rows::<T>(&common::unit_rows(n, d, 1));
    let y = place.upload_rows::<T>(&common::unit_rows(n, d, 2));
    let class = workload.class.unwrap_or(8);
    let mut labels: Vec<u32> = (0..n).map(|i| (i / class) as u32).collect();
    if workload.shuffled {
        fastrand::Rng::with_seed(3).shuffle(&mut labels);
    }
    let labels = place.upload(&labels);
    let (x, y) = (Matrix::new(&x, n, d)?, Matrix::new(&y, n, d)?);
    let mut family: Family = match workload.loss {
        Kind::CrossExample => *CrossExampleSoftmax::new(20.0).family(),
        Kind::InBatch => *InBatchSoftmax::new(20.0).family(),
        Kind::Ice => *InstanceCrossEntropy::new(20.0).family(),
    };
    family.normalize = workload.normalize;
    if let Some(k) = workload.hardest {
        family = family.hardest(k);
    }
    if let Some(k) = workload.hardest_per_row {
        family = family.hardest_per_row(k);
    }
    for _ in 0..workload.steps {
        if workload.similarity {
            metric_kernels::ops::similarity(place.engine(), x, y)?;
            continue;
        }
        let batch = match workload.loss {
            Kind::Ice => Batch::shared(x).labels(&labels, &labels),
            _ if workload.class.is_some() => Batch::new(x, y).labels(&labels, &labels),
            _ => Batch::new(x, y),
        };
        let loss = if workload.forward {
            family.forward(place.engine(), batch)?.loss
        } else {
            family.loss_and_gradients(place.engine(), batch)?.0
        };
        let loss = place.engine().read(&loss)?[0];
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}").into());
        }
    }
    place.stream().synchronize()?;
    Ok(())
}

/// One workload on the emulator: its counters.
fn count(capability: &str, words: &str, emulator: &Path) -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let file = std::env::temp_dir().join(format!("metric-kernels-{}.json", std::process::id()));
    let output = Command::new(program)
        .arg("workload")
        .args(words.split_whitespace())
        .env("LD_LIBRARY_PATH", emulator)
        .env("CUDA_EMULATOR_CC", capability)
        // Lists are in the order in which blocks came to them, and so are bank conflicts over them:
        // the same every time where one thread executes all blocks.
        .env("CUDA_EMULATOR_THREADS", "1")
        .env("CUDA_EMULATOR_COUNTERS", &file)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = fs::read_to_string(&file).map_err(|error| {
        format!("{words}: {error}: no counters; is {} the emulator?", emulator.display())
    })?;
    // Scratch.
    let _ = fs::remove_file(&file);
    serde_json::from_str(&text).map_err(|error| format!("{words}: {error}"))
}

fn report(options: &Options) -> Result<(), String> {
    let (Some(emulator), Some(resources), Some(results)) =
        (&options.emulator, &options.resources, &options.results)
    else {
        return Err("--emulator, --resources and --results are needed".into());
    };
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let resources = table::resources(&read(resources)?);
    let mut rows = Vec::new();
    for (capability, words) in WORKLOADS {
        // The emulator's name for the table: what was asked for, without what is usual.
        let name = format!("{} ({capability})", words.replace("--", "").replace("loss ", ""));
        let workload = Options::try_parse_from(
            ["report", "workload"].into_iter().chain(words.split_whitespace()),
        );
        let workload = workload.map_err(|error| error.to_string())?;
        let Some(Role::Workload(workload)) = workload.role else {
            return Err(format!("no workload: {words}"));
        };
        let (n, d) = (workload.n as f64, workload.d as f64);
        let element = if workload.dtype == DType::F32 { 4.0 } else { 2.0 };
        let counters = count(capability, words, emulator)?;
        rows.extend(table::rows(&name, Shape { n, m: n, d, element }, &counters, &resources)?);
    }

    let path = results.join("kernels.json");
    let text = table::markdown(&rows);
    if !options.check {
        let heading = "# What the kernels cost\n\nCounted on the emulated driver, one step each; \
                       registers and shared memory as ptxas says. Workload: loss, rows on either \
                       side, dimension (compute capability). Floors are those of kernels/NOTES.md; \
                       for a whole step, \"all\", one product: 3.00 is a step of three products, 9.00 \
                       one of f32 on tensor cores, where a product is three. \
                       Written by `cargo xtask report`; `--check` fails on a regression.\n\n";
        let json = serde_json::to_string_pretty(&json!({ "rows": rows }));
        let json = json.map_err(|error| error.to_string())? + "\n";
        fs::create_dir_all(results).map_err(|error| format!("{}: {error}", results.display()))?;
        for (path, content) in
            [(path, json), (results.join("kernels.md"), format!("{heading}{text}"))]
        {
            fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        println!("{text}");
        return Ok(());
    }
    let recorded: Value = serde_json::from_str(&read(&path)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let recorded = recorded["rows"].as_array().cloned().unwrap_or_default();
    let changes = table::compare(&recorded, &rows);
    for notice in &changes.notices {
        println!("notice: {notice}");
    }
    if !changes.regressions.is_empty() {
        return Err(format!(
            "kernels cost more than {} says (if that is meant: `cargo xtask report`):\n{}",
            path.display(),
            changes.regressions.join("\n")
        ));
    }
    println!("{} kernels and workloads counted, none worse than on record", rows.len());
    Ok(())
}
