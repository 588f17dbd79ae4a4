//! Arrow columns as Postgres values, in text and in binary.
//!
//! What to do with a column is decided once per batch: [`BatchEncoder::new`] resolves type,
//! format and nulls into one closure per column, and a row is then a call per value, straight into
//! the buffer that goes to the socket. Text is what PostgreSQL's own output functions print with
//! `DateStyle = ISO`, `IntervalStyle = postgres`, `bytea_output = hex`, `TimeZone = UTC`: clients
//! parse it, so a digit more is an error and not a matter of taste.

use std::fmt::Write;
use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, GenericBinaryArray, GenericStringArray, OffsetSizeTrait,
    RecordBatch, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType,
    IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, TimeUnit, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::util::display::array_value_to_string;
use bytes::{BufMut, BytesMut};
use tidemill_core::SqlState;

use crate::pgwire::types::{ColumnType, array_of, column_type, element_of, pg_type};
use crate::session::api::{PgType, SqlError};

/// Microseconds and days from the Unix epoch to Postgres' own, 2000-01-01.
pub(crate) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
pub(crate) const POSTGRES_EPOCH_DAYS: i32 = 10_957;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// How a value travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

impl Format {
    pub(crate) fn code(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

/// Why one value has no form in its format.
#[derive(Debug)]
pub(crate) struct EncodeError(String);

impl From<EncodeError> for SqlError {
    fn from(error: EncodeError) -> Self {
        SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, error.0)
            .with_hint("Ask for the column in text format, or cast it in the query.")
    }
}

type Encoded = Result<(), EncodeError>;
type Writer = Box<dyn Fn(usize, &mut BytesMut) -> Encoded + Send + Sync>;

/// The rows of a batch, ready to be written one by one.
pub struct BatchEncoder {
    columns: Vec<Column>,
    n_rows: usize,
}

impl BatchEncoder {
    /// `formats` has one entry per column.
    pub fn new(batch: &RecordBatch, formats: &[Format]) -> Result<Self, SqlError> {
        assert_eq!(formats.len(), batch.num_columns(), "a format per column");
        let schema = batch.schema_ref();
        let columns = schema.fields().iter().zip(batch.columns()).zip(formats);
        let columns = columns
            .map(|((field, array), format)| Column::new(array, field, *format))
            .collect::<Result<_, _>>()?;
        Ok(BatchEncoder { columns, n_rows: batch.num_rows() })
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Appends a row as a `DataRow` message.
    pub fn data_row(&self, row_idx: usize, out: &mut BytesMut) -> Result<(), SqlError> {
        let start = out.len();
        out.put_u8(b'D');
        out.put_i32(0);
        self.tuple(row_idx, out)?;
        patch_length(out, start + 1)
    }

    /// Appends the number of columns, and each with its length: the body of a `DataRow`, and a row
    /// of binary `COPY`.
    pub(crate) fn tuple(&self, row_idx: usize, out: &mut BytesMut) -> Result<(), SqlError> {
        out.put_i16(self.columns.len() as i16);
        for column in &self.columns {
            if column.is_null(row_idx) {
                out.put_i32(-1);
                continue;
            }
            let start = out.len();
            out.put_i32(0);
            (column.write)(row_idx, out)?;
            let length = (out.len() - start - 4) as i32;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }
}

/// Writes the length of what follows `at`, itself included. A message has at most 2 GiB.
fn patch_length(out: &mut BytesMut, at: usize) -> Result<(), SqlError> {
    let length = i32::try_from(out.len() - at).map_err(|_| {
        SqlError::new(
            crate::pgwire::error::PROGRAM_LIMIT_EXCEEDED,
            "row is larger than a message of the protocol can be",
        )
    })?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// One column of a batch.
pub(crate) struct Column {
    nulls: Option<NullBuffer>,
    write: Writer,
    /// The text of a value never needs quotes inside arrays and records.
    plain: bool,
}

impl Column {
    fn new(array: &ArrayRef, field: &Field, format: Format) -> Result<Self, SqlError> {
        let ColumnType { pg_type, typmod } = column_type(field);
        let column = match format {
            Format::Text => text(array, &pg_type)?,
            Format::Binary => binary(array, &pg_type)?,
        };
        // A char(n) is kept without the blanks at its end, which say nothing, and shown with them.
        Ok(match usize::try_from(typmod - 4) {
            Ok(length) if pg_type == PgType::BPCHAR => column.padded(length),
            _ => column,
        })
    }

    fn padded(self, length: usize) -> Self {
        let write = self.write;
        let padded = move |row_idx, out: &mut BytesMut| {
            let start = out.len();
            write(row_idx, out)?;
            let n_chars = String::from_utf8_lossy(&out[start..]).chars().count();
            out.put_bytes(b' ', length.saturating_sub(n_chars));
            Ok(())
        };
        Column { write: Box::new(padded), ..self }
    }

    pub(crate) fn is_null(&self, row_idx: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row_idx))
    }

    /// Appends the value, which must not be null.
    pub(crate) fn write(&self, row_idx: usize, out: &mut BytesMut) -> Result<(), SqlError> {
        Ok((self.write)(row_idx, out)?)
    }
}

// ---- Text ----------------------------------------------------------------------------------

/// The values of a column as text, for casts.
pub(crate) fn text_of(array: &ArrayRef, field: &Field) -> Result<Column, SqlError> {
    text(array, &column_type(field).pg_type)
}

fn text(array: &ArrayRef, pg: &PgType) -> Result<Column, SqlError> {
    let data_type = array.data_type().clone();
    let nulls = array.logical_nulls();
    let (write, plain): (Writer, bool) = match &data_type {
        DataType::Null => (Box::new(|_, _| Ok(())), true),
        DataType::Boolean => {
            let values = array.as_boolean().clone();
            let write = move |row_idx, out: &mut BytesMut| {
                out.put_u8(if BooleanArray::value(&values, row_idx) { b't' } else { b'f' });
                Ok(())
            };
            (Box::new(write), true)
        }
        DataType::Int8 => (values::<Int8Type>(array, |v, out| put_i64(v.into(), out)), true),
        DataType::Int16 => (values::<Int16Type>(array, |v, out| put_i64(v.into(), out)), true),
        DataType::Int32 => (values::<Int32Type>(array, |v, out| put_i64(v.into(), out)), true),
        DataType::Int64 => (values::<Int64Type>(array, put_i64), true),
        DataType::UInt8 => (values::<UInt8Type>(array, |v, out| put_i64(v.into(), out)), true),
        DataType::UInt16 => (values::<UInt16Type>(array, |v, out| put_i64(v.into(), out)), true),
        DataType::UInt32 => (values::<UInt32Type>(array, |v, out| put_i64(v.into(), out)), true),
        DataType::UInt64 => (values::<UInt64Type>(array, put_u64), true),
        DataType::Float16 => (values::<Float16Type>(array, |v, out| put_f32(v.to_f32(), out)), true),
        DataType::Float32 => (values::<Float32Type>(array, put_f32), true),
        DataType::Float64 => (values::<Float64Type>(array, put_f64), true),
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) => {
            let wide = cast_to(array, &DataType::Decimal128(38, *scale))?;
            return text(&wide, pg);
        }
        DataType::Decimal128(_, scale) => {
            let scale = *scale;
            (values::<Decimal128Type>(array, move |v, out| put_decimal(v, scale, out)), true)
        }
        DataType::Decimal256(_, scale) => {
            let scale = *scale;
            let write = values::<Decimal256Type>(array, move |v, out| {
                let digits = v.to_string();
                put_digits(digits.trim_start_matches('-').as_bytes(), v.is_negative(), scale, out);
            });
            (write, true)
        }
        DataType::Date32 => (values::<Date32Type>(array, put_date), true),
        DataType::Date64 => {
            let write = values::<Int64Type>(&cast_to(array, &DataType::Int64)?, |millis, out| {
                put_date(millis.div_euclid(86_400_000) as i32, out);
            });
            (write, true)
        }
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let unit = *unit;
            let write = values::<Int64Type>(&ticks(array)?, move |v, out| {
                put_time(micros(v, unit), out);
            });
            (write, true)
        }
        DataType::Timestamp(unit, zone) => {
            let unit = *unit;
            let zoned = zone.is_some() || *pg == PgType::TIMESTAMPTZ;
            let write = values::<Int64Type>(&ticks(array)?, move |v, out| {
                put_timestamp(micros(v, unit), zoned, out);
            });
            (write, false)
        }
        DataType::Duration(unit) => {
            let unit = *unit;
            let write = values::<Int64Type>(&ticks(array)?, move |v, out| {
                put_interval(Interval::of_micros(micros(v, unit)), out);
            });
            (write, false)
        }
        DataType::Interval(unit) => (intervals(array, *unit, put_interval), false),
        DataType::Utf8 => (strings::<i32>(array, raw), false),
        DataType::LargeUtf8 => (strings::<i64>(array, raw), false),
        DataType::Utf8View => {
            let values = array.as_string_view().clone();
            let write = move |row_idx, out: &mut BytesMut| {
                out.put_slice(values.value(row_idx).as_bytes());
                Ok(())
            };
            (Box::new(write), false)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let uuid = *pg == PgType::UUID && data_type == DataType::FixedSizeBinary(16);
            (bytes(array, if uuid { put_uuid } else { put_hex }), false)
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..)
            if is_vector(pg) =>
        {
            let ArrayTree::List(list) = ArrayTree::new(array, &PgType::INT8, Format::Text)? else {
                unreachable!("a list is a list");
            };
            (Box::new(move |row_idx, out| list.write_vector(row_idx, out)), false)
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..) => {
            let element = element_of(pg).unwrap_or(PgType::TEXT);
            let tree = ArrayTree::new(array, &element, Format::Text)?;
            (Box::new(move |row_idx, out| tree.write_text(row_idx, out)), false)
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let columns: Vec<Column> = columns
                .map(|(field, column)| Column::new(column, field, Format::Text))
                .collect::<Result<_, _>>()?;
            (Box::new(move |row_idx, out| put_record(&columns, row_idx, out)), false)
        }
        DataType::Map(..) => (json(array)?, false),
        DataType::Dictionary(..) => {
            let Column { write, plain, .. } = text(array.as_any_dictionary().values(), pg)?;
            (through_keys(array, write), plain)
        }
        DataType::RunEndEncoded(_, value) => {
            return text(&cast_to(array, value.data_type())?, pg);
        }
        DataType::Union(..) => {
            let texts: Result<StringArray, _> =
                (0..array.len()).map(|row_idx| array_value_to_string(array, row_idx).map(Some)).collect();
            let texts: ArrayRef = std::sync::Arc::new(texts.map_err(internal)?);
            (strings::<i32>(&texts, raw), false)
        }
    };
    Ok(Column { nulls, write, plain })
}

