//! `unnest` in FROM over the columns of what stands before it.
//!
//! ```text
//! FROM t, unnest(t.xs) AS u (x)  ─▶  each row of t once per element of its xs
//! ```
//!
//! DataFusion plans this as a join with a subquery that refers to `t`, and cannot run it. The subquery reads
//! nothing but the one row of `t`, so that it is grafted onto `t`: its projections and unnests go on top, and
//! carry the columns of `t` along.
//!
//! `WITH ORDINALITY` is one more list to unnest beside the others: 1, 2, 3, ….

use std::ops::ControlFlow;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, NullHandling, Result};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, ObjectNamePart, Query, TableFactor, VisitorMut,
};
use tidemill_core::SqlState;

use crate::refusal::Refusal;

/// Writes `LATERAL unnest(…)` and `unnest(…) WITH ORDINALITY` as DataFusion knows them.
pub(crate) fn rewrite_unnest(query: &mut Query) -> Result<(), Refusal> {
    struct Rewriter;
    impl VisitorMut for Rewriter {
        type Break = Refusal;

        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
            if let Some(unnest) = unnest_function(factor) {
                *factor = unnest;
            }
            if let TableFactor::UNNEST { array_exprs, with_ordinality, .. } = factor
                && *with_ordinality
            {
                match ordinality(array_exprs) {
                    Ok(series) => array_exprs.push(series),
                    Err(refusal) => return ControlFlow::Break(refusal),
                }
                *with_ordinality = false;
            }
            ControlFlow::Continue(())
        }
    }
    match crate::visit::walk_mut(query, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// `LATERAL unnest(…)` is parsed as any function; without LATERAL, which says nothing here, it is not.
fn unnest_function(factor: &TableFactor) -> Option<TableFactor> {
    let TableFactor::Function { name, args, with_ordinality, alias, .. } = factor else { return None };
    let [ObjectNamePart::Identifier(function)] = &name.0[..] else { return None };
    if !function.value.eq_ignore_ascii_case("unnest") {
        return None;
    }
    let array = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(array)) => Some(array.clone()),
        _ => None,
    };
    Some(TableFactor::UNNEST {
        alias: alias.clone(),
        array_exprs: args.iter().map(array).collect::<Option<_>>()?,
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: *with_ordinality,
    })
}

/// 1 to the length of the longest array.
pub(crate) fn ordinality(arrays: &[SqlExpr]) -> Result<SqlExpr, Refusal> {
    let lengths: Vec<String> =
        arrays.iter().map(|array| format!("CAST(cardinality({array}) AS BIGINT)")).collect();
    let longest = match &lengths[..] {
        [length] => length.clone(),
        lengths => format!("greatest({})", lengths.join(", ")),
    };
    crate::parser::parse_expr(&format!("range(CAST(1 AS BIGINT), {longest} + CAST(1 AS BIGINT))")).map_err(
        |error| Refusal {
            sqlstate: SqlState::INTERNAL_ERROR,
            message: error.to_string(),
            hint: None,
            near: Some("ordinality".into()),
        },
    )
}

/// Grafts subqueries that only unnest onto what they are joined with.
pub(crate) fn lower_lateral_unnest(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = &node else { return Ok(Transformed::no(node)) };
        match lowered(join)? {
            Some(plan) => Ok(Transformed::yes(plan)),
            None => Ok(Transformed::no(node)),
        }
    })
    .map(|transformed| transformed.data)
}

