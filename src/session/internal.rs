//! Errors that are ours: a client gets an ordinary ERROR with an id, and the log says more under that id.
//!
//! A panic in a statement is one of them. What it was about to change in the session is not known, but a
//! session is only what its client set; everything shared is changed in one piece, at the end.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use tidemill_core::SqlState;

use super::api::SqlError;

/// How the details of such an error begin.
const DETAIL: &str = "Error id ";

/// What a panic says of itself begins so.
pub const PANIC: &str = "internal error: ";

/// Gives an internal error an id, and writes both to the log. Others stay as they are.
pub fn identified(mut error: SqlError) -> SqlError {
    let has_id = error.detail.as_deref().is_some_and(|detail| detail.contains(DETAIL));
    if error.sqlstate != SqlState::INTERNAL_ERROR || has_id {
        return error;
    }
    let id = next_id();
    tracing::error!(id, message = error.message, detail = error.detail, "internal error");
    let detail = format!("{DETAIL}{id}; the server's log has it too.");
    error.detail = Some(match error.detail {
        Some(more) => format!("{more}\n{detail}"),
        None => detail,
    });
    error.hint.get_or_insert_with(|| "This is a bug. Please report it with the statement.".into());
    error
}

/// Runs a part of a statement; a panic in it is an error.
pub async fn guarded<T>(part: impl Future<Output = Result<T, SqlError>>) -> Result<T, SqlError> {
    match AssertUnwindSafe(part).catch_unwind().await {
        Ok(outcome) => outcome.map_err(identified),
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

/// The same for what does not wait.
pub fn guarded_sync<T>(part: impl FnOnce() -> Result<T, SqlError>) -> Result<T, SqlError> {
    match std::panic::catch_unwind(AssertUnwindSafe(part)) {
        Ok(outcome) => outcome.map_err(identified),
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

pub fn panicked(panic: &(dyn Any + Send)) -> SqlError {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned());
    identified(SqlError::new(SqlState::INTERNAL_ERROR, format!("{PANIC}{text}")))
}

/// Unlikely to have been given before, by this process or another.
fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}", tidemill_plan::fnv1a(format!("{nanos} {number} {}", std::process::id()).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_an_id() {
        let error = guarded(async { Err::<(), _>(panicked(&"boom")) }).await.unwrap_err();
        assert_eq!((error.sqlstate.0, error.fatal), ("XX000", false));
        assert_eq!(error.message, "internal error: boom");
        assert_eq!(
            error.detail.as_deref().unwrap().matches(DETAIL).count(),
            1,
            "one id, however often it is seen"
        );
        let error = guarded(async { if true { panic!("no {}", 1) } else { Ok(()) } }).await.unwrap_err();
        assert_eq!(error.message, "internal error: no 1");
        let other = guarded_sync::<()>(|| panic!("no")).unwrap_err();
        assert_ne!(other.detail, error.detail);
    }

    #[tokio::test]
    async fn an_error_of_the_user_has_no_id() {
        let error = SqlError::new(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist");
        let outcome = guarded(async { Err::<(), _>(error.clone()) }).await;
        assert_eq!(outcome.unwrap_err(), error);
    }
}
