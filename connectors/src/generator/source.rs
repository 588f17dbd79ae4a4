//! The generator's splits: each walks over its own share of the event numbers.
//!
//! The offset of a split is the number of its next event in the whole stream, of all kinds and
//! splits. A reader skips the events that are not its own by arithmetic.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StructArray, UInt64Array};
use arrow::compute::{can_cast_types, cast, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use tidemill_core::source::{
    Changes, ConnectorError, Offset, Source, SourceBatch, Split, SplitId, SplitReader,
};
use tidemill_core::{SqlState, did_you_mean};
use tokio::time::Instant;

use crate::generator::config::{Data, GeneratorConfig, PACE, Table};
use crate::generator::nexmark::{self, Column, Events, Nexmark, ROUND};
use crate::options::Options;
use crate::registry::ConnectorSource;
use crate::spec::{Encode, Format, SourceSpec};

/// A source of generated rows.
#[derive(Debug)]
pub struct GeneratorSource {
    config: GeneratorConfig,
    rows: Arc<Rows>,
}

/// What the rows are made of.
#[derive(Debug)]
struct Rows {
    schema: SchemaRef,
    nexmark: Nexmark,
    columns: Vec<Made>,
}

/// How to make one column of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Made {
    /// A column of a table of one kind.
    Column(Column),
    /// 0 for persons, 1 for auctions, 2 for bids.
    EventType,
    /// All columns of a kind, NULL where the event is of another kind.
    Struct(Table),
    /// The number of the event.
    Number,
}

/// The columns that there are.
fn available(config: &GeneratorConfig) -> Vec<(Field, Made)> {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let kind =
        |name: &str, table| (Field::new_struct(name, nexmark::fields(table), true), Made::Struct(table));
    match (config.data, config.table) {
        (Data::Sequence, _) => vec![
            (Field::new("n", DataType::Int64, false), Made::Number),
            (Field::new("date_time", timestamp, false), Made::Column(Column::DateTime)),
        ],
        (Data::Nexmark, Some(table)) => {
            let column = |(name, column): &(&str, Column)| {
                (Field::new(*name, column.data_type(), false), Made::Column(*column))
            };
            nexmark::columns(table).iter().map(column).collect()
        }
        (Data::Nexmark, None) => vec![
            (Field::new("event_type", DataType::Int64, false), Made::EventType),
            kind("person", Table::Person),
            kind("auction", Table::Auction),
            kind("bid", Table::Bid),
            (Field::new("date_time", timestamp, false), Made::Column(Column::DateTime)),
        ],
    }
}

/// The schema of a source that declares no columns.
pub fn schema(config: &GeneratorConfig) -> SchemaRef {
    let fields: Vec<Field> = available(config).into_iter().map(|(field, _)| field).collect();
    Arc::new(Schema::new(fields))
}

impl GeneratorSource {
    pub fn new(spec: &SourceSpec<'_>) -> Result<GeneratorSource, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        let config = GeneratorConfig::take(&mut options)?;
        options.finish()?;
        config.check()?;
        if spec.format != Format::Plain || spec.encode != Encode::Native {
            let message = "connector \"generator\" makes rows without FORMAT and ENCODE";
            return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("Leave out the FORMAT and ENCODE clauses."));
        }
        spec.check_include(&["offset"])?;
        let columns = (0..spec.schema.fields().len()).map(|idx| made(spec, &config, idx));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let rows = Rows { schema: spec.schema.clone(), nexmark: Nexmark::new(&config), columns };
        Ok(GeneratorSource { config, rows: Arc::new(rows) })
    }

    /// The walk of one split.
    fn walk(&self, split: u64) -> Walk {
        let (round, first, n_own) = match (self.config.data, self.config.table) {
            (Data::Sequence, _) => (1, 0, 1),
            (Data::Nexmark, None) => (ROUND, 0, ROUND),
            (Data::Nexmark, Some(Table::Person)) => (ROUND, 0, 1),
            (Data::Nexmark, Some(Table::Auction)) => (ROUND, 1, 3),
            (Data::Nexmark, Some(Table::Bid)) => (ROUND, 4, 46),
        };
        Walk { round, first, n_own, n_splits: self.config.splits, split }
    }
}

