//! What has a name, an OID and columns.

use std::collections::BTreeMap;
use std::fmt;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::definition::Definition;
use crate::policy::{Policy, RowSecurity};

/// Identifies an object for ever; never given to another.
pub type Oid = u32;

/// The kinds of relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Source,
    Table,
    Pipeline,
    View,
    Sink,
    Sequence,
    Secret,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Source, Kind::Table, Kind::Pipeline, Kind::View, Kind::Sink, Kind::Sequence, Kind::Secret];

    /// In lower case, as messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Source => "source",
            Kind::Table => "table",
            Kind::Pipeline => "pipeline",
            Kind::View => "view",
            Kind::Sink => "sink",
            Kind::Sequence => "sequence",
            Kind::Secret => "secret",
        }
    }

    /// In upper case, as statements have it.
    pub fn keyword(self) -> &'static str {
        match self {
            Kind::Source => "SOURCE",
            Kind::Table => "TABLE",
            Kind::Pipeline => "PIPELINE",
            Kind::View => "VIEW",
            Kind::Sink => "SINK",
            Kind::Sequence => "SEQUENCE",
            Kind::Secret => "SECRET",
        }
    }

    /// Whether a query may name it in FROM.
    pub fn is_readable(self) -> bool {
        !matches!(self, Kind::Sink | Kind::Secret)
    }

    /// Whether clients of PostgreSQL see it as a relation.
    pub fn is_relation(self) -> bool {
        !matches!(self, Kind::Sink | Kind::Secret)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(with = "crate::data_type")]
    pub data_type: DataType,
    pub nullable: bool,
    /// The field's metadata: among it the PostgreSQL type where Arrow has none of that name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The text of `DEFAULT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The text of `AS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// `GENERATED … AS IDENTITY`: its default is the next number of a sequence of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Who gives an identity column its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The sequence alone.
    Always,
    /// The sequence, where the statement gives none.
    ByDefault,
}

/// `CREATE INDEX`: the rows of a table or pipeline in the order of some columns. One that begins with an expression is a name only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub oid: Oid,
    pub name: String,
    /// Columns or expressions, as they were written.
    pub keys: Vec<String>,
    /// Of the primary key's columns, which are unique anyway.
    #[serde(default)]
    pub is_unique: bool,
}

impl Column {
    /// A column without default, generation and comment.
    pub fn new(name: impl Into<String>, data_type: DataType, nullable: bool) -> Column {
        Column {
            name: name.into(),
            data_type,
            nullable,
            metadata: BTreeMap::new(),
            default: None,
            generated: None,
            identity: None,
            comment: None,
        }
    }

    /// As a field of an Arrow schema.
    pub fn field(&self) -> Field {
        let metadata = self.metadata.iter().map(|(key, value)| (key.clone(), value.clone()));
        Field::new(&self.name, self.data_type.clone(), self.nullable).with_metadata(metadata.collect())
    }
}

impl From<&Field> for Column {
    fn from(field: &Field) -> Column {
        let metadata = field.metadata().iter().map(|(key, value)| (key.clone(), value.clone()));
        Column {
            metadata: metadata.collect(),
            ..Column::new(field.name(), field.data_type().clone(), field.is_nullable())
        }
    }
}

/// A relation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// Indexes of columns, in the order of the key.
    pub primary_key: Vec<usize>,
    pub definition: Definition,
    /// The statement that made it, as the user wrote it.
    pub sql: String,
    /// Where the names in the definition's query are looked up.
    pub search_path: Vec<String>,
    /// What it reads, by OID, in ascending order.
    pub dependencies: Vec<Oid>,
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Index>,
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
    #[serde(default, skip_serializing_if = "RowSecurity::is_default")]
    pub row_security: RowSecurity,
    pub comment: Option<String>,
    pub owner: String,
    /// Microseconds since 1970, by the clock of the server.
    pub created_at: i64,
    /// Since when it stands still because somebody wants it to, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<i64>,
    /// What its state is called, once that of another definition has taken its place; before, its OID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<Oid>,
}

impl Object {
    /// The name of its state.
    pub fn state(&self) -> Oid {
        self.replaced_by.unwrap_or(self.oid)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.definition.kind()
    }

    /// `schema.name`
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// `pipeline p`, or `pipeline s.p` outside of `public`: as messages name it.
    pub fn describe(&self) -> String {
        match self.schema == "public" {
            true => format!("{} {}", self.kind(), self.name),
            false => format!("{} {}.{}", self.kind(), self.schema, self.name),
        }
    }

    /// The columns as Arrow has them.
    pub fn arrow_schema(&self) -> SchemaRef {
        Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()).into()
    }

    /// The index of a column.
    pub fn column_idx(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}
