//! `INTERSECT ALL` and `EXCEPT ALL`, which DataFusion plans as semi and anti joins: those do not count copies.
//!
//! ```text
//! l EXCEPT ALL r  ─▶  SELECT * FROM (l) AS __multiset LEFT ANTI JOIN (r) AS __multiset_other ON true
//! ```
//!
//! In the syntax tree the columns of `l` are not known yet, so that the join is only a mark, which comes
//! through the planner unchanged. In the plan it is then replaced: for a pipeline by an operator that counts, for a
//! SELECT by numbering the copies of each row on both sides and comparing the rows with their numbers.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, NullEquality, Result};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::type_coercion::binary::type_union_coercion;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, Extension, Join, LogicalPlan, LogicalPlanBuilder, Projection, cast,
};
use datafusion::sql::sqlparser::ast::{Query, SetExpr, SetOperator, SetQuantifier, TableFactor, VisitorMut};
use tidemill_core::SqlState;
use tidemill_plan::{IncrementalNode, Operator, SetOperation};

use crate::Error;
use crate::functions::with_one_zero;
use crate::refusal::Refusal;

/// Names of the two sides of a marked join; nobody else's by their prefix.
const LEFT: &str = "__multiset";
const RIGHT: &str = "__multiset_other";
/// The same with their copies numbered, which is no mark any more.
const NUMBERED: &str = "__numbered";
const NUMBERED_OTHER: &str = "__numbered_other";

/// Whom a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lowering {
    Select,
    Pipeline,
}

/// Marks the operations of a query and of its subqueries.
pub(crate) fn mark_set_operations(query: &mut Query) -> Result<(), Refusal> {
    struct Marker;
    impl VisitorMut for Marker {
        type Break = Refusal;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
            // What stands in parentheses is visited as a query of its own.
            match mark(&mut query.body) {
                Ok(()) => ControlFlow::Continue(()),
                Err(refusal) => ControlFlow::Break(refusal),
            }
        }
    }
    match crate::visit::walk_mut(query, &mut Marker) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

fn mark(body: &mut SetExpr) -> Result<(), Refusal> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return Ok(()) };
    mark(left)?;
    mark(right)?;
    let join = match op {
        SetOperator::Intersect => "SEMI",
        SetOperator::Except | SetOperator::Minus => "ANTI",
        SetOperator::Union => return Ok(()),
    };
    match set_quantifier {
        SetQuantifier::All => {}
        SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => {
            return Err(Refusal {
                sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                message: format!("{op} BY NAME is not supported"),
                hint: Some("Name the columns of both sides in the same order, and leave BY NAME out.".into()),
                near: Some(op.to_string()),
            });
        }
        SetQuantifier::Distinct | SetQuantifier::None => return Ok(()),
    }
    let template =
        format!("SELECT * FROM (SELECT 1) AS {LEFT} LEFT {join} JOIN (SELECT 1) AS {RIGHT} ON true");
    let parsed = crate::parser::parse_query(&template).map_err(|error| Refusal {
        sqlstate: SqlState::INTERNAL_ERROR,
        message: error.to_string(),
        hint: None,
        near: None,
    })?;
    let mut marked = parsed.body;
    if let SetExpr::Select(select) = marked.as_mut() {
        let from = &mut select.from[0];
        let sides = [(&mut from.relation, left), (&mut from.joins[0].relation, right)];
        for (factor, side) in sides {
            let TableFactor::Derived { subquery, .. } = factor else {
                unreachable!("the template has two subqueries");
            };
            let placeholder = SetExpr::Query(subquery.clone());
            *subquery.body = std::mem::replace(side, placeholder);
        }
    }
    *body = *marked;
    Ok(())
}

/// Replaces the marks in a plan.
pub(crate) fn lower_set_operations(plan: LogicalPlan, lowering: Lowering) -> Result<LogicalPlan> {
    // A pipeline runs recursions as a SELECT does, over all rows again.
    let plan = match lowering {
        Lowering::Select => plan,
        Lowering::Pipeline => {
            plan.transform_down_with_subqueries(|node| match node {
                LogicalPlan::RecursiveQuery(_) => {
                    let lowered = replace_marks(node, Lowering::Select)?;
                    Ok(Transformed::new(lowered, true, TreeNodeRecursion::Jump))
                }
                other => Ok(Transformed::no(other)),
            })?
            .data
        }
    };
    replace_marks(plan, lowering)
}

fn replace_marks(plan: LogicalPlan, lowering: Lowering) -> Result<LogicalPlan> {
    let mut is_changed = false;
    plan.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = &node
            && let Some(kind) = marked(join)
        {
            is_changed = true;
            return Ok(Transformed::yes(lower(join, kind, lowering)?));
        }
        // The columns of what is above may have got wider types.
        if is_changed { Ok(Transformed::yes(node.recompute_schema()?)) } else { Ok(Transformed::no(node)) }
    })
    .map(|transformed| transformed.data)
}

