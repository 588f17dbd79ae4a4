//! Columns of rewritten plans: what an operator reads, and the weight behind it.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, TableReference};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, Projection, SortExpr};
use tidemill_core::WEIGHT;
use tidemill_plan::{IncrementalNode, Operator, OrderColumn};

use super::Result;

/// The columns that an operator needs, each computed once.
pub(super) struct Columns {
    exprs: Vec<Expr>,
}

impl Columns {
    pub(super) fn new(exprs: &[Expr]) -> Columns {
        Columns { exprs: exprs.to_vec() }
    }

    pub(super) fn all(schema: &DFSchema) -> Columns {
        Columns { exprs: schema.iter().map(|field| Expr::Column(Column::from(field))).collect() }
    }

    /// The position of an expression's value; it is added if it is new.
    pub(super) fn of(&mut self, expr: &Expr) -> usize {
        let expr = expr.clone().unalias();
        if let Some(idx) = self.exprs.iter().position(|known| known.clone().unalias() == expr) {
            return idx;
        }
        self.exprs.push(expr);
        self.exprs.len() - 1
    }

    pub(super) fn order_by(&mut self, order: &[SortExpr]) -> Vec<OrderColumn> {
        let order_column = |sort: &SortExpr| OrderColumn {
            column: self.of(&sort.expr),
            descending: !sort.asc,
            nulls_first: sort.nulls_first,
        };
        order.iter().map(order_column).collect()
    }

    /// A projection of `input`, a rewritten plan, to these columns and the weight.
    pub(super) fn project(self, input: LogicalPlan) -> Result<LogicalPlan> {
        let weight = weight_of(&input);
        let is_identity = self.exprs.len() + 1 == input.schema().fields().len()
            && self.exprs.iter().enumerate().all(|(idx, expr)| match expr {
                Expr::Column(column) => input.schema().maybe_index_of_column(column) == Some(idx),
                _ => false,
            });
        if is_identity {
            return Ok(input);
        }
        let mut exprs: Vec<Expr> = self
            .exprs
            .into_iter()
            .enumerate()
            .map(|(idx, expr)| match expr {
                Expr::Column(_) => expr,
                // Two computed columns may well print alike; their positions tell them apart.
                Expr::Alias(alias) => alias.expr.alias(format!("{}#{idx}", alias.name)),
                other => {
                    let name = other.schema_name().to_string();
                    other.alias(format!("{name}#{idx}"))
                }
            })
            .collect();
        exprs.push(weight);
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
    }
}

/// A node that passes the first `n_columns` of its input on. Positions say which they are.
pub(super) fn incremental(
    operator: Operator,
    input: LogicalPlan,
    schema: DFSchemaRef,
    n_columns: usize,
) -> Result<LogicalPlan> {
    assert!(schema.fields().len() > n_columns, "a node adds columns, never drops them");
    let node = IncrementalNode { operator, inputs: vec![input], schema };
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

pub(super) fn column_of(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}

/// The weight column of a rewritten plan.
pub(super) fn weight_of(plan: &LogicalPlan) -> Expr {
    let schema = plan.schema();
    let last = schema.fields().len() - 1;
    assert_eq!(schema.field(last).name(), WEIGHT, "the last column of a rewritten plan is its weight");
    Expr::Column(Column::from(schema.qualified_field(last)))
}

/// `schema` with the weight behind it.
pub(super) fn with_weight(schema: &DFSchema) -> Result<DFSchemaRef> {
    let mut fields: Vec<(Option<TableReference>, FieldRef)> =
        schema.iter().map(|(qualifier, field)| (qualifier.cloned(), field.clone())).collect();
    fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
    Ok(Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?))
}

/// A projection of a rewritten plan to some of its columns and the weight.
pub(super) fn project(plan: LogicalPlan, choose: impl Fn(&[Expr]) -> Vec<Expr>) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mut exprs = choose(&columns[..columns.len() - 1]);
    exprs.push(weight_of(&plan));
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}
