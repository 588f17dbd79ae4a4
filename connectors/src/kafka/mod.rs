#![doc = include_str!("docs.md")]

mod client;
mod config;
mod producer;
mod sink;
mod source;
mod transaction;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::FutureExt;

use crate::registry::ConnectorInfo;

pub use config::{KafkaSinkConfig, KafkaSourceConfig};
pub use sink::KafkaSink;
pub use source::KafkaSource;

pub(crate) const CONNECTOR: ConnectorInfo = ConnectorInfo {
    name: "kafka",
    text: "topics of Apache Kafka and what speaks its protocol",
    docs: include_str!("docs.md"),
    source_options: Some(KafkaSourceConfig::DOCS),
    sink_options: Some(KafkaSinkConfig::DOCS),
    create_source: Some(|spec| Ok(Arc::new(KafkaSource::new(spec)?))),
    create_sink: Some(|spec| Ok(Arc::new(KafkaSink::new(spec)?))),
    columns: Some(|spec| source::columns(spec).boxed()),
};
