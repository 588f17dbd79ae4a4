//! What a statement takes and gives, before it runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{
    self, Expr, LimitClause, Query, SelectItem, SetExpr, Value, Visitor, VisitorMut,
};
use tidemill_sql::statements::{DeclaredOf, Insert, SelectQuery, Statement};

use super::{dml, query, subscribe, text_schema};
use crate::pgwire::types::{element_of, named_type, pg_type};
use crate::session::Session;
use crate::session::api::{Described, PgType, SqlError};

pub async fn describe(
    session: &mut Session,
    statement: &Statement,
    sql: &str,
    given: &[Option<PgType>],
) -> Result<Described, SqlError> {
    let mut types: HashMap<usize, DataType> = HashMap::new();
    session.changes = None;
    let mut cast: HashMap<usize, PgType> = HashMap::new();
    if let Statement::Query(SelectQuery { query, .. })
    | Statement::Insert(Insert { source: Some(query), .. }) = statement
    {
        let _ = tidemill_sql::visit::walk(query.as_ref(), &mut Casts(&mut cast));
    }
    let columns = match statement {
        Statement::Query(select) => Some(of_select(session, &select.query, sql, given, &mut types).await?),
        Statement::Insert(insert) => {
            let table = dml::insert_target(session, insert)?;
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
            let table = dml::update_target(session, update)?;
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
            let table = dml::delete_target(session, delete)?;
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
            let call = crate::session::Call { statement, sql, params: Vec::new(), kept: None };
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
    let param = |idx: usize| match (given.get(idx), cast.get(&idx), types.get(&idx)) {
        (Some(Some(given)), ..) if *given != PgType::UNKNOWN => given.clone(),
        (_, Some(cast), _) => cast.clone(),
        (_, _, Some(data_type)) => pg_type(data_type),
        _ => PgType::TEXT,
    };
    Ok(Described { params: (0..n_params).map(param).collect(), columns })
}

/// Of a query by itself, whose columns may be parameters.
async fn of_select(
    session: &mut Session,
    query: &Query,
    sql: &str,
    given: &[Option<PgType>],
    types: &mut HashMap<usize, DataType>,
) -> Result<SchemaRef, SqlError> {
    let casts: HashMap<String, ast::DataType> = given
        .iter()
        .enumerate()
        .filter_map(|(idx, pg_type)| Some((format!("${}", idx + 1), cast_type(pg_type.as_ref()?)?)))
        .collect();
    if casts.is_empty() {
        return of_query(session, query, sql, types).await;
    }
    let mut query = query.clone();
    // A cast has another name.
    let names = tidemill_sql::name_columns(&mut query);
    let mut limits = HashSet::new();
    let _ = tidemill_sql::visit::walk(&query, &mut Limits(&mut limits));
    let _ = tidemill_sql::visit::walk_mut(&mut query, &mut Given { casts, limits: &limits });
    let schema = of_query(session, &query, sql, types).await?;
    match names.filter(|names| names.len() == schema.fields().len()) {
        Some(names) => {
            let fields = schema.fields().iter().zip(names);
            let fields = fields.map(|(field, name)| field.as_ref().clone().with_name(name));
            Ok(Arc::new(Schema::new(fields.collect::<Vec<Field>>())))
        }
        None => Ok(schema),
    }
}

/// A type that a client has said a parameter to be of, for a cast; none for those that mean nothing here.
fn cast_type(pg_type: &PgType) -> Option<ast::DataType> {
    let element = element_of(pg_type);
    let base = element.as_ref().unwrap_or(pg_type);
    let known = [
        PgType::BOOL,
        PgType::INT2,
        PgType::INT4,
        PgType::INT8,
        PgType::FLOAT4,
        PgType::FLOAT8,
        PgType::NUMERIC,
        PgType::BYTEA,
        PgType::DATE,
        PgType::TIME,
        PgType::TIMESTAMP,
        PgType::TIMESTAMPTZ,
        PgType::INTERVAL,
        PgType::UUID,
        PgType::JSON,
        PgType::JSONB,
        PgType::TEXT,
    ];
    if !known.contains(base) || *pg_type == PgType::TEXT {
        return None;
    }
    let brackets = if element.is_some() { "[]" } else { "" };
    let parsed = tidemill_sql::parser::parse_query(&format!("SELECT CAST(1 AS {}{brackets})", base.name()));
    let SetExpr::Select(select) = *parsed.ok()?.body else { return None };
    match select.projection.into_iter().next() {
        Some(SelectItem::UnnamedExpr(Expr::Cast { data_type, .. })) => Some(data_type),
        _ => None,
    }
}

/// Gives parameters the types that the client has said.
struct Given<'a> {
    casts: HashMap<String, ast::DataType>,
    /// Those that are numbers whatever is said.
    limits: &'a HashSet<usize>,
}

impl VisitorMut for Given<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = &*expr
            && let Value::Placeholder(name) = &value.value
            && !param_idx(name).is_some_and(|idx| self.limits.contains(&idx))
            && let Some(data_type) = self.casts.get(name)
        {
            *expr = Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(expr.clone()),
                data_type: data_type.clone(),
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}

/// The types that parameters are cast to: `$1::oid[]` is of that type already.
struct Casts<'a>(&'a mut HashMap<usize, PgType>);

