//! Roles, memberships and privileges, as PostgreSQL shows them.

use datafusion::common::Result;
use tidemill_catalog::{AclItem, DefaultOn, Kind, Object, Policy, Privilege, Role, Target};
use tidemill_core::SqlState;

use crate::pg_catalog::functions::error;
use crate::pg_catalog::layout::{LAYOUTS, Rows};
use crate::pg_catalog::value::Value;
use crate::pg_catalog::{PgCatalog, quote_ident};

/// Instead of a password's verifier, which is shown to nobody.
const HIDDEN: &str = "********";

/// `pg_roles` and `pg_authid`.
pub fn roles(pg: &PgCatalog, rows: &mut Rows) {
    for role in pg.catalog.roles() {
        rows.push(vec![
            ("oid", role.oid.into()),
            ("rolname", role.name.clone().into()),
            ("rolsuper", role.is_superuser.into()),
            ("rolinherit", role.inherits.into()),
            ("rolcreaterole", role.can_create_roles.into()),
            ("rolcreatedb", role.can_create_databases.into()),
            ("rolcanlogin", role.can_login.into()),
            ("rolbypassrls", (role.is_superuser || role.bypasses_policies).into()),
            ("rolconnlimit", Value::Int(role.n_connections_max.map_or(-1, i64::from))),
            ("rolpassword", password(role)),
            ("rolvaliduntil", valid_until(role)),
        ]);
    }
}

/// `pg_policy`.
pub fn policies(pg: &PgCatalog, rows: &mut Rows) {
    for (object, policy) in all_policies(pg) {
        let roles: Vec<Value> = match policy.roles.is_empty() {
            true => vec![0u32.into()],
            false => policy.roles.iter().map(|role| pg.role_oid(role).into()).collect(),
        };
        rows.push(vec![
            ("oid", policy.oid.into()),
            ("polname", policy.name.clone().into()),
            ("polrelid", object.oid.into()),
            ("polcmd", policy.command.letter().into()),
            ("polpermissive", (!policy.is_restrictive).into()),
            ("polroles", Value::List(roles)),
            ("polqual", condition(&policy.using)),
            ("polwithcheck", condition(&policy.check)),
        ]);
    }
}

/// `pg_policies`.
pub fn shown_policies(pg: &PgCatalog, rows: &mut Rows) {
    for (object, policy) in all_policies(pg) {
        let roles: Vec<Value> = match policy.roles.is_empty() {
            true => vec!["public".into()],
            false => policy.roles.iter().map(|role| role.clone().into()).collect(),
        };
        rows.push(vec![
            ("schemaname", object.schema.clone().into()),
            ("tablename", object.name.clone().into()),
            ("policyname", policy.name.clone().into()),
            ("permissive", if policy.is_restrictive { "RESTRICTIVE" } else { "PERMISSIVE" }.into()),
            ("roles", Value::List(roles)),
            ("cmd", policy.command.keyword().into()),
            ("qual", condition(&policy.using)),
            ("with_check", condition(&policy.check)),
        ]);
    }
}

fn all_policies(pg: &PgCatalog) -> impl Iterator<Item = (&Object, &Policy)> {
    pg.relations().flat_map(|object| object.policies.iter().map(move |policy| (object.as_ref(), policy)))
}

fn condition(text: &Option<String>) -> Value {
    text.as_ref().map_or(Value::Null, |text| format!("({text})").into())
}

/// `pg_user` and `pg_shadow`: the roles that may log in.
pub fn users(pg: &PgCatalog, rows: &mut Rows) {
    for role in pg.catalog.roles().filter(|role| role.can_login) {
        rows.push(vec![
            ("usename", role.name.clone().into()),
            ("usesysid", role.oid.into()),
            ("usecreatedb", role.can_create_databases.into()),
            ("usesuper", role.is_superuser.into()),
            ("usebypassrls", (role.is_superuser || role.bypasses_policies).into()),
            ("passwd", password(role)),
            ("valuntil", valid_until(role)),
        ]);
    }
}

