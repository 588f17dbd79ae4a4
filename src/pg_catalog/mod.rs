//! `pg_catalog` and `information_schema`: what clients ask a PostgreSQL server about itself.
//!
//! Relations are computed from a snapshot of the catalog when a query names them ([`PgCatalog::table`]), in
//! PostgreSQL's own columns and types. A query over them goes through [`rewrite`] first, which replaces what
//! DataFusion cannot plan; where that is a correlated subquery, the subquery becomes a call of a function
//! that plans and runs it over these same relations. None of that may touch a user's query, where a
//! shortcut would be a wrong answer: [`is_catalog_query`] decides.
//!
//! OIDs are those of the catalog. What PostgreSQL counts as an object of its own and the catalog does not (the
//! index and the constraint of a primary key, a relation's row type, a view's rule) has an OID that is
//! computed from the relation's.

mod access;
mod declared;
mod effects;
mod functions;
mod information_schema;
mod layout;
mod relations;
mod rewrite;
mod sleep;
mod subquery;
mod value;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::catalog::{MemTable, TableProvider};
use datafusion::logical_expr::ScalarUDF;
use tidemill_catalog::{Catalog, Object, Oid};

use crate::sequences::Sequences;
use crate::session::advisory::HeldLock;

pub use self::declared::declared_types;
pub use self::effects::{
    Changes as SettingChanges, Effects, effect_in, effect_params, has_effects, takes_numbers,
};
pub use self::layout::field as declared_field;
pub use self::rewrite::{is_catalog_query, rewrite};

use crate::session::api::Connections;
use crate::session::channels::Announcements;

/// The version that clients are told; drivers parse it.
pub const SERVER_VERSION: &str = "16.6";

/// What `version()` says.
pub const VERSION: &str = "PostgreSQL 16.6 (Tidemill 0.1.0) on x86_64-linux";

/// What a catalog query sees. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PgCatalog {
    pub catalog: Arc<Catalog>,
    /// Whose rights the session has.
    pub user: String,
    /// Who logged in.
    pub session_user: String,
    pub database: String,
    pub search_path: Vec<String>,
    /// The session's settings by name; those that are missing have PostgreSQL's defaults.
    pub settings: Vec<(String, String)>,
    /// The process id that the client was given.
    pub backend_pid: i32,
    /// All connections; none where nobody is connected.
    pub connections: Option<Arc<Connections>>,
    /// What the session's transaction will say to others.
    pub announcements: Announcements,
    /// Advisory locks, for `pg_locks`.
    pub locks: Vec<HeldLock>,
    /// Where sequences are.
    pub sequences: Arc<Sequences>,
}

impl PgCatalog {
    /// A relation of schema `pg_catalog` or `information_schema`, with the rows of now. Without a schema the
    /// name is one of `pg_catalog`, which PostgreSQL searches first.
    pub fn table(&self, schema: Option<&str>, name: &str) -> Option<Arc<dyn TableProvider>> {
        let layout = layout::find(schema, name)?;
        let batch = relations::batch(self, layout).ok()?;
        let table = MemTable::try_new(layout.arrow_schema.clone(), vec![vec![batch]]).ok()?;
        Some(Arc::new(table))
    }

    /// The functions that such queries call, which answer from this snapshot. Some have the names of
    /// DataFusion's own and replace them.
    pub fn functions(&self) -> Vec<Arc<ScalarUDF>> {
        functions::functions(&Arc::new(self.clone()))
    }

    /// The objects that clients see as relations.
    fn relations(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.catalog.objects().filter(|object| object.kind().is_relation())
    }

