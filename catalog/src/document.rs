//! The catalog as bytes: one JSON document with a format number.
//!
//! Reading checks everything that the operations guarantee, so that a damaged or foreign document
//! is refused when the server starts, not met later. No bytes read as an empty catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{Access, AccessDocument, DefaultOn, DefaultPrivileges};
use crate::catalog::{Catalog, FIRST_OID, Schema};
use crate::error::Error;
use crate::object::{Kind, Object, Oid};

/// The newest format that this version writes and reads.
///
/// 1: schemas and objects. 2: with roles and privileges. 3: with sequences, indexes, replaced pipelines, or the catalog before it.
/// 4: with secrets and row policies. What a version does not know it would drop: a catalog is written in the first format that has all that it has.
pub const FORMAT: u64 = 4;

#[derive(Serialize)]
struct Document<'a> {
    format: u64,
    version: u64,
    next_oid: Oid,
    schemas: Vec<&'a Schema>,
    objects: Vec<&'a Object>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<AccessDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Box<Document<'a>>>,
}

/// A catalog that counts if something else has been decided, and the one that counts if not.
///
/// Definitions of a transaction come with its rows. The rows are in the table log, where they are decided together with
/// a mark that holds the catalog's version: without the mark the transaction did not happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsettled {
    pub before: Catalog,
}

#[derive(Deserialize)]
struct ReadDocument {
    version: u64,
    next_oid: Oid,
    schemas: Vec<Schema>,
    objects: Vec<Object>,
    #[serde(default)]
    access: Option<AccessDocument>,
    #[serde(default)]
    before: Option<Box<ReadDocument>>,
}

/// Read before all else: what follows may have any shape in another format.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

impl Catalog {
    /// The durable form. Equal catalogs give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serialize(&self.document())
    }

    /// The durable form while it is open whether this one counts or the one `before`.
    pub fn to_unsettled_bytes(&self, before: &Catalog) -> Vec<u8> {
        let (document, before) = (self.document(), before.document());
        let format = document.format.max(before.format).max(3);
        serialize(&Document { format, before: Some(Box::new(before)), ..document })
    }

    fn document(&self) -> Document<'_> {
        let access = self.access.document();
        let is_of_sequences = |default: &DefaultPrivileges| default.on == DefaultOn::Sequences;
        let is_new = self.access.defaults.iter().any(is_of_sequences);
        let is_new = is_new
            || self.objects.values().any(|object| {
                object.kind() == Kind::Sequence
                    || object.replaced_by.is_some()
                    || !object.indexes.is_empty()
                    || object.columns.iter().any(|column| column.identity.is_some())
            });
        let is_of_4 = |object: &Arc<Object>| {
            object.kind() == Kind::Secret || !object.policies.is_empty() || !object.row_security.is_default()
        };
        let is_of_4 = self.objects.values().any(is_of_4) || self.roles().any(|role| role.bypasses_policies);
        let format = match is_of_4 {
            true => FORMAT,
            false if is_new => 3,
            false => 1 + u64::from(access.is_some()),
        };
        Document {
            format,
            version: self.version,
            next_oid: self.next_oid,
            schemas: self.schemas.values().collect(),
            objects: self.objects.values().map(AsRef::as_ref).collect(),
            access,
            before: None,
        }
    }

    /// Reads what [`to_bytes`](Catalog::to_bytes) wrote; of an unsettled one, the new one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Catalog, Error> {
        Catalog::from_unsettled_bytes(bytes).map(|(catalog, _)| catalog)
    }

    /// Reads what either wrote.
    pub fn from_unsettled_bytes(bytes: &[u8]) -> Result<(Catalog, Option<Unsettled>), Error> {
        let FormatOnly { format } = serde_json::from_slice(bytes).map_err(corrupted)?;
        if !(1..=FORMAT).contains(&format) {
            return Err(Error::UnknownFormat { found: format, known: FORMAT });
        }
        let mut document: ReadDocument = serde_json::from_slice(bytes).map_err(corrupted)?;
        let before = document.before.take().map(|before| before.into_catalog()).transpose()?;
        Ok((document.into_catalog()?, before.map(|before| Unsettled { before })))
    }
}

