//! Applying migrations, and taking them back.

use std::time::{Duration, Instant};

use tidemill_core::SqlState;
use tidemill_sql::parser::{parse_one, split_statements};
use tidemill_sql::statements::{CopyDirection, Statement, redact};
use tokio_postgres::Client;

use super::super::report::{Origin, Problem};
use super::super::{Failure, print};
use super::files::{Migration, Part, order};
use super::history::{Applied, History, State};
use super::{CHANGED, LOCKED, client_error};
use crate::session::api::SqlError;

/// What "tidemill migrate" locks; the second number is of the table.
const LOCK: i32 = 0x7469_6465;

/// Held by the connection, and given back with it.
pub struct RunLock;

/// Waits until no other run has the table.
pub async fn lock(client: &Client, table: &str, timeout: Duration) -> Result<RunLock, Failure> {
    // Runs with other tables have nothing to do with this one.
    let key = table.bytes().fold(17i32, |key, byte| key.wrapping_mul(31).wrapping_add(i32::from(byte)));
    let sql = format!("SELECT pg_try_advisory_lock({LOCK}, {key})");
    let taken = super::history::rows(client, &sql).await?;
    if taken.first().and_then(|row| row.first()?.as_deref()) == Some("t") {
        return Ok(RunLock);
    }
    if !timeout.is_zero() {
        eprintln!("another run is going on; waiting for it, {} s at most", timeout.as_secs());
        let sql = format!(
            "SET lock_timeout = '{}ms'; SELECT pg_advisory_lock({LOCK}, {key}); RESET lock_timeout",
            timeout.as_millis()
        );
        match client.batch_execute(&sql).await {
            Ok(()) => return Ok(RunLock),
            Err(error) if error.code().map(|code| code.code()) == Some(SqlState::LOCK_NOT_AVAILABLE.0) => (),
            Err(error) => return Err(client_error(error)),
        }
    }
    let error = SqlError::new(SqlState::LOCK_NOT_AVAILABLE, "another run of migrations is going on");
    Err(Failure::Coded(
        LOCKED,
        error.with_hint(
            "See who in pg_locks, where locktype = 'advisory'; or wait longer with --lock-timeout.",
        ),
    ))
}

/// What is to be applied, after everything that can be known to be wrong has been looked for.
pub fn pending<'a>(
    history: &History,
    migrations: &'a [Migration],
    n: Option<usize>,
    is_strict: bool,
) -> Result<Vec<&'a Migration>, Failure> {
    for known in history.states(migrations) {
        match known.state {
            State::Changed => {
                let file = migrations.iter().find(|migration| migration.version == known.version);
                return Err(changed(known.version, file.map(|file| file.up.file.as_str())));
            }
            State::Missing => {
                eprintln!("warning: {}_{} was applied, and its file is missing", known.version, known.name)
            }
            State::Applied | State::Pending => (),
        }
    }
    let is_pending = |migration: &&Migration| history.find(&migration.version).is_none();
    let pending: Vec<&Migration> =
        migrations.iter().filter(is_pending).take(n.unwrap_or(usize::MAX)).collect();
    if let Some(last) = history.applied.last() {
        let late = pending.iter().filter(|migration| order(&migration.version) < order(&last.version));
        for migration in late {
            if is_strict {
                let message = format!(
                    "{} comes before {}_{}, which has been applied",
                    migration.title(),
                    last.version,
                    last.name
                );
                let error = SqlError::new(SqlState::INVALID_PARAMETER, message);
                return Err(Failure::Coded(
                    CHANGED,
                    error.with_hint("Give the file a higher number, or leave --strict out."),
                ));
            }
            eprintln!(
                "warning: {} comes before {}_{}, which has been applied",
                migration.title(),
                last.version,
                last.name
            );
        }
    }
    for migration in &pending {
        check(&migration.up)?;
    }
    Ok(pending)
}

fn changed(version: &str, file: Option<&str>) -> Failure {
    let file = file.unwrap_or_default();
    let message = format!("\"{file}\" is not what was applied as {version}");
    Failure::Coded(
        CHANGED,
        SqlError::new(SqlState::INVALID_PARAMETER, message).with_hint(format!(
            "Put the file back as it was, and write the change into a new one (\"tidemill migrate new\"). If the change \
             means the same, such as another comment, \"tidemill migrate repair {version}\" takes it for what was applied."
        )),
    )
}

/// The statements of a part, each with the place where it begins in the file.
fn statements(part: &Part) -> Result<Vec<(usize, String)>, Failure> {
    let statements = split_statements(&part.sql).map_err(|error| {
        eprint!("{}", origin(part, part.offset).error(&SqlError::from(error)));
        Failure::Reported
    })?;
    Ok(statements.into_iter().map(|(offset, sql)| (part.offset + offset, sql)).collect())
}

fn origin(part: &Part, offset: usize) -> Origin<'_> {
    Origin { file: Some(&part.file), text: &part.text, offset }
}

/// Finds what cannot run, before anything runs.
fn check(part: &Part) -> Result<(), Failure> {
    for (offset, sql) in statements(part)? {
        let report = |error: &SqlError| {
            eprint!("{}", origin(part, offset).error(error));
            Failure::Reported
        };
        let parsed = parse_one(&sql).map_err(|error| report(&SqlError::from(error)))?;
        let refused = match parsed.statement {
            Statement::Begin(_) | Statement::Commit(_) | Statement::Rollback(_) if part.is_in_transaction => {
                SqlError::new(SqlState::ACTIVE_TRANSACTION, "the file has a transaction of its own")
                    .with_hint(
                        "Leave BEGIN, COMMIT and ROLLBACK out, or write \"-- migrate:up transaction:false\".",
                    )
            }
            Statement::Copy(copy) if copy.direction == CopyDirection::FromStdin => {
                SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, "COPY FROM STDIN has no rows in a migration")
                    .with_hint("Write INSERT, or load the rows with psql.")
            }
            _ => continue,
        };
        return Err(report(&refused.with_position(1)));
    }
    Ok(())
}

