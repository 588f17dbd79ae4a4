//! Output that has been computed and not yet been delivered.
//!
//! A sink's changes wait here for its writer, which runs in a task of its own: a slow or broken
//! destination fills the outbox, and only a full outbox slows the dataflow down. What has not been delivered is
//! part of the checkpoint. A writer that delivers exactly once gets a batch only after the
//! checkpoint that holds it is durable, and after a crash gets it again under the same epochs,
//! unless the destination has it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

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

/// With more rows than this undelivered, the dataflow waits.
const PENDING_ROWS_MAX: usize = 1 << 20;
/// With so many rows, what goes out between two flushes is enough.
const FLUSH_ROWS: usize = 1 << 16;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What can be seen of a sink's delivery.
#[derive(Debug, Default)]
pub struct DeliveryStatus {
    pub rows: Counter,
    pub retries: Counter,
    pending_rows: AtomicU64,
    delivered_to: AtomicU64,
    last_error: RwLock<Option<String>>,
}

impl DeliveryStatus {
    pub fn pending_rows(&self) -> u64 {
        self.pending_rows.load(Ordering::Relaxed)
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
    pending: Mutex<VecDeque<SinkBatch>>,
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

impl Outbox {
    pub fn new(sink: Arc<dyn Sink>, schema: SchemaRef) -> Outbox {
        let shared = Shared {
            schema,
            sink,
            pending: Mutex::default(),
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
        self.shared.status.pending_rows.fetch_add(batch.delta.len() as u64, Ordering::Relaxed);
        self.shared.pending.lock().expect("nobody panics while holding it").push_back(batch);
        self.shared.ready.notify_one();
    }

    /// Says that a checkpoint at `epoch` is durable.
    pub fn durable(&self, epoch: Epoch) {
        self.shared.durable.store(epoch.0, Ordering::Release);
        self.shared.ready.notify_one();
    }

    /// Whether so much is undelivered that the dataflow has to wait.
    pub fn is_full(&self) -> bool {
        self.shared.status.pending_rows() as usize > PENDING_ROWS_MAX
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

    /// What has not been delivered, for a checkpoint.
    pub fn capture(&self) -> Bytes {
        // Before the look: what arrives from now on makes it stale again.
        self.shared.is_stale.store(false, Ordering::Release);
        let pending = self.shared.pending.lock().expect("nobody panics while holding it");
        let mut bytes = Vec::new();
        for batch in pending.iter() {
            let ipc = encode_batch(batch.delta.batch());
            for number in [batch.from.0, batch.to.0, ipc.len() as u64] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(ipc);
        }
        bytes.into()
    }

    /// Takes over what the checkpoint of `epoch` held.
    pub fn restore(&self, bytes: &Bytes, epoch: Epoch) -> Result<(), Error> {
        let mut rest = &bytes[..];
        let number = |rest: &mut &[u8]| -> Result<u64, Error> {
            let (number, after) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            *rest = after;
            Ok(u64::from_le_bytes(*number))
        };
        while !rest.is_empty() {
            let from = Epoch(number(&mut rest)?);
            let to = Epoch(number(&mut rest)?);
            let n_bytes = number(&mut rest)? as usize;
            let (ipc, after) = rest.split_at_checked(n_bytes).ok_or_else(damaged)?;
            rest = after;
            let delta = Delta::new(decode_batch(ipc)?);
            assert_eq!(
                delta.batch().num_columns(),
                self.shared.schema.fields().len() + 1,
                "a sink keeps its columns"
            );
            self.push(SinkBatch { from, to, delta });
        }
        self.shared.known.store(epoch.0, Ordering::Release);
        self.durable(epoch);
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

fn damaged() -> Error {
    tidemill_storage::Error::Damaged { path: "outbox".into(), reason: "it is cut off".into() }.into()
}

/// Delivers for ever, with growing pauses while the destination does not take anything.
async fn deliver(shared: Arc<Shared>) {
    let mut backoff = BACKOFF_FIRST;
    let mut writer: Option<Box<dyn SinkWriter>> = None;
    loop {
        if shared.deliverable().is_empty() {
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
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
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
    let batches = shared.deliverable();
    for batch in &batches {
        // From here on nobody knows, except for the destination.
        shared.known.fetch_max(batch.to.0, Ordering::AcqRel);
        writer.write(batch).await?;
    }
    writer.flush().await?;
    let n_rows = shared.remove(batches.len());
    shared.status.rows.add(n_rows);
    *shared.status.last_error.write().expect("nobody panics while holding it") = None;
    Ok(())
}

impl Shared {
    /// The next batches that may leave.
    fn deliverable(&self) -> Vec<SinkBatch> {
        let pending = self.pending.lock().expect("nobody panics while holding it");
        let durable = Epoch(self.durable.load(Ordering::Acquire));
        let may_leave = |batch: &&SinkBatch| match self.sink.delivery() {
            Delivery::AtLeastOnce => true,
            Delivery::ExactlyOnce => batch.to <= durable,
        };
        let mut n_rows = 0;
        let is_room = |batch: &&SinkBatch| {
            let is_room = n_rows < FLUSH_ROWS;
            n_rows += batch.delta.len();
            is_room
        };
        pending.iter().take_while(may_leave).take_while(is_room).cloned().collect()
    }

    /// Forgets what a destination has that has come to `reached`.
    fn arrived_before(&self, reached: Epoch) -> Result<(), ConnectorError> {
        let n_batches = {
            let pending = self.pending.lock().expect("nobody panics while holding it");
            if let Some(torn) = pending.iter().find(|batch| batch.from < reached && reached < batch.to) {
                let (from, to) = (torn.from, torn.to);
                let message = format!(
                    "the destination stands at epoch {reached}, within the change from {from} to {to}"
                );
                return Err(ConnectorError::fatal(SqlState::DATA_CORRUPTED, message));
            }
            pending.iter().take_while(|batch| batch.to <= reached).count()
        };
        self.remove(n_batches);
        Ok(())
    }

    /// Forgets the first batches, which have arrived; gives the number of their rows.
    fn remove(&self, n_batches: usize) -> usize {
        let mut pending = self.pending.lock().expect("nobody panics while holding it");
        let removed: Vec<SinkBatch> = pending.drain(..n_batches).collect();
        drop(pending);
        let Some(last) = removed.last() else { return 0 };
        let n_rows: usize = removed.iter().map(|batch| batch.delta.len()).sum();
        self.status.delivered_to.store(last.to.0, Ordering::Relaxed);
        self.status.pending_rows.fetch_sub(n_rows as u64, Ordering::Relaxed);
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
        while !outbox.shared.deliverable().is_empty() {
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
        outbox.durable(Epoch(4));
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
            outbox.durable(Epoch(to));
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
        first.durable(Epoch(5));
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
        torn.durable(Epoch(12));
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
}
