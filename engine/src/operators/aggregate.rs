//! `GROUP BY`: for each touched group the old row out and the new row in.
//!
//! State is one row per group: its key, how many rows it has, and what each [`Call`] knows of it.
//!
//! With `EMIT ON WINDOW CLOSE` nothing leaves while a group is open. Its time column comes first in the
//! state's order, so that closing is a scan from the start up to the watermark. A row for a group
//! that has been closed is late: it is handed out beside the output.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{and, cast, concat, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::Close;
use tidemill_storage::{Run, RunBuilder, Snapshot, SortColumn};

use super::calls::{Call, Touched, ValuesLayout};
use super::expiry::Expiry;
use super::{Build, Grouping, LateRows, Operator, Output, StateTable, StepContext, output_batch};
use crate::Error;

pub(crate) struct Aggregate {
    /// The group columns in the order of the state's key.
    key_columns: Vec<usize>,
    calls: Vec<Call>,
    groups: StateTable,
    close: Option<Close>,
    /// Groups leave before they close as well.
    is_early: bool,
    expiry: Option<Expiry>,
    output: SchemaRef,
}

impl Aggregate {
    pub fn new(aggregate: &plan::Aggregate, build: &Build) -> Result<Aggregate, Error> {
        let input = &build.inputs[0];
        let mut key_columns: Vec<usize> = (0..aggregate.n_groups).collect();
        if let Some(close) = &aggregate.close {
            key_columns.retain(|column| *column != close.column);
            key_columns.insert(0, close.column);
        }
        // Rows are dealt out by the group columns in the plan's order.
        let deal_by: Vec<usize> = (0..aggregate.n_groups)
            .map(|group| key_columns.iter().position(|column| *column == group).expect("a permutation"))
            .collect();
        let key: Vec<SortColumn> =
            key_columns.iter().map(|column| SortColumn::ascending(input.field(*column))).collect();

        let mut columns = key.clone();
        columns.push(SortColumn::ascending(&Field::new("__rows", DataType::Int64, false)));
        let is_append_only = aggregate.is_append_only;
        let mut calls = Vec::new();
        for (idx, call) in aggregate.calls.iter().enumerate() {
            let values = ValuesLayout { input, key: &key, deal_by: &deal_by, is_append_only };
            let call = Call::new(idx, call, &values, columns.len())?;
            columns.extend(call.state_columns(idx));
            calls.push(call);
        }
        // State that was written when such a call was replayed is missed, not misread.
        let name = match calls.iter().find_map(Call::state_name) {
            Some(kept) => format!("groups-{kept}"),
            None => "groups".into(),
        };
        let expiry = match aggregate.ttl {
            Some(ttl) => Some(Expiry::new(ttl, &key, &deal_by)?),
            None => None,
        };
        Ok(Aggregate {
            expiry,
            is_early: aggregate.is_early,
            groups: StateTable::new(name, columns, aggregate.n_groups, deal_by)?,
            key_columns,
            calls,
            close: aggregate.close.clone(),
            output: build.output.clone(),
        })
    }

    fn n_keys(&self) -> usize {
        self.key_columns.len()
    }

