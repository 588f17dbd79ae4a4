//! An arrangement: a multiset of rows, indexed by a prefix of their columns.
//!
//! ```text
//! oldest                                   newest
//! ┌──────────────────────────┐┌───────────┐┌────┐┌─┐     each a sorted run of (row, weight);
//! └──────────────────────────┘└───────────┘└────┘└─┘     the arrangement is their sum
//! ```
//!
//! A step appends one run; nothing is ever changed in place, so a retraction is a row of weight −1
//! that meets its insertion when their runs are merged. Neighbouring runs are merged once the newer
//! is at least half as long as the older, so there are about log₂ n of them and every row is copied
//! about log₂ n times: the "spine" of differential dataflow (McSherry et al., CIDR 2013) and the log-structured
//! merge tree. Reading is a merge of ranges. A snapshot is a clone of the list of runs, a checkpoint
//! writes the runs that are not durable yet, and undoing a step puts the old list back.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::row::Rows;

use crate::budget::Budget;
use crate::compactor::{Merge, merge};
use crate::layout::Layout;
use crate::run::{RUN_BYTES_MAX, Run, RunBuilder, head};

/// A merge of fewer rows than this is done on the spot: it takes well under a millisecond.
const ON_THE_SPOT_ROWS_MAX: usize = 8 * 1024;

/// With this many runs a step waits for the compactor: reading would cost more than waiting.
const RUNS_MAX: usize = 32;

/// What is wanted after a row that a look-up has found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Row,
    Key,
    Nothing,
}

/// Rows with weights, sorted, as of one moment. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Snapshot {
    layout: Arc<Layout>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
}

impl Snapshot {
    /// The sum of `runs`, in whatever order.
    pub fn of(layout: Arc<Layout>, runs: Vec<Arc<Run>>) -> Snapshot {
        Snapshot { layout, runs }
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Rows in all runs: an upper bound of the number of distinct rows.
    pub fn n_rows_max(&self) -> usize {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// Bytes, in memory and on disk.
    pub fn size(&self) -> usize {
        self.runs.iter().map(|run| run.size()).sum()
    }

    /// Bytes in memory; the rest is in files.
    pub fn heap_size(&self) -> usize {
        self.runs.iter().map(|run| run.heap_size()).sum()
    }

    /// Calls `found(key_idx, row, weight)` for every row of every key, keys in the given order.
    ///
    /// `keys` ascend. A row is given once, with its total weight, which is not zero; the rows of a
    /// key ascend.
    pub fn lookup<'a, 'k>(
        &'a self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        mut found: impl FnMut(usize, &'a [u8], i64),
    ) {
        self.lookup_each(keys, |key_idx, row, weight| {
            found(key_idx, row, weight);
            Next::Row
        });
    }

    /// The same, until `found` says `false`.
    pub fn lookup_until<'a, 'k>(
        &'a self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        mut found: impl FnMut(usize, &'a [u8], i64) -> bool,
    ) {
        self.lookup_each(keys, |key_idx, row, weight| match found(key_idx, row, weight) {
            true => Next::Row,
            false => Next::Nothing,
        });
    }

