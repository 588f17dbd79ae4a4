//! What `CREATE SOURCE` and `CREATE SINK` hand to a connector.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, SchemaRef, TimeUnit};
use tidemill_core::source::ConnectorError;
use tidemill_core::{SqlState, did_you_mean};

/// How records say what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Each record is a new row.
    Plain,
    /// Each record replaces the row of its key; a key without value deletes it.
    Upsert,
    /// Each record carries the row before and after, as Debezium writes it.
    Debezium,
}

/// How a record's bytes become columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encode {
    /// No `ENCODE` was written: the connector's own choice.
    Native,
    Json,
    Csv,
    Avro,
    Parquet,
    /// The whole value in one column.
    Bytes,
}

/// What a column of `INCLUDE …` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncludeKind {
    /// The record's key.
    Key,
    /// The position of the record in its split.
    Offset,
    /// The number of the record's partition.
    Partition,
    /// When the record was written, by the outside's clock.
    Timestamp,
    /// The last header of that name; all of them without a name.
    Header(Option<String>),
    /// The path of the file.
    File,
}

/// A column that does not come out of the record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncludeColumn {
    pub kind: IncludeKind,
    /// Its place in the schema.
    pub column_idx: usize,
}

/// A declared source.
#[derive(Debug, Clone)]
pub struct SourceSpec<'a> {
    pub name: &'a str,
    /// The physical columns in order: declared columns that are not generated, then `INCLUDE`.
    pub schema: SchemaRef,
    pub include: &'a [IncludeColumn],
    /// Places in the schema.
    pub primary_key: &'a [usize],
    /// `WITH (…)`, with lower-case names and with `connector`.
    pub options: &'a BTreeMap<String, String>,
    pub format: Format,
    pub encode: Encode,
    pub encode_options: &'a BTreeMap<String, String>,
}

/// A declared sink.
#[derive(Debug, Clone)]
pub struct SinkSpec<'a> {
    pub name: &'a str,
    /// Tells this sink from all others, of this database and of others, and stays the same as long as it
    /// exists: the name that destinations know it by.
    pub id: &'a str,
    /// The columns of the rows, without weight.
    pub schema: SchemaRef,
    /// Places in the schema.
    pub primary_key: &'a [usize],
    /// Whether the input never retracts a row.
    pub append_only: bool,
    /// `WITH (…)`, with lower-case names and with `connector`.
    pub options: &'a BTreeMap<String, String>,
    pub format: Format,
    pub encode: Encode,
    pub encode_options: &'a BTreeMap<String, String>,
}

impl SourceSpec<'_> {
    /// `connector "file"`, as messages say it.
    pub(crate) fn owner(&self) -> String {
        format!("connector \"{}\"", self.options.get("connector").map_or("", String::as_str))
    }

    /// Refuses `INCLUDE` columns that are not `available`, which lists their SQL words.
    pub(crate) fn check_include(&self, available: &[&str]) -> Result<(), ConnectorError> {
        for include in self.include {
            let word = include.kind.word();
            if !available.contains(&word) {
                let message = format!("{} has no {word} to INCLUDE", self.owner());
                let hint = match available {
                    [] => "It has nothing to INCLUDE.".to_string(),
                    _ => format!("It has: {}.", available.join(", ")),
                };
                return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint));
            }
        }
        Ok(())
    }

    /// The places of the columns that come out of the record's value.
    pub(crate) fn value_columns(&self) -> Vec<usize> {
        let included = |idx: &usize| self.include.iter().any(|include| include.column_idx == *idx);
        (0..self.schema.fields().len()).filter(|idx| !included(idx)).collect()
    }
}

impl SinkSpec<'_> {
    /// `connector "file"`, as messages say it.
    pub(crate) fn owner(&self) -> String {
        format!("connector \"{}\"", self.options.get("connector").map_or("", String::as_str))
    }
}

impl IncludeKind {
    /// The word behind `INCLUDE`.
    pub fn word(&self) -> &'static str {
        match self {
            IncludeKind::Key => "key",
            IncludeKind::Offset => "offset",
            IncludeKind::Partition => "partition",
            IncludeKind::Timestamp => "timestamp",
            IncludeKind::Header(_) => "header",
            IncludeKind::File => "file",
        }
    }

    /// The type of the column where the statement declares none.
    pub fn data_type(&self) -> DataType {
        match self {
            IncludeKind::Key | IncludeKind::Header(Some(_)) => DataType::Binary,
            IncludeKind::Offset => DataType::Int64,
            IncludeKind::Partition => DataType::Int32,
            IncludeKind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            IncludeKind::Header(None) => {
                DataType::List(Arc::new(Field::new_struct("item", header_fields(), false)))
            }
            IncludeKind::File => DataType::Utf8,
        }
    }
}

/// The fields of one header.
pub(crate) fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

impl FromStr for IncludeKind {
    type Err = ConnectorError;

    /// `key`, `offset`, … as behind `INCLUDE`; a header's name is added by the caller.
    fn from_str(text: &str) -> Result<IncludeKind, ConnectorError> {
        match text.to_ascii_lowercase().as_str() {
            "key" => Ok(IncludeKind::Key),
            "offset" => Ok(IncludeKind::Offset),
            "partition" => Ok(IncludeKind::Partition),
            "timestamp" => Ok(IncludeKind::Timestamp),
            "header" => Ok(IncludeKind::Header(None)),
            "file" => Ok(IncludeKind::File),
            _ => Err(unknown(
                "INCLUDE column",
                text,
                &["key", "offset", "partition", "timestamp", "header", "file"],
            )),
        }
    }
}

impl FromStr for Format {
    type Err = ConnectorError;

    fn from_str(text: &str) -> Result<Format, ConnectorError> {
        match text.to_ascii_uppercase().as_str() {
            "PLAIN" => Ok(Format::Plain),
            "UPSERT" => Ok(Format::Upsert),
            "DEBEZIUM" => Ok(Format::Debezium),
            _ => Err(unknown("FORMAT", text, &["PLAIN", "UPSERT", "DEBEZIUM"])),
        }
    }
}

impl FromStr for Encode {
    type Err = ConnectorError;

    fn from_str(text: &str) -> Result<Encode, ConnectorError> {
        match text.to_ascii_uppercase().as_str() {
            "NATIVE" => Ok(Encode::Native),
            "JSON" => Ok(Encode::Json),
            "CSV" => Ok(Encode::Csv),
            "AVRO" => Ok(Encode::Avro),
            "PARQUET" => Ok(Encode::Parquet),
            "BYTES" => Ok(Encode::Bytes),
            _ => Err(unknown("ENCODE", text, &["JSON", "CSV", "AVRO", "PARQUET", "BYTES"])),
        }
    }
}

/// A word that is none of `known`.
fn unknown(what: &str, text: &str, known: &[&str]) -> ConnectorError {
    let error =
        ConnectorError::fatal(SqlState::INVALID_PARAMETER, format!("{what} \"{text}\" does not exist"));
    match did_you_mean(text, known.iter().copied()) {
        Some(near) => error.with_hint(format!("Perhaps you meant {near}.")),
        None => error.with_hint(format!("There are: {}.", known.join(", "))),
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Plain => "PLAIN",
            Format::Upsert => "UPSERT",
            Format::Debezium => "DEBEZIUM",
        })
    }
}

impl std::fmt::Display for Encode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Encode::Native => "NATIVE",
            Encode::Json => "JSON",
            Encode::Csv => "CSV",
            Encode::Avro => "AVRO",
            Encode::Parquet => "PARQUET",
            Encode::Bytes => "BYTES",
        })
    }
}
