//! What a server gives to those who run it: the command line, the HTTP endpoints, the demo.
//!
//! They see a [`Service`] and nothing behind it, so that each of them can be tested with a made-up one.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use tidemill_catalog::{BOOTSTRAP, Role};
use tidemill_core::SqlState;
use tidemill_engine::{EngineConfig, EngineStatus};
use tidemill_storage::Root;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Auth, Config, check_sql_address};
use crate::database::Database;
use crate::pgwire::server::{Server, ServerConfig};
use crate::pgwire::tls::Tls;
use crate::secrets::SecretKeys;
use crate::session::api::{Response, SessionApi, SqlError};
use crate::session::login::{self, Authentication};
use crate::session::{Session, Sessions};

/// A server that runs in this process.
pub trait Service: Send + Sync + 'static {
    /// What runs, and how it is.
    fn status(&self) -> EngineStatus;

    /// Whether it has recovered and takes statements.
    fn is_ready(&self) -> bool;

    /// Runs the statements of a text as the internal user.
    fn run_sql<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Vec<StatementResult>, SqlError>>;

    /// Parses, binds and plans the statements of a text without running any. Gives all errors that it
    /// finds, with positions in the whole text.
    fn check_sql<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Vec<SqlError>>;

    /// Where the wire protocol is served.
    fn sql_addr(&self) -> Option<SocketAddr>;

    /// Where HTTP is served.
    fn http_addr(&self) -> Option<SocketAddr>;

    /// Reads certificates again, for connections from now on.
    fn reload(&self) -> Result<(), SqlError>;

    /// Drains, takes a checkpoint, and stops.
    fn shutdown(&self) -> BoxFuture<'_, Result<(), SqlError>>;

    /// Waits until another server has taken the data over; gives the error to end with.
    fn lost(&self) -> BoxFuture<'_, SqlError>;

    /// Ends connections, and stops without more ado.
    fn abandon(&self) -> BoxFuture<'_, ()>;
}

/// What one statement answered.
#[derive(Debug, Clone, Default)]
pub struct StatementResult {
    pub tag: String,
    /// Empty for a statement that returns no rows; a query without rows has one batch of none.
    pub rows: Vec<RecordBatch>,
    pub notices: Vec<String>,
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// A directory, or `s3://bucket/prefix`.
    pub data_dir: String,
    /// Where to serve the wire protocol; nowhere without.
    pub listen: Option<SocketAddr>,
    /// Where to serve HTTP; nowhere without.
    pub http: Option<SocketAddr>,
    /// Open the catalog, so that statements can be checked against it, and let nothing run.
    pub is_catalog_only: bool,
    pub config: Config,
}

/// How often what [`Service::status`] says is renewed.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// What clients have to hear that the server ends when it has lost its data.
const ABANDON_TIME_MAX: Duration = Duration::from_secs(1);

