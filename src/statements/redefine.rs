//! Changing what a pipeline computes under those who read it: `ALTER PIPELINE p AS …`, and `CREATE OR REPLACE PIPELINE` of
//! one that others read.
//!
//! The new definition is filled beside the old one, which goes on meanwhile, and takes its place at one epoch
//! ([`tidemill_engine::Engine::replace_member`]). The pipeline stays the object that it was: who reads it keeps its state and
//! gets the difference, and a sink writes that and nothing else. So what others were planned on has to stay: the columns, and
//! what holds for the rows as far as their plans depend on it.
//!
//! The catalog is put with the one before inside, and counts once the pipeline's checkpoint says that it has been replaced.

use std::sync::Arc;

use arrow::datatypes::DataType;
use tidemill_catalog::{Catalog, Column, Definition, Kind, NewObject, Object};
use tidemill_core::{SqlState, crash_point};
use tidemill_engine::{MemberSpec, Replaced};
use tidemill_plan::{PipelinePlan, Properties};
use tidemill_sql::parser::quote;
use tidemill_sql::types::pg_type_of;
use tokio_util::sync::CancellationToken;

use super::engine_error;
use crate::database::{Database, pipeline_upkeep, uninterrupted};
use crate::session::Session;
use crate::session::api::SqlError;
use crate::session::definitions::Changing;

/// Lets a pipeline that others read be defined by what would be a new one of its name.
pub async fn run(
    session: &mut Session,
    changing: Changing,
    old: &Arc<Object>,
    mut new: NewObject,
    mut plan: PipelinePlan,
) -> Result<(), SqlError> {
    let Changing::Now(lock) = changing else {
        let message = format!(
            "pipeline \"{}\", which others read, cannot be changed inside a transaction block",
            old.name
        );
        return Err(SqlError::new(SqlState::ACTIVE_TRANSACTION, message)
            .with_hint("Change it by itself; readers see it at one moment anyway."));
    };
    let Definition::Pipeline(mut definition) = new.definition else {
        unreachable!("only pipelines are changed");
    };
    if let Some(query) = with_precisions(old, &new.columns, &definition.query) {
        let upkeep = pipeline_upkeep(&definition)?;
        plan = session
            .database
            .pipeline_plan_in(session.catalog(), &query, (&new.search_path).into(), &upkeep)
            .await?;
        definition.query = query;
        new.columns = plan.schema.fields().iter().map(|field| Column::from(field.as_ref())).collect();
    }
    same_columns(old, &new.columns)?;
    let before = session.catalog();
    let (catalog, object) =
        before.redefine_pipeline(old.oid, definition, new.sql, new.search_path, new.dependencies)?;
    let database = session.database.clone();
    plan.schema = object.arrow_schema();
    let readers = readers(&database, &before, old).await?;
    // To plan is to take note of what holds for rows.
    let known = readers.iter().map(|(reader, _)| reader).chain([old]);
    let known = known.map(|object| (object.oid, database.properties(object))).collect();
    let as_before = AsBefore { database: database.clone(), known };
    let spec = database.pipeline_spec(&object, plan)?;
    check_readers(&database, &object, &readers).await?;
    let cancelled = CancellationToken::new();
    let _cancel_at_end = cancelled.clone().drop_guard();
    uninterrupted(async move {
        let _lock = lock;
        if database.is_for_checks() {
            as_before.forget();
            return database.put_catalog(catalog).await;
        }
        let (state, catalog) = (spec.state, Arc::new(catalog));
        let replaced = replace(&database, &before, &catalog, spec, &cancelled).await;
        match &replaced {
            Ok(Replaced::Done) => as_before.forget(),
            Ok(Replaced::Open) => database.leave_undecided(),
            Err(_) => {
                database.skip_oids(&catalog);
                database.engine.drop_members(&[state]).await?;
            }
        }
        match replaced? {
            Replaced::Done => Ok(()),
            Replaced::Open => {
                Err(SqlError::new(SqlState::IO_ERROR, "whether the pipeline has been changed is not known")
                    .with_detail("Its checkpoint could be neither written nor read.")
                    .with_hint("The next start of the server will know. Until then it stands still."))
            }
        }
    })
    .await
}

async fn replace(
    database: &Database,
    before: &Arc<Catalog>,
    catalog: &Arc<Catalog>,
    spec: MemberSpec,
    cancelled: &CancellationToken,
) -> Result<Replaced, SqlError> {
    let failed = |error| engine_error(database, error);
    database.engine.prepare_replacement(&spec, cancelled).await.map_err(failed)?;
    crash_point("replace.filled");
    database.put_unsettled(catalog, before).await?;
    match database.engine.replace_member(spec).await {
        Ok(Replaced::Done) => {
            crash_point("replace.decided");
            database.settle(catalog.clone()).await;
            Ok(Replaced::Done)
        }
        // The file says both, and the next start will know which of them.
        Ok(Replaced::Open) => Ok(Replaced::Open),
        Err(error) => {
            // Without the checkpoint the old one counts anyway; this only makes the file say so.
            database.settle(before.clone()).await;
            Err(failed(error))
        }
    }
}

