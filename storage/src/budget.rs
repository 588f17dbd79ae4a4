//! How much memory some arrangements may take together, and where goes what exceeds it.
//!
//! What counts is the heap: what is in mapped files takes memory only as long as nothing else needs it. A run is
//! charged to the first budget that gets it, until nobody holds it any more, so snapshots that readers keep
//! count as well. A disk that takes no more does not stop anything: what does not fit stays in memory, and says so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::Error;
use crate::run_file::Scratch;

/// Runs shorter than this stay on the heap, whatever the limit: a file for each would cost more than it frees.
const FILE_BYTES_MIN: usize = 1 << 20;

/// For how long nothing is moved to a disk that has refused it.
const PAUSE: Duration = Duration::from_secs(5);

/// The memory of some arrangements.
#[derive(Debug)]
pub struct Budget {
    scratch: Arc<Scratch>,
    limit: AtomicUsize,
    used: AtomicUsize,
    /// When the disk refused to take more, and why.
    refused: Mutex<Option<(Instant, String)>>,
}

impl Budget {
    /// At most about `limit` bytes on the heap, and files in `scratch`.
    pub fn new(scratch: Arc<Scratch>, limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            scratch,
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            refused: Mutex::default(),
        })
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes on the heap.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Why memory over the limit cannot go to disk, if that is so: usually that it is full.
    pub fn refusal(&self) -> Option<String> {
        let refused = self.refused.lock().expect("nobody panics while holding it");
        refused.as_ref().map(|(_, reason)| reason.clone())
    }

    /// Notes whether the disk took a file.
    pub(crate) fn note(&self, outcome: Result<(), &Error>) {
        let mut refused = self.refused.lock().expect("nobody panics while holding it");
        *refused = match outcome {
            Ok(()) => None,
            Err(error) => {
                let reason = match std::error::Error::source(error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                if refused.is_none() {
                    tracing::error!(%reason, "state over the memory limit cannot be moved to disk");
                }
                Some((Instant::now(), reason))
            }
        };
    }

    fn is_paused(&self) -> bool {
        let refused = self.refused.lock().expect("nobody panics while holding it");
        refused.as_ref().is_some_and(|(since, _)| since.elapsed() < PAUSE)
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.used() > self.limit() && !self.is_paused()
    }

    /// Whether a new run of `n_bytes` beside what there is belongs into a file.
    pub(crate) fn goes_to_file(&self, n_bytes: usize) -> bool {
        n_bytes >= self.file_bytes_min() && self.used() + n_bytes > self.limit() && !self.is_paused()
    }

    /// From which length on runs are worth a file. A small budget has small files.
    pub(crate) fn file_bytes_min(&self) -> usize {
        FILE_BYTES_MIN.min(self.limit() / 16)
    }

    pub(crate) fn charge(self: &Arc<Budget>, n_bytes: usize) -> Charge {
        self.used.fetch_add(n_bytes, Ordering::Relaxed);
        Charge { budget: self.clone(), n_bytes }
    }
}

/// Memory that is taken from a budget until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    n_bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}
