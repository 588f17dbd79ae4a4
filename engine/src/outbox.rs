//! Output that has been computed and not yet been delivered.
//!
//! A sink's changes wait here for its writer, which runs in a task of its own: a slow or broken
//! destination fills the outbox, and only a full outbox slows the dataflow down. What has not been delivered is
//! part of the checkpoint. A writer that delivers exactly once gets a batch only after the
//! checkpoint that holds it is durable, and after a crash gets it again under the same epochs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Delta, Epoch};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::Error;
use crate::ipc::{decode_batch, encode_batch};
use crate::metrics::Counter;

/// With more rows than this undelivered, the dataflow waits.
const PENDING_ROWS_MAX: usize = 1 << 20;
/// How many batches go out between two flushes at most.
const FLUSH_BATCHES: usize = 64;
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
    durable: AtomicU64,
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

    /// Waits while too much is undelivered.
    pub async fn space(&self) {
        while self.shared.status.pending_rows() as usize > PENDING_ROWS_MAX {
            let space = self.shared.space.notified();
            if self.shared.status.pending_rows() as usize <= PENDING_ROWS_MAX {
                return;
            }
            space.await;
        }
    }

    /// What has not been delivered, for a checkpoint.
    pub fn capture(&self) -> Bytes {
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

    /// Takes over what a checkpoint held.
    pub fn restore(&self, bytes: &Bytes) -> Result<(), Error> {
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
            self.durable(to);
        }
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
        let batches = shared.deliverable();
        if batches.is_empty() {
            shared.ready.notified().await;
            continue;
        }
        match attempt(&shared, &mut writer, &batches).await {
            Ok(()) => {
                shared.delivered(&batches);
                backoff = BACKOFF_FIRST;
            }
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

async fn attempt(
    shared: &Shared,
    writer: &mut Option<Box<dyn SinkWriter>>,
    batches: &[SinkBatch],
) -> Result<(), ConnectorError> {
    let writer = match writer {
        Some(writer) => writer,
        None => writer.insert(shared.sink.open().await?),
    };
    for batch in batches {
        writer.write(batch).await?;
    }
    writer.flush().await
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
        pending.iter().take_while(may_leave).take(FLUSH_BATCHES).cloned().collect()
    }

    fn delivered(&self, batches: &[SinkBatch]) {
        let n_rows: usize = batches.iter().map(|batch| batch.delta.len()).sum();
        let mut pending = self.pending.lock().expect("nobody panics while holding it");
        pending.drain(..batches.len());
        drop(pending);
        self.status.rows.add(n_rows);
        self.status.pending_rows.fetch_sub(n_rows as u64, Ordering::Relaxed);
        if let Some(last) = batches.last() {
            self.status.delivered_to.store(last.to.0, Ordering::Relaxed);
        }
        *self.status.last_error.write().expect("nobody panics while holding it") = None;
        self.space.notify_one();
    }
}
