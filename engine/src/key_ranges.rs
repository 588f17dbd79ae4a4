//! Where the bytes of values lie that a filter lets through.
//!
//! Columns are encoded so that bytes compare as values do, one column behind the other, and no value's bytes begin with
//! those of another. So what a comparison lets through of a column is a range of bytes, AND is what ranges have in common, OR is all of
//! them; and one value in the first column makes ranges of the second ranges of both.
//!
//! ```text
//! a IN (1, 3) AND b >= 5      [1·5, 1·∞)  [3·5, 3·∞)
//! ```
//!
//! What the ranges hold may be more than what the filter lets through, never less. NULL stands first, and is in no range
//! but that of `IS NULL`.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList, Like};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use tidemill_storage::{Snapshot, SortColumn};

use crate::Error;

/// With more ranges than this it is quicker to read what lies between.
const RANGES_MAX: usize = 1024;

/// Bytes from one string on and below another; without one, to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub from: Vec<u8>,
    pub to: Option<Vec<u8>>,
    /// Whether it holds one value of the columns that it is about: what stands behind them narrows it further.
    pub is_value: bool,
}

/// Ranges in ascending order that have nothing in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRanges(pub Vec<KeyRange>);

impl KeyRange {
    /// All that begins with some bytes, which are a value's.
    fn value(bytes: Vec<u8>) -> KeyRange {
        KeyRange { to: behind(&bytes), from: bytes, is_value: true }
    }

    /// Whether it ends before a row.
    pub fn is_below(&self, row: &[u8]) -> bool {
        self.to.as_ref().is_some_and(|to| to.as_slice() <= row)
    }

    fn is_empty(&self) -> bool {
        self.is_below(&self.from)
    }

    fn intersection(&self, other: &KeyRange) -> KeyRange {
        KeyRange {
            from: (&self.from).max(&other.from).clone(),
            to: [&self.to, &other.to].into_iter().flatten().min().cloned(),
            // Bounds are values, of which none lies within another.
            is_value: self.is_value || other.is_value,
        }
    }
}

/// The first bytes behind all that begin with `bytes`.
fn behind(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut behind = bytes[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

impl KeyRanges {
    /// Everything.
    pub fn all() -> KeyRanges {
        KeyRanges(vec![KeyRange { from: Vec::new(), to: None, is_value: true }])
    }

    fn of(mut ranges: Vec<KeyRange>) -> KeyRanges {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by(|a, b| a.from.cmp(&b.from));
        let mut merged: Vec<KeyRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *last == range => (),
                Some(last) if !last.is_below(&range.from) => {
                    last.to = match (last.to.take(), range.to) {
                        (Some(a), Some(b)) => Some(a.max(b)),
                        _ => None,
                    };
                    last.is_value = false;
                }
                _ => merged.push(range),
            }
        }
        KeyRanges(merged)
    }

    fn union(mut self, other: KeyRanges) -> KeyRanges {
        self.0.extend(other.0);
        KeyRanges::of(self.0)
    }

    pub fn intersection(&self, other: &KeyRanges) -> KeyRanges {
        let mut common = Vec::new();
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(one), Some(two)) = (a.peek(), b.peek()) {
            let both = one.intersection(two);
            if !both.is_empty() {
                common.push(both);
            }
            // Whichever ends first has nothing in common with what comes next.
            let is_first = match (&one.to, &two.to) {
                (Some(one), Some(two)) => one <= two,
                (to, _) => to.is_some(),
            };
            if is_first {
                a.next()
            } else {
                b.next()
            };
        }
        KeyRanges(common)
    }

    /// Narrows ranges of some columns by those of the next one; says whether the column behind may narrow them further.
    pub fn narrow(&mut self, next: &KeyRanges) -> bool {
        let hull;
        let next = match self.0.len() * next.0.len() > RANGES_MAX {
            true => {
                hull = next.hull();
                &hull
            }
            false => next,
        };
        let within = |prefix: &KeyRange, range: &KeyRange| KeyRange {
            from: [prefix.from.as_slice(), &range.from].concat(),
            to: match &range.to {
                Some(to) => Some([prefix.from.as_slice(), to].concat()),
                None => prefix.to.clone(),
            },
            is_value: range.is_value,
        };
        let ranges = self.0.iter().flat_map(|prefix| next.0.iter().map(move |range| within(prefix, range)));
        self.0 = ranges.collect();
        self.0.iter().all(|range| range.is_value)
    }

    /// From the first to the last.
    fn hull(&self) -> KeyRanges {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return self.clone() };
        KeyRanges(vec![KeyRange { from: first.from.clone(), to: last.to.clone(), is_value: false }])
    }

    /// How many rows of the runs are in them.
    pub fn n_rows(&self, rows: &Snapshot) -> usize {
        self.0.iter().map(|range| rows.n_rows_between(&range.from, range.to.as_deref())).sum()
    }
}

