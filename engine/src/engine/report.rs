//! How everything is.

use std::sync::atomic::Ordering;

use tidemill_core::Epoch;
use tidemill_plan::RelationId;

use super::tables::is_own;
use super::{Engine, MemberEntry};
use crate::status::{
    EngineStatus, OperatorStatus, PipelineStatus, SinkStatus, SourceStatus, SplitStatus, State, TableStatus,
};

impl Engine {
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
                name: source.spec.name.to_string(),
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
            .map(|table| {
                let snapshot = table.view.snapshot(clock.epoch);
                TableStatus {
                    id: table.rules.spec.id,
                    name: table.rules.spec.name.to_string(),
                    epoch: table.handle.frontier(),
                    rows: snapshot.arrangement().count(),
                    state: snapshot.size(),
                    indexes: snapshot.index_sizes(),
                }
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
                    rows_refused: delivery.refused.get(),
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

    pub(super) fn pipeline_status(&self, entry: &MemberEntry) -> PipelineStatus {
        let handle = &entry.handle;
        let metrics = &handle.metrics;
        let halt = handle.halt();
        let is_sink = entry.delivery.is_some();
        let stopped = entry.delivery.as_ref().and_then(|delivery| delivery.stopped());
        let (state, since) = match (&halt, entry.paused, stopped) {
            (None, Some(since), _) if is_sink => (State::Paused("it is paused".into()), Some(since)),
            (Some(halt), ..) => (halt.state(&handle.name.get()), Some(halt.since())),
            (None, _, Some(stopped)) => (State::Paused(stopped.reason), Some(stopped.since)),
            (None, ..) if entry.is_filling => (State::Filling, None),
            (None, ..) => (State::Running, None),
        };
        let checkpointed =
            self.registry().dataflows.get(&entry.dataflow).map(|dataflow| dataflow.checkpointed.clone());
        let budget = handle.budget();
        let view = handle.latest();
        PipelineStatus {
            id: handle.id,
            name: handle.name.to_string(),
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
            view: view.as_ref().map(|view| view.size()),
            indexes: view.map(|view| view.index_sizes()).unwrap_or_default(),
            step_time: metrics.step_time.counts(),
            latency: metrics.latency.counts(),
            fill: entry.is_filling.then(|| (metrics.fill_rows.get(), metrics.fill_rows_total.get().copied())),
            operators: handle.operators(),
        }
    }

    /// What a pipeline's operators have done.
    pub fn operators(&self, id: RelationId) -> Vec<OperatorStatus> {
        self.registry().members.get(&id).map(|entry| entry.handle.operators()).unwrap_or_default()
    }
}
