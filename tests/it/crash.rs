//! The crash matrix: every source through every shape of pipeline into every sink, over ends at every durable step.
//!
//! One server has all cells of the matrix at once, and rows come in all the time: a client writes transactions to
//! two tables, files appear in a directory, a generator runs, messages go to Kafka. Again and again the server is told where
//! to abort (`tidemill_core::CRASH_POINTS`) or is killed at a random moment, and is started again. In the end, for each cell:
//!
//! - the pipeline shows the batch answer of its query over what its sources have given (`VERIFY PIPELINE`),
//! - what the sink has written makes up exactly what the pipeline shows,
//! - what was acknowledged to the client is there, and no half of any transaction, be it of rows or of definitions with rows.
//!
//! `TIDEMILL_ROUNDS` says how often each place is gone through (1), with as many random kills; `TIDEMILL_SEED` gives other
//! moments; `TIDEMILL_CRASH_POINTS` chooses among the places; `TIDEMILL_CRASH_KAFKA=1` adds Kafka, as a source and as a sink. The table of cells is printed:
//!
//! `TIDEMILL_ROUNDS=10 TIDEMILL_CRASH_KAFKA=1 cargo test --test it crash_matrix -- --nocapture`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tidemill_core::CRASH_POINTS;
use tokio::sync::Mutex;

use crate::kafka::{Kafka, wait_for};
use crate::moments::{Moments, from_env};
use crate::postgres::Postgres;
use crate::recovery::{changed, replay};
use crate::server::{self, Server, execute, query};

/// How long a place may take to be passed.
const REACHED: Duration = Duration::from_secs(60);
/// Rows of a file, and of a batch of messages.
const ROWS: u64 = 20;

/// Where rows come from: each as a relation with a key `k`, a value `v` and a time `at`.
struct Input {
    name: &'static str,
    create: String,
    /// Whether no row is ever taken back.
    is_append_only: bool,
}

fn inputs(directory: &Path, kafka: Option<&Kafka>, rounds: u64) -> Vec<Input> {
    let columns = "k BIGINT, v BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '2 seconds'";
    let files = directory.join("in").display().to_string();
    let mut inputs = vec![
        Input {
            name: "rows",
            create: "CREATE TABLE accounts (id BIGINT PRIMARY KEY, v BIGINT); \
                     CREATE TABLE journal (id BIGINT, change BIGINT); \
                     CREATE INDEX accounts_by_value ON accounts (v); \
                     CREATE VIEW rows AS SELECT id % 17 AS k, v, \
                         TIMESTAMP '2026-01-01' + id * INTERVAL '1 second' AS at FROM accounts"
                .into(),
            is_append_only: false,
        },
        Input {
            name: "files",
            create: format!(
                "CREATE SOURCE files ({columns}) WITH (connector = 'file', path = '{files}/*.csv', watch = 'true', \
                 discovery_interval = '100ms') FORMAT PLAIN ENCODE CSV (header = 'true')"
            ),
            is_append_only: true,
        },
        Input {
            name: "bids",
            create: format!(
                "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', rate = '400', events = '{}'); \
                 CREATE VIEW bids AS SELECT auction % 31 AS k, price AS v, date_time AS at FROM bid",
                n_events(rounds)
            ),
            is_append_only: true,
        },
    ];
    if let Some(kafka) = kafka {
        inputs.push(Input {
            name: "messages",
            create: format!(
                "CREATE SOURCE messages ({columns}) WITH (connector = 'kafka', topic = 'messages', \
                 properties.bootstrap.server = '{}') FORMAT PLAIN ENCODE JSON",
                kafka.address
            ),
            is_append_only: true,
        });
    }
    inputs
}

