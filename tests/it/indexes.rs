//! Indexes while something happens: the server is killed while one is built, a statement is given up, rows go on coming.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::server::{self, Server, TIMEOUT, execute, query, sorted};

/// So many that an index of them takes a while.
const N_ROWS: u64 = 300_000;

async fn big(server: &Server) {
    execute(
        &server.connect().await,
        &format!(
            "CREATE TABLE big AS SELECT value AS id, value * 31 % 100003 AS k, 'text ' || value % 1000 AS s
                 FROM generate_series(1, {N_ROWS}) AS g (value);
             CREATE PIPELINE copy AS SELECT id, k, s FROM big"
        ),
    )
    .await;
}

/// Waits until a filter on `k` is looked up, and compares what it finds with what is there.
async fn compare(server: &Server, relation: &str) {
    let client = server.connect().await;
    let find = format!("SELECT * FROM {relation} WHERE k BETWEEN 500 AND 700");
    until_looked_up(server, &find).await;
    let all = format!("SELECT * FROM {relation} WHERE k + 0 BETWEEN 500 AND 700");
    let found = sorted(&client, &find).await;
    assert!(found.len() > 100, "{} rows", found.len());
    assert_eq!(found, sorted(&client, &all).await, "{relation}");
}

async fn until_looked_up(server: &Server, find: &str) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_looked_up(server, find).await {
        assert!(Instant::now() < deadline, "the index for {find} is built in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_looked_up(server: &Server, find: &str) -> bool {
    let plan = query(&server.connect().await, &format!("EXPLAIN {find}")).await;
    plan.concat().iter().any(|line| line.contains("index=["))
}

/// The indexes that there are, and those of which there is more than a name.
async fn known(server: &Server) -> [Vec<Vec<String>>; 2] {
    let client = server.connect().await;
    [
        query(&client, "SELECT indexname FROM pg_indexes WHERE tablename IN ('big', 'copy') ORDER BY 1")
            .await,
        query(&client, "SELECT name FROM tm_state WHERE kind = 'index' ORDER BY 1").await,
    ]
}

const NONE: [[[&str; 0]; 0]; 2] = [[], []];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_while_an_index_is_built_has_it_or_not() {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    big(&server).await;
    for relation in ["big", "copy"] {
        let create = format!("CREATE INDEX {relation}_k ON {relation} (k, s)");
        let creating = server.connect().await;
        let created = tokio::spawn(async move { creating.batch_execute(&create).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.kill_and_restart().await;
        let _ = created.await.unwrap();
        let client = server.connect().await;
        execute(
            &client,
            "INSERT INTO big SELECT value, 600, 'later' FROM generate_series(-50, -1) AS g (value)",
        )
        .await;
        execute(&client, &format!("CREATE INDEX IF NOT EXISTS {relation}_k ON {relation} (k, s)")).await;
        compare(&server, relation).await;
        execute(&client, "DELETE FROM big WHERE id < 0 OR k IN (501, 502, 503)").await;
        compare(&server, relation).await;
        // At once, before there is a checkpoint of it.
        execute(&client, &format!("CREATE INDEX {relation}_again ON {relation} (s)")).await;
        execute(&client, "INSERT INTO big SELECT value, 650, 'x' FROM generate_series(-9, -1) AS g (value)")
            .await;
        server.kill_and_restart().await;
        compare(&server, relation).await;
        execute(&server.connect().await, "DELETE FROM big WHERE id < 0").await;
    }
    for relation in ["big", "copy"] {
        until_looked_up(&server, &format!("SELECT * FROM {relation} WHERE s = 'text 5'")).await;
    }
    assert!(server.terminate().await.success(), "{}", server.log_tail());
    server.restart().await;
    // Out of the checkpoints: nothing is to be built.
    for relation in ["big", "copy"] {
        assert!(is_looked_up(&server, &format!("SELECT * FROM {relation} WHERE k = 5")).await);
        assert!(is_looked_up(&server, &format!("SELECT * FROM {relation} WHERE s = 'text 5'")).await);
        compare(&server, relation).await;
    }
    let names = [["big_again"], ["big_k"], ["copy_again"], ["copy_k"]];
    assert_eq!(known(&server).await, [names, names]);
    let client = server.connect().await;
    execute(&client, "DROP INDEX big_k, copy_k, big_again").await;
    assert_eq!(known(&server).await, [[["copy_again"]], [["copy_again"]]]);
    execute(&client, "DROP PIPELINE copy").await;
    assert_eq!(known(&server).await, NONE);
    server.kill_and_restart().await;
    assert_eq!(known(&server).await, NONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_of_an_index_that_is_given_up() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    big(&server).await;
    let client = server.connect().await;
    for relation in ["big", "copy"] {
        let creating = server.connect().await;
        let cancel = creating.cancel_token();
        let create = format!("CREATE INDEX {relation}_k ON {relation} (k)");
        let created = tokio::spawn(async move { creating.batch_execute(&create).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel_query(NoTls).await.unwrap();
        let error = created.await.unwrap().expect_err("it takes longer").into_source().unwrap().to_string();
        assert!(error.contains("cancel"), "{error}");
        // Whoever changes definitions comes behind what is undone.
        execute(&client, "COMMENT ON TABLE big IS 'many rows'").await;
        assert_eq!(known(&server).await, NONE);
        execute(&client, &format!("CREATE INDEX {relation}_k ON {relation} (k)")).await;
        compare(&server, relation).await;
        execute(&client, &format!("DROP INDEX {relation}_k")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_go_on_while_an_index_is_built() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    big(&server).await;
    let is_built = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writing, until) = (server.connect().await, is_built.clone());
    let written = tokio::spawn(async move {
        let mut n = 0;
        while !until.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            let sql = format!(
                "INSERT INTO big VALUES ({}, {}, 'new'); DELETE FROM big WHERE id = {}; UPDATE big SET k = {} WHERE id = {}",
                N_ROWS + n,
                500 + n % 200,
                n * 31,
                500 + n % 300,
                n * 17 + 5,
            );
            execute(&writing, &sql).await;
        }
        n
    });
    let client = server.connect().await;
    execute(&client, "CREATE INDEX copy_k ON copy (k); CREATE INDEX big_k ON big (k)").await;
    is_built.store(true, std::sync::atomic::Ordering::Relaxed);
    let n_written = written.await.unwrap();
    assert!(n_written > 1, "{n_written} times something was written");
    execute(&client, "FLUSH").await;
    for relation in ["big", "copy"] {
        compare(&server, relation).await;
    }
}

/// What an index gives and costs: `cargo test --release --test it indexes::figures -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn figures() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let rows = |from: u64, to: u64| {
        format!(
            "INSERT INTO events SELECT i, i * 31 % 100003, TIMESTAMP '2026-01-01' + i * INTERVAL '1 second',
                 'text ' || i % 1000 FROM generate_series({from}, {to}) AS g (i)"
        )
    };
    execute(
        &client,
        "CREATE TABLE events (id BIGINT, k BIGINT, at TIMESTAMP, s TEXT); CREATE PIPELINE p AS SELECT * FROM events",
    )
    .await;
    for n in 0..10 {
        execute(&client, &rows(n * 100_000 + 1, (n + 1) * 100_000)).await;
    }
    execute(&client, "FLUSH").await;
    let find = async |filter: &str| {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            query(&client, &format!("SELECT count(*), min(s) FROM p WHERE {filter}")).await;
            best = best.min(begun.elapsed());
        }
        best
    };
    let filters = ["k = 777", "k BETWEEN 500 AND 520", "k IN (1, 500, 70000, 99000)"];
    for filter in filters {
        println!("without an index, {filter}: {:?}", find(filter).await);
    }
    let begun = Instant::now();
    execute(&client, "CREATE INDEX p_k ON p (k)").await;
    println!("CREATE INDEX over 1 M rows: {:?}", begun.elapsed());
    for filter in filters {
        println!("with one, {filter}: {:?}", find(filter).await);
    }
    let sizes = "SELECT name, kind, rows, memory_bytes + disk_bytes FROM tm_state";
    println!("{:?}", query(&client, sizes).await);
    execute(&client, "DROP INDEX p_k").await;
    for (n_indexes, create) in [
        (0, "FLUSH"),
        (1, "CREATE INDEX p_k ON p (k)"),
        (3, "CREATE INDEX p_at ON p (at); CREATE INDEX p_s ON p (s, k)"),
    ] {
        execute(&client, create).await;
        let steps = "SELECT sum(rows_in) FROM tm_pipelines";
        let before: u64 = query(&client, steps).await[0][0].parse().unwrap();
        let (begun, cpu) = (Instant::now(), cpu_seconds(server.pid()));
        for _ in 0..10 {
            execute(&client, &rows(1, 50_000)).await;
            execute(&client, "DELETE FROM events WHERE id BETWEEN 25001 AND 50000; FLUSH").await;
        }
        let changes: u64 = query(&client, steps).await[0][0].parse().unwrap();
        let (changes, cpu) = ((changes - before) as f64, cpu_seconds(server.pid()) - cpu);
        println!(
            "{n_indexes} indexes: {:.0} changes a second, {:.0} per CPU-second",
            changes / begun.elapsed().as_secs_f64(),
            changes / cpu
        );
    }
}

/// The time for which a process has had a core.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("a number of ticks");
    // Of the user and of the kernel, in hundredths of seconds.
    (ticks(11) + ticks(12)) / 100.0
}
