//! The leaf of an incremental plan: the changes of a relation in the current step.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use tidemill_plan::Input;

/// Where a step's changes are put before the plan runs.
#[derive(Debug)]
pub(crate) struct InputSlot {
    schema: SchemaRef,
    /// One list of deltas per partition, projected to the input's columns.
    partitions: Mutex<Vec<Vec<RecordBatch>>>,
}

impl InputSlot {
    /// A column that was left out of what the slot is to be filled with: nobody had said that it is read.
    pub fn left_out<'a>(&'a self, batch: &RecordBatch) -> Option<&'a str> {
        let pairs = self.schema.fields().iter().zip(batch.columns());
        let mut left_out = pairs.filter(|(field, column)| {
            column.data_type() == &DataType::Null && field.data_type() != &DataType::Null
        });
        left_out.next().map(|(field, _)| field.name().as_str())
    }

    /// Deals `batches` out to `n` partitions, about as many rows to each. What comes later never stands before: so
    /// the output of a plan that deals nothing out anew is in the order in which its rows came.
    pub fn fill(&self, batches: Vec<RecordBatch>, n: usize) {
        let n_rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let mut partitions: Vec<Vec<RecordBatch>> = vec![Vec::new(); n];
        let mut n_before = 0;
        for batch in batches {
            let partition = (n_before * n).checked_div(n_rows).unwrap_or(0).min(n - 1);
            n_before += batch.num_rows();
            partitions[partition].push(batch);
        }
        *self.partitions.lock().expect("nobody panics while filling") = partitions;
    }

    fn take(&self, partition: usize) -> Vec<RecordBatch> {
        let mut partitions = self.partitions.lock().expect("nobody panics while filling");
        partitions.get_mut(partition).map(std::mem::take).unwrap_or_default()
    }
}

/// Reads an [`InputSlot`].
#[derive(Debug)]
pub(crate) struct InputExec {
    pub input: Input,
    pub slot: Arc<InputSlot>,
    properties: Arc<PlanProperties>,
}

impl InputExec {
    pub fn new(input: Input, schema: SchemaRef, n_partitions: usize) -> InputExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(n_partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let slot = Arc::new(InputSlot { schema, partitions: Mutex::default() });
        InputExec { input, slot, properties: Arc::new(properties) }
    }
}

impl DisplayAs for InputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "InputExec: {}", self.input.name)
    }
}

impl ExecutionPlan for InputExec {
    fn name(&self) -> &str {
        "InputExec"
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
            return internal_err!("an input has no children");
        }
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(MemoryStream::try_new(self.slot.take(partition), self.schema(), None)?))
    }
}
