//! The rows of `pg_catalog`.
//!
//! What is not listed in [`fill`] is empty, which is the truth: there are no triggers, no policies.

use std::collections::{BTreeSet, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field};
use datafusion::common::Result;
use tidemill_catalog::{Column, Definition, Identity, Index, Kind, Object, Oid, SequenceDefinition, Target};
use tidemill_sql::statements::index_column;
use tidemill_sql::types::pg_type_of;

use crate::pg_catalog::access;
use crate::pg_catalog::information_schema;
use crate::pg_catalog::layout::{LAYOUTS, Layout, Rows, read_file};
use crate::pg_catalog::value::{Value, to_batch};
use crate::pg_catalog::{PgCatalog, quote_ident};
use crate::pgwire::types::{ColumnType, PG_TYPE, column_type, type_size};
use crate::session::advisory::{Key, Mode};
use crate::session::api::PgType;

/// OIDs from here are computed from those of objects, as the catalog gives none so large.
pub const DERIVED_OIDS: Oid = 0x2000_0000;

/// What one object of ours is several of in PostgreSQL. The number is a part of the OID.
#[derive(Debug, Clone, Copy)]
enum Derived {
    Index = 2,
    Constraint = 3,
    RowType = 4,
    Rule = 5,
    RowTypeArray = 6,
}

const DERIVED_MASK: Oid = DERIVED_OIDS / 2 - 1;

fn derived(kind: Derived, oid: Oid) -> Oid {
    ((kind as Oid) * (DERIVED_OIDS / 2)) | (oid & DERIVED_MASK)
}

/// The OID of the index of a relation's primary key.
pub fn index_oid(oid: Oid) -> Oid {
    derived(Derived::Index, oid)
}

/// The relation whose index has this OID.
pub fn indexed_oid(oid: Oid) -> Option<Oid> {
    (index_oid(oid) == oid).then_some(oid & DERIVED_MASK)
}

/// The relation whose primary key's constraint has this OID.
pub fn constrained_oid(oid: Oid) -> Option<Oid> {
    (derived(Derived::Constraint, oid) == oid).then_some(oid & DERIVED_MASK)
}

/// The relation whose rule has this OID.
pub fn ruled_oid(oid: Oid) -> Option<Oid> {
    (derived(Derived::Rule, oid) == oid).then_some(oid & DERIVED_MASK)
}

/// The relation whose row type has this OID.
pub fn row_typed_oid(oid: Oid) -> Option<Oid> {
    (derived(Derived::RowType, oid) == oid).then_some(oid & DERIVED_MASK)
}

/// The name of a primary key's index and constraint.
pub fn index_name(object: &Object) -> String {
    format!("{}_pkey", object.name)
}

/// `pg_class.relkind`: what clients know each kind as.
pub fn relkind(kind: Kind) -> &'static str {
    match kind {
        Kind::Table => "r",
        Kind::Pipeline => "m",
        Kind::View => "v",
        Kind::Source => "f",
        Kind::Sequence => "S",
        Kind::Sink | Kind::Secret => unreachable!("{kind}s are no relations"),
    }
}

/// The query of a view or pipeline.
pub fn query_of(object: &Object) -> Option<&str> {
    match &object.definition {
        Definition::View(view) => Some(&view.query),
        Definition::Pipeline(pipeline) => Some(&pipeline.query),
        _ => None,
    }
}

/// The connector's name, for the foreign server that a source is of.
pub fn connector(object: &Object) -> String {
    object.definition.option("connector").unwrap_or("none").to_owned()
}

/// `key=value`, without those that might be secret.
pub fn shown_options(object: &Object) -> Value {
    const SECRETS: [&str; 6] = ["password", "secret", "token", "credential", "key", "user"];
    let shown = object.definition.options().iter().map(|(key, value)| match value.text() {
        Some(value) if !SECRETS.iter().any(|secret| key.to_lowercase().contains(secret)) => {
            format!("{key}={value}")
        }
        _ => format!("{key}=********"),
    });
    let shown: Vec<String> = shown.collect();
    match shown.is_empty() {
        true => Value::Null,
        false => shown.into(),
    }
}

/// The PostgreSQL type of a column.
pub fn column_type_of(column: &Column) -> ColumnType {
    let field = column.field();
    let name = pg_type_of(&field);
    let declared = field.metadata().contains_key(tidemill_sql::types::PG_TYPE);
    let is_plain_numeric = matches!(column.data_type, DataType::Decimal128(38, 10)) && !declared;
    if is_plain_numeric {
        return ColumnType { pg_type: PgType::NUMERIC, typmod: -1 };
    }
    match declared {
        true => column_type(
            &Field::new(&column.name, column.data_type.clone(), true)
                .with_metadata([(PG_TYPE.to_owned(), name)].into()),
        ),
        false => column_type(&field),
    }
}

