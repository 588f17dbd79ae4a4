//! Roles and privileges: `CREATE ROLE`, `ALTER ROLE`, `DROP ROLE`, `GRANT`, `REVOKE`, `ALTER DEFAULT PRIVILEGES`,
//! `REASSIGN OWNED`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use tidemill_catalog::{
    BOOTSTRAP, Catalog, DefaultOn, Grant, Kind, Membership, Object, Privilege, Role, Target,
};
use tidemill_core::{SqlState, did_you_mean};
use tidemill_sql::TextFormat;
use tidemill_sql::parser::Name;
use tidemill_sql::statements::{
    AlterDefaultPrivileges, AlterRole, AlterRoleAction, CreateRole, Created, DropRole, GrantOn,
    GrantPrivileges, GrantRoles, ReassignOwned, RoleName, RoleOptions, unknown_privilege,
};

use super::{create, done};
use crate::pgwire::text_format::PostgresText;
use crate::privileges::{DENIED, require_member};
use crate::session::Session;
use crate::session::api::{Notice, Response, SqlError};
use crate::session::login::verifier_of;

fn denied(message: impl Into<String>, detail: impl Into<String>) -> SqlError {
    SqlError::new(DENIED, message).with_detail(detail)
}

/// Errors of the catalog at a place in the statement.
fn at(position: usize) -> impl Fn(tidemill_catalog::Error) -> SqlError {
    move |error| SqlError::from(error).with_position(position)
}

/// The role that a name means.
pub fn role_named(session: &Session, name: &RoleName) -> Option<String> {
    match name {
        RoleName::Name(name) => Some(name.value.clone()),
        RoleName::CurrentUser => Some(session.user().to_owned()),
        RoleName::SessionUser => Some(session.session_user().to_owned()),
        RoleName::Public => None,
    }
}

/// The same, where everybody cannot be meant.
pub fn one_role(
    session: &Session,
    catalog: &Catalog,
    name: &RoleName,
    position: usize,
) -> Result<String, SqlError> {
    let name = role_named(session, name)
        .ok_or_else(|| SqlError::new(SqlState::SYNTAX_ERROR, "PUBLIC is no role").with_position(position))?;
    catalog.role(&name).map_err(at(position))?;
    Ok(name)
}

pub async fn create_role(session: &mut Session, create: &CreateRole) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let user = session.user().to_owned();
    let is_superuser = catalog.is_superuser(&user);
    if !is_superuser && !catalog.role(&user).is_ok_and(|role| role.can_create_roles) {
        return Err(denied(
            "permission denied to create role",
            "Only roles with the CREATEROLE attribute may create roles.",
        ));
    }
    let mut role = Role::new(&create.name.value);
    role.can_login = create.can_login;
    apply(&catalog, &user, &mut role, &create.options)?;
    let mut changed = catalog.create_role(role).map_err(at(create.name.position))?;
    let name = &create.name.value;
    let into = |changed: &Catalog, member: &str, role: &str, is_admin: bool, position: usize| {
        let membership = Membership { role: role.to_owned(), grantor: user.clone(), is_admin };
        changed.grant_role(member, membership).map_err(at(position))
    };
    for role in &create.options.in_roles {
        require_admin(&catalog, &user, role)?;
        changed = into(&changed, name, &role.value, false, role.position)?;
    }
    for (members, is_admin) in [(&create.options.members, false), (&create.options.admins, true)] {
        for member in members {
            changed = into(&changed, &member.value, name, is_admin, member.position)?;
        }
    }
    // Who may create roles but not all may manage what it has created.
    if !is_superuser && !changed.is_admin_of(&user, name) {
        let membership = Membership { role: name.clone(), grantor: BOOTSTRAP.into(), is_admin: true };
        changed = changed.grant_role(&user, membership)?;
    }
    session.commit_catalog(changing, changed).await?;
    Ok(done("CREATE ROLE"))
}

/// The user must be allowed to let others into the role.
fn require_admin(catalog: &Catalog, user: &str, role: &Name) -> Result<(), SqlError> {
    let known = catalog.role(&role.value).map_err(at(role.position))?;
    if known.is_superuser && !catalog.is_superuser(user) {
        return Err(denied(
            format!("permission denied to grant role \"{}\"", role.value),
            "Only roles with the SUPERUSER attribute may grant roles with the SUPERUSER attribute.",
        ));
    }
    match catalog.is_admin_of(user, &role.value) {
        true => Ok(()),
        false => Err(denied(
            format!("permission denied to grant role \"{}\"", role.value),
            format!("Only roles with the ADMIN option on role \"{}\" may grant this role.", role.value),
        )),
    }
}

