//! Functions that are written for one row.
//!
//! Most of PostgreSQL's functions are called on few rows or cost much more than their dispatch; they are a table of name,
//! types of arguments, type of result and a function of values. What runs over every row of a stream has kernels of its
//! own instead.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    Float64Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListBuilder, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Float64Type, Int32Type, Int64Type,
    IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemill_core::SqlState;

use crate::error::Error;
use crate::types::PG_TYPE;

/// The type of an argument or a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Bool,
    Int,
    Big,
    Float,
    /// With the scale that the value has; as a result, the scale given.
    Numeric(i8),
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Json,
    Jsonb,
    Texts,
    Ints,
    Bigs,
    Timestamps,
    Timestamptzs,
    Numerics,
    Jsons,
    Jsonbs,
    TextLists,
    /// Whatever there is, as text.
    Any,
}

/// A value of one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// Also days, and microseconds of a time or timestamp.
    Int(i64),
    Float(f64),
    Numeric(i128, i8),
    Text(String),
    Bytes(Vec<u8>),
    Interval(IntervalMonthDayNano),
    List(Vec<Value>),
}

impl Value {
    pub fn text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            other => unreachable!("the signature says text, not {other:?}"),
        }
    }

    pub fn int(&self) -> i64 {
        match self {
            Value::Int(int) => *int,
            other => unreachable!("the signature says an integer, not {other:?}"),
        }
    }

    pub fn float(&self) -> f64 {
        match self {
            Value::Float(float) => *float,
            other => unreachable!("the signature says a float, not {other:?}"),
        }
    }

    pub fn numeric(&self) -> (i128, i8) {
        match self {
            Value::Numeric(digits, scale) => (*digits, *scale),
            other => unreachable!("the signature says a numeric, not {other:?}"),
        }
    }

    pub fn interval(&self) -> IntervalMonthDayNano {
        match self {
            Value::Interval(interval) => *interval,
            other => unreachable!("the signature says an interval, not {other:?}"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            other => unreachable!("the signature says bytes, not {other:?}"),
        }
    }

    pub fn list(&self) -> &[Value] {
        match self {
            Value::List(values) => values,
            other => unreachable!("the signature says an array, not {other:?}"),
        }
    }

    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Value {
        Value::List(texts.into_iter().map(|text| Value::Text(text.into())).collect())
    }
}

/// What a function does with the values of a row.
pub(crate) type Eval = fn(&[Value]) -> Result<Value, Error>;

/// A function, or one of several with the same name.
#[derive(Clone)]
pub(crate) struct Overload {
    pub args: &'static [Kind],
    /// The last argument may come any number of times, or not at all.
    pub variadic: bool,
    pub result: Kind,
    pub eval: Eval,
}

impl fmt::Debug for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} -> {:?}", self.args, self.result)
    }
}

/// A function of rows.
#[derive(Debug)]
pub(crate) struct RowFunction {
    name: &'static str,
    overloads: Vec<Overload>,
    /// NULL for any argument gives NULL.
    strict: bool,
    signature: Signature,
}

impl PartialEq for RowFunction {
    fn eq(&self, other: &RowFunction) -> bool {
        self.name == other.name
    }
}

impl Eq for RowFunction {}

impl Hash for RowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// A function with one signature, NULL for NULL.
pub(crate) fn function(
    name: &'static str,
    args: &'static [Kind],
    result: Kind,
    eval: Eval,
) -> Arc<ScalarUDF> {
    overloaded(name, vec![Overload { args, variadic: false, result, eval }])
}

/// A function with several signatures, NULL for NULL.
pub(crate) fn overloaded(name: &'static str, overloads: Vec<Overload>) -> Arc<ScalarUDF> {
    make(name, overloads, true)
}

/// A function that is called for NULLs too.
pub(crate) fn nullable(
    name: &'static str,
    args: &'static [Kind],
    variadic: bool,
    result: Kind,
    eval: Eval,
) -> Arc<ScalarUDF> {
    make(name, vec![Overload { args, variadic, result, eval }], false)
}

/// A function with several signatures that is called for NULLs too.
pub(crate) fn lenient(name: &'static str, overloads: Vec<Overload>) -> Arc<ScalarUDF> {
    make(name, overloads, false)
}

fn make(name: &'static str, overloads: Vec<Overload>, strict: bool) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(RowFunction::new(name, overloads, strict)))
}

