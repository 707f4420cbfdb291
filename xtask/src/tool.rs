//! What the commands share: the workspace's folders, and programs that are run.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The workspace's root.
pub fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let xtask = xtask.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or_else(|| PathBuf::from("."), |root| root.to_path_buf())
}

/// cargo, in the workspace's root: the one that runs this command.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    // Set for this package by the cargo that runs it: they must not leak into the builds below.
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&variable);
        }
    }
    command
}

/// cargo's target folder, wherever configuration puts it.
pub fn target() -> Result<PathBuf, String> {
    let asked = cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let text = String::from_utf8_lossy(&asked.stdout);
    // One string is all that is needed of it: no reason for a JSON parser.
    let quoted =
        text.split_once("\"target_directory\":\"").and_then(|(_, rest)| rest.split_once('"'));
    let (folder, _) = quoted.ok_or("cargo metadata names no target folder")?;
    Ok(PathBuf::from(folder.replace("\\\\", "\\")))
}

/// Runs a command to its end; an error is a message that names it.
pub fn must(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) }
}

/// A command as one would type it.
pub fn shown(command: &Command) -> String {
    let name = PathBuf::from(command.get_program());
    let name = name.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    let words = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}

/// A heading between the outputs of programs.
pub fn heading(text: &str) {
    // After what the programs before it have written: standard error is not buffered either.
    eprintln!("\n=== {text}");
}
