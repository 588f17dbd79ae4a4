#![doc = include_str!("docs.md")]

mod config;
mod sink;

use std::sync::Arc;

use crate::registry::ConnectorInfo;

pub use config::PrintConfig;
pub use sink::PrintSink;

pub(crate) const CONNECTOR: ConnectorInfo = ConnectorInfo {
    name: "print",
    text: "writes changes to the server's standard output",
    docs: include_str!("docs.md"),
    source_options: None,
    sink_options: Some(PrintConfig::DOCS),
    create_source: None,
    create_sink: Some(|spec| Ok(Arc::new(PrintSink::new(spec)?))),
    columns: None,
};
