//! Roles: `CREATE ROLE`, `ALTER ROLE`, `DROP ROLE`, `REASSIGN OWNED`, `DROP OWNED`.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::SqlState;

use super::Statement;
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name};

/// A role's name, or whose it is meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleName {
    Name(Name),
    /// `CURRENT_USER`, `CURRENT_ROLE`
    CurrentUser,
    SessionUser,
    /// `PUBLIC`: everybody. Only where something is granted or revoked.
    Public,
}

/// What must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// `CREATE {ROLE | USER | GROUP} name [WITH] options`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRole {
    pub name: Name,
    /// `CREATE USER`: may log in unless told otherwise.
    pub can_login: bool,
    pub options: RoleOptions,
}

/// `ALTER {ROLE | USER} name …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterRole {
    pub role: RoleName,
    pub position: usize,
    pub action: AlterRoleAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum AlterRoleAction {
    Options(RoleOptions),
    RenameTo(Name),
}

/// What stands behind `WITH`; `None` where nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleOptions {
    pub superuser: Option<bool>,
    pub login: Option<bool>,
    pub inherit: Option<bool>,
    pub create_role: Option<bool>,
    pub create_db: Option<bool>,
    /// Whether it sees all rows, whatever policies say.
    pub bypass_rls: Option<bool>,
    /// `Some(None)` is `PASSWORD NULL`.
    pub password: Option<Option<Password>>,
    /// `Some(None)` is `CONNECTION LIMIT -1`.
    pub connection_limit: Option<Option<u32>>,
    /// The text of a timestamp.
    pub valid_until: Option<(String, usize)>,
    /// `IN ROLE`
    pub in_roles: Vec<Name>,
    /// `ROLE`: who is in it.
    pub members: Vec<Name>,
    /// `ADMIN`
    pub admins: Vec<Name>,
}

/// `DROP ROLE [IF EXISTS] name, …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropRole {
    pub names: Vec<Name>,
    pub if_exists: bool,
}

/// `REASSIGN OWNED BY role, … TO role`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReassignOwned {
    pub from: Vec<(RoleName, usize)>,
    pub to: (RoleName, usize),
}

/// `DROP OWNED BY role, … [CASCADE | RESTRICT]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropOwned {
    pub roles: Vec<(RoleName, usize)>,
    pub cascade: bool,
}

/// `ROLE`, `USER`, `GROUP`: three words for one thing.
const KINDS: [&str; 3] = ["ROLE", "USER", "GROUP"];

/// Whether the word here begins what is said of a role. `USER MAPPING` is not.
pub(crate) fn is_next(cursor: &Cursor<'_>) -> bool {
    KINDS.iter().any(|kind| cursor.is(kind)) && cursor.word_at(1).as_deref() != Some("MAPPING")
}

/// Behind `CREATE`.
pub(crate) fn parse_create(cursor: &mut Cursor<'_>) -> Result<CreateRole, Error> {
    let can_login = cursor.is("USER");
    cursor.advance();
    let name = cursor.name()?;
    let options = parse_options(cursor, true)?;
    Ok(CreateRole { name, can_login, options })
}

/// Behind `ALTER`.
pub(crate) fn parse_alter(cursor: &mut Cursor<'_>) -> Result<AlterRole, Error> {
    cursor.advance();
    let position = cursor.position();
    let role = role_name(cursor, false)?;
    let at = cursor.position();
    if cursor.eat_all(&["RENAME", "TO"]) {
        return Ok(AlterRole { role, position, action: AlterRoleAction::RenameTo(cursor.name()?) });
    }
    if let Some(word @ ("SET" | "RESET" | "IN")) = cursor.word().as_deref() {
        return Err(Error::unsupported(format!("ALTER ROLE … {word}"))
            .with_hint("Settings belong to a session: SET them when it starts, or in the connection string's options.")
            .at(at));
    }
    let action = AlterRoleAction::Options(parse_options(cursor, false)?);
    Ok(AlterRole { role, position, action })
}

/// Behind `DROP`.
pub(crate) fn parse_drop(cursor: &mut Cursor<'_>) -> Result<DropRole, Error> {
    cursor.advance();
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    Ok(DropRole { names: cursor.list(Cursor::name)?, if_exists })
}

/// Behind `DROP`.
pub(crate) fn parse_drop_owned(cursor: &mut Cursor<'_>) -> Result<DropOwned, Error> {
    cursor.expect_all(&["OWNED", "BY"])?;
    let roles = cursor.list(|cursor| {
        let position = cursor.position();
        Ok((role_name(cursor, false)?, position))
    })?;
    let cascade = cursor.eat_one_of(&["CASCADE", "RESTRICT"]) == Some("CASCADE");
    Ok(DropOwned { roles, cascade })
}

pub(crate) fn parse_reassign(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect_all(&["REASSIGN", "OWNED", "BY"])?;
    let role = |cursor: &mut Cursor<'_>| {
        let position = cursor.position();
        Ok((role_name(cursor, false)?, position))
    };
    let from = cursor.list(role)?;
    cursor.expect("TO")?;
    Ok(Statement::ReassignOwned(ReassignOwned { from, to: role(cursor)? }))
}

