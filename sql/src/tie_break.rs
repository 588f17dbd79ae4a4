//! Rows that tie in an ORDER BY stand in the order of all of their columns.
//!
//! SQL leaves the order of ties open, and DataFusion's answer then depends on batches and threads: `row_number()`,
//! `lag`, frames of `ROWS` and the last row of a `LIMIT` may differ from one SELECT to the next. A pipeline cannot do
//! that, since it has to retract what it gave. It breaks ties by the row's other columns, ascending, in the order in
//! which they stand; this physical rule makes a SELECT do the same, so that both have one answer.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};

/// DataFusion's physical rules with [`BreakTies`] among them.
pub(crate) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    // When sorts have been placed, and before filters are tied to them.
    let place = rules.iter().position(|rule| rule.name() == "PushdownSort").unwrap_or(rules.len());
    rules.insert(place, Arc::new(BreakTies));
    rules
}

#[derive(Debug)]
struct BreakTies;

impl PhysicalOptimizerRule for BreakTies {
    fn name(&self) -> &str {
        "break_ties"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if is_window(&node) {
                let input = node.children()[0].clone();
                if is_window(&input) {
                    return Ok(Transformed::no(node));
                }
                let sorted = match with_ties_broken(&input)? {
                    Some(sorted) => sorted,
                    None => sort(&input)?,
                };
                return Ok(Transformed::yes(replace_children_if_necessary(node, vec![sorted])?));
            }
            let fetch =
                match (node.downcast_ref::<SortExec>(), node.downcast_ref::<SortPreservingMergeExec>()) {
                    (Some(sort), _) => sort.fetch(),
                    (_, Some(merge)) => merge.fetch(),
                    _ => None,
                };
            match fetch {
                Some(_) => Ok(match with_ties_broken(&node)? {
                    Some(sorted) => Transformed::yes(sorted),
                    None => Transformed::no(node),
                }),
                None => Ok(Transformed::no(node)),
            }
        })
        .data()
    }
}

fn is_window(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<WindowAggExec>() || node.is::<BoundedWindowAggExec>()
}

/// A sort, or a merge of sorted partitions, with all columns behind those that it sorts by.
fn with_ties_broken(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        let ordering = extended(Some(sort.expr()), node);
        return Ok(ordering.map(|ordering| {
            let extended = SortExec::new(ordering, sort.input().clone())
                .with_preserve_partitioning(sort.preserve_partitioning())
                .with_fetch(sort.fetch());
            Arc::new(extended) as Arc<dyn ExecutionPlan>
        }));
    }
    let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() else { return Ok(None) };
    let (Some(input), Some(ordering)) =
        (with_ties_broken(merge.input())?, extended(Some(merge.expr()), node))
    else {
        return Ok(None);
    };
    Ok(Some(Arc::new(SortPreservingMergeExec::new(ordering, input).with_fetch(merge.fetch()))))
}

/// A sort of what is sorted already, if at all, by something else.
fn sort(input: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(ordering) = extended(input.properties().output_ordering(), input) else {
        return Ok(input.clone());
    };
    Ok(Arc::new(SortExec::new(ordering, input.clone()).with_preserve_partitioning(true)))
}

fn extended(ordering: Option<&LexOrdering>, node: &Arc<dyn ExecutionPlan>) -> Option<LexOrdering> {
    let mut exprs: Vec<PhysicalSortExpr> = ordering.into_iter().flatten().cloned().collect();
    let schema = node.schema();
    for (idx, field) in schema.fields().iter().enumerate() {
        let is_known = exprs
            .iter()
            .any(|sort| sort.expr.downcast_ref::<Column>().is_some_and(|column| column.index() == idx));
        if !is_known && is_comparable(field.data_type()) {
            let expr = Arc::new(Column::new(field.name(), idx));
            // As arrangements sort: ascending, NULL first.
            exprs.push(PhysicalSortExpr {
                expr,
                options: SortOptions { descending: false, nulls_first: true },
            });
        }
    }
    LexOrdering::new(exprs)
}

fn is_comparable(data_type: &DataType) -> bool {
    !data_type.is_nested() && !data_type.is_null()
}
