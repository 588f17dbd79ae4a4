//! The table at the destination: what it must be like, and the statements that write to it.

use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState, did_you_mean};
use tokio_postgres::Client;

use crate::postgres::client::{Server, quote};
use crate::postgres::copy::pg_type;

/// The table of all sinks' epochs, in the schema of the table that is written to.
pub const PROGRESS: &str = "tidemill_progress";

/// Rows that wait to be applied, in a table of the connection's own.
pub const STAGE: &str = "tidemill_stage";

/// A table to write to, as the sink declares it.
#[derive(Debug, Clone)]
pub struct Table {
    /// As users write it.
    pub name: String,
    schema: Option<String>,
    table: String,
    columns: SchemaRef,
    /// Places of columns; empty for a table that only grows.
    key: Vec<usize>,
}

/// A column that the table has.
struct Found {
    name: String,
    pg_type: String,
    /// Neither nullable nor with a value of its own.
    is_needed: bool,
    is_generated: bool,
    /// Whether values of the sink's type can be written to it; `None` if the sink has no such column.
    takes: Option<bool>,
    /// The type without what its modifier says.
    base_type: String,
    modifier: i32,
}

impl Found {
    /// Whether the column keeps less of a value than the sink has, and PostgreSQL would not say so.
    fn rounds(&self, ours: &DataType) -> bool {
        if let DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) =
            ours
        {
            return self.rounds(element.data_type());
        }
        let theirs = self.base_type.trim_end_matches("[]");
        let is_double = theirs == "double precision";
        match (ours, theirs) {
            (DataType::Dictionary(_, values), _) => self.rounds(values),
            (_, "name" | "\"char\"") => true,
            (DataType::Int64 | DataType::UInt32 | DataType::UInt64, "real" | "double precision") => true,
            (DataType::Int32, "real" | "double precision") => !is_double,
            (DataType::Float64, "real") => true,
            (DataType::Float32 | DataType::Float64, "smallint" | "integer" | "bigint" | "numeric") => true,
            (
                DataType::Decimal32(_, scale)
                | DataType::Decimal64(_, scale)
                | DataType::Decimal128(_, scale)
                | DataType::Decimal256(_, scale),
                _,
            ) => match theirs {
                "numeric" => numeric_scale(self.modifier).is_some_and(|kept| kept < i32::from(*scale)),
                "real" | "double precision" => true,
                _ => false,
            },
            (ours, "numeric") if ours.is_integer() => {
                numeric_scale(self.modifier).is_some_and(|kept| kept < 0)
            }
            // Seconds and parts of them, down to microseconds.
            (DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_), _) => {
                theirs.starts_with("time") && (0..6).contains(&self.modifier)
            }
            (DataType::Interval(_) | DataType::Duration(_), "interval") => {
                let (fields, digits) = ((self.modifier >> 16) & 0x7fff, self.modifier & 0xffff);
                self.modifier >= 0 && (fields != 0x7fff || digits < 6)
            }
            _ => false,
        }
    }
}

/// The digits behind the point that a `numeric(p, s)` keeps, by its modifier; `None` if it keeps all.
fn numeric_scale(modifier: i32) -> Option<i32> {
    // Eleven bits with a sign, behind the length of a header.
    (modifier >= 4).then(|| (((modifier - 4) & 0x7ff) ^ 0x400) - 0x400)
}

