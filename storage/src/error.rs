use std::io::ErrorKind;

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
    #[error("\"{root}\" has been taken over by {by}")]
    Fenced { root: String, by: String },
    #[error("the store of \"{root}\" ignores conditional writes")]
    NoConditionalPut { root: String },
    #[error("nothing is encrypted on the way to \"{endpoint}\"")]
    Unencrypted { endpoint: String },
    #[error("\"{url}\" is not a place for data: {reason}")]
    InvalidUrl { url: String, reason: String },
    #[error("{what} of \"{root}\" is missing")]
    Missing { what: &'static str, root: String },
    #[error("\"{root}\" is not empty")]
    NotEmpty { root: String },
    #[error("\"{root}\" changes faster than it can be copied")]
    Unsteady { root: String },
    #[error("rows cannot be encoded")]
    Encoding(#[from] arrow::error::ArrowError),
}

impl Error {
    /// Whether there was no room for what was to be written.
    pub fn is_disk_full(&self) -> bool {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                return matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            }
            source = error.source();
        }
        false
    }
}

impl Diagnostic for Error {
    fn sqlstate(&self) -> SqlState {
        match self {
            Error::Object { .. } | Error::File { .. } if self.is_disk_full() => SqlState::DISK_FULL,
            Error::Object { .. } | Error::File { .. } => SqlState::IO_ERROR,
            Error::Damaged { .. } | Error::UnknownFormat { .. } | Error::Missing { .. } => {
                SqlState::DATA_CORRUPTED
            }
            Error::Conflict { .. } | Error::Fenced { .. } | Error::Unsteady { .. } => SqlState::OBJECT_IN_USE,
            Error::NoConditionalPut { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::InvalidUrl { .. } | Error::NotEmpty { .. } | Error::Unencrypted { .. } => {
                SqlState::INVALID_PARAMETER
            }
            Error::Encoding(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Object { source, .. } => Some(source.to_string()),
            Error::File { source, .. } => Some(source.to_string()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Object { .. } | Error::File { .. } if self.is_disk_full() => {
                Some("Make room on the disk; what could not be written can then be tried again.".into())
            }
            Error::Conflict { .. } => Some(
                "Another server uses this data directory. Stop it, or give this one a directory of its own."
                    .into(),
            ),
            Error::UnknownFormat { .. } => Some("Start the version of Tidemill that wrote it.".into()),
            Error::Fenced { .. } => {
                Some("The server that came last has the data; connect to that one. This one stops.".into())
            }
            Error::NoConditionalPut { .. } => Some(
                "Without PUT with If-None-Match two servers could destroy each other's work. AWS S3, Cloudflare R2 and \
                 MinIO have it."
                    .into(),
            ),
            Error::Unencrypted { .. } => {
                Some("Give an https endpoint, or set AWS_ALLOW_HTTP=true where nobody else listens.".into())
            }
            Error::NotEmpty { .. } => Some("A copy needs a place of its own.".into()),
            Error::Unsteady { .. } => Some("Copy it while no statement defines anything.".into()),
            Error::InvalidUrl { .. } => Some("Give a directory, or s3://bucket/prefix.".into()),
            Error::Damaged { .. } | Error::Missing { .. } => {
                Some("Restore the data directory from a backup; nothing was changed.".into())
            }
            _ => None,
        }
    }
}
