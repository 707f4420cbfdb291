//! What the emulated machine is: its settings and the environment variables they come from.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of the emulated device. [`Config::from_env`] reads them from the environment, [`Config::default`]
/// does not look at it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Compute capability, major and minor (`CUDA_EMULATOR_CC`, such as `8.0` or `9.0`).
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors reported (`CUDA_EMULATOR_SMS`).
    pub sm_count: u32,
    /// Seed of the pseudo-random warp scheduling (`CUDA_EMULATOR_SEED`). With seed 0 warps are never split, so that
    /// the counters of warp-level transactions are those of a well-converged machine.
    pub seed: u64,
    /// Whether asynchronous copies land as late as the program allows (`CUDA_EMULATOR_ASYNC=late`, the default) or
    /// at once (`early`).
    pub late_copies: bool,
    /// Host threads that run blocks (`CUDA_EMULATOR_THREADS`; default: all cores).
    pub threads: usize,
    /// Most shared memory a block may opt in to, in bytes.
    pub shared_per_block_optin: usize,
    /// Size of the device's memory in bytes (`CUDA_EMULATOR_MEMORY`, in MiB).
    pub memory_bytes: usize,
    /// A launch that runs longer is stopped (`CUDA_EMULATOR_TIMEOUT`, in seconds).
    pub timeout: Duration,
    /// Where the counters are written (`CUDA_EMULATOR_COUNTERS`). `%p` in it becomes the process id.
    pub counters: Option<PathBuf>,
}

impl Config {
    /// The settings that the environment asks for. A value that cannot be read is named on stderr and the default
    /// stands.
    pub fn from_env() -> Config {
        let mut config = Config::default();
        if let Some(cc) = variable("CUDA_EMULATOR_CC", parse_capability) {
            config.compute_capability = cc;
            config.shared_per_block_optin = shared_optin(cc);
        }
        if let Some(n) = variable("CUDA_EMULATOR_SMS", |s| s.parse().ok().filter(|&n| n > 0)) {
            config.sm_count = n;
        }
        if let Some(seed) = variable("CUDA_EMULATOR_SEED", |s| s.parse().ok()) {
            config.seed = seed;
        }
        let landing = |s: &str| match s {
            "late" => Some(true),
            "early" => Some(false),
            _ => None,
        };
        if let Some(late) = variable("CUDA_EMULATOR_ASYNC", landing) {
            config.late_copies = late;
        }
        if let Some(n) = variable("CUDA_EMULATOR_THREADS", |s| s.parse().ok().filter(|&n| n > 0)) {
            config.threads = n;
        }
        if let Some(mib) = variable("CUDA_EMULATOR_MEMORY", |s| s.parse::<usize>().ok()) {
            config.memory_bytes = mib << 20;
        }
        if let Some(seconds) = variable("CUDA_EMULATOR_TIMEOUT", |s| s.parse().ok()) {
            config.timeout = Duration::from_secs(seconds);
        }
        if let Some(path) = variable("CUDA_EMULATOR_COUNTERS", |s| Some(s.to_string())) {
            config.counters = Some(path.replace("%p", &std::process::id().to_string()).into());
        }
        config
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            compute_capability: (8, 0),
            sm_count: 108,
            seed: 0,
            late_copies: true,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            shared_per_block_optin: shared_optin((8, 0)),
            memory_bytes: 16 << 30,
            timeout: Duration::from_secs(300),
            counters: None,
        }
    }
}

fn variable<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = std::env::var(name).ok().filter(|s| !s.is_empty())?;
    let value = parse(&text);
    if value.is_none() {
        eprintln!("cuda-emulator: {name}={text} cannot be read; the default is used");
    }
    value
}

fn parse_capability(s: &str) -> Option<(u32, u32)> {
    let (major, minor) = s.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Shared memory a block may opt in to, from the CUDA programming guide's table of compute capabilities.
fn shared_optin(cc: (u32, u32)) -> usize {
    let kib = match cc {
        (7, 0) | (7, 2) => 96,
        (7, 5) => 64,
        (8, 0) | (8, 7) => 163,
        (8, _) => 99,
        (9, _) | (10, _) | (11, _) => 227,
        _ => 99,
    };
    kib << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_is_read_from_text() {
        assert_eq!(parse_capability("9.0"), Some((9, 0)));
        assert_eq!(parse_capability("12.1"), Some((12, 1)));
        assert_eq!(parse_capability("9"), None);
        assert_eq!(shared_optin((8, 0)), 166_912);
    }
}
