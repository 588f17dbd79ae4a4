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

use crate::Error;
use crate::operators::BATCH_ROWS;
use crate::view::ViewSnapshot;

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
        let exec =
            ViewExec::new(self.snapshot.clone(), projection.cloned(), prefix, n_values, n_lanes, limit);
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
            Some(columns) => {
                Arc::new(snapshot.schema.project(columns).expect("DataFusion projects what there is"))
            }
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
        let names: Vec<_> =
            layout.columns()[..self.n_values].iter().map(|column| column.name.as_str()).collect();
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

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::physical_plan::collect;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use tidemill_core::{Delta, Epoch};

    use super::*;
    use crate::view::View;

    /// Keys 0 to n−1 in steps, so that there are several runs; every third row stands there twice, every fifth is gone.
    fn view(n: i64) -> Arc<ViewSnapshot> {
        let fields = vec![Field::new("text", DataType::Utf8, true), Field::new("k", DataType::Int64, true)];
        let schema = Arc::new(Schema::new(fields));
        let view = View::new(schema.clone(), &[1], 2).unwrap();
        let add = |part: usize, keys: Vec<i64>, weight: i64| {
            let texts = keys.iter().map(|key| Some(format!("row {key}")));
            let columns: Vec<arrow::array::ArrayRef> =
                vec![Arc::new(StringArray::from_iter(texts)), Arc::new(Int64Array::from(keys.clone()))];
            let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
            let weights = Arc::new(Int64Array::from(vec![weight; keys.len()]));
            view.add(part, Delta::weighted(&rows, weights).batch()).unwrap();
        };
        for part in 0..2 {
            let of_part = |every: i64| (0..n).filter(|key| key % 2 == part && key % every == 0).collect();
            add(part as usize, of_part(1), 1);
            add(part as usize, of_part(3), 1);
            add(part as usize, of_part(15), -1);
            add(part as usize, of_part(5), -1);
        }
        view.snapshot(Epoch(1))
    }

    async fn keys(snapshot: &Arc<ViewSnapshot>, n_lanes: usize, limit: Option<usize>) -> Vec<i64> {
        let exec = ViewExec::new(snapshot.clone(), Some(vec![1]), Vec::new(), 0, n_lanes, limit);
        let batches = collect(Arc::new(exec), SessionContext::new().task_ctx()).await.unwrap();
        assert!(batches.iter().all(|batch| batch.num_columns() == 1 && batch.num_rows() <= BATCH_ROWS));
        let keys =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        keys.collect()
    }

    #[tokio::test]
    async fn lanes_together_read_every_row_once() {
        let snapshot = view(40_000);
        let mut expected: Vec<i64> = (0..40_000)
            .filter(|key| key % 5 != 0)
            .flat_map(|key| std::iter::repeat_n(key, if key % 3 == 0 { 2 } else { 1 }))
            .collect();
        for n_lanes in [1, 2, 7] {
            let mut read = keys(&snapshot, n_lanes, None).await;
            read.sort_unstable();
            assert_eq!(read, expected, "{n_lanes} lanes");
        }
        expected.truncate(BATCH_ROWS + 10);
        assert_eq!(keys(&snapshot, 1, Some(BATCH_ROWS + 10)).await, expected);
    }

    #[tokio::test]
    async fn copies_beyond_a_batch_are_read_in_pieces() {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        let view = View::new(schema.clone(), &[], 1).unwrap();
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
        let n = BATCH_ROWS as i64 * 3;
        view.add(0, Delta::weighted(&rows, Arc::new(Int64Array::from(vec![n, 1]))).batch()).unwrap();
        let snapshot = view.snapshot(Epoch(1));
        let exec = ViewExec::new(snapshot, None, Vec::new(), 0, 1, None);
        let batches = collect(Arc::new(exec), SessionContext::new().task_ctx()).await.unwrap();
        let lens: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(lens, [BATCH_ROWS, BATCH_ROWS, BATCH_ROWS, 1]);
    }

    #[tokio::test]
    async fn filters_on_the_key_find_rows_without_reading_the_others() {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        context.register_table("v", Arc::new(ViewTable::new(view(1_000)))).unwrap();
        for (filter, is_by_key, n) in [
            ("k = 7", true, 1),
            ("9 = k AND text LIKE 'row%'", true, 2),
            ("k = 10", true, 0),
            ("k = 7.5", false, 0),
            ("text = 'row 7'", false, 1),
            ("k = 7 OR k = 9", false, 3),
            ("k > 996", false, 4),
            ("k IS NULL", false, 0),
        ] {
            let frame = context.sql(&format!("SELECT * FROM v WHERE {filter}")).await.unwrap();
            let plan = frame.clone().create_physical_plan().await.unwrap();
            let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
            assert_eq!(shown.contains("ViewExec: key=[k]"), is_by_key, "{filter}: {shown}");
            assert_eq!(frame.count().await.unwrap(), n, "{filter}");
        }
    }
}
