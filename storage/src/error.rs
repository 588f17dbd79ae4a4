use tidemill_core::{Diagnostic, SqlState};

/// What can go wrong between us and what is durable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("object \"{path}\" cannot be {verb}")]
    Object {
        verb: &'static str,
        path: String,
        #[source]
        source: object_store::Error,
    },
    #[error("file \"{path}\" cannot be {verb}")]
    File {
        verb: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("\"{path}\" is damaged: {reason}")]
    Damaged { path: String, reason: String },
    #[error("\"{path}\" was written in format {found}, but this version reads format {known}")]
    UnknownFormat { path: String, found: String, known: String },
    #[error("version {version} of \"{path}\" has been written by someone else")]
    Conflict { path: String, version: u64 },
    #[error("rows cannot be encoded")]
    Encoding(#[from] arrow::error::ArrowError),
}

impl Diagnostic for Error {
    fn sqlstate(&self) -> SqlState {
        match self {
            Error::Object { .. } | Error::File { .. } => SqlState::IO_ERROR,
            Error::Damaged { .. } | Error::UnknownFormat { .. } => SqlState::DATA_CORRUPTED,
            Error::Conflict { .. } => SqlState::OBJECT_IN_USE,
            Error::Encoding(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Conflict { .. } => Some(
                "Another server uses this data directory. Stop it, or give this one a directory of its own."
                    .into(),
            ),
            Error::UnknownFormat { .. } => Some("Start the version of Tidemill that wrote it.".into()),
            Error::Damaged { .. } => {
                Some("Restore the data directory from a backup; nothing was changed.".into())
            }
            _ => None,
        }
    }
}
