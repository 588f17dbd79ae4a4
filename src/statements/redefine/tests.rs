//! A pipeline changes, and those who read it see nothing else: in place, after a restart, after an end in between.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemill_plan::RelationId;
use tokio_util::sync::CancellationToken;

use crate::session::Session;
use crate::session::api::SqlError;
use crate::statements::testing::{on_a_runtime, open, run, try_run};

const SET_UP: &str = "
    SET freshness = 'strict';
    CREATE TABLE t (id INT PRIMARY KEY, k TEXT, v BIGINT);
    INSERT INTO t VALUES (1, 'a', 1), (2, 'a', 2), (3, 'b', 30), (4, 'c', 400);
    CREATE PIPELINE p AS SELECT k, sum(v) AS s FROM t GROUP BY k;
    CREATE PIPELINE total AS SELECT sum(s) AS s, count(*) AS n FROM p;
    CREATE VIEW big AS SELECT k FROM p WHERE s > 10;
    CREATE PIPELINE bigger AS SELECT k, s FROM p WHERE s > 100";

async fn set_up(directory: &Path) -> Session {
    let mut session = open(directory).await;
    run(&mut session, SET_UP).await;
    session
}

async fn error(session: &mut Session, sql: &str) -> SqlError {
    match try_run(session, sql).await {
        Ok(rows) => panic!("{sql} gives {rows:?}"),
        Err(error) => error,
    }
}

fn rows<const N: usize>(rows: &[[&str; N]]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.iter().map(|value| (*value).to_owned()).collect()).collect()
}

/// Every pipeline shows the batch answer of its query.
async fn verify(session: &mut Session, pipelines: &[&str]) {
    for pipeline in pipelines {
        let verdict = run(session, &format!("VERIFY PIPELINE {pipeline}")).await;
        assert_eq!(verdict[0][2], "equal", "{pipeline}: {verdict:?}");
    }
}

#[test]
fn readers_get_the_difference_and_keep_what_they_have() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = set_up(directory.path()).await;
        let oid = session.catalog().find("public", "p").unwrap().oid;
        run(&mut session, "COMMENT ON PIPELINE p IS 'sums'; CREATE ROLE r; GRANT SELECT ON p TO r").await;
        let rows_in = "SELECT rows_in FROM tm_pipelines WHERE name = 'total'";
        assert_eq!(run(&mut session, rows_in).await, [["3"]]);
        // Of three rows one changes.
        run(
            &mut session,
            "ALTER PIPELINE p AS SELECT k, sum(v) FILTER (WHERE v <> 2) AS s FROM t GROUP BY k",
        )
        .await;
        assert_eq!(
            run(&mut session, "SELECT k, s FROM p ORDER BY k").await,
            rows(&[["a", "1"], ["b", "30"], ["c", "400"]])
        );
        assert_eq!(run(&mut session, "SELECT s, n FROM total").await, rows(&[["431", "3"]]));
        assert_eq!(run(&mut session, rows_in).await, [["5"]]);
        assert_eq!(run(&mut session, "SELECT k FROM big ORDER BY k").await, rows(&[["b"], ["c"]]));
        // It goes on, as the same object.
        run(&mut session, "INSERT INTO t VALUES (5, 'b', 2), (6, 'd', 1000); DELETE FROM t WHERE id = 1")
            .await;
        assert_eq!(
            run(&mut session, "SELECT k, s FROM p ORDER BY k").await,
            rows(&[["a", "NULL"], ["b", "30"], ["c", "400"], ["d", "1000"]])
        );
        assert_eq!(run(&mut session, "SELECT s, n FROM total").await, rows(&[["1430", "4"]]));
        assert_eq!(run(&mut session, "SELECT k FROM bigger ORDER BY k").await, rows(&[["c"], ["d"]]));
        let catalog = session.catalog();
        let object = catalog.find("public", "p").unwrap();
        assert_eq!((object.oid, object.comment.as_deref()), (oid, Some("sums")));
        assert_eq!(run(&mut session, "SELECT has_table_privilege('r', 'p', 'SELECT')").await, [["true"]]);
        let shown = run(&mut session, "SHOW CREATE PIPELINE p").await;
        assert!(shown[0].concat().contains("WHERE v <> 2"), "{shown:?}");
        assert_eq!(run(&mut session, "SELECT count(*) FROM tm_pipelines").await, [["3"]]);
        verify(&mut session, &["p", "total", "bigger"]).await;
        // And after a restart, and once more, by the other statement.
        drop(session);
        let mut session = open(directory.path()).await;
        run(&mut session, "SET freshness = 'strict'").await;
        verify(&mut session, &["p", "total", "bigger"]).await;
        run(&mut session, "CREATE OR REPLACE PIPELINE p AS SELECT k, 2 * sum(v) AS s FROM t GROUP BY k")
            .await;
        assert_eq!(run(&mut session, "SELECT s, n FROM total").await, rows(&[["2868", "4"]]));
        run(&mut session, "UPDATE t SET v = 0 WHERE k = 'd'").await;
        drop(session);
        let mut session = open(directory.path()).await;
        run(&mut session, "SET freshness = 'strict'").await;
        assert_eq!(run(&mut session, "SELECT s, n FROM total").await, rows(&[["868", "4"]]));
        verify(&mut session, &["p", "total", "bigger"]).await;
        run(&mut session, "DROP PIPELINE p CASCADE").await;
        assert_eq!(run(&mut session, "SELECT count(*) FROM tm_pipelines").await, [["0"]]);
    });
}

