//! One value of a system relation or function, between Rust and Arrow.
//!
//! System relations have some thousand rows at most and their functions are called on few of them, so that
//! one plain enum, row by row, is worth more than speed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, Field, IntervalUnit, SchemaRef, TimeUnit};
use datafusion::common::{Result, ScalarValue};

/// A value; which type it becomes is said by the column it is put in.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    /// Microseconds since 1970.
    Time(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::Int(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Value {
        Value::Int(value as i64)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl Value {
    /// An integer, also out of text.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Float(value) => Some(*value as i64),
            Value::Text(text) => text.trim().parse().ok(),
            Value::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    /// Text, as PostgreSQL prints the value; none for NULL.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Null => None,
            Value::Bool(value) => Some(if *value { "t" } else { "f" }.to_owned()),
            Value::Int(value) | Value::Time(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(text) => Some(text.clone()),
            Value::List(values) => {
                let values: Vec<String> =
                    values.iter().map(|value| value.text().unwrap_or_else(|| "NULL".to_owned())).collect();
                Some(format!("{{{}}}", values.join(",")))
            }
        }
    }

    /// As a value of an Arrow type; NULL where it has no such form.
    pub fn scalar(&self, data_type: &DataType) -> Result<ScalarValue> {
        let null = || ScalarValue::try_from(data_type);
        Ok(match (data_type, self) {
            (_, Value::Null) => null()?,
            (DataType::Boolean, Value::Bool(value)) => ScalarValue::Boolean(Some(*value)),
            (DataType::Boolean, Value::Text(text)) => ScalarValue::Boolean(Some(text == "t")),
            (DataType::Utf8, value) => ScalarValue::Utf8(value.text()),
            (DataType::Timestamp(TimeUnit::Microsecond, zone), Value::Time(micros)) => {
                ScalarValue::TimestampMicrosecond(Some(*micros), zone.clone())
            }
            (DataType::List(item), Value::List(values)) => {
                let values: Result<Vec<ScalarValue>> =
                    values.iter().map(|value| value.scalar(item.data_type())).collect();
                ScalarValue::List(ScalarValue::new_list(&values?, item.data_type(), true))
            }
            // `int2vector` and `oidvector` are text in the data files.
            (DataType::List(_), Value::Text(text)) => {
                let values: Vec<Value> = text.split_whitespace().map(Value::from).collect();
                return Value::List(values).scalar(data_type);
            }
            (DataType::Float32 | DataType::Float64, Value::Float(value)) => {
                ScalarValue::Float64(Some(*value)).cast_to(data_type)?
            }
            (numeric, value) if numeric.is_numeric() => match value.int() {
                Some(value) => ScalarValue::Int64(Some(value)).cast_to(numeric)?,
                None => null()?,
            },
            _ => null()?,
        })
    }

    /// The value of an array at a row.
    pub fn of(array: &dyn Array, row_idx: usize) -> Result<Value> {
        Value::of_scalar(&ScalarValue::try_from_array(array, row_idx)?)
    }

    /// The value of a constant.
    pub fn of_scalar(scalar: &ScalarValue) -> Result<Value> {
        if scalar.is_null() {
            return Ok(Value::Null);
        }
        Ok(match scalar {
            ScalarValue::Boolean(Some(value)) => Value::Bool(*value),
            ScalarValue::Utf8(Some(text))
            | ScalarValue::LargeUtf8(Some(text))
            | ScalarValue::Utf8View(Some(text)) => Value::Text(text.clone()),
            ScalarValue::Float32(Some(value)) => Value::Float(f64::from(*value)),
            ScalarValue::Float64(Some(value)) => Value::Float(*value),
            ScalarValue::TimestampMicrosecond(Some(micros), _) => Value::Time(*micros),
            ScalarValue::List(list) => {
                let items = list.value(0);
                let values: Result<Vec<Value>> =
                    (0..items.len()).map(|idx| Value::of(items.as_ref(), idx)).collect();
                Value::List(values?)
            }
            other if other.data_type().is_integer() => match other.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(Some(value)) => Value::Int(value),
                _ => Value::Null,
            },
            other => Value::Text(other.to_string()),
        })
    }
}

/// A list type of elements that may be NULL.
pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// The Arrow type for a type of PostgreSQL, by its name in `pg_type`.
pub fn arrow_type_of(type_name: &str) -> DataType {
    match type_name {
        "bool" => DataType::Boolean,
        "int2" => DataType::Int16,
        "int4" => DataType::Int32,
        "int8" | "oid" | "xid" | "regproc" | "regtype" | "regclass" => DataType::Int64,
        "float4" => DataType::Float32,
        "float8" => DataType::Float64,
        "numeric" => DataType::Decimal128(38, 10),
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        "interval" => DataType::Interval(IntervalUnit::MonthDayNano),
        "bytea" => DataType::Binary,
        "int2vector" => list_of(DataType::Int16),
        "oidvector" => list_of(DataType::Int64),
        "anyarray" => list_of(DataType::Utf8),
        name => match name.strip_prefix('_') {
            Some(item) => list_of(arrow_type_of(item)),
            None => DataType::Utf8,
        },
    }
}

/// Values of one column as an array.
pub fn to_array(values: &[Value], data_type: &DataType) -> Result<ArrayRef> {
    if values.is_empty() {
        return Ok(new_empty_array(data_type));
    }
    let scalars: Result<Vec<ScalarValue>> = values.iter().map(|value| value.scalar(data_type)).collect();
    ScalarValue::iter_to_array(scalars?)
}

/// Rows as a batch.
pub fn to_batch(schema: &SchemaRef, rows: &[Vec<Value>]) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (idx, field) in schema.fields().iter().enumerate() {
        let values: Vec<Value> = rows.iter().map(|row| row[idx].clone()).collect();
        columns.push(to_array(&values, field.data_type())?);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}
