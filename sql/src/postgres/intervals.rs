//! Arithmetic of dates, times and intervals where PostgreSQL's results have other types than Arrow's.
//!
//! An interval has months, days and a time, none of which has a fixed length in the others. They are compared by the
//! length that a month of 30 days and a day of 24 hours would give, as PostgreSQL does; Arrow compares them field by field.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Decimal128Array, PrimitiveArray};
use datafusion::arrow::compute::{try_binary, try_unary, unary};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int32Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemill_core::SqlState;

use crate::error::Error;

pub(crate) const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
pub(crate) const TIME: DataType = DataType::Time64(TimeUnit::Microsecond);
pub(crate) const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

const NANOS_PER_DAY: i128 = 86_400_000_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
const DATETIME_OVERFLOW: SqlState = SqlState("22008");

/// One operation, with its arguments' types as PostgreSQL has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// `interval` as a number that orders it.
    Length,
    /// `date + integer`
    DateAdd,
    /// `date - integer`
    DateSubtract,
    /// `date - date`
    DateDifference,
    /// `timestamp - timestamp`
    TimestampDifference,
    /// `date + time`
    DateTime,
    /// `time + interval`
    TimeAdd,
    /// `time - interval`
    TimeSubtract,
    /// `time - time`
    TimeDifference,
    /// `interval * double precision`
    Multiply,
    /// `interval / double precision`
    Divide,
    /// `- interval`
    Negate,
}

impl Op {
    const ALL: [Op; 12] = [
        Op::Length,
        Op::DateAdd,
        Op::DateSubtract,
        Op::DateDifference,
        Op::TimestampDifference,
        Op::DateTime,
        Op::TimeAdd,
        Op::TimeSubtract,
        Op::TimeDifference,
        Op::Multiply,
        Op::Divide,
        Op::Negate,
    ];

    pub fn call(self, args: Vec<Expr>) -> Expr {
        ScalarUDF::from(Temporal::new(self)).call(args)
    }

    fn types(self) -> (Vec<DataType>, DataType) {
        let (date, float) = (DataType::Date32, DataType::Float64);
        match self {
            Op::Length => (vec![INTERVAL], DataType::Decimal128(38, 0)),
            Op::DateAdd | Op::DateSubtract => (vec![date.clone(), DataType::Int32], date),
            Op::DateDifference => (vec![date.clone(), date], DataType::Int32),
            Op::TimestampDifference => (vec![TIMESTAMP, TIMESTAMP], INTERVAL),
            Op::DateTime => (vec![date, TIME], TIMESTAMP),
            Op::TimeAdd | Op::TimeSubtract => (vec![TIME, INTERVAL], TIME),
            Op::TimeDifference => (vec![TIME, TIME], INTERVAL),
            Op::Multiply | Op::Divide => (vec![INTERVAL, float], INTERVAL),
            Op::Negate => (vec![INTERVAL], INTERVAL),
        }
    }
}

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    Op::ALL.into_iter().map(|op| Arc::new(ScalarUDF::from(Temporal::new(op)))).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Temporal {
    op: Op,
    signature: Signature,
}