/// Sets what the options say, as far as the user may.
fn apply(catalog: &Catalog, user: &str, role: &mut Role, options: &RoleOptions) -> Result<(), SqlError> {
    let own = catalog.role(user)?;
    if options.superuser.is_some() && !own.is_superuser {
        return Err(denied(
            "permission denied to set the SUPERUSER attribute",
            "Only roles with the SUPERUSER attribute may change it.",
        ));
    }
    if options.bypass_rls.is_some() && !own.is_superuser {
        return Err(denied(
            "permission denied to set the BYPASSRLS attribute",
            "Only roles with the SUPERUSER attribute may change it.",
        ));
    }
    if options.create_db.is_some() && !own.is_superuser && !own.can_create_databases {
        return Err(denied(
            "permission denied to set the CREATEDB attribute",
            "Only roles with the CREATEDB attribute may change it.",
        ));
    }
    let flags = [
        (options.superuser, &mut role.is_superuser),
        (options.login, &mut role.can_login),
        (options.inherit, &mut role.inherits),
        (options.create_role, &mut role.can_create_roles),
        (options.create_db, &mut role.can_create_databases),
        (options.bypass_rls, &mut role.bypasses_policies),
    ];
    for (given, flag) in flags {
        *flag = given.unwrap_or(*flag);
    }
    if let Some(password) = &options.password {
        role.verifier = match password {
            Some(password) => verifier_of(&password.0)?,
            None => None,
        };
    }
    if let Some(limit) = options.connection_limit {
        role.n_connections_max = limit;
    }
    if let Some((text, position)) = &options.valid_until {
        role.valid_until = moment(text).map_err(|error| error.with_position(*position))?;
    }
    Ok(())
}

/// A timestamp in microseconds; `infinity` is none.
fn moment(text: &str) -> Result<Option<i64>, SqlError> {
    if text.trim().eq_ignore_ascii_case("infinity") {
        return Ok(None);
    }
    let data_type = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = Field::new("valid_until", data_type, true);
    let read = PostgresText.read(&StringArray::from(vec![text]), &field);
    let array = read.map_err(|error| {
        let error = tidemill_sql::Error::from_datafusion(error, "", &Default::default());
        SqlError::from(error)
    })?;
    Ok(Some(array.as_primitive::<TimestampMicrosecondType>().value(0)))
}

pub async fn alter_role(session: &mut Session, alter: &AlterRole) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let user = session.user().to_owned();
    let name = one_role(session, &catalog, &alter.role, alter.position)?;
    let role = catalog.role(&name)?;
    let manages = catalog.is_superuser(&user)
        || (catalog.role(&user).is_ok_and(|user| user.can_create_roles)
            && catalog.is_admin_of(&user, &name)
            && !role.is_superuser);
    let changed = match &alter.action {
        AlterRoleAction::RenameTo(to) => {
            if !manages || name == session.session_user() {
                let (message, detail) = match manages {
                    true => ("session user cannot be renamed", "Log in as another role."),
                    false => ("permission denied to rename role", MANAGERS),
                };
                return Err(denied(message, detail));
            }
            catalog.rename_role(&name, &to.value).map_err(at(to.position))?
        }
        AlterRoleAction::Options(options) => {
            // Everybody may change the own password.
            let only_password = RoleOptions { password: options.password.clone(), ..RoleOptions::default() };
            let is_own_password = name == user && *options == only_password && options.password.is_some();
            if !manages && !is_own_password {
                return Err(denied("permission denied to alter role", MANAGERS).with_position(alter.position));
            }
            let mut role = role.clone();
            apply(&catalog, &user, &mut role, options)?;
            catalog.alter_role(role).map_err(at(alter.position))?
        }
    };
    session.commit_catalog(changing, changed).await?;
    Ok(done("ALTER ROLE"))
}

const MANAGERS: &str =
    "Only superusers, and roles with the CREATEROLE attribute and the ADMIN option on the role, may.";

