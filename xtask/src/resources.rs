//! `cargo xtask resources`: what NVIDIA's assembler says of every kernel, as a golden file.
//!
//! Registers and shared memory decide how many blocks share a multiprocessor, and a spilled
//! register is memory traffic in an inner loop: neither may change unnoticed, the second may not
//! occur. And a kernel of the tensor-core engine has to be one in its machine code: matrix
//! instructions, and asynchronous copies of 16 bytes. NVRTC and ptxas are of one pinned version, whatever the machine's own are, so that the
//! figures are the same everywhere.

use crate::kernels::{self, Program};
use crate::setup;
use crate::tool;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The golden file.
const FILE: &str = "kernels/resources.txt";

/// The architectures looked at, shipped or run by the code of another. Programs for others alone are looked at for theirs.
const ARCHITECTURES: [&[&str]; 2] = [&["80", "86", "89"], &["90a"]];

/// One kernel on one architecture.
#[derive(Debug, PartialEq)]
struct Row {
    program: String,
    kernel: String,
    arch: String,
    /// Per thread. A function that is called and not a kernel has none of its own.
    registers: Option<u64>,
    /// Static shared memory, in bytes; dynamic shared memory is the launch's.
    shared: u64,
    /// Local memory, in bytes per thread.
    stack: u64,
    spill_stores: u64,
    spill_loads: u64,
    /// Instructions in the machine code: in all, on matrices, copies of 16 bytes to shared memory.
    code: Code,
}

/// What a kernel's machine code holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Code {
    instructions: u64,
    matrix: u64,
    copies: u64,
}

/// The part of a kernel's name that says it is one of the tensor-core engine.
const TENSOR: &str = "_sm80_";

