//! Text to statements to plans, purely: nothing here does I/O or knows what runs.
//!
//! [`parser::parse`] cuts a text into statements; [`statements`] has one file per kind, each with
//! its struct and its parse function. [`types`] maps PostgreSQL's type names to Arrow's. [`Planner`] makes
//! plans of queries; for a pipeline, [`rewrite`] turns a plan over relations into one over their changes.

pub mod json;
pub mod parser;
pub mod statements;
pub mod types;
pub mod upkeep;
pub mod visit;

mod error;

mod delta;
mod first_rows;
mod functions;
mod lateral;
mod match_recognize;
mod meaning;
mod misread;
mod named_windows;
mod naming;
mod planner;
mod postgres;
mod refusal;
mod relations;
mod set_operations;
mod subqueries;
mod tie_break;
mod time_joins;
mod value_order;
mod windows;

pub use delta::{DeltaError, Rewritten, rewrite};
pub use error::{Error, RelationNames};
pub use functions::scalar_functions;
pub use naming::{column_name, name_columns};
pub use planner::{DATABASE, Names, Planner, QueryPlan, Resolved};
pub use postgres::{ArrowText, TextFormat, set_functions};
pub use refusal::Refusal;
pub use relations::{Relation, RelationTable, relation_of};
pub use time_joins::Versions;
pub use value_order::with_value_order;
pub use windows::rewrite_windows;
