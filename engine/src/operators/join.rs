//! Joins of every type on equal keys.
//!
//! State: the rows of both sides by key. With Δ for a step's change, the pairs change by
//!
//! ```text
//! Δ(L ⋈ R) = ΔL ⋈ R + (L + ΔL) ⋈ ΔR
//! ```
//!
//! What outer, semi, anti and mark joins add depends on whether a row has any partner. Without a residual
//! condition that is a property of the key, e(k) = "the other side has no row of k", and
//!
//! ```text
//! Δ(L · e) = ΔL · e' + L · (e' − e)
//! ```
//!
//! so rows are touched only where a key's other side becomes empty or stops being so. With a residual
//! condition each row has partners of its own: rows are looked at again only where a changed row of the other side
//! fulfils the condition with them, and only until a partner is found.
//!
//! Pairs are made and filtered in batches of bounded length.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{Snapshot, sort_rows};

use super::trim::{Trim, split_late};
use super::{
    BATCH_ROWS, Build, Grouping, Operator, Output, StateTable, StepContext, consolidate, others,
    output_batch, state_columns, state_values,
};
use crate::Error;

pub(crate) struct Join {
    left: Side,
    right: Side,
    null_equals_null: bool,
    filter: Option<Filter>,
    join_type: JoinType,
    output: SchemaRef,
    /// A step of which not all has been given yet.
    running: Option<Running>,
}

/// What a step has to do, and how far it is. What it reads stays as it is.
struct Running {
    left: Change,
    right: Change,
    left_before: Snapshot,
    right_before: Snapshot,
    left_after: Snapshot,
    right_after: Snapshot,
    stage: Stage,
}

/// What is next.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Pairs with the change of the left side, those before a place have been given.
    LeftPairs(Place),
    RightPairs(Place),
    Alone,
}

/// How many pairs of a group, and all of the groups before it.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    group: usize,
    n_pairs: usize,
}

struct Side {
    state: StateTable,
    /// The input's columns in the order of the state: keys first.
    columns: Vec<usize>,
    n_keys: usize,
    /// How many of the input's columns a pair has.
    n_pair: usize,
    /// What this side's rows do without, or depending on, a partner.
    role: Role,
    /// When rows go by themselves.
    trim: Option<Trim>,
}

/// What becomes of a row of one side beside its pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing.
    Inner,
    /// Out with NULLs while it has no partner.
    Outer,
    /// Out alone while it has a partner.
    Semi,
    /// Out alone while it has none.
    Anti,
    /// Out alone, with whether it has one.
    Mark,
}

struct Filter {
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
}

/// A step's change of one side.
struct Change {
    /// In the order of the state's columns.
    columns: Vec<ArrayRef>,
    weights: Vec<i64>,
    grouping: Grouping,
    /// For each group, whether its key can have a partner at all.
    matchable: Vec<bool>,
    /// The rows of each group.
    members: (Vec<std::ops::Range<usize>>, Vec<u32>),
}

impl Join {
    pub fn new(join: &plan::Join, build: &Build) -> Result<Join, Error> {
        let (left_role, right_role) = match join.join_type {
            JoinType::Inner => (Role::Inner, Role::Inner),
            JoinType::Left => (Role::Outer, Role::Inner),
            JoinType::Right => (Role::Inner, Role::Outer),
            JoinType::Full => (Role::Outer, Role::Outer),
            JoinType::LeftSemi => (Role::Semi, Role::Inner),
            JoinType::LeftAnti => (Role::Anti, Role::Inner),
            JoinType::LeftMark => (Role::Mark, Role::Inner),
            JoinType::RightSemi => (Role::Inner, Role::Semi),
            JoinType::RightAnti => (Role::Inner, Role::Anti),
            JoinType::RightMark => (Role::Inner, Role::Mark),
        };
        let side =
            |name: &str, idx: usize, keys: &[usize], n_pair: usize, role: Role| -> Result<Side, Error> {
                let schema = &build.inputs[idx];
                let mut columns = keys.to_vec();
                columns.extend(others(schema, keys));
                let state = StateTable::new(
                    name,
                    state_columns(schema, &columns),
                    keys.len(),
                    (0..keys.len()).collect(),
                )?;
                let trim = join.trim.as_ref().map(|trim| {
                    let side = if idx == 0 { &trim.left } else { &trim.right };
                    Trim::new(side.clone(), &columns)
                });
                Ok(Side { state, columns, n_keys: keys.len(), n_pair, role, trim })
            };
        let filter = build.filter.as_ref().map(|expr| Filter {
            expr: expr.clone(),
            schema: Arc::new(Schema::new(join.pair_schema.fields().clone())),
        });
        Ok(Join {
            left: side("left", 0, &join.left_keys, join.n_left, left_role)?,
            right: side("right", 1, &join.right_keys, join.n_right, right_role)?,
            null_equals_null: join.null_equals_null,
            filter,
            join_type: join.join_type,
            output: build.output.clone(),
            running: None,
        })
    }

