//! `kill -9` at any moment: after a restart everything is as if nothing had happened.
//!
//! Two servers run the same statements over the same generator. One is killed again and again while it
//! runs, the other is not; at the end their views, their tables and the files that their sinks wrote agree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::server::{self, Server, execute, query, sorted};

/// Events of all three kinds.
const EVENTS: u64 = 100_000;
/// How long the reading goes on, on a machine that takes no time for anything else. The kills come meanwhile.
const READING: Duration = Duration::from_secs(12);

/// Between starts and kills, in milliseconds: at once, within a checkpoint interval, after several.
const KILL_AFTER: [u64; 6] = [5, 1200, 300, 40, 2300, 700];

const SOURCES: [&str; 3] = ["person", "auction", "bid"];

/// Pipelines of every operator that keeps state.
const PIPELINES: [(&str, &str); 8] = [
    ("bids", "SELECT count(*) AS n, sum(price) AS total, min(price) AS low, max(price) AS high FROM bid"),
    ("per_auction", "SELECT auction, count(*) AS n, max(price) AS high FROM bid GROUP BY auction"),
    ("bidders", "SELECT auction, count(DISTINCT bidder) AS n FROM bid GROUP BY auction"),
    (
        "per_category",
        "SELECT a.category, count(*) AS n, sum(b.price) AS total FROM bid AS b JOIN auction AS a ON a.id = b.auction \
         GROUP BY a.category",
    ),
    (
        "unsold",
        "SELECT a.id FROM auction AS a WHERE NOT EXISTS (SELECT 1 FROM bid AS b WHERE b.auction = a.id)",
    ),
    (
        "sellers",
        "SELECT p.id, p.state, a.id AS auction FROM person AS p LEFT JOIN auction AS a ON a.seller = p.id",
    ),
    ("states", "SELECT DISTINCT state FROM person"),
    ("top", "SELECT auction, high FROM per_auction ORDER BY high DESC, auction LIMIT 10"),
];

async fn define(server: &Server, output: &Path, rate: u64) {
    let client = server.connect().await;
    for table in SOURCES {
        let sql = format!(
            "CREATE SOURCE {table} WITH (connector = 'generator', table = '{table}', events = '{EVENTS}', rate = '{rate}', \
             seed = '11', batch_rows = '500')"
        );
        execute(&client, &sql).await;
    }
    for (name, select) in PIPELINES {
        execute(&client, &format!("CREATE PIPELINE {name} AS {select}")).await;
    }
    execute(
        &client,
        "CREATE PIPELINE dear AS SELECT auction, bidder, price, date_time FROM bid WHERE price > 1000000",
    )
    .await;
    let sink = format!(
        "CREATE SINK dear_files FROM dear WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE JSON",
        output.display()
    );
    execute(&client, &sink).await;
    let changes = format!(
        "CREATE SINK change_files FROM per_category WITH (connector = 'file', path = '{}-changes') FORMAT DEBEZIUM ENCODE JSON",
        output.display()
    );
    execute(&client, &changes).await;
    execute(&client, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)").await;
    execute(&client, "CREATE PIPELINE note_count AS SELECT count(*) AS n, sum(id) AS ids FROM notes").await;
}