/// A relation's rows.
pub fn batch(pg: &PgCatalog, layout: &'static Layout) -> Result<RecordBatch> {
    let mut rows = Rows::new(layout);
    match layout.schema {
        "information_schema" => information_schema::fill(pg, layout.name, &mut rows),
        _ => fill(pg, layout.name, &mut rows),
    }
    let own = to_batch(&layout.arrow_schema, &rows.rows)?;
    match system_batch(layout)? {
        Some(system) => Ok(concat_batches(&layout.arrow_schema, [&system, &own])?),
        None => Ok(own),
    }
}

/// The rows that are the same in every database, made once.
fn system_batch(layout: &'static Layout) -> Result<Option<RecordBatch>> {
    static BATCHES: LazyLock<Mutex<HashMap<Oid, RecordBatch>>> = LazyLock::new(Mutex::default);
    let is_own = |name: &str| layout.schema == "pg_catalog" && layout.name == name;
    let fill: fn(&mut Rows) = match layout.name {
        name if !is_own(name) => return Ok(None),
        "pg_class" => system_classes,
        "pg_attribute" => system_attributes,
        "pg_type" => |rows| rows.push_file(include_str!("data/pg_type.tsv")),
        "pg_proc" => |rows| rows.push_file(include_str!("data/pg_proc.tsv")),
        "pg_opclass" => |rows| rows.push_file(include_str!("data/pg_opclass.tsv")),
        _ => return Ok(None),
    };
    let mut batches = BATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(batch) = batches.get(&layout.oid) {
        return Ok(Some(batch.clone()));
    }
    let mut rows = Rows::new(layout);
    fill(&mut rows);
    let batch = to_batch(&layout.arrow_schema, &rows.rows)?;
    batches.insert(layout.oid, batch.clone());
    Ok(Some(batch))
}

fn namespace_of(layout: &Layout) -> Oid {
    if layout.schema == "pg_catalog" { 11 } else { 13_000 }
}

fn system_classes(rows: &mut Rows) {
    for layout in LAYOUTS.iter() {
        rows.push(vec![
            ("oid", layout.oid.into()),
            ("relname", layout.name.into()),
            ("relnamespace", namespace_of(layout).into()),
            ("relowner", 10u32.into()),
            ("relpersistence", "p".into()),
            // What has an OID column of its own is a table in PostgreSQL too.
            ("relkind", if layout.oid < 12_000 { "r" } else { "v" }.into()),
            ("relnatts", layout.columns.len().into()),
            ("relispopulated", true.into()),
            ("relreplident", "n".into()),
            ("reltuples", Value::Float(-1.0)),
        ]);
    }
}

fn system_attributes(rows: &mut Rows) {
    for layout in LAYOUTS.iter() {
        for (idx, (name, type_name)) in layout.columns.iter().enumerate() {
            let field = crate::pg_catalog::layout::field(name, type_name);
            rows.push(attribute(layout.oid, idx, name, &column_type(&field)));
        }
    }
}

fn attribute<'a>(relation: Oid, idx: usize, name: &str, column_type: &ColumnType) -> Vec<(&'a str, Value)> {
    let size = type_size(&column_type.pg_type);
    let is_array = column_type.pg_type.name().starts_with('_');
    vec![
        ("attrelid", relation.into()),
        ("attname", name.into()),
        ("atttypid", column_type.pg_type.oid().into()),
        ("attstattarget", Value::Int(-1)),
        ("attlen", Value::Int(size.into())),
        ("attnum", (idx + 1).into()),
        ("attndims", Value::Int(is_array.into())),
        ("attcacheoff", Value::Int(-1)),
        ("atttypmod", Value::Int(column_type.typmod.into())),
        ("attbyval", (1..=8).contains(&size).into()),
        ("attalign", if size == 8 { "d" } else { "i" }.into()),
        ("attstorage", if size < 0 { "x" } else { "p" }.into()),
        ("attislocal", true.into()),
        ("attcollation", collation(&column_type.pg_type).into()),
    ]
}

fn collation(pg_type: &PgType) -> u32 {
    match *pg_type {
        PgType::TEXT | PgType::VARCHAR | PgType::BPCHAR | PgType::TEXT_ARRAY | PgType::VARCHAR_ARRAY => 100,
        PgType::NAME => 950,
        _ => 0,
    }
}

/// A setting's value in a fresh session.
pub fn default_setting(name: &str) -> Option<String> {
    let rows = read_file(include_str!("data/pg_settings.tsv"));
    let row = rows
        .into_iter()
        .find(|row| matches!(&row[0].1, Value::Text(other) if other.eq_ignore_ascii_case(name)))?;
    row[1].1.text()
}

impl PgCatalog {
    /// The roles and their OIDs.
    pub(super) fn roles(&self) -> Vec<(Oid, String)> {
        self.catalog.roles().map(|role| (role.oid, role.name.clone())).collect()
    }

