//! From two looks at the engine to what happened between them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidemill_core::Epoch;
use tidemill_engine::{EngineStatus, PipelineStatus};

/// How far rates look back.
const SPAN: Duration = Duration::from_secs(3);

/// Keeps the last few seconds.
#[derive(Debug)]
pub struct Meter {
    first: (Instant, EngineStatus),
    samples: VecDeque<(Instant, EngineStatus)>,
}

/// What happened in a span of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    pub seconds: f64,
    pub events: u64,
    pub epochs: u64,
    /// Where the span ended.
    pub epoch: Epoch,
    /// From row to view, in the pipeline where it took longest.
    pub latency_p50: Duration,
    pub latency_p99: Duration,
    pub state_bytes: u64,
    pub pipelines: Vec<PipelineReading>,
    /// What has failed, and why.
    pub failures: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PipelineReading {
    pub name: String,
    pub state: &'static str,
    pub rows_in: u64,
    pub rows_out: u64,
    pub state_bytes: u64,
    pub latency_p50: Duration,
    pub latency_p99: Duration,
}

impl Meter {
    pub fn new(at: Instant, status: EngineStatus) -> Meter {
        Meter { samples: VecDeque::from([(at, status.clone())]), first: (at, status) }
    }

    pub fn observe(&mut self, at: Instant, status: EngineStatus) {
        self.samples.push_back((at, status));
        while self.samples.get(1).is_some_and(|(second, _)| at - *second >= SPAN) {
            self.samples.pop_front();
        }
    }

    /// The last few seconds.
    pub fn recent(&self) -> Reading {
        Reading::between(&self.samples[0], &self.samples[self.samples.len() - 1])
    }

    /// All of it.
    pub fn total(&self) -> Reading {
        Reading::between(&self.first, &self.samples[self.samples.len() - 1])
    }
}

impl Reading {
    fn between(earlier: &(Instant, EngineStatus), later: &(Instant, EngineStatus)) -> Reading {
        let (from, before) = earlier;
        let (to, after) = later;
        let pipelines: Vec<PipelineReading> = after
            .pipelines
            .iter()
            .map(|pipeline| {
                let earlier = before.pipelines.iter().find(|earlier| earlier.id == pipeline.id);
                pipeline_between(earlier, pipeline)
            })
            .collect();
        let events = |status: &EngineStatus| status.sources.iter().map(|source| source.rows).sum::<u64>();
        let tables = after.tables.iter().map(|table| table.state.bytes);
        let sinks = after.sinks.iter().map(|sink| sink.pipeline.state_bytes);
        let sources = after.sources.iter().map(|source| ("source", &source.name, &source.state));
        let members = after.pipelines.iter().map(|pipeline| ("pipeline", &pipeline.name, &pipeline.state));
        let deliveries = after.sinks.iter().map(|sink| ("sink", &sink.pipeline.name, &sink.pipeline.state));
        Reading {
            seconds: (*to - *from).as_secs_f64(),
            events: events(after).saturating_sub(events(before)),
            epochs: after.epoch.0.saturating_sub(before.epoch.0),
            epoch: after.epoch,
            latency_p50: pipelines.iter().map(|pipeline| pipeline.latency_p50).max().unwrap_or_default(),
            latency_p99: pipelines.iter().map(|pipeline| pipeline.latency_p99).max().unwrap_or_default(),
            state_bytes: pipelines
                .iter()
                .map(|pipeline| pipeline.state_bytes)
                .chain(tables)
                .chain(sinks)
                .sum(),
            pipelines,
            failures: sources
                .chain(members)
                .chain(deliveries)
                .filter_map(|(kind, name, state)| {
                    state.error().map(|reason| format!("{kind} \"{name}\" has failed: {reason}"))
                })
                .collect(),
        }
    }

    pub fn events_per_second(&self) -> u64 {
        self.per_second(self.events)
    }

    pub fn epochs_per_second(&self) -> u64 {
        self.per_second(self.epochs)
    }

    pub fn per_second(&self, n: u64) -> u64 {
        if self.seconds > 0.0 { (n as f64 / self.seconds).round() as u64 } else { 0 }
    }
}

fn pipeline_between(earlier: Option<&PipelineStatus>, later: &PipelineStatus) -> PipelineReading {
    let latency = match earlier {
        // A restart begins to count anew.
        Some(earlier) if earlier.latency.count() <= later.latency.count() => {
            later.latency.since(&earlier.latency)
        }
        _ => later.latency.clone(),
    };
    let (rows_in, rows_out) = earlier.map_or((0, 0), |earlier| (earlier.rows_in, earlier.rows_out));
    PipelineReading {
        name: later.name.clone(),
        state: later.state.name(),
        rows_in: later.rows_in.saturating_sub(rows_in),
        rows_out: later.rows_out.saturating_sub(rows_out),
        state_bytes: later.state_bytes,
        latency_p50: latency.quantile(0.5),
        latency_p99: latency.quantile(0.99),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_engine::metrics::Histogram;
    use tidemill_engine::{PipelineStatus, State};

    use super::*;
    use crate::server::testing::{pipeline, source};

    fn status(rows: u64, epoch: u64, latency: &Histogram) -> EngineStatus {
        let mut source = source("bid", State::Running);
        source.rows = rows;
        EngineStatus {
            epoch: Epoch(epoch),
            sources: vec![source],
            pipelines: vec![PipelineStatus { rows_in: rows, latency: latency.counts(), ..pipeline("p") }],
            ..EngineStatus::default()
        }
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_totals_of_all() {
        let latency = Histogram::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut meter = Meter::new(began, status(0, 0, &latency));
        latency.record(Duration::from_secs(1), 10);
        meter.observe(at(2), status(1_000, 20, &latency));
        meter.observe(at(5), status(7_000, 50, &latency));
        latency.record(Duration::from_millis(2), 10);
        meter.observe(at(8), status(13_000, 110, &latency));

        let recent = meter.recent();
        assert_eq!((recent.seconds, recent.events, recent.events_per_second()), (3.0, 6_000, 2_000));
        assert_eq!((recent.epochs_per_second(), recent.epoch), (20, Epoch(110)));
        assert!(recent.latency_p99 < Duration::from_millis(3), "{recent:?}");
        assert_eq!(recent.pipelines[0].rows_in, 6_000);

        let total = meter.total();
        assert_eq!((total.seconds, total.events, total.epochs), (8.0, 13_000, 110));
        assert!(total.latency_p99 > Duration::from_millis(900), "{total:?}");
        assert!(total.failures.is_empty());

        let mut failed = status(13_000, 110, &latency);
        failed.pipelines[0].state = State::Failed("division by zero".into());
        meter.observe(at(9), failed);
        assert_eq!(meter.recent().failures, ["pipeline \"p\" has failed: division by zero"]);
    }
}
