//! `cargo xtask ci`: what .ci/run does after the tests.

use crate::report;
use crate::resources;
use crate::tool::{self, cargo, heading};
use std::process::Command;
use std::time::Instant;

/// The command: every step, also after one that fails.
pub fn run() -> Result<(), String> {
    let mut steps = Steps::default();
    steps.cargo("formatting", cargo().args(["fmt", "--all", "--check"]));
    // The lints and the documentation are the same with and without compiled kernels, and so is
    // checked on the way that the crate builds where there is no NVRTC.
    steps.cargo(
        "lints",
        cargo()
            .args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
            .env("METRIC_KERNELS_SKIP_NVRTC", "1"),
    );
    steps.cargo(
        "documentation",
        cargo()
            .args(["doc", "--workspace", "--no-deps"])
            .env("METRIC_KERNELS_SKIP_NVRTC", "1")
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
    // Dirty is what a checkout is while one works; on a clean clone there is nothing to allow.
    // In a target folder of its own: the packaged copy of this crate has the same name to cargo, and
    // in the shared one the checkout's next build would take the copy's files for its own.
    // The packaged kernels are read, so that none can be missing, and not compiled once more.
    steps.cargo(
        "package",
        cargo()
            .args(["package", "--package", "metric-kernels", "--allow-dirty", "--target-dir"])
            .arg(tool::target()?.join("packaged"))
            .env("METRIC_KERNELS_SKIP_NVRTC", "1"),
    );
    steps.step("resources", || resources::run(true));
    steps.step("what the kernels cost", || report::run(&["--check"]));
    let mut train = cargo();
    train.args(["run", "--release", "--example", "train", "--", "--epochs", "1", "--seeds", "1"]);
    train.arg("--picture").arg(tool::target()?.join("train.svg"));
    steps.cargo("the example, one epoch", &mut train);
    steps.close()
}

/// The steps done, with the time each took and what went wrong.
#[derive(Default)]
struct Steps {
    done: Vec<(String, f64, Result<(), String>)>,
}

impl Steps {
    fn cargo(&mut self, name: &str, command: &mut Command) {
        self.step(&format!("{name}: {}", tool::shown(command)), || tool::must(command));
    }

    fn step(&mut self, name: &str, run: impl FnOnce() -> Result<(), String>) {
        heading(name);
        let start = Instant::now();
        let result = run();
        if let Err(error) = &result {
            eprintln!("error: {error}");
        }
        self.done.push((name.to_string(), start.elapsed().as_secs_f64(), result));
    }

    fn close(self) -> Result<(), String> {
        println!();
        for (name, seconds, result) in &self.done {
            let outcome = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{outcome:>6}  {seconds:6.1} s  {name}");
        }
        let failed = self.done.iter().filter(|(_, _, result)| result.is_err()).count();
        if failed > 0 {
            Err(format!("{failed} of {} steps failed", self.done.len()))
        } else {
            Ok(())
        }
    }
}
