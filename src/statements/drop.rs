//! `DROP`: takes objects out, in an order in which nothing is missed.

use std::sync::Arc;

use tidemill_catalog::{Catalog, Kind, Object};
use tidemill_core::crash_point;
use tidemill_plan::RelationId;
use tidemill_sql::statements::{DropObjects, DropOwned, ObjectKind};

use super::create::kind;
use super::{access, done};
use crate::database::{Database, index_specs, uninterrupted};
use crate::names::find;
use crate::privileges;
use crate::session::Session;
use crate::session::api::{Notice, Response, SqlError};
use crate::session::definitions::Changing;

pub async fn run(session: &mut Session, drop: &DropObjects) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let tag = format!("DROP {}", drop.kind.name().to_uppercase());
    let Some(kind) = kind(drop.kind) else {
        return match drop.kind {
            ObjectKind::Index => indexes(session, drop, changing).await,
            _ => schemas(session, drop, changing).await,
        };
    };
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let mut oids = Vec::new();
    for name in &drop.names {
        match catalog.resolve_kind(kind, name.schema.as_deref(), &name.name, &search_path) {
            Ok(object) => {
                privileges::require_owner(&catalog, session.user(), object, true)
                    .map_err(|error| error.with_position(name.position))?;
                oids.push(object.oid);
            }
            Err(_)
                if drop.if_exists
                    && find(&catalog, name.schema.as_deref(), &name.name, &search_path).is_none() =>
            {
                session.notice(format!("{} \"{}\" does not exist, skipping", kind.name(), name.name));
            }
            Err(error) => return Err(SqlError::from(error).with_position(name.position)),
        }
    }
    let (catalog, dropped) = catalog.as_ref().drop(&oids, drop.cascade)?;
    tell_of_cascade(session, &dropped, &oids);
    stop_all(session, changing, dropped, catalog).await?;
    Ok(done(tag))
}

async fn schemas(
    session: &mut Session,
    drop: &DropObjects,
    changing: Changing,
) -> Result<Response, SqlError> {
    let mut catalog = session.catalog().as_ref().clone();
    let mut all = Vec::new();
    for name in &drop.names {
        if drop.if_exists && catalog.schema(&name.name).is_err() {
            session.notice(format!("schema \"{}\" does not exist, skipping", name.name));
            continue;
        }
        let schema =
            catalog.schema(&name.name).map_err(|error| SqlError::from(error).with_position(name.position))?;
        privileges::require_schema_owner(&catalog, session.user(), schema)
            .map_err(|error| error.with_position(name.position))?;
        let (changed, dropped) = catalog
            .drop_schema(&name.name, drop.cascade)
            .map_err(|error| SqlError::from(error).with_position(name.position))?;
        catalog = changed;
        all.extend(dropped);
    }
    tell_of_cascade(session, &all, &[]);
    stop_all(session, changing, all, catalog).await?;
    Ok(done("DROP SCHEMA"))
}

/// `DROP OWNED`: what some roles own goes, and what they were granted.
pub async fn owned(session: &mut Session, owned: &DropOwned) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let before = session.catalog();
    let user = session.user().to_owned();
    let mut roles = Vec::new();
    for (role, position) in &owned.roles {
        let role = access::one_role(session, &before, role, *position)?;
        privileges::require_member(&before, &user, &role).map_err(|error| error.with_position(*position))?;
        roles.push(role);
    }
    let is_owned = |owner: &str| roles.iter().any(|role| role == owner);
    let oids: Vec<u32> =
        before.objects().filter(|object| is_owned(&object.owner)).map(|object| object.oid).collect();
    let (mut catalog, mut all) = before.as_ref().drop(&oids, owned.cascade)?;
    tell_of_cascade(session, &all, &oids);
    for schema in before.schemas().filter(|schema| is_owned(&schema.owner)) {
        // A schema that every database has stays.
        if schema.oid < tidemill_catalog::FIRST_OID {
            continue;
        }
        let (changed, dropped) = catalog.drop_schema(&schema.name, owned.cascade)?;
        tell_of_cascade(session, &dropped, &[]);
        catalog = changed;
        all.extend(dropped);
    }
    for role in &roles {
        catalog = catalog.forget_grants(role)?;
    }
    stop_all(session, changing, all, catalog).await?;
    Ok(done("DROP OWNED"))
}

