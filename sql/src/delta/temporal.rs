//! `now()` in WHERE: comparisons with it say when a row is there.
//!
//! `now()` is the epoch's time. A conjunct such as `ts > now() - INTERVAL '1 hour'` is true of a row up to a
//! moment or from one on, and which moment that is depends on the row alone. So it becomes a column, and
//! an operator lets rows in and out as the epochs' time passes. Anywhere else `now()` would
//! change the whole result with every epoch, and is refused.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::expr::{Placeholder, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Between, BinaryExpr, Cast, Expr, ExprSchemable, Filter, JoinType, LogicalPlan,
    Operator as BinaryOperator, ScalarUDF, lit,
};
use tidemill_core::SqlState;
use tidemill_plan::{Operator, Temporal};

use super::columns::{Columns, incremental, with_weight};
use super::properties::literal_micros;
use super::{Node, Result, Rewriter};
use crate::functions::EpochBound;
use crate::refusal::Refusal;

/// The epoch's time in a plan, which no rule of the optimizer takes for a constant.
const EPOCH_TIME: &str = "$epoch_time";

const DAY: i64 = 86_400_000_000;

/// Functions of the moment, as DataFusion calls them.
const CLOCKS: &[&str] = &["now", "current_timestamp", "current_date", "today", "current_time"];

/// Puts the epoch's time in the place of `now()` and its relatives; says whether there are any.
pub(crate) fn mark_now(plan: LogicalPlan) -> std::result::Result<Transformed<LogicalPlan>, DataFusionError> {
    plan.transform_up_with_subqueries(|plan| {
        let names = NamePreserver::new(&plan);
        let marked = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|expr| {
                let Expr::ScalarFunction(function) = &expr else { return Ok(Transformed::no(expr)) };
                Ok(match function.name() {
                    "now" | "current_timestamp" => Transformed::yes(epoch_time(&expr)?),
                    "current_date" | "today" => Transformed::yes(Expr::Cast(Cast::new(
                        Box::new(placeholder(DataType::Timestamp(TimeUnit::Nanosecond, None))),
                        DataType::Date32,
                    ))),
                    _ => Transformed::no(expr),
                })
            })?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        if marked.transformed { marked.map_data(|plan| plan.recompute_schema()) } else { Ok(marked) }
    })
}

fn epoch_time(now: &Expr) -> std::result::Result<Expr, DataFusionError> {
    Ok(placeholder(now.get_type(&DFSchema::empty())?))
}

fn placeholder(data_type: DataType) -> Expr {
    let field = Arc::new(Field::new("now", data_type, false));
    Expr::Placeholder(Placeholder::new_with_field(EPOCH_TIME.into(), Some(field)))
}

fn is_time(expr: &Expr) -> bool {
    match expr {
        Expr::Placeholder(placeholder) => placeholder.id == EPOCH_TIME,
        Expr::ScalarFunction(function) => CLOCKS.contains(&function.name()),
        _ => false,
    }
}

