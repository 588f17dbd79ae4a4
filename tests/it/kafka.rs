//! Kafka in, a pipeline, Kafka out, against a real broker, with a kill in the middle.
//!
//! `tests/services/kafka.sh` fetches and starts the broker; it needs Java and, the first time, mvn and the
//! network. Where there is none, `TIDEMILL_TEST_OFFLINE=1` leaves these tests out, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};

use self::fake_registry::{FakeRegistry, How};
use crate::server::{self, Server, execute, query};

#[path = "../../connectors/src/formats/avro/fake_registry.rs"]
#[allow(dead_code)]
mod fake_registry;

pub const PARTITIONS: i32 = 2;
pub const WAIT: Duration = Duration::from_secs(30);

/// A broker of the test's own.
pub struct Kafka {
    directory: PathBuf,
    pub address: String,
}

impl Kafka {
    /// `None` where tests are run without network.
    pub fn start(directory: &Path) -> Option<Kafka> {
        if std::env::var("TIDEMILL_TEST_OFFLINE").is_ok_and(|value| value == "1") {
            println!("skipped: TIDEMILL_TEST_OFFLINE=1, and a broker may have to be fetched");
            return None;
        }
        let mut kafka = Kafka { directory: directory.to_owned(), address: String::new() };
        kafka.start_again();
        Some(kafka)
    }

    /// After an end, with what was written before.
    pub fn start_again(&mut self) {
        let output = script("start", &self.directory);
        assert!(
            output.status.success(),
            "Kafka cannot be started (TIDEMILL_TEST_OFFLINE=1 leaves this test out):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.address = String::from_utf8(output.stdout).expect("an address is text").trim().to_owned();
    }

    /// `stop` lets the broker end in order, `kill` does not.
    pub fn end(&self, how: &str) {
        assert!(script(how, &self.directory).status.success(), "the broker ends");
    }

    pub async fn create_topics(&self, names: &[&str]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.address).create().expect("a client");
        let topics: Vec<NewTopic<'_>> =
            names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
        let options = AdminOptions::new().operation_timeout(Some(WAIT)).request_timeout(Some(WAIT));
        for result in admin.create_topics(&topics, &options).await.expect("the broker answers") {
            result.expect("the topic is created");
        }
    }

    fn producer(&self) -> FutureProducer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .set("linger.ms", "5")
            .create()
            .expect("a client")
    }

    /// Every message of a topic that `isolation` shows, as key and value; those of a key in their order.
    pub fn read(&self, topic: &str, isolation: &str) -> Vec<(Option<String>, Option<String>)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .create()
            .expect("a client");
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&assignment).expect("partitions can be assigned");
        let mut messages = Vec::new();
        let (mut ended, deadline) = (BTreeSet::new(), Instant::now() + server::TIMEOUT);
        while ended.len() < PARTITIONS as usize {
            assert!(Instant::now() < deadline, "{topic} is not read to its end");
            match consumer.poll(Duration::from_millis(100)) {
                None => (),
                // The end of what `isolation` shows.
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
                // The client connects again by itself.
                Some(Err(error)) if is_passing(&error) => println!("reading {topic}: {error}"),
                Some(message) => {
                    let message = message.expect("a message can be read");
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
                    messages.push((message.key().map(text), message.payload().map(text)));
                }
            }
        }
        messages
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        script("stop", &self.directory);
    }
}

/// Whether a broker that is starting, or that nobody is connected to yet, says so.
pub fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::*;
    let passing = [
        AllBrokersDown,
        BrokerTransportFailure,
        CoordinatorLoadInProgress,
        CoordinatorNotAvailable,
        LeaderNotAvailable,
        NotCoordinator,
        NotLeaderForPartition,
        OperationTimedOut,
        RequestTimedOut,
    ];
    error.rdkafka_error_code().is_some_and(|code| passing.contains(&code))
}

fn script(action: &str, directory: &Path) -> std::process::Output {
    Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/kafka.sh"))
        .arg(action)
        .arg(directory)
        .output()
        .expect("bash can be run")
}

