//! Changes as rows of a table, exactly once.
//!
//! A transaction holds the rows, by `COPY`, and the epoch that they reach, in a table beside: `tidemill_progress`. The epoch
//! is moved on by compare-and-swap, so that of two writers that hold the same rows one writes nothing, and of a
//! commit whose answer was lost the next connection finds out what became of it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter, Written, check_reached};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState, crash_point};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::formats::changelog::{Changelog, Entry};
use crate::options::Options;
use crate::postgres::client::Server;
use crate::postgres::config::PostgresSinkConfig;
use crate::postgres::copy::Columns;
use crate::postgres::table::Table;
use crate::spec::{Encode, Format, SinkSpec};

/// Bytes that go out at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A table to write to.
#[derive(Debug, Clone)]
pub struct PostgresSink {
    name: Arc<str>,
    /// What its epoch stands under: a name may change.
    id: Arc<str>,
    server: Server,
    table: Table,
    changelog: Changelog,
    format: Format,
    delivery: Delivery,
    create_table: bool,
}

impl PostgresSink {
    pub fn new(spec: &SinkSpec<'_>) -> Result<PostgresSink, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        let config = PostgresSinkConfig::take(&mut options)?;
        options.finish()?;
        let refuse = |message: String, hint: &str| {
            Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint))
        };
        if spec.format == Format::Debezium {
            return refuse(
                "connector \"postgres\" cannot write FORMAT DEBEZIUM".to_string(),
                "FORMAT PLAIN adds rows, FORMAT UPSERT keeps the rows of a key current.",
            );
        }
        if spec.encode != Encode::Native {
            let message = format!("connector \"postgres\" has no ENCODE {}", spec.encode);
            return refuse(message, "Rows become rows: leave ENCODE out.");
        }
        let key: &[usize] = if spec.format == Format::Upsert { spec.primary_key } else { &[] };
        Ok(PostgresSink {
            name: spec.name.into(),
            id: spec.id.into(),
            server: Server::new(&config.url, config.password.as_deref(), spec.name)?,
            table: Table::new(&config.table, spec.schema.clone(), key)?,
            changelog: Changelog::new(spec, config.force_append_only, None)?,
            format: spec.format,
            delivery: config.delivery,
            create_table: config.create_table,
        })
    }

    /// The lines of a batch, the first of which stands at `place`.
    fn lines(&self, batch: &SinkBatch, place: &mut u64, out: &mut Vec<u8>) -> Result<(), ConnectorError> {
        let entries = self.changelog.entries(batch)?;
        let prefix = |entry: &Entry| {
            if self.format == Format::Plain {
                return String::new();
            }
            *place += 1;
            format!("{place}\t{}\t", if entry.after.is_none() { "t" } else { "f" })
        };
        let prefixes: Vec<String> = entries.iter().map(prefix).collect();
        let failed = |error: arrow::error::ArrowError| self.changelog.failed(&error);
        let places = entries.iter().map(|entry| entry.after.or(entry.before));
        let places = arrow::array::UInt32Array::from_iter(places);
        let rows = arrow::compute::take_record_batch(&batch.delta.rows(), &places).map_err(failed)?;
        let columns = Columns::new(rows.schema_ref().fields(), rows.columns()).map_err(failed)?;
        columns.write(&prefixes, out).map_err(failed)
    }

    async fn connect(&self) -> Result<Client, ConnectorError> {
        let client = self.server.connect().await?;
        self.table.check(&client, &self.server, self.create_table).await?;
        Ok(client)
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn delivery(&self) -> Delivery {
        self.delivery
    }

    async fn validate(&self) -> Result<(), ConnectorError> {
        let client = self.connect().await?;
        match self.delivery {
            Delivery::ExactlyOnce => self.table.prepare(&client, &self.server, &self.id).await.map(drop),
            Delivery::AtLeastOnce => Ok(()),
        }
    }

    async fn open(&self, written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let client = self.connect().await?;
        let reached = match self.delivery {
            Delivery::ExactlyOnce => Some(self.table.prepare(&client, &self.server, &self.id).await?),
            Delivery::AtLeastOnce => None,
        };
        if self.delivery == Delivery::ExactlyOnce {
            let destination = format!("table \"{}\" at \"{}\"", self.table.name, self.server.name);
            check_reached(&destination, reached, written)?;
        }
        self.table.prepare_stage(&client, &self.server).await?;
        let session = Session { sink: self.clone(), client, at: reached.unwrap_or_default() };
        Ok(Box::new(PostgresWriter {
            sink: self.clone(),
            reached,
            session: Some(session),
            lines: Vec::new(),
            place: 0,
            to: None,
            transaction: None,
        }))
    }
}

