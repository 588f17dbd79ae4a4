//! `CREATE`, `COMMENT ON`: statements that change definitions.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::Query;
use tidemill_catalog::{
    Catalog, Column, Created, Definition, Include, Kind, NewObject, Object, OnConflict, PipelineDefinition,
    Privilege, SinkDefinition, SourceDefinition, TableDefinition, ViewDefinition, Watermark,
};
use tidemill_connectors::IncludeKind as ConnectorInclude;
use tidemill_core::source::ConnectorError;
use tidemill_core::{SqlState, Ttl, Upkeep, crash_point, did_you_mean};
use tidemill_engine::{MemberSpec, SourceSpec, TableSpec};
use tidemill_plan::{PipelinePlan, RelationId};
use tidemill_sql::parser::{ObjectName, parse_query};
use tidemill_sql::statements::{
    ColumnDef, Comment, CommentTarget, CreatePipeline, CreateSchema, CreateSink, CreateSource, CreateTable,
    CreateView, ObjectKind, SinkInput, WithOptions,
};
use tokio_util::sync::CancellationToken;

use super::{access, dml, done, engine_error, query, redefine, secret, unbounded, unsupported};
use crate::database::{self, Database, position_of, sink_query, table_spec, take_rate_limit, uninterrupted};
use crate::names::{References, find};
use crate::session::api::{Notice, Response, SqlError};
use crate::session::definitions::Changing;
use crate::session::{Call, Session};
use crate::{policies, privileges};

/// What stands behind WITH of a pipeline.
const PIPELINE_OPTIONS: [&str; 2] = ["memory_limit", "ttl"];

/// What `CREATE … name` says before its own part.
pub struct Head<'a> {
    pub name: &'a ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
}

impl Head<'_> {
    fn on_conflict(&self) -> OnConflict {
        match (self.or_replace, self.if_not_exists) {
            (true, _) => OnConflict::Replace,
            (_, true) => OnConflict::Keep,
            _ => OnConflict::Fail,
        }
    }
}

/// An object that has its place in a catalog that does not count yet.
pub struct Entered {
    pub catalog: Catalog,
    pub object: Arc<Object>,
    /// What is not there any more; readers first.
    pub replaced: Vec<Arc<Object>>,
}

/// What an object needs beside its place in the catalog.
pub enum Work {
    Source(SourceSpec),
    /// With its first rows.
    Table(TableSpec, Option<RecordBatch>),
    /// A pipeline or a sink.
    Member(Box<MemberSpec>),
    Sequence,
}

pub async fn source(session: &mut Session, create: &CreateSource, sql: &str) -> Result<Response, SqlError> {
    let head =
        Head { name: &create.name, or_replace: create.or_replace, if_not_exists: create.if_not_exists };
    let format = create.format.as_ref().map(|format| format.value.to_uppercase());
    let encode = create.encode.as_ref().map(|encode| encode.value.to_uppercase());
    let mut declared = SourceDefinition {
        options: secret::options(session, &create.options)?,
        format,
        encode,
        encode_options: secret::options(session, &create.encode_options)?,
        include: Vec::new(),
        watermark: None,
    };
    // Before it is looked at for its columns.
    let connector = create.options.get("connector");
    privileges::require_connector(&session.catalog(), session.user(), connector, false)?;
    let mut columns = self::columns(&create.columns);
    if columns.is_empty() {
        let catalog = session.catalog();
        let schema = columns_of_connector(&session.database, &catalog, &create.name.name, &declared).await;
        let schema = schema.map_err(|error| {
            let options = declared.options.iter().chain(&declared.encode_options);
            session.database.without_secrets(&catalog, options, error)
        })?;
        let Some(schema) = schema else {
            return Err(SqlError::new(
                SqlState::INVALID_TABLE_DEFINITION,
                format!("source \"{}\" needs a column list", create.name.name),
            )
            .with_hint(
                "Write CREATE SOURCE name (column type, …) WITH (…); this connector cannot tell the columns.",
            )
            .with_position(create.name.position));
        };
        columns = schema.fields().iter().map(|field| Column::from(field.as_ref())).collect();
    }
    for clause in &create.include {
        let kind = match clause.kind.name() {
            "header" => ConnectorInclude::Header(clause.header.clone()),
            name => name.parse().map_err(|error| SqlError::from_connector(error, clause.position))?,
        };
        columns.push(Column::new(clause.column(), kind.data_type(), true));
        declared.include.push(Include {
            kind: clause.kind.name().into(),
            header: clause.header.clone(),
            column: clause.column().into(),
        });
    }
    if let Some(watermark) = &create.watermark {
        check_watermark(watermark, &columns)?;
        declared.watermark =
            Some(Watermark { column: watermark.column.clone(), expr: watermark.text.clone() });
    }
    let definition = Definition::Source(declared);
    let changing = session.change_definitions().await?;
    let new = NewObject {
        columns,
        primary_key: create.primary_key.clone(),
        dependencies: definition.secrets().collect(),
        ..new_object(session, &head, definition, sql)?
    };
    let Some(entered) = enter(session, &head, new)? else { return Ok(done("CREATE SOURCE")) };
    let spec = session.database.source_spec(&entered.catalog, &entered.object)?;
    if !session.database.is_for_checks() {
        validate("source", &spec.name.get(), async { spec.source.splits().await.map(drop) }).await?;
    }
    install(session, changing, entered, Work::Source(spec)).await?;
    Ok(done("CREATE SOURCE"))
}

