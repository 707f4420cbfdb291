//! The programs of the folder kernels/: their sources, what they include, and the architectures
//! they are meant for.
//!
//! Shared by build.rs and by `cargo xtask`. The conventions that kernel files follow:
//! - every `kernels/*.cu` is a program of its own; its kernels are `extern "C"`, so that their
//!   names stay;
//! - `#include "tile/simt.cuh"`: always relative to kernels/, whichever file it stands in. There
//!   are no others;
//! - a program for a few architectures alone says so on a line of its opening comment: `// arch:
//!   sm_90a`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The architectures of the machine code that is shipped, one for each generation: code runs on
/// later ones of its own (8.0's on 8.6 and 8.9). Each program's PTX is that of its first.
pub const ARCHITECTURES: [&str; 4] = ["80", "90a", "100", "120"];

/// How many lines a file's opening has, where `// arch:` is looked for.
const OPENING: usize = 30;

/// One `kernels/*.cu`.
pub struct Program {
    /// Its file's stem.
    pub name: String,
    /// Its text.
    pub source: String,
    /// Every file that it includes, directly or not: the name it is included by, and its text.
    pub headers: Vec<(String, String)>,
    /// The architectures it is compiled for: "80", "90a".
    pub archs: Vec<String>,
    /// Whether its opening names those: it is written for them alone.
    pub restricted: bool,
}

impl Program {
    /// The name that stands in messages.
    pub fn file(&self) -> String {
        format!("kernels/{}.cu", self.name)
    }
}

/// Reads every program of the folder, sorted by name.
pub fn read(folder: &Path) -> Result<Vec<Program>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension() == Some("cu".as_ref()))
        .collect();
    files.sort();
    files.iter().map(|file| program(folder, file)).collect()
}

fn program(folder: &Path, file: &Path) -> Result<Program, String> {
    let name = file
        .file_stem()
        .and_then(|s| s.to_str())
        .ok_or_else(|| format!("{}: not UTF-8", file.display()))?;
    let source = text(file)?;
    let mut headers = BTreeMap::new();
    add_headers(folder, &format!("kernels/{name}.cu"), &source, &mut headers)?;
    let named = archs(&source).transpose().map_err(|e| format!("kernels/{name}.cu: {e}"))?;
    let restricted = named.is_some();
    let archs = named.unwrap_or_else(|| ARCHITECTURES.map(String::from).to_vec());
    let headers = headers.into_iter().collect();
    Ok(Program { name: name.to_string(), source, headers, archs, restricted })
}

fn add_headers(
    folder: &Path,
    includer: &str,
    source: &str,
    headers: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for (number, line) in source.lines().enumerate() {
        let Some(name) = included(line) else { continue };
        if headers.contains_key(name) {
            continue;
        }
        let path = folder.join(name);
        if name.starts_with('<') || name.contains("..") || name.contains('\\') || !path.is_file() {
            return Err(format!(
                "{includer}:{}: `{}`: an include names a file relative to kernels/, in quotes; there are no others",
                number + 1,
                line.trim()
            ));
        }
        let content = text(&path)?;
        headers.insert(name.to_string(), content.clone());
        add_headers(folder, &format!("kernels/{name}"), &content, headers)?;
    }
    Ok(())
}

/// What an `#include` line names: without its quotes, but with its angle bracket.
fn included(line: &str) -> Option<&str> {
    let name =
        line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
    match name.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => Some(name).filter(|name| name.starts_with('<')),
    }
}

/// The architectures on a line `// arch: sm_90a, sm_100` of the opening.
fn archs(source: &str) -> Option<Result<Vec<String>, String>> {
    let opening = source.lines().take(OPENING);
    let named = opening
        .filter_map(|line| line.trim().strip_prefix("//")?.trim().strip_prefix("arch:"))
        .next()?;
    let archs = named.split([',', ' ']).filter(|word| !word.is_empty());
    Some(
        archs
            .map(|word| match word.strip_prefix("sm_") {
                Some(arch) if arch.starts_with(|c: char| c.is_ascii_digit()) => {
                    Ok(arch.to_string())
                }
                _ => Err(format!("`// arch:` names `{word}`, which is not of the form sm_90a")),
            })
            .collect::<Result<Vec<_>, _>>()
            .and_then(|archs| {
                if archs.is_empty() { Err("`// arch:` names nothing".into()) } else { Ok(archs) }
            }),
    )
}

fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
