//! The clock: what has come in becomes the next epoch.
//!
//! One task makes epochs. It waits until rows have waited `epoch_interval`, or there are many, or those who read them have
//! nothing else to do, or a statement writes; then everything that is there becomes one epoch: statements' writes are decided in
//! order and made durable in the log, sources hand over what they have read, and every dataflow gets its
//! share. Whoever holds the clock's lock sees everything at one epoch, which is how a new dataflow finds
//! its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tidemill_core::source::Offsets;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::RelationId;
use tidemill_storage::{Log, LogRecord};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};

use crate::Error;
use crate::feed::{Feed, Sealed};
use crate::ipc::encode_batch;
use crate::metrics::Counter;
use crate::source::{DeadLetter, SourceRuntime};
use crate::table::{Table, TableWrite, Written, insertions};
use crate::time::TimeSource;
use crate::view::Held;

/// This many rows are sealed without waiting.
const EPOCH_ROWS: usize = 64 * 1024;
/// With as many, rows come so fast that an epoch of its own for each batch of them would cost more than it gives.
const IDLE_ROWS: usize = 4096;
/// Small epochs may take a part of the time that dataflows have: one in so many.
const REST: u32 = 4;
/// How many writes share an epoch, and so a sync of the log, at most.
const EPOCH_WRITES: usize = 1024;
/// Whoever waits for a moment looks at the clock this often: it may have been set.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
/// Records of this relation in the table log are epochs' times.
pub(crate) const LOGGED_TIME: u32 = u32::MAX;

/// The records of epochs that are whole in a log. The time comes last: an epoch without it was torn by a crash, was never
/// acknowledged, and must not come to life in part, since a transaction may have been in it.
pub(crate) fn whole_epochs(mut records: Vec<LogRecord>) -> Vec<LogRecord> {
    let is_time = |record: &&LogRecord| record.relation == LOGGED_TIME;
    let whole: BTreeSet<Epoch> = records.iter().filter(is_time).map(|record| record.epoch).collect();
    records.retain(|record| whole.contains(&record.epoch));
    records
}

/// Writes that wait for their epoch, to be done together or not at all.
pub(crate) struct WriteRequest {
    pub writes: Vec<(RelationId, TableWrite)>,
    /// Tables that must not have changed since an epoch.
    pub unchanged: Vec<(RelationId, Epoch)>,
    /// Tables that nobody writes to after this: others have taken their place.
    pub retired: Vec<RelationId>,
    pub answer: oneshot::Sender<Result<Vec<Written>, Error>>,
}

/// A request and what became of it.
type Answer = (oneshot::Sender<Result<Vec<Written>, Error>>, Result<Vec<Written>, Error>);

/// What the clock's lock guards.
pub(crate) struct Clock {
    pub epoch: Epoch,
    /// The time of `epoch`, which never goes back.
    pub now: i64,
    pub sealed_at: Instant,
    pub feeds: HashMap<u64, Arc<Feed>>,
    pub sources: BTreeMap<RelationId, Arc<SourceRuntime>>,
    /// Where each source stood at `epoch`.
    pub offsets: BTreeMap<RelationId, Arc<Offsets>>,
    pub watermarks: BTreeMap<RelationId, i64>,
    pub tables: BTreeMap<RelationId, Table>,
    /// Tables that could not be added, and why.
    pub refused: BTreeMap<RelationId, String>,
    /// Tables whose place others have taken; they go as soon as the catalog says so.
    pub retired: BTreeSet<RelationId>,
    /// The table that dead letters go to.
    pub dead_letters: Option<RelationId>,
    pub log: Log,
}

impl Clock {
    /// The error of who wants a table that is not there.
    pub fn not_running(&self, kind: &'static str, id: RelationId) -> Error {
        let reason = self.refused.get(&id).cloned().unwrap_or_else(|| "it has been dropped".into());
        Error::NotRunning { kind, name: id.to_string(), reason }
    }
}

/// The clock and what drives it.
pub(crate) struct Sealer {
    pub clock: Arc<Mutex<Clock>>,
    pub writes: mpsc::Sender<WriteRequest>,
    /// Rows have come in, or a dataflow has room again.
    pub arrived: Arc<Notify>,
    pub sealed: watch::Sender<Epoch>,
    /// The time of the last epoch, for those who cannot wait for the clock's lock.
    pub sealed_now: AtomicI64,
    pub epochs: Counter,
    pub n_dead_letters: Counter,
    epoch_interval: Duration,
    pub time: TimeSource,
}