/// A query over an input, with columns of whole numbers only.
struct Shape {
    name: &'static str,
    query: &'static str,
    /// Whether its rows have a key.
    is_keyed: bool,
    /// Whether it never takes back a row, given that the input does not.
    is_append_only: bool,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "filter",
        query: "SELECT k, v FROM {} WHERE v % 3 = 0",
        is_keyed: false,
        is_append_only: true,
    },
    Shape {
        name: "groups",
        query: "SELECT k, count(*) AS n, sum(v) AS s, max(v) AS high FROM {} GROUP BY k",
        is_keyed: true,
        is_append_only: false,
    },
    Shape {
        name: "joined",
        query: "SELECT d.k, d.weight, g.n, g.s * d.weight AS s FROM dimension AS d \
                JOIN (SELECT k, count(*) AS n, sum(v) AS s FROM {} GROUP BY k) AS g ON g.k = d.k",
        is_keyed: true,
        is_append_only: false,
    },
    Shape {
        name: "top",
        query: "SELECT v, count(*) AS n FROM {} GROUP BY v ORDER BY v DESC LIMIT 10",
        is_keyed: true,
        is_append_only: false,
    },
    Shape {
        name: "windows",
        query: "SELECT CAST(extract(epoch FROM window_start) AS BIGINT) AS started, k, count(*) AS n, sum(v) AS s \
                FROM TUMBLE({}, at, INTERVAL '2 seconds') GROUP BY window_start, window_end, k",
        is_keyed: true,
        is_append_only: false,
    },
];

/// A pipeline and where its rows go.
struct Cell {
    pipeline: String,
    input: &'static str,
    shape: &'static str,
    sinks: Vec<&'static str>,
}

struct Places {
    files: PathBuf,
    postgres: Option<String>,
    kafka: Option<String>,
}

fn cells(inputs: &[Input], places: &Places) -> Vec<(Cell, String)> {
    let mut cells = Vec::new();
    for input in inputs {
        for shape in &SHAPES {
            let pipeline = format!("{}_{}", input.name, shape.name);
            let select = shape.query.replace("{}", input.name);
            let mut sql = format!("CREATE PIPELINE {pipeline} AS {select}");
            let mut sinks = vec!["file"];
            sql += &format!(
                "; CREATE SINK {pipeline}_file FROM {pipeline} WITH (connector = 'file', path = '{}') \
                 FORMAT DEBEZIUM ENCODE JSON",
                places.files.join(&pipeline).display()
            );
            let is_append_only = shape.is_append_only && input.is_append_only;
            if let Some(url) = &places.postgres
                && (shape.is_keyed || is_append_only)
            {
                sinks.push("postgres");
                let format = if shape.is_keyed { "UPSERT" } else { "PLAIN" };
                let key = if shape.name == "windows" { ", primary_key = 'started, k'" } else { "" };
                sql += &format!(
                    "; CREATE SINK {pipeline}_postgres FROM {pipeline} WITH (connector = 'postgres', url = '{url}', \
                     table = '{pipeline}', create_table = true{key}) FORMAT {format}"
                );
            }
            if let Some(address) = &places.kafka {
                sinks.push("kafka");
                sql += &format!(
                    "; CREATE SINK {pipeline}_kafka FROM {pipeline} WITH (connector = 'kafka', topic = '{pipeline}', \
                     properties.bootstrap.server = '{address}') FORMAT DEBEZIUM ENCODE JSON"
                );
            }
            cells.push((Cell { pipeline, input: input.name, shape: shape.name, sinks }, sql));
        }
    }
    cells
}

/// What a client has been told of its rows.
#[derive(Default)]
struct Ledger {
    /// What each id is known to hold, `None` for nothing; an id whose last answer never came is not here.
    known: BTreeMap<u64, Option<u64>>,
    n_acknowledged: u64,
}

/// All that makes rows while the server comes and goes.
struct Feeders {
    address: Arc<Mutex<String>>,
    is_stopping: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<Ledger>,
    definer: tokio::task::JoinHandle<()>,
    files: tokio::task::JoinHandle<u64>,
    messages: Option<tokio::task::JoinHandle<u64>>,
}

