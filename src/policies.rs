//! Which rows a role reads and writes: the policies of a relation as one condition.
//!
//! A condition is about a reader, so what it says of the session (`current_user`, `session_user`, `current_setting(…)`) is put in when
//! a query is planned. It is evaluated below all that the query says ([`RowFilter`]).

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::{DFSchema, TableReference};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, ExprSchemable, lit};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::sqlparser::ast::{
    self, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments,
};
use tidemill_catalog::{Catalog, Object, Policy, PolicyCommand};
use tidemill_core::SqlState;
use tidemill_sql::parser::{parse_expr, quote_literal};

use crate::database::Database;
use crate::privileges::DENIED;
use crate::row_filter::RowFilter;
use crate::session::Session;
use crate::session::api::SqlError;

/// What a statement does with the relation that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub relation: u32,
    /// Whose policies hold; none hold for who changes the relation itself.
    pub command: Option<PolicyCommand>,
}

/// What conditions ask of a session.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    user: String,
    session_user: String,
    settings: Vec<(String, String)>,
    /// Nobody: a condition is only looked at.
    is_trial: bool,
}

impl Reader {
    pub fn of(session: &Session) -> Reader {
        Reader {
            user: session.user().to_owned(),
            session_user: session.session_user().to_owned(),
            settings: session
                .settings
                .all()
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            is_trial: false,
        }
    }

    /// A condition's text as one about this reader.
    fn bind(&self, text: &str) -> Result<SqlExpr, SqlError> {
        let mut expr = parse_expr(text)?;
        let bound = ast::visit_expressions_mut(&mut expr, |expr: &mut SqlExpr| match self.value(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(value)) => match parse_expr(&value) {
                Ok(value) => {
                    *expr = SqlExpr::Nested(Box::new(value));
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(SqlError::from(error)),
            },
            Err(error) => ControlFlow::Break(error),
        });
        match bound {
            ControlFlow::Continue(()) => Ok(expr),
            ControlFlow::Break(error) => Err(error),
        }
    }

    /// What stands for an expression that asks for the session.
    fn value(&self, expr: &SqlExpr) -> Result<Option<String>, SqlError> {
        let (name, arguments) = match expr {
            SqlExpr::Identifier(ident) if ident.quote_style.is_none() => (ident.value.to_lowercase(), None),
            SqlExpr::Function(function) => match &function.name.0[..] {
                [name] => (
                    name.as_ident().map(|name| name.value.to_lowercase()).unwrap_or_default(),
                    Some(&function.args),
                ),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        match name.as_str() {
            "current_user" | "current_role" | "user" => Ok(Some(quote_literal(&self.user))),
            "session_user" => Ok(Some(quote_literal(&self.session_user))),
            "current_setting" => self.setting(arguments).map(Some),
            _ => Ok(None),
        }
    }

    fn setting(&self, arguments: Option<&FunctionArguments>) -> Result<String, SqlError> {
        let mut given = Vec::new();
        if let Some(FunctionArguments::List(list)) = arguments {
            for argument in &list.args {
                if let FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Value(value))) = argument {
                    given.push(value.value.clone());
                }
            }
        }
        let (name, is_optional) = match &given[..] {
            [ast::Value::SingleQuotedString(name)] => (name.to_lowercase(), false),
            [ast::Value::SingleQuotedString(name), ast::Value::Boolean(is_optional)] => {
                (name.to_lowercase(), *is_optional)
            }
            _ => {
                let message = "current_setting in a policy takes the name of a setting as a literal";
                return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message));
            }
        };
        match self.settings.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Ok(quote_literal(value)),
            None if is_optional || self.is_trial => Ok("CAST(NULL AS TEXT)".into()),
            None => Err(SqlError::new(
                SqlState::UNDEFINED_OBJECT,
                format!("unrecognized configuration parameter \"{name}\""),
            )
            .with_hint("A policy of a relation that is read asks for it: SET it first, or have the policy say current_setting('…', true).")),
        }
    }
}

/// The policies that hold in a query.
pub struct Policies<'a> {
    pub database: &'a Database,
    pub reader: Reader,
    pub change: Option<Change>,
}

impl Policies<'_> {
    /// The rows of a relation that a role may read, where these are not all.
    pub fn filtered(
        &self,
        catalog: &Catalog,
        role: &str,
        object: &Object,
        table: Arc<dyn TableProvider>,
    ) -> Result<Arc<dyn TableProvider>, SqlError> {
        let change = self.change.filter(|change| change.relation == object.oid);
        if change.is_some_and(|change| change.command.is_none()) || !catalog.has_policies_for(role, object) {
            return Ok(table);
        }
        let command = change.and_then(|change| change.command);
        let mut texts = seen(catalog, role, object, PolicyCommand::Select);
        if let Some(command) = command {
            texts = format!("({texts}) AND ({})", seen(catalog, role, object, command));
        }
        let filter = self.condition(object, &texts)?;
        Ok(Arc::new(RowFilter::new(table, filter, columns(object)?)))
    }

    /// A condition over the columns of a relation.
    fn condition(&self, object: &Object, text: &str) -> Result<Expr, SqlError> {
        planned(self.database, &self.reader, object, text)
    }
}

