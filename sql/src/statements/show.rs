//! `SHOW`: lists of objects, definitions, columns; else a variable. `DESCRIBE`.

use tidemill_core::did_you_mean;

use super::{ObjectKind, Statement, object_kind, set};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// `SHOW SOURCES [FROM schema] [LIKE pattern]`, and the other kinds.
    Objects { kind: ObjectKind, schema: Option<Name>, like: Option<Like> },
    /// `SHOW CONNECTORS`
    Connectors { like: Option<Like> },
    /// `SHOW JOBS`
    Jobs { like: Option<Like> },
    /// `SHOW CREATE kind name`
    Create { kind: ObjectKind, name: ObjectName },
    /// `SHOW COLUMNS FROM name`
    Columns { relation: ObjectName, like: Option<Like> },
}

/// `LIKE 'pattern'`, `ILIKE 'pattern'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Like {
    pub pattern: String,
    pub ignore_case: bool,
}

impl Like {
    /// Whether a name matches: `%` is any text, `_` any character, `\` takes the next as it is.
    pub fn matches(&self, name: &str) -> bool {
        let fold = |text: &str| -> Vec<char> {
            match self.ignore_case {
                true => text.to_lowercase().chars().collect(),
                false => text.chars().collect(),
            }
        };
        like(&fold(&self.pattern), &fold(name))
    }
}

/// Greedy matching with one place to come back to: the last `%`. Linear in pattern times text.
fn like(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let (matched, width) = match pattern.get(p) {
            Some('%') => {
                back = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('_') => (true, 1),
            Some('\\') if p + 1 < pattern.len() => (pattern[p + 1] == text[t], 2),
            Some(c) => (*c == text[t], 1),
            None => (false, 0),
        };
        match (matched, back) {
            (true, _) => {
                p += width;
                t += 1;
            }
            (false, Some((behind, from))) => {
                back = Some((behind, from + 1));
                p = behind;
                t = from + 1;
            }
            (false, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

/// `DESCRIBE name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Describe {
    /// When it was said.
    pub kind: Option<ObjectKind>,
    pub name: ObjectName,
}

const LISTS: [&str; 10] = [
    "SOURCES",
    "TABLES",
    "PIPELINES",
    "MATERIALIZED VIEWS",
    "VIEWS",
    "SINKS",
    "SCHEMAS",
    "SECRETS",
    "CONNECTORS",
    "JOBS",
];

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("SHOW")?;
    let word = cursor.word();
    let kind = match word.as_deref() {
        Some("SOURCES") => Some(ObjectKind::Source),
        Some("TABLES") => Some(ObjectKind::Table),
        Some("PIPELINES") => Some(ObjectKind::Pipeline),
        Some("MATERIALIZED") => Some(ObjectKind::Pipeline),
        Some("VIEWS") => Some(ObjectKind::View),
        Some("SINKS") => Some(ObjectKind::Sink),
        Some("SCHEMAS") => Some(ObjectKind::Schema),
        Some("SECRETS") => Some(ObjectKind::Secret),
        _ => None,
    };
    if let Some(kind) = kind {
        if cursor.eat("MATERIALIZED") {
            cursor.expect("VIEWS")?;
        } else {
            cursor.advance();
        }
        return parse_objects(cursor, kind).map(Statement::Show);
    }
    match word.as_deref() {
        Some("CONNECTORS") => {
            cursor.advance();
            Ok(Statement::Show(Show::Connectors { like: parse_like(cursor)? }))
        }
        Some("JOBS") => {
            cursor.advance();
            Ok(Statement::Show(Show::Jobs { like: parse_like(cursor)? }))
        }
        Some("CREATE") => {
            cursor.advance();
            let kind = object_kind(cursor, "SHOW CREATE")?;
            Ok(Statement::Show(Show::Create { kind, name: cursor.object_name()? }))
        }
        Some("COLUMNS") => {
            cursor.advance();
            if cursor.eat_one_of(&["FROM", "IN"]).is_none() {
                return Err(cursor.unexpected("FROM"));
            }
            let relation = cursor.object_name()?;
            Ok(Statement::Show(Show::Columns { relation, like: parse_like(cursor)? }))
        }
        Some("INDEXES" | "INDEX" | "FUNCTIONS" | "DATABASES" | "CONNECTIONS" | "CLUSTERS") => {
            let word = word.unwrap_or_default();
            Err(Error::unsupported(format!("SHOW {word}"))
                .with_hint(format!("Known are {}.", LISTS.join(", ")))
                .at(cursor.position()))
        }
        _ => set::parse_show_variable(cursor).map(Statement::ShowVariable),
    }
}

/// The list that an unknown variable may have been meant to be: `SHOW SOURCSE`.
pub fn list_meant(variable: &str) -> Option<&'static str> {
    did_you_mean(&variable.to_uppercase(), LISTS)
}

fn parse_objects(cursor: &mut Cursor<'_>, kind: ObjectKind) -> Result<Show, Error> {
    let schema = match kind != ObjectKind::Schema && cursor.eat_one_of(&["FROM", "IN"]).is_some() {
        true => Some(cursor.name()?),
        false => None,
    };
    Ok(Show::Objects { kind, schema, like: parse_like(cursor)? })
}

fn parse_like(cursor: &mut Cursor<'_>) -> Result<Option<Like>, Error> {
    match cursor.eat_one_of(&["LIKE", "ILIKE"]) {
        Some(word) => Ok(Some(Like { pattern: cursor.string()?, ignore_case: word == "ILIKE" })),
        None => Ok(None),
    }
}

pub(crate) fn parse_describe(cursor: &mut Cursor<'_>) -> Result<Describe, Error> {
    cursor.advance();
    let kind = match cursor.word_at(1) {
        Some(_) => Some(object_kind(cursor, "DESCRIBE")?),
        None => None,
    };
    Ok(Describe { kind, name: cursor.object_name()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_patterns() {
        let matches =
            |pattern: &str, name: &str| Like { pattern: pattern.into(), ignore_case: false }.matches(name);
        assert!(matches("%", "") && matches("a%c", "abbc") && matches("a_c", "abc") && matches("%b%", "abc"));
        assert!(!matches("a%c", "abd") && !matches("a_c", "ac") && !matches("", "a"));
        assert!(matches("a\\_c", "a_c") && !matches("a\\_c", "abc"));
        assert!(Like { pattern: "A%".into(), ignore_case: true }.matches("abc"));
        assert!(!matches(&"%a".repeat(30), &"b".repeat(300)));
    }
}
