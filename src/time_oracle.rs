//! The judge of what time does: rows that come and go without any row coming in.
//!
//! A clock that the test holds moves on between random statements. After each of either, every pipeline is
//! compared with its own query run as a SELECT at the same time, in several numbers of lanes and
//! across crashes. What watermarks make complete, late or forgotten is judged over sources that end, by
//! the batch answer over copies of all their rows.

use std::path::Path;
use std::sync::atomic::Ordering;

use tidemill_engine::{EngineConfig, State, TimeSource};

use crate::database::Database;
use crate::oracle::{Rng, multiset, run};
use crate::session::Session;

/// 2024-01-01 00:00:00, in microseconds.
const START: i64 = 1_704_067_200_000_000;
const SECOND: i64 = 1_000_000;

/// Over `e(k INT, ts TIMESTAMP, v INT)` and `f(k INT, ts TIMESTAMP, w INT)`.
const QUERIES: &[&str] = &[
    "SELECT * FROM e WHERE ts > now() - INTERVAL '30 seconds'",
    "SELECT * FROM e WHERE ts <= now() + INTERVAL '10 seconds'",
    "SELECT * FROM e WHERE ts BETWEEN now() - INTERVAL '20 seconds' AND now() + INTERVAL '5 seconds' AND v > 2",
    "SELECT k, count(*) AS n, sum(v) AS s FROM e WHERE ts >= now() - INTERVAL '20 seconds' AND ts < now() GROUP BY k",
    "SELECT count(*) AS n, max(v) AS hi FROM e WHERE ts > current_timestamp - INTERVAL '15 seconds'",
    "SELECT * FROM e WHERE NOT (ts < now() - INTERVAL '10 seconds')",
    "SELECT * FROM e WHERE ts + INTERVAL '12 seconds' > now()",
    "SELECT * FROM e WHERE ts >= date_trunc('minute', now() - INTERVAL '7 seconds')",
    "SELECT * FROM e WHERE ts < date_trunc('minute', now()) + INTERVAL '3 seconds'",
    "SELECT * FROM e WHERE ts > current_date",
    "SELECT e.k, e.v, f.w FROM e JOIN f ON e.k = f.k WHERE e.ts > now() - INTERVAL '30 seconds' AND f.ts > now() - INTERVAL '15 seconds'",
    "SELECT e.k, e.v, f.w FROM e LEFT JOIN f ON e.k = f.k AND f.ts > now() - INTERVAL '15 seconds'",
    "SELECT e.k, e.v, f.w FROM e JOIN f ON e.k = f.k AND e.ts + (f.ts - e.ts) > now() - INTERVAL '9 seconds'",
    "SELECT k, max(ts) AS last FROM e GROUP BY k HAVING max(ts) > now() - INTERVAL '20 seconds'",
    "SELECT k, v FROM e WHERE EXISTS (SELECT 1 FROM f WHERE f.k = e.k AND f.ts > now() - INTERVAL '20 seconds')",
    "SELECT k, v FROM e WHERE NOT EXISTS (SELECT 1 FROM f WHERE f.k = e.k AND f.ts > now() - INTERVAL '20 seconds')",
    "SELECT k, ts, v FROM e WHERE ts > now() - INTERVAL '30 seconds' ORDER BY v DESC NULLS LAST, ts, k LIMIT 3",
    "SELECT k, ts FROM e WHERE ts > now() - INTERVAL '9 seconds' UNION ALL SELECT k, ts FROM f WHERE ts <= now()",
    "SELECT k, n FROM recent WHERE n > 1",
    "SELECT k, ts, v, window_start, window_end FROM SESSION(e, ts, INTERVAL '5 seconds', k)",
    "SELECT k, window_start, window_end, count(*) AS n FROM SESSION(e, ts, INTERVAL '5 seconds', k) GROUP BY k, window_start, window_end",
    "SELECT window_start, sum(v) AS s FROM SESSION(e, ts, INTERVAL '2 seconds') GROUP BY window_start",
    "SELECT k, v, window_end FROM SESSION(f_or_e, ts, INTERVAL '3 seconds', k, v)",
    "SELECT k, v, window_start, window_end FROM CUMULATE(e, ts, INTERVAL '5 seconds', INTERVAL '20 seconds', INTERVAL '3 seconds')",
    "SELECT window_end, count(*) AS n FROM HOP(e, ts, INTERVAL '5 seconds', INTERVAL '10 seconds', INTERVAL '1 second') GROUP BY window_end",
    "SELECT k, window_end FROM SESSION(e, ts, INTERVAL '4 seconds', k) AS s WHERE window_end > now() GROUP BY k, window_end",
    "SELECT e.k, e.v, f.w FROM e JOIN f ON e.k = f.k AND f.ts BETWEEN e.ts - INTERVAL '3 seconds' AND e.ts + INTERVAL '5 seconds'",
    "SELECT e.k, e.ts, e.v, f.ts AS since, f.w FROM e ASOF LEFT JOIN f ON e.k = f.k AND e.ts >= f.ts",
    "SELECT e.k, e.v, f.w FROM e ASOF JOIN f ON e.k = f.k AND e.ts < f.ts WHERE f.ts > now() - INTERVAL '15 seconds'",
    "SELECT e.k, e.v, r.w FROM e ASOF LEFT JOIN (SELECT * FROM f WHERE ts > now() - INTERVAL '15 seconds') AS r MATCH_CONDITION (e.ts > r.ts)",
    "SELECT e.k, e.ts, f.w FROM e JOIN f FOR SYSTEM_TIME AS OF e.ts AS f ON e.k = f.k AND e.v = f.w",
];

