//! Merging of runs, in the background where it is much.
//!
//! Whatever makes a run out of others decides where it goes: on the heap, or, where the budget does not
//! allow that, into a file.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use crate::Error;
use crate::arrangement::merge_all;
use crate::budget::Budget;
use crate::run::{Rows, Run, RunBuilder};
use crate::run_file::RunFileBuilder;

/// Merges of more bytes than this wait for each other, not the shorter ones for them.
const SHORT_BYTES_MAX: usize = 64 << 20;

/// A merge of neighbouring runs that goes on in the background. One run alone is moved into a file.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Oldest first, as they stand in their arrangement.
    pub inputs: Vec<Arc<Run>>,
    outcome: Arc<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    run: Mutex<Option<Arc<Run>>>,
    finished: Condvar,
}

impl Merge {
    /// Starts to merge `inputs`; into a file, if the budget has no room for the result.
    pub fn start(inputs: Vec<Arc<Run>>, budget: Option<Arc<Budget>>) -> Merge {
        let outcome = Arc::new(Outcome::default());
        let n_bytes: usize = inputs.iter().map(|run| run.size()).sum();
        let job = Job { inputs: inputs.clone(), budget, outcome: outcome.clone() };
        let compactor = &compactors()[usize::from(n_bytes > SHORT_BYTES_MAX)];
        compactor.send(job).expect("the compactor runs as long as the process");
        Merge { inputs, outcome }
    }

    /// The merged run, if it is there.
    pub fn poll(&self) -> Option<Arc<Run>> {
        self.outcome.run.lock().expect("no merge panics while it holds the lock").clone()
    }

    /// Waits for the merged run.
    pub fn wait(&self) -> Arc<Run> {
        let mut run = self.outcome.run.lock().expect("no merge panics while it holds the lock");
        loop {
            if let Some(run) = &*run {
                return run.clone();
            }
            run = self.outcome.finished.wait(run).expect("no merge panics while it holds the lock");
        }
    }
}

struct Job {
    inputs: Vec<Arc<Run>>,
    budget: Option<Arc<Budget>>,
    outcome: Arc<Outcome>,
}

impl Job {
    fn run(&self) -> Arc<Run> {
        if let Some(budget) = &self.budget {
            let n_bytes: usize = self.inputs.iter().map(|run| run.size()).sum();
            if self.inputs.len() == 1 || budget.goes_to_file(n_bytes) {
                let merged = merge_to_file(&self.inputs, budget);
                budget.note(merged.as_ref().map(drop));
                if let Ok(merged) = merged {
                    if let [only] = &self.inputs[..] {
                        // The same rows: a checkpoint that holds the one need not write the other.
                        merged.take_place_of(only);
                    }
                    return merged;
                }
            }
        }
        merge(&self.inputs)
    }
}

/// Two threads for the whole process, the second for long merges: merging is sequential, memory-bound work, and
/// more of it at once would take cores and cache from the steps.
fn compactors() -> &'static [Sender<Job>; 2] {
    static COMPACTORS: OnceLock<[Sender<Job>; 2]> = OnceLock::new();
    COMPACTORS.get_or_init(|| {
        ["compactor", "compactor-long"].map(|name| {
            let (sender, jobs) = channel::<Job>();
            let work = move || {
                for job in jobs {
                    let run = job.run();
                    *job.outcome.run.lock().expect("nobody panics while holding the lock") = Some(run);
                    job.outcome.finished.notify_all();
                }
            };
            std::thread::Builder::new().name(name.into()).spawn(work).expect("the system can start a thread");
            sender
        })
    })
}

/// One run with the sums of the weights of all, on the heap.
pub(crate) fn merge(runs: &[Arc<Run>]) -> Arc<Run> {
    let mut runs = runs.to_vec();
    loop {
        // Always the two shortest, as Huffman would: a long run among short ones is copied once, equal ones log₂ n times.
        runs.sort_by_key(|run| std::cmp::Reverse(run.len()));
        let a = runs.pop().expect("there is at least one");
        let Some(b) = runs.pop() else { return a };
        let mut builder = RunBuilder::with_capacity(a.len() + b.len(), a.n_row_bytes() + b.n_row_bytes());
        merge_two(&a, &b, &mut builder);
        runs.push(builder.finish());
    }
}

/// The same in a file, read and written once.
fn merge_to_file(runs: &[Arc<Run>], budget: &Budget) -> Result<Arc<Run>, Error> {
    let n_rows = runs.iter().map(|run| run.len()).sum();
    let n_bytes = runs.iter().map(|run| run.n_row_bytes()).sum();
    let mut builder = RunFileBuilder::new(budget.scratch(), n_rows, n_bytes, Run::n_shared_by(runs))?;
    match runs {
        [only] => (0..only.len()).for_each(|idx| builder.push(only.row(idx), only.weight(idx))),
        [a, b] => merge_two(a, b, &mut builder),
        many => merge_all(many, |row, weight| builder.push(row, weight)),
    }
    builder.finish()
}

fn merge_two(a: &Run, b: &Run, out: &mut impl Rows) {
    let (mut a_idx, mut b_idx) = (0, 0);
    while a_idx < a.len() && b_idx < b.len() {
        match a.row(a_idx).cmp(b.row(b_idx)) {
            std::cmp::Ordering::Less => {
                out.push(a.row(a_idx), a.weight(a_idx));
                a_idx += 1;
            }
            std::cmp::Ordering::Greater => {
                out.push(b.row(b_idx), b.weight(b_idx));
                b_idx += 1;
            }
            std::cmp::Ordering::Equal => {
                out.push(a.row(a_idx), a.weight(a_idx) + b.weight(b_idx));
                a_idx += 1;
                b_idx += 1;
            }
        }
    }
    for idx in a_idx..a.len() {
        out.push(a.row(idx), a.weight(idx));
    }
    for idx in b_idx..b.len() {
        out.push(b.row(idx), b.weight(idx));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_runs_are_their_sum_whatever_their_lengths() {
        let run = |from: u32, to: u32, weight: i64| {
            let mut builder = RunBuilder::with_capacity(0, 0);
            (from..to).for_each(|n| builder.push(&n.to_be_bytes(), weight));
            builder.finish()
        };
        let all = |run: &Run| -> Vec<(Vec<u8>, i64)> {
            (0..run.len()).map(|idx| (run.row(idx).to_vec(), run.weight(idx))).collect()
        };
        let runs = [run(0, 1000, 1), run(500, 510, -1), run(0, 0, 1), run(100, 300, 2), run(505, 508, 1)];
        for n in 1..=runs.len() {
            let mut expected = Vec::new();
            merge_all(&runs[..n], |row, weight| expected.push((row.to_vec(), weight)));
            assert_eq!(all(&merge(&runs[..n])), expected);
        }
        assert!(merge(&[run(0, 9, 1), run(0, 9, -1)]).is_empty());
        assert!(merge(&[run(0, 9, 2), run(0, 9, -1)]).is_insertions());
    }
}
