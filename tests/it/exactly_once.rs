//! Every row once at the destination, and each key in order, whatever ends in between.
//!
//! Kafka to Kafka: a producer upstream writes transactions, of which some are aborted, while the server is killed, the broker
//! is stopped or killed, or both. `TIDEMILL_KILLS` says how often something ends; `TIDEMILL_SEED` gives other
//! moments. Half of the times it is when messages of the sink come in, hence in the middle of a transaction.
//! A generator to PostgreSQL: its tables are the pipelines' rows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::kafka::{Kafka, PARTITIONS, WAIT, is_passing, wait_for};
use crate::moments::{Moments, from_env};
use crate::postgres::Postgres;
use crate::server::{self, Server, execute, query, sorted, try_query};

const KILLS: u64 = 4;
const KEYS: u64 = 10;
/// Events of a transaction upstream.
const TRANSACTION: u64 = 20 * KEYS;

/// Writes events of ten keys, each numbered, in transactions.
struct Upstream {
    /// Held by who ends the broker: what becomes of a transaction meanwhile is not what is tested.
    broker: Arc<Mutex<()>>,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Upstream {
    fn start(address: &str) -> Upstream {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("transactional.id", "upstream")
            .create()
            .expect("a client");
        patiently("transactions", || producer.init_transactions(WAIT));
        let (broker, is_stopping) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let (lock, stop) = (broker.clone(), is_stopping.clone());
        let thread = std::thread::spawn(move || {
            let mut n_committed = 0;
            for transaction in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let held = lock.lock().expect("nobody panics while holding it");
                producer.begin_transaction().expect("a transaction can be begun");
                let is_aborted = transaction % 5 == 4;
                for event in 0..TRANSACTION {
                    let n = (n_committed + event) / KEYS + if is_aborted { 1_000_000 } else { 0 };
                    let key = format!("c{}", event % KEYS);
                    // Comes first in the row, so that any sorting of rows would show.
                    let noise = n.wrapping_mul(0x9E37_79B9) % 1009;
                    let value = format!(r#"{{"noise": {noise}, "customer": "{key}", "n": {n}}}"#);
                    let record = BaseRecord::<str, str>::to("events").key(&key).payload(&value);
                    producer.send(record).map_err(|(error, _)| error).expect("the queue has room");
                }
                if is_aborted {
                    patiently("messages", || producer.flush(WAIT));
                    patiently("an abort", || producer.abort_transaction(WAIT));
                } else {
                    patiently("a commit", || producer.commit_transaction(WAIT));
                    n_committed += TRANSACTION;
                }
                drop(held);
                std::thread::sleep(Duration::from_millis(30));
            }
            n_committed
        });
        Upstream { broker, is_stopping, thread }
    }

    fn stop(self) -> u64 {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer does not fail")
    }
}

/// Asks a broker that may just be starting, on a machine that does something else too, until it answers.
fn patiently<T>(what: &str, ask: impl Fn() -> Result<T, KafkaError>) -> T {
    let deadline = Instant::now() + server::TIMEOUT;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => {
                let is_passing = is_passing(&error) || is_retriable(&error);
                assert!(is_passing && Instant::now() < deadline, "{what}: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Whether a transactional call may be made again, as librdkafka says itself.
fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}

/// Sees a topic as `isolation` shows it: in a transaction that is open, only who reads what is uncommitted sees more.
struct Watcher(BaseConsumer);

impl Watcher {
    fn new(kafka: &Kafka, isolation: &str) -> Watcher {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &kafka.address).set("isolation.level", isolation);
        Watcher(config.create().expect("a client"))
    }

    fn end(&self, topic: &str) -> i64 {
        let end =
            |partition| patiently("the end of a topic", || self.0.fetch_watermarks(topic, partition, WAIT)).1;
        (0..PARTITIONS).map(end).sum()
    }
}

/// Waits for the middle of a transaction of the sink's: messages are there that are not committed.
fn wait_for_transaction(server: &Server, committed: &Watcher, all: &Watcher) {
    let deadline = Instant::now() + server::TIMEOUT;
    // What is committed only grows, so asked first it is no later.
    while committed.end("copy") >= all.end("copy") {
        assert!(Instant::now() < deadline, "the sink goes on:\n{}", server.log_tail());
    }
}

/// The values of a topic that `isolation` shows, by key, in their order.
fn read(kafka: &Kafka, topic: &str, isolation: &str) -> BTreeMap<String, Vec<serde_json::Value>> {
    let mut values: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
    for (key, value) in kafka.read(topic, isolation) {
        let value = serde_json::from_str(&value.expect("a value")).expect("JSON");
        values.entry(key.expect("a key")).or_default().push(value);
    }
    values
}

/// Waits until all that there is has been delivered.
async fn wait_until_delivered(server: &Server) {
    let client = server.connect().await;
    execute(&client, "FLUSH").await;
    wait_for(server, "SELECT sum(rows_pending) FROM tm_sinks", &["0"]).await;
}

fn count(values: &BTreeMap<String, Vec<serde_json::Value>>) -> usize {
    values.values().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kafka_gets_every_row_once_and_in_order() {
    let kafka_directory = server::directory();
    let Some(mut kafka) = Kafka::start(kafka_directory.path()) else { return };
    kafka.create_topics(&["events", "copy", "totals"]).await;
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let at = format!("connector = 'kafka', properties.bootstrap.server = '{}'", kafka.address);
    let statements = format!(
        "CREATE SOURCE events (noise BIGINT, customer TEXT, n BIGINT) WITH ({at}, topic = 'events') \
             FORMAT PLAIN ENCODE JSON;
         CREATE PIPELINE totals AS SELECT customer, count(*) AS n, max(n) AS last FROM events GROUP BY customer;
         CREATE SINK copy_out AS SELECT noise, customer, n FROM events \
             WITH ({at}, topic = 'copy', primary_key = 'customer', key.encode = 'text') FORMAT PLAIN ENCODE JSON;
         CREATE SINK totals_out FROM totals WITH ({at}, topic = 'totals', key.encode = 'text') \
             FORMAT UPSERT ENCODE JSON"
    );
    execute(&client, &statements).await;
    let (committed, all) = (Watcher::new(&kafka, "read_committed"), Watcher::new(&kafka, "read_uncommitted"));

    let upstream = Upstream::start(&kafka.address);
    let seed = from_env("TIDEMILL_SEED", 1);
    let mut moments = Moments(seed);
    for kill in 0..from_env("TIDEMILL_KILLS", KILLS) {
        if moments.below(2) == 0 {
            wait_for_transaction(&server, &committed, &all);
        } else {
            tokio::time::sleep(Duration::from_millis(moments.below(2500))).await;
        }
        let held = (kill % 4 != 0).then(|| upstream.broker.lock().expect("nobody panics while holding it"));
        let how = if moments.below(2) == 0 { "stop" } else { "kill" };
        println!("{kill}: {}", ["server", "broker", "server", "both"][(kill % 4) as usize]);
        match kill % 4 {
            1 => {
                kafka.end(how);
                std::thread::sleep(Duration::from_millis(moments.below(3000)));
                kafka.start_again();
            }
            3 => {
                kafka.end(how);
                server.kill_and_restart().await;
                std::thread::sleep(Duration::from_millis(moments.below(3000)));
                kafka.start_again();
            }
            _ => server.kill_and_restart().await,
        }
        drop(held);
    }
    // Whether a kill meets a transaction or comes just behind it is a matter of luck: one at least has to.
    let n_aborted =
        || count(&read(&kafka, "copy", "read_uncommitted")) - count(&read(&kafka, "copy", "read_committed"));
    let mut n_more = 0;
    loop {
        // Without anything new no transaction is open, and what nobody may see was aborted.
        let held = Some(upstream.broker.lock().expect("nobody panics while holding it"));
        wait_until_delivered(&server).await;
        let is_aborted = n_aborted() > 0;
        drop(held);
        if is_aborted {
            break;
        }
        assert!(n_more < 30, "no transaction is ever cut off:\n{}", server.log_tail());
        n_more += 1;
        wait_for_transaction(&server, &committed, &all);
        server.kill_and_restart().await;
    }
    let n_events = upstream.stop();
    let n_each = n_events / KEYS;
    assert!(n_events > 0, "something was written");
    wait_for(&server, "SELECT sum(n) FROM totals", &[&n_events.to_string()]).await;
    wait_until_delivered(&server).await;
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());

    let copies = read(&kafka, "copy", "read_committed");
    assert_eq!(copies.len() as u64, KEYS);
    for (key, rows) in &copies {
        let numbers: Vec<u64> = rows.iter().map(|row| row["n"].as_u64().expect("a number")).collect();
        let wrong = numbers.iter().enumerate().find(|(idx, n)| *idx as u64 != **n);
        assert_eq!(wrong, None, "seed {seed}: {key} has each of its rows once, in their order (place, row)");
        assert_eq!(numbers.len() as u64, n_each, "seed {seed}: {key} has all of its rows");
    }
    let totals = read(&kafka, "totals", "read_committed");
    assert_eq!(totals.len() as u64, KEYS);
    for (key, rows) in &totals {
        let numbers: Vec<u64> = rows.iter().map(|row| row["n"].as_u64().expect("a number")).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}: {key} only ever grows: {numbers:?}");
        assert_eq!(numbers.last(), Some(&n_each), "seed {seed}: the last total of {key} is its total");
    }
    let n_aborted = count(&read(&kafka, "copy", "read_uncommitted")) - count(&copies);
    assert!(n_aborted > 0, "seed {seed}: some of the sink's transactions were aborted on the way");
    println!(
        "{n_events} rows copied; {n_aborted} of the sink's were aborted on the way; {n_more} more kills"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres_gets_every_row_once() {
    let postgres_directory = server::directory();
    let Some(mut postgres) = Postgres::start(postgres_directory.path()) else { return };
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let kills = from_env("TIDEMILL_KILLS", KILLS);
    let (rate, seconds) = (4000, 3 * kills + 4);
    let at = format!("connector = 'postgres', url = 'postgresql://postgres@{}/postgres'", postgres.address);
    // The keys of the counts come and go.
    let statements = format!(
        "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = '{}', rate = '{rate}');
         CREATE PIPELINE dear AS SELECT auction, bidder, price, date_time FROM bid WHERE price > 100000;
         CREATE PIPELINE counts AS SELECT auction % 97 AS auction, n % 5 AS n, n AS total FROM \
             (SELECT auction, count(*) AS n FROM bid GROUP BY auction) WHERE n % 5 < 4;
         CREATE PIPELINE sums AS SELECT auction, sum(total) AS total, count(*) AS n FROM counts \
             GROUP BY auction HAVING sum(total) % 3 < 2;
         CREATE SINK dear_out FROM dear WITH ({at}, table = 'dear', create_table = true);
         CREATE SINK sums_out FROM sums WITH ({at}, table = 'sums', create_table = true) FORMAT UPSERT",
        rate * seconds
    );
    execute(&client, &statements).await;
    let seed = from_env("TIDEMILL_SEED", 1);
    let mut moments = Moments(seed);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(moments.below(2500))).await;
        match kill % 4 {
            1 => {
                postgres.stop();
                std::thread::sleep(Duration::from_millis(moments.below(2000)));
                postgres.start_again();
            }
            3 => {
                postgres.stop();
                server.kill_and_restart().await;
                std::thread::sleep(Duration::from_millis(moments.below(2000)));
                postgres.start_again();
            }
            _ => server.kill_and_restart().await,
        }
    }
    server.wait_until_finished(&["bid"]).await;
    let client = server.connect().await;
    let mut expected = Vec::new();
    for name in ["dear", "sums"] {
        expected.push(sorted(&client, &format!("SELECT * FROM {name}")).await);
    }
    drop(client);
    wait_until_delivered(&server).await;
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());
    let there = postgres.connect().await;
    for (name, expected) in ["dear", "sums"].into_iter().zip(expected) {
        let rows = sorted(&there, &format!("SELECT * FROM {name}")).await;
        assert!(!expected.is_empty(), "{name} has rows to compare");
        assert_eq!(rows.len(), expected.len(), "seed {seed}: {name} has as many rows as its pipeline");
        assert_eq!(rows, expected, "seed {seed}: {name} is what its pipeline shows");
    }
}