fn time(rng: &mut Rng, now: i64) -> String {
    if rng.below(12) == 0 {
        return "NULL".into();
    }
    // Whole seconds, so that moments and rows meet exactly.
    let at = now / SECOND - 40 + rng.below(60) as i64;
    let at = chrono::DateTime::from_timestamp(at, 0).unwrap();
    format!("'{}'", at.format("%Y-%m-%d %H:%M:%S"))
}

fn statement(rng: &mut Rng, now: i64) -> String {
    let table = ["e", "f"][rng.below(2) as usize];
    match rng.below(6) {
        0..=2 => {
            let rows: Vec<String> = (0..1 + rng.below(6))
                .map(|_| format!("({}, {}, {})", rng.int(3), time(rng, now), rng.int(5)))
                .collect();
            format!("INSERT INTO {table} VALUES {}", rows.join(", "))
        }
        3 => format!("DELETE FROM {table} WHERE k = {}", rng.below(3)),
        4 => format!("DELETE FROM {table} WHERE ts < {}", time(rng, now)),
        _ => format!("UPDATE {table} SET ts = ts + INTERVAL '2 seconds' WHERE k = {}", rng.below(3)),
    }
}

async fn compare(session: &mut Session, query: &str, pipeline: &str, history: &[String]) {
    let batch = run(session, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let shown = run(session, &format!("SELECT * FROM {pipeline}")).await;
    let shown = shown.unwrap_or_else(|error| panic!("{pipeline} ({query}): {error}, after {history:#?}"));
    assert_eq!(multiset(&shown), multiset(&batch), "{query}, after {history:#?}");
}

/// One life of a server; gives the time of its end.
async fn live(
    directory: &Path,
    n_lanes: usize,
    rng: &mut Rng,
    mut now: i64,
    is_first: bool,
    history: &mut Vec<String>,
) -> i64 {
    // The machine's clock may have been set back meanwhile, which is not to be seen.
    let shown = if rng.below(3) == 0 { now - 3600 * SECOND } else { now };
    let time = TimeSource::manual(shown);
    let config = EngineConfig {
        checkpoint_interval: std::time::Duration::from_millis(20),
        time: time.clone(),
        ..EngineConfig::default()
    };
    let database = Database::open(directory, n_lanes, config).await.unwrap();
    let mut session = Session::new(database.clone(), "tidemill".into());
    if is_first {
        let tables =
            "CREATE TABLE e (k INT, ts TIMESTAMP, v INT); CREATE TABLE f (k INT, ts TIMESTAMP, w INT)";
        run(&mut session, tables).await.unwrap();
        let view = "CREATE VIEW f_or_e AS SELECT k, ts, w AS v FROM f UNION ALL SELECT * FROM e";
        run(&mut session, view).await.unwrap();
        for _ in 0..3 {
            run(&mut session, &statement(rng, now)).await.unwrap();
        }
        let recent = "CREATE PIPELINE recent AS SELECT k, count(*) AS n FROM e WHERE ts > now() - INTERVAL '25 seconds' GROUP BY k";
        run(&mut session, recent).await.unwrap();
        for (idx, query) in QUERIES.iter().enumerate() {
            run(&mut session, &format!("CREATE PIPELINE p{idx} AS {query}"))
                .await
                .unwrap_or_else(|error| panic!("{query}: {error}"));
        }
    }
    for _ in 0..6 {
        if rng.below(8) == 0
            && let TimeSource::Manual(micros) = &time
        {
            let back = [1, 90 * SECOND, 10_000_000 * SECOND][rng.below(3) as usize];
            history.push(format!("the clock is set back to {}", now - back));
            micros.store(now - back, Ordering::SeqCst);
        }
        if rng.below(2) == 0 {
            now += [1, SECOND - 1, SECOND, 7 * SECOND, 45 * SECOND][rng.below(5) as usize];
            history.push(format!("now {now}"));
            database.engine.advance_to(now).await.unwrap();
        } else {
            let sql = statement(rng, now);
            history.push(sql.clone());
            run(&mut session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        for (idx, query) in QUERIES.iter().enumerate() {
            compare(&mut session, query, &format!("p{idx}"), history).await;
        }
    }
    now
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
fn pipelines_over_time_equal_their_batch_answers() {
    let n_seeds: u64 = std::env::var("TIDEMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for seed in 0..n_seeds {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = Rng::new(seed);
        let mut history = vec![format!("seed {seed}")];
        let mut now = START;
        for life in 0..3 {
            let n_lanes = [1, 4, 2][(life + seed as usize) % 3];
            let runtime = runtime();
            now = runtime.block_on(live(directory.path(), n_lanes, &mut rng, now, life == 0, &mut history));
            history.push(format!("crash in {n_lanes} lanes"));
            runtime.shutdown_timeout(std::time::Duration::ZERO);
            // Time passes while nothing runs, and not always.
            now += [0, 11 * SECOND][rng.below(2) as usize];
        }
    }
}

/// Over sources: what each pipeline has to show in the end is the batch answer over all rows.
const CLOSED: &[&str] = &[
    "SELECT a.id, b.bidder, b.price FROM auction AS a JOIN bid AS b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.date_time + INTERVAL '50 milliseconds'",
    "SELECT a.id, b.price FROM auction AS a JOIN bid AS b ON a.id = b.auction WHERE b.date_time > a.date_time - INTERVAL '10 milliseconds' AND b.date_time - INTERVAL '30 milliseconds' <= a.date_time",
    "SELECT a.seller, a.window_start, b.price FROM TUMBLE(auction, date_time, INTERVAL '100 milliseconds') AS a JOIN TUMBLE(bid, date_time, INTERVAL '100 milliseconds') AS b ON a.window_start = b.window_start AND a.seller = b.bidder",
    "SELECT bidder, window_start, window_end, count(*) AS n FROM SESSION(bid, date_time, INTERVAL '20 milliseconds', bidder) GROUP BY bidder, window_start, window_end EMIT ON WINDOW CLOSE",
    "SELECT bidder, price, window_start, window_end FROM SESSION(bid, date_time, INTERVAL '30 milliseconds', bidder) EMIT ON WINDOW CLOSE",
    "SELECT window_start, window_end, count(*) AS n FROM CUMULATE(bid, date_time, INTERVAL '50 milliseconds', INTERVAL '200 milliseconds') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE",
    "SELECT auction, price, date_time FROM bid WHERE price > 500 EMIT ON WINDOW CLOSE",
    "SELECT a.seller, b.price, b.window_end FROM TUMBLE(auction, date_time, INTERVAL '100 milliseconds') AS a JOIN TUMBLE(bid, date_time, INTERVAL '100 milliseconds') AS b ON a.window_end = b.window_end AND a.seller = b.bidder EMIT ON WINDOW CLOSE",
    "SELECT b.date_time, count(*) AS n, max(b.price) AS hi FROM auction AS a JOIN bid AS b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.date_time + INTERVAL '50 milliseconds' GROUP BY b.date_time EMIT ON WINDOW CLOSE",
    "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(early, date_time, INTERVAL '100 milliseconds') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE",
    "SELECT auction, price, date_time FROM early EMIT ON WINDOW CLOSE",
    "SELECT b.auction, b.price, a.seller, a.date_time FROM bid AS b ASOF LEFT JOIN auction AS a ON b.bidder = a.seller AND b.date_time >= a.date_time",
    "SELECT b.auction, b.price, b.date_time, a.id FROM bid AS b ASOF JOIN auction AS a ON b.bidder = a.seller AND b.date_time > a.date_time EMIT ON WINDOW CLOSE",
    "SELECT b.auction, b.price, a.id FROM bid AS b LEFT JOIN auction FOR SYSTEM_TIME AS OF b.date_time AS a ON b.bidder = a.seller",
    "SELECT a.id, b.price FROM auction AS a ASOF JOIN bid AS b ON a.id = b.auction AND a.date_time <= b.date_time",
    "SELECT bidder, window_start, window_end, count(*) AS n FROM TUMBLE(bid, date_time, INTERVAL '50 milliseconds') GROUP BY bidder, window_start, window_end EMIT ON UPDATE UNTIL WINDOW CLOSE",
    "SELECT window_start, max(price) AS hi FROM TUMBLE(bid, date_time, INTERVAL '50 milliseconds') GROUP BY window_start EMIT ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '3 milliseconds'",
    "SELECT bidder, price, window_start, window_end FROM SESSION(bid, date_time, INTERVAL '30 milliseconds', bidder) EMIT ON UPDATE UNTIL WINDOW CLOSE",
    "SELECT bidder, window_end, sum(price) AS s FROM SESSION(bid, date_time, INTERVAL '20 milliseconds', bidder) GROUP BY bidder, window_end EMIT ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '5 milliseconds'",
];

#[test]
fn what_watermarks_complete_is_the_batch_answer() {
    for n_lanes in [1, 4] {
        runtime().block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let database =
                Database::open(directory.path(), n_lanes, EngineConfig::default()).await.unwrap();
            let mut session = Session::new(database.clone(), "tidemill".into());
            for (name, columns) in [
                ("auction", "id BIGINT, seller BIGINT, date_time TIMESTAMP"),
                ("bid", "auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP"),
            ] {
                let source = format!(
                    "CREATE SOURCE {name} ({columns}, WATERMARK FOR date_time AS date_time - INTERVAL '5 milliseconds') \
                     WITH (connector = 'generator', table = '{name}', events = '4000', rate = '20000', batch_rows = '100', event_rate = '1000')"
                );
                run(&mut session, &source).await.unwrap();
                let copy = format!("CREATE PIPELINE all_{name} AS SELECT * FROM {name}");
                run(&mut session, &copy).await.unwrap();
            }
            // What other pipelines read, and which is over before its source is: time goes on without rows.
            let early = "CREATE PIPELINE early AS SELECT * FROM bid WHERE date_time < TIMESTAMP '2015-07-15 00:00:01.5'";
            run(&mut session, early).await.unwrap();
            for (idx, query) in CLOSED.iter().enumerate() {
                run(&mut session, &format!("CREATE PIPELINE p{idx} AS {query}"))
                    .await
                    .unwrap_or_else(|error| panic!("{query}: {error}"));
            }
            let is_finished = |status: &tidemill_engine::EngineStatus| {
                status.sources.iter().all(|source| source.state == State::Finished)
            };
            while !is_finished(&database.engine.status().await) {
                database.engine.flush().await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            run(&mut session, "FLUSH").await.unwrap();
            for (idx, query) in CLOSED.iter().enumerate() {
                // The same over the copies.
                let mut over_copies = query.split(" EMIT ").next().expect("a first part").to_owned();
                for name in ["auction", "bid"] {
                    for (before, after) in [("FROM ", " "), ("JOIN ", " "), ("(", ",")] {
                        over_copies = over_copies.replace(
                            &format!("{before}{name}{after}"),
                            &format!("{before}all_{name}{after}"),
                        );
                    }
                }
                let rows = run(&mut session, &over_copies).await.unwrap();
                assert!(multiset(&rows).len() > 5, "{over_copies} has rows to compare");
                compare(&mut session, &over_copies, &format!("p{idx}"), &[]).await;
            }
            let late = run(&mut session, "SELECT reason FROM tm_dead_letters").await.unwrap();
            assert_eq!(multiset(&late).len(), 0, "the generator is in order");
        });
    }
}