pub async fn drop_role(session: &mut Session, drop: &DropRole) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let user = session.user().to_owned();
    let mut changed = catalog.as_ref().clone();
    for name in &drop.names {
        let role = match changed.role(&name.value) {
            Ok(role) => role,
            Err(_) if drop.if_exists => {
                session.notice(format!("role \"{}\" does not exist, skipping", name.value));
                continue;
            }
            Err(error) => return Err(at(name.position)(error)),
        };
        let manages = catalog.is_superuser(&user)
            || (catalog.role(&user).is_ok_and(|user| user.can_create_roles)
                && catalog.is_admin_of(&user, &name.value)
                && !role.is_superuser);
        if !manages {
            return Err(denied("permission denied to drop role", MANAGERS).with_position(name.position));
        }
        if [session.user(), session.session_user()].contains(&name.value.as_str()) {
            return Err(SqlError::new(SqlState::OBJECT_IN_USE, "current user cannot be dropped")
                .with_position(name.position));
        }
        changed = changed.drop_role(&name.value).map_err(at(name.position))?;
    }
    session.commit_catalog(changing, changed).await?;
    Ok(done("DROP ROLE"))
}

pub async fn grant_roles(session: &mut Session, grant: &GrantRoles) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let user = session.user().to_owned();
    let mut changed = catalog.as_ref().clone();
    for role in &grant.roles {
        require_admin(&catalog, &user, role)?;
        for (member, position) in &grant.to {
            let member = one_role(session, &catalog, member, *position)?;
            if grant.is_revoke {
                let (without, was) =
                    changed.revoke_role(&member, &role.value, grant.admin_option).map_err(at(*position))?;
                changed = without;
                if !was {
                    let message = format!("role \"{member}\" is not a member of role \"{}\"", role.value);
                    session.notices.push(Notice::warning(SqlState::WARNING, message));
                }
                continue;
            }
            let membership =
                Membership { role: role.value.clone(), grantor: user.clone(), is_admin: grant.admin_option };
            changed = changed.grant_role(&member, membership).map_err(at(*position))?;
        }
    }
    session.commit_catalog(changing, changed).await?;
    Ok(done(if grant.is_revoke { "REVOKE ROLE" } else { "GRANT ROLE" }))
}

pub async fn reassign_owned(session: &mut Session, reassign: &ReassignOwned) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let user = session.user().to_owned();
    let to = one_role(session, &catalog, &reassign.to.0, reassign.to.1)?;
    require_member(&catalog, &user, &to).map_err(|error| error.with_position(reassign.to.1))?;
    let mut changed = catalog.as_ref().clone();
    for (from, position) in &reassign.from {
        let from = one_role(session, &catalog, from, *position)?;
        require_member(&catalog, &user, &from).map_err(|error| error.with_position(*position))?;
        changed = changed.reassign_owned(&from, &to)?;
    }
    session.commit_catalog(changing, changed).await?;
    Ok(done("REASSIGN OWNED"))
}

/// Something to grant on; whether what does not apply to it is left out, as in `ALL TABLES`.
struct On {
    target: Target,
    position: Option<usize>,
    is_one_of_all: bool,
}

pub async fn grant_privileges(session: &mut Session, grant: &GrantPrivileges) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let tag = if grant.is_revoke { "REVOKE" } else { "GRANT" };
    let asked = privileges_named(&grant.privileges)?;
    let mut changed = catalog.as_ref().clone();
    for on in targets(session, &catalog, &grant.on)? {
        let privileges = applicable(&catalog, &on, &asked)?;
        if privileges.is_empty() {
            continue;
        }
        let by_grantor = grantable(session, &catalog, &on, privileges, tag)?;
        for (grantee, position) in &grant.to {
            let grantee = role_named(session, grantee);
            if grantee.is_none() && grant.grant_option && !grant.is_revoke {
                return Err(SqlError::new(SqlState("0LP01"), "grant options can only be granted to roles")
                    .with_position(*position));
            }
            for (grantor, privileges) in &by_grantor {
                let change = Grant {
                    privileges: privileges.clone(),
                    grantee: grantee.clone(),
                    grantor: grantor.clone(),
                    grant_option: grant.grant_option,
                    cascade: grant.cascade,
                };
                let outcome = match grant.is_revoke {
                    true => changed.revoke(&on.target, &change),
                    false => changed.grant(&on.target, &change),
                };
                changed = outcome.map_err(at(*position))?;
            }
        }
    }
    session.commit_catalog(changing, changed).await?;
    Ok(done(tag))
}

