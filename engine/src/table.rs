//! Tables: rows that statements write.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, RwLock};

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_core::{Delta, Epoch};
use tidemill_plan::RelationId;
use tidemill_storage::{Budget, Checkpoint, CheckpointStore, Snapshot};
use tokio::sync::{Mutex, mpsc, watch};

use crate::Error;
use crate::member::{MemberHandle, MemberMetrics};
use crate::view::View;

/// What CREATE TABLE says.
#[derive(Debug, Clone)]
pub struct TableSpec {
    pub id: RelationId,
    pub name: String,
    pub schema: SchemaRef,
    /// Columns of which no two rows may agree in all; empty where any rows may.
    pub primary_key: Vec<usize>,
}

/// What to do with a row whose key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    Error,
    Nothing,
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
}

/// What a write did.
#[derive(Debug, Clone)]
pub struct Written {
    pub epoch: Epoch,
    /// The rows that were inserted.
    pub inserted: RecordBatch,
}

/// A key, and the encoded row that has it.
type Taken<'a> = (Vec<u8>, Option<&'a [u8]>);

/// A table while the server runs.
#[derive(Debug)]
pub(crate) struct Table {
    pub spec: TableSpec,
    pub view: View,
    pub handle: Arc<MemberHandle>,
    /// Held by statements that read the table in order to change it.
    pub lock: Arc<Mutex<()>>,
    pub store: Arc<Mutex<CheckpointStore>>,
    pub checkpointed: Epoch,
    pub changed: Epoch,
}

impl Table {
    /// An empty table, or one out of a checkpoint.
    pub fn new(
        spec: TableSpec,
        store: CheckpointStore,
        checkpoint: Option<&Checkpoint>,
        budget: &Arc<Budget>,
    ) -> Result<Table, Error> {
        let view = View::new(spec.schema.clone(), &spec.primary_key, 1)?;
        view.keep_within(budget);
        let mut epoch = Epoch::ZERO;
        if let Some(checkpoint) = checkpoint {
            epoch = Epoch(checkpoint.meta["epoch"].as_u64().unwrap_or_default());
            view.restore(checkpoint.runs.get("rows").cloned().unwrap_or_default());
        }
        let handle = MemberHandle {
            id: spec.id,
            name: spec.name.clone(),
            schema: spec.schema.clone(),
            history: RwLock::default(),
            frontier: watch::Sender::new(epoch),
            failure: RwLock::default(),
            subscribers: Default::default(),
            metrics: MemberMetrics::default(),
            budget: budget.clone(),
            operators: Vec::new(),
            bounds: BTreeMap::new(),
        };
        Ok(Table {
            spec,
            view,
            handle: Arc::new(handle),
            lock: Arc::default(),
            store: Arc::new(Mutex::new(store)),
            checkpointed: epoch,
            changed: epoch,
        })
    }

    /// What a write changes, given the rows that are there now.
    pub fn resolve(&self, write: &TableWrite) -> Result<Delta, Error> {
        match write {
            TableWrite::Change(delta) => {
                self.check_nulls(&delta.rows())?;
                if !self.spec.primary_key.is_empty() {
                    self.check_keys(delta)?;
                }
                Ok(delta.clone())
            }
            TableWrite::Insert { rows, on_conflict } => {
                self.check_nulls(rows)?;
                if self.spec.primary_key.is_empty() {
                    Ok(Delta::inserts(rows))
                } else {
                    self.insert(rows, *on_conflict)
                }
            }
        }
    }

    fn check_nulls(&self, rows: &RecordBatch) -> Result<(), Error> {
        for (field, column) in self.spec.schema.fields().iter().zip(rows.columns()) {
            if !field.is_nullable() && column.null_count() > 0 {
                let (table, column) = (self.spec.name.clone(), field.name().clone());
                return Err(Error::NullValue { table, column });
            }
        }
        Ok(())
    }

