//! What the emulator's tests share: tables of cases that run one instruction form with one lane per case, and
//! launches of hand-written kernels.
//!
//! With `EMULATOR_TEST_PTX=<folder>` every PTX text that a test loads is also written there, so that NVIDIA's
//! assembler can be asked whether it is valid: `ptxas -arch=sm_90 file.ptx -o /dev/null`.
#![allow(dead_code)]

pub mod exact;

use cuda_emulator::config::Config;
use cuda_emulator::exec::{self, Fault, FaultKind, Launch};
use cuda_emulator::memory::Memory;
use cuda_emulator::ptx::{LoadError, Module};
use cuda_emulator::report::Counters;
use std::cell::{Cell, RefCell};

pub const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";
pub const HEADER_90: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

/// A configuration that depends on no environment variable.
pub fn config() -> Config {
    let timeout = std::time::Duration::from_secs(20);
    Config { compute_capability: (9, 0), seed: 1, threads: 1, timeout, ..Config::default() }
}

fn keep(ptx: &str) {
    if let Ok(folder) = std::env::var("EMULATOR_TEST_PTX") {
        let hash = ptx
            .bytes()
            .fold(14695981039346656037u64, |h, b| (h ^ u64::from(b)).wrapping_mul(1099511628211));
        let name = std::thread::current().name().unwrap_or("test").replace("::", "_");
        std::fs::write(format!("{folder}/{name}-{hash:016x}.ptx"), ptx).unwrap();
    }
}

pub fn load(ptx: &str, memory: &Memory, config: &Config) -> Result<Module, LoadError> {
    keep(ptx);
    Module::load(ptx, memory, config)
}

/// The shape of a launch of the kernel `test` and what it is given.
#[derive(Clone)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// Whether all blocks are there at the same time.
    pub cooperative: bool,
    pub config: Config,
}

pub fn shape(grid: u32, block: u32) -> Shape {
    Shape {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: 0,
        cooperative: false,
        config: config(),
    }
}

impl Shape {
    pub fn launch(&self) -> Launch {
        Launch {
            dynamic_shared: self.dynamic_shared,
            cooperative: self.cooperative,
            ..Launch::new(self.grid, self.block)
        }
    }

    pub fn dynamic(mut self, bytes: u32) -> Shape {
        self.dynamic_shared = bytes;
        self
    }

    pub fn seed(mut self, seed: u64) -> Shape {
        self.config.seed = seed;
        self
    }

    pub fn late(mut self, late: bool) -> Shape {
        self.config.late_copies = late;
        self
    }

    pub fn threads(mut self, threads: usize) -> Shape {
        self.config.threads = threads;
        self
    }

    /// Runs `test` of the module with these 64-bit parameters on this memory.
    pub fn run_on(&self, memory: &Memory, ptx: &str, params: &[u64]) -> Result<Counters, Fault> {
        let module = load(ptx, memory, &self.config)
            .unwrap_or_else(|e| panic!("the module is refused: {e:?}"));
        let kernel = module.kernel("test").expect("no kernel named test");
        let bytes: Vec<u8> = params.iter().flat_map(|p| p.to_le_bytes()).collect();
        exec::launch(memory, &kernel, &self.launch(), &bytes, &self.config)
    }

    /// Runs `test(in, out)`; `out` starts as zeros. Returns the output words and the counters.
    pub fn run(
        &self,
        ptx: &str,
        input: &[u32],
        outputs: usize,
    ) -> Result<(Vec<u32>, Counters), Fault> {
        let memory = Memory::new();
        let source = buffer(&memory, input);
        let target = buffer(&memory, &vec![0; outputs]);
        let counters = self.run_on(&memory, ptx, &[source, target])?;
        Ok((words(&memory, target, outputs), counters))
    }
}

/// A new allocation that holds these words; never empty.
pub fn buffer(memory: &Memory, data: &[u32]) -> u64 {
    let address = memory.alloc(4 * data.len().max(1)).unwrap();
    let bytes: Vec<u8> = data.iter().flat_map(|w| w.to_le_bytes()).collect();
    memory.write(address, &bytes).unwrap();
    address
}

pub fn words(memory: &Memory, address: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * count];
    memory.read(address, &mut bytes).unwrap();
    bytes.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
}

/// An allocation that nobody wrote.
pub fn blank(memory: &Memory, bytes: usize) -> u64 {
    memory.alloc(bytes).unwrap()
}

/// A kernel `test(in, out)` whose body finds the registers `in`, `out` (64 bits), `tid`, `cta` and `lane`.
pub fn kernel(declarations: &str, body: &str) -> String {
    kernel_for(HEADER, declarations, body)
}