    fn gives_pairs(&self) -> bool {
        matches!(self.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full)
    }
}

impl Operator for Join {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [left, right] = inputs else { unreachable!("a join has two inputs") };
        // One that was given up was undone.
        self.running = None;
        let mut output = Output::default();
        let (left, right) = (
            &self.left.on_time(context, left, &mut output)?,
            &self.right.on_time(context, right, &mut output)?,
        );
        if left.is_empty() && right.is_empty() {
            return Ok(output);
        }
        let left = self.left.change(left, self.null_equals_null)?;
        let right = self.right.change(right, self.null_equals_null)?;
        let left_before = self.left.state.snapshot();
        let right_before = self.right.state.snapshot();
        self.left.state.add(&left.columns, &left.weights)?;
        self.right.state.add(&right.columns, &right.weights)?;
        let running = Running {
            left_after: self.left.state.snapshot(),
            right_after: self.right.state.snapshot(),
            left,
            right,
            left_before,
            right_before,
            stage: match self.gives_pairs() {
                true => Stage::LeftPairs(Place::default()),
                false => Stage::Alone,
            },
        };
        self.go_on(context, running, &mut output)?;
        Ok(output)
    }

    fn resume(&mut self, context: &StepContext) -> Result<Output, Error> {
        let mut output = Output::default();
        if let Some(running) = self.running.take() {
            self.go_on(context, running, &mut output)?;
        }
        Ok(output)
    }

    fn is_divisible(&self) -> bool {
        // What is late is so by the rows of its whole step.
        self.left.trim.is_none() && self.right.trim.is_none()
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.left.state, &mut self.right.state]
    }
}

/// Both sides, seen from one of them.
#[derive(Clone, Copy)]
struct States<'a> {
    own_before: &'a Snapshot,
    other_before: &'a Snapshot,
    other_after: &'a Snapshot,
}

impl Side {
    /// A step's rows without those that come too late.
    fn on_time(&self, context: &StepContext, input: &Delta, output: &mut Output) -> Result<Delta, Error> {
        let Some(trim) = &self.trim else { return Ok(input.clone()) };
        let (on_time, late) = split_late(&trim.side, context, input)?;
        output.late.extend(late);
        Ok(on_time)
    }

    fn change(&self, input: &Delta, null_equals_null: bool) -> Result<Change, Error> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| input.batch().column(*column).clone()).collect();
        let mut columns = state_values(columns, input.len());
        let mut weights = input.weights().values().to_vec();
        if self.n_keys == 0 && weights.len() > 1 {
            // Each of these rows meets every row of the other side: those that cancel each other are not to.
            let change = sort_rows(&self.state.layout().encode_rows(&columns)?, &weights);
            columns = self.state.layout().decode((0..change.len()).map(|idx| change.row(idx)))?;
            weights = (0..change.len()).map(|idx| change.weight(idx)).collect();
        }
        let keys = &columns[..self.n_keys];
        let grouping = Grouping::new(keys, weights.len())?;
        let matchable = grouping
            .firsts
            .iter()
            .map(|row| null_equals_null || keys.iter().all(|key| key.is_valid(*row as usize)))
            .collect();
        let members = grouping.members();
        Ok(Change { weights, columns, grouping, matchable, members })
    }

    /// Columns in the order of the state as columns in the order of the input, only those of a pair.
    fn pair_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        (0..self.n_pair)
            .map(|column| {
                let position = self.columns.iter().position(|known| *known == column).expect("a permutation");
                columns[position].clone()
            })
            .collect()
    }
}

