//! `ASOF JOIN`: what the node says, and how a SELECT runs it.
//!
//! A SELECT sorts the right side by key, time and the pair's columns, and looks each left row up in it. The incremental
//! operator is the engine's.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{SortOptions, concat_batches, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::TryStreamExt;

use crate::node::IncrementalNode;
use crate::operator::{Operator, Trim};

/// `ASOF JOIN`: each left row with the one right row of its key that is nearest in time. Inputs: left, right, of which
/// the first `n_left` and `n_right` columns are the pair's; behind them stand computed keys and times. Output: the
/// left's columns, then the right's, which are NULL where there is no such row.
///
/// Of right rows of one key and time, the first in the order of the pair's columns counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asof {
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    /// Times or integers, of one type on both sides.
    pub left_time: usize,
    pub right_time: usize,
    pub nearest: Nearest,
    pub n_left: usize,
    pub n_right: usize,
    /// Left rows without a right one stay.
    pub is_outer: bool,
    /// When rows can be forgotten because their matches are settled. Only of [`Nearest::Before`] and
    /// [`Nearest::AtOrBefore`].
    pub trim: Option<Box<Trim>>,
}

impl Asof {
    /// In a plan, with names for the columns of the two inputs.
    pub fn fmt_with(&self, name: &dyn Fn(usize, usize) -> String, f: &mut fmt::Formatter) -> fmt::Result {
        let keys = self.left_keys.iter().zip(&self.right_keys);
        let keys: Vec<_> =
            keys.map(|(left, right)| format!("{} = {}", name(0, *left), name(1, *right))).collect();
        write!(
            f,
            "{} on=[{}] nearest=[{} {} {}]",
            if self.is_outer { "Left" } else { "Inner" },
            keys.join(", "),
            name(0, self.left_time),
            self.nearest.comparison(),
            name(1, self.right_time)
        )
    }
}

/// Which right rows come into question, by how their time stands to the left row's; the nearest of them counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nearest {
    /// left >= right
    AtOrBefore,
    /// left > right
    Before,
    /// left <= right
    AtOrAfter,
    /// left < right
    After,
}

impl Nearest {
    /// Whether it is the last one up to a time, rather than the first one from it.
    pub fn looks_back(self) -> bool {
        matches!(self, Nearest::AtOrBefore | Nearest::Before)
    }

    /// Whether a right row of the left row's own time does not count.
    pub fn is_strict(self) -> bool {
        matches!(self, Nearest::Before | Nearest::After)
    }

    /// The comparison of the left time with the right one.
    pub fn comparison(self) -> &'static str {
        match self {
            Nearest::AtOrBefore => ">=",
            Nearest::Before => ">",
            Nearest::AtOrAfter => "<=",
            Nearest::After => "<",
        }
    }
}

/// Plans the nodes of a SELECT.
#[derive(Debug)]
pub struct AsofPlanner;

#[async_trait]
impl ExtensionPlanner for AsofPlanner {
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
        let (Operator::Asof(asof), [left, right]) = (&node.operator, inputs) else { return Ok(None) };
        let schema = Arc::new(node.schema.as_arrow().clone());
        Ok(Some(Arc::new(AsofExec::new(Arc::new(asof.clone()), left.clone(), right.clone(), schema))))
    }
}

/// Looks the left rows up among the right ones.
#[derive(Debug)]
struct AsofExec {
    asof: Arc<Asof>,
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl AsofExec {
    fn new(
        asof: Arc<Asof>,
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
    ) -> AsofExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(left.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        AsofExec { asof, left, right, properties: Arc::new(properties) }
    }
}

impl DisplayAs for AsofExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "AsofExec: ")?;
        let name = |input: usize, column: usize| {
            [&self.left, &self.right][input].schema().field(column).name().clone()
        };
        self.asof.fmt_with(&name, f)
    }
}

impl ExecutionPlan for AsofExec {
    fn name(&self) -> &str {
        "AsofExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left, &self.right]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let by = |input: &Arc<dyn ExecutionPlan>, keys: &[usize]| {
            let schema = input.schema();
            let column = |idx: &usize| -> Arc<dyn PhysicalExpr> {
                Arc::new(Column::new(schema.field(*idx).name(), *idx))
            };
            Distribution::KeyPartitioned(keys.iter().map(column).collect())
        };
        if self.asof.left_keys.is_empty() {
            let single = Distribution::SinglePartition;
            return InputDistributionRequirements::new(vec![single.clone(), single]);
        }
        InputDistributionRequirements::co_partitioned(vec![
            by(&self.left, &self.asof.left_keys),
            by(&self.right, &self.asof.right_keys),
        ])
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
        let Ok([left, right]) = <[_; 2]>::try_from(children) else {
            return internal_err!("a join has two inputs");
        };
        Ok(Arc::new(AsofExec::new(self.asof.clone(), left, right, self.schema())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let left = self.left.execute(partition, context.clone())?;
        let right = self.right.execute(partition, context.clone())?;
        let reservation = MemoryConsumer::new("AsofExec").register(context.memory_pool());
        let (asof, schema) = (self.asof.clone(), self.schema());
        let joined = futures::stream::once(async move {
            let sorted = Sorted::collect(&asof, right, reservation).await?;
            Ok::<_, DataFusionError>(left.and_then(move |batch| {
                let joined = sorted.join(&asof, &batch, &schema);
                async move { joined }
            }))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), joined.try_flatten())))
    }
}

