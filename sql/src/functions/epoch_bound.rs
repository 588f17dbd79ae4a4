//! `epoch_bound(t, strict, unit, before, after)`: from which `now()` on a comparison with it changes its mind.
//!
//! With g(now) = trunc_unit(now + before) + after, all in microseconds, it is the least `now` of which
//! g(now) ≥ t, or with `strict` g(now) > t. Below it g(now) < t, or ≤ t, holds; from it on it does not. The
//! delta rewrite makes calls of it out of comparisons; nobody else has a use for it.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct EpochBound {
    signature: Signature,
}

impl EpochBound {
    pub fn new() -> EpochBound {
        EpochBound { signature: Signature::any(5, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for EpochBound {
    fn name(&self) -> &str {
        "epoch_bound"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types.first() {
            Some(DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64) => Ok(DataType::Int64),
            _ => plan_err!("epoch_bound takes a time"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, strict, unit, before, after] = &args.args[..] else {
            return exec_err!("epoch_bound takes a time and four constants");
        };
        let ColumnarValue::Scalar(ScalarValue::Boolean(Some(strict))) = strict else {
            return exec_err!("epoch_bound needs to know whether the comparison is strict");
        };
        let (unit, before, after) = (constant(unit)?, constant(before)?, constant(after)?);
        let times = time.to_array(args.number_rows)?;
        let ticks = ticks(&times)?;
        let (ticks_per_micro, micros_per_tick) = match times.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => (1000, 1),
            DataType::Timestamp(TimeUnit::Microsecond, _) => (1, 1),
            DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => (1, 1000),
            DataType::Timestamp(TimeUnit::Second, _) => (1, 1_000_000),
            DataType::Date32 => (1, 86_400_000_000),
            other => return exec_err!("epoch_bound takes a time, not {other}"),
        };
        let bound = |ticks: i64| -> i64 {
            // The least microsecond that is at the time, or behind it.
            let micros = match (ticks_per_micro, strict) {
                (1, false) => ticks.saturating_mul(micros_per_tick),
                (1, true) => ticks.saturating_mul(micros_per_tick).saturating_add(1),
                (per_micro, false) => {
                    ticks.div_euclid(per_micro) + i64::from(ticks.rem_euclid(per_micro) > 0)
                }
                (per_micro, true) => ticks.div_euclid(per_micro) + 1,
            };
            let wanted = micros.saturating_sub(after);
            let up = match wanted.rem_euclid(unit) {
                0 => wanted,
                over => wanted.saturating_add(unit - over),
            };
            up.saturating_sub(before)
        };
        let bounds: Int64Array = ticks.as_primitive::<Int64Type>().unary(bound);
        Ok(ColumnarValue::Array(Arc::new(bounds)))
    }
}

fn ticks(times: &ArrayRef) -> Result<ArrayRef> {
    Ok(match times.data_type() {
        DataType::Date32 => cast(&cast(times, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(times, &DataType::Int64)?,
    })
}

fn constant(value: &ColumnarValue) -> Result<i64> {
    match value {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(value))) => Ok(*value),
        _ => exec_err!("epoch_bound takes constants"),
    }
}
