//! The judge: what a pipeline shows equals the batch answer of the same SQL, after every change.
//!
//! Random rows come and go in two tables, some of them NULL, repeated, or in groups that empty out again.
//! After each statement every pipeline is compared with its own query run as a SELECT, in one lane and in
//! several, and across crashes: a runtime is torn down without a word and the directory opened again.
//!
//! `TIDEMILL_SEEDS=100 cargo test --lib oracle` runs more of it.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use tidemill_engine::EngineConfig;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::session::Session;
use crate::session::api::{Response, SessionApi, SqlError};

/// Over `a(k INT, v INT, s TEXT)` and `b(k INT, w INT)`.
const QUERIES: &[&str] = &[
    "SELECT * FROM a",
    "SELECT k + 1 AS k, upper(s) AS s FROM a WHERE v > 3",
    "SELECT DISTINCT k, s FROM a",
    "SELECT k, count(*) AS n, count(v) AS nv, sum(v) AS s, avg(v) AS m FROM a GROUP BY k",
    "SELECT s, min(v) AS lo, max(v) AS hi, min(s) AS ms FROM a GROUP BY s",
    "SELECT count(*) AS n, sum(v) AS s, max(k) AS hi FROM a",
    "SELECT k, count(DISTINCT v) AS dv, count(DISTINCT s) AS ds, sum(DISTINCT v) AS sv FROM a GROUP BY k",
    "SELECT count(DISTINCT k) AS n FROM a",
    "SELECT k, sum(v) FILTER (WHERE s = 'x') AS x, count(*) FILTER (WHERE v > 4) AS n FROM a GROUP BY k",
    "SELECT k, sum(v) AS s FROM a GROUP BY k HAVING sum(v) > 5",
    "SELECT a.k, a.v, b.w FROM a JOIN b ON a.k = b.k",
    "SELECT a.k, a.v, b.w FROM a LEFT JOIN b ON a.k = b.k",
    "SELECT a.k, a.v, b.w FROM a RIGHT JOIN b ON a.k = b.k",
    "SELECT a.k AS ak, b.k AS bk, a.v, b.w FROM a FULL JOIN b ON a.k = b.k",
    "SELECT a.k, a.v, b.w FROM a LEFT JOIN b ON a.k = b.k AND a.v < b.w",
    "SELECT a.k AS ak, b.k AS bk, a.v, b.w FROM a FULL JOIN b ON a.k = b.k AND a.v < b.w",
    "SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
    "SELECT * FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.w > a.v)",
    "SELECT * FROM a WHERE k IN (SELECT k FROM b)",
    "SELECT k, v FROM a UNION ALL SELECT k, w FROM b",
    "SELECT k FROM a UNION SELECT k FROM b",
    "SELECT k FROM a INTERSECT SELECT k FROM b",
    "SELECT k FROM a EXCEPT SELECT k FROM b",
    "SELECT k, v, s FROM a ORDER BY v DESC NULLS LAST, k, s LIMIT 3",
    "SELECT k, v, s FROM a ORDER BY v, k, s LIMIT 2 OFFSET 2",
    "SELECT k, v, n FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC, s) AS n FROM a) AS r WHERE n <= 2",
    "SELECT x.k, x.n, b.w FROM (SELECT k, count(*) AS n FROM a GROUP BY k) AS x JOIN b ON x.k = b.k",
    "SELECT n, count(*) AS m FROM (SELECT k, count(*) AS n FROM a GROUP BY k) AS x GROUP BY n",
    "SELECT a1.k, a2.v FROM a AS a1 JOIN a AS a2 ON a1.k = a2.k AND a1.s = a2.s",
    "SELECT a.k, a.v FROM a WHERE v > (SELECT avg(w) FROM b)",
    "SELECT k, s FROM p3_on_top WHERE n > 1",
];

pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// SplitMix64 (Steele et al., OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn int(&mut self, n: u64) -> String {
        if self.below(8) == 0 { "NULL".into() } else { self.below(n).to_string() }
    }
}

