//! What SELECTs and subscriptions read, at one epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_core::{Delta, Epoch};
use tidemill_plan::RelationId;
use tokio::sync::{mpsc, oneshot};

use super::Engine;
use crate::Error;
use crate::dead_letters::LateLetters;
use crate::feed::Feed;
use crate::member::MemberHandle;
use crate::status::State;
use crate::view::ViewSnapshot;

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

impl Engine {
    pub(super) async fn handle(
        &self,
        id: RelationId,
    ) -> Result<(Arc<MemberHandle>, Option<Arc<Feed>>), Error> {
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
                    let (name, reason) = (handle.name.to_string(), "it is still being filled".into());
                    Error::NotRunning { kind: "pipeline", name, reason }
                };
                return Err(handle.not_running().unwrap_or_else(filling));
            }
        }
        // Last of all: what has stopped while it was waited for shows an earlier epoch as well.
        for (handle, _) in &handles {
            if let Some(halt) = handle.halt() {
                let (name, state) = (handle.name.to_string(), halt.state(&handle.name.get()));
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
            return Err(Error::NotRunning { kind: "relation", name: handle.name.to_string(), reason });
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
}
