//! Functions and operators of `json` and `jsonb`, which are texts: `json` as it was written, `jsonb` in one form.
//!
//! `datafusion-functions-json` gives its own union type for `->`, which is no key of a group and has no form in PostgreSQL's
//! protocol; here a part of a `json` is a `json`.

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use serde_json::Value as Json;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::rows::{Kind, Overload, Value, overloaded};
use crate::json::jsonb_text;
use crate::types::PG_TYPE;

type Result<T> = std::result::Result<T, Error>;

const ARRAY_SUBSCRIPT: SqlState = SqlState("2202E");

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    use Kind::{Big, Bool, Int, Text, Texts};
    let json = Kind::Json;
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    let mut functions = Vec::new();
    macro_rules! both {
        ($json:literal, $jsonb:literal, [$(($args:expr, $result:expr, $eval:expr)),+ $(,)?]) => {
            functions.push(overloaded($json, vec![$(overload($args, of($result, Kind::Json), $eval)),+]));
            functions.push(overloaded($jsonb, vec![$(overload($args, of($result, Kind::Jsonb), $eval)),+]));
        };
    }
    both!(
        "json_object_field",
        "jsonb_object_field",
        [
            (&[Kind::Json, Text], json, |args| Ok(part(
                &parsed(&args[0])?,
                &Step::Key(args[1].text().into())
            )
            .map_or(Value::Null, whole))),
            (&[Kind::Json, Big], json, |args| Ok(
                part(&parsed(&args[0])?, &Step::At(args[1].int())).map_or(Value::Null, whole)
            )),
        ]
    );
    both!(
        "json_object_field_text",
        "jsonb_object_field_text",
        [
            (&[Kind::Json, Text], Text, |args| Ok(part(
                &parsed(&args[0])?,
                &Step::Key(args[1].text().into())
            )
            .map_or(Value::Null, as_text))),
            (&[Kind::Json, Big], Text, |args| Ok(
                part(&parsed(&args[0])?, &Step::At(args[1].int())).map_or(Value::Null, as_text)
            )),
        ]
    );
    both!(
        "json_path",
        "jsonb_path",
        [(&[Kind::Json, Texts], json, |args| Ok(
            at_path(parsed(&args[0])?, args[1].list()).map_or(Value::Null, |value| whole(&value))
        )),]
    );
    both!(
        "json_path_text",
        "jsonb_path_text",
        [(&[Kind::Json, Texts], Text, |args| Ok(
            at_path(parsed(&args[0])?, args[1].list()).map_or(Value::Null, |value| as_text(&value))
        )),]
    );
    for (name, result, text) in [
        ("json_extract_path", Kind::Json, false),
        ("jsonb_extract_path", Kind::Jsonb, false),
        ("json_extract_path_text", Text, true),
        ("jsonb_extract_path_text", Text, true),
    ] {
        let eval: fn(&[Value]) -> Result<Value> = match text {
            true => {
                |args| Ok(at_path(parsed(&args[0])?, &args[1..]).map_or(Value::Null, |value| as_text(&value)))
            }
            false => {
                |args| Ok(at_path(parsed(&args[0])?, &args[1..]).map_or(Value::Null, |value| whole(&value)))
            }
        };
        functions.push(overloaded(
            name,
            vec![Overload { args: &[Kind::Json, Text], variadic: true, result, eval }],
        ));
    }
    both!(
        "json_typeof",
        "jsonb_typeof",
        [(&[Kind::Json], Text, |args| Ok(Value::Text(type_of(&parsed(&args[0])?).into()))),]
    );
    both!(
        "json_array_length",
        "jsonb_array_length",
        [(&[Kind::Json], Int, |args| match parsed(&args[0])? {
            Json::Array(items) => Ok(Value::Int(items.len() as i64)),
            other => Err(wrong_kind(&format!("cannot get array length of {}", described(&other)))),
        }),]
    );
    both!(
        "json_array_elements_array",
        "jsonb_array_elements_array",
        [(&[Kind::Json], Kind::Jsons, |args| Ok(Value::List(
            elements(&args[0])?.iter().map(whole).collect()
        ))),]
    );
    both!(
        "json_array_elements_text_array",
        "jsonb_array_elements_text_array",
        [(&[Kind::Json], Texts, |args| Ok(Value::List(elements(&args[0])?.iter().map(as_text).collect()))),]
    );
    both!(
        "json_object_keys_array",
        "jsonb_object_keys_array",
        [(&[Kind::Json], Texts, |args| match parsed(&args[0])? {
            Json::Object(fields) => Ok(Value::texts(fields.keys().cloned())),
            other => Err(wrong_kind(&format!("cannot call json_object_keys on {}", described(&other)))),
        }),]
    );
    both!(
        "json_strip_nulls",
        "jsonb_strip_nulls",
        [(&[Kind::Json], json, |args| Ok(whole(&without_nulls(parsed(&args[0])?)))),]
    );
    functions.push(overloaded(
        "jsonb_contains",
        vec![overload(&[Kind::Jsonb, Kind::Jsonb], Bool, |args| {
            Ok(Value::Bool(contains(&parsed(&args[0])?, &parsed(&args[1])?)))
        })],
    ));
    functions.push(overloaded(
        "jsonb_exists",
        vec![overload(&[Kind::Jsonb, Text], Bool, |args| {
            Ok(Value::Bool(exists(&parsed(&args[0])?, args[1].text())))
        })],
    ));
    functions.push(overloaded(
        "jsonb_exists_any",
        vec![overload(&[Kind::Jsonb, Texts], Bool, |args| {
            let value = parsed(&args[0])?;
            Ok(Value::Bool(
                args[1].list().iter().any(|key| *key != Value::Null && exists(&value, key.text())),
            ))
        })],
    ));
    functions.push(overloaded(
        "jsonb_exists_all",
        vec![overload(&[Kind::Jsonb, Texts], Bool, |args| {
            let value = parsed(&args[0])?;
            Ok(Value::Bool(
                args[1].list().iter().all(|key| *key == Value::Null || exists(&value, key.text())),
            ))
        })],
    ));
    functions.push(overloaded(
        "jsonb_concat",
        vec![overload(&[Kind::Jsonb, Kind::Jsonb], Kind::Jsonb, |args| {
            let as_items = |value| match value {
                Json::Array(items) => items,
                other => vec![other],
            };
            Ok(whole_b(&match (parsed(&args[0])?, parsed(&args[1])?) {
                (Json::Object(mut fields), Json::Object(more)) => {
                    fields.extend(more);
                    Json::Object(fields)
                }
                (a, b) => Json::Array([as_items(a), as_items(b)].concat()),
            }))
        })],
    ));
    functions.push(overloaded(
        "jsonb_delete",
        vec![
            overload(&[Kind::Jsonb, Text], Kind::Jsonb, |args| {
                let mut value = parsed(&args[0])?;
                match &mut value {
                    Json::Object(fields) => {
                        fields.shift_remove(args[1].text());
                    }
                    Json::Array(items) => items.retain(|item| item.as_str() != Some(args[1].text())),
                    _ => return Err(Error::new(SqlState::INVALID_PARAMETER, "cannot delete from scalar")),
                }
                Ok(whole_b(&value))
            }),
            overload(&[Kind::Jsonb, Texts], Kind::Jsonb, |args| {
                let mut value = parsed(&args[0])?;
                let is_named = |name: &str| {
                    args[1].list().iter().any(|key| matches!(key, Value::Text(key) if key == name))
                };
                match &mut value {
                    Json::Object(fields) => fields.retain(|key, _| !is_named(key)),
                    Json::Array(items) => items.retain(|item| !item.as_str().is_some_and(is_named)),
                    _ => return Err(Error::new(SqlState::INVALID_PARAMETER, "cannot delete from scalar")),
                }
                Ok(whole_b(&value))
            }),
            overload(&[Kind::Jsonb, Big], Kind::Jsonb, |args| {
                let mut value = parsed(&args[0])?;
                let Json::Array(items) = &mut value else {
                    return Err(Error::new(
                        SqlState::INVALID_PARAMETER,
                        "cannot delete from object using integer index",
                    ));
                };
                if let Some(idx) = index_of(args[1].int(), items.len()) {
                    items.remove(idx);
                }
                Ok(whole_b(&value))
            }),
        ],
    ));
    functions.push(overloaded(
        "jsonb_delete_path",
        vec![overload(&[Kind::Jsonb, Texts], Kind::Jsonb, |args| {
            let mut value = parsed(&args[0])?;
            change(&mut value, args[1].list(), &Change::Delete)?;
            Ok(whole_b(&value))
        })],
    ));
    functions.push(overloaded(
        "jsonb_set",
        vec![
            overload(&[Kind::Jsonb, Texts, Kind::Jsonb], Kind::Jsonb, |args| {
                let mut value = parsed(&args[0])?;
                change(&mut value, args[1].list(), &Change::Set(parsed(&args[2])?, true))?;
                Ok(whole_b(&value))
            }),
            overload(&[Kind::Jsonb, Texts, Kind::Jsonb, Bool], Kind::Jsonb, |args| {
                let mut value = parsed(&args[0])?;
                change(
                    &mut value,
                    args[1].list(),
                    &Change::Set(parsed(&args[2])?, args[3] == Value::Bool(true)),
                )?;
                Ok(whole_b(&value))
            }),
        ],
    ));
    functions.push(overloaded(
        "jsonb_insert",
        vec![
            overload(&[Kind::Jsonb, Texts, Kind::Jsonb], Kind::Jsonb, |args| inserted(args, false)),
            overload(&[Kind::Jsonb, Texts, Kind::Jsonb, Bool], Kind::Jsonb, |args| {
                inserted(args, args[3] == Value::Bool(true))
            }),
        ],
    ));
    functions.push(overloaded(
        "json_object",
        vec![
            overload(&[Texts], Kind::Json, |args| object_of(pairs(args[0].list())?)),
            overload(&[Texts, Texts], Kind::Json, |args| object_of(zipped(args[0].list(), args[1].list())?)),
        ],
    ));
    functions.push(overloaded(
        "jsonb_object",
        vec![
            overload(&[Texts], Kind::Jsonb, |args| binary(object_of(pairs(args[0].list())?)?)),
            overload(&[Texts, Texts], Kind::Jsonb, |args| {
                binary(object_of(zipped(args[0].list(), args[1].list())?)?)
            }),
        ],
    ));
    // Behind json_each and its kin, which give rows of a key and a value.
    both!(
        "json_object_values_array",
        "jsonb_object_values_array",
        [(&[Kind::Json], Kind::Jsons, |args| Ok(Value::List(
            fields(&args[0])?.values().map(whole).collect()
        ))),]
    );
    both!(
        "json_object_values_text_array",
        "jsonb_object_values_text_array",
        [(&[Kind::Json], Texts, |args| Ok(Value::List(fields(&args[0])?.values().map(as_text).collect()))),]
    );
    functions.push(overloaded(
        "jsonb_pretty",
        vec![overload(&[Kind::Jsonb], Text, |args| {
            let mut text = String::new();
            pretty(&parsed(&args[0])?, 0, &mut text);
            Ok(Value::Text(text))
        })],
    ));
    functions.extend([
        comparison("jsonb_lt", |args| Ok(Value::Bool(ordering(args)?.is_lt()))),
        comparison("jsonb_le", |args| Ok(Value::Bool(ordering(args)?.is_le()))),
        comparison("jsonb_gt", |args| Ok(Value::Bool(ordering(args)?.is_gt()))),
        comparison("jsonb_ge", |args| Ok(Value::Bool(ordering(args)?.is_ge()))),
    ]);
    for (name, action, is_binary) in [
        ("to_json", Action::One, false),
        ("to_jsonb", Action::One, true),
        ("array_to_json", Action::One, false),
        ("row_to_json", Action::One, false),
        ("json_build_array", Action::Array, false),
        ("jsonb_build_array", Action::Array, true),
        ("json_build_object", Action::Object, false),
        ("jsonb_build_object", Action::Object, true),
    ] {
        functions.push(Arc::new(ScalarUDF::from(Build::new(name, action, is_binary))));
    }
    functions
}

