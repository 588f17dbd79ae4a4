//! Rows of a partition as a scan reads them: from a place on, more and more.

use arrow::array::Array;
use tidemill_pattern::{Extent, Matcher, Rows, Stand};
use tidemill_storage::Snapshot;

use super::MatchRecognize;
use super::marks::Mark;
use crate::Error;

/// How many rows are read at first. Each time that they are not enough, as many again.
const ROWS_FIRST: usize = if cfg!(test) { 3 } else { 64 };

pub(super) struct Piece<'a> {
    snapshot: &'a Snapshot,
    partition: &'a [u8],
    /// One entry per copy. The first ones are before the place where the scan began.
    pub bytes: Vec<&'a [u8]>,
    pub rows: Rows,
    /// Where the scan began, among the rows, and behind how many copies of which row.
    first: usize,
    begin: Option<(Vec<u8>, i64)>,
    /// The last row from which reading goes on, and how many copies of it are not to be read again.
    last: Option<(Vec<u8>, i64)>,
    /// Only rows that are complete by this time are read.
    limit: Option<i64>,
    /// There is no more to read, be it that the partition ends or that what follows is not complete.
    pub is_exhausted: bool,
    /// Of the first row that is not complete.
    pub next_time: Option<i64>,
}

impl<'a> Piece<'a> {
    /// From a mark on, or from the partition's first row; with the stand of the scan there.
    pub fn new(
        operator: &MatchRecognize,
        snapshot: &'a Snapshot,
        partition: &'a [u8],
        mark: Option<&Mark>,
        limit: Option<i64>,
    ) -> Result<(Piece<'a>, Stand), Error> {
        let mut bytes: Vec<&[u8]> = Vec::new();
        let back = operator.matcher.plan().back();
        if let (Some(mark), true) = (mark, back > 0) {
            let mut is_negative = false;
            let mut push = |row: &'a [u8], weight: i64| {
                is_negative |= weight < 0;
                bytes.extend(std::iter::repeat_n(row, usize::try_from(weight).unwrap_or(0)));
                bytes.len() < back
            };
            let mut own = None;
            snapshot.lookup_from(partition, &mark.row, |row, _| {
                own = (row == &mark.row[..]).then_some(row);
                false
            });
            if own.is_none_or(|own| push(own, mark.copies)) {
                snapshot.lookup_back(partition, &mark.row, push);
            }
            if is_negative {
                return Err(Error::NegativeWeight { operator: "MATCH_RECOGNIZE" });
            }
            bytes.truncate(back);
            bytes.reverse();
        }
        let row = bytes.len();
        let mut stand = Stand { row, covered: row, n_matches: 0, reach: row };
        if let Some(mark) = mark {
            stand.covered += mark.n_covered as usize;
            stand.n_matches = mark.n_matches;
        }
        let extent = Extent { is_first: mark.is_none(), ..Extent::default() };
        let mut piece = Piece {
            snapshot,
            partition,
            bytes,
            rows: Rows::new(Vec::new(), 0, None, extent)?,
            first: row,
            begin: mark.map(|mark| (mark.row.clone(), mark.copies)),
            last: mark.map(|mark| (mark.row.clone(), mark.copies)),
            limit,
            is_exhausted: false,
            next_time: None,
        };
        piece.read(operator)?;
        Ok((piece, stand))
    }

    /// Reads more rows.
    pub fn read(&mut self, operator: &MatchRecognize) -> Result<(), Error> {
        assert!(!self.is_exhausted, "there is more to read");
        let n_wanted = self.bytes.len().max(ROWS_FIRST);
        let start = self.bytes.len();
        let bytes = &mut self.bytes;
        let last = self.last.take();
        let mut is_negative = false;
        let mut is_cut = false;
        let read = |row: &'a [u8], weight: i64| {
            if bytes.len() - start >= n_wanted {
                is_cut = true;
                return false;
            }
            is_negative |= weight < 0;
            let n_known = match &last {
                Some((known, n_copies)) if row == &known[..] => *n_copies,
                _ => 0,
            };
            bytes.extend(std::iter::repeat_n(
                row,
                usize::try_from(weight.saturating_sub(n_known)).unwrap_or(0),
            ));
            true
        };
        match &last {
            Some((from, _)) => self.snapshot.lookup_from(self.partition, from, read),
            None => self.snapshot.lookup_while(self.partition, read),
        }
        if is_negative {
            return Err(Error::NegativeWeight { operator: "MATCH_RECOGNIZE" });
        }
        self.is_exhausted = !is_cut;
        self.last = match self.bytes.last() {
            // All copies of the last row have been read.
            Some(row) if self.bytes.len() > start => Some((row.to_vec(), i64::MAX)),
            _ => last,
        };
        let matcher: &Matcher = &operator.matcher;
        let decoded = operator.rows.layout().decode(self.bytes.iter().copied())?;
        let mut columns = operator.input_columns(&decoded);
        if let (Some(limit), Some(order)) = (self.limit, matcher.plan().order_by.first()) {
            let times = crate::operators::closing::micros(&columns[order.column])?;
            let is_complete = |row: &usize| times.is_valid(*row) && times.value(*row) <= limit;
            // Rows before the scan's place have been complete for long.
            if let Some(n_complete) = (start..times.len()).find(|row| !is_complete(row)) {
                self.next_time = times.is_valid(n_complete).then(|| times.value(n_complete));
                self.bytes.truncate(n_complete);
                columns = columns.iter().map(|column| column.slice(0, n_complete)).collect();
                self.is_exhausted = true;
            }
        }
        let extent = Extent {
            is_first: self.begin.is_none(),
            is_complete: self.is_exhausted && self.limit.is_none(),
            // What has not been read yet may be of any time.
            horizon: self.limit.filter(|_| self.is_exhausted),
        };
        self.rows.extend(columns, self.bytes.len(), matcher.time(), extent)?;
        Ok(())
    }

    /// The first row behind `row`, if it is known.
    pub fn behind(&self, row: &[u8]) -> Option<usize> {
        let idx = self.bytes.partition_point(|bytes| *bytes <= row);
        (idx < self.bytes.len() || self.is_exhausted).then_some(idx)
    }

    /// How many copies of the row before place `row` there are before that place. A scan began before it.
    pub fn n_copies(&self, row: usize) -> i64 {
        assert!(row > self.first, "a scan goes on from where it began");
        let own = self.bytes[row - 1];
        let n_read = self.bytes[self.first..row].iter().rev().take_while(|bytes| **bytes == own).count();
        match &self.begin {
            Some((begin, n_copies)) if own == &begin[..] => n_read as i64 + n_copies,
            _ => n_read as i64,
        }
    }
}
