//! Standing still and going on: pause, resume, restart.
//!
//! Pipelines and sinks that are tied by reading each other are one dataflow, and stand still together. A dataflow that
//! stands still has a feed that queues nothing, so nobody waits for it; where its sources stood, its checkpoint and the table
//! log behind that are kept for as long as it may go on. It goes on in one of two ways:
//!
//! - One that was *paused* is whole. It takes in what it has missed, like one that is recovered: sources are read from its own
//!   offsets to where the shared readers stand, tables' changes come out of the log.
//! - One that has *failed* was stopped in the middle of a step. Its members are made anew and put back to its
//!   checkpoint; then it takes in what it has missed since. Readers keep their handles, and with them the last epoch that was shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::RecordBatch;
use tidemill_core::Epoch;
use tidemill_core::sink::{OnError, Sink};
use tidemill_core::source::Offsets;
use tidemill_plan::RelationId;
use tidemill_storage::{Checkpoint, CheckpointStore};
use tokio::sync::{mpsc, oneshot};

use super::recovery::{MemberWords, epoch_of, members_in, offsets_of, watermarks_of, words_of_members};
use super::{Engine, MemberEntry, MemberSpec};
use crate::Error;
use crate::dataflow::{CatchUp, Command, Dataflow, DataflowHandle, Fall, Fallen, Missed, Resume};
use crate::feed::{Feed, Reads};
use crate::halt::{Halt, Pause, Restarts};
use crate::ipc::decode_batch;
use crate::member::Member;
use crate::outbox::Outbox;
use crate::sealer::{Clock, whole_epochs};
use crate::source::{SourceRuntime, SourceSpec};
use crate::time::TimeSource;

/// For so long a pause waits until a dataflow has caught up.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// For so long a pause waits for a checkpoint.
const CHECKPOINT_MAX: Duration = Duration::from_secs(5);

/// What became of a RESUME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    Running,
    /// It still stands still, since another is paused to which it is tied.
    TiedTo(String),
}

/// A dataflow that is about to run.
pub(super) struct Launch<'a> {
    pub id: u64,
    pub store: CheckpointStore,
    pub checkpoint: &'a Checkpoint,
    pub members: Vec<Member>,
    /// Begins behind `epoch`, unless the dataflow is paused.
    pub feed: Arc<Feed>,
    pub epoch: Epoch,
    pub now: i64,
    /// From the checkpoint to `epoch`.
    pub missed: Missed,
    pub restarts: Arc<Restarts>,
    pub pause: Option<Pause>,
}

impl Engine {
    /// The members of a checkpoint as they were then, and why they are not if something is wrong with one. Those that
    /// run, or did, keep their handles.
    pub(super) async fn restored(
        &self,
        checkpoint: &Checkpoint,
        specs: &[&Arc<MemberSpec>],
    ) -> Result<(Vec<Member>, Option<Error>), Error> {
        let mut members = Vec::new();
        let mut failure = None;
        let dataflow = checkpoint.meta["dataflow"].as_u64().unwrap_or_default();
        for MemberWords { state, words, .. } in words_of_members(checkpoint) {
            let Some(spec) = specs.iter().find(|spec| spec.state == state) else { continue };
            let before = self.registry().members.get(&spec.id).cloned();
            let mut member = self.member(spec, before.as_ref().map(|entry| entry.handle.clone())).await?;
            match before {
                None => self.enter(dataflow, &member, spec, false),
                Some(before) => self.renew(&before, &member),
            }
            if let Err(error) = member.restore(checkpoint, words, epoch_of(checkpoint)) {
                failure.get_or_insert(error);
            }
            members.push(member);
        }
        Ok((members, failure))
    }

    /// Notes that a member has been made anew.
    fn renew(&self, before: &MemberEntry, member: &Member) {
        let delivery = member.outbox.as_ref().map(Outbox::status);
        if let Some(delivery) = &delivery {
            if before.paused.is_some() {
                delivery.begin_paused();
            }
            // It is defined, or it would have no checkpoint.
            delivery.begin();
        }
        if let Some(entry) = self.registry().members.get_mut(&member.id) {
            entry.delivery = delivery;
        }
    }

