//! Whether a CUDA driver works here, asked in a child process: a broken driver may well end the
//! process that tries it.

use crate::nvrtc;
use std::env;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint};
use std::path::Path;
use std::process::{Command, Stdio};

/// The command by which this program asks itself.
pub const COMMAND: &str = "probe";

/// What the driver is called: by the loader, and where an emulated one takes its place.
pub const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// The first device of the driver that a process with these variables finds: its name and compute
/// capability, or why there is none.
pub fn device<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Result<(String, String), String> {
    let program = env::current_exe().map_err(|e| e.to_string())?;
    let asked = Command::new(program)
        .arg(COMMAND)
        .envs(variables)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let answer = String::from_utf8_lossy(&asked.stdout);
    let said = String::from_utf8_lossy(&asked.stderr);
    match answer.trim().split_once('\t') {
        Some((name, capability)) if asked.status.success() => Ok((name.into(), capability.into())),
        _ => Err(match said.trim() {
            "" => format!("the probe ended with {}", asked.status),
            said => said.trim_start_matches("error: ").to_string(),
        }),
    }
}

/// The child's side: prints the first device.
pub fn run() -> Result<(), String> {
    let library = nvrtc::open(Path::new(DRIVER))?;
    macro_rules! call {
        ($name:literal: $($kind:ty = $argument:expr),*) => {{
            // SAFETY: the types are those of the function in cuda.h.
            let function = unsafe {
                library.get::<unsafe extern "C" fn($($kind),*) -> c_int>(concat!($name, "\0"))
            };
            let function = function.map_err(|e| e.to_string())?;
            // SAFETY: every argument is a plain number or a place that lives through the call.
            match unsafe { function($($argument),*) } {
                0 => {}
                code => return Err(format!("{} of {DRIVER}: error {code}", $name)),
            }
        }};
    }
    call!("cuInit": c_uint = 0);
    let mut count = 0;
    call!("cuDeviceGetCount": *mut c_int = &mut count);
    if count < 1 {
        return Err("the driver counts no device".into());
    }
    let mut device = 0;
    call!("cuDeviceGet": *mut c_int = &mut device, c_int = 0);
    let mut name: [c_char; 256] = [0; 256];
    call!("cuDeviceGetName": *mut c_char = name.as_mut_ptr(), c_int = 255, c_int = device);
    // The numbers of CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
    let (mut major, mut minor) = (0, 0);
    call!("cuDeviceGetAttribute": *mut c_int = &mut major, c_int = 75, c_int = device);
    call!("cuDeviceGetAttribute": *mut c_int = &mut minor, c_int = 76, c_int = device);
    // SAFETY: the array was zero and the driver was given one byte less: a NUL closes it.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    println!("{}\t{major}.{minor}", name.to_string_lossy());
    Ok(())
}
