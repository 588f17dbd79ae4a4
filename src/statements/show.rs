//! `SHOW` and `DESCRIBE`: what is defined.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_catalog::{Kind, Object};
use tidemill_core::SqlState;
use tidemill_engine::JobStatus;
use tidemill_sql::parser::ObjectName;
use tidemill_sql::statements::{Describe, Like, ObjectKind, Show, ShowVariable, list_meant};

use super::create::kind;
use super::{secret, text_rows};
use crate::session::Session;
use crate::session::api::{Response, RowsTag, SqlError};

const TAG: RowsTag = RowsTag("SHOW");

pub async fn run(session: &mut Session, show: &Show) -> Result<Response, SqlError> {
    let catalog = session.catalog();
    match show {
        Show::Objects { kind: ObjectKind::Schema, like, .. } => {
            let names = catalog.schemas().filter(|schema| matches(like, &schema.name));
            let rows: Vec<Vec<String>> =
                names.map(|schema| vec![schema.name.clone(), schema.owner.clone()]).collect();
            Ok(text_rows(&["name", "owner"], &rows, TAG))
        }
        Show::Objects { kind: object_kind, schema, like } => {
            let Some(kind) = kind(*object_kind) else { unreachable!("schemas are shown above") };
            if let Some(schema) = schema {
                catalog
                    .schema(&schema.value)
                    .map_err(|error| SqlError::from(error).with_position(schema.position))?;
            }
            let search_path = session.settings.search_path();
            let is_shown = |object: &&std::sync::Arc<Object>| {
                let in_schema = match schema {
                    Some(schema) => object.schema == schema.value,
                    None => search_path.contains(&object.schema),
                };
                in_schema && matches(like, &object.name)
            };
            let mut objects: Vec<_> = catalog.objects_of(kind).filter(is_shown).collect();
            objects.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
            let row = |object: &&std::sync::Arc<Object>| {
                vec![object.name.clone(), object.schema.clone(), object.comment.clone().unwrap_or_default()]
            };
            let mut rows: Vec<Vec<String>> = objects.iter().map(row).collect();
            if !matches!(kind, Kind::Source | Kind::Pipeline | Kind::Sink) {
                return Ok(text_rows(&["name", "schema", "comment"], &rows, TAG));
            }
            let states = states(session).await;
            for (row, object) in rows.iter_mut().zip(&objects) {
                row.push(states.get(&object.oid).copied().unwrap_or_default().to_owned());
            }
            Ok(text_rows(&["name", "schema", "comment", "state"], &rows, TAG))
        }
        Show::Connectors { like } => {
            let rows: Vec<Vec<String>> = tidemill_connectors::connectors()
                .iter()
                .filter(|connector| matches(like, connector.name))
                .map(|connector| {
                    let roles = match (&connector.source_options, &connector.sink_options) {
                        (Some(_), Some(_)) => "source, sink",
                        (Some(_), None) => "source",
                        _ => "sink",
                    };
                    vec![connector.name.to_owned(), roles.to_owned(), connector.text.to_owned()]
                })
                .collect();
            Ok(text_rows(&["name", "roles", "description"], &rows, TAG))
        }
        Show::Jobs { like } => {
            let status = session.database.engine.status().await;
            let row = |job: &JobStatus| {
                let n_total = job.rows_total.map_or_else(String::new, |n_total| n_total.to_string());
                let left = job.eta.map_or_else(String::new, seconds_until);
                let (kind, state) = (job.kind.name().into(), job.state.name().into());
                let n_done = job.rows_done.to_string();
                vec![job.id.to_string(), job.object.clone(), kind, state, n_done, n_total, left]
            };
            let shown = status.jobs.iter().filter(|job| matches(like, &job.object));
            let rows: Vec<Vec<String>> = shown.map(row).collect();
            let names = ["id", "object", "job", "state", "rows_done", "rows_total", "seconds_left"];
            Ok(text_rows(&names, &rows, TAG))
        }
        Show::Create { kind: object_kind, name } => {
            let search_path = session.settings.search_path();
            let Some(kind) = kind(*object_kind) else {
                return Err(super::unsupported(format!("SHOW CREATE {}", object_kind.keyword())));
            };
            let object = catalog
                .resolve_kind(kind, name.schema.as_deref(), &name.name, &search_path)
                .map_err(|error| SqlError::from(error).with_position(name.position))?;
            let mut parsed = tidemill_sql::parser::parse_one(&object.sql)?;
            let definition = &object.definition;
            let options = secret::with_options(&catalog, definition.options(), 1);
            let encode_options = secret::with_options(&catalog, definition.encode_options(), 1);
            tidemill_sql::statements::set_options(&mut parsed.statement, options, encode_options);
            let text = tidemill_sql::statements::show_create(&parsed.statement)
                .unwrap_or_else(|| tidemill_sql::statements::redact(&object.sql));
            Ok(text_rows(&["name", "create_sql"], &[vec![object.full_name(), text]], TAG))
        }
        Show::Columns { relation, like } => columns(session, relation, like),
    }
}