/// What held for the rows of some relations, and will again unless it is forgotten.
struct AsBefore {
    database: Arc<Database>,
    known: Vec<(u32, Properties)>,
}

impl AsBefore {
    fn forget(mut self) {
        self.known.clear();
    }
}

impl Drop for AsBefore {
    fn drop(&mut self) {
        for (oid, properties) in self.known.drain(..) {
            self.database.set_properties(oid, properties);
        }
    }
}

/// Who reads a pipeline, directly or not, and how: each behind those that it reads.
async fn readers(
    database: &Database,
    catalog: &Catalog,
    pipeline: &Object,
) -> Result<Vec<(Arc<Object>, String)>, SqlError> {
    let mut readers = Vec::new();
    for object in catalog.with_dependents(&[pipeline.oid]).into_iter().rev() {
        if matches!(object.kind(), Kind::Pipeline | Kind::Sink) && object.oid != pipeline.oid {
            let plan = database.plan_text(&object).await?;
            readers.push((object, plan));
        }
    }
    Ok(readers)
}

/// Those who read a pipeline must be able to go on as they are.
async fn check_readers(
    database: &Database,
    pipeline: &Object,
    readers: &[(Arc<Object>, String)],
) -> Result<(), SqlError> {
    for (reader, plan) in readers {
        if database.plan_text(reader).await? != *plan {
            let message =
                format!("{} would have to be built anew over the new rows of it", reader.describe());
            return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_detail(format!(
                    "How it is kept depends on what holds for the rows of \"{}\": whether they have a key, can be taken back, \
                     or are complete at some time. That is not the same for the new query.",
                    pipeline.name
                ))
                .with_hint(
                    "Drop the readers and create them again, with the pipeline in between, in one transaction: nobody sees \
                     them missing.",
                ));
        }
    }
    Ok(())
}

/// The query with numbers of the precisions that the columns have. Who says NUMERIC means any precision, and each expression has
/// another one; columns have that of the first definition.
fn with_precisions(old: &Object, new: &[Column], query: &str) -> Option<String> {
    let of_decimal = |column: &Column| match column.data_type {
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            Some((precision, scale))
        }
        _ => None,
    };
    let mut is_needed = false;
    let mut columns = Vec::new();
    for column in new {
        let name = quote(&column.name);
        let known = old.columns.iter().find(|known| known.name == column.name);
        columns.push(match known.map(|known| (of_decimal(known), known.data_type != column.data_type)) {
            Some((Some((precision, scale)), true)) if of_decimal(column).is_some() => {
                is_needed = true;
                format!("CAST({name} AS NUMERIC({precision}, {scale})) AS {name}")
            }
            _ => name,
        });
    }
    let names: Vec<String> = new.iter().map(|column| quote(&column.name)).collect();
    is_needed.then(|| format!("SELECT {} FROM ({query}) AS p ({})", columns.join(", "), names.join(", ")))
}

/// What others read must stay: names, types and order of the columns, and that there is no NULL where there was none.
fn same_columns(old: &Object, new: &[Column]) -> Result<(), SqlError> {
    let mut differences = Vec::new();
    for column in &old.columns {
        let known = new.iter().find(|known| known.name == column.name);
        let Some(known) = known else {
            differences.push(format!("Column \"{}\" is missing.", column.name));
            continue;
        };
        let types = [column, known].map(|column| pg_type_of(&column.field()));
        let is_number = matches!(column.data_type, DataType::Decimal128(..) | DataType::Decimal256(..));
        if known.data_type != column.data_type || (known.metadata != column.metadata && !is_number) {
            differences.push(format!("Column \"{}\" was {} and is {}.", column.name, types[0], types[1]));
        } else if known.nullable && !column.nullable {
            differences.push(format!("Column \"{}\" can be NULL, which it could not be.", column.name));
        }
    }
    let is_known = |column: &&Column| old.columns.iter().any(|known| known.name == column.name);
    let added = new.iter().filter(|column| !is_known(column));
    differences.extend(added.map(|column| format!("Column \"{}\" is new.", column.name)));
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    if differences.is_empty() && names(&old.columns) != names(new) {
        differences.push(format!("The columns stood as {}.", names(&old.columns).join(", ")));
    }
    if differences.is_empty() {
        return Ok(());
    }
    let message = format!("pipeline \"{}\" must keep its columns, since others read it", old.name);
    Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_detail(differences.join("\n")).with_hint(
        "Give the query the same columns. To change them, drop the readers and create all of it again in one transaction.",
    ))
}

#[cfg(test)]
mod tests;
