//! A client's session: what it said, what it may see, what runs for it.
//!
//! Statements that read see all relations at one epoch, which is at least that of the session's own
//! last write. Inside a transaction block that is the epoch of its first read, with what the block has written on
//! top; others see that when it commits, all at once.

pub mod advisory;
pub mod api;
pub mod block;
pub mod definitions;
pub mod internal;
pub mod settings;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::future::BoxFuture;
use tidemill_catalog::Catalog;
use tidemill_core::{Epoch, SqlState};
use tidemill_engine::ReadView;
use tidemill_sql::parser;
use tidemill_sql::statements::Statement;
use tokio_util::sync::CancellationToken;

use self::advisory::Locker;
use self::api::{
    Described, Notice, Parsed, PgType, Response, SessionApi, SessionFactory, SqlError, StartupParams,
    TransactionStatus,
};
use self::block::Block;
use self::definitions::{Changing, Definitions};
use self::settings::Settings;
use crate::database::Database;
use crate::pg_catalog::{Effects, PgCatalog, SettingChanges};
use crate::sequences::Given;

/// The only database, and the name that tools try when they have none.
const DATABASES: [&str; 2] = ["tidemill", "postgres"];

/// Opens sessions on a database.
pub struct Sessions {
    pub database: Arc<Database>,
}

impl SessionFactory for Sessions {
    fn connect(&self, startup: StartupParams) -> BoxFuture<'_, Result<Box<dyn SessionApi>, SqlError>> {
        Box::pin(async move {
            if !DATABASES.contains(&startup.database.as_str()) {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_DATABASE,
                    format!("database \"{}\" does not exist", startup.database),
                )
                .with_hint("Connect to the database \"tidemill\".")
                .fatal());
            }
            let mut session = Session::new(self.database.clone(), startup.user.clone());
            session.backend_pid = startup.backend.pid;
            for (name, value) in &startup.options {
                session.settings.set_at_startup(name, value)?;
            }
            Ok(Box::new(session) as Box<dyn SessionApi>)
        })
    }
}

/// A result that is fetched in pieces.
pub struct CursorState {
    pub schema: SchemaRef,
    /// Locked by nobody: it only lets a session be looked at from several threads.
    pub rows: std::sync::Mutex<SendableRecordBatchStream>,
    /// Read and not fetched yet.
    pub pending: VecDeque<RecordBatch>,
    pub is_finished: bool,
    /// Whether it never ends by itself.
    pub is_subscription: bool,
    pub hold: bool,
}

/// A statement with a name of its own, from PREPARE.
#[derive(Clone)]
pub struct PreparedStatement {
    pub statement: Statement,
    pub sql: String,
    pub types: Vec<arrow::datatypes::DataType>,
}

/// What a statement is executed with beside itself.
pub struct Call<'a> {
    pub statement: &'a Statement,
    /// The statement's own text.
    pub sql: &'a str,
    pub params: Vec<ScalarValue>,
}

/// One client's session.
pub struct Session {
    pub database: Arc<Database>,
    pub user: String,
    /// The process id that the client was given.
    pub backend_pid: i32,
    pub settings: Settings,
    pub status: TransactionStatus,
    /// The transaction block, while there is one.
    pub block: Block,
    pub notices: Vec<Notice>,
    /// The epoch that the session must see: of its last write, or of its start.
    pub written: Epoch,
    /// A COPY may have written since; its epoch is not known here.
    pub has_copied: bool,
    /// What the transaction block reads, once it has read anything.
    pub pinned: Option<Arc<ReadView>>,
    pub cursors: HashMap<String, CursorState>,
    pub prepared: BTreeMap<String, PreparedStatement>,
    /// What it sees instead of the database's catalog, outside of a block of its own.
    pub borrowed_catalog: Option<Arc<Catalog>>,
    /// Its advisory locks.
    pub locks: SessionLocks,
    /// The numbers that it got from sequences.
    pub given: Arc<Given>,
    /// What functions have set.
    set_by_functions: Arc<Mutex<SettingChanges>>,
}

/// A session's advisory locks. Plans that are still around keep none of them.
pub struct SessionLocks(Arc<Locker>);

impl std::ops::Deref for SessionLocks {
    type Target = Locker;

    fn deref(&self) -> &Locker {
        &self.0
    }
}