    /// The same, for each key until `found` says `false`.
    pub fn lookup_firsts<'a, 'k>(
        &'a self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        mut found: impl FnMut(usize, &'a [u8], i64) -> bool,
    ) {
        self.lookup_each(keys, |key_idx, row, weight| match found(key_idx, row, weight) {
            true => Next::Row,
            false => Next::Key,
        });
    }

    fn lookup_each<'a, 'k>(
        &'a self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        mut found: impl FnMut(usize, &'a [u8], i64) -> Next,
    ) {
        let mut positions = vec![0; self.runs.len()];
        let mut ranges: Vec<Range> = Vec::with_capacity(self.runs.len());
        for (key_idx, key) in keys.into_iter().enumerate() {
            ranges.clear();
            for (run, position) in self.runs.iter().zip(&mut positions) {
                *position = run.lower_bound(key, *position);
                if *position < run.len() && run.starts_with(*position, key) {
                    ranges.push(Range { run, idx: *position });
                }
            }
            let mut next = Next::Row;
            match &mut ranges[..] {
                [] => (),
                [range] => {
                    while next == Next::Row && range.is_within(key) {
                        next = found(key_idx, range.row(), range.weight());
                        range.idx += 1;
                    }
                }
                ranges => merge_ranges(ranges, key, |row, weight| {
                    next = found(key_idx, row, weight);
                    next == Next::Row
                }),
            }
            if next == Next::Nothing {
                return;
            }
        }
    }

    /// Calls `found(row, weight)` for the rows of one key in ascending order, until it says `false`.
    pub fn lookup_while<'a>(&'a self, key: &[u8], found: impl FnMut(&'a [u8], i64) -> bool) {
        let mut ranges: Vec<Range> =
            self.runs.iter().map(|run| Range { run, idx: run.lower_bound(key, 0) }).collect();
        merge_ranges(&mut ranges, key, found);
    }

    /// Calls `found(row, weight)` for the rows of one key from `from` on, in ascending order, until it says
    /// `false`.
    pub fn lookup_from<'a>(&'a self, key: &[u8], from: &[u8], found: impl FnMut(&'a [u8], i64) -> bool) {
        assert!(from.starts_with(key), "the start lies within the key");
        let mut ranges: Vec<Range> =
            self.runs.iter().map(|run| Range { run, idx: run.lower_bound(from, 0) }).collect();
        merge_ranges(&mut ranges, key, found);
    }

    /// Calls `found(row, weight)` for the rows of one key that are below `before`, in descending order, until
    /// it says `false`.
    pub fn lookup_back<'a>(
        &'a self,
        key: &[u8],
        before: &[u8],
        mut found: impl FnMut(&'a [u8], i64) -> bool,
    ) {
        // `idx` is one behind the row that is next.
        let mut ranges: Vec<Range> =
            self.runs.iter().map(|run| Range { run, idx: run.lower_bound(before, 0) }).collect();
        let next = |range: &Range<'a>| -> Option<&'a [u8]> {
            let row = range.run.row(range.idx.checked_sub(1)?);
            row.starts_with(key).then_some(row)
        };
        loop {
            let Some(row) = ranges.iter().filter_map(next).max() else { return };
            let mut weight = 0;
            for range in ranges.iter_mut().filter(|range| next(range) == Some(row)) {
                range.idx -= 1;
                weight += range.weight();
            }
            if weight != 0 && !found(row, weight) {
                return;
            }
        }
    }

    /// The total weight of each row; `rows` are whole rows, ascending.
    pub fn weights<'k>(&self, rows: impl IntoIterator<Item = &'k [u8]>) -> Vec<i64> {
        let mut positions = vec![0; self.runs.len()];
        let weigh = |row: &'k [u8]| {
            let mut weight = 0;
            for (run, position) in self.runs.iter().zip(&mut positions) {
                *position = run.lower_bound(row, *position);
                if *position < run.len() && run.row(*position) == row {
                    weight += run.weight(*position);
                }
            }
            weight
        };
        rows.into_iter().map(weigh).collect()
    }

    /// All rows in ascending order.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { ranges: self.runs.iter().map(|run| Range { run, idx: 0 }).collect(), leader: None }
    }

    /// Where the rows that are not below `from` begin in each run.
    pub fn positions(&self, from: &[u8]) -> Vec<usize> {
        self.runs.iter().map(|run| run.lower_bound(from, 0)).collect()
    }

    /// The rows from such a place on.
    pub fn cursor_at(&self, positions: &[usize]) -> Cursor<'_> {
        assert_eq!(positions.len(), self.runs.len(), "a place in each run");
        Cursor {
            ranges: self.runs.iter().zip(positions).map(|(run, idx)| Range { run, idx: *idx }).collect(),
            leader: None,
        }
    }

    /// How many rows of all runs are not below `from`, and below `to`; without one, to the end.
    pub fn n_rows_between(&self, from: &[u8], to: Option<&[u8]>) -> usize {
        self.runs.iter().map(|run| between(run, from, to).len()).sum()
    }

    /// Rows at which to cut what lies between two bounds into `n` parts of about the same length.
    pub fn splits(&self, from: &[u8], to: Option<&[u8]>, n: usize) -> Vec<Vec<u8>> {
        let ranges = self.runs.iter().map(|run| (run, between(run, from, to)));
        let Some((run, range)) = ranges.max_by_key(|(_, range)| range.len()) else { return Vec::new() };
        let cuts = (1..n).map(|part| range.len() * part / n).filter(|idx| *idx > 0);
        let mut splits: Vec<Vec<u8>> = cuts.map(|idx| run.row(range.start + idx).to_vec()).collect();
        splits.dedup();
        splits
    }

    /// The number of rows, counting copies.
    pub fn count(&self) -> i64 {
        let of_run = |run: &Arc<Run>| match run.is_insertions() {
            true => run.len() as i64,
            false => (0..run.len()).map(|idx| run.weight(idx)).sum(),
        };
        self.runs.iter().map(of_run).sum()
    }
}