pub async fn alter_default_privileges(
    session: &mut Session,
    alter: &AlterDefaultPrivileges,
) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let user = session.user().to_owned();
    let mut roles = Vec::new();
    for (role, position) in &alter.roles {
        let role = one_role(session, &catalog, role, *position)?;
        require_member(&catalog, &user, &role).map_err(|error| error.with_position(*position))?;
        roles.push(role);
    }
    if roles.is_empty() {
        roles.push(user);
    }
    for schema in &alter.schemas {
        catalog.schema(&schema.value).map_err(at(schema.position))?;
    }
    let (on, known, what) = match alter.on {
        Created::Schemas => (DefaultOn::Schemas, &Privilege::OF_SCHEMA[..], "schema"),
        Created::Tables => (DefaultOn::Relations, Privilege::of_kind(Kind::Table), "relation"),
        Created::Sequences => (DefaultOn::Sequences, Privilege::of_kind(Kind::Sequence), "sequence"),
    };
    let privileges = match privileges_named(&alter.privileges)? {
        None => known.to_vec(),
        Some(asked) => {
            if let Some((privilege, position)) =
                asked.iter().find(|(privilege, _)| !known.contains(privilege))
            {
                let message = format!("invalid privilege type {} for {what}", privilege.keyword());
                return Err(SqlError::new(SqlState("0LP01"), message).with_position(*position));
            }
            asked.into_iter().map(|(privilege, _)| privilege).collect()
        }
    };
    let schemas: Vec<Option<&str>> = match alter.schemas.is_empty() {
        true => vec![None],
        false => alter.schemas.iter().map(|schema| Some(schema.value.as_str())).collect(),
    };
    let mut changed = catalog.as_ref().clone();
    for role in &roles {
        for schema in &schemas {
            for (grantee, position) in &alter.to {
                let grant = Grant {
                    privileges: privileges.clone(),
                    grantee: role_named(session, grantee),
                    grantor: role.clone(),
                    grant_option: alter.grant_option,
                    cascade: false,
                };
                changed =
                    changed.alter_defaults(*schema, on, &grant, alter.is_revoke).map_err(at(*position))?;
            }
        }
    }
    session.commit_catalog(changing, changed).await?;
    Ok(done("ALTER DEFAULT PRIVILEGES"))
}

/// The privileges of a list of keywords; `None` for all.
fn privileges_named(
    words: &Option<Vec<(String, usize)>>,
) -> Result<Option<Vec<(Privilege, usize)>>, SqlError> {
    let privilege = |(word, position): &(String, usize)| match Privilege::of_keyword(word) {
        Some(privilege) => Ok((privilege, *position)),
        None if ["REFERENCES", "TRIGGER", "MAINTAIN", "EXECUTE", "SET"].contains(&word.as_str()) => {
            Err(super::unsupported(format!("the privilege {word}")).with_position(*position))
        }
        None => {
            let error = SqlError::from(unknown_privilege(word)).with_position(*position);
            let known = Privilege::ALL.iter().map(|privilege| privilege.keyword());
            Err(match did_you_mean(word, known) {
                Some(near) => error.with_hint(format!("Perhaps you meant {near}.")),
                None => error,
            })
        }
    };
    words.as_ref().map(|words| words.iter().map(privilege).collect()).transpose()
}

