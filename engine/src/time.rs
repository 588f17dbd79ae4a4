//! What time it is.
//!
//! Only the sealer asks: each epoch is sealed with a time, which is `now()` to every pipeline. So an operator
//! that lets rows expire is still a function of its inputs.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What lengths of time are counted from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where epochs' time comes from, in microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub enum TimeSource {
    #[default]
    System,
    /// Stands still until somebody sets it: for tests, which must not wait.
    Manual(Arc<AtomicI64>),
}

impl TimeSource {
    /// A clock that shows `micros` until it is told otherwise.
    pub fn manual(micros: i64) -> TimeSource {
        TimeSource::Manual(Arc::new(AtomicI64::new(micros)))
    }

    pub fn now(&self) -> i64 {
        match self {
            TimeSource::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
            }
            TimeSource::Manual(micros) => micros.load(Ordering::SeqCst),
        }
    }

    /// How long it has been since some moment: the difference of two is a length of time, whatever somebody does to the
    /// system's clock in between.
    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            TimeSource::System => START.elapsed(),
            TimeSource::Manual(micros) => {
                Duration::from_micros(u64::try_from(micros.load(Ordering::SeqCst)).unwrap_or_default())
            }
        }
    }

    /// How long it takes until [`elapsed`](TimeSource::elapsed) is so much; `None` if nobody can know.
    pub(crate) fn wait_elapsed(&self, elapsed: Duration) -> Option<Duration> {
        let left = elapsed.saturating_sub(self.elapsed());
        (left.is_zero() || matches!(self, TimeSource::System)).then_some(left)
    }

    /// How long it takes until the clock shows `micros`; `None` if nobody can know.
    pub(crate) fn wait(&self, micros: i64) -> Option<Duration> {
        let left = micros.saturating_sub(self.now());
        match self {
            _ if left <= 0 => Some(Duration::ZERO),
            TimeSource::System => Some(Duration::from_micros(left.unsigned_abs())),
            TimeSource::Manual(_) => None,
        }
    }
}
