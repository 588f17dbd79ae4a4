//! What can be wrong with a name.

use tidemill_core::{Diagnostic, SqlState};

use crate::object::Kind;

/// Why the catalog did not change, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("schema \"{name}\" does not exist")]
    SchemaNotFound { name: String, near: Option<String> },
    #[error("schema \"{name}\" already exists")]
    SchemaExists { name: String },
    #[error("relation \"{name}\" does not exist")]
    NotFound { name: String, near: Option<Near> },
    #[error("secret \"{name}\" does not exist")]
    SecretNotFound { name: String, near: Option<Near> },
    #[error("relation \"{name}\" already exists")]
    Exists { name: String, kind: Kind },
    #[error("\"{name}\" is a {is}, not a {wanted}")]
    WrongKind { name: String, is: Kind, wanted: Kind },
    #[error("cannot {action} {what} because other objects depend on it")]
    HasDependents { action: &'static str, what: String, dependents: Vec<Dependent> },
    #[error("{what} would read itself: {reader} reads it")]
    Circular { what: String, reader: String },
    #[error("column \"{column}\" of relation \"{relation}\" does not exist")]
    ColumnNotFound { relation: String, column: String, near: Option<String> },
    #[error("index \"{name}\" does not exist")]
    IndexNotFound { name: String, near: Option<String> },
    #[error("policy \"{name}\" for relation \"{relation}\" already exists")]
    PolicyExists { name: String, relation: String },
    #[error("policy \"{name}\" for relation \"{relation}\" does not exist")]
    PolicyNotFound { name: String, relation: String, near: Option<String> },
    #[error("column \"{column}\" specified more than once")]
    DuplicateColumn { column: String },
    #[error("column \"{column}\" named in key does not exist")]
    KeyColumnNotFound { column: String, near: Option<String> },
    #[error("role \"{name}\" does not exist")]
    RoleNotFound { name: String },
    #[error("role \"{name}\" already exists")]
    RoleExists { name: String },
    #[error("role name \"{name}\" is reserved")]
    ReservedRole { name: String },
    #[error("role \"{name}\" cannot be dropped because some objects depend on it")]
    RoleInUse { name: String, uses: Vec<String> },
    #[error("role \"{role}\" is a member of role \"{member}\"")]
    MembershipCycle { role: String, member: String },
    #[error("the bootstrap user must have the SUPERUSER and LOGIN attributes")]
    BootstrapRole,
    #[error("dependent privileges exist")]
    DependentPrivileges,
    #[error("cannot change \"{name}\": it belongs to the system")]
    System { name: String },
    #[error("no schema has been selected to create in")]
    NoCreationSchema,
    #[error("a name must not be empty or hold a zero byte")]
    InvalidName,
    #[error("object {oid}, which \"{name}\" refers to, does not exist")]
    DependencyNotFound { name: String, oid: u32 },
    #[error("the catalog has run out of object identifiers")]
    OutOfOids,
    #[error("catalog is of format {found}; this version reads format {known}")]
    UnknownFormat { found: u64, known: u64 },
    #[error("catalog cannot be read: {reason}")]
    Corrupted { reason: String },
}

/// What an unknown name was probably meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Near {
    /// Another name that can be reached.
    Name(String),
    /// The same name, in a schema that was not searched.
    Schema { schema: String, name: String },
}

/// An object and what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// As messages name it: `pipeline p`.
    pub object: String,
    pub on: String,
}

