//! Partitions as splits.
//!
//! A reader has a consumer of its own, which is assigned one partition at an offset. It takes
//! part in no group's rebalancing and commits nothing: where to go on is the engine's knowledge.
//!
//! `until` may lie behind the last record that there is, where transactions left their markers or
//! compaction took records away. So it counts as reached when a record behind it is seen, or when
//! the broker says that the partition has no more: it was there once, hence the end is behind it.
//! That answer must be younger than the question. One that librdkafka had at hand may be older
//! than the records before `until`, so the first is not believed but asked for again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedMessage};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidemill_core::SqlState;
use tidemill_core::source::{
    BadRecord, ConnectorError, Offset, Source, SourceBatch, Split, SplitId, SplitReader,
};
use tokio::sync::Notify;

use crate::formats::records::{Header, Record, Records};
use crate::formats::{Decoder, avro, include};
use crate::kafka::client::{Inquiry, Log, Topic};
use crate::kafka::config::{self, KafkaSourceConfig, Startup};
use crate::options::Options;
use crate::registry::ConnectorSource;
use crate::spec::{Encode, SourceSpec};

/// What can be overridden.
const DEFAULTS: [(&str, &str); 5] = [
    ("isolation.level", "read_committed"),
    ("client.id", "tidemill"),
    // Per partition: the engine has buffers of its own.
    ("queued.max.messages.kbytes", "16384"),
    // With the default of a second, a full queue is emptied long before it is filled again:
    // measured on one partition, 0.15 million rows a second instead of 1.4.
    ("fetch.queue.backoff.ms", "5"),
    ("log.connection.close", "false"),
];

/// What this reader relies on.
const MUSTS: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    // An offset that is gone is an error, never a silent jump.
    ("auto.offset.reset", "error"),
    ("allow.auto.create.topics", "false"),
];

/// A batch ends when it has this many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// Messages are announced; this is for events that are not.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A topic to read.
#[derive(Debug)]
pub struct KafkaSource {
    config: KafkaSourceConfig,
    startup_offsets: BTreeMap<i32, i64>,
    client: ClientConfig,
    topic: Topic,
    decoder: Decoder,
    /// Where the partitions begin that have been found.
    starts: Arc<Mutex<Option<BTreeMap<i32, i64>>>>,
    /// Whether the schema registry, if there is one, has answered. It is asked once, that a mistake shows early.
    registry_answered: AtomicBool,
}

