//! The one database: what is defined and what runs, kept in step.
//!
//! A statement that changes definitions holds the definitions' lock all along. One that creates plans, starts what is to
//! run, and last of all writes the catalog; one that drops writes the catalog first, and then ends what runs and
//! removes its state. So what the catalog names has a checkpoint, and what a crash leaves without a name is garbage that
//! the next start removes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use crate::pgwire::text_format::PostgresText;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use tidemill_catalog::{
    Catalog, Definition, Index, Kind, Object, OptionValue, PipelineDefinition, SinkInput,
};
use tidemill_connectors::stand_in::StandIns;
use tidemill_connectors::{
    Encode, Format, IncludeColumn, IncludeKind, SinkSpec, SourceSpec as ConnectorSpec,
};
use tidemill_core::sink::OnError;
use tidemill_core::{ByteSize, SqlState, Upkeep, crash_point};
use tidemill_engine::{
    Engine, EngineConfig, IndexSpec, MemberSpec, RefusedMember, SourceColumn, SourceSpec, TableLock,
    TableSpec,
};
use tidemill_plan::{CloseSource, InputKind, PipelinePlan, Properties, RelationId};
use tidemill_sql::statements::index_column;
use tidemill_sql::{Planner, RelationNames};
use tidemill_storage::{Root, VersionedObject};
use tokio::sync::Mutex;

use crate::audit::Audit;
use crate::names::{PipelineNames, Scope};
use crate::secrets::SecretKeys;
use crate::sequences::Sequences;
use crate::session::advisory::AdvisoryLocks;
use crate::session::api::SqlError;
use crate::session::channels::Channels;

/// The least that a pipeline may ask for: with less, each step would go to disk.
const PIPELINE_MEMORY_MIN: u64 = 1 << 20;

/// The key of the mark that holds the version of the last catalog that was decided together with rows.
pub const DEFINED: i64 = 0;

/// The definitions, as a thing that is locked.
const DEFINITIONS: RelationId = RelationId(0);

/// Everything behind a data directory.
pub struct Database {
    root: Root,
    pub engine: Arc<Engine>,
    pub planner: Planner,
    catalog: RwLock<Arc<Catalog>>,
    store: Arc<Mutex<VersionedObject>>,
    /// What holds for the rows of pipelines.
    properties: RwLock<HashMap<u32, Properties>>,
    /// Whether sources end.
    bounded: RwLock<HashMap<u32, bool>>,
    definitions: Arc<Mutex<()>>,
    /// The catalog's file says two things, and only the next start will know which of them is so.
    is_undecided: AtomicBool,
    /// What clients have done.
    pub audit: Audit,
    pub channels: Channels,
    pub sequences: Arc<Sequences>,
    pub advisory: Arc<AdvisoryLocks>,
    secret_keys: SecretKeys,
    /// Nothing runs and nothing is kept: statements are only looked at.
    is_for_checks: bool,
    /// In a test, what sources read and sinks write instead of the outside.
    stand_ins: Option<Arc<StandIns>>,
    /// Of a database for checks, where its engine is.
    _scratch: Option<Scratch>,
}