pub(super) fn reads_time(expr: &Expr) -> std::result::Result<bool, DataFusionError> {
    let mut found = false;
    expr.apply(|expr| {
        found |= is_time(expr);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Refuses a node that reads the time where no operator looks for it.
pub(super) fn refuse_time(plan: &LogicalPlan) -> Result<()> {
    let is_looked_at = match plan {
        LogicalPlan::Filter(_) => true,
        LogicalPlan::Join(join) => join.join_type == JoinType::Inner,
        _ => false,
    };
    let exprs = match plan {
        LogicalPlan::Join(join) if is_looked_at => {
            join.on.iter().flat_map(|(left, right)| [left.clone(), right.clone()]).collect()
        }
        _ if is_looked_at => Vec::new(),
        other => other.expressions(),
    };
    for expr in exprs {
        if reads_time(&expr)? {
            return Err(misplaced("a pipeline can use now() only to compare a time with it in WHERE"));
        }
    }
    Ok(())
}

pub(super) fn misplaced(message: impl Into<String>) -> super::DeltaError {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: message.into(),
        hint: Some(
            "Write WHERE ts > now() - INTERVAL '1 hour', with any expression over the row on one side and now(), plus or \
             minus days and less, on the other; compute ages in the SELECT that reads the pipeline."
                .into(),
        ),
        near: Some("now".into()),
    }
    .into()
}

/// The part of a predicate that a row alone decides, and the times that bound a row's presence.
pub(super) struct Split {
    pub plain: Option<Expr>,
    /// The row is there from these times on, in microseconds.
    from: Vec<Expr>,
    /// The row is gone from these times on.
    until: Vec<Expr>,
}

impl Split {
    pub fn is_timeless(&self) -> bool {
        self.from.is_empty() && self.until.is_empty()
    }
}

/// Takes the comparisons with the time out of a predicate over `schema`.
pub(super) fn split(predicate: &Expr, schema: &DFSchema) -> Result<Split> {
    let mut plain = Vec::new();
    let mut split = Split { plain: None, from: Vec::new(), until: Vec::new() };
    for conjunct in split_conjunction(predicate) {
        if !reads_time(conjunct)? {
            plain.push(conjunct.clone());
            continue;
        }
        match conjunct {
            Expr::Between(Between { expr, negated: false, low, high }) => {
                split.compare(expr, BinaryOperator::GtEq, low, schema)?;
                split.compare(expr, BinaryOperator::LtEq, high, schema)?;
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => split.compare(left, *op, right, schema)?,
            Expr::Not(_) => return Err(not_a_comparison(conjunct)),
            other => return Err(not_a_comparison(other)),
        }
    }
    split.plain = conjunction(split.plain.take().into_iter().chain(plain));
    Ok(split)
}

fn not_a_comparison(expr: &Expr) -> super::DeltaError {
    let what = match expr {
        Expr::BinaryExpr(BinaryExpr { op: BinaryOperator::Or, .. }) => {
            return Refusal {
                sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                message: "a pipeline cannot maintain OR over a comparison with now()".into(),
                hint: Some(
                    "Write a UNION ALL of one SELECT for each side, the second with AND (the first's condition) IS NOT TRUE."
                        .into(),
                ),
                near: Some("or".into()),
            }
            .into();
        }
        Expr::BinaryExpr(BinaryExpr { op, .. }) => format!(" with {op}"),
        Expr::Between(_) => " with NOT BETWEEN".into(),
        _ => String::new(),
    };
    misplaced(format!(
        "a pipeline can compare with now() by <, <=, >, >= and BETWEEN, as a condition of its own in WHERE, but not{}",
        if what.is_empty() { " in this way".into() } else { what }
    ))
}

impl Split {
    fn compare(&mut self, left: &Expr, op: BinaryOperator, right: &Expr, schema: &DFSchema) -> Result<()> {
        if !reads_time(left)? && !reads_time(right)? {
            // One half of a BETWEEN.
            let plain =
                Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone())));
            self.plain = conjunction(self.plain.take().into_iter().chain([plain]));
            return Ok(());
        }
        let whole = || Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone())));
        let (moment, op, other) = match (reads_time(left)?, reads_time(right)?) {
            (true, false) => (left, op, right),
            (false, true) => match op.swap() {
                Some(op) => (right, op, left),
                None => return Err(not_a_comparison(&whole())),
            },
            _ => return Err(misplaced("a comparison has now() on both sides")),
        };
        let is_comparison = matches!(
            op,
            BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq
        );
        if !is_comparison {
            return Err(not_a_comparison(&whole()));
        }
        let Some(found) = solve(moment, op, other) else {
            return Err(misplaced(
                "a pipeline can compare with now() plus or minus a constant interval of days or less, or with date_trunc() \
                 of it to a week, day, hour, minute or second",
            ));
        };
        let (moment, op, other) = found;
        let other = without_cast(other, schema)?;
        if !matches!(other.get_type(schema)?, DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64)
        {
            return Err(misplaced("a pipeline can compare now() with a timestamp or a date"));
        }
        let is_strict = matches!(op, BinaryOperator::Gt | BinaryOperator::LtEq);
        let bound = Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::new(ScalarUDF::from(EpochBound::new())),
            vec![other, lit(is_strict), lit(moment.unit), lit(moment.before), lit(moment.after)],
        ));
        match op {
            BinaryOperator::Gt | BinaryOperator::GtEq => self.from.push(bound),
            _ => self.until.push(bound),
        }
        Ok(())
    }
}

/// trunc_unit(now + before) + after, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Moment {
    before: i64,
    unit: i64,
    after: i64,
}

/// `moment op other` with the time alone on the left.
fn solve(moment: &Expr, op: BinaryOperator, other: &Expr) -> Option<(Moment, BinaryOperator, Expr)> {
    if let Some(moment) = moment_of(moment) {
        return Some((moment, op, other.clone()));
    }
    // now() - t < i and t - now() > i, as now() < t + i and now() < t - i.
    let Expr::BinaryExpr(BinaryExpr { left, op: BinaryOperator::Minus, right }) = plain_length(moment) else {
        return None;
    };
    let length = literal_micros(plain_length(other))?;
    if let (Some(moment), Ok(false)) = (moment_of(left), reads_time(right)) {
        return Some((Moment { after: moment.after - length, ..moment }, op, right.as_ref().clone()));
    }
    if let (Ok(false), Some(moment)) = (reads_time(left), moment_of(right)) {
        return Some((Moment { after: moment.after + length, ..moment }, op.swap()?, left.as_ref().clone()));
    }
    None
}