pub fn kernel_for(header: &str, declarations: &str, body: &str) -> String {
    format!(
        "{header}{declarations}
.visible .entry test(.param .u64 param_in, .param .u64 param_out)
{{
    .reg .b64 in, out;
    .reg .b32 tid, cta, lane;
    ld.param.u64 in, [param_in];
    ld.param.u64 out, [param_out];
    cvta.to.global.u64 in, in;
    cvta.to.global.u64 out, out;
    mov.u32 tid, %tid.x;
    mov.u32 cta, %ctaid.x;
    mov.u32 lane, %laneid;
{body}
    ret;
}}
"
    )
}

/// The number of the only line that contains `marker`, counted from 1.
pub fn line_of(ptx: &str, marker: &str) -> u32 {
    let lines: Vec<u32> =
        (1..).zip(ptx.lines()).filter(|(_, l)| l.contains(marker)).map(|(i, _)| i).collect();
    assert_eq!(lines.len(), 1, "{marker} is on {} lines", lines.len());
    lines[0]
}

const INPUTS: [&str; 12] = ["a", "b", "c", "e", "f", "g", "h", "i", "j", "k", "l", "m"];
const OUTPUTS: [&str; 9] = ["d", "x", "y", "z", "w", "v", "u", "t", "s"];

/// Collects the mismatches of many instruction forms and fails once, when dropped, with all of them.
pub struct Table {
    header: String,
    declarations: String,
    failures: RefCell<Vec<String>>,
    cases: Cell<usize>,
    config: Config,
}

pub fn table() -> Table {
    table_for(HEADER, "")
}

/// A table of 9.0 instructions.
pub fn table_90() -> Table {
    table_for(HEADER_90, "")
}

/// A table whose modules start with these declarations.
pub fn table_for(header: &str, declarations: &str) -> Table {
    Table {
        header: header.into(),
        declarations: declarations.into(),
        failures: RefCell::default(),
        cases: Cell::new(0),
        config: config(),
    }
}

fn register(kind: &str) -> &'static str {
    match kind {
        "pred" => ".pred",
        "b16" | "f16" | "bf16" => ".b16",
        "b32" | "f32" | "f16x2" | "bf16x2" => ".b32",
        "b64" | "f64" => ".b64",
        _ => panic!("unknown type {kind}"),
    }
}

fn load_text(kind: &str, name: &str, offset: usize) -> String {
    match register(kind) {
        ".pred" => format!(
            "ld.global.b32 row_word, [row_in+{offset}];\n    setp.ne.b32 {name}, row_word, 0;"
        ),
        width => format!("ld.global{width} {name}, [row_in+{offset}];"),
    }
}

fn store_text(kind: &str, name: &str, offset: usize) -> String {
    match register(kind) {
        ".pred" => format!(
            "selp.b32 row_word, 1, 0, {name};\n    st.global.b32 [row_out+{offset}], row_word;"
        ),
        width => format!("st.global{width} [row_out+{offset}], {name};"),
    }
}

fn half_equal(format: exact::Format, got: u64, want: u64) -> bool {
    (0..2).all(|i| {
        let (g, w) = (got >> (16 * i) & 0xffff, want >> (16 * i) & 0xffff);
        g == w || format.is_nan(g) && format.is_nan(w)
    })
}

/// Equal bits; not-a-number equals not-a-number where the type is a floating-point one.
fn equal(kind: &str, got: u64, want: u64) -> bool {
    got == want
        || match kind {
            "f16" => exact::F16.is_nan(got) && exact::F16.is_nan(want),
            "bf16" => exact::BF16.is_nan(got) && exact::BF16.is_nan(want),
            "f32" => exact::F32.is_nan(got) && exact::F32.is_nan(want),
            "f64" => exact::F64.is_nan(got) && exact::F64.is_nan(want),
            "f16x2" => half_equal(exact::F16, got, want),
            "bf16x2" => half_equal(exact::BF16, got, want),
            _ => false,
        }
}

fn hex(values: &[u64]) -> String {
    values.iter().map(|v| format!("{v:#x}")).collect::<Vec<_>>().join(" ")
}

impl Table {
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Table {
        change(&mut self.config);
        self
    }

    fn fail(&self, text: String) {
        self.failures.borrow_mut().push(text);
    }