/// The command.
pub fn run(check: bool) -> Result<(), String> {
    let root = tool::root();
    let tools = setup::pinned()?;
    let folder = tool::target()?.join("resources");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;

    let programs = kernels::read(&root.join("kernels"))?;
    let mut jobs = Vec::new();
    for program in &programs {
        // The code of one architecture runs on later ones of its generation: it is compiled once,
        // and assembled for each.
        let groups: Vec<Vec<&str>> = match program.restricted {
            true => program.archs.iter().map(|arch| vec![arch.as_str()]).collect(),
            false => ARCHITECTURES.map(<[&str]>::to_vec).to_vec(),
        };
        jobs.extend(groups.into_iter().map(|archs| (program, archs)));
    }
    let mut rows = Vec::new();
    let results = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((program, archs)) = jobs.get(index) else { break };
                    let rows = assemble(&tools, program, archs, &folder);
                    results.lock().expect("no thread panics with it").push((index, rows));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panics with it");
    results.sort_by_key(|(index, _)| *index);
    for (_, result) in results {
        rows.extend(result?);
    }
    rows.sort_by(|a, b| (&a.program, &a.kernel).cmp(&(&b.program, &b.kernel)));

    let text = table(&rows);
    let path = root.join(FILE);
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let same = golden.lines().eq(text.lines());
    let spills: Vec<String> = rows
        .iter()
        .filter(|row| row.stack + row.spill_stores + row.spill_loads > 0)
        .map(|row| format!("{} for sm_{} uses local memory", row.kernel, row.arch))
        .collect();
    let plain: Vec<String> = rows
        .iter()
        .filter(|row| row.kernel.contains(TENSOR))
        .filter(|row| row.code.matrix == 0 || row.code.copies == 0)
        .map(|row| format!("{} for sm_{}: {:?}", row.kernel, row.arch, row.code))
        .collect();
    for line in spills.iter().chain(&plain) {
        eprintln!("{line}");
    }
    if !check {
        if !same {
            fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        println!("{FILE}: {} rows, {}", rows.len(), if same { "unchanged" } else { "written" });
        return Ok(());
    }
    if !same {
        differences(&golden, &text);
        return Err(format!("{FILE} differs; `cargo xtask resources` writes it anew"));
    }
    if !spills.is_empty() {
        return Err("kernels use local memory".into());
    }
    if !plain.is_empty() {
        return Err("kernels of the tensor-core engine lack its instructions".into());
    }
    println!("{FILE}: {} rows, as they are, and no local memory", rows.len());
    Ok(())
}

/// Compiles a program for the first of these architectures and asks ptxas what its kernels take on
/// each.
fn assemble(
    tools: &setup::Tools,
    program: &Program,
    archs: &[&str],
    folder: &Path,
) -> Result<Vec<Row>, String> {
    let first = archs.first().ok_or("no architecture")?;
    let architecture = format!("compute_{first}");
    let compiled =
        tools.nvrtc.compile(&program.file(), &program.source, &program.headers, &architecture)?;
    let ptx = folder.join(format!("{}-{first}.ptx", program.name));
    let ptx_text = compiled.ptx.strip_suffix(b"\0").unwrap_or(&compiled.ptx);
    fs::write(&ptx, ptx_text).map_err(|e| format!("{}: {e}", ptx.display()))?;
    let mut all = Vec::new();
    for arch in archs {
        let cubin = folder.join(format!("{}-{arch}.cubin", program.name));
        let mut command = Command::new(&tools.ptxas);
        command.arg(format!("-arch=sm_{arch}")).args(["-v", "-o"]).arg(&cubin).arg(&ptx);
        let mut rows = rows(&said(&mut command)?, &program.name, arch);
        let mut command = Command::new(&tools.nvdisasm);
        command.arg("-c").arg(&cubin);
        count(&said(&mut command)?, &mut rows);
        all.extend(rows);
    }
    Ok(all)
}

/// What a command says, on either stream.
fn said(command: &mut Command) -> Result<String, String> {
    let asked = command.stdin(Stdio::null()).output();
    let asked = asked.map_err(|e| format!("{}: {e}", tool::shown(command)))?;
    let said = [asked.stdout, asked.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    match asked.status.success() {
        true => Ok(said),
        false => Err(format!("{}:\n{said}", tool::shown(command))),
    }
}

/// Counts the instructions of every kernel in what nvdisasm says.
fn count(disassembly: &str, rows: &mut [Row]) {
    let mut current: Option<usize> = None;
    for line in disassembly.lines() {
        if let Some((_, name)) = line.split_once(".section\t.text.") {
            let name = name.split([',', '\t', ' ']).next().unwrap_or_default();
            current = rows.iter().position(|row| row.kernel == name);
            continue;
        }
        let Some(row) = current.and_then(|index| rows.get_mut(index)) else { continue };
        // An instruction stands behind its address in a comment: `/*0a30*/  LDGSTS.E.128 …`.
        let Some((address, rest)) =
            line.trim_start().strip_prefix("/*").and_then(|l| l.split_once("*/"))
        else {
            continue;
        };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit()) {
            continue;
        }
        let mut words = rest.split_whitespace().skip_while(|w| w.starts_with(['@', '{']));
        let Some(name) = words.next() else { continue };
        let code = &mut row.code;
        code.instructions += 1;
        code.matrix += u64::from(name.starts_with("HMMA") || name.starts_with("HGMMA"));
        code.copies += u64::from(name.starts_with("LDGSTS") && name.contains(".128"));
    }
}

/// The rows in what `ptxas -v` says.
fn rows(said: &str, program: &str, arch: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in said.lines() {
        if let Some((_, function)) = line.split_once("Function properties for ") {
            rows.push(Row {
                program: program.to_string(),
                kernel: function.trim().to_string(),
                arch: arch.to_string(),
                registers: None,
                shared: 0,
                stack: 0,
                spill_stores: 0,
                spill_loads: 0,
                code: Code::default(),
            });
            continue;
        }
        // Every figure follows the line that names its function.
        let Some(row) = rows.last_mut() else { continue };
        for part in line.rsplit_once(" : ").map_or(line, |(_, said)| said).split(',') {
            let words: Vec<&str> = part.split_whitespace().collect();
            match words[..] {
                [bytes, "bytes", "stack", "frame"] => row.stack = number(bytes),
                [bytes, "bytes", "spill", "stores"] => row.spill_stores = number(bytes),
                [bytes, "bytes", "spill", "loads"] => row.spill_loads = number(bytes),
                ["Used", count, "registers"] => row.registers = Some(number(count)),
                [bytes, "bytes", "smem"] => row.shared = number(bytes),
                _ => {}
            }
        }
    }
    rows
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The golden file's text.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "# What every kernel takes, as ptxas 13.0 says: registers per thread, static shared\n\
         # memory per block, and per thread local memory and spills in bytes, which must be 0.\n\
         # And what its machine code holds: instructions, those on matrices, copies of 16 bytes to\n\
         # shared memory.\n\
         # Written by `cargo xtask resources`, compared by `cargo xtask resources --check`.\n\n",
    );
    let width = |pick: fn(&Row) -> &String, title: &str| {
        rows.iter().map(|row| pick(row).len()).chain([title.len()]).max().unwrap_or(0)
    };
    let program = width(|row| &row.program, "program");
    let kernel = width(|row| &row.kernel, "kernel");
    let mut line = |columns: [&str; 11]| {
        let [a, b, c, d, e, f, g, h, i, j, k] = columns;
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{a:program$}  {b:kernel$}  {c:>6}  {d:>9}  {e:>6}  {f:>5}  {g:>12}  {h:>11}  {i:>5}  \
             {j:>6}  {k:>6}"
        );
    };
    line([
        "program",
        "kernel",
        "arch",
        "registers",
        "shared",
        "local",
        "spill stores",
        "spill loads",
        "code",
        "matrix",
        "copies",
    ]);
    for row in rows {
        let registers = row.registers.map_or("-".to_string(), |count| count.to_string());
        let [shared, stack, stores, loads] =
            [row.shared, row.stack, row.spill_stores, row.spill_loads].map(|n| n.to_string());
        let Code { instructions, matrix, copies } = row.code;
        let [code, matrix, copies] = [instructions, matrix, copies].map(|n| n.to_string());
        let arch = format!("sm_{}", row.arch);
        line([
            &row.program,
            &row.kernel,
            &arch,
            &registers,
            &shared,
            &stack,
            &stores,
            &loads,
            &code,
            &matrix,
            &copies,
        ]);
    }
    text
}