impl Join {
    /// Does of a step what fits into one output.
    fn go_on(
        &mut self,
        context: &StepContext,
        mut running: Running,
        output: &mut Output,
    ) -> Result<(), Error> {
        let n_pairs_max = if context.rows_max == 0 { usize::MAX } else { context.rows_max };
        loop {
            let (change, other, is_right, place) = match running.stage {
                Stage::LeftPairs(place) => (&running.left, &running.right_before, false, place),
                Stage::RightPairs(place) => (&running.right, &running.left_after, true, place),
                Stage::Alone => break,
            };
            let next = self.pairs(change, other, is_right, place, n_pairs_max, output)?;
            running.stage = match (next, is_right) {
                (Some(place), false) => Stage::LeftPairs(place),
                (Some(place), true) => Stage::RightPairs(place),
                (None, false) => Stage::RightPairs(Place::default()),
                (None, true) => Stage::Alone,
            };
            if next.is_some() {
                output.has_more = true;
                self.running = Some(running);
                return Ok(());
            }
        }
        let Running { left, right, left_before, right_before, left_after, right_after, .. } = &running;
        let left_states =
            States { own_before: left_before, other_before: right_before, other_after: right_after };
        let right_states =
            States { own_before: right_before, other_before: left_before, other_after: left_after };
        self.alone(left, right, left_states, false, output)?;
        self.alone(right, left, right_states, true, output)?;
        let n_rows = left.weights.len() + right.weights.len();
        for side in [&mut self.left, &mut self.right] {
            if let Some(trim) = &mut side.trim {
                trim.sweep(context, &mut side.state, n_rows)?;
            }
        }
        Ok(())
    }

    /// The pairs of a change of one side with the state of the other, behind a place; where they are more than
    /// `n_pairs_max`, the place behind those that are given.
    fn pairs(
        &self,
        change: &Change,
        other: &Snapshot,
        is_right: bool,
        from: Place,
        n_pairs_max: usize,
        output: &mut Output,
    ) -> Result<Option<Place>, Error> {
        if change.weights.is_empty() || other.runs().is_empty() {
            return Ok(None);
        }
        let (members, rows) = &change.members;
        let mut pairs = Pairs { own: Vec::new(), other: Vec::new(), weights: Vec::new() };
        let mut place = Place { group: from.group, n_pairs: 0 };
        let n_batch = BATCH_ROWS.min(n_pairs_max);
        let mut n_given = 0;
        let mut is_full = false;
        let mut failure = None;
        let keys = (from.group..change.grouping.len()).map(|group| change.grouping.key(group));
        other.lookup_until(keys, |idx, other_row, other_weight| {
            let group = from.group + idx;
            if group != place.group {
                place = Place { group, n_pairs: 0 };
            }
            if !change.matchable[group] {
                return true;
            }
            let own = &rows[members[group].clone()];
            // Those that have been given already.
            let n_before = if group == from.group { from.n_pairs.saturating_sub(place.n_pairs) } else { 0 };
            let n_known = n_before.min(own.len());
            place.n_pairs += n_known;
            for row in &own[n_known..] {
                if is_full {
                    return false;
                }
                pairs.own.push(*row);
                pairs.other.push(other_row);
                pairs.weights.push(change.weights[*row as usize] * other_weight);
                place.n_pairs += 1;
                if pairs.own.len() == n_batch {
                    n_given += n_batch;
                    failure = self.emit_pairs(change, &mut pairs, is_right, output).err();
                    is_full = failure.is_some() || n_given >= n_pairs_max;
                }
            }
            true
        });
        if let Some(error) = failure {
            return Err(error);
        }
        self.emit_pairs(change, &mut pairs, is_right, output)?;
        Ok(is_full.then_some(place))
    }

    fn emit_pairs(
        &self,
        change: &Change,
        pairs: &mut Pairs<'_>,
        is_right: bool,
        output: &mut Output,
    ) -> Result<(), Error> {
        if pairs.own.is_empty() {
            return Ok(());
        }
        let (own, other) = if is_right { (&self.right, &self.left) } else { (&self.left, &self.right) };
        let indices = UInt32Array::from(std::mem::take(&mut pairs.own));
        let own_columns = own
            .pair_columns(&change.columns)
            .iter()
            .map(|column| take(column, &indices, None))
            .collect::<Result<Vec<_>, _>>()?;
        let other_columns =
            other.pair_columns(&other.state.layout().decode(std::mem::take(&mut pairs.other))?);
        let columns = if is_right {
            [other_columns, own_columns].concat()
        } else {
            [own_columns, other_columns].concat()
        };
        let weights = std::mem::take(&mut pairs.weights);
        let keep = match &self.filter {
            Some(filter) => Some(filter.evaluate(columns.clone())?),
            None => None,
        };
        let batch = output_batch(&self.output, columns, weights)?;
        output.push(match keep {
            Some(keep) => filter_record_batch(&batch, &keep)?,
            None => batch,
        });
        Ok(())
    }

