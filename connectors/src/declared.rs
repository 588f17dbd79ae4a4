//! Declarations for tests, as short as in SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::spec::{Encode, Format, IncludeColumn, IncludeKind, SinkSpec, SourceSpec};

/// What a `CREATE` statement says.
#[derive(Debug, Clone)]
pub struct Declared {
    pub schema: SchemaRef,
    name: String,
    id: String,
    include: Vec<IncludeColumn>,
    primary_key: Vec<usize>,
    append_only: bool,
    options: BTreeMap<String, String>,
    format: Format,
    encode: Encode,
    encode_options: BTreeMap<String, String>,
}

/// Columns as `"id bigint!, name text"`; an exclamation mark is NOT NULL.
pub fn columns(text: &str) -> Vec<Field> {
    let field = |column: &str| {
        let (name, kind) = column.trim().split_once(' ').expect("a name and a type");
        let data_type = match kind.trim_end_matches('!') {
            "bigint" => DataType::Int64,
            "int" => DataType::Int32,
            "double" => DataType::Float64,
            "real" => DataType::Float32,
            "bool" => DataType::Boolean,
            "text" => DataType::Utf8,
            "view" => DataType::Utf8View,
            "bytes" => DataType::Binary,
            "date" => DataType::Date32,
            "decimal" => DataType::Decimal128(10, 2),
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => panic!("no type {other}"),
        };
        Field::new(name, data_type, !kind.ends_with('!'))
    };
    if text.is_empty() { Vec::new() } else { text.split(',').map(field).collect() }
}

impl Declared {
    pub fn new(connector: &str, text: &str) -> Declared {
        Declared {
            schema: Arc::new(Schema::new(columns(text))),
            name: "s".to_string(),
            id: "s".to_string(),
            include: Vec::new(),
            primary_key: Vec::new(),
            append_only: true,
            options: BTreeMap::from([("connector".to_string(), connector.to_string())]),
            format: Format::Plain,
            encode: Encode::Native,
            encode_options: BTreeMap::new(),
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Declared {
        self.options.insert(name.to_string(), value.to_string());
        self
    }

    /// Of a sink: what destinations know it by.
    pub fn id(mut self, id: &str) -> Declared {
        self.id = id.to_string();
        self
    }

    pub fn named(mut self, name: &str) -> Declared {
        self.name = name.to_string();
        self
    }

    pub fn encode(mut self, encode: Encode, options: &[(&str, &str)]) -> Declared {
        self.encode = encode;
        self.encode_options =
            options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self
    }

    pub fn format(mut self, format: Format) -> Declared {
        self.format = format;
        self
    }

    pub fn key(mut self, primary_key: &[usize]) -> Declared {
        self.primary_key = primary_key.to_vec();
        self
    }

    pub fn retracting(mut self) -> Declared {
        self.append_only = false;
        self
    }

    /// One more column, `"name type"`.
    pub fn include(mut self, kind: IncludeKind, column: &str) -> Declared {
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        self.include.push(IncludeColumn { kind, column_idx: fields.len() });
        fields.extend(columns(column).into_iter().map(Arc::new));
        self.schema = Arc::new(Schema::new(fields));
        self
    }

    pub fn source(&self) -> SourceSpec<'_> {
        SourceSpec {
            name: &self.name,
            schema: self.schema.clone(),
            include: &self.include,
            primary_key: &self.primary_key,
            options: &self.options,
            format: self.format,
            encode: self.encode,
            encode_options: &self.encode_options,
        }
    }

    pub fn sink(&self) -> SinkSpec<'_> {
        SinkSpec {
            name: &self.name,
            id: &self.id,
            schema: self.schema.clone(),
            primary_key: &self.primary_key,
            append_only: self.append_only,
            options: &self.options,
            format: self.format,
            encode: self.encode,
            encode_options: &self.encode_options,
        }
    }
}
