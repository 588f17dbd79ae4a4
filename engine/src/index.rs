//! An index: the rows of a view once more, in the order of other columns.
//!
//! It is an arrangement for each part of the view, and gets every delta that the view gets. On a view with rows it is built beside
//! what goes on:
//!
//! ```text
//!   set_indexes          begin_builds                          finish_build
//!        │  waits: it gets  │  is built: it gets deltas, while     │  is ready: snapshots have it
//!        └──nothing─────────┴──a task sorts the rows of then───────┴──────────────────────────────▶
//! ```
//!
//! An arrangement is a sum, so what the task has sorted may come later than the deltas behind it. All three happen
//! between two steps, so undoing one never meets them; and the task never touches the arrangement itself. What it has
//! sorted for an index that is gone, or was begun again, is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::Int64Array;
use tidemill_core::Delta;
use tidemill_plan::RelationId;
use tidemill_storage::{Arrangement, Budget, Run, Snapshot};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;
use crate::view::{Parts, Shape};

/// So many rows are sorted at once.
const BUILD_ROWS: usize = 64 * 1024;

/// What CREATE INDEX says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    pub id: RelationId,
    pub name: String,
    /// Columns of the relation, each once.
    pub columns: Vec<usize>,
}

impl IndexSpec {
    /// What its state is called in checkpoints. After a crash its id may be given to an index of other columns.
    fn state_name(&self, part: usize) -> String {
        let columns: Vec<String> = self.columns.iter().map(usize::to_string).collect();
        format!("index/{}({})/{part}", self.id, columns.join(","))
    }
}

/// Says that an index is ready, or why it will not be.
pub(crate) type IsBuilt = oneshot::Receiver<Result<(), Error>>;

/// Indexes that are being built.
#[derive(Debug)]
#[must_use = "they may not be built"]
pub struct IndexBuilds(pub(crate) Vec<IsBuilt>);

impl IndexBuilds {
    /// Waits until all of them are ready.
    pub async fn done(self) -> Result<(), Error> {
        for is_built in self.0 {
            let stopped = || Error::IndexNotBuilt { reason: "what it is for has stopped".into() };
            is_built.await.unwrap_or_else(|_| Err(stopped()))?;
        }
        Ok(())
    }
}

/// An index of a view.
#[derive(Debug)]
pub(crate) struct Index {
    pub spec: IndexSpec,
    shape: Arc<Shape>,
    parts: Parts,
    state: State,
    /// Who is to be told when it is ready.
    asked: Vec<oneshot::Sender<Result<(), Error>>>,
}

#[derive(Debug)]
enum State {
    /// It has nothing, and gets nothing.
    Waiting,
    /// It lacks what a task sorts.
    Building {
        number: u64,
        _end_with_it: DropGuard,
    },
    Ready,
    /// It has nothing, and gets nothing: the task has failed.
    Failed,
}

/// An index in a snapshot of its view.
#[derive(Debug, Clone)]
pub(crate) struct IndexSnapshot {
    pub spec: Arc<IndexSpec>,
    pub shape: Arc<Shape>,
    pub rows: Snapshot,
}

