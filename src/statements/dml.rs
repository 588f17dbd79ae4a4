//! `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`.
//!
//! A statement that reads what it changes holds the table's lock while it does; on return the change is
//! durable, and the session's next SELECT sees it in everything that depends on the table. In a transaction block the
//! lock is held, and the change waits, until its end.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::FormatOptions;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{
    self, Assignment, AssignmentTarget, Expr, FromTable, OnConflictAction, OnInsert, SelectItem, SetExpr,
    TableFactor,
};
use tidemill_catalog::{Identity, Kind, Object, PolicyCommand, Privilege};
use tidemill_core::{Delta, SqlState, did_you_mean};
use tidemill_engine::{OnConflict, TableLock, TableWrite};
use tidemill_plan::RelationId;
use tidemill_sql::TextFormat;
use tidemill_sql::parser::{Name, ObjectName, parse_query, quote};
use tidemill_sql::statements::{Delete, Insert, Truncate, Update};

use super::values::literal_rows;
use super::{done, engine_error, query, rows, unsupported};
use crate::names::find;
use crate::pgwire::text_format::PostgresText;
use crate::policies::Change;
use crate::session::api::{Response, RowsTag, SqlError};
use crate::session::block::Isolation;
use crate::session::{Call, Session};
use crate::{policies, privileges};

/// How often an upsert looks again for keys that somebody else has taken meanwhile.
const UPSERT_ATTEMPTS: usize = 100;

/// The table that a statement writes to, which must be allowed what the statement needs.
pub fn target(
    session: &Session,
    name: &ObjectName,
    verb: &str,
    needs: &[Privilege],
) -> Result<Arc<Object>, SqlError> {
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    match find(&catalog, name.schema.as_deref(), &name.name, &search_path) {
        Some(object) if object.kind() == Kind::Table => {
            for privilege in needs {
                privileges::require(&catalog, session.user(), &object, *privilege)
                    .map_err(|error| error.with_position(name.position))?;
            }
            Ok(object)
        }
        Some(object) => {
            let error = catalog.resolve_kind(Kind::Table, name.schema.as_deref(), &name.name, &search_path);
            let error = error.map(drop).err().map(SqlError::from).unwrap_or_else(|| {
                SqlError::new(SqlState::WRONG_OBJECT_TYPE, format!("cannot {verb} \"{}\"", object.name))
            });
            let hint = match object.kind() {
                Kind::Pipeline => {
                    "A pipeline's rows follow from what it reads: write to the tables that it reads."
                }
                Kind::Source => {
                    "A source's rows come from the outside; for rows of your own, use CREATE TABLE."
                }
                Kind::View => "A view has no rows of its own: write to the tables that it reads.",
                _ => "Only tables are written to.",
            };
            Err(error.with_hint(hint).with_position(name.position))
        }
        None => {
            let error = catalog.resolve(name.schema.as_deref(), &name.name, &search_path).map(drop);
            Err(match error {
                Err(error) => SqlError::from(error).with_position(name.position),
                Ok(()) => SqlError::new(
                    SqlState::UNDEFINED_TABLE,
                    format!("relation \"{}\" does not exist", name.name),
                ),
            })
        }
    }
}

/// The table that INSERT writes to.
pub fn insert_target(session: &Session, insert: &Insert) -> Result<Arc<Object>, SqlError> {
    let mut needs = vec![Privilege::Insert];
    let mut reads = insert.returning.is_some();
    if let Some(OnInsert::OnConflict(on_conflict)) = &insert.ast.on {
        reads |= on_conflict.conflict_target.is_some();
        if let OnConflictAction::DoUpdate(_) = on_conflict.action {
            needs.push(Privilege::Update);
            reads = true;
        }
    }
    needs.extend(reads.then_some(Privilege::Select));
    target(session, &insert.table, "insert into", &needs)
}

