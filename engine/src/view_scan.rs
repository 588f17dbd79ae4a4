//! SELECT over a view: rows are decoded as they are asked for, in lanes, and found by the view's key or an index where filters
//! allow that.
//!
//! What is small is decoded once and kept with the snapshot, for the next SELECT over the same. What is not is read
//! run by run where it lies, so that a SELECT over a view that is bigger than memory takes the memory of its answer.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, Statistics, internal_err};
use datafusion::datasource::MemTable;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream;
use tidemill_core::Epoch;
use tidemill_plan::RelationId;
use tidemill_storage::{Snapshot, SortColumn};

use crate::Error;
use crate::key_ranges::{KeyRange, KeyRanges, values};
use crate::operators::BATCH_ROWS;
use crate::view::{Order, View, ViewSnapshot};

/// Below this a view is decoded whole, and stays so.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Below this it is not worth while to read a view in lanes.
const LANE_ROWS_MIN: usize = 64 * 1024;

/// A snapshot as a table.
#[derive(Debug)]
pub struct ViewTable {
    snapshot: Arc<ViewSnapshot>,
    reuse: Option<Reuse>,
}

/// For a plan that is to run again, over other snapshots and with other values of its parameters.
#[derive(Debug, Clone)]
struct Reuse {
    id: RelationId,
    /// The values that it is planned with.
    params: Arc<[ScalarValue]>,
}

/// What is to be read of a snapshot.
#[derive(Debug, Clone)]
struct Way {
    /// Which of its orders is read.
    order: usize,
    /// Of how many columns of that order something is known.
    n_columns: usize,
    ranges: KeyRanges,
    /// About how many rows there are.
    n_rows: usize,
}

impl Way {
    fn all(snapshot: &ViewSnapshot) -> Way {
        Way { order: 0, n_columns: 0, ranges: KeyRanges::all(), n_rows: snapshot.order(0).rows.n_rows_max() }
    }

    fn write(&self, order: Order<'_>, f: &mut impl fmt::Write) -> fmt::Result {
        if self.n_columns == 0 {
            return write!(f, "all rows");
        }
        if let Some(index) = order.index {
            write!(f, "index=[{}] ", index.name)?;
        }
        let columns = &order.rows.layout().columns()[..self.n_columns];
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        write!(f, "key=[{}]", names.join(", "))?;
        match self.ranges.0.len() {
            1 => Ok(()),
            n_ranges => write!(f, " ranges={n_ranges}"),
        }
    }
}

impl ViewTable {
    pub fn new(snapshot: Arc<ViewSnapshot>) -> ViewTable {
        ViewTable { snapshot, reuse: None }
    }

    /// For a plan that is to run more than once, each time by [`bind_plan`]. `params` are values that its parameters may have.
    pub fn reusable(id: RelationId, snapshot: Arc<ViewSnapshot>, params: Arc<[ScalarValue]>) -> ViewTable {
        ViewTable { snapshot, reuse: Some(Reuse { id, params }) }
    }

    /// A filter with values for its parameters.
    fn bound(&self, filter: &Expr) -> Result<Expr> {
        match &self.reuse {
            Some(reuse) => bind_expr(filter, &reuse.params),
            None => Ok(filter.clone()),
        }
    }

    /// How the rows that pass `filters` are found, as EXPLAIN says it.
    pub fn explain(&self, filters: &[Expr]) -> Result<String> {
        let way = way(&self.snapshot, filters)?;
        let mut text = String::new();
        way.write(self.snapshot.order(way.order), &mut text).expect("a string takes everything");
        Ok(text)
    }
}

/// Whether a snapshot is decoded as a whole, once.
fn is_kept(snapshot: &ViewSnapshot) -> bool {
    snapshot.is_decoded() || snapshot.size().bytes < KEPT_BYTES_MAX as u64
}

