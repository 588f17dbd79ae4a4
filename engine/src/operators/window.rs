//! Window functions: `OVER (PARTITION BY … ORDER BY …)`.
//!
//! State: all rows, by partition, then in the order asked for, then by the other columns, so that ties are
//! broken the same way every time. A step computes the results of the touched partitions as they were and as
//! they are with DataFusion's own window functions, and gives the difference.
//!
//! Where every call looks only so many rows back and ahead (`lag`, `lead`, `ROWS` frames with bounds), the results
//! that can change lie that near to the rows that did, and only these are computed:
//!
//! ```text
//!            ahead    changed    back
//!          ├───────┼──────────┼────────┤             results that may be others
//! ├────────┼───────────────────────────┼─────────┤   rows that they look at
//!    back                                 ahead
//! ```

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array, new_empty_array};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::WindowExpr;
use datafusion::physical_plan::windows::create_window_expr;
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::{WindowArg, WindowCall};
use tidemill_storage::{Snapshot, SortColumn};

use super::{
    BATCH_ROWS, Build, Grouping, Operator, Output, StateTable, StepContext, ascending, output_batch,
};
use crate::Error;

pub(crate) struct Window {
    state: StateTable,
    /// The input's columns in the order of the state.
    columns: Vec<usize>,
    n_partition: usize,
    /// How many of the input's columns are in the output.
    n_columns: usize,
    functions: Functions,
    /// `None`: a result may depend on any row of its partition.
    reach: Option<Reach>,
    output: SchemaRef,
}

/// How many rows before and behind a row its results depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reach {
    back: usize,
    ahead: usize,
}

impl Window {
    pub fn new(window: &plan::Window, build: &Build) -> Result<Window, Error> {
        let input = &build.inputs[0];
        let mut columns: Vec<usize> = Vec::new();
        let mut sort_columns = Vec::new();
        for column in &window.partition {
            columns.push(*column);
            sort_columns.push(SortColumn::ascending(input.field(*column)));
        }
        for order in &window.order_by {
            if columns.contains(&order.column) {
                continue;
            }
            columns.push(order.column);
            sort_columns.push(SortColumn {
                descending: order.descending,
                nulls_first: order.nulls_first,
                ..SortColumn::ascending(input.field(order.column))
            });
        }
        let rest = super::others(input, &columns);
        sort_columns.extend(ascending(input, &rest));
        columns.extend(rest);
        let n_partition = window.partition.len();
        let state = StateTable::new("rows", sort_columns, n_partition, (0..n_partition).collect())?;
        let functions = Functions::new(window, &columns, state.layout().schema())?;
        let reach = window.calls.iter().try_fold(Reach::default(), |reach, call| {
            let other = reach_of(call, input)?;
            Some(Reach { back: reach.back.max(other.back), ahead: reach.ahead.max(other.ahead) })
        });
        Ok(Window {
            state,
            columns,
            n_partition,
            n_columns: window.n_columns,
            functions,
            reach,
            output: build.output.clone(),
        })
    }

