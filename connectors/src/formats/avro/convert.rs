//! Columns as Avro has them into their declared types.
//!
//! What Avro's own resolution allows is allowed, and besides: a smaller number where it fits, text
//! that reads as the declared type, and anything as text. What would lose a part of the value, as
//! a double where an integer is declared, is not.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, Scalar, StringArray, StructArray,
    new_null_array,
};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast_with_options, interleave, is_null};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, UnionFields};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_core::{PG_TYPE, SqlState};

use crate::formats::avro::columns::{column, is_uuid};
use crate::formats::changelog::json_lines;
use crate::formats::filler;
use crate::formats::records::Fault;
use crate::formats::text::{self, SAFE_CAST};

/// What is wrong with rows, by their index.
type Faults = Vec<(usize, Fault)>;

/// Brings a column into its declared type. Rows with faults are NULL, or anything.
pub fn convert(raw: &ArrayRef, from: &Field, to: &Field, unit: TimeUnit, faults: &mut Faults) -> ArrayRef {
    use DataType::*;
    match (from.data_type(), to.data_type()) {
        (Null, data_type) => new_null_array(data_type, raw.len()),
        (Union(branches, _), _) => convert_union(raw, branches, to, unit, faults),
        (FixedSizeBinary(16), data_type) if is_uuid(from) && is_text(data_type) => {
            cast_or_fault(&uuid_texts(raw), to, faults)
        }
        (List(from), List(item)) => convert_list(raw, from, item, unit, faults),
        (Struct(_), Struct(_)) => convert_struct(raw, to, unit, faults),
        (Map(_, _), Map(entries, sorted)) => convert_map(raw, entries, *sorted, unit, faults),
        (List(_) | Struct(_) | Map(_, _), data_type) if is_text(data_type) => {
            cast_or_fault(&json_texts(raw, from, unit, faults), to, faults)
        }
        (from, to) if from == to => raw.clone(),
        (Dictionary(_, _), _) => {
            let texts = cast_with_options(raw, &Utf8, &SAFE_CAST).expect("symbols are text");
            convert(&texts, &Field::new(from.name(), Utf8, true), to, unit, faults)
        }
        (Utf8, data_type) if !is_text(data_type) && text::is_parsable(data_type) => {
            parse_texts(raw, data_type, faults)
        }
        (Int32 | Int64, Timestamp(_, _)) if !is_uuid(from) => {
            let numbers = cast_with_options(raw, &Int64, &SAFE_CAST).expect("integers widen");
            let times = cast_with_options(&numbers, &Timestamp(unit, None), &SAFE_CAST);
            cast_or_fault(&times.expect("a count is a time"), to, faults)
        }
        (from, to_type) if is_possible(from, to_type) => cast_or_fault(raw, to, faults),
        (_, to_type) => {
            let fault = Fault::new(SqlState::DATATYPE_MISMATCH, format!("cannot become {to_type}"));
            faults.extend((0..raw.len()).filter(|idx| raw.is_valid(*idx)).map(|idx| (idx, fault.clone())));
            new_null_array(to_type, raw.len())
        }
    }
}

fn is_possible(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match from {
        _ if is_text(to) => true,
        Int32 if matches!(to, Date32) => true,
        Int32 | Int64 => to.is_numeric(),
        Float32 | Float64 => to.is_floating() || is_decimal(to),
        Decimal128(_, _) | Decimal256(_, _) => to.is_floating() || is_decimal(to),
        Binary | FixedSizeBinary(_) | Utf8 => is_bytes(to),
        Date32 => matches!(to, Date32 | Timestamp(_, _)),
        Time32(_) | Time64(_) => matches!(to, Time32(_) | Time64(_)),
        Timestamp(_, _) => matches!(to, Timestamp(_, _)),
        Interval(_) => matches!(to, Interval(_)),
        _ => false,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::BinaryView | DataType::LargeBinary)
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(_, _) | DataType::Decimal256(_, _))
}

