//! `DROP kind [IF EXISTS] name, … [CASCADE]`

use super::{ObjectKind, object_kind};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// Takes objects away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropObjects {
    pub kind: ObjectKind,
    pub names: Vec<ObjectName>,
    pub if_exists: bool,
    pub cascade: bool,
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<DropObjects, Error> {
    cursor.expect("DROP")?;
    let kind = object_kind(cursor, "DROP")?;
    if kind == ObjectKind::Index {
        cursor.eat("CONCURRENTLY");
    }
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    let names = cursor.list(Cursor::object_name)?;
    let cascade = cursor.eat("CASCADE");
    if !cascade {
        cursor.eat("RESTRICT");
    }
    Ok(DropObjects { kind, names, if_exists, cascade })
}
