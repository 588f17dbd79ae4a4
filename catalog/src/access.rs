//! Who may do what: roles, memberships, and the privileges that owners have granted.
//!
//! As in PostgreSQL: an owner may do all to what is its, a superuser all to everything, and others what an access
//! control list says that they, a role that they inherit from, or everybody may. What an owner may is in no list, so
//! it cannot be lost; lists are shown with it ([`Catalog::acl`]).
//!
//! Roles are named by their names, which are unique and which owners have always been kept by; renaming a role goes
//! through everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, FIRST_OID, PUBLIC};
use crate::error::Error;
use crate::object::{Kind, Object, Oid};

/// The superuser that every database has, and what everything belonged to before there were roles.
pub const BOOTSTRAP: &str = "tidemill";

/// May read everything.
pub const READ_ALL_DATA: &str = "pg_read_all_data";
/// May change everything.
pub const WRITE_ALL_DATA: &str = "pg_write_all_data";
/// May read files of the server.
pub const READ_SERVER_FILES: &str = "pg_read_server_files";
/// May write files of the server.
pub const WRITE_SERVER_FILES: &str = "pg_write_server_files";
/// May make the server connect to others.
pub const CREATE_SUBSCRIPTION: &str = "pg_create_subscription";

/// May see what others do.
pub const MONITOR: &str = "pg_monitor";

/// The roles that are only to be granted, with PostgreSQL's OIDs. The last three are there for the scripts that grant them.
const PREDEFINED: [(&str, Oid); 9] = [
    (READ_ALL_DATA, 6181),
    (WRITE_ALL_DATA, 6182),
    (READ_SERVER_FILES, 4569),
    (WRITE_SERVER_FILES, 4570),
    (CREATE_SUBSCRIPTION, 6304),
    (MONITOR, 3373),
    ("pg_read_all_settings", 3374),
    ("pg_read_all_stats", 3375),
    ("pg_signal_backend", 4200),
];

/// Names that mean something else where a role's name can stand.
const RESERVED: [&str; 6] = ["public", "none", "current_user", "current_role", "session_user", "user"];

/// Who can own, log in, and be granted something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub oid: Oid,
    pub name: String,
    #[serde(default)]
    pub is_superuser: bool,
    #[serde(default)]
    pub can_login: bool,
    /// Whether it may do what the roles may that it is a member of, without becoming them.
    #[serde(default)]
    pub inherits: bool,
    #[serde(default)]
    pub can_create_roles: bool,
    #[serde(default)]
    pub can_create_databases: bool,
    /// Whether it sees all rows, whatever policies say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypasses_policies: bool,
    /// `SCRAM-SHA-256$…`: what a password is checked against, and cannot be had from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<Verifier>,
    /// How many connections it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_connections_max: Option<u32>,
    /// Until when its password is good, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<Membership>,
}

/// The text of a verifier, which nothing prints.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Verifier(pub String);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

/// That a role is in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub role: String,
    pub grantor: String,
    /// Whether it may let others in.
    #[serde(default)]
    pub is_admin: bool,
}

impl Role {
    /// A role that may do nothing yet. Its OID is given when it is created.
    pub fn new(name: impl Into<String>) -> Role {
        Role {
            oid: 0,
            name: name.into(),
            is_superuser: false,
            can_login: false,
            inherits: true,
            can_create_roles: false,
            can_create_databases: false,
            bypasses_policies: false,
            verifier: None,
            n_connections_max: None,
            valid_until: None,
            member_of: Vec::new(),
        }
    }

    /// Whether it is one of those that every database has.
    pub fn is_predefined(&self) -> bool {
        self.oid < FIRST_OID
    }
}

/// What can be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    Insert,
    Select,
    Update,
    Delete,
    Truncate,
    Usage,
    Create,
    Temporary,
    Connect,
}

impl Privilege {
    /// All of them, in the order in which PostgreSQL writes them.
    pub const ALL: [Privilege; 9] = [
        Privilege::Insert,
        Privilege::Select,
        Privilege::Update,
        Privilege::Delete,
        Privilege::Truncate,
        Privilege::Usage,
        Privilege::Create,
        Privilege::Temporary,
        Privilege::Connect,
    ];

