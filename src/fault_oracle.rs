//! The judge of what is durable, over a store that fails.
//!
//! Requests are refused, done without an answer, done long after they were given up, or overtake each other; the store is
//! away for a while; servers end without a word, start while requests fail, and take over from one that still runs.
//! Meanwhile statements write to a table, a generator is read, pipelines are made, changed and dropped, and a sink
//! delivers. What must hold:
//!
//! - What was acknowledged is there, what was refused is not, and a statement whose server ended is there whole or not at all.
//! - Every pipeline is the batch answer of its query, after every statement: no outage makes one wrong, or stops one.
//! - The sink has every row once.
//! - Nothing is stuck: once the store answers, so does every statement.
//! - What is in the store in the end is sound, and nothing is there that nobody needs.
//!
//! `TIDEMILL_SEEDS=1000 cargo test --lib fault_oracle` runs more of it. Decisions follow the seed; tasks run as the machine has it.

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use tidemill_engine::EngineConfig;
use tidemill_storage::Root;

use self::store::{FaultyStore, Weather};
use crate::database::Database;
use crate::oracle::{Rng, multiset, run};
use crate::session::Session;
use crate::session::api::SqlError;

/// Over `t(id BIGINT PRIMARY KEY, k BIGINT, v BIGINT)`.
const QUERIES: &[&str] = &[
    "SELECT k, count(*) AS n, sum(v) AS s, min(v) AS lo FROM t GROUP BY k",
    "SELECT a.id, b.id AS other FROM t AS a LEFT JOIN t AS b ON a.k = b.v",
    "SELECT id, v FROM t ORDER BY v DESC, id LIMIT 4",
    "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id) AS s FROM t",
    "SELECT DISTINCT k FROM t WHERE v > 3",
];

/// Rows that the source gives in all.
const N_EVENTS: u64 = 4000;
/// How long anything may take that does not fail.
const PATIENCE: Duration = Duration::from_secs(60);

type Rows = BTreeMap<i64, (i64, i64)>;

#[derive(Default)]
struct Model {
    next_id: i64,
    rows: Rows,
    /// What they are instead if a statement that was never answered has been done.
    maybe: Option<Rows>,
    /// Pipelines that come and go: the queries that each may have; `None` is that it may not be there.
    pipelines: BTreeMap<&'static str, BTreeSet<Option<&'static str>>>,
}

impl Model {
    /// A statement, and what the rows are after it.
    fn write(&mut self, rng: &mut Rng) -> (String, Rows) {
        let mut rows = self.rows.clone();
        let k = rng.below(4) as i64;
        let sql = match rng.below(5) {
            0 => {
                rows.retain(|_, row| row.0 != k);
                format!("DELETE FROM t WHERE k = {k}")
            }
            1 => {
                rows.values_mut().filter(|row| row.0 == k).for_each(|row| row.1 += 1);
                format!("UPDATE t SET v = v + 1 WHERE k = {k}")
            }
            _ => {
                let new: Vec<(i64, (i64, i64))> = (0..1 + rng.below(5) as i64)
                    .map(|n| (self.next_id + n, (rng.below(4) as i64, rng.below(6) as i64)))
                    .collect();
                self.next_id += new.len() as i64;
                rows.extend(new.iter().copied());
                let values: Vec<String> =
                    new.iter().map(|(id, (k, v))| format!("({id}, {k}, {v})")).collect();
                format!("INSERT INTO t VALUES {}", values.join(", "))
            }
        };
        (sql, rows)
    }

    /// A statement that defines a pipeline, and what is defined after it.
    fn define(&mut self, rng: &mut Rng) -> (String, &'static str, Option<&'static str>) {
        let name = ["x", "y"][rng.below(2) as usize];
        let query = QUERIES[rng.below(QUERIES.len() as u64) as usize];
        match rng.below(3) {
            0 => (format!("DROP PIPELINE IF EXISTS {name}"), name, None),
            _ => (format!("CREATE OR REPLACE PIPELINE {name} AS {query}"), name, Some(query)),
        }
    }
}