/// The condition for the rows that a role reads, to be evaluated; none where it reads all.
pub fn reading(session: &Session, object: &Object) -> Result<Option<Arc<dyn PhysicalExpr>>, SqlError> {
    let catalog = session.catalog();
    if !catalog.has_policies_for(session.user(), object) {
        return Ok(None);
    }
    let text = seen(&catalog, session.user(), object, PolicyCommand::Select);
    let condition = planned(&session.database, &Reader::of(session), object, &text)?;
    let expr = create_physical_expr(
        &condition,
        &columns(object)?,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    );
    expr.map(Some).map_err(|error| session.database.plan_error(error, &text))
}

/// The condition for rows that come in by a statement, as text about the session; none where all may.
pub fn coming_in(
    session: &Session,
    object: &Object,
    command: PolicyCommand,
    is_read: bool,
) -> Result<Option<String>, SqlError> {
    let catalog = session.catalog();
    let role = session.user();
    if !catalog.has_policies_for(role, object) {
        return Ok(None);
    }
    let mut text =
        combined(&catalog, role, object, command, |policy| policy.check.as_ref().or(policy.using.as_ref()));
    if is_read {
        text = format!("({text}) AND ({})", seen(&catalog, role, object, PolicyCommand::Select));
    }
    Ok(Some(Reader::of(session).bind(&text)?.to_string()))
}

/// A statement that cannot keep to policies is refused where they hold.
pub fn refuse(session: &Session, object: &Object, what: &str, hint: &str) -> Result<(), SqlError> {
    match session.catalog().has_policies_for(session.user(), object) {
        false => Ok(()),
        true => Err(SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("{what} is not supported with row-level security"),
        )
        .with_detail(format!("Policies of {} hold for role \"{}\".", object.describe(), session.user()))
        .with_hint(hint)),
    }
}

/// What shows rows to whoever may read it later must be made by somebody who sees all of them.
pub fn require_all_rows(catalog: &Catalog, role: &str, object: &Object) -> Result<(), SqlError> {
    match catalog.has_policies_for(role, object) {
        false => Ok(()),
        true => Err(SqlError::new(
            DENIED,
            format!("policies of {} hide rows from role \"{role}\"", object.describe()),
        )
        .with_detail("What is kept of them would show to its readers what its maker may see, whoever they are.")
        .with_hint(
            "Its owner, who sees all rows unless row security is forced, superusers and roles with BYPASSRLS can do this; \
             policies on the pipeline itself then say who sees which of its rows.",
        )),
    }
}

/// The policies of an object must still mean something with its columns as they are.
pub fn check(database: &Database, object: &Object) -> Result<(), SqlError> {
    for policy in &object.policies {
        for text in policy.using.iter().chain(&policy.check) {
            check_condition(database, object, text).map_err(|error| {
                SqlError::new(
                    SqlState::DEPENDENT_OBJECTS,
                    format!(
                        "cannot alter {} because policy {} depends on its columns",
                        object.describe(),
                        policy.name
                    ),
                )
                .with_detail(error.message)
                .with_hint("Drop or alter the policy first.")
            })?;
        }
    }
    Ok(())
}

/// A condition must be one over the columns of its relation.
pub fn check_condition(database: &Database, object: &Object, text: &str) -> Result<(), SqlError> {
    let reader = Reader { is_trial: true, ..Reader::default() };
    planned(database, &reader, object, text).map(drop)
}

/// Which rows the policies for a command let be seen.
fn seen(catalog: &Catalog, role: &str, object: &Object, command: PolicyCommand) -> String {
    combined(catalog, role, object, command, |policy| policy.using.as_ref())
}

/// One permissive policy has to let a row through, and all restrictive ones. One without a condition lets all through.
fn combined<'a>(
    catalog: &'a Catalog,
    role: &'a str,
    object: &'a Object,
    command: PolicyCommand,
    condition: impl Fn(&'a Policy) -> Option<&'a String>,
) -> String {
    let is_meant = |policy: &&Policy| policy.command == PolicyCommand::All || policy.command == command;
    let text = |policy: &'a Policy| format!("({})", condition(policy).map_or("true", |text| text.as_str()));
    let (restrictive, permissive): (Vec<&Policy>, Vec<&Policy>) =
        catalog.policies_for(role, object).filter(is_meant).partition(|policy| policy.is_restrictive);
    if permissive.is_empty() {
        return "false".into();
    }
    let permissive: Vec<String> = permissive.into_iter().map(text).collect();
    let mut all = vec![format!("({})", permissive.join(" OR "))];
    all.extend(restrictive.into_iter().map(text));
    all.join(" AND ")
}

/// The columns, to be named with and without their relation.
fn columns(object: &Object) -> Result<DFSchema, SqlError> {
    let relation = TableReference::bare(object.name.as_str());
    DFSchema::try_from_qualified_schema(relation, &object.arrow_schema()).map_err(SqlError::from_datafusion)
}

fn planned(database: &Database, reader: &Reader, object: &Object, text: &str) -> Result<Expr, SqlError> {
    let expr = reader.bind(text)?;
    let columns = columns(object)?;
    let failed = |error| database.plan_error(error, text);
    let condition = database.planner.plan_expr(&expr, &columns).map_err(failed)?;
    match condition.get_type(&columns).map_err(failed)? {
        DataType::Boolean => Ok(condition),
        DataType::Null => Ok(lit(false)),
        other => Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!(
                "argument of a policy must be type boolean, not type {}",
                tidemill_sql::types::pg_type_name(&other)
            ),
        )),
    }
}
