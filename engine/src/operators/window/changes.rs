//! Rows of partitions with their results, and what turns one list of them into another.

use std::ops::Range;

use arrow::row::Rows;

use super::running::Carry;

/// Rows of some partitions at one moment, one entry per copy.
#[derive(Debug, Default)]
pub(super) struct Side<'a> {
    pub rows: Vec<&'a [u8]>,
    pub segments: Vec<Segment>,
}

/// Neighbouring rows of one partition.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// What is looked at.
    pub rows: Range<usize>,
    /// Whose results are wanted.
    pub wanted: Range<usize>,
    /// What the rows before the wanted ones have come to.
    pub carry: Carry,
}

/// Rows with their results.
pub(super) struct Results<'a, 'r> {
    pub rows: &'a [&'r [u8]],
    pub results: &'a Rows,
    /// Where the results of the first row stand.
    pub start: usize,
}

impl Results<'_, '_> {
    fn of(&self, idx: usize) -> &[u8] {
        self.results.row(self.start + idx).data()
    }
}

/// What leaves and what enters the output.
#[derive(Default)]
pub(super) struct Changes<'r> {
    pub rows: Vec<&'r [u8]>,
    /// Positions in the results of before followed by those of after.
    pub results: Vec<u64>,
    pub weights: Vec<i64>,
}

impl<'r> Changes<'r> {
    /// Both lists ascend; a row may stand there several times, with results of its own each time.
    pub fn compare(&mut self, old: &Results<'_, 'r>, new: &Results<'_, 'r>, n_old: usize) {
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
