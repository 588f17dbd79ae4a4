//! Everything that runs, and how it is asked.

mod lifecycle;
mod replace;
mod sample;
mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::context::SessionState;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tidemill_core::sink::Sink;
use tidemill_core::source::Offsets;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::{PipelinePlan, RelationId};
use tidemill_storage::{Budget, Checkpoint, CheckpointStore, Log, LogRecord, Root, remove_all};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::dataflow::{Attach, CatchUp, Command, Dataflow, DataflowHandle, Fallen, Missed, ticks};
use crate::dead_letters::{self, LateLetters};
use crate::engine::lifecycle::Launch;
use crate::feed::{Feed, Sealed};
use crate::halt::{Halt, Pause, Restarts};
use crate::ipc::decode_batch;
use crate::jobs::{CancelError, JobKind, Jobs};
use crate::marks;
use crate::member::{Identity, Member, MemberHandle};
use crate::memory::Memory;
use crate::outbox::{DeliveryStatus, Outbox};
use crate::sealer::{Clock, LOGGED_TIME, Sealer, WriteRequest, is_read, whole_epochs};
use crate::source::{SourceRuntime, SourceSpec};
use crate::status::{
    EngineStatus, OperatorStatus, PipelineStatus, SinkStatus, SourceStatus, SplitStatus, State, TableStatus,
};
use crate::table::{Locks, OnConflict, Table, TableLock, TableSpec, TableWrite, Transaction, Written};
use crate::time::TimeSource;
use crate::view::ViewSnapshot;

/// How many checkpoints are opened at once: in an object store each takes several requests.
const N_OPENED: usize = 8;

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
    pub name: String,
    pub plan: PipelinePlan,
    /// Plans were made with it; it says the number of lanes.
    pub session: SessionState,
    pub sink: Option<Arc<dyn Sink>>,
    /// How many bytes of memory its state may take; without a number, a fair share of all.
    pub memory_limit: Option<usize>,
    /// Since when somebody wants it to stand still, in microseconds since 1970.
    pub paused: Option<i64>,
}

/// A pipeline or sink that is defined and cannot be planned. Its checkpoint stays.
#[derive(Debug, Clone)]
pub struct RefusedMember {
    pub id: RelationId,
    pub state: RelationId,
    pub name: String,
    pub schema: SchemaRef,
    pub reason: String,
}

/// What a SELECT reads.
#[derive(Debug, Clone)]
pub struct ReadView {
    pub epoch: Epoch,
    pub relations: BTreeMap<RelationId, Arc<ViewSnapshot>>,
    /// Relations that show an earlier epoch, because they do not run.
    pub stale: Vec<Stale>,
}

/// A relation that shows the last epoch that it has taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    pub id: RelationId,
    pub name: String,
    /// Paused, restarting or failed, and why.
    pub state: State,
}

/// A relation now, and its changes from then on.
#[derive(Debug)]
pub struct Subscription {
    pub snapshot: Arc<ViewSnapshot>,
    pub epoch: Epoch,
    pub changes: mpsc::UnboundedReceiver<(Epoch, Delta)>,
}

pub use self::lifecycle::Resumed;
pub use self::replace::Replaced;
pub use self::sample::{Sample, Sampled, SampledFrom};
pub use self::standing::{Replayed, StandingView};

/// What is decided together with a transaction's writes.
#[derive(Debug, Default)]
pub struct Commit {
    /// Tables that must not have changed since an epoch.
    pub unchanged: Vec<(RelationId, Epoch)>,
    /// Tables that nobody writes to any more from then on.
    pub retired: Vec<RelationId>,
    pub marks: Vec<(i64, i64)>,
}