/// The table that UPDATE changes. From then on the statement's own queries read it, whether or not the user may.
pub fn update_target(session: &mut Session, update: &Update) -> Result<Arc<Object>, SqlError> {
    let ast = &update.ast;
    let is_read = |value: &Expr| {
        let mut reads = false;
        let _ = ast::visit_expressions(value, |expr: &Expr| {
            let is_default =
                matches!(expr, Expr::Identifier(ident) if ident.value.eq_ignore_ascii_case("default"));
            reads |= !is_default
                && matches!(
                    expr,
                    Expr::Identifier(_)
                        | Expr::CompoundIdentifier(_)
                        | Expr::CompoundFieldAccess { .. }
                        | Expr::Subquery(_)
                        | Expr::Exists { .. }
                        | Expr::InSubquery { .. }
                );
            std::ops::ControlFlow::<()>::Continue(())
        });
        reads
    };
    let reads = ast.selection.is_some()
        || ast.from.is_some()
        || update.returning.is_some()
        || ast.assignments.iter().any(|assignment| is_read(&assignment.value));
    let needs = [Some(Privilege::Update), reads.then_some(Privilege::Select)];
    let needs: Vec<Privilege> = needs.into_iter().flatten().collect();
    let table = target(session, &update.table, "update", &needs)?;
    session.changes = Some(Change { relation: table.oid, command: Some(PolicyCommand::Update) });
    Ok(table)
}

/// The same for DELETE.
pub fn delete_target(session: &mut Session, delete: &Delete) -> Result<Arc<Object>, SqlError> {
    let reads = delete.ast.selection.is_some() || delete.ast.using.is_some() || delete.returning.is_some();
    let needs = [Some(Privilege::Delete), reads.then_some(Privilege::Select)];
    let needs: Vec<Privilege> = needs.into_iter().flatten().collect();
    let table = target(session, &delete.table, "delete from", &needs)?;
    session.changes = Some(Change { relation: table.oid, command: Some(PolicyCommand::Delete) });
    Ok(table)
}

pub async fn insert(session: &mut Session, insert: &Insert, call: &Call<'_>) -> Result<Response, SqlError> {
    let table = insert_target(session, insert)?;
    let columns = target_columns(&table, &insert.columns)?;
    let given = match &insert.source {
        Some(source) => {
            let mut source = source.clone();
            check_identities(&source, &table, &columns)?;
            replace_defaults(&mut source, &table, &columns)?;
            let schema = table.arrow_schema();
            let targets: Vec<DataType> =
                columns.iter().map(|column| schema.field(*column).data_type().clone()).collect();
            match literal_rows(&source, &targets, &call.params) {
                Some(rows) => vec![rows],
                None => {
                    let params = call.params.clone();
                    query::collect(session, &source, call.sql, params, &BTreeMap::new()).await?.1
                }
            }
        }
        // DEFAULT VALUES
        None => {
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
            let empty = Arc::new(Schema::empty());
            vec![RecordBatch::try_new_with_options(empty, Vec::new(), &options).map_err(arrow_error)?]
        }
    };
    let columns = if insert.source.is_none() { Vec::new() } else { columns };
    let mut arranged = Vec::new();
    for batch in &given {
        arranged.push(arrange(session, &table, &columns, batch).await?);
    }
    let rows = concat(&table.arrow_schema(), &arranged)?;
    let is_read = insert.returning.is_some();
    check_policies(session, &table, &rows, PolicyCommand::Insert, is_read).await?;
    let touched = match &insert.ast.on {
        Some(OnInsert::OnConflict(on_conflict)) => {
            insert_or(session, &table, rows, on_conflict, call).await?
        }
        _ => {
            let write = TableWrite::Insert { rows, on_conflict: OnConflict::Error };
            write_to(session, &table, write).await?
        }
    };
    match &insert.returning {
        Some(items) => returning(session, &table, items, touched, call.sql, RowsTag::INSERT).await,
        None => Ok(done(format!("INSERT 0 {}", touched.num_rows()))),
    }
}

