//! Everything that runs, and how it is asked.

mod sample;
mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
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
use crate::dataflow::{Attach, CatchUp, Command, Dataflow, DataflowHandle, Missed};
use crate::dead_letters;
use crate::feed::Feed;
use crate::ipc::decode_batch;
use crate::marks;
use crate::member::{Member, MemberHandle};
use crate::memory::Memory;
use crate::outbox::{DeliveryStatus, Outbox};
use crate::sealer::{Clock, LOGGED_TIME, Sealer, WriteRequest, is_read};
use crate::source::{DeadLetter, SourceRuntime, SourceSpec};
use crate::status::{
    EngineStatus, OperatorStatus, PipelineStatus, SinkStatus, SourceStatus, SplitStatus, State, TableStatus,
};
use crate::table::{Locks, OnConflict, Table, TableLock, TableSpec, TableWrite, Transaction, Written};
use crate::time::TimeSource;
use crate::view::ViewSnapshot;

/// How many checkpoints are opened at once: in an object store each takes several requests.
const N_OPENED: usize = 8;

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How long rows wait for others before they become an epoch.
    pub epoch_interval: Duration,
    pub checkpoint_interval: Duration,
    /// What `now()` is.
    pub time: TimeSource,
    /// How many bytes of memory all state together may take.
    pub memory_limit: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            epoch_interval: Duration::from_millis(10),
            checkpoint_interval: Duration::from_secs(1),
            time: TimeSource::System,
            memory_limit: 1 << 30,
        }
    }
}

/// A pipeline or, with a sink, what fills it.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    pub id: RelationId,
    pub name: String,
    pub plan: PipelinePlan,
    /// Plans were made with it; it says the number of lanes.
    pub session: SessionState,
    pub sink: Option<Arc<dyn Sink>>,
    /// How many bytes of memory its state may take; without a number, a fair share of all.
    pub memory_limit: Option<usize>,
}

/// What a SELECT reads.
#[derive(Debug, Clone)]
pub struct ReadView {
    pub epoch: Epoch,
    pub relations: BTreeMap<RelationId, Arc<ViewSnapshot>>,
    /// Relations that show an earlier epoch, because they do not run: name and reason.
    pub stale: Vec<(String, String)>,
}

/// A relation now, and its changes from then on.
#[derive(Debug)]
pub struct Subscription {
    pub snapshot: Arc<ViewSnapshot>,
    pub epoch: Epoch,
    pub changes: mpsc::UnboundedReceiver<(Epoch, Delta)>,
}

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

pub use self::sample::{Sample, Sampled, SampledFrom};
pub use self::standing::{Replayed, StandingView};

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
    late: mpsc::UnboundedSender<Vec<DeadLetter>>,
    started: Instant,
    /// Of the table log, by relation, until recovery has used them.
    logged: StdMutex<BTreeMap<RelationId, Vec<(Epoch, RecordBatch)>>>,
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
    /// Whether a dataflow has a member left that does not run any more.
    fn has_failed(&self, dataflow: u64) -> bool {
        let mut members = self.members.values().filter(|entry| entry.dataflow == dataflow);
        members.any(|entry| entry.handle.failure().is_some())
    }
}

#[derive(Clone)]
struct MemberEntry {
    handle: Arc<MemberHandle>,
    dataflow: u64,
    delivery: Option<Arc<DeliveryStatus>>,
    is_filling: bool,
}

