//! `ASOF JOIN`: each left row with the right row of its key that is nearest in time.
//!
//! ```text
//!   right   ──r1────────────r2──────────r3────▶ time          MATCH_CONDITION (l.at >= r.at)
//!   left    ───────l1──l2────────l3──────────
//!                  r1  r1        r2
//! ```
//!
//! A right row matters to the left rows from its own time up to the next right row's, and to no others. With m for the
//! match among the right rows, the output changes by
//!
//! ```text
//! Δ(L · m) = ΔL · m' + L · (m' − m)
//! ```
//!
//! and the second part is looked at only between each changed right time and the one that follows it, where m and m' are
//! one row each.
//!
//! All four comparisons are one: a time that looks ahead is taken backwards, and a strict comparison moves the left
//! row by one tick. So a row's *place* is a number, and the match of a left row is the right row of the greatest place
//! that is not above its own.
//!
//! State: the rows of both sides by key and place; on the right the greatest place comes first, so that a match is
//! the first row from a place on. Rows without a key, or without a time, match nothing and are not kept.
//!
//! Where watermarks complete the times of both sides, and nothing is ever retracted, a left row can go
//! once the right's times are complete up to its own, and of the right rows up to where both are complete only the last
//! of each key is needed. As in an interval join each step looks through a part of the state.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::Nearest;
use tidemill_storage::{RunBuilder, Snapshot, SortColumn};

use super::closing::{limit, micros_of_ticks, ticks};
use super::trim::{AT_LEAST, SHARE, split_late};
use super::{BATCH_ROWS, Build, Operator, Output, StateTable, StepContext, ascending, output_batch};
use crate::Error;

/// The column of a row's place.
const PLACE: &str = "__place";

pub(crate) struct Asof {
    left: Side,
    right: Side,
    nearest: Nearest,
    is_outer: bool,
    trim: Option<plan::Trim>,
    /// The type of both sides' times.
    time_type: DataType,
    output: SchemaRef,
}

struct Side {
    state: StateTable,
    /// The input's columns that are kept, keys first; the place stands behind the keys.
    columns: Vec<usize>,
    n_keys: usize,
    n_pair: usize,
    time: usize,
    /// Where the next step's look through the state goes on. Not state: it has no say in any result.
    at: Vec<u8>,
}

/// A step's rows of one side that have a key and a place.
struct Change {
    /// In the order of the state's columns.
    columns: Vec<ArrayRef>,
    weights: Vec<i64>,
}

/// A place of a key at which right rows have changed.
struct Changed<'a> {
    key: Vec<u8>,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
    /// The right row behind it, before or after the step, whichever is nearer.
    next: Option<&'a [u8]>,
}

impl Asof {
    pub fn new(asof: &plan::Asof, build: &Build) -> Result<Asof, Error> {
        let side = |idx: usize, keys: &[usize], time: usize, n_pair: usize| -> Result<Side, Error> {
            let schema = &build.inputs[idx];
            let mut columns = keys.to_vec();
            columns.extend((0..n_pair).filter(|column| !keys.contains(column)));
            let mut layout = ascending(schema, &columns);
            let place = SortColumn::ascending(&Field::new(PLACE, DataType::Int64, false));
            // The right is searched downwards from a place.
            layout.insert(keys.len(), SortColumn { descending: idx == 1, ..place });
            let name = ["left", "right"][idx];
            let state = StateTable::new(name, layout, keys.len() + 1, (0..keys.len()).collect())?;
            Ok(Side { state, columns, n_keys: keys.len(), n_pair, time, at: Vec::new() })
        };
        Ok(Asof {
            left: side(0, &asof.left_keys, asof.left_time, asof.n_left)?,
            right: side(1, &asof.right_keys, asof.right_time, asof.n_right)?,
            nearest: asof.nearest,
            is_outer: asof.is_outer,
            trim: asof.trim.as_deref().cloned(),
            time_type: build.inputs[0].field(asof.left_time).data_type().clone(),
            output: build.output.clone(),
        })
    }