    pub(super) fn role_oid(&self, name: &str) -> Oid {
        self.catalog.role(name).map_or(0, |role| role.oid)
    }

    /// The databases; `postgres` is another name of the one that there is.
    pub(super) fn databases(&self) -> Vec<(Oid, &'static str)> {
        vec![(16, tidemill_sql::DATABASE), (5, "postgres"), (1, "template1"), (4, "template0")]
    }

    pub(super) fn schema_oid(&self, name: &str) -> Oid {
        self.catalog.schema(name).map_or(0, |schema| schema.oid)
    }

    pub(super) fn keyed(&self) -> impl Iterator<Item = &std::sync::Arc<Object>> {
        self.relations().filter(|object| !object.primary_key.is_empty())
    }

    /// Connectors in use, which are shown as foreign servers.
    fn connectors(&self) -> Vec<(Oid, String)> {
        let names: BTreeSet<String> =
            self.catalog.objects_of(Kind::Source).map(|object| connector(object)).collect();
        names.into_iter().enumerate().map(|(idx, name)| (14_100 + idx as Oid, name)).collect()
    }
}

/// `CREATE UNIQUE INDEX …` of a relation's primary key.
pub fn index_definition(object: &Object) -> String {
    format!(
        "CREATE UNIQUE INDEX {} ON {}.{} USING btree ({})",
        quote_ident(&index_name(object)),
        quote_ident(&object.schema),
        quote_ident(&object.name),
        key_columns(object)
    )
}

/// The columns of a relation's primary key, by commas.
pub fn key_columns(object: &Object) -> String {
    let names = object.primary_key.iter().map(|idx| quote_ident(&object.columns[*idx].name));
    names.collect::<Vec<_>>().join(", ")
}

/// As in PostgreSQL, nothing is promised of the columns of a view.
pub fn is_not_null(object: &Object, column: &Column) -> bool {
    !column.nullable && object.kind() != Kind::View
}

/// The text that `pg_attrdef` would have as a tree.
pub fn default_text(column: &Column) -> Option<&str> {
    if column.identity.is_some() {
        return None;
    }
    column.default.as_deref().or(column.generated.as_deref())
}

