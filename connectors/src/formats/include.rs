//! The columns of `INCLUDE`: what is known of a record beside its value.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, ListBuilder, StringBuilder, StructBuilder,
    TimestampMillisecondArray, new_null_array,
};
use arrow::compute::{can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::records::{Fault, Record, Records};
use crate::formats::text::{self, SAFE_CAST};
use crate::spec::{IncludeKind, SourceSpec, header_fields};

/// Refuses declared types that what is included cannot become.
pub fn check_types(spec: &SourceSpec<'_>) -> Result<(), ConnectorError> {
    for include in spec.include {
        let field = spec.schema.field(include.column_idx);
        let natural = include.kind.data_type();
        let possible = match natural {
            DataType::Binary => is_bytes(field.data_type()) || text::is_parsable(field.data_type()),
            _ => can_cast_types(&natural, field.data_type()),
        };
        if !possible {
            let (word, declared) = (include.kind.word(), field.data_type());
            let message = format!("INCLUDE {word} is {natural}, which cannot become {declared}");
            return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message));
        }
    }
    Ok(())
}

/// The column of one kind for the records that became rows.
pub fn column(
    kind: &IncludeKind,
    field: &Field,
    records: &Records<'_>,
    rows: &[usize],
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    let of_rows = || rows.iter().map(|idx| &records.records[*idx]);
    let natural: ArrayRef = match kind {
        IncludeKind::Key => {
            return bytes(
                field,
                rows,
                |idx| records.records[idx].key.as_ref().map(|key| records.get(key)),
                faults,
            );
        }
        IncludeKind::Header(Some(name)) => {
            return bytes(field, rows, |idx| last_header(records, idx, name), faults);
        }
        IncludeKind::Header(None) => all_headers(records, of_rows()),
        IncludeKind::Offset => Arc::new(Int64Array::from_iter_values(of_rows().map(|record| record.offset))),
        IncludeKind::Timestamp => {
            Arc::new(TimestampMillisecondArray::from_iter(of_rows().map(|record| record.timestamp_millis)))
        }
        IncludeKind::Partition => match records.partition {
            Some(partition) => Arc::new(Int32Array::from_value(partition, rows.len())),
            None => new_null_array(&DataType::Int32, rows.len()),
        },
        IncludeKind::File => {
            let mut builder = StringBuilder::new();
            rows.iter().for_each(|_| builder.append_option(records.file));
            Arc::new(builder.finish())
        }
    };
    cast_with_options(&natural, field.data_type(), &SAFE_CAST).expect("check_types has been asked")
}

/// A column of bytes as they are, or parsed as text.
fn bytes<'a>(
    field: &Field,
    rows: &[usize],
    get: impl Fn(usize) -> Option<&'a [u8]>,
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    if !is_bytes(field.data_type()) {
        return text::parse_column(field.name(), field.data_type(), rows.iter().map(|idx| get(*idx)), faults);
    }
    let mut builder = BinaryBuilder::new();
    rows.iter().for_each(|idx| builder.append_option(get(*idx)));
    cast_with_options(&builder.finish(), field.data_type(), &SAFE_CAST).expect("bytes are bytes")
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn last_header<'a>(records: &Records<'a>, idx: usize, name: &str) -> Option<&'a [u8]> {
    let headers = &records.headers[records.records[idx].headers.clone()];
    let last = headers.iter().rev().find(|header| records.get(&header.name) == name.as_bytes())?;
    last.value.as_ref().map(|value| records.get(value))
}

fn all_headers<'a>(records: &Records<'_>, of_rows: impl Iterator<Item = &'a Record>) -> ArrayRef {
    let item = Field::new_struct("item", header_fields(), false);
    let mut builder = ListBuilder::new(StructBuilder::from_fields(header_fields(), 0)).with_field(item);
    for record in of_rows {
        for header in &records.headers[record.headers.clone()] {
            let header_builder = builder.values();
            let name = String::from_utf8_lossy(records.get(&header.name));
            let names: &mut StringBuilder = header_builder.field_builder(0).expect("the first field is text");
            names.append_value(name);
            let values: &mut BinaryBuilder =
                header_builder.field_builder(1).expect("the second field is bytes");
            values.append_option(header.value.as_ref().map(|value| records.get(value)));
            header_builder.append(true);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}