impl Drop for SessionLocks {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A parsed statement as the wire carries it.
struct SessionStatement {
    statement: Statement,
    /// Where the statement begins in the text that it came with, in characters.
    offset: usize,
}

impl Session {
    pub fn new(database: Arc<Database>, user: String) -> Session {
        let written = database.engine.epoch();
        let locks = SessionLocks(Arc::new(database.advisory.session()));
        Session {
            locks,
            borrowed_catalog: None,
            given: Arc::default(),
            set_by_functions: Arc::default(),
            database,
            user,
            backend_pid: 0,
            settings: Settings::default(),
            status: TransactionStatus::Idle,
            block: Block::default(),
            notices: Vec::new(),
            // What was acknowledged before, to whomever, is to be seen: after a restart pipelines catch up.
            written,
            has_copied: false,
            pinned: None,
            cursors: HashMap::new(),
            prepared: BTreeMap::new(),
        }
    }

    /// What the session may ask a PostgreSQL server about itself.
    pub fn pg_catalog(&self) -> PgCatalog {
        PgCatalog {
            catalog: self.catalog(),
            user: self.user.clone(),
            database: tidemill_sql::DATABASE.into(),
            search_path: self.settings.search_path(),
            settings: self
                .settings
                .all()
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            backend_pid: self.backend_pid,
            backends: Vec::new(),
            locks: self.database.advisory.list(),
            sequences: self.database.sequences.clone(),
        }
    }

    /// What is defined, as the session sees it.
    pub fn catalog(&self) -> Arc<Catalog> {
        match (&self.block.definitions, &self.borrowed_catalog) {
            (Some(definitions), _) => definitions.catalog().clone(),
            (None, Some(borrowed)) => borrowed.clone(),
            (None, None) => self.database.catalog(),
        }
    }

