//! What a table demands of its rows, and what a write changes, given the rows that are there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_core::Delta;
use tidemill_storage::{Run, Snapshot};

use super::{OnConflict, TableSpec, TableWrite};
use crate::Error;
use crate::view::Shape;

/// What a table demands of its rows.
#[derive(Debug)]
pub(crate) struct TableRules {
    pub spec: TableSpec,
    pub shape: Arc<Shape>,
}

impl TableRules {
    /// What a write changes, given the rows that are there.
    pub fn resolve(&self, rows: &Snapshot, write: &TableWrite) -> Result<Delta, Error> {
        match write {
            TableWrite::Change(delta) => {
                self.check_nulls(&delta.rows())?;
                // A statement that was cancelled while its change waited has given the lock back.
                self.check_removed(rows, delta)?;
                self.check_keys(rows, delta)?;
                Ok(delta.clone())
            }
            TableWrite::Staged(delta) => {
                self.check_removed(rows, delta)?;
                // The key was free when the statement ran.
                self.check_keys(rows, delta).map_err(|error| match error {
                    Error::DuplicateKey { table, .. } => Error::Concurrent { table },
                    other => other,
                })?;
                Ok(delta.clone())
            }
            TableWrite::Insert { rows: inserted, on_conflict } => {
                self.check_nulls(inserted)?;
                match self.spec.primary_key.is_empty() {
                    true => Ok(Delta::inserts(inserted)),
                    false => self.insert(rows, inserted, *on_conflict),
                }
            }
        }
    }

    fn check_nulls(&self, rows: &RecordBatch) -> Result<(), Error> {
        for (field, column) in self.spec.schema.fields().iter().zip(rows.columns()) {
            if !field.is_nullable() && column.null_count() > 0 {
                let (table, column) = (self.spec.name.to_string(), field.name().clone());
                return Err(Error::NullValue { table, column });
            }
        }
        Ok(())
    }

    fn insert(
        &self,
        rows: &Snapshot,
        inserted: &RecordBatch,
        on_conflict: OnConflict,
    ) -> Result<Delta, Error> {
        if on_conflict == OnConflict::Replace {
            return self.put(rows, inserted);
        }
        let taken = self.taken(rows, inserted)?;
        // The first row of a key within the statement counts.
        let mut seen: HashSet<&[u8]> = HashSet::new();
        let mut kept: Vec<u32> = Vec::new();
        for (row, (key, is_there)) in taken.iter().enumerate() {
            let is_new = seen.insert(key) && !is_there;
            match on_conflict {
                _ if is_new => kept.push(row as u32),
                OnConflict::Error => return Err(self.duplicate(inserted, row)),
                OnConflict::Nothing => (),
                OnConflict::Replace => unreachable!("handled above"),
            }
        }
        Ok(Delta::inserts(&take_record_batch(inserted, &UInt32Array::from(kept))?))
    }

    /// Rows in the place of those that have their keys.
    fn put(&self, rows: &Snapshot, inserted: &RecordBatch) -> Result<Delta, Error> {
        let keys = self.shape.keys(inserted)?;
        let mut last: BTreeMap<&[u8], u32> = BTreeMap::new();
        for (row, key) in keys.iter().enumerate() {
            last.insert(key.data(), row as u32);
        }
        let mut old: Vec<Vec<u8>> = Vec::new();
        for key in last.keys() {
            rows.lookup_while(key, |row, _| {
                old.push(row.to_vec());
                true
            });
        }
        let old = self.shape.decode(&old.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let new = take_record_batch(inserted, &UInt32Array::from_iter_values(last.into_values()))?;
        let changes = [Delta::retractions(&old).into_batch(), Delta::inserts(&new).into_batch()];
        Ok(Delta::new(concat_batches(&changes[0].schema(), &changes)?))
    }

    /// The keys of `inserted`, and whether there is a row of each.
    fn taken(&self, rows: &Snapshot, inserted: &RecordBatch) -> Result<Vec<(Vec<u8>, bool)>, Error> {
        let keys = self.shape.keys(inserted)?;
        let find = |key: &[u8]| {
            let mut is_there = false;
            rows.lookup_while(key, |_, _| {
                is_there = true;
                false
            });
            (key.to_vec(), is_there)
        };
        Ok(keys.iter().map(|key| find(key.data())).collect())
    }

    /// After an UPDATE no two rows may have the same key.
    fn check_keys(&self, rows: &Snapshot, delta: &Delta) -> Result<(), Error> {
        if self.spec.primary_key.is_empty() {
            return Ok(());
        }
        let after = with_run(rows, self.shape.run(delta)?);
        let changed = delta.rows();
        for (row, key) in self.shape.keys(&changed)?.iter().enumerate() {
            let mut n = 0;
            after.lookup_while(key.data(), |_, weight| {
                n += weight;
                n < 2
            });
            if n > 1 {
                return Err(self.duplicate(&changed, row));
            }
        }
        Ok(())
    }

    /// What is taken away has to be there still.
    fn check_removed(&self, rows: &Snapshot, delta: &Delta) -> Result<(), Error> {
        let run = self.shape.run(delta)?;
        let removed: Vec<usize> = (0..run.len()).filter(|idx| run.weight(*idx) < 0).collect();
        let there = rows.weights(removed.iter().map(|idx| run.row(*idx)));
        match removed.iter().zip(there).any(|(idx, there)| there + run.weight(*idx) < 0) {
            true => Err(Error::Concurrent { table: self.spec.name.to_string() }),
            false => Ok(()),
        }
    }

    fn duplicate(&self, rows: &RecordBatch, row: usize) -> Error {
        let options = FormatOptions::default().with_null("null");
        let mut names = Vec::new();
        let mut values = Vec::new();
        for column in &self.spec.primary_key {
            names.push(self.spec.schema.field(*column).name().clone());
            let value = ArrayFormatter::try_new(rows.column(*column), &options);
            values.push(value.map(|value| value.value(row).to_string()).unwrap_or_default());
        }
        let key = format!("({})=({})", names.join(", "), values.join(", "));
        Error::DuplicateKey { table: self.spec.name.to_string(), key }
    }
}

/// Rows, and a change of them that is not theirs yet.
pub(crate) fn with_run(rows: &Snapshot, run: Arc<Run>) -> Snapshot {
    let mut runs = rows.runs().to_vec();
    runs.push(run);
    Snapshot::of(rows.layout().clone(), runs)
}
