//! What EXPLAIN says can be read by a program, and is true.

use std::path::Path;

use arrow::array::AsArray;
use futures::TryStreamExt;
use serde_json::Value;
use tidemill_engine::EngineConfig;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::session::Session;
use crate::session::api::{Response, SessionApi};
use crate::statements::testing::on_a_runtime;

async fn open(directory: &Path, n_lanes: usize) -> Session {
    let database = Database::open(directory, n_lanes, EngineConfig::default()).await.unwrap();
    Session::new(database, "tidemill".into())
}

/// The lines of the first column.
async fn run(session: &mut Session, sql: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for parsed in SessionApi::parse(session, sql).unwrap() {
        let response = SessionApi::execute(session, &parsed, Vec::new(), &CancellationToken::new()).await;
        let response = response.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let Response::Rows { rows, .. } = response else { continue };
        let batches: Vec<_> = rows.try_collect().await.unwrap();
        for batch in batches {
            let texts = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            lines.extend(texts.as_string::<i32>().iter().map(|line| line.unwrap_or_default().to_owned()));
        }
    }
    lines
}

async fn json(session: &mut Session, sql: &str) -> Value {
    let lines = run(session, sql).await;
    assert_eq!(lines.len(), 1);
    serde_json::from_str::<Value>(&lines[0]).unwrap()[0].clone()
}

/// The first node of a kind, from the top.
fn find<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    if node["Node Type"] == kind {
        return Some(node);
    }
    node["Plans"].as_array()?.iter().find_map(|input| find(input, kind))
}

/// All nodes whose line says so, from the top.
fn find_all<'a>(node: &'a Value, details: &str) -> Vec<&'a Value> {
    let is_one = node["Details"].as_str().is_some_and(|line| line.contains(details));
    let below = node["Plans"].as_array().into_iter().flatten().flat_map(|input| find_all(input, details));
    is_one.then_some(node).into_iter().chain(below).collect()
}

