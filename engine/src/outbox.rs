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

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Delta, Epoch, SqlState};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::Error;
use crate::ipc::{decode_batch, encode_batch};
use crate::metrics::Counter;

/// With more rows than this in memory, the dataflow waits for a checkpoint, which takes them to disk.
const MEMORY_ROWS_MAX: usize = 1 << 20;
/// With so many rows, what goes out between two flushes is enough.
const FLUSH_ROWS: usize = 1 << 16;
/// A segment that is so long does not become longer.
const SEGMENT_BYTES: usize = 64 << 20;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What can be seen of a sink's delivery.
#[derive(Debug, Default)]
pub struct DeliveryStatus {
    pub rows: Counter,
    pub retries: Counter,
    pending_rows: AtomicU64,
    pending_bytes: AtomicU64,
    pending_since: RwLock<Option<Instant>>,
    delivered_to: AtomicU64,
    last_error: RwLock<Option<String>>,
}

impl DeliveryStatus {
    pub fn pending_rows(&self) -> u64 {
        self.pending_rows.load(Ordering::Relaxed)
    }

    /// Bytes of what waits in checkpoints.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// How long the oldest row has waited; in this life of the server.
    pub fn pending_for(&self) -> Option<Duration> {
        let since = *self.pending_since.read().expect("nobody panics while holding it");
        since.map(|since| since.elapsed())
    }

    /// The epoch up to which everything has arrived.
    pub fn delivered_to(&self) -> Epoch {
        Epoch(self.delivered_to.load(Ordering::Relaxed))
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.read().expect("nobody panics while holding it").clone()
    }
}

/// The queue of one sink.
#[derive(Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    schema: SchemaRef,
    sink: Arc<dyn Sink>,
    queue: Mutex<Queue>,
    /// Something to deliver, or a checkpoint that lets it go.
    ready: Notify,
    space: Notify,
    /// The epoch of the last checkpoint that is durable.
    durable: AtomicU64,
    /// The last epoch that a writer can have written: in this life, or before the checkpoint of the last.
    known: AtomicU64,
    /// Whether something has arrived that the last checkpoint still holds.
    is_stale: AtomicBool,
    status: Arc<DeliveryStatus>,
}

/// What is pending, oldest first.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Where the first of them are stored.
    segments: VecDeque<Segment>,
    next_segment: u64,
    /// Of the entries that are in memory.
    memory_rows: usize,
}

/// A batch, in memory or in a segment or both.
#[derive(Debug)]
struct Entry {
    from: Epoch,
    to: Epoch,
    n_rows: usize,
    since: Instant,
    delta: Option<Delta>,
    /// Its place in its segment, if it is in one.
    range: Range<usize>,
}

/// Batches, one behind the other.
#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: Bytes,
    /// How many of its batches have not arrived. They are its last ones.
    n_entries: usize,
}

/// A batch that may leave.
#[derive(Debug)]
enum Leaving {
    Memory(SinkBatch),
    Stored { from: Epoch, to: Epoch, bytes: Bytes },
}

impl Queue {
    /// Puts what has come since the last time into a segment.
    fn store(&mut self) {
        let n_stored: usize = self.segments.iter().map(|segment| segment.n_entries).sum();
        let mut bytes = Vec::new();
        let n_entries = self.entries.len() - n_stored;
        for entry in self.entries.range_mut(n_stored..) {
            let delta = entry.delta.as_ref().expect("what is not stored is in memory");
            let ipc = encode_batch(delta.batch());
            let begin = bytes.len();
            for number in [entry.from.0, entry.to.0, entry.n_rows as u64, ipc.len() as u64] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(ipc);
            entry.range = begin..bytes.len();
        }
        if n_entries > 0 {
            self.segments.push_back(Segment { number: self.next_segment, bytes: bytes.into(), n_entries });
            self.next_segment += 1;
        }
        while self.merge_last() {}
    }

    /// Makes one of the last two segments, unless the first of them is much longer.
    fn merge_last(&mut self) -> bool {
        let n = self.segments.len();
        let Some([first, second]) = n.checked_sub(2).map(|at| [&self.segments[at], &self.segments[at + 1]])
        else {
            return false;
        };
        let (n_first, n_second) = (first.bytes.len(), second.bytes.len());
        if n_first >= 2 * n_second || n_first + n_second > SEGMENT_BYTES {
            return false;
        }
        let second = self.segments.pop_back().expect("there are two");
        let n_stored: usize = self.segments.iter().map(|segment| segment.n_entries).sum();
        for entry in self.entries.range_mut(n_stored..n_stored + second.n_entries) {
            entry.range = entry.range.start + n_first..entry.range.end + n_first;
        }
        let first = self.segments.back_mut().expect("there are two");
        first.bytes = [&first.bytes[..], &second.bytes[..]].concat().into();
        first.n_entries += second.n_entries;
        true
    }

