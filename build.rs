//! Finds NVRTC, compiles every program of kernels/ to PTX and machine code, and writes the tables
//! by which the library embeds them.
//!
//! Written: `$OUT_DIR/images.rs`, which the library includes where `Image`, `ImageKind` and
//! `Source` are defined:
//! - `IMAGES: &[Image]`, the compiled programs; empty where there was no NVRTC;
//! - `SOURCES: &[Source]`, every program's text and headers, for compilation at load time;
//! - `OPTIONS: &[&str]`, the compiler's options besides the architecture, for the same purpose.
//!
//! Variables: `METRIC_KERNELS_NVRTC` names NVRTC (a library file, or a folder that holds it), and a
//! name that is wrong is an error; `METRIC_KERNELS_SKIP_NVRTC=1` skips the compilation, as a
//! documentation build on docs.rs does.
//!
//! `METRIC_KERNELS_ARCHS=80,90a` compiles for these alone: every architecture costs a minute of a core.
//!
//! Compiled images are kept in `$OUT_DIR` under a hash of everything they were made from: a changed
//! kernel file costs the compilation of the programs that include it, and no other. Cargo gives every
//! profile an `$OUT_DIR` of its own; what another one holds already is copied from there.

#[path = "build/find.rs"]
mod find;
#[path = "build/kernels.rs"]
mod kernels;
#[path = "build/nvrtc.rs"]
mod nvrtc;

use kernels::Program;
use nvrtc::Nvrtc;
use std::collections::HashSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The variable that makes the build do without NVRTC.
const SKIP: &str = "METRIC_KERNELS_SKIP_NVRTC";

/// Names the architectures to compile for, where those are not to be all.
const ARCHS: &str = "METRIC_KERNELS_ARCHS";

