//! Functions of text, bytes and regular expressions, and a few of numbers.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use regex::{Regex, RegexBuilder};
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::rows::{Kind, Overload, Value, function, lenient, nullable, overloaded};

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    use Kind::{Any, Big, Float, Int, Numeric, Text, TextLists, Texts};
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    vec![
        nullable("format", &[Text, Any], true, Text, format),
        lenient(
            "string_to_array",
            vec![
                overload(&[Text, Text], Texts, |args| Ok(split(args))),
                overload(&[Text, Text, Text], Texts, |args| Ok(split(args))),
            ],
        ),
        overloaded(
            "regexp_split_to_array",
            vec![
                overload(&[Text, Text], Texts, |args| regexp_split(args[0].text(), args[1].text(), "")),
                overload(&[Text, Text, Text], Texts, |args| {
                    regexp_split(args[0].text(), args[1].text(), args[2].text())
                }),
            ],
        ),
        overloaded(
            "regexp_matches_array",
            vec![
                overload(&[Text, Text], TextLists, |args| matches(args[0].text(), args[1].text(), "")),
                overload(&[Text, Text, Text], TextLists, |args| {
                    matches(args[0].text(), args[1].text(), args[2].text())
                }),
            ],
        ),
        overloaded(
            "regexp_match",
            vec![
                overload(&[Text, Text], Texts, |args| first_match(args[0].text(), args[1].text(), "")),
                overload(&[Text, Text, Text], Texts, |args| {
                    first_match(args[0].text(), args[1].text(), args[2].text())
                }),
            ],
        ),
        overloaded(
            "regexp_replace",
            vec![
                overload(&[Text, Text, Text], Text, |args| {
                    replace(args[0].text(), args[1].text(), args[2].text(), "")
                }),
                overload(&[Text, Text, Text, Text], Text, |args| {
                    replace(args[0].text(), args[1].text(), args[2].text(), args[3].text())
                }),
                overload(&[Text, Text, Text, Big], Text, |args| replace_nth(args, 1, "")),
                overload(&[Text, Text, Text, Big, Big], Text, |args| replace_nth(args, args[4].int(), "")),
                overload(&[Text, Text, Text, Big, Big, Text], Text, |args| {
                    replace_nth(args, args[4].int(), args[5].text())
                }),
            ],
        ),
        overloaded(
            "regexp_substr",
            vec![
                overload(&[Text, Text], Text, |args| nth_match(args[0].text(), args[1].text(), 1, 1, "")),
                overload(&[Text, Text, Big], Text, |args| {
                    nth_match(args[0].text(), args[1].text(), args[2].int(), 1, "")
                }),
                overload(&[Text, Text, Big, Big], Text, |args| {
                    nth_match(args[0].text(), args[1].text(), args[2].int(), args[3].int(), "")
                }),
                overload(&[Text, Text, Big, Big, Text], Text, |args| {
                    nth_match(args[0].text(), args[1].text(), args[2].int(), args[3].int(), args[4].text())
                }),
            ],
        ),
        function("quote_ident", &[Text], Text, |args| Ok(Value::Text(quote_ident(args[0].text())))),
        function("quote_literal", &[Any], Text, |args| Ok(Value::Text(quote_literal(args[0].text())))),
        nullable("quote_nullable", &[Any], false, Text, |args| {
            Ok(Value::Text(match &args[0] {
                Value::Null => "NULL".into(),
                value => quote_literal(value.text()),
            }))
        }),
        overloaded(
            "width_bucket",
            vec![overload(&[Float, Float, Float, Big], Int, |args| {
                width_bucket(args[0].float(), args[1].float(), args[2].float(), args[3].int())
            })],
        ),
        overloaded(
            "div",
            vec![overload(&[Numeric(0), Numeric(0)], Numeric(0), |args| {
                let ((a, a_scale), (b, b_scale)) = (args[0].numeric(), args[1].numeric());
                let scale = a_scale.max(b_scale);
                let at = |digits: i128, from: i8| crate::functions::rows::rescaled(digits, from, scale);
                match (at(a, a_scale), at(b, b_scale)) {
                    (_, Some(0)) => Err(Error::new(SqlState::DIVISION_BY_ZERO, "division by zero")),
                    (Some(a), Some(b)) => Ok(Value::Numeric(a / b, 0)),
                    _ => Err(Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "value overflows numeric format")),
                }
            })],
        ),
        overloaded(
            "to_number",
            vec![overload(&[Text, Text], Numeric(10), |args| {
                let (digits, scale) = crate::functions::to_char::to_number(args[0].text())?;
                Ok(Value::Numeric(digits, scale))
            })],
        ),
        function("sign", &[Float], Float, |args| {
            let number = args[0].float();
            Ok(Value::Float(if number == 0.0 { 0.0 } else { number.signum() }))
        }),
        function("sind", &[Float], Float, |args| Ok(Value::Float(exact_degrees(args[0].float(), f64::sin)))),
        function("cosd", &[Float], Float, |args| Ok(Value::Float(exact_degrees(args[0].float(), f64::cos)))),
        function("tand", &[Float], Float, |args| Ok(Value::Float(exact_degrees(args[0].float(), f64::tan)))),
        overloaded(
            "scale",
            vec![overload(&[Numeric(0)], Int, |args| Ok(Value::Int(args[0].numeric().1.into())))],
        ),
        overloaded(
            "min_scale",
            vec![overload(&[Numeric(0)], Int, |args| Ok(Value::Int(scale_needed(args[0].numeric()).into())))],
        ),
        nullable("num_nulls", &[Any], true, Int, |args| {
            Ok(Value::Int(args.iter().filter(|arg| **arg == Value::Null).count() as i64))
        }),
        nullable("num_nonnulls", &[Any], true, Int, |args| {
            Ok(Value::Int(args.iter().filter(|arg| **arg != Value::Null).count() as i64))
        }),
    ]
}