    /// What the rows of one side do depending on whether they have a partner.
    fn alone(
        &self,
        own: &Change,
        other: &Change,
        states: States<'_>,
        is_right: bool,
        output: &mut Output,
    ) -> Result<(), Error> {
        let side = if is_right { &self.right } else { &self.left };
        if side.role == Role::Inner {
            return Ok(());
        }
        let mut rows = AloneRows::default();
        if self.filter.is_none() {
            self.alone_by_key(side, own, other, states, &mut rows)?;
        } else {
            self.alone_by_row(side, own, other, states, is_right, &mut rows)?;
        }
        for rows in rows.chunks() {
            output.push(self.alone_batch(side, is_right, rows)?);
        }
        Ok(())
    }

    fn alone_by_key<'a>(
        &self,
        side: &Side,
        own: &Change,
        other: &Change,
        states: States<'a>,
        rows: &mut AloneRows<'a>,
    ) -> Result<(), Error> {
        // ΔL · e'
        let has_partner = presence(own, states.other_after);
        let encoded = side.state.layout().encode_rows(&own.columns)?;
        for (row, weight) in own.weights.iter().enumerate() {
            let partner = has_partner[own.grouping.ids[row] as usize];
            rows.push_owned(side.role, encoded.row(row).data(), partner, *weight);
        }
        // L · (e' − e)
        let (before, after) = (presence(other, states.other_before), presence(other, states.other_after));
        let crossed: Vec<usize> = (0..before.len()).filter(|group| before[*group] != after[*group]).collect();
        states.own_before.lookup(
            crossed.iter().map(|group| other.grouping.key(*group)),
            |idx, row, weight| {
                let group = crossed[idx];
                rows.push(side.role, row, before[group], -weight);
                rows.push(side.role, row, after[group], weight);
            },
        );
        Ok(())
    }

    fn alone_by_row<'a>(
        &self,
        side: &Side,
        own: &Change,
        other: &Change,
        states: States<'a>,
        is_right: bool,
        rows: &mut AloneRows<'a>,
    ) -> Result<(), Error> {
        // ΔL · e'
        let encoded = side.state.layout().encode_rows(&own.columns)?;
        let of_step: Vec<OfGroup> = (0..own.weights.len())
            .map(|row| OfGroup { group: own.grouping.ids[row] as usize, row: encoded.row(row).data() })
            .collect();
        let has_partner = self.have_partner(&of_step, &own.others(states.other_after, |_| true), is_right)?;
        for ((row, has_partner), weight) in of_step.iter().zip(has_partner).zip(&own.weights) {
            rows.push_owned(side.role, row.row, has_partner, *weight);
        }
        // L · (e' − e), which only differ for a row that some changed row of the other side meets.
        let other_side = if is_right { &self.left } else { &self.right };
        let encoded = other_side.state.layout().encode_rows(&other.columns)?;
        let mut changed: Vec<Vec<&[u8]>> = vec![Vec::new(); other.grouping.len()];
        for (row, group) in other.grouping.ids.iter().enumerate() {
            changed[*group as usize].push(encoded.row(row).data());
        }
        let mut known: Vec<OfGroup<'a>> = Vec::new();
        let mut weights = Vec::new();
        states.own_before.lookup(other.grouping.keys(), |group, row, weight| {
            if other.matchable[group] {
                known.push(OfGroup { group, row });
                weights.push(weight);
            }
        });
        let mut meets = self.have_partner(&known, &changed, is_right)?.into_iter();
        let mut met = meets.clone();
        known.retain(|_| meets.next().expect("an answer for each row"));
        weights.retain(|_| met.next().expect("an answer for each row"));
        let mut is_met = vec![false; changed.len()];
        known.iter().for_each(|row| is_met[row.group] = true);
        let before =
            self.have_partner(&known, &other.others(states.other_before, |group| is_met[group]), is_right)?;
        let after =
            self.have_partner(&known, &other.others(states.other_after, |group| is_met[group]), is_right)?;
        for (idx, known) in known.iter().enumerate() {
            if before[idx] != after[idx] {
                rows.push(side.role, known.row, before[idx], -weights[idx]);
                rows.push(side.role, known.row, after[idx], weights[idx]);
            }
        }
        Ok(())
    }

    /// For each of some rows of one side, whether it fulfils the condition with one of `others`, the rows of the
    /// other side that stand for its group.
    ///
    /// Most rows that have a partner find one soon: all look at a few, those that found none at some more.
    fn have_partner(
        &self,
        rows: &[OfGroup<'_>],
        others: &[Vec<&[u8]>],
        is_right: bool,
    ) -> Result<Vec<bool>, Error> {
        let mut candidates =
            Candidates { join: self, is_right, rows, found: vec![false; rows.len()], pairs: Vec::new() };
        let mut open: Vec<usize> = (0..rows.len()).collect();
        let (mut start, mut n) = (0, 16);
        loop {
            open.retain(|row| !candidates.found[*row] && others[rows[*row].group].len() > start);
            if open.is_empty() {
                return Ok(candidates.found);
            }
            for row in &open {
                for other in others[rows[*row].group].iter().skip(start).take(n) {
                    candidates.pairs.push((*row, other));
                    if candidates.pairs.len() == BATCH_ROWS {
                        candidates.evaluate()?;
                    }
                }
            }
            candidates.evaluate()?;
            start += n;
            n *= 4;
        }
    }

    /// Rows of one side as rows of the output.
    fn alone_batch(&self, side: &Side, is_right: bool, rows: &[AloneRow<'_>]) -> Result<RecordBatch, Error> {
        // The same row may go out and come back: only what remains is worth sending.
        let mut columns = Vec::new();
        let mut weights = Vec::new();
        let mut marks = Vec::new();
        for with_partner in [false, true] {
            let (bytes, changes): (Vec<&[u8]>, Vec<i64>) = rows
                .iter()
                .filter(|row| row.has_partner == with_partner)
                .map(|row| (row.bytes(), row.weight))
                .unzip();
            let run = consolidate(&bytes, &changes);
            weights.extend((0..run.len()).map(|idx| run.weight(idx)));
            marks.resize(weights.len(), with_partner);
            columns.push(side.state.layout().decode((0..run.len()).map(|idx| run.row(idx)))?);
        }
        let joined: Vec<ArrayRef> = columns[0]
            .iter()
            .zip(&columns[1])
            .map(|(without, with)| arrow::compute::concat(&[without.as_ref(), with.as_ref()]))
            .collect::<Result<_, _>>()?;
        let own = side.pair_columns(&joined);
        let columns = match side.role {
            Role::Inner => unreachable!("inner sides put no row out alone"),
            Role::Semi | Role::Anti => own,
            Role::Mark => [own, vec![Arc::new(BooleanArray::from(marks)) as ArrayRef]].concat(),
            Role::Outer => {
                let other = if is_right { &self.left } else { &self.right };
                let first = if is_right { 0 } else { side.n_pair };
                let nulls: Vec<ArrayRef> = (first..first + other.n_pair)
                    .map(|column| new_null_array(self.output.field(column).data_type(), weights.len()))
                    .collect();
                if is_right { [nulls, own].concat() } else { [own, nulls].concat() }
            }
        };
        output_batch(&self.output, columns, weights)
    }
}

/// An encoded row, and the group of a change that it belongs to.
#[derive(Clone, Copy)]
struct OfGroup<'a> {
    group: usize,
    row: &'a [u8],
}

