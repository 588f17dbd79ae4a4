//! Rows as the text that `COPY … FROM STDIN` reads.
//!
//! PostgreSQL parses the text as the type of its column, so one way of writing serves all types that the column may have:
//! `bigint` goes into `numeric`, `text` into an enum.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use std::fmt::Write;
use tidemill_core::PG_TYPE;

/// The PostgreSQL type of a column, as DDL names it.
pub fn pg_type(field: &Field) -> String {
    if let Some(name) = field.metadata().get(PG_TYPE)
        && !(field.data_type().is_numeric() && ["json", "jsonb", "uuid"].contains(&name.as_str()))
    {
        return name.clone();
    }
    let name = match field.data_type() {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::UInt64 => "numeric",
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "numeric",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "bytea"
        }
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        DataType::Dictionary(_, values) => return pg_type(&Field::new("", values.as_ref().clone(), true)),
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => "jsonb",
        _ => match element(field.data_type()) {
            Some(_) if is_json(field.data_type()) => "jsonb",
            // An array of arrays is one of more dimensions.
            Some(element) => return format!("{}[]", pg_type(element).trim_end_matches("[]")),
            None => "text",
        },
    };
    name.to_string()
}

fn element(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => Some(element),
        _ => None,
    }
}

/// Whether values are written as JSON: PostgreSQL has no type for them, or needs a declaration first.
fn is_json(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => true,
        _ => element(data_type).is_some_and(|element| is_json(element.data_type())),
    }
}

/// Writes the values of a column, one at a time.
enum Writer<'a> {
    Display(ArrayFormatter<'a>),
    Bytes(Vec<Option<&'a [u8]>>),
    /// Months, days and nanoseconds.
    Interval(Vec<Option<(i32, i32, i64)>>),
    Json(NullableEncoder<'a>),
    List {
        offsets: Vec<(usize, usize)>,
        elements: Box<Column<'a>>,
    },
}

struct Column<'a> {
    array: &'a dyn Array,
    writer: Writer<'a>,
}

/// What columns borrow from: arrays in the few layouts that are written.
pub struct Columns {
    fields: Vec<FieldRef>,
    arrays: Vec<ArrayRef>,
    json: EncoderOptions,
}

impl Columns {
    pub fn new(fields: &[FieldRef], arrays: &[ArrayRef]) -> Result<Columns, ArrowError> {
        let arrays =
            arrays.iter().map(|array| cast(array, &plain(array.data_type()))).collect::<Result<_, _>>()?;
        let json = EncoderOptions::default().with_explicit_nulls(true);
        Ok(Columns { fields: fields.to_vec(), arrays, json })
    }

    /// Writes rows as lines behind `prefix`, of which there is one for each.
    pub fn write(&self, prefixes: &[String], out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let mut columns = Vec::new();
        for (field, array) in self.fields.iter().zip(&self.arrays) {
            columns.push(Column::new(field, array.as_ref(), &self.json)?);
        }
        let mut value = String::new();
        for (row_idx, prefix) in prefixes.iter().enumerate() {
            out.extend(prefix.as_bytes());
            for (column_idx, column) in columns.iter_mut().enumerate() {
                if column_idx > 0 {
                    out.push(b'\t');
                }
                if column.array.is_null(row_idx) {
                    out.extend(b"\\N");
                    continue;
                }
                value.clear();
                column.write(row_idx, &mut value)?;
                escape(&value, out);
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

/// The layout that a type is written from.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Duration(_) => DataType::Duration(TimeUnit::Microsecond),
        DataType::Dictionary(_, values) => plain(values),
        other if is_json(other) => other.clone(),
        other => match element(other) {
            Some(field) => {
                let element = Field::new(field.name(), plain(field.data_type()), true);
                DataType::List(element.with_metadata(field.metadata().clone()).into())
            }
            None => other.clone(),
        },
    }
}

impl<'a> Column<'a> {
    fn new(
        field: &'a FieldRef,
        array: &'a dyn Array,
        json: &'a EncoderOptions,
    ) -> Result<Column<'a>, ArrowError> {
        let writer = match array.data_type() {
            DataType::Binary => Writer::Bytes(array.as_binary::<i32>().iter().collect()),
            DataType::Interval(_) => {
                let values = array.as_primitive::<arrow::datatypes::IntervalMonthDayNanoType>();
                Writer::Interval(
                    values.iter().map(|v| v.map(|v| (v.months, v.days, v.nanoseconds))).collect(),
                )
            }
            DataType::Duration(_) => {
                let values = array.as_primitive::<arrow::datatypes::DurationMicrosecondType>();
                Writer::Interval(values.iter().map(|v| v.map(|v| (0, 0, v.saturating_mul(1000)))).collect())
            }
            data_type if is_json(data_type) => Writer::Json(make_encoder(field, array, json)?),
            DataType::List(element) => {
                let list = array.as_list::<i32>();
                let offsets =
                    list.offsets().windows(2).map(|pair| (pair[0] as usize, pair[1] as usize)).collect();
                let elements = Column::new(element, list.values().as_ref(), json)?;
                Writer::List { offsets, elements: Box::new(elements) }
            }
            _ => {
                const OPTIONS: FormatOptions<'static> = FormatOptions::new();
                Writer::Display(ArrayFormatter::try_new(array, &OPTIONS)?)
            }
        };
        Ok(Column { array, writer })
    }

    fn write(&mut self, idx: usize, out: &mut String) -> Result<(), ArrowError> {
        match &mut self.writer {
            Writer::Display(values) => write!(out, "{}", values.value(idx)).map_err(|_| unwritable())?,
            Writer::Bytes(values) => {
                out.push_str("\\x");
                for byte in values[idx].unwrap_or_default() {
                    write!(out, "{byte:02x}").map_err(|_| unwritable())?;
                }
            }
            Writer::Interval(values) => {
                let (months, days, nanos) = values[idx].unwrap_or_default();
                let micros = nanos / 1000;
                write!(out, "{months} months {days} days {micros} microseconds").map_err(|_| unwritable())?;
            }
            Writer::Json(encoder) => {
                let mut json = Vec::new();
                encoder.encode(idx, &mut json);
                out.push_str(&String::from_utf8_lossy(&json));
            }
            Writer::List { offsets, elements } => {
                let (begin, end) = offsets[idx];
                let is_nested = matches!(elements.writer, Writer::List { .. });
                out.push('{');
                let mut value = String::new();
                for element_idx in begin..end {
                    if element_idx > begin {
                        out.push(',');
                    }
                    if elements.array.is_null(element_idx) {
                        out.push_str("NULL");
                        continue;
                    }
                    value.clear();
                    elements.write(element_idx, &mut value)?;
                    if is_nested {
                        out.push_str(&value);
                    } else {
                        out.push('"');
                        for c in value.chars() {
                            if matches!(c, '"' | '\\') {
                                out.push('\\');
                            }
                            out.push(c);
                        }
                        out.push('"');
                    }
                }
                out.push('}');
            }
        }
        Ok(())
    }
}

fn unwritable() -> ArrowError {
    ArrowError::CastError("a value cannot be written as text".to_string())
}

/// As `COPY`'s text format has it.
fn escape(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            byte => out.push(byte),
        }
    }
}
