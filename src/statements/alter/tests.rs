//! What is paused loses nothing, what has failed begins again, what is dropped is gone: each also after a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use tidemill_core::Epoch;
use tidemill_engine::EngineConfig;
use tidemill_plan::RelationId;

use crate::session::Session;
use crate::statements::testing::{notices, on_a_runtime, open, open_with, run, tag, try_run};

/// Waits until a pipeline is in a state.
async fn until(session: &mut Session, pipeline: &str, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sql = format!("SELECT state, error FROM tm_pipelines WHERE name = '{pipeline}'");
    loop {
        let rows = run(session, &sql).await;
        if rows[0][0] == state {
            return;
        }
        assert!(Instant::now() < deadline, "{pipeline} does not become {state}: {rows:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_new_name_counts_at_once() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE TABLE t (a INT); CREATE TABLE read (a INT)").await;
        run(&mut session, "CREATE SOURCE s WITH (connector = 'generator', data = 'sequence', events = 1)")
            .await;
        run(&mut session, "CREATE PIPELINE p AS SELECT sum(a) AS s FROM read").await;
        run(&mut session, "CREATE SINK k FROM read WITH (connector = 'blackhole')").await;
        run(&mut session, "ALTER PIPELINE p PAUSE").await;
        run(&mut session, "ALTER TABLE t RENAME TO t2; ALTER SOURCE s RENAME TO s2").await;
        run(&mut session, "ALTER PIPELINE p RENAME TO p2; ALTER SINK k RENAME TO k2").await;
        // What is taken back never counted.
        run(&mut session, "BEGIN; ALTER PIPELINE p2 RENAME TO p3; ALTER TABLE t2 RENAME TO t3; ROLLBACK")
            .await;
        run(&mut session, "BEGIN; ALTER SINK k2 RENAME TO k3; COMMIT").await;
        let names = "SELECT name FROM tm_tables UNION ALL SELECT name FROM tm_sources UNION ALL SELECT name FROM tm_sinks \
                     UNION ALL SELECT name || ' ' || reason FROM tm_pipelines ORDER BY 1";
        let expected = [["k3"], ["p2 it is paused"], ["read"], ["s2"], ["t2"]];
        assert_eq!(run(&mut session, names).await, expected);
        run(&mut session, "SELECT * FROM p2").await;
        assert_eq!(
            notices(&mut session).last().map(String::as_str),
            Some("WARNING: \"p2\" is paused and shows its last epoch (it is paused)")
        );
        drop(session);
        let mut session = open(directory.path()).await;
        assert_eq!(run(&mut session, names).await, expected, "after a restart");
    });
}

/// A stored query reads what it was found to read, whatever has got such a name since in a schema that comes first.
#[test]
fn what_a_stored_name_stands_for_does_not_change() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE SCHEMA z1; CREATE SCHEMA z2; SET search_path = z1, z2").await;
        run(&mut session, "CREATE TABLE z2.t (name TEXT); INSERT INTO t VALUES ('old')").await;
        run(&mut session, "CREATE VIEW z1.v AS SELECT name FROM t WHERE name <> ''").await;
        run(&mut session, "CREATE PIPELINE z1.p AS SELECT name, count(*) AS n FROM t GROUP BY name").await;
        run(&mut session, "CREATE PIPELINE z1.q AS SELECT max(name) AS name FROM v").await;
        run(&mut session, "CREATE TABLE z1.t (name TEXT); INSERT INTO z1.t VALUES ('new')").await;
        run(&mut session, "CREATE VIEW z1.w AS SELECT name FROM t").await;
        assert_eq!(run(&mut session, "SELECT * FROM t").await, [["new"]]);
        for n in ["2", "3"] {
            run(&mut session, "INSERT INTO z2.t VALUES ('old'); INSERT INTO z1.t VALUES ('new')").await;
            assert_eq!(run(&mut session, "SELECT * FROM p").await, [["old", n]]);
            assert_eq!(run(&mut session, "SELECT * FROM q").await, [["old"]]);
            assert_eq!(run(&mut session, "SELECT DISTINCT name FROM v").await, [["old"]]);
            assert_eq!(run(&mut session, "SELECT DISTINCT name FROM w").await, [["new"]]);
            for pipeline in ["p", "q"] {
                let verified = run(&mut session, &format!("VERIFY PIPELINE {pipeline}")).await;
                assert_eq!(verified[0][2], "equal", "{verified:?}");
            }
            drop(session);
            session = open(directory.path()).await;
            run(&mut session, "SET search_path = z1, z2").await;
        }
    });
}

