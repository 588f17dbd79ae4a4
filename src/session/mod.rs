//! A client's session: what it said, what it may see, what runs for it.
//!
//! Statements that read see all relations at one epoch, which is at least that of the session's own
//! last write. Inside a transaction block that is the epoch of its first read, with what the block has written on
//! top; others see that when it commits, all at once.

pub mod advisory;
pub mod api;
pub mod block;
pub mod channels;
pub mod definitions;
pub mod internal;
pub mod login;
pub mod settings;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
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
use tidemill_sql::statements::{Statement, redact};
use tokio_util::sync::CancellationToken;

use self::advisory::Locker;
use self::api::{
    Admission, Backend, Connections, Described, Notice, Parsed, PgType, Response, SessionApi, SessionFactory,
    SqlError, StartupParams, TransactionStatus,
};
use self::block::Block;
use self::channels::Announcement;
use self::definitions::{Changing, Definitions};
use self::login::Authentication;
use self::settings::Settings;
use crate::audit::{Action, Who};
use crate::database::Database;
use crate::pg_catalog::{Effects, PgCatalog, SettingChanges};
use crate::policies::Change;
use crate::privileges::DENIED;
use crate::sequences::Given;
use crate::statements::KeptPlan;

/// Opens sessions on a database.
pub struct Sessions {
    pub database: Arc<Database>,
    pub authentication: Authentication,
}

impl SessionFactory for Sessions {
    fn admit(&self, user: &str, peer: SocketAddr) -> Admission {
        self.authentication.admit(&self.database.catalog(), user, peer)
    }

    fn turned_away(&self, user: &str, peer: SocketAddr, error: &SqlError) {
        let who = Who { user, role: user, address: Some(peer) };
        self.database.audit.record(Action::Login, who, None, Err(error));
    }