fn signature_of(overloads: &[Overload]) -> Signature {
    let is_open = overloads.iter().any(|overload| overload.variadic || overload.args.is_empty());
    match is_open {
        true => Signature::one_of(
            vec![
                datafusion::logical_expr::TypeSignature::UserDefined,
                datafusion::logical_expr::TypeSignature::Nullary,
            ],
            Volatility::Immutable,
        ),
        false => Signature::user_defined(Volatility::Immutable),
    }
}
impl Kind {
    fn data_type(self) -> DataType {
        let list = |item: Kind| DataType::List(Arc::new(item.field("item")));
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int => DataType::Int32,
            Kind::Big => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Numeric(scale) => DataType::Decimal128(38, scale),
            Kind::Text | Kind::Any | Kind::Json | Kind::Jsonb => DataType::Utf8,
            Kind::Bytes => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time64(TimeUnit::Microsecond),
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::Timestamptz => crate::types::timestamptz(),
            Kind::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Kind::Texts => list(Kind::Text),
            Kind::Ints => list(Kind::Int),
            Kind::Bigs => list(Kind::Big),
            Kind::Timestamps => list(Kind::Timestamp),
            Kind::Timestamptzs => list(Kind::Timestamptz),
            // As many digits behind the point as numeric has without a precision.
            Kind::Numerics => list(Kind::Numeric(10)),
            Kind::Jsons => list(Kind::Json),
            Kind::Jsonbs => list(Kind::Jsonb),
            Kind::TextLists => list(Kind::Texts),
        }
    }

    fn field(self, name: &str) -> Field {
        let field = Field::new(name, self.data_type(), true);
        let declared = match self {
            Kind::Json => "json",
            Kind::Jsonb => "jsonb",
            _ => return field,
        };
        field.with_metadata([(PG_TYPE.to_owned(), declared.to_owned())].into())
    }

    /// The type that an argument is cast to, and how far that is from what it is.
    fn coerced(self, from: &DataType) -> Option<(DataType, u32)> {
        let own = self.data_type();
        let is_text = matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        if *from == DataType::Null {
            return Some((own, 1));
        }
        match self {
            _ if *from == own => Some((own, 0)),
            // A literal without a type.
            _ if is_text => Some((
                own,
                if matches!(self, Kind::Text | Kind::Json | Kind::Jsonb | Kind::Any) { 0 } else { 9 },
            )),
            Kind::Any => Some((own, 1)),
            Kind::Int => {
                matches!(from, DataType::Int8 | DataType::Int16 | DataType::Int64).then_some((own, 2))
            }
            Kind::Big => from.is_integer().then_some((own, 1)),
            Kind::Float => from.is_numeric().then_some((own, 3)),
            Kind::Numeric(_) => {
                crate::postgres::exact_type(from).map(|exact| (exact, if from.is_integer() { 2 } else { 0 }))
            }
            Kind::Bytes => matches!(from, DataType::LargeBinary | DataType::BinaryView).then_some((own, 1)),
            Kind::Timestamp => match from {
                DataType::Timestamp(_, None) => Some((own, 0)),
                DataType::Date32 => Some((own, 1)),
                DataType::Timestamp(_, Some(_)) => Some((own, 4)),
                _ => None,
            },
            Kind::Timestamptz => match from {
                DataType::Timestamp(_, Some(_)) => Some((own, 0)),
                DataType::Timestamp(_, None) | DataType::Date32 => Some((own, 4)),
                _ => None,
            },
            Kind::Time => matches!(from, DataType::Time64(_) | DataType::Time32(_)).then_some((own, 1)),
            Kind::Interval => {
                matches!(from, DataType::Interval(_) | DataType::Duration(_)).then_some((own, 1))
            }
            Kind::Texts | Kind::Ints | Kind::Bigs => match from {
                DataType::List(item) if item.data_type().is_null() => Some((own, 1)),
                DataType::List(item) => match self {
                    Kind::Texts => Kind::Text.coerced(item.data_type()).map(|_| (own, 1)),
                    _ => item.data_type().is_integer().then_some((own, 1)),
                },
                _ => None,
            },
            _ => None,
        }
    }
}

impl RowFunction {
    pub fn new(name: &'static str, overloads: Vec<Overload>, strict: bool) -> RowFunction {
        RowFunction { name, signature: signature_of(&overloads), overloads, strict }
    }

