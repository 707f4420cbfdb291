//! `cargo xtask report`: what the kernels cost, counted on the emulator by benches/report.

use crate::setup;
use crate::test;
use crate::tool::{self, cargo};

const HELP: &str = "\
usage: cargo xtask report [--check]

Runs a few small steps on the emulated driver and writes, for every kernel they launch, registers,
shared memory, occupancy, flop and bytes against their floors, instructions and bank conflicts to
benches/results/kernels.json and .md. --check compares with what is there, writes nothing, and fails
where a figure became worse. Registers come from kernels/resources.txt (cargo xtask resources).
";

/// The command.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let check = match arguments {
        [] => false,
        ["--check"] => true,
        ["-h" | "--help"] => {
            print!("{HELP}");
            return Ok(());
        }
        _ => return Err(format!("unknown: {}\n\n{HELP}", arguments.join(" "))),
    };
    setup::nvrtc()?;
    tool::must(cargo().args(["build", "--release", "--package", "cuda-emulator"]))?;
    let emulator = test::install_emulator()?;
    let root = tool::root();
    let mut bench = cargo();
    bench.args(["bench", "--bench", "report", "--", "--emulator"]).arg(emulator);
    bench.arg("--resources").arg(root.join("kernels/resources.txt"));
    bench.arg("--results").arg(root.join("benches/results"));
    if check {
        bench.arg("--check");
    }
    tool::must(&mut bench)
}
