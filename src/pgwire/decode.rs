//! Postgres values, in text and in binary, as Arrow columns: parameters and `COPY … FROM STDIN`.
//!
//! A whole column is decoded at once; a parameter is a column of one row. What is accepted is what
//! PostgreSQL's input functions accept with `DateStyle = ISO, MDY`, save for dates written with
//! month names and for time zones by name.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, LargeListArray, ListArray, PrimitiveArray, PrimitiveBuilder,
    StringArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, FieldRef, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type, i256,
};
use bytes::{Buf, BufMut, BytesMut};
use datafusion::common::ScalarValue;
use tidemill_core::SqlState;

use crate::pgwire::encode::{
    Format, Interval, POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS, put_numeric_scaled,
};
use crate::pgwire::error::{DATETIME_OVERFLOW, INVALID_BINARY, INVALID_CHARACTERS};
use crate::pgwire::text_format::declared_text;
use crate::pgwire::types::{arrow_type, element_of};
use crate::session::api::{PgType, SqlError};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// A value that does not decode, and its row.
#[derive(Debug)]
pub(crate) struct ValueError {
    pub(crate) row_idx: usize,
    pub(crate) error: SqlError,
}

impl ValueError {
    fn whole(error: SqlError) -> Self {
        ValueError { row_idx: 0, error }
    }
}

/// A parameter of `Bind`.
pub fn parameter(value: Option<&[u8]>, format: Format, pg: &PgType) -> Result<ScalarValue, SqlError> {
    if *pg == PgType::NUMERIC {
        let text = match (value, format) {
            (None, _) => return Ok(ScalarValue::Decimal128(None, 38, 10)),
            (Some(value), Format::Text) => utf8(value)?.to_owned(),
            (Some(value), Format::Binary) => numeric_text(value)?,
        };
        return Numeric::parse(&text)?.scalar(&text);
    }
    let data_type = arrow_type(pg).unwrap_or(DataType::Utf8);
    let Some(value) = value else {
        return ScalarValue::try_from(&data_type).map_err(SqlError::from_datafusion);
    };
    let column = match format {
        Format::Text => {
            let text = utf8(value)?;
            // As columns of the type keep them.
            let text = match *pg {
                PgType::UUID => declared_text(text, "uuid")?,
                PgType::JSONB => declared_text(text, "jsonb")?,
                _ => text.to_owned(),
            };
            text_column(&StringArray::from(vec![text]), &data_type)
        }
        Format::Binary => binary_column(&BinaryArray::from(vec![value]), pg, &data_type),
    };
    let column = column.map_err(|value_error| value_error.error)?;
    ScalarValue::try_from_array(&column, 0).map_err(SqlError::from_datafusion)
}

pub(crate) fn utf8(value: &[u8]) -> Result<&str, SqlError> {
    let invalid = |byte: u8| {
        let message = format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}");
        SqlError::new(INVALID_CHARACTERS, message)
    };
    let text = std::str::from_utf8(value).map_err(|error| invalid(value[error.valid_up_to()]))?;
    if value.contains(&0) {
        return Err(invalid(0));
    }
    Ok(text)
}

// ---- Text ----------------------------------------------------------------------------------