impl Table {
    pub fn new(name: &str, columns: SchemaRef, key: &[usize]) -> Result<Table, ConnectorError> {
        let parts: Vec<String> = name.split('.').map(unquote).collect();
        let (schema, table) = match parts.as_slice() {
            [table] => (None, table.clone()),
            [schema, table] => (Some(schema.clone()), table.clone()),
            _ => {
                let message = format!("option \"table\" of connector \"postgres\" cannot be \"{name}\"");
                return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                    .with_hint("Expected table or schema.table."));
            }
        };
        Ok(Table { name: name.to_string(), schema, table, columns, key: key.to_vec() })
    }

    /// In SQL.
    fn quoted(&self, table: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(table)),
            None => quote(table),
        }
    }

    fn column_names(&self) -> Vec<String> {
        self.columns.fields().iter().map(|field| quote(field.name())).collect()
    }

    fn key_names(&self) -> Vec<String> {
        self.key.iter().map(|idx| quote(self.columns.field(*idx).name())).collect()
    }

    /// The statement that makes a table for the sink.
    fn definition(&self) -> String {
        let column = |(idx, field): (usize, &arrow::datatypes::FieldRef)| {
            let not_null = if self.key.contains(&idx) || !field.is_nullable() { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", quote(field.name()), pg_type(field))
        };
        let mut parts: Vec<String> = self.columns.fields().iter().enumerate().map(column).collect();
        if !self.key.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", self.key_names().join(", ")));
        }
        format!("CREATE TABLE {} ({})", self.quoted(&self.table), parts.join(", "))
    }

    /// Whether rows can be written to it, or what is wrong. Creates it where there is none and `create` says so.
    pub async fn check(&self, client: &Client, server: &Server, create: bool) -> Result<(), ConnectorError> {
        let failed = |error| server.error("look at a table of", &error);
        let quoted = self.quoted(&self.table);
        let sql = "SELECT to_regclass($1)::oid";
        let oid: Option<u32> = client.query_one(sql, &[&quoted]).await.map_err(failed)?.get(0);
        let Some(oid) = oid else {
            if create {
                let created = client.batch_execute(&self.definition()).await;
                return created.map_err(|error| server.error("create a table of", &error));
            }
            return Err(self.missing(client, server).await);
        };
        let columns = self.found(client, server, oid).await?;
        self.check_columns(&columns)?;
        if self.key.is_empty() { Ok(()) } else { self.check_key(client, server, oid).await }
    }

    async fn missing(&self, client: &Client, server: &Server) -> ConnectorError {
        let message = format!("table \"{}\" does not exist at \"{}\"", self.name, server.name);
        let error = ConnectorError::fatal(SqlState::UNDEFINED_TABLE, message);
        let sql = "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p') \
                   AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)";
        let rows = client.query(sql, &[]).await.unwrap_or_default();
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let create = format!("create_table = 'true' creates it: {}", self.definition());
        match did_you_mean(&self.name, names.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\". Or {create}")),
            None => error.with_hint(format!("Option {create}")),
        }
    }

    async fn found(&self, client: &Client, server: &Server, oid: u32) -> Result<Vec<Found>, ConnectorError> {
        let names: Vec<&str> = self.columns.fields().iter().map(|field| field.name().as_str()).collect();
        let types: Vec<String> = self.columns.fields().iter().map(|field| pg_type(field)).collect();
        // Text is parsed by the column's type, so what text can mean there is taken; of other types, what loses nothing.
        let sql = "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), \
                a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '', \
                a.attgenerated <> '' OR a.attidentity = 'a', \
                ours.type = a.atttypid \
                OR ours.type = 'text'::regtype AND (t.typcategory IN ('S', 'E', 'I') OR t.typcategory = 'U' AND t.oid <> 'bytea'::regtype) \
                OR ours.type IN ('json'::regtype, 'jsonb'::regtype) AND (t.typcategory = 'S' OR t.oid IN ('json'::regtype, 'jsonb'::regtype)) \
                OR ours.type = 'uuid'::regtype AND t.typcategory = 'S' \
                OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast c WHERE c.castsource = ours.type AND c.casttarget = a.atttypid AND c.castcontext = 'i'), \
                pg_catalog.format_type(a.atttypid, NULL), a.atttypmod \
            FROM pg_catalog.pg_attribute a \
            JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
            LEFT JOIN (SELECT n.name, pg_catalog.to_regtype(n.type)::oid AS type FROM unnest($2::text[], $3::text[]) AS n(name, type)) AS ours \
                ON ours.name = a.attname \
            WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        // A type with its modifier is no type's name.
        let types: Vec<&str> = types.iter().map(|name| name.split('(').next().unwrap_or(name)).collect();
        let rows = client.query(sql, &[&oid, &names, &types]).await;
        let rows = rows.map_err(|error| server.error("look at a table of", &error))?;
        let found = |row: &tokio_postgres::Row| Found {
            name: row.get(0),
            pg_type: row.get(1),
            is_needed: row.get(2),
            is_generated: row.get(3),
            takes: row.get(4),
            base_type: row.get(5),
            modifier: row.get(6),
        };
        Ok(rows.iter().map(found).collect())
    }

    fn check_columns(&self, found: &[Found]) -> Result<(), ConnectorError> {
        let table = &self.name;
        for field in self.columns.fields() {
            let name = field.name();
            let Some(column) = found.iter().find(|column| column.name == *name) else {
                let message = format!("table \"{table}\" has no column \"{name}\"");
                let near = did_you_mean(name, found.iter().map(|column| column.name.as_str()));
                let add = format!(
                    "ALTER TABLE {} ADD COLUMN {} {}",
                    self.quoted(&self.table),
                    quote(name),
                    pg_type(field)
                );
                let hint = match near {
                    Some(near) => format!("Perhaps you meant \"{near}\": name it so in the query. Or {add}"),
                    None => format!("To add it: {add}"),
                };
                return Err(ConnectorError::fatal(SqlState::UNDEFINED_COLUMN, message).with_hint(hint));
            };
            if column.is_generated {
                let message =
                    format!("column \"{name}\" of table \"{table}\" is generated, and cannot be written");
                return Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message)
                    .with_hint("Leave the column out of the query."));
            }
            let rounds = column.rounds(field.data_type());
            if column.takes != Some(true) || rounds {
                let (ours, theirs) = (shown_type(field), &column.pg_type);
                let mut message =
                    format!("column \"{name}\" is {ours}, but that of table \"{table}\" is {theirs}");
                if rounds {
                    message += ", which would round or cut values silently";
                }
                return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message).with_hint(format!(
                    "Cast it in the query: CAST({} AS {theirs}). Or ALTER TABLE {} ALTER COLUMN {} TYPE {ours}",
                    quote(name),
                    self.quoted(&self.table),
                    quote(name)
                )));
            }
        }
        let ours = |column: &&Found| self.columns.field_with_name(&column.name).is_ok();
        if let Some(column) = found.iter().find(|column| column.is_needed && !ours(column)) {
            let name = &column.name;
            let message = format!(
                "table \"{table}\" needs a value for column \"{name}\", which the sink does not have"
            );
            return Err(ConnectorError::fatal(SqlState::NOT_NULL_VIOLATION, message)
                .with_hint("Add the column to the query, or give it a default in the table."));
        }
        Ok(())
    }

    async fn check_key(&self, client: &Client, server: &Server, oid: u32) -> Result<(), ConnectorError> {
        let sql = "SELECT array_agg(a.attname::text ORDER BY a.attname::text) FROM pg_catalog.pg_index i \
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) \
            WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
            GROUP BY i.indexrelid";
        let rows = client.query(sql, &[&oid]).await;
        let rows = rows.map_err(|error| server.error("look at a table of", &error))?;
        let mut key: Vec<String> =
            self.key.iter().map(|idx| self.columns.field(*idx).name().clone()).collect();
        key.sort();
        if rows.iter().any(|row| row.get::<_, Vec<String>>(0) == key) {
            return Ok(());
        }
        let names = self.key_names().join(", ");
        let message = format!("table \"{}\" has no unique key of the sink's key ({names})", self.name);
        let add = format!("ALTER TABLE {} ADD PRIMARY KEY ({names})", self.quoted(&self.table));
        Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message).with_hint(format!(
            "To add it: {add}. Or name another key of the query with primary_key = '…' in WITH."
        )))
    }

    /// Makes the connection ready to write, and gives the epoch that the sink has reached.
    pub async fn prepare(
        &self,
        client: &Client,
        server: &Server,
        sink: &str,
    ) -> Result<Epoch, ConnectorError> {
        let failed = |error| server.error("look up the epoch at", &error);
        let progress = self.quoted(PROGRESS);
        let exists: bool = client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&progress])
            .await
            .map_err(failed)?
            .get(0);
        if !exists {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {progress} (sink text PRIMARY KEY, epoch bigint NOT NULL, \
                 written_at timestamptz NOT NULL DEFAULT now())"
            );
            client.batch_execute(&create).await.map_err(|error| {
                let error = server.error("create the table of epochs at", &error);
                match error.sqlstate {
                    SqlState::INVALID_AUTHORIZATION => error.with_hint(format!(
                        "Let somebody run: {create}; and GRANT SELECT, INSERT, UPDATE on it. \
                         Or use delivery = 'at_least_once'."
                    )),
                    _ => error,
                }
            })?;
        }
        let begin = format!("INSERT INTO {progress} (sink, epoch) VALUES ($1, 0) ON CONFLICT DO NOTHING");
        client.execute(&begin, &[&sink]).await.map_err(failed)?;
        let look = format!("SELECT epoch FROM {progress} WHERE sink = $1");
        let epoch: i64 = client.query_one(&look, &[&sink]).await.map_err(failed)?.get(0);
        Ok(Epoch(epoch as u64))
    }

    /// Moves the sink's epoch on, if it is still where this writer has left it.
    pub async fn advance(
        &self,
        client: &Client,
        sink: &str,
        from: Epoch,
        to: Epoch,
    ) -> Result<bool, tokio_postgres::Error> {
        let sql = format!(
            "UPDATE {} SET epoch = $2, written_at = now() WHERE sink = $1 AND epoch = $3",
            self.quoted(PROGRESS)
        );
        Ok(client.execute(&sql, &[&sink, &(to.0 as i64), &(from.0 as i64)]).await? == 1)
    }

    /// Makes the place where changes wait, if they do: a table that only grows is written at once.
    pub async fn prepare_stage(&self, client: &Client, server: &Server) -> Result<(), ConnectorError> {
        if self.key.is_empty() {
            return Ok(());
        }
        // Of the types of the destination, but with NULLs: a deletion has no more than its key.
        let sql = format!(
            "CREATE TEMPORARY TABLE {STAGE} ON COMMIT DELETE ROWS AS \
             SELECT 0::bigint AS \"tidemill place\", false AS \"tidemill deleted\", {} FROM {} WITH NO DATA",
            self.column_names().join(", "),
            self.quoted(&self.table)
        );
        client.batch_execute(&sql).await.map_err(|error| server.error("prepare to write to", &error))
    }

    /// The statement that takes the rows.
    pub fn copy(&self) -> String {
        let columns = self.column_names().join(", ");
        match self.key.is_empty() {
            true => format!("COPY {} ({columns}) FROM STDIN", self.quoted(&self.table)),
            false => format!("COPY {STAGE} (\"tidemill place\", \"tidemill deleted\", {columns}) FROM STDIN"),
        }
    }

    /// The statements that apply what is staged: of each key the last change.
    pub fn apply(&self) -> Option<String> {
        if self.key.is_empty() {
            return None;
        }
        let (table, key) = (self.quoted(&self.table), self.key_names());
        let columns = self.column_names();
        let last = format!(
            "(SELECT DISTINCT ON ({key}) * FROM {STAGE} ORDER BY {key}, \"tidemill place\" DESC) AS last",
            key = key.join(", ")
        );
        let is_same: Vec<String> = key.iter().map(|name| format!("old.{name} = last.{name}")).collect();
        let others: Vec<&String> = columns.iter().filter(|name| !key.contains(name)).collect();
        let update = match others.as_slice() {
            [] => "NOTHING".to_string(),
            others => {
                let set: Vec<String> =
                    others.iter().map(|name| format!("{name} = excluded.{name}")).collect();
                format!("UPDATE SET {}", set.join(", "))
            }
        };
        Some(format!(
            "DELETE FROM {table} AS old USING {last} WHERE last.\"tidemill deleted\" AND {is_same}; \
             INSERT INTO {table} ({columns}) SELECT {columns} FROM {last} WHERE NOT last.\"tidemill deleted\" \
             ON CONFLICT ({key}) DO {update}",
            is_same = is_same.join(" AND "),
            columns = columns.join(", "),
            key = key.join(", "),
        ))
    }
}

/// A column's type as messages show it, with the digits of a number.
fn shown_type(field: &Field) -> String {
    match (field.data_type(), pg_type(field).as_str()) {
        (DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale), "numeric") => {
            format!("numeric({precision},{scale})")
        }
        (_, name) => name.to_string(),
    }
}

/// A name as users write it: folded to lower case, unless it is quoted.
fn unquote(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => name.to_lowercase(),
    }
}
