//! stub

pub mod pgwire;
pub mod session;
