//! What names in queries stand for: in a pipeline, relations that change; in a SELECT, snapshots.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::Query;
use tidemill_catalog::{Catalog, Definition, Object};
use tidemill_core::{Diagnostic, SqlState};
use tidemill_engine::dead_letters::DEAD_LETTERS;
use tidemill_engine::{ViewSnapshot, ViewTable};
use tidemill_plan::RelationId;
use tidemill_sql::{Names, Refusal, Relation, RelationTable, Resolved, Versions};

use crate::database::{Database, input_kind};
use crate::pg_catalog::PgCatalog;
use crate::policies::Policies;
use crate::privileges::Reads;
use crate::sequences::Sequences;
use crate::session::api::SqlError;

/// What `name` is in the catalog, if it is in there.
pub fn find(
    catalog: &Catalog,
    schema: Option<&str>,
    name: &str,
    search_path: &[String],
) -> Option<Arc<Object>> {
    match schema {
        Some(schema) => catalog.find(schema, name).cloned(),
        None => search_path.iter().find_map(|schema| catalog.find(schema, name).cloned()),
    }
}

/// Where names without a schema are looked for.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    search_path: Cow<'a, [String]>,
    /// What a query that is stored was found to read when it was made: what has been given such a name since, in a schema that
    /// comes first, is not meant.
    bound: Cow<'a, [u32]>,
}

impl<'a> Scope<'a> {
    /// That of the query of a pipeline, a view or a sink.
    pub fn of(object: &'a Object) -> Scope<'a> {
        Scope { search_path: (&object.search_path).into(), bound: (&object.dependencies).into() }
    }

    /// What `name` is in the catalog, if it is in there.
    pub fn find(&self, catalog: &Catalog, schema: Option<&str>, name: &str) -> Option<Arc<Object>> {
        if schema.is_none() {
            let is_bound = |object: &&Arc<Object>| self.bound.contains(&object.oid);
            let mut found = self.search_path.iter().filter_map(|schema| catalog.find(schema, name));
            if let Some(object) = found.find(is_bound) {
                return Some(object.clone());
            }
        }
        find(catalog, schema, name, &self.search_path)
    }

    pub fn into_owned(self) -> Scope<'static> {
        Scope { search_path: self.search_path.into_owned().into(), bound: self.bound.into_owned().into() }
    }
}

impl<'a> From<&'a Vec<String>> for Scope<'a> {
    fn from(search_path: &'a Vec<String>) -> Scope<'a> {
        Scope::from(&search_path[..])
    }
}

impl<'a> From<&'a [String]> for Scope<'a> {
    fn from(search_path: &'a [String]) -> Scope<'a> {
        Scope { search_path: search_path.into(), bound: Cow::Borrowed(&[]) }
    }
}

/// Names in the query of a pipeline.
pub struct PipelineNames<'a> {
    pub database: &'a Database,
    pub catalog: Arc<Catalog>,
    pub scope: Scope<'a>,
}

impl Names for PipelineNames<'_> {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Result<Option<Resolved>, Refusal> {
        let Some(object) = self.scope.find(&self.catalog, schema, name) else {
            let is_system = crate::system::is_system_relation(name);
            if is_system {
                return Err(Refusal::not_incremental(format!("the system relation \"{name}\"")).near(name));
            }
            return Ok(None);
        };
        if let Definition::View(view) = &object.definition {
            return view_query(view.query.as_str()).map(Some);
        }
        if let Definition::Sink(_) | Definition::Secret(_) = &object.definition {
            return Err(is_not_read(&object));
        }
        if let Definition::Sequence(_) = &object.definition {
            return Err(Refusal::not_incremental(format!("the sequence \"{}\"", object.name)).near(name));
        }
        let relation = Relation {
            id: RelationId(object.oid),
            name: object.name.clone(),
            schema: object.arrow_schema(),
            kind: match input_kind(&object) {
                _ if self.database.properties(&object).is_append_only => tidemill_plan::InputKind::Append,
                kind => kind,
            },
            primary_key: object.primary_key.clone(),
            properties: self.database.properties(&object),
            is_finite: self.database.is_finite(&self.catalog, &object),
        };
        Ok(Some(Resolved::Table(Arc::new(RelationTable { relation }))))
    }

    fn within(&self, schema: Option<&str>, name: &str) -> Option<Box<dyn Names + '_>> {
        let view = self.scope.find(&self.catalog, schema, name)?;
        let scope = Scope::of(&view).into_owned();
        Some(Box::new(PipelineNames { scope, catalog: self.catalog.clone(), ..*self }))
    }

    fn versions(&self, schema: Option<&str>, name: &str) -> Option<Versions> {
        versions(&self.catalog, schema, name, &self.scope)
    }
}

