//! The catalog as a value, and the operations that make a new one of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_core::did_you_mean;

use crate::access::{Access, Target};
use crate::definition::{Definition, OptionValue, PipelineDefinition, SecretDefinition, SinkInput};
use crate::error::{Dependent, Error, Near};
use crate::object::{Column, Kind, Object, Oid};
use crate::policy::RowSecurity;

/// The first OID that is given out, as in PostgreSQL: below are the system's own.
pub const FIRST_OID: Oid = 16_384;

/// The schema where names go that have none.
pub const PUBLIC: &str = "public";

/// Schemas that exist always, with PostgreSQL's OIDs, which clients know.
const SYSTEM_SCHEMAS: [(&str, Oid); 3] = [(PUBLIC, 2200), ("pg_catalog", 11), ("information_schema", 13_000)];

/// All names at one moment. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    /// One more with each change.
    pub(crate) version: u64,
    pub(crate) next_oid: Oid,
    pub(crate) schemas: Arc<BTreeMap<String, Schema>>,
    pub(crate) objects: Arc<BTreeMap<Oid, Arc<Object>>>,
    /// By schema, then by name.
    pub(crate) names: Arc<BTreeMap<String, BTreeMap<String, Oid>>>,
    /// Roles, and what they may do.
    pub(crate) access: Arc<Access>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub oid: Oid,
    pub name: String,
    pub owner: String,
    pub comment: Option<String>,
}

/// An object that is to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewObject {
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// Names of columns, in the order of the key.
    pub primary_key: Vec<String>,
    pub definition: Definition,
    /// The statement as the user wrote it.
    pub sql: String,
    /// Where the names in the definition's query are looked up.
    pub search_path: Vec<String>,
    /// What it reads.
    pub dependencies: Vec<Oid>,
    pub owner: String,
    /// Microseconds since 1970.
    pub created_at: i64,
}

/// What to do when the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    Fail,
    /// `IF NOT EXISTS`
    Keep,
    /// `OR REPLACE`
    Replace,
}

/// What became of a `CREATE`.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    New(Arc<Object>),
    /// The new one has an OID of its own: nothing that was kept for the old one is its.
    Replaced {
        old: Arc<Object>,
        new: Arc<Object>,
    },
    /// Nothing changed, under `IF NOT EXISTS`.
    Kept(Arc<Object>),
}

impl Created {
    /// The object that now has the name.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Created::New(object) | Created::Kept(object) | Created::Replaced { new: object, .. } => object,
        }
    }

    /// What the user should be told beside success.
    pub fn notice(&self) -> Option<String> {
        match self {
            Created::Kept(object) => Some(format!("relation \"{}\" already exists, skipping", object.name)),
            Created::New(_) | Created::Replaced { .. } => None,
        }
    }
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog::new()
    }
}

impl Catalog {
    /// The catalog of a new database: the schemas that exist always, and nothing in them.
    pub fn new() -> Catalog {
        let schemas = SYSTEM_SCHEMAS.map(|(name, oid)| {
            let schema = Schema { oid, name: name.to_string(), owner: "tidemill".to_string(), comment: None };
            (name.to_string(), schema)
        });
        Catalog {
            version: 0,
            next_oid: FIRST_OID,
            schemas: Arc::new(schemas.into()),
            objects: Arc::default(),
            names: Arc::default(),
            access: Arc::default(),
        }
    }

