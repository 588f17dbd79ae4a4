//! Functions of bytes.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::rows::{Kind, Overload, Value, function, overloaded};

type Result<T> = std::result::Result<T, Error>;

const SUBSTRING: SqlState = SqlState("22011");

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    use Kind::{Big, Bytes, Int, Text};
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    vec![
        overloaded(
            "encode",
            vec![overload(&[Bytes, Text], Text, |args| encoded(args[0].bytes(), args[1].text()))],
        ),
        overloaded(
            "decode",
            vec![overload(&[Text, Text], Bytes, |args| decoded(args[0].text(), args[1].text()))],
        ),
        // The operator ||.
        function("byteacat", &[Bytes, Bytes], Bytes, |args| {
            Ok(Value::Bytes([args[0].bytes(), args[1].bytes()].concat()))
        }),
        function("get_byte", &[Bytes, Big], Int, |args| {
            let bytes = args[0].bytes();
            Ok(Value::Int(bytes[byte_at(bytes, args[1].int())?].into()))
        }),
        function("set_byte", &[Bytes, Big, Big], Bytes, |args| {
            let mut bytes = args[0].bytes().to_vec();
            let at = byte_at(&bytes, args[1].int())?;
            bytes[at] = args[2].int() as u8;
            Ok(Value::Bytes(bytes))
        }),
        function("get_bit", &[Bytes, Big], Int, |args| {
            let bytes = args[0].bytes();
            let at = bit_at(bytes, args[1].int())?;
            Ok(Value::Int((bytes[at / 8] >> (at % 8) & 1).into()))
        }),
        function("set_bit", &[Bytes, Big, Big], Bytes, |args| {
            let mut bytes = args[0].bytes().to_vec();
            let at = bit_at(&bytes, args[1].int())?;
            let bit = match args[2].int() {
                bit @ 0..=1 => bit as u8,
                _ => return Err(Error::new(SqlState::INVALID_PARAMETER, "new bit must be 0 or 1")),
            };
            bytes[at / 8] = bytes[at / 8] & !(1 << (at % 8)) | bit << (at % 8);
            Ok(Value::Bytes(bytes))
        }),
        function("bit_count", &[Bytes], Big, |args| {
            Ok(Value::Int(args[0].bytes().iter().map(|byte| i64::from(byte.count_ones())).sum()))
        }),
        overloaded(
            "convert_to",
            vec![overload(&[Text, Text], Bytes, |args| match args[1].text().to_lowercase().as_str() {
                "utf8" | "utf-8" | "unicode" => Ok(Value::Bytes(args[0].text().as_bytes().to_vec())),
                other => Err(Error::new(
                    SqlState::INVALID_PARAMETER,
                    format!("invalid destination encoding name \"{other}\""),
                )),
            })],
        ),
    ]
}

/// Signatures for bytes of functions that DataFusion has for text.
pub(crate) fn extensions() -> Vec<(&'static str, Vec<Overload>)> {
    use Kind::{Big, Bytes, Int};
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    let trim = |eval| vec![overload(&[Bytes, Bytes], Bytes, eval)];
    let length = |eval| vec![overload(&[Bytes], Int, eval)];
    vec![
        ("character_length", length(|args| Ok(Value::Int(args[0].bytes().len() as i64)))),
        ("octet_length", length(|args| Ok(Value::Int(args[0].bytes().len() as i64)))),
        ("bit_length", length(|args| Ok(Value::Int(args[0].bytes().len() as i64 * 8)))),
        ("btrim", trim(|args| Ok(Value::Bytes(trimmed(args, true, true))))),
        ("ltrim", trim(|args| Ok(Value::Bytes(trimmed(args, true, false))))),
        ("rtrim", trim(|args| Ok(Value::Bytes(trimmed(args, false, true))))),
        (
            "strpos",
            vec![overload(&[Bytes, Bytes], Int, |args| {
                let (bytes, part) = (args[0].bytes(), args[1].bytes());
                let position = match part.is_empty() {
                    true => Some(0),
                    false => bytes.windows(part.len()).position(|window| window == part),
                };
                Ok(Value::Int(position.map_or(0, |position| position as i64 + 1)))
            })],
        ),
        (
            "overlay",
            vec![
                overload(&[Bytes, Bytes, Big], Bytes, |args| {
                    overlaid(args[0].bytes(), args[1].bytes(), args[2].int(), args[1].bytes().len() as i64)
                }),
                overload(&[Bytes, Bytes, Big, Big], Bytes, |args| {
                    overlaid(args[0].bytes(), args[1].bytes(), args[2].int(), args[3].int())
                }),
            ],
        ),
    ]
}