/// The order in which the rows of a snapshot that pass `filters` lie closest together.
fn way(snapshot: &ViewSnapshot, filters: &[Expr]) -> Result<Way> {
    let all = Way::all(snapshot);
    if filters.is_empty() {
        return Ok(all);
    }
    // By column, whatever the order: values have the same bytes in all of them.
    let mut known: HashMap<&str, Option<KeyRanges>> = HashMap::new();
    let mut best: Option<Way> = None;
    for (idx, order) in snapshot.orders().enumerate() {
        let mut way = Way { order: idx, ..all.clone() };
        for column in order.rows.layout().columns() {
            if !known.contains_key(column.name.as_str()) {
                known.insert(&column.name, values_of(filters, column)?);
            }
            let Some(values) = &known[column.name.as_str()] else { break };
            way.n_columns += 1;
            if !way.ranges.narrow(values) {
                break;
            }
        }
        if way.n_columns == 0 {
            continue;
        }
        way.n_rows = way.ranges.n_rows(order.rows);
        let cost = |way: &Way| (way.n_rows, std::cmp::Reverse(way.n_columns));
        if best.as_ref().is_none_or(|best| cost(&way) < cost(best)) {
            best = Some(way);
        }
    }
    // What is decoded already is read faster. Of a batch's rows it makes no difference.
    let is_worse = |way: &Way| is_kept(snapshot) && all.n_rows > BATCH_ROWS && way.n_rows > all.n_rows / 2;
    Ok(best.filter(|way| !is_worse(way)).unwrap_or(all))
}

/// Where the values of a column lie in rows that pass all of some filters, if these say something about that.
fn values_of(filters: &[Expr], column: &SortColumn) -> Result<Option<KeyRanges>> {
    let mut known: Option<KeyRanges> = None;
    for filter in filters {
        let Some(values) = values(filter, column)? else { continue };
        known = Some(known.map_or_else(|| values.clone(), |known| known.intersection(&values)));
    }
    Ok(known)
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
        let layout = self.snapshot.order(0).rows.layout();
        // A filter stays where it is: what is found is no less than what it lets through, and may be more.
        let support = |filter: &&Expr| {
            let columns = filter.column_refs();
            let is_in = |column: &&SortColumn| columns.iter().any(|known| known.name == column.name);
            let filter = self.bound(filter)?;
            for column in layout.columns().iter().filter(is_in) {
                if values(&filter, column)?.is_some() {
                    return Ok(TableProviderFilterPushDown::Inexact);
                }
            }
            Ok(TableProviderFilterPushDown::Unsupported)
        };
        filters.iter().map(support).collect()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let bound = filters.iter().map(|filter| self.bound(filter)).collect::<Result<Vec<_>>>()?;
        let way = way(&self.snapshot, &bound)?;
        if way.n_columns == 0 && is_kept(&self.snapshot) && self.reuse.is_none() {
            let batches = self.snapshot.batches()?;
            let table = MemTable::try_new(self.snapshot.schema.clone(), vec![batches])?;
            return table.scan(state, projection, filters, limit).await;
        }
        let n_lanes = match way.n_rows {
            LANE_ROWS_MIN.. => state.config().target_partitions(),
            _ => 1,
        };
        let mut exec = ViewExec::new(self.snapshot.clone(), projection.cloned(), way, n_lanes, limit);
        exec.again = self.reuse.as_ref().map(|reuse| Again { id: reuse.id, filters: filters.to_vec() });
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
    way: Way,
    /// What each lane reads of it.
    lanes: Vec<Arc<[KeyRange]>>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
    again: Option<Again>,
}

/// What a scan is of, in a plan that is run more than once.
#[derive(Debug, Clone)]
struct Again {
    id: RelationId,
    filters: Vec<Expr>,
}