/// A directory that is removed when it is not needed any more.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Database {
    /// Opens the catalog below a root, to check statements against it. Nothing there is changed.
    pub async fn open_for_checks(
        data: &Root,
        n_lanes: usize,
        config: EngineConfig,
    ) -> Result<Arc<Database>, SqlError> {
        let (_, content) = VersionedObject::open(data.child("catalog")).await?;
        let catalog = match content {
            Some(content) => Catalog::from_bytes(&content)?,
            None => Catalog::new(),
        };
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let scratch = std::env::temp_dir().join(format!("tidemill-check-{}-{nanos}", std::process::id()));
        let root = Root::local(&scratch)?;
        let (store, _) = VersionedObject::open(root.child("catalog")).await?;
        let database = Arc::new(Database {
            engine: Engine::open(root.clone(), config).await?,
            root,
            planner: Planner::with_text(n_lanes, Arc::new(PostgresText)),
            catalog: RwLock::new(Arc::new(catalog)),
            store: Arc::new(Mutex::new(store)),
            properties: RwLock::default(),
            bounded: RwLock::default(),
            definitions: Arc::default(),
            is_undecided: AtomicBool::new(false),
            audit: Audit::default(),
            channels: Channels::default(),
            sequences: Arc::default(),
            advisory: Arc::default(),
            secret_keys: SecretKeys::passing(),
            is_for_checks: true,
            stand_ins: None,
            _scratch: Some(Scratch(scratch)),
        });
        // Pipelines are planned, for what holds for their rows.
        for object in database.catalog().in_order() {
            if matches!(object.definition, Definition::Pipeline(_)) {
                database.member_spec(&object).await?;
            }
        }
        Ok(database)
    }

    /// Whether statements are only looked at.
    pub fn is_for_checks(&self) -> bool {
        self.is_for_checks
    }

    /// Opens a data directory, and starts what was running in it. Its secrets are nobody's: their key is in the code.
    pub async fn open(
        directory: &Path,
        n_lanes: usize,
        config: EngineConfig,
    ) -> Result<Arc<Database>, SqlError> {
        Database::open_with(Root::local(directory)?, n_lanes, config, SecretKeys::passing(), None).await
    }

    /// Opens what is durable below a root, and starts what was running there. No other server writes there any more.
    pub async fn open_root(
        root: Root,
        n_lanes: usize,
        config: EngineConfig,
        secret_keys: SecretKeys,
    ) -> Result<Arc<Database>, SqlError> {
        Database::open_with(root, n_lanes, config, secret_keys, None).await
    }

    /// The same for a test, where nobody is connected to.
    pub async fn open_for_tests(
        directory: &Path,
        n_lanes: usize,
        config: EngineConfig,
        stand_ins: Arc<StandIns>,
    ) -> Result<Arc<Database>, SqlError> {
        let root = Root::local(directory)?;
        Database::open_with(root, n_lanes, config, SecretKeys::passing(), Some(stand_ins)).await
    }

    async fn open_with(
        root: Root,
        n_lanes: usize,
        config: EngineConfig,
        secret_keys: SecretKeys,
        stand_ins: Option<Arc<StandIns>>,
    ) -> Result<Arc<Database>, SqlError> {
        root.claim().await?;
        let (mut store, content) = VersionedObject::take_over(root.child("catalog")).await?;
        let (mut catalog, unsettled) = match content {
            Some(content) => Catalog::from_unsettled_bytes(&content)?,
            None => {
                refuse_nameless(&root).await?;
                let catalog = Catalog::new();
                store.put(catalog.to_bytes().into()).await?;
                (catalog, None)
            }
        };
        let engine = Engine::open(root.clone(), config).await?;
        if let Some(unsettled) = unsettled {
            let is_decided = match unsettled.before.replaced_by(&catalog) {
                // A pipeline that changed under its readers did so if its checkpoint says so.
                Some(pipeline) => {
                    let (id, state) = (RelationId(pipeline.oid), RelationId(pipeline.state()));
                    engine.has_replaced(id, state).await?
                }
                // The rows that came with it are there if their mark is.
                None => engine.marks().await?.get(&DEFINED) == Some(&(catalog.version() as i64)),
            };
            if !is_decided {
                catalog = unsettled.before.skip_oids(&catalog);
            }
            store.put(catalog.to_bytes().into()).await?;
        }
        if let Some(renewed) = secret_keys.renew(&catalog)? {
            tracing::info!("secrets are encrypted with another key from now on");
            catalog = renewed;
            store.put(catalog.to_bytes().into()).await?;
        }
        let database = Arc::new(Database {
            root,
            engine: engine.clone(),
            planner: Planner::with_text(n_lanes, Arc::new(PostgresText)),
            catalog: RwLock::new(Arc::new(catalog)),
            store: Arc::new(Mutex::new(store)),
            properties: RwLock::default(),
            bounded: RwLock::default(),
            definitions: Arc::default(),
            is_undecided: AtomicBool::new(false),
            audit: Audit::default(),
            channels: Channels::default(),
            sequences: Arc::default(),
            advisory: Arc::default(),
            secret_keys,
            is_for_checks: false,
            stand_ins,
            _scratch: None,
        });
        database.sequences.recover(&database.engine, &database.catalog()).await?;
        database.start().await?;
        tokio::spawn(engine.maintain());
        Ok(database)
    }

    /// Waits until another server has the data, which in a local directory never happens; gives the error to end with.
    pub async fn lost(&self) -> SqlError {
        self.root.lost().await.into()
    }

    /// Tells the engine of everything that is defined.
    async fn start(&self) -> Result<(), SqlError> {
        let catalog = self.catalog();
        let tables = catalog.objects_of(Kind::Table).map(|table| RelationId(table.oid));
        self.engine.remove_other_tables(&tables.collect()).await?;
        let (mut members, mut refused) = (Vec::new(), Vec::new());
        for object in &catalog.in_order() {
            let started = match &object.definition {
                Definition::Table(_) => match self.engine.add_table(table_spec(object)).await {
                    // The store does not answer, which says nothing of the table.
                    Err(error) if error.is_unanswered() && self.root.directory().is_none() => {
                        return Err(error.into());
                    }
                    outcome => outcome.map_err(SqlError::from),
                },
                Definition::Source(_) => match self.source_spec(&catalog, object) {
                    Ok(spec) => {
                        self.engine.add_source(spec).await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Definition::View(_) | Definition::Sequence(_) | Definition::Secret(_) => Ok(()),
                Definition::Pipeline(_) | Definition::Sink(_) => match self.member_spec(object).await {
                    Ok(spec) => {
                        members.push(spec);
                        Ok(())
                    }
                    Err(error) => {
                        refused.push(RefusedMember {
                            id: RelationId(object.oid),
                            state: RelationId(object.state()),
                            name: object.name.as_str().into(),
                            schema: object.arrow_schema(),
                            reason: error.message.clone(),
                        });
                        Err(error)
                    }
                },
            };
            // One bad object must not keep the others from running.
            if let Err(error) = started {
                tracing::error!(object = object.full_name(), %error, "cannot be started");
            }
        }
        Ok(self.engine.recover(members, refused).await?)
    }

    /// What is defined now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().expect("nobody panics while holding the catalog").clone()
    }

    /// Lets one statement, or transaction, change definitions. It may hold locks of tables under the same name.
    pub async fn change_definitions_as(&self, owner: u64) -> Result<TableLock, SqlError> {
        let lock = self.definitions.clone();
        let lock = self.engine.lock_other(owner, DEFINITIONS, "definitions", lock).await?;
        match self.is_undecided.load(Ordering::Acquire) {
            false => Ok(lock),
            // Another catalog would say what nobody knows.
            true => Err(SqlError::new(SqlState::IO_ERROR, "definitions cannot be changed before the next start")
                .with_detail("Whether a pipeline has been changed is not known: its checkpoint could be neither written nor read.")
                .with_hint("See the server's log, and start it again once its data can be read.")),
        }
    }

    /// Nothing may be defined any more: what was put last counts or does not, which the next start will know.
    pub fn leave_undecided(&self) {
        self.is_undecided.store(true, Ordering::Release);
    }

    /// Makes a changed catalog the one that counts, whether its statement waits for that or not.
    pub async fn commit(self: &Arc<Database>, changing: TableLock, catalog: Catalog) -> Result<(), SqlError> {
        let database = self.clone();
        uninterrupted(async move {
            let _changing = changing;
            database.put_catalog(catalog).await
        })
        .await
    }

    /// Makes a changed catalog the one that counts. Under [`change_definitions_as`](Database::change_definitions_as),
    /// and where nobody drops it half way.
    pub async fn put_catalog(&self, catalog: Catalog) -> Result<(), SqlError> {
        if !self.is_for_checks {
            self.store.lock().await.put_surely(catalog.to_bytes().into()).await?;
            crash_point("catalog.written");
        }
        self.count_from_now(Arc::new(catalog)).await;
        Ok(())
    }

    /// Names are the catalog's; what runs goes by them.
    async fn count_from_now(&self, catalog: Arc<Catalog>) {
        let before = {
            let mut current = self.catalog.write().expect("nobody panics while holding the catalog");
            std::mem::replace(&mut *current, catalog.clone())
        };
        let has_other_name =
            |object: &&Arc<Object>| before.get(object.oid).is_some_and(|known| known.name != object.name);
        for renamed in catalog.objects().filter(has_other_name) {
            self.engine.rename(RelationId(renamed.oid), &renamed.name).await;
        }
    }

    /// Writes a catalog that counts once what is decided next has been, with the one that counts until then.
    pub async fn put_unsettled(&self, catalog: &Catalog, before: &Catalog) -> Result<(), SqlError> {
        if !self.is_for_checks {
            self.store.lock().await.put(catalog.to_unsettled_bytes(before).into()).await?;
            crash_point("definitions.unsettled");
        }
        Ok(())
    }

    /// Makes the catalog that was decided on the one that counts. The file says so already, so to write it plainly
    /// may fail.
    pub async fn settle(&self, catalog: Arc<Catalog>) {
        self.count_from_now(catalog.clone()).await;
        if let Err(error) = self.store.lock().await.put(catalog.to_bytes().into()).await {
            tracing::warn!(%error, "the catalog is settled, but its file could not be written anew");
        }
    }

    /// Leaves out OIDs that have been given to what did not come to be.
    pub fn skip_oids(&self, given: &Catalog) {
        let mut catalog = self.catalog.write().expect("nobody panics while holding the catalog");
        *catalog = Arc::new(catalog.skip_oids(given));
    }

    /// The names that a hint may suggest.
    pub fn relation_names(&self) -> RelationNames {
        RelationNames(self.catalog().relation_names())
    }

    /// What holds for the rows of a relation.
    pub fn properties(&self, object: &Object) -> Properties {
        let id = RelationId(object.oid);
        let n_columns = object.columns.len();
        let unique_keys = match object.primary_key.is_empty() {
            true => Vec::new(),
            false => vec![object.primary_key.clone()],
        };
        match &object.definition {
            Definition::Source(source) => {
                let mut closes = vec![Vec::new(); n_columns];
                if let Some(watermark) = &source.watermark
                    && let Some(column) = object.column_idx(&watermark.column)
                {
                    // A watermark says that no later row is below it, so a value is complete one unit above.
                    closes[column].push(CloseSource { relation: id, delay: 1 });
                }
                let is_append_only = input_kind(object) == InputKind::Append;
                Properties { is_append_only, unique_keys, closes }
            }
            Definition::Pipeline(_) => {
                let properties = self.properties.read().expect("nobody panics while holding it");
                properties.get(&object.oid).cloned().unwrap_or_else(|| never(n_columns))
            }
            _ => Properties { unique_keys, ..never(n_columns) },
        }
    }

    /// Remembers what holds for the rows of a pipeline.
    pub fn set_properties(&self, oid: u32, properties: Properties) {
        self.properties.write().expect("nobody panics while holding it").insert(oid, properties);
    }

    /// Whether what is kept of a relation does not grow by itself: a table, a source that ends, or what is
    /// made of such.
    pub fn is_finite(&self, catalog: &Catalog, object: &Object) -> bool {
        match &object.definition {
            Definition::Table(_) => true,
            Definition::Source(_) => {
                let known =
                    self.bounded.read().expect("nobody panics while holding it").get(&object.oid).copied();
                known.unwrap_or_else(|| {
                    self.source_spec(catalog, object).is_ok_and(|spec| spec.source.is_bounded())
                })
            }
            _ => {
                let is_finite =
                    |oid: &u32| catalog.get(*oid).is_some_and(|object| self.is_finite(catalog, object));
                object.dependencies.iter().all(is_finite)
            }
        }
    }

    /// The keys of `CREATE SECRET`.
    pub fn secret_keys(&self) -> &SecretKeys {
        &self.secret_keys
    }

    /// Options as a connector is to see them. Where statements are only looked at, secrets are not opened.
    pub fn resolved(
        &self,
        catalog: &Catalog,
        options: &[(String, OptionValue)],
    ) -> Result<BTreeMap<String, String>, SqlError> {
        match self.is_for_checks {
            true => Ok(options
                .iter()
                .map(|(key, value)| (key.clone(), value.text().unwrap_or("secret").into()))
                .collect()),
            false => self.secret_keys.resolved(catalog, options),
        }
    }

    /// An error about options, without what these were given as secrets.
    pub fn without_secrets<'a>(
        &self,
        catalog: &Catalog,
        options: impl IntoIterator<Item = &'a (String, OptionValue)>,
        mut error: SqlError,
    ) -> SqlError {
        let secret: Vec<_> =
            options.into_iter().filter(|(_, value)| value.text().is_none()).cloned().collect();
        for value in self.resolved(catalog, &secret).unwrap_or_default().values() {
            let hide = |text: &mut String| *text = text.replace(value.as_str(), "[redacted]");
            hide(&mut error.message);
            error.detail.iter_mut().chain(&mut error.hint).for_each(hide);
        }
        error
    }

    /// How the engine is to read a source that is in a catalog, or is about to be.
    pub fn source_spec(&self, catalog: &Catalog, object: &Object) -> Result<SourceSpec, SqlError> {
        let definition = &object.definition;
        let options = || definition.options().iter().chain(definition.encode_options());
        self.declared_source(catalog, object).map_err(|error| self.without_secrets(catalog, options(), error))
    }

    fn declared_source(&self, catalog: &Catalog, object: &Object) -> Result<SourceSpec, SqlError> {
        let Definition::Source(definition) = &object.definition else {
            unreachable!("only sources are asked for");
        };
        let mut read = Vec::new();
        let mut columns: Vec<Option<usize>> = Vec::new();
        for column in &object.columns {
            columns.push(match column.generated {
                Some(_) => None,
                None => {
                    read.push(column.field());
                    Some(read.len() - 1)
                }
            });
        }
        let read_schema: SchemaRef = Arc::new(Schema::new(read));
        let mut options = self.resolved(catalog, &definition.options)?;
        let idle_timeout = tidemill_connectors::take_duration(&mut options, "idle_timeout")?;
        let rate_limit = take_rate_limit(&mut options)?;
        if idle_timeout.is_some() && definition.watermark.is_none() {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER,
                "option \"idle_timeout\" needs a watermark".to_owned(),
            )
            .with_hint("Add WATERMARK FOR column AS column - INTERVAL '5 seconds' to the column list."));
        }
        let encode_options = self.resolved(catalog, &definition.encode_options)?;
        let include: Vec<IncludeColumn> = definition
            .include
            .iter()
            .map(|include| {
                let kind = match (include.kind.as_str(), &include.header) {
                    ("header", header) => IncludeKind::Header(header.clone()),
                    (kind, _) => kind.parse().map_err(SqlError::from)?,
                };
                let column_idx = read_schema
                    .index_of(&include.column)
                    .map_err(|error| SqlError::new(SqlState::INTERNAL_ERROR, error.to_string()))?;
                Ok(IncludeColumn { kind, column_idx })
            })
            .collect::<Result<_, SqlError>>()?;
        let primary_key: Vec<usize> =
            object.primary_key.iter().filter_map(|column| columns[*column]).collect();
        let declared = ConnectorSpec {
            name: &object.name,
            schema: read_schema.clone(),
            include: &include,
            primary_key: &primary_key,
            options: &options,
            format: format(&definition.format)?,
            encode: encode(&definition.encode)?,
            encode_options: &encode_options,
        };
        let (source, rate_limit) = match &self.stand_ins {
            None => (tidemill_connectors::create_source(&declared)?, rate_limit),
            // What was given is read at once: a test waits for nothing.
            Some(stand_ins) => (stand_ins.source(object.oid, &declared)?, None),
        };
        let is_bounded = source.is_bounded();
        self.bounded.write().expect("nobody panics while holding it").insert(object.oid, is_bounded);
        let read_columns =
            DFSchema::try_from(read_schema.as_ref().clone()).map_err(|e| self.plan_error(e, ""))?;
        let schema = object.arrow_schema();
        let mut source_columns = Vec::new();
        for (column, position) in object.columns.iter().zip(&columns) {
            source_columns.push(match (&column.generated, position) {
                (Some(text), _) => {
                    let expr = self.expr(text, &read_columns, Some(&column.field()))?;
                    SourceColumn::Generated(expr)
                }
                (None, Some(position)) => SourceColumn::Read(*position),
                (None, None) => unreachable!("a column is read or generated"),
            });
        }
        let watermark = match &definition.watermark {
            Some(watermark) => {
                let all = DFSchema::try_from(schema.as_ref().clone()).map_err(|e| self.plan_error(e, ""))?;
                Some(self.expr(&watermark.expr, &all, None)?)
            }
            None => None,
        };
        Ok(SourceSpec {
            id: RelationId(object.oid),
            name: object.name.as_str().into(),
            source,
            schema,
            columns: source_columns,
            watermark,
            idle_timeout,
            kind: input_kind(object),
            primary_key: object.primary_key.clone(),
            rate_limit,
            paused: object.paused,
        })
    }

    /// An expression over the columns of a schema, as it is evaluated; cast to a column's type.
    fn expr(
        &self,
        text: &str,
        schema: &DFSchema,
        to: Option<&Field>,
    ) -> Result<Arc<dyn PhysicalExpr>, SqlError> {
        let parsed = tidemill_sql::parser::parse_expr(text)?;
        let expr = self.planner.plan_expr(&parsed, schema).map_err(|error| self.plan_error(error, text))?;
        let expr = match to {
            Some(field) => datafusion::logical_expr::cast(expr, field.data_type().clone()),
            None => expr,
        };
        create_physical_expr(&expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
            .map_err(|error| self.plan_error(error, text))
    }

    /// A planning error as a client is to see it.
    pub fn plan_error(&self, error: datafusion::error::DataFusionError, sql: &str) -> SqlError {
        tidemill_sql::Error::from_datafusion(error, sql, &self.relation_names()).into()
    }

    /// A rewriting error as a client is to see it.
    pub fn delta_error(&self, error: tidemill_sql::DeltaError, sql: &str) -> SqlError {
        match error {
            tidemill_sql::DeltaError::DataFusion(error) => self.plan_error(error, sql),
            tidemill_sql::DeltaError::Refused(refusal) => {
                let position = refusal.near.as_deref().and_then(|word| position_of(sql, word));
                let error = SqlError::from(refusal);
                match position {
                    Some(position) => error.with_position(position),
                    None => error,
                }
            }
        }
    }

    /// The plan of a pipeline's or sink's query.
    pub async fn pipeline_plan(
        &self,
        query: &str,
        scope: Scope<'_>,
        upkeep: &Upkeep,
    ) -> Result<PipelinePlan, SqlError> {
        self.pipeline_plan_in(self.catalog(), query, scope, upkeep).await
    }

    /// The plan of a pipeline's or sink's query over what a catalog names.
    pub async fn pipeline_plan_in(
        &self,
        catalog: Arc<Catalog>,
        query: &str,
        scope: Scope<'_>,
        upkeep: &Upkeep,
    ) -> Result<PipelinePlan, SqlError> {
        let parsed = tidemill_sql::parser::parse_query(query)?;
        if let Some(name) = crate::pg_catalog::effect_in(&parsed) {
            let message =
                format!("{name}() does something each time, so a pipeline over it has no one answer");
            let error = SqlError::new(SqlState::INVALID_OBJECT_DEFINITION, message)
                .with_hint("Compute it where the rows come from, or in the SELECT that reads the pipeline.");
            return Err(match position_of(query, &name) {
                Some(position) => error.with_position(position),
                None => error,
            });
        }
        let names = PipelineNames { database: self, catalog, scope };
        self.planner
            .plan_pipeline(&parsed, &names, upkeep)
            .await
            .map_err(|error| self.delta_error(error, query))
    }

    /// What the engine is to run for a pipeline or a sink that is defined.
    pub async fn member_spec(&self, object: &Object) -> Result<MemberSpec, SqlError> {
        match &object.definition {
            Definition::Pipeline(pipeline) => {
                let upkeep = pipeline_upkeep(pipeline)?;
                let mut plan = self.pipeline_plan(&pipeline.query, Scope::of(object), &upkeep).await?;
                plan.schema = object.arrow_schema();
                self.pipeline_spec(object, plan)
            }
            Definition::Sink(sink) => {
                let (query, upkeep) = sink_query(&self.catalog(), &sink.input)?;
                let plan = self.pipeline_plan(&query, Scope::of(object), &upkeep).await?;
                self.sink_spec(&self.catalog(), object, plan)
            }
            _ => unreachable!("only pipelines and sinks run a plan"),
        }
    }

    /// What is wrong with a sink's options.
    pub async fn check_sink(&self, catalog: &Catalog, object: &Object) -> Result<(), SqlError> {
        let Definition::Sink(sink) = &object.definition else { return Ok(()) };
        let (query, upkeep) = sink_query(catalog, &sink.input)?;
        let plan = self.pipeline_plan(&query, Scope::of(object), &upkeep).await?;
        self.sink_spec(catalog, object, plan).map(drop)
    }

    /// How a pipeline or sink is kept, given what holds for the rows that it reads; and what holds for its own.
    pub async fn plan_text(&self, object: &Object) -> Result<String, SqlError> {
        let plan = self.member_spec(object).await?.plan;
        Ok(format!("{}\n{:?}", plan.delta_plan.display_indent(), plan.properties))
    }

    pub fn pipeline_spec(&self, object: &Object, plan: PipelinePlan) -> Result<MemberSpec, SqlError> {
        let memory_limit = memory_limit(object)?;
        self.set_properties(object.oid, plan.properties.clone());
        Ok(MemberSpec {
            id: RelationId(object.oid),
            state: RelationId(object.state()),
            name: object.name.as_str().into(),
            plan,
            session: self.planner.state().clone(),
            sink: None,
            on_error: OnError::default(),
            memory_limit,
            paused: object.paused,
            indexes: index_specs(object),
        })
    }

    pub fn sink_spec(
        &self,
        catalog: &Catalog,
        object: &Object,
        plan: PipelinePlan,
    ) -> Result<MemberSpec, SqlError> {
        let definition = &object.definition;
        let options = || definition.options().iter().chain(definition.encode_options());
        self.declared_sink(catalog, object, plan)
            .map_err(|error| self.without_secrets(catalog, options(), error))
    }

    fn declared_sink(
        &self,
        catalog: &Catalog,
        object: &Object,
        plan: PipelinePlan,
    ) -> Result<MemberSpec, SqlError> {
        let Definition::Sink(definition) = &object.definition else {
            unreachable!("only sinks are asked for");
        };
        let mut options = self.resolved(catalog, &definition.options)?;
        let memory_limit = take_memory_limit(&mut options)?;
        let on_error = take_on_error(&mut options)?;
        let encode_options = self.resolved(catalog, &definition.encode_options)?;
        let primary_key = sink_key(object, &plan, &options)?;
        let id = format!("{}-{:x}", object.oid, object.created_at);
        let declared = SinkSpec {
            name: &object.name,
            id: &id,
            schema: plan.schema.clone(),
            primary_key: &primary_key,
            append_only: plan.properties.is_append_only,
            options: &options,
            format: format(&definition.format)?,
            encode: encode(&definition.encode)?,
            encode_options: &encode_options,
        };
        let sink = match &self.stand_ins {
            None => tidemill_connectors::create_sink(&declared)?,
            Some(stand_ins) => stand_ins.sink(object.oid, &declared)?,
        };
        if on_error == OnError::DeadLetter && !sink.can_leave_out() {
            let connector = options.get("connector").map(String::as_str).unwrap_or_default();
            let message = format!(
                "connector \"{connector}\" cannot tell which rows its destination refuses, as option \"on_error\" wants"
            );
            return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(
                "on_error = 'pause' stops at such an error, 'retry' tries again until it is mended.",
            ));
        }
        Ok(MemberSpec {
            id: RelationId(object.oid),
            state: RelationId(object.state()),
            name: object.name.as_str().into(),
            plan,
            session: self.planner.state().clone(),
            sink: Some(sink),
            on_error,
            memory_limit,
            paused: object.paused,
            indexes: Vec::new(),
        })
    }
}