/// A column of `data_type` from the text of its values.
pub(crate) fn text_column(values: &StringArray, data_type: &DataType) -> Result<ArrayRef, ValueError> {
    let array: ArrayRef = match data_type {
        DataType::Boolean => {
            let mut parsed = Vec::with_capacity(values.len());
            for (row_idx, value) in values.iter().enumerate() {
                let value = value.map(parse_bool).transpose();
                parsed.push(value.map_err(|error| ValueError { row_idx, error })?);
            }
            Arc::new(BooleanArray::from(parsed))
        }
        DataType::Int8 => primitive::<Int8Type>(values, data_type, |v| integer(v, "smallint"))?,
        DataType::Int16 => primitive::<Int16Type>(values, data_type, |v| integer(v, "smallint"))?,
        DataType::Int32 => primitive::<Int32Type>(values, data_type, |v| integer(v, "integer"))?,
        DataType::Int64 => primitive::<Int64Type>(values, data_type, |v| integer(v, "bigint"))?,
        DataType::UInt8 => primitive::<UInt8Type>(values, data_type, |v| integer(v, "smallint"))?,
        DataType::UInt16 => primitive::<UInt16Type>(values, data_type, |v| integer(v, "integer"))?,
        DataType::UInt32 => primitive::<UInt32Type>(values, data_type, |v| integer(v, "bigint"))?,
        DataType::UInt64 => primitive::<UInt64Type>(values, data_type, |v| integer(v, "numeric"))?,
        DataType::Float16 => {
            let wide = primitive::<Float32Type>(values, &DataType::Float32, |v| float(v, "real"))?;
            cast_whole(&wide, data_type)?
        }
        DataType::Float32 => primitive::<Float32Type>(values, data_type, |v| float(v, "real"))?,
        DataType::Float64 => primitive::<Float64Type>(values, data_type, |v| float(v, "double precision"))?,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            let wide = DataType::Decimal128(*precision, *scale);
            cast_whole(&text_column(values, &wide)?, data_type)?
        }
        DataType::Decimal128(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            primitive::<Decimal128Type>(values, data_type, |v| {
                let digits = Numeric::parse(v)?.at_scale(scale.into(), precision, v)?;
                Ok(digits.parse().expect("digits within the precision are a number"))
            })?
        }
        DataType::Decimal256(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            primitive::<Decimal256Type>(values, data_type, |v| {
                let digits = Numeric::parse(v)?.at_scale(scale.into(), precision, v)?;
                Ok(i256::from_string(&digits).expect("digits within the precision are a number"))
            })?
        }
        DataType::Date32 => primitive::<Date32Type>(values, data_type, parse_date)?,
        DataType::Date64 => {
            cast_whole(&primitive::<Date32Type>(values, &DataType::Date32, parse_date)?, data_type)?
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            let micros = DataType::Time64(TimeUnit::Microsecond);
            let times = primitive::<Time64MicrosecondType>(values, &micros, parse_time)?;
            cast_whole(&times, data_type)?
        }
        DataType::Timestamp(_, zone) => {
            // The cast between units must not shift: the zone of the microseconds is the target's.
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            let zoned = zone.is_some();
            let times =
                primitive::<TimestampMicrosecondType>(values, &micros, |v| parse_timestamp(v, zoned))?;
            cast_whole(&times, data_type)?
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            primitive::<IntervalMonthDayNanoType>(values, data_type, |v| to_arrow(parse_interval(v)?, v))?
        }
        DataType::Utf8 => Arc::new(values.clone()),
        DataType::LargeUtf8 | DataType::Utf8View => {
            cast_whole(&(Arc::new(values.clone()) as ArrayRef), data_type)?
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let uuid = *data_type == DataType::FixedSizeBinary(16);
            let mut parsed: Vec<Option<Vec<u8>>> = Vec::with_capacity(values.len());
            for (row_idx, value) in values.iter().enumerate() {
                let value = value.map(|value| match uuid && !value.starts_with("\\x") {
                    true => parse_uuid(value).map(Vec::from),
                    false => parse_bytea(value),
                });
                parsed.push(value.transpose().map_err(|error| ValueError { row_idx, error })?);
            }
            let bytes: ArrayRef = Arc::new(BinaryArray::from_iter(parsed));
            cast_whole(&bytes, data_type)?
        }
        DataType::List(field) | DataType::LargeList(field) => {
            let mut rows = Vec::with_capacity(values.len());
            for (row_idx, value) in values.iter().enumerate() {
                let items = value.map(parse_array).transpose();
                rows.push(items.map_err(|error| ValueError { row_idx, error })?);
            }
            list_column(rows, field, matches!(data_type, DataType::LargeList(_)))?
        }
        DataType::Dictionary(_, value) => cast_whole(&text_column(values, value)?, data_type)?,
        DataType::Null if values.null_count() == values.len() => {
            arrow::array::new_null_array(data_type, values.len())
        }
        data_type => {
            let message = format!("cannot read values of type {data_type}");
            return Err(ValueError::whole(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)));
        }
    };
    Ok(array)
}

fn primitive<T: ArrowPrimitiveType>(
    values: &StringArray,
    data_type: &DataType,
    parse: impl Fn(&str) -> Result<T::Native, SqlError>,
) -> Result<ArrayRef, ValueError> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(values.len());
    for (row_idx, value) in values.iter().enumerate() {
        let value = value.map(&parse).transpose();
        builder.append_option(value.map_err(|error| ValueError { row_idx, error })?);
    }
    Ok(Arc::new(builder.finish().with_data_type(data_type.clone())))
}

fn cast_whole(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ValueError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, data_type, &options)
        .map_err(|error| ValueError::whole(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, error.to_string())))
}

/// `items` per row, of which some are lists themselves.
fn list_column(rows: Vec<Option<Vec<Item>>>, field: &FieldRef, large: bool) -> Result<ArrayRef, ValueError> {
    let nulls: NullBuffer = rows.iter().map(Option::is_some).collect();
    let lengths: Vec<usize> = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len)).collect();
    let owners: Vec<usize> = lengths
        .iter()
        .enumerate()
        .flat_map(|(row_idx, length)| std::iter::repeat_n(row_idx, *length))
        .collect();
    let items = rows.into_iter().flatten().flatten();
    let malformed = |item_idx: usize| ValueError {
        row_idx: owners[item_idx],
        error: SqlError::new(SqlState::INVALID_TEXT, "array has another number of dimensions")
            .with_detail(format!("Elements are of type {}.", field.data_type())),
    };
    let owned = |error: ValueError| ValueError {
        row_idx: owners.get(error.row_idx).copied().unwrap_or(0),
        error: error.error,
    };
    let child = match field.data_type() {
        DataType::List(inner) | DataType::LargeList(inner) => {
            let mut lists = Vec::with_capacity(owners.len());
            for (item_idx, item) in items.enumerate() {
                lists.push(match item {
                    Item::List(items) => Some(items),
                    Item::Null => None,
                    Item::Text(_) => return Err(malformed(item_idx)),
                });
            }
            let inner_is_large = matches!(field.data_type(), DataType::LargeList(_));
            list_column(lists, inner, inner_is_large).map_err(owned)?
        }
        element => {
            let mut texts = Vec::with_capacity(owners.len());
            for (item_idx, item) in items.enumerate() {
                texts.push(match item {
                    Item::Text(text) => Some(text),
                    Item::Null => None,
                    Item::List(_) => return Err(malformed(item_idx)),
                });
            }
            text_column(&StringArray::from(texts), element).map_err(owned)?
        }
    };
    Ok(list_array(field, &lengths, child, nulls, large))
}