    /// Grows by one with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Everything, by OID.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// Everything of one kind, by OID.
    pub fn objects_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects().filter(move |object| object.kind() == kind)
    }

    /// Everything in one schema, by name.
    pub fn objects_in(&self, schema: &str) -> impl Iterator<Item = &Arc<Object>> {
        let oids = self.names.get(schema).into_iter().flat_map(BTreeMap::values);
        oids.map(|oid| &self.objects[oid])
    }

    /// The object with this OID.
    pub fn get(&self, oid: Oid) -> Option<&Arc<Object>> {
        self.objects.get(&oid)
    }

    /// The object of exactly this name.
    pub fn find(&self, schema: &str, name: &str) -> Option<&Arc<Object>> {
        self.get(*self.names.get(schema)?.get(name)?)
    }

    /// All schemas, by name.
    pub fn schemas(&self) -> impl Iterator<Item = &Schema> {
        self.schemas.values()
    }

    /// The schema of this name.
    pub fn schema(&self, name: &str) -> Result<&Schema, Error> {
        self.schemas.get(name).ok_or_else(|| Error::SchemaNotFound {
            name: name.to_string(),
            near: did_you_mean(name, self.schemas.keys().map(String::as_str)).map(str::to_string),
        })
    }

    /// Schema and name of every relation, for hints.
    pub fn relation_names(&self) -> Vec<(String, String)> {
        self.objects().map(|object| (object.schema.clone(), object.name.clone())).collect()
    }

    /// The object that a name means: in its schema if it says one, else in the first schema of
    /// `search_path` that has it.
    pub fn resolve(
        &self,
        schema: Option<&str>,
        name: &str,
        search_path: &[String],
    ) -> Result<&Arc<Object>, Error> {
        if let Some(schema) = schema {
            self.schema(schema)?;
            return self
                .find(schema, name)
                .ok_or_else(|| self.not_found(Some(schema), name, &[schema.to_string()]));
        }
        let found = search_path.iter().find_map(|schema| self.find(schema, name));
        found.ok_or_else(|| self.not_found(None, name, search_path))
    }

    /// As [`resolve`](Catalog::resolve), but it must be of a kind.
    pub fn resolve_kind(
        &self,
        kind: Kind,
        schema: Option<&str>,
        name: &str,
        search_path: &[String],
    ) -> Result<&Arc<Object>, Error> {
        let object = self.resolve(schema, name, search_path).map_err(|error| match (error, kind) {
            (Error::NotFound { name, near }, Kind::Secret) => Error::SecretNotFound { name, near },
            (error, _) => error,
        })?;
        match object.kind() == kind {
            true => Ok(object),
            false => Err(Error::WrongKind { name: object.name.clone(), is: object.kind(), wanted: kind }),
        }
    }

    /// The schema in which a new name without one is created: the first of `search_path` that
    /// exists and is not the system's.
    pub fn creation_schema(&self, search_path: &[String]) -> Result<&Schema, Error> {
        let exists = |name: &&String| self.schemas.contains_key(name.as_str()) && !is_read_only(name);
        match search_path.iter().find(exists) {
            Some(name) => self.schema(name),
            None => Err(Error::NoCreationSchema),
        }
    }

    /// What reads the object directly, by OID.
    pub fn dependents(&self, oid: Oid) -> impl Iterator<Item = &Arc<Object>> {
        self.objects().filter(move |object| object.dependencies.contains(&oid))
    }

    /// What the object reads directly, by OID.
    pub fn dependencies(&self, oid: Oid) -> impl Iterator<Item = &Arc<Object>> {
        let oids = self.get(oid).map(|object| object.dependencies.as_slice()).unwrap_or_default();
        oids.iter().map(|oid| &self.objects[oid])
    }

    /// The objects `roots` and all that reads them, directly or not; readers come first.
    pub fn with_dependents(&self, roots: &[Oid]) -> Vec<Arc<Object>> {
        let mut found: BTreeSet<Oid> =
            roots.iter().copied().filter(|oid| self.objects.contains_key(oid)).collect();
        let mut ordered = Vec::new();
        for object in self.in_order() {
            if object.dependencies.iter().any(|oid| found.contains(oid)) {
                found.insert(object.oid);
            }
            if found.contains(&object.oid) {
                ordered.push(object);
            }
        }
        ordered.reverse();
        ordered
    }

    /// Everything, each behind what it reads, and otherwise by OID. What is in a circle, which no catalog has, is left out.
    pub fn in_order(&self) -> Vec<Arc<Object>> {
        let mut n_unordered: BTreeMap<Oid, usize> =
            self.objects().map(|object| (object.oid, object.dependencies.len())).collect();
        let mut readers: BTreeMap<Oid, Vec<Oid>> = BTreeMap::new();
        for object in self.objects() {
            for on in &object.dependencies {
                readers.entry(*on).or_default().push(object.oid);
            }
        }
        let is_free = |(oid, n): (&Oid, &usize)| (*n == 0).then_some(*oid);
        let mut free: BTreeSet<Oid> = n_unordered.iter().filter_map(is_free).collect();
        let mut ordered = Vec::with_capacity(self.objects.len());
        while let Some(oid) = free.pop_first() {
            ordered.push(self.objects[&oid].clone());
            for reader in readers.get(&oid).into_iter().flatten() {
                let Some(n) = n_unordered.get_mut(reader) else { continue };
                *n -= 1;
                if *n == 0 {
                    free.insert(*reader);
                }
            }
        }
        ordered
    }

    /// With a new object.
    pub fn create(&self, new: NewObject, on_conflict: OnConflict) -> Result<(Catalog, Created), Error> {
        check_name(&new.name)?;
        self.schema(&new.schema)?;
        if is_read_only(&new.schema) {
            return Err(Error::System { name: new.schema });
        }
        match (self.find(&new.schema, &new.name).cloned(), on_conflict) {
            (None, _) => {
                let (mut catalog, object) = self.with_object(new)?;
                catalog.apply_defaults(&Target::Relation(object.oid));
                Ok((catalog, Created::New(object)))
            }
            (Some(old), OnConflict::Fail) => Err(Error::Exists { name: old.name.clone(), kind: old.kind() }),
            (Some(old), OnConflict::Keep) => Ok((self.clone(), Created::Kept(old))),
            (Some(old), OnConflict::Replace) => self.replace(old, new),
        }
    }

    fn replace(&self, old: Arc<Object>, new: NewObject) -> Result<(Catalog, Created), Error> {
        if old.kind() != new.definition.kind() {
            return Err(Error::WrongKind {
                name: old.name.clone(),
                is: old.kind(),
                wanted: new.definition.kind(),
            });
        }
        let with_owned = self.with_owned(&[old.oid]);
        self.check_no_dependents("replace", &with_owned)?;
        let owned = with_owned.iter().filter(|oid| **oid != old.oid);
        let owned: Vec<Arc<Object>> = owned.map(|oid| self.expect(*oid).clone()).collect();
        let mut without = self.without(std::slice::from_ref(&old)).without(&owned);
        without.forget(&owned, None);
        // Whoever replaces it, it stays its owner's, and others may what they might.
        let (mut catalog, object) = without.with_object(NewObject { owner: old.owner.clone(), ..new })?;
        // Nor does it show rows that were hidden.
        let (policies, row_security) = (old.policies.clone(), old.row_security);
        let object = Arc::new(Object { policies, row_security, ..object.as_ref().clone() });
        catalog.put(object.clone());
        catalog.forget(std::slice::from_ref(&old), Some(object.oid));
        catalog.version = self.version + 1;
        Ok((catalog, Created::Replaced { old, new: object }))
    }

    fn with_object(&self, new: NewObject) -> Result<(Catalog, Arc<Object>), Error> {
        let mut catalog = self.changed();
        let oid = catalog.take_oid()?;
        let dependencies = sorted(new.dependencies);
        if let Some(missing) = dependencies.iter().find(|oid| !self.objects.contains_key(oid)) {
            return Err(Error::DependencyNotFound { name: new.name, oid: *missing });
        }
        let object = Arc::new(Object {
            oid,
            primary_key: key_indexes(&new.columns, &new.primary_key)?,
            schema: new.schema,
            name: new.name,
            columns: new.columns,
            definition: new.definition,
            sql: new.sql,
            search_path: new.search_path,
            dependencies,
            indexes: Vec::new(),
            policies: Vec::new(),
            row_security: RowSecurity::default(),
            comment: None,
            owner: new.owner,
            created_at: new.created_at,
            paused: None,
            replaced_by: None,
        });
        catalog.put(object.clone());
        Ok((catalog, object))
    }

    /// Without the objects; with `cascade`, without all that reads them either. What went is given
    /// in the order in which to stop it: readers first.
    pub fn drop(&self, oids: &[Oid], cascade: bool) -> Result<(Catalog, Vec<Arc<Object>>), Error> {
        let is_sequence = |oid: &Oid| self.get(*oid).is_some_and(|object| object.kind() == Kind::Sequence);
        if cascade {
            // A table does not go because the sequence of a default does.
            let (sequences, others): (Vec<Oid>, Vec<Oid>) = oids.iter().partition(|oid| is_sequence(oid));
            let others: Vec<Oid> = self.with_dependents(&others).iter().map(|object| object.oid).collect();
            let mut going = self.with_owned(&others);
            going.extend(sequences);
            self.check_no_dependents("drop", &going)?;
        } else {
            self.check_no_dependents("drop", &self.with_owned(oids))?;
        }
        let all: Vec<Oid> = self.with_dependents(oids).iter().map(|object| object.oid).collect();
        let dropped = self.with_dependents(&self.with_owned(&all));
        match dropped.is_empty() {
            true => Ok((self.clone(), dropped)),
            false => {
                let mut catalog = self.without(&dropped);
                catalog.forget(&dropped, None);
                Ok((catalog, dropped))
            }
        }
    }

    /// Nothing outside of `oids` may read one of them.
    pub(crate) fn check_no_dependents(&self, action: &'static str, oids: &[Oid]) -> Result<(), Error> {
        let mut dependents = Vec::new();
        let mut all = self.with_dependents(oids);
        all.reverse();
        for object in all.iter().filter(|object| !oids.contains(&object.oid)) {
            let on = self.dependencies(object.oid).find(|on| all.iter().any(|it| it.oid == on.oid));
            let on = on.map_or_else(String::new, |on| on.describe());
            dependents.push(Dependent { object: object.describe(), on });
        }
        if dependents.is_empty() {
            return Ok(());
        }
        let what = match oids {
            [oid] => self.get(*oid).map_or_else(String::new, |object| object.describe()),
            _ => "desired objects".to_string(),
        };
        Err(Error::HasDependents { action, what, dependents })
    }

    /// With another name for the object.
    ///
    /// Refused while a query text names it: the text would mean something else, or nothing.
    pub fn rename(&self, oid: Oid, name: &str) -> Result<Catalog, Error> {
        check_name(name)?;
        let object = self.expect(oid);
        if let Some(taken) = self.find(&object.schema, name) {
            return Err(Error::Exists { name: name.to_string(), kind: taken.kind() });
        }
        let dependents: Vec<Dependent> = self
            .dependents(oid)
            .filter(|dependent| match object.kind() {
                Kind::Sequence => true,
                // Options name it by its OID.
                Kind::Secret => false,
                _ => reads_by_name(&dependent.definition),
            })
            .map(|dependent| Dependent { object: dependent.describe(), on: object.describe() })
            .collect();
        if !dependents.is_empty() {
            return Err(Error::HasDependents { action: "rename", what: object.describe(), dependents });
        }
        let mut catalog = self.without(std::slice::from_ref(object));
        catalog.put(Arc::new(Object { name: name.to_string(), ..object.as_ref().clone() }));
        Ok(catalog)
    }

    /// With another definition of a pipeline, which stays what it is to those who read it. Its state has a name of its own.
    pub fn redefine_pipeline(
        &self,
        oid: Oid,
        definition: PipelineDefinition,
        sql: String,
        search_path: Vec<String>,
        dependencies: Vec<Oid>,
    ) -> Result<(Catalog, Arc<Object>), Error> {
        let old = self.expect(oid);
        let readers = self.with_dependents(&[oid]);
        if let Some(reader) = readers.iter().find(|reader| dependencies.contains(&reader.oid)) {
            return Err(Error::Circular { what: old.describe(), reader: reader.describe() });
        }
        let mut catalog = self.changed();
        let object = Arc::new(Object {
            definition: Definition::Pipeline(definition),
            sql,
            search_path,
            dependencies: sorted(dependencies),
            replaced_by: Some(catalog.take_oid()?),
            ..old.as_ref().clone()
        });
        catalog.put(object.clone());
        Ok((catalog, object))
    }

    /// The pipeline that has another state in a catalog that comes after this one.
    pub fn replaced_by<'a>(&self, after: &'a Catalog) -> Option<&'a Arc<Object>> {
        after
            .objects()
            .find(|object| self.get(object.oid).is_some_and(|before| before.state() != object.state()))
    }

    /// With an object that stands still since a moment, or goes on.
    pub fn pause(&self, oid: Oid, since: Option<i64>) -> Catalog {
        let object = self.expect(oid);
        let mut catalog = self.changed();
        catalog.put(Arc::new(Object { paused: since, ..object.as_ref().clone() }));
        catalog
    }

    /// With other values for some of an object's options; without a value, without the option.
    pub fn set_options(&self, oid: Oid, changes: &[(String, Option<String>)]) -> Catalog {
        let mut object = self.expect(oid).as_ref().clone();
        if let Some(options) = object.definition.options_mut() {
            for (key, value) in changes {
                let known = options.iter().position(|(known, _)| known == key);
                match (known, value) {
                    (Some(idx), Some(value)) => options[idx].1 = OptionValue::Text(value.clone()),
                    (Some(idx), None) => drop(options.remove(idx)),
                    (None, Some(value)) => options.push((key.clone(), OptionValue::Text(value.clone()))),
                    (None, None) => (),
                }
            }
        }
        let mut catalog = self.changed();
        catalog.put(Arc::new(object));
        catalog
    }

    /// With another value of a secret.
    pub fn set_secret(&self, oid: Oid, definition: SecretDefinition) -> Catalog {
        let object = self.expect(oid);
        let mut catalog = self.changed();
        let definition = Definition::Secret(definition);
        catalog.put(Arc::new(Object { definition, ..object.as_ref().clone() }));
        catalog
    }

    /// With a remark about the object, or without one.
    pub fn comment(&self, oid: Oid, comment: Option<String>) -> Catalog {
        let object = self.expect(oid);
        let mut catalog = self.changed();
        catalog.put(Arc::new(Object { comment, ..object.as_ref().clone() }));
        catalog
    }

    /// With a remark about a column, or without one.
    pub fn comment_column(&self, oid: Oid, column: &str, comment: Option<String>) -> Result<Catalog, Error> {
        let mut object = self.expect(oid).as_ref().clone();
        let Some(idx) = object.column_idx(column) else {
            let near = did_you_mean(column, object.columns.iter().map(|column| column.name.as_str()))
                .map(str::to_string);
            return Err(Error::ColumnNotFound { relation: object.name, column: column.to_string(), near });
        };
        object.columns[idx].comment = comment;
        let mut catalog = self.changed();
        catalog.put(Arc::new(object));
        Ok(catalog)
    }

    /// With a new schema. With `if_not_exists`, a schema that exists is no error; then the version
    /// stays.
    pub fn create_schema(&self, name: &str, owner: &str, if_not_exists: bool) -> Result<Catalog, Error> {
        check_name(name)?;
        if self.schemas.contains_key(name) {
            return match if_not_exists {
                true => Ok(self.clone()),
                false => Err(Error::SchemaExists { name: name.to_string() }),
            };
        }
        if name.starts_with("pg_") {
            return Err(Error::System { name: name.to_string() });
        }
        let mut catalog = self.changed();
        let oid = catalog.take_oid()?;
        let schema = Schema { oid, name: name.to_string(), owner: owner.to_string(), comment: None };
        Arc::make_mut(&mut catalog.schemas).insert(name.to_string(), schema);
        catalog.apply_defaults(&Target::Schema(name.to_string()));
        Ok(catalog)
    }

    /// Without the schema; with `cascade`, without what is in it and what reads that. What went is
    /// given readers first.
    pub fn drop_schema(&self, name: &str, cascade: bool) -> Result<(Catalog, Vec<Arc<Object>>), Error> {
        self.schema(name)?;
        if SYSTEM_SCHEMAS.iter().any(|(system, _)| *system == name) {
            return Err(Error::System { name: name.to_string() });
        }
        let oids: Vec<Oid> = self.objects_in(name).map(|object| object.oid).collect();
        if !cascade && !oids.is_empty() {
            let what = format!("schema {name}");
            let dependents = self
                .objects_in(name)
                .map(|object| Dependent { object: object.describe(), on: what.clone() })
                .collect();
            return Err(Error::HasDependents { action: "drop", what, dependents });
        }
        let (catalog, dropped) = self.drop(&oids, true)?;
        let mut catalog = catalog.changed();
        catalog.forget_schema(name);
        Arc::make_mut(&mut catalog.schemas).remove(name);
        Ok((catalog, dropped))
    }

    /// With a remark about the schema, or without one.
    pub fn comment_schema(&self, name: &str, comment: Option<String>) -> Result<Catalog, Error> {
        let schema = Schema { comment, ..self.schema(name)?.clone() };
        let mut catalog = self.changed();
        Arc::make_mut(&mut catalog.schemas).insert(name.to_string(), schema);
        Ok(catalog)
    }

    pub(crate) fn not_found(&self, schema: Option<&str>, name: &str, searched: &[String]) -> Error {
        let shown = match schema {
            Some(schema) => format!("{schema}.{name}"),
            None => name.to_string(),
        };
        let elsewhere = self.schemas.keys().find(|schema| self.find(schema, name).is_some());
        let near = match elsewhere {
            Some(elsewhere) => Some(Near::Schema { schema: elsewhere.clone(), name: name.to_string() }),
            None => {
                let names = searched
                    .iter()
                    .flat_map(|schema| self.objects_in(schema))
                    .map(|object| object.name.as_str());
                did_you_mean(name, names).map(|near| Near::Name(near.to_string()))
            }
        };
        Error::NotFound { name: shown, near }
    }

    /// OIDs come from this catalog's own answers, so one that it does not know is our mistake.
    pub(crate) fn expect(&self, oid: Oid) -> &Arc<Object> {
        self.get(oid).unwrap_or_else(|| panic!("object {oid} is not in the catalog"))
    }

    /// A copy that counts as the next version.
    pub(crate) fn changed(&self) -> Catalog {
        Catalog { version: self.version + 1, ..self.clone() }
    }

    pub(crate) fn take_oid(&mut self) -> Result<Oid, Error> {
        let oid = self.next_oid;
        self.next_oid = oid.checked_add(1).ok_or(Error::OutOfOids)?;
        Ok(oid)
    }

    pub(crate) fn put(&mut self, object: Arc<Object>) {
        let names = Arc::make_mut(&mut self.names).entry(object.schema.clone()).or_default();
        names.insert(object.name.clone(), object.oid);
        Arc::make_mut(&mut self.objects).insert(object.oid, object);
    }

    pub(crate) fn without(&self, objects: &[Arc<Object>]) -> Catalog {
        let mut catalog = self.changed();
        for object in objects {
            Arc::make_mut(&mut catalog.objects).remove(&object.oid);
            if let Some(names) = Arc::make_mut(&mut catalog.names).get_mut(&object.schema) {
                names.remove(&object.name);
            }
        }
        catalog
    }
}

