//! Why a dataflow stands still, and how often it begins again by itself.
//!
//! A dataflow that fails is put back to its checkpoint and tries again, after a pause that grows. What fails on its
//! data fails again each time, so there is a limit: after so many attempts within an interval it stays failed until
//! somebody restarts it. An error of the moment (a broker is away) is tried for as long as it takes.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::Error;
use crate::name::Name;
use crate::status::State;

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// By how much a pause is longer than the one before.
const BACKOFF_FACTOR: u32 = 4;
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Somebody wants something to stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Microseconds since 1970.
    pub since: i64,
    /// The name of what was paused: of a pipeline, or of one that it is tied to.
    pub of: Name,
}

/// Why something takes nothing in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Halt {
    Paused(Pause),
    /// It has failed, and is about to begin again from its checkpoint.
    Restarting {
        reason: String,
        since: i64,
    },
    Failed {
        reason: String,
        since: i64,
    },
}

impl Halt {
    /// Why `name` does not run, for who wants it to.
    pub fn reason(&self, name: &str) -> String {
        match self {
            Halt::Paused(pause) => pause.reason(name),
            Halt::Restarting { reason, .. } | Halt::Failed { reason, .. } => reason.clone(),
        }
    }

    pub fn since(&self) -> i64 {
        match self {
            Halt::Paused(pause) => pause.since,
            Halt::Restarting { since, .. } | Halt::Failed { since, .. } => *since,
        }
    }

    pub fn state(&self, name: &str) -> State {
        match self {
            Halt::Paused(pause) => State::Paused(pause.reason(name)),
            Halt::Restarting { reason, .. } => State::Restarting(reason.clone()),
            Halt::Failed { reason, .. } => State::Failed(reason.clone()),
        }
    }
}

impl Pause {
    pub fn reason(&self, name: &str) -> String {
        match *self.of.get() == *name {
            true => "it is paused".into(),
            false => format!("\"{}\" is paused, to which it is tied", self.of),
        }
    }
}

/// Restarts of a dataflow, and how many more there may be.
#[derive(Debug)]
pub(crate) struct Restarts {
    limit: u32,
    interval: Duration,
    state: Mutex<RestartState>,
}

#[derive(Debug, Default)]
struct RestartState {
    /// Whether there is a checkpoint to begin from.
    is_armed: bool,
    /// When the last restarts were.
    recent: VecDeque<Instant>,
    /// Restarts in a row after errors of the moment.
    n_transient: u32,
}

impl Restarts {
    pub fn new(limit: u32, interval: Duration) -> Restarts {
        Restarts { limit, interval, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, RestartState> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// From now on there is a checkpoint.
    pub fn arm(&self) {
        self.state().is_armed = true;
    }

    /// Somebody has looked after it: earlier restarts do not count any more.
    pub fn forget(&self) {
        let mut state = self.state();
        state.recent.clear();
        state.n_transient = 0;
    }

    /// After which time to begin again, if at all; counts as a restart.
    pub fn next(&self, error: &Error) -> Option<Duration> {
        self.next_at(is_transient(error), Instant::now())
    }

    fn next_at(&self, is_transient: bool, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        if !state.is_armed {
            return None;
        }
        let n_before = match is_transient {
            true => {
                state.n_transient = state.n_transient.saturating_add(1);
                state.n_transient - 1
            }
            false => {
                state.n_transient = 0;
                let interval = self.interval;
                state.recent.retain(|at| now.duration_since(*at) < interval);
                if state.recent.len() as u32 >= self.limit {
                    return None;
                }
                state.recent.push_back(now);
                state.recent.len() as u32 - 1
            }
        };
        Some(BACKOFF_FIRST.saturating_mul(BACKOFF_FACTOR.saturating_pow(n_before)).min(BACKOFF_MAX))
    }
}

/// Whether trying again may help, whatever the data.
fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Connector(error) if error.transient)
}

#[cfg(test)]
mod tests {
    use tidemill_core::SqlState;
    use tidemill_core::source::ConnectorError;

    use super::*;

    #[test]
    fn restarts_end_until_the_interval_is_over() {
        let restarts = Restarts::new(2, Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(restarts.next_at(false, at(0)), None, "there is nothing to begin from");
        restarts.arm();
        let first = restarts.next_at(false, at(0)).unwrap();
        let second = restarts.next_at(false, at(1)).unwrap();
        assert!(first < second, "pauses grow");
        assert_eq!(restarts.next_at(false, at(59)), None);
        assert_eq!(restarts.next_at(false, at(60)), Some(second), "one of them was longer ago");
        assert_eq!(restarts.next_at(false, at(60)), None);
        restarts.forget();
        assert_eq!(restarts.next_at(false, at(60)), Some(first));
    }

    #[test]
    fn what_may_pass_is_tried_for_ever() {
        let restarts = Restarts::new(1, Duration::from_secs(60));
        restarts.arm();
        let away: Error = ConnectorError::transient(SqlState::CONNECTION_FAILURE, "away").into();
        let broken: Error = ConnectorError::fatal(SqlState::DATA_CORRUPTED, "broken").into();
        let pauses: Vec<_> = (0..40).map(|_| restarts.next(&away).unwrap()).collect();
        assert!(pauses.is_sorted() && pauses.last() == Some(&BACKOFF_MAX), "{pauses:?}");
        assert!(restarts.next(&broken).is_some());
        assert_eq!(restarts.next(&broken), None);
    }
}