impl KafkaSource {
    pub fn new(spec: &SourceSpec<'_>) -> Result<KafkaSource, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        let config = KafkaSourceConfig::take(&mut options)?;
        let group = format!("tidemill-{}", spec.name);
        let mut defaults = DEFAULTS.to_vec();
        defaults.push(("group.id", &group));
        let bootstrap =
            [&config.bootstrap_server, &config.bootstrap_servers, &config.brokers].map(Option::as_ref);
        let client = config::client(&mut options, bootstrap, &defaults, &MUSTS)?;
        options.finish()?;
        let need = |given: bool, mode: Startup, name: &str| {
            if given == (config.startup == mode) {
                return Ok(());
            }
            let message =
                format!("option \"{name}\" of connector \"kafka\" goes with one scan.startup.mode only");
            let mode = format!("{mode:?}").to_lowercase();
            Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint(format!("Use scan.startup.mode = '{mode}' together with {name}.")))
        };
        need(config.startup_millis.is_some(), Startup::Timestamp, "scan.startup.timestamp.millis")?;
        need(config.startup_offsets.is_some(), Startup::Offsets, "scan.startup.offsets")?;
        let startup_offsets = match &config.startup_offsets {
            Some(offsets) => config::parse_offsets(offsets)?,
            None => BTreeMap::new(),
        };
        if config.batch_rows == 0 || config.batch_rows > 1 << 16 {
            let message = "option \"batch_rows\" of connector \"kafka\" must be between 1 and 65536";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message));
        }
        spec.check_include(&["key", "offset", "partition", "timestamp", "header"])?;
        include::check_types(spec)?;
        let encode = match spec.encode {
            Encode::Native => Encode::Json,
            Encode::Parquet => {
                let message = "connector \"kafka\" cannot read ENCODE PARQUET";
                return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                    .with_hint("Use ENCODE JSON, CSV, AVRO or BYTES."));
            }
            encode => encode,
        };
        if encode == Encode::Csv && spec.encode_options.contains_key("header") {
            let message =
                "ENCODE CSV of connector \"kafka\" has no option \"header\": a message is one record";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint("Columns are matched by position."));
        }
        let topic = Topic::new(&config.topic, &client);
        let decoder = Decoder::new(spec, encode)?;
        Ok(KafkaSource {
            config,
            startup_offsets,
            client,
            topic,
            decoder,
            starts: Arc::default(),
            registry_answered: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn splits(&self) -> Result<Vec<Split>, ConnectorError> {
        let search = Search {
            client: self.client.clone(),
            topic: self.topic.clone(),
            startup: self.config.startup,
            millis: self.config.startup_millis.unwrap_or_default(),
            offsets: self.startup_offsets.clone(),
            starts: self.starts.clone(),
        };
        let starts = tokio::task::spawn_blocking(move || search.run()).await.map_err(|error| {
            let message = format!("looking up topic \"{}\" broke off: {error}", self.topic.name);
            ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
        })??;
        if !self.registry_answered.load(Ordering::Relaxed) {
            self.decoder.check_registry(&subject(&self.topic.name)).await?;
            self.registry_answered.store(true, Ordering::Relaxed);
        }
        let split = |(partition, start): (i32, i64)| Split {
            id: SplitId(partition.to_string().into()),
            start: Offset::from(start as u64),
        };
        Ok(starts.into_iter().map(split).collect())
    }

    fn is_bounded(&self) -> bool {
        false
    }

    fn n_records(&self, _: &SplitId, from: &Offset, to: &Offset) -> Option<u64> {
        Some(number(to).ok()?.saturating_sub(number(from).ok()?) as u64)
    }

    async fn open(&self, split: &SplitId, from: &Offset) -> Result<Box<dyn SplitReader>, ConnectorError> {
        let partition: i32 = split.0.parse().map_err(|_| {
            let message = format!("\"{split}\" is not a partition of topic \"{}\"", self.topic.name);
            ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
        })?;
        let position = number(from)?;
        let failed = |error: KafkaError| self.topic.error("read", &error);
        let log = Log::default();
        let mut consumer: BaseConsumer<Log> = self.client.create_with_context(log.clone()).map_err(failed)?;
        let arrived = Arc::new(Notify::new());
        let announce = arrived.clone();
        consumer.set_nonempty_callback(move || announce.notify_one());
        let reader = KafkaReader {
            consumer: Some(consumer),
            log,
            arrived,
            topic: self.topic.clone(),
            partition,
            decoder: self.decoder.clone(),
            n_rows_max: self.config.batch_rows as usize,
            position,
            ahead: None,
            at_end: false,
            asked_for: None,
            failure: None,
            messages: Messages::default(),
            is_undecoded: false,
        };
        reader.assign()?;
        Ok(Box::new(reader))
    }
}

impl ConnectorSource for KafkaSource {}

/// Under which schema registries have a topic's values, unless told otherwise.
pub(super) fn subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// The columns that the schema of an Avro topic has.
pub(super) async fn columns(spec: &SourceSpec<'_>) -> Result<Option<SchemaRef>, ConnectorError> {
    if spec.encode != Encode::Avro {
        return Ok(None);
    }
    let Some(topic) = spec.options.get("topic") else {
        return Err(Options::new(spec.owner(), spec.options).missing("topic"));
    };
    avro::source_columns(spec, &subject(topic)).await.map(Some)
}

fn number(offset: &Offset) -> Result<i64, ConnectorError> {
    offset.0.parse().map_err(|_| {
        let message = format!("\"{offset}\" is not an offset of connector \"kafka\"");
        ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
    })
}

/// Looks for partitions and where they begin. It blocks.
struct Search {
    client: ClientConfig,
    topic: Topic,
    startup: Startup,
    millis: i64,
    offsets: BTreeMap<i32, i64>,
    starts: Arc<Mutex<Option<BTreeMap<i32, i64>>>>,
}

impl Search {
    fn run(&self) -> Result<BTreeMap<i32, i64>, ConnectorError> {
        let inquiry = Inquiry::new(&self.client, &self.topic)?;
        let partitions = inquiry.partitions()?;
        let known = self.starts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unknown_offset = self.offsets.keys().find(|partition| !partitions.contains(partition));
        if let Some(partition) = unknown_offset {
            let message = format!("topic \"{}\" has no partition {partition}", self.topic.name);
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint(format!("scan.startup.offsets may name 0 to {}.", partitions.len() - 1)));
        }
        let mut starts = BTreeMap::new();
        for partition in partitions {
            let start = match &known {
                Some(known) if known.contains_key(&partition) => known[&partition],
                // Whatever is in a partition that has just appeared came after the source.
                Some(_) => self.bounds(&inquiry, partition)?.0,
                None => self.start(&inquiry, partition)?,
            };
            starts.insert(partition, start);
        }
        *self.starts.lock().unwrap_or_else(PoisonError::into_inner) = Some(starts.clone());
        Ok(starts)
    }

    fn start(&self, inquiry: &Inquiry, partition: i32) -> Result<i64, ConnectorError> {
        match self.startup {
            Startup::Earliest => Ok(self.bounds(inquiry, partition)?.0),
            Startup::Latest => Ok(self.bounds(inquiry, partition)?.1),
            Startup::Offsets => match self.offsets.get(&partition) {
                Some(offset) => Ok(*offset),
                None => Ok(self.bounds(inquiry, partition)?.0),
            },
            Startup::Timestamp => {
                let failed = |error: KafkaError| self.topic.error("look up", &error);
                let mut times = TopicPartitionList::new();
                let time = KafkaOffset::Offset(self.millis);
                times.add_partition_offset(&self.topic.name, partition, time).map_err(failed)?;
                let found = inquiry.consumer.offsets_for_times(times, inquiry.time_left()).map_err(failed)?;
                let found = found.find_partition(&self.topic.name, partition).map(|element| element.offset());
                match found {
                    Some(KafkaOffset::Offset(offset)) => Ok(offset),
                    // All records are older.
                    _ => Ok(self.bounds(inquiry, partition)?.1),
                }
            }
        }
    }

    /// The first offset and the one behind the last.
    fn bounds(&self, inquiry: &Inquiry, partition: i32) -> Result<(i64, i64), ConnectorError> {
        let bounds = inquiry.consumer.fetch_watermarks(&self.topic.name, partition, inquiry.time_left());
        bounds.map_err(|error| self.topic.error("look up", &error))
    }
}

