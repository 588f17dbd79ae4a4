//! Reading a Parquet file. Offsets count rows.

use std::fs::File;

use arrow::array::{Array, RecordBatch};
use arrow::compute::{can_cast_types, cast_with_options};
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
    reader: ParquetRecordBatchReader,
    /// For each declared column its place in the batches.
    places: Vec<usize>,
    position: u64,
    /// Rows behind `position` that have been read already.
    rest: Option<RecordBatch>,
}

impl ParquetCursor {
    pub fn open(config: ParquetConfig, path: &str, from: u64) -> Result<ParquetCursor, ConnectorError> {
        let builder = open(path)?;
        let places = find_columns(&config.columns, builder.schema(), path)?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), places.iter().copied());
        let n_rows = builder.metadata().file_metadata().num_rows() as u64;
        if from > n_rows {
            let message = format!("file \"{path}\" has {n_rows} rows, but {from} have been read of it");
            return Err(ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
                .with_hint("Files of a source must not change. Give new content a new name."));
        }
        let reader = builder
            .with_projection(mask)
            .with_batch_size(config.batch_rows)
            .with_offset(from as usize)
            .build()
            .map_err(|error| corrupted(path, &error))?;
        // A projection keeps the order of the file.
        let projected = |place: &usize| places.iter().filter(|other| *other < place).count();
        let places = places.iter().map(projected).collect();
        Ok(ParquetCursor { config, path: path.to_string(), reader, places, position: from, rest: None })
    }

    fn decode(&self, batch: &RecordBatch) -> SourceBatch {
        let mut faults = Vec::new();
        let column = |(field, place): (&Field, &usize)| {
            let column = batch.column(*place);
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
        };
        let columns = self.config.columns.iter().zip(&self.places).map(column).collect();
        let mut decoded = Decoded { columns, rows: (0..batch.num_rows()).collect(), bad: Vec::new() };
        decoded.remove(faults);

        let record =
            |row_idx: usize| Record { offset: self.position as i64 + row_idx as i64, ..Record::default() };
        let records: Vec<Record> = (0..batch.num_rows()).map(record).collect();
        let records = Records { records: &records, file: Some(&self.path), ..Records::default() };
        let (changes, bad) = self.config.decoder.finish(decoded, &records);
        let bad = bad.into_iter().map(|(row_idx, fault)| BadRecord {
            offset: Offset::from(self.position + row_idx as u64),
            raw: json_lines(&batch.slice(row_idx, 1)).unwrap_or_default(),
            sqlstate: fault.sqlstate,
            reason: fault.reason,
        });
        SourceBatch {
            changes,
            next: Offset::from(self.position + batch.num_rows() as u64),
            bad: bad.collect(),
            n_bytes: batch.get_array_memory_size(),
        }
    }
}

impl Cursor for ParquetCursor {
    fn position(&self) -> u64 {
        self.position
    }

    fn rewind(&mut self, to: u64) -> Result<(), ConnectorError> {
        *self = ParquetCursor::open(self.config.clone(), &self.path, to)?;
        Ok(())
    }

    fn read(&mut self, until: Option<u64>) -> Result<ReadOut, ConnectorError> {
        let n_wanted = until.map_or(u64::MAX, |until| until.saturating_sub(self.position));
        if n_wanted == 0 {
            return Ok(ReadOut::End);
        }
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.reader.next() {
                None => return Ok(ReadOut::End),
                Some(batch) => batch.map_err(|error| corrupted(&self.path, &error))?,
            },
        };
        let n_rows = (batch.num_rows() as u64).min(n_wanted) as usize;
        if n_rows < batch.num_rows() {
            self.rest = Some(batch.slice(n_rows, batch.num_rows() - n_rows));
        }
        let decoded = self.decode(&batch.slice(0, n_rows));
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