fn comparison(name: &'static str, eval: fn(&[Value]) -> Result<Value>) -> Arc<ScalarUDF> {
    let args = &[Kind::Jsonb, Kind::Jsonb];
    overloaded(name, vec![Overload { args, variadic: false, result: Kind::Bool, eval }])
}

/// As PostgreSQL orders a `jsonb`: null, strings, numbers, booleans, arrays, objects; what has fewer parts first.
fn ordering(args: &[Value]) -> Result<Ordering> {
    Ok(compared(&parsed(&args[0])?, &parsed(&args[1])?))
}

fn compared(left: &Json, right: &Json) -> Ordering {
    let rank = |value: &Json| match value {
        Json::Null => 0,
        Json::String(_) => 1,
        Json::Number(_) => 2,
        Json::Bool(_) => 3,
        Json::Array(_) => 4,
        Json::Object(_) => 5,
    };
    match (left, right) {
        (Json::String(left), Json::String(right)) => left.cmp(right),
        (Json::Bool(left), Json::Bool(right)) => left.cmp(right),
        (Json::Number(left), Json::Number(right)) => match (left.as_i128(), right.as_i128()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left.as_f64().unwrap_or_default().total_cmp(&right.as_f64().unwrap_or_default()),
        },
        (Json::Array(left), Json::Array(right)) => {
            let parts = || left.iter().zip(right).map(|(left, right)| compared(left, right));
            left.len()
                .cmp(&right.len())
                .then_with(|| parts().find(|part| part.is_ne()).unwrap_or(Ordering::Equal))
        }
        (Json::Object(left), Json::Object(right)) => {
            let sorted = |fields: &serde_json::Map<String, Json>| {
                let mut fields: Vec<(String, Json)> =
                    fields.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                fields.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
                fields
            };
            let (left, right) = (sorted(left), sorted(right));
            let parts = || {
                left.iter().zip(&right).map(|((left_key, left), (right_key, right))| {
                    (left_key.len(), left_key)
                        .cmp(&(right_key.len(), right_key))
                        .then_with(|| compared(left, right))
                })
            };
            left.len()
                .cmp(&right.len())
                .then_with(|| parts().find(|part| part.is_ne()).unwrap_or(Ordering::Equal))
        }
        (left, right) => rank(left).cmp(&rank(right)),
    }
}

