//! `LISTEN`, `UNLISTEN`, `NOTIFY`.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::Error;
use crate::parser::cursor::{Cursor, Name};

/// `LISTEN channel`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub channel: Name,
}

/// `UNLISTEN channel`, `UNLISTEN *` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisten {
    pub channel: Option<Name>,
}

/// `NOTIFY channel [, 'payload']`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    pub channel: Name,
    pub payload: Option<String>,
}

pub(crate) fn parse_listen(cursor: &mut Cursor<'_>) -> Result<Listen, Error> {
    cursor.expect("LISTEN")?;
    Ok(Listen { channel: cursor.name()? })
}

pub(crate) fn parse_unlisten(cursor: &mut Cursor<'_>) -> Result<Unlisten, Error> {
    cursor.expect("UNLISTEN")?;
    match cursor.eat_token(&Token::Mul) {
        true => Ok(Unlisten { channel: None }),
        false => Ok(Unlisten { channel: Some(cursor.name()?) }),
    }
}

pub(crate) fn parse_notify(cursor: &mut Cursor<'_>) -> Result<Notify, Error> {
    cursor.expect("NOTIFY")?;
    let channel = cursor.name()?;
    let payload = match cursor.eat_token(&Token::Comma) {
        true => Some(cursor.string()?),
        false => None,
    };
    Ok(Notify { channel, payload })
}
