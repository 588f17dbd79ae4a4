//! The readable result of a pipeline, and the rows of a table.
//!
//! A view is one arrangement per partition of the plan that fills it, and as many more for each of its indexes. Readers take a [`ViewSnapshot`], which
//! is a list of runs and never changes; the writer goes on beside them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::row::Rows;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::RelationId;
use tidemill_storage::{Arrangement, Budget, Layout, Run, Snapshot, SortColumn, sort_rows};

use crate::Error;
use crate::index::{Built, Index, IndexBuild, IndexSnapshot, IndexSpec, IsBuilt};
use crate::operators::BATCH_ROWS;
use crate::status::{IndexStatus, StateSize};

/// How rows of one schema are laid out, to be looked up by some of their columns.
#[derive(Debug)]
pub(crate) struct Shape {
    pub schema: SchemaRef,
    /// The columns in the order of the layout: the key first.
    columns: Vec<usize>,
    /// Where each column stands in the layout.
    positions: Vec<usize>,
    pub layout: Arc<Layout>,
}

impl Shape {
    /// `key` are the columns to look rows up by.
    pub fn new(schema: SchemaRef, key: &[usize]) -> Result<Shape, Error> {
        let mut columns = key.to_vec();
        columns.extend((0..schema.fields().len()).filter(|column| !key.contains(column)));
        let mut positions = vec![0; columns.len()];
        for (position, column) in columns.iter().enumerate() {
            positions[*column] = position;
        }
        let sort_columns =
            columns.iter().map(|column| SortColumn::ascending(schema.field(*column))).collect();
        let layout = Layout::new(sort_columns, key.len())?;
        Ok(Shape { schema, columns, positions, layout })
    }

    /// The keys of rows, one each; not of a layout without a key.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Rows, Error> {
        let key = &self.columns[..self.layout.n_keys()];
        let key: Vec<ArrayRef> = key.iter().map(|column| rows.column(*column).clone()).collect();
        Ok(self.layout.encode_keys(&key)?)
    }

    /// A delta as a run.
    pub fn run(&self, delta: &Delta) -> Result<Arc<Run>, Error> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| delta.batch().column(*column).clone()).collect();
        let rows = self.layout.encode_rows(&columns)?;
        Ok(sort_rows(&rows, delta.weights().values()))
    }

    /// Encoded rows as a batch of the schema.
    pub fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch, Error> {
        let columns = self.layout.decode(rows.iter().copied())?;
        let columns = self.positions.iter().map(|position| columns[*position].clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    /// What some runs show together, for readers; with the same rows in other orders.
    pub fn snapshot(
        self: &Arc<Shape>,
        epoch: Epoch,
        runs: Vec<Arc<Run>>,
        indexes: Vec<IndexSnapshot>,
    ) -> Arc<ViewSnapshot> {
        Arc::new(ViewSnapshot {
            epoch,
            schema: self.schema.clone(),
            shape: self.clone(),
            arrangement: Snapshot::of(self.layout.clone(), runs),
            indexes,
            batches: OnceLock::new(),
        })
    }
}

/// Arrangements of one layout, of which the sum counts.
#[derive(Debug)]
pub(crate) struct Parts(Vec<Mutex<Arrangement>>);

impl Parts {
    pub fn new(layout: &Arc<Layout>, n_parts: usize) -> Parts {
        Parts((0..n_parts).map(|_| Mutex::new(Arrangement::new(layout.clone()))).collect())
    }

    pub fn part(&self, part: usize) -> MutexGuard<'_, Arrangement> {
        self.0[part].lock().expect("nobody panics while adding")
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Arrangement>> {
        (0..self.0.len()).map(|part| self.part(part))
    }

    /// What each of them holds.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.all().map(|part| part.snapshot()).collect()
    }

    /// What all of them hold.
    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.all().flat_map(|part| part.current().runs().to_vec()).collect()
    }

    fn is_empty(&self) -> bool {
        self.all().all(|part| part.current().runs().is_empty())
    }

    /// Puts back what each of them held.
    fn reset(&self, snapshots: Vec<Snapshot>) {
        self.all().zip(snapshots).for_each(|(mut part, snapshot)| part.reset(snapshot));
    }

    pub fn clear(&self) {
        self.all().for_each(|mut part| part.replace(Vec::new()));
    }
}

