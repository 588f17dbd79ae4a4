//! Debezium's envelope: the row before and after, and what was done.
//!
//! Both of its JSON forms are read, without schema `{"before": …, "after": …, "op": "u"}` and with
//! it `{"schema": …, "payload": {"before": …}}`; in Avro, it is a record with these fields. Operations: `r` (read by the snapshot), `c`, `u`,
//! `d`. Tombstones (no value) and messages (`m`) are passed over.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StructArray};
use arrow::compute::{interleave, kernels::zip::zip};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::avro::{AvroDecoder, AvroOptions};
use crate::formats::json::{JsonColumns, JsonOptions, JsonReader};
use crate::formats::records::{Decoded, Fault};

/// Turns envelopes into rows with weights.
#[derive(Debug, Clone)]
pub struct DebeziumDecoder {
    envelopes: Envelopes,
    /// With a primary key, only the newest image of a row is wanted.
    keyed: bool,
}

/// How values become envelopes.
#[derive(Debug, Clone)]
enum Envelopes {
    /// The images are of raw columns, which become the declared ones later.
    Json(JsonReader, JsonColumns),
    Avro(AvroDecoder),
}

/// Rows out of envelopes.
#[derive(Debug)]
pub struct Images {
    /// The rows; a value may have none, one or two of them.
    pub decoded: Decoded,
    /// For each row 1 or −1.
    pub weights: Int64Array,
}

/// The image of a row that is taken from an envelope.
#[derive(Debug, Clone, Copy)]
enum Image {
    Before,
    After,
}

impl DebeziumDecoder {
    pub fn new(
        options: &JsonOptions,
        declared: Fields,
        keyed: bool,
    ) -> Result<DebeziumDecoder, ConnectorError> {
        let columns = JsonColumns::new(declared, options)?;
        let image = |name: &str| Field::new_struct(name, columns.raw(), true);
        let envelope = vec![image("before"), image("after"), Field::new("op", DataType::Utf8, true)];
        let mut fields = envelope.clone();
        fields.push(Field::new_struct("payload", envelope, true));
        let reader = JsonReader::new(Fields::from(fields));
        Ok(DebeziumDecoder { envelopes: Envelopes::Json(reader, columns), keyed })
    }

    /// A decoder of envelopes in Avro.
    pub fn of_avro(
        options: AvroOptions,
        declared: Fields,
        keyed: bool,
    ) -> Result<DebeziumDecoder, ConnectorError> {
        // What must not be NULL is found later: an image may lack all but the key.
        let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
        let columns: Fields = declared.iter().map(nullable).collect();
        let image = |name: &str| Field::new_struct(name, columns.clone(), true);
        let envelope = vec![image("before"), image("after"), Field::new("op", DataType::Utf8, true)];
        let decoder = AvroDecoder::new(options, Fields::from(envelope))?;
        Ok(DebeziumDecoder { envelopes: Envelopes::Avro(decoder), keyed })
    }

    /// The decoder of envelopes in Avro, if they are.
    pub fn avro(&self) -> Option<&AvroDecoder> {
        match &self.envelopes {
            Envelopes::Avro(avro) => Some(avro),
            Envelopes::Json(..) => None,
        }
    }

