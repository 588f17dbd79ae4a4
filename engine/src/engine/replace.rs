//! Changing what a pipeline computes, under those who read it.
//!
//! What is to take a pipeline's place is filled beside it like any other, under the name of its state, while the old one
//! goes on. Then both stand in one dataflow, at one epoch, and change places: from the next epoch on the pipeline is the new
//! one, and those who read it get the difference between the two as its change in that epoch. Their own state goes on, and a sink
//! writes what is different and nothing else.
//!
//! It has happened once a checkpoint says so: [`Engine::has_replaced`] asks the checkpoints. Until then, whatever fails,
//! the old one is put back with all that reads it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tidemill_plan::RelationId;
use tidemill_storage::{CheckpointStore, remove_all};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::recovery::{N_OPENED, words_in, words_of_members};
use super::{Engine, MemberSpec};
use crate::Error;
use crate::dataflow::{Command, DataflowHandle, Replace};
use crate::outbox::DeliveryStatus;

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    Done,
    /// Only the next start will know.
    Open,
}

impl Engine {
    /// Fills what is to take a pipeline's place. On return it is durable and follows its inputs, and nobody sees it; after an error,
    /// or when it was cancelled, it is not there.
    pub async fn prepare_replacement(
        &self,
        spec: &MemberSpec,
        cancelled: &CancellationToken,
    ) -> Result<(), Error> {
        self.running(spec.id)?;
        self.create_member(MemberSpec { id: spec.state, ..spec.clone() }, cancelled).await
    }

    /// Lets what was prepared take the place of the pipeline. On return that is durable; after an error everything is as before,
    /// but for what was prepared, which is there until it is dropped. Where even the checkpoint cannot be read that would say
    /// which of the two it is, it is open until the next start: [`Replaced::Open`].
    pub async fn replace_member(&self, spec: MemberSpec) -> Result<Replaced, Error> {
        let _ddl = self.ddl.lock().await;
        let dataflow = self.join(self.running(spec.id)?, self.running(spec.state)?).await?;
        // What leaves before it is durable could not be taken back.
        let deliveries: Vec<Arc<DeliveryStatus>> = {
            let registry = self.registry();
            let unpaused = registry.members_of(dataflow.id).filter(|entry| entry.paused.is_none());
            unpaused.filter_map(|entry| entry.delivery.clone()).collect()
        };
        for delivery in &deliveries {
            delivery.pause().await;
        }
        let outcome = match self.change_places(&dataflow, &spec).await {
            Ok(()) => match self.checkpoint(dataflow.id).await {
                Ok(()) => {
                    self.has_taken_place(&spec);
                    Ok(Replaced::Done)
                }
                Err(error) => self.ask_checkpoint(&dataflow, &spec, error).await,
            },
            Err(error) => {
                // Begun again, it has outboxes that know of nothing.
                if dataflow.is_broken.load(Ordering::Acquire) {
                    self.begin_again(dataflow.id).await;
                }
                Err(error)
            }
        };
        deliveries.iter().for_each(|delivery| delivery.resume());
        if let Ok(Replaced::Done) = outcome {
            // Nobody may need what only the old one read.
            let mut clock = self.sealer.clock.lock().await;
            let _ = dataflow.ask(|answer| Command::Narrow { answer }).await;
            self.stop_sources(&mut clock);
            self.start_sources(&mut clock);
        }
        self.memory.share();
        outcome
    }

    fn has_taken_place(&self, spec: &MemberSpec) {
        let mut registry = self.registry();
        registry.members.remove(&spec.state);
        if let Some(entry) = registry.members.get_mut(&spec.id) {
            entry.spec = Some(Arc::new(spec.clone()));
        }
    }

    /// The two have changed places, and it is not known whether that is durable. The store says so; the dataflow begins again
    /// from what it says.
    async fn ask_checkpoint(
        &self,
        dataflow: &DataflowHandle,
        spec: &MemberSpec,
        error: Error,
    ) -> Result<Replaced, Error> {
        self.end_dataflow(dataflow).await;
        let root = self.root.child(&format!("dataflows/{}", dataflow.id));
        let checkpoint = match CheckpointStore::open(root).await {
            Ok((_, checkpoint)) => checkpoint,
            Err(unread) => {
                tracing::error!(%error, %unread, "nobody knows whether a pipeline has been changed; the next start will");
                self.set_failed(dataflow.id, format!("whether it has been changed is not known: {unread}"));
                return Ok(Replaced::Open);
            }
        };
        let is_done =
            checkpoint.iter().flat_map(words_of_members).any(|it| (it.id, it.state) == (spec.id, spec.state));
        if is_done {
            self.has_taken_place(spec);
        }
        self.begin_again(dataflow.id).await;
        if is_done { Ok(Replaced::Done) } else { Err(error) }
    }

    async fn change_places(&self, dataflow: &DataflowHandle, spec: &MemberSpec) -> Result<(), Error> {
        let (prepared, is_prepared) = oneshot::channel();
        let (sealed, is_sealed) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        {
            // Nobody seals anything between the epoch at which both are looked at and the one in which they change places.
            let mut clock = self.sealer.clock.lock().await;
            let replace = Replace { old: spec.id, new: spec.state, prepared, sealed: is_sealed, answer };
            let replace = Command::Replace(Box::new(replace));
            dataflow.commands.send(replace).await.map_err(|_| Error::ShuttingDown)?;
            if is_prepared.await.is_ok() {
                self.sealer.seal(&mut clock, Vec::new()).await;
                // Where it is not waited for any more, the answer says why.
                let _ = sealed.send(());
            }
        }
        answered.await.map_err(|_| Error::ShuttingDown)?
    }

    /// The dataflow of a member, if it runs.
    fn running(&self, id: RelationId) -> Result<u64, Error> {
        let (entry, _) = self.entry(id)?;
        match entry.handle.not_running() {
            Some(error) => Err(error),
            None => Ok(entry.dataflow),
        }
    }

    /// Makes one dataflow of two; durable on return.
    async fn join(&self, one: u64, other: u64) -> Result<Arc<DataflowHandle>, Error> {
        let of = |id: u64| self.registry().dataflows.get(&id).cloned().ok_or(Error::ShuttingDown);
        // The newest takes over: after a crash in between, the higher number wins.
        let target = of(one.max(other))?;
        if one != other {
            let absorbed = of(one.min(other))?;
            let mut clock = self.sealer.clock.lock().await;
            let outcome = self.absorb(&mut clock, &target, &absorbed, true).await;
            drop(clock);
            if let Err(error) = outcome {
                self.begin_again(absorbed.id).await;
                return Err(error);
            }
            self.checkpoint(target.id).await?;
            remove_all(&self.root.child(&format!("dataflows/{}", absorbed.id))).await?;
        }
        Ok(target)
    }

    /// Whether a pipeline's state has been that of what took its place, when the server ended.
    pub async fn has_replaced(&self, pipeline: RelationId, state: RelationId) -> Result<bool, Error> {
        let names = self.root.child("dataflows").list().await?;
        let ids: std::collections::BTreeSet<u64> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        let open = |id: u64| {
            let root = self.root.child(&format!("dataflows/{id}"));
            let is_it = |meta: &Value| {
                words_in(meta).iter().any(|member| (member.id, member.state) == (pipeline, state))
            };
            async move { Ok::<_, Error>(CheckpointStore::open_if(root, is_it).await?.1) }
        };
        let mut opened = stream::iter(ids.into_iter().map(open)).buffered(N_OPENED);
        while let Some(checkpoint) = opened.try_next().await? {
            if checkpoint.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
