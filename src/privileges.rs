//! What a role may do, asked where something is about to be done.
//!
//! The catalog knows who may what; here it becomes an error that says what is missing and who can give it. Whoever reads
//! through a view reads with the rights of the view's owner, as in PostgreSQL.

use std::collections::BTreeSet;

use tidemill_catalog::{
    CREATE_SUBSCRIPTION, Catalog, Definition, MONITOR, Object, Oid, OwnedBy, Privilege, READ_ALL_DATA,
    READ_SERVER_FILES, Schema, SequenceDefinition, Target, WRITE_SERVER_FILES,
};
use tidemill_core::SqlState;
use tidemill_sql::parser::quote;

use crate::session::api::SqlError;

/// What is missing is a privilege, or ownership.
pub const DENIED: SqlState = SqlState("42501");

/// Relations that a query reads, and with whose rights: those of the session's user, or of the owner of the view that names it.
pub type Reads = BTreeSet<(String, Oid)>;

fn denied(what: &str) -> SqlError {
    SqlError::new(DENIED, format!("permission denied for {what}"))
}

fn described(object: &Object) -> String {
    format!("{} {}", object.kind(), object.name)
}

/// The role must have a privilege on the relation, and see its schema.
pub fn require(catalog: &Catalog, role: &str, object: &Object, privilege: Privilege) -> Result<(), SqlError> {
    require_schema(catalog, role, &object.schema, Privilege::Usage)?;
    match catalog.has_privilege(role, &Target::Relation(object.oid), privilege, false) {
        true => Ok(()),
        false => Err(denied(&described(object)).with_hint(format!(
            "Its owner, {}, can allow it: GRANT {} ON {}.{} TO {}.",
            quote(&object.owner),
            privilege.keyword(),
            quote(&object.schema),
            quote(&object.name),
            quote(role)
        ))),
    }
}

/// The role must be allowed what a function does with a sequence, by one of some privileges. Whoever may insert into a table
/// may take the numbers of its identity columns, as in PostgreSQL, whose numbers of SERIAL need a grant.
pub fn require_sequence(
    catalog: &Catalog,
    role: &str,
    sequence: &Object,
    privileges: &[Privilege],
) -> Result<(), SqlError> {
    let has = |oid: Oid, privilege| catalog.has_privilege(role, &Target::Relation(oid), privilege, false);
    // To take a number is to insert; to set it is not.
    if privileges.contains(&Privilege::Usage)
        && let Definition::Sequence(SequenceDefinition { owned_by: Some(OwnedBy { table, column }), .. }) =
            &sequence.definition
        && let Some(table) = catalog.get(*table)
        && table.columns.iter().any(|known| known.name == *column && known.identity.is_some())
        && has(table.oid, Privilege::Insert)
    {
        return Ok(());
    }
    match privileges.iter().any(|privilege| has(sequence.oid, *privilege)) {
        true => require_schema(catalog, role, &sequence.schema, Privilege::Usage),
        false => require(catalog, role, sequence, privileges[0]),
    }
}

pub fn require_schema(
    catalog: &Catalog,
    role: &str,
    schema: &str,
    privilege: Privilege,
) -> Result<(), SqlError> {
    match catalog.has_privilege(role, &Target::Schema(schema.to_owned()), privilege, false) {
        true => Ok(()),
        false => Err(denied(&format!("schema {schema}")).with_hint(format!(
            "Its owner, {}, can allow it: GRANT {} ON SCHEMA {} TO {}.",
            quote(catalog.owner_of(&Target::Schema(schema.to_owned()))),
            privilege.keyword(),
            quote(schema),
            quote(role)
        ))),
    }
}

/// The role must be able to make schemas.
pub fn require_database(catalog: &Catalog, role: &str) -> Result<(), SqlError> {
    match catalog.has_privilege(role, &Target::Database, Privilege::Create, false) {
        true => Ok(()),
        false => Err(denied("database tidemill")),
    }
}

/// All that a query reads must be allowed to be read. `changes` is what the statement changes, of which it has been asked
/// already what it needs.
pub fn require_reads(catalog: &Catalog, reads: &Reads, changes: Option<Oid>) -> Result<(), SqlError> {
    for (role, oid) in reads {
        if let Some(object) = catalog.get(*oid).filter(|object| Some(object.oid) != changes) {
            require(catalog, role, object, Privilege::Select)?;
        }
    }
    Ok(())
}

/// Rejected rows are those of everybody's sources.
pub fn require_dead_letters(catalog: &Catalog, role: &str) -> Result<(), SqlError> {
    match catalog.has_rights_of(role, READ_ALL_DATA) {
        true => Ok(()),
        false => Err(denied("table tm_dead_letters").with_hint(format!(
            "It holds rows of all sources: only superusers and members of {READ_ALL_DATA} read it."
        ))),
    }
}

/// Statements have values of everybody's rows in them.
pub fn require_audit_log(catalog: &Catalog, role: &str) -> Result<(), SqlError> {
    match catalog.has_rights_of(role, MONITOR) {
        true => Ok(()),
        false => Err(denied("table tm_audit_log")
            .with_hint(format!("Only superusers and members of {MONITOR} read it."))),
    }
}

/// The role must own the relation, or, to drop it, its schema.
pub fn require_owner(catalog: &Catalog, role: &str, object: &Object, is_drop: bool) -> Result<(), SqlError> {
    let of_schema = Target::Schema(object.schema.clone());
    let is_owner = catalog.is_owner(role, &Target::Relation(object.oid))
        || (is_drop && catalog.is_owner(role, &of_schema));
    match is_owner {
        true => require_schema(catalog, role, &object.schema, Privilege::Usage),
        false => Err(SqlError::new(DENIED, format!("must be owner of {}", described(object)))),
    }
}

pub fn require_schema_owner(catalog: &Catalog, role: &str, schema: &Schema) -> Result<(), SqlError> {
    match catalog.is_owner(role, &Target::Schema(schema.name.clone())) {
        true => Ok(()),
        false => Err(SqlError::new(DENIED, format!("must be owner of schema {}", schema.name))),
    }
}

/// The role must be able to become another, to give it something.
pub fn require_member(catalog: &Catalog, role: &str, other: &str) -> Result<(), SqlError> {
    catalog.role(other)?;
    match catalog.is_member(role, other) {
        true => Ok(()),
        false => Err(SqlError::new(DENIED, format!("must be able to SET ROLE \"{other}\""))),
    }
}

/// Connectors make the server read its files, write them, or talk to others, all with rights that no role has.
pub fn require_connector(
    catalog: &Catalog,
    role: &str,
    connector: Option<&str>,
    is_sink: bool,
) -> Result<(), SqlError> {
    let Some(connector) = connector else { return Ok(()) };
    let (needed, why) = match (connector, is_sink) {
        ("generator" | "blackhole" | "print" | "memory", _) => return Ok(()),
        ("file", false) => (READ_SERVER_FILES, "reads files of the server"),
        ("file", true) => (WRITE_SERVER_FILES, "writes files of the server"),
        _ => (CREATE_SUBSCRIPTION, "makes the server connect to others"),
    };
    match catalog.has_rights_of(role, needed) {
        true => Ok(()),
        false => Err(denied(&format!("connector {connector}")).with_detail(format!("It {why}.")).with_hint(
            format!(
                "Only superusers and members of {needed} may do that: GRANT {needed} TO {}.",
                quote(role)
            ),
        )),
    }
}
