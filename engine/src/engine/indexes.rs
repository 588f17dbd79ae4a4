//! Indexes of what runs.
//!
//! A spec says which indexes a table or pipeline is to have, so whatever is begun again has them, out of its
//! checkpoint or built anew. Indexes of a pipeline are built beside its dataflow's task, those of a table beside the clock.

use std::sync::Arc;

use tidemill_plan::RelationId;
use tokio::sync::Mutex;

use super::{Engine, MemberSpec};
use crate::Error;
use crate::dataflow::Command;
use crate::index::{IndexBuilds, IndexSpec};
use crate::sealer::Clock;

impl Engine {
    /// Lets a table or pipeline have these indexes and no others. Those that are new are being built on return, and found
    /// by nobody until they are; a pipeline that has failed gets them when it begins again.
    pub async fn set_indexes(&self, id: RelationId, indexes: Vec<IndexSpec>) -> Result<IndexBuilds, Error> {
        {
            let mut clock = self.sealer.clock.lock().await;
            if let Some(table) = clock.tables.get_mut(&id) {
                let is_built = table.view.set_indexes(&indexes)?;
                table.renew_snapshot();
                self.begin_builds(&mut clock, id);
                return Ok(IndexBuilds(is_built));
            }
        }
        let (entry, dataflow) = {
            let _ddl = self.ddl.lock().await;
            let (entry, dataflow) = self.entry(id)?;
            if let Some(spec) = &entry.spec {
                let spec = MemberSpec { indexes: indexes.clone(), ..spec.as_ref().clone() };
                if let Some(entry) = self.registry().members.get_mut(&id) {
                    entry.spec = Some(Arc::new(spec));
                }
            }
            (entry, dataflow)
        };
        // Not under the lock: it may be about to take in a lot.
        let is_built = match dataflow {
            Some(dataflow) => dataflow.ask(|answer| Command::SetIndexes { id, indexes, answer }).await,
            None => None,
        };
        let is_built = is_built.unwrap_or(Err(Error::ShuttingDown));
        is_built.map(IndexBuilds).map_err(|error| entry.handle.not_running().unwrap_or(error))
    }

    /// Begins to build the indexes of a table that wait for that.
    pub(super) fn begin_builds(&self, clock: &mut Clock, id: RelationId) {
        let Some(table) = clock.tables.get_mut(&id) else { return };
        for build in table.view.begin_builds() {
            let clock: Arc<Mutex<Clock>> = self.sealer.clock.clone();
            // Should the server end, so does the build.
            let end_with_it = build.ends();
            tokio::spawn(async move {
                let _end_with_it = end_with_it;
                // It says so itself where it panics; and where it was not begun, the server ends.
                let Ok(built) = tokio::task::spawn_blocking(move || build.run()).await else { return };
                if let Some(table) = clock.lock().await.tables.get_mut(&id) {
                    table.finish_build(built);
                }
            });
        }
    }
}
