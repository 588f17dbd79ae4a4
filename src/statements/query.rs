//! `SELECT`: a batch query over snapshots, all at one epoch.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::ast::Query;
use futures::StreamExt;
use tidemill_catalog::Catalog;
use tidemill_core::Epoch;
use tidemill_engine::dead_letters::DEAD_LETTERS;
use tidemill_engine::{ReadView, State, ViewTable};
use tidemill_plan::RelationId;
use tidemill_sql::QueryPlan;

use super::origin::{self, Origin};
use super::{engine_error, execution_error};
use crate::names::{CatalogNames, References, SnapshotNames};
use crate::pg_catalog;
use crate::pgwire::types::{ORIGIN, PG_TYPE};
use crate::policies::{Policies, Reader};
use crate::privileges;
use crate::row_filter::RowFilter;
use crate::session::api::{Notice, Response, RowsTag, SqlError};
use crate::session::{Call, Session, internal};
use crate::system;

/// A query that can be run, or described.
pub struct Planned {
    pub plan: LogicalPlan,
    state: datafusion::execution::context::SessionState,
    /// The columns as the client is to see them.
    pub schema: SchemaRef,
    /// Whether it may take numbers from sequences.
    takes_numbers: bool,
}

impl Planned {
    /// The plan with its parameters, and the session that runs it.
    pub fn bound(
        self,
        params: Vec<ScalarValue>,
    ) -> datafusion::common::Result<(LogicalPlan, datafusion::execution::context::SessionState)> {
        let plan = match params.is_empty() {
            true => self.plan,
            false => self.plan.with_param_values(ParamValues::from(params))?,
        };
        Ok((plan, self.state))
    }

    /// How the rows of each table and pipeline that it names are found. With parameters that is not known before they are.
    pub fn reads(&self) -> Vec<(String, String)> {
        let mut reads = Vec::new();
        let Ok(optimized) = self.state.optimize(&self.plan) else { return reads };
        // Errors are those of a run.
        let _ = optimized.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Ok(table) = source_as_provider(&scan.source)
            {
                let filtered = (table.as_ref() as &dyn Any).downcast_ref::<RowFilter>();
                let (table, filters, what) = match filtered {
                    Some(filtered) => (
                        filtered.table.clone(),
                        filtered.looked_up(&scan.filters)?,
                        ", of these what policies show",
                    ),
                    None => (table, scan.filters.clone(), ""),
                };
                if let Some(view) = (table.as_ref() as &dyn Any).downcast_ref::<ViewTable>() {
                    let found = view.explain(&filters)?;
                    reads.push((scan.table_name.table().to_owned(), found + what));
                }
            }
            Ok(TreeNodeRecursion::Continue)
        });
        reads
    }
}

pub async fn run(session: &mut Session, query: &Query, call: &Call<'_>) -> Result<Response, SqlError> {
    let kept = match call.kept {
        Some(kept) => kept.stream(session, query, call).await?,
        None => None,
    };
    let (schema, rows) = match kept {
        Some(kept) => kept,
        None => stream(session, query, call.sql, call.params.clone()).await?,
    };
    Ok(Response::Rows { schema, rows, tag: RowsTag::SELECT })
}

/// The rows of a query, as they come.
pub async fn stream(
    session: &mut Session,
    query: &Query,
    sql: &str,
    params: Vec<ScalarValue>,
) -> Result<(SchemaRef, SendableRecordBatchStream), SqlError> {
    let planned = plan(session, query, sql, &BTreeMap::new()).await?;
    execute(session, planned, sql, params).await
}

/// All rows of a query.
pub async fn collect(
    session: &mut Session,
    query: &Query,
    sql: &str,
    params: Vec<ScalarValue>,
    extra: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<(SchemaRef, Vec<RecordBatch>), SqlError> {
    let planned = plan(session, query, sql, extra).await?;
    let (schema, mut rows) = execute(session, planned, sql, params).await?;
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        batches.push(batch.map_err(|error| execution_error(&session.database, error, sql))?);
    }
    Ok((schema, batches))
}

