//! The same statements on Tidemill and on a real PostgreSQL, and the same answers.
//!
//! The statements are those of `sqllogictest/postgres/*.sql`, a file per subject. Compared are the names and the
//! types of the columns, the values, NULLs, and the SQLSTATE of errors. A statement whose answer is to differ says so in
//! the lines above it:
//!
//! ```text
//! -- differs: why that is so
//! -- postgres: int4 | 1
//! -- tidemill: ERROR 0A000
//! SELECT …;
//! ```
//!
//! Both answers are checked, and a difference that has gone away is a failure as well. The marks are the source of
//! `docs/reference/differences.md`. `TIDEMILL_BLESS=1` writes the answers into the marks that stand there, and the
//! page; `TIDEMILL_POSTGRES=part/of/path` runs some of the files.
//!
//! `tests/services/postgres.sh` starts the server. `TIDEMILL_TEST_OFFLINE=1` leaves the comparison out, and says so.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::server::{self, Server};

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How many digits of a number that both sides show have to agree before a longer one is called more exact.
const DIGITS_MIN: usize = 12;

/// A PostgreSQL of the test's own.
pub struct Postgres {
    directory: PathBuf,
    pub address: String,
}

impl Postgres {
    /// `None` where tests are run without network.
    pub fn start(directory: &Path) -> Option<Postgres> {
        if std::env::var("TIDEMILL_TEST_OFFLINE").is_ok_and(|value| value == "1") {
            println!("skipped: TIDEMILL_TEST_OFFLINE=1, and PostgreSQL may have to be installed");
            return None;
        }
        let mut postgres = Postgres { directory: directory.to_owned(), address: String::new() };
        postgres.start_again();
        Some(postgres)
    }

    /// After a stop, with what was written before.
    pub fn start_again(&mut self) {
        let output = script("start", &self.directory);
        assert!(
            output.status.success(),
            "PostgreSQL cannot be started (TIDEMILL_TEST_OFFLINE=1 leaves this test out):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.address = String::from_utf8(output.stdout).expect("an address is text").trim().to_owned();
    }

    pub fn stop(&self) {
        assert!(script("stop", &self.directory).status.success(), "PostgreSQL stops");
    }

    pub async fn connect(&self) -> Client {
        let url = format!("postgresql://postgres@{}/postgres", self.address);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("PostgreSQL is there");
        tokio::spawn(async move { drop(connection.await) });
        client
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        script("stop", &self.directory);
    }
}

fn script(action: &str, directory: &Path) -> std::process::Output {
    Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/postgres.sh"))
        .arg(action)
        .arg(directory)
        .output()
        .expect("bash can be run")
}

/// A file of statements about one subject.
pub(crate) struct Corpus {
    pub path: PathBuf,
    /// Its first comment.
    title: String,
    pub entries: Vec<Entry>,
}

/// A statement.
pub(crate) struct Entry {
    /// Of its first line in the file, from 1.
    pub line: usize,
    pub sql: String,
    /// The comment lines above it that are no marks.
    pub comments: Vec<String>,
    pub difference: Option<Difference>,
}

/// A difference that is meant.
#[derive(Clone)]
pub(crate) struct Difference {
    pub reason: String,
    pub postgres: String,
    pub tidemill: String,
}

impl Corpus {
    fn read(path: PathBuf) -> Corpus {
        let text = fs::read_to_string(&path).expect("a corpus is text");
        let mut title = String::new();
        let mut entries = Vec::new();
        let mut comments: Vec<String> = Vec::new();
        let (mut reason, mut postgres, mut tidemill) = (None, None, None);
        let (mut sql, mut first_line) = (String::new(), 0);
        for (idx, line) in text.lines().enumerate() {
            let place = || format!("{}:{}", path.display(), idx + 1);
            if sql.is_empty() {
                if let Some(comment) = line.strip_prefix("# ").filter(|_| title.is_empty()) {
                    title = comment.to_owned();
                    continue;
                }
                if let Some(comment) = line.strip_prefix("--") {
                    match comment.trim().split_once(": ") {
                        Some(("differs", text)) => reason = Some(text.to_owned()),
                        Some(("postgres", text)) => postgres = Some(text.trim().to_owned()),
                        Some(("tidemill", text)) => tidemill = Some(text.trim().to_owned()),
                        _ => comments.push(line.to_owned()),
                    }
                    continue;
                }
                if line.trim().is_empty() {
                    continue;
                }
                first_line = idx + 1;
            } else {
                sql.push('\n');
            }
            sql.push_str(line);
            let Some(statement) = sql.strip_suffix(';') else { continue };
            let difference = reason.take().map(|reason| Difference {
                reason,
                postgres: postgres.take().unwrap_or_default(),
                tidemill: tidemill.take().unwrap_or_default(),
            });
            assert!(postgres.is_none() && tidemill.is_none(), "{}: an answer without \"differs\"", place());
            let comments = std::mem::take(&mut comments);
            entries.push(Entry { line: first_line, sql: statement.to_owned(), comments, difference });
            sql.clear();
        }
        assert!(sql.is_empty(), "{}: a statement without its semicolon: {sql}", path.display());
        assert!(!title.is_empty(), "{}: no title, \"# …\"", path.display());
        Corpus { path, title, entries }
    }

