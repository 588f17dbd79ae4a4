//! `CREATE TABLE t (…)`, `CREATE TABLE t AS SELECT …`

use std::fmt;

use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::SqlState;

use super::ObjectKind;
use super::column::{self, ColumnDef, Columns};
use super::create::Head;
use super::options::{self, WithOptions};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName, quote};

/// Rows that are stored, and changed by DML.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDef>,
    pub primary_key: Vec<String>,
    pub options: WithOptions,
    /// `AS query`: then there are no columns, at most their names.
    pub query: Option<Box<Query>>,
    pub query_text: Option<String>,
    pub column_names: Vec<String>,
}

impl fmt::Display for CreateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Head::text(ObjectKind::Table, self.or_replace, self.if_not_exists, &self.name))?;
        if !self.columns.is_empty() {
            let columns = Columns {
                columns: self.columns.clone(),
                primary_key: self.primary_key.clone(),
                watermark: None,
            };
            write!(f, " {columns}")?;
        } else if self.query.is_none() {
            f.write_str(" ()")?;
        }
        write_names(f, &self.column_names)?;
        if !self.options.is_empty() {
            write!(f, "\nWITH {}", self.options)?;
        }
        match &self.query_text {
            Some(text) => write!(f, "\nAS {text}"),
            None => Ok(()),
        }
    }
}

/// ` (a, b)`, or nothing.
pub(crate) fn write_names(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
    match names.is_empty() {
        true => Ok(()),
        false => write!(f, " ({})", names.join(", ")),
    }
}

/// `(a, b)`, each name once.
pub(crate) fn parse_names(cursor: &mut Cursor<'_>) -> Result<Vec<String>, Error> {
    if !cursor.is_token(&Token::LParen) {
        return Ok(Vec::new());
    }
    let names = cursor.parenthesized(Cursor::name)?;
    for (idx, name) in names.iter().enumerate() {
        if names[..idx].iter().any(|earlier| earlier.value == name.value) {
            let message = format!("column \"{}\" specified more than once", name.value);
            return Err(Error::new(SqlState::DUPLICATE_COLUMN, message).at(name.position));
        }
    }
    Ok(names.into_iter().map(|name| name.value).collect())
}

pub(crate) fn parse(cursor: &mut Cursor<'_>, head: Head) -> Result<CreateTable, Error> {
    let mut table = CreateTable {
        name: head.name,
        or_replace: head.or_replace,
        if_not_exists: head.if_not_exists,
        columns: Vec::new(),
        primary_key: Vec::new(),
        options: WithOptions::default(),
        query: None,
        query_text: None,
        column_names: Vec::new(),
    };
    if names_only(cursor) {
        table.column_names = parse_names(cursor)?;
    } else if cursor.is_token(&Token::LParen) {
        parse_columns(cursor, &mut table)?;
    } else if !cursor.is("AS") && !cursor.is("WITH") {
        return Err(cursor.unexpected("the list of columns, or AS"));
    }
    if cursor.eat("WITH") {
        table.options = options::parse(cursor)?;
    }
    if let Some(connector) = table.options.option("connector") {
        return Err(Error::new(SqlState::WRONG_OBJECT_TYPE, "a table has no connector")
            .with_hint("CREATE SOURCE reads from a connector; CREATE SINK writes to one.")
            .at(connector.position));
    }
    let position = cursor.position();
    if table.columns.is_empty() && cursor.eat("AS") {
        let (query, text) = cursor.query()?;
        table.query = Some(query);
        table.query_text = Some(text);
        if cursor.is("WITH") {
            return Err(Error::unsupported("WITH [NO] DATA").at(cursor.position()));
        }
    }
    match cursor.word().as_deref() {
        Some(word @ ("PARTITION" | "INHERITS" | "USING" | "TABLESPACE")) => {
            Err(Error::unsupported(format!("{word} of a table")).at(cursor.position()))
        }
        Some("AS") => Err(Error::new(
            SqlState::SYNTAX_ERROR,
            "a table AS a query takes the types of its columns from the query",
        )
        .with_hint("Give only names: CREATE TABLE t (a, b) AS SELECT ….")
        .at(position)),
        Some("INCLUDE" | "FORMAT" | "ENCODE") => Err(cursor
            .unexpected("the end of the statement")
            .with_hint("INCLUDE, FORMAT and ENCODE belong to CREATE SOURCE.")),
        _ => Ok(table),
    }
}

/// Whether the list here has names without types, as before `AS`.
fn names_only(cursor: &Cursor<'_>) -> bool {
    cursor.is_token(&Token::LParen)
        && matches!(cursor.peek_at(1), Token::Word(_))
        && matches!(cursor.peek_at(2), Token::Comma | Token::RParen)
}

fn parse_columns(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<(), Error> {
    let position = cursor.position();
    let columns = column::parse(cursor)?;
    if let Some(watermark) = columns.watermark {
        return Err(Error::unsupported("WATERMARK on a table")
            .with_hint("Watermarks belong to CREATE SOURCE: the rows of a table can change at any time.")
            .at(watermark.position));
    }
    for name in &columns.primary_key {
        column::check_name(name, position, columns.columns.iter().map(|column| column.name.as_str()), "key")?;
    }
    table.columns = columns.columns;
    table.primary_key = columns.primary_key;
    Ok(())
}
