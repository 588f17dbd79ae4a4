//! The judge of indexes: a SELECT through one gives what it gives without, whatever has happened.
//!
//! Rows of a table with a key, of one without, and of pipelines over them come and go, indexes are made and dropped
//! meanwhile, pipelines stand still, fail, begin again and are changed under their readers; in several numbers of lanes and across crashes. After
//! each statement random filters are asked twice at one epoch: as they are, and behind a window function, below which no filter
//! gets.
//!
//! `TIDEMILL_SEEDS=100 cargo test --lib index_oracle` runs more of it.

use std::path::Path;
use std::time::Duration;

use datafusion::common::ScalarValue;
use tidemill_engine::EngineConfig;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::oracle::{Rng, multiset, run};
use crate::session::Session;
use crate::session::api::{Response, SessionApi};
use crate::statements::testing;

const COLUMNS: &str = "id INT, a INT, s TEXT, at TIMESTAMP, n NUMERIC(10, 2), b BOOLEAN, d DATE";

const GROUPED: &str = "SELECT a, s, sum(n) AS n, max(at) AS at FROM u GROUP BY a, s";

/// What has indexes, and by which columns it can have some.
const RELATIONS: &[(&str, &[&str])] = &[
    ("t", &["a", "s", "at", "n", "b", "d", "id"]),
    ("u", &["a", "s", "at", "n", "b", "d", "id"]),
    ("copied", &["a", "s", "at", "n", "b", "d", "id"]),
    ("grouped", &["a", "s", "n", "at"]),
    ("failing", &["a", "s", "id"]),
];

fn value(rng: &mut Rng, column: &str) -> String {
    match column {
        "a" | "id" => rng.below(12).to_string(),
        "s" => format!("'{}'", ["x", "xy", "xyz", "", "y", "Ω"][rng.below(6) as usize]),
        "at" => format!("TIMESTAMP '2024-01-01 00:00:0{}'", rng.below(8)),
        "n" => format!("{}.{}", rng.below(6), ["5", "25", "00"][rng.below(3) as usize]),
        "b" => ["true", "false"][rng.below(2) as usize].into(),
        _ => format!("DATE '2024-01-0{}'", 1 + rng.below(8)),
    }
}

fn condition(rng: &mut Rng, column: &str) -> String {
    match rng.below(9) {
        0 | 1 => format!("{column} = {}", value(rng, column)),
        2 => format!("{} {} {column}", value(rng, column), ["<", "<=", ">", ">="][rng.below(4) as usize]),
        3 => format!("{column} {} {}", ["<", "<=", ">", ">="][rng.below(4) as usize], value(rng, column)),
        4 => format!("{column} BETWEEN {} AND {}", value(rng, column), value(rng, column)),
        5 => {
            let n = 1 + rng.below(6);
            let list: Vec<String> = (0..n).map(|_| value(rng, column)).collect();
            format!("{column} {}IN ({}, NULL)", if rng.below(4) == 0 { "NOT " } else { "" }, list.join(", "))
        }
        6 => format!("{column} IS {}NULL", if rng.below(3) == 0 { "NOT " } else { "" }),
        7 if column == "s" => format!("s LIKE '{}'", ["x%", "xy_", "%y", "xy", "Ω%"][rng.below(5) as usize]),
        7 if column == "b" => ["b", "NOT b", "b IS NOT TRUE"][rng.below(3) as usize].into(),
        _ => format!("{column} <> {}", value(rng, column)),
    }
}

fn filter(rng: &mut Rng, columns: &[&str]) -> String {
    let n = 1 + rng.below(3);
    let one = |rng: &mut Rng| {
        let column = columns[rng.below(columns.len() as u64) as usize];
        condition(rng, column)
    };
    let mut filter = one(rng);
    for _ in 1..n {
        let word = ["AND", "AND", "OR"][rng.below(3) as usize];
        filter = format!("({filter}) {word} ({})", one(rng));
    }
    filter
}

