//! What a statement takes and gives, before it runs.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, SetExpr, Value};
use tidemill_sql::statements::{DeclaredOf, Statement};

use super::{dml, query, subscribe, text_schema};
use crate::pgwire::types::pg_type;
use crate::session::Session;
use crate::session::api::{Described, PgType, SqlError};

pub async fn describe(
    session: &mut Session,
    statement: &Statement,
    sql: &str,
    given: &[Option<PgType>],
) -> Result<Described, SqlError> {
    let mut types: HashMap<usize, DataType> = HashMap::new();
    let columns = match statement {
        Statement::Query(select) => Some(of_query(session, &select.query, sql, &mut types).await?),
        Statement::Insert(insert) => {
            let table = dml::target(session, &insert.table, "insert into")?;
            let targets = dml::target_columns(&table, &insert.columns)?;
            if let Some(source) = &insert.source {
                let schema = table.arrow_schema();
                let of_values = values_params(source, |column| {
                    targets.get(column).map(|target| schema.field(*target).data_type().clone())
                });
                match of_values {
                    Some(found) => types.extend(found),
                    None => {
                        of_query(session, source, sql, &mut types).await?;
                    }
                }
            }
            of_returning(session, &table, &insert.returning, sql).await?
        }
        Statement::Update(update) => {
            let table = dml::target(session, &update.table, "update")?;
            let schema = table.arrow_schema();
            for assignment in &update.ast.assignments {
                let name = assignment.target.to_string();
                if let (Some(param), Ok(field)) =
                    (placeholder(&assignment.value), schema.field_with_name(&name))
                {
                    types.insert(param, field.data_type().clone());
                }
            }
            condition_params(session, &table, &update.ast.selection, &mut types).await?;
            of_returning(session, &table, &update.returning, sql).await?
        }
        Statement::Delete(delete) => {
            let table = dml::target(session, &delete.table, "delete from")?;
            condition_params(session, &table, &delete.ast.selection, &mut types).await?;
            of_returning(session, &table, &delete.returning, sql).await?
        }
        Statement::Subscribe(subscribe) => Some(subscribe::schema(session, subscribe)?.1),
        Statement::Fetch(fetch) => session.cursors.get(&fetch.name.value).map(|cursor| cursor.schema.clone()),
        Statement::Declare(declare) => {
            if let DeclaredOf::Query(select) = &declare.of {
                of_query(session, &select.query, sql, &mut types).await?;
            }
            None
        }
        // Not run for its columns alone: it may take its time.
        Statement::Explain(_) => Some(text_schema(&[super::explain::COLUMN])),
        Statement::Verify(_) => Some(super::verify::schema()),
        Statement::Show(_) | Statement::ShowVariable(_) | Statement::Describe(_) => {
            let call = crate::session::Call { statement, sql, params: Vec::new() };
            match Box::pin(session.run(call)).await? {
                crate::session::api::Response::Rows { schema, .. } => Some(schema),
                _ => None,
            }
        }
        Statement::Execute(execute) => match session.prepared.get(&execute.name.value).cloned() {
            Some(prepared) => {
                let described = Box::pin(describe(session, &prepared.statement, &prepared.sql, &[])).await?;
                return Ok(Described { params: Vec::new(), columns: described.columns });
            }
            None => None,
        },
        _ => None,
    };
    let n_params =
        types.keys().map(|idx| idx + 1).max().unwrap_or(0).max(given.len()).max(highest_param(sql));
    let param = |idx: usize| match (given.get(idx), types.get(&idx)) {
        (Some(Some(given)), _) if *given != PgType::UNKNOWN => given.clone(),
        (_, Some(data_type)) => pg_type(data_type),
        _ => PgType::TEXT,
    };
    Ok(Described { params: (0..n_params).map(param).collect(), columns })
}

async fn of_query(
    session: &mut Session,
    query: &Query,
    sql: &str,
    types: &mut HashMap<usize, DataType>,
) -> Result<SchemaRef, SqlError> {
    let planned = query::plan(session, query, sql, &BTreeMap::new()).await?;
    let found =
        planned.plan.get_parameter_types().map_err(|error| session.database.plan_error(error, sql))?;
    for (name, data_type) in found {
        if let (Some(idx), Some(data_type)) = (param_idx(&name), data_type) {
            types.insert(idx, data_type);
        }
    }
    for (name, data_type) in crate::pg_catalog::effect_params(query) {
        if let Some(idx) = param_idx(&name) {
            types.entry(idx).or_insert(data_type);
        }
    }
    Ok(planned.schema)
}

async fn of_returning(
    session: &mut Session,
    table: &tidemill_catalog::Object,
    items: &Option<Vec<SelectItem>>,
    sql: &str,
) -> Result<Option<SchemaRef>, SqlError> {
    let Some(items) = items else { return Ok(None) };
    let parsed = dml::returning_query(table, items)?;
    let extra = dml::returning_table(table, arrow::array::RecordBatch::new_empty(table.arrow_schema()))?;
    Ok(Some(query::plan(session, &parsed, sql, &extra).await?.schema))
}

async fn condition_params(
    session: &mut Session,
    table: &tidemill_catalog::Object,
    condition: &Option<Expr>,
    types: &mut HashMap<usize, DataType>,
) -> Result<(), SqlError> {
    let Some(condition) = condition else { return Ok(()) };
    let quote = tidemill_sql::parser::quote;
    let sql = format!("SELECT * FROM {}.{} WHERE {condition}", quote(&table.schema), quote(&table.name));
    let parsed = tidemill_sql::parser::parse_query(&sql)?;
    of_query(session, &parsed, &sql, types).await.map(drop)
}

/// The parameters that stand alone in a VALUES list, by the column that each is for; none where it is no
/// VALUES list.
fn values_params(
    source: &Query,
    type_of: impl Fn(usize) -> Option<DataType>,
) -> Option<HashMap<usize, DataType>> {
    let SetExpr::Values(values) = source.body.as_ref() else { return None };
    let mut found = HashMap::new();
    for row in &values.rows {
        for (column, value) in row.content.iter().enumerate() {
            if let (Some(param), Some(data_type)) = (placeholder(value), type_of(column)) {
                found.insert(param, data_type);
            }
        }
    }
    Some(found)
}

fn placeholder(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => param_idx(name),
            _ => None,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) => placeholder(expr),
        _ => None,
    }
}

/// `$1` is parameter 0.
fn param_idx(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// The highest `$n` outside of quotes.
fn highest_param(sql: &str) -> usize {
    let mut highest = 0;
    let mut in_quotes = false;
    let bytes = sql.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        in_quotes ^= *byte == b'\'';
        if *byte == b'$' && !in_quotes {
            let digits: String = sql[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            highest = highest.max(digits.parse().unwrap_or(0));
        }
    }
    highest
}