/// Starts a server. It is ready when this returns.
pub async fn start(options: StartOptions) -> Result<Arc<dyn Service>, SqlError> {
    let tls = match options.config.tls_files() {
        Some(files) => Some(Arc::new(Tls::load(files, options.config.tls_required)?)),
        None => None,
    };
    let root = Root::open(&options.data_dir, &options.config.root_options())?;
    let config = EngineConfig {
        epoch_interval: options.config.epoch_interval,
        checkpoint_interval: options.config.checkpoint_interval,
        memory_limit: options.config.memory_limit.0 as usize,
        restart_limit: options.config.restart_limit,
        restart_interval: options.config.restart_interval,
        ..EngineConfig::default()
    };
    let database = match options.is_catalog_only {
        true => Database::open_for_checks(&root, options.config.lanes, config).await?,
        false => {
            let keys = SecretKeys::load(&options.config)?;
            Database::open_root(root, options.config.lanes, config, keys).await?
        }
    };
    database.audit.set_level(options.config.audit);
    if let Some(address) = options.listen {
        set_first_password(&database, &options.config).await?;
        let has_password = database.catalog().roles().any(|role| role.can_login && role.verifier.is_some());
        let asks = has_password && options.config.auth != Auth::Trust;
        check_sql_address(&Config { listen: address, ..options.config.clone() }, asks)?;
    }
    let running = Arc::new(Running {
        database: database.clone(),
        tls: tls.clone(),
        status: RwLock::new(database.engine.status().await),
        is_ready: AtomicBool::new(true),
        sql_addr: OnceLock::new(),
        http_addr: OnceLock::new(),
        shutdown: CancellationToken::new(),
        tasks: Mutex::default(),
    });
    let watched = Arc::downgrade(&running);
    tokio::spawn(async move {
        while let Some(running) = watched.upgrade() {
            running.renew_status().await;
            drop(running);
            tokio::time::sleep(STATUS_INTERVAL).await;
        }
    });
    let mut tasks = Vec::new();
    if let Some(address) = options.listen {
        let listener = listen(address).await?;
        let _ = running.sql_addr.set(listener.local_addr().map_err(|error| cannot_listen(address, &error))?);
        let n_max = options.config.max_connections;
        let config =
            ServerConfig { n_connections_max: n_max, n_starting_max: n_max + 100, ..ServerConfig::default() };
        let authentication =
            Authentication { auth: options.config.auth, trusts_everywhere: options.config.insecure_listen };
        let sessions = Arc::new(Sessions { database, authentication });
        let server = Server::new(config, sessions, running.shutdown.clone()).with_tls(tls.clone());
        tasks.push(tokio::spawn(server.serve(listener)));
    }
    if let Some(address) = options.http {
        let listener = listen(address).await?;
        let _ = running.http_addr.set(listener.local_addr().map_err(|error| cannot_listen(address, &error))?);
        let service: Arc<dyn Service> = running.clone();
        let shutdown = running.shutdown.clone();
        tasks.push(tokio::spawn(async move {
            if let Err(error) = crate::http::serve(listener, tls, service, shutdown).await {
                tracing::error!(%error, "HTTP is not served any more");
            }
        }));
    }
    *running.tasks.lock().await = tasks;
    Ok(running)
}

/// The real service.
struct Running {
    database: Arc<Database>,
    tls: Option<Arc<Tls>>,
    status: RwLock<EngineStatus>,
    is_ready: AtomicBool,
    sql_addr: OnceLock<SocketAddr>,
    http_addr: OnceLock<SocketAddr>,
    shutdown: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Running {
    async fn renew_status(&self) {
        let status = self.database.engine.status().await;
        *self.status.write().expect("nobody panics while holding it") = status;
    }
}

impl Service for Running {
    fn status(&self) -> EngineStatus {
        self.status.read().expect("nobody panics while holding it").clone()
    }

    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    fn run_sql<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Vec<StatementResult>, SqlError>> {
        Box::pin(async move {
            let mut session = Session::new(self.database.clone(), "tidemill".into());
            let mut results = Vec::new();
            for parsed in SessionApi::parse(&mut session, sql)? {
                let response =
                    SessionApi::execute(&mut session, &parsed, Vec::new(), &CancellationToken::new()).await?;
                let mut result = StatementResult::default();
                match response {
                    Response::Rows { schema, rows, tag } => {
                        result.rows = rows.try_collect().await.map_err(|error| session.explain(error))?;
                        let n_rows: usize = result.rows.iter().map(RecordBatch::num_rows).sum();
                        if result.rows.is_empty() {
                            result.rows.push(RecordBatch::new_empty(schema));
                        }
                        result.tag = tag.complete(n_rows as u64);
                    }
                    Response::Command { tag } => result.tag = tag,
                    Response::Empty => (),
                    Response::CopyOut { .. } | Response::CopyIn { .. } => {
                        return Err(SqlError::new(
                            SqlState::FEATURE_NOT_SUPPORTED,
                            "COPY needs a connection: use psql or tidemill shell",
                        ));
                    }
                }
                result.notices = session.take_notices().into_iter().map(|notice| notice.message).collect();
                results.push(result);
            }
            // What was just defined is to be seen in the status at once.
            self.renew_status().await;
            Ok(results)
        })
    }