/// The query whose changes a sink writes, and how its result is kept.
pub fn sink_query(catalog: &Catalog, input: &SinkInput) -> Result<(String, Upkeep), SqlError> {
    match input {
        SinkInput::Query { query, emit } => Ok((query.clone(), Upkeep::from(*emit))),
        SinkInput::From { oid } => {
            let Some(object) = catalog.get(*oid) else {
                return Err(SqlError::new(SqlState::UNDEFINED_TABLE, "the sink's relation does not exist"));
            };
            let quote = tidemill_sql::parser::quote;
            let query = format!("SELECT * FROM {}.{}", quote(&object.schema), quote(&object.name));
            Ok((query, Upkeep::default()))
        }
    }
}

/// State without a catalog that names it is no garbage: the catalog is what is missing.
async fn refuse_nameless(root: &Root) -> Result<(), SqlError> {
    for part in ["dataflows", "tables"] {
        if !root.child(part).list().await?.is_empty() {
            return Err(
                tidemill_storage::Error::Missing { what: "the catalog", root: root.display("") }.into()
            );
        }
    }
    Ok(())
}

/// The memory that the state of a pipeline or sink may take, if it says.
pub fn memory_limit(object: &Object) -> Result<Option<usize>, SqlError> {
    let text =
        object.definition.option("memory_limit").map(|text| ("memory_limit".to_owned(), text.to_owned()));
    take_memory_limit(&mut text.into_iter().collect())
}