/// The columns of a source that its connector knows.
async fn columns_of_connector(
    database: &Database,
    catalog: &Catalog,
    name: &str,
    definition: &SourceDefinition,
) -> Result<Option<SchemaRef>, SqlError> {
    let mut options = database.resolved(catalog, &definition.options)?;
    tidemill_connectors::take_duration(&mut options, "idle_timeout")?;
    take_rate_limit(&mut options)?;
    let spec = tidemill_connectors::SourceSpec {
        name,
        schema: SchemaRef::new(Schema::empty()),
        include: &[],
        primary_key: &[],
        options: &options,
        format: database::format(&definition.format)?,
        encode: database::encode(&definition.encode)?,
        encode_options: &database.resolved(catalog, &definition.encode_options)?,
    };
    Ok(tidemill_connectors::source_columns(&spec).await?)
}

/// Asks the outside whether it is there, so that a mistake shows now and not in a log.
async fn validate(
    kind: &str,
    name: &str,
    asked: impl Future<Output = Result<(), ConnectorError>>,
) -> Result<(), SqlError> {
    let limit = std::time::Duration::from_secs(12);
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(SqlError::new(
            SqlState::CONNECTION_FAILURE,
            format!("{kind} \"{name}\" does not answer within {} seconds", limit.as_secs()),
        )),
    }
}

fn check_watermark(
    watermark: &tidemill_sql::statements::Watermark,
    columns: &[Column],
) -> Result<(), SqlError> {
    let Some(column) = columns.iter().find(|column| column.name == watermark.column) else {
        let near = did_you_mean(&watermark.column, columns.iter().map(|column| column.name.as_str()));
        let error = SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{}\" named in WATERMARK does not exist", watermark.column),
        )
        .with_position(watermark.position);
        return Err(match near {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => error,
        });
    };
    if !matches!(column.data_type, arrow::datatypes::DataType::Timestamp(_, _)) {
        let found = tidemill_sql::types::pg_type_name(&column.data_type);
        return Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!("WATERMARK FOR \"{}\" needs a timestamp, but the column is {found}", column.name),
        )
        .with_position(watermark.position));
    }
    Ok(())
}

pub async fn table(
    session: &mut Session,
    create: &CreateTable,
    call: &Call<'_>,
) -> Result<Response, SqlError> {
    let head =
        Head { name: &create.name, or_replace: create.or_replace, if_not_exists: create.if_not_exists };
    if let Some((key, _)) = create.options.iter().next() {
        let position = create.options.position(key);
        let error =
            SqlError::new(SqlState::INVALID_PARAMETER, format!("unknown option \"{key}\" of a table"))
                .with_hint("A table takes no options. To read from the outside, write CREATE SOURCE.");
        return Err(match position {
            Some(position) => error.with_position(position),
            None => error,
        });
    }
    let mut filled = None;
    let mut columns = self::columns(&create.columns);
    if let Some(query) = &create.query {
        let (schema, batches) =
            query::collect(session, query, call.sql, call.params.clone(), &Default::default()).await?;
        columns = schema.fields().iter().map(|field| Column::from(field.as_ref())).collect();
        for (column, name) in columns.iter_mut().zip(&create.column_names) {
            column.name = name.clone();
        }
        columns.iter_mut().for_each(|column| column.nullable = true);
        filled = Some(batches);
    }
    let changing = session.change_definitions().await?;
    let definition = TableDefinition { options: Vec::new(), query: create.query_text.clone() };
    let new = NewObject {
        dependencies: super::tables::sequences_of(session, &columns)?,
        columns,
        primary_key: create.primary_key.clone(),
        ..new_object(session, &head, Definition::Table(definition), call.sql)?
    };
    let counted = super::tables::counted(&create.columns);
    let entered = match counted.is_empty() {
        true => enter(session, &head, new)?,
        false => super::tables::enter_counted(session, &head, new, &counted)?,
    };
    let Some(entered) = entered else { return Ok(done("CREATE TABLE")) };
    let spec = table_spec(&entered.object);
    let rows = filled.map(|batches| dml::concat(&spec.schema, &batches)).transpose()?;
    let n_rows = rows.as_ref().map(RecordBatch::num_rows);
    install(session, changing, entered, Work::Table(spec, rows)).await?;
    Ok(done(n_rows.map_or("CREATE TABLE".into(), |n_rows| format!("SELECT {n_rows}"))))
}

