//! `cargo xtask …`: everything about this project that a person would otherwise script.
//!
//! Plain std and one small dependency, because this is the first thing a newcomer's machine
//! compiles.

mod bundle;
mod ci;
mod compare;
mod probe;
mod report;
mod resources;
mod setup;
mod test;
mod tool;

// The build script's own modules: both mean the same thing by "NVRTC is there" and by "a kernel".
#[path = "../../build/find.rs"]
mod find;
#[path = "../../build/kernels.rs"]
mod kernels;
#[path = "../../build/nvrtc.rs"]
#[allow(dead_code)] // build.rs uses more of it
mod nvrtc;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask <command>

  setup [--tools]      finds NVRTC, or installs it into .cuda with pip; --tools adds ptxas
  test [--emulator]    builds, and runs every test on every engine: the CUDA tests on the driver of
                       this machine or, where there is none or with --emulator, on the emulated one
  test --orders        every case of the table on the emulator, in four more orders of execution; for
                       changes of kernels
  resources [--check]  registers, shared memory and spills of every kernel, into
                       kernels/resources.txt; --check compares, and fails on a spill
  report [--check]     what the kernels cost, counted on the emulator, into benches/results;
                       --check compares, and fails where a figure became worse
  compare [--cpu]      ours against PyTorch and others, in turn, into benches/results
  bundle [FOLDER]      tests and benchmarks in one folder, for a machine with only an NVIDIA driver
  ci                   what .ci/run does besides the tests: formatting, lints, documentation,
                       package, resources, report, the example

report, compare and bundle explain themselves with --help.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["setup"] => setup::run(false),
        ["setup", "--tools"] => setup::run(true),
        ["test"] => test::run(false),
        ["test", "--emulator"] => test::run(true),
        ["test", "--orders"] => test::orders(),
        ["resources"] => resources::run(false),
        ["resources", "--check"] => resources::run(true),
        ["report", ref rest @ ..] => report::run(rest),
        ["compare", ref rest @ ..] => compare::run(rest),
        ["bundle", ref rest @ ..] => bundle::run(rest),
        ["ci"] => ci::run(),
        [probe::COMMAND] => probe::run(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown: {}\n\n{HELP}", arguments.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // An empty message: everything has been said already.
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::FAILURE
        }
    }
}
