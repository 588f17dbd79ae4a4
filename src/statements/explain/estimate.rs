//! `EXPLAIN (STATE)`: how much a plan would keep, from a run over a sample of its inputs.
//!
//! What an operator holds after the sample, divided by the sample's rows, is what a row of input costs. For
//! stored inputs that is multiplied by how many rows there are; for a source by the rows a day that it
//! gives now, where it is being read. Keys repeat more often in all rows than in a sample, so where
//! state grows with keys the estimate is an upper bound, and says so.

use serde_json::{Value, json};
use tidemill_engine::{OperatorStatus, Sample, Sampled, SampledFrom};
use tidemill_plan::{ExplainedNode, Growth, PipelinePlan};

use crate::session::Session;
use crate::session::api::SqlError;
use crate::statements::engine_error;

/// Rows of each input.
const SAMPLE_ROWS: usize = 10_000;
const SECONDS_A_DAY: f64 = 86_400.0;

pub(super) struct Estimate {
    sample: Sample,
}

/// What an operator is expected to hold.
struct Expected {
    n_rows: u64,
    state_rows: u64,
    state_bytes: u64,
    bytes_per_row: f64,
    /// For what is stored already.
    bytes_now: Option<f64>,
    /// On top of it, day by day.
    bytes_per_day: Option<f64>,
    is_at_most: bool,
}

impl Estimate {
    pub async fn make(session: &Session, plan: &PipelinePlan) -> Result<Estimate, SqlError> {
        let database = &session.database;
        if database.is_for_checks() {
            return Ok(Estimate { sample: Sample { inputs: Vec::new(), operators: Vec::new() } });
        }
        let state = database.planner.state();
        let sample = database.engine.sample(plan, state, SAMPLE_ROWS).await;
        Ok(Estimate { sample: sample.map_err(|error| engine_error(database, error))? })
    }

    fn expected(&self, node: &ExplainedNode) -> Option<Expected> {
        let state = node.state.as_ref()?;
        let operator: &OperatorStatus =
            self.sample.operators.iter().find(|operator| operator.id == node.id)?;
        let relations = node.relations();
        let below = || self.sample.inputs.iter().filter(|input| relations.contains(&input.name.as_str()));
        let n_rows: u64 = below().map(|input| input.n_rows).sum();
        if n_rows == 0 {
            return None;
        }
        let total = operator.total();
        let bytes_per_row = total.state_bytes as f64 / n_rows as f64;
        let stored: Option<u64> = below()
            .map(|input| match input.from {
                SampledFrom::Stored { rows } => Some(rows),
                SampledFrom::Source { .. } => None,
            })
            .sum();
        let rate: Option<f64> = below()
            .map(|input| match input.from {
                SampledFrom::Stored { .. } => Some(0.0),
                SampledFrom::Source { rate } => rate,
            })
            .sum();
        let grows = !state.growth.is_bounded();
        let is_all = stored.is_some_and(|rows| rows <= n_rows);
        Some(Expected {
            n_rows,
            state_rows: total.state_rows,
            state_bytes: total.state_bytes,
            bytes_per_row,
            bytes_now: stored.map(|rows| bytes_per_row * rows as f64),
            bytes_per_day: rate
                .filter(|rate| grows && *rate > 0.0)
                .map(|rate| rate * SECONDS_A_DAY * bytes_per_row),
            is_at_most: state.growth == Growth::PerKey || (!grows && !is_all),
        })
    }

    /// What is expected of an operator, in a line.
    pub fn line(&self, node: &ExplainedNode) -> Option<String> {
        let state = node.state.as_ref()?;
        let Some(expected) = self.expected(node) else {
            return Some("state estimate: none, the sample has no rows".into());
        };
        let at_most = if expected.is_at_most { "at most " } else { "about " };
        let mut line = format!(
            "state estimate: {:.1} bytes for each input row ({} rows and {} after {} sampled rows)",
            expected.bytes_per_row,
            expected.state_rows,
            bytes(expected.state_bytes as f64),
            expected.n_rows
        );
        if let Some(now) = expected.bytes_now {
            line.push_str(&format!(", {at_most}{} for the rows there are", bytes(now)));
        }
        match expected.bytes_per_day {
            Some(day) => line.push_str(&format!(", {at_most}{} more a day at the present rate", bytes(day))),
            None if !state.growth.is_bounded() && expected.bytes_now.is_none() => line
                .push_str(&format!(", {at_most}{} for a million rows", bytes(expected.bytes_per_row * 1e6))),
            None => (),
        }
        Some(line)
    }

    pub fn json_of(&self, node: &ExplainedNode) -> Option<Value> {
        let expected = self.expected(node)?;
        Some(json!({
            "Bytes Per Row": expected.bytes_per_row,
            "Sample Rows": expected.n_rows,
            "Sample State Rows": expected.state_rows,
            "Sample State Bytes": expected.state_bytes,
            "Bytes Now": expected.bytes_now,
            "Bytes Per Day": expected.bytes_per_day,
            "Is Upper Bound": expected.is_at_most,
        }))
    }

    /// What the sample was taken from.
    pub fn text(&self) -> String {
        let lines = self.sample.inputs.iter().map(|input| format!("Sample: {}\n", from(input)));
        lines.collect()
    }

    pub fn json(&self) -> Value {
        let input = |input: &Sampled| match input.from {
            SampledFrom::Stored { rows } => {
                json!({ "Relation Name": input.name, "Sample Rows": input.n_rows, "Rows": rows })
            }
            SampledFrom::Source { rate } => json!({
                "Relation Name": input.name, "Sample Rows": input.n_rows, "Rows Per Second": rate
            }),
        };
        self.sample.inputs.iter().map(input).collect()
    }
}

fn from(input: &Sampled) -> String {
    match input.from {
        SampledFrom::Stored { rows } => format!("{} of {rows} rows of {}", input.n_rows, input.name),
        SampledFrom::Source { rate: Some(rate) } => {
            format!("the first {} rows of {}, which gives {rate:.0} rows a second", input.n_rows, input.name)
        }
        SampledFrom::Source { rate: None } => format!(
            "the first {} rows of {}, whose rate is not known: nothing reads it, or not for long",
            input.n_rows, input.name
        ),
    }
}

/// A number of bytes for people.
pub(super) fn bytes(n: f64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let mut n = n;
    let mut unit = 0;
    while n >= 10_000.0 && unit + 1 < units.len() {
        n /= 1000.0;
        unit += 1;
    }
    format!("{n:.0} {}", units[unit])
}
