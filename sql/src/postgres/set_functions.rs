//! Functions that give rows, as `unnest` of functions that give arrays.
//!
//! ```text
//! SELECT generate_series(1, n)             ─▶  SELECT unnest(generate_series_array(1, n))
//! FROM jsonb_each(t.j) AS e                ─▶  FROM LATERAL (SELECT key, jsonb_of(value) AS value FROM
//!                                                unnest(jsonb_object_keys_array(t.j), …) AS e (key, value)) AS e
//! ```
//!
//! DataFusion unnests whatever there is, over the columns of what stands before it too, so that no function of these
//! has to be a relation. What its arrays' elements were declared as, it forgets; `json_of` says it again.

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectNamePart, TableAlias, TableAliasColumnDef,
    TableFactor,
};

use crate::lateral::ordinality;
use crate::parser::parse_query;
use crate::postgres::syntax::{call, narrowed};
use crate::refusal::Refusal;

/// A function that gives rows.
pub(super) struct SetFunction {
    name: &'static str,
    /// The functions that give each of its columns as an array.
    pub arrays: &'static [&'static str],
    /// The names of its columns; none where the one column has the function's name.
    columns: &'static [&'static str],
    /// What the elements of the last array are declared as.
    declared: Option<&'static str>,
}

const fn rows(name: &'static str, arrays: &'static [&'static str]) -> SetFunction {
    SetFunction { name, arrays, columns: &[], declared: None }
}

const fn values(
    name: &'static str,
    arrays: &'static [&'static str],
    declared: Option<&'static str>,
) -> SetFunction {
    SetFunction { name, arrays, columns: &["value"], declared }
}

const fn pairs(
    name: &'static str,
    arrays: &'static [&'static str],
    declared: Option<&'static str>,
) -> SetFunction {
    SetFunction { name, arrays, columns: &["key", "value"], declared }
}

const FUNCTIONS: &[SetFunction] = &[
    rows("generate_series", &["generate_series_array"]),
    rows("generate_subscripts", &["generate_subscripts_array"]),
    rows("regexp_matches", &["regexp_matches_array"]),
    rows("regexp_split_to_table", &["regexp_split_to_array"]),
    rows("string_to_table", &["string_to_array"]),
    rows("json_object_keys", &["json_object_keys_array"]),
    rows("jsonb_object_keys", &["jsonb_object_keys_array"]),
    SetFunction {
        name: "jsonb_path_query",
        arrays: &["jsonb_path_query_list"],
        columns: &[],
        declared: Some("jsonb_of"),
    },
    values("json_array_elements", &["json_array_elements_array"], Some("json_of")),
    values("jsonb_array_elements", &["jsonb_array_elements_array"], Some("jsonb_of")),
    values("json_array_elements_text", &["json_array_elements_text_array"], None),
    values("jsonb_array_elements_text", &["jsonb_array_elements_text_array"], None),
    pairs("json_each", &["json_object_keys_array", "json_object_values_array"], Some("json_of")),
    pairs("jsonb_each", &["jsonb_object_keys_array", "jsonb_object_values_array"], Some("jsonb_of")),
    pairs("json_each_text", &["json_object_keys_array", "json_object_values_text_array"], None),
    pairs("jsonb_each_text", &["jsonb_object_keys_array", "jsonb_object_values_text_array"], None),
];

/// Functions whose columns are those of the definition behind them, and whether they give many rows.
const RECORDS: &[(&str, bool)] = &[
    ("json_to_record", false),
    ("jsonb_to_record", false),
    ("json_to_recordset", true),
    ("jsonb_to_recordset", true),
];

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name).chain(RECORDS.iter().map(|(name, _)| *name))
}

