//! The tokens of PTX text.

use super::LoadError;

/// One token with its place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub kind: TokenKind,
    pub text: &'a str,
    pub line: u32,
    /// Byte offset in the text.
    pub at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A name: register, label, variable, opcode.
    Name,
    /// A dot and a word: directive, type, modifier (`.L1::no_allocate` is one).
    Dot,
    /// A number as written.
    Number,
    /// A string, without its quotes.
    Text,
    /// One character of punctuation.
    Punct,
    End,
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$'
}

/// Splits the text into tokens; comments vanish.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, LoadError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4);
    let (mut i, mut line) = (0, 1u32);
    let word_end = |mut j: usize| {
        while j < bytes.len() && is_word(bytes[j]) {
            j += 1;
        }
        j
    };
    while i < bytes.len() {
        let c = bytes[i];
        let start = i;
        let next = bytes.get(i + 1).copied().unwrap_or(0);
        let kind = match c {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                i += 1;
                continue;
            }
            b'/' if next == b'/' => {
                while i < bytes.len() && bytes[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            b'/' if next == b'*' => {
                let end = text[i + 2..].find("*/").map_or(bytes.len(), |n| i + 2 + n + 2);
                line += text[i..end].matches('\n').count() as u32;
                i = end;
                continue;
            }
            b'"' => {
                let Some(n) = text[i + 1..].find('"') else {
                    return Err(LoadError::Syntax {
                        line,
                        message: "a string that does not end".into(),
                    });
                };
                let inner = &text[i + 1..i + 1 + n];
                out.push(Token { kind: TokenKind::Text, text: inner, line, at: start });
                line += inner.matches('\n').count() as u32;
                i += n + 2;
                continue;
            }
            b'.' if is_word(next) => {
                i = word_end(i + 1);
                while bytes[i..].starts_with(b"::") && i + 2 < bytes.len() && is_word(bytes[i + 2])
                {
                    i = word_end(i + 2);
                }
                TokenKind::Dot
            }
            b'0'..=b'9' => {
                i = word_end(i);
                let hex = next == b'x'
                    || next == b'X'
                    || next == b'f'
                    || next == b'F'
                    || next == b'd'
                    || next == b'D';
                if !hex && i + 1 < bytes.len() && bytes[i] == b'.' && bytes[i + 1].is_ascii_digit()
                {
                    i = word_end(i + 1);
                }
                if !hex
                    && (bytes[i - 1] | 32) == b'e'
                    && i < bytes.len()
                    && (bytes[i] == b'-' || bytes[i] == b'+')
                {
                    i = word_end(i + 1);
                }
                TokenKind::Number
            }
            c if is_word(c) || c == b'%' => {
                i = word_end(i + 1);
                TokenKind::Name
            }
            _ if c.is_ascii() => {
                i += 1;
                TokenKind::Punct
            }
            _ => {
                return Err(LoadError::Syntax { line, message: format!("unexpected byte {c:#x}") });
            }
        };
        out.push(Token { kind, text: &text[start..i], line, at: start });
    }
    out.push(Token { kind: TokenKind::End, text: "", line, at: text.len() });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_instructions() {
        let text = "@!%p1 ld.global.L1::no_allocate.v2.f32 {%f1, %f2}, [%rd1+-8]; // end\nmov.f32 %f1, 0f3F800000; 1.5e-3";
        let tokens = tokens(text).unwrap();
        let words: Vec<_> = tokens.iter().map(|t| t.text).collect();
        assert_eq!(
            words,
            [
                "@",
                "!",
                "%p1",
                "ld",
                ".global",
                ".L1::no_allocate",
                ".v2",
                ".f32",
                "{",
                "%f1",
                ",",
                "%f2",
                "}",
                ",",
                "[",
                "%rd1",
                "+",
                "-",
                "8",
                "]",
                ";",
                "mov",
                ".f32",
                "%f1",
                ",",
                "0f3F800000",
                ";",
                "1.5e-3",
                ""
            ]
        );
        assert_eq!(tokens.last().unwrap().line, 2);
    }
}