fn list_array(
    field: &FieldRef,
    lengths: &[usize],
    child: ArrayRef,
    nulls: NullBuffer,
    large: bool,
) -> ArrayRef {
    let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
    let lengths = lengths.iter().copied();
    let field = Arc::clone(field);
    if large {
        Arc::new(LargeListArray::new(field, OffsetBuffer::from_lengths(lengths), child, nulls))
    } else {
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), child, nulls))
    }
}

// ---- Binary --------------------------------------------------------------------------------

/// A column of `data_type` from values of the Postgres type `pg` in binary.
pub(crate) fn binary_column(
    values: &BinaryArray,
    pg: &PgType,
    data_type: &DataType,
) -> Result<ArrayRef, ValueError> {
    let array: ArrayRef = match *pg {
        PgType::BOOL => {
            let mut parsed = Vec::with_capacity(values.len());
            for (row_idx, value) in values.iter().enumerate() {
                let value = value.map(|value| fixed::<1>(value).map(|[byte]| byte != 0));
                parsed.push(value.transpose().map_err(|error| ValueError { row_idx, error })?);
            }
            Arc::new(BooleanArray::from(parsed))
        }
        PgType::INT2 => binary_values::<Int64Type>(values, |v| Ok(i16::from_be_bytes(fixed(v)?).into()))?,
        PgType::INT4 => binary_values::<Int64Type>(values, |v| Ok(i32::from_be_bytes(fixed(v)?).into()))?,
        PgType::INT8 => binary_values::<Int64Type>(values, |v| Ok(i64::from_be_bytes(fixed(v)?)))?,
        PgType::OID | PgType::XID | PgType::CID => {
            binary_values::<Int64Type>(values, |v| Ok(u32::from_be_bytes(fixed(v)?).into()))?
        }
        PgType::FLOAT4 => binary_values::<Float32Type>(values, |v| Ok(f32::from_be_bytes(fixed(v)?)))?,
        PgType::FLOAT8 => binary_values::<Float64Type>(values, |v| Ok(f64::from_be_bytes(fixed(v)?)))?,
        PgType::DATE => binary_values::<Date32Type>(values, |v| match i32::from_be_bytes(fixed(v)?) {
            infinite @ (i32::MAX | i32::MIN) => Ok(infinite),
            days => days.checked_add(POSTGRES_EPOCH_DAYS).ok_or_else(invalid_binary),
        })?,
        PgType::TIME => {
            binary_values::<Time64MicrosecondType>(values, |v| Ok(i64::from_be_bytes(fixed(v)?)))?
        }
        PgType::TIMESTAMP | PgType::TIMESTAMPTZ => {
            let zone = match data_type {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let times =
                binary_values::<TimestampMicrosecondType>(values, |v| match i64::from_be_bytes(fixed(v)?) {
                    infinite @ (i64::MAX | i64::MIN) => Ok(infinite),
                    micros => micros.checked_add(POSTGRES_EPOCH_MICROS).ok_or_else(invalid_binary),
                })?;
            // An instant stays the same instant whatever zone it is shown in.
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone);
            let times = times.to_data().into_builder().data_type(micros).build();
            arrow::array::make_array(times.map_err(|error| {
                ValueError::whole(SqlError::new(SqlState::INTERNAL_ERROR, error.to_string()))
            })?)
        }
        PgType::INTERVAL => binary_values::<IntervalMonthDayNanoType>(values, |v| {
            let mut v = &fixed::<16>(v)?[..];
            let micros = v.get_i64();
            let days = v.get_i32();
            let months = v.get_i32();
            to_arrow(Interval { months, days, micros }, "interval")
        })?,
        PgType::NUMERIC => {
            return text_column(&texts(values, |v| numeric_text(v).map(Some))?, data_type);
        }
        PgType::BYTEA => Arc::new(values.clone()),
        PgType::UUID => {
            let texts = texts(values, |v| Ok(Some(uuid_text(&fixed::<16>(v)?))))?;
            return text_column(&texts, data_type);
        }
        PgType::JSONB => {
            let texts = texts(values, |v| match v.split_first() {
                Some((1, text)) => declared_text(utf8(text)?, "jsonb").map(Some),
                _ => Err(invalid_binary()),
            })?;
            return text_column(&texts, data_type);
        }
        _ => match (element_of(pg), data_type) {
            (Some(element), DataType::List(field) | DataType::LargeList(field)) => {
                let large = matches!(data_type, DataType::LargeList(_));
                return binary_list(values, &element, field, large);
            }
            (Some(_), _) => {
                let message = format!("cannot read binary {} as {data_type}", pg.name());
                return Err(ValueError::whole(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)));
            }
            (None, _) => {
                let texts = texts(values, |v| Ok(Some(utf8(v)?.to_owned())))?;
                return text_column(&texts, data_type);
            }
        },
    };
    if array.data_type() == data_type { Ok(array) } else { cast_whole(&array, data_type) }
}

fn binary_values<T: ArrowPrimitiveType>(
    values: &BinaryArray,
    parse: impl Fn(&[u8]) -> Result<T::Native, SqlError>,
) -> Result<ArrayRef, ValueError> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(values.len());
    for (row_idx, value) in values.iter().enumerate() {
        let value = value.map(&parse).transpose();
        builder.append_option(value.map_err(|error| ValueError { row_idx, error })?);
    }
    let array: PrimitiveArray<T> = builder.finish();
    Ok(Arc::new(array))
}

