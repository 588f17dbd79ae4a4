//! Statements: one file per kind, each a function of the session and the statement.

mod access;
mod alter;
mod copy;
mod create;
mod cursor;
mod describe;
pub(crate) mod dml;
mod drop;
mod explain;
mod kept;
mod origin;
mod policy;
mod query;
mod redefine;
mod secret;
mod show;
mod subscribe;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
mod transaction;
mod unbounded;
mod values;
pub(crate) mod verify;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use tidemill_catalog::Kind;
use tidemill_core::SqlState;
use tidemill_engine::CancelError;
use tidemill_sql::statements::{CancelJob, Refresh, Statement};

use crate::database::Database;
use crate::session::api::{Response, RowsTag, SqlError};
use crate::session::{Call, Session};

pub use alter::take_effect;
pub use create::hold_sinks;
pub use describe::describe;
pub use drop::stop;
pub use kept::KeptPlan;
pub use transaction::{audited, end_block};

/// Runs a statement.
pub async fn run(session: &mut Session, call: Call<'_>) -> Result<Response, SqlError> {
    transaction::check_allowed(session, call.statement)?;
    session.changes = None;
    dispatch(session, call).await
}

async fn dispatch(session: &mut Session, call: Call<'_>) -> Result<Response, SqlError> {
    match call.statement {
        Statement::Query(select) => query::run(session, &select.query, &call).await,
        Statement::Insert(insert) => dml::insert(session, insert, &call).await,
        Statement::Update(update) => dml::update(session, update, &call).await,
        Statement::Delete(delete) => dml::delete(session, delete, &call).await,
        Statement::Truncate(truncate) => dml::truncate(session, truncate).await,
        Statement::Copy(copy) => copy::run(session, copy, &call).await,
        Statement::CreateSource(create) => create::source(session, create, call.sql).await,
        Statement::CreateTable(create) => create::table(session, create, &call).await,
        Statement::CreatePipeline(create) => create::pipeline(session, create, call.sql, call.sql).await,
        Statement::CreateView(create) => create::view(session, create, call.sql).await,
        Statement::CreateSink(create) => create::sink(session, create, call.sql).await,
        Statement::CreateSchema(create) => create::schema(session, create).await,
        Statement::CreateSequence(create) => tables::create_sequence(session, create, call.sql).await,
        Statement::CreateIndex(create) => tables::create_index(session, create).await,
        Statement::CreateSecret(create) => secret::create(session, create).await,
        Statement::CreatePolicy(create) => policy::create(session, create).await,
        Statement::AlterPolicy(alter) => policy::alter(session, alter).await,
        Statement::DropPolicy(drop) => policy::drop(session, drop).await,
        Statement::Drop(objects) => drop::run(session, objects).await,
        Statement::Alter(alter) => alter::run(session, alter, call.sql).await,
        Statement::Comment(comment) => create::comment(session, comment).await,
        Statement::CreateRole(create) => access::create_role(session, create).await,
        Statement::AlterRole(alter) => access::alter_role(session, alter).await,
        Statement::DropRole(drop) => access::drop_role(session, drop).await,
        Statement::GrantRoles(grant) => access::grant_roles(session, grant).await,
        Statement::GrantPrivileges(grant) => access::grant_privileges(session, grant).await,
        Statement::AlterDefaultPrivileges(alter) => access::alter_default_privileges(session, alter).await,
        Statement::ReassignOwned(reassign) => access::reassign_owned(session, reassign).await,
        Statement::DropOwned(owned) => drop::owned(session, owned).await,
        Statement::Show(show) => show::run(session, show).await,
        Statement::ShowVariable(variable) => show::variable(session, variable),
        Statement::Describe(describe) => show::describe(session, describe),
        Statement::Explain(explain) => explain::run(session, explain, &call).await,
        Statement::Subscribe(subscribe) => subscribe::run(session, subscribe).await,
        Statement::Declare(declare) => cursor::declare(session, declare, &call).await,
        Statement::Fetch(fetch) => cursor::fetch(session, fetch, true).await,
        Statement::Move(fetch) => cursor::fetch(session, fetch, false).await,
        Statement::Close(close) => cursor::close(session, close),
        Statement::Verify(verify) => verify::run(session, verify, &call).await,
        Statement::Flush(_) => {
            session.database.engine.flush().await?;
            Ok(done("FLUSH"))
        }
        Statement::CancelJob(cancel) => cancel_job(session, cancel),
        Statement::Refresh(refresh) => {
            let Refresh { name } = refresh;
            let catalog = session.catalog();
            let search_path = session.settings.search_path();
            let found =
                catalog.resolve_kind(Kind::Pipeline, name.schema.as_deref(), &name.name, &search_path);
            let found = found.map_err(|error| SqlError::from(error).with_position(name.position))?;
            crate::privileges::require_owner(&catalog, session.user(), found, false)
                .map_err(|error| error.with_position(name.position))?;
            session.database.engine.flush().await?;
            Ok(done("REFRESH MATERIALIZED VIEW"))
        }
        Statement::Prepare(_) | Statement::Execute(_) | Statement::Deallocate(_) => {
            transaction::prepared(session, call.statement).await
        }
        other => transaction::run(session, other).await,
    }
}

