//! The border between the wire and a session.
//!
//! The wire knows messages, formats and sockets; a session knows statements, transactions and
//! settings. The wire calls a session from one task, one call at a time, and stops a statement by
//! dropping what it awaits: the future of [`SessionApi::execute`] or the stream of its rows.
//! After whatever it sent as an error, it says so with [`SessionApi::failed`]; before it tells the
//! client that it is ready, it calls [`SessionApi::end_of_request`]. Those two calls are all that
//! implicit transactions need.
//!
//! The traits here give boxed futures with one lifetime each, as `async_trait` would but without its where clauses:
//! under where clauses the compiler proves anew for every method that all of a session can be sent to another
//! thread, which takes seconds each.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::future::BoxFuture;
use tidemill_core::{Diagnostic, SqlState};
use tokio_util::sync::CancellationToken;

pub use pgwire::api::Type as PgType;
pub use pgwire::messages::response::TransactionStatus;

use crate::pgwire::copy::CopyOptions;

/// Opens sessions; one per server.
pub trait SessionFactory: Send + Sync + 'static {
    /// What a client must show to be who it says it is.
    fn admit(&self, _user: &str, _peer: SocketAddr) -> Admission {
        Admission::Trusted
    }

    /// A client could not show who it is.
    fn turned_away(&self, _user: &str, _peer: SocketAddr, _error: &SqlError) {}

    /// Opens the session of one connection. An error here is shown to the client, which is then
    /// disconnected: unknown database 3D000, refused user 28000, invalid setting 22023.
    fn connect(&self, startup: StartupParams) -> BoxFuture<'_, Result<Box<dyn SessionApi>, SqlError>>;
}

/// What a client must show before it gets a session.
pub enum Admission {
    /// Nothing: it is taken for who it says it is.
    Trusted,
    /// That it knows the password that this was made of.
    Password(crate::pgwire::scram::Verifier),
    /// It is turned away.
    Refused(SqlError),
}

/// What a client said when it connected.
#[derive(Debug, Clone)]
pub struct StartupParams {
    pub user: String,
    /// As in PostgreSQL, the user's name when the client named none.
    pub database: String,
    /// Settings: the other parameters of the startup message, then `-c name=value` of `options`.
    pub options: BTreeMap<String, String>,
    pub peer: SocketAddr,
    /// This connection. `connections.cancel(pid)` is `pg_cancel_backend(pid)`.
    pub backend: Arc<Backend>,
    pub connections: Arc<Connections>,
}

/// What the wire asks of a session.
pub trait SessionApi: Send + 'static {
    /// Splits a string into statements; none when it holds only space and comments.
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError>;

    /// The types of a statement's parameters (those that the client left open are inferred), and
    /// of the rows that it will return.
    fn describe<'a>(
        &'a mut self,
        statement: &'a Parsed,
        params: &'a [Option<PgType>],
    ) -> BoxFuture<'a, Result<Described, SqlError>>;

    /// Runs a statement. `cancel` fires when the client cancels or leaves, for work that goes on in
    /// other tasks; work in the returned future and streams ends by being dropped.
    fn execute<'a>(
        &'a mut self,
        statement: &'a Parsed,
        params: Vec<ScalarValue>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Response, SqlError>>;

    /// The columns of a cursor that SQL has declared; to clients it is a portal.
    fn cursor_columns(&self, name: &str) -> Option<SchemaRef> {
        let _ = name;
        None
    }

    /// Whether a transaction is open, and whether it has failed.
    fn status(&self) -> TransactionStatus;

    /// A statement ended with this error, whoever found it.
    fn failed(&mut self, error: &SqlError);

    /// All statements of a query string, or all up to a Sync, have run: time to end an implicit
    /// transaction.
    fn end_of_request(&mut self) -> BoxFuture<'_, Result<(), SqlError>>;

    /// Notices since the last call.
    fn take_notices(&mut self) -> Vec<Notice> {
        Vec::new()
    }

    /// Settings that clients are told of when they change, since the last call. What a fresh
    /// session has here overrides the values sent at startup.
    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// How long a statement may run.
    fn statement_timeout(&self) -> Option<Duration> {
        None
    }

    /// How long a client may say nothing inside a transaction.
    fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        None
    }

    /// The error that a row stream ended with, as the client shall see it.
    fn explain(&self, error: DataFusionError) -> SqlError {
        SqlError::from_datafusion(error)
    }

    /// The client is gone.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {})
    }
}

/// A statement that was parsed: the session's own form of it, and its text.
#[derive(Clone)]
pub struct Parsed {
    sql: Arc<str>,
    statement: Arc<dyn Any + Send + Sync>,
}

