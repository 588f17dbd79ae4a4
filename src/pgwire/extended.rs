//! The extended protocol: statements prepared, portals bound, rows in portions.
//!
//! A portal keeps its stream between `Execute` messages with a row limit, until its transaction
//! ends. After an error the connection looks at nothing up to the next Sync.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::EmptyQueryResponse;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tidemill_core::SqlState;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pgwire::connection::{Connection, Failure, Running, protocol_violation};
use crate::pgwire::decode::parameter;
use crate::pgwire::encode::Format;
use crate::pgwire::transfer::{Portal, PortalState, RowStream, put_row_description};
use crate::pgwire::types::column_type;
use crate::session::api::{Described, Parsed, PgType, Response, RowsTag, SqlError, TransactionStatus};

/// The prepared statements of a connection by name; the unnamed one is "".
#[derive(Default)]
pub(crate) struct Prepared {
    statements: HashMap<String, Statement>,
}

/// A statement prepared; `parsed` is `None` for an empty one.
#[derive(Clone)]
pub(crate) struct Statement {
    parsed: Option<Parsed>,
    described: Arc<Described>,
}

impl Prepared {
    pub(crate) fn forget_unnamed(&mut self) {
        self.statements.remove("");
    }

    fn get(&self, name: &str) -> Result<&Statement, SqlError> {
        self.statements.get(name).ok_or_else(|| {
            let message = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            SqlError::new(SqlState::INVALID_STATEMENT_NAME, message)
        })
    }
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    pub(crate) async fn extended_query(&mut self, message: PgWireFrontendMessage) -> Result<(), Failure> {
        match message {
            PgWireFrontendMessage::Parse(message) => self.parse(message).await,
            PgWireFrontendMessage::Bind(message) => Ok(self.bind(message)?),
            PgWireFrontendMessage::Describe(message) => Ok(self.describe(message)?),
            PgWireFrontendMessage::Execute(message) => self.execute(message).await,
            PgWireFrontendMessage::Close(message) => Ok(self.close_named(message)?),
            PgWireFrontendMessage::Flush(_) => self.flush().await,
            _ => Err(protocol_violation("unexpected message of the frontend").fatal().into()),
        }
    }

    pub(crate) async fn sync(&mut self) -> Result<(), Failure> {
        if let Err(failure) = self.end_of_request().await {
            self.fail(failure)?;
        }
        self.ready().await
    }

