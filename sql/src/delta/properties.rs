//! What holds for the rows of a node, derived from what holds for its inputs.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, JoinType, ScalarValue};
use datafusion::logical_expr::{Expr, Join as JoinPlan, Operator as BinaryOperator};
use tidemill_plan::{CloseSource, Properties};

pub(super) fn join_properties(
    join: &JoinPlan,
    left: &Properties,
    right: &Properties,
    left_keys: &[usize],
    right_keys: &[usize],
    is_append_only: bool,
) -> Properties {
    let n_left = join.left.schema().fields().len();
    let covers = |keys: &[usize], unique: &[usize]| unique.iter().all(|column| keys.contains(column));
    let left_has_one = left.unique_keys.iter().any(|unique| covers(left_keys, unique));
    let right_has_one = right.unique_keys.iter().any(|unique| covers(right_keys, unique));
    let shifted = |unique: &[usize]| unique.iter().map(|column| column + n_left).collect::<Vec<_>>();
    let unique_keys = match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.unique_keys.clone(),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right.unique_keys.clone(),
        join_type => {
            let pads_left = matches!(join_type, JoinType::Right | JoinType::Full);
            let pads_right = matches!(join_type, JoinType::Left | JoinType::Full);
            let mut unique_keys = Vec::new();
            if right_has_one && !pads_left {
                unique_keys.extend(left.unique_keys.clone());
            }
            if left_has_one && !pads_right {
                unique_keys.extend(right.unique_keys.iter().map(|unique| shifted(unique)));
            }
            for left_unique in &left.unique_keys {
                for right_unique in &right.unique_keys {
                    let mut both = left_unique.clone();
                    both.extend(shifted(right_unique));
                    unique_keys.push(both);
                }
            }
            unique_keys
        }
    };
    let n_output = join.schema.fields().len();
    let never = |properties: &Properties| vec![Vec::new(); properties.closes.len()];
    let mut closes = match join.join_type {
        JoinType::Inner => [left.closes.clone(), right.closes.clone()].concat(),
        JoinType::Left => [left.closes.clone(), never(right)].concat(),
        JoinType::Right => [never(left), right.closes.clone()].concat(),
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.closes.clone(),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right.closes.clone(),
        JoinType::Full => [never(left), never(right)].concat(),
    };
    closes.resize(n_output, Vec::new());
    Properties { is_append_only, unique_keys, closes }
}

/// The properties of a projection to `sources`, the input's columns where an output is just one.
pub(super) fn project_columns(properties: &Properties, sources: &[Option<usize>]) -> Properties {
    let unique_keys = properties
        .unique_keys
        .iter()
        .filter_map(|key| {
            key.iter().map(|column| sources.iter().position(|source| source == &Some(*column))).collect()
        })
        .collect();
    let closes = sources
        .iter()
        .map(|source| source.map_or_else(Vec::new, |source| properties.closes[source].clone()))
        .collect();
    Properties { is_append_only: properties.is_append_only, unique_keys, closes }
}

/// When the values of an expression over time columns are complete.
pub(super) fn closes_of(expr: &Expr, schema: &DFSchema, properties: &Properties) -> Vec<CloseSource> {
    let delayed = |sources: Vec<CloseSource>, delay: i64| -> Vec<CloseSource> {
        sources.into_iter().map(|source| CloseSource { delay: source.delay + delay, ..source }).collect()
    };
    match expr {
        Expr::Alias(alias) => closes_of(&alias.expr, schema, properties),
        Expr::Column(column) => match schema.maybe_index_of_column(column) {
            Some(idx) => properties.closes[idx].clone(),
            None => Vec::new(),
        },
        Expr::Cast(cast)
            if matches!(
                cast.field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
            ) =>
        {
            closes_of(&cast.expr, schema, properties)
        }
        // v = ts + i, so the last v that the times below a watermark can give is i later.
        Expr::BinaryExpr(binary) => {
            let Some(interval) = literal_micros(&binary.right) else { return Vec::new() };
            let sources = closes_of(&binary.left, schema, properties);
            match binary.op {
                BinaryOperator::Plus => delayed(sources, -interval),
                BinaryOperator::Minus => delayed(sources, interval),
                _ => Vec::new(),
            }
        }
        Expr::ScalarFunction(function) => match (function.name(), &function.args[..]) {
            // A window that starts at v holds times up to v + size, and no further.
            ("date_bin", [size, time]) => match literal_micros(size) {
                Some(size) => delayed(closes_of(time, schema, properties), size - 1),
                None => Vec::new(),
            },
            ("date_trunc", [unit, time]) => match literal_unit_micros(unit) {
                Some(size) => delayed(closes_of(time, schema, properties), size - 1),
                None => Vec::new(),
            },
            // Of a list, what holds for its elements.
            // A window that ends at v holds times below v.
            ("cumulate_ends", [_, _, time]) => delayed(closes_of(time, schema, properties), -1),
            ("hop_starts", [_, size, time]) => match literal_micros(size) {
                Some(size) => delayed(closes_of(time, schema, properties), size - 1),
                None => Vec::new(),
            },
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

pub(crate) fn literal_micros(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
            Some(i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1000)
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
            Some(i64::from(interval.days) * 86_400_000_000 + i64::from(interval.milliseconds) * 1000)
        }
        Expr::Literal(ScalarValue::DurationMicrosecond(Some(micros)), _) => Some(*micros),
        Expr::Literal(ScalarValue::DurationNanosecond(Some(nanos)), _) if nanos % 1000 == 0 => {
            Some(nanos / 1000)
        }
        _ => None,
    }
}

fn literal_unit_micros(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else { return None };
    match value.try_as_str()??.to_lowercase().as_str() {
        "second" => Some(1_000_000),
        "minute" => Some(60_000_000),
        "hour" => Some(3_600_000_000),
        "day" => Some(86_400_000_000),
        _ => None,
    }
}