/// Reads one partition.
struct KafkaReader {
    /// `None` only while being dropped.
    consumer: Option<BaseConsumer<Log>>,
    log: Log,
    arrived: Arc<Notify>,
    topic: Topic,
    partition: i32,
    decoder: Decoder,
    n_rows_max: usize,
    /// The offset behind the last record that was handed over.
    position: i64,
    /// A record that came when `until` was reached.
    ahead: Option<OwnedMessage>,
    /// Whether the broker had no more, behind the records that were handed over.
    at_end: bool,
    /// The `until` for which the broker was asked anew whether there is more.
    asked_for: Option<i64>,
    /// What went wrong behind the records that were handed over.
    failure: Option<ConnectorError>,
    messages: Messages,
    /// Whether the messages were taken but not handed over: their schemas could not be had.
    is_undecoded: bool,
}

/// Messages copied out of librdkafka's memory.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    records: Vec<Record>,
    headers: Vec<Header>,
}

impl Messages {
    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.headers.clear();
    }

    fn records(&self, partition: i32) -> Records<'_> {
        Records {
            bytes: &self.bytes,
            records: &self.records,
            headers: &self.headers,
            partition: Some(partition),
            file: None,
        }
    }

    fn push(&mut self, message: &impl Message) {
        let mut copy = |part: &[u8]| {
            let begin = self.bytes.len();
            self.bytes.extend_from_slice(part);
            begin..self.bytes.len()
        };
        let key = message.key().map(&mut copy);
        let value = message.payload().map(&mut copy);
        let first_header = self.headers.len();
        if let Some(headers) = message.headers() {
            for header in headers.iter() {
                let name = copy(header.key.as_bytes());
                self.headers.push(Header { name, value: header.value.map(&mut copy) });
            }
        }
        self.records.push(Record {
            key,
            value,
            offset: message.offset(),
            timestamp_millis: message.timestamp().to_millis(),
            headers: first_header..self.headers.len(),
        });
    }
}

impl KafkaReader {
    /// Has the consumer begin at the position, with an empty queue.
    fn assign(&self) -> Result<(), ConnectorError> {
        let consumer = self.consumer.as_ref().expect("the reader is not being dropped");
        let mut assignment = TopicPartitionList::new();
        let begin = KafkaOffset::Offset(self.position);
        let assigned = assignment
            .add_partition_offset(&self.topic.name, self.partition, begin)
            .and_then(|()| consumer.assign(&assignment));
        assigned.map_err(|error| self.topic.error("read", &error))
    }

