//! Changes as the outside writes them: what `FORMAT` and `ENCODE` of a sink mean.
//!
//! A delta becomes *entries* first, each with the row before, after, or both; then entries become
//! rows of some shape, and rows become bytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, StructArray, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use tidemill_core::sink::SinkBatch;
use tidemill_core::source::ConnectorError;
use tidemill_core::{Delta, SqlState};

use crate::options::{AsciiChar, options};
use crate::spec::{Format, SinkSpec};

options! {
    /// `ENCODE CSV (…)` of a sink
    pub struct CsvSinkOptions {
        /// Whether each file begins with the names of its columns.
        "header" => header: bool = "true",
        /// The text that stands for NULL.
        "null" => null: String = "",
        /// What separates fields.
        "delimiter" => delimiter: AsciiChar = ",",
    }
}

impl CsvSinkOptions {
    pub fn writer(self) -> arrow_csv::WriterBuilder {
        arrow_csv::WriterBuilder::new()
            .with_header(self.header)
            .with_null(self.null)
            .with_delimiter(self.delimiter.0)
    }
}

/// One change, by the places of its rows in the delta. At least one of them is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub before: Option<u32>,
    pub after: Option<u32>,
}

/// What a sink makes of changes.
#[derive(Debug, Clone)]
pub struct Changelog {
    sink: String,
    format: Format,
    primary_key: Vec<usize>,
    /// Drop retractions instead of refusing them.
    force_append_only: bool,
    /// Name of a column that says `insert` or `delete`.
    op_column: Option<String>,
}