#[test]
fn it_may_read_what_is_younger_and_what_others_are_made_of() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = set_up(directory.path()).await;
        run(
            &mut session,
            "CREATE PIPELINE young AS SELECT k, sum(v) AS m FROM t GROUP BY k; \
             ALTER PIPELINE p AS SELECT k, m AS s FROM young WHERE k < 'c'",
        )
        .await;
        assert_eq!(run(&mut session, "SELECT s, n FROM total").await, rows(&[["33", "2"]]));
        assert_eq!(run(&mut session, "SELECT k FROM bigger").await, rows::<1>(&[]));
        run(&mut session, "INSERT INTO t VALUES (7, 'a', 500)").await;
        assert_eq!(run(&mut session, "SELECT k FROM bigger").await, rows(&[["a"]]));
        let refused = error(&mut session, "ALTER PIPELINE young AS SELECT k, s AS m FROM p").await;
        assert_eq!(refused.sqlstate.0, "42P17", "{refused:?}");
        assert_eq!(refused.message, "pipeline young would read itself: pipeline p reads it");
        let refused = error(&mut session, "ALTER PIPELINE p AS SELECT k, s FROM p").await;
        assert_eq!(refused.sqlstate.0, "42P17", "{refused:?}");
        drop(session);
        let mut session = open(directory.path()).await;
        run(&mut session, "SET freshness = 'strict'; INSERT INTO t VALUES (8, 'b', 501)").await;
        assert_eq!(run(&mut session, "SELECT k FROM bigger ORDER BY k").await, rows(&[["a"], ["b"]]));
        verify(&mut session, &["young", "p", "total", "bigger"]).await;
        // What it reads cannot go without it.
        let refused = error(&mut session, "DROP PIPELINE young").await;
        assert_eq!(refused.sqlstate.0, "2BP01");
        run(&mut session, "DROP PIPELINE young CASCADE").await;
        assert_eq!(run(&mut session, "SELECT name FROM tm_pipelines").await, rows::<1>(&[]));
    });
}

#[test]
fn what_readers_count_on_stays() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = set_up(directory.path()).await;
        let columns = error(
            &mut session,
            "ALTER PIPELINE p AS SELECT k, count(*)::INT AS s, 1 AS one FROM t GROUP BY k",
        )
        .await;
        assert_eq!(columns.sqlstate.0, "0A000");
        assert_eq!(columns.message, "pipeline \"p\" must keep its columns, since others read it");
        let detail = columns.detail.unwrap();
        assert!(detail.ends_with("and is integer.\nColumn \"one\" is new."), "{detail}");
        let order = error(&mut session, "ALTER PIPELINE p AS SELECT sum(v) AS s, k FROM t GROUP BY k").await;
        assert_eq!(order.detail.as_deref(), Some("The columns stood as k, s."));
        // Without its key it would be kept in another way.
        run(&mut session, "CREATE PIPELINE top AS SELECT p.k, p.s, t.id FROM p JOIN t ON t.k = p.k").await;
        let block =
            error(&mut session, "BEGIN; ALTER PIPELINE p AS SELECT k, sum(v) AS s FROM t GROUP BY k").await;
        assert_eq!(block.sqlstate.0, "25001", "{block:?}");
        run(&mut session, "ROLLBACK").await;
        // A reader fails on the new rows: nothing has happened.
        run(&mut session, "CREATE PIPELINE shares AS SELECT k, 1000 / s AS share FROM p").await;
        let zero =
            error(&mut session, "ALTER PIPELINE p AS SELECT k, sum(v) - 30 AS s FROM t GROUP BY k").await;
        assert!(zero.message.to_lowercase().contains("zero"), "{zero:?}");
        run(&mut session, "INSERT INTO t VALUES (9, 'a', 7)").await;
        let sums = "SELECT k, s FROM p ORDER BY k";
        assert_eq!(run(&mut session, sums).await, rows(&[["a", "10"], ["b", "30"], ["c", "400"]]));
        verify(&mut session, &["p", "total", "bigger", "shares", "top"]).await;
        assert_eq!(
            run(&mut session, "SELECT count(*) FROM tm_pipelines WHERE state = 'RUNNING'").await,
            [["5"]]
        );
        run(&mut session, "ALTER PIPELINE p AS SELECT k, sum(v) + 1 AS s FROM t GROUP BY k").await;
        verify(&mut session, &["p", "total", "bigger", "shares", "top"]).await;
    });
}

