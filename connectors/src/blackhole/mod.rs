#![doc = include_str!("docs.md")]

mod sink;

use std::sync::Arc;

use crate::registry::ConnectorInfo;

pub use sink::BlackholeSink;

pub(crate) const CONNECTOR: ConnectorInfo = ConnectorInfo {
    name: "blackhole",
    text: "takes rows and forgets them",
    docs: include_str!("docs.md"),
    source_options: None,
    sink_options: Some(&[]),
    create_source: None,
    create_sink: Some(|spec| Ok(Arc::new(BlackholeSink::new(spec)?))),
    columns: None,
};
