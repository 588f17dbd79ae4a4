//! Nexmark, all of q0 to q23, while events stream in: at any moment each pipeline shows the batch answer over the
//! events so far, in one lane and in four, and over a crash in the middle of the stream.
//!
//! The sources stand in a schema `live`, the same events in a schema `stored`, kept by pipelines that copy them. So
//! one text is the pipeline in the one and the batch query in the other. `TIDEMILL_NEXMARK=100000` streams as many events.

use std::path::Path;
use std::time::Duration;

use tidemill_engine::{EngineConfig, State};

use super::suites::{SuiteQuery, compare, n_rows, queries};
use super::{number, run, runtime};
use crate::database::Database;
use crate::session::Session;

/// Event time runs by a hundred events a second: the default is half a minute of it, three tumbling windows.
const N_EVENTS: u64 = 3_000;
const SETUP: &str = "
    CREATE SCHEMA live;
    CREATE SCHEMA stored;
    CREATE TABLE side_input (key BIGINT PRIMARY KEY, value TEXT);
    INSERT INTO side_input SELECT i, 'side ' || i FROM generate_series(1000, 1200) AS g (i)";

fn sources(n_events: u64) -> String {
    // It is to last some while, so that there is a middle to crash in.
    let rate = n_events / 15;
    let with = |table: &str| {
        format!(
            "WITH (connector = 'generator', table = '{table}', events = '{n_events}', rate = '{rate}', \
             event_rate = '100', seed = '11')"
        )
    };
    format!(
        "CREATE SOURCE live.person {};
         CREATE SOURCE live.auction {};
         CREATE SOURCE live.bid (auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, \
            date_time TIMESTAMP, extra TEXT, p_time TIMESTAMP AS date_time) {};
         CREATE PIPELINE stored.person AS SELECT * FROM live.person;
         CREATE PIPELINE stored.auction AS SELECT * FROM live.auction;
         CREATE PIPELINE stored.bid AS SELECT * FROM live.bid",
        with("person"),
        with("auction"),
        with("bid")
    )
}

async fn open(directory: &Path, n_lanes: usize) -> Session {
    let config = EngineConfig { checkpoint_interval: Duration::from_millis(20), ..EngineConfig::default() };
    Session::new(Database::open(directory, n_lanes, config).await.unwrap(), "tidemill".into())
}

async fn n_bids(session: &mut Session) -> usize {
    n_rows(&run(session, "SELECT 1 FROM stored.bid").await.unwrap())
}

async fn first_life(directory: &Path, n_lanes: usize, queries: &[SuiteQuery], n_events: u64) {
    let mut session = open(directory, n_lanes).await;
    run(&mut session, SETUP).await.unwrap();
    run(&mut session, &sources(n_events)).await.unwrap();
    run(&mut session, "SET search_path = live, public").await.unwrap();
    for SuiteQuery { name, sql } in queries {
        let created = run(&mut session, &format!("CREATE PIPELINE {name} AS {sql}")).await;
        created.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    compare(&mut session, queries, "live", "stored", &format!("early, in {n_lanes} lanes")).await;
    run(&mut session, "UPDATE side_input SET value = value || '!' WHERE key % 3 = 0").await.unwrap();
    compare(&mut session, queries, "live", "stored", &format!("a while later, in {n_lanes} lanes")).await;
}

async fn second_life(directory: &Path, n_lanes: usize, queries: &[SuiteQuery], n_events: u64) {
    let mut session = open(directory, n_lanes).await;
    let n_before = n_bids(&mut session).await;
    compare(&mut session, queries, "live", "stored", &format!("after a crash, in {n_lanes} lanes")).await;
    run(&mut session, "DELETE FROM side_input WHERE key % 5 = 0").await.unwrap();
    let database = session.database.clone();
    while !database.engine.status().await.sources.iter().all(|source| source.state == State::Finished) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run(&mut session, "FLUSH").await.unwrap();
    let n_after = n_bids(&mut session).await;
    assert_eq!(n_after as u64, n_events / 50 * 46, "all bids have come, once");
    println!("the crash was after {n_before} of {n_after} bids");
    let n_rows =
        compare(&mut session, queries, "live", "stored", &format!("at the end, in {n_lanes} lanes")).await;
    for (SuiteQuery { name, .. }, n_rows) in queries.iter().zip(n_rows) {
        assert!(n_rows > 0, "{name} has an answer");
    }
}

#[test]
fn nexmark_equals_its_batch_answers() {
    let queries = queries("examples/nexmark/queries");
    assert_eq!(queries.len(), 24);
    let n_events = number("TIDEMILL_NEXMARK").unwrap_or(N_EVENTS) / 50 * 50;
    for lanes in [[1, 4], [4, 1]] {
        let directory = tempfile::tempdir().unwrap();
        let life = runtime();
        life.block_on(first_life(directory.path(), lanes[0], &queries, n_events));
        life.shutdown_timeout(Duration::ZERO);
        let life = runtime();
        life.block_on(second_life(directory.path(), lanes[1], &queries, n_events));
        life.shutdown_timeout(Duration::ZERO);
    }
}

/// The test files have one copy of each query with the benchmark, the documentation and these tests.
#[test]
fn test_files_have_the_queries() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sqllogictest/nexmark");
    let files: String = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for SuiteQuery { name, sql } in queries("examples/nexmark/queries") {
        let sql: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
        let record = format!("rowsort\n{}\n----\n", sql.join("\n"));
        assert!(files.matches(&record).count() >= 3, "{name} is compared after each of three changes");
    }
}
