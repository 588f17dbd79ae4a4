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
//!
//! `RANGE` frames with an offset on both sides have such a reach in values; see [`range`]. Where calls go on from the first row to the current one (`row_number()`, a running sum), rows that come
//! behind all others are computed from what the partition had come to; see [`running`].

mod changes;
mod functions;
mod range;
mod running;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, UInt32Array, UInt64Array, new_empty_array};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::ScalarValue;
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::Scope;
use tidemill_storage::{Snapshot, SortColumn};

use self::changes::{Changes, Results, Segment, Side};
use self::functions::Functions;
use self::range::{RangeKeys, RangeReach};
use self::running::Carry;
use super::{
    BATCH_ROWS, Build, Grouping, Operator, Output, StateTable, StepContext, ascending, consolidate,
    output_batch,
};
use crate::Error;

pub(crate) struct Window {
    rows: StateTable,
    /// The carry of each partition, where the calls run.
    carries: Option<StateTable>,
    /// The input's columns in the order of the state: partition, order, the others.
    columns: Vec<usize>,
    n_partition: usize,
    /// The columns up to those of the order.
    n_order: usize,
    /// How many of the input's columns are in the output.
    n_columns: usize,
    functions: Functions,
    range: Option<RangeReach>,
    /// Encodes the columns up to those of the order; `None` where there are none.
    order_converter: Option<RowConverter>,
    output: SchemaRef,
}

impl Window {
    pub fn new(window: &plan::Window, build: &Build) -> Result<Window, Error> {
        let input = &build.inputs[0];
        let mut columns: Vec<usize> = window.partition.clone();
        let mut sort_columns = ascending(input, &columns);
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
        let n_partition = window.partition.len();
        let n_order = columns.len();
        let rest = super::others(input, &columns);
        sort_columns.extend(ascending(input, &rest));
        columns.extend(rest);
        let deal_by: Vec<usize> = (0..n_partition).collect();
        let rows = StateTable::new("rows", sort_columns, n_partition, deal_by.clone())?;
        let functions = Functions::new(window, &columns, rows.layout().schema(), input)?;
        let carries = match functions.scope {
            Scope::Rows(_) | Scope::Values | Scope::Partition => None,
            Scope::Running { .. } => {
                let mut sort_columns = ascending(input, &window.partition);
                sort_columns.extend(functions.carry_fields()?.iter().map(SortColumn::ascending));
                Some(StateTable::new("carries", sort_columns, n_partition, deal_by)?)
            }
        };
        Ok(Window {
            carries,
            columns,
            n_partition,
            n_order,
            n_columns: window.n_columns,
            range: match functions.scope {
                Scope::Values => RangeReach::of(window, input),
                _ => None,
            },
            order_converter: order_converter(&rows.layout().columns()[..n_order])?,
            rows,
            functions,
            output: build.output.clone(),
        })
    }