fn main() {
    let package =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // The folder and not its files: a new program must be noticed too.
    println!("cargo::rerun-if-changed=kernels");
    for variable in [SKIP, "DOCS_RS", ARCHS, find::VARIABLE].iter().chain(&find::TOOLKIT_VARIABLES)
    {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let programs = kernels::read(&package.join("kernels")).unwrap_or_else(|error| fail(&error));
    let set =
        |variable| env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0");
    let images = match set(SKIP) || set("DOCS_RS") {
        true => Vec::new(),
        false => match find::search(&package, Nvrtc::load) {
            Ok(nvrtc) => {
                if nvrtc.path.is_absolute() {
                    println!("cargo::rerun-if-changed={}", nvrtc.path.display());
                }
                compile(&nvrtc, &programs, &out.join("images"))
            }
            Err(refused) if set(find::VARIABLE) => fail(&refused.join("\n")),
            Err(refused) => {
                advise(&package, &refused);
                Vec::new()
            }
        },
    };
    let table = table(&programs, &images);
    fs::write(out.join("images.rs"), table)
        .unwrap_or_else(|error| fail(&format!("images.rs: {error}")));
}

/// Says that there is no NVRTC, what follows from it, and the commands that mend it.
fn advise(package: &Path, refused: &[String]) {
    for line in refused {
        println!("cargo::warning=NVRTC found but not usable: {line}");
    }
    // A Python environment activated later may hold it; where one was found, its file is watched
    // instead.
    println!("cargo::rerun-if-env-changed=VIRTUAL_ENV");
    println!("cargo::rerun-if-env-changed=CONDA_PREFIX");
    println!(
        "cargo::warning=no NVRTC on this machine: the CUDA kernels are not compiled now, but when \
         they are loaded, provided that NVRTC is found then. The CPU engine does not need it."
    );
    let wheel = format!(
        "`python3 -m pip install --target nvrtc 'nvidia-cuda-nvrtc==13.0.*'` and `export {}=$PWD/nvrtc`",
        find::VARIABLE
    );
    // Only a checkout has the workspace's commands; the published package has the other way alone.
    match package.join("xtask").is_dir() {
        true => println!("cargo::warning=To compile them now: `cargo xtask setup`; or {wheel}."),
        false => println!("cargo::warning=To compile them now: {wheel}."),
    }
    println!("cargo::warning=To build without this notice: `export {SKIP}=1`.");
}

/// The architectures that the user wants code for; all of them where that is empty.
fn chosen() -> Vec<String> {
    let given = env::var(ARCHS).unwrap_or_default();
    let names = given.split([',', ' ']).filter(|name| !name.is_empty());
    let known = |name: &str| kernels::ARCHITECTURES.contains(&name);
    names
        .map(|name| match known(name) {
            true => name.to_string(),
            false => fail(&format!(
                "{ARCHS}={given}: `{name}` is none of {}",
                kernels::ARCHITECTURES.join(", ")
            )),
        })
        .collect()
}

/// One compiled image, in a file under `$OUT_DIR/images`.
struct Image {
    program: String,
    kind: &'static str,
    arch: String,
    file: String,
}

/// Compiles every program for every architecture that this NVRTC knows, or takes the images from
/// earlier builds.
fn compile(nvrtc: &Nvrtc, programs: &[Program], folder: &Path) -> Vec<Image> {
    // NVRTC puts the current folder before every name in a line table: with this one,
    // "/kernels/simt.cu" is the same on every machine.
    env::set_current_dir("/").unwrap_or_else(|error| fail(&format!("/: {error}")));
    fs::create_dir_all(folder)
        .unwrap_or_else(|error| fail(&format!("{}: {error}", folder.display())));
    // Two releases of one version differ at least in the size of the library.
    let size = fs::metadata(&nvrtc.path).map_or(0, |metadata| metadata.len());
    let code = [include_str!("build.rs"), include_str!("build/nvrtc.rs")].concat();
    let identity = format!("{:?} {size} {code}", nvrtc.version);

    let chosen = chosen();
    let mut jobs = Vec::new();
    for program in programs {
        let archs = program.archs.iter().filter(|arch| nvrtc.supports(arch));
        let archs = archs.filter(|arch| chosen.is_empty() || chosen.contains(arch));
        jobs.extend(archs.map(|arch| {
            let stem = format!("{}-{arch}-{:032x}", program.name, hash(&identity, program, arch));
            Job { program, arch, stem }
        }));
    }

    let others = others(folder);

    // Every thread takes the next job; NVRTC compiles different programs concurrently.
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let allowed = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let threads =
        thread::available_parallelism().map_or(1, |n| n.get()).min(allowed).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            // The compiler recurses deeply, more than a thread's default stack of 2 MiB is sure to
            // hold.
            let worker = thread::Builder::new().stack_size(32 << 20);
            let spawned = worker.spawn_scoped(scope, || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    if let Err(log) = job.run(nvrtc, folder, &others) {
                        let mut failures = failures.lock().expect("no thread panics with it");
                        failures.push((index, log));
                    }
                }
            });
            spawned.unwrap_or_else(|error| fail(&format!("a thread for the compiler: {error}")));
        }
    });
    let mut failures = failures.into_inner().expect("no thread panics with it");
    if !failures.is_empty() {
        // Threads finish in any order; messages should not.
        failures.sort();
        let failures = failures.into_iter().map(|(index, log)| (&jobs[index], log));
        fail(&merge(failures).join("\n"));
    }

    let mut images = Vec::new();
    let mut kept = HashSet::new();
    let mut logs = Vec::new();
    for program in programs {
        let mut own = jobs.iter().filter(|job| job.program.name == program.name).peekable();
        if own.peek().is_none() {
            println!(
                "cargo::warning={} is not compiled: NVRTC {}.{} knows none of its architectures",
                program.file(),
                nvrtc.version.0,
                nvrtc.version.1
            );
        }
        for (place, job) in own.enumerate() {
            kept.extend(["ptx", "cubin", "log"].map(|kind| format!("{}.{kind}", job.stem)));
            let log = fs::read_to_string(folder.join(format!("{}.log", job.stem)));
            logs.extend(log.ok().filter(|log| !log.is_empty()).map(|log| (job, log)));
            // PTX of a plain architecture runs on every later one: the first will do. PTX of sm_90a
            // runs on sm_90 alone, so a program written for it brings its own.
            let ptx = place == 0 || (program.restricted && job.arch.ends_with('a'));
            for (kind, extension) in [("Cubin", "cubin"), ("Ptx", "ptx")] {
                if kind == "Cubin" || ptx {
                    images.push(Image {
                        program: program.name.clone(),
                        kind,
                        arch: job.arch.to_string(),
                        file: format!("{}.{extension}", job.stem),
                    });
                }
            }
        }
    }
    for line in merge(logs.into_iter()).iter().flat_map(|log| log.lines()) {
        println!("cargo::warning={line}");
    }
    // What older sources left behind; cargo never empties OUT_DIR.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    images
}

/// What NVRTC said of each program, once where it said the same for several architectures.
fn merge<'a>(logs: impl Iterator<Item = (&'a Job<'a>, String)>) -> Vec<String> {
    let mut merged: Vec<(&str, String, Vec<String>)> = Vec::new();
    for (job, log) in logs {
        let arch = format!("sm_{}", job.arch);
        match merged.iter_mut().find(|(name, text, _)| *name == job.program.name && *text == log) {
            Some((_, _, archs)) => archs.push(arch),
            None => merged.push((&job.program.name, log, vec![arch])),
        }
    }
    let said = |(name, log, archs): (&str, String, Vec<String>)| {
        format!("kernels/{name}.cu for {}:\n{log}", archs.join(", "))
    };
    merged.into_iter().map(said).collect()
}