/// An empty table of some columns, for what a statement has to say; the one of that name, if it has them.
pub async fn table_for(
    session: &mut Session,
    name: &ObjectName,
    columns: Vec<Column>,
    sql: &str,
) -> Result<std::sync::Arc<Object>, SqlError> {
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    if find(&catalog, name.schema.as_deref(), &name.name, &search_path).is_some() {
        let table = dml::target(session, name, "insert into", &[Privilege::Insert])?;
        let shape = |columns: &[Column]| -> Vec<_> {
            columns.iter().map(|column| (column.name.clone(), column.data_type.clone())).collect()
        };
        if shape(&table.columns) == shape(&columns) {
            return Ok(table);
        }
        let wanted: Vec<String> = columns
            .iter()
            .map(|column| format!("{} {}", column.name, tidemill_sql::types::pg_type_name(&column.data_type)))
            .collect();
        return Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!("table \"{}\" has other columns than what is to be written", name.name),
        )
        .with_detail(format!("Needed are ({}).", wanted.join(", ")))
        .with_hint("Name a table that does not exist; it is created.")
        .with_position(name.position));
    }
    let changing = session.change_definitions().await?;
    let head = Head { name, or_replace: false, if_not_exists: false };
    let definition = TableDefinition { options: Vec::new(), query: None };
    let new = NewObject { columns, ..new_object(session, &head, Definition::Table(definition), sql)? };
    let Some(entered) = enter(session, &head, new)? else {
        unreachable!("a name that is taken is an error without IF NOT EXISTS");
    };
    let object = entered.object.clone();
    let spec = table_spec(&object);
    install(session, changing, entered, Work::Table(spec, None)).await?;
    Ok(object)
}

/// `sql` is the statement, `stored` the one that the catalog is to keep.
pub async fn pipeline(
    session: &mut Session,
    create: &CreatePipeline,
    sql: &str,
    stored: &str,
) -> Result<Response, SqlError> {
    let head =
        Head { name: &create.name, or_replace: create.or_replace, if_not_exists: create.if_not_exists };
    check_options(&create.options, &PIPELINE_OPTIONS)?;
    secret::refuse(&create.options)?;
    let upkeep = Upkeep { emit: create.emit, ttl: ttl(&create.options)? };
    let changing = session.change_definitions().await?;
    if let Some(response) = kept(session, &head, "CREATE PIPELINE")? {
        return Ok(response);
    }
    let search_path = session.settings.search_path();
    require_rows(session, &create.query, &search_path)?;
    let mut plan = session
        .database
        .pipeline_plan_in(session.catalog(), &create.query_text, (&search_path).into(), &upkeep)
        .await
        .map_err(|error| at_query(error, sql, &create.query_text))?;
    check_cross_joins(session, &plan, sql)?;
    unbounded::check(session, &plan, &create.name.name, sql)?;
    let mut columns: Vec<Column> =
        plan.schema.fields().iter().map(|field| Column::from(field.as_ref())).collect();
    rename(&mut columns, &create.column_names, create.name.position)?;
    let definition = PipelineDefinition {
        query: create.query_text.clone(),
        options: secret::options(session, &create.options)?,
        emit: create.emit,
    };
    let new = NewObject {
        columns,
        dependencies: dependencies(session, &create.query, &search_path)?,
        ..new_object(session, &head, Definition::Pipeline(definition), stored)?
    };
    let catalog = session.catalog();
    let known = catalog.find(&new.schema, &new.name).filter(|known| known.kind() == Kind::Pipeline);
    if let Some(old) = known.filter(|old| head.or_replace && catalog.dependents(old.oid).next().is_some()) {
        redefine::run(session, changing, old, new, plan).await?;
        return Ok(done("CREATE PIPELINE"));
    }
    let known = known.cloned();
    let Some(mut entered) = enter(session, &head, new)? else { return Ok(done("CREATE PIPELINE")) };
    // One that is defined anew keeps its indexes, as it does where others read it.
    if let Some(old) = known.filter(|old| !old.indexes.is_empty()) {
        let mut object = entered.object.as_ref().clone();
        object.indexes = super::tables::indexes_that_fit(&old, &object);
        entered.object = Arc::new(object.clone());
        entered.catalog = entered.catalog.redefine(object);
    }
    plan.schema = entered.object.arrow_schema();
    let spec = session.database.pipeline_spec(&entered.object, plan)?;
    install(session, changing, entered, Work::Member(Box::new(spec))).await?;
    Ok(done("CREATE PIPELINE"))
}

