//! Text to statements.
//!
//! [`parse`] tokenizes the whole text once, cuts it at the semicolons (so quotes, dollar quotes and
//! comments are respected by construction), and parses each part from its own first token. All
//! positions and spans inside a [`Statement`] count from the start of its own text; those in an
//! [`Error`] of `parse` count from the start of the whole text, as a client's caret does.

mod asof;
pub(crate) mod cursor;
pub(crate) mod dialect;
mod emit;
pub(crate) mod row_pattern;
pub mod test_script;
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

/// The stack that a thread needs which parses, clones or drops statements.
///
/// sqlparser grows the stack while it parses, but cloning and dropping a tree is plain recursion:
/// up to some kilobytes a level, unoptimised.
pub const STACK_BYTES_MIN: usize = 16 << 20;

/// Infix operators in a row. See [`STACK_BYTES_MIN`].
const CHAIN_MAX: usize = 1_000;

/// `FROM ((` inside each other, `INTERVAL` behind itself.
const REPEATED_MAX: usize = 8;

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
    read(sql, |cursor| Ok(cursor.query()?.0))
}

/// An expression alone, as a generated column's definition stores it.
pub fn parse_expr(sql: &str) -> Result<Expr, Error> {
    read(sql, |cursor| Ok(cursor.expr()?.0))
}

/// The statements' texts with the number of characters before each, without parsing them.
pub fn split_statements(text: &str) -> Result<Vec<(usize, String)>, Error> {
    Ok(split(text)?.into_iter().map(|part| (part.offset, part.sql)).collect())
}

/// Reads the whole of `sql` as one thing.
pub(crate) fn read<T>(
    sql: &str,
    parse: impl FnOnce(&mut Cursor<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let text = Text::new(sql);
    let tokens = tokenize(&text)?;
    read_tokens(&text, tokens, parse)
}

fn read_tokens<T>(
    text: &Text<'_>,
    tokens: Vec<TokenWithSpan>,
    parse: impl FnOnce(&mut Cursor<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    check_shape(text, &tokens)?;
    let mut tokens = row_pattern::rewrite(text, tokens)?;
    asof::respell(text, &mut tokens)?;
    let dialect = TidemillDialect::for_tokens(&tokens);
    let mut cursor = Cursor::new(text, &dialect, tokens);
    let parsed = parse(&mut cursor)?;
    cursor.finish()?;
    Ok(parsed)
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
        let statement =
            read_tokens(&text, tokens, statements::parse).map_err(|error| error.shifted(offset))?;
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
    Tokenizer::new(&TidemillDialect::default(), text.sql())
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

/// An opened parenthesis, bracket or brace.
#[derive(Default)]
struct Level {
    /// Infix operators since the last comma.
    n_operators: usize,
    /// Where a relation is expected: behind `FROM`, `JOIN`, a comma, or another of these.
    relation: bool,
    /// Directly inside of another level for a relation: `FROM ((`.
    doubled: bool,
}

/// Refuses what would take the parser too deep or too long. Nesting in general is the parser's own
/// to count; this is what it does not.
///
/// - Chains like `a OR b OR …` with thousands of members. Their tree is as deep as the chain is
///   long. Building it is a loop, but walking and dropping it is recursion, and an overflown stack
///   takes the whole server with it.
/// - `FROM ((… ) a)` inside each other: sqlparser reads each as a subquery first and then, from the
///   start, as a join, so that the time doubles with each level.
/// - `INTERVAL INTERVAL …`: the one prefix whose recursion sqlparser does not count.
fn check_shape(text: &Text<'_>, tokens: &[TokenWithSpan]) -> Result<(), Error> {
    let mut levels = vec![Level::default()];
    let (mut n_doubled, mut n_intervals) = (0, 0);
    let mut before = &Token::EOF;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen => {
                let inside = *before == Token::LParen && levels.last().is_some_and(|level| level.relation);
                let relation = inside || expects_relation(before);
                n_doubled += usize::from(inside);
                levels.push(Level { n_operators: 0, relation, doubled: inside });
            }
            Token::LBracket | Token::LBrace => levels.push(Level::default()),
            Token::RParen | Token::RBracket | Token::RBrace => {
                let closed = levels.pop().unwrap_or_default();
                n_doubled -= usize::from(closed.doubled);
                if levels.is_empty() {
                    levels.push(Level::default());
                }
                // `f(…)(…)…` and `a[1][2]…` are chains as well.
                count(&mut levels);
            }
            Token::Comma => levels.iter_mut().last().into_iter().for_each(|level| level.n_operators = 0),
            Token::Word(word) if word.quote_style.is_some() || !is_infix(&word.value) => (),
            Token::Number(..) | Token::SingleQuotedString(_) => (),
            _ => count(&mut levels),
        }
        let interval =
            matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case("INTERVAL"));
        n_intervals = if interval { n_intervals + 1 } else { 0 };
        let n_operators = levels.last().map_or(0, |level| level.n_operators);
        if n_operators > CHAIN_MAX || n_doubled > REPEATED_MAX || n_intervals > REPEATED_MAX {
            return Err(Error::too_complex().or_at(text.position(token.span.start)));
        }
        before = &token.token;
    }
    Ok(())
}

fn count(levels: &mut [Level]) {
    if let Some(level) = levels.last_mut() {
        level.n_operators += 1;
    }
}

fn expects_relation(before: &Token) -> bool {
    const WORDS: [&str; 4] = ["FROM", "JOIN", "LATERAL", "USING"];
    match before {
        Token::Comma => true,
        Token::Word(word) => WORDS.iter().any(|known| known.eq_ignore_ascii_case(&word.value)),
        _ => false,
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