    /// The OID that a name like `'public.orders'::regclass` means.
    fn relation_oid(&self, name: &str) -> Option<Oid> {
        let parts = split_name(name)?;
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name.as_str()),
            [.., schema, name] => (Some(schema.as_str()), name.as_str()),
            [] => return None,
        };
        if let Some(layout) = layout::find(schema, name) {
            return Some(layout.oid);
        }
        if let Ok(object) = self.catalog.resolve(schema, name, &self.search_path) {
            return object.kind().is_relation().then_some(object.oid);
        }
        let of_schema = |object: &&Arc<Object>| match schema {
            Some(schema) => object.schema == schema,
            None => self.search_path.contains(&object.schema),
        };
        let indexes = self.relations().filter(of_schema).flat_map(|object| &object.indexes);
        if let Some(index) = indexes.into_iter().find(|index| index.name == name) {
            return Some(index.oid);
        }
        let keyed = self.relations().filter(|object| !object.primary_key.is_empty());
        let mut of_index = keyed.filter(|object| relations::index_name(object) == name);
        of_index
            .find(|object| match schema {
                Some(schema) => object.schema == schema,
                None => self.search_path.contains(&object.schema),
            })
            .map(|object| relations::index_oid(object.oid))
    }

    /// Schema and name of the relation with an OID.
    fn relation_name(&self, oid: Oid) -> Option<(String, String)> {
        if let Some(layout) = layout::LAYOUTS.iter().find(|layout| layout.oid == oid) {
            return Some((layout.schema.to_owned(), layout.name.to_owned()));
        }
        if let Some(object) = self.catalog.get(oid) {
            return Some((object.schema.clone(), object.name.clone()));
        }
        let indexes = self.relations().flat_map(|object| object.indexes.iter().map(move |it| (object, it)));
        if let Some((object, index)) = indexes.into_iter().find(|(_, index)| index.oid == oid) {
            return Some((object.schema.clone(), index.name.clone()));
        }
        let object = self.catalog.get(relations::indexed_oid(oid)?)?;
        Some((object.schema.clone(), relations::index_name(object)))
    }

    /// Whether a bare name finds this object and no other before it.
    fn is_visible(&self, oid: Oid) -> Option<bool> {
        let (schema, name) = self.relation_name(oid)?;
        if schema == "pg_catalog" {
            return Some(true);
        }
        if oid >= relations::DERIVED_OIDS {
            return Some(self.search_path.contains(&schema));
        }
        Some(self.relation_oid(&quote_ident(&name)) == Some(oid))
    }

    /// The last number that a sequence has given.
    fn sequence_value(&self, oid: Oid) -> Option<i64> {
        self.sequences.get(oid).filter(|counter| counter.is_called).map(|counter| counter.last)
    }

    /// The value of a setting.
    fn setting(&self, name: &str) -> Option<String> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        let set = self.settings.iter().find(|(other, _)| same(other)).map(|(_, value)| value.clone());
        set.or_else(|| match name.to_ascii_lowercase().as_str() {
            "server_version" => Some(SERVER_VERSION.to_owned()),
            "server_version_num" => Some("160006".to_owned()),
            "search_path" => Some(self.search_path.join(", ")),
            "session_authorization" => Some(self.session_user.clone()),
            "server_encoding" | "client_encoding" => Some("UTF8".to_owned()),
            "timezone" => Some("UTC".to_owned()),
            "is_superuser" => {
                Some(if self.catalog.is_superuser(&self.user) { "on" } else { "off" }.to_owned())
            }
            _ => relations::default_setting(name),
        })
    }
}

/// The OID and the columns of a system relation.
pub fn system_relation(schema: Option<&str>, name: &str) -> Option<(Oid, Vec<&'static str>)> {
    let layout = layout::find(schema, name)?;
    Some((layout.oid, layout.columns.iter().map(|(name, _)| *name).collect()))
}

/// Quotes an identifier where it needs quotes.
fn quote_ident(name: &str) -> String {
    tidemill_sql::parser::quote(name)
}

/// The parts of a qualified name, folded as PostgreSQL folds identifiers; none when it is not one.
fn split_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let part;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next()? {
                    (_, '"') if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                        chars.next();
                        value.push('"');
                    }
                    (idx, '"') => break idx + 1,
                    (_, other) => value.push(other),
                }
            };
            part = value;
            rest = &quoted[end..];
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            part = rest[..end].trim().to_lowercase();
            rest = &rest[end..];
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if rest.trim().is_empty() => return Some(parts),
            None => return None,
        }
    }
}