/// What a sink does about errors, if it says.
pub fn on_error(object: &Object) -> Result<OnError, SqlError> {
    let text = object.definition.option("on_error").map(|text| ("on_error".to_owned(), text.to_owned()));
    take_on_error(&mut text.into_iter().collect())
}

/// How many rows a second of a source are read at most, if it says.
pub fn take_rate_limit(options: &mut BTreeMap<String, String>) -> Result<Option<u64>, SqlError> {
    let Some(text) = options.remove("rate_limit") else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(limit) if limit > 0 => Ok(Some(limit)),
        _ => Err(SqlError::new(
            SqlState::INVALID_PARAMETER,
            format!("option \"rate_limit\" is \"{text}\", but must be a number of rows a second, at least 1"),
        )),
    }
}

fn take_memory_limit(options: &mut BTreeMap<String, String>) -> Result<Option<usize>, SqlError> {
    let Some(text) = options.remove("memory_limit") else { return Ok(None) };
    match text.parse::<ByteSize>() {
        Ok(size) if size.0 >= PIPELINE_MEMORY_MIN => Ok(Some(size.0 as usize)),
        Ok(_) => Err(SqlError::new(
            SqlState::INVALID_PARAMETER,
            format!(
                "option \"memory_limit\" is \"{text}\", but must be at least {}",
                ByteSize(PIPELINE_MEMORY_MIN)
            ),
        )),
        Err(_) => Err(SqlError::new(
            SqlState::INVALID_PARAMETER,
            format!("option \"memory_limit\" is \"{text}\", but must be a size, such as 256MB or 1GB"),
        )),
    }
}

