//! Rows have changed: what the matches are now, against what they were.

use arrow::row::Rows as EncodedRows;
use tidemill_pattern::{Advance, Scan, Sighting, Stand};
use tidemill_storage::Snapshot;

use super::marks::{Mark, Marks};
use super::piece::Piece;
use super::{Changes, MatchRecognize};
use crate::Error;
use crate::operators::{BATCH_ROWS, Grouping, Output};

/// How many searches lie between two marks.
const SEARCHES_PER_MARK: usize = if cfg!(test) { 3 } else { 32 };

#[cfg(test)]
thread_local! {
    /// How many searches have been made.
    pub(super) static N_SEARCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A scan of the rows as they were, or as they are.
struct Side<'a> {
    piece: Piece<'a>,
    scan: Scan<'a>,
    sightings: Vec<Sighting>,
    /// The last row that searches before this scan looked at; `None` if they looked past what there is.
    reach: Option<Vec<u8>>,
}

impl<'a> Side<'a> {
    fn new(
        operator: &'a MatchRecognize,
        snapshot: &'a Snapshot,
        partition: &'a [u8],
        mark: Option<&Mark>,
    ) -> Result<Side<'a>, Error> {
        let (piece, stand) = Piece::new(operator, snapshot, partition, mark, None)?;
        let reach = Some(mark.map(|mark| mark.reach.clone()).unwrap_or_default());
        Ok(Side { piece, scan: Scan::new(&operator.matcher, stand), sightings: Vec::new(), reach })
    }

    /// One search, or none where the partition ends.
    fn advance(&mut self, operator: &MatchRecognize) -> Result<(), Error> {
        while !self.is_at_end() {
            match self.scan.advance(&mut self.piece.rows, &|| true)? {
                Advance::Unread => self.piece.read(operator)?,
                Advance::Done(sighting) => {
                    #[cfg(test)]
                    N_SEARCHES.set(N_SEARCHES.get() + 1);
                    self.sightings.extend(sighting);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.scan.is_at_end(&self.piece.rows)
    }

    fn stand(&self) -> Stand {
        self.scan.stand
    }

    /// The last row that any search has looked at; `None` if one has looked past what there is.
    fn reach(&self) -> Option<&[u8]> {
        let before = self.reach.as_deref()?;
        match self.stand().reach.checked_sub(1) {
            None => Some(before),
            Some(last) => self.piece.bytes.get(last).map(|own| before.max(own)),
        }
    }

    /// A mark where the scan stands, if no search has looked past what there is.
    fn mark(&self, plan: &tidemill_plan::MatchRecognize) -> Option<Mark> {
        let stand = self.stand();
        Some(Mark {
            bytes: Vec::new(),
            row: self.piece.bytes[stand.row - 1].to_vec(),
            copies: self.piece.n_copies(stand.row),
            n_covered: if plan.shows_unmatched_rows() { (stand.covered - stand.row) as i64 } else { 0 },
            n_matches: if plan.numbers_matches() { stand.n_matches } else { 0 },
            reach: self.reach()?.to_vec(),
        })
    }
}

impl MatchRecognize {
    /// Gives the change of the output when `changed` rows have been added to those of `before`.
    pub(super) fn update(
        &mut self,
        before: &Snapshot,
        changed: &EncodedRows,
        grouping: &Grouping,
        output: &mut Output,
    ) -> Result<(), Error> {
        let mut marks = self.marks.take().expect("it is kept where matches are taken back");
        marks.begin();
        let updated = self.update_partitions(before, changed, grouping, &mut marks, output);
        if updated.is_ok() {
            marks.write();
        }
        self.marks = Some(marks);
        updated
    }

    fn update_partitions(
        &self,
        before: &Snapshot,
        changed: &EncodedRows,
        grouping: &Grouping,
        marks: &mut Marks,
        output: &mut Output,
    ) -> Result<(), Error> {
        let (after, known) = (self.rows.snapshot(), marks.table.snapshot());
        let mut changes = Changes::default();
        let (ranges, members) = grouping.members();
        for (group, range) in ranges.into_iter().enumerate() {
            let mut rows: Vec<&[u8]> =
                members[range].iter().map(|idx| changed.row(*idx as usize).data()).collect();
            rows.sort_unstable();
            rows.dedup();
            let partition = Partition { bytes: grouping.key(group), before, after: &after, known: &known };
            self.update_partition(&partition, &rows, marks, &mut changes)?;
            if changes.n_rows >= BATCH_ROWS {
                self.result.give(std::mem::take(&mut changes), output)?;
            }
        }
        self.result.give(changes, output)
    }

    /// `changed` ascend.
    fn update_partition(
        &self,
        partition: &Partition<'_>,
        changed: &[&[u8]],
        marks: &mut Marks,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let mut rest = changed;
        // How far the searches looked that have been made so far, none of which any mark knows of yet.
        let mut reach: Option<Vec<u8>> = Some(Vec::new());
        while let Some(first) = rest.first() {
            let mark = self.last_mark(partition, first, marks)?;
            let old = Side::new(self, partition.before, partition.bytes, mark.as_ref())?;
            let mut new = Side::new(self, partition.after, partition.bytes, mark.as_ref())?;
            new.reach = reach.and_then(|reach| new.reach.take().map(|own| own.max(reach)));
            Compared { rest, reach } =
                self.compare(partition, (old, new), mark.as_ref(), rest, marks, changes)?;
        }
        Ok(())
    }

    /// Where a scan begins that is to see a change.
    fn last_mark(
        &self,
        partition: &Partition<'_>,
        changed: &[u8],
        marks: &Marks,
    ) -> Result<Option<Mark>, Error> {
        let mark = marks.last_before(partition.known, partition.bytes, changed, &self.rows)?;
        match (&mark, &self.settling) {
            (None, Some(settling)) => settling.base(partition.bytes, &self.rows),
            _ => Ok(mark),
        }
    }

    /// Scans the old and the new rows from `mark` on until they are the same; gives the changed rows that lie further on,
    /// and how far the searches looked.
    fn compare<'c>(
        &self,
        partition: &Partition<'_>,
        (mut old, mut new): (Side<'_>, Side<'_>),
        mark: Option<&Mark>,
        changed: &'c [&'c [u8]],
        marks: &mut Marks,
        changes: &mut Changes,
    ) -> Result<Compared<'c>, Error> {
        let plan = self.matcher.plan();
        let mut added: Vec<Mark> = Vec::new();
        let mut n_searches = 0;
        let mut n_seen = 1;
        let met = loop {
            if old.is_at_end() && new.is_at_end() {
                n_seen = changed.len();
                break None;
            }
            let last = changed[n_seen - 1];
            // Places as they are counted from the first row that is the same in both.
            let place = |side: &Side<'_>| {
                let behind = side.piece.behind(last);
                behind.map_or(i64::MIN, |behind| side.stand().row as i64 - behind as i64)
            };
            let (old_place, new_place) = (place(&old), place(&new));
            if old_place == new_place && old_place >= plan.back() as i64 && are_alike(&old, &new, plan) {
                let Some(met) = new.piece.bytes.get(new.stand().row).copied() else {
                    match new.piece.is_exhausted {
                        false => new.piece.read(self)?,
                        // What the old rows have behind it is a change that is still to be seen.
                        true => n_seen += 1,
                    }
                    continue;
                };
                let Some(next) = changed.get(n_seen) else { break Some(met) };
                // The next change is seen from here, unless there is a mark between the two.
                let next_mark = self.last_mark(partition, next, marks)?;
                if next_mark.is_some_and(|mark| mark.row.as_slice() >= met) {
                    break Some(met);
                }
                n_seen += 1;
                continue;
            }
            let advance_old = new.is_at_end() || (!old.is_at_end() && old_place <= new_place);
            let advance_new = old.is_at_end() || (!new.is_at_end() && new_place <= old_place);
            if advance_old {
                old.advance(self)?;
            }
            if advance_new {
                new.advance(self)?;
                n_searches += 1;
                if n_searches % SEARCHES_PER_MARK == 0 {
                    added.extend(new.mark(plan));
                }
            }
        };
        if !old.sightings.is_empty() {
            changes.retract(self.matcher.show(&old.sightings, &old.piece.rows)?);
        }
        if !new.sightings.is_empty() {
            changes.insert(self.matcher.show(&new.sightings, &new.piece.rows)?);
        }
        self.replace_marks(partition, &new, mark, met, marks)?;
        marks.add(&added, &self.rows)?;
        Ok(Compared { rest: &changed[n_seen..], reach: new.reach().map(<[u8]>::to_vec) })
    }

    /// Removes the marks that a new scan has passed, and those further on that it reaches over. `met` is the row before
    /// which it met the old one.
    fn replace_marks(
        &self,
        partition: &Partition<'_>,
        new: &Side<'_>,
        from: Option<&Mark>,
        met: Option<&[u8]>,
        marks: &mut Marks,
    ) -> Result<(), Error> {
        // How many copies of the row there are before the place.
        let n_copies = met.map_or(0, |met| {
            new.piece.bytes[..new.stand().row].iter().rev().take_while(|bytes| **bytes == met).count() as i64
        });
        let reach = new.reach();
        let mut passed: Vec<Mark> = Vec::new();
        marks.walk(partition.known, partition.bytes, from, &self.rows, |known| {
            let is_passed = match met {
                None => true,
                Some(met) => {
                    known.row.as_slice() < met || (known.row.as_slice() == met && known.copies <= n_copies)
                }
            };
            let is_blind = reach.is_none_or(|reach| known.reach.as_slice() < reach);
            let is_removed = is_passed || is_blind;
            if is_removed {
                passed.push(known);
            }
            is_removed
        })?;
        passed.iter().for_each(|mark| marks.remove(mark));
        Ok(())
    }
}

/// Where two scans have met.
struct Compared<'c> {
    /// The changed rows that lie further on.
    rest: &'c [&'c [u8]],
    /// The last row that the new scan looked at; `None` if it looked past what there is.
    reach: Option<Vec<u8>>,
}

/// What a step knows of a partition.
struct Partition<'a> {
    bytes: &'a [u8],
    before: &'a Snapshot,
    after: &'a Snapshot,
    /// The marks.
    known: &'a Snapshot,
}

/// Whether what two scans stand with is the same, where they stand at the same row.
fn are_alike(old: &Side<'_>, new: &Side<'_>, plan: &tidemill_plan::MatchRecognize) -> bool {
    let (old, new) = (old.stand(), new.stand());
    (!plan.shows_unmatched_rows() || old.covered - old.row == new.covered - new.row)
        && (!plan.numbers_matches() || old.n_matches == new.n_matches)
}
