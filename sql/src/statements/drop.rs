//! `DROP kind [IF EXISTS] name, … [CASCADE]`

use super::{ObjectKind, Statement, object_kind, policy, role};
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

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("DROP")?;
    if role::is_next(cursor) {
        return role::parse_drop(cursor).map(Statement::DropRole);
    }
    if cursor.is("OWNED") {
        return role::parse_drop_owned(cursor).map(Statement::DropOwned);
    }
    if cursor.is("POLICY") {
        return policy::parse_drop(cursor).map(Statement::DropPolicy);
    }
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
    Ok(Statement::Drop(DropObjects { kind, names, if_exists, cascade }))
}
