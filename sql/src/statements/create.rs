//! `CREATE [OR REPLACE] …`: which one.

use tidemill_core::SqlState;

use super::{
    ObjectKind, Statement, create_index, create_pipeline, create_schema, create_sink, create_source,
    create_table, create_view, object_kind, policy, role, secret, sequence,
};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// What stands between `CREATE` and what is peculiar to the kind.
pub(crate) struct Head {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: ObjectName,
}

impl Head {
    /// `CREATE OR REPLACE SOURCE IF NOT EXISTS name`, as it was read.
    pub fn text(kind: ObjectKind, or_replace: bool, if_not_exists: bool, name: &ObjectName) -> String {
        let or_replace = if or_replace { "OR REPLACE " } else { "" };
        let if_not_exists = if if_not_exists { "IF NOT EXISTS " } else { "" };
        format!("CREATE {or_replace}{} {if_not_exists}{name}", kind.keyword())
    }
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("CREATE")?;
    let or_replace = cursor.eat_all(&["OR", "REPLACE"]);
    let position = cursor.position();
    if let Some(word @ ("TEMP" | "TEMPORARY" | "LOCAL" | "GLOBAL" | "UNLOGGED" | "RECURSIVE")) =
        cursor.word().as_deref()
    {
        let error = Error::unsupported(format!("CREATE {word}")).at(position);
        return Err(error.with_hint("Create it without, and drop it when it is no longer needed."));
    }
    let is_unique = cursor.eat("UNIQUE");
    if is_unique || cursor.is("INDEX") {
        if or_replace {
            return Err(Error::unsupported("CREATE OR REPLACE INDEX").at(position));
        }
        return create_index::parse(cursor, is_unique).map(Statement::CreateIndex);
    }
    if !or_replace && role::is_next(cursor) {
        return role::parse_create(cursor).map(Statement::CreateRole);
    }
    if !or_replace && cursor.is("POLICY") {
        return policy::parse_create(cursor).map(Statement::CreatePolicy);
    }
    let kind = object_kind(cursor, "CREATE")?;
    if kind == ObjectKind::Schema {
        return create_schema::parse(cursor).map(Statement::CreateSchema);
    }
    let if_not_exists = cursor.eat_all(&["IF", "NOT", "EXISTS"]);
    if or_replace && if_not_exists {
        return Err(Error::new(SqlState::SYNTAX_ERROR, "OR REPLACE and IF NOT EXISTS exclude each other")
            .at(position));
    }
    let head = Head { or_replace, if_not_exists, name: cursor.object_name()? };
    Ok(match kind {
        ObjectKind::Source => Statement::CreateSource(create_source::parse(cursor, head)?),
        ObjectKind::Table => Statement::CreateTable(create_table::parse(cursor, head)?),
        ObjectKind::Pipeline => Statement::CreatePipeline(create_pipeline::parse(cursor, head)?),
        ObjectKind::View => Statement::CreateView(create_view::parse(cursor, head)?),
        ObjectKind::Sink => Statement::CreateSink(create_sink::parse(cursor, head)?),
        ObjectKind::Sequence => Statement::CreateSequence(sequence::parse(cursor, head)?),
        ObjectKind::Secret => Statement::CreateSecret(secret::parse(cursor, head)?),
        ObjectKind::Schema | ObjectKind::Index => unreachable!("returned above"),
    })
}