impl Parsed {
    pub fn new<S: Any + Send + Sync>(sql: impl Into<Arc<str>>, statement: S) -> Self {
        Parsed { sql: sql.into(), statement: Arc::new(statement) }
    }

    /// The text of this statement alone.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// What the session put in.
    pub fn statement<S: Any>(&self) -> Option<&S> {
        self.statement.downcast_ref()
    }
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parsed").field(&self.sql).finish()
    }
}

/// What is known of a statement before it runs.
#[derive(Debug, Clone)]
pub struct Described {
    pub params: Vec<PgType>,
    /// `None` for a statement that returns no rows.
    pub columns: Option<SchemaRef>,
}

/// What a statement answers.
pub enum Response {
    /// Rows, sent as they come: a stream may be endless.
    Rows { schema: SchemaRef, rows: SendableRecordBatchStream, tag: RowsTag },
    /// A command that is done.
    Command { tag: String },
    /// `COPY … TO STDOUT`.
    CopyOut { rows: SendableRecordBatchStream, options: CopyOptions },
    /// `COPY … FROM STDIN`: rows of `schema` go to `sink`.
    CopyIn { schema: SchemaRef, options: CopyOptions, sink: Box<dyn CopyInSink> },
    /// A statement without content.
    Empty,
}

/// The command tag of rows; their number is put behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsTag(pub &'static str);

impl RowsTag {
    pub const SELECT: RowsTag = RowsTag("SELECT");
    pub const FETCH: RowsTag = RowsTag("FETCH");
    /// The zero was the OID of the row, once.
    pub const INSERT: RowsTag = RowsTag("INSERT 0");
    pub const UPDATE: RowsTag = RowsTag("UPDATE");
    pub const DELETE: RowsTag = RowsTag("DELETE");
    pub const SUBSCRIBE: RowsTag = RowsTag("SUBSCRIBE");

    pub fn complete(self, n_rows: u64) -> String {
        format!("{} {n_rows}", self.0)
    }
}

/// Takes the rows of `COPY … FROM STDIN`. Dropped without [`CopyInSink::finish`], it must forget
/// what it was given.
pub trait CopyInSink: Send + 'static {
    fn write(&mut self, rows: RecordBatch) -> BoxFuture<'_, Result<(), SqlError>>;

    /// The client sent all of it. Returns the number of rows for the tag.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<u64, SqlError>>;
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// In characters from 1, in the whole string that was given to [`SessionApi::parse`].
    pub position: Option<usize>,
    /// The connection ends with this error.
    pub fatal: bool,
}

