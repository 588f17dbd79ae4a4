//! Change: operators, steps, views, checkpoints, delivery.
//!
//! An [`Engine`] holds everything that runs. Sources and statements hand it rows, which the sealer makes
//! into epochs; dataflows take epochs as steps; readers take snapshots.

mod error;
pub mod metrics;
pub mod operators;
mod status;

mod dataflow;
pub mod dead_letters;
mod engine;
mod exec;
mod feed;
mod halt;
mod index;
mod ipc;
mod jobs;
mod key_ranges;
pub mod marks;
mod member;
mod memory;
mod name;
mod outbox;
mod sealer;
mod source;
mod table;
mod time;
mod view;
mod view_scan;

pub use engine::{
    Commit, Engine, EngineConfig, MemberSpec, ReadView, RefusedMember, Replaced, Replayed, Resumed, Sample,
    Sampled, SampledFrom, Stale, StandingView, Subscription,
};
pub use error::Error;
pub use halt::Pause;
pub use index::{IndexBuilds, IndexSpec};
pub use jobs::{CancelError, JobKind, JobState, JobStatus};
pub use key_ranges::is_looked_up;
pub use member::MemberHandle;
pub use name::Name;
pub use source::{SourceColumn, SourceSpec};
pub use status::{
    EngineStatus, IndexStatus, LaneStatus, OperatorStatus, PipelineStatus, SinkStatus, SourceStatus,
    SplitStatus, State, StateSize, TableStatus,
};
pub use table::{OnConflict, Savepoint, TableLock, TableSpec, TableWrite, Transaction, Written};
pub use time::TimeSource;
pub use view::ViewSnapshot;
pub use view_scan::{ViewTable, bind_plan, without_snapshots};
