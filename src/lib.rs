//! stub

pub mod pg_catalog;
pub mod pgwire;
pub mod session;
