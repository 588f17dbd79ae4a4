//! `sqllogictest/**/*.slt` over the wire, every file in four modes.
//!
//! - *plain*: as it is written.
//! - *row-per-epoch*: an `INSERT … VALUES` of several rows becomes as many statements, and so epochs.
//! - *restart*: the server is killed with SIGKILL and started again between statements.
//! - *as-pipeline*: each SELECT is created as a pipeline too, whose rows must be the same. The pipeline
//!   stays, so that the next time the same SELECT comes, it has followed all changes in between.
//!
//! Each file has a server of its own in each mode. An error is matched as `SQLSTATE: message`, with detail
//! and hint behind it, by the regular expression after `statement error`. A file may say `skipif <mode>`
//! of a statement whose meaning is the mode's opposite. `TIDEMILL_SLT=part/of/path` runs some of the files.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::server::{self, Server};

/// Starting a server takes processors, waiting for its epochs does not.
const FILES_AT_ONCE: usize = 4;

/// In the mode of restarts every second file has checkpoints all the time, so that what is read after a kill is
/// a checkpoint; in the others it is the log since a checkpoint that may be a second old.
const CHECKPOINT_ALL_THE_TIME: &str = "checkpoint_interval = \"10ms\"\n";

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    RowPerEpoch,
    Restart,
    AsPipeline,
}