/// The rows of a run that are not below `from`, and below `to`.
fn between(run: &Run, from: &[u8], to: Option<&[u8]>) -> std::ops::Range<usize> {
    let start = run.lower_bound(from, 0);
    start..to.map_or(run.len(), |to| run.lower_bound(to, start))
}

/// A place in a run.
#[derive(Debug, Clone, Copy)]
struct Range<'a> {
    run: &'a Run,
    idx: usize,
}

impl<'a> Range<'a> {
    fn row(&self) -> &'a [u8] {
        self.run.row(self.idx)
    }

    fn weight(&self) -> i64 {
        self.run.weight(self.idx)
    }

    fn is_within(&self, key: &[u8]) -> bool {
        self.idx < self.run.len() && (key.is_empty() || self.run.starts_with(self.idx, key))
    }
}

/// The order of two rows. Mostly their first bytes tell, as a number, without a call.
#[inline]
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    match (a.split_first_chunk::<16>(), b.split_first_chunk::<16>()) {
        (Some((a, rest_of_a)), Some((b, rest_of_b))) => {
            let heads = u128::from_be_bytes(*a).cmp(&u128::from_be_bytes(*b));
            heads.then_with(|| rest_of_a.cmp(rest_of_b))
        }
        _ => a.cmp(b),
    }
}

/// Where the smallest row of some ranges is, and the smallest row of the others: what is below that is in no other.
///
/// A linear search: there are few runs, and a heap costs more below about eight.
fn leader<'a>(ranges: &[Range<'a>], key: &[u8]) -> Option<(usize, Option<&'a [u8]>)> {
    let mut first: Option<(usize, &'a [u8])> = None;
    let mut bound: Option<&'a [u8]> = None;
    for (idx, range) in ranges.iter().enumerate().filter(|(_, range)| range.is_within(key)) {
        let row = range.row();
        match first {
            Some((_, least)) if compare(least, row).is_le() => {
                if bound.is_none_or(|bound| compare(row, bound).is_lt()) {
                    bound = Some(row);
                }
            }
            _ => {
                bound = first.map(|(_, least)| least);
                first = Some((idx, row));
            }
        }
    }
    first.map(|(idx, _)| (idx, bound))
}

/// The total weight of the row that a range stands at; all ranges that stand there go on to the next.
fn take_row<'a>(ranges: &mut [Range<'a>], row: &[u8]) -> i64 {
    let mut weight = 0;
    for range in ranges.iter_mut().filter(|range| range.idx < range.run.len()) {
        if range.row() == row {
            weight += range.weight();
            range.idx += 1;
        }
    }
    weight
}

/// Merges what is left of `ranges` within `key`.
fn merge_ranges<'a>(ranges: &mut [Range<'a>], key: &[u8], mut found: impl FnMut(&'a [u8], i64) -> bool) {
    while let Some((idx, bound)) = leader(ranges, key) {
        let row = ranges[idx].row();
        if bound == Some(row) {
            let weight = take_row(ranges, row);
            if weight != 0 && !found(row, weight) {
                return;
            }
            continue;
        }
        let range = &mut ranges[idx];
        while range.is_within(key) && bound.is_none_or(|bound| compare(range.row(), bound).is_lt()) {
            let (row, weight) = (range.row(), range.weight());
            range.idx += 1;
            if weight != 0 && !found(row, weight) {
                return;
            }
        }
    }
}

