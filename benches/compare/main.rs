//! Room: benches. Ours against what users run today (benches/peers), on the same problems, in turn.
//!
//! Each side is a process of its own. Values are compared before any time is believed; then both
//! are asked for a step alternately, so that a busy machine slows both alike; then fresh processes
//! say what memory a step needs beyond inputs and gradients. `cargo xtask compare` gets a Python
//! with the peers and runs this; `--help` tells the rest.

#[path = "../common/mod.rs"]
mod common;
mod process;
mod table;
mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use process::{Process, Trouble};
use table::{Difference, Row};

/// How long everything rests before either side's turn: threads of OpenMP, which torch computes on,
/// spin for milliseconds after their work, and would take a core from whoever is next.
const REST: Duration = Duration::from_millis(50);

/// Seconds of steps that a turn has at least, as the slower side goes. Threads that have slept are
/// often woken on one processor, and it takes the system some 20 ms to move one of them: that is not
/// what a step among others of a training run costs.
const TURN: f64 = 1.0;

/// Times metric-kernels and its peers in turn, and prints one table.
#[derive(Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
struct Options {
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: On,
    /// Rows of either side, n = m. By default 2048,4096,8192 on the CPU, 1024,8192,32768 on CUDA.
    #[arg(long, value_delimiter = ',')]
    n: Vec<usize>,
    /// Dimensions. By default 128,256,512, on CUDA also 1024.
    #[arg(long, value_delimiter = ',')]
    d: Vec<usize>,
    /// Peers: eager, compile, open-clip, pytorch-metric-learning, inf-cl, cut-cross-entropy. All by
    /// default.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// All sizes for the peer called eager, the smallest for the others.
    #[arg(long)]
    brief: bool,
    /// Losses. All by default.
    #[arg(long, value_delimiter = ',')]
    losses: Vec<Kind>,
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// Inverse temperature.
    #[arg(long, default_value_t = 20.0)]
    scale: f32,
    /// Threads of either side on the CPU; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Seconds that the two sides of a row are timed for, at least five rounds.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// The Python that has the peers.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// The folder of peer.py.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where compare-<device>.json and .md go; nowhere by default.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The commit that is measured, for the record.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Fail where ours is not this many times as fast (the median of a row's rounds).
    #[arg(long)]
    require_ratio: Option<f64>,
    /// Fail where ours takes more than this share of a peer's extra memory.
    #[arg(long)]
    require_share: Option<f64>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Ours, driven by lines on standard input.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum On {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum DType {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    CrossExample,
    InBatch,
    Clip,
    Ice,
}

/// Who computes what, and up to which n: a peer that holds every positive pair against every negative
/// one cannot do more. Where all sizes asked for are larger, it is measured at this one.
const PEERS: [(&str, Kind, usize); 8] = [
    ("eager", Kind::CrossExample, usize::MAX),
    ("eager", Kind::InBatch, usize::MAX),
    ("compile", Kind::CrossExample, usize::MAX),
    ("compile", Kind::InBatch, usize::MAX),
    ("open-clip", Kind::Clip, usize::MAX),
    ("pytorch-metric-learning", Kind::Ice, 128),
    ("inf-cl", Kind::InBatch, usize::MAX),
    ("cut-cross-entropy", Kind::InBatch, usize::MAX),
];

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, and wants no measurement.
    if std::env::args().skip(1).any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let done = match &options.role {
        Some(Role::Worker(problem)) => worker::run(problem).map_err(|error| error.to_string()),
        None => compare(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

fn compare(options: &Options) -> Result<(), String> {
    let known: Vec<&str> = PEERS.iter().map(|(peer, ..)| *peer).collect();
    if let Some(peer) = options.peers.iter().find(|peer| !known.contains(&peer.as_str())) {
        return Err(format!("no peer is called {peer}"));
    }
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let threads = options.threads.unwrap_or(cores);
    let (sizes, dimensions): (&[usize], &[usize]) = match options.device {
        On::Cpu => (&[2048, 4096, 8192], &[128, 256, 512]),
        On::Cuda => (&[1024, 8192, 32_768], &[128, 256, 512, 1024]),
    };
    let sizes = if options.n.is_empty() { sizes } else { &options.n };
    let dimensions = if options.d.is_empty() { dimensions } else { &options.d };

    let work = std::env::temp_dir().join(format!("metric-kernels-{}", std::process::id()));
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let session = Session { options, threads, work: &work };
    let mut found = Found::default();
    for (peer, kind, largest) in PEERS {
        let wanted = (options.peers.is_empty() || options.peers.iter().any(|name| name == peer))
            && (options.losses.is_empty() || options.losses.contains(&kind));
        if !wanted {
            continue;
        }
        let mut feasible: Vec<usize> = sizes.iter().copied().filter(|&n| n <= largest).collect();
        if feasible.is_empty() {
            feasible.push(largest);
        }
        let problems = feasible
            .iter()
            .flat_map(|&n| dimensions.iter().map(move |&d| (n, d)))
            .take(if options.brief && peer != "eager" { 1 } else { usize::MAX });
        for (n, d) in problems {
            match session.row(peer, kind, n, d, &mut found.about) {
                Ok(row) => {
                    eprintln!(
                        "{}",
                        table::markdown(std::slice::from_ref(&row)).lines().last().unwrap_or("")
                    );
                    found.rows.push(row);
                }
                Err(Trouble::Missing(why)) => {
                    let missing = format!("{peer}, {}: {why}", name(kind));
                    eprintln!("missing: {missing}");
                    if !found.missing.contains(&missing) {
                        found.missing.push(missing);
                    }
                }
                Err(Trouble::Failed(why)) => {
                    let failure = format!("{peer}, {} at n = {n}, d = {d}: {why}", name(kind));
                    eprintln!("FAILED: {failure}");
                    found.failed.push(failure);
                }
            }
        }
    }
    // What is left there is scratch.
    let _ = fs::remove_dir_all(&work);
    found.close(options, threads)
}

/// What a comparison came to.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    missing: Vec<String>,
    failed: Vec<String>,
    about: About,
}

/// What the processes say of themselves.
#[derive(Default)]
struct About {
    engine: String,
    python: String,
}

struct Session<'a> {
    options: &'a Options,
    threads: usize,
    work: &'a Path,
}

impl Session<'_> {
    fn row(
        &self,
        peer: &str,
        kind: Kind,
        n: usize,
        d: usize,
        about: &mut About,
    ) -> Result<Row, Trouble> {
        let [x, y] = [("x", 1), ("y", 2)]
            .map(|(side, seed)| (self.work.join(format!("{side}-{n}-{d}")), seed));
        for (path, seed) in [&x, &y] {
            if !path.exists() {
                let rows = common::unit_rows(n, d, *seed);
                self.write(path, &rows)?;
            }
        }
        let arguments = |fresh: bool| {
            let mut words: Vec<String> = vec!["--loss".into(), name(kind)];
            let mut add = |key: &str, value: String| words.extend([format!("--{key}"), value]);
            add("n", n.to_string());
            add("d", d.to_string());
            add("scale", self.options.scale.to_string());
            add("dtype", name(self.options.dtype));
            add("device", name(self.options.device));
            add("threads", self.threads.to_string());
            add("x", x.0.display().to_string());
            add("y", y.0.display().to_string());
            if fresh {
                words.push("--fresh".into());
            }
            words
        };
        let start_theirs = |fresh| {
            let programs = self.options.programs.clone().unwrap_or_else(programs);
            let mut command = Command::new(&self.options.python);
            command.arg(programs.join("peer.py")).args(["--peer", peer]).args(arguments(fresh));
            Process::start(command, peer)
        };
        let start_ours = |fresh| {
            let program = std::env::current_exe()
                .map_err(|error| Trouble::Failed(format!("this program's path: {error}")))?;
            let mut command = Command::new(program);
            command.arg("worker").args(arguments(fresh));
            Process::start(command, "metric-kernels")
        };

        let mut theirs = start_theirs(false)?;
        let mut ours = start_ours(false)?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
        (about.engine, about.python) = (text(&ours.ready["engine"]), text(&theirs.ready["python"]));

        let difference = self.difference(&mut ours, &mut theirs)?;
        difference.check(&name(self.options.dtype)).map_err(Trouble::Failed)?;

        let first = ours.number("step 1", "seconds")?.max(theirs.number("step 1", "seconds")?);
        let steps = (TURN / first.max(1e-6)).ceil().clamp(1.0, 2000.0);
        let command = format!("step {steps}");
        theirs.number(&command, "seconds")?;
        let step = |process: &mut Process| -> Result<(f64, f64), Trouble> {
            thread::sleep(REST);
            let answer = process.ask(&command)?;
            let number = |key: &str| answer[key].as_f64().unwrap_or(f64::NAN);
            Ok((number("seconds"), number("processor")))
        };
        let products = format!("products {steps}");
        let (mut times, mut processor, start) = (Vec::new(), Vec::new(), Instant::now());
        let (mut bare, mut peak) = (Vec::new(), Vec::new());
        let flop = 6.0 * (n * n * d) as f64;
        while times.len() < 5 || start.elapsed().as_secs_f64() < self.options.seconds {
            let (a, b) = (step(&mut ours)?, step(&mut theirs)?);
            times.push((a.0, b.0));
            processor.push((a.1, b.1));
            bare.push(theirs.number(&products, "seconds")?);
            thread::sleep(REST);
            peak.extend(ours.ask("peak")?["flop_rate"].as_f64().map(|rate| flop / rate));
        }
        let label = text(&theirs.ready["ready"]);
        drop((ours, theirs));

        let memory = (
            start_ours(true)?.number("memory", "bytes")?,
            start_theirs(true)?.number("memory", "bytes")?,
        );
        let (loss, peer) = (name(kind), label);
        Ok(Row { loss, n, d, peer, times, processor, bare, peak, memory, difference })
    }

    fn write(&self, path: &Path, rows: &[f32]) -> Result<(), Trouble> {
        fs::write(path, bytemuck::cast_slice::<f32, u8>(rows))
            .map_err(|error| Trouble::Failed(format!("{}: {error}", path.display())))
    }

    /// Asks both sides for their values.
    fn difference(&self, ours: &mut Process, theirs: &mut Process) -> Result<Difference, Trouble> {
        let values = |process: &mut Process, name: &str| -> Result<_, Trouble> {
            let path = self.work.join(name);
            let loss = process.number(&format!("values {}", path.display()), "loss")?;
            let mut gradients: Vec<f32> = Vec::new();
            for side in ["x", "y"] {
                let file = path.with_extension(side);
                if let Ok(bytes) = fs::read(&file) {
                    gradients.extend(common::floats(&bytes));
                    let _ = fs::remove_file(&file);
                }
            }
            Ok((loss, gradients))
        };
        let (a, b) = (values(ours, "ours")?, values(theirs, "theirs")?);
        Difference::of((a.0, b.0), (&a.1, &b.1)).map_err(Trouble::Failed)
    }
}

/// The folder of the peers' programs: beside the executable, as in a bundle, or in the sources.
fn programs() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("peers")));
    match beside {
        Some(folder) if folder.join("peer.py").is_file() => folder,
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers"),
    }
}

