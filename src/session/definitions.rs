//! What a transaction block defines and drops.
//!
//! Each definition is checked at once, against a catalog that only the block sees, and what it needs to be read and
//! written is made at once: a table, a filled pipeline, each durable and without a name. COMMIT writes the catalog that
//! names them, once. What the block drops goes after that, and what it has made goes when it is rolled back; a crash
//! leaves things without a name, which are no longer there at the next start. What a sink has to deliver waits until
//! then, since nobody could take it back.
//!
//! From its first definition on a block holds the definitions' lock, so that the catalog it began with is the one that
//! its own takes the place of.
//!
//! Where a block has both defined and written something, two files have to change together. The new catalog is put with
//! the old one inside; then the rows are committed together with a mark that holds the new one's version. Until
//! the mark is there, the old one counts, also after a crash: see [`Database::open_root`].

use std::sync::Arc;

use tidemill_catalog::{Catalog, Object};
use tidemill_core::{Epoch, crash_point};
use tidemill_engine::{Commit, TableLock, Transaction};
use tidemill_plan::RelationId;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::database::{DEFINED, Database};
use crate::session::api::SqlError;
use crate::statements::{engine_error, hold_sinks, stop, take_effect};

/// The definitions of a block that has not ended.
pub struct Definitions {
    database: Arc<Database>,
    /// What others see.
    before: Arc<Catalog>,
    /// What the block sees.
    catalog: Arc<Catalog>,
    /// What is there without a name yet; some of it may have been dropped again.
    made: Vec<Arc<Object>>,
    /// Tables whose rows were copied into altered ones, and the epoch that was copied.
    copied: Vec<(RelationId, Epoch)>,
    /// Held by what is being made, which goes on where its statement does not.
    making: Arc<Mutex<()>>,
    /// Given up last.
    lock: Option<TableLock>,
}

impl Definitions {
    pub fn begin(database: Arc<Database>, lock: TableLock) -> Definitions {
        let before = database.catalog();
        Definitions {
            database,
            catalog: before.clone(),
            before,
            made: Vec::new(),
            copied: Vec::new(),
            making: Arc::default(),
            lock: Some(lock),
        }
    }

    /// What the block sees.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// A statement is done.
    pub fn set_catalog(&mut self, catalog: Catalog) {
        self.catalog = Arc::new(catalog);
    }

    /// Back to how it was at a savepoint; without one, to how it was before the block.
    pub fn go_back(&mut self, catalog: Option<&Arc<Catalog>>) {
        // OIDs of what is taken back are not given anew.
        self.catalog = Arc::new(catalog.unwrap_or(&self.before).skip_oids(&self.catalog));
        let catalog = &self.catalog;
        self.copied.retain(|(table, _)| catalog.get(table.0).is_none());
    }

    /// Something is about to be made that runs, or holds rows.
    pub fn make(&mut self, object: Arc<Object>) {
        self.made.push(object);
    }

    /// OIDs that a statement gives, whatever becomes of it.
    pub fn claim(&mut self, catalog: &Catalog) {
        self.catalog = Arc::new(self.catalog.skip_oids(catalog));
    }

    /// To be held while something is made.
    pub async fn making(&self) -> OwnedMutexGuard<()> {
        self.making.clone().lock_owned().await
    }

    /// Whether nothing has come of it so far.
    pub fn is_untouched(&self) -> bool {
        self.catalog.version() == self.before.version() && self.made.is_empty()
    }

    /// An altered table holds what another one held at an epoch.
    pub fn copied(&mut self, table: RelationId, epoch: Epoch) {
        self.copied.push((table, epoch));
    }