    /// Adds the step's rows to the groups; gives what that changes in the output.
    fn update(&mut self, arrival: i64, input: &Delta) -> Result<Option<RecordBatch>, Error> {
        let batch = input.batch();
        let weights = input.weights().values();
        let keys: Vec<ArrayRef> =
            self.key_columns.iter().map(|column| batch.column(*column).clone()).collect();
        let grouping = Grouping::new(&keys, input.len())?;
        let is_global = keys.is_empty();
        // Without GROUP BY there is one group even where there is no row.
        let n_groups = if is_global { 1 } else { grouping.len() };

        let snapshot = self.groups.snapshot();
        let mut old_rows: Vec<&[u8]> = Vec::new();
        let mut before: Vec<Option<u32>> = vec![None; n_groups];
        let global_key: &[u8] = &[];
        let group_keys: Vec<&[u8]> = if is_global { vec![global_key] } else { grouping.keys().collect() };
        snapshot.lookup(group_keys.iter().copied(), |group, row, weight| {
            assert_eq!((weight, before[group]), (1, None), "a group has one row of state");
            before[group] = Some(old_rows.len() as u32);
            old_rows.push(row);
        });
        if is_global && input.is_empty() && before[0].is_some() {
            return Ok(None);
        }
        let old_state = self.groups.layout().decode(old_rows.iter().copied())?;

        let n_keys = self.n_keys();
        let counts = old_state[n_keys].as_primitive::<Int64Type>();
        let mut n_rows: Vec<i64> =
            before.iter().map(|row| row.map_or(0, |row| counts.value(row as usize))).collect();
        for (group, weight) in grouping.ids.iter().zip(weights) {
            n_rows[*group as usize] += weight;
        }
        if n_rows.iter().any(|n| *n < 0) {
            return Err(Error::NegativeWeight { operator: "GROUP BY" });
        }

        let firsts = UInt32Array::from(grouping.firsts.clone());
        let mut new_state: Vec<ArrayRef> =
            keys.iter().map(|key| take(key, &firsts, None)).collect::<Result<_, _>>()?;
        new_state.push(Arc::new(Int64Array::from(n_rows.clone())));
        let mut old_outputs = Vec::new();
        let mut new_outputs = Vec::new();
        let touched = Touched { batch, weights, grouping: &grouping, keys: &keys, group_keys: &group_keys };
        for call in &mut self.calls {
            let change = call.update(&touched, &old_state, &before)?;
            old_outputs.push(change.old);
            new_outputs.push(change.new);
            new_state.extend(change.state);
        }

        // Groups ascend, and so do the two rows of each once they are compared.
        let new_rows = self.groups.layout().encode_rows(&new_state)?;
        let mut change = RunBuilder::with_capacity(2 * n_groups, 0);
        for group in 0..n_groups {
            let old = before[group].map(|row| old_rows[row as usize]);
            let new = (is_global || n_rows[group] > 0).then(|| new_rows.row(group).data());
            push_change(&mut change, old, new);
        }
        let change = change.finish();
        self.groups.arrangement.append(change);
        if let Some(expiry) = &mut self.expiry {
            let is_there: Vec<bool> = n_rows.iter().map(|n| *n > 0).collect();
            expiry.touch(arrival, &new_state[..keys.len()], &group_keys, &is_there)?;
        }
        if self.close.is_some() && !self.is_early {
            return Ok(None);
        }

        let is_same = same_values(&old_outputs, &new_outputs);
        let is_unchanged = |group: usize| is_same.as_ref().is_some_and(|same| same.value(group));
        let mut retracted = Vec::new();
        let mut inserted = Vec::new();
        for group in 0..n_groups {
            let was_there = before[group].is_some();
            let is_there = is_global || n_rows[group] > 0;
            if was_there && is_there && is_unchanged(group) {
                continue;
            }
            if was_there {
                retracted.push(group as u32);
            }
            if is_there {
                inserted.push(group as u32);
            }
        }
        let mut output_weights = vec![-1; retracted.len()];
        output_weights.resize(retracted.len() + inserted.len(), 1);
        let (retracted, inserted) = (UInt32Array::from(retracted), UInt32Array::from(inserted));
        let groups = UInt32Array::from([retracted.values().as_ref(), inserted.values().as_ref()].concat());
        let mut columns: Vec<ArrayRef> = Vec::new();
        for column in 0..n_keys {
            let position = self.key_columns.iter().position(|key| *key == column).expect("a permutation");
            columns.push(take(&new_state[position], &groups, None)?);
        }
        for (old, new) in old_outputs.iter().zip(&new_outputs) {
            let old = take(old, &retracted, None)?;
            let new = take(new, &inserted, None)?;
            columns.push(concat(&[old.as_ref(), new.as_ref()])?);
        }
        Ok(Some(output_batch(&self.output, columns, output_weights)?))
    }

    /// Emits the groups that the watermark has completed, and forgets them.
    fn close(&mut self, close: &Close, context: &StepContext) -> Result<Option<RecordBatch>, Error> {
        let Some(bound) = self.close_bound(close, &context.watermarks)? else { return Ok(None) };
        // What was closed before has been taken out: do not walk over what is left of it.
        let from = self.close_bound(close, &context.watermarks_before)?.unwrap_or_default();
        let snapshot = self.groups.snapshot();
        let closed: Vec<&[u8]> = range(&snapshot, &from, &bound).map(|(row, _)| row).collect();
        if closed.is_empty() {
            return Ok(None);
        }
        // Early, the last result of a group has left already.
        let output = match self.is_early {
            true => None,
            false => Some(self.rows_of(&closed, 1)?),
        };
        self.groups.arrangement.append(retraction(range(&snapshot, &from, &bound)));
        for call in &mut self.calls {
            if let Some(table) = call.table() {
                let snapshot = table.snapshot();
                table.arrangement.append(retraction(range(&snapshot, &from, &bound)));
            }
        }
        Ok(output)
    }

