//! Columns out of text fields, as CSV and message keys have them.
//!
//! A whole column is parsed at once; what does not parse becomes NULL together with a fault, so
//! that one bad field costs its record and not the batch.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, NullArray, PrimitiveBuilder, StringBuilder};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit,
};
use arrow::util::display::FormatOptions;
use tidemill_core::SqlState;

use crate::formats::records::Fault;

/// Casts that give NULL instead of an error; times of day and dates in ISO forms.
pub const SAFE_CAST: CastOptions<'static> = CastOptions { safe: true, format_options: FormatOptions::new() };

/// Whether text can become this type.
pub fn is_parsable(data_type: &DataType) -> bool {
    can_cast_types(&DataType::Utf8, data_type)
}

/// Parses one field of each row; the faults carry the index of their row.
pub fn parse_column<'a>(
    name: &str,
    data_type: &DataType,
    fields: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    match data_type {
        DataType::Int8 => parse_numbers::<Int8Type>(name, data_type, fields, faults),
        DataType::Int16 => parse_numbers::<Int16Type>(name, data_type, fields, faults),
        DataType::Int32 => parse_numbers::<Int32Type>(name, data_type, fields, faults),
        DataType::Int64 => parse_numbers::<Int64Type>(name, data_type, fields, faults),
        DataType::Float32 => parse_numbers::<Float32Type>(name, data_type, fields, faults),
        DataType::Float64 => parse_numbers::<Float64Type>(name, data_type, fields, faults),
        DataType::Timestamp(_, _) => parse_timestamps(name, data_type, None, fields, faults),
        _ => parse_by_cast(name, data_type, fields, faults),
    }
}

/// Parses timestamps in ISO 8601 forms; those without zone are in the column's, or in UTC. Whole
/// numbers count `epoch_unit`s since 1970, where that is given.
pub fn parse_timestamps<'a>(
    name: &str,
    data_type: &DataType,
    epoch_unit: Option<TimeUnit>,
    fields: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    let DataType::Timestamp(unit, zone) = data_type else { unreachable!("called for timestamps only") };
    let zone: Result<Tz, _> = zone.as_deref().unwrap_or("+00:00").parse();
    let Ok(zone) = zone else {
        return parse_by_cast(name, data_type, fields, faults);
    };
    let mut builder = PrimitiveBuilder::<Int64Type>::with_capacity(fields.len());
    for (row_idx, field) in fields.enumerate() {
        let text = match field.map(<[u8]>::trim_ascii) {
            None | Some([]) => {
                builder.append_null();
                continue;
            }
            Some(text) => text,
        };
        let number =
            epoch_unit.and_then(|from| Some((from, Int64Type::parse(std::str::from_utf8(text).ok()?)?)));
        let value = match number {
            Some((from, number)) => convert(number, from, unit),
            None => parse_iso(&zone, text, unit),
        };
        match value {
            Some(value) => builder.append_value(value),
            None => {
                faults.push((row_idx, invalid(name, data_type, text)));
                builder.append_null();
            }
        }
    }
    let column = builder.finish();
    cast_with_options(&column, data_type, &SAFE_CAST).expect("integers are the values of timestamps")
}

fn parse_iso(zone: &Tz, text: &[u8], unit: &TimeUnit) -> Option<i64> {
    let time = string_to_datetime(zone, std::str::from_utf8(text).ok()?).ok()?;
    match unit {
        TimeUnit::Second => Some(time.timestamp()),
        TimeUnit::Millisecond => Some(time.timestamp_millis()),
        TimeUnit::Microsecond => Some(time.timestamp_micros()),
        TimeUnit::Nanosecond => time.timestamp_nanos_opt(),
    }
}

/// A count of one unit as a count of another; `None` where it is too large.
fn convert(number: i64, from: TimeUnit, to: &TimeUnit) -> Option<i64> {
    let per_second = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 1i128,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    i64::try_from((i128::from(number) * per_second(to)).div_euclid(per_second(&from))).ok()
}

fn parse_numbers<'a, T: ArrowPrimitiveType + Parser>(
    name: &str,
    data_type: &DataType,
    fields: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(fields.len());
    for (row_idx, field) in fields.enumerate() {
        // Surrounding blanks never mean anything in a number, and an empty one is none.
        match field.map(<[u8]>::trim_ascii) {
            None | Some([]) => builder.append_null(),
            Some(text) => match std::str::from_utf8(text).ok().and_then(T::parse) {
                Some(value) => builder.append_value(value),
                None => {
                    faults.push((row_idx, invalid(name, data_type, text)));
                    builder.append_null();
                }
            },
        }
    }
    Arc::new(builder.finish())
}

/// Finds in a column of texts that nobody reads what makes a record bad. There is nothing to read in the array.
pub fn check_texts<'a>(
    column: &Field,
    fields: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    let n_rows = fields.len();
    for (row_idx, field) in fields.enumerate() {
        match field {
            None if !column.is_nullable() => faults.push((row_idx, missing(column))),
            Some(text) if !text.is_ascii() && std::str::from_utf8(text).is_err() => {
                faults.push((row_idx, not_utf8(column.name())));
            }
            _ => (),
        }
    }
    Arc::new(NullArray::new(n_rows))
}

/// The fault of a NULL where none may be.
pub fn missing(column: &Field) -> Fault {
    let reason = format!("column \"{}\" is NULL but must not be", column.name());
    Fault::new(SqlState::NOT_NULL_VIOLATION, reason)
}

fn not_utf8(column: &str) -> Fault {
    Fault::new(SqlState::INVALID_TEXT, format!("column \"{column}\": text is not valid UTF-8"))
}

/// By way of a string column and Arrow's cast, which knows every type.
fn parse_by_cast<'a>(
    name: &str,
    data_type: &DataType,
    fields: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    faults: &mut Vec<(usize, Fault)>,
) -> ArrayRef {
    let is_text = matches!(
        data_type,
        DataType::Utf8
            | DataType::Utf8View
            | DataType::LargeUtf8
            | DataType::Binary
            | DataType::BinaryView
            | DataType::LargeBinary
    );
    let mut builder = StringBuilder::with_capacity(fields.len(), fields.len() * 16);
    for (row_idx, field) in fields.enumerate() {
        let field =
            if is_text { field } else { field.map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()) };
        match field.map(std::str::from_utf8) {
            None => builder.append_null(),
            Some(Ok(text)) => builder.append_value(text),
            Some(Err(_)) => {
                faults.push((row_idx, not_utf8(name)));
                builder.append_null();
            }
        }
    }
    let texts = builder.finish();
    if data_type == &DataType::Utf8 {
        return Arc::new(texts);
    }
    let column = cast_with_options(&texts, data_type, &SAFE_CAST).expect("is_parsable has been asked");
    if column.null_count() > texts.null_count() {
        for row_idx in 0..texts.len() {
            if column.is_null(row_idx) && texts.is_valid(row_idx) {
                faults.push((row_idx, invalid(name, data_type, texts.value(row_idx).as_bytes())));
            }
        }
    }
    column
}

/// The fault of a field that is not of its type.
fn invalid(name: &str, data_type: &DataType, text: &[u8]) -> Fault {
    let sqlstate = match data_type {
        data_type if data_type.is_temporal() => SqlState::DATETIME_FORMAT,
        _ => SqlState::INVALID_TEXT,
    };
    let text = String::from_utf8_lossy(&text[..text.len().min(100)]);
    Fault::new(sqlstate, format!("column \"{name}\": \"{text}\" is not a valid {data_type}"))
}
