//! Avro records into columns.
//!
//! A record says which schema wrote it by an id, which a schema registry knows
//! (`0x00`, the id in four bytes, the value); or the declaration has the schema, and records are
//! bare values or have its fingerprint before them (`0xC3 0x01`, eight bytes).
//!
//! Each schema has a [`AvroReader`] that brings its fields into the declared columns, so records
//! of several schemas stand in one batch. Schemas are fetched before records are decoded:
//! decoding itself asks nobody.

mod columns;
mod convert;
pub mod encoder;
mod reader;
pub mod schema_registry;
mod schemas;

#[cfg(test)]
pub mod fake_registry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::ArrayRef;
use arrow::compute::interleave;
use arrow::datatypes::{Fields, SchemaRef};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::avro::reader::AvroReader;
use crate::formats::avro::schema_registry::SchemaRegistry;
use crate::formats::avro::schemas::Schemas;
use crate::formats::json::EpochUnit;
use crate::formats::records::{Decoded, Fault};
use crate::options::{Options, options};
use crate::spec::{Format, SourceSpec};

options! {
    /// `ENCODE AVRO (…)` of a source
    pub struct AvroOptions {
        /// The URL of the schema registry that knows the ids of the records' schemas.
        "schema.registry" => registry: Option<String>,
        /// The user to log in to the registry as.
        "schema.registry.username" => username: Option<String>,
        /// The password of that user; may be a SECRET.
        "schema.registry.password" => password: Option<String>,
        /// The subject under which the registry has the schema of the values; the topic's name with `-value` unless given.
        "subject" => subject: Option<String>,
        /// Instead of a registry: the schema that all values are written with, as JSON.
        "schema" => schema: Option<String>,
        /// What a `long` without logical type counts since 1970 where the column is a timestamp: `s`, `ms`, `us` or `ns`.
        "timestamp_unit" => timestamp_unit: EpochUnit = "ms",
    }
}

/// Where the schemas come from.
#[derive(Debug, Clone)]
enum Origin {
    Registry(SchemaRegistry),
    Declared(String),
}

impl AvroOptions {
    /// Refuses what does not go together.
    fn origin(&self, owner: &str) -> Result<Origin, ConnectorError> {
        let refuse = |message: String, hint: &str| {
            Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message).with_hint(hint))
        };
        match (&self.registry, &self.schema) {
            (Some(url), None) => {
                let registry =
                    SchemaRegistry::new(owner, url, self.username.as_deref(), self.password.as_deref())?;
                Ok(Origin::Registry(registry))
            }
            (None, Some(schema)) => {
                let of_registry = [
                    ("schema.registry.username", &self.username),
                    ("schema.registry.password", &self.password),
                    ("subject", &self.subject),
                ];
                match of_registry.iter().find(|(_, value)| value.is_some()) {
                    Some((name, _)) => refuse(
                        format!("option \"{name}\" of {owner} needs the option \"schema.registry\""),
                        "With the option schema, no registry is asked.",
                    ),
                    None => Ok(Origin::Declared(schema.clone())),
                }
            }
            (Some(_), Some(_)) => refuse(
                format!("{owner} has both options \"schema.registry\" and \"schema\""),
                "Leave one of them out.",
            ),
            (None, None) => refuse(
                format!("{owner} needs the option \"schema.registry\" or \"schema\""),
                "Add schema.registry = 'http://host:port', or the writer's schema as schema = '{…}'.",
            ),
        }
    }
}

/// The columns that the schema has: of the registry's subject, or as declared.
pub async fn source_columns(
    spec: &SourceSpec<'_>,
    default_subject: &str,
) -> Result<SchemaRef, ConnectorError> {
    const OWNER: &str = "ENCODE AVRO";
    let mut options = Options::new(OWNER, spec.encode_options);
    let avro = AvroOptions::take(&mut options)?;
    options.finish()?;
    let (what, schema) = match avro.origin(OWNER)? {
        Origin::Declared(schema) => ("option \"schema\" of ENCODE AVRO".to_string(), schema),
        Origin::Registry(registry) => {
            let subject = avro.subject.as_deref().unwrap_or(default_subject);
            let latest = registry.latest(subject).await?;
            let Some((id, schema)) = latest else {
                let message = format!("subject \"{subject}\" does not exist in {registry}");
                return Err(ConnectorError::fatal(SqlState::UNDEFINED_OBJECT, message).with_hint(
                    "Declare the columns, or say with the option subject where their schema is.",
                ));
            };
            (format!("schema id {id} of subject \"{subject}\""), schema)
        }
    };
    let columns = match spec.format {
        Format::Debezium => columns::infer_of_envelope(&schema),
        Format::Plain | Format::Upsert => columns::infer(&schema),
    };
    columns.map_err(|reason| {
        ConnectorError::fatal(SqlState::INVALID_PARAMETER, format!("{what} cannot be read: {reason}"))
            .with_hint("The schema of a row is an Avro record.")
    })
}

