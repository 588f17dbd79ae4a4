//! What has been sealed and not yet been taken, for one dataflow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow::array::RecordBatch;
use tidemill_core::Epoch;
use tidemill_core::source::Offsets;
use tidemill_plan::RelationId;
use tokio::sync::Notify;

/// With more rows than this queued, sources that feed the dataflow wait.
const QUEUED_ROWS_MAX: usize = 512 * 1024;

/// One step of logical time, as far as some relations are concerned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sealed {
    pub epoch: Epoch,
    /// Deltas, weight last; of an upsert source, sequence and weight last.
    pub changes: BTreeMap<RelationId, Vec<RecordBatch>>,
    /// Where each source that has moved stands behind this epoch.
    pub offsets: BTreeMap<RelationId, Arc<Offsets>>,
    pub watermarks: BTreeMap<RelationId, i64>,
    /// The epoch's time: what `now()` is in it.
    pub now: i64,
    /// When the oldest of its rows came in.
    pub arrived: Option<Instant>,
}

impl Sealed {
    fn n_rows(&self) -> usize {
        self.changes.values().flatten().map(|batch| batch.num_rows()).sum()
    }

    /// Adds a later epoch to this one.
    pub fn absorb(&mut self, later: Sealed) {
        self.epoch = later.epoch;
        self.now = later.now;
        for (relation, batches) in later.changes {
            self.changes.entry(relation).or_default().extend(batches);
        }
        self.offsets.extend(later.offsets);
        self.watermarks.extend(later.watermarks);
        self.arrived = match (self.arrived, later.arrived) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Relations, and which of their columns somebody reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reads(BTreeMap<RelationId, BTreeSet<usize>>);

impl Reads {
    pub fn add(&mut self, relation: RelationId, columns: impl IntoIterator<Item = usize>) {
        self.0.entry(relation).or_default().extend(columns);
    }

    pub fn extend(&mut self, others: &Reads) {
        for (relation, columns) in &others.0 {
            self.add(*relation, columns.iter().copied());
        }
    }

    pub fn retain(&mut self, keep: impl Fn(RelationId) -> bool) {
        self.0.retain(|relation, _| keep(*relation));
    }

    pub fn contains(&self, relation: RelationId) -> bool {
        self.0.contains_key(&relation)
    }

    pub fn columns(&self, relation: RelationId) -> Option<&BTreeSet<usize>> {
        self.0.get(&relation)
    }

    pub fn relations(&self) -> impl Iterator<Item = RelationId> {
        self.0.keys().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (RelationId, &BTreeSet<usize>)> {
        self.0.iter().map(|(relation, columns)| (*relation, columns))
    }
}

/// The queue between the sealer and a dataflow.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    sealed: Notify,
    space: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    reads: Reads,
    /// Nothing is queued: the dataflow will get it by itself.
    is_halted: bool,
    queue: VecDeque<Sealed>,
    n_rows: usize,
    /// The last epoch that was sealed, whether it says anything to this dataflow or not.
    sealed_to: Epoch,
    /// The time of that epoch.
    now: i64,
    /// Epochs that a step must not jump over, because somebody waits to read exactly there, with their times.
    barriers: BTreeMap<Epoch, i64>,
    /// When the dataflow's output changes next although no input does.
    deadline: Option<i64>,
    /// A step takes no more than one epoch that has something in it.
    is_stepwise: bool,
    /// Since when the dataflow has had nothing to do, unless it is at a step.
    idle_since: Option<Instant>,
}

impl Feed {
    /// A feed for who reads this that begins behind `sealed_to`. It notifies `space` when there is room again.
    pub fn new(reads: Reads, sealed_to: Epoch, now: i64, space: Arc<Notify>) -> Feed {
        let state = State {
            reads,
            is_halted: false,
            queue: VecDeque::new(),
            n_rows: 0,
            sealed_to,
            now,
            barriers: BTreeMap::new(),
            deadline: None,
            is_stepwise: false,
            idle_since: Some(Instant::now()),
        };
        Feed { state: Mutex::new(state), sealed: Notify::new(), space }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding a feed")
    }

    /// Adds an epoch.
    pub fn push(&self, sealed: &Sealed) {
        let mut state = self.state();
        state.sealed_to = sealed.epoch;
        state.now = sealed.now;
        if state.is_halted {
            return;
        }
        // The dataflow says what comes next once it has taken this epoch.
        state.deadline = state.deadline.filter(|deadline| *deadline > sealed.now);
        let reads = |relation: &RelationId| state.reads.contains(*relation);
        let mine = Sealed {
            epoch: sealed.epoch,
            changes: sealed.changes.iter().filter(|(r, _)| reads(r)).map(|(r, b)| (*r, b.clone())).collect(),
            offsets: sealed.offsets.iter().filter(|(r, _)| reads(r)).map(|(r, o)| (*r, o.clone())).collect(),
            watermarks: sealed.watermarks.iter().filter(|(r, _)| reads(r)).map(|(r, w)| (*r, *w)).collect(),
            now: sealed.now,
            arrived: sealed.arrived,
        };
        if !(mine.changes.is_empty() && mine.offsets.is_empty() && mine.watermarks.is_empty()) {
            state.n_rows += mine.n_rows();
            state.queue.push_back(mine);
        }
        drop(state);
        self.sealed.notify_one();
    }

    /// Takes all that has been sealed, as one step, up to the first barrier; its epoch is the last of them. Where steps
    /// are epochs, that is up to the first one with something in it.
    pub fn take(&self) -> Sealed {
        let mut state = self.state();
        let mut end = (state.sealed_to, state.now);
        if let Some((barrier, now)) = state.barriers.first_key_value() {
            end = end.min((*barrier, *now));
        }
        if let Some(first) = state.queue.front().filter(|_| state.is_stepwise) {
            end = end.min((first.epoch, first.now));
        }
        let (end, now) = end;
        state.barriers.remove(&end);
        let mut all = Sealed::default();
        while state.queue.front().is_some_and(|sealed| sealed.epoch <= end) {
            let sealed = state.queue.pop_front().expect("looked at above");
            state.n_rows -= sealed.n_rows();
            all.absorb(sealed);
        }
        all.epoch = end;
        all.now = now;
        state.idle_since = None;
        let is_more = end < state.sealed_to;
        drop(state);
        if is_more {
            self.sealed.notify_one();
        }
        self.space.notify_one();
        all
    }

    /// Makes a step end at `epoch`, the last that has been sealed.
    pub fn add_barrier(&self, epoch: Epoch) {
        let mut state = self.state();
        if state.is_halted {
            return;
        }
        let now = state.now;
        state.barriers.insert(epoch, now);
        drop(state);
        self.sealed.notify_one();
    }

    /// Notes that the dataflow is done with what it took.
    pub fn rest(&self) {
        let mut state = self.state();
        if state.idle_since.is_none() {
            state.idle_since = Some(Instant::now());
            drop(state);
            self.space.notify_one();
        }
    }

    /// Since when what is sealed of `relation` would be taken in at once; `None` while it would wait. Where nobody takes
    /// it in, it has always been so.
    pub fn idle_since(&self, relation: RelationId) -> Option<Option<Instant>> {
        let state = self.state();
        match state.is_halted || !state.reads.contains(relation) {
            true => Some(None),
            false => state.idle_since.filter(|_| state.queue.is_empty()).map(Some),
        }
    }

    /// Waits until something has been sealed since the last [`take`](Feed::take).
    pub async fn sealed(&self) {
        self.sealed.notified().await;
    }

    /// Says when the dataflow has something to do next although nothing comes in.
    pub fn set_deadline(&self, deadline: Option<i64>) {
        let mut state = self.state();
        if state.deadline != deadline && !state.is_halted {
            state.deadline = deadline;
            drop(state);
            self.space.notify_one();
        }
    }

    /// Says whether each epoch has to be a step of its own.
    pub fn set_stepwise(&self, is_stepwise: bool) {
        self.state().is_stepwise = is_stepwise;
    }

    /// Whether something has been sealed behind `frontier`.
    pub fn is_behind(&self, frontier: Epoch) -> bool {
        frontier < self.state().sealed_to
    }

    pub fn deadline(&self) -> Option<i64> {
        self.state().deadline
    }

    /// Whether rows of `relation` would have to wait.
    pub fn is_full_for(&self, relation: RelationId) -> bool {
        let state = self.state();
        state.n_rows > QUEUED_ROWS_MAX && state.reads.contains(relation)
    }

    /// Whether the dataflow takes in what is sealed of `relation`.
    pub fn reads(&self, relation: RelationId) -> bool {
        let state = self.state();
        !state.is_halted && state.reads.contains(relation)
    }

    /// Whether the dataflow takes it in now, or will when it goes on.
    pub fn needs(&self, relation: RelationId) -> bool {
        self.state().reads.contains(relation)
    }

    /// Stops queueing, and forgets what is queued: nothing may wait for a dataflow that takes nothing.
    pub fn halt(&self) {
        let mut state = self.state();
        state.is_halted = true;
        state.queue.clear();
        state.n_rows = 0;
        state.barriers.clear();
        state.deadline = None;
        drop(state);
        self.space.notify_one();
    }

    /// Goes on behind `epoch`, the last that has been sealed.
    pub fn resume(&self, epoch: Epoch, now: i64) {
        let mut state = self.state();
        state.is_halted = false;
        state.sealed_to = epoch;
        state.now = now;
        state.barriers.clear();
    }

    /// The columns of `relation` that the dataflow takes in, if it does.
    pub fn columns(&self, relation: RelationId) -> Option<BTreeSet<usize>> {
        let state = self.state();
        state.reads.columns(relation).filter(|_| !state.is_halted).cloned()
    }

    pub fn reads_all(&self) -> Reads {
        self.state().reads.clone()
    }

    /// Lets the feed carry only what is read from now on.
    pub fn set_reads(&self, reads: Reads) {
        self.state().reads = reads;
    }

    /// Lets the feed carry more from now on.
    pub fn add_reads(&self, reads: &Reads) {
        self.state().reads.extend(reads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed() -> Feed {
        let relation = RelationId(1);
        let mut reads = Reads::default();
        reads.add(relation, [0]);
        let feed = Feed::new(reads, Epoch(1), 10, Arc::default());
        for (epoch, watermark) in [(2, None), (3, Some(30)), (4, None), (5, Some(50)), (6, None)] {
            let watermarks = watermark.map(|watermark| (relation, watermark)).into_iter().collect();
            feed.push(&Sealed {
                epoch: Epoch(epoch),
                now: 10 * epoch as i64,
                watermarks,
                ..Sealed::default()
            });
        }
        feed
    }

    fn taken(feed: &Feed) -> (u64, i64, Option<i64>) {
        let sealed = feed.take();
        (sealed.epoch.0, sealed.now, sealed.watermarks.into_values().next())
    }

    #[test]
    fn a_step_takes_all_up_to_a_barrier() {
        let feed = feed();
        feed.add_barrier(Epoch(6));
        feed.push(&Sealed { epoch: Epoch(7), now: 70, ..Sealed::default() });
        assert_eq!(taken(&feed), (6, 60, Some(50)));
        assert!(feed.is_behind(Epoch(6)));
        assert_eq!(taken(&feed), (7, 70, None));
        assert!(!feed.is_behind(Epoch(7)));
    }

    #[test]
    fn where_steps_are_epochs_each_that_has_something_is_one() {
        let feed = feed();
        feed.set_stepwise(true);
        assert_eq!(taken(&feed), (3, 30, Some(30)));
        assert_eq!(taken(&feed), (5, 50, Some(50)));
        // Epochs without anything are none, but time has gone on.
        assert_eq!(taken(&feed), (6, 60, None));
    }
}
