//! Tidemill: how the parts meet.
//!
//! A [`Database`](database::Database) is a catalog, an engine and a planner over one data directory; a
//! [`Session`](session::Session) is one client's way into it; [`pgwire`] carries sessions over the
//! Postgres protocol.

pub mod database;
pub mod pgwire;
pub mod session;

mod names;
mod statements;
mod system;
