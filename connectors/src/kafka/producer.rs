//! Messages on their way to a topic.
//!
//! The producer is idempotent: what it retries by itself arrives once and in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tidemill_core::source::ConnectorError;
use tokio::sync::Notify;

use crate::kafka::client::{Log, Topic};

/// A message to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// librdkafka's producer. Dropping the last of its clones waits for threads.
pub type Producer = ThreadedProducer<Deliveries>;

/// A producer, and what became of its messages.
pub struct Outlet {
    topic: Topic,
    producer: Producer,
    deliveries: Deliveries,
}

/// Counts messages that are on their way; shared by the producer's threads and the writer.
#[derive(Clone, Default)]
pub struct Deliveries(Arc<Counts>);

#[derive(Default)]
struct Counts {
    log: Log,
    n_pending: AtomicU64,
    arrived: Notify,
    failure: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.log.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.clone());
        }
        if self.0.n_pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.arrived.notify_waiters();
        }
    }
}

impl Outlet {
    pub fn new(topic: &Topic, client: &ClientConfig) -> Result<Outlet, ConnectorError> {
        let deliveries = Deliveries::default();
        let producer = client.create_with_context(deliveries.clone());
        let producer = producer.map_err(|error| topic.error("write to", &error))?;
        Ok(Outlet { topic: topic.clone(), producer, deliveries })
    }

    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// What librdkafka had to say.
    pub fn log(&self) -> &Log {
        &self.deliveries.0.log
    }

    /// Hands all messages to librdkafka, waiting for space in its queue. Where some may be left out, gives those that are too
    /// large, by their places.
    pub async fn send_all(
        &self,
        messages: &[Outgoing],
        leave_out: bool,
    ) -> Result<Vec<(usize, ConnectorError)>, ConnectorError> {
        self.check()?;
        let mut refused = Vec::new();
        for (place, message) in messages.iter().enumerate() {
            loop {
                match self.send(message) {
                    Ok(true) => break,
                    Ok(false) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) if leave_out && is_too_large(&error) => {
                        refused.push((place, self.topic.error("write to", &error)));
                        break;
                    }
                    Err(error) => return Err(self.topic.error("write to", &error)),
                }
                self.check()?;
            }
        }
        Ok(refused)
    }

    /// Waits until every message has arrived or failed, which takes `message.timeout.ms` at most.
    pub async fn all_arrived(&self) -> Result<(), ConnectorError> {
        loop {
            let arrived = self.deliveries.0.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.deliveries.0.n_pending.load(Ordering::Acquire) == 0 {
                return self.check();
            }
            arrived.await;
        }
    }

    fn check(&self) -> Result<(), ConnectorError> {
        let mut failure = self.deliveries.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.take() {
            Some(error) => Err(self.topic.error("write to", &error)),
            None => Ok(()),
        }
    }

    /// Hands a message to librdkafka; false if its queue is full.
    fn send(&self, message: &Outgoing) -> Result<bool, KafkaError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic.name);
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        if let Some(value) = &message.value {
            record = record.payload(value);
        }
        self.deliveries.0.n_pending.fetch_add(1, Ordering::AcqRel);
        let Err((error, _)) = self.producer.send(record) else {
            return Ok(true);
        };
        self.deliveries.0.n_pending.fetch_sub(1, Ordering::AcqRel);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Ok(false),
            _ => Err(error),
        }
    }
}

/// Larger than `message.max.bytes`.
fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}
