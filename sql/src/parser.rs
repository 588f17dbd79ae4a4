//! Text to statements.
//!
//! [`parse`] tokenizes the whole text once, cuts it at the semicolons (so quotes, dollar quotes and
//! comments are respected by construction), and parses each part from its own first token. All
//! positions and spans inside a [`Statement`] count from the start of its own text; those in an
//! [`Error`] of `parse` count from the start of the whole text, as a client's caret does.

pub(crate) mod cursor;
pub(crate) mod dialect;
pub(crate) mod text;

use datafusion::sql::sqlparser::ast::{Expr, Query};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError};
use tidemill_core::SqlState;

use self::cursor::Cursor;
pub use self::cursor::{Name, ObjectName, quote, quote_literal};
pub use self::dialect::TidemillDialect;
pub use self::text::Text;
use crate::error::Error;
use crate::statements::{self, Statement};

/// Infix operators in a row that planning, and the stack of whoever drops the tree, can bear.
const CHAIN_MAX: usize = 2_000;

/// One statement of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub statement: Statement,
    /// Its own text, from its first word to its last, without the semicolon.
    pub sql: String,
    /// The number of characters before it in the whole text.
    pub offset: usize,
}

/// The statements of `text`; none when it holds only blanks, comments and semicolons.
pub fn parse(text: &str) -> Result<Vec<Parsed>, Error> {
    split(text)?.into_iter().map(Part::parse).collect()
}

/// The one statement of `text`, as in a `Parse` message; [`Statement::Empty`] when there is none.
pub fn parse_one(text: &str) -> Result<Parsed, Error> {
    let mut parts = split(text)?;
    match parts.len() {
        0 => Ok(Parsed { statement: Statement::Empty, sql: String::new(), offset: 0 }),
        1 => parts.remove(0).parse(),
        _ => Err(Error::new(
            SqlState::SYNTAX_ERROR,
            "cannot insert multiple commands into a prepared statement",
        )
        .at(parts[1].offset + 1)),
    }
}

/// A query alone, as a pipeline's definition stores it.
pub fn parse_query(sql: &str) -> Result<Box<Query>, Error> {
    let text = Text::new(sql);
    let mut cursor = cursor_over(&text)?;
    let (query, _) = cursor.query()?;
    cursor.finish()?;
    Ok(query)
}

/// An expression alone, as a generated column's definition stores it.
pub fn parse_expr(sql: &str) -> Result<Expr, Error> {
    let text = Text::new(sql);
    let mut cursor = cursor_over(&text)?;
    let (expr, _) = cursor.expr()?;
    cursor.finish()?;
    Ok(expr)
}

/// The statements' texts with the number of characters before each, without parsing them.
pub fn split_statements(text: &str) -> Result<Vec<(usize, String)>, Error> {
    Ok(split(text)?.into_iter().map(|part| (part.offset, part.sql)).collect())
}

/// A cursor at the start of a text.
pub(crate) fn cursor_over<'a>(text: &'a Text<'a>) -> Result<Cursor<'a>, Error> {
    let tokens = tokenize(text)?;
    check_chains(text, &tokens)?;
    Ok(Cursor::new(text, tokens))
}

/// A statement that has been cut out, with tokens located in its own text.
struct Part {
    sql: String,
    offset: usize,
    tokens: Vec<TokenWithSpan>,
}

impl Part {
    fn parse(self) -> Result<Parsed, Error> {
        let Part { sql, offset, tokens } = self;
        let text = Text::new(&sql);
        let statement = check_chains(&text, &tokens)
            .and_then(|()| {
                let mut cursor = Cursor::new(&text, tokens);
                let statement = statements::parse(&mut cursor)?;
                cursor.finish()?;
                Ok(statement)
            })
            .map_err(|error| error.shifted(offset))?;
        Ok(Parsed { statement, sql, offset })
    }
}

fn split(text: &str) -> Result<Vec<Part>, Error> {
    let text = Text::new(text);
    let tokens = tokenize(&text)?;
    let parts = tokens.split(|token| token.token == Token::SemiColon);
    Ok(parts.filter_map(|tokens| part(&text, tokens)).collect())
}

