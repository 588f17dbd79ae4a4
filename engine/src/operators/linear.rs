//! Accumulators that take a row out as easily as in: count, sum, average, what is made of counts of true, of false
//! and of bits, and statistics ([`moments`](super::moments)); and, over input that never retracts, min and max.
//!
//! One value holds the accumulators of a call for all groups that a step touches, as columns. Between steps
//! they are columns of the group's row of state.
//!
//! Sums of floating-point numbers are compensated (Neumaier, ZAMM 1974), and NaN and the infinities are
//! counted instead of added, so that a row that comes and goes leaves no trace.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Float64Builder, Int64Array,
    UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow::row::{RowConverter, SortField};
use tidemill_plan::{AggregateCall, AggregateFunction};

use super::moments::{self, Moments, Statistic};
use crate::Error;

/// Which accumulator a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Count,
    SumInt,
    SumUInt,
    SumFloat,
    SumDecimal,
    AvgFloat,
    BoolAnd,
    BoolOr,
    BitXor,
    Statistic(Statistic),
    /// Over append-only input.
    Min,
    Max,
}

impl Kind {
    /// The accumulator of a call whose arguments have types `args`, if it has one.
    pub fn of(call: &AggregateCall, args: &[DataType]) -> Option<Kind> {
        match (&call.function, args.first()) {
            (AggregateFunction::Count, _) => Some(Kind::Count),
            (AggregateFunction::Sum, Some(DataType::Int64)) => Some(Kind::SumInt),
            (AggregateFunction::Sum, Some(DataType::UInt64)) => Some(Kind::SumUInt),
            (AggregateFunction::Sum, Some(DataType::Float64)) => Some(Kind::SumFloat),
            (AggregateFunction::Sum, Some(DataType::Decimal128(_, _))) => Some(Kind::SumDecimal),
            (AggregateFunction::Avg, Some(DataType::Float64)) => Some(Kind::AvgFloat),
            (AggregateFunction::Min, Some(_)) => Some(Kind::Min),
            (AggregateFunction::Max, Some(_)) => Some(Kind::Max),
            // Of distinct values a table is kept, and it has one column.
            (AggregateFunction::Other(other), _)
                if other.is_linear(args) && (!call.distinct || args.len() == 1) =>
            {
                Some(Kind::of_other(other.udf.name()))
            }
            _ => None,
        }
    }

    fn of_other(function: &str) -> Kind {
        match function {
            "bool_and" => Kind::BoolAnd,
            "bool_or" => Kind::BoolOr,
            "bit_xor" => Kind::BitXor,
            statistic => Kind::Statistic(Statistic::of(statistic).expect("the plan knows no others")),
        }
    }

    /// Whether groups were once kept in another way, so that the name of their state must differ.
    pub fn was_replayed(self) -> bool {
        matches!(self, Kind::BoolAnd | Kind::BoolOr | Kind::BitXor | Kind::Statistic(_))
    }

    /// The columns of a group's accumulator; all are nullable.
    pub fn state_types(self, call: &AggregateCall) -> Vec<DataType> {
        match self {
            Kind::Count => vec![DataType::Int64],
            Kind::SumInt | Kind::BoolAnd | Kind::BoolOr | Kind::BitXor => vec![DataType::Int64; 2],
            Kind::Statistic(statistic) => statistic.state_types(),
            Kind::SumUInt => vec![DataType::UInt64, DataType::Int64],
            Kind::SumDecimal => vec![call.return_type.clone(), DataType::Int64],
            Kind::SumFloat | Kind::AvgFloat => {
                let mut types = vec![DataType::Float64; 2];
                types.extend(vec![DataType::Int64; 4]);
                types
            }
            Kind::Min | Kind::Max => vec![call.return_type.clone()],
        }
    }
}