async fn views(server: &Server) -> BTreeMap<&'static str, Vec<Vec<String>>> {
    let client = server.connect().await;
    let mut views = BTreeMap::new();
    for (name, _) in PIPELINES {
        views.insert(name, sorted(&client, &format!("SELECT * FROM {name}")).await);
    }
    views.insert("dear", sorted(&client, "SELECT * FROM dear").await);
    views
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kill_at_any_moment_changes_nothing() {
    let (calm_directory, killed_directory) = (server::directory(), server::directory());
    let (calm_output, killed_output) =
        (calm_directory.path().join("out"), killed_directory.path().join("out"));
    let calm = Server::start(calm_directory.path()).await;
    let started = Instant::now();
    define(&calm, &calm_output, 0).await;
    // Sources are read from the first definition on; what the machine needs for them, and for the restarts, comes on top.
    let reading = READING + 3 * started.elapsed();
    let rate = (EVENTS * 1000).div_ceil(reading.as_millis() as u64);
    calm.wait_until_finished(&SOURCES).await;
    let expected = views(&calm).await;
    for (name, rows) in &expected {
        assert!(!rows.is_empty(), "{name} has rows to compare");
    }

    let mut killed = Server::start(killed_directory.path()).await;
    define(&killed, &killed_output, rate).await;
    let writer = Writer::start(&killed);
    let mut n_kills_while_reading = 0;
    for after in KILL_AFTER {
        tokio::time::sleep(Duration::from_millis(after)).await;
        let client = killed.connect().await;
        let sources = query(&client, "SELECT name, state FROM tm_sources").await;
        n_kills_while_reading += usize::from(sources.iter().any(|row| row[1] == "RUNNING"));
        killed.kill_and_restart().await;
        *writer.address.lock().await = killed.sql.clone();
    }
    // A slow machine may be through before the last ones.
    assert!(n_kills_while_reading >= 4, "only {n_kills_while_reading} kills came while sources were read");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (acknowledged, attempted) = writer.stop().await;
    killed.wait_until_finished(&SOURCES).await;

    let actual = views(&killed).await;
    for (name, rows) in &expected {
        assert_same(name, rows, &actual[name]);
    }
    // What was acknowledged is there, what was not may be, and nothing else; the key says that it is there once.
    let client = killed.connect().await;
    let notes = query(&client, "SELECT id FROM notes ORDER BY id").await;
    let notes: Vec<u64> = notes.iter().map(|row| row[0].parse().expect("an id is a number")).collect();
    assert!(acknowledged.len() > 20, "the writer got something done: {}", acknowledged.len());
    for id in &acknowledged {
        assert!(notes.binary_search(id).is_ok(), "the acknowledged row {id} is lost");
    }
    for id in &notes {
        assert!(*id < attempted, "row {id} comes from nowhere");
    }
    let total: u64 = notes.iter().sum();
    assert_eq!(
        query(&client, "SELECT n, ids FROM note_count").await,
        [[notes.len().to_string(), total.to_string()]]
    );

    // SIGTERM delivers what is left; so both directories are complete.
    drop(client);
    let mut calm = calm;
    assert!(calm.terminate().await.success(), "SIGTERM ends well:\n{}", calm.log_tail());
    assert!(killed.terminate().await.success(), "SIGTERM ends well:\n{}", killed.log_tail());
    let dear = lines(&calm_output);
    assert_eq!(dear.len(), expected["dear"].len(), "the sink wrote what its pipeline shows");
    assert_same("dear_files", &dear, &lines(&killed_output));
    let changes = |output: &Path| replay(&output.with_file_name("out-changes"));
    let of_view: BTreeMap<String, i64> =
        expected["per_category"].iter().map(|row| (row.join("|"), 1)).collect();
    assert_eq!(changes(&calm_output), of_view, "the changes that were written make up the view");
    assert_eq!(
        changes(&killed_output),
        of_view,
        "the changes that were written make up the view, after kills as well"
    );
}

/// What a pipeline has failed on is there after any number of restarts: the log keeps what its checkpoint lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_pipeline_stays_failed() {
    let directory = server::directory();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "checkpoint_interval = \"10ms\"\n").expect("the directory can be written");
    let mut server = Server::start_with(directory.path(), &["--config", &config.display().to_string()]).await;
    let client = server.connect().await;
    execute(&client, "CREATE TABLE t (a INT); CREATE PIPELINE p AS SELECT sum(10 / a) AS s FROM t").await;
    execute(&client, "INSERT INTO t VALUES (1), (2)").await;
    wait_for_checkpoint(&client, "p").await;
    execute(&client, "INSERT INTO t VALUES (0)").await;
    for life in 0..4 {
        let client = server.connect().await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while query(&client, "SELECT state FROM tm_pipelines WHERE name = 'p'").await != [["FAILED"]] {
            assert!(Instant::now() < deadline, "in life {life} it runs, as if the row had never been");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(query(&client, "SELECT s FROM p").await, [["15"]], "its last good answer, in life {life}");
        // The table's checkpoint holds the rows now, and the log could go but for the pipeline.
        execute(&client, "INSERT INTO t VALUES (5)").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill_and_restart().await;
    }
}