    /// The rows of a partition whose results `changed` (the first and the last row that did) can have
    /// changed, among those that they depend on.
    fn read<'a>(
        &self,
        snapshot: &'a Snapshot,
        partition: &[u8],
        changed: (&[u8], &[u8]),
        side: &mut Side<'a>,
    ) -> Result<(), Error> {
        let start = side.rows.len();
        let mut is_negative = false;
        let mut push = |rows: &mut Vec<&'a [u8]>, row, weight: i64| {
            is_negative |= weight < 0;
            rows.extend(std::iter::repeat_n(row, usize::try_from(weight).unwrap_or(0)));
        };
        let Some(reach) = self.reach else {
            snapshot.lookup_while(partition, |row, weight| {
                push(&mut side.rows, row, weight);
                true
            });
            if is_negative {
                return Err(Error::NegativeWeight { operator: "OVER" });
            }
            let end = side.rows.len();
            side.segments.push(Segment { rows: start..end, wanted: start..end });
            return Ok(());
        };
        let (first, last) = changed;
        let n_before = reach.back.saturating_add(reach.ahead);
        if n_before > 0 {
            snapshot.lookup_back(partition, first, |row, weight| {
                push(&mut side.rows, row, weight);
                side.rows.len() - start < n_before
            });
            side.rows[start..].reverse();
        }
        let first_idx = side.rows.len();
        let mut last_idx = first_idx;
        let n_behind = n_before;
        snapshot.lookup_from(partition, first, |row, weight| {
            if row > last && side.rows.len() - last_idx >= n_behind {
                return false;
            }
            push(&mut side.rows, row, weight);
            if row <= last {
                last_idx = side.rows.len();
            }
            true
        });
        if is_negative {
            return Err(Error::NegativeWeight { operator: "OVER" });
        }
        let end = side.rows.len();
        let wanted =
            start.max(first_idx.saturating_sub(reach.ahead))..end.min(last_idx.saturating_add(reach.back));
        side.segments.push(Segment { rows: start..end, wanted });
        Ok(())
    }

    /// What turns the results of `old` into those of `new`; their segments are those of the same partitions.
    fn difference(&self, old: &Side, new: &Side, output: &mut Output) -> Result<(), Error> {
        let old_results =
            self.functions.evaluate(self.state.layout().decode(old.rows.iter().copied())?, old)?;
        let new_results =
            self.functions.evaluate(self.state.layout().decode(new.rows.iter().copied())?, new)?;
        let old_bytes = self.functions.encode(&old_results)?;
        let new_bytes = self.functions.encode(&new_results)?;
        let n_old = old_bytes.num_rows();

        let mut changes = Changes::default();
        let (mut old_start, mut new_start) = (0, 0);
        for (old_segment, new_segment) in old.segments.iter().zip(&new.segments) {
            let old_rows = Results {
                rows: &old.rows[old_segment.wanted.clone()],
                results: &old_bytes,
                start: old_start,
            };
            let new_rows = Results {
                rows: &new.rows[new_segment.wanted.clone()],
                results: &new_bytes,
                start: new_start,
            };
            old_start += old_rows.rows.len();
            new_start += new_rows.rows.len();
            changes.compare(&old_rows, &new_rows, n_old);
        }
        let results = old_results
            .iter()
            .zip(&new_results)
            .map(|(old, new)| concat(&[old.as_ref(), new.as_ref()]))
            .collect::<Result<Vec<_>, _>>()?;
        let position =
            |column: usize| self.columns.iter().position(|known| *known == column).expect("a permutation");
        for start in (0..changes.rows.len()).step_by(BATCH_ROWS) {
            let chunk = start..changes.rows.len().min(start + BATCH_ROWS);
            let decoded = self.state.layout().decode(changes.rows[chunk.clone()].iter().copied())?;
            let mut columns: Vec<ArrayRef> =
                (0..self.n_columns).map(|column| decoded[position(column)].clone()).collect();
            let indices = UInt64Array::from(changes.results[chunk.clone()].to_vec());
            for result in &results {
                let result = take(result.as_ref(), &indices, None)?;
                columns.push(cast(&result, self.output.field(columns.len()).data_type())?);
            }
            output.push(output_batch(&self.output, columns, changes.weights[chunk].to_vec())?);
        }
        Ok(())
    }
}

impl Operator for Window {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("a window has one input") };
        let mut output = Output::default();
        if input.is_empty() {
            return Ok(output);
        }
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| input.batch().column(*column).clone()).collect();
        let grouping = Grouping::new(&columns[..self.n_partition], input.len())?;
        let changed = self.state.layout().encode_rows(&columns)?;
        let before = self.state.snapshot();
        self.state.arrangement.add(&changed, input.weights().values());
        let after = self.state.snapshot();

        let (ranges, members) = grouping.members();
        let (mut old, mut new) = (Side::default(), Side::default());
        for (group, range) in ranges.into_iter().enumerate() {
            let rows = || members[range.clone()].iter().map(|row_idx| changed.row(*row_idx as usize).data());
            let first = rows().min().expect("a group has rows");
            let last = rows().max().expect("a group has rows");
            self.read(&before, grouping.key(group), (first, last), &mut old)?;
            self.read(&after, grouping.key(group), (first, last), &mut new)?;
            // Small partitions share a batch; a large one has its own.
            if old.rows.len() + new.rows.len() >= BATCH_ROWS {
                self.difference(&old, &new, &mut output)?;
                (old, new) = (Side::default(), Side::default());
            }
        }
        self.difference(&old, &new, &mut output)?;
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.state]
    }
}