    /// All of a directory, in the order of their names.
    pub fn read_all(directory: &Path) -> Vec<Corpus> {
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)
            .expect("the corpus is there")
            .map(|entry| entry.expect("a directory can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
            .collect();
        paths.sort();
        paths.into_iter().map(Corpus::read).collect()
    }

    pub fn write(&self) {
        let mut text = format!("# {}\n\n", self.title);
        for entry in &self.entries {
            for comment in &entry.comments {
                let _ = writeln!(text, "{comment}");
            }
            if let Some(difference) = &entry.difference {
                let Difference { reason, postgres, tidemill } = difference;
                let _ =
                    writeln!(text, "-- differs: {reason}\n-- postgres: {postgres}\n-- tidemill: {tidemill}");
            }
            let _ = writeln!(text, "{};", entry.sql);
        }
        fs::write(&self.path, text).expect("the corpus can be written");
    }

    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn corpora() -> Vec<Corpus> {
    Corpus::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sqllogictest/postgres"))
}

pub(crate) fn is_blessing() -> bool {
    std::env::var("TIDEMILL_BLESS").is_ok_and(|value| value == "1")
}

/// What a server says to a statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Error { sqlstate: String, message: String },
    Rows { columns: Vec<(String, String)>, rows: Vec<Vec<Option<String>>> },
}

impl Answer {
    /// As the marks write it.
    pub fn text(&self) -> String {
        match self {
            Answer::Error { sqlstate, .. } => format!("ERROR {sqlstate}"),
            Answer::Rows { columns, rows } => {
                let columns: Vec<String> =
                    columns.iter().map(|(name, data_type)| format!("{name} {data_type}")).collect();
                let mut text = columns.join(", ");
                for row in rows {
                    let row: Vec<&str> = row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
                    let _ = write!(text, " | {}", row.join(", "));
                }
                // A line of a file ends with its last word.
                text.replace('\n', "\\n").trim().to_owned()
            }
        }
    }

    /// The message too, for a reader of the failure.
    fn long_text(&self) -> String {
        match self {
            Answer::Error { message, .. } => format!("{} {message}", self.text()),
            Answer::Rows { .. } => self.text(),
        }
    }
}

pub(crate) async fn ask(client: &Client, sql: &str) -> Answer {
    let asked = async {
        let error = |error: tokio_postgres::Error| match error.as_db_error() {
            Some(error) => Answer::Error {
                sqlstate: error.code().code().to_owned(),
                message: error.message().to_owned(),
            },
            None => Answer::Error { sqlstate: "08006".into(), message: error.to_string() },
        };
        let columns = match client.prepare(sql).await {
            Err(failed) => return error(failed),
            Ok(statement) => statement
                .columns()
                .iter()
                .map(|column| (column.name().to_owned(), column.type_().name().to_owned()))
                .collect(),
        };
        let messages = match client.simple_query(sql).await {
            Err(failed) => return error(failed),
            Ok(messages) => messages,
        };
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|idx| row.get(idx).map(str::to_owned)).collect())
            }
            _ => None,
        };
        let mut rows: Vec<Vec<Option<String>>> = messages.into_iter().filter_map(row).collect();
        if !sql.to_uppercase().contains("ORDER BY") {
            rows.sort();
        }
        Answer::Rows { columns, rows }
    };
    match tokio::time::timeout(STATEMENT_TIMEOUT, asked).await {
        Ok(answer) => answer,
        Err(_) => Answer::Error { sqlstate: "57014".into(), message: "no answer in time".into() },
    }
}

