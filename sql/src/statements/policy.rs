//! `CREATE POLICY name ON relation …`, `ALTER POLICY`, `DROP POLICY`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Expr};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::SqlState;

use super::column::ParsedExpr;
use super::role::{RoleName, role_name};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// A rule about which rows are seen and may come in.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatePolicy {
    pub name: Name,
    pub relation: ObjectName,
    pub is_restrictive: bool,
    /// In upper case; `ALL` unless something is said.
    pub command: &'static str,
    /// Empty for everybody.
    pub roles: Vec<(RoleName, usize)>,
    pub using: Option<PolicyExpr>,
    pub check: Option<PolicyExpr>,
}

/// A condition, with where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyExpr {
    pub parsed: ParsedExpr,
    pub position: usize,
}

/// Another name, or other roles and conditions; what is not said stays.
#[derive(Debug, Clone, PartialEq)]
pub struct AlterPolicy {
    pub name: Name,
    pub relation: ObjectName,
    pub rename_to: Option<Name>,
    pub roles: Option<Vec<(RoleName, usize)>>,
    pub using: Option<PolicyExpr>,
    pub check: Option<PolicyExpr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropPolicy {
    pub name: Name,
    pub relation: ObjectName,
    pub if_exists: bool,
}

const COMMANDS: [&str; 5] = ["ALL", "SELECT", "INSERT", "UPDATE", "DELETE"];

/// Behind `CREATE`.
pub(crate) fn parse_create(cursor: &mut Cursor<'_>) -> Result<CreatePolicy, Error> {
    cursor.expect("POLICY")?;
    let name = cursor.name()?;
    cursor.expect("ON")?;
    let relation = cursor.object_name()?;
    let is_restrictive = match cursor.eat("AS") {
        true => match cursor.eat_one_of(&["PERMISSIVE", "RESTRICTIVE"]) {
            Some(word) => word == "RESTRICTIVE",
            None => return Err(cursor.unexpected_word("a kind of policy", &["PERMISSIVE", "RESTRICTIVE"])),
        },
        false => false,
    };
    let command = match cursor.eat("FOR") {
        true => match cursor.eat_one_of(&COMMANDS) {
            Some(word) => word,
            None => return Err(cursor.unexpected_word("a statement", &COMMANDS)),
        },
        false => "ALL",
    };
    let roles = if cursor.eat("TO") { parse_roles(cursor)? } else { Vec::new() };
    let (using, check) = parse_conditions(cursor)?;
    let wrong =
        |message: &str, expr: &PolicyExpr| Err(Error::new(SqlState::SYNTAX_ERROR, message).at(expr.position));
    match (command, &using, &check) {
        ("SELECT" | "DELETE", _, Some(check)) => {
            wrong("WITH CHECK cannot be applied to SELECT or DELETE", check)
        }
        ("INSERT", Some(using), _) => wrong("only WITH CHECK expression allowed for INSERT", using),
        _ => Ok(CreatePolicy { name, relation, is_restrictive, command, roles, using, check }),
    }
}

/// Behind `ALTER`.
pub(crate) fn parse_alter(cursor: &mut Cursor<'_>) -> Result<AlterPolicy, Error> {
    cursor.expect("POLICY")?;
    let name = cursor.name()?;
    cursor.expect("ON")?;
    let relation = cursor.object_name()?;
    let mut alter = AlterPolicy { name, relation, rename_to: None, roles: None, using: None, check: None };
    if cursor.eat("RENAME") {
        cursor.expect("TO")?;
        alter.rename_to = Some(cursor.name()?);
        return Ok(alter);
    }
    if cursor.eat("TO") {
        alter.roles = Some(parse_roles(cursor)?);
    }
    (alter.using, alter.check) = parse_conditions(cursor)?;
    match (&alter.roles, &alter.using, &alter.check) {
        (None, None, None) => Err(cursor.unexpected("RENAME TO, TO, USING or WITH CHECK")),
        _ => Ok(alter),
    }
}

/// Behind `DROP`.
pub(crate) fn parse_drop(cursor: &mut Cursor<'_>) -> Result<DropPolicy, Error> {
    cursor.expect("POLICY")?;
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    let name = cursor.name()?;
    cursor.expect("ON")?;
    let relation = cursor.object_name()?;
    // Nothing depends on a policy.
    let _ = cursor.eat_one_of(&["CASCADE", "RESTRICT"]);
    Ok(DropPolicy { name, relation, if_exists })
}

/// Empty where one of them is everybody.
fn parse_roles(cursor: &mut Cursor<'_>) -> Result<Vec<(RoleName, usize)>, Error> {
    let roles = cursor.list(|cursor| {
        let position = cursor.position();
        Ok((role_name(cursor, true)?, position))
    })?;
    let is_everybody = roles.iter().any(|(role, _)| *role == RoleName::Public);
    Ok(if is_everybody { Vec::new() } else { roles })
}

fn parse_conditions(cursor: &mut Cursor<'_>) -> Result<(Option<PolicyExpr>, Option<PolicyExpr>), Error> {
    let using = if cursor.eat("USING") { Some(parse_condition(cursor)?) } else { None };
    let check = match cursor.eat_all(&["WITH", "CHECK"]) {
        true => Some(parse_condition(cursor)?),
        false => None,
    };
    Ok((using, check))
}

fn parse_condition(cursor: &mut Cursor<'_>) -> Result<PolicyExpr, Error> {
    cursor.expect_token(&Token::LParen)?;
    let position = cursor.position();
    let (expr, text) = cursor.expr()?;
    cursor.expect_token(&Token::RParen)?;
    let has_query = ast::visit_expressions(&expr, |expr: &Expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    match has_query.is_break() {
        true => Err(Error::unsupported("a subquery in a policy")
            .with_hint(
                "Compare columns with current_user or current_setting('…'), or write a policy for each role: TO role.",
            )
            .at(position)),
        false => Ok(PolicyExpr { parsed: ParsedExpr { expr, text }, position }),
    }
}
