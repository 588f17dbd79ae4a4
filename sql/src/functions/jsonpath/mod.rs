//! SQL/JSON paths: `jsonb_path_query` and its kin, `@?` and `@@`.
//!
//! There is a crate for them, `sql-json-path`, but it switches serde_json to numbers of any precision for the whole
//! program, sources and configuration included.

mod eval;
mod path;

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use serde_json::Value as Json;

use crate::error::Error;
use crate::functions::json::{parsed, whole};
use crate::functions::rows::{Kind, Overload, Value, overloaded};
use path::Path;

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    use Kind::{Bool, Jsonb, Jsonbs};
    vec![
        function("jsonb_path_exists", Bool, |args| {
            Ok(found(args, is_silent(args))?.map_or(Value::Null, |items| Value::Bool(!items.is_empty())))
        }),
        function("jsonb_path_match", Bool, |args| matched(args, is_silent(args))),
        function("jsonb_path_query_array", Jsonb, |args| {
            let items = found(args, is_silent(args))?.unwrap_or_default();
            Ok(whole(&Json::Array(items)))
        }),
        function("jsonb_path_query_first", Jsonb, |args| {
            let items = found(args, is_silent(args))?.unwrap_or_default();
            Ok(items.first().map_or(Value::Null, whole))
        }),
        // Behind the function that gives rows.
        function("jsonb_path_query_list", Jsonbs, |args| {
            let items = found(args, is_silent(args))?.unwrap_or_default();
            Ok(Value::List(items.iter().map(whole).collect()))
        }),
        // `@?` and `@@`, which have no errors.
        function("jsonb_path_exists_opr", Bool, |args| {
            Ok(found(args, true)?.map_or(Value::Null, |items| Value::Bool(!items.is_empty())))
        }),
        function("jsonb_path_match_opr", Bool, |args| matched(args, true)),
    ]
}

/// A function of a document, a path and, if they are given, variables and whether errors are NULL.
fn function(name: &'static str, result: Kind, eval: fn(&[Value]) -> Result<Value>) -> Arc<ScalarUDF> {
    use Kind::{Bool, Jsonb, Text};
    let overload = |args| Overload { args, variadic: false, result, eval };
    overloaded(
        name,
        vec![
            overload(&[Jsonb, Text]),
            overload(&[Jsonb, Text, Jsonb]),
            overload(&[Jsonb, Text, Jsonb, Bool]),
        ],
    )
}

fn is_silent(args: &[Value]) -> bool {
    args.get(3) == Some(&Value::Bool(true))
}

/// The items of a path; `None` for an error that is to be kept silent.
fn found(args: &[Value], silent: bool) -> Result<Option<Vec<Json>>> {
    let (document, path) = (parsed(&args[0])?, known(args[1].text())?);
    let variables = match args.get(2) {
        Some(variables) => parsed(variables)?,
        None => Json::Null,
    };
    if !variables.is_null() && !variables.is_object() {
        return Err(Error::new(
            tidemill_core::SqlState::INVALID_PARAMETER,
            "\"vars\" argument is not an object",
        ));
    }
    match eval::items(&path, &document, &variables) {
        Ok(items) => Ok(Some(items.into_iter().map(Cow::into_owned).collect())),
        Err(_) if silent => Ok(None),
        Err(error) => Err(error),
    }
}

fn matched(args: &[Value], silent: bool) -> Result<Value> {
    match found(args, silent)?.as_deref() {
        Some([Json::Bool(truth)]) => Ok(Value::Bool(*truth)),
        Some([Json::Null]) => Ok(Value::Null),
        _ if silent => Ok(Value::Null),
        _ => Err(Error::new(eval::SINGLETON, "single boolean result is expected")),
    }
}

/// The path of a text, which is a constant nearly always.
fn known(text: &str) -> Result<Rc<Path>> {
    const KNOWN_MAX: usize = 64;
    thread_local! {
        static KNOWN: RefCell<Vec<(String, Rc<Path>)>> = const { RefCell::new(Vec::new()) };
    }
    let known =
        KNOWN.with_borrow(|known| known.iter().find(|(path, _)| path == text).map(|(_, path)| path.clone()));
    if let Some(path) = known {
        return Ok(path);
    }
    let path = Rc::new(Path::parse(text)?);
    KNOWN.with_borrow_mut(|known| {
        if known.len() == KNOWN_MAX {
            known.remove(0);
        }
        known.push((text.to_owned(), path.clone()));
    });
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(document: &str, path: &str) -> String {
        let args = [Value::Text(document.into()), Value::Text(path.into())];
        match found(&args, false) {
            Ok(items) => items.unwrap_or_default().iter().map(Json::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn lax_paths_go_through_arrays_once() {
        assert_eq!(query(r#"[{"a":1},{"a":2}]"#, "$.a"), "1 2");
        assert_eq!(query(r#"[[{"a":1}]]"#, "$.a"), "");
        assert_eq!(query(r#"[[{"a":1}]]"#, "$[*].a"), "1");
        assert_eq!(query(r#"{"a":1}"#, "$.a[0]"), "1");
    }

    #[test]
    fn strict_paths_say_what_is_not_there() {
        assert_eq!(query("{}", "strict $.b"), "2203A: JSON object does not contain key \"b\"");
        assert_eq!(query("[1]", "strict $[5]"), "22033: jsonpath array subscript is out of bounds");
        assert_eq!(
            query("1", "strict $[*]"),
            "22039: jsonpath wildcard array accessor can only be applied to an array"
        );
    }

    #[test]
    fn an_error_within_a_filter_is_unknown() {
        assert_eq!(query(r#"["a", 1]"#, "$[*] ? (@ > 0)"), "1");
        assert_eq!(query(r#"["a", 1]"#, "$[*] ? ((@ > 0) is unknown)"), "\"a\"");
        assert_eq!(query(r#"[1]"#, "$[*] ? (@ / 0 == 1 || @ == 1)"), "1");
        assert_eq!(query(r#"[1]"#, "$[*] ? (!(@ / 0 == 1 && @ == 1))"), "");
        assert_eq!(query(r#"[1]"#, "$[*] ? (!(@ / 0 == 1 && @ == 2))"), "1");
    }
}