fn texts(
    values: &BinaryArray,
    parse: impl Fn(&[u8]) -> Result<Option<String>, SqlError>,
) -> Result<StringArray, ValueError> {
    let mut texts: Vec<Option<String>> = Vec::with_capacity(values.len());
    for (row_idx, value) in values.iter().enumerate() {
        let text = value.map(&parse).transpose();
        texts.push(text.map_err(|error| ValueError { row_idx, error })?.flatten());
    }
    Ok(StringArray::from(texts))
}

/// Arrays of one dimension.
fn binary_list(
    values: &BinaryArray,
    element: &PgType,
    field: &FieldRef,
    large: bool,
) -> Result<ArrayRef, ValueError> {
    let mut lengths = Vec::with_capacity(values.len());
    let mut elements: Vec<Option<&[u8]>> = Vec::new();
    let mut owners = Vec::new();
    for (row_idx, value) in values.iter().enumerate() {
        let before = elements.len();
        if let Some(value) = value {
            read_elements(value, element, &mut elements).map_err(|error| ValueError { row_idx, error })?;
        }
        owners.resize(elements.len(), row_idx);
        lengths.push(elements.len() - before);
    }
    let elements = BinaryArray::from_iter(elements);
    let child = binary_column(&elements, element, field.data_type()).map_err(|error| {
        let row_idx = owners.get(error.row_idx).copied().unwrap_or(0);
        ValueError { row_idx, error: error.error }
    })?;
    let nulls = (0..values.len()).map(|row_idx| values.is_valid(row_idx)).collect();
    Ok(list_array(field, &lengths, child, nulls, large))
}

fn read_elements<'a>(
    mut value: &'a [u8],
    element: &PgType,
    elements: &mut Vec<Option<&'a [u8]>>,
) -> Result<(), SqlError> {
    let int = |value: &mut &'a [u8]| value.try_get_i32().map_err(|_| invalid_binary());
    let n_dimensions = int(&mut value)?;
    int(&mut value)?; // Whether there are nulls; they show.
    let oid = int(&mut value)? as u32;
    if oid != element.oid() {
        let message = format!("array of elements of type {oid} is not one of {}", element.name());
        return Err(SqlError::new(SqlState::DATATYPE_MISMATCH, message));
    }
    let length = match n_dimensions {
        0 => return Ok(()),
        1 => int(&mut value)?,
        _ => {
            let message = "binary arrays of several dimensions are not read";
            return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("Send the array in text format."));
        }
    };
    int(&mut value)?; // The lower bound: Arrow's lists have none.
    for _ in 0..length {
        let length = int(&mut value)?;
        elements.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let (element, rest) = value.split_at_checked(length).ok_or_else(invalid_binary)?;
                value = rest;
                Some(element)
            }
        });
    }
    if value.is_empty() { Ok(()) } else { Err(invalid_binary()) }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], SqlError> {
    value.try_into().map_err(|_| invalid_binary())
}

fn invalid_binary() -> SqlError {
    SqlError::new(INVALID_BINARY, "incorrect binary data format")
}

// ---- Values --------------------------------------------------------------------------------

fn invalid(type_name: &str, value: &str) -> SqlError {
    let message = format!("invalid input syntax for type {type_name}: \"{value}\"");
    SqlError::new(SqlState::INVALID_TEXT, message)
}

fn integer<T>(value: &str, type_name: &str) -> Result<T, SqlError>
where
    T: std::str::FromStr<Err = std::num::ParseIntError>,
{
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    value.trim().parse().map_err(|error: std::num::ParseIntError| match error.kind() {
        PosOverflow | NegOverflow => {
            let message = format!("value \"{value}\" is out of range for type {type_name}");
            SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, message)
        }
        _ => invalid(type_name, value),
    })
}

fn float<T: std::str::FromStr>(value: &str, type_name: &str) -> Result<T, SqlError> {
    value.trim().parse().map_err(|_| invalid(type_name, value))
}

fn parse_bool(value: &str) -> Result<bool, SqlError> {
    let word = value.trim().to_ascii_lowercase();
    let prefix_of = |whole: &str| !word.is_empty() && whole.starts_with(&word);
    // As in `parse_bool_with_len`, where "o" could be on and off.
    if prefix_of("true") || prefix_of("yes") || word == "on" || word == "1" {
        Ok(true)
    } else if prefix_of("false") || prefix_of("no") || (word.len() > 1 && prefix_of("off")) || word == "0" {
        Ok(false)
    } else {
        Err(invalid("boolean", value))
    }
}

pub(crate) fn parse_uuid(value: &str) -> Result<[u8; 16], SqlError> {
    let error = || invalid("uuid", value);
    let inner =
        value.strip_prefix('{').map_or(Some(value), |rest| rest.strip_suffix('}')).ok_or_else(error)?;
    let mut digits = inner.bytes().filter(|byte| *byte != b'-');
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let mut nibble = || digits.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (nibble().ok_or_else(error)?, nibble().ok_or_else(error)?);
        *byte = (high << 4 | low) as u8;
    }
    if digits.next().is_some() { Err(error()) } else { Ok(uuid) }
}

pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

/// `\x…`, or the older form with octal escapes.
fn parse_bytea(value: &str) -> Result<Vec<u8>, SqlError> {
    let error = || invalid("bytea", value);
    if let Some(hex) = value.strip_prefix("\\x") {
        let mut bytes = Vec::with_capacity(hex.len() / 2);
        let mut digits = hex.bytes().filter(|byte| !byte.is_ascii_whitespace());
        while let Some(high) = digits.next() {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or_else(error);
            let low = digits.next().ok_or_else(error)?;
            bytes.push((nibble(high)? << 4 | nibble(low)?) as u8);
        }
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            bytes.push(byte);
            rest = tail;
        } else if let Some(tail) = tail.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = tail;
        } else {
            match tail {
                [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                    bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                    rest = tail;
                }
                _ => return Err(error()),
            }
        }
    }
    Ok(bytes)
}

