//! Row policies: which rows of a relation a role reads and writes, as in PostgreSQL.
//!
//! They hold for whoever is not exempt, once row security is enabled for the relation: without a policy nobody sees a row. Of
//! *permissive* policies one has to let a row through, of *restrictive* ones all.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_core::did_you_mean;

use crate::catalog::{Catalog, check_name};
use crate::error::Error;
use crate::object::{Object, Oid};

/// `CREATE POLICY`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub oid: Oid,
    pub name: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_restrictive: bool,
    pub command: PolicyCommand,
    /// Empty for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Which rows are seen: an expression, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<String>,
    /// Which rows may come in; those that are seen, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// What a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyCommand {
    All,
    Select,
    Insert,
    Update,
    Delete,
}

impl PolicyCommand {
    /// As statements have it.
    pub fn keyword(self) -> &'static str {
        match self {
            PolicyCommand::All => "ALL",
            PolicyCommand::Select => "SELECT",
            PolicyCommand::Insert => "INSERT",
            PolicyCommand::Update => "UPDATE",
            PolicyCommand::Delete => "DELETE",
        }
    }

    /// As `pg_policy.polcmd` has it.
    pub fn letter(self) -> &'static str {
        match self {
            PolicyCommand::All => "*",
            PolicyCommand::Select => "r",
            PolicyCommand::Insert => "a",
            PolicyCommand::Update => "w",
            PolicyCommand::Delete => "d",
        }
    }
}

/// `ALTER TABLE … ROW LEVEL SECURITY`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSecurity {
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_enabled: bool,
    /// Also for the owner.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_forced: bool,
}

impl RowSecurity {
    pub(crate) fn is_default(&self) -> bool {
        *self == RowSecurity::default()
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Catalog {
    /// Whether policies hold for a role that reads or writes a relation.
    pub fn has_policies_for(&self, role: &str, object: &Object) -> bool {
        let bypasses = self.is_superuser(role) || self.role(role).is_ok_and(|role| role.bypasses_policies);
        let is_owner = || self.has_rights_of(role, &object.owner);
        object.row_security.is_enabled && !bypasses && (object.row_security.is_forced || !is_owner())
    }

    /// The policies of a relation that are about a role.
    pub fn policies_for<'a>(&'a self, role: &'a str, object: &'a Object) -> impl Iterator<Item = &'a Policy> {
        object.policies.iter().filter(move |policy| {
            policy.roles.is_empty() || policy.roles.iter().any(|of| self.has_rights_of(role, of))
        })
    }

    /// With a new policy; its OID is given now.
    pub fn create_policy(&self, relation: Oid, policy: Policy) -> Result<Catalog, Error> {
        check_name(&policy.name)?;
        let mut object = self.expect(relation).as_ref().clone();
        if object.policies.iter().any(|known| known.name == policy.name) {
            return Err(Error::PolicyExists { name: policy.name, relation: object.name });
        }
        let mut catalog = self.changed();
        let oid = catalog.take_oid()?;
        object.policies.push(Policy { oid, ..policy });
        object.policies.sort_by(|a, b| a.name.cmp(&b.name));
        catalog.put(Arc::new(object));
        Ok(catalog)
    }

    /// The policy of a relation with this name.
    pub fn policy<'a>(&self, object: &'a Object, name: &str) -> Result<&'a Policy, Error> {
        object.policies.iter().find(|policy| policy.name == name).ok_or_else(|| Error::PolicyNotFound {
            name: name.to_owned(),
            relation: object.name.clone(),
            near: did_you_mean(name, object.policies.iter().map(|policy| policy.name.as_str()))
                .map(str::to_owned),
        })
    }

    /// With a policy changed, which may have another name now.
    pub fn alter_policy(&self, relation: Oid, name: &str, policy: Policy) -> Result<Catalog, Error> {
        check_name(&policy.name)?;
        let mut object = self.expect(relation).as_ref().clone();
        if policy.name != name && object.policies.iter().any(|known| known.name == policy.name) {
            return Err(Error::PolicyExists { name: policy.name, relation: object.name });
        }
        for known in object.policies.iter_mut().filter(|known| known.name == name) {
            *known = policy.clone();
        }
        object.policies.sort_by(|a, b| a.name.cmp(&b.name));
        let mut catalog = self.changed();
        catalog.put(Arc::new(object));
        Ok(catalog)
    }

    /// Without a policy.
    pub fn drop_policy(&self, relation: Oid, name: &str) -> Catalog {
        let mut object = self.expect(relation).as_ref().clone();
        object.policies.retain(|policy| policy.name != name);
        let mut catalog = self.changed();
        catalog.put(Arc::new(object));
        catalog
    }

    /// With policies that hold, or do not.
    pub fn set_row_security(&self, relation: Oid, row_security: RowSecurity) -> Catalog {
        let object = self.expect(relation);
        let mut catalog = self.changed();
        catalog.put(Arc::new(Object { row_security, ..object.as_ref().clone() }));
        catalog
    }

    /// Replaces the name of a role in all policies; without another name, the role is taken out, and a policy that was for nobody
    /// else goes: it must not be for everybody then.
    pub(crate) fn rename_in_policies(&mut self, role: &str, to: Option<&str>) {
        let is_named = |policy: &Policy| policy.roles.iter().any(|name| name == role);
        let named: Vec<Arc<Object>> =
            self.objects().filter(|object| object.policies.iter().any(is_named)).cloned().collect();
        for object in named {
            let mut object = object.as_ref().clone();
            for policy in object.policies.iter_mut().filter(|policy| is_named(policy)) {
                match to {
                    Some(to) => {
                        policy
                            .roles
                            .iter_mut()
                            .filter(|name| *name == role)
                            .for_each(|name| *name = to.into());
                    }
                    None => policy.roles.retain(|name| name != role),
                }
            }
            let is_for_nobody = |policy: &Policy| {
                policy.roles.is_empty()
                    && self.get(object.oid).is_some_and(|before| {
                        before.policies.iter().any(|known| known.oid == policy.oid && !known.roles.is_empty())
                    })
            };
            let gone: Vec<Oid> = object
                .policies
                .iter()
                .filter(|policy| is_for_nobody(policy))
                .map(|policy| policy.oid)
                .collect();
            object.policies.retain(|policy| !gone.contains(&policy.oid));
            self.put(Arc::new(object));
        }
    }
}