/// What a sink does about errors that trying again does not mend.
fn take_on_error(options: &mut BTreeMap<String, String>) -> Result<OnError, SqlError> {
    let Some(text) = options.remove("on_error") else { return Ok(OnError::default()) };
    OnError::from_name(&text).ok_or_else(|| {
        let message =
            format!("option \"on_error\" is \"{text}\", but must be one of {}", OnError::NAMES.join(", "));
        let error = SqlError::new(SqlState::INVALID_PARAMETER, message);
        match tidemill_core::did_you_mean(&text, OnError::NAMES) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => error,
        }
    })
}

/// The key that a sink writes rows under: the one that was asked for, or one that the plan has.
fn sink_key(
    object: &Object,
    plan: &PipelinePlan,
    options: &BTreeMap<String, String>,
) -> Result<Vec<usize>, SqlError> {
    if let Some(asked) = options.get("primary_key") {
        let find = |name: &str| {
            let name = name.trim();
            plan.schema.index_of(name).map_err(|_| {
                let near =
                    tidemill_core::did_you_mean(name, plan.schema.fields().iter().map(|f| f.name().as_str()));
                let error = SqlError::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!(
                        "column \"{name}\" named in primary_key of sink \"{}\" does not exist",
                        object.name
                    ),
                );
                match near {
                    Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                    None => error,
                }
            })
        };
        let asked: Vec<usize> = asked.split(',').map(find).collect::<Result<_, _>>()?;
        check_sink_key(object, plan, &asked)?;
        return Ok(asked);
    }
    Ok(plan.properties.unique_keys.iter().min_by_key(|key| key.len()).cloned().unwrap_or_default())
}