    async fn parse(&mut self, message: Parse) -> Result<(), Failure> {
        let name = message.name.unwrap_or_default();
        if name.is_empty() {
            self.statements.forget_unnamed();
        } else if self.statements.statements.contains_key(&name) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(SqlError::new(SqlState::DUPLICATE_PREPARED_STATEMENT, text).into());
        }
        let params: Vec<Option<PgType>> = message
            .type_oids
            .iter()
            .map(|oid| match oid {
                0 => None,
                // A type of an extension that we do not have is text to us.
                oid => match PgType::from_oid(*oid) {
                    Some(PgType::UNKNOWN) => None,
                    pg_type => Some(pg_type.unwrap_or(PgType::TEXT)),
                },
            })
            .collect();
        let mut parsed = self.session.parse(&message.query)?;
        if parsed.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, text).into());
        }
        let statement = match parsed.pop() {
            None => Statement {
                parsed: None,
                described: Arc::new(Described { params: Vec::new(), columns: None }),
            },
            Some(parsed) => {
                let running = Running::start(&self.backend, self.session.statement_timeout());
                let describing = self.session.describe(&parsed, &params);
                let described = self.inbound.race(&running, describing).await??;
                Statement { parsed: Some(parsed), described: Arc::new(described) }
            }
        };
        self.statements.statements.insert(name, statement);
        self.outbound.put(PgWireBackendMessage::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    fn bind(&mut self, message: Bind) -> Result<(), SqlError> {
        let statement_name = message.statement_name.unwrap_or_default();
        let portal_name = message.portal_name.unwrap_or_default();
        let statement = self.statements.get(&statement_name)?.clone();
        let types = &statement.described.params;
        if message.parameters.len() != types.len() {
            return Err(protocol_violation(format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {}",
                message.parameters.len(),
                statement_name,
                types.len()
            )));
        }
        let formats = formats(&message.parameter_format_codes, types.len(), "parameter")?;
        let mut params = Vec::with_capacity(types.len());
        for (n, (value, (pg_type, format))) in
            message.parameters.iter().zip(types.iter().zip(&formats)).enumerate()
        {
            let value = parameter(value.as_deref(), *format, pg_type);
            params.push(value.map_err(|error| match error.detail {
                Some(_) => error,
                None => error.with_detail(format!("This is the value of parameter ${}.", n + 1)),
            })?);
        }
        if !portal_name.is_empty() && self.portals.contains_key(&portal_name) {
            let text = format!("cursor \"{portal_name}\" already exists");
            return Err(SqlError::new(SqlState::DUPLICATE_CURSOR, text));
        }
        if let Some(columns) = &statement.described.columns {
            let codes = &message.result_column_format_codes;
            self::formats(codes, columns.fields().len(), "result")?;
        }
        let portal = Portal {
            statement,
            params,
            formats: message.result_column_format_codes,
            state: PortalState::Bound,
        };
        self.portals.insert(portal_name, portal);
        self.outbound.put(PgWireBackendMessage::BindComplete(BindComplete::new()));
        Ok(())
    }

    fn describe(&mut self, message: Describe) -> Result<(), SqlError> {
        let name = message.name.unwrap_or_default();
        let (described, codes) = match message.target_type {
            TARGET_TYPE_BYTE_STATEMENT => {
                let described = Arc::clone(&self.statements.get(&name)?.described);
                let types = described.params.iter().map(PgType::oid).collect();
                let message = ParameterDescription::new(types);
                self.outbound.put(PgWireBackendMessage::ParameterDescription(message));
                (described, &[][..])
            }
            TARGET_TYPE_BYTE_PORTAL => match self.portals.get(&name) {
                Some(portal) => (Arc::clone(&portal.statement.described), &portal.formats[..]),
                None => {
                    let columns = self.session.cursor_columns(&name).ok_or_else(|| no_portal(&name))?;
                    (Arc::new(Described { params: Vec::new(), columns: Some(columns) }), &[][..])
                }
            },
            other => {
                return Err(protocol_violation(format!("invalid DESCRIBE message subtype {other}")));
            }
        };
        match &described.columns {
            Some(columns) => {
                let formats = formats(codes, columns.fields().len(), "result")?;
                put_row_description(columns, &formats, &mut self.outbound.buffer)?;
            }
            None => self.outbound.put(PgWireBackendMessage::NoData(NoData::new())),
        }
        Ok(())
    }

    async fn execute(&mut self, message: Execute) -> Result<(), Failure> {
        let name = message.name.unwrap_or_default();
        let n_rows_max = u64::try_from(message.max_rows).ok().filter(|n| *n > 0);
        // Out of the map while it runs: a portal that fails is gone.
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let in_transaction = self.session.status() != TransactionStatus::Idle;
        self.run_portal(&mut portal, &name, n_rows_max).await?;
        if in_transaction && self.session.status() == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn run_portal(
        &mut self,
        portal: &mut Portal,
        name: &str,
        n_rows_max: Option<u64>,
    ) -> Result<(), Failure> {
        let Some(parsed) = portal.statement.parsed.clone() else {
            let message = EmptyQueryResponse::new();
            self.outbound.put(PgWireBackendMessage::EmptyQueryResponse(message));
            return Ok(());
        };
        let running = Running::start(&self.backend, self.session.statement_timeout());
        let state = std::mem::replace(&mut portal.state, PortalState::Done);
        match state {
            PortalState::Done => {
                let message = format!("portal \"{name}\" cannot be run");
                return Err(SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, message).into());
            }
            PortalState::Drained(tag) => {
                portal.state = PortalState::Drained(tag);
                self.put_complete(tag.complete(0));
                return Ok(());
            }
            PortalState::Suspended(rows) => {
                return self.send_portion(&running, portal, rows, n_rows_max).await;
            }
            PortalState::Bound => (),
        }
        let params = std::mem::take(&mut portal.params);
        let execution = self.session.execute(&parsed, params, &running.cancel);
        match self.inbound.race(&running, execution).await?? {
            Response::Rows { schema, rows, tag } => {
                let described = portal.statement.described.columns.as_ref();
                let (schema, rows) = match described.map(|described| as_described(&schema, described)) {
                    Some(Some(None)) => (schema, rows),
                    Some(Some(Some(declared))) => declared_as(rows, declared),
                    _ => {
                        let message = "cached plan must not change result type";
                        return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)
                            .with_hint("Prepare the statement again.")
                            .into());
                    }
                };
                let formats = formats(&portal.formats, schema.fields().len(), "result")?;
                self.put_notices();
                let rows = Box::new(RowStream::new(rows, formats, tag));
                self.send_portion(&running, portal, rows, n_rows_max).await?;
            }
            Response::Command { tag } => self.put_complete(tag),
            Response::CopyOut { rows, options } => {
                let tag = self.copy_out(&running, rows, options).await?;
                self.put_complete(tag);
            }
            Response::CopyIn { schema, options, sink } => {
                let tag = self.copy_in(&running, schema, options, sink).await?;
                self.put_complete(tag);
            }
            Response::Empty => {
                let message = EmptyQueryResponse::new();
                self.outbound.put(PgWireBackendMessage::EmptyQueryResponse(message));
            }
        }
        Ok(())
    }

    async fn send_portion(
        &mut self,
        running: &Running,
        portal: &mut Portal,
        mut rows: Box<RowStream>,
        n_rows_max: Option<u64>,
    ) -> Result<(), Failure> {
        let sent = self.send_rows(running, &mut rows, n_rows_max).await?;
        let tag: RowsTag = rows.tag;
        if sent.ended {
            portal.state = PortalState::Drained(tag);
            self.put_complete(tag.complete(sent.n_rows));
        } else {
            portal.state = PortalState::Suspended(rows);
            self.put_notices();
            self.outbound.put(PgWireBackendMessage::PortalSuspended(PortalSuspended::new()));
        }
        Ok(())
    }

    fn close_named(&mut self, message: Close) -> Result<(), SqlError> {
        let name = message.name.unwrap_or_default();
        // To close what is not there is no error.
        match message.target_type {
            TARGET_TYPE_BYTE_STATEMENT => drop(self.statements.statements.remove(&name)),
            TARGET_TYPE_BYTE_PORTAL => drop(self.portals.remove(&name)),
            other => {
                return Err(protocol_violation(format!("invalid CLOSE message subtype {other}")));
            }
        }
        self.outbound.put(PgWireBackendMessage::CloseComplete(CloseComplete::new()));
        Ok(())
    }
}

