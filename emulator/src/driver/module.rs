//! Modules: PTX text becomes kernels and variables; the library interface over the same.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_void};

use crate::ptx::{LoadError, Module};

use super::error::{CUresult, Result};
use super::ffi::{In, Out, Text, api, current_call, say};
use super::queue::Until;
use super::state::{Driver, Function, Handle, LoadedModule, State, driver};

/// First bytes of images that hold machine code: ELF (a cubin) and the two forms of a fat binary.
const MACHINE_CODE: [[u8; 4]; 3] =
    [*b"\x7fELF", 0xba55_ed50_u32.to_le_bytes(), 0x4662_43b1_u32.to_le_bytes()];

/// Where a program wants the messages of a load, from its JIT options.
#[derive(Default)]
struct Log {
    buffer: usize,
    size: usize,
    /// The entry of the values array that takes the number of bytes written.
    written: Option<Out<usize>>,
}

impl Log {
    /// Writes a message and its NUL, cut to fit.
    fn write(&self, text: &str) {
        if self.buffer != 0 && self.size > 0 {
            let _ = super::device::write_text(text, Out(self.buffer as *mut c_char), self.size);
        }
        if let Some(written) = self.written {
            written.set_if(if self.buffer == 0 {
                0
            } else {
                text.len().min(self.size.saturating_sub(1))
            });
        }
    }
}

/// The logs that JIT options name: information and errors.
fn logs(count: u32, options: In<u32>, values: In<usize>) -> Result<[Log; 2]> {
    let mut logs = [Log::default(), Log::default()];
    for i in 0..count as usize {
        let option = options.at(i)?;
        let value = values.at(i)?;
        let log = &mut logs[usize::from(option >= 5)];
        match option {
            3 | 5 => log.buffer = value,
            4 | 6 => {
                // The value is a 32-bit number in a pointer's place.
                log.size = value as u32 as usize;
                log.written = Some(Out(values.0.wrapping_add(i).cast_mut()));
            }
            // Optimisation, debugging, caching: nothing that changes what the code does.
            _ => {}
        }
    }
    Ok(logs)
}

/// The error code of a refused module.
fn code_of(error: &LoadError) -> CUresult {
    match error {
        LoadError::UnsupportedVersion(_) => CUresult::UNSUPPORTED_PTX_VERSION,
        LoadError::UnsupportedTarget(_) => CUresult::NO_BINARY_FOR_GPU,
        LoadError::Syntax { .. }
        | LoadError::UnknownInstruction { .. }
        | LoadError::Unresolved(_) => CUresult::INVALID_PTX,
        LoadError::Other(text) if text.starts_with("out of device memory") => {
            CUresult::OUT_OF_MEMORY
        }
        LoadError::Other(_) => CUresult::INVALID_PTX,
    }
}

/// The virtual architecture that PTX text is for, as 80 for `sm_80`; 0 if it names none.
fn architecture(ptx: &str) -> i32 {
    let target = ptx.lines().find_map(|line| line.trim().strip_prefix(".target"));
    let digits = target.and_then(|t| t.trim().strip_prefix("sm_")).unwrap_or("");
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Loads an image into the current context.
fn load(module: Out<Handle>, image: &[u8], logs: &[Log; 2]) -> Result {
    let driver = driver()?;
    let context = {
        let (mut state, context) = driver.healthy()?;
        if module.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        state.unsafe_call()?;
        context
    };
    let refuse = |code: CUresult, text: &str| {
        logs[1].write(text);
        say(&format!("{}: {text}", current_call()));
        Err(code)
    };
    if MACHINE_CODE.iter().any(|magic| image.starts_with(magic)) {
        return refuse(
            CUresult::NO_BINARY_FOR_GPU,
            "the image is machine code; the emulator runs PTX only",
        );
    }
    let Ok(ptx) = std::str::from_utf8(image) else {
        return refuse(CUresult::INVALID_IMAGE, "the image is neither PTX text nor a known binary");
    };
    match Module::load(ptx, &driver.memory, &driver.config) {
        Ok(loaded) => {
            logs[0].write("");
            logs[1].write("");
            let mut state = driver.lock();
            state.living(context)?;
            let handle = state.new_handle();
            let architecture = architecture(ptx);
            state.modules.insert(
                handle,
                LoadedModule { context, module: loaded, architecture, functions: HashMap::new() },
            );
            module.set(handle)
        }
        Err(error) => refuse(code_of(&error), &error.to_string()),
    }
}

/// Loads an image in memory: binaries are recognised by their first bytes, text ends at a NUL.
fn load_data(module: Out<Handle>, image: *const c_void, logs: &[Log; 2]) -> Result {
    driver()?;
    if image.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: by contract the image is NUL-terminated text or a binary that begins with one of
    // these four-byte marks; bytes are compared one by one and reading stops at the first mismatch,
    // hence at a text's end at the latest.
    let binary = MACHINE_CODE.iter().find(|magic| {
        magic
            .iter()
            .enumerate()
            .all(|(i, &byte)| unsafe { image.cast::<u8>().add(i).read() } == byte)
    });
    if let Some(magic) = binary {
        return load(module, magic, logs);
    }
    // SAFETY: not a binary, hence NUL-terminated text.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    load(module, text.to_bytes(), logs)
}

/// Loads a file.
fn load_file(module: Out<Handle>, path: Text) -> Result {
    driver()?;
    let path = path.get()?;
    let image = std::fs::read(&path).map_err(|error| {
        say(&format!("{}: {path}: {error}", current_call()));
        CUresult::FILE_NOT_FOUND
    })?;
    let text = image.strip_suffix(b"\0").unwrap_or(&image);
    load(module, text, &Default::default())
}

/// Unloads a module once its context's work is done.
fn unload(module: Handle) -> Result {
    let driver = driver()?;
    let context = {
        let mut state = driver.lock();
        let context = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?.context;
        state.unsafe_call()?;
        context
    };
    let outcome = driver.run_until(Until::Context(context));
    let mut state = driver.lock();
    let gone = state.modules.remove(&module);
    state.functions.retain(|_, f| f.module != module);
    drop(state);
    drop(gone);
    outcome
}

/// A function of a module, by name.
fn function(module: Handle, name: Text) -> Result<Handle> {
    let (mut state, _) = driver()?.healthy()?;
    let name = name.get()?;
    let entry = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?;
    if let Some(&function) = entry.functions.get(&name) {
        return Ok(function);
    }
    let kernel = entry.module.kernel(&name).ok_or(CUresult::NOT_FOUND)?;
    let handle = state.new_handle();
    state.functions.insert(
        handle,
        Function { module, kernel, max_dynamic_shared: None, attributes: BTreeMap::new() },
    );
    if let Some(entry) = state.modules.get_mut(&module) {
        entry.functions.insert(name, handle);
    }
    Ok(handle)
}

/// A variable of a module, by name.
fn variable(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) -> Result {
    let (state, _) = driver()?.healthy()?;
    let entry = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?;
    let (base, size) = entry.module.global(&name.get()?).ok_or(CUresult::NOT_FOUND)?;
    address.set_if(base);
    bytes.set_if(size);
    Ok(())
}

impl Driver {
    /// A function and whether its context is healthy.
    pub fn function<'a>(&self, state: &'a State, function: Handle) -> Result<&'a Function> {
        let entry = state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?;
        if let Some(module) = state.modules.get(&entry.module) {
            state.error_of(module.context)?;
        }
        Ok(entry)
    }
}

