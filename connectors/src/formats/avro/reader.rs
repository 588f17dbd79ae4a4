//! The values of one schema into the declared columns.
//!
//! Fields and columns are matched by name: a column without field is NULL, a field without column
//! is passed over. `arrow-avro` decodes a run of values; at a bad one it stops with half a row,
//! so the values before it are decoded once more and those behind it by a decoder anew.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Fields, SchemaRef, TimeUnit};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};
use tidemill_core::SqlState;

use crate::formats::avro::convert::convert;
use crate::formats::records::{Decoded, Fault};

/// More values than there are in a batch.
const VALUES_MAX: usize = 1 << 20;

/// The fields of a record's schema.
#[derive(Debug, Clone)]
pub struct WriterFields {
    schema: String,
    /// Name and type of each, as messages say them.
    fields: Vec<(String, String)>,
}

impl WriterFields {
    /// Of a schema that is a record.
    pub fn parse(schema: &str) -> Result<WriterFields, String> {
        let value: Value = serde_json::from_str(schema).map_err(|error| format!("it is no JSON: {error}"))?;
        let fields = (value.get("type") == Some(&json!("record"))).then(|| value.get("fields")).flatten();
        let Some(fields) = fields.and_then(Value::as_array) else {
            return Err(format!("it is {}, not a record", type_name(&value)));
        };
        let field = |field: &Value| {
            let name = field.get("name").and_then(Value::as_str).unwrap_or_default();
            (name.to_string(), type_name(field.get("type").unwrap_or(&Value::Null)))
        };
        Ok(WriterFields { schema: schema.to_string(), fields: fields.iter().map(field).collect() })
    }

    /// A schema that is no record fills the only column.
    fn parse_for(schema: &str, declared: &Fields) -> Result<WriterFields, String> {
        match (WriterFields::parse(schema), &declared[..]) {
            (Err(_), [only]) if serde_json::from_str::<Value>(schema).is_ok() => {
                let inner: Value = serde_json::from_str(schema).expect("tried above");
                // A record of one field is written as the field.
                let fields = json!([{ "name": "value", "type": inner }]);
                let wrapped = json!({ "type": "record", "name": "wrapped_value", "fields": fields });
                let field = (only.name().clone(), type_name(&inner));
                Ok(WriterFields { schema: wrapped.to_string(), fields: vec![field] })
            }
            (parsed, _) => parsed,
        }
    }

    /// The fields as Arrow has them.
    pub fn arrow_schema(&self) -> Result<SchemaRef, String> {
        Ok(Layout::new(self, None)?.decoder()?.schema())
    }
}

/// `long`, `timestamp-millis`, `union of null and string`.
fn type_name(schema: &Value) -> String {
    match schema {
        Value::String(name) => name.clone(),
        Value::Array(branches) => {
            let names: Vec<String> = branches.iter().map(type_name).collect();
            format!("union of {}", names.join(" and "))
        }
        Value::Object(object) => match (object.get("logicalType"), object.get("type")) {
            (Some(Value::String(logical)), _) => logical.clone(),
            (_, Some(inner)) => type_name(inner),
            _ => "nothing".to_string(),
        },
        _ => "nothing".to_string(),
    }
}

/// Which fields are decoded.
#[derive(Debug)]
struct Layout {
    schema: String,
    projection: Option<Vec<usize>>,
    /// Goes before each value, for the decoder to see where one begins. Nobody who writes values knows it, so that no value can
    /// pass for two.
    frame: [u8; 9],
    id: u64,
}

impl Layout {
    fn new(fields: &WriterFields, projection: Option<Vec<usize>>) -> Result<Layout, String> {
        let id = RandomState::new().build_hasher().finish();
        let mut frame = [0; 9];
        frame[1..].copy_from_slice(&id.to_be_bytes());
        let layout = Layout { schema: fields.schema.clone(), projection, frame, id };
        layout.decoder().map(|_| layout)
    }

    fn decoder(&self) -> Result<Decoder, String> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id64);
        let fingerprint = Fingerprint::Id64(self.id);
        let set = store.set(fingerprint, AvroSchema::new(self.schema.clone()));
        set.map_err(|error| plain(&error))?;
        let mut builder = ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_active_fingerprint(fingerprint)
            .with_batch_size(VALUES_MAX);
        if let Some(projection) = &self.projection {
            builder = builder.with_projection(projection.clone());
        }
        builder.build_decoder().map_err(|error| plain(&error))
    }
}

/// Reads values that one schema has written.
#[derive(Debug)]
pub struct AvroReader {
    /// `schema id 7`
    name: String,
    declared: Fields,
    /// For each column its place among the decoded fields, and the type that it has there.
    places: Vec<Option<(usize, String)>>,
    layout: Layout,
    unit: TimeUnit,
    /// Decoders that nobody uses now. To make one takes longer than to decode a few values.
    spare: Mutex<Vec<Decoder>>,
}

impl AvroReader {
    /// A reader of what `schema` writes; or why it cannot be read.
    pub fn new(name: String, schema: &str, declared: &Fields, unit: TimeUnit) -> Result<AvroReader, String> {
        let fields = WriterFields::parse_for(schema, declared)?;
        let place = |column: &str| fields.fields.iter().position(|(name, _)| name == column);
        let mut used: Vec<usize> = declared.iter().filter_map(|column| place(column.name())).collect();
        used.sort_unstable();
        used.dedup();
        // Fields that nobody wants are passed over, unless they define a type that others name: the schema of the rest makes
        // no sense then.
        let is_part = !used.is_empty() && used.len() < fields.fields.len();
        let projected = is_part.then(|| Layout::new(&fields, Some(used.clone())).ok()).flatten();
        let layout = match projected {
            Some(layout) => layout,
            None => Layout::new(&fields, None)?,
        };
        let decoded_place = |idx: usize| match layout.projection {
            Some(_) => used.binary_search(&idx).expect("all places of columns are used"),
            None => idx,
        };
        let places = declared.iter().map(|column| {
            let idx = place(column.name())?;
            Some((decoded_place(idx), fields.fields[idx].1.clone()))
        });
        let places = places.collect();
        Ok(AvroReader { name, declared: declared.clone(), places, layout, unit, spare: Mutex::default() })
    }

