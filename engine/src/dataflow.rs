//! A dataflow: pipelines and sinks that are tied by reading each other, in one task.
//!
//! It is the unit of failure and of checkpoints. Its members are in an order in which each comes behind
//! those that it reads. A step takes everything that has been sealed, runs every member on the changes of
//! what it reads, and then lets readers see all of them at the new epoch. Checkpoints are captured between
//! two steps and written beside the following ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use serde_json::json;
use tidemill_core::source::Offsets;
use tidemill_core::{Delta, Epoch};
use tidemill_plan::RelationId;
use tidemill_storage::{Checkpoint, CheckpointStore};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::dead_letters::{LateLetters, shown_rows};
use crate::feed::{Feed, Reads, Sealed};
use crate::halt::{Halt, Pause, Restarts};
use crate::index::{Built, IndexSpec, IsBuilt};
use crate::member::{GiveBack, Member, outbox_blobs};
use crate::operators::{LateRows, StepContext};
use crate::outbox::Outbox;
use crate::source::{DeadLetter, RangeReader, SourceRuntime};
use crate::time::TimeSource;
use tidemill_core::SqlState;

/// Rows of a fill that are one step.
const FILL_ROWS: usize = 64 * 1024;

/// Of how many steps it is known where the sources stood: of as many as views have snapshots.
const N_POSITIONS: usize = 64;

/// What others ask of a running dataflow.
pub(crate) enum Command {
    /// Takes a member in, and fills it.
    Attach(Box<Attach>),
    /// Takes over all members of another dataflow, which has stepped to the clock's epoch, once it has come there itself.
    Absorb {
        other: Box<Dataflow>,
        /// Whether it is to last before anything else is done.
        is_kept: bool,
        answer: oneshot::Sender<Result<(), Error>>,
    },
    /// Lets a member take the place of another.
    Replace(Box<Replace>),
    /// Forgets of sources what no member reads.
    Narrow { answer: oneshot::Sender<()> },
    /// Lets a member have these indexes and no others. Says who says when they are ready.
    SetIndexes {
        id: RelationId,
        indexes: Vec<IndexSpec>,
        answer: oneshot::Sender<Result<Vec<IsBuilt>, Error>>,
    },
    /// Lets a member go.
    Detach { id: RelationId, answer: oneshot::Sender<bool> },
    /// Makes a checkpoint now, and says when it is durable.
    Checkpoint { answer: oneshot::Sender<Result<Epoch, Error>> },
    /// Ends the task and hands everything over.
    Release { answer: oneshot::Sender<Box<Dataflow>> },
    /// Takes in what was sealed until an epoch, and then nothing any more until it is told to go on.
    Pause { pause: Pause, until: Epoch, answer: oneshot::Sender<()> },
    /// Goes on.
    Resume(Box<Resume>),
}

/// Where a dataflow that stood still goes on.
pub(crate) struct Resume {
    /// From where it stands to `epoch`, behind which its feed begins.
    pub missed: Missed,
    pub epoch: Epoch,
    /// The time of `epoch`.
    pub now: i64,
}

/// Two members of a dataflow that change places.
pub(crate) struct Replace {
    pub old: RelationId,
    pub new: RelationId,
    /// Sent once it is known how they differ. Until then nothing is sealed, and next the epoch in which they change places.
    pub prepared: oneshot::Sender<()>,
    pub sealed: oneshot::Receiver<()>,
    pub answer: oneshot::Sender<Result<(), Error>>,
}

/// A new member and what it is filled with.
pub(crate) struct Attach {
    pub member: Member,
    pub missed: Missed,
    /// Sent once the dataflow stands at the epoch that `missed` is about. Until then nothing is sealed.
    pub reached: oneshot::Sender<()>,
    pub filled: oneshot::Sender<Result<(), Error>>,
}

/// What a dataflow or a new member has to take in before it goes on with what is sealed.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    /// Epochs behind a checkpoint that have to be steps of their own, and the checkpoint's.
    pub epochs: Vec<Sealed>,
    pub checkpointed: Epoch,
    pub sources: Vec<CatchUp>,
    pub changes: BTreeMap<RelationId, Vec<RecordBatch>>,
    /// Nobody waits for it any more.
    pub cancelled: CancellationToken,
}

/// A part of a source that a dataflow has to read by itself.
#[derive(Debug, Clone)]
pub(crate) struct CatchUp {
    pub source: Arc<SourceRuntime>,
    /// What is read of it.
    pub columns: BTreeSet<usize>,
    pub from: Offsets,
    pub to: Offsets,
    /// The source's watermark at `to`.
    pub watermark: Option<i64>,
    /// How many rows there are from `from` to `to`, if the shared readers have counted them.
    pub n_rows: Option<u64>,
}

/// Where a dataflow's sources stood at its last epochs.
#[derive(Debug, Default)]
pub(crate) struct Positions(Mutex<VecDeque<(Epoch, Position)>>);