fn password(role: &Role) -> Value {
    role.verifier.as_ref().map_or(Value::Null, |_| HIDDEN.into())
}

fn valid_until(role: &Role) -> Value {
    role.valid_until.map_or(Value::Null, Value::Time)
}

/// `pg_group`: the roles that may not log in.
pub fn groups(pg: &PgCatalog, rows: &mut Rows) {
    for group in pg.catalog.roles().filter(|role| !role.can_login) {
        let is_in = |role: &&Role| role.member_of.iter().any(|membership| membership.role == group.name);
        let members: Vec<u32> = pg.catalog.roles().filter(is_in).map(|role| role.oid).collect();
        rows.push(vec![
            ("groname", group.name.clone().into()),
            ("grosysid", group.oid.into()),
            ("grolist", members.into()),
        ]);
    }
}

pub fn memberships(pg: &PgCatalog, rows: &mut Rows) {
    for role in pg.catalog.roles() {
        for (idx, membership) in role.member_of.iter().enumerate() {
            rows.push(vec![
                // Memberships have no OID here, and nothing refers to one.
                ("oid", (role.oid.wrapping_mul(64) + idx as u32).into()),
                ("roleid", pg.role_oid(&membership.role).into()),
                ("member", role.oid.into()),
                ("grantor", pg.role_oid(&membership.grantor).into()),
                ("admin_option", membership.is_admin.into()),
                ("inherit_option", role.inherits.into()),
                ("set_option", true.into()),
            ]);
        }
    }
}

/// An access control list; NULL while nothing has been granted or revoked.
pub fn acl(pg: &PgCatalog, target: &Target) -> Value {
    pg.catalog.acl(target).map_or(Value::Null, |items| texts(&items))
}

fn texts(items: &[AclItem]) -> Value {
    items.iter().map(|item| item.text(quote_ident)).collect::<Vec<_>>().into()
}

/// `pg_default_acl`
pub fn defaults(pg: &PgCatalog, rows: &mut Rows) {
    for (idx, default) in pg.catalog.default_privileges().iter().enumerate() {
        let on = match default.on {
            DefaultOn::Relations => "r",
            DefaultOn::Sequences => "S",
            DefaultOn::Schemas => "n",
        };
        rows.push(vec![
            // They have no OID here, and nothing refers to one.
            ("oid", (idx + 1).into()),
            ("defaclrole", pg.role_oid(&default.role).into()),
            ("defaclnamespace", default.schema.as_ref().map_or(0, |schema| pg.schema_oid(schema)).into()),
            ("defaclobjtype", on.into()),
            ("defaclacl", texts(&default.list)),
        ]);
    }
}

/// `acldefault(type, owner)`: the list that NULL stands for.
pub fn acl_default(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let owner = args.get(1).and_then(Value::int).unwrap_or_default();
    let owner = pg.catalog.roles().find(|role| i64::from(role.oid) == owner);
    let (Some(kind), Some(owner)) = (args[0].text(), owner) else { return Ok(Value::Null) };
    let (own, public): (&[Privilege], &[Privilege]) = match kind.as_str() {
        "r" => (Privilege::of_kind(Kind::Table), &[]),
        "s" => (Privilege::of_kind(Kind::Sequence), &[]),
        "n" => (&Privilege::OF_SCHEMA, &[]),
        "d" => (&Privilege::OF_DATABASE, &[Privilege::Temporary, Privilege::Connect]),
        _ => return Ok(Value::Null),
    };
    let item = |grantee: Option<String>, privileges: &[Privilege]| AclItem {
        grantee,
        grantor: owner.name.clone(),
        privileges: privileges.iter().map(|privilege| (*privilege, false)).collect(),
    };
    let mut items = vec![item(None, public), item(Some(owner.name.clone()), own)];
    items.retain(|item| !item.privileges.is_empty());
    Ok(texts(&items))
}

