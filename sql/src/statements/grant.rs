//! `GRANT` and `REVOKE`: privileges on objects, and roles.

use tidemill_core::SqlState;

use super::role::{RoleName, role_name};
use super::{ObjectKind, Statement, object_kind};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// `GRANT role, … TO role, … [WITH ADMIN OPTION]`, `REVOKE [ADMIN OPTION FOR] role, … FROM role, …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRoles {
    pub is_revoke: bool,
    pub roles: Vec<Name>,
    pub to: Vec<(RoleName, usize)>,
    pub admin_option: bool,
}

/// `GRANT privilege, … ON objects TO role, … [WITH GRANT OPTION]`, `REVOKE [GRANT OPTION FOR] … FROM …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantPrivileges {
    pub is_revoke: bool,
    /// Keywords, with their positions; `None` is `ALL`.
    pub privileges: Option<Vec<(String, usize)>>,
    pub on: GrantOn,
    pub to: Vec<(RoleName, usize)>,
    pub grant_option: bool,
    pub cascade: bool,
}

/// `ALTER DEFAULT PRIVILEGES [FOR ROLE role, …] [IN SCHEMA schema, …] {GRANT … | REVOKE …} ON {TABLES | SEQUENCES | SCHEMAS} …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterDefaultPrivileges {
    /// Whose creations; none for the user's.
    pub roles: Vec<(RoleName, usize)>,
    pub schemas: Vec<Name>,
    pub is_revoke: bool,
    /// Keywords, with their positions; `None` is `ALL`.
    pub privileges: Option<Vec<(String, usize)>>,
    pub on: Created,
    pub to: Vec<(RoleName, usize)>,
    pub grant_option: bool,
}

/// What default privileges are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Whatever can be read.
    Tables,
    Sequences,
    Schemas,
}

/// What privileges are granted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantOn {
    /// Without a kind, or with `TABLE`, which in PostgreSQL is every relation: any of them.
    Relations {
        kind: Option<ObjectKind>,
        names: Vec<ObjectName>,
    },
    Schemas(Vec<Name>),
    Databases(Vec<Name>),
    /// `ALL TABLES IN SCHEMA`: whatever can be read; with a kind, only those.
    AllInSchema {
        kind: Option<ObjectKind>,
        schemas: Vec<Name>,
    },
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    let is_revoke = cursor.is("REVOKE");
    cursor.advance();
    let grant_option_for = is_revoke && cursor.eat_all(&["GRANT", "OPTION", "FOR"]);
    let admin_option_for = is_revoke && cursor.eat_all(&["ADMIN", "OPTION", "FOR"]);
    let first = cursor.position();
    let is_all = cursor.is("ALL");
    let words = match is_all {
        true => {
            cursor.advance();
            cursor.eat("PRIVILEGES");
            Vec::new()
        }
        false => cursor.list(privilege_or_role)?,
    };
    if !is_all && !cursor.is("ON") {
        if grant_option_for {
            return Err(cursor.unexpected("ON"));
        }
        return parse_roles(cursor, is_revoke, admin_option_for, words);
    }
    if admin_option_for {
        return Err(Error::syntax("ON").at(first).with_hint("Of a privilege it is GRANT OPTION FOR."));
    }
    cursor.expect("ON")?;
    let on = parse_on(cursor)?;
    let to = parse_to(cursor, is_revoke, true)?;
    let mut grant_option = grant_option_for;
    if !is_revoke && cursor.eat("WITH") {
        cursor.expect_all(&["GRANT", "OPTION"])?;
        grant_option = true;
    }
    parse_granted_by(cursor)?;
    let cascade = is_revoke && parse_cascade(cursor);
    let privileges = match is_all {
        true => None,
        false => Some(words.into_iter().map(|name| (name.value.to_uppercase(), name.position)).collect()),
    };
    let grant = GrantPrivileges { is_revoke, privileges, on, to, grant_option, cascade };
    Ok(Statement::GrantPrivileges(grant))
}