/// Pairs that may fulfil the condition.
struct Candidates<'a> {
    join: &'a Join,
    is_right: bool,
    rows: &'a [OfGroup<'a>],
    /// For each row, whether it is part of a pair that does.
    found: Vec<bool>,
    /// Positions in `rows`, with a row of the other side.
    pairs: Vec<(usize, &'a [u8])>,
}

impl Candidates<'_> {
    fn evaluate(&mut self) -> Result<(), Error> {
        if self.pairs.is_empty() {
            return Ok(());
        }
        let filter = self.join.filter.as_ref().expect("rows are looked at one by one only under a condition");
        let (left, right) = (&self.join.left, &self.join.right);
        let (own, other) = if self.is_right { (right, left) } else { (left, right) };
        let own_rows = self.pairs.iter().map(|(row, _)| self.rows[*row].row);
        let own_columns = own.pair_columns(&own.state.layout().decode(own_rows)?);
        let other_rows = self.pairs.iter().map(|(_, other)| *other);
        let other_columns = other.pair_columns(&other.state.layout().decode(other_rows)?);
        let columns = match self.is_right {
            true => [other_columns, own_columns].concat(),
            false => [own_columns, other_columns].concat(),
        };
        let keep = filter.evaluate(columns)?;
        for (pair, (row, _)) in self.pairs.drain(..).enumerate() {
            self.found[row] |= keep.value(pair);
        }
        Ok(())
    }
}