    pub(super) fn launch(&self, launch: Launch<'_>) {
        let Launch { id, store, checkpoint, members, feed, epoch, now, missed, restarts, pause } = launch;
        let meta = &checkpoint.meta;
        let halt = pause.map(Halt::Paused);
        members.iter().for_each(|member| member.handle.set_halt(halt.clone()));
        restarts.arm();
        let dataflow = Dataflow {
            members,
            // One that is paused stays where it is.
            frontier: if halt.is_some() { epoch_of(checkpoint) } else { epoch },
            now: meta["now"].as_i64().unwrap_or(now),
            filled_now: now,
            offsets: {
                let read = feed.reads_all();
                let offsets = offsets_of(meta).into_iter().filter(|(id, _)| read.contains(*id));
                offsets.map(|(id, offsets)| (id, Arc::new(offsets))).collect()
            },
            watermarks: watermarks_of(meta),
            store: Some(store),
            halt,
            restarts,
            ..self.dataflow(id, feed)
        };
        let (ready, _) = oneshot::channel();
        let handle = dataflow.spawn(missed, ready);
        handle.checkpointed.store(epoch_of(checkpoint).0, Ordering::Release);
        self.registry().dataflows.insert(id, Arc::new(handle));
    }

    /// What a dataflow that stands at `offsets` has to read by itself, up to where the shared readers stand.
    pub(super) fn catch_ups(
        &self,
        clock: &Clock,
        reads: &Reads,
        offsets: &BTreeMap<RelationId, Offsets>,
    ) -> Vec<CatchUp> {
        let catch_up = |(relation, columns): (RelationId, &BTreeSet<usize>)| {
            let source = clock.sources.get(&relation)?.clone();
            let to = clock.offsets.get(&relation).map(|offsets| offsets.as_ref().clone()).unwrap_or_default();
            let from = offsets.get(&relation).cloned().unwrap_or_default();
            let watermark = clock.watermarks.get(&relation).copied();
            Some(CatchUp { source, columns: columns.clone(), from, to, watermark, n_rows: None })
        };
        reads.iter().filter_map(catch_up).collect()
    }

    /// The changes of some tables from one epoch to another, out of the log.
    async fn logged_between(
        &self,
        reads: &Reads,
        from: Epoch,
        to: Epoch,
    ) -> Result<BTreeMap<RelationId, Vec<RecordBatch>>, Error> {
        let mut changes: BTreeMap<RelationId, Vec<RecordBatch>> = BTreeMap::new();
        let log = {
            let clock = self.sealer.clock.lock().await;
            if !reads.relations().any(|relation| clock.tables.contains_key(&relation)) {
                return Ok(changes);
            }
            clock.log.clone()
        };
        for record in whole_epochs(log.between(from, to).await?) {
            if reads.contains(RelationId(record.relation)) {
                let batch = decode_batch(&record.payload)?;
                changes.entry(RelationId(record.relation)).or_default().push(batch);
            }
        }
        Ok(changes)
    }

    pub(super) fn entry(&self, id: RelationId) -> Result<(MemberEntry, Option<Arc<DataflowHandle>>), Error> {
        let registry = self.registry();
        let Some(entry) = registry.members.get(&id).cloned() else {
            let reason = "it has been dropped".into();
            return Err(Error::NotRunning { kind: "pipeline", name: id.to_string(), reason });
        };
        let dataflow = registry.dataflows.get(&entry.dataflow).cloned();
        Ok((entry, dataflow))
    }

    /// Lets a pipeline take nothing in, nor what it is tied to; or a sink deliver nothing. Gives the names of the
    /// others that stand still with it.
    pub async fn pause_member(&self, id: RelationId, since: i64) -> Result<Vec<String>, Error> {
        let _ddl = self.ddl.lock().await;
        let (entry, dataflow) = self.entry(id)?;
        if let Some(entry) = self.registry().members.get_mut(&id) {
            entry.paused = Some(since);
        }
        if let Some(delivery) = &entry.delivery {
            delivery.pause().await;
            return Ok(Vec::new());
        }
        self.stop_for(entry.dataflow, dataflow).await;
        let registry = self.registry();
        let others = registry.members_of(entry.dataflow).filter(|other| other.handle.id != id);
        Ok(others.map(|other| other.handle.name.to_string()).collect())
    }

