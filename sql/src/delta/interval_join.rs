//! Joins of rows that are near each other in time: what their condition says about how near.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, JoinType, Operator as BinaryOperator};
use tidemill_plan::{CloseSource, Properties, Trim, TrimSide};

use super::properties::literal_micros;

/// right - left, in microseconds, is within these bounds; both inclusive.
#[derive(Debug, Clone, Copy, Default)]
struct Distance {
    low: Option<i64>,
    high: Option<i64>,
}

/// When rows of each side of an inner join can go. `schema` is that of the pairs; `on` are columns that
/// are equal.
///
/// Both sides only ever insert: the retraction of a row may come at any time, and has to find what it joined.
pub(super) fn trim(
    join_type: JoinType,
    filter: Option<&Expr>,
    schema: &DFSchema,
    on: &[(usize, usize)],
    left: &Properties,
    right: &Properties,
) -> Option<Trim> {
    let n_left = left.closes.len();
    if join_type != JoinType::Inner || !left.is_append_only || !right.is_append_only {
        return None;
    }
    for left_time in 0..n_left {
        for right_time in 0..right.closes.len() {
            let (own, other) = (&left.closes[left_time], &right.closes[right_time]);
            if own.is_empty() || other.is_empty() {
                continue;
            }
            let is_key = on.contains(&(left_time, right_time));
            let distance = match (is_key, filter) {
                (true, _) => Distance { low: Some(0), high: Some(0) },
                (false, Some(filter)) => distance(filter, schema, left_time, n_left + right_time),
                (false, None) => Distance::default(),
            };
            let (Some(low), Some(high)) = (distance.low, distance.high) else { continue };
            let left =
                // One more, for what is finer than a microsecond.
                TrimSide { time: left_time, own: own.clone(), other: other.clone(), reach: high + 1 };
            let right = TrimSide { time: right_time, own: other.clone(), other: own.clone(), reach: 1 - low };
            return Some(Trim { left, right });
        }
    }
    None
}

/// When values of the pairs' columns are complete.
///
/// A row comes into the result with the later one of its pair. A left row of value v has a time of at most
/// v + shift, and what it joins is within reach of that, so it is the right side's watermark that decides
/// as well.
pub(super) fn closes(trim: &Trim, left: &Properties, right: &Properties) -> Vec<Vec<CloseSource>> {
    [side_closes(left, &trim.left), side_closes(right, &trim.right)].concat()
}

/// When values of one side's columns are complete in the pairs.
pub(super) fn side_closes(own: &Properties, side: &TrimSide) -> Vec<Vec<CloseSource>> {
    let of_column = |sources: &Vec<CloseSource>| -> Vec<CloseSource> {
        let behind = |source: &CloseSource| {
            let time = side.own.iter().find(|time| time.relation == source.relation)?;
            Some(source.delay - time.delay)
        };
        let shifts: Option<Vec<i64>> = sources.iter().map(behind).collect();
        let is_same = sources.len() == side.own.len();
        let Some(shift) = shifts.filter(|_| is_same).and_then(|shifts| shifts.into_iter().max()) else {
            return Vec::new();
        };
        let other = side
            .other
            .iter()
            .map(|other| CloseSource { relation: other.relation, delay: other.delay + shift + side.reach });
        sources.iter().copied().chain(other).collect()
    };
    own.closes.iter().map(of_column).collect()
}

fn distance(filter: &Expr, schema: &DFSchema, left: usize, right: usize) -> Distance {
    let mut distance = Distance::default();
    let mut compare = |a: &Expr, op: BinaryOperator, b: &Expr| {
        let (Some((a, a_shift)), Some((b, b_shift))) = (shifted(a, schema), shifted(b, schema)) else {
            return;
        };
        // a + a_shift op b + b_shift
        let (op, shift) = match (a == right && b == left, a == left && b == right) {
            (true, _) => (op, b_shift - a_shift),
            (_, true) => match op.swap() {
                Some(op) => (op, a_shift - b_shift),
                None => return,
            },
            _ => return,
        };
        // right op left + shift
        if matches!(op, BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Eq) {
            distance.high = Some(distance.high.map_or(shift, |high| high.min(shift)));
        }
        if matches!(op, BinaryOperator::Gt | BinaryOperator::GtEq | BinaryOperator::Eq) {
            distance.low = Some(distance.low.map_or(shift, |low| low.max(shift)));
        }
    };
    for conjunct in split_conjunction(filter) {
        match conjunct {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => compare(left, *op, right),
            Expr::Between(Between { expr, negated: false, low, high }) => {
                compare(expr, BinaryOperator::GtEq, low);
                compare(expr, BinaryOperator::LtEq, high);
            }
            _ => (),
        }
    }
    distance
}

/// A column plus a constant length of time.
fn shifted(expr: &Expr, schema: &DFSchema) -> Option<(usize, i64)> {
    match expr {
        Expr::Column(column) => Some((schema.maybe_index_of_column(column)?, 0)),
        Expr::Cast(cast)
            if matches!(
                cast.field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
            ) =>
        {
            shifted(&cast.expr, schema)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, shift) = shifted(left, schema)?;
            let interval = literal_micros(right)?;
            match op {
                BinaryOperator::Plus => Some((column, shift + interval)),
                BinaryOperator::Minus => Some((column, shift - interval)),
                _ => None,
            }
        }
        _ => None,
    }
}
