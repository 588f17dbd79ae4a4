//! What the engine says of itself: the rows of the system relations, the lines of the metrics.

use std::time::Duration;

use tidemill_core::Epoch;
use tidemill_plan::RelationId;

use crate::jobs::JobStatus;
use crate::metrics::HistogramCounts;

/// Everything that runs, at a moment.
#[derive(Debug, Clone, Default)]
pub struct EngineStatus {
    /// The last epoch that was sealed.
    pub epoch: Epoch,
    pub uptime: Duration,
    pub sources: Vec<SourceStatus>,
    pub tables: Vec<TableStatus>,
    pub pipelines: Vec<PipelineStatus>,
    pub sinks: Vec<SinkStatus>,
    /// Oldest first.
    pub jobs: Vec<JobStatus>,
    pub dead_letters: u64,
}

/// What something does at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A source that nothing reads.
    Idle,
    /// A pipeline that is being filled with what was there before it.
    Filling,
    Running,
    /// A source that has been read to its end.
    Finished,
    /// Somebody wants it to stand still; which of the objects that are tied to each other was paused.
    Paused(String),
    /// It has failed, why, and is about to begin again.
    Restarting(String),
    /// It does not run, and why.
    Failed(String),
}

impl State {
    /// In upper case, as system relations show it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Idle => "IDLE",
            State::Filling => "FILLING",
            State::Running => "RUNNING",
            State::Finished => "FINISHED",
            State::Paused(_) => "PAUSED",
            State::Restarting(_) => "RESTARTING",
            State::Failed(_) => "FAILED",
        }
    }

    /// What went wrong.
    pub fn error(&self) -> Option<&str> {
        match self {
            State::Failed(reason) | State::Restarting(reason) => Some(reason),
            _ => None,
        }
    }

    /// Why it stands still, whether something went wrong or not.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::Paused(reason) => Some(reason),
            _ => self.error(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct SourceStatus {
    pub id: RelationId,
    pub name: String,
    pub state: State,
    /// Since when it stands still, in microseconds since 1970.
    pub since: Option<i64>,
    pub rows: u64,
    pub bytes: u64,
    pub bad_records: u64,
    /// Microseconds since 1970 of event time.
    pub watermark: Option<i64>,
    pub splits: Vec<SplitStatus>,
    /// The last error that was retried.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone)]
pub struct SplitStatus {
    pub id: String,
    pub offset: String,
    pub is_finished: bool,
}

#[derive(Debug, Clone)]
pub struct TableStatus {
    pub id: RelationId,
    pub name: String,
    pub epoch: Epoch,
    pub rows: i64,
    pub state: StateSize,
    pub indexes: Vec<IndexStatus>,
}

/// What an index keeps that is used.
#[derive(Debug, Clone)]
pub struct IndexStatus {
    pub id: RelationId,
    pub name: String,
    pub state: StateSize,
}

/// How much some state is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Of which some may be about to cancel out.
    pub rows: u64,
    pub bytes: u64,
    /// Of these, in memory; the others are in files.
    pub heap_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct PipelineStatus {
    pub id: RelationId,
    pub name: String,
    pub state: State,
    /// Since when it stands still, in microseconds since 1970.
    pub since: Option<i64>,
    /// Which dataflow it belongs to.
    pub dataflow: u64,
    pub epoch: Epoch,
    /// The epoch of the last durable checkpoint.
    pub checkpoint_epoch: Epoch,
    pub steps: u64,
    pub rows_in: u64,
    pub rows_out: u64,
    pub late_rows: u64,
    pub state_bytes: u64,
    /// Bytes that its state takes in memory, and may take.
    pub memory_bytes: u64,
    pub memory_limit: u64,
    /// Why state over the limit cannot go to disk.
    pub memory_error: Option<String>,
    /// What its view keeps.
    pub view: Option<StateSize>,
    pub indexes: Vec<IndexStatus>,
    pub step_time: HistogramCounts,
    /// From the arrival of a row to its result being readable.
    pub latency: HistogramCounts,
    /// Rows that a fill has read so far, and of how many, where that is known.
    pub fill: Option<(u64, Option<u64>)>,
    pub operators: Vec<OperatorStatus>,
}

/// What an operator has done since the server started, and keeps.
#[derive(Debug, Clone)]
pub struct OperatorStatus {
    /// As [`ExplainedNode`](tidemill_plan::ExplainedNode) has it.
    pub id: String,
    pub display: String,
    /// What keeps its state from growing for ever.
    pub bound: &'static str,
    pub lanes: Vec<LaneStatus>,
}

/// One lane of an operator, or all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneStatus {
    pub steps: u64,
    pub rows_in: u64,
    pub rows_out: u64,
    pub nanos: u64,
    /// Rows of state, of which some may be about to cancel out.
    pub state_rows: u64,
    pub state_bytes: u64,
    /// Of these, in memory; the others are in files.
    pub state_heap_bytes: u64,
}

impl OperatorStatus {
    /// All lanes together.
    pub fn total(&self) -> LaneStatus {
        self.lanes.iter().fold(LaneStatus::default(), |total, lane| LaneStatus {
            steps: total.steps.max(lane.steps),
            rows_in: total.rows_in + lane.rows_in,
            rows_out: total.rows_out + lane.rows_out,
            nanos: total.nanos + lane.nanos,
            state_rows: total.state_rows + lane.state_rows,
            state_bytes: total.state_bytes + lane.state_bytes,
            state_heap_bytes: total.state_heap_bytes + lane.state_heap_bytes,
        })
    }
}

#[derive(Debug, Clone)]
pub struct SinkStatus {
    pub pipeline: PipelineStatus,
    pub rows_delivered: u64,
    /// Of these, what its destination does not take, and is among the dead letters.
    pub rows_refused: u64,
    pub rows_pending: u64,
    /// Of these, what is gathered until it is worth a file.
    pub rows_gathered: u64,
    /// Of what waits, in checkpoints.
    pub bytes_pending: u64,
    /// How long the oldest row has waited.
    pub pending_for: Option<Duration>,
    pub delivered_to: Epoch,
    pub retries: u64,
    pub last_error: Option<String>,
}
