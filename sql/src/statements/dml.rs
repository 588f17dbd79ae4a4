//! `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`: sqlparser's trees, with the target named.
//!
//! Clauses that sqlparser reads for other databases' sake are refused here, so that whoever runs
//! the statement cannot overlook them.

use datafusion::sql::sqlparser::ast::{
    self, FromTable, ObjectNamePart, SelectItem, SetExpr, TableFactor, TableObject, TableWithJoins, With,
};
use datafusion::sql::sqlparser::tokenizer::Location;
use tidemill_core::SqlState;

use super::query::SelectQuery;
use super::{Statement, query};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// `INSERT INTO t (…) {VALUES … | SELECT … | DEFAULT VALUES} [RETURNING …]`
#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    pub table: ObjectName,
    pub columns: Vec<Name>,
    /// `None` is `DEFAULT VALUES`.
    pub source: Option<Box<ast::Query>>,
    pub returning: Option<Vec<SelectItem>>,
    /// The whole statement as sqlparser has it.
    pub ast: Box<ast::Insert>,
}

/// `UPDATE t SET … [FROM …] [WHERE …] [RETURNING …]`
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub table: ObjectName,
    pub returning: Option<Vec<SelectItem>>,
    pub ast: Box<ast::Update>,
}

/// `DELETE FROM t [USING …] [WHERE …] [RETURNING …]`
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    pub table: ObjectName,
    pub returning: Option<Vec<SelectItem>>,
    pub ast: Box<ast::Delete>,
}

/// `TRUNCATE [TABLE] t, …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    pub names: Vec<ObjectName>,
}

pub(crate) fn parse_insert(cursor: &mut Cursor<'_>) -> Result<Insert, Error> {
    let position = cursor.position();
    let token = cursor.peek().clone();
    cursor.advance();
    if !cursor.is("INTO") {
        return Err(cursor.unexpected("INTO"));
    }
    match cursor.sqlparser(|parser| parser.parse_insert(token))? {
        ast::Statement::Insert(insert) => check_insert(insert, position),
        _ => Err(Error::unsupported("this form of INSERT").at(position)),
    }
}

fn check_insert(insert: ast::Insert, position: usize) -> Result<Insert, Error> {
    if matches!(insert.on, Some(ast::OnInsert::DuplicateKeyUpdate(_))) {
        return Err(Error::unsupported("ON DUPLICATE KEY UPDATE")
            .with_hint("Write ON CONFLICT DO UPDATE.")
            .at(position));
    }
    if insert.or.is_some()
        || insert.overwrite
        || insert.partitioned.is_some()
        || !insert.assignments.is_empty()
        || insert.replace_into
    {
        return Err(Error::unsupported("this form of INSERT").at(position));
    }
    let TableObject::TableName(name) = &insert.table else {
        return Err(Error::unsupported("INSERT into something else than a table").at(position));
    };
    let table = object_name(name, position)?;
    let mut columns = Vec::new();
    for column in &insert.columns {
        let [ObjectNamePart::Identifier(ident)] = column.0.as_slice() else {
            return Err(Error::unsupported("INSERT into a field of a column").at(position));
        };
        columns.push(Name { value: folded(ident), position: column_position(ident, position) });
    }
    Ok(Insert {
        table,
        columns,
        source: insert.source.clone(),
        returning: insert.returning.clone(),
        ast: Box::new(insert),
    })
}

pub(crate) fn parse_update(cursor: &mut Cursor<'_>) -> Result<Update, Error> {
    let position = cursor.position();
    let token = cursor.peek().clone();
    cursor.advance();
    match cursor.sqlparser(|parser| parser.parse_update(token))? {
        ast::Statement::Update(update) => check_update(update, position),
        _ => Err(Error::unsupported("this form of UPDATE").at(position)),
    }
}

fn check_update(update: ast::Update, position: usize) -> Result<Update, Error> {
    if update.or.is_some() || update.limit.is_some() || !update.order_by.is_empty() {
        return Err(Error::unsupported("UPDATE with OR, ORDER BY or LIMIT").at(position));
    }
    let table = target(&update.table, position)?;
    Ok(Update { table, returning: update.returning.clone(), ast: Box::new(update) })
}

pub(crate) fn parse_delete(cursor: &mut Cursor<'_>) -> Result<Delete, Error> {
    let position = cursor.position();
    let token = cursor.peek().clone();
    cursor.advance();
    if !cursor.is("FROM") {
        return Err(cursor.unexpected("FROM"));
    }
    match cursor.sqlparser(|parser| parser.parse_delete(token))? {
        ast::Statement::Delete(delete) => check_delete(delete, position),
        _ => Err(Error::unsupported("this form of DELETE").at(position)),
    }
}

