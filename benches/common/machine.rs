//! What a result was measured on, and when.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The processor's name, cores and memory.
pub fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        info.lines().find(|line| line.starts_with(key))?.split_once(':').map(|(_, value)| value)
    };
    let name = field("model name").unwrap_or("unknown processor").trim();
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: Option<u64> = memory
        .split_whitespace()
        .skip_while(|&w| w != "MemTotal:")
        .nth(1)
        .and_then(|w| w.parse().ok());
    let memory = kib.map_or(String::new(), |kib| format!(", {} GiB", kib.div_ceil(1 << 20)));
    format!("{name}, {cores} cores{memory}")
}

/// The version of CUDA that the driver is made for, such as 13.0.
pub fn driver() -> String {
    let mut version = 0;
    // SAFETY: the driver is loaded (a caller has an engine), and writes one number.
    let code = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    if code != cudarc::driver::sys::CUresult::CUDA_SUCCESS {
        return "unknown".into();
    }
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Today, as 2026-01-31 (UTC).
pub fn date() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    civil(now / 86_400)
}

/// The date of a day counted from 1970-01-01; Howard Hinnant's `civil_from_days`.
pub fn civil(day: u64) -> String {
    let z = day + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
