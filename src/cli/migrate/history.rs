//! What has been applied: a table in the database.
//!
//! ```sql
//! CREATE TABLE public.tidemill_migrations (
//!     version     text PRIMARY KEY,
//!     name        text NOT NULL,
//!     checksum    text NOT NULL,        -- SHA-256 of the file
//!     applied_at  timestamptz NOT NULL DEFAULT now(),
//!     applied_by  text NOT NULL,
//!     duration_ms bigint NOT NULL
//! )
//! ```

use tidemill_core::SqlState;
use tidemill_sql::parser::{quote, quote_literal};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::Failure;
use super::client_error;
use super::files::{Migration, order};
use crate::session::api::SqlError;

/// What has been applied, by number.
#[derive(Debug)]
pub struct History {
    /// Schema and name, quoted.
    pub table: String,
    pub applied: Vec<Applied>,
    is_there: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub version: String,
    pub name: String,
    pub checksum: String,
    pub at: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Applied,
    Pending,
    /// Applied, and the file is another one now.
    Changed,
    /// Applied, and there is no file.
    Missing,
}

/// A migration that is known, by its file or by having been applied.
#[derive(Debug, PartialEq, Eq)]
pub struct Known<'a> {
    pub version: &'a str,
    pub name: &'a str,
    pub state: State,
    pub applied_at: Option<&'a str>,
}

impl History {
    /// What has been applied. Without the table, nothing.
    pub async fn read(client: &Client, table: &str) -> Result<History, Failure> {
        let (schema, name) = split(table)?;
        let exists = format!(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = {} AND table_name = {}",
            quote_literal(&schema),
            quote_literal(&name)
        );
        let table = format!("{}.{}", quote(&schema), quote(&name));
        let mut applied = Vec::new();
        let is_there = !rows(client, &exists).await?.is_empty();
        if is_there {
            let sql = format!("SELECT version, name, checksum, applied_at FROM {table}");
            for row in rows(client, &sql).await? {
                let mut values = row.into_iter().map(Option::unwrap_or_default);
                let mut next = || values.next().unwrap_or_default();
                applied.push(Applied { version: next(), name: next(), checksum: next(), at: next() });
            }
        }
        applied.sort_by(|a, b| order(&a.version).cmp(&order(&b.version)));
        Ok(History { table, applied, is_there })
    }

    /// As [`read`](History::read), and the table is there from now on.
    pub async fn open(client: &Client, table: &str) -> Result<History, Failure> {
        let history = History::read(client, table).await?;
        if history.is_there {
            return Ok(history);
        }
        let (schema, _) = split(table)?;
        let exists =
            format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {}", quote_literal(&schema));
        if rows(client, &exists).await?.is_empty() {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quote(&schema));
            client.batch_execute(&sql).await.map_err(client_error)?;
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (
                 version text PRIMARY KEY,
                 name text NOT NULL,
                 checksum text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now(),
                 applied_by text NOT NULL,
                 duration_ms bigint NOT NULL
             )",
            history.table
        );
        client.batch_execute(&sql).await.map_err(client_error)?;
        Ok(history)
    }

    /// What was applied under a number.
    pub fn find(&self, version: &str) -> Option<&Applied> {
        self.applied.iter().find(|applied| order(&applied.version) == order(version))
    }

    /// Everything that is known, by number.
    pub fn states<'a>(&'a self, migrations: &'a [Migration]) -> Vec<Known<'a>> {
        let of_files = migrations.iter().map(|migration| {
            let applied = self.find(&migration.version);
            Known {
                version: &migration.version,
                name: &migration.name,
                state: match applied {
                    None => State::Pending,
                    Some(applied) if applied.checksum == migration.checksum => State::Applied,
                    Some(_) => State::Changed,
                },
                applied_at: applied.map(|applied| applied.at.as_str()),
            }
        });
        let is_missing = |applied: &&Applied| {
            !migrations.iter().any(|migration| order(&migration.version) == order(&applied.version))
        };
        let missing = self.applied.iter().filter(is_missing).map(|applied| Known {
            version: &applied.version,
            name: &applied.name,
            state: State::Missing,
            applied_at: Some(&applied.at),
        });
        let mut all: Vec<Known<'_>> = of_files.chain(missing).collect();
        all.sort_by(|a, b| order(a.version).cmp(&order(b.version)));
        all
    }

    /// The statement that writes down what has been applied.
    pub fn insert(&self, migration: &Migration, duration_ms: u128) -> String {
        format!(
            "INSERT INTO {} (version, name, checksum, applied_by, duration_ms) VALUES ({}, {}, {}, current_user, {duration_ms})",
            self.table,
            quote_literal(&migration.version),
            quote_literal(&migration.name),
            quote_literal(&migration.checksum)
        )
    }

    /// The statement that forgets it.
    pub fn delete(&self, version: &str) -> String {
        format!("DELETE FROM {} WHERE version = {}", self.table, quote_literal(version))
    }

    /// The statement that takes a file's checksum for the right one.
    pub fn update(&self, version: &str, checksum: &str) -> String {
        format!(
            "UPDATE {} SET checksum = {} WHERE version = {}",
            self.table,
            quote_literal(checksum),
            quote_literal(version)
        )
    }
}

/// Schema and name.
fn split(table: &str) -> Result<(String, String), Failure> {
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    if schema.is_empty() || name.is_empty() || name.contains('.') {
        let message = format!("\"{table}\" is no name of a table");
        return Err(Failure::Usage(
            SqlError::new(SqlState::INVALID_PARAMETER, message).with_hint("Write SCHEMA.NAME."),
        ));
    }
    Ok((schema.to_owned(), name.to_owned()))
}

/// The rows of a query, as text.
pub async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
    let messages = client.simple_query(sql).await.map_err(client_error)?;
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|idx| row.get(idx).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_schema_and_a_name() {
        assert_eq!(split("public.m").unwrap(), ("public".to_owned(), "m".to_owned()));
        assert_eq!(split("m").unwrap(), ("public".to_owned(), "m".to_owned()));
        for wrong in ["", ".m", "s.", "a.b.c"] {
            assert!(matches!(split(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn what_is_known_is_applied_or_waits_or_has_changed() {
        let part = super::super::files::Part {
            file: String::new(),
            text: String::new(),
            offset: 0,
            sql: String::new(),
            is_in_transaction: true,
        };
        let migration = |version: &str, checksum: &str| Migration {
            version: version.into(),
            name: "m".into(),
            up: part.clone(),
            down: None,
            checksum: checksum.into(),
        };
        let applied = |version: &str, checksum: &str| Applied {
            version: version.into(),
            name: "m".into(),
            checksum: checksum.into(),
            at: "now".into(),
        };
        let history = History {
            table: "t".into(),
            applied: vec![applied("1", "a"), applied("2", "b"), applied("5", "e")],
            is_there: true,
        };
        let migrations = [migration("001", "a"), migration("2", "x"), migration("10", "j")];
        let states: Vec<(&str, State)> =
            history.states(&migrations).iter().map(|known| (known.version, known.state)).collect();
        let expected =
            [("001", State::Applied), ("2", State::Changed), ("5", State::Missing), ("10", State::Pending)];
        assert_eq!(states, expected);
    }
}