    /// As statements have it.
    pub fn keyword(self) -> &'static str {
        match self {
            Privilege::Insert => "INSERT",
            Privilege::Select => "SELECT",
            Privilege::Update => "UPDATE",
            Privilege::Delete => "DELETE",
            Privilege::Truncate => "TRUNCATE",
            Privilege::Usage => "USAGE",
            Privilege::Create => "CREATE",
            Privilege::Temporary => "TEMPORARY",
            Privilege::Connect => "CONNECT",
        }
    }

    /// As access control lists have it.
    pub fn letter(self) -> char {
        match self {
            Privilege::Insert => 'a',
            Privilege::Select => 'r',
            Privilege::Update => 'w',
            Privilege::Delete => 'd',
            Privilege::Truncate => 'D',
            Privilege::Usage => 'U',
            Privilege::Create => 'C',
            Privilege::Temporary => 'T',
            Privilege::Connect => 'c',
        }
    }

    /// The one of this keyword.
    pub fn of_keyword(keyword: &str) -> Option<Privilege> {
        let keyword = if keyword.eq_ignore_ascii_case("TEMP") { "TEMPORARY" } else { keyword };
        Privilege::ALL.into_iter().find(|privilege| privilege.keyword().eq_ignore_ascii_case(keyword))
    }

    /// Those that a relation of this kind has.
    pub fn of_kind(kind: Kind) -> &'static [Privilege] {
        match kind {
            Kind::Table => &[
                Privilege::Insert,
                Privilege::Select,
                Privilege::Update,
                Privilege::Delete,
                Privilege::Truncate,
            ],
            Kind::Source | Kind::Pipeline | Kind::View => &[Privilege::Select],
            Kind::Sequence => &[Privilege::Select, Privilege::Update, Privilege::Usage],
            Kind::Secret => &[Privilege::Usage],
            // Nobody reads a sink, and only its owner changes it.
            Kind::Sink => &[],
        }
    }

    pub const OF_SCHEMA: [Privilege; 2] = [Privilege::Usage, Privilege::Create];
    pub const OF_DATABASE: [Privilege; 3] = [Privilege::Create, Privilege::Temporary, Privilege::Connect];
}

/// What privileges are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one that there is.
    Database,
    Schema(String),
    Relation(Oid),
}

/// What one role has given to another, or to everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclItem {
    /// `None` for everybody.
    pub grantee: Option<String>,
    pub grantor: String,
    /// And whether the grantee may grant it on.
    pub privileges: BTreeMap<Privilege, bool>,
}

impl AclItem {
    fn add(&mut self, grant: &Grant) {
        for privilege in &grant.privileges {
            *self.privileges.entry(*privilege).or_default() |= grant.grant_option;
        }
    }

    /// Takes privileges away, or only the option to grant them on.
    fn take_back(&mut self, revoke: &Grant) {
        for privilege in &revoke.privileges {
            if !revoke.grant_option {
                self.privileges.remove(privilege);
            } else if let Some(grantable) = self.privileges.get_mut(privilege) {
                *grantable = false;
            }
        }
    }

    /// As PostgreSQL writes it: `grantee=letters/grantor`, with `*` behind what may be granted on.
    pub fn text(&self, quote: impl Fn(&str) -> String) -> String {
        let letters: String = self
            .privileges
            .iter()
            .flat_map(|(privilege, grantable)| [Some(privilege.letter()), grantable.then_some('*')])
            .flatten()
            .collect();
        let grantee = self.grantee.as_deref().map(&quote).unwrap_or_default();
        format!("{grantee}={letters}/{}", quote(&self.grantor))
    }
}

/// A change to an access control list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub privileges: Vec<Privilege>,
    /// `None` for everybody.
    pub grantee: Option<String>,
    pub grantor: String,
    /// `WITH GRANT OPTION`, or of a REVOKE: `GRANT OPTION FOR`, that is only that.
    pub grant_option: bool,
    /// Of a REVOKE: also what the grantee has granted on.
    pub cascade: bool,
}

/// What whoever creates something gives away with it, from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultPrivileges {
    /// Who creates it.
    pub role: String,
    /// Where; `None` for everywhere.
    pub schema: Option<String>,
    pub on: DefaultOn,
    pub list: Vec<AclItem>,
}

/// What is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultOn {
    /// What can be read: tables, sources, pipelines, views.
    Relations,
    Sequences,
    Schemas,
}

/// Roles and lists. The initial one has what every database has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Access {
    pub roles: BTreeMap<String, Role>,
    /// `None` while nobody has changed what everybody may.
    pub database: Option<Vec<AclItem>>,
    pub schemas: BTreeMap<String, Vec<AclItem>>,
    pub relations: BTreeMap<Oid, Vec<AclItem>>,
    pub defaults: Vec<DefaultPrivileges>,
}

impl Default for Access {
    fn default() -> Access {
        let bootstrap = Role {
            oid: 10,
            is_superuser: true,
            can_login: true,
            can_create_roles: true,
            can_create_databases: true,
            ..Role::new(BOOTSTRAP)
        };
        let predefined = PREDEFINED.map(|(name, oid)| Role { oid, ..Role::new(name) });
        let all = predefined.into_iter().chain([bootstrap]);
        Access {
            roles: all.map(|role| (role.name.clone(), role)).collect(),
            database: None,
            schemas: BTreeMap::new(),
            relations: BTreeMap::new(),
            defaults: Vec::new(),
        }
    }
}

