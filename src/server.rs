//! What a server gives to those who run it: the command line, the HTTP endpoints, the demo.
//!
//! They see a [`Service`] and nothing behind it, so that each of them can be tested with a made-up one.

use std::net::SocketAddr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidemill_core::SqlState;
use tidemill_engine::EngineStatus;

use crate::config::Config;
use crate::session::api::SqlError;

/// A server that runs in this process.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// What runs, and how it is.
    fn status(&self) -> EngineStatus;

    /// Whether it has recovered and takes statements.
    fn is_ready(&self) -> bool;

    /// Runs the statements of a text as the internal user.
    async fn run_sql(&self, sql: &str) -> Result<Vec<StatementResult>, SqlError>;

    /// Parses, binds and plans the statements of a text without running any. Gives all errors that it
    /// finds, with positions in the whole text.
    async fn check_sql(&self, sql: &str) -> Vec<SqlError>;

    /// Where the wire protocol is served.
    fn sql_addr(&self) -> Option<SocketAddr>;

    /// Where HTTP is served.
    fn http_addr(&self) -> Option<SocketAddr>;

    /// Drains, takes a checkpoint, and stops.
    async fn shutdown(&self) -> Result<(), SqlError>;
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
    /// A directory, or the URL of an object store.
    pub data_dir: String,
    /// Where to serve the wire protocol; nowhere without.
    pub listen: Option<SocketAddr>,
    /// Where to serve HTTP; nowhere without.
    pub http: Option<SocketAddr>,
    /// Open the catalog, so that statements can be checked against it, and let nothing run.
    pub is_catalog_only: bool,
    pub config: Config,
}

/// Starts a server. It is ready when this returns.
// PLACEHOLDER: replaced by the server core, which builds the `Database` and serves it.
pub async fn start(options: StartOptions) -> Result<Arc<dyn Service>, SqlError> {
    let StartOptions { data_dir, .. } = options;
    Err(SqlError::new(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("the server is not built in yet; nothing was done to \"{data_dir}\""),
    ))
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
            dataflow: 1,
            epoch: Epoch(41),
            checkpoint_epoch: Epoch(40),
            steps: 7,
            rows_in: 1000,
            rows_out: 100,
            late_rows: 1,
            state_bytes: 4096,
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
                rows_pending: 10,
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
                dead_letters: 3,
            })
        }

        pub(crate) fn set_ready(&self, is_ready: bool) {
            self.is_ready.store(is_ready, Ordering::Relaxed);
        }
    }

    #[async_trait]
    impl Service for FakeService {
        fn status(&self) -> EngineStatus {
            self.status.lock().unwrap().clone()
        }

        fn is_ready(&self) -> bool {
            self.is_ready.load(Ordering::Relaxed)
        }

        async fn run_sql(&self, sql: &str) -> Result<Vec<StatementResult>, SqlError> {
            self.statements.lock().unwrap().push(sql.into());
            (self.answer)(sql)
        }

        async fn check_sql(&self, _: &str) -> Vec<SqlError> {
            Vec::new()
        }

        fn sql_addr(&self) -> Option<SocketAddr> {
            Some(crate::config::DEFAULT_LISTEN)
        }

        fn http_addr(&self) -> Option<SocketAddr> {
            Some(crate::config::DEFAULT_HTTP)
        }

        async fn shutdown(&self) -> Result<(), SqlError> {
            self.was_shut_down.store(true, Ordering::Relaxed);
            Ok(())
        }
    }
}
