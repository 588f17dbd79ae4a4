#![doc = include_str!("docs.md")]

mod client;
mod config;
mod copy;
mod sink;
mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::registry::ConnectorInfo;

pub use config::PostgresSinkConfig;
pub use sink::PostgresSink;

pub(crate) const CONNECTOR: ConnectorInfo = ConnectorInfo {
    name: "postgres",
    text: "tables of PostgreSQL",
    docs: include_str!("docs.md"),
    source_options: None,
    sink_options: Some(PostgresSinkConfig::DOCS),
    create_source: None,
    create_sink: Some(|spec| Ok(Arc::new(PostgresSink::new(spec)?))),
    columns: None,
};