/// Runs a statement that has to end, one way or the other.
async fn execute(
    session: &mut Session,
    sql: &str,
    history: &mut Vec<String>,
) -> Result<Vec<RecordBatch>, SqlError> {
    history.push(sql.to_owned());
    let outcome = match tokio::time::timeout(PATIENCE, run(session, sql)).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{sql} is stuck, after {history:#?}"),
    };
    if let Err(error) = &outcome {
        history.push(format!("  failed: {error} {:?}", error.detail));
    }
    outcome
}

/// Opens the store, as often as it takes.
async fn open(
    weather: &Arc<Weather>,
    scratch: &Path,
    n_lanes: usize,
    history: &mut Vec<String>,
) -> (FaultyStore, Arc<Database>) {
    for attempt in 0.. {
        if attempt == 10 {
            history.push("the store is well".into());
            weather.set_per_mille(0);
            weather.come_back();
        }
        let store = FaultyStore::new(weather);
        let cache = tempfile::tempdir_in(scratch).unwrap().keep();
        let prefix = object_store::path::Path::from("data");
        let root = Root::of_store(Arc::new(store.clone()), "faulty://data", prefix, cache, 3);
        let config = EngineConfig {
            checkpoint_interval: Duration::from_millis(15),
            memory_limit: 16 << 10,
            restart_limit: 1000,
            ..EngineConfig::default()
        };
        match tokio::time::timeout(PATIENCE, Database::open_root(root, n_lanes, config, Default::default()))
            .await
        {
            Ok(Ok(database)) => return (store, database),
            Ok(Err(error)) => {
                history.push(format!("  does not start: {error} {:?}", error.detail));
                assert!(attempt < 12, "it does not start although all is well, after {history:#?}");
                store.cut();
            }
            Err(_) => panic!("a start is stuck, after {history:#?}"),
        }
    }
    unreachable!()
}

/// Reads the table and every pipeline, all of which have to answer and be right. What a server that has just started shows is
/// what became of statements that were never answered.
async fn compare(session: &mut Session, model: &mut Model, is_first: bool, history: &mut Vec<String>) {
    let shown = execute(session, "SELECT id, k, v FROM t", history).await;
    let shown = multiset(&shown.unwrap_or_else(|error| panic!("{error}, after {history:#?}")));
    let text = |rows: &Rows| -> BTreeMap<String, usize> {
        rows.iter().map(|(id, (k, v))| (format!("{id}|{k}|{v}"), 1)).collect()
    };
    if let Some(maybe) = model.maybe.take()
        && shown == text(&maybe)
    {
        model.rows = maybe;
    }
    assert_eq!(shown, text(&model.rows), "what was acknowledged, after {history:#?}");
    for (name, candidates) in &mut model.pipelines {
        let shown = match execute(session, &format!("SELECT * FROM {name}"), history).await {
            Ok(shown) => multiset(&shown),
            Err(error) if error.sqlstate.0 == "42P01" => {
                assert!(candidates.contains(&None), "{name} is gone, after {history:#?}");
                if is_first {
                    *candidates = [None].into();
                }
                continue;
            }
            Err(error) => panic!("{name}: {error} {:?}, after {history:#?}", error.detail),
        };
        let mut fitting = BTreeSet::new();
        for query in candidates.iter().flatten() {
            let batch = execute(session, query, history).await.unwrap();
            if multiset(&batch) == shown {
                fitting.insert(Some(*query));
            }
        }
        assert!(!fitting.is_empty(), "{name} shows {shown:?}, after {history:#?}");
        if is_first {
            *candidates = fitting;
        }
    }
}

