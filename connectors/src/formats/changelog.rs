//! Changes as the outside writes them: what `FORMAT` and `ENCODE` of a sink mean.
//!
//! A delta becomes *entries* first, each with the row before, after, or both; then entries become
//! rows of some shape, and rows become bytes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, StructArray, UInt32Array, new_null_array,
};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use tidemill_core::sink::SinkBatch;
use tidemill_core::source::ConnectorError;
use tidemill_core::{Delta, SqlState};

use crate::spec::{Format, SinkSpec};

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
        if spec.format == Format::Plain
            && !spec.append_only
            && !force_append_only
            && op_column.is_none()
        {
            return Err(refuse_retractions(spec.name));
        }
        if spec.format == Format::Upsert && spec.primary_key.is_empty() {
            let message = format!(
                "sink \"{}\" is upsert but no key could be derived from the query",
                spec.name
            );
            return Err(
                ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message)
                    .with_hint("Name the key columns with primary_key = '…' in WITH."),
            );
        }
        if let Some(name) = &op_column {
            if spec.schema.field_with_name(name).is_ok() {
                let message = format!("sink \"{}\" has a column \"{name}\" already", spec.name);
                return Err(ConnectorError::fatal(SqlState::DUPLICATE_COLUMN, message)
                    .with_hint("Choose another name for op_column."));
            }
        }
        Ok(Changelog {
            sink: spec.name.to_string(),
            format: spec.format,
            primary_key: spec.primary_key.to_vec(),
            force_append_only,
            op_column,
        })
    }