impl Access {
    /// A role and all that it is in, directly or not; with `by_inheritance`, those that it need not become first.
    fn roles_of(&self, name: &str, by_inheritance: bool) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut next = vec![name.to_owned()];
        while let Some(name) = next.pop() {
            let Some(role) = self.roles.get(&name) else { continue };
            if found.insert(name) && (role.inherits || !by_inheritance) {
                next.extend(role.member_of.iter().map(|membership| membership.role.clone()));
            }
        }
        found
    }

    /// What is in force for a target, without its owner's.
    fn list(&self, target: &Target) -> Vec<AclItem> {
        let everybody = |privileges: &[Privilege]| {
            vec![AclItem {
                grantee: None,
                grantor: BOOTSTRAP.into(),
                privileges: privileges.iter().map(|privilege| (*privilege, false)).collect(),
            }]
        };
        match target {
            Target::Database => match &self.database {
                Some(list) => list.clone(),
                None => everybody(&[Privilege::Temporary, Privilege::Connect]),
            },
            Target::Schema(name) => match (self.schemas.get(name), name.as_str()) {
                (Some(list), _) => list.clone(),
                (None, PUBLIC | "pg_catalog" | "information_schema") => everybody(&[Privilege::Usage]),
                (None, _) => Vec::new(),
            },
            Target::Relation(oid) => self.relations.get(oid).cloned().unwrap_or_default(),
        }
    }

    fn is_changed(&self, target: &Target) -> bool {
        match target {
            Target::Database => self.database.is_some(),
            Target::Schema(name) => self.schemas.contains_key(name),
            Target::Relation(oid) => self.relations.contains_key(oid),
        }
    }

    fn set_list(&mut self, target: &Target, mut list: Vec<AclItem>) {
        list.retain(|item| !item.privileges.is_empty());
        match target {
            Target::Database => self.database = Some(list),
            Target::Schema(name) => drop(self.schemas.insert(name.clone(), list)),
            Target::Relation(oid) => drop(self.relations.insert(*oid, list)),
        }
    }

    /// All lists, with what they are of.
    fn lists(&self) -> Vec<(Target, &Vec<AclItem>)> {
        let database = self.database.iter().map(|list| (Target::Database, list));
        let schemas = self.schemas.iter().map(|(name, list)| (Target::Schema(name.clone()), list));
        let relations = self.relations.iter().map(|(oid, list)| (Target::Relation(*oid), list));
        database.chain(schemas).chain(relations).collect()
    }

    fn lists_mut(&mut self) -> impl Iterator<Item = &mut Vec<AclItem>> {
        let defaults = self.defaults.iter_mut().map(|default| &mut default.list);
        let lists =
            self.database.iter_mut().chain(self.schemas.values_mut()).chain(self.relations.values_mut());
        lists.chain(defaults)
    }
}

/// Takes away what was granted on by those who may not grant it any more; or refuses, where that is not wanted.
fn settle(list: &mut [AclItem], owner: &str, cascade: bool) -> Result<(), Error> {
    loop {
        let may_grant: BTreeSet<(String, Privilege)> = list
            .iter()
            .flat_map(|item| {
                item.privileges.iter().map(move |(privilege, grantable)| (item, privilege, grantable))
            })
            .filter(|(_, _, grantable)| **grantable)
            .filter_map(|(item, privilege, _)| Some((item.grantee.clone()?, *privilege)))
            .collect();
        let mut is_settled = true;
        for item in list.iter_mut().filter(|item| item.grantor != owner) {
            let grantor = item.grantor.clone();
            let n_before = item.privileges.len();
            // What everybody had from the start was granted by nobody who could lose the right to.
            item.privileges.retain(|privilege, _| {
                grantor == BOOTSTRAP || may_grant.contains(&(grantor.clone(), *privilege))
            });
            is_settled &= item.privileges.len() == n_before;
        }
        match (is_settled, cascade) {
            (true, _) => return Ok(()),
            (false, true) => (),
            (false, false) => return Err(Error::DependentPrivileges),
        }
    }
}

impl Catalog {
    /// The role of this name.
    pub fn role(&self, name: &str) -> Result<&Role, Error> {
        self.access.roles.get(name).ok_or_else(|| Error::RoleNotFound { name: name.to_owned() })
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.access.roles.values()
    }

    /// Whether a role may do all to everything. One that does not exist any more may do nothing.
    pub fn is_superuser(&self, role: &str) -> bool {
        self.access.roles.get(role).is_some_and(|role| role.is_superuser)
    }

    /// Whether a role can become another: it is the other, or in it, or a superuser.
    pub fn is_member(&self, role: &str, of: &str) -> bool {
        self.is_superuser(role) || self.access.roles_of(role, false).contains(of)
    }

