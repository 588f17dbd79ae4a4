//! Exactly once: rows and how far they go, in one transaction.
//!
//! The epoch stands in the destination as an *offset*: a consumer group that is the sink's own commits the
//! last epoch of a transaction for partition 0 of the topic, within that transaction. So rows and epoch
//! become visible together or not at all, without a topic of ours, and the broker keeps the last one only.
//!
//! The `transactional.id` is the sink's, for ever. `init_transactions` with it ends whatever a writer before
//! this one has left open, and shuts that writer out, should it still live. Then the group's offset is final, and
//! says what is left to be written. So after any error, known or unknown outcome, there is one thing to do: give the
//! producer up, and open another.
//!
//! ```text
//!  begin   rows…   send_offsets(epoch)   commit      begin   rows…   ✗
//!  ├────────────── visible together ─────────┤       ├── aborted by the next init_transactions
//! ```
//!
//! Two servers on copies of one data directory take turns at that, but do no harm: what both have to write is
//! the same. As soon as one of them has written more, the other finds an epoch that it does not know, before it
//! takes over, and leaves the destination alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use tidemill_core::sink::{Refusals, SinkBatch, SinkWriter, Written, check_reached};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState, crash_point};
use tokio::task::JoinHandle;

use crate::kafka::client::{self, Log, Topic};
use crate::kafka::producer::{Outlet, Producer};
use crate::kafka::sink::KafkaSink;

/// How long a question to the coordinator of transactions may take. It is asked again.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asked for by a person who waits, and by a writer that has not begun.
const LOOK_TIMEOUT: Duration = Duration::from_secs(8);

/// Between two questions to a cluster that is not ready.
const SETTLING: Duration = Duration::from_millis(200);

/// Whoever reads committed messages waits for the end of a transaction, so one that is given up is ended.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The epochs of one sink, at the destination.
#[derive(Debug, Clone)]
pub struct Epochs {
    topic: Topic,
    /// A consumer's, of the sink's group.
    client: ClientConfig,
}

/// Which offset of the group counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// The last that was committed, although a transaction may be about to change it.
    Now,
    /// The one that is there when no transaction is open any more.
    Settled,
}

impl Epochs {
    pub fn new(topic: &Topic, producer: &ClientConfig, group: &str) -> Epochs {
        let mut client = client::common(producer);
        client.set("group.id", group).set("enable.auto.commit", "false");
        Epochs { topic: topic.clone(), client }
    }

    /// The epoch that the destination has, if it has one; and what transactions name the group by. It blocks.
    fn look(
        &self,
        view: View,
        timeout: Duration,
    ) -> Result<(Option<Epoch>, ConsumerGroupMetadata), ConnectorError> {
        let what = "look up the epoch of";
        let log = Log::default();
        let mut client = self.client.clone();
        // What librdkafka makes of it for offsets: whether to wait for those that are not decided yet.
        client.set(
            "isolation.level",
            if view == View::Settled { "read_committed" } else { "read_uncommitted" },
        );
        let consumer: BaseConsumer<Log> =
            client.create_with_context(log.clone()).map_err(|error| self.topic.error(what, &error))?;
        let failed = |error: KafkaError| {
            // Has the log told what librdkafka has noticed meanwhile.
            while consumer.poll(Duration::ZERO).is_some() {}
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure) => {
                    self.topic.unreachable(&error, &log)
                }
                _ => judge(&self.topic, what, &error),
            }
        };
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic.name, 0);
        let deadline = Instant::now() + timeout;
        let found = loop {
            let time_left = deadline.saturating_duration_since(Instant::now());
            match consumer.committed_offsets(asked.clone(), time_left) {
                Err(error) if is_settling(&error) && !time_left.is_zero() => std::thread::sleep(SETTLING),
                answer => break answer.map_err(failed)?,
            }
        };
        let found = found.find_partition(&self.topic.name, 0).expect("what was asked for is answered");
        found.error().map_err(failed)?;
        let epoch = match found.offset() {
            Offset::Offset(epoch) => Some(Epoch(epoch as u64)),
            _ => None,
        };
        let group = consumer.group_metadata().expect("the consumer has a group");
        Ok((epoch, group))
    }
}

/// Whether the cluster has yet to agree on who keeps the group, as after a restart, or before the first group.
fn is_settling(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let settling = [CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator];
    error.rdkafka_error_code().is_some_and(|code| settling.contains(&code))
}

/// Writes transactions.
pub struct TransactionWriter {
    sink: KafkaSink,
    /// `None` only while being dropped.
    outlet: Option<Outlet>,
    group: Arc<ConsumerGroupMetadata>,
    reached: Epoch,
    /// The last epoch in the open transaction.
    open_to: Option<Epoch>,
    refusals: Option<Arc<dyn Refusals>>,
    /// The commit that is under way.
    commit: Option<JoinHandle<Result<(), KafkaError>>>,
}

impl TransactionWriter {
    /// Takes the sink's transactions over from whoever wrote before.
    pub async fn open(
        sink: &KafkaSink,
        epochs: &Epochs,
        written: Written,
    ) -> Result<TransactionWriter, ConnectorError> {
        let (sink, epochs) = (sink.clone(), epochs.clone());
        let topic = sink.topic.clone();
        blocking(&topic, move || {
            let destination = format!("topic \"{}\" at \"{}\"", sink.topic.name, sink.topic.brokers);
            let (reached, _) = epochs.look(View::Now, LOOK_TIMEOUT)?;
            check_reached(&destination, reached, written)?;
            let outlet = take_over(&sink, TIMEOUT)?;
            let (reached, group) = epochs.look(View::Settled, TIMEOUT)?;
            check_reached(&destination, reached, written)?;
            Ok(TransactionWriter {
                sink,
                outlet: Some(outlet),
                group: Arc::new(group),
                reached: reached.unwrap_or_default(),
                open_to: None,
                refusals: None,
                commit: None,
            })
        })
        .await
    }

