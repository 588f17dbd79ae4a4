//! Advisory locks: what clients agree on among themselves, by a number.
//!
//! A lock is held by a session until it gives it back as often as it has taken it, or ends; or by a transaction until
//! that ends. Who has to wait stands in the order of asking, unless it holds the lock already. Whoever would wait for
//! somebody who waits, over however many others, for the asker is told so instead.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_core::SqlState;
use tokio::sync::oneshot;

use super::api::SqlError;

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    One(i64),
    Two(i32, i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Shared,
    Exclusive,
}

/// When it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Session,
    Transaction,
}

/// A row of `pg_locks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    pub key: Key,
    pub mode: Mode,
    pub pid: i32,
    pub is_granted: bool,
}

/// All of a server's advisory locks.
#[derive(Debug, Default)]
pub struct AdvisoryLocks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    locks: HashMap<Key, Lock>,
    next_session: u64,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Lock {
    holders: HashMap<u64, Holder>,
    /// In the order of asking.
    waiting: Vec<Waiter>,
}

/// How often a session has it.
#[derive(Debug, Default)]
struct Holder {
    pid: i32,
    /// By mode, then by scope.
    counts: [[u32; 2]; 2],
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    session: u64,
    pid: i32,
    mode: Mode,
    scope: Scope,
    granted: oneshot::Sender<()>,
}

impl Holder {
    fn count(&mut self, mode: Mode, scope: Scope) -> &mut u32 {
        &mut self.counts[mode as usize][scope as usize]
    }

    fn has(&self, mode: Mode) -> bool {
        self.counts[mode as usize].iter().any(|count| *count > 0)
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().flatten().all(|count| *count == 0)
    }
}

impl Lock {
    /// The others because of whom a session cannot have it in a mode.
    fn in_the_way(&self, session: u64, mode: Mode) -> impl Iterator<Item = u64> + '_ {
        self.holders.iter().filter_map(move |(other, holder)| {
            let conflicts = mode == Mode::Exclusive || holder.has(Mode::Exclusive);
            (*other != session && conflicts).then_some(*other)
        })
    }

    /// Whether a session can have it now: nobody is in the way, nor asked before.
    fn is_free_for(&self, session: u64, mode: Mode) -> bool {
        let is_holder = self.holders.contains_key(&session);
        self.in_the_way(session, mode).next().is_none() && (is_holder || self.waiting.is_empty())
    }

    fn grant(&mut self, session: u64, pid: i32, mode: Mode, scope: Scope) {
        let holder = self.holders.entry(session).or_default();
        holder.pid = pid;
        *holder.count(mode, scope) += 1;
    }

    /// Gives it to those who can have it now.
    fn pass_on(&mut self) {
        let mut idx = 0;
        while idx < self.waiting.len() {
            let (session, mode) = (self.waiting[idx].session, self.waiting[idx].mode);
            if self.in_the_way(session, mode).next().is_some() {
                // Those behind wait for their turn.
                if !self.waiting[idx + 1..].iter().any(|other| self.holders.contains_key(&other.session)) {
                    return;
                }
                idx += 1;
                continue;
            }
            if idx > 0 && !self.holders.contains_key(&session) {
                idx += 1;
                continue;
            }
            let waiter = self.waiting.remove(idx);
            self.grant(waiter.session, waiter.pid, waiter.mode, waiter.scope);
            // Who has given up meanwhile gives it back itself: its ticket is off the list.
            let _ = waiter.granted.send(());
        }
    }
}

