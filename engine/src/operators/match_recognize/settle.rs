//! What complete times settle.
//!
//! Where rows come in the order of a time that a watermark completes, rows up to that time stay as they are; and a search
//! that looked at no other row, be it because WITHIN ended it, is settled. The scan of settled searches need not be
//! made again: the place behind them is the partition's *base*, and the rows before it are forgotten, but for those that
//! PREV looks back to. With `EMIT ON WINDOW CLOSE` this scan is the only one, and what it sees leaves once.
//!
//! So that a step touches only partitions where there is something to settle, each has a *due time*: that of its first
//! row that is not complete yet, or the one that ends the search that waits at its base, whichever comes first.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{concat, not, take};
use arrow::datatypes::{DataType, Field, Int64Type};
use tidemill_core::Delta;
use tidemill_pattern::{Advance, Scan, ShownRows, Sighting};
use tidemill_plan as plan;
use tidemill_plan::CloseSource;
use tidemill_storage::{Snapshot, SortColumn};

use super::marks::{Mark, Marks};
use super::piece::Piece;
use super::{MatchRecognize, joined, part};
use crate::Error;
use crate::operators::closing::{is_complete, limit, micros};
use crate::operators::{BATCH_ROWS, Grouping, LateRows, Output, StateTable, StepContext, consolidate};

pub(super) struct Settling {
    sources: Vec<CloseSource>,
    /// The time column of the input.
    time: usize,
    is_closing: bool,
    /// At most one mark for each partition. No search before it will be made again.
    bases: Marks,
    /// The due time of each partition.
    due_times: StateTable,
    /// The same, by time.
    due: StateTable,
}

impl Settling {
    pub fn new(
        pattern: &plan::MatchRecognize,
        rows: &StateTable,
        n_partition: usize,
    ) -> Result<Settling, Error> {
        let partition = &rows.layout().columns()[..n_partition];
        let time = SortColumn::ascending(&Field::new("__due", DataType::Int64, false));
        let by_partition = [partition, std::slice::from_ref(&time)].concat();
        let by_time = [&[time], partition].concat();
        Ok(Settling {
            sources: pattern.sources.clone(),
            time: pattern.order_by[0].column,
            is_closing: pattern.is_closing,
            bases: Marks::new("bases", rows, n_partition)?,
            due_times: StateTable::new("due_times", by_partition, n_partition, (0..n_partition).collect())?,
            due: StateTable::new("due", by_time, 1, (1..=n_partition).collect())?,
        })
    }

    pub fn state(&mut self) -> [&mut StateTable; 3] {
        [&mut self.bases.table, &mut self.due_times, &mut self.due]
    }

    /// Where the scan of a partition begins.
    pub fn base(&self, partition: &[u8], rows: &StateTable) -> Result<Option<Mark>, Error> {
        let mut base = None;
        let snapshot = self.bases.table.arrangement.current();
        self.bases.walk(snapshot, partition, None, rows, |mark| {
            base = Some(mark);
            false
        })?;
        Ok(base)
    }

    /// Takes out the rows that come when their time has been complete.
    pub fn split_late(
        &self,
        context: &StepContext,
        input: &Delta,
    ) -> Result<(Delta, Option<LateRows>), Error> {
        let times = micros(input.batch().column(self.time))?;
        let limit = limit(&self.sources, &context.watermarks_before);
        let late: BooleanArray = is_complete(&times, limit)
            .into_iter()
            .enumerate()
            // A row without a time is never complete. No match that leaves once could have it.
            .map(|(row, is_complete)| Some(if times.is_null(row) { self.is_closing } else { is_complete }))
            .collect();
        if late.true_count() == 0 {
            return Ok((input.clone(), None));
        }
        let rows = part(input.batch(), &late)?.rows();
        let reason =
            "the matches that it could be part of are settled: its time is below the watermark, or NULL"
                .into();
        Ok((part(input.batch(), &not(&late)?)?, Some(LateRows { rows, reason })))
    }

    fn due_time(&self, partition: &[u8]) -> Option<i64> {
        let mut found = None;
        self.due_times.arrangement.current().lookup_while(partition, |row, _| {
            found = Some(row.to_vec());
            false
        });
        let columns = self.due_times.layout().decode([&found?[..]]).expect("state is what was encoded");
        Some(columns.last()?.as_primitive::<Int64Type>().value(0))
    }