/// The right side: for each left row, the first one from its place on is the match, if it is of its key.
struct Sorted {
    /// The rows that have a key and a time.
    rows: RecordBatch,
    order: Vec<u64>,
    /// Keys and times, the time downwards where the join looks back.
    places: Rows,
    converter: RowConverter,
    _reservation: MemoryReservation,
}

/// How many bytes a time takes behind the key.
fn time_bytes(time: &ArrayRef) -> usize {
    1 + time.data_type().primitive_width().expect("times are numbers of ticks")
}

/// The key of a place.
fn key(place: &[u8], time_bytes: usize) -> &[u8] {
    &place[..place.len() - time_bytes]
}

impl Sorted {
    async fn collect(
        asof: &Asof,
        mut input: SendableRecordBatchStream,
        reservation: MemoryReservation,
    ) -> Result<Sorted> {
        let schema = input.schema();
        let mut batches = Vec::new();
        while let Some(batch) = input.try_next().await? {
            // The rows, and what they are sorted by.
            reservation.try_grow(3 * batch.get_array_memory_size())?;
            batches.push(batch);
        }
        let rows = concat_batches(&schema, &batches)?;
        drop(batches);
        let column = |idx: usize| rows.column(idx).clone();
        let placed: Vec<ArrayRef> =
            asof.right_keys.iter().chain([&asof.right_time]).map(|idx| column(*idx)).collect();
        let field = |idx: usize| {
            let descending = idx == asof.right_keys.len() && asof.nearest.looks_back();
            let options = SortOptions { descending, nulls_first: true };
            SortField::new_with_options(placed[idx].data_type().clone(), options)
        };
        let converter = RowConverter::new((0..placed.len()).map(field).collect())?;
        let places = converter.convert_columns(&placed)?;
        let pair: Vec<ArrayRef> = (0..asof.n_right).map(column).collect();
        let fields = pair.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let ties = RowConverter::new(fields)?.convert_columns(&pair)?;
        let has_place = |row: &u64| placed.iter().all(|column| column.is_valid(*row as usize));
        let mut order: Vec<u64> = (0..rows.num_rows() as u64).filter(has_place).collect();
        order.sort_unstable_by(|a, b| {
            let (a, b) = (*a as usize, *b as usize);
            places.row(a).cmp(&places.row(b)).then_with(|| ties.row(a).cmp(&ties.row(b)))
        });
        Ok(Sorted { rows, order, places, converter, _reservation: reservation })
    }

    fn join(&self, asof: &Asof, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let placed: Vec<ArrayRef> =
            asof.left_keys.iter().chain([&asof.left_time]).map(|idx| batch.column(*idx).clone()).collect();
        let places = self.converter.convert_columns(&placed)?;
        let time_bytes = time_bytes(&placed[asof.left_keys.len()]);
        let matched = |row: usize| -> Option<u64> {
            if placed.iter().any(|column| column.is_null(row)) {
                return None;
            }
            let place = places.row(row);
            let is_before = |right: &u64| {
                let right = self.places.row(*right as usize);
                if asof.nearest.is_strict() { right <= place } else { right < place }
            };
            let found = self.order.get(self.order.partition_point(is_before))?;
            let (right, left) = (self.places.row(*found as usize), place);
            let is_same = key(right.as_ref(), time_bytes) == key(left.as_ref(), time_bytes);
            is_same.then_some(*found)
        };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let matched = matched(row);
            if matched.is_some() || asof.is_outer {
                left.push(row as u64);
                right.push(matched);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
        let (left, right) = (UInt64Array::from(left), UInt64Array::from(right));
        let mut columns = Vec::with_capacity(schema.fields().len());
        for column in &batch.columns()[..asof.n_left] {
            columns.push(take(column, &left, None)?);
        }
        for column in &self.rows.columns()[..asof.n_right] {
            columns.push(take(column, &right, None)?);
        }
        Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
    }
}