/// A result that is JSON is of the kind that the function has in its name.
fn of(result: Kind, own: Kind) -> Kind {
    match (result, own) {
        (Kind::Json, own) => own,
        (Kind::Jsons, Kind::Jsonb) => Kind::Jsonbs,
        (result, _) => result,
    }
}

pub(crate) fn parsed(value: &Value) -> Result<Json> {
    serde_json::from_str(value.text()).map_err(|error| {
        Error::new(SqlState::INVALID_TEXT, "invalid input syntax for type json")
            .with_detail(error.to_string())
    })
}

fn wrong_kind(message: &str) -> Error {
    Error::new(SqlState::INVALID_PARAMETER, message)
}

/// A part of a JSON text, without spaces; where it is `jsonb` the result's type orders it.
pub(crate) fn whole(value: &Json) -> Value {
    Value::Text(jsonb_text(value))
}

fn whole_b(value: &Json) -> Value {
    Value::Text(jsonb_text(value))
}

fn as_text(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::String(text) => Value::Text(text.clone()),
        other => whole(other),
    }
}

enum Step {
    Key(String),
    At(i64),
}

fn part<'a>(value: &'a Json, step: &Step) -> Option<&'a Json> {
    match (value, step) {
        (Json::Object(fields), Step::Key(key)) => fields.get(key),
        (Json::Array(items), Step::At(at)) => items.get(index_of(*at, items.len())?),
        _ => None,
    }
}

