//! Where NVRTC may lie on this machine, in the order in which the places are tried.
//!
//! Shared by build.rs and by `cargo xtask`, so that both mean the same thing by "NVRTC is there".

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The variable that names NVRTC's library file, or a folder that holds it.
pub const VARIABLE: &str = "METRIC_KERNELS_NVRTC";

/// The variables by which a CUDA toolkit is customarily named.
pub const TOOLKIT_VARIABLES: [&str; 3] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];

/// The folder of the workspace into which `cargo xtask setup` installs.
pub const FOLDER: &str = ".cuda";

/// Tries every place until `load` accepts one.
///
/// `workspace` is the folder that may hold [`FOLDER`]. Without a result: what was found but
/// refused, and why. The variable [`VARIABLE`] excludes every other place: who names a library
/// wants that one or an error.
pub fn search<T>(
    workspace: &Path,
    mut load: impl FnMut(&Path) -> Result<T, String>,
) -> Result<T, Vec<String>> {
    let mut refused = Vec::new();
    let mut try_all = |files: Vec<PathBuf>| {
        for file in files {
            match load(&file) {
                Ok(found) => return Some(found),
                Err(reason) => refused.push(format!("{}: {reason}", file.display())),
            }
        }
        None
    };
    if let Some(named) = env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let named = std::path::absolute(&named).unwrap_or_else(|_| PathBuf::from(&named));
        let files = if named.is_file() { vec![named.clone()] } else { libraries_below(&named) };
        if files.is_empty() {
            return Err(vec![format!("{VARIABLE}={} holds no NVRTC library", named.display())]);
        }
        return try_all(files).ok_or(refused);
    }

    // One place after the other, the costly ones (a Python interpreter is started) last.
    let places: [&dyn Fn() -> Vec<PathBuf>; 5] = [
        &|| {
            let roots = TOOLKIT_VARIABLES.iter().filter_map(env::var_os).filter(|v| !v.is_empty());
            roots.flat_map(|root| libraries_below(Path::new(&root))).collect()
        },
        &|| toolkit_folders().iter().flat_map(|root| libraries_below(root)).collect(),
        &|| libraries_below(&workspace.join(FOLDER)),
        &|| site_packages().iter().flat_map(|root| libraries_below(root)).collect(),
        &|| loader_names().iter().map(PathBuf::from).collect(),
    ];
    for place in places {
        if let Some(found) = try_all(place()) {
            return Ok(found);
        }
    }
    // The loader's own names are guesses: that one of them is missing is no news.
    refused.retain(|line| !loader_names().iter().any(|name| line.starts_with(name)));
    Err(refused)
}

/// The NVRTC libraries of a toolkit, of a folder of Python packages, or of a plain folder; newest
/// first.
pub fn libraries_below(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = Vec::new();
    for folder in FOLDERS {
        let folder = if folder.is_empty() { root.to_path_buf() } else { root.join(folder) };
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if let Some(version) = library_version(&entry.file_name()) {
                found.push((version, entry.path()));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    // libnvrtc.so, libnvrtc.so.13 and libnvrtc.so.13.0.88 are as a rule one file.
    let mut files: Vec<PathBuf> = Vec::new();
    for (_, path) in found {
        let same = |other: &PathBuf| fs::canonicalize(other).ok() == fs::canonicalize(&path).ok();
        if !files.iter().any(same) {
            files.push(path);
        }
    }
    files
}

/// The folders of a toolkit or of a Python package folder in which the library may lie.
const FOLDERS: &[&str] = &[
    "",
    // Toolkits.
    "lib64",
    "lib",
    "lib/x86_64-linux-gnu",
    "targets/x86_64-linux/lib",
    "targets/sbsa-linux/lib",
    "bin",
    "bin/x64",
    // Wheels.
    "nvidia/cu13/lib",
    "nvidia/cu13/bin/x86_64",
    "nvidia/cuda_nvrtc/lib",
    "nvidia/cuda_nvrtc/bin",
];

/// The version in a library's file name; `None` if the name is not NVRTC's.
fn library_version(name: &OsStr) -> Option<Vec<u32>> {
    let name = name.to_str()?;
    let version = if cfg!(windows) {
        name.strip_prefix("nvrtc64_")?.strip_suffix(".dll")?
    } else {
        // No other prefix: libnvrtc-builtins and libnvrtc_static are something else.
        let rest = name.strip_prefix("libnvrtc.so")?;
        rest.strip_prefix('.').unwrap_or(rest)
    };
    if version.is_empty() {
        return Some(Vec::new());
    }
    // `.alt` builds of the library fail here, as they should.
    version.split(['.', '_']).map(|part| part.parse().ok()).collect()
}

/// What the system's loader may know NVRTC by.
fn loader_names() -> &'static [&'static str] {
    if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
    } else {
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
    }
}

/// Where toolkits are installed by custom.
fn toolkit_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let (parents, prefix): (&[&str], &str) = if cfg!(windows) {
        (&[r"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA"], "v")
    } else {
        folders.push(PathBuf::from("/usr/local/cuda"));
        (&["/usr/local", "/opt"], "cuda")
    };
    let mut versioned = Vec::new();
    for entry in parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten() {
        let name = entry.file_name();
        if let Some(version) = name.to_str().and_then(|name| name.strip_prefix(prefix)) {
            let numbers: Vec<u32> =
                version.split(['-', '.']).filter_map(|part| part.parse().ok()).collect();
            versioned.push((numbers, entry.path()));
        }
    }
    versioned.sort_by(|a, b| b.cmp(a));
    folders.extend(versioned.into_iter().map(|(_, path)| path));
    folders
}

/// The package folders of the active virtual environment and of the Pythons on the path.
fn site_packages() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(root) = env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from) else {
            continue;
        };
        folders.push(root.join("Lib").join("site-packages"));
        for entry in fs::read_dir(root.join("lib")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("python") {
                folders.push(entry.path().join("site-packages"));
            }
        }
    }
    for python in ["python3", "python"] {
        let asked = Command::new(python)
            .args([
                "-c",
                "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))",
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        if let Ok(answer) = asked {
            folders.extend(String::from_utf8_lossy(&answer.stdout).lines().map(PathBuf::from));
        }
    }
    folders
}