/// Walks over all rows of a snapshot in ascending order.
#[derive(Debug)]
pub struct Cursor<'a> {
    ranges: Vec<Range<'a>>,
    /// Of which run the next rows are, and up to which row.
    leader: Option<(usize, Option<&'a [u8]>)>,
}

impl<'a> Cursor<'a> {
    /// Where it stands in each run: behind the last row that it gave.
    pub fn positions(&self) -> Vec<usize> {
        self.ranges.iter().map(|range| range.idx).collect()
    }

    /// Skips to the first row that is not below `key`.
    pub fn seek(&mut self, key: &[u8]) {
        for range in &mut self.ranges {
            range.idx = range.run.lower_bound(key, range.idx);
        }
        self.leader = None;
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = (&'a [u8], i64);

    fn next(&mut self) -> Option<(&'a [u8], i64)> {
        loop {
            if let Some((idx, bound)) = self.leader {
                let range = &mut self.ranges[idx];
                if range.is_within(&[]) && bound.is_none_or(|bound| compare(range.row(), bound).is_lt()) {
                    let (row, weight) = (range.row(), range.weight());
                    range.idx += 1;
                    if weight != 0 {
                        return Some((row, weight));
                    }
                    continue;
                }
            }
            let (idx, bound) = leader(&self.ranges, &[])?;
            let row = self.ranges[idx].row();
            if bound == Some(row) {
                self.leader = None;
                let weight = take_row(&mut self.ranges, row);
                if weight != 0 {
                    return Some((row, weight));
                }
            } else {
                self.leader = Some((idx, bound));
            }
        }
    }
}

/// The sums of the weights of all rows of some runs, in ascending order.
pub(crate) fn merge_all<'a>(runs: &'a [Arc<Run>], mut found: impl FnMut(&'a [u8], i64)) {
    let mut ranges: Vec<Range> = runs.iter().map(|run| Range { run, idx: 0 }).collect();
    merge_ranges(&mut ranges, &[], |row, weight| {
        found(row, weight);
        true
    });
}

/// The one owner of a changing multiset.
#[derive(Debug)]
pub struct Arrangement {
    current: Snapshot,
    /// Of neighbouring runs each, oldest first.
    merges: Vec<Merge>,
    /// What its runs are charged to; without one they stay on the heap.
    budget: Option<Arc<Budget>>,
}

impl Arrangement {
    pub fn new(layout: Arc<Layout>) -> Arrangement {
        Arrangement::restore(layout, Vec::new())
    }

    /// An arrangement out of the runs of a checkpoint, oldest first.
    pub fn restore(layout: Arc<Layout>, runs: Vec<Arc<Run>>) -> Arrangement {
        Arrangement { current: Snapshot { layout, runs }, merges: Vec::new(), budget: None }
    }

    /// Keeps the memory of the arrangement within a budget, together with what else has it.
    pub fn keep_within(&mut self, budget: &Arc<Budget>) {
        self.budget = Some(budget.clone());
        self.current.runs.iter().for_each(|run| run.charge(|| budget.charge(run.heap_size())));
    }

    /// What is there now.
    pub fn snapshot(&self) -> Snapshot {
        self.current.clone()
    }

    /// What is there now, borrowed.
    pub fn current(&self) -> &Snapshot {
        &self.current
    }

    /// Puts back what was there at an earlier moment. Undoes a step.
    pub fn reset(&mut self, snapshot: Snapshot) {
        self.current = snapshot;
        self.merges.clear();
    }

    /// Takes over other contents.
    pub fn replace(&mut self, runs: Vec<Arc<Run>>) {
        self.current.runs = runs;
        self.merges.clear();
        if let Some(budget) = self.budget.clone() {
            self.keep_within(&budget);
        }
    }

    /// Adds runs that are older than all that it has.
    pub fn prepend(&mut self, runs: Vec<Arc<Run>>) {
        if let Some(budget) = &self.budget {
            runs.iter().for_each(|run| run.charge(|| budget.charge(run.heap_size())));
        }
        self.current.runs.splice(0..0, runs);
    }

    /// Waits until what is being merged has been, and gives the runs away.
    pub fn into_runs(mut self) -> Vec<Arc<Run>> {
        while !self.merges.is_empty() {
            self.merges.iter().for_each(|merge| drop(merge.wait()));
            self.install_merges();
            self.compact();
        }
        self.current.runs
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.current.layout
    }

    /// Adds encoded rows with their weights, in any order, with repetitions.
    pub fn add(&mut self, rows: &Rows, weights: &[i64]) {
        self.append(sort_rows(rows, weights));
    }

    /// Adds a run.
    pub fn append(&mut self, run: Arc<Run>) {
        if !run.is_empty() {
            self.push(run);
        }
        self.install_merges();
        self.compact();
        self.relieve();
    }

    fn push(&mut self, run: Arc<Run>) {
        if let Some(budget) = &self.budget {
            run.charge(|| budget.charge(run.heap_size()));
        }
        self.current.runs.push(run);
    }

    /// Moves memory to disk where there is more of it than the budget allows: the longest run first. What a checkpoint
    /// has written is read from there at once, what it has not once it is in a file and something is added.
    pub fn relieve(&mut self) {
        let Some(budget) = &self.budget else { return };
        if !budget.is_exceeded() {
            return;
        }
        let is_merged = |run: &Arc<Run>| {
            self.merges.iter().any(|merge| merge.inputs.iter().any(|one| Arc::ptr_eq(one, run)))
        };
        let longest = self.current.runs.iter().filter(|run| run.is_on_heap() && !is_merged(run));
        let Some(longest) = longest.max_by_key(|run| run.size()) else { return };
        if longest.size() >= budget.file_bytes_min() {
            if let Some(durable) = longest.where_durable() {
                let at = self.position(longest);
                self.current.runs[at] = Arc::new(durable);
                return;
            }
            let at = self.position(longest);
            let merge = Merge::start(vec![longest.clone()], Some(budget.clone()));
            let before = self.merges.iter().take_while(|merge| self.position(&merge.inputs[0]) < at).count();
            self.merges.insert(before, merge);
        }
    }

    fn position(&self, run: &Arc<Run>) -> usize {
        let is_it = |other: &Arc<Run>| Arc::ptr_eq(other, run);
        self.current.runs.iter().position(is_it).expect("runs of a pending merge stay where they are")
    }

    /// Replaces the inputs of finished merges by their outputs.
    fn install_merges(&mut self) {
        let mut idx = 0;
        while idx < self.merges.len() {
            // The newest is the shortest. Were there ever more runs, reading would cost more than waiting.
            let waits = self.current.runs.len() > RUNS_MAX && idx + 1 == self.merges.len();
            let merge = &self.merges[idx];
            let merged = if waits { Some(merge.wait()) } else { merge.poll() };
            let Some(merged) = merged else {
                idx += 1;
                continue;
            };
            let merge = self.merges.remove(idx);
            let first = self.position(&merge.inputs[0]);
            if let Some(budget) = &self.budget {
                merged.charge(|| budget.charge(merged.heap_size()));
            }
            let replacement = (!merged.is_empty()).then_some(merged);
            self.current.runs.splice(first..first + merge.inputs.len(), replacement);
        }
    }

    /// Merges the newest runs as far back as they have become alike in length.
    ///
    /// Several merges can be pending, of ever newer and shorter runs: while a long one goes on, what comes in
    /// meanwhile is merged as well.
    fn compact(&mut self) {
        // The inputs of a pending merge stay where they are until it is installed.
        let n_fixed = match self.merges.last() {
            Some(merge) => self.position(&merge.inputs[0]) + merge.inputs.len(),
            None => 0,
        };
        let runs = &mut self.current.runs;
        let (mut first, mut n_rows, mut n_bytes) = (runs.len(), 0, 0);
        while first > n_fixed {
            let older = &runs[first - 1];
            let is_alike = n_rows == 0 || older.len() <= 2 * n_rows;
            let fits = n_rows == 0 || n_bytes + older.size() <= RUN_BYTES_MAX;
            if !(is_alike && fits) {
                break;
            }
            first -= 1;
            n_rows += older.len();
            n_bytes += older.size();
        }
        if runs.len() - first < 2 {
            return;
        }
        let inputs = runs[first..].to_vec();
        if n_rows > ON_THE_SPOT_ROWS_MAX {
            self.merges.push(Merge::start(inputs, self.budget.clone()));
            return;
        }
        let merged = merge(&inputs);
        runs.truncate(first);
        if !merged.is_empty() {
            self.push(merged);
        }
    }
}

/// Rows in ascending order, each once, with the sum of its weights.
pub fn sort_rows(rows: &Rows, weights: &[i64]) -> Arc<Run> {
    assert_eq!(rows.num_rows(), weights.len(), "one weight per row");
    let n_rows = rows.num_rows();
    if n_rows == 0 {
        return RunBuilder::with_capacity(0, 0).finish();
    }
    // What all rows share says nothing about their order; the 8 bytes behind it nearly everything.
    let first = rows.row(0).data();
    let n_shared = (1..n_rows).fold(first.len(), |n_shared, idx| {
        let row = rows.row(idx).data();
        if row.len() >= n_shared && row[..n_shared] == first[..n_shared] {
            return n_shared;
        }
        first[..n_shared].iter().zip(row).take_while(|(a, b)| a == b).count()
    });
    let mut order: Vec<(u64, u32)> =
        (0..n_rows).map(|idx| (head(rows.row(idx).data(), n_shared), idx as u32)).collect();
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| rows.row(a.1 as usize).data().cmp(rows.row(b.1 as usize).data()))
    });
    let n_bytes = (0..n_rows).map(|idx| rows.row_len(idx)).sum();
    let mut builder = RunBuilder::with_capacity(n_rows, n_bytes);
    let mut idx = 0;
    while idx < n_rows {
        let row = rows.row(order[idx].1 as usize).data();
        let mut weight = 0;
        while idx < n_rows && rows.row(order[idx].1 as usize).data() == row {
            weight += weights[order[idx].1 as usize];
            idx += 1;
        }
        builder.push(row, weight);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field};
    use proptest::prelude::*;

    use super::*;
    use crate::SortColumn;

    fn layout() -> Arc<Layout> {
        let column = |name| SortColumn::ascending(&Field::new(name, DataType::Int64, true));
        Layout::new(vec![column("k"), column("v")], 1).unwrap()
    }

    fn columns(rows: &[(i64, i64)]) -> Vec<ArrayRef> {
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        ]
    }

    fn decode(layout: &Layout, rows: &[Vec<u8>]) -> Vec<(i64, i64)> {
        let columns = layout.decode(rows.iter().map(Vec::as_slice)).unwrap();
        let column = |idx: usize| columns[idx].as_any().downcast_ref::<Int64Array>().unwrap().clone();
        column(0).values().iter().copied().zip(column(1).values().iter().copied()).collect()
    }

    proptest! {
        #[test]
        fn rows_are_in_the_order_of_their_bytes(
            shared in proptest::collection::vec(0..3u8, 0..24),
            a in proptest::collection::vec(0..3u8, 0..4),
            b in proptest::collection::vec(0..3u8, 0..4),
        ) {
            let (a, b) = ([&shared[..], &a].concat(), [&shared[..], &b].concat());
            prop_assert_eq!(compare(&a, &b), a.cmp(&b));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is added in whatever pieces, the arrangement is the sum of it, by key and as a whole.
        #[test]
        fn arrangement_is_the_sum_of_what_was_added(
            steps in prop::collection::vec(
                prop::collection::vec(((0i64..6, 0i64..4), -2i64..3), 0..40), 0..40),
            factor in prop::sample::select(vec![1usize, 60]),
        ) {
            let layout = layout();
            let mut arrangement = Arrangement::new(layout.clone());
            let mut model: BTreeMap<(i64, i64), i64> = BTreeMap::new();
            for step in &steps {
                let mut rows = Vec::new();
                let mut weights = Vec::new();
                for copy in 0..factor {
                    // Enough distinct rows that merging goes to the background.
                    for ((k, v), weight) in step {
                        rows.push((*k, *v + 4 * copy as i64));
                        weights.push(*weight);
                    }
                }
                for (row, weight) in rows.iter().zip(&weights) {
                    *model.entry(*row).or_default() += weight;
                }
                arrangement.add(&layout.encode_rows(&columns(&rows)).unwrap(), &weights);
            }
            model.retain(|_, weight| *weight != 0);

            let snapshot = arrangement.snapshot();
            let (rows, weights): (Vec<_>, Vec<_>) =
                snapshot.cursor().map(|(row, weight)| (row.to_vec(), weight)).unzip();
            let all: Vec<_> = decode(&layout, &rows).into_iter().zip(weights).collect();
            prop_assert_eq!(&all, &model.iter().map(|(row, weight)| (*row, *weight)).collect::<Vec<_>>());

            let keys: Vec<i64> = (-1..7).collect();
            let encoded = layout.encode_keys(&[Arc::new(Int64Array::from(keys.clone())) as ArrayRef]).unwrap();
            let mut found = Vec::new();
            snapshot.lookup(encoded.iter().map(|key| key.data()), |key_idx, row, weight| {
                found.push((keys[key_idx], row.to_vec(), weight));
            });
            let found_rows: Vec<_> = found.iter().map(|(_, row, _)| row.clone()).collect();
            let found: Vec<_> = decode(&layout, &found_rows)
                .into_iter().zip(&found).map(|(row, (key, _, weight))| { assert_eq!(row.0, *key); (row, *weight) }).collect();
            prop_assert_eq!(&found, &all);

            let whole: Vec<_> = model.keys().copied().collect();
            let encoded = layout.encode_rows(&columns(&whole)).unwrap();
            prop_assert_eq!(
                snapshot.weights(encoded.iter().map(|row| row.data())),
                model.values().copied().collect::<Vec<_>>()
            );

            // From every row on within its key, and back from it.
            for (middle, row) in whole.iter().zip(encoded.iter()) {
                let key = layout.encode_keys(&[Arc::new(Int64Array::from(vec![middle.0])) as ArrayRef]).unwrap();
                let key = key.row(0).data();
                let (mut on, mut back) = (Vec::new(), Vec::new());
                snapshot.lookup_from(key, row.data(), |row, weight| {
                    on.push((row.to_vec(), weight));
                    true
                });
                snapshot.lookup_back(key, row.data(), |row, weight| {
                    back.push((row.to_vec(), weight));
                    true
                });
                back.reverse();
                let of_key = |is_on: bool| {
                    let within = |row: &(i64, i64)| row.0 == middle.0 && (row >= middle) == is_on;
                    model.iter().filter(|(row, _)| within(row)).map(|(row, weight)| (*row, *weight)).collect::<Vec<_>>()
                };
                let decoded = |found: Vec<(Vec<u8>, i64)>| {
                    let (rows, weights): (Vec<_>, Vec<_>) = found.into_iter().unzip();
                    decode(&layout, &rows).into_iter().zip(weights).collect::<Vec<_>>()
                };
                prop_assert_eq!(decoded(on), of_key(true));
                prop_assert_eq!(decoded(back), of_key(false));
            }
        }
    }

    #[test]
    fn runs_stay_few_and_a_step_can_be_undone() {
        let layout = layout();
        let mut arrangement = Arrangement::new(layout.clone());
        for step in 0..5000 {
            arrangement.add(
                &layout.encode_rows(&columns(&[(step * 7 % 1000, step), (step, -step)])).unwrap(),
                &[1, 1],
            );
            assert!(arrangement.current().runs().len() <= RUNS_MAX + 1);
        }
        let before = arrangement.snapshot();
        arrangement.add(&layout.encode_rows(&columns(&[(1, 1)])).unwrap(), &[5]);
        let count = arrangement.current().count();
        arrangement.reset(before);
        assert_eq!(arrangement.current().count(), count - 5);
    }

    #[test]
    fn what_comes_before_all_else_may_come_later() {
        let layout = layout();
        let encode = |from: i64, to: i64| {
            let rows: Vec<_> = (from..to).map(|n| (n * 7919 % 100_003, n)).collect();
            layout.encode_rows(&columns(&rows)).unwrap()
        };
        let (mut base, mut whole) = (Arrangement::new(layout.clone()), Arrangement::new(layout.clone()));
        for piece in 0..40 {
            let rows = encode(piece * 1000, (piece + 1) * 1000);
            base.add(&rows, &[1; 1000]);
            whole.add(&rows, &[1; 1000]);
        }
        // Meanwhile rows go which the other has, and merges of that begin.
        let mut later = Arrangement::new(layout.clone());
        for piece in 0..30 {
            let rows = encode(piece * 1000, (piece + 1) * 1000);
            later.add(&rows, &[-1; 1000]);
            whole.add(&rows, &[-1; 1000]);
        }
        later.prepend(base.into_runs());
        assert!(later.snapshot().cursor().eq(whole.snapshot().cursor()));
        assert_eq!(later.snapshot().cursor().count(), 10_000);
        for arrangement in [&mut later, &mut whole] {
            arrangement.add(&encode(0, 20_000), &[1; 20_000]);
        }
        let runs = later.into_runs();
        assert!(Snapshot::of(layout.clone(), runs.clone()).cursor().eq(whole.snapshot().cursor()));
        // What lies between two rows is counted, and cut, without reading it.
        let snapshot = Snapshot::of(layout.clone(), runs);
        let rows: Vec<&[u8]> = snapshot.cursor().map(|(row, _)| row).collect();
        let (from, to) = (rows[100], rows[20_100]);
        assert!(snapshot.n_rows_between(from, Some(to)) >= 20_000);
        assert!(snapshot.n_rows_between(from, None) > snapshot.n_rows_between(from, Some(to)));
        let splits = snapshot.splits(from, Some(to), 4);
        assert_eq!(splits.len(), 3);
        assert!(splits.iter().all(|split| split.as_slice() > from && split.as_slice() < to));
        assert!(splits.is_sorted());
    }

    #[test]
    fn what_exceeds_the_budget_lies_in_files_and_says_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let budget = Budget::new(Arc::new(crate::Scratch::open(directory.path()).unwrap()), 64 << 10);
        let layout = layout();
        let (mut bounded, mut free) = (Arrangement::new(layout.clone()), Arrangement::new(layout.clone()));
        bounded.keep_within(&budget);
        for step in 0..120i64 {
            let rows: Vec<_> = (0..250).map(|n| ((step * 250 + n) * 7919 % 100_003, step)).collect();
            let retracted: Vec<_> = rows.iter().map(|row| (row.0, row.1 - 1)).collect();
            for (rows, weight) in [(rows, 1), (retracted, -1)] {
                let rows = layout.encode_rows(&columns(&rows)).unwrap();
                bounded.add(&rows, &vec![weight; rows.num_rows()]);
                free.add(&rows, &vec![weight; rows.num_rows()]);
            }
            // What is being moved counts until it has been; a disk is slower than this loop.
            while budget.used() > 8 * budget.limit() {
                bounded.install_merges();
                bounded.relieve();
                std::thread::yield_now();
            }
        }
        let (bounded, free) = (bounded.snapshot(), free.snapshot());
        assert!(bounded.size() > 10 * budget.limit(), "{} bytes", bounded.size());
        assert!(bounded.heap_size() < bounded.size() / 2, "{} of {}", bounded.heap_size(), bounded.size());
        assert!(bounded.cursor().eq(free.cursor()));
    }
}