pub fn describe(session: &mut Session, describe: &Describe) -> Result<Response, SqlError> {
    if let Some(Some(kind)) = describe.kind.map(kind) {
        let name = &describe.name;
        let catalog = session.catalog();
        let search_path = session.settings.search_path();
        catalog
            .resolve_kind(kind, name.schema.as_deref(), &name.name, &search_path)
            .map_err(|error| SqlError::from(error).with_position(name.position))?;
    }
    columns(session, &describe.name, &None)
}

fn columns(session: &Session, name: &ObjectName, like: &Option<Like>) -> Result<Response, SqlError> {
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let object = catalog
        .resolve(name.schema.as_deref(), &name.name, &search_path)
        .map_err(|error| SqlError::from(error).with_position(name.position))?;
    let row = |(idx, column): (usize, &tidemill_catalog::Column)| {
        let key = if object.primary_key.contains(&idx) { "PRIMARY KEY" } else { "" };
        let extra = match (&column.generated, &column.default) {
            (Some(generated), _) => format!("AS {generated}"),
            (None, Some(default)) => format!("DEFAULT {default}"),
            (None, None) => String::new(),
        };
        vec![
            column.name.clone(),
            tidemill_sql::types::pg_type_of(&column.field()),
            if column.nullable { "YES" } else { "NO" }.into(),
            key.into(),
            extra,
            column.comment.clone().unwrap_or_default(),
        ]
    };
    let shown = object.columns.iter().enumerate().filter(|(_, column)| matches(like, &column.name));
    let rows: Vec<Vec<String>> = shown.map(row).collect();
    Ok(text_rows(&["name", "type", "nullable", "key", "extra", "comment"], &rows, TAG))
}

pub fn variable(session: &mut Session, variable: &ShowVariable) -> Result<Response, SqlError> {
    let Some(name) = &variable.name else {
        let rows: Vec<Vec<String>> =
            session.settings.all().map(|(name, value)| vec![name.to_owned(), value.to_owned()]).collect();
        return Ok(text_rows(&["name", "setting"], &rows, TAG));
    };
    match session.settings.get(name) {
        Ok(value) => {
            let name = crate::session::settings::display_name(name);
            Ok(text_rows(&[name], &[vec![value.to_owned()]], TAG))
        }
        Err(error) => Err(match list_meant(name) {
            Some(list) => SqlError::new(SqlState::UNDEFINED_OBJECT, error.message)
                .with_hint(format!("Perhaps you meant SHOW {list}."))
                .with_position(variable.position),
            None => error.with_position(variable.position),
        }),
    }
}

/// What each object that runs does, by OID.
async fn states(session: &Session) -> BTreeMap<u32, &'static str> {
    let status = session.database.engine.status().await;
    let sources = status.sources.iter().map(|source| (source.id.0, source.state.name()));
    let members = status.pipelines.iter().chain(status.sinks.iter().map(|sink| &sink.pipeline));
    sources.chain(members.map(|member| (member.id.0, member.state.name()))).collect()
}

fn seconds_until(micros: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
    (micros.saturating_sub(now).max(0) / 1_000_000).to_string()
}

fn matches(like: &Option<Like>, name: &str) -> bool {
    like.as_ref().is_none_or(|like| like.matches(name))
}