/// Refuses a key under which rows that are different would replace each other.
fn check_sink_key(object: &Object, plan: &PipelinePlan, asked: &[usize]) -> Result<(), SqlError> {
    let unique_keys = &plan.properties.unique_keys;
    let is_valid = |key: &Vec<usize>| key.iter().all(|column| asked.contains(column));
    // Of insertions alone the last one of a key may well be what is wanted.
    if plan.properties.is_append_only || unique_keys.is_empty() || unique_keys.iter().any(is_valid) {
        return Ok(());
    }
    let names = |key: &[usize]| {
        let names: Vec<&str> = key.iter().map(|column| plan.schema.field(*column).name().as_str()).collect();
        format!("({})", names.join(", "))
    };
    let valid: Vec<String> = unique_keys.iter().map(|key| names(key)).collect();
    Err(SqlError::new(
        SqlState::INVALID_TABLE_DEFINITION,
        format!("the rows of sink \"{}\" are not unique by primary_key {}", object.name, names(asked)),
    )
    .with_detail(format!("Valid keys are {}.", valid.join(", ")))
    .with_hint("Leave primary_key out to use a valid one, or group the query by the key that is wanted."))
}

fn never(n_columns: usize) -> Properties {
    Properties { is_append_only: false, unique_keys: Vec::new(), closes: vec![Vec::new(); n_columns] }
}

