//! Nexmark: how fast, and how late.
//!
//! ```text
//! cargo bench --bench nexmark -- [--events 5000000] [--rate 100000] [--seconds 10] [q0 q4 …]
//! ```
//!
//! Throughput: the built-in generator as fast as the query takes it, into a `blackhole` sink, checkpoints on; the
//! time is from CREATE SINK until the last row has been delivered. Events are those of the whole Nexmark stream
//! (1 person : 3 auctions : 46 bids), whether the query reads all three kinds or not. Latency: from the
//! arrival of a row to its result being readable in a view, at a fixed rate.

use std::time::{Duration, Instant};

use tidemill::config::Sources;
use tidemill::server::{Service, StartOptions, start};
use tidemill_engine::State;

/// Name, the sources that it reads, the query.
const QUERIES: &[(&str, &[&str], &str)] = &[
    ("q0", &["bid"], "SELECT auction, bidder, price, date_time, extra FROM bid"),
    ("q1", &["bid"], "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid"),
    (
        "q3",
        &["auction", "person"],
        "SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id \
         WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')",
    ),
    (
        "q4",
        &["auction", "bid"],
        "SELECT q.category, avg(q.final) AS price FROM (\
           SELECT max(b.price) AS final, a.category FROM auction AS a JOIN bid AS b ON a.id = b.auction \
           WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS q \
         GROUP BY q.category",
    ),
    (
        "q8",
        &["auction", "person"],
        "SELECT p.id, p.name, p.window_start FROM (\
           SELECT id, name, window_start, window_end FROM TUMBLE(person, date_time, INTERVAL '10 seconds') \
           GROUP BY id, name, window_start, window_end) AS p \
         JOIN (\
           SELECT seller, window_start, window_end FROM TUMBLE(auction, date_time, INTERVAL '10 seconds') \
           GROUP BY seller, window_start, window_end) AS a \
         ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end",
    ),
    (
        "q18",
        &["bid"],
        "SELECT auction, bidder, price, channel, url, date_time, extra FROM (\
           SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS n FROM bid) AS b \
         WHERE n <= 1",
    ),
];

struct Options {
    events: u64,
    rate: u64,
    seconds: u64,
    queries: Vec<String>,
}

fn options() -> Options {
    let mut options = Options { events: 5_000_000, rate: 100_000, seconds: 10, queries: Vec::new() };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match arg.as_str() {
            "--events" => options.events = number(),
            "--rate" => options.rate = number(),
            "--seconds" => options.seconds = number(),
            name => options.queries.push(name.to_owned()),
        }
    }
    options
}

fn main() {
    let options = options();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(16 << 20)
        .build()
        .expect("a runtime");
    println!("query    events/s   seconds   rows out   at {} events/s: p50 ms   p99 ms", options.rate);
    for (name, sources, query) in QUERIES {
        if !options.queries.is_empty() && !options.queries.iter().any(|wanted| wanted == name) {
            continue;
        }
        let (seconds, n_rows) = runtime.block_on(throughput(sources, query, options.events));
        let (p50, p99) = runtime.block_on(latency(sources, query, &options));
        let rate = options.events as f64 / seconds;
        println!("{name:<6} {rate:>10.0} {seconds:>9.2} {n_rows:>10} {p50:>28.1} {p99:>8.1}");
    }
}

async fn service(directory: &tempfile::TempDir) -> std::sync::Arc<dyn Service> {
    let loaded = Sources { file: None, variables: Vec::new(), flags: Vec::new() }.load().expect("defaults");
    start(StartOptions {
        data_dir: directory.path().display().to_string(),
        listen: None,
        http: None,
        is_catalog_only: false,
        config: loaded.with_default_log("error"),
    })
    .await
    .expect("the server starts")
}

async fn create_sources(service: &dyn Service, sources: &[&str], events: u64, rate: Option<u64>) {
    for source in sources {
        let rate = rate.map_or_else(String::new, |rate| format!(", rate = '{rate}'"));
        let sql = format!(
            "CREATE SOURCE {source} WITH (connector = 'generator', table = '{source}', events = '{events}'{rate})"
        );
        service.run_sql(&sql).await.expect("the source is created");
    }
}

async fn throughput(sources: &[&str], query: &str, events: u64) -> (f64, u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(&directory).await;
    create_sources(service.as_ref(), sources, events, None).await;
    let start = Instant::now();
    let sql = format!("CREATE SINK s AS {query} WITH (connector = 'blackhole') FORMAT DEBEZIUM ENCODE JSON");
    let created = match service.run_sql(&sql).await {
        Ok(created) => Ok(created),
        Err(_) => service.run_sql(&format!("CREATE SINK s AS {query} WITH (connector = 'blackhole')")).await,
    };
    created.expect("the sink is created");
    loop {
        let status = service.status();
        let is_read = status.sources.iter().all(|source| source.state == State::Finished);
        let sink = &status.sinks[0];
        assert!(sink.pipeline.state.error().is_none(), "{:?}", sink.pipeline.state);
        if is_read && sink.pipeline.epoch >= status.epoch && sink.rows_pending == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let n_rows = service.status().sinks[0].rows_delivered;
    service.shutdown().await.expect("the server stops");
    (seconds, n_rows)
}

async fn latency(sources: &[&str], query: &str, options: &Options) -> (f64, f64) {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(&directory).await;
    create_sources(service.as_ref(), sources, u64::MAX >> 8, Some(options.rate)).await;
    service.run_sql(&format!("CREATE PIPELINE p AS {query}")).await.expect("the pipeline is created");
    // The first second belongs to caches that are cold.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = service.status().pipelines[0].latency.clone();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let counts = service.status().pipelines[0].latency.since(&before);
    let millis = |q: f64| counts.quantile(q).as_secs_f64() * 1000.0;
    service.shutdown().await.expect("the server stops");
    (millis(0.5), millis(0.99))
}
