//! NVRTC, loaded at run time: the few functions that turn CUDA C++ into PTX and cubins.
//!
//! Shared by build.rs and by `cargo xtask`. One [`Nvrtc`] may be used from many threads: NVRTC's
//! documentation allows concurrent calls as long as no two of them work on the same program, and
//! every compilation here owns its.

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;

/// The oldest NVRTC that knows every architecture option used here (sm_90a).
const OLDEST: (i32, i32) = (12, 0);

/// The options of every compilation, besides the architecture. No fast math: kernels name their
/// approximations. No line tables: with them the images take 15 MB of every program, instead of 5.
pub const OPTIONS: [&str; 1] = ["--std=c++17"];

type Handle = *mut c_void;
type Status = c_int;

/// A loaded NVRTC.
pub struct Nvrtc {
    /// The file it was loaded from, or the bare name by which the loader found it.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (i32, i32),
    /// The architectures it compiles for: 80, 86, …
    archs: Vec<c_int>,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    log: (SizeFunction, BytesFunction),
    ptx: (SizeFunction, BytesFunction),
    cubin: (SizeFunction, BytesFunction),
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    // Never unloaded: NVRTC keeps state per thread whose destructors would outlive its code.
    _libraries: ManuallyDrop<Vec<Library>>,
}

type SizeFunction = unsafe extern "C" fn(Handle, *mut usize) -> Status;
type BytesFunction = unsafe extern "C" fn(Handle, *mut c_char) -> Status;

/// What a compilation gives.
pub struct Compiled {
    /// PTX text, closed by a NUL as the driver wants it.
    pub ptx: Vec<u8>,
    /// The machine code: empty when a virtual architecture (compute_80) was asked for.
    pub cubin: Vec<u8>,
    /// Warnings; empty as a rule.
    pub log: String,
}

impl Nvrtc {
    /// Loads this library file, or the library that the loader finds by this name.
    pub fn load(path: &Path) -> Result<Nvrtc, String> {
        let mut libraries = Vec::new();
        if let Some(builtins) = builtins_beside(path) {
            // Wheels carry no search path: NVRTC finds its second library only if that is already
            // loaded.
            libraries.push(open(&builtins)?);
        }
        let library = open(path)?;

        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types of the fields that take these are those of the functions in
                // nvrtc.h, and the libraries are never unloaded.
                unsafe { *library.get($name).map_err(|e| e.to_string())? }
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status =
            function!(b"nvrtcVersion\0");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two valid places for two integers.
        if unsafe { version(&mut major, &mut minor) } != 0 {
            return Err("nvrtcVersion failed".into());
        }
        if (major, minor) < OLDEST {
            return Err(format!("version {major}.{minor} is older than {}.{}", OLDEST.0, OLDEST.1));
        }
        let arch_count: unsafe extern "C" fn(*mut c_int) -> Status =
            function!(b"nvrtcGetNumSupportedArchs\0");
        let arch_list: unsafe extern "C" fn(*mut c_int) -> Status =
            function!(b"nvrtcGetSupportedArchs\0");
        let mut count = 0;
        // SAFETY: a valid place for the count.
        if unsafe { arch_count(&mut count) } != 0 {
            return Err("nvrtcGetNumSupportedArchs failed".into());
        }
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: room for as many integers as NVRTC said it will write.
        if unsafe { arch_list(archs.as_mut_ptr()) } != 0 {
            return Err("nvrtcGetSupportedArchs failed".into());
        }
        Ok(Nvrtc {
            path: path.to_path_buf(),
            version: (major, minor),
            archs,
            create: function!(b"nvrtcCreateProgram\0"),
            compile: function!(b"nvrtcCompileProgram\0"),
            destroy: function!(b"nvrtcDestroyProgram\0"),
            log: (function!(b"nvrtcGetProgramLogSize\0"), function!(b"nvrtcGetProgramLog\0")),
            ptx: (function!(b"nvrtcGetPTXSize\0"), function!(b"nvrtcGetPTX\0")),
            cubin: (function!(b"nvrtcGetCUBINSize\0"), function!(b"nvrtcGetCUBIN\0")),
            error_string: function!(b"nvrtcGetErrorString\0"),
            _libraries: ManuallyDrop::new({
                libraries.push(library);
                libraries
            }),
        })
    }

    /// Whether it compiles for an architecture: "80", "90a".
    pub fn supports(&self, arch: &str) -> bool {
        // The list holds plain numbers; since version 12.0 every `a` variant comes with its number.
        let number = arch.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        number.parse().is_ok_and(|number: c_int| self.archs.contains(&number))
    }

