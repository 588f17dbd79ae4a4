//! The functions of `pg_catalog` that clients call.
//!
//! Each is a row of a table: name, type, and what it computes from the snapshot and one row of arguments.
//! Those whose names begin with `pg_reg` are ours: [`rewrite`](super::rewrite) puts them where a query casts
//! to `regclass` and its kin, which have one value and two faces, a number and a name.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use tidemill_core::SqlState;

use crate::pg_catalog::access;
use crate::pg_catalog::layout::{field, read_file};
use crate::pg_catalog::relations::{
    CLASS_CLASS, NAMESPACE_CLASS, constrained_oid, index_definition, indexed_oid, key_columns,
    named_index_definition, query_of, row_typed_oid, ruled_oid,
};
use crate::pg_catalog::sleep;
use crate::pg_catalog::subquery::Subquery;
use crate::pg_catalog::value::{Value, to_array};
use crate::pg_catalog::{PgCatalog, VERSION, quote_ident, split_name};
use crate::session::api::{Connections, SqlError};
use crate::session::channels::Announcement;

/// All of them.
pub fn functions(pg: &Arc<PgCatalog>) -> Vec<Arc<ScalarUDF>> {
    let table = FUNCTIONS.iter().map(|spec| {
        let signature = TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
        Arc::new(ScalarUDF::from(CatalogFunction {
            spec,
            pg: pg.clone(),
            signature: Signature::new(signature, spec.volatility),
        }))
    });
    table.chain([Arc::new(ScalarUDF::from(Subquery::new(pg))), sleep::function()]).collect()
}

/// The functions of queries, by name.
static PLANNED: LazyLock<HashSet<String>> = LazyLock::new(|| {
    tidemill_sql::scalar_functions().iter().map(|function| function.name().to_owned()).collect()
});

/// Whether a function of this name is one of ours.
pub fn is_known(name: &str) -> bool {
    static NAMES: LazyLock<HashMap<&str, ()>> =
        LazyLock::new(|| FUNCTIONS.iter().map(|spec| (spec.name, ())).collect());
    // What the planner has as well is the user's own, and no reason to look into the catalog.
    (NAMES.contains_key(name) && !PLANNED.contains(name)) || name == sleep::SLEEP
}

/// The name of the type that a function returns, where that is always the same.
pub fn returned_type(name: &str) -> Option<&'static str> {
    let spec = FUNCTIONS.iter().find(|spec| spec.name == name)?;
    (!spec.returns.starts_with("mapped ")).then_some(spec.returns)
}

type Body = fn(&PgCatalog, &[Value]) -> Result<Value>;

struct Spec {
    name: &'static str,
    /// By its name in `pg_type`. `mapped` before it: a list of them for a list.
    returns: &'static str,
    /// Whether NULL for an argument makes the result NULL.
    strict: bool,
    volatility: Volatility,
    body: Body,
}

const fn strict(name: &'static str, returns: &'static str, body: Body) -> Spec {
    Spec { name, returns, strict: true, volatility: Volatility::Stable, body }
}

const fn lenient(name: &'static str, returns: &'static str, body: Body) -> Spec {
    Spec { name, returns, strict: false, volatility: Volatility::Stable, body }
}

/// One that does something, and so must run when the query does, as often as it says.
const fn volatile(name: &'static str, returns: &'static str, body: Body) -> Spec {
    Spec { name, returns, strict: true, volatility: Volatility::Volatile, body }
}

const fn always_true(name: &'static str) -> Spec {
    strict(name, "bool", |_, _| Ok(Value::Bool(true)))
}

const fn always_null(name: &'static str, returns: &'static str) -> Spec {
    strict(name, returns, |_, _| Ok(Value::Null))
}