// ---- Binary --------------------------------------------------------------------------------

fn binary(array: &ArrayRef, pg: &PgType) -> Result<Column, SqlError> {
    let data_type = array.data_type().clone();
    let nulls = array.logical_nulls();
    let refused = || {
        let message = format!("cannot send {data_type} as {} in binary", pg.name());
        SqlError::from(EncodeError(message))
    };
    let write: Writer = match &data_type {
        DataType::Null => Box::new(|_, _| Ok(())),
        DataType::Boolean if *pg == PgType::BOOL => {
            let values = array.as_boolean().clone();
            Box::new(move |row_idx, out| {
                out.put_u8(BooleanArray::value(&values, row_idx).into());
                Ok(())
            })
        }
        data_type if data_type.is_integer() => {
            // Through one array type: a copy per batch, and no product of widths and types.
            if *data_type == DataType::UInt64 && *pg != PgType::INT8 {
                if *pg != PgType::NUMERIC {
                    return Err(refused());
                }
                values::<UInt64Type>(array, |v, out| put_numeric(v.to_string().as_bytes(), false, 0, out))
            } else {
                let wide = cast_to(array, &DataType::Int64)?;
                match *pg {
                    PgType::INT2 => values::<Int64Type>(&wide, |v, out| out.put_i16(v as i16)),
                    PgType::INT4 => values::<Int64Type>(&wide, |v, out| out.put_i32(v as i32)),
                    PgType::INT8 => values::<Int64Type>(&wide, |v, out| out.put_i64(v)),
                    PgType::NUMERIC => values::<Int64Type>(&wide, |v, out| {
                        put_numeric(v.unsigned_abs().to_string().as_bytes(), v < 0, 0, out)
                    }),
                    ref oid if is_oid(oid) => values::<Int64Type>(&wide, |v, out| out.put_u32(v as u32)),
                    _ => return Err(refused()),
                }
            }
        }
        DataType::Float16 if *pg == PgType::FLOAT4 => {
            values::<Float16Type>(array, |v, out| out.put_f32(v.to_f32()))
        }
        DataType::Float32 if *pg == PgType::FLOAT4 => values::<Float32Type>(array, |v, out| out.put_f32(v)),
        DataType::Float32 if *pg == PgType::FLOAT8 => {
            values::<Float32Type>(array, |v, out| out.put_f64(v.into()))
        }
        DataType::Float64 if *pg == PgType::FLOAT8 => values::<Float64Type>(array, |v, out| out.put_f64(v)),
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) => {
            return binary(&cast_to(array, &DataType::Decimal128(38, *scale))?, pg);
        }
        DataType::Decimal128(_, scale) if *pg == PgType::NUMERIC => {
            let scale = *scale;
            values::<Decimal128Type>(array, move |v, out| {
                put_numeric(v.unsigned_abs().to_string().as_bytes(), v < 0, scale, out)
            })
        }
        DataType::Decimal256(_, scale) if *pg == PgType::NUMERIC => {
            let scale = *scale;
            values::<Decimal256Type>(array, move |v, out| {
                let digits = v.to_string();
                let digits = digits.trim_start_matches('-').as_bytes();
                put_numeric(digits, v.is_negative(), scale, out)
            })
        }
        DataType::Date32 if *pg == PgType::DATE => {
            values::<Date32Type>(array, |days, out| out.put_i32(date_to_postgres(days)))
        }
        DataType::Date64 if *pg == PgType::DATE => {
            values::<Int64Type>(&cast_to(array, &DataType::Int64)?, |millis, out| {
                out.put_i32(date_to_postgres(millis.div_euclid(86_400_000) as i32))
            })
        }
        DataType::Time32(unit) | DataType::Time64(unit) if *pg == PgType::TIME => {
            let unit = *unit;
            values::<Int64Type>(&ticks(array)?, move |v, out| out.put_i64(micros(v, unit)))
        }
        DataType::Timestamp(unit, _) if *pg == PgType::TIMESTAMP || *pg == PgType::TIMESTAMPTZ => {
            let unit = *unit;
            values::<Int64Type>(&ticks(array)?, move |v, out| {
                out.put_i64(match micros(v, unit) {
                    infinite @ (i64::MAX | i64::MIN) => infinite,
                    micros => micros.saturating_sub(POSTGRES_EPOCH_MICROS),
                })
            })
        }
        DataType::Duration(unit) if *pg == PgType::INTERVAL => {
            let unit = *unit;
            values::<Int64Type>(&ticks(array)?, move |v, out| {
                put_interval_binary(Interval::of_micros(micros(v, unit)), out)
            })
        }
        DataType::Interval(unit) if *pg == PgType::INTERVAL => intervals(array, *unit, put_interval_binary),
        DataType::Utf8 => strings::<i32>(array, string_binary(pg)),
        DataType::LargeUtf8 => strings::<i64>(array, string_binary(pg)),
        DataType::Utf8View => {
            let values = array.as_string_view().clone();
            let put = string_binary(pg);
            Box::new(move |row_idx, out| put(values.value(row_idx), out))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            bytes(array, |value, out| out.put_slice(value))
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..) => {
            let (element, lower_bound) = match *pg {
                PgType::INT2_VECTOR => (PgType::INT2, 0),
                PgType::OID_VECTOR => (PgType::OID, 0),
                _ => (element_of(pg).ok_or_else(refused)?, 1),
            };
            let tree = ArrayTree::new(array, &element, Format::Binary)?;
            Box::new(move |row_idx, out| tree.write_binary(row_idx, &element, lower_bound, out))
        }
        DataType::Struct(fields) => {
            let oids: Vec<u32> = fields.iter().map(|field| column_type(field).pg_type.oid()).collect();
            let columns = fields.iter().zip(array.as_struct().columns());
            let columns: Vec<Column> = columns
                .map(|(field, column)| Column::new(column, field, Format::Binary))
                .collect::<Result<_, _>>()?;
            Box::new(move |row_idx, out| {
                out.put_i32(columns.len() as i32);
                for (column, oid) in columns.iter().zip(&oids) {
                    out.put_u32(*oid);
                    put_element(column, row_idx, out)?;
                }
                Ok(())
            })
        }
        DataType::Map(..) => {
            let write = json(array)?;
            let versioned = *pg == PgType::JSONB;
            Box::new(move |row_idx, out| {
                if versioned {
                    out.put_u8(1);
                }
                write(row_idx, out)
            })
        }
        DataType::Dictionary(..) => {
            let values = binary(array.as_any_dictionary().values(), pg)?;
            through_keys(array, values.write)
        }
        DataType::RunEndEncoded(_, value) => {
            return binary(&cast_to(array, value.data_type())?, pg);
        }
        DataType::Union(..) => return text(array, pg),
        _ => return Err(refused()),
    };
    Ok(Column { nulls, write, plain: false })
}

