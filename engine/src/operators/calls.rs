//! Aggregate function calls, by how each can be maintained.
//!
//! - *Linear*: a row is taken out of the accumulator as easily as in ([`linear`](super::linear)).
//! - *Distinct*: linear over the distinct values. A table keeps the weight of every value, and passes a
//!   value on only when that rises from zero or falls to it.
//! - *First*: the answer is the first of the group's values in some order: min, max, first and last value.
//!   A table keeps every value in that order; over append-only input just the first.
//! - *Replay*: any other function. A table keeps every value, and those of a touched group go
//!   through DataFusion's own accumulator again ([`replay`](super::replay)).
//!
//! What a call knows of a group between steps is in columns of the group's row of state: the accumulator, or the
//! last result.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_plan::{AggregateCall, AggregateFunction, OrderColumn};
use tidemill_storage::{Run, RunBuilder, Snapshot, SortColumn, sort_rows};

use super::linear::{Accumulators, Kind};
use super::replay::Replay;
use super::{Grouping, StateTable};
use crate::Error;

/// One call of an aggregate.
pub(crate) struct Call {
    call: AggregateCall,
    /// Positions in the group's row of state.
    state: Range<usize>,
    method: Method,
}

enum Method {
    Linear(Kind),
    Distinct(Kind, StateTable),
    First(First),
    Replay(Box<Replay>),
}

/// What the tables of values need to know.
pub(crate) struct ValuesLayout<'a> {
    pub input: &'a SchemaRef,
    /// The group columns, in the order of the state's key.
    pub key: &'a [SortColumn],
    pub deal_by: &'a [usize],
    pub is_append_only: bool,
}

impl ValuesLayout<'_> {
    /// A table of a call's values: the group's key, then `columns`.
    pub fn table(&self, call_idx: usize, columns: Vec<SortColumn>) -> Result<StateTable, Error> {
        let columns = [self.key.to_vec(), columns].concat();
        StateTable::new(format!("values{call_idx}"), columns, self.key.len(), self.deal_by.to_vec())
    }

    pub fn ascending(&self, column: usize) -> SortColumn {
        SortColumn::ascending(self.input.field(column))
    }

    pub fn ordered(&self, order: &OrderColumn) -> SortColumn {
        SortColumn {
            descending: order.descending,
            nulls_first: order.nulls_first,
            ..self.ascending(order.column)
        }
    }
}

/// A step's rows and the groups that they touch.
pub(crate) struct Touched<'a> {
    pub batch: &'a RecordBatch,
    pub weights: &'a [i64],
    pub grouping: &'a Grouping,
    /// The group columns of the rows, in the order of the state's key.
    pub keys: &'a [ArrayRef],
    /// The encoded key of each touched group; one more than the grouping's where nothing came for the one
    /// group of an aggregate without GROUP BY.
    pub group_keys: &'a [&'a [u8]],
}

/// What a step does to a call, for each touched group.
pub(crate) struct CallChange {
    pub old: ArrayRef,
    pub new: ArrayRef,
    pub state: Vec<ArrayRef>,
}

impl Call {
    pub fn new(
        call_idx: usize,
        call: &AggregateCall,
        values: &ValuesLayout,
        first_column: usize,
    ) -> Result<Call, Error> {
        let arg = call.args.first().map(|arg| values.input.field(*arg));
        let args: Vec<DataType> =
            call.args.iter().map(|arg| values.input.field(*arg).data_type().clone()).collect();
        let kind = Kind::of(call, &args);
        let method = match (&call.function, kind) {
            (AggregateFunction::Min | AggregateFunction::Max, Some(kind)) if values.is_append_only => {
                Method::Linear(kind)
            }
            (AggregateFunction::Min | AggregateFunction::Max | AggregateFunction::First, _) => {
                Method::First(First::new(call_idx, call, values)?)
            }
            (_, Some(kind)) if call.distinct => {
                let column = values.ascending(call.args[0]);
                Method::Distinct(kind, values.table(call_idx, vec![column])?)
            }
            (_, Some(kind)) => Method::Linear(kind),
            (AggregateFunction::Other(other), None) => {
                Method::Replay(Box::new(Replay::new(call_idx, call, other, values)?))
            }
            (_, None) => {
                let of = arg.map_or_else(String::new, |arg| format!(" over {}", arg.data_type()));
                return Err(Error::Unsupported(format!("a pipeline cannot maintain {}{of}", call.display)));
            }
        };
        let mut call = Call { call: call.clone(), state: 0..0, method };
        call.state = first_column..first_column + call.state_types().len();
        Ok(call)
    }

    fn state_types(&self) -> Vec<DataType> {
        match &self.method {
            Method::Linear(kind) | Method::Distinct(kind, _) => kind.state_types(&self.call),
            Method::First(_) | Method::Replay(_) => vec![self.call.return_type.clone()],
        }
    }

