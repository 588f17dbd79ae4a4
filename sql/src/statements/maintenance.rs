//! `FLUSH`, `REFRESH`, and what clients send out of habit: `LOCK`, `ANALYZE`, `VACUUM`.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// Waits until all that has come in is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush;

/// `CANCEL JOB n`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelJob {
    pub id: u64,
    pub position: usize,
}

/// `REFRESH MATERIALIZED VIEW [CONCURRENTLY] p [WITH [NO] DATA]`: a pipeline is refreshed by itself; what had come in before is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    pub name: ObjectName,
}

/// `LOCK [TABLE] t, … [IN mode MODE] [NOWAIT]`: accepted, since a transaction reads one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub names: Vec<ObjectName>,
}

/// `ANALYZE [VERBOSE] [t, …]`: accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analyze {
    pub names: Vec<ObjectName>,
}

/// `VACUUM [(…)] [FULL] [FREEZE] [VERBOSE] [ANALYZE] [t, …]`: accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vacuum {
    pub names: Vec<ObjectName>,
}

pub(crate) fn parse_cancel(cursor: &mut Cursor<'_>) -> Result<CancelJob, Error> {
    cursor.expect_all(&["CANCEL", "JOB"])?;
    let position = cursor.position();
    Ok(CancelJob { id: cursor.integer()?, position })
}

pub(crate) fn parse_flush(cursor: &mut Cursor<'_>) -> Result<Flush, Error> {
    cursor.expect("FLUSH")?;
    Ok(Flush)
}

pub(crate) fn parse_refresh(cursor: &mut Cursor<'_>) -> Result<Refresh, Error> {
    cursor.expect_all(&["REFRESH", "MATERIALIZED", "VIEW"])?;
    cursor.eat("CONCURRENTLY");
    let name = cursor.object_name()?;
    if cursor.is_all(&["WITH", "NO", "DATA"]) {
        return Err(Error::unsupported("WITH NO DATA")
            .with_hint("A pipeline is always filled.")
            .at(cursor.position()));
    }
    cursor.eat_all(&["WITH", "DATA"]);
    Ok(Refresh { name })
}

pub(crate) fn parse_lock(cursor: &mut Cursor<'_>) -> Result<Lock, Error> {
    cursor.expect("LOCK")?;
    cursor.eat("TABLE");
    cursor.eat("ONLY");
    let names = cursor.list(Cursor::object_name)?;
    if cursor.eat("IN") {
        while !cursor.is("MODE") {
            if cursor.eat_one_of(&["ACCESS", "ROW", "SHARE", "UPDATE", "EXCLUSIVE"]).is_none() {
                return Err(cursor.unexpected("a lock mode"));
            }
        }
        cursor.expect("MODE")?;
    }
    cursor.eat("NOWAIT");
    Ok(Lock { names })
}

pub(crate) fn parse_analyze(cursor: &mut Cursor<'_>) -> Result<Analyze, Error> {
    cursor.advance();
    skip_options(cursor)?;
    cursor.eat("VERBOSE");
    Ok(Analyze { names: names_with_columns(cursor)? })
}

pub(crate) fn parse_vacuum(cursor: &mut Cursor<'_>) -> Result<Vacuum, Error> {
    cursor.expect("VACUUM")?;
    skip_options(cursor)?;
    while cursor.eat_one_of(&["FULL", "FREEZE", "VERBOSE", "ANALYZE", "ANALYSE"]).is_some() {}
    Ok(Vacuum { names: names_with_columns(cursor)? })
}

/// `(VERBOSE, FREEZE true, …)`
fn skip_options(cursor: &mut Cursor<'_>) -> Result<(), Error> {
    if !cursor.is_token(&Token::LParen) {
        return Ok(());
    }
    cursor.parenthesized(|cursor| {
        if cursor.word().is_none() {
            return Err(cursor.unexpected("an option"));
        }
        while !matches!(cursor.peek().token, Token::Comma | Token::RParen | Token::EOF) {
            cursor.advance();
        }
        Ok(())
    })?;
    Ok(())
}

fn names_with_columns(cursor: &mut Cursor<'_>) -> Result<Vec<ObjectName>, Error> {
    if cursor.at_end() {
        return Ok(Vec::new());
    }
    cursor.list(|cursor| {
        let name = cursor.object_name()?;
        if cursor.is_token(&Token::LParen) {
            cursor.parenthesized(Cursor::name)?;
        }
        Ok(name)
    })
}
