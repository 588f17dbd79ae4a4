//! The rows of `information_schema`, with PostgreSQL's type names.

use tidemill_catalog::{Identity, Kind, Object};

use crate::pg_catalog::functions::format_type;
use crate::pg_catalog::layout::{LAYOUTS, Rows};
use crate::pg_catalog::relations::{
    column_type_of, connector, default_text, index_name, is_not_null, query_of, sequence_definitions,
};
use crate::pg_catalog::value::Value;
use crate::pg_catalog::{PgCatalog, access};
use crate::pgwire::types::{ColumnType, element_of};
use crate::session::api::PgType;

pub fn fill(pg: &PgCatalog, name: &str, rows: &mut Rows) {
    let database = Value::from(pg.database.clone());
    match name {
        "information_schema_catalog_name" => rows.push(vec![("catalog_name", database)]),
        "schemata" => {
            for schema in pg.catalog.schemas() {
                rows.push(vec![
                    ("catalog_name", database.clone()),
                    ("schema_name", schema.name.clone().into()),
                    ("schema_owner", schema.owner.clone().into()),
                ]);
            }
        }
        "tables" => tables(pg, rows),
        "columns" => columns(pg, rows),
        "views" => {
            for object in pg.catalog.objects_of(Kind::View) {
                let mut row = located(&database, "table", object);
                row.push(("view_definition", query_of(object).into()));
                row.push(("check_option", "NONE".into()));
                let never = [
                    "is_updatable",
                    "is_insertable_into",
                    "is_trigger_updatable",
                    "is_trigger_deletable",
                    "is_trigger_insertable_into",
                ];
                row.extend(never.map(|column| (column, "NO".into())));
                rows.push(row);
            }
        }
        "foreign_tables" => {
            for object in pg.catalog.objects_of(Kind::Source) {
                rows.push(vec![
                    ("foreign_table_catalog", database.clone()),
                    ("foreign_table_schema", object.schema.clone().into()),
                    ("foreign_table_name", object.name.clone().into()),
                    ("foreign_server_catalog", database.clone()),
                    ("foreign_server_name", connector(object).into()),
                ]);
            }
        }
        "table_constraints" => {
            for object in pg.keyed() {
                let mut row = constraint(&database, object);
                row.push(("constraint_type", "PRIMARY KEY".into()));
                row.push(("is_deferrable", "NO".into()));
                row.push(("initially_deferred", "NO".into()));
                row.push(("enforced", "YES".into()));
                rows.push(row);
            }
        }
        "key_column_usage" | "constraint_column_usage" => {
            for object in pg.keyed() {
                for (idx, column_idx) in object.primary_key.iter().enumerate() {
                    let mut row = constraint(&database, object);
                    row.push(("column_name", object.columns[*column_idx].name.clone().into()));
                    if name == "key_column_usage" {
                        row.push(("ordinal_position", (idx + 1).into()));
                    }
                    rows.push(row);
                }
            }
        }
        "sequences" => {
            for (object, sequence) in sequence_definitions(pg) {
                let precision = match sequence.data_type.as_str() {
                    "smallint" => 16,
                    "integer" => 32,
                    _ => 64,
                };
                rows.push(vec![
                    ("sequence_catalog", database.clone()),
                    ("sequence_schema", object.schema.clone().into()),
                    ("sequence_name", object.name.clone().into()),
                    ("data_type", sequence.data_type.clone().into()),
                    ("numeric_precision", Value::Int(precision)),
                    ("numeric_precision_radix", Value::Int(2)),
                    ("numeric_scale", Value::Int(0)),
                    ("start_value", sequence.start.to_string().into()),
                    ("minimum_value", sequence.min.to_string().into()),
                    ("maximum_value", sequence.max.to_string().into()),
                    ("increment", sequence.increment.to_string().into()),
                    ("cycle_option", if sequence.cycle { "YES" } else { "NO" }.into()),
                ]);
            }
        }
        "element_types" => element_types(pg, rows),
        "character_sets" => rows.push(vec![
            ("character_set_name", "UTF8".into()),
            ("character_repertoire", "UCS".into()),
            ("form_of_use", "UTF8".into()),
            ("default_collate_catalog", database),
            ("default_collate_schema", "pg_catalog".into()),
            ("default_collate_name", "C.UTF-8".into()),
        ]),
        "enabled_roles" => {
            for role in pg.catalog.roles().filter(|role| pg.catalog.has_rights_of(&pg.user, &role.name)) {
                rows.push(vec![("role_name", role.name.clone().into())]);
            }
        }
        "applicable_roles" => access::applicable_roles(pg, rows),
        "table_privileges" => access::table_grants(pg, true, rows),
        "role_table_grants" => access::table_grants(pg, false, rows),
        _ => (),
    }
}

