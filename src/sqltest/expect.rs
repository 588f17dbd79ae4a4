//! What is expected, compared with what there is.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use tidemill_core::SqlState;

use crate::cli::table::{Format, Table};
use crate::session::api::SqlError;
use crate::statements::dml;
use crate::statements::verify::differences::{Differences, Found, Sampling};

/// How many of the rows that differ are shown.
const N_SHOWN: usize = 20;

/// The column of changes that says which way a row went.
const SIGN: &str = "change";

/// What is not as expected: in one line, and the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub message: String,
    pub rows: String,
}

fn failed(error: ArrowError) -> SqlError {
    SqlError::from_datafusion(error.into())
}

/// The schema with columns that may be NULL, which is all that is compared.
pub fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// Rows that somebody has written down, with the types of the rows that they are compared with. A value that is none
/// of its column's type is an error: rounded to one, it would be taken for what it is not.
pub fn as_rows_of(schema: &SchemaRef, of: &str, batches: &[RecordBatch]) -> Result<RecordBatch, SqlError> {
    let schema = nullable(schema);
    let mut same = Vec::new();
    for batch in batches {
        let (n_given, n_columns) = (batch.num_columns(), schema.fields().len());
        if n_given != n_columns {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let message =
                format!("rows of {} are expected, but {of} has {}", columns(n_given), columns(n_columns));
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, message)
                .with_hint(format!("Its columns are ({}).", names.join(", "))));
        }
        let columns =
            batch.columns().iter().zip(schema.fields()).map(|(values, field)| exact(values, field, of));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        same.push(RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(failed)?);
    }
    dml::concat(&schema, &same)
}

fn columns(n: usize) -> String {
    if n == 1 { "1 column".into() } else { format!("{n} columns") }
}

fn exact(values: &ArrayRef, field: &Field, of: &str) -> Result<ArrayRef, SqlError> {
    let exact = dml::assign(values, field, of)?;
    let is_exact = |data_type: &DataType| data_type.is_integer() || data_type.is_decimal();
    if !values.data_type().is_numeric() || !is_exact(field.data_type()) {
        return Ok(exact);
    }
    let back = cast(&exact, values.data_type()).map_err(failed)?;
    let differs: BooleanArray = distinct(&back, values).map_err(failed)?;
    let Some(row) = (0..differs.len()).find(|row| differs.value(*row)) else { return Ok(exact) };
    let shown = |values: &ArrayRef| -> Result<String, SqlError> {
        let field = Field::new("x", values.data_type().clone(), true);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![values.slice(row, 1)]);
        let table = Table::from_batches(&[batch.map_err(failed)?])?;
        Ok(table.rows[0][0].clone().unwrap_or_default())
    };
    let (value, data_type) = (shown(values)?, tidemill_sql::types::pg_type_of(field));
    Err(SqlError::new(
        SqlState::DATATYPE_MISMATCH,
        format!("{value} is expected in column \"{}\", which is {data_type}: it is never that", field.name()),
    ))
}

/// What is not as expected, if anything. Both have one schema.
pub fn compare(
    expected: &RecordBatch,
    found: &[RecordBatch],
    in_order: bool,
) -> Result<Option<Difference>, SqlError> {
    let differences = difference(expected, found)?;
    let (n_missing, n_extra) = (differences.n_missing, differences.n_extra);
    if n_missing + n_extra == 0 {
        return if in_order { compare_order(expected, found) } else { Ok(None) };
    }
    let mut parts = Vec::new();
    if n_missing > 0 {
        parts.push(format!("{n_missing} missing"));
    }
    if n_extra > 0 {
        parts.push(format!("{n_extra} unexpected"));
    }
    let message = format!(
        "{}: {} expected, {} found",
        parts.join(", "),
        rows(differences.n_expected),
        differences.n_shown
    );
    Ok(Some(Difference { message, rows: shown(&differences)? }))
}

fn rows(n: i64) -> String {
    if n == 1 { "1 row".into() } else { format!("{n} rows") }
}

