//! Everything that runs, and how it is asked.

mod indexes;
mod lifecycle;
mod reading;
mod recovery;
mod replace;
mod report;
mod sample;
mod standing;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::context::SessionState;
use tidemill_core::sink::{OnError, Sink};
use tidemill_core::source::Offsets;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::{PipelinePlan, RelationId};
use tidemill_storage::{Budget, CheckpointStore, Log, LogRecord, Root, remove_all};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::dataflow::{Attach, CatchUp, Command, Dataflow, DataflowHandle, Fallen, Missed, ticks};
use crate::dead_letters::{LateLetters, RefusedRows};
use crate::feed::{Feed, Reads};
use crate::halt::{Halt, Pause, Restarts};
use crate::index::IndexSpec;
use crate::ipc::decode_batch;
use crate::jobs::{CancelError, JobKind, Jobs};
use crate::member::{Identity, Member, MemberHandle};
use crate::memory::Memory;
use crate::name::Name;
use crate::outbox::{DeliveryStatus, Outbox};
use crate::sealer::{Clock, LOGGED_TIME, Sealer, WriteRequest, is_read, whole_epochs};
use crate::source::{DeadLetter, SourceRuntime, SourceSpec};
use crate::table::{Locks, TableWrite};
use crate::time::TimeSource;
use crate::{Error, dead_letters, marks};

/// How long late rows wait for a log that cannot be written.
const LATE_PAUSE: Duration = Duration::from_millis(500);

/// How long the end of the server waits for what is being computed.
const SHUTDOWN_FLUSH: Duration = Duration::from_secs(10);

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How long rows wait for others before they become an epoch.
    pub epoch_interval: Duration,
    /// `Duration::MAX` is never, unless somebody asks for one.
    pub checkpoint_interval: Duration,
    /// What `now()` is.
    pub time: TimeSource,
    /// About how many rows an operator takes in, or gives, at once: what is between two operators is not in memory
    /// as a whole.
    pub rows_max: usize,
    /// How many bytes of memory all state together may take.
    pub memory_limit: usize,
    /// How often a dataflow that fails begins again by itself within `restart_interval`.
    pub restart_limit: u32,
    pub restart_interval: Duration,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            epoch_interval: Duration::from_millis(10),
            checkpoint_interval: Duration::from_secs(1),
            time: TimeSource::System,
            rows_max: 256 << 10,
            memory_limit: 1 << 30,
            restart_limit: 3,
            restart_interval: Duration::from_secs(600),
        }
    }
}

/// A pipeline or, with a sink, what fills it.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    pub id: RelationId,
    /// What its state is called in checkpoints; another id where it has taken another's place.
    pub state: RelationId,
    pub name: Name,
    pub plan: PipelinePlan,
    /// Plans were made with it; it says the number of lanes.
    pub session: SessionState,
    pub sink: Option<Arc<dyn Sink>>,
    /// Of a sink.
    pub on_error: OnError,
    /// How many bytes of memory its state may take; without a number, a fair share of all.
    pub memory_limit: Option<usize>,
    /// Since when somebody wants it to stand still, in microseconds since 1970.
    pub paused: Option<i64>,
    pub indexes: Vec<IndexSpec>,
}

/// A pipeline or sink that is defined and cannot be planned. Its checkpoint stays.
#[derive(Debug, Clone)]
pub struct RefusedMember {
    pub id: RelationId,
    pub state: RelationId,
    pub name: Name,
    pub schema: SchemaRef,
    pub reason: String,
}

pub use self::lifecycle::Resumed;
pub use self::reading::{ReadView, Stale, Subscription};
pub use self::replace::Replaced;
pub use self::sample::{Sample, Sampled, SampledFrom};
pub use self::standing::{Replayed, StandingView};
pub use self::tables::Commit;

/// Everything that runs.
pub struct Engine {
    config: EngineConfig,
    root: Root,
    memory: Memory,
    /// All tables have one share.
    table_budget: Arc<Budget>,
    sealer: Arc<Sealer>,
    registry: StdMutex<Registry>,
    /// Held while what runs is changed.
    ddl: Mutex<()>,
    locks: Arc<Locks>,
    late: mpsc::UnboundedSender<LateLetters>,
    fallen: mpsc::UnboundedSender<Fallen>,
    jobs: Arc<Jobs>,
    started: Instant,
    /// The table log, until recovery has used it.
    logged: StdMutex<Logged>,
}