/// How a string goes as a value of a type: most types that are strings to us are strings there.
fn string_binary(pg: &PgType) -> fn(&str, &mut BytesMut) -> Encoded {
    match *pg {
        PgType::JSONB => |value, out| {
            out.put_u8(1);
            raw(value, out)
        },
        PgType::UUID => |value, out| {
            let uuid = crate::pgwire::decode::parse_uuid(value).map_err(|e| EncodeError(e.message))?;
            out.put_slice(&uuid);
            Ok(())
        },
        PgType::NUMERIC => |value, out| {
            crate::pgwire::decode::put_numeric_text(value, out).map_err(|e| EncodeError(e.message))
        },
        PgType::INT2_VECTOR => |value, out| put_vector(value, PgType::INT2, out),
        PgType::OID_VECTOR => |value, out| put_vector(value, PgType::OID, out),
        ref oid if is_oid(oid) => |value, out| {
            let oid: u32 = value
                .parse()
                .map_err(|_| EncodeError(format!("\"{value}\" has no binary form as an oid")))?;
            out.put_u32(oid);
            Ok(())
        },
        _ => raw,
    }
}

/// `int2vector` and `oidvector`: arrays that count from 0 and print without braces.
fn put_vector(value: &str, element: PgType, out: &mut BytesMut) -> Encoded {
    let elements: Result<Vec<i64>, _> = value.split_ascii_whitespace().map(str::parse).collect();
    let elements = elements.map_err(|_| EncodeError(format!("\"{value}\" is not a vector")))?;
    out.put_i32(1);
    out.put_i32(0);
    out.put_u32(element.oid());
    out.put_i32(elements.len() as i32);
    out.put_i32(0);
    for value in elements {
        if element == PgType::INT2 {
            out.put_i32(2);
            out.put_i16(value as i16);
        } else {
            out.put_i32(4);
            out.put_u32(value as u32);
        }
    }
    Ok(())
}

