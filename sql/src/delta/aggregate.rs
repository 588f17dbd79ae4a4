//! GROUP BY and its aggregate functions.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::{AggregateFunction as AggregateFunctionExpr, NullTreatment};
use datafusion::logical_expr::{Aggregate as AggregatePlan, Expr, ExprSchemable, Extension, LogicalPlan};
use tidemill_plan::{
    Aggregate, AggregateCall, AggregateFunction, Close, CloseSource, IncrementalNode, Operator,
    OtherAggregate, Properties,
};

use super::columns::{Columns, with_weight};
use super::expire::expiring;
use super::properties::closes_of;
use super::{Node, Result, Rewriter, internal};
use crate::functions::with_one_zero;

impl Rewriter {
    pub(super) fn aggregate(&mut self, aggregate: &AggregatePlan) -> Result<Node> {
        if let [Expr::GroupingSet(sets)] = &aggregate.group_expr[..] {
            return self.grouping_sets(aggregate, sets);
        }
        let input = self.rewrite(&aggregate.input, None)?;
        let groups =
            aggregate.group_expr.iter().map(|group| with_one_zero(group.clone(), aggregate.input.schema()));
        let mut columns = Columns::new(&groups.collect::<datafusion::common::Result<Vec<_>>>()?);
        let n_groups = aggregate.group_expr.len();
        let mut calls = Vec::new();
        for (idx, expr) in aggregate.aggr_expr.iter().enumerate() {
            let return_type = aggregate.schema.field(n_groups + idx).data_type().clone();
            calls.push(call(expr, return_type, aggregate.input.schema(), &mut columns)?);
        }
        let input_schema = aggregate.input.schema();
        let group_closes: Vec<Vec<CloseSource>> = aggregate
            .group_expr
            .iter()
            .map(|expr| closes_of(expr, input_schema, &input.properties))
            .collect();
        let projected = columns.project(input.plan)?;
        let close = self.close(&group_closes);
        let is_early = close.is_some() && !self.upkeep.emit.waits_for_close();
        let ttl = self.ttl_of(&aggregate.input, &projected)?.filter(|_| close.is_none());
        let mut closes = group_closes;
        closes.resize(n_groups + calls.len(), Vec::new());
        let is_distinct = calls.is_empty() && close.is_none() && n_groups > 0;
        // Of rows that are never taken back, a group's state says all that is needed to forget it.
        let group_ttl = ttl.filter(|_| input.properties.is_append_only && n_groups > 0 && !is_distinct);
        let row_ttl = ttl.filter(|_| group_ttl.is_none());
        let keys: Vec<usize> = (0..n_groups).collect();
        let projected = Self::expire(projected, row_ttl, &keys);
        let is_append_only = input.properties.is_append_only && row_ttl.is_none();
        let properties = Properties {
            is_append_only: (close.is_some() && !is_early) || (is_distinct && is_append_only),
            unique_keys: vec![keys],
            closes,
        };
        let properties = expiring(properties, ttl);
        let operator = if is_distinct {
            Operator::Distinct
        } else {
            Operator::Aggregate(Aggregate {
                n_groups,
                calls,
                is_append_only,
                close,
                is_early,
                ttl: group_ttl,
            })
        };
        let node =
            IncrementalNode { operator, inputs: vec![projected], schema: with_weight(&aggregate.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }

    /// Which group column decides when a group is complete, if complete groups are forgotten.
    fn close(&mut self, group_closes: &[Vec<CloseSource>]) -> Option<Close> {
        if !self.upkeep.emit.forgets_closed() {
            return None;
        }
        let (column, sources) = group_closes.iter().enumerate().find(|(_, sources)| !sources.is_empty())?;
        self.n_closed += 1;
        Some(Close { column, sources: sources.clone() })
    }
}

fn call(
    expr: &Expr,
    return_type: DataType,
    input: &DFSchema,
    columns: &mut Columns,
) -> Result<AggregateCall> {
    let display = expr.schema_name().to_string();
    let expr = expr.clone().unalias();
    let Expr::AggregateFunction(AggregateFunctionExpr { func, params }) = expr else {
        return Err(internal("an aggregate expression is an aggregate function"));
    };
    let constant = |expr: &Expr| match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    };
    let arg_type = params.args.first().map(|arg| arg.get_type(input)).transpose()?;
    let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let function = match (func.name(), &arg_type) {
        ("count", _) if params.args.len() <= 1 => AggregateFunction::Count,
        (
            "sum",
            Some(DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Decimal128(_, _)),
        ) => AggregateFunction::Sum,
        ("avg", Some(DataType::Float64)) => AggregateFunction::Avg,
        ("min", Some(_)) => AggregateFunction::Min,
        ("max", Some(_)) => AggregateFunction::Max,
        ("first_value" | "last_value", Some(_)) if !params.order_by.is_empty() => AggregateFunction::First,
        _ => AggregateFunction::Other(OtherAggregate {
            udf: func.clone(),
            constants: params
                .args
                .iter()
                .enumerate()
                .filter_map(|(idx, arg)| constant(arg).map(|value| (idx, value)))
                .collect(),
        }),
    };
    let is_other = matches!(function, AggregateFunction::Other(_));
    let counts_rows = function == AggregateFunction::Count
        && !params.distinct
        && params.args.iter().all(|arg| constant(arg).is_some_and(|value| !value.is_null()));
    let args = if counts_rows {
        Vec::new()
    } else {
        params
            .args
            .iter()
            .filter(|arg| !is_other || constant(arg).is_none())
            .map(|arg| columns.of(arg))
            .collect()
    };
    let mut order_by = match function {
        AggregateFunction::First | AggregateFunction::Other(_) => columns.order_by(&params.order_by),
        // The same in any order.
        _ => Vec::new(),
    };
    if func.name() == "last_value" && function == AggregateFunction::First {
        for order in &mut order_by {
            order.descending = !order.descending;
            order.nulls_first = !order.nulls_first;
        }
    }
    Ok(AggregateCall {
        function,
        args,
        filter: params.filter.as_ref().map(|filter| columns.of(filter)),
        distinct: params.distinct,
        order_by,
        ignore_nulls,
        return_type,
        display,
    })
}
