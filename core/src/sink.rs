//! The border to what we send data to.
//!
//! *Exactly once* takes three: the engine hands a batch to the writer only when a checkpoint holds it, so that
//! after a crash it has the same batch, under the same epochs, once more; the writer makes rows and the
//! batch's epoch visible in one step, at the destination; and the destination says how far it has come when
//! a writer is opened, so that only what follows is written. Whoever has died in the middle of a write
//! need not be asked.

use std::fmt;

use async_trait::async_trait;

use crate::delta::Delta;
use crate::diagnostic::SqlState;
use crate::epoch::Epoch;
use crate::source::ConnectorError;

/// When a sink's output may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as it is computed. After a crash, what followed the last checkpoint is sent again.
    AtLeastOnce,
    /// After the checkpoint that covers it is durable. After a crash the same batch is written
    /// again under the same epochs, unless the destination says that it has it; a destination that
    /// cannot say so makes that harmless.
    ExactlyOnce,
}

/// The change of the sink's relation over the epochs `from < epoch <= to`. Of a relation that never
/// retracts: its new rows, in the order in which they came. Of others, consolidated: no row stands in it twice, no weight is
/// zero, and the retractions come before the insertions.
#[derive(Debug, Clone)]
pub struct SinkBatch {
    pub from: Epoch,
    pub to: Epoch,
    pub delta: Delta,
}

/// Something to write rows to, as configured by `CREATE SINK … WITH (…)`.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug {
    fn delivery(&self) -> Delivery;

    /// Reaches out, and says what is wrong there. Nothing is written.
    async fn validate(&self) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// A writer; there is one at a time, and one that is opened keeps earlier ones from writing on, where the
    /// destination can do that.
    ///
    /// `known` is the last epoch that any writer can have written, as far as the caller knows. A destination
    /// that has more is [`check_reached`]'s error, and whoever writes there is left alone.
    async fn open(&self, known: Epoch) -> Result<Box<dyn SinkWriter>, ConnectorError>;
}

/// Writes batches in the order of their epochs.
#[async_trait]
pub trait SinkWriter: Send {
    /// The epoch up to which the destination had everything when the writer was opened: what ends there or
    /// before must not be written again. Zero where the destination does not say.
    fn reached(&self) -> Epoch {
        Epoch::ZERO
    }

    /// Takes a batch. It need not have arrived before [`flush`](SinkWriter::flush) returns.
    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError>;

    /// Waits until all that was written is durable at the destination. Of a writer that delivers exactly
    /// once, all of it becomes visible together, or nothing. A call that is dropped may be made again.
    async fn flush(&mut self) -> Result<(), ConnectorError>;
}

/// Refuses to go on at a destination that has more than this database can have written.
pub fn check_reached(destination: &str, reached: Epoch, known: Epoch) -> Result<(), ConnectorError> {
    if reached <= known {
        return Ok(());
    }
    let message =
        format!("{destination} has this sink's epoch {reached}, but this server wrote no more than {known}");
    Err(ConnectorError::fatal(SqlState::NOT_IN_PREREQUISITE_STATE, message).with_hint(
        "Another server writes for this sink, or this one runs on an older copy of its data directory. \
         Nothing is written, so that nothing is doubled. To begin anew, drop the sink and create it again.",
    ))
}