    /// The declared columns of values, without what stands before them.
    pub fn read(&self, values: &[&[u8]]) -> Decoded {
        let mut parts = Vec::new();
        let mut bad = Vec::new();
        self.read_range(values, 0..values.len(), &mut parts, &mut bad);
        let rows = parts.iter().flat_map(|part| part.rows.iter().copied()).collect();
        bad.extend(parts.iter_mut().flat_map(|part| std::mem::take(&mut part.bad)));
        bad.sort_by_key(|(idx, _)| *idx);
        let column = |(column_idx, field): (usize, &arrow::datatypes::FieldRef)| -> ArrayRef {
            let columns: Vec<&dyn Array> =
                parts.iter().map(|part| part.columns[column_idx].as_ref()).collect();
            match &columns[..] {
                [] => arrow::array::new_empty_array(field.data_type()),
                [_] => parts[0].columns[column_idx].clone(),
                _ => arrow::compute::concat(&columns).expect("the parts have the declared types"),
            }
        };
        let columns = self.declared.iter().enumerate().map(column).collect();
        Decoded { columns, rows, bad }
    }

    fn read_range(
        &self,
        values: &[&[u8]],
        mut range: Range<usize>,
        parts: &mut Vec<Decoded>,
        bad: &mut Vec<(usize, Fault)>,
    ) {
        while !range.is_empty() {
            match self.try_read(values, range.clone()) {
                Ok(batch) => {
                    parts.push(self.finish(&batch, range));
                    return;
                }
                Err(Failure::At(idx, fault)) => {
                    bad.push((idx, fault));
                    self.read_range(values, range.start..idx, parts, bad);
                    range.start = idx + 1;
                }
                Err(Failure::Somewhere(fault)) if range.len() == 1 => {
                    bad.push((range.start, fault));
                    return;
                }
                Err(Failure::Somewhere(_)) => {
                    let middle = range.start + range.len() / 2;
                    self.read_range(values, range.start..middle, parts, bad);
                    range.start = middle;
                }
            }
        }
    }

    fn try_read(&self, values: &[&[u8]], range: Range<usize>) -> Result<RecordBatch, Failure> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = spare.unwrap_or_else(|| self.layout.decoder().expect("it could be made before"));
        for idx in range {
            let value = values[idx];
            let n_before = decoder.capacity();
            let framed = decoder.decode(&self.layout.frame);
            let decoded = framed.and_then(|_| decoder.decode(value));
            let reason = match (decoded, n_before - decoder.capacity()) {
                (Ok(n_bytes), 1) if n_bytes == value.len() => continue,
                (Err(error), 0) => plain(&error),
                (_, 0) => "the record ends within its value".to_string(),
                _ => "bytes follow the record's value".to_string(),
            };
            return Err(Failure::At(idx, self.fault(&reason)));
        }
        match decoder.flush() {
            Ok(Some(batch)) => {
                // With a union, a decoder is of no use after its first batch: it goes on counting the values of the branches
                // where it was, though they begin anew (arrow-avro 59.3).
                if !batch.schema_ref().fields().iter().any(|field| has_union(field.data_type())) {
                    self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
                }
                Ok(batch)
            }
            Ok(None) => unreachable!("there is one row for each value of a range that is not empty"),
            Err(error) => Err(Failure::Somewhere(self.fault(&plain(&error)))),
        }
    }

    /// The declared columns out of those of the schema.
    fn finish(&self, batch: &RecordBatch, range: Range<usize>) -> Decoded {
        let mut faults = Vec::new();
        let column = |(column, place): (&arrow::datatypes::FieldRef, &Option<(usize, String)>)| {
            let Some((idx, type_name)) = place else {
                return new_null_array(column.data_type(), batch.num_rows());
            };
            let from = batch.schema_ref().field(*idx);
            let begin = faults.len();
            let converted = convert(batch.column(*idx), from, column, self.unit, &mut faults);
            for (_, fault) in &mut faults[begin..] {
                fault.reason = format!(
                    "{}: field \"{}\" of type {type_name} {}",
                    self.name,
                    column.name(),
                    fault.reason
                );
            }
            converted
        };
        let columns = self.declared.iter().zip(&self.places).map(column).collect();
        let mut decoded = Decoded { columns, rows: range.collect(), bad: Vec::new() };
        decoded.remove(faults);
        decoded
    }

    fn fault(&self, reason: &str) -> Fault {
        Fault::new(SqlState::INVALID_TEXT, format!("{}: {reason}", self.name))
    }
}

/// Why a range of values could not be decoded together.
enum Failure {
    /// This value is bad.
    At(usize, Fault),
    /// Some value is.
    Somewhere(Fault),
}

fn has_union(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) => true,
        DataType::List(field) | DataType::Map(field, _) => has_union(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_union(field.data_type())),
        _ => false,
    }
}

/// What went wrong, without the kind of error that it is.
fn plain(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let kinds = [
        "Arrow: ",
        "Parser error: ",
        "Avro error: ",
        "Schema error: ",
        "Invalid argument error: ",
        "Parse error: ",
    ];
    let mut text = text.as_str();
    while let Some(rest) = kinds.iter().find_map(|kind| text.strip_prefix(kind)) {
        text = rest;
    }
    text.to_string()
}
