//! The options of PostgreSQL.

use tidemill_core::sink::Delivery;

use crate::options::options;

options! {
    /// `WITH (connector = 'postgres', …)`
    pub struct PostgresSinkConfig {
        /// The server and the database, as `postgresql://user@host:5432/database`.
        "url" => url: String,
        /// The user's password, which `SHOW CREATE` does not show.
        "password" => password: Option<String>,
        /// The table to write to, as `table` or `schema.table`. Columns are matched by name.
        "table" => table: String,
        /// Whether to create the table, if there is none: with the sink's columns, and its key as primary key.
        "create_table" => create_table: bool = "false",
        /// `exactly_once` writes after each checkpoint, together with the epoch; `at_least_once` as soon as rows
        /// are there, and after a crash some of them again.
        "delivery" => delivery: Delivery = "exactly_once",
        /// With `FORMAT PLAIN`: drop retractions instead of refusing a query that makes them.
        "force_append_only" => force_append_only: bool = "false",
        /// The columns of the key, where the query does not tell; read by `CREATE SINK`.
        "primary_key" => primary_key: Option<String>,
    }
}
