//! How much state a plan would keep: measured by running it over a sample of its inputs.
//!
//! The sample goes through the plan as one step of a member that nobody sees. What its operators hold
//! afterwards is what a row costs; sources' own rates say how many rows a day there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::execution::context::SessionState;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::{PipelinePlan, RelationId};

use super::Engine;
use crate::Error;
use crate::member::{Identity, Member};
use crate::operators::StepContext;
use crate::status::OperatorStatus;

/// How long a source may take to give its part of a sample.
const SOURCE_TIME_MAX: Duration = Duration::from_secs(3);

/// What a plan did with a sample.
#[derive(Debug, Clone)]
pub struct Sample {
    pub inputs: Vec<Sampled>,
    pub operators: Vec<OperatorStatus>,
}

/// What an input gave to the sample.
#[derive(Debug, Clone)]
pub struct Sampled {
    pub id: RelationId,
    pub name: String,
    pub n_rows: u64,
    pub from: SampledFrom,
}

/// Where an input's rows come from, and how many more there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SampledFrom {
    /// Rows that are stored: of a table or a pipeline.
    Stored { rows: u64 },
    /// A source's first rows; rows a second, where it is being read.
    Source { rate: Option<f64> },
}

impl Engine {
    /// Runs a plan over at most `n_rows` of each input.
    pub async fn sample(
        &self,
        plan: &PipelinePlan,
        session: &SessionState,
        n_rows: usize,
    ) -> Result<Sample, Error> {
        let mut inputs = Vec::new();
        let mut changes: BTreeMap<RelationId, Vec<RecordBatch>> = BTreeMap::new();
        for id in &plan.inputs {
            let source = self.sealer.clock.lock().await.sources.get(id).cloned();
            let (name, from, batches) = match source {
                Some(source) => {
                    let deadline = tokio::time::Instant::now() + SOURCE_TIME_MAX;
                    let batches = source.sample(n_rows, deadline).await?;
                    (source.spec.name.to_string(), SampledFrom::Source { rate: source.rate() }, batches)
                }
                None => {
                    let (handle, _) = self.handle(*id).await?;
                    let snapshot = handle.latest();
                    let rows = snapshot.as_ref().map_or(0, |snapshot| snapshot.arrangement().count());
                    let batches = match &snapshot {
                        Some(snapshot) => snapshot.first(n_rows)?,
                        None => Vec::new(),
                    };
                    let batches = batches.iter().map(|rows| Delta::inserts(rows).into_batch()).collect();
                    (handle.name.to_string(), SampledFrom::Stored { rows: rows.max(0) as u64 }, batches)
                }
            };
            let n_rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
            inputs.push(Sampled { id: *id, name, n_rows, from });
            changes.insert(*id, batches);
        }
        let budget = self.memory.budget(None);
        let identity = Identity { id: RelationId(0), state: RelationId(0), name: &"sample".into() };
        let mut member = Member::new(identity, plan, session, None, &budget, None).await?;
        let context = StepContext { epoch: Epoch::ZERO, ..StepContext::default() };
        member.step(&context, &changes).await?;
        let handle = Arc::clone(&member.handle);
        Ok(Sample { inputs, operators: handle.operators() })
    }
}
