//! Sources: from what a connector read to the deltas of an epoch.
//!
//! A source is read once, whoever uses it: one task per split reads, decodes, computes the generated
//! columns and puts the rows where the sealer finds them. Who needs rows from before (a pipeline that is
//! created or was checkpointed earlier than others) reads them by itself with a [`RangeReader`], from
//! its own offsets up to where the shared readers stand.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use tidemill_core::source::{
    BadRecord, Changes, ConnectorError, Offset, Offsets, Source, SourceBatch, Split, SplitId, SplitReader,
    partial_schema,
};
use tidemill_core::{Diagnostic, SqlState, delta_schema};
use tidemill_plan::{InputKind, RelationId, SEQUENCE};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::Error;
use crate::metrics::Counter;
use crate::name::Name;
use crate::status::State;
use crate::time::TimeSource;

/// With more rows than this waiting to be sealed, the readers of a source wait.
const PENDING_ROWS_MAX: usize = 256 * 1024;
/// A rate over less time than this says nothing.
const RATE_SECONDS_MIN: f64 = 1.0;
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(1);
/// How long what could not be sealed waits.
const PUT_BACK_PAUSE: Duration = Duration::from_millis(250);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Bounded sources, that is files, are read this many splits at a time.
const BOUNDED_SPLITS: usize = 4;

/// Where a column of a source comes from.
#[derive(Debug, Clone)]
pub enum SourceColumn {
    /// The connector's column of this position.
    Read(usize),
    /// An expression over the connector's columns.
    Generated(Arc<dyn PhysicalExpr>),
}

impl SourceColumn {
    /// The connector's columns that it is made of.
    fn read(&self) -> Vec<usize> {
        match self {
            SourceColumn::Read(idx) => vec![*idx],
            SourceColumn::Generated(expr) => {
                collect_columns(expr).into_iter().map(|column| column.index()).collect()
            }
        }
    }
}

/// What CREATE SOURCE says.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    pub id: RelationId,
    pub name: Name,
    pub source: Arc<dyn Source>,
    /// All columns, generated ones included.
    pub schema: SchemaRef,
    pub columns: Vec<SourceColumn>,
    /// Over the columns of `schema`.
    pub watermark: Option<Arc<dyn PhysicalExpr>>,
    /// A split that has given no row for so long does not hold the watermark back.
    pub idle_timeout: Option<Duration>,
    pub kind: InputKind,
    /// Positions in `schema`; rows of an upsert source are known by it.
    pub primary_key: Vec<usize>,
    /// How many rows a second are read at most, on average.
    pub rate_limit: Option<u64>,
    /// Since when it is not to be read, in microseconds since 1970.
    pub paused: Option<i64>,
}

/// A record or row that did not make it, and where it was met.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    pub object: String,
    pub stage: &'static str,
    pub split: String,
    pub offset: String,
    pub raw: Vec<u8>,
    pub sqlstate: SqlState,
    pub reason: String,
}

/// A source and, while something reads it, its readers.
#[derive(Debug)]
pub(crate) struct SourceRuntime {
    pub spec: SourceSpec,
    /// The connector as it is now: its options may have been altered.
    connector: RwLock<Arc<dyn Source>>,
    limit: RateLimit,
    paused: Mutex<Option<i64>>,
    delta_schema: SchemaRef,
    pending: Mutex<Pending>,
    space: Notify,
    /// Shared with the sealer: there is something to seal.
    arrived: Arc<Notify>,
    /// By it a split has been silent for so long.
    time: TimeSource,
    pub state: RwLock<State>,
    pub last_error: RwLock<Option<String>>,
    pub rows: Counter,
    pub bytes: Counter,
    pub bad_records: Counter,
    /// Columns of the connector that the readers make.
    columns: Mutex<Arc<BTreeSet<usize>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Since when it is read, and how many rows had come before that.
    pub started: Mutex<Option<(Instant, u64)>>,
}

/// How fast rows may come, whatever the number of splits.
#[derive(Debug, Default)]
struct RateLimit(Mutex<Limit>);

#[derive(Debug, Default)]
struct Limit {
    rows_per_second: Option<u64>,
    /// When the rows that have come are paid for.
    paid: Option<Instant>,
}