impl Change {
    /// For each group that can match and is asked for, the rows of the other side.
    fn others<'a>(&self, state: &'a Snapshot, is_wanted: impl Fn(usize) -> bool) -> Vec<Vec<&'a [u8]>> {
        let mut others: Vec<Vec<&[u8]>> = vec![Vec::new(); self.grouping.len()];
        let wanted: Vec<usize> =
            (0..others.len()).filter(|group| self.matchable[*group] && is_wanted(*group)).collect();
        state.lookup(wanted.iter().map(|group| self.grouping.key(*group)), |idx, row, _| {
            others[wanted[idx]].push(row);
        });
        others
    }
}

struct Pairs<'a> {
    own: Vec<u32>,
    other: Vec<&'a [u8]>,
    weights: Vec<i64>,
}

/// Rows of one side that go out by themselves.
#[derive(Default)]
struct AloneRows<'a> {
    rows: Vec<AloneRow<'a>>,
}

struct AloneRow<'a> {
    state: &'a [u8],
    /// Set instead of `state` for rows that are not in the state yet.
    step: Option<Box<[u8]>>,
    has_partner: bool,
    weight: i64,
}

impl AloneRow<'_> {
    fn bytes(&self) -> &[u8] {
        self.step.as_deref().unwrap_or(self.state)
    }
}

impl<'a> AloneRows<'a> {
    fn push(&mut self, role: Role, row: &'a [u8], has_partner: bool, weight: i64) {
        if is_out(role, has_partner) {
            self.rows.push(AloneRow { state: row, step: None, has_partner, weight });
        }
    }

    fn push_owned(&mut self, role: Role, row: &[u8], has_partner: bool, weight: i64) {
        if is_out(role, has_partner) {
            self.rows.push(AloneRow { state: &[], step: Some(row.into()), has_partner, weight });
        }
    }

    fn chunks(&self) -> impl Iterator<Item = &[AloneRow<'a>]> {
        self.rows.chunks(BATCH_ROWS)
    }
}

/// For each key of a change, whether the state of the other side has a row that it matches.
fn presence(change: &Change, state: &Snapshot) -> Vec<bool> {
    let is_present = |group: usize| {
        let mut found = false;
        if change.matchable[group] {
            state.lookup_while(change.grouping.key(group), |_, _| {
                found = true;
                false
            });
        }
        found
    };
    (0..change.grouping.len()).map(is_present).collect()
}

fn is_out(role: Role, has_partner: bool) -> bool {
    match role {
        Role::Inner => false,
        Role::Outer | Role::Anti => !has_partner,
        Role::Semi => has_partner,
        Role::Mark => true,
    }
}

