//! `ALTER`: another name, another owner, other options, standing still and going on.
//!
//! What is paused, and what an option is, the catalog says: it is written first, and then what runs is told. So after a crash in
//! between everything is as the statement wanted it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_catalog::{Catalog, Definition, Kind, Object, Privilege};
use tidemill_core::{SqlState, did_you_mean};
use tidemill_engine::{Resumed, State};
use tidemill_plan::RelationId;
use tidemill_sql::statements::{Alter, AlterAction, CreatePipeline, RoleName, WithOptions};

use super::create::{self, kind};
use super::{access, done, engine_error, policy, secret, unsupported};
use crate::database::{Database, index_specs, uninterrupted};
use crate::names::find;
use crate::session::Session;
use crate::session::api::{Notice, Response, SqlError};
use crate::session::definitions::Changing;
use crate::{policies, privileges};

pub async fn run(session: &mut Session, alter: &Alter, sql: &str) -> Result<Response, SqlError> {
    if let AlterAction::Redefine(create) = &alter.action {
        return redefine(session, alter, create, sql).await;
    }
    // What does not change the catalog does not wait for those who do: a fill can take long.
    let changing = match alter.action {
        AlterAction::Restart => None,
        _ => Some(session.change_definitions().await?),
    };
    let Some(kind) = kind(alter.kind) else { return schema(session, alter, changing).await };
    let Some(object) = target(session, alter, kind)? else { return Ok(done(alter.tag())) };
    privileges::require_owner(&session.catalog(), session.user(), &object, false)
        .map_err(|error| error.with_position(alter.name.position))?;
    match (&alter.action, changing) {
        (AlterAction::RenameTo(name), Some(changing)) => {
            let catalog = session.catalog();
            privileges::require_schema(&catalog, session.user(), &object.schema, Privilege::Create)?;
            let catalog = catalog
                .rename(object.oid, &name.value)
                .map_err(|error| SqlError::from(error).with_position(name.position))?;
            if let Some(renamed) = catalog.get(object.oid) {
                policies::check(&session.database, renamed)
                    .map_err(|error| error.with_position(name.position))?;
            }
            session.commit_catalog(changing, catalog).await?;
        }
        (AlterAction::OwnerTo { role, position }, Some(changing)) => {
            let catalog = session.catalog();
            let owner = new_owner(session, &catalog, role, *position)?;
            // As if the new owner had made it.
            if !catalog.is_superuser(session.user()) {
                privileges::require_schema(&catalog, &owner, &object.schema, Privilege::Create)
                    .map_err(|error| error.with_position(*position))?;
            }
            let mut altered = catalog.set_owner(object.oid, &owner)?;
            // What a table counts with goes with it.
            for sequence in catalog.owned(object.oid) {
                altered = altered.set_owner(sequence.oid, &owner)?;
            }
            session.commit_catalog(changing, altered).await?;
        }
        (AlterAction::Pause, Some(changing)) => pause(session, &object, changing).await?,
        (AlterAction::Resume, Some(changing)) => resume(session, &object, changing).await?,
        (AlterAction::Set(options), Some(changing)) => {
            secret::refuse(options)?;
            let changes = options.0.iter();
            let changes = changes.map(|option| Change {
                key: option.key.clone(),
                value: Some(option.value.clone()),
                position: option.position,
            });
            set(session, &object, changes.collect(), changing).await?;
        }
        (AlterAction::Reset(names), Some(changing)) => {
            let changes = names.iter().map(|name| Change {
                key: name.value.clone(),
                value: None,
                position: name.position,
            });
            set(session, &object, changes.collect(), changing).await?;
        }
        (AlterAction::Table(_), Some(_)) if object.kind() != Kind::Table => {
            let message = format!("\"{}\" is a {}, not a table", object.name, object.kind());
            return Err(
                SqlError::new(SqlState::WRONG_OBJECT_TYPE, message).with_position(alter.name.position)
            );
        }
        (AlterAction::Table(actions), Some(changing)) => {
            return super::tables::alter(session, changing, &object, actions).await;
        }
        (AlterAction::RowSecurity { is_enabled, is_forced }, Some(changing)) => {
            let asked = (*is_enabled, *is_forced);
            policy::set(session, &object, asked, &alter.name, changing).await?;
        }
        (AlterAction::Value(value), Some(changing)) => {
            secret::set(session, &object, &value.0, changing).await?;
        }
        (AlterAction::CountFrom(number), Some(_)) => {
            return super::tables::count_from(session, &object, *number).await;
        }
        (_, _) => restart(session, &object).await?,
    }
    Ok(done(alter.tag()))
}