    /// Whether a role may do what another may, without becoming it.
    pub fn has_rights_of(&self, role: &str, other: &str) -> bool {
        self.is_superuser(role) || self.access.roles_of(role, true).contains(other)
    }

    /// Whether a role may let others into another.
    pub fn is_admin_of(&self, role: &str, other: &str) -> bool {
        self.is_superuser(role)
            || self.access.roles_of(role, false).iter().any(|name| {
                let memberships = self.access.roles.get(name).map(|role| role.member_of.as_slice());
                memberships.unwrap_or_default().iter().any(|m| m.role == other && m.is_admin)
            })
    }

    /// Who owns it. Nobody owns a relation that is not there.
    pub fn owner_of(&self, target: &Target) -> &str {
        match target {
            Target::Database => BOOTSTRAP,
            Target::Schema(name) => self.schemas.get(name).map_or("", |schema| schema.owner.as_str()),
            Target::Relation(oid) => self.get(*oid).map_or("", |object| object.owner.as_str()),
        }
    }

    /// Whether a role may do what only owners may.
    pub fn is_owner(&self, role: &str, target: &Target) -> bool {
        self.has_rights_of(role, self.owner_of(target))
    }

    /// Whether a role has a privilege; with `grantable`, whether it may also grant it.
    pub fn has_privilege(&self, role: &str, target: &Target, privilege: Privilege, grantable: bool) -> bool {
        if self.is_owner(role, target) {
            return true;
        }
        let roles = self.access.roles_of(role, true);
        if !grantable && self.is_allowed_by_predefined(&roles, target, privilege) {
            return true;
        }
        self.access.list(target).iter().any(|item| {
            let is_for_role = item.grantee.as_ref().is_none_or(|grantee| roles.contains(grantee));
            is_for_role && item.privileges.get(&privilege).is_some_and(|has_option| *has_option || !grantable)
        })
    }

    /// In whose name a role may grant a privilege: the owner's, or that of the role that may grant it on.
    pub fn grantor(&self, role: &str, target: &Target, privilege: Privilege) -> Option<String> {
        if self.is_owner(role, target) {
            return Some(self.owner_of(target).to_owned());
        }
        let roles = self.access.roles_of(role, true);
        let list = self.access.list(target);
        let may_grant = list.iter().filter(|item| item.privileges.get(&privilege) == Some(&true));
        let mut grantees = may_grant.filter_map(|item| item.grantee.clone());
        grantees.find(|grantee| roles.contains(grantee))
    }

    fn is_allowed_by_predefined(
        &self,
        roles: &BTreeSet<String>,
        target: &Target,
        privilege: Privilege,
    ) -> bool {
        let (reads, writes) = (roles.contains(READ_ALL_DATA), roles.contains(WRITE_ALL_DATA));
        match (target, privilege) {
            (Target::Relation(_), Privilege::Select) => reads,
            (Target::Relation(_), Privilege::Insert | Privilege::Update | Privilege::Delete) => writes,
            (Target::Schema(_), Privilege::Usage) => reads || writes,
            _ => false,
        }
    }

    /// The list of a target as PostgreSQL has it, with what its owner may; `None` while nobody has granted or revoked
    /// anything.
    pub fn acl(&self, target: &Target) -> Option<Vec<AclItem>> {
        self.access.is_changed(target).then(|| self.full_acl(target))
    }

    /// The same, also where nothing has been changed.
    pub fn full_acl(&self, target: &Target) -> Vec<AclItem> {
        let owner = self.owner_of(target).to_owned();
        let privileges = self.privileges_of(target);
        let own = AclItem {
            grantee: Some(owner.clone()),
            grantor: owner,
            privileges: privileges.iter().map(|privilege| (*privilege, false)).collect(),
        };
        let own = Some(own).filter(|own| !own.privileges.is_empty());
        own.into_iter().chain(self.access.list(target)).collect()
    }