/// `INSERT … ON CONFLICT`: gives the rows that were inserted or updated.
async fn insert_or(
    session: &mut Session,
    table: &Object,
    rows: RecordBatch,
    on_conflict: &ast::OnConflict,
    call: &Call<'_>,
) -> Result<RecordBatch, SqlError> {
    policies::refuse(
        session,
        table,
        "INSERT … ON CONFLICT",
        "Write UPDATE, and INSERT where it finds no row.",
    )?;
    let key: Vec<&str> =
        table.primary_key.iter().map(|column| table.columns[*column].name.as_str()).collect();
    if let Some(target) = &on_conflict.conflict_target {
        let ast::ConflictTarget::Columns(columns) = target else {
            return Err(
                unsupported("ON CONFLICT ON CONSTRAINT").with_hint("Name the columns of the primary key.")
            );
        };
        let mut named: Vec<String> = columns.iter().map(ident_name).collect();
        let mut expected: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        named.sort_unstable();
        expected.sort_unstable();
        if named != expected {
            return Err(no_such_key(table, &key));
        }
    }
    let OnConflictAction::DoUpdate(update) = &on_conflict.action else {
        let write = TableWrite::Insert { rows, on_conflict: OnConflict::Nothing };
        return write_to(session, table, write).await;
    };
    if key.is_empty() {
        return Err(no_such_key(table, &key));
    }
    let (schema_name, name) = (quote(&table.schema), quote(&table.name));
    let on: Vec<String> =
        key.iter().map(|column| format!("{name}.{0} = excluded.{0}", quote(column))).collect();
    let on = on.join(" AND ");
    let condition =
        update.selection.as_ref().map_or_else(String::new, |condition| format!(" WHERE {condition}"));
    let own = |idx: usize| format!("{name}.{}", quote(&table.columns[idx].name));
    let values = assigned_values(table, &update.assignments)?;
    let old = (0..values.len()).map(|idx| format!("{} AS \"old{idx}\"", own(idx)));
    let new = values.iter().enumerate().map(|(idx, value)| {
        let value = value.clone().unwrap_or_else(|| own(idx));
        format!("{value} AS \"new{idx}\"")
    });
    let items: Vec<String> = old.chain(new).collect();
    let items = items.join(", ");
    let conflicting =
        format!("SELECT {items} FROM {schema_name}.{name} JOIN __touched AS excluded ON {on}{condition}");
    let fresh = format!(
        "SELECT * FROM __touched AS excluded \
         WHERE NOT EXISTS (SELECT 1 FROM {schema_name}.{name} WHERE {on})"
    );
    check_once(table, &rows)?;
    let extra = returning_table(table, rows)?;
    let _guard = lock(session, table).await?;
    let (conflicting, fresh) = (parse_query(&conflicting)?, parse_query(&fresh)?);
    let mut n_attempts = 0;
    loop {
        let (_, changed) =
            query::collect(session, &conflicting, call.sql, call.params.clone(), &extra).await?;
        let (removed, updated) = split_changed(table, &changed)?;
        let (_, mut added) = query::collect(session, &fresh, call.sql, Vec::new(), &extra).await?;
        added.push(updated);
        let added = concat(&table.arrow_schema(), &added)?;
        if added.num_rows() == 0 {
            return Ok(added);
        }
        let change = both(&Delta::retractions(&removed), &Delta::inserts(&added))?;
        match write_to(session, table, TableWrite::Change(change)).await {
            Ok(_) => return Ok(added),
            // Who only inserts needs no lock, and has taken a key since it was looked for.
            Err(error)
                if error.sqlstate == SqlState::UNIQUE_VIOLATION
                    && n_attempts < UPSERT_ATTEMPTS
                    && look_again(session) =>
            {
                n_attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Lets the next read see what has been committed since the last one, where the isolation level has that.
pub fn look_again(session: &mut Session) -> bool {
    if session.is_in_block() && Isolation::of(&session.settings) > Isolation::ReadCommitted {
        return false;
    }
    session.written = session.written.max(session.database.engine.epoch());
    session.block.since = session.written;
    session.pinned = None;
    true
}

/// No key may come twice: one row would be changed by the other.
fn check_once(table: &Object, rows: &RecordBatch) -> Result<(), SqlError> {
    let columns: Vec<ArrayRef> = table.primary_key.iter().map(|idx| rows.column(*idx).clone()).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields)
        .and_then(|converter| converter.convert_columns(&columns))
        .map_err(arrow_error)?;
    let mut seen = HashSet::new();
    match keys.iter().all(|key| seen.insert(key)) {
        true => Ok(()),
        false => Err(SqlError::new(
            SqlState::CARDINALITY_VIOLATION,
            "ON CONFLICT DO UPDATE command cannot affect row a second time",
        )
        .with_hint(
            "Ensure that no rows proposed for insertion within the same command have duplicate keys.",
        )),
    }
}

fn no_such_key(table: &Object, key: &[&str]) -> SqlError {
    let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
    let hint = match key {
        [] => format!("Table \"{}\" has no primary key.", table.name),
        key => format!("The primary key of \"{}\" is ({}).", table.name, key.join(", ")),
    };
    SqlError::new(SqlState("42P10"), message).with_hint(hint)
}

/// For each column the expression that SET gives it, if it gives it any.
fn assigned_values(table: &Object, assignments: &[Assignment]) -> Result<Vec<Option<String>>, SqlError> {
    let mut values: Vec<Option<String>> = vec![None; table.columns.len()];
    for Assignment { target, value } in assignments {
        let AssignmentTarget::ColumnName(name) = target else {
            return Err(unsupported("SET (a, b) = …"));
        };
        let name = name.0.last().and_then(|part| part.as_ident()).map(ident_name).unwrap_or_default();
        let idx = column(table, &name, None)?;
        let is_default =
            matches!(value, Expr::Identifier(ident) if ident.value.eq_ignore_ascii_case("default"));
        values[idx] = Some(match (is_default, &table.columns[idx].default) {
            (true, Some(default)) => default.clone(),
            (true, None) => "NULL".into(),
            (false, _) => value.to_string(),
        });
    }
    Ok(values)
}

/// Old and new rows out of batches that have the old columns first.
fn split_changed(table: &Object, batches: &[RecordBatch]) -> Result<(RecordBatch, RecordBatch), SqlError> {
    let schema = table.arrow_schema();
    let n_columns = table.columns.len();
    let mut removed = Vec::new();
    let mut added = Vec::new();
    for batch in batches {
        let columns = |range: std::ops::Range<usize>| -> Result<Vec<ArrayRef>, SqlError> {
            let field = |idx: usize| schema.field(idx % n_columns);
            range.map(|idx| assign(batch.column(idx), field(idx), &table.name)).collect()
        };
        removed.push(unchecked_batch(&schema, columns(0..n_columns)?, batch.num_rows())?);
        added.push(unchecked_batch(&schema, columns(n_columns..2 * n_columns)?, batch.num_rows())?);
    }
    Ok((concat(&schema, &removed)?, concat(&schema, &added)?))
}

/// Writes, and notes the epoch, or stages the write in a block; gives the rows that came in.
pub async fn write_to(
    session: &mut Session,
    table: &Object,
    write: TableWrite,
) -> Result<RecordBatch, SqlError> {
    let database = session.database.clone();
    if session.is_in_block() {
        let staged = database.engine.stage(&session.block.writes, RelationId(table.oid), write).await;
        return staged.map_err(|error| engine_error(&database, error));
    }
    let written = database
        .engine
        .write(RelationId(table.oid), write)
        .await
        .map_err(|error| engine_error(&database, error))?;
    session.written = written.epoch;
    session.pinned = None;
    Ok(written.inserted)
}

/// The positions of the columns that are given values.
pub fn target_columns(table: &Object, names: &[Name]) -> Result<Vec<usize>, SqlError> {
    if names.is_empty() {
        return Ok((0..table.columns.len()).collect());
    }
    let mut columns = Vec::new();
    for name in names {
        let column = column(table, &name.value, Some(name.position))?;
        if columns.contains(&column) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", name.value),
            )
            .with_position(name.position));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn column(table: &Object, name: &str, position: Option<usize>) -> Result<usize, SqlError> {
    table.column_idx(name).ok_or_else(|| no_column(table, name, position))
}

/// A table has no column of a name.
pub fn no_column(table: &Object, name: &str, position: Option<usize>) -> SqlError {
    let mut error = SqlError::new(
        SqlState::UNDEFINED_COLUMN,
        format!("column \"{name}\" of relation \"{}\" does not exist", table.name),
    );
    error.position = position;
    match did_you_mean(name, table.columns.iter().map(|column| column.name.as_str())) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error,
    }
}

/// An identity column that is always generated takes no value but DEFAULT.
fn check_identities(source: &ast::Query, table: &Object, columns: &[usize]) -> Result<(), SqlError> {
    for (given, column) in columns.iter().enumerate() {
        let column = &table.columns[*column];
        if column.identity != Some(Identity::Always) {
            continue;
        }
        let is_default = match source.body.as_ref() {
            SetExpr::Values(values) => {
                values.rows.iter().all(|row| row.content.get(given).is_none_or(is_default))
            }
            _ => false,
        };
        if !is_default {
            let message = format!("cannot insert a non-DEFAULT value into column \"{}\"", column.name);
            return Err(SqlError::new(SqlState("428C9"), message)
                .with_detail(format!(
                    "Column \"{}\" is an identity column defined as GENERATED ALWAYS.",
                    column.name
                ))
                .with_hint("Leave the column out, or define it as GENERATED BY DEFAULT."));
        }
    }
    Ok(())
}

fn is_default(value: &Expr) -> bool {
    matches!(value, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// Writes a column's default where VALUES says DEFAULT.
fn replace_defaults(source: &mut ast::Query, table: &Object, columns: &[usize]) -> Result<(), SqlError> {
    let SetExpr::Values(values) = source.body.as_mut() else { return Ok(()) };
    for row in &mut values.rows {
        if row.content.len() > columns.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "INSERT has more expressions than target columns",
            ));
        }
        for (value, column) in row.content.iter_mut().zip(columns) {
            if is_default(value) {
                let text = table.columns[*column].default.clone().unwrap_or_else(|| "NULL".into());
                *value = tidemill_sql::parser::parse_expr(&text)?;
            }
        }
    }
    Ok(())
}

/// Rows for some columns of a table as rows of the table: cast, and with defaults for the others.
pub async fn arrange(
    session: &mut Session,
    table: &Object,
    columns: &[usize],
    batch: &RecordBatch,
) -> Result<RecordBatch, SqlError> {
    if batch.num_columns() > columns.len() {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "INSERT has more expressions than target columns"));
    }
    if batch.num_columns() < columns.len() && columns.len() != table.columns.len() {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "INSERT has more target columns than expressions"));
    }
    let schema = table.arrow_schema();
    let mut arranged: Vec<ArrayRef> = Vec::new();
    for (idx, field) in schema.fields().iter().enumerate() {
        let given =
            columns.iter().position(|column| *column == idx).filter(|given| *given < batch.num_columns());
        arranged.push(match (given, &table.columns[idx].default) {
            (Some(given), _) => assign(batch.column(given), field, &table.name)?,
            (None, None) => new_null_array(field.data_type(), batch.num_rows()),
            (None, Some(default)) => {
                let values = default_values(session, default, batch.num_rows()).await?;
                assign(&values, field, &table.name)?
            }
        });
    }
    unchecked_batch(&schema, arranged, batch.num_rows())
}