static FUNCTIONS: &[Spec] = &[
    // The session.
    strict("version", "text", |_, _| Ok(VERSION.into())),
    strict("current_database", "name", |pg, _| Ok(pg.database.clone().into())),
    strict("current_catalog", "name", |pg, _| Ok(pg.database.clone().into())),
    strict("current_user", "name", |pg, _| Ok(pg.user.clone().into())),
    strict("session_user", "name", |pg, _| Ok(pg.session_user.clone().into())),
    strict("current_role", "name", |pg, _| Ok(pg.user.clone().into())),
    strict("user", "name", |pg, _| Ok(pg.user.clone().into())),
    strict("current_schema", "name", |pg, _| Ok(existing_path(pg).next().into())),
    strict("current_schemas", "_name", |pg, args| {
        let implicit = args.first() == Some(&Value::Bool(true));
        let implicit = implicit && !pg.search_path.iter().any(|schema| schema == "pg_catalog");
        let path = implicit.then(|| "pg_catalog".to_owned()).into_iter().chain(existing_path(pg));
        Ok(path.collect::<Vec<_>>().into())
    }),
    strict("current_setting", "text", current_setting),
    strict("pg_backend_pid", "int4", |pg, _| Ok(Value::Int(pg.backend_pid.into()))),
    strict("pg_is_in_recovery", "bool", |_, _| Ok(false.into())),
    strict("pg_is_wal_replay_paused", "bool", |_, _| Ok(false.into())),
    strict("txid_current", "int8", |pg, _| Ok(Value::Int(pg.catalog.version() as i64))),
    strict("getdatabaseencoding", "name", |_, _| Ok("UTF8".into())),
    strict("pg_client_encoding", "name", |_, _| Ok("UTF8".into())),
    strict("pg_my_temp_schema", "oid", |_, _| Ok(Value::Int(0))),
    strict("pg_is_other_temp_schema", "bool", |_, _| Ok(false.into())),
    always_null("inet_server_addr", "text"),
    always_null("inet_server_port", "int4"),
    always_null("inet_client_addr", "text"),
    always_null("inet_client_port", "int4"),
    always_null("pg_postmaster_start_time", "timestamptz"),
    always_null("pg_conf_load_time", "timestamptz"),
    volatile("pg_notify", "void", |pg, args| {
        let payload = args.get(1).and_then(Value::text).unwrap_or_default();
        let announcement = Announcement::notify(&text(args).unwrap_or_default(), &payload);
        pg.announcements.add(announcement.map_err(|error| DataFusionError::External(Box::new(error)))?);
        Ok("".into())
    }),
    volatile("pg_cancel_backend", "bool", |pg, args| {
        Ok(other_backend(pg, args, "cancel query", Connections::cancel)?.into())
    }),
    volatile("pg_terminate_backend", "bool", |pg, args| {
        Ok(other_backend(pg, args, "terminate process", Connections::terminate)?.into())
    }),
    strict("pg_blocking_pids", "_int4", |_, _| Ok(Value::List(Vec::new()))),
    // Visibility and privileges.
    strict("pg_table_is_visible", "bool", |pg, args| Ok(oid(args).and_then(|oid| pg.is_visible(oid)).into())),
    strict("pg_type_is_visible", "bool", |pg, args| {
        let relation = oid(args).and_then(row_typed_oid);
        Ok(relation.map_or(Some(true), |oid| pg.is_visible(oid)).into())
    }),
    always_true("pg_function_is_visible"),
    always_true("pg_operator_is_visible"),
    always_true("pg_opclass_is_visible"),
    always_true("pg_opfamily_is_visible"),
    always_true("pg_collation_is_visible"),
    always_true("pg_conversion_is_visible"),
    always_true("pg_statistics_obj_is_visible"),
    always_true("pg_ts_config_is_visible"),
    always_true("pg_ts_dict_is_visible"),
    always_true("pg_ts_parser_is_visible"),
    always_true("pg_ts_template_is_visible"),
    strict("has_table_privilege", "bool", access::has_table_privilege),
    strict("has_schema_privilege", "bool", access::has_schema_privilege),
    strict("has_database_privilege", "bool", access::has_database_privilege),
    strict("has_column_privilege", "bool", access::has_column_privilege),
    strict("has_any_column_privilege", "bool", access::has_table_privilege),
    always_true("has_function_privilege"),
    strict("has_sequence_privilege", "bool", access::has_table_privilege),
    always_true("has_tablespace_privilege"),
    always_true("has_type_privilege"),
    always_true("has_language_privilege"),
    always_true("has_foreign_data_wrapper_privilege"),
    always_true("has_server_privilege"),
    strict("pg_has_role", "bool", access::pg_has_role),
    strict("row_security_active", "bool", |pg, args| {
        let object = oid(args).and_then(|oid| pg.catalog.get(oid));
        Ok(object.map(|object| pg.catalog.has_policies_for(&pg.user, object)).into())
    }),
    // Names and definitions.
    strict("pg_get_userbyid", "name", |pg, args| {
        let oid = oid(args).unwrap_or_default();
        let role = pg.roles().into_iter().find(|(other, _)| *other == oid);
        Ok(role.map_or_else(|| format!("unknown (OID={oid})"), |(_, name)| name).into())
    }),
    lenient("format_type", "text", |pg, args| {
        let Some(type_oid) = args.first().and_then(Value::int) else { return Ok(Value::Null) };
        if let Some(object) = row_typed_oid(type_oid as u32).and_then(|oid| pg.catalog.get(oid)) {
            return Ok(quote_ident(&object.name).into());
        }
        Ok(format_type(type_oid, args.get(1).and_then(Value::int)).into())
    }),
    strict("pg_get_expr", "text", |_, args| Ok(args[0].clone())),
    strict("pg_get_indexdef", "text", pg_get_indexdef),
    strict("pg_get_viewdef", "text", pg_get_viewdef),
    strict("pg_get_ruledef", "text", |pg, args| {
        let object = oid(args).and_then(ruled_oid).and_then(|oid| pg.catalog.get(oid));
        Ok(object.and_then(|object| query_of(object)).into())
    }),
    strict("pg_get_constraintdef", "text", |pg, args| {
        let object = oid(args).and_then(constrained_oid).and_then(|oid| pg.catalog.get(oid));
        Ok(object.map(|object| format!("PRIMARY KEY ({})", key_columns(object))).into())
    }),
    strict("pg_get_function_result", "text", |_, args| {
        Ok(oid(args).and_then(|oid| PROCS.get(&oid)).map(|proc| format_type(proc.returns, None)).into())
    }),
    strict("pg_get_function_arguments", "text", |_, args| Ok(function_arguments(args))),
    strict("pg_get_function_identity_arguments", "text", |_, args| Ok(function_arguments(args))),
    strict("oidvectortypes", "text", |_, args| match &args[0] {
        Value::List(types) => {
            let types: Vec<String> =
                types.iter().filter_map(Value::int).map(|oid| format_type(oid, None)).collect();
            Ok(types.join(", ").into())
        }
        _ => Ok(Value::Null),
    }),
    always_null("pg_get_functiondef", "text"),
    always_null("pg_get_function_sqlbody", "text"),
    always_null("pg_get_triggerdef", "text"),
    always_null("pg_get_partkeydef", "text"),
    always_null("pg_get_partition_constraintdef", "text"),
    always_null("pg_get_statisticsobjdef", "text"),
    always_null("pg_get_statisticsobjdef_columns", "text"),
    strict("pg_get_serial_sequence", "text", pg_get_serial_sequence),
    always_null("pg_get_replica_identity_index", "oid"),
    always_null("pg_partition_root", "oid"),
    strict("pg_sequence_last_value", "int8", |pg, args| {
        Ok(oid(args).and_then(|oid| pg.sequence_value(oid)).into())
    }),
    always_null("pg_describe_object", "text"),
    strict("acldefault", "_aclitem", access::acl_default),
    strict("pg_relation_is_publishable", "bool", |_, _| Ok(false.into())),
    strict("pg_relation_is_updatable", "int4", |_, _| Ok(Value::Int(0))),
    strict("pg_column_is_updatable", "bool", |_, _| Ok(false.into())),
    strict("pg_indexam_has_property", "bool", |_, _| Ok(false.into())),
    strict("pg_index_column_has_property", "bool", |_, _| Ok(false.into())),
    strict("pg_index_has_property", "bool", |_, _| Ok(false.into())),
    strict("pg_tablespace_location", "text", |_, _| Ok("".into())),
    strict("obj_description", "text", obj_description),
    strict("col_description", "text", |pg, args| {
        let object = oid(args).and_then(|oid| pg.catalog.get(oid));
        let number = args.get(1).and_then(Value::int).and_then(|number| usize::try_from(number - 1).ok());
        let column = object.zip(number).and_then(|(object, idx)| object.columns.get(idx));
        Ok(column.and_then(|column| column.comment.clone()).into())
    }),
    always_null("shobj_description", "text"),
    strict("pg_encoding_to_char", "name", |_, args| {
        Ok(if args[0].int() == Some(6) { "UTF8" } else { "" }.into())
    }),
    strict("pg_char_to_encoding", "int4", |_, args| {
        let is_utf8 = args[0].text().is_some_and(|name| name.replace('-', "").eq_ignore_ascii_case("utf8"));
        Ok(Value::Int(if is_utf8 { 6 } else { -1 }))
    }),
    // Sizes are not known here.
    strict("pg_size_pretty", "text", |_, args| Ok(args[0].int().map(size_pretty).into())),
    always_null("pg_relation_size", "int8"),
    always_null("pg_total_relation_size", "int8"),
    always_null("pg_table_size", "int8"),
    always_null("pg_indexes_size", "int8"),
    always_null("pg_database_size", "int8"),
    always_null("pg_tablespace_size", "int8"),
    always_null("pg_relation_filenode", "oid"),
    always_null("pg_relation_filepath", "text"),
    // Numbers and names of objects.
    strict("to_regclass", "oid", |pg, args| Ok(text(args).and_then(|name| pg.relation_oid(&name)).into())),
    strict("to_regtype", "oid", |pg, args| Ok(text(args).and_then(|name| type_oid(pg, &name)).into())),
    strict("to_regnamespace", "oid", |pg, args| {
        Ok(text(args).and_then(|name| namespace_oid(pg, &name)).into())
    }),
    strict("to_regrole", "oid", |pg, args| Ok(text(args).and_then(|name| role_oid(pg, &name)).into())),
    strict("to_regproc", "oid", |_, args| Ok(text(args).and_then(|name| proc_oid(&name)).into())),
    strict("pg_regclass_oid", "mapped oid", |pg, args| reg_oid(&args[0], |name| regclass(pg, name))),
    strict("pg_regclass_text", "mapped text", |pg, args| {
        reg_text(&args[0], |name| regclass(pg, name), |oid| relation_text(pg, oid))
    }),
    strict("pg_regtype_oid", "mapped oid", |pg, args| reg_oid(&args[0], |name| regtype(pg, name))),
    strict("pg_regtype_text", "mapped text", |pg, args| {
        reg_text(&args[0], |name| regtype(pg, name), |oid| format_type(oid, None))
    }),
    strict("pg_regproc_oid", "mapped oid", |_, args| reg_oid(&args[0], regproc)),
    strict("pg_regproc_text", "mapped text", |_, args| {
        reg_text(&args[0], regproc, |oid| match PROCS.get(&(oid as u32)) {
            Some(proc) => proc.name.clone(),
            None if oid == 0 => "-".to_owned(),
            None => oid.to_string(),
        })
    }),
    strict("pg_regnamespace_oid", "mapped oid", |pg, args| reg_oid(&args[0], |name| regnamespace(pg, name))),
    strict("pg_regnamespace_text", "mapped text", |pg, args| {
        reg_text(
            &args[0],
            |name| regnamespace(pg, name),
            |oid| {
                let mut schemas = pg.catalog.schemas();
                schemas
                    .find(|schema| i64::from(schema.oid) == oid)
                    .map_or_else(|| oid.to_string(), |schema| quote_ident(&schema.name))
            },
        )
    }),
    strict("pg_regother_oid", "mapped oid", |_, args| reg_oid(&args[0], regother)),
    strict("pg_regother_text", "mapped text", |_, args| reg_text(&args[0], regother, |oid| oid.to_string())),
    strict("pg_regrole_oid", "mapped oid", |pg, args| reg_oid(&args[0], |name| regrole(pg, name))),
    strict("pg_regrole_text", "mapped text", |pg, args| {
        reg_text(
            &args[0],
            |name| regrole(pg, name),
            |oid| {
                let roles = pg.roles();
                let role = roles.into_iter().find(|(other, _)| i64::from(*other) == oid);
                role.map_or_else(|| oid.to_string(), |(_, name)| quote_ident(&name))
            },
        )
    }),
    // General functions that DataFusion lacks and clients use here.
    strict("quote_ident", "text", |_, args| Ok(text(args).map(|name| quote_ident(&name)).into())),
    strict("quote_literal", "text", |_, args| Ok(text(args).map(|text| quote_literal(&text)).into())),
    lenient("quote_nullable", "text", |_, args| {
        Ok(args[0].text().map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text)).into())
    }),
    strict("array_upper", "int8", |_, args| match &args[0] {
        Value::List(items) if !items.is_empty() && args[1].int() == Some(1) => Ok(items.len().into()),
        _ => Ok(Value::Null),
    }),
    strict("array_lower", "int8", |_, args| match &args[0] {
        Value::List(items) if !items.is_empty() && args[1].int() == Some(1) => Ok(Value::Int(1)),
        _ => Ok(Value::Null),
    }),
    // The subscripts of an array; the second argument is the first of them.
    strict("pg_subscripts", "_int4", |_, args| match (&args[0], args[1].int()) {
        (Value::List(items), Some(first)) => {
            Ok((0..items.len() as i64).map(|idx| idx + first).collect::<Vec<i64>>().into())
        }
        _ => Ok(Value::Null),
    }),
    strict("pg_array_text", "text", |_, args| Ok(args[0].text().into())),
    strict("pg_vector_text", "text", |_, args| match &args[0] {
        Value::List(items) => Ok(items.iter().filter_map(Value::text).collect::<Vec<_>>().join(" ").into()),
        other => Ok(other.text().into()),
    }),
    lenient("json_build_object", "json", |_, args| Ok(json_build_object(args).into())),
    lenient("jsonb_build_object", "jsonb", |_, args| Ok(json_build_object(args).into())),
    lenient("format", "text", |_, args| {
        Ok(args[0].text().map(|pattern| format(&pattern, &args[1..])).into())
    }),
];