    /// The partitions, as columns, that are due by `limit`.
    fn due_by(&self, limit: i64, n_partition: usize) -> Result<(Vec<ArrayRef>, usize), Error> {
        let snapshot = self.due.arrangement.current();
        let end: ArrayRef = Arc::new(Int64Array::from(vec![limit.saturating_add(1)]));
        let end = self.due.layout().encode_keys(&[end])?;
        let end = end.row(0).data();
        let rows: Vec<&[u8]> = snapshot.cursor().map(|(row, _)| row).take_while(|row| *row < end).collect();
        let n_rows = rows.len();
        let columns = self.due.layout().decode(rows)?;
        Ok((columns[1..=n_partition].to_vec(), n_rows))
    }
}

/// What a step writes.
#[derive(Default)]
struct Writes {
    /// Rows that nobody needs any more.
    gone: Vec<Vec<u8>>,
    /// By a row of the partitions' columns: the due time before and after.
    due: Vec<(u32, Option<i64>, Option<i64>)>,
}

impl MatchRecognize {
    /// Settles what can be settled in the partitions that have new rows, or are due.
    pub(super) fn settle(
        &mut self,
        context: &StepContext,
        input: &Delta,
        touched: (&[ArrayRef], &Grouping),
        output: &mut Output,
    ) -> Result<(), Error> {
        let mut settling = self.settling.take().expect("asked where times can be complete");
        let mut marks = self.marks.take();
        settling.bases.begin();
        marks.iter_mut().for_each(Marks::begin);
        let settled = self.settle_partitions((&mut settling, &mut marks), context, input, touched, output);
        self.settling = Some(settling);
        self.marks = marks;
        settled
    }

    fn settle_partitions(
        &mut self,
        (settling, marks): (&mut Settling, &mut Option<Marks>),
        context: &StepContext,
        input: &Delta,
        (touched, touched_groups): (&[ArrayRef], &Grouping),
        output: &mut Output,
    ) -> Result<(), Error> {
        // Without a watermark no time is complete.
        let limit = limit(&settling.sources, &context.watermarks).unwrap_or(i64::MIN);
        let (due, n_due) = settling.due_by(limit, self.n_partition)?;
        let n_touched = touched_groups.len();
        if n_touched + n_due == 0 {
            return Ok(());
        }
        // One list of those that have new rows and those that are due.
        let firsts = UInt32Array::from(touched_groups.firsts.clone());
        let mut keys: Vec<ArrayRef> = Vec::with_capacity(self.n_partition);
        for (touched, due) in touched.iter().zip(&due) {
            let touched = take(touched.as_ref(), &firsts, None)?;
            keys.push(concat(&[touched.as_ref(), due.as_ref()])?);
        }
        let first_times = first_times(input.batch().column(settling.time), touched_groups)?;
        let grouping = Grouping::new(&keys, n_touched + n_due)?;
        let rows = self.rows.snapshot();
        let mut writes = Writes::default();
        let mut shown: Vec<ShownRows> = Vec::new();
        let mut n_shown = 0;
        for group in 0..grouping.len() {
            let (partition, key) = (grouping.key(group), grouping.firsts[group]);
            let before = settling.due_time(partition);
            // Those that have new rows come first.
            let of_rows = first_times.get(key as usize).copied().flatten();
            let next = [before, of_rows].into_iter().flatten().min();
            if next.is_none_or(|next| next > limit) {
                writes.due.push((key, before, next));
                continue;
            }
            let (sighted, after) =
                self.settle_partition((settling, marks), &rows, partition, limit, &mut writes)?;
            writes.due.push((key, before, after));
            if let Some(sighted) = sighted.filter(|sighted| sighted.n_rows > 0) {
                n_shown += sighted.n_rows;
                shown.push(sighted);
            }
            if n_shown >= BATCH_ROWS {
                self.result.insert(joined(std::mem::take(&mut shown))?, output)?;
                n_shown = 0;
            }
        }
        if n_shown > 0 {
            self.result.insert(joined(shown)?, output)?;
        }
        let weights = vec![-1; writes.gone.len()];
        let gone: Vec<&[u8]> = writes.gone.iter().map(|row| &row[..]).collect();
        self.rows.arrangement.append(consolidate(&gone, &weights));
        settling.bases.write();
        marks.iter_mut().for_each(Marks::write);
        settling.write_due(&keys, &writes.due)
    }