/// Signatures of functions that DataFusion has with others.
pub(crate) fn extensions() -> Vec<(&'static str, Vec<Overload>)> {
    use Kind::{Big, Bytes, Int, Text};
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    vec![
        (
            "substr",
            vec![
                overload(&[Bytes, Big], Bytes, crate::functions::bytes::substring),
                overload(&[Bytes, Big, Big], Bytes, crate::functions::bytes::substring),
                overload(&[Text, Text], Text, |args| substring(args[0].text(), args[1].text())),
            ],
        ),
        // A string beside times is one of them.
        ("coalesce", Vec::new()),
        (
            "to_hex",
            // DataFusion's has 64 bits, which shows in negative numbers.
            vec![overload(&[Int], Text, |args| Ok(Value::Text(format!("{:x}", args[0].int() as i32))))],
        ),
    ]
}

/// What a regular expression matches: the first group, where there is one.
fn substring(text: &str, pattern: &str) -> Result<Value> {
    let regex = compiled(pattern, "")?;
    Ok(match regex.captures(text) {
        None => Value::Null,
        Some(found) => text_of(found.get(if found.len() > 1 { 1 } else { 0 })),
    })
}

/// Angles whose sine is a number of few digits have that sine.
fn exact_degrees(degrees: f64, function: fn(f64) -> f64) -> f64 {
    let value = function(degrees.to_radians());
    let rounded = (value * 2.0).round() / 2.0;
    if (value - rounded).abs() < 1e-15 { rounded } else { value }
}

/// The digits behind the point up to the last that is not zero.
fn scale_needed((mut digits, mut scale): (i128, i8)) -> i8 {
    while scale > 0 && digits % 10 == 0 {
        (digits, scale) = (digits / 10, scale - 1);
    }
    scale.max(0)
}

fn width_bucket(value: f64, low: f64, high: f64, count: i64) -> Result<Value> {
    let invalid = |what: &str| Error::new(SqlState("2201G"), what.to_owned());
    if count <= 0 {
        return Err(invalid("count must be greater than zero"));
    }
    if low == high || !low.is_finite() || !high.is_finite() || value.is_nan() {
        return Err(invalid("lower bound cannot equal upper bound"));
    }
    let position = (value - low) / (high - low);
    Ok(Value::Int(if position < 0.0 {
        0
    } else if position >= 1.0 {
        count + 1
    } else {
        (position * count as f64).floor() as i64 + 1
    }))
}