#[test]
fn readers_of_what_is_paused_are_told_and_never_wait() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE TABLE t (a INT); CREATE PIPELINE p AS SELECT sum(a) AS s FROM t").await;
        run(&mut session, "CREATE PIPELINE q AS SELECT s + 1 AS s FROM p").await;
        run(&mut session, "INSERT INTO t VALUES (1), (2)").await;
        assert_eq!(notices(&mut session), Vec::<String>::new());
        assert_eq!(tag(&mut session, "ALTER MATERIALIZED VIEW p PAUSE").await, "ALTER MATERIALIZED VIEW");
        assert_eq!(notices(&mut session), ["NOTICE: paused with it, since they read each other: \"q\" ()"]);
        // Even for who has to see what he wrote himself.
        run(&mut session, "INSERT INTO t VALUES (4)").await;
        let read = tokio::time::timeout(Duration::from_secs(10), run(&mut session, "SELECT s FROM q"));
        assert_eq!(read.await.expect("it does not wait"), [["4"]]);
        assert_eq!(
            notices(&mut session),
            ["WARNING: \"q\" is paused and shows its last epoch (\"p\" is paused, to which it is tied)"]
        );
        run(&mut session, "SET freshness = 'strict'").await;
        let read = tokio::time::timeout(Duration::from_secs(10), run(&mut session, "SELECT s FROM p"));
        assert_eq!(read.await.expect("it does not wait"), [["3"]]);
        notices(&mut session);
        run(&mut session, "BEGIN").await;
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["3"]]);
        assert_eq!(
            notices(&mut session),
            ["WARNING: \"p\" is paused and shows its last epoch (it is paused)"]
        );
        run(&mut session, "COMMIT").await;
        // Who follows it gets what it has missed as one change.
        let p = RelationId(session.database.catalog().find("public", "p").unwrap().oid);
        let mut subscription = session.database.engine.subscribe(p, Epoch::ZERO).await.unwrap();
        run(&mut session, "INSERT INTO t VALUES (8)").await;
        assert_eq!(tag(&mut session, "ALTER PIPELINE p RESUME").await, "ALTER PIPELINE");
        assert_eq!(run(&mut session, "SELECT s FROM q").await, [["16"]]);
        assert_eq!(notices(&mut session), Vec::<String>::new());
        let (_, change) = subscription.changes.recv().await.unwrap();
        assert_eq!(change.weights().values().to_vec(), [-1, 1]);
        run(&mut session, "INSERT INTO t VALUES (16)").await;
        let (_, change) = subscription.changes.recv().await.unwrap();
        assert_eq!(change.len(), 2);
        assert_eq!(run(&mut session, "SELECT s FROM q").await, [["32"]]);
    });
}

#[test]
fn what_fails_on_its_data_is_restarted_some_times_and_then_stays_failed() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let config = EngineConfig { restart_limit: 2, ..EngineConfig::default() };
        let mut session = open_with(directory.path(), config).await;
        run(&mut session, "CREATE TABLE t (a INT); CREATE PIPELINE p AS SELECT sum(10 / a) AS s FROM t")
            .await;
        run(&mut session, "CREATE PIPELINE fine AS SELECT sum(a) AS s FROM t").await;
        run(&mut session, "INSERT INTO t VALUES (1), (2)").await;
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["15"]]);
        let began = Instant::now();
        run(&mut session, "INSERT INTO t VALUES (0)").await;
        // It does not take long for anybody to see it, and nobody waits for it.
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["15"]]);
        let told = notices(&mut session).join("");
        assert!(told.contains("shows its last good epoch (in \"p\""), "{told}");
        until(&mut session, "p", "FAILED").await;
        assert!(began.elapsed() > Duration::from_millis(50 + 200), "it was tried twice more, after pauses");
        let row =
            run(&mut session, "SELECT error = reason, since IS NOT NULL FROM tm_pipelines WHERE name = 'p'");
        assert_eq!(row.await, [["true", "true"]]);
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["15"]]);
        let error = try_run(&mut session, "ALTER PIPELINE p RESUME").await.unwrap_err();
        assert_eq!(
            (error.sqlstate.0, error.hint.as_deref()),
            ("55000", Some("ALTER PIPELINE p RESTART begins again from its checkpoint."))
        );
        run(&mut session, "ALTER PIPELINE p RESTART").await;
        until(&mut session, "p", "FAILED").await;
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["15"]]);
        // Paused and resumed it is no better.
        run(&mut session, "ALTER PIPELINE p PAUSE").await;
        until(&mut session, "p", "PAUSED").await;
        run(&mut session, "ALTER PIPELINE p RESUME").await;
        until(&mut session, "p", "FAILED").await;
        // The others have gone on all along.
        run(&mut session, "INSERT INTO t VALUES (3)").await;
        notices(&mut session);
        assert_eq!(run(&mut session, "SELECT s FROM fine").await, [["6"]]);
        assert_eq!(notices(&mut session), Vec::<String>::new());
        run(&mut session, "DROP PIPELINE p").await;
        assert_eq!(run(&mut session, "SELECT count(*) FROM tm_pipelines").await, [["1"]]);
    });
}

