//! `MATCH_RECOGNIZE` in a SELECT: over batches that are sorted by partition and order.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{SortOptions, concat_batches, partition};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::TryStreamExt;
use tidemill_plan as plan;
use tidemill_plan::IncrementalNode;

use crate::matcher::Matcher;
use crate::rows::{Extent, Rows};
use crate::scan::{Advance, Scan, Stand};
use crate::show::Sighting;

/// How many rows an output batch holds, about.
const BATCH_ROWS: usize = 8192;

/// Plans the nodes of a SELECT.
#[derive(Debug)]
pub struct MatchRecognizePlanner;

#[async_trait]
impl ExtensionPlanner for MatchRecognizePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<IncrementalNode>() else { return Ok(None) };
        let (plan::Operator::MatchRecognize(pattern), [input]) = (&node.operator, inputs) else {
            return Ok(None);
        };
        let matcher = Matcher::new(pattern, &input.schema())?;
        let schema = Arc::new(node.schema.as_arrow().clone());
        Ok(Some(Arc::new(MatchRecognizeExec::new(Arc::new(matcher), input.clone(), schema))))
    }
}

/// Runs a matcher over partitions.
#[derive(Debug)]
pub struct MatchRecognizeExec {
    matcher: Arc<Matcher>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl MatchRecognizeExec {
    fn new(matcher: Arc<Matcher>, input: Arc<dyn ExecutionPlan>, schema: SchemaRef) -> MatchRecognizeExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(
                input.output_partitioning().partition_count(),
            ),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        MatchRecognizeExec { matcher, input, properties: Arc::new(properties) }
    }

    fn column(&self, idx: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(self.input.schema().field(idx).name(), idx))
    }
}

impl DisplayAs for MatchRecognizeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let schema = self.input.schema();
        write!(f, "MatchRecognizeExec: ")?;
        self.matcher.plan.fmt_with(&|idx| schema.field(idx).name().clone(), f)
    }
}

impl ExecutionPlan for MatchRecognizeExec {
    fn name(&self) -> &str {
        "MatchRecognizeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let columns: Vec<_> = self.matcher.plan.partition.iter().map(|idx| self.column(*idx)).collect();
        InputDistributionRequirements::new(vec![match columns.is_empty() {
            true => Distribution::SinglePartition,
            false => Distribution::KeyPartitioned(columns),
        }])
    }

    /// By partition, by order, and where rows tie, by the other columns, as an arrangement sorts them.
    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let plan = &self.matcher.plan;
        let ascending = SortOptions { descending: false, nulls_first: true };
        let mut columns: Vec<(usize, SortOptions)> =
            plan.partition.iter().map(|column| (*column, ascending)).collect();
        let order = plan.order_by.iter().map(|order| {
            (order.column, SortOptions { descending: order.descending, nulls_first: order.nulls_first })
        });
        let schema = self.input.schema();
        let is_comparable = |idx: &usize| {
            let data_type = schema.field(*idx).data_type();
            !data_type.is_nested() && !data_type.is_null()
        };
        let others = (0..schema.fields().len()).filter(is_comparable).map(|column| (column, ascending));
        for (column, options) in order.chain(others) {
            if !columns.iter().any(|(known, _)| *known == column) {
                columns.push((column, options));
            }
        }
        let sort =
            |(column, options): (usize, SortOptions)| PhysicalSortExpr { expr: self.column(column), options };
        vec![LexOrdering::new(columns.into_iter().map(sort)).map(OrderingRequirements::from)]
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
            return internal_err!("a row pattern has one input");
        };
        Ok(Arc::new(MatchRecognizeExec::new(self.matcher.clone(), input, self.schema())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let mut builder = RecordBatchReceiverStream::builder(self.schema(), 2);
        let output = builder.tx();
        let (matcher, schema) = (self.matcher.clone(), self.schema());
        builder.spawn(async move {
            let input_schema = input.schema();
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            // On a thread where it may take its time. It ends when nobody reads any more.
            let search = move || -> Result<()> {
                let is_wanted = || !output.is_closed();
                let rows = concat_batches(&input_schema, &batches)?;
                drop(batches);
                let emit = |batch| {
                    output
                        .blocking_send(Ok(batch))
                        .map_err(|_| DataFusionError::from(crate::Error::Cancelled))
                };
                matcher.run(&rows, &schema, &is_wanted, emit)
            };
            let searched = SpawnedTask::spawn_blocking(search).await;
            searched.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
        });
        Ok(builder.build())
    }
}

impl Matcher {
    /// All that is shown of rows that are sorted by partition and order.
    pub fn run(
        &self,
        batch: &RecordBatch,
        schema: &SchemaRef,
        is_wanted: &dyn Fn() -> bool,
        mut emit: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let keys: Vec<ArrayRef> =
            self.plan.partition.iter().map(|column| batch.column(*column).clone()).collect();
        let ranges = match (batch.num_rows(), keys.is_empty()) {
            (0, _) => Vec::new(),
            (n_rows, true) => std::iter::once(0..n_rows).collect(),
            _ => partition(&keys)?.ranges(),
        };
        let mut pending: Vec<RecordBatch> = Vec::new();
        let mut n_pending = 0;
        for range in ranges {
            let columns =
                batch.columns().iter().map(|column| column.slice(range.start, range.len())).collect();
            let extent = Extent { is_first: true, is_complete: true, horizon: None };
            let mut rows = Rows::new(columns, range.len(), self.time(), extent)?;
            let mut scan = Scan::new(self, Stand::default());
            let mut sightings: Vec<Sighting> = Vec::new();
            let mut n_sighted = 0;
            while !scan.is_at_end(&rows) {
                match scan.advance(&mut rows, is_wanted)? {
                    Advance::Done(sighting) => {
                        n_sighted += sighting.as_ref().map_or(0, Sighting::n_rows_max);
                        sightings.extend(sighting);
                    }
                    Advance::Unread => unreachable!("all rows of the partition are there"),
                }
                if n_sighted >= BATCH_ROWS || (scan.is_at_end(&rows) && !sightings.is_empty()) {
                    if !is_wanted() {
                        return Err(crate::Error::Cancelled.into());
                    }
                    let shown = self.show(&sightings, &rows)?;
                    n_pending += shown.n_rows;
                    let options = RecordBatchOptions::new().with_row_count(Some(shown.n_rows));
                    pending.push(RecordBatch::try_new_with_options(schema.clone(), shown.columns, &options)?);
                    sightings.clear();
                    n_sighted = 0;
                }
                if n_pending >= BATCH_ROWS {
                    emit(concat_batches(schema, &pending)?)?;
                    pending.clear();
                    n_pending = 0;
                }
            }
        }
        match n_pending {
            0 => Ok(()),
            _ => emit(concat_batches(schema, &pending)?),
        }
    }
}