fn fill(pg: &PgCatalog, name: &str, rows: &mut Rows) {
    match name {
        "pg_class" => classes(pg, rows),
        "pg_attribute" => attributes(pg, rows),
        "pg_type" => types(pg, rows),
        "pg_namespace" => namespaces(pg, rows),
        "pg_attrdef" => attrdefs(pg, rows),
        "pg_index" => indexes(pg, rows),
        "pg_constraint" => constraints(pg, rows),
        "pg_description" => descriptions(pg, rows),
        "pg_depend" => depends(pg, rows),
        "pg_rewrite" => rules(pg, rows),
        "pg_policy" => access::policies(pg, rows),
        "pg_policies" => access::shown_policies(pg, rows),
        "pg_am" => {
            rows.push(access_method(2, "heap", "t"));
            rows.push(access_method(403, "btree", "i"));
        }
        "pg_database" => databases(pg, rows),
        "pg_roles" | "pg_authid" => access::roles(pg, rows),
        "pg_user" | "pg_shadow" => access::users(pg, rows),
        "pg_group" => access::groups(pg, rows),
        "pg_auth_members" => access::memberships(pg, rows),
        "pg_default_acl" => access::defaults(pg, rows),
        "pg_tablespace" => {
            for (oid, name) in [(1663u32, "pg_default"), (1664, "pg_global")] {
                rows.push(vec![("oid", oid.into()), ("spcname", name.into()), ("spcowner", 10u32.into())]);
            }
        }
        "pg_collation" => {
            for (oid, name, provider) in [(100u32, "default", "d"), (950, "C", "c"), (951, "POSIX", "c")] {
                rows.push(vec![
                    ("oid", oid.into()),
                    ("collname", name.into()),
                    ("collnamespace", 11u32.into()),
                    ("collowner", 10u32.into()),
                    ("collprovider", provider.into()),
                    ("collisdeterministic", true.into()),
                    ("collencoding", Value::Int(-1)),
                    ("collcollate", if oid == 100 { Value::Null } else { name.into() }),
                    ("collctype", if oid == 100 { Value::Null } else { name.into() }),
                ]);
            }
        }
        "pg_language" => {
            for (oid, name, trusted) in [(12u32, "internal", false), (14, "sql", true)] {
                rows.push(vec![
                    ("oid", oid.into()),
                    ("lanname", name.into()),
                    ("lanowner", 10u32.into()),
                    ("lanpltrusted", trusted.into()),
                ]);
            }
        }
        "pg_settings" => settings(pg, rows),
        "pg_tables" => {
            for object in pg.catalog.objects_of(Kind::Table) {
                rows.push(vec![
                    ("schemaname", object.schema.clone().into()),
                    ("tablename", object.name.clone().into()),
                    ("tableowner", object.owner.clone().into()),
                    ("tablespace", Value::Null),
                    ("hasindexes", has_indexes(object).into()),
                    ("rowsecurity", object.row_security.is_enabled.into()),
                ]);
            }
        }
        "pg_views" => {
            for object in pg.catalog.objects_of(Kind::View) {
                rows.push(vec![
                    ("schemaname", object.schema.clone().into()),
                    ("viewname", object.name.clone().into()),
                    ("viewowner", object.owner.clone().into()),
                    ("definition", query_of(object).into()),
                ]);
            }
        }
        "pg_matviews" => {
            for object in pg.catalog.objects_of(Kind::Pipeline) {
                rows.push(vec![
                    ("schemaname", object.schema.clone().into()),
                    ("matviewname", object.name.clone().into()),
                    ("matviewowner", object.owner.clone().into()),
                    ("tablespace", Value::Null),
                    ("hasindexes", has_indexes(object).into()),
                    ("ispopulated", true.into()),
                    ("definition", query_of(object).into()),
                ]);
            }
        }
        "pg_indexes" => {
            for object in pg.keyed() {
                rows.push(vec![
                    ("schemaname", object.schema.clone().into()),
                    ("tablename", object.name.clone().into()),
                    ("indexname", index_name(object).into()),
                    ("tablespace", Value::Null),
                    ("indexdef", index_definition(object).into()),
                ]);
            }
            for (object, index) in named_indexes(pg) {
                rows.push(vec![
                    ("schemaname", object.schema.clone().into()),
                    ("tablename", object.name.clone().into()),
                    ("indexname", index.name.clone().into()),
                    ("tablespace", Value::Null),
                    ("indexdef", named_index_definition(object, index).into()),
                ]);
            }
        }
        "pg_locks" => locks(pg, rows),
        "pg_sequence" | "pg_sequences" => sequences(pg, name, rows),
        "pg_foreign_data_wrapper" => rows.push(vec![
            ("oid", 14_000u32.into()),
            ("fdwname", "tidemill".into()),
            ("fdwowner", 10u32.into()),
        ]),
        "pg_foreign_server" => {
            for (oid, name) in pg.connectors() {
                rows.push(vec![
                    ("oid", oid.into()),
                    ("srvname", name.into()),
                    ("srvowner", 10u32.into()),
                    ("srvfdw", 14_000u32.into()),
                ]);
            }
        }
        "pg_foreign_table" => {
            let connectors = pg.connectors();
            for object in pg.catalog.objects_of(Kind::Source) {
                let server = connectors.iter().find(|(_, name)| *name == connector(object));
                rows.push(vec![
                    ("ftrelid", object.oid.into()),
                    ("ftserver", server.map_or(0, |(oid, _)| *oid).into()),
                    ("ftoptions", shown_options(object)),
                ]);
            }
        }
        "pg_stat_activity" => activities(pg, rows),
        "pg_stat_gssapi" => {
            for backend in pg.connections.iter().flat_map(|connections| connections.list()) {
                rows.push(vec![("pid", Value::Int(backend.pid.into())), ("principal", Value::Null)]);
            }
        }
        "pg_stat_user_tables" | "pg_stat_all_tables" => {
            for object in
                pg.relations().filter(|object| matches!(object.kind(), Kind::Table | Kind::Pipeline))
            {
                rows.push(vec![
                    ("relid", object.oid.into()),
                    ("schemaname", object.schema.clone().into()),
                    ("relname", object.name.clone().into()),
                ]);
            }
        }
        "pg_stat_user_indexes" | "pg_stat_all_indexes" => {
            for object in pg.keyed() {
                rows.push(vec![
                    ("relid", object.oid.into()),
                    ("indexrelid", index_oid(object.oid).into()),
                    ("schemaname", object.schema.clone().into()),
                    ("relname", object.name.clone().into()),
                    ("indexrelname", index_name(object).into()),
                ]);
            }
        }
        _ => (),
    }
}

fn access_method(oid: u32, name: &str, kind: &str) -> Vec<(&'static str, Value)> {
    vec![("oid", oid.into()), ("amname", name.into()), ("amtype", kind.into())]
}