async fn produce(producer: &FutureProducer, topic: &str, records: impl Iterator<Item = (String, String)>) {
    let mut sent = Vec::new();
    for (key, value) in records {
        let record = FutureRecord::to(topic).key(&key).payload(&value);
        sent.push(producer.send_result(record).map_err(|(error, _)| error).expect("the queue has room"));
    }
    for delivery in sent {
        delivery.await.expect("the producer lives").map_err(|(error, _)| error).expect("the broker takes it");
    }
}

/// The orders `from..to`, of ten customers.
fn orders(from: u64, to: u64) -> impl Iterator<Item = (String, String)> {
    (from..to).map(|id| {
        let customer = id % 10;
        (
            format!("c{customer}"),
            format!(r#"{{"id": {id}, "customer": "c{customer}", "amount": {}}}"#, id % 7),
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_to_pipeline_to_kafka_survives_a_kill() {
    let kafka_directory = server::directory();
    let Some(kafka) = Kafka::start(kafka_directory.path()) else { return };
    kafka.create_topics(&["orders", "totals", "big"]).await;
    let producer = kafka.producer();
    produce(&producer, "orders", orders(0, 1000)).await;
    let bad = ["not json", r#"{"id": "x"}"#, "{"];
    produce(&producer, "orders", bad.iter().map(|value| ("bad".into(), (*value).into()))).await;

    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let at = format!("properties.bootstrap.server = '{}'", kafka.address);
    let statements = format!(
        "CREATE SOURCE orders (id BIGINT NOT NULL, customer TEXT, amount BIGINT) \
             INCLUDE partition INCLUDE offset AS at_offset INCLUDE timestamp AS sent INCLUDE key AS raw_key \
             WITH (connector = 'kafka', topic = 'orders', {at}) FORMAT PLAIN ENCODE JSON;
         CREATE PIPELINE totals AS SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer;
         CREATE PIPELINE seen AS SELECT count(*) AS n, count(DISTINCT id) AS ids, count(sent) AS sent, \
             count(DISTINCT raw_key) AS keys, max(partition) AS top FROM orders;
         CREATE SINK totals_out FROM totals WITH (connector = 'kafka', topic = 'totals', primary_key = 'customer', {at}) \
             FORMAT UPSERT ENCODE JSON;
         CREATE SINK big_out AS SELECT id, amount FROM orders WHERE amount = 6 \
             WITH (connector = 'kafka', topic = 'big', {at}) FORMAT PLAIN ENCODE JSON"
    );
    execute(&client, &statements).await;
    wait_for(&server, "SELECT n, ids, sent, keys, top FROM seen", &["1000", "1000", "1000", "10", "1"]).await;

    server.kill();
    produce(&producer, "orders", orders(1000, 1500)).await;
    server.restart().await;
    produce(&producer, "orders", orders(1500, 2000)).await;
    wait_for(&server, "SELECT n, ids, sent, keys, top FROM seen", &["2000", "2000", "2000", "10", "1"]).await;
    let client = server.connect().await;
    execute(&client, "FLUSH").await;
    let totals = query(&client, "SELECT customer, n, total FROM totals").await;
    let expected: Vec<u64> = (0..2000).filter(|id| id % 7 == 6).collect();

    // Bad records stand aside, each once, with where and why.
    let letters =
        query(&client, "SELECT DISTINCT object, split, \"offset\", raw, reason FROM tm_dead_letters").await;
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    assert_eq!(query(&client, "SELECT count(*) FROM tm_dead_letters").await, [[bad.len().to_string()]]);
    for letter in &letters {
        assert_eq!(letter[0], "orders");
        assert!(bad.iter().any(|bad| letter[3] == server::bytea(bad)) && !letter[4].is_empty(), "{letter:?}");
    }
    drop(client);
    // What is to be delivered is delivered before the end.
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());

    // The last value of each key is the view's row.
    let mut last: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (key, value) in kafka.read("totals", "read_committed") {
        let key: serde_json::Value = serde_json::from_str(&key.expect("a key")).expect("the key is JSON");
        let value: serde_json::Value =
            serde_json::from_str(&value.expect("nothing was deleted")).expect("JSON");
        let customer = key["customer"].as_str().expect("the key is the customer").to_owned();
        assert_eq!(value["customer"].as_str(), Some(customer.as_str()));
        last.insert(customer, (value["n"].to_string(), value["total"].to_string()));
    }
    let of_view: BTreeMap<String, (String, String)> =
        totals.into_iter().map(|row| (row[0].clone(), (row[1].clone(), row[2].clone()))).collect();
    assert_eq!(last, of_view, "the topic's last values are the pipeline's rows");
    // Each row of an append-only sink is there once.
    let mut written: Vec<u64> = kafka
        .read("big", "read_committed")
        .iter()
        .map(|(_, value)| {
            let value: serde_json::Value =
                serde_json::from_str(value.as_ref().expect("a row")).expect("JSON");
            assert_eq!(value["amount"].as_u64(), Some(6));
            value["id"].as_u64().expect("an id")
        })
        .collect();
    written.sort_unstable();
    assert_eq!(written, expected, "no row is lost, and none is doubled");
}

/// A payment of one to 63, with a field more from schema 2 on, in another order.
fn payment(schema: u8, id: u8) -> Vec<u8> {
    let customer = [2, b'a' + id % 3];
    match schema {
        1 => [&[0, 0, 0, 0, 1, id * 2][..], &customer].concat(),
        _ => [&[0, 0, 0, 0, schema][..], &customer, &[0, id * 2]].concat(),
    }
}

async fn produce_payments(producer: &FutureProducer, payments: impl Iterator<Item = Vec<u8>>) {
    for payment in payments {
        let record = FutureRecord::<str, [u8]>::to("payments").payload(&payment[..]);
        producer.send(record, WAIT).await.map_err(|(error, _)| error).expect("the broker takes it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avro_to_pipeline_to_avro_survives_a_kill_and_a_registry_that_is_away() {
    let kafka_directory = server::directory();
    let Some(kafka) = Kafka::start(kafka_directory.path()) else { return };
    kafka.create_topics(&["payments", "totals"]).await;
    let producer = kafka.producer();
    let registry = FakeRegistry::start();
    let record = |fields: &str| format!(r#"{{"type": "record", "name": "p", "fields": [{fields}]}}"#);
    let customer = r#"{"name": "customer", "type": "string"}"#;
    registry.add(1, &record(&format!(r#"{{"name": "id", "type": "int"}}, {customer}"#)));
    let newer = format!(
        r#"{customer}, {{"name": "note", "type": ["null", "string"]}}, {{"name": "id", "type": "long"}}"#
    );
    registry.add(2, &record(&newer));
    registry.add(3, &record(&newer));
    registry.add_version("payments-value", 1);
    produce_payments(&producer, (1..=20).map(|id| payment(1, id)).chain((21..=30).map(|id| payment(2, id))))
        .await;
    let bad = [b"{}".to_vec(), payment(9, 1), payment(1, 1)[..7].to_vec()];
    produce_payments(&producer, bad.iter().cloned()).await;

    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let at = format!("properties.bootstrap.server = '{}'", kafka.address);
    let avro = format!("ENCODE AVRO (schema.registry = '{}')", registry.url);
    let statements = format!(
        "CREATE SOURCE payments WITH (connector = 'kafka', topic = 'payments', {at}) FORMAT PLAIN {avro};
         CREATE PIPELINE totals AS SELECT customer, count(*) AS n, sum(id) AS total FROM payments GROUP BY customer;
         CREATE PIPELINE seen AS SELECT count(*) AS n, count(DISTINCT id) AS ids FROM payments;
         CREATE TABLE beside (a INT);
         CREATE PIPELINE of_beside AS SELECT count(*) AS n FROM beside;
         CREATE SINK totals_out FROM totals WITH (connector = 'kafka', topic = 'totals', primary_key = 'customer', {at}) \
             FORMAT UPSERT {avro};
         CREATE SOURCE back (customer TEXT, n BIGINT, total BIGINT, PRIMARY KEY (customer)) \
             WITH (connector = 'kafka', topic = 'totals', {at}) FORMAT UPSERT {avro};
         CREATE PIPELINE of_back AS SELECT sum(n) AS n, sum(total) AS total FROM back"
    );
    execute(&client, &statements).await;
    wait_for(&server, "SELECT n, ids FROM seen", &["30", "30"]).await;
    wait_for(&server, "SELECT n, total FROM of_back", &["30", "465"]).await;
    wait_for(&server, "SELECT count(*), count(DISTINCT raw) FROM tm_dead_letters", &["3", "3"]).await;
    let letters = query(&client, "SELECT reason FROM tm_dead_letters ORDER BY reason").await;
    assert!(letters[0][0].starts_with("schema id 1: the record ends within its value"), "{letters:?}");
    assert!(letters[1][0].starts_with("schema id 9 is unknown to schema registry"), "{letters:?}");
    assert!(letters[2][0].starts_with("the record is no Avro of a schema registry"), "{letters:?}");
    let columns = query(
        &client,
        "SELECT column_name, data_type FROM information_schema.columns \
        WHERE table_name = 'payments' ORDER BY ordinal_position",
    )
    .await;
    assert_eq!(columns, [["id", "integer"], ["customer", "text"]]);

    // What cannot be read waits; nothing else does.
    server.kill();
    registry.answer_like(How::Away);
    produce_payments(&producer, (31..=35).map(|id| payment(3, id)).chain((36..=40).map(|id| payment(1, id))))
        .await;
    server.restart().await;
    let client = server.connect().await;
    execute(&client, "INSERT INTO beside VALUES (1), (2)").await;
    wait_for(&server, "SELECT n FROM of_beside", &["2"]).await;
    let away =
        "SELECT last_error LIKE '%schema registry%does not answer%' FROM tm_sources WHERE name = 'payments'";
    wait_for(&server, away, &["t"]).await;
    assert_eq!(query(&client, "SELECT n FROM seen").await, [["30"]]);
    registry.answer_like(How::Well);
    wait_for(&server, "SELECT n, ids FROM seen", &["40", "40"]).await;
    wait_for(&server, "SELECT n, total FROM of_back", &["40", "820"]).await;
    assert_eq!(query(&client, "SELECT count(*) FROM tm_dead_letters").await, [["3"]]);

    // A registry that has another schema under the subject is heard before anything is written.
    let error = server::failure(
        &client,
        &format!(
            "CREATE SINK other AS SELECT customer FROM payments \
             WITH (connector = 'kafka', topic = 'totals', {at}) FORMAT PLAIN {avro}"
        ),
    )
    .await;
    assert_eq!(error.code().code(), "42804", "{error}");
    assert!(error.message().contains("incompatible with an earlier schema"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_answer_is_an_error_of_the_statement() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let started = Instant::now();
    // Port 1 is nobody's.
    let error = server::failure(
        &client,
        "CREATE SOURCE s (a INT) WITH (connector = 'kafka', topic = 't', properties.bootstrap.server = '127.0.0.1:1') \
         FORMAT PLAIN ENCODE JSON",
    )
    .await;
    assert_eq!(error.code().code(), "08001", "{error}");
    assert!(
        error.message().contains("127.0.0.1:1") || error.detail().is_some_and(|d| d.contains("127.0.0.1:1")),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(15), "it takes {:?}", started.elapsed());
    assert_eq!(query(&client, "SHOW SOURCES").await.len(), 0);
}

pub async fn wait_for(server: &Server, sql: &str, expected: &[&str]) {
    let client = server.connect().await;
    let deadline = Instant::now() + server::TIMEOUT;
    loop {
        let rows = query(&client, sql).await;
        if rows == [expected] {
            return;
        }
        assert!(Instant::now() < deadline, "{sql} gives {rows:?}, not {expected:?}:\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