    /// Where rows of these times stand; nowhere without a time.
    fn places(&self, times: &ArrayRef, is_left: bool) -> Result<Int64Array, Error> {
        let looks_ahead = !self.nearest.looks_back();
        let is_strict = is_left && self.nearest.is_strict();
        let place = |ticks: i64| {
            let place = if looks_ahead { !ticks } else { ticks };
            // The least place has none below it: such a row matches nothing.
            if is_strict { place.checked_sub(1) } else { Some(place) }
        };
        Ok(ticks(times)?.iter().map(|ticks| ticks.and_then(place)).collect())
    }

    /// The rows that can match, as a change of the state, and of the others those of the left to be given out alone.
    fn change(&self, input: &Delta, is_left: bool) -> Result<(Change, UInt32Array), Error> {
        let side = if is_left { &self.left } else { &self.right };
        let batch = input.batch();
        let places = self.places(batch.column(side.time), is_left)?;
        let keys = &side.columns[..side.n_keys];
        let has_place = |row: &u32| {
            let row = *row as usize;
            places.is_valid(row) && keys.iter().all(|key| batch.column(*key).is_valid(row))
        };
        let (placed, others): (Vec<u32>, Vec<u32>) = (0..input.len() as u32).partition(has_place);
        let placed = UInt32Array::from(placed);
        let mut columns = Vec::with_capacity(side.columns.len() + 1);
        for column in &side.columns {
            columns.push(take(batch.column(*column), &placed, None)?);
        }
        columns.insert(side.n_keys, take(&places, &placed, None)?);
        let weights = placed.values().iter().map(|row| input.weights().value(*row as usize)).collect();
        Ok((Change { columns, weights }, UInt32Array::from(others)))
    }