fn serialize(document: &Document<'_>) -> Vec<u8> {
    serde_json::to_vec_pretty(document).expect("maps have string keys, and nothing else can fail")
}

impl ReadDocument {
    /// Roles and privileges. Before there were any, whoever owned something was a role in all but name.
    fn take_access(&mut self) -> Result<Access, Error> {
        let owners = || {
            let schemas = self.schemas.iter().map(|schema| schema.owner.as_str());
            schemas.chain(self.objects.iter().map(|object| object.owner.as_str()))
        };
        let access = match self.access.take() {
            Some(access) => access,
            None => AccessDocument::of_owners(owners(), &mut self.next_oid),
        };
        let mut access = access.into_access(self.next_oid).map_err(|reason| Error::Corrupted { reason })?;
        let owners = self.schemas.iter().map(|schema| &schema.owner);
        for owner in owners.chain(self.objects.iter().map(|object| &object.owner)) {
            check(access.roles.contains_key(owner), || format!("the owner \"{owner}\" is missing"))?;
        }
        // What is gone takes its list along.
        access.relations.retain(|oid, _| self.objects.iter().any(|object| object.oid == *oid));
        let is_there = |name: &String| self.schemas.iter().any(|schema| schema.name == *name);
        access.schemas.retain(|name, _| is_there(name));
        access.defaults.retain(|default| default.schema.as_ref().is_none_or(is_there));
        Ok(access)
    }

    fn into_catalog(mut self) -> Result<Catalog, Error> {
        let access = self.take_access()?;
        let mut schemas = BTreeMap::new();
        for schema in self.schemas {
            check(schema.oid < self.next_oid, || {
                format!("schema \"{}\" has an OID of the future", schema.name)
            })?;
            let name = schema.name.clone();
            check(schemas.insert(name.clone(), schema).is_none(), || {
                format!("schema \"{name}\" stands twice")
            })?;
        }
        for schema in Catalog::new().schemas() {
            check(schemas.contains_key(&schema.name), || format!("schema \"{}\" is missing", schema.name))?;
        }
        let mut objects: BTreeMap<Oid, Arc<Object>> = BTreeMap::new();
        let mut names: BTreeMap<String, BTreeMap<String, Oid>> = BTreeMap::new();
        for object in self.objects {
            let name = object.full_name();
            check((FIRST_OID..self.next_oid).contains(&object.oid), || {
                format!("\"{name}\" has an OID out of range")
            })?;
            check(schemas.contains_key(&object.schema), || {
                format!("\"{name}\" is in a schema that is missing")
            })?;
            let in_range = object.primary_key.iter().all(|idx| *idx < object.columns.len());
            check(in_range, || format!("the key of \"{name}\" has a column that is missing"))?;
            let taken =
                names.entry(object.schema.clone()).or_default().insert(object.name.clone(), object.oid);
            check(taken.is_none(), || format!("\"{name}\" stands twice"))?;
            check(objects.insert(object.oid, Arc::new(object)).is_none(), || {
                format!("the OID of \"{name}\" stands twice")
            })?;
        }
        for object in objects.values() {
            let of_policies = object.policies.iter().flat_map(|policy| &policy.roles);
            for role in of_policies {
                check(access.roles.contains_key(role), || {
                    format!("a policy of \"{}\" is for a role that is missing", object.full_name())
                })?;
            }
            let missing = object.dependencies.iter().find(|oid| !objects.contains_key(oid));
            check(missing.is_none(), || {
                format!("\"{}\" reads an object that is missing", object.full_name())
            })?;
        }
        let catalog = Catalog {
            version: self.version,
            next_oid: self.next_oid,
            schemas: Arc::new(schemas),
            objects: Arc::new(objects),
            names: Arc::new(names),
            access: Arc::new(access),
        };
        // Dropping with CASCADE and starting rely on an order.
        let is_ordered = catalog.in_order().len() == catalog.objects.len();
        check(is_ordered, || "some objects read each other in a circle".into())?;
        Ok(catalog)
    }
}

fn check(holds: bool, reason: impl FnOnce() -> String) -> Result<(), Error> {
    match holds {
        true => Ok(()),
        false => Err(Error::Corrupted { reason: reason() }),
    }
}

fn corrupted(error: serde_json::Error) -> Error {
    Error::Corrupted { reason: error.to_string() }
}