struct CatalogFunction {
    spec: &'static Spec,
    pg: Arc<PgCatalog>,
    signature: Signature,
}

impl std::fmt::Debug for CatalogFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CatalogFunction({})", self.spec.name)
    }
}

impl PartialEq for CatalogFunction {
    fn eq(&self, other: &CatalogFunction) -> bool {
        std::ptr::eq(self.spec, other.spec) && Arc::ptr_eq(&self.pg, &other.pg)
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.name.hash(state);
    }
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.spec.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        plan_err!("the type of {} depends on its arguments", self.spec.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let is_list = matches!(args.arg_fields.first().map(|arg| arg.data_type()), Some(DataType::List(_)));
        let returns = match self.spec.returns.strip_prefix("mapped ") {
            Some(item) if is_list => format!("_{item}"),
            Some(item) => item.to_owned(),
            None => self.spec.returns.to_owned(),
        };
        Ok(Arc::new(field(self.spec.name, &returns)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = rows_of(&args)?;
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            values.push(match self.spec.strict && row.contains(&Value::Null) {
                true => Value::Null,
                false => (self.spec.body)(&self.pg, &row)?,
            });
        }
        columnar(&args, &values)
    }
}

/// The arguments by row; of a call with constants only, the one row.
pub fn rows_of(args: &ScalarFunctionArgs) -> Result<Vec<Vec<Value>>> {
    let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let n_rows = if constant { 1 } else { args.number_rows };
    let mut rows = vec![Vec::with_capacity(args.args.len()); n_rows];
    for arg in &args.args {
        match arg {
            ColumnarValue::Scalar(scalar) => {
                let value = Value::of_scalar(scalar)?;
                rows.iter_mut().for_each(|row| row.push(value.clone()));
            }
            ColumnarValue::Array(array) => {
                for (idx, row) in rows.iter_mut().enumerate() {
                    row.push(Value::of(array.as_ref(), idx)?);
                }
            }
        }
    }
    Ok(rows)
}

/// What a call returns for the values of [`rows_of`]'s rows.
pub fn columnar(args: &ScalarFunctionArgs, values: &[Value]) -> Result<ColumnarValue> {
    let data_type = args.return_field.data_type();
    let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    match (constant, values) {
        (true, [value]) => Ok(ColumnarValue::Scalar(value.scalar(data_type)?)),
        _ => Ok(ColumnarValue::Array(to_array(values, data_type)?)),
    }
}

fn oid(args: &[Value]) -> Option<u32> {
    args.first()?.int()?.try_into().ok()
}

/// Does something to the connection with the process id that is the first argument, if it is of a role whose rights the user has;
/// false when there is none.
fn other_backend(
    pg: &PgCatalog,
    args: &[Value],
    what: &str,
    act: fn(&Connections, i32) -> bool,
) -> Result<bool> {
    let pid = args.first().and_then(Value::int).and_then(|pid| i32::try_from(pid).ok());
    let Some((connections, pid)) = pg.connections.as_deref().zip(pid) else { return Ok(false) };
    let Some(backend) = connections.get(pid) else { return Ok(false) };
    let is_below = pg.catalog.is_superuser(&pg.user) || !pg.catalog.is_superuser(&backend.user);
    match is_below && pg.catalog.has_rights_of(&pg.user, &backend.user) {
        true => Ok(act(connections, pid)),
        false => Err(error(SqlState("42501"), format!("permission denied to {what}"))),
    }
}

fn text(args: &[Value]) -> Option<String> {
    args.first()?.text()
}

pub fn error(sqlstate: SqlState, message: String) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(sqlstate, message)))
}