/// While a destination is away, its pipeline and who else reads that go on, although far more rows wait than memory
/// is to hold; when it is back, all of them arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dead_destination_holds_nobody_up() {
    let postgres_directory = server::directory();
    let Some(mut postgres) = Postgres::start(postgres_directory.path()) else { return };
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let at = format!("connector = 'postgres', url = 'postgresql://postgres@{}/postgres'", postgres.address);
    let statements = format!(
        "CREATE TABLE t (id BIGINT PRIMARY KEY);
         CREATE PIPELINE many AS SELECT id * 1000 + n AS id FROM (SELECT id, unnest(range(0, 1000)) AS n FROM t);
         CREATE PIPELINE total AS SELECT count(*) AS n FROM many;
         CREATE SINK many_out FROM many WITH ({at}, table = 'many', create_table = true, primary_key = 'id') FORMAT UPSERT;
         INSERT INTO t VALUES (0)"
    );
    execute(&client, &statements).await;
    postgres.stop();
    const BLOCKS: u64 = 1300;
    for block in 0..13 {
        let ids: Vec<String> = (1..=100).map(|n| format!("({})", block * 100 + n)).collect();
        execute(&client, &format!("INSERT INTO t VALUES {}", ids.join(", "))).await;
    }
    let n_rows = (BLOCKS + 1) * 1000;
    // An INSERT is seen at once by who has made it: the pipelines have followed.
    assert_eq!(query(&client, "SELECT n FROM total").await, [[n_rows.to_string()]]);
    execute(&client, "FLUSH").await;
    let deadline = Instant::now() + server::TIMEOUT;
    loop {
        let sql =
            "SELECT rows_pending, bytes_pending, pending_ms, retries FROM tm_sinks WHERE last_error <> ''";
        let rows = query(&client, sql).await;
        let numbers: Vec<u64> = rows.iter().flatten().map(|text| text.parse().expect("a number")).collect();
        if let [rows, bytes, millis, retries] = numbers[..]
            && rows >= BLOCKS * 1000
            && bytes > 8 * rows
            && millis > 0
            && retries > 0
        {
            break;
        }
        assert!(Instant::now() < deadline, "{rows:?}\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(client);
    server.kill_and_restart().await;
    postgres.start_again();
    let there = postgres.connect().await;
    while query(&there, "SELECT count(*) FROM many").await != [[n_rows.to_string()]] {
        assert!(Instant::now() < deadline, "not all rows arrive:\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(query(&there, "SELECT count(DISTINCT id) FROM many").await, [[n_rows.to_string()]]);
}

/// Lines as `auction bidder price`, in order, of files below `path` that a server writes while it is killed; and the rows that
/// should be there. `lines` gives each line with the name of its file.
pub async fn check_files(server: &mut Server, path: &str, lines: impl AsyncFn() -> Vec<(String, String)>) {
    let client = server.connect().await;
    let kills = from_env("TIDEMILL_KILLS", KILLS);
    let (rate, seconds) = (4000, 3 * kills + 4);
    let statements = format!(
        "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = '{}', rate = '{rate}');
         CREATE PIPELINE dear AS SELECT auction, bidder, price FROM bid WHERE price > 100000;
         CREATE SINK dear_out AS SELECT auction % 3 AS shard, auction, bidder, price FROM dear WITH (connector = 'file', \
             path = '{path}', partition_by = 'shard', roll_interval = '700ms', roll_size = '20kB') FORMAT PLAIN ENCODE JSON",
        rate * seconds
    );
    execute(&client, &statements).await;
    let seed = from_env("TIDEMILL_SEED", 1);
    let mut moments = Moments(seed);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(moments.below(2500))).await;
        if kill % 2 == 1 {
            let client = server.connect().await;
            let names = ["dear_out", "renamed"];
            let [from, to] = [names[(kill / 2 % 2) as usize], names[1 - (kill / 2 % 2) as usize]];
            execute(&client, &format!("ALTER SINK {from} RENAME TO {to}")).await;
        }
        server.kill_and_restart().await;
    }
    server.wait_until_finished(&["bid"]).await;
    let client = server.connect().await;
    let rows = sorted(&client, "SELECT auction, bidder, price FROM dear").await;
    let mut expected: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
    expected.sort();
    wait_until_delivered(server).await;
    let (mut found, mut names) = (Vec::new(), std::collections::BTreeSet::new());
    for (name, line) in lines().await {
        let row: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON, and whole");
        let number = |name: &str| row[name].as_i64().expect("a number");
        let (auction, bidder, price) = (number("auction"), number("bidder"), number("price"));
        assert!(name.contains(&format!("shard={}/", auction % 3)), "{name}: {line}");
        assert!(row.get("shard").is_none(), "{line}");
        found.push(format!("{auction} {bidder} {price}"));
        names.insert(name);
    }
    found.sort();
    assert!(expected.len() > 1000, "there is something to compare: {}", expected.len());
    assert_eq!(found.len(), expected.len(), "seed {seed}: as many rows as the pipeline has");
    assert_eq!(found, expected, "seed {seed}: the files hold what the pipeline shows");
    println!("{} rows in {} files", found.len(), names.len());
}

/// The lines of files below a directory, each with the path of its file; hidden ones are passed over.
fn lines_below(directory: &std::path::Path) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let entries = std::fs::read_dir(directory).expect("it is a directory");
    for path in entries.map(|entry| entry.expect("a directory can be read").path()) {
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            lines.extend(lines_below(&path));
        } else {
            let content = std::fs::read_to_string(&path).expect("it is text");
            lines.extend(content.lines().map(|line| (path.display().to_string(), line.to_owned())));
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_get_every_row_once() {
    let directory = server::directory();
    let out = directory.path().join("out");
    let mut server = Server::start(directory.path()).await;
    check_files(&mut server, &out.display().to_string(), async || lines_below(&out)).await;
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());
}

/// The end of the server lets what is gathered go, without waiting for it to become old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gathered_leaves_at_the_end() {
    let directory = server::directory();
    let out = directory.path().join("out");
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let statements = format!(
        "CREATE TABLE t (id BIGINT);
         CREATE SINK out FROM t WITH (connector = 'file', path = '{}', roll_interval = '1 hour', \
             force_append_only = true) FORMAT PLAIN ENCODE JSON;
         INSERT INTO t VALUES (1), (2)",
        out.display()
    );
    execute(&client, &statements).await;
    // A second checkpoint has come and gone.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(query(&client, "SELECT rows_pending, rows_delivered FROM tm_sinks").await, [["2", "0"]]);
    assert_eq!(lines_below(&out).len(), 0);
    server.kill_and_restart().await;
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());
    let mut lines: Vec<String> = lines_below(&out).into_iter().map(|(_, line)| line).collect();
    lines.sort();
    assert_eq!(lines, [r#"{"id":1}"#, r#"{"id":2}"#]);
}

/// A row that the destination does not take: it is left out and kept, once whatever ends in between; or the sink stands
/// still until the table takes it; or it is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_is_refused_is_left_out_or_waited_for() {
    let postgres_directory = server::directory();
    let Some(postgres) = Postgres::start(postgres_directory.path()) else { return };
    let there = postgres.connect().await;
    execute(&there, "CREATE TABLE out (id BIGINT PRIMARY KEY CHECK (id < 100), name VARCHAR(3))").await;
    execute(&there, "CREATE TABLE waits (id BIGINT CHECK (id < 100))").await;
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let at = format!("connector = 'postgres', url = 'postgresql://postgres@{}/postgres'", postgres.address);
    let statements = format!(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT);
         CREATE SINK out FROM t WITH ({at}, table = 'out', on_error = 'dead_letter') FORMAT UPSERT;
         CREATE SINK waits AS SELECT id FROM t WITH ({at}, table = 'waits', on_error = 'pause', force_append_only = true);
         INSERT INTO t VALUES (1, 'a'), (2, 'b')"
    );
    execute(&client, &statements).await;
    wait_until_delivered(&server).await;

    // The rows are kept, and the server ends before the others are there.
    server.restart_armed("postgres.written", 1).await;
    let client = server.connect().await;
    let insert = "INSERT INTO t VALUES (3, 'c'), (4, 'long'), (100, 'x')";
    // Whether there is an answer is not what this is about.
    let _ = try_query(&client, insert).await;
    assert!(server.ended_within(server::TIMEOUT).await, "it passes the place");
    server.restart().await;
    let client = server.connect().await;
    let refused = "SELECT raw, sqlstate, reason FROM tm_dead_letters WHERE object = 'out' AND stage = 'sink' ORDER BY raw";
    wait_for(&server, "SELECT rows_pending FROM tm_sinks WHERE name = 'out'", &["0"]).await;
    assert_eq!(sorted(&there, "SELECT * FROM out").await, [["1", "a"], ["2", "b"], ["3", "c"]]);
    let letters = query(&client, refused).await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (letter, (row, why)) in letters.iter().zip([("100,x", "out_id_check"), ("4,long", "too long")]) {
        assert_eq!([&letter[0], &letter[1]], [&server::bytea(row), "22000"]);
        assert!(letter[2].contains(why), "{letter:?}");
    }
    // What was refused is no less gone when it goes, and comes when it can.
    execute(&client, "DELETE FROM t WHERE id = 100; UPDATE t SET name = 'd' WHERE id = 4").await;
    wait_for(&server, "SELECT rows_pending FROM tm_sinks WHERE name = 'out'", &["0"]).await;
    wait_until_rows(&there, "SELECT * FROM out", &[["1", "a"], ["2", "b"], ["3", "c"], ["4", "d"]]).await;

    wait_for(&server, "SELECT state FROM tm_sinks WHERE name = 'waits'", &["PAUSED"]).await;
    let why = query(&client, "SELECT reason, since IS NOT NULL FROM tm_sinks WHERE name = 'waits'").await;
    assert!(why[0][0].contains("waits_id_check") && why[0][1] == "t", "{why:?}");
    assert_eq!(sorted(&there, "SELECT id FROM waits").await, [["1"], ["2"]]);
    execute(&there, "ALTER TABLE waits DROP CONSTRAINT waits_id_check").await;
    execute(&client, "ALTER SINK waits RESUME").await;
    wait_for(&server, "SELECT state, rows_pending FROM tm_sinks WHERE name = 'waits'", &["RUNNING", "0"])
        .await;
    assert_eq!(sorted(&there, "SELECT id FROM waits WHERE id < 100").await, [["1"], ["2"], ["3"], ["4"]]);

    // One that tries again can be told to leave out what does not help.
    execute(&there, "ALTER TABLE out ADD CHECK (name <> 'no')").await;
    execute(&client, "ALTER SINK out SET (on_error = 'retry')").await;
    execute(&client, "INSERT INTO t VALUES (5, 'no'), (6, 'f')").await;
    wait_for(&server, "SELECT retries > 1 FROM tm_sinks WHERE name = 'out'", &["t"]).await;
    execute(&client, "ALTER SINK out SET (on_error = 'dead_letter')").await;
    wait_for(&server, "SELECT rows_pending, rows_refused FROM tm_sinks WHERE name = 'out'", &["0", "3"])
        .await;
    assert_eq!(sorted(&there, "SELECT id FROM out WHERE id > 4").await, [["6"]]);
}

