//! A process that is driven by lines: ours or a peer's.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// What can go wrong with a process.
#[derive(Debug)]
pub enum Trouble {
    /// It says that it cannot do this, and why.
    Missing(String),
    /// It ended, or answered what it should not.
    Failed(String),
}

/// A process that is ready.
pub struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Process {
    /// Starts a process and waits until it is ready.
    pub fn start(mut command: Command, name: &str) -> Result<Self, Trouble> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| {
            Trouble::Missing(format!("{}: {error}", command.get_program().to_string_lossy()))
        })?;
        let commands = child.stdin.take().expect("a pipe was asked for");
        let answers = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let mut process =
            Self { child, commands, answers, name: name.to_string(), ready: Value::Null };
        process.ready = process.answer()?;
        if let Some(why) = process.ready["missing"].as_str() {
            return Err(Trouble::Missing(why.to_string()));
        }
        Ok(process)
    }

    /// One command and its answer.
    pub fn ask(&mut self, command: &str) -> Result<Value, Trouble> {
        // A process that is gone shows when its answer is read.
        let _ = writeln!(self.commands, "{command}");
        let _ = self.commands.flush();
        self.answer()
    }

    /// The number that a command is answered with.
    pub fn number(&mut self, command: &str, key: &str) -> Result<f64, Trouble> {
        let answer = self.ask(command)?;
        answer[key]
            .as_f64()
            .ok_or_else(|| Trouble::Failed(format!("{}: {answer} has no number {key}", self.name)))
    }

    fn answer(&mut self) -> Result<Value, Trouble> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        if !matches!(read, Ok(1..)) {
            let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
            return Err(Trouble::Failed(format!("{} ended with {status}", self.name)));
        }
        serde_json::from_str(&line)
            .map_err(|error| Trouble::Failed(format!("{}: {}: {error}", self.name, line.trim())))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be in the middle of something long.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