/// Whether users cannot create in it.
fn is_read_only(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema")
}

/// Whether a definition holds query text in which names stand.
pub(crate) fn sorted(mut oids: Vec<Oid>) -> Vec<Oid> {
    oids.sort_unstable();
    oids.dedup();
    oids
}

fn reads_by_name(definition: &Definition) -> bool {
    match definition {
        Definition::Pipeline(_) | Definition::View(_) => true,
        Definition::Sink(sink) => matches!(sink.input, SinkInput::Query { .. }),
        Definition::Source(_) | Definition::Table(_) | Definition::Sequence(_) | Definition::Secret(_) => {
            false
        }
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    // NUL would end the name on the wire.
    match name.is_empty() || name.contains('\0') {
        true => Err(Error::InvalidName),
        false => Ok(()),
    }
}

pub(crate) fn key_indexes(columns: &[Column], key: &[String]) -> Result<Vec<usize>, Error> {
    for (idx, column) in columns.iter().enumerate() {
        if columns[..idx].iter().any(|earlier| earlier.name == column.name) {
            return Err(Error::DuplicateColumn { column: column.name.clone() });
        }
    }
    let index = |name: &String| {
        columns.iter().position(|column| column.name == *name).ok_or_else(|| Error::KeyColumnNotFound {
            column: name.clone(),
            near: did_you_mean(name, columns.iter().map(|column| column.name.as_str())).map(str::to_string),
        })
    };
    key.iter().map(index).collect()
}

#[cfg(test)]
mod tests;
