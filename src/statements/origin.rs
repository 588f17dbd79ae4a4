//! Which column of which relation a column of a result is.
//!
//! Clients are told so beside a column's type: by it drivers know whether it can be NULL, and which row to change. A column that
//! comes unchanged from a relation has an origin, through joins, filters and subqueries; what is computed has none.

use datafusion::common::TableReference;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan};
use tidemill_catalog::{Catalog, Kind, Oid};

use crate::names;
use crate::pg_catalog::system_relation;

/// A relation and the number of its column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub relation: Oid,
    pub column: i16,
}

/// The origin of each column of a plan's result.
pub fn origins(plan: &LogicalPlan, catalog: &Catalog, search_path: &[String]) -> Vec<Option<Origin>> {
    let of_column = |idx: usize| {
        let (relation, column) = trace(plan, idx)?;
        numbered(relation, column, catalog, search_path)
    };
    (0..plan.schema().fields().len()).map(of_column).collect()
}

/// The relation and the name of the column that a column of a plan is.
fn trace(plan: &LogicalPlan, idx: usize) -> Option<(&TableReference, &str)> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let mut expr = projection.expr.get(idx)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            let Expr::Column(column) = expr else { return None };
            trace(&projection.input, projection.input.schema().index_of_column(column).ok()?)
        }
        LogicalPlan::Filter(filter) => trace(&filter.input, idx),
        LogicalPlan::Sort(sort) => trace(&sort.input, idx),
        LogicalPlan::Limit(limit) => trace(&limit.input, idx),
        LogicalPlan::SubqueryAlias(alias) => trace(&alias.input, idx),
        LogicalPlan::Window(window) => {
            (idx < window.input.schema().fields().len()).then(|| trace(&window.input, idx))?
        }
        LogicalPlan::Join(join) => {
            let n_left = join.left.schema().fields().len();
            match join.join_type {
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full if idx >= n_left => {
                    trace(&join.right, idx - n_left)
                }
                JoinType::RightSemi | JoinType::RightAnti => trace(&join.right, idx),
                _ if idx < n_left => trace(&join.left, idx),
                _ => None,
            }
        }
        LogicalPlan::TableScan(scan) => {
            Some((&scan.table_name, scan.projected_schema.fields().get(idx)?.name().as_str()))
        }
        _ => None,
    }
}

fn numbered(
    relation: &TableReference,
    column: &str,
    catalog: &Catalog,
    search_path: &[String],
) -> Option<Origin> {
    let number = |idx: usize| i16::try_from(idx + 1).ok();
    if let Some((oid, columns)) = system_relation(relation.schema(), relation.table()) {
        let idx = columns.iter().position(|name| *name == column)?;
        return Some(Origin { relation: oid, column: number(idx)? });
    }
    let object = names::find(catalog, relation.schema(), relation.table(), search_path)?;
    if object.kind() == Kind::Sink {
        return None;
    }
    let idx = object.columns.iter().position(|known| known.name == column)?;
    Some(Origin { relation: object.oid, column: number(idx)? })
}