    /// The types of the arguments, if there is a signature for just them, integers of any size and NULLs.
    pub fn exactly(&self, arg_types: &[DataType]) -> Option<Vec<DataType>> {
        let first = arg_types.first().filter(|data_type| !data_type.is_null())?;
        let (_, types, distance) = self.fitting(arg_types)?;
        (types[0] == *first && distance < arg_types.len() as u32 + 1).then_some(types)
    }

    /// The signature that fits best, and the types that its arguments are cast to.
    fn choose(&self, arg_types: &[DataType]) -> Option<(&Overload, Vec<DataType>)> {
        self.fitting(arg_types).map(|(overload, types, _)| (overload, types))
    }

    fn fitting(&self, arg_types: &[DataType]) -> Option<(&Overload, Vec<DataType>, u32)> {
        let fit = |overload: &Overload| -> Option<(Vec<DataType>, u32)> {
            let n_args = overload.args.len();
            let fits = match overload.variadic {
                true => arg_types.len() + 1 >= n_args,
                false => arg_types.len() == n_args,
            };
            if !fits {
                return None;
            }
            let mut cost = 0;
            let mut types = Vec::new();
            for (idx, from) in arg_types.iter().enumerate() {
                let (to, distance) = overload.args[idx.min(n_args - 1)].coerced(from)?;
                cost += distance;
                types.push(to);
            }
            Some((types, cost))
        };
        self.overloads
            .iter()
            .filter_map(|overload| fit(overload).map(|(types, cost)| (overload, types, cost)))
            .min_by_key(|(_, _, cost)| *cost)
    }
}

impl ScalarUDFImpl for RowFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match self.choose(arg_types) {
            Some((_, types)) => Ok(types),
            None => {
                let types: Vec<String> = arg_types.iter().map(ToString::to_string).collect();
                plan_err!(
                    "No function matches the given name and argument types '{}({})'.",
                    self.name,
                    types.join(", ")
                )
            }
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match self.choose(arg_types) {
            Some((overload, _)) => Ok(overload.result.data_type()),
            None => internal_err!("{} is not called with these types", self.name),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        match self.choose(&types) {
            Some((overload, _)) => Ok(Arc::new(overload.result.field(self.name))),
            None => internal_err!("{} is not called with these types", self.name),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let Some((overload, _)) = self.choose(&types) else {
            return internal_err!("{} is not called with these types", self.name);
        };
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let n_rows = if is_constant { 1 } else { args.number_rows };
        let arrays: Vec<ArrayRef> =
            args.args.iter().map(|arg| arg.to_array(n_rows)).collect::<Result<_>>()?;
        let mut results = Vec::with_capacity(n_rows);
        let mut values = Vec::with_capacity(arrays.len());
        for row_idx in 0..n_rows {
            values.clear();
            for array in &arrays {
                values.push(value_at(array, row_idx)?);
            }
            let is_null = self.strict && values.contains(&Value::Null);
            results.push(match is_null {
                true => Value::Null,
                false => {
                    (overload.eval)(&values).map_err(|error| DataFusionError::External(Box::new(error)))?
                }
            });
        }
        let array = array_of(&results, overload.result)?;
        match is_constant {
            // Not by `try_from_array`, which forgets what the elements were declared as.
            true if matches!(array.data_type(), DataType::List(_)) => {
                Ok(ColumnarValue::Scalar(ScalarValue::List(Arc::new(array.as_list::<i32>().clone()))))
            }
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)),
            false => Ok(ColumnarValue::Array(array)),
        }
    }
}

fn value_at(array: &ArrayRef, row_idx: usize) -> Result<Value> {
    if array.is_null(row_idx) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row_idx)),
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(row_idx).into()),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row_idx)),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row_idx)),
        DataType::Decimal128(_, scale) => {
            Value::Numeric(array.as_primitive::<Decimal128Type>().value(row_idx), *scale)
        }
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row_idx).to_owned()),
        DataType::Binary => Value::Bytes(array.as_binary::<i32>().value(row_idx).to_vec()),
        DataType::Date32 => Value::Int(array.as_primitive::<Date32Type>().value(row_idx).into()),
        DataType::Time64(TimeUnit::Microsecond) => {
            Value::Int(array.as_primitive::<Time64MicrosecondType>().value(row_idx))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Value::Int(array.as_primitive::<TimestampMicrosecondType>().value(row_idx))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            Value::Interval(array.as_primitive::<IntervalMonthDayNanoType>().value(row_idx))
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row_idx);
            let items = (0..items.len()).map(|idx| value_at(&items, idx));
            Value::List(items.collect::<Result<_>>()?)
        }
        other => return internal_err!("no function of rows takes {other}"),
    })
}

