//! Text to statements to plans, purely: nothing here does I/O or knows what runs.
//!
//! [`parser::parse`] cuts a text into statements; [`statements`] has one file per kind, each with
//! its struct and its parse function. [`types`] maps PostgreSQL's type names to Arrow's.

mod error;
pub mod parser;
pub mod statements;
pub mod types;

pub use error::{Error, RelationNames};
