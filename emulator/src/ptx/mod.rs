//! PTX: parsing, checking and lowering to the form that the interpreter runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::exec::program::{
    self as exec, Builtin, FUNCTION_WINDOW, Function, Instr, Kind, NONE, Program, SharedVariable,
};
use crate::exec::shared::Layout;
use crate::{Config, Memory, MemoryError};

mod lexer;
mod lower;
pub(crate) mod parser;

use lower::Globals;
use parser::{Init, Space};

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
            LoadError::UnknownInstruction { line, text } => {
                write!(f, "PTX line {line}: unknown instruction `{text}`")
            }
            LoadError::UnsupportedVersion(v) => write!(f, "PTX version {v} is not supported"),
            LoadError::UnsupportedTarget(t) => {
                write!(f, "PTX target {t} does not run on this device")
            }
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

/// The newest PTX version that the parser was written for.
const NEWEST: (u32, u32) = (9, 0);

/// A loaded module: its kernels and its global variables, which live in device memory as long as it does.
pub struct Module {
    kernels: Vec<Arc<Kernel>>,
    globals: HashMap<String, (u64, usize)>,
    memory: Memory,
}

impl Drop for Module {
    fn drop(&mut self) {
        for &(address, _) in self.globals.values() {
            // Whoever freed a module's variable has been told already.
            let _ = self.memory.free(address);
        }
    }
}

impl Module {
    /// Parses and lowers PTX text, and places its variables in `memory`.
    pub fn load(ptx: &str, memory: &Memory, config: &Config) -> Result<Module, LoadError> {
        let ptx = ptx.trim_end_matches('\0');
        let tree = parser::parse(ptx)?;
        if tree.version > NEWEST {
            return Err(LoadError::UnsupportedVersion(tree.version_text));
        }
        check_target(&tree.target, config)?;
        let mut module =
            Module { kernels: Vec::new(), globals: HashMap::new(), memory: memory.clone() };
        let mut program = Program::default();
        let mut globals = Globals::default();
        let mut const_size = 0;
        for v in &tree.variables {
            if v.space == Space::Shared {
                globals.shared.insert(v.name.clone(), program.shared.len() as u32);
                let dynamic = v.external || v.size == 0;
                let shared = SharedVariable { size: v.size, align: v.align, dynamic };
                program.shared.push(shared);
            } else if !v.external {
                let read_only = v.space == Space::Const;
                const_size += if read_only { v.size } else { 0 };
                let address = memory.alloc_owned(v.size.max(1), read_only)?;
                module.globals.insert(v.name.clone(), (address, v.size));
                globals.addresses.insert(v.name.clone(), address);
            }
        }
        let defined: Vec<&parser::Function> =
            tree.functions.iter().filter(|f| f.body.is_some()).collect();
        for (id, f) in defined.iter().filter(|f| !f.kernel).enumerate() {
            globals.functions.insert(f.name.clone(), id as u32);
        }
        for (alias, name) in &tree.aliases {
            if let Some(&id) = globals.functions.get(name) {
                globals.functions.insert(alias.clone(), id);
            }
        }
        for f in tree.functions.iter().filter(|f| f.body.is_none()) {
            let builtin = match f.name.as_str() {
                "vprintf" => Builtin::Printf,
                "__assertfail" => Builtin::AssertFail,
                _ => continue,
            };
            globals.builtins.insert(f.name.clone(), builtin);
        }
        module.initialise(&tree.variables, &globals)?;
        let mut rows = [0; 3];
        for f in defined.iter().filter(|f| !f.kernel) {
            let function = lower::function(&mut program, &globals, f, rows, false)?;
            rows = [function.rows[0].end, function.rows[1].end, function.rows[2].end];
            program.functions.push(function);
        }
        mark_recursion(&mut program.functions);
        let mut kernels = Vec::new();
        for f in defined.iter().filter(|f| f.kernel) {
            kernels.push((lower::function(&mut program, &globals, f, rows, true)?, *f));
        }
        let program = Arc::new(program);
        for (function, tree) in kernels {
            module.kernels.push(Arc::new(Kernel::new(&program, function, tree, const_size)));
        }
        Ok(module)
    }

