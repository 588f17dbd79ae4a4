//! `COMMENT ON kind name IS 'text'`

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{ObjectKind, object_kind};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// A remark about an object; `None` takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    pub target: CommentTarget,
    pub comment: Option<String>,
}

/// What the remark is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommentTarget {
    Object { kind: ObjectKind, name: ObjectName },
    Column { relation: ObjectName, column: String, position: usize },
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Comment, Error> {
    cursor.expect_all(&["COMMENT", "ON"])?;
    let target = match cursor.eat("COLUMN") {
        true => parse_column(cursor)?,
        false => {
            let kind = object_kind(cursor, "COMMENT ON")?;
            CommentTarget::Object { kind, name: cursor.object_name()? }
        }
    };
    cursor.expect("IS")?;
    let comment = match cursor.eat("NULL") {
        true => None,
        // As in PostgreSQL, the empty comment is none.
        false => Some(cursor.string()?).filter(|comment| !comment.is_empty()),
    };
    Ok(Comment { target, comment })
}

/// `[schema.]relation.column`
fn parse_column(cursor: &mut Cursor<'_>) -> Result<CommentTarget, Error> {
    let mut parts = vec![cursor.name()?];
    while parts.len() < 3 && cursor.eat_token(&Token::Period) {
        parts.push(cursor.name()?);
    }
    let column = parts.pop().expect("there is a first part");
    let Some(relation) = parts.pop() else {
        return Err(cursor.unexpected("\".\" and a column").with_hint("Write relation.column."));
    };
    let schema = parts.pop();
    let position = schema.as_ref().map_or(relation.position, |schema| schema.position);
    let relation = ObjectName { schema: schema.map(|schema| schema.value), name: relation.value, position };
    Ok(CommentTarget::Column { relation, column: column.value, position: column.position })
}
