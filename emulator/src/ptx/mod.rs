//! PTX: parsing, checking and lowering to the form that the interpreter runs.

use std::fmt;
use std::sync::Arc;

use crate::{Config, Memory, MemoryError};

/// Why a module was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The text is not PTX as this parser knows it.
    Syntax {
        /// Line in the PTX text, from 1.
        line: u32,
        /// What was expected.
        message: String,
    },
    /// An instruction, or a form of one, that the interpreter does not have.
    UnknownInstruction {
        /// Line in the PTX text, from 1.
        line: u32,
        /// The instruction as written.
        text: String,
    },
    /// The PTX version is newer than the parser.
    UnsupportedVersion(String),
    /// The target is newer than the device's compute capability, or none of the kind.
    UnsupportedTarget(String),
    /// An external function or variable that no one defines.
    Unresolved(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Syntax { line, message } => write!(f, "PTX line {line}: {message}"),
            LoadError::UnknownInstruction { line, text } => write!(f, "PTX line {line}: unknown instruction `{text}`"),
            LoadError::UnsupportedVersion(v) => write!(f, "PTX version {v} is not supported"),
            LoadError::UnsupportedTarget(t) => write!(f, "PTX target {t} does not run on this device"),
            LoadError::Unresolved(name) => write!(f, "`{name}` is declared but defined nowhere"),
            LoadError::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<MemoryError> for LoadError {
    fn from(error: MemoryError) -> LoadError {
        LoadError::Other(error.to_string())
    }
}

/// Where a kernel parameter lies in the packed parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    /// Offset of the parameter in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
}

/// A loaded module: its kernels and its global variables, which live in device memory as long as it does.
pub struct Module {}

impl Module {
    /// Parses and lowers PTX text, and places its variables in `memory`.
    pub fn load(ptx: &str, memory: &Memory, config: &Config) -> Result<Module, LoadError> {
        let _ = (ptx, memory, config);
        todo!()
    }

    /// The kernel of that (mangled) name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        let _ = name;
        todo!()
    }

    /// Address and size of the global or constant variable of that name.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        let _ = name;
        todo!()
    }

    /// Every kernel of the module.
    pub fn kernels(&self) -> impl Iterator<Item = &Arc<Kernel>> {
        [].iter()
    }
}

/// A kernel, ready to launch.
pub struct Kernel {}

impl Kernel {
    /// The kernel's name as in the PTX.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Its parameters in order.
    pub fn params(&self) -> &[ParamLayout] {
        todo!()
    }

    /// Bytes of static shared memory.
    pub fn static_shared(&self) -> usize {
        todo!()
    }

    /// Bytes of local memory a thread uses, without what recursion adds.
    pub fn local_size(&self) -> usize {
        todo!()
    }

    /// Bytes of constant memory of the module.
    pub fn const_size(&self) -> usize {
        todo!()
    }

    /// An estimate of the registers a thread would use on a GPU.
    pub fn registers(&self) -> u32 {
        todo!()
    }

    /// Most threads a block may have: `.maxntid` or `.reqntid`, else 1024.
    pub fn max_threads_per_block(&self) -> u32 {
        todo!()
    }

    /// Cluster dimensions that the kernel requires (`.reqnctapercluster`).
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        todo!()
    }
}