pub async fn sink(session: &mut Session, create: &CreateSink, sql: &str) -> Result<Response, SqlError> {
    let head =
        Head { name: &create.name, or_replace: create.or_replace, if_not_exists: create.if_not_exists };
    let changing = session.change_definitions().await?;
    if let Some(response) = kept(session, &head, "CREATE SINK")? {
        return Ok(response);
    }
    let search_path = session.settings.search_path();
    let catalog = session.catalog();
    let (input, mut dependencies) = match &create.input {
        SinkInput::From(name) => {
            let object = catalog.resolve(name.schema.as_deref(), &name.name, &search_path)?;
            let all = parse_query(&format!("SELECT * FROM {name}"))?;
            require_rows(session, &all, &search_path)?;
            (tidemill_catalog::SinkInput::From { oid: object.oid }, vec![object.oid])
        }
        SinkInput::Query { query, text, emit } => {
            require_rows(session, query, &search_path)?;
            let input = tidemill_catalog::SinkInput::Query { query: text.clone(), emit: *emit };
            (input, dependencies(session, query, &search_path)?)
        }
    };
    let (query, upkeep) = sink_query(&catalog, &input)?;
    let plan = session
        .database
        .pipeline_plan_in(catalog.clone(), &query, (&search_path).into(), &upkeep)
        .await
        .map_err(|error| at_query(error, sql, &query))?;
    check_cross_joins(session, &plan, sql)?;
    unbounded::check(session, &plan, &create.name.name, sql)?;
    let definition = Definition::Sink(SinkDefinition {
        input,
        options: secret::options(session, &create.options)?,
        format: create.format.as_ref().map(|format| format.value.to_uppercase()),
        encode: create.encode.as_ref().map(|encode| encode.value.to_uppercase()),
        encode_options: secret::options(session, &create.encode_options)?,
    });
    dependencies.extend(definition.secrets());
    let columns = plan.schema.fields().iter().map(|field| Column::from(field.as_ref())).collect();
    let new = NewObject { columns, dependencies, ..new_object(session, &head, definition, sql)? };
    let Some(entered) = enter(session, &head, new)? else { return Ok(done("CREATE SINK")) };
    let updates = updates_from(&plan);
    let spec = session.database.sink_spec(&entered.catalog, &entered.object, plan).map_err(|error| {
        let is_retraction = error.message.contains("updates") && error.detail.is_none();
        match updates.filter(|_| is_retraction) {
            Some(updates) => error.with_detail(updates),
            None => error,
        }
    })?;
    if let Some(sink) = spec.sink.as_ref().filter(|_| !session.database.is_for_checks()) {
        validate("sink", &spec.name.get(), sink.validate()).await?;
    }
    install(session, changing, entered, Work::Member(Box::new(spec))).await?;
    Ok(done("CREATE SINK"))
}

/// A join that compares every pair of rows is what some queries mean, and what a forgotten condition gives.
fn check_cross_joins(session: &mut Session, plan: &PipelinePlan, sql: &str) -> Result<(), SqlError> {
    let Some(join) = plan.cross_joins.first() else { return Ok(()) };
    let message = format!("a join without an equality between its sides compares every pair of rows: {join}");
    let hint = "Add a condition such as a.key = b.key; or SET cross_joins = 'allow'.";
    match session.settings.get("cross_joins")?.to_lowercase().as_str() {
        "allow" => Ok(()),
        "reject" => {
            let error = SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint);
            Err(match position_of(sql, "join") {
                Some(position) => error.with_position(position),
                None => error,
            })
        }
        _ => {
            let mut notice = Notice::warning(SqlState::WARNING, message);
            notice.hint = Some(hint.into());
            session.notices.push(notice);
            Ok(())
        }
    }
}