/// Rows of one schema, looked up by some of their columns.
#[derive(Debug)]
pub(crate) struct View {
    shape: Arc<Shape>,
    parts: Parts,
    indexes: Vec<Index>,
    budget: Option<Arc<Budget>>,
}

/// What a view and its indexes held at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    rows: Vec<Snapshot>,
    indexes: Vec<Vec<Snapshot>>,
}

impl View {
    /// An empty view of `n_parts` parts; `key` are the columns to look rows up by.
    pub fn new(schema: SchemaRef, key: &[usize], n_parts: usize) -> Result<View, Error> {
        let shape = Arc::new(Shape::new(schema, key)?);
        let parts = Parts::new(&shape.layout, n_parts);
        Ok(View { shape, parts, indexes: Vec::new(), budget: None })
    }

    /// Keeps its memory within a budget, together with what else has that.
    pub fn keep_within(&mut self, budget: &Arc<Budget>) {
        self.all_parts().flat_map(Parts::all).for_each(|mut part| part.keep_within(budget));
        self.budget = Some(budget.clone());
    }

    /// Moves memory to disk where there is more of it than the budget allows.
    pub fn relieve(&self) {
        self.all_parts().flat_map(Parts::all).for_each(|mut part| part.relieve());
    }

    fn all_parts(&self) -> impl Iterator<Item = &Parts> {
        std::iter::once(&self.parts).chain(self.indexes.iter().map(Index::parts))
    }

    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// Lets the view have these indexes and no others, but none for an order in which its rows stand anyway. Gives who
    /// says when they are ready.
    pub fn set_indexes(&mut self, specs: &[IndexSpec]) -> Result<Vec<IsBuilt>, Error> {
        let is_needed = |spec: &&IndexSpec| !self.shape.columns.starts_with(&spec.columns);
        let is_empty = self.parts.is_empty();
        let mut indexes = Vec::new();
        for spec in specs.iter().filter(is_needed) {
            let is_it = |index: &Index| index.spec == *spec;
            if !self.indexes.iter().any(is_it) {
                indexes.push(Index::new(spec, &self.shape, self.parts.0.len(), is_empty)?);
            }
        }
        if let Some(budget) = &self.budget {
            indexes
                .iter()
                .flat_map(|index| index.parts().all())
                .for_each(|mut part| part.keep_within(budget));
        }
        self.indexes.retain(|index| specs.contains(&index.spec));
        self.indexes.append(&mut indexes);
        // Of two in one order the same is used each time.
        self.indexes.sort_by_key(|index| specs.iter().position(|spec| *spec == index.spec));
        Ok(self.indexes.iter_mut().map(Index::ask).collect())
    }

    /// The indexes that a checkpoint of now has.
    pub fn indexes_ready(&self) -> Vec<RelationId> {
        self.indexes.iter().filter(|index| index.is_ready()).map(|index| index.spec.id).collect()
    }

    /// Begins to build the indexes that wait for that: each to be run beside what goes on.
    pub fn begin_builds(&mut self) -> Vec<IndexBuild> {
        let (shape, parts, budget) = (&self.shape, &self.parts, self.budget.as_ref());
        self.indexes.iter_mut().filter_map(|index| index.begin_build(shape, parts, budget)).collect()
    }

    /// Takes over what was built, and says whether snapshots have an index more from now on.
    pub fn finish_build(&mut self, built: Built) -> bool {
        let index = self.indexes.iter_mut().find(|index| index.spec.id == built.id);
        index.is_some_and(|index| index.finish_build(built))
    }

