//! `BEGIN`, `COMMIT`, `ROLLBACK`, savepoints.

use super::Statement;
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name};

/// `BEGIN [modes]`, `START TRANSACTION [modes]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    pub modes: TransactionModes,
    /// The tag is `START TRANSACTION`, not `BEGIN`.
    pub start: bool,
}

/// What was said about a transaction; `None` is not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionModes {
    pub isolation: Option<IsolationLevel>,
    pub read_only: Option<bool>,
    pub deferrable: Option<bool>,
    /// For all transactions of the session (`SET SESSION CHARACTERISTICS`), not for this one.
    pub session: bool,
}

impl TransactionModes {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.isolation.is_none() && self.read_only.is_none() && self.deferrable.is_none()
    }
}

/// The SQL standard's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationLevel {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// `COMMIT [AND CHAIN]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub chain: bool,
}

/// `ROLLBACK [AND CHAIN]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    pub chain: bool,
}

/// `SAVEPOINT name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Savepoint {
    pub name: Name,
}

/// `RELEASE [SAVEPOINT] name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub name: Name,
}

/// `ROLLBACK TO [SAVEPOINT] name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackTo {
    pub name: Name,
}

pub(crate) fn parse_begin(cursor: &mut Cursor<'_>) -> Result<Begin, Error> {
    let start = cursor.eat("START");
    if start {
        cursor.expect("TRANSACTION")?;
    } else {
        cursor.expect("BEGIN")?;
        cursor.eat_one_of(&["TRANSACTION", "WORK"]);
    }
    Ok(Begin { modes: parse_modes(cursor)?, start })
}

/// Separated by commas or by nothing.
pub(crate) fn parse_modes(cursor: &mut Cursor<'_>) -> Result<TransactionModes, Error> {
    use datafusion::sql::sqlparser::tokenizer::Token;
    let mut modes = TransactionModes::default();
    loop {
        if cursor.eat_all(&["ISOLATION", "LEVEL"]) {
            modes.isolation = Some(parse_level(cursor)?);
        } else if cursor.eat_all(&["READ", "ONLY"]) {
            modes.read_only = Some(true);
        } else if cursor.eat_all(&["READ", "WRITE"]) {
            modes.read_only = Some(false);
        } else if cursor.eat_all(&["NOT", "DEFERRABLE"]) {
            modes.deferrable = Some(false);
        } else if cursor.eat("DEFERRABLE") {
            modes.deferrable = Some(true);
        } else {
            return Ok(modes);
        }
        if cursor.eat_token(&Token::Comma) && cursor.at_end() {
            return Err(cursor.unexpected("a transaction mode"));
        }
    }
}

fn parse_level(cursor: &mut Cursor<'_>) -> Result<IsolationLevel, Error> {
    if cursor.eat("SERIALIZABLE") {
        Ok(IsolationLevel::Serializable)
    } else if cursor.eat_all(&["REPEATABLE", "READ"]) {
        Ok(IsolationLevel::RepeatableRead)
    } else if cursor.eat_all(&["READ", "COMMITTED"]) {
        Ok(IsolationLevel::ReadCommitted)
    } else if cursor.eat_all(&["READ", "UNCOMMITTED"]) {
        Ok(IsolationLevel::ReadUncommitted)
    } else {
        Err(cursor.unexpected("SERIALIZABLE, REPEATABLE READ, READ COMMITTED or READ UNCOMMITTED"))
    }
}

pub(crate) fn parse_commit(cursor: &mut Cursor<'_>) -> Result<Commit, Error> {
    cursor.advance();
    if cursor.is("PREPARED") {
        return Err(Error::unsupported("COMMIT PREPARED").at(cursor.position()));
    }
    cursor.eat_one_of(&["TRANSACTION", "WORK"]);
    Ok(Commit { chain: parse_chain(cursor)? })
}

pub(crate) fn parse_rollback(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.advance();
    if cursor.is("PREPARED") {
        return Err(Error::unsupported("ROLLBACK PREPARED").at(cursor.position()));
    }
    cursor.eat_one_of(&["TRANSACTION", "WORK"]);
    if cursor.eat("TO") {
        cursor.eat("SAVEPOINT");
        return Ok(Statement::RollbackTo(RollbackTo { name: cursor.name()? }));
    }
    Ok(Statement::Rollback(Rollback { chain: parse_chain(cursor)? }))
}

fn parse_chain(cursor: &mut Cursor<'_>) -> Result<bool, Error> {
    if cursor.eat_all(&["AND", "NO", "CHAIN"]) {
        return Ok(false);
    }
    if cursor.eat("AND") {
        cursor.expect("CHAIN")?;
        return Ok(true);
    }
    Ok(false)
}

pub(crate) fn parse_savepoint(cursor: &mut Cursor<'_>) -> Result<Savepoint, Error> {
    cursor.expect("SAVEPOINT")?;
    Ok(Savepoint { name: cursor.name()? })
}

pub(crate) fn parse_release(cursor: &mut Cursor<'_>) -> Result<Release, Error> {
    cursor.expect("RELEASE")?;
    cursor.eat("SAVEPOINT");
    Ok(Release { name: cursor.name()? })
}
