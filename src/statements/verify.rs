//! `VERIFY PIPELINE`: whether a pipeline shows what its query gives, run as a batch.
//!
//! The pipeline and its inputs are read at one epoch; inputs that are not stored are read again from where they
//! come, up to what the pipeline had seen. Nothing of it is in the dataflow's way: all the work is the
//! session's own, and ends with the statement.

pub(crate) mod differences;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use futures::TryStreamExt;
use tidemill_catalog::{Catalog, Column, Definition, Kind, Object, PipelineDefinition, Privilege};
use tidemill_core::{Emit, SqlState, Upkeep};
use tidemill_engine::{OnConflict, StandingView, TableWrite};
use tidemill_plan::{CloseSource, ExplainedNode, Hold, IncrementalNode, Operator, PipelinePlan, RelationId};
use tidemill_sql::statements::Verify;
use tidemill_sql::{Names, Refusal, Resolved, Versions};

use self::differences::{Differences, Sampling};
use self::replay::Replay;
use super::{create, dml, engine_error, execution_error, rows};
use crate::database::pipeline_upkeep;
use crate::names::{Scope, versions, view_query};
use crate::session::api::{Notice, Response, RowsTag, SqlError};
use crate::session::{Call, Session};
use crate::{policies, privileges};

/// How many of the rows that differ are shown.
const N_EXAMPLES: usize = 10;

/// What VERIFY answers: one row.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        text("pipeline"),
        int("epoch"),
        text("verdict"),
        int("rows_expected"),
        int("rows_shown"),
        int("missing"),
        int("extra"),
        int("rounding"),
        text("examples"),
    ]))
}

pub async fn run(session: &mut Session, verify: &Verify, call: &Call<'_>) -> Result<Response, SqlError> {
    let database = session.database.clone();
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let name = &verify.name;
    let object = catalog
        .resolve_kind(Kind::Pipeline, name.schema.as_deref(), &name.name, &search_path)
        .map_err(|error| SqlError::from(error).with_position(name.position))?
        .clone();
    privileges::require(&catalog, session.user(), &object, Privilege::Select)
        .and_then(|()| policies::require_all_rows(&catalog, session.user(), &object))
        .map_err(|error| error.with_position(name.position))?;
    let Definition::Pipeline(pipeline) = &object.definition else {
        unreachable!("resolved as a pipeline");
    };
    let upkeep = pipeline_upkeep(pipeline)?;
    let plan =
        database.pipeline_plan_in(catalog.clone(), &pipeline.query, Scope::of(&object), &upkeep).await?;
    refuse_arrivals(&object, &upkeep, &plan)?;
    let complete = match upkeep.emit.waits_for_close() {
        true => Some(complete_column(&object, &plan)?),
        false => None,
    };
    let sources = sources(&catalog, &plan)?;
    let stored: BTreeSet<RelationId> =
        plan.inputs.iter().copied().filter(|id| !sources.contains(id)).collect();
    if database.is_for_checks() {
        return Ok(rows(schema(), vec![RecordBatch::new_empty(schema())], RowsTag("VERIFY")));
    }
    let id = RelationId(object.oid);
    let standing = database
        .engine
        .standing(id, &stored, session.written)
        .await
        .map_err(|error| engine_error(&database, error))?;
    if standing.late_rows > 0 {
        session.notices.push(Notice::warning(
            SqlState("01000"),
            format!(
                "{} rows came too late for their windows, so the batch answer of these may be another",
                standing.late_rows
            ),
        ));
    }

    let bytes_max = session.settings.bytes("verify_memory").unwrap_or(usize::MAX);
    let mut tables: BTreeMap<RelationId, Arc<dyn TableProvider>> = BTreeMap::new();
    for input in &plan.inputs {
        let table: Arc<dyn TableProvider> = match standing.relations.get(input) {
            Some(snapshot) => {
                let batches = snapshot.batches().map_err(|error| engine_error(&database, error))?;
                let table = MemTable::try_new(snapshot.schema.clone(), vec![batches]);
                Arc::new(table.map_err(SqlError::from_datafusion)?)
            }
            None => {
                let schema = catalog.get(input.0).map(|source| source.arrow_schema());
                replay::table(Replay {
                    database: database.clone(),
                    source: *input,
                    schema: schema.unwrap_or_else(|| Arc::new(Schema::empty())),
                    to: standing.offsets.get(input).cloned().unwrap_or_default(),
                    bytes_max,
                })
                .map_err(SqlError::from_datafusion)?
            }
        };
        tables.insert(*input, table);
    }

    let sampling = Sampling { percent: verify.sample_percent, key: sample_key(&plan) };
    let mut differences = Differences::new(object.arrow_schema(), sampling, bytes_max)?;
    let batch = Batch { object: &object, pipeline, tables: &tables, now: standing.now, bytes_max };
    batch
        .run(session, |batch| match &complete {
            Some((column, closes)) => differences.expect(&completed(batch, *column, closes, &standing)?),
            None => differences.expect(batch),
        })
        .await?;
    let shown = standing.relations.get(&id).ok_or_else(|| {
        SqlError::new(SqlState::INTERNAL_ERROR, "the pipeline is not among what was read for it")
    })?;
    for batch in shown.batches().map_err(|error| engine_error(&database, error))? {
        differences.show(&batch)?;
        // Between two batches the session can be told to stop.
        tokio::task::yield_now().await;
    }
    let found = differences.finish()?;
    if let Some(into) = &verify.into {
        write(session, into, &found, call.sql).await?;
    }
    if found.n_missing + found.n_extra > 0 {
        session.notices.push(Notice::warning(
            SqlState::DATA_CORRUPTED,
            format!("pipeline \"{}\" does not show the answer of its query", object.name),
        ));
    }
    let verdict = if found.n_missing + found.n_extra > 0 { "different" } else { "equal" };
    let int = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
    let text = |text: String| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let columns = vec![
        text(object.name.clone()),
        int(standing.epoch.0 as i64),
        text(verdict.into()),
        int(found.n_expected),
        int(found.n_shown),
        int(found.n_missing),
        int(found.n_extra),
        int(found.n_rounding),
        text(found.examples(N_EXAMPLES)?),
    ];
    let report = RecordBatch::try_new(schema(), columns)
        .map_err(|error| SqlError::new(SqlState::INTERNAL_ERROR, error.to_string()))?;
    Ok(rows(schema(), vec![report], RowsTag("VERIFY")))
}

