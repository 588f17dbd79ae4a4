//! The judge: what a pipeline shows equals the batch answer of the same SQL, after every change.
//!
//! Random rows come and go in two tables, some of them NULL, repeated, or in groups that empty out again.
//! After each statement every pipeline is compared with its own query run as a SELECT, in one lane and in
//! several, and across crashes: a runtime is torn down without a word and the directory opened again.
//!
//! `TIDEMILL_SEEDS=100 cargo test --lib oracle` runs more of it.

mod grammar;
mod nexmark;
mod random;
mod suites;
mod tpch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
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
    "SELECT k, array_agg(v ORDER BY v DESC, s) AS vs, string_agg(s, '-' ORDER BY s, v) AS ss FROM a GROUP BY k",
    "SELECT s, array_agg(DISTINCT k ORDER BY k) FILTER (WHERE v > 2) AS ks, count(DISTINCT v) AS n FROM a GROUP BY s",
    "SELECT k, median(v) AS m, stddev(v) AS sd, var_pop(v) AS vp, avg(v::DECIMAL(9, 2)) AS d FROM a GROUP BY k",
    "SELECT s, corr(k, v) AS c, covar_samp(k, v) AS cs, regr_slope(v, k) AS r FROM a GROUP BY s",
    "SELECT percentile_cont(0.25) WITHIN GROUP (ORDER BY v) AS p, median(DISTINCT v) AS m, approx_distinct(v) AS n FROM a",
    "SELECT k, bool_and(v > 3) AS e, bool_or(v IS NULL) AS o, bit_or(v) AS b, bit_xor(v) AS x FROM a GROUP BY k",
    "SELECT k, first_value(v ORDER BY s, v) AS f, last_value(s ORDER BY v NULLS FIRST, s) AS l, nth_value(v, 2 ORDER BY v, s) AS n FROM a GROUP BY k",
    "SELECT first_value(v ORDER BY v NULLS LAST) IGNORE NULLS AS f, min(DISTINCT s) AS m, sum(DISTINCT v) AS d FROM a",
    "SELECT k, json_agg(v ORDER BY v, s) AS j, jsonb_agg(DISTINCT s) AS d, json_agg(s ORDER BY s) FILTER (WHERE v > 2) AS f FROM a GROUP BY k",
    "SELECT s, jsonb_object_agg(k, v ORDER BY v, k) FILTER (WHERE k IS NOT NULL) AS o FROM a GROUP BY s",
    "SELECT k, mode() WITHIN GROUP (ORDER BY s) AS m, percentile_disc(0.4) WITHIN GROUP (ORDER BY v DESC) AS p, percentile_cont(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY v) AS c FROM a GROUP BY k",
    "SELECT a.k, e.key, e.value FROM a, jsonb_each(jsonb_build_object('v', a.v, 's', a.s)) AS e",
    "SELECT k, s LIKE ANY (ARRAY['x%', '%y']) AS l, jsonb_build_array(k, v) @? '$[*] ? (@ > 3)' AS p FROM a",
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
    "WITH x AS (SELECT k, sum(v) AS t FROM a GROUP BY k) SELECT k, t FROM x WHERE t = (SELECT max(t) FROM x)",
    "WITH x AS (SELECT k, sum(v) AS t FROM a GROUP BY k) SELECT x.k, y.k AS l FROM x JOIN x AS y ON x.t = y.t AND x.k < y.k",
    "SELECT p.k, q.k AS l FROM (SELECT c.k, count(*) AS n FROM a AS c GROUP BY c.k) AS p JOIN (SELECT d.k, count(*) AS m FROM a AS d GROUP BY d.k) AS q ON p.n = q.m",
    "SELECT k + v AS n FROM a WHERE v > 3 AND s <> 'x' UNION ALL SELECT k + v AS n FROM a WHERE v > 3 AND s <> 'x'",
    "SELECT k, v, s, row_number() OVER (PARTITION BY k ORDER BY v, s) AS n FROM a",
    "SELECT k, v, s, row_number() OVER (PARTITION BY k ORDER BY v DESC) AS n, rank() OVER (PARTITION BY k ORDER BY v DESC) AS r, dense_rank() OVER (PARTITION BY k ORDER BY v DESC) AS d FROM a",
    "SELECT k, v, row_number() OVER (ORDER BY v, k) AS n, sum(v) OVER (ORDER BY v, k ROWS UNBOUNDED PRECEDING) AS t, avg(v) OVER (ORDER BY v, k) AS m FROM a",
    "SELECT k, v, s, lag(v) OVER (PARTITION BY s ORDER BY v, k) AS p, lead(v, 2, -1) OVER (PARTITION BY s ORDER BY v, k) AS q FROM a",
    "SELECT k, v, sum(v) OVER (PARTITION BY k ORDER BY v ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS a, count(*) OVER (PARTITION BY k ORDER BY v ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING) AS b, min(v) OVER (PARTITION BY k ORDER BY v ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING) AS c FROM a",
    "SELECT k, v, s, sum(v) OVER (PARTITION BY k ORDER BY v RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS a, count(*) OVER (PARTITION BY k ORDER BY v RANGE BETWEEN 3 PRECEDING AND 1 PRECEDING) AS b, min(s) OVER (PARTITION BY k ORDER BY v RANGE BETWEEN 1 FOLLOWING AND 2 FOLLOWING) AS c FROM a",
    "SELECT k, v, sum(k) OVER (PARTITION BY s ORDER BY v DESC NULLS LAST RANGE BETWEEN 1 PRECEDING AND 2 FOLLOWING) AS a FROM a",
    "SELECT k, v, s, sum(v) OVER (PARTITION BY k ORDER BY v RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS a, count(*) OVER (PARTITION BY k ORDER BY v GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW) AS b FROM a",
    "SELECT k, v, percent_rank() OVER w AS p, cume_dist() OVER w AS c, ntile(3) OVER w AS t, first_value(s) OVER w AS f, last_value(s) OVER w AS l, nth_value(s, 2) OVER w AS n FROM a WINDOW w AS (PARTITION BY k ORDER BY v, s)",
    "SELECT k, v, sum(v) OVER (PARTITION BY k) AS a, max(v) OVER () AS b, count(*) FILTER (WHERE s = 'x') OVER (PARTITION BY s) AS c, array_agg(v) OVER (PARTITION BY k ORDER BY v, s) AS d FROM a",
    "SELECT k, v, lag(v) IGNORE NULLS OVER (PARTITION BY k ORDER BY s, v) AS p, first_value(v) IGNORE NULLS OVER (PARTITION BY k ORDER BY s, v) AS f FROM a",
    "SELECT k, sum(v) AS t, rank() OVER (ORDER BY sum(v) DESC) AS r, sum(sum(v)) OVER (ORDER BY k) AS running FROM a GROUP BY k",
    "SELECT k, v, s FROM (SELECT k, v, s, rank() OVER (PARTITION BY k ORDER BY v DESC) AS r FROM a) AS x WHERE r <= 2",
    "SELECT k, v, s, r FROM (SELECT k, v, s, rank() OVER (PARTITION BY s ORDER BY v, k) AS r FROM a) AS x WHERE r < 3",
    "SELECT k, v, s FROM (SELECT k, v, s, dense_rank() OVER (ORDER BY v DESC) AS r FROM a) AS x WHERE r = 1",
    "SELECT k, v, s FROM a QUALIFY row_number() OVER (PARTITION BY k ORDER BY v, s) = 1",
    "SELECT k, v, n, p FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) AS n, lag(v) OVER (PARTITION BY k ORDER BY v) AS p FROM a) AS x WHERE n <= 2",
    "SELECT DISTINCT ON (k) k, v, s FROM a ORDER BY k, v DESC, s",
    "SELECT DISTINCT ON (k, s) v, s FROM a",
    "SELECT k, v, s FROM a ORDER BY v FETCH FIRST 3 ROWS WITH TIES",
    "SELECT s, k FROM a ORDER BY v DESC OFFSET 1 FETCH FIRST 2 ROWS WITH TIES",
    "SELECT a.k, a.v, b.w, row_number() OVER (PARTITION BY a.k + 1 ORDER BY b.w * 2, a.v) AS n FROM a JOIN b ON a.k = b.k",
    "SELECT k, v FROM a ORDER BY v LIMIT 3",
    "SELECT k, s FROM p3_on_top WHERE n > 1",
    // Constants.
    "SELECT 1 AS one, 'x' AS s",
    "VALUES (1, 'a'), (NULL, 'b'), (1, 'a')",
    "SELECT a.v, n.name FROM a RIGHT JOIN (VALUES (1, 'one'), (9, 'nine')) AS n (k, name) ON a.k = n.k",
    "SELECT k, v FROM a UNION ALL SELECT i, -i FROM generate_series(1, 3) AS g (i)",
    // Sets with copies.
    "SELECT k FROM a INTERSECT ALL SELECT k FROM b",
    "SELECT k FROM a EXCEPT ALL SELECT k FROM b",
    "SELECT k, v FROM a EXCEPT ALL (SELECT k, w FROM b UNION ALL SELECT k, v FROM a WHERE v > 4)",
    "SELECT k, count(*) AS n FROM (SELECT k FROM a INTERSECT ALL SELECT w FROM b) AS x GROUP BY k",
    // IN, EXISTS and ANY, where NULL matters.
    "SELECT k, v FROM a WHERE k NOT IN (SELECT k FROM b)",
    "SELECT k, v FROM a WHERE k NOT IN (SELECT k FROM b WHERE k IS NOT NULL AND w > 3)",
    "SELECT k, v FROM a WHERE v NOT IN (SELECT w FROM b WHERE b.k = a.k)",
    "SELECT k, v FROM a WHERE k NOT IN (SELECT k FROM b WHERE w < 2) OR v = 4",
    "SELECT k, v, k IN (SELECT k FROM b) AS i, v NOT IN (SELECT w FROM b WHERE w > 5) AS n FROM a",
    "SELECT k, v, v IN (SELECT w FROM b WHERE b.k = a.k) AS i FROM a",
    "SELECT k, EXISTS (SELECT 1 FROM b WHERE b.k = a.k) AS e, EXISTS (SELECT 1 FROM b WHERE w = 3) AS f FROM a",
    "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.w > a.v) OR v = 2",
    "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE w > 6)",
    "SELECT k FROM a WHERE k = ANY (SELECT k FROM b) AND v <> ALL (SELECT w FROM b WHERE w < 3)",
    "SELECT k FROM a WHERE v > ALL (SELECT w FROM b WHERE b.k = a.k)",
    "SELECT k, v < ANY (SELECT w FROM b) AS lt, v = ALL (SELECT w FROM b WHERE b.k = a.k) AS eq FROM a",
    "SELECT k FROM a WHERE v >= ANY (SELECT w FROM b WHERE b.k = a.k) OR v <> ANY (SELECT w FROM b WHERE w > 6)",
    // Scalar subqueries and LATERAL.
    "SELECT k, (SELECT max(w) FROM b WHERE b.k = a.k) AS m, (SELECT count(*) FROM b WHERE b.k = a.k) AS n FROM a",
    "SELECT k, (SELECT x.w FROM (SELECT k, min(w) AS w FROM b GROUP BY k) AS x WHERE x.k = a.k) AS w FROM a",
    "SELECT a.k, l.w FROM a, LATERAL (SELECT w FROM b WHERE b.k = a.k AND b.w > 2) AS l",
    "SELECT a.k, l.n FROM a LEFT JOIN LATERAL (SELECT count(*) AS n FROM b WHERE b.k = a.k) AS l ON true",
    // Every pair.
    "SELECT a.k, b.w FROM a CROSS JOIN b WHERE a.v < 2",
    "SELECT a.k, a.v, b.w FROM a LEFT JOIN b ON a.v < b.w",
    "SELECT a.k AS ak, b.k AS bk FROM a FULL JOIN b ON a.v + b.w = 9 OR a.k > b.k",
    "SELECT count(*) AS n FROM a AS x, a AS y WHERE x.v <= y.v",
    // Lists.
    "SELECT k, unnest(ARRAY[v, k]) AS x FROM a",
    "SELECT k, x FROM a, unnest(CASE WHEN v > 4 THEN make_array(v, k) WHEN v > 2 THEN ARRAY[]::INT[] END) AS u (x)",
    "SELECT k, x, o FROM a LEFT JOIN LATERAL unnest(CASE WHEN v > 4 THEN make_array(v, k) WHEN v > 2 THEN ARRAY[]::INT[] END) WITH ORDINALITY AS u (x, o) ON true",
    // Grouping sets.
    "SELECT k, s, sum(v) AS v, count(*) AS n, grouping(k) AS g FROM a GROUP BY ROLLUP (k, s)",
    "SELECT k, s, min(v) AS v FROM a WHERE v > 3 GROUP BY CUBE (k, s)",
    "SELECT k, s, sum(k) AS x FROM a GROUP BY GROUPING SETS ((k), (s), (k), ())",
    "SELECT k % 2 AS p, count(DISTINCT v) AS n FROM a GROUP BY ROLLUP (k % 2)",
    // Recursion.
    "WITH RECURSIVE r (n) AS (SELECT k FROM a UNION SELECT b.w FROM r JOIN b ON b.k = r.n) SELECT n FROM r",
    "WITH RECURSIVE r (n, d) AS (SELECT k, 0 FROM a UNION ALL SELECT b.w, d + 1 FROM r JOIN b ON b.k = r.n WHERE d < 2) SELECT d, count(*) AS c FROM r GROUP BY d",
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 4) SELECT r.n, a.v FROM r LEFT JOIN a ON a.k = r.n",
    // Keys of all kinds.
    "SELECT a.v, b.w FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k",
    "SELECT a.v, b.w FROM a JOIN b ON a.k + 1 = b.k * 2",
    "SELECT k, v, w FROM a NATURAL JOIN b",
    "SELECT coalesce(a.k, b.k) AS k, v, w FROM a FULL JOIN b ON a.k = b.k",
    "SELECT a.k, a.v FROM a LEFT ANTI JOIN b ON a.k = b.k AND a.v >= b.w",
    "SELECT b.w FROM a RIGHT SEMI JOIN b ON a.k = b.k",
];

