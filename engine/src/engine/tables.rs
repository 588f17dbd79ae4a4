//! Tables: made, written to, locked and dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use tidemill_core::Epoch;
use tidemill_plan::RelationId;
use tidemill_storage::{Checkpoint, CheckpointStore, Root, remove_all};
use tokio::sync::{Mutex, oneshot};

use super::Engine;
use crate::sealer::WriteRequest;
use crate::table::{OnConflict, Table, TableLock, TableSpec, TableWrite, Transaction, Written};
use crate::{Error, dead_letters, marks};

/// What is decided together with a transaction's writes.
#[derive(Debug, Default)]
pub struct Commit {
    /// Tables that must not have changed since an epoch.
    pub unchanged: Vec<(RelationId, Epoch)>,
    /// Tables that nobody writes to any more from then on.
    pub retired: Vec<RelationId>,
    pub marks: Vec<(i64, i64)>,
}

impl Engine {
    /// Adds a new table. On return it is durable that it is empty.
    pub async fn create_table(&self, spec: TableSpec) -> Result<(), Error> {
        let (mut store, _) = CheckpointStore::open(self.root_of_table(spec.id)).await?;
        let empty = Checkpoint { meta: Table::meta(&spec, Epoch::ZERO), ..Checkpoint::default() };
        store.write(&empty).await?;
        self.enter_table(spec, store, Some(empty)).await
    }

    /// Adds a new table with its first rows. On return it is durable with them.
    pub async fn create_filled_table(&self, spec: TableSpec, rows: RecordBatch) -> Result<(), Error> {
        let (store, _) = CheckpointStore::open(self.root_of_table(spec.id)).await?;
        let mut table = Table::new(spec, store, None, &self.table_budget)?;
        let write = TableWrite::Insert { rows, on_conflict: OnConflict::Error };
        let delta = table.rules.resolve(&table.rows(), &write)?;
        table.view.add(0, delta.batch())?;
        table.changed = self.epoch();
        table.checkpointed = table.changed;
        table.store.lock().await.write(&table.capture()).await?;
        let mut clock = self.sealer.clock.lock().await;
        let epoch = clock.epoch;
        table.publish(epoch, &[])?;
        clock.tables.insert(table.rules.spec.id, table);
        Ok(())
    }

    /// Adds a table with the rows that it had before.
    pub async fn add_table(&self, spec: TableSpec) -> Result<(), Error> {
        let (store, checkpoint) = CheckpointStore::open(self.root_of_table(spec.id)).await?;
        // Nobody creates the system's own; they begin with their first row.
        if checkpoint.is_none() && !is_own(spec.id) {
            let reason =
                "its checkpoint is missing; restore it from a backup, or drop it and create it again";
            self.sealer.clock.lock().await.refused.insert(spec.id, reason.into());
            return Err(Error::NotRunning {
                kind: "table",
                name: spec.name.to_string(),
                reason: reason.into(),
            });
        }
        self.enter_table(spec, store, checkpoint).await
    }

    pub(super) fn root_of_table(&self, id: RelationId) -> Root {
        self.root.child(&format!("tables/{id}"))
    }