/// The relations that have rows of their own, as this schema sees it.
fn shown(pg: &PgCatalog) -> impl Iterator<Item = &std::sync::Arc<Object>> {
    pg.relations().filter(|object| object.kind() != Kind::Sequence)
}

type Row = Vec<(&'static str, Value)>;

fn located(database: &Value, what: &str, object: &Object) -> Row {
    let columns = match what {
        "table" => ["table_catalog", "table_schema", "table_name"],
        _ => ["object_catalog", "object_schema", "object_name"],
    };
    let values = [database.clone(), object.schema.clone().into(), object.name.clone().into()];
    columns.into_iter().zip(values).collect()
}

fn constraint(database: &Value, object: &Object) -> Row {
    let mut row = located(database, "table", object);
    row.push(("constraint_catalog", database.clone()));
    row.push(("constraint_schema", object.schema.clone().into()));
    row.push(("constraint_name", index_name(object).into()));
    row
}

fn tables(pg: &PgCatalog, rows: &mut Rows) {
    let database = Value::from(pg.database.clone());
    for object in shown(pg) {
        let mut row = located(&database, "table", object);
        // PostgreSQL leaves materialized views out, but then tools that read only this view would not
        // find what people come for.
        let table_type = match object.kind() {
            Kind::Table => "BASE TABLE",
            Kind::Source => "FOREIGN",
            _ => "VIEW",
        };
        row.push(("table_type", table_type.into()));
        row.push(("is_insertable_into", if object.kind() == Kind::Table { "YES" } else { "NO" }.into()));
        row.push(("is_typed", "NO".into()));
        rows.push(row);
    }
    for layout in LAYOUTS.iter() {
        rows.push(vec![
            ("table_catalog", database.clone()),
            ("table_schema", layout.schema.into()),
            ("table_name", layout.name.into()),
            ("table_type", if layout.oid < 12_000 { "BASE TABLE" } else { "VIEW" }.into()),
            ("is_insertable_into", "NO".into()),
            ("is_typed", "NO".into()),
        ]);
    }
}

fn columns(pg: &PgCatalog, rows: &mut Rows) {
    let database = Value::from(pg.database.clone());
    for object in shown(pg) {
        for (idx, column) in object.columns.iter().enumerate() {
            let mut row = located(&database, "table", object);
            row.push(("column_name", column.name.clone().into()));
            row.push(("ordinal_position", (idx + 1).into()));
            if column.generated.is_none() {
                row.push(("column_default", default_text(column).into()));
            }
            row.push(("is_nullable", if is_not_null(object, column) { "NO" } else { "YES" }.into()));
            row.extend(typed(&database, &column_type_of(column)));
            row.push(("dtd_identifier", (idx + 1).to_string().into()));
            row.push(("is_self_referencing", "NO".into()));
            row.push(("is_identity", if column.identity.is_some() { "YES" } else { "NO" }.into()));
            let generation = column.identity.map(|identity| match identity {
                Identity::Always => "ALWAYS",
                Identity::ByDefault => "BY DEFAULT",
            });
            row.push(("identity_generation", generation.into()));
            row.push(("identity_cycle", "NO".into()));
            row.push(("is_generated", if column.generated.is_some() { "ALWAYS" } else { "NEVER" }.into()));
            row.push(("generation_expression", column.generated.as_deref().into()));
            row.push(("is_updatable", if object.kind() == Kind::Table { "YES" } else { "NO" }.into()));
            rows.push(row);
        }
    }
    for layout in LAYOUTS.iter() {
        for (idx, (name, type_name)) in layout.columns.iter().enumerate() {
            let field = crate::pg_catalog::layout::field(name, type_name);
            let mut row = typed(&database, &crate::pgwire::types::column_type(&field));
            row.extend([
                ("table_catalog", database.clone()),
                ("table_schema", layout.schema.into()),
                ("table_name", layout.name.into()),
                ("column_name", (*name).into()),
                ("ordinal_position", (idx + 1).into()),
                ("is_nullable", "YES".into()),
                ("dtd_identifier", (idx + 1).to_string().into()),
                ("is_self_referencing", "NO".into()),
                ("is_identity", "NO".into()),
                ("identity_cycle", "NO".into()),
                ("is_generated", "NEVER".into()),
                ("is_updatable", "NO".into()),
            ]);
            rows.push(row);
        }
    }
}

/// The columns that tell a type.
fn typed(database: &Value, column_type: &ColumnType) -> Row {
    let ColumnType { pg_type, typmod } = column_type;
    let is_array = element_of(pg_type).is_some();
    let data_type = match is_array {
        true => "ARRAY".to_owned(),
        false => format_type(pg_type.oid().into(), None),
    };
    let mut row: Row = vec![
        ("data_type", data_type.into()),
        ("udt_catalog", database.clone()),
        ("udt_schema", "pg_catalog".into()),
        ("udt_name", pg_type.name().into()),
    ];
    let radix_and_precision = match *pg_type {
        PgType::INT2 => Some((16, Some(0i64))),
        PgType::INT4 => Some((32, Some(0))),
        PgType::INT8 => Some((64, Some(0))),
        PgType::FLOAT4 => Some((24, None)),
        PgType::FLOAT8 => Some((53, None)),
        _ => None,
    };
    if let Some((precision, scale)) = radix_and_precision {
        row.push(("numeric_precision", Value::Int(precision)));
        row.push(("numeric_precision_radix", Value::Int(2)));
        row.push(("numeric_scale", scale.into()));
    }
    match *pg_type {
        PgType::NUMERIC => {
            row.push(("numeric_precision_radix", Value::Int(10)));
            if *typmod >= 4 {
                row.push(("numeric_precision", Value::Int((i64::from(*typmod) - 4) >> 16)));
                row.push(("numeric_scale", Value::Int((i64::from(*typmod) - 4) & 0x7ff)));
            }
        }
        PgType::VARCHAR | PgType::BPCHAR if *typmod >= 4 => {
            row.push(("character_maximum_length", Value::Int(i64::from(*typmod) - 4)));
            row.push(("character_octet_length", Value::Int((i64::from(*typmod) - 4) * 4)));
        }
        PgType::TEXT | PgType::VARCHAR => {
            row.push(("character_octet_length", Value::Int(1 << 30)));
        }
        PgType::DATE => row.push(("datetime_precision", Value::Int(0))),
        PgType::TIME | PgType::TIMESTAMP | PgType::TIMESTAMPTZ | PgType::INTERVAL => {
            row.push(("datetime_precision", Value::Int(6)));
        }
        _ => (),
    }
    row
}

/// The types of the elements of array columns.
fn element_types(pg: &PgCatalog, rows: &mut Rows) {
    let database = Value::from(pg.database.clone());
    for object in shown(pg) {
        for (idx, column) in object.columns.iter().enumerate() {
            let Some(element) = element_of(&column_type_of(column).pg_type) else { continue };
            let mut row = located(&database, "object", object);
            row.push(("object_type", "TABLE".into()));
            row.push(("collection_type_identifier", (idx + 1).to_string().into()));
            row.push(("data_type", format_type(element.oid().into(), None).into()));
            row.push(("udt_catalog", database.clone()));
            row.push(("udt_schema", "pg_catalog".into()));
            row.push(("udt_name", element.name().into()));
            row.push(("dtd_identifier", format!("a{}", idx + 1).into()));
            rows.push(row);
        }
    }
}
