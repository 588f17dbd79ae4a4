//! How the parts meet: configuration, sessions, the wire, HTTP, and the command line.

pub mod cli;
pub mod config;
pub mod demo;
pub mod http;
pub mod pgwire;
pub mod server;
pub mod session;
