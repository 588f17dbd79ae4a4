//! Formats: records to changes, and changes to records.
//!
//! A record passes two decoders: `ENCODE` turns its bytes into columns (`json`, `csv`, `avro`, `bytes`),
//! `FORMAT` turns columns and keys into changes (here, and `debezium`). Each value is judged on
//! its own: a bad one is reported and the others become rows.

pub mod avro;
pub mod bytes;
pub mod changelog;
pub mod csv;
pub mod debezium;
pub mod include;
pub mod json;
pub mod records;
pub mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, Scalar};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{interleave, is_null};
use arrow::datatypes::{Field, Fields, SchemaRef};
use tidemill_core::source::{Changes, ConnectorError, partial_schema};
use tidemill_core::{Delta, SqlState};

use crate::formats::avro::{AvroDecoder, AvroOptions};
use crate::formats::bytes::BytesDecoder;
use crate::formats::csv::{CsvDecoder, CsvOptions};
use crate::formats::debezium::DebeziumDecoder;
use crate::formats::json::{JsonDecoder, JsonOptions};
use crate::formats::records::{Decoded, Fault, Records};
use crate::options::Options;
use crate::spec::{Encode, Format, IncludeColumn, SourceSpec};

/// Turns records into changes.
#[derive(Debug, Clone)]
pub struct Decoder {
    schema: SchemaRef,
    /// Places in the schema of the columns that are in the value.
    value_columns: Vec<usize>,
    include: Vec<IncludeColumn>,
    primary_key: Vec<usize>,
    format: Format,
    values: Values,
    keys: Option<KeyDecoder>,
}

/// How values become columns.
#[derive(Debug, Clone)]
enum Values {
    Json(JsonDecoder),
    Csv(CsvDecoder),
    Avro(AvroDecoder),
    Bytes(BytesDecoder),
    Debezium(Box<DebeziumDecoder>),
    /// The connector brings columns already.
    Columns,
}

/// How message keys become those columns of the primary key that are declared as ordinary ones.
#[derive(Debug, Clone)]
struct KeyDecoder {
    /// Places in the schema.
    columns: Vec<usize>,
    json: JsonDecoder,
    /// Of values that come with a schema registry: keys may have schemas of it as well.
    avro: Option<AvroDecoder>,
    /// Where one column is the key, the key may also be its plain text.
    plain: Option<Field>,
}

