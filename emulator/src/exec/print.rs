//! The device's `printf`.

use std::fmt::Write as _;
use std::io::Write as _;

/// Formats as C does. `argument(offset, size)` reads from the argument list, `text(address)` reads a string.
/// Answers the text and the number of arguments.
pub(super) fn format(
    format: &[u8],
    mut argument: impl FnMut(usize, usize) -> u64,
    text: impl Fn(u64) -> Vec<u8>,
) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut at = 0;
    let mut count = 0;
    let mut next = |size: usize, at: &mut usize| {
        *at = at.next_multiple_of(size);
        let value = argument(*at, size);
        *at += size;
        value
    };
    let mut chars = format.iter().copied().peekable();
    while let Some(c) = chars.next() {
        if c != b'%' {
            out.push(c);
            continue;
        }
        let (mut flags, mut long) = (Vec::new(), 0);
        while let Some(&f) = chars.peek().filter(|f| b"-+ #0".contains(f)) {
            flags.push(f);
            chars.next();
        }
        let mut number = |chars: &mut std::iter::Peekable<_>, at: &mut usize| -> Option<i64> {
            let chars: &mut std::iter::Peekable<std::iter::Copied<std::slice::Iter<u8>>> = chars;
            if chars.peek() == Some(&b'*') {
                chars.next();
                return Some(next(4, at) as i32 as i64);
            }
            let mut n = None;
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                n = Some(n.unwrap_or(0) * 10 + (d - b'0') as i64);
                chars.next();
            }
            n
        };
        let mut width = number(&mut chars, &mut at).unwrap_or(0);
        if width < 0 {
            flags.push(b'-');
            width = -width;
        }
        let mut precision = None;
        if chars.peek() == Some(&b'.') {
            chars.next();
            precision = Some(number(&mut chars, &mut at).unwrap_or(0).max(0) as usize);
        }
        while let Some(l) = chars.peek().filter(|l| b"lhzjt".contains(l)) {
            long += matches!(l, b'l' | b'z' | b'j' | b't') as u32;
            chars.next();
        }
        let Some(kind) = chars.next() else { break };
        let size = if long > 0 { 8 } else { 4 };
        let mut signed = false;
        let body: Vec<u8> = match kind {
            b'%' => vec![b'%'],
            b'd' | b'i' => {
                count += 1;
                signed = true;
                let v = next(size, &mut at);
                let v = if long > 0 { v as i64 } else { v as i32 as i64 };
                digits(v.unsigned_abs().to_string(), v < 0, precision)
            }
            b'u' | b'x' | b'X' | b'o' => {
                count += 1;
                let v = next(size, &mut at);
                let (text, prefix) = match kind {
                    b'u' => (v.to_string(), ""),
                    b'x' => (format!("{v:x}"), "0x"),
                    b'X' => (format!("{v:X}"), "0X"),
                    _ => (format!("{v:o}"), "0"),
                };
                let mut body = digits(text, false, precision);
                if flags.contains(&b'#') && v != 0 {
                    body.splice(0..0, prefix.bytes());
                }
                body
            }
            b'c' => {
                count += 1;
                vec![next(4, &mut at) as u8]
            }
            b'p' => {
                count += 1;
                format!("{:#x}", next(8, &mut at)).into_bytes()
            }
            b's' => {
                count += 1;
                let mut s = text(next(8, &mut at));
                s.truncate(precision.unwrap_or(usize::MAX));
                s
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                count += 1;
                signed = true;
                float(f64::from_bits(next(8, &mut at)), kind, precision.unwrap_or(6)).into_bytes()
            }
            other => vec![b'%', other],
        };
        let mut body = body;
        if signed && !body.starts_with(b"-") {
            if flags.contains(&b'+') {
                body.insert(0, b'+');
            } else if flags.contains(&b' ') {
                body.insert(0, b' ');
            }
        }
        let pad = (width as usize).saturating_sub(body.len());
        if flags.contains(&b'-') {
            out.extend(&body);
            out.extend(std::iter::repeat_n(b' ', pad));
        } else if flags.contains(&b'0') && kind != b's' && kind != b'c' {
            let prefixed = body.starts_with(b"0x") || body.starts_with(b"0X");
            let sign = if prefixed {
                2
            } else {
                body.first().is_some_and(|c| b"+- ".contains(c)) as usize
            };
            out.extend(&body[..sign]);
            out.extend(std::iter::repeat_n(b'0', pad));
            out.extend(&body[sign..]);
        } else {
            out.extend(std::iter::repeat_n(b' ', pad));
            out.extend(&body);
        }
    }
    (out, count)
}

fn digits(text: String, negative: bool, precision: Option<usize>) -> Vec<u8> {
    let mut out = String::new();
    if negative {
        out.push('-');
    }
    for _ in text.len()..precision.unwrap_or(0) {
        out.push('0');
    }
    out.push_str(&text);
    out.into_bytes()
}

fn float(v: f64, kind: u8, precision: usize) -> String {
    if !v.is_finite() {
        let text = if v.is_nan() {
            "nan"
        } else if v > 0.0 {
            "inf"
        } else {
            "-inf"
        };
        return if kind.is_ascii_uppercase() { text.to_uppercase() } else { text.into() };
    }
    let text = match kind | 32 {
        b'f' => format!("{v:.precision$}"),
        b'e' => exponent(v, precision),
        b'a' => format!("{v:e}"),
        _ => {
            let p = precision.max(1);
            let e: i32 = format!("{:.*e}", p - 1, v)
                .rsplit('e')
                .next()
                .and_then(|e| e.parse().ok())
                .unwrap_or(0);
            let text = if e < -4 || e >= p as i32 {
                exponent(v, p - 1)
            } else {
                format!("{v:.*}", (p as i32 - 1 - e) as usize)
            };
            trim(&text)
        }
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

/// `1.5e2` as C writes it: `1.500000e+02`.
fn exponent(v: f64, precision: usize) -> String {
    let text = format!("{v:.precision$e}");
    let (mantissa, e) = text.split_once('e').unwrap_or((&text, "0"));
    let e: i32 = e.parse().unwrap_or(0);
    let mut out = String::from(mantissa);
    let _ = write!(out, "e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs());
    out
}

/// `%g` drops trailing zeros of the fraction.
fn trim(text: &str) -> String {
    let (mantissa, e) = text.split_at(text.find('e').unwrap_or(text.len()));
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    format!("{mantissa}{e}")
}

/// Writes to the process's standard output.
pub(super) fn emit(text: &[u8]) {
    // Nobody is left to tell when stdout is gone.
    let _ = std::io::stdout().write_all(text);
}

#[cfg(test)]
mod tests {
    #[test]
    fn formats_like_c() {
        let values =
            [42u64, (-7i32) as u32 as u64 | 255 << 32, 1.5f64.to_bits(), 1e10f64.to_bits(), 99];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let argument = |offset: usize, size: usize| {
            let mut v = [0; 8];
            v[..size].copy_from_slice(&bytes[offset..offset + size]);
            u64::from_le_bytes(v)
        };
        let (text, count) = super::format(b"%lld|%5d|%#06x|%-8.2f|%g|%s%%", argument, |a| {
            format!("<{a}>").into_bytes()
        });
        assert_eq!(String::from_utf8_lossy(&text), "42|   -7|0x00ff|1.50    |1e+10|<99>%");
        assert_eq!(count, 6);
    }
}