/// `ALTER PIPELINE p AS …`: as if it were created anew, with its options unless others are given.
async fn redefine(
    session: &mut Session,
    alter: &Alter,
    create: &CreatePipeline,
    sql: &str,
) -> Result<Response, SqlError> {
    let Some(object) = target(session, alter, Kind::Pipeline)? else { return Ok(done(alter.tag())) };
    privileges::require_owner(&session.catalog(), session.user(), &object, false)
        .map_err(|error| error.with_position(alter.name.position))?;
    let mut create = create.clone();
    (create.name.schema, create.name.name) = (Some(object.schema.clone()), object.name.clone());
    if create.options.is_empty() {
        let options = object.definition.options();
        create.options = WithOptions(secret::with_options(&session.catalog(), options, alter.name.position));
    }
    let stored = CreatePipeline { or_replace: false, ..create.clone() }.to_string();
    create::pipeline(session, &create, sql, &stored).await?;
    Ok(done(alter.tag()))
}

/// Who is to own something from now on, which the user must be able to become.
fn new_owner(
    session: &Session,
    catalog: &Catalog,
    role: &RoleName,
    position: usize,
) -> Result<String, SqlError> {
    let owner = access::one_role(session, catalog, role, position)?;
    privileges::require_member(catalog, session.user(), &owner)
        .map_err(|error| error.with_position(position))?;
    Ok(owner)
}

/// `ALTER SCHEMA`.
async fn schema(
    session: &mut Session,
    alter: &Alter,
    changing: Option<Changing>,
) -> Result<Response, SqlError> {
    let (AlterAction::OwnerTo { role, position }, Some(changing)) = (&alter.action, changing) else {
        return Err(unsupported("ALTER SCHEMA … RENAME"));
    };
    let catalog = session.catalog();
    let name = &alter.name;
    let schema = match catalog.schema(&name.name) {
        Ok(schema) => schema,
        Err(_) if alter.if_exists => {
            session.notice(format!("schema \"{}\" does not exist, skipping", name.name));
            return Ok(done(alter.tag()));
        }
        Err(error) => return Err(SqlError::from(error).with_position(name.position)),
    };
    privileges::require_schema_owner(&catalog, session.user(), schema)
        .map_err(|error| error.with_position(name.position))?;
    let owner = new_owner(session, &catalog, role, *position)?;
    let catalog = catalog.set_schema_owner(&name.name, &owner)?;
    session.commit_catalog(changing, catalog).await?;
    Ok(done(alter.tag()))
}

/// What is meant, unless it is not there and need not be.
fn target(session: &mut Session, alter: &Alter, kind: Kind) -> Result<Option<Arc<Object>>, SqlError> {
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let name = &alter.name;
    match catalog.resolve_kind(kind, name.schema.as_deref(), &name.name, &search_path) {
        Ok(object) => Ok(Some(object.clone())),
        // As in PostgreSQL, whose word for any relation this is; dbt says it of views.
        Err(_)
            if kind == Kind::Table
                && let Some(object) = find(&catalog, name.schema.as_deref(), &name.name, &search_path)
                && matches!(object.kind(), Kind::View | Kind::Pipeline) =>
        {
            Ok(Some(object))
        }
        Err(_)
            if alter.if_exists
                && find(&catalog, name.schema.as_deref(), &name.name, &search_path).is_none() =>
        {
            session.notice(format!("relation \"{}\" does not exist, skipping", name.name));
            Ok(None)
        }
        Err(error) => Err(SqlError::from(error).with_position(name.position)),
    }
}

