//! The real server process, driven by real clients.
//!
//! One binary, so that DataFusion is linked once. Every test starts its own server on a directory of its
//! own; `server.rs` knows how. Set `TIDEMILL_TEST_LOG=1` to see what the servers write.

mod clients;
mod crash;
mod disk;
mod docs;
mod exactly_once;
mod fill;
mod flights;
mod golden;
mod indexes;
mod kafka;
mod lifecycle;
mod live;
mod memory;
mod migrations;
mod moments;
mod object_store;
mod postgres;
mod recovery;
mod security;
mod server;
mod slt;
mod soak;
mod sqltest;
mod statements;
mod wire;