    /// Adds a delta to a part.
    pub fn add(&self, part: usize, delta: &RecordBatch) -> Result<(), Error> {
        if delta.num_rows() == 0 {
            return Ok(());
        }
        let delta = Delta::new(delta.clone());
        let run = self.shape.run(&delta)?;
        self.parts.part(part).append(run);
        self.indexes.iter().try_for_each(|index| index.add(part, &delta))
    }

    /// What every part holds.
    pub fn parts(&self) -> Vec<Snapshot> {
        self.parts.snapshots()
    }

    /// What all of it holds.
    pub fn held(&self) -> Held {
        let indexes = self.indexes.iter().map(|index| index.parts().snapshots()).collect();
        Held { rows: self.parts.snapshots(), indexes }
    }

    /// Puts back what all of it held. It has the indexes that it had then.
    pub fn reset(&self, held: Held) {
        self.parts.reset(held.rows);
        self.indexes.iter().zip(held.indexes).for_each(|(index, held)| index.parts().reset(held));
    }

    /// What a checkpoint keeps of the indexes, by names.
    pub fn captured_indexes(&self) -> impl Iterator<Item = (String, Snapshot)> {
        self.indexes.iter().flat_map(Index::capture)
    }

    /// Takes over the runs of a checkpoint, and of its indexes what that has under their names. Any number of parts fits:
    /// their sum is what counts.
    pub fn restore<'a>(&mut self, runs: Vec<Arc<Run>>, stored: impl Fn(&str) -> Option<&'a Vec<Arc<Run>>>) {
        self.parts.part(0).replace(runs);
        self.indexes.iter_mut().for_each(|index| index.restore(&stored));
    }

    /// What the view shows now, for readers.
    pub fn snapshot(&self, epoch: Epoch) -> Arc<ViewSnapshot> {
        let indexes = self.indexes.iter().filter_map(Index::snapshot).collect();
        self.shape.snapshot(epoch, self.parts.runs(), indexes)
    }
}

/// A view at an epoch.
#[derive(Debug)]
pub struct ViewSnapshot {
    pub epoch: Epoch,
    pub schema: SchemaRef,
    shape: Arc<Shape>,
    arrangement: Snapshot,
    /// The same rows in other orders.
    indexes: Vec<IndexSnapshot>,
    batches: OnceLock<Vec<RecordBatch>>,
}

/// An order in which a snapshot has its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    /// Whose it is, unless it is the view's own.
    pub index: Option<&'a IndexSpec>,
    pub shape: &'a Arc<Shape>,
    pub rows: &'a Snapshot,
}

impl IndexSnapshot {
    fn order(&self) -> Order<'_> {
        Order { index: Some(&self.spec), shape: &self.shape, rows: &self.rows }
    }
}