    /// Takes what is at hand, up to `until`; whether something behind it was seen.
    fn collect(&mut self, until: Option<i64>) -> bool {
        self.messages.clear();
        let is_behind = |offset: i64| until.is_some_and(|until| offset >= until);
        match self.ahead.take() {
            Some(message) if is_behind(message.offset()) => {
                self.ahead = Some(message);
                return true;
            }
            Some(message) => self.messages.push(&message),
            None => (),
        }
        let consumer = self.consumer.as_ref().expect("the reader is not being dropped");
        while self.messages.records.len() < self.n_rows_max && self.messages.bytes.len() < BATCH_BYTES {
            match consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    self.at_end = false;
                    if is_behind(message.offset()) {
                        self.ahead = Some(BorrowedMessage::detach(&message));
                        return true;
                    }
                    self.messages.push(&message);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.at_end = true,
                Some(Err(error)) => {
                    if let Some(error) = self.judge(&error) {
                        self.failure = Some(error);
                        break;
                    }
                }
            }
        }
        false
    }

    /// What does not pass by itself.
    fn judge(&self, error: &KafkaError) -> Option<ConnectorError> {
        let Topic { name, brokers } = &self.topic;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let message = format!(
                    "offset {} of partition {} of topic \"{name}\" at \"{brokers}\" does not exist any more",
                    self.position, self.partition
                );
                let hint = "The topic's retention removed it before it was read, or the topic was created anew. \
                            To go on without it, create the source again.";
                Some(ConnectorError::fatal(SqlState::NOT_IN_PREREQUISITE_STATE, message).with_hint(hint))
            }
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication) => {
                Some(self.topic.unreachable(error, &self.log))
            }
            // librdkafka connects again; when no broker is left it says so.
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut,
            ) => {
                tracing::warn!(topic = name, partition = self.partition, "{error}");
                None
            }
            _ => Some(self.topic.error("read", error)),
        }
    }

    /// Goes back to messages that were taken but not handed over.
    fn take_again(&mut self) -> Result<(), ConnectorError> {
        self.ahead = None;
        self.failure = None;
        self.at_end = false;
        self.assign()?;
        self.is_undecoded = false;
        Ok(())
    }

    fn decode(&mut self) -> SourceBatch {
        let records = self.messages.records(self.partition);
        let (changes, bad) = self.decoder.decode(&records);
        let bad = bad.into_iter().map(|(idx, fault)| BadRecord {
            offset: Offset::from(records.records[idx].offset as u64),
            raw: records.raw(idx).to_vec(),
            sqlstate: fault.sqlstate,
            reason: fault.reason,
        });
        let bad = bad.collect();
        let last = self.messages.records.last().expect("called with messages");
        self.position = last.offset + 1;
        SourceBatch {
            changes,
            next: Offset::from(self.position as u64),
            bad,
            n_bytes: self.messages.bytes.len(),
        }
    }
}

#[async_trait]
impl SplitReader for KafkaReader {
    async fn next(&mut self, until: Option<&Offset>) -> Result<Option<SourceBatch>, ConnectorError> {
        let until = until.map(number).transpose()?;
        if self.asked_for != until {
            self.asked_for = None;
        }
        loop {
            if until.is_some_and(|until| self.position >= until) {
                return Ok(None);
            }
            if self.is_undecoded {
                self.take_again()?;
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            // From here to the return nothing waits, except for schemas: what was taken is handed over.
            let reached = self.collect(until);
            if !self.messages.records.is_empty() {
                let missing = self.decoder.missing_schemas(&self.messages.records(self.partition));
                if !missing.is_empty() {
                    self.is_undecoded = true;
                    self.decoder.fetch_schemas(&missing).await?;
                    self.is_undecoded = false;
                }
                return Ok(Some(self.decode()));
            }
            if let Some(until) = until {
                if reached || (self.at_end && self.asked_for == Some(until)) {
                    self.position = until;
                    return Ok(None);
                }
                if self.at_end {
                    self.asked_for = Some(until);
                    self.at_end = false;
                    self.assign()?;
                }
            }
            if self.failure.is_none() {
                // A timeout is no news; it only has the queue looked at.
                let _ = tokio::time::timeout(POLL_INTERVAL, self.arrived.notified()).await;
            }
        }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        // Closing a consumer waits for its threads, which no runtime should.
        let consumer = self.consumer.take();
        std::thread::spawn(move || drop(consumer));
    }
}
