//! Cursors: `DECLARE`, `FETCH`, `MOVE`, `CLOSE`.

use std::collections::VecDeque;
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::StreamExt;
use tidemill_core::SqlState;
use tidemill_sql::statements::{Close, Declare, DeclaredOf, Fetch, FetchCount};

use super::{done, execution_error, query, rows, subscribe};
use crate::database::Database;
use crate::session::api::{Response, RowsTag, SqlError, TransactionStatus};
use crate::session::{Call, CursorState, Scroll, Session};

/// How long a fetch from a subscription waits for the first change, unless it says otherwise.
const SUBSCRIPTION_WAIT: Duration = Duration::from_secs(1);

/// How much the rows may take that a cursor keeps to go back to.
const SCROLL_BYTES_MAX: usize = 64 << 20;
/// How many are asked for before that is looked at again.
const SCROLL_ROWS_READ: usize = 8192;

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
        scroll: (declare.scroll == Some(true) && !is_subscription).then(Scroll::default),
    };
    session.cursors.insert(name, cursor);
    Ok(done("DECLARE CURSOR"))
}

pub async fn fetch(session: &mut Session, fetch: &Fetch, gives_rows: bool) -> Result<Response, SqlError> {
    let name = &fetch.name.value;
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
    let fetched = match cursor.scroll.take() {
        Some(mut scroll) => {
            let fetched = scroll_to(&database, cursor, &mut scroll, fetch.count).await;
            cursor.scroll = Some(scroll);
            fetched?
        }
        None => forward(&database, cursor, fetch.count, wait).await?,
    };
    match gives_rows {
        true => Ok(rows(cursor.schema.clone(), fetched, RowsTag::FETCH)),
        false => {
            let n_rows: usize = fetched.iter().map(RecordBatch::num_rows).sum();
            Ok(done(format!("MOVE {n_rows}")))
        }
    }
}

/// Rows of a cursor that keeps none.
async fn forward(
    database: &Database,
    cursor: &mut CursorState,
    count: FetchCount,
    wait: Duration,
) -> Result<Vec<RecordBatch>, SqlError> {
    let (n_skipped, wanted) = match count {
        FetchCount::Forward(n @ 1..) => (0, n as usize),
        FetchCount::ForwardAll => (0, usize::MAX),
        FetchCount::Relative(n @ 1..) => (n as usize - 1, 1),
        _ => {
            return Err(SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, "cursor can only scan forward")
                .with_hint("Declare it with SCROLL option to enable backward scan."));
        }
    };
    take(database, cursor, n_skipped, wait).await?;
    take(database, cursor, wanted, wait).await
}

/// The next rows, as many as are wanted and there are.
async fn take(
    database: &Database,
    cursor: &mut CursorState,
    wanted: usize,
    wait: Duration,
) -> Result<Vec<RecordBatch>, SqlError> {
    let mut taken: Vec<RecordBatch> = Vec::new();
    let mut n_rows = 0;
    let stream = cursor.rows.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
    while n_rows < wanted {
        if let Some(batch) = cursor.pending.pop_front() {
            let n_taken = batch.num_rows().min(wanted - n_rows);
            if n_taken < batch.num_rows() {
                cursor.pending.push_front(batch.slice(n_taken, batch.num_rows() - n_taken));
            }
            n_rows += n_taken;
            taken.push(batch.slice(0, n_taken));
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
                cursor.pending.push_back(batch.map_err(|error| execution_error(database, error, ""))?)
            }
            None => cursor.is_finished = true,
        }
    }
    Ok(taken)
}

/// Goes where a cursor that keeps its rows is to go, and gives the rows that are on the way.
async fn scroll_to(
    database: &Database,
    cursor: &mut CursorState,
    scroll: &mut Scroll,
    count: FetchCount,
) -> Result<Vec<RecordBatch>, SqlError> {
    let at = scroll.position;
    let (target, all) = match count {
        FetchCount::Forward(n) => (at.saturating_add(n as usize), true),
        FetchCount::ForwardAll => (usize::MAX, true),
        FetchCount::Backward(n) => (at.saturating_sub(n as usize), true),
        FetchCount::BackwardAll => (0, true),
        FetchCount::First => (1, false),
        FetchCount::Absolute(n @ 0..) => (n as usize, false),
        FetchCount::Relative(n) => (at.saturating_add_signed(n as isize), false),
        FetchCount::Last | FetchCount::Absolute(_) => {
            let from_end = if let FetchCount::Absolute(n) = count { n.unsigned_abs() as usize } else { 1 };
            scroll.keep(database, cursor, usize::MAX).await?;
            ((scroll.n_rows + 1).saturating_sub(from_end), false)
        }
    };
    scroll.keep(database, cursor, target).await?;
    let target = target.min(scroll.n_rows + 1);
    scroll.position = target;
    // Positions are those of rows, from 1; before the first and behind the last there is one more.
    Ok(match all {
        true if target > at => scroll.rows(at + 1, target.min(scroll.n_rows)),
        true if target < at => scroll
            .rows(target.max(1), at - 1)
            .iter()
            .rev()
            .flat_map(|batch| (0..batch.num_rows()).rev().map(|row_idx| batch.slice(row_idx, 1)))
            .take(at - target)
            .collect(),
        _ => scroll.rows(target.max(1), target),
    })
}

impl Scroll {
    /// Reads on until there are `n_rows`, or all.
    async fn keep(
        &mut self,
        database: &Database,
        cursor: &mut CursorState,
        n_rows: usize,
    ) -> Result<(), SqlError> {
        while self.n_rows < n_rows {
            let wanted = (n_rows - self.n_rows).min(SCROLL_ROWS_READ);
            let taken = take(database, cursor, wanted, SUBSCRIPTION_WAIT).await?;
            if taken.is_empty() {
                break;
            }
            for batch in taken {
                self.n_rows += batch.num_rows();
                self.n_bytes += batch.get_array_memory_size();
                self.batches.push(batch);
            }
            if self.n_bytes > SCROLL_BYTES_MAX {
                return Err(SqlError::new(
                    SqlState("54000"),
                    format!("the rows of a cursor with SCROLL exceed {} MB", SCROLL_BYTES_MAX >> 20),
                )
                .with_hint("Declare it without SCROLL: then no rows are kept."));
            }
        }
        Ok(())
    }

    /// The rows at some positions, both included, as far as they are rows'.
    fn rows(&self, from: usize, to: usize) -> Vec<RecordBatch> {
        let mut rows = Vec::new();
        let mut before = 0;
        for batch in &self.batches {
            let (first, last) = (from.max(before + 1), to.min(before + batch.num_rows()));
            if first <= last {
                rows.push(batch.slice(first - before - 1, last + 1 - first));
            }
            before += batch.num_rows();
        }
        rows
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