/// Whether Tidemill says what PostgreSQL says.
pub(crate) fn agree(postgres: &Answer, tidemill: &Answer) -> bool {
    match (postgres, tidemill) {
        (Answer::Error { sqlstate: a, .. }, Answer::Error { sqlstate: b, .. }) => a == b,
        (Answer::Rows { columns, rows }, Answer::Rows { columns: ours, rows: our_rows }) => {
            let types = columns.iter().map(|(_, data_type)| data_type);
            columns == ours
                && rows.len() == our_rows.len()
                && rows.iter().zip(our_rows).all(|(row, our_row)| {
                    types.clone().zip(row.iter().zip(our_row)).all(|(data_type, (a, b))| match (a, b) {
                        (Some(a), Some(b)) => a == b || is_same_number(data_type, a, b),
                        (a, b) => a == b,
                    })
                })
        }
        _ => false,
    }
}

/// Exact numbers may be shown with more or fewer digits behind the point, as long as the shorter is the longer
/// rounded; floating-point ones may differ in their last digit, which libraries do not agree on.
fn is_same_number(data_type: &str, a: &str, b: &str) -> bool {
    match data_type {
        "float4" | "float8" => match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => (a - b).abs() <= 4.0 * f64::EPSILON * a.abs().max(b.abs()),
            _ => false,
        },
        "numeric" => {
            let trimmed = |text: &str| match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text.to_owned(),
            };
            let (a, b) = (trimmed(a), trimmed(b));
            let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
            let n_digits = short.bytes().filter(u8::is_ascii_digit).count();
            short == long || n_digits >= DIGITS_MIN && rounded(&long, fraction(&short).len()) == short
        }
        _ => false,
    }
}

fn fraction(number: &str) -> &str {
    number.split_once('.').map_or("", |(_, fraction)| fraction)
}

