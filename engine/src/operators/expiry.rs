//! Which keys nothing has touched for how long.
//!
//! ```text
//!   touched   key → time           due   (time, key)
//!     a  →  10                       10  a    ◀─ forgotten at 10 + ttl
//!     b  →  25                       25  b
//! ```
//!
//! Time is that of the epochs. A key that is touched at *t* lives while `now()` is below *t* + ttl; in the step
//! that reaches that time it is forgotten before the step's rows are looked at, so that these begin anew.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type};
use tidemill_storage::{RunBuilder, SortColumn};

use super::{StateTable, StepContext};
use crate::Error;

pub(super) struct Expiry {
    ttl: i64,
    n_keys: usize,
    /// The key, then when it was touched.
    touched: StateTable,
    /// When it was touched, then the key.
    due: StateTable,
}

/// Keys whose time is over.
pub(super) struct Expired {
    /// Encoded, ascending.
    pub keys: Vec<Vec<u8>>,
}

impl Expiry {
    /// Of keys of these columns, dealt out by `deal_by`.
    pub fn new(ttl: i64, keys: &[SortColumn], deal_by: &[usize]) -> Result<Expiry, Error> {
        let at = || SortColumn::ascending(&Field::new("__touched", DataType::Int64, false));
        let touched = [keys.to_vec(), vec![at()]].concat();
        let due = [vec![at()], keys.to_vec()].concat();
        Ok(Expiry {
            ttl,
            n_keys: keys.len(),
            touched: StateTable::new("touched", touched, keys.len(), deal_by.to_vec())?,
            due: StateTable::new("due", due, 1, deal_by.iter().map(|column| column + 1).collect())?,
        })
    }

    /// Takes out the keys whose time is over.
    pub fn expired(&mut self, context: &StepContext) -> Result<Expired, Error> {
        let mut keys = Vec::new();
        if context.now <= context.now_before {
            return Ok(Expired { keys });
        }
        let snapshot = self.due.snapshot();
        let mut cursor = snapshot.cursor();
        // What was due before has been taken out: do not walk over what is left of it.
        cursor.seek(&self.from(context.now_before.saturating_sub(self.ttl))?);
        let end = self.from(context.now.saturating_sub(self.ttl))?;
        let over: Vec<&[u8]> = cursor.take_while(|(row, _)| *row < &end[..]).map(|(row, _)| row).collect();
        if over.is_empty() {
            return Ok(Expired { keys });
        }
        let mut gone = RunBuilder::with_capacity(over.len(), 0);
        over.iter().for_each(|row| gone.push(row, -1));
        let mut columns = self.due.layout().decode(over.iter().copied())?;
        self.due.arrangement.append(gone.finish());
        columns.rotate_left(1);
        self.touched.add(&columns, &vec![-1; over.len()])?;
        if self.n_keys == 0 {
            keys.push(Vec::new());
        } else {
            let encoded = self.touched.layout().encode_keys(&columns[..self.n_keys])?;
            keys.extend(encoded.iter().map(|key| key.data().to_vec()));
            keys.sort_unstable();
        }
        Ok(Expired { keys })
    }

    /// Notes that keys, each once and in the order of `encoded`, which ascends, were touched now, or that they are gone.
    pub fn touch(
        &mut self,
        now: i64,
        keys: &[ArrayRef],
        encoded: &[&[u8]],
        is_there: &[bool],
    ) -> Result<(), Error> {
        let snapshot = self.touched.snapshot();
        let mut before: Vec<&[u8]> = Vec::new();
        snapshot.lookup(encoded.iter().copied(), |_, row, _| before.push(row));
        let mut old = self.touched.layout().decode(before.iter().copied())?;
        let mut gone = RunBuilder::with_capacity(before.len(), 0);
        before.iter().for_each(|row| gone.push(row, -1));
        self.touched.arrangement.append(gone.finish());
        old.rotate_right(1);
        self.due.add(&old, &vec![-1; before.len()])?;

        let there = arrow::array::BooleanArray::from(is_there.to_vec());
        let n_there = there.true_count();
        let mut columns = Vec::with_capacity(self.n_keys + 1);
        for key in keys {
            columns.push(arrow::compute::filter(key, &there)?);
        }
        let at: ArrayRef = Arc::new(Int64Array::from_value(now, n_there));
        let weights = vec![1; n_there];
        self.touched.add(&[&columns[..], &[at.clone()]].concat(), &weights)?;
        columns.insert(0, at);
        self.due.add(&columns, &weights)
    }

    pub fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        let snapshot = self.due.arrangement.current();
        let mut cursor = snapshot.cursor();
        cursor.seek(&self.from(now.saturating_sub(self.ttl))?);
        let Some((row, _)) = cursor.next() else { return Ok(None) };
        let at = self.due.layout().decode([row])?[0].as_primitive::<Int64Type>().value(0);
        Ok(Some(at.saturating_add(self.ttl)))
    }

    pub fn state(&mut self) -> [&mut StateTable; 2] {
        [&mut self.touched, &mut self.due]
    }

    /// The encoded time right behind `time`.
    fn from(&self, time: i64) -> Result<Vec<u8>, Error> {
        let time: ArrayRef = Arc::new(Int64Array::from(vec![time.saturating_add(1)]));
        Ok(self.due.layout().encode_keys(&[time])?.row(0).data().to_vec())
    }
}
