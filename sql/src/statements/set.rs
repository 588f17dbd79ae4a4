//! Settings: `SET`, `RESET`, `SHOW variable`, `DISCARD`, roles.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Statement, transaction};
use crate::error::Error;
use crate::parser::cursor::Cursor;

/// `SET [SESSION|LOCAL] name {TO|=} value, …`; also `SET TIME ZONE`, `SET NAMES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// In lower case; dotted where it was written so.
    pub name: String,
    pub value: SetValue,
    pub scope: SetScope,
    /// In characters from 1.
    pub position: usize,
}

/// How long a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetScope {
    Session,
    /// Until the transaction ends.
    Local,
}

/// What a variable is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    Default,
    /// Several for lists such as `search_path`; words are in lower case, strings as they are.
    Values(Vec<String>),
}

impl SetValue {
    /// The values as `SHOW` prints them, `None` for `DEFAULT`.
    pub fn text(&self) -> Option<String> {
        match self {
            SetValue::Default => None,
            SetValue::Values(values) => Some(values.join(", ")),
        }
    }
}

/// `RESET name`, `RESET ALL` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub name: Option<String>,
}

/// `SHOW name`, `SHOW ALL` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowVariable {
    pub name: Option<String>,
    pub position: usize,
}

/// `DISCARD {ALL | PLANS | SEQUENCES | TEMP}`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    All,
    Plans,
    Sequences,
    Temp,
}

/// `SET ROLE name`, `SET ROLE NONE` and `RESET ROLE` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRole {
    pub role: Option<String>,
    pub scope: SetScope,
    /// Written as `RESET ROLE`.
    pub is_reset: bool,
}

/// `SET SESSION AUTHORIZATION name`, `… DEFAULT` (`None`)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSessionAuthorization {
    pub user: Option<String>,
    pub scope: SetScope,
    /// Written as `RESET SESSION AUTHORIZATION`.
    pub is_reset: bool,
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("SET")?;
    if cursor.is_all(&["SESSION", "AUTHORIZATION"]) {
        cursor.expect_all(&["SESSION", "AUTHORIZATION"])?;
        let user = if cursor.eat("DEFAULT") { None } else { Some(role_name(cursor)?) };
        let scope = SetScope::Session;
        return Ok(Statement::SetSessionAuthorization(SetSessionAuthorization {
            user,
            scope,
            is_reset: false,
        }));
    }
    if cursor.eat_all(&["SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"]) {
        return parse_transaction(cursor, SetScope::Session);
    }
    let scope = match cursor.eat_one_of(&["LOCAL", "SESSION"]) {
        Some("LOCAL") => SetScope::Local,
        _ => SetScope::Session,
    };
    if cursor.eat_all(&["SESSION", "AUTHORIZATION"]) {
        let user = if cursor.eat("DEFAULT") { None } else { Some(role_name(cursor)?) };
        return Ok(Statement::SetSessionAuthorization(SetSessionAuthorization {
            user,
            scope,
            is_reset: false,
        }));
    }
    match cursor.word().as_deref() {
        Some("TRANSACTION") => {
            cursor.advance();
            parse_transaction(cursor, SetScope::Local)
        }
        Some("ROLE")
            if !matches!(cursor.peek_at(1), Token::Eq) && cursor.word_at(1).as_deref() != Some("TO") =>
        {
            cursor.advance();
            let role = if cursor.eat("NONE") { None } else { Some(role_name(cursor)?) };
            Ok(Statement::SetRole(SetRole { role, scope, is_reset: false }))
        }
        Some("CONSTRAINTS") => Err(Error::unsupported("SET CONSTRAINTS").at(cursor.position())),
        Some("TIME") if cursor.is_all(&["TIME", "ZONE"]) => {
            parse_time_zone(cursor, scope).map(Statement::Set)
        }
        Some("NAMES") => parse_names(cursor, scope).map(Statement::Set),
        _ => parse_variable(cursor, scope).map(Statement::Set),
    }
}

fn parse_transaction(cursor: &mut Cursor<'_>, scope: SetScope) -> Result<Statement, Error> {
    if cursor.is("SNAPSHOT") {
        return Err(Error::unsupported("SET TRANSACTION SNAPSHOT").at(cursor.position()));
    }
    let mut modes = transaction::parse_modes(cursor)?;
    modes.session = scope == SetScope::Session;
    match modes.is_empty() {
        true => Err(cursor.unexpected("a transaction mode")),
        false => Ok(Statement::SetTransaction(modes)),
    }
}

