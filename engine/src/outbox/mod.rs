//! Output that has been computed and not yet been delivered.
//!
//! A sink's changes wait here for its writer, which runs in a task of its own: a slow or broken destination fills the
//! outbox and holds nobody up. What has not been delivered is part of the checkpoint, in *segments*: each holds what has come since
//! the checkpoint before, is written once, and is read where it lies in the checkpoint's files from then on. So
//! memory holds the output of one checkpoint interval, however long the destination is away.
//!
//! ```text
//!  segments, mapped from the checkpoint's packs              since the last checkpoint, in memory
//!  [batch batch batch batch][batch batch batch][batch]       batch batch
//!         └ the first that has not arrived
//! ```
//!
//! Small segments become larger ones, each at least twice as long as the next, so that there are few of them.
//!
//! A writer that delivers exactly once gets a batch only after the checkpoint that holds it is durable, and after
//! a crash gets it again under the same epochs, unless the destination has it.
//!
//! A checkpoint also says what the destination has at least and at most ([`Written`]), and only what it so allows is
//! written. The limit is moved on while a writer is open whose destination was found to be between the two. So a copy of a data
//! directory that finds its destination ahead, or one whose destination was set back, does not forget that by going on: it
//! is found after any number of restarts.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_core::sink::{Delivery, OnError, Refusals, Sink, SinkBatch, SinkWriter, Written};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState, crash_point};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::Error;
use crate::metrics::Counter;
use queue::{Leaving, Queue};

mod queue;
#[cfg(test)]
mod tests;

/// With more rows than this in memory, the dataflow waits for a checkpoint, which takes them to disk.
const MEMORY_ROWS_MAX: usize = 1 << 20;
/// With so many rows, what goes out between two flushes is enough.
const FLUSH_ROWS: usize = 1 << 16;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What can be seen of a sink's delivery, and when it begins and ends.
#[derive(Debug, Default)]
pub struct DeliveryStatus {
    pub rows: Counter,
    pub retries: Counter,
    pending_rows: AtomicU64,
    pending_bytes: AtomicU64,
    /// When the oldest pending row came, for its age.
    oldest: RwLock<Option<(Instant, Duration)>>,
    gathered_rows: AtomicU64,
    delivered_to: AtomicU64,
    last_error: RwLock<Option<String>>,
    phase: watch::Sender<Phase>,
    is_paused: AtomicBool,
    on_error: RwLock<OnError>,
    /// It has paused itself.
    stopped: RwLock<Option<Stopped>>,
    pub refused: Counter,
    /// Held while something leaves.
    busy: tokio::sync::Mutex<()>,
    /// Try again now, with a new writer.
    restarted: Notify,
    /// Where writers come from, if not from where the first one did, and how often that has changed.
    altered: RwLock<(u64, Option<Arc<dyn Sink>>)>,
}

/// Why nothing is delivered any more.
#[derive(Debug, Clone)]
pub struct Stopped {
    pub reason: String,
    /// Microseconds since 1970.
    pub since: i64,
}

/// For so long a pause waits for what is leaving.
const LEAVING_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Nobody knows of the sink yet, and it must not leave traces.
    #[default]
    Held,
    Delivering,
    /// Nothing is gathered any more.
    Ending,
}

impl DeliveryStatus {
    pub fn pending_rows(&self) -> u64 {
        self.pending_rows.load(Ordering::Relaxed)
    }

    /// Bytes of what waits in checkpoints.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// How long the oldest row has waited.
    pub fn pending_for(&self) -> Option<Duration> {
        let oldest = *self.oldest.read().expect("nobody panics while holding it");
        oldest.map(|(seen, age)| seen.elapsed() + age)
    }

    /// Of those that wait, what the writer has already, and gathers until it is worth a file.
    pub fn gathered_rows(&self) -> u64 {
        self.gathered_rows.load(Ordering::Relaxed)
    }

    /// The epoch up to which everything has arrived.
    pub fn delivered_to(&self) -> Epoch {
        Epoch(self.delivered_to.load(Ordering::Relaxed))
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.read().expect("nobody panics while holding it").clone()
    }

    /// Lets nothing leave from now on. What is leaving is waited for, but not for ever.
    pub(crate) async fn pause(&self) {
        self.is_paused.store(true, Ordering::Release);
        if tokio::time::timeout(LEAVING_MAX, self.busy.lock()).await.is_err() {
            tracing::warn!("a sink is paused while its destination has not answered");
        }
    }

    /// Lets nothing leave, before anything has.
    pub(crate) fn begin_paused(&self) {
        self.is_paused.store(true, Ordering::Release);
    }

