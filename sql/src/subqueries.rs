//! Subqueries in expressions, where DataFusion's own rewrite gives another answer than SQL, or none.
//!
//! ```text
//! x NOT IN (S)         no row of S equals x, none is NULL, and S is empty if x is NULL
//! x IN (S), as value   CASE WHEN some row equals x THEN true
//!                           WHEN some row is NULL, or x is and S has rows THEN NULL ELSE false END
//! x = ANY (S)          x IN (S); x <> ALL (S) is x NOT IN (S)
//! x < ANY (S)          compares with max(S), x > ANY (S) with min(S), ALL the other way round
//! x IN (S), one row    x = (S), as for every comparison with ANY or ALL, where S is an aggregate without groups
//! EXISTS (S), one row   true
//! EXISTS (S)           count(*) > 0, where S does not depend on the row, and outside of WHERE
//! (S)                  an error if S has more than one row
//! ```
//!
//! The rewrite is one for SELECT and pipelines, so that both give the same answer. It comes before
//! DataFusion's optimizer, which makes joins of the rest.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, ExprSchema, Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, FetchType, LogicalPlan, LogicalPlanBuilder,
    Operator as BinaryOperator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery,
    Volatility, lit, not, when,
};
use tidemill_core::SqlState;

use crate::Error;

/// Rewrites the subqueries of all expressions of a plan.
pub(crate) fn lower_subqueries(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let has_any = node.expressions().iter().any(|expr| {
            expr.exists(|expr| {
                Ok(matches!(
                    expr,
                    Expr::InSubquery(_) | Expr::Exists(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_)
                ))
            })
            .unwrap_or(true)
        });
        if !has_any {
            return Ok(Transformed::no(node));
        }
        let mut outer = DFSchema::empty();
        for input in node.inputs() {
            outer.merge(input.schema());
        }
        let is_filter = matches!(node, LogicalPlan::Filter(_));
        let rewritten = node.map_expressions(|expr| {
            let name = expr.schema_name().to_string();
            let is_column_name = !is_filter && !matches!(expr, Expr::Alias(_) | Expr::Column(_));
            let expr = memberships(expr)?;
            let rewritten = if is_filter { condition(expr, &outer)? } else { value(expr, &outer, false)? };
            // The name of an output column is its expression, until it is rewritten.
            let rewritten = match is_column_name && rewritten.schema_name().to_string() != name {
                true => rewritten.alias(name),
                false => rewritten,
            };
            Ok(Transformed::yes(rewritten))
        })?;
        Ok(Transformed::yes(rewritten.data.recompute_schema()?))
    })
    .map(|transformed| transformed.data)
}

/// `= ANY` is IN, and `<> ALL` is NOT IN. Where there is one row for sure, whatever the outside is, nothing has to be asked of
/// many; as a join, the row would be missing where it is made of none.
fn memberships(expr: Expr) -> Result<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::Exists(exists) if is_one_row(&exists.subquery.subquery) => {
            Ok(Transformed::yes(lit(!exists.negated)))
        }
        Expr::InSubquery(InSubquery { expr, subquery, negated }) if is_one_row(&subquery.subquery) => {
            let op = if negated { BinaryOperator::NotEq } else { BinaryOperator::Eq };
            let row = Box::new(Expr::ScalarSubquery(subquery));
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(expr, op, row))))
        }
        Expr::SetComparison(SetComparison { expr, subquery, op, .. }) if is_one_row(&subquery.subquery) => {
            let row = Box::new(Expr::ScalarSubquery(subquery));
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(expr, op, row))))
        }
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op: BinaryOperator::Eq,
            quantifier: SetQuantifier::Any,
        }) => Ok(Transformed::yes(Expr::InSubquery(InSubquery { expr, subquery, negated: false }))),
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op: BinaryOperator::NotEq,
            quantifier: SetQuantifier::All,
        }) => Ok(Transformed::yes(Expr::InSubquery(InSubquery { expr, subquery, negated: true }))),
        other => Ok(Transformed::no(other)),
    })
    .map(|transformed| transformed.data)
}

/// An expression of which only matters whether it is true.
fn condition(expr: Expr, outer: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right }) => {
            let left = condition(*left, outer)?;
            let right = condition(*right, outer)?;
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(in_subquery) => {
                let negated = !in_subquery.negated;
                condition(Expr::InSubquery(InSubquery { negated, ..in_subquery }), outer)
            }
            Expr::Exists(exists) => {
                condition(Expr::Exists(Exists { negated: !exists.negated, ..exists }), outer)
            }
            other => Ok(not(value(other, outer, true)?)),
        },
        // A row without an answer is left out like one whose answer is no.
        Expr::InSubquery(in_subquery) if !in_subquery.negated => {
            let expr = Box::new(value(*in_subquery.expr, outer, true)?);
            Ok(Expr::InSubquery(InSubquery { expr, ..in_subquery }))
        }
        Expr::InSubquery(in_subquery) => {
            let parts = Membership::of(in_subquery, outer, true)?;
            let mut all = not(parts.is_equal);
            if let Some(unknown) = parts.is_unknown {
                all = all.and(not(unknown));
            }
            Ok(all)
        }
        other => value(other, outer, true),
    }
}