/// Turns Avro values into declared columns.
#[derive(Debug, Clone)]
pub struct AvroDecoder {
    declared: Fields,
    options: AvroOptions,
    schemas: WriterSchemas,
}

#[derive(Debug, Clone)]
enum WriterSchemas {
    Declared {
        reader: Arc<AvroReader>,
        /// What may stand before a value.
        fingerprint: Vec<u8>,
    },
    ById {
        schemas: Arc<Schemas>,
        readers: Arc<Mutex<HashMap<u32, SharedReader>>>,
    },
}

/// A schema's reader, or why there is none.
type SharedReader = Result<Arc<AvroReader>, Fault>;

impl AvroDecoder {
    pub fn new(options: AvroOptions, declared: Fields) -> Result<AvroDecoder, ConnectorError> {
        let schemas = match options.origin("ENCODE AVRO")? {
            Origin::Registry(registry) => {
                WriterSchemas::ById { schemas: Arc::new(Schemas::new(registry)), readers: Arc::default() }
            }
            Origin::Declared(schema) => {
                let refuse = |reason: String| {
                    let message = format!("option \"schema\" of ENCODE AVRO cannot be read: {reason}");
                    ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                        .with_hint("Expected the JSON of an Avro record.")
                };
                let unit = options.timestamp_unit.time_unit();
                let reader = AvroReader::new("the declared schema".to_string(), &schema, &declared, unit);
                let reader = Arc::new(reader.map_err(refuse)?);
                let rabin = AvroSchema::new(schema).fingerprint(FingerprintAlgorithm::Rabin);
                let Ok(Fingerprint::Rabin(rabin)) = rabin else {
                    return Err(refuse("it has no fingerprint".to_string()));
                };
                let fingerprint = [&[0xC3, 0x01][..], &rabin.to_le_bytes()].concat();
                WriterSchemas::Declared { reader, fingerprint }
            }
        };
        Ok(AvroDecoder { declared, options, schemas })
    }

    /// A decoder of other columns, of keys, say, that are written with schemas of the same registry; `None` without one.
    pub fn with_columns(&self, declared: Fields) -> Option<AvroDecoder> {
        match &self.schemas {
            WriterSchemas::Declared { .. } => None,
            WriterSchemas::ById { schemas, .. } => {
                let schemas = WriterSchemas::ById { schemas: schemas.clone(), readers: Arc::default() };
                Some(AvroDecoder { declared, options: self.options.clone(), schemas })
            }
        }
    }

    /// Whether the registry, if there is one, answers.
    pub async fn check_registry(&self, default_subject: &str) -> Result<(), ConnectorError> {
        match &self.schemas {
            WriterSchemas::Declared { .. } => Ok(()),
            WriterSchemas::ById { schemas, .. } => {
                let subject = self.options.subject.as_deref().unwrap_or(default_subject);
                // That there is none yet is no mistake: whoever writes first registers it.
                schemas.registry().latest(subject).await.map(drop)
            }
        }
    }

    /// The ids of schemas that have to be fetched before these values are decoded.
    pub fn missing_schemas<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> Vec<u32> {
        let WriterSchemas::ById { schemas, .. } = &self.schemas else { return Vec::new() };
        let mut ids: Vec<u32> = values.filter_map(|value| schema_id(value).ok()).collect();
        ids.sort_unstable();
        ids.dedup();
        schemas.missing(ids)
    }

    /// Fetches schemas. Those that the registry does not have are known to be unknown then.
    pub async fn fetch_schemas(&self, ids: &[u32]) -> Result<(), ConnectorError> {
        match &self.schemas {
            WriterSchemas::Declared { .. } => Ok(()),
            WriterSchemas::ById { schemas, .. } => schemas.fetch(ids).await,
        }
    }

