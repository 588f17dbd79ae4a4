//! What a transaction has written, and nobody else sees until it commits.
//!
//! Every write is decided at once, against the rows that are there and those that the transaction has written
//! before, so that a statement fails where it stands. The changes wait in arrangements of the tables' own shape:
//! what the transaction reads is a table's runs with these behind them. At the end they are decided once more, all
//! of them in one epoch, since tables go on meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidemill_core::Delta;
use tidemill_plan::RelationId;
use tidemill_storage::{Arrangement, Snapshot};

use super::TableWrite;
use super::rules::TableRules;
use crate::Error;
use crate::operators::BATCH_ROWS;
use crate::view::ViewSnapshot;

/// A transaction that has written more than this to a table does not use that one's indexes any more.
const INDEXED_ROWS_MAX: usize = 16 * 1024;

/// Writes that wait for their commit.
#[derive(Debug, Default)]
pub struct Transaction(Mutex<BTreeMap<RelationId, Staged>>);

/// What a transaction changes in a table.
#[derive(Debug)]
struct Staged {
    rules: Arc<TableRules>,
    rows: Arrangement,
}

/// What a transaction had written at a moment.
#[derive(Debug, Clone, Default)]
pub struct Savepoint(BTreeMap<RelationId, Snapshot>);

impl Transaction {
    fn staged(&self) -> MutexGuard<'_, BTreeMap<RelationId, Staged>> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.staged().is_empty()
    }

    /// The tables that are written to.
    pub fn tables(&self) -> Vec<RelationId> {
        self.staged().keys().copied().collect()
    }

    /// Decides a write, given what the table has and what is staged; gives the rows that come in.
    pub(crate) fn write(
        &self,
        rules: &Arc<TableRules>,
        mut rows: Snapshot,
        write: &TableWrite,
    ) -> Result<RecordBatch, Error> {
        let mut staged = self.staged();
        let id = rules.spec.id;
        if let Some(own) = staged.get(&id) {
            rows = over(&rows, own.rows.current());
        }
        let delta = rules.resolve(&rows, write)?;
        if !delta.is_empty() {
            let run = rules.shape.run(&delta)?;
            let new = || Staged { rules: rules.clone(), rows: Arrangement::new(rules.shape.layout.clone()) };
            staged.entry(id).or_insert_with(new).rows.append(run);
        }
        Ok(super::insertions(&delta))
    }

    /// What a table's snapshot shows to the transaction, if that has written to it.
    pub fn overlay(&self, id: RelationId, snapshot: &ViewSnapshot) -> Option<Arc<ViewSnapshot>> {
        let staged = self.staged();
        let own = staged.get(&id)?;
        // Its changes are sorted for the indexes anew each time.
        if snapshot.orders().count() > 1
            && own.rows.current().n_rows_max() <= INDEXED_ROWS_MAX
            && let Ok(overlaid) = own.delta().and_then(|delta| snapshot.with(&delta))
        {
            return Some(overlaid);
        }
        let rows = over(snapshot.arrangement(), own.rows.current());
        Some(own.rules.shape.snapshot(snapshot.epoch, rows.runs().to_vec(), Vec::new()))
    }

    /// Forgets what was written to tables that are no more.
    pub fn keep(&self, is_there: impl Fn(RelationId) -> bool) {
        self.staged().retain(|id, _| is_there(*id));
    }

    /// What is written so far.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.staged().iter().map(|(id, staged)| (*id, staged.rows.snapshot())).collect())
    }

    /// Takes back what has been written since.
    pub fn roll_back_to(&self, savepoint: &Savepoint) {
        self.staged().retain(|id, staged| match savepoint.0.get(id) {
            Some(rows) => {
                staged.rows.reset(rows.clone());
                true
            }
            None => false,
        });
    }

    /// Everything, as writes to be decided together.
    pub(crate) fn writes(&self) -> Result<Vec<(RelationId, TableWrite)>, Error> {
        let mut writes = Vec::new();
        for (id, staged) in self.staged().iter() {
            let delta = staged.delta()?;
            if !delta.is_empty() {
                writes.push((*id, TableWrite::Staged(delta)));
            }
        }
        Ok(writes)
    }
}

impl Staged {
    /// The difference that it makes, each row once.
    fn delta(&self) -> Result<Delta, Error> {
        let shape = &self.rules.shape;
        let mut rows: Vec<&[u8]> = Vec::new();
        let mut weights: Vec<i64> = Vec::new();
        for (row, weight) in self.rows.current().cursor() {
            rows.push(row);
            weights.push(weight);
        }
        let batches: Vec<RecordBatch> =
            rows.chunks(BATCH_ROWS).map(|rows| shape.decode(rows)).collect::<Result<_, _>>()?;
        let rows = arrow::compute::concat_batches(&shape.schema, &batches)?;
        let weights: ArrayRef = Arc::new(Int64Array::from(weights));
        Ok(Delta::weighted(&rows, weights))
    }
}

/// Rows with a transaction's changes behind them.
fn over(rows: &Snapshot, changes: &Snapshot) -> Snapshot {
    let runs = rows.runs().iter().chain(changes.runs()).cloned().collect();
    Snapshot::of(rows.layout().clone(), runs)
}