/// An expression whose value matters, NULL included.
fn value(expr: Expr, outer: &DFSchema, is_filter: bool) -> Result<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::InSubquery(in_subquery) => {
            let is_negated = in_subquery.negated;
            let parts = Membership::of(in_subquery, outer, is_filter)?;
            let mut answer = when(parts.is_equal, lit(!is_negated));
            if let Some(unknown) = parts.is_unknown {
                answer = answer.when(unknown, lit(ScalarValue::Boolean(None)));
            }
            Ok(Transformed::yes(answer.otherwise(lit(is_negated))?))
        }
        Expr::SetComparison(comparison) => Ok(Transformed::yes(compared(comparison, outer, is_filter)?)),
        Expr::Exists(exists) => {
            let answer = has_rows(&exists.subquery, None, is_filter)?;
            Ok(Transformed::yes(if exists.negated { not(answer) } else { answer }))
        }
        Expr::ScalarSubquery(subquery) if !has_single_row(&subquery.subquery) => {
            Ok(Transformed::yes(only_row(subquery)?))
        }
        other => Ok(Transformed::no(other)),
    })
    .map(|transformed| transformed.data)
}

/// The two questions that `x IN (S)` consists of.
struct Membership {
    is_equal: Expr,
    /// Whether the answer is unknown, if no row is equal; `None` where there are no NULLs.
    is_unknown: Option<Expr>,
}

impl Membership {
    fn of(in_subquery: InSubquery, outer: &DFSchema, is_filter: bool) -> Result<Membership> {
        let InSubquery { expr, subquery, .. } = in_subquery;
        let x = value(*expr, outer, is_filter)?;
        let schema = subquery.subquery.schema();
        let y = Expr::Column(Column::from(schema.qualified_field(0)));
        let equal = y.clone().eq(outer_references(x.clone(), outer)?);
        let is_equal = has_rows(&subquery, Some(equal), is_filter)?;
        let mut is_unknown = None;
        if schema.field(0).is_nullable() {
            is_unknown = Some(has_rows(&subquery, Some(y.is_null()), is_filter)?);
        }
        if x.nullable(outer)? {
            let no_left = x.is_null().and(has_rows(&subquery, None, is_filter)?);
            is_unknown = Some(match is_unknown {
                Some(unknown) => unknown.or(no_left),
                None => no_left,
            });
        }
        Ok(Membership { is_equal, is_unknown })
    }
}

/// `x < ANY (S)`: x is below the greatest row. So the rows need not be compared one by one.
fn compared(comparison: SetComparison, outer: &DFSchema, is_filter: bool) -> Result<Expr> {
    let SetComparison { expr, subquery, op, quantifier } = comparison;
    let x = value(*expr, outer, is_filter)?;
    let y = Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)));
    let compare = |bound: Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(x.clone()), op, Box::new(bound)));
    let least = || extreme(&subquery, min(y.clone()));
    let greatest = || extreme(&subquery, max(y.clone()));
    let is_any = quantifier == SetQuantifier::Any;
    let decides = match (op, is_any) {
        (BinaryOperator::Lt | BinaryOperator::LtEq, true) => compare(greatest()?).is_true(),
        (BinaryOperator::Gt | BinaryOperator::GtEq, true) => compare(least()?).is_true(),
        (BinaryOperator::NotEq, true) => compare(least()?).is_true().or(compare(greatest()?).is_true()),
        (BinaryOperator::Lt | BinaryOperator::LtEq, false) => compare(least()?).is_false(),
        (BinaryOperator::Gt | BinaryOperator::GtEq, false) => compare(greatest()?).is_false(),
        (BinaryOperator::Eq, false) => compare(least()?).is_false().or(compare(greatest()?).is_false()),
        _ => {
            // Operators without an order; DataFusion compares row by row.
            let expr = Box::new(x);
            return Ok(Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }));
        }
    };
    let has_null = has_rows(&subquery, Some(y.clone().is_null()), is_filter)?;
    let no_left = x.clone().is_null().and(has_rows(&subquery, None, is_filter)?);
    when(decides, lit(is_any))
        .when(has_null.or(no_left), lit(ScalarValue::Boolean(None)))
        .otherwise(lit(!is_any))
}

