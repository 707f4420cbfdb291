//! From tokens to a tree: variables, functions and their statements. Names are resolved later, by the lowering.

use super::LoadError;
use super::lexer::{Token, TokenKind, tokens};

/// A PTX type, as in `.f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Type {
    B8, B16, B32, B64, B128,
    U8, U16, U32, U64,
    S8, S16, S32, S64,
    F16, F16x2, Bf16, Bf16x2, Tf32, F32, F32x2, F64,
    U16x2, S16x2, E4m3x2, E5m2x2,
    Pred,
}

impl Type {
    /// From the word after the dot.
    pub fn parse(word: &str) -> Option<Type> {
        use Type::*;
        Some(match word {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "tf32" => Tf32,
            "f32" => F32,
            "f32x2" => F32x2,
            "f64" => F64,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            "pred" => Pred,
            _ => return None,
        })
    }

    /// Size in bytes (of a predicate: 1).
    pub fn size(self) -> usize {
        use Type::*;
        match self {
            B8 | U8 | S8 | Pred => 1,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 | Tf32 | U16x2 | S16x2 => 4,
            B64 | U64 | S64 | F64 | F32x2 => 8,
            B128 => 16,
        }
    }

    /// Whether loads and conversions extend the sign.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
    Reg,
}

/// One value of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Init {
    /// Bits of a number, to be cut to the element's size.
    Bits(u64),
    /// Address of a variable or function, plus an offset; `generic` where wrapped in `generic()`.
    Address(String, i64),
    /// One byte of such an address: `0xFF00(name)`, here with its shift.
    Byte(String, u32),
}

