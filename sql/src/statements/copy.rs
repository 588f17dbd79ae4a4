//! `COPY t FROM STDIN`, `COPY (query) TO STDOUT`, with the options of PostgreSQL 9 and those before.

use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// Rows in or out over the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyRows {
    pub what: Copied,
    pub direction: CopyDirection,
    pub options: CopyOptions,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq)]
pub enum Copied {
    Relation { name: ObjectName, columns: Vec<Name> },
    Query { query: Box<Query>, text: String },
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    FromStdin,
    ToStdout,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

/// All options, with their defaults put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: char,
    pub null: String,
    pub header: bool,
    pub quote: char,
    pub escape: char,
    /// Columns whose values are always quoted; all of them for `*`.
    pub force_quote: ForceQuote,
}

/// `FORCE QUOTE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForceQuote {
    None,
    All,
    Columns(Vec<String>),
}

/// The options as they are read, before the format decides the defaults.
#[derive(Default)]
struct Given {
    format: Option<CopyFormat>,
    delimiter: Option<char>,
    null: Option<String>,
    header: Option<bool>,
    quote: Option<char>,
    escape: Option<char>,
    force_quote: Option<ForceQuote>,
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<CopyRows, Error> {
    cursor.expect("COPY")?;
    let mut given = Given::default();
    if cursor.is("BINARY") && !matches!(cursor.word_at(1).as_deref(), Some("FROM" | "TO")) {
        cursor.advance();
        given.format = Some(CopyFormat::Binary);
    }
    let what = parse_what(cursor)?;
    let position = cursor.position();
    let direction = match cursor.eat_one_of(&["FROM", "TO"]) {
        Some("FROM") => CopyDirection::FromStdin,
        Some(_) => CopyDirection::ToStdout,
        None => return Err(cursor.unexpected("FROM or TO")),
    };
    if direction == CopyDirection::FromStdin && matches!(what, Copied::Query { .. }) {
        return Err(Error::new(SqlState::SYNTAX_ERROR, "COPY FROM writes into a table, not into a query")
            .at(position));
    }
    parse_end_point(cursor, direction)?;
    cursor.eat("WITH");
    match cursor.is_token(&Token::LParen) {
        true => {
            for (position, option) in parse_options(cursor)? {
                given.set(&option, position)?;
            }
        }
        false => parse_old_options(cursor, &mut given)?,
    }
    if cursor.is("WHERE") {
        return Err(Error::unsupported("COPY … WHERE")
            .with_hint("Copy into a table, and filter with INSERT … SELECT.")
            .at(cursor.position()));
    }
    Ok(CopyRows { what, direction, options: given.finish(position)? })
}

fn parse_what(cursor: &mut Cursor<'_>) -> Result<Copied, Error> {
    if cursor.eat_token(&Token::LParen) {
        let (query, text) = cursor.query()?;
        cursor.expect_token(&Token::RParen)?;
        return Ok(Copied::Query { query, text });
    }
    let name = cursor.object_name()?;
    let columns = match cursor.is_token(&Token::LParen) {
        true => cursor.parenthesized(Cursor::name)?,
        false => Vec::new(),
    };
    Ok(Copied::Relation { name, columns })
}

fn parse_end_point(cursor: &mut Cursor<'_>, direction: CopyDirection) -> Result<(), Error> {
    let position = cursor.position();
    let wanted = match direction {
        CopyDirection::FromStdin => "STDIN",
        CopyDirection::ToStdout => "STDOUT",
    };
    if cursor.eat("PROGRAM") {
        return Err(Error::unsupported("COPY with a program").at(position));
    }
    if cursor.string_opt().is_some() {
        return Err(Error::unsupported("COPY with a file of the server")
            .with_hint("Use psql's \\copy, or CREATE SOURCE … WITH (connector = 'file').")
            .at(position));
    }
    // PostgreSQL takes either word in either direction.
    match cursor.eat_one_of(&["STDIN", "STDOUT"]) {
        Some(_) => Ok(()),
        None => Err(cursor.unexpected(wanted)),
    }
}

/// An option's name in upper case and its value.
enum CopyOption {
    Format(String),
    Delimiter(String),
    Null(String),
    Header(bool),
    Quote(String),
    Escape(String),
    ForceQuote(ForceQuote),
    Ignored,
    Unsupported(String),
}

const OPTIONS: [&str; 9] =
    ["FORMAT", "DELIMITER", "NULL", "HEADER", "QUOTE", "ESCAPE", "FORCE_QUOTE", "ENCODING", "FREEZE"];

/// `(FORMAT csv, HEADER, DELIMITER ';')`
fn parse_options(cursor: &mut Cursor<'_>) -> Result<Vec<(usize, CopyOption)>, Error> {
    cursor.parenthesized(|cursor| {
        let position = cursor.position();
        let Some(name) = cursor.word() else {
            return Err(cursor.unexpected_word("an option of COPY", &OPTIONS));
        };
        if !OPTIONS.contains(&name.as_str()) && !UNSUPPORTED.contains(&name.as_str()) {
            return Err(Error::new(
                SqlState::SYNTAX_ERROR,
                format!("option \"{}\" not recognized", name.to_lowercase()),
            )
            .with_hint_opt(
                tidemill_core::did_you_mean(&name, OPTIONS).map(|near| format!("Did you mean {near}?")),
            )
            .at(position));
        }
        cursor.advance();
        let option = match name.as_str() {
            "FORMAT" => CopyOption::Format(word_or_string(cursor)?),
            "DELIMITER" => CopyOption::Delimiter(cursor.string()?),
            "NULL" => CopyOption::Null(cursor.string()?),
            "HEADER" => CopyOption::Header(boolean(cursor)?),
            "QUOTE" => CopyOption::Quote(cursor.string()?),
            "ESCAPE" => CopyOption::Escape(cursor.string()?),
            "FORCE_QUOTE" => CopyOption::ForceQuote(force_quote(cursor, true)?),
            "ENCODING" => encoding(cursor)?,
            "FREEZE" => {
                boolean(cursor)?;
                CopyOption::Ignored
            }
            _ => CopyOption::Unsupported(name),
        };
        Ok((position, option))
    })
}

const UNSUPPORTED: [&str; 6] =
    ["FORCE_NULL", "FORCE_NOT_NULL", "DEFAULT", "ON_ERROR", "REJECT_LIMIT", "LOG_VERBOSITY"];

/// `CSV HEADER DELIMITER AS ';' NULL AS ''`, of PostgreSQL before 9.0.
fn parse_old_options(cursor: &mut Cursor<'_>, given: &mut Given) -> Result<(), Error> {
    while !cursor.at_end() && !cursor.is("WHERE") {
        let position = cursor.position();
        let Some(name) = cursor.eat_one_of(&[
            "BINARY",
            "CSV",
            "DELIMITERS",
            "DELIMITER",
            "NULL",
            "HEADER",
            "QUOTE",
            "ESCAPE",
            "ENCODING",
            "FREEZE",
            "FORCE",
        ]) else {
            return Err(cursor.unexpected_word("an option of COPY", &OPTIONS));
        };
        cursor.eat("AS");
        let option = match name {
            "BINARY" | "CSV" => CopyOption::Format(name.to_lowercase()),
            "DELIMITER" | "DELIMITERS" => CopyOption::Delimiter(cursor.string()?),
            "NULL" => CopyOption::Null(cursor.string()?),
            "HEADER" => CopyOption::Header(true),
            "QUOTE" => CopyOption::Quote(cursor.string()?),
            "ESCAPE" => CopyOption::Escape(cursor.string()?),
            "ENCODING" => encoding(cursor)?,
            "FREEZE" => CopyOption::Ignored,
            _ if cursor.eat("QUOTE") => CopyOption::ForceQuote(force_quote(cursor, false)?),
            _ => CopyOption::Unsupported("FORCE".to_string()),
        };
        given.set(&option, position)?;
    }
    Ok(())
}

fn word_or_string(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    if let Some(value) = cursor.string_opt() {
        return Ok(value);
    }
    Ok(cursor.name()?.value)
}

/// A boolean, which is true when nothing is said.
pub(crate) fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, Error> {
    if matches!(cursor.peek().token, Token::Comma | Token::RParen | Token::EOF) {
        return Ok(true);
    }
    let value = match &cursor.peek().token {
        Token::Word(word) => word.value.to_lowercase(),
        Token::SingleQuotedString(value) => value.to_lowercase(),
        Token::Number(number, _) => number.clone(),
        _ => return Err(cursor.unexpected("true or false")),
    };
    let value = match value.as_str() {
        "true" | "on" | "1" | "match" => true,
        "false" | "off" | "0" => false,
        _ => return Err(cursor.unexpected("true or false")),
    };
    cursor.advance();
    Ok(value)
}

fn force_quote(cursor: &mut Cursor<'_>, parenthesized: bool) -> Result<ForceQuote, Error> {
    if cursor.eat_token(&Token::Mul) {
        return Ok(ForceQuote::All);
    }
    let names = match parenthesized {
        true => cursor.parenthesized(Cursor::name)?,
        false => cursor.list(Cursor::name)?,
    };
    Ok(ForceQuote::Columns(names.into_iter().map(|name| name.value).collect()))
}

fn encoding(cursor: &mut Cursor<'_>) -> Result<CopyOption, Error> {
    let name = cursor.string()?;
    Ok(match name.to_lowercase().replace('-', "").as_str() {
        "utf8" | "unicode" => CopyOption::Ignored,
        _ => CopyOption::Unsupported(format!("ENCODING '{name}'")),
    })
}

impl Given {
    fn set(&mut self, option: &CopyOption, position: usize) -> Result<(), Error> {
        let twice = match option {
            CopyOption::Format(_) => self.format.is_some(),
            CopyOption::Delimiter(_) => self.delimiter.is_some(),
            CopyOption::Null(_) => self.null.is_some(),
            CopyOption::Header(_) => self.header.is_some(),
            CopyOption::Quote(_) => self.quote.is_some(),
            CopyOption::Escape(_) => self.escape.is_some(),
            CopyOption::ForceQuote(_) => self.force_quote.is_some(),
            CopyOption::Ignored | CopyOption::Unsupported(_) => false,
        };
        if twice {
            return Err(Error::new(SqlState::SYNTAX_ERROR, "conflicting or redundant options").at(position));
        }
        match option {
            CopyOption::Format(format) => self.format = Some(parse_format(format, position)?),
            CopyOption::Delimiter(value) => self.delimiter = Some(one_char("delimiter", value, position)?),
            CopyOption::Null(value) => self.null = Some(value.clone()),
            CopyOption::Header(header) => self.header = Some(*header),
            CopyOption::Quote(value) => self.quote = Some(one_char("quote", value, position)?),
            CopyOption::Escape(value) => self.escape = Some(one_char("escape", value, position)?),
            CopyOption::ForceQuote(columns) => self.force_quote = Some(columns.clone()),
            CopyOption::Ignored => (),
            CopyOption::Unsupported(name) => {
                return Err(Error::unsupported(format!("COPY … {name}")).at(position));
            }
        }
        Ok(())
    }

