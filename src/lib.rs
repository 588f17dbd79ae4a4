//! Tidemill: how the parts meet.
//!
//! A [`Database`](database::Database) is a catalog, an engine and a planner over one data directory; a
//! [`Session`](session::Session) is one client's way into it; [`pgwire`] carries sessions over the
//! Postgres protocol; a [`Service`](server::Service) is all of that running in a process, as the command line
//! and the HTTP endpoints see it.

pub mod audit;
pub mod cli;
pub mod config;
pub mod database;
pub mod demo;
pub mod http;
pub mod pg_catalog;
pub mod pgwire;
pub mod secrets;
pub mod server;
pub mod session;
pub mod sqltest;

#[cfg(test)]
mod columns_oracle;
#[cfg(test)]
mod fault_oracle;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod index_oracle;
mod machine;
#[cfg(test)]
mod messages;
mod names;
#[cfg(test)]
mod oracle;
mod policies;
mod privileges;
mod row_filter;
mod sequences;
mod statements;
mod system;
#[cfg(test)]
mod time_oracle;
#[cfg(test)]
mod upkeep_oracle;
