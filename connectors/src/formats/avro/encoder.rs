//! Rows of a sink as Avro of a schema registry.

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow_avro::schema::{AVRO_NAME_METADATA_KEY, AvroSchema, FingerprintStrategy, SCHEMA_METADATA_KEY};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;
use serde_json::{Value, json};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::avro::schema_registry::SchemaRegistry;
use crate::options::{Options, options};

options! {
    /// `ENCODE AVRO (…)` of a sink
    pub struct AvroSinkOptions {
        /// The URL of the schema registry that the schema of the columns is registered in.
        "schema.registry" => registry: String,
        /// The user to log in to the registry as.
        "schema.registry.username" => username: Option<String>,
        /// The password of that user; may be a SECRET.
        "schema.registry.password" => password: Option<String>,
        /// The subject to register the schema under; the topic's name with `-value` unless given.
        "subject" => subject: Option<String>,
    }
}

/// Turns rows into framed Avro values.
#[derive(Debug, Clone)]
pub struct AvroEncoder {
    registry: SchemaRegistry,
    subject: String,
    /// The columns in types that Avro has, with the schema's JSON.
    schema: SchemaRef,
    json: String,
    /// The registry's, once it has the schema.
    id: Arc<OnceLock<u32>>,
}

impl AvroEncoder {
    pub fn new(
        options: &mut Options<'_>,
        topic: &str,
        columns: &Schema,
    ) -> Result<AvroEncoder, ConnectorError> {
        let config = AvroSinkOptions::take(options)?;
        let registry = SchemaRegistry::new(
            "ENCODE AVRO",
            &config.registry,
            config.username.as_deref(),
            config.password.as_deref(),
        )?;
        let fields = columns.fields().iter().map(wire_field).collect::<Result<Fields, _>>()?;
        let name = [(AVRO_NAME_METADATA_KEY.to_string(), record_name(topic))];
        let named = Schema::new_with_metadata(fields.clone(), name.into());
        let json = json_of(&named).map_err(|error| {
            let message = format!("the columns have no Avro schema: {error}");
            ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
        })?;
        let with_json = [(SCHEMA_METADATA_KEY.to_string(), json.clone())];
        Ok(AvroEncoder {
            registry,
            subject: config.subject.unwrap_or_else(|| format!("{topic}-value")),
            schema: Arc::new(Schema::new_with_metadata(fields, with_json.into())),
            json,
            id: Arc::default(),
        })
    }

    /// Has the registry know the schema. Before that, nothing is encoded.
    pub async fn register(&self) -> Result<(), ConnectorError> {
        if self.id.get().is_none() {
            let id = self.registry.register(&self.subject, &self.json).await?;
            self.id.get_or_init(|| id);
        }
        Ok(())
    }

    /// One value a row.
    pub fn encode(&self, rows: &RecordBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
        let id = *self.id.get().expect("the schema is registered when a writer opens");
        let columns = rows.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatch::try_new(self.schema.clone(), columns)?;
        let builder = WriterBuilder::new(self.schema.as_ref().clone());
        let mut encoder = builder
            .with_fingerprint_strategy(FingerprintStrategy::Id(id))
            .build_encoder::<AvroSoeFormat>()?;
        encoder.encode(&rows)?;
        Ok(encoder.flush().iter().map(|value| value.to_vec()).collect())
    }
}

/// A column in a type that Avro has.
fn wire_field(field: &FieldRef) -> Result<FieldRef, ConnectorError> {
    if !is_avro_name(field.name()) {
        let message = format!("column \"{}\" has a name that Avro does not allow", field.name());
        return Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message).with_hint(
            "Avro's names are of letters, digits and underscores, and begin with no digit: rename it with AS.",
        ));
    }
    let Some(data_type) = wire_type(field.data_type()) else {
        let message =
            format!("column \"{}\" of type {} has no form in Avro", field.name(), field.data_type());
        return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
            .with_hint("Cast it to text in the query."));
    };
    Ok(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
}

fn wire_type(data_type: &DataType) -> Option<DataType> {
    use DataType::*;
    let inner = |field: &FieldRef| {
        let data_type = wire_type(field.data_type()).filter(|_| is_avro_name(field.name()))?;
        Some(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
    };
    let wire = match data_type {
        Boolean | Int32 | Int64 | Float32 | Float64 | Date32 => data_type.clone(),
        Int8 | Int16 | UInt8 | UInt16 => Int32,
        UInt32 => Int64,
        UInt64 => Decimal128(20, 0),
        Float16 => Float32,
        Decimal128(_, scale) | Decimal256(_, scale) if *scale >= 0 => data_type.clone(),
        Null | Utf8 | Utf8View | LargeUtf8 | Interval(_) => Utf8,
        Binary | BinaryView | LargeBinary | FixedSizeBinary(_) => Binary,
        Time32(_) | Time64(_) => Time64(TimeUnit::Microsecond),
        Timestamp(TimeUnit::Second | TimeUnit::Millisecond, zone) => {
            Timestamp(TimeUnit::Millisecond, zone.clone())
        }
        Timestamp(_, zone) => Timestamp(TimeUnit::Microsecond, zone.clone()),
        Dictionary(_, values) => return wire_type(values),
        List(item) => List(inner(item)?),
        Struct(fields) => Struct(fields.iter().map(inner).collect::<Option<Fields>>()?),
        Map(entries, sorted) => Map(inner(entries)?, *sorted),
        _ => return None,
    };
    Some(wire)
}

fn is_avro_name(name: &str) -> bool {
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The topic's name as Avro allows it. Registries compare it from version to version.
fn record_name(topic: &str) -> String {
    let name: String = topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if is_avro_name(&name) { name } else { format!("_{name}") }
}

/// With NULL as default of what may be NULL: readers of it may come before and after its writers.
fn json_of(schema: &Schema) -> Result<String, ArrowError> {
    let json = AvroSchema::try_from(schema)?.json_string;
    let mut value: Value =
        serde_json::from_str(&json).map_err(|error| ArrowError::SchemaError(error.to_string()))?;
    for field in value.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_nullable = field.get("type").and_then(|union| union.get(0)) == Some(&json!("null"));
        if let (true, Some(field)) = (is_nullable, field.as_object_mut()) {
            field.insert("default".to_string(), Value::Null);
        }
    }
    Ok(value.to_string())
}
