//! The C boundary: pointer arguments with checked access, the guard that keeps panics inside,
//! and the macro that declares an exported function.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::error::{CUresult, Result};

/// An output argument: a pointer that the caller promises is null or valid for one write.
///
/// The promise is the C contract of the exported function that takes it; inside, writing is safe
/// and a null pointer is INVALID_VALUE.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(pub *mut T);

impl<T> Out<T> {
    /// Stores `value`.
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, and by the exported function's contract writable. C callers need not
        // align what they pass through void pointers, so alignment is not assumed.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores `value` where the caller asked for it, for outputs that may be null.
    pub fn set_if(self, value: T) {
        let _ = self.set(value);
    }

    /// Whether the caller passed null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// An input argument: a pointer that the caller promises is null or valid for reading.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct In<T>(pub *const T);

impl<T: Copy> In<T> {
    /// Reads the value; null is INVALID_VALUE.
    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// Reads element `index` of the array; null is INVALID_VALUE.
    pub fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, and by the exported function's contract readable up to the count that
        // the caller passed beside it, which bounds every index used.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// Whether the caller passed null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// A NUL-terminated text argument.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(pub *const c_char);

impl Text {
    /// The text; null or not UTF-8 is INVALID_VALUE.
    pub fn get(self) -> Result<String> {
        if self.0.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, and NUL-terminated by the exported function's contract.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| CUresult::INVALID_VALUE)
    }
}

/// One exported function, for `cuGetProcAddress`.
#[derive(Clone, Copy)]
pub struct Symbol(pub &'static str, pub *const c_void);

// SAFETY: the pointer is the address of a function; it is handed out, never read through.
unsafe impl Sync for Symbol {}

/// Declares exported driver functions, and the module's table of them.
///
/// A body is a block of type `Result`; it runs inside [`guard`].
macro_rules! api {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            ///
            /// # Safety
            /// Pointers must be as the CUDA driver API asks of this function.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::driver::error::CUresult {
                $crate::driver::ffi::guard(stringify!($name), move || $body)
            }
        )*

        /// The functions of this module by name.
        pub(in $crate::driver) static TABLE: &[$crate::driver::ffi::Symbol] = &[
            $($crate::driver::ffi::Symbol(stringify!($name), $name as *const std::ffi::c_void),)*
        ];
    };
}
pub(in crate::driver) use api;

thread_local! {
    /// The exported function that this thread is inside, for messages.
    static CALL: Cell<&'static str> = const { Cell::new("") };
}

/// The name of the exported function that this thread is inside.
pub fn current_call() -> &'static str {
    CALL.get()
}

/// Runs the body of an exported function: no panic crosses into C, and under
/// `CUDA_EMULATOR_TRACE=1` every call and its answer goes to stderr.
pub fn guard(name: &'static str, body: impl FnOnce() -> Result) -> CUresult {
    static TRACE: LazyLock<bool> =
        LazyLock::new(|| std::env::var("CUDA_EMULATOR_TRACE").is_ok_and(|v| v != "0"));
    let outer = CALL.replace(name);
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CUresult::SUCCESS,
        Ok(Err(code)) => code,
        Err(panic) => {
            say(&format!("internal error in {name}: {}", panic_text(&*panic)));
            CUresult::UNKNOWN
        }
    };
    CALL.set(outer);
    if *TRACE {
        say(&format!("{name} -> {}", code.name()));
    }
    code
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "panic"
    }
}

/// One line on stderr, marked as the emulator's.
pub fn say(text: &str) {
    eprintln!("cuda-emulator: {text}");
}

/// The answer to a call that the emulator lacks: NOT_SUPPORTED, and once its name on stderr.
pub fn unsupported(name: &'static str) -> CUresult {
    static SAID: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Default::default);
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        say(&format!("{name} is not supported"));
    }
    CUresult::NOT_SUPPORTED
}
