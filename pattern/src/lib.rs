//! Row patterns: what `MATCH_RECOGNIZE` means, once for SELECT and for pipelines (SQL:2016, ISO/IEC 19075-5).
//!
//! A [`Matcher`] is made of a plan's [`MatchRecognize`]. A [`Scan`] runs it over the
//! [`Rows`] of a partition, one search after the other, and gives [`Sighting`]s, which the matcher
//! turns into columns. Rows may be read bit by bit: a search that has to know more says so, and is made again.
//!
//! [`MatchRecognizeExec`] is that over sorted batches, for a SELECT. The incremental operator is the engine's.

mod condition;
mod error;
mod exec;
mod matcher;
mod program;
mod rows;
mod scan;
mod show;
mod trail;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use tidemill_plan::MatchRecognize;

pub use error::Error;
pub use exec::{MatchRecognizeExec, MatchRecognizePlanner};
pub use matcher::{Attempt, Match, Matcher, Memory};
pub use rows::{Extent, Rows};
pub use scan::{Advance, Scan, Stand};
pub use show::{ShownRows, Sighting};

/// Whether a plan's pattern can be searched for at all.
pub fn check(plan: &MatchRecognize) -> Result<(), Error> {
    program::Program::new(&plan.pattern).map(|_| ())
}
