//! `COPY … TO STDOUT`, `COPY … FROM STDIN`.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use futures::future::BoxFuture;
use tidemill_catalog::{Object, Privilege};
use tidemill_engine::{OnConflict, TableWrite, Transaction};
use tidemill_plan::RelationId;
use tidemill_sql::parser::{parse_query, quote};
use tidemill_sql::statements::{Copied, CopyDirection, CopyFormat, CopyOptions, CopyRows, ForceQuote};

use super::{dml, engine_error, query};
use crate::database::Database;
use crate::pgwire::copy as wire;
use crate::policies;
use crate::session::api::{CopyInSink, Response, SqlError};
use crate::session::{Call, Session};

pub async fn run(session: &mut Session, copy: &CopyRows, call: &Call<'_>) -> Result<Response, SqlError> {
    let options = wire_options(&copy.options);
    options.validate()?;
    match (copy.direction, &copy.what) {
        (CopyDirection::ToStdout, Copied::Query { query, .. }) => {
            let (_, rows) = query::stream(session, query, call.sql, call.params.clone()).await?;
            Ok(Response::CopyOut { rows, options })
        }
        (CopyDirection::ToStdout, Copied::Relation { name, columns }) => {
            let columns: Vec<String> = columns.iter().map(|column| quote(&column.value)).collect();
            let columns = if columns.is_empty() { "*".into() } else { columns.join(", ") };
            let schema =
                name.schema.as_ref().map_or_else(String::new, |schema| format!("{}.", quote(schema)));
            let sql = format!("SELECT {columns} FROM {schema}{}", quote(&name.name));
            let parsed = parse_query(&sql)?;
            let (_, rows) = query::stream(session, &parsed, call.sql, Vec::new()).await?;
            Ok(Response::CopyOut { rows, options })
        }
        (CopyDirection::FromStdin, Copied::Relation { name, columns }) => {
            let table = dml::target(session, name, "copy into", &[Privilege::Insert])?;
            policies::refuse(session, &table, "COPY FROM", "Use INSERT statements instead.")?;
            let columns = dml::target_columns(&table, columns)?;
            let all = table.arrow_schema();
            let schema = Arc::new(Schema::new(
                columns
                    .iter()
                    .map(|column| all.field(*column).clone().with_nullable(true))
                    .collect::<Vec<_>>(),
            ));
            // Its statement ends in another task's hands, so it writes as a session of its own.
            let mut writer = Session::new(session.database.clone(), session.user().to_owned());
            writer.borrowed_catalog = Some(session.catalog());
            let block = session.is_in_block().then(|| session.block.writes.clone());
            if block.is_none() {
                session.pinned = None;
                // What it will have written is to be seen by what the session reads next.
                session.has_copied = true;
            }
            let sink = TableCopy { writer, block, table, columns, batches: Vec::new() };
            Ok(Response::CopyIn { schema, options, sink: Box::new(sink) })
        }
        (CopyDirection::FromStdin, Copied::Query { .. }) => {
            Err(super::unsupported("COPY (query) FROM STDIN").with_hint("Name a table."))
        }
    }
}

/// Gathers what a client sends, and writes all of it at once.
struct TableCopy {
    writer: Session,
    /// The transaction that it is part of.
    block: Option<Arc<Transaction>>,
    table: Arc<Object>,
    columns: Vec<usize>,
    batches: Vec<RecordBatch>,
}

impl CopyInSink for TableCopy {
    fn write(&mut self, rows: RecordBatch) -> BoxFuture<'_, Result<(), SqlError>> {
        Box::pin(async move {
            let rows = dml::arrange(&mut self.writer, &self.table, &self.columns, &rows).await?;
            self.batches.push(rows);
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<u64, SqlError>> {
        Box::pin(async move {
            let rows = dml::concat(&self.table.arrow_schema(), &self.batches)?;
            let n_rows = rows.num_rows() as u64;
            let database: Arc<Database> = self.writer.database.clone();
            let write = TableWrite::Insert { rows, on_conflict: OnConflict::Error };
            let table = RelationId(self.table.oid);
            let written = match &self.block {
                Some(block) => database.engine.stage(block, table, write).await.map(drop),
                None => database.engine.write(table, write).await.map(drop),
            };
            written.map_err(|error| engine_error(&database, error))?;
            Ok(n_rows)
        })
    }
}

fn wire_options(options: &CopyOptions) -> wire::CopyOptions {
    let base = match options.format {
        CopyFormat::Text => wire::CopyOptions::text(),
        CopyFormat::Csv => wire::CopyOptions::csv(),
        CopyFormat::Binary => return wire::CopyOptions::binary(),
    };
    wire::CopyOptions {
        delimiter: options.delimiter as u8,
        null: options.null.clone(),
        header: if options.header { wire::CopyHeader::Line } else { wire::CopyHeader::None },
        quote: options.quote as u8,
        escape: options.escape as u8,
        force_quote: !matches!(options.force_quote, ForceQuote::None),
        ..base
    }
}