fn quote_literal(text: &str) -> String {
    tidemill_sql::parser::quote_literal(text)
}

fn existing_path(pg: &PgCatalog) -> impl Iterator<Item = String> {
    pg.search_path.iter().filter(|schema| pg.catalog.schema(schema).is_ok()).cloned()
}

fn current_setting(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let name = text(args).unwrap_or_default();
    match pg.setting(&name) {
        Some(value) => Ok(value.into()),
        None if args.get(1) == Some(&Value::Bool(true)) => Ok(Value::Null),
        None => {
            Err(error(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\"")))
        }
    }
}

fn pg_get_viewdef(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let oid = match &args[0] {
        Value::Text(name) if name.parse::<u32>().is_err() => Some(regclass(pg, name)? as u32),
        _ => oid(args),
    };
    let object = oid.and_then(|oid| pg.catalog.get(oid));
    Ok(object.and_then(|object| query_of(object)).map(|query| format!(" {};", query.trim())).into())
}

/// The sequence of a `SERIAL` or `IDENTITY` column, by its full name.
fn pg_get_serial_sequence(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let table = regclass(pg, &text(args).unwrap_or_default())? as u32;
    let column = args.get(1).and_then(Value::text).unwrap_or_default();
    let is_of = |object: &&Arc<tidemill_catalog::Object>| match &object.definition {
        tidemill_catalog::Definition::Sequence(sequence) => {
            sequence.owned_by.as_ref().is_some_and(|owned_by| owned_by.column == column)
        }
        _ => false,
    };
    let sequence = pg.catalog.owned(table).find(is_of);
    let name = |object: &Arc<tidemill_catalog::Object>| {
        format!("{}.{}", quote_ident(&object.schema), quote_ident(&object.name))
    };
    Ok(sequence.map(name).into())
}