/// What stands behind ON.
fn targets(session: &Session, catalog: &Catalog, on: &GrantOn) -> Result<Vec<On>, SqlError> {
    let search_path = session.settings.search_path();
    let one = |target: Target, position: usize| On { target, position: Some(position), is_one_of_all: false };
    match on {
        GrantOn::Databases(names) => names
            .iter()
            .map(|name| match ["tidemill", "postgres"].contains(&name.value.as_str()) {
                true => Ok(one(Target::Database, name.position)),
                false => {
                    let message = format!("database \"{}\" does not exist", name.value);
                    Err(SqlError::new(SqlState::UNDEFINED_DATABASE, message).with_position(name.position))
                }
            })
            .collect(),
        GrantOn::Schemas(names) => names
            .iter()
            .map(|name| {
                catalog.schema(&name.value).map_err(at(name.position))?;
                Ok(one(Target::Schema(name.value.clone()), name.position))
            })
            .collect(),
        GrantOn::Relations { kind, names } => names
            .iter()
            .map(|name| {
                let schema = name.schema.as_deref();
                let object = match kind.and_then(create::kind) {
                    Some(kind) => catalog.resolve_kind(kind, schema, &name.name, &search_path),
                    None => catalog.resolve(schema, &name.name, &search_path),
                };
                Ok(one(Target::Relation(object.map_err(at(name.position))?.oid), name.position))
            })
            .collect(),
        GrantOn::AllInSchema { kind, schemas } => {
            let mut all = Vec::new();
            for schema in schemas {
                catalog.schema(&schema.value).map_err(at(schema.position))?;
                let kind = kind.and_then(create::kind);
                let is_meant = |object: &&Arc<Object>| match kind {
                    Some(kind) => object.kind() == kind,
                    None => !matches!(object.kind(), Kind::Sink | Kind::Sequence | Kind::Secret),
                };
                all.extend(catalog.objects_in(&schema.value).filter(is_meant).map(|object| On {
                    target: Target::Relation(object.oid),
                    position: None,
                    is_one_of_all: true,
                }));
            }
            Ok(all)
        }
    }
}

/// The privileges that are meant, of those that there are on the target.
fn applicable(
    catalog: &Catalog,
    on: &On,
    asked: &Option<Vec<(Privilege, usize)>>,
) -> Result<Vec<Privilege>, SqlError> {
    let known = catalog.privileges_of(&on.target);
    let what = catalog.describe_target(&on.target);
    let invalid = |message: String, position: Option<usize>| {
        let mut error = SqlError::new(SqlState("0LP01"), message);
        error.position = position;
        error
    };
    if known.is_empty() && !on.is_one_of_all {
        return Err(invalid(format!("there is nothing to grant on {what}"), on.position)
            .with_hint("A sink is not read, and only its owner changes it: ALTER SINK … OWNER TO …"));
    }
    let Some(asked) = asked else { return Ok(known.to_vec()) };
    let mut privileges = Vec::new();
    for (privilege, position) in asked {
        if known.contains(privilege) {
            privileges.push(*privilege);
        } else if !on.is_one_of_all {
            let known: Vec<&str> = known.iter().map(|privilege| privilege.keyword()).collect();
            let message = format!("invalid privilege type {} for {what}", privilege.keyword());
            return Err(
                invalid(message, Some(*position)).with_hint(format!("There is {}.", known.join(", ")))
            );
        }
    }
    Ok(privileges)
}

/// Those of the privileges that the user may grant or revoke, by the role in whose name; with a warning where that is not
/// all of them.
fn grantable(
    session: &mut Session,
    catalog: &Catalog,
    on: &On,
    privileges: Vec<Privilege>,
    tag: &str,
) -> Result<BTreeMap<String, Vec<Privilege>>, SqlError> {
    let user = session.user().to_owned();
    let n_asked = privileges.len();
    let mut by_grantor: BTreeMap<String, Vec<Privilege>> = BTreeMap::new();
    for privilege in privileges {
        if let Some(grantor) = catalog.grantor(&user, &on.target, privilege) {
            by_grantor.entry(grantor).or_default().push(privilege);
        }
    }
    let n_granted: usize = by_grantor.values().map(Vec::len).sum();
    let what = catalog.describe_target(&on.target);
    let has = |privilege: &Privilege| catalog.has_privilege(&user, &on.target, *privilege, false);
    if n_granted == 0 && !catalog.privileges_of(&on.target).iter().any(has) {
        let mut error = SqlError::new(DENIED, format!("permission denied for {what}"));
        error.position = on.position;
        return Err(error.with_hint("Only its owner, and whom it has given the grant option, may grant."));
    }
    if n_granted < n_asked {
        let (verb, state) = match tag {
            "GRANT" => ("granted", "01007"),
            _ => ("revoked", "01006"),
        };
        let all = if n_granted == 0 { "no" } else { "not all" };
        let message = format!("{all} privileges were {verb} for {what}");
        session.notices.push(Notice::warning(SqlState(state), message));
    }
    Ok(by_grantor)
}

#[cfg(test)]
mod tests;