/// Waits until a query gives a number, and looks whether it stays at that.
async fn comes_to(session: &mut Session, sql: &str, number: &str) {
    for _ in 0..1000 {
        if run(session, sql).await == [[number]] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run(session, "FLUSH").await;
    assert_eq!(run(session, sql).await, [[number]], "{sql}");
}

#[test]
fn what_the_old_one_read_is_read_once_by_others() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut session = open(directory.path()).await;
        let source = |name: &str| {
            format!(
                "CREATE SOURCE {name} WITH (connector = 'generator', data = 'sequence', events = '3000', rate = '1500')"
            )
        };
        run(
            &mut session,
            &format!(
                "{}; {}; CREATE PIPELINE other AS SELECT count(*) AS n FROM one; \
                 CREATE PIPELINE p AS SELECT count(*) + 0 AS n FROM one; CREATE PIPELINE total AS SELECT sum(n) AS n FROM p; \
                 CREATE PIPELINE shares AS SELECT 10 / (n - 3001) AS share FROM p",
                source("one"),
                source("two")
            ),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Refused by a reader, which leaves the place in the source alone.
        let refused =
            error(&mut session, "ALTER PIPELINE p AS SELECT count(*) * 0 + 3001 AS n FROM two").await;
        assert!(refused.message.to_lowercase().contains("zero"), "{refused:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        run(&mut session, "ALTER PIPELINE p AS SELECT count(*) + 0 AS n FROM two").await;
        // The dataflow's checkpoint is one that has read both.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(session);
        let mut session = open(directory.path()).await;
        run(&mut session, "SET freshness = 'strict'").await;
        comes_to(&mut session, "SELECT n FROM other", "3000").await;
        comes_to(&mut session, "SELECT n FROM total", "3000").await;
        run(&mut session, "ALTER PIPELINE p AS SELECT count(*) + 0 AS n FROM one").await;
        comes_to(&mut session, "SELECT n FROM total", "3000").await;
        verify(&mut session, &["other", "p", "total"]).await;
    });
}

/// Prepares what ALTER PIPELINE p does, as far as to the moment at which a crash is to come.
async fn half_altered(session: &mut Session, is_decided: bool) {
    let database = session.database.clone();
    let before = database.catalog();
    let old = before.find("public", "p").unwrap().clone();
    let query = "SELECT k, CAST(3 * sum(v) AS NUMERIC(29, 0)) AS s FROM t GROUP BY k";
    let definition = tidemill_catalog::PipelineDefinition { query: query.into(), ..Default::default() };
    let sql = format!("CREATE PIPELINE p AS {query}");
    let (after, object) = before
        .redefine_pipeline(old.oid, definition, sql, old.search_path.clone(), old.dependencies.clone())
        .unwrap();
    let mut plan = database
        .pipeline_plan(query, (&old.search_path).into(), &tidemill_core::Upkeep::default())
        .await
        .unwrap();
    plan.schema = object.arrow_schema();
    let spec = database.pipeline_spec(&object, plan).unwrap();
    assert_ne!(spec.state, RelationId(old.oid));
    database.engine.prepare_replacement(&spec, &CancellationToken::new()).await.unwrap();
    database.put_unsettled(&Arc::new(after), &before).await.unwrap();
    if is_decided {
        database.engine.replace_member(spec).await.unwrap();
    }
}

#[test]
fn an_end_in_between_leaves_the_one_or_the_other() {
    on_a_runtime(async {
        for is_decided in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let mut session = set_up(directory.path()).await;
            half_altered(&mut session, is_decided).await;
            drop(session);
            tokio::time::sleep(Duration::from_millis(50)).await;
            for _ in 0..2 {
                let mut session = open(directory.path()).await;
                run(&mut session, "SET freshness = 'strict'; INSERT INTO t VALUES (9, 'a', 7)").await;
                let factor = if is_decided { 3 } else { 1 };
                let total = (440 * factor).to_string();
                assert_eq!(run(&mut session, "SELECT s, n FROM total").await, rows(&[[total.as_str(), "3"]]));
                verify(&mut session, &["p", "total", "bigger"]).await;
                assert_eq!(run(&mut session, "SELECT count(*) FROM tm_pipelines").await, [["3"]]);
                run(&mut session, "DELETE FROM t WHERE id = 9").await;
                drop(session);
            }
        }
    });
}
