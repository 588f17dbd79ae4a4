//! The border to what we send data to.
//!
//! *Exactly once* takes three: the engine hands a batch to the writer only when a checkpoint holds it, so that
//! after a crash it has the same batch, under the same epochs, once more; the writer makes rows and the
//! batch's epoch visible in one step, at the destination; and the destination says how far it has come when
//! a writer is opened, so that only what follows is written. Whoever has died in the middle of a write
//! need not be asked.
//!
//! That the destination is the one that was written to is checked at the same time: it can have no less than what it has once
//! acknowledged, and no more than what a writer was allowed to write.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
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

/// What a destination can have of a sink, as far as the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Up to here it has said that it has everything.
    pub surely: Epoch,
    /// Behind this no writer can have written.
    pub perhaps: Epoch,
}

impl Written {
    pub fn perhaps_to(epoch: Epoch) -> Written {
        Written { surely: Epoch::ZERO, perhaps: epoch }
    }
}

/// What to do about an error that trying again does not mend. What is of the moment is always tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Try again all the same: somebody may mend what is wrong.
    #[default]
    Retry,
    /// Stand still until somebody says to go on.
    Pause,
    /// Leave out the rows that the destination refuses; try again where it is not for a row.
    DeadLetter,
}

impl OnError {
    pub const NAMES: [&str; 3] = ["retry", "pause", "dead_letter"];

    pub fn from_name(name: &str) -> Option<OnError> {
        match name {
            "retry" => Some(OnError::Retry),
            "pause" => Some(OnError::Pause),
            "dead_letter" => Some(OnError::DeadLetter),
            _ => None,
        }
    }
}

/// A row that the destination does not take, whatever is written beside it.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Where its batch ends.
    pub to: Epoch,
    /// Its place in the batch.
    pub place: usize,
    /// The row alone, without a weight.
    pub row: RecordBatch,
    /// Why.
    pub error: ConnectorError,
}

/// Where rows are kept that a destination refuses.
#[async_trait]
pub trait Refusals: Send + Sync {
    /// They are durable when it returns. What is given again is kept once.
    async fn keep(&self, refused: Vec<Refused>) -> Result<(), ConnectorError>;
}

/// Something to write rows to, as configured by `CREATE SINK … WITH (…)`.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug {
    fn delivery(&self) -> Delivery;

    /// Reaches out, and says what is wrong there. Nothing is written.
    async fn validate(&self) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Whether its writers can tell the rows apart that are refused.
    fn can_leave_out(&self) -> bool {
        false
    }

    /// A writer; there is one at a time, and one that is opened keeps earlier ones from writing on, where the
    /// destination can do that.
    ///
    /// A destination that has more or less than can have been `written` is [`check_reached`]'s error, and whoever
    /// writes there is left alone.
    async fn open(&self, written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError>;
}

/// Writes batches in the order of their epochs.
#[async_trait]
pub trait SinkWriter: Send {
    /// The epoch up to which the destination had everything when the writer was opened: what ends there or
    /// before must not be written again. `None` where the destination does not say.
    fn reached(&self) -> Option<Epoch> {
        None
    }

    /// Leaves out, from now on, the rows that the destination refuses, once `refusals` has them: before the others are
    /// visible, so that none is lost. Of a sink that [can](Sink::can_leave_out).
    fn leave_out(&mut self, _refusals: Arc<dyn Refusals>) {}

    /// Takes a batch. It need not have arrived before [`flush`](SinkWriter::flush) returns.
    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError>;

    /// Waits until all that was written is durable at the destination. Of a writer that delivers exactly
    /// once, all of it becomes visible together, or nothing. A call that is dropped may be made again.
    async fn flush(&mut self) -> Result<(), ConnectorError>;

    /// When to flush what was written, for a writer that would rather gather more; `None` is now. It is asked after each
    /// write.
    fn flush_at(&self) -> Option<Instant> {
        None
    }
}

/// Refuses to go on at a destination that has more than this database can have written, or less than it has
/// acknowledged. `reached` is `None` if nothing is kept there of the sink.
pub fn check_reached(
    destination: &str,
    reached: Option<Epoch>,
    written: Written,
) -> Result<(), ConnectorError> {
    let Written { surely, perhaps } = written;
    let refuse = |message: String, hint: &str| {
        Err(ConnectorError::fatal(SqlState::NOT_IN_PREREQUISITE_STATE, message).with_hint(hint))
    };
    match reached {
        Some(reached) if reached > perhaps => refuse(
            format!(
                "{destination} has this sink's epoch {reached}, but this server wrote no more than {perhaps}"
            ),
            "Another server writes for this sink, or this one runs on an older copy of its data directory. \
             Nothing is written, so that nothing is doubled. To begin anew, drop the sink and create it again.",
        ),
        Some(reached) if reached < surely => refuse(
            format!("{destination} has this sink's epoch {reached}, but it had {surely} before"),
            "It has gone back: restored from a backup, or emptied. What it had in between is not here any more. Nothing is \
             written, so that nothing is left out silently. Bring it back to where it was; or drop the sink, \
             empty the destination and create the sink again, which writes everything.",
        ),
        // Whether the last of what was written has arrived only the destination could have said.
        None if surely > Epoch::ZERO && surely < perhaps => refuse(
            format!(
                "{destination} has forgotten how far this sink has come, which is epoch {surely} at least, {perhaps} at most"
            ),
            "What the sink keeps there has expired or was removed. Nothing is written, so that nothing is doubled. To begin anew, \
             drop the sink and create it again, which writes everything.",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_between_what_is_sure_and_what_is_possible() {
        let said = |reached: Option<u64>, surely: u64, perhaps: u64| {
            let written = Written { surely: Epoch(surely), perhaps: Epoch(perhaps) };
            let checked = check_reached("it", reached.map(Epoch), written);
            checked.err().map_or(String::new(), |error| error.to_string())
        };
        for (reached, surely, perhaps) in [
            (Some(0), 0, 0),
            (Some(3), 3, 3),
            (Some(4), 3, 5),
            (None, 0, 5),
            // All that was ever written has arrived.
            (None, 5, 5),
        ] {
            assert_eq!(said(reached, surely, perhaps), "", "{reached:?} {surely} {perhaps}");
        }
        assert_eq!(said(Some(9), 3, 6), "it has this sink's epoch 9, but this server wrote no more than 6");
        assert_eq!(said(Some(2), 3, 6), "it has this sink's epoch 2, but it had 3 before");
        assert!(said(None, 3, 6).starts_with("it has forgotten how far this sink has come"));
    }
}