impl Found {
    /// Prints and writes the result; an error if something failed or missed what was required.
    fn close(self, options: &Options, threads: usize) -> Result<(), String> {
        let device = name(options.device);
        let machine = match options.device {
            On::Cpu => format!("{}; {threads} threads on either side", common::machine::cpu()),
            On::Cuda if self.rows.is_empty() => common::machine::cpu(),
            On::Cuda => format!("{}; {}", self.about.engine, common::machine::cpu()),
        };
        let date = common::machine::date();
        let version = env!("CARGO_PKG_VERSION");
        let python = &self.about.python;
        let mut text = format!(
            "Loss and both gradients, {}, scale {}. {machine}. metric-kernels {version} ({}), \
             Python {python}, {date}.\n\nTimes and memory (beyond inputs and gradients): medians of \
             interleaved rounds, {TURN} s of steps each. Ratio: the peer's time over ours, median and \
             smallest of the rounds. Products alone: the peer's time over that of the three matrix \
             products of a step by the peer's own library, in the same rounds; a step that did \
             nothing else, as fast, would have that ratio. At peak: the same of a step whose three \
             products ran at the rate of nothing but fused multiply-adds in registers, on as many \
             threads, in the same rounds; more than that no step of three products can have.\n\n{}",
            name(options.dtype),
            options.scale,
            options.commit,
            table::markdown(&self.rows),
        );
        for missing in &self.missing {
            text += &format!("\nLeft out: {missing}.\n");
        }
        println!("{text}");
        if let Some(folder) = &options.out {
            let json = json!({
                "device": device, "machine": machine, "engine": self.about.engine,
                "dtype": name(options.dtype), "scale": options.scale, "threads": threads,
                "version": version, "commit": options.commit, "python": python, "date": date,
                "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
                "missing": self.missing, "failed": self.failed,
            });
            let json = serde_json::to_string_pretty(&json).map_err(|error| error.to_string())?;
            let heading = format!("# Peers, {device}\n\nWritten by `cargo xtask compare`.\n\n");
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            for (ending, content) in [("json", json + "\n"), ("md", heading + &text)] {
                let path = folder.join(format!("compare-{device}.{ending}"));
                fs::write(&path, content)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        let mut wrong = self.failed;
        wrong.extend(table::misses(&self.rows, options.require_ratio, options.require_share));
        if self.rows.is_empty() && wrong.is_empty() {
            return Err("nothing could be compared".into());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}
