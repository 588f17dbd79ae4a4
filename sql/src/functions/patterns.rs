//! Patterns: LIKE and regular expressions over arrays of them, and their escape characters.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::rows::{Kind, Value, function, nullable};
use crate::functions::strings::compiled;
use crate::postgres::{similar_to_regex, with_backslashes};

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    use Kind::{Bool, Text, Texts};
    vec![
        // `x op ANY (patterns)` and `x op ALL (patterns)`, with the operator as a text.
        nullable("match_any", &[Text, Texts, Text], false, Bool, |args| quantified(args, true)),
        nullable("match_all", &[Text, Texts, Text], false, Bool, |args| quantified(args, false)),
        function("like_escape", &[Text, Text], Text, |args| {
            Ok(Value::Text(with_backslashes(args[0].text(), escape(args[1].text())?)))
        }),
        function("similar_to_escape", &[Text, Text], Text, |args| {
            Ok(Value::Text(similar_to_regex(args[0].text(), escape(args[1].text())?)))
        }),
    ]
}

fn escape(text: &str) -> Result<Option<char>> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (escape, None) => Ok(escape),
        _ => Err(Error::new(SqlState("22025"), "invalid escape string")
            .with_hint("Escape string must be empty or one character.")),
    }
}

/// One that matches decides for ANY, one that does not for ALL; else a NULL leaves it open.
fn quantified(args: &[Value], any: bool) -> Result<Value> {
    let [text, Value::List(patterns), Value::Text(op)] = args else { return Ok(Value::Null) };
    let mut is_open = false;
    for pattern in patterns {
        match (text, pattern) {
            (Value::Text(text), Value::Text(pattern)) if matches(text, pattern, op)? == any => {
                return Ok(Value::Bool(any));
            }
            (Value::Text(_), Value::Text(_)) => (),
            _ => is_open = true,
        }
    }
    Ok(if is_open { Value::Null } else { Value::Bool(!any) })
}

fn matches(text: &str, pattern: &str, op: &str) -> Result<bool> {
    Ok(match op {
        "~~" => like(text, pattern)?,
        "!~~" => !like(text, pattern)?,
        "~~*" => like(&text.to_lowercase(), &pattern.to_lowercase())?,
        "!~~*" => !like(&text.to_lowercase(), &pattern.to_lowercase())?,
        "~" => compiled(pattern, "")?.is_match(text),
        "!~" => !compiled(pattern, "")?.is_match(text),
        "~*" => compiled(pattern, "i")?.is_match(text),
        "!~*" => !compiled(pattern, "i")?.is_match(text),
        other => unreachable!("{other} is no operator of patterns"),
    })
}

/// LIKE. Where a `%` has matched too little, the last one takes one character more; no earlier one has to.
fn like(text: &str, pattern: &str) -> Result<bool> {
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let step = pattern.next();
        let is_matched = match step {
            Some('%') => {
                retry = Some((text.clone(), pattern.clone()));
                true
            }
            Some('_') => text.next().is_some(),
            Some('\\') => {
                let Some(literal) = pattern.next() else {
                    return Err(Error::new(
                        SqlState("22025"),
                        "LIKE pattern must not end with escape character",
                    ));
                };
                text.next() == Some(literal)
            }
            Some(literal) => text.next() == Some(literal),
            None if text.as_str().is_empty() => return Ok(true),
            None => false,
        };
        if is_matched {
            continue;
        }
        let Some((from, behind)) = &mut retry else { return Ok(false) };
        if from.next().is_none() {
            return Ok(false);
        }
        (text, pattern) = (from.clone(), behind.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        let like = |text, pattern| like(text, pattern).unwrap();
        assert!(like("abc", "a%") && like("abc", "%b%") && like("abc", "a_c") && like("", "%"));
        assert!(like("aXbXc", "a%X%c") && like("abab", "%ab") && like("日本", "_本"));
        assert!(!like("abc", "b%") && !like("abc", "ab") && !like("", "_") && !like("abc", "%d"));
        assert!(like("a%c", "a\\%c") && !like("abc", "a\\%c"));
        assert!(super::like("a", "a\\").is_err());
    }

    #[test]
    fn null_leaves_open_what_nothing_decides() {
        let patterns = |patterns: &[Option<&str>]| {
            let value = |pattern: &Option<&str>| pattern.map_or(Value::Null, |text| Value::Text(text.into()));
            Value::List(patterns.iter().map(value).collect())
        };
        let ask =
            |list, any| quantified(&[Value::Text("x".into()), list, Value::Text("~~".into())], any).unwrap();
        assert_eq!(ask(patterns(&[None, Some("x")]), true), Value::Bool(true));
        assert_eq!(ask(patterns(&[None, Some("y")]), true), Value::Null);
        assert_eq!(ask(patterns(&[None, Some("y")]), false), Value::Bool(false));
        assert_eq!(ask(patterns(&[]), true), Value::Bool(false));
        assert_eq!(ask(patterns(&[]), false), Value::Bool(true));
    }
}