/// Shows the lines of one text that the other does not have.
fn differences(golden: &str, found: &str) {
    for line in golden.lines().filter(|line| !found.lines().any(|other| other == *line)) {
        eprintln!("- {line}");
    }
    for line in found.lines().filter(|line| !golden.lines().any(|other| other == *line)) {
        eprintln!("+ {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ptxas_says() {
        let said = "\
ptxas info    : 0 bytes gmem, 8 bytes cmem[4]
ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem, 380 bytes cmem[0]
ptxas info    : Compile time = 12.3 ms
ptxas info    : Function properties for called
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";
        let row =
            |kernel: &str, registers, [shared, stack, spill_stores, spill_loads]: [u64; 4]| Row {
                program: "file".into(),
                kernel: kernel.into(),
                arch: "80".into(),
                registers,
                shared,
                stack,
                spill_stores,
                spill_loads,
                code: Code::default(),
            };
        let expected = [row("one", Some(255), [4096, 16, 12, 8]), row("called", None, [0; 4])];
        assert_eq!(rows(said, "file", "80"), expected);

        let disassembly = "\
\t.section\t.text.one,\"ax\",@progbits
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128.ZFILL [R19], desc[UR18][R10.64], P2 ;
.L_x_1:
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /* a comment */
\t.section\t.text.called,\"ax\",@progbits
        /*0000*/                   RET.REL.NODEC R2 `(one) ;
";
        let mut rows = expected;
        count(disassembly, &mut rows);
        assert_eq!(rows[0].code, Code { instructions: 3, matrix: 1, copies: 1 });
        assert_eq!(rows[1].code, Code { instructions: 1, matrix: 0, copies: 0 });
    }
}