    /// The rows of a partition whose results can have changed with those from `first` to `last`, among
    /// those that they depend on.
    fn read<'a>(
        &self,
        snapshot: &'a Snapshot,
        partition: &[u8],
        (first, last): (&[u8], &[u8]),
        side: &mut Side<'a>,
    ) -> Result<(), Error> {
        let Scope::Rows(reach) = self.functions.scope else { return read_all(snapshot, partition, side) };
        let start = side.rows.len();
        let n_around = reach.back.saturating_add(reach.ahead);
        let mut is_negative = read_back(snapshot, partition, first, n_around, side);
        let first_idx = side.rows.len();
        let mut last_idx = first_idx;
        snapshot.lookup_from(partition, first, |row, weight| {
            if row > last && side.rows.len() - last_idx >= n_around {
                return false;
            }
            is_negative |= weight < 0;
            push(&mut side.rows, row, weight);
            if row <= last {
                last_idx = side.rows.len();
            }
            true
        });
        let end = side.rows.len();
        let wanted_start = start.max(first_idx.saturating_sub(reach.ahead));
        let wanted = wanted_start..end.min(last_idx.saturating_add(reach.back));
        side.segments.push(Segment { rows: start..end, wanted, ..Segment::default() });
        check(is_negative)
    }

    /// The rows of a partition from `first` on, which are new, with those before that they depend on.
    fn read_on<'a>(
        &self,
        snapshot: &'a Snapshot,
        partition: &[u8],
        first: &[u8],
        carry: Carry,
        side: &mut Side<'a>,
    ) -> Result<(), Error> {
        let Scope::Running { back } = self.functions.scope else {
            unreachable!("there is a carry only where calls run");
        };
        let start = side.rows.len();
        let mut is_negative = read_back(snapshot, partition, first, back, side);
        let wanted_start = side.rows.len();
        snapshot.lookup_from(partition, first, |row, weight| {
            is_negative |= weight < 0;
            push(&mut side.rows, row, weight);
            true
        });
        let end = side.rows.len();
        side.segments.push(Segment { rows: start..end, wanted: wanted_start..end, carry });
        check(is_negative)
    }

    /// Whether `first` lies behind all rows of its partition; `key` are its bytes up to the order.
    fn is_behind(&self, snapshot: &Snapshot, partition: &[u8], first: &[u8], key: &[u8]) -> bool {
        let mut is_behind = true;
        snapshot.lookup_from(partition, first, |_, _| {
            is_behind = false;
            false
        });
        if is_behind && self.functions.needs_peers() {
            snapshot.lookup_back(partition, first, |row, _| {
                is_behind = !row.starts_with(key);
                false
            });
        }
        is_behind
    }

    /// Gives what turns the results of `old` into those of `new`, whose segments are those of the same
    /// partitions; returns what each of the new has come to.
    fn difference(&self, old: &Side, new: &Side, output: &mut Output) -> Result<Vec<Carry>, Error> {
        let layout = self.rows.layout();
        let old_evaluated = self.functions.evaluate(layout.decode(old.rows.iter().copied())?, old)?;
        let new_evaluated = self.functions.evaluate(layout.decode(new.rows.iter().copied())?, new)?;
        let old_bytes = self.functions.encode(&old_evaluated.results)?;
        let new_bytes = self.functions.encode(&new_evaluated.results)?;
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
        let results = old_evaluated
            .results
            .iter()
            .zip(&new_evaluated.results)
            .map(|(old, new)| concat(&[old.as_ref(), new.as_ref()]))
            .collect::<Result<Vec<_>, _>>()?;
        let position =
            |column: usize| self.columns.iter().position(|known| *known == column).expect("a permutation");
        for start in (0..changes.rows.len()).step_by(BATCH_ROWS) {
            let chunk = start..changes.rows.len().min(start + BATCH_ROWS);
            let decoded = layout.decode(changes.rows[chunk.clone()].iter().copied())?;
            let mut columns: Vec<ArrayRef> =
                (0..self.n_columns).map(|column| decoded[position(column)].clone()).collect();
            let indices = UInt64Array::from(changes.results[chunk.clone()].to_vec());
            for result in &results {
                let result = take(result.as_ref(), &indices, None)?;
                columns.push(cast(&result, self.output.field(columns.len()).data_type())?);
            }
            output.push(output_batch(&self.output, columns, changes.weights[chunk].to_vec())?);
        }
        Ok(new_evaluated.carries)
    }

    /// The bytes of the rows up to the columns of the order.
    fn order_keys(&self, columns: &[ArrayRef]) -> Result<Option<Rows>, Error> {
        Ok(match &self.order_converter {
            Some(converter) if self.carries.is_some() => {
                Some(converter.convert_columns(&columns[..self.n_order])?)
            }
            _ => None,
        })
    }

    /// What to read when the rows from one to another, by their positions in `columns`, have changed.
    fn range_keys(
        &self,
        columns: &[ArrayRef],
        first_idx: usize,
        last_idx: usize,
    ) -> Result<Option<RangeKeys>, Error> {
        let (Some(range), Some(converter)) = (&self.range, &self.order_converter) else { return Ok(None) };
        let partition: Vec<ArrayRef> =
            columns[..self.n_partition].iter().map(|column| column.slice(first_idx, 1)).collect();
        // There is one column of the order, behind those of the partition.
        let order = &columns[self.n_partition];
        let first = ScalarValue::try_from_array(order, first_idx)?;
        let last = ScalarValue::try_from_array(order, last_idx)?;
        range.keys(converter, &partition, &first, &last)
    }

    /// Puts the carries of `groups`, whose partition columns are `keys`, in the place of `old`.
    fn write_carries(&mut self, keys: &[ArrayRef], old: &[&[u8]], new: &[Carry]) -> Result<(), Error> {
        let Some(table) = &mut self.carries else { return Ok(()) };
        // A partition without rows has none.
        let kept: Vec<u32> = (0..new.len() as u32).filter(|idx| new[*idx as usize].n_rows > 0).collect();
        let indices = UInt32Array::from(kept.clone());
        let carry = |idx: &u32| &new[*idx as usize];
        let mut columns =
            keys.iter().map(|key| take(key.as_ref(), &indices, None)).collect::<Result<Vec<_>, _>>()?;
        let number = |count: fn(&Carry) -> u64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(kept.iter().map(|idx| count(carry(idx)) as i64)))
        };
        columns.push(number(|carry| carry.n_rows));
        columns.push(number(|carry| carry.n_groups));
        let n_keys = keys.len();
        let types = table.layout().columns()[n_keys + 2..].iter().map(|column| column.data_type.clone());
        for (state_idx, data_type) in types.enumerate() {
            let states = kept.iter().map(|idx| carry(idx).states[state_idx].clone());
            let states = match kept.is_empty() {
                true => new_empty_array(&data_type),
                false => cast(&ScalarValue::iter_to_array(states)?, &data_type)?,
            };
            columns.push(states);
        }
        let encoded = table.layout().encode_rows(&columns)?;
        let rows: Vec<&[u8]> =
            old.iter().copied().chain((0..kept.len()).map(|idx| encoded.row(idx).data())).collect();
        let weights: Vec<i64> = (0..rows.len()).map(|idx| if idx < old.len() { -1 } else { 1 }).collect();
        table.arrangement.append(consolidate(&rows, &weights));
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
        let changed = self.rows.layout().encode_rows(&columns)?;
        let order_keys = self.order_keys(&columns)?;
        let before = self.rows.snapshot();
        self.rows.arrangement.add(&changed, input.weights().values());
        let after = self.rows.snapshot();
        let carries_before = self.carries.as_ref().map(StateTable::snapshot);

        let (ranges, members) = grouping.members();
        let (mut old, mut new) = (Side::default(), Side::default());
        let mut old_carries: Vec<&[u8]> = Vec::new();
        let mut new_carries: Vec<Carry> = Vec::new();
        for (group, range) in ranges.into_iter().enumerate() {
            let partition = grouping.key(group);
            let row = |idx: &u32| changed.row(*idx as usize).data();
            let rows = &members[range];
            let first = rows.iter().min_by_key(|idx| row(idx)).expect("a group has rows");
            let last = rows.iter().max_by_key(|idx| row(idx)).expect("a group has rows");
            let mut carry = None;
            if let (Some(snapshot), Some(table)) = (&carries_before, &self.carries) {
                snapshot.lookup_while(partition, |row, _| {
                    carry = Some(row);
                    false
                });
                old_carries.extend(carry);
                let key = order_keys.as_ref().map_or(partition, |keys| keys.row(*first as usize).data());
                if let Some(found) = carry
                    && self.is_behind(&before, partition, row(first), key)
                {
                    let carry = decode_carry(table, self.n_partition, found)?;
                    let nothing = old.rows.len()..old.rows.len();
                    old.segments.push(Segment {
                        rows: nothing.clone(),
                        wanted: nothing,
                        ..Segment::default()
                    });
                    self.read_on(&after, partition, row(first), carry, &mut new)?;
                } else {
                    read_all(&before, partition, &mut old)?;
                    read_all(&after, partition, &mut new)?;
                }
            } else if let Some(keys) = self.range_keys(&columns, *first as usize, *last as usize)? {
                read_range(&before, partition, &keys, &mut old)?;
                read_range(&after, partition, &keys, &mut new)?;
            } else {
                self.read(&before, partition, (row(first), row(last)), &mut old)?;
                self.read(&after, partition, (row(first), row(last)), &mut new)?;
            }
            // Small partitions share a batch; a large one has its own.
            if old.rows.len() + new.rows.len() >= BATCH_ROWS {
                new_carries.extend(self.difference(&old, &new, &mut output)?);
                (old, new) = (Side::default(), Side::default());
            }
        }
        new_carries.extend(self.difference(&old, &new, &mut output)?);
        let firsts = UInt32Array::from(grouping.firsts.clone());
        let keys = columns[..self.n_partition]
            .iter()
            .map(|column| take(column.as_ref(), &firsts, None))
            .collect::<Result<Vec<_>, _>>()?;
        self.write_carries(&keys, &old_carries, &new_carries)?;
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        std::iter::once(&mut self.rows).chain(&mut self.carries).collect()
    }
}

