//! Any incremental operator as an execution plan.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use arrow::datatypes::SchemaRef;
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
use futures::{StreamExt, TryStreamExt, stream};
use tidemill_core::Delta;
use tidemill_plan::RelationId;

use crate::operators::{LateRows, Operator, StepContext};

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
    fn step(&self, lane: usize, inputs: &[Delta]) -> Result<Vec<arrow::array::RecordBatch>> {
        let start = Instant::now();
        let context = self.context.read().expect("nobody panics while holding the context");
        let mut operator = self.lanes[lane].lock().map_err(|_| {
            DataFusionError::Internal(format!("operator {} panicked in an earlier step", self.id))
        })?;
        let output = operator.step(&context, inputs)?;
        let metrics = &self.metrics.lanes[lane];
        let count = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        count(&metrics.steps, 1);
        count(&metrics.rows_in, inputs.iter().map(Delta::len).sum());
        count(&metrics.rows_out, output.batches.iter().map(|batch| batch.num_rows()).sum());
        count(&metrics.nanos, start.elapsed().as_nanos() as usize);
        metrics.measure(operator.as_mut());
        if !output.late.is_empty() {
            self.late.lock().expect("nobody panics while holding late rows").extend(output.late);
        }
        Ok(output.batches)
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
        let lanes = self.lanes.clone();
        let schema = self.schema();
        let output = async move {
            // Polled together: where both inputs come out of one repartition, neither may wait for the other.
            let collected = streams.into_iter().map(|stream| async move {
                let schema = stream.schema();
                let batches: Vec<_> = stream.try_collect().await?;
                Ok::<_, DataFusionError>(Delta::new(arrow::compute::concat_batches(&schema, &batches)?))
            });
            let inputs = futures::future::try_join_all(collected).await?;
            let batches = lanes.step(partition, &inputs)?;
            Ok::<_, DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
        };
        let stream = stream::once(output).try_flatten().boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}