impl Engine {
    /// Opens what is durable below `root`. Tables, sources and pipelines are told to it next, and
    /// [`recover`](Engine::recover) starts them.
    pub async fn open(root: Root, config: EngineConfig) -> Result<Arc<Engine>, Error> {
        let (log, mut records) = Log::open(&root.child("log")).await?;
        // An epoch's time comes last. Without it the epoch was cut off, and nobody was told that it is durable.
        let complete =
            records.iter().filter(|record| record.relation == LOGGED_TIME).map(|record| record.epoch);
        if let Some(complete) = complete.max() {
            records.retain(|record| record.epoch <= complete);
        }
        let epoch = records.iter().map(|record| record.epoch).max().unwrap_or(Epoch::ZERO);
        let mut logged: BTreeMap<RelationId, Vec<(Epoch, RecordBatch)>> = BTreeMap::new();
        let mut now = i64::MIN;
        for LogRecord { epoch, relation, payload } in records {
            if relation == LOGGED_TIME {
                let bytes = payload
                    .try_into()
                    .map_err(|_| Error::Unsupported("an epoch's time in the log".into()))?;
                now = now.max(i64::from_le_bytes(bytes));
                continue;
            }
            logged.entry(RelationId(relation)).or_default().push((epoch, decode_batch(&payload)?));
        }
        let arrived = Arc::new(Notify::new());
        let clock = Clock {
            epoch,
            now: now.max(config.time.now()),
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
        let (late, mut late_letters) = mpsc::unbounded_channel::<Vec<DeadLetter>>();
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
            started: Instant::now(),
            logged: StdMutex::new(logged),
        });
        engine.add_table(dead_letters::table()).await?;
        engine.add_table(marks::table()).await?;
        sealer.clock.lock().await.dead_letters = Some(dead_letters::DEAD_LETTERS);
        tokio::spawn(sealer.clone().run(requests));
        tokio::spawn(async move {
            while let Some(letters) = late_letters.recv().await {
                sealer.n_dead_letters.add(letters.len());
                let (answer, _) = oneshot::channel();
                let write = dead_letters::write(&letters);
                let request = WriteRequest {
                    writes: vec![(dead_letters::DEAD_LETTERS, write)],
                    unchanged: Vec::new(),
                    retired: Vec::new(),
                    answer,
                };
                if sealer.writes.send(request).await.is_err() {
                    return;
                }
            }
        });
        Ok(engine)
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
        let logged =
            self.logged.lock().expect("nobody panics while holding it").get(&table.rules.spec.id).cloned();
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
        let source = SourceRuntime::new(spec, self.sealer.arrived.clone());
        self.sealer.clock.lock().await.sources.insert(source.spec.id, Arc::new(source));
    }

    /// Starts the pipelines and sinks that were there before, each from its checkpoint.
    pub async fn recover(&self, specs: Vec<MemberSpec>) -> Result<(), Error> {
        let found = self.checkpoints(&specs).await?;
        let mut clock = self.sealer.clock.lock().await;
        let epoch_of = |checkpoint: &Checkpoint| Epoch(checkpoint.meta["epoch"].as_u64().unwrap_or_default());
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
            for (id, offsets) in offsets_of(&checkpoint.meta) {
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
            let words = checkpoint.meta["members"].as_array().cloned().unwrap_or_default();
            let epoch = epoch_of(&checkpoint);
            let mut members = Vec::new();
            let mut failure = None;
            for words in &words {
                let relation = RelationId(words["relation"].as_u64().unwrap_or_default() as u32);
                let Some(spec) = specs.iter().find(|spec| spec.id == relation) else { continue };
                recovered.insert(relation);
                let mut member = self.member(spec).await?;
                if let Err(error) = member.restore(&checkpoint, words, epoch) {
                    failure.get_or_insert(error);
                }
                members.push(member);
            }
            self.start_recovered(&mut clock, id, store, &checkpoint, members, failure);
        }
        for spec in &specs {
            if !recovered.contains(&spec.id) {
                let member = self.member(spec).await?;
                let reason = "its checkpoint is missing; drop it and create it again";
                *member.handle.failure.write().expect("nobody panics while holding it") = Some(reason.into());
                self.enter(0, &member, false);
            }
        }
        for table in clock.tables.values() {
            table.handle.frontier.send_replace(clock.epoch);
        }
        self.sealer.sealed_now.store(clock.now, Ordering::SeqCst);
        self.sealer.sealed.send_replace(clock.epoch);
        self.start_sources(&mut clock);
        self.logged.lock().expect("nobody panics while holding it").clear();
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
        let epoch = Epoch(checkpoint.meta["epoch"].as_u64().unwrap_or_default());
        let offsets = offsets_of(&checkpoint.meta);
        let relations = self.external_inputs(&members);
        for member in &members {
            self.enter(id, member, false);
        }
        if let Some(error) = failure {
            tracing::error!(dataflow = id, %error, "a dataflow cannot be recovered");
            self.registry().unrecovered.insert(id, epoch);
            for member in &members {
                *member.handle.failure.write().expect("nobody panics while holding it") =
                    Some(error.to_string());
            }
            return;
        }
        let mut missed = Missed::default();
        for relation in &relations {
            if let Some(source) = clock.sources.get(relation) {
                let to =
                    clock.offsets.get(relation).map(|offsets| offsets.as_ref().clone()).unwrap_or_default();
                let from = offsets.get(relation).cloned().unwrap_or_default();
                let watermark = clock.watermarks.get(relation).copied();
                let source = source.clone();
                missed.sources.push(CatchUp { source, from, to, watermark, n_rows: None });
            } else if clock.tables.contains_key(relation) {
                let logged = self.logged.lock().expect("nobody panics while holding it");
                let changes = logged.get(relation).into_iter().flatten();
                let changes: Vec<RecordBatch> =
                    changes.filter(|(at, _)| *at > epoch).map(|(_, batch)| batch.clone()).collect();
                if !changes.is_empty() {
                    missed.changes.insert(*relation, changes);
                }
            }
        }
        let feed = Arc::new(Feed::new(relations, clock.epoch, clock.now, self.sealer.arrived.clone()));
        clock.feeds.insert(id, feed.clone());
        let dataflow = Dataflow {
            members,
            frontier: clock.epoch,
            now: checkpoint.meta["now"].as_i64().unwrap_or(clock.now),
            filled_now: clock.now,
            offsets: offsets.into_iter().map(|(id, offsets)| (id, Arc::new(offsets))).collect(),
            watermarks: watermarks_of(&checkpoint.meta),
            store: Some(store),
            ..self.dataflow(id, feed)
        };
        let (ready, _) = oneshot::channel();
        let handle = dataflow.spawn(missed, ready);
        handle.checkpointed.store(epoch.0, Ordering::Release);
        self.registry().dataflows.insert(id, Arc::new(handle));
    }

    /// The newest checkpoint of every dataflow that still has a member, in which each member stands once.
    async fn checkpoints(
        &self,
        specs: &[MemberSpec],
    ) -> Result<Vec<(u64, CheckpointStore, Checkpoint)>, Error> {
        let names = self.root.child("dataflows").list().await?;
        let ids: BTreeSet<u64> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        self.registry().next_dataflow = ids.last().copied().unwrap_or(0) + 1;
        let mut taken: BTreeSet<u64> = BTreeSet::new();
        let mut found = Vec::new();
        // A dataflow that took over another's members has the higher number; the other's checkpoint is
        // what a crash left of it.
        let open = |id: u64| {
            let root = self.root.child(&format!("dataflows/{id}"));
            async move { Ok::<_, Error>((id, CheckpointStore::open(root).await?)) }
        };
        let mut opened = stream::iter(ids.into_iter().rev().map(open)).buffered(N_OPENED);
        while let Some((id, (store, checkpoint))) = opened.try_next().await? {
            let members: BTreeSet<u64> = match &checkpoint {
                Some(checkpoint) => checkpoint.meta["members"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|words| words["relation"].as_u64())
                    .filter(|id| specs.iter().any(|spec| u64::from(spec.id.0) == *id))
                    .collect(),
                None => BTreeSet::new(),
            };
            match checkpoint {
                Some(checkpoint) if members.iter().any(|id| !taken.contains(id)) => {
                    taken.extend(&members);
                    found.push((id, store, checkpoint));
                }
                _ => store.remove().await?,
            }
        }
        Ok(found)
    }

    async fn member(&self, spec: &MemberSpec) -> Result<Member, Error> {
        let outbox = spec.sink.clone().map(|sink| Outbox::new(sink, spec.plan.schema.clone()));
        let budget = self.memory.budget(spec.memory_limit);
        Member::new(spec.id, &spec.name, &spec.plan, &spec.session, outbox, &budget).await
    }

    fn enter(&self, dataflow: u64, member: &Member, is_filling: bool) {
        let entry = MemberEntry {
            handle: member.handle.clone(),
            dataflow,
            delivery: member.outbox.as_ref().map(Outbox::status),
            is_filling,
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
            store: None,
            checkpointed: Arc::new(AtomicU64::new(0)),
            positions: Arc::default(),
            checkpoint_interval: self.config.checkpoint_interval,
            dead_letters: self.late.clone(),
            filled_watermarks: BTreeMap::new(),
            is_dirty: true,
            failure: None,
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
            if is_read(clock, *id) && !source.is_running() {
                let offsets =
                    clock.offsets.get(id).map(|offsets| offsets.as_ref().clone()).unwrap_or_default();
                source.start(offsets, clock.watermarks.get(id).copied());
            }
        }
    }

    /// Stops the readers of sources that nothing reads; whoever comes next begins at the start.
    fn stop_sources(&self, clock: &mut Clock) {
        let unread: Vec<RelationId> =
            clock.sources.keys().copied().filter(|id| !is_read(clock, *id)).collect();
        for id in unread {
            clock.sources[&id].stop();
            clock.offsets.remove(&id);
            clock.watermarks.remove(&id);
        }
    }

    /// Creates a pipeline or sink and fills it with what is there. On return it is durable, or, after an error
    /// or when it was cancelled, not there.
    ///
    /// Whoever drops this future leaves the member half made: cancel it instead.
    pub async fn create_member(&self, spec: MemberSpec, cancelled: &CancellationToken) -> Result<(), Error> {
        let _ddl = cancelled.run_until_cancelled(self.ddl.lock()).await.ok_or(Error::Cancelled)?;
        let member = self.member(&spec).await?;
        let upstream: BTreeSet<u64> = {
            let registry = self.registry();
            let of = |id: &RelationId| registry.members.get(id);
            if let Some(entry) =
                spec.plan.inputs.iter().filter_map(of).find(|entry| entry.handle.failure().is_some())
            {
                let (name, reason) = (entry.handle.name.clone(), entry.handle.failure().unwrap_or_default());
                return Err(Error::NotRunning { kind: "pipeline", name, reason });
            }
            spec.plan.inputs.iter().filter_map(of).map(|entry| entry.dataflow).collect()
        };
        let id = spec.id;
        let created = match upstream.is_empty() {
            true => self.create_dataflow(member, cancelled).await,
            false => self.attach(member, upstream, cancelled).await,
        };
        let outcome = match created {
            Ok(dataflow) => {
                let written = cancelled.run_until_cancelled(self.checkpoint(dataflow)).await;
                written.unwrap_or(Err(Error::Cancelled))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.remove_member(id).await?;
            return Err(error);
        }
        if let Some(entry) = self.registry().members.get_mut(&id) {
            entry.is_filling = false;
        }
        Ok(())
    }

    async fn create_dataflow(&self, member: Member, cancelled: &CancellationToken) -> Result<u64, Error> {
        let id = {
            let mut registry = self.registry();
            registry.next_dataflow += 1;
            registry.next_dataflow
        };
        let root = self.root.child(&format!("dataflows/{id}"));
        let (store, _) = CheckpointStore::open(root).await?;
        self.enter(id, &member, true);
        let relations = member.inputs.clone();
        let ready = {
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
                store: Some(store),
                ..self.dataflow(id, feed)
            };
            let (ready, is_ready) = oneshot::channel();
            let handle = dataflow.spawn(missed, ready);
            self.registry().dataflows.insert(id, Arc::new(handle));
            self.start_sources(&mut clock);
            is_ready
        };
        ready.await.map_err(|_| Error::ShuttingDown)??;
        Ok(id)
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
        self.enter(target.id, &member, true);
        let mut clock = self.sealer.clock.lock().await;
        self.catch_up_with_time(&mut clock, &member).await;
        for other in &upstream {
            let (answer, released) = oneshot::channel();
            other.commands.send(Command::Release { answer }).await.map_err(|_| Error::ShuttingDown)?;
            let mut released = released.await.map_err(|_| Error::ShuttingDown)?;
            while released.frontier < clock.epoch {
                let sealed = released.feed.take();
                released.step(sealed).await?;
            }
            clock.feeds.remove(&other.id);
            target.feed.add_relations(&other.feed.relations());
            target.commands.send(Command::Absorb(released)).await.map_err(|_| Error::ShuttingDown)?;
            let mut registry = self.registry();
            registry.dataflows.remove(&other.id);
            for entry in registry.members.values_mut() {
                if entry.dataflow == other.id {
                    entry.dataflow = target.id;
                }
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

    async fn checkpoint(&self, dataflow: u64) -> Result<(), Error> {
        let handle = self.registry().dataflows.get(&dataflow).cloned();
        let Some(handle) = handle else { return Ok(()) };
        let (answer, written) = oneshot::channel();
        handle.commands.send(Command::Checkpoint { answer }).await.map_err(|_| Error::ShuttingDown)?;
        written.await.map_err(|_| Error::ShuttingDown)?.map(drop)
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
        let (entry, dataflow) = {
            let mut registry = self.registry();
            let Some(entry) = registry.members.remove(&id) else { return Ok(()) };
            let dataflow = registry.dataflows.get(&entry.dataflow).cloned();
            (entry, dataflow)
        };
        let Some(dataflow) = dataflow else { return Ok(()) };
        let (answer, detached) = oneshot::channel();
        dataflow.commands.send(Command::Detach { id, answer }).await.map_err(|_| Error::ShuttingDown)?;
        let is_empty = detached.await.map_err(|_| Error::ShuttingDown)?;
        let mut clock = self.sealer.clock.lock().await;
        if is_empty {
            let (answer, released) = oneshot::channel();
            dataflow.commands.send(Command::Release { answer }).await.map_err(|_| Error::ShuttingDown)?;
            released.await.map_err(|_| Error::ShuttingDown)?;
            clock.feeds.remove(&dataflow.id);
            self.registry().dataflows.remove(&dataflow.id);
            remove_all(&self.root.child(&format!("dataflows/{}", entry.dataflow))).await?;
        }
        self.stop_sources(&mut clock);
        self.memory.share();
        // A full feed may have been what others waited for.
        self.sealer.arrived.notify_one();
        Ok(())
    }

    /// Drops a table, with its rows.
    pub async fn drop_table(&self, id: RelationId) -> Result<(), Error> {
        let table = {
            let mut clock = self.sealer.clock.lock().await;
            clock.retired.remove(&id);
            clock.tables.remove(&id)
        };
        if let Some(table) = table {
            drop(table);
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
        let clock = self.sealer.clock.lock().await;
        let table = clock.tables.get(&table).ok_or_else(|| clock.not_running("table", table))?;
        transaction.write(table, &write)
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

    /// What some relations show, all at one epoch, which is at least `at_least`.
    pub async fn read(&self, ids: &BTreeSet<RelationId>, at_least: Epoch) -> Result<ReadView, Error> {
        let mut handles = Vec::new();
        for id in ids {
            handles.push(self.handle(*id).await?);
        }
        let mut stale = Vec::new();
        for (handle, _) in &handles {
            if let Some(reason) = handle.failure() {
                stale.push((handle.name.clone(), reason));
            }
        }
        let is_running = |handle: &MemberHandle| handle.failure().is_none();
        let running = || handles.iter().filter(|(handle, _)| is_running(handle));
        let mut epoch = running().map(|(handle, _)| handle.frontier()).min().unwrap_or(at_least);
        let at = |epoch: Epoch| -> Option<BTreeMap<RelationId, Arc<ViewSnapshot>>> {
            let find = |(handle, _): &(Arc<MemberHandle>, Option<Arc<Feed>>)| {
                let found = if is_running(handle) { handle.at(epoch) } else { handle.latest() };
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
                    if *frontier.borrow_and_update() >= epoch || !is_running(handle) {
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
                let name = handle.name.clone();
                let reason = handle.failure().unwrap_or_else(|| "it is still being filled".into());
                return Err(Error::NotRunning { kind: "pipeline", name, reason });
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
            while *frontier.borrow_and_update() < epoch && handle.failure().is_none() {
                let wait = tokio::time::timeout(Duration::from_millis(100), frontier.changed());
                if let Ok(Err(_)) = wait.await {
                    break;
                }
            }
        }
        Ok(epoch)
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
        for (id, dataflow) in &registry.dataflows {
            let reads_tables = clock.tables.keys().any(|table| dataflow.feed.reads(*table));
            // One that has failed takes nothing any more, but goes on from its checkpoint after a restart.
            if reads_tables || registry.has_failed(*id) {
                needed = needed.min(Epoch(dataflow.checkpointed.load(Ordering::Acquire)));
            }
        }
        for (id, epoch) in &registry.unrecovered {
            if registry.has_failed(*id) {
                needed = needed.min(*epoch);
            }
        }
        drop(registry);
        clock.log.trim(needed);
        Ok(())
    }

    /// Makes tables' checkpoints from time to time, for ever.
    pub async fn maintain(self: Arc<Engine>) {
        let mut tick = tokio::time::interval(self.config.checkpoint_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
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
        self.flush().await?;
        let dataflows: Vec<u64> = self.registry().dataflows.keys().copied().collect();
        for id in dataflows {
            if let Err(error) = self.checkpoint(id).await {
                tracing::error!(dataflow = id, %error, "the last checkpoint failed");
            }
        }
        self.checkpoint_tables().await?;
        let deadline = Instant::now() + Duration::from_secs(5);
        let is_delivered = |registry: &Registry| {
            registry
                .members
                .values()
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
            SourceStatus {
                id: source.spec.id,
                name: source.spec.name.clone(),
                state,
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
        let state = match handle.failure() {
            Some(reason) => State::Failed(reason),
            None if entry.is_filling => State::Filling,
            None => State::Running,
        };
        let checkpointed =
            self.registry().dataflows.get(&entry.dataflow).map(|dataflow| dataflow.checkpointed.clone());
        PipelineStatus {
            id: handle.id,
            name: handle.name.clone(),
            state,
            dataflow: entry.dataflow,
            epoch: handle.frontier(),
            checkpoint_epoch: Epoch(checkpointed.map_or(0, |epoch| epoch.load(Ordering::Acquire))),
            steps: metrics.steps.get(),
            rows_in: metrics.rows_in.get(),
            rows_out: metrics.rows_out.get(),
            late_rows: metrics.late_rows.get(),
            state_bytes: metrics.state_bytes.load(Ordering::Relaxed),
            memory_bytes: handle.budget.used() as u64,
            memory_limit: handle.budget.limit() as u64,
            memory_error: handle.budget.refusal(),
            view: handle.latest().map(|view| view.size()),
            step_time: metrics.step_time.counts(),
            latency: metrics.latency.counts(),
            fill: entry.is_filling.then(|| (metrics.fill_rows.get(), metrics.fill_rows_total.get().copied())),
            operators: handle.operators(),
        }
    }
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