/// A plan over [reusable](ViewTable::reusable) tables, to be run once, over these snapshots and with these values of its
/// parameters. What it has done before is forgotten.
pub fn bind_plan(
    plan: &Arc<dyn ExecutionPlan>,
    snapshots: &BTreeMap<RelationId, Arc<ViewSnapshot>>,
    params: &[ScalarValue],
) -> Result<Arc<dyn ExecutionPlan>> {
    let bound = plan.clone().transform_up(|node| {
        let Some(exec) = node.downcast_ref::<ViewExec>() else {
            return Ok(Transformed::yes(node.reset_state()?));
        };
        let Some(Again { id, filters }) = &exec.again else {
            return internal_err!("a plan that is run again reads one snapshot");
        };
        let Some(snapshot) = snapshots.get(id) else {
            return internal_err!("there is no snapshot of relation {id}");
        };
        let filters = filters.iter().map(|filter| bind_expr(filter, params)).collect::<Result<Vec<_>>>()?;
        let way = way(snapshot, &filters)?;
        // The plan above counts on as many lanes as there were.
        let mut lanes = dealt(snapshot.order(way.order).rows, &way.ranges, exec.lanes.len());
        lanes.resize_with(exec.lanes.len(), || Arc::from([]));
        let bound: Arc<dyn ExecutionPlan> = Arc::new(ViewExec {
            snapshot: snapshot.clone(),
            projection: exec.projection.clone(),
            way,
            lanes,
            limit: exec.limit,
            properties: exec.properties.clone(),
            again: exec.again.clone(),
        });
        Ok(Transformed::yes(bound))
    })?;
    Ok(bound.data)
}

/// A plan over [reusable](ViewTable::reusable) tables without the snapshots that it was made over: it may be kept for long.
pub fn without_snapshots(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let released = plan.transform_up(|node| {
        let Some(exec) = node.downcast_ref::<ViewExec>() else { return Ok(Transformed::no(node)) };
        let snapshot = View::new(exec.snapshot.schema.clone(), &[], 1)?.snapshot(Epoch::ZERO);
        let released: Arc<dyn ExecutionPlan> = Arc::new(ViewExec {
            way: Way::all(&snapshot),
            snapshot,
            projection: exec.projection.clone(),
            lanes: vec![Arc::from([]); exec.lanes.len()],
            limit: exec.limit,
            properties: exec.properties.clone(),
            again: exec.again.clone(),
        });
        Ok(Transformed::yes(released))
    })?;
    Ok(released.data)
}

/// An expression with values in the places of its parameters, casts of these done.
fn bind_expr(expr: &Expr, params: &[ScalarValue]) -> Result<Expr> {
    let bound = expr.clone().transform_up(|expr| {
        let value = match &expr {
            Expr::Placeholder(placeholder) => {
                let number = placeholder.id.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
                number.and_then(|number| params.get(number.checked_sub(1)?)).cloned()
            }
            Expr::Cast(cast) => match cast.expr.as_ref() {
                Expr::Literal(value, _) => value.cast_to(cast.field.data_type()).ok(),
                _ => None,
            },
            _ => None,
        };
        Ok(match value {
            Some(value) => Transformed::yes(Expr::Literal(value, None)),
            None => Transformed::no(expr),
        })
    })?;
    Ok(bound.data)
}

/// Deals ranges out to lanes.
fn dealt(rows: &Snapshot, ranges: &KeyRanges, n_lanes: usize) -> Vec<Arc<[KeyRange]>> {
    let [range] = &ranges.0[..] else {
        let n_each = ranges.0.len().div_ceil(n_lanes).max(1);
        let lanes: Vec<Arc<[KeyRange]>> = ranges.0.chunks(n_each).map(Arc::from).collect();
        return if lanes.is_empty() { vec![Arc::from([])] } else { lanes };
    };
    let splits = rows.splits(&range.from, range.to.as_deref(), n_lanes);
    let starts = std::iter::once(&range.from).chain(&splits);
    let ends = splits.iter().map(|split| Some(split.clone())).chain([range.to.clone()]);
    let lane = |(from, to): (&Vec<u8>, Option<Vec<u8>>)| {
        Arc::from([KeyRange { from: from.clone(), to, is_value: false }])
    };
    starts.zip(ends).map(lane).collect()
}