/// Behind `ALTER`.
pub(crate) fn parse_defaults(cursor: &mut Cursor<'_>) -> Result<AlterDefaultPrivileges, Error> {
    cursor.expect_all(&["DEFAULT", "PRIVILEGES"])?;
    let mut roles = Vec::new();
    if cursor.eat("FOR") {
        if cursor.eat_one_of(&["ROLE", "USER"]).is_none() {
            return Err(cursor.unexpected("ROLE"));
        }
        roles = cursor.list(|cursor| {
            let position = cursor.position();
            Ok((role_name(cursor, false)?, position))
        })?;
    }
    let schemas = match cursor.eat_all(&["IN", "SCHEMA"]) {
        true => cursor.list(Cursor::name)?,
        false => Vec::new(),
    };
    let is_revoke = match cursor.eat_one_of(&["GRANT", "REVOKE"]) {
        Some(verb) => verb == "REVOKE",
        None => return Err(cursor.unexpected_word("GRANT or REVOKE", &["GRANT", "REVOKE"])),
    };
    let mut grant_option = is_revoke && cursor.eat_all(&["GRANT", "OPTION", "FOR"]);
    let privileges = match cursor.eat("ALL") {
        true => {
            cursor.eat("PRIVILEGES");
            None
        }
        false => {
            let words = cursor.list(privilege_or_role)?;
            Some(words.into_iter().map(|name| (name.value.to_uppercase(), name.position)).collect())
        }
    };
    cursor.expect("ON")?;
    let position = cursor.position();
    let on = match cursor.eat_one_of(&["TABLES", "SCHEMAS", "SEQUENCES", "FUNCTIONS", "ROUTINES", "TYPES"]) {
        Some("TABLES") => Created::Tables,
        Some("SEQUENCES") => Created::Sequences,
        Some("SCHEMAS") if schemas.is_empty() => Created::Schemas,
        Some("SCHEMAS") => {
            let message = "cannot use IN SCHEMA clause when using GRANT/REVOKE ON SCHEMAS";
            return Err(Error::new(SqlState("0LP01"), message).at(position));
        }
        Some(word) => {
            return Err(Error::unsupported(format!("ALTER DEFAULT PRIVILEGES ON {word}")).at(position));
        }
        None => return Err(cursor.unexpected_word("what is created", &["TABLES", "SEQUENCES", "SCHEMAS"])),
    };
    let to = parse_to(cursor, is_revoke, true)?;
    if !is_revoke && cursor.eat("WITH") {
        cursor.expect_all(&["GRANT", "OPTION"])?;
        grant_option = true;
    }
    if is_revoke {
        parse_cascade(cursor);
    }
    Ok(AlterDefaultPrivileges { roles, schemas, is_revoke, privileges, on, to, grant_option })
}

/// Which of the two it is shows only behind it.
fn privilege_or_role(cursor: &mut Cursor<'_>) -> Result<Name, Error> {
    // Keywords that are no names otherwise.
    const WORDS: [&str; 4] = ["SELECT", "CREATE", "REFERENCES", "USER"];
    let position = cursor.position();
    let name = match cursor.eat_one_of(&WORDS) {
        Some(word) => Name { value: word.to_lowercase(), position },
        None => cursor.name()?,
    };
    if cursor.is_token(&datafusion::sql::sqlparser::tokenizer::Token::LParen) {
        return Err(Error::unsupported("a privilege on some columns")
            .with_hint("Grant it on a view that has only these columns.")
            .at(position));
    }
    Ok(name)
}

fn parse_roles(
    cursor: &mut Cursor<'_>,
    is_revoke: bool,
    admin_option_for: bool,
    roles: Vec<Name>,
) -> Result<Statement, Error> {
    let to = parse_to(cursor, is_revoke, false)?;
    let mut admin_option = admin_option_for;
    if !is_revoke && cursor.eat("WITH") {
        let position = cursor.position();
        if cursor.is("INHERIT") || cursor.is("SET") {
            return Err(Error::unsupported("GRANT … WITH INHERIT or SET")
                .with_hint("Whether a role inherits is said once for all: ALTER ROLE … NOINHERIT.")
                .at(position));
        }
        cursor.expect("ADMIN")?;
        admin_option = match cursor.eat_one_of(&["OPTION", "TRUE", "FALSE"]) {
            Some(word) => word != "FALSE",
            None => return Err(cursor.unexpected("OPTION")),
        };
    }
    parse_granted_by(cursor)?;
    if is_revoke {
        parse_cascade(cursor);
    }
    Ok(Statement::GrantRoles(GrantRoles { is_revoke, roles, to, admin_option }))
}