/// Casts, with a fault for each value that does not fit.
fn cast_or_fault(raw: &ArrayRef, to: &Field, faults: &mut Faults) -> ArrayRef {
    let data_type = to.data_type();
    let Ok(cast) = cast_with_options(raw, data_type, &SAFE_CAST) else {
        let fault = Fault::new(SqlState::DATATYPE_MISMATCH, format!("cannot become {data_type}"));
        faults.extend((0..raw.len()).filter(|idx| raw.is_valid(*idx)).map(|idx| (idx, fault.clone())));
        return new_null_array(data_type, raw.len());
    };
    if cast.null_count() > raw.logical_null_count() {
        let options = FormatOptions::default();
        let texts = ArrayFormatter::try_new(raw.as_ref(), &options).expect("the type can be shown");
        for idx in (0..raw.len()).filter(|idx| cast.is_null(*idx) && raw.is_valid(*idx)) {
            let shown: String = texts.value(idx).to_string().chars().take(100).collect();
            let sqlstate = match raw.data_type() {
                from if from.is_numeric() => SqlState::NUMERIC_OUT_OF_RANGE,
                from if from.is_temporal() => SqlState::DATETIME_FORMAT,
                _ => SqlState::INVALID_TEXT,
            };
            faults.push((idx, Fault::new(sqlstate, format!("holds {shown}, which is no {data_type}"))));
        }
    }
    cast
}

fn parse_texts(raw: &ArrayRef, data_type: &DataType, faults: &mut Faults) -> ArrayRef {
    let texts = raw.as_string::<i32>();
    let texts = (0..texts.len()).map(|idx| texts.is_valid(idx).then(|| texts.value(idx).as_bytes()));
    let begin = faults.len();
    let parsed = text::parse_column("", data_type, texts, faults);
    for (_, fault) in &mut faults[begin..] {
        if let Some(what) = fault.reason.strip_prefix("column \"\": ") {
            fault.reason = format!("holds {what}");
        }
    }
    parsed
}

/// `…-…-…` out of sixteen bytes.
fn uuid_texts(raw: &ArrayRef) -> ArrayRef {
    let text = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    };
    Arc::new(StringArray::from_iter(raw.as_fixed_size_binary().iter().map(|bytes| bytes.map(text))))
}

/// Each branch becomes the declared type, and each row takes what its branch has become.
fn convert_union(
    raw: &ArrayRef,
    branches: &UnionFields,
    to: &Field,
    unit: TimeUnit,
    faults: &mut Faults,
) -> ArrayRef {
    let union = raw.as_union();
    let is_json = to.metadata().get(PG_TYPE).is_some_and(|name| name.starts_with("json"));
    let mut columns = vec![new_null_array(to.data_type(), 1)];
    // Of each branch its place among the columns and its faults.
    let mut by_id: HashMap<i8, (usize, HashMap<usize, Fault>)> = HashMap::new();
    for (type_id, branch) in branches.iter() {
        let mut found = Vec::new();
        let child = union.child(type_id);
        let column = match branch.data_type() {
            // A text is JSON only in its quotes.
            DataType::Utf8 | DataType::Dictionary(_, _) if is_json => {
                cast_or_fault(&json_texts(child, branch, unit, &mut found), to, &mut Vec::new())
            }
            _ => convert(child, branch, to, unit, &mut found),
        };
        by_id.insert(type_id, (columns.len(), found.into_iter().collect()));
        columns.push(column);
    }
    let mut places = Vec::with_capacity(union.len());
    for row_idx in 0..union.len() {
        let (column_idx, found) = &by_id[&union.type_id(row_idx)];
        let offset = union.value_offset(row_idx);
        faults.extend(found.get(&offset).map(|fault| (row_idx, fault.clone())));
        places.push(if columns[*column_idx].is_empty() { (0, 0) } else { (*column_idx, offset) });
    }
    let columns: Vec<&dyn Array> = columns.iter().map(|column| column.as_ref()).collect();
    interleave(&columns, &places).expect("all branches have become the declared type")
}

fn convert_list(
    raw: &ArrayRef,
    from: &Field,
    item: &FieldRef,
    unit: TimeUnit,
    faults: &mut Faults,
) -> ArrayRef {
    let list = raw.as_list::<i32>();
    let mut of_items = Vec::new();
    let items = convert(list.values(), from, item, unit, &mut of_items);
    let items = without_nulls(items, item, &mut of_items);
    to_rows(of_items, list.value_offsets(), faults);
    let nulls = list.nulls().cloned();
    Arc::new(ListArray::new(item.clone(), list.offsets().clone(), items, nulls))
}