impl ViewExec {
    fn new(
        snapshot: Arc<ViewSnapshot>,
        projection: Option<Vec<usize>>,
        way: Way,
        n_lanes: usize,
        limit: Option<usize>,
    ) -> ViewExec {
        let schema = match &projection {
            Some(columns) => {
                Arc::new(snapshot.schema.project(columns).expect("DataFusion projects what there is"))
            }
            None => snapshot.schema.clone(),
        };
        let lanes = dealt(snapshot.order(way.order).rows, &way.ranges, n_lanes);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(lanes.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        ViewExec { snapshot, projection, way, lanes, limit, properties: Arc::new(properties), again: None }
    }

    /// A lane of all rows, which are decoded already or are to be.
    fn decoded(&self, partition: usize) -> Result<SendableRecordBatchStream> {
        let mut n_left = if partition == 0 { self.limit.unwrap_or(usize::MAX) } else { 0 };
        let mut batches = Vec::new();
        for batch in self.snapshot.batches()? {
            let batch = batch.slice(0, batch.num_rows().min(n_left));
            n_left -= batch.num_rows();
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        Ok(Box::pin(MemoryStream::try_new(batches, self.schema(), self.projection.clone())?))
    }
}

impl DisplayAs for ViewExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ViewExec: ")?;
        self.way.write(self.snapshot.order(self.way.order), f)
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
        if self.again.is_some() && self.way.n_columns == 0 && is_kept(&self.snapshot) {
            return self.decoded(partition);
        }
        let ranges = self.lanes[partition].clone();
        let order = self.snapshot.order(self.way.order);
        let reader = Reader {
            positions: ranges.first().map_or_else(Vec::new, |range| order.rows.positions(&range.from)),
            snapshot: self.snapshot.clone(),
            order: self.way.order,
            projection: self.projection.clone(),
            ranges,
            range_idx: 0,
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
    order: usize,
    projection: Option<Vec<usize>>,
    /// Where it stands in each run.
    positions: Vec<usize>,
    ranges: Arc<[KeyRange]>,
    /// In which of them it stands; behind the last one at the end.
    range_idx: usize,
    /// A row of which not all copies are out.
    copies: Option<(Vec<u8>, i64)>,
    n_left: usize,
}

impl Reader {
    fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        let n_max = BATCH_ROWS.min(self.n_left);
        let mut rows: Vec<&[u8]> = Vec::with_capacity(n_max.min(64));
        let copies = self.copies.take();
        if let Some((row, n_copies)) = &copies {
            let n_now = (*n_copies).min(n_max as i64);
            rows.extend(std::iter::repeat_n(row.as_slice(), n_now as usize));
            if n_now < *n_copies {
                self.copies = Some((row.clone(), n_copies - n_now));
            }
        }
        let order = self.snapshot.order(self.order);
        let mut cursor = match self.ranges.is_empty() {
            true => return Ok(None),
            false => order.rows.cursor_at(&self.positions),
        };
        while rows.len() < n_max && self.range_idx < self.ranges.len() {
            let Some((row, weight)) = cursor.next() else {
                self.range_idx = self.ranges.len();
                break;
            };
            let n_behind =
                self.ranges[self.range_idx..].iter().take_while(|range| range.is_below(row)).count();
            self.range_idx += n_behind;
            let Some(range) = self.ranges.get(self.range_idx) else { break };
            if row < range.from.as_slice() {
                cursor.seek(&range.from);
                continue;
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
        let mut batch = order.shape.decode(&rows)?;
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
    use tidemill_plan::RelationId;

    use super::*;
    use crate::index::IndexSpec;
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
        let way = Way::all(snapshot);
        let exec = ViewExec::new(snapshot.clone(), Some(vec![1]), way, n_lanes, limit);
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
        let way = Way::all(&snapshot);
        let exec = ViewExec::new(snapshot, None, way, 1, None);
        let batches = collect(Arc::new(exec), SessionContext::new().task_ctx()).await.unwrap();
        let lens: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(lens, [BATCH_ROWS, BATCH_ROWS, BATCH_ROWS, 1]);
    }

    #[tokio::test]
    async fn filters_on_the_key_find_rows_without_reading_the_others() {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        context.register_table("v", Arc::new(ViewTable::new(view(1_000)))).unwrap();
        for (filter, way, n) in [
            ("k = 7", "key=[k]", 1),
            ("9 = k AND text LIKE 'row%'", "key=[k, text]", 2),
            ("k = 10", "key=[k]", 0),
            ("k = 7.5", "", 0),
            ("text = 'row 7'", "", 1),
            ("k = 7 OR k = 9", "key=[k] ranges=2", 3),
            ("k > 996", "key=[k]", 4),
            ("997 <= k AND k < 999 AND k <> 998", "key=[k]", 1),
            ("k BETWEEN 1 AND 4", "key=[k]", 5),
            ("k IN (1, 3, 3, 5, 2000, NULL)", "key=[k] ranges=4", 3),
            ("k IN (6, 7) AND text >= 'row 7'", "key=[k, text] ranges=2", 1),
            ("k IN (6, 7) AND k > 8", "key=[k] ranges=0", 0),
            ("k = 7 OR text = 'row 9'", "", 3),
            ("k NOT IN (1, 2)", "", 1_065),
            ("k IS NULL", "key=[k]", 0),
        ] {
            assert_eq!(found(&context, filter, way).await, n, "{filter}");
        }
    }

    /// How many rows a filter finds, if that is done in the given way.
    async fn found(context: &SessionContext, filter: &str, way: &str) -> usize {
        let frame = context.sql(&format!("SELECT * FROM v WHERE {filter}")).await.unwrap();
        let plan = frame.clone().create_physical_plan().await.unwrap();
        let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
        match way.is_empty() {
            true => assert!(!shown.contains("ViewExec: "), "{filter}: {shown}"),
            false => assert!(shown.contains(&format!("ViewExec: {way}\n")), "{filter}: {shown}"),
        }
        frame.count().await.unwrap()
    }

    /// Rows of 40 times 250 keys, in an order of their own and in two others.
    fn indexed() -> Arc<ViewSnapshot> {
        let fields = [("id", DataType::Int64), ("a", DataType::Int64), ("b", DataType::Utf8)];
        let fields: Vec<Field> = fields.map(|(name, of)| Field::new(name, of, true)).into();
        let schema = Arc::new(Schema::new(fields));
        let mut view = View::new(schema.clone(), &[0], 1).unwrap();
        let index = |id: u32, name: &str, columns: &[usize]| IndexSpec {
            id: RelationId(id),
            name: name.into(),
            columns: columns.to_vec(),
        };
        // The last one is the order that the rows have anyway.
        let indexes = [index(1, "by_a", &[1]), index(2, "by_b_and_a", &[2, 1]), index(3, "by_id", &[0])];
        assert_eq!(view.set_indexes(&indexes).unwrap().len(), 2);
        for piece in 0..4 {
            let ids: Vec<i64> = (piece * 2_500..(piece + 1) * 2_500).collect();
            let columns: Vec<arrow::array::ArrayRef> = vec![
                Arc::new(Int64Array::from(ids.clone())),
                Arc::new(Int64Array::from_iter(ids.iter().map(|id| (id % 250 > 0).then_some(id % 250)))),
                Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("b{}", id % 40)))),
            ];
            let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
            view.add(0, Delta::inserts(&rows).batch()).unwrap();
        }
        view.snapshot(Epoch(1))
    }

