//! What `CREATE` said, per kind.
//!
//! Queries and expressions are kept as the user's text: trees of a parser or a planner change with
//! their versions, the text does not.

use serde::{Deserialize, Deserializer, Serialize};
use tidemill_core::Emit;

use crate::object::{Kind, Oid};

/// `WITH (…)`: keys and values in the order of the statement.
pub type Options = Vec<(String, OptionValue)>;

/// What an option is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    Text(String),
    /// `SECRET name`: what that secret holds when it is needed.
    Secret {
        secret: Oid,
    },
}

impl OptionValue {
    /// What was written, where it is no secret.
    pub fn text(&self) -> Option<&str> {
        match self {
            OptionValue::Text(text) => Some(text),
            OptionValue::Secret { .. } => None,
        }
    }
}

impl From<String> for OptionValue {
    fn from(text: String) -> OptionValue {
        OptionValue::Text(text)
    }
}

impl From<&str> for OptionValue {
    fn from(text: &str) -> OptionValue {
        OptionValue::Text(text.to_owned())
    }
}

/// What `CREATE` said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Definition {
    Source(SourceDefinition),
    Table(TableDefinition),
    Pipeline(PipelineDefinition),
    View(ViewDefinition),
    Sink(SinkDefinition),
    Sequence(SequenceDefinition),
    Secret(SecretDefinition),
}

impl Definition {
    /// What it defines.
    pub fn kind(&self) -> Kind {
        match self {
            Definition::Source(_) => Kind::Source,
            Definition::Table(_) => Kind::Table,
            Definition::Pipeline(_) => Kind::Pipeline,
            Definition::View(_) => Kind::View,
            Definition::Sink(_) => Kind::Sink,
            Definition::Sequence(_) => Kind::Sequence,
            Definition::Secret(_) => Kind::Secret,
        }
    }

    /// Its `WITH` options, if it can have any.
    pub fn options(&self) -> &[(String, OptionValue)] {
        match self {
            Definition::Source(source) => &source.options,
            Definition::Table(table) => &table.options,
            Definition::Pipeline(pipeline) => &pipeline.options,
            Definition::View(_) | Definition::Sequence(_) | Definition::Secret(_) => &[],
            Definition::Sink(sink) => &sink.options,
        }
    }

    /// What stands behind ENCODE.
    pub fn encode_options(&self) -> &[(String, OptionValue)] {
        match self {
            Definition::Source(source) => &source.encode_options,
            Definition::Sink(sink) => &sink.encode_options,
            _ => &[],
        }
    }

    /// The option of this name, where it is no secret.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options().iter().find(|(known, _)| known == key).and_then(|(_, value)| value.text())
    }

    /// The secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = Oid> {
        self.options().iter().chain(self.encode_options()).filter_map(|(_, value)| match value {
            OptionValue::Secret { secret } => Some(*secret),
            OptionValue::Text(_) => None,
        })
    }

    /// The same, to be changed.
    pub(crate) fn options_mut(&mut self) -> Option<&mut Options> {
        match self {
            Definition::Source(source) => Some(&mut source.options),
            Definition::Table(table) => Some(&mut table.options),
            Definition::Pipeline(pipeline) => Some(&mut pipeline.options),
            Definition::View(_) | Definition::Sequence(_) | Definition::Secret(_) => None,
            Definition::Sink(sink) => Some(&mut sink.options),
        }
    }
}

/// `CREATE SOURCE`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDefinition {
    pub options: Options,
    /// In upper case.
    pub format: Option<String>,
    pub encode: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encode_options: Options,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Include>,
    pub watermark: Option<Watermark>,
}

/// `INCLUDE kind ['header'] AS column`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Include {
    /// `key`, `offset`, `partition`, `timestamp`, `header`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The column's name.
    pub column: String,
}

/// `WATERMARK FOR column AS expr`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    pub column: String,
    pub expr: String,
}

/// `CREATE TABLE`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    pub options: Options,
    /// Of `CREATE TABLE … AS`: where the first rows came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// `CREATE PIPELINE`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineDefinition {
    pub query: String,
    pub options: Options,
    #[serde(default, alias = "emit_on_window_close", deserialize_with = "emit")]
    pub emit: Emit,
}

/// Once there were two ways only, and a flag for the second.
fn emit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Emit, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        OnWindowClose(bool),
        Emit(Emit),
    }
    Ok(match Stored::deserialize(deserializer)? {
        Stored::OnWindowClose(true) => Emit::OnWindowClose,
        Stored::OnWindowClose(false) => Emit::OnUpdate,
        Stored::Emit(emit) => emit,
    })
}

/// `CREATE VIEW`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDefinition {
    pub query: String,
}

/// `CREATE SINK`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkDefinition {
    pub input: SinkInput,
    pub options: Options,
    /// In upper case.
    pub format: Option<String>,
    pub encode: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encode_options: Options,
}

/// What a sink writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkInput {
    /// The relation's OID: it may be renamed.
    From { oid: u32 },
    Query {
        query: String,
        #[serde(default, alias = "emit_on_window_close", deserialize_with = "emit")]
        emit: Emit,
    },
}

/// `CREATE SEQUENCE`, or what `SERIAL` and `IDENTITY` make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceDefinition {
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
    /// `smallint`, `integer` or `bigint`.
    pub data_type: String,
    /// The column that it goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_by: Option<OwnedBy>,
}

/// `CREATE SECRET`: a text that only the server reads, and only with a key that is not in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretDefinition {
    /// Which key it is sealed with.
    pub key: String,
    /// Nonce, ciphertext and tag, in base64.
    pub sealed: String,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedBy {
    pub table: u32,
    pub column: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_of_before_is_read() {
        let pipeline = |text: &str| serde_json::from_str::<PipelineDefinition>(text).unwrap().emit;
        assert_eq!(
            pipeline(r#"{"query": "", "options": [], "emit_on_window_close": true}"#),
            Emit::OnWindowClose
        );
        assert_eq!(
            pipeline(r#"{"query": "", "options": [], "emit_on_window_close": false}"#),
            Emit::OnUpdate
        );
        let every = PipelineDefinition { emit: Emit::Every(5), ..PipelineDefinition::default() };
        assert_eq!(pipeline(&serde_json::to_string(&every).unwrap()), Emit::Every(5));
    }
}