    fn finish(self, position: usize) -> Result<CopyOptions, Error> {
        let format = self.format.unwrap_or(CopyFormat::Text);
        let invalid = |message: &str| Err(Error::new(SqlState::FEATURE_NOT_SUPPORTED, message).at(position));
        if format != CopyFormat::Csv
            && (self.quote.is_some() || self.escape.is_some() || self.force_quote.is_some())
        {
            return invalid("COPY QUOTE, ESCAPE and FORCE_QUOTE require CSV mode");
        }
        if format == CopyFormat::Binary
            && (self.delimiter.is_some() || self.null.is_some() || self.header == Some(true))
        {
            return invalid("cannot specify DELIMITER, NULL or HEADER in BINARY mode");
        }
        let csv = format == CopyFormat::Csv;
        let quote = self.quote.unwrap_or('"');
        let options = CopyOptions {
            format,
            delimiter: self.delimiter.unwrap_or(if csv { ',' } else { '\t' }),
            null: self.null.unwrap_or_else(|| if csv { String::new() } else { "\\N".to_string() }),
            header: self.header.unwrap_or(false),
            quote,
            escape: self.escape.unwrap_or(quote),
            force_quote: self.force_quote.unwrap_or(ForceQuote::None),
        };
        match csv && options.delimiter == options.quote {
            true => invalid("COPY delimiter and quote must be different"),
            false => Ok(options),
        }
    }
}

fn parse_format(format: &str, position: usize) -> Result<CopyFormat, Error> {
    match format.to_lowercase().as_str() {
        "text" => Ok(CopyFormat::Text),
        "csv" => Ok(CopyFormat::Csv),
        "binary" => Ok(CopyFormat::Binary),
        _ => Err(Error::new(SqlState::INVALID_PARAMETER, format!("COPY format \"{format}\" not recognized"))
            .with_hint("Known are text, csv and binary.")
            .at(position)),
    }
}

fn one_char(what: &str, value: &str, position: usize) -> Result<char, Error> {
    let mut chars = value.chars();
    match (chars.next(), chars.next()) {
        (Some(char), None) if char.is_ascii() && char != '\n' && char != '\r' => Ok(char),
        _ => Err(Error::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("COPY {what} must be a single one-byte character"),
        )
        .at(position)),
    }
}