    /// The rows that have the same keys as `rows`: for each the encoded row that is there.
    fn taken<'a>(&self, snapshot: &'a Snapshot, rows: &RecordBatch) -> Result<Vec<Taken<'a>>, Error> {
        let arranged = self.view.arrange(rows.columns());
        let keys = self.view.layout().encode_keys(&arranged[..self.spec.primary_key.len()])?;
        let find = |key: &[u8]| {
            let mut found = None;
            snapshot.lookup_while(key, |row, _| {
                found = Some(row);
                false
            });
            (key.to_vec(), found)
        };
        Ok(keys.iter().map(|key| find(key.data())).collect())
    }

    fn insert(&self, rows: &RecordBatch, on_conflict: OnConflict) -> Result<Delta, Error> {
        let snapshot = Snapshot::of(self.view.layout().clone(), self.view.parts().remove(0).runs().to_vec());
        let taken = self.taken(&snapshot, rows)?;
        // The last row of a key within the statement wins when replacing, the first otherwise.
        let mut seen: HashSet<&[u8]> = HashSet::new();
        let mut kept: Vec<u32> = Vec::new();
        let mut replaced: Vec<&[u8]> = Vec::new();
        let order: Vec<usize> = match on_conflict {
            OnConflict::Replace => (0..taken.len()).rev().collect(),
            OnConflict::Error | OnConflict::Nothing => (0..taken.len()).collect(),
        };
        for row in order {
            let (key, old) = &taken[row];
            let is_new = seen.insert(key);
            match on_conflict {
                OnConflict::Error if !is_new || old.is_some() => return Err(self.duplicate(rows, row)),
                OnConflict::Nothing if !is_new || old.is_some() => continue,
                _ if !is_new => continue,
                _ => (),
            }
            replaced.extend(old);
            kept.push(row as u32);
        }
        kept.sort_unstable();
        let inserted = Delta::inserts(&take_record_batch(rows, &UInt32Array::from(kept))?);
        if replaced.is_empty() {
            return Ok(inserted);
        }
        let removed = Delta::retractions(&self.view.snapshot(Epoch::ZERO).decode(&replaced)?);
        let schema = tidemill_core::delta_schema(&self.spec.schema);
        let removed = RecordBatch::try_new(schema.clone(), removed.batch().columns().to_vec())?;
        let inserted = RecordBatch::try_new(schema.clone(), inserted.batch().columns().to_vec())?;
        Ok(Delta::new(arrow::compute::concat_batches(&schema, [&removed, &inserted])?))
    }

    /// After an UPDATE no two rows may have the same key.
    fn check_keys(&self, delta: &Delta) -> Result<(), Error> {
        let parts = self.view.parts();
        self.view.add(0, delta.batch())?;
        let rows = delta.rows();
        let snapshot = self.view.parts().remove(0);
        let arranged = self.view.arrange(rows.columns());
        let keys = self.view.layout().encode_keys(&arranged[..self.spec.primary_key.len()])?;
        let mut clash = None;
        for (row, key) in keys.iter().enumerate() {
            let mut n = 0;
            snapshot.lookup_while(key.data(), |_, weight| {
                n += weight;
                n < 2
            });
            if n > 1 {
                clash = Some(row);
                break;
            }
        }
        self.view.reset(parts);
        match clash {
            Some(row) => Err(self.duplicate(&rows, row)),
            None => Ok(()),
        }
    }

    fn duplicate(&self, rows: &RecordBatch, row: usize) -> Error {
        let options = FormatOptions::default().with_null("null");
        let mut names = Vec::new();
        let mut values = Vec::new();
        for column in &self.spec.primary_key {
            names.push(self.spec.schema.field(*column).name().clone());
            let value = ArrayFormatter::try_new(rows.column(*column), &options);
            values.push(value.map(|value| value.value(row).to_string()).unwrap_or_default());
        }
        let key = format!("({})=({})", names.join(", "), values.join(", "));
        Error::DuplicateKey { table: self.spec.name.clone(), key }
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
            let delta = crate::member::consolidate_delta(&self.spec.schema, changes)?;
            subscribers.retain(|subscriber: &mpsc::UnboundedSender<_>| {
                subscriber.send((epoch, delta.clone())).is_ok()
            });
        }
        Ok(())
    }

    /// What a checkpoint says of a table beside its rows.
    pub fn meta(spec: &TableSpec, epoch: Epoch) -> serde_json::Value {
        serde_json::json!({"relation": spec.id, "name": spec.name, "epoch": epoch})
    }

    /// What belongs into a checkpoint.
    pub fn capture(&self) -> Checkpoint {
        let mut checkpoint =
            Checkpoint { meta: Table::meta(&self.spec, self.changed), ..Checkpoint::default() };
        let parts = self.view.parts();
        let bytes: usize = parts.iter().map(Snapshot::size).sum();
        self.handle.metrics.state_bytes.store(bytes as u64, std::sync::atomic::Ordering::Relaxed);
        checkpoint.runs.insert("rows".into(), parts.iter().flat_map(|part| part.runs().to_vec()).collect());
        checkpoint
    }
}
