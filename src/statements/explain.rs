//! `EXPLAIN`: how a query or a pipeline is computed.

use std::collections::BTreeMap;

use tidemill_plan::{PipelinePlan, RelationId};
use tidemill_sql::statements::{Explain, ExplainFormat, ExplainOf, ObjectKind, SinkInput, Statement};

use super::{query, text_rows, unsupported};
use crate::session::api::{Response, RowsTag, SqlError};
use crate::session::{Call, Session};

const TAG: RowsTag = RowsTag("EXPLAIN");

pub async fn run(session: &mut Session, explain: &Explain, call: &Call<'_>) -> Result<Response, SqlError> {
    if explain.format == ExplainFormat::Json {
        return Err(unsupported("EXPLAIN (FORMAT JSON)"));
    }
    let lines = match &explain.of {
        ExplainOf::Query(select) => {
            if explain.analyze {
                return Err(unsupported("EXPLAIN ANALYZE of a SELECT"));
            }
            let planned = query::plan(session, &select.query, call.sql, &BTreeMap::new()).await?;
            lines(&planned.plan.display_indent().to_string())
        }
        ExplainOf::Statement(statement) => {
            let (text, close) = match statement.as_ref() {
                Statement::CreatePipeline(create) => (create.query_text.clone(), create.emit_on_window_close),
                Statement::CreateSink(create) => match &create.input {
                    SinkInput::Query { text, emit_on_window_close, .. } => {
                        (text.clone(), *emit_on_window_close)
                    }
                    SinkInput::From(name) => (format!("SELECT * FROM {name}"), false),
                },
                _ => return Err(unsupported("EXPLAIN of this statement")),
            };
            let search_path = session.settings.search_path();
            let plan = session
                .database
                .pipeline_plan(&text, &search_path, close)
                .await
                .map_err(|error| super::create::at_query(error, call.sql, &text))?;
            pipeline_lines(&plan)
        }
        ExplainOf::Object { kind, name } => {
            let Some(catalog_kind) = super::create::kind(*kind) else {
                return Err(unsupported("EXPLAIN SCHEMA"));
            };
            let catalog = session.database.catalog();
            let search_path = session.settings.search_path();
            let object = catalog
                .resolve_kind(catalog_kind, name.schema.as_deref(), &name.name, &search_path)
                .map_err(|error| SqlError::from(error).with_position(name.position))?
                .clone();
            if explain.analyze {
                analyze(session, RelationId(object.oid)).await
            } else if *kind == ObjectKind::Pipeline {
                let tidemill_catalog::Definition::Pipeline(pipeline) = &object.definition else {
                    unreachable!("resolved as a pipeline");
                };
                let plan = session
                    .database
                    .pipeline_plan(&pipeline.query, &object.search_path, pipeline.emit_on_window_close)
                    .await?;
                pipeline_lines(&plan)
            } else {
                return Err(unsupported(format!("EXPLAIN {}", catalog_kind.keyword())));
            }
        }
    };
    Ok(text_rows(&["QUERY PLAN"], &lines, TAG))
}

/// What each operator of a running pipeline has done.
async fn analyze(session: &Session, id: RelationId) -> Vec<Vec<String>> {
    let operators = session.database.engine.operators(id).await;
    let line = |operator: &tidemill_engine::OperatorStatus| {
        let millis = operator.nanos as f64 / 1e6;
        vec![format!(
            "{} (rows in={} out={}, time={millis:.1} ms)",
            operator.display, operator.rows_in, operator.rows_out
        )]
    };
    let mut lines: Vec<Vec<String>> = operators.iter().map(line).collect();
    if lines.is_empty() {
        lines.push(vec!["no operator keeps state".into()]);
    }
    lines
}

fn pipeline_lines(plan: &PipelinePlan) -> Vec<Vec<String>> {
    let mut all = lines(&plan.delta_plan.display_indent().to_string());
    let properties = &plan.properties;
    let kind = if properties.is_append_only { "append-only" } else { "retracting" };
    all.push(vec![format!("Changes: {kind}")]);
    let names = |key: &[usize]| {
        let names: Vec<&str> = key.iter().map(|column| plan.schema.field(*column).name().as_str()).collect();
        format!("({})", names.join(", "))
    };
    let keys: Vec<String> = properties.unique_keys.iter().map(|key| names(key)).collect();
    all.push(vec![format!("Unique keys: {}", if keys.is_empty() { "none".into() } else { keys.join(", ") })]);
    all
}

fn lines(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| vec![line.to_owned()]).collect()
}
