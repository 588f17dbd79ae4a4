//! Nexmark: how fast, and how late.
//!
//! ```text
//! cargo bench --bench nexmark -- [--events 5000000] [--rate 100000] [--seconds 10] [--epoch-interval 10ms] [q0 q4 …]
//! ```
//!
//! Throughput: the built-in generator as fast as the query takes it, into a `blackhole` sink, checkpoints on; the
//! time is from CREATE SINK until the last row has been delivered. Beside it the events per second that the process
//! had a core for, generator included, which other load on the machine changes less. `--seconds 0` leaves the latency out. Events are those of the whole Nexmark stream
//! (1 person : 3 auctions : 46 bids), whether the query reads all three kinds or not; `--events 0` leaves it out. Latency: from the
//! arrival of a row to its result being readable in a view, at a fixed rate, or at each of several: `--rate 1000,100000`.

use std::time::{Duration, Instant};

use tidemill::config::Sources;
use tidemill::server::{Service, StartOptions, start};
use tidemill_engine::State;

/// What is measured unless others are named: all that `examples/nexmark/queries` has can be.
const QUERIES: &[&str] = &["q0", "q1", "q3", "q4", "q8", "q18"];

/// The sources, and their columns where they are not all of the generator's.
const SOURCES: &[(&str, &str)] = &[
    ("person", ""),
    ("auction", ""),
    (
        "bid",
        "(auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP, extra TEXT, \
         p_time TIMESTAMP AS date_time)",
    ),
];

const SIDE_INPUT: &str = "CREATE TABLE side_input (key BIGINT, value TEXT); \
                          INSERT INTO side_input SELECT i, 'side ' || i FROM generate_series(0, 9999) AS g (i)";

/// A query's text, without what it says of itself.
fn query(name: &str) -> String {
    let path = format!("{}/examples/nexmark/queries/{name}.sql", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

struct Options {
    events: u64,
    rates: Vec<u64>,
    seconds: u64,
    epoch_interval: Option<String>,
    queries: Vec<String>,
}

fn options() -> Options {
    let mut options = Options {
        events: 5_000_000,
        rates: vec![100_000],
        seconds: 10,
        epoch_interval: None,
        queries: Vec::new(),
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("a value follows");
        let number = |text: &str| text.parse().expect("a number follows");
        match arg.as_str() {
            "--events" => options.events = number(&value()),
            "--rate" => options.rates = value().split(',').map(number).collect(),
            "--seconds" => options.seconds = number(&value()),
            "--epoch-interval" => options.epoch_interval = Some(value()),
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
    println!("query    events/s  events/CPU-s   seconds   rows out   at events/s   p50 ms   p99 ms p99.9 ms");
    let names: Vec<&str> = match options.queries.is_empty() {
        true => QUERIES.to_vec(),
        false => options.queries.iter().map(String::as_str).collect(),
    };
    for name in names {
        let query = query(name);
        print!("{name:<6}");
        if options.events > 0 {
            let before = cpu_seconds();
            let (seconds, n_rows) = runtime.block_on(throughput(&query, &options));
            let rate = options.events as f64 / seconds;
            let per_cpu =
                before.zip(cpu_seconds()).map(|(before, after)| options.events as f64 / (after - before));
            let per_cpu = per_cpu.map_or_else(String::new, |per_cpu| format!("{per_cpu:.0}"));
            print!(" {rate:>10.0} {per_cpu:>13} {seconds:>9.2} {n_rows:>10}");
        } else {
            print!("{:>46}", "");
        }
        for (idx, rate) in options.rates.iter().enumerate().filter(|_| options.seconds > 0) {
            if idx > 0 {
                print!("\n{:>52}", "");
            }
            let [p50, p99, p999] = runtime.block_on(latency(&query, &options, *rate));
            print!(" {rate:>12} {p50:>8.1} {p99:>8.1} {p999:>8.1}");
        }
        println!();
    }
}

/// How long the process has had a core, where the system says so: Linux counts it in ticks of 10 ms.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold anything, user and system time are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |idx: usize| fields.get(idx)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

async fn service(directory: &tempfile::TempDir, options: &Options) -> std::sync::Arc<dyn Service> {
    let flags = options.epoch_interval.iter().map(|text| ("epoch_interval", text.as_str().into())).collect();
    let loaded = Sources { file: None, variables: Vec::new(), flags }.load().expect("an interval");
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

/// Creates what a query reads, and nothing else.
async fn create_inputs(service: &dyn Service, query: &str, events: u64, rate: Option<u64>) {
    let is_read =
        |name: &str| query.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    let rate = rate.map_or_else(String::new, |rate| format!(", rate = '{rate}'"));
    for (source, columns) in SOURCES.iter().filter(|(source, _)| is_read(source)) {
        let sql = format!(
            "CREATE SOURCE {source} {columns} WITH (connector = 'generator', table = '{source}', events = '{events}'{rate})"
        );
        service.run_sql(&sql).await.expect("the source is created");
    }
    if is_read("side_input") {
        for sql in SIDE_INPUT.split("; ") {
            service.run_sql(sql).await.expect("the table is filled");
        }
    }
}

async fn throughput(query: &str, options: &Options) -> (f64, u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(&directory, options).await;
    create_inputs(service.as_ref(), query, options.events, None).await;
    let start = Instant::now();
    let sql = format!("CREATE SINK s AS {query} WITH (connector = 'blackhole') FORMAT DEBEZIUM ENCODE JSON");
    let created = match service.run_sql(&sql).await {
        Ok(created) => Ok(created),
        Err(_) => service.run_sql(&format!("CREATE SINK s AS {query} WITH (connector = 'blackhole')")).await,
    };
    created.expect("the sink is created");
    loop {
        let status = service.status();
        // A word of the query that is a source's name as well has made one that nobody reads.
        let is_done = |state: &State| matches!(state, State::Finished | State::Idle);
        let is_read = status.sources.iter().all(|source| is_done(&source.state));
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

async fn latency(query: &str, options: &Options, rate: u64) -> [f64; 3] {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(&directory, options).await;
    create_inputs(service.as_ref(), query, u64::MAX >> 8, Some(rate)).await;
    service.run_sql(&format!("CREATE PIPELINE p AS {query}")).await.expect("the pipeline is created");
    // The first second belongs to caches that are cold.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = service.status().pipelines[0].latency.clone();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let counts = service.status().pipelines[0].latency.since(&before);
    service.shutdown().await.expect("the server stops");
    [0.5, 0.99, 0.999].map(|q| counts.quantile(q).as_secs_f64() * 1000.0)
}
