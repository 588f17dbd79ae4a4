//! A pipeline's plan as text and as JSON, with what is known of each operator beside it.

use serde_json::{Value, json};
use tidemill_engine::{LaneStatus, OperatorStatus};
use tidemill_plan::ExplainedNode;

use super::estimate::{Estimate, bytes};

/// What stands beside the plan.
pub(super) struct Notes<'a> {
    pub estimate: Option<&'a Estimate>,
    /// What each operator has done; equal operators follow each other.
    pub operators: Option<Vec<OperatorStatus>>,
}

/// Each node in a line, and what is said of it in further ones.
pub(super) fn text(root: &ExplainedNode, notes: &Notes<'_>) -> String {
    let mut text = String::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut known: Vec<&ExplainedNode> = Vec::new();
    let mut known_at: Option<usize> = None;
    for (depth, node) in root.walk() {
        if known_at.is_some_and(|known_at| depth > known_at) {
            continue;
        }
        known_at = None;
        let indent = "  ".repeat(depth);
        text.push_str(&format!("{indent}{}\n", node.display));
        let mut say = |line: String| text.push_str(&format!("{indent}    {line}\n"));
        if is_known(node, &mut known) {
            say("the same as above, computed once".into());
            known_at = Some(depth);
            continue;
        }
        match status(node, notes, &mut seen) {
            Some(operator) => {
                say(done(&operator.total()));
                if operator.lanes.len() > 1 {
                    for (lane, status) in operator.lanes.iter().enumerate() {
                        say(format!("lane {lane}: {}", done(status)));
                    }
                }
            }
            None if notes.operators.is_some() => (),
            None => {
                say(node.properties());
                if let Some(line) = notes.estimate.and_then(|estimate| estimate.line(node)) {
                    say(line);
                }
            }
        }
    }
    text
}

pub(super) fn json(root: &ExplainedNode, notes: &Notes<'_>) -> Value {
    json_node(root, notes, &mut Vec::new(), &mut Vec::new())
}

/// Whether an operator stood there before, and so all that is below it.
fn is_known<'a>(node: &'a ExplainedNode, known: &mut Vec<&'a ExplainedNode>) -> bool {
    if node.state.is_none() {
        return false;
    }
    let is_known = known.contains(&node);
    known.push(node);
    is_known
}

fn json_node<'a>(
    node: &'a ExplainedNode,
    notes: &Notes<'_>,
    seen: &mut Vec<&'a str>,
    known: &mut Vec<&'a ExplainedNode>,
) -> Value {
    let mut value = json!({
        "Node Type": node.kind,
        "Details": node.display,
        "Changes": if node.is_append_only { "append-only" } else { "retracting" },
        "Unique Keys": node.unique_keys,
        "Cost": node.cost.name(),
    });
    if is_known(node, known) {
        return json!({ "Node Type": node.kind, "Details": node.display, "Same As Above": true });
    }
    if let Some(relation) = &node.relation {
        value["Relation Name"] = relation.as_str().into();
    }
    if let Some(state) = &node.state {
        value["State"] = json!({
            "Key": state.key,
            "Bound": state.growth.bound(),
            "Growth": state.growth.to_string(),
        });
        if let Some(estimate) = notes.estimate.and_then(|estimate| estimate.json_of(node)) {
            value["State"]["Estimate"] = estimate;
        }
    }
    if let Some(operator) = status(node, notes, seen) {
        value["Actual"] = lane_json(&operator.total());
        value["Lanes"] = operator.lanes.iter().map(lane_json).collect();
    }
    let inputs: Vec<Value> = node.inputs.iter().map(|input| json_node(input, notes, seen, known)).collect();
    if !inputs.is_empty() {
        value["Plans"] = inputs.into();
    }
    value
}

/// What the operator of a node has done. Of equal operators each node gets the next.
fn status<'a, 'n>(
    node: &'a ExplainedNode,
    notes: &'n Notes<'_>,
    seen: &mut Vec<&'a str>,
) -> Option<&'n OperatorStatus> {
    let operators = notes.operators.as_ref()?;
    if node.id.is_empty() {
        return None;
    }
    let n_before = seen.iter().filter(|id| **id == node.id).count();
    seen.push(&node.id);
    let is_equal = |operator: &&OperatorStatus| {
        operator.id.strip_prefix(&node.id).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    operators.iter().filter(is_equal).nth(n_before)
}

fn done(lane: &LaneStatus) -> String {
    format!(
        "rows in={} out={}, steps={}, time={:.3} ms, state={} rows {}",
        lane.rows_in,
        lane.rows_out,
        lane.steps,
        lane.nanos as f64 / 1e6,
        lane.state_rows,
        bytes(lane.state_bytes as f64)
    )
}

fn lane_json(lane: &LaneStatus) -> Value {
    json!({
        "Rows In": lane.rows_in,
        "Rows Out": lane.rows_out,
        "Steps": lane.steps,
        "Time": lane.nanos as f64 / 1e6,
        "State Rows": lane.state_rows,
        "State Bytes": lane.state_bytes,
    })
}