/// What a query names, all of which its user may read.
pub(super) fn references(
    session: &Session,
    query: &Query,
    extra: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<References, SqlError> {
    let (catalog, user) = (session.catalog(), session.user());
    let mut references = References { given: extra.keys().cloned().collect(), ..References::default() };
    let search_path = session.settings.search_path();
    references.add(&session.database, &catalog, query, &(&search_path).into(), user)?;
    let changed = session.changes.map(|change| change.relation);
    privileges::require_reads(&catalog, &references.reads, changed)?;
    if references.relations.contains(&DEAD_LETTERS) {
        privileges::require_dead_letters(&catalog, user)?;
    }
    if references.system.contains(system::AUDIT_LOG) {
        privileges::require_audit_log(&catalog, user)?;
    }
    references.is_catalog_query |= pg_catalog::is_catalog_query(query);
    Ok(references)
}

/// Plans a query over what its relations show now. `extra` are relations by name that hide others.
pub async fn plan(
    session: &mut Session,
    query: &Query,
    sql: &str,
    extra: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<Planned, SqlError> {
    let database = session.database.clone();
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let references = references(session, query, extra)?;
    if references.is_catalog_query {
        return plan_catalog_query(session, query, sql, &references, extra).await;
    }
    let view = read(session, &references.relations).await?;
    let status = status(session, &references).await;
    let system = system::tables(&references.system, &status, &catalog, &database.audit)?;
    let policies = Policies { database: &database, reader: Reader::of(session), change: session.changes };
    let names = SnapshotNames {
        catalog: &catalog,
        scope: (&search_path).into(),
        role: session.user().into(),
        policies: &policies,
        snapshots: &view.relations,
        system: &system,
        given: Some(extra),
        sequences: &database.sequences,
        is_for_checks: database.is_for_checks(),
        params: None,
    };
    let planned = match pg_catalog::has_effects(query) {
        true => {
            let effects = session.effects(session.pg_catalog());
            database.planner.with_functions(effects.functions()).plan_query(query, &names).await
        }
        false => database.planner.plan_query(query, &names).await,
    };
    let planned = planned.map_err(|error| database.delta_error(error, sql))?;
    let takes_numbers = pg_catalog::takes_numbers(query);
    Ok(Planned { takes_numbers, ..planned_query(planned, &catalog, &search_path) })
}

pub(super) fn planned_query(planned: QueryPlan, catalog: &Catalog, search_path: &[String]) -> Planned {
    let QueryPlan { plan, state, display_names } = planned;
    let origins = origin::origins(&plan, catalog, search_path);
    let fields = plan.schema().fields().iter().zip(origins).enumerate().map(|(idx, (field, origin))| {
        let name = display_names.as_ref().and_then(|names| names.get(idx)).unwrap_or(field.name());
        with_origin(field.as_ref().clone().with_name(name), origin)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
    Planned { plan, state, schema, takes_numbers: false }
}

/// Plans a query over `pg_catalog` or `information_schema`, which may name other relations beside.
async fn plan_catalog_query(
    session: &mut Session,
    query: &Query,
    sql: &str,
    references: &References,
    extra: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<Planned, SqlError> {
    let database = session.database.clone();
    let view = read(session, &references.relations).await?;
    let status = status(session, references).await;
    let system = system::tables(&references.system, &status, &session.catalog(), &database.audit)?;
    let pg_catalog = session.pg_catalog();
    let takes_numbers = pg_catalog::takes_numbers(query);
    let mut functions = pg_catalog.functions();
    if pg_catalog::has_effects(query) {
        functions.extend(session.effects(pg_catalog.clone()).functions());
    }
    let mut query = query.clone();
    // What the columns are called is settled by the query as it was written.
    let display_names = tidemill_sql::name_columns(&mut query.clone());
    let declared = pg_catalog::declared_types(&query);
    pg_catalog::rewrite(&mut query, &pg_catalog)?;
    let search_path = session.settings.search_path();
    let policies = Policies { database: &database, reader: Reader::of(session), change: session.changes };
    let names = CatalogNames {
        pg_catalog: &pg_catalog,
        others: SnapshotNames {
            catalog: &pg_catalog.catalog,
            scope: (&search_path).into(),
            role: session.user().into(),
            policies: &policies,
            snapshots: &view.relations,
            system: &system,
            given: Some(extra),
            sequences: &database.sequences,
            is_for_checks: database.is_for_checks(),
            params: None,
        },
    };
    let planner = database.planner.with_functions(functions);
    let planned = planner.plan_query(&query, &names).await;
    let planned = planned.map_err(|error| database.delta_error(error, sql))?;
    let planned = QueryPlan { display_names, ..planned };
    let planned = planned_query(planned, &pg_catalog.catalog, &search_path);
    let mut planned = Planned { takes_numbers, ..planned };
    if let Some(declared) = declared {
        planned.schema = declared_schema(&planned.schema, &declared);
    }
    Ok(planned)
}

/// Columns of the types that the query's text says, where planning has lost them.
fn declared_schema(schema: &SchemaRef, declared: &[Option<String>]) -> SchemaRef {
    if schema.fields().len() != declared.len() {
        return schema.clone();
    }
    let fields = schema.fields().iter().zip(declared).map(|(field, declared)| {
        let mut field = field.as_ref().clone();
        if let Some(declared) = declared
            && pg_catalog::declared_field("", declared).data_type().equals_datatype(field.data_type())
        {
            field.metadata_mut().insert(PG_TYPE.to_owned(), declared.clone());
        }
        field
    });
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// Says of a result's column where it comes from.
fn with_origin(mut field: Field, origin: Option<Origin>) -> Field {
    if let Some(Origin { relation, column }) = origin {
        field.metadata_mut().insert(ORIGIN.to_owned(), format!("{relation}.{column}"));
    }
    field
}

async fn execute(
    session: &Session,
    planned: Planned,
    sql: &str,
    params: Vec<ScalarValue>,
) -> Result<(SchemaRef, SendableRecordBatchStream), SqlError> {
    let database = &session.database;
    let error = |error| execution_error(database, error, sql);
    let shown = planned.schema.clone();
    let takes_numbers = planned.takes_numbers;
    let (plan, mut state) = planned.bound(params).map_err(error)?;
    // The engine's time, so that a SELECT never lives before an epoch that it sees.
    state.execution_props_mut().query_execution_start_time =
        chrono::DateTime::from_timestamp_micros(database.engine.now());
    let frame = DataFrame::new(state, plan);
    let stream = frame.execute_stream().await.map_err(error)?;
    let schema = shown_schema(&stream.schema(), &shown);
    let rows = shown_rows(schema.clone(), stream);
    if !takes_numbers {
        return Ok((schema, rows));
    }
    // No number leaves before it is sure that it is not given again.
    let (database, catalog) = (database.clone(), session.catalog());
    let rows = rows.then(move |batch| {
        let (database, catalog) = (database.clone(), catalog.clone());
        async move {
            let settled = database.sequences.settle(&database.engine, &catalog).await;
            settled.map_err(|error| DataFusionError::External(Box::new(error)))?;
            batch
        }
    });
    Ok((schema.clone(), Box::pin(RecordBatchStreamAdapter::new(schema, rows))))
}

/// The columns as the client is to see them, with the types that they have: those are settled only when parameters have values.
pub(super) fn shown_schema(found: &SchemaRef, shown: &SchemaRef) -> SchemaRef {
    let fields = found.fields().iter().zip(shown.fields()).map(|(field, shown)| {
        let mut field = field.as_ref().clone().with_name(shown.name());
        if field.data_type().equals_datatype(shown.data_type()) {
            field.metadata_mut().extend(shown.metadata().clone());
        }
        field
    });
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// Rows with the columns of `schema`; a panic is an error.
pub(super) fn shown_rows(schema: SchemaRef, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let renamed = schema.clone();
    let rows = std::panic::AssertUnwindSafe(rows).catch_unwind().map(move |batch| {
        let failed = |panic: Box<dyn std::any::Any + Send>| {
            DataFusionError::External(Box::new(internal::panicked(panic.as_ref())))
        };
        let batch = batch.unwrap_or_else(|panic| Err(failed(panic)))?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(renamed.clone(), batch.columns().to_vec(), &options)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// What the session sees of some relations: what is committed, and what its own block has written.
pub(super) async fn read(
    session: &mut Session,
    relations: &BTreeSet<RelationId>,
) -> Result<Arc<ReadView>, SqlError> {
    let view = committed(session, relations).await?;
    if !session.is_in_block() {
        return Ok(view);
    }
    session.block.reads.extend(relations);
    if !session.block.writes.is_empty() {
        notice_of_pipelines(session, relations);
    }
    Ok(session.block.overlay(view))
}

/// Pipelines follow what is committed, which the reader of one in the middle of a transaction may not expect.
fn notice_of_pipelines(session: &mut Session, relations: &BTreeSet<RelationId>) {
    let catalog = session.catalog();
    let written = session.block.writes.tables().into_iter().map(|id| id.0).collect::<Vec<_>>();
    let behind = catalog.with_dependents(&written);
    let is_read = |object: &&Arc<tidemill_catalog::Object>| {
        object.kind() == tidemill_catalog::Kind::Pipeline && relations.contains(&RelationId(object.oid))
    };
    if let Some(pipeline) = behind.iter().find(is_read) {
        session.notice(format!("\"{}\" shows what this transaction writes once it commits", pipeline.name));
    }
}

async fn committed(
    session: &mut Session,
    relations: &BTreeSet<RelationId>,
) -> Result<Arc<ReadView>, SqlError> {
    let database = session.database.clone();
    if std::mem::take(&mut session.has_copied) {
        session.written = session.written.max(database.engine.epoch());
    }
    if relations.is_empty() || database.is_for_checks() {
        return Ok(Arc::new(ReadView { epoch: Epoch::ZERO, relations: BTreeMap::new(), stale: Vec::new() }));
    }
    let mut wanted = relations.clone();
    let mut beside = BTreeSet::new();
    if session.is_in_block() {
        match &session.pinned {
            // What has come to be since then is read as it is now.
            Some(pinned) => wanted.retain(|id| !pinned.relations.contains_key(id)),
            // A block reads one snapshot, so the first read takes all that later ones may ask for.
            None => beside = database.engine.readable().await,
        }
        if let Some(pinned) = session.pinned.clone().filter(|_| wanted.is_empty()) {
            return Ok(pinned);
        }
    }
    let mut view = database
        .engine
        .read_with(&wanted, &beside, at_least(session))
        .await
        .map_err(|error| engine_error(&database, error))?;
    let is_asked_for = |id: &RelationId| relations.contains(id);
    view.stale.retain(|stale| is_asked_for(&stale.id));
    for stale in &view.stale {
        let what = match &stale.state {
            State::Paused(_) => "is paused and shows its last epoch",
            State::Restarting(_) => "has failed, begins again, and shows its last good epoch",
            _ => "has failed and shows its last good epoch",
        };
        let mut notice = Notice::warning(
            tidemill_core::SqlState::NOT_IN_PREREQUISITE_STATE,
            format!("\"{}\" {what}", stale.name),
        );
        notice.detail = stale.state.reason().map(str::to_owned);
        session.notices.push(notice);
    }
    if !session.is_in_block() {
        return Ok(Arc::new(view));
    }
    if let Some(pinned) = &session.pinned {
        view.epoch = pinned.epoch;
        view.relations.extend(pinned.relations.clone());
    }
    let view = Arc::new(view);
    session.pinned = Some(view.clone());
    Ok(view)
}

/// The epoch that a read must have reached.
fn at_least(session: &Session) -> Epoch {
    match session.settings.get("freshness") {
        Ok("strict") => session.database.engine.epoch(),
        // What a block changes it has to see as it is.
        Ok("latest") => session.block.since,
        _ => session.written,
    }
}

async fn status(session: &Session, references: &References) -> tidemill_engine::EngineStatus {
    match references.system.is_empty() {
        true => tidemill_engine::EngineStatus::default(),
        false => session.database.engine.status().await,
    }
}
