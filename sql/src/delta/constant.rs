//! Constants: `VALUES`, a SELECT without FROM, `generate_series` over literals.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, Projection, lit};
use tidemill_core::WEIGHT;
use tidemill_plan::{IncrementalNode, Operator, Properties};

use super::columns::with_weight;
use super::{Node, Result};

/// A plan that reads no relation: its rows are there from the start, and stay.
pub(super) fn constant(plan: &LogicalPlan) -> Result<Node> {
    let mut exprs: Vec<Expr> = plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let n_columns = exprs.len();
    exprs.push(lit(1i64).alias(WEIGHT));
    let rows = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan.clone()))?);
    let has_single_row = match plan {
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Values(values) => values.values.len() <= 1,
        _ => false,
    };
    let properties = Properties {
        is_append_only: true,
        unique_keys: if has_single_row { vec![Vec::new()] } else { Vec::new() },
        closes: vec![Vec::new(); n_columns],
    };
    let node =
        IncrementalNode { operator: Operator::Once, inputs: vec![rows], schema: with_weight(plan.schema())? };
    Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
}