/// Where the values of a column lie in rows that pass a filter, if it says something about that.
pub(crate) fn values(filter: &Expr, column: &SortColumn) -> Result<Option<KeyRanges>> {
    if !is_looked_up(&column.data_type) {
        return Ok(None);
    }
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(it) if it.name == column.name);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            Ok(match (values(left, column)?, values(right, column)?) {
                (Some(left), Some(right)) => Some(left.intersection(&right)),
                (left, right) => left.or(right),
            })
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (left, right) = (values(left, column)?, values(right, column)?);
            Ok(left.zip(right).map(|(left, right)| left.union(right)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
            (left, Expr::Literal(value, _)) if is_column(left) => compared(column, *op, value),
            (Expr::Literal(value, _), right) if is_column(right) => {
                op.swap().map_or(Ok(None), |op| compared(column, op, value))
            }
            _ => Ok(None),
        },
        Expr::Between(Between { expr, negated: false, low, high }) if is_column(expr) => {
            let (Expr::Literal(low, _), Expr::Literal(high, _)) = (low.as_ref(), high.as_ref()) else {
                return Ok(None);
            };
            let (low, high) =
                (compared(column, Operator::GtEq, low)?, compared(column, Operator::LtEq, high)?);
            Ok(low.zip(high).map(|(low, high)| low.intersection(&high)))
        }
        Expr::InList(InList { expr, list, negated: false }) if is_column(expr) => {
            let literals = list.iter().map(|value| match value {
                Expr::Literal(value, _) => Some(value),
                _ => None,
            });
            let Some(literals) = literals.collect::<Option<Vec<_>>>() else { return Ok(None) };
            // NULL is equal to nothing.
            let wanted = literals.into_iter().filter(|value| !value.is_null());
            let wanted = wanted.map(|value| exact(value, &column.data_type)).collect::<Option<Vec<_>>>();
            let Some(wanted) = wanted else { return Ok(None) };
            let ranges = encoded(column, wanted)?.into_iter().map(KeyRange::value).collect();
            Ok(Some(KeyRanges::of(ranges)))
        }
        Expr::IsNull(expr) if is_column(expr) => Ok(Some(KeyRanges(vec![KeyRange::value(null(column)?)]))),
        Expr::Column(_) | Expr::IsTrue(_) | Expr::Not(_) | Expr::IsFalse(_) => {
            let (expr, wanted) = match filter {
                Expr::IsTrue(expr) => (expr.as_ref(), true),
                Expr::Not(expr) | Expr::IsFalse(expr) => (expr.as_ref(), false),
                other => (other, true),
            };
            match is_column(expr) && column.data_type == DataType::Boolean {
                true => compared(column, Operator::Eq, &ScalarValue::from(wanted)),
                false => Ok(None),
            }
        }
        Expr::Like(Like { negated: false, expr, pattern, case_insensitive: false, escape_char }) => {
            match pattern.as_ref() {
                Expr::Literal(pattern, _) if is_column(expr) => like(column, pattern, *escape_char),
                _ => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// Whether values of a type compare as their bytes do, so that they can be looked up. Floating-point numbers do not where they are zero or not a number, and
/// intervals do not where a month meets days.
pub fn is_looked_up(data_type: &DataType) -> bool {
    !(data_type.is_floating() || data_type.is_nested() || matches!(data_type, DataType::Interval(_)))
}

/// The value as one of `data_type`, if there is one that is equal.
fn exact(value: &ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    if value.is_null() || !is_looked_up(data_type) {
        return None;
    }
    let cast = value.cast_to(data_type).ok()?;
    (cast.cast_to(&value.data_type()).ok()? == *value).then_some(cast)
}

fn encoded(column: &SortColumn, values: Vec<ScalarValue>) -> Result<Vec<Vec<u8>>> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let values: ArrayRef = ScalarValue::iter_to_array(values)?;
    let rows = column.encode(&values).map_err(Error::from)?;
    Ok(rows.iter().map(|row| row.data().to_vec()).collect())
}

fn null(column: &SortColumn) -> Result<Vec<u8>> {
    let null = ScalarValue::try_new_null(&column.data_type)?;
    Ok(encoded(column, vec![null])?.remove(0))
}

fn compared(column: &SortColumn, op: Operator, value: &ScalarValue) -> Result<Option<KeyRanges>> {
    let Some(value) = exact(value, &column.data_type) else { return Ok(None) };
    let value = encoded(column, vec![value])?.remove(0);
    let range = |from: Option<Vec<u8>>, to: Option<Vec<u8>>| {
        KeyRanges::of(from.map(|from| KeyRange { from, to, is_value: false }).into_iter().collect())
    };
    let not_null = behind(&null(column)?);
    Ok(match op {
        Operator::Eq => Some(KeyRanges(vec![KeyRange::value(value)])),
        Operator::Lt => Some(range(not_null, Some(value))),
        Operator::LtEq => Some(range(not_null, behind(&value))),
        Operator::Gt => Some(range(behind(&value), None)),
        Operator::GtEq => Some(range(Some(value), None)),
        _ => None,
    })
}

/// What a pattern lets through begins with what stands in it before the first wildcard.
fn like(column: &SortColumn, pattern: &ScalarValue, escape: Option<char>) -> Result<Option<KeyRanges>> {
    let Some(Some(pattern)) = pattern.try_as_str() else { return Ok(None) };
    let is_special = |c: char| matches!(c, '%' | '_' | '\\') || Some(c) == escape;
    let start = pattern.split(is_special).next().unwrap_or_default();
    if start.is_empty() {
        return Ok(None);
    }
    let from = compared(column, Operator::GtEq, &ScalarValue::from(start))?;
    let to = match text_behind(start) {
        Some(to) => compared(column, Operator::Lt, &ScalarValue::from(to.as_str()))?,
        None => None,
    };
    Ok(match (from, to) {
        (Some(from), Some(to)) => Some(from.intersection(&to)),
        (from, _) => from,
    })
}

/// A text behind all that begin with `start`. Texts compare as their characters do.
fn text_behind(start: &str) -> Option<String> {
    let mut chars: Vec<char> = start.chars().collect();
    while let Some(last) = chars.pop() {
        // Between two numbers there are none that are characters.
        if let Some(next) = ((last as u32 + 1)..=char::MAX as u32).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, RecordBatch};
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use datafusion::common::DFSchema;
    use datafusion::execution::context::ExecutionProps;
    use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
    use datafusion::logical_expr::{col, lit};
    use datafusion::physical_expr::create_physical_expr;
    use proptest::prelude::*;

    use super::*;

    fn types() -> Vec<DataType> {
        vec![
            DataType::Int32,
            DataType::Int64,
            DataType::Utf8,
            DataType::Boolean,
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Decimal128(20, 3),
            DataType::Binary,
        ]
    }

    /// The n-th of some values of a type, of which the first is NULL. They are not in their order.
    fn value(data_type: &DataType, n: usize) -> ScalarValue {
        let numbers = [0, -1, 1, i64::from(i32::MAX), i64::from(i32::MIN), 255, 256];
        let texts = ["", "a", "ab", "a\u{0}", "b", "\u{d7ff}", "abcdefghijklmnopqrstuvwxyz", "a\u{10ffff}"];
        if n == 0 {
            return ScalarValue::try_new_null(data_type).unwrap();
        }
        let number = numbers[n % numbers.len()];
        match data_type {
            DataType::Utf8 => ScalarValue::from(texts[n % texts.len()]),
            DataType::Binary => ScalarValue::Binary(Some(texts[n % texts.len()].as_bytes().to_vec())),
            DataType::Boolean => ScalarValue::from(n.is_multiple_of(2)),
            DataType::Decimal128(precision, scale) => {
                ScalarValue::Decimal128(Some(number.into()), *precision, *scale)
            }
            DataType::Int32 | DataType::Date32 => {
                ScalarValue::from(number as i32).cast_to(data_type).unwrap()
            }
            other => ScalarValue::from(number).cast_to(other).unwrap(),
        }
    }

    /// Something that a query may demand of `c`, as the optimizer writes it.
    fn demand(data_type: DataType) -> impl Strategy<Value = Expr> {
        let ops = [Operator::Eq, Operator::NotEq, Operator::Lt, Operator::LtEq, Operator::Gt, Operator::GtEq];
        let literal = move |n: usize| lit(value(&data_type, n));
        let of = literal.clone();
        let compared = (prop::sample::select(ops.to_vec()), 1usize..9, any::<bool>()).prop_map(
            move |(op, n, is_left)| {
                let (left, right) = if is_left { (col("c"), of(n)) } else { (of(n), col("c")) };
                Expr::BinaryExpr(BinaryExpr { left: left.into(), op, right: right.into() })
            },
        );
        let of = literal.clone();
        let listed = (prop::collection::vec(0usize..9, 1..6), any::<bool>())
            .prop_map(move |(list, negated)| col("c").in_list(list.into_iter().map(&of).collect(), negated));
        let of = literal.clone();
        let between = (1usize..9, 1usize..9).prop_map(move |(low, high)| col("c").between(of(low), of(high)));
        let pattern =
            prop::sample::select(vec!["a%", "a_c", "%a", "ab", "\u{d7ff}%", "a\u{10ffff}%", "a\\%%"]);
        let is_text = literal(1).to_string().starts_with("Utf8");
        let like = pattern.prop_map(move |pattern| match is_text {
            true => col("c").like(lit(pattern)),
            false => col("c").is_not_null(),
        });
        let one = prop_oneof![compared, listed, between, like, Just(col("c").is_null())];
        one.prop_recursive(3, 8, 2, |inner| {
            (inner.clone(), inner, any::<bool>())
                .prop_map(|(a, b, is_and)| if is_and { a.and(b) } else { a.or(b) })
        })
    }

    fn typed_demand() -> impl Strategy<Value = (DataType, Expr)> {
        prop::sample::select(types()).prop_flat_map(|data_type| (Just(data_type.clone()), demand(data_type)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// What a filter lets through lies in its ranges, and they are in order and do not meet.
        #[test]
        fn nothing_that_a_filter_lets_through_is_missed((data_type, filter) in typed_demand()) {
            let field = Field::new("c", data_type.clone(), true);
            let column = SortColumn::ascending(&field);
            let schema = Schema::new(vec![field]);
            let all = ScalarValue::iter_to_array((0..9).map(|n| value(&data_type, n))).unwrap();
            let rows = RecordBatch::try_new(schema.clone().into(), vec![all.clone()]).unwrap();
            let of = DFSchema::try_from(schema).unwrap();
            let expr = create_physical_expr(
                &filter, &of, &ExecutionProps::new(), &PhysicalPlanningContext::default()).unwrap();
            let passes = expr.evaluate(&rows).unwrap().into_array(9).unwrap();
            let passes = passes.as_boolean();
            let Some(ranges) = values(&filter, &column).unwrap() else { return Ok(()) };
            for pair in ranges.0.windows(2) {
                prop_assert!(pair[0].is_below(&pair[1].from), "{ranges:?}");
            }
            let encoded = column.encode(&all).unwrap();
            let is_exact = !format!("{filter}").contains("LIKE") && !format!("{filter}").contains("!=")
                && !format!("{filter}").contains("NOT");
            for (row_idx, row) in encoded.iter().enumerate() {
                let is_in = ranges.0.iter().any(|range| {
                    range.from.as_slice() <= row.data() && !range.is_below(row.data())
                });
                let is_let_through = passes.is_valid(row_idx) && passes.value(row_idx);
                prop_assert!(is_in || !is_let_through, "{filter}: {:?}", value(&data_type, row_idx));
                if is_exact {
                    prop_assert_eq!(is_in, is_let_through, "{}: {:?}", filter, value(&data_type, row_idx));
                }
            }
        }
    }

    #[test]
    fn what_does_not_compare_as_its_bytes_is_not_looked_up() {
        for data_type in [DataType::Float64, DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano)]
        {
            let column = SortColumn::ascending(&Field::new("c", data_type.clone(), true));
            assert_eq!(values(&col("c").is_null(), &column).unwrap(), None, "{data_type}");
        }
        let column = SortColumn::ascending(&Field::new("c", DataType::Float64, true));
        assert_eq!(values(&col("c").eq(lit(1.0)), &column).unwrap(), None);
        let column = SortColumn::ascending(&Field::new("c", DataType::Int64, true));
        assert_eq!(values(&col("c").eq(lit(1.5)), &column).unwrap(), None);
        assert_eq!(values(&col("d").eq(lit(1)), &column).unwrap(), None);
    }

    #[test]
    fn very_many_values_are_read_as_one_range() {
        let column = SortColumn::ascending(&Field::new("c", DataType::Int64, true));
        let list = |n: i64| col("c").in_list((0..n).map(lit).collect(), false);
        let of = |n: i64| values(&list(n), &column).unwrap().unwrap();
        let (few, many) = (of(100), of(5_000));
        let mut narrowed = KeyRanges::all();
        assert!(narrowed.narrow(&few));
        assert_eq!(narrowed.0.len(), 100);
        assert!(!narrowed.narrow(&few), "10 000 values");
        assert_eq!(narrowed.0.len(), 100);
        let mut narrowed = KeyRanges::all();
        assert!(!narrowed.narrow(&many));
        assert_eq!(narrowed.0.len(), 1);
    }
}