    /// Makes everything count, together with what the block has written, or takes everything back. Gives the
    /// epoch of the rows, if there are any.
    pub async fn commit(
        mut self,
        writes: Arc<Transaction>,
        mut unchanged: Vec<(RelationId, Epoch)>,
    ) -> Result<Option<Epoch>, SqlError> {
        let database = self.database.clone();
        let engine = database.engine.clone();
        let catalog = self.catalog.clone();
        // What the block has made nobody else has changed.
        unchanged.retain(|(table, _)| self.before.get(table.0).is_some());
        writes.keep(|table| catalog.get(table.0).is_some());
        // Only of tables that were there before anybody else can have written to.
        let is_replaced = |(table, _): &(RelationId, Epoch)| {
            catalog.get(table.0).is_none() && self.before.get(table.0).is_some()
        };
        let retired: Vec<(RelationId, Epoch)> =
            self.copied.iter().filter(|it| is_replaced(it)).copied().collect();
        unchanged.extend(&retired);
        let mut was_there = self.before.in_order();
        was_there.retain(|object| catalog.get(object.oid).is_none());
        was_there.reverse();
        // Others may write to their destinations from now on.
        hold_sinks(&database, &was_there, true).await;
        let decided = self.decide(&writes, unchanged, retired).await;
        let epoch = match decided {
            Ok(epoch) => epoch,
            Err(error) => {
                hold_sinks(&database, &was_there, false).await;
                return Err(error);
            }
        };
        drop(self.making().await);
        // It is done; what cannot be stopped is no reason to say otherwise, and is gone at the next start.
        let made = std::mem::take(&mut self.made);
        let (named, nameless): (Vec<_>, Vec<_>) =
            made.into_iter().partition(|object| catalog.get(object.oid).is_some());
        // What the block has made may read what was there.
        for object in by_oid(nameless.iter()).iter().chain(&was_there) {
            if let Err(error) = stop(&database, object).await {
                tracing::warn!(object = object.full_name(), %error, "what was dropped could not be removed");
            }
        }
        // One that is paused must not deliver before it is told so.
        take_effect(&database, &self.before, &named, &catalog).await;
        named.iter().for_each(|object| engine.deliver(RelationId(object.oid)));
        Ok(epoch)
    }

    /// Writes the catalog, and with it the rows.
    async fn decide(
        &self,
        writes: &Transaction,
        unchanged: Vec<(RelationId, Epoch)>,
        retired: Vec<(RelationId, Epoch)>,
    ) -> Result<Option<Epoch>, SqlError> {
        let (database, catalog) = (&self.database, &self.catalog);
        if writes.is_empty() && unchanged.is_empty() {
            database.put_catalog(catalog.as_ref().clone()).await?;
            return Ok(None);
        }
        let commit = Commit {
            unchanged,
            retired: retired.iter().map(|(table, _)| *table).collect(),
            marks: vec![(DEFINED, catalog.version() as i64)],
        };
        database.put_unsettled(catalog, &self.before).await?;
        match database.engine.commit(writes, commit).await {
            Ok(epoch) => {
                crash_point("definitions.decided");
                database.settle(catalog.clone()).await;
                Ok(epoch)
            }
            Err(error) => {
                // Without the mark the old one counts anyway; this only makes the file say so.
                database.settle(self.before.clone()).await;
                Err(engine_error(database, error))
            }
        }
    }
}

/// What a block has made, readers first, in which order things end: they are younger than what they read.
fn by_oid<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<Arc<Object>> {
    let mut objects: Vec<Arc<Object>> = objects.cloned().collect();
    objects.sort_by_key(|object| std::cmp::Reverse(object.oid));
    objects
}

impl Drop for Definitions {
    /// Takes back what was made and does not count, before anybody else changes definitions.
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        self.database.skip_oids(&self.catalog);
        let made = std::mem::take(&mut self.made);
        // Without a runtime the process is at its end, and the next start finds what has no name.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if made.is_empty() {
            return;
        }
        let (database, making) = (self.database.clone(), self.making.clone());
        runtime.spawn(async move {
            let _lock = lock;
            let _made = making.lock().await;
            for object in by_oid(made.iter()) {
                if let Err(error) = stop(&database, &object).await {
                    tracing::warn!(object = object.full_name(), %error, "what was rolled back could not be removed");
                }
            }
        });
    }
}

/// What stands where, in the middle of a block, definitions are changed.
pub enum Changing {
    /// Outside of a block: the statement's own lock.
    Now(TableLock),
    /// In a block, which has the lock.
    InBlock,
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use futures::TryStreamExt;
    use tidemill_engine::EngineConfig;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::session::Session;
    use crate::session::api::{Response, SessionApi};