    pub fn decode(&self, values: &[&[u8]]) -> Decoded {
        let (schemas, readers) = match &self.schemas {
            WriterSchemas::Declared { reader, fingerprint } => {
                let bare =
                    |value: &&'_ [u8]| value.strip_prefix(&fingerprint[..]).map_or(0, |_| fingerprint.len());
                let bodies: Vec<&[u8]> = values.iter().map(|value| &value[bare(value)..]).collect();
                return reader.read(&bodies);
            }
            WriterSchemas::ById { schemas, readers } => (schemas, readers),
        };
        let mut bad = Vec::new();
        let mut by_id: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (idx, value) in values.iter().enumerate() {
            match schema_id(value) {
                Ok(id) => by_id.entry(id).or_default().push(idx),
                Err(fault) => bad.push((idx, fault)),
            }
        }
        let mut groups = Vec::with_capacity(by_id.len());
        for (id, idxs) in by_id {
            match self.reader(id, schemas, readers) {
                Ok(reader) => {
                    let bodies: Vec<&[u8]> = idxs.iter().map(|idx| &values[*idx][FRAME_LEN..]).collect();
                    groups.push(reader.read(&bodies).at(&idxs));
                }
                Err(fault) => bad.extend(idxs.into_iter().map(|idx| (idx, fault.clone()))),
            }
        }
        self.merge(groups, bad)
    }

    fn reader(
        &self,
        id: u32,
        schemas: &Schemas,
        readers: &Mutex<HashMap<u32, SharedReader>>,
    ) -> SharedReader {
        let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = readers.get(&id) {
            return reader.clone();
        }
        // What the registry does not have now, it may have later.
        let schema = schemas.get(id)?;
        let unit = self.options.timestamp_unit.time_unit();
        let reader = AvroReader::new(format!("schema id {id}"), &schema, &self.declared, unit);
        let reader = reader.map(Arc::new).map_err(|reason| {
            Fault::new(SqlState::INVALID_TEXT, format!("schema id {id} cannot be read: {reason}"))
        });
        readers.insert(id, reader.clone());
        reader
    }

    /// Brings the rows of several schemas into the order of their values.
    pub fn merge(&self, mut groups: Vec<Decoded>, mut bad: Vec<(usize, Fault)>) -> Decoded {
        groups.iter_mut().for_each(|group| bad.append(&mut group.bad));
        bad.sort_by_key(|(idx, _)| *idx);
        if groups.len() == 1 {
            return Decoded { bad, ..groups.remove(0) };
        }
        // (value, (group, its row)), in the order of the values.
        let mut places: Vec<(usize, (usize, usize))> = Vec::new();
        for (group_idx, group) in groups.iter().enumerate() {
            places.extend(group.rows.iter().enumerate().map(|(row_idx, idx)| (*idx, (group_idx, row_idx))));
        }
        places.sort_unstable();
        let rows = places.iter().map(|(idx, _)| *idx).collect();
        let places: Vec<(usize, usize)> = places.into_iter().map(|(_, place)| place).collect();
        let column = |(column_idx, field): (usize, &arrow::datatypes::FieldRef)| -> ArrayRef {
            if groups.is_empty() {
                return arrow::array::new_empty_array(field.data_type());
            }
            let columns: Vec<_> = groups.iter().map(|group| group.columns[column_idx].as_ref()).collect();
            interleave(&columns, &places).expect("all groups have the declared types")
        };
        let columns = self.declared.iter().enumerate().map(column).collect();
        Decoded { columns, rows, bad }
    }
}

/// The bytes before a value: `0x00` and the schema's id.
const FRAME_LEN: usize = 5;

/// Whether bytes may be Avro of a registry: JSON and text never begin with a zero.
pub fn is_framed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes.len() >= FRAME_LEN
}

fn schema_id(value: &[u8]) -> Result<u32, Fault> {
    let reason = match value {
        [0, id @ ..] if id.len() >= 4 => {
            return Ok(u32::from_be_bytes([id[0], id[1], id[2], id[3]]));
        }
        [] => "the record is empty".to_string(),
        [0, ..] => "the record ends within the id of its schema".to_string(),
        [first, ..] => format!(
            "the record is no Avro of a schema registry: it begins with 0x{first:02x} where 0x00 and the id of its schema should stand"
        ),
    };
    Err(Fault::new(SqlState::INVALID_TEXT, reason))
}