pub(crate) fn quote_ident(name: &str) -> String {
    let is_plain = !name.is_empty()
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// `format('%[position$][-][width]{s|I|L|%}', …)`
fn format(args: &[Value]) -> Result<Value> {
    let Some(Value::Text(template)) = args.first() else { return Ok(Value::Null) };
    let invalid = |what: &str| Error::new(SqlState::INVALID_PARAMETER, what.to_owned());
    let mut text = String::new();
    let mut next = 1;
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize));
                chars.next();
            }
            number
        };
        let mut left = chars.next_if_eq(&'-').is_some();
        let mut width = digits(&mut chars);
        if chars.next_if_eq(&'$').is_some() {
            next = width.unwrap_or(0);
            if next == 0 {
                return Err(invalid("format specifies argument 0, but arguments are numbered from 1"));
            }
            left = chars.next_if_eq(&'-').is_some();
            width = digits(&mut chars);
        }
        let kind = chars.next().ok_or_else(|| invalid("unterminated format() type specifier"))?;
        if kind == '%' {
            text.push('%');
            continue;
        }
        let value = args.get(next).ok_or_else(|| invalid("too few arguments for format()"))?;
        next += 1;
        let shown = match (kind, value) {
            ('s', Value::Null) => String::new(),
            ('s', value) => value.text().to_owned(),
            ('I', Value::Null) => {
                return Err(Error::new(
                    SqlState("22004"),
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            ('I', value) => quote_ident(value.text()),
            ('L', Value::Null) => "NULL".into(),
            ('L', value) => quote_literal(value.text()),
            (other, _) => return Err(invalid(&format!("unrecognized format() type specifier \"{other}\""))),
        };
        let padding = width.unwrap_or(0).min(1_000_000).saturating_sub(shown.chars().count());
        if left {
            text.push_str(&shown);
        }
        text.extend(std::iter::repeat_n(' ', padding));
        if !left {
            text.push_str(&shown);
        }
    }
    Ok(Value::Text(text))
}

/// `string_to_array(text, delimiter [, null])`: without a delimiter, the characters.
fn split(args: &[Value]) -> Value {
    let Value::Text(text) = &args[0] else { return Value::Null };
    let parts: Vec<String> = match (text.as_str(), &args[1]) {
        ("", _) => Vec::new(),
        (text, Value::Text(delimiter)) if delimiter.is_empty() => vec![text.to_owned()],
        (text, Value::Text(delimiter)) => text.split(delimiter.as_str()).map(str::to_owned).collect(),
        (text, _) => text.chars().map(String::from).collect(),
    };
    let null = args.get(2);
    let value = |part: String| {
        let part = Value::Text(part);
        if null == Some(&part) { Value::Null } else { part }
    };
    Value::List(parts.into_iter().map(value).collect())
}

/// PostgreSQL's escapes of places in a regular expression, as ours: the beginning and the end of a word and of a text.
pub(crate) fn regex_of(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains('\\') {
        return Cow::Borrowed(pattern);
    }
    let mut regex = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            regex.push(c);
            continue;
        }
        match chars.next() {
            Some('m') => regex.push_str("\\b{start}"),
            Some('M') => regex.push_str("\\b{end}"),
            Some('y') => regex.push_str("\\b"),
            Some('Y') => regex.push_str("\\B"),
            Some('Z') => regex.push_str("\\z"),
            escaped => {
                regex.push(c);
                regex.extend(escaped);
            }
        }
    }
    Cow::Owned(regex)
}

/// A pattern, its flags, and what they were compiled to.
type Compiled = (String, String, Rc<Regex>);

/// A regular expression with PostgreSQL's flags.
pub(crate) fn compiled(pattern: &str, flags: &str) -> Result<Rc<Regex>> {
    // Patterns are constants nearly always, and compiling costs far more than matching. So does a copy, which begins
    // without the automaton that matching has built so far.
    const KNOWN_MAX: usize = 64;
    thread_local! {
        static KNOWN: std::cell::RefCell<Vec<Compiled>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let known = KNOWN.with_borrow(|known| {
        known.iter().find(|(p, f, _)| p == pattern && f == flags).map(|(_, _, regex)| regex.clone())
    });
    if let Some(regex) = known {
        return Ok(regex);
    }
    let mut builder = RegexBuilder::new(&regex_of(pattern));
    builder.dot_matches_new_line(true);
    for flag in flags.chars() {
        match flag {
            'i' => builder.case_insensitive(true),
            'c' => builder.case_insensitive(false),
            'n' | 'm' => builder.multi_line(true).dot_matches_new_line(false),
            'x' => builder.ignore_whitespace(true),
            'g' | 's' | 't' => &mut builder,
            other => {
                return Err(Error::new(
                    SqlState::INVALID_PARAMETER,
                    format!("invalid regular expression option: \"{other}\""),
                ));
            }
        };
    }
    let regex = builder.build().map(Rc::new).map_err(|error| {
        Error::new(SqlState("2201B"), "invalid regular expression")
            .with_detail(error.to_string().replace('\n', " "))
    })?;
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= KNOWN_MAX {
            known.remove(0);
        }
        known.push((pattern.to_owned(), flags.to_owned(), regex.clone()));
    });
    Ok(regex)
}