// ---- Numbers of any size -------------------------------------------------------------------

/// The number `±digits · 10^-scale`.
struct Numeric {
    negative: bool,
    /// Without leading zeros; empty for zero.
    digits: Vec<u8>,
    scale: i32,
}

impl Numeric {
    fn parse(value: &str) -> Result<Self, SqlError> {
        let error = || invalid("numeric", value);
        let text = value.trim();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let special = ["nan", "inf", "infinity"];
        if special.iter().any(|special| text.eq_ignore_ascii_case(special)) {
            let message = format!("numeric value \"{value}\" is not supported");
            return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("Use double precision for NaN and infinity."));
        }
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((mantissa, exponent)) => {
                let exponent: i32 = exponent.parse().map_err(|_| error())?;
                if exponent.abs() > 1000 {
                    return Err(numeric_overflow(value));
                }
                (mantissa, exponent)
            }
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(error());
        }
        let n_zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let mut numeric =
            Numeric { negative, digits: digits[n_zeros..].to_vec(), scale: fraction.len() as i32 - exponent };
        if numeric.scale < 0 {
            numeric.rescale(0);
        }
        Ok(numeric)
    }

    /// Rounds half away from zero, as `numeric` does.
    fn rescale(&mut self, scale: i32) {
        if scale >= self.scale {
            if !self.digits.is_empty() {
                let n_zeros = (scale - self.scale) as usize;
                self.digits.extend(std::iter::repeat_n(b'0', n_zeros));
            }
        } else {
            let n_cut = (self.scale - scale) as usize;
            let kept = self.digits.len().saturating_sub(n_cut);
            let up = self.digits.len() >= n_cut && self.digits.get(kept).is_some_and(|d| *d >= b'5');
            self.digits.truncate(kept);
            if up {
                let mut at = self.digits.len();
                loop {
                    match at.checked_sub(1) {
                        None => break self.digits.insert(0, b'1'),
                        Some(previous) if self.digits[previous] == b'9' => {
                            self.digits[previous] = b'0';
                            at = previous;
                        }
                        Some(previous) => break self.digits[previous] += 1,
                    }
                }
            }
        }
        self.scale = scale;
    }

    /// The digits of the number at a scale, with the sign, if the precision holds them.
    fn at_scale(mut self, scale: i32, precision: u8, value: &str) -> Result<String, SqlError> {
        self.rescale(scale);
        if self.digits.len() > precision.into() {
            let detail = format!(
                "A field with precision {precision}, scale {scale} must round to an absolute \
                 value less than 10^{}.",
                i32::from(precision) - scale
            );
            return Err(numeric_overflow(value).with_detail(detail));
        }
        Ok(self.text_of_digits())
    }

    fn text_of_digits(&self) -> String {
        let mut text = String::with_capacity(self.digits.len() + 1);
        if self.negative {
            text.push('-');
        }
        text.extend(self.digits.iter().map(|digit| char::from(*digit)));
        if self.digits.is_empty() {
            text.push('0');
        }
        text
    }

    fn scalar(self, value: &str) -> Result<ScalarValue, SqlError> {
        let digits = self.text_of_digits();
        let n_digits = self.digits.len().max(self.scale as usize);
        let scale = i8::try_from(self.scale).map_err(|_| numeric_overflow(value))?;
        if n_digits <= 38 {
            let digits = digits.parse().map_err(|_| numeric_overflow(value))?;
            Ok(ScalarValue::Decimal128(Some(digits), 38, scale))
        } else if n_digits <= 76 {
            let digits = i256::from_string(&digits).ok_or_else(|| numeric_overflow(value))?;
            Ok(ScalarValue::Decimal256(Some(digits), 76, scale))
        } else {
            Err(numeric_overflow(value))
        }
    }
}

fn numeric_overflow(value: &str) -> SqlError {
    let message = format!("value \"{value}\" overflows numeric format");
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, message)
}

/// The binary form of a `numeric` that we keep as text, where NaN and infinities can stand too.
pub(crate) fn put_numeric_text(value: &str, out: &mut BytesMut) -> Result<(), SqlError> {
    let special = match value.trim().to_ascii_lowercase().as_str() {
        "nan" => Some(0xC000),
        "infinity" | "inf" => Some(0xD000),
        "-infinity" | "-inf" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        out.put_i16(0);
        out.put_i16(0);
        out.put_u16(sign);
        out.put_i16(0);
        return Ok(());
    }
    let numeric = Numeric::parse(value)?;
    put_numeric_scaled(&numeric.digits, numeric.negative, numeric.scale as usize, out);
    Ok(())
}