fn statement(rng: &mut Rng) -> String {
    let a = |rng: &mut Rng| {
        format!("({}, {}, '{}')", rng.int(5), rng.int(9), ["x", "y", ""][rng.below(3) as usize])
    };
    let b = |rng: &mut Rng| format!("({}, {})", rng.int(6), rng.int(9));
    let rows = |rng: &mut Rng, row: fn(&mut Rng) -> String| {
        let n = 1 + rng.below(6);
        (0..n).map(|_| row(rng)).collect::<Vec<_>>().join(", ")
    };
    match rng.below(9) {
        0..=2 => format!("INSERT INTO a VALUES {}", rows(rng, a)),
        3 | 4 => format!("INSERT INTO b VALUES {}", rows(rng, b)),
        5 => format!("DELETE FROM a WHERE k = {}", rng.below(5)),
        6 => format!("DELETE FROM b WHERE w > {}", rng.below(9)),
        7 => format!("UPDATE a SET v = v + 1 WHERE k = {} OR k IS NULL", rng.below(5)),
        _ => format!("UPDATE b SET k = {} WHERE w = {}", rng.int(6), rng.below(9)),
    }
}

pub(crate) async fn run(session: &mut Session, sql: &str) -> Result<Vec<RecordBatch>, SqlError> {
    let mut rows = Vec::new();
    for parsed in SessionApi::parse(session, sql)? {
        let response = SessionApi::execute(session, &parsed, Vec::new(), &CancellationToken::new()).await?;
        if let Response::Rows { rows: stream, .. } = response {
            rows = stream.try_collect().await.map_err(|error| session.explain(error))?;
        }
    }
    Ok(rows)
}

/// Rows as text, with how often each occurs.
pub(crate) fn multiset(batches: &[RecordBatch]) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    let options = FormatOptions::default().with_null("NULL");
    for batch in batches {
        let columns: Vec<ArrayFormatter> = batch
            .columns()
            .iter()
            .map(|column: &ArrayRef| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            *rows.entry(values.join("|")).or_default() += 1;
        }
    }
    rows
}

/// One life of a server: some statements, each followed by the comparison of every pipeline.
async fn live(directory: &Path, n_lanes: usize, rng: &mut Rng, is_first: bool, history: &mut Vec<String>) {
    let config =
        EngineConfig { checkpoint_interval: std::time::Duration::from_millis(20), ..EngineConfig::default() };
    let database = Database::open(directory, n_lanes, config).await.unwrap();
    let mut session = Session::new(database, "tidemill".into());
    if is_first {
        run(&mut session, "CREATE TABLE a (k INT, v INT, s TEXT); CREATE TABLE b (k INT, w INT)")
            .await
            .unwrap();
        // Half of the pipelines find rows when they are created.
        for _ in 0..4 {
            run(&mut session, &statement(rng)).await.unwrap();
        }
        run(&mut session, "CREATE PIPELINE p3_on_top AS SELECT k, s, count(*) AS n FROM a GROUP BY k, s")
            .await
            .unwrap();
        for (idx, query) in QUERIES.iter().enumerate() {
            run(&mut session, &format!("CREATE PIPELINE p{idx} AS {query}"))
                .await
                .unwrap_or_else(|e| panic!("{query}: {e}"));
        }
    }
    for _ in 0..4 {
        let sql = statement(rng);
        history.push(sql.clone());
        run(&mut session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        for (idx, query) in QUERIES.iter().enumerate() {
            let batch = run(&mut session, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
            let shown = run(&mut session, &format!("SELECT * FROM p{idx}")).await;
            let shown = shown.unwrap_or_else(|error| panic!("p{idx} ({query}): {error}, after {history:#?}"));
            assert_eq!(multiset(&shown), multiset(&batch), "{query} in {n_lanes} lanes, after {history:#?}");
        }
    }
}

#[test]
fn pipelines_equal_their_batch_answers() {
    let n_seeds: u64 = std::env::var("TIDEMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for seed in 0..n_seeds {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = Rng(seed);
        let mut history = vec![format!("seed {seed}")];
        for life in 0..3 {
            // The number of lanes is another one after each crash.
            let n_lanes = [1, 4, 2][(life + seed as usize) % 3];
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_stack_size(16 << 20)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(live(directory.path(), n_lanes, &mut rng, life == 0, &mut history));
            history.push("crash".into());
            runtime.shutdown_timeout(std::time::Duration::ZERO);
        }
    }
}
