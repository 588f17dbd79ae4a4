//! Functions of arrays of any type.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int32Builder, ListArray, ListBuilder, StringBuilder, UInt32Array,
    new_empty_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int32Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemill_core::SqlState;

use crate::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// An empty array for NULL: an array of no rows.
    OrEmpty,
    /// `array_dims(array)`: `[1:2][1:3]`
    Dims,
    /// `array_fill(value, lengths)`
    Fill,
    /// Behind `generate_subscripts(array, dimension)`: 1 to its length.
    Subscripts,
    /// `trim_array(array, n)`: without its last n.
    Trim,
}

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    [
        ("array_or_empty", Kind::OrEmpty),
        ("array_dims", Kind::Dims),
        ("array_fill", Kind::Fill),
        ("generate_subscripts_array", Kind::Subscripts),
        ("trim_array", Kind::Trim),
    ]
    .into_iter()
    .map(|(name, kind)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::from(ArrayFunction { name, kind, signature }))
    })
    .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayFunction {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

impl ScalarUDFImpl for ArrayFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let as_array = |data_type: &DataType| match data_type {
            DataType::Null => DataType::new_list(DataType::Utf8, true),
            other => other.clone(),
        };
        match (self.kind, types) {
            (Kind::OrEmpty | Kind::Dims, [array @ (DataType::List(_) | DataType::Null)]) => {
                Ok(vec![as_array(array)])
            }
            (Kind::Trim | Kind::Subscripts, [array @ DataType::List(_), n])
                if n.is_integer() || n.is_null() =>
            {
                Ok(vec![array.clone(), DataType::Int32])
            }
            (Kind::Fill, [value, DataType::List(_)]) => {
                Ok(vec![value.clone(), DataType::new_list(DataType::Int32, true)])
            }
            _ => {
                let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                plan_err!(
                    "No function matches the given name and argument types '{}({})'.",
                    self.name,
                    types.join(", ")
                )
            }
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::OrEmpty | Kind::Trim => types[0].clone(),
            Kind::Dims => DataType::Utf8,
            Kind::Subscripts => DataType::new_list(DataType::Int32, true),
            Kind::Fill => DataType::new_list(types[0].clone(), true),
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name, self.return_type(&types)?, self.kind != Kind::OrEmpty)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let n_rows = if is_constant { 1 } else { args.number_rows };
        let columns: Vec<ArrayRef> =
            args.args.iter().map(|arg| arg.to_array(n_rows)).collect::<Result<_>>()?;
        let result: ArrayRef = match self.kind {
            Kind::OrEmpty => {
                let lists = columns[0].as_list::<i32>();
                Arc::new(ListArray::try_new(
                    item_of(lists),
                    OffsetBuffer::from_lengths((0..lists.len()).map(|row| length(lists, row))),
                    picked(lists, |row, picks| picks.extend(range(lists, row, 0)))?,
                    None,
                )?)
            }
            Kind::Dims => {
                let mut texts = StringBuilder::new();
                for row in 0..n_rows {
                    texts.append_option(dims(columns[0].as_list::<i32>(), row));
                }
                Arc::new(texts.finish())
            }
            Kind::Subscripts => subscripts(columns[0].as_list::<i32>(), columns[1].as_primitive())?,
            Kind::Trim => trimmed(columns[0].as_list::<i32>(), &columns[1])?,
            Kind::Fill => filled(&columns[0], columns[1].as_list::<i32>())?,
        };
        match is_constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

fn failure(sqlstate: SqlState, message: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(sqlstate, message)))
}

fn item_of(lists: &ListArray) -> FieldRef {
    match lists.data_type() {
        DataType::List(item) => item.clone(),
        other => unreachable!("a list's type is a list, not {other}"),
    }
}

fn length(lists: &ListArray, row: usize) -> usize {
    if lists.is_null(row) { 0 } else { lists.value_length(row) as usize }
}

/// The positions of a row's elements, without the last `n_less`.
fn range(lists: &ListArray, row: usize, n_less: usize) -> std::ops::Range<u32> {
    let start = lists.value_offsets()[row] as u32;
    start..start + length(lists, row).saturating_sub(n_less) as u32
}

