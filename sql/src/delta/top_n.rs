//! `ORDER BY … LIMIT`, and a bound on `row_number()` or `rank()`.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{
    Expr, FetchType, Limit, LogicalPlan, Operator as BinaryOperator, Projection, SkipType, Sort, SortExpr,
};
use tidemill_plan::{Operator, TopN};

use super::columns::{Columns, column_of, incremental, with_weight};
use super::expire::expiring;
use super::{Node, Result, Rewriter};
use crate::refusal::Refusal;

/// An upper bound on `row_number()` or `rank()`, found in a filter above its window node.
#[derive(Clone)]
pub(super) struct RankBound {
    /// The bounded column, in the schema of the node that is rewritten with it.
    pub column: usize,
    pub limit: usize,
}

impl Rewriter {
    pub(super) fn sort(&mut self, sort: &Sort) -> Result<Node> {
        match sort.fetch {
            Some(limit) => self.top_n(&sort.input, &sort.expr, 0, limit),
            // The order of a subquery's rows means nothing; at the top it has been refused before.
            None => self.rewrite(&sort.input, None),
        }
    }

    pub(super) fn limit(&mut self, limit: &Limit) -> Result<Node> {
        let SkipType::Literal(offset) = limit.get_skip_type()? else {
            return Err(Refusal::not_incremental("an OFFSET that is not a constant").near("offset").into());
        };
        let fetch = match limit.get_fetch_type()? {
            FetchType::Literal(Some(fetch)) => fetch,
            FetchType::Literal(None) => {
                return Err(Refusal::not_incremental("OFFSET without LIMIT").near("offset").into());
            }
            FetchType::UnsupportedExpr => {
                return Err(Refusal::not_incremental("a LIMIT that is not a constant").near("limit").into());
            }
        };
        // Projections may have come between the limit and its order.
        match limit.input.as_ref() {
            LogicalPlan::Sort(sort) => self.top_n(&sort.input, &sort.expr, offset, fetch),
            LogicalPlan::Projection(projection)
                if matches!(projection.input.as_ref(), LogicalPlan::Sort(_)) =>
            {
                let below = Limit {
                    skip: limit.skip.clone(),
                    fetch: limit.fetch.clone(),
                    input: projection.input.clone(),
                };
                let moved =
                    Projection::try_new(projection.expr.clone(), Arc::new(LogicalPlan::Limit(below)))?;
                self.projection(&moved, None)
            }
            _ => Err(Refusal::not_incremental("LIMIT without ORDER BY")
                .with_hint("Say which rows are the first: add ORDER BY.")
                .near("limit")
                .into()),
        }
    }

    fn top_n(
        &mut self,
        input: &LogicalPlan,
        order: &[SortExpr],
        offset: usize,
        limit: usize,
    ) -> Result<Node> {
        let node = self.rewrite(input, None)?;
        let n_columns = input.schema().fields().len();
        let mut columns = Columns::all(input.schema());
        let order_by = columns.order_by(order);
        let projected = columns.project(node.plan)?;
        let ttl = self.ttl_of(input, &projected)?;
        let projected = Self::expire_rows(projected, ttl);
        let mut properties = expiring(node.properties, ttl);
        let is_append_only = std::mem::take(&mut properties.is_append_only);
        if offset == 0 && limit <= 1 {
            properties.unique_keys.push(Vec::new());
        }
        // Rows may come in or leave when others do, whatever the values of theirs.
        properties.closes.fill(Vec::new());
        let operator = Operator::TopN(TopN {
            partition: Vec::new(),
            order_by,
            offset,
            limit,
            rank: false,
            with_ties: false,
            is_append_only,
        });
        let plan = incremental(operator, projected, with_weight(input.schema())?, n_columns)?;
        Ok(Node { plan, properties })
    }
}

/// The tightest `column <= n` among the conjuncts of a predicate.
pub(super) fn rank_bound(predicate: &Expr, schema: &DFSchema) -> Option<RankBound> {
    let Expr::BinaryExpr(binary) = predicate else { return None };
    if binary.op == BinaryOperator::And {
        return rank_bound(&binary.left, schema).or_else(|| rank_bound(&binary.right, schema));
    }
    let (column, op, literal) = match (column_of(&binary.left), column_of(&binary.right)) {
        (Some(column), None) => (column, binary.op, &binary.right),
        (None, Some(column)) => (column, binary.op.swap()?, &binary.left),
        _ => return None,
    };
    let Expr::Literal(value, _) = literal.as_ref() else { return None };
    let value = match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(Some(value)) => value,
        _ => return None,
    };
    let limit = match op {
        BinaryOperator::LtEq | BinaryOperator::Eq => value,
        BinaryOperator::Lt => value - 1,
        _ => return None,
    };
    let column = schema.maybe_index_of_column(column)?;
    Some(RankBound { column, limit: usize::try_from(limit).unwrap_or(0) })
}
