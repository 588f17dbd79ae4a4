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

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::filter;
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

    /// Takes out the keys whose time is over; gives them, encoded, ascending.
    pub fn expired(&mut self, context: &StepContext) -> Result<Vec<Vec<u8>>, Error> {
        if context.now <= context.now_before {
            return Ok(Vec::new());
        }
        let snapshot = self.due.snapshot();
        let mut cursor = snapshot.cursor();
        // What was due before has been taken out: do not walk over what is left of it.
        cursor.seek(&self.from(context.now_before.saturating_sub(self.ttl))?);
        let end = self.from(context.now.saturating_sub(self.ttl))?;
        let over: Vec<&[u8]> = cursor.take_while(|(row, _)| *row < &end[..]).map(|(row, _)| row).collect();
        if over.is_empty() {
            return Ok(Vec::new());
        }
        let mut gone = RunBuilder::with_capacity(over.len(), 0);
        over.iter().for_each(|row| gone.push(row, -1));
        let mut columns = self.due.layout().decode(over.iter().copied())?;
        self.due.arrangement.append(gone.finish());
        columns.rotate_left(1);
        self.touched.add(&columns, &vec![-1; over.len()])?;
        let encoded = self.touched.layout().encode_keys(&columns[..self.n_keys])?;
        let mut keys: Vec<Vec<u8>> = encoded.iter().map(|key| key.data().to_vec()).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Notes that keys, each once and in the order of `encoded`, which ascends, were touched by what came at a time, or
    /// that they are gone.
    pub fn touch(
        &mut self,
        arrival: i64,
        keys: &[ArrayRef],
        encoded: &[&[u8]],
        is_there: &[bool],
    ) -> Result<(), Error> {
        let snapshot = self.touched.snapshot();
        let mut before: Vec<(usize, &[u8])> = Vec::new();
        snapshot.lookup(encoded.iter().copied(), |idx, row, _| before.push((idx, row)));
        let mut old = self.touched.layout().decode(before.iter().map(|(_, row)| *row))?;
        let mut gone = RunBuilder::with_capacity(before.len(), 0);
        before.iter().for_each(|(_, row)| gone.push(row, -1));
        self.touched.arrangement.append(gone.finish());
        old.rotate_right(1);
        self.due.add(&old, &vec![-1; before.len()])?;

        // What a source gives again after a restart counts as new, and comes before what the log knows the times of.
        let mut at = vec![arrival; encoded.len()];
        let touched = old[0].as_primitive::<Int64Type>();
        for (place, (idx, _)) in before.iter().enumerate() {
            at[*idx] = at[*idx].max(touched.value(place));
        }
        let there = BooleanArray::from(is_there.to_vec());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(at))];
        columns.extend_from_slice(keys);
        let mut columns =
            columns.iter().map(|column| filter(column, &there)).collect::<Result<Vec<_>, _>>()?;
        let weights = vec![1; there.true_count()];
        self.due.add(&columns, &weights)?;
        columns.rotate_left(1);
        self.touched.add(&columns, &weights)
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
