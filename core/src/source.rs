//! The border to what sends us data: a [`Source`] has splits, a [`SplitReader`] reads one.
//!
//! Readers hand over decoded rows: bytes, formats and client libraries stay in the connector.
//! What could not be decoded travels beside the rows as [`BadRecord`]s, so that a bad record
//! neither stops the stream nor disappears.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::delta::Delta;
use crate::diagnostic::SqlState;

/// A readable part of a source: a Kafka partition, a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SplitId(pub Arc<str>);

/// Where to resume a split: the position of the first record that has not been read.
///
/// Only its connector knows what it says. Two offsets of one split are the same position exactly
/// when they are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub Arc<str>);

/// One offset per split of a source.
pub type Offsets = BTreeMap<SplitId, Offset>;

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for SplitId {
    fn from(id: &str) -> SplitId {
        SplitId(id.into())
    }
}

impl From<u64> for Offset {
    fn from(position: u64) -> Offset {
        Offset(position.to_string().into())
    }
}

/// Rows as the outside wrote them.
#[derive(Debug, Clone)]
pub enum Changes {
    /// Each row is new.
    Append(RecordBatch),
    /// The rows carry their weights (a changelog with before and after images).
    Delta(Delta),
    /// Each row replaces the one with the same primary key, or deletes it where `deleted` is true
    /// (then only the key columns mean something). The last one of a key wins.
    Upsert { rows: RecordBatch, deleted: BooleanArray },
}

impl Changes {
    /// The number of rows.
    pub fn len(&self) -> usize {
        match self {
            Changes::Append(rows) | Changes::Upsert { rows, .. } => rows.num_rows(),
            Changes::Delta(delta) => delta.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A record that could not become a row.
#[derive(Debug, Clone)]
pub struct BadRecord {
    /// Where the record stands in its split.
    pub offset: Offset,
    /// The record as it came.
    pub raw: Vec<u8>,
    pub sqlstate: SqlState,
    /// Why, naming the column where one is at fault.
    pub reason: String,
}

/// What one read gave.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    pub changes: Changes,
    /// Behind the last record of this batch, good or bad.
    pub next: Offset,
    pub bad: Vec<BadRecord>,
    /// Bytes of the records as they came, for the metrics.
    pub n_bytes: usize,
}

/// A split as discovery finds it.
#[derive(Debug, Clone)]
pub struct Split {
    pub id: SplitId,
    /// Where a reader begins that has never read this split, by the source's start options.
    pub start: Offset,
}

/// Something with rows to read, as configured by `CREATE SOURCE … WITH (…)`.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// The splits that exist now. Asked again from time to time: new ones may appear, and one that
    /// has been read stays readable under its id for as long as the outside keeps it.
    async fn splits(&self) -> Result<Vec<Split>, ConnectorError>;

    /// Whether every split ends, and no new ones appear once all have been read.
    fn is_bounded(&self) -> bool;

    /// About how many records lie between two offsets of a split, where the offsets alone tell. People see
    /// it as the length of a job.
    fn n_records(&self, _split: &SplitId, _from: &Offset, _to: &Offset) -> Option<u64> {
        None
    }

    /// Whether its readers leave out what nobody reads ([`SplitReader::read_only`]).
    fn leaves_out_columns(&self) -> bool {
        false
    }

    /// A reader of one split that begins at `from`.
    async fn open(&self, split: &SplitId, from: &Offset) -> Result<Box<dyn SplitReader>, ConnectorError>;
}

/// Reads one split, in order.
#[async_trait]
pub trait SplitReader: Send {
    /// Waits for rows and gives all that are at hand, up to some thousands. `None` says that the
    /// split has ended, or that `until` has been reached.
    ///
    /// Never reads past `until`; a reader that is opened again at a batch's `next` goes on exactly
    /// behind that batch. Cancel-safe: a call that is dropped has consumed nothing.
    async fn next(&mut self, until: Option<&Offset>) -> Result<Option<SourceBatch>, ConnectorError>;

    /// Says before the first [`next`](SplitReader::next) that nobody reads other columns than these. In place of
    /// another, of which it need not make values, the reader may then put an array of type Null ([`partial_schema`]).
    /// Which records are bad must not depend on it.
    fn read_only(&mut self, _columns: &BTreeSet<usize>) {}
}

/// The schema of a batch of which some columns were left out: `schema`, with the type Null in their places.
pub fn partial_schema(schema: &SchemaRef, columns: &[ArrayRef]) -> SchemaRef {
    let is_left_out = |column: &ArrayRef| column.data_type() == &DataType::Null;
    if !columns.iter().any(is_left_out) {
        return schema.clone();
    }
    let field = |(field, column): (&Arc<Field>, &ArrayRef)| match is_left_out(column) {
        true => Arc::new(Field::new(field.name(), DataType::Null, true)),
        false => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().zip(columns).map(field).collect::<Vec<_>>()))
}

/// What a connector says when the outside does not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ConnectorError {
    pub sqlstate: SqlState,
    /// Names the connector's object: path, topic, broker.
    pub message: String,
    pub hint: Option<String>,
    /// Whether trying again later may help.
    pub transient: bool,
}

impl ConnectorError {
    /// An error that will not go away by itself.
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> ConnectorError {
        ConnectorError { sqlstate, message: message.into(), hint: None, transient: false }
    }

    /// An error of the moment: the broker is away, the disk is full.
    pub fn transient(sqlstate: SqlState, message: impl Into<String>) -> ConnectorError {
        ConnectorError { sqlstate, message: message.into(), hint: None, transient: true }
    }

    /// With advice, in whole sentences.
    pub fn with_hint(mut self, hint: impl Into<String>) -> ConnectorError {
        self.hint = Some(hint.into());
        self
    }
}

impl crate::Diagnostic for ConnectorError {
    fn sqlstate(&self) -> SqlState {
        self.sqlstate
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