impl AdvisoryLocks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a session.
    pub fn session(self: &Arc<AdvisoryLocks>) -> Locker {
        let mut state = self.state();
        state.next_session += 1;
        Locker { locks: self.clone(), session: state.next_session }
    }

    /// All that are held or waited for, by key.
    pub fn list(&self) -> Vec<HeldLock> {
        let state = self.state();
        let mut all = Vec::new();
        for (key, lock) in &state.locks {
            for holder in lock.holders.values() {
                for mode in [Mode::Shared, Mode::Exclusive] {
                    if holder.has(mode) {
                        all.push(HeldLock { key: *key, mode, pid: holder.pid, is_granted: true });
                    }
                }
            }
            for waiter in &lock.waiting {
                all.push(HeldLock { key: *key, mode: waiter.mode, pid: waiter.pid, is_granted: false });
            }
        }
        all.sort_by_key(|lock| (lock.key, !lock.is_granted, lock.pid, lock.mode));
        all
    }

    fn try_lock(&self, session: u64, pid: i32, key: Key, mode: Mode, scope: Scope) -> bool {
        let mut state = self.state();
        let lock = state.locks.entry(key).or_default();
        let is_free = lock.is_free_for(session, mode);
        if is_free {
            lock.grant(session, pid, mode, scope);
        }
        state.tidy(key);
        is_free
    }

    async fn lock(
        self: &Arc<AdvisoryLocks>,
        session: u64,
        pid: i32,
        key: Key,
        mode: Mode,
        scope: Scope,
    ) -> Result<(), SqlError> {
        let (waiting, answer) = {
            let mut state = self.state();
            let lock = state.locks.entry(key).or_default();
            if lock.is_free_for(session, mode) {
                lock.grant(session, pid, mode, scope);
                return Ok(());
            }
            if state.leads_to(key, session, mode) {
                state.tidy(key);
                return Err(SqlError::new(SqlState::DEADLOCK_DETECTED, "deadlock detected")
                    .with_detail(
                        "Who holds the advisory lock waits, directly or not, for one of this session.",
                    )
                    .with_hint("Take advisory locks in the same order everywhere."));
            }
            state.next_ticket += 1;
            let ticket = state.next_ticket;
            let (granted, answer) = oneshot::channel();
            let waiter = Waiter { ticket, session, pid, mode, scope, granted };
            state.locks.entry(key).or_default().waiting.push(waiter);
            (Waiting { locks: self.clone(), key, ticket, session, mode, scope, is_done: false }, answer)
        };
        let mut waiting = waiting;
        // Its sender is dropped only together with the locks.
        let _ = answer.await;
        waiting.is_done = true;
        Ok(())
    }

    fn unlock(&self, session: u64, key: Key, mode: Mode, scope: Scope) -> bool {
        let mut state = self.state();
        let Some(lock) = state.locks.get_mut(&key) else { return false };
        let Some(holder) = lock.holders.get_mut(&session) else { return false };
        let count = holder.count(mode, scope);
        if *count == 0 {
            return false;
        }
        *count -= 1;
        if holder.is_empty() {
            lock.holders.remove(&session);
        }
        lock.pass_on();
        state.tidy(key);
        true
    }

    /// Gives back everything of a scope; of a session, transactions' too.
    fn release(&self, session: u64, scope: Scope, all: bool) {
        let mut state = self.state();
        let keys: Vec<Key> = state.locks.keys().copied().collect();
        for key in keys {
            let Some(lock) = state.locks.get_mut(&key) else { continue };
            let Some(holder) = lock.holders.get_mut(&session) else { continue };
            for mode in [Mode::Shared, Mode::Exclusive] {
                *holder.count(mode, scope) = 0;
                if all {
                    holder.counts[mode as usize] = [0, 0];
                }
            }
            if holder.is_empty() {
                lock.holders.remove(&session);
            }
            lock.pass_on();
            state.tidy(key);
        }
    }
}

impl State {
    /// Forgets a lock that nobody has or wants.
    fn tidy(&mut self, key: Key) {
        let is_unused =
            self.locks.get(&key).is_some_and(|lock| lock.holders.is_empty() && lock.waiting.is_empty());
        if is_unused {
            self.locks.remove(&key);
        }
    }

    /// Whether who is in the way of a session waits, over however many others, for that session.
    fn leads_to(&self, key: Key, session: u64, mode: Mode) -> bool {
        let mut seen = HashSet::new();
        let mut next = self.blockers(key, session, mode);
        while let Some(other) = next.pop() {
            if other == session {
                return true;
            }
            if !seen.insert(other) {
                continue;
            }
            for (key, lock) in &self.locks {
                for waiter in lock.waiting.iter().filter(|waiter| waiter.session == other) {
                    next.extend(self.blockers(*key, other, waiter.mode));
                }
            }
        }
        false
    }

    /// Whom a session waits for, or would: holders, and those who asked before.
    fn blockers(&self, key: Key, session: u64, mode: Mode) -> Vec<u64> {
        let Some(lock) = self.locks.get(&key) else { return Vec::new() };
        let mut blockers: Vec<u64> = lock.in_the_way(session, mode).collect();
        if !lock.holders.contains_key(&session) {
            let ahead = lock.waiting.iter().take_while(|waiter| waiter.session != session);
            blockers.extend(ahead.map(|waiter| waiter.session));
        }
        blockers
    }
}

/// Takes a waiter off the list, however the waiting ends.
struct Waiting {
    locks: Arc<AdvisoryLocks>,
    key: Key,
    ticket: u64,
    session: u64,
    mode: Mode,
    scope: Scope,
    is_done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut state = self.locks.state();
        let Some(lock) = state.locks.get_mut(&self.key) else { return };
        let before = lock.waiting.len();
        lock.waiting.retain(|waiter| waiter.ticket != self.ticket);
        if lock.waiting.len() == before {
            // It had been granted, and nobody will know of it.
            drop(state);
            self.locks.unlock(self.session, self.key, self.mode, self.scope);
            return;
        }
        lock.pass_on();
        state.tidy(self.key);
    }
}

/// A session as the locks know it. At its end it gives back what it holds.
#[derive(Debug)]
pub struct Locker {
    locks: Arc<AdvisoryLocks>,
    session: u64,
}