/// What stands in the table log.
#[derive(Default)]
struct Logged {
    changes: BTreeMap<RelationId, Vec<(Epoch, RecordBatch)>>,
    /// The times of the epochs.
    times: BTreeMap<Epoch, i64>,
}

#[derive(Default)]
struct Registry {
    dataflows: HashMap<u64, Arc<DataflowHandle>>,
    members: BTreeMap<RelationId, MemberEntry>,
    /// Dataflows that could not be recovered, and the epochs of their checkpoints.
    unrecovered: HashMap<u64, Epoch>,
    next_dataflow: u64,
}

impl Registry {
    /// The members of a dataflow.
    fn members_of(&self, dataflow: u64) -> impl Iterator<Item = &MemberEntry> {
        self.members.values().filter(move |entry| entry.dataflow == dataflow)
    }

    /// What keeps a dataflow from taking anything in: the member that was paused first.
    fn pause_of(&self, dataflow: u64) -> Option<Pause> {
        let pause = |entry: &MemberEntry| {
            // A sink that is paused holds nobody up but its outbox.
            let since = entry.paused.filter(|_| entry.delivery.is_none())?;
            Some(Pause { since, of: entry.handle.name.clone() })
        };
        self.members_of(dataflow).filter_map(pause).min_by_key(|pause| pause.since)
    }
}

#[derive(Clone)]
struct MemberEntry {
    handle: Arc<MemberHandle>,
    dataflow: u64,
    delivery: Option<Arc<DeliveryStatus>>,
    is_filling: bool,
    /// What it is made by; nothing where it cannot be planned.
    spec: Option<Arc<MemberSpec>>,
    /// Since when it is paused itself.
    paused: Option<i64>,
}

impl Engine {
    /// Opens what is durable below `root`. Tables, sources and pipelines are told to it next, and
    /// [`recover`](Engine::recover) starts them.
    pub async fn open(root: Root, config: EngineConfig) -> Result<Arc<Engine>, Error> {
        let (log, records) = Log::open(&root.child("log")).await?;
        // The numbers of torn epochs are not used again.
        let epoch = records.iter().map(|record| record.epoch).max().unwrap_or(Epoch::ZERO);
        let mut logged = Logged::default();
        for LogRecord { epoch, relation, payload } in whole_epochs(records) {
            if relation == LOGGED_TIME {
                let bytes = payload
                    .try_into()
                    .map_err(|_| Error::Unsupported("an epoch's time in the log".into()))?;
                logged.times.insert(epoch, i64::from_le_bytes(bytes));
                continue;
            }
            logged.changes.entry(RelationId(relation)).or_default().push((epoch, decode_batch(&payload)?));
        }
        let arrived = Arc::new(Notify::new());
        let clock = Clock {
            epoch,
            now: logged.times.values().copied().fold(config.time.now(), i64::max),
            sealed_at: Instant::now(),
            feeds: HashMap::new(),
            sources: BTreeMap::new(),
            offsets: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            tables: BTreeMap::new(),
            refused: BTreeMap::new(),
            retired: BTreeSet::new(),
            dead_letters: None,
            log,
        };
        let (sealer, requests) = Sealer::new(clock, arrived, config.epoch_interval, config.time.clone());
        let memory = Memory::new(root.scratch()?, config.memory_limit);
        let (late, mut late_letters) = mpsc::unbounded_channel::<LateLetters>();
        let (fallen, has_fallen) = mpsc::unbounded_channel();
        let engine = Arc::new(Engine {
            config,
            root,
            table_budget: memory.budget(None),
            memory,
            sealer: sealer.clone(),
            registry: StdMutex::default(),
            ddl: Mutex::default(),
            locks: Arc::default(),
            late,
            fallen,
            jobs: Arc::default(),
            started: Instant::now(),
            logged: StdMutex::new(logged),
        });
        engine.add_table(dead_letters::table()).await?;
        engine.add_table(marks::table()).await?;
        sealer.clock.lock().await.dead_letters = Some(dead_letters::DEAD_LETTERS);
        tokio::spawn(sealer.clone().run(requests));
        tokio::spawn(lifecycle::supervise(Arc::downgrade(&engine), has_fallen));
        tokio::spawn(async move {
            let send = async |writes: Vec<(RelationId, TableWrite)>, answer| {
                let request = WriteRequest { writes, unchanged: Vec::new(), retired: Vec::new(), answer };
                sealer.writes.send(request).await.is_ok()
            };
            while let Some(late) = late_letters.recv().await {
                let letters = match late {
                    LateLetters::Met(letters) => letters,
                    LateLetters::Written(answer) => match send(Vec::new(), answer).await {
                        true => continue,
                        false => return,
                    },
                };
                let letters: Vec<&DeadLetter> = letters.iter().collect();
                loop {
                    let (answer, answered) = oneshot::channel();
                    let writes = vec![(dead_letters::DEAD_LETTERS, dead_letters::write(&letters))];
                    if !send(writes, answer).await {
                        return;
                    }
                    match answered.await {
                        Ok(Err(Error::Log(_))) => tokio::time::sleep(LATE_PAUSE).await,
                        _ => break,
                    }
                }
                sealer.n_dead_letters.add(letters.len());
            }
        });
        Ok(engine)
    }

