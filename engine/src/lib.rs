//! Change: operators, steps, views, checkpoints, delivery.

mod error;
pub(crate) mod exec;
pub mod operators;

pub use error::Error;
