//! The parser and the planner under statements that nobody would write.
//!
//! The seeds are the statements of the test files and of the manual. Each is cut into tokens, and tokens are left
//! out, doubled, exchanged, nested and mixed with those of others. What comes out is parsed, planned as a
//! statement and, where it is a query, planned as a pipeline; nothing of it runs. It may fail in any way that
//! a user can read; it may not panic, and it may not take the stack.
//!
//! `TIDEMILL_FUZZ=100000 cargo test --lib fuzz` runs more of it, `TIDEMILL_FUZZ_SEED` others.

use std::path::Path;
use std::time::Duration;

use tidemill_core::SqlState;
use tidemill_engine::EngineConfig;
use tidemill_storage::Root;

use crate::database::Database;
use crate::session::Session;
use crate::session::api::SessionApi;
use crate::session::internal::PANIC;

const SETUP: &str = "CREATE TABLE t (a INT, b INT); CREATE TABLE u (a INT, b TEXT, at TIMESTAMP); \
                     CREATE TABLE orders (id INT PRIMARY KEY, amount NUMERIC(10, 2), tags TEXT[]); \
                     CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '1 second') WITH \
                     (connector = 'generator', table = 'bid', events = '10'); \
                     CREATE PIPELINE seen AS SELECT a, count(*) AS n FROM t GROUP BY a; \
                     CREATE VIEW v AS SELECT * FROM seen WHERE n > 1";

/// Statements after which the catalog is made afresh.
const N_PER_DATABASE: usize = 250;

struct Rng(u64);

impl Rng {
    /// SplitMix64 (Steele et al., OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// The statements of the test files and of the manual.
fn seeds() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Vec::new();
    let mut directories = vec![root.join("sqllogictest"), root.join("docs")];
    let mut files = vec![root.join("README.md")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("slt") => {
                for record in text.split("\n\n") {
                    let lines =
                        record.lines().skip_while(|line| line.starts_with('#') || line.contains("skipif"));
                    let mut lines = lines.peekable();
                    let is_statement =
                        |line: &&str| line.starts_with("statement") || line.starts_with("query");
                    if lines.next_if(is_statement).is_some() {
                        seeds.push(lines.take_while(|line| *line != "----").collect::<Vec<_>>().join("\n"));
                    }
                }
            }
            Some("md") => {
                for block in text.split("```sql\n").skip(1) {
                    let sql = block.split("```").next().unwrap_or_default();
                    seeds.extend(sql.split(";\n").map(|statement| statement.trim().to_owned()));
                }
            }
            _ => (),
        }
    }
    seeds.retain(|seed| !seed.is_empty());
    seeds
}

/// Words, numbers, strings and signs. Nothing is lost: joined by blanks they say the same.
fn tokens(sql: &str) -> Vec<String> {
    let chars: Vec<char> = sql.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        let first = chars[at];
        at += 1;
        if first.is_whitespace() {
            continue;
        }
        if first == '\'' || first == '"' {
            while at < chars.len() && chars[at] != first {
                at += 1;
            }
            at = (at + 1).min(chars.len());
        } else if first.is_alphanumeric() || first == '_' {
            while at < chars.len() && (chars[at].is_alphanumeric() || "_.".contains(chars[at])) {
                at += 1;
            }
        } else {
            while at < chars.len() && "<>=!|:-".contains(first) && "<>=!|:".contains(chars[at]) {
                at += 1;
            }
        }
        tokens.push(chars[start..at].iter().collect());
    }
    tokens
}

/// What is put in where it does not belong.
const ODD: &[&str] = &[
    "(",
    ")",
    ",",
    ";",
    "*",
    "NULL",
    "''",
    "-1",
    "99999999999999999999",
    "1e400",
    "$1",
    "[1]",
    "::INT",
    "::jsonb",
    "SELECT",
    "FROM t",
    "WHERE",
    "GROUP BY 1",
    "ORDER BY 1",
    "LIMIT 1",
    "OVER ()",
    "OVER (PARTITION BY a ORDER BY b)",
    "DISTINCT",
    "UNION ALL",
    "EXCEPT",
    "LATERAL",
    "JOIN u ON true",
    "LEFT JOIN u USING (a)",
    "NOT IN",
    "EXISTS",
    "WITH x AS (SELECT 1)",
    "now()",
    "random()",
    "count(*)",
    "sum(a)",
    "array_agg(a ORDER BY b)",
    "FILTER (WHERE a > 1)",
    "EMIT ON WINDOW CLOSE",
    "EMIT EVERY INTERVAL '1 second'",
    "FOR SYSTEM_TIME AS OF now()",
    "FOR SYSTEM_TIME AS OF a",
    "TUMBLE(bid, date_time, INTERVAL '1 second')",
    "HOP(t, a, a, a)",
    "INTERVAL '1'",
    "CASE WHEN a THEN b END",
    "CAST(a AS",
    "ROLLUP (a)",
    "\u{0}",
    "é",
    "\"",
    "'",
    "--",
    "/*",
    "$$",
    "INTO",
    "SAMPLE 1 PERCENT",
    "FORMAT JSON",
    "ANALYZE",
    "VALUES (1, 2)",
    "unnest(ARRAY[1, 2])",
    "generate_series(1, 3)",
    "date_bin(INTERVAL '0', at)",
];

