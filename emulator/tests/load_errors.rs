//! Modules that must be refused, and what the refusal says.

mod common;

use common::*;
use cuda_emulator::config::Config;
use cuda_emulator::memory::Memory;
use cuda_emulator::ptx::{LoadError, Module};

fn refused(ptx: &str, config: &Config) -> LoadError {
    match Module::load(ptx, &Memory::new(), config) {
        Ok(_) => panic!("accepted:\n{ptx}"),
        Err(error) => error,
    }
}

fn device(major: u32, minor: u32) -> Config {
    Config { compute_capability: (major, minor), ..config() }
}

#[test]
fn an_unknown_instruction_is_named_with_its_line() {
    for instruction in [
        "frobnicate.u32 v, v;",
        "add.u31 v, v, v;",
        "add.sideways.u32 v, v, v;",
        "mma.sync.aligned.m16n8k99.row.col.f32.f16.f16.f32 {v, v, v, v}, {v, v, v, v}, {v, v}, {v, v, v, v};",
        "tex.2d.v4.f32.f32 {v, v, v, v}, [image, {v, v}];",
        "cvt.rn.f99.f32 v, v;",
        "atom.global.nand.b32 v, [in], v;",
    ] {
        let ptx = kernel(
            "",
            &format!(
                "\n    .reg .b32 v;\n    mov.u32 v, 0;\n    {instruction} // fault\n    mov.u32 v, 1;"
            ),
        );
        let opcode = instruction.split_whitespace().next().unwrap();
        match refused(&ptx, &config()) {
            LoadError::UnknownInstruction { line, text } => {
                assert_eq!(line, line_of(&ptx, "// fault"), "{instruction}");
                assert!(text.contains(opcode), "{text}");
            }
            error => panic!("{instruction}: {error:?}"),
        }
        // The words say so too.
        let words = refused(&ptx, &config()).to_string();
        assert!(
            words.contains(opcode) && words.contains(&line_of(&ptx, "// fault").to_string()),
            "{words}"
        );
    }
}

/// Refused although nothing ever calls it: at load, not when it runs.
#[test]
fn an_unknown_instruction_that_never_runs_is_refused_too() {
    let ptx = kernel(".func unused()\n{\n    wobble.u32 1; // fault\n    ret;\n}", "");
    assert!(
        matches!(refused(&ptx, &config()), LoadError::UnknownInstruction { line, .. } if line == line_of(&ptx, "// fault"))
    );
    let ptx = kernel("", "    bra END;\n    wobble.u32 1; // fault\nEND:");
    assert!(
        matches!(refused(&ptx, &config()), LoadError::UnknownInstruction { line, .. } if line == line_of(&ptx, "// fault"))
    );
}

#[test]
fn what_is_no_ptx_is_a_syntax_error_with_its_line() {
    for (fault, why) in [
        ("mov.u32 v 1; // fault", "a comma is missing"),
        ("mov.u32 undeclared, 1; // fault", "no such register"),
        ("bra NOWHERE; // fault", "no such label"),
        ("ld.global.u32 v, [nothing]; // fault", "no such variable"),
        ("mov.u32 v, 0xzz; // fault", "no number"),
    ] {
        let ptx = kernel("", &format!("\n    .reg .b32 v;\n    {fault}\n    mov.u32 v, 1;"));
        match refused(&ptx, &config()) {
            LoadError::Syntax { line, message } => {
                assert_eq!(line, line_of(&ptx, "// fault"), "{why}: {message}");
                assert!(!message.is_empty());
            }
            error => panic!("{why}: {error:?}"),
        }
    }
    for text in [
        "",
        "\u{7f}ELF\u{2}",
        "hello",
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry test( {",
    ] {
        refused(text, &config());
    }
}

#[test]
fn a_newer_version_or_target_is_refused() {
    let with = |version: &str, target: &str| {
        kernel("", "")
            .replace(".version 8.0", &format!(".version {version}"))
            .replace("sm_80", target)
    };
    let (ampere, hopper) = (device(8, 0), device(9, 0));
    assert!(
        matches!(refused(&with("99.0", "sm_80"), &ampere), LoadError::UnsupportedVersion(v) if v.contains("99.0"))
    );
    assert!(
        matches!(refused(&with("8.0", "sm_90"), &ampere), LoadError::UnsupportedTarget(t) if t.contains("sm_90"))
    );
    assert!(matches!(refused(&with("8.0", "sm_86"), &ampere), LoadError::UnsupportedTarget(_)));
    assert!(matches!(refused(&with("8.0", "sm_90a"), &ampere), LoadError::UnsupportedTarget(_)));
    assert!(matches!(refused(&with("8.8", "sm_100"), &hopper), LoadError::UnsupportedTarget(_)));
    // Architecture-specific code runs on that architecture alone.
    assert!(matches!(
        refused(&with("8.0", "sm_90a"), &device(10, 0)),
        LoadError::UnsupportedTarget(_)
    ));
    for (config, version, target) in [
        (&ampere, "8.0", "sm_80"),
        (&ampere, "7.0", "sm_70"),
        (&ampere, "6.0", "sm_52"),
        (&ampere, "9.0", "sm_80"),
        (&hopper, "8.0", "sm_80"),
        (&hopper, "8.0", "sm_86"),
        (&hopper, "8.0", "sm_90"),
        (&hopper, "8.0", "sm_90a"),
    ] {
        if let Err(error) = Module::load(&with(version, target), &Memory::new(), config) {
            panic!("{version} {target}: {error:?}");
        }
    }
}

#[test]
fn what_nobody_defines_is_named() {
    let ptx = kernel(
        ".extern .func elsewhere(.param .b32 x);",
        "
    {
    .param .b32 first;
    st.param.b32 [first], 0;
    call elsewhere, (first);
    }",
    );
    assert!(
        matches!(refused(&ptx, &config()), LoadError::Unresolved(name) if name.contains("elsewhere"))
    );
}