/// Collects rows, and writes them as one transaction.
struct PostgresWriter {
    sink: PostgresSink,
    reached: Option<Epoch>,
    /// `None` while a transaction is under way, and after one that failed.
    session: Option<Session>,
    lines: Vec<u8>,
    place: u64,
    to: Option<Epoch>,
    transaction: Option<JoinHandle<Result<Session, ConnectorError>>>,
}

/// A connection of its own task's while it writes: it is never left in the middle of a statement.
struct Session {
    sink: PostgresSink,
    client: Client,
    /// The epoch at the destination.
    at: Epoch,
}

impl Session {
    async fn write(mut self, lines: Vec<u8>, to: Epoch) -> Result<Session, ConnectorError> {
        match self.transact(lines, to).await {
            Ok(true) => Ok(self),
            Ok(false) => {
                let sink = &self.sink;
                let message = format!(
                    "the epoch of sink \"{}\" at \"{}\" is not {} any more",
                    sink.name, sink.server.name, self.at
                );
                Err(ConnectorError::transient(SqlState::OBJECT_IN_USE, message)
                    .with_hint("Another server writes for this sink. Nothing was written."))
            }
            Err(error) => {
                let what = format!("write to table \"{}\" of", self.sink.table.name);
                Err(self.sink.server.error(&what, &error))
            }
        }
    }

    /// False if somebody else has moved the epoch. On an error the connection is not used any more, which undoes
    /// what has not been committed.
    async fn transact(&mut self, lines: Vec<u8>, to: Epoch) -> Result<bool, tokio_postgres::Error> {
        let (client, table) = (&self.client, &self.sink.table);
        client.batch_execute("BEGIN").await?;
        // First, so that of two writers the second waits, and then finds that it has nothing to do.
        if self.sink.delivery == Delivery::ExactlyOnce
            && !table.advance(client, &self.sink.id, self.at, to).await?
        {
            client.batch_execute("ROLLBACK").await?;
            return Ok(false);
        }
        let lines = Bytes::from(lines);
        let mut copy = std::pin::pin!(client.copy_in(&table.copy()).await?);
        for begin in (0..lines.len()).step_by(CHUNK_BYTES) {
            copy.send(lines.slice(begin..lines.len().min(begin + CHUNK_BYTES))).await?;
        }
        copy.finish().await?;
        if let Some(apply) = table.apply() {
            client.batch_execute(&apply).await?;
        }
        crash_point("postgres.written");
        client.batch_execute("COMMIT").await?;
        crash_point("postgres.committed");
        self.at = to;
        Ok(true)
    }
}

#[async_trait]
impl SinkWriter for PostgresWriter {
    fn reached(&self) -> Option<Epoch> {
        self.reached
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        self.sink.lines(batch, &mut self.place, &mut self.lines)?;
        self.to = Some(batch.to);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.transaction.is_none() {
            let Some(to) = self.to.take() else { return Ok(()) };
            let session = self.session.take().expect("a writer is not used after an error");
            let lines = std::mem::take(&mut self.lines);
            self.place = 0;
            self.transaction = Some(tokio::spawn(session.write(lines, to)));
        }
        let transaction = self.transaction.as_mut().expect("begun above, or before");
        let outcome = transaction.await;
        self.transaction = None;
        let outcome = outcome.map_err(|error| {
            let message = format!("writing for sink \"{}\" broke off: {error}", self.sink.name);
            ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
        })?;
        self.session = Some(outcome?);
        Ok(())
    }
}