/// A batch whose NULLs have not been looked at yet: the engine does, and says which column it was.
fn unchecked_batch(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    n_rows: usize,
) -> Result<RecordBatch, SqlError> {
    let fields: Vec<_> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(arrow_error)
}

/// A column's default, evaluated for each of some rows.
async fn default_values(session: &mut Session, text: &str, n_rows: usize) -> Result<ArrayRef, SqlError> {
    let sql = format!("SELECT {text} FROM __rows");
    let parsed = parse_query(&sql)?;
    let schema = Arc::new(Schema::new(vec![Field::new("row", DataType::Boolean, true)]));
    let rows = RecordBatch::try_new(schema.clone(), vec![new_null_array(&DataType::Boolean, n_rows)])
        .map_err(arrow_error)?;
    let provider = MemTable::try_new(schema, vec![vec![rows]]).map_err(SqlError::from_datafusion)?;
    let extra: BTreeMap<String, Arc<dyn TableProvider>> =
        BTreeMap::from([("__rows".to_owned(), Arc::new(provider) as Arc<dyn TableProvider>)]);
    let (schema, batches) = query::collect(session, &parsed, &sql, Vec::new(), &extra).await?;
    let values = concat(&schema, &batches)?;
    match values.num_rows() == n_rows {
        true => Ok(values.column(0).clone()),
        false => Err(SqlError::new(SqlState::INTERNAL_ERROR, "a default has not one value for each row")),
    }
}