fn is_vector(pg: &PgType) -> bool {
    matches!(*pg, PgType::INT2_VECTOR | PgType::OID_VECTOR)
}

/// Types that are four bytes of an OID in binary.
fn is_oid(pg: &PgType) -> bool {
    matches!(
        *pg,
        PgType::OID
            | PgType::XID
            | PgType::CID
            | PgType::REGPROC
            | PgType::REGPROCEDURE
            | PgType::REGOPER
            | PgType::REGOPERATOR
            | PgType::REGCLASS
            | PgType::REGTYPE
            | PgType::REGROLE
            | PgType::REGNAMESPACE
            | PgType::REGCONFIG
            | PgType::REGDICTIONARY
    )
}

// ---- Writers over arrays -------------------------------------------------------------------

fn values<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    put: impl Fn(T::Native, &mut BytesMut) + Send + Sync + 'static,
) -> Writer {
    let values = array.as_primitive::<T>().values().clone();
    Box::new(move |row_idx, out| {
        put(values[row_idx], out);
        Ok(())
    })
}

fn strings<O: OffsetSizeTrait>(array: &ArrayRef, put: fn(&str, &mut BytesMut) -> Encoded) -> Writer {
    let values: GenericStringArray<O> = array.as_string::<O>().clone();
    Box::new(move |row_idx, out| put(values.value(row_idx), out))
}

fn bytes(array: &ArrayRef, put: fn(&[u8], &mut BytesMut)) -> Writer {
    fn sized<O: OffsetSizeTrait>(array: &ArrayRef, put: fn(&[u8], &mut BytesMut)) -> Writer {
        let values: GenericBinaryArray<O> = array.as_binary::<O>().clone();
        Box::new(move |row_idx, out| {
            put(values.value(row_idx), out);
            Ok(())
        })
    }
    match array.data_type() {
        DataType::Binary => sized::<i32>(array, put),
        DataType::LargeBinary => sized::<i64>(array, put),
        DataType::BinaryView => {
            let values = array.as_binary_view().clone();
            Box::new(move |row_idx, out| {
                put(values.value(row_idx), out);
                Ok(())
            })
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary().clone();
            Box::new(move |row_idx, out| {
                put(values.value(row_idx), out);
                Ok(())
            })
        }
        data_type => unreachable!("{data_type} is not bytes"),
    }
}

fn intervals(array: &ArrayRef, unit: IntervalUnit, put: fn(Interval, &mut BytesMut)) -> Writer {
    match unit {
        IntervalUnit::YearMonth => values::<IntervalYearMonthType>(array, move |months, out| {
            put(Interval { months, days: 0, micros: 0 }, out);
        }),
        IntervalUnit::DayTime => values::<IntervalDayTimeType>(array, move |v, out| {
            let micros = i64::from(v.milliseconds) * 1000;
            put(Interval { months: 0, days: v.days, micros }, out);
        }),
        IntervalUnit::MonthDayNano => values::<IntervalMonthDayNanoType>(array, move |v, out| {
            let micros = v.nanoseconds / 1000;
            put(Interval { months: v.months, days: v.days, micros }, out);
        }),
    }
}

fn through_keys(array: &ArrayRef, write: Writer) -> Writer {
    let keys = array.as_any_dictionary().normalized_keys();
    Box::new(move |row_idx, out| write(keys[row_idx], out))
}

/// Times, timestamps and durations as the integers that they are.
fn ticks(array: &ArrayRef) -> Result<ArrayRef, SqlError> {
    match array.data_type() {
        DataType::Time32(_) => cast_to(&cast_to(array, &DataType::Int32)?, &DataType::Int64),
        _ => cast_to(array, &DataType::Int64),
    }
}

fn cast_to(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, SqlError> {
    cast(array, data_type).map_err(internal)
}

fn internal(error: arrow::error::ArrowError) -> SqlError {
    SqlError::new(SqlState::INTERNAL_ERROR, error.to_string())
}

/// Microseconds; what does not fit becomes infinity. Nanoseconds are cut, as Postgres has none.
fn micros(value: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => value.saturating_mul(1_000_000),
        TimeUnit::Millisecond => value.saturating_mul(1000),
        TimeUnit::Microsecond => value,
        TimeUnit::Nanosecond => value.div_euclid(1000),
    }
}

