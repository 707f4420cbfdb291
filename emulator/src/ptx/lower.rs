//! Lowering: names become registers and addresses, opcodes become functions. What has no lowering is refused.

use std::collections::HashMap;

use super::LoadError;
use super::parser::{self, Inst, Operand, Space as PtxSpace, Stmt, Type, Variable, literal_bits};
use crate::exec::alu::{self, Mods};
use crate::exec::matrix;
use crate::exec::program::*;
use crate::exec::regs::{
    self, Alu, AluFn, Cell, IMM, LANES, NEGATED, Regs, SRC, Slots, lanes, op, plain,
};
use crate::report::Class;

/// What a name stands for inside a function.
#[derive(Clone, Debug)]
enum Symbol {
    Reg {
        slot: u32,
        class: RegClass,
    },
    /// A place in the frame: local variables, call parameters, a device function's own parameters.
    Frame(u32),
    /// A kernel parameter: its offset.
    Param(u32),
    Shared(u32),
    Label(u32),
    Targets(Vec<String>),
    Prototype,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RegClass {
    Short,
    Word,
    Wide,
    Quad,
    Pred,
}

/// Names known in the whole module.
#[derive(Default)]
pub(super) struct Globals {
    /// Addresses of global and constant variables.
    pub addresses: HashMap<String, u64>,
    pub shared: HashMap<String, u32>,
    pub functions: HashMap<String, u32>,
    pub builtins: HashMap<String, Builtin>,
}

type Res<T> = Result<T, LoadError>;

/// Lowers one function into the program; answers what the module must know of it.
pub(super) fn function(
    program: &mut Program,
    globals: &Globals,
    tree: &parser::Function,
    first_rows: [u32; 3],
    is_kernel: bool,
) -> Res<Function> {
    let mut f = Lower {
        program,
        globals,
        rows: first_rows,
        scopes: vec![HashMap::new()],
        out: Function { name: tree.name.clone(), ..Function::default() },
        frame: 0,
        labels: Vec::new(),
        fixes: Vec::new(),
        constants: HashMap::new(),
        predicates: [NONE; 2],
        carry: NONE,
        guard: NONE,
        line: tree.line,
        text: String::new(),
        indexed: Vec::new(),
    };
    f.out.entry = f.program.code.len() as u32;
    if is_kernel {
        let mut at = 0usize;
        for p in &tree.signature.params {
            at = at.next_multiple_of(p.align.max(1));
            f.scopes[0].insert(p.name.clone(), Symbol::Param(at as u32));
            at += p.size;
        }
    } else {
        for (list, returns) in [(&tree.signature.params, false), (&tree.signature.returns, true)] {
            for p in list {
                if p.space != PtxSpace::Param {
                    return Err(f.syntax("function parameters in registers are not supported"));
                }
                let place = f.place(p);
                f.scopes[0].insert(p.name.clone(), Symbol::Frame(place.offset));
                if returns { f.out.returns.push(place) } else { f.out.params.push(place) }
            }
        }
    }
    f.block(tree.body.as_deref().unwrap_or_default())?;
    // Falling off the end returns.
    f.guard = NONE;
    f.text = "ret".into();
    f.push(Kind::Ret, Class::Control, true);
    for (at, label) in std::mem::take(&mut f.fixes) {
        let target = f.labels[label as usize];
        f.program.code[at].kind = Kind::Bra(target);
    }
    for (at, slot, labels) in std::mem::take(&mut f.indexed) {
        let targets = labels.iter().map(|l| f.labels[*l as usize]).collect();
        f.program.code[at].kind = Kind::BraIndexed(slot, targets);
    }
    for (slot, value) in [(f.predicates[0], false), (f.predicates[1], true)] {
        if slot != NONE {
            f.out.initial_predicates.push((slot, value));
        }
    }
    f.out.end = f.program.code.len() as u32;
    f.out.frame = f.frame.next_multiple_of(16);
    for (range, (first, end)) in f.out.rows.iter_mut().zip(first_rows.into_iter().zip(f.rows)) {
        *range = first..end;
    }
    Ok(f.out)
}

struct Lower<'a> {
    program: &'a mut Program,
    globals: &'a Globals,
    /// Next free row of each file.
    rows: [u32; 3],
    scopes: Vec<HashMap<String, Symbol>>,
    out: Function,
    frame: u32,
    labels: Vec<u32>,
    fixes: Vec<(usize, u32)>,
    indexed: Vec<(usize, u32, Vec<u32>)>,
    constants: HashMap<(bool, Initial), u32>,
    /// Rows of the constant predicates.
    predicates: [u32; 2],
    carry: u32,
    guard: u32,
    line: u32,
    text: String,
}

/// The predicate operands `%p|%q`, either of which may be missing.
type PredPair = (u32, u32);

