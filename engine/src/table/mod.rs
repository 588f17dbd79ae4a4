//! Tables: rows that statements write.

mod locks;
mod rules;
mod transaction;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::RelationId;
use tidemill_storage::{Budget, Checkpoint, CheckpointStore, Snapshot};
use tokio::sync::{Mutex, mpsc};

use crate::Error;
use crate::index::{Built, IndexSpec};
use crate::member::MemberHandle;
use crate::name::Name;
use crate::view::View;

pub(crate) use self::locks::Locks;
pub use self::locks::TableLock;
pub(crate) use self::rules::TableRules;
pub use self::transaction::{Savepoint, Transaction};

/// What CREATE TABLE says.
#[derive(Debug, Clone)]
pub struct TableSpec {
    pub id: RelationId,
    pub name: Name,
    pub schema: SchemaRef,
    /// Columns of which no two rows may agree in all; empty where any rows may.
    pub primary_key: Vec<usize>,
    pub indexes: Vec<IndexSpec>,
}

/// What to do with a row whose key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    Error,
    Nothing,
    /// It takes the place of the row that is there; of several in one statement the last one does.
    Replace,
}

/// A change of a table, to be decided when its turn comes.
#[derive(Debug)]
pub enum TableWrite {
    Insert {
        rows: RecordBatch,
        on_conflict: OnConflict,
    },
    /// Rows that were read under the table's lock.
    Change(Delta),
    /// What a transaction has decided on before; the table may have changed since.
    Staged(Delta),
}

/// What a write did.
#[derive(Debug, Clone)]
pub struct Written {
    pub epoch: Epoch,
    /// The rows that were inserted.
    pub inserted: RecordBatch,
}

/// A table while the server runs.
#[derive(Debug)]
pub(crate) struct Table {
    pub rules: Arc<TableRules>,
    pub view: View,
    pub handle: Arc<MemberHandle>,
    /// Held by statements that read the table in order to change it.
    pub lock: Arc<Mutex<()>>,
    pub store: Arc<Mutex<CheckpointStore>>,
    pub checkpointed: Epoch,
    pub changed: Epoch,
    /// The indexes that the last checkpoint has.
    pub indexes_checkpointed: Vec<RelationId>,
}

impl Table {
    /// An empty table, or one out of a checkpoint.
    pub fn new(
        spec: TableSpec,
        store: CheckpointStore,
        checkpoint: Option<&Checkpoint>,
        budget: &Arc<Budget>,
    ) -> Result<Table, Error> {
        let mut view = View::new(spec.schema.clone(), &spec.primary_key, 1)?;
        view.keep_within(budget);
        // Nobody waits for them here.
        drop(view.set_indexes(&spec.indexes)?);
        let mut epoch = Epoch::ZERO;
        if let Some(checkpoint) = checkpoint {
            epoch = Epoch(checkpoint.meta["epoch"].as_u64().unwrap_or_default());
            let runs = checkpoint.runs.get("rows").cloned().unwrap_or_default();
            // Of one without rows they are ready anyway.
            if !runs.is_empty() {
                view.restore(runs, |name| checkpoint.runs.get(name));
            }
        }
        let handle = MemberHandle::new(spec.id, &spec.name, spec.schema.clone(), budget, epoch);
        Ok(Table {
            rules: Arc::new(TableRules { spec, shape: view.shape().clone() }),
            indexes_checkpointed: view.indexes_ready(),
            view,
            handle: Arc::new(handle),
            lock: Arc::default(),
            store: Arc::new(Mutex::new(store)),
            checkpointed: epoch,
            changed: epoch,
        })
    }

    /// The rows that are there now.
    pub fn rows(&self) -> Snapshot {
        self.view.parts().remove(0)
    }

    /// Lets readers see the table at `epoch`.
    pub fn publish(&mut self, epoch: Epoch, changes: &[RecordBatch]) -> Result<(), Error> {
        let handle = &self.handle;
        let mut history = handle.history.write().expect("nobody panics while holding it");
        if !changes.is_empty() || history.latest().is_none() {
            history.push(self.view.snapshot(epoch), handle.frontier());
        }
        drop(history);
        handle.frontier.send_replace(epoch);
        if changes.is_empty() {
            return Ok(());
        }
        self.changed = epoch;
        handle.metrics.rows_in.add(changes.iter().map(|batch| batch.num_rows()).sum());
        let mut subscribers = handle.subscribers.lock().expect("nobody panics while holding it");
        if !subscribers.is_empty() {
            let delta = crate::member::consolidate_delta(&self.rules.spec.schema, changes)?;
            subscribers.retain(|subscriber: &mpsc::UnboundedSender<_>| {
                subscriber.send((epoch, delta.clone())).is_ok()
            });
        }
        Ok(())
    }

    /// Whether a checkpoint would say something else than the last one.
    pub fn is_stale(&self) -> bool {
        self.changed > self.checkpointed || self.view.indexes_ready() != self.indexes_checkpointed
    }

    /// Lets readers see the rows that they see in the orders that there are now.
    pub fn renew_snapshot(&self) {
        let mut history = self.handle.history.write().expect("nobody panics while holding it");
        history.renew(|epoch| self.view.snapshot(epoch));
    }

    /// Takes over an index that was built, and lets readers use it.
    pub fn finish_build(&mut self, built: Built) {
        if self.view.finish_build(built) {
            self.renew_snapshot();
        }
    }

    /// What a checkpoint says of a table beside its rows.
    pub fn meta(spec: &TableSpec, epoch: Epoch) -> serde_json::Value {
        serde_json::json!({"relation": spec.id, "name": spec.name.to_string(), "epoch": epoch})
    }

    /// What belongs into a checkpoint.
    pub fn capture(&self) -> Checkpoint {
        let mut checkpoint =
            Checkpoint { meta: Table::meta(&self.rules.spec, self.changed), ..Checkpoint::default() };
        let mut bytes = 0;
        let mut add = |name: String, rows: &Snapshot| {
            bytes += rows.size();
            checkpoint.runs.insert(name, rows.runs().to_vec());
        };
        add("rows".into(), &self.rows());
        self.view.captured_indexes().for_each(|(name, rows)| add(name, &rows));
        self.handle.metrics.state_bytes.store(bytes as u64, std::sync::atomic::Ordering::Relaxed);
        checkpoint
    }
}

/// The rows of positive weight, without weights.
pub(crate) fn insertions(delta: &Delta) -> RecordBatch {
    let keep = delta.weights().iter().map(|weight| Some(weight.is_some_and(|weight| weight > 0))).collect();
    arrow::compute::filter_record_batch(&delta.rows(), &keep).expect("one flag per row")
}