/// A length of time without casts from one kind of length to another.
fn plain_length(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast)
            if matches!(cast.field.data_type(), DataType::Interval(_) | DataType::Duration(_)) =>
        {
            plain_length(&cast.expr)
        }
        other => other,
    }
}

fn moment_of(expr: &Expr) -> Option<Moment> {
    match expr {
        Expr::Placeholder(placeholder) if placeholder.id == EPOCH_TIME => {
            Some(Moment { before: 0, unit: 1, after: 0 })
        }
        Expr::Alias(alias) => moment_of(&alias.expr),
        Expr::Cast(cast) => match cast.field.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _) => moment_of(&cast.expr),
            DataType::Date32 => truncated(moment_of(&cast.expr)?, DAY, 0),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (moment, interval) = match (op, literal_micros(right), literal_micros(left)) {
                (BinaryOperator::Plus, Some(interval), _) => (moment_of(left)?, interval),
                (BinaryOperator::Minus, Some(interval), _) => (moment_of(left)?, -interval),
                (BinaryOperator::Plus, None, Some(interval)) => (moment_of(right)?, interval),
                _ => return None,
            };
            Some(Moment { after: moment.after + interval, ..moment })
        }
        Expr::ScalarFunction(function) if function.name() == "date_trunc" => {
            let [Expr::Literal(unit, _), time] = &function.args[..] else { return None };
            let (unit, origin) = match unit.try_as_str()??.to_lowercase().as_str() {
                "microsecond" => (1, 0),
                "millisecond" => (1000, 0),
                "second" => (1_000_000, 0),
                "minute" => (60_000_000, 0),
                "hour" => (3_600_000_000, 0),
                "day" => (DAY, 0),
                // 1970-01-01 was a Thursday, and weeks begin on Mondays.
                "week" => (7 * DAY, 3 * DAY),
                _ => return None,
            };
            truncated(moment_of(time)?, unit, origin)
        }
        _ => None,
    }
}

/// trunc_unit(moment + origin) - origin.
fn truncated(moment: Moment, unit: i64, origin: i64) -> Option<Moment> {
    match moment.unit {
        1 => Some(Moment { before: moment.before + moment.after + origin, unit, after: -origin }),
        // Of whole days, the day; nothing else is worth the trouble.
        known if known == unit && (moment.after + origin) % unit == 0 => Some(moment),
        _ => None,
    }
}

/// Without a cast that only says the same time more finely: it would fail on what nanoseconds cannot say.
fn without_cast(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let Expr::Cast(cast) = &expr else { return Ok(expr) };
    let DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, zone) = cast.field.data_type()
    else {
        return Ok(expr);
    };
    let is_same = match cast.expr.get_type(schema)? {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => false,
        DataType::Timestamp(_, inner) => inner == *zone,
        DataType::Date32 => zone.is_none(),
        _ => false,
    };
    if is_same { without_cast(cast.expr.as_ref().clone(), schema) } else { Ok(expr) }
}

impl Rewriter {
    /// A filter over `node`, the rewritten plan of rows of `schema`.
    pub(super) fn timed_filter(&mut self, node: Node, split: Split, schema: &DFSchema) -> Result<Node> {
        let mut plan = node.plan;
        if let Some(plain) = &split.plain {
            plan = LogicalPlan::Filter(Filter::try_new(plain.clone(), Arc::new(plan))?);
        }
        let n_columns = schema.fields().len();
        let mut columns = Columns::all(schema);
        let from: Vec<usize> = split.from.iter().map(|expr| columns.of(expr)).collect();
        let until: Vec<usize> = split.until.iter().map(|expr| columns.of(expr)).collect();
        let projected = columns.project(plan)?;
        let mut properties = node.properties;
        properties.is_append_only &= until.is_empty();
        // A row comes when its time has come, which no watermark knows of.
        properties.closes = vec![Vec::new(); n_columns];
        let operator = Operator::Temporal(Temporal { n_columns, from, until });
        let plan = incremental(operator, projected, with_weight(schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_moment_is_moved_and_cut_in_order() {
        let now = Moment { before: 0, unit: 1, after: 0 };
        let earlier = Moment { after: now.after - 5, ..now };
        let day = truncated(earlier, DAY, 0).unwrap();
        assert_eq!((day.before, day.unit, day.after), (-5, DAY, 0));
        assert!(truncated(Moment { after: 7, ..day }, DAY, 0).is_none());
        assert!(truncated(day, DAY, 0).is_some());
        assert!(truncated(day, 7 * DAY, 3 * DAY).is_none());
    }
}
