//! What the engine says of itself, in Prometheus' text format.
//!
//! Written by hand from one [`EngineStatus`], so that all lines of an answer are of one moment. Base
//! units, seconds and bytes. Times are summaries over the life of the process: a rate of their `_sum` by
//! that of their `_count` gives the mean of any span.

use std::fmt::{Display, Write};

use tidemill_engine::metrics::HistogramCounts;
use tidemill_engine::{EngineStatus, PipelineStatus, SinkStatus, State};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];
const STATES: [&str; 7] = ["IDLE", "FILLING", "RUNNING", "FINISHED", "PAUSED", "RESTARTING", "FAILED"];

/// All metrics.
pub fn render(status: &EngineStatus, is_ready: bool) -> String {
    let mut out = Exposition::default();
    out.info("tidemill_build_info", "What this is.", &[("version", env!("CARGO_PKG_VERSION"))]);
    out.gauge("tidemill_ready", "Whether the server takes statements.").value(&[], u8::from(is_ready));
    out.gauge("tidemill_uptime_seconds", "How long the engine has run.")
        .value(&[], status.uptime.as_secs_f64());
    out.gauge("tidemill_epoch", "The last epoch that was sealed.").value(&[], status.epoch);
    out.counter("tidemill_dead_letters_total", "Records that were set aside.")
        .value(&[], status.dead_letters);
    sources(&mut out, status);
    tables(&mut out, status);
    pipelines(&mut out, "pipeline", &status.pipelines.iter().collect::<Vec<_>>());
    pipelines(&mut out, "sink", &status.sinks.iter().map(|sink| &sink.pipeline).collect::<Vec<_>>());
    sinks(&mut out, status);
    out.text
}

fn sources(out: &mut Exposition, status: &EngineStatus) {
    if status.sources.is_empty() {
        return;
    }
    let mut family = out.counter("tidemill_source_rows_total", "Rows read.");
    status.sources.iter().for_each(|source| family.value(&[("source", &source.name)], source.rows));
    let mut family = out.counter("tidemill_source_bytes_total", "Bytes read.");
    status.sources.iter().for_each(|source| family.value(&[("source", &source.name)], source.bytes));
    let mut family = out.counter("tidemill_source_bad_records_total", "Records that could not be decoded.");
    status.sources.iter().for_each(|source| family.value(&[("source", &source.name)], source.bad_records));
    let mut family = out.gauge("tidemill_source_splits", "Splits that are known.");
    status.sources.iter().for_each(|source| family.value(&[("source", &source.name)], source.splits.len()));
    let mut family =
        out.gauge("tidemill_source_watermark_timestamp_seconds", "No later row is older than this.");
    for source in &status.sources {
        if let Some(micros) = source.watermark {
            family.value(&[("source", &source.name)], micros as f64 / 1e6);
        }
    }
    let mut family = out.gauge("tidemill_source_status", "1 for the state that the source is in.");
    status.sources.iter().for_each(|source| states(&mut family, "source", &source.name, &source.state));
}

fn tables(out: &mut Exposition, status: &EngineStatus) {
    if status.tables.is_empty() {
        return;
    }
    let mut family = out.gauge("tidemill_table_rows", "Rows in the table.");
    status.tables.iter().for_each(|table| family.value(&[("table", &table.name)], table.rows));
    let mut family = out.gauge("tidemill_table_state_bytes", "Bytes that the table takes.");
    status.tables.iter().for_each(|table| family.value(&[("table", &table.name)], table.state.bytes));
    let mut family = out.gauge("tidemill_table_epoch", "The last epoch that changed the table.");
    status.tables.iter().for_each(|table| family.value(&[("table", &table.name)], table.epoch));
}