/// A column of values as values of a table's column.
pub fn assign(values: &ArrayRef, field: &arrow::datatypes::Field, table: &str) -> Result<ArrayRef, SqlError> {
    let declared = tidemill_sql::types::declared_type(field);
    if values.data_type() == field.data_type() && declared.is_none() {
        return Ok(values.clone());
    }
    if let arrow::datatypes::DataType::Utf8 = values.data_type() {
        if let Some(declared) = declared {
            check_length(values.as_string::<i32>(), declared)?;
        }
        return PostgresText.read(values.as_string::<i32>(), field).map_err(|error| {
            let error = tidemill_sql::Error::from_datafusion(error, "", &Default::default());
            SqlError::from(error).with_detail(format!("In column \"{}\" of table \"{table}\".", field.name()))
        });
    }
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    if !arrow::compute::can_cast_types(values.data_type(), field.data_type()) {
        let to = tidemill_sql::types::pg_type_of(field);
        let from = tidemill_sql::types::pg_type_name(values.data_type());
        return Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!("column \"{}\" is of type {to} but expression is of type {from}", field.name()),
        )
        .with_hint("You will need to rewrite or cast the expression."));
    }
    let detail = || format!("In column \"{}\" of table \"{table}\".", field.name());
    cast_with_options(values, field.data_type(), &options)
        .map_err(|error| arrow_error(error).with_detail(detail()))
}