/// The accumulators of one call, one per touched group.
#[derive(Debug)]
pub(crate) enum Accumulators {
    Count { n: Vec<i64> },
    SumInt { sum: Vec<i64>, n: Vec<i64> },
    SumUInt { sum: Vec<u64>, n: Vec<i64> },
    SumDecimal { sum: Vec<i128>, n: Vec<i64>, data_type: DataType },
    Float { sums: Vec<FloatSum>, is_average: bool },
    Bools { n_true: Vec<i64>, n_false: Vec<i64>, is_and: bool },
    BitXor { bits: Vec<i64>, n: Vec<i64> },
    Moments { groups: Vec<Moments>, statistic: Statistic },
    Best { values: ArrayRef, is_max: bool },
}

/// A sum of floating-point numbers that forgets what is taken out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FloatSum {
    sum: f64,
    compensation: f64,
    /// Values that are not NULL, finite or not.
    n: i64,
    n_nan: i64,
    n_infinite: i64,
    n_negative_infinite: i64,
}

impl FloatSum {
    fn add(&mut self, value: f64, weight: i64) {
        self.n += weight;
        if value.is_nan() {
            self.n_nan += weight;
        } else if value == f64::INFINITY {
            self.n_infinite += weight;
        } else if value == f64::NEG_INFINITY {
            self.n_negative_infinite += weight;
        } else {
            let term = value * weight as f64;
            let sum = self.sum + term;
            self.compensation +=
                if self.sum.abs() >= term.abs() { (self.sum - sum) + term } else { (term - sum) + self.sum };
            self.sum = sum;
        }
    }

    fn total(&self) -> f64 {
        if self.n_nan > 0 || (self.n_infinite > 0 && self.n_negative_infinite > 0) {
            f64::NAN
        } else if self.n_infinite > 0 {
            f64::INFINITY
        } else if self.n_negative_infinite > 0 {
            f64::NEG_INFINITY
        } else {
            self.sum + self.compensation
        }
    }
}

impl Accumulators {
    /// The accumulators of groups of which some were there before: `before[g]` is a row of `state`.
    pub fn load(
        kind: Kind,
        call: &AggregateCall,
        state: &[ArrayRef],
        before: &[Option<u32>],
    ) -> Result<Accumulators, Error> {
        let ints = |column: &ArrayRef| {
            let column = column.as_primitive::<Int64Type>();
            before.iter().map(|row| row.map_or(0, |row| column.value(row as usize))).collect::<Vec<i64>>()
        };
        Ok(match kind {
            Kind::Count => Accumulators::Count { n: ints(&state[0]) },
            Kind::SumInt => Accumulators::SumInt { sum: ints(&state[0]), n: ints(&state[1]) },
            Kind::SumUInt => {
                let column = state[0].as_primitive::<UInt64Type>();
                let sum = before.iter().map(|row| row.map_or(0, |row| column.value(row as usize))).collect();
                Accumulators::SumUInt { sum, n: ints(&state[1]) }
            }
            Kind::SumDecimal => {
                let column = state[0].as_primitive::<Decimal128Type>();
                let sum = before.iter().map(|row| row.map_or(0, |row| column.value(row as usize))).collect();
                Accumulators::SumDecimal { sum, n: ints(&state[1]), data_type: call.return_type.clone() }
            }
            Kind::SumFloat | Kind::AvgFloat => {
                let float = |idx: usize| state[idx].as_primitive::<Float64Type>();
                let int = |idx: usize| state[idx].as_primitive::<Int64Type>();
                let load = |row: usize| FloatSum {
                    sum: float(0).value(row),
                    compensation: float(1).value(row),
                    n: int(2).value(row),
                    n_nan: int(3).value(row),
                    n_infinite: int(4).value(row),
                    n_negative_infinite: int(5).value(row),
                };
                let sums =
                    before.iter().map(|row| row.map_or_else(FloatSum::default, |row| load(row as usize)));
                Accumulators::Float { sums: sums.collect(), is_average: kind == Kind::AvgFloat }
            }
            Kind::BoolAnd | Kind::BoolOr => Accumulators::Bools {
                n_true: ints(&state[0]),
                n_false: ints(&state[1]),
                is_and: kind == Kind::BoolAnd,
            },
            Kind::BitXor => Accumulators::BitXor { bits: ints(&state[0]), n: ints(&state[1]) },
            Kind::Statistic(statistic) => {
                Accumulators::Moments { groups: moments::load(statistic, state, before), statistic }
            }
            Kind::Min | Kind::Max => {
                let rows = UInt32Array::from(before.to_vec());
                let values = if state[0].is_empty() {
                    new_null_array(state[0].data_type(), before.len())
                } else {
                    take(&state[0], &rows, None)?
                };
                Accumulators::Best { values, is_max: kind == Kind::Max }
            }
        })
    }

