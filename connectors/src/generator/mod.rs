#![doc = include_str!("docs.md")]

mod config;
mod nexmark;
mod random;
mod source;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use tidemill_core::source::ConnectorError;

use crate::options::Options;
use crate::registry::ConnectorInfo;

pub use config::GeneratorConfig;
pub use source::GeneratorSource;

pub(crate) const CONNECTOR: ConnectorInfo = ConnectorInfo {
    name: "generator",
    text: "events of the Nexmark benchmark, and numbers",
    docs: include_str!("docs.md"),
    source_options: Some(GeneratorConfig::DOCS),
    sink_options: None,
    create_source: Some(|spec| Ok(Arc::new(GeneratorSource::new(spec)?))),
    create_sink: None,
    columns: Some(|spec| std::future::ready(columns(spec.options)).boxed()),
};

fn columns(options: &BTreeMap<String, String>) -> Result<Option<SchemaRef>, ConnectorError> {
    let mut options = Options::new("connector \"generator\"", options);
    options.know("connector");
    let config = GeneratorConfig::take(&mut options)?;
    options.finish()?;
    config.check()?;
    Ok(Some(source::schema(&config)))
}
