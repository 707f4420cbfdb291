//! Runs a test in a process whose CUDA driver is the emulator: a folder with the library under the
//! driver's names, first in the loader's search path.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the processes that run the bodies.
const INSIDE: &str = "CUDA_EMULATOR_TEST_INSIDE";

/// The library as cargo built it for this test, built on demand.
fn library() -> PathBuf {
    let name = "libcuda_emulator.so";
    let test = std::env::current_exe().unwrap();
    let dependencies = test.parent().unwrap();
    let profile = dependencies.parent().unwrap();
    // Beside the test is what this very build made; one level up, what `cargo build` leaves.
    let places = [dependencies.join(name), profile.join(name)];
    if let Some(found) = places.iter().find(|p| p.exists()) {
        return found.clone();
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--package", "cuda-emulator", "--target-dir"]);
    build.arg(profile.parent().unwrap());
    if profile.file_name().is_some_and(|n| n == "release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the emulator's library cannot be built");
    places[1].clone()
}

/// A folder in which the loader finds the emulator as the driver.
fn folder() -> PathBuf {
    let library = library();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        // Copied under another name and moved: tests in other processes may be loading it.
        let fresh =
            folder.join(format!("{name}.{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::copy(&library, &fresh).unwrap();
        std::fs::rename(&fresh, folder.join(name)).unwrap();
    }
    folder
}

/// Runs `body`, which must be the test of the calling thread's name, once for each list of settings.
pub fn with_settings(settings: &[&[(&str, &str)]], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let name = std::thread::current().name().expect("a test").to_owned();
    let folder = folder();
    let mut paths = vec![folder];
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
        paths.extend(std::env::split_paths(&before));
    }
    for settings in settings {
        let mut child = Command::new(std::env::current_exe().unwrap());
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CUDA_EMULATOR_") && name_text != "CUDA_EMULATOR_TOOLKIT" {
                child.env_remove(&name);
            }
        }
        let output = child
            .args(["--exact", &name, "--include-ignored", "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .env("LD_LIBRARY_PATH", std::env::join_paths(&paths).unwrap())
            .envs(settings.iter().copied())
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "with {settings:?}: {text}");
        assert!(text.contains("1 passed"), "the test did not run: {text}");
    }
}

/// As late and as early as possible, each under a few seeds, with leaks fatal.
#[allow(dead_code)]
pub fn everywhere(body: impl FnOnce()) {
    let leaks = ("CUDA_EMULATOR_LEAKS", "fatal");
    with_settings(
        &[
            &[("CUDA_EMULATOR_ASYNC", "late"), ("CUDA_EMULATOR_SEED", "0"), leaks],
            &[("CUDA_EMULATOR_ASYNC", "late"), ("CUDA_EMULATOR_SEED", "1"), leaks],
            &[("CUDA_EMULATOR_ASYNC", "late"), ("CUDA_EMULATOR_SEED", "2"), leaks],
            &[("CUDA_EMULATOR_ASYNC", "early"), ("CUDA_EMULATOR_SEED", "3"), leaks],
        ],
        body,
    );
}