/// Negative positions count from the end.
fn index_of(at: i64, length: usize) -> Option<usize> {
    let at = if at < 0 { at + length as i64 } else { at };
    usize::try_from(at).ok().filter(|at| *at < length)
}

fn at_path(value: Json, path: &[Value]) -> Option<Json> {
    let mut value = value;
    for step in path {
        let Value::Text(step) = step else { return None };
        let next = match &value {
            Json::Array(items) => items.get(index_of(step.parse().ok()?, items.len())?)?.clone(),
            Json::Object(fields) => fields.get(step)?.clone(),
            _ => return None,
        };
        value = next;
    }
    Some(value)
}

pub(crate) fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn described(value: &Json) -> &'static str {
    match value {
        Json::Array(_) => "an array",
        Json::Object(_) => "a non-array",
        _ => "a scalar",
    }
}

fn elements(value: &Value) -> Result<Vec<Json>> {
    match parsed(value)? {
        Json::Array(items) => Ok(items),
        Json::Object(_) => Err(wrong_kind("cannot extract elements from an object")),
        _ => Err(wrong_kind("cannot extract elements from a scalar")),
    }
}

fn without_nulls(value: Json) -> Json {
    match value {
        Json::Object(fields) => Json::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Json::Array(items) => Json::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn fields(value: &Value) -> Result<serde_json::Map<String, Json>> {
    match parsed(value)? {
        Json::Object(fields) => Ok(fields),
        Json::Array(_) => Err(wrong_kind("cannot deconstruct an array as an object")),
        _ => Err(wrong_kind("cannot deconstruct a scalar")),
    }
}

/// `[key, value, key, value]` in pairs.
fn pairs(texts: &[Value]) -> Result<Vec<(&Value, &Value)>> {
    if texts.len() % 2 == 1 {
        return Err(Error::new(ARRAY_SUBSCRIPT, "array must have even number of elements"));
    }
    Ok(texts.chunks(2).map(|pair| (&pair[0], &pair[1])).collect())
}

fn zipped<'a>(keys: &'a [Value], values: &'a [Value]) -> Result<Vec<(&'a Value, &'a Value)>> {
    if keys.len() != values.len() {
        return Err(Error::new(ARRAY_SUBSCRIPT, "mismatched array dimensions"));
    }
    Ok(keys.iter().zip(values).collect())
}

fn object_of(pairs: Vec<(&Value, &Value)>) -> Result<Value> {
    let mut text = String::from("{");
    for (idx, (key, value)) in pairs.into_iter().enumerate() {
        let Value::Text(key) = key else {
            return Err(Error::new(SqlState("22004"), "null value not allowed for object key"));
        };
        let value = match value {
            Value::Text(value) => Json::String(value.clone()),
            _ => Json::Null,
        };
        let _ = write!(text, "{}{} : {value}", if idx > 0 { ", " } else { "" }, Json::String(key.clone()));
    }
    text.push('}');
    Ok(Value::Text(text))
}

fn binary(json: Value) -> Result<Value> {
    Ok(whole(&parsed(&json)?))
}

/// `@>`: an object by its fields, an array by its elements, a scalar by itself.
fn contains(value: &Json, part: &Json) -> bool {
    match (value, part) {
        (Json::Object(fields), Json::Object(parts)) => {
            parts.iter().all(|(key, part)| fields.get(key).is_some_and(|value| contains(value, part)))
        }
        (Json::Array(items), Json::Array(parts)) => {
            parts.iter().all(|part| items.iter().any(|item| contains(item, part)))
        }
        // An array contains a scalar that is one of its elements.
        (Json::Array(items), scalar) if !scalar.is_object() => items.contains(scalar),
        (value, part) => value == part,
    }
}

fn exists(value: &Json, key: &str) -> bool {
    match value {
        Json::Object(fields) => fields.contains_key(key),
        Json::Array(items) => items.iter().any(|item| item.as_str() == Some(key)),
        Json::String(text) => text == key,
        _ => false,
    }
}

fn inserted(args: &[Value], behind: bool) -> Result<Value> {
    let mut value = parsed(&args[0])?;
    change(&mut value, args[1].list(), &Change::Insert { new: parsed(&args[2])?, behind })?;
    Ok(whole_b(&value))
}

enum Change {
    Delete,
    /// With whether what is missing is made.
    Set(Json, bool),
    Insert {
        new: Json,
        behind: bool,
    },
}

fn change(value: &mut Json, path: &[Value], what: &Change) -> Result<()> {
    let Some((Value::Text(step), rest)) = path.split_first() else { return Ok(()) };
    match value {
        Json::Object(fields) if rest.is_empty() => match what {
            Change::Delete => {
                fields.shift_remove(step);
            }
            Change::Set(new, creates) if *creates || fields.contains_key(step) => {
                fields.insert(step.clone(), new.clone());
            }
            Change::Insert { .. } if fields.contains_key(step) => {
                return Err(Error::new(SqlState::INVALID_PARAMETER, "cannot replace existing key")
                    .with_hint("Try using the function jsonb_set to replace key value."));
            }
            Change::Insert { new, .. } => {
                fields.insert(step.clone(), new.clone());
            }
            _ => (),
        },
        Json::Object(fields) => {
            if let Some(inner) = fields.get_mut(step) {
                return change(inner, rest, what);
            }
        }
        Json::Array(items) => {
            let Ok(at) = step.parse::<i64>() else {
                return Err(Error::new(
                    SqlState::INVALID_TEXT,
                    format!("path element is not an integer: \"{step}\""),
                ));
            };
            let idx = index_of(at, items.len());
            match (idx, rest.is_empty(), what) {
                (Some(idx), false, what) => return change(&mut items[idx], rest, what),
                (Some(idx), true, Change::Delete) => {
                    items.remove(idx);
                }
                (Some(idx), true, Change::Set(new, _)) => items[idx] = new.clone(),
                (Some(idx), true, Change::Insert { new, behind }) => {
                    items.insert(idx + usize::from(*behind), new.clone());
                }
                (None, true, Change::Set(new, true) | Change::Insert { new, .. }) => {
                    let at = if at < 0 { 0 } else { items.len() };
                    items.insert(at, new.clone());
                }
                _ => (),
            }
        }
        _ => (),
    }
    Ok(())
}

fn pretty(value: &Json, depth: usize, text: &mut String) {
    let indent = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', depth * 4));
    };
    match value {
        Json::Array(items) => {
            text.push('[');
            for (idx, item) in items.iter().enumerate() {
                if idx > 0 {
                    text.push(',');
                }
                indent(text, depth + 1);
                pretty(item, depth + 1, text);
            }
            indent(text, depth);
            text.push(']');
        }
        Json::Object(fields) => {
            text.push('{');
            for (idx, (key, value)) in fields.iter().enumerate() {
                if idx > 0 {
                    text.push(',');
                }
                indent(text, depth + 1);
                let _ = write!(text, "{}: ", Json::String(key.clone()));
                pretty(value, depth + 1, text);
            }
            indent(text, depth);
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    One,
    Array,
    Object,
}

/// JSON made of values of any type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Build {
    name: &'static str,
    action: Action,
    is_binary: bool,
    signature: Signature,
}

impl Build {
    fn new(name: &'static str, action: Action, is_binary: bool) -> Build {
        let signature = Signature::one_of(
            vec![TypeSignature::UserDefined, TypeSignature::Nullary],
            Volatility::Immutable,
        );
        Build { name, action, is_binary, signature }
    }
}

impl ScalarUDFImpl for Build {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> DfResult<Vec<DataType>> {
        if self.action == Action::One && arg_types.len() != 1 {
            return plan_err!("{} takes one argument", self.name);
        }
        Ok(arg_types.iter().map(coerced).collect())
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let declared = if self.is_binary { "jsonb" } else { "json" };
        let field = Field::new(self.name, DataType::Utf8, true);
        Ok(Arc::new(field.with_metadata([(PG_TYPE.to_owned(), declared.to_owned())].into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let n_rows = if is_constant { 1 } else { args.number_rows };
        let arrays: Vec<ArrayRef> =
            args.args.iter().map(|arg| arg.to_array(n_rows)).collect::<DfResult<_>>()?;
        let mut texts = StringBuilder::new();
        for row_idx in 0..n_rows {
            let mut text = String::new();
            match self.action {
                Action::One => {
                    if arrays[0].is_null(row_idx) {
                        texts.append_null();
                        continue;
                    }
                    write_value(&arrays[0], &args.arg_fields[0], row_idx, &mut text)?;
                }
                Action::Array => {
                    text.push('[');
                    for (idx, (array, field)) in arrays.iter().zip(&args.arg_fields).enumerate() {
                        text.push_str(if idx > 0 { ", " } else { "" });
                        write_value(array, field, row_idx, &mut text)?;
                    }
                    text.push(']');
                }
                Action::Object => {
                    if arrays.len() % 2 == 1 {
                        let message = "argument list must have even number of elements";
                        return Err(DataFusionError::External(Box::new(wrong_kind(message))));
                    }
                    text.push('{');
                    for (idx, pair) in arrays.chunks(2).enumerate() {
                        text.push_str(if idx > 0 { ", " } else { "" });
                        write_key(&pair[0], row_idx, &mut text)?;
                        text.push_str(" : ");
                        write_value(&pair[1], &args.arg_fields[idx * 2 + 1], row_idx, &mut text)?;
                    }
                    text.push('}');
                }
            }
            if self.is_binary {
                text = as_jsonb(&text)?;
            }
            texts.append_value(text);
        }
        let array: ArrayRef = Arc::new(texts.finish());
        match is_constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)),
            false => Ok(ColumnarValue::Array(array)),
        }
    }
}

/// The type that a value is written as JSON from. What PostgreSQL has its own text for is cast to that text.
pub(crate) fn coerced(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Interval(_) | DataType::Binary | DataType::Time64(_) | DataType::Duration(_) => {
            DataType::Utf8
        }
        other => other.clone(),
    }
}