/// Which step of a plan takes rows back first.
fn updates_from(plan: &tidemill_plan::PipelinePlan) -> Option<String> {
    if plan.properties.is_append_only {
        return None;
    }
    let nodes = plan.explained.walk();
    let is_first = |node: &&tidemill_plan::ExplainedNode| {
        !node.is_append_only && node.inputs.iter().all(|input| input.is_append_only)
    };
    let node = nodes.into_iter().map(|(_, node)| node).find(is_first)?;
    Some(format!("Updates come from {}.", node.display))
}

pub async fn view(session: &mut Session, create: &CreateView, sql: &str) -> Result<Response, SqlError> {
    let head =
        Head { name: &create.name, or_replace: create.or_replace, if_not_exists: create.if_not_exists };
    let changing = session.change_definitions().await?;
    let search_path = session.settings.search_path();
    require_reads(session, &create.query, &search_path)?;
    // Planned as a pipeline would be, but not rewritten: a view may do what only a SELECT can.
    let schema = view_schema(session, create, sql, &search_path).await?;
    let mut columns: Vec<Column> = schema.fields().iter().map(|field| Column::from(field.as_ref())).collect();
    let mut query = create.query_text.clone();
    if !create.column_names.is_empty() {
        rename(&mut columns, &create.column_names, create.name.position)?;
        let names: Vec<String> =
            create.column_names.iter().map(|name| tidemill_sql::parser::quote(name).to_string()).collect();
        query = format!("SELECT * FROM ({query}) AS view({})", names.join(", "));
    }
    let new = NewObject {
        columns,
        dependencies: dependencies(session, &create.query, &search_path)?,
        ..new_object(session, &head, Definition::View(ViewDefinition { query }), sql)?
    };
    let Some(entered) = enter(session, &head, new)? else { return Ok(done("CREATE VIEW")) };
    session.commit_catalog(changing, entered.catalog).await?;
    Ok(done("CREATE VIEW"))
}

async fn view_schema(
    session: &Session,
    create: &CreateView,
    sql: &str,
    search_path: &[String],
) -> Result<SchemaRef, SqlError> {
    let database = &session.database;
    let names =
        crate::names::PipelineNames { database, catalog: session.catalog(), scope: search_path.into() };
    let planned = database.planner.plan_query(&create.query, &names).await.map_err(|error| {
        at_query(database.delta_error(error, &create.query_text), sql, &create.query_text)
    })?;
    let fields: Vec<_> = planned.plan.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    Ok(Arc::new(arrow::datatypes::Schema::new(fields)))
}

pub async fn schema(session: &mut Session, create: &CreateSchema) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    privileges::require_database(&catalog, session.user())?;
    let owner = match &create.owner {
        Some((role, position)) => {
            let owner = access::one_role(session, &catalog, role, *position)?;
            privileges::require_member(&catalog, session.user(), &owner)
                .map_err(|error| error.with_position(*position))?;
            owner
        }
        None => session.user().to_owned(),
    };
    if create.if_not_exists && catalog.schema(&create.name.value).is_ok() {
        session.notice(format!("schema \"{}\" already exists, skipping", create.name.value));
        return Ok(done("CREATE SCHEMA"));
    }
    let catalog = catalog
        .create_schema(&create.name.value, &owner, create.if_not_exists)
        .map_err(|error| SqlError::from(error).with_position(create.name.position))?;
    session.commit_catalog(changing, catalog).await?;
    Ok(done("CREATE SCHEMA"))
}

pub async fn comment(session: &mut Session, comment: &Comment) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let text = comment.comment.clone();
    let at = |name: &ObjectName| {
        let position = name.position;
        move |error: tidemill_catalog::Error| SqlError::from(error).with_position(position)
    };
    let changed = match &comment.target {
        CommentTarget::Object { kind: object_kind, name } => match kind(*object_kind) {
            Some(kind) => {
                let object = catalog
                    .resolve_kind(kind, name.schema.as_deref(), &name.name, &search_path)
                    .map_err(at(name))?;
                privileges::require_owner(&catalog, session.user(), object, false)
                    .map_err(|error| error.with_position(name.position))?;
                catalog.comment(object.oid, text)
            }
            None if *object_kind == ObjectKind::Index => return Err(unsupported("COMMENT ON INDEX")),
            None => {
                let schema = catalog.schema(&name.name).map_err(at(name))?;
                privileges::require_schema_owner(&catalog, session.user(), schema)
                    .map_err(|error| error.with_position(name.position))?;
                catalog.comment_schema(&name.name, text)?
            }
        },
        CommentTarget::Column { relation, column, position } => {
            let object = catalog
                .resolve(relation.schema.as_deref(), &relation.name, &search_path)
                .map_err(at(relation))?;
            privileges::require_owner(&catalog, session.user(), object, false)
                .map_err(|error| error.with_position(relation.position))?;
            catalog
                .comment_column(object.oid, column, text)
                .map_err(|error| SqlError::from(error).with_position(*position))?
        }
    };
    session.commit_catalog(changing, changed).await?;
    Ok(done("COMMENT"))
}

