//! A query, as sqlparser reads it.

use datafusion::sql::sqlparser::ast::{Query, SetExpr, Values};

use crate::error::Error;
use crate::parser::cursor::Cursor;

/// `SELECT …`, `WITH … SELECT`, `VALUES …`, `TABLE t`
#[derive(Debug, Clone, PartialEq)]
pub struct SelectQuery {
    pub query: Box<Query>,
    pub text: String,
}

impl Default for SelectQuery {
    /// The query without rows.
    fn default() -> SelectQuery {
        let values = Values { explicit_row: false, value_keyword: false, rows: Vec::new() };
        let query = Query {
            with: None,
            body: Box::new(SetExpr::Values(values)),
            order_by: None,
            limit_clause: None,
            fetch: None,
            locks: Vec::new(),
            for_clause: None,
            settings: None,
            format_clause: None,
            pipe_operators: Vec::new(),
        };
        SelectQuery { query: Box::new(query), text: String::new() }
    }
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<SelectQuery, Error> {
    let (query, text) = cursor.query()?;
    Ok(SelectQuery { query, text })
}