    fn check_sql<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Vec<SqlError>> {
        Box::pin(async move {
            let mut session = Session::new(self.database.clone(), "tidemill".into());
            let statements = match SessionApi::parse(&mut session, sql) {
                Ok(statements) => statements,
                Err(error) => return vec![error],
            };
            let mut errors = Vec::new();
            for parsed in statements {
                if let Err(error) = session.check(&parsed).await {
                    errors.push(error);
                }
            }
            errors
        })
    }

    fn sql_addr(&self) -> Option<SocketAddr> {
        self.sql_addr.get().copied()
    }

    fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr.get().copied()
    }

    fn reload(&self) -> Result<(), SqlError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.reload())
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), SqlError>> {
        Box::pin(async move {
            self.is_ready.store(false, Ordering::Relaxed);
            self.shutdown.cancel();
            for task in self.tasks.lock().await.drain(..) {
                // A panic there has been reported; what is durable must still become so.
                let _ = task.await;
            }
            self.database.sequences.park(&self.database.engine).await?;
            self.database.engine.shutdown().await?;
            Ok(())
        })
    }

    fn lost(&self) -> BoxFuture<'_, SqlError> {
        Box::pin(async move { self.database.lost().await })
    }

    fn abandon(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.is_ready.store(false, Ordering::Relaxed);
            self.shutdown.cancel();
            let ended = async {
                for task in self.tasks.lock().await.drain(..) {
                    let _ = task.await;
                }
            };
            // Whoever does not hear it finds the connection closed.
            let _ = tokio::time::timeout(ABANDON_TIME_MAX, ended).await;
        })
    }
}

/// Gives the superuser its password from a file, unless it has one: a server can then be reached from elsewhere from its
/// first start on.
async fn set_first_password(database: &Arc<Database>, config: &Config) -> Result<(), SqlError> {
    if config.password_file.is_empty() {
        return Ok(());
    }
    let changing = database.change_definitions_as(database.engine.lock_owner()).await?;
    let catalog = database.catalog();
    let role = catalog.role(BOOTSTRAP)?;
    if role.verifier.is_some() {
        return Ok(());
    }
    let failed = |reason: &dyn std::fmt::Display| {
        let message = format!("cannot read the password file \"{}\": {reason}", config.password_file);
        SqlError::new(SqlState::IO_ERROR, message)
    };
    let text = std::fs::read_to_string(&config.password_file).map_err(|error| failed(&error))?;
    let Some(verifier) = login::verifier_of(text.lines().next().unwrap_or_default())? else {
        return Err(failed(&"its first line is empty"));
    };
    let catalog = catalog.alter_role(Role { verifier: Some(verifier), ..role.clone() })?;
    database.commit(changing, catalog).await
}

async fn listen(address: SocketAddr) -> Result<TcpListener, SqlError> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> SqlError {
    SqlError::new(SqlState::CONNECTION_FAILURE, format!("cannot listen on {address}: {error}"))
        .with_hint("Another server may be using the address. Choose another port, or 0 for any free one.")
}