    /// Lets go of what is in memory and in a segment, but for what goes out next.
    fn relieve(&mut self) {
        let n_stored: usize = self.segments.iter().map(|segment| segment.n_entries).sum();
        let mut n_rows = 0;
        for entry in self.entries.range_mut(..n_stored) {
            n_rows += entry.n_rows;
            if n_rows > FLUSH_ROWS && entry.delta.take().is_some() {
                self.memory_rows -= entry.n_rows;
            }
        }
    }

    /// Takes the first batch away.
    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if entry.delta.is_some() {
            self.memory_rows -= entry.n_rows;
        }
        if let Some(segment) = self.segments.front_mut() {
            segment.n_entries -= 1;
            if segment.n_entries == 0 {
                self.segments.pop_front();
            }
        }
        Some(entry)
    }

    /// Bytes of the first segment whose batches have arrived.
    fn n_passed(&self) -> usize {
        match (self.segments.front(), self.entries.front()) {
            (Some(_), Some(first)) => first.range.start,
            _ => 0,
        }
    }

    fn stored_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes.len()).sum::<usize>() - self.n_passed()
    }
}

impl Outbox {
    pub fn new(sink: Arc<dyn Sink>, schema: SchemaRef) -> Outbox {
        let shared = Shared {
            schema,
            sink,
            queue: Mutex::default(),
            ready: Notify::new(),
            space: Notify::new(),
            durable: AtomicU64::new(0),
            known: AtomicU64::new(0),
            is_stale: AtomicBool::new(false),
            status: Arc::default(),
        };
        Outbox { shared: Arc::new(shared), task: None }
    }

    pub fn status(&self) -> Arc<DeliveryStatus> {
        self.shared.status.clone()
    }

    pub fn delivery(&self) -> Delivery {
        self.shared.sink.delivery()
    }

    /// Starts to deliver.
    pub fn start(&mut self) {
        if self.task.is_none() {
            self.task = Some(tokio::spawn(deliver(self.shared.clone())));
        }
    }

    pub fn push(&self, batch: SinkBatch) {
        let SinkBatch { from, to, delta } = batch;
        let n_rows = delta.len();
        let mut queue = self.shared.queue();
        queue.memory_rows += n_rows;
        queue.entries.push_back(Entry {
            from,
            to,
            n_rows,
            since: Instant::now(),
            delta: Some(delta),
            range: 0..0,
        });
        self.shared.status.pending_rows.fetch_add(n_rows as u64, Ordering::Relaxed);
        self.shared.show(&queue);
        drop(queue);
        self.shared.ready.notify_one();
    }

    /// Says that a checkpoint at `epoch` is durable, and where its blobs lie now.
    pub fn durable(&self, epoch: Epoch, stored: &BTreeMap<String, Bytes>) {
        let mut queue = self.shared.queue();
        for segment in &mut queue.segments {
            // One that has become longer since is another.
            if let Some(bytes) =
                stored.get(&segment_name(segment.number)).filter(|b| b.len() == segment.bytes.len())
            {
                segment.bytes = bytes.clone();
            }
        }
        queue.relieve();
        drop(queue);
        self.shared.durable.store(epoch.0, Ordering::Release);
        self.shared.ready.notify_one();
        self.shared.space.notify_one();
    }

