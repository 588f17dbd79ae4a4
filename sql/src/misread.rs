//! Forms that DataFusion plans as something else than they say. Better none than a wrong answer.

use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DataFusionError, Result};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, SkipType};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Function, JoinConstraint, JoinOperator, Query, Select, SelectFlavor, SetExpr,
    TableFactor, TableWithJoins, VisitorMut, WindowFrame, WindowFrameBound, WindowType,
};
use tidemill_core::SqlState;

use crate::refusal::Refusal;

/// Refuses what can be told by how a query is written.
pub(crate) fn refuse_misread(query: &mut Query) -> Result<(), Refusal> {
    match crate::visit::walk_mut(query, &mut Reader) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct Reader;

impl VisitorMut for Reader {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        match query.body.as_ref() {
            SetExpr::Table(_) => ControlFlow::Break(
                Refusal::unsupported("TABLE as a query").with_hint("Write SELECT * FROM name.").near("table"),
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        if select.flavor != SelectFlavor::Standard {
            let refusal = Refusal::unsupported("FROM before SELECT").with_hint("Write SELECT … FROM name.");
            return ControlFlow::Break(refusal.near("from"));
        }
        if select.into.is_some() {
            let refusal =
                Refusal::unsupported("SELECT … INTO").with_hint("Use CREATE TABLE name AS SELECT ….");
            return ControlFlow::Break(refusal.near("into"));
        }
        select.from.iter().try_for_each(merged_columns)
    }

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<Refusal> {
        match expr {
            SqlExpr::Function(Function { over: Some(WindowType::WindowSpec(window)), .. }) => {
                window.window_frame.as_ref().map_or(ControlFlow::Continue(()), frame)
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                ControlFlow::Break(
                    Refusal::unsupported("TABLESAMPLE")
                        .with_hint("Choose rows by a condition, such as WHERE random() < 0.1 in a SELECT.")
                        .near("tablesample"),
                )
            }
            TableFactor::NestedJoin { table_with_joins, .. } => merged_columns(table_with_joins),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// A frame whose end can only be before its start has no rows for anybody; DataFusion gives NULLs, PostgreSQL says so.
fn frame(frame: &WindowFrame) -> ControlFlow<Refusal> {
    use WindowFrameBound::{CurrentRow, Following, Preceding};
    let message = match (&frame.start_bound, frame.end_bound.as_ref().unwrap_or(&CurrentRow)) {
        (Following(None), _) => "frame start cannot be UNBOUNDED FOLLOWING",
        (_, Preceding(None)) => "frame end cannot be UNBOUNDED PRECEDING",
        (CurrentRow, Preceding(_)) => "frame starting from current row cannot have preceding rows",
        (Following(_), CurrentRow) => "frame starting from following row cannot end with current row",
        (Following(_), Preceding(_)) => "frame starting from following row cannot have preceding rows",
        _ => return ControlFlow::Continue(()),
    };
    ControlFlow::Break(Refusal {
        sqlstate: SqlState("42P20"),
        message: message.into(),
        hint: Some("A frame goes from what is earlier in the order to what is later.".into()),
        near: Some("between".into()),
    })
}

/// A column that USING or NATURAL merges would be the left one's, which may be NULL where the right one's is not.
fn merged_columns(table: &TableWithJoins) -> ControlFlow<Refusal> {
    for join in &table.joins {
        let (kind, constraint) = match &join.join_operator {
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => ("RIGHT", constraint),
            JoinOperator::FullOuter(constraint) => ("FULL", constraint),
            _ => continue,
        };
        let (form, word) = match constraint {
            JoinConstraint::Using(_) => (format!("{kind} JOIN … USING"), "using"),
            JoinConstraint::Natural => (format!("NATURAL {kind} JOIN"), "natural"),
            _ => continue,
        };
        let merged = if kind == "RIGHT" { "b.k AS k" } else { "coalesce(a.k, b.k) AS k" };
        let hint = format!("Write {kind} JOIN b ON a.k = b.k, and {merged} for the column that is merged.");
        return ControlFlow::Break(Refusal::unsupported(form).with_hint(hint).near(word));
    }
    ControlFlow::Continue(())
}

/// Refuses subqueries that refer to the outside where a join with them would be something else.
pub(crate) fn refuse_correlation(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Subquery(subquery) = node {
            refuse_within(&subquery.subquery)?;
        }
        node.apply_expressions(|expr| {
            datafusion::common::tree_node::TreeNode::apply(expr, |expr| {
                let subquery = match expr {
                    Expr::InSubquery(of) => &of.subquery,
                    Expr::Exists(of) => &of.subquery,
                    Expr::ScalarSubquery(of) => of,
                    Expr::SetComparison(of) => &of.subquery,
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                refuse_within(&subquery.subquery)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn refuse_within(subquery: &LogicalPlan) -> Result<()> {
    if !refers_out(subquery) {
        return Ok(());
    }
    let refuse = |what: &str, hint: &str, near: &str| {
        let refusal = Refusal::unsupported(format!("{what} in a subquery that refers to the outside"));
        Err(DataFusionError::External(Box::new(refusal.with_hint(hint).near(near))))
    };
    let mut compared: Vec<Column> = Vec::new();
    let mut outcome = Ok(());
    datafusion::common::tree_node::TreeNode::apply(subquery, |node| {
        outcome = match node {
            LogicalPlan::Window(window) if refers_out(&window.input) => refuse(
                "a window function",
                "Compute it in a subquery over all rows, partitioned by what the rows are chosen by, and choose outside of that.",
                "over",
            ),
            LogicalPlan::Limit(limit)
                if !matches!(limit.get_skip_type()?, SkipType::Literal(0)) && refers_out(&limit.input) =>
            {
                refuse(
                    "OFFSET",
                    "Number the rows: row_number() OVER (PARTITION BY …), in a subquery over all of them.",
                    "offset",
                )
            }
            LogicalPlan::Aggregate(aggregate)
                if matches!(&aggregate.group_expr[..], [Expr::GroupingSet(_)])
                    && refers_out(&aggregate.input) =>
            {
                refuse("GROUPING SETS", "Group outside, or by one set of columns.", "group")
            }
            LogicalPlan::Join(join) => {
                let own = || join.filter.iter().chain(join.on.iter().flat_map(|(left, right)| [left, right]));
                let is_outer = join.join_type != JoinType::Inner;
                let may_be_absent = match join.join_type {
                    JoinType::Left => refers_out(&join.right),
                    JoinType::Right => refers_out(&join.left),
                    JoinType::Full => refers_out(&join.left) || refers_out(&join.right),
                    _ => false,
                };
                match is_outer && (may_be_absent || own().any(has_outer_reference)) {
                    true => refuse(
                        "an outer join whose condition, or side that may be absent, does so",
                        "Refer to the outside in WHERE, for the side that is always there.",
                        "join",
                    ),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        };
        if outcome.is_err() {
            return Ok(TreeNodeRecursion::Stop);
        }
        let mut predicates: Vec<Expr> = Vec::new();
        match node {
            LogicalPlan::Filter(filter) => predicates.push(filter.predicate.clone()),
            LogicalPlan::Join(join) => predicates.extend(join.filter.clone()),
            _ => (),
        }
        for predicate in predicates.iter().flat_map(datafusion::logical_expr::utils::split_conjunction) {
            if has_outer_reference(predicate) {
                compared.extend(predicate.column_refs().into_iter().cloned());
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    outcome?;
    // Of two columns of one name, one would be taken for the other.
    let is_mistaken = |column: &Column| {
        compared.iter().any(|other| other.name == column.name && other.relation != column.relation)
    };
    match compared.iter().find(|column| is_mistaken(column)) {
        Some(column) => {
            let what = format!("a condition on columns of two relations, both called \"{}\",", column.name);
            let hint = format!(
                "Compare one of them with the outside, and the other with that one: AND x.{name} = y.{name}.",
                name = column.name
            );
            refuse(&what, &hint, &column.name)
        }
        None => Ok(()),
    }
}

fn refers_out(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= has_outer_reference(expr);
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    walked.is_err() || found
}

fn has_outer_reference(expr: &Expr) -> bool {
    datafusion::common::tree_node::TreeNode::exists(expr, |expr| {
        Ok(matches!(expr, Expr::OuterReferenceColumn(..)))
    })
    .unwrap_or(true)
}