async fn pause(session: &mut Session, object: &Arc<Object>, changing: Changing) -> Result<(), SqlError> {
    if object.paused.is_some() {
        session.notice(format!("{} \"{}\" is paused already", object.kind(), object.name));
        return Ok(());
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
    let catalog = session.catalog().pause(object.oid, Some(since));
    let id = RelationId(object.oid);
    let is_source = object.kind() == Kind::Source;
    let others = change(session, changing, catalog, move |database| async move {
        let engine = &database.engine;
        match is_source {
            true => engine.pause_source(id, since).await.map(|()| Vec::new()),
            false => engine.pause_member(id, since).await,
        }
    });
    if let Some(others) = others.await? {
        notice_of_tied(session, &others, "paused with it");
    }
    Ok(())
}

async fn resume(session: &mut Session, object: &Arc<Object>, changing: Changing) -> Result<(), SqlError> {
    let id = RelationId(object.oid);
    if object.paused.is_none() {
        return match state(session, object).await {
            Some(State::Failed(reason)) => Err(SqlError::new(
                SqlState::NOT_IN_PREREQUISITE_STATE,
                format!("{} \"{}\" is not paused, it has failed", object.kind(), object.name),
            )
            .with_detail(reason)
            .with_hint(format!(
                "ALTER {} {} RESTART begins again from its checkpoint.",
                object.kind().keyword(),
                tidemill_sql::parser::quote(&object.name)
            ))),
            // It has paused itself.
            Some(State::Paused(_)) if session.database.engine.go_on_after_error(id).unwrap_or(false) => {
                Ok(())
            }
            Some(State::Paused(reason)) => {
                session.notice(format!(
                    "{} \"{}\" is not paused itself: {reason}",
                    object.kind(),
                    object.name
                ));
                Ok(())
            }
            _ => {
                session.notice(format!("{} \"{}\" is not paused", object.kind(), object.name));
                Ok(())
            }
        };
    }
    let catalog = session.catalog().pause(object.oid, None);
    let is_source = object.kind() == Kind::Source;
    let resumed = change(session, changing, catalog, move |database| async move {
        let engine = &database.engine;
        match is_source {
            true => engine.resume_source(id).await.map(|()| Resumed::Running),
            false => engine.resume_member(id).await,
        }
    });
    if let Some(Resumed::TiedTo(other)) = resumed.await? {
        let message = format!(
            "{} \"{}\" goes on once \"{other}\" does, to which it is tied",
            object.kind(),
            object.name
        );
        session.notices.push(Notice::warning(SqlState::NOT_IN_PREREQUISITE_STATE, message));
    }
    Ok(())
}

async fn restart(session: &mut Session, object: &Arc<Object>) -> Result<(), SqlError> {
    if object.paused.is_some() {
        return Err(SqlError::new(
            SqlState::NOT_IN_PREREQUISITE_STATE,
            format!("{} \"{}\" is paused", object.kind(), object.name),
        )
        .with_hint(format!(
            "ALTER {} {} RESUME lets it go on.",
            object.kind().keyword(),
            tidemill_sql::parser::quote(&object.name)
        )));
    }
    if session.database.is_for_checks() {
        return Ok(());
    }
    let id = RelationId(object.oid);
    let is_source = object.kind() == Kind::Source;
    let database = session.database.clone();
    let others = uninterrupted(async move {
        let engine = &database.engine;
        let restarted = match is_source {
            true => engine.restart_source(id).await.map(|()| Vec::new()),
            false => engine.restart_member(id).await,
        };
        restarted.map_err(|error| engine_error(&database, error))
    });
    notice_of_tied(session, &others.await?, "restarted with it");
    Ok(())
}

/// Says what else a statement was about.
fn notice_of_tied(session: &mut Session, others: &[String], what: &str) {
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|name| format!("\"{name}\"")).collect();
        session.notice(format!("{what}, since they read each other: {}", names.join(", ")));
    }
}