    /// Makes a dataflow stand still that has a member which is paused.
    async fn stop_for(&self, id: u64, dataflow: Option<Arc<DataflowHandle>>) {
        let Some(pause) = self.registry().pause_of(id) else { return };
        let mut is_told = false;
        if let Some(dataflow) = dataflow {
            let until = self.sealer.clock.lock().await.epoch;
            let told = dataflow.ask(|answer| Command::Pause { pause: pause.clone(), until, answer });
            tokio::pin!(told);
            is_told = match tokio::time::timeout(CATCH_UP_MAX, &mut told).await {
                Ok(told) => told.is_some(),
                Err(_) => {
                    // It will begin at its checkpoint.
                    dataflow.end_fill();
                    told.await.is_some()
                }
            };
            if is_told && !dataflow.is_broken.load(Ordering::Acquire) {
                // So that it shows the same after a restart.
                let written = tokio::time::timeout(CHECKPOINT_MAX, self.checkpoint(id)).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(dataflow = id, %error, "a dataflow is paused without a checkpoint");
                }
            }
        }
        if !is_told {
            // Nothing runs that could be told.
            let registry = self.registry();
            registry
                .members_of(id)
                .for_each(|entry| entry.handle.set_halt(Some(Halt::Paused(pause.clone()))));
        }
        let mut clock = self.sealer.clock.lock().await;
        self.stop_sources(&mut clock);
    }

    /// Lets a pipeline or sink go on that was paused. A pipeline that had failed before begins at its checkpoint.
    pub async fn resume_member(&self, id: RelationId) -> Result<Resumed, Error> {
        let _ddl = self.ddl.lock().await;
        let (entry, _) = self.entry(id)?;
        if let Some(entry) = self.registry().members.get_mut(&id) {
            entry.paused = None;
        }
        if let Some(delivery) = &entry.delivery {
            delivery.resume();
            return Ok(Resumed::Running);
        }
        self.go_on(entry.dataflow).await
    }

    /// Lets a dataflow go on, unless one of its members is paused.
    async fn go_on(&self, id: u64) -> Result<Resumed, Error> {
        let (dataflow, pause) = {
            let registry = self.registry();
            (registry.dataflows.get(&id).cloned(), registry.pause_of(id))
        };
        if let Some(pause) = pause {
            self.stop_for(id, dataflow).await;
            return Ok(Resumed::TiedTo(pause.of.to_string()));
        }
        if let Some(dataflow) = &dataflow {
            dataflow.restarts.forget();
        }
        match dataflow {
            Some(dataflow) if !dataflow.is_broken.load(Ordering::Acquire) => {
                self.resume_dataflow(&dataflow).await?;
            }
            _ => self.reopen(id).await?,
        }
        Ok(Resumed::Running)
    }

    /// Lets a dataflow go on that is whole.
    async fn resume_dataflow(&self, dataflow: &DataflowHandle) -> Result<(), Error> {
        let Some((from, position)) = dataflow.positions.last() else { return Err(Error::ShuttingDown) };
        let reads = dataflow.feed.reads_all();
        let offsets: BTreeMap<RelationId, Offsets> =
            position.offsets.iter().map(|(id, offsets)| (*id, offsets.as_ref().clone())).collect();
        let mut missed = Missed::default();
        let (epoch, now) = {
            let mut clock = self.sealer.clock.lock().await;
            missed.sources = self.catch_ups(&clock, &reads, &offsets);
            dataflow.feed.resume(clock.epoch, clock.now);
            self.start_sources(&mut clock);
            (clock.epoch, clock.now)
        };
        missed.changes = match self.logged_between(&reads, from, epoch).await {
            Ok(changes) => changes,
            Err(error) => {
                dataflow.feed.halt();
                return Err(error);
            }
        };
        *dataflow.filling.lock().expect("nobody panics while holding it") = missed.cancelled.clone();
        // Who reads it from now on waits until it has taken in what it has missed.
        self.registry().members_of(dataflow.id).for_each(|entry| entry.handle.set_halt(None));
        let resume = Command::Resume(Box::new(Resume { missed, epoch, now }));
        dataflow.commands.send(resume).await.map_err(|_| Error::ShuttingDown)
    }

    /// Begins again from the checkpoint, with all that is tied to a pipeline or sink. Gives the names of the others.
    pub async fn restart_member(&self, id: RelationId) -> Result<Vec<String>, Error> {
        let _ddl = self.ddl.lock().await;
        let (entry, dataflow) = self.entry(id)?;
        if let Some(delivery) = entry.delivery.as_ref().filter(|_| entry.handle.is_running()) {
            delivery.restart();
            return Ok(Vec::new());
        }
        if self.registry().pause_of(entry.dataflow).is_some() {
            return Err(entry.handle.not_running().unwrap_or(Error::ShuttingDown));
        }
        if let Some(dataflow) = dataflow {
            dataflow.restarts.forget();
        }
        if entry.handle.is_running()
            && let Err(error) = self.checkpoint(entry.dataflow).await
        {
            tracing::warn!(%error, "a dataflow is restarted from an earlier checkpoint");
        }
        self.reopen(entry.dataflow).await?;
        let registry = self.registry();
        let others = registry.members_of(entry.dataflow).filter(|other| other.handle.id != id);
        Ok(others.map(|other| other.handle.name.to_string()).collect())
    }

    /// Ends a dataflow's task, if it has not ended, and what its sinks deliver.
    pub(super) async fn end_dataflow(&self, dataflow: &DataflowHandle) {
        dataflow.end_fill();
        dataflow.feed.halt();
        if let Some(mut released) = dataflow.ask(|answer| Command::Release { answer }).await {
            for outbox in released.members.iter_mut().filter_map(|member| member.outbox.as_mut()) {
                outbox.stop().await;
            }
        }
    }

    /// Begins a dataflow again that was taken out of its task, or has failed. Why it does not go on, where it does not, its members
    /// say.
    pub(super) async fn begin_again(&self, id: u64) {
        // Told by `reopen`.
        let _ = self.reopen(id).await;
    }

    /// Ends a dataflow, and begins it again from its checkpoint.
    async fn reopen(&self, id: u64) -> Result<(), Error> {
        let before = self.registry().dataflows.get(&id).cloned();
        if let Some(before) = &before {
            self.end_dataflow(before).await;
        }
        let restarts = match &before {
            Some(before) => before.restarts.clone(),
            None => Arc::new(Restarts::new(self.config.restart_limit, self.config.restart_interval)),
        };
        let outcome = self.open_again(id, restarts).await;
        if let Err(error) = &outcome {
            tracing::error!(dataflow = id, %error, "a dataflow cannot begin again");
            let mut registry = self.registry();
            if let Some(before) = registry.dataflows.remove(&id) {
                let epoch = Epoch(before.checkpointed.load(Ordering::Acquire));
                registry.unrecovered.insert(id, epoch);
            }
            drop(registry);
            self.set_failed(id, error.to_string());
        }
        outcome
    }

    async fn open_again(&self, id: u64, restarts: Arc<Restarts>) -> Result<(), Error> {
        let specs: Vec<Arc<MemberSpec>> = {
            let registry = self.registry();
            let mut specs = Vec::new();
            for entry in registry.members_of(id) {
                let unplanned = || entry.handle.not_running().unwrap_or(Error::ShuttingDown);
                specs.push(entry.spec.clone().ok_or_else(unplanned)?);
            }
            specs
        };
        let (store, checkpoint) = CheckpointStore::open(self.root.child(&format!("dataflows/{id}"))).await?;
        let in_it = checkpoint.as_ref().map(members_in).unwrap_or_default();
        let missing = specs.iter().find(|spec| !in_it.contains(&spec.state));
        let (Some(checkpoint), None) = (checkpoint, missing) else {
            let name = missing.map(|spec| spec.name.to_string()).unwrap_or_default();
            let reason = "its checkpoint is missing; drop it and create it again".into();
            return Err(Error::NotRunning { kind: "pipeline", name, reason });
        };
        let (members, failure) = self.restored(&checkpoint, &specs.iter().collect::<Vec<_>>()).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        let reads = self.external_reads(&members);
        let mut missed = Missed::default();
        let (feed, epoch, now) = {
            let mut clock = self.sealer.clock.lock().await;
            missed.sources = self.catch_ups(&clock, &reads, &offsets_of(&checkpoint.meta));
            let (epoch, now) = (clock.epoch, clock.now);
            let new = || Arc::new(Feed::new(reads.clone(), epoch, now, self.sealer.arrived.clone()));
            let feed = clock.feeds.entry(id).or_insert_with(new).clone();
            feed.add_reads(&reads);
            feed.resume(epoch, now);
            self.start_sources(&mut clock);
            (feed, epoch, now)
        };
        missed.changes = match self.logged_between(&reads, epoch_of(&checkpoint), epoch).await {
            Ok(changes) => changes,
            Err(error) => {
                feed.halt();
                return Err(error);
            }
        };
        self.registry().unrecovered.remove(&id);
        let checkpoint = &checkpoint;
        self.launch(Launch {
            id,
            store,
            checkpoint,
            members,
            feed,
            epoch,
            now,
            missed,
            restarts,
            pause: None,
        });
        Ok(())
    }

    pub(super) fn set_failed(&self, dataflow: u64, reason: String) {
        let halt = Halt::Failed { reason, since: TimeSource::System.now() };
        self.registry().members_of(dataflow).for_each(|entry| entry.handle.set_halt(Some(halt.clone())));
    }

    /// Lets the rest of a dataflow go on, where it was the member that has left which kept it from that.
    pub(super) async fn go_on_without(&self, left: &MemberEntry) -> Result<(), Error> {
        let halt = self.registry().members_of(left.dataflow).find_map(|entry| entry.handle.halt());
        let was_paused = left.paused.is_some() && left.delivery.is_none();
        // A fill has been ended, so that it could leave.
        let was_ended = matches!(&halt, Some(Halt::Restarting { .. }));
        if halt.is_some() && (was_paused || was_ended) {
            self.go_on(left.dataflow).await?;
        }
        Ok(())
    }

    /// Begins a dataflow again that has failed, unless somebody else has done something about it.
    async fn restart_fallen(&self, id: u64) -> Option<Duration> {
        let _ddl = self.ddl.lock().await;
        let restarts = {
            let registry = self.registry();
            let is_waiting =
                |entry: &MemberEntry| matches!(entry.handle.halt(), Some(Halt::Restarting { .. }));
            let dataflow = registry.dataflows.get(&id).filter(|_| registry.members_of(id).any(is_waiting))?;
            dataflow.restarts.clone()
        };
        match self.reopen(id).await {
            Ok(()) => None,
            Err(error) => restarts.next(&error),
        }
    }

    /// Marks a dataflow whose task has panicked, which nothing should; says after which time to begin again.
    fn panicked(&self, id: u64, reason: String) -> Option<Duration> {
        let registry = self.registry();
        let dataflow = registry.dataflows.get(&id)?;
        tracing::error!(dataflow = id, reason, "a dataflow has panicked");
        dataflow.feed.halt();
        dataflow.is_broken.store(true, Ordering::Release);
        let error = Error::NotRunning { kind: "dataflow", name: id.to_string(), reason: reason.clone() };
        let after = dataflow.restarts.next(&error);
        let since = TimeSource::System.now();
        let halt = match after {
            Some(_) => Halt::Restarting { reason, since },
            None => Halt::Failed { reason, since },
        };
        registry.members_of(id).for_each(|entry| entry.handle.set_halt(Some(halt.clone())));
        after
    }

    async fn source(&self, id: RelationId) -> Result<Arc<SourceRuntime>, Error> {
        let clock = self.sealer.clock.lock().await;
        clock.sources.get(&id).cloned().ok_or_else(|| clock.not_running("source", id))
    }

    /// Stops to read a source. What has been read is sealed.
    pub async fn pause_source(&self, id: RelationId, since: i64) -> Result<(), Error> {
        let source = self.source(id).await?;
        source.set_paused(Some(since));
        source.stop();
        Ok(())
    }

    /// What is called `name` from now on, in all that is said of it.
    pub async fn rename(&self, id: RelationId, name: &str) {
        if let Ok(source) = self.source(id).await {
            source.spec.name.set(name);
        }
        if let Ok((handle, _)) = self.handle(id).await {
            handle.name.set(name);
        }
    }

    /// Goes on reading a source.
    pub async fn resume_source(&self, id: RelationId) -> Result<(), Error> {
        self.source(id).await?.set_paused(None);
        let mut clock = self.sealer.clock.lock().await;
        self.start_sources(&mut clock);
        Ok(())
    }

    /// Reads a source with new readers, from where what was sealed ends.
    pub async fn restart_source(&self, id: RelationId) -> Result<(), Error> {
        let source = self.source(id).await?;
        // Under the clock's lock: nothing is sealed between the old readers and the new ones.
        let mut clock = self.sealer.clock.lock().await;
        source.stop();
        source.forget_failure();
        self.start_sources(&mut clock);
        Ok(())
    }

    /// Reads a source with other options from now on.
    pub async fn alter_source(&self, spec: SourceSpec) -> Result<(), Error> {
        let source = self.source(spec.id).await?;
        let mut clock = self.sealer.clock.lock().await;
        let is_running = source.is_running();
        source.stop();
        source.alter(&spec);
        if is_running {
            self.start_sources(&mut clock);
        }
        Ok(())
    }

    /// Lets a sink connect with other options from now on.
    pub fn alter_sink(&self, id: RelationId, sink: Arc<dyn Sink>) -> Result<(), Error> {
        self.entry(id)?;
        let mut registry = self.registry();
        let Some(entry) = registry.members.get_mut(&id) else { return Ok(()) };
        if let Some(spec) = &mut entry.spec {
            *spec = Arc::new(MemberSpec { sink: Some(sink.clone()), ..spec.as_ref().clone() });
        }
        if let Some(delivery) = &entry.delivery {
            delivery.alter(sink);
        }
        Ok(())
    }

    /// Lets a sink do something else about errors from now on.
    pub fn set_on_error(&self, id: RelationId, on_error: OnError) -> Result<(), Error> {
        self.entry(id)?;
        let mut registry = self.registry();
        let Some(entry) = registry.members.get_mut(&id) else { return Ok(()) };
        if let Some(spec) = &mut entry.spec {
            *spec = Arc::new(MemberSpec { on_error, ..spec.as_ref().clone() });
        }
        if let Some(delivery) = &entry.delivery {
            delivery.set_on_error(on_error);
        }
        Ok(())
    }

    /// Lets a sink go on that has paused itself; false if it has not.
    pub fn go_on_after_error(&self, id: RelationId) -> Result<bool, Error> {
        let (entry, _) = self.entry(id)?;
        let stopped = entry.delivery.filter(|delivery| delivery.stopped().is_some());
        stopped.iter().for_each(|delivery| delivery.restart());
        Ok(stopped.is_some())
    }

    /// Gives a pipeline or sink another limit of memory; without a number, a fair share.
    pub fn set_memory_limit(&self, id: RelationId, limit: Option<usize>) -> Result<(), Error> {
        let (entry, _) = self.entry(id)?;
        self.memory.ask(&entry.handle.budget(), limit);
        Ok(())
    }

    /// Stops or starts what a sink delivers while its successor is made, which writes to the same place.
    pub async fn hold_sink(&self, id: RelationId, is_held: bool) {
        let entry = self.registry().members.get(&id).cloned();
        let Some(MemberEntry { delivery: Some(delivery), paused: None, .. }) = entry else { return };
        match is_held {
            true => delivery.pause().await,
            false => delivery.resume(),
        }
    }
}

/// Begins dataflows again that have failed, for as long as the engine lives.
pub(super) async fn supervise(engine: Weak<Engine>, mut has_fallen: mpsc::UnboundedReceiver<Fallen>) {
    while let Some(Fallen { id, how }) = has_fallen.recv().await {
        let Some(running) = engine.upgrade() else { return };
        let after = match how {
            Fall::Failed { after } => after,
            Fall::Panicked(reason) => running.panicked(id, reason),
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut after = after;
            while let Some(pause) = after {
                tokio::time::sleep(pause).await;
                let Some(engine) = engine.upgrade() else { return };
                after = engine.restart_fallen(id).await;
            }
            // Nobody reads for one that has stopped for good.
            let Some(engine) = engine.upgrade() else { return };
            let mut clock = engine.sealer.clock.lock().await;
            engine.stop_sources(&mut clock);
        });
    }
}