/// An aggregate over the rows of a subquery.
fn extreme(subquery: &Subquery, aggregate: Expr) -> Result<Expr> {
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone())
        .aggregate(Vec::<Expr>::new(), vec![aggregate.alias("__extreme")])?
        .build()?;
    let outer_ref_columns = plan.all_out_ref_exprs();
    let spans = subquery.spans.clone();
    Ok(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans }))
}

/// Whether a subquery has rows that fulfil `filter`.
fn has_rows(subquery: &Subquery, filter: Option<Expr>, is_filter: bool) -> Result<Expr> {
    let mut builder = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    if let Some(filter) = filter {
        builder = builder.filter(filter)?;
    }
    let plan = builder.build()?;
    let outer_ref_columns = plan.all_out_ref_exprs();
    if is_filter && !outer_ref_columns.is_empty() {
        let subquery =
            Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: subquery.spans.clone() };
        return Ok(Expr::Exists(Exists { subquery, negated: false }));
    }
    // One row for all, or one for each row outside: a join with it needs no comparing of pairs.
    let plan = LogicalPlanBuilder::from(plan)
        .aggregate(Vec::<Expr>::new(), vec![count(lit(1i64)).alias("__n")])?
        .project(vec![Expr::Column(Column::from_name("__n")).gt(lit(0i64)).alias("__exists")])?
        .build()?;
    let outer_ref_columns = plan.all_out_ref_exprs();
    let subquery = Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: subquery.spans.clone() };
    Ok(Expr::ScalarSubquery(subquery))
}

/// The columns of an expression, as they are called in a subquery.
fn outer_references(expr: Expr, outer: &DFSchema) -> Result<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::Column(column) => {
            let field = outer.field_from_column(&column)?.clone();
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    })
    .map(|transformed| transformed.data)
}

/// Whether a plan cannot have more than one row.
fn has_single_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_single_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_single_row(&alias.input),
        LogicalPlan::Filter(filter) => has_single_row(&filter.input),
        LogicalPlan::Sort(sort) => sort.fetch.is_some_and(|n| n <= 1) || has_single_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Values(values) => values.values.len() <= 1,
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(n))) if n <= 1)
                || has_single_row(&limit.input)
        }
        _ => false,
    }
}

/// Whether a plan has one row, neither more nor less: an aggregate without groups.
fn is_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_one_row(&alias.input),
        LogicalPlan::Sort(sort) => sort.fetch.is_none() && is_one_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// The value of a subquery's only row. Whether it is the only one is asked outside, where the row that needs it is:
/// what no row asks for may have as many as it likes.
fn only_row(subquery: Subquery) -> Result<Expr> {
    let plan = subquery.subquery.as_ref().clone();
    let y = Expr::Column(Column::from(plan.schema().qualified_field(0)));
    let pair = datafusion::functions::core::expr_fn::named_struct(vec![
        lit("n"),
        Expr::Column(Column::from_name("__n")),
        lit("value"),
        Expr::Column(Column::from_name("__value")),
    ]);
    let plan = LogicalPlanBuilder::from(plan)
        .aggregate(Vec::<Expr>::new(), vec![count(lit(1i64)).alias("__n"), max(y).alias("__value")])?
        .project(vec![pair.alias("__row")])?
        .build()?;
    let outer_ref_columns = plan.all_out_ref_exprs();
    let row =
        Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: subquery.spans });
    Ok(ScalarUDF::new_from_impl(OnlyRow::new()).call(vec![row]))
}

/// `{n, value}` → the value; an error if n is more than one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OnlyRow {
    signature: Signature,
}

impl OnlyRow {
    fn new() -> OnlyRow {
        OnlyRow { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for OnlyRow {
    fn name(&self) -> &str {
        "__only_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args {
            [DataType::Struct(fields)] if fields.len() == 2 => Ok(fields[1].data_type().clone()),
            _ => exec_err!("__only_row takes what a subquery gives"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.args[0].to_array(args.number_rows)?;
        let rows = rows.as_struct();
        let n_rows = rows.column(0).as_primitive::<Int64Type>();
        if (0..rows.len()).any(|row| rows.is_valid(row) && n_rows.is_valid(row) && n_rows.value(row) > 1) {
            let error = Error::new(
                SqlState::CARDINALITY_VIOLATION,
                "more than one row returned by a subquery used as an expression",
            )
            .with_hint("Choose one: add an aggregate such as max(…), or a condition on a unique column.");
            return Err(DataFusionError::External(Box::new(error)));
        }
        let values = rows.column(1);
        Ok(ColumnarValue::Array(match rows.nulls() {
            None => values.clone(),
            Some(nulls) => {
                let absent = datafusion::arrow::array::BooleanArray::new(!nulls.inner(), None);
                datafusion::arrow::compute::nullif(values, &absent)?
            }
        }))
    }
}
