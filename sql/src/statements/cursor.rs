//! Cursors: `DECLARE`, `FETCH`, `MOVE`, `CLOSE`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::query::{self, SelectQuery};
use super::subscribe::{self, Subscribe};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name};

/// `DECLARE name [BINARY] [[NO] SCROLL] CURSOR [{WITH|WITHOUT} HOLD] FOR …`
#[derive(Debug, Clone, PartialEq)]
pub struct Declare {
    pub name: Name,
    pub binary: bool,
    /// `None`: not said.
    pub scroll: Option<bool>,
    pub hold: bool,
    pub of: DeclaredOf,
}

/// What a cursor reads.
#[derive(Debug, Clone, PartialEq)]
pub enum DeclaredOf {
    Query(SelectQuery),
    Subscribe(Subscribe),
}

/// `FETCH` and `MOVE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub count: FetchCount,
    pub name: Name,
    /// `WITH (TIMEOUT = '1s')`: how long a subscription waits for rows, as it was written.
    pub timeout: Option<String>,
}

/// How far a cursor goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchCount {
    /// `n`, `NEXT`, `FORWARD n`; zero shows the current row again.
    Forward(u64),
    /// `ALL`, `FORWARD ALL`
    ForwardAll,
    Backward(u64),
    BackwardAll,
    First,
    Last,
    Absolute(i64),
    Relative(i64),
}

/// `CLOSE name`, `CLOSE ALL` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    pub name: Option<Name>,
}

pub(crate) fn parse_declare(cursor: &mut Cursor<'_>) -> Result<Declare, Error> {
    cursor.expect("DECLARE")?;
    let name = cursor.name()?;
    let (mut binary, mut scroll) = (false, None);
    loop {
        if cursor.eat("BINARY") {
            binary = true;
        } else if cursor.eat_all(&["NO", "SCROLL"]) {
            scroll = Some(false);
        } else if cursor.eat("SCROLL") {
            scroll = Some(true);
        } else if cursor.eat("INSENSITIVE") || cursor.eat("ASENSITIVE") {
            // Every cursor here is insensitive: it reads one snapshot.
        } else {
            break;
        }
    }
    cursor.expect("CURSOR")?;
    let hold = cursor.eat_all(&["WITH", "HOLD"]);
    if !hold {
        cursor.eat_all(&["WITHOUT", "HOLD"]);
    }
    cursor.expect("FOR")?;
    let of = match cursor.is("SUBSCRIBE") {
        true => DeclaredOf::Subscribe(subscribe::parse(cursor)?),
        false => DeclaredOf::Query(query::parse(cursor)?),
    };
    Ok(Declare { name, binary, scroll, hold, of })
}

pub(crate) fn parse_fetch(cursor: &mut Cursor<'_>) -> Result<Fetch, Error> {
    cursor.advance();
    let count = parse_count(cursor)?;
    cursor.eat_one_of(&["FROM", "IN"]);
    let name = cursor.name()?;
    let timeout = match cursor.eat("WITH") {
        true => Some(parse_timeout(cursor)?),
        false => None,
    };
    Ok(Fetch { count, name, timeout })
}

fn parse_timeout(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    cursor.expect_token(&Token::LParen)?;
    cursor.expect("TIMEOUT")?;
    cursor.eat_token(&Token::Eq);
    let timeout = cursor.string()?;
    cursor.expect_token(&Token::RParen)?;
    Ok(timeout)
}

fn parse_count(cursor: &mut Cursor<'_>) -> Result<FetchCount, Error> {
    // A cursor may be called `next`: the word is a direction only if more follows.
    let more = !matches!(cursor.peek_at(1), Token::EOF);
    let word = cursor.word().filter(|_| more);
    let count = match word.as_deref() {
        Some("NEXT") => FetchCount::Forward(1),
        Some("PRIOR") => FetchCount::Backward(1),
        Some("FIRST") => FetchCount::First,
        Some("LAST") => FetchCount::Last,
        Some("ALL") => FetchCount::ForwardAll,
        Some("ABSOLUTE") => {
            cursor.advance();
            return Ok(FetchCount::Absolute(signed(cursor)?));
        }
        Some("RELATIVE") => {
            cursor.advance();
            return Ok(FetchCount::Relative(signed(cursor)?));
        }
        Some("FORWARD") => {
            cursor.advance();
            return Ok(match directed(cursor)? {
                Some(count) if count < 0 => FetchCount::Backward(count.unsigned_abs()),
                Some(count) => FetchCount::Forward(count.unsigned_abs()),
                None => FetchCount::ForwardAll,
            });
        }
        Some("BACKWARD") => {
            cursor.advance();
            return Ok(match directed(cursor)? {
                Some(count) if count < 0 => FetchCount::Forward(count.unsigned_abs()),
                Some(count) => FetchCount::Backward(count.unsigned_abs()),
                None => FetchCount::BackwardAll,
            });
        }
        _ if matches!(cursor.peek().token, Token::Number(..) | Token::Minus | Token::Plus) => {
            let count = signed(cursor)?;
            return Ok(match count < 0 {
                true => FetchCount::Backward(count.unsigned_abs()),
                false => FetchCount::Forward(count.unsigned_abs()),
            });
        }
        // `FETCH FROM c`, `FETCH c`
        _ => return Ok(FetchCount::Forward(1)),
    };
    cursor.advance();
    Ok(count)
}

/// Behind `FORWARD` or `BACKWARD`: a count, one when nothing is said, `None` for `ALL`.
fn directed(cursor: &mut Cursor<'_>) -> Result<Option<i64>, Error> {
    if cursor.eat("ALL") {
        return Ok(None);
    }
    match matches!(cursor.peek().token, Token::Number(..) | Token::Minus | Token::Plus) {
        true => signed(cursor).map(Some),
        false => Ok(Some(1)),
    }
}

fn signed(cursor: &mut Cursor<'_>) -> Result<i64, Error> {
    let negative = cursor.eat_token(&Token::Minus);
    if !negative {
        cursor.eat_token(&Token::Plus);
    }
    let position = cursor.position();
    let number = i64::try_from(cursor.integer()?).map_err(|_| {
        Error::new(tidemill_core::SqlState::NUMERIC_OUT_OF_RANGE, "count is out of range").at(position)
    })?;
    Ok(if negative { -number } else { number })
}

pub(crate) fn parse_close(cursor: &mut Cursor<'_>) -> Result<Close, Error> {
    cursor.expect("CLOSE")?;
    match cursor.eat("ALL") {
        true => Ok(Close { name: None }),
        false => Ok(Close { name: Some(cursor.name()?) }),
    }
}
