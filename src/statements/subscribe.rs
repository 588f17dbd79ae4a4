//! `SUBSCRIBE TO p`: a relation's rows, and then its changes for ever, as rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use tidemill_catalog::{Kind, Privilege};
use tidemill_core::{Delta, Epoch, SqlState};
use tidemill_plan::RelationId;
use tidemill_sql::statements::{Subscribe, SubscribeTo};

use super::{engine_error, unsupported};
use crate::session::Session;
use crate::session::api::{Response, RowsTag, SqlError};
use crate::{policies, privileges, row_filter};

pub async fn run(session: &mut Session, subscribe: &Subscribe) -> Result<Response, SqlError> {
    let (schema, rows) = open(session, subscribe).await?;
    Ok(Response::Rows { schema, rows, tag: RowsTag::SUBSCRIBE })
}

/// The columns of a subscription: `epoch`, `weight`, and the relation's.
pub fn schema(session: &Session, subscribe: &Subscribe) -> Result<(RelationId, SchemaRef), SqlError> {
    let SubscribeTo::Relation(name) = &subscribe.to else {
        return Err(unsupported("SUBSCRIBE to a query")
            .with_hint("Create a pipeline of the query, and subscribe to it."));
    };
    if subscribe.as_of.is_some() || subscribe.up_to.is_some() || subscribe.progress {
        return Err(unsupported("SUBSCRIBE with AS OF, UP TO or PROGRESS"));
    }
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let object = catalog
        .resolve(name.schema.as_deref(), &name.name, &search_path)
        .map_err(|error| SqlError::from(error).with_position(name.position))?;
    privileges::require(&catalog, session.user(), object, Privilege::Select)
        .map_err(|error| error.with_position(name.position))?;
    if !matches!(object.kind(), Kind::Table | Kind::Pipeline) {
        return Err(SqlError::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("cannot subscribe to {} \"{}\"", object.kind().name(), object.name),
        )
        .with_hint("Subscribe to a pipeline or a table.")
        .with_position(name.position));
    }
    let mut fields =
        vec![Field::new("epoch", DataType::Int64, false), Field::new("weight", DataType::Int64, false)];
    fields.extend(object.columns.iter().map(|column| column.field().with_nullable(true)));
    Ok((RelationId(object.oid), Arc::new(Schema::new(fields))))
}

/// The rows of a subscription, without end.
pub async fn open(
    session: &mut Session,
    subscribe: &Subscribe,
) -> Result<(SchemaRef, SendableRecordBatchStream), SqlError> {
    let (id, schema) = schema(session, subscribe)?;
    let object = session.catalog().get(id.0).cloned();
    let seen = object.map(|object| policies::reading(session, &object)).transpose()?.flatten();
    let database = session.database.clone();
    let subscription = database
        .engine
        .subscribe(id, session.written)
        .await
        .map_err(|error| engine_error(&database, error))?;
    let mut first = Vec::new();
    if subscribe.snapshot {
        let batches = subscription.snapshot.batches().map_err(|error| engine_error(&database, error))?;
        for batch in batches {
            first.push(Ok(rows(&schema, subscription.epoch, &Delta::inserts(&batch), &seen)?));
        }
    }
    let changes = stream::unfold(subscription.changes, |mut changes| async move {
        let change = changes.recv().await?;
        Some((change, changes))
    });
    let change_schema = schema.clone();
    let changes = changes.map(move |(epoch, delta): (Epoch, Delta)| {
        rows(&change_schema, epoch, &delta, &seen)
            .map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)))
    });
    let stream = stream::iter(first).chain(changes);
    Ok((schema.clone(), Box::pin(RecordBatchStreamAdapter::new(schema, stream))))
}

/// The rows of a delta of which all are seen, or those that fulfil a condition.
fn rows(
    schema: &SchemaRef,
    epoch: Epoch,
    delta: &Delta,
    seen: &Option<Arc<dyn PhysicalExpr>>,
) -> Result<RecordBatch, SqlError> {
    let delta = match seen {
        None => delta.clone(),
        // Columns of a delta stand as in the relation, and the weight behind them.
        Some(condition) => {
            Delta::new(row_filter::seen(delta.batch(), condition).map_err(SqlError::from_datafusion)?)
        }
    };
    let epochs: ArrayRef = Arc::new(Int64Array::from_value(epoch.0 as i64, delta.len()));
    let weights: ArrayRef = Arc::new(delta.weights().clone());
    let mut columns = vec![epochs, weights];
    columns.extend(delta.rows().columns().iter().cloned());
    RecordBatch::try_new(schema.clone(), columns).map_err(super::dml::arrow_error)
}
