//! From SQL text to plans, purely.

mod delta;
mod functions;
mod naming;
mod planner;
mod refusal;
mod relations;
mod windows;

pub use delta::{DeltaError, Rewritten, rewrite};
pub use functions::scalar_functions;
pub use planner::{DATABASE, Names, Planner, QueryPlan, Resolved};
pub use refusal::Refusal;
pub use relations::{Relation, RelationTable, relation_of};
pub use windows::rewrite_windows;
