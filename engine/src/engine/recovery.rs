//! Dataflows as their checkpoints say, when a server starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tidemill_core::Epoch;
use tidemill_core::source::Offsets;
use tidemill_plan::RelationId;
use tidemill_storage::{Checkpoint, CheckpointStore};

use super::{Engine, Logged, MemberEntry, MemberSpec, RefusedMember};
use crate::Error;
use crate::dataflow::Missed;
use crate::engine::lifecycle::Launch;
use crate::feed::{Feed, Sealed};
use crate::halt::{Halt, Restarts};
use crate::member::{Member, MemberHandle};
use crate::sealer::Clock;
use crate::time::TimeSource;

/// How many checkpoints are opened at once: in an object store each takes several requests.
pub(super) const N_OPENED: usize = 8;

/// Dataflows' numbers have the server's term above this bit, where there are terms.
const TERM_SHIFT: u32 = 32;

/// Who is in a dataflow's checkpoint.
pub(super) struct MemberWords<'a> {
    pub id: RelationId,
    pub state: RelationId,
    pub words: &'a Value,
}

impl Engine {
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
                    name: refused.name.to_string(),
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

    pub(super) fn start_recovered(
        &self,
        clock: &mut Clock,
        id: u64,
        store: CheckpointStore,
        checkpoint: &Checkpoint,
        members: Vec<Member>,
        failure: Option<Error>,
    ) {
        let reads = self.external_reads(&members);
        let feed = Arc::new(Feed::new(reads.clone(), clock.epoch, clock.now, self.sealer.arrived.clone()));
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
                missed.sources = self.catch_ups(clock, &reads, &offsets_of(&checkpoint.meta));
                // What depends on which epochs a step holds gets those of the log as they were sealed.
                let is_stepwise = members.iter().any(Member::is_stepwise);
                let mut epochs: BTreeMap<Epoch, Sealed> = BTreeMap::new();
                let logged = self.logged();
                for relation in reads.relations().filter(|relation| clock.tables.contains_key(relation)) {
                    let changes = logged.changes.get(&relation).into_iter().flatten();
                    for (at, batch) in changes.filter(|(at, _)| *at > checkpointed) {
                        let changes = match is_stepwise {
                            true => {
                                let now = logged.times.get(at).copied().unwrap_or(i64::MIN);
                                let sealed = || Sealed { epoch: *at, now, ..Sealed::default() };
                                &mut epochs.entry(*at).or_insert_with(sealed).changes
                            }
                            false => &mut missed.changes,
                        };
                        changes.entry(relation).or_default().push(batch.clone());
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
    pub(super) async fn checkpoints(
        &self,
        known: &BTreeSet<RelationId>,
    ) -> Result<Vec<(u64, CheckpointStore, Checkpoint)>, Error> {
        let names = self.root.child("dataflows").list().await?;
        let ids: BTreeSet<u64> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        // No number is used twice: a checkpoint of its last bearer may be written yet, where a store is slow.
        let first = self.root.term() << TERM_SHIFT;
        self.registry().next_dataflow = first.max(ids.last().copied().unwrap_or(0) + 1);
        let mut taken: BTreeSet<RelationId> = BTreeSet::new();
        let mut found = Vec::new();
        // A dataflow that took over another's members has the higher number; the other's checkpoint is
        // what a crash left of it.
        let open = |id: u64| {
            let root = self.root.child(&format!("dataflows/{id}"));
            async move {
                let mut wanted: BTreeSet<RelationId> = BTreeSet::new();
                let opened = CheckpointStore::open_if(root.clone(), |meta| {
                    let states = words_in(meta).into_iter().map(|member| member.state);
                    wanted = states.filter(|state| known.contains(state)).collect();
                    !wanted.is_empty()
                });
                let opened = opened.await;
                Ok::<_, Error>((id, root, wanted, opened))
            }
        };
        let mut opened = stream::iter(ids.into_iter().rev().map(open)).buffered(N_OPENED);
        while let Some((id, root, wanted, opened)) = opened.try_next().await? {
            let (store, checkpoint) = match opened {
                Ok(opened) => opened,
                // Written late, after its members had gone over to another dataflow and all else of it had been removed.
                Err(tidemill_storage::Error::Damaged { .. })
                    if !wanted.is_empty() && wanted.is_subset(&taken) =>
                {
                    tidemill_storage::remove_all(&root).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
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

    pub(super) fn enter_refused(&self, dataflow: u64, refused: &RefusedMember) {
        let RefusedMember { id, name, schema, reason, .. } = refused.clone();
        let budget = self.memory.budget(None);
        let handle = MemberHandle::new(id, &name, schema, &budget, Epoch::ZERO);
        handle.set_halt(Some(Halt::Failed { reason, since: TimeSource::System.now() }));
        let handle = Arc::new(handle);
        let entry =
            MemberEntry { handle, dataflow, delivery: None, is_filling: false, spec: None, paused: None };
        self.registry().members.insert(id, entry);
    }
}

/// The epoch of a dataflow's checkpoint.
pub(super) fn epoch_of(checkpoint: &Checkpoint) -> Epoch {
    Epoch(checkpoint.meta["epoch"].as_u64().unwrap_or_default())
}

/// Who is in a dataflow's checkpoint, each behind those that it reads.
pub(super) fn words_of_members(checkpoint: &Checkpoint) -> Vec<MemberWords<'_>> {
    words_in(&checkpoint.meta)
}

/// The same, of a checkpoint's words alone.
pub(super) fn words_in(meta: &Value) -> Vec<MemberWords<'_>> {
    let relation = |word: &Value| Some(RelationId(word.as_u64()? as u32));
    let mut members = Vec::new();
    for words in meta["members"].as_array().into_iter().flatten() {
        if let Some(id) = relation(&words["relation"]) {
            members.push(MemberWords { id, state: relation(&words["state"]).unwrap_or(id), words });
        }
    }
    members
}

/// The names of the states in a dataflow's checkpoint.
pub(super) fn members_in(checkpoint: &Checkpoint) -> Vec<RelationId> {
    words_of_members(checkpoint).into_iter().map(|member| member.state).collect()
}

pub(super) fn offsets_of(meta: &Value) -> BTreeMap<RelationId, Offsets> {
    let relation = |id: &String| id.parse().ok().map(RelationId);
    let entry = |(id, offsets): (&String, &Value)| {
        Some((relation(id)?, serde_json::from_value(offsets.clone()).ok()?))
    };
    meta["offsets"].as_object().into_iter().flatten().filter_map(entry).collect()
}

pub(super) fn watermarks_of(meta: &Value) -> BTreeMap<RelationId, i64> {
    let entry =
        |(id, watermark): (&String, &Value)| Some((RelationId(id.parse().ok()?), watermark.as_i64()?));
    meta["watermarks"].as_object().into_iter().flatten().filter_map(entry).collect()
}