/// The text of a `json` as that of a `jsonb`.
pub(crate) fn as_jsonb(text: &str) -> DfResult<String> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(jsonb_text(&value)),
        Err(error) => exec_err!("what was written as JSON is none: {error}"),
    }
}

/// A value as the name of a field.
pub(crate) fn write_key(array: &ArrayRef, row_idx: usize, text: &mut String) -> DfResult<()> {
    if array.is_null(row_idx) || array.data_type().is_null() {
        let error = Error::new(SqlState::INVALID_PARAMETER, "field name must not be null");
        return Err(DataFusionError::External(Box::new(error)));
    }
    let _ = write!(text, "{}", Json::String(array_value_to_string(array, row_idx)?));
    Ok(())
}

/// A value as JSON: numbers and booleans as they are, JSON as it is, anything else as a string.
pub(crate) fn write_value(
    array: &ArrayRef,
    field: &Field,
    row_idx: usize,
    text: &mut String,
) -> DfResult<()> {
    if array.is_null(row_idx) || array.data_type().is_null() {
        text.push_str("null");
        return Ok(());
    }
    let is_json = field.metadata().get(PG_TYPE).is_some_and(|declared| declared.starts_with("json"));
    match array.data_type() {
        DataType::List(item) => {
            let items = array.as_list::<i32>().value(row_idx);
            text.push('[');
            for idx in 0..items.len() {
                text.push_str(if idx > 0 { "," } else { "" });
                write_value(&items, item, idx, text)?;
            }
            text.push(']');
        }
        DataType::Struct(fields) => {
            text.push('{');
            // The fields of a ROW() have no names of their own.
            let is_row = fields.iter().enumerate().all(|(idx, field)| *field.name() == format!("c{idx}"));
            for (idx, (field, column)) in fields.iter().zip(array.as_struct().columns()).enumerate() {
                text.push_str(if idx > 0 { "," } else { "" });
                let name = if is_row { format!("f{}", idx + 1) } else { field.name().clone() };
                let _ = write!(text, "{}:", Json::String(name));
                write_value(column, field, row_idx, text)?;
            }
            text.push('}');
        }
        DataType::Boolean => text.push_str(if array.as_boolean().value(row_idx) { "true" } else { "false" }),
        DataType::Float32 | DataType::Float64 => {
            let number = array_value_to_string(array, row_idx)?;
            match number.parse::<f64>() {
                Ok(value) if value.is_finite() => text.push_str(number.trim_end_matches(".0")),
                _ => text.push_str(&Json::String(number).to_string()),
            }
        }
        data_type if data_type.is_numeric() => text.push_str(&array_value_to_string(array, row_idx)?),
        DataType::Timestamp(_, zone) => {
            let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let shown = array_value_to_string(&micros, row_idx)?;
            let _ = write!(text, "\"{shown}{}\"", if zone.is_some() { "+00:00" } else { "" });
        }
        _ if is_json => text.push_str(&array_value_to_string(array, row_idx)?),
        _ => text.push_str(&Json::String(array_value_to_string(array, row_idx)?).to_string()),
    }
    Ok(())
}