/// An explicit cast cuts a text off; what is assigned has to fit, but for blanks at its end.
fn check_length(texts: &arrow::array::StringArray, declared: &str) -> Result<(), SqlError> {
    let Some((_, length)) = declared.split_once('(').filter(|_| declared.starts_with("character")) else {
        return Ok(());
    };
    let length: usize = length.trim_end_matches(')').parse().unwrap_or(usize::MAX);
    let is_too_long = |text: &str| text.chars().skip(length).any(|c| c != ' ');
    match texts.iter().flatten().any(is_too_long) {
        true => Err(SqlError::new(SqlState("22001"), format!("value too long for type {declared}"))),
        false => Ok(()),
    }
}

/// One batch of a table's schema.
pub fn concat(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, SqlError> {
    let fields: Vec<_> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let mut same = Vec::new();
    for batch in batches {
        same.push(unchecked_batch(&schema, batch.columns().to_vec(), batch.num_rows())?);
    }
    concat_batches(&schema, &same).map_err(arrow_error)
}

pub fn arrow_error(error: arrow::error::ArrowError) -> SqlError {
    tidemill_sql::Error::from_datafusion(error.into(), "", &Default::default()).into()
}

pub async fn update(session: &mut Session, update: &Update, call: &Call<'_>) -> Result<Response, SqlError> {
    let table = update_target(session, update)?;
    let ast = &update.ast;
    if ast.from.is_some() || !ast.table.joins.is_empty() {
        return Err(unsupported("UPDATE … FROM")
            .with_hint("Write the condition as WHERE … IN (SELECT …), and the value as a subquery."));
    }
    let own = |idx: usize| quote(&table.columns[idx].name);
    let values: Vec<String> = assigned_values(&table, &ast.assignments)?
        .into_iter()
        .enumerate()
        .map(|(idx, value)| value.unwrap_or_else(|| own(idx)))
        .collect();
    let n_columns = table.columns.len();
    let old = (0..n_columns).map(|idx| format!("{} AS \"old{idx}\"", quote(&table.columns[idx].name)));
    let new = values.iter().enumerate().map(|(idx, value)| format!("{value} AS \"new{idx}\""));
    let items: Vec<String> = old.chain(new).collect();
    let condition =
        ast.selection.as_ref().map_or_else(String::new, |condition| format!(" WHERE {condition}"));
    let sql = format!("SELECT {} FROM {}{condition}", items.join(", "), ast.table);

    let (_guard, batches) = read_locked(session, &table, &sql, call).await?;
    let (removed, added) = split_changed(&table, &batches)?;
    let n_rows = added.num_rows();
    check_policies(session, &table, &added, PolicyCommand::Update, true).await?;
    if n_rows > 0 {
        let change = both(&Delta::retractions(&removed), &Delta::inserts(&added))?;
        write_to(session, &table, TableWrite::Change(change)).await?;
    }
    match &update.returning {
        Some(items) => returning(session, &table, items, added, call.sql, RowsTag::UPDATE).await,
        None => Ok(done(format!("UPDATE {n_rows}"))),
    }
}

pub async fn delete(session: &mut Session, delete: &Delete, call: &Call<'_>) -> Result<Response, SqlError> {
    let table = delete_target(session, delete)?;
    let ast = &delete.ast;
    let from = match &ast.from {
        FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from) => from,
    };
    let ([from], None) = (&from[..], &ast.using) else {
        return Err(unsupported("DELETE … USING").with_hint("Write the condition as WHERE … IN (SELECT …)."));
    };
    let qualifier = match &from.relation {
        TableFactor::Table { alias: Some(alias), .. } => alias.name.to_string(),
        TableFactor::Table { name, .. } => name.to_string(),
        _ => return Err(unsupported("DELETE from anything but a table")),
    };
    let condition =
        ast.selection.as_ref().map_or_else(String::new, |condition| format!(" WHERE {condition}"));
    let sql = format!("SELECT {qualifier}.* FROM {from}{condition}");
    let (_guard, batches) = read_locked(session, &table, &sql, call).await?;
    let removed = concat(&table.arrow_schema(), &batches)?;
    let n_rows = removed.num_rows();
    if n_rows > 0 {
        write_to(session, &table, TableWrite::Change(Delta::retractions(&removed))).await?;
    }
    match &delete.returning {
        Some(items) => returning(session, &table, items, removed, call.sql, RowsTag::DELETE).await,
        None => Ok(done(format!("DELETE {n_rows}"))),
    }
}