/// A decimal number at fewer digits, half away from zero, without the zeros at its end.
fn rounded(number: &str, n_digits: usize) -> String {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(whole) => ("-", whole),
        None => ("", whole),
    };
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes().take(n_digits)).collect();
    if fraction.as_bytes().get(n_digits).is_some_and(|digit| *digit >= b'5') {
        let mut at = digits.len();
        loop {
            if at == 0 {
                digits.insert(0, b'1');
                break;
            }
            at -= 1;
            match digits[at] {
                b'9' => digits[at] = b'0',
                _ => {
                    digits[at] += 1;
                    break;
                }
            }
        }
    }
    let n_whole = digits.len() - n_digits.min(fraction.len());
    let digits = String::from_utf8(digits).expect("digits are text");
    let (whole, fraction) = digits.split_at(n_whole);
    let fraction = fraction.trim_end_matches('0');
    match fraction {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_answers_the_same() {
    let directory = server::directory();
    let Some(postgres) = Postgres::start(directory.path()) else { return };
    let postgres_client = postgres.connect().await;
    let server_directory = server::directory();
    let server = Server::start(server_directory.path()).await;
    let mut client = server.connect().await;
    let wanted = std::env::var("TIDEMILL_POSTGRES").unwrap_or_default();
    let (mut n_same, mut n_marked, mut failures) = (0, 0, Vec::new());
    for mut corpus in corpora() {
        if !corpus.path.to_string_lossy().contains(&wanted) {
            continue;
        }
        let (name, mut n_here) = (corpus.name(), 0);
        for entry in &mut corpus.entries {
            let expected = ask(&postgres_client, &entry.sql).await;
            let actual = ask(&client, &entry.sql).await;
            if client.is_closed() {
                client = server.connect().await;
            }
            let agrees = agree(&expected, &actual);
            let place = format!("sqllogictest/postgres/{name}.sql:{}", entry.line);
            match &mut entry.difference {
                None if agrees => n_here += 1,
                None => failures.push(format!(
                    "{place}: {}\n    postgres: {}\n    tidemill: {}",
                    entry.sql,
                    expected.long_text(),
                    actual.long_text()
                )),
                Some(difference) if agrees => failures.push(format!(
                    "{place}: {}\n    is marked as a difference ({}), but there is none any more",
                    entry.sql, difference.reason
                )),
                Some(difference) if is_blessing() => {
                    difference.postgres = expected.text();
                    difference.tidemill = actual.text();
                }
                Some(difference)
                    if (&difference.postgres, &difference.tidemill) == (&expected.text(), &actual.text()) =>
                {
                    n_marked += 1;
                }
                Some(difference) => failures.push(format!(
                    "{place}: {}\n    differs otherwise than it says\n    postgres: {}\n    marked:   {}\n    tidemill: {}\n    marked:   {}",
                    entry.sql,
                    expected.text(),
                    difference.postgres,
                    actual.long_text(),
                    difference.tidemill
                )),
            }
        }
        println!("{name}: {n_here} of {} statements have the same answer", corpus.entries.len());
        n_same += n_here;
        if is_blessing() {
            corpus.write();
        }
    }
    println!("{n_same} statements have PostgreSQL's answer, {n_marked} another one that is meant");
    assert!(failures.is_empty(), "{} answers are wrong:\n{}", failures.len(), failures.join("\n"));
    assert!(n_same > 0, "no statement was compared");
}

/// `docs/reference/differences.md`, from the marks.
fn differences(corpora: &[Corpus]) -> String {
    let mut page = String::from(
        "# Differences from PostgreSQL\n\nWhere a statement means something else in Tidemill than in PostgreSQL 15, or is \
         refused, this page says so and why. It\nis generated from the statements that are run on both in every test \
         (`sqllogictest/postgres/`), so each line is what the\nservers say. Everything else in those files has the same \
         columns, types, values and SQLSTATE on both.\n",
    );
    for corpus in corpora {
        let mut by_reason: Vec<(&str, Vec<&Entry>)> = Vec::new();
        for entry in &corpus.entries {
            let Some(difference) = &entry.difference else { continue };
            match by_reason.iter_mut().find(|(reason, _)| *reason == difference.reason) {
                Some((_, entries)) => entries.push(entry),
                None => by_reason.push((&difference.reason, vec![entry])),
            }
        }
        if by_reason.is_empty() {
            continue;
        }
        let _ = write!(page, "\n## {}\n", corpus.title.trim_end_matches('.'));
        for (reason, entries) in by_reason {
            let mut chars = reason.chars();
            let first = chars.next().map(char::to_uppercase).into_iter().flatten();
            let _ = write!(
                page,
                "\n{}{}\n\n| statement | PostgreSQL | Tidemill |\n|---|---|---|\n",
                first.collect::<String>(),
                chars.as_str()
            );
            for entry in entries {
                let difference = entry.difference.as_ref().expect("chosen above");
                let _ = writeln!(
                    page,
                    "| {} | {} | {} |",
                    code(&entry.sql),
                    code(&difference.postgres),
                    code(&difference.tidemill)
                );
            }
        }
    }
    page
}

/// A text in a cell of a table.
fn code(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

#[test]
fn differences_are_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/differences.md");
    let page = differences(&corpora());
    if is_blessing() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/differences.md is stale: TIDEMILL_BLESS=1 writes it");
}

#[test]
fn numbers_are_rounded_as_text() {
    assert_eq!(rounded("3.14159", 2), "3.14");
    assert_eq!(rounded("-9.995", 2), "-10");
    assert_eq!(rounded("0.05", 1), "0.1");
    assert!(is_same_number("numeric", "33333.333333333333", "33333.3333333333333333"));
    assert!(!is_same_number("numeric", "3.3333", "3.333333"));
    assert!(!is_same_number("text", "1", "1.0"));
    assert!(is_same_number("numeric", "1.50", "1.5"));
}
