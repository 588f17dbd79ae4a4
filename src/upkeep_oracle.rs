//! The judge of a time to live, of moments of emission, and of what is looked up.
//!
//! A model in a few lines of Rust knows what a pipeline has not forgotten, has let go, or has met. It keeps that in tables
//! of the same database, so that what a pipeline shows can be compared with a SELECT, in several numbers of lanes and
//! across crashes.

use std::collections::BTreeMap;
use std::path::Path;

use tidemill_engine::{EngineConfig, TimeSource};

use crate::database::Database;
use crate::oracle::{Rng, multiset, run};
use crate::session::Session;

/// 2024-01-01 00:00:00, in microseconds.
const START: i64 = 1_704_067_200_000_000;
const SECOND: i64 = 1_000_000;
const TTL: i64 = 10 * SECOND;
const EVERY: i64 = 7 * SECOND;

/// Over `e(id, k, v)`, with a time to live for each row. All read an `id` or a `v`, each of which only one row has: rows
/// that are equal in all that a query reads are one to it.
const BY_ROW: &[&str] = &[
    "SELECT a.id, b.id AS other FROM e AS a JOIN e AS b ON a.k = b.k AND a.id <= b.id",
    "SELECT a.id, f.w FROM e AS a LEFT JOIN f ON a.k = f.k",
    "SELECT a.k, sum(a.v) AS s, min(f.w) AS lo FROM e AS a JOIN f ON a.k = f.k GROUP BY a.k",
    "SELECT count(*) AS n, sum(v) AS s FROM e",
    "SELECT id FROM e WHERE EXISTS (SELECT 1 FROM f WHERE f.k = e.k)",
    "SELECT id, k FROM e EXCEPT ALL SELECT w, k FROM f",
    "SELECT id, v FROM e ORDER BY v DESC, id LIMIT 3",
    "SELECT DISTINCT id, k FROM e",
];

/// The same, with one for each `k`.
const BY_KEY: &[&str] = &[
    "SELECT k, count(*) AS n, sum(v) AS s, max(v) AS hi FROM e GROUP BY k",
    "SELECT k, id, row_number() OVER (PARTITION BY k ORDER BY id) AS n FROM e",
    "SELECT k, id FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v, id) AS n FROM e) AS x WHERE n <= 2",
    "SELECT n, count(*) AS groups FROM (SELECT k, count(v) AS n FROM e GROUP BY k) AS x GROUP BY n",
];

/// Left alone by their times to live.
const OF_MOMENTS: &[&str] = &[
    "SELECT * FROM e",
    "SELECT k, count(*) AS n, max(v) AS hi FROM e GROUP BY k",
    "SELECT e.id, f.w FROM e LEFT JOIN f ON e.k = f.k",
];

/// `k` and `v`
type Row = (Option<i64>, i64);

/// What the pipelines have to know.
#[derive(Default)]
struct Model {
    now: i64,
    next_id: i64,
    e: BTreeMap<i64, Row>,
    f: Vec<(Option<i64>, i64)>,
    /// Rows of `e` and when each was touched.
    by_row: BTreeMap<i64, i64>,
    /// Rows of `e` by key, and when it was touched.
    by_key: BTreeMap<Option<i64>, (i64, Vec<i64>)>,
    /// What a row of `e` met when it came.
    met: BTreeMap<i64, Vec<i64>>,
}

impl Model {
    fn expire(&mut self) {
        let now = self.now;
        self.by_row.retain(|_, touched| now < *touched + TTL);
        self.by_key.retain(|_, (touched, _)| now < *touched + TTL);
    }

    fn insert(&mut self, id: i64, row: Row) {
        self.e.insert(id, row);
        self.by_row.insert(id, self.now);
        let of_key = self.by_key.entry(row.0).or_default();
        of_key.0 = self.now;
        of_key.1.push(id);
        let met = self.f.iter().filter(|(k, _)| k.is_some() && *k == row.0).map(|(_, w)| *w);
        self.met.insert(id, met.collect());
    }

    fn delete(&mut self, id: i64) {
        let (k, _) = self.e.remove(&id).expect("it is there");
        self.met.remove(&id);
        self.by_row.remove(&id);
        if let Some((touched, ids)) = self.by_key.get_mut(&k)
            && ids.contains(&id)
        {
            ids.retain(|known| *known != id);
            *touched = self.now;
            if ids.is_empty() {
                self.by_key.remove(&k);
            }
        }
    }