    pub(crate) fn resume(&self) {
        self.is_paused.store(false, Ordering::Release);
        self.restart();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Tries again at once what waits to be tried again, with a new writer.
    pub(crate) fn restart(&self) {
        *self.stopped.write().expect("nobody panics while holding it") = None;
        self.restarted.notify_one();
    }

    /// Why it has paused itself, if it has.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.read().expect("nobody panics while holding it").clone()
    }

    fn stop(&self, error: &ConnectorError) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        let reason = told(error);
        *self.stopped.write().expect("nobody panics while holding it") = Some(Stopped { reason, since });
    }

    fn on_error(&self) -> OnError {
        *self.on_error.read().expect("nobody panics while holding it")
    }

    /// What to do about errors from now on, by a new writer.
    pub(crate) fn set_on_error(&self, on_error: OnError) {
        let before =
            std::mem::replace(&mut *self.on_error.write().expect("nobody panics while holding it"), on_error);
        if before != on_error {
            self.altered.write().expect("nobody panics while holding it").0 += 1;
            self.restart();
        }
    }

    /// Goes on with a writer of another sink, which delivers to the same place in the same way.
    pub(crate) fn alter(&self, sink: Arc<dyn Sink>) {
        let mut altered = self.altered.write().expect("nobody panics while holding it");
        *altered = (altered.0 + 1, Some(sink));
        drop(altered);
        self.restart();
    }

    fn altered(&self) -> (u64, Option<Arc<dyn Sink>>) {
        self.altered.read().expect("nobody panics while holding it").clone()
    }

    /// Lets rows leave: the sink's definition is durable.
    pub fn begin(&self) {
        self.phase.send_if_modified(|phase| {
            let is_held = *phase == Phase::Held;
            if is_held {
                *phase = Phase::Delivering;
            }
            is_held
        });
    }

    /// Lets what is gathered leave, since the server ends.
    pub fn end(&self) {
        self.phase.send_if_modified(|phase| {
            let is_delivering = *phase == Phase::Delivering;
            if is_delivering {
                *phase = Phase::Ending;
            }
            is_delivering
        });
    }

    fn failed(&self, error: &ConnectorError) {
        *self.last_error.write().expect("nobody panics while holding it") = Some(told(error));
    }

    fn succeeded(&self) {
        *self.last_error.write().expect("nobody panics while holding it") = None;
    }
}

/// An error, and what to do about it.
fn told(error: &ConnectorError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}. {hint}"),
        None => error.to_string(),
    }
}

/// The queue of one sink.
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    schema: SchemaRef,
    sink: Arc<dyn Sink>,
    refusals: Arc<dyn Refusals>,
    queue: Mutex<Queue>,
    /// Something to deliver, or a checkpoint that lets it go.
    ready: Notify,
    space: Notify,
    /// The last epoch that a writer can have written: in this life, or by what the last one was allowed.
    known: AtomicU64,
    /// Whether the next checkpoint would hold less than the last one, or allow more.
    is_stale: AtomicBool,
    status: Arc<DeliveryStatus>,
}

impl Outbox {
    /// What the sink's destination refuses goes to `refusals`.
    pub fn new(
        sink: Arc<dyn Sink>,
        schema: SchemaRef,
        refusals: impl FnOnce(Arc<DeliveryStatus>) -> Arc<dyn Refusals>,
    ) -> Outbox {
        let status = Arc::<DeliveryStatus>::default();
        let shared = Shared {
            schema,
            sink,
            refusals: refusals(status.clone()),
            queue: Mutex::new(Queue::new()),
            ready: Notify::new(),
            space: Notify::new(),
            known: AtomicU64::new(0),
            is_stale: AtomicBool::new(false),
            status,
        };
        Outbox { shared: Arc::new(shared), task: None }
    }

    pub fn status(&self) -> Arc<DeliveryStatus> {
        self.shared.status.clone()
    }

    pub fn delivery(&self) -> Delivery {
        self.shared.sink.delivery()
    }

    /// Starts the task that delivers, once [`DeliveryStatus::begin`] lets it.
    pub fn start(&mut self) {
        if self.task.is_none() {
            self.task = Some(tokio::spawn(deliver(self.shared.clone())));
        }
    }

