//! `CREATE [UNIQUE] INDEX [name] ON relation (…)`

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};
use crate::parser::{Parsed, parse_one};
use crate::statements::Statement;

/// The rows of a relation in the order of some columns.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateIndex {
    pub name: Option<Name>,
    pub table: ObjectName,
    pub keys: Vec<IndexKey>,
    pub is_unique: bool,
    pub if_not_exists: bool,
    /// It is to have some rows only.
    pub is_partial: bool,
    /// In characters from 1.
    pub position: usize,
}

/// A column or an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexKey {
    /// The column's name, if it is nothing but a column.
    pub column: Option<String>,
    /// With its direction.
    pub text: String,
    pub position: usize,
}

/// Behind `CREATE [UNIQUE]`.
pub(crate) fn parse(cursor: &mut Cursor<'_>, is_unique: bool) -> Result<CreateIndex, Error> {
    let position = cursor.position();
    cursor.expect("INDEX")?;
    cursor.eat("CONCURRENTLY");
    let if_not_exists = cursor.eat_all(&["IF", "NOT", "EXISTS"]);
    let name = if cursor.is("ON") { None } else { Some(cursor.name()?) };
    cursor.expect("ON")?;
    cursor.eat("ONLY");
    let table = cursor.object_name()?;
    if cursor.eat("USING") {
        cursor.name()?;
    }
    let keys = cursor.parenthesized(parse_key)?;
    if cursor.eat("INCLUDE") {
        cursor.parenthesized(Cursor::name)?;
    }
    if cursor.eat_all(&["NULLS", "NOT", "DISTINCT"]) || cursor.eat_all(&["NULLS", "DISTINCT"]) {
        // As in PostgreSQL for columns that are never NULL.
    }
    if cursor.is_all(&["WITH"]) || cursor.is("TABLESPACE") {
        let word = cursor.word().unwrap_or_default();
        return Err(Error::unsupported(format!("{word} of an index")).at(cursor.position()));
    }
    let is_partial = cursor.eat("WHERE");
    if is_partial {
        cursor.expr()?;
    }
    Ok(CreateIndex { name, table, keys, is_unique, if_not_exists, is_partial, position })
}

/// The column that a key is, as it was written, if it is no expression.
pub fn index_column(key: &str) -> Option<String> {
    let Ok(Parsed { statement: Statement::CreateIndex(mut create), .. }) =
        parse_one(&format!("CREATE INDEX ON t ({key})"))
    else {
        return None;
    };
    create.keys.pop()?.column
}

fn parse_key(cursor: &mut Cursor<'_>) -> Result<IndexKey, Error> {
    let position = cursor.position();
    let mark = cursor.mark();
    let (expr, _) = cursor.expr()?;
    let mut inner = &expr;
    while let Expr::Nested(expr) = inner {
        inner = expr;
    }
    let column = match inner {
        Expr::Identifier(ident) => Some(match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_lowercase(),
        }),
        _ => None,
    };
    // An operator class, such as text_pattern_ops.
    if matches!(cursor.peek().token, Token::Word(_))
        && !cursor.is("ASC")
        && !cursor.is("DESC")
        && !cursor.is("NULLS")
    {
        cursor.name()?;
    }
    let _ = cursor.eat_one_of(&["ASC", "DESC"]);
    if cursor.eat("NULLS") {
        cursor
            .eat_one_of(&["FIRST", "LAST"])
            .map_or_else(|| Err(cursor.unexpected("FIRST or LAST")), |_| Ok(()))?;
    }
    Ok(IndexKey { column, text: cursor.text_from(mark), position })
}
