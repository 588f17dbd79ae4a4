use std::sync::Arc;

use datafusion::common::DataFusionError;
use tidemill_core::source::ConnectorError;
use tidemill_core::{Diagnostic, SqlState};

/// What can go wrong while change is computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An expression failed, or a plan could not be executed.
    #[error(transparent)]
    Execution(#[from] DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    #[error(transparent)]
    Storage(#[from] tidemill_storage::Error),
    /// Nothing of an epoch's writes is there.
    #[error("the table log cannot be written, so nothing was changed")]
    Log(#[source] Arc<tidemill_storage::Error>),
    #[error("a checkpoint cannot be written")]
    Checkpoint(#[source] Arc<Error>),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("{operator} got a retraction of a row that was never there")]
    NegativeWeight { operator: &'static str },
    #[error("duplicate key value violates the primary key of table \"{table}\"")]
    DuplicateKey { table: String, key: String },
    #[error("null value in column \"{column}\" of table \"{table}\" violates its NOT NULL constraint")]
    NullValue { table: String, column: String },
    #[error("could not serialize access to table \"{table}\" due to concurrent update")]
    Concurrent { table: String },
    #[error("deadlock detected")]
    Deadlock { table: String },
    #[error("{kind} \"{name}\" is not running: {reason}")]
    NotRunning { kind: &'static str, name: String, reason: String },
    #[error("the state of {what} is missing from checkpoint {epoch} of its dataflow")]
    StateMissing { what: String, epoch: tidemill_core::Epoch },
    #[error("the index could not be built: {reason}")]
    IndexNotBuilt { reason: String },
    #[error("canceled while it was being filled")]
    Cancelled,
    #[error(transparent)]
    Pattern(tidemill_pattern::Error),
    #[error("WITH RECURSIVE did not end after {bound}")]
    EndlessRecursion { bound: String },
    #[error("what source \"{name}\" holds when it is read again does not fit into {bytes_max} bytes")]
    ReplayTooLarge { name: String, bytes_max: usize },
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("{0}")]
    Unsupported(String),
}

impl From<tidemill_pattern::Error> for Error {
    fn from(error: tidemill_pattern::Error) -> Error {
        match error {
            tidemill_pattern::Error::Execution(error) => Error::Execution(error),
            tidemill_pattern::Error::Arrow(error) => Error::Arrow(error),
            other => Error::Pattern(other),
        }
    }
}

impl Error {
    /// Whether a store could not be asked, so that it is not known what is there.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Error::Storage(tidemill_storage::Error::Object { .. }))
    }
}

impl Diagnostic for Error {
    fn sqlstate(&self) -> SqlState {
        match self {
            Error::Execution(_) | Error::Arrow(_) => SqlState::DATA_EXCEPTION,
            Error::Storage(error) => error.sqlstate(),
            Error::Log(error) => error.sqlstate(),
            Error::Checkpoint(error) => error.sqlstate(),
            Error::Connector(error) => error.sqlstate(),
            Error::NegativeWeight { .. } => SqlState::DATA_EXCEPTION,
            Error::DuplicateKey { .. } => SqlState::UNIQUE_VIOLATION,
            Error::NullValue { .. } => SqlState::NOT_NULL_VIOLATION,
            Error::Concurrent { .. } => SqlState::SERIALIZATION_FAILURE,
            Error::Deadlock { .. } => SqlState::DEADLOCK_DETECTED,
            Error::NotRunning { .. } => SqlState::NOT_IN_PREREQUISITE_STATE,
            Error::StateMissing { .. } => SqlState::DATA_CORRUPTED,
            Error::IndexNotBuilt { .. } => SqlState::NOT_IN_PREREQUISITE_STATE,
            Error::Cancelled => SqlState::QUERY_CANCELED,
            Error::Pattern(error) => error.sqlstate(),
            Error::EndlessRecursion { .. } => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Error::ReplayTooLarge { .. } => SqlState::OUT_OF_MEMORY,
            Error::ShuttingDown => SqlState::ADMIN_SHUTDOWN,
            Error::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Storage(error) => error.hint(),
            Error::Log(error) => error.hint(),
            Error::Checkpoint(error) => error.hint(),
            Error::Pattern(error) => error.hint(),
            Error::Connector(error) => error.hint(),
            Error::NegativeWeight { .. } => {
                Some("A source sent a delete or an update for a row that it had not sent before.".into())
            }
            Error::DuplicateKey { .. } => {
                Some("Use INSERT … ON CONFLICT DO UPDATE or DO NOTHING, or UPDATE the row.".into())
            }
            Error::Concurrent { .. } => Some("Run the transaction again.".into()),
            Error::Deadlock { .. } => Some(
                "Run the transaction again; transactions that lock tables in the same order do not meet like this."
                    .into(),
            ),
            Error::EndlessRecursion { .. } => Some(
                "Bound it with a condition such as WHERE depth < 100, or write UNION instead of UNION ALL, which drops \
                 rows that have been there before."
                    .into(),
            ),
            Error::NotRunning { reason, .. } if reason.contains("is paused") => {
                Some("ALTER PIPELINE name RESUME lets what is paused go on.".into())
            }
            Error::StateMissing { .. } => Some(
                "The pipeline's plan is not the one that was checkpointed. Drop the pipeline and create it again; \
                 its inputs are read from the start."
                    .into(),
            ),
            Error::ReplayTooLarge { .. } => {
                Some("It changes rows that it has given, so all have to be kept. SET verify_memory to more.".into())
            }
            _ => None,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Storage(error) => error.detail(),
            Error::Log(error) => Some(with_detail(error.as_ref())),
            Error::Checkpoint(error) => Some(with_detail(error.as_ref())),
            Error::DuplicateKey { key, .. } => Some(format!("Key {key} already exists.")),
            Error::Deadlock { table } => Some(format!(
                "Who holds the lock of table \"{table}\" waits, directly or not, for a lock of this transaction."
            )),
            _ => None,
        }
    }
}

/// What an error says, with its detail.
fn with_detail(error: &(impl Diagnostic + std::fmt::Display)) -> String {
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{error}{detail}")
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> DataFusionError {
        match error {
            Error::Execution(error) => error,
            other => DataFusionError::External(Box::new(other)),
        }
    }
}