/// A role; with `or_public`, also everybody.
pub(crate) fn role_name(cursor: &mut Cursor<'_>, or_public: bool) -> Result<RoleName, Error> {
    if cursor.eat_one_of(&["CURRENT_USER", "CURRENT_ROLE"]).is_some() {
        return Ok(RoleName::CurrentUser);
    }
    if cursor.eat("SESSION_USER") {
        return Ok(RoleName::SessionUser);
    }
    if or_public && cursor.eat("PUBLIC") {
        return Ok(RoleName::Public);
    }
    cursor.name().map(RoleName::Name)
}

const OPTIONS: [&str; 13] = [
    "SUPERUSER",
    "LOGIN",
    "INHERIT",
    "CREATEROLE",
    "CREATEDB",
    "BYPASSRLS",
    "PASSWORD",
    "CONNECTION LIMIT",
    "VALID UNTIL",
    "IN ROLE",
    "ROLE",
    "ADMIN",
    "NOLOGIN",
];

fn parse_options(cursor: &mut Cursor<'_>, is_new: bool) -> Result<RoleOptions, Error> {
    cursor.eat("WITH");
    let mut options = RoleOptions::default();
    while !cursor.at_end() {
        let position = cursor.position();
        let word = cursor.word().unwrap_or_default();
        let twice = || {
            let error = Error::new(SqlState::SYNTAX_ERROR, "conflicting or redundant options");
            Err(error.at(position))
        };
        let (flag, value) = match word.strip_prefix("NO") {
            Some(flag) if !flag.is_empty() => (flag, false),
            _ => (word.as_str(), true),
        };
        let slot = match flag {
            "SUPERUSER" => Some(&mut options.superuser),
            "LOGIN" => Some(&mut options.login),
            "INHERIT" => Some(&mut options.inherit),
            "CREATEROLE" | "CREATEUSER" => Some(&mut options.create_role),
            "CREATEDB" => Some(&mut options.create_db),
            "BYPASSRLS" => Some(&mut options.bypass_rls),
            _ => None,
        };
        if let Some(slot) = slot {
            if slot.replace(value).is_some() {
                return twice();
            }
            cursor.advance();
            continue;
        }
        match word.as_str() {
            "REPLICATION" => {
                return Err(Error::unsupported(format!("a role with {word}")).at(position));
            }
            // There is none of it, so nobody has it.
            "NOREPLICATION" => cursor.advance(),
            "ENCRYPTED" | "PASSWORD" => {
                cursor.eat("ENCRYPTED");
                cursor.expect("PASSWORD")?;
                let password = if cursor.eat("NULL") { None } else { Some(Password(cursor.string()?)) };
                if options.password.replace(password).is_some() {
                    return twice();
                }
            }
            "UNENCRYPTED" => {
                return Err(Error::unsupported("UNENCRYPTED PASSWORD")
                    .with_hint("Passwords are kept as SCRAM-SHA-256 verifiers: leave the word out.")
                    .at(position));
            }
            "CONNECTION" => {
                cursor.expect_all(&["CONNECTION", "LIMIT"])?;
                let limit = match cursor.eat_token(&Token::Minus) {
                    true => {
                        let at = cursor.position();
                        match cursor.integer()? {
                            1 => None,
                            n => {
                                let message = format!("invalid connection limit: -{n}");
                                return Err(Error::new(SqlState::INVALID_PARAMETER, message).at(at));
                            }
                        }
                    }
                    false => {
                        let at = cursor.position();
                        let n = cursor.integer()?;
                        let limit = u32::try_from(n).ok().filter(|n| *n <= i32::MAX as u32);
                        Some(limit.ok_or_else(|| {
                            let message = format!("invalid connection limit: {n}");
                            Error::new(SqlState::INVALID_PARAMETER, message).at(at)
                        })?)
                    }
                };
                if options.connection_limit.replace(limit).is_some() {
                    return twice();
                }
            }
            "VALID" => {
                cursor.expect_all(&["VALID", "UNTIL"])?;
                let at = cursor.position();
                if options.valid_until.replace((cursor.string()?, at)).is_some() {
                    return twice();
                }
            }
            "IN" if is_new => {
                cursor.advance();
                if cursor.eat_one_of(&["ROLE", "GROUP"]).is_none() {
                    return Err(cursor.unexpected("ROLE"));
                }
                options.in_roles.extend(cursor.list(Cursor::name)?);
            }
            "ROLE" | "USER" if is_new => {
                cursor.advance();
                options.members.extend(cursor.list(Cursor::name)?);
            }
            "ADMIN" if is_new => {
                cursor.advance();
                options.admins.extend(cursor.list(Cursor::name)?);
            }
            "SYSID" => {
                cursor.advance();
                cursor.integer()?;
            }
            _ => return Err(cursor.unexpected_word("an option of a role", &OPTIONS)),
        }
    }
    Ok(options)
}