    /// The output rows of groups, by their rows of state.
    fn rows_of(&self, groups: &[&[u8]], weight: i64) -> Result<RecordBatch, Error> {
        let state = self.groups.layout().decode(groups.iter().copied())?;
        let all: Vec<Option<u32>> = (0..groups.len() as u32).map(Some).collect();
        let mut columns = Vec::new();
        for column in 0..self.n_keys() {
            let position = self.key_columns.iter().position(|key| *key == column).expect("a permutation");
            columns.push(state[position].clone());
        }
        for call in &self.calls {
            columns.push(call.output(&state, &all)?);
        }
        output_batch(&self.output, columns, vec![weight; groups.len()])
    }

    /// Takes back and forgets the groups that nothing has touched for long.
    fn expire(&mut self, context: &StepContext) -> Result<Option<RecordBatch>, Error> {
        let Some(expiry) = &mut self.expiry else { return Ok(None) };
        let expired = expiry.expired(context)?;
        if expired.is_empty() {
            return Ok(None);
        }
        let of_keys = |snapshot: &Snapshot| {
            let mut gone = RunBuilder::with_capacity(expired.len(), 0);
            snapshot.lookup(expired.iter().map(Vec::as_slice), |_, row, weight| gone.push(row, -weight));
            gone.finish()
        };
        let gone = of_keys(&self.groups.snapshot());
        let groups: Vec<&[u8]> = (0..gone.len()).map(|idx| gone.row(idx)).collect();
        let output = self.rows_of(&groups, -1)?;
        self.groups.arrangement.append(gone);
        for call in &mut self.calls {
            if let Some(table) = call.table() {
                let gone = of_keys(&table.snapshot());
                table.arrangement.append(gone);
            }
        }
        Ok(Some(output))
    }

    /// The encoded time at which open groups begin; state rows below it are complete.
    fn close_bound(
        &self,
        close: &Close,
        watermarks: &std::collections::BTreeMap<plan::RelationId, i64>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(limit) = close_limit(close, watermarks) else { return Ok(None) };
        let data_type = self.output.field(close.column).data_type();
        let micros = Int64Array::from(vec![limit.saturating_add(1)]);
        let time = cast(&cast(&micros, &DataType::Timestamp(TimeUnit::Microsecond, None))?, data_type)?;
        let converter = RowConverter::new(vec![SortField::new(data_type.clone())])?;
        let rows = converter.convert_columns(&[time])?;
        Ok(Some(rows.row(0).data().to_vec()))
    }

    /// Takes out the rows whose group has been emitted.
    fn split_late(
        &self,
        close: &Close,
        context: &StepContext,
        input: &Delta,
    ) -> Result<(Delta, Option<LateRows>), Error> {
        let limit = close_limit(close, &context.watermarks_before);
        let times = input.batch().column(close.column);
        let micros =
            cast(&cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?, &DataType::Int64)?;
        let micros = micros.as_primitive::<Int64Type>();
        let is_late =
            |row: usize| micros.is_null(row) || limit.is_some_and(|limit| micros.value(row) <= limit);
        let late: BooleanArray = (0..input.len()).map(|row| Some(is_late(row))).collect();
        if late.true_count() == 0 {
            return Ok((input.clone(), None));
        }
        let on_time = filter_record_batch(input.batch(), &arrow::compute::not(&late)?)?;
        let rows = Delta::new(filter_record_batch(input.batch(), &late)?).rows();
        let column = self.output.field(close.column).name();
        let reason = format!("the window at \"{column}\" has been emitted, or its time is NULL");
        Ok((Delta::new(on_time), Some(LateRows { rows, reason })))
    }
}

impl Operator for Aggregate {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("an aggregate has one input") };
        let mut output = Output::default();
        let Some(close) = self.close.clone() else {
            self.expire(context)?.into_iter().for_each(|batch| output.push(batch));
            if !input.is_empty() || self.n_keys() == 0 {
                self.update(context.arrival, input)?.into_iter().for_each(|batch| output.push(batch));
            }
            return Ok(output);
        };
        let (on_time, late) = self.split_late(&close, context, input)?;
        output.late.extend(late);
        if !on_time.is_empty() {
            self.update(context.arrival, &on_time)?.into_iter().for_each(|batch| output.push(batch));
        }
        self.close(&close, context)?.into_iter().for_each(|batch| output.push(batch));
        Ok(output)
    }

    fn is_divisible(&self) -> bool {
        // What is late, and what closes, is so by the watermarks of the whole step.
        self.close.is_none()
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        let mut tables = vec![&mut self.groups];
        tables.extend(self.calls.iter_mut().filter_map(Call::table));
        tables.extend(self.expiry.iter_mut().flat_map(Expiry::state));
        tables
    }

    fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        self.expiry.as_ref().map_or(Ok(None), |expiry| expiry.next_time(now))
    }
}

