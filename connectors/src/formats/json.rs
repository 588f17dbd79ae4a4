//! JSON objects into columns.
//!
//! `arrow-json` decodes a whole batch of records onto one tape; one bad record spoils the batch
//! without saying which it was when a value has the wrong type. Then the batch is halved until the
//! bad records stand alone, which costs the good ones a few more decodings and nothing else.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow_json::ReaderBuilder;
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::records::{Decoded, Fault};
use crate::formats::text;
use crate::options::{option_enum, options};

option_enum! {
    /// What a number counts where a timestamp is declared.
    pub enum EpochUnit {
        Seconds = "s",
        Milliseconds = "ms",
        Microseconds = "us",
        Nanoseconds = "ns",
    }
}

options! {
    /// `ENCODE JSON (…)`
    pub struct JsonOptions {
        /// What a number counts since 1970 where the column is a timestamp: `s`, `ms`, `us` or `ns`.
        "timestamp_unit" => timestamp_unit: EpochUnit = "ms",
    }
}

impl EpochUnit {
    pub fn time_unit(self) -> TimeUnit {
        match self {
            EpochUnit::Seconds => TimeUnit::Second,
            EpochUnit::Milliseconds => TimeUnit::Millisecond,
            EpochUnit::Microseconds => TimeUnit::Microsecond,
            EpochUnit::Nanoseconds => TimeUnit::Nanosecond,
        }
    }
}

/// Columns as JSON has them, and what they are declared to be.
///
/// What JSON has no form of its own for (timestamps, intervals, bytes) is read as text first.
#[derive(Debug, Clone)]
pub struct JsonColumns {
    declared: Fields,
    epoch_unit: TimeUnit,
}

impl JsonColumns {
    pub fn new(declared: Fields, options: &JsonOptions) -> Result<JsonColumns, ConnectorError> {
        let columns = JsonColumns { declared, epoch_unit: options.timestamp_unit.time_unit() };
        // Both kinds of columns must be possible: asked now rather than at the first record.
        let as_text = columns.declared.iter().filter(|field| is_text(field.data_type()));
        if let Some(field) = as_text.into_iter().find(|field| !text::is_parsable(field.data_type())) {
            return Err(impossible(field, ""));
        }
        for field in &columns.raw() {
            let schema = Arc::new(Schema::new(vec![field.clone()]));
            if let Err(error) = ReaderBuilder::new(schema).build_decoder() {
                return Err(impossible(field, &format!(": {error}")));
            }
        }
        Ok(columns)
    }

    /// The fields to decode. All may be NULL: what must not is found later, by column.
    pub fn raw(&self) -> Fields {
        let raw = |field: &FieldRef| {
            let data_type =
                if is_text(field.data_type()) { DataType::Utf8 } else { nullable(field.data_type()) };
            Field::new(field.name(), data_type, true)
        };
        self.declared.iter().map(raw).collect()
    }

    /// The declared columns out of the raw ones.
    pub fn finish(&self, raw: &[ArrayRef], faults: &mut Vec<(usize, Fault)>) -> Vec<ArrayRef> {
        let column = |(field, raw): (&FieldRef, &ArrayRef)| {
            let data_type = field.data_type();
            if !is_text(data_type) {
                return restore(raw, data_type);
            }
            let texts = raw.as_string::<i32>();
            let texts = (0..texts.len()).map(|idx| texts.is_valid(idx).then(|| texts.value(idx).as_bytes()));
            match data_type {
                DataType::Timestamp(_, _) => {
                    text::parse_timestamps(field.name(), data_type, Some(self.epoch_unit), texts, faults)
                }
                _ => text::parse_column(field.name(), data_type, texts, faults),
            }
        };
        self.declared.iter().zip(raw).map(column).collect()
    }
}

/// Whether the column is decoded as text, and parsed afterwards.
fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(_, _)
            | DataType::Interval(_)
            | DataType::Duration(_)
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

