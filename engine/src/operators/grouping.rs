//! The rows of a delta, grouped by key.

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;
use std::hash::BuildHasher;

use crate::Error;

/// The hash of keys within a step. Fixed, so that steps repeat exactly.
const HASHER: foldhash::fast::FixedState = foldhash::fast::FixedState::with_seed(0x7469_6465);

/// Which group each row belongs to. Groups are numbered in ascending order of their keys.
#[derive(Debug)]
pub(crate) struct Grouping {
    /// The group of each row.
    pub ids: Vec<u32>,
    /// The first row of each group.
    pub firsts: Vec<u32>,
    /// The key of each row; `None` where the key has no columns.
    keys: Option<Rows>,
}

impl Grouping {
    /// Groups `n_rows` rows by `keys`.
    pub fn new(keys: &[ArrayRef], n_rows: usize) -> Result<Grouping, Error> {
        if keys.is_empty() {
            let firsts = if n_rows == 0 { Vec::new() } else { vec![0] };
            return Ok(Grouping { ids: vec![0; n_rows], firsts, keys: None });
        }
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(keys)?;
        Ok(Grouping::of_rows(rows))
    }

    /// Groups encoded rows by all of their bytes.
    pub fn of_rows(rows: Rows) -> Grouping {
        let n_rows = rows.num_rows();
        let mut table: HashTable<u32> = HashTable::with_capacity(n_rows.min(1024));
        let mut ids = Vec::with_capacity(n_rows);
        let mut firsts: Vec<u32> = Vec::new();
        for row_idx in 0..n_rows {
            let key = rows.row(row_idx).data();
            let hash = HASHER.hash_one(key);
            let key_of = |group: u32| rows.row(firsts[group as usize] as usize).data();
            let found = table.find(hash, |group| key_of(*group) == key).copied();
            let group = match found {
                Some(group) => group,
                None => {
                    let group = firsts.len() as u32;
                    firsts.push(row_idx as u32);
                    table.insert_unique(hash, group, |group| {
                        HASHER.hash_one(rows.row(firsts[*group as usize] as usize).data())
                    });
                    group
                }
            };
            ids.push(group);
        }
        // Renumbered in the order of the keys, which is how arrangements are searched.
        let mut order: Vec<u32> = (0..firsts.len() as u32).collect();
        let key_of = |group: u32| rows.row(firsts[group as usize] as usize).data();
        order.sort_unstable_by(|a, b| key_of(*a).cmp(key_of(*b)));
        let mut renumbered = vec![0; firsts.len()];
        for (new, old) in order.iter().enumerate() {
            renumbered[*old as usize] = new as u32;
        }
        for id in &mut ids {
            *id = renumbered[*id as usize];
        }
        let firsts = order.iter().map(|group| firsts[*group as usize]).collect();
        Grouping { ids, firsts, keys: Some(rows) }
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.firsts.len()
    }

    /// The key of a group.
    pub fn key(&self, group: usize) -> &[u8] {
        match &self.keys {
            Some(keys) => keys.row(self.firsts[group] as usize).data(),
            None => &[],
        }
    }

    /// The keys of all groups, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|group| self.key(group))
    }

    /// The rows of each group, as ranges into the second vector.
    pub fn members(&self) -> (Vec<std::ops::Range<usize>>, Vec<u32>) {
        let mut starts = vec![0usize; self.len() + 1];
        for id in &self.ids {
            starts[*id as usize + 1] += 1;
        }
        for idx in 1..starts.len() {
            starts[idx] += starts[idx - 1];
        }
        let ranges = starts.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let mut next = starts;
        let mut rows = vec![0; self.ids.len()];
        for (row_idx, id) in self.ids.iter().enumerate() {
            rows[next[*id as usize]] = row_idx as u32;
            next[*id as usize] += 1;
        }
        (ranges, rows)
    }
}
