//! VERIFY finds what is wrong, and nothing where nothing is.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_engine::{EngineConfig, TimeSource};
use tidemill_storage::{CheckpointStore, Root, RunBuilder};

use crate::database::Database;
use crate::session::Session;
use crate::session::api::SessionApi;
use crate::statements::testing::{run, try_run};

async fn open(directory: &Path, n_lanes: usize) -> Session {
    let config = EngineConfig { checkpoint_interval: Duration::from_millis(20), ..EngineConfig::default() };
    Session::new(Database::open(directory, n_lanes, config).await.unwrap(), "tidemill".into())
}

/// verdict, rows_expected, rows_shown, missing, extra, rounding, examples
async fn verify(session: &mut Session, what: &str) -> Vec<String> {
    let mut rows = run(session, &format!("VERIFY PIPELINE {what}")).await;
    assert_eq!(rows.len(), 1);
    rows.remove(0).split_off(2)
}

/// Waits until a source that ends has been read.
async fn finished(session: &mut Session, source: &str) {
    for _ in 0..600 {
        let state = run(session, &format!("SELECT state FROM tm_sources WHERE name = '{source}'")).await;
        if state == [["FINISHED"]] {
            run(session, "FLUSH").await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("source {source} does not end");
}

fn on_a_runtime<F: Future<Output = ()> + Send + 'static>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(test).await.unwrap() });
    runtime.shutdown_timeout(Duration::ZERO);
}

/// Changes a view in the newest checkpoint: its first row is gone, its last one is there twice.
async fn corrupt(directory: &Path) -> usize {
    let root = Root::local(directory).unwrap();
    let mut n_corrupted = 0;
    let names = root.child("dataflows").list().await.unwrap();
    let ids: std::collections::BTreeSet<u64> =
        names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
    for id in ids {
        let (mut store, checkpoint) =
            CheckpointStore::open(root.child(&format!("dataflows/{id}"))).await.unwrap();
        let Some(mut checkpoint) = checkpoint else { continue };
        for (name, runs) in &mut checkpoint.runs {
            if !name.contains("/view/") || runs.is_empty() {
                continue;
            }
            let run = runs[0].clone();
            let mut builder = RunBuilder::with_capacity(run.len(), run.size());
            for idx in 1..run.len() {
                let is_last = idx + 1 == run.len();
                builder.push(run.row(idx), run.weight(idx) + i64::from(is_last));
            }
            runs[0] = builder.finish();
            n_corrupted += 1;
        }
        store.write(&checkpoint).await.unwrap();
    }
    n_corrupted
}

#[test]
fn planted_corruption_is_found() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        {
            let mut session = open(directory.path(), 1).await;
            run(&mut session, "CREATE TABLE t (k INT, v INT)").await;
            run(&mut session, "INSERT INTO t SELECT i % 5, i FROM generate_series(1, 100) AS g(i)").await;
            run(&mut session, "CREATE PIPELINE p AS SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k")
                .await;
            assert_eq!(verify(&mut session, "p").await, ["equal", "5", "5", "0", "0", "0", ""]);
            session.database.engine.shutdown().await.unwrap();
        }
        assert_eq!(corrupt(directory.path()).await, 1);
        let mut session = open(directory.path(), 1).await;
        let report = verify(&mut session, "p INTO wrong").await;
        assert_eq!(report[..6], ["different", "5", "5", "1", "1", "0"]);
        assert_eq!(report[6], "missing: (k=0, n=20, s=1050)\nextra: (k=4, n=20, s=1030)");
        assert!(session.take_notices().iter().any(|notice| notice.severity == "WARNING"));
        let wrong = run(&mut session, "SELECT difference, copies, k FROM wrong ORDER BY k").await;
        assert_eq!(wrong, [["missing", "1", "0"], ["extra", "1", "4"]]);
        // The same table again, and a table that cannot be it.
        verify(&mut session, "p INTO wrong").await;
        assert_eq!(run(&mut session, "SELECT count(*) FROM wrong").await, [["4"]]);
        let error = try_run(&mut session, "VERIFY PIPELINE p INTO t").await.unwrap_err();
        assert_eq!(error.sqlstate.0, "42804");
        // Halves of the result: the row that is missing is in one of the samples of its key.
        let error = try_run(&mut session, "VERIFY PIPELINE p SAMPLE 0 PERCENT").await.unwrap_err();
        assert_eq!(error.sqlstate.0, "22023");
        let sampled = verify(&mut session, "p SAMPLE 50 PERCENT").await;
        assert!(sampled[1].parse::<i64>().unwrap() < 5, "{sampled:?}");
    });
}