    /// Whether so much is in memory that the dataflow has to wait.
    pub fn is_full(&self) -> bool {
        self.shared.queue().memory_rows > MEMORY_ROWS_MAX
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

    /// Whether a checkpoint would hold less than the last one.
    pub fn is_stale(&self) -> bool {
        self.shared.is_stale.load(Ordering::Acquire)
    }

    /// What has not been delivered, for a checkpoint: blobs by the ends of their names.
    pub fn capture(&self) -> BTreeMap<String, Bytes> {
        // Before the look: what arrives from now on makes it stale again.
        self.shared.is_stale.store(false, Ordering::Release);
        let mut queue = self.shared.queue();
        queue.store();
        self.shared.show(&queue);
        let segments = queue.segments.iter();
        let mut blobs: BTreeMap<String, Bytes> =
            segments.map(|segment| (segment_name(segment.number), segment.bytes.clone())).collect();
        blobs.insert(String::new(), (queue.n_passed() as u64).to_le_bytes().to_vec().into());
        blobs
    }

    /// Takes over what the checkpoint of `epoch` held: what [`capture`](Outbox::capture) gave.
    pub fn restore(&self, blobs: &BTreeMap<String, Bytes>, epoch: Epoch) -> Result<(), Error> {
        let head = blobs.get("").ok_or_else(damaged)?;
        match <[u8; 8]>::try_from(&head[..]) {
            Ok(n_passed) => self.restore_segments(blobs, u64::from_le_bytes(n_passed) as usize)?,
            // Earlier checkpoints hold all batches there.
            Err(_) => {
                for (from, to, _, range) in batches_of(head, false)? {
                    let delta = Delta::new(decode_batch(&head[range])?);
                    self.push(SinkBatch { from, to, delta });
                }
            }
        }
        self.shared.known.store(epoch.0, Ordering::Release);
        self.durable(epoch, &BTreeMap::new());
        Ok(())
    }

    fn restore_segments(&self, blobs: &BTreeMap<String, Bytes>, n_passed: usize) -> Result<(), Error> {
        let mut queue = self.shared.queue();
        let mut n_pending = 0;
        for (name, bytes) in blobs.iter().filter(|(name, _)| !name.is_empty()) {
            let number = name.trim_start_matches('/').parse().map_err(|_| damaged())?;
            let n_passed = if queue.segments.is_empty() { n_passed } else { 0 };
            let mut n_entries = 0;
            for (from, to, n_rows, range) in batches_of(bytes, true)? {
                let range = range.start - HEADER_BYTES..range.end;
                if range.start < n_passed {
                    continue;
                }
                queue.entries.push_back(Entry {
                    from,
                    to,
                    n_rows,
                    since: Instant::now(),
                    delta: None,
                    range,
                });
                n_entries += 1;
                n_pending += n_rows;
            }
            queue.segments.push_back(Segment { number, bytes: bytes.clone(), n_entries });
            queue.next_segment = number + 1;
        }
        self.shared.status.pending_rows.fetch_add(n_pending as u64, Ordering::Relaxed);
        self.shared.show(&queue);
        Ok(())
    }
}

/// From, to, the number of rows, the number of bytes that follow.
const HEADER_BYTES: usize = 32;

type Found = (Epoch, Epoch, usize, Range<usize>);

/// The batches that stand one behind the other; the range is that of the rows.
fn batches_of(bytes: &[u8], has_n_rows: bool) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let mut number = || -> Result<u64, Error> {
            let (number, _) = bytes[at..].split_first_chunk::<8>().ok_or_else(damaged)?;
            at += 8;
            Ok(u64::from_le_bytes(*number))
        };
        let (from, to) = (Epoch(number()?), Epoch(number()?));
        let n_rows = if has_n_rows { number()? as usize } else { 0 };
        let n_bytes = number()? as usize;
        let end = at.checked_add(n_bytes).filter(|end| *end <= bytes.len()).ok_or_else(damaged)?;
        found.push((from, to, n_rows, at..end));
        at = end;
    }
    Ok(found)
}

