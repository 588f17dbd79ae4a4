//! Places at which a test ends the process, as a power failure would.
//!
//! Each stands between two things that survive, where an end is most likely to show that they do not fit. `arm` chooses
//! one of them; the process aborts when it passes it. Nothing is armed in a server that is not told so
//! (`tidemill start --crash-at`), and passing a place then costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// All places, and what has survived there.
pub const CRASH_POINTS: &[(&str, &str)] = &[
    ("log.written", "records of the table log, not synced and not acknowledged"),
    ("log.synced", "records of the table log, not acknowledged"),
    ("checkpoint.packed", "what is new in a checkpoint, without a manifest that names it"),
    ("checkpoint.named", "a checkpoint that nobody has heard of yet"),
    ("catalog.written", "a changed catalog whose statement has not been answered"),
    ("definitions.unsettled", "a catalog that waits for the rows of its transaction"),
    (
        "definitions.decided",
        "a transaction's rows and definitions, which the catalog's file does not say plainly",
    ),
    ("replace.filled", "what is to take a pipeline's place, beside it"),
    ("replace.decided", "a pipeline in another's place, which the catalog's file does not say plainly"),
    ("create.filled", "the first checkpoint of a pipeline that the catalog does not name"),
    ("index.built", "an index that the catalog does not name"),
    ("drop.stopped", "half of a DROP"),
    ("sink.delivered", "a batch at its destination that the sink does not know to be there"),
    ("file.begun", "the names of a sink's files, and none of the files"),
    ("file.hidden", "a file of a sink under its hidden name"),
    ("file.shown", "files of a sink that it does not know to be there"),
    ("kafka.produced", "messages of a transaction that is not committed"),
    ("kafka.committed", "a transaction that the sink does not know to be committed"),
    ("postgres.written", "rows of a transaction that is not committed"),
    ("postgres.committed", "a transaction that the sink does not know to be committed"),
];

static ARMED: OnceLock<Armed> = OnceLock::new();

struct Armed {
    point: &'static str,
    /// How often it may still be passed.
    left: AtomicU64,
}

/// Lets the process end when it passes a place for the `nth` time, from 1. Once per process; false where there is no
/// such place.
pub fn arm(point: &str, nth: u64) -> bool {
    let known = CRASH_POINTS.iter().find(|(name, _)| *name == point);
    known.is_some_and(|(point, _)| ARMED.set(Armed { point, left: AtomicU64::new(nth.max(1)) }).is_ok())
}

/// Ends the process if this is where a test wants it to end.
pub fn crash_point(point: &'static str) {
    debug_assert!(CRASH_POINTS.iter().any(|(name, _)| *name == point), "{point} is not in the list");
    let Some(armed) = ARMED.get().filter(|armed| armed.point == point) else { return };
    if armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        eprintln!("ended at crash point {point}");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_places_cannot_be_armed() {
        assert!(!arm("log.writen", 1));
        crash_point("log.written");
    }
}