fn difference(expected: &RecordBatch, found: &[RecordBatch]) -> Result<Found, SqlError> {
    let sampling = Sampling { percent: None, key: Vec::new() };
    let mut differences = Differences::new(nullable(&expected.schema()), sampling, usize::MAX)?;
    differences.expect(expected)?;
    for batch in found {
        differences.show(batch)?;
    }
    differences.finish()
}

/// The rows that differ, as a table.
fn shown(found: &Found) -> Result<String, SqlError> {
    let (batch, copies) = found.differing();
    let table = Table::from_batches(std::slice::from_ref(batch))?;
    let has_copies = copies.iter().any(|copies| copies.abs() > 1);
    let mut names = vec![String::new()];
    names.extend(has_copies.then(|| "copies".to_owned()));
    names.extend(table.columns.into_iter().map(|(name, _)| name));
    let mut rows = Vec::new();
    // What belongs together stands together: rows are in order, missing or not.
    for (row, copies) in table.rows.into_iter().zip(copies).filter(|(_, copies)| **copies != 0) {
        let kind = if *copies > 0 { "missing" } else { "unexpected" };
        let mut cells = vec![Some(kind.to_owned())];
        cells.extend(has_copies.then(|| Some(copies.abs().to_string())));
        cells.extend(row.into_iter().map(|value| Some(value.unwrap_or_else(|| "NULL".into()))));
        rows.push(cells);
    }
    let n_more = rows.len().saturating_sub(N_SHOWN);
    rows.truncate(N_SHOWN);
    let mut text = aligned(names, rows);
    if n_more > 0 {
        text += &format!(" … and {n_more} more\n");
    }
    Ok(text)
}

fn aligned(names: Vec<String>, rows: Vec<Vec<Option<String>>>) -> String {
    let table = Table::from_text(names, rows).render(Format::Table);
    // Without the number of rows below.
    let end = table.trim_end().rfind('\n').map_or(0, |newline| newline + 1);
    table[..end].to_owned()
}

/// The first rows that are not where they are expected.
fn compare_order(expected: &RecordBatch, found: &[RecordBatch]) -> Result<Option<Difference>, SqlError> {
    let found = dml::concat(&nullable(&expected.schema()), found)?;
    for row in 0..expected.num_rows() {
        let (wanted, got) = (expected.slice(row, 1), found.slice(row, 1));
        let differences = difference(&wanted, std::slice::from_ref(&got))?;
        if differences.n_missing > 0 {
            let line = |batch: &RecordBatch| -> Result<Vec<Option<String>>, SqlError> {
                let row = Table::from_batches(std::slice::from_ref(batch))?.rows.remove(0);
                Ok(row.into_iter().map(|value| Some(value.unwrap_or_else(|| "NULL".into()))).collect())
            };
            let names =
                expected.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
            let lines = [("expected", line(&wanted)?), ("found", line(&got)?)];
            let cells = lines.map(|(kind, row)| [vec![Some(kind.to_owned())], row].concat());
            let names = [vec![String::new()], names].concat();
            let message = format!("the rows are those expected, in another order from row {}", row + 1);
            return Ok(Some(Difference { message, rows: aligned(names, cells.to_vec()) }));
        }
    }
    Ok(None)
}

/// Rows that came and rows that went as rows with a sign in front.
pub fn signed(added: &RecordBatch, removed: &RecordBatch) -> Result<RecordBatch, SqlError> {
    let mut fields = vec![Field::new(SIGN, DataType::Utf8, true)];
    fields.extend(added.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)));
    let schema = Arc::new(Schema::new(fields));
    let part = |sign: &str, rows: &RecordBatch| {
        let signs: ArrayRef = Arc::new(StringArray::from(vec![sign; rows.num_rows()]));
        let columns = [vec![signs], rows.columns().to_vec()].concat();
        RecordBatch::try_new(schema.clone(), columns).map_err(failed)
    };
    dml::concat(&schema, &[part("-", removed)?, part("+", added)?])
}