fn classes(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.relations() {
        let stores = matches!(object.kind(), Kind::Table | Kind::Pipeline);
        rows.push(vec![
            ("oid", object.oid.into()),
            ("relname", object.name.clone().into()),
            ("relnamespace", pg.schema_oid(&object.schema).into()),
            ("reltype", derived(Derived::RowType, object.oid).into()),
            ("relowner", pg.role_oid(&object.owner).into()),
            ("relam", if stores { 2u32 } else { 0 }.into()),
            ("relfilenode", if stores { object.oid } else { 0 }.into()),
            ("reltuples", Value::Float(-1.0)),
            ("relhasindex", has_indexes(object).into()),
            ("relpersistence", "p".into()),
            ("relkind", relkind(object.kind()).into()),
            ("relnatts", object.columns.len().into()),
            ("relhasrules", query_of(object).is_some().into()),
            ("relrowsecurity", object.row_security.is_enabled.into()),
            ("relforcerowsecurity", object.row_security.is_forced.into()),
            ("relispopulated", true.into()),
            ("relreplident", if stores { "d" } else { "n" }.into()),
            ("relacl", access::acl(pg, &Target::Relation(object.oid))),
        ]);
    }
    for object in pg.keyed() {
        rows.push(vec![
            ("oid", index_oid(object.oid).into()),
            ("relname", index_name(object).into()),
            ("relnamespace", pg.schema_oid(&object.schema).into()),
            ("relowner", pg.role_oid(&object.owner).into()),
            ("relam", 403u32.into()),
            ("relfilenode", index_oid(object.oid).into()),
            ("reltuples", Value::Float(-1.0)),
            ("relpersistence", "p".into()),
            ("relkind", "i".into()),
            ("relnatts", object.primary_key.len().into()),
            ("relispopulated", true.into()),
            ("relreplident", "n".into()),
        ]);
    }
    for (object, index) in named_indexes(pg) {
        rows.push(vec![
            ("oid", index.oid.into()),
            ("relname", index.name.clone().into()),
            ("relnamespace", pg.schema_oid(&object.schema).into()),
            ("relowner", pg.role_oid(&object.owner).into()),
            ("relam", 403u32.into()),
            ("relfilenode", index.oid.into()),
            ("reltuples", Value::Float(-1.0)),
            ("relpersistence", "p".into()),
            ("relkind", "i".into()),
            ("relnatts", index.keys.len().into()),
            ("relispopulated", true.into()),
            ("relreplident", "n".into()),
        ]);
    }
}

fn has_indexes(object: &Object) -> bool {
    !(object.primary_key.is_empty() && object.indexes.is_empty())
}

/// What CREATE INDEX has made, with the relations.
fn named_indexes(pg: &PgCatalog) -> impl Iterator<Item = (&std::sync::Arc<Object>, &Index)> {
    pg.relations().flat_map(|object| object.indexes.iter().map(move |index| (object, index)))
}

/// The columns of an index by their positions; for an expression, none.
fn indexed_columns(object: &Object, index: &Index) -> Vec<Option<usize>> {
    index.keys.iter().map(|key| object.column_idx(&index_column(key)?)).collect()
}

/// `CREATE INDEX …` as PostgreSQL prints it.
pub fn named_index_definition(object: &Object, index: &Index) -> String {
    format!(
        "CREATE {}INDEX {} ON {}.{} USING btree ({})",
        if index.is_unique { "UNIQUE " } else { "" },
        quote_ident(&index.name),
        quote_ident(&object.schema),
        quote_ident(&object.name),
        index.keys.join(", ")
    )
}

fn attributes(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.relations() {
        for (idx, column) in object.columns.iter().enumerate() {
            let mut row = attribute(object.oid, idx, &column.name, &column_type_of(column));
            row.push(("attnotnull", is_not_null(object, column).into()));
            row.push(("atthasdef", default_text(column).is_some().into()));
            let identity = match column.identity {
                Some(Identity::Always) => "a",
                Some(Identity::ByDefault) => "d",
                None => "",
            };
            row.push(("attidentity", identity.into()));
            row.push(("attgenerated", if column.generated.is_some() { "s" } else { "" }.into()));
            rows.push(row);
        }
    }
    for object in pg.keyed() {
        for (idx, column_idx) in object.primary_key.iter().enumerate() {
            let column = &object.columns[*column_idx];
            rows.push(attribute(index_oid(object.oid), idx, &column.name, &column_type_of(column)));
        }
    }
}

/// The row type of each relation, and its array.
fn types(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.relations() {
        let row_type = derived(Derived::RowType, object.oid);
        let array = derived(Derived::RowTypeArray, object.oid);
        let common = |row: Vec<(&'static str, Value)>| {
            let mut all = vec![
                ("typnamespace", pg.schema_oid(&object.schema).into()),
                ("typowner", pg.role_oid(&object.owner).into()),
                ("typlen", Value::Int(-1)),
                ("typisdefined", true.into()),
                ("typdelim", ",".into()),
                ("typalign", "d".into()),
                ("typstorage", "x".into()),
                ("typtypmod", Value::Int(-1)),
            ];
            all.extend(row);
            all
        };
        rows.push(common(vec![
            ("oid", row_type.into()),
            ("typname", object.name.clone().into()),
            ("typtype", "c".into()),
            ("typcategory", "C".into()),
            ("typrelid", object.oid.into()),
            ("typarray", array.into()),
            // record_in, record_out, record_recv, record_send
            ("typinput", 2290u32.into()),
            ("typoutput", 2291u32.into()),
            ("typreceive", 2402u32.into()),
            ("typsend", 2403u32.into()),
        ]));
        rows.push(common(vec![
            ("oid", array.into()),
            ("typname", format!("_{}", object.name).into()),
            ("typtype", "b".into()),
            ("typcategory", "A".into()),
            ("typelem", row_type.into()),
            // array_in, array_out, array_recv, array_send
            ("typinput", 750u32.into()),
            ("typoutput", 751u32.into()),
            ("typreceive", 2400u32.into()),
            ("typsend", 2401u32.into()),
        ]));
    }
}

