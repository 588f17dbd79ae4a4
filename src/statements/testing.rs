//! What tests of statements have in common: a database, a session, and rows as text.

use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use tidemill_engine::EngineConfig;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::session::Session;
use crate::session::api::{Response, RowsTag, SessionApi, SqlError};

pub async fn open_with(directory: &Path, config: EngineConfig) -> Session {
    let config = EngineConfig { checkpoint_interval: Duration::from_millis(20), ..config };
    Session::new(Database::open(directory, 2, config).await.unwrap(), "tidemill".into())
}

pub async fn open(directory: &Path) -> Session {
    open_with(directory, EngineConfig::default()).await
}

/// The rows of the last statement that has some, but for what never ends.
pub async fn try_run(session: &mut Session, sql: &str) -> Result<Vec<Vec<String>>, SqlError> {
    let mut batches: Vec<RecordBatch> = Vec::new();
    for parsed in SessionApi::parse(session, sql)? {
        let response = SessionApi::execute(session, &parsed, Vec::new(), &CancellationToken::new()).await?;
        if let Response::Rows { rows, tag, .. } = response
            && tag != RowsTag::SUBSCRIBE
        {
            batches = rows.try_collect().await.map_err(|error| session.explain(error))?;
        }
    }
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns: Vec<ArrayFormatter> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

pub async fn run(session: &mut Session, sql: &str) -> Vec<Vec<String>> {
    try_run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

pub async fn tag(session: &mut Session, sql: &str) -> String {
    let parsed = SessionApi::parse(session, sql).unwrap().remove(0);
    match SessionApi::execute(session, &parsed, Vec::new(), &CancellationToken::new()).await.unwrap() {
        Response::Command { tag } => tag,
        _ => panic!("{sql} is a command"),
    }
}

/// The messages since the last call.
pub fn notices(session: &mut Session) -> Vec<String> {
    let notices = session.take_notices().into_iter();
    notices.map(|n| format!("{}: {} ({})", n.severity, n.message, n.detail.unwrap_or_default())).collect()
}

pub fn on_a_runtime<F: Future<Output = ()> + Send + 'static>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(test).await.unwrap() });
    runtime.shutdown_timeout(Duration::ZERO);
}