/// Where a dataflow's sources stand at an epoch.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    pub offsets: BTreeMap<RelationId, Arc<Offsets>>,
    pub watermarks: BTreeMap<RelationId, i64>,
    /// The time of the epoch, `now()`.
    pub now: i64,
}

impl Positions {
    fn push(&self, epoch: Epoch, position: Position) {
        let mut positions = self.0.lock().expect("nobody panics while holding it");
        positions.retain(|(known, _)| *known != epoch);
        positions.push_back((epoch, position));
        if positions.len() > N_POSITIONS {
            positions.pop_front();
        }
    }

    /// Where they stand now.
    pub fn last(&self) -> Option<(Epoch, Position)> {
        self.0.lock().expect("nobody panics while holding it").back().cloned()
    }

    /// Where they stood at exactly `epoch`, if a step ended there not long ago.
    pub fn at(&self, epoch: Epoch) -> Option<Position> {
        let positions = self.0.lock().expect("nobody panics while holding it");
        positions.iter().find(|(known, _)| *known == epoch).map(|(_, position)| position.clone())
    }
}

/// The outside's end of a dataflow.
#[derive(Debug)]
pub(crate) struct DataflowHandle {
    pub id: u64,
    pub commands: mpsc::Sender<Command>,
    pub feed: Arc<Feed>,
    /// The epoch of the last durable checkpoint.
    pub checkpointed: Arc<AtomicU64>,
    pub positions: Arc<Positions>,
    pub restarts: Arc<Restarts>,
    /// Its members do not fit together any more: it can only go on from its checkpoint.
    pub is_broken: Arc<AtomicBool>,
    /// Ends the fill that is under way, if one is.
    pub filling: Mutex<CancellationToken>,
}

impl DataflowHandle {
    /// Asks the dataflow's task for something; `None` where the task is gone.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Ends the fill that is under way, if one is. What it leaves half done is as if it had failed.
    pub fn end_fill(&self) {
        self.filling.lock().expect("nobody panics while holding it").cancel();
    }
}

/// A dataflow that does not step any more.
#[derive(Debug)]
pub(crate) struct Fallen {
    pub id: u64,
    pub how: Fall,
}

#[derive(Debug)]
pub(crate) enum Fall {
    /// It is to begin again after a while, or not by itself.
    Failed { after: Option<Duration> },
    /// Its task is gone.
    Panicked(String),
}

/// Everything that a dataflow's task owns.
pub(crate) struct Dataflow {
    pub id: u64,
    /// Each behind those that it reads.
    pub members: Vec<Member>,
    pub feed: Arc<Feed>,
    pub frontier: Epoch,
    pub offsets: BTreeMap<RelationId, Arc<Offsets>>,
    pub watermarks: BTreeMap<RelationId, i64>,
    /// The time of `frontier`.
    pub now: i64,
    pub store: Option<CheckpointStore>,
    pub checkpointed: Arc<AtomicU64>,
    pub positions: Arc<Positions>,
    pub checkpoint_interval: Duration,
    /// As in [`StepContext`].
    pub rows_max: usize,
    pub dead_letters: mpsc::UnboundedSender<LateLetters>,
    /// Where sources' time will stand at the end of a fill.
    pub filled_watermarks: BTreeMap<RelationId, i64>,
    /// What time it will be at the end of a fill.
    pub filled_now: i64,
    /// What is filled has not been there before.
    pub is_creating: bool,
    /// Something has happened since the last checkpoint.
    pub is_dirty: bool,
    /// Why it does not step.
    pub halt: Option<Halt>,
    pub is_broken: Arc<AtomicBool>,
    pub restarts: Arc<Restarts>,
    /// Who looks after dataflows that have failed.
    pub fallen: mpsc::UnboundedSender<Fallen>,
}

/// A checkpoint that has been written, or not.
struct Written {
    store: CheckpointStore,
    epoch: Epoch,
    /// Who is in it. A member that has come since is not.
    members: BTreeSet<RelationId>,
    /// Its blobs, where they lie now.
    blobs: BTreeMap<String, Bytes>,
    outcome: Result<(), Error>,
}