    /// Compiles a program for `architecture` ("sm_90a": PTX and machine code; "compute_80": PTX
    /// alone).
    ///
    /// `name` is its file, "kernels/simt.cu"; `headers` are the contents of every file it may
    /// include, each with the name it is included by, relative to the folder of `name`. An error is
    /// NVRTC's log.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(String, String)],
        architecture: &str,
    ) -> Result<Compiled, String> {
        let text =
            |s: &str| CString::new(s).map_err(|_| format!("{name}: a NUL byte in a source file"));
        // Headers in memory have no folder: messages and line tables would name them wrongly.
        let placed = |file: &str, content: &str| text(&format!("#line 1 \"{file}\"\n{content}"));
        let folder =
            name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let names: Vec<CString> =
            headers.iter().map(|(name, _)| text(name)).collect::<Result<_, _>>()?;
        let contents: Vec<CString> = headers
            .iter()
            .map(|(header, content)| placed(&format!("{folder}{header}"), content))
            .collect::<Result<_, _>>()?;
        let names: Vec<*const c_char> = names.iter().map(|s| s.as_ptr()).collect();
        let contents: Vec<*const c_char> = contents.iter().map(|s| s.as_ptr()).collect();
        let count = c_int::try_from(headers.len()).map_err(|e| e.to_string())?;
        let (source, file) = (placed(name, source)?, text(name)?);
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: every pointer is to a NUL-terminated string, the two arrays hold `count` of them,
        // all outlive the call, and NVRTC copies what it keeps.
        let status = unsafe {
            (self.create)(
                &mut handle,
                source.as_ptr(),
                file.as_ptr(),
                count,
                contents.as_ptr(),
                names.as_ptr(),
            )
        };
        if status != 0 {
            return Err(format!("{name}: nvrtcCreateProgram: {}", self.explain(status)));
        }
        let program = Program { nvrtc: self, handle };

        let architecture_option = format!("--gpu-architecture={architecture}");
        let options = OPTIONS.iter().copied().chain([architecture_option.as_str()]);
        let options: Vec<CString> = options.map(text).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|s| s.as_ptr()).collect();
        // SAFETY: a live program used by this thread alone, and as many NUL-terminated options as
        // are counted.
        let status =
            unsafe { (self.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.bytes(self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_string();
        if status != 0 {
            return Err(if log.is_empty() { self.explain(status) } else { log });
        }
        let cubin =
            if architecture.starts_with("sm_") { program.bytes(self.cubin)? } else { Vec::new() };
        Ok(Compiled { ptx: program.bytes(self.ptx)?, cubin, log })
    }

    fn explain(&self, status: Status) -> String {
        // SAFETY: NVRTC answers every number with a static string.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        text.to_string_lossy().into_owned()
    }
}

/// One compilation; destroyed with its result read.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

impl Program<'_> {
    fn bytes(&self, (size, get): (SizeFunction, BytesFunction)) -> Result<Vec<u8>, String> {
        let mut length = 0;
        // SAFETY: a live program and a valid place for the length.
        let status = unsafe { size(self.handle, &mut length) };
        let mut bytes = vec![0u8; length];
        let status = match status {
            // SAFETY: room for as many bytes as NVRTC said it will write.
            0 => unsafe { get(self.handle, bytes.as_mut_ptr().cast()) },
            status => status,
        };
        if status == 0 { Ok(bytes) } else { Err(self.nvrtc.explain(status)) }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this NVRTC, destroyed once.
        unsafe { (self.nvrtc.destroy)(&mut self.handle) };
    }
}

/// The library of precompiled device functions that belongs to an NVRTC in the same folder.
fn builtins_beside(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let prefix = if cfg!(windows) { "nvrtc-builtins64_" } else { "libnvrtc-builtins.so" };
    // The one in the file's real folder: a toolkit's libnvrtc.so may be a link out of it.
    let real = std::fs::canonicalize(path).ok();
    let folder = real.as_deref().and_then(Path::parent).unwrap_or(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|n| n.starts_with(prefix) && !n.contains(".alt."))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop()
}

/// Opens a library whose dependencies lie beside it.
pub fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: NVIDIA's libraries; their initialisers have no preconditions.
    #[cfg(windows)]
    let opened = unsafe {
        use libloading::os::windows as system;
        let flags = if path.is_absolute() { system::LOAD_WITH_ALTERED_SEARCH_PATH } else { 0 };
        system::Library::load_with_flags(path, flags).map(Library::from)
    };
    // SAFETY: as above.
    #[cfg(not(windows))]
    let opened = unsafe { Library::new(path) };
    opened.map_err(|error| match std::error::Error::source(&error) {
        // The system's own words, which name the file.
        Some(source) => source.to_string(),
        None => error.to_string(),
    })
}