    async fn open(directory: &Path) -> Session {
        let config =
            EngineConfig { checkpoint_interval: Duration::from_millis(20), ..EngineConfig::default() };
        Session::new(Database::open(directory, 1, config).await.unwrap(), "tidemill".into())
    }

    async fn run(session: &mut Session, sql: &str) -> usize {
        let mut n_rows = 0;
        for parsed in SessionApi::parse(session, sql).unwrap() {
            let cancelled = CancellationToken::new();
            let response = SessionApi::execute(session, &parsed, Vec::new(), &cancelled).await;
            let response = response.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            if let Response::Rows { rows, .. } = response {
                let batches: Vec<arrow::array::RecordBatch> = rows.try_collect().await.unwrap();
                n_rows = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
            }
        }
        n_rows
    }

    fn has_files(path: &Path) -> bool {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).any(|path| path.is_file() || has_files(&path))
    }

    /// Ends as `kill -9` does, as far as what is durable goes.
    fn kill(session: Session) {
        drop(session);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_catalog_counts_only_with_the_mark_of_its_rows() {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE TABLE t (a INT)").await;
        let database = session.database.clone();
        let before = database.catalog();
        let after = before.create_schema("s", "tidemill", false).unwrap();
        // Killed between the catalog and the rows: neither is there.
        database.put_unsettled(&after, &before).await.unwrap();
        drop(database);
        kill(session);
        let mut session = open(directory.path()).await;
        assert!(session.database.catalog().schema("s").is_err());
        assert_eq!(session.database.catalog().objects().count(), 1, "the table is");
        // Killed after the rows, before the catalog was written plainly: both are.
        let database = session.database.clone();
        let before = database.catalog();
        let after = before.create_schema("s", "tidemill", false).unwrap();
        database.put_unsettled(&after, &before).await.unwrap();
        run(&mut session, "BEGIN; INSERT INTO t VALUES (1)").await;
        let marks = vec![(DEFINED, after.version() as i64)];
        database.engine.commit(&session.block.writes, Commit { marks, ..Commit::default() }).await.unwrap();
        drop(database);
        kill(session);
        let mut session = open(directory.path()).await;
        assert!(session.database.catalog().schema("s").is_ok());
        assert_eq!(run(&mut session, "SELECT a FROM t").await, 1);
        // The next change is another one, and settled.
        run(&mut session, "BEGIN; CREATE TABLE s.u (a INT); INSERT INTO s.u VALUES (1); COMMIT").await;
        kill(session);
        let mut session = open(directory.path()).await;
        assert_eq!(run(&mut session, "SELECT a FROM s.u").await, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_rolled_back_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE TABLE t (a INT); INSERT INTO t VALUES (1)").await;
        let kept = session.database.catalog().objects().next().unwrap().oid;
        for _ in 0..3 {
            run(
                &mut session,
                "BEGIN; CREATE TABLE u (a SERIAL, b INT); INSERT INTO u (b) VALUES (1); \
                 CREATE PIPELINE p AS SELECT count(*) AS n FROM u; ROLLBACK",
            )
            .await;
        }
        // Whoever defines something next waits until it is gone.
        run(&mut session, "COMMENT ON TABLE t IS 'kept'").await;
        // An object store has no directories, so empty ones do not count.
        let names = |what: &str| -> Vec<String> {
            let entries = std::fs::read_dir(directory.path().join(what)).into_iter().flatten();
            let entries = entries.map(|entry| entry.unwrap()).filter(|entry| has_files(&entry.path()));
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let of_users =
            |name: &String| name.parse::<u32>().is_ok_and(|oid| oid >= tidemill_catalog::FIRST_OID);
        let tables: Vec<String> = names("tables").into_iter().filter(of_users).collect();
        assert_eq!(tables, [kept.to_string()]);
        assert_eq!(names("dataflows"), [""; 0]);
        assert_eq!(session.database.engine.status().await.pipelines.len(), 0);
        let marks = session.database.engine.marks().await.unwrap();
        assert!(marks.is_empty(), "{marks:?}");
        // Nor are their OIDs given again.
        run(&mut session, "CREATE TABLE v (a INT)").await;
        let newest = session.database.catalog().objects().map(|object| object.oid).max().unwrap();
        assert!(newest > kept + 9, "{newest}");
    }
}