/// How to make the column that the schema declares at `idx`.
fn made(spec: &SourceSpec<'_>, config: &GeneratorConfig, idx: usize) -> Result<Made, ConnectorError> {
    let field = spec.schema.field(idx);
    let (natural, made) = if spec.include.iter().any(|include| include.column_idx == idx) {
        (DataType::Int64, Made::Number)
    } else {
        let available = available(config);
        let found = available.iter().find(|(natural, _)| natural.name() == field.name());
        let Some((natural, made)) = found else {
            let message = format!("connector \"generator\" makes no column \"{}\"", field.name());
            let names: Vec<&str> = available.iter().map(|(field, _)| field.name().as_str()).collect();
            let hint = match did_you_mean(field.name(), names.iter().copied()) {
                Some(near) => format!("Perhaps you meant \"{near}\"."),
                None => format!("Its columns are: {}.", names.join(", ")),
            };
            return Err(ConnectorError::fatal(SqlState::UNDEFINED_COLUMN, message).with_hint(hint));
        };
        if natural.is_nullable() && !field.is_nullable() {
            let message = format!("column \"{}\" of connector \"generator\" can be NULL", field.name());
            return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message)
                .with_hint("Declare it without NOT NULL."));
        }
        (natural.data_type().clone(), made.clone())
    };
    if !can_cast_types(&natural, field.data_type()) {
        let (name, declared) = (field.name(), field.data_type());
        let message = format!(
            "column \"{name}\" of connector \"generator\" is {natural}, which cannot become {declared}"
        );
        return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message));
    }
    Ok(made)
}

impl Rows {
    /// The rows of the events.
    fn batch(&self, numbers: impl Iterator<Item = u64>) -> Result<RecordBatch, ConnectorError> {
        let events = self.nexmark.events(numbers);
        let column = |(made, field): (&Made, &Arc<Field>)| {
            let column = self.column(made, &events);
            if column.data_type() == field.data_type() {
                Ok(column)
            } else {
                cast(&column, field.data_type())
            }
        };
        let columns =
            self.columns.iter().zip(self.schema.fields()).map(column).collect::<Result<Vec<_>, _>>();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(events.numbers().len()));
        columns
            .and_then(|columns| RecordBatch::try_new_with_options(self.schema.clone(), columns, &options))
            .map_err(|error| {
                ConnectorError::fatal(SqlState::DATA_EXCEPTION, format!("generated rows: {error}"))
            })
    }

    fn column(&self, made: &Made, events: &Events) -> ArrayRef {
        let numbers = events.numbers();
        match made {
            Made::Column(column) => self.nexmark.column(*column, events),
            Made::EventType => Arc::new(Int64Array::from_iter_values(
                numbers.iter().map(|number| nexmark::table_of(*number) as i64),
            )),
            Made::Struct(table) => self.struct_column(*table, numbers),
            Made::Number => {
                Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| *number as i64)))
            }
        }
    }

    /// Makes the events of the kind, and spreads them out to their places among all.
    fn struct_column(&self, table: Table, numbers: &[u64]) -> ArrayRef {
        let of_kind = |number: &u64| nexmark::table_of(*number) == table;
        let events = self.nexmark.events(numbers.iter().copied().filter(of_kind));
        let columns = nexmark::columns(table).iter().map(|(_, column)| self.nexmark.column(*column, &events));
        let dense = StructArray::new(nexmark::fields(table), columns.collect(), None);
        let mut n_before = 0;
        let place = |number: &u64| {
            of_kind(number).then(|| {
                n_before += 1;
                n_before - 1
            })
        };
        let places = UInt64Array::from_iter(numbers.iter().map(place));
        take(&dense, &places, None).expect("each place is that of an event")
    }
}

/// The events of one split, in order: rounds of kinds are dealt out to the splits in turn.
#[derive(Debug, Clone, Copy)]
struct Walk {
    /// Events in a round.
    round: u64,
    /// The first of the own events in a round.
    first: u64,
    /// How many own events follow each other in a round.
    n_own: u64,
    n_splits: u64,
    split: u64,
}

impl Walk {
    /// The number of the own event `idx`.
    fn event(&self, idx: u64) -> u64 {
        let round = idx / self.n_own * self.n_splits + self.split;
        round * self.round + self.first + idx % self.n_own
    }

    /// The first own event with at least this number.
    fn idx(&self, number: u64) -> u64 {
        let (round, within) = (number / self.round, number % self.round);
        let own_round = round / self.n_splits;
        match (round % self.n_splits).cmp(&self.split) {
            std::cmp::Ordering::Less => own_round * self.n_own,
            std::cmp::Ordering::Greater => (own_round + 1) * self.n_own,
            std::cmp::Ordering::Equal => {
                own_round * self.n_own + within.saturating_sub(self.first).min(self.n_own)
            }
        }
    }
}

