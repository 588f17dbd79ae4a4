//! Incremental operators: each a function of its state and the changes of its inputs.
//!
//! An operator has no clock, no randomness and no I/O, so that a step that is replayed gives what it gave
//! before. All of its state is in [`StateTable`]s, which is what checkpoints hold and what a failed
//! step puts back.

mod aggregate;
mod asof;
mod calls;
mod closing;
mod distinct;
mod every;
mod expire;
mod expiry;
mod grouping;
mod hold;
mod join;
mod linear;
mod lookup;
mod match_recognize;
mod moments;
mod once;
mod recompute;
mod replay;
mod session;
mod set_operation;
mod temporal;
mod top_n;
mod trim;
mod upsert;
mod window;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use tidemill_core::{Delta, Epoch};
use tidemill_plan as plan;
use tidemill_plan::RelationId;
use tidemill_storage::{Arrangement, Layout, Run, RunBuilder, Snapshot, SortColumn};

use crate::Error;
use crate::exec::BatchPlan;

pub(crate) use grouping::Grouping;

/// What a step knows beside its inputs.
#[derive(Debug, Clone, Default)]
pub struct StepContext {
    /// The epoch that the step reaches.
    pub epoch: Epoch,
    /// Each source's watermark before this step's rows, in microseconds; absent before the first.
    pub watermarks_before: BTreeMap<RelationId, i64>,
    /// Each source's watermark with this step's rows.
    pub watermarks: BTreeMap<RelationId, i64>,
    /// The time of the step before, in microseconds. Nothing that was due then is left.
    pub now_before: i64,
    /// What `now()` is in this step.
    pub now: i64,
    /// When the step's rows count as having come: `now`, and in a fill the time of its end.
    pub arrival: i64,
    /// The step is a part of what there was before a pipeline was made or went on, and more of it follows: in which
    /// order it comes means nothing.
    pub is_filling: bool,
    /// With this step a new pipeline has taken in all that there was before it.
    pub is_created: bool,
    /// About how many rows an operator is to take in, or to give, at once; as many as there are where it is zero.
    pub rows_max: usize,
}

/// Rows that came after their window had been emitted.
#[derive(Debug, Clone)]
pub struct LateRows {
    pub rows: RecordBatch,
    pub reason: String,
}

/// What an operator hands on.
#[derive(Debug, Default)]
pub struct Output {
    /// Deltas, weight last, of bounded length each.
    pub batches: Vec<RecordBatch>,
    pub late: Vec<LateRows>,
    /// Whether there is more, for which [`Operator::resume`] is to be asked.
    pub has_more: bool,
}

impl Output {
    pub(crate) fn push(&mut self, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.batches.push(batch);
        }
    }
}

/// One lane of an incremental operator.
pub trait Operator: Send {
    /// Takes the change of each input, gives the change of the output.
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error>;

    /// What the last step gives beside what it has given.
    fn resume(&mut self, _context: &StepContext) -> Result<Output, Error> {
        Ok(Output::default())
    }

    /// Whether a step may be taken in parts, insertions first: the result is one of all rows, whenever they come.
    fn is_divisible(&self) -> bool {
        false
    }

    /// All of the operator's state, always in the same order.
    fn state(&mut self) -> Vec<&mut StateTable>;

    /// When the output changes next, after `now`, although no input does.
    fn next_time(&self, _now: i64) -> Result<Option<i64>, Error> {
        Ok(None)
    }
}

/// A named arrangement of an operator's lane.
#[derive(Debug)]
pub struct StateTable {
    pub name: String,
    pub arrangement: Arrangement,
    /// The columns by which rows are dealt out to lanes, as positions in the layout, in the order
    /// in which the operator's input is distributed.
    pub deal_by: Vec<usize>,
}

impl StateTable {
    pub fn new(
        name: impl Into<String>,
        columns: Vec<SortColumn>,
        n_keys: usize,
        deal_by: Vec<usize>,
    ) -> Result<StateTable, Error> {
        let layout = Layout::new(columns, n_keys)?;
        Ok(StateTable { name: name.into(), arrangement: Arrangement::new(layout), deal_by })
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.arrangement.layout()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.arrangement.snapshot()
    }

    /// Adds rows, in the layout's column order.
    pub(crate) fn add(&mut self, columns: &[ArrayRef], weights: &[i64]) -> Result<(), Error> {
        if weights.is_empty() {
            return Ok(());
        }
        let rows = self.layout().encode_rows(columns)?;
        self.arrangement.add(&rows, weights);
        Ok(())
    }
}

/// What an operator is built from.
pub(crate) struct Build<'a> {
    pub operator: &'a plan::Operator,
    /// The row schemas of the inputs, without weights.
    pub inputs: Vec<SchemaRef>,
    /// The output's schema, weight included.
    pub output: SchemaRef,
    /// A join's residual condition.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// What a recomputed plan runs.
    pub batch_plan: Option<Arc<BatchPlan>>,
}

