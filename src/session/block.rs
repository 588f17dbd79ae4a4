//! A transaction block: what it has written, which tables it holds, what it may be taken back to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_catalog::Catalog;
use tidemill_core::{Epoch, SqlState};
use tidemill_engine::{Engine, ReadView, Savepoint, TableLock, Transaction};
use tidemill_plan::RelationId;

use super::api::SqlError;
use super::channels::Announcements;
use super::definitions::Definitions;
use super::settings::Settings;

/// What PostgreSQL promises about what else happens meanwhile. All of them read one snapshot here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// What a block changes it sees as it is when it takes the table's lock, and everything else with it from then on.
    ReadCommitted,
    /// A table that somebody has changed since the snapshot cannot be changed on what it says.
    RepeatableRead,
    /// No table that the block has read, by whatever way, has changed when it commits.
    Serializable,
}

impl Isolation {
    /// As settings have it.
    pub fn of(settings: &Settings) -> Isolation {
        match settings.get("transaction_isolation").unwrap_or_default() {
            "serializable" => Isolation::Serializable,
            "repeatable read" => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        }
    }
}

/// A savepoint: what was written, said and defined so far.
struct Mark {
    name: String,
    writes: Savepoint,
    n_announcements: usize,
    /// None where nothing had been defined.
    catalog: Option<Arc<Catalog>>,
}

/// A transaction block. One that has just begun has done nothing.
#[derive(Default)]
pub struct Block {
    /// Shared with a COPY, which ends in another task's hands.
    pub writes: Arc<Transaction>,
    locks: BTreeMap<RelationId, TableLock>,
    owner: Option<u64>,
    savepoints: Vec<Mark>,
    /// What it has read of relations that change.
    pub reads: BTreeSet<RelationId>,
    /// What it has defined or dropped.
    pub definitions: Option<Definitions>,
    /// Whether it has begun to define something, also where an error has taken that back.
    pub has_defined: bool,
    /// What it reads is not older than this.
    pub since: Epoch,
    /// What it says to other sessions when it commits.
    pub announcements: Announcements,
    /// Whether it is that of one statement, which ends it.
    pub is_implicit: bool,
    /// The settings before it.
    settings: Option<Settings>,
}

impl Block {
    pub fn begin(settings: &Settings) -> Block {
        Block { settings: Some(settings.clone()), ..Block::default() }
    }

    /// The settings as they were before the block.
    pub fn take_settings(&mut self) -> Option<Settings> {
        self.settings.take()
    }

    /// Whether it holds a table's lock.
    pub fn holds(&self, table: RelationId) -> bool {
        self.locks.contains_key(&table)
    }

    /// The name under which it takes locks.
    pub fn owner(&mut self, engine: &Engine) -> u64 {
        *self.owner.get_or_insert_with(|| engine.lock_owner())
    }

    /// Begins the block of one statement, which may hold locks already under its session's name.
    pub fn make_implicit(&mut self, owner: u64) {
        self.is_implicit = true;
        self.owner = Some(owner);
    }

    pub fn hold(&mut self, table: RelationId, lock: TableLock) {
        self.locks.insert(table, lock);
    }

    /// The locks, for whoever holds them until its writes are done.
    pub fn take_locks(&mut self) -> BTreeMap<RelationId, TableLock> {
        std::mem::take(&mut self.locks)
    }

    /// What a snapshot shows with the block's own writes.
    pub fn overlay(&self, view: Arc<ReadView>) -> Arc<ReadView> {
        let own: Vec<_> = self
            .writes
            .tables()
            .into_iter()
            .filter_map(|id| Some((id, self.writes.overlay(id, view.relations.get(&id)?)?)))
            .collect();
        if own.is_empty() {
            return view;
        }
        let mut view = ReadView::clone(&view);
        view.relations.extend(own);
        Arc::new(view)
    }

    /// After an error nothing can come of it but to go back to a savepoint.
    pub fn failed(&mut self) {
        if self.savepoints.is_empty() {
            self.writes = Arc::default();
            self.definitions = None;
            self.locks.clear();
            self.announcements.truncate(0);
        }
    }

    pub fn set_savepoint(&mut self, name: &str) {
        self.savepoints.push(Mark {
            name: name.to_owned(),
            writes: self.writes.savepoint(),
            n_announcements: self.announcements.count(),
            catalog: self.definitions.as_ref().map(|definitions| definitions.catalog().clone()),
        });
    }

    /// Forgets a savepoint and those after it.
    pub fn release(&mut self, name: &str) -> Result<(), SqlError> {
        let at = self.find(name)?;
        self.savepoints.truncate(at);
        Ok(())
    }

    /// Takes back what was written and defined since a savepoint, and forgets those after it.
    pub fn roll_back_to(&mut self, name: &str) -> Result<(), SqlError> {
        let at = self.find(name)?;
        let savepoint = &self.savepoints[at];
        self.writes.roll_back_to(&savepoint.writes);
        self.announcements.truncate(savepoint.n_announcements);
        if let Some(definitions) = &mut self.definitions {
            definitions.go_back(savepoint.catalog.as_ref());
        }
        self.savepoints.truncate(at + 1);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, SqlError> {
        self.savepoints.iter().rposition(|savepoint| savepoint.name == name).ok_or_else(|| {
            SqlError::new(SqlState::INVALID_SAVEPOINT, format!("savepoint \"{name}\" does not exist"))
        })
    }
}
