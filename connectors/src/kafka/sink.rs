//! Changes as messages: in transactions, or at least once, as they come.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use rdkafka::config::ClientConfig;
use tidemill_core::SqlState;
use tidemill_core::sink::{Delivery, Refusals, Refused, Sink, SinkBatch, SinkWriter, Written};
use tidemill_core::source::ConnectorError;

use crate::formats::avro::encoder::AvroEncoder;
use crate::formats::changelog::{self, Changelog, CsvSinkOptions, Entry};
use crate::formats::csv::{CsvOptions, RecordEnd};
use crate::kafka::client::{self, Inquiry, Topic};
use crate::kafka::config::{self, KafkaSinkConfig, KeyEncode};
use crate::kafka::producer::{Outgoing, Outlet};
use crate::kafka::transaction::{self, Epochs, TransactionWriter};
use crate::options::Options;
use crate::spec::{Encode, Format, SinkSpec};

/// What can be overridden.
const DEFAULTS: [(&str, &str); 5] = [
    ("client.id", "tidemill"),
    ("linger.ms", "5"),
    ("queue.buffering.max.messages", "500000"),
    // As Java's clients do it, so that a key's messages stay together.
    ("partitioner", "murmur2_random"),
    ("log.connection.close", "false"),
];

/// Without transactions, the engine tries again, and shows that it does. With them, a message has as long as its
/// transaction, which librdkafka sees to.
const MESSAGE_TIMEOUT: (&str, &str) = ("message.timeout.ms", "30000");

const MUSTS: [(&str, &str); 2] = [("enable.idempotence", "true"), ("acks", "all")];

/// A topic to write to.
#[derive(Debug, Clone)]
pub struct KafkaSink {
    pub client: ClientConfig,
    pub topic: Topic,
    /// Of a sink that delivers exactly once.
    epochs: Option<Epochs>,
    format: Format,
    primary_key: Vec<usize>,
    key_encode: KeyEncode,
    changelog: Changelog,
    values: ValueEncode,
}

/// How rows become values.
#[derive(Debug, Clone)]
enum ValueEncode {
    Json,
    Csv(Box<arrow_csv::WriterBuilder>, CsvOptions),
    Avro(AvroEncoder),
    /// The only column as it is.
    Bytes,
}