/// `None` when there are only blanks and comments.
fn part(text: &Text<'_>, tokens: &[TokenWithSpan]) -> Option<Part> {
    let is_word = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::EOF);
    let first = tokens.iter().position(is_word)?;
    let last = tokens.iter().rposition(is_word)?;
    let tokens = &tokens[first..=last];
    let start = tokens[0].span.start;
    let byte = text.byte(start)?;
    let sql = text.sql()[byte..text.byte(tokens[tokens.len() - 1].span.end)?].to_string();
    let rebased = |location: Location| Location {
        line: location.line - start.line + 1,
        column: if location.line == start.line {
            location.column - start.column + 1
        } else {
            location.column
        },
    };
    let tokens = tokens.iter().map(|token| {
        let mut token = token.clone();
        token.span.start = rebased(token.span.start);
        token.span.end = rebased(token.span.end);
        token
    });
    Some(Part { sql, offset: text.position(start)? - 1, tokens: tokens.collect() })
}

fn tokenize(text: &Text<'_>) -> Result<Vec<TokenWithSpan>, Error> {
    Tokenizer::new(&dialect::DIALECT, text.sql())
        .tokenize_with_location()
        .map_err(|error| tokenizer_error(text, error))
}

fn tokenizer_error(text: &Text<'_>, error: TokenizerError) -> Error {
    let lower = error.message.to_lowercase();
    let what = match lower.as_str() {
        lower if lower.contains("dollar") => "unterminated dollar-quoted string",
        lower if lower.contains("comment") => "unterminated /* comment",
        lower if lower.contains("close delimiter") => "unterminated quoted identifier",
        lower if lower.contains("unterminated") => "unterminated quoted string",
        _ => "invalid token",
    };
    let byte = text.byte(error.location).unwrap_or(text.sql().len());
    let near: String = text.sql()[byte..].chars().take(40).collect();
    let message = match near.trim_end() {
        "" => format!("{what} at end of input"),
        near => format!("{what} at or near \"{near}\""),
    };
    let position = text.position(error.location).unwrap_or_else(|| text.end_position());
    Error::new(SqlState::SYNTAX_ERROR, message).with_detail(error.message).at(position)
}

/// Refuses chains like `a OR b OR …` with thousands of members.
///
/// Their tree is as deep as the chain is long. Building it is a loop, but walking and dropping it
/// is recursion, and an overflown stack takes the whole server with it.
fn check_chains(text: &Text<'_>, tokens: &[TokenWithSpan]) -> Result<(), Error> {
    let mut lengths = vec![0usize];
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => lengths.push(0),
            Token::RParen | Token::RBracket | Token::RBrace => {
                lengths.pop();
                if lengths.is_empty() {
                    lengths.push(0);
                }
                // `f(…)(…)…` and `a[1][2]…` are chains as well.
                count(&mut lengths);
            }
            Token::Comma => lengths.iter_mut().last().into_iter().for_each(|length| *length = 0),
            Token::Word(word) if word.quote_style.is_none() && !is_infix(&word.value) => (),
            Token::Word(word) if word.quote_style.is_some() => (),
            Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_) => (),
            _ => count(&mut lengths),
        }
        if lengths.last().is_some_and(|length| *length > CHAIN_MAX) {
            return Err(Error::too_complex().or_at(text.position(token.span.start)));
        }
    }
    Ok(())
}

fn count(lengths: &mut [usize]) {
    if let Some(length) = lengths.last_mut() {
        *length += 1;
    }
}

/// Words that make a tree deeper by one. Joins and set operations are among them.
fn is_infix(word: &str) -> bool {
    const WORDS: [&str; 19] = [
        "AND",
        "OR",
        "NOT",
        "IS",
        "IN",
        "LIKE",
        "ILIKE",
        "BETWEEN",
        "COLLATE",
        "AT",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "JOIN",
        "XOR",
        "DIV",
        "OVERLAPS",
        "OPERATOR",
        "ISNULL",
    ];
    WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