async fn state(session: &Session, object: &Object) -> Option<State> {
    let status = session.database.engine.status().await;
    let id = RelationId(object.oid);
    let source = status.sources.into_iter().find(|source| source.id == id).map(|source| source.state);
    let members = status.pipelines.into_iter().chain(status.sinks.into_iter().map(|sink| sink.pipeline));
    source.or_else(|| members.into_iter().find(|member| member.id == id).map(|member| member.state))
}

/// Writes the catalog, and then tells what runs; where nothing runs, not. In a block COMMIT does both.
async fn change<T: Send + 'static, F>(
    session: &mut Session,
    changing: Changing,
    catalog: Catalog,
    tell: impl FnOnce(Arc<Database>) -> F + Send + 'static,
) -> Result<Option<T>, SqlError>
where
    F: Future<Output = Result<T, tidemill_engine::Error>> + Send + 'static,
{
    let lock = match changing {
        Changing::Now(lock) => lock,
        Changing::InBlock => {
            session.commit_catalog(changing, catalog).await?;
            return Ok(None);
        }
    };
    let database = session.database.clone();
    uninterrupted(async move {
        let _lock = lock;
        database.put_catalog(catalog).await?;
        if database.is_for_checks() {
            return Ok(None);
        }
        let told = tell(database.clone()).await;
        told.map(Some).map_err(|error| engine_error(&database, error))
    })
    .await
}

/// Tells what runs of everything that a block has paused, resumed, set and indexed. The catalog says so already: what cannot be told
/// is so from the next start on.
/// `made` is what the block has begun, as it was then.
pub async fn take_effect(database: &Database, before: &Catalog, made: &[Arc<Object>], after: &Catalog) {
    if database.is_for_checks() {
        return;
    }
    for secret in after.objects_of(Kind::Secret) {
        if before.get(secret.oid).is_some_and(|before| before.definition != secret.definition) {
            secret::connect_anew(database, secret.oid).await;
        }
    }
    for object in after.objects() {
        let is_altered = |before: &Arc<Object>| {
            before.paused != object.paused
                || before.definition.options() != object.definition.options()
                || before.indexes != object.indexes
        };
        let was = before.get(object.oid).or_else(|| made.iter().find(|made| made.oid == object.oid));
        if let Some(was) = was.filter(|was| is_altered(was))
            && let Err(error) = tell(database, was, object).await
        {
            tracing::warn!(object = object.full_name(), %error, "what was altered is so after the next start");
        }
    }
}

async fn tell(database: &Database, before: &Object, object: &Object) -> Result<(), SqlError> {
    let (engine, id) = (&database.engine, RelationId(object.oid));
    let is_source = object.kind() == Kind::Source;
    let runs = matches!(object.kind(), Kind::Source | Kind::Pipeline | Kind::Sink);
    if runs && before.definition.options() != object.definition.options() {
        match is_source {
            true => engine.alter_source(database.source_spec(&database.catalog(), object)?).await?,
            false => {
                engine.set_memory_limit(id, crate::database::memory_limit(object)?)?;
                engine.set_on_error(id, crate::database::on_error(object)?)?;
            }
        }
    }
    if before.indexes != object.indexes {
        engine.set_indexes(id, index_specs(object)).await?.done().await?;
    }
    if before.paused == object.paused {
        return Ok(());
    }
    match (object.paused, is_source) {
        (Some(since), true) => engine.pause_source(id, since).await?,
        (Some(since), false) => drop(engine.pause_member(id, since).await?),
        (None, true) => engine.resume_source(id).await?,
        (None, false) => drop(engine.resume_member(id).await?),
    }
    Ok(())
}

/// Another value of an option; without one, its default.
struct Change {
    key: String,
    value: Option<String>,
    position: usize,
}

