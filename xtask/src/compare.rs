//! `cargo xtask compare`: ours and its peers in turn, by benches/compare, with a Python that has the
//! peers.

use crate::tool::{self, cargo, heading};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HELP: &str = "\
usage: cargo xtask compare [--cpu | --cuda] [--python PYTHON] [options of benches/compare]

Times loss and gradients of metric-kernels and of what users run today, in turn, after comparing
their values; prints one table and writes it to benches/results/compare-<device>.json and .md.

  --cpu       on the CPU engine (the default); --cuda: on the first CUDA device
  --python    a Python that has torch, and those of the peers that are wanted. Without it one is
              made in target/peers with pip: torch's wheels for Linux bring CUDA's libraries, in all
              about 3 GB to fetch and 6 GB on disk

Options of benches/compare, such as --n 2048,4096 --d 128 --peers eager --losses in-batch --dtype
bf16 --seconds 20 --threads 2 --require-ratio 1.4 --require-share 0.1, are handed on; its own --help:
cargo bench --bench compare -- --help
";

/// The peers. torch's own dependencies come with it: its CPU code links CUDA's libraries too.
const PEERS: [&str; 3] = ["torch==2.15.0", "numpy", "pytorch-metric-learning==2.9.0"];

/// Peers of which one file or one function is used: nothing that they ask for is needed for that.
const ALONE: [&str; 3] = ["open_clip_torch==3.3.0", "inf-cl==1.2.1", "cut-cross-entropy==25.1.1"];

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
struct Asked {
    device: &'static str,
    python: Option<PathBuf>,
    handed_on: Vec<String>,
}

fn parse(arguments: &[&str]) -> Result<Asked, String> {
    let mut asked = Asked { device: "cpu", python: None, handed_on: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(&argument) = arguments.next() {
        match argument {
            "--cpu" => asked.device = "cpu",
            "--cuda" => asked.device = "cuda",
            "--python" => {
                let python = arguments.next().ok_or("--python needs a path")?;
                asked.python = Some(PathBuf::from(python));
            }
            other => asked.handed_on.push(other.to_string()),
        }
    }
    Ok(asked)
}

/// The command.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    if arguments.iter().any(|argument| ["-h", "--help", "help"].contains(argument)) {
        print!("{HELP}");
        return Ok(());
    }
    let asked = parse(arguments)?;
    let python = match asked.python {
        Some(python) => python,
        None => environment(&tool::target()?.join("peers"))?,
    };
    let results = tool::root().join("benches/results");
    let mut bench = cargo();
    bench.args(["bench", "--bench", "compare", "--", "--device", asked.device]);
    bench.arg("--python").arg(python).arg("--out").arg(results);
    bench.args(["--commit", &commit()]).args(&asked.handed_on);
    if asked.device == "cuda" {
        bench.env("METRIC_KERNELS_EXPECT_CUDA", "1");
    }
    tool::must(&mut bench)
}

/// The commit of the checkout, with a mark where it has changes.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let asked = Command::new("git").current_dir(tool::root()).args(arguments).output().ok()?;
        asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).trim().to_string())
    };
    match git(&["rev-parse", "--short=10", "HEAD"]) {
        None => "unknown".into(),
        Some(head) => match git(&["status", "--porcelain", "--", ".", ":!benches/results"]) {
            Some(changes) if changes.is_empty() => head,
            _ => head + " with changes",
        },
    }
}

/// A virtual environment with the peers: its Python.
fn environment(folder: &Path) -> Result<PathBuf, String> {
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let wanted = format!("{}\n{}\n", PEERS.join(" "), ALONE.join(" "));
    let record = folder.join("installed");
    if python.exists() && fs::read_to_string(&record).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    heading("peers");
    eprintln!("installing {} and {} into {}", PEERS.join(", "), ALONE.join(", "), folder.display());
    let elsewhere = |error: String| {
        format!(
            "{error}\nWith a Python that has torch at hand, name it instead: cargo xtask compare \
             --python PYTHON"
        )
    };
    let mut made = Command::new("python3");
    made.args(["-m", "venv"]).arg(folder).stdin(Stdio::null());
    tool::must(&mut made).map_err(elsewhere)?;
    let pip = |packages: &[&str], options: &[&str]| {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(options).args(packages).stdin(Stdio::null());
        tool::must(&mut pip)
    };
    pip(&PEERS, &[]).map_err(elsewhere)?;
    // These may be missing: compare says which.
    for package in ALONE {
        if let Err(error) = pip(&[package], &["--no-deps"]) {
            eprintln!("left out: {error}");
        }
    }
    let mut tried = Command::new(&python);
    tried.args(["-c", "import torch"]).stdin(Stdio::null());
    tool::must(&mut tried).map_err(elsewhere)?;
    fs::write(&record, wanted).map_err(|error| format!("{}: {error}", record.display()))?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_or_handed_on() {
        let asked = parse(&["--cuda", "--n", "64", "--python", "/p", "--require-ratio", "1.4"]);
        let expected = Asked {
            device: "cuda",
            python: Some("/p".into()),
            handed_on: ["--n", "64", "--require-ratio", "1.4"].map(String::from).to_vec(),
        };
        assert_eq!(asked, Ok(expected));
        assert_eq!(parse(&[]).map(|asked| asked.device), Ok("cpu"));
        assert!(parse(&["--python"]).is_err());
    }
}