    #[tokio::test]
    async fn an_index_finds_what_the_key_does_not() {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        context.register_table("v", Arc::new(ViewTable::new(indexed()))).unwrap();
        for (filter, way, n) in [
            ("a = 3", "index=[by_a] key=[a]", 40),
            ("a < 3", "index=[by_a] key=[a]", 80),
            ("a IS NULL", "index=[by_a] key=[a]", 40),
            ("b = 'b7'", "index=[by_b_and_a] key=[b]", 250),
            ("b LIKE 'b7%'", "index=[by_b_and_a] key=[b]", 250),
            ("b LIKE 'b3_'", "index=[by_b_and_a] key=[b]", 2_500),
            ("b LIKE '%7'", "", 1_000),
            ("b = 'b7' AND a BETWEEN 10 AND 90", "index=[by_b_and_a] key=[b, a]", 80),
            ("b IN ('b1', 'b2') AND a = 121", "index=[by_b_and_a] key=[b, a] ranges=2", 10),
            ("a = 3 AND id < 8000", "index=[by_a] key=[a, id]", 32),
            // Whichever reads fewer rows.
            ("a < 200 AND id < 10", "key=[id]", 9),
            ("a = 3 AND id < 10", "index=[by_a] key=[a, id]", 1),
            ("id = 3", "key=[id]", 1),
            // Most rows are read as they are decoded already.
            ("a > 3", "", 9_840),
        ] {
            // Some of these in the order of the layout, which has all columns.
            assert_eq!(found(&context, filter, way).await, n, "{filter}");
        }
    }
}
