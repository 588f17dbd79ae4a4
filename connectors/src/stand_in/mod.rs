//! What stands in for the outside in tests of pipelines: rows are given instead of read, changes are kept instead of
//! sent.
//!
//! A source or sink is declared as it will be deployed, and its own connector judges its options; but nobody is connected to.
//! [`StandIns`] outlive the servers of a test, as Kafka would: a reader that is opened again goes on behind
//! what it had read.
//!
//! A server that starts anew finds all that was read hidden, and is [shown](StandIns::show) it again in the pieces in which it
//! was read first: a row that was late once, because of what had come before it, is late again.

mod sink;
mod source;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use tidemill_core::Epoch;
use tidemill_core::sink::{Delivery, Sink, SinkBatch};
use tidemill_core::source::{ConnectorError, Source};
use tokio::sync::Notify;

use self::sink::StandInSink;
use self::source::{Given, StandInSource};
pub use self::source::{GivenRecord, GivenRows};
use crate::spec::{SinkSpec, SourceSpec};

/// All that stands in for something, by the object's identity.
#[derive(Debug, Default)]
pub struct StandIns {
    state: Mutex<State>,
    /// There is more to read.
    news: Notify,
    /// A reader has come to the end of what there is.
    read: Notify,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<u32, Given>,
    sinks: BTreeMap<u32, Kept>,
    /// How many partitions sources have, by name; others have one.
    partitions: BTreeMap<String, u32>,
    /// Of the reading that goes on: what is read in one round comes in one epoch.
    round: u64,
    /// Up to which round what was read is shown; everything, if nothing is hidden.
    shown: Option<u64>,
    /// How many readers there have been.
    n_readers: u64,
}

/// What a sink has sent.
#[derive(Debug)]
struct Kept {
    batches: Vec<SinkBatch>,
    reached: Epoch,
    delivery: Delivery,
}

/// What can be asked of a source.
#[derive(Debug, Clone)]
pub struct GivenSource {
    /// The columns of its records.
    pub schema: SchemaRef,
    /// Whether rows can be taken back.
    pub takes_deletes: bool,
}

impl StandIns {
    /// Sources of these names have so many partitions.
    pub fn new(partitions: BTreeMap<String, u32>) -> Arc<StandIns> {
        Arc::new(StandIns {
            state: Mutex::new(State { partitions, round: 1, ..State::default() }),
            ..StandIns::default()
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves half done is a test's, which fails by it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A source that reads what it is given.
    pub fn source(
        self: &Arc<Self>,
        id: u32,
        spec: &SourceSpec<'_>,
    ) -> Result<Arc<dyn Source>, ConnectorError> {
        let declared = crate::create_source(spec)?;
        let mut state = self.state();
        let n_splits = state.partitions.get(spec.name).copied().unwrap_or(1);
        match state.sources.get_mut(&id) {
            Some(given) => given.declare(spec),
            None => {
                let given = Given::new(spec, n_splits, declared.is_bounded());
                state.sources.insert(id, given);
            }
        }
        Ok(Arc::new(StandInSource { stand_ins: self.clone(), id, is_bounded: declared.is_bounded() }))
    }

    /// A sink that keeps what it is to send.
    pub fn sink(self: &Arc<Self>, id: u32, spec: &SinkSpec<'_>) -> Result<Arc<dyn Sink>, ConnectorError> {
        let delivery = crate::create_sink(spec)?.delivery();
        let kept = Kept { batches: Vec::new(), reached: Epoch::ZERO, delivery };
        self.state().sinks.entry(id).or_insert(kept);
        Ok(Arc::new(StandInSink { stand_ins: self.clone(), id, delivery }))
    }

    /// All that a sink has sent until now.
    pub fn sent(&self, id: u32) -> Vec<SinkBatch> {
        self.state().sinks.get(&id).map(|kept| kept.batches.clone()).unwrap_or_default()
    }

    /// Whether a sink sends what it has at once, and waits for no checkpoint.
    pub fn sends_at_once(&self, id: u32) -> bool {
        self.state().sinks.get(&id).is_some_and(|kept| kept.delivery == Delivery::AtLeastOnce)
    }

    /// Whether a source has no more rows, and its readers may know.
    pub fn has_ended(&self, id: u32) -> bool {
        let state = self.state();
        state.sources.get(&id).is_some_and(|given| given.has_ended(state.shown))
    }

    /// Hides what was read, for a server that starts anew, and what was not.
    pub fn hide(&self) {
        let mut state = self.state();
        state.shown = Some(0);
        state.sources.values_mut().for_each(Given::forget_readers);
    }

    /// Shows what was read in the next round; false, and all there is, once there is no such.
    pub fn show(&self) -> bool {
        let mut state = self.state();
        let Some(shown) = state.shown else { return false };
        let rounds = state.sources.values().flat_map(Given::rounds);
        state.shown = rounds.filter(|round| *round > shown).min();
        let is_more = state.shown.is_some();
        drop(state);
        self.news.notify_waiters();
        is_more
    }

    /// Waits until the readers of these sources have read all that is shown; that ends a round.
    pub async fn read(&self, sources: &[u32]) {
        loop {
            let read = self.read.notified();
            tokio::pin!(read);
            read.as_mut().enable();
            {
                let mut state = self.state();
                let given = sources.iter().filter_map(|id| state.sources.get(id));
                if given.into_iter().all(|given| given.is_read(state.shown)) {
                    state.round += 1;
                    return;
                }
            }
            read.await;
        }
    }
}
