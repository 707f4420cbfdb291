//! `cargo xtask setup`: NVRTC, and with `--tools` NVIDIA's assembler, without a CUDA toolkit.
//!
//! They come as Python wheels into `.cuda` in the workspace's root, where build.rs looks; nothing
//! is installed into a Python, and nothing outside that folder is written.

use crate::find;
use crate::nvrtc::Nvrtc;
use crate::tool;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// The compiler's wheel. One minor version for everything: PTX and assembler must fit together.
const NVRTC: Wheel = Wheel { name: "nvidia-cuda-nvrtc", version: "13.0.88" };

/// ptxas.
const NVCC: Wheel = Wheel { name: "nvidia-cuda-nvcc", version: "13.0.88" };

/// The disassembler: it has no wheel of that minor version, and this is the first later one. It only
/// reads what ptxas made.
const NVDISASM: Wheel = Wheel { name: "nvidia-cuda-nvdisasm", version: "13.2.51" };

/// A package of the registry that pip knows.
#[derive(Clone, Copy)]
struct Wheel {
    name: &'static str,
    version: &'static str,
}

impl Wheel {
    /// What pip records of it.
    fn record(&self, folder: &Path) -> PathBuf {
        let name = self.name.replace('-', "_");
        folder.join(format!("{name}-{}.dist-info", self.version)).join("RECORD")
    }
}

/// The command.
pub fn run(tools: bool) -> Result<(), String> {
    let nvrtc = nvrtc()?;
    println!("NVRTC {}.{}: {}", nvrtc.version.0, nvrtc.version.1, nvrtc.path.display());
    if tools {
        let tools = pinned()?;
        println!("ptxas: {}", tools.ptxas.display());
        println!("nvdisasm: {}", tools.nvdisasm.display());
    }
    Ok(())
}

/// NVRTC as build.rs finds it, installed if it finds none.
pub fn nvrtc() -> Result<Nvrtc, String> {
    let root = tool::root();
    let refused = match find::search(&root, Nvrtc::load) {
        Ok(nvrtc) => return Ok(nvrtc),
        Err(refused) => refused,
    };
    for line in &refused {
        eprintln!("not usable: {line}");
    }
    // Who named a library wants that one: installing another would not make the build use it.
    if std::env::var_os(find::VARIABLE).is_some_and(|value| !value.is_empty()) {
        return Err(format!("{} names no usable NVRTC: unset it or mend it", find::VARIABLE));
    }
    install(&[NVRTC])?;
    find::search(&root, Nvrtc::load).map_err(|refused| {
        format!("NVRTC was installed, and is not usable:\n{}", refused.join("\n"))
    })
}

/// The compiler and its companions of the one version whose figures kernels/resources.txt holds.
pub struct Tools {
    pub nvrtc: Nvrtc,
    pub ptxas: PathBuf,
    pub nvdisasm: PathBuf,
}

/// Installs them where they are not.
pub fn pinned() -> Result<Tools, String> {
    install(&[NVRTC, NVCC, NVDISASM])?;
    let folder = tool::root().join(find::FOLDER);
    let library = find::libraries_below(&folder).into_iter().next();
    let nvrtc = Nvrtc::load(&library.ok_or("the wheel of NVRTC holds no library")?)?;
    let tool = |name: &str| {
        let file = if cfg!(windows) { format!("{name}.exe") } else { name.to_string() };
        let places = ["bin", "bin/x86_64", "bin/x64"];
        let mut places = places.map(|b| folder.join("nvidia/cu13").join(b).join(&file)).into_iter();
        places.find(|place| place.is_file()).ok_or(format!("its wheel holds no {name}"))
    };
    Ok(Tools { nvrtc, ptxas: tool("ptxas")?, nvdisasm: tool("nvdisasm")? })
}

