//! `session_start(ts, gap)` and `session_end(ts, gap)` OVER (PARTITION BY … ORDER BY ts): the session of each row.
//!
//! Rows of a partition that follow each other by less than `gap` are one session. It starts with its first
//! row and ends a gap behind its last. `SESSION(…)` in FROM is made of these two; as a SELECT
//! they run as they are, and in a pipeline an operator of their own maintains them.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDFImpl};

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SessionFunction {
    signature: Signature,
    is_start: bool,
}

impl SessionFunction {
    pub fn start() -> SessionFunction {
        SessionFunction { signature: Signature::any(2, Volatility::Immutable), is_start: true }
    }

    pub fn end() -> SessionFunction {
        SessionFunction { is_start: false, ..SessionFunction::start() }
    }
}

impl WindowUDFImpl for SessionFunction {
    fn name(&self) -> &str {
        if self.is_start { "session_start" } else { "session_end" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Sessions { is_start: self.is_start }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let fields = args.input_fields();
        match (fields[0].data_type(), fields[1].data_type()) {
            (DataType::Timestamp(_, _), DataType::Interval(IntervalUnit::MonthDayNano)) => {
                Ok(fields[0].as_ref().clone().with_name(args.name()).with_nullable(true).into())
            }
            (time, _) => plan_err!("{} takes a timestamp and an interval, not {time}", self.name()),
        }
    }
}

#[derive(Debug)]
struct Sessions {
    is_start: bool,
}

impl PartitionEvaluator for Sessions {
    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
        let [times, gap] = values else { return exec_err!("a session has a time and a gap") };
        let gap = gap.as_primitive::<IntervalMonthDayNanoType>().value(0);
        let micros = i64::from(gap.days) * 86_400_000_000 + gap.nanoseconds / 1000;
        if gap.months != 0 || micros <= 0 {
            return exec_err!("the gap of a session is a positive interval of days or less");
        }
        let gap = match times.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => micros.saturating_mul(1000),
            DataType::Timestamp(TimeUnit::Millisecond, _) => micros / 1000,
            DataType::Timestamp(TimeUnit::Second, _) => micros / 1_000_000,
            _ => micros,
        };
        let ticks = cast(times, &DataType::Int64)?;
        let ticks = ticks.as_primitive::<Int64Type>();
        let mut bounds: Vec<Option<i64>> = Vec::with_capacity(num_rows);
        let mut first = 0;
        while first < num_rows {
            if ticks.is_null(first) {
                bounds.push(None);
                first += 1;
                continue;
            }
            let mut last = first;
            while last + 1 < num_rows
                && ticks.is_valid(last + 1)
                && ticks.value(last + 1) < ticks.value(last).saturating_add(gap)
            {
                last += 1;
            }
            let bound = match self.is_start {
                true => ticks.value(first),
                false => ticks.value(last).saturating_add(gap),
            };
            bounds.resize(last + 1, Some(bound));
            first = last + 1;
        }
        let bounds = Int64Array::from(bounds);
        Ok(cast(&bounds, times.data_type())?)
    }
}