impl Decoder {
    /// A decoder of what `spec` declares, where `encode` is already known.
    pub fn new(spec: &SourceSpec<'_>, encode: Encode) -> Result<Decoder, ConnectorError> {
        let value_columns = spec.value_columns();
        let declared: Fields = value_columns.iter().map(|idx| spec.schema.fields()[*idx].clone()).collect();
        let keyed = !spec.primary_key.is_empty();
        if spec.format == Format::Upsert && !keyed {
            let message = format!("source \"{}\" is upsert but has no primary key", spec.name);
            return Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message)
                .with_hint("Add PRIMARY KEY (…) to its columns."));
        }
        if spec.format == Format::Debezium && !keyed && !spec.include.is_empty() {
            // A retraction must be equal to the row it takes back, but has another offset.
            let message = format!("source \"{}\" cannot INCLUDE columns without a primary key", spec.name);
            return Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message)
                .with_hint("Add PRIMARY KEY (…) to its columns, or leave out INCLUDE."));
        }
        let owner = match encode {
            Encode::Json => "ENCODE JSON",
            Encode::Csv => "ENCODE CSV",
            Encode::Avro => "ENCODE AVRO",
            Encode::Bytes => "ENCODE BYTES",
            Encode::Parquet => "ENCODE PARQUET",
            Encode::Native => unreachable!("the connector has chosen an encoding"),
        };
        let mut options = Options::new(owner, spec.encode_options);
        let json = JsonOptions::take(&mut Options::new(owner, &Default::default()))?;
        let mut key_options = json;
        let mut avro = None;
        let values = match (spec.format, encode) {
            (Format::Debezium, Encode::Json) => {
                key_options = JsonOptions::take(&mut options)?;
                Values::Debezium(Box::new(DebeziumDecoder::new(&key_options, declared, keyed)?))
            }
            (Format::Debezium, Encode::Avro) => {
                let options = AvroOptions::take(&mut options)?;
                Values::Debezium(Box::new(DebeziumDecoder::of_avro(options, declared, keyed)?))
            }
            (Format::Debezium, _) => {
                let message = format!("FORMAT DEBEZIUM with {owner} is not supported");
                return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                    .with_hint("Use ENCODE JSON or AVRO."));
            }
            (_, Encode::Json) => {
                key_options = JsonOptions::take(&mut options)?;
                Values::Json(JsonDecoder::new(&key_options, declared)?)
            }
            (_, Encode::Csv) => Values::Csv(CsvDecoder::new(&CsvOptions::take(&mut options)?, declared)?),
            (_, Encode::Avro) => {
                let decoder = AvroDecoder::new(AvroOptions::take(&mut options)?, declared)?;
                avro = Some(decoder.clone());
                Values::Avro(decoder)
            }
            (_, Encode::Parquet) => Values::Columns,
            (_, _) => Values::Bytes(BytesDecoder::new(&declared)?),
        };
        options.finish()?;
        Ok(Decoder {
            schema: spec.schema.clone(),
            keys: KeyDecoder::new(spec, &value_columns, &key_options, avro.as_ref())?,
            value_columns,
            include: spec.include.to_vec(),
            primary_key: spec.primary_key.to_vec(),
            format: spec.format,
            values,
        })
    }

    /// Tells a CSV decoder what the header of its file says.
    pub fn set_csv_header(&mut self, header: &[String], file: &str) -> Result<(), ConnectorError> {
        match &mut self.values {
            Values::Csv(csv) => csv.set_header(header, file),
            _ => unreachable!("only CSV has headers"),
        }
    }

    /// The changes that the records make, and what is wrong with the others, by record index.
    pub fn decode(&self, records: &Records<'_>) -> (Changes, Vec<(usize, Fault)>) {
        match (&self.values, self.format) {
            (Values::Debezium(debezium), _) => self.decode_debezium(debezium, records),
            (_, Format::Upsert) => self.decode_upsert(records),
            (_, _) => self.decode_plain(records),
        }
    }

    /// The ids of schemas that have to be fetched before the records are decoded.
    pub fn missing_schemas(&self, records: &Records<'_>) -> Vec<u32> {
        let mut ids = Vec::new();
        if let Some(avro) = self.avro() {
            let values = records.records.iter().filter_map(|record| record.value.as_ref());
            ids = avro.missing_schemas(values.map(|range| records.get(range)));
        }
        if let Some(avro) = self.keys.as_ref().and_then(|keys| keys.avro.as_ref()) {
            let keys = records.records.iter().filter_map(|record| record.key.as_ref());
            ids.extend(avro.missing_schemas(keys.map(|range| records.get(range))));
        }
        ids
    }

    /// Fetches schemas that are missing.
    pub async fn fetch_schemas(&self, ids: &[u32]) -> Result<(), ConnectorError> {
        // Keys know the same schemas.
        match self.avro() {
            Some(avro) => avro.fetch_schemas(ids).await,
            None => Ok(()),
        }
    }

    /// Whether the schema registry of the values answers, where there is one.
    pub async fn check_registry(&self, subject: &str) -> Result<(), ConnectorError> {
        match self.avro() {
            Some(avro) => avro.check_registry(subject).await,
            None => Ok(()),
        }
    }

    fn avro(&self) -> Option<&AvroDecoder> {
        match &self.values {
            Values::Avro(avro) => Some(avro),
            Values::Debezium(debezium) => debezium.avro(),
            _ => None,
        }
    }

    /// Whether values are not made where nobody reads them.
    pub fn leaves_out_columns(&self) -> bool {
        // Keys and deletions need what others do not.
        self.format == Format::Plain && matches!(self.values, Values::Csv(_) | Values::Columns)
    }

    /// Says that nobody reads other columns of the schema than these. Values are made of the others where one has to be
    /// made to see whether it is good.
    pub fn read_only(&mut self, columns: &BTreeSet<usize>) {
        let unread = self.left_out(columns);
        if let Values::Csv(csv) = &mut self.values {
            csv.leave_out(&unread);
        }
    }

    /// Places among the columns of the value that need not be made for readers of some columns of the schema.
    pub fn left_out(&self, columns: &BTreeSet<usize>) -> Vec<usize> {
        if !self.leaves_out_columns() {
            return Vec::new();
        }
        let unread = self.value_columns.iter().enumerate().filter(|(_, idx)| !columns.contains(idx));
        unread.map(|(place, _)| place).collect()
    }

    fn decode_values(&self, values: &[&[u8]]) -> Decoded {
        match &self.values {
            Values::Json(json) => json.decode(values),
            Values::Csv(csv) => csv.decode(values),
            Values::Avro(avro) => avro.decode(values),
            Values::Bytes(bytes) => bytes.decode(values),
            Values::Debezium(_) => unreachable!("envelopes have their own way"),
            Values::Columns => unreachable!("columns come by way of finish"),
        }
    }

    fn decode_plain(&self, records: &Records<'_>) -> (Changes, Vec<(usize, Fault)>) {
        let mut missing = Vec::new();
        let mut idxs = Vec::with_capacity(records.records.len());
        let mut values = Vec::with_capacity(records.records.len());
        for (idx, record) in records.records.iter().enumerate() {
            match &record.value {
                Some(range) => {
                    idxs.push(idx);
                    values.push(records.get(range));
                }
                None => {
                    missing.push((idx, Fault::new(SqlState::NULL_NOT_ALLOWED, "the record has no value")))
                }
            }
        }
        let mut decoded = self.decode_values(&values).at(&idxs);
        decoded.bad.extend(missing);
        self.finish(decoded, records)
    }

    /// The changes of columns that the connector has decoded by itself; none of them deletes.
    pub fn finish(&self, mut decoded: Decoded, records: &Records<'_>) -> (Changes, Vec<(usize, Fault)>) {
        self.add_includes(&mut decoded, records);
        if self.format == Format::Upsert {
            let deleted = BooleanArray::from(vec![false; decoded.rows.len()]);
            return self.finish_upsert(decoded, deleted);
        }
        let faults = self.null_faults(&decoded.columns, None);
        decoded.remove(faults);
        decoded.bad.sort_by_key(|(idx, _)| *idx);
        (Changes::Append(self.batch(decoded.columns, decoded.rows.len())), decoded.bad)
    }

    fn decode_upsert(&self, records: &Records<'_>) -> (Changes, Vec<(usize, Fault)>) {
        let is_json = matches!(self.values, Values::Json(_));
        let mut missing = Vec::new();
        let (mut idxs, mut values, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        for (idx, record) in records.records.iter().enumerate() {
            let value = record.value.as_ref().map(|range| records.get(range));
            match (value, &record.key) {
                (Some(value), _) if !(is_json && value.trim_ascii() == b"null") => {
                    idxs.push(idx);
                    values.push(value);
                }
                (_, Some(_)) => deletes.push(idx),
                (_, None) => missing.push((
                    idx,
                    Fault::new(SqlState::NULL_NOT_ALLOWED, "the record has neither key nor value"),
                )),
            }
        }
        let upserts = self.decode_values(&values).at(&idxs);
        let (mut decoded, deleted) = self.merge(records, upserts, &deletes);
        decoded.bad.extend(missing);
        let mut deleted = deleted;
        self.add_includes_with(&mut decoded, &mut deleted, records);
        self.finish_upsert(decoded, deleted)
    }

    /// Brings upserts and deletes into the order of their records, with keys where values lack them.
    fn merge(
        &self,
        records: &Records<'_>,
        mut upserts: Decoded,
        deletes: &[usize],
    ) -> (Decoded, BooleanArray) {
        let Some(keys) = &self.keys else {
            return self.merge_with_keys(upserts, deletes, None);
        };
        // Upserts of which the value does not repeat the key.
        let mut without_key = vec![false; upserts.rows.len()];
        for column_idx in &keys.columns {
            let place = self
                .value_columns
                .iter()
                .position(|idx| idx == column_idx)
                .expect("a key column in the value");
            let column = &upserts.columns[place];
            if column.null_count() > 0 {
                (0..column.len()).for_each(|row_idx| without_key[row_idx] |= column.is_null(row_idx));
            }
        }
        let has_key = |idx: usize| records.records[idx].key.is_some();
        let lacking =
            upserts.rows.iter().zip(&without_key).filter(|(idx, without)| **without && has_key(**idx));
        let mut idxs: Vec<usize> = lacking.map(|(idx, _)| *idx).chain(deletes.iter().copied()).collect();
        idxs.sort_unstable();
        if idxs.is_empty() {
            return self.merge_with_keys(upserts, deletes, None);
        }
        let texts: Vec<&[u8]> = idxs
            .iter()
            .map(|idx| records.records[*idx].key.as_ref().map_or(&[][..], |key| records.get(key)))
            .collect();
        let mut decoded_keys = keys.decode(&texts).at(&idxs);
        let bad = std::mem::take(&mut decoded_keys.bad);
        let is_bad = |idx: usize| bad.iter().any(|(bad_idx, _)| *bad_idx == idx);
        let deletes: Vec<usize> = deletes.iter().copied().filter(|idx| !is_bad(*idx)).collect();
        let faults = upserts.rows.iter().enumerate().filter(|(_, idx)| is_bad(**idx));
        let faults: Vec<(usize, Fault)> = faults
            .map(|(row_idx, idx)| {
                let (_, fault) = bad.iter().find(|(bad_idx, _)| bad_idx == idx).expect("filtered by it");
                (row_idx, fault.clone())
            })
            .collect();
        upserts.remove(faults);
        let seen: Vec<usize> = upserts.bad.iter().map(|(idx, _)| *idx).collect();
        upserts.bad.extend(bad.into_iter().filter(|(idx, _)| !seen.contains(idx)));
        self.merge_with_keys(upserts, &deletes, Some((keys, decoded_keys)))
    }

    fn merge_with_keys(
        &self,
        upserts: Decoded,
        deletes: &[usize],
        keys: Option<(&KeyDecoder, Decoded)>,
    ) -> (Decoded, BooleanArray) {
        if deletes.is_empty() && keys.is_none() {
            let deleted = BooleanArray::from(vec![false; upserts.rows.len()]);
            return (upserts, deleted);
        }
        // (record, its row among the upserts), in the order of the records.
        let mut merged: Vec<(usize, Option<usize>)> =
            upserts.rows.iter().enumerate().map(|(row_idx, idx)| (*idx, Some(row_idx))).collect();
        merged.extend(deletes.iter().map(|idx| (*idx, None)));
        merged.sort_unstable_by_key(|(idx, _)| *idx);

        let column = |(place, column_idx): (usize, &usize)| {
            let values = &upserts.columns[place];
            let nothing = arrow::array::new_null_array(values.data_type(), 1);
            let key = keys.as_ref().and_then(|(decoder, decoded)| {
                let key_place = decoder.columns.iter().position(|idx| idx == column_idx)?;
                Some((&decoded.columns[key_place], &decoded.rows))
            });
            let source = |(idx, row_idx): &(usize, Option<usize>)| {
                let from_key = || key.and_then(|(_, rows)| rows.binary_search(idx).ok());
                match row_idx {
                    Some(row_idx) if values.is_valid(*row_idx) => (0, *row_idx),
                    _ => from_key().map_or((1, 0), |key_idx| (2, key_idx)),
                }
            };
            let sources: Vec<(usize, usize)> = merged.iter().map(source).collect();
            let key_column = key.map_or(&nothing, |(column, _)| column);
            interleave(&[values, &nothing, key_column], &sources).expect("all three have the column's type")
        };
        let columns = self.value_columns.iter().enumerate().map(column).collect();
        let rows = merged.iter().map(|(idx, _)| *idx).collect();
        let deleted = BooleanArray::from_iter(merged.iter().map(|(_, row_idx)| Some(row_idx.is_none())));
        (Decoded { columns, rows, bad: upserts.bad }, deleted)
    }

    fn decode_debezium(
        &self,
        debezium: &DebeziumDecoder,
        records: &Records<'_>,
    ) -> (Changes, Vec<(usize, Fault)>) {
        let mut idxs = Vec::with_capacity(records.records.len());
        let mut values = Vec::with_capacity(records.records.len());
        for (idx, record) in records.records.iter().enumerate() {
            // A tombstone only lets Kafka compact: the delete went before it.
            if let Some(range) = &record.value {
                idxs.push(idx);
                values.push(records.get(range));
            }
        }
        let mut images = debezium.decode(&values);
        images.decoded = images.decoded.at(&idxs);
        if self.primary_key.is_empty() {
            let faults = self.null_faults(&images.decoded.columns, None);
            images.remove(faults);
            let rows = self.batch(images.decoded.columns, images.decoded.rows.len());
            return (Changes::Delta(Delta::weighted(&rows, Arc::new(images.weights))), images.decoded.bad);
        }
        let mut deleted =
            BooleanArray::from_iter(images.weights.values().iter().map(|weight| Some(*weight < 0)));
        let mut decoded = images.decoded;
        self.add_includes_with(&mut decoded, &mut deleted, records);
        self.finish_upsert(decoded, deleted)
    }

    /// Checks and fills the columns of upserts.
    fn finish_upsert(&self, mut decoded: Decoded, deleted: BooleanArray) -> (Changes, Vec<(usize, Fault)>) {
        for (idx, field) in self.schema.fields().iter().enumerate() {
            let column = &decoded.columns[idx];
            if !field.is_nullable() && column.null_count() > 0 && !self.primary_key.contains(&idx) {
                // A deleted row has its key only, but the schema wants a value: any will do.
                let missing =
                    arrow::compute::and(&deleted, &is_null(column).expect("a column has NULLs or not"))
                        .expect("both are as long as the rows");
                let filler = Scalar::new(filler(column));
                decoded.columns[idx] =
                    zip(&missing, &filler, column).expect("the filler has the column's type");
            }
        }
        let faults = self.null_faults(&decoded.columns, Some(&deleted));
        decoded.columns.push(Arc::new(deleted));
        decoded.remove(faults);
        decoded.bad.sort_by_key(|(idx, _)| *idx);
        let deleted = decoded.columns.pop().expect("pushed above");
        let deleted = arrow::array::as_boolean_array(&deleted).clone();
        (Changes::Upsert { rows: self.batch(decoded.columns, decoded.rows.len()), deleted }, decoded.bad)
    }

    /// Brings the columns into the order of the schema, with those of `INCLUDE`.
    fn add_includes(&self, decoded: &mut Decoded, records: &Records<'_>) {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        let mut faults = Vec::new();
        for (column, idx) in std::mem::take(&mut decoded.columns).into_iter().zip(&self.value_columns) {
            columns[*idx] = Some(column);
        }
        for include in &self.include {
            let field = self.schema.field(include.column_idx);
            let column = include::column(&include.kind, field, records, &decoded.rows, &mut faults);
            columns[include.column_idx] = Some(column);
        }
        let filled = columns.into_iter().map(|column| column.expect("a column is in the value or included"));
        decoded.columns = filled.collect();
        decoded.remove(faults);
    }

    /// [`add_includes`](Decoder::add_includes) for rows that go with a mask.
    fn add_includes_with(&self, decoded: &mut Decoded, deleted: &mut BooleanArray, records: &Records<'_>) {
        let before = decoded.rows.clone();
        self.add_includes(decoded, records);
        if decoded.rows.len() < before.len() {
            let mut kept = decoded.rows.iter().peekable();
            let keep = before.iter().map(|idx| Some(kept.next_if_eq(&idx).is_some()));
            let keep = BooleanArray::from_iter(keep);
            let filtered = arrow::compute::filter(deleted, &keep).expect("the mask is as long as the rows");
            *deleted = arrow::array::as_boolean_array(&filtered).clone();
        }
    }

    /// What is NULL but must not be. Of deleted rows only the key counts.
    fn null_faults(&self, columns: &[ArrayRef], deleted: Option<&BooleanArray>) -> Vec<(usize, Fault)> {
        let mut faults = Vec::new();
        for (idx, (column, field)) in columns.iter().zip(self.schema.fields()).enumerate() {
            let is_key = deleted.is_some() && self.primary_key.contains(&idx);
            if column.null_count() == 0 || (field.is_nullable() && !is_key) {
                continue;
            }
            for row_idx in (0..column.len()).filter(|row_idx| column.is_null(*row_idx)) {
                faults.push((row_idx, text::missing(field)));
            }
        }
        faults
    }

    fn batch(&self, columns: Vec<ArrayRef>, n_rows: usize) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        RecordBatch::try_new_with_options(partial_schema(&self.schema, &columns), columns, &options)
            .expect("the decoders make the declared types, and NULLs have been checked")
    }
}