/// What makes up the rest of the schema, as often as it takes.
async fn create(weather: &Weather, session: &mut Session, output: &Path, history: &mut Vec<String>) {
    let sink = format!(
        "CREATE SINK IF NOT EXISTS out FROM bids WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE JSON",
        output.display()
    );
    let mut statements = vec![
        "CREATE TABLE IF NOT EXISTS t (id BIGINT PRIMARY KEY, k BIGINT, v BIGINT)".to_owned(),
        format!(
            "CREATE SOURCE IF NOT EXISTS bid WITH (connector = 'generator', table = 'bid', events = '{N_EVENTS}', \
             rate = '4000', seed = '3', batch_rows = '50')"
        ),
        "CREATE PIPELINE IF NOT EXISTS bids AS SELECT auction, bidder, price FROM bid".into(),
        "CREATE PIPELINE IF NOT EXISTS totals AS SELECT auction, count(*) AS n, sum(price) AS s FROM bids GROUP BY auction".into(),
        sink,
    ];
    for (idx, query) in QUERIES.iter().enumerate() {
        statements.push(format!("CREATE PIPELINE IF NOT EXISTS p{idx} AS {query}"));
    }
    for sql in statements {
        let mut n_tries = 0;
        while let Err(error) = execute(session, &sql, history).await {
            n_tries += 1;
            // Where a fourth of all requests fails, twenty in a row seldom do not.
            if n_tries == 20 {
                weather.set_per_mille(20);
            }
            assert!(n_tries < 100, "{sql}: {error}, after {history:#?}");
        }
    }
}

const NAMES: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];

/// One life of a server, or two that overlap.
async fn live(
    weather: &Arc<Weather>,
    scratch: &Path,
    rng: &mut Rng,
    model: &mut Model,
    history: &mut Vec<String>,
) {
    let lanes = |rng: &mut Rng| [1, 2, 4][rng.below(3) as usize];
    let (mut store, mut database) = open(weather, scratch, lanes(rng), history).await;
    let mut session = Session::new(database.clone(), "tidemill".into());
    if model.pipelines.is_empty() {
        create(weather, &mut session, &scratch.join("out"), history).await;
        model.pipelines =
            NAMES.iter().zip(QUERIES).map(|(name, query)| (*name, [Some(*query)].into())).collect();
    }
    compare(&mut session, model, true, history).await;
    for _ in 0..10 {
        let mut is_first = false;
        match rng.below(12) {
            0 => {
                let time = Duration::from_millis(20 + rng.below(400));
                history.push(format!("away for {time:?}"));
                weather.leave_for(time);
            }
            1 => {
                let per_mille = [5, 50, 150, 300][rng.below(4) as usize];
                history.push(format!("{per_mille} of 1000 requests fail"));
                weather.set_per_mille(per_mille);
            }
            2..=4 => {
                let (sql, name, query) = model.define(rng);
                let known = model.pipelines.entry(name).or_insert_with(|| [None].into());
                match execute(&mut session, &sql, history).await {
                    Ok(_) => *known = [query].into(),
                    // Whether it was done is known after the next start.
                    Err(_) => drop(known.insert(query)),
                }
            }
            5 => {
                history.push("another server takes over".into());
                let (sql, after) = model.write(rng);
                let n_lanes = lanes(rng);
                let mut of_open = Vec::new();
                let ((new_store, new), written) = tokio::join!(
                    open(weather, scratch, n_lanes, &mut of_open),
                    tokio::time::timeout(PATIENCE, run(&mut session, &sql))
                );
                history.extend(of_open);
                history.push(format!("{sql}: {:?}", written.as_ref().map(|outcome| outcome.is_ok())));
                match written {
                    Ok(Ok(_)) => model.rows = after,
                    Ok(Err(_)) => model.maybe = Some(after),
                    Err(_) => panic!("{sql} is stuck in the older server, after {history:#?}"),
                }
                let late = execute(&mut session, "INSERT INTO t VALUES (-1, 0, 0)", history).await;
                assert!(late.is_err(), "the older server goes on, after {history:#?}");
                store.cut();
                (store, database) = (new_store, new);
                session = Session::new(database.clone(), "tidemill".into());
                is_first = true;
            }
            _ => {
                let (sql, after) = model.write(rng);
                match execute(&mut session, &sql, history).await {
                    Ok(_) => model.rows = after,
                    Err(_) => model.maybe = Some(after),
                }
            }
        }
        compare(&mut session, model, is_first, history).await;
    }
    // A statement is under way when the server ends.
    if rng.below(2) == 0 {
        let (sql, after) = model.write(rng);
        history.push(format!("{sql}, cut off"));
        let time = Duration::from_millis(rng.below(20));
        match tokio::time::timeout(time, run(&mut session, &sql)).await {
            Ok(Ok(_)) => model.rows = after,
            _ => model.maybe = Some(after),
        }
    }
    store.cut();
}

