//! What survives: runs of sorted rows, arrangements made of them, manifests that name them, and
//! the log that tables append to.
//!
//! All durable things hang from one [`Root`], an object store under a prefix: a local directory, or S3. Objects are
//! written once and never changed; what changes is a [`VersionedObject`], whose next version is created
//! only where it does not exist yet, which is compare-and-swap on every store. Why several servers on one
//! root do no harm stands in `claim.rs`.

mod arrangement;
mod backup;
mod budget;
mod check;
mod checkpoint;
mod claim;
mod compactor;
mod error;
mod layout;
mod log;
mod object_log;
mod root;
mod run;
mod run_file;
mod s3;
#[cfg(test)]
mod testing;
mod versioned;

pub use arrangement::{Arrangement, Cursor, Snapshot, sort_rows};
pub use backup::{Copied, copy};
pub use budget::Budget;
pub use check::{Checked, check};
pub use checkpoint::{Checkpoint, CheckpointStats, CheckpointStore, remove_all};
pub use error::Error;
pub use layout::{Layout, SortColumn};
pub use log::{Log, LogRecord};
pub use root::{Root, RootOptions};
pub use run::{Run, RunBuilder, RunId};
pub use run_file::Scratch;
pub use versioned::VersionedObject;