/// Where old and new values are the same, if they can be compared.
fn same_values(old: &[ArrayRef], new: &[ArrayRef]) -> Option<BooleanArray> {
    let mut same: Option<BooleanArray> = None;
    for (old, new) in old.iter().zip(new) {
        let one = not_distinct(old, new).ok()?;
        same = Some(match same {
            None => one,
            Some(same) => and(&same, &one).ok()?,
        });
    }
    same
}

fn push_change(change: &mut RunBuilder, old: Option<&[u8]>, new: Option<&[u8]>) {
    match (old, new) {
        (Some(old), Some(new)) => match old.cmp(new) {
            std::cmp::Ordering::Less => {
                change.push(old, -1);
                change.push(new, 1);
            }
            std::cmp::Ordering::Greater => {
                change.push(new, 1);
                change.push(old, -1);
            }
            std::cmp::Ordering::Equal => (),
        },
        (Some(old), None) => change.push(old, -1),
        (None, Some(new)) => change.push(new, 1),
        (None, None) => (),
    }
}

/// What lies from `from` on and below `bound`.
fn range<'a>(snapshot: &'a Snapshot, from: &[u8], bound: &[u8]) -> impl Iterator<Item = (&'a [u8], i64)> {
    let mut cursor = snapshot.cursor();
    cursor.seek(from);
    cursor.take_while(move |(row, _)| *row < bound)
}

/// Rows, taken out.
fn retraction<'a>(rows: impl Iterator<Item = (&'a [u8], i64)>) -> Arc<Run> {
    let mut run = RunBuilder::with_capacity(0, 0);
    rows.for_each(|(row, weight)| run.push(row, -weight));
    run.finish()
}

