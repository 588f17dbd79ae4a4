//! Against librdkafka's mock cluster always, and against a real broker where `TIDEMILL_KAFKA`
//! holds its address (`tests/services/kafka.sh start DIR`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;
use tidemill_core::sink::{Refusals, Refused, SinkBatch, Written};
use tidemill_core::source::{ConnectorError, Offset, Offsets, Source, SplitId};
use tidemill_core::{Delta, Epoch};

use crate::conformance::{self, Transcript};
use crate::declared::Declared;
use crate::formats::avro::fake_registry::{FakeRegistry, How};
use crate::kafka::config::KafkaSinkConfig;
use crate::registry::{create_sink, create_source, source_columns, validate_sink, validate_source};
use crate::spec::{Encode, Format, IncludeKind};

type Mock = MockCluster<'static, DefaultProducerContext>;

/// A cluster of one broker with a topic `t` of two partitions.
fn mock() -> (Mock, String) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    (cluster, brokers)
}

fn kafka(brokers: &str, topic: &str, columns: &str) -> Declared {
    // One sink a topic, as far as the broker can tell.
    Declared::new("kafka", columns)
        .id(topic)
        .with("properties.bootstrap.server", brokers)
        .with("topic", topic)
}

fn source(declared: &Declared) -> Arc<dyn Source> {
    create_source(&declared.source()).unwrap()
}

/// A message for a partition.
type Sent<'a> = (i32, Option<&'a str>, Option<&'a str>);

