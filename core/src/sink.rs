//! The border to what we send data to.

use std::fmt;

use async_trait::async_trait;

use crate::delta::Delta;
use crate::epoch::Epoch;
use crate::source::ConnectorError;

/// When a sink's output may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as it is computed. After a crash, what followed the last checkpoint is sent again.
    AtLeastOnce,
    /// After the checkpoint that covers it is durable. After a crash the same batch is written
    /// again under the same epochs, and the writer makes that harmless.
    ExactlyOnce,
}

/// The change of the sink's relation over the epochs `from < epoch <= to`, consolidated: no row
/// stands in it twice, no weight is zero. The retractions come before the insertions.
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

    /// A writer; there is one at a time.
    async fn open(&self) -> Result<Box<dyn SinkWriter>, ConnectorError>;
}

/// Writes batches in the order of their epochs.
#[async_trait]
pub trait SinkWriter: Send {
    /// Takes a batch. It need not have arrived before [`flush`](SinkWriter::flush) returns.
    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError>;

    /// Waits until all that was written is durable at the destination.
    async fn flush(&mut self) -> Result<(), ConnectorError>;
}