    /// Stops to deliver, and waits until nothing is leaving any more.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Cancelled, or it had ended.
            let _ = task.await;
        }
    }

    pub fn push(&self, batch: SinkBatch) {
        let mut queue = self.shared.queue();
        self.shared.status.pending_rows.fetch_add(batch.delta.len() as u64, Ordering::Relaxed);
        queue.push(batch);
        self.shared.show(&queue);
        drop(queue);
        self.shared.ready.notify_one();
    }

    /// Says that the checkpoint that was captured last is durable, and where its blobs lie now.
    pub fn durable(&self, stored: &BTreeMap<String, Bytes>) {
        let mut queue = self.shared.queue();
        queue.durable(stored);
        drop(queue);
        self.shared.ready.notify_one();
        self.shared.space.notify_one();
    }

    /// Whether so much is in memory that the dataflow has to wait.
    pub fn is_full(&self) -> bool {
        self.shared.queue().memory_rows() > MEMORY_ROWS_MAX
    }

    /// Waits while it is full.
    pub async fn space(&self) {
        loop {
            let space = self.shared.space.notified();
            if !self.is_full() {
                return;
            }
            space.await;
        }
    }

    /// Whether a checkpoint would hold less than the last one, or allow more.
    pub fn is_stale(&self) -> bool {
        self.shared.is_stale.load(Ordering::Acquire)
    }

    /// What has not been delivered, for a checkpoint: blobs by the ends of their names.
    pub fn capture(&self) -> BTreeMap<String, Bytes> {
        // Before the look: what arrives from now on makes it stale again.
        self.shared.is_stale.store(false, Ordering::Release);
        let mut queue = self.shared.queue();
        let blobs = queue.capture();
        self.shared.show(&queue);
        blobs
    }

    /// Takes over what the checkpoint of `epoch` held: what [`capture`](Outbox::capture) gave.
    pub fn restore(&self, blobs: &BTreeMap<String, Bytes>, epoch: Epoch) -> Result<(), Error> {
        let shared = &self.shared;
        let mut queue = shared.queue();
        queue.restore(blobs, epoch)?;
        shared.status.pending_rows.store(queue.n_rows() as u64, Ordering::Relaxed);
        shared.status.delivered_to.store(queue.written.surely.0, Ordering::Relaxed);
        shared.known.store(queue.written.perhaps.0, Ordering::Release);
        shared.show(&queue);
        Ok(())
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A writer, and how many of the first batches it has that it has not made durable.
struct Opened {
    /// Of which alteration of the sink.
    n_altered: u64,
    writer: Box<dyn SinkWriter>,
    n_written: usize,
    flush_at: Option<Instant>,
}

/// Delivers for ever, with growing pauses while the destination does not take anything.
async fn deliver(shared: Arc<Shared>) {
    let mut phase = shared.status.phase.subscribe();
    let begun = phase.wait_for(|phase| *phase != Phase::Held).await;
    drop(begun.expect("the sender is in the status, which lives as long"));
    let mut backoff = BACKOFF_FIRST;
    let mut opened: Option<Opened> = None;
    loop {
        let is_ending = *phase.borrow_and_update() == Phase::Ending;
        let is_paused = shared.status.is_paused() || shared.status.stopped().is_some();
        if is_paused || !shared.has_work(opened.as_ref(), is_ending) {
            let gathering = opened.as_ref().filter(|opened| opened.n_written > 0 && !is_paused);
            let flush_at = gathering.and_then(|opened| opened.flush_at);
            let due = async {
                match flush_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.ready.notified() => (),
                () = due => (),
                changed = phase.changed() => changed.expect("the sender is in the status, which lives as long"),
                () = shared.status.restarted.notified() => {
                    opened = None;
                    shared.doubt();
                }
            }
            continue;
        }
        let busy = shared.status.busy.lock().await;
        if shared.status.is_paused() {
            continue;
        }
        // Nothing leaves by a writer of before an alteration, even if nobody has been woken by it yet.
        if opened.as_ref().is_some_and(|opened| opened.n_altered != shared.status.altered().0) {
            opened = None;
            shared.doubt();
        }
        let outcome = attempt(&shared, &mut opened, is_ending).await;
        drop(busy);
        match outcome {
            Ok(()) => backoff = BACKOFF_FIRST,
            Err(error) => {
                shared.status.retries.add(1);
                shared.status.failed(&error);
                opened = None;
                shared.doubt();
                if !error.transient && shared.status.on_error() == OnError::Pause {
                    tracing::warn!(%error, "a sink cannot be written to; it is paused");
                    shared.status.stop(&error);
                    continue;
                }
                tracing::warn!(%error, "a sink cannot be written to; it is tried again");
                backoff = tokio::select! {
                    () = tokio::time::sleep(jittered(backoff)) => (backoff * 2).min(BACKOFF_MAX),
                    () = shared.status.restarted.notified() => BACKOFF_FIRST,
                };
            }
        }
    }
}

/// Between half and one and a half of it, so that those who were turned away together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + random as f64 / u64::MAX as f64)
}