/// The catalog's word for a kind; a schema is no relation.
pub fn kind(kind: ObjectKind) -> Option<Kind> {
    match kind {
        ObjectKind::Source => Some(Kind::Source),
        ObjectKind::Table => Some(Kind::Table),
        ObjectKind::Pipeline => Some(Kind::Pipeline),
        ObjectKind::View => Some(Kind::View),
        ObjectKind::Sink => Some(Kind::Sink),
        ObjectKind::Sequence => Some(Kind::Sequence),
        ObjectKind::Secret => Some(Kind::Secret),
        ObjectKind::Schema | ObjectKind::Index => None,
    }
}

pub fn new_object(
    session: &Session,
    head: &Head<'_>,
    definition: Definition,
    sql: &str,
) -> Result<NewObject, SqlError> {
    let search_path = session.settings.search_path();
    let catalog = session.catalog();
    let schema = match &head.name.schema {
        Some(schema) => catalog.schema(schema),
        None => catalog.creation_schema(&search_path),
    };
    let schema =
        schema.map_err(|error| SqlError::from(error).with_position(head.name.position))?.name.clone();
    if crate::system::is_system_relation(&head.name.name) {
        return Err(SqlError::new(
            SqlState::DUPLICATE_TABLE,
            format!("\"{}\" is the name of a system relation", head.name.name),
        )
        .with_position(head.name.position));
    }
    let user = session.user().to_owned();
    privileges::require_schema(&catalog, &user, &schema, Privilege::Create)
        .map_err(|error| error.with_position(head.name.position))?;
    // What is replaced must be the user's to drop.
    if let Some(old) = catalog.find(&schema, &head.name.name).filter(|_| head.or_replace) {
        privileges::require_owner(&catalog, &user, old, true)
            .map_err(|error| error.with_position(head.name.position))?;
    }
    let is_sink = matches!(definition, Definition::Sink(_));
    privileges::require_connector(&catalog, &user, definition.option("connector"), is_sink)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(NewObject {
        schema,
        name: head.name.name.clone(),
        columns: Vec::new(),
        primary_key: Vec::new(),
        definition,
        sql: sql.to_owned(),
        search_path,
        dependencies: Vec::new(),
        owner: user,
        created_at: now.as_micros() as i64,
    })
}

/// Under `IF NOT EXISTS`, the answer where the name is taken: before anything is planned.
fn kept(session: &mut Session, head: &Head<'_>, tag: &str) -> Result<Option<Response>, SqlError> {
    if !head.if_not_exists {
        return Ok(None);
    }
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let schema = match &head.name.schema {
        Some(schema) => schema.clone(),
        None => catalog.creation_schema(&search_path)?.name.clone(),
    };
    if catalog.find(&schema, &head.name.name).is_none() {
        return Ok(None);
    }
    session.notice(format!("relation \"{}\" already exists, skipping", head.name.name));
    Ok(Some(done(tag)))
}

/// Gives an object its place in a new catalog; none where it is there already, under `IF NOT EXISTS`.
pub fn enter(session: &mut Session, head: &Head<'_>, new: NewObject) -> Result<Option<Entered>, SqlError> {
    let catalog = session.catalog();
    enter_into(session, &catalog, head, new)
}

/// As [`enter`], into a catalog that has more than the session sees.
pub fn enter_into(
    session: &mut Session,
    catalog: &Catalog,
    head: &Head<'_>,
    new: NewObject,
) -> Result<Option<Entered>, SqlError> {
    let (entered, created) = catalog
        .create(new, head.on_conflict())
        .map_err(|error| SqlError::from(error).with_position(head.name.position))?;
    if let Some(notice) = created.notice() {
        session.notice(notice);
    }
    Ok(match created {
        Created::Kept(_) => None,
        Created::New(object) => Some(Entered { catalog: entered, object, replaced: Vec::new() }),
        Created::Replaced { new: object, .. } => {
            let mut replaced = catalog.in_order();
            replaced.retain(|object| entered.get(object.oid).is_none());
            replaced.reverse();
            policies::check(&session.database, &object)?;
            Some(Entered { catalog: entered, object, replaced })
        }
    })
}