    /// Lets the statement that runs change definitions.
    pub async fn change_definitions(&mut self) -> Result<Changing, SqlError> {
        let is_in_block = self.is_in_block();
        if is_in_block && self.block.definitions.is_some() {
            return Ok(Changing::InBlock);
        }
        // Who changes a table takes that one's lock as well, under the same name.
        let owner = self.block.owner(&self.database.engine);
        let taken = self.database.change_definitions_as(owner);
        let lock = match self.settings.duration("lock_timeout") {
            Some(timeout) => tokio::time::timeout(timeout, taken).await.map_err(|_| {
                SqlError::new(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout")
                    .with_detail("Another session is changing definitions.")
            })??,
            None => taken.await?,
        };
        if !is_in_block {
            return Ok(Changing::Now(lock));
        }
        self.block.definitions = Some(Definitions::begin(self.database.clone(), lock));
        Ok(Changing::InBlock)
    }

    /// Makes a changed catalog the one that counts, or in a block the one that the block sees.
    pub async fn commit_catalog(&mut self, changing: Changing, catalog: Catalog) -> Result<(), SqlError> {
        match (changing, &mut self.block.definitions) {
            (Changing::Now(lock), _) => self.database.commit(lock, catalog).await,
            (Changing::InBlock, Some(definitions)) => {
                definitions.set_catalog(catalog);
                Ok(())
            }
            (Changing::InBlock, None) => unreachable!("a block that changes definitions has them"),
        }
    }

    /// What functions of the session's queries act on.
    pub fn effects(&self, pg: PgCatalog) -> Arc<Effects> {
        Arc::new(Effects {
            pg,
            sequences: self.database.sequences.clone(),
            given: self.given.clone(),
            locker: self.locks.0.clone(),
            lock_timeout: self.settings.duration("lock_timeout"),
            settings: self.set_by_functions.clone(),
            known: self.settings.clone(),
        })
    }

    /// Takes up what `set_config` has set.
    fn take_up_settings(&mut self) {
        let changes =
            std::mem::take(&mut *self.set_by_functions.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, value, is_local) in changes {
            // Outside of a block a local change is over by now.
            if is_local && self.status == TransactionStatus::Idle {
                continue;
            }
            // It was checked when it was set.
            if let Err(error) = self.settings.set(&name, Some(value), is_local) {
                tracing::warn!(%error, "a setting could not be taken up");
            }
        }
    }

    /// Whether what the session writes waits for a COMMIT.
    pub fn is_in_block(&self) -> bool {
        self.status == TransactionStatus::Transaction
    }

    pub fn notice(&mut self, message: impl Into<String>) {
        self.notices.push(Notice::new(message));
    }

    /// Looks at a statement as far as that goes without running it; definitions are entered, so that what
    /// follows can refer to them.
    pub async fn check(&mut self, parsed: &Parsed) -> Result<(), SqlError> {
        assert!(self.database.is_for_checks(), "statements are checked where nothing runs");
        let Some(known) = parsed.statement::<SessionStatement>() else {
            return Err(SqlError::new(SqlState::INTERNAL_ERROR, "the statement is of another session"));
        };
        let is_definition = matches!(
            known.statement,
            Statement::CreateSource(_)
                | Statement::CreateTable(_)
                | Statement::CreatePipeline(_)
                | Statement::CreateView(_)
                | Statement::CreateSink(_)
                | Statement::CreateSchema(_)
                | Statement::CreateSequence(_)
                | Statement::CreateIndex(_)
                | Statement::Drop(_)
                | Statement::Alter(_)
                | Statement::Comment(_)
                | Statement::Set(_)
        );
        let outcome = if is_definition {
            let call = Call { statement: &known.statement, sql: parsed.sql(), params: Vec::new() };
            self.run(call).await.map(drop)
        } else {
            let description = crate::statements::describe(self, &known.statement, parsed.sql(), &[]);
            internal::guarded(description).await.map(drop)
        };
        outcome.map_err(|error| shifted(error, known.offset))
    }

    /// Runs one statement.
    pub async fn run(&mut self, call: Call<'_>) -> Result<Response, SqlError> {
        self.take_up_settings();
        let ends_block = matches!(
            call.statement,
            Statement::Commit(_) | Statement::Rollback(_) | Statement::RollbackTo(_)
        );
        if self.status == TransactionStatus::Error && !ends_block {
            return Err(SqlError::new(
                SqlState::IN_FAILED_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        internal::guarded(crate::statements::run(self, call)).await
    }
}

impl SessionApi for Session {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        let statements = internal::guarded_sync(|| Ok(parser::parse(sql)?))?;
        let parsed = |parsed: parser::Parsed| {
            Parsed::new(parsed.sql, SessionStatement { statement: parsed.statement, offset: parsed.offset })
        };
        Ok(statements.into_iter().map(parsed).collect())
    }

    fn describe<'a>(
        &'a mut self,
        statement: &'a Parsed,
        params: &'a [Option<PgType>],
    ) -> BoxFuture<'a, Result<Described, SqlError>> {
        Box::pin(async move {
            let Some(known) = statement.statement::<SessionStatement>() else {
                return Err(SqlError::new(SqlState::INTERNAL_ERROR, "the statement is of another session"));
            };
            self.take_up_settings();
            let description = crate::statements::describe(self, &known.statement, statement.sql(), params);
            internal::guarded(description).await.map_err(|error| shifted(error, known.offset))
        })
    }

    fn execute<'a>(
        &'a mut self,
        statement: &'a Parsed,
        params: Vec<ScalarValue>,
        _: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Response, SqlError>> {
        Box::pin(async move {
            let Some(known) = statement.statement::<SessionStatement>() else {
                return Err(SqlError::new(SqlState::INTERNAL_ERROR, "the statement is of another session"));
            };
            let call = Call { statement: &known.statement, sql: statement.sql(), params };
            self.run(call).await.map_err(|error| shifted(error, known.offset))
        })
    }

    fn status(&self) -> TransactionStatus {
        self.status
    }

    fn failed(&mut self, _: &SqlError) {
        if self.block.is_implicit {
            // Its statement was dropped half way.
            crate::statements::end_block(self);
        } else if self.status == TransactionStatus::Transaction {
            self.status = TransactionStatus::Error;
            self.block.failed();
        }
    }

    fn end_of_request(&mut self) -> BoxFuture<'_, Result<(), SqlError>> {
        Box::pin(async move {
            if self.status == TransactionStatus::Idle {
                self.pinned = None;
                self.locks.end_transaction();
            }
            self.take_up_settings();
            Ok(())
        })
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.take_up_settings();
        self.settings.take_reported()
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.settings.duration("statement_timeout")
    }

    fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        self.settings.duration("idle_in_transaction_session_timeout")
    }

    fn explain(&self, error: DataFusionError) -> SqlError {
        internal::identified(crate::statements::execution_error(&self.database, error, ""))
    }
}

/// Positions in a statement as positions in the text that it came with.
fn shifted(mut error: SqlError, offset: usize) -> SqlError {
    error.position = error.position.map(|position| position + offset);
    error
}