    /// Writes the initial values of the variables; what has none is zero.
    fn initialise(
        &self,
        variables: &[parser::Variable],
        globals: &Globals,
    ) -> Result<(), LoadError> {
        for v in variables {
            let Some(&(address, size)) = self.globals.get(&v.name) else { continue };
            let mut bytes = Vec::with_capacity(size);
            let target = |name: &str| {
                let found = globals.addresses.get(name).copied();
                let function =
                    || globals.functions.get(name).map(|&id| FUNCTION_WINDOW + 16 * id as u64);
                found.or_else(function).ok_or_else(|| LoadError::Unresolved(name.to_string()))
            };
            for init in &v.init {
                match init {
                    Init::Bits(bits) => bytes.extend(&bits.to_le_bytes()[..v.ty.size().min(8)]),
                    Init::Address(name, offset) => {
                        let value = target(name)?.wrapping_add_signed(*offset);
                        bytes.extend(&value.to_le_bytes()[..v.ty.size().min(8)]);
                    }
                    Init::Byte(name, shift) => bytes.push((target(name)? >> shift) as u8),
                }
            }
            bytes.resize(size.max(1), 0);
            self.memory.write(address, &bytes)?;
        }
        Ok(())
    }

    /// The kernel of that (mangled) name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.iter().find(|k| k.name() == name).cloned()
    }

    /// Address and size of the global or constant variable of that name.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        self.globals.get(name).copied()
    }

    /// Every kernel of the module.
    pub fn kernels(&self) -> impl Iterator<Item = &Arc<Kernel>> {
        self.kernels.iter()
    }
}

/// Whether code for the target runs on the configured device: older ones do, `a` variants only on their own.
fn check_target(target: &str, config: &Config) -> Result<(), LoadError> {
    let refused = || LoadError::UnsupportedTarget(target.to_string());
    let number = target.strip_prefix("sm_").ok_or_else(refused)?;
    let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: u32 = digits.parse().map_err(|_| refused())?;
    let (major, minor) = config.compute_capability;
    let device = 10 * major + minor;
    let fits = match &number[digits.len()..] {
        "" => value <= device,
        "f" => value <= device && value / 10 == major,
        _ => value == device,
    };
    if fits { Ok(()) } else { Err(refused()) }
}

/// Functions reachable from some, each once.
fn reach(functions: &[Function], from: &Function) -> Vec<u32> {
    let mut found = from.calls.clone();
    found.sort_unstable();
    found.dedup();
    let mut at = 0;
    // Who calls through a pointer may call whatever somebody took the address of: those are among `calls`.
    let everything = from.indirect || functions.iter().any(|f| f.indirect);
    if everything {
        found = (0..functions.len() as u32).collect();
    }
    while at < found.len() {
        for &next in &functions[found[at] as usize].calls {
            if !found.contains(&next) {
                found.push(next);
            }
        }
        at += 1;
    }
    found
}

fn mark_recursion(functions: &mut [Function]) {
    let recursive: Vec<bool> = functions
        .iter()
        .enumerate()
        .map(|(id, f)| reach(functions, f).contains(&(id as u32)))
        .collect();
    for (f, r) in functions.iter_mut().zip(recursive) {
        f.recursive = r;
    }
}

/// Whether threads may be ordered by more than barriers of the whole block: by barriers of some warps, by mbarriers,
/// or through words of shared memory.
fn needs_clocks<'a>(code: impl Iterator<Item = &'a Instr>) -> bool {
    let (mut fences, mut words) = (false, false);
    let shared = |s| matches!(s, exec::Space::Shared | exec::Space::Generic);
    for instr in code {
        match &instr.kind {
            Kind::Bar(bar) if bar.count != NONE => return true,
            Kind::MBarrier(..) => return true,
            Kind::Fence(_) => fences = true,
            Kind::Atomic(a) if shared(a.address.space) => {
                words = true;
                fences |= a.order.release;
            }
            Kind::Load(a) | Kind::Store(a) if a.order.strong && shared(a.address.space) => {
                words = true;
                fences |= a.order.release;
            }
            _ => {}
        }
    }
    fences && words
}

