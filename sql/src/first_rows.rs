//! `DISTINCT ON` and `FETCH FIRST … ROWS [WITH TIES]`, which DataFusion does not have or plans in a way that
//! cannot be maintained, in terms of window functions:
//!
//! ```text
//! SELECT DISTINCT ON (k) … ORDER BY k, v    the rows of row_number() OVER (PARTITION BY k ORDER BY k, v) = 1
//! … ORDER BY v FETCH FIRST n ROWS ONLY      LIMIT n
//! … ORDER BY v FETCH FIRST n ROWS WITH TIES the rows of rank() OVER (ORDER BY v) <= n
//! ```
//!
//! SELECTs are rewritten like pipelines, so that both give the same rows.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::functions_window::expr_fn::{rank, row_number};
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprFunctionExt, Limit, LogicalPlan, LogicalPlanBuilder, Projection, Sort,
    SortExpr, lit,
};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Fetch, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, LimitClause, ObjectName, Query, Value, VisitorMut,
};
use tidemill_core::SqlState;

use crate::delta::DeltaError;
use crate::functions::WITH_TIES;
use crate::refusal::Refusal;

/// Makes every FETCH clause of a query a LIMIT; `WITH TIES` stays as a mark on it.
pub(crate) fn rewrite_fetch(query: &mut Query) -> Result<(), Refusal> {
    struct FetchRewriter;
    impl VisitorMut for FetchRewriter {
        type Break = Refusal;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
            let Some(fetch) = query.fetch.take() else { return ControlFlow::Continue(()) };
            match limit_of(&fetch, query.limit_clause.take(), query.order_by.is_some()) {
                Ok(limit_clause) => query.limit_clause = Some(limit_clause),
                Err(refusal) => return ControlFlow::Break(refusal),
            }
            ControlFlow::Continue(())
        }
    }
    match crate::visit::walk_mut(query, &mut FetchRewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

fn limit_of(fetch: &Fetch, clause: Option<LimitClause>, is_ordered: bool) -> Result<LimitClause, Refusal> {
    let refuse = |sqlstate, message: &str, hint: &str, near: &str| Refusal {
        sqlstate,
        message: message.into(),
        hint: Some(hint.into()),
        near: Some(near.into()),
    };
    if fetch.percent {
        return Err(refuse(
            SqlState::FEATURE_NOT_SUPPORTED,
            "FETCH FIRST … PERCENT is not supported",
            "Compare percent_rank() OVER (ORDER BY …) with a fraction, in a WHERE around it.",
            "percent",
        ));
    }
    if fetch.with_ties && !is_ordered {
        return Err(refuse(
            SqlState::SYNTAX_ERROR,
            "WITH TIES cannot be specified without ORDER BY clause",
            "Say what the first rows are: add ORDER BY.",
            "ties",
        ));
    }
    let offset = match clause {
        None => None,
        Some(LimitClause::LimitOffset { limit: None, offset, limit_by }) if limit_by.is_empty() => offset,
        Some(_) => {
            return Err(refuse(
                SqlState::SYNTAX_ERROR,
                "LIMIT and FETCH cannot both be specified",
                "Write one of them.",
                "fetch",
            ));
        }
    };
    let one = || SqlExpr::value(Value::Number("1".into(), false));
    let quantity = fetch.quantity.clone().unwrap_or_else(one);
    let limit = if fetch.with_ties { marked(quantity) } else { quantity };
    Ok(LimitClause::LimitOffset { limit: Some(limit), offset, limit_by: Vec::new() })
}

/// `__with_ties(n)`
fn marked(quantity: SqlExpr) -> SqlExpr {
    let args = FunctionArgumentList {
        duplicate_treatment: None,
        args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(quantity))],
        clauses: Vec::new(),
    };
    SqlExpr::Function(Function {
        name: ObjectName::from(vec![Ident::new(WITH_TIES)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Replaces `DISTINCT ON` and limits with ties in a plan and its subqueries.
pub(crate) fn rewrite_first_rows(plan: LogicalPlan) -> Result<LogicalPlan, DeltaError> {
    let mut refusal = None;
    let plan = plan
        .transform_up_with_subqueries(|node| match node {
            LogicalPlan::Distinct(Distinct::On(on)) => Ok(Transformed::yes(first_of_each(on)?)),
            LogicalPlan::Limit(limit) if limit.fetch.as_deref().is_some_and(is_marked) => {
                match with_ties(&limit)? {
                    Ok(plan) => Ok(Transformed::yes(plan)),
                    Err(found) => {
                        refusal = Some(found);
                        Ok(Transformed::no(LogicalPlan::Limit(limit)))
                    }
                }
            }
            other => Ok(Transformed::no(other)),
        })
        .data()?;
    match refusal {
        Some(refusal) => Err(refusal.into()),
        None => Ok(plan),
    }
}

fn first_of_each(on: DistinctOn) -> Result<LogicalPlan, DataFusionError> {
    let order = on.sort_expr.unwrap_or_default();
    let mut number = row_number().partition_by(on.on_expr);
    if !order.is_empty() {
        number = number.order_by(order.clone());
    }
    let number = number.build()?;
    let numbered = LogicalPlanBuilder::from(Arc::unwrap_or_clone(on.input)).window(vec![number])?;
    let number = last_column(numbered.schema());
    let mut first = numbered.filter(number.eq(lit(1u64)))?;
    if !order.is_empty() {
        // For who reads the rows; a pipeline, which has no order, leaves it out.
        first = first.sort(order)?;
    }
    let projection = Projection::try_new(on.select_expr, Arc::new(first.build()?))?;
    Ok(LogicalPlan::Projection(projection))
}

fn with_ties(limit: &Limit) -> Result<Result<LogicalPlan, Refusal>, DataFusionError> {
    let constant = |expr: &Expr, near: &str| -> Result<u64, Refusal> {
        let count = match expr {
            Expr::Literal(value, _) => match value.cast_to(&datafusion::arrow::datatypes::DataType::Int64) {
                Ok(ScalarValue::Int64(Some(count))) => u64::try_from(count).ok(),
                _ => None,
            },
            _ => None,
        };
        count.ok_or_else(|| Refusal {
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: "FETCH FIRST … WITH TIES takes constant numbers of rows only".into(),
            hint: Some("Write the numbers, such as OFFSET 2 FETCH FIRST 3 ROWS WITH TIES.".into()),
            near: Some(near.into()),
        })
    };
    let Some(Expr::ScalarFunction(mark)) = limit.fetch.as_deref() else {
        unreachable!("the mark has been seen");
    };
    let fetch = match constant(&mark.args[0], "fetch") {
        Ok(fetch) => fetch,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let skip = match limit.skip.as_deref().map_or(Ok(0), |skip| constant(skip, "offset")) {
        Ok(skip) => skip,
        Err(refusal) => return Ok(Err(refusal)),
    };
    // What ORDER BY needs and SELECT does not give is projected away above the sort.
    Ok(match limit.input.as_ref() {
        LogicalPlan::Sort(sort) => Ok(first_with_ties(sort, skip, fetch)?),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Sort(sort) => {
                let first = first_with_ties(sort, skip, fetch)?;
                Ok(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), Arc::new(first))?))
            }
            _ => Err(unordered()),
        },
        _ => Err(unordered()),
    })
}

fn unordered() -> Refusal {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: "WITH TIES does not go with this kind of query".into(),
        hint: Some("Write … FROM (SELECT …, rank() OVER (ORDER BY …) AS n FROM …) WHERE n <= 3.".into()),
        near: Some("ties".into()),
    }
}