impl Index {
    /// An index of a view without rows, which is ready; or of one with rows, which is not.
    pub fn new(spec: &IndexSpec, of: &Shape, n_parts: usize, is_empty: bool) -> Result<Index, Error> {
        let shape = Arc::new(Shape::new(of.schema.clone(), &spec.columns)?);
        let state = if is_empty { State::Ready } else { State::Waiting };
        let parts = Parts::new(&shape.layout, n_parts);
        Ok(Index { spec: spec.clone(), shape, parts, state, asked: Vec::new() })
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Says when it is ready; one that could not be built is built again.
    pub fn ask(&mut self) -> IsBuilt {
        if let State::Failed = self.state {
            self.state = State::Waiting;
        }
        let (answer, is_built) = oneshot::channel();
        match self.is_ready() {
            true => drop(answer.send(Ok(()))),
            false => self.asked.push(answer),
        }
        is_built
    }

    /// Adds a delta to a part.
    pub fn add(&self, part: usize, delta: &Delta) -> Result<(), Error> {
        if let State::Building { .. } | State::Ready = self.state {
            self.parts.part(part).append(self.shape.run(delta)?);
        }
        Ok(())
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What belongs into a checkpoint of it: nothing before it is ready.
    pub fn capture(&self) -> impl Iterator<Item = (String, Snapshot)> {
        let parts = if self.is_ready() { self.parts.snapshots() } else { Vec::new() };
        parts.into_iter().enumerate().map(|(part, rows)| (self.spec.state_name(part), rows))
    }

    /// Takes over what a checkpoint has of it; where that has nothing, it has to be built.
    pub fn restore<'a>(&mut self, stored: impl Fn(&str) -> Option<&'a Vec<Arc<Run>>>) {
        let parts: Vec<&Vec<Arc<Run>>> =
            (0..).map_while(|part| stored(&self.spec.state_name(part))).collect();
        self.state = if parts.is_empty() { State::Waiting } else { State::Ready };
        self.parts.part(0).replace(parts.into_iter().flatten().cloned().collect());
    }

    pub fn snapshot(&self) -> Option<IndexSnapshot> {
        self.is_ready().then(|| IndexSnapshot {
            spec: Arc::new(self.spec.clone()),
            shape: self.shape.clone(),
            rows: Snapshot::of(self.shape.layout.clone(), self.parts.runs()),
        })
    }

    /// Begins to build it, if it waits for that, out of what its view has now.
    pub fn begin_build(
        &mut self,
        of: &Arc<Shape>,
        rows: &Parts,
        budget: Option<&Arc<Budget>>,
    ) -> Option<IndexBuild> {
        let State::Waiting = self.state else { return None };
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let given_up = CancellationToken::new();
        let build = IndexBuild {
            id: self.spec.id,
            number,
            of: of.clone(),
            rows: rows.runs(),
            shape: self.shape.clone(),
            budget: budget.cloned(),
            given_up: given_up.clone(),
        };
        self.state = State::Building { number, _end_with_it: given_up.drop_guard() };
        Some(build)
    }

    /// Takes over what was sorted, if it is for this index, and says whether it is ready now.
    pub fn finish_build(&mut self, built: Built) -> bool {
        match self.state {
            State::Building { number, .. } if number == built.number => (),
            _ => return false,
        }
        let outcome = built.runs.map(|runs| self.parts.part(0).prepend(runs));
        self.state = match &outcome {
            Ok(()) => State::Ready,
            Err(error) => {
                tracing::error!(index = self.spec.name, %error, "an index cannot be built");
                self.parts.clear();
                State::Failed
            }
        };
        let message = outcome.err().map(|error| error.to_string());
        for answer in self.asked.drain(..) {
            let outcome = message.clone().map_or(Ok(()), |reason| Err(Error::IndexNotBuilt { reason }));
            // The statement may have been cancelled.
            let _ = answer.send(outcome);
        }
        self.is_ready()
    }
}

/// The rows of a view that are to be sorted for an index.
#[derive(Debug)]
pub(crate) struct IndexBuild {
    id: RelationId,
    number: u64,
    of: Arc<Shape>,
    rows: Vec<Arc<Run>>,
    shape: Arc<Shape>,
    budget: Option<Arc<Budget>>,
    /// The index is gone.
    given_up: CancellationToken,
}

/// What has been sorted.
#[derive(Debug)]
pub(crate) struct Built {
    pub id: RelationId,
    number: u64,
    runs: Result<Vec<Arc<Run>>, Error>,
}

impl IndexBuild {
    /// Ends it when this is dropped.
    pub fn ends(&self) -> DropGuard {
        self.given_up.clone().drop_guard()
    }