impl KeyDecoder {
    fn new(
        spec: &SourceSpec<'_>,
        value_columns: &[usize],
        options: &JsonOptions,
        avro: Option<&AvroDecoder>,
    ) -> Result<Option<KeyDecoder>, ConnectorError> {
        let columns: Vec<usize> =
            spec.primary_key.iter().copied().filter(|idx| value_columns.contains(idx)).collect();
        if columns.is_empty() || spec.format != Format::Upsert {
            return Ok(None);
        }
        let fields: Fields = columns.iter().map(|idx| spec.schema.fields()[*idx].clone()).collect();
        let plain = match &fields[..] {
            [only] if text::is_parsable(only.data_type()) => Some(only.as_ref().clone()),
            _ => None,
        };
        let avro = avro.and_then(|avro| avro.with_columns(fields.clone()));
        Ok(Some(KeyDecoder { columns, json: JsonDecoder::new(options, fields)?, avro, plain }))
    }

    /// Keys with the id of a schema before them are Avro, the others JSON or text.
    fn decode(&self, keys: &[&[u8]]) -> Decoded {
        let Some(avro) = self.avro.as_ref().filter(|_| keys.iter().any(|key| avro::is_framed(key))) else {
            return self.decode_texts(keys);
        };
        let (framed, texts): (Vec<usize>, Vec<usize>) =
            (0..keys.len()).partition(|idx| avro::is_framed(keys[*idx]));
        let of = |idxs: &[usize]| -> Vec<&[u8]> { idxs.iter().map(|idx| keys[*idx]).collect() };
        let of_avro = avro.decode(&of(&framed)).at(&framed);
        if texts.is_empty() {
            return of_avro;
        }
        avro.merge(vec![of_avro, self.decode_texts(&of(&texts)).at(&texts)], Vec::new())
    }