fn check_delete(delete: ast::Delete, position: usize) -> Result<Delete, Error> {
    if !delete.tables.is_empty() || delete.limit.is_some() || !delete.order_by.is_empty() {
        return Err(Error::unsupported("DELETE with several tables, ORDER BY or LIMIT").at(position));
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [from] = from.as_slice() else {
        return Err(Error::unsupported("DELETE from several tables").at(position));
    };
    let table = target(from, position)?;
    Ok(Delete { table, returning: delete.returning.clone(), ast: Box::new(delete) })
}

/// `WITH … SELECT`, and `WITH … INSERT`, which sqlparser reads as queries.
pub(crate) fn parse_with(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    let position = cursor.position();
    let select = query::parse(cursor)?;
    let SelectQuery { query, text } = select;
    match *query.body {
        SetExpr::Insert(ast::Statement::Insert(mut insert)) => {
            // The names of WITH are the source's: nothing else of an INSERT can see them.
            match &mut insert.source {
                Some(source) => source.with = merged(query.with, source.with.take()),
                None => {
                    return Err(Error::unsupported("WITH … INSERT … DEFAULT VALUES").at(position));
                }
            }
            check_insert(insert, position).map(Statement::Insert)
        }
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            Err(Error::unsupported("WITH before UPDATE or DELETE")
                .with_hint("Use a subquery in WHERE or FROM.")
                .at(position))
        }
        body => Ok(Statement::Query(SelectQuery {
            query: Box::new(ast::Query { body: Box::new(body), ..*query }),
            text,
        })),
    }
}

fn merged(outer: Option<With>, inner: Option<With>) -> Option<With> {
    match (outer, inner) {
        (Some(mut outer), Some(inner)) => {
            outer.recursive |= inner.recursive;
            outer.cte_tables.extend(inner.cte_tables);
            Some(outer)
        }
        (outer, inner) => outer.or(inner),
    }
}

pub(crate) fn parse_truncate(cursor: &mut Cursor<'_>) -> Result<Truncate, Error> {
    cursor.expect("TRUNCATE")?;
    cursor.eat("TABLE");
    cursor.eat("ONLY");
    let names = cursor.list(Cursor::object_name)?;
    let _ = cursor.eat_all(&["RESTART", "IDENTITY"]) || cursor.eat_all(&["CONTINUE", "IDENTITY"]);
    let position = cursor.position();
    if cursor.eat("CASCADE") {
        return Err(Error::unsupported("TRUNCATE … CASCADE")
            .with_hint("Pipelines follow their tables by themselves; leave CASCADE out.")
            .at(position));
    }
    cursor.eat("RESTRICT");
    Ok(Truncate { names })
}

/// The relation that an UPDATE or DELETE changes.
fn target(table: &TableWithJoins, position: usize) -> Result<ObjectName, Error> {
    match &table.relation {
        TableFactor::Table { name, .. } if table.joins.is_empty() => object_name(name, position),
        _ => Err(Error::unsupported("changing the rows of a join").at(position)),
    }
}

/// sqlparser's name as ours. Its identifiers know where they stand.
fn object_name(name: &ast::ObjectName, position: usize) -> Result<ObjectName, Error> {
    let mut parts = Vec::new();
    for part in &name.0 {
        let ObjectNamePart::Identifier(ident) = part else {
            return Err(Error::unsupported("a function as a table's name").at(position));
        };
        parts.push(ident);
    }
    match parts.as_slice() {
        [name] => {
            Ok(ObjectName { schema: None, name: folded(name), position: column_position(name, position) })
        }
        [schema, name] => Ok(ObjectName {
            schema: Some(folded(schema)),
            name: folded(name),
            position: column_position(schema, position),
        }),
        [database, schema, name] if folded(database) == "tidemill" => Ok(ObjectName {
            schema: Some(folded(schema)),
            name: folded(name),
            position: column_position(database, position),
        }),
        _ => Err(Error::new(SqlState::SYNTAX_ERROR, format!("improper qualified name: {name}")).at(position)),
    }
}

fn folded(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// On the first line columns are positions; further down only the statement's own position is sure.
fn column_position(ident: &ast::Ident, fallback: usize) -> usize {
    match ident.span.start {
        Location { line: 1, column } => column as usize,
        _ => fallback,
    }
}