    fn skips_nulls(&self) -> bool {
        match (&self.method, &self.call.function) {
            // Which of its rows count is for the function to say.
            (Method::Replay(_), _) => false,
            (Method::First(_), AggregateFunction::First) => self.call.ignore_nulls,
            _ => true,
        }
    }

    /// The columns that the call adds to a group's row of state.
    pub fn state_columns(&self, call_idx: usize) -> Vec<SortColumn> {
        let column = |(part, data_type)| {
            SortColumn::ascending(&Field::new(format!("__call{call_idx}_{part}"), data_type, true))
        };
        self.state_types().into_iter().enumerate().map(column).collect()
    }

    /// What the name of the groups' state says of how this call is kept in it.
    pub fn state_name(&self) -> Option<&'static str> {
        match &self.method {
            Method::Linear(kind) | Method::Distinct(kind, _) if kind.was_replayed() => Some("linear"),
            _ => None,
        }
    }

    /// The table of values, if the call has one.
    pub fn table(&mut self) -> Option<&mut StateTable> {
        match &mut self.method {
            Method::Linear(_) => None,
            Method::Distinct(_, table) => Some(table),
            Method::First(first) => Some(&mut first.table),
            Method::Replay(replay) => Some(&mut replay.table),
        }
    }

    /// The call's value in groups whose rows of state are `rows` of `state`; NULL without a row.
    pub fn output(&self, state: &[ArrayRef], rows: &[Option<u32>]) -> Result<ArrayRef, Error> {
        let state = &state[self.state.clone()];
        match &self.method {
            Method::Linear(kind) | Method::Distinct(kind, _) => {
                Ok(Accumulators::load(*kind, &self.call, state, rows)?.output())
            }
            Method::First(_) | Method::Replay(_) => pick(&state[0], rows),
        }
    }

    /// Takes the step's rows in. `old_state` has the rows of state before the step, `before` says which of
    /// them is each touched group's.
    pub fn update(
        &mut self,
        touched: &Touched,
        old_state: &[ArrayRef],
        before: &[Option<u32>],
    ) -> Result<CallChange, Error> {
        let old_state = &old_state[self.state.clone()];
        let rows = counted_rows(&self.call, self.skips_nulls(), touched);
        let args: Vec<ArrayRef> =
            self.call.args.iter().map(|arg| touched.batch.column(*arg).clone()).collect();
        match &mut self.method {
            Method::Linear(kind) => {
                let mut accumulators = Accumulators::load(*kind, &self.call, old_state, before)?;
                let old = accumulators.output();
                let weighted = |row: &u32| {
                    let row = *row as usize;
                    (row, touched.grouping.ids[row] as usize, touched.weights[row])
                };
                accumulators.update(&args, rows.values().iter().map(weighted))?;
                Ok(CallChange { old, new: accumulators.output(), state: accumulators.state() })
            }
            Method::Distinct(kind, table) => {
                let mut accumulators = Accumulators::load(*kind, &self.call, old_state, before)?;
                let old = accumulators.output();
                let (change, groups) = values_change(table, touched, &rows, &args)?;
                let (crossed, crossings) = crossings(table, &change, &groups)?;
                let columns = table.layout().decode(crossed)?;
                accumulators.update(&columns[columns.len() - 1..], crossings.into_iter())?;
                table.arrangement.append(change);
                Ok(CallChange { old, new: accumulators.output(), state: accumulators.state() })
            }
            Method::First(first) => {
                let new = first.update(touched, &rows)?;
                Ok(CallChange { old: pick(&old_state[0], before)?, state: vec![new.clone()], new })
            }
            Method::Replay(replay) => {
                let old = pick(&old_state[0], before)?;
                let new = replay.update(touched, &rows, &old, before)?;
                Ok(CallChange { old, state: vec![new.clone()], new })
            }
        }
    }
}

/// The rows that a call looks at.
fn counted_rows(call: &AggregateCall, skips_nulls: bool, touched: &Touched) -> UInt32Array {
    let args = if skips_nulls { &call.args[..] } else { &[] };
    let args: Vec<&ArrayRef> = args.iter().map(|arg| touched.batch.column(*arg)).collect();
    let filter = call.filter.map(|filter| touched.batch.column(filter).as_boolean());
    let counts = |row: usize| {
        args.iter().all(|arg| arg.is_valid(row))
            && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
    };
    (0..touched.weights.len()).filter(|row| counts(*row)).map(|row| row as u32).collect::<Vec<_>>().into()
}

/// Some rows of a column, NULL where there is none.
fn pick(column: &ArrayRef, rows: &[Option<u32>]) -> Result<ArrayRef, Error> {
    if column.is_empty() {
        return Ok(new_null_array(column.data_type(), rows.len()));
    }
    Ok(take(column, &UInt32Array::from(rows.to_vec()), None)?)
}