fn date_to_postgres(days: i32) -> i32 {
    match days {
        i32::MAX | i32::MIN => days,
        _ => days.saturating_sub(POSTGRES_EPOCH_DAYS),
    }
}

// ---- Arrays and records --------------------------------------------------------------------

/// A list column: lists of lists down to the elements.
enum ArrayTree {
    List(ListLevel),
    Elements(Column),
}

struct ListLevel {
    range: Box<dyn Fn(usize) -> Range<usize> + Send + Sync>,
    nulls: Option<NullBuffer>,
    child: Box<ArrayTree>,
}

impl ArrayTree {
    fn new(array: &ArrayRef, element: &PgType, format: Format) -> Result<Self, SqlError> {
        type RangeOf = Box<dyn Fn(usize) -> Range<usize> + Send + Sync>;
        let (range, child): (RangeOf, &ArrayRef) = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let offsets = list.offsets().clone();
                let range = move |i| offsets[i] as usize..offsets[i + 1] as usize;
                (Box::new(range), list.values())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let offsets = list.offsets().clone();
                let range = move |i| offsets[i] as usize..offsets[i + 1] as usize;
                (Box::new(range), list.values())
            }
            DataType::ListView(_) => {
                let list = array.as_list_view::<i32>();
                let (offsets, sizes) = (list.offsets().clone(), list.sizes().clone());
                let range = move |i| offsets[i] as usize..(offsets[i] + sizes[i]) as usize;
                (Box::new(range), list.values())
            }
            DataType::LargeListView(_) => {
                let list = array.as_list_view::<i64>();
                let (offsets, sizes) = (list.offsets().clone(), list.sizes().clone());
                let range = move |i| offsets[i] as usize..(offsets[i] + sizes[i]) as usize;
                (Box::new(range), list.values())
            }
            DataType::FixedSizeList(_, size) => {
                let size = *size as usize;
                let list = array.as_fixed_size_list();
                (Box::new(move |i| i * size..(i + 1) * size), list.values())
            }
            // An element that has no array type of its own, as an array of enums in `_text`.
            data_type if *element == PgType::TEXT && format == Format::Binary => {
                let own = pg_type(data_type);
                let own = if array_of(&own) == PgType::TEXT_ARRAY { own } else { element.clone() };
                return binary(array, &own).map(ArrayTree::Elements);
            }
            _ => {
                let elements = match format {
                    Format::Text => text(array, element)?,
                    Format::Binary => binary(array, element)?,
                };
                return Ok(ArrayTree::Elements(elements));
            }
        };
        Ok(ArrayTree::List(ListLevel {
            range,
            nulls: array.logical_nulls(),
            child: Box::new(ArrayTree::new(child, element, format)?),
        }))
    }

    fn is_null(&self, row_idx: usize) -> bool {
        match self {
            ArrayTree::List(list) => list.nulls.as_ref().is_some_and(|n| n.is_null(row_idx)),
            ArrayTree::Elements(column) => column.is_null(row_idx),
        }
    }

    fn write_text(&self, row_idx: usize, out: &mut BytesMut) -> Encoded {
        match self {
            ArrayTree::List(list) => {
                out.put_u8(b'{');
                for (n, idx) in (list.range)(row_idx).enumerate() {
                    if n > 0 {
                        out.put_u8(b',');
                    }
                    if list.child.is_null(idx) {
                        out.put_slice(b"NULL");
                    } else {
                        list.child.write_text(idx, out)?;
                    }
                }
                out.put_u8(b'}');
            }
            ArrayTree::Elements(column) => {
                let start = out.len();
                (column.write)(row_idx, out)?;
                if !column.plain {
                    quote_element(out, start);
                }
            }
        }
        Ok(())
    }

    fn write_binary(
        &self,
        row_idx: usize,
        element: &PgType,
        lower_bound: i32,
        out: &mut BytesMut,
    ) -> Encoded {
        let mut dimensions = Vec::new();
        self.dimensions(row_idx, 0, &mut dimensions)?;
        if dimensions.contains(&0) {
            dimensions.clear();
        }
        out.put_i32(dimensions.len() as i32);
        let has_nulls_at = out.len();
        out.put_i32(0);
        out.put_u32(element.oid());
        for length in &dimensions {
            out.put_i32(*length as i32);
            out.put_i32(lower_bound);
        }
        if self.write_elements(row_idx, out)? {
            out[has_nulls_at..has_nulls_at + 4].copy_from_slice(&1i32.to_be_bytes());
        }
        Ok(())
    }

    /// The length per dimension. An array of Postgres is a box: all its rows are of one length.
    fn dimensions(&self, row_idx: usize, depth: usize, lengths: &mut Vec<usize>) -> Encoded {
        let ArrayTree::List(list) = self else {
            return Ok(());
        };
        let range = (list.range)(row_idx);
        match lengths.get(depth) {
            None => lengths.push(range.len()),
            Some(length) if *length == range.len() => (),
            Some(_) => {
                let message = "an array whose rows differ in length has no binary form";
                return Err(EncodeError(message.to_owned()));
            }
        }
        if matches!(*list.child, ArrayTree::List(_)) {
            for idx in range {
                if list.child.is_null(idx) {
                    let message = "an array with a null for a row has no binary form";
                    return Err(EncodeError(message.to_owned()));
                }
                list.child.dimensions(idx, depth + 1, lengths)?;
            }
        }
        Ok(())
    }

    /// Returns whether a null was among them.
    fn write_elements(&self, row_idx: usize, out: &mut BytesMut) -> Result<bool, EncodeError> {
        match self {
            ArrayTree::List(list) => {
                let mut has_nulls = false;
                for idx in (list.range)(row_idx) {
                    has_nulls |= list.child.write_elements(idx, out)?;
                }
                Ok(has_nulls)
            }
            ArrayTree::Elements(column) => put_element(column, row_idx, out),
        }
    }
}