fn mutate(rng: &mut Rng, seeds: &[String]) -> String {
    let mut all = tokens(rng.pick::<String>(seeds));
    for _ in 0..=rng.below(4) {
        let other = tokens(rng.pick::<String>(seeds));
        let at = rng.below(all.len() + 1);
        let place = at.min(all.len().saturating_sub(1));
        match rng.below(10) {
            0 if !all.is_empty() => drop(all.remove(place)),
            1 if !all.is_empty() => all.insert(at, all[place].clone()),
            2 if !all.is_empty() => {
                let with = rng.below(all.len());
                all.swap(place, with);
            }
            3 if !all.is_empty() && !other.is_empty() => all[place] = rng.pick(&other).clone(),
            4 => all.insert(at, (*rng.pick(ODD)).to_owned()),
            5 if !all.is_empty() => all[place] = (*rng.pick(ODD)).to_owned(),
            6 if !other.is_empty() => {
                let from = rng.below(other.len());
                let to = from + rng.below(other.len() - from) + 1;
                all.splice(at..at, other[from..to].iter().cloned());
            }
            7 => all.truncate(at),
            8 => {
                // What is small for a query may be deep for a stack.
                let n = [3, 30, 300, 3000][rng.below(4)];
                let (open, close) = *rng.pick(&[
                    ("(", ")"),
                    ("NOT", ""),
                    ("-", ""),
                    ("abs(", ")"),
                    ("CASE WHEN true THEN", "END"),
                    ("1 +", ""),
                    ("a OR", ""),
                    ("(SELECT", ")"),
                    ("SELECT * FROM (", ") AS x"),
                    ("ARRAY[", "]"),
                    ("SELECT 1 UNION ALL", ""),
                    ("EXISTS (SELECT", ")"),
                    ("a IN (", ")"),
                    ("COALESCE(", ")"),
                    ("CAST(", "AS INT)"),
                ]);
                all.splice(at..at, std::iter::repeat_n(open.to_owned(), n));
                if !close.is_empty() {
                    all.extend(std::iter::repeat_n(close.to_owned(), n));
                }
            }
            _ if !all.is_empty() => {
                let mut chars: Vec<char> = all[place].chars().collect();
                let idx = rng.below(chars.len());
                chars[idx] = *rng.pick(&['(', '\'', '0', 'x', '.', '%', '\\', '\u{7f}', '∞']);
                all[place] = chars.into_iter().collect();
            }
            _ => (),
        }
    }
    all.join(" ")
}

async fn database() -> Session {
    let directory = tempfile::tempdir().unwrap();
    let database =
        Database::open_for_checks(&Root::local(directory.path()).unwrap(), 2, EngineConfig::default())
            .await
            .unwrap();
    let mut session = Session::new(database, "tidemill".into());
    for parsed in SessionApi::parse(&mut session, SETUP).unwrap() {
        session.check(&parsed).await.unwrap();
    }
    session
}

/// What is wrong with how a text was answered.
async fn attempt(session: &mut Session, sql: &str, n_internal: &mut usize) -> Option<String> {
    let parsed = match SessionApi::parse(session, sql) {
        Ok(parsed) => parsed,
        Err(error) => return error.message.starts_with(PANIC).then_some(error.message),
    };
    for statement in &parsed {
        let Err(error) = session.check(statement).await else { continue };
        if error.message.starts_with(PANIC) {
            return Some(error.message);
        }
        if error.sqlstate == SqlState::INTERNAL_ERROR {
            *n_internal += 1;
            if !error.detail.as_deref().unwrap_or_default().contains("Error id ") {
                return Some(format!("without an id: {error:?}"));
            }
        }
    }
    None
}

async fn fuzz(seed: u64, n_statements: usize) {
    let seeds = seeds();
    assert!(seeds.len() > 200, "{} seeds", seeds.len());
    let mut rng = Rng(seed);
    let mut session = database().await;
    let mut wrong = Vec::new();
    let (mut n_internal, mut n_slow) = (0, 0);
    for idx in 0..n_statements {
        if idx % N_PER_DATABASE == N_PER_DATABASE - 1 {
            session = database().await;
        }
        let mutated = mutate(&mut rng, &seeds);
        let as_pipeline = format!("CREATE PIPELINE f{idx} AS {mutated}");
        for sql in [mutated, as_pipeline] {
            // A stack that overflows ends the process: the last statement of the output is the one.
            if std::env::var_os("TIDEMILL_FUZZ_PRINT").is_some() {
                println!("{sql}");
            }
            let limit = Duration::from_secs(20);
            match tokio::time::timeout(limit, attempt(&mut session, &sql, &mut n_internal)).await {
                Ok(None) => (),
                Ok(Some(what)) => wrong.push(format!("{sql}\n  {what}")),
                Err(_) => n_slow += 1,
            }
        }
    }
    println!(
        "{n_statements} statements, {n_internal} internal errors with an id, {n_slow} broken off after some time"
    );
    assert!(wrong.is_empty(), "{} of {n_statements}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn mutated_statements_fail_in_words() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let n_statements = number("TIDEMILL_FUZZ").unwrap_or(1500) as usize;
    let seed = number("TIDEMILL_FUZZ_SEED").unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_stack_size(tidemill_sql::parser::STACK_BYTES_MIN)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(fuzz(seed, n_statements)).await.unwrap() });
    runtime.shutdown_timeout(Duration::ZERO);
}
