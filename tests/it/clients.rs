//! Real clients against Tidemill, and against PostgreSQL: they see the same.
//!
//! `tests/clients` has a script per client. It prints a line of JSON per check: what the client saw, or why it failed. No script knows
//! what is right: each runs against both servers, and what it saw of PostgreSQL is what it has to see of Tidemill. What is meant to
//! differ is listed with its reason in `tests/clients/exceptions.tsv`; a difference that has gone away has to leave the list.
//!
//! `docs/clients.md` is written from the results: `TIDEMILL_BLESS=1` writes it, and the list without what has gone away; otherwise it is compared. `TIDEMILL_CLIENT=part of a name`
//! runs some of the clients, and leaves the page alone. `tests/services/clients.sh` installs them; `TIDEMILL_TEST_OFFLINE=1`
//! leaves them out.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::postgres::{Postgres, is_blessing};
use crate::server::{self, Server, execute};
use crate::statements::{fixture, fresh_database};

/// For all checks of one client.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(600);

/// A client, and how its script is run: what comes before the script is relative to the directory of installed clients, if it is there.
struct Driver {
    script: &'static str,
    command: &'static [&'static str],
}

/// In the order of the page. dbt is the last: it leaves relations behind.
const DRIVERS: &[Driver] = &[
    Driver { script: "drive_psql.py", command: &["python/bin/python"] },
    Driver { script: "drive_psycopg2.py", command: &["python/bin/python"] },
    Driver { script: "drive_psycopg3.py", command: &["python/bin/python"] },
    Driver { script: "drive_asyncpg.py", command: &["python/bin/python"] },
    Driver { script: "drive_pg8000.py", command: &["python/bin/python"] },
    Driver { script: "drive_sqlalchemy.py", command: &["python/bin/python"] },
    Driver { script: "drive_node_postgres.js", command: &["node"] },
    Driver { script: "DrivePgjdbc.java", command: &["java", "-cp", "pgjdbc.jar"] },
    Driver { script: "drive_dbt.py", command: &["dbt/bin/python"] },
];

/// What a client saw in one check.
#[derive(Debug, PartialEq)]
enum Seen {
    Value(Value),
    Failed(String),
}

/// A run of all checks of a client.
struct Run {
    /// With its version.
    client: String,
    checks: Vec<(String, Seen)>,
}