impl KafkaSink {
    pub fn new(spec: &SinkSpec<'_>) -> Result<KafkaSink, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        let config = KafkaSinkConfig::take(&mut options)?;
        let bootstrap =
            [&config.bootstrap_server, &config.bootstrap_servers, &config.brokers].map(Option::as_ref);
        let id = format!("tidemill-{}", spec.id);
        let (mut defaults, mut musts) = (DEFAULTS.to_vec(), MUSTS.to_vec());
        match config.delivery {
            Delivery::ExactlyOnce => musts.push(("transactional.id", &id)),
            Delivery::AtLeastOnce => defaults.push(MESSAGE_TIMEOUT),
        }
        let client = config::client(&mut options, bootstrap, &defaults, &musts)?;
        options.finish()?;
        if config.delivery == Delivery::AtLeastOnce && client.get("transactional.id").is_some() {
            let message = "option \"properties.transactional.id\" of connector \"kafka\" cannot be set";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint("delivery = 'exactly_once' writes transactions, under an id of the sink's own."));
        }
        let refuse = |message: String, hint: &str| {
            Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint))
        };
        let encode = if spec.encode == Encode::Native { Encode::Json } else { spec.encode };
        if spec.format == Format::Debezium && encode != Encode::Json {
            return refuse(
                format!("FORMAT DEBEZIUM with ENCODE {encode} is not supported"),
                "Use ENCODE JSON.",
            );
        }
        if config.key_encode == KeyEncode::Text && spec.primary_key.len() > 1 {
            return refuse(
                format!("key.encode = 'text' needs a key of one column, not of {}", spec.primary_key.len()),
                "Use key.encode = 'json'.",
            );
        }
        let mut encode_options = Options::new(format!("ENCODE {encode}"), spec.encode_options);
        let values = match encode {
            Encode::Json => ValueEncode::Json,
            Encode::Csv => {
                let mut csv = CsvSinkOptions::take(&mut encode_options)?;
                if csv.header && spec.encode_options.contains_key("header") {
                    return refuse(
                        "a message of CSV has no header".to_string(),
                        "Leave the option header out.",
                    );
                }
                csv.header = false;
                // To tell records apart, they are read as they are written.
                let mut reading = CsvOptions::take(&mut Options::new("ENCODE CSV", &Default::default()))?;
                reading.delimiter = csv.delimiter;
                ValueEncode::Csv(Box::new(csv.writer()), reading)
            }
            Encode::Avro => {
                ValueEncode::Avro(AvroEncoder::new(&mut encode_options, &config.topic, &spec.schema)?)
            }
            Encode::Bytes => {
                let only =
                    (spec.schema.fields().len() == 1).then(|| spec.schema.field(0).data_type().clone());
                use DataType::*;
                match only {
                    Some(Binary | BinaryView | LargeBinary | Utf8 | Utf8View | LargeUtf8) => {
                        ValueEncode::Bytes
                    }
                    _ => {
                        let message = format!("sink \"{}\" has not one column of text or bytes", spec.name);
                        return refuse(message, "ENCODE BYTES writes one column as it is; use ENCODE JSON.");
                    }
                }
            }
            other => {
                return refuse(
                    format!("connector \"kafka\" cannot write ENCODE {other}"),
                    "Use ENCODE JSON, CSV, AVRO or BYTES.",
                );
            }
        };
        encode_options.finish()?;
        let topic = Topic::new(&config.topic, &client);
        let is_exactly_once = config.delivery == Delivery::ExactlyOnce;
        Ok(KafkaSink {
            epochs: is_exactly_once.then(|| Epochs::new(&topic, &client, &id)),
            topic,
            client,
            format: spec.format,
            primary_key: spec.primary_key.to_vec(),
            key_encode: config.key_encode,
            changelog: Changelog::new(spec, config.force_append_only, None)?,
            values,
        })
    }

    /// Has the schema registry, where there is one, know what is written.
    async fn register_schema(&self) -> Result<(), ConnectorError> {
        match &self.values {
            ValueEncode::Avro(avro) => avro.register().await,
            _ => Ok(()),
        }
    }

    /// The messages of a batch, in their order.
    pub fn messages(&self, batch: &SinkBatch) -> Result<Vec<Outgoing>, ConnectorError> {
        let entries = self.changelog.entries(batch)?;
        let keys = self.keys(batch, &entries)?;
        // An upsert sink deletes with a key alone.
        let is_delete = |entry: &Entry| self.format == Format::Upsert && entry.after.is_none();
        let valued: Vec<Entry> = entries.iter().filter(|entry| !is_delete(entry)).copied().collect();
        let mut values = self.values(batch, &valued)?.into_iter();
        let mut keys = keys.into_iter();
        let mut messages = Vec::with_capacity(entries.len());
        for entry in &entries {
            let key = if self.primary_key.is_empty() { None } else { keys.next() };
            let value = if is_delete(entry) { None } else { values.next().flatten() };
            messages.push(Outgoing { key, value });
        }
        assert!(keys.next().is_none() && values.next().is_none(), "a message for each entry");
        Ok(messages)
    }

    /// Sends the messages of a batch; those that are too large go to `refusals`, if there is such a place.
    pub async fn send(
        &self,
        outlet: &Outlet,
        batch: &SinkBatch,
        refusals: Option<&dyn Refusals>,
    ) -> Result<(), ConnectorError> {
        let refused = outlet.send_all(&self.messages(batch)?, refusals.is_some()).await?;
        let Some(refusals) = refusals.filter(|_| !refused.is_empty()) else { return Ok(()) };
        let (entries, rows) = (self.changelog.entries(batch)?, batch.delta.rows());
        let row = |(place, error): (usize, ConnectorError)| {
            let Entry { before, after } = entries[place];
            let place = after.or(before)? as usize;
            Some(Refused { to: batch.to, place, row: rows.slice(place, 1), error })
        };
        refusals.keep(refused.into_iter().filter_map(row).collect()).await
    }

    fn keys(&self, batch: &SinkBatch, entries: &[Entry]) -> Result<Vec<Vec<u8>>, ConnectorError> {
        if self.primary_key.is_empty() {
            return Ok(Vec::new());
        }
        let places = UInt32Array::from_iter(entries.iter().map(|entry| entry.after.or(entry.before)));
        let failed = |error: arrow::error::ArrowError| self.changelog.failed(&error);
        let columns = batch.delta.batch().project(&self.primary_key).map_err(failed)?;
        let rows = take_record_batch(&columns, &places).map_err(failed)?;
        match self.key_encode {
            KeyEncode::Json => Ok(lines(&changelog::json_lines(&rows).map_err(failed)?)),
            KeyEncode::Text => {
                let options = FormatOptions::default();
                let texts = ArrayFormatter::try_new(rows.column(0), &options).map_err(failed)?;
                Ok((0..rows.num_rows()).map(|idx| texts.value(idx).to_string().into_bytes()).collect())
            }
        }
    }

    fn values(&self, batch: &SinkBatch, entries: &[Entry]) -> Result<Vec<Option<Vec<u8>>>, ConnectorError> {
        let rows = self.changelog.rows(batch, entries)?;
        let failed = |error: arrow::error::ArrowError| self.changelog.failed(&error);
        match &self.values {
            ValueEncode::Json => {
                Ok(lines(&changelog::json_lines(&rows).map_err(failed)?).into_iter().map(Some).collect())
            }
            ValueEncode::Csv(writer, reading) => {
                let bytes = changelog::csv_lines(&rows, writer).map_err(failed)?;
                let (mut rest, mut records) = (&bytes[..], Vec::new());
                while let RecordEnd::At { len, next } = reading.dialect().record_end(rest) {
                    records.push(Some(rest[..len].to_vec()));
                    rest = &rest[next..];
                }
                Ok(records)
            }
            ValueEncode::Avro(avro) => {
                Ok(avro.encode(&rows).map_err(failed)?.into_iter().map(Some).collect())
            }
            ValueEncode::Bytes => {
                let column: ArrayRef = cast(rows.column(0), &DataType::Binary).map_err(failed)?;
                Ok(column.as_binary::<i32>().iter().map(|value| value.map(<[u8]>::to_vec)).collect())
            }
        }
    }
}