pub async fn truncate(session: &mut Session, truncate: &Truncate) -> Result<Response, SqlError> {
    let needs = [Privilege::Truncate];
    let tables = truncate.names.iter().map(|name| target(session, name, "truncate", &needs));
    for table in tables.collect::<Result<Vec<_>, _>>()? {
        session.changes = Some(Change { relation: table.oid, command: None });
        let sql = format!("SELECT * FROM {}.{}", quote(&table.schema), quote(&table.name));
        let call = Call {
            statement: &tidemill_sql::statements::Statement::Empty,
            sql: &sql,
            params: Vec::new(),
            kept: None,
        };
        let (_guard, batches) = read_locked(session, &table, &sql, &call).await?;
        let removed = concat(&table.arrow_schema(), &batches)?;
        if removed.num_rows() > 0 {
            write_to(session, &table, TableWrite::Change(Delta::retractions(&removed))).await?;
        }
    }
    Ok(done("TRUNCATE TABLE"))
}

/// The rows that a query finds while nobody else can change the table on what it has read.
async fn read_locked(
    session: &mut Session,
    table: &Object,
    sql: &str,
    call: &Call<'_>,
) -> Result<(Option<TableLock>, Vec<RecordBatch>), SqlError> {
    let guard = lock(session, table).await?;
    let parsed = parse_query(sql)?;
    let (_, batches) =
        query::collect(session, &parsed, call.sql, call.params.clone(), &BTreeMap::new()).await?;
    Ok((guard, batches))
}

/// Lets a block change a table on what it reads there.
pub async fn hold(session: &mut Session, table: &Object) -> Result<(), SqlError> {
    lock(session, table).await.map(drop)
}