/// All rows of a partition.
fn read_all<'a>(snapshot: &'a Snapshot, partition: &[u8], side: &mut Side<'a>) -> Result<(), Error> {
    let start = side.rows.len();
    let mut is_negative = false;
    snapshot.lookup_while(partition, |row, weight| {
        is_negative |= weight < 0;
        push(&mut side.rows, row, weight);
        true
    });
    let end = side.rows.len();
    side.segments.push(Segment { rows: start..end, wanted: start..end, ..Segment::default() });
    check(is_negative)
}

/// The rows of a partition whose values lie within `keys`.
fn read_range<'a>(
    snapshot: &'a Snapshot,
    partition: &[u8],
    keys: &RangeKeys,
    side: &mut Side<'a>,
) -> Result<(), Error> {
    let is_within = |row: &[u8], end: &[u8]| row < end || row.starts_with(end);
    let start = side.rows.len();
    let (mut wanted_start, mut wanted_end) = (start, start);
    let mut is_negative = false;
    snapshot.lookup_from(partition, &keys.rows.0, |row, weight| {
        if !is_within(row, &keys.rows.1) {
            return false;
        }
        is_negative |= weight < 0;
        push(&mut side.rows, row, weight);
        if row < &keys.wanted.0[..] {
            wanted_start = side.rows.len();
        }
        if is_within(row, &keys.wanted.1) {
            wanted_end = side.rows.len();
        }
        true
    });
    let wanted = wanted_start..wanted_end.max(wanted_start);
    side.segments.push(Segment { rows: start..side.rows.len(), wanted, ..Segment::default() });
    check(is_negative)
}