    /// The kernel that runs `op` with one lane per row: inputs are the registers a b c e f g h i j k l m, outputs
    /// the registers d x y z w v u t s, of the types that `signature` lists (`b32 b32 -> b32`).
    pub fn text(&self, op: &str, signature: &str) -> String {
        let (inputs, outputs) = signature.split_once("->").unwrap();
        let inputs: Vec<&str> = inputs.split_whitespace().collect();
        let outputs: Vec<&str> = outputs.split_whitespace().collect();
        let mut registers = String::new();
        let (mut loads, mut stores) = (String::new(), String::new());
        for (i, kind) in inputs.iter().enumerate() {
            registers += &format!("    .reg {} {};\n", register(kind), INPUTS[i]);
            loads += &format!("    {}\n", load_text(kind, INPUTS[i], 8 * i));
        }
        for (i, kind) in outputs.iter().enumerate() {
            registers += &format!("    .reg {} {};\n", register(kind), OUTPUTS[i]);
            stores += &format!("    {}\n", store_text(kind, OUTPUTS[i], 8 * i));
        }
        format!(
            "{}{}
.visible .entry test(.param .u64 param_in, .param .u64 param_out)
{{
    .reg .b64 row_in, row_out;
    .reg .b32 row, row_word;
{registers}    ld.param.u64 row_in, [param_in];
    ld.param.u64 row_out, [param_out];
    mov.u32 row, %ctaid.x;
    mov.u32 row_word, %tid.x;
    mad.lo.u32 row, row, 32, row_word;
    mad.wide.u32 row_in, row, {}, row_in;
    mad.wide.u32 row_out, row, {}, row_out;
{loads}
    {op}
{stores}    ret;
}}
",
            self.header,
            self.declarations,
            8 * inputs.len(),
            8 * outputs.len(),
        )
    }

    /// Runs `op` with one lane per row; the outputs of each row, or what went wrong.
    pub fn outputs(&self, op: &str, signature: &str, rows: &[Vec<u64>]) -> Option<Vec<Vec<u64>>> {
        let (inputs, outputs) = signature.split_once("->").unwrap();
        let inputs = inputs.split_whitespace().count();
        let outputs: Vec<&str> = outputs.split_whitespace().collect();
        assert!(rows.iter().all(|row| row.len() == inputs), "{op}: a row has not {inputs} inputs");
        let ptx = self.text(op, signature);
        let memory = Memory::new();
        let module = match load(&ptx, &memory, &self.config) {
            Ok(module) => module,
            Err(error) => {
                self.fail(format!("{op}: refused: {error:?}"));
                return None;
            }
        };
        let padded = rows.len().next_multiple_of(32);
        let all = (0..padded).map(|i| &rows[i.min(rows.len() - 1)]);
        let data: Vec<u32> = all.flatten().flat_map(|&v| [v as u32, (v >> 32) as u32]).collect();
        let source = buffer(&memory, &data);
        let target = buffer(&memory, &vec![0; 2 * padded * outputs.len()]);
        let kernel = module.kernel("test").expect("no kernel named test");
        let launch = Launch::new([(padded / 32) as u32, 1, 1], [32, 1, 1]);
        let params: Vec<u8> = [source, target].iter().flat_map(|p| p.to_le_bytes()).collect();
        if let Err(fault) = exec::launch(&memory, &kernel, &launch, &params, &self.config) {
            self.fail(format!("{op}: {fault:?}"));
            return None;
        }
        let got = words(&memory, target, 2 * padded * outputs.len());
        let got: Vec<u64> =
            got.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        self.cases.set(self.cases.get() + rows.len());
        Some(got.chunks(outputs.len().max(1)).take(rows.len()).map(<[u64]>::to_vec).collect())
    }

    /// Runs `op` on every row and compares with `want(row)`.
    pub fn check(
        &self,
        op: &str,
        signature: &str,
        rows: &[Vec<u64>],
        want: impl Fn(&[u64]) -> Vec<u64>,
    ) {
        self.check_all(op, signature, rows, &rows.iter().map(|row| want(row)).collect::<Vec<_>>());
    }

    /// Runs `op` on every row and compares with the row of `want`.
    pub fn check_all(&self, op: &str, signature: &str, rows: &[Vec<u64>], want: &[Vec<u64>]) {
        assert_eq!(rows.len(), want.len());
        let kinds: Vec<&str> = signature.split_once("->").unwrap().1.split_whitespace().collect();
        assert!(
            want.iter().all(|w| w.len() == kinds.len()),
            "{op}: an expectation has not {} values",
            kinds.len()
        );
        let Some(got) = self.outputs(op, signature, rows) else { return };
        let wrong: Vec<String> = (0..rows.len())
            .filter(|&i| !(0..kinds.len()).all(|k| equal(kinds[k], got[i][k], want[i][k])))
            .map(|i| {
                format!("row {i}: {} gave {}, not {}", hex(&rows[i]), hex(&got[i]), hex(&want[i]))
            })
            .collect();
        if !wrong.is_empty() {
            let shown = wrong.iter().take(4).cloned().collect::<Vec<_>>().join("\n      ");
            self.fail(format!("{op}: {} of {} cases\n      {shown}", wrong.len(), rows.len()));
        }
    }