fn parse_to(
    cursor: &mut Cursor<'_>,
    is_revoke: bool,
    or_public: bool,
) -> Result<Vec<(RoleName, usize)>, Error> {
    cursor.expect(if is_revoke { "FROM" } else { "TO" })?;
    cursor.list(|cursor| {
        cursor.eat("GROUP");
        let position = cursor.position();
        Ok((role_name(cursor, or_public)?, position))
    })
}

fn parse_granted_by(cursor: &mut Cursor<'_>) -> Result<(), Error> {
    match cursor.is_all(&["GRANTED", "BY"]) {
        true => Err(Error::unsupported("GRANTED BY")
            .with_hint("What an owner's members and superusers grant, the owner grants.")
            .at(cursor.position())),
        false => Ok(()),
    }
}

fn parse_cascade(cursor: &mut Cursor<'_>) -> bool {
    cursor.eat_one_of(&["CASCADE", "RESTRICT"]) == Some("CASCADE")
}

fn parse_on(cursor: &mut Cursor<'_>) -> Result<GrantOn, Error> {
    let position = cursor.position();
    if cursor.is("ALL") {
        return parse_all(cursor);
    }
    if cursor.eat("DATABASE") {
        return Ok(GrantOn::Databases(cursor.list(Cursor::name)?));
    }
    let kind = match cursor.word().as_deref() {
        // A relation of such a name is quoted, or stands behind TABLE.
        Some(
            "TABLE" | "SOURCE" | "PIPELINE" | "MATERIALIZED" | "VIEW" | "SINK" | "SCHEMA" | "SEQUENCE"
            | "SECRET",
        ) if !matches!(cursor.word_at(1).as_deref(), Some("TO" | "FROM")) => {
            Some(object_kind(cursor, "GRANT ON")?)
        }
        Some(
            word @ ("FUNCTION" | "PROCEDURE" | "ROUTINE" | "LANGUAGE" | "LARGE" | "TYPE" | "DOMAIN"
            | "FOREIGN" | "TABLESPACE" | "PARAMETER"),
        ) if !matches!(cursor.word_at(1).as_deref(), Some("TO" | "FROM")) => {
            return Err(Error::unsupported(format!("GRANT ON {word}")).at(position));
        }
        _ => None,
    };
    Ok(match kind {
        Some(ObjectKind::Schema) => GrantOn::Schemas(cursor.list(Cursor::name)?),
        // In PostgreSQL a view is a TABLE here.
        Some(ObjectKind::Table) | None => {
            GrantOn::Relations { kind: None, names: cursor.list(Cursor::object_name)? }
        }
        kind => GrantOn::Relations { kind, names: cursor.list(Cursor::object_name)? },
    })
}

fn parse_all(cursor: &mut Cursor<'_>) -> Result<GrantOn, Error> {
    cursor.expect("ALL")?;
    let position = cursor.position();
    let kind =
        match cursor.eat_one_of(&["TABLES", "SOURCES", "PIPELINES", "VIEWS", "SEQUENCES", "FUNCTIONS"]) {
            Some("TABLES") => None,
            Some("SOURCES") => Some(ObjectKind::Source),
            Some("PIPELINES") => Some(ObjectKind::Pipeline),
            Some("VIEWS") => Some(ObjectKind::View),
            Some("SEQUENCES") => Some(ObjectKind::Sequence),
            Some(word) => return Err(Error::unsupported(format!("GRANT ON ALL {word}")).at(position)),
            None => {
                return Err(cursor
                    .unexpected_word("what all", &["TABLES", "SOURCES", "PIPELINES", "VIEWS", "SEQUENCES"]));
            }
        };
    cursor.expect_all(&["IN", "SCHEMA"])?;
    Ok(GrantOn::AllInSchema { kind, schemas: cursor.list(Cursor::name)? })
}

/// A keyword that is no privilege.
pub fn unknown_privilege(word: &str) -> Error {
    Error::new(SqlState::SYNTAX_ERROR, format!("unrecognized privilege type \"{}\"", word.to_lowercase()))
}