/// A declared variable (of any space but `.reg`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Type,
    pub align: usize,
    /// Size in bytes; 0 for an incomplete (dynamic) array.
    pub size: usize,
    pub init: Vec<Init>,
    pub external: bool,
    pub line: u32,
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A name, perhaps with a component (`%tid.x`).
    Name(String),
    /// `!name`
    Not(String),
    /// `name + offset`
    Sum(String, i64),
    Int(i128),
    F32(u32),
    F64(u64),
    /// `[base + offset]`
    Address(Option<String>, i64),
    /// `[a, {b, c}]` and the like.
    AddressList(Vec<Operand>),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)`
    Tuple(Vec<Operand>),
    /// `p|q`
    Pair(String, String),
    /// `_`
    Sink,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inst {
    pub guard: Option<(String, bool)>,
    pub op: String,
    /// The words after the opcode, without their dots.
    pub mods: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
    pub text: String,
}

impl Inst {
    pub fn has(&self, word: &str) -> bool {
        self.mods.iter().any(|m| m == word)
    }
}

/// One statement of a body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stmt {
    Label(String),
    Inst(Inst),
    Block(Vec<Stmt>),
    /// Registers of a type: name and, for `%r<10>`, the count.
    Regs(Type, Vec<(String, Option<u32>)>, usize),
    Var(Variable),
    /// A branch-target or call-target table.
    Targets(String, Vec<String>),
    /// A call prototype.
    Prototype(String, Signature),
}

/// Return values and parameters of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Signature {
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
}

/// A kernel or device function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    pub name: String,
    pub kernel: bool,
    pub signature: Signature,
    /// None for a declaration.
    pub body: Option<Vec<Stmt>>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub required_cluster: Option<[u32; 3]>,
    pub line: u32,
}

/// A parsed module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tree {
    pub version: (u32, u32),
    pub version_text: String,
    pub target: String,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
    pub aliases: Vec<(String, String)>,
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

type Res<T> = Result<T, LoadError>;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Res<Tree> {
    let mut p = Parser { text, tokens: tokens(text)?, at: 0 };
    let mut tree = Tree::default();
    while p.peek().kind != TokenKind::End {
        p.top_level(&mut tree)?;
    }
    if tree.version_text.is_empty() {
        return Err(LoadError::Syntax {
            line: 1,
            message: "no .version directive: this is not PTX".into(),
        });
    }
    Ok(tree)
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at];
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, text: &str) -> bool {
        let t = self.peek();
        t.text == text && t.kind != TokenKind::Text
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.is(text);
        if found {
            self.next();
        }
        found
    }

    fn error<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(LoadError::Syntax { line: self.peek().line, message: message.into() })
    }

    fn expect(&mut self, text: &str) -> Res<()> {
        if self.eat(text) {
            Ok(())
        } else {
            self.error(format!("`{text}` expected, `{}` found", self.peek().text))
        }
    }

    fn name(&mut self) -> Res<String> {
        match self.peek() {
            Token { kind: TokenKind::Name, text, .. } => {
                self.next();
                Ok(text.to_string())
            }
            t => self.error(format!("a name expected, `{}` found", t.text)),
        }
    }

    fn integer(&mut self) -> Res<i128> {
        let negative = self.eat("-");
        match self.number()? {
            Operand::Int(v) => Ok(if negative { -v } else { v }),
            _ => self.error("an integer expected"),
        }
    }

    fn small(&mut self) -> Res<u32> {
        let v = self.integer()?;
        u32::try_from(v).or_else(|_| self.error(format!("{v} is out of range")))
    }

    fn number(&mut self) -> Res<Operand> {
        let t = self.peek();
        if t.kind != TokenKind::Number {
            return self.error(format!("a number expected, `{}` found", t.text));
        }
        self.next();
        match parse_number(t.text) {
            Some(v) => Ok(v),
            None => Err(LoadError::Syntax {
                line: t.line,
                message: format!("the number `{}` cannot be read", t.text),
            }),
        }
    }

    fn skip_line(&mut self) {
        let line = self.peek().line;
        while self.peek().line == line && self.peek().kind != TokenKind::End {
            self.next();
        }
    }

    fn top_level(&mut self, tree: &mut Tree) -> Res<()> {
        let t = self.peek();
        match t.text {
            ".version" => {
                self.next();
                let text = self.next().text;
                let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
                match (major.parse(), minor.parse()) {
                    (Ok(a), Ok(b)) => tree.version = (a, b),
                    _ => return self.error("the version cannot be read"),
                }
                tree.version_text = text.to_string();
            }
            ".target" => {
                self.next();
                tree.target = self.name()?;
                while self.eat(",") {
                    self.name()?;
                }
            }
            ".address_size" => {
                self.next();
                if self.integer()? != 64 {
                    return self.error("only 64-bit addresses are supported");
                }
            }
            ".file" | ".loc" | ".pragma" | ".ident" => self.skip_line(),
            ".section" => {
                while !self.is("}") && self.peek().kind != TokenKind::End {
                    self.next();
                }
                self.expect("}")?;
            }
            ".alias" => {
                self.next();
                let name = self.name()?;
                self.expect(",")?;
                tree.aliases.push((name, self.name()?));
                self.expect(";")?;
            }
            ";" => {
                self.next();
            }
            _ => self.declaration(tree)?,
        }
        Ok(())
    }

    /// A function or variable with its linkage.
    fn declaration(&mut self, tree: &mut Tree) -> Res<()> {
        let mut external = false;
        loop {
            let t = self.peek();
            match t.text {
                ".visible" | ".weak" | ".common" => {
                    self.next();
                }
                ".extern" => {
                    self.next();
                    external = true;
                }
                ".entry" | ".func" => {
                    let function = self.function()?;
                    tree.functions.push(function);
                    return Ok(());
                }
                ".global" | ".const" | ".shared" => {
                    self.variables(external, &mut tree.variables)?;
                    return Ok(());
                }
                other => return self.error(format!("a directive expected, `{other}` found")),
            }
        }
    }

    fn function(&mut self) -> Res<Function> {
        let line = self.peek().line;
        let kernel = self.next().text == ".entry";
        let mut signature = Signature::default();
        while !kernel && self.is(".attribute") {
            self.parenthesised()?;
        }
        if self.is("(") {
            signature.returns = self.parameters()?;
        }
        let name = self.name()?;
        if self.is("(") {
            signature.params = self.parameters()?;
        }
        let mut function = Function {
            name,
            kernel,
            signature,
            body: None,
            max_threads: None,
            required_threads: None,
            required_cluster: None,
            line,
        };
        loop {
            match self.peek().text {
                ".maxntid" => function.max_threads = Some(self.dimensions()?),
                ".reqntid" => function.required_threads = Some(self.dimensions()?),
                ".reqnctapercluster" => function.required_cluster = Some(self.dimensions()?),
                ".minnctapersm" | ".maxnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                    self.next();
                    self.integer()?;
                }
                ".noreturn" | ".explicitcluster" | ".blocksareclusters" => {
                    self.next();
                }
                ".pragma" | ".abi_preserve" | ".abi_preserve_control" | ".local_maxnreg" => {
                    self.skip_line()
                }
                ".attribute" => self.parenthesised()?,
                ";" => {
                    self.next();
                    break;
                }
                "{" => {
                    self.next();
                    function.body = Some(self.body()?);
                    break;
                }
                other => return self.error(format!("a function body expected, `{other}` found")),
            }
        }
        Ok(function)
    }

    fn parenthesised(&mut self) -> Res<()> {
        self.next();
        self.expect("(")?;
        while !self.eat(")") {
            if self.next().kind == TokenKind::End {
                return self.error("`)` expected");
            }
        }
        Ok(())
    }

    fn dimensions(&mut self) -> Res<[u32; 3]> {
        self.next();
        let mut out = [1; 3];
        out[0] = self.small()?;
        for slot in &mut out[1..] {
            if self.eat(",") {
                *slot = self.small()?;
            }
        }
        Ok(out)
    }

    fn parameters(&mut self) -> Res<Vec<Variable>> {
        let mut out = Vec::new();
        self.expect("(")?;
        while !self.eat(")") {
            self.variables_until(false, &mut out, &[",", ")"])?;
            self.eat(",");
        }
        Ok(out)
    }

    fn variables(&mut self, external: bool, out: &mut Vec<Variable>) -> Res<()> {
        self.variables_until(external, out, &[";"])?;
        self.expect(";")
    }

    /// `.space [.align n] [.v2] .type name[dims] [= init], …` up to one of `ends`.
    fn variables_until(
        &mut self,
        external: bool,
        out: &mut Vec<Variable>,
        ends: &[&str],
    ) -> Res<()> {
        let mut space = None;
        let (mut align, mut lanes, mut ty) = (0, 1, None);
        while self.peek().kind == TokenKind::Dot {
            let t = self.next();
            match &t.text[1..] {
                "global" => space = space.or(Some(Space::Global)),
                "const" => space = space.or(Some(Space::Const)),
                "shared" => space = space.or(Some(Space::Shared)),
                "local" => space = space.or(Some(Space::Local)),
                "param" => space = space.or(Some(Space::Param)),
                "reg" => space = space.or(Some(Space::Reg)),
                "align" => align = self.small()? as usize,
                // The pointee of a pointer parameter: `.ptr .global .align 4`.
                "ptr" => {
                    while self.peek().kind == TokenKind::Dot {
                        if self.next().text == ".align" {
                            self.small()?;
                        }
                    }
                }
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "v8" => lanes = 8,
                "managed" => {}
                "attribute" => {
                    self.at -= 1;
                    self.parenthesised()?;
                }
                "texref" | "samplerref" | "surfref" => {
                    return self.error("texture and surface references are not supported");
                }
                word => match Type::parse(word) {
                    Some(t) => ty = Some(t),
                    None => return self.error(format!("`.{word}` is not known in a declaration")),
                },
            }
        }
        let Some(ty) = ty else { return self.error("a type expected") };
        let Some(space) = space else { return self.error("a state space expected") };
        loop {
            let line = self.peek().line;
            let name =
                if self.peek().kind == TokenKind::Name { self.name()? } else { String::new() };
            let mut size = ty.size() * lanes;
            let mut incomplete = false;
            while self.eat("[") {
                if self.eat("]") {
                    incomplete = true;
                } else {
                    size *= self.integer()? as usize;
                    self.expect("]")?;
                }
            }
            let mut init = Vec::new();
            if self.eat("=") {
                self.initialiser(ty, &mut init)?;
            }
            if incomplete {
                size = init
                    .iter()
                    .map(|i| if matches!(i, Init::Byte(..)) { 1 } else { ty.size() })
                    .sum();
            }
            let natural = (ty.size() * lanes).min(16);
            out.push(Variable {
                name,
                space,
                ty,
                align: if align == 0 { natural } else { align },
                size,
                init,
                external,
                line,
            });
            let end = self.peek().text;
            if ends.contains(&end) || !self.eat(",") {
                return Ok(());
            }
        }
    }

    fn initialiser(&mut self, ty: Type, out: &mut Vec<Init>) -> Res<()> {
        if self.eat("{") {
            while !self.eat("}") {
                self.initialiser(ty, out)?;
                self.eat(",");
            }
            return Ok(());
        }
        if self.peek().kind == TokenKind::Name {
            let mut name = self.name()?;
            if name == "generic" && self.eat("(") {
                name = self.name()?;
                self.expect(")")?;
            }
            let offset = self.offset()?;
            out.push(Init::Address(name, offset));
            return Ok(());
        }
        let negative = self.eat("-");
        let value = self.number()?;
        if self.eat("(") {
            let mut name = self.name()?;
            if name == "generic" && self.eat("(") {
                name = self.name()?;
                self.expect(")")?;
            }
            self.expect(")")?;
            let Operand::Int(mask) = value else { return self.error("a byte mask expected") };
            out.push(Init::Byte(name, (mask as u64).trailing_zeros()));
            return Ok(());
        }
        out.push(Init::Bits(literal_bits(&value, ty, negative)));
        Ok(())
    }

    fn offset(&mut self) -> Res<i64> {
        let mut sum = 0;
        loop {
            if self.eat("+") {
                sum += self.integer()? as i64;
            } else if self.eat("-") {
                sum -= self.integer()? as i64;
            } else {
                return Ok(sum);
            }
        }
    }

    /// Statements up to the closing brace, which is consumed.
    fn body(&mut self) -> Res<Vec<Stmt>> {
        let mut out = Vec::new();
        loop {
            let t = self.peek();
            match t.kind {
                TokenKind::End => return self.error("`}` expected before the end of the text"),
                TokenKind::Punct if t.text == "}" => {
                    self.next();
                    return Ok(out);
                }
                TokenKind::Punct if t.text == "{" => {
                    self.next();
                    out.push(Stmt::Block(self.body()?));
                }
                TokenKind::Punct if t.text == ";" => {
                    self.next();
                }
                TokenKind::Punct if t.text == "@" => out.push(Stmt::Inst(self.instruction()?)),
                TokenKind::Dot => self.body_directive(&mut out)?,
                TokenKind::Name => {
                    let following = self.tokens[self.at + 1];
                    if following.text == ":" {
                        self.next();
                        self.next();
                        self.label(t.text.to_string(), &mut out)?;
                    } else {
                        out.push(Stmt::Inst(self.instruction()?));
                    }
                }
                _ => return self.error(format!("a statement expected, `{}` found", t.text)),
            }
        }
    }

    fn label(&mut self, name: String, out: &mut Vec<Stmt>) -> Res<()> {
        match self.peek().text {
            ".branchtargets" | ".calltargets" => {
                self.next();
                let mut targets = vec![self.name()?];
                while self.eat(",") {
                    targets.push(self.name()?);
                }
                self.expect(";")?;
                out.push(Stmt::Targets(name, targets));
            }
            ".callprototype" => {
                self.next();
                let mut signature = Signature::default();
                if self.is("(") {
                    signature.returns = self.parameters()?;
                }
                self.expect("_")?;
                if self.is("(") {
                    signature.params = self.parameters()?;
                }
                while !self.eat(";") {
                    self.next();
                }
                out.push(Stmt::Prototype(name, signature));
            }
            _ => out.push(Stmt::Label(name)),
        }
        Ok(())
    }

    fn body_directive(&mut self, out: &mut Vec<Stmt>) -> Res<()> {
        match self.peek().text {
            ".reg" => {
                self.next();
                let mut lanes = 1;
                if self.eat(".v2") {
                    lanes = 2;
                } else if self.eat(".v4") {
                    lanes = 4;
                }
                let t = self.next();
                let Some(ty) = t.text.strip_prefix('.').and_then(Type::parse) else {
                    return self.error(format!("a register type expected, `{}` found", t.text));
                };
                let mut names = Vec::new();
                loop {
                    let name = self.name()?;
                    let count = if self.eat("<") {
                        let n = self.small()?;
                        self.expect(">")?;
                        Some(n)
                    } else {
                        None
                    };
                    names.push((name, count));
                    if !self.eat(",") {
                        break;
                    }
                }
                self.expect(";")?;
                out.push(Stmt::Regs(ty, names, lanes));
            }
            ".loc" | ".file" | ".pragma" => self.skip_line(),
            ".extern" => {
                self.next();
                return self.body_variables(true, out);
            }
            _ => return self.body_variables(false, out),
        }
        Ok(())
    }

    fn body_variables(&mut self, external: bool, out: &mut Vec<Stmt>) -> Res<()> {
        let mut variables = Vec::new();
        self.variables(external, &mut variables)?;
        out.extend(variables.into_iter().map(Stmt::Var));
        Ok(())
    }

    fn instruction(&mut self) -> Res<Inst> {
        let first = self.peek();
        let mut guard = None;
        if self.eat("@") {
            let negated = self.eat("!");
            guard = Some((self.name()?, negated));
        }
        let line = self.peek().line;
        let op = self.name()?;
        let mut mods = Vec::new();
        while self.peek().kind == TokenKind::Dot {
            mods.push(self.next().text[1..].to_string());
        }
        let mut operands = Vec::new();
        while !self.is(";") {
            operands.push(self.operand()?);
            if !self.eat(",") && !self.is(";") {
                // `call f(args)` without a comma, and the `|` forms are handled in `operand`.
                if !self.is("(") {
                    return self
                        .error(format!("`,` or `;` expected, `{}` found", self.peek().text));
                }
            }
        }
        let end = self.peek().at;
        self.expect(";")?;
        let text = self.text[first.at..end].split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Inst { guard, op, mods, operands, line, text })
    }

    fn operand(&mut self) -> Res<Operand> {
        let t = self.peek();
        match t.kind {
            TokenKind::Number => {
                let first = self.number()?;
                self.expression(first, 0)
            }
            TokenKind::Punct => match t.text {
                "-" => {
                    self.next();
                    Ok(match self.number()? {
                        Operand::Int(v) => Operand::Int(-v),
                        Operand::F32(v) => Operand::F32(v ^ 1 << 31),
                        Operand::F64(v) => Operand::F64(v ^ 1 << 63),
                        other => other,
                    })
                }
                "!" => {
                    self.next();
                    Ok(Operand::Not(self.name()?))
                }
                "~" => {
                    self.next();
                    Ok(Operand::Int(!self.integer()?))
                }
                "{" => {
                    self.next();
                    Ok(Operand::Vector(self.list("}")?))
                }
                "(" => {
                    self.next();
                    Ok(Operand::Tuple(self.list(")")?))
                }
                "[" => {
                    self.next();
                    self.address()
                }
                other => self.error(format!("an operand expected, `{other}` found")),
            },
            TokenKind::Name => {
                let mut name = self.name()?;
                if name == "_" {
                    return Ok(Operand::Sink);
                }
                if self.peek().kind == TokenKind::Dot {
                    name.push_str(self.next().text);
                }
                if self.eat("|") {
                    return Ok(Operand::Pair(name, self.name()?));
                }
                let offset = self.offset()?;
                Ok(if offset != 0 { Operand::Sum(name, offset) } else { Operand::Name(name) })
            }
            _ => self.error(format!("an operand expected, `{}` found", t.text)),
        }
    }

    /// The rest of a constant expression of integers, down to operators of a least precedence.
    fn expression(&mut self, first: Operand, least: u32) -> Res<Operand> {
        let mut left = first;
        loop {
            let precedence = match self.peek().text {
                "*" | "/" | "%" => 3,
                "+" | "-" => 2,
                "<" | ">" => 1,
                _ => return Ok(left),
            };
            let Operand::Int(a) = left else { return Ok(left) };
            if precedence < least {
                return Ok(left);
            }
            let operator = self.next().text;
            if precedence == 1 {
                // Shifts are two tokens.
                self.expect(operator)?;
            }
            let negative = self.eat("-");
            let next = self.number()?;
            let right = self.expression(next, precedence + 1)?;
            let Operand::Int(b) = right else { return self.error("an integer expected") };
            let b = if negative { -b } else { b };
            let value = match operator {
                "*" => a.checked_mul(b),
                "/" => a.checked_div(b),
                "%" => a.checked_rem(b),
                "+" => a.checked_add(b),
                "-" => a.checked_sub(b),
                "<" => u32::try_from(b).ok().and_then(|b| a.checked_shl(b)),
                _ => u32::try_from(b).ok().and_then(|b| a.checked_shr(b)),
            };
            match value {
                Some(v) => left = Operand::Int(v),
                None => return self.error("the expression has no value"),
            }
        }
    }

    fn list(&mut self, end: &str) -> Res<Vec<Operand>> {
        let mut out = Vec::new();
        while !self.eat(end) {
            out.push(self.operand()?);
            if !self.eat(",") && !self.is(end) {
                return self.error(format!("`{end}` expected"));
            }
        }
        Ok(out)
    }

    fn address(&mut self) -> Res<Operand> {
        let first = self.operand()?;
        if self.eat(",") {
            let mut list = vec![first];
            list.extend(self.list("]")?);
            return Ok(Operand::AddressList(list));
        }
        self.expect("]")?;
        match first {
            Operand::Name(name) => Ok(Operand::Address(Some(name), 0)),
            Operand::Sum(name, offset) => Ok(Operand::Address(Some(name), offset)),
            Operand::Int(v) => Ok(Operand::Address(None, v as i64)),
            _ => self.error("an address expected"),
        }
    }
}

fn parse_number(text: &str) -> Option<Operand> {
    let lower = text.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f")
        && hex.len() == 8
    {
        return u32::from_str_radix(hex, 16).ok().map(Operand::F32);
    }
    if let Some(hex) = lower.strip_prefix("0d")
        && hex.len() == 16
    {
        return u64::from_str_radix(hex, 16).ok().map(Operand::F64);
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    if let Some(hex) = digits.strip_prefix("0x") {
        return i128::from_str_radix(hex, 16).ok().map(Operand::Int);
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return i128::from_str_radix(binary, 2).ok().map(Operand::Int);
    }
    if digits.contains(['.', 'e']) {
        return digits.parse::<f64>().ok().map(|v| Operand::F64(v.to_bits()));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return i128::from_str_radix(digits, 8).ok().map(Operand::Int);
    }
    digits.parse().ok().map(Operand::Int)
}

/// The bits that a literal has in a type: float literals take the type's format, integers are cut later.
pub(crate) fn literal_bits(value: &Operand, ty: Type, negative: bool) -> u64 {
    let float = |v: f64| match ty {
        Type::F32 => (v as f32).to_bits() as u64,
        _ => v.to_bits(),
    };
    match *value {
        Operand::Int(v) => {
            let v = if negative { -v } else { v };
            match ty {
                Type::F32 | Type::F64 => float(v as f64),
                _ => v as u64,
            }
        }
        Operand::F32(bits) => {
            let bits = if negative { bits ^ 1 << 31 } else { bits };
            if ty == Type::F64 { (f32::from_bits(bits) as f64).to_bits() } else { bits as u64 }
        }
        Operand::F64(bits) => {
            let v = f64::from_bits(bits);
            float(if negative { -v } else { v })
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_number("0x10U"), Some(Operand::Int(16)));
        assert_eq!(parse_number("0f3F800000"), Some(Operand::F32(0x3f80_0000)));
        assert_eq!(parse_number("017"), Some(Operand::Int(15)));
        assert_eq!(parse_number("1.5"), Some(Operand::F64(1.5f64.to_bits())));
    }

    #[test]
    fn module_with_everything() {
        let tree = parse(
            ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 8 .u64 t[2] = {generic(f)+4, 7};\n\
             .visible .entry k(.param .align 8 .b8 p[24], .param .u64 .ptr .global .align 4 q)\n.maxntid 128, 1, 1\n\
             { .reg .pred %p<2>; .reg .b32 %r<3>; { .reg .b32 t1; mov.b32 t1, 5; }\n\
             $L: @!%p1 bra $L; ld.param.v2.b32 {%r1, _}, [p+8]; call (r), f, (a, b); ret; }",
        )
        .unwrap();
        assert_eq!(tree.variables[0].init, vec![Init::Address("f".into(), 4), Init::Bits(7)]);
        let f = &tree.functions[0];
        assert_eq!(f.max_threads, Some([128, 1, 1]));
        assert_eq!(f.signature.params[0].size, 24);
        assert_eq!(f.signature.params[1].size, 8);
        let body = f.body.as_ref().unwrap();
        assert_eq!(body.len(), 8);
        assert!(
            matches!(&body[4], Stmt::Inst(i) if i.guard == Some(("%p1".into(), true)) && i.line == 8)
        );
    }

    #[test]
    fn rubbish_is_an_error_with_a_line() {
        assert!(matches!(parse("\n\u{7f}ELF"), Err(LoadError::Syntax { line: 2, .. })));
        assert!(parse("").is_err());
        assert!(parse(".version 8.0\n.entry k() { mov.u32 %r1 }").is_err());
    }
}