async fn wait_until_rows<const N: usize>(client: &tokio_postgres::Client, sql: &str, expected: &[[&str; N]]) {
    let deadline = Instant::now() + server::TIMEOUT;
    while sorted(client, sql).await != expected {
        assert!(Instant::now() < deadline, "{sql} never gives {expected:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("it is a directory").flatten() {
        match entry.path().is_dir() {
            true => copy_directory(&entry.path(), &to.join(entry.file_name())),
            false => {
                std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
            }
        }
    }
}

/// An old copy of a data directory, and a destination that is restored from a backup, are noticed after any number of
/// restarts; another name of the sink makes no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_destination_that_is_not_where_it_was_gets_nothing() {
    let postgres_directory = server::directory();
    let Some(postgres) = Postgres::start(postgres_directory.path()) else { return };
    let there = postgres.connect().await;
    let (directory, elsewhere) = (server::directory(), server::directory());
    let mut server = Server::start(directory.path()).await;
    let at = format!("connector = 'postgres', url = 'postgresql://postgres@{}/postgres'", postgres.address);
    let statements = format!(
        "CREATE TABLE t (id BIGINT);
         CREATE SINK out FROM t WITH ({at}, table = 'out', create_table = true, force_append_only = true);
         INSERT INTO t VALUES (1)"
    );
    execute(&server.connect().await, &statements).await;
    wait_until_delivered(&server).await;
    server.kill();
    copy_directory(&directory.path().join("data"), &elsewhere.path().join("data"));
    server.restart().await;
    execute(&server.connect().await, "INSERT INTO t VALUES (2)").await;
    wait_until_delivered(&server).await;
    // Renamed, and killed before any checkpoint.
    execute(&server.connect().await, "INSERT INTO t VALUES (3)").await;
    execute(&server.connect().await, "ALTER SINK out RENAME TO renamed").await;
    server.kill_and_restart().await;
    wait_until_delivered(&server).await;
    assert_eq!(sorted(&there, "SELECT id FROM out").await, [["1"], ["2"], ["3"]]);
    // Its last checkpoint knows that all of that has arrived.
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());

    let told = async |server: &Server, what: &str| {
        let client = server.connect().await;
        let deadline = Instant::now() + server::TIMEOUT;
        loop {
            let errors = query(&client, "SELECT last_error FROM tm_sinks").await;
            if errors[0][0].contains(what) && errors[0][0].contains("drop the sink") {
                return;
            }
            assert!(Instant::now() < deadline, "{errors:?}\n{}", server.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut copy = Server::start(elsewhere.path()).await;
    for n in 0..3 {
        told(&copy, "but this server wrote no more than").await;
        execute(&copy.connect().await, &format!("INSERT INTO t VALUES ({})", 100 + n)).await;
        // It goes on to later epochs than the destination has, and keeps them in a checkpoint.
        assert!(copy.terminate().await.success(), "SIGTERM ends well:\n{}", copy.log_tail());
        copy.restart().await;
    }
    told(&copy, "but this server wrote no more than").await;
    copy.kill();
    assert_eq!(sorted(&there, "SELECT id FROM out").await, [["1"], ["2"], ["3"]]);

    // A backup from before the third row.
    let epoch = query(&there, "SELECT epoch FROM tidemill_progress").await[0][0].clone();
    execute(&there, "DELETE FROM out WHERE id = 3; UPDATE tidemill_progress SET epoch = epoch - 1").await;
    server.restart().await;
    for n in 0..2 {
        told(&server, "before. It has gone back").await;
        execute(&server.connect().await, &format!("INSERT INTO t VALUES ({})", 4 + n)).await;
        assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());
        server.restart().await;
    }
    assert_eq!(sorted(&there, "SELECT id FROM out").await, [["1"], ["2"]]);
    execute(&there, &format!("INSERT INTO out VALUES (3); UPDATE tidemill_progress SET epoch = {epoch}"))
        .await;
    wait_until_delivered(&server).await;
    assert_eq!(sorted(&there, "SELECT id FROM out").await, [["1"], ["2"], ["3"], ["4"], ["5"]]);
}

/// How long a row takes from one topic to another, by kind of delivery.
///
/// `cargo test --release --test it kafka_delivery_latency -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn kafka_delivery_latency() {
    let kafka_directory = server::directory();
    let Some(kafka) = Kafka::start(kafka_directory.path()) else { return };
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let at = format!("connector = 'kafka', properties.bootstrap.server = '{}'", kafka.address);
    kafka.create_topics(&["at_least_once", "exactly_once"]).await;
    execute(&client, "CREATE TABLE events (id BIGINT PRIMARY KEY)").await;
    for delivery in ["at_least_once", "exactly_once"] {
        let sink = format!(
            "CREATE SINK {delivery} AS SELECT id FROM events WITH ({at}, topic = '{delivery}', \
             primary_key = 'id', delivery = '{delivery}') FORMAT UPSERT ENCODE JSON"
        );
        execute(&client, &sink).await;
    }
    for delivery in ["at_least_once", "exactly_once"] {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &kafka.address)
            .set("group.id", "reader")
            .set("fetch.wait.max.ms", "5")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a client");
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(delivery, partition, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&assignment).expect("partitions can be assigned");
        let mut millis: Vec<f64> = Vec::new();
        for id in 0..60 {
            // Not in step with the checkpoints.
            tokio::time::sleep(Duration::from_millis(1037 + 13 * (id % 17))).await;
            let began = Instant::now();
            let id = id + if delivery == "exactly_once" { 1000 } else { 0 };
            execute(&client, &format!("INSERT INTO events VALUES ({id})")).await;
            loop {
                let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
                let message = message.expect("a message can be read");
                let value = message.payload().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                if value == format!("{{\"id\":{id}}}") {
                    break;
                }
            }
            millis.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        millis.sort_by(f64::total_cmp);
        println!(
            "{delivery}: median {:.0} ms, largest {:.0} ms",
            millis[millis.len() / 2],
            millis[millis.len() - 1]
        );
    }
}
