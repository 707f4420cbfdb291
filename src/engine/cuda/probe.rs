//! Room: engines, CUDA. Is there a driver? Asked before cudarc is, which panics where there is none.

use std::ffi::c_int;

use libloading::Library;

use crate::{Error, Result};

/// The oldest driver interface accepted: CUDA 12.0.
const OLDEST: c_int = 12_000;

/// Where the driver's library is looked for; cudarc looks for the same names.
#[cfg(windows)]
const DRIVER: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const DRIVER: &[&str] = &["libcuda.so", "libcuda.so.1"];

#[cfg(windows)]
const NVRTC: &[&str] = &["nvrtc.dll", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
#[cfg(not(windows))]
const NVRTC: &[&str] = &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];

/// Whether this machine has a CUDA driver that is new enough, and a device. Creates no context and
/// never panics.
///
/// # Errors
/// [`Error::CudaUnavailable`] says what is missing and what mends it.
pub fn available() -> Result<()> {
    device_count().map(|_| ())
}

/// How many CUDA devices there are: at least one.
///
/// # Errors
/// As [`available`].
pub fn device_count() -> Result<usize> {
    let unavailable = |reason: String, remedy: &str| {
        Err(Error::CudaUnavailable { reason, remedy: remedy.to_owned() })
    };
    // SAFETY: the driver's library, which every CUDA program loads; it has no preconditions.
    let library = DRIVER.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    let Some(library) = library else {
        return unavailable(
            format!("no CUDA driver ({}) is found", DRIVER.join(", ")),
            "install NVIDIA's driver, or use the CPU engine",
        );
    };
    type Init = unsafe extern "C" fn(u32) -> c_int;
    type Number = unsafe extern "C" fn(*mut c_int) -> c_int;
    // SAFETY: these are the functions' types in cuda.h.
    let functions = unsafe {
        (
            library.get::<Init>(b"cuInit\0"),
            library.get::<Number>(b"cuDriverGetVersion\0"),
            library.get::<Number>(b"cuDeviceGetCount\0"),
        )
    };
    let (Ok(init), Ok(version), Ok(count)) = functions else {
        return unavailable(
            "the CUDA driver's library lacks basic functions".into(),
            "reinstall NVIDIA's driver",
        );
    };
    let (mut driver, mut devices) = (0, 0);
    // SAFETY: a place for one number; allowed before cuInit.
    let known = unsafe { version(&mut driver) } == 0;
    if !known || driver < OLDEST {
        return unavailable(
            format!("the driver supports CUDA {}.{}", driver / 1000, driver % 1000 / 10),
            "install a driver of CUDA 12.0 or later (525 or later)",
        );
    }
    // SAFETY: cuInit takes 0 and may be called again and again.
    let status = unsafe { init(0) };
    if status != 0 {
        let reason = match status {
            100 => "the driver finds no device".to_owned(),
            status => format!("cuInit answers {status}"),
        };
        return unavailable(reason, "see what `nvidia-smi` says");
    }
    // SAFETY: a place for one number, after cuInit.
    let status = unsafe { count(&mut devices) };
    // Others in this process use the driver: it stays loaded.
    std::mem::forget(library);
    match usize::try_from(devices) {
        Ok(devices) if status == 0 && devices > 0 => Ok(devices),
        _ => unavailable("the driver finds no device".into(), "see what `nvidia-smi` says"),
    }
}

/// Whether NVRTC can be loaded, so that cudarc will find it too.
pub(super) fn nvrtc_available() -> bool {
    if let Some(place) = std::env::var_os("METRIC_KERNELS_NVRTC") {
        preload(std::path::Path::new(&place));
    }
    // SAFETY: NVIDIA's compiler; its initialisers have no preconditions.
    match NVRTC.iter().find_map(|name| unsafe { Library::new(*name) }.ok()) {
        Some(library) => {
            // NVRTC keeps state per thread: unloading it is not safe.
            std::mem::forget(library);
            true
        }
        None => false,
    }
}

/// Loads NVRTC, and the library it needs beside it, from a folder or a file: once loaded, the
/// loader answers its name with it.
fn preload(place: &std::path::Path) {
    let folder = if place.is_dir() { Some(place) } else { place.parent() };
    let Some(folder) = folder else { return };
    let folders = [folder.to_owned(), folder.join("lib"), folder.join("nvidia/cu13/lib")];
    let mut files: Vec<_> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                (name.starts_with("libnvrtc") || name.starts_with("nvrtc")) && !name.contains("alt")
            })
        })
        .collect();
    // `libnvrtc-builtins` sorts before `libnvrtc.so`, which needs it.
    files.sort();
    for file in files {
        // SAFETY: as in `nvrtc_available`.
        if let Ok(library) = unsafe { Library::new(&file) } {
            std::mem::forget(library);
        }
    }
}