/// Writes a file with some numbers.
fn write(path: &Path, numbers: std::ops::Range<u32>) {
    let lines: Vec<String> = numbers.map(|n| format!("{{\"n\": {n}}}\n")).collect();
    std::fs::write(path, lines.concat()).unwrap();
}

#[test]
fn what_fails_on_the_outside_is_there_again_once_that_is() {
    // By itself, or by a statement.
    on_a_runtime(fails_on_the_outside(20));
    on_a_runtime(fails_on_the_outside(0));
}

async fn fails_on_the_outside(restart_limit: u32) {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("files");
    std::fs::create_dir(&files).unwrap();
    write(&files.join("a.json"), 0..100);
    let config = EngineConfig { restart_limit, ..EngineConfig::default() };
    let mut session = open_with(&directory.path().join("data"), config).await;
    let source = format!(
        "CREATE SOURCE s (n INT) WITH (connector = 'file', path = '{}/*.json', watch = 'true', \
             discovery_interval = '50ms') FORMAT PLAIN ENCODE JSON",
        files.display()
    );
    run(&mut session, &source).await;
    run(&mut session, "CREATE PIPELINE all_of_it AS SELECT count(*) AS n FROM s").await;
    run(&mut session, "CREATE PIPELINE p AS SELECT count(*) AS n, sum(n) AS total FROM s").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while run(&mut session, "SELECT n FROM p").await != [["100"]] {
        assert!(Instant::now() < deadline, "the file is read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run(&mut session, "ALTER PIPELINE p PAUSE").await;
    write(&files.join("b.json"), 100..200);
    while run(&mut session, "SELECT n FROM all_of_it").await != [["200"]] {
        assert!(Instant::now() < deadline, "the other file is read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What it has missed cannot be read.
    std::fs::rename(&files, directory.path().join("away")).unwrap();
    run(&mut session, "ALTER PIPELINE p RESUME").await;
    while run(&mut session, "SELECT state FROM tm_pipelines WHERE name = 'p'").await == [["RUNNING"]] {
        assert!(Instant::now() < deadline, "it notices");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(run(&mut session, "SELECT n, total FROM p").await, [["100", "4950"]]);
    assert_eq!(run(&mut session, "SELECT n FROM all_of_it").await, [["200"]]);
    std::fs::rename(directory.path().join("away"), &files).unwrap();
    if restart_limit == 0 {
        run(&mut session, "ALTER PIPELINE p RESTART").await;
    }
    while run(&mut session, "SELECT n, total FROM p").await != [["200", "19900"]] {
        assert!(Instant::now() < deadline, "it takes in what it has missed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until(&mut session, "p", "RUNNING").await;
}

#[test]
fn a_source_is_read_once_however_its_readers_stand_still() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        let source = "CREATE SOURCE s WITH (connector = 'generator', data = 'sequence', events = '30000', \
                      rate = '20000', splits = '3', batch_rows = '100')";
        run(&mut session, source).await;
        let pipeline = |name: &str| {
            format!(
                "CREATE PIPELINE {name} AS SELECT count(*) AS n, sum(n) AS total, count(DISTINCT n) AS d FROM s"
            )
        };
        run(&mut session, &pipeline("a")).await;
        // Nobody reads for a while; then somebody comes who begins at the start.
        for round in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            run(&mut session, "ALTER PIPELINE a PAUSE").await;
            if round == 1 {
                run(&mut session, &pipeline("b")).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            run(&mut session, "ALTER SOURCE s PAUSE").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            run(&mut session, "ALTER SOURCE s RESUME").await;
            run(&mut session, "ALTER PIPELINE a RESUME").await;
            run(&mut session, "ALTER SOURCE s RESTART").await;
            run(&mut session, "ALTER PIPELINE a RESTART").await;
        }
        run(&mut session, "ALTER SOURCE s SET (rate = '0')").await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while run(&mut session, "SELECT state FROM tm_sources").await != [["FINISHED"]] {
            assert!(Instant::now() < deadline, "the source ends");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        run(&mut session, "FLUSH").await;
        let total = 30_000u64 * 29_999 / 2;
        let all = [["30000".to_string(), total.to_string(), "30000".to_string()]];
        assert_eq!(run(&mut session, "SELECT * FROM a").await, all);
        assert_eq!(run(&mut session, "SELECT * FROM b").await, all);
    });
}

#[test]
fn a_rate_is_kept_and_can_be_altered() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        let source = "CREATE SOURCE s WITH (connector = 'generator', data = 'sequence', events = '40000', \
                      batch_rows = '50', rate_limit = '500')";
        run(&mut session, source).await;
        let began = Instant::now();
        run(&mut session, "CREATE PIPELINE p AS SELECT count(*) AS n FROM s").await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let n: f64 = run(&mut session, "SELECT n FROM p").await[0][0].parse().unwrap();
        let at_most = 500.0 * began.elapsed().as_secs_f64() + 100.0;
        assert!(n > 0.0 && n <= at_most, "{n} rows, at most {at_most}");
        run(&mut session, "ALTER SOURCE s RESET (rate_limit)").await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while run(&mut session, "SELECT n FROM p").await != [["40000"]] {
            assert!(Instant::now() < deadline, "without a limit it is soon at its end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let shown = run(&mut session, "SHOW CREATE SOURCE s").await;
        assert!(!shown[0][1].contains("rate_limit"), "{shown:?}");
        run(&mut session, "ALTER SOURCE s SET (rate_limit = 7)").await;
        let shown = run(&mut session, "SHOW CREATE SOURCE s").await;
        assert!(shown[0][1].contains("rate_limit = '7'"), "{shown:?}");
    });
}

/// The newest version of the catalog below a data directory, and the name of the next.
fn catalog_versions(data: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let directory = data.join("catalog");
    let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    let newest = names.map(|name| name.into_string().unwrap()).max().unwrap();
    let next = newest.parse::<u64>().unwrap() + 1;
    let width = newest.len();
    (directory.join(&newest), directory.join(format!("{next:0width$}")))
}

#[test]
fn a_drop_that_breaks_off_leaves_all_or_garbage() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE TABLE t (a INT); CREATE TABLE u (a INT)").await;
        run(&mut session, "CREATE PIPELINE p AS SELECT sum(a) AS s FROM t").await;
        run(&mut session, "INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (3)").await;
        // The catalog cannot be written, as if the server had died before that.
        let (newest, next) = catalog_versions(directory.path());
        std::fs::write(&next, "taken").unwrap();
        try_run(&mut session, "DROP PIPELINE p").await.unwrap_err();
        try_run(&mut session, "DROP TABLE u").await.unwrap_err();
        try_run(&mut session, "CREATE OR REPLACE TABLE u (b INT)").await.unwrap_err();
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["3"]]);
        std::fs::remove_file(&next).unwrap();
        session.database.engine.shutdown().await.unwrap();
        let mut session = open(directory.path()).await;
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["3"]]);
        assert_eq!(run(&mut session, "SELECT a FROM u").await, [["3"]]);
        // The catalog has been written, and nothing else done.
        session.database.engine.shutdown().await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        let copied =
            std::process::Command::new("cp").arg("-r").arg(directory.path()).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        run(&mut session, "DROP PIPELINE p; DROP TABLE u").await;
        let (after, _) = catalog_versions(directory.path());
        assert_ne!(after, newest);
        let data = copy.path().join(directory.path().file_name().unwrap());
        std::fs::copy(&after, data.join("catalog").join(after.file_name().unwrap())).unwrap();
        let n_left = |part: &str| std::fs::read_dir(data.join(part)).unwrap().count();
        let before = (n_left("tables"), n_left("dataflows"));
        let mut session = open(&data).await;
        assert_eq!(run(&mut session, "SELECT count(*) FROM tm_pipelines").await, [["0"]]);
        assert_eq!(run(&mut session, "SELECT sum(a) AS s FROM t").await, [["3"]]);
        let left = |part: &str| {
            let files = std::process::Command::new("find").arg(data.join(part)).args(["-name", "*"]).output();
            String::from_utf8(files.unwrap().stdout).unwrap()
        };
        assert!(before.0 >= 2 && before.1 == 1, "{before:?}");
        assert!(!left("dataflows").contains("packs/0"), "{}", left("dataflows"));
        assert_eq!(run(&mut session, "SELECT name FROM tm_tables").await, [["t"]]);
    });
}

#[test]
fn what_cannot_be_planned_keeps_its_checkpoint() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        run(&mut session, "CREATE TABLE t (a INT); CREATE PIPELINE p AS SELECT sum(abs(a)) AS s FROM t")
            .await;
        run(&mut session, "INSERT INTO t VALUES (1), (-2)").await;
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["3"]]);
        session.database.engine.shutdown().await.unwrap();
        // As a server that does not know a function any more.
        let (newest, _) = catalog_versions(directory.path());
        let good = std::fs::read_to_string(&newest).unwrap();
        std::fs::write(&newest, good.replace("abs(a)", "abc(a)")).unwrap();
        let mut session = open(directory.path()).await;
        until(&mut session, "p", "FAILED").await;
        run(&mut session, "INSERT INTO t VALUES (-4)").await;
        session.database.engine.shutdown().await.unwrap();
        std::fs::write(&newest, good).unwrap();
        let mut session = open(directory.path()).await;
        assert_eq!(run(&mut session, "SELECT s FROM p").await, [["7"]]);
    });
}