/// What the weight of a relation's rows means.
pub fn input_kind(object: &Object) -> InputKind {
    match &object.definition {
        Definition::Source(source) => {
            let format = source.format.as_deref().unwrap_or("PLAIN");
            match (object.primary_key.is_empty(), format) {
                (false, _) => InputKind::Upsert,
                (true, "DEBEZIUM") => InputKind::Delta,
                (true, _) => InputKind::Append,
            }
        }
        _ => InputKind::Delta,
    }
}

/// How a pipeline's result is kept.
pub fn pipeline_upkeep(pipeline: &PipelineDefinition) -> Result<Upkeep, SqlError> {
    let options = pipeline.options.iter().filter_map(|(key, value)| Some((key.as_str(), value.text()?)));
    Ok(Upkeep { emit: pipeline.emit, ttl: tidemill_sql::upkeep::ttl(options)? })
}

pub fn table_spec(object: &Object) -> TableSpec {
    TableSpec {
        id: RelationId(object.oid),
        name: object.name.as_str().into(),
        schema: object.arrow_schema(),
        primary_key: object.primary_key.clone(),
        indexes: index_specs(object),
    }
}

/// The indexes of a table or pipeline that are more than a name.
pub fn index_specs(object: &Object) -> Vec<IndexSpec> {
    let spec = |index: &Index| {
        let columns = indexed_columns(object, &index.keys)?;
        Some(IndexSpec { id: RelationId(index.oid), name: index.name.clone(), columns })
    };
    object.indexes.iter().filter_map(spec).collect()
}