/// Values whose order the query leaves open stand in the pipeline's, which is no difference.
#[test]
fn what_the_query_leaves_open_is_no_difference() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path(), 2).await;
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY, k INT, v INT, s TEXT)").await;
        for values in [
            "(1, 1, 3, 'c'), (2, 1, NULL, NULL)",
            "(3, 1, 1, 'b'), (4, 2, 9, 'z')",
            "(5, 1, 2, 'a'), (6, 2, 4, 'y')",
        ] {
            run(&mut session, &format!("INSERT INTO t VALUES {values}")).await;
        }
        run(&mut session, "UPDATE t SET v = 7 WHERE id = 1").await;
        for (idx, calls) in [
            "array_agg(v) AS a, string_agg(s, ',') AS b",
            "array_agg(v ORDER BY k) AS a, json_agg(v) AS b, jsonb_agg(s) AS c",
            "first_value(v) AS a, last_value(s) AS b, nth_value(v, 2) AS c, count(v) AS d",
        ]
        .iter()
        .enumerate()
        {
            run(&mut session, &format!("CREATE PIPELINE p{idx} AS SELECT k, {calls} FROM t GROUP BY k"))
                .await;
            let verified = verify(&mut session, &format!("p{idx}")).await;
            assert_eq!(verified[0], "equal", "{calls}: {verified:?}");
        }
    });
}

#[test]
fn pipelines_over_everything_are_equal_while_rows_come() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path(), 2).await;
        run(&mut session, "CREATE TABLE names (id BIGINT PRIMARY KEY, name TEXT)").await;
        run(&mut session, "INSERT INTO names SELECT i, 'n' || i FROM generate_series(1000, 1100) AS g(i)")
            .await;
        run(
            &mut session,
            "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = '40000', rate = '20000', \
             seed = '3')",
        )
        .await;
        run(&mut session, "CREATE VIEW dear AS SELECT * FROM bid WHERE price > 100").await;
        let pipelines = [
            ("per_auction", "SELECT auction, count(*) AS n, max(price) AS high FROM dear GROUP BY auction"),
            ("named", "SELECT b.auction, n.name, b.price FROM bid AS b JOIN names AS n ON b.bidder = n.id"),
            ("top", "SELECT auction, n FROM per_auction ORDER BY n DESC, auction LIMIT 5"),
        ];
        for (name, query) in pipelines {
            run(&mut session, &format!("CREATE PIPELINE {name} AS {query}")).await;
        }
        // The writer goes on beside: each comparison is of some epoch in between.
        let database = Arc::clone(&session.database);
        let writer = tokio::spawn(async move {
            let mut session = Session::new(database, "tidemill".into());
            for id in 1000..1050 {
                run(&mut session, &format!("UPDATE names SET name = name || '!' WHERE id = {id}")).await;
            }
        });
        for _ in 0..3 {
            for (name, _) in pipelines {
                let report = verify(&mut session, name).await;
                assert_eq!(report[0], "equal", "{name}: {report:?}");
            }
        }
        writer.await.unwrap();
        finished(&mut session, "bid").await;
        for (name, _) in pipelines {
            let report = verify(&mut session, name).await;
            assert_eq!(report[0], "equal", "{name}: {report:?}");
            assert_ne!(report[1], "0", "{name}");
        }
    });
}

#[test]
fn keyed_sources_and_closed_windows_are_replayed() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("in.jsonl");
        let line = |k: i64, v: i64| format!("{{\"k\": {k}, \"v\": {v}}}\n");
        let text: String = (0..500).map(|i| line(i % 7, i)).collect();
        std::fs::write(&file, text).unwrap();
        let mut session = open(&directory.path().join("data"), 2).await;
        run(
            &mut session,
            &format!(
                "CREATE SOURCE latest (k BIGINT, v BIGINT, PRIMARY KEY (k)) \
                 WITH (connector = 'file', path = '{}') FORMAT UPSERT ENCODE JSON",
                file.display()
            ),
        )
        .await;
        run(
            &mut session,
            "CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '1 second') WITH \
             (connector = 'generator', table = 'bid', events = '20000', rate = '10000', seed = '5')",
        )
        .await;
        run(&mut session, "CREATE PIPELINE last AS SELECT k, v FROM latest").await;
        run(
            &mut session,
            "CREATE PIPELINE windows AS SELECT window_start, count(*) AS n FROM \
             TUMBLE(bid, date_time, INTERVAL '1 second') GROUP BY window_start EMIT ON WINDOW CLOSE",
        )
        .await;
        finished(&mut session, "latest").await;
        assert_eq!(verify(&mut session, "last").await[..3], ["equal", "7", "7"]);
        assert_eq!(verify(&mut session, "windows").await[0], "equal");
        finished(&mut session, "bid").await;
        let report = verify(&mut session, "windows").await;
        assert_eq!(report[0], "equal", "{report:?}");
        assert_ne!(report[1], "0");
        // Cut off in the middle, it leaves nothing in the way.
        let cancelled = tokio::time::timeout(Duration::from_millis(1), verify(&mut session, "windows")).await;
        drop(cancelled);
        assert_eq!(verify(&mut session, "windows").await[0], "equal");
    });
}