async fn everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut session = open(directory.path(), 2).await;
    run(&mut session, "CREATE TABLE t (k INT, v INT); CREATE TABLE u (k INT PRIMARY KEY, w TEXT)").await;
    run(&mut session, "INSERT INTO t SELECT i % 10, i FROM generate_series(1, 1000) AS g(i)").await;
    run(&mut session, "INSERT INTO u SELECT i, 'w' || i FROM generate_series(0, 9) AS g(i)").await;
    let query = "SELECT u.w, count(*) AS n, sum(t.v) AS s FROM t JOIN u ON t.k = u.k GROUP BY u.w";

    let plan =
        json(&mut session, &format!("EXPLAIN (FORMAT JSON, STATE) CREATE PIPELINE p AS {query}")).await;
    let join = find(&plan["Plan"], "Join").unwrap();
    assert_eq!(join["Changes"], "retracting");
    assert_eq!(join["Cost"], "per key");
    assert_eq!(join["State"]["Bound"], "finite");
    // Both inputs are in the sample as a whole, and kept as a whole.
    let estimate = &join["State"]["Estimate"];
    assert_eq!(estimate["Sample Rows"], 1010);
    assert_eq!(estimate["Is Upper Bound"], false);
    assert!(estimate["Bytes Now"].as_f64().unwrap() >= 1010.0 * 8.0, "{estimate}");
    let aggregate = find(&plan["Plan"], "Aggregate").unwrap();
    assert_eq!(aggregate["Unique Keys"], serde_json::json!([["w"]]));
    assert_eq!(aggregate["State"]["Estimate"]["Sample State Rows"], 10);
    assert_eq!(plan["Sample"].as_array().unwrap().len(), 2);

    run(&mut session, &format!("CREATE PIPELINE p AS {query}")).await;
    run(&mut session, "INSERT INTO t VALUES (3, 0); SELECT * FROM p").await;
    let analyzed = json(&mut session, "EXPLAIN (ANALYZE, FORMAT JSON) PIPELINE p").await;
    let join = find(&analyzed["Plan"], "Join").unwrap();
    assert_eq!(join["Actual"]["Rows In"], 1011);
    assert_eq!(join["Actual"]["Rows Out"], 1001);
    let lanes = join["Lanes"].as_array().unwrap();
    let rows_in = |lane: &Value| lane["Rows In"].as_u64().unwrap();
    assert_eq!(lanes.len(), 2);
    assert_eq!(lanes.iter().map(rows_in).sum::<u64>(), 1011);
    assert!(lanes.iter().all(|lane| lane["State Bytes"].as_u64().unwrap() > 0), "{join}");
    let text = run(&mut session, "EXPLAIN ANALYZE PIPELINE p").await.join("\n");
    assert!(text.contains("rows in=1011 out=1001") && text.contains("lane 1: rows in="), "{text}");
    let from_relation = "SELECT sum(rows_in) FROM tm_operators WHERE name = 'p' AND operator LIKE 'Join%'";
    assert_eq!(run(&mut session, from_relation).await, ["1011"]);

    // What stands there twice runs once.
    let query = "WITH x AS (SELECT k, sum(v) AS s FROM t GROUP BY k) SELECT k FROM x WHERE s = (SELECT max(s) FROM x)";
    run(&mut session, &format!("CREATE PIPELINE best AS {query}")).await;
    let analyzed = json(&mut session, "EXPLAIN (ANALYZE, FORMAT JSON) PIPELINE best").await;
    let places = find_all(&analyzed["Plan"], "group=[k]");
    assert_eq!(places.len(), 2, "{analyzed}");
    assert_eq!(places[0]["Actual"]["Rows In"], 1001);
    assert_eq!(places[1]["Same As Above"], true);
    assert!(places[1]["Actual"].is_null() && places[1]["Plans"].is_null());
    let text = run(&mut session, "EXPLAIN ANALYZE PIPELINE best").await.join("\n");
    assert_eq!(text.matches("the same as above, computed once").count(), 1, "{text}");
    let from_relation =
        "SELECT sum(rows_in) FROM tm_operators WHERE name = 'best' AND operator LIKE '%group=[k]%'";
    assert_eq!(run(&mut session, from_relation).await, ["1001"]);

    let analyzed = json(&mut session, "EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM t").await;
    assert_eq!(analyzed["Rows"], 1);
    assert!(analyzed["Plan"]["Node Type"].is_string());
    let plan = json(&mut session, "EXPLAIN (FORMAT JSON) SELECT count(*) FROM t").await;
    assert!(plan["Plan"]["Node Type"].is_string());

    // State is measured where it was restored as well.
    session.database.engine.shutdown().await.unwrap();
    drop(session);
    let mut session = open(directory.path(), 2).await;
    let from_relation = "SELECT sum(state_rows) FROM tm_operators WHERE name = 'p' AND operator LIKE 'Join%'";
    assert_eq!(run(&mut session, from_relation).await, ["1011"]);
}

#[test]
fn explanations_are_true() {
    on_a_runtime(everything());
}

#[test]
fn a_source_says_what_a_day_will_bring() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::spawn(async {
            let directory = tempfile::tempdir().unwrap();
            let mut session = open(directory.path(), 1).await;
            run(&mut session, "CREATE SOURCE s WITH (connector = 'generator', data = 'sequence', rate = '1000')")
                .await;
            let explain =
                "EXPLAIN (STATE, FORMAT JSON) CREATE PIPELINE p AS SELECT a.n FROM s AS a JOIN s AS b ON a.n = b.n";
            // Nothing reads it yet.
            let plan = json(&mut session, explain).await;
            let estimate = &find(&plan["Plan"], "Join").unwrap()["State"]["Estimate"];
            assert!(estimate["Bytes Per Row"].as_f64().unwrap() > 8.0, "{plan}");
            assert!(estimate["Bytes Per Day"].is_null(), "{plan}");
            run(&mut session, "CREATE PIPELINE reader AS SELECT count(*) AS n FROM s").await;
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            let plan = json(&mut session, explain).await;
            let estimate = &find(&plan["Plan"], "Join").unwrap()["State"]["Estimate"];
            let per_day = estimate["Bytes Per Day"].as_f64().unwrap();
            // A thousand rows a second, of some tens of bytes each, on both sides.
            assert!((1e8..1e11).contains(&per_day), "{per_day}");
            assert_eq!(plan["Sample"][0]["Relation Name"], "s");
        })
        .await
        .unwrap();
    });
    runtime.shutdown_timeout(std::time::Duration::ZERO);
}
