//! Transactions, settings, prepared statements, and what is accepted because clients say it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::ScalarValue;
use tidemill_catalog::{Catalog, Kind};
use tidemill_core::SqlState;
use tidemill_engine::Commit;
use tidemill_plan::RelationId;
use tidemill_sql::statements::{
    CopyDirection, Discard, IsolationLevel, SetScope, SetValue, Statement, TransactionModes,
};

use super::{done, engine_error, query, unsupported};
use crate::audit::Action;
use crate::database::uninterrupted;
use crate::pgwire::types::element_of;
use crate::session::api::{Notice, PgType, Response, SqlError, TransactionStatus};
use crate::session::block::{Block, Isolation};
use crate::session::channels::Announcement;
use crate::session::settings::IDENTITY;
use crate::session::{Call, PreparedStatement, Session};

/// What a statement writes or defines, as PostgreSQL names it; `None` for one that only reads.
fn change(statement: &Statement) -> Option<&'static str> {
    Some(match statement {
        Statement::Insert(_) => "INSERT",
        Statement::Update(_) => "UPDATE",
        Statement::Delete(_) => "DELETE",
        Statement::Truncate(_) => "TRUNCATE TABLE",
        Statement::Copy(copy) if copy.direction == CopyDirection::FromStdin => "COPY FROM",
        other => return definition(other),
    })
}

/// A statement that changes definitions.
fn definition(statement: &Statement) -> Option<&'static str> {
    Some(match statement {
        Statement::CreateSource(_) => "CREATE SOURCE",
        Statement::CreateTable(_) => "CREATE TABLE",
        Statement::CreatePipeline(_) => "CREATE PIPELINE",
        Statement::CreateView(_) => "CREATE VIEW",
        Statement::CreateSink(_) => "CREATE SINK",
        Statement::CreateSchema(_) => "CREATE SCHEMA",
        Statement::CreateSequence(_) => "CREATE SEQUENCE",
        Statement::CreateIndex(_) => "CREATE INDEX",
        Statement::CreateSecret(_) => "CREATE SECRET",
        Statement::CreatePolicy(_) => "CREATE POLICY",
        Statement::AlterPolicy(_) => "ALTER POLICY",
        Statement::DropPolicy(_) => "DROP POLICY",
        Statement::Drop(_) => "DROP",
        Statement::Alter(_) => "ALTER",
        Statement::Comment(_) => "COMMENT",
        Statement::CreateRole(_) => "CREATE ROLE",
        Statement::AlterRole(_) => "ALTER ROLE",
        Statement::DropRole(_) => "DROP ROLE",
        Statement::GrantRoles(grant) if grant.is_revoke => "REVOKE ROLE",
        Statement::GrantRoles(_) => "GRANT ROLE",
        Statement::GrantPrivileges(grant) if grant.is_revoke => "REVOKE",
        Statement::GrantPrivileges(_) => "GRANT",
        Statement::AlterDefaultPrivileges(_) => "ALTER DEFAULT PRIVILEGES",
        Statement::ReassignOwned(_) => "REASSIGN OWNED",
        Statement::DropOwned(_) => "DROP OWNED",
        _ => return None,
    })
}

/// What the audit is to know of a statement.
pub fn audited(statement: &Statement) -> Option<Action> {
    match statement {
        Statement::SetRole(_) | Statement::SetSessionAuthorization(_) => Some(Action::Change),
        Statement::Set(set) if IDENTITY.contains(&set.name.as_str()) => Some(Action::Change),
        Statement::Query(_)
        | Statement::Copy(_)
        | Statement::Subscribe(_)
        | Statement::Declare(_)
        | Statement::Verify(_)
            if change(statement).is_none() =>
        {
            Some(Action::Read)
        }
        other if definition(other).is_some() => Some(Action::Change),
        other => change(other).map(|_| Action::Write),
    }
}

/// Whether the transaction lets a statement do what it does.
pub fn check_allowed(session: &Session, statement: &Statement) -> Result<(), SqlError> {
    let setting = match session.is_in_block() {
        true => "transaction_read_only",
        false => "default_transaction_read_only",
    };
    match change(statement).filter(|_| session.settings.is_on(setting)) {
        Some(verb) => Err(SqlError::new(
            SqlState::READ_ONLY_TRANSACTION,
            format!("cannot execute {verb} in a read-only transaction"),
        )),
        None => Ok(()),
    }
}