pub(super) fn find(name: &str) -> Option<&'static SetFunction> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// The rows of a function in the SELECT list.
pub(super) fn in_projection(name: &str, args: Vec<Expr>) -> Result<Option<Expr>, Refusal> {
    let Some(function) = find(name) else { return Ok(None) };
    let [array] = function.arrays else {
        return Err(Refusal::unsupported(format!("{name}() in a SELECT list"))
            .with_hint(format!("Put it into FROM: SELECT … FROM t, {name}(t.x) AS e."))
            .near(name));
    };
    let rows = call("unnest", vec![call(array, args)]);
    Ok(Some(match function.declared {
        Some(declared) => call(declared, vec![rows]),
        None => rows,
    }))
}

/// A call of a function in FROM.
struct FromCall<'a> {
    name: String,
    args: Vec<Expr>,
    alias: Option<&'a TableAlias>,
    with_ordinality: bool,
}

/// A function in FROM that gives rows, as what DataFusion plans.
pub(super) fn in_from(factor: &mut TableFactor) -> Result<Option<TableFactor>, Refusal> {
    if let TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } = factor {
        for array in array_exprs.iter_mut() {
            if let Expr::Array(array) = array {
                array.elem.iter_mut().for_each(|element| *element = narrowed(element.clone()));
            }
        }
        name_column(alias, array_exprs.len(), *with_ordinality);
        return Ok(None);
    }
    let Some(from) = from_call(factor) else { return Ok(None) };
    if from.name == "unnest" {
        let mut alias = from.alias.cloned();
        name_column(&mut alias, from.args.len(), from.with_ordinality);
        return unnest(from.args, alias, from.with_ordinality).map(Some);
    }
    if let Some((_, is_set)) = RECORDS.iter().find(|(name, _)| *name == from.name) {
        return records(&from, *is_set).map(Some);
    }
    match find(&from.name) {
        Some(function) => rows_of(&from, function).map(Some),
        None => Ok(None),
    }
}

fn from_call(factor: &TableFactor) -> Option<FromCall<'_>> {
    let (name, args, alias, with_ordinality) = match factor {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            (name, &args.args, alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, with_ordinality, .. } => {
            (name, args, alias, *with_ordinality)
        }
        _ => return None,
    };
    let ObjectNamePart::Identifier(ident) = name.0.last()? else { return None };
    let is_plain = match &name.0[..] {
        [_] => true,
        [ObjectNamePart::Identifier(schema), _] => schema.value == "pg_catalog",
        _ => false,
    };
    let args = args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(narrowed(expr.clone())),
        _ => None,
    });
    let (name, args) = (ident.value.to_lowercase(), args.collect::<Option<_>>()?);
    is_plain.then_some(FromCall { name, args, alias: alias.as_ref(), with_ordinality })
}

/// `unnest(x) AS t` has a column t, `unnest(x)` a column unnest.
fn name_column(alias: &mut Option<TableAlias>, n_arrays: usize, with_ordinality: bool) {
    if n_arrays == 1 {
        let alias = alias.get_or_insert_with(|| named("unnest"));
        if !alias.columns.is_empty() {
            return;
        }
        alias.columns.push(column(alias.name.clone()));
        if with_ordinality {
            alias.columns.push(column(Ident::new("ordinality")));
        }
    }
}

fn rows_of(from: &FromCall<'_>, function: &SetFunction) -> Result<TableFactor, Refusal> {
    // The rows of a function have the name of its alias, or else of itself.
    let mut alias = from.alias.cloned().unwrap_or_else(|| named(&from.name));
    let own: Vec<Ident> = match function.columns {
        [] => vec![alias.name.clone()],
        columns => columns.iter().map(|column| Ident::new(*column)).collect(),
    };
    let n_named = alias.columns.len();
    alias.columns.extend(own.into_iter().skip(n_named).map(column));
    if from.with_ordinality && alias.columns.len() == function.arrays.len() {
        alias.columns.push(column(Ident::new("ordinality")));
    }
    let arrays = function.arrays.iter().map(|array| call(array, from.args.clone())).collect();
    let Some(declared) = function.declared else { return unnest(arrays, Some(alias), from.with_ordinality) };
    let columns: Vec<Ident> = alias.columns.iter().map(|column| column.name.clone()).collect();
    let last = function.arrays.len() - 1;
    let exprs = columns.iter().enumerate().map(|(idx, name)| match idx == last {
        true => format!("{declared}({name}) AS {name}"),
        false => name.to_string(),
    });
    let exprs = exprs.collect::<Vec<_>>().join(", ");
    let inner = TableAlias { name: Ident::new("rows_of"), ..alias.clone() };
    select(&exprs, unnest(arrays, Some(inner), from.with_ordinality)?, alias.name)
}