/// An error where the result depends on when rows came, which a batch over all of them cannot know.
fn refuse_arrivals(object: &Object, upkeep: &Upkeep, plan: &PipelinePlan) -> Result<(), SqlError> {
    let looks_up = plan.explained.walk().iter().any(|(_, node)| node.kind == "LookupJoin");
    let (why, hint) = match upkeep.emit {
        _ if looks_up => (
            "each row of a join with FOR SYSTEM_TIME AS OF now() shows what was there when it came",
            "Verify a pipeline with the same query without FOR SYSTEM_TIME AS OF now(), or with the time of the row.",
        ),
        _ if !upkeep.ttl.is_none() => (
            "what it has forgotten after its ttl depends on when rows came",
            "Verify a pipeline with the same query, without ttl.",
        ),
        Emit::Every(_) | Emit::OnWindowCloseWithEarly(_) => (
            "it holds changes back, and shows the result of some moment before",
            "Verify a pipeline with the same query, without EVERY.",
        ),
        _ => return Ok(()),
    };
    let message = format!("pipeline \"{}\" cannot be verified: {why}", object.name);
    Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint))
}

/// The inputs that are read again; an error where one cannot be.
fn sources(catalog: &Catalog, plan: &PipelinePlan) -> Result<BTreeSet<RelationId>, SqlError> {
    let mut sources = BTreeSet::new();
    for id in &plan.inputs {
        let Some(object) = catalog.get(id.0) else { continue };
        let Definition::Source(source) = &object.definition else { continue };
        let is_latest = |text: &str| text.eq_ignore_ascii_case("latest");
        let starts_late = source
            .options
            .iter()
            .any(|(key, value)| key == "scan.startup.mode" && value.text().is_some_and(is_latest));
        if starts_late {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("source \"{}\" cannot be read again from where its pipelines began", object.name),
            )
            .with_detail("It begins at the latest offset, and nobody knows any more which one that was.")
            .with_hint("Sources with scan.startup.mode earliest, timestamp or offsets can be verified."));
        }
        sources.insert(*id);
    }
    Ok(sources)
}

