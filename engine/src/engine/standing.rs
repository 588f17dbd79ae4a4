//! What a pipeline shows and what it has been made of, at one epoch: for the comparison with the batch answer.
//!
//! Stored inputs are read as SELECT reads them. A source is not stored: it is read again, from its start to
//! where the pipeline's dataflow stood at that epoch, by a reader of its own. The dataflow only ends a
//! step there; it waits for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::common::DataFusionError;
use futures::StreamExt;
use futures::stream::BoxStream;
use tidemill_core::source::Offsets;
use tidemill_core::{Delta, Epoch, SqlState};
use tidemill_plan as plan;
use tidemill_plan::{InputKind, RelationId};

use super::Engine;
use crate::Error;
use crate::dataflow::Position;
use crate::operators::{Build, StepContext, build};
use crate::source::{RangeReader, SourceRuntime};
use crate::view::{View, ViewSnapshot};
use tidemill_core::source::ConnectorError;

/// How often an epoch is chosen at which all can be read; each time all must still have their snapshots.
const N_ATTEMPTS: usize = 20;

/// A pipeline and its inputs at one epoch.
#[derive(Debug, Clone)]
pub struct StandingView {
    pub epoch: Epoch,
    /// The pipeline and its stored inputs.
    pub relations: BTreeMap<RelationId, Arc<ViewSnapshot>>,
    /// How far each source had been read.
    pub offsets: BTreeMap<RelationId, Arc<Offsets>>,
    pub watermarks: BTreeMap<RelationId, i64>,
    /// The time of the epoch, in microseconds: what `now()` is to the pipeline.
    pub now: i64,
    /// Rows that came too late, since the server started.
    pub late_rows: u64,
}