    /// The privileges that there are on a target.
    pub fn privileges_of(&self, target: &Target) -> &'static [Privilege] {
        match target {
            Target::Database => &Privilege::OF_DATABASE,
            Target::Schema(_) => &Privilege::OF_SCHEMA,
            Target::Relation(oid) => self.get(*oid).map_or(&[], |object| Privilege::of_kind(object.kind())),
        }
    }

    /// With a new role.
    pub fn create_role(&self, role: Role) -> Result<Catalog, Error> {
        check_role_name(&role.name)?;
        if self.access.roles.contains_key(&role.name) {
            return Err(Error::RoleExists { name: role.name });
        }
        let mut catalog = self.changed();
        let oid = catalog.take_oid()?;
        Arc::make_mut(&mut catalog.access).roles.insert(role.name.clone(), Role { oid, ..role });
        Ok(catalog)
    }

    /// With a role changed. Its name, its OID and what it is in stay.
    pub fn alter_role(&self, role: Role) -> Result<Catalog, Error> {
        let known = self.role(&role.name)?;
        if PREDEFINED.iter().any(|(name, _)| *name == role.name) {
            return Err(Error::System { name: role.name });
        }
        if role.name == BOOTSTRAP && !(role.is_superuser && role.can_login) {
            return Err(Error::BootstrapRole);
        }
        let role = Role { oid: known.oid, member_of: known.member_of.clone(), ..role };
        let mut catalog = self.changed();
        Arc::make_mut(&mut catalog.access).roles.insert(role.name.clone(), role);
        Ok(catalog)
    }

    /// With another name for a role, everywhere.
    pub fn rename_role(&self, name: &str, to: &str) -> Result<Catalog, Error> {
        check_role_name(to)?;
        let role = self.role(name)?;
        if role.is_predefined() {
            return Err(Error::System { name: name.to_owned() });
        }
        if self.access.roles.contains_key(to) {
            return Err(Error::RoleExists { name: to.to_owned() });
        }
        let mut catalog = self.reassigned(name, to);
        catalog.rename_in_policies(name, Some(to));
        let access = Arc::make_mut(&mut catalog.access);
        let mut role = access.roles.remove(name).expect("it was found above");
        role.name = to.to_owned();
        access.roles.insert(to.to_owned(), role);
        let rename = |other: &mut String| {
            if other == name {
                *other = to.to_owned();
            }
        };
        for membership in access.roles.values_mut().flat_map(|role| &mut role.member_of) {
            rename(&mut membership.role);
            rename(&mut membership.grantor);
        }
        access.defaults.iter_mut().for_each(|default| rename(&mut default.role));
        for item in access.lists_mut().flatten() {
            rename(&mut item.grantor);
            item.grantee.iter_mut().for_each(rename);
        }
        Ok(catalog)
    }

    /// Without a role, which must own nothing and be in no list.
    pub fn drop_role(&self, name: &str) -> Result<Catalog, Error> {
        let role = self.role(name)?;
        if role.is_predefined() {
            return Err(Error::System { name: name.to_owned() });
        }
        let mut uses = Vec::new();
        for schema in self.schemas().filter(|schema| schema.owner == name) {
            uses.push(format!("owner of schema {}", schema.name));
        }
        for object in self.objects().filter(|object| object.owner == name) {
            uses.push(format!("owner of {}", object.describe()));
        }
        for (target, list) in self.access.lists() {
            if list.iter().any(|item| item.grantee.as_deref() == Some(name) || item.grantor == name) {
                uses.push(format!("privileges for {}", self.describe_target(&target)));
            }
        }
        for object in self.objects() {
            for policy in object.policies.iter().filter(|policy| policy.roles.iter().any(|role| role == name))
            {
                uses.push(format!("target of policy {} on {}", policy.name, object.describe()));
            }
        }
        for default in &self.access.defaults {
            let is_grantee = default.list.iter().any(|item| item.grantee.as_deref() == Some(name));
            if is_grantee || default.role == name {
                let on = match default.on {
                    DefaultOn::Relations => "relations",
                    DefaultOn::Sequences => "sequences",
                    DefaultOn::Schemas => "schemas",
                };
                uses.push(format!("default privileges on new {on} belonging to role {}", default.role));
            }
        }
        if !uses.is_empty() {
            return Err(Error::RoleInUse { name: name.to_owned(), uses });
        }
        let mut catalog = self.changed();
        let access = Arc::make_mut(&mut catalog.access);
        access.roles.remove(name);
        for role in access.roles.values_mut() {
            role.member_of.retain(|membership| membership.role != name);
            // It stays a member, by the word of the one that is always there.
            for membership in role.member_of.iter_mut().filter(|membership| membership.grantor == name) {
                membership.grantor = BOOTSTRAP.into();
            }
        }
        Ok(catalog)
    }

    /// With `member` in `role`.
    pub fn grant_role(&self, member: &str, membership: Membership) -> Result<Catalog, Error> {
        self.role(member)?;
        self.role(&membership.role)?;
        if self.access.roles_of(&membership.role, false).contains(member) {
            return Err(Error::MembershipCycle { role: membership.role, member: member.to_owned() });
        }
        let mut catalog = self.changed();
        let access = Arc::make_mut(&mut catalog.access);
        let of_member = &mut access.roles.get_mut(member).expect("it was found above").member_of;
        match of_member.iter_mut().find(|known| known.role == membership.role) {
            // What was granted before stays.
            Some(known) => known.is_admin |= membership.is_admin,
            None => of_member.push(membership),
        }
        Ok(catalog)
    }

    /// With `member` in `role` no more, or with `only_admin` no more as its administrator; and whether it was.
    pub fn revoke_role(&self, member: &str, role: &str, only_admin: bool) -> Result<(Catalog, bool), Error> {
        self.role(member)?;
        self.role(role)?;
        let mut catalog = self.changed();
        let access = Arc::make_mut(&mut catalog.access);
        let of_member = &mut access.roles.get_mut(member).expect("it was found above").member_of;
        let was = of_member.iter().any(|known| known.role == role);
        match only_admin {
            true => of_member.iter_mut().filter(|m| m.role == role).for_each(|m| m.is_admin = false),
            false => of_member.retain(|known| known.role != role),
        }
        Ok((catalog, was))
    }

    /// With privileges granted.
    pub fn grant(&self, target: &Target, grant: &Grant) -> Result<Catalog, Error> {
        if let Some(grantee) = &grant.grantee {
            self.role(grantee)?;
        }
        let mut list = self.access.list(target);
        let is_same = |item: &AclItem| item.grantee == grant.grantee && item.grantor == grant.grantor;
        let item = match list.iter().position(is_same) {
            Some(idx) => &mut list[idx],
            None => {
                list.push(AclItem {
                    grantee: grant.grantee.clone(),
                    grantor: grant.grantor.clone(),
                    privileges: BTreeMap::new(),
                });
                list.last_mut().expect("it was just put there")
            }
        };
        // What an owner has it has anyway.
        if grant.grantee.as_deref() != Some(self.owner_of(target)) {
            item.add(grant);
        }
        let mut catalog = self.changed();
        Arc::make_mut(&mut catalog.access).set_list(target, list);
        Ok(catalog)
    }

    /// With privileges taken back.
    pub fn revoke(&self, target: &Target, revoke: &Grant) -> Result<Catalog, Error> {
        if let Some(grantee) = &revoke.grantee {
            self.role(grantee)?;
        }
        let owner = self.owner_of(target).to_owned();
        let mut list = self.access.list(target);
        for item in list.iter_mut().filter(|item| item.grantee == revoke.grantee) {
            // Others' grants are theirs to take back. An owner's may have been made in its name before it owned this.
            if item.grantor != revoke.grantor && !(revoke.grantor == owner && item.grantor == BOOTSTRAP) {
                continue;
            }
            item.take_back(revoke);
        }
        settle(&mut list, &owner, revoke.cascade)?;
        let mut catalog = self.changed();
        Arc::make_mut(&mut catalog.access).set_list(target, list);
        Ok(catalog)
    }

    /// With another owner for a relation.
    pub fn set_owner(&self, oid: Oid, owner: &str) -> Result<Catalog, Error> {
        self.role(owner)?;
        let object = self.expect(oid);
        let before = object.owner.clone();
        let mut catalog = self.changed();
        catalog.put(Arc::new(Object { owner: owner.to_owned(), ..object.as_ref().clone() }));
        catalog.regrant(&Target::Relation(oid), &before, owner);
        Ok(catalog)
    }

    /// With another owner for a schema.
    pub fn set_schema_owner(&self, name: &str, owner: &str) -> Result<Catalog, Error> {
        self.role(owner)?;
        let mut schema = self.schema(name)?.clone();
        let before = std::mem::replace(&mut schema.owner, owner.to_owned());
        let mut catalog = self.changed();
        Arc::make_mut(&mut catalog.schemas).insert(name.to_owned(), schema);
        catalog.regrant(&Target::Schema(name.to_owned()), &before, owner);
        Ok(catalog)
    }

    /// What an owner has granted its successor has granted.
    fn regrant(&mut self, target: &Target, before: &str, owner: &str) {
        if !self.access.is_changed(target) {
            return;
        }
        let mut list = self.access.list(target);
        list.retain(|item| item.grantee.as_deref() != Some(owner));
        for item in list.iter_mut().filter(|item| item.grantor == before) {
            item.grantor = owner.to_owned();
        }
        Arc::make_mut(&mut self.access).set_list(target, list);
    }

    /// With everything that a role owns owned by another.
    pub fn reassign_owned(&self, from: &str, to: &str) -> Result<Catalog, Error> {
        self.role(from)?;
        self.role(to)?;
        let mut catalog = self.clone();
        for schema in self.schemas().filter(|schema| schema.owner == from) {
            catalog = catalog.set_schema_owner(&schema.name, to)?;
        }
        for object in self.objects().filter(|object| object.owner == from) {
            catalog = catalog.set_owner(object.oid, to)?;
        }
        Ok(catalog)
    }

    /// Owners replaced, lists as they are.
    fn reassigned(&self, from: &str, to: &str) -> Catalog {
        let mut catalog = self.changed();
        for schema in Arc::make_mut(&mut catalog.schemas).values_mut().filter(|schema| schema.owner == from) {
            schema.owner = to.to_owned();
        }
        for object in self.objects().filter(|object| object.owner == from) {
            catalog.put(Arc::new(Object { owner: to.to_owned(), ..object.as_ref().clone() }));
        }
        catalog
    }

    /// What is given away with what is created, in the order in which it was said.
    pub fn default_privileges(&self) -> &[DefaultPrivileges] {
        &self.access.defaults
    }

    /// With other default privileges: granted, or with `is_revoke` not granted any more. The grantor is whoever creates
    /// something.
    pub fn alter_defaults(
        &self,
        schema: Option<&str>,
        on: DefaultOn,
        grant: &Grant,
        is_revoke: bool,
    ) -> Result<Catalog, Error> {
        self.role(&grant.grantor)?;
        if let Some(grantee) = &grant.grantee {
            self.role(grantee)?;
        }
        let mut catalog = self.changed();
        let defaults = &mut Arc::make_mut(&mut catalog.access).defaults;
        let is_meant = |default: &DefaultPrivileges| {
            default.role == grant.grantor && default.schema.as_deref() == schema && default.on == on
        };
        let idx = match defaults.iter().position(is_meant) {
            Some(idx) => idx,
            None => {
                let schema = schema.map(str::to_owned);
                defaults.push(DefaultPrivileges {
                    role: grant.grantor.clone(),
                    schema,
                    on,
                    list: Vec::new(),
                });
                defaults.len() - 1
            }
        };
        let list = &mut defaults[idx].list;
        if !list.iter().any(|item| item.grantee == grant.grantee) {
            list.push(AclItem {
                grantee: grant.grantee.clone(),
                grantor: grant.grantor.clone(),
                privileges: BTreeMap::new(),
            });
        }
        for item in list.iter_mut().filter(|item| item.grantee == grant.grantee) {
            match is_revoke {
                true => item.take_back(grant),
                false => item.add(grant),
            }
        }
        list.retain(|item| !item.privileges.is_empty());
        defaults.retain(|default| !default.list.is_empty());
        Ok(catalog)
    }

    /// Gives what was just created to whom its creator gives such things.
    pub(crate) fn apply_defaults(&mut self, target: &Target) {
        let owner = self.owner_of(target).to_owned();
        let (on, schema) = match target {
            Target::Relation(oid) => {
                let object = self.get(*oid);
                let on = match object.map(|object| object.kind()) {
                    Some(Kind::Sequence) => DefaultOn::Sequences,
                    _ => DefaultOn::Relations,
                };
                (on, object.map(|object| object.schema.clone()))
            }
            Target::Schema(_) => (DefaultOn::Schemas, None),
            Target::Database => return,
        };
        let known = self.privileges_of(target);
        let mut list: Vec<AclItem> = Vec::new();
        for default in &self.access.defaults {
            let is_here = default.schema.is_none() || default.schema == schema;
            if default.role != owner || default.on != on || !is_here {
                continue;
            }
            for given in default.list.iter().filter(|item| item.grantee.as_ref() != Some(&owner)) {
                let privileges = given.privileges.iter().filter(|(privilege, _)| known.contains(privilege));
                match list.iter_mut().find(|item| item.grantee == given.grantee) {
                    Some(item) => {
                        for (privilege, grantable) in privileges {
                            *item.privileges.entry(*privilege).or_default() |= grantable;
                        }
                    }
                    None => list.push(AclItem {
                        privileges: privileges.map(|(p, g)| (*p, *g)).collect(),
                        ..given.clone()
                    }),
                }
            }
        }
        list.retain(|item| !item.privileges.is_empty());
        if !list.is_empty() {
            Arc::make_mut(&mut self.access).set_list(target, list);
        }
    }

    /// Without anything that a role was given or has given, but for what it owns.
    pub fn forget_grants(&self, role: &str) -> Result<Catalog, Error> {
        self.role(role)?;
        let mut catalog = self.changed();
        let access = Arc::make_mut(&mut catalog.access);
        access.defaults.retain(|default| default.role != role);
        for (target, list) in self.access.lists() {
            let is_its = |item: &AclItem| item.grantee.as_deref() == Some(role);
            let owner = self.owner_of(&target);
            let is_from = |item: &AclItem| item.grantor == role && owner != role;
            let mut list: Vec<AclItem> =
                list.iter().filter(|item| !is_its(item) && !is_from(item)).cloned().collect();
            settle(&mut list, owner, true)?;
            access.set_list(&target, list);
        }
        for default in &mut access.defaults {
            default.list.retain(|item| item.grantee.as_deref() != Some(role));
        }
        access.defaults.retain(|default| !default.list.is_empty());
        catalog.rename_in_policies(role, None);
        Ok(catalog)
    }

    /// What privileges are on, as messages name it.
    pub fn describe_target(&self, target: &Target) -> String {
        match target {
            Target::Database => "database tidemill".to_owned(),
            Target::Schema(name) => format!("schema {name}"),
            Target::Relation(oid) => self.get(*oid).map_or_else(String::new, |object| object.describe()),
        }
    }

    /// Forgets the lists of what is gone; an object that replaces another takes its list over.
    pub(crate) fn forget(&mut self, gone: &[Arc<Object>], successor: Option<Oid>) {
        if !gone.iter().any(|object| self.access.relations.contains_key(&object.oid)) {
            return;
        }
        let access = Arc::make_mut(&mut self.access);
        for object in gone {
            if let (Some(list), Some(successor)) = (access.relations.remove(&object.oid), successor) {
                access.relations.insert(successor, list);
            }
        }
    }

    pub(crate) fn forget_schema(&mut self, name: &str) {
        let is_default = |default: &DefaultPrivileges| default.schema.as_deref() == Some(name);
        if self.access.schemas.contains_key(name) || self.access.defaults.iter().any(is_default) {
            let access = Arc::make_mut(&mut self.access);
            access.schemas.remove(name);
            access.defaults.retain(|default| !is_default(default));
        }
    }
}