fn pg_get_indexdef(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let named = oid(args).and_then(|oid| {
        let mut objects = pg.catalog.objects();
        objects.find_map(|object| {
            object.indexes.iter().find(|index| index.oid == oid).map(|index| (object, index))
        })
    });
    if let Some((object, index)) = named {
        return Ok(match args.get(1).and_then(Value::int).unwrap_or(0) {
            0 => named_index_definition(object, index).into(),
            number => usize::try_from(number - 1).ok().and_then(|idx| index.keys.get(idx).cloned()).into(),
        });
    }
    let Some(object) = oid(args).and_then(indexed_oid).and_then(|oid| pg.catalog.get(oid)) else {
        return Ok(Value::Null);
    };
    let number = args.get(1).and_then(Value::int).unwrap_or(0);
    if number == 0 {
        return Ok(index_definition(object).into());
    }
    let idx = usize::try_from(number - 1).ok().and_then(|idx| object.primary_key.get(idx));
    Ok(idx.map(|idx| quote_ident(&object.columns[*idx].name)).into())
}

fn obj_description(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let oid = oid(args).unwrap_or_default();
    let class = args.get(1).and_then(Value::text);
    let is = |name: &str, class_oid: u32| {
        class.as_deref().is_none_or(|class| class == name || class == class_oid.to_string())
    };
    let of_object = pg.catalog.get(oid).filter(|_| is("pg_class", CLASS_CLASS));
    if let Some(object) = of_object {
        return Ok(object.comment.clone().into());
    }
    let mut schemas = pg.catalog.schemas().filter(|_| is("pg_namespace", NAMESPACE_CLASS));
    Ok(schemas.find(|schema| schema.oid == oid).and_then(|schema| schema.comment.clone()).into())
}

