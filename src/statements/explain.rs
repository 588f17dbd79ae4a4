//! `EXPLAIN`: how a query or a pipeline is computed, what it keeps, and what it has done.

mod estimate;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Instant;

use datafusion::common::ScalarValue;
use datafusion::execution::context::SessionContext;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;
use serde_json::{Value, json};
use tidemill_catalog::{Definition, Object, Privilege};
use tidemill_core::{SqlState, Upkeep};
use tidemill_engine::OperatorStatus;
use tidemill_plan::{PipelinePlan, RelationId};
use tidemill_sql::statements::{Explain, ExplainFormat, ExplainOf, SelectQuery, SinkInput, Statement};

use self::estimate::Estimate;
use self::node::Notes;
use super::{execution_error, query, text_rows, unsupported};
use crate::database::pipeline_upkeep;
use crate::names::Scope;
use crate::privileges;
use crate::session::api::{Response, RowsTag, SqlError};
use crate::session::{Call, Session};

const TAG: RowsTag = RowsTag("EXPLAIN");

/// The one column of an explanation.
pub const COLUMN: &str = "QUERY PLAN";

pub async fn run(session: &mut Session, explain: &Explain, call: &Call<'_>) -> Result<Response, SqlError> {
    let text = match &explain.of {
        ExplainOf::Query(select) if explain.analyze => analyze_query(session, explain, select, call).await?,
        ExplainOf::Query(select) => explain_query(session, explain, select, call).await?,
        ExplainOf::Statement(statement) => {
            let (text, upkeep) = match statement.as_ref() {
                Statement::CreatePipeline(create) => {
                    let ttl = super::create::ttl(&create.options)?;
                    (create.query_text.clone(), Upkeep { emit: create.emit, ttl })
                }
                Statement::CreateSink(create) => match &create.input {
                    SinkInput::Query { text, emit, .. } => (text.clone(), Upkeep::from(*emit)),
                    SinkInput::From(name) => (format!("SELECT * FROM {name}"), Upkeep::default()),
                },
                _ => {
                    return Err(unsupported("EXPLAIN of this statement").with_hint(
                        "EXPLAIN takes a query, CREATE PIPELINE, CREATE SINK, or PIPELINE and a name.",
                    ));
                }
            };
            if explain.analyze {
                return Err(unsupported("EXPLAIN ANALYZE of a statement that creates something")
                    .with_hint("Create it, then EXPLAIN ANALYZE PIPELINE and its name."));
            }
            let search_path = session.settings.search_path();
            let query = tidemill_sql::parser::parse_query(&text)?;
            super::create::require_rows(session, &query, &search_path)?;
            let plan = session
                .database
                .pipeline_plan_in(session.catalog(), &text, (&search_path).into(), &upkeep)
                .await
                .map_err(|error| super::create::at_query(error, call.sql, &text))?;
            explain_pipeline(session, explain, &plan).await?
        }
        ExplainOf::Object { kind, name } => {
            let Some(catalog_kind) = super::create::kind(*kind) else {
                return Err(unsupported(format!("EXPLAIN {}", kind.keyword())));
            };
            let catalog = session.catalog();
            let search_path = session.settings.search_path();
            let object = catalog
                .resolve_kind(catalog_kind, name.schema.as_deref(), &name.name, &search_path)
                .map_err(|error| SqlError::from(error).with_position(name.position))?
                .clone();
            match object.kind().is_readable() {
                true => privileges::require(&catalog, session.user(), &object, Privilege::Select),
                false => privileges::require_owner(&catalog, session.user(), &object, false),
            }
            .map_err(|error| error.with_position(name.position))?;
            let plan = plan_of(session, &object).await?;
            match explain.analyze {
                true => analyze_pipeline(session, explain, &object, &plan),
                false => explain_pipeline(session, explain, &plan).await?,
            }
        }
    };
    let lines: Vec<Vec<String>> = match explain.format {
        ExplainFormat::Json => vec![vec![text]],
        ExplainFormat::Text => text.lines().map(|line| vec![line.to_owned()]).collect(),
    };
    Ok(text_rows(&[COLUMN], &lines, TAG))
}

/// The plan that runs for a pipeline or a sink.
async fn plan_of(session: &Session, object: &Object) -> Result<PipelinePlan, SqlError> {
    let database = &session.database;
    let (text, upkeep) = match &object.definition {
        Definition::Pipeline(pipeline) => (pipeline.query.clone(), pipeline_upkeep(pipeline)?),
        Definition::Sink(sink) => crate::database::sink_query(&session.catalog(), &sink.input)?,
        _ => {
            return Err(unsupported(format!("EXPLAIN {}", object.kind().keyword()))
                .with_hint("Only pipelines and sinks run a plan."));
        }
    };
    database.pipeline_plan_in(session.catalog(), &text, Scope::of(object), &upkeep).await
}

async fn explain_query(
    session: &mut Session,
    explain: &Explain,
    select: &SelectQuery,
    call: &Call<'_>,
) -> Result<String, SqlError> {
    let planned = query::plan(session, &select.query, call.sql, &BTreeMap::new()).await?;
    let reads = planned.reads();
    Ok(match explain.format {
        ExplainFormat::Text => {
            let mut text = planned.plan.display_indent().to_string();
            for (relation, how) in reads {
                text.push_str(&format!("\nRead {relation}: {how}"));
            }
            text
        }
        ExplainFormat::Json => {
            let mut all: Value = serde_json::from_str(&planned.plan.display_pg_json().to_string())
                .map_err(|error| SqlError::new(SqlState::INTERNAL_ERROR, error.to_string()))?;
            let read = |(relation, how): &(String, String)| json!({"Relation": relation, "Rows": how});
            all[0]["Reads"] = reads.iter().map(read).collect();
            pretty(&all)
        }
    })
}