    /// Adds rows: `(row of the arguments, group, weight)`. Rows of which an argument is NULL have been left out.
    pub fn update(
        &mut self,
        args: &[ArrayRef],
        rows: impl Iterator<Item = (usize, usize, i64)>,
    ) -> Result<(), Error> {
        let arg = || args.first().expect("every function but count has an argument");
        match self {
            Accumulators::Count { n } => rows.for_each(|(_, group, weight)| n[group] += weight),
            // DataFusion's sums wrap; so must ours, or a view would differ from its SELECT.
            Accumulators::SumInt { sum, n } => {
                let values = arg().as_primitive::<Int64Type>();
                for (row, group, weight) in rows {
                    sum[group] = sum[group].wrapping_add(values.value(row).wrapping_mul(weight));
                    n[group] += weight;
                }
            }
            Accumulators::SumUInt { sum, n } => {
                let values = arg().as_primitive::<UInt64Type>();
                for (row, group, weight) in rows {
                    sum[group] = sum[group].wrapping_add(values.value(row).wrapping_mul(weight as u64));
                    n[group] += weight;
                }
            }
            Accumulators::SumDecimal { sum, n, .. } => {
                let values = arg().as_primitive::<Decimal128Type>();
                for (row, group, weight) in rows {
                    sum[group] = sum[group].wrapping_add(values.value(row).wrapping_mul(i128::from(weight)));
                    n[group] += weight;
                }
            }
            Accumulators::Float { sums, .. } => {
                let values = arg().as_primitive::<Float64Type>();
                rows.for_each(|(row, group, weight)| sums[group].add(values.value(row), weight));
            }
            Accumulators::Bools { n_true, n_false, .. } => {
                let values = arg().as_boolean();
                for (row, group, weight) in rows {
                    let n = if values.value(row) { &mut n_true[group] } else { &mut n_false[group] };
                    *n += weight;
                }
            }
            Accumulators::BitXor { bits, n } => {
                let values = arg().as_primitive::<Int64Type>();
                for (row, group, weight) in rows {
                    // Two of the same undo each other, and so does taking one out.
                    if weight % 2 != 0 {
                        bits[group] ^= values.value(row);
                    }
                    n[group] += weight;
                }
            }
            Accumulators::Moments { groups, .. } => moments::update(groups, args, rows),
            Accumulators::Best { values, is_max } => *values = best(values, arg(), *is_max, rows)?,
        }
        Ok(())
    }

