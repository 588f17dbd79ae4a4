//! `SUBSCRIBE TO p`: the changes of a relation as rows.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::{SqlState, did_you_mean};

use super::copy::boolean;
use super::query::{self, SelectQuery};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// `SUBSCRIBE [TO] {name | (query)} [WITH (SNAPSHOT, PROGRESS)] [AS OF epoch] [UP TO epoch]`
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    pub to: SubscribeTo,
    /// Whether the rows that exist come first, as insertions. On unless switched off.
    pub snapshot: bool,
    /// Whether epochs without changes are told as well.
    pub progress: bool,
    pub as_of: Option<u64>,
    pub up_to: Option<u64>,
}

/// Whose changes.
#[derive(Debug, Clone, PartialEq)]
pub enum SubscribeTo {
    Relation(ObjectName),
    Query(SelectQuery),
}

const OPTIONS: [&str; 2] = ["SNAPSHOT", "PROGRESS"];

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Subscribe, Error> {
    cursor.expect("SUBSCRIBE")?;
    cursor.eat("TO");
    let to = match cursor.is_token(&Token::LParen) {
        true => {
            cursor.advance();
            let query = query::parse(cursor)?;
            cursor.expect_token(&Token::RParen)?;
            SubscribeTo::Query(query)
        }
        false if cursor.is("SELECT") => SubscribeTo::Query(query::parse(cursor)?),
        false => SubscribeTo::Relation(cursor.object_name()?),
    };
    let mut subscribe = Subscribe { to, snapshot: true, progress: false, as_of: None, up_to: None };
    loop {
        if cursor.eat("WITH") {
            cursor.parenthesized(|cursor| parse_option(cursor, &mut subscribe))?;
        } else if cursor.eat_all(&["AS", "OF"]) {
            subscribe.as_of = Some(cursor.integer()?);
        } else if cursor.eat_all(&["UP", "TO"]) {
            subscribe.up_to = Some(cursor.integer()?);
        } else {
            return Ok(subscribe);
        }
    }
}

fn parse_option(cursor: &mut Cursor<'_>, subscribe: &mut Subscribe) -> Result<(), Error> {
    let position = cursor.position();
    match cursor.word() {
        Some(name) if OPTIONS.contains(&name.as_str()) => {
            cursor.advance();
            cursor.eat_token(&Token::Eq);
            let value = boolean(cursor)?;
            match name.as_str() {
                "SNAPSHOT" => subscribe.snapshot = value,
                _ => subscribe.progress = value,
            }
            Ok(())
        }
        Some(name) => {
            let hint = did_you_mean(&name, OPTIONS)
                .map_or("Known are SNAPSHOT and PROGRESS.".to_string(), |near| {
                    format!("Did you mean {near}?")
                });
            let message = format!("unrecognized SUBSCRIBE option \"{}\"", name.to_lowercase());
            Err(Error::new(SqlState::INVALID_PARAMETER, message).with_hint(hint).at(position))
        }
        None => Err(cursor.unexpected("an option of SUBSCRIBE")),
    }
}