impl Dataflow {
    /// Runs the dataflow in a task of its own, which first takes in what it has missed and then says so.
    pub fn spawn(mut self, missed: Missed, ready: oneshot::Sender<Result<(), Error>>) -> DataflowHandle {
        let (commands, inbox) = mpsc::channel(64);
        let handle = DataflowHandle {
            id: self.id,
            commands,
            feed: self.feed.clone(),
            checkpointed: self.checkpointed.clone(),
            positions: self.positions.clone(),
            restarts: self.restarts.clone(),
            is_broken: self.is_broken.clone(),
            filling: Mutex::new(missed.cancelled.clone()),
        };
        let (id, fallen) = (self.id, self.fallen.clone());
        let task = tokio::spawn(async move {
            // One that is paused takes in what it has missed when it goes on.
            let outcome = match self.halt {
                None => self.catch_up(missed).await,
                Some(_) => {
                    self.note_position();
                    Ok(())
                }
            };
            // Nobody waits for a dataflow that was there before the server started.
            let _ = ready.send(outcome);
            self.run(inbox).await;
        });
        tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
            {
                // Nobody listens any more while the server shuts down.
                let _ = fallen.send(Fallen { id, how: Fall::Panicked(error.to_string()) });
            }
        });
        handle
    }

    /// Takes in what it has missed, and fails if it cannot.
    async fn catch_up(&mut self, missed: Missed) -> Result<(), Error> {
        let outcome = self.take_in(missed).await;
        if outcome.is_ok() {
            self.note_position();
        }
        let outcome = outcome.and_then(|()| self.tell_deadline());
        if let Err(error) = &outcome {
            self.fail(error);
        }
        outcome
    }

    /// Takes in what was sealed until an epoch, and then nothing any more. What is sealed later it gets by itself when
    /// it goes on.
    async fn pause(&mut self, pause: Pause, until: Epoch) {
        while self.halt.is_none() && self.frontier < until {
            let sealed = self.feed.take();
            if let Err(error) = self.step(sealed).await {
                self.fail(&error);
            }
        }
        self.feed.halt();
        self.set_halt(Some(Halt::Paused(pause)));
    }

    async fn resume(&mut self, resume: Resume) {
        let Resume { missed, epoch, now } = resume;
        self.set_halt(None);
        self.frontier = epoch;
        self.filled_now = now;
        // Why it failed, its members say.
        let _ = self.catch_up(missed).await;
    }

    fn set_halt(&mut self, halt: Option<Halt>) {
        self.members.iter().for_each(|member| member.handle.set_halt(halt.clone()));
        self.halt = halt;
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        for member in &mut self.members {
            if let Some(outbox) = &mut member.outbox {
                outbox.start();
            }
        }
        let mut writing: Option<JoinHandle<Written>> = None;
        let mut asked: Vec<oneshot::Sender<Result<Epoch, Error>>> = Vec::new();
        let mut answered: Vec<oneshot::Sender<Result<Epoch, Error>>> = Vec::new();
        let mut ticks = ticks(self.checkpoint_interval);
        let mut is_time = false;
        // A full outbox asks for a checkpoint at once, but not again and again for one that cannot be written.
        let mut has_failed = false;
        let feed = self.feed.clone();
        loop {
            feed.rest();
            let is_full =
                self.members.iter().filter_map(|member| member.outbox.as_ref()).any(Outbox::is_full);
            self.begin_builds();
            let written = async {
                match &mut writing {
                    Some(task) => task.await,
                    None => std::future::pending().await,
                }
            };
            let tick = async {
                match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                written = written => {
                    writing = None;
                    if written.as_ref().is_err_and(JoinError::is_cancelled) {
                        // The runtime ends.
                        return;
                    }
                    let Written { store, epoch, members, blobs, outcome } = written.expect("writing a checkpoint does not panic");
                    self.store = Some(store);
                    let outcome = outcome.map_err(|error| {
                        tracing::error!(dataflow = self.id, %error, "a checkpoint failed");
                        Arc::new(error)
                    });
                    match &outcome {
                        Ok(()) => self.durable(epoch, &members, &blobs),
                        Err(_) => self.is_dirty = true,
                    }
                    has_failed = outcome.is_err();
                    for answer in answered.drain(..) {
                        let _ = answer.send(outcome.clone().map(|()| epoch).map_err(Error::Checkpoint));
                    }
                }
                command = inbox.recv() => match command {
                    None => return,
                    Some(Command::Attach(attach)) => self.attach(*attach).await,
                    Some(Command::Absorb { other, is_kept, answer }) => {
                        // A checkpoint that is under way is of one of the two.
                        if let Some(task) = writing.take() {
                            self.written(task.await.expect("writing a checkpoint does not panic"));
                            asked.append(&mut answered);
                        }
                        let outcome = self.absorb(*other).await;
                        let is_kept = is_kept && outcome.is_ok();
                        let _ = answer.send(outcome);
                        // Before anything can fail: the other's own checkpoint is not where this one looks.
                        if is_kept && let Some(task) = self.checkpoint() {
                            self.written(task.await.expect("writing a checkpoint does not panic"));
                        }
                    }
                    Some(Command::Narrow { answer }) => {
                        self.narrow();
                        let _ = answer.send(());
                    }
                    Some(Command::Replace(replace)) => self.replace(*replace).await,
                    Some(Command::Detach { id, answer }) => {
                        self.detach(id).await;
                        let _ = answer.send(self.members.is_empty());
                    }
                    Some(Command::Checkpoint { answer }) => asked.push(answer),
                    Some(Command::Release { answer }) => {
                        if let Some(task) = writing.take() {
                            self.written(task.await.expect("writing a checkpoint does not panic"));
                        }
                        let _ = answer.send(Box::new(self));
                        return;
                    }
                    Some(Command::Pause { pause, until, answer }) => {
                        self.pause(pause, until).await;
                        let _ = answer.send(());
                    }
                    Some(Command::Resume(resume)) => self.resume(*resume).await,
                    Some(Command::SetIndexes { id, indexes, answer }) => {
                        let _ = answer.send(self.set_indexes(id, &indexes));
                    }
                },
                (id, built) = built(&self.members) => self.finish_build(id, built),
                // Until a checkpoint has taken to disk what waits.
                () = space(&self.members), if is_full => (),
                () = feed.sealed(), if self.halt.is_none() && !is_full => {
                    let sealed = feed.take();
                    if let Err(error) = self.step(sealed).await {
                        self.fail(&error);
                    }
                }
                _ = tick => {
                    is_time = true;
                    has_failed = false;
                }
            }
            let is_stale =
                self.members.iter().filter_map(|member| member.outbox.as_ref()).any(Outbox::is_stale);
            let is_full =
                self.members.iter().filter_map(|member| member.outbox.as_ref()).any(Outbox::is_full);
            // What a step has left half done is no checkpoint. One that is paused is whole.
            let is_whole = !self.is_broken();
            let is_due =
                (is_full && !has_failed) || !asked.is_empty() || (is_time && (self.is_dirty || is_stale));
            if writing.is_none() && is_due && is_whole {
                is_time = false;
                answered.append(&mut asked);
                writing = self.checkpoint();
            } else if !is_whole {
                for answer in asked.drain(..) {
                    let _ = answer.send(Err(self.not_running()));
                }
            }
        }
    }

    /// Takes what has been sealed as one step.
    pub async fn step(&mut self, sealed: Sealed) -> Result<(), Error> {
        self.step_with(sealed, None).await
    }

    /// Takes what has been sealed as one step, in which a member's relation changes by more than the member says.
    async fn step_with(
        &mut self,
        sealed: Sealed,
        difference: Option<(RelationId, Vec<RecordBatch>)>,
    ) -> Result<(), Error> {
        let from = self.frontier;
        let context = StepContext {
            epoch: sealed.epoch,
            watermarks_before: self.watermarks.clone(),
            watermarks: {
                let mut watermarks = self.watermarks.clone();
                for (source, watermark) in &sealed.watermarks {
                    let known = watermarks.entry(*source).or_insert(*watermark);
                    *known = (*known).max(*watermark);
                }
                watermarks
            },
            now_before: self.now,
            now: sealed.now.max(self.now),
            arrival: sealed.now.max(self.now),
            is_filling: false,
            is_created: false,
            rows_max: self.rows_max,
        };
        let mut is_something = false;
        for member in &self.members {
            is_something |= member.next_time(self.now)?.is_some_and(|next| next <= context.now);
        }
        let mut changes = sealed.changes;
        let mut touched: BTreeSet<RelationId> = changes.keys().copied().collect();
        let passes_time = !sealed.watermarks.is_empty();
        is_something |= !changes.is_empty() || !sealed.offsets.is_empty() || !sealed.watermarks.is_empty();
        for member in &mut self.members {
            if passes_time || member.reads_time() || !member.inputs.is_disjoint(&touched) {
                touched.insert(member.id);
            }
            let mut result = member.step(&context, &changes).await.map_err(|error| named(member, error))?;
            if let Some((_, difference)) = difference.as_ref().filter(|(id, _)| *id == member.id) {
                result.changes.splice(0..0, difference.iter().cloned());
                touched.insert(member.id);
            } else if difference.is_some() && !result.late.is_empty() {
                // Rows that change in time that is over for it: it would miss them for ever.
                return Err(Error::Unsupported(format!(
                    "\"{}\" has closed times in which rows change now",
                    member.handle.name
                )));
            }
            member.send(from, sealed.epoch, &result.changes)?;
            report_late(&self.dead_letters, member, sealed.epoch, result.late);
            changes.insert(member.id, result.changes);
        }
        self.frontier = sealed.epoch;
        self.watermarks = context.watermarks;
        self.now = context.now;
        self.offsets.extend(sealed.offsets);
        self.is_dirty |= is_something;
        // Before anybody sees the epoch, so that who does finds out what it is made of.
        self.note_position();
        self.tell_deadline()?;
        for member in &mut self.members {
            let output = changes.get(&member.id).map(Vec::as_slice).unwrap_or_default();
            member.publish(sealed.epoch, output, touched.contains(&member.id), sealed.arrived)?;
        }
        Ok(())
    }

    /// Says when something is to be done although nothing comes in.
    fn tell_deadline(&self) -> Result<(), Error> {
        let mut deadline = None;
        for member in &self.members {
            let next = member.next_time(self.now)?;
            deadline = [deadline, next].into_iter().flatten().min();
        }
        self.feed.set_deadline(deadline);
        self.feed.set_stepwise(self.members.iter().any(Member::is_stepwise));
        Ok(())
    }

    fn note_position(&self) {
        let position =
            Position { offsets: self.offsets.clone(), watermarks: self.watermarks.clone(), now: self.now };
        self.positions.push(self.frontier, position);
    }

    /// Takes in what all members have missed.
    async fn take_in(&mut self, mut missed: Missed) -> Result<(), Error> {
        let reached = self.frontier;
        for sealed in std::mem::take(&mut missed.epochs) {
            self.frontier = missed.checkpointed;
            missed.checkpointed = sealed.epoch;
            self.step(sealed).await?;
        }
        self.frontier = reached;
        let mut members = std::mem::take(&mut self.members);
        let outcome = self.fill(&mut members, missed).await;
        self.members = members;
        outcome
    }

    /// Takes in what members have missed, and lets readers see them. Until all of it is in, time does not
    /// pass for them: no window closes, and sinks get everything as one change.
    async fn fill(&mut self, members: &mut [Member], missed: Missed) -> Result<(), Error> {
        let cancelled = missed.cancelled.clone();
        // What a cancelled fill leaves half done goes away with its members.
        let filled = cancelled.run_until_cancelled(self.fill_all(members, missed));
        filled.await.unwrap_or(Err(Error::Cancelled))
    }

    async fn fill_all(&mut self, members: &mut [Member], missed: Missed) -> Result<(), Error> {
        let from: Vec<Epoch> = members.iter().map(Member::taken).collect();
        let mut unsent: BTreeMap<RelationId, Vec<RecordBatch>> = BTreeMap::new();
        let mut sources = Vec::new();
        let mut n_rows: BTreeMap<RelationId, Option<u64>> = BTreeMap::new();
        for catch_up in missed.sources {
            let reader = RangeReader::new(catch_up.source.clone(), &catch_up.from, &catch_up.to).await?;
            let reader = reader.only(&catch_up.columns);
            n_rows.insert(catch_up.source.spec.id, catch_up.n_rows.or_else(|| reader.n_rows()));
            sources.push((catch_up, reader));
        }
        let n_rows_of =
            |batches: &[RecordBatch]| batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        n_rows.extend(missed.changes.iter().map(|(id, batches)| (*id, Some(n_rows_of(batches)))));
        for member in members.iter() {
            let of_inputs = member.inputs.iter().filter_map(|id| n_rows.get(id).copied());
            if let Some(total) = of_inputs.sum::<Option<u64>>() {
                member.handle.metrics.fill_rows_total.get_or_init(|| total);
            }
        }
        for (catch_up, mut reader) in sources {
            let id = catch_up.source.spec.id;
            let mut pending: Vec<RecordBatch> = Vec::new();
            loop {
                let batch = reader.next().await?;
                let is_end = batch.is_none();
                pending.extend(batch);
                let n_pending: usize = pending.iter().map(RecordBatch::num_rows).sum();
                if (is_end && n_pending > 0) || n_pending >= FILL_ROWS {
                    let changes = BTreeMap::from([(id, std::mem::take(&mut pending))]);
                    self.fill_step(members, changes, &mut unsent, true).await?;
                }
                if is_end {
                    break;
                }
            }
            self.offsets.insert(id, Arc::new(catch_up.to.clone()));
            self.late_watermarks(id, catch_up.watermark.max(reader.watermark));
        }
        for (id, batches) in missed.changes {
            for chunk in chunks(batches) {
                self.fill_step(members, BTreeMap::from([(id, chunk)]), &mut unsent, true).await?;
            }
        }
        // A pipeline without any input row has a result too, and the windows that are complete close now.
        self.fill_step(members, BTreeMap::new(), &mut unsent, false).await?;
        for (member, from) in members.iter_mut().zip(from) {
            member.send(from, self.frontier, &unsent.remove(&member.id).unwrap_or_default())?;
            member.publish_all(self.frontier)?;
        }
        self.filled_watermarks = BTreeMap::new();
        self.is_dirty = true;
        Ok(())
    }

    /// Notes how far a source's time has come by the end of a fill.
    fn late_watermarks(&mut self, source: RelationId, watermark: Option<i64>) {
        if let Some(watermark) = watermark {
            let known = self.filled_watermarks.entry(source).or_insert(watermark);
            *known = watermark.max(*known);
        }
    }

    async fn fill_step(
        &mut self,
        members: &mut [Member],
        mut changes: BTreeMap<RelationId, Vec<RecordBatch>>,
        unsent: &mut BTreeMap<RelationId, Vec<RecordBatch>>,
        is_timeless: bool,
    ) -> Result<(), Error> {
        let watermarks_before = self.watermarks.clone();
        let now_before = self.now;
        if !is_timeless {
            self.now = self.now.max(self.filled_now);
            for (source, watermark) in &self.filled_watermarks {
                let known = self.watermarks.entry(*source).or_insert(*watermark);
                *known = (*known).max(*watermark);
            }
        }
        let context = StepContext {
            epoch: self.frontier,
            watermarks_before,
            watermarks: self.watermarks.clone(),
            now_before,
            now: self.now,
            arrival: self.now.max(self.filled_now),
            is_filling: is_timeless,
            is_created: !is_timeless && self.is_creating,
            rows_max: self.rows_max,
        };
        let n_rows: Vec<(RelationId, usize)> = changes
            .iter()
            .map(|(id, batches)| (*id, batches.iter().map(RecordBatch::num_rows).sum()))
            .collect();
        for member in members {
            let result = member.step(&context, &changes).await.map_err(|error| named(member, error))?;
            let of_inputs = n_rows.iter().filter(|(id, _)| member.inputs.contains(id)).map(|(_, n)| n);
            member.handle.metrics.fill_rows.add(of_inputs.sum());
            report_late(&self.dead_letters, member, self.frontier, result.late);
            if member.outbox.is_some() {
                unsent.entry(member.id).or_default().extend(result.changes.iter().cloned());
            }
            changes.insert(member.id, result.changes);
        }
        Ok(())
    }

    /// Takes a member in, filled with what there is of its inputs.
    async fn attach(&mut self, attach: Attach) {
        let Attach { member, mut missed, reached, filled } = attach;
        let outcome = async {
            if self.halt.is_some() {
                return Err(self.not_running());
            }
            self.take_all().await?;
            for upstream in &self.members {
                if member.inputs.contains(&upstream.id) {
                    missed.changes.insert(upstream.id, upstream.contents()?);
                }
            }
            Ok(())
        };
        let outcome = outcome.await;
        // From here on epochs may be sealed; they wait in the feed.
        let _ = reached.send(());
        let outcome = match outcome {
            Ok(()) => {
                let mut member = [member];
                // The others' time goes on; the new member's has to begin before all of its rows.
                let watermarks = std::mem::take(&mut self.watermarks);
                self.filled_watermarks = watermarks.clone();
                self.is_creating = true;
                let outcome = self.fill(&mut member, missed).await;
                self.watermarks.extend(watermarks);
                self.note_position();
                let [mut member] = member;
                if outcome.is_ok() {
                    if let Some(outbox) = &mut member.outbox {
                        outbox.start();
                    }
                    self.members.push(member);
                }
                outcome.and_then(|()| self.tell_deadline())
            }
            Err(error) => Err(error),
        };
        let _ = filled.send(outcome);
    }

    /// Takes all that is there, in however many steps. Nothing more is sealed meanwhile.
    async fn take_all(&mut self) -> Result<(), Error> {
        loop {
            let sealed = self.feed.take();
            if let Err(error) = self.step(sealed).await {
                self.fail(&error);
                return Err(error);
            }
            if !self.feed.is_behind(self.frontier) {
                return Ok(());
            }
        }
    }

    /// Lets a member take the place of another: from the next epoch on it is the other, and those who read that get the
    /// difference.
    async fn replace(&mut self, replace: Replace) {
        let Replace { old, new, prepared, sealed, answer } = replace;
        let outcome = async {
            if self.halt.is_some() {
                return Err(self.not_running());
            }
            self.take_all().await?;
            let (difference, give_back) = self.put_in_place(old, new)?;
            // Who asks for it waits for this, and seals the epoch.
            let _ = prepared.send(());
            let _ = sealed.await;
            let sealed = self.feed.take();
            if let Err(error) = self.step_with(sealed, Some((old, difference))).await {
                // It begins again from its checkpoint, which knows of nothing.
                give_back.give_back();
                self.fail(&error);
                return Err(error);
            }
            Ok(())
        };
        let outcome = outcome.await;
        // Nobody waits for it any more where the server shuts down.
        let _ = answer.send(outcome);
    }

    /// Puts a member into the place of another; gives the difference between the two. After an error nothing has changed.
    fn put_in_place(
        &mut self,
        old: RelationId,
        new: RelationId,
    ) -> Result<(Vec<RecordBatch>, GiveBack), Error> {
        let place = |members: &[Member], id| {
            members.iter().position(|member| member.id == id).ok_or(Error::ShuttingDown)
        };
        let (old_idx, new_idx) = (place(&self.members, old)?, place(&self.members, new)?);
        let difference = self.members[new_idx].difference_from(&self.members[old_idx])?;
        let takes_back = |delta: &Delta| delta.weights().values().iter().any(|weight| *weight < 0);
        if difference.iter().any(takes_back)
            && let Some(reader) = self.members.iter().find(|member| member.counts_on_appends_of(old))
        {
            return Err(Error::Unsupported(format!(
                "\"{}\" counts on rows that stay, and the new rows are not the old ones and more",
                reader.handle.name
            )));
        }
        let mut member = self.members.remove(new_idx);
        let old_idx = place(&self.members, old)?;
        let give_back = member.take_place_of(&self.members[old_idx]);
        self.members[old_idx] = member;
        self.members = in_order(std::mem::take(&mut self.members));
        self.is_dirty = true;
        Ok((difference.into_iter().map(Delta::into_batch).collect(), give_back))
    }

    /// Forgets of sources what no member reads: it would be taken for where somebody stands.
    fn narrow(&mut self) {
        let mut reads = Reads::default();
        self.members.iter().for_each(|member| reads.extend(&member.reads()));
        reads.retain(|id| self.members.iter().all(|member| member.id != id));
        self.offsets.retain(|id, _| reads.contains(*id));
        self.watermarks.retain(|id, _| reads.contains(*id));
        self.feed.set_reads(reads);
        self.note_position();
        self.is_dirty = true;
    }

    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    fn set_indexes(&mut self, id: RelationId, indexes: &[IndexSpec]) -> Result<Vec<IsBuilt>, Error> {
        // It has left something half done, and begins again with the indexes that its members are to have.
        if self.is_broken() {
            return Err(self.not_running());
        }
        let Some(member) = self.members.iter_mut().find(|member| member.id == id) else {
            return Err(Error::ShuttingDown);
        };
        let is_built = member.set_indexes(indexes)?;
        member.renew_snapshot();
        self.is_dirty = true;
        Ok(is_built)
    }

    /// Begins to build the indexes that wait for that, out of what views have between two steps.
    fn begin_builds(&mut self) {
        if !self.is_broken() {
            self.members.iter_mut().for_each(Member::begin_builds);
        }
    }

    fn finish_build(&mut self, id: RelationId, built: Built) {
        let is_broken = self.is_broken();
        let member = self.members.iter_mut().find(|member| member.id == id);
        if let Some(member) = member.filter(|_| !is_broken) {
            member.finish_build(built);
            self.is_dirty = true;
        }
    }

    async fn detach(&mut self, id: RelationId) {
        let Some(idx) = self.members.iter().position(|member| member.id == id) else { return };
        let mut member = self.members.remove(idx);
        if let Some(outbox) = &mut member.outbox {
            outbox.stop().await;
        }
        self.is_dirty = true;
    }

    async fn absorb(&mut self, other: Dataflow) -> Result<(), Error> {
        if self.halt.is_some() {
            return Err(self.not_running());
        }
        // Nothing is sealed meanwhile: then both stand at the same epoch, before what comes next for both.
        self.take_all().await?;
        self.feed.add_reads(&other.feed.reads_all());
        // Until a checkpoint has both, nothing is to be forgotten that either needs.
        self.checkpointed.fetch_min(other.checkpointed.load(Ordering::Acquire), Ordering::AcqRel);
        self.members.extend(other.members);
        self.offsets.extend(other.offsets);
        self.watermarks.extend(other.watermarks);
        self.now = self.now.max(other.now);
        self.is_dirty = true;
        self.feed.set_stepwise(self.members.iter().any(Member::is_stepwise));
        self.note_position();
        Ok(())
    }

    /// Takes note of a checkpoint that nobody has asked for.
    fn written(&mut self, written: Written) {
        self.store = Some(written.store);
        match written.outcome {
            Ok(()) => self.durable(written.epoch, &written.members, &written.blobs),
            Err(error) => {
                tracing::error!(dataflow = self.id, %error, "a checkpoint failed");
                self.is_dirty = true;
            }
        }
    }

    fn checkpoint(&mut self) -> Option<JoinHandle<Written>> {
        let mut store = self.store.take()?;
        self.is_dirty = false;
        let checkpoint = self.capture();
        let epoch = self.frontier;
        let members = self.members.iter().map(|member| member.id).collect();
        Some(tokio::spawn(async move {
            let outcome = store.write(&checkpoint).await.map(drop).map_err(Error::from);
            let names = checkpoint.blobs.into_keys();
            let blobs = names
                .filter_map(|name| Some((store.blob(&name)?, name)))
                .map(|(b, name)| (name, b))
                .collect();
            Written { store, epoch, members, blobs, outcome }
        }))
    }

    /// What belongs into a checkpoint now.
    fn capture(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        let members: Vec<_> = self.members.iter().map(|member| member.capture(&mut checkpoint)).collect();
        checkpoint.meta = json!({
            "dataflow": self.id,
            "epoch": self.frontier,
            "now": self.now,
            "offsets": self.offsets.iter().map(|(id, offsets)| (id.to_string(), offsets.as_ref().clone())).collect::<BTreeMap<_, _>>(),
            "watermarks": self.watermarks.iter().map(|(id, watermark)| (id.to_string(), *watermark)).collect::<BTreeMap<_, _>>(),
            "members": members,
        });
        checkpoint
    }

    fn durable(&self, epoch: Epoch, members: &BTreeSet<RelationId>, blobs: &BTreeMap<String, Bytes>) {
        self.checkpointed.store(epoch.0, Ordering::Release);
        for member in self.members.iter().filter(|member| members.contains(&member.id)) {
            if let Some(outbox) = &member.outbox {
                outbox.durable(&outbox_blobs(blobs, member.id));
            }
        }
    }

    /// Stops stepping; what has been published stays readable.
    pub fn fail(&mut self, error: &Error) {
        let (reason, since) = (error.to_string(), TimeSource::System.now());
        // Nothing may wait for a dataflow that takes nothing.
        self.feed.halt();
        self.is_broken.store(true, Ordering::Release);
        if matches!(error, Error::Cancelled) {
            // Whoever has cancelled it says how it goes on.
            self.set_halt(Some(Halt::Restarting { reason, since }));
            return;
        }
        let after = self.restarts.next(error);
        self.set_halt(Some(match after {
            Some(after) => {
                tracing::warn!(dataflow = self.id, %error, ?after, "a dataflow has failed, and begins again");
                Halt::Restarting { reason, since }
            }
            None => {
                tracing::error!(dataflow = self.id, %error, "a dataflow has failed");
                Halt::Failed { reason, since }
            }
        }));
        // Nobody listens any more while the server shuts down.
        let _ = self.fallen.send(Fallen { id: self.id, how: Fall::Failed { after } });
    }

    pub fn not_running(&self) -> Error {
        let name = self.id.to_string();
        let reason = self.halt.as_ref().map(|halt| halt.reason("")).unwrap_or_default();
        Error::NotRunning { kind: "dataflow", name, reason }
    }
}

