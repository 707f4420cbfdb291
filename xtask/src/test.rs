//! `cargo xtask test`: every test of the workspace, on every engine that this machine can offer.
//!
//! The tests of the CUDA engine are the files `tests/cuda_*.rs`; they run on the machine's driver
//! or on the emulated one, there once for each compute capability whose code differs. Everything
//! else does not depend on a driver and runs once.
//!
//! In release: the numerics compare whole losses with a float64 oracle and the emulator interprets
//! every thread of a kernel, work that takes twenty times as long without optimisation.

use crate::probe;
use crate::setup;
use crate::tool::{self, cargo, heading};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the names of the CUDA tests begin with.
const CUDA: &str = "cuda_";

/// A run on the emulator: the compute capability that it is asked to have, the tile engine, the order
/// of warps and streams, and when asynchronous work lands.
struct Emulated {
    capability: &'static str,
    tiles: &'static str,
    seed: &'static str,
    landing: &'static str,
}

const fn emulated(
    capability: &'static str,
    tiles: &'static str,
    seed: &'static str,
    landing: &'static str,
) -> Emulated {
    Emulated { capability, tiles, seed, landing }
}

/// The runs of all CUDA tests: an interpreter of kernels takes minutes for either.
const EMULATED: [Emulated; 2] =
    [emulated("8.0", "sm80", "1", "late"), emulated("9.0", "simt", "2", "early")];

/// More orders, in which the table of cases is run where that is asked for.
const ORDERS: [Emulated; 4] = [
    emulated("8.0", "sm80", "3", "early"),
    emulated("9.0", "simt", "4", "late"),
    emulated("8.0", "sm80", "5", "late"),
    emulated("9.0", "simt", "6", "early"),
];

/// The command.
pub fn run(emulator: bool) -> Result<(), String> {
    let mut report = Report::default();
    heading("NVRTC");
    match setup::nvrtc() {
        Ok(nvrtc) => {
            eprintln!("version {}.{}: {}", nvrtc.version.0, nvrtc.version.1, nvrtc.path.display());
        }
        // The CPU engine can still be tested; the failure is counted.
        Err(error) => report.failure("NVRTC", &error),
    }

    heading("build");
    let mut build = cargo();
    build.args(["build", "--release", "--workspace"]);
    let mut build_tests = cargo();
    build_tests.args(["test", "--release", "--workspace", "--no-run"]);
    match tool::must(&mut build).and_then(|()| tool::must(&mut build_tests)) {
        Ok(()) => {
            everything_else(&mut report);
            cuda(&mut report, emulator);
        }
        Err(error) => report.failure("build", &error),
    }
    report.close()
}

/// Every case of the table on the emulator, in orders of execution that the tests leave out.
pub fn orders() -> Result<(), String> {
    setup::nvrtc()?;
    tool::must(cargo().args(["build", "--release", "--workspace"]))?;
    let mut report = Report::default();
    on_emulator(&mut report, &ORDERS, &|| cuda_tests("cuda_table"));
    report.close()
}