/// As PostgreSQL prints sizes: a unit as long as the number stays below 10240 of it.
fn size_pretty(bytes: i64) -> String {
    let mut size = bytes;
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    while size.abs() >= 10_240 && unit + 1 < units.len() {
        size = (size + size.signum() * 512) / 1024;
        unit += 1;
    }
    format!("{size} {}", units[unit])
}

/// A function of the data file.
struct Proc {
    name: String,
    returns: i64,
    args: Vec<i64>,
}

static PROCS: LazyLock<HashMap<u32, Proc>> = LazyLock::new(|| {
    let rows = read_file(include_str!("data/pg_proc.tsv"));
    let parsed = rows.into_iter().filter_map(|row| {
        let get = |name: &str| row.iter().find(|(column, _)| *column == name).map(|(_, value)| value);
        let args = get("proargtypes")?.text()?;
        let proc = Proc {
            name: get("proname")?.text()?,
            returns: get("prorettype")?.int()?,
            args: args.split_whitespace().filter_map(|oid| oid.parse().ok()).collect(),
        };
        Some((get("oid")?.int()? as u32, proc))
    });
    parsed.collect()
});

fn function_arguments(args: &[Value]) -> Value {
    let proc = oid(args).and_then(|oid| PROCS.get(&oid));
    proc.map(|proc| proc.args.iter().map(|oid| format_type(*oid, None)).collect::<Vec<_>>().join(", ")).into()
}