    /// The right row that a place of a key matches.
    fn matched<'a>(&self, right: &'a Snapshot, key: &[u8], from: &[u8]) -> Result<Option<&'a [u8]>, Error> {
        let mut found = None;
        let mut is_negative = false;
        right.lookup_from(key, from, |row, weight| {
            is_negative = weight < 0;
            found = Some(row);
            false
        });
        match is_negative {
            true => Err(Error::NegativeWeight { operator: "ASOF JOIN" }),
            false => Ok(found),
        }
    }

    /// ΔL · m': the left's new rows and retractions with what they match now.
    fn pair_change<'a>(
        &self,
        left: &Change,
        right_after: &'a Snapshot,
        pairs: &mut Pairs<'a>,
    ) -> Result<(), Error> {
        if left.weights.is_empty() {
            return Ok(());
        }
        let rows = self.left.state.layout().encode_rows(&left.columns)?;
        let keys = Keys::of(&left.columns[..=self.left.n_keys], &self.right)?;
        for (row_idx, weight) in left.weights.iter().enumerate() {
            let matched = self.matched(right_after, keys.key(row_idx), keys.place(row_idx))?;
            pairs.push_owned(rows.row(row_idx).data(), matched, *weight);
        }
        Ok(())
    }

    /// L · (m' − m): the left's rows whose match has become another.
    fn match_again<'a>(
        &self,
        right: &Change,
        left_before: &'a Snapshot,
        right_before: &'a Snapshot,
        right_after: &'a Snapshot,
        pairs: &mut Pairs<'a>,
    ) -> Result<(), Error> {
        if right.weights.is_empty() || left_before.runs().is_empty() {
            return Ok(());
        }
        let keys = Keys::of(&right.columns[..=self.right.n_keys], &self.right)?;
        let mut rows: Vec<u32> = (0..right.weights.len() as u32).collect();
        rows.sort_unstable_by_key(|row| keys.place(*row as usize));
        rows.dedup_by_key(|row| keys.place(*row as usize));
        let mut changed = Vec::new();
        let mut changed_rows = Vec::new();
        for row in rows {
            let (key, place) = (keys.key(row as usize), keys.place(row as usize));
            let before = self.matched(right_before, key, place)?;
            let after = self.matched(right_after, key, place)?;
            // Of rows that came and went within the step nothing is left here, and what is matched is not theirs.
            let is_here = |row: Option<&[u8]>| row.is_some_and(|row| row.starts_with(place));
            if before == after || !(is_here(before) || is_here(after)) {
                continue;
            }
            // Greater places stand before it.
            let mut next: Option<&[u8]> = None;
            for snapshot in [right_before, right_after] {
                snapshot.lookup_back(key, place, |row, _| {
                    next = Some(next.map_or(row, |next| next.max(row)));
                    false
                });
            }
            changed.push(Changed { key: key.to_vec(), before, after, next });
            changed_rows.push(row);
        }
        // The left rows from the place on, up to the next one.
        let from: Vec<ArrayRef> = right.columns[..=self.right.n_keys]
            .iter()
            .map(|column| take(column, &UInt32Array::from(changed_rows.clone()), None))
            .collect::<Result<_, _>>()?;
        let ends: Vec<&[u8]> = changed.iter().filter_map(|changed| changed.next).collect();
        let ends = self.right.state.layout().decode(ends)?;
        let from = Keys::of(&from, &self.left)?;
        let ends = Keys::of(&ends[..=self.right.n_keys], &self.left)?;
        let mut end_idx = 0;
        for (idx, changed) in changed.iter().enumerate() {
            let end = changed.next.map(|_| {
                end_idx += 1;
                ends.place(end_idx - 1)
            });
            left_before.lookup_from(&changed.key, from.place(idx), |row, weight| {
                if end.is_some_and(|end| row >= end) {
                    return false;
                }
                pairs.push(row, changed.before, -weight);
                pairs.push(row, changed.after, weight);
                true
            });
        }
        Ok(())
    }

    fn emit(&self, pairs: &Pairs<'_>, output: &mut Output) -> Result<(), Error> {
        let kept: Vec<usize> =
            (0..pairs.weights.len()).filter(|idx| self.is_outer || pairs.right[*idx].is_some()).collect();
        for chunk in kept.chunks(BATCH_ROWS) {
            let left = self.left.state.layout().decode(chunk.iter().map(|idx| pairs.left(*idx)))?;
            let mut columns = self.left.pair_columns(&left);
            let matched: Vec<&[u8]> = chunk.iter().filter_map(|idx| pairs.right[*idx]).collect();
            let right = self.right.pair_columns(&self.right.state.layout().decode(matched.iter().copied())?);
            if matched.len() == chunk.len() {
                columns.extend(right);
            } else if matched.is_empty() {
                columns.extend(right.iter().map(|column| new_null_array(column.data_type(), chunk.len())));
            } else {
                let mut n_matched = 0;
                let mut place = |idx: &usize| {
                    pairs.right[*idx].map(|_| {
                        n_matched += 1;
                        n_matched - 1
                    })
                };
                let places: UInt32Array = chunk.iter().map(&mut place).collect();
                for column in right {
                    columns.push(take(&column, &places, None)?);
                }
            }
            let weights = chunk.iter().map(|idx| pairs.weights[*idx]).collect();
            output.push(output_batch(&self.output, columns, weights)?);
        }
        Ok(())
    }

    /// Left rows that match nothing whatever comes.
    fn emit_alone(&self, input: &Delta, rows: &UInt32Array, output: &mut Output) -> Result<(), Error> {
        if !self.is_outer || rows.is_empty() {
            return Ok(());
        }
        let mut columns = Vec::new();
        for column in &input.batch().columns()[..self.left.n_pair] {
            columns.push(take(column, rows, None)?);
        }
        for column in 0..self.right.n_pair {
            let data_type = self.output.field(self.left.n_pair + column).data_type();
            columns.push(new_null_array(data_type, rows.len()));
        }
        let weights = rows.values().iter().map(|row| input.weights().value(*row as usize)).collect();
        output.push(output_batch(&self.output, columns, weights)?);
        Ok(())
    }

    /// Forgets what is settled, in a part of the state.
    fn sweep(&mut self, trim: &plan::Trim, context: &StepContext, n_rows: usize) -> Result<(), Error> {
        let n_looks = AT_LEAST + SHARE * n_rows;
        let Some(right_limit) = limit(&trim.right.own, &context.watermarks) else { return Ok(()) };
        let is_strict = self.nearest == Nearest::Before;
        let snapshot = self.left.state.snapshot();
        let (rows, _) = self.left.look(&snapshot, n_looks);
        let times = self.times(&self.left, &rows, is_strict)?;
        let mut gone = RunBuilder::with_capacity(0, 0);
        for (idx, (row, weight)) in rows.iter().enumerate() {
            if times[idx] <= right_limit {
                gone.push(row, -weight);
            }
        }
        self.left.state.arrangement.append(gone.finish());

        let Some(left_limit) = limit(&trim.left.own, &context.watermarks) else { return Ok(()) };
        let both = left_limit.min(right_limit);
        let snapshot = self.right.state.snapshot();
        let (mut rows, next) = self.right.look(&snapshot, n_looks);
        let times = self.times(&self.right, &rows, false)?;
        let layout = self.right.state.layout();
        let decoded = layout.decode(rows.iter().map(|(row, _)| *row))?;
        let mut gone = RunBuilder::with_capacity(0, 0);
        if !rows.is_empty() {
            let keys = Keys::of(&decoded[..=self.right.n_keys], &self.right)?;
            // Within a key what matches best comes first.
            for idx in 1..rows.len() {
                if keys.key(idx - 1) == keys.key(idx) && times[idx - 1] <= both {
                    gone.push(rows[idx].0, -rows[idx].1);
                }
            }
            // So that the next look sees whether there is a better one before the row it begins with.
            if let (Some(_), Some((last, _))) = (next, rows.pop()) {
                self.right.at = last.to_vec();
            }
        }
        self.right.state.arrangement.append(gone.finish());
        Ok(())
    }

    /// The times of rows of state, in microseconds. Only of places that do not look ahead.
    fn times(&self, side: &Side, rows: &[(&[u8], i64)], is_strict: bool) -> Result<Vec<i64>, Error> {
        let columns = side.state.layout().decode(rows.iter().map(|(row, _)| *row))?;
        let places = columns[side.n_keys].as_primitive::<Int64Type>();
        let ticks = places.unary(|place: i64| if is_strict { place + 1 } else { place });
        Ok(micros_of_ticks(ticks, &self.time_type).values().to_vec())
    }
}