/// One program for one architecture.
struct Job<'a> {
    program: &'a Program,
    arch: &'a str,
    /// The name of its files, without extension.
    stem: String,
}

impl Job<'_> {
    /// Brings the program's images into the folder. An error is NVRTC's log.
    fn run(&self, nvrtc: &Nvrtc, folder: &Path, others: &[PathBuf]) -> Result<(), String> {
        // The log is written last: where it is, the images are whole.
        let [ptx, cubin, log] = ["ptx", "cubin", "log"].map(|kind| format!("{}.{kind}", self.stem));
        if folder.join(&log).is_file() {
            return Ok(());
        }
        if let Some(other) = others.iter().find(|other| other.join(&log).is_file()) {
            let mut files = [&ptx, &cubin, &log].into_iter();
            if files.all(|file| fs::copy(other.join(file), folder.join(file)).is_ok()) {
                return Ok(());
            }
        }
        let Program { source, headers, .. } = self.program;
        let compiled =
            nvrtc.compile(&self.program.file(), source, headers, &format!("sm_{}", self.arch))?;
        for (file, bytes) in
            [(ptx, &compiled.ptx[..]), (cubin, &compiled.cubin), (log, compiled.log.as_bytes())]
        {
            fs::write(folder.join(&file), bytes).map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(())
    }
}

/// The image folders of this package's other builds in the same target folder, to be read only:
/// `<target>/<profile>/build/<package>-<hash>/out/images`. Where cargo lays them out otherwise, none.
fn others(own: &Path) -> Vec<PathBuf> {
    let Some(target) = own.ancestors().nth(5) else { return Vec::new() };
    let prefix = format!("{}-", env::var("CARGO_PKG_NAME").unwrap_or_default());
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    entries(target.to_path_buf())
        .flat_map(|profile| entries(profile.path().join("build")))
        .filter(|build| build.file_name().to_string_lossy().starts_with(&prefix))
        .map(|build| build.path().join("out").join("images"))
        .filter(|images| images != own && images.is_dir())
        .collect()
}

/// A hash of everything that an image is made from: 128 bits of FNV-1a, enough for a cache among
/// one's own files.
fn hash(identity: &str, program: &Program, arch: &str) -> u128 {
    let mut state: u128 = 0x6c62272e07bb014262b821756295c58d;
    let mut add = |text: &str| {
        // The length first, so that no two lists of texts run into each other.
        for byte in (text.len() as u64).to_le_bytes().iter().chain(text.as_bytes()) {
            state = (state ^ u128::from(*byte)).wrapping_mul(0x0000000001000000000000000000013b);
        }
    };
    [identity, &program.file(), arch, &program.source].into_iter().for_each(&mut add);
    program.headers.iter().flat_map(|(name, content)| [name.as_str(), content]).for_each(&mut add);
    state
}

/// The text of `images.rs`.
fn table(programs: &[Program], images: &[Image]) -> String {
    // Writing into a string cannot fail.
    let mut text = String::from("// Written by build.rs.\n\n");
    text += "/// The compiled programs of kernels/. A PTX image ends with a NUL, as the driver wants it.\n";
    text += "pub static IMAGES: &[Image] = &[\n";
    for Image { program, kind, arch, file } in images {
        let _ = writeln!(
            text,
            "    Image {{ program: {program:?}, kind: ImageKind::{kind}, arch: {arch:?}, \
             bytes: include_bytes!(concat!(env!(\"OUT_DIR\"), {:?})) }},",
            format!("/images/{file}")
        );
    }
    text += "];\n\n/// The sources of the programs of kernels/, with every file each includes.\n";
    text += "#[allow(dead_code)]\npub static SOURCES: &[Source] = &[\n";
    let read = |name: &str| {
        format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {:?}))", format!("/{name}"))
    };
    for program in programs {
        let _ = writeln!(
            text,
            "    Source {{\n        program: {:?},\n        source: {},\n        headers: &[",
            program.name,
            read(&program.file())
        );
        for (name, _) in &program.headers {
            let _ = writeln!(text, "            ({name:?}, {}),", read(&format!("kernels/{name}")));
        }
        let _ = writeln!(text, "        ],\n        archs: &{:?},\n    }},", program.archs);
    }
    text += "];\n\n/// NVRTC's options for every program, besides the architecture.\n";
    let _ =
        writeln!(text, "#[allow(dead_code)]\npub static OPTIONS: &[&str] = &{:?};", nvrtc::OPTIONS);
    text
}

/// Ends the build with a message.
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(1);
}
