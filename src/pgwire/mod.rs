//! The Postgres wire protocol, served.
//!
//! Messages are decoded and encoded by the `pgwire` crate; the flow of a connection is ours, since
//! that crate's own buffers whole results, flushes late, and hears neither a cancel request nor a
//! closed socket while rows stream. Here a connection is one task that owns its session, its
//! prepared statements and its portals. Whatever it waits for, it waits for through
//! `connection::Inbound::race`, which also watches the cancel token, the statement's deadline and
//! the socket.
//!
//! ```text
//! socket → Inbound → simple | extended → SessionApi → RecordBatch stream
//! socket ← Outbound ← encode (one resolved writer per column and batch) ←┘
//! ```
//!
//! Rows leave when 64 KiB of them wait, or when the stream has none ready: a subscription's rows
//! are seen at once, a big result costs few system calls.

pub mod connection;
pub mod copy;
pub mod decode;
pub mod encode;
pub mod error;
mod extended;
pub mod scram;
pub mod server;
mod simple;
mod startup;
pub mod text_format;
mod throttle;
pub mod tls;
mod transfer;
pub mod types;

#[cfg(test)]
mod tests;

pub use server::{Server, ServerConfig};