impl Mode {
    /// As `skipif` and `onlyif` call it.
    fn label(self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::RowPerEpoch => "row-per-epoch",
            Mode::Restart => "restart",
            Mode::AsPipeline => "as-pipeline",
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slt_plain() {
    run(Mode::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slt_row_per_epoch() {
    run(Mode::RowPerEpoch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slt_restart() {
    run(Mode::Restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slt_as_pipeline() {
    run(Mode::AsPipeline).await;
}

/// What happened in all files of a mode.
#[derive(Debug, Default)]
struct Counts {
    statements: AtomicU64,
    restarts: AtomicU64,
    /// SELECTs that were compared with a pipeline.
    compared: AtomicU64,
    /// Of those, the ones whose pipeline was there before the last changes.
    followed: AtomicU64,
    /// SELECTs that cannot be pipelines, and say so.
    refused: AtomicU64,
}

async fn run(mode: Mode) {
    let files = files();
    assert!(!files.is_empty(), "no file matches");
    let counts = Arc::new(Counts::default());
    let results = futures::stream::iter(files.clone().into_iter().enumerate())
        .map(|(idx, file)| {
            let config = if mode == Mode::Restart && idx % 2 == 1 { CHECKPOINT_ALL_THE_TIME } else { "" };
            let task = tokio::spawn(run_file(mode, file, config, counts.clone()));
            async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }
        })
        .buffer_unordered(FILES_AT_ONCE)
        .collect::<Vec<Result<(), String>>>()
        .await;
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{}: {} files, {} statements, {} restarts, {} SELECTs as pipelines ({} had followed changes), {} refused as pipelines",
        mode.label(),
        files.len(),
        count(&counts.statements),
        count(&counts.restarts),
        count(&counts.compared),
        count(&counts.followed),
        count(&counts.refused)
    );
    assert!(
        failures.is_empty(),
        "{} of {} files failed:\n{}",
        failures.len(),
        files.len(),
        failures.join("\n")
    );
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sqllogictest");
    let wanted = std::env::var("TIDEMILL_SLT").unwrap_or_default();
    let mut directories = vec![root];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory can be read") {
            let path = entry.expect("the directory can be read").path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => directories.push(path),
                Some("slt") if path.to_string_lossy().contains(&wanted) => files.push(path),
                _ => (),
            }
        }
    }
    files.sort();
    files
}

async fn run_file(
    mode: Mode,
    file: PathBuf,
    config: &'static str,
    counts: Arc<Counts>,
) -> Result<(), String> {
    let started = Instant::now();
    let directory = server::directory();
    let config_path = directory.path().join("tidemill.toml");
    std::fs::write(&config_path, config).expect("the directory can be written");
    let config_path = config_path.to_str().expect("the path is text");
    let server = Server::start_with(directory.path(), &["--config", config_path]).await;
    let server = Arc::new(Mutex::new(server));
    let database = Arc::new(Database { mode, counts, server: server.clone(), _directory: directory });
    let mut runner = Runner::new(|| {
        let database = database.clone();
        async move { Connection::new(database).await }
    });
    runner.add_label(mode.label());
    let result = runner.run_file_async(&file).await;
    let name = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&file).display().to_string();
    if started.elapsed() > Duration::from_secs(20) {
        println!("{}: {name} took {:?}", mode.label(), started.elapsed());
    }
    match result {
        Ok(()) => Ok(()),
        Err(error) => {
            let log = server.lock().await.log_tail();
            Err(format!("--- {name} ({})\n{}\n{log}", mode.label(), error.display(false)))
        }
    }
}

/// The server under a file.
struct Database {
    mode: Mode,
    counts: Arc<Counts>,
    server: Arc<Mutex<Server>>,
    _directory: TempDir,
}

/// A file's session.
struct Connection {
    database: Arc<Database>,
    client: Client,
    is_new: bool,
    in_transaction: bool,
    /// What makes the session what it is, to be said again after a restart.
    session: Vec<String>,
    /// The pipelines made of SELECTs, by the SELECT.
    pipelines: HashMap<String, Standing>,
    n_pipelines: u64,
}

/// A SELECT that is a pipeline as well.
struct Standing {
    name: String,
    /// Whether anything was written since it was compared.
    is_behind: bool,
}

#[derive(Debug)]
struct SqlError(String);

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SqlError {}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> SqlError {
        SqlError(server::describe(&error))
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        match tokio::time::timeout(STATEMENT_TIMEOUT, self.run_in_mode(sql)).await {
            Ok(result) => result,
            Err(_) => Err(SqlError(format!("no answer within {STATEMENT_TIMEOUT:?}"))),
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "tidemill"
    }

    fn error_sql_state(error: &SqlError) -> Option<String> {
        error.0.split_once(':').map(|(sqlstate, _)| sqlstate.to_owned())
    }

    async fn sleep(_: Duration) {
        panic!("test files do not sleep: a statement returns when its effect can be seen");
    }
}

impl Connection {
    async fn new(database: Arc<Database>) -> Result<Connection, SqlError> {
        let client = database.server.lock().await.try_connect().await?;
        Ok(Connection {
            database,
            client,
            is_new: true,
            in_transaction: false,
            session: Vec::new(),
            pipelines: HashMap::new(),
            n_pipelines: 0,
        })
    }

    async fn run_in_mode(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        let verb = first_word(sql);
        self.database.counts.statements.fetch_add(1, Ordering::Relaxed);
        let output = match self.database.mode {
            Mode::Plain => self.send(sql).await,
            Mode::RowPerEpoch => self.send_row_by_row(sql).await,
            Mode::Restart => {
                self.restart().await?;
                self.send(sql).await
            }
            Mode::AsPipeline => self.send_and_compare(sql, &verb).await,
        };
        let is_to_savepoint = sql.to_uppercase().split_whitespace().any(|word| word == "TO");
        match verb.as_str() {
            "BEGIN" | "START" => self.in_transaction = output.is_ok(),
            "COMMIT" | "ROLLBACK" | "END" | "ABORT" if !is_to_savepoint => self.in_transaction = false,
            "SET" | "RESET" | "PREPARE" | "DEALLOCATE" if output.is_ok() && !self.in_transaction => {
                self.session.push(sql.to_owned());
            }
            _ => (),
        }
        output
    }

    async fn send(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        let mut n_columns = None;
        let mut rows = Vec::new();
        let mut count = 0;
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => n_columns = Some(columns.len()),
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|idx| shown(row.get(idx))).collect::<Vec<String>>());
                }
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => (),
            }
        }
        Ok(match n_columns {
            Some(n) => DBOutput::Rows { types: vec![DefaultColumnType::Any; n], rows },
            None => DBOutput::StatementComplete(count),
        })
    }

    /// An INSERT of several rows as an INSERT for each; anything else as it is.
    async fn send_row_by_row(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        let Some(statements) = insert_per_row(sql) else {
            return self.send(sql).await;
        };
        let mut whole: Option<DBOutput<DefaultColumnType>> = None;
        for statement in statements {
            let part = self.send(&statement).await?;
            whole = Some(match (whole, part) {
                (Some(DBOutput::StatementComplete(a)), DBOutput::StatementComplete(b)) => {
                    DBOutput::StatementComplete(a + b)
                }
                (Some(DBOutput::Rows { types, rows: mut all }), DBOutput::Rows { rows, .. }) => {
                    all.extend(rows);
                    DBOutput::Rows { types, rows: all }
                }
                (_, part) => part,
            });
        }
        Ok(whole.expect("an INSERT has rows"))
    }

    /// Kills the server between statements. What was acknowledged must be there afterwards.
    async fn restart(&mut self) -> Result<(), SqlError> {
        if self.in_transaction || std::mem::take(&mut self.is_new) {
            return Ok(());
        }
        let mut server = self.database.server.lock().await;
        server.kill_and_restart().await;
        self.client = server.try_connect().await?;
        self.database.counts.restarts.fetch_add(1, Ordering::Relaxed);
        for sql in &self.session {
            self.client.simple_query(sql).await?;
        }
        Ok(())
    }

    /// Runs a statement and, when it is a SELECT, compares its rows with those of a pipeline.
    async fn send_and_compare(
        &mut self,
        sql: &str,
        verb: &str,
    ) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        let changes_definitions =
            ["CREATE", "DROP", "ALTER", "COMMENT", "SHOW", "EXPLAIN", "COPY"].contains(&verb);
        if changes_definitions || ["tm_", "pg_", "information_schema"].iter().any(|name| sql.contains(name)) {
            // They would stand in the way of what is tested, or in its result.
            self.drop_pipelines().await?;
        }
        let output = self.send(sql).await;
        let is_query = ["SELECT", "WITH"].contains(&verb);
        match &output {
            Ok(DBOutput::Rows { rows, .. }) if is_query && !self.in_transaction => {
                self.compare(sql.trim().trim_end_matches(';'), rows).await?;
            }
            _ if is_query => (),
            _ => self.pipelines.values_mut().for_each(|standing| standing.is_behind = true),
        }
        output
    }

    async fn compare(&mut self, sql: &str, expected: &[Vec<String>]) -> Result<(), SqlError> {
        let counts = self.database.counts.clone();
        let followed = self.pipelines.get(sql).is_some_and(|standing| standing.is_behind);
        if !self.pipelines.contains_key(sql) {
            self.n_pipelines += 1;
            let name = format!("as_pipeline_{}", self.n_pipelines);
            if let Err(SqlError(error)) =
                self.send(&format!("CREATE PIPELINE {name} AS {sql}")).await.map(drop)
            {
                // It is fine to refuse a query, and to say so; anything else is not.
                if ["0A000", "42P17"].iter().any(|sqlstate| error.starts_with(sqlstate)) {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                return Err(SqlError(format!("as a pipeline: {error}")));
            }
            self.pipelines.insert(sql.to_owned(), Standing { name, is_behind: false });
        }
        let standing = self.pipelines.get_mut(sql).expect("inserted above");
        standing.is_behind = false;
        let select = format!("SELECT * FROM {}", standing.name);
        let DBOutput::Rows { rows, .. } = self.send(&select).await? else {
            return Err(SqlError("as a pipeline: SELECT gives no rows".into()));
        };
        let (expected, actual) = (multiset(expected), multiset(&rows));
        if expected != actual {
            let kind = if followed { "that has followed changes" } else { "that was just created" };
            return Err(SqlError(format!(
                "a pipeline {kind} shows other rows than the same SELECT:\nSELECT:   {expected:?}\npipeline: {actual:?}"
            )));
        }
        counts.compared.fetch_add(1, Ordering::Relaxed);
        if followed {
            counts.followed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn drop_pipelines(&mut self) -> Result<(), SqlError> {
        for (_, standing) in std::mem::take(&mut self.pipelines) {
            self.send(&format!("DROP PIPELINE {}", standing.name)).await?;
        }
        Ok(())
    }
}

/// A value as test files write it.
fn shown(value: Option<&str>) -> String {
    match value {
        None => "NULL".into(),
        Some("") => "(empty)".into(),
        Some(value) => value.into(),
    }
}

fn multiset(rows: &[Vec<String>]) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.as_slice()).or_insert(0) += 1;
    }
    counts
}