fn check_role_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::InvalidName);
    }
    match name.starts_with("pg_") || RESERVED.contains(&name) {
        true => Err(Error::ReservedRole { name: name.to_owned() }),
        false => Ok(()),
    }
}

/// The durable form. Lists that are as they were at the start are left out, and so are the roles that every database
/// has, but for the superuser, which may have a password.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct AccessDocument {
    roles: Vec<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    database: Option<Vec<AclItem>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    schemas: BTreeMap<String, Vec<AclItem>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    relations: BTreeMap<Oid, Vec<AclItem>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    defaults: Vec<DefaultPrivileges>,
}

impl Access {
    /// `None` while there is nothing that not every database has.
    pub fn document(&self) -> Option<AccessDocument> {
        if *self == Access::default() {
            return None;
        }
        let kept = |role: &&Role| !role.is_predefined() || role.name == BOOTSTRAP;
        Some(AccessDocument {
            roles: self.roles.values().filter(kept).cloned().collect(),
            database: self.database.clone(),
            schemas: self.schemas.clone(),
            relations: self.relations.clone(),
            defaults: self.defaults.clone(),
        })
    }
}

impl AccessDocument {
    /// Checks all that the operations guarantee; gives what is wrong.
    pub fn into_access(self, next_oid: Oid) -> Result<Access, String> {
        let mut access = Access::default();
        for role in self.roles {
            let in_range = role.name == BOOTSTRAP || (FIRST_OID..next_oid).contains(&role.oid);
            if !in_range {
                return Err(format!("role \"{}\" has an OID out of range", role.name));
            }
            let known = access.roles.insert(role.name.clone(), role);
            if let Some(known) = known.filter(|known| known.name != BOOTSTRAP) {
                return Err(format!("role \"{}\" stands twice", known.name));
            }
        }
        if !access.roles.get(BOOTSTRAP).is_some_and(|role| role.is_superuser && role.oid == 10) {
            return Err(format!("role \"{BOOTSTRAP}\" is no superuser"));
        }
        access.database = self.database;
        access.schemas = self.schemas;
        access.relations = self.relations;
        access.defaults = self.defaults;
        let memberships = access.roles.values().flat_map(|role| &role.member_of);
        let of_memberships = memberships.flat_map(|m| [&m.role, &m.grantor]);
        let of_defaults = access.defaults.iter().map(|default| &default.role);
        let items = access.lists().into_iter().flat_map(|(_, list)| list);
        let items = items.chain(access.defaults.iter().flat_map(|default| &default.list));
        let of_items = items.flat_map(|item| item.grantee.iter().chain([&item.grantor]));
        if let Some(missing) =
            of_memberships.chain(of_defaults).chain(of_items).find(|name| !access.roles.contains_key(*name))
        {
            return Err(format!("role \"{missing}\" is missing"));
        }
        Ok(access)
    }

    /// The roles of a catalog from before there were any: whoever owns something, and may not log in.
    pub fn of_owners<'a>(owners: impl Iterator<Item = &'a str>, next_oid: &mut Oid) -> AccessDocument {
        let names: BTreeSet<&str> = owners.filter(|name| *name != BOOTSTRAP).collect();
        let mut roles: Vec<Role> = Vec::new();
        for name in names {
            roles.push(Role { oid: *next_oid, ..Role::new(name) });
            *next_oid += 1;
        }
        AccessDocument { roles, ..AccessDocument::default() }
    }
}

#[cfg(test)]
mod tests;
