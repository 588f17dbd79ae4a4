//! `ALTER kind name …`: another name; of a table, other columns; of a sequence, another number to go on with.

use super::alter_table::{self, TableAction};
use super::sequence;
use super::{ObjectKind, object_kind};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// A change to a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Alter {
    pub kind: ObjectKind,
    pub name: ObjectName,
    pub if_exists: bool,
    pub action: AlterAction,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq)]
pub enum AlterAction {
    RenameTo(Name),
    /// Of a table.
    Table(Vec<TableAction>),
    /// Of a sequence: where it goes on; at its start without a number.
    Restart(Option<i64>),
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Alter, Error> {
    cursor.expect("ALTER")?;
    if cursor.is("SYSTEM") {
        return Err(Error::unsupported("ALTER SYSTEM").at(cursor.position()));
    }
    let kind = object_kind(cursor, "ALTER")?;
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    if kind == ObjectKind::Table {
        cursor.eat("ONLY");
    }
    let name = cursor.object_name()?;
    let position = cursor.position();
    if kind == ObjectKind::Table {
        let action = alter_table::parse(cursor)?;
        return Ok(Alter { kind, name, if_exists, action });
    }
    if kind == ObjectKind::Sequence && cursor.eat("RESTART") {
        let with = cursor.eat("WITH");
        let at_end = cursor.at_end() && !with;
        let action = AlterAction::Restart(if at_end { None } else { Some(sequence::signed(cursor)?) });
        return Ok(Alter { kind, name, if_exists, action });
    }
    if !cursor.eat("RENAME") {
        return Err(match cursor.word() {
            Some(word) => Error::unsupported(format!("ALTER {} … {word}", kind.keyword()))
                .with_hint("Only RENAME TO is. To change a definition, use CREATE OR REPLACE.")
                .at(position),
            None => cursor.unexpected("RENAME TO"),
        });
    }
    if !cursor.is("TO") && !cursor.at_end() {
        return Err(Error::unsupported(format!("ALTER {} … RENAME COLUMN", kind.keyword()))
            .with_hint("Only RENAME TO is. To change a definition, use CREATE OR REPLACE.")
            .at(position));
    }
    cursor.expect("TO")?;
    Ok(Alter { kind, name, if_exists, action: AlterAction::RenameTo(cursor.name()?) })
}