/// A service that is made up, for tests of those who use one.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tidemill_core::Epoch;
    use tidemill_engine::metrics::Histogram;
    use tidemill_engine::{PipelineStatus, SinkStatus, SourceStatus, State};
    use tidemill_plan::RelationId;

    use super::*;

    pub(crate) type Answer = Box<dyn Fn(&str) -> Result<Vec<StatementResult>, SqlError> + Send + Sync>;

    pub(crate) struct FakeService {
        pub status: Mutex<EngineStatus>,
        pub is_ready: AtomicBool,
        pub statements: Mutex<Vec<String>>,
        pub answer: Answer,
        pub was_shut_down: AtomicBool,
    }

    pub(crate) fn pipeline(name: &str) -> PipelineStatus {
        PipelineStatus {
            id: RelationId(2),
            name: name.into(),
            state: State::Running,
            since: None,
            dataflow: 1,
            epoch: Epoch(41),
            checkpoint_epoch: Epoch(40),
            steps: 7,
            rows_in: 1000,
            rows_out: 100,
            late_rows: 1,
            state_bytes: 4096,
            memory_bytes: 4096,
            memory_limit: 1 << 20,
            memory_error: None,
            view: None,
            indexes: Vec::new(),
            step_time: Histogram::default().counts(),
            latency: Histogram::default().counts(),
            fill: None,
            operators: Vec::new(),
        }
    }

    pub(crate) fn source(name: &str, state: State) -> SourceStatus {
        SourceStatus {
            id: RelationId(1),
            name: name.into(),
            state,
            since: None,
            rows: 1000,
            bytes: 64_000,
            bad_records: 3,
            watermark: Some(1_500_000),
            splits: Vec::new(),
            last_error: None,
        }
    }

    impl FakeService {
        pub(crate) fn new(status: EngineStatus) -> FakeService {
            FakeService {
                status: Mutex::new(status),
                is_ready: AtomicBool::new(true),
                statements: Mutex::default(),
                answer: Box::new(|_| Ok(Vec::new())),
                was_shut_down: AtomicBool::new(false),
            }
        }

        /// With a source, a pipeline and a sink.
        pub(crate) fn example() -> FakeService {
            let latency = Histogram::default();
            latency.record(Duration::from_millis(3), 2);
            let sink = SinkStatus {
                pipeline: pipeline("nowhere"),
                rows_delivered: 90,
                rows_refused: 0,
                rows_pending: 10,
                rows_gathered: 0,
                bytes_pending: 4096,
                pending_for: Some(Duration::from_millis(1500)),
                delivered_to: Epoch(39),
                retries: 1,
                last_error: None,
            };
            FakeService::new(EngineStatus {
                epoch: Epoch(42),
                uptime: Duration::from_millis(2500),
                sources: vec![source("bid", State::Running)],
                tables: Vec::new(),
                pipelines: vec![PipelineStatus { latency: latency.counts(), ..pipeline("hot \"auctions\"") }],
                sinks: vec![sink],
                jobs: Vec::new(),
                dead_letters: 3,
            })
        }

        pub(crate) fn set_ready(&self, is_ready: bool) {
            self.is_ready.store(is_ready, Ordering::Relaxed);
        }
    }

    impl Service for FakeService {
        fn status(&self) -> EngineStatus {
            self.status.lock().unwrap().clone()
        }

        fn is_ready(&self) -> bool {
            self.is_ready.load(Ordering::Relaxed)
        }

        fn run_sql<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Vec<StatementResult>, SqlError>> {
            Box::pin(async move {
                self.statements.lock().unwrap().push(sql.into());
                (self.answer)(sql)
            })
        }

        fn check_sql<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<SqlError>> {
            Box::pin(async move { Vec::new() })
        }

        fn sql_addr(&self) -> Option<SocketAddr> {
            Some(crate::config::DEFAULT_LISTEN)
        }

        fn http_addr(&self) -> Option<SocketAddr> {
            Some(crate::config::DEFAULT_HTTP)
        }

        fn reload(&self) -> Result<(), SqlError> {
            Ok(())
        }

        fn shutdown(&self) -> BoxFuture<'_, Result<(), SqlError>> {
            Box::pin(async move {
                self.was_shut_down.store(true, Ordering::Relaxed);
                Ok(())
            })
        }

        fn lost(&self) -> BoxFuture<'_, SqlError> {
            Box::pin(async move { std::future::pending().await })
        }

        fn abandon(&self) -> BoxFuture<'_, ()> {
            Box::pin(async move {})
        }
    }
}