/// Names of types by OID.
static TYPES: LazyLock<HashMap<i64, String>> = LazyLock::new(|| {
    let rows = read_file(include_str!("data/pg_type.tsv"));
    rows.into_iter().filter_map(|row| Some((row[0].1.int()?, row[1].1.text()?))).collect()
});

/// A type by its SQL name, with what a modifier says.
pub fn format_type(type_oid: i64, typmod: Option<i64>) -> String {
    let Some(name) = TYPES.get(&type_oid) else {
        return if type_oid == 0 { "-".to_owned() } else { "???".to_owned() };
    };
    let typmod = typmod.filter(|typmod| *typmod >= 0);
    if let Some(item) = name.strip_prefix('_') {
        let item_oid = TYPES.iter().find(|(_, name)| *name == item).map(|(oid, _)| *oid);
        if let Some(item_oid) = item_oid {
            return format!("{}[]", format_type(item_oid, typmod));
        }
    }
    match (name.as_str(), typmod) {
        ("bool", _) => "boolean".to_owned(),
        ("int2", _) => "smallint".to_owned(),
        ("int4", _) => "integer".to_owned(),
        ("int8", _) => "bigint".to_owned(),
        ("float4", _) => "real".to_owned(),
        ("float8", _) => "double precision".to_owned(),
        ("char", _) => "\"char\"".to_owned(),
        ("any", _) => "\"any\"".to_owned(),
        ("varchar", None) => "character varying".to_owned(),
        ("varchar", Some(typmod)) => format!("character varying({})", typmod - 4),
        ("bpchar", None) => "character".to_owned(),
        ("bpchar", Some(typmod)) => format!("character({})", typmod - 4),
        ("numeric", Some(typmod)) => {
            format!("numeric({},{})", (typmod - 4) >> 16, (typmod - 4) & 0x7ff)
        }
        ("time", _) => "time without time zone".to_owned(),
        ("timetz", _) => "time with time zone".to_owned(),
        ("timestamp", _) => "timestamp without time zone".to_owned(),
        ("timestamptz", _) => "timestamp with time zone".to_owned(),
        (name, _) => name.to_owned(),
    }
}

/// A type's OID by any of its names.
fn type_oid(pg: &PgCatalog, name: &str) -> Option<u32> {
    let name = name.trim();
    let (base, suffix) = match name.strip_suffix("[]") {
        Some(base) => (base, "_"),
        None => (name, ""),
    };
    let base = base.split('(').next().unwrap_or_default().trim();
    let lower = match split_name(base).as_deref() {
        Some([schema, name]) if schema == "pg_catalog" => format!("pg_catalog.{name}"),
        _ => base.to_lowercase(),
    };
    let unqualified = lower.strip_prefix("pg_catalog.").unwrap_or(&lower);
    let internal = match unqualified {
        "boolean" => "bool",
        "smallint" => "int2",
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" => "float8",
        "\"char\"" => "char",
        "char" | "character" => "bpchar",
        "character varying" => "varchar",
        "decimal" => "numeric",
        "time without time zone" => "time",
        "time with time zone" => "timetz",
        "timestamp without time zone" => "timestamp",
        "timestamp with time zone" => "timestamptz",
        other => other,
    };
    let internal = format!("{suffix}{internal}");
    if let Some((oid, _)) = TYPES.iter().find(|(_, name)| **name == internal) {
        return Some(*oid as u32);
    }
    let relation = pg.relation_oid(base).filter(|oid| pg.catalog.get(*oid).is_some())?;
    Some(crate::pg_catalog::relations::row_type_oid(relation))
}

fn namespace_oid(pg: &PgCatalog, name: &str) -> Option<u32> {
    let parts = split_name(name)?;
    pg.catalog.schema(parts.first()?).ok().map(|schema| schema.oid)
}