impl Diagnostic for Error {
    fn sqlstate(&self) -> SqlState {
        match self {
            Error::SchemaNotFound { .. } => SqlState::UNDEFINED_SCHEMA,
            Error::SchemaExists { .. } => SqlState::DUPLICATE_SCHEMA,
            Error::NotFound { .. } => SqlState::UNDEFINED_TABLE,
            Error::Exists { .. } => SqlState::DUPLICATE_TABLE,
            Error::WrongKind { .. } => SqlState::WRONG_OBJECT_TYPE,
            Error::HasDependents { .. } => SqlState::DEPENDENT_OBJECTS,
            Error::ColumnNotFound { .. } | Error::KeyColumnNotFound { .. } => SqlState::UNDEFINED_COLUMN,
            Error::IndexNotFound { .. } | Error::SecretNotFound { .. } | Error::PolicyNotFound { .. } => {
                SqlState::UNDEFINED_OBJECT
            }
            Error::DuplicateColumn { .. } => SqlState::DUPLICATE_COLUMN,
            Error::System { .. } => SqlState("42501"),
            Error::RoleNotFound { .. } => SqlState::UNDEFINED_OBJECT,
            Error::RoleExists { .. } | Error::PolicyExists { .. } => SqlState::DUPLICATE_OBJECT,
            Error::ReservedRole { .. } => SqlState("42939"),
            Error::RoleInUse { .. } | Error::DependentPrivileges => SqlState::DEPENDENT_OBJECTS,
            Error::MembershipCycle { .. } => SqlState("0LP01"),
            Error::BootstrapRole => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Circular { .. } => SqlState::INVALID_OBJECT_DEFINITION,
            Error::InvalidName => SqlState("42602"),
            Error::NoCreationSchema => SqlState::UNDEFINED_SCHEMA,
            Error::DependencyNotFound { .. } => SqlState::UNDEFINED_OBJECT,
            Error::OutOfOids => SqlState("54000"),
            Error::UnknownFormat { .. } | Error::Corrupted { .. } => SqlState::DATA_CORRUPTED,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::SchemaNotFound { near, .. }
            | Error::ColumnNotFound { near, .. }
            | Error::IndexNotFound { near, .. }
            | Error::PolicyNotFound { near, .. }
            | Error::KeyColumnNotFound { near, .. } => {
                near.as_ref().map(|near| format!("Perhaps you meant \"{near}\"."))
            }
            Error::NotFound { near, .. } | Error::SecretNotFound { near, .. } => match near {
                Some(Near::Name(near)) => Some(format!("Perhaps you meant \"{near}\".")),
                Some(Near::Schema { schema, name }) => Some(format!(
                    "There is one in schema \"{schema}\": write {schema}.{name}, or add the schema to search_path."
                )),
                None => None,
            },
            Error::Exists { name, kind } => Some(format!(
                "There is a {kind} of this name: DROP {} {name} first, or use IF NOT EXISTS.",
                kind.keyword()
            )),
            Error::WrongKind { name, is, wanted } => Some(wrong_kind_hint(name, *is, *wanted)),
            Error::HasDependents { action: "drop", what, .. } if what.starts_with("sequence ") => Some(
                "Take the default away first: ALTER TABLE … ALTER COLUMN … DROP DEFAULT. A sequence of a SERIAL or \
                 IDENTITY column goes with its table."
                    .to_string(),
            ),
            Error::HasDependents { action: "drop", .. } => {
                Some("Use DROP … CASCADE to drop the dependent objects too.".to_string())
            }
            Error::HasDependents { action: "rename", .. } => Some(
                "Their queries have the old name in their text: drop them first, or keep the name."
                    .to_string(),
            ),
            Error::HasDependents { action: "alter", .. } => Some(
                "Their state is made of the table's rows as they are: drop them first, and create them again over the \
                 altered table. In one transaction nobody sees them missing."
                    .to_string(),
            ),
            Error::HasDependents { .. } => Some(
                "Drop the dependent objects first, or create the new one under another name.".to_string(),
            ),
            Error::UnknownFormat { found, known } if found > known => Some(
                "The data directory was written by a newer version; start that one, or restore a backup."
                    .to_string(),
            ),
            Error::UnknownFormat { .. } => Some(
                "The data directory was written by an older version that this one cannot read.".to_string(),
            ),
            Error::Corrupted { .. } => {
                Some("Restore the catalog from a backup; it is never replaced by an empty one.".to_string())
            }
            Error::ReservedRole { name } if name.starts_with("pg_") => {
                Some("Names that begin with \"pg_\" are the system's.".to_string())
            }
            Error::RoleInUse { name, .. } => Some(format!(
                "REASSIGN OWNED BY {name} TO another role gives away what it owns; DROP OWNED BY {name} then takes back what it was granted."
            )),
            Error::DependentPrivileges => Some("Use CASCADE to revoke them too.".to_string()),
            Error::RoleNotFound { .. }
            | Error::RoleExists { .. }
            | Error::PolicyExists { .. }
            | Error::ReservedRole { .. }
            | Error::MembershipCycle { .. }
            | Error::BootstrapRole
            | Error::DuplicateColumn { .. }
            | Error::SchemaExists { .. }
            | Error::System { .. }
            | Error::InvalidName
            | Error::Circular { .. }
            | Error::NoCreationSchema
            | Error::DependencyNotFound { .. }
            | Error::OutOfOids => None,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::HasDependents { dependents, .. } => {
                let line = |Dependent { object, on }: &Dependent| format!("{object} depends on {on}");
                Some(dependents.iter().map(line).collect::<Vec<_>>().join("\n"))
            }
            Error::RoleInUse { uses, .. } => Some(uses.join("\n")),
            _ => None,
        }
    }
}

fn wrong_kind_hint(name: &str, is: Kind, wanted: Kind) -> String {
    match (is, wanted) {
        (Kind::Source, Kind::Table) => {
            "The rows of a source come from its connector; to INSERT, UPDATE or DELETE, use CREATE TABLE."
                .to_string()
        }
        (Kind::Pipeline | Kind::View, Kind::Table) => {
            format!("The rows of a {is} follow from its query; change the tables that it reads.")
        }
        (Kind::Sink, Kind::Table) => {
            format!(
                "A sink is written by CREATE SINK {name} FROM …; it holds no rows that could be read or changed."
            )
        }
        (Kind::Secret, _) => {
            format!("A secret holds no rows; options of sources and sinks name it: password = SECRET {name}.")
        }
        (_, Kind::Secret) => "CREATE SECRET name AS 'value' makes one.".to_string(),
        _ => format!("Use {} instead.", is.keyword()),
    }
}