impl Run {
    fn find(&self, check: &str) -> Option<&Seen> {
        self.checks.iter().find(|(name, _)| name == check).map(|(_, seen)| seen)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Installs the clients if need be.
fn installed() -> PathBuf {
    let output = std::process::Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/clients.sh"))
        .arg("fetch")
        .output()
        .expect("bash can be run");
    assert!(
        output.status.success(),
        "the clients cannot be installed (TIDEMILL_TEST_OFFLINE=1 leaves this test out):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).expect("a path is text").trim())
}

async fn run(driver: &Driver, directory: &Path, address: &str) -> Run {
    let place = |word: &&str| {
        let path = directory.join(word);
        if path.exists() { path.into_os_string() } else { (*word).into() }
    };
    let words: Vec<_> = driver.command.iter().map(place).collect();
    let (host, port) = address.split_once(':').expect("an address has a port");
    let mut command = tokio::process::Command::new(&words[0]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
        command.env_remove(name);
    }
    command
        .args(&words[1..])
        .arg(root().join(driver.script))
        .envs([("PGHOST", host), ("PGPORT", port), ("PGUSER", "tidemill"), ("PGDATABASE", "tidemill")])
        // Drivers tell the server their own zone.
        .envs([("TZ", "UTC"), ("LC_ALL", "C.UTF-8"), ("PYTHONDONTWRITEBYTECODE", "1")])
        .env("TIDEMILL_TEST_CLIENTS", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{:?} cannot be run, which ./test installs: {error}", words[0]));
    let output = tokio::time::timeout(CLIENT_TIMEOUT, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{} does not end", driver.script))
        .expect("a child can be waited for");
    let (mut client, mut checks) = (String::new(), Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // Some print more than the checks.
        let Ok(Value::Object(mut line)) = serde_json::from_str(line) else { continue };
        if let Some(Value::String(name)) = line.remove("client") {
            client = name;
        } else if let Some(Value::String(check)) = line.remove("check") {
            let seen = match line.remove("failed") {
                Some(reason) => Seen::Failed(reason.as_str().unwrap_or_default().to_owned()),
                None => Seen::Value(line.remove("saw").unwrap_or(Value::Null)),
            };
            checks.push((check, seen));
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !client.is_empty(),
        "{} did not begin:\n{errors}{}",
        driver.script,
        String::from_utf8_lossy(&output.stdout)
    );
    if !output.status.success() {
        println!("{} ended with {}: {errors}", driver.script, output.status);
    }
    Run { client, checks }
}

/// Where two values begin to differ, for a reader.
fn difference(at: &str, expected: &Value, actual: &Value) -> Option<String> {
    match (expected, actual) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(idx, (a, b))| difference(&format!("{at}[{idx}]"), a, b))
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().find_map(|(key, a)| difference(&format!("{at}.{key}"), a, &b[key]))
        }
        (Value::String(a), Value::String(b)) if a != b && (a.contains('\n') || b.contains('\n')) => {
            let mut lines = a.lines().zip(b.lines()).enumerate();
            let line = lines.find(|(_, (a, b))| a != b);
            Some(match line {
                Some((idx, (a, b))) => format!("{at} line {}: saw {b:?}, of PostgreSQL {a:?}", idx + 1),
                None => format!("{at}: saw {b:?}, of PostgreSQL {a:?}"),
            })
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at}: saw {b}, of PostgreSQL {a}")),
    }
}

/// A difference that is meant.
struct Exception {
    client: String,
    check: String,
    reason: String,
}

fn exceptions() -> Vec<Exception> {
    let text = fs::read_to_string(root().join("exceptions.tsv")).expect("the list is there");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let [client, check, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("exceptions.tsv: client, check and reason, with tabs between: {line}")
            };
            Exception { client: client.to_owned(), check: check.to_owned(), reason: reason.to_owned() }
        })
        .collect()
}

/// Takes checks off the list.
fn remove_exceptions(gone: &[(String, String)]) {
    if gone.is_empty() {
        return;
    }
    let path = root().join("exceptions.tsv");
    let text = fs::read_to_string(&path).expect("the list is there");
    let is_gone =
        |line: &&str| gone.iter().any(|(client, check)| line.starts_with(&format!("{client}\t{check}\t")));
    let kept: Vec<&str> = text.lines().filter(|line| !is_gone(line)).collect();
    fs::write(&path, kept.join("\n") + "\n").expect("the list can be written");
}

/// A client's results: the checks, and why some are not as with PostgreSQL.
struct Judged {
    client: String,
    checks: Vec<(String, Option<String>)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_what_they_see_of_postgres() {
    let directory = server::directory();
    let Some(postgres) = Postgres::start(directory.path()) else { return };
    let installed = installed();
    let wanted = std::env::var("TIDEMILL_CLIENT").unwrap_or_default();
    let drivers: Vec<&Driver> = DRIVERS.iter().filter(|driver| driver.script.contains(&wanted)).collect();
    fresh_database(&postgres).await;
    let server_directory = server::directory();
    let server = Server::start(server_directory.path()).await;
    execute(&server.connect().await, &fixture()).await;
    // One after the other on a server, as all of them make and drop the same relations.
    let on = async |address: &str| {
        let mut runs = Vec::new();
        for driver in &drivers {
            let started = Instant::now();
            runs.push(run(driver, &installed, address).await);
            println!("{} on {address}: {:.1} s", driver.script, started.elapsed().as_secs_f64());
        }
        runs
    };
    let (theirs, ours) = tokio::join!(on(&postgres.address), on(&server.sql));
    let exceptions = exceptions();
    let (mut failures, mut judged, mut gone, mut n_same) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let name = theirs.client.split(' ').next().unwrap_or_default();
        let mut checks = Vec::new();
        for (check, expected) in &theirs.checks {
            let problem = match (expected, ours.find(check)) {
                (Seen::Failed(reason), _) => {
                    failures.push(format!("{name} × {check}: fails on PostgreSQL itself: {reason}"));
                    continue;
                }
                (_, None) => Some("the client has ended before".to_owned()),
                (_, Some(Seen::Failed(reason))) => Some(reason.clone()),
                (Seen::Value(expected), Some(Seen::Value(actual))) => difference("", expected, actual),
            };
            let exception = exceptions.iter().find(|it| it.client == name && it.check == *check);
            match (&problem, exception) {
                (None, None) => n_same += 1,
                (None, Some(_)) if is_blessing() && wanted.is_empty() => {
                    gone.push((name.to_owned(), check.clone()))
                }
                (None, Some(Exception { reason, .. })) => {
                    failures
                        .push(format!("{name} × {check}: is listed ({reason}), but is as with PostgreSQL"));
                }
                (Some(_), Some(_)) => (),
                (Some(problem), None) => failures.push(format!("{name} × {check}: failed: {problem}")),
            }
            println!(
                "{name} × {check}: {}",
                problem.as_deref().map_or("ok".to_owned(), |it| format!("failed: {it}"))
            );
            let reason = exception.filter(|_| problem.is_some()).map(|exception| exception.reason.clone());
            checks.push((check.clone(), reason));
        }
        judged.push(Judged { client: theirs.client.clone(), checks });
    }
    if wanted.is_empty() {
        for Exception { client, check, .. } in &exceptions {
            let is_known = judged.iter().any(|judged| {
                judged.client.split(' ').next() == Some(client)
                    && judged.checks.iter().any(|(name, _)| name == check)
            });
            if !is_known {
                failures.push(format!("exceptions.tsv: there is no check {client} × {check}"));
            }
        }
    }
    println!("{n_same} checks are as with PostgreSQL");
    assert!(failures.is_empty(), "{} checks are not:\n{}", failures.len(), failures.join("\n"));
    if wanted.is_empty() {
        remove_exceptions(&gone);
        compare_page(&page(&judged));
    }
}

fn compare_page(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    if is_blessing() {
        fs::write(&path, page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/clients.md is stale: TIDEMILL_BLESS=1 writes it");
}

/// `docs/clients.md`.
fn page(judged: &[Judged]) -> String {
    let mut page = String::from(
        "# Clients\n\nThese clients are run against Tidemill and against PostgreSQL 15 in every full test (`tests/clients`), and what they see \
         of\nthe two is compared. This page is written from the results: `TIDEMILL_BLESS=1 ./test clients_see` writes it anew.\n\n\
         Beside them, what seventeen tools were seen to send (Alembic, dbmate, dbt, Django, drizzle-kit, knex, node-pg-migrate, pgcli, pgjdbc,\n\
         SQLAlchemy, Superset, TypeORM, Sequelize, yoyo) and what Npgsql, Grafana, Metabase, Power BI and pgAdmin ask is replayed on both; where\n\
         Tidemill comes to something else, `tests/clients/statements/*.sql` says why.\n\n\
         | client | checks | as with PostgreSQL | otherwise |\n|---|---|---|---|\n",
    );
    for Judged { client, checks } in judged {
        let n_otherwise = checks.iter().filter(|(_, reason)| reason.is_some()).count();
        let anchor: String = client
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let n_same = checks.len() - n_otherwise;
        let _ = writeln!(page, "| [{client}](#{anchor}) | {} | {n_same} | {n_otherwise} |", checks.len());
    }
    for Judged { client, checks } in judged {
        let _ = write!(page, "\n## {client}\n\n| check | result |\n|---|---|\n");
        for (check, reason) in checks {
            let check = match check.starts_with('\\') {
                true => format!("`{check}`"),
                false => check.replace('|', "\\|"),
            };
            let result = reason
                .as_ref()
                .map_or("ok".to_owned(), |reason| format!("otherwise: {}", reason.replace('|', "\\|")));
            let _ = writeln!(page, "| {check} | {result} |");
        }
    }
    page
}

#[test]
fn differences_name_their_place() {
    let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_eq!(difference("", &value("[1, [2, 3]]"), &value("[1, [2, 3]]")), None);
    let at = difference("", &value(r#"[1, {"a": [2, 3]}]"#), &value(r#"[1, {"a": [2, 4]}]"#));
    assert_eq!(at.as_deref(), Some("[1].a[1]: saw 4, of PostgreSQL 3"));
    let lines = difference("", &value(r#""a\nb""#), &value(r#""a\nc""#));
    assert_eq!(lines.as_deref(), Some(r#" line 2: saw "c", of PostgreSQL "b""#));
}
