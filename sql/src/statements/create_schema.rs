//! `CREATE SCHEMA s`

use std::fmt;

use super::role::{RoleName, role_name};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, quote};

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSchema {
    pub name: Name,
    pub if_not_exists: bool,
    /// `AUTHORIZATION role`
    pub owner: Option<(RoleName, usize)>,
}

impl fmt::Display for CreateSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let if_not_exists = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        write!(f, "CREATE SCHEMA {if_not_exists}{}", quote(&self.name.value))
    }
}

/// Behind `CREATE SCHEMA`.
pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<CreateSchema, Error> {
    let if_not_exists = cursor.eat_all(&["IF", "NOT", "EXISTS"]);
    if cursor.is("AUTHORIZATION") {
        return Err(Error::unsupported("CREATE SCHEMA AUTHORIZATION without a name").at(cursor.position()));
    }
    let name = cursor.name()?;
    let owner = match cursor.eat("AUTHORIZATION") {
        true => {
            let position = cursor.position();
            Some((role_name(cursor, false)?, position))
        }
        false => None,
    };
    Ok(CreateSchema { name, if_not_exists, owner })
}
