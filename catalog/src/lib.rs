//! Names, definitions, dependencies, and who may do what; nothing of how anything runs.
//!
//! A [`Catalog`] is a value: cloning it clones a few `Arc`s, and a change makes a new one with the
//! next version. Whoever holds a clone reads a snapshot that no change can reach. The catalog does
//! no I/O: [`Catalog::to_bytes`] and [`Catalog::from_bytes`] are its durable form, and where the
//! bytes are kept, and who may replace them, is decided outside.
//!
//! Objects refer to each other by OID, never by name, so that renaming breaks no reference. An OID
//! is given once, in the whole life of the database: what survives outside the catalog (state,
//! offsets, checkpoints) is found by it, and must not be mistaken for that of a successor.

mod access;
mod catalog;
mod data_type;
mod definition;
mod document;
mod error;
mod object;
mod policy;
mod tables;

pub use access::{
    AclItem, BOOTSTRAP, CREATE_SUBSCRIPTION, DefaultOn, DefaultPrivileges, Grant, MONITOR, Membership,
    Privilege, READ_ALL_DATA, READ_SERVER_FILES, Role, Target, Verifier, WRITE_SERVER_FILES,
};
pub use catalog::{Catalog, Created, FIRST_OID, NewObject, OnConflict, PUBLIC, Schema};
pub use definition::{
    Definition, Include, OptionValue, Options, OwnedBy, PipelineDefinition, SecretDefinition,
    SequenceDefinition, SinkDefinition, SinkInput, SourceDefinition, TableDefinition, ViewDefinition,
    Watermark,
};
pub use document::{FORMAT, Unsettled};
pub use error::{Dependent, Error, Near};
pub use object::{Column, Identity, Index, Kind, Object, Oid};
pub use policy::{Policy, PolicyCommand, RowSecurity};
pub use tables::AlteredTable;