/// `table_privileges`, `role_table_grants`: what the user's roles have been granted and have granted.
pub fn table_grants(pg: &PgCatalog, with_public: bool, rows: &mut Rows) {
    let is_own = |role: &str| pg.catalog.has_rights_of(&pg.user, role);
    for object in pg.relations().filter(|object| object.kind() != Kind::Sequence) {
        for item in pg.catalog.full_acl(&Target::Relation(object.oid)) {
            let is_shown = match &item.grantee {
                Some(grantee) => is_own(grantee) || is_own(&item.grantor),
                None => with_public,
            };
            if !is_shown {
                continue;
            }
            let grantee = item.grantee.clone().unwrap_or_else(|| "PUBLIC".to_owned());
            for (privilege, grantable) in &item.privileges {
                let is_grantable = *grantable || item.grantee.as_ref() == Some(&object.owner);
                rows.push(vec![
                    ("grantor", item.grantor.clone().into()),
                    ("grantee", grantee.clone().into()),
                    ("table_catalog", pg.database.clone().into()),
                    ("table_schema", object.schema.clone().into()),
                    ("table_name", object.name.clone().into()),
                    ("privilege_type", privilege.keyword().into()),
                    ("is_grantable", if is_grantable { "YES" } else { "NO" }.into()),
                    ("with_hierarchy", if *privilege == Privilege::Select { "YES" } else { "NO" }.into()),
                ]);
            }
        }
    }
}

/// `applicable_roles`
pub fn applicable_roles(pg: &PgCatalog, rows: &mut Rows) {
    for role in pg.catalog.roles().filter(|role| pg.catalog.has_rights_of(&pg.user, &role.name)) {
        for membership in &role.member_of {
            rows.push(vec![
                ("grantee", role.name.clone().into()),
                ("role_name", membership.role.clone().into()),
                ("is_grantable", if membership.is_admin { "YES" } else { "NO" }.into()),
            ]);
        }
    }
}

// ---- has_…_privilege -----------------------------------------------------------------------

/// What is asked: of which role, of what, and which privileges.
struct Question<'a> {
    role: String,
    of: &'a Value,
    privileges: &'a Value,
}