fn statement(rng: &mut Rng, next_id: &mut u64) -> String {
    let relation = |rng: &mut Rng| RELATIONS[rng.below(RELATIONS.len() as u64) as usize];
    let table = |rng: &mut Rng| ["t", "u"][rng.below(2) as usize];
    match rng.below(16) {
        0..=4 => {
            let mut row = |rng: &mut Rng| {
                *next_id += 1;
                let columns = ["a", "s", "at", "n", "b", "d"];
                let nullable = |column: &&str| match rng.below(6) {
                    0 => "NULL".into(),
                    _ => value(rng, column),
                };
                let values: Vec<String> = columns.iter().map(nullable).collect();
                format!("({}, {})", next_id, values.join(", "))
            };
            let n = 1 + rng.below(12);
            let table = table(rng);
            format!("INSERT INTO {table} VALUES {}", (0..n).map(|_| row(rng)).collect::<Vec<_>>().join(", "))
        }
        5 => format!("DELETE FROM {} WHERE {}", table(rng), filter(rng, RELATIONS[0].1)),
        6 | 7 => {
            let column = RELATIONS[0].1[rng.below(6) as usize];
            let (table, value) = (table(rng), value(rng, column));
            format!("UPDATE {table} SET {column} = {value} WHERE {}", filter(rng, RELATIONS[0].1))
        }
        8..=10 => {
            let (name, columns) = relation(rng);
            let first = columns[rng.below(columns.len() as u64) as usize];
            let second = columns[rng.below(columns.len() as u64) as usize];
            let order = ["", " DESC", " NULLS FIRST"][rng.below(3) as usize];
            let create = format!(
                "CREATE INDEX IF NOT EXISTS {name}_{first}_{second} ON {name} ({first}{order}, {second})"
            );
            match rng.below(4) {
                0 => format!("BEGIN; {create}; COMMIT"),
                1 => format!("BEGIN; {create}; ROLLBACK"),
                _ => create,
            }
        }
        11 => {
            let (name, columns) = relation(rng);
            let first = columns[rng.below(columns.len() as u64) as usize];
            let second = columns[rng.below(columns.len() as u64) as usize];
            format!("DROP INDEX IF EXISTS {name}_{first}_{second}")
        }
        12 => "ALTER PIPELINE copied RESTART".into(),
        13 => ["ALTER PIPELINE copied PAUSE", "ALTER PIPELINE copied RESUME"][rng.below(2) as usize].into(),
        14 => match rng.below(4) {
            0 => format!("ALTER PIPELINE grouped AS {GROUPED} HAVING count(*) < {}", 2 + rng.below(9)),
            n => format!("ALTER PIPELINE copied AS SELECT * FROM t WHERE a IS NULL OR a > {n}"),
        },
        _ => ["TRUNCATE u", "FLUSH", "FLUSH"][rng.below(3) as usize].into(),
    }
}

/// Asks one relation for the rows of a filter in both ways. Says whether an index was used.
async fn compare(session: &mut Session, relation: &str, filter: &str, history: &[String]) -> bool {
    let columns =
        RELATIONS.iter().find(|(name, _)| *name == relation).expect("it is one of them").1.join(", ");
    let find = format!("SELECT {columns} FROM {relation} WHERE {filter}");
    let numbered = format!("SELECT *, row_number() OVER () AS nth FROM {relation}");
    let all = format!("SELECT {columns} FROM ({numbered}) AS x WHERE nth > 0 AND ({filter})");
    let context = || format!("{find}, after {history:#?}");
    let error = |error| panic!("{}: {error:?}", context());
    // A block reads one snapshot.
    run(session, "BEGIN").await.unwrap();
    let found = run(session, &find).await.unwrap_or_else(error);
    let plain = run(session, &all).await.unwrap_or_else(error);
    let plan = testing::run(session, &format!("EXPLAIN {find}")).await.concat().join("\n");
    let plan_of_all = testing::run(session, &format!("EXPLAIN {all}")).await.concat().join("\n");
    run(session, "COMMIT").await.unwrap();
    assert!(!plan_of_all.contains("key=["), "{plan_of_all}");
    assert_eq!(multiset(&found), multiset(&plain), "{plan}\n{}", context());
    plan.contains("index=[")
}

/// A transaction over both tables of which the second refuses its part, so that the first takes back its own.
async fn refuse(session: &mut Session, rng: &mut Rng, next_id: &mut u64, history: &mut Vec<String>) {
    *next_id += 1;
    let (a, s) = (value(rng, "a"), value(rng, "s"));
    let insert = format!("INSERT INTO t (id, a, s) VALUES ({next_id}, {a}, {s})");
    let sql = format!(
        "BEGIN; INSERT INTO u (id, a, s) VALUES ({next_id}, {a}, {s}); DELETE FROM u WHERE a = 1; {insert}"
    );
    history.extend([sql.clone(), insert.clone(), "COMMIT".into()]);
    let mut other = Session::new(session.database.clone(), "tidemill".into());
    run(&mut other, &sql).await.unwrap();
    run(session, &insert).await.unwrap();
    let error = run(&mut other, "COMMIT").await.expect_err("the key is taken");
    assert_eq!(error.sqlstate.0, "40001", "{error:?}");
}