pub async fn run(session: &mut Session, statement: &Statement) -> Result<Response, SqlError> {
    match statement {
        Statement::Begin(begin) => {
            if session.is_in_block() {
                let message = "there is already a transaction in progress";
                session.notices.push(Notice::warning(SqlState::ACTIVE_TRANSACTION, message));
            } else {
                begin_block(session)?;
            }
            set_modes(session, &begin.modes)?;
            Ok(done(if begin.start { "START TRANSACTION" } else { "BEGIN" }))
        }
        Statement::Commit(end) => {
            let was = session.status;
            if was == TransactionStatus::Idle {
                no_transaction(session);
                return Ok(done("COMMIT"));
            }
            // A failed block is rolled back, whatever the client asked for.
            let outcome = match was {
                TransactionStatus::Transaction => commit(session).await,
                _ => {
                    roll_back(session);
                    Ok(())
                }
            };
            if outcome.is_ok() && was == TransactionStatus::Transaction {
                session.announce();
            }
            end_block(session);
            outcome?;
            if end.chain {
                begin_block(session)?;
            }
            Ok(done(if was == TransactionStatus::Error { "ROLLBACK" } else { "COMMIT" }))
        }
        Statement::Rollback(end) => {
            if session.status == TransactionStatus::Idle {
                no_transaction(session);
                return Ok(done("ROLLBACK"));
            }
            roll_back(session);
            end_block(session);
            if end.chain {
                begin_block(session)?;
            }
            Ok(done("ROLLBACK"))
        }
        Statement::Savepoint(savepoint) => {
            in_block(session, "SAVEPOINT")?;
            session.block.set_savepoint(&savepoint.name.value);
            Ok(done("SAVEPOINT"))
        }
        Statement::Release(release) => {
            in_block(session, "RELEASE SAVEPOINT")?;
            let position = release.name.position;
            session.block.release(&release.name.value).map_err(|error| error.with_position(position))?;
            Ok(done("RELEASE"))
        }
        Statement::RollbackTo(rollback) => {
            in_block(session, "ROLLBACK TO SAVEPOINT")?;
            let position = rollback.name.position;
            let done_so = session.block.roll_back_to(&rollback.name.value);
            done_so.map_err(|error| error.with_position(position))?;
            session.status = TransactionStatus::Transaction;
            Ok(done("ROLLBACK"))
        }
        Statement::SetTransaction(modes) => {
            if !modes.session && !session.is_in_block() {
                let message = "SET TRANSACTION can only be used in transaction blocks";
                session.notices.push(Notice::warning(SqlState::NO_ACTIVE_TRANSACTION, message));
            } else {
                set_modes(session, modes)?;
            }
            Ok(done("SET"))
        }
        Statement::Set(set) => {
            let value = match &set.value {
                SetValue::Default => None,
                SetValue::Values(_) => set.value.text(),
            };
            let is_local = set.scope == SetScope::Local && session.status != TransactionStatus::Idle;
            let at = |error: SqlError| error.with_position(set.position);
            match set.name.as_str() {
                "role" => {
                    let role = value.as_deref().filter(|role| *role != "none");
                    session.set_role(role, is_local).map_err(at)?;
                    return Ok(done("SET"));
                }
                "session_authorization" => {
                    session.set_session_user(value.as_deref(), is_local).map_err(at)?;
                    return Ok(done("SET"));
                }
                _ => (),
            }
            session
                .settings
                .set(&set.name, value, is_local)
                .map_err(|error| error.with_position(set.position))?;
            Ok(done("SET"))
        }
        Statement::Reset(reset) => {
            match reset.name.as_deref() {
                Some("role") => session.set_role(None, false)?,
                Some("session_authorization") => session.set_session_user(None, false)?,
                Some(name) => session.settings.set(name, None, false)?,
                None => session.settings.reset_all(),
            }
            Ok(done("RESET"))
        }
        Statement::Discard(discard) => {
            match discard {
                Discard::All => {
                    if session.status != TransactionStatus::Idle {
                        let message = "DISCARD ALL cannot run inside a transaction block";
                        return Err(SqlError::new(SqlState::ACTIVE_TRANSACTION, message)
                            .with_hint("COMMIT or ROLLBACK first."));
                    }
                    session.set_session_user(None, false)?;
                    session.settings.reset_all();
                    session.cursors.clear();
                    session.prepared.clear();
                    session.block.announcements.add(Announcement::Unlisten(None));
                    session.given.forget();
                    session.locks.unlock_all();
                }
                Discard::Sequences => session.given.forget(),
                Discard::Plans | Discard::Temp => (),
            }
            let what = match discard {
                Discard::All => "ALL",
                Discard::Plans => "PLANS",
                Discard::Sequences => "SEQUENCES",
                Discard::Temp => "TEMP",
            };
            Ok(done(format!("DISCARD {what}")))
        }
        Statement::SetRole(set) => {
            let is_local = set.scope == SetScope::Local && session.status != TransactionStatus::Idle;
            session.set_role(set.role.as_deref(), is_local)?;
            Ok(done(if set.is_reset { "RESET" } else { "SET" }))
        }
        Statement::SetSessionAuthorization(set) => {
            let is_local = set.scope == SetScope::Local && session.status != TransactionStatus::Idle;
            session.set_session_user(set.user.as_deref(), is_local)?;
            Ok(done(if set.is_reset { "RESET" } else { "SET" }))
        }
        Statement::Listen(listen) => {
            session.block.announcements.add(Announcement::Listen(listen.channel.value.clone()));
            Ok(done("LISTEN"))
        }
        Statement::Unlisten(unlisten) => {
            let channel = unlisten.channel.as_ref().map(|channel| channel.value.clone());
            session.block.announcements.add(Announcement::Unlisten(channel));
            Ok(done("UNLISTEN"))
        }
        Statement::Notify(notify) => {
            let payload = notify.payload.as_deref().unwrap_or_default();
            session.block.announcements.add(Announcement::notify(&notify.channel.value, payload)?);
            Ok(done("NOTIFY"))
        }
        Statement::Lock(_) => Ok(done("LOCK TABLE")),
        Statement::Analyze(_) => Ok(done("ANALYZE")),
        Statement::Vacuum(_) => Ok(done("VACUUM")),
        Statement::Empty => Ok(Response::Empty),
        other => Err(unsupported(format!("this statement ({other:?})"))),
    }
}