/// Rows with their weights, and the row behind them.
type Looked<'a> = (Vec<(&'a [u8], i64)>, Option<&'a [u8]>);

impl Side {
    /// The state's columns as the pair's.
    fn pair_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        (0..self.n_pair)
            .map(|column| {
                let position = self.columns.iter().position(|known| *known == column).expect("all are kept");
                columns[position + usize::from(position >= self.n_keys)].clone()
            })
            .collect()
    }

    /// The next rows of the state, going round, and what comes behind them.
    fn look<'a>(&mut self, snapshot: &'a Snapshot, n: usize) -> Looked<'a> {
        let mut cursor = snapshot.cursor();
        cursor.seek(&self.at);
        let rows = cursor.by_ref().take(n).collect();
        let next = cursor.next().map(|(row, _)| row);
        self.at = next.map(<[u8]>::to_vec).unwrap_or_default();
        (rows, next)
    }
}

impl Operator for Asof {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [left_input, right_input] = inputs else { unreachable!("a join has two inputs") };
        let mut output = Output::default();
        let (mut left_input, mut right_input) = (left_input.clone(), right_input.clone());
        let trim = self.trim.clone();
        if let Some(trim) = &trim {
            for (side, input) in [(&trim.left, &mut left_input), (&trim.right, &mut right_input)] {
                let (on_time, late) = split_late(side, context, input)?;
                *input = on_time;
                output.late.extend(late);
            }
        }
        if left_input.is_empty() && right_input.is_empty() {
            return Ok(output);
        }
        let (left, alone) = self.change(&left_input, true)?;
        self.emit_alone(&left_input, &alone, &mut output)?;
        let (right, _) = self.change(&right_input, false)?;
        let left_before = self.left.state.snapshot();
        let right_before = self.right.state.snapshot();
        self.left.state.add(&left.columns, &left.weights)?;
        self.right.state.add(&right.columns, &right.weights)?;
        let right_after = self.right.state.snapshot();

        let mut pairs = Pairs::default();
        self.pair_change(&left, &right_after, &mut pairs)?;
        self.match_again(&right, &left_before, &right_before, &right_after, &mut pairs)?;
        self.emit(&pairs, &mut output)?;
        if let Some(trim) = &trim {
            self.sweep(trim, context, left.weights.len() + right.weights.len())?;
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.left.state, &mut self.right.state]
    }
}

