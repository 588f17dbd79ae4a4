//! A source as a table: it is read again while the batch query runs.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::TryStreamExt;
use tidemill_core::source::Offsets;
use tidemill_plan::RelationId;

use crate::database::Database;

/// What is read again.
pub struct Replay {
    pub database: Arc<Database>,
    pub source: RelationId,
    pub schema: SchemaRef,
    /// Where the pipeline had read to.
    pub to: Arc<Offsets>,
    pub bytes_max: usize,
}

/// Each scan of the table reads the source from its start.
pub fn table(replay: Replay) -> Result<Arc<dyn TableProvider>> {
    let schema = replay.schema.clone();
    Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(replay)])?))
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("source", &self.source).field("to", &self.to).finish_non_exhaustive()
    }
}

impl PartitionStream for Replay {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let Replay { database, source, to, bytes_max, .. } = self;
        let (database, source, to, bytes_max) = (database.clone(), *source, to.clone(), *bytes_max);
        let replayed = async move { database.engine.replay(source, &to, bytes_max).await };
        let rows = futures::stream::once(replayed).try_flatten().map_err(DataFusionError::from);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows))
    }
}