impl Visitor for Casts<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Cast { expr, data_type, .. } = expr
            && let Expr::Value(value) = expr.as_ref()
            && let Value::Placeholder(name) = &value.value
            && let Some(idx) = param_idx(name)
            && let Some(pg_type) = named_type(&data_type.to_string())
        {
            self.0.entry(idx).or_insert(pg_type);
        }
        ControlFlow::Continue(())
    }
}

/// The parameters that are a LIMIT or an OFFSET.
struct Limits<'a>(&'a mut HashSet<usize>);

impl Visitor for Limits<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let mut add = |expr: Option<&Expr>| self.0.extend(expr.and_then(placeholder));
        match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                add(limit.as_ref());
                add(offset.as_ref().map(|offset| &offset.value));
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
                add(Some(offset));
                add(Some(limit));
            }
            None => (),
        }
        add(query.fetch.as_ref().and_then(|fetch| fetch.quantity.as_ref()));
        ControlFlow::Continue(())
    }
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
    let mut limits = HashSet::new();
    let _ = tidemill_sql::visit::walk(query, &mut Limits(&mut limits));
    types.extend(limits.into_iter().map(|idx| (idx, DataType::Int64)));
    let mut bounds = HashSet::new();
    let _ = tidemill_sql::visit::walk(query, &mut Bounds(&mut bounds));
    for idx in bounds {
        types.entry(idx).or_insert(DataType::Int32);
    }
    for (name, data_type) in crate::pg_catalog::effect_params(query) {
        if let Some(idx) = param_idx(&name) {
            types.entry(idx).or_insert(data_type);
        }
    }
    Ok(planned.schema)
}

/// The parameters that bound a series of integers: nothing else about them says that they are.
struct Bounds<'a>(&'a mut HashSet<usize>);

impl Bounds<'_> {
    fn add(&mut self, name: &ast::ObjectName, args: &[ast::FunctionArg]) {
        let args: Vec<&Expr> = args
            .iter()
            .filter_map(|arg| match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            })
            .collect();
        let is_series = name.to_string().eq_ignore_ascii_case("generate_series");
        let is_number = |expr: &&Expr| match expr {
            Expr::Value(value) => matches!(&value.value, Value::Number(..) | Value::Placeholder(_)),
            _ => false,
        };
        if is_series && args.iter().all(is_number) {
            self.0.extend(args.into_iter().filter_map(placeholder));
        }
    }
}

impl Visitor for Bounds<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<()> {
        match factor {
            ast::TableFactor::Table { name, args: Some(args), .. } => self.add(name, &args.args),
            ast::TableFactor::Function { name, args, .. } => self.add(name, args),
            _ => (),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(ast::Function { name, args: ast::FunctionArguments::List(list), .. }) = expr {
            self.add(name, &list.args);
        }
        ControlFlow::Continue(())
    }
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
pub(super) fn param_idx(name: &str) -> Option<usize> {
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
