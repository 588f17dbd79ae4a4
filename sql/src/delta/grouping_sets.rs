//! `GROUPING SETS`, `ROLLUP` and `CUBE`, as an aggregate over more rows.
//!
//! ```text
//! GROUP BY ROLLUP (a, b)  ─▶  each row once per set: (a, b, 0), (a, NULL, 1)   grouped by all three
//!                             UNION ALL  the aggregate of all rows, (NULL, NULL, 3)
//! ```
//!
//! The empty set is an aggregate of its own: it has a row even where there are none.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::GroupingSet;
use datafusion::logical_expr::{
    Aggregate as AggregatePlan, Expr, LogicalPlan, LogicalPlanBuilder, Projection, Union, lit, when,
};

use super::{Node, Result, Rewriter};

/// The column that says which set a row is for.
const SET: &str = "__set";

impl Rewriter {
    pub(super) fn grouping_sets(&mut self, aggregate: &AggregatePlan, sets: &GroupingSet) -> Result<Node> {
        let exprs: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
        let all = masks(sets, &exprs);
        let id_type = aggregate.schema.field(exprs.len()).data_type().clone();
        let (empty, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|set| set.is_null.iter().all(|is_null| *is_null));
        let mut plans = Vec::new();
        if !others.is_empty() {
            plans.push(Arc::new(expanded(aggregate, &exprs, &others, &id_type)?));
        }
        for set in empty {
            plans.push(Arc::new(total(aggregate, exprs.len(), &id(&set, &id_type)?)?));
        }
        match &plans[..] {
            [plan] => self.rewrite(plan, None),
            _ => self.rewrite(
                &LogicalPlan::Union(Union { inputs: plans, schema: aggregate.schema.clone() }),
                None,
            ),
        }
    }
}

/// One of the sets.
struct Set {
    /// For each grouping expression, whether the set is without it.
    is_null: Vec<bool>,
    /// How many sets before are the same.
    ordinal: u64,
}

fn masks(sets: &GroupingSet, exprs: &[Expr]) -> Vec<Set> {
    let n = exprs.len();
    let masks: Vec<Vec<bool>> = match sets {
        GroupingSet::Rollup(_) => (0..=n).map(|kept| (0..n).map(|idx| idx >= kept).collect()).collect(),
        GroupingSet::Cube(_) => {
            (0..1u64 << n).map(|bits| (0..n).map(|idx| (bits >> idx) & 1 == 1).collect()).collect()
        }
        GroupingSet::GroupingSets(sets) => {
            sets.iter().map(|set| exprs.iter().map(|expr| !set.contains(expr)).collect()).collect()
        }
    };
    let mut n_same: HashMap<Vec<bool>, u64> = HashMap::new();
    masks
        .into_iter()
        .map(|is_null| {
            let n = n_same.entry(is_null.clone()).or_default();
            *n += 1;
            Set { is_null, ordinal: *n - 1 }
        })
        .collect()
}

/// The set's number as DataFusion has it in `__grouping_id`: a bit per column that is left out, the last column's
/// being the lowest; above them the ordinal.
fn id(set: &Set, id_type: &DataType) -> Result<ScalarValue> {
    let bits = set.is_null.iter().fold(0u64, |bits, is_null| (bits << 1) | u64::from(*is_null));
    Ok(ScalarValue::UInt64(Some(bits | (set.ordinal << set.is_null.len()))).cast_to(id_type)?)
}