/// Makes what an object needs, and enters it into the catalog; or neither.
///
/// A fill can take long, and the statement may be dropped meanwhile. So it runs in a task of its own, which the end
/// of the statement cancels; the task then takes back what it has begun before anyone else changes definitions.
pub async fn install(
    session: &mut Session,
    changing: Changing,
    entered: Entered,
    work: Work,
) -> Result<(), SqlError> {
    let database = session.database.clone();
    let cancelled = CancellationToken::new();
    let _cancel_at_end = cancelled.clone().drop_guard();
    let lock = match changing {
        Changing::Now(lock) => lock,
        Changing::InBlock => return install_in_block(session, entered, work, cancelled).await,
    };
    uninterrupted(async move {
        let _lock = lock;
        let Entered { catalog, replaced, .. } = &entered;
        if database.is_for_checks() {
            return database.put_catalog(catalog.clone()).await;
        }
        let id = RelationId(entered.object.oid);
        // Two sinks must not write to one place; the old one waits until its successor is there.
        hold_sinks(&database, replaced, true).await;
        let begun = begin(&database, &entered, work, &cancelled).await;
        if begun.is_err() {
            hold_sinks(&database, replaced, false).await;
        }
        begun?;
        let stopped = stop_replaced(&database, replaced).await;
        database.engine.deliver(id);
        stopped
    })
    .await
}

/// Makes what an object needs and lets the catalog name it; or neither.
async fn begin(
    database: &Database,
    entered: &Entered,
    work: Work,
    cancelled: &CancellationToken,
) -> Result<(), SqlError> {
    make(database, entered, work, cancelled).await?;
    if let Err(error) = database.put_catalog(entered.catalog.clone()).await {
        for object in new_sequences(entered).iter().chain([&entered.object]) {
            super::stop(database, object).await?;
        }
        return Err(error);
    }
    Ok(())
}

/// What is made in a block has no name before COMMIT.
async fn install_in_block(
    session: &mut Session,
    entered: Entered,
    work: Work,
    cancelled: CancellationToken,
) -> Result<(), SqlError> {
    let database = session.database.clone();
    let Some(definitions) = &mut session.block.definitions else {
        unreachable!("a block that changes definitions has them");
    };
    let catalog = entered.catalog.clone();
    definitions.claim(&catalog);
    let making = definitions.making().await;
    definitions.make(entered.object.clone());
    for sequence in new_sequences(&entered) {
        definitions.make(sequence);
    }
    uninterrupted(async move {
        let _making = making;
        make(&database, &entered, work, &cancelled).await
    })
    .await?;
    if let Some(definitions) = &mut session.block.definitions {
        definitions.set_catalog(catalog);
    }
    Ok(())
}

/// The sequences that come with a table.
fn new_sequences(entered: &Entered) -> Vec<Arc<Object>> {
    entered.catalog.owned(entered.object.oid).cloned().collect()
}

/// Makes what runs or holds rows; on return it is durable.
async fn make(
    database: &Database,
    entered: &Entered,
    work: Work,
    cancelled: &CancellationToken,
) -> Result<(), SqlError> {
    match work {
        Work::Source(spec) => database.engine.add_source(spec).await,
        Work::Table(spec, rows) => {
            for sequence in new_sequences(entered) {
                database.sequences.create(&database.engine, &sequence).await?;
            }
            match rows {
                Some(rows) => database.engine.create_filled_table(spec, rows).await?,
                None => database.engine.create_table(spec).await?,
            }
        }
        Work::Member(spec) => {
            let created = database.engine.create_member(*spec, cancelled).await;
            created.map_err(|error| engine_error(database, error))?;
            crash_point("create.filled");
        }
        Work::Sequence => database.sequences.create(&database.engine, &entered.object).await?,
    }
    Ok(())
}

/// Stops, or starts again, what sinks deliver to places that others are to write to.
pub async fn hold_sinks(database: &Database, objects: &[Arc<Object>], is_held: bool) {
    for sink in objects.iter().filter(|object| object.kind() == Kind::Sink) {
        database.engine.hold_sink(RelationId(sink.oid), is_held).await;
    }
}

/// Ends what runs for objects that are replaced.
async fn stop_replaced(database: &Database, replaced: &[Arc<Object>]) -> Result<(), SqlError> {
    for old in replaced {
        super::stop(database, old).await?;
    }
    Ok(())
}

