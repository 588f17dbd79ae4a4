//! Merging of runs, in the background where it is much.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use crate::run::{Run, RunBuilder};

/// A merge of neighbouring runs that goes on in the background.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Oldest first, as they stand in their arrangement.
    pub inputs: Vec<Arc<Run>>,
    outcome: Arc<(Mutex<Option<Arc<Run>>>, Condvar)>,
}

impl Merge {
    /// Starts to merge `inputs`.
    pub fn start(inputs: Vec<Arc<Run>>) -> Merge {
        let outcome = Arc::new((Mutex::new(None), Condvar::new()));
        let job = Job { inputs: inputs.clone(), outcome: outcome.clone() };
        compactor().send(job).expect("the compactor runs as long as the process");
        Merge { inputs, outcome }
    }

    /// The merged run, if it is there.
    pub fn poll(&self) -> Option<Arc<Run>> {
        self.outcome.0.lock().expect("no merge panics while it holds the lock").clone()
    }

    /// Waits for the merged run.
    pub fn wait(&self) -> Arc<Run> {
        let (outcome, finished) = &*self.outcome;
        let mut outcome = outcome.lock().expect("no merge panics while it holds the lock");
        loop {
            if let Some(run) = &*outcome {
                return run.clone();
            }
            outcome = finished.wait(outcome).expect("no merge panics while it holds the lock");
        }
    }
}

struct Job {
    inputs: Vec<Arc<Run>>,
    outcome: Arc<(Mutex<Option<Arc<Run>>>, Condvar)>,
}

/// One thread for the whole process: merging is sequential, memory-bound work, and more of it at
/// once would take cores and cache from the steps.
fn compactor() -> &'static Sender<Job> {
    static COMPACTOR: OnceLock<Sender<Job>> = OnceLock::new();
    COMPACTOR.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("compactor".into())
            .spawn(move || {
                for job in jobs {
                    let run = merge(&job.inputs);
                    *job.outcome.0.lock().expect("nobody panics while holding the lock") = Some(run);
                    job.outcome.1.notify_all();
                }
            })
            .expect("the system can start a thread");
        sender
    })
}

/// One run with the sums of the weights of all.
pub(crate) fn merge(runs: &[Arc<Run>]) -> Arc<Run> {
    match runs {
        [only] => only.clone(),
        [a, b] => merge_two(a, b),
        many => {
            // Pairs of neighbours, so that every row is copied log₂ n times.
            let (left, right) = many.split_at(many.len() / 2);
            merge_two(&merge(left), &merge(right))
        }
    }
}

fn merge_two(a: &Run, b: &Run) -> Arc<Run> {
    let n_bytes = a.size() + b.size();
    let mut builder = RunBuilder::with_capacity(a.len() + b.len(), n_bytes);
    let (mut a_idx, mut b_idx) = (0, 0);
    while a_idx < a.len() && b_idx < b.len() {
        match a.row(a_idx).cmp(b.row(b_idx)) {
            std::cmp::Ordering::Less => {
                builder.push(a.row(a_idx), a.weight(a_idx));
                a_idx += 1;
            }
            std::cmp::Ordering::Greater => {
                builder.push(b.row(b_idx), b.weight(b_idx));
                b_idx += 1;
            }
            std::cmp::Ordering::Equal => {
                builder.push(a.row(a_idx), a.weight(a_idx) + b.weight(b_idx));
                a_idx += 1;
                b_idx += 1;
            }
        }
    }
    for idx in a_idx..a.len() {
        builder.push(a.row(idx), a.weight(idx));
    }
    for idx in b_idx..b.len() {
        builder.push(b.row(idx), b.weight(idx));
    }
    builder.finish()
}
