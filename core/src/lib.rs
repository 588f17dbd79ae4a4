//! The vocabulary of Tidemill: what crosses the borders between its parts.
//!
//! Nothing here does I/O, waits on a clock or knows DataFusion. A [`Delta`] is what flows, an
//! [`Epoch`] is when, an [`Offset`](source::Offset) is from where; [`source`] and [`sink`] are the traits that
//! connectors implement and the engine drives.

pub mod byte_size;
mod crash;
mod delta;
pub mod diagnostic;
pub mod epoch;
pub mod sink;
pub mod source;
pub mod upkeep;

pub use byte_size::ByteSize;
pub use crash::{CRASH_POINTS, arm, crash_point};
pub use delta::{Delta, WEIGHT, delta_schema};
pub use diagnostic::{Diagnostic, SqlState, did_you_mean};
pub use epoch::Epoch;
pub use upkeep::{Emit, Ttl, Upkeep};

/// The metadata key under which a field keeps the name of its PostgreSQL type, where the Arrow type is shared: `jsonb` is text.
pub const PG_TYPE: &str = "tidemill.pg_type";