/// `([role,] object, …, privileges)`, where `n_objects` arguments say what the object is.
fn question<'a>(pg: &PgCatalog, args: &'a [Value], n_objects: usize) -> Result<Option<Question<'a>>> {
    let (role, rest) = match args.len() {
        n if n == n_objects + 1 => (pg.user.clone(), args),
        n if n == n_objects + 2 => match role_of(pg, &args[0])? {
            Some(role) => (role, &args[1..]),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let (Some(of), Some(privileges)) = (rest.first(), rest.last()) else { return Ok(None) };
    Ok(Some(Question { role, of, privileges }))
}

/// The role of a name or an OID; `public` is everybody.
fn role_of(pg: &PgCatalog, value: &Value) -> Result<Option<String>> {
    if let Value::Text(name) = value {
        if name == "public" || pg.catalog.role(name).is_ok() {
            return Ok(Some(name.clone()));
        }
        return Err(error(SqlState::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist")));
    }
    let oid = value.int().unwrap_or_default();
    Ok(pg.catalog.roles().find(|role| i64::from(role.oid) == oid).map(|role| role.name.clone()))
}

/// Privileges by commas, each perhaps WITH GRANT OPTION: whether the role has one of them.
fn answer(pg: &PgCatalog, role: &str, target: &Target, privileges: &Value) -> Result<Value> {
    let known = pg.catalog.privileges_of(target);
    let mut has_one = false;
    for word in privileges.text().unwrap_or_default().split(',') {
        let upper = word.trim().to_uppercase();
        let (keyword, grantable) = match upper.strip_suffix("WITH GRANT OPTION") {
            Some(keyword) => (keyword.trim(), true),
            None => (upper.as_str(), false),
        };
        has_one |= match Privilege::of_keyword(keyword) {
            Some(privilege) => {
                // What there is not nobody has but who may all.
                let exists = known.contains(&privilege) || pg.catalog.is_superuser(role);
                exists && pg.catalog.has_privilege(role, target, privilege, grantable)
            }
            None if ["REFERENCES", "TRIGGER", "MAINTAIN"].contains(&keyword) => {
                pg.catalog.is_owner(role, target)
            }
            None => {
                let message = format!("unrecognized privilege type: \"{}\"", word.trim());
                return Err(error(SqlState::INVALID_PARAMETER, message));
            }
        };
    }
    Ok(has_one.into())
}

fn relation_privilege(pg: &PgCatalog, args: &[Value], n_objects: usize) -> Result<Value> {
    let Some(Question { role, of, privileges }) = question(pg, args, n_objects)? else {
        return Ok(Value::Null);
    };
    let oid = match of {
        Value::Text(name) => match pg.relation_oid(name) {
            Some(oid) => oid,
            None => {
                let message = format!("relation \"{name}\" does not exist");
                return Err(error(SqlState::UNDEFINED_TABLE, message));
            }
        },
        other => other.int().unwrap_or_default() as u32,
    };
    if LAYOUTS.iter().any(|layout| layout.oid == oid) {
        // Everybody reads the system's own, and nobody changes them.
        let asked = privileges.text().unwrap_or_default().to_uppercase();
        return Ok(asked.split(',').any(|word| word.trim() == "SELECT").into());
    }
    match pg.catalog.get(oid) {
        Some(_) => answer(pg, &role, &Target::Relation(oid), privileges),
        None => Ok(Value::Null),
    }
}

pub fn has_table_privilege(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    relation_privilege(pg, args, 1)
}

/// Privileges on columns are those on the relation.
pub fn has_column_privilege(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    relation_privilege(pg, args, 2)
}

pub fn has_schema_privilege(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let Some(Question { role, of, privileges }) = question(pg, args, 1)? else { return Ok(Value::Null) };
    let name = match of {
        Value::Text(name) => match pg.catalog.schema(name) {
            Ok(schema) => Some(schema.name.clone()),
            Err(missing) => return Err(error(SqlState::UNDEFINED_SCHEMA, missing.to_string())),
        },
        other => {
            let oid = other.int().unwrap_or_default();
            pg.catalog.schemas().find(|schema| i64::from(schema.oid) == oid).map(|schema| schema.name.clone())
        }
    };
    match name {
        Some(name) => answer(pg, &role, &Target::Schema(name), privileges),
        None => Ok(Value::Null),
    }
}

pub fn has_database_privilege(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let Some(Question { role, of, privileges }) = question(pg, args, 1)? else { return Ok(Value::Null) };
    let is_known = match of {
        Value::Text(name) if !pg.databases().iter().any(|(_, known)| known == name) => {
            let message = format!("database \"{name}\" does not exist");
            return Err(error(SqlState::UNDEFINED_DATABASE, message));
        }
        Value::Text(_) => true,
        other => pg.databases().iter().any(|(oid, _)| Some(i64::from(*oid)) == other.int()),
    };
    match is_known {
        true => answer(pg, &role, &Target::Database, privileges),
        false => Ok(Value::Null),
    }
}

/// `pg_has_role([user,] role, 'MEMBER' | 'USAGE' | 'SET' [WITH ADMIN OPTION])`
pub fn pg_has_role(pg: &PgCatalog, args: &[Value]) -> Result<Value> {
    let Some(Question { role, of, privileges }) = question(pg, args, 1)? else { return Ok(Value::Null) };
    let Some(other) = role_of(pg, of)? else { return Ok(Value::Null) };
    let mut is_one = false;
    for word in privileges.text().unwrap_or_default().split(',') {
        is_one |= match word.trim().to_uppercase().as_str() {
            "USAGE" => pg.catalog.has_rights_of(&role, &other),
            "MEMBER" | "SET" => pg.catalog.is_member(&role, &other),
            word if word.ends_with(" WITH ADMIN OPTION") || word.ends_with(" WITH GRANT OPTION") => {
                pg.catalog.is_admin_of(&role, &other)
            }
            _ => {
                let message = format!("unrecognized privilege type: \"{}\"", word.trim());
                return Err(error(SqlState::INVALID_PARAMETER, message));
            }
        };
    }
    Ok(is_one.into())
}