/// A JSON value never holds a line end.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

#[async_trait]
impl Sink for KafkaSink {
    fn delivery(&self) -> Delivery {
        match self.epochs {
            Some(_) => Delivery::ExactlyOnce,
            None => Delivery::AtLeastOnce,
        }
    }

    fn can_leave_out(&self) -> bool {
        true
    }

    async fn validate(&self) -> Result<(), ConnectorError> {
        // A consumer asks, since a producer's question may create the topic.
        let (client, topic) = (client::common(&self.client), self.topic.clone());
        let asked =
            tokio::task::spawn_blocking(move || Inquiry::new(&client, &topic)?.partitions().map(drop));
        asked.await.map_err(|error| {
            let message = format!("looking up topic \"{}\" broke off: {error}", self.topic.name);
            ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
        })??;
        self.register_schema().await?;
        match &self.epochs {
            Some(epochs) => transaction::validate(self, epochs).await,
            None => Ok(()),
        }
    }

    async fn open(&self, written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        self.register_schema().await?;
        match &self.epochs {
            Some(epochs) => Ok(Box::new(TransactionWriter::open(self, epochs, written).await?)),
            None => {
                let outlet = Outlet::new(&self.topic, &self.client)?;
                Ok(Box::new(KafkaWriter { sink: self.clone(), outlet: Some(outlet), refusals: None }))
            }
        }
    }
}

/// Sends messages as they come.
struct KafkaWriter {
    sink: KafkaSink,
    /// `None` only while being dropped.
    outlet: Option<Outlet>,
    refusals: Option<Arc<dyn Refusals>>,
}

impl KafkaWriter {
    fn outlet(&self) -> &Outlet {
        self.outlet.as_ref().expect("the writer is not being dropped")
    }
}

#[async_trait]
impl SinkWriter for KafkaWriter {
    fn leave_out(&mut self, refusals: Arc<dyn Refusals>) {
        self.refusals = Some(refusals);
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        self.sink.send(self.outlet(), batch, self.refusals.as_deref()).await
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        self.outlet().all_arrived().await
    }
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        // Waits for the producer's threads.
        let outlet = self.outlet.take();
        std::thread::spawn(move || drop(outlet));
    }
}
