//! Filling a new pipeline with what is there: how far it has come, and that nothing stays of it when its statement
//! is given up.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::server::{self, Server, TIMEOUT, execute, query};

/// Several steps of a fill.
const N_ROWS: u64 = 400_000;

/// What takes a while for each row.
const SLOWLY: &str = "SELECT k, count(DISTINCT id) AS ids, max(id) AS hi, min(id) AS lo FROM";

/// A table, a pipeline and a source of as many rows each.
async fn big(client: &Client) {
    execute(
        client,
        &format!(
            "CREATE TABLE big AS SELECT value AS id, value % 1000 AS k FROM generate_series(1, {N_ROWS}) AS g (value);
             CREATE PIPELINE copy AS SELECT id, k FROM big;
             CREATE SOURCE numbers (n BIGINT, k BIGINT AS n % 1000)
                 WITH (connector = 'generator', data = 'sequence', events = '{N_ROWS}');
             CREATE PIPELINE seen AS SELECT count(*) AS n FROM numbers"
        ),
    )
    .await;
    let deadline = Instant::now() + TIMEOUT;
    while query(client, "SELECT n FROM seen").await != [[N_ROWS.to_string()]] {
        assert!(Instant::now() < deadline, "the source is read in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What `tm_jobs` says of the only job, if there is one that has taken in rows.
async fn job(client: &Client) -> Option<(u64, u64)> {
    let sql = "SELECT rows_done, rows_total FROM tm_jobs WHERE state = 'RUNNING' AND rows_done > 0";
    let rows = query(client, sql).await;
    let [done, total] = &rows.first()?[..] else { unreachable!("two columns") };
    Some((done.parse().unwrap(), total.parse().expect("the total is known")))
}

/// Waits until a fill is on its way.
async fn begun(client: &Client) -> (u64, u64) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(job) = job(client).await {
            return job;
        }
        assert!(Instant::now() < deadline, "the fill begins in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fills_say_how_far_they_are() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    big(&client).await;
    for (relation, column) in [("big", "id"), ("copy", "id"), ("numbers", "n")] {
        let creating = server.connect().await;
        let sql = format!("CREATE PIPELINE p AS {SLOWLY} {relation} GROUP BY k")
            .replace("id)", &format!("{column})"));
        let created = tokio::spawn(async move { execute(&creating, &sql).await });
        let (done, total) = begun(&client).await;
        assert_eq!(total, N_ROWS, "{relation}");
        assert!(done < total, "{relation}: {done} rows of {total} are in after the first step");
        let shown = query(&client, "SHOW JOBS").await;
        let last = shown.last().expect("it is shown while it runs and afterwards");
        assert_eq!([&last[1], &last[2], &last[5]], ["p", "FILL", &N_ROWS.to_string()], "{relation}");
        created.await.unwrap();
        assert_eq!(job(&client).await, None, "{relation}: the job has ended");
        let sql =
            "SELECT state, rows_done FROM tm_jobs WHERE ended_at >= started_at ORDER BY id DESC LIMIT 1";
        assert_eq!(query(&client, sql).await, [["DONE".to_string(), N_ROWS.to_string()]], "{relation}");
        assert_eq!(query(&client, "SELECT sum(ids) FROM p").await, [[N_ROWS.to_string()]], "{relation}");
        execute(&client, "DROP PIPELINE p").await;
    }
}

const NOTHING: [[&str; 0]; 0] = [];

/// How a statement ends before it is done.
#[derive(Debug, Clone, Copy)]
enum End {
    Cancel,
    CancelJob,
    Timeout,
    ClientGone,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_of_a_fill_that_is_given_up() {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    big(&client).await;
    let pipeline = |relation: &str| format!("CREATE PIPELINE p AS {SLOWLY} {relation} GROUP BY k");
    let sink = format!("CREATE SINK p AS {SLOWLY} big GROUP BY k WITH (connector = 'blackhole')");
    for (sql, end) in [
        (pipeline("big"), End::Cancel),
        (pipeline("copy"), End::Cancel),
        (pipeline("big"), End::CancelJob),
        (sink, End::Cancel),
        (pipeline("big"), End::Timeout),
        (pipeline("copy"), End::ClientGone),
    ] {
        give_up(&server, &client, &sql, end).await;
        // Whoever changes definitions comes behind what is undone.
        execute(&client, "COMMENT ON TABLE big IS 'many rows'").await;
        let running = "SELECT object FROM tm_jobs WHERE state = 'RUNNING'";
        assert_eq!(query(&client, running).await, NOTHING, "{sql} {end:?}");
        let last = "SELECT state FROM tm_jobs ORDER BY id DESC LIMIT 1";
        assert_eq!(query(&client, last).await, [["CANCELED"]], "{sql} {end:?}");
        assert_eq!(query(&client, "SELECT name FROM tm_pipelines ORDER BY 1").await, [["copy"], ["seen"]]);
        assert_eq!(query(&client, "SELECT name FROM tm_sinks").await, NOTHING);
        // What it read goes on, and its name is free.
        execute(&client, "CREATE PIPELINE p AS SELECT count(*) AS n, sum(k) AS k FROM copy").await;
        execute(&client, "INSERT INTO big VALUES (0, 0)").await;
        let n = query(&client, "SELECT n FROM p").await;
        assert_eq!(n, query(&client, "SELECT count(*) FROM big").await, "{sql} {end:?}");
        execute(&client, "DROP PIPELINE p").await;
    }
    // What was to be replaced is still there, and follows.
    execute(&client, "CREATE PIPELINE p AS SELECT count(*) AS n FROM big").await;
    let replace = pipeline("big").replace("CREATE", "CREATE OR REPLACE");
    give_up(&server, &client, &replace, End::Cancel).await;
    execute(&client, "DELETE FROM big WHERE id = 0").await;
    assert_eq!(query(&client, "SELECT n FROM p").await, [[N_ROWS.to_string()]]);
    execute(&client, "DROP PIPELINE p").await;

    server.kill_and_restart().await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT name FROM tm_pipelines ORDER BY 1").await, [["copy"], ["seen"]]);
    execute(&client, "DROP PIPELINE copy; DROP PIPELINE seen").await;
    assert_eq!(n_files(&directory.path().join("data/dataflows")), 0, "no state stays");
}

/// Begins a statement that fills something, and ends it in the middle.
async fn give_up(server: &Server, client: &Client, sql: &str, end: End) {
    let config = format!("postgresql://tidemill@{}/tidemill", server.sql);
    let (creating, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let cancel = creating.cancel_token();
    if let End::Timeout = end {
        execute(&creating, "SET statement_timeout = '300ms'").await;
    }
    let sql = sql.to_owned();
    let created = tokio::spawn(async move { creating.batch_execute(&sql).await });
    if !matches!(end, End::Timeout) {
        begun(client).await;
    }
    match end {
        End::Cancel => cancel.cancel_query(NoTls).await.unwrap(),
        End::CancelJob => {
            let id = &query(client, "SELECT id FROM tm_jobs WHERE state = 'RUNNING'").await[0][0];
            execute(client, &format!("CANCEL JOB {id}")).await;
        }
        End::Timeout => (),
        End::ClientGone => {
            connection.abort();
            created.await.unwrap().expect_err("the connection has gone");
            return;
        }
    }
    let error = created.await.unwrap().expect_err("the statement ends in the middle");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error}");
}

fn n_files(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let n_below = |path: &Path| if path.is_dir() { n_files(path) } else { 1 };
    entries.map(|entry| n_below(&entry.unwrap().path())).sum()
}
