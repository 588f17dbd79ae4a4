//! SELECT over a view: rows are decoded as they are asked for, in lanes, and found by key where a filter says one.
//!
//! What is small is decoded once and kept with the snapshot, for the next SELECT over the same. What is not is read
//! run by run where it lies, so that a SELECT over a view that is bigger than memory takes the memory of its answer.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, Statistics, internal_err};
use datafusion::datasource::MemTable;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream;

use crate::operators::BATCH_ROWS;
use crate::view::ViewSnapshot;
use crate::Error;

/// Below this a view is decoded whole, and stays so.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Below this it is not worth while to read a view in lanes.
const LANE_ROWS_MIN: usize = 64 * 1024;

/// A snapshot as a table.
#[derive(Debug)]
pub struct ViewTable {
    snapshot: Arc<ViewSnapshot>,
}

impl ViewTable {
    pub fn new(snapshot: Arc<ViewSnapshot>) -> ViewTable {
        ViewTable { snapshot }
    }

    /// The bytes that the rows asked for begin with, as far as `filters` say a value for the first columns of
    /// the view's key, and of how many columns that is.
    fn prefix(&self, filters: &[Expr]) -> Result<(Vec<u8>, usize)> {
        let layout = self.snapshot.arrangement().layout();
        let mut values = Vec::new();
        for position in 0..layout.n_keys() {
            let column = &layout.columns()[position];
            let wanted = filters.iter().find_map(|filter| {
                let (name, value) = equality(filter)?;
                (name == column.name).then(|| exact(value, &column.data_type)).flatten()
            });
            let Some(wanted) = wanted else { break };
            values.push(wanted.to_array()?);
        }
        let n_values = values.len();
        let prefix = layout.encode_prefix(&values).map_err(Error::from)?;
        Ok((prefix, n_values))
    }
}

/// `column = value`, either way round.
fn equality(filter: &Expr) -> Option<(&str, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else { return None };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
            Some((&column.name, value))
        }
        _ => None,
    }
}

/// The value as one of `data_type`, where equal values have equal bytes.
fn exact(value: &ScalarValue, data_type: &arrow::datatypes::DataType) -> Option<ScalarValue> {
    if value.is_null() || data_type.is_floating() || data_type.is_nested() {
        return None;
    }
    let cast = value.cast_to(data_type).ok()?;
    (cast.cast_to(&value.data_type()).ok()? == *value).then_some(cast)
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        self.snapshot.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // A filter stays where it is: what is read by key is no more than what it lets through.
        let support = |filter: &&Expr| match equality(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (prefix, n_values) = self.prefix(filters)?;
        let size = self.snapshot.size();
        if n_values == 0 && (self.snapshot.is_decoded() || size.bytes < KEPT_BYTES_MAX as u64) {
            let batches = self.snapshot.batches()?;
            let table = MemTable::try_new(self.snapshot.schema.clone(), vec![batches])?;
            return table.scan(state, projection, filters, limit).await;
        }
        let n_lanes = match n_values {
            0 if size.rows as usize >= LANE_ROWS_MIN => state.config().target_partitions(),
            _ => 1,
        };
        let exec = ViewExec::new(self.snapshot.clone(), projection.cloned(), prefix, n_values, n_lanes, limit);
        Ok(Arc::new(exec))
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.snapshot.schema);
        statistics.num_rows = Precision::Inexact(self.snapshot.size().rows as usize);
        Some(statistics)
    }
}

/// Reads a snapshot.
#[derive(Debug)]
struct ViewExec {
    snapshot: Arc<ViewSnapshot>,
    projection: Option<Vec<usize>>,
    /// What the rows begin with.
    prefix: Vec<u8>,
    /// Of how many columns.
    n_values: usize,
    /// The first row of each lane but the first.
    splits: Vec<Vec<u8>>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl ViewExec {
    fn new(
        snapshot: Arc<ViewSnapshot>,
        projection: Option<Vec<usize>>,
        prefix: Vec<u8>,
        n_values: usize,
        n_lanes: usize,
        limit: Option<usize>,
    ) -> ViewExec {
        let schema = match &projection {
            Some(columns) => Arc::new(snapshot.schema.project(columns).expect("DataFusion projects what there is")),
            None => snapshot.schema.clone(),
        };
        let splits = snapshot.arrangement().splits(n_lanes);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(splits.len() + 1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        ViewExec { snapshot, projection, prefix, n_values, splits, limit, properties: Arc::new(properties) }
    }
}

impl DisplayAs for ViewExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let layout = self.snapshot.arrangement().layout();
        let names: Vec<_> = layout.columns()[..self.n_values].iter().map(|column| column.name.as_str()).collect();
        match names.is_empty() {
            true => write!(f, "ViewExec: all rows"),
            false => write!(f, "ViewExec: key=[{}]", names.join(", ")),
        }
    }
}

impl ExecutionPlan for ViewExec {
    fn name(&self) -> &str {
        "ViewExec"
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
            return internal_err!("a view has no children");
        }
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let from = match partition {
            0 => self.prefix.clone(),
            lane => self.splits[lane - 1].clone(),
        };
        let reader = Reader {
            positions: self.snapshot.arrangement().positions(&from),
            snapshot: self.snapshot.clone(),
            projection: self.projection.clone(),
            prefix: self.prefix.clone(),
            end: self.splits.get(partition).cloned(),
            copies: None,
            n_left: self.limit.unwrap_or(usize::MAX),
        };
        let batches = stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next()?.map(|batch| (batch, reader)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// A lane of a scan.
struct Reader {
    snapshot: Arc<ViewSnapshot>,
    projection: Option<Vec<usize>>,
    /// Where it stands in each run.
    positions: Vec<usize>,
    prefix: Vec<u8>,
    /// The first row of the next lane.
    end: Option<Vec<u8>>,
    /// A row of which not all copies are out.
    copies: Option<(Vec<u8>, i64)>,
    n_left: usize,
}

impl Reader {
    fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        let n_max = BATCH_ROWS.min(self.n_left);
        let mut rows: Vec<&[u8]> = Vec::with_capacity(n_max);
        let copies = self.copies.take();
        if let Some((row, n_copies)) = &copies {
            let n_now = (*n_copies).min(n_max as i64);
            rows.extend(std::iter::repeat_n(row.as_slice(), n_now as usize));
            if n_now < *n_copies {
                self.copies = Some((row.clone(), n_copies - n_now));
            }
        }
        let mut cursor = self.snapshot.arrangement().cursor_at(&self.positions);
        while rows.len() < n_max {
            let Some((row, weight)) = cursor.next() else { break };
            if !row.starts_with(&self.prefix) || self.end.as_ref().is_some_and(|end| row >= end.as_slice()) {
                break;
            }
            if weight < 0 {
                return Err(Error::NegativeWeight { operator: "a view" });
            }
            let n_now = weight.min((n_max - rows.len()) as i64);
            rows.extend(std::iter::repeat_n(row, n_now as usize));
            if n_now < weight {
                self.copies = Some((row.to_vec(), weight - n_now));
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let positions = cursor.positions();
        let mut batch = self.snapshot.decode(&rows)?;
        if let Some(columns) = &self.projection {
            batch = batch.project(columns)?;
        }
        self.n_left -= rows.len();
        self.positions = positions;
        Ok(Some(batch))
    }
}
