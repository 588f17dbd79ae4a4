//! Jobs: what takes time, how far it is, and what became of it.
//!
//! A job is about a member: it is filled by CREATE, or takes in what it has missed while it stood still. Who runs the job keeps a
//! [`JobGuard`]; what is not said to be done has been given up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::member::MemberHandle;
use crate::time::TimeSource;

/// So many jobs that have ended are remembered.
const N_ENDED: usize = 100;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// A new pipeline or sink takes in what is there.
    Fill,
}

impl JobKind {
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Fill => "FILL",
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    Running,
    Done,
    Cancelled,
    Failed(String),
}

impl JobState {
    pub fn name(&self) -> &'static str {
        match self {
            JobState::Running => "RUNNING",
            JobState::Done => "DONE",
            JobState::Cancelled => "CANCELED",
            JobState::Failed(_) => "FAILED",
        }
    }

    pub fn error(&self) -> Option<&str> {
        match self {
            JobState::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

/// A job at a moment.
#[derive(Debug, Clone)]
pub struct JobStatus {
    pub id: u64,
    pub kind: JobKind,
    pub object: String,
    pub state: JobState,
    pub rows_done: u64,
    /// Where that is known.
    pub rows_total: Option<u64>,
    /// Microseconds since 1970.
    pub started: i64,
    pub ended: Option<i64>,
    /// When it will have ended if it goes on as until now.
    pub eta: Option<i64>,
}

#[derive(Debug)]
struct Job {
    id: u64,
    kind: JobKind,
    object: String,
    started: i64,
    progress: Progress,
    cancel: CancellationToken,
}

/// How far a job is: a member says so while it runs, and this is left of it.
#[derive(Debug)]
enum Progress {
    Of(Arc<MemberHandle>),
    Ended { state: JobState, rows_done: u64, rows_total: Option<u64>, ended: i64 },
}

/// All jobs of this life of the server.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    last_id: u64,
    jobs: VecDeque<Job>,
}

impl Jobs {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Begins a job, which `cancel` ends early.
    pub fn begin(
        self: &Arc<Jobs>,
        kind: JobKind,
        handle: &Arc<MemberHandle>,
        cancel: &CancellationToken,
    ) -> JobGuard {
        let mut queue = self.queue();
        queue.last_id += 1;
        let id = queue.last_id;
        queue.jobs.push_back(Job {
            id,
            kind,
            object: handle.name.to_string(),
            started: TimeSource::System.now(),
            progress: Progress::Of(handle.clone()),
            cancel: cancel.clone(),
        });
        let is_ended = |job: &Job| matches!(job.progress, Progress::Ended { .. });
        while queue.jobs.iter().filter(|job| is_ended(job)).count() > N_ENDED {
            let oldest = queue.jobs.iter().position(is_ended).expect("there are some");
            queue.jobs.remove(oldest);
        }
        JobGuard { jobs: self.clone(), id }
    }

    fn end(&self, id: u64, state: JobState) {
        let mut queue = self.queue();
        let Some(job) = queue.jobs.iter_mut().find(|job| job.id == id) else { return };
        if let Progress::Of(handle) = &job.progress {
            let (rows_done, rows_total) = rows(handle);
            job.progress = Progress::Ended { state, rows_done, rows_total, ended: TimeSource::System.now() };
        }
    }

    /// Ends a job early.
    pub fn cancel(&self, id: u64) -> Result<(), CancelError> {
        let queue = self.queue();
        let job = queue.jobs.iter().find(|job| job.id == id).ok_or(CancelError::Unknown)?;
        match &job.progress {
            Progress::Of(_) => {
                job.cancel.cancel();
                Ok(())
            }
            Progress::Ended { state, .. } => Err(CancelError::Ended(state.clone())),
        }
    }

    /// All of them, oldest first.
    pub fn status(&self) -> Vec<JobStatus> {
        let now = TimeSource::System.now();
        let status = |job: &Job| {
            let (state, (rows_done, rows_total), ended) = match &job.progress {
                Progress::Of(handle) => (JobState::Running, rows(handle), None),
                Progress::Ended { state, rows_done, rows_total, ended } => {
                    (state.clone(), (*rows_done, *rows_total), Some(*ended))
                }
            };
            let eta = rows_total.filter(|_| ended.is_none());
            let eta = eta.and_then(|total| eta_of(job.started, now, rows_done, total));
            let (id, kind, object, started) = (job.id, job.kind, job.object.clone(), job.started);
            JobStatus { id, kind, object, state, rows_done, rows_total, started, ended, eta }
        };
        self.queue().jobs.iter().map(status).collect()
    }
}

/// Why a job cannot be cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelError {
    Unknown,
    Ended(JobState),
}