fn namespaces(pg: &PgCatalog, rows: &mut Rows) {
    for schema in pg.catalog.schemas() {
        rows.push(vec![
            ("oid", schema.oid.into()),
            ("nspname", schema.name.clone().into()),
            ("nspowner", pg.role_oid(&schema.owner).into()),
            ("nspacl", access::acl(pg, &Target::Schema(schema.name.clone()))),
        ]);
    }
}

fn attrdefs(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.relations() {
        for (idx, column) in object.columns.iter().enumerate() {
            let Some(text) = default_text(column) else { continue };
            rows.push(vec![
                // Only joined by relation and number; an OID of its own need only be stable.
                (
                    "oid",
                    ((DERIVED_OIDS / 2)
                        | (object.oid.wrapping_mul(512).wrapping_add(idx as Oid) & DERIVED_MASK))
                        .into(),
                ),
                ("adrelid", object.oid.into()),
                ("adnum", (idx + 1).into()),
                ("adbin", text.into()),
            ]);
        }
    }
}

fn operator_class(pg_type: &PgType) -> u32 {
    static CLASSES: LazyLock<HashMap<i64, i64>> = LazyLock::new(|| {
        let rows = read_file(include_str!("data/pg_opclass.tsv"));
        let of = |row: &[(&str, Value)], name: &str| {
            row.iter().find(|(column, _)| *column == name).and_then(|(_, value)| value.int())
        };
        let defaults = rows.iter().filter(|row| row.contains(&("opcdefault", "t".into())));
        defaults.filter_map(|row| Some((of(row, "opcintype")?, of(row, "oid")?))).collect()
    });
    let type_oid = match *pg_type {
        PgType::VARCHAR => PgType::TEXT.oid(),
        ref other => other.oid(),
    };
    CLASSES.get(&i64::from(type_oid)).map_or(0, |oid| *oid as u32)
}

fn key_numbers(object: &Object) -> Value {
    object.primary_key.iter().map(|idx| Value::from(idx + 1)).collect::<Vec<_>>().into()
}

fn indexes(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.keyed() {
        let types: Vec<PgType> =
            object.primary_key.iter().map(|idx| column_type_of(&object.columns[*idx]).pg_type).collect();
        rows.push(vec![
            ("indexrelid", index_oid(object.oid).into()),
            ("indrelid", object.oid.into()),
            ("indnatts", object.primary_key.len().into()),
            ("indnkeyatts", object.primary_key.len().into()),
            ("indisunique", true.into()),
            ("indisprimary", true.into()),
            ("indimmediate", true.into()),
            ("indisvalid", true.into()),
            ("indisready", true.into()),
            ("indislive", true.into()),
            ("indkey", key_numbers(object)),
            ("indcollation", types.iter().map(collation).collect::<Vec<_>>().into()),
            ("indclass", types.iter().map(operator_class).collect::<Vec<_>>().into()),
            ("indoption", types.iter().map(|_| 0u32).collect::<Vec<_>>().into()),
        ]);
    }
    for (object, index) in named_indexes(pg) {
        let columns = indexed_columns(object, index);
        let types: Vec<PgType> = columns
            .iter()
            .map(|idx| idx.map_or(PgType::TEXT, |idx| column_type_of(&object.columns[idx]).pg_type))
            .collect();
        let numbers: Vec<Value> =
            columns.iter().map(|idx| Value::from(idx.map_or(0, |idx| idx + 1))).collect();
        rows.push(vec![
            ("indexrelid", index.oid.into()),
            ("indrelid", object.oid.into()),
            ("indnatts", columns.len().into()),
            ("indnkeyatts", columns.len().into()),
            ("indisunique", index.is_unique.into()),
            ("indimmediate", true.into()),
            ("indisvalid", true.into()),
            ("indisready", true.into()),
            ("indislive", true.into()),
            ("indkey", numbers.into()),
            ("indcollation", types.iter().map(collation).collect::<Vec<_>>().into()),
            ("indclass", types.iter().map(operator_class).collect::<Vec<_>>().into()),
            ("indoption", types.iter().map(|_| 0u32).collect::<Vec<_>>().into()),
        ]);
    }
}

