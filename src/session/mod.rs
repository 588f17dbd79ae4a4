//! A client's session: what it said, what it may see, what runs for it.

pub mod api;
