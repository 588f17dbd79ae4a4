//! The outside: bytes, offsets, formats, delivery.
//!
//! A connector is a folder with the same file names everywhere (`docs.md`, `config.rs`,
//! `source.rs`, `sink.rs`) and a line in the `registry`. It implements the border traits of
//! `tidemill_core::source` and `tidemill_core::sink` and knows nothing of SQL, operators or
//! checkpoints: it is given what a statement declared ([`SourceSpec`], [`SinkSpec`]), and asked to
//! read from an offset or to write a batch.
//!
//! ```text
//! bytes ─▶ Record (key, value, offset) ─▶ formats::Decoder ─▶ Changes + bad records
//! SinkBatch ─▶ formats::changelog ─▶ rows or messages ─▶ bytes
//! ```
//!
//! What every source must do is written down as a suite of checks, [`conformance`].

mod options;
mod spec;

mod formats;

pub mod blackhole;
pub mod file;
pub mod generator;
pub mod kafka;
pub mod postgres;
pub mod print;
pub mod stand_in;

mod registry;

pub mod conformance;

#[cfg(test)]
mod declared;

pub use options::{OptionDoc, take_duration};
pub use registry::{
    ConnectorInfo, EncodingInfo, connectors, create_sink, create_source, encodings, source_columns,
    validate_sink, validate_source,
};
pub use spec::{Encode, Format, IncludeColumn, IncludeKind, SinkSpec, SourceSpec};
