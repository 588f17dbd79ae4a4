//! Any incremental operator as an execution plan.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, not};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use tidemill_core::Delta;
use tidemill_plan::RelationId;

use crate::Error;
use crate::operators::{LateRows, Operator, Output, StepContext};

/// What an operator has done so far, lane by lane. It can be read while the operator runs.
#[derive(Debug)]
pub(crate) struct OperatorMetrics {
    /// What the operator is, in one line.
    pub display: String,
    /// As in [`Lanes`].
    pub id: String,
    pub lanes: Vec<LaneMetrics>,
}

#[derive(Debug, Default)]
pub(crate) struct LaneMetrics {
    pub steps: AtomicU64,
    pub rows_in: AtomicU64,
    pub rows_out: AtomicU64,
    pub nanos: AtomicU64,
    /// Rows of state, of which some may be about to cancel out.
    pub state_rows: AtomicU64,
    pub state_bytes: AtomicU64,
    /// Of these, in memory; the others are in files.
    pub state_heap_bytes: AtomicU64,
}

/// All lanes of an operator. They live as long as the dataflow; plans that refer to them come and go.
pub(crate) struct Lanes {
    /// Names the operator's state in checkpoints; made of what the operator means.
    pub id: String,
    /// By which columns of each input rows are dealt out to lanes.
    pub distribution: Vec<Vec<usize>>,
    pub lanes: Vec<Mutex<Box<dyn Operator>>>,
    /// Whether the output may change because time passes.
    pub is_timed: bool,
    /// Whether each epoch has to be a step of its own.
    pub is_stepwise: bool,
    /// The sources whose watermarks may change the output.
    pub timed_by: Vec<RelationId>,
    pub context: Arc<RwLock<StepContext>>,
    /// Rows that came too late in the current step.
    pub late: Mutex<Vec<LateRows>>,
    pub metrics: Arc<OperatorMetrics>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("id", &self.id).field("n", &self.lanes.len()).finish()
    }
}

impl Lanes {
    /// Lets a lane do its work, and counts what that was.
    fn run(
        &self,
        lane: usize,
        n_rows_in: usize,
        work: impl FnOnce(&mut dyn Operator, &StepContext) -> Result<Output, Error>,
    ) -> Result<Output> {
        let start = Instant::now();
        let context = self.context.read().expect("nobody panics while holding the context");
        let mut operator = self.lanes[lane].lock().map_err(|_| {
            DataFusionError::Internal(format!("operator {} panicked in an earlier step", self.id))
        })?;
        let mut output = work(operator.as_mut(), &context)?;
        let metrics = &self.metrics.lanes[lane];
        let count = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        count(&metrics.rows_in, n_rows_in);
        count(&metrics.rows_out, output.batches.iter().map(|batch| batch.num_rows()).sum());
        count(&metrics.nanos, start.elapsed().as_nanos() as usize);
        if !output.has_more {
            count(&metrics.steps, 1);
            metrics.measure(operator.as_mut());
        }
        if !output.late.is_empty() {
            let mut late = self.late.lock().expect("nobody panics while holding late rows");
            late.append(&mut output.late);
        }
        Ok(output)
    }

    fn step(&self, lane: usize, inputs: &[Delta]) -> Result<Output> {
        let n_rows_in = inputs.iter().map(Delta::len).sum();
        self.run(lane, n_rows_in, |operator, context| operator.step(context, inputs))
    }

    fn resume(&self, lane: usize) -> Result<Output> {
        self.run(lane, 0, |operator, context| operator.resume(context))
    }

    /// How many rows a lane takes in at once.
    fn rows_max(&self, lane: usize) -> usize {
        let rows_max = self.context.read().expect("nobody panics while holding the context").rows_max;
        let is_divisible = self.lanes[lane].lock().is_ok_and(|operator| operator.is_divisible());
        if rows_max == 0 || !is_divisible { usize::MAX } else { rows_max }
    }

    /// Notes the size of the state, after it was changed by others than a step.
    pub fn measure(&self) {
        for (lane, metrics) in self.lanes.iter().zip(&self.metrics.lanes) {
            if let Ok(mut operator) = lane.lock() {
                metrics.measure(operator.as_mut());
            }
        }
    }
}

impl LaneMetrics {
    fn measure(&self, operator: &mut dyn Operator) {
        let (mut n_rows, mut n_bytes, mut n_heap_bytes) = (0, 0, 0);
        for table in operator.state() {
            table.arrangement.relieve();
            n_rows += table.arrangement.current().n_rows_max();
            n_bytes += table.arrangement.current().size();
            n_heap_bytes += table.arrangement.current().heap_size();
        }
        self.state_rows.store(n_rows as u64, Ordering::Relaxed);
        self.state_bytes.store(n_bytes as u64, Ordering::Relaxed);
        self.state_heap_bytes.store(n_heap_bytes as u64, Ordering::Relaxed);
    }
}

/// Runs an operator, lane by lane.
#[derive(Debug)]
pub(crate) struct OperatorExec {
    pub lanes: Arc<Lanes>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl OperatorExec {
    pub fn new(lanes: Arc<Lanes>, inputs: Vec<Arc<dyn ExecutionPlan>>, schema: SchemaRef) -> OperatorExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            // Not said to be distributed by anything, although it is: were a repartition above left out for
            // it, the lane of a row of state would depend on the whole plan below.
            Partitioning::UnknownPartitioning(lanes.lanes.len()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        OperatorExec { lanes, inputs, properties: Arc::new(properties) }
    }
}

impl DisplayAs for OperatorExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "OperatorExec: {}", self.lanes.metrics.display)
    }
}

