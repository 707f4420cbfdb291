//! `cargo xtask bundle`: one folder that tests and measures the library on a Linux machine with an
//! NVIDIA driver and nothing else.

use crate::compare;
use crate::setup;
use crate::tool::{self, cargo, heading};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HELP: &str = "\
usage: cargo xtask bundle [FOLDER]

Builds the CUDA tests and the benchmarks and puts them, stripped, into FOLDER (target/bundle) with
the peers' programs and run.sh: at most 60 MiB that run on an x86-64 Linux machine which has an
NVIDIA driver, without Rust and without a CUDA toolkit. There: ./run.sh OUT all; ./run.sh --help
";

/// What a bundle may take.
const MOST_BYTES: u64 = 60 << 20;

/// What runs a bundle.
const SCRIPT: &str = include_str!("../../benches/bundle/run.sh");

/// The benchmarks that go into it.
const BENCHES: [&str; 3] = ["engines", "compare", "report"];

/// The command.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let folder = match arguments {
        [] => tool::target()?.join("bundle"),
        ["-h" | "--help"] => {
            print!("{HELP}");
            return Ok(());
        }
        [folder] if !folder.starts_with('-') => PathBuf::from(folder),
        _ => return Err(format!("unknown: {}\n\n{HELP}", arguments.join(" "))),
    };
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("a bundle is made on x86-64 Linux, for x86-64 Linux".into());
    }
    // The kernels' images are embedded when the build finds NVRTC.
    setup::nvrtc()?;
    heading("build");
    let mut tests = cargo();
    tests.args(["test", "--release", "--no-run", "--message-format=json", "--test", "cuda_*"]);
    let mut benches = cargo();
    benches.args(["bench", "--no-run", "--message-format=json"]);
    BENCHES.iter().for_each(|name| {
        benches.args(["--bench", name]);
    });
    let (tests, benches) = (built(&mut tests)?, built(&mut benches)?);
    if tests.is_empty() || benches.len() < BENCHES.len() {
        return Err(format!("built {} tests and {} benchmarks", tests.len(), benches.len()));
    }

    heading(&format!("bundle: {}", folder.display()));
    let marked = folder.join("about");
    if folder.exists() && !marked.is_file() {
        return Err(format!("{} is there and is no bundle: name another", folder.display()));
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let made = |path: &Path| {
        fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    // What the executables are gathered in until they are packed.
    let loose = folder.join("loose");
    let mut glibc = (0, 0);
    for (place, executables) in [("tests", &tests), ("benches", &benches)] {
        made(&loose.join(place))?;
        for (name, path) in executables {
            let stripped = loose.join(place).join(name);
            strip(path, &stripped)?;
            glibc = glibc.max(needed_glibc(&read(&stripped)?));
        }
    }
    // It asks the driver for its device.
    strip(&env::current_exe().map_err(|e| e.to_string())?, &loose.join("xtask"))?;
    pack(&loose, &folder.join("executables.tar.xz"))?;
    fs::remove_dir_all(&loose).map_err(|e| format!("{}: {e}", loose.display()))?;
    made(&folder.join("peers"))?;
    for name in ["peer.py", "losses.py"] {
        let from = tool::root().join("benches/peers").join(name);
        write(&folder.join("peers").join(name), &read(&from)?)?;
    }
    write(&folder.join("run.sh"), SCRIPT.as_bytes())?;
    executable(&folder.join("run.sh"))?;
    let version = env!("CARGO_PKG_VERSION");
    let (major, minor) = glibc;
    let about = format!(
        "metric-kernels {version}\ncommit {}\nneeds glibc {major}.{minor} or later\n",
        compare::commit()
    );
    write(&marked, about.as_bytes())?;

    let bytes = size(&folder)?;
    let mib = bytes as f64 / f64::from(1 << 20);
    println!("{}: {mib:.1} MiB, {} tests", folder.display(), tests.len());
    print!("{about}");
    if bytes > MOST_BYTES {
        return Err(format!("{mib:.1} MiB are more than a bundle may take, {}", MOST_BYTES >> 20));
    }
    Ok(())
}

/// Runs a build and lists the executables it names: target name and path.
fn built(command: &mut Command) -> Result<Vec<(String, PathBuf)>, String> {
    let asked = command.stderr(Stdio::inherit()).output();
    let asked = asked.map_err(|error| format!("{}: {error}", tool::shown(command)))?;
    if !asked.status.success() {
        return Err(format!("{}: {}", tool::shown(command), asked.status));
    }
    Ok(executables(&String::from_utf8_lossy(&asked.stdout)))
}

/// The executables in cargo's JSON messages, one message a line. Paths with characters that JSON
/// escapes are none that a checkout should lie in.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for line in messages.lines() {
        let Some((_, rest)) = line.split_once("\"executable\":\"") else { continue };
        let Some((path, _)) = rest.split_once('"') else { continue };
        let path = PathBuf::from(path);
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Without cargo's hash.
        let name = name.rsplit_once('-').map_or(name, |(name, _)| name);
        found.push((name.to_string(), path.clone()));
    }
    found.sort();
    found
}

fn strip(from: &Path, to: &Path) -> Result<(), String> {
    let mut command = Command::new("strip");
    command.arg("-o").arg(to).arg(from).stdin(Stdio::null());
    tool::must(&mut command).map_err(|error| {
        format!("{error}\nstrip belongs to binutils, as the linker does: install that package")
    })
}