#[async_trait]
impl Source for GeneratorSource {
    async fn splits(&self) -> Result<Vec<Split>, ConnectorError> {
        let split = |idx: u64| Split {
            id: SplitId(idx.to_string().into()),
            start: Offset::from(self.walk(idx).event(0)),
        };
        Ok((0..self.config.splits).map(split).collect())
    }

    fn is_bounded(&self) -> bool {
        self.config.events.is_some()
    }

    async fn open(&self, split: &SplitId, from: &Offset) -> Result<Box<dyn SplitReader>, ConnectorError> {
        let idx: Option<u64> = split.0.parse().ok().filter(|idx| *idx < self.config.splits);
        let Some(idx) = idx else {
            let message = format!("connector \"generator\" has no split \"{split}\"");
            return Err(ConnectorError::fatal(SqlState::UNDEFINED_OBJECT, message)
                .with_hint("Was the option \"splits\" changed?"));
        };
        let walk = self.walk(idx);
        let next = walk.idx(number(from)?);
        Ok(Box::new(GeneratorReader {
            rows: self.rows.clone(),
            walk,
            next,
            end: self.config.events.map_or(u64::MAX, |events| walk.idx(events)),
            n_rows_max: self.config.batch_rows,
            pace: (self.config.rate > 0).then(|| Pace::new(self.config.rate, walk.event(next))),
        }))
    }
}

impl ConnectorSource for GeneratorSource {}

fn number(offset: &Offset) -> Result<u64, ConnectorError> {
    offset.0.parse().map_err(|_| {
        let message = format!("\"{offset}\" is not an offset of connector \"generator\"");
        ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
    })
}

/// Makes the rows of one split.
#[derive(Debug)]
struct GeneratorReader {
    rows: Arc<Rows>,
    walk: Walk,
    /// The next own event.
    next: u64,
    /// The first own event that there is not.
    end: u64,
    n_rows_max: u64,
    pace: Option<Pace>,
}

#[async_trait]
impl SplitReader for GeneratorReader {
    async fn next(&mut self, until: Option<&Offset>) -> Result<Option<SourceBatch>, ConnectorError> {
        // Without a rate nothing here ever waits: give others a turn on this thread.
        tokio::task::consume_budget().await;
        let end = match until {
            Some(until) => self.walk.idx(number(until)?).min(self.end),
            None => self.end,
        };
        if self.next >= end {
            return Ok(None);
        }
        let due = match (&mut self.pace, until) {
            (Some(pace), None) => pace.due(self.walk, self.next).await,
            // What somebody asks for again has been due before: a pipeline that is created a day later does not
            // take a day to fill.
            (Some(_), Some(_)) | (None, _) => end,
        };
        let behind = due.min(end).min(self.next + self.n_rows_max);
        let rows = self.rows.batch((self.next..behind).map(|idx| self.walk.event(idx)))?;
        self.next = behind;
        let n_bytes = rows.columns().iter().map(|column| column.get_buffer_memory_size()).sum();
        let next = Offset::from(self.walk.event(self.next));
        Ok(Some(SourceBatch { changes: Changes::Append(rows), next, bad: Vec::new(), n_bytes }))
    }
}

/// Says when events are due.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// The event that was due when the reader began; the clock starts with its first read.
    first: u64,
    began: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    fn new(rate: u64, first: u64) -> Pace {
        Pace { rate, first, began: None, last: None }
    }

    /// Waits until own event `next` is due and a while has passed since the last time; the own
    /// event up to which all are due.
    async fn due(&mut self, walk: Walk, next: u64) -> u64 {
        let began = *self.began.get_or_insert_with(Instant::now);
        let seconds = (walk.event(next).saturating_sub(self.first)) as f64 / self.rate as f64;
        // The event is due at the end of its interval, lest an event comes before any time passes.
        let next_due = began + Duration::from_secs_f64(seconds + 1.0 / self.rate as f64);
        let paced = self.last.map_or(next_due, |last| next_due.max(last + PACE));
        tokio::time::sleep_until(paced).await;
        self.last = Some(Instant::now());
        let n_due = (began.elapsed().as_secs_f64() * self.rate as f64) as u64;
        walk.idx(self.first + n_due).max(next + 1)
    }
}