impl ViewSnapshot {
    /// The orders in which it has its rows, its own first.
    pub(crate) fn orders(&self) -> impl Iterator<Item = Order<'_>> {
        let own = Order { index: None, shape: &self.shape, rows: &self.arrangement };
        std::iter::once(own).chain(self.indexes.iter().map(IndexSnapshot::order))
    }

    /// One of its orders.
    pub(crate) fn order(&self, idx: usize) -> Order<'_> {
        self.orders().nth(idx).expect("a snapshot keeps its orders")
    }

    /// With changes behind the rows, in all orders.
    pub(crate) fn with(&self, changes: &Delta) -> Result<Arc<ViewSnapshot>, Error> {
        let behind = |shape: &Shape, rows: &Snapshot| -> Result<Vec<Arc<Run>>, Error> {
            Ok(rows.runs().iter().cloned().chain([shape.run(changes)?]).collect())
        };
        let mut indexes = self.indexes.clone();
        for index in &mut indexes {
            index.rows = Snapshot::of(index.shape.layout.clone(), behind(&index.shape, &index.rows)?);
        }
        Ok(self.shape.snapshot(self.epoch, behind(&self.shape, &self.arrangement)?, indexes))
    }

    /// The rows, copies repeated, in batches. Computed once, whoever asks.
    pub fn batches(&self) -> Result<Vec<RecordBatch>, Error> {
        if let Some(batches) = self.batches.get() {
            return Ok(batches.clone());
        }
        let mut batches = Vec::new();
        let mut rows: Vec<&[u8]> = Vec::with_capacity(BATCH_ROWS);
        for (row, weight) in self.arrangement.cursor() {
            if weight < 0 {
                return Err(Error::NegativeWeight { operator: "a view" });
            }
            for _ in 0..weight {
                rows.push(row);
                if rows.len() == BATCH_ROWS {
                    batches.push(self.decode(&rows)?);
                    rows.clear();
                }
            }
        }
        if !rows.is_empty() {
            batches.push(self.decode(&rows)?);
        }
        Ok(self.batches.get_or_init(|| batches).clone())
    }

    /// Whether [`batches`](ViewSnapshot::batches) have been computed.
    pub(crate) fn is_decoded(&self) -> bool {
        self.batches.get().is_some()
    }

    /// At most `n_rows` of the rows, copies repeated, in batches.
    pub fn first(&self, n_rows: usize) -> Result<Vec<RecordBatch>, Error> {
        let mut rows: Vec<&[u8]> = Vec::new();
        for (row, weight) in self.arrangement.cursor() {
            let n_more = (weight.max(0) as usize).min(n_rows - rows.len());
            rows.extend(std::iter::repeat_n(row, n_more));
            if rows.len() == n_rows {
                break;
            }
        }
        rows.chunks(BATCH_ROWS).map(|rows| self.decode(rows)).collect()
    }

    /// The change that makes this view another one of the same columns, in whatever order either is kept.
    pub(crate) fn difference(&self, after: &ViewSnapshot) -> Result<Vec<Delta>, Error> {
        if self.shape.columns != after.shape.columns {
            let key = &self.shape.columns[..self.shape.layout.n_keys()];
            let same = View::new(self.schema.clone(), key, 1)?;
            for rows in after.batches()? {
                let rows = RecordBatch::try_new(self.schema.clone(), rows.columns().to_vec())?;
                same.add(0, Delta::inserts(&rows).batch())?;
            }
            return self.difference(&same.snapshot(after.epoch));
        }
        let (mut before, mut after) =
            (self.arrangement.cursor().peekable(), after.arrangement.cursor().peekable());
        let (mut rows, mut weights): (Vec<&[u8]>, Vec<i64>) = Default::default();
        loop {
            // Rows in the order in which both are kept.
            let (row, weight) = match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some((old, _)), Some((new, _))) if old == new => {
                    let (old, new) = (before.next().expect("peeked"), after.next().expect("peeked"));
                    (old.0, new.1 - old.1)
                }
                (Some((old, _)), Some((new, _))) if old > new => after.next().expect("peeked"),
                (None, Some(_)) => after.next().expect("peeked"),
                (Some(_), _) => {
                    let (row, weight) = before.next().expect("peeked");
                    (row, -weight)
                }
            };
            if weight != 0 {
                rows.push(row);
                weights.push(weight);
            }
        }
        let pieces = rows.chunks(BATCH_ROWS).zip(weights.chunks(BATCH_ROWS));
        let delta = |(rows, weights): (&[&[u8]], &[i64])| {
            let weights = Arc::new(Int64Array::from(weights.to_vec()));
            Ok(Delta::weighted(&self.decode(rows)?, weights))
        };
        pieces.map(delta).collect()
    }

    /// Encoded rows as a batch of the view's schema.
    pub(crate) fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch, Error> {
        self.shape.decode(rows)
    }

    /// The rows, indexed.
    pub fn arrangement(&self) -> &Snapshot {
        &self.arrangement
    }

    /// What it keeps, without its indexes.
    pub fn size(&self) -> StateSize {
        size_of(&self.arrangement)
    }

    /// What its indexes keep.
    pub fn index_sizes(&self) -> Vec<IndexStatus> {
        let status = |index: &IndexSnapshot| IndexStatus {
            id: index.spec.id,
            name: index.spec.name.clone(),
            state: size_of(&index.rows),
        };
        self.indexes.iter().map(status).collect()
    }
}