/// Pipelines, and the pipelines that sinks are.
fn pipelines(out: &mut Exposition, kind: &'static str, pipelines: &[&PipelineStatus]) {
    if pipelines.is_empty() {
        return;
    }
    type Get = fn(&PipelineStatus) -> u64;
    const COUNTERS: [(&str, &str, Get); 4] = [
        ("steps_total", "Steps made.", |pipeline| pipeline.steps),
        ("rows_in_total", "Changed rows that came in.", |pipeline| pipeline.rows_in),
        ("rows_out_total", "Changed rows that went out.", |pipeline| pipeline.rows_out),
        ("late_rows_total", "Rows that came after their window had closed.", |pipeline| pipeline.late_rows),
    ];
    const GAUGES: [(&str, &str, Get); 3] = [
        ("state_bytes", "Bytes of state.", |pipeline| pipeline.state_bytes),
        ("epoch", "The last epoch that is done.", |pipeline| pipeline.epoch.0),
        ("checkpoint_epoch", "The epoch of the last durable checkpoint.", |pipeline| {
            pipeline.checkpoint_epoch.0
        }),
    ];
    for (name, help, get) in COUNTERS {
        let mut family = out.counter(&format!("tidemill_{kind}_{name}"), help);
        pipelines.iter().for_each(|pipeline| family.value(&[(kind, &pipeline.name)], get(pipeline)));
    }
    for (name, help, get) in GAUGES {
        let mut family = out.gauge(&format!("tidemill_{kind}_{name}"), help);
        pipelines.iter().for_each(|pipeline| family.value(&[(kind, &pipeline.name)], get(pipeline)));
    }
    let mut family = out.gauge(&format!("tidemill_{kind}_status"), "1 for the state that it is in.");
    pipelines.iter().for_each(|pipeline| states(&mut family, kind, &pipeline.name, &pipeline.state));
    let help = "From the arrival of a row to its result being readable.";
    let mut family = out.summary(&format!("tidemill_{kind}_latency_seconds"), help);
    pipelines.iter().for_each(|pipeline| family.durations((kind, &pipeline.name), &pipeline.latency));
    let mut family = out.summary(&format!("tidemill_{kind}_step_seconds"), "How long a step takes.");
    pipelines.iter().for_each(|pipeline| family.durations((kind, &pipeline.name), &pipeline.step_time));
}

fn sinks(out: &mut Exposition, status: &EngineStatus) {
    if status.sinks.is_empty() {
        return;
    }
    let mut family =
        out.counter("tidemill_sink_rows_delivered_total", "Rows that the destination has taken.");
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], sink.rows_delivered));
    let mut family =
        out.counter("tidemill_sink_rows_refused_total", "Rows that the destination does not take.");
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], sink.rows_refused));
    let mut family = out.gauge("tidemill_sink_rows_pending", "Rows that wait to be delivered.");
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], sink.rows_pending));
    let mut family = out.gauge("tidemill_sink_bytes_pending", "Bytes of that, in checkpoints.");
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], sink.bytes_pending));
    let mut family = out.gauge("tidemill_sink_pending_seconds", "How long the oldest row has waited.");
    let age = |sink: &SinkStatus| sink.pending_for.unwrap_or_default().as_secs_f64();
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], age(sink)));
    let mut family = out.gauge("tidemill_sink_delivered_epoch", "The last epoch that was delivered.");
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], sink.delivered_to));
    let mut family = out.counter("tidemill_sink_retries_total", "Deliveries that were tried again.");
    status.sinks.iter().for_each(|sink| family.value(&[("sink", &sink.pipeline.name)], sink.retries));
}

fn states(family: &mut Family<'_>, kind: &str, name: &str, state: &State) {
    for other in STATES {
        family.value(&[(kind, name), ("state", other)], u8::from(state.name() == other));
    }
}

#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn summary(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "summary", help)
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.gauge(name, help).value(labels, 1);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { name: name.to_owned(), text: &mut self.text }
    }
}

struct Family<'a> {
    name: String,
    text: &'a mut String,
}

impl Family<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample("", labels, value);
    }

    fn durations(&mut self, label: (&str, &str), counts: &HistogramCounts) {
        for q in QUANTILES {
            // Without any there is no quantile; zero would be a lie.
            let value = if counts.count() == 0 { f64::NAN } else { counts.quantile(q).as_secs_f64() };
            self.sample("", &[label, ("quantile", &q.to_string())], value);
        }
        self.sample("_sum", &[label], counts.sum().as_secs_f64());
        self.sample("_count", &[label], counts.count());
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        for (idx, (name, value)) in labels.iter().enumerate() {
            self.text.push(if idx == 0 { '{' } else { ',' });
            self.text.push_str(&format!("{name}=\"{}\"", escape(value)));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        writeln!(self.text, "{close} {value}").expect("a String takes all that is written");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
