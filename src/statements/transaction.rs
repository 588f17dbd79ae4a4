//! Transactions, settings, prepared statements, and what is accepted because clients say it.

use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use tidemill_core::SqlState;
use tidemill_sql::statements::{Discard, SetScope, SetValue, Statement};

use super::{done, query, unsupported};
use crate::pgwire::types::element_of;
use crate::session::api::{Notice, PgType, Response, SqlError, TransactionStatus};
use crate::session::{Call, PreparedStatement, Session};

pub fn run(session: &mut Session, statement: &Statement) -> Result<Response, SqlError> {
    match statement {
        Statement::Begin(_) => {
            if session.status == TransactionStatus::Transaction {
                let message = "there is already a transaction in progress";
                session.notices.push(Notice::warning(SqlState::ACTIVE_TRANSACTION, message));
            }
            session.status = TransactionStatus::Transaction;
            session.pinned = None;
            Ok(done("BEGIN"))
        }
        Statement::Commit(commit) => {
            let was = session.status;
            end_block(session);
            if commit.chain {
                session.status = TransactionStatus::Transaction;
            }
            match was {
                // A failed block is rolled back, whatever the client asked for.
                TransactionStatus::Error => Ok(done("ROLLBACK")),
                TransactionStatus::Transaction => Ok(done("COMMIT")),
                TransactionStatus::Idle => {
                    no_transaction(session);
                    Ok(done("COMMIT"))
                }
            }
        }
        Statement::Rollback(rollback) => {
            if session.status == TransactionStatus::Idle {
                no_transaction(session);
            }
            end_block(session);
            if rollback.chain {
                session.status = TransactionStatus::Transaction;
            }
            Ok(done("ROLLBACK"))
        }
        Statement::Savepoint(_) => in_block(session, "SAVEPOINT"),
        Statement::Release(_) => in_block(session, "RELEASE"),
        Statement::RollbackTo(_) => {
            if session.status == TransactionStatus::Error {
                session.status = TransactionStatus::Transaction;
            }
            in_block(session, "ROLLBACK")
        }
        Statement::SetTransaction(_) => Ok(done("SET")),
        Statement::Set(set) => {
            let value = match &set.value {
                SetValue::Default => None,
                SetValue::Values(_) => set.value.text(),
            };
            let is_local = set.scope == SetScope::Local && session.status != TransactionStatus::Idle;
            session
                .settings
                .set(&set.name, value, is_local)
                .map_err(|error| error.with_position(set.position))?;
            Ok(done("SET"))
        }
        Statement::Reset(reset) => {
            match &reset.name {
                Some(name) => session.settings.set(name, None, false)?,
                None => session.settings.reset_all(),
            }
            Ok(done("RESET"))
        }
        Statement::Discard(discard) => {
            match discard {
                Discard::All => {
                    session.settings.reset_all();
                    session.cursors.clear();
                    session.prepared.clear();
                }
                Discard::Plans | Discard::Sequences | Discard::Temp => (),
            }
            let what = match discard {
                Discard::All => "ALL",
                Discard::Plans => "PLANS",
                Discard::Sequences => "SEQUENCES",
                Discard::Temp => "TEMP",
            };
            Ok(done(format!("DISCARD {what}")))
        }
        Statement::SetRole(_) | Statement::SetSessionAuthorization(_) => Ok(done("SET")),
        Statement::Listen(_) => Ok(done("LISTEN")),
        Statement::Unlisten(_) => Ok(done("UNLISTEN")),
        Statement::Notify(_) => Ok(done("NOTIFY")),
        Statement::Lock(_) => Ok(done("LOCK TABLE")),
        Statement::Analyze(_) => Ok(done("ANALYZE")),
        Statement::Vacuum(_) => Ok(done("VACUUM")),
        Statement::Empty => Ok(Response::Empty),
        other => Err(unsupported(format!("this statement ({other:?})"))),
    }
}

