//! Reading a Parquet file. Offsets count rows.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, NullArray, RecordBatch, RecordBatchReader};
use arrow::compute::{can_cast_types, cast_with_options, concat_batches};
use arrow::datatypes::{Field, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use tidemill_core::source::{BadRecord, ConnectorError, Offset, SourceBatch};
use tidemill_core::{SqlState, did_you_mean};

use crate::file::io_error;
use crate::file::source::{Cursor, ReadOut};
use crate::formats::Decoder;
use crate::formats::changelog::json_lines;
use crate::formats::records::{Decoded, Fault, Record, Records};
use crate::formats::text::SAFE_CAST;

/// What there is to know for reading the files of a source.
#[derive(Debug, Clone)]
pub struct ParquetConfig {
    pub decoder: Decoder,
    /// The declared columns that are in the file.
    pub columns: Vec<Field>,
    pub batch_rows: usize,
}

/// Reads one file.
pub struct ParquetCursor {
    config: ParquetConfig,
    path: String,
    schema: SchemaRef,
    /// Opened when the first row is wanted: by then it is known who reads what.
    reader: Option<ParquetRecordBatchReader>,
    /// For each declared column its place in the file.
    places: Vec<usize>,
    /// Declared columns of which no values are made: nobody reads them, and there is none that could be bad.
    left_out: Vec<usize>,
    position: u64,
    /// Rows behind `position` that have been read already.
    rest: Option<RecordBatch>,
}

impl ParquetCursor {
    pub fn open(config: ParquetConfig, path: &str, from: u64) -> Result<ParquetCursor, ConnectorError> {
        let builder = open(path)?;
        let places = find_columns(&config.columns, builder.schema(), path)?;
        let n_rows = builder.metadata().file_metadata().num_rows() as u64;
        if from > n_rows {
            let message = format!("file \"{path}\" has {n_rows} rows, but {from} have been read of it");
            return Err(ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
                .with_hint("Files of a source must not change. Give new content a new name."));
        }
        Ok(ParquetCursor {
            config,
            path: path.to_string(),
            schema: builder.schema().clone(),
            reader: None,
            places,
            left_out: Vec::new(),
            position: from,
            rest: None,
        })
    }

    /// A reader of the columns that are not left out, in the order of the file, from `position` on.
    fn reader(&self, left_out: &[usize]) -> Result<ParquetRecordBatchReader, ConnectorError> {
        let builder = open(&self.path)?;
        let made = self.places.iter().enumerate().filter(|(idx, _)| !left_out.contains(idx));
        let mask = ProjectionMask::roots(builder.parquet_schema(), made.map(|(_, place)| *place));
        let reader = builder
            .with_projection(mask)
            .with_batch_size(self.config.batch_rows)
            .with_offset(self.position as usize)
            .build();
        reader.map_err(|error| corrupted(&self.path, &error))
    }

    /// The next rows, with what was left out of them.
    fn whole(&self, n_rows: usize) -> Result<RecordBatch, ConnectorError> {
        let mut batches = Vec::new();
        let mut n_read = 0;
        let mut reader = self.reader(&[])?;
        while n_read < n_rows
            && let Some(batch) = reader.next()
        {
            let batch = batch.map_err(|error| corrupted(&self.path, &error))?;
            n_read += batch.num_rows();
            batches.push(batch);
        }
        let batch = concat_batches(&reader.schema(), &batches);
        Ok(batch.map_err(|error| corrupted(&self.path, &error))?.slice(0, n_rows))
    }

    fn decode(&self, batch: &RecordBatch) -> Result<SourceBatch, ConnectorError> {
        let mut faults = Vec::new();
        let columns = self.config.columns.iter().enumerate().map(|(idx, field)| -> ArrayRef {
            if self.left_out.contains(&idx) {
                return Arc::new(NullArray::new(batch.num_rows()));
            }
            // A projection keeps the order of the file.
            let is_before = |(other, place): (usize, &usize)| {
                *place < self.places[idx] && !self.left_out.contains(&other)
            };
            let column = batch.column(self.places.iter().enumerate().filter(|each| is_before(*each)).count());
            let cast =
                cast_with_options(column, field.data_type(), &SAFE_CAST).expect("find_columns has asked");
            if cast.null_count() > column.null_count() {
                for row_idx in (0..cast.len()).filter(|idx| cast.is_null(*idx) && column.is_valid(*idx)) {
                    let reason =
                        format!("column \"{}\": the value does not fit {}", field.name(), field.data_type());
                    faults.push((row_idx, Fault::new(SqlState::NUMERIC_OUT_OF_RANGE, reason)));
                }
            }
            cast
        });
        let columns = columns.collect();
        let mut decoded = Decoded { columns, rows: (0..batch.num_rows()).collect(), bad: Vec::new() };
        decoded.remove(faults);

        let record =
            |row_idx: usize| Record { offset: self.position as i64 + row_idx as i64, ..Record::default() };
        let records: Vec<Record> = (0..batch.num_rows()).map(record).collect();
        let records = Records { records: &records, file: Some(&self.path), ..Records::default() };
        let (changes, bad) = self.config.decoder.finish(decoded, &records);
        // What is kept of a bad row is all of it.
        let whole = match bad.is_empty() || self.left_out.is_empty() {
            true => batch.clone(),
            false => self.whole(batch.num_rows())?,
        };
        let bad = bad.into_iter().map(|(row_idx, fault)| BadRecord {
            offset: Offset::from(self.position + row_idx as u64),
            raw: json_lines(&whole.slice(row_idx, 1)).unwrap_or_default(),
            sqlstate: fault.sqlstate,
            reason: fault.reason,
        });
        Ok(SourceBatch {
            changes,
            next: Offset::from(self.position + batch.num_rows() as u64),
            bad: bad.collect(),
            n_bytes: batch.get_array_memory_size(),
        })
    }
}

impl Cursor for ParquetCursor {
    fn position(&self) -> u64 {
        self.position
    }

    fn rewind(&mut self, to: u64) -> Result<(), ConnectorError> {
        let left_out = std::mem::take(&mut self.left_out);
        *self = ParquetCursor { left_out, ..ParquetCursor::open(self.config.clone(), &self.path, to)? };
        Ok(())
    }

    fn read_only(&mut self, columns: &BTreeSet<usize>) {
        let is_always_good = |idx: &usize| {
            let (declared, natural) = (&self.config.columns[*idx], self.schema.field(self.places[*idx]));
            declared.data_type() == natural.data_type() && (declared.is_nullable() || !natural.is_nullable())
        };
        self.left_out = self.config.decoder.left_out(columns).into_iter().filter(is_always_good).collect();
    }

    fn read(&mut self, until: Option<u64>) -> Result<ReadOut, ConnectorError> {
        let n_wanted = until.map_or(u64::MAX, |until| until.saturating_sub(self.position));
        if n_wanted == 0 {
            return Ok(ReadOut::End);
        }
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => {
                let reader = match &mut self.reader {
                    Some(reader) => reader,
                    None => {
                        let reader = self.reader(&self.left_out)?;
                        self.reader.insert(reader)
                    }
                };
                match reader.next() {
                    None => return Ok(ReadOut::End),
                    Some(batch) => batch.map_err(|error| corrupted(&self.path, &error))?,
                }
            }
        };
        let n_rows = (batch.num_rows() as u64).min(n_wanted) as usize;
        if n_rows < batch.num_rows() {
            self.rest = Some(batch.slice(n_rows, batch.num_rows() - n_rows));
        }
        let decoded = self.decode(&batch.slice(0, n_rows))?;
        self.position += n_rows as u64;
        Ok(ReadOut::Batch(decoded))
    }
}