fn picked(lists: &ListArray, pick: impl Fn(usize, &mut Vec<u32>)) -> Result<ArrayRef> {
    let mut picks = Vec::new();
    (0..lists.len()).for_each(|row| pick(row, &mut picks));
    if picks.is_empty() {
        return Ok(new_empty_array(lists.values().data_type()));
    }
    Ok(take(lists.values(), &UInt32Array::from(picks), None)?)
}

fn trimmed(lists: &ListArray, counts: &ArrayRef) -> Result<ArrayRef> {
    let counts = counts.as_primitive::<Int32Type>();
    let n_less = |row: usize| if counts.is_null(row) { 0 } else { counts.value(row) as usize };
    for row in 0..lists.len() {
        let is_known = !lists.is_null(row) && !counts.is_null(row);
        if is_known && !(0..=length(lists, row) as i32).contains(&counts.value(row)) {
            let message = format!("number of elements to trim must be between 0 and {}", length(lists, row));
            return Err(failure(SqlState("2202E"), &message));
        }
    }
    let nulls = datafusion::arrow::buffer::NullBuffer::union(lists.nulls(), counts.nulls());
    Ok(Arc::new(ListArray::try_new(
        item_of(lists),
        OffsetBuffer::from_lengths((0..lists.len()).map(|row| range(lists, row, n_less(row)).len())),
        picked(lists, |row, picks| picks.extend(range(lists, row, n_less(row))))?,
        nulls,
    )?))
}

fn subscripts(lists: &ListArray, dimensions: &Int32Array) -> Result<ArrayRef> {
    let mut subscripts = ListBuilder::new(Int32Builder::new());
    for row in 0..lists.len() {
        // NULL, and a dimension that is not there, have no rows.
        let length = match dimensions.is_null(row) {
            false => depth_length(lists, row, dimensions.value(row)),
            true => 0,
        };
        (1..=length as i32).for_each(|subscript| subscripts.values().append_value(subscript));
        subscripts.append(true);
    }
    Ok(Arc::new(subscripts.finish()))
}

fn depth_length(lists: &ListArray, row: usize, dimension: i32) -> usize {
    match dimension {
        1 => length(lists, row),
        2.. if length(lists, row) > 0 => {
            let inner = lists.value(row);
            inner.as_list_opt::<i32>().map_or(0, |inner| depth_length(inner, 0, dimension - 1))
        }
        _ => 0,
    }
}

/// The lengths of an array in each dimension; `None` for NULL and for an empty one.
fn dims(lists: &ListArray, row: usize) -> Option<String> {
    if length(lists, row) == 0 {
        return None;
    }
    let inner = lists.value(row);
    let below = inner.as_list_opt::<i32>().and_then(|inner| dims(inner, 0)).unwrap_or_default();
    Some(format!("[1:{}]{below}", length(lists, row)))
}

/// An array of one dimension; PostgreSQL's of more are arrays of arrays here, whose type does not depend on a value.
fn filled(values: &ArrayRef, lengths: &ListArray) -> Result<ArrayRef> {
    const LENGTH_MAX: i32 = 1 << 27;
    let mut counts = Vec::with_capacity(values.len());
    for row in 0..values.len() {
        if lengths.is_null(row) {
            return Err(failure(SqlState("22004"), "dimension array or low bound array cannot be null"));
        }
        let dimensions = lengths.value(row);
        let dimensions = dimensions.as_primitive::<Int32Type>();
        counts.push(match dimensions.len() {
            0 => 0,
            1 if dimensions.is_null(0) => {
                return Err(failure(SqlState("22004"), "dimension values cannot be null"));
            }
            1 if (0..=LENGTH_MAX).contains(&dimensions.value(0)) => dimensions.value(0) as usize,
            1 => {
                return Err(failure(SqlState("54000"), "array size exceeds the maximum allowed (134217727)"));
            }
            _ => {
                return Err(failure(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "array_fill with more than one dimension is not supported",
                ));
            }
        });
    }
    let picks: Vec<u32> =
        counts.iter().enumerate().flat_map(|(row, count)| std::iter::repeat_n(row as u32, *count)).collect();
    let items = take(values, &UInt32Array::from(picks), None)?;
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    match ListArray::try_new(item, OffsetBuffer::from_lengths(counts), items, None) {
        Ok(lists) => Ok(Arc::new(lists)),
        Err(error) => internal_err!("{error}"),
    }
}
