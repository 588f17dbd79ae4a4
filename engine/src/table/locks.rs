//! Who may change a table on what it has read there.
//!
//! A statement that reads a table in order to change it holds the table's lock until it is done, in a
//! transaction until that ends. Rows that are only inserted need none. Whoever would wait for somebody who waits,
//! over however many others, for the asker is told so instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tidemill_plan::RelationId;
use tokio::sync::OwnedMutexGuard;

use crate::Error;

/// Who holds locks and who waits for them. One for all tables.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    holders: HashMap<RelationId, u64>,
    waiting: HashMap<u64, RelationId>,
    next_owner: u64,
}

/// Held while a table may be changed on what was read.
#[derive(Debug)]
pub struct TableLock {
    locks: Arc<Locks>,
    table: RelationId,
    /// Given back after the holder's name is off the list.
    _guard: OwnedMutexGuard<()>,
}

impl Drop for TableLock {
    fn drop(&mut self) {
        self.locks.state().holders.remove(&self.table);
    }
}

/// Takes a waiting owner off the list, however the waiting ends.
struct Waiting<'a> {
    locks: &'a Locks,
    owner: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.locks.state().waiting.remove(&self.owner);
    }
}

impl Locks {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// A name for somebody who takes locks.
    pub fn owner(&self) -> u64 {
        let mut state = self.state();
        state.next_owner += 1;
        state.next_owner
    }

    /// Waits for a table's lock, in the order of asking. An owner asks for one that it has only once.
    pub async fn take(
        self: &Arc<Locks>,
        owner: u64,
        table: RelationId,
        name: &str,
        lock: Arc<tokio::sync::Mutex<()>>,
    ) -> Result<TableLock, Error> {
        let guard = match lock.clone().try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                {
                    let mut state = self.state();
                    if state.leads_to(table, owner) {
                        return Err(Error::Deadlock { table: name.to_owned() });
                    }
                    state.waiting.insert(owner, table);
                }
                let _waiting = Waiting { locks: self, owner };
                lock.lock_owned().await
            }
        };
        // Before its owner can wait for another, so that whoever closes a circle last sees all of it.
        self.state().holders.insert(table, owner);
        Ok(TableLock { locks: self.clone(), table, _guard: guard })
    }
}

impl State {
    /// Whether who holds a table waits, over however many others, for `owner`.
    fn leads_to(&self, table: RelationId, owner: u64) -> bool {
        let mut table = table;
        // No longer than there are owners: a circle that `owner` is not part of cannot come to be.
        for _ in 0..=self.waiting.len() {
            match self.holders.get(&table) {
                Some(holder) if *holder == owner => return true,
                Some(holder) => match self.waiting.get(holder) {
                    Some(next) => table = *next,
                    None => return false,
                },
                None => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_would_close_a_circle_is_told_so() {
        let locks = Arc::new(Locks::default());
        let tables: Vec<_> = (0..3).map(|_| Arc::new(tokio::sync::Mutex::new(()))).collect();
        let owners: Vec<u64> = (0..3).map(|_| locks.owner()).collect();
        let take = |owner: usize, table: usize| {
            let (locks, lock, owner) = (locks.clone(), tables[table].clone(), owners[owner]);
            async move { locks.take(owner, RelationId(table as u32), "t", lock).await }
        };
        let mut held = Vec::new();
        for idx in 0..3 {
            held.push(take(idx, idx).await.unwrap());
        }
        // 0 waits for 1, which waits for 2.
        let first = tokio::spawn(take(0, 1));
        let second = tokio::spawn(take(1, 2));
        while locks.state().waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        let refused = take(2, 0).await;
        assert!(matches!(refused, Err(Error::Deadlock { .. })), "{refused:?}");
        // It gives way, and the others go on one after the other.
        drop(held.pop());
        drop(second.await.unwrap().unwrap());
        drop(held.pop());
        first.await.unwrap().unwrap();
        assert!(locks.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_off_the_list() {
        let locks = Arc::new(Locks::default());
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        let (one, other) = (locks.owner(), locks.owner());
        let held = locks.take(one, RelationId(1), "t", lock.clone()).await.unwrap();
        let waiting = locks.take(other, RelationId(1), "t", lock.clone());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), waiting).await.is_err());
        assert!(locks.state().waiting.is_empty());
        drop(held);
        assert!(locks.state().holders.is_empty());
    }
}