/// The tests that no driver is needed for.
fn everything_else(report: &mut Report) {
    let mut tests = cargo();
    tests.args(["test", "--release", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    for name in test_files().iter().filter(|name| !name.starts_with(CUDA)) {
        tests.args(["--test", name]);
    }
    report.stage("cpu, and all that needs no engine", &mut tests);

    let mut documentation = cargo();
    documentation.args(["test", "--release", "--workspace", "--no-fail-fast", "--doc"]);
    report.stage("examples in the documentation", &mut documentation);
}

/// The tests of the CUDA engine, on the machine's driver or on the emulated one.
fn cuda(report: &mut Report, emulator: bool) {
    let tests = || cuda_tests(&format!("{CUDA}*"));
    if !test_files().iter().any(|name| name.starts_with(CUDA)) {
        report.failure(
            "cuda",
            &format!("there are no tests/{CUDA}*.rs: the CUDA engine is not tested"),
        );
        return;
    }
    if !emulator {
        match probe::device([]) {
            Ok((name, capability)) => {
                let engine = format!("cuda on {name}, compute capability {capability}");
                return report.stage(&engine, &mut tests());
            }
            Err(reason) => {
                eprintln!("\nno CUDA device ({reason}): the CUDA tests run on the emulator")
            }
        }
    }
    on_emulator(report, &EMULATED, &tests);
}

/// `cargo test` of these CUDA tests.
fn cuda_tests(names: &str) -> Command {
    let mut tests = cargo();
    tests.args(["test", "--release", "--workspace", "--no-fail-fast", "--test", names]);
    // There is a driver: a test that skips itself nevertheless has failed.
    tests.env("METRIC_KERNELS_EXPECT_CUDA", "1");
    tests
}

fn on_emulator(report: &mut Report, runs: &[Emulated], tests: &dyn Fn() -> Command) {
    let folder = match install_emulator() {
        Ok(folder) => folder,
        Err(error) => return report.failure("cuda on the emulator", &error),
    };
    let variable = if cfg!(windows) { "PATH" } else { "LD_LIBRARY_PATH" };
    let inherited = std::env::var_os(variable).unwrap_or_default();
    let folders = std::iter::once(folder).chain(std::env::split_paths(&inherited));
    let path = match std::env::join_paths(folders.filter(|folder| !folder.as_os_str().is_empty())) {
        Ok(path) => path,
        Err(error) => return report.failure("cuda on the emulator", &error.to_string()),
    };
    for run in runs {
        let Emulated { capability, tiles, seed, landing } = *run;
        let engine = format!(
            "cuda on the emulator, compute capability {capability}, tile engine {tiles}, seed {seed}, \
             {landing} landing"
        );
        let variables = [
            (variable, path.as_os_str()),
            ("CUDA_EMULATOR_CC", OsStr::new(capability)),
            ("CUDA_EMULATOR_SEED", OsStr::new(seed)),
            ("CUDA_EMULATOR_ASYNC", OsStr::new(landing)),
            ("METRIC_KERNELS_TILE_ENGINE", OsStr::new(tiles)),
        ];
        match probe::device(variables) {
            Ok((_, found)) if found == capability => {
                report.stage(&engine, tests().envs(variables));
            }
            Ok((name, found)) => {
                let error = format!("the driver found is {name} with compute capability {found}");
                report.failure(&engine, &error);
            }
            Err(reason) => {
                report.failure(&engine, &format!("the emulator does not work: {reason}"))
            }
        }
    }
}

/// Puts the emulator where a loader finds it under the driver's names; the folder.
pub fn install_emulator() -> Result<PathBuf, String> {
    let target = tool::target()?;
    let (built, names): (&str, &[&str]) = if cfg!(windows) {
        ("cuda_emulator.dll", &[probe::DRIVER])
    } else {
        ("libcuda_emulator.so", &[probe::DRIVER, "libcuda.so"])
    };
    let built = target.join("release").join(built);
    let folder = target.join("emulator");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for name in names {
        // Under another name first: overwriting a library pulls it from under who has it loaded.
        let partial = folder.join(format!("{name}.partial"));
        let copied =
            fs::copy(&built, &partial).and_then(|_| fs::rename(&partial, folder.join(name)));
        copied.map_err(|e| format!("the emulator's library {}: {e}", built.display()))?;
    }
    Ok(folder)
}

/// The names of the workspace's integration tests.
fn test_files() -> Vec<String> {
    let root = tool::root();
    let mut names = Vec::new();
    for package in ["", "emulator", "xtask"] {
        let entries = fs::read_dir(root.join(package).join("tests"));
        for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let is_test = path.extension() == Some("rs".as_ref()) || path.join("main.rs").is_file();
            names.extend(
                path.file_stem().filter(|_| is_test).map(|s| s.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    names.dedup();
    names
}

/// What the stages came to.
#[derive(Default)]
struct Report {
    stages: Vec<(String, Tally, u64)>,
}

impl Report {
    /// Runs `cargo test …`, shows its output as it comes, and counts.
    fn stage(&mut self, engine: &str, command: &mut Command) {
        heading(&format!("{engine}: {}", tool::shown(command)));
        let start = Instant::now();
        let mut tally = Tally::default();
        // The output of tests that pass is where they say that they skipped something.
        command.args(["--", "--show-output"]).stdout(Stdio::piped());
        match command.spawn() {
            Ok(mut child) => {
                let output = child.stdout.take().expect("asked for a pipe");
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line);
                    if tally.read(&line) {
                        println!("{line}");
                    }
                }
                let succeeded = child.wait().is_ok_and(|status| status.success());
                tally.end(succeeded);
            }
            Err(error) => tally.failures.push(error.to_string()),
        }
        self.stages.push((engine.to_string(), tally, start.elapsed().as_secs()));
    }

    /// A stage that could not be run.
    fn failure(&mut self, engine: &str, message: &str) {
        let bar = "!".repeat(100);
        eprintln!("\n{bar}\n{engine} FAILED: {message}\n{bar}");
        let failures = vec![message.to_string()];
        self.stages.push((engine.to_string(), Tally { failures, ..Tally::default() }, 0));
    }

    /// The summary; an error if anything failed.
    fn close(self) -> Result<(), String> {
        println!("\nEngines");
        for (engine, tally, seconds) in &self.stages {
            println!("  {engine}: {tally}, {seconds} s");
        }
        let of =
            |pick: fn(&Tally) -> usize| self.stages.iter().map(|(_, t, _)| pick(t)).sum::<usize>();
        if of(Tally::skipped) > 0 {
            println!("\nSkipped");
        }
        for (engine, tally, _) in &self.stages {
            for (reason, tests) in &tally.skipped_tests {
                println!("  {engine}: {reason}: {}", tests.join(", "));
            }
        }
        if of(Tally::failed) > 0 {
            println!("\nFailed");
        }
        for (engine, tally, _) in &self.stages {
            for test in tally.failures.iter().chain(&tally.failed_tests) {
                println!("  {engine}: {test}");
            }
        }
        let total = (of(Tally::passed), of(Tally::failed), of(Tally::skipped));
        println!("\n{} passed, {} failed, {} skipped", total.0, total.1, total.2);
        if total.1 > 0 { Err(String::new()) } else { Ok(()) }
    }
}

/// The count of one `cargo test`, from what it prints.
#[derive(Default)]
struct Tally {
    /// The harness's own counts. Tests that skipped themselves are among the passed ones.
    counted: Counts,
    /// The names of failed tests, where they are known.
    failed_tests: Vec<String>,
    /// What failed besides tests: builds, executables that ended early.
    failures: Vec<String>,
    /// By reason: tests marked as ignored, and tests that printed `SKIPPED: <reason>`.
    skipped_tests: BTreeMap<String, Vec<String>>,
    /// How many of the passed tests have skipped themselves.
    skipped_themselves: usize,
    /// Test executables that have begun and not ended.
    open: usize,
    place: Place,
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

/// Where in the output of a test executable a line stands.
#[derive(Default, PartialEq)]
enum Place {
    #[default]
    Outside,
    /// Among the outputs of passed tests: of this one, and whether it has said that it skips.
    Passed { test: String, skips: bool },
    /// Among the outputs of failed tests.
    Failed,
}

impl Tally {
    /// Takes a line of the output; whether it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        if let Some(rest) = line.strip_prefix("test result: ") {
            for part in rest.split(['.', ';']) {
                let words: Vec<&str> = part.split_whitespace().collect();
                let [count, kind] = words[..] else { continue };
                let count: usize = count.parse().unwrap_or(0);
                match kind {
                    "passed" => self.counted.passed += count,
                    "failed" => self.counted.failed += count,
                    "ignored" => self.counted.ignored += count,
                    _ => {}
                }
            }
            self.open = self.open.saturating_sub(1);
            self.place = Place::Outside;
            return true;
        }
        match line {
            "successes:" => {
                self.place = Place::Passed { test: String::new(), skips: false };
                return false;
            }
            "failures:" => {
                self.place = Place::Failed;
                return true;
            }
            _ => {}
        }
        match &mut self.place {
            Place::Passed { test, skips } => {
                if let Some(name) =
                    line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----"))
                {
                    (*test, *skips) = (name.to_string(), false);
                } else if let Some(reason) = line.trim().strip_prefix("SKIPPED:") {
                    let test = test.clone();
                    // A test may name several things that it skips, and is one test all the same.
                    self.skipped_themselves += usize::from(!std::mem::replace(skips, true));
                    self.skip(reason, test);
                }
                false
            }
            Place::Failed => true,
            Place::Outside => {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["running", _, "test" | "tests"] = words[..] {
                    self.open += 1;
                } else if let Some((test, outcome)) =
                    line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
                {
                    if outcome == "FAILED" {
                        self.failed_tests.push(test.to_string());
                    } else if let Some(reason) = outcome.strip_prefix("ignored") {
                        let reason = reason.trim_start_matches(", ");
                        self.skip(
                            if reason.is_empty() { "ignored" } else { reason },
                            test.to_string(),
                        );
                    }
                }
                true
            }
        }
    }

    fn skip(&mut self, reason: &str, test: String) {
        let tests = self.skipped_tests.entry(reason.trim().to_string()).or_default();
        if !tests.contains(&test) {
            tests.push(test);
        }
    }

    /// Takes the end: a failure that no test has owned up to is counted as one.
    fn end(&mut self, succeeded: bool) {
        if self.open > 0 {
            let text = format!("{} test executable(s) ended before their last test", self.open);
            self.failures.push(text);
        } else if !succeeded && self.counted.failed == 0 {
            self.failures.push("cargo test failed, and no test did".into());
        }
    }

    fn skipped(&self) -> usize {
        self.counted.ignored + self.skipped_themselves
    }

    fn passed(&self) -> usize {
        self.counted.passed.saturating_sub(self.skipped_themselves)
    }

    fn failed(&self) -> usize {
        self.counted.failed + self.failures.len()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} passed, ", self.passed())?;
        write!(f, "{} failed, {} skipped", self.failed(), self.skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two test executables print, one of them with everything that is counted apart.
    const OUTPUT: &str = "
running 4 tests
test a::passes ... ok
test a::skips ... ok
test a::fails ... FAILED
test a::slow ... ignored, takes an hour

successes:

---- a::passes stdout ----
a line of its own
---- a::skips stdout ----
SKIPPED: no device
SKIPPED: no second device

successes:
    a::passes
    a::skips

failures:

---- a::fails stdout ----
running 7 tests

failures:
    a::fails

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s


running 1 test
test b ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn read(output: &str, succeeded: bool) -> (Tally, Vec<&str>) {
        let mut tally = Tally::default();
        let shown = output.lines().filter(|line| tally.read(line)).collect();
        tally.end(succeeded);
        (tally, shown)
    }

    #[test]
    fn counts_every_kind_of_outcome() {
        let (tally, shown) = read(OUTPUT, false);
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failed_tests, ["a::fails"]);
        assert_eq!(tally.skipped_tests["no device"], ["a::skips"]);
        assert_eq!(tally.skipped_tests["no second device"], ["a::skips"]);
        assert_eq!(tally.skipped_tests["takes an hour"], ["a::slow"]);
        assert!(shown.contains(&"---- a::fails stdout ----"), "a failure's output is shown");
        assert!(!shown.contains(&"a line of its own"), "a passed test's is not");
    }

    #[test]
    fn an_executable_that_dies_is_a_failure() {
        let (tally, _) = read("running 2 tests\ntest a ... ok\n", false);
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let (tally, _) = read("", false);
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 0 skipped");
    }
}