    pub(super) async fn enter_table(
        &self,
        spec: TableSpec,
        store: CheckpointStore,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error> {
        let mut table = Table::new(spec, store, checkpoint.as_ref(), &self.table_budget)?;
        let mut clock = self.sealer.clock.lock().await;
        let logged = self.logged().changes.get(&table.rules.spec.id).cloned();
        for (epoch, batch) in logged.unwrap_or_default() {
            if epoch > table.checkpointed {
                table.view.add(0, &batch)?;
                table.changed = epoch;
            }
        }
        clock.epoch = clock.epoch.max(table.changed);
        let epoch = clock.epoch;
        table.handle.frontier.send_replace(epoch);
        table.publish(epoch, &[])?;
        let id = table.rules.spec.id;
        clock.tables.insert(id, table);
        // Those that its checkpoint does not have.
        self.begin_builds(&mut clock, id);
        Ok(())
    }

    /// Drops a table, with its rows.
    pub async fn drop_table(&self, id: RelationId) -> Result<(), Error> {
        {
            let mut clock = self.sealer.clock.lock().await;
            clock.retired.remove(&id);
            clock.tables.remove(&id);
        }
        // The catalog does not name it: what stays is garbage, which the next start removes.
        if let Err(error) = remove_all(&self.root_of_table(id)).await {
            tracing::warn!(table = id.0, %error, "what a dropped table leaves cannot be removed");
        }
        Ok(())
    }

    /// Removes what a crash has left of tables other than these.
    pub async fn remove_other_tables(&self, known: &BTreeSet<RelationId>) -> Result<(), Error> {
        let names = self.root.child("tables").list().await?;
        let ids: BTreeSet<u32> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        let is_known = |id: RelationId| known.contains(&id) || is_own(id);
        for id in ids.into_iter().map(RelationId).filter(|id| !is_known(*id)) {
            tracing::info!(table = id.0, "what is left of a dropped table is removed");
            remove_all(&self.root_of_table(id)).await?;
        }
        Ok(())
    }

    /// Writes to a table; on return the write is durable, and sealed.
    pub async fn write(&self, table: RelationId, write: TableWrite) -> Result<Written, Error> {
        let mut written = self.write_all(vec![(table, write)], Vec::new(), Vec::new()).await?;
        Ok(written.remove(0))
    }

    /// Writes in one epoch, all or none.
    pub(super) async fn write_all(
        &self,
        writes: Vec<(RelationId, TableWrite)>,
        unchanged: Vec<(RelationId, Epoch)>,
        retired: Vec<RelationId>,
    ) -> Result<Vec<Written>, Error> {
        let (answer, written) = oneshot::channel();
        let request = WriteRequest { writes, unchanged, retired, answer };
        self.sealer.writes.send(request).await.map_err(|_| Error::ShuttingDown)?;
        written.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Decides a write that nobody else sees until the transaction commits; gives the rows that come in.
    pub async fn stage(
        &self,
        transaction: &Transaction,
        table: RelationId,
        write: TableWrite,
    ) -> Result<RecordBatch, Error> {
        let (rules, rows) = {
            let clock = self.sealer.clock.lock().await;
            let table = clock.tables.get(&table).ok_or_else(|| clock.not_running("table", table))?;
            (table.rules.clone(), table.rows())
        };
        transaction.write(&rules, rows, &write)
    }

    /// Makes what a transaction has written durable and seen, in one epoch, with what else is to be decided then;
    /// `None` where it changes nothing.
    pub async fn commit(&self, transaction: &Transaction, commit: Commit) -> Result<Option<Epoch>, Error> {
        let mut writes = transaction.writes()?;
        if !commit.marks.is_empty() {
            writes.push((marks::MARKS, marks::write(&commit.marks)));
        }
        if writes.is_empty() {
            return Ok(None);
        }
        let written = self.write_all(writes, commit.unchanged, commit.retired).await?;
        Ok(written.first().map(|written| written.epoch))
    }

    /// All marks, by key.
    pub async fn marks(&self) -> Result<BTreeMap<i64, i64>, Error> {
        let clock = self.sealer.clock.lock().await;
        let table =
            clock.tables.get(&marks::MARKS).ok_or_else(|| clock.not_running("table", marks::MARKS))?;
        marks::read(table)
    }

    /// Sets marks; on return they are durable.
    pub async fn mark(&self, marks: &[(i64, i64)]) -> Result<(), Error> {
        self.write(marks::MARKS, marks::write(marks)).await.map(drop)
    }

    /// Forgets a mark, if it is there.
    pub async fn erase_mark(&self, key: i64) -> Result<(), Error> {
        match self.marks().await?.get(&key) {
            Some(value) => self.write(marks::MARKS, marks::erase(key, *value)).await.map(drop),
            None => Ok(()),
        }
    }

    /// A name under which locks are taken.
    pub fn lock_owner(&self) -> u64 {
        self.locks.owner()
    }

    /// Lets one statement, or transaction, read a table in order to change it.
    pub async fn lock_table(&self, owner: u64, id: RelationId) -> Result<TableLock, Error> {
        let (name, lock) = {
            let clock = self.sealer.clock.lock().await;
            let table = clock.tables.get(&id).ok_or_else(|| clock.not_running("table", id))?;
            (table.rules.spec.name.to_string(), table.lock.clone())
        };
        self.locks.take(owner, id, &name, lock).await
    }

    /// As [`lock_table`](Engine::lock_table), of something that is no table: whoever waits for it in a circle is told.
    pub async fn lock_other(
        &self,
        owner: u64,
        id: RelationId,
        name: &str,
        lock: Arc<Mutex<()>>,
    ) -> Result<TableLock, Error> {
        self.locks.take(owner, id, name, lock).await
    }

    /// The epoch at which a table has changed last.
    pub async fn changed(&self, id: RelationId) -> Option<Epoch> {
        self.sealer.clock.lock().await.tables.get(&id).map(|table| table.changed)
    }

    /// Makes the tables' changes durable as checkpoints, so that the log can be cut.
    pub async fn checkpoint_tables(&self) -> Result<(), Error> {
        let mut captured = Vec::new();
        {
            let clock = self.sealer.clock.lock().await;
            for table in clock.tables.values() {
                if table.is_stale() {
                    let indexes = table.view.indexes_ready();
                    let (epoch, checkpoint, store) = (table.changed, table.capture(), table.store.clone());
                    captured.push((table.rules.spec.id, epoch, indexes, checkpoint, store));
                }
            }
        }
        for (id, epoch, indexes, checkpoint, store) in captured {
            store.lock().await.write(&checkpoint).await?;
            if let Some(table) = self.sealer.clock.lock().await.tables.get_mut(&id) {
                table.checkpointed = epoch;
                table.indexes_checkpointed = indexes;
            }
        }
        let clock = self.sealer.clock.lock().await;
        let of_tables = clock.tables.values().filter(|table| table.changed > table.checkpointed);
        let mut needed = of_tables.map(|table| table.checkpointed).min().unwrap_or(clock.epoch);
        let registry = self.registry();
        for (id, feed) in &clock.feeds {
            if !clock.tables.keys().any(|table| feed.needs(*table)) {
                continue;
            }
            // One that stands still takes nothing, but goes on from its checkpoint.
            needed = needed.min(match (registry.dataflows.get(id), registry.unrecovered.get(id)) {
                (Some(dataflow), _) => Epoch(dataflow.checkpointed.load(Ordering::Acquire)),
                (None, Some(epoch)) => *epoch,
                (None, None) => Epoch::ZERO,
            });
        }
        drop(registry);
        clock.log.trim(needed);
        Ok(())
    }
}

/// Whether a table is the system's own, which nobody has created.
pub(super) fn is_own(id: RelationId) -> bool {
    id == dead_letters::DEAD_LETTERS || id == marks::MARKS
}