/// The columns by which a sample is taken: a row that differs is in it together with the one expected.
fn sample_key(plan: &PipelinePlan) -> Vec<usize> {
    let key = plan.properties.unique_keys.iter().filter(|key| !key.is_empty()).min_by_key(|key| key.len());
    key.cloned().unwrap_or_default()
}

/// Of a pipeline that waits for windows to close, the column that says which are.
fn complete_column(object: &Object, plan: &PipelinePlan) -> Result<(usize, Vec<CloseSource>), SqlError> {
    let refused = |why: &str| {
        SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("pipeline \"{}\" cannot be verified: {why}", object.name),
        )
        .with_hint("Verify a pipeline with the same query, without EMIT ON WINDOW CLOSE.")
    };
    // Rows that wait for their time are out as soon as it is complete, whatever is below.
    if let LogicalPlan::Extension(extension) = &plan.delta_plan
        && let Some(node) = extension.node.as_any().downcast_ref::<IncrementalNode>()
        && let Operator::Hold(Hold { close }) = &node.operator
    {
        return Ok((close.column, close.sources.clone()));
    }
    let mut node: &ExplainedNode = &plan.explained;
    while ["Projection", "Filter", "SubqueryAlias"].contains(&node.kind.as_str()) {
        node = &node.inputs[0];
    }
    let is_aggregate = |node: &ExplainedNode| node.kind == "Aggregate";
    if !is_aggregate(node) || node.walk()[1..].iter().any(|(_, below)| is_aggregate(below)) {
        return Err(refused("windows close below other steps of its query"));
    }
    let mut columns = plan.properties.closes.iter().enumerate();
    match columns.find(|(_, closes)| !closes.is_empty()) {
        Some((column, closes)) => Ok((column, closes.clone())),
        None => Err(refused("its result does not say which window a row is of")),
    }
}

/// The rows whose windows had closed.
fn completed(
    batch: &RecordBatch,
    column: usize,
    closes: &[CloseSource],
    standing: &StandingView,
) -> Result<RecordBatch, SqlError> {
    let limits = closes.iter().map(|close| {
        standing.watermarks.get(&close.relation).map(|watermark| watermark.saturating_sub(close.delay))
    });
    let limit = limits.collect::<Option<Vec<i64>>>().and_then(|limits| limits.into_iter().min());
    let failed = |error: arrow::error::ArrowError| SqlError::from_datafusion(error.into());
    let times = cast(batch.column(column), &DataType::Timestamp(TimeUnit::Microsecond, None));
    let micros = times.and_then(|times| cast(&times, &DataType::Int64)).map_err(failed)?;
    let is_complete = |micros: Option<i64>| micros.zip(limit).is_some_and(|(micros, limit)| micros <= limit);
    let complete: BooleanArray =
        micros.as_primitive::<Int64Type>().iter().map(|m| Some(is_complete(m))).collect();
    filter_record_batch(batch, &complete).map_err(failed)
}

/// The pipeline's query as a batch.
struct Batch<'a> {
    object: &'a Object,
    pipeline: &'a PipelineDefinition,
    tables: &'a BTreeMap<RelationId, Arc<dyn TableProvider>>,
    /// The time of the epoch.
    now: i64,
    bytes_max: usize,
}