    pub fn decode(&self, values: &[&[u8]]) -> Images {
        let raw = match &self.envelopes {
            Envelopes::Json(reader, _) => reader.read(values),
            Envelopes::Avro(avro) => avro.decode(values),
        };
        let Decoded { columns, rows, mut bad } = raw;
        let (before, after, op) = match &columns[..] {
            [before, after, op] => (before.clone(), after.clone(), op.clone()),
            [before, after, op, payload] => {
                let payload = payload.as_struct();
                let inner = |idx: usize, outer: &ArrayRef| choose(payload, idx, outer);
                (inner(0, before), inner(1, after), inner(2, op))
            }
            _ => unreachable!("the envelope has three fields, and in JSON a fourth"),
        };

        // Which image of which envelope becomes a row.
        let mut images: Vec<(Image, usize)> = Vec::new();
        for (row_idx, value_idx) in rows.iter().enumerate() {
            let begin = images.len();
            let fault =
                match op.as_string::<i32>().is_valid(row_idx).then(|| op.as_string::<i32>().value(row_idx)) {
                    Some("c" | "r") => {
                        images.push((Image::After, row_idx));
                        None
                    }
                    Some("u") if self.keyed => {
                        images.push((Image::After, row_idx));
                        None
                    }
                    Some("u") => {
                        images.extend([(Image::Before, row_idx), (Image::After, row_idx)]);
                        None
                    }
                    Some("d") => {
                        images.push((Image::Before, row_idx));
                        None
                    }
                    Some("m") => None,
                    Some(other) => {
                        let reason =
                            format!("operation \"{other}\" of the Debezium envelope is not supported");
                        Some(Fault::new(SqlState::FEATURE_NOT_SUPPORTED, reason))
                    }
                    None => Some(Fault::new(
                        SqlState::INVALID_TEXT,
                        "the record is no Debezium envelope: it has no \"op\"",
                    )),
                };
            let missing = images[begin..].iter().find_map(|(image, row_idx)| match image {
                Image::Before if before.is_null(*row_idx) => Some(
                    "the Debezium envelope has no \"before\": its table needs REPLICA IDENTITY FULL, \
                     or the source a PRIMARY KEY and \"before\" with the key",
                ),
                Image::After if after.is_null(*row_idx) => Some("the Debezium envelope has no \"after\""),
                _ => None,
            });
            let missing = missing.map(|reason| Fault::new(SqlState::NULL_NOT_ALLOWED, reason));
            if let Some(fault) = fault.or(missing) {
                images.truncate(begin);
                bad.push((*value_idx, fault));
            }
        }
        bad.sort_by_key(|(value_idx, _)| *value_idx);

        let place = |(image, row_idx): &(Image, usize)| match image {
            Image::Before => (0, *row_idx),
            Image::After => (1, *row_idx),
        };
        let places: Vec<(usize, usize)> = images.iter().map(place).collect();
        let chosen = interleave(&[&before, &after], &places).expect("both images have the same type");
        let weight = |(image, _): &(Image, usize)| match image {
            Image::Before => -1,
            Image::After => 1,
        };
        let weights = Int64Array::from_iter_values(images.iter().map(weight));
        let mut faults = Vec::new();
        let columns = match &self.envelopes {
            Envelopes::Json(_, columns) => columns.finish(chosen.as_struct().columns(), &mut faults),
            Envelopes::Avro(_) => chosen.as_struct().columns().to_vec(),
        };
        let rows = images.iter().map(|(_, row_idx)| rows[*row_idx]).collect();
        let mut images = Images { decoded: Decoded { columns, rows, bad }, weights };
        images.remove(faults);
        images
    }
}

impl Images {
    /// Takes out all rows of the values that a row with a fault came from.
    pub fn remove(&mut self, faults: Vec<(usize, Fault)>) {
        if faults.is_empty() {
            return;
        }
        let rows = &self.decoded.rows;
        let mut all = Vec::new();
        for (row_idx, fault) in faults {
            let value_idx = rows[row_idx];
            // The rows of one value stand side by side.
            let siblings = (row_idx.saturating_sub(1)..(row_idx + 2).min(rows.len()))
                .filter(|idx| rows[*idx] == value_idx);
            all.extend(siblings.map(|idx| (idx, fault.clone())));
        }
        self.decoded.columns.push(std::sync::Arc::new(self.weights.clone()));
        self.decoded.remove(all);
        self.decoded.bad.dedup_by_key(|(value_idx, _)| *value_idx);
        let weights = self.decoded.columns.pop().expect("pushed above");
        self.weights = weights.as_primitive::<arrow::datatypes::Int64Type>().clone();
    }
}

/// A field of the payload where there is one, otherwise of the record itself.
fn choose(payload: &StructArray, idx: usize, outer: &ArrayRef) -> ArrayRef {
    match payload.null_count() {
        0 => payload.column(idx).clone(),
        n_null if n_null == payload.len() => outer.clone(),
        _ => {
            let has_payload =
                BooleanArray::from_iter((0..payload.len()).map(|idx| Some(payload.is_valid(idx))));
            zip(&has_payload, payload.column(idx), outer).expect("both have the same type")
        }
    }
}
