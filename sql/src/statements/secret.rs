//! `CREATE SECRET name AS 'value'`

use std::fmt;

use tidemill_core::SqlState;

use super::ObjectKind;
use super::create::Head;
use super::role::Password;
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// A text that options of sources and sinks name, and nothing shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSecret {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub value: Password,
}

/// Without the value, which is nobody's to read.
impl fmt::Display for CreateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = Head::text(ObjectKind::Secret, self.or_replace, self.if_not_exists, &self.name);
        write!(f, "{head} AS '[redacted]'")
    }
}

/// Behind the name.
pub(crate) fn parse(cursor: &mut Cursor<'_>, head: Head) -> Result<CreateSecret, Error> {
    if cursor.is("WITH") {
        return Err(Error::unsupported("CREATE SECRET … WITH")
            .with_hint("The server keeps secrets itself: CREATE SECRET name AS 'value'.")
            .at(cursor.position()));
    }
    let Head { name, or_replace, if_not_exists } = head;
    Ok(CreateSecret { name, or_replace, if_not_exists, value: parse_value(cursor)? })
}

/// `AS 'value'`. Errors do not repeat what stands here: it may be the value.
pub(crate) fn parse_value(cursor: &mut Cursor<'_>) -> Result<Password, Error> {
    let position = cursor.position();
    let is_as = cursor.eat("AS");
    match cursor.string_opt().filter(|_| is_as) {
        Some(value) if value.is_empty() => {
            Err(Error::new(SqlState::INVALID_PARAMETER, "a secret must not be empty").at(position))
        }
        Some(value) => Ok(Password(value)),
        None => Err(Error::new(SqlState::SYNTAX_ERROR, "a secret needs AS and its value")
            .with_hint("Write the value as a string: AS 'value'.")
            .at(position)),
    }
}