/// Ends a fill that somebody else has begun. His statement fails, and nothing stays of it.
fn cancel_job(session: &Session, cancel: &CancelJob) -> Result<Response, SqlError> {
    let id = cancel.id;
    if !session.catalog().is_superuser(session.user()) {
        let message = "permission denied to cancel a job";
        return Err(SqlError::new(SqlState("42501"), message).with_hint(
            "Superusers do that. The session that waits for the job can cancel its own statement.",
        ));
    }
    session.database.engine.cancel_job(id).map_err(|error| {
        let error = match error {
            CancelError::Unknown => {
                SqlError::new(SqlState::UNDEFINED_OBJECT, format!("job {id} does not exist"))
            }
            CancelError::Ended(state) => SqlError::new(
                SqlState::NOT_IN_PREREQUISITE_STATE,
                format!("job {id} has ended: it is {}", state.name()),
            ),
        };
        error.with_hint("SHOW JOBS lists them.").with_position(cancel.position)
    })?;
    Ok(done("CANCEL JOB"))
}

/// A command that is done.
pub(crate) fn done(tag: impl Into<String>) -> Response {
    Response::Command { tag: tag.into() }
}

/// Rows that are at hand.
pub(crate) fn rows(schema: SchemaRef, batches: Vec<RecordBatch>, tag: RowsTag) -> Response {
    let stream = futures::stream::iter(batches.into_iter().map(Ok));
    Response::Rows {
        schema: schema.clone(),
        rows: Box::pin(RecordBatchStreamAdapter::new(schema, stream)),
        tag,
    }
}

/// Rows of text, under the given names.
pub(crate) fn text_rows(names: &[&str], rows_of_text: &[Vec<String>], tag: RowsTag) -> Response {
    let schema = text_schema(names);
    let column = |idx: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows_of_text.iter().map(|row| row[idx].as_str())))
    };
    let columns = (0..names.len()).map(column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("each row has every column");
    rows(schema, vec![batch], tag)
}

/// Columns of text.
pub(crate) fn text_schema(names: &[&str]) -> SchemaRef {
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    Arc::new(Schema::new(fields))
}

/// An error of planning or execution as a client is to see it.
pub(crate) fn execution_error(database: &Database, error: DataFusionError, sql: &str) -> SqlError {
    // Errors of our own travel inside DataFusion's.
    if let DataFusionError::External(inner) = error.find_root() {
        if let Some(error) = inner.downcast_ref::<SqlError>() {
            return error.clone();
        }
        if let Some(error) = inner.downcast_ref::<tidemill_engine::Error>() {
            let mut shown = SqlError::new(tidemill_core::Diagnostic::sqlstate(error), error.to_string());
            shown.hint = tidemill_core::Diagnostic::hint(error);
            shown.detail = tidemill_core::Diagnostic::detail(error);
            return shown;
        }
    }
    database.plan_error(error, sql)
}

/// An error of the engine, of which some come from DataFusion.
pub(crate) fn engine_error(database: &Database, error: tidemill_engine::Error) -> SqlError {
    match error {
        tidemill_engine::Error::Execution(error) => execution_error(database, error, ""),
        other => other.into(),
    }
}

/// What is refused until later.
pub(crate) fn unsupported(what: impl std::fmt::Display) -> SqlError {
    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{what} is not supported"))
}