fn parse_time_zone(cursor: &mut Cursor<'_>, scope: SetScope) -> Result<Set, Error> {
    let position = cursor.position();
    cursor.expect_all(&["TIME", "ZONE"])?;
    // `SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE`
    let interval = cursor.eat("INTERVAL");
    let value = match cursor.eat_one_of(&["DEFAULT", "LOCAL"]) {
        Some(_) => SetValue::Default,
        None => SetValue::Values(vec![parse_value(cursor)?]),
    };
    if interval {
        cursor.eat_all(&["HOUR", "TO", "MINUTE"]);
    }
    Ok(Set { name: "timezone".to_string(), value, scope, position })
}

fn parse_names(cursor: &mut Cursor<'_>, scope: SetScope) -> Result<Set, Error> {
    let position = cursor.position();
    cursor.expect("NAMES")?;
    let value = match cursor.at_end() || cursor.eat("DEFAULT") {
        true => SetValue::Default,
        false => SetValue::Values(vec![parse_value(cursor)?]),
    };
    Ok(Set { name: "client_encoding".to_string(), value, scope, position })
}

fn parse_variable(cursor: &mut Cursor<'_>, scope: SetScope) -> Result<Set, Error> {
    let position = cursor.position();
    let name = variable_name(cursor)?;
    if !cursor.eat("TO") && !cursor.eat_token(&Token::Eq) {
        return Err(cursor.unexpected("TO or ="));
    }
    let value = match cursor.eat("DEFAULT") {
        true => SetValue::Default,
        false => SetValue::Values(cursor.list(parse_value)?),
    };
    Ok(Set { name, value, scope, position })
}

/// `name`, `prefix.name`
fn variable_name(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let mut name = cursor.name()?.value.to_lowercase();
    while cursor.eat_token(&Token::Period) {
        name = format!("{name}.{}", cursor.name()?.value.to_lowercase());
    }
    Ok(name)
}

fn parse_value(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    if let Some(value) = cursor.string_opt() {
        return Ok(value);
    }
    let sign = match cursor.eat_token(&Token::Minus) {
        true => "-",
        false => {
            cursor.eat_token(&Token::Plus);
            ""
        }
    };
    let value = match &cursor.peek().token {
        Token::Number(number, _) => format!("{sign}{number}"),
        // Also reserved words: `SET x TO on`.
        Token::Word(word) if sign.is_empty() => match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_lowercase(),
        },
        _ => return Err(cursor.unexpected("a value")),
    };
    cursor.advance();
    Ok(value)
}

fn role_name(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    match cursor.string_opt() {
        Some(name) => Ok(name),
        None => Ok(cursor.name()?.value),
    }
}

pub(crate) fn parse_reset(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("RESET")?;
    if cursor.eat("ALL") {
        return Ok(Statement::Reset(Reset { name: None }));
    }
    if cursor.eat("ROLE") {
        let scope = SetScope::Session;
        return Ok(Statement::SetRole(SetRole { role: None, scope, is_reset: true }));
    }
    if cursor.eat_all(&["SESSION", "AUTHORIZATION"]) {
        let (user, scope) = (None, SetScope::Session);
        return Ok(Statement::SetSessionAuthorization(SetSessionAuthorization {
            user,
            scope,
            is_reset: true,
        }));
    }
    let name = match cursor.eat_all(&["TIME", "ZONE"]) {
        true => "timezone".to_string(),
        false => variable_name(cursor)?,
    };
    Ok(Statement::Reset(Reset { name: Some(name) }))
}

/// Behind `SHOW`, when it is no list of objects.
pub(crate) fn parse_show_variable(cursor: &mut Cursor<'_>) -> Result<ShowVariable, Error> {
    let position = cursor.position();
    if cursor.eat("ALL") {
        return Ok(ShowVariable { name: None, position });
    }
    let name = if cursor.eat_all(&["TIME", "ZONE"]) {
        "timezone".to_string()
    } else if cursor.eat_all(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        "transaction_isolation".to_string()
    } else if cursor.eat_all(&["SESSION", "AUTHORIZATION"]) {
        "session_authorization".to_string()
    } else {
        variable_name(cursor)?
    };
    Ok(ShowVariable { name: Some(name), position })
}

pub(crate) fn parse_discard(cursor: &mut Cursor<'_>) -> Result<Discard, Error> {
    const WHAT: [&str; 5] = ["ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY"];
    cursor.expect("DISCARD")?;
    match cursor.eat_one_of(&WHAT) {
        Some("ALL") => Ok(Discard::All),
        Some("PLANS") => Ok(Discard::Plans),
        Some("SEQUENCES") => Ok(Discard::Sequences),
        Some(_) => Ok(Discard::Temp),
        None => Err(cursor.unexpected_word("what to discard", &WHAT)),
    }
}
