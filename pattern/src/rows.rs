//! Rows of one partition, as far as they have been read.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};

use crate::Error;

/// A piece of a partition in its order.
///
/// A search begins at a row of it. Before that there are, as far as the partition has them, as many rows as conditions
/// and measures look back; behind it, as many as have been read. A search that would have to know more says so.
#[derive(Debug, Default)]
pub struct Rows {
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) len: usize,
    /// The first row is the partition's.
    pub(crate) is_first: bool,
    /// Behind the last row there is none.
    pub(crate) is_complete: bool,
    /// Times of rows that are yet to be read lie behind this, in microseconds.
    pub(crate) horizon: Option<i64>,
    /// The column that WITHIN measures, in microseconds.
    pub(crate) times: Option<Int64Array>,
    /// What has been found out about the rows, by variable: whether they fulfil a condition that depends on nothing
    /// else.
    pub(crate) known: Vec<Vec<Known>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    False,
    True,
}

/// Where a piece stands in its partition.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    /// The first row is the partition's.
    pub is_first: bool,
    /// Behind the last row there is none.
    pub is_complete: bool,
    /// Times of rows that are yet to be read lie behind this, in microseconds.
    pub horizon: Option<i64>,
}

impl Rows {
    /// `time` is the column that WITHIN measures.
    pub fn new(
        columns: Vec<ArrayRef>,
        len: usize,
        time: Option<usize>,
        extent: Extent,
    ) -> Result<Rows, Error> {
        let mut rows = Rows { is_first: extent.is_first, ..Rows::default() };
        rows.extend(columns, len, time, extent)?;
        Ok(rows)
    }

    /// Puts in the place of the columns longer ones, which begin with the same rows.
    pub fn extend(
        &mut self,
        columns: Vec<ArrayRef>,
        len: usize,
        time: Option<usize>,
        extent: Extent,
    ) -> Result<(), Error> {
        assert!(len >= self.len, "rows that have been read stay");
        assert_eq!(self.is_first, extent.is_first, "rows are added at the end");
        self.times = time.map(|time| micros(&columns[time])).transpose()?;
        self.columns = columns;
        self.len = len;
        self.is_complete = extent.is_complete;
        self.horizon = extent.horizon;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The time of a row that WITHIN measures, in microseconds.
    pub fn time(&self, row: usize) -> Option<i64> {
        self.times.as_ref().filter(|times| times.is_valid(row)).map(|times| times.value(row))
    }

    /// Whether a row can be part of a match that begins at `start`, as far as WITHIN is concerned.
    pub(crate) fn is_within(&self, start: usize, row: usize, within: i64) -> bool {
        let times = self.times.as_ref().expect("WITHIN has a time column");
        // A row without a time is near none.
        times.is_valid(start)
            && times.is_valid(row)
            && times.value(row).saturating_sub(times.value(start)) < within
    }

    /// Whether no row that is yet to be read can be part of a match that begins at `start`.
    pub(crate) fn is_over(&self, start: usize, within: Option<i64>) -> bool {
        let (Some(within), Some(times), Some(horizon)) = (within, &self.times, self.horizon) else {
            return false;
        };
        times.is_null(start) || horizon.saturating_add(1).saturating_sub(times.value(start)) >= within
    }
}

/// Times in microseconds, rounded down.
pub(crate) fn micros(times: &ArrayRef) -> Result<Int64Array, Error> {
    let ticks = match times.data_type() {
        DataType::Date32 => cast(&cast(times, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(times, &DataType::Int64)?,
    };
    let ticks = ticks.as_primitive::<Int64Type>();
    let per_micro = match times.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            return Ok(ticks.unary(|ticks| ticks.div_euclid(1000)));
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => 1000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
        DataType::Date32 => 86_400_000_000,
        _ => 1,
    };
    Ok(ticks.unary(|ticks: i64| ticks.saturating_mul(per_micro)))
}
