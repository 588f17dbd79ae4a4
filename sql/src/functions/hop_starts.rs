//! `hop_starts(slide, size, ts)`: the starts of all hopping windows that contain a time, and
//! `cumulate_ends(step, size, ts)`: the ends of all cumulating ones.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListBuilder, TimestampMicrosecondBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

/// Windows start at multiples of `slide` since 1970-01-01 and are `size` long, so that a time is in
/// `size / slide` of them. A cumulating window starts at a multiple of `size` and grows by a step until it is
/// `size` long. Both are fixed durations: months have no fixed length.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WindowBounds {
    signature: Signature,
    is_hop: bool,
}

impl WindowBounds {
    pub fn cumulate() -> WindowBounds {
        WindowBounds { is_hop: false, ..WindowBounds::hop() }
    }

    pub fn hop() -> WindowBounds {
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        let exact = |time: DataType| TypeSignature::Exact(vec![interval.clone(), interval.clone(), time]);
        let signature = Signature::one_of(
            vec![
                exact(DataType::Timestamp(TimeUnit::Microsecond, None)),
                exact(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            ],
            Volatility::Immutable,
        );
        WindowBounds { signature, is_hop: true }
    }
}

impl ScalarUDFImpl for WindowBounds {
    fn name(&self) -> &str {
        if self.is_hop { "hop_starts" } else { "cumulate_ends" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [_, _, time] => Ok(DataType::List(Arc::new(Field::new_list_field(time.clone(), true)))),
            _ => plan_err!("{} takes a step, a size and a time", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [slide, size, time] = &args.args[..] else {
            return exec_err!("{} takes a step, a size and a time", self.name());
        };
        let slide = literal_micros(slide)?;
        let size = literal_micros(size)?;
        if slide <= 0 || size <= 0 || size % slide != 0 {
            return exec_err!("the size of a window, {size} µs, is no multiple of its step, {slide} µs");
        }
        let times = time.to_array(args.number_rows)?;
        let without_zone = cast(&times, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let micros = without_zone.as_primitive::<TimestampMicrosecondType>();
        let mut starts = ListBuilder::new(TimestampMicrosecondBuilder::new());
        for row_idx in 0..micros.len() {
            if micros.is_null(row_idx) {
                starts.append(false);
                continue;
            }
            let last = micros.value(row_idx).div_euclid(slide) * slide;
            if self.is_hop {
                for back in (0..size / slide).rev() {
                    starts.values().append_value(last - back * slide);
                }
            } else {
                let end = micros.value(row_idx).div_euclid(size) * size + size;
                for step in (0..=(end - last) / slide - 1).rev() {
                    starts.values().append_value(end - step * slide);
                }
            }
            starts.append(true);
        }
        let starts: ArrayRef = Arc::new(starts.finish());
        Ok(ColumnarValue::Array(cast(&starts, args.return_type())?))
    }
}

fn literal_micros(value: &ColumnarValue) -> Result<i64> {
    match value {
        ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval))) if interval.months == 0 => {
            Ok(i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1000)
        }
        _ => exec_err!("the step and the size of a window are constant intervals of days or less"),
    }
}
