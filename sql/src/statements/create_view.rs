//! `CREATE VIEW v AS SELECT …`

use std::fmt;

use datafusion::sql::sqlparser::ast::Query;

use super::ObjectKind;
use super::create::Head;
use super::create_table::{parse_names, write_names};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// A named query, put in place of its name; nothing runs.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub column_names: Vec<String>,
    pub query: Box<Query>,
    pub query_text: String,
}

impl fmt::Display for CreateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Head::text(ObjectKind::View, self.or_replace, self.if_not_exists, &self.name))?;
        write_names(f, &self.column_names)?;
        write!(f, "\nAS {}", self.query_text)
    }
}

pub(crate) fn parse(cursor: &mut Cursor<'_>, head: Head) -> Result<CreateView, Error> {
    let column_names = parse_names(cursor)?;
    if cursor.is("WITH") {
        return Err(cursor.unexpected("AS").with_hint("A view has no options; a pipeline does."));
    }
    cursor.expect("AS")?;
    let (query, query_text) = cursor.query()?;
    Ok(CreateView {
        name: head.name,
        or_replace: head.or_replace,
        if_not_exists: head.if_not_exists,
        column_names,
        query,
        query_text,
    })
}