impl Engine {
    /// A pipeline and those of its inputs that are `stored`, at one epoch which is at least `at_least`.
    pub async fn standing(
        &self,
        pipeline: RelationId,
        stored: &BTreeSet<RelationId>,
        at_least: Epoch,
    ) -> Result<StandingView, Error> {
        let mut handles = Vec::new();
        for id in stored.iter().chain([&pipeline]) {
            handles.push(self.handle(*id).await?);
        }
        let not_running = |name: &str, reason: String| Error::NotRunning {
            kind: "pipeline",
            name: name.to_owned(),
            reason,
        };
        for _ in 0..N_ATTEMPTS {
            let dataflow = {
                let registry = self.registry();
                let entry = registry.members.get(&pipeline);
                entry.and_then(|entry| registry.dataflows.get(&entry.dataflow)).cloned()
            };
            let epoch = {
                let clock = self.sealer.clock.lock().await;
                handles
                    .iter()
                    .filter_map(|(_, feed)| feed.as_ref())
                    .for_each(|feed| feed.add_barrier(clock.epoch));
                clock.epoch
            };
            for (handle, _) in &handles {
                let mut frontier = handle.frontier.subscribe();
                while *frontier.borrow_and_update() < epoch {
                    if let Some(error) = handle.not_running() {
                        return Err(error);
                    }
                    let wait = tokio::time::timeout(Duration::from_millis(100), frontier.changed());
                    if let Ok(Err(_)) = wait.await {
                        return Err(Error::ShuttingDown);
                    }
                }
                if let Some(error) = handle.not_running() {
                    return Err(error);
                }
            }
            let relations: Option<BTreeMap<_, _>> =
                handles.iter().map(|(handle, _)| Some((handle.id, handle.at(epoch)?))).collect();
            let position = dataflow.and_then(|dataflow| dataflow.positions.at(epoch));
            if let (Some(relations), Some(Position { offsets, watermarks, now }), true) =
                (relations, position, epoch >= at_least)
            {
                let late_rows = handles.last().map_or(0, |(handle, _)| handle.metrics.late_rows.get());
                return Ok(StandingView { epoch, relations, offsets, watermarks, now, late_rows });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let name = handles.last().map(|(handle, _)| handle.name.to_string()).unwrap_or_default();
        Err(not_running(&name, "it and its inputs change too fast to be read at one epoch".into()))
    }

    /// The rows of a source from its start to `to`, as a table with these rows would hold them. Where no row is ever
    /// taken back they are read as they are asked for, and none is kept. Else all must have been read before it is known
    /// which are left; those may take up to `bytes_max`.
    pub async fn replay(&self, id: RelationId, to: &Offsets, bytes_max: usize) -> Result<Replayed, Error> {
        let source = self.sealer.clock.lock().await.sources.get(&id).cloned();
        let Some(source) = source else {
            let reason = "it has been dropped".into();
            return Err(Error::NotRunning { kind: "source", name: id.to_string(), reason });
        };
        let known: BTreeSet<_> =
            source.connector().splits().await?.into_iter().map(|split| split.id).collect();
        if let Some(lost) = to.keys().find(|split| !known.contains(*split)) {
            let message = format!(
                "split \"{lost}\" of source \"{}\" cannot be read again: it is gone",
                source.spec.name
            );
            return Err(ConnectorError::fatal(SqlState::NOT_IN_PREREQUISITE_STATE, message).into());
        }
        let reader = RangeReader::new(source.clone(), &Offsets::new(), to).await?;
        if source.spec.kind == InputKind::Append {
            let schema = source.spec.schema.clone();
            let rows = futures::stream::try_unfold((reader, schema), |(mut reader, schema)| async move {
                let Some(batch) = reader.next().await? else { return Ok(None) };
                let columns = batch.columns()[..batch.num_columns() - 1].to_vec();
                Ok(Some((RecordBatch::try_new(schema.clone(), columns)?, (reader, schema))))
            });
            return Ok(rows.boxed());
        }
        let rows = remaining(&source, reader, bytes_max).await?;
        Ok(futures::stream::iter(rows.into_iter().map(Ok)).boxed())
    }
}

/// The rows of a source that is read again.
pub type Replayed = BoxStream<'static, Result<RecordBatch, Error>>;

/// What is left of a source's changes.
async fn remaining(
    source: &Arc<SourceRuntime>,
    mut reader: RangeReader,
    bytes_max: usize,
) -> Result<Vec<RecordBatch>, Error> {
    let view = View::new(source.spec.schema.clone(), &[], 1)?;
    let mut upsert = None;
    while let Some(batch) = reader.next().await? {
        if source.spec.kind != InputKind::Upsert {
            view.add(0, &batch)?;
        } else {
            let operator = match &mut upsert {
                Some(operator) => operator,
                None => upsert.insert(upsert_of(&source.spec.primary_key, &source.spec.schema, &batch)?),
            };
            let output = operator.step(&StepContext::default(), &[Delta::new(batch)])?;
            for batch in &output.batches {
                view.add(0, batch)?;
            }
        }
        if view.parts().iter().map(|part| part.size()).sum::<usize>() > bytes_max {
            return Err(Error::ReplayTooLarge { name: source.spec.name.to_string(), bytes_max });
        }
        // Between two batches the session can be told to stop.
        tokio::task::yield_now().await;
    }
    view.snapshot(Epoch::ZERO).batches()
}

/// The operator that makes a keyed changelog a delta, for batches like `batch`.
fn upsert_of(
    primary_key: &[usize],
    schema: &arrow::datatypes::SchemaRef,
    batch: &RecordBatch,
) -> Result<Box<dyn crate::operators::Operator>, Error> {
    if primary_key.is_empty() {
        return Err(DataFusionError::Internal("a keyed source has no key".into()).into());
    }
    let n_columns = batch.num_columns() - 1;
    let input = Arc::new(batch.schema().project(&(0..n_columns).collect::<Vec<_>>())?);
    let operator = plan::Operator::Upsert(plan::Upsert { keys: primary_key.to_vec(), ttl: None });
    build(&Build {
        operator: &operator,
        inputs: vec![input],
        output: tidemill_core::delta_schema(schema),
        filter: None,
        batch_plan: None,
    })
}
