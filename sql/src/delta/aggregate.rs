//! GROUP BY and its aggregate functions.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::expr::{AggregateFunction as AggregateFunctionExpr, NullTreatment};
use datafusion::logical_expr::{Aggregate as AggregatePlan, Expr, Extension, LogicalPlan};
use tidemill_plan::{
    Aggregate, AggregateCall, AggregateFunction, Close, CloseSource, IncrementalNode, Operator, Properties,
};

use super::columns::{Columns, with_weight};
use super::properties::closes_of;
use super::{Node, Result, Rewriter, internal};
use crate::refusal::Refusal;

impl Rewriter {
    pub(super) fn aggregate(&mut self, aggregate: &AggregatePlan) -> Result<Node> {
        if let [Expr::GroupingSet(sets)] = &aggregate.group_expr[..] {
            return self.grouping_sets(aggregate, sets);
        }
        let input = self.rewrite(&aggregate.input, None)?;
        let mut columns = Columns::new(&aggregate.group_expr);
        let n_groups = aggregate.group_expr.len();
        let mut calls = Vec::new();
        for (idx, expr) in aggregate.aggr_expr.iter().enumerate() {
            let return_type = aggregate.schema.field(n_groups + idx).data_type().clone();
            calls.push(call(expr, return_type, &mut columns)?);
        }
        let input_schema = aggregate.input.schema();
        let group_closes: Vec<Vec<CloseSource>> = aggregate
            .group_expr
            .iter()
            .map(|expr| closes_of(expr, input_schema, &input.properties))
            .collect();
        let is_append_only = input.properties.is_append_only;
        let projected = columns.project(input.plan)?;
        let close = self.close(&group_closes);
        let mut closes = group_closes;
        closes.resize(n_groups + calls.len(), Vec::new());
        let is_distinct = calls.is_empty() && close.is_none() && n_groups > 0;
        let properties = Properties {
            is_append_only: close.is_some() || (is_distinct && is_append_only),
            unique_keys: vec![(0..n_groups).collect()],
            closes,
        };
        let operator = if is_distinct {
            Operator::Distinct
        } else {
            Operator::Aggregate(Aggregate { n_groups, calls, is_append_only, close })
        };
        let node =
            IncrementalNode { operator, inputs: vec![projected], schema: with_weight(&aggregate.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }

    /// Which group column decides when a group is complete, if the pipeline waits for that.
    fn close(&mut self, group_closes: &[Vec<CloseSource>]) -> Option<Close> {
        if !self.emit_on_window_close {
            return None;
        }
        let (column, sources) = group_closes.iter().enumerate().find(|(_, sources)| !sources.is_empty())?;
        self.n_closed += 1;
        Some(Close { column, sources: sources.clone() })
    }
}

fn call(expr: &Expr, return_type: DataType, columns: &mut Columns) -> Result<AggregateCall> {
    let display = expr.schema_name().to_string();
    let expr = expr.clone().unalias();
    let Expr::AggregateFunction(AggregateFunctionExpr { func, params }) = expr else {
        return Err(internal("an aggregate expression is an aggregate function"));
    };
    let is_constant = |expr: &Expr| matches!(expr, Expr::Literal(value, _) if !value.is_null());
    let function = match func.name() {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        _ => {
            return Err(Refusal::not_incremental(format!("the aggregate function {}()", func.name()))
                .near(func.name().to_string())
                .into());
        }
    };
    if !params.order_by.is_empty() {
        return Err(Refusal::not_incremental(format!("ORDER BY inside {}()", func.name()))
            .near(func.name().to_string())
            .into());
    }
    let counts_rows =
        function == AggregateFunction::Count && !params.distinct && params.args.iter().all(is_constant);
    let args = if counts_rows { Vec::new() } else { params.args.iter().map(|arg| columns.of(arg)).collect() };
    Ok(AggregateCall {
        function,
        args,
        filter: params.filter.as_ref().map(|filter| columns.of(filter)),
        distinct: params.distinct,
        order_by: Vec::new(),
        ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
        return_type,
        display,
    })
}