    /// A statement that changes `e` or `f`.
    fn statement(&mut self, rng: &mut Rng) -> String {
        let value = |rng: &mut Rng, n: u64| (rng.below(8) != 0).then(|| rng.below(n) as i64);
        let some: Vec<i64> = self.e.keys().copied().filter(|_| rng.below(3) == 0).collect();
        let list = |ids: &[i64]| ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        match rng.below(8) {
            0 if !some.is_empty() => {
                some.iter().for_each(|id| self.delete(*id));
                format!("DELETE FROM e WHERE id IN ({})", list(&some))
            }
            1 | 2 if !some.is_empty() => {
                for id in &some {
                    let (k, _) = self.e[id];
                    self.delete(*id);
                    self.insert(id + 1000, (k, -id - 1000));
                }
                format!("UPDATE e SET id = id + 1000, v = -id - 1000 WHERE id IN ({})", list(&some))
            }
            3 => {
                let row = (value(rng, 3), rng.below(20) as i64);
                self.f.push(row);
                format!("INSERT INTO f VALUES ({}, {})", sql(row.0), row.1)
            }
            4 if !self.f.is_empty() => {
                let k = value(rng, 3);
                self.f.retain(|(known, _)| k.is_none() || *known != k);
                format!("DELETE FROM f WHERE k = {}", sql(k))
            }
            _ => {
                let mut rows = Vec::new();
                for _ in 0..1 + rng.below(4) {
                    let id = self.next_id;
                    let row = (value(rng, 3), -id);
                    self.next_id += 1;
                    self.insert(id, row);
                    rows.push(format!("({id}, {}, {})", sql(row.0), row.1));
                }
                format!("INSERT INTO e VALUES {}", rows.join(", "))
            }
        }
    }

    /// Lets tables have what is known.
    async fn tell(&self, session: &mut Session) {
        let by_key = self.by_key.values().flat_map(|(_, ids)| ids.iter().copied());
        for (table, ids) in [("by_row", self.by_row.keys().copied().collect()), ("by_key", by_key.collect())]
        {
            let ids: Vec<i64> = ids;
            let row = |id: &i64| format!("({id}, {}, {})", sql(self.e[id].0), self.e[id].1);
            let rows: Vec<String> = ids.iter().map(row).collect();
            replace(session, table, &rows).await;
        }
        let met = self.met.iter().flat_map(|(id, met)| {
            let alone = met.is_empty().then(|| format!("({id}, NULL)"));
            met.iter().map(move |w| format!("({id}, {w})")).chain(alone)
        });
        replace(session, "met", &met.collect::<Vec<_>>()).await;
    }
}

fn sql(value: Option<i64>) -> String {
    value.map_or("NULL".into(), |value| value.to_string())
}