fn producer(brokers: &str, transaction: Option<&str>) -> ThreadedProducer<DefaultProducerContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", "0");
    if let Some(id) = transaction {
        config.set("transactional.id", id);
    }
    config.create().unwrap()
}

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, messages: &[Sent<'_>]) {
    for (idx, (partition, key, value)) in messages.iter().enumerate() {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "n", value: Some("first") })
            .insert(Header { key: "n", value: Some(&idx.to_string()) });
        let mut record = BaseRecord::<str, str>::to(topic).partition(*partition).headers(headers);
        record = record.timestamp(1_000_000 + idx as i64);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(value) = value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn produce(brokers: &str, topic: &str, messages: &[Sent<'_>]) {
    send(&producer(brokers, None), topic, messages);
}

fn ends(ends: &[(&str, u64)]) -> Offsets {
    ends.iter().map(|(split, end)| (SplitId::from(*split), Offset::from(*end))).collect()
}

/// What is in the first `n` messages of a partition.
async fn read(source: &dyn Source, split: &str, until: u64) -> Transcript {
    let (split, until) = (SplitId::from(split), Offset::from(until));
    let splits = source.splits().await.unwrap();
    let start = splits.iter().find(|found| found.id == split).expect("the partition exists").start.clone();
    let mut reader = source.open(&split, &start).await.unwrap();
    let mut transcript = Transcript::default();
    while let Some(batch) =
        tokio::time::timeout(Duration::from_secs(30), reader.next(Some(&until))).await.unwrap().unwrap()
    {
        transcript.add(&split, &batch);
    }
    transcript
}

#[tokio::test]
async fn source_conforms() {
    let (_cluster, brokers) = mock();
    produce(
        &brokers,
        "t",
        &[
            (0, Some("k"), Some(r#"{"a":1}"#)),
            (0, None, Some("junk")),
            (1, None, Some(r#"{"a":2}"#)),
            (0, None, Some(r#"{"a":3}"#)),
            (0, None, None),
            (0, None, Some(r#"{"a":4}"#)),
        ],
    );
    for batch_rows in [1, 2, 100] {
        let declared = kafka(&brokers, "t", "a bigint")
            .include(IncludeKind::Key, "k text")
            .include(IncludeKind::Partition, "p int")
            .include(IncludeKind::Offset, "o bigint")
            .include(IncludeKind::Timestamp, "t timestamp")
            .include(IncludeKind::Header(Some("n".to_string())), "h text")
            .with("batch_rows", batch_rows);
        let transcript = conformance::check(&*source(&declared), &ends(&[("0", 5), ("1", 1)])).await;
        assert_eq!(
            transcript.rows,
            [
                "1 | k | 0 | 0 | 1970-01-01T00:16:40 | 0",
                "3 | NULL | 0 | 2 | 1970-01-01T00:16:40.003 | 3",
                "4 | NULL | 0 | 4 | 1970-01-01T00:16:40.005 | 5",
                "2 | NULL | 1 | 0 | 1970-01-01T00:16:40.002 | 2",
            ]
        );
        assert_eq!(transcript.bad.len(), 2);
        assert!(transcript.bad[0].starts_with("0@1: 22P02: ") && transcript.bad[0].ends_with("<junk>"));
        assert_eq!(transcript.bad[1], "0@3: 22004: the record has no value <>");
    }
}

#[tokio::test]
async fn upserts_by_key() {
    let (_cluster, brokers) = mock();
    produce(
        &brokers,
        "t",
        &[
            (0, Some("1"), Some(r#"{"id":1,"name":"a"}"#)),
            (0, Some("1"), Some(r#"{"name":"b"}"#)),
            (0, Some("1"), None),
        ],
    );
    let declared = kafka(&brokers, "t", "id bigint!, name text").format(Format::Upsert).key(&[0]);
    assert_eq!(read(&*source(&declared), "0", 3).await.rows, ["+ 1 | a", "+ 1 | b", "- 1 | NULL"]);
}

#[tokio::test]
async fn begins_where_it_is_told() {
    let (_cluster, brokers) = mock();
    let values: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let messages: Vec<Sent<'_>> = values.iter().map(|value| (0, None, Some(value.as_str()))).collect();
    produce(&brokers, "t", &messages);
    let declared = kafka(&brokers, "t", "a bigint").encode(Encode::Csv, &[]);
    let starts = async |declared: &Declared| -> Vec<String> {
        source(declared).splits().await.unwrap().iter().map(|split| split.start.to_string()).collect()
    };
    assert_eq!(starts(&declared).await, ["0", "0"]);
    assert_eq!(starts(&declared.clone().with("scan.startup.mode", "latest")).await, ["5", "0"]);
    let offsets = declared.clone().with("scan.startup.mode", "offsets").with("scan.startup.offsets", "0:3");
    assert_eq!(starts(&offsets).await, ["3", "0"]);
    assert_eq!(read(&*source(&offsets), "0", 5).await.rows, ["3", "4"]);
    let error = source(&offsets.with("scan.startup.offsets", "7:3")).splits().await.unwrap_err();
    assert_eq!(error.to_string(), "topic \"t\" has no partition 7");
}

#[tokio::test]
async fn waits_for_messages_without_losing_its_place() {
    let (_cluster, brokers) = mock();
    let declared = kafka(&brokers, "t", "a text").encode(Encode::Bytes, &[]);
    let source = source(&declared);
    let split = source.splits().await.unwrap()[0].clone();
    let mut reader = source.open(&split.id, &split.start).await.unwrap();
    let mut seen = Transcript::default();
    for n in 0..5 {
        assert!(tokio::time::timeout(Duration::from_millis(50), reader.next(None)).await.is_err());
        produce(&brokers, "t", &[(0, None, Some(&n.to_string()))]);
        let batch = tokio::time::timeout(Duration::from_secs(20), reader.next(None)).await.unwrap().unwrap();
        seen.add(&split.id, &batch.expect("a topic never ends"));
    }
    assert_eq!(seen.rows, ["0", "1", "2", "3", "4"]);
}

/// An answer that there is no more, older than the records, must not count as "reached".
#[tokio::test]
async fn end_of_before_is_not_the_end() {
    let (_cluster, brokers) = mock();
    let declared = kafka(&brokers, "t", "a text").encode(Encode::Bytes, &[]);
    let split = SplitId::from("0");
    let mut reader = source(&declared).open(&split, &Offset::from(0)).await.unwrap();
    let mut seen = Transcript::default();
    for n in 0..10u64 {
        // Long enough to hear that there is nothing, every other time.
        let patience = Duration::from_millis(if n % 2 == 0 { 120 } else { 1 });
        assert!(tokio::time::timeout(patience, reader.next(None)).await.is_err());
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        produce(&brokers, "t", &[(0, None, Some(&n.to_string()))]);
        let until = Offset::from(n + 1);
        while let Some(batch) = reader.next(Some(&until)).await.unwrap() {
            seen.add(&split, &batch);
        }
        assert_eq!(seen.rows.len() as u64, n + 1);
    }
}

#[tokio::test]
async fn offset_that_is_gone_is_an_error() {
    let (_cluster, brokers) = mock();
    produce(&brokers, "t", &[(0, None, Some("1"))]);
    let declared = kafka(&brokers, "t", "a text").encode(Encode::Bytes, &[]);
    let mut reader = source(&declared).open(&SplitId::from("0"), &Offset::from(100)).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(20), reader.next(None)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("offset 100 of partition 0 of topic \"t\""), "{error}");
    assert!(!error.transient);
}

#[tokio::test]
async fn unreachable_brokers_and_missing_topics_are_named() {
    // A port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("127.0.0.1:{port}");
    let declared = kafka(&nobody, "t", "a bigint");
    let began = std::time::Instant::now();
    for error in [
        validate_source(&declared.source()).await.unwrap_err(),
        validate_sink(&declared.sink()).await.unwrap_err(),
    ] {
        assert_eq!(error.sqlstate.0, "08001");
        assert!(error.to_string().contains(&format!("no broker answers at \"{nobody}\"")), "{error}");
        assert!(error.to_string().contains("Connection refused"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "ten seconds each at most");

    let (cluster, brokers) = mock();
    cluster.topic_error("topics", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let error = validate_source(&kafka(&brokers, "topics", "a bigint").source()).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "42P01");
    assert_eq!(error.to_string(), format!("topic \"topics\" does not exist at \"{brokers}\""));
    validate_source(&kafka(&brokers, "t", "a bigint").source()).await.unwrap();
    validate_sink(&kafka(&brokers, "t", "a bigint").sink()).await.unwrap();
}

#[test]
fn wrong_declarations_are_refused() {
    let declared = kafka("b:9092", "t", "a bigint");
    let error = |declared: &Declared| create_source(&declared.source()).unwrap_err();
    let show = |error: ConnectorError| format!("{error} ({})", error.hint.as_deref().unwrap_or_default());
    let no_broker = Declared::new("kafka", "a bigint").with("topic", "t");
    assert!(
        show(error(&no_broker))
            .starts_with("connector \"kafka\" needs the option \"properties.bootstrap.server\"")
    );
    assert!(
        show(error(&declared.clone().with("properties.fetch.mim.bytes", "1")))
            .starts_with("option \"properties.fetch.mim.bytes\" of connector \"kafka\" is not valid")
    );
    assert!(
        show(error(&declared.clone().with("properties.auto.offset.reset", "latest")))
            .starts_with("option \"properties.auto.offset.reset\" of connector \"kafka\" cannot be changed")
    );
    let tls = error(&declared.clone().with("properties.security.protocol", "ssl"));
    assert!(tls.hint.unwrap().contains("TLS"));
    assert!(show(error(&declared.clone().with("topics", "x"))).ends_with("(Perhaps you meant \"topic\".)"));
    assert!(
        show(error(&declared.clone().with("scan.startup.mode", "timestamp")))
            .contains("scan.startup.timestamp.millis")
    );
    let offsets = declared.clone().with("scan.startup.mode", "offsets").with("scan.startup.offsets", "0=1");
    assert!(show(error(&offsets)).ends_with("such as 0:42,1:17.)"));
    assert!(show(error(&declared.encode(Encode::Parquet, &[]))).contains("cannot read ENCODE PARQUET"));
}

const ROW: &str = "id bigint!, name text";

fn batch(to: u64, rows: &[(i64, &str, i64)]) -> SinkBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let rows = RecordBatch::try_new(Declared::new("kafka", ROW).schema, vec![ids, names]).unwrap();
    SinkBatch { from: Epoch(to - 1), to: Epoch(to), delta: Delta::weighted(&rows, weights) }
}

/// Writes two batches, the second an update and a deletion.
async fn write(declared: &Declared) -> Result<(), ConnectorError> {
    let mut writer = create_sink(&declared.sink())?.open(Written::perhaps_to(Epoch(1000))).await?;
    writer.write(&batch(1, &[(1, "a", 1), (2, "b, c", 1)])).await?;
    if declared.source().format != Format::Plain {
        writer.write(&batch(2, &[(1, "a", -1), (2, "b, c", -1), (1, "z", 1)])).await?;
    }
    writer.flush().await
}

/// All messages of a topic of one partition as `key value`.
async fn messages(brokers: &str, topic: &str, n: u64) -> Vec<String> {
    let raw = kafka(brokers, topic, "v text").encode(Encode::Bytes, &[]);
    // A key makes the values that are absent visible.
    let raw = raw.include(IncludeKind::Key, "k text").format(Format::Upsert).key(&[1]);
    let seen = read(&*source(&raw), "0", n).await;
    assert_eq!(seen.bad, Vec::<String>::new());
    seen.rows
}

async fn sink_round_trips(brokers: &str, topic: impl Fn(&str) -> String) {
    let declare = |topic: &str| kafka(brokers, topic, ROW).retracting().key(&[0]);

    let upsert = topic("upsert");
    write(&declare(&upsert).format(Format::Upsert)).await.unwrap();
    assert_eq!(
        messages(brokers, &upsert, 4).await,
        [
            r#"+ {"id":1,"name":"a"} | {"id":1}"#,
            r#"+ {"id":2,"name":"b, c"} | {"id":2}"#,
            r#"- NULL | {"id":2}"#,
            r#"+ {"id":1,"name":"z"} | {"id":1}"#,
        ]
    );
    let back = read(&*source(&kafka(brokers, &upsert, ROW).format(Format::Upsert).key(&[0])), "0", 4).await;
    assert_eq!(back.rows, ["+ 1 | a", "+ 2 | b, c", "- 2 | NULL", "+ 1 | z"]);

    let csv = topic("csv");
    write(&declare(&csv).format(Format::Upsert).encode(Encode::Csv, &[]).with("key.encode", "text"))
        .await
        .unwrap();
    assert_eq!(
        messages(brokers, &csv, 4).await,
        ["+ 1,a | 1", "+ 2,\"b, c\" | 2", "- NULL | 2", "+ 1,z | 1"]
    );

    let debezium = topic("debezium");
    write(&declare(&debezium).format(Format::Debezium)).await.unwrap();
    let back =
        read(&*source(&kafka(brokers, &debezium, ROW).format(Format::Debezium).key(&[0])), "0", 4).await;
    assert_eq!(back.rows, ["+ 1 | a", "+ 2 | b, c", "- 2 | b, c", "+ 1 | z"]);
    let back = read(&*source(&kafka(brokers, &debezium, ROW).format(Format::Debezium)), "0", 4).await;
    assert_eq!(back.rows, ["1 | a | 1", "2 | b, c | 1", "2 | b, c | -1", "1 | a | -1", "1 | z | 1"]);

    let plain = topic("plain");
    write(&kafka(brokers, &plain, ROW)).await.unwrap();
    assert_eq!(read(&*source(&kafka(brokers, &plain, ROW)), "0", 2).await.rows, ["1 | a", "2 | b, c"]);
}

#[tokio::test]
async fn sink_writes_what_the_source_reads() {
    let (cluster, brokers) = mock();
    sink_round_trips(&brokers, |topic| {
        cluster.create_topic(topic, 1, 1).unwrap();
        topic.to_string()
    })
    .await;
}

/// Keeps what is refused.
#[derive(Default)]
struct Keeping(Mutex<Vec<String>>);

#[async_trait::async_trait]
impl Refusals for Keeping {
    async fn keep(&self, refused: Vec<Refused>) -> Result<(), ConnectorError> {
        let shown = refused.iter().map(|Refused { to, place, row, error }| {
            let start: String = conformance::lines(row)[0].chars().take(6).collect();
            format!("{to}/{place} {start} {} {error}", error.sqlstate.0)
        });
        self.0.lock().unwrap().extend(shown);
        Ok(())
    }
}

#[tokio::test]
async fn messages_that_are_too_large_are_left_out() {
    let (cluster, brokers) = mock();
    cluster.create_topic("small", 1, 1).unwrap();
    let declared = kafka(&brokers, "small", ROW).with("properties.message.max.bytes", 2000);
    let sink = create_sink(&declared.sink()).unwrap();
    assert!(sink.can_leave_out());
    let large = "x".repeat(3000);
    let rows = batch(1, &[(1, "a", 1), (2, &large, 1), (3, "c", 1)]);
    let mut writer = sink.open(Written::perhaps_to(Epoch(1000))).await.unwrap();
    let error = writer.write(&rows).await.unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");

    let kept = Arc::new(Keeping::default());
    let mut writer = sink.open(Written::perhaps_to(Epoch(1000))).await.unwrap();
    writer.leave_out(kept.clone());
    writer.write(&rows).await.unwrap();
    writer.flush().await.unwrap();
    let kept = kept.0.lock().unwrap().clone();
    assert!(kept.len() == 1 && kept[0].starts_with("1/1 2 | xx "), "{kept:?}");
    // The first attempt had come as far as the large one.
    let seen = read(&*source(&kafka(&brokers, "small", ROW)), "0", 3).await.rows;
    assert_eq!(seen, ["1 | a", "1 | a", "3 | c"]);
}

/// How many messages there are in the only partition of a topic, once no transaction is open: the broker answers a
/// commit before it shows what was committed.
async fn n_messages(brokers: &str, topic: &str) -> u64 {
    let (brokers, topic) = (brokers.to_string(), topic.to_string());
    let asked = tokio::task::spawn_blocking(move || {
        let consumer = |isolation: &str| -> BaseConsumer {
            let mut client = ClientConfig::new();
            client.set("bootstrap.servers", &brokers).set("isolation.level", isolation).create().unwrap()
        };
        let consumers = ["read_committed", "read_uncommitted"].map(consumer);
        let end = |consumer: &BaseConsumer| {
            consumer.fetch_watermarks(&topic, 0, Duration::from_secs(20)).unwrap().1
        };
        loop {
            let [committed, all] = consumers.each_ref().map(end);
            if committed == all {
                return all;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    asked.await.unwrap() as u64
}

async fn sink_conforms_on(brokers: &str, topic: &str, delivery: &str) {
    let columns = "id bigint, name text";
    let declared = kafka(brokers, topic, columns).format(Format::Debezium).retracting();
    let declared = declared.with("delivery", delivery);
    // Fewer than the suite writes at once: writing has to wait for space.
    let declared = declared.with("properties.queue.buffering.max.messages", 100);
    let back = kafka(brokers, topic, columns).format(Format::Debezium);
    let arrived = async || {
        let n = n_messages(brokers, topic).await;
        if n == 0 {
            return Some(Vec::new());
        }
        let line = |row: String| match row.rsplit_once(" | ").expect("the weight is last") {
            (row, "1") => format!("+ {row}"),
            (row, _) => format!("- {row}"),
        };
        Some(read(&*source(&back), "0", n).await.rows.into_iter().map(line).collect())
    };
    conformance::sink::check(&*create_sink(&declared.sink()).unwrap(), arrived).await;
}

#[tokio::test]
async fn sink_conforms() {
    let (cluster, brokers) = mock();
    cluster.create_topic("one", 1, 1).unwrap();
    // The mock shows what was aborted, too.
    sink_conforms_on(&brokers, "one", "at_least_once").await;
}

#[tokio::test]
async fn transactions_that_the_broker_refuses_are_explained() {
    use rdkafka::types::RDKafkaApiKey::{EndTxn, InitProducerId, OffsetFetch};
    let (cluster, brokers) = mock();
    let declared = kafka(&brokers, "t", ROW);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    cluster.request_errors(InitProducerId, &[refused; 2]);
    let error = validate_sink(&declared.sink()).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "28000");
    assert!(error.hint.as_deref().unwrap_or_default().contains("write the transactional id"), "{error:?}");
    cluster.clear_request_errors(InitProducerId);
    validate_sink(&declared.sink()).await.unwrap();

    // Before the first group of a cluster nobody keeps groups.
    cluster.request_errors(OffsetFetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR; 3]);
    validate_sink(&declared.sink()).await.unwrap();

    cluster.request_errors(EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let error = write(&declared).await.unwrap_err();
    assert_eq!((error.sqlstate.0, error.transient), ("55006", true), "{error}");
    assert!(error.to_string().starts_with("cannot commit a transaction to topic \"t\""), "{error}");

    let own = declared.clone().with("properties.transactional.id", "mine");
    let error = create_sink(&own.sink()).unwrap_err();
    assert!(error.to_string().contains("\"properties.transactional.id\""), "{error}");
    let error = create_sink(&own.with("delivery", "at_least_once").sink()).unwrap_err();
    assert!(error.to_string().contains("\"properties.transactional.id\""), "{error}");
    let error = create_sink(&declared.with("delivery", "at_most_once").sink()).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("Expected one of exactly_once, at_least_once."));
}

#[tokio::test]
async fn sink_refuses_unknown_options() {
    let declared = kafka("b:9092", "t", ROW);
    let create = |name: &str, value: &str| create_sink(&declared.clone().with(name, value).sink());
    conformance::sink::check_options(KafkaSinkConfig::DOCS, create);
}

#[tokio::test]
async fn sink_without_a_broker_fails() {
    let declared = kafka("127.0.0.1:1", "t", ROW);
    let error = conformance::sink::check_broken(&*create_sink(&declared.sink()).unwrap()).await;
    assert!(error.to_string().contains("no broker answers at \"127.0.0.1:1\""), "{error}");
    let declared = declared.with("delivery", "at_least_once").with("properties.message.timeout.ms", 500);
    let error = conformance::sink::check_broken(&*create_sink(&declared.sink()).unwrap()).await;
    assert!(error.to_string().contains("topic \"t\""), "{error}");
}

#[tokio::test]
async fn sink_refuses_what_it_cannot_write() {
    let declared = kafka("b:9092", "t", ROW).retracting();
    let error = |declared: &Declared| create_sink(&declared.sink()).unwrap_err();
    assert_eq!(error(&declared).sqlstate.0, "0A000");
    assert_eq!(error(&declared.clone().format(Format::Upsert)).sqlstate.0, "42P16");
    assert!(
        error(&declared.clone().format(Format::Debezium).encode(Encode::Csv, &[]))
            .to_string()
            .contains("CSV")
    );
    create_sink(&declared.with("force_append_only", "true").sink()).unwrap();
}

#[tokio::test]
async fn sink_reports_what_was_not_delivered() {
    let (cluster, brokers) = mock();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[refused; 20]);
    let error = write(&kafka(&brokers, "t", ROW)).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "28000");
    assert!(error.to_string().contains("cannot write to topic \"t\""), "{error}");
}

/// `{id, name}` under id 1, and `{name, id, extra}`, the newer one, under id 2.
fn registry_of_rows() -> FakeRegistry {
    let registry = FakeRegistry::start();
    let record = |fields: &str| format!(r#"{{"type": "record", "name": "r", "fields": [{fields}]}}"#);
    let (id, name) = (r#"{"name": "id", "type": "long"}"#, r#"{"name": "name", "type": ["null", "string"]}"#);
    registry.add(1, &record(&format!("{id}, {name}")));
    registry.add(2, &record(&format!(r#"{name}, {id}, {{"name": "extra", "type": "int"}}"#)));
    registry
}

/// Values of ids below 64 and names below 64 bytes, which have their lengths and numbers in one byte.
fn avro_row(schema: u8, id: u8, name: &str) -> Vec<u8> {
    let name = [&[2, name.len() as u8 * 2], name.as_bytes()].concat();
    match schema {
        1 => [&[0, 0, 0, 0, 1, id * 2][..], &name].concat(),
        _ => [&[0, 0, 0, 0, schema][..], &name, &[id * 2, 8]].concat(),
    }
}

fn produce_bytes(brokers: &str, topic: &str, values: &[(i32, Vec<u8>)]) {
    let producer = producer(brokers, None);
    for (partition, value) in values {
        let record = BaseRecord::<str, [u8]>::to(topic).partition(*partition).payload(&value[..]);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

async fn avro_conforms_on(brokers: &str, topic: &str) {
    let registry = registry_of_rows();
    let values = [
        (0, avro_row(1, 1, "a")),
        (0, avro_row(2, 2, "b")),
        (0, avro_row(9, 3, "nobody knows")),
        (1, avro_row(2, 4, "d")),
        (0, b"junk".to_vec()),
        (0, avro_row(1, 5, "e")),
        (0, avro_row(1, 6, "f")[..8].to_vec()),
        (0, avro_row(2, 7, "g")),
    ];
    produce_bytes(brokers, topic, &values);
    for batch_rows in [1, 2, 100] {
        let declared = kafka(brokers, topic, "id bigint!, name text")
            .encode(Encode::Avro, &[("schema.registry", &registry.url)])
            .include(IncludeKind::Offset, "o bigint")
            .with("batch_rows", batch_rows);
        validate_source(&declared.source()).await.unwrap();
        let transcript = conformance::check(&*source(&declared), &ends(&[("0", 7), ("1", 1)])).await;
        assert_eq!(transcript.rows, ["1 | a | 0", "2 | b | 1", "5 | e | 4", "7 | g | 6", "4 | d | 0"]);
        let reasons: Vec<&str> = transcript
            .bad
            .iter()
            .map(|bad| bad.split_once(" <").map_or(&bad[..], |(reason, _)| reason))
            .collect();
        assert_eq!(
            reasons,
            [
                format!("0@2: 22P02: schema id 9 is unknown to schema registry \"{}\"", registry.url),
                "0@3: 22P02: the record is no Avro of a schema registry: it begins with 0x6a where 0x00 and the \
                 id of its schema should stand"
                    .to_string(),
                "0@5: 22P02: schema id 1: the record ends within its value".to_string(),
            ]
        );
    }
}

#[tokio::test]
async fn avro_source_conforms() {
    let (_cluster, brokers) = mock();
    avro_conforms_on(&brokers, "t").await;
}

#[tokio::test]
async fn registry_that_is_away_costs_no_record() {
    let (cluster, brokers) = mock();
    // What waits for a schema is the last message, or all that came with it.
    for (topic, batch_rows) in [("one", 1), ("many", 100)] {
        cluster.create_topic(topic, 1, 1).unwrap();
        away_and_back(&brokers, topic, batch_rows).await;
    }
}

/// Reads five messages of which the last two have a schema that the registry is asked for while it is away.
async fn away_and_back(brokers: &str, topic: &str, batch_rows: u64) {
    let rows = ["1 | a", "2 | b", "3 | c", "4 | d", "5 | e"];
    let registry = registry_of_rows();
    produce_bytes(brokers, topic, &[(0, avro_row(1, 1, "a")), (0, avro_row(1, 2, "b"))]);
    let declared = kafka(brokers, topic, "id bigint, name text")
        .encode(Encode::Avro, &[("schema.registry", &registry.url)])
        .with("batch_rows", batch_rows);
    let source = source(&declared);
    let split = SplitId::from("0");
    let mut reader = source.open(&split, &Offset::from(0)).await.unwrap();
    let mut seen = Transcript::default();
    let patience = Duration::from_secs(20);
    while seen.rows.len() < 2 {
        let batch = tokio::time::timeout(patience, reader.next(None)).await.unwrap().unwrap();
        seen.add(&split, &batch.expect("a topic never ends"));
    }

    registry.answer_like(How::Away);
    let more = [avro_row(1, 3, "c"), avro_row(2, 4, "d"), avro_row(2, 5, "e")];
    produce_bytes(brokers, topic, &more.map(|value| (0, value)));
    // In the end, a message behind `until` has been seen, too.
    for until in [None, Some(5), None, Some(4)] {
        let until = until.map(Offset::from);
        let error = loop {
            match tokio::time::timeout(patience, reader.next(until.as_ref())).await.unwrap() {
                Ok(batch) => seen.add(&split, &batch.expect("there is more")),
                Err(error) => break error,
            }
        };
        assert!(error.transient, "{error}");
        assert!(error.to_string().contains(&format!("schema registry \"{}\" does not answer", registry.url)));
        // Those of the schema that is known may go on.
        assert!(seen.rows.len() <= 3, "{:?}", seen.rows);
    }
    // Whoever stops waiting loses nothing either.
    for _ in 0..3 {
        let until = Offset::from(4);
        let waited = tokio::time::timeout(Duration::from_micros(1), reader.next(Some(&until))).await;
        assert!(!matches!(waited, Ok(Ok(_))), "nobody knows the schema");
    }
    registry.answer_like(How::Well);
    while seen.rows.len() < rows.len() {
        let batch = tokio::time::timeout(patience, reader.next(None)).await.unwrap().unwrap();
        seen.add(&split, &batch.expect("a topic never ends"));
    }
    assert_eq!(seen.rows, rows);
    assert_eq!(seen.bad, Vec::<String>::new());

    // A declaration that names a registry which is away is told so at once.
    registry.answer_like(How::Away);
    let error = validate_source(&declared.source()).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "08001", "{error}");
}

async fn avro_round_trips(brokers: &str, topic: impl Fn(&str) -> String) {
    let registry = FakeRegistry::start();
    let options = [("schema.registry", &registry.url[..])];
    let declare = |topic: &str| kafka(brokers, topic, ROW).encode(Encode::Avro, &options);

    let upsert = topic("avro-upsert");
    let sink = declare(&upsert).format(Format::Upsert).key(&[0]).retracting();
    validate_sink(&sink.sink()).await.unwrap();
    write(&sink).await.unwrap();
    let back = declare(&upsert).format(Format::Upsert).key(&[0]);
    let rows = ["+ 1 | a", "+ 2 | b, c", "- 2 | NULL", "+ 1 | z"];
    assert_eq!(read(&*source(&back), "0", 4).await.rows, rows);
    // The columns are those of the schema that the sink has registered.
    let found = source_columns(&kafka(brokers, &upsert, "").encode(Encode::Avro, &options).source()).await;
    let found = found.unwrap().expect("the registry knows them");
    let names: Vec<&String> = found.fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["id", "name"]);

    let plain = topic("avro-plain");
    write(&declare(&plain)).await.unwrap();
    assert_eq!(read(&*source(&declare(&plain)), "0", 2).await.rows, ["1 | a", "2 | b, c"]);

    // Other columns under the same subject are not taken.
    let other = kafka(brokers, &plain, "id text").encode(Encode::Avro, &options);
    let error = validate_sink(&other.sink()).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "42804");
    assert!(error.to_string().contains(&format!("subject \"{plain}-value\"")), "{error}");
}

#[tokio::test]
async fn sink_writes_avro_that_the_source_reads() {
    let (cluster, brokers) = mock();
    avro_round_trips(&brokers, |topic| {
        cluster.create_topic(topic, 1, 1).unwrap();
        topic.to_string()
    })
    .await;
}

#[tokio::test]
async fn real_broker_has_avro() {
    let Some(brokers) = real() else { return };
    let topics = [fresh("avro"), fresh("avro-upsert"), fresh("avro-plain")];
    create_topic(&brokers, &topics[0], 2).await;
    create_topic(&brokers, &topics[1], 1).await;
    create_topic(&brokers, &topics[2], 1).await;
    avro_conforms_on(&brokers, &topics[0]).await;
    avro_round_trips(&brokers, |name| topics[if name == "avro-upsert" { 1 } else { 2 }].clone()).await;
}

/// The address of a real broker, if there is one for us.
fn real() -> Option<String> {
    std::env::var("TIDEMILL_KAFKA").ok().filter(|brokers| !brokers.is_empty())
}

/// A name that no other run has used.
fn fresh(name: &str) -> String {
    static N: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{nanos}-{}", N.fetch_add(1, Ordering::Relaxed))
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

async fn create_topic(brokers: &str, topic: &str, n_partitions: i32) {
    let topic = NewTopic::new(topic, n_partitions, TopicReplication::Fixed(1));
    let created = admin(brokers).create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    created.into_iter().for_each(|created| drop(created.unwrap()));
}

#[tokio::test]
async fn real_broker_conforms() {
    let Some(brokers) = real() else { return };
    let topic = fresh("conformance");
    create_topic(&brokers, &topic, 2).await;
    // Committed and aborted transactions leave records and markers between ours.
    let transactional = producer(&brokers, Some(&topic));
    let timeout = Duration::from_secs(20);
    transactional.init_transactions(timeout).unwrap();
    for (value, commit) in
        [("{\"a\":1}", true), ("{\"a\":666}", false), ("{\"a\":2}", true), ("{\"a\":667}", false)]
    {
        transactional.begin_transaction().unwrap();
        send(&transactional, &topic, &[(0, Some("k"), Some(value)), (1, None, Some("junk"))]);
        if commit {
            transactional.commit_transaction(timeout).unwrap();
        } else {
            transactional.abort_transaction(timeout).unwrap();
        }
    }
    produce(&brokers, &topic, &[(1, None, Some("{\"a\":3}"))]);
    let declared =
        kafka(&brokers, &topic, "a bigint").include(IncludeKind::Offset, "o bigint").with("batch_rows", 1);
    validate_source(&declared.source()).await.unwrap();
    let transcript = conformance::check(&*source(&declared), &ends(&[("0", 8), ("1", 9)])).await;
    assert_eq!(transcript.rows, ["1 | 0", "2 | 4", "3 | 8"]);
    assert_eq!(transcript.bad.len(), 2, "{:?}", transcript.bad);
}

#[tokio::test]
async fn real_broker_begins_where_it_is_told() {
    let Some(brokers) = real() else { return };
    let topic = fresh("startup");
    create_topic(&brokers, &topic, 1).await;
    produce(&brokers, &topic, &[(0, None, Some("a")), (0, None, Some("b")), (0, None, Some("c"))]);
    let declared =
        kafka(&brokers, &topic, "v text").encode(Encode::Bytes, &[]).with("scan.startup.mode", "timestamp");
    // Messages are a millisecond apart, from 1,000,000 on.
    for (millis, start) in [(0, "0"), (1_000_001, "1"), (1_000_002, "2"), (2_000_000, "3")] {
        let source = source(&declared.clone().with("scan.startup.timestamp.millis", millis));
        assert_eq!(source.splits().await.unwrap()[0].start.to_string(), start);
    }
    let latest = source(&declared.with("scan.startup.mode", "latest"));
    assert_eq!(latest.splits().await.unwrap()[0].start.to_string(), "3");

    // New partitions are found, and read from their beginning.
    admin(&brokers).create_partitions(&[NewPartitions::new(&topic, 2)], &AdminOptions::new()).await.unwrap();
    let mut starts = BTreeMap::new();
    for _ in 0..100 {
        starts = latest
            .splits()
            .await
            .unwrap()
            .into_iter()
            .map(|split| (split.id.to_string(), split.start.to_string()))
            .collect();
        if starts.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        starts,
        BTreeMap::from([("0".to_string(), "3".to_string()), ("1".to_string(), "0".to_string())])
    );
    produce(&brokers, &topic, &[(1, None, Some("d"))]);
    assert_eq!(read(&*latest, "1", 1).await.rows, ["d"]);

    let error = validate_source(&kafka(&brokers, &topic[1..], "v text").encode(Encode::Bytes, &[]).source())
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate.0, "42P01");
    assert!(
        error.hint.as_deref().unwrap_or_default().contains(&format!("Perhaps you meant \"{topic}\"")),
        "{error:?}"
    );
}

#[tokio::test]
async fn real_broker_takes_what_the_sink_writes() {
    let Some(brokers) = real() else { return };
    let names: BTreeMap<String, String> =
        ["upsert", "csv", "debezium", "plain"].iter().map(|name| (name.to_string(), fresh(name))).collect();
    for topic in names.values() {
        create_topic(&brokers, topic, 1).await;
    }
    sink_round_trips(&brokers, |name| names[name].clone()).await;
    for delivery in ["at_least_once", "exactly_once"] {
        let topic = fresh("conformance");
        create_topic(&brokers, &topic, 1).await;
        sink_conforms_on(&brokers, &topic, delivery).await;
    }
}

/// The rows that whoever reads committed messages sees.
async fn committed(declared: &Declared, brokers: &str, topic: &str) -> Vec<String> {
    let n = n_messages(brokers, topic).await;
    read(&*source(declared), "0", n).await.rows
}

/// The epoch that a new writer finds at the destination.
async fn reached(declared: &Declared, known: u64) -> Result<u64, ConnectorError> {
    Ok(create_sink(&declared.sink())?
        .open(Written::perhaps_to(Epoch(known)))
        .await?
        .reached()
        .map_or(0, |epoch| epoch.0))
}

#[tokio::test]
async fn real_broker_says_how_far_a_sink_has_come() {
    let Some(brokers) = real() else { return };
    let topic = fresh("reached");
    create_topic(&brokers, &topic, 1).await;
    let declared = kafka(&brokers, &topic, ROW);
    assert_eq!(reached(&declared, 0).await.unwrap(), 0);
    let mut writer =
        create_sink(&declared.sink()).unwrap().open(Written::perhaps_to(Epoch(0))).await.unwrap();
    for to in [3, 7] {
        writer.write(&batch(to, &[(1, "a", 1)])).await.unwrap();
    }
    writer.flush().await.unwrap();
    writer.write(&batch(9, &[(1, "b", 1)])).await.unwrap();
    drop(writer);
    assert_eq!(reached(&declared, 9).await.unwrap(), 7, "only what was committed counts");
    assert_eq!(reached(&declared.clone().named("renamed"), 9).await.unwrap(), 7, "under any name");
    let gone_back = Written { surely: Epoch(8), perhaps: Epoch(9) };
    let gone_back =
        create_sink(&declared.sink()).unwrap().open(gone_back).await.err().expect("it has gone back");
    assert!(gone_back.to_string().contains("epoch 7, but it had 8 before"), "{gone_back}");
    let other = declared.clone().id(&fresh("other"));
    assert_eq!(reached(&other, 0).await.unwrap(), 0, "each sink has an epoch of its own");
    let ahead = reached(&declared, 6).await.unwrap_err();
    assert_eq!(ahead.sqlstate.0, "55000");
    assert!(ahead.to_string().contains("epoch 7, but this server wrote no more than 6"), "{ahead}");
    assert!(!ahead.transient);
}

#[tokio::test]
async fn real_broker_shuts_earlier_writers_out() {
    let Some(brokers) = real() else { return };
    let topic = fresh("zombie");
    create_topic(&brokers, &topic, 1).await;
    let declared = kafka(&brokers, &topic, ROW);
    let open =
        async |known| create_sink(&declared.sink()).unwrap().open(Written::perhaps_to(Epoch(known))).await;
    let mut zombie = open(0).await.unwrap();
    zombie.write(&batch(1, &[(1, "a", 1)])).await.unwrap();
    zombie.flush().await.unwrap();
    zombie.write(&batch(2, &[(2, "b", 1)])).await.unwrap();
    // Another server takes over in the middle of that transaction.
    let mut heir = open(2).await.unwrap();
    assert_eq!(heir.reached(), Some(Epoch(1)));
    let error = match zombie.flush().await {
        Err(error) => error,
        Ok(()) => panic!("a writer that was shut out commits nothing"),
    };
    assert_eq!((error.sqlstate.0, error.transient), ("55006", true), "{error}");
    heir.write(&batch(2, &[(2, "b", 1)])).await.unwrap();
    heir.write(&batch(3, &[(3, "c", 1)])).await.unwrap();
    heir.flush().await.unwrap();
    // The first has fallen behind: it touches nothing any more.
    let error = open(2).await.err().expect("the destination is ahead");
    assert!(error.to_string().contains("epoch 3, but this server wrote no more than 2"), "{error}");
    heir.write(&batch(4, &[(4, "d", 1)])).await.unwrap();
    heir.flush().await.unwrap();
    assert_eq!(committed(&declared, &brokers, &topic).await, ["1 | a", "2 | b", "3 | c", "4 | d"]);
}

#[tokio::test]
async fn real_broker_ends_transactions_that_take_too_long() {
    let Some(brokers) = real() else { return };
    let topic = fresh("slow");
    create_topic(&brokers, &topic, 1).await;
    let declared = kafka(&brokers, &topic, ROW).with("properties.transaction.timeout.ms", 1000);
    let mut writer =
        create_sink(&declared.sink()).unwrap().open(Written::perhaps_to(Epoch(0))).await.unwrap();
    writer.write(&batch(1, &[(1, "a", 1)])).await.unwrap();
    // The broker looks for such transactions from time to time.
    let mut outcome = Ok(());
    for to in 2..200 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        outcome = writer.write(&batch(to, &[(2, "b", 1)])).await;
        if outcome.is_err() {
            break;
        }
    }
    let error = outcome.and(writer.flush().await).expect_err("the transaction was aborted");
    assert!(error.transient, "{error}");
    drop(writer);
    let mut writer =
        create_sink(&declared.sink()).unwrap().open(Written::perhaps_to(Epoch(200))).await.unwrap();
    assert_eq!(writer.reached(), Some(Epoch(0)), "nothing of it counts");
    writer.write(&batch(1, &[(1, "a", 1)])).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(committed(&declared, &brokers, &topic).await, ["1 | a"]);
}

/// `TIDEMILL_KAFKA=… cargo test --release -p tidemill-connectors real_broker_rate -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn real_broker_rate() {
    let Some(brokers) = real() else { return };
    let topic = fresh("rate");
    create_topic(&brokers, &topic, 1).await;
    const N: i64 = 1_000_000;
    let declared = kafka(&brokers, &topic, ROW);
    let began = std::time::Instant::now();
    let mut writer =
        create_sink(&declared.sink()).unwrap().open(Written::perhaps_to(Epoch(1000))).await.unwrap();
    let rows: Vec<(i64, &str, i64)> = (0..10_000).map(|id| (id, "somebody's name", 1)).collect();
    for epoch in 1..=(N / 10_000) as u64 {
        writer.write(&batch(epoch, &rows)).await.unwrap();
    }
    writer.flush().await.unwrap();
    println!("wrote {:.0} rows/s", N as f64 / began.elapsed().as_secs_f64());
    let began = std::time::Instant::now();
    let until = Offset::from(N as u64);
    let mut reader = source(&declared).open(&SplitId::from("0"), &Offset::from(0)).await.unwrap();
    let (mut n_rows, mut n_batches) = (0, 0);
    while let Some(batch) = reader.next(Some(&until)).await.unwrap() {
        n_rows += batch.changes.len();
        n_batches += 1;
    }
    assert_eq!(n_rows, N as usize);
    let rate = N as f64 / began.elapsed().as_secs_f64();
    println!("read {rate:.0} rows/s in {n_batches} batches");
}
