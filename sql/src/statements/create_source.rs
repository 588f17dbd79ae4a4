//! `CREATE SOURCE s (…) INCLUDE … WITH (…) FORMAT … ENCODE … (…)`

use std::fmt;

use datafusion::sql::sqlparser::ast::Expr;
use tidemill_core::SqlState;

use super::ObjectKind;
use super::column::{self, ColumnDef, Columns};
use super::create::Head;
use super::options::{self, WithOptions};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName, quote, quote_literal};

/// A declared stream: nothing of it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSource {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Empty when the connector says what the columns are.
    pub columns: Vec<ColumnDef>,
    pub primary_key: Vec<String>,
    pub watermark: Option<Watermark>,
    pub include: Vec<Include>,
    pub options: WithOptions,
    /// `PLAIN`, `UPSERT`, … in upper case.
    pub format: Option<Name>,
    /// `JSON`, `CSV`, … in upper case.
    pub encode: Option<Name>,
    pub encode_options: WithOptions,
}

/// `WATERMARK FOR column AS expr`
#[derive(Debug, Clone, PartialEq)]
pub struct Watermark {
    pub column: String,
    pub expr: Expr,
    pub text: String,
    pub position: usize,
}

/// `INCLUDE kind ['header'] [AS alias]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    pub kind: IncludeKind,
    /// The one header that is meant; all of them when it is not named.
    pub header: Option<String>,
    pub alias: Option<String>,
    pub position: usize,
}

/// What a record has beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeKind {
    Key,
    Offset,
    Partition,
    Timestamp,
    Header,
    File,
}

impl IncludeKind {
    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            IncludeKind::Key => "key",
            IncludeKind::Offset => "offset",
            IncludeKind::Partition => "partition",
            IncludeKind::Timestamp => "timestamp",
            IncludeKind::Header => "header",
            IncludeKind::File => "file",
        }
    }
}

impl Include {
    /// The column's name: the alias, else what is included.
    pub fn column(&self) -> &str {
        self.alias.as_deref().unwrap_or(self.kind.name())
    }
}

impl fmt::Display for CreateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Head::text(ObjectKind::Source, self.or_replace, self.if_not_exists, &self.name))?;
        let columns = Columns {
            columns: self.columns.clone(),
            primary_key: self.primary_key.clone(),
            watermark: self.watermark.clone(),
        };
        if columns != Columns::default() {
            write!(f, " {columns}")?;
        }
        for include in &self.include {
            write!(f, "\nINCLUDE {}", include.kind.name().to_uppercase())?;
            if let Some(header) = &include.header {
                write!(f, " {}", quote_literal(header))?;
            }
            if let Some(alias) = &include.alias {
                write!(f, " AS {}", quote(alias))?;
            }
        }
        if !self.options.is_empty() {
            write!(f, "\nWITH {}", self.options)?;
        }
        Encoding::write(f, &self.format, &self.encode, &self.encode_options)
    }
}

/// `FORMAT … ENCODE … (…)`, of sources and sinks.
#[derive(Default)]
pub(crate) struct Encoding {
    pub format: Option<Name>,
    pub encode: Option<Name>,
    pub encode_options: WithOptions,
}

impl Encoding {
    pub fn write(
        f: &mut fmt::Formatter<'_>,
        format: &Option<Name>,
        encode: &Option<Name>,
        options: &WithOptions,
    ) -> fmt::Result {
        if format.is_some() || encode.is_some() {
            f.write_str("\n")?;
        }
        if let Some(format) = format {
            write!(f, "FORMAT {}", format.value)?;
        }
        if let Some(encode) = encode {
            let space = if format.is_some() { " " } else { "" };
            write!(f, "{space}ENCODE {}", encode.value)?;
        }
        if !options.is_empty() {
            write!(f, " {options}")?;
        }
        Ok(())
    }

