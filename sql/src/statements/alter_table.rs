//! `ALTER TABLE t ADD COLUMN …, DROP COLUMN …, …`

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::SqlState;

use super::alter::AlterAction;
use super::column::{self, ColumnDef, ParsedExpr};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name};
use crate::types::ColumnType;

/// One change of a table's columns or key.
#[derive(Debug, Clone, PartialEq)]
pub enum TableAction {
    AddColumn { column: Box<ColumnDef>, is_key: bool, if_not_exists: bool },
    DropColumn { name: Name, if_exists: bool },
    RenameColumn { name: Name, to: Name },
    SetDefault { name: Name, default: Option<ParsedExpr> },
    SetNotNull { name: Name, not_null: bool },
    SetType { name: Name, column_type: ColumnType, using: Option<ParsedExpr> },
    AddPrimaryKey { columns: Vec<Name>, position: usize },
    DropConstraint { name: Name, if_exists: bool },
}

const ACTIONS: [&str; 5] = ["ADD", "ALTER", "DROP", "RENAME", "OWNER TO"];

/// Whether what follows the table's name is about its columns and key, rather than something that all objects have.
pub(crate) fn is_next(cursor: &Cursor<'_>) -> bool {
    !["OWNER", "PAUSE", "RESUME", "RESTART", "SET", "RESET"].iter().any(|word| cursor.is(word))
}

/// Behind the table's name.
pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<AlterAction, Error> {
    if cursor.eat("RENAME") {
        if cursor.eat("TO") {
            return Ok(AlterAction::RenameTo(cursor.name()?));
        }
        if cursor.is("CONSTRAINT") {
            return Err(Error::unsupported("RENAME CONSTRAINT").at(cursor.position()));
        }
        cursor.eat("COLUMN");
        let name = cursor.name()?;
        cursor.expect("TO")?;
        let to = cursor.name()?;
        return Ok(AlterAction::Table(vec![TableAction::RenameColumn { name, to }]));
    }
    cursor.list(parse_action).map(AlterAction::Table)
}

fn parse_action(cursor: &mut Cursor<'_>) -> Result<TableAction, Error> {
    let position = cursor.position();
    match cursor.word().as_deref() {
        Some("ADD") => {
            cursor.advance();
            parse_add(cursor)
        }
        Some("DROP") => {
            cursor.advance();
            let is_constraint = cursor.eat("CONSTRAINT");
            if !is_constraint {
                cursor.eat("COLUMN");
            }
            let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
            let name = cursor.name()?;
            if cursor.is("CASCADE") {
                return Err(Error::unsupported("ALTER TABLE … DROP … CASCADE")
                    .with_hint("Drop what depends on the table first.")
                    .at(cursor.position()));
            }
            cursor.eat("RESTRICT");
            Ok(match is_constraint {
                true => TableAction::DropConstraint { name, if_exists },
                false => TableAction::DropColumn { name, if_exists },
            })
        }
        Some("ALTER") => {
            cursor.advance();
            cursor.eat("COLUMN");
            parse_column_action(cursor)
        }
        Some(word @ ("ENABLE" | "DISABLE" | "CLUSTER" | "INHERIT" | "ATTACH")) => {
            Err(Error::unsupported(format!("ALTER TABLE … {word}"))
                .with_hint(format!("ALTER TABLE takes {}.", ACTIONS.join(", ")))
                .at(position))
        }
        _ => Err(cursor.unexpected_word("what to change", &ACTIONS)),
    }
}

/// Behind `ADD`.
fn parse_add(cursor: &mut Cursor<'_>) -> Result<TableAction, Error> {
    if cursor.eat("CONSTRAINT") {
        cursor.name()?;
    }
    let position = cursor.position();
    if cursor.eat_all(&["PRIMARY", "KEY"]) {
        if cursor.is("USING") {
            return Err(Error::unsupported("PRIMARY KEY USING INDEX").at(cursor.position()));
        }
        let columns = cursor.parenthesized(Cursor::name)?;
        return Ok(TableAction::AddPrimaryKey { columns, position });
    }
    if let Some("UNIQUE" | "CHECK" | "FOREIGN" | "EXCLUDE") = cursor.word().as_deref() {
        return Err(column::constraint_unsupported(cursor));
    }
    cursor.eat("COLUMN");
    let if_not_exists = cursor.eat_all(&["IF", "NOT", "EXISTS"]);
    let (column, is_key) = column::parse_one(cursor)?;
    if let Some(generated) = &column.generated {
        return Err(Error::unsupported(format!("a generated column of a table, AS {}", generated.text))
            .at(column.position));
    }
    Ok(TableAction::AddColumn { column: Box::new(column), is_key, if_not_exists })
}

/// Behind `ALTER [COLUMN]`.
fn parse_column_action(cursor: &mut Cursor<'_>) -> Result<TableAction, Error> {
    let name = cursor.name()?;
    if cursor.eat_all(&["SET", "DEFAULT"]) {
        let (expr, text) = cursor.expr()?;
        return Ok(TableAction::SetDefault { name, default: Some(ParsedExpr { expr, text }) });
    }
    if cursor.eat_all(&["DROP", "DEFAULT"]) {
        return Ok(TableAction::SetDefault { name, default: None });
    }
    if cursor.eat_all(&["SET", "NOT", "NULL"]) {
        return Ok(TableAction::SetNotNull { name, not_null: true });
    }
    if cursor.eat_all(&["DROP", "NOT", "NULL"]) {
        return Ok(TableAction::SetNotNull { name, not_null: false });
    }
    if cursor.eat("TYPE") || cursor.eat_all(&["SET", "DATA", "TYPE"]) {
        let column_type = cursor.column_type()?;
        let using = match cursor.eat("USING") {
            true => {
                let (expr, text) = cursor.expr()?;
                Some(ParsedExpr { expr, text })
            }
            false => None,
        };
        return Ok(TableAction::SetType { name, column_type, using });
    }
    if let Token::EOF | Token::Comma = cursor.peek().token {
        return Err(
            Error::new(SqlState::SYNTAX_ERROR, "ALTER COLUMN says nothing to change").at(cursor.position())
        );
    }
    Err(Error::unsupported(format!("ALTER COLUMN … {}", cursor.word().unwrap_or_default()))
        .with_hint("It takes SET DEFAULT, DROP DEFAULT, SET NOT NULL, DROP NOT NULL and TYPE.")
        .at(cursor.position()))
}