/// The last time that is complete.
fn close_limit(close: &Close, watermarks: &std::collections::BTreeMap<plan::RelationId, i64>) -> Option<i64> {
    let limits = close.sources.iter().map(|source| {
        watermarks.get(&source.relation).map(|watermark| watermark.saturating_sub(source.delay))
    });
    limits.collect::<Option<Vec<i64>>>()?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::DataType;
    use tidemill_plan as plan;
    use tidemill_plan::{AggregateCall, AggregateFunction, Close, CloseSource, OrderColumn, RelationId};

    use crate::operators::testing::property::{Batch, Multiset, Property, Rng, add, n_seeds, rows, same};
    use crate::operators::testing::{Bench, schema, show};

    fn call(function: AggregateFunction, arg: Option<usize>, return_type: DataType) -> AggregateCall {
        AggregateCall {
            function,
            args: arg.into_iter().collect(),
            filter: None,
            distinct: false,
            order_by: Vec::new(),
            ignore_nulls: false,
            return_type,
            display: "call".into(),
        }
    }

    fn aggregate(calls: Vec<AggregateCall>, n_groups: usize, input: &str, output: &str) -> Bench {
        let operator = plan::Operator::Aggregate(plan::Aggregate {
            n_groups,
            calls,
            is_append_only: false,
            close: None,
            is_early: false,
            ttl: None,
        });
        Bench::new(operator, &[input], &[output])
    }

    #[test]
    fn group_leaves_with_its_last_row() {
        let calls = vec![
            call(AggregateFunction::Count, None, DataType::Int64),
            call(AggregateFunction::Sum, Some(1), DataType::Int64),
        ];
        aggregate(calls, 1, "k:t v:i", "k:t n:i s:i")
            .check("+ a 1; + a 2; + b NULL", "+ a 2 3; + b 1 NULL")
            .check("- a 1; + b 7", "- a 2 3; + a 1 2; - b 1 NULL; + b 2 7")
            .check("- a 2", "- a 1 2")
            .fails("- a 2", "never there");
    }

    #[test]
    fn without_groups_there_is_always_a_row() {
        let calls = vec![call(AggregateFunction::Count, Some(0), DataType::Int64)];
        aggregate(calls, 0, "v:i", "n:i")
            .check("", "+ 0")
            .check("", "")
            .check("+ 1; + NULL", "- 0; + 1")
            .check("- 1", "- 1; + 0");
    }

    #[test]
    fn best_value_falls_back_to_the_next() {
        let calls = vec![
            call(AggregateFunction::Min, Some(1), DataType::Int64),
            call(AggregateFunction::Max, Some(1), DataType::Int64),
        ];
        aggregate(calls, 1, "k:t v:i", "k:t lo:i hi:i")
            .check("+ a 5; + a 3; +2 a 9; + a NULL", "+ a 3 9")
            .check("- a 3; - a 9", "- a 3 9; + a 5 9")
            .check("- a 5; - a 9", "- a 5 9; + a NULL NULL");
    }

    #[test]
    fn distinct_counts_a_value_once() {
        let distinct =
            AggregateCall { distinct: true, ..call(AggregateFunction::Count, Some(1), DataType::Int64) };
        aggregate(vec![distinct], 1, "k:t v:i", "k:t n:i")
            .check("+ a 5; + a 5; + a 6; + a NULL", "+ a 2")
            .check("- a 5", "")
            .check("- a 5; + a 7; + a 8", "- a 2; + a 3");
    }

    #[test]
    fn infinities_come_and_go_in_sums() {
        let calls = vec![
            call(AggregateFunction::Sum, Some(1), DataType::Float64),
            call(AggregateFunction::Avg, Some(1), DataType::Float64),
        ];
        aggregate(calls, 1, "k:t v:f", "k:t s:f a:f")
            .check("+ a 0.1; + a 1e300", "+ a 1e300 5e299")
            .check("+ a inf; - a 1e300", "- a 1e300 5e299; + a inf inf")
            .check("- a inf", "- a inf inf; + a 0.1 0.1");
    }

    /// A call of one of DataFusion's own functions over the second column.
    fn other(name: &str, return_type: DataType) -> AggregateCall {
        let functions = datafusion::functions_aggregate::all_default_aggregate_functions();
        let udf = functions.into_iter().find(|udf| udf.name() == name).unwrap();
        let other = plan::OtherAggregate { udf, constants: Vec::new() };
        call(AggregateFunction::Other(other), Some(1), return_type)
    }

    #[test]
    fn truths_and_bits_are_counted() {
        let calls = vec![other("bool_and", DataType::Boolean), other("bool_or", DataType::Boolean)];
        aggregate(calls, 1, "k:t v:b", "k:t a:b o:b")
            .check("+2 a true; + a false; + a NULL", "+ a false true")
            .check("- a false", "- a false true; + a true true")
            .check("-2 a true; + a false", "- a true true; + a false false")
            .check("- a false", "- a false false; + a NULL NULL");
        aggregate(vec![other("bit_xor", DataType::Int64)], 1, "k:t v:i", "k:t x:i")
            .check("+ a 6; +2 a 9; + a 1", "+ a 7")
            .check("- a 9; - a 6", "- a 7; + a 8")
            .check("- a 9; - a 1; + a NULL", "- a 8; + a NULL");
    }

    #[test]
    fn statistics_forget_what_goes() {
        let calls = vec![other("var_pop", DataType::Float64), other("stddev", DataType::Float64)];
        let mut bench = aggregate(calls, 1, "k:t v:f", "k:t p:f s:f")
            .check("+ a 2; + a 4; + a NULL; + b 7", "+ a 1 1.4142135623730951; + b 0 NULL")
            .check("+ a NaN", "- a 1 1.4142135623730951; + a NaN NaN")
            .check("- a NaN; -3 a 1e300; +3 a 1e300", "- a NaN NaN; + a 1 1.4142135623730951");
        bench.rebuild();
        bench
            .check("- a 2; + a 10", "- a 1 1.4142135623730951; + a 9 4.242640687119285")
            .check("- a 4; - a 10", "- a 9 4.242640687119285; + a NULL NULL");
        let distinct = AggregateCall { distinct: true, ..other("var_pop", DataType::Float64) };
        aggregate(vec![distinct], 1, "k:t v:f", "k:t p:f")
            .check("+5 a 2; + a 4", "+ a 1")
            .check("-4 a 2", "");
    }

    #[test]
    fn touched_groups_are_replayed() {
        let calls = vec![other("median", DataType::Int64), other("bit_or", DataType::Int64)];
        aggregate(calls, 1, "k:t v:i", "k:t m:i x:i")
            .check("+2 a 4; + a 9; + b 1", "+ a 4 13; + b 1 1")
            .check("-2 a 4", "- a 4 13; + a 9 9")
            .check("- a 9; + a NULL", "- a 9 9; + a NULL NULL")
            .check("- b 1; - a NULL", "- b 1 1; - a NULL NULL");
    }

    #[test]
    fn first_value_has_its_own_order() {
        let order = OrderColumn { column: 1, descending: true, nulls_first: false };
        let first = |is_append_only| {
            let call = AggregateCall {
                order_by: vec![order],
                ..call(AggregateFunction::First, Some(2), DataType::Utf8)
            };
            let operator = plan::Operator::Aggregate(plan::Aggregate {
                n_groups: 1,
                calls: vec![call],
                is_append_only,
                close: None,
                is_early: false,
                ttl: None,
            });
            Bench::new(operator, &["k:t o:i v:t"], &["k:t v:t"])
        };
        first(false)
            .check("+ a 1 x; + a 2 y; + b NULL z", "+ a y; + b z")
            .check("- a 2 y; + a 0 w", "- a y; + a x")
            .fails("-2 a 1 x", "never there");
        first(true)
            .check("+ a 1 x; + a 2 y", "+ a y")
            .check("+ a 3 z; + a 4 w", "- a y; + a w")
            .check("+ a 0 q; + a 4 w", "");
    }

    #[test]
    fn early_windows_leave_with_each_change_and_are_forgotten_when_they_close() {
        let source = RelationId(1);
        let close = Close { column: 1, sources: vec![CloseSource { relation: source, delay: 10 }] };
        let distinct =
            AggregateCall { distinct: true, ..call(AggregateFunction::Count, Some(2), DataType::Int64) };
        let operator = plan::Operator::Aggregate(plan::Aggregate {
            n_groups: 2,
            calls: vec![call(AggregateFunction::Count, None, DataType::Int64), distinct],
            is_append_only: true,
            close: Some(close),
            is_early: true,
            ttl: None,
        });
        Bench::new(operator, &["k:t w:ts v:i"], &["k:t w:ts n:i d:i"])
            .watermark(source, 5)
            .check("+ a 0 1; + a 0 1; + b 20 2", "+ a 0 2 1; + b 20 1 1")
            .n_state(&[2, 3])
            .watermark(source, 10)
            .check("+ a 0 3", "- a 0 2 1; + a 0 3 2")
            .n_state(&[1, 1])
            .check("+ a 0 4; + b 20 5", "- b 20 1 1; + b 20 2 2")
            .late(1);
    }

    #[test]
    fn a_group_that_nothing_touches_is_forgotten_with_all_its_values() {
        let distinct =
            AggregateCall { distinct: true, ..call(AggregateFunction::Count, Some(1), DataType::Int64) };
        let operator = plan::Operator::Aggregate(plan::Aggregate {
            n_groups: 1,
            calls: vec![call(AggregateFunction::Max, Some(1), DataType::Int64), distinct],
            is_append_only: true,
            close: None,
            is_early: false,
            ttl: Some(10),
        });
        Bench::new(operator, &["k:t v:i"], &["k:t hi:i d:i"])
            .now(1)
            .check("+ a 1; + a 2; + NULL 3", "+ a 2 2; + NULL 3 1")
            .next_time(Some(11))
            .now(8)
            // What changes no value touches as well.
            .check("+ a 1", "")
            .now(11)
            .check("", "- NULL 3 1")
            .next_time(Some(18))
            .n_state(&[1, 3, 1, 1])
            // What comes when the time is over begins anew.
            .now(18)
            .check("+ a 1; + b 5", "- a 2 2; + a 1 1; + b 5 1")
            .n_state(&[2, 2, 2, 2])
            .now(90)
            .check("", "- a 1 1; - b 5 1")
            .n_state(&[0, 0, 0, 0])
            .next_time(None);
    }

    #[test]
    fn window_is_emitted_once_and_late_rows_are_handed_out() {
        let source = RelationId(1);
        let close = Close { column: 1, sources: vec![CloseSource { relation: source, delay: 10 }] };
        let calls = vec![call(AggregateFunction::Count, None, DataType::Int64)];
        let operator = plan::Operator::Aggregate(plan::Aggregate {
            n_groups: 2,
            calls,
            is_append_only: true,
            close: Some(close),
            is_early: false,
            ttl: None,
        });
        Bench::new(operator, &["k:t w:ts"], &["k:t w:ts n:i"])
            .watermark(source, 5)
            .check("+ a 0; + b 0; + a 10", "")
            .watermark(source, 9)
            .check("+ a 0", "")
            .watermark(source, 10)
            .check("", "+ a 0 2; + b 0 1")
            .watermark(source, 25)
            .check("+ a 0; + c 10", "+ a 10 1; + c 10 1")
            .late(1)
            .check("+ a 10; + d NULL", "")
            .late(2);
    }

    /// `calls` as in SQL; columns are `k:t v:i f:f d:d t:ts b:b u:u s:t`, of which the first `n_groups` group.
    fn batch_property(calls: &[&str], n_groups: usize) -> Property {
        let columns = ["k:t", "v:i", "f:f", "d:d", "t:ts", "b:b", "u:u", "s:t"];
        let input = schema(&columns.join(" "));
        let mut output: Vec<String> = columns[..n_groups].iter().map(|column| column.to_string()).collect();
        let mut plans = Vec::new();
        for (idx, text) in calls.iter().enumerate() {
            let (name, rest) = text.split_once('(').unwrap();
            let (arg, filter) = rest.split_once(')').unwrap();
            let is_distinct = arg.starts_with("DISTINCT ");
            let arg = input.index_of(arg.trim_start_matches("DISTINCT ")).ok();
            let arg_type = arg.map_or(DataType::Null, |arg| input.field(arg).data_type().clone());
            let (function, return_type) = match (name, arg_type) {
                ("count", _) => (AggregateFunction::Count, DataType::Int64),
                ("sum", DataType::Decimal128(_, scale)) => {
                    (AggregateFunction::Sum, DataType::Decimal128(22, scale))
                }
                ("sum", arg) => (AggregateFunction::Sum, arg),
                ("avg", arg) => (AggregateFunction::Avg, arg),
                ("min", arg) => (AggregateFunction::Min, arg),
                ("max", arg) => (AggregateFunction::Max, arg),
                ("bool_and" | "bool_or" | "bit_xor", arg) => (other(name, arg.clone()).function, arg),
                (other, _) => panic!("no function {other}"),
            };
            let letter = match &return_type {
                DataType::Utf8 => "t",
                DataType::Int64 => "i",
                DataType::UInt64 => "u",
                DataType::Float64 => "f",
                DataType::Boolean => "b",
                DataType::Decimal128(12, _) => "d",
                DataType::Decimal128(_, _) => "dd",
                _ => "ts",
            };
            output.push(format!("c{idx}:{letter}"));
            plans.push(AggregateCall {
                distinct: is_distinct,
                filter: filter.contains("FILTER").then_some(5),
                ..call(function, arg, return_type)
            });
        }
        let names: Vec<&str> = columns[..n_groups].iter().map(|column| &column[..1]).collect();
        let select = [names.clone(), calls.to_vec()].concat().join(", ");
        let group_by =
            if names.is_empty() { String::new() } else { format!(" GROUP BY {}", names.join(", ")) };
        let operator = |is_append_only| {
            plan::Operator::Aggregate(plan::Aggregate {
                n_groups,
                calls: plans.clone(),
                is_append_only,
                close: None,
                is_early: false,
                ttl: None,
            })
        };
        // DataFusion's grouped max of floats depends on where the NaN stands among the rows; ours, like
        // Postgres', takes it for the greatest.
        let nan = "CASE WHEN bool_or(isnan(f)) THEN CAST('NaN' AS DOUBLE) ELSE max(f) END";
        let sql = format!("SELECT {} FROM i0{group_by}", select.replace("max(f)", nan));
        let input = columns.join(" ");
        Property::new(operator(true), &[&input], &output.join(" "), &sql).append_only().check();
        Property::new(operator(false), &[&input], &output.join(" "), &sql)
    }

    #[test]
    fn counts_and_sums_are_the_batch_answer() {
        let calls = [
            "count(*)", "count(v)", "sum(v)", "sum(f)", "avg(f)", "sum(d)", "sum(u)", "count(s)", "count(b)",
        ];
        batch_property(&calls, 0).check();
        batch_property(&calls, 1).check();
        batch_property(&calls, 2).check();
        batch_property(&["count(*)", "sum(v)"], 1).large(300).check();
    }

    #[test]
    fn truths_and_bits_are_the_batch_answer() {
        let calls = ["bool_and(b)", "bool_or(b)", "bit_xor(v)", "bool_or(b) FILTER (WHERE b)"];
        batch_property(&calls, 0).check();
        batch_property(&calls, 1).check();
    }

    #[test]
    fn best_values_are_the_batch_answer() {
        let calls =
            ["min(v)", "max(v)", "max(f)", "min(d)", "max(t)", "min(s)", "max(s)", "min(u)", "max(b)"];
        batch_property(&calls, 0).check();
        batch_property(&calls, 1).check();
        batch_property(&calls, 3).check();
    }

    #[test]
    fn distinct_values_are_the_batch_answer() {
        let calls =
            ["count(DISTINCT v)", "sum(DISTINCT v)", "count(DISTINCT s)", "min(DISTINCT v)", "count(*)"];
        batch_property(&calls, 0).check();
        batch_property(&calls, 1).check();
    }

    #[test]
    fn filtered_values_are_the_batch_answer() {
        let calls = [
            "count(*) FILTER (WHERE b)",
            "sum(v) FILTER (WHERE b)",
            "avg(f) FILTER (WHERE b)",
            "max(v) FILTER (WHERE b)",
            "count(DISTINCT s) FILTER (WHERE b)",
            "count(*)",
        ];
        batch_property(&calls, 0).check();
        batch_property(&calls, 1).check();
    }

    #[test]
    fn groups_without_calls_are_the_batch_answer() {
        batch_property(&[], 2).check();
    }

    /// What has been given out is the batch answer over the rows that came in time, of the windows that are
    /// complete.
    #[test]
    fn closed_windows_are_the_batch_answer() {
        let source = RelationId(1);
        let delay = 2;
        let input = schema("k:t w:ts v:i");
        let batch = Batch::new();
        for seed in 0..n_seeds(12) {
            let mut rng = Rng(seed);
            let is_early = seed % 3 == 0;
            let calls = vec![
                call(AggregateFunction::Count, None, DataType::Int64),
                call(AggregateFunction::Max, Some(2), DataType::Int64),
                AggregateCall { distinct: true, ..call(AggregateFunction::Count, Some(2), DataType::Int64) },
            ];
            let operator = plan::Operator::Aggregate(plan::Aggregate {
                n_groups: 2,
                calls,
                is_append_only: rng.below(2) == 0,
                close: Some(Close { column: 1, sources: vec![CloseSource { relation: source, delay }] }),
                is_early,
                ttl: None,
            });
            let mut bench = Bench::new(operator, &["k:t w:ts v:i"], &["k:t w:ts n:i hi:i d:i"]);
            let (mut on_time, mut given) = (Multiset::new(), Multiset::new());
            let mut watermark = None;
            let mut steps = String::new();
            for step in 0..12 {
                let limit_before = watermark.map(|watermark: i64| watermark - delay);
                if step > 0 {
                    watermark = Some(watermark.unwrap_or(-1) + rng.below(3) as i64);
                    bench = bench.watermark(source, watermark.unwrap());
                }
                if rng.below(4) == 0 {
                    bench.rebuild();
                }
                let mut n_late = 0;
                let mut line = Vec::new();
                for _ in 0..rng.below(6) {
                    let key = rng.pick(&["a", "b", "NULL"]);
                    let time = (rng.below(8) > 0).then(|| rng.below(12) as i64);
                    let text = time.map_or("NULL".into(), |time| time.to_string());
                    let row = format!("{key} {text} {}", rng.pick(&["1", "2", "NULL"]));
                    line.push(format!("+ {row}"));
                    if time.is_some_and(|time| limit_before.is_none_or(|limit| time > limit)) {
                        *on_time.entry(row).or_default() += 1;
                    } else {
                        n_late += 1;
                    }
                }
                let line = line.join("; ");
                steps.push_str(&format!("  watermark {watermark:?} {line:?}\n"));
                let output = bench.step(&[&line]).unwrap();
                let late: usize = output.late.iter().map(|late| late.rows.num_rows()).sum();
                assert_eq!(late, n_late, "late rows, seed {seed}:\n{steps}");
                add(&mut given, &show(&output.batches));
                // Early, all windows have left, and closing forgets them only.
                let limit = match is_early {
                    true => i64::MAX,
                    false => watermark.map_or(i64::MIN, |watermark| watermark - delay),
                };
                let sql = format!(
                    "SELECT k, w, count(*), max(v), count(DISTINCT v) FROM i0 \
                     WHERE arrow_cast(w, 'Int64') <= {limit} GROUP BY k, w"
                );
                let answer = batch.answer(&sql, vec![rows(&input, &on_time)]);
                same(&given, &answer).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{steps}"));
            }
        }
    }
}