/// Rows of some partitions at one moment, one entry per copy.
#[derive(Debug, Default)]
struct Side<'a> {
    rows: Vec<&'a [u8]>,
    segments: Vec<Segment>,
}

/// Neighbouring rows of one partition.
#[derive(Debug)]
struct Segment {
    /// What is looked at.
    rows: Range<usize>,
    /// Whose results are wanted.
    wanted: Range<usize>,
}

/// Rows with their results.
struct Results<'a, 'r> {
    rows: &'a [&'r [u8]],
    results: &'a Rows,
    /// Where the results of the first row stand.
    start: usize,
}

impl Results<'_, '_> {
    fn of(&self, idx: usize) -> &[u8] {
        self.results.row(self.start + idx).data()
    }
}

/// What leaves and what enters the output.
#[derive(Default)]
struct Changes<'r> {
    rows: Vec<&'r [u8]>,
    /// Positions in the results of before followed by those of after.
    results: Vec<u64>,
    weights: Vec<i64>,
}

impl<'r> Changes<'r> {
    /// Both lists ascend; a row may stand there several times, with results of its own each time.
    fn compare(&mut self, old: &Results<'_, 'r>, new: &Results<'_, 'r>, n_old: usize) {
        let n_copies =
            |rows: &[&[u8]], from: usize| rows[from..].iter().take_while(|row| **row == rows[from]).count();
        let (mut old_idx, mut new_idx) = (0, 0);
        loop {
            let row = match (old.rows.get(old_idx), new.rows.get(new_idx)) {
                (Some(old_row), Some(new_row)) => *old_row.min(new_row),
                (Some(row), None) | (None, Some(row)) => *row,
                (None, None) => return,
            };
            let copies = |rows: &[&[u8]], from: usize| match rows.get(from) {
                Some(found) if *found == row => from..from + n_copies(rows, from),
                _ => from..from,
            };
            let old_copies = copies(old.rows, old_idx);
            let new_copies = copies(new.rows, new_idx);
            (old_idx, new_idx) = (old_copies.end, new_copies.end);
            let is_same = old_copies.len() == new_copies.len()
                && old_copies.clone().zip(new_copies.clone()).all(|(a, b)| old.of(a) == new.of(b));
            if is_same {
                continue;
            }
            let mut old_copies: Vec<usize> = old_copies.collect();
            let mut new_copies: Vec<usize> = new_copies.collect();
            old_copies.sort_by(|a, b| old.of(*a).cmp(old.of(*b)));
            new_copies.sort_by(|a, b| new.of(*a).cmp(new.of(*b)));
            let (mut old_copies, mut new_copies) =
                (old_copies.into_iter().peekable(), new_copies.into_iter().peekable());
            loop {
                let order = match (old_copies.peek(), new_copies.peek()) {
                    (Some(a), Some(b)) => old.of(*a).cmp(new.of(*b)),
                    (Some(_), None) => std::cmp::Ordering::Less,
                    (None, Some(_)) => std::cmp::Ordering::Greater,
                    (None, None) => break,
                };
                // The same result on both sides stays as it is.
                if order.is_le() {
                    let idx = old_copies.next().expect("it was there");
                    if order.is_lt() {
                        self.push(row, old.start + idx, -1);
                    }
                }
                if order.is_ge() {
                    let idx = new_copies.next().expect("it was there");
                    if order.is_gt() {
                        self.push(row, n_old + new.start + idx, 1);
                    }
                }
            }
        }
    }

    fn push(&mut self, row: &'r [u8], result: usize, weight: i64) {
        self.rows.push(row);
        self.results.push(result as u64);
        self.weights.push(weight);
    }
}

/// DataFusion's window functions over the columns of the state.
struct Functions {
    exprs: Vec<Arc<dyn WindowExpr>>,
    types: Vec<DataType>,
    schema: SchemaRef,
    encoder: RowConverter,
    /// How many rows have been evaluated.
    #[cfg(test)]
    n_evaluated: std::cell::Cell<usize>,
}

