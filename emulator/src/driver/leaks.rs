//! What a context still holds when it is destroyed, or when the process ends.

use std::sync::LazyLock;

use super::ffi::say;
use super::state::{Handle, State, driver};

/// What to do about leaks: `CUDA_EMULATOR_LEAKS`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Say nothing.
    Ignore,
    /// Say what leaks when its context is destroyed.
    Report,
    /// As `Report`, and end the process with status 70.
    Fatal,
}

static POLICY: LazyLock<Policy> =
    LazyLock::new(|| match std::env::var("CUDA_EMULATOR_LEAKS").as_deref() {
        Ok("ignore") => Policy::Ignore,
        Ok("fatal") => Policy::Fatal,
        Ok("report") | Ok("") | Err(_) => Policy::Report,
        Ok(other) => {
            say(&format!(
                "CUDA_EMULATOR_LEAKS={other} cannot be read; use ignore, report or fatal"
            ));
            Policy::Report
        }
    });

/// Describes what `context` still holds, one line each.
pub fn of_context(state: &State, context: Handle) -> Vec<String> {
    let mut lines = Vec::new();
    for (address, allocation) in
        state.allocations.iter().filter(|(_, a)| a.context == context && a.graph.is_none())
    {
        lines.push(format!(
            "{} bytes at {address:#x}, allocated by {}",
            allocation.bytes, allocation.call
        ));
    }
    for (address, range) in
        state.host.iter().filter(|(_, h)| h.context == context && h.owned.is_some())
    {
        lines.push(format!("{} bytes of page-locked host memory at {address:#x}", range.bytes));
    }
    let defaults = |handle: &Handle| {
        state
            .contexts
            .get(&context)
            .is_some_and(|c| c.legacy == *handle || c.per_thread.values().any(|s| s == handle))
    };
    let counts = [
        (
            state
                .streams
                .iter()
                .filter(|(h, s)| s.context == context && !s.destroyed && !defaults(h))
                .count(),
            "streams",
        ),
        (state.events.values().filter(|e| e.context == context).count(), "events"),
        (state.modules.values().filter(|m| m.context == context).count(), "modules"),
        (
            state.executables.values().filter(|e| e.context == context).count(),
            "instantiated graphs",
        ),
    ];
    lines.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    lines
}

/// Reports the leaks of a context that is gone.
pub fn report(lines: &[String]) {
    if lines.is_empty() || *POLICY == Policy::Ignore {
        return;
    }
    for line in lines {
        say(&format!("leak: {line}"));
    }
    if *POLICY == Policy::Fatal {
        say("leaks are fatal here (CUDA_EMULATOR_LEAKS=fatal)");
        if let Ok(driver) = driver() {
            flush(driver);
        }
        // Not `exit`: handlers and destructors would call into the driver again.
        // SAFETY: `_exit` has no preconditions.
        unsafe { _exit(70) };
    }
}

/// Writes the counters; a failure is said, not hidden.
pub fn flush(driver: &super::state::Driver) {
    if let Err(error) = driver.recorder.flush() {
        say(&format!("the counters cannot be written: {error}"));
    }
}

unsafe extern "C" {
    fn atexit(handler: extern "C" fn()) -> i32;
    fn _exit(status: i32) -> !;
}

/// Has `at_exit` called when the process ends.
pub fn watch_exit() {
    // SAFETY: registers a function without arguments that stays loaded: programs do not unload a
    // driver, and the C library runs a library's handlers when it is unloaded.
    unsafe { atexit(at_exit) };
}

/// Writes the counters, and, where leaks are fatal, treats a context that was never destroyed as
/// one that is destroyed now.
extern "C" fn at_exit() {
    let outcome = std::panic::catch_unwind(|| {
        let Ok(driver) = driver() else { return };
        flush(driver);
        if *POLICY == Policy::Fatal {
            let lines: Vec<String> = {
                let state = driver.lock();
                let healthy = state.contexts.iter().filter(|(_, c)| c.error.is_none());
                healthy.flat_map(|(&context, _)| of_context(&state, context)).collect()
            };
            report(&lines);
        }
    });
    if outcome.is_err() {
        say("internal error at exit");
    }
}