/// The text of a binary `numeric`; see `numeric_recv`.
fn numeric_text(mut value: &[u8]) -> Result<String, SqlError> {
    if value.len() < 8 {
        return Err(invalid_binary());
    }
    let n_groups = value.get_u16();
    let weight = i32::from(value.get_i16());
    let sign = value.get_u16();
    let scale = usize::from(value.get_u16() & 0x3fff);
    match sign {
        0 | 0x4000 => (),
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        0xF000 => return Ok("-Infinity".to_owned()),
        _ => return Err(invalid_binary()),
    }
    if value.len() != usize::from(n_groups) * 2 {
        return Err(invalid_binary());
    }
    let groups: Vec<u16> = value.chunks(2).map(|mut group| group.get_u16()).collect();
    let group = |at: i32| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let mut text = String::new();
    if sign == 0x4000 {
        text.push('-');
    }
    if weight < 0 {
        text.push('0');
    }
    for at in 0..=weight {
        text.push_str(&format!("{:04}", group(at)));
    }
    if scale > 0 {
        text.push('.');
        let start = text.len();
        let mut at = weight + 1;
        while text.len() - start < scale {
            text.push_str(&format!("{:04}", group(at)));
            at += 1;
        }
        text.truncate(start + scale);
    }
    Ok(text)
}

// ---- Dates and times -----------------------------------------------------------------------

fn out_of_range(value: &str) -> SqlError {
    let message = format!("date/time field value out of range: \"{value}\"");
    SqlError::new(DATETIME_OVERFLOW, message)
}

fn invalid_datetime(type_name: &str, value: &str) -> SqlError {
    let message = format!("invalid input syntax for type {type_name}: \"{value}\"");
    SqlError::new(SqlState::DATETIME_FORMAT, message)
        .with_hint("Write dates as 2024-12-31 and times as 23:59:59.5, with a zone as +02:00.")
}

/// Eats what a value is written with, from the left.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn new(value: &'a str) -> Self {
        Cursor { rest: value.trim().as_bytes() }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.rest.first() == Some(&byte);
        if eaten {
            self.rest = &self.rest[1..];
        }
        eaten
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn digits(&mut self) -> &'a [u8] {
        let length = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        digits
    }

    fn number(&mut self, n_digits_max: usize) -> Option<i64> {
        let digits = self.digits();
        if digits.is_empty() || digits.len() > n_digits_max {
            return None;
        }
        Some(number_of(digits))
    }

    /// The digits behind a point, as microseconds, rounded.
    fn fraction_micros(&mut self) -> i64 {
        let digits = self.digits();
        let mut micros = 0;
        for at in 0..6 {
            micros = micros * 10 + digits.get(at).map_or(0, |digit| i64::from(digit - b'0'));
        }
        micros + i64::from(digits.get(6).is_some_and(|digit| *digit >= b'5'))
    }

    /// A word that ends the value, whatever its case.
    fn ends_with_word(&mut self, word: &str) -> bool {
        let ends = self.rest.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
        if ends {
            self.rest = &[];
        }
        ends
    }
}

fn number_of(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |acc, digit| acc * 10 + i64::from(digit - b'0'))
}

/// What a date or timestamp was written with.
struct DateTime {
    days: i64,
    micros: i64,
    offset_seconds: Option<i64>,
}

/// The day since 1970 of a date; the inverse of `civil` in `encode.rs`.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn parse_datetime(value: &str, type_name: &str) -> Result<DateTime, SqlError> {
    let error = || invalid_datetime(type_name, value);
    let mut cursor = Cursor::new(value);
    let digits = cursor.digits();
    let (year, month, day) = if digits.len() == 8 {
        (number_of(&digits[..4]), number_of(&digits[4..6]), number_of(&digits[6..]))
    } else if (4..=7).contains(&digits.len()) {
        let separator = *cursor.rest.first().ok_or_else(error)?;
        if !matches!(separator, b'-' | b'/') {
            return Err(error());
        }
        cursor.eat(separator);
        let month = cursor.number(2).ok_or_else(error)?;
        if !cursor.eat(separator) {
            return Err(error());
        }
        (number_of(digits), month, cursor.number(2).ok_or_else(error)?)
    } else {
        return Err(error());
    };
    let mut time = 0;
    let mut offset_seconds = None;
    if cursor.eat(b'T') || cursor.eat(b't') || cursor.rest.first() == Some(&b' ') {
        cursor.skip_spaces();
        if cursor.rest.first().is_some_and(u8::is_ascii_digit) {
            time = time_of_day(&mut cursor, value, type_name)?;
            offset_seconds = zone(&mut cursor).map_err(|()| error())?;
        }
    }
    cursor.skip_spaces();
    let year = match cursor.ends_with_word("BC") {
        true => 1 - year,
        false => {
            cursor.ends_with_word("AD");
            year
        }
    };
    if !cursor.rest.is_empty() {
        return Err(error());
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return Err(out_of_range(value));
    }
    Ok(DateTime { days: days_of(year, month, day), micros: time, offset_seconds })
}

fn time_of_day(cursor: &mut Cursor<'_>, value: &str, type_name: &str) -> Result<i64, SqlError> {
    let error = || invalid_datetime(type_name, value);
    let hour = cursor.number(2).ok_or_else(error)?;
    if !cursor.eat(b':') {
        return Err(error());
    }
    let minute = cursor.number(2).ok_or_else(error)?;
    let mut second = 0;
    let mut micros = 0;
    if cursor.eat(b':') {
        second = cursor.number(2).ok_or_else(error)?;
        if cursor.eat(b'.') {
            micros = cursor.fraction_micros();
        }
    }
    let time = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros;
    if minute > 59 || second > 60 || time > MICROS_PER_DAY {
        return Err(out_of_range(value));
    }
    Ok(time)
}

