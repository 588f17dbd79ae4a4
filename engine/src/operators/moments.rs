//! Variance, covariance, correlation and regression, from sums of powers.
//!
//! Sums of squares are the textbook's example of cancellation: the variance of values that are large and near each
//! other is the small difference of two large numbers. So no digit is dropped on the way: squares are kept as two
//! numbers (Dekker, Numer. Math. 1971), and a sum has three parts, each of which holds what the one before could not
//! (Klein, Computing 2006), some 150 bits in all. A deviation is put together from them in the same way. What
//! comes and goes leaves no trace, unless it was more than 10¹⁶ times as large, of which the digits beyond a
//! double's own are the price; the order of rows does not matter, and equal values have no variance at all.
//!
//! Numbers that are not finite are counted, as those are whose squares would not be.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Float64Builder, Int64Array, UInt64Array};
use arrow::datatypes::{DataType, Float64Type, Int64Type};

/// Which function of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistic {
    VarPop,
    VarSamp,
    StddevPop,
    StddevSamp,
    CovarPop,
    CovarSamp,
    Corr,
    RegrSlope,
    RegrIntercept,
    RegrCount,
    RegrR2,
    RegrAvgX,
    RegrAvgY,
    RegrSxx,
    RegrSyy,
    RegrSxy,
}

/// Squares of what is beyond this, and sums of them, may not be finite.
const HUGE: f64 = 1e150;

/// The part of a sum of squares that is nothing but rounding: what values give that differ in their last digit.
const ROUNDING: f64 = 1e-31;

impl Statistic {
    /// By the name that DataFusion's function has.
    pub fn of(function: &str) -> Option<Statistic> {
        Some(match function {
            "var_pop" => Statistic::VarPop,
            "var" => Statistic::VarSamp,
            "stddev_pop" => Statistic::StddevPop,
            "stddev" => Statistic::StddevSamp,
            "covar_pop" => Statistic::CovarPop,
            "covar_samp" => Statistic::CovarSamp,
            "corr" => Statistic::Corr,
            "regr_slope" => Statistic::RegrSlope,
            "regr_intercept" => Statistic::RegrIntercept,
            "regr_count" => Statistic::RegrCount,
            "regr_r2" => Statistic::RegrR2,
            "regr_avgx" => Statistic::RegrAvgX,
            "regr_avgy" => Statistic::RegrAvgY,
            "regr_sxx" => Statistic::RegrSxx,
            "regr_syy" => Statistic::RegrSyy,
            "regr_sxy" => Statistic::RegrSxy,
            _ => return None,
        })
    }

    /// How many arguments it has: of two, the first is *y*.
    pub fn n_args(self) -> usize {
        match self {
            Statistic::VarPop | Statistic::VarSamp | Statistic::StddevPop | Statistic::StddevSamp => 1,
            _ => 2,
        }
    }

    pub fn state_types(self) -> Vec<DataType> {
        let mut types = vec![DataType::Int64];
        for _ in 0..self.n_args() {
            types.extend(vec![DataType::Float64; 6]);
            types.extend(vec![DataType::Int64; 2]);
        }
        if self.n_args() == 2 {
            types.extend(vec![DataType::Float64; 3]);
        }
        types
    }
}

/// The sums of one group.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    n: i64,
    x: Axis,
    y: Axis,
    xy: Sum,
}

/// The sums of one argument.
#[derive(Debug, Clone, Copy, Default)]
struct Axis {
    sum: Sum,
    squares: Sum,
    n_not_finite: i64,
    n_huge: i64,
}

/// A number that is the sum of three.
#[derive(Debug, Clone, Copy, Default)]
struct Sum([f64; 3]);

impl Moments {
    /// Adds rows of one group; *x* alone for a function of one argument. All of a step's rows are added at once:
    /// only then does having as many rows come as go mean that there are none.
    pub fn add(&mut self, rows: impl Iterator<Item = (f64, Option<f64>, i64)>) {
        for (x, y, weight) in rows {
            self.n += weight;
            let x = self.x.add(x, weight);
            let y = y.and_then(|y| self.y.add(y, weight));
            if let (Some(x), Some(y)) = (x, y) {
                self.xy.add_product(x, y, weight as f64);
            }
        }
        for axis in [&mut self.x, &mut self.y] {
            if self.n == axis.n_not_finite {
                (axis.sum, axis.squares, self.xy) = (Sum::default(), Sum::default(), Sum::default());
            }
        }
    }