fn rows(handle: &MemberHandle) -> (u64, Option<u64>) {
    (handle.metrics.fill_rows.get(), handle.metrics.fill_rows_total.get().copied())
}

/// When all rows will be in if they come as fast as until now.
fn eta_of(started: i64, now: i64, rows_done: u64, rows_total: u64) -> Option<i64> {
    if rows_done == 0 {
        return None;
    }
    let left = rows_total.saturating_sub(rows_done) as f64 / rows_done as f64;
    Some(now.saturating_add((left * now.saturating_sub(started).max(0) as f64) as i64))
}

/// A job that is under way. Dropped without a word, it has been given up.
#[derive(Debug)]
pub(crate) struct JobGuard {
    jobs: Arc<Jobs>,
    id: u64,
}

impl JobGuard {
    /// Notes what became of it.
    pub fn end<T>(self, outcome: &Result<T, Error>) {
        let state = match outcome {
            Ok(_) => JobState::Done,
            Err(Error::Cancelled) => JobState::Cancelled,
            Err(error) => JobState::Failed(error.to_string()),
        };
        self.jobs.end(self.id, state);
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        // Nothing, if it has been said how it ended.
        self.jobs.end(self.id, JobState::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use tidemill_core::Epoch;
    use tidemill_plan::RelationId;
    use tidemill_storage::{Budget, Root};

    use super::*;

    fn handle(name: &str) -> Arc<MemberHandle> {
        let directory = tempfile::tempdir().unwrap();
        let budget = Budget::new(Root::local(directory.path()).unwrap().scratch().unwrap(), 1 << 20);
        let schema = Arc::new(Schema::empty());
        Arc::new(MemberHandle::new(RelationId(1), &name.into(), schema, &budget, Epoch::ZERO))
    }

    #[test]
    fn results_are_kept_and_running_jobs_can_be_cancelled() {
        let jobs: Arc<Jobs> = Arc::default();
        let (first, second) = (handle("a"), handle("b"));
        let cancel = CancellationToken::new();
        let done = jobs.begin(JobKind::Fill, &first, &CancellationToken::new());
        let given_up = jobs.begin(JobKind::Fill, &second, &cancel);
        first.metrics.fill_rows_total.get_or_init(|| 10);
        first.metrics.fill_rows.add(10);
        done.end(&Ok(()));
        // What the member does later is another matter.
        first.metrics.fill_rows.add(90);
        jobs.cancel(2).unwrap();
        assert!(cancel.is_cancelled());
        assert_eq!(jobs.status()[1].state, JobState::Running, "until it has ended");
        drop(given_up);
        let status = jobs.status();
        assert_eq!(
            (&status[0].state, status[0].rows_done, status[0].rows_total),
            (&JobState::Done, 10, Some(10))
        );
        assert_eq!((status[1].id, &status[1].state, status[1].eta), (2, &JobState::Cancelled, None));
        assert_eq!(jobs.cancel(1), Err(CancelError::Ended(JobState::Done)));
        assert_eq!(jobs.cancel(3), Err(CancelError::Unknown));
        for _ in 0..300 {
            jobs.begin(JobKind::Fill, &first, &cancel).end::<()>(&Err(Error::ShuttingDown));
        }
        assert_eq!(jobs.status().len(), N_ENDED + 1);
        assert_eq!(jobs.status()[0].state.error(), Some("the server is shutting down"));
    }

    #[test]
    fn the_end_is_as_far_as_the_way_so_far_says() {
        assert_eq!(eta_of(0, 1000, 0, 100), None);
        assert_eq!(eta_of(0, 1000, 25, 100), Some(4000));
        assert_eq!(eta_of(0, 1000, 100, 100), Some(1000));
        assert_eq!(eta_of(0, 1000, 200, 100), Some(1000), "more came than was expected");
    }
}
