//! The statements that tools were seen to send, on Tidemill and on PostgreSQL: the same outcome.
//!
//! `tests/clients/statements/*.sql` has a file per tool, in the format of `sqllogictest/postgres` (see `postgres.rs`), with what its
//! connection sent in the order in which it was sent, without repetitions; `{orders}` is the OID of that table. Compared are names and
//! types of the columns and the SQLSTATE of errors, and then the rows. Where the two servers have other rows, as most of what describes
//! the system itself has, the statement is marked `-- other rows`, and it is compared whether there are any.
//!
//! `TIDEMILL_BLESS=1` writes the outcomes into the marks that stand there, removes those of differences that have gone away, and marks
//! other rows; `TIDEMILL_STATEMENTS=part/of/path` replays some of the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::postgres::{Answer, Corpus, Difference, Postgres, agree, ask, is_blessing};
use crate::server::{self, Server, execute, query};

const OTHER_ROWS: &str = "-- other rows";

/// An answer that takes longer is shown to whoever reads the output.
const SLOW: Duration = Duration::from_secs(2);

/// What a statement comes to, without the rows.
fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Error { sqlstate, .. } => format!("ERROR {sqlstate}"),
        Answer::Rows { columns, .. } if columns.is_empty() => "done".to_owned(),
        Answer::Rows { columns, rows } => {
            let columns: Vec<String> =
                columns.iter().map(|(name, data_type)| format!("{name} {data_type}")).collect();
            format!("{} | {}", columns.join(", "), if rows.is_empty() { "no rows" } else { "rows" })
        }
    }
}

/// The outcome, with the message of an error.
fn long_outcome(answer: &Answer) -> String {
    match answer {
        Answer::Error { message, .. } => format!("{} {message}", outcome(answer)),
        Answer::Rows { .. } => outcome(answer),
    }
}

pub fn fixture() -> String {
    fs::read_to_string(root().join("fixture.sql")).expect("the fixture is there")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A database that is called like Tidemill's, with what the clients look at, and a connection to it.
pub async fn fresh_database(postgres: &Postgres) -> Client {
    let admin = postgres.connect().await;
    execute(&admin, "DROP DATABASE IF EXISTS tidemill WITH (FORCE)").await;
    if query(&admin, "SELECT 1 FROM pg_roles WHERE rolname = 'tidemill'").await.is_empty() {
        execute(&admin, "CREATE ROLE tidemill SUPERUSER LOGIN").await;
    }
    execute(&admin, "CREATE DATABASE tidemill OWNER tidemill").await;
    let client = server::connect(&postgres.address).await.expect("PostgreSQL is there");
    execute(&client, &fixture()).await;
    client
}

async fn oid_of_orders(client: &Client) -> String {
    query(client, "SELECT oid FROM pg_class WHERE relname = 'orders'").await[0][0].clone()
}

async fn answer(client: &Client, sql: &str, oid: &str) -> Answer {
    let started = Instant::now();
    let answer = ask(client, &sql.replace("{orders}", oid)).await;
    if started.elapsed() > SLOW {
        println!("{:.1} s: {}", started.elapsed().as_secs_f64(), one_line(sql));
    }
    answer
}

fn one_line(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((idx, _)) => format!("{}…", &line[..idx]),
        None => line,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_statements_come_to_the_same() {
    let directory = server::directory();
    let Some(postgres) = Postgres::start(directory.path()) else { return };
    let wanted = std::env::var("TIDEMILL_STATEMENTS").unwrap_or_default();
    let (mut n_same, mut n_other_rows, mut n_marked, mut failures) = (0, 0, 0, Vec::new());
    for mut corpus in Corpus::read_all(&root().join("statements")) {
        if !corpus.path.to_string_lossy().contains(&wanted) {
            continue;
        }
        let name = corpus.name();
        let server_directory = server::directory();
        let server = Server::start(server_directory.path()).await;
        let mut ours = server.connect().await;
        execute(&ours, &fixture()).await;
        let theirs = fresh_database(&postgres).await;
        let (our_oid, their_oid) = (oid_of_orders(&ours).await, oid_of_orders(&theirs).await);
        for entry in &mut corpus.entries {
            let (expected, actual) =
                tokio::join!(answer(&theirs, &entry.sql, &their_oid), answer(&ours, &entry.sql, &our_oid));
            if ours.is_closed() {
                ours = server.connect().await;
            }
            if let (Answer::Error { .. }, _) | (_, Answer::Error { .. }) = (&expected, &actual) {
                // What comes next is judged by itself.
                let _ = tokio::join!(theirs.batch_execute("ROLLBACK"), ours.batch_execute("ROLLBACK"));
            }
            let is_marked_other = entry.comments.iter().any(|comment| comment == OTHER_ROWS);
            let is_same = agree(&expected, &actual);
            let comes_to_same = is_same || outcome(&expected) == outcome(&actual);
            if is_blessing() && comes_to_same {
                entry.difference = None;
                if !is_same && !is_marked_other {
                    entry.comments.push(OTHER_ROWS.to_owned());
                }
            }
            let place = format!("tests/clients/statements/{name}.sql:{}", entry.line);
            match &mut entry.difference {
                None if is_same => n_same += 1,
                None if comes_to_same && is_marked_other => n_other_rows += 1,
                None if comes_to_same && is_blessing() => n_other_rows += 1,
                None if comes_to_same => failures.push(format!(
                    "{place}: {}\n    other rows, which \"{OTHER_ROWS}\" would allow\n    postgres: {}\n    tidemill: {}",
                    one_line(&entry.sql),
                    one_line(&expected.text()),
                    one_line(&actual.text())
                )),
                None => failures.push(format!(
                    "{place}: {}\n    postgres: {}\n    tidemill: {}",
                    one_line(&entry.sql),
                    long_outcome(&expected),
                    long_outcome(&actual)
                )),
                Some(Difference { reason, .. }) if comes_to_same => failures.push(format!(
                    "{place}: {}\n    is marked as a difference ({reason}), but there is none any more",
                    one_line(&entry.sql),
                )),
                Some(difference) if is_blessing() => {
                    difference.postgres = outcome(&expected);
                    difference.tidemill = outcome(&actual);
                }
                Some(Difference { postgres, tidemill, .. })
                    if (&*postgres, &*tidemill) == (&outcome(&expected), &outcome(&actual)) =>
                {
                    n_marked += 1;
                }
                Some(difference) => failures.push(format!(
                    "{place}: {}\n    differs otherwise than it says\n    postgres: {}\n    marked:   {}\n    tidemill: {}\n    marked:   {}",
                    one_line(&entry.sql),
                    long_outcome(&expected),
                    difference.postgres,
                    long_outcome(&actual),
                    difference.tidemill
                )),
            }
        }
        if is_blessing() {
            corpus.write();
        }
    }
    println!(
        "{n_same} statements have the same answer, {n_other_rows} one of the same columns and types, {n_marked} another one that is meant"
    );
    assert!(failures.is_empty(), "{} outcomes are wrong:\n{}", failures.len(), failures.join("\n"));
    assert!(n_same > 0, "no statement was replayed");
}
