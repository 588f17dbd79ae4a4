//! All connectors there are, by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::BoxFuture;
use tidemill_core::sink::Sink;
use tidemill_core::source::{ConnectorError, Source};
use tidemill_core::{SqlState, did_you_mean};

use crate::formats::avro::AvroOptions;
use crate::formats::avro::encoder::AvroSinkOptions;
use crate::formats::changelog::CsvSinkOptions;
use crate::formats::csv::CsvOptions;
use crate::formats::json::JsonOptions;
use crate::options::OptionDoc;
use crate::spec::{SinkSpec, SourceSpec};
use crate::{blackhole, file, generator, kafka, postgres, print};

/// How long a validation may reach out.
pub(crate) const VALIDATION_TIMEOUT: Duration = Duration::from_secs(10);

/// A source that can say whether the outside is as declared.
#[async_trait]
pub(crate) trait ConnectorSource: Source {
    /// Reaches out, and says what is wrong there.
    async fn validate(&self) -> Result<(), ConnectorError> {
        self.splits().await.map(drop)
    }
}

type CreateSource = fn(&SourceSpec<'_>) -> Result<Arc<dyn ConnectorSource>, ConnectorError>;
type CreateSink = fn(&SinkSpec<'_>) -> Result<Arc<dyn Sink>, ConnectorError>;
type Columns = for<'a> fn(&'a SourceSpec<'a>) -> BoxFuture<'a, Result<Option<SchemaRef>, ConnectorError>>;

/// A connector, for `SHOW CONNECTORS` and the manual.
#[derive(Debug)]
pub struct ConnectorInfo {
    pub name: &'static str,
    /// What it is, in a few words.
    pub text: &'static str,
    /// Its page of the manual, in Markdown.
    pub docs: &'static str,
    /// The options of `WITH` as a source; `None` if it is none.
    pub source_options: Option<&'static [OptionDoc]>,
    /// The options of `WITH` as a sink; `None` if it is none.
    pub sink_options: Option<&'static [OptionDoc]>,
    pub(crate) create_source: Option<CreateSource>,
    pub(crate) create_sink: Option<CreateSink>,
    /// The columns of a source that declares none.
    pub(crate) columns: Option<Columns>,
}

static CONNECTORS: [ConnectorInfo; 6] = [
    blackhole::CONNECTOR,
    file::CONNECTOR,
    generator::CONNECTOR,
    kafka::CONNECTOR,
    postgres::CONNECTOR,
    print::CONNECTOR,
];

/// The options of `ENCODE x (…)`.
#[derive(Debug)]
pub struct EncodingInfo {
    pub name: &'static str,
    pub source_options: &'static [OptionDoc],
    pub sink_options: &'static [OptionDoc],
}

/// All encodings that have options.
pub fn encodings() -> &'static [EncodingInfo] {
    static ENCODINGS: [EncodingInfo; 3] = [
        EncodingInfo { name: "AVRO", source_options: AvroOptions::DOCS, sink_options: AvroSinkOptions::DOCS },
        EncodingInfo { name: "CSV", source_options: CsvOptions::DOCS, sink_options: CsvSinkOptions::DOCS },
        EncodingInfo { name: "JSON", source_options: JsonOptions::DOCS, sink_options: &[] },
    ];
    &ENCODINGS
}

/// All connectors, by name.
pub fn connectors() -> &'static [ConnectorInfo] {
    &CONNECTORS
}

/// The source that the statement declared. Nothing outside is asked.
pub fn create_source(spec: &SourceSpec<'_>) -> Result<Arc<dyn Source>, ConnectorError> {
    Ok(new_source(spec)?)
}

/// The sink that the statement declared. Nothing outside is asked.
pub fn create_sink(spec: &SinkSpec<'_>) -> Result<Arc<dyn Sink>, ConnectorError> {
    new_sink(spec)
}

/// Whether the outside is as the statement says: paths exist, the broker answers, the topic is
/// there. Takes 10 seconds at most.
pub async fn validate_source(spec: &SourceSpec<'_>) -> Result<(), ConnectorError> {
    let source = new_source(spec)?;
    within_timeout(source.validate(), spec.owner()).await
}

