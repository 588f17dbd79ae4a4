//! Cursors: `DECLARE`, `FETCH`, `MOVE`, `CLOSE`.

use std::collections::VecDeque;
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::StreamExt;
use tidemill_core::SqlState;
use tidemill_sql::statements::{Close, Declare, DeclaredOf, Fetch, FetchCount};

use super::{done, execution_error, query, rows, subscribe, unsupported};
use crate::session::api::{Response, RowsTag, SqlError, TransactionStatus};
use crate::session::{Call, CursorState, Session};

/// How long a fetch from a subscription waits for the first change, unless it says otherwise.
const SUBSCRIPTION_WAIT: Duration = Duration::from_secs(1);

pub async fn declare(
    session: &mut Session,
    declare: &Declare,
    call: &Call<'_>,
) -> Result<Response, SqlError> {
    let name = declare.name.value.clone();
    if session.cursors.contains_key(&name) {
        return Err(SqlError::new(SqlState::DUPLICATE_CURSOR, format!("cursor \"{name}\" already exists"))
            .with_position(declare.name.position));
    }
    if session.status == TransactionStatus::Idle && !declare.hold {
        return Err(SqlError::new(
            SqlState::NO_ACTIVE_TRANSACTION,
            "DECLARE CURSOR can only be used in transaction blocks",
        )
        .with_hint("Say BEGIN first, or declare the cursor WITH HOLD."));
    }
    let (schema, stream, is_subscription) = match &declare.of {
        DeclaredOf::Query(select) => {
            let (schema, stream) =
                query::stream(session, &select.query, call.sql, call.params.clone()).await?;
            (schema, stream, false)
        }
        DeclaredOf::Subscribe(subscribe) => {
            let (schema, stream) = subscribe::open(session, subscribe).await?;
            (schema, stream, true)
        }
    };
    let cursor = CursorState {
        schema,
        rows: stream.into(),
        pending: VecDeque::new(),
        is_finished: false,
        is_subscription,
        hold: declare.hold,
        is_of_block: session.is_in_block(),
    };
    session.cursors.insert(name, cursor);
    Ok(done("DECLARE CURSOR"))
}

pub async fn fetch(session: &mut Session, fetch: &Fetch, gives_rows: bool) -> Result<Response, SqlError> {
    let name = &fetch.name.value;
    let wanted = match fetch.count {
        FetchCount::Forward(n) => n as usize,
        FetchCount::ForwardAll => usize::MAX,
        FetchCount::Relative(n) if n >= 0 => n as usize,
        _ => {
            return Err(unsupported("fetching backward").with_hint("Cursors go forward only."));
        }
    };
    let wait = match &fetch.timeout {
        Some(text) => parse_wait(text)?,
        None => SUBSCRIPTION_WAIT,
    };
    let database = session.database.clone();
    let Some(cursor) = session.cursors.get_mut(name) else {
        return Err(SqlError::new(
            SqlState::INVALID_CURSOR_NAME,
            format!("cursor \"{name}\" does not exist"),
        )
        .with_position(fetch.name.position));
    };
    let mut fetched: Vec<RecordBatch> = Vec::new();
    let mut n_rows = 0;
    let stream = cursor.rows.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
    while n_rows < wanted {
        if let Some(batch) = cursor.pending.pop_front() {
            let n_taken = batch.num_rows().min(wanted - n_rows);
            if n_taken < batch.num_rows() {
                cursor.pending.push_front(batch.slice(n_taken, batch.num_rows() - n_taken));
            }
            n_rows += n_taken;
            fetched.push(batch.slice(0, n_taken));
            continue;
        }
        if cursor.is_finished {
            break;
        }
        let next = if cursor.is_subscription {
            // What is there is given; only the first change is worth waiting for.
            let limit = if n_rows == 0 { wait } else { Duration::ZERO };
            match tokio::time::timeout(limit, stream.next()).await {
                Ok(next) => next,
                Err(_) => break,
            }
        } else {
            stream.next().await
        };
        match next {
            Some(batch) => {
                cursor.pending.push_back(batch.map_err(|error| execution_error(&database, error, ""))?)
            }
            None => cursor.is_finished = true,
        }
    }
    match gives_rows {
        true => Ok(rows(cursor.schema.clone(), fetched, RowsTag::FETCH)),
        false => Ok(done(format!("MOVE {n_rows}"))),
    }
}

fn parse_wait(text: &str) -> Result<Duration, SqlError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: Option<u64> = text[..digits].parse().ok();
    let millis = match text[digits..].trim() {
        "ms" => Some(1),
        "" | "s" | "second" | "seconds" => Some(1000),
        "m" | "min" | "minute" | "minutes" => Some(60_000),
        _ => None,
    };
    match (number, millis) {
        (Some(number), Some(millis)) => Ok(Duration::from_millis(number * millis)),
        _ => Err(SqlError::new(SqlState::INVALID_PARAMETER, format!("\"{text}\" is not a duration"))
            .with_hint("Write for example '500ms' or '2s'.")),
    }
}

pub fn close(session: &mut Session, close: &Close) -> Result<Response, SqlError> {
    match &close.name {
        Some(name) => {
            if session.cursors.remove(&name.value).is_none() {
                let message = format!("cursor \"{}\" does not exist", name.value);
                return Err(
                    SqlError::new(SqlState::INVALID_CURSOR_NAME, message).with_position(name.position)
                );
            }
            Ok(done("CLOSE CURSOR"))
        }
        None => {
            session.cursors.clear();
            Ok(done("CLOSE CURSOR ALL"))
        }
    }
}
