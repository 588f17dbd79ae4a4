//! Records that did not make it, as a table: `tm_dead_letters`.
//!
//! The key is where a record was met, so that one that is read again after a crash stands there once.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_plan::RelationId;
use tokio::sync::oneshot;

use crate::Error;
use crate::source::DeadLetter;
use crate::table::{OnConflict, TableSpec, TableWrite, Written};

/// The table's identity: below the first that users get.
pub const DEAD_LETTERS: RelationId = RelationId(1000);

/// What dataflows say of rows that came too late for them.
pub(crate) enum LateLetters {
    Met(Vec<DeadLetter>),
    /// Somebody waits until all that came before is in the table.
    Written(oneshot::Sender<Result<Vec<Written>, Error>>),
}

/// `object, stage, split, offset, raw, sqlstate, reason`
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("object"),
        text("stage"),
        text("split"),
        text("offset"),
        Field::new("raw", DataType::Binary, true),
        text("sqlstate"),
        text("reason"),
    ]))
}

pub(crate) fn table() -> TableSpec {
    TableSpec {
        id: DEAD_LETTERS,
        name: "tm_dead_letters".into(),
        schema: schema(),
        primary_key: vec![0, 1, 2, 3],
        indexes: Vec::new(),
    }
}

/// The rows to insert.
pub(crate) fn write(dead_letters: &[&DeadLetter]) -> TableWrite {
    let text = |value: fn(&DeadLetter) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(dead_letters.iter().map(|letter| value(letter))))
    };
    let columns: Vec<ArrayRef> = vec![
        text(|letter| &letter.object),
        text(|letter| letter.stage),
        text(|letter| &letter.split),
        text(|letter| &letter.offset),
        Arc::new(BinaryArray::from_iter_values(dead_letters.iter().map(|letter| &letter.raw))),
        text(|letter| letter.sqlstate.0),
        text(|letter| &letter.reason),
    ];
    let rows = RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema");
    TableWrite::Insert { rows, on_conflict: OnConflict::Nothing }
}