/// Installs those of the wheels that are not there.
fn install(wheels: &[Wheel]) -> Result<(), String> {
    let folder = tool::root().join(find::FOLDER);
    let missing = |wheel: &&Wheel| !wheel.record(&folder).is_file();
    let wheels: Vec<Wheel> = wheels.iter().filter(missing).copied().collect();
    if wheels.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = wheels.iter().map(|w| format!("{}=={}", w.name, w.version)).collect();
    if cfg!(target_os = "macos") {
        return Err("NVIDIA has no CUDA compiler for macOS; the CPU engine needs none".into());
    }
    eprintln!("installing {} into {}", names.join(", "), folder.display());

    // Into a folder of their own, then moved file by file: pip leaves a package out when another
    // one has made the same top folder (nvidia/) before it.
    let fresh = folder.join("partial");
    let described = |e: std::io::Error| format!("{}: {e}", folder.display());
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(described)?;
    }
    fs::create_dir_all(&folder).map_err(described)?;
    let mut pip = pip(&folder)?;
    pip.args(["install", "--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:"]);
    pip.arg("--target").arg(&fresh).args(&names);
    tool::must(&mut pip).map_err(|error| {
        format!(
            "{error}\npip could not install {}. With a CUDA toolkit at hand, set {} to its folder \
             instead.",
            names.join(" and "),
            find::VARIABLE
        )
    })?;
    move_tree(&fresh, &folder, &|name| !name.ends_with(".dist-info")).map_err(described)?;
    // The records last: where they are, the packages are whole.
    move_tree(&fresh, &folder, &|_| true).map_err(described)?;
    fs::remove_dir_all(&fresh).map_err(described)?;

    // A build that found no NVRTC watches no file that has changed now: this one makes it look
    // again.
    let script = fs::File::options().append(true).open(tool::root().join("build.rs"));
    script
        .and_then(|file| file.set_modified(SystemTime::now()))
        .map_err(|e| format!("build.rs: {e}"))
}

/// Moves what `wanted` accepts of a folder's entries into another that may hold some already.
fn move_tree(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !wanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            move_tree(&entry.path(), &target, &|_| true)?;
        } else {
            fs::rename(entry.path(), target)?;
        }
    }
    Ok(())
}

/// pip, of a Python that has it or of a virtual environment made for the purpose.
fn pip(folder: &Path) -> Result<Command, String> {
    let pythons: Vec<PathBuf> = ["python3", "python"]
        .iter()
        .map(PathBuf::from)
        .filter(|p| answers(p, &["--version"]))
        .collect();
    let Some(first) = pythons.first() else {
        return Err(
            "there is no Python on the path: NVRTC is installed with Python's pip. With a \
                    CUDA toolkit at hand, set METRIC_KERNELS_NVRTC to its folder instead."
                .into(),
        );
    };
    if let Some(python) = pythons.iter().find(|python| answers(python, &["-m", "pip", "--version"]))
    {
        return Ok(pip_of(python));
    }
    // Debian's Python comes without pip, but makes environments that have it (python3-venv).
    let environment = folder.join("python");
    let python = environment.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !answers(&python, &["-m", "pip", "--version"]) {
        eprintln!("{} has no pip: making an environment that has one", first.display());
        let made = Command::new(first).args(["-m", "venv", "--clear"]).arg(&environment).output();
        if !made.is_ok_and(|made| made.status.success())
            || !answers(&python, &["-m", "pip", "--version"])
        {
            // What venv left half made would be in the way of the next attempt.
            let _ = fs::remove_dir_all(&environment);
            return Err(format!(
                "{} has neither pip nor venv. Install one of them (Debian, Ubuntu: `sudo apt \
                 install python3-pip`; Fedora: `sudo dnf install python3-pip`) and repeat the \
                 command; or, with a CUDA toolkit at hand, set {} to its folder.",
                first.display(),
                find::VARIABLE
            ));
        }
    }
    Ok(pip_of(&python))
}

fn pip_of(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip"]).stdin(Stdio::null());
    // Settings that make no sense for an installation into a folder, and notices that help nobody.
    command.envs([
        ("PIP_USER", "0"),
        ("PIP_REQUIRE_VIRTUALENV", "0"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_ROOT_USER_ACTION", "ignore"),
        ("PIP_NO_INPUT", "1"),
    ]);
    command
}

/// Whether a program runs with these arguments and succeeds.
fn answers(program: &Path, arguments: &[&str]) -> bool {
    let asked = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}