/// What a relation is as one of versions, in a pipeline as in a SELECT.
pub fn versions(catalog: &Catalog, schema: Option<&str>, name: &str, scope: &Scope<'_>) -> Option<Versions> {
    let object = scope.find(catalog, schema, name)?;
    let watermark = match &object.definition {
        Definition::Source(source) => source.watermark.as_ref().map(|watermark| watermark.column.clone()),
        _ => None,
    };
    let relation = object.arrow_schema();
    let is_time = |field: &&Arc<Field>| {
        matches!(field.data_type(), DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64)
    };
    let times = match watermark {
        Some(column) => vec![column],
        None => relation.fields().iter().filter(is_time).map(|field| field.name().clone()).collect(),
    };
    let primary_key = object.primary_key.iter().map(|idx| object.columns[*idx].name.clone()).collect();
    Some(Versions { times, primary_key })
}

/// Names in a SELECT: the snapshots that it reads.
#[derive(Clone)]
pub struct SnapshotNames<'a> {
    pub catalog: &'a Catalog,
    pub scope: Scope<'a>,
    /// With whose rights relations are read.
    pub role: Cow<'a, str>,
    pub policies: &'a Policies<'a>,
    pub snapshots: &'a BTreeMap<RelationId, Arc<ViewSnapshot>>,
    pub system: &'a BTreeMap<String, Arc<dyn TableProvider>>,
    /// Relations that hide others, but not within views.
    pub given: Option<&'a BTreeMap<String, Arc<dyn TableProvider>>>,
    pub sequences: &'a Sequences,
    /// Relations have columns, but no rows.
    pub is_for_checks: bool,
    /// Of a plan that is to be kept, values that its parameters may have.
    pub params: Option<Arc<[ScalarValue]>>,
}

impl Names for SnapshotNames<'_> {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Result<Option<Resolved>, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal {
            sqlstate: SqlState::INTERNAL_ERROR,
            message: format!("the rows of \"{name}\" cannot be read: {error}"),
            hint: None,
            near: None,
        };
        let table = |id: RelationId, snapshot: &Arc<ViewSnapshot>| -> Arc<dyn TableProvider> {
            Arc::new(match &self.params {
                Some(params) => ViewTable::reusable(id, snapshot.clone(), params.clone()),
                None => ViewTable::new(snapshot.clone()),
            })
        };
        if let (None, Some(table)) = (schema, self.given.and_then(|given| given.get(name))) {
            return Ok(Some(Resolved::Table(table.clone())));
        }
        let Some(object) = self.scope.find(self.catalog, schema, name) else {
            if name == "tm_dead_letters"
                && let Some(snapshot) = self.snapshots.get(&DEAD_LETTERS)
            {
                return Ok(Some(Resolved::Table(table(DEAD_LETTERS, snapshot))));
            }
            return Ok(self.system.get(name).map(|table| Resolved::Table(table.clone())));
        };
        match &object.definition {
            Definition::View(view) => view_query(&view.query).map(Some),
            Definition::Sink(_) | Definition::Secret(_) => Err(is_not_read(&object)),
            Definition::Sequence(sequence) => {
                let counter = self.sequences.get(object.oid);
                let last = counter.map_or(sequence.start, |counter| counter.last);
                let is_called = counter.is_some_and(|counter| counter.is_called);
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(Int64Array::from(vec![last])),
                    Arc::new(Int64Array::from(vec![0])),
                    Arc::new(BooleanArray::from(vec![is_called])),
                ];
                let rows = RecordBatch::try_new(object.arrow_schema(), columns);
                let rows = rows.map_err(|error| failed(&error))?;
                let table = MemTable::try_new(rows.schema(), vec![vec![rows]]);
                Ok(Some(Resolved::Table(Arc::new(table.map_err(|error| failed(&error))?))))
            }
            Definition::Source(_) => Err(Refusal {
                sqlstate: SqlState::WRONG_OBJECT_TYPE,
                message: format!(
                    "source \"{}\" is not stored, so it cannot be read by a SELECT",
                    object.name
                ),
                hint: Some(format!(
                    "Create a pipeline over it and read that: CREATE PIPELINE p AS SELECT … FROM {}.",
                    object.name
                )),
                near: Some(object.name.clone()),
            }),
            Definition::Table(_) | Definition::Pipeline(_) => {
                let id = RelationId(object.oid);
                let table: Arc<dyn TableProvider> = match self.snapshots.get(&id) {
                    Some(snapshot) => table(id, snapshot),
                    None if self.is_for_checks => {
                        let table = MemTable::try_new(object.arrow_schema(), vec![Vec::new()]);
                        Arc::new(table.map_err(|error| failed(&error))?)
                    }
                    None => return Ok(None),
                };
                let filtered = self.policies.filtered(self.catalog, &self.role, &object, table);
                filtered.map(Resolved::Table).map(Some).map_err(|error| Refusal {
                    sqlstate: error.sqlstate,
                    message: error.message,
                    hint: error.hint,
                    near: None,
                })
            }
        }
    }

    fn within(&self, schema: Option<&str>, name: &str) -> Option<Box<dyn Names + '_>> {
        Some(Box::new(self.within_view(schema, name)?))
    }

    fn versions(&self, schema: Option<&str>, name: &str) -> Option<Versions> {
        versions(self.catalog, schema, name, &self.scope)
    }
}