/// `Z`, `UTC`, `+02`, `+02:30`, `+0230`; nothing is no zone.
fn zone(cursor: &mut Cursor<'_>) -> Result<Option<i64>, ()> {
    cursor.skip_spaces();
    for word in ["Z", "UTC", "GMT"] {
        let ends = cursor.rest.len() >= word.len()
            && cursor.rest[..word.len()].eq_ignore_ascii_case(word.as_bytes());
        if ends {
            cursor.rest = &cursor.rest[word.len()..];
            return Ok(Some(0));
        }
    }
    let sign = match cursor.rest.first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Ok(None),
    };
    cursor.rest = &cursor.rest[1..];
    let digits = cursor.digits();
    let (hours, mut minutes) = match digits.len() {
        1 | 2 => (number_of(digits), 0),
        4 => (number_of(&digits[..2]), number_of(&digits[2..])),
        _ => return Err(()),
    };
    let mut seconds = 0;
    if digits.len() < 3 && cursor.eat(b':') {
        minutes = cursor.number(2).ok_or(())?;
        if cursor.eat(b':') {
            seconds = cursor.number(2).ok_or(())?;
        }
    }
    if hours > 15 || minutes > 59 || seconds > 59 {
        return Err(());
    }
    Ok(Some(sign * ((hours * 60 + minutes) * 60 + seconds)))
}

fn parse_date(value: &str) -> Result<i32, SqlError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "infinity" => return Ok(i32::MAX),
        "-infinity" => return Ok(i32::MIN),
        "epoch" => return Ok(0),
        _ => (),
    }
    let date = parse_datetime(value, "date")?;
    i32::try_from(date.days).map_err(|_| out_of_range(value))
}

fn parse_time(value: &str) -> Result<i64, SqlError> {
    let mut cursor = Cursor::new(value);
    let time = time_of_day(&mut cursor, value, "time")?;
    // A zone is read and has no meaning.
    zone(&mut cursor).map_err(|()| invalid_datetime("time", value))?;
    if cursor.rest.is_empty() { Ok(time) } else { Err(invalid_datetime("time", value)) }
}

fn parse_timestamp(value: &str, zoned: bool) -> Result<i64, SqlError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "infinity" => return Ok(i64::MAX),
        "-infinity" => return Ok(i64::MIN),
        "epoch" => return Ok(0),
        _ => (),
    }
    let type_name = if zoned { "timestamp with time zone" } else { "timestamp" };
    let DateTime { days, micros, offset_seconds } = parse_datetime(value, type_name)?;
    // As in PostgreSQL, a zone in a timestamp without one is read and forgotten.
    let offset = if zoned { offset_seconds.unwrap_or(0) * MICROS_PER_SECOND } else { 0 };
    days.checked_mul(MICROS_PER_DAY)
        .and_then(|day| day.checked_add(micros - offset))
        .ok_or_else(|| out_of_range(value))
}

fn to_arrow(interval: Interval, value: &str) -> Result<IntervalMonthDayNano, SqlError> {
    let nanos = interval.micros.checked_mul(1000).ok_or_else(|| {
        SqlError::new(DATETIME_OVERFLOW, format!("interval field value out of range: \"{value}\""))
    })?;
    Ok(IntervalMonthDayNano::new(interval.months, interval.days, nanos))
}

/// `1 year 2 mons -3 days +04:05:06.7`, `@ 1 hour ago`, `P1Y2M3DT4H5M6S`.
fn parse_interval(value: &str) -> Result<Interval, SqlError> {
    let error = || {
        let message = format!("invalid input syntax for type interval: \"{value}\"");
        SqlError::new(SqlState::DATETIME_FORMAT, message)
            .with_hint("Write intervals as 1 day 02:03:04 or as P1DT2H3M4S.")
    };
    let mut sum = IntervalSum::default();
    let text = value.trim();
    if let Some(iso) = text.strip_prefix('P') {
        let mut in_time = false;
        let mut rest = iso;
        while !rest.is_empty() {
            if let Some(time) = rest.strip_prefix('T') {
                in_time = true;
                rest = time;
                continue;
            }
            let end = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(error)?;
            let number: f64 = rest[..end].parse().map_err(|_| error())?;
            let unit = match (&rest[end..=end], in_time) {
                ("Y", false) => "year",
                ("M", false) => "month",
                ("W", false) => "week",
                ("D", false) => "day",
                ("H", true) => "hour",
                ("M", true) => "minute",
                ("S", true) => "second",
                _ => return Err(error()),
            };
            sum.add(number, unit).ok_or_else(error)?;
            rest = &rest[end + 1..];
        }
        return sum.finish(1.0).ok_or_else(error);
    }
    let text = text.strip_prefix('@').unwrap_or(text).to_ascii_lowercase();
    let (text, sign) = match text.strip_suffix("ago") {
        Some(text) => (text, -1.0),
        None => (text.as_str(), 1.0),
    };
    let mut words = text.split_ascii_whitespace();
    let mut n_parts = 0;
    while let Some(word) = words.next() {
        n_parts += 1;
        if word.contains(':') {
            let (negative, time) = match word.as_bytes()[0] {
                b'-' => (true, &word[1..]),
                b'+' => (false, &word[1..]),
                _ => (false, word),
            };
            let mut fields = time.split(':');
            let mut field = || fields.next().map(str::parse::<f64>).transpose().ok().flatten();
            let hours = field().ok_or_else(error)?;
            let minutes = field().ok_or_else(error)?;
            let seconds = field().unwrap_or(0.0);
            if fields.next().is_some() || minutes >= 60.0 || seconds >= 61.0 {
                return Err(error());
            }
            let flip = if negative { -1.0 } else { 1.0 };
            for (number, unit) in [(hours, "hour"), (minutes, "minute"), (seconds, "second")] {
                sum.add(number * flip, unit).ok_or_else(error)?;
            }
            continue;
        }
        let end = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (number, unit) = word.split_at(end);
        let number: f64 = number.parse().map_err(|_| error())?;
        // A number without a unit is seconds.
        let unit = if unit.is_empty() { words.next().unwrap_or("second") } else { unit };
        sum.add(number, unit).ok_or_else(error)?;
    }
    if n_parts == 0 {
        return Err(error());
    }
    sum.finish(sign).ok_or_else(error)
}

