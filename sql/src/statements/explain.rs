//! `EXPLAIN [(options)] [ANALYZE] [VERBOSE] …`

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::{SqlState, did_you_mean};

use super::copy::boolean;
use super::query::{self, SelectQuery};
use super::{ObjectKind, Statement, object_kind};
use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// Shows how something would run, or runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
    pub format: ExplainFormat,
    /// What else was asked for by name, `STATE` among it.
    pub options: Vec<ExplainOption>,
    pub of: ExplainOf,
}

impl Explain {
    /// Whether the option (in upper case) was asked for.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|option| option.name == name && option.value)
    }
}

/// `name [true|false]`, the name in upper case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainOption {
    pub name: String,
    pub value: bool,
}

/// How the plan is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExplainFormat {
    #[default]
    Text,
    Json,
}

/// What is explained.
#[derive(Debug, Clone, PartialEq)]
pub enum ExplainOf {
    Query(SelectQuery),
    /// A statement other than a query: `CREATE PIPELINE`, `CREATE SINK`, `INSERT`, …
    Statement(Box<Statement>),
    /// A pipeline, sink or source that exists.
    Object {
        kind: ObjectKind,
        name: ObjectName,
    },
}

const OPTIONS: [&str; 8] = ["ANALYZE", "VERBOSE", "FORMAT", "STATE", "COSTS", "TIMING", "BUFFERS", "SUMMARY"];

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Explain, Error> {
    cursor.expect("EXPLAIN")?;
    let mut explain = Explain {
        analyze: false,
        verbose: false,
        format: ExplainFormat::Text,
        options: Vec::new(),
        of: ExplainOf::Query(SelectQuery::default()),
    };
    if cursor.is_token(&Token::LParen)
        && !matches!(cursor.word_at(1).as_deref(), Some("SELECT" | "WITH" | "VALUES") | None)
    {
        cursor.parenthesized(|cursor| parse_option(cursor, &mut explain))?;
    }
    explain.analyze |= cursor.eat("ANALYZE") || cursor.eat("ANALYSE");
    explain.verbose |= cursor.eat("VERBOSE");
    if cursor.eat("FORMAT") {
        explain.format = parse_format(cursor)?;
    }
    explain.of = parse_of(cursor)?;
    Ok(explain)
}

fn parse_option(cursor: &mut Cursor<'_>, explain: &mut Explain) -> Result<(), Error> {
    let position = cursor.position();
    let Some(name) = cursor.word() else {
        return Err(cursor.unexpected("an option of EXPLAIN"));
    };
    cursor.advance();
    match name.as_str() {
        "ANALYZE" => explain.analyze = boolean(cursor)?,
        "VERBOSE" => explain.verbose = boolean(cursor)?,
        "FORMAT" => explain.format = parse_format(cursor)?,
        known if OPTIONS.contains(&known) => {
            let value = boolean(cursor)?;
            explain.options.push(ExplainOption { name, value });
        }
        _ => {
            let hint = did_you_mean(&name, OPTIONS).map(|near| format!("Did you mean {near}?"));
            let message = format!("unrecognized EXPLAIN option \"{}\"", name.to_lowercase());
            return Err(Error::new(SqlState::SYNTAX_ERROR, message).with_hint_opt(hint).at(position));
        }
    }
    Ok(())
}

fn parse_format(cursor: &mut Cursor<'_>) -> Result<ExplainFormat, Error> {
    let position = cursor.position();
    match cursor.eat_one_of(&["TEXT", "JSON"]) {
        Some("JSON") => Ok(ExplainFormat::Json),
        Some(_) => Ok(ExplainFormat::Text),
        None => match cursor.word() {
            Some(word) => Err(Error::new(
                SqlState::INVALID_PARAMETER,
                format!("unrecognized value for EXPLAIN option \"format\": \"{}\"", word.to_lowercase()),
            )
            .with_hint("Known are text and json.")
            .at(position)),
            None => Err(cursor.unexpected("TEXT or JSON")),
        },
    }
}

fn parse_of(cursor: &mut Cursor<'_>) -> Result<ExplainOf, Error> {
    if cursor.is_token(&Token::LParen) {
        return query::parse(cursor).map(ExplainOf::Query);
    }
    match cursor.word().as_deref() {
        Some("SELECT" | "VALUES" | "FROM") => query::parse(cursor).map(ExplainOf::Query),
        Some("TABLE" | "PIPELINE" | "MATERIALIZED" | "SINK" | "SOURCE" | "VIEW") => {
            let kind = object_kind(cursor, "EXPLAIN")?;
            Ok(ExplainOf::Object { kind, name: cursor.object_name()? })
        }
        Some("CREATE" | "WITH" | "INSERT" | "UPDATE" | "DELETE" | "SUBSCRIBE" | "EXECUTE" | "DECLARE") => {
            Ok(match super::parse(cursor)? {
                Statement::Query(query) => ExplainOf::Query(query),
                statement => ExplainOf::Statement(Box::new(statement)),
            })
        }
        _ => Err(cursor.unexpected("a query, CREATE PIPELINE or PIPELINE and a name")),
    }
}