/// The columns in whose order an index with these keys has its rows. None where a key is an expression, or where no
/// value of the first column can be looked up.
pub fn indexed_columns(object: &Object, keys: &[String]) -> Option<Vec<usize>> {
    let mut columns: Vec<usize> = Vec::new();
    for key in keys {
        let column = object.column_idx(&index_column(key)?)?;
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let first = object.columns.get(*columns.first()?)?;
    tidemill_engine::is_looked_up(&first.data_type).then_some(columns)
}

pub fn format(word: &Option<String>) -> Result<Format, SqlError> {
    Ok(word.as_deref().unwrap_or("PLAIN").parse()?)
}

pub fn encode(word: &Option<String>) -> Result<Encode, SqlError> {
    match word {
        Some(word) => Ok(word.parse()?),
        None => Ok(Encode::Native),
    }
}

/// Where a word stands in a statement, in characters from 1.
pub fn position_of(sql: &str, word: &str) -> Option<usize> {
    let lower = sql.to_lowercase();
    let word = word.to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    lower.match_indices(&word).find_map(|(at, _)| {
        let before = lower[..at].chars().next_back();
        let after = lower[at + word.len()..].chars().next();
        let is_word = !before.is_some_and(is_part) && !after.is_some_and(is_part);
        is_word.then(|| lower[..at].chars().count() + 1)
    })
}

/// Runs what must not stop half way. A statement may be dropped at any time: it is cancelled, its time is up, its
/// client has gone; then this goes on.
pub async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = Result<T, SqlError>> + Send + 'static,
) -> Result<T, SqlError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(SqlError::new(SqlState::INTERNAL_ERROR, format!("a change broke off: {error}")))
    })
}
