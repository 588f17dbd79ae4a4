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

use std::sync::Arc;

use arrow::row::Rows;

use crate::compactor::{Merge, merge};
use crate::layout::Layout;
use crate::run::{RUN_BYTES_MAX, Run, RunBuilder, head};

/// A merge of fewer rows than this is done on the spot: it takes well under a millisecond.
const ON_THE_SPOT_ROWS_MAX: usize = 8 * 1024;

/// With this many runs a step waits for the compactor: reading would cost more than waiting.
const RUNS_MAX: usize = 24;

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

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.runs.iter().map(|run| run.size()).sum()
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
        let mut positions = vec![0; self.runs.len()];
        let mut ranges: Vec<Range> = Vec::with_capacity(self.runs.len());
        for (key_idx, key) in keys.into_iter().enumerate() {
            ranges.clear();
            for (run, position) in self.runs.iter().zip(&mut positions) {
                *position = run.lower_bound(key, *position);
                if *position < run.len() && run.row(*position).starts_with(key) {
                    ranges.push(Range { run, idx: *position });
                }
            }
            match &mut ranges[..] {
                [] => (),
                [range] => {
                    while range.is_within(key) {
                        found(key_idx, range.row(), range.weight());
                        range.idx += 1;
                    }
                }
                ranges => merge_ranges(ranges, key, |row, weight| {
                    found(key_idx, row, weight);
                    true
                }),
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
        Cursor { ranges: self.runs.iter().map(|run| Range { run, idx: 0 }).collect() }
    }

    /// The number of rows, counting copies.
    pub fn count(&self) -> i64 {
        self.runs.iter().map(|run| (0..run.len()).map(|idx| run.weight(idx)).sum::<i64>()).sum()
    }
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
        self.idx < self.run.len() && self.row().starts_with(key)
    }
}

/// Merges what is left of `ranges` within `key`.
///
/// A linear search for the smallest: there are few runs, and a heap costs more below about eight.
fn merge_ranges<'a>(ranges: &mut [Range<'a>], key: &[u8], mut found: impl FnMut(&'a [u8], i64) -> bool) {
    loop {
        let Some(row) = ranges.iter().filter(|range| range.is_within(key)).map(Range::row).min() else {
            return;
        };
        let mut weight = 0;
        for range in ranges.iter_mut() {
            if range.is_within(key) && range.row() == row {
                weight += range.weight();
                range.idx += 1;
            }
        }
        if weight != 0 && !found(row, weight) {
            return;
        }
    }
}

/// Walks over all rows of a snapshot in ascending order.
#[derive(Debug)]
pub struct Cursor<'a> {
    ranges: Vec<Range<'a>>,
}

impl<'a> Cursor<'a> {
    /// Skips to the first row that is not below `key`.
    pub fn seek(&mut self, key: &[u8]) {
        for range in &mut self.ranges {
            range.idx = range.run.lower_bound(key, range.idx);
        }
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = (&'a [u8], i64);

    fn next(&mut self) -> Option<(&'a [u8], i64)> {
        let mut next = None;
        merge_ranges(&mut self.ranges, &[], |row, weight| {
            next = Some((row, weight));
            false
        });
        next
    }
}

/// The one owner of a changing multiset.
#[derive(Debug)]
pub struct Arrangement {
    current: Snapshot,
    merge: Option<Merge>,
}

impl Arrangement {
    pub fn new(layout: Arc<Layout>) -> Arrangement {
        Arrangement::restore(layout, Vec::new())
    }

    /// An arrangement out of the runs of a checkpoint, oldest first.
    pub fn restore(layout: Arc<Layout>, runs: Vec<Arc<Run>>) -> Arrangement {
        Arrangement { current: Snapshot { layout, runs }, merge: None }
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
        self.merge = None;
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
            self.current.runs.push(run);
        }
        self.install_merge();
        self.compact();
    }

    /// Replaces the inputs of a finished merge by its output.
    fn install_merge(&mut self) {
        let Some(merge) = &self.merge else { return };
        let merged = if self.current.runs.len() > RUNS_MAX { Some(merge.wait()) } else { merge.poll() };
        let Some(merged) = merged else { return };
        let runs = &mut self.current.runs;
        let first = runs
            .iter()
            .position(|run| Arc::ptr_eq(run, &merge.inputs[0]))
            .expect("runs of a pending merge stay where they are");
        let replacement = (!merged.is_empty()).then_some(merged);
        runs.splice(first..first + merge.inputs.len(), replacement);
        self.merge = None;
    }

    /// Merges the newest runs as far back as they have become alike in length.
    fn compact(&mut self) {
        let runs = &mut self.current.runs;
        // The inputs of a pending merge stay where they are until it is installed.
        let n_fixed = match &self.merge {
            Some(merge) => {
                let last = merge.inputs.last().expect("a merge has inputs");
                1 + runs.iter().position(|run| Arc::ptr_eq(run, last)).expect("pending inputs stay")
            }
            None => 0,
        };
        let (mut first, mut n_rows, mut n_bytes) = (runs.len(), 0, 0);
        while first > n_fixed {
            let older = &runs[first - 1];
            let is_alike = n_rows == 0 || older.len() <= 2 * n_rows;
            let fits = n_rows == 0 || n_bytes + older.size() <= RUN_BYTES_MAX;
            // There is one merge in the background at a time; meanwhile only the small ones go on.
            let is_allowed = self.merge.is_none() || n_rows + older.len() <= ON_THE_SPOT_ROWS_MAX;
            if !(is_alike && fits && is_allowed) {
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
            self.merge = Some(Merge::start(inputs));
            return;
        }
        let merged = merge(&inputs);
        runs.truncate(first);
        if !merged.is_empty() {
            runs.push(merged);
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
}