/// [`validate_source`] for sinks.
pub async fn validate_sink(spec: &SinkSpec<'_>) -> Result<(), ConnectorError> {
    let sink = new_sink(spec)?;
    within_timeout(sink.validate(), spec.owner()).await
}

/// The columns of a source that declares none, whose schema is empty as yet: those that the generator makes, those of a Parquet
/// file, the names in the header of a CSV file, the fields of an Avro schema. `None` where they must be declared.
pub async fn source_columns(spec: &SourceSpec<'_>) -> Result<Option<SchemaRef>, ConnectorError> {
    match find(spec.options, "source", |info| info.create_source.is_some())?.columns {
        Some(columns) => columns(spec).await,
        None => Ok(None),
    }
}

fn new_source(spec: &SourceSpec<'_>) -> Result<Arc<dyn ConnectorSource>, ConnectorError> {
    let info = find(spec.options, "source", |info| info.create_source.is_some())?;
    info.create_source.expect("found by having one")(spec)
}

fn new_sink(spec: &SinkSpec<'_>) -> Result<Arc<dyn Sink>, ConnectorError> {
    let info = find(spec.options, "sink", |info| info.create_sink.is_some())?;
    info.create_sink.expect("found by having one")(spec)
}

async fn within_timeout(
    validation: impl Future<Output = Result<(), ConnectorError>>,
    owner: String,
) -> Result<(), ConnectorError> {
    // The connectors keep to the limit by themselves, with better messages: this is for those
    // that hang where they should not.
    let limit = VALIDATION_TIMEOUT + Duration::from_secs(1);
    tokio::time::timeout(limit, validation).await.unwrap_or_else(|_| {
        let message = format!("{owner} got no answer within {} s", VALIDATION_TIMEOUT.as_secs());
        Err(ConnectorError::transient(SqlState::CONNECTION_FAILURE, message))
    })
}

/// The connector that the options name, if it is what is wanted.
fn find(
    options: &BTreeMap<String, String>,
    kind: &str,
    is_kind: impl Fn(&ConnectorInfo) -> bool,
) -> Result<&'static ConnectorInfo, ConnectorError> {
    let names: Vec<&str> = CONNECTORS.iter().filter(|info| is_kind(info)).map(|info| info.name).collect();
    let list = format!("Connectors for a {kind}: {}.", names.join(", "));
    let Some(name) = options.get("connector") else {
        let message = format!("a {kind} needs the option \"connector\"");
        return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message).with_hint(list));
    };
    match CONNECTORS.iter().find(|info| info.name == name.as_str()) {
        Some(info) if is_kind(info) => Ok(info),
        Some(_) => {
            let message = format!("connector \"{name}\" cannot be a {kind}");
            Err(ConnectorError::fatal(SqlState::WRONG_OBJECT_TYPE, message).with_hint(list))
        }
        None => {
            let message = format!("connector \"{name}\" does not exist");
            let hint = match did_you_mean(name, names.iter().copied()) {
                Some(near) => format!("Perhaps you meant \"{near}\". {list}"),
                None => list,
            };
            Err(ConnectorError::fatal(SqlState::UNDEFINED_OBJECT, message).with_hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declared::Declared;

    #[tokio::test]
    async fn unknown_connector_lists_those_there_are() {
        let error = async |declared: &Declared| source_columns(&declared.source()).await.unwrap_err();
        let unknown = error(&Declared::new("kafak", "")).await;
        assert_eq!(unknown.to_string(), "connector \"kafak\" does not exist");
        assert_eq!(
            unknown.hint.as_deref(),
            Some("Perhaps you meant \"kafka\". Connectors for a source: file, generator, kafka.")
        );
        let sink = error(&Declared::new("print", "")).await;
        assert_eq!(sink.to_string(), "connector \"print\" cannot be a source");
        let options = BTreeMap::new();
        let nothing = Declared::new("kafka", "");
        let error = source_columns(&SourceSpec { options: &options, ..nothing.source() }).await.unwrap_err();
        assert_eq!(error.to_string(), "a source needs the option \"connector\"");
    }

    #[test]
    fn manual_names_every_option() {
        for info in connectors() {
            for doc in [info.source_options, info.sink_options].into_iter().flatten().flatten() {
                assert!(info.docs.contains(&format!("`{}`", doc.name)), "{}: {}", info.name, doc.name);
            }
        }
    }
}