/// Advisory locks, with a key's halves where PostgreSQL has them.
fn locks(pg: &PgCatalog, rows: &mut Rows) {
    for lock in &pg.locks {
        let (class, object, number) = match lock.key {
            Key::One(key) => ((key >> 32) as u32, key as u32, 1),
            Key::Two(class, object) => (class as u32, object as u32, 2),
        };
        let mode = match lock.mode {
            Mode::Shared => "ShareLock",
            Mode::Exclusive => "ExclusiveLock",
        };
        rows.push(vec![
            ("locktype", "advisory".into()),
            ("database", pg.databases()[0].0.into()),
            ("relation", Value::Null),
            ("page", Value::Null),
            ("tuple", Value::Null),
            ("classid", class.into()),
            ("objid", object.into()),
            ("objsubid", Value::Int(number)),
            ("pid", Value::Int(lock.pid.into())),
            ("mode", mode.into()),
            ("granted", lock.is_granted.into()),
        ]);
    }
}

/// Sequences, with what they were created with.
pub fn sequence_definitions(pg: &PgCatalog) -> Vec<(&std::sync::Arc<Object>, &SequenceDefinition)> {
    let all = pg.catalog.objects().filter_map(|object| match &object.definition {
        Definition::Sequence(definition) => Some((object, definition)),
        _ => None,
    });
    all.collect()
}

fn sequences(pg: &PgCatalog, name: &str, rows: &mut Rows) {
    for (object, definition) in sequence_definitions(pg) {
        let type_oid = match definition.data_type.as_str() {
            "smallint" => PgType::INT2.oid(),
            "integer" => PgType::INT4.oid(),
            _ => PgType::INT8.oid(),
        };
        rows.push(match name {
            "pg_sequence" => vec![
                ("seqrelid", object.oid.into()),
                ("seqtypid", type_oid.into()),
                ("seqstart", definition.start.into()),
                ("seqincrement", definition.increment.into()),
                ("seqmax", definition.max.into()),
                ("seqmin", definition.min.into()),
                ("seqcache", Value::Int(1)),
                ("seqcycle", definition.cycle.into()),
            ],
            _ => vec![
                ("schemaname", object.schema.clone().into()),
                ("sequencename", object.name.clone().into()),
                ("sequenceowner", object.owner.clone().into()),
                ("data_type", type_oid.into()),
                ("start_value", definition.start.into()),
                ("min_value", definition.min.into()),
                ("max_value", definition.max.into()),
                ("increment_by", definition.increment.into()),
                ("cycle", definition.cycle.into()),
                ("cache_size", Value::Int(1)),
                ("last_value", pg.sequence_value(object.oid).into()),
            ],
        });
    }
}

fn constraints(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.keyed() {
        rows.push(vec![
            ("oid", derived(Derived::Constraint, object.oid).into()),
            ("conname", index_name(object).into()),
            ("connamespace", pg.schema_oid(&object.schema).into()),
            ("contype", "p".into()),
            ("convalidated", true.into()),
            ("conrelid", object.oid.into()),
            ("conindid", index_oid(object.oid).into()),
            ("confupdtype", " ".into()),
            ("confdeltype", " ".into()),
            ("confmatchtype", " ".into()),
            ("conislocal", true.into()),
            ("connoinherit", true.into()),
            ("conkey", key_numbers(object)),
        ]);
    }
}

/// The OIDs of `pg_class`, `pg_namespace` and `pg_rewrite` themselves, which say what an OID is of.
pub const CLASS_CLASS: u32 = 1259;
pub const NAMESPACE_CLASS: u32 = 2615;
const REWRITE_CLASS: u32 = 2618;

fn descriptions(pg: &PgCatalog, rows: &mut Rows) {
    let mut push = |oid: Oid, class: u32, number: usize, text: &str| {
        rows.push(vec![
            ("objoid", oid.into()),
            ("classoid", class.into()),
            ("objsubid", number.into()),
            ("description", text.into()),
        ]);
    };
    for schema in pg.catalog.schemas() {
        if let Some(comment) = &schema.comment {
            push(schema.oid, NAMESPACE_CLASS, 0, comment);
        }
    }
    for object in pg.relations() {
        if let Some(comment) = &object.comment {
            push(object.oid, CLASS_CLASS, 0, comment);
        }
        for (idx, column) in object.columns.iter().enumerate() {
            if let Some(comment) = &column.comment {
                push(object.oid, CLASS_CLASS, idx + 1, comment);
            }
        }
    }
}

