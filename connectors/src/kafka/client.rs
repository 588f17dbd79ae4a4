//! What source and sink share: librdkafka's log, its errors, the look at a topic.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use tidemill_core::source::ConnectorError;
use tidemill_core::{SqlState, did_you_mean};

use crate::registry::VALIDATION_TIMEOUT;

/// Takes librdkafka's log, and remembers the last trouble for error messages.
#[derive(Debug, Clone, Default)]
pub struct Log {
    trouble: Arc<Mutex<Option<(KafkaError, String)>>>,
}

impl Log {
    /// What went wrong last, and why.
    fn trouble(&self) -> Option<(KafkaError, String)> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Log {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info => {
                tracing::debug!(facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Warning => {
                tracing::info!(facility, "{message}");
            }
            _ => tracing::warn!(facility, "{message}"),
        }
    }

    /// Called from within a poll of whoever uses the client.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("{error}: {reason}");
        // That all brokers are down says less than why the last one is.
        let is_summary = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_summary || trouble.is_none() {
            // "localhost:9092/bootstrap: Connect to … failed: Connection refused (after 0ms …)"
            let reason = reason.split_once(": ").map_or(reason, |(_, reason)| reason);
            let reason = reason.split_once(" (after").map_or(reason, |(reason, _)| reason);
            *trouble = Some((error, reason.to_string()));
        }
    }
}

impl ConsumerContext for Log {}

/// What any client of the cluster needs of a producer's configuration: where it is, and how to log in.
pub fn common(producer: &ClientConfig) -> ClientConfig {
    const PREFIXES: [&str; 7] =
        ["bootstrap.", "client.id", "security.", "sasl.", "ssl.", "socket.", "broker."];
    let mut client = ClientConfig::new();
    for (name, value) in producer.config_map() {
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            client.set(name, value);
        }
    }
    client
}

/// A topic of a cluster, as error messages name it.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub brokers: String,
}

impl Topic {
    pub fn new(name: &str, client: &ClientConfig) -> Topic {
        Topic {
            name: name.to_string(),
            brokers: client.get("bootstrap.servers").unwrap_or_default().to_string(),
        }
    }

    /// An error of Kafka as one of ours.
    pub fn error(&self, what: &str, error: &KafkaError) -> ConnectorError {
        use RDKafkaErrorCode::*;
        let code = error.rdkafka_error_code();
        let message = format!("cannot {what} topic \"{}\" at \"{}\": {error}", self.name, self.brokers);
        match code {
            Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition) => {
                ConnectorError::transient(SqlState::UNDEFINED_TABLE, message)
                    .with_hint("Does the topic exist, and has it that many partitions?")
            }
            Some(
                Authentication
                | SaslAuthenticationFailed
                | TopicAuthorizationFailed
                | GroupAuthorizationFailed
                | ClusterAuthorizationFailed,
            ) => ConnectorError::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
                "Look at properties.security.protocol, properties.sasl.* and the broker's access lists.",
            ),
            Some(MessageSizeTooLarge | InvalidMessage | InvalidRecord) => {
                ConnectorError::fatal(SqlState::DATA_EXCEPTION, message)
            }
            _ => ConnectorError::transient(SqlState::CONNECTION_FAILURE, message),
        }
    }

    /// The error of brokers that do not answer.
    pub fn unreachable(&self, error: &KafkaError, log: &Log) -> ConnectorError {
        let (error, reason) = log.trouble().unwrap_or((error.clone(), error.to_string()));
        let authentication = [RDKafkaErrorCode::Authentication, RDKafkaErrorCode::SaslAuthenticationFailed];
        let is_refused = error.rdkafka_error_code().is_some_and(|code| authentication.contains(&code));
        if is_refused {
            let message = format!("the broker at \"{}\" refuses the login: {reason}", self.brokers);
            return ConnectorError::fatal(SqlState::INVALID_AUTHORIZATION, message)
                .with_hint("Look at properties.security.protocol and properties.sasl.*.");
        }
        let message = format!("no broker answers at \"{}\": {reason}", self.brokers);
        ConnectorError::transient(SqlState::CONNECTION_FAILURE, message).with_hint(
            "Look at properties.bootstrap.server, and whether the broker can be reached from this machine.",
        )
    }
}

/// A client that only asks questions. It blocks.
pub struct Inquiry {
    pub consumer: BaseConsumer<Log>,
    pub topic: Topic,
    deadline: Instant,
    log: Log,
}

impl Inquiry {
    /// Asks for ten seconds in all.
    pub fn new(client: &ClientConfig, topic: &Topic) -> Result<Inquiry, ConnectorError> {
        let log = Log::default();
        let mut client = client.clone();
        // Without a group no coordinator is looked for.
        client.remove("group.id");
        let consumer =
            client.create_with_context(log.clone()).map_err(|error| topic.error("look up", &error))?;
        // Less than the limit by which the caller gives up.
        let deadline = Instant::now() + VALIDATION_TIMEOUT - Duration::from_millis(500);
        Ok(Inquiry { consumer, topic: topic.clone(), deadline, log })
    }

    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// The numbers of the topic's partitions.
    pub fn partitions(&self) -> Result<Vec<i32>, ConnectorError> {
        let metadata = self.metadata(Some(&self.topic.name))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == self.topic.name);
        let Some(found) = found else {
            return Err(self.missing());
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => (),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Err(self.missing());
            }
            Some(code) => {
                return Err(self.topic.error("look up", &KafkaError::MetadataFetch(code)));
            }
        }
        if found.partitions().is_empty() {
            return Err(self.missing());
        }
        Ok(found.partitions().iter().map(|partition| partition.id()).collect())
    }

    /// Asks in short intervals: where connections are refused, there is no use in waiting on.
    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, ConnectorError> {
        const INTERVAL: Duration = Duration::from_millis(1500);
        for n_asked in 1.. {
            let timeout = self.time_left().min(INTERVAL);
            let error = match self.consumer.client().fetch_metadata(topic, timeout) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            // Has the log told what librdkafka has noticed meanwhile.
            while self.consumer.poll(Duration::ZERO).is_some() {}
            let is_hopeless = n_asked >= 2 && self.log.trouble().is_some();
            if is_hopeless || self.time_left() < INTERVAL {
                return Err(self.topic.unreachable(&error, &self.log));
            }
        }
        unreachable!("the time left runs out")
    }

    fn missing(&self) -> ConnectorError {
        let Topic { name, brokers } = &self.topic;
        let message = format!("topic \"{name}\" does not exist at \"{brokers}\"");
        let error = ConnectorError::fatal(SqlState::UNDEFINED_TABLE, message);
        let all = self.metadata(None);
        let names: Vec<String> =
            all.iter().flat_map(|all| all.topics()).map(|topic| topic.name().to_string()).collect();
        let create = format!("kafka-topics.sh --bootstrap-server {brokers} --create --topic {name}");
        match did_you_mean(name, names.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\". To create it: {create}")),
            None => error.with_hint(format!("To create it: {create}")),
        }
    }
}