/// The columns as the client was told of them, if that is not what they are already: the text of a parameter is a `uuid` because the
/// client has said so, and when the statement runs there is only the text. `None` where values differ.
fn as_described(is: &SchemaRef, said: &SchemaRef) -> Option<Option<SchemaRef>> {
    if is.fields().len() != said.fields().len() {
        return None;
    }
    let mut is_same = true;
    let mut fields = Vec::new();
    for (is, said) in is.fields().iter().zip(said.fields()) {
        if column_type(is).pg_type == column_type(said).pg_type {
            fields.push(is.as_ref().clone());
        } else if is.data_type().equals_datatype(said.data_type()) {
            is_same = false;
            fields.push(said.as_ref().clone().with_nullable(true));
        } else {
            return None;
        }
    }
    Some((!is_same).then(|| Arc::new(Schema::new(fields))))
}

/// Rows with the types that were described.
fn declared_as(
    rows: SendableRecordBatchStream,
    declared: SchemaRef,
) -> (SchemaRef, SendableRecordBatchStream) {
    let schema = declared.clone();
    let rows = rows.map(move |batch| {
        let batch = batch?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        // The elements of arrays are declared as something too.
        let options = options.with_match_field_names(false);
        Ok(RecordBatch::try_new_with_options(declared.clone(), batch.columns().to_vec(), &options)?)
    });
    (schema.clone(), Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

fn no_portal(name: &str) -> SqlError {
    let message = format!("portal \"{name}\" does not exist");
    SqlError::new(SqlState::INVALID_CURSOR_NAME, message)
}

/// Format codes as the protocol abbreviates them: none is text for all, one is for all.
fn formats(codes: &[i16], n: usize, of: &str) -> Result<Vec<Format>, SqlError> {
    let format = |code: i16| match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        code => Err(protocol_violation(format!("invalid format code: {code}"))),
    };
    match codes {
        [] => Ok(vec![Format::Text; n]),
        [code] => Ok(vec![format(*code)?; n]),
        codes if codes.len() == n => codes.iter().map(|code| format(*code)).collect(),
        codes => {
            Err(protocol_violation(format!("bind message has {} {of} formats but needs {n}", codes.len())))
        }
    }
}