/// Takes a table's lock; a block keeps it. What others wrote before is seen then, whatever the session's freshness.
async fn lock(session: &mut Session, table: &Object) -> Result<Option<TableLock>, SqlError> {
    let id = RelationId(table.oid);
    let database = session.database.clone();
    let engine = &database.engine;
    if session.is_in_block() && session.block.holds(id) {
        return Ok(None);
    }
    let owner = match session.is_in_block() {
        true => session.block.owner(engine),
        false => engine.lock_owner(),
    };
    let taken = engine.lock_table(owner, id);
    let lock = match session.settings.duration("lock_timeout") {
        Some(timeout) => tokio::time::timeout(timeout, taken).await.map_err(|_| {
            SqlError::new(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout")
                .with_detail(format!("Another transaction holds the lock of table \"{}\".", table.name))
        })??,
        None => taken.await?,
    };
    if !session.is_in_block() {
        look_again(session);
        return Ok(Some(lock));
    }
    let snapshot = session.pinned.as_ref().map(|view| view.epoch);
    match snapshot.filter(|_| Isolation::of(&session.settings) > Isolation::ReadCommitted) {
        Some(snapshot) => {
            if engine.changed(id).await.is_some_and(|changed| changed > snapshot) {
                return Err(tidemill_engine::Error::Concurrent { table: table.name.clone() }.into());
            }
        }
        None => {
            look_again(session);
        }
    }
    session.block.hold(id, lock);
    Ok(None)
}

fn both(removed: &Delta, added: &Delta) -> Result<Delta, SqlError> {
    let schema = removed.batch().schema();
    let added =
        RecordBatch::try_new(schema.clone(), added.batch().columns().to_vec()).map_err(arrow_error)?;
    Ok(Delta::new(concat_batches(&schema, [removed.batch(), &added]).map_err(arrow_error)?))
}

fn ident_name(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Rows that come in must be ones that the table's policies let in; where the statement shows them, also ones that they show.
async fn check_policies(
    session: &mut Session,
    table: &Object,
    rows: &RecordBatch,
    command: PolicyCommand,
    is_read: bool,
) -> Result<(), SqlError> {
    let Some(condition) = policies::coming_in(session, table, command, is_read)? else { return Ok(()) };
    let sql =
        format!("SELECT 1 FROM __touched AS {} WHERE ({condition}) IS NOT TRUE LIMIT 1", quote(&table.name));
    let parsed = parse_query(&sql)?;
    let extra = returning_table(table, rows.clone())?;
    let (_, refused) = query::collect(session, &parsed, &sql, Vec::new(), &extra).await?;
    match refused.iter().all(|batch| batch.num_rows() == 0) {
        true => Ok(()),
        false => Err(SqlError::new(
            privileges::DENIED,
            format!("new row violates row-level security policy for table \"{}\"", table.name),
        )),
    }
}

/// The items of RETURNING over the rows that a statement touched.
async fn returning(
    session: &mut Session,
    table: &Object,
    items: &[SelectItem],
    touched: RecordBatch,
    sql: &str,
    tag: RowsTag,
) -> Result<Response, SqlError> {
    let parsed = returning_query(table, items)?;
    let extra = returning_table(table, touched)?;
    let (schema, batches) = query::collect(session, &parsed, sql, Vec::new(), &extra).await?;
    Ok(rows(schema, batches, tag))
}

/// RETURNING as a query over a relation that only it sees.
pub fn returning_query(table: &Object, items: &[SelectItem]) -> Result<Box<ast::Query>, SqlError> {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    let name = quote(&table.name);
    Ok(parse_query(&format!("SELECT {} FROM __touched AS {name}", items.join(", ")))?)
}

pub fn returning_table(
    table: &Object,
    touched: RecordBatch,
) -> Result<BTreeMap<String, Arc<dyn TableProvider>>, SqlError> {
    let schema = table.arrow_schema();
    let rows = concat(&schema, &[touched])?;
    let provider = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(SqlError::from_datafusion)?;
    let provider: Arc<dyn TableProvider> = Arc::new(provider);
    Ok(BTreeMap::from([("__touched".to_owned(), provider)]))
}