impl Feeders {
    fn start(server: &Server, directory: &Path, kafka: Option<&Kafka>, seed: u64) -> Feeders {
        let address = Arc::new(Mutex::new(server.sql.clone()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        Feeders {
            writer: tokio::spawn(write_rows(address.clone(), is_stopping.clone(), Moments(seed))),
            definer: tokio::spawn(define_and_drop(address.clone(), is_stopping.clone())),
            files: tokio::spawn(write_files(directory.join("in"), is_stopping.clone())),
            messages: kafka
                .map(|kafka| tokio::spawn(send_messages(kafka.address.clone(), is_stopping.clone()))),
            address,
            is_stopping,
        }
    }
}

/// A connection, once there is one.
async fn connect(address: &Mutex<String>, is_stopping: &AtomicBool) -> Option<tokio_postgres::Client> {
    while !is_stopping.load(Ordering::Relaxed) {
        let now = address.lock().await.clone();
        if let Ok(client) = server::connect(&now).await {
            return Some(client);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Writes transactions over two tables: an account and what was done to it.
async fn write_rows(
    address: Arc<Mutex<String>>,
    is_stopping: Arc<AtomicBool>,
    mut moments: Moments,
) -> Ledger {
    let mut ledger = Ledger::default();
    let mut next = 0;
    while let Some(client) = connect(&address, &is_stopping).await {
        while !is_stopping.load(Ordering::Relaxed) {
            let known: Vec<u64> =
                ledger.known.iter().filter(|(_, value)| value.is_some()).map(|(id, _)| *id).collect();
            let old = (!known.is_empty()).then(|| known[moments.below(known.len() as u64) as usize]);
            let value = moments.below(1000);
            let (id, after, change) = match (moments.below(4), old) {
                (0, Some(id)) => (id, None, format!("DELETE FROM accounts WHERE id = {id}")),
                (1, Some(id)) => {
                    (id, Some(value), format!("UPDATE accounts SET v = {value} WHERE id = {id}"))
                }
                _ => {
                    next += 1;
                    (next, Some(value), format!("INSERT INTO accounts VALUES ({next}, {value})"))
                }
            };
            let entry = match (&after, ledger.known.get(&id)) {
                (None, _) => -1,
                (Some(_), Some(Some(_))) => 0,
                (Some(_), _) => 1,
            };
            let sql = format!("BEGIN; {change}; INSERT INTO journal VALUES ({id}, {entry}); COMMIT");
            match client.batch_execute(&sql).await {
                Ok(()) => {
                    ledger.known.insert(id, after);
                    ledger.n_acknowledged += 1;
                }
                Err(error) => {
                    // It may have been done or not.
                    ledger.known.remove(&id);
                    if let Some(error) =
                        error.as_db_error().filter(|error| !error.code().code().starts_with("57P"))
                    {
                        panic!("a transaction failed: {error}");
                    }
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    ledger
}

/// Changes definitions all the time: a pipeline with a sink that comes and goes, rows of a table that joins see, and
/// migrations, which define and drop in one transaction with a row that says so; and a pipeline that changes under its reader.
async fn define_and_drop(address: Arc<Mutex<String>>, is_stopping: Arc<AtomicBool>) {
    let mut n = 0;
    while let Some(client) = connect(&address, &is_stopping).await {
        while !is_stopping.load(Ordering::Relaxed) {
            n += 1;
            let statements = [
                "CREATE PIPELINE IF NOT EXISTS passing AS SELECT k, count(*) AS n FROM rows GROUP BY k"
                    .to_owned(),
                "CREATE SINK IF NOT EXISTS passing_out FROM passing WITH (connector = 'blackhole')"
                    .to_owned(),
                format!("UPDATE dimension SET weight = {} WHERE k = {}", n % 7, n % 31),
                "CREATE INDEX IF NOT EXISTS journal_by_id ON journal (change, id)".to_owned(),
                "CREATE INDEX IF NOT EXISTS turning_by_sum ON turning (s)".to_owned(),
                "DROP SINK IF EXISTS passing_out".to_owned(),
                "DROP PIPELINE IF EXISTS passing".to_owned(),
                migration(n),
                format!("ALTER PIPELINE turning AS SELECT k, sum(v + {}) AS s FROM rows GROUP BY k", n % 5),
                format!(
                    "DROP INDEX IF EXISTS {}",
                    if n % 2 == 0 { "journal_by_id" } else { "turning_by_sum" }
                ),
            ];
            for sql in statements {
                match client.batch_execute(&sql).await {
                    Ok(()) => (),
                    Err(error) => match error.as_db_error() {
                        Some(error) if !error.code().code().starts_with("57P") => panic!("{sql}: {error}"),
                        _ => break,
                    },
                }
            }
            if client.is_closed() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A table of rows and a pipeline over it come, those of the one before the last go, and the history says both.
fn migration(n: u64) -> String {
    let gone = n.saturating_sub(2);
    format!(
        "BEGIN; CREATE TABLE moved_{n} AS SELECT k FROM dimension; INSERT INTO moved_{n} VALUES (100); \
         CREATE PIPELINE moved_{n}_sum AS SELECT sum(k) AS s FROM moved_{n}; INSERT INTO migrations VALUES ({n}); \
         DROP TABLE IF EXISTS moved_{gone} CASCADE; DELETE FROM migrations WHERE n = {gone}; COMMIT"
    )
}

/// Of a migration there is all or nothing.
async fn check_migrations(server: &Server) {
    let client = server.connect().await;
    let names = |rows: Vec<Vec<String>>| -> BTreeSet<String> { rows.into_iter().flatten().collect() };
    let known = names(query(&client, "SELECT 'moved_' || n FROM migrations").await);
    assert!(!known.is_empty(), "something was migrated");
    let tables = "SELECT relname FROM pg_class WHERE relname LIKE 'moved%' AND relkind = 'r'";
    assert_eq!(
        names(query(&client, tables).await),
        known,
        "what the history names is there, and nothing else"
    );
    for table in known {
        let rows = query(&client, &format!("SELECT count(*), sum(k) FROM {table}")).await;
        assert_eq!(rows, [["32", "565"]], "{table}");
        let shown = query(&client, &format!("SET freshness = 'strict'; SELECT s FROM {table}_sum")).await;
        assert_eq!(shown, [["565"]], "{table}_sum");
    }
}

fn row(n: u64) -> (u64, u64, String) {
    let second = n / 10;
    let at = format!("2026-01-01T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    (n % 13, n.wrapping_mul(0x9E37_79B9) % 1009, at)
}

/// Puts whole files into the directory; gives the number of rows.
async fn write_files(directory: PathBuf, is_stopping: Arc<AtomicBool>) -> u64 {
    let mut n = 0;
    for file in 0.. {
        if is_stopping.load(Ordering::Relaxed) {
            break;
        }
        let mut text = "k,v,at\n".to_owned();
        for _ in 0..ROWS {
            let (k, v, at) = row(n);
            n += 1;
            text += &format!("{k},{v},{at}\n");
        }
        let hidden = directory.join(format!(".{file:06}.csv"));
        std::fs::write(&hidden, text).expect("the directory can be written");
        std::fs::rename(&hidden, directory.join(format!("{file:06}.csv"))).expect("a file can be renamed");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    n
}

async fn send_messages(address: String, is_stopping: Arc<AtomicBool>) -> u64 {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &address).create().expect("a client");
    let mut n = 0;
    while !is_stopping.load(Ordering::Relaxed) {
        for _ in 0..ROWS {
            let (k, v, at) = row(n);
            n += 1;
            let (key, value) = (k.to_string(), format!(r#"{{"k": {k}, "v": {v}, "at": "{at}"}}"#));
            let record = FutureRecord::to("messages").key(&key).payload(&value);
            producer
                .send(record, Duration::from_secs(30))
                .await
                .map_err(|(error, _)| error)
                .expect("it is taken");
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crash_matrix() {
    let seed = from_env("TIDEMILL_SEED", 1);
    let rounds = from_env("TIDEMILL_ROUNDS", 1);
    let mut moments = Moments(seed);
    let service_directories = (server::directory(), server::directory());
    let postgres = Postgres::start(service_directories.0.path());
    let kafka = match from_env("TIDEMILL_CRASH_KAFKA", 0) {
        0 => None,
        _ => Kafka::start(service_directories.1.path()),
    };
    let directory = server::directory();
    std::fs::create_dir(directory.path().join("in")).expect("the directory can be written");
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "checkpoint_interval = \"200ms\"\n").expect("the directory can be written");
    let config = ["--config".to_owned(), config.display().to_string()];
    let mut server = Server::start_with(directory.path(), &[&config[0], &config[1]]).await;
    let client = server.connect().await;

    let inputs = inputs(directory.path(), kafka.as_ref(), rounds);
    let places = Places {
        files: directory.path().join("out"),
        postgres: postgres.as_ref().map(|there| format!("postgresql://postgres@{}/postgres", there.address)),
        kafka: kafka.as_ref().map(|there| there.address.clone()),
    };
    let cells = cells(&inputs, &places);
    if let Some(kafka) = &kafka {
        let topics: Vec<&str> =
            cells.iter().map(|(cell, _)| cell.pipeline.as_str()).chain(["messages"]).collect();
        kafka.create_topics(&topics).await;
    }
    execute(
        &client,
        "CREATE TABLE migrations (n BIGINT PRIMARY KEY); \
         CREATE TABLE dimension (k BIGINT PRIMARY KEY, weight BIGINT); \
         INSERT INTO dimension SELECT k, 1 FROM generate_series(0, 30) AS g (k)",
    )
    .await;
    for input in &inputs {
        execute(&client, &input.create).await;
    }
    for (_, sql) in &cells {
        execute(&client, sql).await;
    }
    execute(
        &client,
        "CREATE PIPELINE turning AS SELECT k, sum(v) AS s FROM rows GROUP BY k; \
         CREATE PIPELINE turned AS SELECT sum(s) AS s FROM turning",
    )
    .await;
    drop(client);
    let feeders = Feeders::start(&server, directory.path(), kafka.as_ref(), seed);

    let chosen = std::env::var("TIDEMILL_CRASH_POINTS").ok();
    let is_chosen =
        |point: &str| chosen.as_ref().is_none_or(|names| names.split(',').any(|name| name == point));
    let is_possible = |point: &str| match point.split('.').next() {
        Some("kafka") => kafka.is_some(),
        Some("postgres") => postgres.is_some(),
        _ => true,
    };
    let mut n_ends: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..rounds {
        for (point, what) in CRASH_POINTS.iter().filter(|(point, _)| is_possible(point) && is_chosen(point)) {
            // Any of the first times, so that it is not always the same member's.
            let nth = 1 + moments.below(if round == 0 { 3 } else { 40 });
            server.restart_armed(point, nth).await;
            *feeders.address.lock().await = server.sql.clone();
            let ended = server.ended_within(REACHED).await;
            assert!(
                ended,
                "seed {seed}: {point} ({what}) was not passed {nth} times:\n{}",
                server.log_tail()
            );
            *n_ends.entry(point).or_default() += 1;
            server.restart().await;
            *feeders.address.lock().await = server.sql.clone();
            tokio::time::sleep(Duration::from_millis(moments.below(700))).await;
            server.kill_and_restart().await;
            *feeders.address.lock().await = server.sql.clone();
        }
    }
    feeders.is_stopping.store(true, Ordering::Relaxed);
    let ledger = feeders.writer.await.expect("the writer does not panic");
    feeders.definer.await.expect("the one who defines does not panic");
    let n_files = feeders.files.await.expect("files can be written");
    let n_messages = match feeders.messages {
        Some(messages) => Some(messages.await.expect("messages can be sent")),
        None => None,
    };
    check_rows(&server, &ledger).await;
    check_migrations(&server).await;
    for pipeline in ["turning", "turned"] {
        let verdict = query(&server.connect().await, &format!("VERIFY PIPELINE {pipeline}")).await;
        assert_eq!(verdict[0][2], "equal", "{pipeline}: {verdict:?}");
    }

    // All that was given has been read, once.
    wait_for(&server, "SELECT sum(n) FROM files_groups", &[&n_files.to_string()]).await;
    if let Some(n_messages) = n_messages {
        wait_for(&server, "SELECT sum(n) FROM messages_groups", &[&n_messages.to_string()]).await;
    }
    wait_for(&server, "SELECT sum(n) FROM bids_groups", &[&n_bids(rounds).to_string()]).await;
    let client = server.connect().await;
    execute(&client, "FLUSH").await;
    wait_for(&server, "SELECT sum(rows_pending) FROM tm_sinks", &["0"]).await;

    let mut table = Table::default();
    for (cell, _) in &cells {
        let verdict = query(&client, &format!("VERIFY PIPELINE {}", cell.pipeline)).await;
        table.enter(cell, "batch", (verdict[0][2] != "equal").then(|| verdict[0].join(" | ")));
        let mut shown: BTreeMap<String, i64> = BTreeMap::new();
        for row in query(&client, &format!("SELECT * FROM {}", cell.pipeline)).await {
            *shown.entry(row.join("|")).or_default() += 1;
        }
        assert!(!shown.is_empty(), "{} has rows to compare", cell.pipeline);
        for sink in &cell.sinks {
            let written = match *sink {
                "file" => replay(&places.files.join(&cell.pipeline)),
                "postgres" => {
                    let there = postgres.as_ref().expect("the cell has it").connect().await;
                    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
                    for row in query(&there, &format!("SELECT * FROM {}", cell.pipeline)).await {
                        *rows.entry(row.join("|")).or_default() += 1;
                    }
                    rows
                }
                _ => {
                    let messages =
                        kafka.as_ref().expect("the cell has it").read(&cell.pipeline, "read_committed");
                    changed(messages.into_iter().filter_map(|(_, value)| value))
                }
            };
            table.enter(cell, sink, difference(&shown, &written));
        }
    }
    table.print(&n_ends, seed);
    assert!(table.wrong.is_empty(), "seed {seed}: {:#?}", table.wrong);
}

/// How many events the generator has, of all kinds.
fn n_events(rounds: u64) -> u64 {
    20_000 * rounds
}

fn n_bids(rounds: u64) -> u64 {
    n_events(rounds) / 50 * 46
}

/// What was acknowledged is there, and transactions are there as a whole.
async fn check_rows(server: &Server, ledger: &Ledger) {
    let client = server.connect().await;
    assert!(ledger.n_acknowledged > 5, "the client got something done: {}", ledger.n_acknowledged);
    let rows = query(&client, "SELECT id, v FROM accounts").await;
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let rows: BTreeMap<u64, u64> = rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
    for (id, value) in &ledger.known {
        assert_eq!(rows.get(id), value.as_ref(), "account {id} is what was acknowledged last");
    }
    for (relation, index, column) in [
        ("accounts", "accounts_by_value", "v"),
        ("journal", "journal_by_id", "change"),
        ("turning", "turning_by_sum", "s"),
    ] {
        execute(&client, &format!("CREATE INDEX IF NOT EXISTS {index} ON {relation} ({column})")).await;
        let rows = format!("SELECT * FROM {relation} WHERE {column}");
        let (found, all) = (format!("{rows} BETWEEN 1 AND 300"), format!("{rows} + 0 BETWEEN 1 AND 300"));
        // It may have to be built again.
        let plan = format!("EXPLAIN {found}");
        while !query(&client, &plan).await.concat().join("\n").contains(&format!("index=[{index}]")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(server::sorted(&client, &found).await, server::sorted(&client, &all).await, "{index}");
    }
    let journal = "SELECT id, sum(change) FROM journal GROUP BY id HAVING sum(change) <> 0";
    let journal = query(&client, journal).await;
    let open: BTreeSet<u64> = journal.iter().filter(|row| row[1] == "1").map(|row| number(&row[0])).collect();
    assert_eq!(open.len(), journal.len(), "an account is opened once and closed once");
    assert_eq!(open, rows.keys().copied().collect(), "of a transaction there is all or nothing");
}

/// How what a sink has written differs from what its pipeline shows.
fn difference(shown: &BTreeMap<String, i64>, written: &BTreeMap<String, i64>) -> Option<String> {
    let mut difference = written.clone();
    for (row, n) in shown {
        *difference.entry(row.clone()).or_default() -= n;
    }
    difference.retain(|_, n| *n != 0);
    let examples: Vec<_> = difference.iter().take(3).collect();
    (!difference.is_empty()).then(|| {
        format!("{} rows differ (negative is lost, positive is doubled): {examples:?}", difference.len())
    })
}

/// The cells and what was found of them.
#[derive(Default)]
struct Table {
    /// By input and shape, what was compared.
    rows: Vec<(String, String)>,
    wrong: BTreeMap<String, String>,
}

impl Table {
    fn enter(&mut self, cell: &Cell, what: &str, wrong: Option<String>) {
        let name = format!("{} × {}", cell.input, cell.shape);
        if self.rows.last().is_none_or(|(last, _)| *last != name) {
            self.rows.push((name.clone(), String::new()));
        }
        let (_, found) = self.rows.last_mut().expect("pushed above");
        *found += &format!("{what}: {}  ", if wrong.is_none() { "ok" } else { "WRONG" });
        if let Some(wrong) = wrong {
            self.wrong.insert(format!("{name} × {what}"), wrong);
        }
    }

    fn print(&self, n_ends: &BTreeMap<&str, u64>, seed: u64) {
        let n_aborts: u64 = n_ends.values().sum();
        println!("seed {seed}: {n_aborts} aborts at {} places, as many random kills", n_ends.len());
        for (point, n) in n_ends {
            println!("  {n:>4} × {point}");
        }
        for (name, found) in &self.rows {
            println!("{name:<22} {found}");
        }
    }
}
