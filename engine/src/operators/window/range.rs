//! Frames of `RANGE` with an offset on both sides: a row's results depend on the rows whose value in ORDER BY is
//! near its own.
//!
//! With offsets of at most *back* before and *ahead* behind, a changed row of value *v* is in the frames of
//! the rows from *v* − *ahead* to *v* + *back*, and those look no further than another *back* and *ahead*.

use arrow::array::ArrayRef;
use arrow::datatypes::{IntervalMonthDayNano, SchemaRef};
use arrow::row::RowConverter;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::WindowFrameBound;
use tidemill_plan as plan;

use crate::Error;

pub(super) struct RangeReach {
    descending: bool,
    /// The largest offsets; `None` is nothing.
    back: Option<ScalarValue>,
    ahead: Option<ScalarValue>,
}

/// The bytes, up to the order, of the first and the last row of interest.
#[derive(Debug)]
pub(super) struct RangeKeys {
    pub rows: (Vec<u8>, Vec<u8>),
    pub wanted: (Vec<u8>, Vec<u8>),
}

impl RangeReach {
    /// What the calls of a node reach that looks at values; `None` where the offsets do not go with them.
    pub fn of(window: &plan::Window, input: &SchemaRef) -> Option<RangeReach> {
        let order = &window.order_by[0];
        let data_type = input.field(order.column).data_type();
        let mut reach = RangeReach { descending: order.descending, back: None, ahead: None };
        let frames = window.calls.iter().map(|call| &call.frame);
        for bound in frames.flat_map(|frame| [&frame.start_bound, &frame.end_bound]) {
            let (side, offset) = match bound {
                WindowFrameBound::CurrentRow => continue,
                WindowFrameBound::Preceding(offset) => (&mut reach.back, offset),
                WindowFrameBound::Following(offset) => (&mut reach.ahead, offset),
            };
            let offset = match data_type.is_integer() {
                true => offset.cast_to(data_type).ok()?,
                false => fixed(offset)?,
            };
            if side.as_ref().is_none_or(|known| *known < offset) {
                *side = Some(offset);
            }
        }
        Some(reach)
    }

    /// What to read when rows from `first` to `last` have changed: `partition` is theirs, in arrays of one row.
    /// `None` where the values end before the reach does, or are NULL.
    pub fn keys(
        &self,
        converter: &RowConverter,
        partition: &[ArrayRef],
        first: &ScalarValue,
        last: &ScalarValue,
    ) -> Result<Option<RangeKeys>, Error> {
        if first.is_null() || last.is_null() {
            return Ok(None);
        }
        let bytes = |value: ScalarValue| -> Result<Vec<u8>, Error> {
            let mut columns = partition.to_vec();
            columns.push(value.to_array()?);
            Ok(converter.convert_columns(&columns)?.row(0).data().to_vec())
        };
        let shifted = || {
            let wanted_start = self.before(first, &self.ahead)?;
            let wanted_end = self.behind(last, &self.back)?;
            let start = self.before(&wanted_start, &self.back)?;
            let end = self.behind(&wanted_end, &self.ahead)?;
            Some([start, end, wanted_start, wanted_end])
        };
        let Some([start, end, wanted_start, wanted_end]) = shifted() else { return Ok(None) };
        Ok(Some(RangeKeys {
            rows: (bytes(start)?, bytes(end)?),
            wanted: (bytes(wanted_start)?, bytes(wanted_end)?),
        }))
    }

    fn before(&self, value: &ScalarValue, offset: &Option<ScalarValue>) -> Option<ScalarValue> {
        let Some(offset) = offset else { return Some(value.clone()) };
        if self.descending { value.add_checked(offset).ok() } else { value.sub_checked(offset).ok() }
    }

    fn behind(&self, value: &ScalarValue, offset: &Option<ScalarValue>) -> Option<ScalarValue> {
        let Some(offset) = offset else { return Some(value.clone()) };
        if self.descending { value.sub_checked(offset).ok() } else { value.add_checked(offset).ok() }
    }
}

/// An interval that is equally long wherever it begins; months are not.
fn fixed(interval: &ScalarValue) -> Option<ScalarValue> {
    const DAY_NANOS: i64 = 86_400_000_000_000;
    let ScalarValue::IntervalMonthDayNano(Some(interval)) = interval else { return None };
    if interval.months != 0 {
        return None;
    }
    let nanos = i64::from(interval.days).checked_mul(DAY_NANOS)?.checked_add(interval.nanoseconds)?;
    Some(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, nanos))))
}