/// Encoded keys and places, as one side's state has them.
struct Keys {
    rows: arrow::row::Rows,
}

/// How many bytes a place takes behind its key.
const PLACE_BYTES: usize = 9;

impl Keys {
    /// `columns` are the keys and the place.
    fn of(columns: &[ArrayRef], side: &Side) -> Result<Keys, Error> {
        Ok(Keys { rows: side.state.layout().encode_keys(columns)? })
    }

    /// The key with the place.
    fn place(&self, row: usize) -> &[u8] {
        self.rows.row(row).data()
    }

    fn key(&self, row: usize) -> &[u8] {
        let place = self.place(row);
        &place[..place.len() - PLACE_BYTES]
    }
}

/// Left rows, each with its match.
#[derive(Default)]
struct Pairs<'a> {
    /// Rows of a snapshot, or places in `owned`.
    left: Vec<Left<'a>>,
    right: Vec<Option<&'a [u8]>>,
    weights: Vec<i64>,
    owned: Vec<u8>,
}

enum Left<'a> {
    Kept(&'a [u8]),
    Owned(std::ops::Range<usize>),
}

impl<'a> Pairs<'a> {
    fn push(&mut self, left: &'a [u8], right: Option<&'a [u8]>, weight: i64) {
        self.left.push(Left::Kept(left));
        self.right.push(right);
        self.weights.push(weight);
    }

    fn push_owned(&mut self, left: &[u8], right: Option<&'a [u8]>, weight: i64) {
        let start = self.owned.len();
        self.owned.extend_from_slice(left);
        self.left.push(Left::Owned(start..self.owned.len()));
        self.right.push(right);
        self.weights.push(weight);
    }