    fn value(&self, statistic: Statistic) -> Option<f64> {
        let n = self.n as f64;
        let (sxx, syy, sxy) = (self.x.deviation(self.n), self.y.deviation(self.n), self.codeviation());
        let is_same = |deviation: f64| self.n < 2 || deviation == 0.0;
        match statistic {
            Statistic::VarPop => (self.n > 0).then(|| sxx / n),
            Statistic::VarSamp => (self.n > 1).then(|| sxx / (n - 1.0)),
            Statistic::StddevPop => (self.n > 0).then(|| (sxx / n).sqrt()),
            Statistic::StddevSamp => (self.n > 1).then(|| (sxx / (n - 1.0)).sqrt()),
            Statistic::CovarPop => (self.n > 0).then(|| sxy / n),
            Statistic::CovarSamp => (self.n > 1).then(|| sxy / (n - 1.0)),
            Statistic::Corr => match (self.x.n_not_finite > 0, self.y.n_not_finite > 0) {
                // As DataFusion has it.
                (true, true) => Some(f64::NAN),
                (true, false) | (false, true) => None,
                (false, false) if is_same(sxx) || is_same(syy) => None,
                (false, false) => Some(correlation(sxx, syy, sxy)),
            },
            Statistic::RegrSlope => (!is_same(sxx)).then(|| sxy / sxx),
            Statistic::RegrIntercept => {
                (!is_same(sxx)).then(|| self.y.mean(self.n) - sxy / sxx * self.x.mean(self.n))
            }
            Statistic::RegrCount => Some(n),
            Statistic::RegrR2 => (!is_same(sxx) && !is_same(syy)).then(|| correlation(sxx, syy, sxy).powi(2)),
            Statistic::RegrAvgX => (self.n > 0).then(|| self.x.mean(self.n)),
            Statistic::RegrAvgY => (self.n > 0).then(|| self.y.mean(self.n)),
            Statistic::RegrSxx => (self.n > 0).then_some(sxx),
            Statistic::RegrSyy => (self.n > 0).then_some(syy),
            Statistic::RegrSxy => (self.n > 0).then_some(sxy),
        }
    }

    /// Σ (x − mean of x) (y − mean of y)
    fn codeviation(&self) -> f64 {
        if self.x.n_not_finite + self.y.n_not_finite + self.x.n_huge + self.y.n_huge != 0 {
            return f64::NAN;
        }
        deviation(self.n, &self.x.sum, &self.y.sum, &self.xy)
    }
}

fn correlation(sxx: f64, syy: f64, sxy: f64) -> f64 {
    let product = sxx * syy;
    // One root is more exact than two, as long as what it is taken of is a number.
    let scale = if product.is_normal() { product.sqrt() } else { sxx.sqrt() * syy.sqrt() };
    (sxy / scale).clamp(-1.0, 1.0)
}

impl Axis {
    /// Gives the value, unless it counts for itself.
    fn add(&mut self, value: f64, weight: i64) -> Option<f64> {
        if !value.is_finite() {
            self.n_not_finite += weight;
            return None;
        }
        self.sum.add_product(value, 1.0, weight as f64);
        if value.abs() > HUGE {
            self.n_huge += weight;
            return None;
        }
        self.squares.add_product(value, value, weight as f64);
        Some(value)
    }

    fn mean(&self, n: i64) -> f64 {
        if self.n_not_finite != 0 {
            return f64::NAN;
        }
        let n = n as f64;
        let near = self.sum.value() / n;
        near + self.sum.missed_by(near, n) / n
    }

    /// Σ (x − mean of x)²
    fn deviation(&self, n: i64) -> f64 {
        if self.n_not_finite != 0 {
            return f64::NAN;
        }
        if self.n_huge != 0 {
            return f64::INFINITY;
        }
        let deviation = deviation(n, &self.sum, &self.sum, &self.squares);
        if deviation > self.squares.value() * ROUNDING { deviation } else { 0.0 }
    }
}

/// Σ (x − mean of x) (y − mean of y) from Σ x, Σ y and Σ x y.
///
/// With a and b near the means that is Σ (x − a) (y − b), but for the little by which they miss:
///
/// ```text
/// Σ x y − b Σ x − a Σ y + n a b  −  (Σ x − n a) (Σ y − n b) / n
/// ```
fn deviation(n: i64, x: &Sum, y: &Sum, xy: &Sum) -> f64 {
    let n = n as f64;
    if n <= 0.0 {
        return 0.0;
    }
    let (a, b) = (x.value() / n, y.value() / n);
    let mut sum = *xy;
    x.0.iter().for_each(|part| sum.add_product(*part, b, -1.0));
    y.0.iter().for_each(|part| sum.add_product(*part, a, -1.0));
    sum.add_product(a, b, n);
    sum.value() - x.missed_by(a, n) * y.missed_by(b, n) / n
}

impl Sum {
    fn add(&mut self, value: f64) {
        let [first, second, third] = &mut self.0;
        let (sum, rest) = two_sum(*first, value);
        let (rest_sum, rest_of_rest) = two_sum(*second, rest);
        (*first, *second) = (sum, rest_sum);
        *third += rest_of_rest;
    }