/// `DROP INDEX`, which the table's owner may.
async fn indexes(
    session: &mut Session,
    drop: &DropObjects,
    changing: Changing,
) -> Result<Response, SqlError> {
    let mut catalog = session.catalog().as_ref().clone();
    let search_path = session.settings.search_path();
    let mut oids = Vec::new();
    for name in &drop.names {
        let table = match catalog.resolve_index(name.schema.as_deref(), &name.name, &search_path) {
            Ok(table) => table.clone(),
            Err(_) if drop.if_exists => {
                session.notice(format!("index \"{}\" does not exist, skipping", name.name));
                continue;
            }
            Err(error) => return Err(SqlError::from(error).with_position(name.position)),
        };
        privileges::require_owner(&catalog, session.user(), &table, true)
            .map_err(|error| error.with_position(name.position))?;
        catalog = catalog.drop_index(table.oid, &name.name);
        oids.push(table.oid);
    }
    let Changing::Now(lock) = changing else {
        session.commit_catalog(changing, catalog).await?;
        return Ok(done("DROP INDEX"));
    };
    let database = session.database.clone();
    uninterrupted(async move {
        let _lock = lock;
        database.put_catalog(catalog).await?;
        let catalog = database.catalog();
        for object in oids.iter().filter_map(|oid| catalog.get(*oid)).filter(|_| !database.is_for_checks()) {
            // What has failed begins again without it.
            if let Err(error) = database.engine.set_indexes(RelationId(object.oid), index_specs(object)).await
            {
                tracing::warn!(object = object.full_name(), %error, "a dropped index goes at the next start");
            }
        }
        Ok(())
    })
    .await?;
    Ok(done("DROP INDEX"))
}

/// Says what went beside what was named.
fn tell_of_cascade(session: &mut Session, dropped: &[Arc<Object>], named: &[u32]) {
    let others: Vec<String> = dropped
        .iter()
        .filter(|object| !named.contains(&object.oid) && object.kind() != Kind::Sequence)
        .map(|object| object.describe())
        .collect();
    match &others[..] {
        [] => (),
        [one] => session.notice(format!("drop cascades to {one}")),
        many => {
            let mut notice = Notice::new(format!("drop cascades to {} other objects", many.len()));
            notice.detail = Some(
                many.iter().map(|object| format!("drop cascades to {object}")).collect::<Vec<_>>().join("\n"),
            );
            session.notices.push(notice);
        }
    }
}

/// Lets the catalog name objects no more, and then ends what runs for them. Whatever happens in between, no start looks
/// for state that is gone.
async fn stop_all(
    session: &mut Session,
    changing: Changing,
    objects: Vec<Arc<Object>>,
    catalog: Catalog,
) -> Result<(), SqlError> {
    let lock = match changing {
        Changing::Now(lock) => lock,
        // What is dropped ends when the block does.
        Changing::InBlock => return session.commit_catalog(changing, catalog).await,
    };
    let database = session.database.clone();
    uninterrupted(async move {
        let _lock = lock;
        database.put_catalog(catalog).await?;
        let mut outcome = Ok(());
        if !database.is_for_checks() {
            // They are gone, so what cannot be stopped keeps none of the others.
            for object in &objects {
                outcome = outcome.and(stop(&database, object).await);
                crash_point("drop.stopped");
            }
        }
        outcome
    })
    .await
}

/// Ends what runs for an object.
pub async fn stop(database: &Database, object: &Object) -> Result<(), SqlError> {
    let engine = &database.engine;
    let id = RelationId(object.oid);
    match object.kind() {
        Kind::Pipeline | Kind::Sink => engine.drop_members(&[id]).await?,
        Kind::Table => engine.drop_table(id).await?,
        Kind::Source => engine.drop_source(id).await,
        Kind::Sequence => database.sequences.forget(engine, object.oid).await?,
        Kind::View | Kind::Secret => (),
    }
    Ok(())
}