impl Locker {
    pub fn try_lock(&self, pid: i32, key: Key, mode: Mode, scope: Scope) -> bool {
        self.locks.try_lock(self.session, pid, key, mode, scope)
    }

    /// Waits for it; dropped before, it does not have it.
    pub async fn lock(&self, pid: i32, key: Key, mode: Mode, scope: Scope) -> Result<(), SqlError> {
        self.locks.lock(self.session, pid, key, mode, scope).await
    }

    /// Gives back what the session took once; false if it does not hold it.
    pub fn unlock(&self, key: Key, mode: Mode) -> bool {
        self.locks.unlock(self.session, key, mode, Scope::Session)
    }

    pub fn unlock_all(&self) {
        self.locks.release(self.session, Scope::Session, false);
    }

    /// A transaction has ended.
    pub fn end_transaction(&self) {
        self.locks.release(self.session, Scope::Transaction, false);
    }

    /// The session has ended.
    pub fn end(&self) {
        self.locks.release(self.session, Scope::Session, true);
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: Key = Key::One(7);

    async fn waits(future: impl Future<Output = Result<(), SqlError>>) -> bool {
        tokio::time::timeout(Duration::from_millis(5), future).await.is_err()
    }

    #[tokio::test]
    async fn a_lock_is_given_back_as_often_as_it_was_taken() {
        let locks = Arc::new(AdvisoryLocks::default());
        let (one, other) = (locks.session(), locks.session());
        assert!(one.try_lock(1, KEY, Mode::Exclusive, Scope::Session));
        assert!(one.try_lock(1, KEY, Mode::Exclusive, Scope::Session));
        assert!(!other.try_lock(2, KEY, Mode::Exclusive, Scope::Session));
        assert!(!other.try_lock(2, KEY, Mode::Shared, Scope::Session));
        assert!(one.unlock(KEY, Mode::Exclusive));
        assert!(!other.try_lock(2, KEY, Mode::Exclusive, Scope::Session));
        assert!(!one.unlock(KEY, Mode::Shared));
        assert!(one.unlock(KEY, Mode::Exclusive));
        assert!(!one.unlock(KEY, Mode::Exclusive));
        assert!(other.try_lock(2, KEY, Mode::Exclusive, Scope::Session));
        drop(other);
        assert!(locks.list().is_empty());
    }

    #[tokio::test]
    async fn who_waits_gets_it_in_turn_and_who_gives_up_does_not() {
        let locks = Arc::new(AdvisoryLocks::default());
        let sessions: Vec<Arc<Locker>> = (0..3).map(|_| Arc::new(locks.session())).collect();
        sessions[0].lock(1, KEY, Mode::Exclusive, Scope::Transaction).await.unwrap();
        assert!(waits(sessions[1].lock(2, KEY, Mode::Exclusive, Scope::Session)).await);
        assert_eq!(locks.list().len(), 1, "{:?}", locks.list());
        let second = sessions[1].clone();
        let second = tokio::spawn(async move { second.lock(2, KEY, Mode::Shared, Scope::Session).await });
        while locks.list().len() < 2 {
            tokio::task::yield_now().await;
        }
        // Shared locks do not overtake, though they would fit together.
        assert!(!sessions[2].try_lock(3, KEY, Mode::Shared, Scope::Session));
        sessions[0].unlock_all();
        assert!(!second.is_finished());
        sessions[0].end_transaction();
        second.await.unwrap().unwrap();
        assert!(sessions[2].try_lock(3, KEY, Mode::Shared, Scope::Session));
        let held = locks.list();
        assert!(held.iter().all(|lock| lock.is_granted && lock.mode == Mode::Shared), "{held:?}");
        assert_eq!(held.iter().map(|lock| lock.pid).collect::<Vec<_>>(), [2, 3]);
    }

    #[tokio::test]
    async fn who_would_close_a_circle_is_told_so() {
        let locks = Arc::new(AdvisoryLocks::default());
        let (one, other) = (Arc::new(locks.session()), locks.session());
        one.lock(1, Key::One(1), Mode::Exclusive, Scope::Session).await.unwrap();
        other.lock(2, Key::Two(0, 2), Mode::Exclusive, Scope::Session).await.unwrap();
        let waiting = {
            let one = one.clone();
            tokio::spawn(async move { one.lock(1, Key::Two(0, 2), Mode::Exclusive, Scope::Session).await })
        };
        while locks.list().len() < 3 {
            tokio::task::yield_now().await;
        }
        let refused = other.lock(2, Key::One(1), Mode::Exclusive, Scope::Session).await.unwrap_err();
        assert_eq!(refused.sqlstate, SqlState::DEADLOCK_DETECTED);
        drop(other);
        waiting.await.unwrap().unwrap();
    }
}