impl Functions {
    fn new(window: &plan::Window, columns: &[usize], schema: &SchemaRef) -> Result<Functions, Error> {
        let column = |column: usize| -> Arc<dyn PhysicalExpr> {
            let idx = columns.iter().position(|known| *known == column).expect("a permutation");
            Arc::new(Column::new(schema.field(idx).name(), idx))
        };
        let partition: Vec<_> = window.partition.iter().map(|idx| column(*idx)).collect();
        let order: Vec<_> = window
            .order_by
            .iter()
            .map(|order| {
                let options = SortOptions { descending: order.descending, nulls_first: order.nulls_first };
                PhysicalSortExpr { expr: column(order.column), options }
            })
            .collect();
        let mut exprs = Vec::new();
        let mut types = Vec::new();
        for call in &window.calls {
            let args: Vec<Arc<dyn PhysicalExpr>> = call
                .args
                .iter()
                .map(|arg| match arg {
                    WindowArg::Column(idx) => column(*idx),
                    WindowArg::Constant(value) => Arc::new(Literal::new(value.clone())),
                })
                .collect();
            let expr = create_window_expr(
                &call.function,
                call.display.clone(),
                &args,
                &partition,
                &order,
                Arc::new(call.frame.clone()),
                schema.clone(),
                call.ignore_nulls,
                call.distinct,
                call.filter.map(column),
            )?;
            // Says now what could only fail later: an aggregate that cannot slide, for one.
            expr.create_window_fn()?;
            types.push(expr.field()?.data_type().clone());
            exprs.push(expr);
        }
        let encoder = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        Ok(Functions {
            exprs,
            types,
            schema: schema.clone(),
            encoder,
            #[cfg(test)]
            n_evaluated: Default::default(),
        })
    }

    /// The results of the wanted rows, one array per call.
    fn evaluate(&self, columns: Vec<ArrayRef>, side: &Side) -> Result<Vec<ArrayRef>, Error> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        #[cfg(test)]
        self.n_evaluated.set(self.n_evaluated.get() + batch.num_rows());
        let mut parts: Vec<Vec<ArrayRef>> =
            self.types.iter().map(|data_type| vec![new_empty_array(data_type)]).collect();
        for segment in &side.segments {
            if segment.wanted.is_empty() {
                continue;
            }
            let rows = batch.slice(segment.rows.start, segment.rows.len());
            for (expr, parts) in self.exprs.iter().zip(&mut parts) {
                let results = expr.evaluate(&rows)?;
                assert_eq!(results.len(), rows.num_rows(), "{} gives one result per row", expr.name());
                let offset = segment.wanted.start - segment.rows.start;
                parts.push(results.slice(offset, segment.wanted.len()));
            }
        }
        parts
            .iter()
            .map(|parts| Ok(concat(&parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>())?))
            .collect()
    }

    fn encode(&self, results: &[ArrayRef]) -> Result<Rows, Error> {
        Ok(self.encoder.convert_columns(results)?)
    }
}

/// The reach of a call, if it has bounds that do not depend on the rows' values.
fn reach_of(call: &WindowCall, input: &SchemaRef) -> Option<Reach> {
    let name = call.function.name();
    match &call.function {
        WindowFunctionDefinition::WindowUDF(_) => match name {
            "lag" | "lead" if !call.ignore_nulls => {
                let offset = match call.args.get(1) {
                    None => 1,
                    Some(WindowArg::Constant(value)) => match value.cast_to(&DataType::Int64).ok()? {
                        ScalarValue::Int64(offset) => offset?,
                        _ => return None,
                    },
                    Some(WindowArg::Column(_)) => return None,
                };
                let n_rows = usize::try_from(offset.unsigned_abs()).ok()?;
                // A negative offset looks the other way.
                Some(match (name == "lag") == (offset > 0) {
                    true => Reach { back: n_rows, ahead: 0 },
                    false => Reach { back: 0, ahead: n_rows },
                })
            }
            "first_value" | "last_value" | "nth_value" => reach_of_frame(call),
            _ => None,
        },
        WindowFunctionDefinition::AggregateUDF(_) => {
            // A sum that slides adds and takes away; of floats that leaves traces of rows that are out of
            // the frame, and the answer would depend on where the reading began.
            let is_float = |arg: &WindowArg| match arg {
                WindowArg::Column(idx) => input.field(*idx).data_type().is_floating(),
                WindowArg::Constant(value) => value.data_type().is_floating(),
            };
            match name {
                "count" | "min" | "max" => reach_of_frame(call),
                "sum" | "avg" if !call.args.iter().any(is_float) => reach_of_frame(call),
                _ => None,
            }
        }
    }
}

