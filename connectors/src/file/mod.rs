#![doc = include_str!("docs.md")]

mod config;
mod encoder;
mod lines;
mod listing;
mod parquet;
mod partition;
mod place;
mod s3;
mod sink;
mod source;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::FutureExt;

use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::registry::ConnectorInfo;

pub use config::{FileSinkConfig, FileSourceConfig};
pub use sink::FileSink;
pub use source::FileSource;

pub(crate) const CONNECTOR: ConnectorInfo = ConnectorInfo {
    name: "file",
    text: "files of CSV, JSON lines or Parquet",
    docs: include_str!("docs.md"),
    source_options: Some(FileSourceConfig::DOCS),
    sink_options: Some(FileSinkConfig::DOCS),
    create_source: Some(|spec| Ok(Arc::new(FileSource::new(spec)?))),
    create_sink: Some(|spec| Ok(Arc::new(FileSink::new(spec)?))),
    columns: Some(|spec| std::future::ready(source::columns(spec)).boxed()),
};

/// PostgreSQL's code for a file that is not there.
const UNDEFINED_FILE: SqlState = SqlState("58P01");

/// What the system said of a file.
fn io_error(what: &str, path: &str, error: &std::io::Error) -> ConnectorError {
    let message = format!("cannot {what} \"{path}\": {error}");
    match error.kind() {
        std::io::ErrorKind::NotFound => ConnectorError::fatal(UNDEFINED_FILE, message),
        std::io::ErrorKind::PermissionDenied => ConnectorError::fatal(SqlState::IO_ERROR, message)
            .with_hint("The server's user needs permission for it."),
        _ => ConnectorError::transient(SqlState::IO_ERROR, message),
    }
}