fn role_oid(pg: &PgCatalog, name: &str) -> Option<u32> {
    let parts = split_name(name)?;
    pg.roles().into_iter().find(|(_, role)| Some(role) == parts.first()).map(|(oid, _)| oid)
}

fn proc_oid(name: &str) -> Option<u32> {
    let parts = split_name(name)?;
    PROCS.iter().find(|(_, proc)| Some(&proc.name) == parts.last()).map(|(oid, _)| *oid)
}

/// The OID of a relation that must exist.
pub fn regclass(pg: &PgCatalog, name: &str) -> Result<i64> {
    let missing = || error(SqlState::UNDEFINED_TABLE, format!("relation \"{}\" does not exist", name.trim()));
    pg.relation_oid(name).map(i64::from).ok_or_else(missing)
}

fn regtype(pg: &PgCatalog, name: &str) -> Result<i64> {
    let missing = || error(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"));
    type_oid(pg, name).map(i64::from).ok_or_else(missing)
}

fn regproc(name: &str) -> Result<i64> {
    let missing = || error(SqlState::UNDEFINED_FUNCTION, format!("function \"{name}\" does not exist"));
    proc_oid(name).map(i64::from).ok_or_else(missing)
}

fn regother(name: &str) -> Result<i64> {
    Err(error(SqlState::UNDEFINED_OBJECT, format!("\"{name}\" does not exist")))
}

fn regnamespace(pg: &PgCatalog, name: &str) -> Result<i64> {
    let missing = || error(SqlState("3F000"), format!("schema \"{name}\" does not exist"));
    namespace_oid(pg, name).map(i64::from).ok_or_else(missing)
}

fn regrole(pg: &PgCatalog, name: &str) -> Result<i64> {
    let missing = || error(SqlState::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist"));
    role_oid(pg, name).map(i64::from).ok_or_else(missing)
}

/// A relation's name as `regclass` prints it: qualified where it must be.
fn relation_text(pg: &PgCatalog, oid: i64) -> String {
    let Some((schema, name)) = u32::try_from(oid).ok().and_then(|oid| pg.relation_name(oid)) else {
        return if oid == 0 { "-".to_owned() } else { oid.to_string() };
    };
    match pg.is_visible(oid as u32) {
        Some(true) => quote_ident(&name),
        _ => format!("{}.{}", quote_ident(&schema), quote_ident(&name)),
    }
}

/// The number of an object given by number or by name; of a list, of each.
fn reg_oid(value: &Value, by_name: impl Fn(&str) -> Result<i64> + Copy) -> Result<Value> {
    Ok(match value {
        Value::List(items) => {
            let items: Result<Vec<Value>> = items.iter().map(|item| reg_oid(item, by_name)).collect();
            Value::List(items?)
        }
        Value::Text(name) if name == "-" => Value::Int(0),
        Value::Text(name) => match name.parse() {
            Ok(oid) => Value::Int(oid),
            Err(_) => Value::Int(by_name(name)?),
        },
        other => other.clone(),
    })
}

/// The name of an object given by number or by name; of a list, of each.
fn reg_text(
    value: &Value,
    by_name: impl Fn(&str) -> Result<i64> + Copy,
    name_of: impl Fn(i64) -> String + Copy,
) -> Result<Value> {
    Ok(match reg_oid(value, by_name)? {
        Value::List(items) => Value::List(items.iter().map(|item| item.int().map(name_of).into()).collect()),
        Value::Int(oid) => name_of(oid).into(),
        other => other,
    })
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) | Value::Time(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Text(text) => text.clone().into(),
        Value::List(items) => items.iter().map(json).collect(),
    }
}

fn json_build_object(args: &[Value]) -> String {
    let pairs = args.chunks(2).map(|pair| {
        let key = pair[0].text().unwrap_or_default();
        format!("{} : {}", serde_json::Value::from(key), pair.get(1).map_or(serde_json::Value::Null, json))
    });
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

/// `format()`: `%s`, `%I`, `%L` and `%%`.
fn format(pattern: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let kind = chars.next();
        if kind == Some('%') || kind.is_none() {
            out.push('%');
            continue;
        }
        let text = args.next().and_then(Value::text);
        match kind {
            Some('I') => out.push_str(&quote_ident(&text.unwrap_or_default())),
            Some('L') => out.push_str(&text.map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text))),
            _ => out.push_str(&text.unwrap_or_default()),
        }
    }
    out
}