/// One life of a server; gives how often an index was used.
async fn live(
    directory: &Path,
    n_lanes: usize,
    rng: &mut Rng,
    is_first: bool,
    history: &mut Vec<String>,
) -> usize {
    let config = EngineConfig {
        checkpoint_interval: Duration::from_millis(20),
        memory_limit: 16 << 10,
        rows_max: 50,
        // It fails whenever its data lets it.
        restart_limit: 1_000_000,
        ..EngineConfig::default()
    };
    let database = Database::open(directory, n_lanes, config).await.unwrap();
    let mut session = Session::new(database, "tidemill".into());
    if is_first {
        let sql = format!(
            "CREATE TABLE u ({COLUMNS}); CREATE TABLE t ({COLUMNS}, PRIMARY KEY (id)); \
             CREATE PIPELINE copied AS SELECT * FROM t WHERE a IS NULL OR a > 2; \
             CREATE PIPELINE counted AS SELECT a, count(*) AS n FROM copied GROUP BY a; \
             CREATE PIPELINE grouped AS {GROUPED}; \
             CREATE PIPELINE failing AS SELECT 60 / a AS a, s, id FROM u; \
             CREATE INDEX grouped_n_at ON grouped (n, at); CREATE INDEX t_s_at ON t (s, at); CREATE INDEX u_b_b ON u (b)"
        );
        run(&mut session, &sql).await.unwrap();
    }
    let mut next_id = 1000 * history.len() as u64;
    let mut n_used = 0;
    for _ in 0..16 {
        if rng.below(3) == 0 {
            refuse(&mut session, rng, &mut next_id, history).await;
        }
        let sql = statement(rng, &mut next_id);
        history.push(sql.clone());
        // What stands still, or has failed, may refuse.
        if let Err(error) = run(&mut session, &sql).await {
            history.push(format!("{error:?}"));
            assert!(["55000", "22012"].contains(&error.sqlstate.0), "{error:?}, after {history:#?}");
            run(&mut session, "ROLLBACK").await.unwrap();
        }
        for (relation, columns) in RELATIONS {
            for _ in 0..2 {
                let filter = filter(rng, columns);
                n_used += usize::from(compare(&mut session, relation, &filter, history).await);
            }
        }
    }
    run(&mut session, "DELETE FROM u WHERE a = 0").await.unwrap();
    n_used
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_stack_size(16 << 20).enable_all().build().unwrap()
}

#[test]
fn an_index_changes_no_answer() {
    let n_seeds = std::env::var("TIDEMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let mut n_used = 0;
    for seed in 0..n_seeds {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = Rng::new(seed);
        let mut history = vec![format!("seed {seed}")];
        for life in 0..3 {
            let n_lanes = [1, 4, 2][(life + seed as usize) % 3];
            let runtime = runtime();
            n_used += runtime.block_on(live(directory.path(), n_lanes, &mut rng, life == 0, &mut history));
            history.push("crash".into());
            runtime.shutdown_timeout(Duration::ZERO);
        }
    }
    assert!(n_used > 100, "{n_used} times an index was used");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_looked_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut session = testing::open(directory.path()).await;
    let sql = "CREATE TABLE t (id INT PRIMARY KEY, a INT, s TEXT); CREATE INDEX t_a ON t (a, s); \
               INSERT INTO t SELECT i, i % 7, 's' || i FROM generate_series(1, 100) AS g (i)";
    testing::run(&mut session, sql).await;
    for (sql, params, way) in [
        ("a = $1", vec![ScalarValue::Int64(Some(3))], "index=[t_a] key=[a]"),
        (
            "a = $1 AND s > $2",
            vec![ScalarValue::Int32(Some(3)), ScalarValue::from("s5")],
            "index=[t_a] key=[a, s]",
        ),
        ("a IN ($1, $2, 5, 6)", vec![ScalarValue::Int64(Some(3)), ScalarValue::Int64(Some(4))], "ranges=4"),
        ("id BETWEEN $1 AND $2", vec![ScalarValue::Int64(Some(3)), ScalarValue::Int64(Some(4))], "key=[id]"),
    ] {
        let sql = format!("EXPLAIN ANALYZE SELECT * FROM t WHERE {sql}");
        let parsed = SessionApi::parse(&mut session, &sql).unwrap().remove(0);
        let response = SessionApi::execute(&mut session, &parsed, params, &CancellationToken::new()).await;
        let Response::Rows { rows, .. } = response.unwrap() else { panic!("a plan is rows") };
        let batches: Vec<_> = futures::TryStreamExt::try_collect(rows).await.unwrap();
        let plan = multiset(&batches).into_keys().collect::<Vec<_>>().join("\n");
        assert!(plan.contains(way), "{sql}: {plan}");
    }
}