impl RateLimit {
    fn set(&self, rows_per_second: Option<u64>) {
        *self.0.lock().expect("nobody panics while holding it") = Limit { rows_per_second, paid: None };
    }

    /// Counts rows; when the next ones may come.
    fn count(&self, n_rows: usize, now: Instant) -> Option<Instant> {
        let mut limit = self.0.lock().expect("nobody panics while holding it");
        let cost = Duration::from_secs_f64(n_rows as f64 / limit.rows_per_second? as f64);
        limit.paid = Some(limit.paid.map_or(now, |paid| paid.max(now)) + cost);
        limit.paid
    }
}

/// What has been read and not sealed.
#[derive(Debug, Default)]
struct Pending {
    /// Which readers fill it: what those before them still bring does not count.
    generation: u64,
    batches: Vec<RecordBatch>,
    n_rows: usize,
    /// Of the records that its rows came in.
    n_bytes: usize,
    /// Of all splits, behind what is pending.
    offsets: Offsets,
    watermarks: BTreeMap<SplitId, i64>,
    /// When each open split has last given a row, if that matters.
    heard: BTreeMap<SplitId, Duration>,
    idle: HashSet<SplitId>,
    open: HashSet<SplitId>,
    finished: HashSet<SplitId>,
    is_finished: bool,
    dead_letters: Vec<DeadLetter>,
    /// How many rows have been read since the splits' starts, if the readers began there.
    n_read: Option<u64>,
    sequence: i64,
    arrived: Option<Instant>,
    /// Until when what was put back is to wait.
    not_before: Option<Instant>,
    has_news: bool,
}

/// What waits to be sealed.
pub(crate) struct Waiting {
    pub n_rows: usize,
    pub arrived: Instant,
    pub not_before: Option<Instant>,
}

/// What the sealer takes.
#[derive(Debug)]
pub(crate) struct Taken {
    generation: u64,
    pub batches: Vec<RecordBatch>,
    n_bytes: usize,
    pub offsets: Arc<Offsets>,
    pub watermark: Option<i64>,
    pub dead_letters: Vec<DeadLetter>,
    pub arrived: Option<Instant>,
}

/// A batch with generated columns and weights.
struct Prepared {
    /// In the delta's schema; of an upsert source without its sequence.
    columns: Vec<ArrayRef>,
    n_rows: usize,
    watermark: Option<i64>,
    bad: Vec<BadRecord>,
}