    /// Literal cases: inputs and the outputs they must give.
    pub fn literal(&self, op: &str, signature: &str, cases: &[(&[u64], &[u64])]) {
        let rows: Vec<Vec<u64>> = cases.iter().map(|(row, _)| row.to_vec()).collect();
        let want: Vec<Vec<u64>> = cases.iter().map(|(_, want)| want.to_vec()).collect();
        self.check_all(op, signature, &rows, &want);
    }

    /// Runs an approximation of one f32 on every input: each result is as near to `want` as `near(want, got)` asks.
    pub fn approximates(
        &self,
        op: &str,
        inputs: &[u32],
        want: impl Fn(f64) -> f64,
        near: impl Fn(f64, f64, f64) -> bool,
    ) {
        let rows: Vec<Vec<u64>> = inputs.iter().map(|&x| vec![u64::from(x)]).collect();
        let Some(got) = self.outputs(op, "f32 -> f32", &rows) else { return };
        for (&input, got) in inputs.iter().zip(got) {
            let x = f64::from(f32::from_bits(input));
            let got = f64::from(f32::from_bits(got[0] as u32));
            if !near(x, want(x), got) {
                self.fail(format!("{op}: {x:e} ({input:#x}) gave {got:e}, not {:e}", want(x)));
            }
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let failures = self.failures.borrow();
        if !std::thread::panicking() {
            assert!(
                failures.is_empty(),
                "{} forms fail:\n  {}",
                failures.len(),
                failures.join("\n  ")
            );
            assert!(self.cases.get() > 0, "an empty table");
        }
    }
}

/// Every value alone.
pub fn each(values: &[u64]) -> Vec<Vec<u64>> {
    values.iter().map(|&v| vec![v]).collect()
}

/// Every pair of the two lists.
pub fn pairs(a: &[u64], b: &[u64]) -> Vec<Vec<u64>> {
    a.iter().flat_map(|&x| b.iter().map(move |&y| vec![x, y])).collect()
}

/// Every triple of the three lists.
pub fn triples(a: &[u64], b: &[u64], c: &[u64]) -> Vec<Vec<u64>> {
    pairs(a, b).into_iter().flat_map(|p| c.iter().map(move |&z| vec![p[0], p[1], z])).collect()
}

/// A repeatable stream of 64-bit words.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn many(&mut self, count: usize, bits: u32) -> Vec<u64> {
        (0..count).map(|_| self.next() >> (64 - bits)).collect()
    }
}

/// Integers of `bits` bits at which arithmetic goes wrong, and a few others.
pub fn integers(bits: u32) -> Vec<u64> {
    let all = u64::MAX >> (64 - bits);
    let top = 1 << (bits - 1);
    let mut values =
        vec![0, 1, 2, 3, 7, top - 1, top, top + 1, all - 1, all, all / 3, 1 << (bits / 2)];
    values.extend(Random::new(u64::from(bits)).many(4, bits));
    values
}

/// Sign-extends the lowest `bits` bits.
pub fn signed(value: u64, bits: u32) -> i128 {
    i128::from((value << (64 - bits)) as i64 >> (64 - bits))
}

/// The lowest `bits` bits.
pub fn cut(value: i128, bits: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - bits))
}

/// Zeros, subnormals, normals, the largest, infinities, both kinds of not-a-number, and some plain numbers.
pub fn floats(format: exact::Format) -> Vec<u64> {
    let one = ((1u64 << (format.exponent - 1)) - 1) << format.mantissa;
    let least = 1 << format.mantissa;
    let positive = [
        0,
        1,
        least - 1,
        least,
        least + 1,
        one - 1,
        one,
        one + 1,
        one + (1 << (format.mantissa - 1)),
        one + (3 << (format.mantissa - 2)) + least,
        exact::bits(format, 1234.5678),
        format.largest(),
        format.infinity(),
        format.nan(),
    ];
    positive.iter().flat_map(|&v| [v, v | format.sign()]).chain([format.infinity() + 1]).collect()
}

/// The failure of a launch that must not succeed.
#[track_caller]
pub fn fault(result: Result<impl Sized, Fault>) -> Fault {
    match result {
        Ok(_) => panic!("the launch succeeded"),
        Err(fault) => fault,
    }
}

#[track_caller]
pub fn kind(result: Result<impl Sized, Fault>, want: FaultKind) -> Fault {
    let fault = fault(result);
    assert_eq!(fault.kind, want, "{fault:?}");
    fault
}