/// Applies migrations, each with its line in the history.
pub async fn up(client: &Client, history: &History, pending: &[&Migration]) -> Result<(), Failure> {
    if pending.is_empty() {
        print("Nothing to apply.\n");
    }
    for migration in pending {
        let began = Instant::now();
        execute(client, &migration.up, |elapsed| history.insert(migration, elapsed)).await?;
        print(&format!("applied {} in {} ms\n", migration.title(), began.elapsed().as_millis()));
    }
    Ok(())
}

/// What was applied last, and how to take it back.
pub fn last_applied<'a>(
    history: &'a History,
    migrations: &'a [Migration],
    n: usize,
) -> Result<Vec<(&'a Applied, &'a Part)>, Failure> {
    let mut last = Vec::new();
    for applied in history.applied.iter().rev().take(n) {
        let title = format!("{}_{}", applied.version, applied.name);
        let wrong = |message: String| SqlError::new(SqlState::INVALID_PARAMETER, message);
        let found = migrations.iter().find(|migration| order(&migration.version) == order(&applied.version));
        let Some(migration) = found else {
            return Err(Failure::Coded(
                CHANGED,
                wrong(format!("{title} was applied, and its file is missing"))
                    .with_hint("Put the file back: it says how to take the migration back."),
            ));
        };
        if migration.checksum != applied.checksum {
            return Err(changed(&applied.version, Some(&migration.up.file)));
        }
        let Some(down) = &migration.down else {
            return Err(Failure::Error(
                wrong(format!("{title} does not say how to take it back")).with_hint(format!(
                    "Write a new migration that undoes it. To have a part behind \"-- migrate:down\" in \"{}\", add it \
                     and run \"tidemill migrate repair {}\".",
                    migration.up.file, applied.version
                )),
            ));
        };
        check(down)?;
        last.push((applied, down));
    }
    Ok(last)
}

/// Takes migrations back, the last one first.
pub async fn down(client: &Client, history: &History, last: &[(&Applied, &Part)]) -> Result<(), Failure> {
    if last.is_empty() {
        print("Nothing to take back.\n");
    }
    for (applied, part) in last {
        let began = Instant::now();
        execute(client, part, |_| history.delete(&applied.version)).await?;
        let took = began.elapsed().as_millis();
        print(&format!("took back {}_{} in {took} ms\n", applied.version, applied.name));
    }
    Ok(())
}

/// Takes the file of an applied migration for what was applied.
pub async fn repair(
    client: &Client,
    history: &History,
    migrations: &[Migration],
    version: &str,
) -> Result<(), Failure> {
    let wrong = |message: String| Failure::Usage(SqlError::new(SqlState::INVALID_PARAMETER, message));
    let Some(applied) = history.find(version) else {
        return Err(wrong(format!("{version} has not been applied")));
    };
    let found = migrations.iter().find(|migration| order(&migration.version) == order(version));
    let Some(migration) = found else { return Err(wrong(format!("{version} has no file"))) };
    let sql = history.update(&applied.version, &migration.checksum);
    client.batch_execute(&sql).await.map_err(client_error)?;
    print(&format!("\"{}\" is what was applied as {}\n", migration.up.file, applied.version));
    Ok(())
}

/// Runs a part, and with it the statement that writes the history, for which it takes the milliseconds.
async fn execute(client: &Client, part: &Part, record: impl Fn(u128) -> String) -> Result<(), Failure> {
    let began = Instant::now();
    let statements = statements(part)?;
    if part.is_in_transaction {
        client.batch_execute("BEGIN").await.map_err(client_error)?;
    }
    for (idx, (offset, sql)) in statements.iter().enumerate() {
        let Err(error) = client.batch_execute(sql).await else { continue };
        return Err(failed(client, part, *offset, error, idx).await);
    }
    let end = async {
        client.batch_execute(&record(began.elapsed().as_millis())).await?;
        match part.is_in_transaction {
            true => client.batch_execute("COMMIT").await,
            false => Ok(()),
        }
    };
    match end.await {
        Ok(()) => Ok(()),
        Err(error) => Err(failed(client, part, part.offset, error, statements.len()).await),
    }
}

/// Says what failed where, and what has become of the rest.
async fn failed(
    client: &Client,
    part: &Part,
    offset: usize,
    error: tokio_postgres::Error,
    n_done: usize,
) -> Failure {
    let Some(of_server) = error.as_db_error() else { return client_error(error) };
    eprint!("{}", origin(part, offset).error(Problem::from(of_server)));
    match part.is_in_transaction {
        true => {
            // It ends anyway with the connection.
            let _ = client.batch_execute("ROLLBACK").await;
            eprintln!("{}: rolled back, nothing of it has been applied", part.file);
        }
        false => eprintln!(
            "{}: it has no transaction: {n_done} statements before this one have taken effect, and it does not count as \
             applied",
            part.file
        ),
    }
    Failure::Reported
}

/// Prints what would be run.
pub fn show<'a>(parts: impl Iterator<Item = &'a Part>) -> Result<(), Failure> {
    let mut is_empty = true;
    for part in parts {
        is_empty = false;
        print(&format!("-- {}\n", part.file));
        let (begin, end) = if part.is_in_transaction { ("BEGIN;\n", "COMMIT;\n") } else { ("", "") };
        print(&format!("{begin}{}\n{end}\n", redact(part.sql.trim())));
    }
    if is_empty {
        print("Nothing to run.\n");
    }
    Ok(())
}
