//! `SET unbounded_state`: what is said of a pipeline whose state grows for ever.
//!
//! `warn`, the default, speaks of operators that keep every row of an endless input. One that keeps an entry
//! for each key is not spoken of: whether there are many keys only the user knows, and most such
//! pipelines are meant. `reject` refuses both.

use tidemill_core::SqlState;
use tidemill_plan::{ExplainedNode, Growth, PipelinePlan};

use crate::session::Session;
use crate::session::api::{Notice, SqlError};

/// A warning by the class of the standard.
const WARNING: SqlState = SqlState("01000");

/// Warns of what a plan keeps for ever, or refuses it. `sql` is the statement that creates it.
pub fn check(session: &mut Session, plan: &PipelinePlan, name: &str, sql: &str) -> Result<(), SqlError> {
    let setting = session.settings.get("unbounded_state").unwrap_or("warn").to_lowercase();
    if setting == "allow" {
        return Ok(());
    }
    let is_rejected = setting == "reject";
    let is_meant = |node: &&ExplainedNode| {
        let growth = node.state.as_ref().map(|state| state.growth);
        growth == Some(Growth::PerRow) || (is_rejected && growth == Some(Growth::PerKey))
    };
    let nodes = plan.explained.walk();
    for node in nodes.into_iter().map(|(_, node)| node).filter(is_meant) {
        let message = message(node);
        let state = node.state.as_ref().map(|state| state.key.join(", ")).unwrap_or_default();
        let detail = format!("{}; its state is kept by ({state}).", node.display);
        let remedy = node.state.as_ref().and_then(|state| state.remedy.clone()).unwrap_or_default();
        let remedy = format!(
            "{remedy} WITH (ttl = '1 day') lets a pipeline forget what nothing has touched for so long."
        );
        if is_rejected {
            let error =
                SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("\"{name}\" is refused: {message}"))
                    .with_detail(detail)
                    .with_hint(
                        format!("{remedy} SET unbounded_state = 'warn' lets it be created.")
                            .trim()
                            .to_owned(),
                    );
            return Err(match crate::database::position_of(sql, word(node)) {
                Some(position) => error.with_position(position),
                None => error,
            });
        }
        let mut notice = Notice::warning(WARNING, message);
        notice.detail = Some(detail);
        notice.hint =
            Some(format!("{remedy} SET unbounded_state = 'allow' says that it is meant.").trim().to_owned());
        session.notices.push(notice);
    }
    Ok(())
}

fn message(node: &ExplainedNode) -> String {
    let growth = node.state.as_ref().map(|state| state.growth).unwrap_or_default();
    let names = |nodes: &[&ExplainedNode]| {
        let mut names: Vec<String> = Vec::new();
        for name in nodes.iter().flat_map(|node| node.relations()) {
            let name = format!("\"{name}\"");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" and ")
    };
    let what = if growth == Growth::PerKey { "an entry for each key" } else { "every row" };
    let all: Vec<&ExplainedNode> = node.inputs.iter().collect();
    let kept: Vec<&ExplainedNode> = all.iter().copied().filter(|input| input.rows == growth).collect();
    let kept = if kept.is_empty() { all.clone() } else { kept };
    match node.kind.as_str() {
        "Join" | "AsofJoin" | "LookupJoin" => {
            format!("the join of {} keeps {what} of {} for ever", names(&all), names(&kept))
        }
        kind => format!("{} over {} keeps {what} for ever", construct(kind), names(&all)),
    }
}

fn construct(kind: &str) -> String {
    match kind {
        "TopN" => "the ranking".into(),
        "Aggregate" => "the aggregation".into(),
        "Distinct" => "DISTINCT".into(),
        "Upsert" => "the source's primary key".into(),
        other => format!("the {}", other.to_lowercase()),
    }
}

/// A word of the statement near which the operator was asked for.
fn word(node: &ExplainedNode) -> &'static str {
    match node.kind.as_str() {
        "Join" | "AsofJoin" | "LookupJoin" => "join",
        "TopN" => "order",
        "Aggregate" => "group",
        "Distinct" => "distinct",
        _ => "from",
    }
}