/// Packs a folder. Every executable embeds the same kernels: a window that reaches back to the one
/// before keeps them once.
fn pack(folder: &Path, to: &Path) -> Result<(), String> {
    let mut command = Command::new("tar");
    command.args(["-I", "xz --lzma2=preset=3,dict=64MiB -T1", "-cf"]).arg(to);
    command.arg("-C").arg(folder).arg(".").stdin(Stdio::null());
    tool::must(&mut command)
        .map_err(|error| format!("{error}\ntar and xz (xz-utils) pack a bundle: install them"))
}

/// The newest version of glibc that an executable asks for.
fn needed_glibc(bytes: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_2.";
    let mut newest = (0, 0);
    for start in
        (0..bytes.len().saturating_sub(MARK.len())).filter(|&i| bytes[i..].starts_with(MARK))
    {
        let digits = bytes[start + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let minor = digits.take(4).fold(0, |sum, &digit| 10 * sum + u32::from(digit - b'0'));
        newest = newest.max((2, minor));
    }
    newest
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))
}

fn executable(path: &Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let _ = path;
    Ok(())
}

/// Bytes of a folder's files.
fn size(folder: &Path) -> Result<u64, String> {
    let described = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(described)? {
        let entry = entry.map_err(described)?;
        let kind = entry.file_type().map_err(described)?;
        bytes += if kind.is_dir() {
            size(&entry.path())?
        } else {
            entry.metadata().map_err(described)?.len()
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_s_messages_name_executables() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"cuda_b"},"executable":"/t/cuda_b-0a1b","fresh":true}
{"reason":"compiler-artifact","target":{"name":"cuda_a"},"executable":"/t/cuda_a-77"}
{"reason":"build-finished","success":true}"#;
        let expected = [("cuda_a", "/t/cuda_a-77"), ("cuda_b", "/t/cuda_b-0a1b")];
        assert_eq!(executables(messages), expected.map(|(n, p)| (n.to_string(), p.into())));
    }

    #[test]
    fn the_newest_glibc_counts() {
        assert_eq!(needed_glibc(b"GLIBC_2.17\0GLIBC_2.34\0GLIBC_2.3.4\0GLIBC_PRIVATE"), (2, 34));
        assert_eq!(needed_glibc(b"GLIBC_2."), (0, 0));
    }

    /// A bundle of shell scripts, run as a real one is; its exit status and what it printed.
    #[cfg(unix)]
    fn outcome(name: &str, driver: bool, tests: &[(&str, &str)], words: &[&str]) -> (i32, String) {
        let folder = env::temp_dir().join(format!("bundle-{name}-{}", std::process::id()));
        let script = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            executable(&path).unwrap();
        };
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("run.sh"), SCRIPT).unwrap();
        executable(&folder.join("run.sh")).unwrap();
        fs::write(folder.join("about"), "a bundle\ncommit 0\n").unwrap();
        let probe = if driver { "printf 'A GPU\\t9.0\\n'" } else { "echo no driver >&2; exit 1" };
        script(folder.join("xtask"), probe);
        for (name, text) in tests {
            script(folder.join("tests").join(name), text);
        }
        let out = folder.join("out");
        let ran = Command::new(folder.join("run.sh")).arg(&out).args(words).output().unwrap();
        let mut said = String::from_utf8_lossy(&ran.stdout).into_owned();
        said += &fs::read_to_string(out.join("summary.json")).unwrap_or_default();
        fs::remove_dir_all(&folder).unwrap();
        (ran.status.code().unwrap(), said)
    }

    #[cfg(unix)]
    #[test]
    fn a_bundle_tells_what_passed_from_what_did_not() {
        let passes = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'";
        let about_the_emulator = "echo 'SKIPPED: t: it is about the emulator; this is A GPU'; echo 'test result: ok. 1 passed; 0 failed;'";
        let fine = [("cuda_a", passes), ("cuda_b", about_the_emulator)];
        let (status, said) = outcome("fine", true, &fine, &["tests", "60"]);
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("3 passed, 0 failed") && said.contains("A GPU 9.0"), "{said}");
        assert!(said.contains(r#""stage": "tests", "name": "cuda_b", "outcome": "ok""#), "{said}");

        let skips = "echo 'SKIPPED: t: no CUDA'; echo 'test result: ok. 1 passed; 0 failed;'";
        let (status, said) = outcome("skips", true, &[("cuda_a", skips)], &["tests"]);
        assert!(status == 1 && said.contains("SKIPPED: t: no CUDA"), "{said}");

        let expects =
            "test \"$METRIC_KERNELS_EXPECT_CUDA\" = 1 && echo 'test result: ok. 1 passed'";
        assert_eq!(outcome("expects", true, &[("cuda_a", expects)], &["tests"]).0, 0);
        let (status, said) = outcome("dies", true, &[("cuda_a", "exit 3")], &["tests"]);
        assert!(status == 1 && said.contains("exit status 3"), "{said}");
        let (status, said) = outcome("mute", true, &[("cuda_a", "exit 0")], &["tests"]);
        assert!(status == 1 && said.contains("no test was run"), "{said}");

        let slow = [("cuda_a", "exec sleep 30"), ("cuda_b", passes)];
        // Long enough for a busy machine to begin the first.
        let (status, said) = outcome("slow", true, &slow, &["tests", "8"]);
        assert!(
            status == 1 && said.contains("out of time") && said.contains("not begun"),
            "{said}"
        );
        let (status, said) = outcome("none", false, &[("cuda_a", passes)], &["all"]);
        assert!(status == 1 && said.contains("no CUDA device: no driver"), "{said}");
        assert_eq!(outcome("usage", true, &[], &["everything"]).0, 2);
    }
}