    /// Gives what is to be shown, if it leaves once, and the partition's next due time.
    fn settle_partition(
        &self,
        (settling, marks): (&mut Settling, &mut Option<Marks>),
        snapshot: &Snapshot,
        partition: &[u8],
        limit: i64,
        writes: &mut Writes,
    ) -> Result<(Option<ShownRows>, Option<i64>), Error> {
        let base = settling.base(partition, &self.rows)?;
        let (mut piece, stand) = Piece::new(self, snapshot, partition, base.as_ref(), Some(limit))?;
        let mut scan = Scan::new(&self.matcher, stand);
        let mut sightings: Vec<Sighting> = Vec::new();
        loop {
            match scan.advance(&mut piece.rows, &|| true)? {
                Advance::Done(sighting) => sightings.extend(sighting),
                Advance::Unread if !piece.is_exhausted => piece.read(self)?,
                Advance::Unread => break,
            }
        }
        let shown = match settling.is_closing && !sightings.is_empty() {
            true => Some(self.matcher.show(&sightings, &piece.rows)?),
            false => None,
        };
        let (start, end) = (stand, scan.stand);
        if end.row > start.row {
            let plan = self.matcher.plan();
            let keep = if plan.remembers() { plan.back().max(1) } else { 0 };
            let n_gone = end.row.saturating_sub(keep);
            writes.gone.extend(piece.bytes[..n_gone].iter().map(|row| row.to_vec()));
            if let Some(base) = &base {
                settling.bases.remove(base);
            }
            let n_covered = if plan.shows_unmatched_rows() { (end.covered - end.row) as i64 } else { 0 };
            if plan.remembers() || n_covered > 0 {
                let own = piece.bytes[end.row - 1];
                let copies = piece.bytes[n_gone..end.row].iter().filter(|row| **row == own).count();
                settling.bases.add(
                    &[Mark {
                        bytes: Vec::new(),
                        row: own.to_vec(),
                        copies: copies as i64,
                        n_covered,
                        n_matches: if plan.numbers_matches() { end.n_matches } else { 0 },
                        reach: Vec::new(),
                    }],
                    &self.rows,
                )?;
            }
            if let Some(marks) = marks {
                self.forget_marks(marks, partition, piece.bytes[end.row - 1])?;
            }
        }
        let waits_until = match (self.matcher.plan().within, &self.matcher.time()) {
            (Some(within), Some(time)) if end.row < piece.bytes.len() => {
                let ends = piece.rows.time(end.row).map(|start| start.saturating_add(within.micros - 1));
                debug_assert!(*time == settling.time, "WITHIN measures what the watermark completes");
                // Something else keeps it open: rows that NEXT wants to see.
                ends.filter(|ends| *ends > limit)
            }
            _ => None,
        };
        let due = [piece.next_time, waits_until].into_iter().flatten().min();
        Ok((shown, due))
    }

    /// Removes the marks before a partition's new base, whose row is `own`.
    fn forget_marks(&self, marks: &mut Marks, partition: &[u8], own: &[u8]) -> Result<(), Error> {
        let snapshot = marks.table.snapshot();
        let mut passed: Vec<Mark> = Vec::new();
        marks.walk(&snapshot, partition, None, &self.rows, |mark| {
            let is_before = mark.row.as_slice() <= own;
            if is_before {
                passed.push(mark);
            }
            is_before
        })?;
        passed.iter().for_each(|mark| marks.remove(mark));
        Ok(())
    }
}

/// The first time of the rows of each group.
fn first_times(times: &ArrayRef, grouping: &Grouping) -> Result<Vec<Option<i64>>, Error> {
    let times = micros(times)?;
    let mut first: Vec<Option<i64>> = vec![None; grouping.len()];
    for (row, group) in grouping.ids.iter().enumerate() {
        if times.is_valid(row) {
            let known = &mut first[*group as usize];
            *known = Some(known.map_or(times.value(row), |known| known.min(times.value(row))));
        }
    }
    Ok(first)
}

impl Settling {
    /// Puts new due times in the place of old ones. `keys` are the partition columns, of which each change names a row.
    fn write_due(
        &mut self,
        keys: &[ArrayRef],
        changes: &[(u32, Option<i64>, Option<i64>)],
    ) -> Result<(), Error> {
        let mut rows: Vec<u32> = Vec::new();
        let (mut times, mut weights): (Vec<i64>, Vec<i64>) = Default::default();
        for (row, before, after) in changes {
            if before == after {
                continue;
            }
            for (time, weight) in [(before, -1), (after, 1)] {
                if let Some(time) = time {
                    rows.push(*row);
                    times.push(*time);
                    weights.push(weight);
                }
            }
        }
        let rows = UInt32Array::from(rows);
        let keys = keys.iter().map(|key| take(key.as_ref(), &rows, None)).collect::<Result<Vec<_>, _>>()?;
        let times: ArrayRef = Arc::new(Int64Array::from(times));
        let by_partition = [&keys[..], std::slice::from_ref(&times)].concat();
        let by_time = [&[times][..], &keys].concat();
        self.due_times.add(&by_partition, &weights)?;
        self.due.add(&by_time, &weights)
    }
}