async fn set(
    session: &mut Session,
    object: &Arc<Object>,
    changes: Vec<Change>,
    changing: Changing,
) -> Result<(), SqlError> {
    let alterable = alterable(object);
    if let Some(change) = changes.iter().find(|change| !alterable.contains(&change.key.as_str())) {
        return Err(refusal(object, change, &alterable));
    }
    let positions: Vec<(String, usize)> =
        changes.iter().map(|change| (format!("\"{}\"", change.key), change.position)).collect();
    // What is wrong with a value names its option.
    let at = |error: SqlError| {
        let named = positions.iter().find(|(key, _)| error.message.contains(key));
        match named.or(positions.first()) {
            Some((_, position)) => error.with_position(*position),
            None => error,
        }
    };
    let options: Vec<(String, Option<String>)> =
        changes.into_iter().map(|change| (change.key, change.value)).collect();
    let catalog = session.catalog().set_options(object.oid, &options);
    let Some(altered) = catalog.get(object.oid).cloned() else { unreachable!("it was altered") };
    if object.kind() == Kind::Source {
        let spec = session.database.source_spec(&catalog, &altered).map_err(at)?;
        let tell = move |database: Arc<Database>| async move { database.engine.alter_source(spec).await };
        change(session, changing, catalog, tell).await?;
    } else {
        if let Definition::Sink(_) = altered.definition {
            // Not every connector can do everything about errors.
            session.database.check_sink(&catalog, &altered).await.map_err(at)?;
        }
        let limit = crate::database::memory_limit(&altered).map_err(at)?;
        let on_error = crate::database::on_error(&altered).map_err(at)?;
        let id = RelationId(object.oid);
        let tell = move |database: Arc<Database>| async move {
            database.engine.set_memory_limit(id, limit)?;
            database.engine.set_on_error(id, on_error)
        };
        change(session, changing, catalog, tell).await?;
    }
    Ok(())
}

/// The options that can be altered while the object is there.
fn alterable(object: &Object) -> Vec<&'static str> {
    match &object.definition {
        Definition::Source(_) => {
            let is_generator = object.definition.option("connector") == Some("generator");
            // Where it stands among its events does not depend on how fast they come.
            if is_generator { vec!["rate_limit", "rate"] } else { vec!["rate_limit"] }
        }
        Definition::Pipeline(_) => vec!["memory_limit"],
        Definition::Sink(_) => vec!["memory_limit", "on_error"],
        Definition::Table(_) | Definition::View(_) | Definition::Sequence(_) | Definition::Secret(_) => {
            Vec::new()
        }
    }
}

/// Why an option cannot be altered: there is none of that name, or it says what the object is.
fn refusal(object: &Object, change: &Change, alterable: &[&str]) -> SqlError {
    let Change { key, position, .. } = change;
    let kind = object.kind();
    let known = known_options(object);
    if known.iter().any(|known| known == key) {
        return SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("option \"{key}\" of {kind} \"{}\" cannot be altered", object.name),
        )
        .with_hint(format!(
            "Only {} can. To change a definition, use CREATE OR REPLACE.",
            alterable.join(" and ")
        ))
        .with_position(*position);
    }
    let error = SqlError::new(
        SqlState::INVALID_PARAMETER,
        format!("{kind} \"{}\" has no option \"{key}\"", object.name),
    )
    .with_position(*position);
    let near = did_you_mean(key, alterable.iter().copied())
        .or_else(|| did_you_mean(key, known.iter().map(String::as_str)));
    match near {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error.with_hint(format!("What can be altered: {}.", alterable.join(", "))),
    }
}

/// The options that an object of its kind and connector may have.
fn known_options(object: &Object) -> Vec<String> {
    let options = object.definition.options();
    let mut known: Vec<String> = options.iter().map(|(key, _)| key.clone()).collect();
    let connector = object.definition.option("connector");
    for described in tidemill_connectors::connectors() {
        if Some(described.name) != connector {
            continue;
        }
        let of_kind = match object.kind() {
            Kind::Source => &described.source_options,
            _ => &described.sink_options,
        };
        known.extend(of_kind.unwrap_or_default().iter().map(|option| option.name.to_owned()));
    }
    if object.kind() == Kind::Source {
        known.push("idle_timeout".into());
    }
    known
}

#[cfg(test)]
mod tests;