impl ExecutionPlan for OperatorExec {
    fn name(&self) -> &str {
        "OperatorExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let requirement = |(columns, input): (&Vec<usize>, &Arc<dyn ExecutionPlan>)| {
            if self.lanes.lanes.len() == 1 {
                return Distribution::SinglePartition;
            }
            let schema = input.schema();
            let column = |idx: &usize| -> Arc<dyn PhysicalExpr> {
                Arc::new(Column::new(schema.field(*idx).name(), *idx))
            };
            Distribution::KeyPartitioned(columns.iter().map(column).collect())
        };
        let per_input: Vec<Distribution> =
            self.lanes.distribution.iter().zip(&self.inputs).map(requirement).collect();
        match per_input.len() {
            0 | 1 => InputDistributionRequirements::new(per_input),
            _ => InputDistributionRequirements::co_partitioned(per_input),
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(OperatorExec { lanes: self.lanes.clone(), inputs, properties: self.properties.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        for input in &self.inputs {
            let n_partitions = input.output_partitioning().partition_count();
            if n_partitions != self.lanes.lanes.len() {
                return Err(DataFusionError::Internal(format!(
                    "{} has {} lanes but an input of {n_partitions} partitions",
                    self.lanes.id,
                    self.lanes.lanes.len()
                )));
            }
        }
        let streams: Vec<_> = self
            .inputs
            .iter()
            .map(|input| input.execute(partition, context.clone()))
            .collect::<Result<_>>()?;
        let schema = self.schema();
        let run = LaneRun::new(self.lanes.clone(), partition, streams);
        let stream =
            stream::try_unfold(run, |mut run| async move { Ok(run.next().await?.map(|batch| (batch, run))) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

/// A step of a lane, while it is read.
///
/// A join can give far more rows than it takes, all of which would have to lie in memory at once if whoever reads it took
/// them as one delta. So an operator whose step is divisible takes them in parts as they come: first
/// insertions, and what is to go when all are there. That way nothing goes that has not come yet, in
/// whatever order lanes hand it over, and what is given in the end is the same.
struct LaneRun {
    lanes: Arc<Lanes>,
    lane: usize,
    rows_max: usize,
    /// Polled together: where both inputs come out of one repartition, neither may wait for the other.
    inputs: SelectAll<BoxStream<'static, (usize, Result<RecordBatch>)>>,
    schemas: Vec<SchemaRef>,
    /// Of each input what has not been taken in yet.
    waiting: Vec<Vec<RecordBatch>>,
    n_waiting: usize,
    /// Of each input what is to go.
    held_back: Vec<Vec<RecordBatch>>,
    ready: VecDeque<RecordBatch>,
    has_more: bool,
    is_finished: bool,
}

impl LaneRun {
    fn new(lanes: Arc<Lanes>, lane: usize, inputs: Vec<SendableRecordBatchStream>) -> LaneRun {
        let schemas: Vec<SchemaRef> = inputs.iter().map(|input| input.schema()).collect();
        let numbered =
            inputs.into_iter().enumerate().map(|(idx, input)| input.map(move |batch| (idx, batch)).boxed());
        LaneRun {
            rows_max: lanes.rows_max(lane),
            lanes,
            lane,
            inputs: stream::select_all(numbered),
            waiting: vec![Vec::new(); schemas.len()],
            held_back: vec![Vec::new(); schemas.len()],
            schemas,
            n_waiting: 0,
            ready: VecDeque::new(),
            has_more: false,
            is_finished: false,
        }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.has_more {
                let output = self.lanes.resume(self.lane)?;
                self.take(output);
            } else if self.is_finished {
                return Ok(None);
            } else if let Some((idx, batch)) = self.inputs.next().await {
                let batch = batch?;
                self.n_waiting += batch.num_rows();
                self.waiting[idx].push(batch);
                if self.n_waiting >= self.rows_max {
                    self.begin()?;
                }
            } else {
                self.finish()?;
            }
        }
    }

    fn take(&mut self, output: Output) {
        self.ready.extend(output.batches);
        self.has_more = output.has_more;
    }

    /// Takes in what has come up to now, as far as it is insertions.
    fn begin(&mut self) -> Result<()> {
        self.n_waiting = 0;
        let mut inputs = Vec::new();
        for ((schema, waiting), held_back) in
            self.schemas.iter().zip(&mut self.waiting).zip(&mut self.held_back)
        {
            let mut insertions = Vec::new();
            for batch in std::mem::take(waiting) {
                let weights = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                let is_insertion: BooleanArray =
                    weights.values().iter().map(|weight| Some(*weight > 0)).collect();
                match is_insertion.true_count() {
                    0 => held_back.push(batch),
                    n if n == batch.num_rows() => insertions.push(batch),
                    _ => {
                        held_back.push(filter_record_batch(&batch, &not(&is_insertion)?)?);
                        insertions.push(filter_record_batch(&batch, &is_insertion)?);
                    }
                }
            }
            inputs.push(Delta::new(concat_batches(schema, &insertions)?));
        }
        if inputs.iter().all(Delta::is_empty) {
            return Ok(());
        }
        let output = self.lanes.step(self.lane, &inputs)?;
        self.take(output);
        Ok(())
    }

    /// Takes in all the rest.
    fn finish(&mut self) -> Result<()> {
        self.is_finished = true;
        let mut inputs = Vec::new();
        for ((schema, waiting), held_back) in
            self.schemas.iter().zip(&mut self.waiting).zip(&mut self.held_back)
        {
            let mut batches = std::mem::take(held_back);
            batches.append(waiting);
            inputs.push(Delta::new(concat_batches(schema, &batches)?));
        }
        let output = self.lanes.step(self.lane, &inputs)?;
        self.take(output);
        Ok(())
    }
}