/// `substr` of bytes.
pub(crate) fn substring(args: &[Value]) -> Result<Value> {
    let length = args.get(2).map(Value::int);
    Ok(Value::Bytes(part(args[0].bytes(), args[1].int(), length)?.to_vec()))
}

/// From a position that counts from 1 and may lie before the beginning.
fn part(bytes: &[u8], start: i64, length: Option<i64>) -> Result<&[u8]> {
    if length.is_some_and(|length| length < 0) {
        return Err(Error::new(SUBSTRING, "negative substring length not allowed"));
    }
    let end = length.map_or(i64::MAX, |length| start.saturating_add(length));
    let within = |position: i64| position.clamp(1, bytes.len() as i64 + 1) as usize - 1;
    Ok(&bytes[within(start)..within(end.max(start))])
}

fn overlaid(bytes: &[u8], new: &[u8], start: i64, length: i64) -> Result<Value> {
    if start <= 0 {
        return Err(Error::new(SUBSTRING, "negative substring length not allowed"));
    }
    let before = part(bytes, 1, Some(start - 1))?;
    let behind = part(bytes, start.saturating_add(length), None)?;
    Ok(Value::Bytes([before, new, behind].concat()))
}

fn trimmed(args: &[Value], start: bool, end: bool) -> Vec<u8> {
    let (mut bytes, set) = (args[0].bytes(), args[1].bytes());
    while let [first, rest @ ..] = bytes
        && start
        && set.contains(first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && end
        && set.contains(last)
    {
        bytes = rest;
    }
    bytes.to_vec()
}

fn out_of_range(at: i64, length: usize) -> Error {
    Error::new(SqlState("2202E"), format!("index {at} out of valid range, 0..{}", length as i64 - 1))
}

fn byte_at(bytes: &[u8], at: i64) -> Result<usize> {
    usize::try_from(at).ok().filter(|at| *at < bytes.len()).ok_or_else(|| out_of_range(at, bytes.len()))
}

fn bit_at(bytes: &[u8], at: i64) -> Result<usize> {
    let n_bits = bytes.len() * 8;
    usize::try_from(at).ok().filter(|at| *at < n_bits).ok_or_else(|| out_of_range(at, n_bits))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// How many characters of base64 stand in a line.
const LINE: usize = 76;

fn unknown_encoding(name: &str) -> Error {
    Error::new(SqlState::INVALID_PARAMETER, format!("unrecognized encoding: \"{name}\""))
        .with_hint("Known are base64, escape and hex.")
}

fn encoded(bytes: &[u8], encoding: &str) -> Result<Value> {
    let mut text = String::new();
    match encoding.to_lowercase().as_str() {
        "hex" => text.extend(bytes.iter().flat_map(|byte| {
            [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default())
        })),
        "escape" => {
            for byte in bytes {
                match byte {
                    b'\\' => text.push_str("\\\\"),
                    1..=127 => text.push(char::from(*byte)),
                    _ => text.push_str(&format!("\\{byte:03o}")),
                }
            }
        }
        "base64" => {
            let mut n_written = 0;
            for chunk in bytes.chunks(3) {
                let digits = chunk.iter().fold(0u32, |digits, byte| digits << 8 | u32::from(*byte));
                let digits = digits << (8 * (3 - chunk.len()));
                for idx in 0..4 {
                    let digit = (digits >> (18 - 6 * idx) & 63) as usize;
                    text.push(if idx > chunk.len() { '=' } else { char::from(BASE64[digit]) });
                }
                n_written += 4;
                if n_written == LINE {
                    text.push('\n');
                    n_written = 0;
                }
            }
            // A full last line does not end.
            if text.ends_with('\n') {
                text.pop();
            }
        }
        other => return Err(unknown_encoding(other)),
    }
    Ok(Value::Text(text))
}

fn decoded(text: &str, encoding: &str) -> Result<Value> {
    let invalid = |message: String| Error::new(SqlState::INVALID_PARAMETER, message);
    let mut bytes = Vec::new();
    match encoding.to_lowercase().as_str() {
        "hex" => {
            let mut half = None;
            for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
                let Some(digit) = c.to_digit(16) else {
                    return Err(invalid(format!("invalid hexadecimal digit: \"{c}\"")));
                };
                match half.take() {
                    None => half = Some(digit),
                    Some(high) => bytes.push((high << 4 | digit) as u8),
                }
            }
            if half.is_some() {
                return Err(invalid("invalid hexadecimal data: odd number of digits".into()));
            }
        }
        "escape" => {
            let mut rest = text.as_bytes();
            while let Some((first, behind)) = rest.split_first() {
                rest = behind;
                if *first != b'\\' {
                    bytes.push(*first);
                } else if let [b'\\', behind @ ..] = rest {
                    bytes.push(b'\\');
                    rest = behind;
                } else if let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..] = rest {
                    bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                    rest = behind;
                } else {
                    return Err(Error::new(SqlState::INVALID_TEXT, "invalid input syntax for type bytea"));
                }
            }
        }
        "base64" => {
            let (mut digits, mut n_digits, mut n_padding) = (0u32, 0, 0);
            for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
                let digit =
                    match u8::try_from(c).ok().and_then(|c| BASE64.iter().position(|digit| *digit == c)) {
                        Some(digit) if n_padding == 0 => digit as u32,
                        None if c == '=' && n_digits >= 2 => {
                            n_padding += 1;
                            0
                        }
                        _ => {
                            return Err(invalid(format!(
                                "invalid symbol \"{c}\" found while decoding base64 sequence"
                            )));
                        }
                    };
                digits = digits << 6 | digit;
                n_digits += 1;
                if n_digits == 4 {
                    bytes.extend_from_slice(&digits.to_be_bytes()[1..4 - n_padding.min(2)]);
                    (digits, n_digits) = (0, 0);
                }
            }
            if n_digits != 0 {
                return Err(invalid("invalid base64 end sequence".into())
                    .with_hint("Input data is missing padding, is truncated, or is otherwise corrupted."));
            }
        }
        other => return Err(unknown_encoding(other)),
    }
    Ok(Value::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_go_both_ways() {
        let bytes: Vec<u8> = (0..=255).collect();
        for encoding in ["hex", "base64", "escape"] {
            for length in [0, 1, 2, 3, 57, 58, 256] {
                let Value::Text(text) = encoded(&bytes[..length], encoding).unwrap() else { panic!() };
                assert_eq!(
                    decoded(&text, encoding).unwrap(),
                    Value::Bytes(bytes[..length].to_vec()),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn parts_may_lie_outside() {
        let bytes = [1, 2, 3];
        assert_eq!(part(&bytes, -1, Some(3)).unwrap(), [1]);
        assert_eq!(part(&bytes, 2, None).unwrap(), [2, 3]);
        assert_eq!(part(&bytes, 9, Some(i64::MAX)).unwrap(), [0u8; 0]);
        assert!(part(&bytes, 1, Some(-1)).is_err());
    }
}