fn assert_same<T: Ord + Clone + std::fmt::Debug>(name: &str, expected: &[T], actual: &[T]) {
    let count = |rows: &[T]| {
        let mut counts: BTreeMap<T, i64> = BTreeMap::new();
        rows.iter().for_each(|row| *counts.entry(row.clone()).or_default() += 1);
        counts
    };
    let mut difference = count(actual);
    for (row, n) in count(expected) {
        *difference.entry(row).or_default() -= n;
    }
    difference.retain(|_, n| *n != 0);
    let shown: Vec<_> = difference.iter().take(5).collect();
    assert!(
        difference.is_empty(),
        "{name} differs after the kills in {} of {} rows (negative is lost, positive is doubled): {shown:?}",
        difference.len(),
        expected.len()
    );
}

/// All lines of all files of a directory that are visible to readers.
fn lines(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the sink has made its directory") {
        let path = entry.expect("the directory can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("the name is text").to_owned();
        if name.starts_with(['.', '_']) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a part file is text");
        assert!(text.is_empty() || text.ends_with('\n'), "{name} is whole");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

/// The rows that are left when all changes of a directory have been applied, in any order.
pub fn replay(directory: &Path) -> BTreeMap<String, i64> {
    changed(lines(directory))
}

/// The rows that are left of changes, each as JSON with the row before and after.
pub fn changed(changes: impl IntoIterator<Item = String>) -> BTreeMap<String, i64> {
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    for line in changes {
        let change: serde_json::Value = serde_json::from_str(&line).expect("a change is JSON");
        for (side, weight) in [("before", -1), ("after", 1)] {
            if let Some(row) = change[side].as_object() {
                let values: Vec<String> = row.values().map(|value| value.to_string()).collect();
                *rows.entry(values.join("|")).or_default() += weight;
            }
        }
    }
    rows.retain(|_, weight| *weight != 0);
    rows
}

/// A client that inserts row after row, and knows which of them were acknowledged.
struct Writer {
    address: Arc<Mutex<String>>,
    is_stopping: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(Vec<u64>, u64)>,
}

impl Writer {
    fn start(server: &Server) -> Writer {
        let address = Arc::new(Mutex::new(server.sql.clone()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(address.clone(), is_stopping.clone()));
        Writer { address, is_stopping, task }
    }

    async fn stop(self) -> (Vec<u64>, u64) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer does not panic")
    }
}

async fn write(address: Arc<Mutex<String>>, is_stopping: Arc<AtomicBool>) -> (Vec<u64>, u64) {
    let mut acknowledged = Vec::new();
    let mut id = 0;
    while !is_stopping.load(Ordering::Relaxed) {
        let address = address.lock().await.clone();
        let Ok(client) = server::connect(&address).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !is_stopping.load(Ordering::Relaxed) {
            let this = id;
            id += 1;
            let sql = format!("INSERT INTO notes VALUES ({this}, 'note {this}')");
            match client.batch_execute(&sql).await {
                Ok(()) => acknowledged.push(this),
                Err(error) => match error.as_db_error() {
                    // On its way down the server may still say so.
                    Some(error) if error.code().code().starts_with("57P") => break,
                    Some(error) => panic!("an INSERT failed: {error}"),
                    None => break,
                },
            }
        }
    }
    (acknowledged, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_survive_a_kill() {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    execute(&client, "CREATE SCHEMA s").await;
    execute(&client, "CREATE TABLE s.t (a INT PRIMARY KEY, b TEXT)").await;
    execute(&client, "COMMENT ON TABLE s.t IS 'kept'").await;
    execute(&client, "CREATE VIEW v AS SELECT a FROM s.t").await;
    execute(&client, "CREATE PIPELINE p AS SELECT count(*) AS n FROM v").await;
    execute(&client, "INSERT INTO s.t VALUES (1, 'x'), (2, 'y')").await;
    execute(&client, "CREATE TABLE gone (a INT)").await;
    execute(&client, "DROP TABLE gone").await;
    server.kill_and_restart().await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT n FROM p").await, [["2"]]);
    assert_eq!(query(&client, "SELECT b FROM s.t WHERE a = 2").await, [["y"]]);
    let error = server::failure(&client, "SELECT * FROM gone").await;
    assert_eq!(error.code().code(), "42P01");
    let error = server::failure(&client, "INSERT INTO s.t VALUES (1, 'again')").await;
    assert_eq!(error.code().code(), "23505");
    execute(&client, "DELETE FROM s.t WHERE a = 1").await;
    drop(client);
    // A stop that is asked for keeps all of it as well.
    assert!(server.terminate().await.success());
    server.restart().await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT n FROM p").await, [["1"]]);
}

/// A pipeline over two others makes one dataflow of theirs, whose state has been written by both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_that_become_one_dataflow_survive_a_kill() {
    let directory = server::directory();
    let config = directory.path().join("tidemill.toml");
    std::fs::write(&config, "checkpoint_interval = \"10ms\"\n").expect("the directory can be written");
    let mut server =
        Server::start_with(directory.path(), &["--config", config.to_str().expect("text")]).await;
    let client = server.connect().await;
    // Of each another number of checkpoints, with other rows, so that nothing of one fits another.
    for (name, n_checkpoints, factor) in [("a", 9, 1), ("b", 6, 10), ("c", 3, 100)] {
        let sql = format!(
            "CREATE TABLE t{name} (k INT, v INT); \
             CREATE PIPELINE {name} AS SELECT k, sum(v) AS v FROM t{name} GROUP BY k"
        );
        execute(&client, &sql).await;
        for v in 1..=n_checkpoints {
            execute(&client, &format!("INSERT INTO t{name} VALUES ({v}, {v} * {factor}), (0, {factor})"))
                .await;
            wait_for_checkpoint(&client, name).await;
        }
    }
    execute(&client, "CREATE PIPELINE ab AS SELECT a.k, a.v + b.v AS v FROM a JOIN b ON a.k = b.k").await;
    execute(&client, "CREATE PIPELINE abc AS SELECT ab.k, ab.v + c.v AS v FROM ab JOIN c ON ab.k = c.k")
        .await;
    wait_for_checkpoint(&client, "abc").await;
    let expected = sorted(&client, "SELECT * FROM abc").await;
    assert_eq!(expected, [["0", "369"], ["1", "111"], ["2", "222"], ["3", "333"]]);
    for _ in 0..2 {
        server.kill_and_restart().await;
        let client = server.connect().await;
        execute(&client, "FLUSH").await;
        assert_eq!(sorted(&client, "SELECT * FROM abc").await, expected);
    }
}

/// Waits until what a pipeline shows now is in a checkpoint.
async fn wait_for_checkpoint(client: &tokio_postgres::Client, pipeline: &str) {
    let deadline = std::time::Instant::now() + server::TIMEOUT;
    let sql = format!("SELECT epoch, checkpoint_epoch FROM tm_pipelines WHERE name = '{pipeline}'");
    let epoch: u64 = query(client, &sql).await[0][0].parse().expect("an epoch is a number");
    while query(client, &sql).await[0][1].parse::<u64>().expect("an epoch is a number") < epoch {
        assert!(std::time::Instant::now() < deadline, "there is no checkpoint of {pipeline}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_do_not_share_a_directory() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["start", "--listen", "127.0.0.1:0", "--http", "off", "--data"])
        .arg(directory.path().join("data"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the server's binary can be run");
    let second = tokio::task::spawn_blocking(move || second.wait_with_output());
    let output = tokio::time::timeout(Duration::from_secs(60), second).await;
    let output =
        output.expect("the second server gives up").expect("no panic").expect("its output can be read");
    assert!(!output.status.success(), "a second server is refused");
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT 1").await, [["1"]]);
}
