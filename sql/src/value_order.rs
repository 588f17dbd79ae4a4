//! The order in which aggregates that depend on it take their values, where the query leaves a choice.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, SortExpr};

/// Aggregates that show the order of their values.
const ORDERED: &[&str] =
    &["array_agg", "first_value", "json_agg", "jsonb_agg", "last_value", "nth_value", "string_agg"];

/// A plan of a SELECT with the choice that a pipeline makes: behind what ORDER BY says, the values themselves, ascending and
/// NULL first.
pub fn with_value_order(plan: LogicalPlan) -> Result<LogicalPlan> {
    let ordered = plan.transform_up_with_subqueries(|node| {
        if !matches!(node, LogicalPlan::Aggregate(_)) {
            return Ok(Transformed::no(node));
        }
        let names = NamePreserver::new(&node);
        let ordered = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let ordered = expr.transform_up(|expr| match expr {
                // DataFusion orders the values of one with DISTINCT only by what they were before types were settled.
                Expr::AggregateFunction(mut function)
                    if ORDERED.contains(&function.func.name()) && !function.params.distinct =>
                {
                    let is_constant = |value: &&Expr| matches!(value, Expr::Literal(..));
                    let values = function.params.args.iter().filter(|value| !is_constant(value)).cloned();
                    let values: Vec<SortExpr> =
                        values.map(|value| SortExpr::new(value, true, true)).collect();
                    function.params.order_by.extend(values);
                    Ok(Transformed::yes(Expr::AggregateFunction(function)))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(ordered.update_data(|expr| name.restore(expr)))
        })?;
        ordered.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(ordered.data)
}