/// All sets but empty ones.
fn expanded(
    aggregate: &AggregatePlan,
    exprs: &[Expr],
    sets: &[Set],
    id_type: &DataType,
) -> Result<LogicalPlan> {
    let ids = sets.iter().map(|set| id(set, id_type)).collect::<Result<Vec<_>>>()?;
    let list = ScalarValue::List(ScalarValue::new_list_nullable(&ids, id_type));
    let mut columns: Vec<Column> =
        aggregate.aggr_expr.iter().flat_map(|call| call.column_refs()).cloned().collect();
    columns.sort();
    columns.dedup();
    let named = |idx: usize| format!("__group_{idx}");
    let mut with_sets: Vec<Expr> = columns.iter().cloned().map(Expr::Column).collect();
    with_sets.extend(exprs.iter().enumerate().map(|(idx, expr)| expr.clone().unalias().alias(named(idx))));
    with_sets.push(lit(list).alias(SET));
    let copied = LogicalPlanBuilder::from(aggregate.input.as_ref().clone())
        .project(with_sets)?
        .unnest_column(Column::from_name(SET))?;
    let mut of_set: Vec<Expr> = columns.into_iter().map(Expr::Column).collect();
    let mut groups: Vec<Expr> = Vec::new();
    for idx in 0..exprs.len() {
        let column = Expr::Column(Column::from_name(named(idx)));
        let without: Vec<Expr> = sets
            .iter()
            .zip(&ids)
            .filter(|(set, _)| set.is_null[idx])
            .map(|(_, id)| lit(id.clone()))
            .collect();
        let name = format!("__key_{idx}");
        groups.push(Expr::Column(Column::from_name(&name)));
        of_set.push(match without.is_empty() {
            true => column.alias(name),
            false => {
                let null = ScalarValue::try_from(aggregate.schema.field(idx).data_type())?;
                let is_without = Expr::Column(Column::from_name(SET)).in_list(without, false);
                when(is_without, lit(null)).otherwise(column)?.alias(name)
            }
        });
    }
    of_set.push(Expr::Column(Column::from_name(SET)));
    groups.push(Expr::Column(Column::from_name(SET)));
    let grouped = LogicalPlan::Aggregate(AggregatePlan::try_new(
        Arc::new(copied.project(of_set)?.build()?),
        groups,
        aggregate.aggr_expr.clone(),
    )?);
    let columns = grouped.schema().columns().into_iter().map(Expr::Column).collect();
    under_names(aggregate, grouped, columns)
}

/// An empty set.
fn total(aggregate: &AggregatePlan, n_groups: usize, id: &ScalarValue) -> Result<LogicalPlan> {
    let total = match aggregate.aggr_expr.is_empty() {
        // One row of nothing, whatever there is.
        true => LogicalPlanBuilder::empty(true).build()?,
        false => LogicalPlan::Aggregate(AggregatePlan::try_new(
            aggregate.input.clone(),
            Vec::new(),
            aggregate.aggr_expr.clone(),
        )?),
    };
    let mut columns: Vec<Expr> = Vec::new();
    for idx in 0..n_groups {
        columns.push(lit(ScalarValue::try_from(aggregate.schema.field(idx).data_type())?));
    }
    columns.push(lit(id.clone()));
    columns.extend(total.schema().columns().into_iter().map(Expr::Column));
    under_names(aggregate, total, columns)
}

/// `columns` under the names that the aggregate's have.
fn under_names(aggregate: &AggregatePlan, input: LogicalPlan, columns: Vec<Expr>) -> Result<LogicalPlan> {
    let named = |(column, (qualifier, field)): (
        Expr,
        (Option<&datafusion::common::TableReference>, &datafusion::arrow::datatypes::FieldRef),
    )| { column.alias_qualified(qualifier.cloned(), field.name()) };
    let exprs = columns.into_iter().zip(aggregate.schema.iter()).map(named).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::col;

    use super::*;

    fn ids(sets: GroupingSet) -> Vec<u64> {
        let exprs: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
        let value = |set: &Set| match id(set, &DataType::UInt64).unwrap() {
            ScalarValue::UInt64(Some(id)) => id,
            other => panic!("{other} is not an id"),
        };
        masks(&sets, &exprs).iter().map(value).collect()
    }

    #[test]
    fn sets_are_numbered_by_what_they_leave_out() {
        let ab = || vec![col("a"), col("b")];
        assert_eq!(ids(GroupingSet::Rollup(ab())), [3, 1, 0]);
        let mut cube = ids(GroupingSet::Cube(ab()));
        cube.sort_unstable();
        assert_eq!(cube, [0, 1, 2, 3]);
        // The second time that a set is there has a number of its own.
        let sets = vec![vec![col("a")], vec![col("b"), col("a")], vec![col("a")], vec![]];
        assert_eq!(ids(GroupingSet::GroupingSets(sets)), [1, 0, 5, 3]);
    }
}