/// A kernel, ready to launch.
pub struct Kernel {
    pub(crate) program: Arc<Program>,
    pub(crate) function: Function,
    /// Device functions it may call.
    pub(crate) reached: Vec<u32>,
    /// Shared variables it and they use.
    pub(crate) shared: Vec<u32>,
    /// Uses more than barriers of the whole block to order its threads.
    pub(crate) complex: bool,
    params: Vec<ParamLayout>,
    static_shared: usize,
    local_size: usize,
    const_size: usize,
    registers: u32,
    max_threads: u32,
    pub(crate) required_threads: Option<[u32; 3]>,
    required_cluster: Option<[u32; 3]>,
}

impl Kernel {
    fn new(
        program: &Arc<Program>,
        function: Function,
        tree: &parser::Function,
        const_size: usize,
    ) -> Kernel {
        let reached = reach(&program.functions, &function);
        let mut shared = function.shared.clone();
        let mut local_size = function.frame as usize;
        for &id in &reached {
            let f = &program.functions[id as usize];
            shared.extend(
                f.shared.iter().copied().filter(|s| !shared.contains(s)).collect::<Vec<_>>(),
            );
            local_size += f.frame as usize;
        }
        // In the order of declaration, as a compiler would place them.
        shared.sort_unstable();
        shared.dedup();
        let variables: Vec<&SharedVariable> =
            shared.iter().map(|&s| &program.shared[s as usize]).collect();
        let static_shared = Layout::new(&variables, 0).static_size;
        let mut at = 0;
        let params = tree.signature.params.iter().map(|p| {
            at = usize::next_multiple_of(at, p.align.max(1));
            let layout = ParamLayout { offset: at, size: p.size, align: p.align.max(1) };
            at += p.size;
            layout
        });
        let params = params.collect();
        let threads =
            tree.required_threads.or(tree.max_threads).map_or(1024, |t| t.iter().product());
        let declared = (function.rows[0].len() + 2 * function.rows[1].len()) as u32;
        let registers =
            declared.next_multiple_of(8).clamp(16, (65536 / threads.max(1)).clamp(16, 255));
        let code = reached.iter().map(|&id| &program.functions[id as usize]).chain([&function]);
        let complex =
            needs_clocks(code.flat_map(|f| &program.code[f.entry as usize..f.end as usize]));
        Kernel {
            program: program.clone(),
            reached,
            shared,
            complex,
            params,
            static_shared,
            local_size,
            const_size,
            registers,
            max_threads: threads.min(1024),
            required_threads: tree.required_threads,
            required_cluster: tree.required_cluster,
            function,
        }
    }

    /// The kernel's name as in the PTX.
    pub fn name(&self) -> &str {
        &self.function.name
    }

    /// Its parameters in order.
    pub fn params(&self) -> &[ParamLayout] {
        &self.params
    }

    /// Bytes of static shared memory.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// Bytes of local memory a thread uses, without what recursion adds.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// Bytes of constant memory of the module.
    pub fn const_size(&self) -> usize {
        self.const_size
    }

    /// An estimate of the registers a thread would use on a GPU: those that the PTX declares, bounded so that a
    /// block of the largest size the kernel allows still fits.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// Most threads a block may have: `.maxntid` or `.reqntid`, else 1024.
    pub fn max_threads_per_block(&self) -> u32 {
        self.max_threads
    }

    /// Cluster dimensions that the kernel requires (`.reqnctapercluster`).
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        self.required_cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let config = |cc| Config { compute_capability: cc, ..Config::default() };
        assert!(check_target("sm_80", &config((8, 0))).is_ok());
        assert!(check_target("sm_75", &config((8, 0))).is_ok());
        assert!(check_target("sm_86", &config((8, 0))).is_err());
        assert!(check_target("sm_90a", &config((9, 0))).is_ok());
        assert!(check_target("sm_90a", &config((10, 0))).is_err());
        assert!(check_target("sm_100f", &config((10, 3))).is_ok());
    }
}
