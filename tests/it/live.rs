//! A pipeline is changed under load: no reader sees anything but the old rows or the new ones, a sink's rows are exactly what is
//! shown, also where the server is killed in the middle.
//!
//! `TIDEMILL_CHANGES` says how often it is changed (8); `TIDEMILL_SEED` gives other moments. After half of the changes, and in
//! the middle of others, the server is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::kafka::wait_for;
use crate::moments::{Moments, from_env};
use crate::recovery::replay;
use crate::server::{self, Server, execute, query, try_query};

/// What the pipeline may be. All have the same columns.
const QUERIES: [&str; 4] = [
    "SELECT k, sum(v) AS s, count(*) AS n FROM t GROUP BY k",
    "SELECT k, sum(v) AS s, count(*) AS n FROM t WHERE v % 2 = 0 GROUP BY k",
    "SELECT k, sum(v * 2) AS s, count(*) AS n FROM t GROUP BY k",
    "SELECT t.k, sum(v + weight) AS s, count(*) AS n FROM t JOIN weights ON weights.k = t.k GROUP BY t.k",
];

/// Adds and changes rows until it is told to stop.
async fn write(address: Arc<Mutex<String>>, is_stopping: Arc<AtomicBool>) {
    let mut id = 0;
    while !is_stopping.load(Ordering::Relaxed) {
        let now = address.lock().await.clone();
        let Ok(client) = server::connect(&now).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !is_stopping.load(Ordering::Relaxed) {
            id += 1;
            let sql = format!(
                "INSERT INTO t VALUES ({id}, {} , {id}) ON CONFLICT (id) DO NOTHING; UPDATE t SET v = v + 3 WHERE id = {}; \
                 DELETE FROM t WHERE id = {}",
                id % 7,
                id / 2,
                if id % 5 == 0 { id / 3 } else { 0 },
            );
            if client.batch_execute(&sql).await.is_err() {
                break;
            }
        }
    }
}

/// Looks whether the pipeline and what reads it belong together, until it is told to stop.
async fn read(address: Arc<Mutex<String>>, is_stopping: Arc<AtomicBool>, n_reads: Arc<AtomicU64>) {
    let sql = "SELECT (SELECT sum(s) FROM p) AS of_p, (SELECT s FROM total) AS of_total, \
               (SELECT sum(n) FROM p) AS n_of_p, (SELECT n FROM total) AS n_of_total";
    while !is_stopping.load(Ordering::Relaxed) {
        let now = address.lock().await.clone();
        let Ok(client) = server::connect(&now).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !is_stopping.load(Ordering::Relaxed) {
            let Ok(rows) = try_query(&client, sql).await else { break };
            assert_eq!(
                (&rows[0][0], &rows[0][2]),
                (&rows[0][1], &rows[0][3]),
                "the old or the new, not both"
            );
            n_reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_changes_under_load() {
    let seed = from_env("TIDEMILL_SEED", 1);
    let n_changes = from_env("TIDEMILL_CHANGES", 8);
    let mut moments = Moments(seed);
    let directory = server::directory();
    let config = directory.path().join("tidemill.toml");
    std::fs::write(&config, "checkpoint_interval = \"200ms\"\n").expect("the directory can be written");
    let mut server = Server::start_with(directory.path(), &["--config", &config.display().to_string()]).await;
    let out = directory.path().join("out");
    let client = server.connect().await;
    execute(
        &client,
        &format!(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, k BIGINT, v BIGINT); \
             CREATE TABLE weights (k BIGINT PRIMARY KEY, weight BIGINT); \
             INSERT INTO weights SELECT k, k * 100 FROM generate_series(0, 4) AS g (k); \
             CREATE PIPELINE p AS {}; \
             CREATE PIPELINE total AS SELECT sum(s) AS s, sum(n) AS n FROM p; \
             CREATE PIPELINE many AS SELECT k, s FROM p WHERE n > 10; \
             CREATE SINK rows_out FROM p WITH (connector = 'file', path = '{}') FORMAT DEBEZIUM ENCODE JSON",
            QUERIES[0],
            out.display()
        ),
    )
    .await;
    drop(client);
    let address = Arc::new(Mutex::new(server.sql.clone()));
    let is_stopping = Arc::new(AtomicBool::new(false));
    let n_reads = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn(write(address.clone(), is_stopping.clone()));
    let reader = tokio::spawn(read(address.clone(), is_stopping.clone(), n_reads.clone()));
    let mut n_done = 0;
    for change in 1..=n_changes {
        tokio::time::sleep(Duration::from_millis(200 + moments.below(300))).await;
        let sql = format!("ALTER PIPELINE p AS {}", QUERIES[(change % 4) as usize]);
        let client = server.connect().await;
        // Half of the kills come in the middle.
        let is_hasty = change % 4 == 3;
        if is_hasty {
            let altered = tokio::spawn(async move { client.batch_execute(&sql).await });
            tokio::time::sleep(Duration::from_millis(moments.below(400))).await;
            server.kill_and_restart().await;
            *address.lock().await = server.sql.clone();
            n_done += u64::from(altered.await.expect("it does not panic").is_ok());
        } else {
            execute(&client, &sql).await;
            n_done += 1;
            if change % 2 == 0 {
                server.kill_and_restart().await;
                *address.lock().await = server.sql.clone();
            }
        }
    }
    is_stopping.store(true, Ordering::Relaxed);
    writer.await.expect("the writer does not panic");
    reader.await.expect("all reads belong together");
    assert!(n_reads.load(Ordering::Relaxed) > 20, "there were reads: {n_reads:?}");
    assert!(n_done >= n_changes / 2, "it was changed");

    let client = server.connect().await;
    execute(&client, "FLUSH").await;
    wait_for(&server, "SELECT sum(rows_pending) FROM tm_sinks", &["0"]).await;
    for pipeline in ["p", "total", "many"] {
        let verdict = query(&client, &format!("VERIFY PIPELINE {pipeline}")).await;
        assert_eq!(verdict[0][2], "equal", "seed {seed}: {pipeline}: {verdict:?}");
    }
    let mut shown: BTreeMap<String, i64> = BTreeMap::new();
    for row in query(&client, "SELECT * FROM p").await {
        *shown.entry(row.join("|")).or_default() += 1;
    }
    assert_eq!(replay(&out), shown, "seed {seed}: what the sink has written is what is shown");
    let pipelines = query(&client, "SELECT name, state FROM tm_pipelines ORDER BY name").await;
    assert_eq!(pipelines, [["many", "RUNNING"], ["p", "RUNNING"], ["total", "RUNNING"]]);
}