fn first_word(sql: &str) -> String {
    sql.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_uppercase()
}

/// `INSERT INTO t VALUES (1), (2) RETURNING a` as one statement for each row, if it is of that form.
fn insert_per_row(sql: &str) -> Option<Vec<String>> {
    if first_word(sql) != "INSERT" {
        return None;
    }
    let tokens = top_level(sql);
    let values = tokens.iter().position(|token| token.text(sql).eq_ignore_ascii_case("VALUES"))?;
    let mut rows = Vec::new();
    let mut end = values + 1;
    while let Some(row) = tokens.get(end).filter(|token| token.text(sql).starts_with('(')) {
        rows.push(row.text(sql));
        end += 1;
        match tokens.get(end) {
            Some(token) if token.text(sql) == "," => end += 1,
            _ => break,
        }
    }
    if rows.len() < 2 {
        return None;
    }
    let head = &sql[..tokens[values].end];
    let tail = tokens.get(end).map_or("", |token| &sql[token.start..]);
    Some(rows.iter().map(|row| format!("{head} {row} {tail}")).collect())
}

/// A word, a comma, or everything between a pair of parentheses.
struct Token {
    start: usize,
    end: usize,
}

impl Token {
    fn text<'a>(&self, sql: &'a str) -> &'a str {
        &sql[self.start..self.end]
    }
}