impl SqlError {
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        SqlError { sqlstate, message: message.into(), detail: None, hint: None, position: None, fatal: false }
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_position(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }

    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    /// Finds the `SqlError` inside an error of DataFusion, or the SQLSTATE that fits.
    pub fn from_datafusion(error: DataFusionError) -> Self {
        crate::pgwire::error::from_datafusion(error)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SqlError {}

impl<E: Diagnostic> From<E> for SqlError {
    fn from(error: E) -> Self {
        SqlError {
            sqlstate: error.sqlstate(),
            message: error.to_string(),
            detail: error.detail(),
            hint: error.hint(),
            position: error.position(),
            fatal: false,
        }
    }
}

/// Something a client should know that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `WARNING`, `NOTICE`, `INFO`, `LOG` or `DEBUG`.
    pub severity: &'static str,
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Notice {
    pub fn new(message: impl Into<String>) -> Self {
        Notice {
            severity: "NOTICE",
            sqlstate: SqlState("00000"),
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    pub fn warning(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Notice { severity: "WARNING", sqlstate, message: message.into(), detail: None, hint: None }
    }
}

/// What a connection does, as `pg_stat_activity` shows it. Times are microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    pub user: String,
    pub database: String,
    pub application_name: String,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`.
    pub state: &'static str,
    /// The statement that runs, or the last one; its beginning, if it is long.
    pub query: String,
    pub backend_start: Option<i64>,
    pub transaction_start: Option<i64>,
    pub query_start: Option<i64>,
    pub state_change: Option<i64>,
}

/// A message that another session, or this one, has sent with `NOTIFY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Of the session that sent it.
    pub pid: i32,
    pub channel: String,
    pub payload: String,
}

/// A client that has been told of none of so many messages will not be.
const NOTIFICATIONS_MAX: usize = 10_000;

/// One connection, as others can reach it.
#[derive(Debug)]
pub struct Backend {
    pub pid: i32,
    pub peer: SocketAddr,
    /// Who logged in.
    pub user: String,
    activity: Mutex<Activity>,
    /// What the client has not been told yet.
    notifications: Mutex<Vec<Notification>>,
    notified: tokio::sync::Notify,
    secret: Bytes,
    /// Of the statement that runs, else of the last one. Replaced when a statement starts, so that
    /// a late cancel request does not hit the next statement.
    statement: Mutex<CancellationToken>,
    terminate: CancellationToken,
    busy: AtomicBool,
}

impl Backend {
    /// Ends the statement that runs.
    pub fn cancel(&self) {
        lock(&self.statement).cancel();
    }

    /// Ends the connection.
    pub fn terminate(&self) {
        self.terminate.cancel();
    }

    /// Whether a statement runs.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub fn activity(&self) -> Activity {
        lock(&self.activity).clone()
    }

    /// Changes what others see of it.
    pub fn note(&self, change: impl FnOnce(&mut Activity)) {
        change(&mut lock(&self.activity));
    }

    /// Has the client told of a message. A client that does not take what it listens to is disconnected: it cannot go on as if it had
    /// heard all of it.
    pub fn notify(&self, notification: Notification) {
        let mut waiting = lock(&self.notifications);
        if waiting.len() >= NOTIFICATIONS_MAX {
            tracing::warn!(pid = self.pid, "disconnected: it does not take what it listens to");
            waiting.clear();
            self.terminate();
            return;
        }
        waiting.push(notification);
        drop(waiting);
        self.notified.notify_one();
    }

    pub(crate) fn take_notifications(&self) -> Vec<Notification> {
        std::mem::take(&mut lock(&self.notifications))
    }

    /// Waits until there is a message to be told of.
    pub(crate) async fn notified(&self) {
        self.notified.notified().await;
    }

    pub(crate) fn secret(&self) -> &Bytes {
        &self.secret
    }

    pub(crate) fn terminated(&self) -> &CancellationToken {
        &self.terminate
    }

    /// Fires when the statement that starts now is cancelled or the connection terminated.
    pub(crate) fn statement_starts(&self) -> CancellationToken {
        let token = self.terminate.child_token();
        *lock(&self.statement) = token.clone();
        self.busy.store(true, Ordering::Relaxed);
        token
    }

    pub(crate) fn statement_ends(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }
}

/// All connections of a server.
#[derive(Debug)]
pub struct Connections {
    n_max: usize,
    shutdown: CancellationToken,
    backends: Mutex<HashMap<i32, Arc<Backend>>>,
}

impl Connections {
    pub fn new(n_max: usize, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Connections { n_max, shutdown, backends: Mutex::default() })
    }

    /// Ends the statement of the connection `pid`; false when there is no such connection.
    pub fn cancel(&self, pid: i32) -> bool {
        self.get(pid).map(|backend| backend.cancel()).is_some()
    }

    /// Ends the connection `pid`; false when there is no such connection.
    pub fn terminate(&self, pid: i32) -> bool {
        self.get(pid).map(|backend| backend.terminate()).is_some()
    }

    pub fn get(&self, pid: i32) -> Option<Arc<Backend>> {
        lock(&self.backends).get(&pid).cloned()
    }

    pub fn list(&self) -> Vec<Arc<Backend>> {
        lock(&self.backends).values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        lock(&self.backends).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A place for a new connection, unless all are taken.
    pub(crate) fn register(
        self: &Arc<Self>,
        pid: i32,
        secret: Bytes,
        peer: SocketAddr,
        user: &str,
    ) -> Option<Registration> {
        let mut backends = lock(&self.backends);
        if backends.len() >= self.n_max {
            return None;
        }
        let terminate = self.shutdown.child_token();
        let backend = Arc::new(Backend {
            pid,
            peer,
            user: user.to_owned(),
            activity: Mutex::default(),
            notifications: Mutex::default(),
            notified: tokio::sync::Notify::new(),
            secret,
            statement: Mutex::new(terminate.child_token()),
            terminate,
            busy: AtomicBool::new(false),
        });
        backends.insert(pid, Arc::clone(&backend));
        Some(Registration { backend, connections: Arc::clone(self) })
    }

    /// A cancel request of the wire: without the right secret it does nothing.
    pub(crate) fn cancel_with_secret(&self, pid: i32, secret: &[u8]) {
        if let Some(backend) = self.get(pid)
            && same_bytes(backend.secret(), secret)
        {
            backend.cancel();
        }
    }
}

/// A connection's place; dropped, it is free again.
pub(crate) struct Registration {
    pub(crate) backend: Arc<Backend>,
    connections: Arc<Connections>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.connections.backends).remove(&self.backend.pid);
    }
}

/// Compares in a time that tells nothing of where the first difference is.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// What the mutexes here guard is whole between any two instructions, so a panic elsewhere while
/// one was held does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
