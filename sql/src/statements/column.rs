//! The columns and the keys between the parentheses of `CREATE SOURCE` and `CREATE TABLE`.

use std::fmt;

use datafusion::sql::sqlparser::ast::{Expr, Ident};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::{SqlState, did_you_mean};

use super::create_source::Watermark;
use super::sequence::{self, ColumnSequence, IdentityKind, SequenceOptions};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, quote};
use crate::types::ColumnType;

/// An expression with the text it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedExpr {
    pub expr: Expr,
    pub text: String,
}

/// `name type [NOT NULL] [DEFAULT expr] [AS expr]`
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDef {
    pub name: String,
    pub column_type: ColumnType,
    /// The type as the user wrote it.
    pub type_text: String,
    /// Also for the columns of the primary key.
    pub not_null: bool,
    /// `AS expr`: computed from the other columns of the row.
    pub generated: Option<ParsedExpr>,
    pub default: Option<ParsedExpr>,
    /// `SERIAL`, `GENERATED … AS IDENTITY`: the next number of a sequence of its own is the default.
    pub sequence: Option<ColumnSequence>,
    /// In characters from 1.
    pub position: usize,
}

impl ColumnDef {
    /// The Arrow type.
    pub fn data_type(&self) -> &arrow::datatypes::DataType {
        &self.column_type.data_type
    }
}

impl fmt::Display for ColumnDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sequence {
            Some(ColumnSequence { identity: None, .. }) => {
                write!(f, "{} {}", quote(&self.name), self.type_text)?;
            }
            _ => write!(f, "{} {}", quote(&self.name), self.column_type)?,
        }
        if let Some(ColumnSequence { identity: Some(kind), options }) = &self.sequence {
            write!(f, " {kind}")?;
            // Its type is the column's.
            let options = SequenceOptions { data_type: None, ..options.clone() }.to_string();
            if !options.is_empty() {
                write!(f, " ({options})")?;
            }
        }
        if let Some(default) = &self.default {
            write!(f, " DEFAULT {}", default.text)?;
        }
        if let Some(generated) = &self.generated {
            write!(f, " AS {}", generated.text)?;
        }
        if self.not_null {
            f.write_str(" NOT NULL")?;
        }
        Ok(())
    }
}

/// What stands between the parentheses.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Columns {
    pub columns: Vec<ColumnDef>,
    /// Names of columns, in the order of the key.
    pub primary_key: Vec<String>,
    pub watermark: Option<Watermark>,
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.columns.iter().map(ColumnDef::to_string).collect();
        if !self.primary_key.is_empty() {
            let key: Vec<String> = self.primary_key.iter().map(|name| quote(name)).collect();
            lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        lines.extend(
            self.watermark
                .iter()
                .map(|watermark| format!("WATERMARK FOR {} AS {}", quote(&watermark.column), watermark.text)),
        );
        write!(f, "(\n    {}\n)", lines.join(",\n    "))
    }
}

