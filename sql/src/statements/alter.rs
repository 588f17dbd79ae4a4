//! `ALTER kind name {RENAME TO name | OWNER TO role}`

use super::role::{RoleName, role_name};
use super::{ObjectKind, Statement, grant, object_kind, role};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// A change to a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alter {
    pub kind: ObjectKind,
    pub name: ObjectName,
    pub if_exists: bool,
    pub action: AlterAction,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterAction {
    RenameTo(Name),
    OwnerTo { role: RoleName, position: usize },
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("ALTER")?;
    if role::is_next(cursor) {
        return role::parse_alter(cursor).map(Statement::AlterRole);
    }
    if cursor.is("DEFAULT") {
        return grant::parse_defaults(cursor).map(Statement::AlterDefaultPrivileges);
    }
    parse_object(cursor).map(Statement::Alter)
}

fn parse_object(cursor: &mut Cursor<'_>) -> Result<Alter, Error> {
    if cursor.is("SYSTEM") {
        return Err(Error::unsupported("ALTER SYSTEM").at(cursor.position()));
    }
    let kind = object_kind(cursor, "ALTER")?;
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    let name = cursor.object_name()?;
    let position = cursor.position();
    if cursor.eat_all(&["OWNER", "TO"]) {
        let position = cursor.position();
        let action = AlterAction::OwnerTo { role: role_name(cursor, false)?, position };
        return Ok(Alter { kind, name, if_exists, action });
    }
    if !cursor.eat("RENAME") {
        return Err(match cursor.word() {
            Some(word) => Error::unsupported(format!("ALTER {} … {word}", kind.keyword()))
                .with_hint("Only RENAME TO and OWNER TO are. To change a definition, use CREATE OR REPLACE.")
                .at(position),
            None => cursor.unexpected("RENAME TO"),
        });
    }
    if !cursor.is("TO") && !cursor.at_end() {
        return Err(Error::unsupported(format!("ALTER {} … RENAME COLUMN", kind.keyword()))
            .with_hint("Only RENAME TO and OWNER TO are. To change a definition, use CREATE OR REPLACE.")
            .at(position));
    }
    cursor.expect("TO")?;
    Ok(Alter { kind, name, if_exists, action: AlterAction::RenameTo(cursor.name()?) })
}
