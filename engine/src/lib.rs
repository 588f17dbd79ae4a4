//! Change: operators, steps, views, checkpoints, delivery.

mod error;
pub mod operators;

pub use error::Error;