/// Begins a block, with the modes that the session's settings give it.
pub fn begin_block(session: &mut Session) -> Result<(), SqlError> {
    session.status = TransactionStatus::Transaction;
    session.pinned = None;
    session.block = Block::begin(&session.settings);
    for name in ["transaction_isolation", "transaction_read_only"] {
        let value = session.settings.get(&format!("default_{name}"))?.to_owned();
        session.settings.set(name, Some(value), true)?;
    }
    Ok(())
}

fn set_modes(session: &mut Session, modes: &TransactionModes) -> Result<(), SqlError> {
    let level = modes.isolation.map(|level| match level {
        IsolationLevel::ReadUncommitted => "read uncommitted",
        IsolationLevel::ReadCommitted => "read committed",
        IsolationLevel::RepeatableRead => "repeatable read",
        IsolationLevel::Serializable => "serializable",
    });
    let read_only = modes.read_only.map(|read_only| if read_only { "on" } else { "off" });
    for (name, value) in [("transaction_isolation", level), ("transaction_read_only", read_only)] {
        let Some(value) = value else { continue };
        let name = if modes.session { format!("default_{name}") } else { name.to_owned() };
        session.settings.set(&name, Some(value.to_owned()), !modes.session)?;
    }
    Ok(())
}

/// Makes what the block has written and defined durable and seen.
pub async fn commit(session: &mut Session) -> Result<(), SqlError> {
    let database = session.database.clone();
    let mut unchanged = Vec::new();
    if let (Isolation::Serializable, Some(view)) = (Isolation::of(&session.settings), &session.pinned) {
        let catalog = session.catalog();
        let read: Vec<u32> = session.block.reads.iter().map(|id| id.0).collect();
        unchanged.extend(tables_behind(&catalog, &read).into_iter().map(|table| (table, view.epoch)));
    }
    let writes = session.block.writes.clone();
    let locks = session.block.take_locks();
    let definitions = session.block.definitions.take();
    let committed = uninterrupted(async move {
        // Given back when all is done, whoever still waits for that: nobody may read in between.
        let _locks = locks;
        match definitions {
            Some(definitions) => definitions.commit(writes, unchanged).await,
            None => {
                let commit = Commit { unchanged, ..Commit::default() };
                let committed = database.engine.commit(&writes, commit).await;
                committed.map_err(|error| engine_error(&database, error))
            }
        }
    });
    match committed.await {
        Ok(epoch) => {
            session.written = epoch.unwrap_or(session.written);
            Ok(())
        }
        Err(error) => {
            roll_back(session);
            Err(error)
        }
    }
}

/// The tables that relations are, or are made of.
fn tables_behind(catalog: &Catalog, relations: &[u32]) -> BTreeSet<RelationId> {
    let mut tables = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next = relations.to_vec();
    while let Some(oid) = next.pop() {
        if !seen.insert(oid) {
            continue;
        }
        if catalog.get(oid).is_some_and(|object| object.kind() == Kind::Table) {
            tables.insert(RelationId(oid));
        }
        next.extend(catalog.dependencies(oid).map(|object| object.oid));
    }
    tables
}

/// Takes back what was set; what was written and defined goes with the block.
fn roll_back(session: &mut Session) {
    if let Some(before) = session.block.take_settings() {
        session.settings.roll_back(before);
    }
    // What was not committed is not held.
    session.cursors.retain(|_, cursor| !cursor.is_of_block);
}

pub fn end_block(session: &mut Session) {
    session.status = TransactionStatus::Idle;
    session.pinned = None;
    session.block = Block::default();
    session.settings.end_transaction();
    session.cursors.retain(|_, cursor| {
        cursor.is_of_block = false;
        cursor.hold
    });
    session.locks.end_transaction();
}

fn no_transaction(session: &mut Session) {
    let message = "there is no transaction in progress";
    session.notices.push(Notice::warning(SqlState::NO_ACTIVE_TRANSACTION, message));
}

fn in_block(session: &Session, tag: &str) -> Result<(), SqlError> {
    match session.status {
        TransactionStatus::Idle => Err(SqlError::new(
            SqlState::NO_ACTIVE_TRANSACTION,
            format!("{tag} can only be used in transaction blocks"),
        )),
        _ => Ok(()),
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
                kept: Arc::default(),
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
            let kept = Some(prepared.kept.as_ref());
            let call = Call { statement: &prepared.statement, sql: &prepared.sql, params, kept };
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