    /// Reads `FORMAT x` or `ENCODE y (…)`, whichever is next.
    pub fn parse_clause(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Error> {
        if cursor.is("FORMAT") {
            self.format = Some(upper_word(cursor, "FORMAT", self.format.is_some())?);
            return Ok(true);
        }
        if cursor.is("ENCODE") {
            self.encode = Some(upper_word(cursor, "ENCODE", self.encode.is_some())?);
            if cursor.is_token(&datafusion::sql::sqlparser::tokenizer::Token::LParen) {
                self.encode_options = options::parse(cursor)?;
            }
            return Ok(true);
        }
        Ok(false)
    }
}

fn upper_word(cursor: &mut Cursor<'_>, clause: &str, taken: bool) -> Result<Name, Error> {
    if taken {
        return Err(cursor.unexpected(&format!("{clause} only once")));
    }
    cursor.expect(clause)?;
    let position = cursor.position();
    match cursor.word() {
        Some(value) => {
            cursor.advance();
            Ok(Name { value, position })
        }
        None => Err(cursor.unexpected(&format!("the name of the {}", clause.to_lowercase()))),
    }
}

pub(crate) fn parse(cursor: &mut Cursor<'_>, head: Head) -> Result<CreateSource, Error> {
    let columns = match cursor.is_token(&datafusion::sql::sqlparser::tokenizer::Token::LParen) {
        true => column::parse(cursor)?,
        false => Columns::default(),
    };
    if let Some(column) = columns.columns.iter().find(|column| column.sequence.is_some()) {
        return Err(Error::unsupported("a column of a source that counts by itself")
            .with_hint("The rows of a source come as they are. Tables have SERIAL and IDENTITY.")
            .at(column.position));
    }
    let mut include = Vec::new();
    let mut options: Option<WithOptions> = None;
    let mut encoding = Encoding::default();
    loop {
        if cursor.eat("INCLUDE") {
            include.extend(cursor.list(parse_include)?);
        } else if cursor.is("WITH") && options.is_none() {
            cursor.advance();
            options = Some(options::parse(cursor)?);
        } else if !encoding.parse_clause(cursor)? {
            break;
        }
    }
    if !cursor.at_end() {
        return Err(cursor.unexpected("INCLUDE, WITH, FORMAT, ENCODE or the end of the statement"));
    }
    let source = CreateSource {
        name: head.name,
        or_replace: head.or_replace,
        if_not_exists: head.if_not_exists,
        columns: columns.columns,
        primary_key: columns.primary_key,
        watermark: columns.watermark,
        include,
        options: options.unwrap_or_default(),
        format: encoding.format,
        encode: encoding.encode,
        encode_options: encoding.encode_options,
    };
    check(&source)?;
    Ok(source)
}

const INCLUDES: [&str; 6] = ["KEY", "OFFSET", "PARTITION", "TIMESTAMP", "HEADER", "FILE"];

fn parse_include(cursor: &mut Cursor<'_>) -> Result<Include, Error> {
    let position = cursor.position();
    let kind = match cursor.word().as_deref() {
        Some("KEY") => IncludeKind::Key,
        Some("OFFSET") => IncludeKind::Offset,
        Some("PARTITION") => IncludeKind::Partition,
        Some("TIMESTAMP") => IncludeKind::Timestamp,
        Some("HEADER" | "HEADERS") => IncludeKind::Header,
        Some("FILE") => IncludeKind::File,
        _ => return Err(cursor.unexpected_word("what to include", &INCLUDES)),
    };
    cursor.advance();
    let header = match kind {
        IncludeKind::Header => cursor.string_opt(),
        _ => None,
    };
    let alias = match cursor.eat("AS") {
        true => Some(cursor.name()?.value),
        false => None,
    };
    Ok(Include { kind, header, alias, position })
}

/// What can be known without the connector.
fn check(source: &CreateSource) -> Result<(), Error> {
    for (idx, include) in source.include.iter().enumerate() {
        let taken = source.columns.iter().any(|column| column.name == include.column())
            || source.include[..idx].iter().any(|earlier| earlier.column() == include.column());
        if taken {
            let message = format!("column \"{}\" specified more than once", include.column());
            return Err(Error::new(SqlState::DUPLICATE_COLUMN, message)
                .with_hint("Give the included column another name with AS.")
                .at(include.position));
        }
    }
    if source.columns.is_empty() {
        return Ok(());
    }
    let names = source
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .chain(source.include.iter().map(Include::column));
    for name in &source.primary_key {
        column::check_name(name, source.name.position, names.clone(), "key")?;
    }
    if let Some(watermark) = &source.watermark {
        column::check_name(&watermark.column, watermark.position, names.clone(), "watermark")?;
    }
    Ok(())
}