    fn add_product(&mut self, a: f64, b: f64, weight: f64) {
        let (product, rest) = if b == 1.0 { (a, 0.0) } else { two_product(a, b) };
        for part in [product, rest] {
            if weight.abs() == 1.0 {
                self.add(part * weight);
            } else {
                let (product, rest) = two_product(part, weight);
                self.add(product);
                self.add(rest);
            }
        }
    }

    /// What is left of the sum without n times a value.
    fn missed_by(&self, value: f64, n: f64) -> f64 {
        let mut missed = *self;
        missed.add_product(value, n, -1.0);
        missed.value()
    }

    fn value(&self) -> f64 {
        let [first, second, third] = self.0;
        let (sum, rest) = two_sum(first, second);
        sum + (rest + third)
    }
}

/// The sum, and what was rounded off it (Knuth).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_rounded = sum - a;
    (sum, (a - (sum - b_rounded)) + (b - b_rounded))
}

/// The product, and what was rounded off it (Dekker, Veltkamp).
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    if product.abs() > 1e290 || a.abs() > 1e290 || b.abs() > 1e290 {
        // Splitting would overflow; a product like this is of one value and its weight.
        return (product, 0.0);
    }
    let split = |value: f64| {
        let shifted = 134_217_729.0 * value;
        let high = shifted - (shifted - value);
        (high, value - high)
    };
    let ((a_high, a_low), (b_high, b_low)) = (split(a), split(b));
    let rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
    (product, rest)
}

/// The groups of which some were there before, as their rows of state.
pub(crate) fn load(statistic: Statistic, state: &[ArrayRef], before: &[Option<u32>]) -> Vec<Moments> {
    let float = |idx: usize, row: usize| state[idx].as_primitive::<Float64Type>().value(row);
    let int = |idx: usize, row: usize| state[idx].as_primitive::<Int64Type>().value(row);
    let sum = |idx: usize, row: usize| Sum([float(idx, row), float(idx + 1, row), float(idx + 2, row)]);
    let axis = |idx: usize, row: usize| Axis {
        sum: sum(idx, row),
        squares: sum(idx + 3, row),
        n_not_finite: int(idx + 6, row),
        n_huge: int(idx + 7, row),
    };
    let moments = |row: usize| match statistic.n_args() {
        1 => Moments { n: int(0, row), x: axis(1, row), ..Moments::default() },
        _ => Moments { n: int(0, row), x: axis(1, row), y: axis(9, row), xy: sum(17, row) },
    };
    before.iter().map(|row| row.map_or_else(Moments::default, |row| moments(row as usize))).collect()
}

/// The sums as columns of state.
pub(crate) fn state(statistic: Statistic, groups: &[Moments]) -> Vec<ArrayRef> {
    let int = |value: &dyn Fn(&Moments) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(groups.iter().map(value)))
    };
    let float = |value: &dyn Fn(&Moments) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(groups.iter().map(value)))
    };
    let mut columns = vec![int(&|group| group.n)];
    let axes: [fn(&Moments) -> &Axis; 2] = [|group| &group.x, |group| &group.y];
    for axis in &axes[..statistic.n_args()] {
        columns.extend((0..3).map(|part| float(&|group| axis(group).sum.0[part])));
        columns.extend((0..3).map(|part| float(&|group| axis(group).squares.0[part])));
        columns.push(int(&|group| axis(group).n_not_finite));
        columns.push(int(&|group| axis(group).n_huge));
    }
    if statistic.n_args() == 2 {
        columns.extend((0..3).map(|part| float(&|group| group.xy.0[part])));
    }
    columns
}

/// The function's value in each group.
pub(crate) fn output(statistic: Statistic, groups: &[Moments]) -> ArrayRef {
    if statistic == Statistic::RegrCount {
        return Arc::new(UInt64Array::from_iter_values(groups.iter().map(|group| group.n.max(0) as u64)));
    }
    let mut values = Float64Builder::with_capacity(groups.len());
    groups.iter().for_each(|group| values.append_option(group.value(statistic)));
    Arc::new(values.finish())
}