fn size_of(rows: &Snapshot) -> StateSize {
    StateSize {
        rows: rows.n_rows_max() as u64,
        bytes: rows.size() as u64,
        heap_bytes: rows.heap_size() as u64,
    }
}

/// How many snapshots of a view are kept: readers of several relations need one that all of them have.
const N_SNAPSHOTS: usize = 64;

/// The last snapshots of a view.
///
/// There are gaps: a step over several epochs says what the view shows at its last one only.
#[derive(Debug, Default)]
pub(crate) struct History {
    shown: VecDeque<Shown>,
}

/// What a view showed from one epoch to another.
#[derive(Debug)]
struct Shown {
    snapshot: Arc<ViewSnapshot>,
    from: Epoch,
    /// Not for the newest, which is shown until now.
    to: Epoch,
}

impl History {
    pub fn latest(&self) -> Option<Arc<ViewSnapshot>> {
        self.shown.back().map(|shown| shown.snapshot.clone())
    }

    /// Adds a snapshot; until `frontier` the one before was valid.
    pub fn push(&mut self, snapshot: Arc<ViewSnapshot>, frontier: Epoch) {
        let from = snapshot.epoch;
        self.add(snapshot, frontier, from);
    }

    /// The newest snapshot has the same rows in more orders.
    pub fn renew(&mut self, snapshot: impl FnOnce(Epoch) -> Arc<ViewSnapshot>) {
        if let Some(shown) = self.shown.back_mut() {
            shown.snapshot = snapshot(shown.snapshot.epoch);
        }
    }

    /// The view shows at `epoch` what it showed until `frontier`, and nobody knows what it would have in between.
    pub fn resume(&mut self, frontier: Epoch, epoch: Epoch) {
        if let Some(snapshot) = self.latest() {
            self.add(snapshot, frontier, epoch);
        }
    }

    fn add(&mut self, snapshot: Arc<ViewSnapshot>, frontier: Epoch, from: Epoch) {
        if let Some(before) = self.shown.back_mut() {
            before.to = frontier;
        }
        self.shown.push_back(Shown { snapshot, from, to: Epoch::ZERO });
        if self.shown.len() > N_SNAPSHOTS {
            self.shown.pop_front();
        }
    }

    /// What the view showed at `epoch`; `frontier` is how far the newest snapshot is valid.
    pub fn at(&self, epoch: Epoch, frontier: Epoch) -> Option<Arc<ViewSnapshot>> {
        let n = self.shown.len();
        self.shown.iter().enumerate().rev().find_map(|(idx, shown)| {
            let to = if idx + 1 == n { frontier } else { shown.to };
            (shown.from <= epoch && epoch <= to).then(|| shown.snapshot.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn what_came_and_went_within_a_step_is_a_gap() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let view = View::new(schema, &[], 1).unwrap();
        let mut history = History::default();
        history.push(view.snapshot(Epoch(2)), Epoch(2));
        let is_known = |history: &History, epoch: u64, frontier: u64| {
            history.at(Epoch(epoch), Epoch(frontier)).is_some()
        };
        assert!(is_known(&history, 4, 4));
        // A step from 4 to 7 whose changes cancel out.
        history.resume(Epoch(4), Epoch(7));
        assert_eq!(
            [2, 4, 5, 6, 7, 8].map(|epoch| is_known(&history, epoch, 8)),
            [true, true, false, false, true, true]
        );
        history.push(view.snapshot(Epoch(9)), Epoch(8));
        assert_eq!(
            [1, 3, 6, 8, 9, 10].map(|epoch| is_known(&history, epoch, 9)),
            [false, true, false, true, true, false]
        );
    }
}
