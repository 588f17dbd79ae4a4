//! `CREATE SINK s FROM p WITH (…) FORMAT … ENCODE …`, `CREATE SINK s AS SELECT … WITH (…)`

use std::fmt;

use datafusion::sql::sqlparser::ast::Query;
use tidemill_core::{Emit, SqlState};

use super::ObjectKind;
use super::create::Head;
use super::create_source::Encoding;
use super::options::{self, WithOptions};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// Where the changes of a relation are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSink {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub input: SinkInput,
    pub options: WithOptions,
    /// `PLAIN`, `UPSERT`, … in upper case.
    pub format: Option<Name>,
    /// `JSON`, `CSV`, … in upper case.
    pub encode: Option<Name>,
    pub encode_options: WithOptions,
}

/// What a sink writes.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkInput {
    From(ObjectName),
    Query { query: Box<Query>, text: String, emit: Emit },
}

impl fmt::Display for CreateSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Head::text(ObjectKind::Sink, self.or_replace, self.if_not_exists, &self.name))?;
        let emit = match &self.input {
            SinkInput::From(relation) => {
                write!(f, "\nFROM {relation}")?;
                Emit::OnUpdate
            }
            SinkInput::Query { text, emit, .. } => {
                write!(f, "\nAS {text}")?;
                *emit
            }
        };
        if !self.options.is_empty() {
            write!(f, "\nWITH {}", self.options)?;
        }
        Encoding::write(f, &self.format, &self.encode, &self.encode_options)?;
        if emit != Emit::OnUpdate {
            write!(f, "\n{emit}")?;
        }
        Ok(())
    }
}

pub(crate) fn parse(cursor: &mut Cursor<'_>, head: Head) -> Result<CreateSink, Error> {
    let input = match cursor.eat_one_of(&["FROM", "AS"]) {
        Some("FROM") => SinkInput::From(cursor.object_name()?),
        Some(_) => {
            let (query, text) = cursor.query()?;
            SinkInput::Query { query, text, emit: cursor.emit()? }
        }
        None if cursor.is("INTO") => {
            return Err(Error::unsupported("CREATE SINK … INTO").at(cursor.position()));
        }
        None => return Err(cursor.unexpected("FROM or AS")),
    };
    let mut options: Option<WithOptions> = None;
    let mut encoding = Encoding::default();
    loop {
        if cursor.is("WITH") && options.is_none() {
            cursor.advance();
            options = Some(options::parse(cursor)?);
        } else if !encoding.parse_clause(cursor)? {
            break;
        }
    }
    if !cursor.at_end() {
        return Err(cursor.unexpected("WITH, FORMAT, ENCODE or the end of the statement"));
    }
    let options = options.unwrap_or_default();
    if options.get("connector").is_none() {
        return Err(Error::new(
            SqlState::INVALID_PARAMETER,
            format!("sink \"{}\" has no connector", head.name.name),
        )
        .with_hint("Say where to write: WITH (connector = 'file', path = '…').")
        .at(head.name.position));
    }
    Ok(CreateSink {
        name: head.name,
        or_replace: head.or_replace,
        if_not_exists: head.if_not_exists,
        input,
        options,
        format: encoding.format,
        encode: encoding.encode,
        encode_options: encoding.encode_options,
    })
}