/// Fractions go down: of a month into days of 30, of a day into hours of 24.
#[derive(Default)]
struct IntervalSum {
    months: f64,
    days: f64,
    micros: f64,
}

impl IntervalSum {
    fn add(&mut self, number: f64, unit: &str) -> Option<()> {
        let unit = match unit {
            "us" | "ms" | "s" => unit,
            unit => unit.strip_suffix('s').unwrap_or(unit),
        };
        let (months, days, micros) = match unit {
            "millennium" | "millennia" | "mil" => (12_000.0, 0.0, 0.0),
            "century" | "centurie" | "cent" | "c" => (1200.0, 0.0, 0.0),
            "decade" | "dec" => (120.0, 0.0, 0.0),
            "year" | "yr" | "y" => (12.0, 0.0, 0.0),
            "month" | "mon" => (1.0, 0.0, 0.0),
            "week" | "w" => (0.0, 7.0, 0.0),
            "day" | "d" => (0.0, 1.0, 0.0),
            "hour" | "hr" | "h" => (0.0, 0.0, 3600e6),
            "minute" | "min" | "m" => (0.0, 0.0, 60e6),
            "second" | "sec" | "s" => (0.0, 0.0, 1e6),
            "millisecond" | "msec" | "ms" => (0.0, 0.0, 1e3),
            "microsecond" | "usec" | "us" => (0.0, 0.0, 1.0),
            _ => return None,
        };
        let whole_months = (number * months).trunc();
        let spare_days = (number * months - whole_months) * 30.0 + number * days;
        let whole_days = spare_days.trunc();
        self.months += whole_months;
        self.days += whole_days;
        self.micros += (spare_days - whole_days) * MICROS_PER_DAY as f64 + number * micros;
        Some(())
    }

    fn finish(self, sign: f64) -> Option<Interval> {
        let int = |number: f64| {
            let number = number * sign;
            (number.abs() <= f64::from(i32::MAX)).then_some(number as i32)
        };
        let micros = (self.micros * sign).round();
        Some(Interval {
            months: int(self.months)?,
            days: int(self.days)?,
            micros: (micros.abs() < i64::MAX as f64).then_some(micros as i64)?,
        })
    }
}

// ---- Arrays --------------------------------------------------------------------------------

/// What stands between the commas of an array.
enum Item {
    Null,
    Text(String),
    List(Vec<Item>),
}

/// `{1,NULL,"a b",{2}}`; see `array_in`.
fn parse_array(value: &str) -> Result<Vec<Item>, SqlError> {
    let error = |detail: &str| {
        SqlError::new(SqlState::INVALID_TEXT, format!("malformed array literal: \"{value}\""))
            .with_detail(detail)
    };
    let mut text = value.trim();
    // The bounds of `[0:2]={…}`: Arrow's lists begin at one.
    if text.starts_with('[') {
        let (_, array) = text.split_once('=').ok_or_else(|| error("Missing \"=\"."))?;
        text = array.trim_start();
    }
    let mut chars = text.chars().peekable();
    if chars.next() != Some('{') {
        return Err(error("Array value must start with \"{\" or dimension information."));
    }
    let items = parse_items(&mut chars, 0).map_err(error)?;
    match chars.next() {
        None => Ok(items),
        Some(_) => Err(error("Junk after closing right brace.")),
    }
}

fn parse_items(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    depth: usize,
) -> Result<Vec<Item>, &'static str> {
    // PostgreSQL's limit; here it also bounds the recursion.
    const MAXDIM: usize = 6;
    if depth >= MAXDIM {
        return Err("Number of array dimensions exceeds the maximum allowed (6).");
    }
    const END: &str = "Unexpected end of input.";
    let mut items = Vec::new();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        match chars.peek().ok_or(END)? {
            '}' if items.is_empty() => {
                chars.next();
                return Ok(items);
            }
            '{' => {
                chars.next();
                items.push(Item::List(parse_items(chars, depth + 1)?));
            }
            '"' => {
                chars.next();
                let mut text = String::new();
                loop {
                    match chars.next().ok_or(END)? {
                        '"' => break,
                        '\\' => text.push(chars.next().ok_or(END)?),
                        c => text.push(c),
                    }
                }
                items.push(Item::Text(text));
            }
            _ => {
                let mut text = String::new();
                let mut escaped = false;
                while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '}' | '{' | '"')) {
                    if c == '\\' {
                        escaped = true;
                        text.push(chars.next().ok_or(END)?);
                    } else {
                        text.push(c);
                    }
                }
                let text = text.trim_end();
                if text.is_empty() {
                    return Err("Unexpected \",\" or \"}\".");
                }
                items.push(match !escaped && text.eq_ignore_ascii_case("null") {
                    true => Item::Null,
                    false => Item::Text(text.to_owned()),
                });
            }
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        match chars.next().ok_or(END)? {
            ',' => (),
            '}' => return Ok(items),
            _ => return Err("Unexpected array element."),
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