impl Temporal {
    fn new(op: Op) -> Temporal {
        let (args, _) = op.types();
        Temporal { op, signature: Signature::exact(args, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Temporal {
    fn name(&self) -> &str {
        match self.op {
            Op::Length => "interval_length",
            Op::DateAdd => "date_pli",
            Op::DateSubtract => "date_mii",
            Op::DateDifference => "date_mi",
            Op::TimestampDifference => "timestamp_mi",
            Op::DateTime => "datetime_pl",
            Op::TimeAdd => "time_pl_interval",
            Op::TimeSubtract => "time_mi_interval",
            Op::TimeDifference => "time_mi_time",
            Op::Multiply => "interval_mul",
            Op::Divide => "interval_div",
            Op::Negate => "interval_um",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.op.types().1)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let n_rows = if is_constant { 1 } else { args.number_rows };
        let arrays: Vec<ArrayRef> =
            args.args.iter().map(|arg| arg.to_array(n_rows)).collect::<Result<_>>()?;
        let result = match &arrays[..] {
            [value] => self.unary(value)?,
            [left, right] => self.binary(left, right)?,
            _ => return internal_err!("an operator has one or two arguments"),
        };
        match is_constant {
            true => Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

impl Temporal {
    fn unary(&self, value: &ArrayRef) -> Result<ArrayRef> {
        let values = value.as_primitive::<IntervalMonthDayNanoType>();
        Ok(match self.op {
            Op::Length => {
                let lengths: Decimal128Array = unary(values, length);
                Arc::new(lengths.with_precision_and_scale(38, 0)?)
            }
            _ => {
                let negated: PrimitiveArray<IntervalMonthDayNanoType> =
                    try_unary(values, |value: IntervalMonthDayNano| {
                        let negated = || {
                            Some(IntervalMonthDayNano::new(
                                value.months.checked_neg()?,
                                value.days.checked_neg()?,
                                value.nanoseconds.checked_neg()?,
                            ))
                        };
                        negated().ok_or_else(|| out_of_range("interval"))
                    })?;
                Arc::new(negated)
            }
        })
    }

    fn binary(&self, left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
        let date_of = |days: Option<i32>| days.ok_or_else(|| out_of_range("date"));
        let span = |micros: i64| IntervalMonthDayNano::new(0, 0, micros * 1000);
        Ok(match self.op {
            Op::DateAdd | Op::DateSubtract => {
                let is_add = self.op == Op::DateAdd;
                let dates: PrimitiveArray<Date32Type> = try_binary(
                    left.as_primitive::<Date32Type>(),
                    right.as_primitive::<Int32Type>(),
                    |date, days| {
                        date_of(if is_add { date.checked_add(days) } else { date.checked_sub(days) })
                    },
                )?;
                Arc::new(dates)
            }
            Op::DateDifference => {
                let (left, right) = (left.as_primitive::<Date32Type>(), right.as_primitive::<Date32Type>());
                let days: PrimitiveArray<Int32Type> =
                    try_binary(left, right, |left, right| date_of(left.checked_sub(right)))?;
                Arc::new(days)
            }
            Op::TimestampDifference => {
                let left = left.as_primitive::<TimestampMicrosecondType>();
                let right = right.as_primitive::<TimestampMicrosecondType>();
                let spans: PrimitiveArray<IntervalMonthDayNanoType> =
                    try_binary(left, right, |left, right| {
                        let micros: i64 = left.checked_sub(right).ok_or_else(|| out_of_range("interval"))?;
                        let (days, micros) = (micros / MICROS_PER_DAY, micros % MICROS_PER_DAY);
                        Ok::<_, ArrowError>(IntervalMonthDayNano::new(0, days as i32, micros * 1000))
                    })?;
                Arc::new(spans)
            }
            Op::DateTime => {
                let (left, right) =
                    (left.as_primitive::<Date32Type>(), right.as_primitive::<Time64MicrosecondType>());
                let times: PrimitiveArray<TimestampMicrosecondType> =
                    try_binary(left, right, |date, time: i64| {
                        i64::from(date)
                            .checked_mul(MICROS_PER_DAY)
                            .and_then(|day| day.checked_add(time))
                            .ok_or_else(|| out_of_range("timestamp"))
                    })?;
                Arc::new(times)
            }
            Op::TimeAdd | Op::TimeSubtract => {
                let sign = if self.op == Op::TimeAdd { 1 } else { -1 };
                let left = left.as_primitive::<Time64MicrosecondType>();
                let right = right.as_primitive::<IntervalMonthDayNanoType>();
                let times: PrimitiveArray<Time64MicrosecondType> =
                    try_binary(left, right, |time: i64, interval: IntervalMonthDayNano| {
                        // Only the time of an interval counts, and it goes around the clock.
                        let shift = interval.nanoseconds / 1000 % MICROS_PER_DAY * sign;
                        Ok::<_, ArrowError>((time + shift).rem_euclid(MICROS_PER_DAY))
                    })?;
                Arc::new(times)
            }
            Op::TimeDifference => {
                let left = left.as_primitive::<Time64MicrosecondType>();
                let right = right.as_primitive::<Time64MicrosecondType>();
                let spans: PrimitiveArray<IntervalMonthDayNanoType> =
                    try_binary(left, right, |left: i64, right: i64| Ok::<_, ArrowError>(span(left - right)))?;
                Arc::new(spans)
            }
            _ => {
                let divides = self.op == Op::Divide;
                let left = left.as_primitive::<IntervalMonthDayNanoType>();
                let right = right.as_primitive::<Float64Type>();
                let scaled: PrimitiveArray<IntervalMonthDayNanoType> =
                    try_binary(left, right, |interval: IntervalMonthDayNano, factor: f64| {
                        if divides && factor == 0.0 {
                            return Err(ArrowError::DivideByZero);
                        }
                        let times = |field: f64| if divides { field / factor } else { field * factor };
                        scaled(interval, times).ok_or_else(|| out_of_range("interval"))
                    })?;
                Arc::new(scaled)
            }
        })
    }
}

/// The nanoseconds of an interval whose months have 30 days and whose days have 24 hours.
pub(crate) fn length(interval: IntervalMonthDayNano) -> i128 {
    let days = i128::from(interval.months) * 30 + i128::from(interval.days);
    days * NANOS_PER_DAY + i128::from(interval.nanoseconds)
}

/// Each field times a factor; what is left of a month goes into days, and of a day into hours. See `interval_mul`.
fn scaled(interval: IntervalMonthDayNano, times: impl Fn(f64) -> f64) -> Option<IntervalMonthDayNano> {
    let exact_months = times(f64::from(interval.months));
    let months = exact_months.trunc();
    let exact_days = times(f64::from(interval.days));
    let mut days = exact_days.trunc();
    // The rest of the month in days, to a microsecond, as PostgreSQL rounds it.
    let month_rest = ((exact_months - months) * 30.0 * 1e6).round() / 1e6;
    days += month_rest.trunc();
    let seconds =
        ((month_rest - month_rest.trunc() + exact_days - exact_days.trunc()) * 86_400.0 * 1e6).round() / 1e6;
    let nanos = (times(interval.nanoseconds as f64 / 1000.0) + seconds * 1e6).round() * 1000.0;
    let fits = |number: f64, max: f64| number.is_finite() && number.abs() <= max;
    (fits(months, f64::from(i32::MAX)) && fits(days, f64::from(i32::MAX)) && fits(nanos, i64::MAX as f64))
        .then(|| IntervalMonthDayNano::new(months as i32, days as i32, nanos as i64))
}

/// The interval that is `share` of the way from one to another.
pub(crate) fn between(
    low: IntervalMonthDayNano,
    high: IntervalMonthDayNano,
    share: f64,
) -> Result<IntervalMonthDayNano> {
    let difference = || {
        Some(IntervalMonthDayNano::new(
            high.months.checked_sub(low.months)?,
            high.days.checked_sub(low.days)?,
            high.nanoseconds.checked_sub(low.nanoseconds)?,
        ))
    };
    let step = difference().and_then(|difference| scaled(difference, |field| field * share));
    let sum = step.and_then(|step| {
        Some(IntervalMonthDayNano::new(
            low.months.checked_add(step.months)?,
            low.days.checked_add(step.days)?,
            low.nanoseconds.checked_add(step.nanoseconds)?,
        ))
    });
    Ok(sum.ok_or_else(|| out_of_range("interval"))?)
}

fn out_of_range(what: &str) -> ArrowError {
    let error = Error::new(DATETIME_OVERFLOW, format!("{what} out of range"));
    ArrowError::ExternalError(Box::new(DataFusionError::External(Box::new(error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_compared_by_length() {
        let day = IntervalMonthDayNano::new(0, 1, 0);
        let hours = |n: i64| IntervalMonthDayNano::new(0, 0, n * 3_600_000_000_000);
        assert_eq!(length(day), length(hours(24)));
        assert!(length(hours(168)) > length(IntervalMonthDayNano::new(0, 5, 0)));
        assert_eq!(length(IntervalMonthDayNano::new(1, 0, 0)), 30 * length(day));
    }

    #[test]
    fn fractions_of_a_field_go_into_the_next() {
        let half = |interval| scaled(interval, |field| field / 2.0);
        assert_eq!(half(IntervalMonthDayNano::new(1, 0, 0)), Some(IntervalMonthDayNano::new(0, 15, 0)));
        assert_eq!(
            half(IntervalMonthDayNano::new(0, 1, 0)),
            Some(IntervalMonthDayNano::new(0, 0, 12 * 3_600_000_000_000))
        );
    }
}