#[test]
fn now_is_the_epochs_time() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let start = 1_767_225_600_000_000;
        let time = TimeSource::manual(start);
        let config = EngineConfig { time: time.clone(), ..EngineConfig::default() };
        let database = Database::open(directory.path(), 2, config).await.unwrap();
        let mut session = Session::new(database.clone(), "tidemill".into());
        run(&mut session, "CREATE TABLE t (k INT, ts TIMESTAMP)").await;
        run(&mut session, "INSERT INTO t VALUES (1, '2026-01-01 00:00:00'), (2, '2026-01-01 00:00:20')")
            .await;
        run(&mut session, "CREATE PIPELINE p AS SELECT k FROM t WHERE ts > now() - INTERVAL '10 seconds'")
            .await;
        assert_eq!(verify(&mut session, "p").await[..3], ["equal", "2", "2"]);
        // The clock goes on, and no epoch is sealed: the pipeline is where it was, and right.
        let TimeSource::Manual(clock) = &time else { unreachable!("made as one") };
        clock.store(start + 15_000_000, Ordering::SeqCst);
        assert_eq!(verify(&mut session, "p").await[..3], ["equal", "2", "2"]);
        database.engine.advance_to(start + 15_000_000).await.unwrap();
        assert_eq!(verify(&mut session, "p").await[..3], ["equal", "1", "1"]);
    });
}

#[test]
fn what_does_not_fit_into_memory_is_an_error() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path(), 2).await;
        run(
            &mut session,
            "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = '20000', seed = '5')",
        )
        .await;
        run(&mut session, "CREATE PIPELINE total AS SELECT count(*) AS n, sum(price) AS s FROM bid").await;
        run(&mut session, "CREATE PIPELINE copy AS SELECT * FROM bid").await;
        finished(&mut session, "bid").await;
        run(&mut session, "SET verify_memory = '256kB'").await;
        // The input is many times as large, and is not kept.
        assert_eq!(verify(&mut session, "total").await[..3], ["equal", "1", "1"]);
        let error = try_run(&mut session, "VERIFY PIPELINE copy").await.unwrap_err();
        assert_eq!(error.sqlstate.0, "53200");
        assert!(error.hint.unwrap().contains("SAMPLE"));
        assert_eq!(verify(&mut session, "copy SAMPLE 1 PERCENT").await[0], "equal");
        run(&mut session, "RESET verify_memory").await;
        assert_eq!(verify(&mut session, "copy").await[..3], ["equal", "18400", "18400"]);
    });
}

#[test]
fn rows_that_wait_for_their_time_are_verified() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path(), 2).await;
        run(
            &mut session,
            "CREATE SOURCE bid (auction BIGINT, date_time TIMESTAMP, WATERMARK FOR date_time AS date_time - INTERVAL \
             '1 second') WITH (connector = 'generator', table = 'bid', events = '20000', event_rate = '1000')",
        )
        .await;
        for (name, query) in [
            ("rows", "SELECT auction, date_time FROM bid WHERE auction % 3 = 0"),
            (
                "windows",
                "SELECT auction, window_start, window_end FROM TUMBLE(bid, date_time, INTERVAL '1 second')",
            ),
        ] {
            run(&mut session, &format!("CREATE PIPELINE {name} AS {query} EMIT ON WINDOW CLOSE")).await;
        }
        finished(&mut session, "bid").await;
        for name in ["rows", "windows"] {
            let report = verify(&mut session, name).await;
            assert_eq!(report[0], "equal", "{name}: {report:?}");
            assert_ne!(report[1], "0", "{name}");
        }
    });
}