fn text_of(found: Option<regex::Match<'_>>) -> Value {
    found.map_or(Value::Null, |found| Value::Text(found.as_str().to_owned()))
}

/// The groups of a match, or the whole of it where there are none.
fn groups(found: &regex::Captures<'_>) -> Value {
    Value::List(match found.len() {
        1 => vec![text_of(found.get(0))],
        n => (1..n).map(|idx| text_of(found.get(idx))).collect(),
    })
}

fn first_match(text: &str, pattern: &str, flags: &str) -> Result<Value> {
    Ok(compiled(pattern, flags)?.captures(text).map_or(Value::Null, |found| groups(&found)))
}

fn matches(text: &str, pattern: &str, flags: &str) -> Result<Value> {
    let regex = compiled(pattern, flags)?;
    let n_max = if flags.contains('g') { usize::MAX } else { 1 };
    Ok(Value::List(regex.captures_iter(text).take(n_max).map(|found| groups(&found)).collect()))
}

fn regexp_split(text: &str, pattern: &str, flags: &str) -> Result<Value> {
    let regex = compiled(pattern, flags)?;
    let mut parts = Vec::new();
    let mut from = 0;
    for found in regex.find_iter(text) {
        // An empty match splits between characters, not before the first or behind the last.
        if found.is_empty() && (found.start() == 0 || found.start() == text.len()) {
            continue;
        }
        parts.push(&text[from..found.start()]);
        from = found.end();
    }
    parts.push(&text[from..]);
    Ok(Value::texts(parts))
}

/// `\1` is a group, `\&` the match, `\\` a backslash.
fn replace(text: &str, pattern: &str, replacement: &str, flags: &str) -> Result<Value> {
    let regex = compiled(pattern, flags)?;
    let n_max = if flags.contains('g') { 0 } else { 1 };
    let expand = |found: &regex::Captures<'_>| expanded(found, replacement);
    Ok(Value::Text(regex.replacen(text, n_max, expand).into_owned()))
}

/// `regexp_replace(text, pattern, replacement, start, n)`: the n-th match from a position, or all for zero.
fn replace_nth(args: &[Value], n: i64, flags: &str) -> Result<Value> {
    let (text, start) = (args[0].text(), args[3].int());
    let invalid = |what: &str, value: i64| {
        Error::new(SqlState::INVALID_PARAMETER, format!("invalid value for parameter \"{what}\": {value}"))
    };
    if start < 1 {
        return Err(invalid("start", start));
    }
    if n < 0 {
        return Err(invalid("n", n));
    }
    let regex = compiled(args[1].text(), flags)?;
    let begin = text.char_indices().nth(start as usize - 1).map_or(text.len(), |(at, _)| at);
    let mut replaced = text[..begin].to_owned();
    let mut end = begin;
    for (idx, found) in regex.captures_iter(&text[begin..]).enumerate() {
        if n > 0 && idx as i64 + 1 != n {
            continue;
        }
        let whole = found.get(0).map_or(0..0, |whole| whole.range());
        replaced.push_str(&text[end..begin + whole.start]);
        replaced.push_str(&expanded(&found, args[2].text()));
        end = begin + whole.end;
        if n > 0 {
            break;
        }
    }
    replaced.push_str(&text[end..]);
    Ok(Value::Text(replaced))
}

/// A replacement with the groups that it names.
fn expanded(found: &regex::Captures<'_>, replacement: &str) -> String {
    let mut expanded = String::new();
    let mut chars = replacement.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            expanded.push(c);
            continue;
        }
        match chars.next() {
            Some('&') => expanded.push_str(&found[0]),
            Some(digit @ '1'..='9') => {
                let group = found.get(digit as usize - '0' as usize);
                expanded.push_str(group.map_or("", |group| group.as_str()));
            }
            Some('\\') | None => expanded.push('\\'),
            Some(other) => {
                expanded.push('\\');
                expanded.push(other);
            }
        }
    }
    expanded
}

fn nth_match(text: &str, pattern: &str, start: i64, n: i64, flags: &str) -> Result<Value> {
    if start < 1 || n < 1 {
        return Err(Error::new(SqlState::INVALID_PARAMETER, "start and n must be greater than zero"));
    }
    let regex = compiled(pattern, flags)?;
    let from = text.char_indices().nth(start as usize - 1).map_or(text.len(), |(at, _)| at);
    Ok(text_of(regex.find_iter(&text[from..]).nth(n as usize - 1)))
}