/// A nested type of which all parts may be NULL, so that a missing part is no decoding error.
fn nullable(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Struct(fields) => {
            let field = |field: &FieldRef| Field::new(field.name(), nullable(field.data_type()), true);
            DataType::Struct(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

/// The raw column under its declared type, which differs in the NULLs of nested fields only.
fn restore(raw: &ArrayRef, data_type: &DataType) -> ArrayRef {
    if raw.data_type() == data_type {
        return raw.clone();
    }
    arrow::compute::cast(raw, data_type).unwrap_or_else(|_| raw.clone())
}

fn impossible(field: &Field, why: &str) -> ConnectorError {
    let message = format!("column \"{}\" cannot be of type {} in JSON{why}", field.name(), field.data_type());
    ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message)
}

/// Decodes values of raw fields; what cannot be decoded is bad.
#[derive(Debug, Clone)]
pub struct JsonReader {
    schema: SchemaRef,
}

/// Why a range of values could not be decoded together.
enum Failure {
    /// This value is not JSON.
    At(usize, Fault),
    /// Some value has the wrong type.
    Somewhere(Fault),
}

impl JsonReader {
    pub fn new(raw: Fields) -> JsonReader {
        JsonReader { schema: Arc::new(Schema::new(raw)) }
    }

    pub fn read(&self, values: &[&[u8]]) -> Decoded {
        let mut batches = Vec::new();
        let mut bad = Vec::new();
        self.read_range(values, 0..values.len(), &mut batches, &mut bad);
        bad.sort_by_key(|(idx, _)| *idx);
        let mut bad_idxs = bad.iter().map(|(idx, _)| *idx).peekable();
        let rows = (0..values.len()).filter(|idx| bad_idxs.next_if_eq(idx).is_none()).collect();
        let batch = match &batches[..] {
            [only] => only.clone(),
            _ => arrow::compute::concat_batches(&self.schema, &batches).expect("the batches have one schema"),
        };
        Decoded { columns: batch.columns().to_vec(), rows, bad }
    }

    fn read_range(
        &self,
        values: &[&[u8]],
        mut range: Range<usize>,
        batches: &mut Vec<RecordBatch>,
        bad: &mut Vec<(usize, Fault)>,
    ) {
        while !range.is_empty() {
            match self.try_read(values, range.clone()) {
                Ok(batch) => {
                    batches.push(batch);
                    return;
                }
                Err(Failure::At(idx, fault)) => {
                    bad.push((idx, fault));
                    self.read_range(values, range.start..idx, batches, bad);
                    range.start = idx + 1;
                }
                Err(Failure::Somewhere(fault)) if range.len() == 1 => {
                    bad.push((range.start, fault));
                    return;
                }
                Err(Failure::Somewhere(_)) => {
                    let middle = range.start + range.len() / 2;
                    self.read_range(values, range.start..middle, batches, bad);
                    range.start = middle;
                }
            }
        }
    }

    fn try_read(&self, values: &[&[u8]], range: Range<usize>) -> Result<RecordBatch, Failure> {
        let fault = |error: ArrowError| {
            let text = error.to_string();
            let reason = text.strip_prefix("Json error: ").unwrap_or(&text).to_string();
            Fault::new(SqlState::INVALID_TEXT, reason)
        };
        let mut decoder = ReaderBuilder::new(self.schema.clone())
            .with_batch_size(range.len())
            .with_coerce_primitive(true)
            .build_decoder()
            .map_err(|error| Failure::Somewhere(fault(error)))?;
        for idx in range.clone() {
            let n_before = decoder.len();
            let n_bytes = decoder.decode(values[idx]).map_err(|error| Failure::At(idx, fault(error)))?;
            let is_one = decoder.len() == n_before + 1 && !decoder.has_partial_record();
            // The decoder stops at the batch size, which the last value reaches.
            let is_all = values[idx][n_bytes..].trim_ascii().is_empty();
            if !is_one || !is_all {
                let what = if values[idx].trim_ascii().is_empty() {
                    "the record is empty".to_string()
                } else if decoder.has_partial_record() {
                    "the record ends within a JSON value".to_string()
                } else {
                    "the record is more than one JSON value".to_string()
                };
                return Err(Failure::At(idx, Fault::new(SqlState::INVALID_TEXT, what)));
            }
        }
        match decoder.flush() {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => {
                unreachable!("there is one row for each value of a range that is not empty")
            }
            Err(error) => Err(Failure::Somewhere(fault(error))),
        }
    }
}

/// Turns JSON objects into declared columns.
#[derive(Debug, Clone)]
pub struct JsonDecoder {
    reader: JsonReader,
    columns: JsonColumns,
}

impl JsonDecoder {
    pub fn new(options: &JsonOptions, declared: Fields) -> Result<JsonDecoder, ConnectorError> {
        let columns = JsonColumns::new(declared, options)?;
        Ok(JsonDecoder { reader: JsonReader::new(columns.raw()), columns })
    }

    pub fn decode(&self, values: &[&[u8]]) -> Decoded {
        let mut decoded = self.reader.read(values);
        let mut faults = Vec::new();
        decoded.columns = self.columns.finish(&decoded.columns, &mut faults);
        decoded.remove(faults);
        decoded
    }
}