    /// A key is a JSON object with the key's columns; where there is one column, it may also be a
    /// JSON string or number, or plain text.
    fn decode_texts(&self, keys: &[&[u8]]) -> Decoded {
        let is_object = |key: &[u8]| key.trim_ascii_start().first() == Some(&b'{');
        let Some(field) = &self.plain else {
            return self.json.decode(keys);
        };
        if keys.iter().all(|key| is_object(key)) {
            return self.json.decode(keys);
        }
        let unquoted = |key: &&[u8]| -> Option<Vec<u8>> {
            if is_object(key) {
                let object: serde_json::Value = serde_json::from_slice(key).ok()?;
                return match object.get(field.name())? {
                    serde_json::Value::String(text) => Some(text.clone().into_bytes()),
                    serde_json::Value::Null => None,
                    other => Some(other.to_string().into_bytes()),
                };
            }
            match serde_json::from_slice::<serde_json::Value>(key) {
                Ok(serde_json::Value::String(text)) => Some(text.into_bytes()),
                _ => Some(key.to_vec()),
            }
        };
        let texts: Vec<Option<Vec<u8>>> = keys.iter().map(unquoted).collect();
        let mut faults = Vec::new();
        let fields = texts.iter().map(|text| text.as_deref());
        let column = text::parse_column(field.name(), field.data_type(), fields, &mut faults);
        let mut decoded = Decoded { columns: vec![column], rows: (0..keys.len()).collect(), bad: Vec::new() };
        decoded.remove(faults);
        decoded
    }
}

impl Decoded {
    /// With the index of its record for that of its value.
    fn at(mut self, idxs: &[usize]) -> Decoded {
        self.rows.iter_mut().for_each(|idx| *idx = idxs[*idx]);
        self.bad.iter_mut().for_each(|(idx, _)| *idx = idxs[*idx]);
        self
    }
}

/// One value of the column's type that is not NULL: zero, or empty.
pub(crate) fn filler(column: &ArrayRef) -> ArrayRef {
    let nothing = arrow::array::new_null_array(column.data_type(), 1).to_data();
    let builder = nothing.into_builder().nulls(None);
    arrow::array::make_array(builder.build().expect("an array of zeros is valid without its NULLs"))
}