/// Fields are matched by name, as columns are.
fn convert_struct(raw: &ArrayRef, to: &Field, unit: TimeUnit, faults: &mut Faults) -> ArrayRef {
    let (raw, DataType::Struct(fields)) = (raw.as_struct(), to.data_type()) else {
        unreachable!("called for structs only")
    };
    let mut found = Vec::new();
    let column = |field: &FieldRef| {
        let begin = found.len();
        let column = match raw.fields().iter().position(|from| from.name() == field.name()) {
            Some(idx) => convert(raw.column(idx), &raw.fields()[idx], field, unit, &mut found),
            None => new_null_array(field.data_type(), raw.len()),
        };
        let column = without_nulls(column, field, &mut found);
        for (_, fault) in &mut found[begin..] {
            fault.reason = format!("has \"{}\" that {}", field.name(), fault.reason);
        }
        column
    };
    let columns = fields.iter().map(column).collect();
    faults.extend(found.into_iter().filter(|(row_idx, _)| raw.is_valid(*row_idx)));
    Arc::new(
        StructArray::try_new_with_length(fields.clone(), columns, raw.nulls().cloned(), raw.len())
            .expect("the fields have their types"),
    )
}

fn convert_map(
    raw: &ArrayRef,
    entries: &FieldRef,
    sorted: bool,
    unit: TimeUnit,
    faults: &mut Faults,
) -> ArrayRef {
    let map = raw.as_map();
    let from = Field::new("entries", map.entries().data_type().clone(), false);
    // Entries are structs of two, of which the names may differ.
    let DataType::Struct(fields) = entries.data_type() else { unreachable!("entries are structs") };
    let DataType::Struct(of_map) = from.data_type() else { unreachable!("entries are structs") };
    let mut of_entries = Vec::new();
    let columns: Vec<ArrayRef> = (0..2)
        .map(|idx| {
            let column = map.entries().column(idx);
            let column = convert(column, &of_map[idx], &fields[idx], unit, &mut of_entries);
            without_nulls(column, &fields[idx], &mut of_entries)
        })
        .collect();
    to_rows(of_entries, map.value_offsets(), faults);
    let converted = StructArray::new(fields.clone(), columns, None);
    Arc::new(MapArray::new(entries.clone(), map.offsets().clone(), converted, map.nulls().cloned(), sorted))
}

/// Tells the rows about the faults of their items. `offsets` say where each row's items begin.
fn to_rows(mut of_items: Faults, offsets: &[i32], faults: &mut Faults) {
    of_items.sort_by_key(|(idx, _)| *idx);
    for (idx, fault) in of_items {
        let row_idx = offsets.partition_point(|offset| *offset as usize <= idx) - 1;
        faults.push((row_idx, fault));
    }
}

/// A nested column without NULLs where none may be: their rows have faults.
fn without_nulls(column: ArrayRef, field: &Field, faults: &mut Faults) -> ArrayRef {
    if field.is_nullable() || column.null_count() == 0 {
        return column;
    }
    for idx in (0..column.len()).filter(|idx| column.is_null(*idx)) {
        faults.push((idx, Fault::new(SqlState::NOT_NULL_VIOLATION, "is NULL but must not be")));
    }
    let missing = is_null(&column).expect("a column has NULLs or not");
    zip(&missing, &Scalar::new(filler(&column)), &column).expect("the filler has the column's type")
}

/// Nested values as JSON texts.
fn json_texts(raw: &ArrayRef, from: &Field, unit: TimeUnit, faults: &mut Faults) -> ArrayRef {
    let shown = column(&Arc::new(from.clone())).with_name("v").with_nullable(true);
    let values = convert(raw, from, &shown, unit, faults);
    let batch = RecordBatch::try_from_iter_with_nullable([("v", values, true)]);
    let lines = batch.and_then(|batch| json_lines(&batch));
    let Ok(lines) = lines else {
        let fault = Fault::new(SqlState::DATATYPE_MISMATCH, "cannot be written as JSON");
        faults.extend((0..raw.len()).map(|idx| (idx, fault.clone())));
        return new_null_array(&DataType::Utf8, raw.len());
    };
    // {"v":…}, one a line.
    let lines = lines.split(|byte| *byte == b'\n').take(raw.len()).enumerate();
    let texts = lines.map(|(idx, line)| {
        let value = &line[br#"{"v":"#.len()..line.len() - 1];
        raw.is_valid(idx).then(|| std::str::from_utf8(value).expect("JSON is UTF-8"))
    });
    Arc::new(StringArray::from_iter(texts))
}
