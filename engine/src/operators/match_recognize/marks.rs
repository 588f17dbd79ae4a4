//! Places in partitions from which a scan can go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type};
use tidemill_storage::{Snapshot, SortColumn};

use crate::Error;
use crate::operators::{StateTable, consolidate};

/// A table of marks: the row before the place, then what else has to be known.
pub(super) struct Marks {
    pub table: StateTable,
    n_columns: usize,
    added: Vec<Vec<u8>>,
    removed: BTreeSet<Vec<u8>>,
}

/// A place in a partition: behind some copies of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its row in the table of marks; empty before it is in it.
    pub bytes: Vec<u8>,
    /// The row before the place, as the table of rows has it.
    pub row: Vec<u8>,
    /// How many copies of it are before the place.
    pub copies: i64,
    /// How many rows behind the place have been in matches.
    pub n_covered: i64,
    pub n_matches: i64,
    /// The last row that a search before the place looked at.
    pub reach: Vec<u8>,
}

impl Marks {
    /// For places in the rows of `rows`.
    pub fn new(name: &str, rows: &StateTable, n_partition: usize) -> Result<Marks, Error> {
        let own =
            |name: &str, data_type: DataType| SortColumn::ascending(&Field::new(name, data_type, false));
        let mut columns = rows.layout().columns().to_vec();
        let n_columns = columns.len();
        columns.push(own("__copies", DataType::Int64));
        columns.push(own("__covered", DataType::Int64));
        columns.push(own("__matches", DataType::Int64));
        columns.push(own("__reach", DataType::Binary));
        let table = StateTable::new(name, columns, n_partition, (0..n_partition).collect())?;
        Ok(Marks { table, n_columns, added: Vec::new(), removed: BTreeSet::new() })
    }

    /// A mark by its row in the table.
    pub fn decode(&self, bytes: &[u8], rows: &StateTable) -> Result<Mark, Error> {
        let columns = self.table.layout().decode([bytes])?;
        let number = |idx: usize| columns[self.n_columns + idx].as_primitive::<Int64Type>().value(0);
        let row = rows.layout().encode_rows(&columns[..self.n_columns])?;
        Ok(Mark {
            bytes: bytes.to_vec(),
            row: row.row(0).data().to_vec(),
            copies: number(0),
            n_covered: number(1),
            n_matches: number(2),
            reach: columns[self.n_columns + 3].as_binary::<i32>().value(0).to_vec(),
        })
    }

    /// The last mark before `changed` of which no search before looked as far as that.
    pub fn last_before(
        &self,
        snapshot: &Snapshot,
        partition: &[u8],
        changed: &[u8],
        rows: &StateTable,
    ) -> Result<Option<Mark>, Error> {
        let mut found = Ok(None);
        snapshot.lookup_back(partition, changed, |bytes, _| match self.decode(bytes, rows) {
            Ok(mark) if mark.reach.as_slice() < changed => {
                found = Ok(Some(mark));
                false
            }
            Ok(_) => true,
            Err(error) => {
                found = Err(error);
                false
            }
        });
        found
    }

    /// The marks behind another, or all of a partition, in their order, until `is_end`.
    pub fn walk(
        &self,
        snapshot: &Snapshot,
        partition: &[u8],
        from: Option<&Mark>,
        rows: &StateTable,
        mut seen: impl FnMut(Mark) -> bool,
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        let read = |bytes: &[u8], _: i64| {
            if from.is_some_and(|from| from.bytes == bytes) {
                return true;
            }
            match self.decode(bytes, rows) {
                Ok(mark) => seen(mark),
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        };
        match from {
            Some(from) => snapshot.lookup_from(partition, &from.bytes, read),
            None => snapshot.lookup_while(partition, read),
        }
        outcome
    }

    pub fn remove(&mut self, mark: &Mark) {
        self.removed.insert(mark.bytes.clone());
    }

    /// Adds marks.
    pub fn add(&mut self, marks: &[Mark], rows: &StateTable) -> Result<(), Error> {
        if marks.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = rows.layout().decode(marks.iter().map(|mark| &mark.row[..]))?;
        let number = |of: fn(&Mark) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(marks.iter().map(of)))
        };
        columns.push(number(|mark| mark.copies));
        columns.push(number(|mark| mark.n_covered));
        columns.push(number(|mark| mark.n_matches));
        columns.push(Arc::new(BinaryArray::from_iter_values(marks.iter().map(|mark| &mark.reach[..]))));
        let encoded = self.table.layout().encode_rows(&columns)?;
        self.added.extend(encoded.iter().map(|row| row.data().to_vec()));
        Ok(())
    }

    /// Forgets what a step that failed has added and removed.
    pub fn begin(&mut self) {
        self.added.clear();
        self.removed.clear();
    }

    /// Writes what has been added and removed.
    pub fn write(&mut self) {
        let (added, removed) = (std::mem::take(&mut self.added), std::mem::take(&mut self.removed));
        if added.is_empty() && removed.is_empty() {
            return;
        }
        let rows: Vec<&[u8]> = added.iter().chain(&removed).map(|row| &row[..]).collect();
        let weights: Vec<i64> = (0..rows.len()).map(|idx| if idx < added.len() { 1 } else { -1 }).collect();
        self.table.arrangement.append(consolidate(&rows, &weights));
    }
}
