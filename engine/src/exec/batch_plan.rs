//! A plan that runs over all rows of its inputs, again and again: what a [`Recompute`](tidemill_plan::Recompute)
//! operator has inside.
//!
//! Its leaves are [`HeldExec`]s, which can be read as often as a recursion likes, and its recursive terms stand
//! under a [`BoundedExec`], so that a recursion that never ends is an error and not a hang.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::context::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, reset_plan_states};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    collect,
};
use futures::StreamExt;

use crate::Error;

/// How often a recursive term is evaluated at most. A chain or a series may well be that long.
const ITERATIONS_MAX: usize = 10_000;

/// How many rows recursive terms give at most; a cycle under UNION ALL may double them each time.
const ROWS_MAX: usize = 10_000_000;

/// The stack of a plan's thread; DataFusion's plans nest deeply.
const STACK_BYTES: usize = 16 << 20;

/// An execution plan with the ends that its operator holds.
#[derive(Debug)]
pub(crate) struct BatchPlan {
    pub plan: Arc<dyn ExecutionPlan>,
    /// Where the rows of each input are put; a plan may have optimised one away.
    pub slots: Vec<(usize, Arc<HeldSlot>)>,
    pub bounds: Vec<Arc<Iterations>>,
    pub session: SessionState,
}

/// Rows that stay while a plan runs.
#[derive(Debug, Default)]
pub(crate) struct HeldSlot {
    batches: RwLock<Vec<RecordBatch>>,
}

/// What a recursive term has done in this run.
#[derive(Debug, Default)]
pub(crate) struct Iterations {
    n: AtomicUsize,
    n_rows: AtomicUsize,
}

impl BatchPlan {
    /// Runs the plan over `inputs`, each in batches.
    pub fn run(&self, inputs: Vec<Vec<RecordBatch>>) -> Result<Vec<RecordBatch>, Error> {
        for (input, slot) in &self.slots {
            *slot.batches.write().expect("nobody panics while holding rows") = inputs[*input].clone();
        }
        for bound in &self.bounds {
            bound.n.store(0, Ordering::Relaxed);
            bound.n_rows.store(0, Ordering::Relaxed);
        }
        let plan = reset_plan_states(self.plan.clone())?;
        let context = self.session.task_ctx();
        // A runtime of its own: an operator's step is not async, and the plan may want to spawn tasks.
        let run = || -> Result<Vec<RecordBatch>, Error> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(runtime.block_on(collect(plan, context))?)
        };
        let outcome = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("recompute".into()).stack_size(STACK_BYTES);
            let running = thread
                .spawn_scoped(scope, run)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            running.join().unwrap_or_else(|_| {
                Err(DataFusionError::Internal("a recomputed plan panicked".into()).into())
            })
        });
        for (_, slot) in &self.slots {
            slot.batches.write().expect("nobody panics while holding rows").clear();
        }
        outcome
    }
}

/// Reads a [`HeldSlot`].
#[derive(Debug)]
pub(crate) struct HeldExec {
    pub name: String,
    pub slot: Arc<HeldSlot>,
    properties: Arc<PlanProperties>,
}

impl HeldExec {
    pub fn new(name: String, schema: SchemaRef) -> HeldExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        HeldExec { name, slot: Arc::default(), properties: Arc::new(properties) }
    }
}

impl DisplayAs for HeldExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "HeldExec: {}", self.name)
    }
}

impl ExecutionPlan for HeldExec {
    fn name(&self) -> &str {
        "HeldExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("held rows have no children");
        }
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.slot.batches.read().expect("nobody panics while holding rows").clone();
        Ok(Box::pin(MemoryStream::try_new(batches, self.schema(), None)?))
    }
}

/// Passes rows on until there have been too many, or too many runs.
#[derive(Debug)]
pub(crate) struct BoundedExec {
    input: Arc<dyn ExecutionPlan>,
    pub iterations: Arc<Iterations>,
}

impl BoundedExec {
    pub fn new(input: Arc<dyn ExecutionPlan>) -> BoundedExec {
        BoundedExec { input, iterations: Arc::default() }
    }
}

impl DisplayAs for BoundedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "BoundedExec: iterations={ITERATIONS_MAX} rows={ROWS_MAX}")
    }
}

impl ExecutionPlan for BoundedExec {
    fn name(&self) -> &str {
        "BoundedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("a bounded plan has one child");
        };
        Ok(Arc::new(BoundedExec { input, iterations: self.iterations.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        assert_eq!(self.input.output_partitioning().partition_count(), 1, "it is planned in one partition");
        if self.iterations.n.fetch_add(1, Ordering::Relaxed) >= ITERATIONS_MAX {
            return Err(Error::EndlessRecursion { bound: format!("{ITERATIONS_MAX} iterations") }.into());
        }
        let iterations = self.iterations.clone();
        let stream = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let n_rows = iterations.n_rows.fetch_add(batch.num_rows(), Ordering::Relaxed);
            if n_rows + batch.num_rows() > ROWS_MAX {
                return Err(Error::EndlessRecursion { bound: format!("{ROWS_MAX} rows") }.into());
            }
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}