/// `jsonb_to_recordset(j) AS t (a int, b text)`: each column is a field of the object.
fn records(from: &FromCall<'_>, is_set: bool) -> Result<TableFactor, Refusal> {
    let undefined = || Refusal {
        sqlstate: tidemill_core::SqlState::SYNTAX_ERROR,
        message: "a column definition list is required for functions returning \"record\"".into(),
        hint: Some(format!("Write {}(…) AS t (a int, b text).", from.name)),
        near: Some(from.name.clone()),
    };
    let Some(alias) = from.alias.filter(|alias| !alias.columns.is_empty()) else { return Err(undefined()) };
    let prefix = if from.name.starts_with("jsonb") { "jsonb" } else { "json" };
    let mut exprs = Vec::new();
    for TableAliasColumnDef { name, data_type } in &alias.columns {
        let Some(data_type) = data_type else { return Err(undefined()) };
        let is_json = matches!(data_type, DataType::JSON | DataType::JSONB);
        let field = if is_json { "object_field" } else { "object_field_text" };
        let key = crate::parser::quote_literal(&match name.quote_style {
            Some(_) => name.value.clone(),
            None => name.value.to_lowercase(),
        });
        exprs.push(format!("CAST({prefix}_{field}(record, {key}) AS {data_type}) AS {name}"));
    }
    let array = match is_set {
        true => call(&format!("{prefix}_array_elements_array"), from.args.clone()),
        false => call("make_array", from.args.clone()),
    };
    let inner = TableAlias { columns: vec![column(Ident::new("record"))], ..named("rows_of") };
    select(&exprs.join(", "), unnest(vec![array], Some(inner), false)?, alias.name.clone())
}

/// `LATERAL (SELECT exprs FROM rows) AS alias`
fn select(exprs: &str, rows: TableFactor, alias: Ident) -> Result<TableFactor, Refusal> {
    let subquery = parse_query(&format!("SELECT {exprs} FROM {rows}"))
        .map_err(|error| Refusal::unsupported(format!("{exprs} in FROM: {error}")))?;
    let alias = Some(TableAlias { explicit: true, name: alias, columns: Vec::new(), at: None });
    Ok(TableFactor::Derived { lateral: true, subquery, alias, sample: None })
}

fn unnest(
    mut array_exprs: Vec<Expr>,
    alias: Option<TableAlias>,
    with_ordinality: bool,
) -> Result<TableFactor, Refusal> {
    if with_ordinality {
        array_exprs.push(ordinality(&array_exprs)?);
    }
    Ok(TableFactor::UNNEST {
        alias,
        array_exprs,
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    })
}

fn named(name: &str) -> TableAlias {
    TableAlias { explicit: true, name: Ident::new(name), columns: Vec::new(), at: None }
}

fn column(name: Ident) -> TableAliasColumnDef {
    TableAliasColumnDef { name, data_type: None }
}

/// The relations of a FROM that are functions with one column of another name: the name of such a relation is the
/// column, `FROM jsonb_array_elements(j) AS e WHERE e ->> 'a' = 'x'`.
pub(super) fn column_of_alias(factor: &TableFactor) -> Option<(String, &'static str)> {
    let from = from_call(factor)?;
    let function = find(&from.name)?;
    let alias = from.alias.filter(|alias| alias.columns.is_empty() && !from.with_ordinality)?;
    match function.columns {
        [column] => Some((alias.name.value.to_lowercase(), column)),
        _ => None,
    }
}