/// One lane of the operator that a plan node asks for.
pub(crate) fn build(build: &Build) -> Result<Box<dyn Operator>, Error> {
    match build.operator {
        plan::Operator::Input(_) => unreachable!("inputs are read, not computed"),
        plan::Operator::Upsert(upsert) => Ok(Box::new(upsert::Upsert::new(upsert, build)?)),
        plan::Operator::Distinct => Ok(Box::new(distinct::Distinct::new(build)?)),
        plan::Operator::Aggregate(aggregate) => Ok(Box::new(aggregate::Aggregate::new(aggregate, build)?)),
        plan::Operator::Join(join) => Ok(Box::new(join::Join::new(join, build)?)),
        plan::Operator::Session(session) => Ok(Box::new(session::Session::new(session, build)?)),
        plan::Operator::Hold(hold) => Ok(Box::new(hold::Hold::new(hold, build)?)),
        plan::Operator::Every(every) => Ok(Box::new(every::Every::new(every, build)?)),
        plan::Operator::Expire(expire) => Ok(Box::new(expire::Expire::new(expire, build)?)),
        plan::Operator::Temporal(temporal) => Ok(Box::new(temporal::Temporal::new(temporal, build)?)),
        plan::Operator::TopN(top_n) => Ok(Box::new(top_n::TopN::new(top_n, build)?)),
        plan::Operator::Once => Ok(Box::new(once::Once::new()?)),
        plan::Operator::SetOperation(kind) => Ok(Box::new(set_operation::SetOperation::new(*kind, build)?)),
        plan::Operator::Recompute(_) => Ok(Box::new(recompute::Recompute::new(build)?)),
        plan::Operator::Held(_) | plan::Operator::Bounded => unreachable!("parts of a batch plan"),
        plan::Operator::Asof(asof) => Ok(Box::new(asof::Asof::new(asof, build)?)),
        plan::Operator::Lookup(lookup) => Ok(Box::new(lookup::Lookup::new(lookup, build)?)),
        plan::Operator::Window(window) => Ok(Box::new(window::Window::new(window, build)?)),
        plan::Operator::MatchRecognize(pattern) => {
            Ok(Box::new(match_recognize::MatchRecognize::new(pattern, build)?))
        }
    }
}

/// By which columns of each input rows are dealt out to lanes; none means that one lane gets them all.
pub fn distribution(operator: &plan::Operator, inputs: &[SchemaRef]) -> Vec<Vec<usize>> {
    match operator {
        plan::Operator::Input(_) => Vec::new(),
        plan::Operator::Upsert(upsert) => vec![upsert.keys.clone()],
        plan::Operator::Distinct => vec![(0..inputs[0].fields().len()).collect()],
        plan::Operator::Aggregate(aggregate) => vec![(0..aggregate.n_groups).collect()],
        plan::Operator::Join(join) => vec![join.left_keys.clone(), join.right_keys.clone()],
        plan::Operator::Session(session) => vec![session.partition.clone()],
        plan::Operator::Hold(_) | plan::Operator::Every(_) => {
            vec![(0..inputs[0].fields().len()).collect()]
        }
        plan::Operator::Expire(expire) => vec![expire.keys.clone()],
        plan::Operator::Temporal(temporal) => vec![(0..temporal.n_columns).collect()],
        plan::Operator::TopN(top_n) => vec![top_n.partition.clone()],
        plan::Operator::Once => vec![Vec::new()],
        plan::Operator::SetOperation(_) => {
            inputs.iter().map(|input| (0..input.fields().len()).collect()).collect()
        }
        plan::Operator::Recompute(_) => vec![Vec::new(); inputs.len()],
        plan::Operator::Held(_) | plan::Operator::Bounded => unreachable!("parts of a batch plan"),
        plan::Operator::Asof(asof) => vec![asof.left_keys.clone(), asof.right_keys.clone()],
        plan::Operator::Lookup(lookup) => vec![lookup.left_keys.clone(), lookup.right_keys.clone()],
        plan::Operator::Window(window) => vec![window.partition.clone()],
        plan::Operator::MatchRecognize(pattern) => vec![pattern.partition.clone()],
    }
}

/// How many rows an output batch holds at most.
pub(crate) const BATCH_ROWS: usize = 8192;

/// A batch of `columns` and weights.
pub(crate) fn output_batch(
    schema: &SchemaRef,
    mut columns: Vec<ArrayRef>,
    weights: Vec<i64>,
) -> Result<RecordBatch, Error> {
    columns.push(Arc::new(Int64Array::from(weights)));
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Ascending sort columns for some fields of a schema.
pub(crate) fn ascending(schema: &SchemaRef, columns: &[usize]) -> Vec<SortColumn> {
    columns.iter().map(|idx| SortColumn::ascending(schema.field(*idx))).collect()
}

/// The columns of a table of state for rows of `schema`. Rows of no columns are rows all the same, and state
/// needs something to count.
pub(crate) fn state_columns(schema: &SchemaRef, columns: &[usize]) -> Vec<SortColumn> {
    if schema.fields().is_empty() {
        return vec![SortColumn::ascending(&Field::new("row", DataType::Int64, false))];
    }
    ascending(schema, columns)
}

/// What stands in [`state_columns`].
pub(crate) fn state_values(columns: Vec<ArrayRef>, n_rows: usize) -> Vec<ArrayRef> {
    match columns.is_empty() {
        true => vec![Arc::new(Int64Array::from_value(0, n_rows))],
        false => columns,
    }
}

/// The columns of a schema that are not in `first`, in order.
pub(crate) fn others(schema: &SchemaRef, first: &[usize]) -> Vec<usize> {
    (0..schema.fields().len()).filter(|idx| !first.contains(idx)).collect()
}

/// Encoded rows in order, each once, with the sum of its weights.
pub(crate) fn consolidate(rows: &[&[u8]], weights: &[i64]) -> Arc<Run> {
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_unstable_by(|a, b| rows[*a as usize].cmp(rows[*b as usize]));
    let mut builder = RunBuilder::with_capacity(rows.len(), rows.iter().map(|row| row.len()).sum());
    for same in order.chunk_by(|a, b| rows[*a as usize] == rows[*b as usize]) {
        builder.push(rows[same[0] as usize], same.iter().map(|idx| weights[*idx as usize]).sum());
    }
    builder.finish()
}