    /// Sorts the rows, which takes a while.
    pub fn run(self) -> Built {
        // Who waits for it must hear of a panic.
        let runs = catch_unwind(AssertUnwindSafe(|| self.sorted())).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            Err(Error::IndexNotBuilt { reason: said.unwrap_or_else(|| "sorting its rows panicked".into()) })
        });
        Built { id: self.id, number: self.number, runs }
    }

    /// Run by run, as they lie: rows that cancel out meet when pieces are merged.
    fn sorted(&self) -> Result<Vec<Arc<Run>>, Error> {
        let mut sorted = Arrangement::new(self.shape.layout.clone());
        if let Some(budget) = &self.budget {
            sorted.keep_within(budget);
        }
        for run in &self.rows {
            for start in (0..run.len()).step_by(BUILD_ROWS) {
                if self.given_up.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let piece = start..run.len().min(start + BUILD_ROWS);
                let rows: Vec<&[u8]> = piece.clone().map(|idx| run.row(idx)).collect();
                let weights = Int64Array::from_iter_values(piece.map(|idx| run.weight(idx)));
                let delta = Delta::weighted(&self.of.decode(&rows)?, Arc::new(weights));
                sorted.append(self.shape.run(&delta)?);
            }
        }
        Ok(sorted.into_runs())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{ArrayRef, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use tidemill_core::Epoch;

    use super::*;
    use crate::view::View;

    fn schema() -> SchemaRef {
        let field = |name| Field::new(name, DataType::Int64, true);
        Arc::new(Schema::new(vec![field("id"), field("a")]))
    }

    fn spec(id: u32, columns: &[usize]) -> IndexSpec {
        IndexSpec { id: RelationId(id), name: format!("i{id}"), columns: columns.to_vec() }
    }

    /// Adds rows `id` of `a = id % 10`, each so many times.
    fn add(view: &View, part: usize, ids: std::ops::Range<i64>, weight: i64) {
        let a = ids.clone().map(|id| id % 10);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(Int64Array::from_iter_values(a))];
        let rows = RecordBatch::try_new(schema(), columns).unwrap();
        let weights = Arc::new(Int64Array::from_value(weight, rows.num_rows()));
        view.add(part, Delta::weighted(&rows, weights).batch()).unwrap();
    }

    /// The indexes of a view that readers see; each says the same as the view.
    fn seen(view: &View) -> Vec<u32> {
        let snapshot = view.snapshot(Epoch(1));
        let rows = |order: crate::view::Order<'_>| {
            let (rows, weights): (Vec<&[u8]>, Vec<i64>) = order.rows.cursor().unzip();
            let rows = order.shape.decode(&rows).unwrap();
            let column = |idx: usize| -> Vec<i64> {
                rows.column(idx).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
            };
            let rows = column(0).into_iter().zip(column(1)).zip(weights);
            let rows: BTreeMap<(i64, i64), i64> = rows.collect();
            rows
        };
        let own = rows(snapshot.order(0));
        let index = |order: crate::view::Order<'_>| {
            assert_eq!(rows(order), own);
            order.index.unwrap().id.0
        };
        snapshot.orders().skip(1).map(index).collect()
    }

    fn run(view: &mut View) -> Vec<Built> {
        view.begin_builds().into_iter().map(IndexBuild::run).collect()
    }

    #[test]
    fn an_index_is_built_beside_what_goes_on() {
        let mut view = View::new(schema(), &[0], 2).unwrap();
        add(&view, 0, 0..150_000, 1);
        add(&view, 1, 200_000..200_100, 2);
        let mut is_built = view.set_indexes(&[spec(1, &[1])]).unwrap();
        assert_eq!(seen(&view), [0; 0]);
        add(&view, 0, 0..10, -1);
        let built = run(&mut view);
        assert!(view.begin_builds().is_empty(), "it has begun");
        // Rows go that only the task knows of; a step of others fails, and is undone.
        add(&view, 1, 10..20, -1);
        let held = view.held();
        add(&view, 0, 20..30_000, -1);
        view.reset(held);
        add(&view, 0, 300_000..300_010, 1);
        assert_eq!(seen(&view), [0; 0]);
        assert!(is_built[0].try_recv().is_err());
        for built in built {
            assert!(view.finish_build(built));
        }
        is_built[0].try_recv().unwrap().unwrap();
        assert_eq!(seen(&view), [1]);
        let held = view.held();
        add(&view, 0, 0..90_000, 1);
        assert_eq!(seen(&view), [1]);
        view.reset(held);
        assert_eq!(seen(&view), [1]);
        // Others come and go.
        drop(view.set_indexes(&[spec(1, &[1]), spec(2, &[1, 0])]).unwrap());
        assert_eq!(seen(&view), [1]);
        for built in run(&mut view) {
            assert!(view.finish_build(built));
        }
        assert_eq!(seen(&view), [1, 2]);
        drop(view.set_indexes(&[spec(2, &[1, 0])]).unwrap());
        assert_eq!(seen(&view), [2]);
    }

    #[test]
    fn what_was_built_for_an_index_that_is_gone_is_dropped() {
        let mut view = View::new(schema(), &[0], 1).unwrap();
        add(&view, 0, 0..10, 1);
        let mut is_built = view.set_indexes(&[spec(1, &[1])]).unwrap();
        let builds = view.begin_builds();
        drop(view.set_indexes(&[]).unwrap());
        assert!(is_built[0].try_recv().is_err(), "who waits hears that nobody will say");
        for build in builds {
            assert!(build.given_up.is_cancelled());
            assert!(!view.finish_build(build.run()));
        }
        // The same id again, after a crash say.
        drop(view.set_indexes(&[spec(1, &[1])]).unwrap());
        let stale = view.begin_builds().remove(0);
        drop(view.set_indexes(&[]).unwrap());
        let mut is_built = view.set_indexes(&[spec(1, &[1])]).unwrap();
        let built = run(&mut view).remove(0);
        add(&view, 0, 0..5, -1);
        assert!(!view.finish_build(Built { runs: Ok(Vec::new()), ..stale.run() }));
        assert!(view.finish_build(built));
        is_built[0].try_recv().unwrap().unwrap();
        assert_eq!(seen(&view), [1]);
    }

    #[test]
    fn a_checkpoint_has_those_that_are_ready() {
        let mut view = View::new(schema(), &[0], 3).unwrap();
        drop(view.set_indexes(&[spec(1, &[1])]).unwrap());
        add(&view, 2, 0..1000, 1);
        drop(view.set_indexes(&[spec(1, &[1]), spec(2, &[1, 0])]).unwrap());
        let stored: BTreeMap<String, Vec<Arc<Run>>> =
            view.captured_indexes().map(|(name, rows)| (name, rows.runs().to_vec())).collect();
        assert_eq!(stored.keys().collect::<Vec<_>>(), ["index/1(1)/0", "index/1(1)/1", "index/1(1)/2"]);
        let runs: Vec<Arc<Run>> = view.parts().iter().flat_map(|part| part.runs().to_vec()).collect();
        let restored = |specs: &[IndexSpec]| {
            let mut view = View::new(schema(), &[0], 1).unwrap();
            drop(view.set_indexes(specs).unwrap());
            view.restore(runs.clone(), |name| stored.get(name));
            view
        };
        let mut view = restored(&[spec(1, &[1]), spec(2, &[1, 0])]);
        assert_eq!(seen(&view), [1]);
        for built in run(&mut view) {
            assert!(view.finish_build(built));
        }
        assert_eq!(seen(&view), [1, 2]);
        // An id that was given again means other columns.
        assert_eq!(seen(&restored(&[spec(1, &[1, 0])])), [0; 0]);
        assert_eq!(seen(&restored(&[])), [0; 0]);
    }

    #[test]
    fn what_cannot_be_sorted_is_said_and_tried_again() {
        let mut view = View::new(schema(), &[0], 1).unwrap();
        add(&view, 0, 0..10, 1);
        let mut is_built = view.set_indexes(&[spec(1, &[1])]).unwrap();
        let built = run(&mut view).remove(0);
        let failed = Err(Error::Unsupported("no".into()));
        assert!(!view.finish_build(Built { runs: failed, ..built }));
        let error = is_built[0].try_recv().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the index could not be built: no");
        add(&view, 0, 10..20, 1);
        assert!(view.begin_builds().is_empty() && seen(&view).is_empty());
        drop(view.set_indexes(&[spec(1, &[1])]).unwrap());
        let built = run(&mut view).remove(0);
        assert!(view.finish_build(built));
        assert_eq!(seen(&view), [1]);
    }
}