/// As in PostgreSQL, a view depends on what it reads through its rule.
fn depends(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.relations().filter(|object| query_of(object).is_some()) {
        let rule = derived(Derived::Rule, object.oid);
        let mut push = |on: Oid, deptype: &str| {
            rows.push(vec![
                ("classid", REWRITE_CLASS.into()),
                ("objid", rule.into()),
                ("refclassid", CLASS_CLASS.into()),
                ("refobjid", on.into()),
                ("deptype", deptype.into()),
            ]);
        };
        push(object.oid, "i");
        for on in &object.dependencies {
            push(*on, "n");
        }
    }
    for (object, definition) in sequence_definitions(pg) {
        let Some(owned_by) = &definition.owned_by else { continue };
        let Some(table) = pg.catalog.get(owned_by.table) else { continue };
        let Some(column) = table.column_idx(&owned_by.column) else { continue };
        let is_identity = table.columns[column].identity.is_some();
        rows.push(vec![
            ("classid", CLASS_CLASS.into()),
            ("objid", object.oid.into()),
            ("refclassid", CLASS_CLASS.into()),
            ("refobjid", table.oid.into()),
            ("refobjsubid", (column + 1).into()),
            ("deptype", if is_identity { "i" } else { "a" }.into()),
        ]);
    }
}

fn rules(pg: &PgCatalog, rows: &mut Rows) {
    for object in pg.relations().filter(|object| query_of(object).is_some()) {
        rows.push(vec![
            ("oid", derived(Derived::Rule, object.oid).into()),
            ("rulename", "_RETURN".into()),
            ("ev_class", object.oid.into()),
            ("ev_type", "1".into()),
            ("ev_enabled", "O".into()),
            ("is_instead", true.into()),
        ]);
    }
}

fn databases(pg: &PgCatalog, rows: &mut Rows) {
    for (oid, name) in pg.databases() {
        rows.push(vec![
            ("oid", oid.into()),
            ("datname", name.into()),
            ("datdba", 10u32.into()),
            ("encoding", Value::Int(6)),
            ("datlocprovider", "c".into()),
            ("datistemplate", name.starts_with("template").into()),
            ("datallowconn", (!name.starts_with("template")).into()),
            ("datconnlimit", Value::Int(-1)),
            ("dattablespace", 1663u32.into()),
            ("datcollate", "C.UTF-8".into()),
            ("datctype", "C.UTF-8".into()),
            (
                "datacl",
                if name.starts_with("template") { Value::Null } else { access::acl(pg, &Target::Database) },
            ),
        ]);
    }
}

fn settings(pg: &PgCatalog, rows: &mut Rows) {
    let mut known = Vec::new();
    for mut row in read_file(include_str!("data/pg_settings.tsv")) {
        let name = row[0].1.text().unwrap_or_default();
        for (column, value) in &mut row {
            match (*column, &value) {
                ("setting", _) => *value = pg.setting(&name).into(),
                ("enumvals", Value::Text(text)) => {
                    *value = text.split(',').map(str::to_owned).collect::<Vec<_>>().into();
                }
                _ => (),
            }
        }
        known.push(name);
        rows.push(row);
    }
    for (name, value) in &pg.settings {
        if known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        rows.push(vec![
            ("name", name.clone().into()),
            ("setting", value.clone().into()),
            ("category", "Customized Options".into()),
            ("context", "user".into()),
            ("vartype", "string".into()),
            ("source", "session".into()),
        ]);
    }
}

fn activities(pg: &PgCatalog, rows: &mut Rows) {
    let backends = pg.connections.as_ref().map(|connections| connections.list()).unwrap_or_default();
    for backend in backends {
        let mut activity = backend.activity();
        // What others do is theirs, as in PostgreSQL.
        let is_shown = pg.catalog.has_rights_of(&pg.user, &activity.user);
        if !is_shown {
            activity.query = "<insufficient privilege>".to_owned();
        }
        let shown = |value: Value| if is_shown { value } else { Value::Null };
        let time = |micros: Option<i64>| shown(micros.map_or(Value::Null, Value::Time));
        rows.push(vec![
            ("datid", pg.databases()[0].0.into()),
            ("datname", activity.database.into()),
            ("pid", Value::Int(backend.pid.into())),
            ("leader_pid", Value::Null),
            ("usesysid", pg.role_oid(&activity.user).into()),
            ("usename", activity.user.into()),
            ("application_name", activity.application_name.into()),
            ("client_addr", shown(backend.peer.ip().to_string().into())),
            ("client_port", shown(i64::from(backend.peer.port()).into())),
            ("backend_start", time(activity.backend_start)),
            ("xact_start", time(activity.transaction_start)),
            ("query_start", time(activity.query_start)),
            ("state_change", time(activity.state_change)),
            (
                "wait_event_type",
                shown(if activity.state == "active" { Value::Null } else { "Client".into() }),
            ),
            ("wait_event", shown(if activity.state == "active" { Value::Null } else { "ClientRead".into() })),
            ("state", shown(activity.state.into())),
            ("backend_xid", Value::Null),
            ("backend_xmin", Value::Null),
            ("query_id", Value::Null),
            ("query", activity.query.into()),
            ("backend_type", "client backend".into()),
        ]);
    }
}

/// The OID of a relation's row type.
pub fn row_type_oid(oid: Oid) -> Oid {
    derived(Derived::RowType, oid)
}