impl<'a> SnapshotNames<'a> {
    /// Names in a view, which its owner reads, along the search path that it was made with.
    fn within_view(&self, schema: Option<&str>, name: &str) -> Option<SnapshotNames<'a>> {
        let view = self.scope.find(self.catalog, schema, name)?;
        Some(SnapshotNames {
            scope: Scope::of(&view).into_owned(),
            role: Cow::Owned(view.owner.clone()),
            given: None,
            ..self.clone()
        })
    }
}

/// Names in a query over `pg_catalog` or `information_schema`.
pub struct CatalogNames<'a> {
    pub pg_catalog: &'a PgCatalog,
    pub others: SnapshotNames<'a>,
}

impl Names for CatalogNames<'_> {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Result<Option<Resolved>, Refusal> {
        match self.pg_catalog.table(schema, name) {
            Some(table) => Ok(Some(Resolved::Table(table))),
            None => self.others.resolve(schema, name),
        }
    }

    fn within(&self, schema: Option<&str>, name: &str) -> Option<Box<dyn Names + '_>> {
        let others = self.others.within_view(schema, name)?;
        Some(Box::new(CatalogNames { pg_catalog: self.pg_catalog, others }))
    }
}

/// What a SELECT reads, views followed to what they read.
#[derive(Debug, Default)]
pub struct References {
    pub relations: BTreeSet<RelationId>,
    /// Names of system relations.
    pub system: BTreeSet<String>,
    /// Whether a name is looked for in pg_catalog or information_schema.
    pub is_catalog_query: bool,
    /// Everything that is named, and with whose rights.
    pub reads: Reads,
    /// Names that stand for rows which the query is given, whatever else has them. Views do not know them.
    pub given: BTreeSet<String>,
}

impl References {
    /// Adds what `query` reads with the rights of `role`.
    pub fn add(
        &mut self,
        database: &Database,
        catalog: &Catalog,
        query: &Query,
        scope: &Scope<'_>,
        role: &str,
    ) -> Result<(), SqlError> {
        let mut query = query.clone();
        // What is wrong with a window the planner says, and where.
        if tidemill_sql::rewrite_windows(&mut query).is_err() {
            return Ok(());
        }
        let statement = datafusion::sql::parser::Statement::Statement(Box::new(
            datafusion::sql::sqlparser::ast::Statement::Query(Box::new(query)),
        ));
        let given = std::mem::take(&mut self.given);
        let references = database
            .planner
            .state()
            .resolve_table_references(&statement)
            .map_err(|error| database.plan_error(error, ""))?;
        for reference in references {
            let (schema, name) = (reference.schema(), reference.table());
            if schema.is_none() && given.contains(name) {
                continue;
            }
            match scope.find(catalog, schema, name) {
                Some(object) => {
                    self.reads.insert((role.to_owned(), object.oid));
                    match &object.definition {
                        Definition::View(view) => {
                            let view = tidemill_sql::parser::parse_query(&view.query)?;
                            self.add(database, catalog, &view, &Scope::of(&object), &object.owner)?;
                        }
                        Definition::Table(_) | Definition::Pipeline(_) => {
                            self.relations.insert(RelationId(object.oid));
                        }
                        Definition::Source(_)
                        | Definition::Sink(_)
                        | Definition::Sequence(_)
                        | Definition::Secret(_) => (),
                    }
                }
                None if name == "tm_dead_letters" => {
                    self.relations.insert(DEAD_LETTERS);
                }
                None if crate::system::is_system_relation(name) => {
                    self.system.insert(name.to_owned());
                }
                None => {
                    let is_catalog = matches!(schema, Some("pg_catalog" | "information_schema"));
                    self.is_catalog_query |= is_catalog || (schema.is_none() && name.starts_with("pg_"));
                }
            }
        }
        Ok(())
    }
}

/// The query of a view, as a name stands for it.
pub fn view_query(text: &str) -> Result<Resolved, Refusal> {
    let query = tidemill_sql::parser::parse_query(text).map_err(|error| Refusal {
        sqlstate: error.sqlstate(),
        message: error.to_string(),
        hint: error.hint(),
        near: None,
    })?;
    Ok(Resolved::View(query))
}

fn is_not_read(object: &Object) -> Refusal {
    let hint = match object.definition {
        Definition::Secret(_) => "Options of sources and sinks name it: password = SECRET name.",
        _ => "Read the relation that it writes.",
    };
    Refusal {
        sqlstate: SqlState::WRONG_OBJECT_TYPE,
        message: format!("\"{}\" is a {}, which cannot be read", object.name, object.kind()),
        hint: Some(hint.into()),
        near: Some(object.name.clone()),
    }
}