    /// The value of the call in each group.
    pub fn output(&self) -> ArrayRef {
        match self {
            Accumulators::Count { n } => Arc::new(Int64Array::from(n.clone())),
            Accumulators::SumInt { sum, n } => {
                Arc::new(sum.iter().zip(n).map(|(sum, n)| (*n != 0).then_some(*sum)).collect::<Int64Array>())
            }
            Accumulators::SumUInt { sum, n } => {
                Arc::new(sum.iter().zip(n).map(|(sum, n)| (*n != 0).then_some(*sum)).collect::<UInt64Array>())
            }
            Accumulators::SumDecimal { sum, n, data_type } => {
                let sums =
                    sum.iter().zip(n).map(|(sum, n)| (*n != 0).then_some(*sum)).collect::<Decimal128Array>();
                Arc::new(sums.with_data_type(data_type.clone()))
            }
            Accumulators::Float { sums, is_average } => {
                let mut output = Float64Builder::with_capacity(sums.len());
                for sum in sums {
                    let total = sum.total();
                    let value = if *is_average { total / sum.n as f64 } else { total };
                    output.append_option((sum.n != 0).then_some(value));
                }
                Arc::new(output.finish())
            }
            Accumulators::Bools { n_true, n_false, is_and } => {
                let value = |(n_true, n_false): (&i64, &i64)| {
                    let is_true = if *is_and { *n_false == 0 } else { *n_true > 0 };
                    (n_true + n_false != 0).then_some(is_true)
                };
                Arc::new(n_true.iter().zip(n_false).map(value).collect::<BooleanArray>())
            }
            Accumulators::BitXor { bits, n } => Arc::new(
                bits.iter().zip(n).map(|(bits, n)| (*n != 0).then_some(*bits)).collect::<Int64Array>(),
            ),
            Accumulators::Moments { groups, statistic } => moments::output(*statistic, groups),
            Accumulators::Best { values, .. } => values.clone(),
        }
    }

    /// The accumulators as columns of state.
    pub fn state(&self) -> Vec<ArrayRef> {
        let ints = |n: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(n.to_vec())) };
        match self {
            Accumulators::Count { n } => vec![ints(n)],
            Accumulators::SumInt { sum, n } => vec![ints(sum), ints(n)],
            Accumulators::SumUInt { sum, n } => vec![Arc::new(UInt64Array::from(sum.clone())), ints(n)],
            Accumulators::SumDecimal { sum, n, data_type } => {
                let sums = Decimal128Array::from(sum.clone()).with_data_type(data_type.clone());
                vec![Arc::new(sums), ints(n)]
            }
            Accumulators::Float { sums, .. } => {
                let float = |value: fn(&FloatSum) -> f64| -> ArrayRef {
                    Arc::new(sums.iter().map(value).collect::<Vec<_>>().into_iter().collect::<Float64Array>())
                };
                let int = |value: fn(&FloatSum) -> i64| -> ArrayRef {
                    Arc::new(Int64Array::from_iter_values(sums.iter().map(value)))
                };
                vec![
                    float(|sum| sum.sum),
                    float(|sum| sum.compensation),
                    int(|sum| sum.n),
                    int(|sum| sum.n_nan),
                    int(|sum| sum.n_infinite),
                    int(|sum| sum.n_negative_infinite),
                ]
            }
            Accumulators::Bools { n_true, n_false, .. } => vec![ints(n_true), ints(n_false)],
            Accumulators::BitXor { bits, n } => vec![ints(bits), ints(n)],
            Accumulators::Moments { groups, statistic } => moments::state(*statistic, groups),
            Accumulators::Best { values, .. } => vec![values.clone()],
        }
    }
}

/// The better of each group's value and its new ones.
fn best(
    values: &ArrayRef,
    arg: &ArrayRef,
    is_max: bool,
    rows: impl Iterator<Item = (usize, usize, i64)>,
) -> Result<ArrayRef, Error> {
    // Compared as encoded bytes: any type that can be ordered, in the order that sorting has.
    let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
    let known = converter.convert_columns(std::slice::from_ref(values))?;
    let new = converter.convert_columns(std::slice::from_ref(arg))?;
    // Which array, and which row of it.
    let mut winners: Vec<(usize, usize)> = (0..values.len()).map(|group| (0, group)).collect();
    for (row, group, weight) in rows {
        assert!(weight > 0, "min and max over retractions keep all values");
        let winner = winners[group];
        let is_better = if winner == (0, group) && values.is_null(group) {
            true
        } else {
            let known = if winner.0 == 0 { known.row(winner.1) } else { new.row(winner.1) };
            if is_max { new.row(row) > known } else { new.row(row) < known }
        };
        if is_better {
            winners[group] = (1, row);
        }
    }
    Ok(interleave(&[values.as_ref(), arg.as_ref()], &winners)?)
}