impl Filter {
    fn evaluate(&self, columns: Vec<ArrayRef>) -> Result<BooleanArray, Error> {
        let n_rows = columns.first().map_or(0, |column| column.len());
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        let values = self.expr.evaluate(&batch)?.into_array(n_rows)?;
        let values = values.as_boolean();
        // NULL is not true.
        Ok((0..n_rows).map(|row| Some(values.is_valid(row) && values.value(row))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::common::{DFSchema, JoinType};
    use datafusion::logical_expr::{Expr, col};
    use tidemill_plan as plan;

    use crate::operators::testing::property::Property;
    use crate::operators::testing::{Bench, schema};

    fn join(join_type: JoinType, filter: Option<Expr>) -> Bench {
        let pair = DFSchema::try_from(schema("k:t a:i r:t b:i").as_ref().clone()).unwrap();
        let operator = plan::Operator::Join(plan::Join {
            join_type,
            left_keys: vec![0],
            right_keys: vec![0],
            null_equals_null: false,
            n_left: 2,
            n_right: 2,
            filter,
            pair_schema: Arc::new(pair),
            is_append_only: false,
            trim: None,
        });
        let output = match join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => "k:t a:i",
            JoinType::RightSemi | JoinType::RightAnti => "r:t b:i",
            JoinType::LeftMark => "k:t a:i mark:b",
            _ => "k:t a:i r:t b:i",
        };
        Bench::new(operator, &["k:t a:i", "r:t b:i"], &[output])
    }

    #[test]
    fn pairs_come_and_go_with_either_side() {
        join(JoinType::Inner, None)
            .check2("+ x 1; + NULL 9", "+ x 5; + NULL 9", "+ x 1 x 5")
            .check2("+2 x 2", "- x 5; + x 6", "- x 1 x 5; + x 1 x 6; +2 x 2 x 6")
            .check2("- x 1; -2 x 2", "", "- x 1 x 6; -2 x 2 x 6");
    }

    #[test]
    fn left_row_is_padded_while_alone() {
        join(JoinType::Left, None)
            .check2("+ x 1; + NULL 2", "+ NULL 3", "+ x 1 NULL NULL; + NULL 2 NULL NULL")
            .check2("+ x 2", "+ x 7; + x 8", "- x 1 NULL NULL; + x 1 x 7; + x 1 x 8; + x 2 x 7; + x 2 x 8")
            .check2("", "- x 7", "- x 1 x 7; - x 2 x 7")
            .check2("- x 2", "- x 8", "- x 1 x 8; - x 2 x 8; + x 1 NULL NULL");
    }

    #[test]
    fn full_join_pads_both() {
        join(JoinType::Full, None).check2("+ x 1", "+ y 2", "+ x 1 NULL NULL; + NULL NULL y 2").check2(
            "+ y 3",
            "+ x 4",
            "- x 1 NULL NULL; - NULL NULL y 2; + y 3 y 2; + x 1 x 4",
        );
    }

    #[test]
    fn semi_and_anti_are_complements() {
        join(JoinType::LeftSemi, None).check2("+ x 1; + y 1", "+2 x 5", "+ x 1").check2(
            "",
            "-2 x 5; + y 0",
            "- x 1; + y 1",
        );
        join(JoinType::LeftAnti, None).check2("+ x 1; + y 1", "+2 x 5", "+ y 1").check2(
            "",
            "-2 x 5; + y 0",
            "+ x 1; - y 1",
        );
        join(JoinType::RightAnti, None).check2("+ x 1", "+ x 5; + z 5; + NULL 1", "+ z 5; + NULL 1");
        join(JoinType::LeftMark, None).check2("+ x 1", "", "+ x 1 false").check2(
            "",
            "+ x 3",
            "- x 1 false; + x 1 true",
        );
    }

    #[test]
    fn condition_decides_row_by_row() {
        let condition = || Some(col("a").lt(col("b")));
        join(JoinType::Left, condition())
            .check2("+ x 1; + x 9", "+ x 5", "+ x 1 x 5; + x 9 NULL NULL")
            .check2("", "+ x 10", "- x 9 NULL NULL; + x 9 x 10; + x 1 x 10")
            .check2(
                "",
                "- x 10; - x 5",
                "- x 9 x 10; - x 1 x 10; - x 1 x 5; + x 9 NULL NULL; + x 1 NULL NULL",
            );
        join(JoinType::LeftAnti, condition()).check2("+ x 1; + x 9", "+ x 5", "+ x 9").check2(
            "+ x 4",
            "- x 5",
            "+ x 1; + x 4",
        );
    }

    /// The join of `i0(k, a)` and `i1(r, b)` on `k = r`, as an operator and as SQL.
    fn both(join_type: JoinType, null_equals_null: bool, with_filter: bool) -> Property {
        let pair = DFSchema::try_from(schema("k:t a:i r:t b:i").as_ref().clone()).unwrap();
        let operator = plan::Operator::Join(plan::Join {
            join_type,
            left_keys: vec![0],
            right_keys: vec![0],
            null_equals_null,
            n_left: 2,
            n_right: 2,
            filter: with_filter.then(|| col("a").lt(col("b"))),
            pair_schema: Arc::new(pair),
            is_append_only: false,
            trim: None,
        });
        let equal = if null_equals_null { "IS NOT DISTINCT FROM" } else { "=" };
        let filter = if with_filter { " AND a < b" } else { "" };
        // In parentheses: sqlparser lets AND bind closer than IS NOT DISTINCT FROM.
        let on = format!("ON (k {equal} r){filter}");
        let pairs =
            |word: &str| ("k:t a:i r:t b:i", format!("SELECT k, a, r, b FROM i0 {word} JOIN i1 {on}"));
        let left = |word: &str| ("k:t a:i", format!("SELECT k, a FROM i0 LEFT {word} JOIN i1 {on}"));
        let right = |word: &str| ("r:t b:i", format!("SELECT r, b FROM i0 RIGHT {word} JOIN i1 {on}"));
        let mark = |side: &str, columns: &str, types: &'static str| {
            let part = |word: &str, mark: bool| {
                format!("SELECT {columns}, {mark} AS mark FROM i0 {side} {word} JOIN i1 {on}")
            };
            (types, format!("{} UNION ALL {}", part("SEMI", true), part("ANTI", false)))
        };
        let (output, sql) = match join_type {
            JoinType::Inner => pairs("INNER"),
            JoinType::Left => pairs("LEFT"),
            JoinType::Right => pairs("RIGHT"),
            JoinType::Full => pairs("FULL"),
            JoinType::LeftSemi => left("SEMI"),
            JoinType::LeftAnti => left("ANTI"),
            JoinType::RightSemi => right("SEMI"),
            JoinType::RightAnti => right("ANTI"),
            JoinType::LeftMark => mark("LEFT", "k, a", "k:t a:i mark:b"),
            JoinType::RightMark => mark("RIGHT", "r, b", "r:t b:i mark:b"),
        };
        Property::new(operator, &["k:t a:i", "r:t b:i"], output, &sql)
    }

    const TYPES: [JoinType; 10] = [
        JoinType::Inner,
        JoinType::Left,
        JoinType::Right,
        JoinType::Full,
        JoinType::LeftSemi,
        JoinType::LeftAnti,
        JoinType::LeftMark,
        JoinType::RightSemi,
        JoinType::RightAnti,
        JoinType::RightMark,
    ];

    #[test]
    fn equi_joins_are_the_batch_answer() {
        TYPES.into_iter().for_each(|join_type| both(join_type, false, false).check());
    }

    #[test]
    fn joins_with_a_condition_are_the_batch_answer() {
        TYPES.into_iter().for_each(|join_type| both(join_type, false, true).check());
    }

    #[test]
    fn joins_where_null_equals_null_are_the_batch_answer() {
        for join_type in TYPES {
            both(join_type, true, false).check();
            both(join_type, true, true).check();
        }
    }

    #[test]
    fn joins_of_hot_keys_are_the_batch_answer() {
        for join_type in [JoinType::Full, JoinType::LeftSemi] {
            both(join_type, false, true).large(250).check();
        }
    }

    #[test]
    fn interval_join_gives_its_pairs_and_hands_out_late_rows() {
        let (left, right) = (plan::RelationId(1), plan::RelationId(2));
        let pair = DFSchema::try_from(schema("k:t a:ts r:t b:ts").as_ref().clone()).unwrap();
        let close = |relation| vec![plan::CloseSource { relation, delay: 1 }];
        let side = |own, other| plan::TrimSide { time: 1, reach: 10, own: close(own), other: close(other) };
        let operator = plan::Operator::Join(plan::Join {
            join_type: JoinType::Inner,
            left_keys: vec![0],
            right_keys: vec![0],
            null_equals_null: false,
            n_left: 2,
            n_right: 2,
            filter: None,
            pair_schema: Arc::new(pair),
            is_append_only: true,
            trim: Some(Box::new(plan::Trim { left: side(left, right), right: side(right, left) })),
        });
        Bench::new(operator, &["k:t a:ts", "r:t b:ts"], &["k:t a:ts r:t b:ts"])
            .check2("+ x 5; + x 20", "+ x 7", "+ x 5 x 7; + x 20 x 7")
            .watermark(right, 16)
            // The row of 5 can meet times up to 15, and they are complete.
            .check2("", "+ x 17", "+ x 5 x 17; + x 20 x 17")
            .check2("", "+ x 18; + x 15", "+ x 20 x 18")
            .late(1);
    }
}
