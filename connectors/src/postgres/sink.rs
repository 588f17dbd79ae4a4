//! Changes as rows of a table, exactly once.
//!
//! A transaction holds the rows, by `COPY`, and the epoch that they reach, in a table beside: `tidemill_progress`. The epoch
//! is moved on by compare-and-swap, so that of two writers that hold the same rows one writes nothing, and of a
//! commit whose answer was lost the next connection finds out what became of it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use tidemill_core::sink::{Delivery, Refusals, Refused, Sink, SinkBatch, SinkWriter, Written, check_reached};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState, crash_point};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::formats::changelog::{Changelog, Entry};
use crate::options::Options;
use crate::postgres::client::Server;
use crate::postgres::config::PostgresSinkConfig;
use crate::postgres::copy::Columns;
use crate::postgres::table::{STAGE, Table};
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

    /// The lines of a batch, the first of which stands at `place`. Gives the place in the batch of each line's row.
    fn lines(
        &self,
        batch: &SinkBatch,
        place: &mut u64,
        out: &mut Vec<u8>,
    ) -> Result<Vec<Option<u32>>, ConnectorError> {
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
        let places: Vec<Option<u32>> = entries.iter().map(|entry| entry.after.or(entry.before)).collect();
        let taken = arrow::array::UInt32Array::from(places.clone());
        let rows = arrow::compute::take_record_batch(&batch.delta.rows(), &taken).map_err(failed)?;
        let columns = Columns::new(rows.schema_ref().fields(), rows.columns()).map_err(failed)?;
        columns.write(&prefixes, out).map_err(failed)?;
        Ok(places)
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

    fn can_leave_out(&self) -> bool {
        true
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
            lines: Lines::default(),
            place: 0,
            to: None,
            transaction: None,
            refusals: None,
        }))
    }
}

/// Collects rows, and writes them as one transaction.
struct PostgresWriter {
    sink: PostgresSink,
    reached: Option<Epoch>,
    /// `None` while a transaction is under way, and after one that failed.
    session: Option<Session>,
    lines: Lines,
    place: u64,
    to: Option<Epoch>,
    transaction: Option<JoinHandle<Result<Session, ConnectorError>>>,
    /// Where rows go that the table does not take.
    refusals: Option<Arc<dyn Refusals>>,
}

/// What is to be written.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// Of each line: in which of the batches its row is, and where. Kept where rows may be refused.
    origins: Vec<(usize, u32)>,
    batches: Vec<(Epoch, RecordBatch)>,
}

impl Lines {
    /// A line's row.
    fn row(&self, line: usize, error: ConnectorError) -> Refused {
        let (batch, place) = self.origins[line];
        let (to, rows) = &self.batches[batch];
        let place = place as usize;
        Refused { to: *to, place, row: rows.slice(place, 1), error }
    }

    /// Where lines end: within them, line ends are escaped.
    fn ends(&self) -> Vec<usize> {
        let ends = self.text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        ends.map(|(end, _)| end + 1).collect()
    }
}

/// A connection of its own task's while it writes: it is never left in the middle of a statement.
struct Session {
    sink: PostgresSink,
    client: Client,
    /// The epoch at the destination.
    at: Epoch,
}

impl Session {
    async fn write(
        mut self,
        lines: Lines,
        to: Epoch,
        refusals: Option<Arc<dyn Refusals>>,
    ) -> Result<Session, ConnectorError> {
        match self.transact(lines, to, refusals).await? {
            true => Ok(self),
            false => {
                let sink = &self.sink;
                let message = format!(
                    "the epoch of sink \"{}\" at \"{}\" is not {} any more",
                    sink.name, sink.server.name, self.at
                );
                Err(ConnectorError::transient(SqlState::OBJECT_IN_USE, message)
                    .with_hint("Another server writes for this sink. Nothing was written."))
            }
        }
    }