fn first_with_ties(sort: &Sort, skip: u64, fetch: u64) -> Result<LogicalPlan, DataFusionError> {
    let order: Vec<SortExpr> = sort.expr.clone();
    let columns: Vec<Expr> =
        sort.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mut calls = vec![rank().order_by(order.clone()).build()?];
    if skip > 0 {
        calls.push(row_number().order_by(order.clone()).build()?);
    }
    let n_columns = columns.len();
    let ranked = LogicalPlanBuilder::from(sort.input.as_ref().clone()).window(calls)?;
    let column = |idx: usize| Expr::Column(Column::from(ranked.schema().qualified_field(idx)));
    // No row at all is what no rows and their ties are.
    let end = if fetch == 0 { 0 } else { skip.saturating_add(fetch) };
    let mut is_first = column(n_columns).lt_eq(lit(end));
    if skip > 0 {
        is_first = is_first.and(column(n_columns + 1).gt(lit(skip)));
    }
    ranked.filter(is_first)?.project(columns)?.sort(order)?.build()
}

fn is_marked(fetch: &Expr) -> bool {
    matches!(fetch, Expr::ScalarFunction(function) if function.name() == WITH_TIES)
}

fn last_column(schema: &datafusion::common::DFSchema) -> Expr {
    Expr::Column(Column::from(schema.qualified_field(schema.fields().len() - 1)))
}