/// Whether a table is the system's own, which nobody has created.
fn is_own(id: RelationId) -> bool {
    id == dead_letters::DEAD_LETTERS || id == marks::MARKS
}

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
            while let Some(late) = late_letters.recv().await {
                let (writes, answer) = match late {
                    LateLetters::Met(letters) => {
                        sealer.n_dead_letters.add(letters.len());
                        let write = dead_letters::write(&letters);
                        (vec![(dead_letters::DEAD_LETTERS, write)], oneshot::channel().0)
                    }
                    LateLetters::Written(answer) => (Vec::new(), answer),
                };
                let request = WriteRequest { writes, unchanged: Vec::new(), retired: Vec::new(), answer };
                if sealer.writes.send(request).await.is_err() {
                    return;
                }
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

    /// Adds a new table. On return it is durable that it is empty.
    pub async fn create_table(&self, spec: TableSpec) -> Result<(), Error> {
        let (mut store, _) = CheckpointStore::open(self.root_of_table(spec.id)).await?;
        let empty = Checkpoint { meta: Table::meta(&spec, Epoch::ZERO), ..Checkpoint::default() };
        store.write(&empty).await?;
        self.enter_table(spec, store, Some(empty)).await
    }

    /// Adds a new table with its first rows. On return it is durable with them.
    pub async fn create_filled_table(&self, spec: TableSpec, rows: RecordBatch) -> Result<(), Error> {
        let (store, _) = CheckpointStore::open(self.root_of_table(spec.id)).await?;
        let mut table = Table::new(spec, store, None, &self.table_budget)?;
        let write = TableWrite::Insert { rows, on_conflict: OnConflict::Error };
        let delta = table.rules.resolve(&table.rows(), &write)?;
        table.view.add(0, delta.batch())?;
        table.changed = self.epoch();
        table.checkpointed = table.changed;
        table.store.lock().await.write(&table.capture()).await?;
        let mut clock = self.sealer.clock.lock().await;
        let epoch = clock.epoch;
        table.publish(epoch, &[])?;
        clock.tables.insert(table.rules.spec.id, table);
        Ok(())
    }

    /// Adds a table with the rows that it had before.
    pub async fn add_table(&self, spec: TableSpec) -> Result<(), Error> {
        let (store, checkpoint) = CheckpointStore::open(self.root_of_table(spec.id)).await?;
        // Nobody creates the system's own; they begin with their first row.
        if checkpoint.is_none() && !is_own(spec.id) {
            let reason =
                "its checkpoint is missing; restore it from a backup, or drop it and create it again";
            self.sealer.clock.lock().await.refused.insert(spec.id, reason.into());
            return Err(Error::NotRunning { kind: "table", name: spec.name, reason: reason.into() });
        }
        self.enter_table(spec, store, checkpoint).await
    }

    fn root_of_table(&self, id: RelationId) -> Root {
        self.root.child(&format!("tables/{id}"))
    }

    async fn enter_table(
        &self,
        spec: TableSpec,
        store: CheckpointStore,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), Error> {
        let mut table = Table::new(spec, store, checkpoint.as_ref(), &self.table_budget)?;
        let mut clock = self.sealer.clock.lock().await;
        let logged = self.logged().changes.get(&table.rules.spec.id).cloned();
        for (epoch, batch) in logged.unwrap_or_default() {
            if epoch > table.checkpointed {
                table.view.add(0, &batch)?;
                table.changed = epoch;
            }
        }
        clock.epoch = clock.epoch.max(table.changed);
        let epoch = clock.epoch;
        table.handle.frontier.send_replace(epoch);
        table.publish(epoch, &[])?;
        clock.tables.insert(table.rules.spec.id, table);
        Ok(())
    }

    /// Adds a source. It is read as soon as something needs it.
    pub async fn add_source(&self, spec: SourceSpec) {
        let source = SourceRuntime::new(spec, self.sealer.arrived.clone(), self.sealer.time.clone());
        self.sealer.clock.lock().await.sources.insert(source.spec.id, Arc::new(source));
    }

    /// Starts the pipelines and sinks that were there before, each from its checkpoint.
    pub async fn recover(&self, specs: Vec<MemberSpec>, refused: Vec<RefusedMember>) -> Result<(), Error> {
        let specs: Vec<Arc<MemberSpec>> = specs.into_iter().map(Arc::new).collect();
        let known: BTreeSet<RelationId> =
            specs.iter().map(|spec| spec.state).chain(refused.iter().map(|refused| refused.state)).collect();
        let found = self.checkpoints(&known).await?;
        let mut clock = self.sealer.clock.lock().await;
        for (_, _, checkpoint) in &found {
            clock.epoch = clock.epoch.max(epoch_of(checkpoint));
            clock.now = clock.now.max(checkpoint.meta["now"].as_i64().unwrap_or(i64::MIN));
        }
        // Epochs of this life come after all that were ever seen of the last one.
        clock.epoch = Epoch(clock.epoch.0 + 1);
        clock.now = clock.now.max(self.sealer.time.now());
        // A source goes on where its most advanced reader was; the others catch up.
        let mut newest: BTreeMap<RelationId, Epoch> = BTreeMap::new();
        for (_, _, checkpoint) in &found {
            let in_it = members_in(checkpoint);
            let is_unknown = refused.iter().any(|refused| in_it.contains(&refused.state));
            // What nobody reads any more, somebody did who has been replaced since.
            let is_read = |id: &RelationId| {
                is_unknown
                    || specs.iter().any(|spec| in_it.contains(&spec.state) && spec.plan.inputs.contains(id))
            };
            for (id, offsets) in offsets_of(&checkpoint.meta).into_iter().filter(|(id, _)| is_read(id)) {
                if newest.get(&id).is_none_or(|known| *known < epoch_of(checkpoint)) {
                    newest.insert(id, epoch_of(checkpoint));
                    clock.offsets.insert(id, Arc::new(offsets));
                    match watermarks_of(&checkpoint.meta).get(&id) {
                        Some(watermark) => clock.watermarks.insert(id, *watermark),
                        None => clock.watermarks.remove(&id),
                    };
                }
            }
        }
        let mut recovered: BTreeSet<RelationId> = BTreeSet::new();
        for (id, store, checkpoint) in found {
            let in_it = members_in(&checkpoint);
            let specs: Vec<&Arc<MemberSpec>> =
                specs.iter().filter(|spec| in_it.contains(&spec.state)).collect();
            recovered.extend(&in_it);
            let (members, mut failure) = self.restored(&checkpoint, &specs).await?;
            for refused in refused.iter().filter(|refused| in_it.contains(&refused.state)) {
                self.enter_refused(id, refused);
                failure.get_or_insert(Error::NotRunning {
                    kind: "pipeline",
                    name: refused.name.clone(),
                    reason: refused.reason.clone(),
                });
            }
            self.start_recovered(&mut clock, id, store, &checkpoint, members, failure);
        }
        for spec in specs.iter().filter(|spec| !recovered.contains(&spec.state)) {
            let member = self.member(spec, None).await?;
            let reason = "its checkpoint is missing; drop it and create it again".into();
            member.handle.set_halt(Some(Halt::Failed { reason, since: TimeSource::System.now() }));
            self.enter(0, &member, spec, false);
        }
        for refused in refused.iter().filter(|refused| !recovered.contains(&refused.state)) {
            self.enter_refused(0, refused);
        }
        for table in clock.tables.values() {
            table.handle.frontier.send_replace(clock.epoch);
        }
        self.sealer.sealed_now.store(clock.now, Ordering::SeqCst);
        self.sealer.sealed.send_replace(clock.epoch);
        self.start_sources(&mut clock);
        *self.logged() = Logged::default();
        Ok(())
    }

    fn start_recovered(
        &self,
        clock: &mut Clock,
        id: u64,
        store: CheckpointStore,
        checkpoint: &Checkpoint,
        members: Vec<Member>,
        failure: Option<Error>,
    ) {
        let relations = self.external_inputs(&members);
        let feed =
            Arc::new(Feed::new(relations.clone(), clock.epoch, clock.now, self.sealer.arrived.clone()));
        clock.feeds.insert(id, feed.clone());
        if let Some(error) = failure {
            tracing::error!(dataflow = id, %error, "a dataflow cannot be recovered");
            feed.halt();
            self.registry().unrecovered.insert(id, epoch_of(checkpoint));
            self.set_failed(id, error.to_string());
            return;
        }
        let pause = self.registry().pause_of(id);
        let checkpointed = epoch_of(checkpoint);
        let mut missed = Missed { checkpointed, ..Missed::default() };
        match &pause {
            // It takes in what it has missed when it goes on.
            Some(_) => feed.halt(),
            None => {
                missed.sources = self.catch_ups(clock, &relations, &offsets_of(&checkpoint.meta));
                // What depends on which epochs a step holds gets those of the log as they were sealed.
                let is_stepwise = members.iter().any(Member::is_stepwise);
                let mut epochs: BTreeMap<Epoch, Sealed> = BTreeMap::new();
                let logged = self.logged();
                for relation in relations.iter().filter(|relation| clock.tables.contains_key(relation)) {
                    let changes = logged.changes.get(relation).into_iter().flatten();
                    for (at, batch) in changes.filter(|(at, _)| *at > checkpointed) {
                        let changes = match is_stepwise {
                            true => {
                                let now = logged.times.get(at).copied().unwrap_or(i64::MIN);
                                let sealed = || Sealed { epoch: *at, now, ..Sealed::default() };
                                &mut epochs.entry(*at).or_insert_with(sealed).changes
                            }
                            false => &mut missed.changes,
                        };
                        changes.entry(*relation).or_default().push(batch.clone());
                    }
                }
                missed.epochs = epochs.into_values().collect();
            }
        }
        let (epoch, now) = (clock.epoch, clock.now);
        let restarts = Arc::new(Restarts::new(self.config.restart_limit, self.config.restart_interval));
        self.launch(Launch { id, store, checkpoint, members, feed, epoch, now, missed, restarts, pause });
    }

    /// The newest checkpoint of every dataflow that still has a member, in which each member stands once.
    async fn checkpoints(
        &self,
        known: &BTreeSet<RelationId>,
    ) -> Result<Vec<(u64, CheckpointStore, Checkpoint)>, Error> {
        let names = self.root.child("dataflows").list().await?;
        let ids: BTreeSet<u64> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        self.registry().next_dataflow = ids.last().copied().unwrap_or(0) + 1;
        let mut taken: BTreeSet<RelationId> = BTreeSet::new();
        let mut found = Vec::new();
        // A dataflow that took over another's members has the higher number; the other's checkpoint is
        // what a crash left of it.
        let open = |id: u64| {
            let root = self.root.child(&format!("dataflows/{id}"));
            async move { Ok::<_, Error>((id, CheckpointStore::open(root).await?)) }
        };
        let mut opened = stream::iter(ids.into_iter().rev().map(open)).buffered(N_OPENED);
        while let Some((id, (store, checkpoint))) = opened.try_next().await? {
            let members = checkpoint.as_ref().map(members_in).unwrap_or_default();
            match checkpoint {
                Some(checkpoint) if members.iter().any(|id| known.contains(id) && !taken.contains(id)) => {
                    taken.extend(members);
                    found.push((id, store, checkpoint));
                }
                _ => store.remove().await?,
            }
        }
        Ok(found)
    }

    /// A member without state; in the place of another, if that has a handle.
    async fn member(&self, spec: &MemberSpec, handle: Option<Arc<MemberHandle>>) -> Result<Member, Error> {
        let outbox = spec.sink.clone().map(|sink| Outbox::new(sink, spec.plan.schema.clone()));
        let budget = match &handle {
            Some(handle) => handle.budget(),
            None => self.memory.budget(spec.memory_limit),
        };
        let identity = Identity { id: spec.id, state: spec.state, name: &spec.name };
        Member::new(identity, &spec.plan, &spec.session, outbox, &budget, handle).await
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

    fn enter_refused(&self, dataflow: u64, refused: &RefusedMember) {
        let RefusedMember { id, name, schema, reason, .. } = refused.clone();
        let budget = self.memory.budget(None);
        let handle = MemberHandle::new(id, &name, schema, &budget, Epoch::ZERO);
        handle.set_halt(Some(Halt::Failed { reason, since: TimeSource::System.now() }));
        let handle = Arc::new(handle);
        let entry =
            MemberEntry { handle, dataflow, delivery: None, is_filling: false, spec: None, paused: None };
        self.registry().members.insert(id, entry);
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
    fn external_inputs(&self, members: &[Member]) -> BTreeSet<RelationId> {
        let own: BTreeSet<RelationId> = members.iter().map(|member| member.id).collect();
        members
            .iter()
            .flat_map(|member| member.inputs.iter().copied())
            .filter(|id| !own.contains(id))
            .collect()
    }

    /// Starts the readers of every source that something reads.
    fn start_sources(&self, clock: &mut Clock) {
        for (id, source) in &clock.sources {
            if is_read(clock, *id) && !source.is_running() && source.paused().is_none() {
                let offsets =
                    clock.offsets.get(id).map(|offsets| offsets.as_ref().clone()).unwrap_or_default();
                source.start(offsets, clock.watermarks.get(id).copied());
            }
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
        let relations = member.inputs.clone();
        let is_filled = {
            let mut clock = self.sealer.clock.lock().await;
            self.catch_up_with_time(&mut clock, &member).await;
            let missed = self.missed(&clock, &relations, cancelled)?;
            let feed = Arc::new(Feed::new(relations, clock.epoch, clock.now, self.sealer.arrived.clone()));
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
    fn missed(
        &self,
        clock: &Clock,
        relations: &BTreeSet<RelationId>,
        cancelled: &CancellationToken,
    ) -> Result<Missed, Error> {
        let mut missed = Missed { cancelled: cancelled.clone(), ..Missed::default() };
        for id in relations {
            if let Some(table) = clock.tables.get(id) {
                let rows = table.view.snapshot(clock.epoch).batches()?;
                missed
                    .changes
                    .insert(*id, rows.iter().map(|rows| Delta::inserts(rows).into_batch()).collect());
            } else if let (Some(source), Some(to)) = (clock.sources.get(id), clock.offsets.get(id)) {
                missed.sources.push(CatchUp {
                    source: source.clone(),
                    from: Offsets::new(),
                    to: to.as_ref().clone(),
                    watermark: clock.watermarks.get(id).copied(),
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
        let relations: BTreeSet<RelationId> = {
            let registry = self.registry();
            member.inputs.iter().copied().filter(|id| !registry.members.contains_key(id)).collect()
        };
        let missed = self.missed(&clock, &relations, cancelled)?;
        target.feed.add_relations(&relations);
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

    /// Drops a table, with its rows.
    pub async fn drop_table(&self, id: RelationId) -> Result<(), Error> {
        {
            let mut clock = self.sealer.clock.lock().await;
            clock.retired.remove(&id);
            clock.tables.remove(&id);
        }
        // The catalog does not name it: what stays is garbage, which the next start removes.
        if let Err(error) = remove_all(&self.root_of_table(id)).await {
            tracing::warn!(table = id.0, %error, "what a dropped table leaves cannot be removed");
        }
        Ok(())
    }

    /// Removes what a crash has left of tables other than these.
    pub async fn remove_other_tables(&self, known: &BTreeSet<RelationId>) -> Result<(), Error> {
        let names = self.root.child("tables").list().await?;
        let ids: BTreeSet<u32> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        let is_known = |id: RelationId| known.contains(&id) || is_own(id);
        for id in ids.into_iter().map(RelationId).filter(|id| !is_known(*id)) {
            tracing::info!(table = id.0, "what is left of a dropped table is removed");
            remove_all(&self.root_of_table(id)).await?;
        }
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

    /// Writes to a table; on return the write is durable, and sealed.
    pub async fn write(&self, table: RelationId, write: TableWrite) -> Result<Written, Error> {
        let mut written = self.write_all(vec![(table, write)], Vec::new(), Vec::new()).await?;
        Ok(written.remove(0))
    }

    /// Writes in one epoch, all or none.
    async fn write_all(
        &self,
        writes: Vec<(RelationId, TableWrite)>,
        unchanged: Vec<(RelationId, Epoch)>,
        retired: Vec<RelationId>,
    ) -> Result<Vec<Written>, Error> {
        let (answer, written) = oneshot::channel();
        let request = WriteRequest { writes, unchanged, retired, answer };
        self.sealer.writes.send(request).await.map_err(|_| Error::ShuttingDown)?;
        written.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Decides a write that nobody else sees until the transaction commits; gives the rows that come in.
    pub async fn stage(
        &self,
        transaction: &Transaction,
        table: RelationId,
        write: TableWrite,
    ) -> Result<RecordBatch, Error> {
        let (rules, rows) = {
            let clock = self.sealer.clock.lock().await;
            let table = clock.tables.get(&table).ok_or_else(|| clock.not_running("table", table))?;
            (table.rules.clone(), table.rows())
        };
        transaction.write(&rules, rows, &write)
    }

    /// Makes what a transaction has written durable and seen, in one epoch, with what else is to be decided then;
    /// `None` where it changes nothing.
    pub async fn commit(&self, transaction: &Transaction, commit: Commit) -> Result<Option<Epoch>, Error> {
        let mut writes = transaction.writes()?;
        if !commit.marks.is_empty() {
            writes.push((marks::MARKS, marks::write(&commit.marks)));
        }
        if writes.is_empty() {
            return Ok(None);
        }
        let written = self.write_all(writes, commit.unchanged, commit.retired).await?;
        Ok(written.first().map(|written| written.epoch))
    }

    /// All marks, by key.
    pub async fn marks(&self) -> Result<BTreeMap<i64, i64>, Error> {
        let clock = self.sealer.clock.lock().await;
        let table =
            clock.tables.get(&marks::MARKS).ok_or_else(|| clock.not_running("table", marks::MARKS))?;
        marks::read(table)
    }

    /// Sets marks; on return they are durable.
    pub async fn mark(&self, marks: &[(i64, i64)]) -> Result<(), Error> {
        self.write(marks::MARKS, marks::write(marks)).await.map(drop)
    }

    /// Forgets a mark, if it is there.
    pub async fn erase_mark(&self, key: i64) -> Result<(), Error> {
        match self.marks().await?.get(&key) {
            Some(value) => self.write(marks::MARKS, marks::erase(key, *value)).await.map(drop),
            None => Ok(()),
        }
    }

    /// A name under which locks are taken.
    pub fn lock_owner(&self) -> u64 {
        self.locks.owner()
    }

    /// Lets one statement, or transaction, read a table in order to change it.
    pub async fn lock_table(&self, owner: u64, id: RelationId) -> Result<TableLock, Error> {
        let (name, lock) = {
            let clock = self.sealer.clock.lock().await;
            let table = clock.tables.get(&id).ok_or_else(|| clock.not_running("table", id))?;
            (table.rules.spec.name.clone(), table.lock.clone())
        };
        self.locks.take(owner, id, &name, lock).await
    }

    /// As [`lock_table`](Engine::lock_table), of something that is no table: whoever waits for it in a circle is told.
    pub async fn lock_other(
        &self,
        owner: u64,
        id: RelationId,
        name: &str,
        lock: Arc<Mutex<()>>,
    ) -> Result<TableLock, Error> {
        self.locks.take(owner, id, name, lock).await
    }

    /// The epoch at which a table has changed last.
    pub async fn changed(&self, id: RelationId) -> Option<Epoch> {
        self.sealer.clock.lock().await.tables.get(&id).map(|table| table.changed)
    }

    async fn handle(&self, id: RelationId) -> Result<(Arc<MemberHandle>, Option<Arc<Feed>>), Error> {
        let entry = {
            let registry = self.registry();
            registry.members.get(&id).map(|entry| {
                let feed = registry.dataflows.get(&entry.dataflow).map(|dataflow| dataflow.feed.clone());
                (entry.handle.clone(), feed)
            })
        };
        if let Some(found) = entry {
            return Ok(found);
        }
        let clock = self.sealer.clock.lock().await;
        match clock.tables.get(&id) {
            Some(table) => Ok((table.handle.clone(), None)),
            None => Err(clock.not_running("relation", id)),
        }
    }

    /// The relations that have something to show.
    pub async fn readable(&self) -> BTreeSet<RelationId> {
        let mut readable: BTreeSet<RelationId> = {
            let registry = self.registry();
            let of_pipelines = registry.members.iter().filter(|(_, entry)| entry.delivery.is_none());
            of_pipelines.filter(|(_, entry)| entry.handle.latest().is_some()).map(|(id, _)| *id).collect()
        };
        readable.extend(self.sealer.clock.lock().await.tables.keys());
        readable
    }

    /// What some relations show, all at one epoch, which is at least `at_least`.
    pub async fn read(&self, ids: &BTreeSet<RelationId>, at_least: Epoch) -> Result<ReadView, Error> {
        self.read_with(ids, &BTreeSet::new(), at_least).await
    }

    /// As [`read`](Engine::read), with what can be read of others, some of which may be gone by now.
    pub async fn read_with(
        &self,
        ids: &BTreeSet<RelationId>,
        beside: &BTreeSet<RelationId>,
        at_least: Epoch,
    ) -> Result<ReadView, Error> {
        let mut handles = Vec::new();
        for id in ids {
            handles.push(self.handle(*id).await?);
        }
        for id in beside.difference(ids) {
            if let Ok(found) = self.handle(*id).await
                && found.0.latest().is_some()
            {
                handles.push(found);
            }
        }
        let mut stale: Vec<Stale> = Vec::new();
        let running = || handles.iter().filter(|(handle, _)| handle.is_running());
        let mut epoch = running().map(|(handle, _)| handle.frontier()).min().unwrap_or(at_least);
        let at = |epoch: Epoch| -> Option<BTreeMap<RelationId, Arc<ViewSnapshot>>> {
            let find = |(handle, _): &(Arc<MemberHandle>, Option<Arc<Feed>>)| {
                let found = match handle.halt() {
                    None => handle.at(epoch),
                    Some(_) => handle.latest(),
                };
                found.map(|snapshot| (handle.id, snapshot))
            };
            handles.iter().map(find).collect()
        };
        let mut relations = if epoch >= at_least { at(epoch) } else { None };
        while relations.is_none() {
            // Let every dataflow stop at one epoch that has been sealed, and meet there.
            {
                let clock = self.sealer.clock.lock().await;
                epoch = clock.epoch;
                running().filter_map(|(_, feed)| feed.as_ref()).for_each(|feed| feed.add_barrier(epoch));
            }
            for (handle, _) in running() {
                let mut frontier = handle.frontier.subscribe();
                loop {
                    if *frontier.borrow_and_update() >= epoch || !handle.is_running() {
                        break;
                    }
                    let wait = tokio::time::timeout(Duration::from_millis(100), frontier.changed());
                    if let Ok(Err(_)) = wait.await {
                        return Err(Error::ShuttingDown);
                    }
                }
            }
            relations = at(epoch);
            let is_empty = |(handle, _): &(Arc<MemberHandle>, _)| handle.latest().is_none();
            if let Some((handle, _)) = handles.iter().find(|handle| is_empty(handle)) {
                let filling = || {
                    let (name, reason) = (handle.name.clone(), "it is still being filled".into());
                    Error::NotRunning { kind: "pipeline", name, reason }
                };
                return Err(handle.not_running().unwrap_or_else(filling));
            }
        }
        // Last of all: what has stopped while it was waited for shows an earlier epoch as well.
        for (handle, _) in &handles {
            if let Some(halt) = handle.halt() {
                let (name, state) = (handle.name.clone(), halt.state(&handle.name));
                stale.push(Stale { id: handle.id, name, state });
            }
        }
        Ok(ReadView { epoch, relations: relations.unwrap_or_default(), stale })
    }

    /// A relation's rows now and its changes from then on.
    pub async fn subscribe(&self, id: RelationId, at_least: Epoch) -> Result<Subscription, Error> {
        self.read(&BTreeSet::from([id]), at_least).await?;
        let (handle, _) = self.handle(id).await?;
        let (sender, changes) = mpsc::unbounded_channel();
        let mut subscribers = handle.subscribers.lock().expect("nobody panics while holding it");
        let Some(snapshot) = handle.latest() else {
            let reason = "it has no rows of its own".into();
            return Err(Error::NotRunning { kind: "relation", name: handle.name.clone(), reason });
        };
        subscribers.push(sender);
        Ok(Subscription { snapshot, epoch: handle.frontier(), changes })
    }

    /// Seals what has come in, and waits until everything that runs has taken it in.
    pub async fn flush(&self) -> Result<Epoch, Error> {
        let epoch = self.sealer.seal_now().await;
        let handles: Vec<Arc<MemberHandle>> =
            self.registry().members.values().map(|entry| entry.handle.clone()).collect();
        for handle in handles {
            let mut frontier = handle.frontier.subscribe();
            while *frontier.borrow_and_update() < epoch && handle.is_running() {
                let wait = tokio::time::timeout(Duration::from_millis(100), frontier.changed());
                if let Ok(Err(_)) = wait.await {
                    break;
                }
            }
        }
        Ok(epoch)
    }

    /// As [`flush`](Engine::flush); what that has come to is with subscribers and among the dead letters, too.
    pub async fn settle(&self) -> Result<Epoch, Error> {
        let epoch = self.flush().await?;
        let handles: Vec<Arc<MemberHandle>> =
            self.registry().members.values().map(|entry| entry.handle.clone()).collect();
        for handle in handles {
            // Who shows an epoch holds it until all of them have its changes.
            drop(handle.subscribers.lock().expect("nobody panics while holding it"));
        }
        let (answer, written) = oneshot::channel();
        self.late.send(LateLetters::Written(answer)).map_err(|_| Error::ShuttingDown)?;
        written.await.map_err(|_| Error::ShuttingDown)??;
        Ok(epoch)
    }

    /// When something happens although nothing comes in, as far as that is known now.
    pub async fn next_time(&self) -> Option<i64> {
        let clock = self.sealer.clock.lock().await;
        clock.feeds.values().filter_map(|feed| feed.deadline()).min()
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

    /// What a pipeline's operators have done.
    pub fn operators(&self, id: RelationId) -> Vec<OperatorStatus> {
        self.registry().members.get(&id).map(|entry| entry.handle.operators()).unwrap_or_default()
    }

    /// Makes the tables' changes durable as checkpoints, so that the log can be cut.
    pub async fn checkpoint_tables(&self) -> Result<(), Error> {
        let mut captured = Vec::new();
        {
            let clock = self.sealer.clock.lock().await;
            for table in clock.tables.values() {
                if table.changed > table.checkpointed {
                    captured.push((table.rules.spec.id, table.changed, table.capture(), table.store.clone()));
                }
            }
        }
        for (id, epoch, checkpoint, store) in captured {
            store.lock().await.write(&checkpoint).await?;
            if let Some(table) = self.sealer.clock.lock().await.tables.get_mut(&id) {
                table.checkpointed = epoch;
            }
        }
        let clock = self.sealer.clock.lock().await;
        let of_tables = clock.tables.values().filter(|table| table.changed > table.checkpointed);
        let mut needed = of_tables.map(|table| table.checkpointed).min().unwrap_or(clock.epoch);
        let registry = self.registry();
        for (id, feed) in &clock.feeds {
            if !clock.tables.keys().any(|table| feed.needs(*table)) {
                continue;
            }
            // One that stands still takes nothing, but goes on from its checkpoint.
            needed = needed.min(match (registry.dataflows.get(id), registry.unrecovered.get(id)) {
                (Some(dataflow), _) => Epoch(dataflow.checkpointed.load(Ordering::Acquire)),
                (None, Some(epoch)) => *epoch,
                (None, None) => Epoch::ZERO,
            });
        }
        drop(registry);
        clock.log.trim(needed);
        Ok(())
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

    /// What everything does.
    pub async fn status(&self) -> EngineStatus {
        let clock = self.sealer.clock.lock().await;
        let sources = clock.sources.values().map(|source| {
            let finished = source.finished_splits();
            let mut state = source.state.read().expect("nobody panics while holding it").clone();
            // Its last rows may not have been sealed yet.
            if state == State::Finished && source.waiting().is_some() {
                state = State::Running;
            }
            let paused = source.paused();
            if paused.is_some() && state != State::Finished {
                state = State::Paused("it is paused".into());
            }
            SourceStatus {
                id: source.spec.id,
                name: source.spec.name.clone(),
                state,
                since: paused,
                rows: source.rows.get(),
                bytes: source.bytes.get(),
                bad_records: source.bad_records.get(),
                watermark: clock.watermarks.get(&source.spec.id).copied(),
                splits: source
                    .offsets()
                    .into_iter()
                    .map(|(id, offset)| SplitStatus {
                        is_finished: finished.contains(&id),
                        id: id.to_string(),
                        offset: offset.to_string(),
                    })
                    .collect(),
                last_error: source.last_error.read().expect("nobody panics while holding it").clone(),
            }
        });
        let sources = sources.collect();
        let tables = clock.tables.values().filter(|table| !is_own(table.rules.spec.id));
        let tables = tables
            .map(|table| TableStatus {
                id: table.rules.spec.id,
                name: table.rules.spec.name.clone(),
                epoch: table.handle.frontier(),
                rows: table.view.snapshot(clock.epoch).arrangement().count(),
                state: table.view.snapshot(clock.epoch).size(),
            })
            .collect();
        let epoch = clock.epoch;
        drop(clock);
        let entries: Vec<MemberEntry> = self.registry().members.values().cloned().collect();
        let mut status = EngineStatus {
            epoch,
            uptime: self.started.elapsed(),
            sources,
            tables,
            jobs: self.jobs.status(),
            dead_letters: self.sealer.n_dead_letters.get(),
            ..EngineStatus::default()
        };
        for entry in entries {
            let pipeline = self.pipeline_status(&entry);
            match entry.delivery {
                None => status.pipelines.push(pipeline),
                Some(delivery) => status.sinks.push(SinkStatus {
                    pipeline,
                    rows_delivered: delivery.rows.get(),
                    rows_pending: delivery.pending_rows(),
                    rows_gathered: delivery.gathered_rows(),
                    bytes_pending: delivery.pending_bytes(),
                    pending_for: delivery.pending_for(),
                    delivered_to: delivery.delivered_to(),
                    retries: delivery.retries.get(),
                    last_error: delivery.last_error(),
                }),
            }
        }
        status
    }

    fn pipeline_status(&self, entry: &MemberEntry) -> PipelineStatus {
        let handle = &entry.handle;
        let metrics = &handle.metrics;
        let halt = handle.halt();
        let is_sink = entry.delivery.is_some();
        let (state, since) = match (&halt, entry.paused) {
            (None, Some(since)) if is_sink => (State::Paused("it is paused".into()), Some(since)),
            (Some(halt), _) => (halt.state(&handle.name), Some(halt.since())),
            (None, _) if entry.is_filling => (State::Filling, None),
            (None, _) => (State::Running, None),
        };
        let checkpointed =
            self.registry().dataflows.get(&entry.dataflow).map(|dataflow| dataflow.checkpointed.clone());
        let budget = handle.budget();
        PipelineStatus {
            id: handle.id,
            name: handle.name.clone(),
            state,
            since,
            dataflow: entry.dataflow,
            epoch: handle.frontier(),
            checkpoint_epoch: Epoch(checkpointed.map_or(0, |epoch| epoch.load(Ordering::Acquire))),
            steps: metrics.steps.get(),
            rows_in: metrics.rows_in.get(),
            rows_out: metrics.rows_out.get(),
            late_rows: metrics.late_rows.get(),
            state_bytes: metrics.state_bytes.load(Ordering::Relaxed),
            memory_bytes: budget.used() as u64,
            memory_limit: budget.limit() as u64,
            memory_error: budget.refusal(),
            view: handle.latest().map(|view| view.size()),
            step_time: metrics.step_time.counts(),
            latency: metrics.latency.counts(),
            fill: entry.is_filling.then(|| (metrics.fill_rows.get(), metrics.fill_rows_total.get().copied())),
            operators: handle.operators(),
        }
    }
}

/// The epoch of a dataflow's checkpoint.
fn epoch_of(checkpoint: &Checkpoint) -> Epoch {
    Epoch(checkpoint.meta["epoch"].as_u64().unwrap_or_default())
}

/// Who is in a dataflow's checkpoint.
struct MemberWords<'a> {
    id: RelationId,
    state: RelationId,
    words: &'a Value,
}

/// Who is in a dataflow's checkpoint, each behind those that it reads.
fn words_of_members(checkpoint: &Checkpoint) -> Vec<MemberWords<'_>> {
    let relation = |word: &Value| Some(RelationId(word.as_u64()? as u32));
    let mut members = Vec::new();
    for words in checkpoint.meta["members"].as_array().into_iter().flatten() {
        if let Some(id) = relation(&words["relation"]) {
            members.push(MemberWords { id, state: relation(&words["state"]).unwrap_or(id), words });
        }
    }
    members
}

/// The names of the states in a dataflow's checkpoint.
fn members_in(checkpoint: &Checkpoint) -> Vec<RelationId> {
    words_of_members(checkpoint).into_iter().map(|member| member.state).collect()
}

fn offsets_of(meta: &Value) -> BTreeMap<RelationId, Offsets> {
    let relation = |id: &String| id.parse().ok().map(RelationId);
    let entry = |(id, offsets): (&String, &Value)| {
        Some((relation(id)?, serde_json::from_value(offsets.clone()).ok()?))
    };
    meta["offsets"].as_object().into_iter().flatten().filter_map(entry).collect()
}

fn watermarks_of(meta: &Value) -> BTreeMap<RelationId, i64> {
    let entry =
        |(id, watermark): (&String, &Value)| Some((RelationId(id.parse().ok()?), watermark.as_i64()?));
    meta["watermarks"].as_object().into_iter().flatten().filter_map(entry).collect()
}
