//! Records that did not make it, as a table: `tm_dead_letters`.
//!
//! The key is where a record was met, so that one that is read again after a crash stands there once.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use tidemill_core::Diagnostic;
use tidemill_core::sink::{Refusals, Refused};
use tidemill_core::source::ConnectorError;
use tidemill_plan::RelationId;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::name::Name;
use crate::outbox::DeliveryStatus;
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

/// Rows that the destination of a sink refuses, on their way into the table.
pub(crate) struct RefusedRows {
    pub sink: Name,
    pub status: Arc<DeliveryStatus>,
    pub letters: mpsc::UnboundedSender<LateLetters>,
}

#[async_trait]
impl Refusals for RefusedRows {
    async fn keep(&self, refused: Vec<Refused>) -> Result<(), ConnectorError> {
        let n_rows = refused.len();
        let letter = |refused: Refused| DeadLetter {
            object: self.sink.to_string(),
            stage: "sink",
            split: String::new(),
            offset: format!("{}/{}", refused.to, refused.place),
            raw: shown_rows(&refused.row).pop().unwrap_or_default().into_bytes(),
            sqlstate: refused.error.sqlstate,
            reason: refused.error.to_string(),
        };
        let letters = refused.into_iter().map(letter).collect();
        let (answer, written) = oneshot::channel();
        let sent = self.letters.send(LateLetters::Met(letters));
        let sent = sent.and_then(|()| self.letters.send(LateLetters::Written(answer)));
        let written = match sent {
            Ok(()) => written.await.map_err(|_| Error::ShuttingDown),
            Err(_) => Err(Error::ShuttingDown),
        };
        match written.flatten() {
            Ok(_) => {
                self.status.refused.add(n_rows);
                Ok(())
            }
            Err(error) => Err(ConnectorError::transient(
                error.sqlstate(),
                format!("rows that the destination refuses cannot be kept: {error}"),
            )),
        }
    }
}

/// Rows as dead letters show them: their values, with commas between.
pub(crate) fn shown_rows(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let formatters = rows.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
    let columns: Vec<ArrayFormatter> = formatters.filter_map(Result::ok).collect();
    let shown =
        |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(",");
    (0..rows.num_rows()).map(shown).collect()
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