    fn logged(&self) -> std::sync::MutexGuard<'_, Logged> {
        self.logged.lock().expect("nobody panics while holding the log")
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().expect("nobody panics while holding the registry")
    }

    /// Adds a source. It is read as soon as something needs it.
    pub async fn add_source(&self, spec: SourceSpec) {
        let source = SourceRuntime::new(spec, self.sealer.arrived.clone(), self.sealer.time.clone());
        self.sealer.clock.lock().await.sources.insert(source.spec.id, Arc::new(source));
    }

    /// A member without state; in the place of another, if that has a handle.
    async fn member(&self, spec: &MemberSpec, handle: Option<Arc<MemberHandle>>) -> Result<Member, Error> {
        let outbox = spec.sink.clone().map(|sink| {
            let outbox = Outbox::new(sink, spec.plan.schema.clone(), |status| {
                let (sink, letters) = (spec.name.clone(), self.late.clone());
                Arc::new(RefusedRows { sink, status, letters })
            });
            outbox.status().set_on_error(spec.on_error);
            outbox
        });
        let budget = match &handle {
            Some(handle) => handle.budget(),
            None => self.memory.budget(spec.memory_limit),
        };
        let identity = Identity { id: spec.id, state: spec.state, name: &spec.name };
        let mut member = Member::new(identity, &spec.plan, &spec.session, outbox, &budget, handle).await?;
        // Nobody waits for them here.
        drop(member.set_indexes(&spec.indexes)?);
        Ok(member)
    }

    fn enter(&self, dataflow: u64, member: &Member, spec: &Arc<MemberSpec>, is_filling: bool) {
        let delivery = member.outbox.as_ref().map(Outbox::status);
        if let Some(delivery) = &delivery {
            if spec.paused.is_some() {
                delivery.begin_paused();
            }
            // One that is new is let go by `deliver`.
            if !is_filling {
                delivery.begin();
            }
        }
        let entry = MemberEntry {
            handle: member.handle.clone(),
            dataflow,
            delivery,
            is_filling,
            spec: Some(spec.clone()),
            paused: spec.paused,
        };
        self.registry().members.insert(member.id, entry);
    }

    fn dataflow(&self, id: u64, feed: Arc<Feed>) -> Dataflow {
        Dataflow {
            id,
            members: Vec::new(),
            feed,
            frontier: Epoch::ZERO,
            offsets: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            now: i64::MIN,
            filled_now: i64::MIN,
            is_creating: false,
            store: None,
            checkpointed: Arc::new(AtomicU64::new(0)),
            positions: Arc::default(),
            checkpoint_interval: self.config.checkpoint_interval,
            rows_max: self.config.rows_max,
            dead_letters: self.late.clone(),
            filled_watermarks: BTreeMap::new(),
            is_dirty: true,
            halt: None,
            is_broken: Arc::default(),
            restarts: Arc::new(Restarts::new(self.config.restart_limit, self.config.restart_interval)),
            fallen: self.fallen.clone(),
        }
    }

    /// What some members read that is not one of them.
    fn external_reads(&self, members: &[Member]) -> Reads {
        let mut reads = Reads::default();
        members.iter().for_each(|member| reads.extend(&member.reads()));
        reads.retain(|id| members.iter().all(|member| member.id != id));
        reads
    }

    /// Starts the readers of every source that something reads. Readers that leave out what somebody new wants are
    /// replaced, at the last epoch: what comes behind it has all that anybody wants.
    fn start_sources(&self, clock: &mut Clock) {
        for (id, source) in &clock.sources {
            let columns: BTreeSet<usize> =
                clock.feeds.values().filter_map(|feed| feed.columns(*id)).flatten().collect();
            let is_paused = source.paused().is_some();
            if !is_read(clock, *id) || ((is_paused || source.is_running()) && source.reads(&columns)) {
                continue;
            }
            let offsets = clock.offsets.get(id).map(|offsets| offsets.as_ref().clone()).unwrap_or_default();
            let watermark = clock.watermarks.get(id).copied();
            if is_paused {
                source.begin_again(offsets, watermark);
                continue;
            }
            source.stop();
            source.start(offsets, watermark, &columns);
        }
    }

    /// Stops the readers of sources that nothing reads. Where they stand is kept as long as somebody stands still
    /// who counts on it; without, whoever comes next begins at the start.
    fn stop_sources(&self, clock: &mut Clock) {
        let unread: Vec<RelationId> =
            clock.sources.keys().copied().filter(|id| !is_read(clock, *id)).collect();
        for id in unread {
            clock.sources[&id].stop();
            if !clock.feeds.values().any(|feed| feed.needs(id)) {
                clock.offsets.remove(&id);
                clock.watermarks.remove(&id);
            }
        }
    }

    /// Creates a pipeline or sink and fills it with what is there. On return it is durable, or, after an error
    /// or when it was cancelled, not there. Of a sink nothing leaves before [`Engine::deliver`].
    ///
    /// Whoever drops this future leaves the member half made: cancel it instead.
    pub async fn create_member(&self, spec: MemberSpec, cancelled: &CancellationToken) -> Result<(), Error> {
        let ddl = cancelled.run_until_cancelled(self.ddl.lock()).await.ok_or(Error::Cancelled)?;
        let mut ddl = Some(ddl);
        let spec = Arc::new(spec);
        let member = self.member(&spec, None).await?;
        let upstream: BTreeSet<u64> = {
            let registry = self.registry();
            let of = |id: &RelationId| registry.members.get(id);
            if let Some(error) =
                spec.plan.inputs.iter().filter_map(of).find_map(|entry| entry.handle.not_running())
            {
                return Err(error);
            }
            spec.plan.inputs.iter().filter_map(of).map(|entry| entry.dataflow).collect()
        };
        let id = spec.id;
        let job = self.jobs.begin(JobKind::Fill, &member.handle, cancelled);
        let created = match upstream.is_empty() {
            true => match self.create_dataflow(member, &spec, cancelled).await {
                Ok((dataflow, is_filled)) => {
                    // Nobody depends on it yet: meanwhile others can be dropped, and begin again.
                    ddl = None;
                    is_filled.await.unwrap_or(Err(Error::ShuttingDown)).map(|()| dataflow)
                }
                Err(error) => Err(error),
            },
            false => self.attach(member, &spec, upstream, cancelled).await,
        };
        let outcome = match created {
            Ok(dataflow) => {
                let written = cancelled.run_until_cancelled(self.checkpoint(dataflow)).await;
                written.unwrap_or(Err(Error::Cancelled)).map(|()| dataflow)
            }
            Err(error) => Err(error),
        };
        job.end(&outcome);
        let dataflow = match outcome {
            Ok(dataflow) => dataflow,
            Err(error) => {
                if ddl.is_none() {
                    ddl = Some(self.ddl.lock().await);
                }
                self.remove_member(id).await?;
                drop(ddl);
                return Err(error);
            }
        };
        if let Some(dataflow) = self.registry().dataflows.get(&dataflow) {
            dataflow.restarts.arm();
        }
        if let Some(entry) = self.registry().members.get_mut(&id) {
            entry.is_filling = false;
        }
        Ok(())
    }

    /// Lets a new sink deliver. Its definition must be durable: after a crash nobody would know what it has written.
    pub fn deliver(&self, id: RelationId) {
        if let Some(delivery) = self.registry().members.get(&id).and_then(|entry| entry.delivery.as_ref()) {
            delivery.begin();
        }
    }

    /// Begins to fill a dataflow of its own for a member; says when that is done.
    async fn create_dataflow(
        &self,
        member: Member,
        spec: &Arc<MemberSpec>,
        cancelled: &CancellationToken,
    ) -> Result<(u64, oneshot::Receiver<Result<(), Error>>), Error> {
        let id = {
            let mut registry = self.registry();
            registry.next_dataflow += 1;
            registry.next_dataflow
        };
        let root = self.root.child(&format!("dataflows/{id}"));
        let (store, _) = CheckpointStore::open(root).await?;
        self.enter(id, &member, spec, true);
        let reads = member.reads();
        let is_filled = {
            let mut clock = self.sealer.clock.lock().await;
            self.catch_up_with_time(&mut clock, &member).await;
            let missed = self.missed(&clock, &reads, cancelled)?;
            let feed = Arc::new(Feed::new(reads, clock.epoch, clock.now, self.sealer.arrived.clone()));
            clock.feeds.insert(id, feed.clone());
            let dataflow = Dataflow {
                members: vec![member],
                frontier: clock.epoch,
                now: clock.now,
                filled_now: clock.now,
                is_creating: true,
                store: Some(store),
                ..self.dataflow(id, feed)
            };
            let (ready, is_ready) = oneshot::channel();
            let handle = dataflow.spawn(missed, ready);
            self.registry().dataflows.insert(id, Arc::new(handle));
            self.start_sources(&mut clock);
            is_ready
        };
        Ok((id, is_filled))
    }

    /// What there is of some relations at the clock's epoch.
    fn missed(&self, clock: &Clock, reads: &Reads, cancelled: &CancellationToken) -> Result<Missed, Error> {
        let mut missed = Missed { cancelled: cancelled.clone(), ..Missed::default() };
        for (id, columns) in reads.iter() {
            if let Some(table) = clock.tables.get(&id) {
                let rows = table.view.snapshot(clock.epoch).batches()?;
                missed
                    .changes
                    .insert(id, rows.iter().map(|rows| Delta::inserts(rows).into_batch()).collect());
            } else if let (Some(source), Some(to)) = (clock.sources.get(&id), clock.offsets.get(&id)) {
                missed.sources.push(CatchUp {
                    source: source.clone(),
                    columns: columns.clone(),
                    from: Offsets::new(),
                    to: to.as_ref().clone(),
                    watermark: clock.watermarks.get(&id).copied(),
                    n_rows: source.n_sealed(),
                });
            }
        }
        Ok(missed)
    }

    /// Seals an epoch for a pipeline over `now()`, which is to show its rows as of the time that it is.
    async fn catch_up_with_time(&self, clock: &mut Clock, member: &Member) {
        if member.reads_time() {
            self.sealer.seal(clock, Vec::new()).await;
        }
    }

    /// Adds a member to the dataflow of what it reads; several become one.
    async fn attach(
        &self,
        member: Member,
        spec: &Arc<MemberSpec>,
        upstream: BTreeSet<u64>,
        cancelled: &CancellationToken,
    ) -> Result<u64, Error> {
        let mut upstream: Vec<Arc<DataflowHandle>> = {
            let registry = self.registry();
            upstream.iter().filter_map(|id| registry.dataflows.get(id).cloned()).collect()
        };
        // The newest takes over: after a crash in between, the higher number wins.
        upstream.sort_by_key(|dataflow| dataflow.id);
        let target = upstream.pop().ok_or(Error::ShuttingDown)?;
        self.enter(target.id, &member, spec, true);
        let mut clock = self.sealer.clock.lock().await;
        self.catch_up_with_time(&mut clock, &member).await;
        for other in &upstream {
            if let Err(error) = self.absorb(&mut clock, &target, other, false).await {
                drop(clock);
                self.begin_again(other.id).await;
                return Err(error);
            }
        }
        let mut reads = member.reads();
        {
            let registry = self.registry();
            reads.retain(|id| !registry.members.contains_key(&id));
        }
        let missed = self.missed(&clock, &reads, cancelled)?;
        target.feed.add_reads(&reads);
        let (reached, is_reached) = oneshot::channel();
        let (filled, is_filled) = oneshot::channel();
        let attach = Attach { member, missed, reached, filled };
        target.commands.send(Command::Attach(Box::new(attach))).await.map_err(|_| Error::ShuttingDown)?;
        is_reached.await.map_err(|_| Error::ShuttingDown)?;
        self.start_sources(&mut clock);
        drop(clock);
        is_filled.await.map_err(|_| Error::ShuttingDown)??;
        if !upstream.is_empty() {
            self.checkpoint(target.id).await?;
            for other in &upstream {
                remove_all(&self.root.child(&format!("dataflows/{}", other.id))).await?;
            }
        }
        Ok(target.id)
    }

    /// Lets a dataflow take over the members of another, both at the clock's epoch. It lasts from its next checkpoint on.
    async fn absorb(
        &self,
        clock: &mut Clock,
        target: &DataflowHandle,
        other: &DataflowHandle,
        is_kept: bool,
    ) -> Result<(), Error> {
        let mut released =
            other.ask(|answer| Command::Release { answer }).await.ok_or(Error::ShuttingDown)?;
        // One that stands still is nobody's to bring to an epoch.
        if released.halt.is_some() {
            let error = released.not_running();
            released.fail(&error);
            return Err(error);
        }
        while released.frontier < clock.epoch {
            let sealed = released.feed.take();
            if let Err(error) = released.step(sealed).await {
                released.fail(&error);
                return Err(error);
            }
        }
        let absorbed = target.ask(|answer| Command::Absorb { other: released, is_kept, answer });
        absorbed.await.ok_or(Error::ShuttingDown)??;
        clock.feeds.remove(&other.id);
        let mut registry = self.registry();
        registry.dataflows.remove(&other.id);
        for entry in registry.members.values_mut() {
            if entry.dataflow == other.id {
                entry.dataflow = target.id;
            }
        }
        Ok(())
    }

    async fn checkpoint(&self, dataflow: u64) -> Result<(), Error> {
        let handle = self.registry().dataflows.get(&dataflow).cloned();
        let Some(handle) = handle else { return Ok(()) };
        let (answer, written) = oneshot::channel();
        handle.commands.send(Command::Checkpoint { answer }).await.map_err(|_| Error::ShuttingDown)?;
        written.await.map_err(|_| Error::ShuttingDown)?.map(drop)
    }

    /// Ends a job early. On return it may still be about to end.
    pub fn cancel_job(&self, id: u64) -> Result<(), CancelError> {
        self.jobs.cancel(id)
    }

    /// Drops pipelines and sinks, with their state.
    pub async fn drop_members(&self, ids: &[RelationId]) -> Result<(), Error> {
        let _ddl = self.ddl.lock().await;
        for id in ids {
            self.remove_member(*id).await?;
        }
        Ok(())
    }

    async fn remove_member(&self, id: RelationId) -> Result<(), Error> {
        let (entry, dataflow, is_last) = {
            let mut registry = self.registry();
            let Some(entry) = registry.members.remove(&id) else { return Ok(()) };
            let dataflow = registry.dataflows.get(&entry.dataflow).cloned();
            let is_last = registry.members_of(entry.dataflow).next().is_none();
            (entry, dataflow, is_last)
        };
        // Who has begun to read it waits for it no longer.
        let since = TimeSource::System.now();
        entry.handle.set_halt(Some(Halt::Failed { reason: "it has been dropped".into(), since }));
        if let Some(dataflow) = &dataflow {
            // What it still catches up with, nobody wants any more.
            dataflow.end_fill();
            // Where its task is gone there is nothing to detach it from.
            let _ = dataflow.ask(|answer| Command::Detach { id, answer }).await;
        }
        if is_last {
            if let Some(dataflow) = &dataflow {
                let _ = dataflow.ask(|answer| Command::Release { answer }).await;
            }
            let mut clock = self.sealer.clock.lock().await;
            clock.feeds.remove(&entry.dataflow);
            {
                let mut registry = self.registry();
                registry.dataflows.remove(&entry.dataflow);
                registry.unrecovered.remove(&entry.dataflow);
            }
            self.stop_sources(&mut clock);
            drop(clock);
            // The catalog does not name it: what stays is garbage, which the next start removes.
            if let Err(error) = remove_all(&self.root.child(&format!("dataflows/{}", entry.dataflow))).await {
                tracing::warn!(dataflow = entry.dataflow, %error, "what a dropped dataflow leaves cannot be removed");
            }
        } else {
            self.go_on_without(&entry).await?;
        }
        self.memory.share();
        // A full feed may have been what others waited for.
        self.sealer.arrived.notify_one();
        Ok(())
    }

    pub async fn drop_source(&self, id: RelationId) {
        let mut clock = self.sealer.clock.lock().await;
        if let Some(source) = clock.sources.remove(&id) {
            source.stop();
        }
        clock.offsets.remove(&id);
        clock.watermarks.remove(&id);
    }

    /// What `now()` is to a statement: not before the time of any epoch that it can see.
    pub fn now(&self) -> i64 {
        self.sealer.time.now().max(self.sealer.sealed_now.load(Ordering::SeqCst))
    }

    /// Moves a manual clock on to `micros`, and waits until everything has taken that in. For tests.
    pub async fn advance_to(&self, micros: i64) -> Result<Epoch, Error> {
        match &self.sealer.time {
            TimeSource::Manual(now) => now.fetch_max(micros, Ordering::SeqCst),
            TimeSource::System => return Err(Error::Unsupported("the system's clock cannot be set".into())),
        };
        self.flush().await
    }

    /// The last epoch that was sealed.
    pub fn epoch(&self) -> Epoch {
        *self.sealer.sealed.borrow()
    }

    /// Makes everything that runs durable as it is now, whatever the time.
    pub async fn checkpoint_all(&self) -> Result<(), Error> {
        let dataflows: Vec<u64> = self.registry().dataflows.keys().copied().collect();
        for id in dataflows {
            match self.checkpoint(id).await {
                // What has failed keeps the one that it has.
                Err(Error::NotRunning { kind: "dataflow", .. }) => (),
                written => written?,
            }
        }
        self.checkpoint_tables().await
    }

    /// Makes tables' checkpoints from time to time, for ever.
    pub async fn maintain(self: Arc<Engine>) {
        let Some(mut ticks) = ticks(self.config.checkpoint_interval) else { return };
        loop {
            ticks.tick().await;
            if let Err(error) = self.checkpoint_tables().await {
                tracing::error!(%error, "tables cannot be checkpointed");
            }
        }
    }

    /// Stops reading, takes in what was read, makes everything durable and delivers what can be delivered.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let _ddl = self.ddl.lock().await;
        for source in self.sealer.clock.lock().await.sources.values() {
            source.stop();
        }
        // One step that takes long must not keep the server from ending: what it has not taken in comes again.
        match tokio::time::timeout(SHUTDOWN_FLUSH, self.flush()).await {
            Ok(flushed) => drop(flushed?),
            Err(_) => tracing::warn!("the server ends before everything has been taken in"),
        }
        let dataflows: Vec<u64> = self.registry().dataflows.keys().copied().collect();
        for id in dataflows {
            if let Err(error) = self.checkpoint(id).await {
                tracing::error!(dataflow = id, %error, "the last checkpoint failed");
            }
        }
        self.checkpoint_tables().await?;
        for delivery in self.registry().members.values().filter_map(|entry| entry.delivery.as_ref()) {
            delivery.end();
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let is_delivered = |registry: &Registry| {
            registry
                .members
                .values()
                .filter(|entry| entry.paused.is_none())
                .filter_map(|entry| entry.delivery.as_ref())
                .all(|d| d.pending_rows() == 0)
        };
        while !is_delivered(&self.registry()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