impl ListLevel {
    fn write_vector(&self, row_idx: usize, out: &mut BytesMut) -> Encoded {
        for (n, idx) in (self.range)(row_idx).enumerate() {
            if n > 0 {
                out.put_u8(b' ');
            }
            self.child.write_text(idx, out)?;
        }
        Ok(())
    }
}

/// A value behind its length; returns whether it is null.
fn put_element(column: &Column, row_idx: usize, out: &mut BytesMut) -> Result<bool, EncodeError> {
    if column.is_null(row_idx) {
        out.put_i32(-1);
        return Ok(true);
    }
    let start = out.len();
    out.put_i32(0);
    (column.write)(row_idx, out)?;
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(false)
}

/// Puts the array element that begins at `start` in quotes if it needs them; see `array_out`.
fn quote_element(out: &mut BytesMut, start: usize) {
    let value = &out[start..];
    let quoted = value.is_empty()
        || value.eq_ignore_ascii_case(b"null")
        || value.iter().any(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || is_space(*byte));
    if quoted {
        let value = out.split_off(start);
        out.put_u8(b'"');
        for byte in value {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(byte);
        }
        out.put_u8(b'"');
    }
}

/// `(1,"a b",)`; see `record_out`.
fn put_record(columns: &[Column], row_idx: usize, out: &mut BytesMut) -> Encoded {
    out.put_u8(b'(');
    for (n, column) in columns.iter().enumerate() {
        if n > 0 {
            out.put_u8(b',');
        }
        if column.is_null(row_idx) {
            continue;
        }
        let start = out.len();
        (column.write)(row_idx, out)?;
        let value = &out[start..];
        let quoted = value.is_empty()
            || value.iter().any(|byte| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',') || is_space(*byte));
        if quoted {
            let value = out.split_off(start);
            out.put_u8(b'"');
            for byte in value {
                if matches!(byte, b'"' | b'\\') {
                    out.put_u8(byte);
                }
                out.put_u8(byte);
            }
            out.put_u8(b'"');
        }
    }
    out.put_u8(b')');
    Ok(())
}

/// `isspace` of the C locale: with the vertical tab, which Rust's leaves out.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

// ---- JSON, for maps ------------------------------------------------------------------------

fn json(array: &ArrayRef) -> Result<Writer, SqlError> {
    let nulls = array.logical_nulls();
    let write: Writer = match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean().clone();
            Box::new(move |row_idx, out| {
                out.put_slice(if values.value(row_idx) { b"true" } else { b"false" });
                Ok(())
            })
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let keys = text(map.keys(), &pg_type(map.keys().data_type()))?;
            let values = json(map.values())?;
            let offsets = map.offsets().clone();
            Box::new(move |row_idx, out| {
                out.put_u8(b'{');
                let range = offsets[row_idx] as usize..offsets[row_idx + 1] as usize;
                for (n, idx) in range.enumerate() {
                    if n > 0 {
                        out.put_slice(b", ");
                    }
                    put_json_string(&keys, idx, out)?;
                    out.put_slice(b": ");
                    values(idx, out)?;
                }
                out.put_u8(b'}');
                Ok(())
            })
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let columns: Vec<(String, Writer)> = columns
                .map(|(field, column)| Ok((field.name().clone(), json(column)?)))
                .collect::<Result<_, SqlError>>()?;
            Box::new(move |row_idx, out| {
                out.put_u8(b'{');
                for (n, (name, write)) in columns.iter().enumerate() {
                    if n > 0 {
                        out.put_slice(b", ");
                    }
                    put_json(name, out);
                    out.put_slice(b": ");
                    write(row_idx, out)?;
                }
                out.put_u8(b'}');
                Ok(())
            })
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let values = match array.data_type() {
                DataType::List(_) => array.as_list::<i32>().values(),
                DataType::LargeList(_) => array.as_list::<i64>().values(),
                _ => array.as_fixed_size_list().values(),
            };
            let values = json(values)?;
            let ArrayTree::List(list) = ArrayTree::new(array, &PgType::TEXT, Format::Text)? else {
                unreachable!("a list is a list");
            };
            Box::new(move |row_idx, out| {
                out.put_u8(b'[');
                for (n, idx) in (list.range)(row_idx).enumerate() {
                    if n > 0 {
                        out.put_slice(b", ");
                    }
                    values(idx, out)?;
                }
                out.put_u8(b']');
                Ok(())
            })
        }
        data_type => {
            let bare = data_type.is_integer() || is_decimal(data_type);
            let float = data_type.is_floating();
            let column = text(array, &pg_type(data_type))?;
            Box::new(move |row_idx, out| {
                let start = out.len();
                if bare || float {
                    (column.write)(row_idx, out)?;
                    // JSON has no NaN and no infinity.
                    if bare || !out[start..].iter().any(|byte| matches!(byte, b'N' | b'I')) {
                        return Ok(());
                    }
                    out.truncate(start);
                }
                put_json_string(&column, row_idx, out)
            })
        }
    };
    Ok(Box::new(move |row_idx, out| {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row_idx)) {
            out.put_slice(b"null");
            return Ok(());
        }
        write(row_idx, out)
    }))
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
    )
}

fn put_json_string(column: &Column, row_idx: usize, out: &mut BytesMut) -> Encoded {
    let start = out.len();
    (column.write)(row_idx, out)?;
    let value = out.split_off(start);
    put_json(&String::from_utf8_lossy(&value), out);
    Ok(())
}

fn put_json(value: &str, out: &mut BytesMut) {
    out.put_slice(serde_json::Value::from(value).to_string().as_bytes());
}

// ---- Values --------------------------------------------------------------------------------

fn raw(value: &str, out: &mut BytesMut) -> Encoded {
    out.put_slice(value.as_bytes());
    Ok(())
}

