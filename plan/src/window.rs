//! Window functions: what each row sees of the others of its partition.

use datafusion::arrow::datatypes::{DataType, FieldRef, Fields};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition};

use crate::operator::OrderColumn;

/// Output: the first `n_columns` of the input, then one column per call. What stands behind them in
/// the input are partition keys, order keys and arguments that are not columns themselves.
///
/// Rows that tie in `order_by` stand in the order of their first `n_columns` columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    pub n_columns: usize,
    pub partition: Vec<usize>,
    pub order_by: Vec<OrderColumn>,
    pub calls: Vec<WindowCall>,
    /// No input row is ever retracted.
    pub is_append_only: bool,
}

/// One window function call; its partition and order are its node's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowCall {
    pub function: WindowFunctionDefinition,
    pub args: Vec<WindowArg>,
    pub frame: WindowFrame,
    /// A Boolean column: only rows where it is true count.
    pub filter: Option<usize>,
    pub ignore_nulls: bool,
    pub distinct: bool,
    pub return_field: FieldRef,
    /// As the user wrote it, for EXPLAIN and messages.
    pub display: String,
}

/// An argument. Some functions take constants only, such as the offset of `lag`, so these stay what they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WindowArg {
    Column(usize),
    Constant(ScalarValue),
}

/// What is computed again when rows of a partition change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The rows at most so far from a changed one.
    Rows(Reach),
    /// The rows whose values in ORDER BY are near a changed one's.
    Values,
    /// Rows behind all others go on from what the partition has come to, and look so many rows back; any
    /// other change computes the partition.
    Running {
        back: usize,
    },
    Partition,
}

/// How many rows before and behind a row its results depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    pub back: usize,
    pub ahead: usize,
}

impl Window {
    pub fn scope(&self, input: &Fields) -> Scope {
        let is_ordered = !self.order_by.is_empty();
        let mut reach = Reach::default();
        let mut n_running = 0;
        let mut n_others = 0;
        for call in &self.calls {
            match call.reach(input) {
                Some(own) => {
                    reach.back = reach.back.max(own.back);
                    reach.ahead = reach.ahead.max(own.ahead);
                }
                None if call.runs(is_ordered) => n_running += 1,
                None => n_others += 1,
            }
        }
        match (n_running, n_others) {
            (0, 0) => Scope::Rows(reach),
            (1.., 0) if reach.ahead == 0 => Scope::Running { back: reach.back },
            _ if self.looks_at_values(input) => Scope::Values,
            _ => Scope::Partition,
        }
    }

    /// Whether all calls have frames of `RANGE` with offsets on both sides, by one column whose arithmetic is exact.
    fn looks_at_values(&self, input: &Fields) -> bool {
        let [order] = &self.order_by[..] else { return false };
        let data_type = input[order.column].data_type();
        let is_time = matches!(data_type, DataType::Timestamp(_, None));
        let is_bounded = |bound: &WindowFrameBound| match bound {
            WindowFrameBound::CurrentRow => true,
            WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) => match offset {
                // Days are equally long without a time zone; months are not.
                ScalarValue::IntervalMonthDayNano(Some(interval)) => is_time && interval.months == 0,
                offset => !is_time && !offset.is_null(),
            },
        };
        !self.partition.contains(&order.column)
            && (data_type.is_integer() || is_time)
            && self.calls.iter().all(|call| {
                call.frame.units == WindowFrameUnits::Range
                    && call.takes_its_frame()
                    && call.is_exact(input)
                    && is_bounded(&call.frame.start_bound)
                    && is_bounded(&call.frame.end_bound)
            })
    }
}

impl WindowCall {
    /// The reach, if it does not depend on the rows' values.
    fn reach(&self, input: &Fields) -> Option<Reach> {
        let name = self.function.name();
        let is_window_function = matches!(self.function, WindowFunctionDefinition::WindowUDF(_));
        if is_window_function && matches!(name, "lag" | "lead") && !self.ignore_nulls {
            let offset = match self.args.get(1) {
                None => 1,
                Some(WindowArg::Constant(value)) => match value.cast_to(&DataType::Int64).ok()? {
                    ScalarValue::Int64(offset) => offset?,
                    _ => return None,
                },
                Some(WindowArg::Column(_)) => return None,
            };
            let n_rows = usize::try_from(offset.unsigned_abs()).ok()?;
            // A negative offset looks the other way.
            return Some(match (name == "lag") == (offset > 0) {
                true => Reach { back: n_rows, ahead: 0 },
                false => Reach { back: 0, ahead: n_rows },
            });
        }
        if self.frame.units != WindowFrameUnits::Rows || !self.takes_its_frame() || !self.is_exact(input) {
            return None;
        }
        let n_rows = |value: &ScalarValue| match value {
            ScalarValue::UInt64(Some(n_rows)) => usize::try_from(*n_rows).ok(),
            _ => None,
        };
        let mut reach = Reach::default();
        for bound in [&self.frame.start_bound, &self.frame.end_bound] {
            match bound {
                WindowFrameBound::CurrentRow => (),
                WindowFrameBound::Preceding(value) => reach.back = reach.back.max(n_rows(value)?),
                WindowFrameBound::Following(value) => reach.ahead = reach.ahead.max(n_rows(value)?),
            }
        }
        Some(reach)
    }

    /// Whether it goes on from row to row: what it has come to is a number or an accumulator's state.
    pub fn runs(&self, is_ordered: bool) -> bool {
        let name = self.function.name();
        if let WindowFunctionDefinition::WindowUDF(_) = &self.function {
            return name == "row_number" || (is_ordered && matches!(name, "rank" | "dense_rank"));
        }
        matches!(&self.frame.start_bound, WindowFrameBound::Preceding(start) if start.is_null())
            && matches!(self.frame.end_bound, WindowFrameBound::CurrentRow)
            && (is_ordered || self.frame.units == WindowFrameUnits::Rows)
            && !self.distinct
            // Merging the state of another such accumulator gives the same, to the last bit, as having gone on.
            && matches!(name, "count" | "sum" | "avg" | "min" | "max")
    }

    /// Whether the results depend on the rows of the frame, in their order, and on nothing else.
    fn takes_its_frame(&self) -> bool {
        let name = self.function.name();
        match &self.function {
            WindowFunctionDefinition::WindowUDF(_) => {
                matches!(name, "first_value" | "last_value" | "nth_value")
            }
            WindowFunctionDefinition::AggregateUDF(_) => {
                matches!(name, "count" | "sum" | "avg" | "min" | "max")
            }
        }
    }

    /// A sum that slides adds and takes away; of floats that leaves traces of rows that are out of the
    /// frame, and the answer would depend on where the reading began.
    fn is_exact(&self, input: &Fields) -> bool {
        let is_float = |arg: &WindowArg| match arg {
            WindowArg::Column(idx) => input[*idx].data_type().is_floating(),
            WindowArg::Constant(value) => value.data_type().is_floating(),
        };
        let adds = matches!(self.function, WindowFunctionDefinition::AggregateUDF(_))
            && matches!(self.function.name(), "sum" | "avg");
        !(adds && self.args.iter().any(is_float))
    }
}
