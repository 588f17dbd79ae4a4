//! `PREPARE`, `EXECUTE`, `DEALLOCATE`: prepared statements by SQL.

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::Statement;
use super::column::ParsedExpr;
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name};
use crate::types::ColumnType;

/// `PREPARE name [(type, …)] AS statement`
#[derive(Debug, Clone, PartialEq)]
pub struct Prepare {
    pub name: Name,
    pub types: Vec<ColumnType>,
    pub statement: Box<Statement>,
    pub text: String,
}

/// `EXECUTE name [(value, …)]`
#[derive(Debug, Clone, PartialEq)]
pub struct Execute {
    pub name: Name,
    pub values: Vec<ParsedExpr>,
}

impl Execute {
    /// The values without their texts.
    pub fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.values.iter().map(|value| &value.expr)
    }
}

/// `DEALLOCATE [PREPARE] name`, `DEALLOCATE ALL` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deallocate {
    pub name: Option<Name>,
}

pub(crate) fn parse_prepare(cursor: &mut Cursor<'_>) -> Result<Prepare, Error> {
    cursor.expect("PREPARE")?;
    let position = cursor.position();
    if cursor.is("TRANSACTION") {
        return Err(Error::unsupported("PREPARE TRANSACTION").at(position));
    }
    let name = cursor.name()?;
    let types = match cursor.is_token(&Token::LParen) {
        true => cursor.parenthesized(Cursor::column_type)?,
        false => Vec::new(),
    };
    cursor.expect("AS")?;
    if !matches!(
        cursor.word().as_deref(),
        Some("SELECT" | "WITH" | "VALUES" | "INSERT" | "UPDATE" | "DELETE" | "FROM")
    ) && !cursor.is_token(&Token::LParen)
    {
        return Err(cursor.unexpected("SELECT, INSERT, UPDATE, DELETE or VALUES"));
    }
    let mark = cursor.mark();
    let statement = Box::new(super::parse(cursor)?);
    Ok(Prepare { name, types, statement, text: cursor.text_from(mark) })
}

pub(crate) fn parse_execute(cursor: &mut Cursor<'_>) -> Result<Execute, Error> {
    cursor.expect("EXECUTE")?;
    let name = cursor.name()?;
    let mut values = Vec::new();
    if cursor.is_token(&Token::LParen) {
        values = match cursor.peek_at(1) {
            Token::RParen => {
                cursor.advance();
                cursor.advance();
                Vec::new()
            }
            _ => {
                cursor.parenthesized(|cursor| cursor.expr().map(|(expr, text)| ParsedExpr { expr, text }))?
            }
        };
    }
    Ok(Execute { name, values })
}

pub(crate) fn parse_deallocate(cursor: &mut Cursor<'_>) -> Result<Deallocate, Error> {
    cursor.expect("DEALLOCATE")?;
    if !matches!(cursor.peek_at(1), Token::EOF) {
        cursor.eat("PREPARE");
    }
    match cursor.eat("ALL") {
        true => Ok(Deallocate { name: None }),
        false => Ok(Deallocate { name: Some(cursor.name()?) }),
    }
}