fn segment_name(number: u64) -> String {
    format!("/{number:020}")
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn damaged() -> Error {
    tidemill_storage::Error::Damaged { path: "outbox".into(), reason: "it is cut off".into() }.into()
}

/// Delivers for ever, with growing pauses while the destination does not take anything.
async fn deliver(shared: Arc<Shared>) {
    let mut backoff = BACKOFF_FIRST;
    let mut writer: Option<Box<dyn SinkWriter>> = None;
    loop {
        if shared.leaving().is_empty() {
            shared.ready.notified().await;
            continue;
        }
        match attempt(&shared, &mut writer).await {
            Ok(()) => backoff = BACKOFF_FIRST,
            Err(error) => {
                shared.status.retries.add(1);
                *shared.status.last_error.write().expect("nobody panics while holding it") =
                    Some(error.to_string());
                tracing::warn!(%error, "a sink cannot be written to; it is tried again");
                writer = None;
                tokio::time::sleep(jittered(backoff)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Between half and one and a half of it, so that those who were turned away together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + random as f64 / u64::MAX as f64)
}

/// Opens a writer if there is none, and delivers what may leave.
async fn attempt(shared: &Shared, writer: &mut Option<Box<dyn SinkWriter>>) -> Result<(), ConnectorError> {
    let writer = match writer {
        Some(writer) => writer,
        None => {
            let known = Epoch(shared.known.load(Ordering::Acquire));
            let opened = shared.sink.open(known).await?;
            shared.arrived_before(opened.reached())?;
            writer.insert(opened)
        }
    };
    let leaving = shared.leaving();
    let n_batches = leaving.len();
    for batch in leaving {
        let batch = shared.read(batch)?;
        // From here on nobody knows, except for the destination.
        shared.known.fetch_max(batch.to.0, Ordering::AcqRel);
        writer.write(&batch).await?;
    }
    writer.flush().await?;
    let n_rows = shared.remove(n_batches);
    shared.status.rows.add(n_rows);
    *shared.status.last_error.write().expect("nobody panics while holding it") = None;
    Ok(())
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nobody panics while holding it")
    }

    /// Shows how much waits, and since when.
    fn show(&self, queue: &Queue) {
        self.status.pending_bytes.store(queue.stored_bytes() as u64, Ordering::Relaxed);
        *self.status.pending_since.write().expect("nobody panics while holding it") =
            queue.entries.front().map(|entry| entry.since);
    }

    /// The next batches that may leave.
    fn leaving(&self) -> Vec<Leaving> {
        let queue = self.queue();
        let durable = Epoch(self.durable.load(Ordering::Acquire));
        let mut places =
            queue.segments.iter().flat_map(|segment| std::iter::repeat_n(segment, segment.n_entries));
        let (mut leaving, mut n_rows) = (Vec::new(), 0);
        for entry in &queue.entries {
            let may_leave = self.sink.delivery() == Delivery::AtLeastOnce || entry.to <= durable;
            if !may_leave || n_rows >= FLUSH_ROWS {
                break;
            }
            n_rows += entry.n_rows;
            let (from, to) = (entry.from, entry.to);
            let segment = places.next();
            leaving.push(match (&entry.delta, segment) {
                (Some(delta), _) => Leaving::Memory(SinkBatch { from, to, delta: delta.clone() }),
                (None, Some(segment)) => {
                    let rows = entry.range.start + HEADER_BYTES..entry.range.end;
                    Leaving::Stored { from, to, bytes: segment.bytes.slice(rows) }
                }
                (None, None) => unreachable!("what is not in memory is in a segment"),
            });
        }
        leaving
    }

    fn read(&self, batch: Leaving) -> Result<SinkBatch, ConnectorError> {
        let (from, to, bytes) = match batch {
            Leaving::Memory(batch) => return Ok(batch),
            Leaving::Stored { from, to, bytes } => (from, to, bytes),
        };
        let decoded = decode_batch(&bytes).map_err(|error| {
            let message = format!("what waits for epoch {to} cannot be read: {error}");
            ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
        })?;
        assert_eq!(decoded.num_columns(), self.schema.fields().len() + 1, "a sink keeps its columns");
        Ok(SinkBatch { from, to, delta: Delta::new(decoded) })
    }

    /// Forgets what a destination has that has come to `reached`.
    fn arrived_before(&self, reached: Epoch) -> Result<(), ConnectorError> {
        let n_batches = {
            let queue = self.queue();
            if let Some(torn) = queue.entries.iter().find(|entry| entry.from < reached && reached < entry.to)
            {
                let message = format!(
                    "the destination stands at epoch {reached}, within the change from {} to {}",
                    torn.from, torn.to
                );
                return Err(ConnectorError::fatal(SqlState::DATA_CORRUPTED, message));
            }
            queue.entries.iter().take_while(|entry| entry.to <= reached).count()
        };
        self.remove(n_batches);
        Ok(())
    }

    /// Forgets the first batches, which have arrived; gives the number of their rows.
    fn remove(&self, n_batches: usize) -> usize {
        let mut queue = self.queue();
        let removed: Vec<Entry> = (0..n_batches).filter_map(|_| queue.pop()).collect();
        let Some(last) = removed.last() else { return 0 };
        let n_rows: usize = removed.iter().map(|entry| entry.n_rows).sum();
        self.status.delivered_to.store(last.to.0, Ordering::Relaxed);
        self.status.pending_rows.fetch_sub(n_rows as u64, Ordering::Relaxed);
        self.show(&queue);
        drop(queue);
        self.is_stale.store(true, Ordering::Release);
        self.space.notify_one();
        n_rows
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use async_trait::async_trait;
    use tidemill_core::sink::check_reached;

    use super::*;

    /// A destination that remembers rows and epoch, and can be made to lose the answer to a write.
    #[derive(Debug, Default)]
    struct Destination {
        state: Mutex<(Vec<i64>, Epoch)>,
        loses_answers: AtomicU64,
    }

    #[derive(Debug, Clone)]
    struct Remembering(Arc<Destination>);

    struct Writer {
        destination: Arc<Destination>,
        reached: Epoch,
        unwritten: Vec<SinkBatch>,
    }

    #[async_trait]
    impl Sink for Remembering {
        fn delivery(&self) -> Delivery {
            Delivery::ExactlyOnce
        }

        async fn open(&self, known: Epoch) -> Result<Box<dyn SinkWriter>, ConnectorError> {
            let reached = self.0.state.lock().unwrap().1;
            check_reached("it", reached, known)?;
            Ok(Box::new(Writer { destination: self.0.clone(), reached, unwritten: Vec::new() }))
        }
    }

    #[async_trait]
    impl SinkWriter for Writer {
        fn reached(&self) -> Epoch {
            self.reached
        }

        async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
            self.unwritten.push(batch.clone());
            Ok(())
        }

        async fn flush(&mut self) -> Result<(), ConnectorError> {
            let mut state = self.destination.state.lock().unwrap();
            for batch in self.unwritten.drain(..) {
                state.0.extend(batch.delta.batch().column(0).as_primitive::<Int64Type>().values());
                state.1 = batch.to;
            }
            let is_lost = self.destination.loses_answers.load(Ordering::Relaxed) > 0;
            if is_lost {
                self.destination.loses_answers.fetch_sub(1, Ordering::Relaxed);
                return Err(ConnectorError::transient(SqlState::CONNECTION_FAILURE, "no answer"));
            }
            Ok(())
        }
    }

    fn batch(from: u64, to: u64, rows: &[i64]) -> SinkBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let rows: Arc<dyn Array> = Arc::new(Int64Array::from(rows.to_vec()));
        let rows = RecordBatch::try_new(schema, vec![rows]).unwrap();
        SinkBatch { from: Epoch(from), to: Epoch(to), delta: Delta::inserts(&rows) }
    }

    fn outbox(destination: &Arc<Destination>) -> Outbox {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        Outbox::new(Arc::new(Remembering(destination.clone())), schema)
    }

    fn rows(destination: &Destination) -> Vec<i64> {
        destination.state.lock().unwrap().0.clone()
    }

    /// Lets the outbox deliver until nothing that may leave is left.
    async fn settle(outbox: &Outbox) {
        while !outbox.shared.leaving().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_retried(outbox: &Outbox) {
        while outbox.status().retries.get() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn only_what_a_checkpoint_holds_leaves() {
        let destination = Arc::default();
        let mut outbox = outbox(&destination);
        outbox.start();
        outbox.push(batch(0, 3, &[1]));
        outbox.push(batch(3, 5, &[2]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(rows(&destination), Vec::<i64>::new());
        assert!(!outbox.is_stale());
        outbox.durable(Epoch(4), &BTreeMap::new());
        settle(&outbox).await;
        assert_eq!(rows(&destination), [1]);
        assert!(outbox.is_stale(), "the checkpoint holds what has arrived");
        outbox.capture();
        assert!(!outbox.is_stale());
        assert_eq!(outbox.status().pending_rows(), 1);
    }

    #[tokio::test]
    async fn a_lost_answer_doubles_nothing() {
        let destination =
            Arc::new(Destination { loses_answers: AtomicU64::new(3), ..Destination::default() });
        let mut outbox = outbox(&destination);
        outbox.start();
        for to in 1..6 {
            outbox.push(batch(to - 1, to, &[to as i64]));
            outbox.durable(Epoch(to), &BTreeMap::new());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        settle(&outbox).await;
        assert_eq!(rows(&destination), [1, 2, 3, 4, 5]);
        assert_eq!(outbox.status().retries.get(), 3);
        assert_eq!(outbox.status().last_error(), None);
    }

    #[tokio::test]
    async fn after_a_crash_the_destination_says_what_is_left() {
        let destination = Arc::default();
        let mut first = outbox(&destination);
        first.push(batch(0, 3, &[1]));
        first.push(batch(3, 5, &[2]));
        first.push(batch(7, 8, &[3]));
        let checkpoint = first.capture();
        // It has delivered two of them when it is killed.
        first.start();
        first.durable(Epoch(5), &BTreeMap::new());
        settle(&first).await;
        drop(first);
        let mut second = outbox(&destination);
        second.restore(&checkpoint, Epoch(8)).unwrap();
        second.start();
        settle(&second).await;
        assert_eq!(rows(&destination), [1, 2, 3]);
    }

    #[tokio::test]
    async fn an_old_copy_writes_nothing() {
        let destination =
            Arc::new(Destination { state: Mutex::new((vec![1, 2], Epoch(9))), ..Destination::default() });
        let old = outbox(&destination);
        old.push(batch(3, 5, &[2]));
        let checkpoint = old.capture();
        let mut old = outbox(&destination);
        old.restore(&checkpoint, Epoch(6)).unwrap();
        old.start();
        until_retried(&old).await;
        assert_eq!(rows(&destination), [1, 2]);
        let error = old.status().last_error().expect("it says why");
        assert!(
            error.contains("it has this sink's epoch 9, but this server wrote no more than 6"),
            "{error}"
        );
        // Within a change that it would have to tear apart.
        let mut torn = outbox(&destination);
        torn.restore(&checkpoint, Epoch(9)).unwrap();
        torn.push(batch(8, 12, &[7]));
        torn.durable(Epoch(12), &BTreeMap::new());
        torn.start();
        until_retried(&torn).await;
        assert_eq!(rows(&destination), [1, 2]);
        assert!(
            torn.status()
                .last_error()
                .expect("it says why")
                .contains("stands at epoch 9, within the change from 8 to 12")
        );
    }

    /// What waits while the destination is away is in few segments, and not in memory.
    #[tokio::test]
    async fn a_long_queue_lies_in_checkpoints() {
        let destination = Arc::default();
        let first = outbox(&destination);
        let mut written = BTreeMap::new();
        for to in 1..=200u64 {
            let rows: Vec<i64> = (0..1000).map(|n| to as i64 * 1000 + n).collect();
            first.push(batch(to - 1, to, &rows));
            written = first.capture();
            // As a store would give them back.
            let stored =
                written.iter().map(|(name, bytes)| (name.clone(), Bytes::copy_from_slice(bytes))).collect();
            first.durable(Epoch(to), &stored);
        }
        assert!(written.len() < 20, "{} blobs", written.len());
        let memory_rows = first.shared.queue().memory_rows;
        assert!(memory_rows <= FLUSH_ROWS, "{memory_rows} rows in memory");
        assert_eq!(first.status().pending_rows(), 200_000);
        assert!(first.status().pending_bytes() > 200_000 * 8);
        assert!(first.status().pending_for().is_some());

        // A few of them arrive, then it is killed.
        first.shared.remove(3);
        let mut second = outbox(&destination);
        second.restore(&first.capture(), Epoch(200)).unwrap();
        assert_eq!(second.status().pending_rows(), 197_000);
        assert_eq!(second.shared.queue().memory_rows, 0);
        second.start();
        settle(&second).await;
        assert_eq!(rows(&destination), (4000..201_000).collect::<Vec<i64>>());
        assert_eq!(second.status().pending_bytes(), 0);
        assert_eq!(second.status().pending_for(), None);
    }

    #[tokio::test]
    async fn an_earlier_build_s_checkpoint_is_read() {
        let mut bytes = Vec::new();
        for batch in [batch(0, 3, &[1, 2]), batch(3, 4, &[3])] {
            let ipc = encode_batch(batch.delta.batch());
            for number in [batch.from.0, batch.to.0, ipc.len() as u64] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(ipc);
        }
        for (bytes, expected) in [(Bytes::from(bytes), vec![1, 2, 3]), (Bytes::new(), vec![])] {
            let destination = Arc::default();
            let mut outbox = outbox(&destination);
            outbox.restore(&BTreeMap::from([(String::new(), bytes)]), Epoch(4)).unwrap();
            outbox.start();
            settle(&outbox).await;
            assert_eq!(rows(&destination), expected);
        }
        let cut = Bytes::from_static(&[1; 30]);
        assert!(outbox(&Arc::default()).restore(&BTreeMap::from([(String::new(), cut)]), Epoch(4)).is_err());
    }
}
