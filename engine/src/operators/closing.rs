//! When values of a time column are complete.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use tidemill_plan::{CloseSource, RelationId};

use crate::Error;

/// The last time that is complete, in microseconds.
pub(super) fn limit(sources: &[CloseSource], watermarks: &BTreeMap<RelationId, i64>) -> Option<i64> {
    let of = |source: &CloseSource| {
        watermarks.get(&source.relation).map(|watermark| watermark.saturating_sub(source.delay))
    };
    sources.iter().map(of).collect::<Option<Vec<i64>>>()?.into_iter().min()
}

/// Times in microseconds, rounded down.
pub(super) fn micros(times: &ArrayRef) -> Result<Int64Array, Error> {
    Ok(micros_of_ticks(ticks(times)?, times.data_type()))
}

/// The [`ticks`] of times of a type in microseconds, rounded down.
pub(super) fn micros_of_ticks(ticks: Int64Array, data_type: &DataType) -> Int64Array {
    let per_micro = match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            return ticks.unary(|ticks| ticks.div_euclid(1000));
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => 1000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
        DataType::Date32 => 86_400_000_000,
        _ => 1,
    };
    ticks.unary(|ticks: i64| ticks.saturating_mul(per_micro))
}

/// Times in their own unit.
pub(super) fn ticks(times: &ArrayRef) -> Result<Int64Array, Error> {
    let ticks = match times.data_type() {
        DataType::Date32 => cast(&cast(times, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(times, &DataType::Int64)?,
    };
    Ok(ticks.as_primitive::<Int64Type>().clone())
}

/// Whether each time is complete; one that is NULL belongs nowhere, and nothing will ever complete it.
pub(super) fn is_complete(micros: &Int64Array, limit: Option<i64>) -> Vec<bool> {
    (0..micros.len())
        .map(|row| micros.is_null(row) || limit.is_some_and(|limit| micros.value(row) <= limit))
        .collect()
}