fn order_converter(columns: &[SortColumn]) -> Result<Option<RowConverter>, Error> {
    let field = |column: &SortColumn| {
        let options = SortOptions { descending: column.descending, nulls_first: column.nulls_first };
        SortField::new_with_options(column.data_type.clone(), options)
    };
    Ok(match columns.is_empty() {
        true => None,
        false => Some(RowConverter::new(columns.iter().map(field).collect())?),
    })
}

/// The `n_rows` rows before one; says whether there are some of negative weight.
fn read_back<'a>(
    snapshot: &'a Snapshot,
    partition: &[u8],
    before: &[u8],
    n_rows: usize,
    side: &mut Side<'a>,
) -> bool {
    let start = side.rows.len();
    let mut is_negative = false;
    if n_rows > 0 {
        snapshot.lookup_back(partition, before, |row, weight| {
            is_negative |= weight < 0;
            push(&mut side.rows, row, weight);
            side.rows.len() - start < n_rows
        });
        side.rows[start..].reverse();
    }
    is_negative
}

/// One entry per copy.
fn push<'a>(rows: &mut Vec<&'a [u8]>, row: &'a [u8], weight: i64) {
    rows.extend(std::iter::repeat_n(row, usize::try_from(weight).unwrap_or(0)));
}

fn check(is_negative: bool) -> Result<(), Error> {
    match is_negative {
        true => Err(Error::NegativeWeight { operator: "OVER" }),
        false => Ok(()),
    }
}