/// When rows of a source may be sealed without waiting for more, because all who read it have nothing to do and have had some rest:
/// the longer the last epoch took them. `None` while one of them is busy.
fn after_rest(clock: &Clock, source: RelationId) -> Option<Instant> {
    let idle: Option<Vec<_>> = clock.feeds.values().map(|feed| feed.idle_since(source)).collect();
    let took =
        idle?.into_iter().flatten().max().map(|since| since.saturating_duration_since(clock.sealed_at));
    Some(clock.sealed_at + took.unwrap_or_default() * REST)
}

impl Sealer {
    pub fn new(
        clock: Clock,
        arrived: Arc<Notify>,
        epoch_interval: Duration,
        time: TimeSource,
    ) -> (Arc<Sealer>, mpsc::Receiver<WriteRequest>) {
        let (writes, requests) = mpsc::channel(EPOCH_WRITES);
        let sealer = Sealer {
            sealed: watch::Sender::new(clock.epoch),
            sealed_now: AtomicI64::new(clock.now),
            clock: Arc::new(Mutex::new(clock)),
            writes,
            arrived,
            epochs: Counter::default(),
            n_dead_letters: Counter::default(),
            epoch_interval,
            time,
        };
        (Arc::new(sealer), requests)
    }

    /// Seals epochs for ever.
    pub async fn run(self: Arc<Sealer>, mut requests: mpsc::Receiver<WriteRequest>) {
        loop {
            let mut writes = Vec::new();
            let (due, look) = self.due().await;
            let wait = async {
                match due.into_iter().chain(look).min() {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => writes.push(request),
                    None => return,
                },
                () = wait => {
                    // The time to look at the clock again is not the time to seal.
                    if due.is_none_or(|due| due > Instant::now()) {
                        continue;
                    }
                }
                () = self.arrived.notified() => {
                    // Something came in: when it is due is another question.
                    if self.due().await.0.is_none_or(|due| due > Instant::now()) {
                        continue;
                    }
                }
            }
            while writes.len() < EPOCH_WRITES
                && let Ok(request) = requests.try_recv()
            {
                writes.push(request);
            }
            let mut clock = self.clock.lock().await;
            self.seal(&mut clock, writes).await;
        }
    }

    /// When the oldest waiting rows are to be sealed, or something happens by itself; and when to ask again at
    /// the latest.
    async fn due(&self) -> (Option<Instant>, Option<Instant>) {
        let clock = self.clock.lock().await;
        let due = |source: &Arc<SourceRuntime>| {
            let waiting = source.waiting()?;
            if clock.feeds.values().any(|feed| feed.is_full_for(source.spec.id)) {
                return None;
            }
            let latest = waiting.arrived + self.epoch_interval;
            let due = match waiting.n_rows {
                EPOCH_ROWS.. => Instant::now(),
                IDLE_ROWS.. => latest,
                // Who sets the clock decides what an epoch is.
                _ if matches!(self.time, TimeSource::Manual(_)) => latest,
                _ => after_rest(&clock, source.spec.id).map_or(latest, |rested| rested.min(latest)),
            };
            Some(waiting.not_before.map_or(due, |not_before| not_before.max(due)))
        };
        let rows = clock.sources.values().filter_map(due).min();
        let deadline = clock.feeds.values().filter_map(|feed| feed.deadline()).min();
        let wait = deadline.and_then(|deadline| self.time.wait(deadline));
        // However much there is to do by itself, it is done in epochs like anything else.
        let timer = wait
            .filter(|wait| *wait <= CLOCK_LOOK)
            .map(|wait| (Instant::now() + wait).max(clock.sealed_at + self.epoch_interval));
        let look = wait.filter(|wait| *wait > CLOCK_LOOK).map(|_| Instant::now() + CLOCK_LOOK);
        let idle = clock.sources.values().filter_map(|source| source.idle_at()).min();
        (rows.into_iter().chain(timer).min(), look.into_iter().chain(idle).min())
    }