const DIGIT_PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

fn pair(value: u64) -> [u8; 2] {
    let at = value as usize * 2;
    [DIGIT_PAIRS[at], DIGIT_PAIRS[at + 1]]
}

pub(crate) fn put_i64(value: i64, out: &mut BytesMut) {
    if value < 0 {
        out.put_u8(b'-');
    }
    put_u64(value.unsigned_abs(), out);
}

pub(crate) fn put_u64(value: u64, out: &mut BytesMut) {
    let mut digits = [0; 20];
    let start = digits_of(value, &mut digits);
    out.put_slice(&digits[start..]);
}

/// Fills the end of `digits`; returns where the number begins.
fn digits_of(mut value: u64, digits: &mut [u8; 20]) -> usize {
    let mut at = digits.len();
    while value >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&pair(value % 100));
        value /= 100;
    }
    if value >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&pair(value));
    } else {
        at -= 1;
        digits[at] = b'0' + value as u8;
    }
    at
}

fn put_f64(value: f64, out: &mut BytesMut) {
    // Whole numbers are common, and then the digits need no search for the shortest.
    if value.fract() == 0.0 && value.abs() < 1e15 && (value != 0.0 || value.is_sign_positive()) {
        return put_i64(value as i64, out);
    }
    put_float(format_args!("{value:e}"), value.is_nan(), value.is_infinite(), value < 0.0, 15, out);
}

fn put_f32(value: f32, out: &mut BytesMut) {
    put_float(format_args!("{value:e}"), value.is_nan(), value.is_infinite(), value < 0.0, 6, out);
}

/// The shortest digits that read back as the same number, as Rust gives them in scientific form,
/// laid out as PostgreSQL does: plain from 1e-4 up to `exponent_max` digits, else `1.5e+20`.
fn put_float(
    scientific: std::fmt::Arguments<'_>,
    nan: bool,
    infinite: bool,
    negative: bool,
    exponent_max: i32,
    out: &mut BytesMut,
) {
    if nan {
        return out.put_slice(b"NaN");
    }
    if infinite {
        return out.put_slice(if negative { b"-Infinity" } else { b"Infinity" });
    }
    let start = out.len();
    write!(out, "{scientific}").expect("a buffer takes any text");
    let mut text = [0u8; 40];
    let length = out.len() - start;
    text[..length].copy_from_slice(&out[start..]);
    out.truncate(start);
    let text = &text[..length];
    let e = text.iter().rposition(|byte| *byte == b'e').expect("scientific form has an exponent");
    let exponent: i32 = std::str::from_utf8(&text[e + 1..])
        .ok()
        .and_then(|exponent| exponent.parse().ok())
        .expect("an exponent is a number");
    let mantissa = &text[..e];
    let (sign, mantissa) = match mantissa.strip_prefix(b"-") {
        Some(rest) => (&b"-"[..], rest),
        None => (&b""[..], mantissa),
    };
    out.put_slice(sign);
    if !(-4..exponent_max).contains(&exponent) {
        out.put_slice(mantissa);
        out.put_slice(if exponent < 0 { b"e-" } else { b"e+" });
        let exponent = exponent.unsigned_abs().into();
        if exponent < 10 {
            out.put_u8(b'0');
        }
        return put_u64(exponent, out);
    }
    let (whole, fraction) = (mantissa[0], mantissa.get(2..).unwrap_or_default());
    if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', (-exponent - 1) as usize);
        out.put_u8(whole);
        out.put_slice(fraction);
        return;
    }
    let exponent = exponent as usize;
    out.put_u8(whole);
    if fraction.len() <= exponent {
        out.put_slice(fraction);
        out.put_bytes(b'0', exponent - fraction.len());
    } else {
        out.put_slice(&fraction[..exponent]);
        out.put_u8(b'.');
        out.put_slice(&fraction[exponent..]);
    }
}

fn put_decimal(value: i128, scale: i8, out: &mut BytesMut) {
    // Division of 128 bits is slow, and seldom needed.
    match u64::try_from(value.unsigned_abs()) {
        Ok(small) => {
            let mut digits = [0; 20];
            let start = digits_of(small, &mut digits);
            put_digits(&digits[start..], value < 0, scale, out);
        }
        Err(_) => put_digits(value.unsigned_abs().to_string().as_bytes(), value < 0, scale, out),
    }
}

/// A number of `digits` whose last `scale` are behind the point.
fn put_digits(digits: &[u8], negative: bool, scale: i8, out: &mut BytesMut) {
    if negative {
        out.put_u8(b'-');
    }
    if scale <= 0 {
        out.put_slice(digits);
        if digits != b"0" {
            out.put_bytes(b'0', scale.unsigned_abs().into());
        }
        return;
    }
    let scale = scale as usize;
    match digits.len().checked_sub(scale) {
        Some(n_whole) if n_whole > 0 => {
            out.put_slice(&digits[..n_whole]);
            out.put_u8(b'.');
            out.put_slice(&digits[n_whole..]);
        }
        _ => {
            out.put_slice(b"0.");
            out.put_bytes(b'0', scale - digits.len());
            out.put_slice(digits);
        }
    }
}

/// `numeric` in binary: groups of four decimal digits, aligned at the point; see `numeric_send`.
pub(crate) fn put_numeric(digits: &[u8], negative: bool, scale: i8, out: &mut BytesMut) {
    let mut digits = digits.to_vec();
    if scale < 0 {
        digits.resize(digits.len() + usize::from(scale.unsigned_abs()), b'0');
    }
    let scale = scale.max(0) as usize;
    put_numeric_scaled(&digits, negative, scale, out);
}