fn lowered(join: &Join) -> Result<Option<LogicalPlan>> {
    let has_condition = join.filter.as_ref().is_some_and(|filter| filter != &lit(true));
    let is_left = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left if !has_condition => true,
        _ => return Ok(None),
    };
    if !join.on.is_empty() || !is_lateral(&join.right) {
        return Ok(None);
    }
    // The columns of the left get names of their own, which nothing in the subquery can be taken for.
    let graft = Graft { left: join.left.schema().columns(), is_left };
    let renamed =
        graft.left.iter().enumerate().map(|(idx, column)| Expr::Column(column.clone()).alias(name(idx)));
    let base = LogicalPlanBuilder::from(join.left.as_ref().clone()).project(renamed)?.build()?;
    let Some(grafted) = graft.onto(base, &join.right)? else { return Ok(None) };
    let columns = grafted.schema().columns();
    let exprs = columns.into_iter().zip(join.schema.iter()).map(|(column, (qualifier, field))| {
        Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
    });
    let mut builder = LogicalPlanBuilder::from(grafted).project(exprs.collect::<Vec<_>>())?;
    if let Some(filter) = join.filter.as_ref().filter(|_| has_condition) {
        builder = builder.filter(filter.clone())?;
    }
    Ok(Some(builder.build()?))
}

fn is_lateral(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Subquery(_) => true,
        LogicalPlan::SubqueryAlias(alias) => is_lateral(&alias.input),
        _ => false,
    }
}

fn name(idx: usize) -> String {
    format!("__lateral_{idx}")
}

struct Graft {
    left: Vec<Column>,
    /// Rows without elements stay, with NULL.
    is_left: bool,
}

impl Graft {
    /// `plan` with `base` in the place of its one row; `None` if it is more than projections and unnests.
    fn onto(&self, base: LogicalPlan, plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        match plan {
            LogicalPlan::Subquery(subquery) => self.onto(base, &subquery.subquery),
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Ok(Some(base)),
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(input) = self.onto(base, &alias.input)? else { return Ok(None) };
                let mut exprs = self.carried();
                let own = input.schema().columns().into_iter().skip(self.left.len());
                exprs.extend(own.zip(alias.schema.iter()).map(|(column, (qualifier, field))| {
                    Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
                }));
                Ok(Some(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
            }
            LogicalPlan::Projection(projection) => {
                let Some(input) = self.onto(base, &projection.input)? else { return Ok(None) };
                let mut exprs = self.carried();
                for (expr, field) in projection.expr.iter().zip(plan.schema().fields()) {
                    let is_named = matches!(expr, Expr::Alias(_) | Expr::Column(_));
                    let inner = self.inner(expr.clone())?;
                    exprs.push(if is_named { inner } else { inner.alias(field.name()) });
                }
                Ok(Some(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
            }
            LogicalPlan::Filter(filter) if !self.is_left => {
                let Some(input) = self.onto(base, &filter.input)? else { return Ok(None) };
                let predicate = self.inner(filter.predicate.clone())?;
                Ok(Some(LogicalPlanBuilder::from(input).filter(predicate)?.build()?))
            }
            LogicalPlan::Unnest(unnest) => {
                let Some(input) = self.onto(base, &unnest.input)? else { return Ok(None) };
                let mut options = unnest.options.clone();
                if self.is_left {
                    options.null_handling = NullHandling::PreserveAndExpandEmpty;
                }
                let builder = LogicalPlanBuilder::from(input);
                Ok(Some(builder.unnest_columns_with_options(unnest.exec_columns.clone(), options)?.build()?))
            }
            _ => Ok(None),
        }
    }

    fn carried(&self) -> Vec<Expr> {
        (0..self.left.len()).map(|idx| Expr::Column(Column::from_name(name(idx)))).collect()
    }

    /// What refers to the outside refers to the carried columns.
    fn inner(&self, expr: Expr) -> Result<Expr> {
        expr.transform_up(|expr| match &expr {
            Expr::OuterReferenceColumn(_, column) => match self.left.iter().position(|left| left == column) {
                Some(idx) => Ok(Transformed::yes(Expr::Column(Column::from_name(name(idx))))),
                None => Ok(Transformed::no(expr)),
            },
            _ => Ok(Transformed::no(expr)),
        })
        .map(|transformed| transformed.data)
    }
}