impl Lower<'_> {
    fn syntax(&self, message: impl Into<String>) -> LoadError {
        LoadError::Syntax { line: self.line, message: message.into() }
    }

    fn unknown(&self) -> LoadError {
        LoadError::UnknownInstruction { line: self.line, text: self.text.clone() }
    }

    fn row(&mut self, file: usize) -> u32 {
        self.rows[file] += 1;
        self.rows[file] - 1
    }

    fn temp(&mut self, wide: bool) -> Reg {
        Reg { slot: self.row(wide as usize), wide }
    }

    fn place(&mut self, v: &Variable) -> Place {
        self.frame = self.frame.next_multiple_of(v.align.max(1) as u32);
        let place = Place { offset: self.frame, size: v.size as u32 };
        self.frame += v.size as u32;
        place
    }

    fn push(&mut self, kind: Kind, class: Class, counted: bool) -> usize {
        let instr = Instr { kind, guard: self.guard, class, counted, exponentials: 0 };
        self.program.code.push(instr);
        self.program.source.push((self.line, self.text.as_str().into()));
        self.program.code.len() - 1
    }

    fn push_alu(&mut self, alu: &Alu, slots: Slots, class: Class, counted: bool) {
        self.push(Kind::Alu(alu.f, slots), class, counted);
    }

    fn find(&self, name: &str) -> Option<&Symbol> {
        self.scopes.iter().rev().find_map(|s| s.get(name))
    }

    fn block(&mut self, body: &[Stmt]) -> Res<()> {
        self.scopes.push(HashMap::new());
        for stmt in body {
            if let Stmt::Label(name) = stmt {
                let id = self.labels.len() as u32;
                self.labels.push(NONE);
                self.declare(name, Symbol::Label(id));
            } else if let Stmt::Targets(name, targets) = stmt {
                self.declare(name, Symbol::Targets(targets.clone()));
            } else if let Stmt::Prototype(name, _) = stmt {
                self.declare(name, Symbol::Prototype);
            }
        }
        for stmt in body {
            match stmt {
                Stmt::Label(name) => {
                    if let Some(&Symbol::Label(id)) = self.find(name) {
                        self.labels[id as usize] = self.program.code.len() as u32;
                    }
                }
                Stmt::Inst(inst) => self.inst(inst)?,
                Stmt::Block(inner) => self.block(inner)?,
                Stmt::Regs(ty, names, lanes) => self.registers(*ty, names, *lanes)?,
                Stmt::Var(v) => self.variable(v)?,
                Stmt::Targets(..) | Stmt::Prototype(..) => {}
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn declare(&mut self, name: &str, symbol: Symbol) {
        self.scopes.last_mut().expect("a scope is open").insert(name.to_string(), symbol);
    }

    fn registers(&mut self, ty: Type, names: &[(String, Option<u32>)], lanes: usize) -> Res<()> {
        if lanes != 1 {
            return Err(self.syntax("vector registers are not supported"));
        }
        let class = match ty {
            Type::Pred => RegClass::Pred,
            _ => match ty.size() {
                1 | 2 => RegClass::Short,
                4 => RegClass::Word,
                8 => RegClass::Wide,
                _ => RegClass::Quad,
            },
        };
        for (name, count) in names {
            let numbered = count.map(|n| (0..n).map(|i| format!("{name}{i}")).collect());
            for name in numbered.unwrap_or_else(|| vec![name.clone()]) {
                let slot = match class {
                    RegClass::Pred => self.row(2),
                    RegClass::Wide => self.row(1),
                    RegClass::Quad => {
                        self.row(1);
                        self.row(1) - 1
                    }
                    _ => self.row(0),
                };
                self.declare(&name, Symbol::Reg { slot, class });
            }
        }
        Ok(())
    }

    fn variable(&mut self, v: &Variable) -> Res<()> {
        match v.space {
            PtxSpace::Local | PtxSpace::Param => {
                let place = self.place(v);
                self.declare(&v.name, Symbol::Frame(place.offset));
            }
            PtxSpace::Shared => {
                let id = self.program.shared.len() as u32;
                let dynamic = v.external || v.size == 0;
                self.program.shared.push(SharedVariable { size: v.size, align: v.align, dynamic });
                self.declare(&v.name, Symbol::Shared(id));
            }
            _ => {
                return Err(self.syntax(format!(
                    "a variable of this space (`{}`) inside a function is not supported",
                    v.name
                )));
            }
        }
        Ok(())
    }

    fn constant(&mut self, wide: bool, initial: Initial) -> u32 {
        if let Some(&slot) = self.constants.get(&(wide, initial)) {
            return slot;
        }
        let slot = self.row(wide as usize);
        self.constants.insert((wide, initial), slot);
        self.out.initial.push((Reg { slot, wide }, initial));
        slot
    }

    fn bits(&mut self, v: u32) -> u32 {
        self.constant(false, Initial::Bits(v as u64))
    }

    fn predicate_constant(&mut self, value: bool) -> u32 {
        if self.predicates[value as usize] == NONE {
            self.predicates[value as usize] = self.row(2);
        }
        self.predicates[value as usize]
    }

    /// A register by name, with its class.
    fn reg(&self, name: &str) -> Res<(u32, RegClass)> {
        match self.find(name) {
            Some(&Symbol::Reg { slot, class }) => Ok((slot, class)),
            _ => Err(self.syntax(format!("`{name}` is not a register"))),
        }
    }

    fn pred(&self, name: &str) -> Res<u32> {
        match self.reg(name)? {
            (slot, RegClass::Pred) => Ok(slot),
            _ => Err(self.syntax(format!("`{name}` is not a predicate"))),
        }
    }

    /// The address of a variable or function as a constant row, or a place in the frame.
    fn address_of(&mut self, name: &str, offset: i64, wide: bool) -> Res<u32> {
        let symbol = self.find(name).cloned();
        match symbol {
            Some(Symbol::Frame(place)) => {
                let reg = self.temp(wide);
                self.push(
                    Kind::FrameAddress(reg, (place as i64 + offset) as u32),
                    Class::Move,
                    false,
                );
                Ok(reg.slot)
            }
            Some(Symbol::Param(at)) => {
                Ok(self.constant(wide, Initial::Bits((at as i64 + offset) as u64)))
            }
            Some(Symbol::Shared(id)) => Ok(self.shared(id, offset, wide)),
            Some(_) => Err(self.syntax(format!("`{name}` has no address"))),
            None => {
                if let Some(&id) = self.globals.shared.get(name) {
                    return Ok(self.shared(id, offset, wide));
                }
                if let Some(&address) = self.globals.addresses.get(name) {
                    return Ok(
                        self.constant(wide, Initial::Bits(address.wrapping_add_signed(offset)))
                    );
                }
                if let Some(&id) = self.globals.functions.get(name) {
                    // Whoever takes its address may call it.
                    self.out.calls.push(id);
                    return Ok(self.constant(wide, Initial::Bits(FUNCTION_WINDOW + 16 * id as u64)));
                }
                Err(self.syntax(format!("`{name}` is not declared")))
            }
        }
    }

    fn shared(&mut self, id: u32, offset: i64, wide: bool) -> u32 {
        if !self.out.shared.contains(&id) {
            self.out.shared.push(id);
        }
        self.constant(wide, Initial::Shared(id, offset))
    }

    fn special(&mut self, name: &str, wide: bool) -> Res<Option<u32>> {
        let axis = |s: &str| match s {
            ".x" => Some(0),
            ".y" => Some(1),
            ".z" => Some(2),
            ".w" => Some(3),
            _ => None,
        };
        let (stem, component) =
            name.find('.').map_or((name, None), |at| (&name[..at], axis(&name[at..])));
        let special = match (stem, component) {
            (_, Some(3)) => Special::Zero,
            ("%tid", Some(c)) => Special::Tid(c),
            ("%ntid", Some(c)) => Special::Ntid(c),
            ("%ctaid", Some(c)) => Special::Ctaid(c),
            ("%nctaid", Some(c)) => Special::Nctaid(c),
            ("%clusterid", Some(c)) => Special::ClusterId(c),
            ("%nclusterid", Some(c)) => Special::NClusterId(c),
            ("%cluster_ctaid", Some(c)) => Special::ClusterCtaId(c),
            ("%cluster_nctaid", Some(c)) => Special::ClusterNCtaId(c),
            ("%cluster_ctarank", None) => Special::ClusterCtaRank,
            ("%cluster_nctarank", None) => Special::ClusterNCtaRank,
            ("%laneid", None) => Special::LaneId,
            ("%warpid", None) => Special::WarpId,
            ("%nwarpid", None) => Special::NWarpId,
            ("WARP_SZ", None) => Special::WarpSize,
            ("%smid", None) => Special::SmId,
            ("%nsmid", None) => Special::NSmId,
            ("%gridid", None) => Special::GridId,
            ("%lanemask_eq", None) => Special::LaneMaskEq,
            ("%lanemask_le", None) => Special::LaneMaskLe,
            ("%lanemask_lt", None) => Special::LaneMaskLt,
            ("%lanemask_ge", None) => Special::LaneMaskGe,
            ("%lanemask_gt", None) => Special::LaneMaskGt,
            ("%dynamic_smem_size", None) => Special::DynamicShared,
            ("%total_smem_size" | "%aggr_smem_size", None) => Special::TotalShared,
            _ => {
                let (clock, clock_wide) = match name {
                    "%clock" => (Clock::Cycles, false),
                    "%clock_hi" => (Clock::CyclesHigh, false),
                    "%clock64" => (Clock::Cycles64, true),
                    "%globaltimer" => (Clock::Nanoseconds, true),
                    "%globaltimer_lo" => (Clock::NanosecondsLow, false),
                    "%globaltimer_hi" => (Clock::NanosecondsHigh, false),
                    _ => return Ok(None),
                };
                if clock_wide != wide {
                    return Err(
                        self.syntax(format!("`{name}` does not have the instruction's width"))
                    );
                }
                let reg = self.temp(wide);
                self.push(Kind::Clock(clock, reg), Class::Move, false);
                return Ok(Some(reg.slot));
            }
        };
        Ok(Some(self.constant(wide, Initial::Special(special))))
    }

    /// A source operand: the row it is in.
    fn source(&mut self, operand: &Operand, kind: regs::Operand) -> Res<u32> {
        use regs::Operand as K;
        let wide = matches!(kind, K::U64 | K::F64);
        match operand {
            Operand::Name(name) | Operand::Not(name) => {
                let symbol = self.find(name).cloned();
                let negated = matches!(operand, Operand::Not(_));
                match (symbol, kind) {
                    (Some(Symbol::Reg { slot, class: RegClass::Pred }), K::Pred) => {
                        Ok(if negated { slot | NEGATED } else { slot })
                    }
                    (Some(Symbol::Reg { slot, class: RegClass::Wide }), K::U64 | K::F64)
                        if !negated =>
                    {
                        Ok(slot)
                    }
                    (
                        Some(Symbol::Reg { slot, class: RegClass::Short | RegClass::Word }),
                        K::U16 | K::U32 | K::F32,
                    ) if !negated => Ok(slot),
                    // A wider register stands for its lower part.
                    (Some(Symbol::Reg { slot, class: RegClass::Wide }), K::U16 | K::U32)
                        if !negated =>
                    {
                        let low = self.row(0);
                        let cut = op!(|a: u64; _i| -> u32 { a as u32 });
                        self.push_alu(&cut, [low, 0, slot, 0, 0, 0, 0], Class::Move, false);
                        Ok(low)
                    }
                    (Some(Symbol::Reg { .. }), _) => Err(self.syntax(format!(
                        "`{name}` does not have the type that `{}` wants",
                        self.text
                    ))),
                    _ if kind == K::Pred || negated => {
                        Err(self.syntax(format!("`{name}` is not a predicate")))
                    }
                    (None, _) if name.starts_with('%') || name == "WARP_SZ" => match self
                        .special(name, wide)?
                    {
                        Some(slot) => Ok(slot),
                        None => Err(self.syntax(format!("`{name}` is not a register known here"))),
                    },
                    _ => self.address_of(name, 0, wide),
                }
            }
            Operand::Sum(name, offset) => self.address_of(name, *offset, wide),
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => match kind {
                K::Pred => {
                    let value = !matches!(operand, Operand::Int(0));
                    Ok(self.predicate_constant(value))
                }
                K::U16 => Ok(self.bits(literal_bits(operand, Type::U16, false) as u32 & 0xffff)),
                K::U32 => Ok(self.bits(literal_bits(operand, Type::U32, false) as u32)),
                K::F32 => Ok(self.bits(literal_bits(operand, Type::F32, false) as u32)),
                K::U64 => {
                    let v = literal_bits(operand, Type::U64, false);
                    Ok(self.constant(true, Initial::Bits(v)))
                }
                K::F64 => {
                    let v = literal_bits(operand, Type::F64, false);
                    Ok(self.constant(true, Initial::Bits(v)))
                }
            },
            _ => Err(self.unknown()),
        }
    }

    /// A destination operand; `_` gets a row nobody reads.
    fn dest(&mut self, operand: &Operand, kind: regs::Operand) -> Res<u32> {
        use regs::Operand as K;
        let file = match kind {
            K::Pred => 2,
            K::U64 | K::F64 => 1,
            _ => 0,
        };
        match operand {
            Operand::Sink => Ok(self.row(file)),
            Operand::Name(name) => {
                let (slot, class) = self.reg(name)?;
                let fits = match class {
                    RegClass::Pred => file == 2,
                    RegClass::Wide => file == 1,
                    RegClass::Short | RegClass::Word => file == 0,
                    RegClass::Quad => false,
                };
                if fits {
                    Ok(slot)
                } else {
                    Err(self.syntax(format!("`{name}` does not have the result's type")))
                }
            }
            _ => Err(self.unknown()),
        }
    }

    fn word(&mut self, operand: &Operand) -> Res<u32> {
        self.source(operand, regs::Operand::U32)
    }

    fn word_dest(&mut self, operand: &Operand) -> Res<u32> {
        self.dest(operand, regs::Operand::U32)
    }

    fn inst(&mut self, inst: &Inst) -> Res<()> {
        self.line = inst.line;
        self.text.clone_from(&inst.text);
        self.guard = NONE;
        if let Some((name, negated)) = &inst.guard {
            let slot = self.pred(name)?;
            self.guard = if *negated { slot | NEGATED } else { slot };
        }
        let mods = Mods::new(&inst.mods);
        let ops = inst.operands.as_slice();
        match inst.op.as_str() {
            "mov" if self.packed_move(inst)? => return Ok(()),
            "ld" | "ldu" => return self.load(&mods, ops),
            "st" => return self.store(&mods, ops),
            "atom" | "red" => return self.atomic(&mods, ops, inst.op == "atom"),
            "cvta" => return self.cvta(&mods, ops),
            "bra" | "brx" => return self.branch(inst, &mods),
            "call" => return self.call(inst, &mods),
            "bar" | "barrier" => return self.barrier(inst, &mods),
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => {
                return self.warp_wide(inst, &mods);
            }
            "cp" => return self.async_copy(inst, &mods),
            "mbarrier" => return self.mbarrier(&mods, ops),
            "mma" | "ldmatrix" | "stmatrix" | "movmatrix" => return self.matrix(inst, &mods),
            "isspacep" => {
                let space = match mods.any() {
                    Some("global" | "const") => Space::Global,
                    Some("shared" | "shared::cta" | "shared::cluster") => Space::Shared,
                    Some("local") => Space::Local,
                    Some("param" | "param::entry") => Space::Param,
                    _ => return Err(self.unknown()),
                };
                let [d, a] = ops else { return Err(self.unknown()) };
                let d = self.dest(d, regs::Operand::Pred)?;
                let a = self.source(a, regs::Operand::U64)?;
                self.push(Kind::IsSpace(d, a, space), Class::Predicate, true);
                return Ok(());
            }
            _ => {}
        }
        if self.simple(inst)? {
            return Ok(());
        }
        self.arithmetic(inst, &mods)
    }

    /// Instructions without operands that matter.
    fn simple(&mut self, inst: &Inst) -> Res<bool> {
        let (kind, class) = match inst.op.as_str() {
            "ret" => (Kind::Ret, Class::Control),
            "exit" => (Kind::Exit, Class::Control),
            "trap" | "brkpt" => (Kind::Trap, Class::Control),
            "membar" | "fence" => (Kind::Fence(!inst.has("cta")), Class::Fence),
            // Hints, and waits that nothing here depends on.
            "nanosleep" | "prefetch" | "prefetchu" | "discard" | "applypriority"
            | "griddepcontrol" | "pmevent" | "setmaxnreg" => (Kind::Nop, Class::Other),
            "createpolicy" => {
                // The policy is a number that only cache hints read.
                let Some(first) = inst.operands.first() else { return Err(self.unknown()) };
                let d = self.dest(first, regs::Operand::U64)?;
                let zero = self.constant(true, Initial::Bits(0));
                let alu = op!(|a: u64; _i| -> u64 { a });
                self.push_alu(&alu, [d, 0, zero, 0, 0, 0, 0], Class::Other, true);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.push(kind, class, true);
        Ok(true)
    }

    fn arithmetic(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        let mut operands = inst.operands.clone();
        let two = matches!(operands.first(), Some(Operand::Pair(..)));
        let carries = inst.has("cc") || matches!(inst.op.as_str(), "addc" | "subc" | "madc");
        // `lop3.op.b32 d|p, a, b, c, lut, q`
        if inst.op == "lop3" && operands.len() == 6 {
            return self.lop3_with_predicate(inst);
        }
        let Some(chosen) = alu::select(&inst.op, mods, operands.len(), two) else {
            return Err(self.unknown());
        };
        let alu = chosen.alu;
        let mut slots = [0; 7];
        slots[IMM] = chosen.imm;
        if operands.is_empty() {
            return Err(self.unknown());
        }
        let first = operands.remove(0);
        if carries && self.carry == NONE {
            self.carry = self.row(2);
        }
        let takes_carry = carries && inst.op.ends_with('c');
        let expected = alu.src.len() - takes_carry as usize;
        if operands.len() != expected {
            return Err(self.unknown());
        }
        for (i, operand) in operands.iter().enumerate() {
            slots[SRC + i] = self.source(operand, alu.src[i])?;
        }
        if takes_carry {
            slots[SRC + expected] = self.carry;
        }
        match (&first, alu.dst) {
            (Operand::Pair(p, q), [a, b]) => {
                let as_operand =
                    |n: &String| if n == "_" { Operand::Sink } else { Operand::Name(n.clone()) };
                slots[0] = self.dest(&as_operand(p), *a)?;
                slots[1] = self.dest(&as_operand(q), *b)?;
            }
            (_, [a, _]) if carries => {
                slots[0] = self.dest(&first, *a)?;
                slots[1] = if inst.has("cc") { self.carry } else { self.row(2) };
            }
            (_, [a]) => slots[0] = self.convert_dest(inst, &first, *a)?,
            _ => return Err(self.unknown()),
        }
        let at = self.push(Kind::Alu(alu.f, slots), chosen.class, true);
        self.program.code[at].exponentials = chosen.exponentials;
        if let (Operand::Name(name), [a]) = (&first, alu.dst)
            && inst.op == "cvt"
        {
            self.extend_result(inst, name, *a, slots[0])?;
        }
        Ok(())
    }

    /// The destination of a `cvt` may be wider than its type: then the result goes through a temporary.
    fn convert_dest(&mut self, inst: &Inst, operand: &Operand, kind: regs::Operand) -> Res<u32> {
        if inst.op == "cvt"
            && let Operand::Name(name) = operand
            && let (_, RegClass::Wide) = self.reg(name)?
            && !matches!(kind, regs::Operand::U64 | regs::Operand::F64)
        {
            return Ok(self.row(0));
        }
        self.dest(operand, kind)
    }

    fn extend_result(
        &mut self,
        inst: &Inst,
        name: &str,
        kind: regs::Operand,
        from: u32,
    ) -> Res<()> {
        let (slot, class) = self.reg(name)?;
        if class != RegClass::Wide || matches!(kind, regs::Operand::U64 | regs::Operand::F64) {
            return Ok(());
        }
        let signed = inst.mods.iter().find_map(|m| Type::parse(m)).is_some_and(Type::is_signed);
        let alu = if signed {
            op!(|a: i32; _i| -> i64 { a as i64 })
        } else {
            op!(|a: u32; _i| -> u64 { a as u64 })
        };
        self.push_alu(&alu, [slot, 0, from, 0, 0, 0, 0], Class::Conversion, false);
        Ok(())
    }

    fn lop3_with_predicate(&mut self, inst: &Inst) -> Res<()> {
        let mods = Mods::new(&inst.mods);
        let or = match mods.one_of(&["or", "and"]) {
            Some(i) => i == 0,
            None => return Err(self.unknown()),
        };
        let Some(chosen) = alu::select("lop3", &mods, 5, false) else { return Err(self.unknown()) };
        let Operand::Pair(d, p) = &inst.operands[0] else { return Err(self.unknown()) };
        let d = if d == "_" { Operand::Sink } else { Operand::Name(d.clone()) };
        let d = self.word_dest(&d)?;
        let p = self.pred(p)?;
        let mut slots = [d, 0, 0, 0, 0, 0, 0];
        for i in 0..4 {
            slots[SRC + i] = self.word(&inst.operands[1 + i])?;
        }
        let q = self.source(&inst.operands[5], regs::Operand::Pred)?;
        self.push_alu(&chosen.alu, slots, Class::Integer, true);
        let join = if or {
            op!(|a: u32, q: bool; _i| -> bool { (a != 0) | q })
        } else {
            op!(|a: u32, q: bool; _i| -> bool { (a != 0) & q })
        };
        self.push_alu(&join, [p, 0, d, q, 0, 0, 0], Class::Integer, false);
        Ok(())
    }

    /// `mov` with a vector on one side, and of 128 bits.
    fn packed_move(&mut self, inst: &Inst) -> Res<bool> {
        use regs::Operand as K;
        let ty = match inst.mods.as_slice() {
            [one] => Type::parse(one),
            _ => None,
        };
        let (Some(ty), [d, s]) = (ty, inst.operands.as_slice()) else { return Ok(false) };
        let join: fn() -> [Alu; 4] = || {
            [
                op!(|a: u16, b: u16; _i| -> u32 { a as u32 | (b as u32) << 16 }),
                op!(|a: u32, b: u32; _i| -> u64 { a as u64 | (b as u64) << 32 }),
                op!(|a: u16, b: u16; _i| -> u16 { (a & 255) | b << 8 }),
                op!(|a: u64; _i| -> u64 { a }),
            ]
        };
        let split: fn() -> [Alu; 4] = || {
            [
                op!(|a: u32; _i| -> (u16, u16) (a as u16, (a >> 16) as u16)),
                op!(|a: u64; _i| -> (u32, u32) (a as u32, (a >> 32) as u32)),
                op!(|a: u16; _i| -> (u16, u16) (a & 255, a >> 8)),
                op!(|a: u64; _i| -> u64 { a }),
            ]
        };
        let step = |bytes: usize| match bytes {
            2 => 2,
            4 => 0,
            _ => 1,
        };
        match (d, s) {
            (_, Operand::Vector(parts)) if ty != Type::B128 => {
                // Pairs are joined until one value is left.
                let mut width = ty.size() / parts.len().max(1);
                let kind = |w: usize| {
                    if w == 8 {
                        K::U64
                    } else if w == 4 {
                        K::U32
                    } else {
                        K::U16
                    }
                };
                let mut level = Vec::new();
                for p in parts {
                    level.push(self.source(p, kind(width))?);
                }
                let mut first = true;
                while level.len() > 1 {
                    width *= 2;
                    let last = level.len() == 2;
                    let alu = join()[step(width)];
                    let mut next = Vec::new();
                    for pair in level.chunks(2) {
                        let slot = if last {
                            self.dest(d, kind(width))?
                        } else {
                            self.row((width == 8) as usize)
                        };
                        self.push_alu(
                            &alu,
                            [slot, 0, pair[0], pair[pair.len() - 1], 0, 0, 0],
                            Class::Move,
                            first,
                        );
                        first = false;
                        next.push(slot);
                    }
                    level = next;
                }
                Ok(true)
            }
            (Operand::Vector(parts), _) if ty != Type::B128 => {
                let kind = |w: usize| {
                    if w == 8 {
                        K::U64
                    } else if w == 4 {
                        K::U32
                    } else {
                        K::U16
                    }
                };
                let mut width = ty.size();
                let mut level = vec![self.source(s, kind(width))?];
                let mut first = true;
                while level.len() < parts.len() {
                    let alu = split()[step(width)];
                    width /= 2;
                    let last = level.len() * 2 == parts.len();
                    let mut next = Vec::new();
                    for (i, &from) in level.iter().enumerate() {
                        let mut out = [0; 2];
                        for (k, slot) in out.iter_mut().enumerate() {
                            *slot = if last {
                                self.dest(&parts[2 * i + k], kind(width))?
                            } else {
                                self.row((width == 8) as usize)
                            };
                        }
                        // A destination that is also the source must not be read again: one operation writes both.
                        self.push_alu(&alu, [out[0], out[1], from, 0, 0, 0, 0], Class::Move, first);
                        first = false;
                        next.extend(out);
                    }
                    level = next;
                }
                Ok(true)
            }
            _ if ty == Type::B128 => {
                let sources = self.quad(s)?;
                let dests = self.quad(d)?;
                let temp = self.row(1);
                let copy = split()[3];
                self.push_alu(&copy, [temp, 0, sources[1], 0, 0, 0, 0], Class::Move, false);
                self.push_alu(&copy, [dests[0], 0, sources[0], 0, 0, 0, 0], Class::Move, true);
                self.push_alu(&copy, [dests[1], 0, temp, 0, 0, 0, 0], Class::Move, false);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The two wide rows of a 128-bit operand.
    fn quad(&mut self, operand: &Operand) -> Res<[u32; 2]> {
        match operand {
            Operand::Vector(parts) if parts.len() == 2 => {
                let mut out = [0; 2];
                for (slot, part) in out.iter_mut().zip(parts) {
                    *slot = match part {
                        Operand::Sink => self.row(1),
                        _ => self.source(part, regs::Operand::U64)?,
                    };
                }
                Ok(out)
            }
            Operand::Name(name) => match self.reg(name)? {
                (slot, RegClass::Quad) => Ok([slot, slot + 1]),
                _ => Err(self.unknown()),
            },
            _ => Err(self.unknown()),
        }
    }

    fn address(&mut self, operand: &Operand, space: PtxSpace) -> Res<Address> {
        let Operand::Address(name, offset) = operand else { return Err(self.unknown()) };
        let to = |s| match s {
            PtxSpace::Generic => Space::Generic,
            PtxSpace::Global | PtxSpace::Const => Space::Global,
            PtxSpace::Shared => Space::Shared,
            PtxSpace::Local => Space::Local,
            _ => Space::Param,
        };
        let Some(name) = name else {
            return Ok(Address { space: to(space), base: Base::None, offset: *offset });
        };
        let symbol = self.find(name).cloned();
        match symbol {
            Some(Symbol::Reg { slot, class: RegClass::Wide }) => Ok(Address {
                space: to(space),
                base: Base::Reg(Reg { slot, wide: true }),
                offset: *offset,
            }),
            Some(Symbol::Reg { slot, class: RegClass::Word }) => Ok(Address {
                space: to(space),
                base: Base::Reg(Reg { slot, wide: false }),
                offset: *offset,
            }),
            Some(Symbol::Frame(place)) => Ok(Address {
                space: Space::Local,
                base: Base::Frame,
                offset: place as i64 + offset,
            }),
            Some(Symbol::Param(at)) => {
                Ok(Address { space: Space::Param, base: Base::None, offset: at as i64 + offset })
            }
            Some(Symbol::Shared(_)) | None => {
                let slot = self.address_of(name, 0, true)?;
                Ok(Address {
                    space: to(space),
                    base: Base::Reg(Reg { slot, wide: true }),
                    offset: *offset,
                })
            }
            _ => Err(self.unknown()),
        }
    }

    /// Takes state space, strength, scope and cache words of a memory instruction.
    fn memory_words(&self, mods: &Mods) -> (PtxSpace, Order) {
        let mut order = Order { strong: false, acquire: false, release: false };
        let mut space = PtxSpace::Generic;
        if mods.take("volatile") || mods.take("relaxed") || mods.take("mmio") {
            order.strong = true;
        }
        if mods.take("relaxed") {
            order.strong = true;
        }
        if mods.take("acquire") {
            order = Order { strong: true, acquire: true, release: false };
        } else if mods.take("release") {
            order = Order { strong: true, acquire: false, release: true };
        } else if mods.take("acq_rel") {
            order = Order { strong: true, acquire: true, release: true };
        }
        mods.take("weak");
        mods.drop_all(|w| matches!(w, "cta" | "cluster" | "gpu" | "sys" | "gl"));
        if mods.take("global") {
            space = PtxSpace::Global;
        } else if mods.one_of(&["shared", "shared::cta", "shared::cluster"]).is_some() {
            space = PtxSpace::Shared;
        } else if mods.take("local") {
            space = PtxSpace::Local;
        } else if mods.one_of(&["param", "param::entry", "param::func"]).is_some() {
            space = PtxSpace::Param;
        } else if mods.take("const") {
            space = PtxSpace::Const;
        }
        mods.drop_all(|w| {
            matches!(w, "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "unified")
                || w.starts_with("L1::")
                || w.starts_with("L2::")
        });
        (space, order)
    }

    fn load(&mut self, mods: &Mods, ops: &[Operand]) -> Res<()> {
        let (space, order) = self.memory_words(mods);
        let lanes = [1, 2, 4, 8][mods.one_of(&["v2", "v4", "v8"]).map_or(0, |i| i + 1)];
        let Some(ty) = mods.ty() else { return Err(self.unknown()) };
        let [d, a, ..] = ops else { return Err(self.unknown()) };
        if !mods.all_used() {
            return Err(self.unknown());
        }
        let address = self.address(a, space)?;
        let (regs, short) = self.data(d, lanes, ty, true)?;
        let class = match address.space {
            _ if space == PtxSpace::Const => Class::LoadConstant,
            Space::Param => Class::LoadConstant,
            Space::Shared => Class::LoadShared,
            Space::Local => Class::LoadLocal,
            _ => Class::LoadGlobal,
        };
        let access = Access {
            address,
            width: ty.size().min(8) as u8,
            signed: ty.is_signed(),
            regs,
            short,
            order,
        };
        self.push(Kind::Load(Box::new(access)), class, true);
        Ok(())
    }

    fn store(&mut self, mods: &Mods, ops: &[Operand]) -> Res<()> {
        let (space, order) = self.memory_words(mods);
        let lanes = [1, 2, 4, 8][mods.one_of(&["v2", "v4", "v8"]).map_or(0, |i| i + 1)];
        let Some(ty) = mods.ty() else { return Err(self.unknown()) };
        let [a, s, ..] = ops else { return Err(self.unknown()) };
        if !mods.all_used() || space == PtxSpace::Const {
            return Err(self.unknown());
        }
        let address = self.address(a, space)?;
        let (regs, short) = self.data(s, lanes, ty, false)?;
        let class = match address.space {
            Space::Shared => Class::StoreShared,
            Space::Local | Space::Param => Class::StoreLocal,
            _ => Class::StoreGlobal,
        };
        let width = ty.size().min(8) as u8;
        let access = Access { address, width, signed: false, regs, short, order };
        self.push(Kind::Store(Box::new(access)), class, true);
        Ok(())
    }

    /// The registers of a load or store, and whether they are 16-bit ones.
    fn data(
        &mut self,
        operand: &Operand,
        lanes: usize,
        ty: Type,
        load: bool,
    ) -> Res<(Vec<Reg>, bool)> {
        let one = std::slice::from_ref(operand);
        let parts = match operand {
            Operand::Vector(parts) => parts.as_slice(),
            _ => one,
        };
        if parts.len() != lanes || ty == Type::Pred {
            return Err(self.unknown());
        }
        let mut regs = Vec::new();
        let mut short = false;
        for part in parts {
            if ty == Type::B128 {
                regs.extend(self.quad(part)?.map(|slot| Reg { slot, wide: true }));
                continue;
            }
            let symbol = match part {
                Operand::Name(name) => self.find(name).cloned(),
                _ => None,
            };
            match (part, symbol) {
                (Operand::Sink, _) if load => regs.push(Reg { slot: NONE, wide: false }),
                (_, Some(Symbol::Reg { slot, class })) => {
                    let wide = class == RegClass::Wide;
                    short |= class == RegClass::Short;
                    if matches!(class, RegClass::Pred | RegClass::Quad) || (ty.size() == 8) && !wide
                    {
                        return Err(self.unknown());
                    }
                    regs.push(Reg { slot, wide });
                }
                _ if !load => {
                    use regs::Operand as K;
                    let kind = match ty {
                        Type::F32 => K::F32,
                        Type::F64 => K::F64,
                        _ if ty.size() == 8 => K::U64,
                        _ => K::U32,
                    };
                    let slot = self.source(part, kind)?;
                    regs.push(Reg { slot, wide: ty.size() == 8 });
                }
                _ => return Err(self.unknown()),
            }
        }
        Ok((regs, short))
    }

    fn atomic(&mut self, mods: &Mods, ops: &[Operand], returns: bool) -> Res<()> {
        let asynchronous = mods.take("async");
        let (space, mut order) = self.memory_words(mods);
        order.strong = true;
        let words = ["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"];
        let all = [
            AtomOp::Add,
            AtomOp::Min,
            AtomOp::Max,
            AtomOp::Inc,
            AtomOp::Dec,
            AtomOp::And,
            AtomOp::Or,
            AtomOp::Xor,
            AtomOp::Exch,
            AtomOp::Cas,
        ];
        let Some(op) = mods.one_of(&words).map(|i| all[i]) else { return Err(self.unknown()) };
        let no_ftz = mods.take("noftz");
        let count = [1, 2, 4, 8][mods.one_of(&["v2", "v4", "v8"]).map_or(0, |i| i + 1)];
        let Some(ptx) = mods.ty() else { return Err(self.unknown()) };
        if asynchronous || !mods.all_used() {
            return Err(self.unknown());
        }
        use AtomType as A;
        let bitwise =
            matches!(op, AtomOp::And | AtomOp::Or | AtomOp::Xor | AtomOp::Exch | AtomOp::Cas);
        let ty = match ptx {
            Type::B16 | Type::U16 if bitwise => A::U16,
            Type::B32 if bitwise => A::U32,
            Type::B64 if bitwise => A::U64,
            Type::B128 if matches!(op, AtomOp::Exch | AtomOp::Cas) => A::B128,
            Type::U32 => A::U32,
            Type::S32 => A::S32,
            Type::U64 => A::U64,
            Type::S64 => A::S64,
            Type::F16 if no_ftz => A::F16,
            Type::F16x2 if no_ftz => A::F16x2,
            Type::Bf16 if no_ftz => A::Bf16,
            Type::Bf16x2 if no_ftz => A::Bf16x2,
            Type::F32 => A::F32,
            Type::F64 => A::F64,
            _ => return Err(self.unknown()),
        };
        let float = matches!(ty, A::F16 | A::F16x2 | A::Bf16 | A::Bf16x2 | A::F32 | A::F64);
        if float && !matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max | AtomOp::Exch)
            || matches!(op, AtomOp::Inc | AtomOp::Dec) && ty != A::U32
            || op == AtomOp::Cas && !returns
        {
            return Err(self.unknown());
        }
        let (d, rest) = if returns {
            let Some((d, rest)) = ops.split_first() else { return Err(self.unknown()) };
            (Some(d), rest)
        } else {
            (None, ops)
        };
        let [a, b, others @ ..] = rest else { return Err(self.unknown()) };
        let address = self.address(a, space)?;
        let src = self.data(b, count, ptx, false)?.0;
        let swap = match (op, others) {
            (AtomOp::Cas, [c, ..]) => self.data(c, count, ptx, false)?.0,
            (AtomOp::Cas, []) => return Err(self.unknown()),
            _ => Vec::new(),
        };
        let dst = match d {
            None | Some(Operand::Sink) => Vec::new(),
            Some(d) => self.data(d, count, ptx, true)?.0,
        };
        // Singles in global memory flush subnormals, in shared memory they do not (PTX ISA, `atom`).
        let ftz = ty == A::F32 && op == AtomOp::Add;
        let atomic = Atomic { address, op, ty, ftz, dst, src, swap, count: count as u8, order };
        self.push(Kind::Atomic(Box::new(atomic)), Class::Atomic, true);
        Ok(())
    }

    fn cvta(&mut self, mods: &Mods, ops: &[Operand]) -> Res<()> {
        let to = mods.take("to");
        let space = mods.any();
        let Some(ty) = mods.ty() else { return Err(self.unknown()) };
        let [d, a] = ops else { return Err(self.unknown()) };
        if ty.size() != 8 || !mods.all_used() {
            return Err(self.unknown());
        }
        let window = match space {
            Some("global" | "const") => 0,
            Some("shared" | "shared::cta" | "shared::cluster") => SHARED_WINDOW,
            Some("local") => LOCAL_WINDOW,
            Some("param" | "param::entry") => PARAM_WINDOW,
            _ => return Err(self.unknown()),
        };
        let d = self.dest(d, regs::Operand::U64)?;
        let in_frame = match a {
            Operand::Name(name) | Operand::Sum(name, _) => {
                matches!(self.find(name), Some(Symbol::Frame(_)))
            }
            _ => false,
        };
        let a = self.source(a, regs::Operand::U64)?;
        // A device function's parameters lie in its frame, whatever the space is called.
        let window = if in_frame { LOCAL_WINDOW } else { window };
        let w = self.constant(true, Initial::Bits(window));
        let alu = if to {
            op!(|a: u64, w: u64; _i| -> u64 { a.wrapping_sub(w) })
        } else {
            op!(|a: u64, w: u64; _i| -> u64 { a.wrapping_add(w) })
        };
        self.push_alu(&alu, [d, 0, a, w, 0, 0, 0], Class::Integer, true);
        Ok(())
    }

    fn label(&self, name: &str) -> Res<u32> {
        match self.find(name) {
            Some(&Symbol::Label(id)) => Ok(id),
            _ => Err(self.syntax(format!("`{name}` is not a label"))),
        }
    }

    fn branch(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        mods.take("uni");
        if inst.op == "brx" {
            let [index, Operand::Name(table)] = inst.operands.as_slice() else {
                return Err(self.unknown());
            };
            let Some(Symbol::Targets(names)) = self.find(table).cloned() else {
                return Err(self.unknown());
            };
            let index = self.word(index)?;
            let labels = names.iter().map(|n| self.label(n)).collect::<Res<Vec<_>>>()?;
            let at = self.push(Kind::Nop, Class::Control, true);
            self.indexed.push((at, index, labels));
            return Ok(());
        }
        let [Operand::Name(target)] = inst.operands.as_slice() else { return Err(self.unknown()) };
        let label = self.label(target)?;
        let at = self.push(Kind::Bra(NONE), Class::Control, true);
        self.fixes.push((at, label));
        Ok(())
    }

    fn call(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        mods.take("uni");
        let ops = inst.operands.as_slice();
        let (returns, rest) = match ops {
            [Operand::Tuple(r), rest @ ..] => (r.as_slice(), rest),
            rest => (&[][..], rest),
        };
        let [Operand::Name(target), rest @ ..] = rest else { return Err(self.unknown()) };
        let args = match rest {
            [Operand::Tuple(a), ..] => a.as_slice(),
            _ => &[],
        };
        let callee = if let Some(Symbol::Reg { slot, class: RegClass::Wide }) = self.find(target) {
            let slot = *slot;
            self.out.indirect = true;
            Callee::Indirect(slot)
        } else if let Some(&id) = self.globals.functions.get(target) {
            self.out.calls.push(id);
            Callee::Function(id)
        } else if let Some(&builtin) = self.globals.builtins.get(target) {
            Callee::Builtin(builtin)
        } else {
            return Err(LoadError::Unresolved(target.clone()));
        };
        let places =
            |list: &[Operand]| -> Res<Vec<Place>> {
                list.iter()
                    .map(|o| match o {
                        Operand::Name(name) => match self.find(name) {
                            Some(&Symbol::Frame(offset)) => Ok(Place { offset, size: 0 }),
                            _ => Err(self
                                .syntax(format!("the argument `{name}` is not in .param space"))),
                        },
                        _ => Err(self.unknown()),
                    })
                    .collect()
            };
        let call = Call { callee, args: places(args)?, returns: places(returns)? };
        self.push(Kind::Call(Box::new(call)), Class::Control, true);
        Ok(())
    }

    fn barrier(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        let ops = inst.operands.as_slice();
        if mods.take("warp") {
            let [mask] = ops else { return Err(self.unknown()) };
            let mask = self.word(mask)?;
            self.push(Kind::Sync(Box::new(Sync::Barrier), mask), Class::Barrier, true);
            return Ok(());
        }
        if mods.take("cluster") {
            // A cluster of one block: its barrier is the block's own, with a number apart.
            let arrive = match mods.one_of(&["arrive", "wait"]) {
                Some(i) => i == 0,
                None => return Err(self.unknown()),
            };
            mods.drop_all(|w| matches!(w, "aligned" | "release" | "acquire" | "relaxed"));
            if arrive {
                self.push(Kind::Nop, Class::Barrier, true);
            } else {
                let id = self.bits(16);
                let bar =
                    Bar { op: BarOp::Sync, id, count: NONE, aligned: false, src: NONE, dst: NONE };
                self.push(Kind::Bar(Box::new(bar)), Class::Barrier, true);
            }
            return Ok(());
        }
        mods.take("cta");
        let op = match mods.one_of(&["sync", "arrive", "red"]) {
            Some(0) => BarOp::Sync,
            Some(1) => BarOp::Arrive,
            Some(2) => match mods.one_of(&["popc", "and", "or"]) {
                Some(0) => BarOp::Popc,
                Some(1) => BarOp::And,
                Some(2) => BarOp::Or,
                _ => return Err(self.unknown()),
            },
            _ => return Err(self.unknown()),
        };
        let aligned = mods.take("aligned") || inst.op == "bar";
        mods.ty();
        if !mods.all_used() {
            return Err(self.unknown());
        }
        let reduction = matches!(op, BarOp::Popc | BarOp::And | BarOp::Or);
        let mut rest = ops;
        let (mut dst, mut src) = (NONE, NONE);
        if reduction {
            let [d, middle @ .., p] = ops else { return Err(self.unknown()) };
            dst = self.dest(
                d,
                if op == BarOp::Popc { regs::Operand::U32 } else { regs::Operand::Pred },
            )?;
            src = self.source(p, regs::Operand::Pred)?;
            rest = middle;
        }
        let (id, count) = match rest {
            [id] if op != BarOp::Arrive => (self.word(id)?, NONE),
            [id, count] => (self.word(id)?, self.word(count)?),
            _ => return Err(self.unknown()),
        };
        self.push(
            Kind::Bar(Box::new(Bar { op, id, count, aligned, src, dst })),
            Class::Barrier,
            true,
        );
        Ok(())
    }

    /// `d|p` or `d`: the row of the result and of the predicate, or [`NONE`].
    fn with_predicate(&mut self, operand: &Operand) -> Res<PredPair> {
        match operand {
            Operand::Pair(d, p) => {
                let d = if d == "_" { Operand::Sink } else { Operand::Name(d.clone()) };
                let p = if p == "_" { NONE } else { self.pred(p)? };
                Ok((self.word_dest(&d)?, p))
            }
            _ => Ok((self.word_dest(operand)?, NONE)),
        }
    }

    fn warp_wide(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        let ops = inst.operands.as_slice();
        if inst.op == "activemask" {
            let [d] = ops else { return Err(self.unknown()) };
            let d = self.word_dest(d)?;
            self.push(Kind::ActiveMask(d), Class::Vote, true);
            return Ok(());
        }
        if !mods.take("sync") {
            return Err(self.unknown());
        }
        let (sync, mask, class) = match (inst.op.as_str(), ops) {
            ("shfl", [d, a, b, c, mask]) => {
                let mode = match mods.one_of(&["up", "down", "bfly", "idx"]) {
                    Some(i) => [Shuffle::Up, Shuffle::Down, Shuffle::Butterfly, Shuffle::Index][i],
                    None => return Err(self.unknown()),
                };
                let (dst, pred) = self.with_predicate(d)?;
                let (src, lane, clamp) = (self.word(a)?, self.word(b)?, self.word(c)?);
                (Sync::Shuffle { mode, dst, pred, src, lane, clamp }, mask, Class::Shuffle)
            }
            ("vote", [d, p, mask]) => {
                let Some(mode) = mods.one_of(&["all", "any", "uni", "ballot"]) else {
                    return Err(self.unknown());
                };
                let src = self.source(p, regs::Operand::Pred)?;
                let kind = if mode == 3 { regs::Operand::U32 } else { regs::Operand::Pred };
                let dst = self.dest(d, kind)?;
                let sync = match mode {
                    0 => Sync::VoteAll { dst, src },
                    1 => Sync::VoteAny { dst, src },
                    2 => Sync::VoteUniform { dst, src },
                    _ => Sync::Ballot { dst, src },
                };
                (sync, mask, Class::Vote)
            }
            ("match", [d, a, mask]) => {
                let Some(mode) = mods.one_of(&["any", "all"]) else { return Err(self.unknown()) };
                let wide = mods.words_have("b64");
                let kind = if wide { regs::Operand::U64 } else { regs::Operand::U32 };
                let src = Reg { slot: self.source(a, kind)?, wide };
                let (dst, pred) = self.with_predicate(d)?;
                let sync = if mode == 0 {
                    Sync::MatchAny { dst, src }
                } else {
                    Sync::MatchAll { dst, pred, src }
                };
                (sync, mask, Class::Vote)
            }
            ("redux", [d, a, mask]) => {
                let words = ["add", "min", "max", "and", "or", "xor"];
                let all =
                    [AtomOp::Add, AtomOp::Min, AtomOp::Max, AtomOp::And, AtomOp::Or, AtomOp::Xor];
                let Some(op) = mods.one_of(&words).map(|i| all[i]) else {
                    return Err(self.unknown());
                };
                let (abs, nan) = (mods.take("abs"), mods.take("NaN"));
                let Some(ty) = mods.ty() else { return Err(self.unknown()) };
                let (dst, src) = (self.word_dest(d)?, self.word(a)?);
                let sync = Sync::Reduce {
                    op,
                    signed: ty == Type::S32,
                    float: ty == Type::F32,
                    abs,
                    nan,
                    dst,
                    src,
                };
                (sync, mask, Class::Vote)
            }
            ("elect", [d, mask]) => {
                let Operand::Pair(d, p) = d else { return Err(self.unknown()) };
                let d = if d == "_" { Operand::Sink } else { Operand::Name(d.clone()) };
                let (dst, pred) = (self.word_dest(&d)?, self.pred(p)?);
                (Sync::Elect { dst, pred }, mask, Class::Vote)
            }
            _ => return Err(self.unknown()),
        };
        mods.ty();
        if !mods.all_used() {
            return Err(self.unknown());
        }
        let mask = self.word(mask)?;
        self.push(Kind::Sync(Box::new(sync), mask), class, true);
        Ok(())
    }

    fn async_copy(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        if !mods.take("async") {
            return Err(self.unknown());
        }
        let ops = inst.operands.as_slice();
        if mods.take("commit_group") {
            self.push(Kind::AsyncCommit, Class::CpAsync, true);
            return Ok(());
        }
        if mods.take("wait_all") {
            self.push(Kind::AsyncWait(NONE), Class::CpAsync, true);
            return Ok(());
        }
        if mods.take("wait_group") {
            let [Operand::Int(n)] = ops else { return Err(self.unknown()) };
            self.push(Kind::AsyncWait(*n as u32), Class::CpAsync, true);
            return Ok(());
        }
        if mods.take("mbarrier") || inst.mods.iter().any(|m| m.starts_with("mbarrier")) {
            mods.drop_all(|w| {
                w.starts_with("mbarrier") || w.starts_with("shared") || w == "arrive" || w == "b64"
            });
            let increment = !mods.take("noinc");
            let [a] = ops else { return Err(self.unknown()) };
            if !mods.all_used() {
                return Err(self.unknown());
            }
            let address = self.address(a, PtxSpace::Shared)?;
            self.push(
                Kind::MBarrier(Box::new(MBarrier::AsyncArrive { increment }), address),
                Class::CpAsync,
                true,
            );
            return Ok(());
        }
        let cache = mods.one_of(&["ca", "cg"]);
        let shared = mods.one_of(&["shared", "shared::cta", "shared::cluster"]);
        let global = mods.take("global");
        let hint = mods.take("L2::cache_hint");
        mods.drop_all(|w| w.starts_with("L2::"));
        let (Some(cache), Some(_), true, true) = (cache, shared, global, mods.all_used()) else {
            return Err(self.unknown());
        };
        let [dst, src, Operand::Int(bytes), rest @ ..] = ops else { return Err(self.unknown()) };
        let rest = if hint { &rest[..rest.len().saturating_sub(1)] } else { rest };
        if !(matches!(bytes, 4 | 8) && cache == 0 || *bytes == 16) {
            return Err(self.unknown());
        }
        let (dst, src) =
            (self.address(dst, PtxSpace::Shared)?, self.address(src, PtxSpace::Global)?);
        let (mut src_bytes, mut ignore) = (NONE, NONE);
        for extra in rest {
            let is_predicate = match extra {
                Operand::Not(_) => true,
                Operand::Name(n) => {
                    matches!(self.find(n), Some(Symbol::Reg { class: RegClass::Pred, .. }))
                }
                _ => false,
            };
            if is_predicate {
                ignore = self.source(extra, regs::Operand::Pred)?;
            } else {
                src_bytes = self.word(extra)?;
            }
        }
        let copy = AsyncCopy { dst, src, bytes: *bytes as u8, src_bytes, ignore };
        self.push(Kind::AsyncCopy(Box::new(copy)), Class::CpAsync, true);
        Ok(())
    }

    fn mbarrier(&mut self, mods: &Mods, ops: &[Operand]) -> Res<()> {
        use regs::Operand as K;
        let words = [
            "init",
            "inval",
            "arrive",
            "arrive_drop",
            "test_wait",
            "try_wait",
            "pending_count",
            "expect_tx",
        ];
        let Some(what) = mods.one_of(&words) else { return Err(self.unknown()) };
        let expect = mods.take("expect_tx");
        let parity = mods.take("parity");
        mods.drop_all(|w| {
            matches!(
                w,
                "shared"
                    | "shared::cta"
                    | "shared::cluster"
                    | "noComplete"
                    | "b64"
                    | "release"
                    | "acquire"
                    | "relaxed"
                    | "cta"
                    | "cluster"
            )
        });
        if !mods.all_used() {
            return Err(self.unknown());
        }
        let (op, address) = match (what, ops) {
            (0, [a, n]) => (MBarrier::Init { count: self.word(n)? }, a),
            (1, [a]) => (MBarrier::Invalidate, a),
            (2 | 3, [d @ (Operand::Name(_) | Operand::Sink), a, rest @ ..]) => {
                let state = if *d == Operand::Sink { NONE } else { self.dest(d, K::U64)? };
                let value = match rest {
                    [n] => self.word(n)?,
                    _ => NONE,
                };
                let (count, expect) = if expect { (NONE, value) } else { (value, NONE) };
                (MBarrier::Arrive { count, state, expect, drop: what == 3, arrive: true }, a)
            }
            (2 | 3, [a, rest @ ..]) => {
                let value = match rest {
                    [n] => self.word(n)?,
                    _ => NONE,
                };
                let (count, expect) = if expect { (NONE, value) } else { (value, NONE) };
                (MBarrier::Arrive { count, state: NONE, expect, drop: what == 3, arrive: true }, a)
            }
            (4 | 5, [p, a, s, ..]) => {
                let dst = self.dest(p, K::Pred)?;
                let wide = !parity;
                let slot = self.source(s, if wide { K::U64 } else { K::U32 })?;
                (MBarrier::Test { dst, state: Reg { slot, wide } }, a)
            }
            (6, [d, s]) => {
                let op = MBarrier::PendingCount {
                    dst: self.word_dest(d)?,
                    state: self.source(s, K::U64)?,
                };
                let address = Address { space: Space::Shared, base: Base::None, offset: 0 };
                self.push(Kind::MBarrier(Box::new(op), address), Class::Barrier, true);
                return Ok(());
            }
            (7, [a, n]) => {
                let expect = self.word(n)?;
                (
                    MBarrier::Arrive {
                        count: NONE,
                        state: NONE,
                        expect,
                        drop: false,
                        arrive: false,
                    },
                    a,
                )
            }
            _ => return Err(self.unknown()),
        };
        let mut address = self.address(address, PtxSpace::Shared)?;
        // Without a space the address is generic; one that names shared memory by 32 bits is not.
        if let Base::Reg(Reg { wide: true, .. }) = address.base {
            address.space = Space::Generic;
        }
        self.push(Kind::MBarrier(Box::new(op), address), Class::Barrier, true);
        Ok(())
    }

    fn matrix(&mut self, inst: &Inst, mods: &Mods) -> Res<()> {
        let Some(shape) = matrix::shape(&inst.op, mods) else { return Err(self.unknown()) };
        let list = |o: &Operand| match o {
            Operand::Vector(v) => v.clone(),
            other => vec![other.clone()],
        };
        let mut address = Address { space: Space::Shared, base: Base::None, offset: 0 };
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for (i, operand) in inst.operands.iter().enumerate() {
            if matches!(operand, Operand::Address(..)) {
                address = self.address(operand, PtxSpace::Shared)?;
                continue;
            }
            let writes = i == 0 && inst.op != "stmatrix";
            let wide = shape.wide(i);
            let kind = if wide { regs::Operand::F64 } else { regs::Operand::U32 };
            let mut group = Vec::new();
            for part in list(operand) {
                group.push(match (&part, writes) {
                    (_, true) => self.dest(&part, kind)?,
                    (Operand::F32(_), false) => self.source(&part, regs::Operand::F32)?,
                    _ => self.source(&part, kind)?,
                });
            }
            groups.push(group);
        }
        let Some(matrix) = matrix::Matrix::new(shape, groups, address) else {
            return Err(self.unknown());
        };
        let class = if inst.op == "mma" { Class::Mma } else { Class::LdMatrix };
        self.push(Kind::Sync(Box::new(Sync::Matrix(Box::new(matrix))), NONE), class, true);
        Ok(())
    }
}