    /// Makes everything that is there the next epoch.
    pub async fn seal(&self, clock: &mut Clock, writes: Vec<WriteRequest>) -> Epoch {
        let now = self.time.now().max(clock.now);
        let mut sealed = Sealed { epoch: clock.epoch.next(), now, ..Sealed::default() };
        let mut taken = Vec::new();
        for (id, source) in &clock.sources {
            if clock.feeds.values().any(|feed| feed.is_full_for(*id)) {
                continue;
            }
            taken.extend(source.take().map(|taken| (*id, taken)));
        }
        if !writes.is_empty() {
            sealed.arrived = Some(Instant::now());
        }
        let dead_letters: Vec<&DeadLetter> =
            taken.iter().flat_map(|(_, taken)| &taken.dead_letters).collect();
        let writes = with_dead_letters(clock, writes, &dead_letters);
        let n_dead_letters = dead_letters.len();
        let (answers, is_logged) = self.write(clock, writes, &mut sealed).await;
        if is_logged {
            self.n_dead_letters.add(n_dead_letters);
        }
        for (id, taken) in taken {
            if !is_logged && !taken.dead_letters.is_empty() {
                // What comes behind a bad record counts when that record is kept.
                clock.sources[&id].put_back(taken);
                continue;
            }
            if !taken.batches.is_empty() {
                sealed.changes.insert(id, taken.batches);
            }
            sealed.offsets.insert(id, taken.offsets);
            if let Some(watermark) = taken.watermark {
                sealed.watermarks.insert(id, watermark);
            }
            sealed.arrived = sealed.arrived.into_iter().chain(taken.arrived).min();
        }

        clock.epoch = sealed.epoch;
        clock.now = sealed.now;
        clock.sealed_at = Instant::now();
        clock.offsets.extend(sealed.offsets.iter().map(|(id, offsets)| (*id, offsets.clone())));
        clock.watermarks.extend(sealed.watermarks.iter().map(|(id, watermark)| (*id, *watermark)));
        for (id, table) in &mut clock.tables {
            let changes = sealed.changes.get(id).map(Vec::as_slice).unwrap_or_default();
            if let Err(error) = table.publish(sealed.epoch, changes) {
                tracing::error!(table = %table.rules.spec.name, %error, "a table's change cannot be shown");
            }
        }
        for feed in clock.feeds.values() {
            feed.push(&sealed);
        }
        self.epochs.add(1);
        self.sealed_now.store(sealed.now, Ordering::SeqCst);
        self.sealed.send_replace(sealed.epoch);
        for (answer, outcome) in answers {
            // The statement may have been cancelled while it waited.
            let _ = answer.send(outcome);
        }
        sealed.epoch
    }

    /// Decides the writes in order, logs them, applies them; says whether they could be logged.
    async fn write(
        &self,
        clock: &mut Clock,
        writes: Vec<WriteRequest>,
        sealed: &mut Sealed,
    ) -> (Vec<Answer>, bool) {
        let mut answers = Vec::new();
        let mut undo = BTreeMap::new();
        let mut records = Vec::new();
        let mut changes: BTreeMap<RelationId, Vec<RecordBatch>> = BTreeMap::new();
        let mut retired = clock.retired.clone();
        for request in writes {
            let outcome = apply(clock, &request, &retired, &mut undo);
            if outcome.is_ok() {
                retired.extend(&request.retired);
            }
            let outcome = outcome.map(|deltas| {
                let mut written = Vec::new();
                for (table, delta) in deltas {
                    written.push(Written { epoch: sealed.epoch, inserted: insertions(&delta) });
                    if !delta.is_empty() {
                        let payload = encode_batch(delta.batch());
                        records.push(LogRecord { epoch: sealed.epoch, relation: table.0, payload });
                        changes.entry(table).or_default().push(delta.into_batch());
                    }
                }
                written
            });
            answers.push((request.answer, outcome));
        }
        if !records.is_empty() {
            let payload = sealed.now.to_le_bytes().to_vec();
            records.push(LogRecord { epoch: sealed.epoch, relation: LOGGED_TIME, payload });
        }
        if let Err(error) = clock.log.append(&records).await {
            tracing::error!(%error, "the table log cannot be written");
            for (id, held) in undo {
                clock.tables[&id].view.reset(held);
            }
            let error = Arc::new(error);
            for (_, outcome) in answers.iter_mut().filter(|(_, outcome)| outcome.is_ok()) {
                *outcome = Err(match error.as_ref() {
                    tidemill_storage::Error::Fenced { root, by } => {
                        tidemill_storage::Error::Fenced { root: root.clone(), by: by.clone() }.into()
                    }
                    _ => Error::Log(error.clone()),
                });
            }
            return (answers, false);
        }
        clock.retired = retired;
        sealed.changes.extend(changes);
        (answers, true)
    }