/// Members so that each stands behind those that it reads, and otherwise as they stood.
fn in_order(mut members: Vec<Member>) -> Vec<Member> {
    let mut ordered: Vec<Member> = Vec::with_capacity(members.len());
    while !members.is_empty() {
        let waiting: BTreeSet<RelationId> = members.iter().map(|member| member.id).collect();
        let is_ready = |member: &Member| member.inputs.is_disjoint(&waiting);
        // The catalog has no circles.
        let next = members.iter().position(is_ready).unwrap_or_default();
        ordered.push(members.remove(next));
    }
    ordered
}

/// Waits for an index that has been built.
async fn built(members: &[Member]) -> (RelationId, Built) {
    std::future::poll_fn(|context| {
        for member in members {
            if let Poll::Ready(built) = member.poll_built(context) {
                return Poll::Ready((member.id, built));
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits until no outbox is full.
async fn space(members: &[Member]) {
    for outbox in members.iter().filter_map(|member| member.outbox.as_ref()) {
        outbox.space().await;
    }
}

/// When checkpoints are due by themselves, if they ever are.
pub(crate) fn ticks(interval: Duration) -> Option<tokio::time::Interval> {
    let mut ticks = (interval != Duration::MAX).then(|| tokio::time::interval(interval))?;
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    Some(ticks)
}

fn named(member: &Member, error: Error) -> Error {
    let name = &member.handle.name;
    match error {
        Error::Execution(source) => Error::Execution(source.context(format!("in \"{name}\""))),
        other => other,
    }
}

fn report_late(
    dead_letters: &mpsc::UnboundedSender<LateLetters>,
    member: &Member,
    epoch: Epoch,
    late: Vec<LateRows>,
) {
    let mut letters = Vec::new();
    for late in late {
        for raw in shown_rows(&late.rows) {
            letters.push(DeadLetter {
                object: member.handle.name.to_string(),
                stage: "late",
                split: String::new(),
                offset: format!("{epoch}/{}", letters.len()),
                raw: raw.into_bytes(),
                sqlstate: SqlState::DATA_EXCEPTION,
                reason: late.reason.clone(),
            });
        }
    }
    if !letters.is_empty() {
        // Nobody listens any more while the server shuts down.
        let _ = dead_letters.send(LateLetters::Met(letters));
    }
}

fn chunks(batches: Vec<RecordBatch>) -> Vec<Vec<RecordBatch>> {
    let mut chunks = vec![Vec::new()];
    let mut n_rows = 0;
    for batch in batches {
        if n_rows >= FILL_ROWS {
            chunks.push(Vec::new());
            n_rows = 0;
        }
        n_rows += batch.num_rows();
        chunks.last_mut().expect("never empty").push(batch);
    }
    chunks
}