    /// False if somebody else has moved the epoch. On an error the connection is not used any more, which undoes
    /// what has not been committed.
    async fn transact(
        &mut self,
        mut lines: Lines,
        to: Epoch,
        refusals: Option<Arc<dyn Refusals>>,
    ) -> Result<bool, ConnectorError> {
        let (client, table) = (&self.client, &self.sink.table);
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        client.batch_execute("BEGIN").await.map_err(failed)?;
        // First, so that of two writers the second waits, and then finds that it has nothing to do.
        if self.sink.delivery == Delivery::ExactlyOnce
            && !table.advance(client, &self.sink.id, self.at, to).await.map_err(failed)?
        {
            client.batch_execute("ROLLBACK").await.map_err(failed)?;
            return Ok(false);
        }
        match refusals {
            None => self.load(Bytes::from(std::mem::take(&mut lines.text))).await.map_err(failed)?,
            Some(refusals) => {
                let refused = self.load_what_is_taken(&mut lines).await?;
                // Whoever sees the others can find these.
                if !refused.is_empty() {
                    refusals.keep(refused).await?;
                }
            }
        }
        crash_point("postgres.written");
        client.batch_execute("COMMIT").await.map_err(failed)?;
        crash_point("postgres.committed");
        self.at = to;
        Ok(true)
    }

    fn failed(&self, error: &tokio_postgres::Error) -> ConnectorError {
        let what = format!("write to table \"{}\" of", self.sink.table.name);
        self.sink.server.error(&what, error)
    }

    async fn load(&self, lines: Bytes) -> Result<(), tokio_postgres::Error> {
        let (client, table) = (&self.client, &self.sink.table);
        let mut copy = std::pin::pin!(client.copy_in(&table.copy()).await?);
        for begin in (0..lines.len()).step_by(CHUNK_BYTES) {
            copy.send(lines.slice(begin..lines.len().min(begin + CHUNK_BYTES))).await?;
        }
        copy.finish().await?;
        if let Some(apply) = table.apply() {
            client.batch_execute(&apply).await?;
        }
        Ok(())
    }

    /// Loads all lines but those whose rows the table refuses, which are found by halving: `k` of `n` cost some `k log n`
    /// attempts, none but one.
    async fn load_what_is_taken(&self, lines: &mut Lines) -> Result<Vec<Refused>, ConnectorError> {
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        let ends = lines.ends();
        let text = Bytes::from(std::mem::take(&mut lines.text));
        let start = |line: usize| line.checked_sub(1).map_or(0, |before| ends[before]);
        let mut refused = Vec::new();
        let mut todo: Vec<Range<usize>> = std::iter::once(0..ends.len()).collect();
        while let Some(some) = todo.pop() {
            if some.is_empty() {
                continue;
            }
            self.client.batch_execute("SAVEPOINT tidemill").await.map_err(failed)?;
            let loaded = self.load(text.slice(start(some.start)..start(some.end))).await;
            match loaded {
                Ok(()) => {
                    let mut done = "RELEASE SAVEPOINT tidemill".to_string();
                    // What is applied need not be applied with the next lines.
                    if !todo.is_empty() && self.sink.format == Format::Upsert {
                        done = format!("TRUNCATE {STAGE}; {done}");
                    }
                    self.client.batch_execute(&done).await.map_err(failed)?;
                }
                Err(error) if is_refusal(&error) => {
                    let undone = "ROLLBACK TO SAVEPOINT tidemill; RELEASE SAVEPOINT tidemill";
                    self.client.batch_execute(undone).await.map_err(failed)?;
                    if some.len() == 1 {
                        refused.push(lines.row(some.start, self.failed(&error)));
                        continue;
                    }
                    let middle = some.start + some.len() / 2;
                    // In order: of a key the last change counts.
                    todo.push(middle..some.end);
                    todo.push(some.start..middle);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(refused)
    }
}

/// Whether it is the rows' fault: a value that the column does not take, a constraint, a row that is too large.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| ["22", "23", "54"].contains(&&code.code()[..2]))
}

#[async_trait]
impl SinkWriter for PostgresWriter {
    fn reached(&self) -> Option<Epoch> {
        self.reached
    }

    fn leave_out(&mut self, refusals: Arc<dyn Refusals>) {
        self.refusals = Some(refusals);
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let places = self.sink.lines(batch, &mut self.place, &mut self.lines.text)?;
        if self.refusals.is_some() {
            let idx = self.lines.batches.len();
            self.lines.origins.extend(places.into_iter().flatten().map(|place| (idx, place)));
            self.lines.batches.push((batch.to, batch.delta.rows()));
        }
        self.to = Some(batch.to);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.transaction.is_none() {
            let Some(to) = self.to.take() else { return Ok(()) };
            let session = self.session.take().expect("a writer is not used after an error");
            let lines = std::mem::take(&mut self.lines);
            self.place = 0;
            self.transaction = Some(tokio::spawn(session.write(lines, to, self.refusals.clone())));
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