/// Opens a writer if there is none, and hands it what may leave; flushes it if that is due.
async fn attempt(
    shared: &Shared,
    opened: &mut Option<Opened>,
    is_ending: bool,
) -> Result<(), ConnectorError> {
    let opened = match opened {
        Some(opened) => opened,
        None => {
            let surely = shared.queue().written.surely;
            let perhaps = Epoch(shared.known.load(Ordering::Acquire));
            let (n_altered, altered) = shared.status.altered();
            let sink = altered.unwrap_or_else(|| shared.sink.clone());
            let mut writer = sink.open(Written { surely, perhaps }).await?;
            if shared.status.on_error() == OnError::DeadLetter {
                writer.leave_out(shared.refusals.clone());
            }
            shared.verified(writer.reached())?;
            shared.status.succeeded();
            opened.insert(Opened { writer, n_altered, n_written: 0, flush_at: None })
        }
    };
    for batch in shared.leaving(opened.n_written).map_err(unreadable)? {
        // It may have been paused while the destination did not answer.
        if shared.status.is_paused() {
            return Ok(());
        }
        let batch = batch.read(shared.schema.fields().len() + 1).map_err(unreadable)?;
        // From here on nobody knows, except for the destination.
        shared.known.fetch_max(batch.to.0, Ordering::AcqRel);
        opened.writer.write(&batch).await?;
        opened.n_written += 1;
        opened.flush_at = opened.writer.flush_at();
        shared.status.gathered_rows.fetch_add(batch.delta.len() as u64, Ordering::Relaxed);
    }
    if opened.n_written > 0 && opened.is_due(is_ending) {
        opened.writer.flush().await?;
        crash_point("sink.delivered");
        let n_rows = shared.remove(std::mem::take(&mut opened.n_written))?;
        shared.status.gathered_rows.store(0, Ordering::Relaxed);
        shared.status.rows.add(n_rows);
        shared.status.succeeded();
    }
    Ok(())
}

impl Opened {
    fn is_due(&self, is_ending: bool) -> bool {
        is_ending || self.flush_at.is_none_or(|at| at <= Instant::now())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nobody panics while holding it")
    }

    /// Shows how much waits, and since when.
    fn show(&self, queue: &Queue) {
        self.status.pending_bytes.store(queue.stored_bytes() as u64, Ordering::Relaxed);
        let oldest = queue.age().map(|age| (Instant::now(), age));
        *self.status.oldest.write().expect("nobody panics while holding it") = oldest;
    }

    fn has_work(&self, opened: Option<&Opened>, is_ending: bool) -> bool {
        // What cannot be read is work too: somebody has to say so.
        let is_something = |n_written| self.leaving(n_written).map_or(true, |leaving| !leaving.is_empty());
        match opened {
            Some(opened) => {
                is_something(opened.n_written) || (opened.n_written > 0 && opened.is_due(is_ending))
            }
            // Whether more may leave is decided once the destination has said how far it is.
            None => !self.queue().is_verified || is_something(0),
        }
    }

    /// The next batches that may leave, behind those that have.
    fn leaving(&self, n_written: usize) -> Result<Vec<Leaving>, Error> {
        self.queue().leaving(n_written, self.sink.delivery() == Delivery::AtLeastOnce)
    }

    /// Takes note that the destination is the one that was written to, and forgets what it has: it has come to `reached`.
    fn verified(&self, reached: Option<Epoch>) -> Result<(), ConnectorError> {
        let reached = reached.unwrap_or_default();
        loop {
            let first = self.queue().first().map_err(unreadable)?;
            let Some(first) = first.filter(|first| first.from < reached) else { break };
            if first.to > reached {
                let message = format!(
                    "the destination stands at epoch {reached}, within the change from {} to {}",
                    first.from, first.to
                );
                return Err(ConnectorError::fatal(SqlState::DATA_CORRUPTED, message));
            }
            self.remove(1)?;
        }
        let mut queue = self.queue();
        queue.written.surely = queue.written.surely.max(reached);
        if !queue.is_verified {
            queue.is_verified = true;
            self.is_stale.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// A destination that has failed is asked again before more may leave.
    fn doubt(&self) {
        self.queue().is_verified = false;
        self.status.gathered_rows.store(0, Ordering::Relaxed);
    }

    /// Forgets the first batches, which have arrived; gives the number of their rows.
    fn remove(&self, n_batches: usize) -> Result<usize, ConnectorError> {
        let mut queue = self.queue();
        let mut n_rows = 0;
        for _ in 0..n_batches {
            let Some(removed) = queue.pop().map_err(unreadable)? else { break };
            n_rows += removed.n_rows;
            self.status.delivered_to.store(removed.to.0, Ordering::Relaxed);
        }
        self.status.pending_rows.store(queue.n_rows() as u64, Ordering::Relaxed);
        self.show(&queue);
        drop(queue);
        if n_batches > 0 {
            self.is_stale.store(true, Ordering::Release);
            self.space.notify_one();
        }
        Ok(n_rows)
    }
}

fn unreadable(error: Error) -> ConnectorError {
    ConnectorError::fatal(
        SqlState::DATA_CORRUPTED,
        format!("what waits to be delivered cannot be read: {error}"),
    )
}