pub(crate) struct Rng(u64);

/// SplitMix64 (Steele et al., OOPSLA 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        split_mix(&mut self.0)
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

/// Floating-point numbers to nine digits: sums depend on the order in which they are made.
fn rounded(column: &ArrayRef) -> ArrayRef {
    match column.as_primitive_opt::<Float64Type>() {
        Some(floats) => {
            let digits = floats.iter().map(|value| {
                value.map(|value| format!("{:.8e}", if value.abs() < 1e-12 { 0.0 } else { value }))
            });
            Arc::new(digits.collect::<StringArray>())
        }
        None => column.clone(),
    }
}

/// Rows as text, with how often each occurs.
pub(crate) fn multiset(batches: &[RecordBatch]) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    let options = FormatOptions::default().with_null("NULL");
    for batch in batches {
        let rounded: Vec<ArrayRef> = batch.columns().iter().map(rounded).collect();
        let columns: Vec<ArrayFormatter> = rounded
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
    let config = EngineConfig {
        checkpoint_interval: std::time::Duration::from_millis(20),
        // So little that state of a few hundred rows lies in files.
        memory_limit: 16 << 10,
        // So few that most steps are taken in parts.
        rows_max: 3,
        ..EngineConfig::default()
    };
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

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn pipelines_equal_their_batch_answers() {
    let n_seeds = number("TIDEMILL_SEEDS").unwrap_or(2);
    for seed in 0..n_seeds {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = Rng(seed);
        let mut history = vec![format!("seed {seed}")];
        for life in 0..3 {
            // The number of lanes is another one after each crash.
            let n_lanes = [1, 4, 2][(life + seed as usize) % 3];
            let runtime = runtime();
            runtime.block_on(live(directory.path(), n_lanes, &mut rng, life == 0, &mut history));
            history.push("crash".into());
            runtime.shutdown_timeout(std::time::Duration::ZERO);
        }
    }
}