/// Adds rows to their groups: `(row of the arguments, group, weight)`, no argument of which is NULL.
pub(crate) fn update(
    groups: &mut [Moments],
    args: &[ArrayRef],
    rows: impl Iterator<Item = (usize, usize, i64)>,
) {
    let (x, y) = match args {
        [x] => (x.as_primitive::<Float64Type>(), None),
        [y, x] => (x.as_primitive::<Float64Type>(), Some(y.as_primitive::<Float64Type>())),
        _ => unreachable!("statistics have one or two arguments"),
    };
    let mut rows: Vec<(usize, usize, i64)> = rows.collect();
    rows.sort_by_key(|(_, group, _)| *group);
    for of_group in rows.chunk_by(|a, b| a.1 == b.1) {
        let value =
            |(row, _, weight): &(usize, usize, i64)| (x.value(*row), y.map(|y| y.value(*row)), *weight);
        groups[of_group[0].1].add(of_group.iter().map(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::property::Rng;

    fn of(rows: &[(f64, f64, i64)]) -> Moments {
        let mut moments = Moments::default();
        moments.add(rows.iter().map(|(x, y, weight)| (*x, Some(*y), *weight)));
        moments
    }

    #[test]
    fn near_values_far_from_zero_keep_their_variance() {
        let moments = of(&[(1e15, 0.0, 1), (1e15 + 1.0, 0.0, 1), (1e15 + 2.0, 0.0, 1)]);
        assert_eq!(moments.value(Statistic::VarSamp), Some(1.0));
        assert_eq!(moments.value(Statistic::RegrAvgX), Some(1e15 + 1.0));
    }

    #[test]
    fn the_order_of_rows_does_not_matter() {
        let mut moments = of(&[(1e100, 0.0, 1), (1.0, 0.0, 1), (2.0, 0.0, 1)]);
        moments.add([(1e100, Some(0.0), -1)].into_iter());
        assert_eq!(moments.value(Statistic::VarPop), Some(0.25));
    }

    #[test]
    fn what_came_and_went_leaves_no_trace() {
        let mut moments = of(&[(1e9, 3.0, 1), (f64::NAN, 1.0, 1), (0.1, 0.3, 3)]);
        assert!(moments.value(Statistic::VarPop).unwrap().is_nan());
        moments.add([(f64::NAN, Some(1.0), -1), (1e9, Some(3.0), -1)].into_iter());
        // All that is left is the same, so there is no variance, and no correlation.
        assert_eq!(moments.value(Statistic::VarPop), Some(0.0));
        assert_eq!(moments.value(Statistic::Corr), None);
        assert_eq!(moments.value(Statistic::RegrAvgX), Some(0.1));
        assert_eq!(moments.value(Statistic::RegrCount), Some(3.0));
        // Retracted before they come: as many rows as none, but not none.
        moments.add(
            [(7.0, Some(7.0), -3), (0.1, Some(0.3), -3), (7.0, Some(7.0), 4), (9.0, Some(8.0), 1)]
                .into_iter(),
        );
        assert_eq!(moments.value(Statistic::VarSamp), Some(2.0));
        assert_eq!(moments.value(Statistic::RegrSlope), Some(0.5));
    }

    /// After any coming and going the value is that of the rows which stay.
    #[test]
    fn values_are_those_of_the_rows_that_stay() {
        for seed in 0..200 {
            let mut rng = Rng(seed);
            let mut rows: Vec<(f64, f64)> = Vec::new();
            let mut moments = Moments::default();
            for _ in 0..60 {
                let goes = !rows.is_empty() && rng.below(5) < 2;
                if goes {
                    let (x, y) = rows.swap_remove(rng.below(rows.len() as u64) as usize);
                    moments.add([(x, Some(y), -1)].into_iter());
                } else {
                    let scale = [1.0, 1e3, 1e9][rng.below(3) as usize];
                    let x = (rng.below(1000) as f64 - 500.0) * scale / 7.0;
                    let y = (rng.below(1000) as f64) / 3.0 + x;
                    rows.push((x, y));
                    moments.add([(x, Some(y), 1)].into_iter());
                }
            }
            let n = rows.len() as f64;
            let mean = |value: fn(&(f64, f64)) -> f64| rows.iter().map(value).sum::<f64>() / n;
            let (mean_x, mean_y) = (mean(|row| row.0), mean(|row| row.1));
            let sum = |value: &dyn Fn(f64, f64) -> f64| -> f64 {
                rows.iter().map(|(x, y)| value(x - mean_x, y - mean_y)).sum()
            };
            let (sxx, syy, sxy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
            let expected = [
                (Statistic::VarPop, sxx / n),
                (Statistic::StddevSamp, (sxx / (n - 1.0)).sqrt()),
                (Statistic::CovarSamp, sxy / (n - 1.0)),
                (Statistic::Corr, sxy / (sxx * syy).sqrt()),
                (Statistic::RegrSyy, syy),
                (Statistic::RegrSlope, sxy / sxx),
                (Statistic::RegrAvgY, mean_y),
            ];
            for (statistic, expected) in expected.into_iter().filter(|_| rows.len() > 1) {
                let value = moments.value(statistic).unwrap();
                let error = (value - expected).abs() / expected.abs().max(1e-6);
                assert!(error < 1e-9, "{statistic:?} is {value}, not {expected}, seed {seed}");
            }
        }
    }
}
