//! A timestamp plus an interval of days and less is a number plus a number.
//!
//! Arrow goes through a calendar date for each row, since an interval may have months; where it has none, and the timestamp no time
//! zone, a duration says the same.

use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

const NANOS_PER_MICRO: i64 = 1_000;
const MICROS_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// A plan in which durations are added in place of intervals.
pub(crate) fn with_durations(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.clone().transform_up(|node| {
        // What stands in nodes of our own has a meaning for them.
        if !matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Filter(_)) {
            return Ok(Transformed::no(node));
        }
        let [input] = node.inputs()[..] else { return Ok(Transformed::no(node)) };
        let schema = input.schema().clone();
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| added(expr, schema.as_ref()))?;
            Ok(rewritten.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(rewritten.data)
}

fn added(expr: Expr, schema: &dyn ExprSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) = &expr
    else {
        return Ok(Transformed::no(expr));
    };
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) = right.as_ref() else {
        return Ok(Transformed::no(expr));
    };
    let is_plain = left.get_type(schema)? == DataType::Timestamp(TimeUnit::Microsecond, None);
    match micros(interval).filter(|_| is_plain) {
        Some(micros) => {
            let duration = Expr::Literal(ScalarValue::DurationMicrosecond(Some(micros)), None);
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left.clone(), *op, Box::new(duration)))))
        }
        None => Ok(Transformed::no(expr)),
    }
}

/// The length of an interval, if it is always the same and of whole microseconds.
fn micros(interval: &IntervalMonthDayNano) -> Option<i64> {
    if interval.months != 0 || interval.nanoseconds % NANOS_PER_MICRO != 0 {
        return None;
    }
    i64::from(interval.days).checked_mul(MICROS_PER_DAY)?.checked_add(interval.nanoseconds / NANOS_PER_MICRO)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn a_duration_gives_what_the_interval_gives() {
        let context = SessionContext::new();
        let times = [Some(-1), None, Some(0), Some(1_709_164_800_000_000), Some(951_782_400_000_001)];
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        let rows = RecordBatch::try_from_iter([("at", times)]).unwrap();
        context.register_batch("t", rows).unwrap();
        for (interval, is_rewritten) in [
            ("10 seconds", true),
            ("1 day 3 hours", true),
            ("-36 hours", true),
            ("1 month", false),
            ("1 month 1 day", false),
            ("500 nanoseconds", false),
        ] {
            for op in ["+", "-"] {
                let sql = format!("SELECT at {op} INTERVAL '{interval}' AS then FROM t");
                let plan = context.sql(&sql).await.unwrap().into_optimized_plan().unwrap();
                let rewritten = with_durations(&plan).unwrap();
                assert_eq!(rewritten.to_string().contains("Duration"), is_rewritten, "{sql}: {rewritten}");
                assert_eq!(rewritten.schema(), plan.schema(), "{sql}");
                let rows =
                    async |plan| context.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
                assert_eq!(rows(rewritten).await, rows(plan).await, "{sql}");
            }
        }
    }
}