pub(crate) fn put_numeric_scaled(digits: &[u8], negative: bool, scale: usize, out: &mut BytesMut) {
    let mut padded = vec![b'0'; scale.saturating_sub(digits.len())];
    padded.extend_from_slice(digits);
    let n_whole = padded.len() - scale;
    padded.splice(0..0, std::iter::repeat_n(b'0', n_whole.wrapping_neg() & 3));
    padded.extend(std::iter::repeat_n(b'0', scale.wrapping_neg() & 3));
    let groups: Vec<i16> = padded
        .chunks(4)
        .map(|group| group.iter().fold(0, |acc, digit| acc * 10 + i16::from(digit - b'0')))
        .collect();
    let n_whole_groups = n_whole.div_ceil(4);
    let n_leading = groups.iter().take_while(|group| **group == 0).count();
    let n_trailing = groups[n_leading..].iter().rev().take_while(|group| **group == 0).count();
    let significant = &groups[n_leading..groups.len() - n_trailing];
    let weight = match significant {
        [] => 0,
        _ => n_whole_groups as i32 - 1 - n_leading as i32,
    };
    out.put_i16(significant.len() as i16);
    out.put_i16(weight as i16);
    out.put_u16(if negative && !significant.is_empty() { 0x4000 } else { 0 });
    out.put_i16(scale as i16);
    for group in significant {
        out.put_i16(*group);
    }
}

fn put_hex(value: &[u8], out: &mut BytesMut) {
    out.put_slice(b"\\x");
    hex(value, out);
}

fn hex(value: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(value.len() * 2);
    for byte in value {
        out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

fn put_uuid(value: &[u8], out: &mut BytesMut) {
    for (n, part) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
        if n > 0 {
            out.put_u8(b'-');
        }
        hex(&value[part], out);
    }
}

/// Year, month and day of a day since 1970. Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years begin in March, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

/// Appends `YYYY-MM-DD`; returns whether the year is before Christ, which is said at the end.
fn put_ymd(days: i64, out: &mut BytesMut) -> bool {
    let (year, month, day) = civil(days);
    let shown = if year > 0 { year } else { 1 - year } as u64;
    let ([m1, m2], [d1, d2]) = (pair(month), pair(day));
    if shown < 10_000 {
        let ([y1, y2], [y3, y4]) = (pair(shown / 100), pair(shown % 100));
        out.put_slice(&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]);
    } else {
        put_u64(shown, out);
        out.put_slice(&[b'-', m1, m2, b'-', d1, d2]);
    }
    year <= 0
}

fn put_date(days: i32, out: &mut BytesMut) {
    match days {
        i32::MAX => out.put_slice(b"infinity"),
        i32::MIN => out.put_slice(b"-infinity"),
        _ => {
            if put_ymd(days.into(), out) {
                out.put_slice(b" BC");
            }
        }
    }
}

/// `HH:MM:SS`, and the fraction without its trailing zeros.
fn put_time(micros: i64, out: &mut BytesMut) {
    let (seconds, fraction) = ((micros / 1_000_000) as u64, (micros % 1_000_000) as u64);
    let ([h1, h2], [m1, m2], [s1, s2]) =
        (pair(seconds / 3600 % 100), pair(seconds / 60 % 60), pair(seconds % 60));
    out.put_slice(&[h1, h2, b':', m1, m2, b':', s1, s2]);
    put_fraction(fraction, out);
}

fn put_fraction(micros: u64, out: &mut BytesMut) {
    if micros == 0 {
        return;
    }
    let ([a, b], [c, d], [e, f]) = (pair(micros / 10_000), pair(micros / 100 % 100), pair(micros % 100));
    let digits = [b'.', a, b, c, d, e, f];
    let length = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    out.put_slice(&digits[..length]);
}

fn put_timestamp(micros: i64, zoned: bool, out: &mut BytesMut) {
    match micros {
        i64::MAX => return out.put_slice(b"infinity"),
        i64::MIN => return out.put_slice(b"-infinity"),
        _ => (),
    }
    let before_christ = put_ymd(micros.div_euclid(MICROS_PER_DAY), out);
    out.put_u8(b' ');
    put_time(micros.rem_euclid(MICROS_PER_DAY), out);
    if zoned {
        out.put_slice(b"+00");
    }
    if before_christ {
        out.put_slice(b" BC");
    }
}

/// A span of time as Postgres keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) months: i32,
    pub(crate) days: i32,
    pub(crate) micros: i64,
}

impl Interval {
    /// A duration: days are not justified out of hours, as with `interval '25 hours'`.
    fn of_micros(micros: i64) -> Self {
        Interval { months: 0, days: 0, micros }
    }
}

/// `1 year 2 mons -3 days +04:05:06.7`; see `EncodeInterval`. A part behind a negative one carries
/// its plus sign.
fn put_interval(interval: Interval, out: &mut BytesMut) {
    let start = out.len();
    let mut before_is_negative = false;
    let parts = [(interval.months / 12, " year"), (interval.months % 12, " mon"), (interval.days, " day")];
    for (value, unit) in parts {
        if value == 0 {
            continue;
        }
        if out.len() > start {
            out.put_u8(b' ');
        }
        if before_is_negative && value > 0 {
            out.put_u8(b'+');
        }
        put_i64(value.into(), out);
        out.put_slice(unit.as_bytes());
        if value != 1 {
            out.put_u8(b's');
        }
        before_is_negative = value < 0;
    }
    if interval.micros == 0 && out.len() > start {
        return;
    }
    if out.len() > start {
        out.put_u8(b' ');
    }
    if interval.micros < 0 {
        out.put_u8(b'-');
    } else if before_is_negative {
        out.put_u8(b'+');
    }
    let micros = interval.micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    let hours = seconds / 3600;
    if hours < 10 {
        out.put_u8(b'0');
    }
    put_u64(hours, out);
    let ([m1, m2], [s1, s2]) = (pair(seconds / 60 % 60), pair(seconds % 60));
    out.put_slice(&[b':', m1, m2, b':', s1, s2]);
    put_fraction(micros % 1_000_000, out);
}

fn put_interval_binary(interval: Interval, out: &mut BytesMut) {
    out.put_i64(interval.micros);
    out.put_i32(interval.days);
    out.put_i32(interval.months);
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