fn marked(join: &Join) -> Option<SetOperation> {
    let is_named = |plan: &LogicalPlan, name: &str| matches!(plan, LogicalPlan::SubqueryAlias(alias) if alias.alias.table() == name);
    let kind = match join.join_type {
        JoinType::LeftSemi => SetOperation::IntersectAll,
        JoinType::LeftAnti => SetOperation::ExceptAll,
        _ => return None,
    };
    (is_named(&join.left, LEFT) && is_named(&join.right, RIGHT)).then_some(kind)
}

fn lower(join: &Join, kind: SetOperation, lowering: Lowering) -> Result<LogicalPlan> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let construct = match kind {
        SetOperation::IntersectAll => "INTERSECT",
        SetOperation::ExceptAll => "EXCEPT",
    };
    if left.fields().len() != right.fields().len() {
        let message = format!("each {construct} query must have the same number of columns");
        return Err(DataFusionError::External(Box::new(Error::new(SqlState::SYNTAX_ERROR, message))));
    }
    let mut types = Vec::new();
    for (left, right) in left.fields().iter().zip(right.fields()) {
        let Some(common) = type_union_coercion(left.data_type(), right.data_type()) else {
            let shown = |field: &datafusion::arrow::datatypes::FieldRef| {
                crate::types::pg_type_name(field.data_type())
            };
            let message = format!("{construct} types {} and {} cannot be matched", shown(left), shown(right));
            return Err(DataFusionError::External(Box::new(Error::new(
                SqlState::DATATYPE_MISMATCH,
                message,
            ))));
        };
        types.push(common);
    }
    // Both sides under the names of the left, in the common types.
    let side = |plan: &Arc<LogicalPlan>| -> Result<LogicalPlan> {
        let exprs =
            plan.schema().iter().zip(left.iter()).zip(&types).map(|((own, (qualifier, named)), to)| {
                let column = Expr::Column(Column::from(own));
                let column = if own.1.data_type() == to { column } else { cast(column, to.clone()) };
                let column = with_one_zero(column, plan.schema())?;
                Ok(column.alias_qualified(qualifier.cloned(), named.name()))
            });
        Ok(LogicalPlan::Projection(Projection::try_new(exprs.collect::<Result<_>>()?, plan.clone())?))
    };
    let (left, right) = (side(&join.left)?, side(&join.right)?);
    match lowering {
        Lowering::Pipeline => {
            let schema = left.schema().clone();
            let operator = Operator::SetOperation(kind);
            let node = IncrementalNode { operator, inputs: vec![left, right], schema };
            Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
        }
        Lowering::Select => compare_numbered(left, right, join.join_type),
    }
}

/// The k-th copy of a row on the left has a partner if there are at least k copies on the right.
fn compare_numbered(left: LogicalPlan, right: LogicalPlan, join_type: JoinType) -> Result<LogicalPlan> {
    let numbered = |plan: LogicalPlan, table: &str| -> Result<LogicalPlan> {
        let columns: Vec<Expr> = columns(plan.schema());
        let copy = row_number().partition_by(columns).build()?.alias("__copy");
        LogicalPlanBuilder::from(plan).window([copy])?.alias(table)?.build()
    };
    let output: Vec<(Column, Column)> = left
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let named = Column::new(qualifier.cloned(), field.name());
            (Column::new(Some(NUMBERED), field.name()), named)
        })
        .collect();
    let (left, right) = (numbered(left, NUMBERED)?, numbered(right, NUMBERED_OTHER)?);
    let keys = |plan: &LogicalPlan| plan.schema().columns();
    let on = (keys(&left), keys(&right));
    LogicalPlanBuilder::from(left)
        .join_detailed(right, join_type, on, None, NullEquality::NullEqualsNull)?
        .project(
            output.into_iter().map(|(from, to)| Expr::Column(from).alias_qualified(to.relation, to.name)),
        )?
        .build()
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked_text(sql: &str) -> Result<String, Refusal> {
        let mut query = crate::parser::parse_query(sql).unwrap();
        mark_set_operations(&mut query)?;
        Ok(query.to_string())
    }

    #[test]
    fn operations_with_all_are_marked_wherever_they_are() {
        let marked = marked_text("SELECT 1 WHERE 2 IN (SELECT a FROM t EXCEPT ALL SELECT b FROM u)").unwrap();
        assert!(marked.contains("(SELECT a FROM t) AS __multiset"), "{marked}");
        assert!(marked.contains("ANTI JOIN (SELECT b FROM u) AS __multiset_other"), "{marked}");
        let nested = "SELECT 1 INTERSECT ALL (SELECT 1 EXCEPT ALL SELECT 2)";
        assert_eq!(marked_text(nested).unwrap().matches(" AS __multiset ").count(), 2);
    }

    #[test]
    fn other_operations_stay() {
        for sql in ["SELECT 1 UNION ALL SELECT 2", "SELECT 1 EXCEPT SELECT 2", "SELECT 1 INTERSECT SELECT 2"]
        {
            assert_eq!(marked_text(sql).unwrap(), sql);
        }
        assert!(marked_text("SELECT 1 EXCEPT ALL BY NAME SELECT 2").is_err());
    }
}