impl Changelog {
    /// Refuses what can be known to be impossible without any row.
    pub fn new(
        spec: &SinkSpec<'_>,
        force_append_only: bool,
        op_column: Option<String>,
    ) -> Result<Changelog, ConnectorError> {
        if spec.format == Format::Plain && !spec.append_only && !force_append_only && op_column.is_none() {
            return Err(refuse_retractions(spec.name));
        }
        if spec.format == Format::Upsert && spec.primary_key.is_empty() {
            let message =
                format!("sink \"{}\" is upsert but no key could be derived from the query", spec.name);
            return Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message)
                .with_hint("Name the key columns with primary_key = '…' in WITH."));
        }
        if let Some(name) = &op_column
            && spec.schema.field_with_name(name).is_ok()
        {
            let message = format!("sink \"{}\" has a column \"{name}\" already", spec.name);
            return Err(ConnectorError::fatal(SqlState::DUPLICATE_COLUMN, message)
                .with_hint("Choose another name for op_column."));
        }
        Ok(Changelog {
            sink: spec.name.to_string(),
            format: spec.format,
            primary_key: spec.primary_key.to_vec(),
            force_append_only,
            op_column,
        })
    }

    /// The changes of a batch, in an order in which they can be applied.
    pub fn entries(&self, batch: &SinkBatch) -> Result<Vec<Entry>, ConnectorError> {
        let weights = batch.delta.weights().values();
        let repeated = |row_idx: u32, weight: i64| (0..weight.unsigned_abs()).map(move |_| row_idx);
        let all = || weights.iter().enumerate().map(|(row_idx, weight)| (row_idx as u32, *weight));
        let removed: Vec<u32> = all().filter(|(_, w)| *w < 0).flat_map(|(idx, w)| repeated(idx, w)).collect();
        let added: Vec<u32> = all().filter(|(_, w)| *w > 0).flat_map(|(idx, w)| repeated(idx, w)).collect();
        let inserts = added.iter().map(|idx| Entry { before: None, after: Some(*idx) });
        let deletes = removed.iter().map(|idx| Entry { before: Some(*idx), after: None });
        match self.format {
            Format::Plain if self.op_column.is_some() => Ok(deletes.chain(inserts).collect()),
            Format::Plain if removed.is_empty() || self.force_append_only => Ok(inserts.collect()),
            Format::Plain => Err(refuse_retractions(&self.sink)),
            Format::Debezium if self.primary_key.is_empty() => Ok(deletes.chain(inserts).collect()),
            Format::Upsert | Format::Debezium => self.paired(&batch.delta, &removed, &added),
        }
    }

    /// Ties the removed and the added row of a key together as an update.
    fn paired(&self, delta: &Delta, removed: &[u32], added: &[u32]) -> Result<Vec<Entry>, ConnectorError> {
        let columns: Vec<ArrayRef> =
            self.primary_key.iter().map(|idx| delta.batch().column(*idx).clone()).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let keys = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&columns));
        let keys = keys.map_err(|error| self.failed(&error))?;
        let key = |row_idx: u32| keys.row(row_idx as usize).data().to_vec();
        let mut removed_by_key: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
        for row_idx in removed {
            removed_by_key.entry(key(*row_idx)).or_default().push(*row_idx);
        }
        let mut replaced = HashSet::new();
        let mut updates = Vec::with_capacity(added.len());
        for row_idx in added {
            let before = removed_by_key.get_mut(&key(*row_idx)).and_then(Vec::pop);
            replaced.extend(before);
            updates.push(Entry { before, after: Some(*row_idx) });
        }
        let left = removed.iter().filter(|row_idx| !replaced.contains(*row_idx));
        let deletes = left.map(|idx| Entry { before: Some(*idx), after: None });
        Ok(deletes.chain(updates).collect())
    }

    /// The schema of [`rows`](Changelog::rows).
    pub fn schema(&self, rows: &SchemaRef) -> SchemaRef {
        match (self.format, &self.op_column) {
            (Format::Debezium, _) => Arc::new(Schema::new(envelope(rows.fields()))),
            (_, Some(op_column)) => {
                let mut fields: Vec<Arc<Field>> =
                    vec![Arc::new(Field::new(op_column, DataType::Utf8, false))];
                fields.extend(rows.fields().iter().cloned());
                Arc::new(Schema::new(fields))
            }
            (_, None) => rows.clone(),
        }
    }

    /// Entries as rows: of the relation, with the operation before them, or as envelopes.
    pub fn rows(&self, batch: &SinkBatch, entries: &[Entry]) -> Result<RecordBatch, ConnectorError> {
        let rows = batch.delta.rows();
        let made = match (self.format, &self.op_column) {
            (Format::Debezium, _) => self.envelopes(batch, &rows, entries),
            (_, Some(_)) => self.rows_with_op(&rows, entries),
            (_, None) => {
                take_record_batch(&rows, &UInt32Array::from_iter(entries.iter().map(|entry| entry.after)))
            }
        };
        made.map_err(|error| self.failed(&error))
    }

    fn rows_with_op(&self, rows: &RecordBatch, entries: &[Entry]) -> Result<RecordBatch, ArrowError> {
        let places = UInt32Array::from_iter(entries.iter().map(|entry| entry.after.or(entry.before)));
        let taken = take_record_batch(rows, &places)?;
        let ops = entries.iter().map(|entry| if entry.after.is_some() { "insert" } else { "delete" });
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(ops))];
        columns.extend(taken.columns().iter().cloned());
        RecordBatch::try_new(self.schema(rows.schema_ref()), columns)
    }

    /// `source.epoch` and not the time: an envelope is the same when it is written again.
    fn envelopes(
        &self,
        batch: &SinkBatch,
        rows: &RecordBatch,
        entries: &[Entry],
    ) -> Result<RecordBatch, ArrowError> {
        let nullable = nullable(rows.schema_ref().fields());
        let images = StructArray::try_new(nullable, rows.columns().to_vec(), None)?;
        let image = |place: fn(&Entry) -> Option<u32>| {
            take(&images, &UInt32Array::from_iter(entries.iter().map(place)), None)
        };
        let op = |entry: &Entry| match (entry.before, entry.after) {
            (None, _) => "c",
            (Some(_), Some(_)) => "u",
            (Some(_), None) => "d",
        };
        let n = entries.len();
        let source = StructArray::try_new(
            Fields::from(source_fields()),
            vec![
                Arc::new(StringArray::from_iter_values((0..n).map(|_| "tidemill"))),
                Arc::new(StringArray::from_iter_values((0..n).map(|_| &self.sink))),
                Arc::new(Int64Array::from_value(batch.to.0 as i64, n)),
            ],
            None,
        )?;
        let columns: Vec<ArrayRef> = vec![
            image(|entry| entry.before)?,
            image(|entry| entry.after)?,
            Arc::new(StringArray::from_iter_values(entries.iter().map(op))),
            Arc::new(source),
        ];
        RecordBatch::try_new(self.schema(rows.schema_ref()), columns)
    }

    /// The error of rows that cannot be written as asked.
    pub fn failed(&self, error: &dyn std::fmt::Display) -> ConnectorError {
        let message = format!("cannot encode a change for sink \"{}\": {error}", self.sink);
        ConnectorError::fatal(SqlState::DATA_EXCEPTION, message)
    }
}

fn refuse_retractions(sink: &str) -> ConnectorError {
    let message = format!("query of sink \"{sink}\" produces updates, but FORMAT PLAIN is append-only");
    ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(
        "Use FORMAT UPSERT or FORMAT DEBEZIUM, add EMIT ON WINDOW CLOSE to the query, \
         or drop the retractions with force_append_only = 'true'.",
    )
}

fn envelope(row: &Fields) -> Vec<Field> {
    vec![
        Field::new_struct("before", nullable(row), true),
        Field::new_struct("after", nullable(row), true),
        Field::new("op", DataType::Utf8, false),
        Field::new_struct("source", source_fields(), false),
    ]
}

/// Who wrote an envelope, and when in logical time.
fn source_fields() -> Vec<Field> {
    vec![
        Field::new("connector", DataType::Utf8, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("epoch", DataType::Int64, false),
    ]
}

/// The same fields with NULLs allowed: those of an image that is absent.
fn nullable(fields: &Fields) -> Fields {
    fields.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect()
}

/// Rows as JSON objects, one a line; NULLs are written.
pub fn json_lines(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(rows)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Rows as CSV records.
pub fn csv_lines(rows: &RecordBatch, options: &arrow_csv::WriterBuilder) -> Result<Vec<u8>, ArrowError> {
    let mut writer = options.clone().build(Vec::new());
    writer.write(rows)?;
    Ok(writer.into_inner())
}