/// The columns that the file has.
pub fn schema(path: &str) -> Result<SchemaRef, ConnectorError> {
    Ok(open(path)?.schema().clone())
}

/// Whether the file has the declared columns, in types that can become theirs.
pub fn check(columns: &[Field], path: &str) -> Result<(), ConnectorError> {
    find_columns(columns, open(path)?.schema(), path).map(drop)
}

fn open(path: &str) -> Result<ParquetRecordBatchReaderBuilder<File>, ConnectorError> {
    let file = File::open(path).map_err(|error| io_error("open", path, &error))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| corrupted(path, &error))
}

fn find_columns(columns: &[Field], schema: &SchemaRef, path: &str) -> Result<Vec<usize>, ConnectorError> {
    let place = |column: &Field| {
        let Ok(place) = schema.index_of(column.name()) else {
            let message = format!("file \"{path}\" has no column \"{}\"", column.name());
            let error = ConnectorError::fatal(SqlState::UNDEFINED_COLUMN, message);
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(match did_you_mean(column.name(), names.iter().copied()) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => error.with_hint(format!("Its columns are: {}.", names.join(", "))),
            });
        };
        let natural = schema.field(place).data_type();
        if !can_cast_types(natural, column.data_type()) {
            let (name, declared) = (column.name(), column.data_type());
            let message =
                format!("column \"{name}\" of file \"{path}\" is {natural}, which cannot become {declared}");
            return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message));
        }
        Ok(place)
    };
    columns.iter().map(place).collect()
}

fn corrupted(path: &str, error: &dyn std::fmt::Display) -> ConnectorError {
    ConnectorError::fatal(
        SqlState::DATA_CORRUPTED,
        format!("file \"{path}\" is not readable as Parquet: {error}"),
    )
}