fn array_of(values: &[Value], kind: Kind) -> Result<ArrayRef> {
    macro_rules! built {
        ($builder:expr, $pattern:pat => $value:expr) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    $pattern => builder.append_value($value),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match kind {
        Kind::Bool => built!(BooleanBuilder::new(), Value::Bool(value) => *value),
        Kind::Int => built!(Int32Builder::new(), Value::Int(value) => {
            i32::try_from(*value).map_err(|_| {
                let error = Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "integer out of range");
                DataFusionError::External(Box::new(error))
            })?
        }),
        Kind::Big => built!(Int64Builder::new(), Value::Int(value) => *value),
        Kind::Float => built!(Float64Builder::new(), Value::Float(value) => *value),
        Kind::Numeric(scale) => {
            let builder = Decimal128Builder::new().with_precision_and_scale(38, scale)?;
            built!(builder, Value::Numeric(digits, of) => rescaled(*digits, *of, scale).ok_or_else(|| {
                let error = Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "value overflows numeric format");
                DataFusionError::External(Box::new(error))
            })?)
        }
        Kind::Text | Kind::Any | Kind::Json | Kind::Jsonb => {
            built!(StringBuilder::new(), Value::Text(text) => text)
        }
        Kind::Bytes => built!(BinaryBuilder::new(), Value::Bytes(bytes) => bytes),
        Kind::Date => built!(Date32Builder::new(), Value::Int(days) => *days as i32),
        Kind::Time => built!(Time64MicrosecondBuilder::new(), Value::Int(micros) => *micros),
        Kind::Timestamp => built!(TimestampMicrosecondBuilder::new(), Value::Int(micros) => *micros),
        Kind::Timestamptz => built!(
            TimestampMicrosecondBuilder::new().with_data_type(kind.data_type()),
            Value::Int(micros) => *micros
        ),
        Kind::Interval => built!(IntervalMonthDayNanoBuilder::new(), Value::Interval(interval) => *interval),
        Kind::TextLists => {
            let mut builder = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
            for value in values {
                let Value::List(rows) = value else {
                    builder.append(false);
                    continue;
                };
                for row in rows {
                    for text in row.list() {
                        match text {
                            Value::Text(text) => builder.values().values().append_value(text),
                            _ => builder.values().values().append_null(),
                        }
                    }
                    builder.values().append(true);
                }
                builder.append(true);
            }
            Arc::new(builder.finish())
        }
        Kind::Texts
        | Kind::Ints
        | Kind::Bigs
        | Kind::Timestamps
        | Kind::Timestamptzs
        | Kind::Numerics
        | Kind::Jsons
        | Kind::Jsonbs => {
            let item = match kind {
                Kind::Ints => Kind::Int,
                Kind::Bigs => Kind::Big,
                Kind::Timestamps => Kind::Timestamp,
                Kind::Timestamptzs => Kind::Timestamptz,
                Kind::Numerics => Kind::Numeric(10),
                Kind::Jsons => Kind::Json,
                Kind::Jsonbs => Kind::Jsonb,
                _ => Kind::Text,
            };
            let mut items = Vec::new();
            let mut lengths = Vec::with_capacity(values.len());
            let mut present = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Value::List(list) => {
                        items.extend_from_slice(list);
                        lengths.push(list.len());
                        present.push(true);
                    }
                    _ => {
                        lengths.push(0);
                        present.push(false);
                    }
                }
            }
            let items = array_of(&items, item)?;
            let DataType::List(field) = kind.data_type() else { unreachable!("a list's type is a list") };
            let offsets = datafusion::arrow::buffer::OffsetBuffer::from_lengths(lengths);
            let nulls = datafusion::arrow::buffer::NullBuffer::from(present);
            let items = cast(&items, field.data_type())?;
            Arc::new(datafusion::arrow::array::ListArray::try_new(field, offsets, items, Some(nulls))?)
        }
    })
}

/// Digits at another scale, rounded half away from zero.
pub(crate) fn rescaled(digits: i128, from: i8, to: i8) -> Option<i128> {
    if to >= from {
        return digits.checked_mul(10i128.checked_pow((to - from) as u32)?);
    }
    let divisor = 10i128.checked_pow((from - to) as u32)?;
    let (quotient, rest) = (digits / divisor, digits % divisor);
    Some(if rest.abs() * 2 >= divisor { quotient + digits.signum() } else { quotient })
}