/// `(column, …, PRIMARY KEY (…), WATERMARK FOR …)`
pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Columns, Error> {
    let mut parts = Parts::default();
    cursor.expect_token(&Token::LParen)?;
    while !cursor.is_token(&Token::RParen) {
        parts.parse_part(cursor)?;
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    parts.check()
}

/// One column, and whether it says that it is the key.
pub(crate) fn parse_one(cursor: &mut Cursor<'_>) -> Result<(ColumnDef, bool), Error> {
    let mut parts = Parts::default();
    parts.parse_column(cursor)?;
    let Columns { mut columns, primary_key, .. } = parts.check()?;
    Ok((columns.pop().expect("a column was read"), !primary_key.is_empty()))
}

/// The columns while they are being read, with the positions that checking needs.
#[derive(Default)]
struct Parts {
    columns: Vec<ColumnDef>,
    primary_key: Option<Vec<Name>>,
    watermark: Option<Watermark>,
}

impl Parts {
    fn parse_part(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        if cursor.eat("CONSTRAINT") {
            cursor.name()?;
        }
        match cursor.word().as_deref() {
            Some("PRIMARY") => {
                let position = cursor.position();
                cursor.expect_all(&["PRIMARY", "KEY"])?;
                let key = cursor.parenthesized(Cursor::name)?;
                cursor.eat_all(&["NOT", "ENFORCED"]);
                self.set_primary_key(key, position)
            }
            Some("WATERMARK") if cursor.is_all(&["WATERMARK", "FOR"]) => self.parse_watermark(cursor),
            Some("UNIQUE" | "CHECK" | "FOREIGN" | "EXCLUDE") => Err(constraint_unsupported(cursor)),
            Some("LIKE") => Err(Error::unsupported("LIKE in a list of columns").at(cursor.position())),
            _ => self.parse_column(cursor),
        }
    }

    fn parse_watermark(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        let position = cursor.position();
        cursor.expect_all(&["WATERMARK", "FOR"])?;
        let column = cursor.name()?;
        let (expr, text) = match cursor.eat("AS") {
            true => cursor.expr()?,
            // Rows come in order.
            false => (Expr::Identifier(Ident::with_quote('"', &column.value)), quote(&column.value)),
        };
        if self.watermark.is_some() {
            return Err(invalid("a source can have only one watermark", position));
        }
        self.watermark = Some(Watermark { column: column.value, expr, text, position: column.position });
        Ok(())
    }

    fn parse_column(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        let name = cursor.name()?;
        if self.columns.iter().any(|column| column.name == name.value) {
            let message = format!("column \"{}\" specified more than once", name.value);
            return Err(Error::new(SqlState::DUPLICATE_COLUMN, message).at(name.position));
        }
        let mark = cursor.mark();
        let serial = cursor.word().as_deref().and_then(sequence::serial_type);
        let column_type = match serial {
            Some(type_name) => {
                cursor.advance();
                crate::types::parse_type(type_name)?
            }
            None => cursor.column_type()?,
        };
        let type_text = cursor.text_from(mark);
        let position = cursor.position();
        let mut column = ColumnDef {
            name: name.value.clone(),
            column_type,
            type_text,
            not_null: serial.is_some(),
            generated: None,
            default: None,
            sequence: serial.map(|type_name| ColumnSequence {
                identity: None,
                options: SequenceOptions {
                    data_type: Some(type_name.to_owned()),
                    position,
                    ..SequenceOptions::default()
                },
            }),
            position: name.position,
        };
        let mut null = false;
        loop {
            let position = cursor.position();
            if cursor.eat("CONSTRAINT") {
                cursor.name()?;
            }
            match cursor.word().as_deref() {
                Some("NOT") => {
                    cursor.expect_all(&["NOT", "NULL"])?;
                    column.not_null = true;
                }
                Some("NULL") => {
                    cursor.advance();
                    null = true;
                }
                Some("DEFAULT") => {
                    cursor.advance();
                    column.default = Some(once(cursor, column.default.is_some(), "default", &name)?);
                }
                Some("AS") => {
                    cursor.advance();
                    column.generated =
                        Some(once(cursor, column.generated.is_some(), "generation expression", &name)?);
                }
                Some("GENERATED") => {
                    cursor.advance();
                    let kind = match cursor.eat_all(&["BY", "DEFAULT"]) {
                        true => IdentityKind::ByDefault,
                        false => {
                            cursor.expect("ALWAYS")?;
                            IdentityKind::Always
                        }
                    };
                    cursor.expect("AS")?;
                    if kind == IdentityKind::ByDefault || cursor.is("IDENTITY") {
                        parse_identity(cursor, &mut column, kind, position)?;
                        continue;
                    }
                    column.generated =
                        Some(once(cursor, column.generated.is_some(), "generation expression", &name)?);
                    cursor.eat_one_of(&["STORED", "VIRTUAL"]);
                }
                Some("PRIMARY") => {
                    cursor.expect_all(&["PRIMARY", "KEY"])?;
                    self.set_primary_key(vec![name.clone()], position)?;
                }
                Some("UNIQUE" | "CHECK" | "REFERENCES" | "COLLATE") => {
                    return Err(constraint_unsupported(cursor));
                }
                _ => break,
            }
        }
        if null && column.not_null {
            return Err(Error::new(
                SqlState::SYNTAX_ERROR,
                format!("conflicting NULL/NOT NULL declarations for column \"{}\"", name.value),
            )
            .at(name.position));
        }
        if column.generated.is_some() && column.default.is_some() {
            return Err(Error::new(
                SqlState::SYNTAX_ERROR,
                format!("both default and generation expression specified for column \"{}\"", name.value),
            )
            .at(name.position));
        }
        if let (Some(sequence), Some(_)) = (&column.sequence, &column.default) {
            let what = if sequence.identity.is_some() { "identity" } else { "SERIAL" };
            return Err(Error::new(
                SqlState::SYNTAX_ERROR,
                format!("both default and {what} specified for column \"{}\"", name.value),
            )
            .at(name.position));
        }
        self.columns.push(column);
        Ok(())
    }

    fn set_primary_key(&mut self, key: Vec<Name>, position: usize) -> Result<(), Error> {
        if self.primary_key.is_some() {
            return Err(invalid("multiple primary keys are not allowed", position)
                .with_hint("A key of several columns is written PRIMARY KEY (a, b) behind the columns."));
        }
        self.primary_key = Some(key);
        Ok(())
    }

    fn check(mut self) -> Result<Columns, Error> {
        let key = self.primary_key.take().unwrap_or_default();
        for (idx, name) in key.iter().enumerate() {
            if key[..idx].iter().any(|earlier| earlier.value == name.value) {
                let message = format!("column \"{}\" appears twice in primary key", name.value);
                return Err(Error::new(SqlState::DUPLICATE_COLUMN, message).at(name.position));
            }
            // A source's key may be an included column, which is not in the list.
            if let Some(column) = self.columns.iter_mut().find(|column| column.name == name.value) {
                column.not_null = true;
            }
        }
        let primary_key = key.into_iter().map(|name| name.value).collect();
        Ok(Columns { columns: self.columns, primary_key, watermark: self.watermark })
    }
}

/// Behind `GENERATED … AS`.
fn parse_identity(
    cursor: &mut Cursor<'_>,
    column: &mut ColumnDef,
    kind: IdentityKind,
    position: usize,
) -> Result<(), Error> {
    cursor.expect("IDENTITY")?;
    use arrow::datatypes::DataType;
    let data_type = match column.data_type() {
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        _ => {
            let message = "identity column type must be smallint, integer, or bigint";
            return Err(Error::new(SqlState::INVALID_PARAMETER, message).at(column.position));
        }
    };
    if column.sequence.is_some() {
        let message = format!("multiple identity specifications for column \"{}\"", column.name);
        return Err(Error::new(SqlState::SYNTAX_ERROR, message).at(position));
    }
    let mut options = SequenceOptions { position, ..SequenceOptions::default() };
    if cursor.eat_token(&Token::LParen) {
        options = sequence::parse_options(cursor)?;
        cursor.expect_token(&Token::RParen)?;
    }
    options.data_type = Some(data_type.to_owned());
    column.not_null = true;
    column.sequence = Some(ColumnSequence { identity: Some(kind), options });
    Ok(())
}

/// The column `name` must be among `columns`.
pub(crate) fn check_name<'a>(
    name: &str,
    position: usize,
    columns: impl Iterator<Item = &'a str> + Clone,
    of: &str,
) -> Result<(), Error> {
    if columns.clone().any(|column| column == name) {
        return Ok(());
    }
    let hint = did_you_mean(name, columns).map(|near| format!("Perhaps you meant \"{near}\"."));
    Err(Error::new(SqlState::UNDEFINED_COLUMN, format!("column \"{name}\" named in {of} does not exist"))
        .with_hint_opt(hint)
        .at(position))
}

fn once(cursor: &mut Cursor<'_>, taken: bool, what: &str, column: &Name) -> Result<ParsedExpr, Error> {
    let position = cursor.position();
    if taken {
        let message = format!("multiple {what}s specified for column \"{}\"", column.value);
        return Err(Error::new(SqlState::SYNTAX_ERROR, message).at(position));
    }
    let (expr, text) = cursor.expr()?;
    Ok(ParsedExpr { expr, text })
}

pub(crate) fn constraint_unsupported(cursor: &Cursor<'_>) -> Error {
    let word = cursor.word().unwrap_or_default();
    let error = Error::unsupported(format!("{word} in a column or table definition")).at(cursor.position());
    match word.as_str() {
        "UNIQUE" => error.with_hint("PRIMARY KEY is the only constraint that is kept: a later row of the same key replaces the earlier."),
        "COLLATE" => error.with_hint("Text is compared by its bytes, as under the \"C\" collation."),
        _ => error.with_hint("Check the rows with a pipeline: CREATE PIPELINE bad AS SELECT … WHERE NOT (…)."),
    }
}

fn invalid(message: &str, position: usize) -> Error {
    Error::new(SqlState::INVALID_TABLE_DEFINITION, message).at(position)
}
