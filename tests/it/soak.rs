//! Memory and files stay flat, however many checkpoints there are.
//!
//! The rows of a table are changed all the time, and never become more; pipelines over it come and go. After a while, and
//! again at the end, the server's memory and the files of its data directory are counted. `TIDEMILL_CHECKPOINTS` says how many
//! checkpoints one dataflow makes:
//!
//! `TIDEMILL_CHECKPOINTS=10000 cargo test --test it soak -- --nocapture`

use std::path::Path;
use std::time::Instant;

use crate::server::{self, Server, execute, query, sorted};

const CHECKPOINTS: u64 = 300;
/// Rows that there are at any time, and rows that a statement changes.
const ROWS: u64 = 2000;
const CHANGED: u64 = 50;
/// Statements between two looks.
const STATEMENTS: u64 = 20;

/// What the server takes at a moment.
#[derive(Debug, Clone, Copy)]
struct Taken {
    checkpoints: u64,
    resident_kib: u64,
    n_files: usize,
    /// Without the table log, which is cut in pieces of 64 MiB.
    file_bytes: u64,
    log_bytes: u64,
    n_handles: usize,
}

impl Taken {
    fn of(server: &Server, data: &Path) -> Taken {
        let process = format!("/proc/{}", server.pid());
        let status = std::fs::read_to_string(format!("{process}/status")).expect("the process runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        let (mut n_files, mut file_bytes) = (0, 0);
        count(data, &mut n_files, &mut file_bytes);
        let (mut n_segments, mut log_bytes) = (0, 0);
        count(&data.join("log"), &mut n_segments, &mut log_bytes);
        Taken {
            checkpoints: newest_version(data),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
            n_files,
            file_bytes: file_bytes.saturating_sub(log_bytes),
            log_bytes,
            n_handles: std::fs::read_dir(format!("{process}/fd")).map_or(0, Iterator::count),
        }
    }
}

fn count(directory: &Path, n_files: &mut usize, file_bytes: &mut u64) {
    // Files go away while they are counted.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => count(&entry.path(), n_files, file_bytes),
            Ok(metadata) => {
                *n_files += 1;
                *file_bytes += metadata.len();
            }
            Err(_) => (),
        }
    }
}

/// The number of the newest manifest of any dataflow.
fn newest_version(data: &Path) -> u64 {
    let dataflows = std::fs::read_dir(data.join("dataflows")).into_iter().flatten().flatten();
    let manifests =
        dataflows.flat_map(|entry| std::fs::read_dir(entry.path().join("manifest")).into_iter().flatten());
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    manifests.flatten().filter_map(number).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let wanted =
        std::env::var("TIDEMILL_CHECKPOINTS").map_or(CHECKPOINTS, |text| text.parse().expect("a number"));
    let directory = server::directory();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "checkpoint_interval = \"10ms\"\n").expect("the directory can be written");
    let data = directory.path().join("data");
    let server = Server::start_with(directory.path(), &["--config", &config.display().to_string()]).await;
    let client = server.connect().await;
    let statements = format!(
        "CREATE TABLE stock (id BIGINT PRIMARY KEY, shop BIGINT, n BIGINT, note TEXT);
         INSERT INTO stock SELECT i, i % 40, i % 7, 'article ' || i FROM generate_series(0, {ROWS} - 1) AS g (i);
         CREATE PIPELINE per_shop AS SELECT shop, count(*) AS articles, sum(n) AS n, max(n) AS most FROM stock GROUP BY shop;
         CREATE PIPELINE pairs AS SELECT a.id, b.id AS other, a.n + b.n AS n FROM stock AS a JOIN stock AS b \
             ON a.shop = b.shop AND a.id + 40 = b.id;
         CREATE PIPELINE best AS SELECT id, n FROM stock ORDER BY n DESC, id LIMIT 20;
         CREATE PIPELINE notes AS SELECT DISTINCT note FROM stock;
         CREATE SINK gone FROM pairs WITH (connector = 'blackhole')"
    );
    execute(&client, &statements).await;

    let mut looks: Vec<Taken> = Vec::new();
    let (mut round, started) = (0, Instant::now());
    while looks.last().is_none_or(|taken| taken.checkpoints < wanted) {
        for _ in 0..STATEMENTS {
            round += 1;
            let first = round * 37 % (ROWS / CHANGED) * CHANGED;
            let sql = format!(
                "UPDATE stock SET n = (n * 31 + {round}) % 1009, note = 'article ' || (id + {round}) % 5000 \
                 WHERE id BETWEEN {first} AND {}",
                first + CHANGED - 1
            );
            execute(&client, &sql).await;
        }
        execute(&client, "DELETE FROM stock WHERE id < 10").await;
        execute(
            &client,
            "INSERT INTO stock SELECT i, i % 40, i, 'again' FROM generate_series(0, 9) AS g (i)",
        )
        .await;
        execute(&client, "CREATE PIPELINE passing AS SELECT shop, sum(n) AS n FROM per_shop GROUP BY shop")
            .await;
        execute(&client, "DROP PIPELINE passing").await;
        looks.push(Taken::of(&server, &data));
        let is_moving =
            looks.len() < 50 || looks[looks.len() - 50].checkpoints < looks[looks.len() - 1].checkpoints;
        assert!(is_moving, "checkpoints go on: {:?}", looks.last());
    }

    // The answers are right after all of that.
    for pipeline in ["per_shop", "pairs", "best", "notes"] {
        let verdict = query(&client, &format!("VERIFY PIPELINE {pipeline}")).await;
        assert_eq!(verdict[0][2], "equal", "{verdict:?}");
    }
    assert_eq!(sorted(&client, "SELECT count(*) FROM stock").await, [[ROWS.to_string()]]);

    // Memory and files grow until they have their size; from a fourth on they keep it.
    let (warm, rest) = looks.split_at(looks.len().div_ceil(4));
    let most = |looks: &[Taken], of: fn(&Taken) -> u64| looks.iter().map(of).max().unwrap_or(0);
    let end = rest.split_at(rest.len() / 2).1;
    for (what, of, slack) in [
        ("memory in KiB", (|taken| taken.resident_kib) as fn(&Taken) -> u64, 32 << 10),
        ("files", |taken| taken.n_files as u64, 40),
        ("bytes in files", |taken| taken.file_bytes, 4 << 20),
        ("open files", |taken| taken.n_handles as u64, 40),
    ] {
        let (before, after) = (most(warm, of), most(end, of));
        println!("{what}: at most {before} in the first fourth, {after} in the end");
        assert!(after <= before + before / 4 + slack, "{what} grow: {before}, then {after}; {looks:#?}");
    }
    let last = looks.last().expect("there are some");
    assert!(most(&looks, |taken| taken.log_bytes) < 3 * (64 << 20), "the log is cut: {last:?}");
    println!("{} checkpoints of one dataflow in {} s", last.checkpoints, started.elapsed().as_secs());
}