    fn outlet(&self) -> &Outlet {
        self.outlet.as_ref().expect("the writer is not being dropped")
    }
}

/// Whether the broker does transactions and lets us use them.
pub async fn validate(sink: &KafkaSink, epochs: &Epochs) -> Result<(), ConnectorError> {
    let (sink, epochs) = (sink.clone(), epochs.clone());
    let topic = sink.topic.clone();
    blocking(&topic, move || {
        epochs.look(View::Now, LOOK_TIMEOUT)?;
        take_over(&sink, LOOK_TIMEOUT).map(drop)
    })
    .await
}

/// A producer that is the only one of the sink. It blocks.
fn take_over(sink: &KafkaSink, timeout: Duration) -> Result<Outlet, ConnectorError> {
    let outlet = Outlet::new(&sink.topic, &sink.client)?;
    match outlet.producer().init_transactions(timeout) {
        Ok(()) => Ok(outlet),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => {
            Err(sink.topic.unreachable(&error, outlet.log()))
        }
        Err(error) => Err(judge(&sink.topic, "take over the transactions of", &error)),
    }
}

fn commit(
    producer: &Producer,
    topic: &Topic,
    group: &ConsumerGroupMetadata,
    to: Epoch,
) -> Result<(), KafkaError> {
    let mut epoch = TopicPartitionList::new();
    epoch.add_partition_offset(&topic.name, 0, Offset::Offset(to.0 as i64))?;
    producer.send_offsets_to_transaction(&epoch, group, TIMEOUT)?;
    crash_point("kafka.produced");
    producer.commit_transaction(TIMEOUT)?;
    crash_point("kafka.committed");
    Ok(())
}

/// An error of transactions as one of ours.
fn judge(topic: &Topic, what: &str, error: &KafkaError) -> ConnectorError {
    use RDKafkaErrorCode::*;
    let Topic { name, brokers } = topic;
    let message = format!("cannot {what} topic \"{name}\" at \"{brokers}\": {error}");
    match error.rdkafka_error_code() {
        // The same word of the broker for both.
        Some(Fenced | ProducerFenced | InvalidProducerEpoch) => {
            ConnectorError::transient(SqlState::OBJECT_IN_USE, message).with_hint(
                "Another server writes for this sink, or the transaction took longer than \
                 properties.transaction.timeout.ms. It is aborted and written again.",
            )
        }
        Some(TransactionalIdAuthorizationFailed | GroupAuthorizationFailed) => ConnectorError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            message,
        )
        .with_hint(
            "The user needs the rights to write the transactional id and to read the group, both of which \
                 begin with \"tidemill-\"; or use delivery = 'at_least_once'.",
        ),
        Some(UnsupportedFeature | UnsupportedVersion) => {
            ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("The broker does not do transactions. Use delivery = 'at_least_once'.")
        }
        Some(InvalidTransactionTimeout) => ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
            .with_hint(
                "properties.transaction.timeout.ms is longer than the broker's transaction.max.timeout.ms.",
            ),
        _ => topic.error(what, error),
    }
}

/// Runs what waits for the broker.
async fn blocking<T: Send + 'static>(
    topic: &Topic,
    work: impl FnOnce() -> Result<T, ConnectorError> + Send + 'static,
) -> Result<T, ConnectorError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let message = format!("a transaction of topic \"{}\" broke off: {error}", topic.name);
        ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
    })?
}

#[async_trait]
impl SinkWriter for TransactionWriter {
    fn reached(&self) -> Option<Epoch> {
        Some(self.reached)
    }

    fn leave_out(&mut self, refusals: Arc<dyn Refusals>) {
        self.refusals = Some(refusals);
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        if self.open_to.is_none() {
            let begun = self.outlet().producer().begin_transaction();
            begun.map_err(|error| judge(&self.sink.topic, "begin a transaction for", &error))?;
        }
        self.open_to = Some(batch.to);
        self.sink.send(self.outlet(), batch, self.refusals.as_deref()).await
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        let Some(to) = self.open_to else { return Ok(()) };
        self.outlet().all_arrived().await?;
        let producer = self.outlet().producer().clone();
        let (topic, group) = (self.sink.topic.clone(), self.group.clone());
        let handle = self.commit.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || commit(&producer, &topic, &group, to))
        });
        let outcome = handle.await;
        self.commit = None;
        match outcome {
            Ok(Ok(())) => {
                self.open_to = None;
                Ok(())
            }
            Ok(Err(error)) => Err(judge(&self.sink.topic, "commit a transaction to", &error)),
            Err(error) => {
                let message =
                    format!("a transaction of topic \"{}\" broke off: {error}", self.sink.topic.name);
                Err(ConnectorError::fatal(SqlState::INTERNAL_ERROR, message))
            }
        }
    }
}

impl Drop for TransactionWriter {
    fn drop(&mut self) {
        let (outlet, is_open) = (self.outlet.take(), self.open_to.is_some());
        // Waits for the broker and for the producer's threads.
        std::thread::spawn(move || {
            let Some(outlet) = outlet else { return };
            if is_open && let Err(error) = outlet.producer().abort_transaction(ABORT_TIMEOUT) {
                tracing::debug!(%error, "a transaction is left for the next writer to abort");
            }
        });
    }
}