impl SourceRuntime {
    pub fn new(spec: SourceSpec, arrived: Arc<Notify>, time: TimeSource) -> SourceRuntime {
        let mut schema = spec.schema.as_ref().clone();
        if spec.kind == InputKind::Upsert {
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(SEQUENCE, DataType::Int64, false)));
            schema = Schema::new(fields);
        }
        let limit = RateLimit::default();
        limit.set(spec.rate_limit);
        SourceRuntime {
            delta_schema: delta_schema(&schema),
            connector: RwLock::new(spec.source.clone()),
            limit,
            paused: Mutex::new(spec.paused),
            spec,
            pending: Mutex::default(),
            space: Notify::new(),
            arrived,
            time,
            state: RwLock::new(State::Idle),
            last_error: RwLock::default(),
            rows: Counter::default(),
            bytes: Counter::default(),
            bad_records: Counter::default(),
            columns: Mutex::default(),
            tasks: Mutex::default(),
            started: Mutex::default(),
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().expect("nobody panics while holding it")
    }

    /// The connector as it is now.
    pub fn connector(&self) -> Arc<dyn Source> {
        self.connector.read().expect("nobody panics while holding it").clone()
    }

    /// Takes over what can be altered. Readers that run are to be started anew.
    pub fn alter(&self, spec: &SourceSpec) {
        *self.connector.write().expect("nobody panics while holding it") = spec.source.clone();
        self.limit.set(spec.rate_limit);
    }

    /// Since when it is not to be read.
    pub fn paused(&self) -> Option<i64> {
        *self.paused.lock().expect("nobody panics while holding it")
    }

    pub fn set_paused(&self, since: Option<i64>) {
        *self.paused.lock().expect("nobody panics while holding it") = since;
    }

    pub fn is_running(&self) -> bool {
        !self.tasks.lock().expect("nobody panics while holding it").is_empty()
    }

    /// Where the shared readers stand, not counting what is pending.
    pub fn offsets(&self) -> Offsets {
        self.pending().offsets.clone()
    }

    /// Rows a second since it is read, if it is, and long enough to tell.
    pub fn rate(&self) -> Option<f64> {
        let (since, before) = (*self.started.lock().expect("nobody panics while holding it"))?;
        let seconds = since.elapsed().as_secs_f64();
        let is_read = self.is_running() && seconds >= RATE_SECONDS_MIN;
        is_read.then(|| self.rows.get().saturating_sub(before) as f64 / seconds)
    }

    pub fn finished_splits(&self) -> HashSet<SplitId> {
        self.pending().finished.clone()
    }

    /// Columns of the connector that are needed for some columns of the source.
    fn needed(&self, columns: &BTreeSet<usize>) -> BTreeSet<usize> {
        let is_generated = |column: &SourceColumn| matches!(column, SourceColumn::Generated(_));
        // What is kept of a row for which a column cannot be computed is all of it.
        if self.spec.columns.iter().any(is_generated) || !self.connector().leaves_out_columns() {
            return self.spec.columns.iter().flat_map(SourceColumn::read).collect();
        }
        let mut all = columns.clone();
        all.extend(&self.spec.primary_key);
        all.extend(self.spec.watermark.iter().flat_map(collect_columns).map(|column| column.index()));
        all.into_iter().flat_map(|idx| self.spec.columns[idx].read()).collect()
    }

    /// Whether these columns are made of all that is still to be sealed, as long as nothing is begun anew.
    pub fn reads(&self, columns: &BTreeSet<usize>) -> bool {
        let nothing_comes = {
            let pending = self.pending();
            let is_running = *self.state.read().expect("nobody panics while holding it") == State::Running;
            pending.batches.is_empty() && pending.open.is_empty() && !is_running
        };
        let made = self.columns.lock().expect("nobody panics while holding it").clone();
        nothing_comes || self.needed(columns).is_subset(&made)
    }

    /// Forgets what is pending: it will be read again, from `offsets` on.
    pub fn begin_again(&self, offsets: Offsets, watermark: Option<i64>) {
        let mut pending = self.pending();
        self.rows.take_back(pending.n_rows);
        self.bytes.take_back(pending.n_bytes);
        self.bad_records.take_back(pending.dead_letters.len());
        let n_read = match offsets.is_empty() {
            true => Some(0),
            false => pending.n_read.map(|n_read| n_read - pending.n_rows as u64),
        };
        let (generation, sequence) = (pending.generation + 1, pending.sequence);
        *pending = Pending { generation, offsets, n_read, sequence, ..Pending::default() };
        if let Some(watermark) = watermark {
            pending.watermarks.insert(SplitId::from(""), watermark);
        }
    }

    /// Starts to read some columns at `offsets`; splits that are not in them begin where the connector says.
    pub fn start(self: &Arc<Self>, offsets: Offsets, watermark: Option<i64>, columns: &BTreeSet<usize>) {
        let mut tasks = self.tasks.lock().expect("nobody panics while holding it");
        if !tasks.is_empty() {
            return;
        }
        self.begin_again(offsets, watermark);
        *self.state.write().expect("nobody panics while holding it") = State::Running;
        *self.started.lock().expect("nobody panics while holding it") =
            Some((Instant::now(), self.rows.get()));
        let columns = Arc::new(self.needed(columns));
        *self.columns.lock().expect("nobody panics while holding it") = columns.clone();
        let generation = self.pending().generation;
        tasks.push(tokio::spawn(supervise(self.clone(), generation, columns)));
    }

    /// Begins to forget that it could not be read.
    pub fn forget_failure(&self) {
        let mut state = self.state.write().expect("nobody panics while holding it");
        if matches!(*state, State::Failed(_)) {
            *state = State::Idle;
        }
        *self.last_error.write().expect("nobody panics while holding it") = None;
    }

    /// Stops reading.
    pub fn stop(&self) {
        for task in self.tasks.lock().expect("nobody panics while holding it").drain(..) {
            task.abort();
        }
        let mut state = self.state.write().expect("nobody panics while holding it");
        if *state == State::Running {
            *state = State::Idle;
        }
    }

    /// When a split will have been silent for too long.
    pub fn idle_at(&self) -> Option<Instant> {
        // Who is not asked is not silent.
        let timeout = self.spec.idle_timeout.filter(|_| self.is_running())?;
        let pending = self.pending();
        let heard = pending.heard.iter().filter(|(split, _)| !pending.idle.contains(*split));
        let silent = heard.map(|(_, heard)| *heard + timeout).min()?;
        Some(Instant::now() + self.time.wait_elapsed(silent)?)
    }

    /// How much waits, and since when.
    pub fn waiting(&self) -> Option<Waiting> {
        let pending = self.note_idle();
        pending.has_news.then(|| Waiting {
            n_rows: pending.n_rows,
            arrived: pending.arrived.unwrap_or_else(Instant::now),
            not_before: pending.not_before,
        })
    }

    /// What is pending, after a look at which splits have been silent for too long.
    fn note_idle(&self) -> std::sync::MutexGuard<'_, Pending> {
        let is_running = self.is_running();
        let mut pending = self.pending();
        if let Some(timeout) = self.spec.idle_timeout.filter(|_| is_running) {
            pending.note_idle(timeout, self.time.elapsed());
        }
        pending
    }

    /// Takes all that waits.
    pub fn take(&self) -> Option<Taken> {
        let mut pending = self.note_idle();
        if !pending.has_news {
            return None;
        }
        pending.has_news = false;
        pending.n_rows = 0;
        let watermark = pending.watermark();
        if let (Some(watermark), Some(_)) = (watermark, self.spec.idle_timeout) {
            // A split that speaks again does not turn time back.
            pending.watermarks.insert(SplitId::from(""), watermark);
        }
        pending.not_before = None;
        let taken = Taken {
            generation: pending.generation,
            batches: std::mem::take(&mut pending.batches),
            n_bytes: std::mem::take(&mut pending.n_bytes),
            offsets: Arc::new(pending.offsets.clone()),
            watermark,
            dead_letters: std::mem::take(&mut pending.dead_letters),
            arrived: pending.arrived.take(),
        };
        drop(pending);
        self.space.notify_waiters();
        Some(taken)
    }

    /// Lets what was taken, and could not be sealed, wait before what has come in since.
    pub fn put_back(&self, taken: Taken) {
        let mut pending = self.pending();
        // Readers that have been started since begin where the last sealed epoch ends.
        if pending.generation != taken.generation {
            return;
        }
        pending.n_rows += taken.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        pending.n_bytes += taken.n_bytes;
        pending.batches.splice(0..0, taken.batches);
        pending.dead_letters.splice(0..0, taken.dead_letters);
        pending.arrived = taken.arrived.into_iter().chain(pending.arrived).min();
        pending.not_before = Some(Instant::now() + PUT_BACK_PAUSE);
        pending.has_news = true;
    }

    /// How many rows there are from the splits' starts up to what has been sealed, if that is known.
    pub fn n_sealed(&self) -> Option<u64> {
        let pending = self.pending();
        pending.n_read.map(|n_read| n_read - pending.n_rows as u64)
    }

    /// Waits while too much is pending.
    async fn space(&self) {
        loop {
            let space = self.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            if self.pending().n_rows < PENDING_ROWS_MAX {
                return;
            }
            space.await;
        }
    }

    /// Takes what readers of a generation bring; the number of rows.
    fn push(&self, split: &SplitId, batch: SourceBatch, generation: u64) -> Result<usize, Error> {
        let next = batch.next.clone();
        let n_bytes = batch.n_bytes;
        let prepared = self.prepare(batch)?;
        let n_rows = prepared.n_rows;
        let mut pending = self.pending();
        if pending.generation != generation {
            return Ok(0);
        }
        self.rows.add(n_rows);
        self.bytes.add(n_bytes);
        pending.n_bytes += n_bytes;
        self.bad_records.add(prepared.bad.len());
        pending.offsets.insert(split.clone(), next);
        if let Some(watermark) = prepared.watermark {
            let known = pending.watermarks.entry(split.clone()).or_insert(watermark);
            *known = watermark.max(*known);
        }
        if prepared.n_rows > 0 && self.spec.idle_timeout.is_some() {
            pending.heard.insert(split.clone(), self.time.elapsed());
            pending.idle.remove(split);
        }
        let dead_letters = prepared.bad.into_iter().map(|bad| self.dead_letter(split, bad));
        pending.dead_letters.extend(dead_letters);
        if prepared.n_rows > 0 {
            let batch = self.batch(prepared.columns, &mut pending.sequence)?;
            pending.n_rows += batch.num_rows();
            pending.n_read = pending.n_read.map(|n_read| n_read + batch.num_rows() as u64);
            pending.batches.push(batch);
        }
        pending.has_news = true;
        pending.arrived.get_or_insert_with(Instant::now);
        drop(pending);
        self.arrived.notify_one();
        Ok(n_rows)
    }

    fn dead_letter(&self, split: &SplitId, bad: BadRecord) -> DeadLetter {
        DeadLetter {
            object: self.spec.name.to_string(),
            stage: "decode",
            split: split.to_string(),
            offset: bad.offset.to_string(),
            raw: bad.raw,
            sqlstate: bad.sqlstate,
            reason: bad.reason,
        }
    }

    /// Puts the columns into the delta's schema.
    fn batch(&self, mut columns: Vec<ArrayRef>, sequence: &mut i64) -> Result<RecordBatch, Error> {
        if self.spec.kind == InputKind::Upsert {
            let n_rows = columns[0].len() as i64;
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(*sequence..*sequence + n_rows));
            *sequence += n_rows;
            columns.insert(columns.len() - 1, numbers);
        }
        Ok(RecordBatch::try_new(partial_schema(&self.delta_schema, &columns), columns)?)
    }

    /// Adds generated columns and weights. Rows whose generated columns cannot be computed become
    /// bad records.
    fn prepare(&self, batch: SourceBatch) -> Result<Prepared, Error> {
        let SourceBatch { changes, next, mut bad, .. } = batch;
        let (rows, weights): (RecordBatch, ArrayRef) = match changes {
            Changes::Append(rows) => {
                let weights = Arc::new(Int64Array::from_value(1, rows.num_rows()));
                (rows, weights)
            }
            Changes::Delta(delta) => (delta.rows(), Arc::new(delta.weights().clone())),
            Changes::Upsert { rows, deleted } => {
                let weight = |deleted: Option<bool>| if deleted == Some(true) { -1 } else { 1 };
                let weights = Int64Array::from_iter_values(deleted.iter().map(weight));
                (rows, Arc::new(weights))
            }
        };
        let (columns, weights) = match self.evaluate(&rows) {
            Ok(columns) => (columns, weights),
            Err(_) => {
                // Some row is at fault: find out which, one by one.
                let mut good: Vec<u32> = Vec::new();
                for row in 0..rows.num_rows() {
                    match self.evaluate(&rows.slice(row, 1)) {
                        Ok(_) => good.push(row as u32),
                        Err(error) => bad.push(BadRecord {
                            offset: next.clone(),
                            raw: shown(&rows, row).into_bytes(),
                            sqlstate: error.sqlstate(),
                            reason: format!("a generated column cannot be computed: {error}"),
                        }),
                    }
                }
                let good = arrow::array::UInt32Array::from(good);
                let rows = arrow::compute::take_record_batch(&rows, &good)?;
                (self.evaluate(&rows)?, arrow::compute::take(&weights, &good, None)?)
            }
        };
        let n_rows = weights.len();
        let watermark = match &self.spec.watermark {
            Some(expr) if n_rows > 0 => {
                let schema = partial_schema(&self.spec.schema, &columns);
                let batch = RecordBatch::try_new(schema, columns.clone())?;
                let times = expr.evaluate(&batch)?.into_array(n_rows)?;
                let micros = cast(&times, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
                let micros = cast(&micros, &DataType::Int64)?;
                arrow::compute::max(micros.as_primitive::<Int64Type>())
            }
            _ => None,
        };
        let mut columns = columns;
        columns.push(weights);
        Ok(Prepared { columns, n_rows, watermark, bad })
    }

    /// Some rows from the start, as a step would get them; fewer where the time is up. Offsets and metrics
    /// stay as they are.
    pub async fn sample(
        &self,
        n_rows: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        let (mut n_read, mut sequence) = (0, 0);
        let splits = match tokio::time::timeout_at(deadline, self.connector().splits()).await {
            Ok(splits) => splits?,
            Err(_) => return Ok(batches),
        };
        for split in splits {
            let read = async {
                let mut reader = self.connector().open(&split.id, &split.start).await?;
                while n_read < n_rows {
                    let Some(batch) = reader.next(None).await? else { break };
                    let prepared = self.prepare(batch)?;
                    if prepared.n_rows > 0 {
                        n_read += prepared.n_rows;
                        batches.push(self.batch(prepared.columns, &mut sequence)?);
                    }
                }
                Ok::<_, Error>(())
            };
            match tokio::time::timeout_at(deadline, read).await {
                Ok(outcome) => outcome?,
                Err(_) => break,
            }
            if n_read >= n_rows {
                break;
            }
        }
        Ok(batches)
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, Error> {
        let column = |column: &SourceColumn| -> Result<ArrayRef, Error> {
            match column {
                SourceColumn::Read(idx) => Ok(rows.column(*idx).clone()),
                SourceColumn::Generated(expr) => Ok(expr.evaluate(rows)?.into_array(rows.num_rows())?),
            }
        };
        self.spec.columns.iter().map(column).collect()
    }
}

impl Pending {
    /// Notes which splits have been silent for too long. What that makes of the watermark is sealed with the
    /// next epoch, and so is the same for everybody and after a crash.
    fn note_idle(&mut self, timeout: Duration, now: Duration) {
        let silent = self.heard.iter().filter(|(_, heard)| now.saturating_sub(**heard) >= timeout);
        let silent: Vec<SplitId> = silent.map(|(split, _)| split.clone()).collect();
        for split in silent {
            self.has_news |= self.idle.insert(split);
        }
    }

    /// The smallest watermark of all splits that may still give rows.
    fn watermark(&self) -> Option<i64> {
        if self.is_finished {
            return Some(i64::MAX);
        }
        // What the source had reached before this process started.
        let known = self.watermarks.get(&SplitId::from("")).copied();
        let of_split = |split: &SplitId| self.watermarks.get(split).copied();
        let is_idle = |split: &&SplitId| self.idle.contains(*split);
        let now = match self.open.iter().all(|split| is_idle(&split)) {
            // Nobody speaks: as far as anybody has come.
            true => self.open.iter().filter_map(of_split).max(),
            false => self
                .open
                .iter()
                .filter(|split| !is_idle(split))
                .map(of_split)
                .collect::<Option<Vec<i64>>>()
                .and_then(|watermarks| watermarks.into_iter().min()),
        };
        known.max(now)
    }
}

fn shown(rows: &RecordBatch, row: usize) -> String {
    let options = arrow::util::display::FormatOptions::default().with_null("null");
    let value = |column: &ArrayRef| {
        arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options)
            .map(|column| column.value(row).to_string())
            .unwrap_or_default()
    };
    rows.columns().iter().map(value).collect::<Vec<_>>().join(",")
}