async fn replace(session: &mut Session, table: &str, rows: &[String]) {
    run(session, &format!("TRUNCATE {table}")).await.unwrap();
    if !rows.is_empty() {
        run(session, &format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await.unwrap();
    }
}

async fn compare(session: &mut Session, query: &str, pipeline: &str, history: &[String]) {
    let batch = run(session, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let shown = run(session, &format!("SELECT * FROM {pipeline}")).await;
    let shown = shown.unwrap_or_else(|error| panic!("{pipeline} ({query}): {error}, after {history:#?}"));
    assert_eq!(multiset(&shown), multiset(&batch), "{pipeline}: {query}, after {history:#?}");
}

async fn create(session: &mut Session) {
    let e = |name: &str| format!("CREATE TABLE {name} (id BIGINT, k BIGINT, v BIGINT)");
    let tables = [e("e"), e("by_row"), e("by_key"), "CREATE TABLE f (k BIGINT, w BIGINT)".into()];
    for sql in tables.iter().map(String::as_str).chain(["CREATE TABLE met (id BIGINT, w BIGINT)"]) {
        run(session, sql).await.unwrap();
    }
}

async fn create_pipelines(session: &mut Session) {
    let mut statements = Vec::new();
    for (prefix, queries) in [("r", BY_ROW), ("k", BY_KEY)] {
        for (idx, query) in queries.iter().enumerate() {
            let of_f = if query.contains(" f ") { ", ttl.f = 'none'" } else { "" };
            statements
                .push(format!("CREATE PIPELINE {prefix}{idx} WITH (ttl = '10 seconds'{of_f}) AS {query}"));
        }
    }
    for (idx, query) in OF_MOMENTS.iter().enumerate() {
        statements.push(format!("CREATE PIPELINE m{idx} AS {query} EMIT EVERY INTERVAL '7 seconds'"));
    }
    let looked_up = "SELECT e.id, f.w FROM e LEFT JOIN f FOR SYSTEM_TIME AS OF now() ON e.k = f.k";
    statements.push(format!("CREATE PIPELINE l AS {looked_up}"));
    // Over another pipeline, and looked up by more than a key.
    statements.push("CREATE PIPELINE p AS SELECT w, k FROM f WHERE w >= 0".into());
    statements.push(
        "CREATE PIPELINE l2 AS SELECT e.id, p.w FROM e LEFT JOIN p FOR SYSTEM_TIME AS OF PROCTIME() ON e.k = p.k".into(),
    );
    for sql in statements {
        run(session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// One life of a server.
async fn live(
    directory: &Path,
    n_lanes: usize,
    rng: &mut Rng,
    model: &mut Model,
    held: &mut Vec<BTreeMap<String, usize>>,
    history: &mut Vec<String>,
) {
    let is_first = history.len() == 1;
    let config = EngineConfig {
        checkpoint_interval: std::time::Duration::from_millis([20, 100_000][rng.below(2) as usize]),
        time: TimeSource::manual(model.now),
        ..EngineConfig::default()
    };
    let database = Database::open(directory, n_lanes, config).await.unwrap();
    let mut session = Session::new(database.clone(), "tidemill".into());
    if is_first {
        create(&mut session).await;
        for _ in 0..3 {
            run(&mut session, &model.statement(rng)).await.unwrap();
        }
        // What is there when a pipeline is made comes then.
        let all: Vec<(i64, Row)> = model.e.iter().map(|(id, row)| (*id, *row)).collect();
        all.into_iter().for_each(|(id, row)| {
            model.delete(id);
            model.insert(id, row);
        });
        create_pipelines(&mut session).await;
        *held = moments(&mut session).await;
    }
    let mut before = moments(&mut session).await;
    for _ in 0..8 {
        let is_statement = rng.below(2) == 0;
        let then = model.now;
        if !is_statement {
            model.now += [1, SECOND - 1, 3 * SECOND, TTL - 1, TTL, 45 * SECOND][rng.below(6) as usize];
            history.push(format!("now {}", model.now));
            database.engine.advance_to(model.now).await.unwrap();
            model.expire();
            if model.now.div_euclid(EVERY) > then.div_euclid(EVERY) {
                *held = before.clone();
            }
        } else {
            let sql = model.statement(rng);
            history.push(sql.clone());
            run(&mut session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            before = moments(&mut session).await;
        }
        model.tell(&mut session).await;
        for (prefix, table, queries) in [("r", "by_row", BY_ROW), ("k", "by_key", BY_KEY)] {
            for (idx, query) in queries.iter().enumerate() {
                let query = query.replace("FROM e", &format!("FROM {table} AS e"));
                let query = query.replace("JOIN e AS", &format!("JOIN {table} AS"));
                let query = query.replace("AS e AS a", "AS a");
                compare(&mut session, &query, &format!("{prefix}{idx}"), history).await;
            }
        }
        for (idx, held) in held.iter().enumerate() {
            let shown = run(&mut session, &format!("SELECT * FROM m{idx}")).await.unwrap();
            assert_eq!(&multiset(&shown), held, "{}, after {history:#?}", OF_MOMENTS[idx]);
        }
        compare(&mut session, "SELECT * FROM met", "l", history).await;
        compare(&mut session, "SELECT * FROM met", "l2", history).await;
    }
}

/// What the queries that emit at moments would show now.
async fn moments(session: &mut Session) -> Vec<BTreeMap<String, usize>> {
    let mut all = Vec::new();
    for query in OF_MOMENTS {
        all.push(multiset(&run(session, query).await.unwrap()));
    }
    all
}

#[test]
fn what_is_forgotten_held_back_and_looked_up_is_what_a_model_knows() {
    let n_seeds: u64 = std::env::var("TIDEMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for seed in 0..n_seeds {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = Rng::new(seed);
        let mut history = vec![format!("seed {seed}")];
        let mut model = Model { now: START, ..Model::default() };
        let mut held = Vec::new();
        for life in 0..3 {
            let n_lanes = [1, 4, 2][(life + seed as usize) % 3];
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_stack_size(16 << 20)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(live(directory.path(), n_lanes, &mut rng, &mut model, &mut held, &mut history));
            history.push(format!("crash in {n_lanes} lanes"));
            runtime.shutdown_timeout(std::time::Duration::ZERO);
        }
    }
}