fn columns(definitions: &[ColumnDef]) -> Vec<Column> {
    let column = |definition: &ColumnDef| {
        let field = definition.column_type.field(&definition.name, !definition.not_null);
        Column {
            default: definition.default.as_ref().map(|default| default.text.clone()),
            generated: definition.generated.as_ref().map(|generated| generated.text.clone()),
            identity: super::tables::identity(definition),
            ..Column::from(&field)
        }
    };
    definitions.iter().map(column).collect()
}

/// What options say about what is forgotten.
pub fn ttl(options: &WithOptions) -> Result<Ttl, SqlError> {
    tidemill_sql::upkeep::ttl(options.iter()).map_err(|error| {
        let is_wrong = |option: &&tidemill_sql::statements::WithOption| {
            tidemill_sql::upkeep::ttl([(option.key.as_str(), option.value.as_str())]).is_err()
        };
        let position = options.0.iter().find(is_wrong).map(|option| option.value_position);
        let error = SqlError::from(error);
        match position {
            Some(position) => error.with_position(position),
            None => error,
        }
    })
}

/// Refuses options that are not among `known`.
fn check_options(options: &WithOptions, known: &[&str]) -> Result<(), SqlError> {
    for option in &options.0 {
        if known.contains(&option.key.as_str()) || tidemill_sql::upkeep::is_ttl(&option.key) {
            continue;
        }
        let error = SqlError::new(
            SqlState::INVALID_PARAMETER,
            format!("unknown option \"{}\" of a pipeline", option.key),
        )
        .with_position(option.position);
        return Err(match did_you_mean(&option.key, known.iter().copied()) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => error.with_hint(format!("A pipeline takes: {}.", known.join(", "))),
        });
    }
    Ok(())
}

/// Gives columns the names of a column list.
fn rename(columns: &mut [Column], names: &[String], position: usize) -> Result<(), SqlError> {
    if names.len() > columns.len() {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("{} column names are given for {} columns", names.len(), columns.len()),
        )
        .with_position(position));
    }
    for (column, name) in columns.iter_mut().zip(names) {
        column.name = name.clone();
    }
    Ok(())
}

/// What a query reads must be the user's to read when it is to run from now on, all of its rows. It is not asked again: what runs, runs
/// with the rights of its owner, who had them.
pub fn require_rows(session: &Session, query: &Query, search_path: &[String]) -> Result<(), SqlError> {
    let catalog = session.catalog();
    for (role, oid) in &require_reads(session, query, search_path)?.reads {
        if let Some(object) = catalog.get(*oid) {
            policies::require_all_rows(&catalog, role, object)?;
        }
    }
    Ok(())
}

/// The same of a view, which shows the rows that its owner may see when it is read.
fn require_reads(session: &Session, query: &Query, search_path: &[String]) -> Result<References, SqlError> {
    let catalog = session.catalog();
    let mut references = References::default();
    references.add(&session.database, &catalog, query, &search_path.into(), session.user())?;
    privileges::require_reads(&catalog, &references.reads, None)?;
    Ok(references)
}

/// What a query reads directly, by OID.
fn dependencies(session: &Session, query: &Query, search_path: &[String]) -> Result<Vec<u32>, SqlError> {
    let catalog = session.catalog();
    let mut query = query.clone();
    tidemill_sql::rewrite_windows(&mut query)?;
    let statement = datafusion::sql::parser::Statement::Statement(Box::new(
        datafusion::sql::sqlparser::ast::Statement::Query(Box::new(query)),
    ));
    let references = session
        .database
        .planner
        .state()
        .resolve_table_references(&statement)
        .map_err(|error| session.database.plan_error(error, ""))?;
    let find = |reference: &datafusion::common::TableReference| {
        find(&catalog, reference.schema(), reference.table(), search_path).map(|object| object.oid)
    };
    Ok(references.iter().filter_map(find).collect())
}

/// A position in a query as one in the statement around it.
pub fn at_query(mut error: SqlError, sql: &str, query: &str) -> SqlError {
    if let (Some(position), Some(start)) = (error.position, sql.find(query)) {
        error.position = Some(position + sql[..start].chars().count());
    }
    // What follows the query is not part of its text.
    if error.position.is_none() && error.message.starts_with("EMIT ON ") {
        error.position = crate::database::position_of(sql, "emit");
    }
    if error.position.is_none() && error.message.starts_with("ttl.") {
        let option = error.message.split(' ').next().unwrap_or_default();
        error.position = crate::database::position_of(sql, option);
    }
    error
}

impl SqlError {
    /// A connector's error about a place in the statement.
    fn from_connector(error: tidemill_core::source::ConnectorError, position: usize) -> SqlError {
        SqlError::from(error).with_position(position)
    }
}