fn top_level(sql: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut depth = 0;
    let mut quote = None;
    let mut word = None;
    for (at, c) in sql.char_indices() {
        if let Some(open) = quote {
            if c == open {
                quote = None;
            }
            continue;
        }
        let is_part = c.is_alphanumeric() || c == '_';
        if depth == 0 && is_part && word.is_none() {
            word = Some(at);
        } else if !is_part && let Some(start) = word.take() {
            tokens.push(Token { start, end: at });
        }
        match c {
            '\'' | '"' => quote = Some(c),
            '(' => {
                if depth == 0 {
                    tokens.push(Token { start: at, end: at });
                }
                depth += 1;
            }
            ')' => {
                depth -= 1;
                if depth == 0 {
                    tokens.last_mut().expect("opened before").end = at + 1;
                }
            }
            ',' if depth == 0 => tokens.push(Token { start: at, end: at + 1 }),
            _ => (),
        }
    }
    if let Some(start) = word {
        tokens.push(Token { start, end: sql.len() });
    }
    tokens
}

#[test]
fn inserts_are_split_by_row() {
    let split = |sql| insert_per_row(sql).unwrap_or_default();
    assert_eq!(
        split("INSERT INTO t (a, b) VALUES (1, 'x), ('), (f(2), NULL) ON CONFLICT DO NOTHING RETURNING a"),
        [
            "INSERT INTO t (a, b) VALUES (1, 'x), (') ON CONFLICT DO NOTHING RETURNING a",
            "INSERT INTO t (a, b) VALUES (f(2), NULL) ON CONFLICT DO NOTHING RETURNING a",
        ]
    );
    assert_eq!(split("INSERT INTO t VALUES (1)"), Vec::<String>::new());
    assert_eq!(split("INSERT INTO t SELECT * FROM u"), Vec::<String>::new());
    assert_eq!(split("SELECT 1"), Vec::<String>::new());
}