/// Finds splits, and starts a reader for each.
async fn supervise(source: Arc<SourceRuntime>, generation: u64, columns: Arc<BTreeSet<usize>>) {
    let mut readers = tokio::task::JoinSet::new();
    let connector = source.connector();
    let is_bounded = connector.is_bounded();
    let permits =
        Arc::new(tokio::sync::Semaphore::new(if is_bounded { BOUNDED_SPLITS } else { usize::MAX >> 4 }));
    let mut backoff = BACKOFF_FIRST;
    loop {
        match connector.splits().await {
            Ok(splits) => {
                backoff = BACKOFF_FIRST;
                for (split, from) in source.open_splits(splits, generation) {
                    let reading =
                        Reading { source: source.clone(), split, generation, columns: columns.clone() };
                    readers.spawn(read_split(reading, from, permits.clone()));
                }
                if is_bounded {
                    while readers.join_next().await.is_some() {}
                    source.finish(generation);
                    return;
                }
            }
            Err(error) => {
                if !source.report(&error) {
                    return;
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            }
        }
        tokio::time::sleep(DISCOVERY_INTERVAL).await;
        while readers.try_join_next().is_some() {}
    }
}

impl SourceRuntime {
    /// The splits among `splits` that are new, and where to begin with them.
    fn open_splits(&self, splits: Vec<Split>, generation: u64) -> Vec<(SplitId, Offset)> {
        let mut pending = self.pending();
        let mut opened = Vec::new();
        if pending.generation != generation {
            return opened;
        }
        for split in splits {
            if pending.open.contains(&split.id) || pending.finished.contains(&split.id) {
                continue;
            }
            pending.open.insert(split.id.clone());
            if self.spec.idle_timeout.is_some() {
                pending.heard.insert(split.id.clone(), self.time.elapsed());
            }
            let from = pending.offsets.entry(split.id.clone()).or_insert(split.start).clone();
            opened.push((split.id, from));
        }
        opened
    }

    /// All splits of a bounded source have been read, or have failed.
    fn finish(&self, generation: u64) {
        let mut state = self.state.write().expect("nobody panics while holding it");
        let mut pending = self.pending();
        if *state != State::Running || pending.generation != generation {
            return;
        }
        *state = State::Finished;
        pending.is_finished = true;
        pending.has_news = true;
        drop(pending);
        self.arrived.notify_one();
    }

    /// Notes an error; says whether trying again may help.
    fn report(&self, error: &ConnectorError) -> bool {
        tracing::warn!(source = %self.spec.name, %error, "a source cannot be read");
        *self.last_error.write().expect("nobody panics while holding it") = Some(error.to_string());
        if !error.transient {
            *self.state.write().expect("nobody panics while holding it") = State::Failed(error.to_string());
        }
        error.transient
    }
}

/// One split that is read.
struct Reading {
    source: Arc<SourceRuntime>,
    split: SplitId,
    generation: u64,
    /// Of the connector.
    columns: Arc<BTreeSet<usize>>,
}

async fn read_split(reading: Reading, from: Offset, permits: Arc<tokio::sync::Semaphore>) {
    let source = &reading.source;
    let _permit = permits.acquire().await;
    let mut next = from;
    let mut backoff = BACKOFF_FIRST;
    loop {
        match read_on(&reading, &mut next, &mut backoff).await {
            Ok(()) => {
                let mut pending = source.pending();
                if pending.generation != reading.generation {
                    return;
                }
                pending.open.remove(&reading.split);
                pending.heard.remove(&reading.split);
                pending.finished.insert(reading.split.clone());
                pending.has_news = true;
                drop(pending);
                source.arrived.notify_one();
                return;
            }
            Err(error) => {
                if !source.report(&error) {
                    return;
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Reads a split to its end, if it has one.
async fn read_on(reading: &Reading, next: &mut Offset, backoff: &mut Duration) -> Result<(), ConnectorError> {
    let Reading { source, split, generation, columns } = reading;
    let mut reader = source.connector().open(split, next).await?;
    reader.read_only(columns);
    loop {
        source.space().await;
        let Some(batch) = reader.next(None).await? else { return Ok(()) };
        *next = batch.next.clone();
        *backoff = BACKOFF_FIRST;
        let n_rows = source
            .push(split, batch, *generation)
            .map_err(|error| ConnectorError::fatal(error.sqlstate(), error.to_string()))?;
        if let Some(due) = source.limit.count(n_rows, Instant::now()) {
            tokio::time::sleep_until(due.into()).await;
        }
        // Decoding is work: let others have the thread between two batches.
        tokio::task::yield_now().await;
    }
}

/// Reads what lies between two positions of a source, split by split.
///
/// A split that is not in `from` is read from where the connector says it starts. Bad records are passed
/// over: the shared readers have reported them.
pub(crate) struct RangeReader {
    source: Arc<SourceRuntime>,
    /// Splits still to be read: where from and where to.
    ranges: Vec<(SplitId, Offset, Offset)>,
    current: Option<(Box<dyn SplitReader>, Offset)>,
    /// Columns of the connector, unless all are read.
    columns: Option<BTreeSet<usize>>,
    sequence: i64,
    pub watermark: Option<i64>,
}

impl RangeReader {
    pub async fn new(source: Arc<SourceRuntime>, from: &Offsets, to: &Offsets) -> Result<RangeReader, Error> {
        let is_missing = to.keys().any(|split| !from.contains_key(split));
        let starts: Offsets = match is_missing {
            true => {
                source.connector().splits().await?.into_iter().map(|split| (split.id, split.start)).collect()
            }
            false => Offsets::new(),
        };
        // Who has read the source before must not miss a part of it. Who is new takes what there still is.
        let is_gone = |split: &&SplitId| !from.contains_key(*split) && !starts.contains_key(*split);
        if let Some(gone) = to.keys().filter(|_| !from.is_empty()).find(is_gone) {
            let name = &source.spec.name;
            let message = format!("split \"{gone}\" of source \"{name}\" is gone before all have read it");
            return Err(ConnectorError::fatal(SqlState::NOT_IN_PREREQUISITE_STATE, message).into());
        }
        let range = |(split, end): (&SplitId, &Offset)| {
            let start = from.get(split).or_else(|| starts.get(split))?;
            (start != end).then(|| (split.clone(), start.clone(), end.clone()))
        };
        let mut ranges: Vec<_> = to.iter().filter_map(range).collect();
        ranges.reverse();
        // Below all sequences of the shared readers, which come behind.
        let (sequence, watermark) = (i64::MIN / 2, None);
        Ok(RangeReader { source, ranges, current: None, columns: None, sequence, watermark })
    }

    /// For who reads some of the source's columns.
    pub fn only(self, columns: &BTreeSet<usize>) -> RangeReader {
        RangeReader { columns: Some(self.source.needed(columns)), ..self }
    }

    /// How many rows there are to read, where the connector can tell from the offsets.
    pub fn n_rows(&self) -> Option<u64> {
        let source = self.source.connector();
        self.ranges.iter().map(|(split, from, to)| source.n_records(split, from, to)).sum()
    }

    /// The next rows, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            let Some((reader, end)) = &mut self.current else {
                let Some((split, start, end)) = self.ranges.pop() else { return Ok(None) };
                let mut reader = self.source.connector().open(&split, &start).await?;
                if let Some(columns) = &self.columns {
                    reader.read_only(columns);
                }
                self.current = Some((reader, end));
                continue;
            };
            let Some(batch) = reader.next(Some(end)).await? else {
                self.current = None;
                continue;
            };
            if batch.next == *end {
                self.current = None;
            }
            let prepared = self.source.prepare(batch)?;
            self.watermark = self.watermark.max(prepared.watermark);
            if prepared.n_rows > 0 {
                return Ok(Some(self.source.batch(prepared.columns, &mut self.sequence)?));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_on_average_and_forgets_what_was_before_it() {
        let start = Instant::now();
        let limit = RateLimit::default();
        assert_eq!(limit.count(1_000_000, start), None);
        limit.set(Some(100));
        let second = Duration::from_secs(1);
        assert_eq!(limit.count(100, start), Some(start + second));
        assert_eq!(limit.count(50, start), Some(start + second + second / 2), "splits share it");
        // Time that nobody used is not saved up.
        assert_eq!(limit.count(100, start + 10 * second), Some(start + 11 * second));
        limit.set(Some(1000));
        assert_eq!(limit.count(100, start), Some(start + second / 10));
    }

    #[test]
    fn a_silent_split_does_not_hold_the_watermark_back() {
        let split = |name: &str| SplitId::from(name);
        let mut pending = Pending::default();
        let second = Duration::from_secs(1);
        for name in ["a", "b"] {
            pending.open.insert(split(name));
            pending.heard.insert(split(name), second);
        }
        pending.watermarks.insert(split("a"), 100);
        assert_eq!(pending.watermark(), None, "b has not said anything");
        pending.note_idle(3 * second, 3 * second);
        assert_eq!((pending.watermark(), pending.has_news), (None, false));
        pending.idle.insert(split("b"));
        assert_eq!(pending.watermark(), Some(100));
        // b speaks again, of an earlier time.
        pending.idle.remove(&split("b"));
        pending.watermarks.insert(split(""), 100);
        pending.watermarks.insert(split("b"), 50);
        assert_eq!(pending.watermark(), Some(100), "time does not go back");
        pending.note_idle(3 * second, 4 * second);
        assert!(pending.has_news);
        pending.watermarks.insert(split("a"), 170);
        assert_eq!(pending.watermark(), Some(170), "both are silent");
    }
}