impl Batch<'_> {
    /// Runs it; its rows have the pipeline's columns.
    async fn run(
        &self,
        session: &Session,
        mut each: impl FnMut(&RecordBatch) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        let database = &session.database;
        let catalog = session.catalog();
        let names = Inputs { catalog: &catalog, scope: Scope::of(self.object), tables: self.tables };
        let query = tidemill_sql::parser::parse_query(&self.pipeline.query)?;
        let planned = database.planner.plan_query(&query, &names).await;
        let planned = planned.map_err(|error| database.delta_error(error, &self.pipeline.query))?;
        let error = |error: DataFusionError| match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => self.too_large(),
            _ => execution_error(database, error, ""),
        };
        // Sorts and aggregates that do not fit spill to disk; what cannot is an error.
        let memory =
            RuntimeEnvBuilder::new().with_memory_limit(self.bytes_max, 1.0).build_arc().map_err(error)?;
        let mut state =
            SessionStateBuilder::new_from_existing(planned.state).with_runtime_env(memory).build();
        state.execution_props_mut().query_execution_start_time =
            chrono::DateTime::from_timestamp_micros(self.now);
        // Where the order of values is left open, the pipeline's is as good as any.
        let plan = tidemill_sql::with_value_order(planned.plan).map_err(error)?;
        let frame = DataFrame::new(state, plan);
        let mut stream = frame.execute_stream().await.map_err(error)?;
        let schema = self.object.arrow_schema();
        while let Some(batch) = stream.try_next().await.map_err(error)? {
            each(&with_columns_of(&schema, &batch)?)?;
        }
        Ok(())
    }

    fn too_large(&self) -> SqlError {
        SqlError::new(
            SqlState::OUT_OF_MEMORY,
            format!(
                "the batch answer of \"{}\" does not fit into {} bytes",
                self.object.name, self.bytes_max
            ),
        )
        .with_hint("SET verify_memory to more.")
    }
}

/// A batch answer's rows with the types of the pipeline's columns.
fn with_columns_of(schema: &Schema, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
    let failed = |error: arrow::error::ArrowError| SqlError::from_datafusion(error.into());
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<Vec<ArrayRef>, _>>()
        .map_err(failed)?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let nullable: Vec<Field> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    RecordBatch::try_new_with_options(Arc::new(Schema::new(nullable)), columns, &options).map_err(failed)
}

/// What names in the pipeline's query stand for.
struct Inputs<'a> {
    catalog: &'a Catalog,
    scope: Scope<'a>,
    tables: &'a BTreeMap<RelationId, Arc<dyn TableProvider>>,
}

impl Names for Inputs<'_> {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Result<Option<Resolved>, Refusal> {
        let Some(object) = self.scope.find(self.catalog, schema, name) else { return Ok(None) };
        if let Definition::View(view) = &object.definition {
            return view_query(&view.query).map(Some);
        }
        if let Some(table) = self.tables.get(&RelationId(object.oid)) {
            return Ok(Some(Resolved::Table(table.clone())));
        }
        // The plan does without it, so what is in it makes no difference.
        let empty = MemTable::try_new(object.arrow_schema(), vec![Vec::new()]).map_err(|error| Refusal {
            sqlstate: SqlState::INTERNAL_ERROR,
            message: error.to_string(),
            hint: None,
            near: None,
        })?;
        Ok(Some(Resolved::Table(Arc::new(empty))))
    }

    fn within(&self, schema: Option<&str>, name: &str) -> Option<Box<dyn Names + '_>> {
        let view = self.scope.find(self.catalog, schema, name)?;
        Some(Box::new(Inputs { scope: Scope::of(&view).into_owned(), ..*self }))
    }

    fn versions(&self, schema: Option<&str>, name: &str) -> Option<Versions> {
        versions(self.catalog, schema, name, &self.scope)
    }
}

/// Writes the rows that differ to a table.
async fn write(
    session: &mut Session,
    into: &tidemill_sql::parser::ObjectName,
    found: &differences::Found,
    sql: &str,
) -> Result<(), SqlError> {
    let batch = found.rows()?;
    let columns: Vec<Column> =
        batch.schema().fields().iter().map(|field| Column::from(field.as_ref())).collect();
    let table = create::table_for(session, into, columns, sql).await?;
    if batch.num_rows() == 0 {
        return Ok(());
    }
    let rows = RecordBatch::try_new(table.arrow_schema(), batch.columns().to_vec())
        .map_err(|error| SqlError::from_datafusion(error.into()))?;
    let write = TableWrite::Insert { rows, on_conflict: OnConflict::Error };
    dml::write_to(session, &table, write).await?;
    Ok(())
}