/// Runs a query, and says of each step what it did.
async fn analyze_query(
    session: &mut Session,
    explain: &Explain,
    select: &SelectQuery,
    call: &Call<'_>,
) -> Result<String, SqlError> {
    let planned = query::plan(session, &select.query, call.sql, &BTreeMap::new()).await?;
    let database = session.database.clone();
    let error = |error| execution_error(&database, error, call.sql);
    let (plan, state) = planned.bound(params(call)).map_err(error)?;
    let started = Instant::now();
    let context = SessionContext::new_with_state(state);
    let frame = context.execute_logical_plan(plan).await.map_err(error)?;
    let task = std::sync::Arc::new(frame.task_ctx());
    let physical = frame.create_physical_plan().await.map_err(error)?;
    let planned_in = started.elapsed();
    let started = Instant::now();
    let mut rows = datafusion::physical_plan::execute_stream(physical.clone(), task).map_err(error)?;
    let mut n_rows = 0;
    while let Some(batch) = rows.try_next().await.map_err(error)? {
        n_rows += batch.num_rows();
    }
    let (planning, execution) = (planned_in.as_secs_f64() * 1e3, started.elapsed().as_secs_f64() * 1e3);
    Ok(match explain.format {
        ExplainFormat::Text => format!(
            "{}Rows: {n_rows}\nPlanning Time: {planning:.3} ms\nExecution Time: {execution:.3} ms",
            DisplayableExecutionPlan::with_metrics(physical.as_ref()).indent(explain.verbose)
        ),
        ExplainFormat::Json => pretty(&json!([{
            "Plan": physical_json(physical.as_ref()),
            "Rows": n_rows,
            "Planning Time": planning,
            "Execution Time": execution,
        }])),
    })
}

fn params(call: &Call<'_>) -> Vec<ScalarValue> {
    call.params.clone()
}

/// A step of a query that has run, in the shape that PostgreSQL's tools read.
fn physical_json(plan: &dyn ExecutionPlan) -> Value {
    let metrics = plan.metrics().map(|metrics| metrics.aggregate_by_name());
    let rows = metrics.as_ref().and_then(|metrics| metrics.output_rows());
    let nanos = metrics.as_ref().and_then(|metrics| metrics.elapsed_compute());
    let details = DisplayableExecutionPlan::new(plan).one_line().to_string();
    let mut node = json!({
        "Node Type": plan.name(),
        "Details": details.trim_end(),
        "Partitions": plan.output_partitioning().partition_count(),
        "Plans": plan.children().iter().map(|child| physical_json(child.as_ref())).collect::<Vec<_>>(),
    });
    if let Some(rows) = rows {
        node["Actual Rows"] = rows.into();
    }
    if let Some(nanos) = nanos {
        node["Actual Total Time"] = (nanos as f64 / 1e6).into();
    }
    node
}

async fn explain_pipeline(
    session: &Session,
    explain: &Explain,
    plan: &PipelinePlan,
) -> Result<String, SqlError> {
    let estimate = match explain.has("STATE") {
        true => Some(Estimate::make(session, plan).await?),
        false => None,
    };
    let notes = Notes { estimate: estimate.as_ref(), operators: None };
    Ok(match explain.format {
        ExplainFormat::Text => {
            let mut text = node::text(&plan.explained, &notes);
            text.push_str(&summary(plan));
            if let Some(estimate) = &estimate {
                text.push_str(&estimate.text());
            }
            text
        }
        ExplainFormat::Json => {
            let mut all = json!({
                "Plan": node::json(&plan.explained, &notes),
                "Changes": changes(plan),
                "Unique Keys": unique_keys(plan),
            });
            if let Some(estimate) = &estimate {
                all["Sample"] = estimate.json();
            }
            pretty(&json!([all]))
        }
    })
}

/// What each operator of a running pipeline has done, and holds.
fn analyze_pipeline(session: &Session, explain: &Explain, object: &Object, plan: &PipelinePlan) -> String {
    let mut operators: Vec<OperatorStatus> = session.database.engine.operators(RelationId(object.oid));
    // The order in which they were planned is not that of the plan; equal ones are numbered.
    operators.sort_by(|a, b| a.id.cmp(&b.id));
    let notes = Notes { estimate: None, operators: Some(operators) };
    match explain.format {
        ExplainFormat::Text => node::text(&plan.explained, &notes),
        ExplainFormat::Json => pretty(&json!([{ "Plan": node::json(&plan.explained, &notes) }])),
    }
}

fn summary(plan: &PipelinePlan) -> String {
    let keys: Vec<String> = unique_keys(plan).iter().map(|key| format!("({})", key.join(", "))).collect();
    let keys = if keys.is_empty() { "none".into() } else { keys.join(", ") };
    format!("Changes: {}\nUnique keys: {keys}\n", changes(plan))
}

fn changes(plan: &PipelinePlan) -> &'static str {
    if plan.properties.is_append_only { "append-only" } else { "retracting" }
}

fn unique_keys(plan: &PipelinePlan) -> Vec<Vec<String>> {
    let name = |column: &usize| plan.schema.field(*column).name().clone();
    plan.properties.unique_keys.iter().map(|key| key.iter().map(name).collect()).collect()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