    /// Waits until the epoch after everything that has come in so far has been sealed.
    pub async fn seal_now(&self) -> Epoch {
        let mut clock = self.clock.lock().await;
        self.seal(&mut clock, Vec::new()).await
    }
}

/// `writes`, and behind them what puts `dead_letters` into their table.
fn with_dead_letters(
    clock: &Clock,
    mut writes: Vec<WriteRequest>,
    dead_letters: &[&DeadLetter],
) -> Vec<WriteRequest> {
    if let (Some(table), false) = (clock.dead_letters, dead_letters.is_empty()) {
        let write = crate::dead_letters::write(dead_letters);
        let (answer, _) = oneshot::channel();
        writes.push(WriteRequest {
            writes: vec![(table, write)],
            unchanged: Vec::new(),
            retired: Vec::new(),
            answer,
        });
    }
    writes
}

/// Decides writes one after the other and adds them to their tables; if one cannot be, none is. `undo` is what the
/// tables held before the epoch.
fn apply(
    clock: &Clock,
    request: &WriteRequest,
    retired: &BTreeSet<RelationId>,
    undo: &mut BTreeMap<RelationId, Held>,
) -> Result<Vec<(RelationId, Delta)>, Error> {
    for (id, since) in &request.unchanged {
        let changed = clock.tables.get(id).is_none_or(|table| table.changed > *since);
        // Whoever comes before in the same epoch has changed it as well.
        if changed || undo.contains_key(id) {
            let table = clock.tables.get(id).map(|table| table.rules.spec.name.to_string());
            return Err(Error::Concurrent { table: table.unwrap_or_else(|| id.to_string()) });
        }
    }
    let mut deltas = Vec::new();
    let mut before: Vec<(&Table, Held)> = Vec::new();
    let mut outcome = Ok(());
    for (id, write) in &request.writes {
        let Some(table) = clock.tables.get(id) else {
            outcome = Err(clock.not_running("table", *id));
            break;
        };
        if retired.contains(id) {
            outcome = Err(Error::Concurrent { table: table.rules.spec.name.to_string() });
            break;
        }
        let added = table.rules.resolve(&table.rows(), write).and_then(|delta| {
            if !delta.is_empty() {
                let held = table.view.held();
                undo.entry(*id).or_insert_with(|| held.clone());
                before.push((table, held));
                table.view.add(0, delta.batch())?;
            }
            Ok(delta)
        });
        match added {
            Ok(delta) => deltas.push((*id, delta)),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if outcome.is_err() {
        before.into_iter().rev().for_each(|(table, held)| table.view.reset(held));
    }
    outcome.map(|()| deltas)
}

/// Relations of a set that some feed reads.
pub(crate) fn is_read(clock: &Clock, relation: RelationId) -> bool {
    clock.feeds.values().any(|feed| feed.reads(relation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_a_crash_has_torn_is_dropped_whole() {
        let record =
            |epoch: u64, relation: u32| LogRecord { epoch: Epoch(epoch), relation, payload: Vec::new() };
        let log = vec![
            record(1, 7),
            record(1, 8),
            record(1, LOGGED_TIME),
            // Cut off before the second table and the time; the server went on with the next epoch.
            record(2, 7),
            record(3, 8),
            record(3, LOGGED_TIME),
            record(4, 7),
        ];
        let kept: Vec<_> =
            whole_epochs(log).into_iter().map(|record| (record.epoch.0, record.relation)).collect();
        assert_eq!(kept, [(1, 7), (1, 8), (1, LOGGED_TIME), (3, 8), (3, LOGGED_TIME)]);
    }
}