    fn connect(&self, startup: StartupParams) -> BoxFuture<'_, Result<Box<dyn SessionApi>, SqlError>> {
        Box::pin(async move {
            let (user, peer) = (startup.user.clone(), startup.peer);
            let opened = login::open(&self.database, startup);
            let who = Who { user: &user, role: &user, address: Some(peer) };
            self.database.audit.record(Action::Login, who, None, opened.as_ref().map(drop));
            Ok(Box::new(opened?) as Box<dyn SessionApi>)
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
    /// Whether the block that declared it has not ended yet.
    pub is_of_block: bool,
    /// Of one that was declared with SCROLL.
    pub scroll: Option<Scroll>,
}

/// What a cursor keeps to be able to go back.
#[derive(Default)]
pub struct Scroll {
    pub batches: Vec<RecordBatch>,
    pub n_rows: usize,
    pub n_bytes: usize,
    /// The number of the row that it is on, from 1: zero before the first, one more than there are behind the last.
    pub position: usize,
}

/// A statement with a name of its own, from PREPARE.
#[derive(Clone)]
pub struct PreparedStatement {
    pub statement: Statement,
    pub sql: String,
    pub types: Vec<arrow::datatypes::DataType>,
    pub kept: Arc<KeptPlan>,
}

/// What a statement is executed with beside itself.
pub struct Call<'a> {
    pub statement: &'a Statement,
    /// The statement's own text.
    pub sql: &'a str,
    pub params: Vec<ScalarValue>,
    /// Of a prepared statement, how it was run before.
    pub kept: Option<&'a KeptPlan>,
}

/// One client's session.
pub struct Session {
    pub database: Arc<Database>,
    /// Who logged in; never changes.
    login: String,
    /// What the statement changes, which its own queries read whether or not its user may.
    pub changes: Option<Change>,
    /// The process id that the client was given.
    pub backend_pid: i32,
    /// Where the client is.
    pub address: Option<SocketAddr>,
    /// This connection, and all of them; none for a session that the server opened for itself.
    pub backend: Option<Arc<Backend>>,
    pub connections: Option<Arc<Connections>>,
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
    kept: KeptPlan,
}

impl Session {
    pub fn new(database: Arc<Database>, user: String) -> Session {
        let written = database.engine.epoch();
        let mut settings = Settings::default();
        settings.log_in(&user, database.catalog().is_superuser(&user));
        let locks = SessionLocks(Arc::new(database.advisory.session()));
        Session {
            locks,
            borrowed_catalog: None,
            given: Arc::default(),
            set_by_functions: Arc::default(),
            database,
            login: user,
            changes: None,
            backend_pid: 0,
            address: None,
            backend: None,
            connections: None,
            settings,
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

    /// Whose rights statements have: of the session's user, unless SET ROLE took others.
    pub fn user(&self) -> &str {
        self.settings.role().unwrap_or_else(|| self.session_user())
    }

    /// Who logged in, unless a superuser said that it is somebody else.
    pub fn session_user(&self) -> &str {
        self.settings.get("session_authorization").unwrap_or(&self.login)
    }

    /// `SET ROLE`; `None` goes back to the session's user.
    pub fn set_role(&mut self, role: Option<&str>, is_local: bool) -> Result<(), SqlError> {
        let catalog = self.catalog();
        if let Some(role) = role {
            catalog.role(role)?;
            if !catalog.is_member(self.session_user(), role) {
                let message = format!("permission denied to set role \"{role}\"");
                return Err(SqlError::new(SqlState("42501"), message));
            }
        }
        let is_superuser = catalog.is_superuser(role.unwrap_or(self.session_user()));
        self.settings.set_identity("role", role.unwrap_or("none"), is_superuser, is_local);
        Ok(())
    }

    /// `SET SESSION AUTHORIZATION`; `None` goes back to who logged in.
    pub fn set_session_user(&mut self, user: Option<&str>, is_local: bool) -> Result<(), SqlError> {
        let catalog = self.catalog();
        let user = user.unwrap_or(&self.login).to_owned();
        catalog.role(&user)?;
        if user != self.login && !catalog.is_superuser(&self.login) {
            let message = format!("permission denied to set session authorization \"{user}\"");
            return Err(SqlError::new(SqlState("42501"), message));
        }
        let is_superuser = catalog.is_superuser(&user);
        self.settings.set_identity("role", "none", is_superuser, is_local);
        self.settings.set_identity("session_authorization", &user, is_superuser, is_local);
        Ok(())
    }

    /// What the session may ask a PostgreSQL server about itself.
    pub fn pg_catalog(&self) -> PgCatalog {
        PgCatalog {
            catalog: self.catalog(),
            user: self.user().to_owned(),
            session_user: self.session_user().to_owned(),
            database: tidemill_sql::DATABASE.into(),
            search_path: self.settings.search_path(),
            settings: self
                .settings
                .all()
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            backend_pid: self.backend_pid,
            connections: self.connections.clone(),
            announcements: self.block.announcements.clone(),
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
        self.block.has_defined = true;
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
                | Statement::CreateSecret(_)
                | Statement::CreatePolicy(_)
                | Statement::AlterPolicy(_)
                | Statement::DropPolicy(_)
                | Statement::Drop(_)
                | Statement::Alter(_)
                | Statement::Comment(_)
                | Statement::CreateRole(_)
                | Statement::AlterRole(_)
                | Statement::DropRole(_)
                | Statement::GrantRoles(_)
                | Statement::GrantPrivileges(_)
                | Statement::AlterDefaultPrivileges(_)
                | Statement::ReassignOwned(_)
                | Statement::DropOwned(_)
                | Statement::Set(_)
                | Statement::SetRole(_)
        );
        let outcome = if is_definition {
            let call =
                Call { statement: &known.statement, sql: parsed.sql(), params: Vec::new(), kept: None };
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
        self.note_active(&shown(call.statement, call.sql));
        let (statement, sql) = (call.statement, call.sql);
        // Whose rights it was done with: it may change them.
        let role = self.user().to_owned();
        let had_definitions = self.block.definitions.is_some();
        let ends_definitions =
            self.block.has_defined && matches!(statement, Statement::Commit(_) | Statement::Rollback(_));
        let is_commit_of_failed =
            self.status == TransactionStatus::Error && matches!(statement, Statement::Commit(_));
        let outcome = internal::guarded(crate::statements::run(self, call)).await;
        // Nobody is kept from defining by who has defined nothing.
        if !had_definitions && self.block.definitions.as_ref().is_some_and(Definitions::is_untouched) {
            self.block.definitions = None;
        }
        let denied = outcome.as_ref().err().filter(|error| error.sqlstate == DENIED);
        let action = match denied {
            Some(_) => Some(Action::Denied),
            // What a block has defined came to be with its end, or did not.
            None if ends_definitions => Some(Action::Change),
            None => crate::statements::audited(statement),
        };
        if is_commit_of_failed && ends_definitions {
            let error = SqlError::new(SqlState::IN_FAILED_TRANSACTION, "the transaction was rolled back");
            self.audited(Action::Change, &role, sql, Err(&error));
        } else if let Some(action) = action {
            self.audited(action, &role, sql, outcome.as_ref().map(drop));
        }
        outcome
    }

    fn audited(&self, action: Action, role: &str, sql: &str, outcome: Result<(), &SqlError>) {
        let who = Who { user: self.session_user(), role, address: self.address };
        self.database.audit.record(action, who, Some(sql), outcome);
    }

    /// Lets others know of what a transaction that has committed says.
    pub fn announce(&self) {
        let announcements = self.block.announcements.take();
        if let (false, Some(backend)) = (announcements.is_empty(), &self.backend) {
            self.database.channels.carry_out(backend, announcements);
        }
    }

    fn note_active(&self, sql: &str) {
        let Some(backend) = &self.backend else { return };
        let end = sql.floor_char_boundary(QUERY_BYTES_SHOWN.min(sql.len()));
        let now = chrono::Utc::now().timestamp_micros();
        backend.note(|activity| {
            activity.state = "active";
            activity.query.clear();
            activity.query.push_str(&sql[..end]);
            activity.query_start = Some(now);
            activity.state_change = Some(now);
            activity.transaction_start.get_or_insert(now);
        });
    }

    fn note_idle(&self) {
        let Some(backend) = &self.backend else { return };
        let state = match self.status {
            TransactionStatus::Idle => "idle",
            TransactionStatus::Transaction => "idle in transaction",
            TransactionStatus::Error => "idle in transaction (aborted)",
        };
        let application_name = self.settings.get("application_name").unwrap_or_default();
        backend.note(|activity| {
            activity.state = state;
            activity.state_change = Some(chrono::Utc::now().timestamp_micros());
            if activity.application_name != application_name {
                activity.application_name = application_name.to_owned();
            }
            if self.status == TransactionStatus::Idle {
                activity.transaction_start = None;
            }
        });
    }
}

/// A statement's text as others may see it.
fn shown<'a>(statement: &Statement, sql: &'a str) -> Cow<'a, str> {
    match statement {
        // These hold no secrets, and are often long.
        Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
            sql.into()
        }
        _ => redact(sql).into(),
    }
}

/// How much of a statement others see, as PostgreSQL's `track_activity_query_size` has it.
const QUERY_BYTES_SHOWN: usize = 1023;

impl SessionApi for Session {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        let statements = internal::guarded_sync(|| Ok(parser::parse(sql)?))?;
        let parsed = |parsed: parser::Parsed| {
            let (statement, offset) = (parsed.statement, parsed.offset);
            Parsed::new(parsed.sql, SessionStatement { statement, offset, kept: KeptPlan::default() })
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
            let described = internal::guarded(description).await;
            // Who prepares a statement hears of it now, and does not run it.
            if let Some(error) = described.as_ref().err().filter(|error| error.sqlstate == DENIED) {
                self.audited(Action::Denied, self.user(), statement.sql(), Err(error));
            }
            described.map_err(|error| shifted(error, known.offset))
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
            let kept = Some(&known.kept);
            let call = Call { statement: &known.statement, sql: statement.sql(), params, kept };
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
        } else if self.status == TransactionStatus::Idle {
            self.block.announcements.truncate(0);
        }
    }

    fn cursor_columns(&self, name: &str) -> Option<SchemaRef> {
        self.cursors.get(name).map(|cursor| cursor.schema.clone())
    }

    fn end_of_request(&mut self) -> BoxFuture<'_, Result<(), SqlError>> {
        Box::pin(async move {
            if self.status == TransactionStatus::Idle {
                self.pinned = None;
                self.announce();
                self.locks.end_transaction();
            }
            self.take_up_settings();
            self.note_idle();
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

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Some(backend) = &self.backend {
                self.database.channels.carry_out(backend, vec![Announcement::Unlisten(None)]);
            }
        })
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