fn end_block(session: &mut Session) {
    session.status = TransactionStatus::Idle;
    session.pinned = None;
    session.settings.end_transaction();
    session.cursors.retain(|_, cursor| cursor.hold);
}

fn no_transaction(session: &mut Session) {
    let message = "there is no transaction in progress";
    session.notices.push(Notice::warning(SqlState::NO_ACTIVE_TRANSACTION, message));
}

fn in_block(session: &Session, tag: &str) -> Result<Response, SqlError> {
    match session.status {
        TransactionStatus::Idle => Err(SqlError::new(
            SqlState::NO_ACTIVE_TRANSACTION,
            format!("{tag} can only be used in transaction blocks"),
        )),
        _ => Ok(done(tag)),
    }
}

/// PREPARE, EXECUTE and DEALLOCATE.
pub async fn prepared(session: &mut Session, statement: &Statement) -> Result<Response, SqlError> {
    match statement {
        Statement::Prepare(prepare) => {
            let name = &prepare.name.value;
            if session.prepared.contains_key(name) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_PREPARED_STATEMENT,
                    format!("prepared statement \"{name}\" already exists"),
                ));
            }
            let prepared = PreparedStatement {
                statement: prepare.statement.as_ref().clone(),
                sql: prepare.text.clone(),
                types: prepare.types.iter().map(|column_type| column_type.data_type.clone()).collect(),
            };
            session.prepared.insert(name.clone(), prepared);
            Ok(done("PREPARE"))
        }
        Statement::Execute(execute) => {
            let name = &execute.name.value;
            let Some(prepared) = session.prepared.get(name).cloned() else {
                return Err(SqlError::new(
                    SqlState::INVALID_STATEMENT_NAME,
                    format!("prepared statement \"{name}\" does not exist"),
                ));
            };
            // A parameter without a type of its own has the one that its place asks for.
            let described = match execute.values.len() > prepared.types.len() {
                true => {
                    Box::pin(super::describe(session, &prepared.statement, &prepared.sql, &[])).await?.params
                }
                false => Vec::new(),
            };
            let mut params = Vec::new();
            for (idx, value) in execute.values.iter().enumerate() {
                let wanted = described.get(idx).filter(|_| prepared.types.get(idx).is_none());
                let text = match wanted.filter(|wanted| ![PgType::TEXT, PgType::UNKNOWN].contains(wanted)) {
                    Some(wanted) => format!("SELECT CAST({} AS {})", value.text, type_name(wanted)),
                    None => format!("SELECT {}", value.text),
                };
                let parsed = tidemill_sql::parser::parse_query(&text)?;
                let (_, batches) =
                    query::collect(session, &parsed, &text, Vec::new(), &BTreeMap::new()).await?;
                let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { continue };
                let error = |error| super::execution_error(&session.database, error, &text);
                let value = ScalarValue::try_from_array(batch.column(0), 0).map_err(error)?;
                params.push(match prepared.types.get(idx) {
                    Some(data_type) => value.cast_to(data_type).map_err(error)?,
                    None => value,
                });
            }
            let call = Call { statement: &prepared.statement, sql: &prepared.sql, params };
            Box::pin(session.run(call)).await
        }
        Statement::Deallocate(deallocate) => match &deallocate.name {
            Some(name) => {
                if session.prepared.remove(&name.value).is_none() {
                    return Err(SqlError::new(
                        SqlState::INVALID_STATEMENT_NAME,
                        format!("prepared statement \"{}\" does not exist", name.value),
                    ));
                }
                Ok(done("DEALLOCATE"))
            }
            None => {
                session.prepared.clear();
                Ok(done("DEALLOCATE ALL"))
            }
        },
        _ => unreachable!("only prepared statements come here"),
    }
}

/// As a cast has it: an array is `int4[]` there, and `_int4` in pg_type.
fn type_name(pg_type: &PgType) -> String {
    match element_of(pg_type) {
        Some(element) => format!("{}[]", element.name()),
        None => pg_type.name().to_owned(),
    }
}