api! {
    /// Loads a module from a file.
    fn cuModuleLoad(module: Out<Handle>, path: Text) { load_file(module, path) }

    /// Loads a module from memory.
    fn cuModuleLoadData(module: Out<Handle>, image: *const c_void) { load_data(module, image, &Default::default()) }

    /// Loads a module from memory, with options: the log buffers are filled, the rest is ignored.
    fn cuModuleLoadDataEx(
        module: Out<Handle>,
        image: *const c_void,
        count: u32,
        options: In<u32>,
        values: In<usize>,
    ) {
        load_data(module, image, &logs(count, options, values)?)
    }

    /// Loads a fat binary: there is no machine code that the emulator could run.
    fn cuModuleLoadFatBinary(module: Out<Handle>, image: *const c_void) { load_data(module, image, &Default::default()) }

    /// Unloads a module.
    fn cuModuleUnload(module: Handle) { unload(module) }

    /// A function of a module.
    fn cuModuleGetFunction(out: Out<Handle>, module: Handle, name: Text) { out.set(function(module, name)?) }

    /// How many functions a module has.
    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        let state = driver()?.lock();
        let entry = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?;
        count.set(entry.module.kernels().count() as u32)
    }

    /// A variable of a module.
    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        variable(address, bytes, module, name)
    }

    /// Modules are loaded whole at once.
    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        driver()?;
        mode.set(1)
    }

    /// Loads a library: here the same as a module of the current context.
    fn cuLibraryLoadData(
        library: Out<Handle>,
        code: *const c_void,
        options: In<u32>,
        values: In<usize>,
        count: u32,
        _library_options: usize,
        _library_values: usize,
        _library_count: u32,
    ) {
        load_data(library, code, &logs(count, options, values)?)
    }

    /// Loads a library from a file.
    fn cuLibraryLoadFromFile(
        library: Out<Handle>,
        path: Text,
        _options: usize,
        _values: usize,
        _count: u32,
        _library_options: usize,
        _library_values: usize,
        _library_count: u32,
    ) {
        load_file(library, path)
    }

    /// Unloads a library.
    fn cuLibraryUnload(library: Handle) { unload(library) }

    /// A kernel of a library.
    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) { kernel.set(function(library, name)?) }

    /// How many kernels a library has.
    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        let state = driver()?.lock();
        let entry = state.modules.get(&library).ok_or(CUresult::INVALID_HANDLE)?;
        count.set(entry.module.kernels().count() as u32)
    }

    /// The module of a library: the same thing.
    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        let state = driver()?.lock();
        state.modules.get(&library).ok_or(CUresult::INVALID_HANDLE)?;
        module.set(library)
    }

    /// A variable of a library.
    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        variable(address, bytes, library, name)
    }

    /// The function of a kernel: the same thing.
    fn cuKernelGetFunction(out: Out<Handle>, kernel: Handle) {
        let state = driver()?.lock();
        state.functions.get(&kernel).ok_or(CUresult::INVALID_HANDLE)?;
        out.set(kernel)
    }
}