fn decode_carry(table: &StateTable, n_partition: usize, row: &[u8]) -> Result<Carry, Error> {
    let columns = table.layout().decode([row])?;
    let values = columns[n_partition..]
        .iter()
        .map(|column| ScalarValue::try_from_array(column, 0))
        .collect::<Result<Vec<_>, _>>()?;
    let number = |idx: usize| match &values[idx] {
        ScalarValue::Int64(Some(number)) => *number as u64,
        other => unreachable!("a carry counts in Int64, not {other:?}"),
    };
    Ok(Carry { n_rows: number(0), n_groups: number(1), states: values[2..].to_vec() })
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

    /// From the first row of the partition to the last that ties with the current one.
    fn running() -> WindowFrame {
        WindowFrame::new(Some(false))
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
    }

    fn range(back: i64, ahead: i64) -> WindowFrame {
        let bound = |n: i64| ScalarValue::Int64(Some(n));
        WindowFrame::new_bounds(
            WindowFrameUnits::Range,
            WindowFrameBound::Preceding(bound(back)),
            WindowFrameBound::Following(bound(ahead)),
        )
    }

    #[test]
    fn only_values_near_a_change_are_evaluated() {
        // Seven rows within 30 of the new one are there before, and one more after.
        assert_eq!(n_evaluated(vec![sum(range(20, 10))], "+ a 5000"), 15);
        assert_eq!(n_evaluated(vec![sum(range(20, 0)), sum(range(0, 30))], "+ a 5005"), 21);
        bench(vec![sum(range(2, 1))])
            .check(
                "+ a 1; + a 2; + a 4; + a 8; + a NULL",
                "+ a 1 3; + a 2 3; + a 4 6; + a 8 8; + a NULL NULL",
            )
            .check("+ a 3", "- a 2 3; + a 2 6; + a 3 10; - a 4 6; + a 4 9")
            .check(
                "- a 2; + a NULL",
                "- a 1 3; + a 1 1; - a 2 6; - a 3 10; + a 3 8; - a 4 9; + a 4 7; + a NULL NULL",
            )
            .check("- a 8; + a 9223372036854775807", "- a 8 8; + a 9223372036854775807 9223372036854775807");
    }

    #[test]
    fn rows_behind_all_others_go_on_from_what_was() {
        assert_eq!(n_evaluated(vec![rank(), row_number()], "+ a 99999; + a 99998"), 2);
        assert_eq!(n_evaluated(vec![sum(running()), lag()], "+ a 99999"), 2);
        // A row that ties with the last changes what that one shows, for a frame of RANGE.
        assert_eq!(n_evaluated(vec![row_number()], "+ a 9990"), 2001);
        assert_eq!(n_evaluated(vec![sum(running())], "+ a 9990"), 2001);
        assert_eq!(n_evaluated(vec![rank()], "+ a 5"), 2001);
        assert_eq!(n_evaluated(vec![rank()], "- a 9990"), 1999);
    }

    #[test]
    fn running_calls_go_on_and_start_again() {
        bench(vec![row_number(), sum(running()), lag()])
            .check("+ a 1; + b 5", "+ a 1 1 1 NULL; + b 5 1 5 NULL")
            .check("+ a 2; + a 3", "+ a 2 2 3 1; + a 3 3 6 2")
            .check("+ a 3", "- a 3 3 6 2; + a 3 3 9 2; + a 3 4 9 3")
            .check("- a 1; + a 7", "- a 1 1 1 NULL; - a 2 2 3 1; + a 2 1 2 NULL; - a 3 3 9 2; + a 3 2 8 2; - a 3 4 9 3; + a 3 3 8 3; + a 7 4 15 3")
            .check("+ a NULL", "+ a NULL 5 15 7")
            .check("- a 2; -2 a 3; - a 7; - a NULL; + b 6", "- a 2 1 2 NULL; - a 3 2 8 2; - a 3 3 8 3; - a 7 4 15 3; - a NULL 5 15 7; + b 6 2 11 5")
            .check("+ a 4", "+ a 4 1 4 NULL");
    }
}