fn reach_of_frame(call: &WindowCall) -> Option<Reach> {
    if call.frame.units != WindowFrameUnits::Rows {
        return None;
    }
    let n_rows = |value: &ScalarValue| match value {
        ScalarValue::UInt64(Some(n_rows)) => usize::try_from(*n_rows).ok(),
        _ => None,
    };
    let mut reach = Reach::default();
    for bound in [&call.frame.start_bound, &call.frame.end_bound] {
        match bound {
            WindowFrameBound::CurrentRow => (),
            WindowFrameBound::Preceding(value) => reach.back = reach.back.max(n_rows(value)?),
            WindowFrameBound::Following(value) => reach.ahead = reach.ahead.max(n_rows(value)?),
        }
    }
    Some(reach)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};
    use datafusion::common::ScalarValue;
    use datafusion::functions_aggregate::sum::sum_udaf;
    use datafusion::functions_window::lead_lag::{lag_udwf, lead_udwf};
    use datafusion::functions_window::rank::rank_udwf;
    use datafusion::functions_window::row_number::row_number_udwf;
    use datafusion::logical_expr::{
        WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
    };
    use tidemill_core::delta_schema;
    use tidemill_plan as plan;
    use tidemill_plan::{OrderColumn, WindowArg, WindowCall};

    use super::Window;
    use crate::operators::testing::{Bench, parse, schema, show};
    use crate::operators::{Build, Operator, StepContext};

    fn call(function: WindowFunctionDefinition, args: Vec<WindowArg>, frame: WindowFrame) -> WindowCall {
        WindowCall {
            display: function.name().to_owned(),
            function,
            args,
            frame,
            filter: None,
            ignore_nulls: false,
            distinct: false,
            return_field: Arc::new(Field::new("r", DataType::Int64, true)),
        }
    }

    fn default_frame() -> WindowFrame {
        WindowFrame::new(Some(false))
    }

    fn rows(start: u64, end: u64) -> WindowFrame {
        let bound = |n: u64| ScalarValue::UInt64(Some(n));
        WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(bound(start)),
            WindowFrameBound::Following(bound(end)),
        )
    }

    fn row_number() -> WindowCall {
        call(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new(), default_frame())
    }

    fn rank() -> WindowCall {
        call(WindowFunctionDefinition::WindowUDF(rank_udwf()), Vec::new(), default_frame())
    }

    fn lag() -> WindowCall {
        let args = vec![WindowArg::Column(1)];
        call(WindowFunctionDefinition::WindowUDF(lag_udwf()), args, default_frame())
    }

    fn lead(n_rows: i64, default: i64) -> WindowCall {
        let constant = |n| WindowArg::Constant(ScalarValue::Int64(Some(n)));
        let args = vec![WindowArg::Column(1), constant(n_rows), constant(default)];
        call(WindowFunctionDefinition::WindowUDF(lead_udwf()), args, default_frame())
    }

    fn sum(frame: WindowFrame) -> WindowCall {
        call(WindowFunctionDefinition::AggregateUDF(sum_udaf()), vec![WindowArg::Column(1)], frame)
    }

    /// Over `k:t v:i`, by `k`, in the order of `v`.
    fn window(calls: Vec<WindowCall>) -> plan::Window {
        plan::Window {
            n_columns: 2,
            partition: vec![0],
            order_by: vec![OrderColumn { column: 1, descending: false, nulls_first: false }],
            calls,
            is_append_only: false,
        }
    }

    fn bench(calls: Vec<WindowCall>) -> Bench {
        let mut output = vec!["k:t", "v:i"];
        output.extend(["a:i", "b:i", "c:i"].iter().take(calls.len()));
        Bench::new(plan::Operator::Window(window(calls)), &["k:t v:i"], &output)
    }

    #[test]
    fn rows_behind_an_insertion_move_down() {
        bench(vec![row_number()])
            .check("+ a 1; + a 3; + b 9", "+ a 1 1; + a 3 2; + b 9 1")
            .check("+ a 2", "+ a 2 2; - a 3 2; + a 3 3")
            .check("- a 1", "- a 1 1; - a 2 2; + a 2 1; - a 3 3; + a 3 2")
            .check("- a 2; - a 3", "- a 2 1; - a 3 2")
            .check("- b 9; + c 1", "- b 9 1; + c 1 1");
    }

    #[test]
    fn copies_have_results_of_their_own() {
        bench(vec![row_number(), rank()])
            .check("+3 a 5", "+ a 5 1 1; + a 5 2 1; + a 5 3 1")
            .check("+ a 4; - a 5", "+ a 4 1 1; - a 5 1 1; - a 5 2 1; - a 5 3 1; + a 5 2 2; + a 5 3 2")
            .check("- a 4; + a 5", "- a 4 1 1; - a 5 2 2; - a 5 3 2; + a 5 1 1; + a 5 2 1; + a 5 3 1");
    }

    #[test]
    fn neighbours_change_on_both_sides() {
        bench(vec![lag(), lead(2, -1)])
            .check("+ a 1; + a 2; + a 3", "+ a 1 NULL 3; + a 2 1 -1; + a 3 2 -1")
            .check("+ a 4", "- a 2 1 -1; + a 2 1 4; + a 4 3 -1")
            .check("- a 2", "- a 1 NULL 3; + a 1 NULL 4; - a 2 1 4; - a 3 2 -1; + a 3 1 -1")
            .check("- a 1; - a 3; - a 4", "- a 1 NULL 4; - a 3 1 -1; - a 4 3 -1");
    }

    #[test]
    fn sums_over_a_frame_of_rows() {
        bench(vec![sum(rows(1, 1))])
            .check("+ a 1; + a 2; + a 4; + a 8", "+ a 1 3; + a 2 7; + a 4 14; + a 8 12")
            .check("- a 2", "- a 1 3; + a 1 5; - a 2 7; - a 4 14; + a 4 13")
            .check("+ a NULL", "- a 8 12; + a 8 12; + a NULL 8");
    }

    #[test]
    fn retraction_of_nothing_is_an_error() {
        bench(vec![rank()]).check("+ a 1", "+ a 1 1").fails("-2 a 1", "never there");
        bench(vec![lag()]).check("+ a 1", "+ a 1 NULL").fails("-2 a 1", "never there");
    }

    /// The rows that a step over a partition of a thousand rows evaluates, before and after it.
    fn n_evaluated(calls: Vec<WindowCall>, change: &str) -> usize {
        let input = schema("k:t v:i");
        let names = ["k:t v:i a:i", "k:t v:i a:i b:i"][calls.len() - 1];
        let operator = plan::Operator::Window(window(calls.clone()));
        let build = Build {
            operator: &operator,
            inputs: vec![input.clone()],
            output: delta_schema(&schema(names)),
            filter: None,
        };
        let mut operator = Window::new(&window(calls), &build).unwrap();
        let first: String = (0..1000).map(|v| format!("+ a {};", v * 10)).collect();
        operator.step(&StepContext::default(), &[parse(&input, &first)]).unwrap();
        let n_before = operator.functions.n_evaluated.get();
        let output = operator.step(&StepContext::default(), &[parse(&input, change)]).unwrap();
        assert!(!show(&output.batches).is_empty());
        operator.functions.n_evaluated.get() - n_before
    }

    #[test]
    fn only_rows_near_a_change_are_evaluated() {
        assert!(n_evaluated(vec![lag(), lead(1, 0)], "+ a 5000") <= 12);
        assert!(n_evaluated(vec![sum(rows(3, 0))], "+ a 99999") <= 12);
        assert!(n_evaluated(vec![sum(rows(3, 0))], "- a 10; + a 11") <= 24);
        // What counts from the beginning has to look at all of it.
        assert_eq!(n_evaluated(vec![rank()], "+ a 5"), 2001);
    }
}