/// The store is well, and everything comes to its end.
async fn finish(weather: &Arc<Weather>, scratch: &Path, model: &mut Model, history: &mut Vec<String>) {
    weather.set_per_mille(0);
    weather.come_back();
    history.push("the end: the store is well".into());
    let (store, database) = open(weather, scratch, 2, history).await;
    let mut session = Session::new(database.clone(), "tidemill".into());
    compare(&mut session, model, true, history).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = run(&mut session, "SELECT state FROM tm_sources WHERE name = 'bid'").await.unwrap();
        if multiset(&state).contains_key("FINISHED") {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the source is stuck in {state:?}, after {history:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(&mut session, "FLUSH").await.unwrap();
    for name in NAMES.iter().chain(&["bids", "totals"]) {
        let verified = run(&mut session, &format!("VERIFY PIPELINE {name}")).await;
        let verified = verified.unwrap_or_else(|error| panic!("{name}: {error}, after {history:#?}"));
        let verdict = verified[0].column_by_name("verdict").unwrap().as_string::<i32>().value(0);
        assert_eq!(verdict, "equal", "{name}: {verified:?}, after {history:#?}");
    }
    let expected = multiset(&run(&mut session, "SELECT auction, bidder, price FROM bids").await.unwrap());
    assert!(!expected.is_empty(), "the source gives rows");
    loop {
        let found = delivered(&scratch.join("out"));
        if found == expected {
            break;
        }
        let is_late = tokio::time::Instant::now() >= deadline;
        let count = |rows: &BTreeMap<String, usize>| rows.values().sum::<usize>();
        assert!(!is_late, "{} rows of {} are delivered, after {history:#?}", count(&found), count(&expected));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.cut();
}

/// The rows in a sink's files, as [`multiset`] shows them.
fn delivered(output: &Path) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(output) else { return rows };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.file_name().unwrap().to_str().unwrap().starts_with(['.', '_']) {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let values: Vec<String> =
                ["auction", "bidder", "price"].iter().map(|name| row[name].to_string()).collect();
            *rows.entry(values.join("|")).or_default() += 1;
        }
    }
    rows
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

#[test]
fn nothing_is_lost_doubled_or_stuck_whatever_the_store_does() {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first: u64 = number("TIDEMILL_SEED", 0);
    for seed in first..first + number("TIDEMILL_SEEDS", 4) {
        let scratch = tempfile::tempdir().unwrap();
        let weather = Weather::new(seed);
        let mut rng = Rng::new(seed ^ 0x5bd1_e995);
        let mut model = Model::default();
        let mut history = vec![format!("seed {seed}")];
        weather.set_per_mille([20, 100, 250][rng.below(3) as usize]);
        for _ in 0..3 {
            in_runtime(live(&weather, scratch.path(), &mut rng, &mut model, &mut history));
            history.push("crash".into());
        }
        in_runtime(finish(&weather, scratch.path(), &mut model, &mut history));
        let (n_requests, n_failed) =
            (weather.n_requests.load(Ordering::Relaxed), weather.n_failed.load(Ordering::Relaxed));
        eprintln!("seed {seed}: {n_requests} requests, {n_failed} failed");
    }
}