    fn left(&self, idx: usize) -> &[u8] {
        match &self.left[idx] {
            Left::Kept(row) => row,
            Left::Owned(range) => &self.owned[range.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;
    use tidemill_plan::{CloseSource, Nearest, RelationId};

    use crate::operators::testing::Bench;
    use crate::operators::testing::property::{Property, property};

    const ALL: [Nearest; 4] = [Nearest::AtOrBefore, Nearest::Before, Nearest::AtOrAfter, Nearest::After];

    fn asof(nearest: Nearest, is_outer: bool) -> plan::Operator {
        plan::Operator::Asof(plan::Asof {
            left_keys: vec![0],
            right_keys: vec![0],
            left_time: 1,
            right_time: 1,
            nearest,
            n_left: 2,
            n_right: 3,
            is_outer,
            trim: None,
        })
    }

    fn bench(nearest: Nearest, is_outer: bool) -> Bench {
        Bench::new(asof(nearest, is_outer), &["k:t a:ts", "r:t b:ts v:i"], &["k:t a:ts r:t b:ts v:i"])
    }

    #[test]
    fn a_right_row_changes_what_lies_between_it_and_the_next() {
        bench(Nearest::AtOrBefore, true)
            .check2(
                "+ x 1; + x 5; + x 9; + y 5",
                "+ x 3 30; + x 9 90",
                "+ x 1 NULL NULL NULL; + x 5 x 3 30; + x 9 x 9 90; + y 5 NULL NULL NULL",
            )
            .check2("", "+ x 4 40", "- x 5 x 3 30; + x 5 x 4 40")
            .check2("", "- x 9 90; + x 10 100", "- x 9 x 9 90; + x 9 x 4 40")
            // Both go at once: what stood between them sees neither.
            .check2("- x 5", "- x 4 40; - x 3 30", "- x 5 x 4 40; - x 9 x 4 40; + x 9 NULL NULL NULL");
    }

    #[test]
    fn ties_and_nulls() {
        bench(Nearest::AtOrBefore, false)
            .check2("+ x 5; + NULL 5; + x NULL", "+ x 5 7; + x 5 6; + NULL 1 1; + x NULL 1", "+ x 5 x 5 6")
            .check2("", "+ x 5 NULL", "- x 5 x 5 6; + x 5 x 5 NULL")
            .check2("", "+ x 5 NULL", "")
            .check2("", "-2 x 5 NULL", "- x 5 x 5 NULL; + x 5 x 5 6");
        bench(Nearest::After, true).check2("+2 x 5", "+ x 5 1; + x 8 2; + x 7 3", "+2 x 5 x 7 3").check2(
            "- NULL 1; + x NULL",
            "- x 7 3",
            "- NULL 1 NULL NULL NULL; + x NULL NULL NULL NULL; -2 x 5 x 7 3; +2 x 5 x 8 2",
        );
    }

    /// The nearest, as the first of the right rows that fit.
    fn first_of(nearest: Nearest, is_outer: bool, keys: &str) -> String {
        let direction = match nearest {
            Nearest::AtOrBefore | Nearest::Before => "DESC",
            Nearest::AtOrAfter | Nearest::After => "ASC",
        };
        let join = if is_outer { "LEFT" } else { "INNER" };
        // Copies of a left row are told apart, each has its own match.
        format!(
            "SELECT k, a, r, b, v FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY b {direction}, \
             r NULLS FIRST, v NULLS FIRST) AS n FROM (SELECT *, row_number() OVER () AS id FROM i0) AS l \
             {join} JOIN i1 ON {keys}a {} b) AS p WHERE n = 1",
            nearest.comparison()
        )
    }

    #[test]
    fn asof_joins_are_the_batch_answer() {
        for nearest in ALL {
            for is_outer in [true, false] {
                let sql = first_of(nearest, is_outer, "k = r AND ");
                let inputs = ["k:t a:ts", "r:t b:ts v:i"];
                property(asof(nearest, is_outer), &inputs, "k:t a:ts r:t b:ts v:i", &sql);
            }
        }
    }

    #[test]
    fn asof_joins_of_numbers_without_keys_are_the_batch_answer() {
        for nearest in ALL {
            let plan::Operator::Asof(asof) = asof(nearest, true) else { unreachable!("made above") };
            let operator = plan::Operator::Asof(plan::Asof { left_keys: vec![], right_keys: vec![], ..asof });
            let sql = first_of(nearest, true, "");
            property(operator, &["k:t a:i", "r:t b:i v:i"], "k:t a:i r:t b:i v:i", &sql);
        }
    }

    #[test]
    fn asof_joins_of_many_rows_are_the_batch_answer() {
        let sql = first_of(Nearest::AtOrBefore, true, "k = r AND ");
        let operator = asof(Nearest::AtOrBefore, true);
        Property::new(operator, &["k:t a:ts", "r:t b:ts v:i"], "k:t a:ts r:t b:ts v:i", &sql)
            .large(200)
            .check();
    }

    #[test]
    fn what_comes_and_goes_within_a_step_changes_nothing() {
        bench(Nearest::AtOrBefore, true)
            .check2("+ x 3", "", "+ x 3 NULL NULL NULL")
            .check2("", "+ x 2 9; - x 2 9; + x 1 1", "- x 3 NULL NULL NULL; + x 3 x 1 1")
            .check2("", "+ x 2 9; - x 2 9", "");
    }

    #[test]
    fn what_is_settled_goes_and_late_rows_are_handed_out() {
        let (left, right) = (RelationId(1), RelationId(2));
        let close = |relation| vec![CloseSource { relation, delay: 1 }];
        let side = |own, other| plan::TrimSide { time: 1, reach: 1, own: close(own), other: close(other) };
        let trim = plan::Trim { left: side(left, right), right: side(right, left) };
        let plan::Operator::Asof(asof) = asof(Nearest::AtOrBefore, true) else { unreachable!("made above") };
        let operator = plan::Operator::Asof(plan::Asof { trim: Some(Box::new(trim)), ..asof });
        Bench::new(operator, &["k:t a:ts", "r:t b:ts v:i"], &["k:t a:ts r:t b:ts v:i"])
            .check2("+ x 5; + x 20", "+ x 3 1; + x 4 2; + x 12 3; + y 1 4", "+ x 5 x 4 2; + x 20 x 12 3")
            .n_state(&[2, 4])
            .watermark(right, 11)
            .watermark(left, 15)
            // Up to 10 the right is complete: of x only the row of 4 can be asked for, the left row of 5 is settled.
            .check2("", "+ y 12 5", "")
            .n_state(&[1, 4])
            .check2("+ x 14; + x 16", "+ x 10 6; + x 11 7", "+ x 16 x 12 3")
            .late(2);
    }
}
