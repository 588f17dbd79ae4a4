//! `CREATE PIPELINE p AS SELECT …`, also called `CREATE MATERIALIZED VIEW`.

use std::fmt;

use datafusion::sql::sqlparser::ast::Query;
use tidemill_core::Emit;

use super::ObjectKind;
use super::create::Head;
use super::create_table::{parse_names, write_names};
use super::options::{self, WithOptions};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// A query whose answer is kept up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatePipeline {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Names for the columns, instead of the query's own.
    pub column_names: Vec<String>,
    pub options: WithOptions,
    pub query: Box<Query>,
    pub query_text: String,
    pub emit: Emit,
}

impl fmt::Display for CreatePipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Head::text(ObjectKind::Pipeline, self.or_replace, self.if_not_exists, &self.name))?;
        write_names(f, &self.column_names)?;
        if !self.options.is_empty() {
            write!(f, "\nWITH {}", self.options)?;
        }
        write!(f, "\nAS {}", self.query_text)?;
        if self.emit != Emit::OnUpdate {
            write!(f, "\n{}", self.emit)?;
        }
        Ok(())
    }
}

pub(crate) fn parse(cursor: &mut Cursor<'_>, head: Head) -> Result<CreatePipeline, Error> {
    let column_names = parse_names(cursor)?;
    parse_definition(cursor, head, column_names)
}

/// Whether a definition is next.
pub(crate) fn is_definition_next(cursor: &Cursor<'_>) -> bool {
    cursor.is("AS") || cursor.is("WITH")
}

/// `[WITH (…)] AS SELECT … [EMIT …]`
pub(crate) fn parse_definition(
    cursor: &mut Cursor<'_>,
    head: Head,
    column_names: Vec<String>,
) -> Result<CreatePipeline, Error> {
    let options = match cursor.eat("WITH") {
        true => options::parse(cursor)?,
        false => WithOptions::default(),
    };
    cursor.expect("AS")?;
    let (query, query_text) = cursor.query()?;
    if cursor.is_all(&["WITH", "NO", "DATA"]) {
        return Err(Error::unsupported("WITH NO DATA")
            .with_hint("A pipeline is always filled.")
            .at(cursor.position()));
    }
    cursor.eat_all(&["WITH", "DATA"]);
    Ok(CreatePipeline {
        name: head.name,
        or_replace: head.or_replace,
        if_not_exists: head.if_not_exists,
        column_names,
        options,
        query,
        query_text,
        emit: cursor.emit()?,
    })
}