/// The change of a table of values, and which group each of its rows belongs to. `values` are columns
/// of the step's rows, which follow the group's key in the table.
pub(crate) fn values_change(
    table: &StateTable,
    touched: &Touched,
    rows: &UInt32Array,
    values: &[ArrayRef],
) -> Result<(Arc<Run>, Vec<u32>), Error> {
    let columns: Vec<ArrayRef> =
        touched.keys.iter().chain(values).map(|column| take(column, rows, None)).collect::<Result<_, _>>()?;
    let weights: Vec<i64> = rows.values().iter().map(|row| touched.weights[*row as usize]).collect();
    let encoded = table.layout().encode_rows(&columns)?;
    let change = sort_rows(&encoded, &weights);
    // Both ascend by key, so the group of each row is found by walking along.
    let mut groups = Vec::with_capacity(change.len());
    let mut group = 0;
    for idx in 0..change.len() {
        while !change.row(idx).starts_with(touched.grouping.key(group)) {
            group += 1;
        }
        groups.push(group as u32);
    }
    Ok((change, groups))
}

/// The rows of a change that begin or cease to be there, and for each: its place among them, its group,
/// and which of the two.
type Crossings<'a> = (Vec<&'a [u8]>, Vec<(usize, usize, i64)>);

fn crossings<'a>(table: &StateTable, change: &'a Run, groups: &[u32]) -> Result<Crossings<'a>, Error> {
    let known = table.arrangement.current().weights((0..change.len()).map(|idx| change.row(idx)));
    let mut crossed = Vec::new();
    let mut crossings = Vec::new();
    for (idx, before) in known.into_iter().enumerate() {
        let after = before + change.weight(idx);
        if after < 0 {
            return Err(Error::NegativeWeight { operator: "DISTINCT" });
        }
        if (before > 0) != (after > 0) {
            crossings.push((crossed.len(), groups[idx] as usize, if after > 0 { 1 } else { -1 }));
            crossed.push(change.row(idx));
        }
    }
    Ok((crossed, crossings))
}

/// The first of each group's values.
struct First {
    /// The group's key, what the values are ordered by, the value.
    table: StateTable,
    /// Columns of the input: what the values are ordered by, the value.
    columns: Vec<usize>,
    is_append_only: bool,
}

impl First {
    fn new(call_idx: usize, call: &AggregateCall, values: &ValuesLayout) -> Result<First, Error> {
        let value = call.args[0];
        let mut columns: Vec<usize> = call.order_by.iter().map(|order| order.column).collect();
        columns.push(value);
        let mut layout: Vec<SortColumn> = call.order_by.iter().map(|order| values.ordered(order)).collect();
        let descending = call.function == AggregateFunction::Max;
        layout.push(SortColumn { descending, ..values.ascending(value) });
        let table = values.table(call_idx, layout)?;
        Ok(First { table, columns, is_append_only: values.is_append_only })
    }

    fn update(&mut self, touched: &Touched, rows: &UInt32Array) -> Result<ArrayRef, Error> {
        let values: Vec<ArrayRef> =
            self.columns.iter().map(|column| touched.batch.column(*column).clone()).collect();
        let (change, groups) = values_change(&self.table, touched, rows, &values)?;
        let before;
        let after;
        let firsts = if self.is_append_only {
            before = self.table.snapshot();
            let mut firsts = firsts(&before, touched)?;
            self.table.arrangement.append(firsts_only(&mut firsts, &change, &groups));
            firsts
        } else {
            self.table.arrangement.append(change.clone());
            after = self.table.snapshot();
            firsts(&after, touched)?
        };
        let mut n_found = 0..;
        let found: Vec<Option<u32>> = firsts.iter().map(|first| first.and_then(|_| n_found.next())).collect();
        let columns = self.table.layout().decode(firsts.into_iter().flatten())?;
        pick(columns.last().expect("the value is the last column"), &found)
    }
}

/// The first row of each touched group.
fn firsts<'a>(snapshot: &'a Snapshot, touched: &Touched) -> Result<Vec<Option<&'a [u8]>>, Error> {
    let mut firsts = vec![None; touched.group_keys.len()];
    let mut is_negative = false;
    snapshot.lookup_firsts(touched.group_keys.iter().copied(), |group, row, weight| {
        is_negative |= weight < 0;
        firsts[group] = Some(row);
        false
    });
    match is_negative {
        true => Err(Error::NegativeWeight { operator: "GROUP BY" }),
        false => Ok(firsts),
    }
}

/// The change that leaves in each group only the first of what it has and of what comes, which `firsts` becomes.
fn firsts_only<'a>(firsts: &mut [Option<&'a [u8]>], change: &'a Run, groups: &[u32]) -> Arc<Run> {
    let mut trimmed = RunBuilder::with_capacity(0, 0);
    for idx in 0..change.len() {
        if idx > 0 && groups[idx] == groups[idx - 1] {
            continue;
        }
        let new = change.row(idx);
        let first = &mut firsts[groups[idx] as usize];
        if first.is_none_or(|known| new < known) {
            trimmed.push(new, 1);
            first.replace(new).into_iter().for_each(|known| trimmed.push(known, -1));
        }
    }
    trimmed.finish()
}
