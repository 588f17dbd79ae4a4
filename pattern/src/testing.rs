//! Random patterns, for the tests of whoever runs them.
//!
//! A [`Recipe`] says in few words what a plan's expressions say in many, so that a test can have an opinion of its own
//! about what they mean.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::{AggregateUDF, Expr, col, lit};
use tidemill_plan::{
    EmptyMatches, MatchAggregate, MatchRecognize, MatchValue, MatchValueKind, Navigation, NavigationEnd,
    OrderColumn, Pattern, Repetition, Shown, Skip, Variable, WindowArg, Within, value_column,
};

/// What a variable demands of the row that is mapped to it. `v` is the row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    Nothing,
    /// `v < n`
    Below(i64),
    /// `v > PREV(v)`
    Up,
    /// `v < NEXT(v)`
    NextUp,
    /// `v > FIRST(x.v, n)`
    AboveFirst(usize, usize),
    /// `v > LAST(x.v, n)`
    AboveLast(usize, usize),
    /// `v > PREV(FIRST(x.v))`
    AbovePrevOfFirst(usize),
    /// `sum(v) < n`
    SumBelow(i64),
    /// `count(x.*) <= n`
    CountUpTo(usize, i64),
    /// `MATCH_NUMBER() <> n`
    NotMatch(i64),
    /// `PREV(CLASSIFIER()) = x`
    Behind(usize),
}

const DEMANDS: usize = 11;

/// A pattern, and what goes with it.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub pattern: Pattern,
    /// One for each variable.
    pub demands: Vec<Demand>,
    pub shown: Shown,
    pub skip: Skip,
    /// In microseconds.
    pub within: Option<i64>,
}

/// Where a plan finds what it reads.
#[derive(Debug, Clone)]
pub struct Table {
    /// `v`, an integer.
    pub v: usize,
    /// A timestamp in microseconds, by which rows are ordered.
    pub at: usize,
    pub partition: Vec<usize>,
    /// What of a row is shown, where all rows are.
    pub passed: Vec<usize>,
}

fn navigation(variables: Vec<usize>, end: NavigationEnd, offset: usize, shift: i64) -> Navigation {
    Navigation { variables, end, offset, shift }
}

fn value(kind: MatchValueKind, data_type: DataType, is_final: bool) -> MatchValue {
    MatchValue { display: format!("{kind:?}"), kind, is_final, data_type }
}

fn aggregate(function: Arc<AggregateUDF>, arg: WindowArg, variables: Vec<usize>) -> MatchValueKind {
    let return_field: FieldRef = Arc::new(Field::new("a", DataType::Int64, true));
    MatchValueKind::Aggregate(MatchAggregate {
        function,
        args: vec![arg],
        filter: None,
        distinct: false,
        ignore_nulls: false,
        variables,
        return_field,
    })
}

impl Recipe {
    /// All variables.
    pub fn all(&self) -> Vec<usize> {
        (0..self.demands.len()).collect()
    }

    pub fn name(variable: usize) -> String {
        ["A", "B", "C", "D"][variable].to_owned()
    }

    /// With measures of every kind.
    pub fn plan(&self, table: &Table) -> MatchRecognize {
        use NavigationEnd::{First, Last};
        let mut values: Vec<MatchValue> = Vec::new();
        let mut read = |kind: MatchValueKind, data_type: DataType| {
            values.push(value(kind, data_type, false));
            col(value_column(values.len() - 1))
        };
        let int = DataType::Int64;
        let mut column = |navigation| read(MatchValueKind::Column(navigation, table.v), DataType::Int64);
        let mut conditions: Vec<Option<Expr>> = Vec::new();
        for (own, demand) in self.demands.iter().enumerate() {
            let here = navigation(vec![own], Last, 0, 0);
            conditions.push(match *demand {
                Demand::Nothing => None,
                Demand::Below(n) => Some(column(here).lt(lit(n))),
                Demand::Up => Some(column(here).gt(column(navigation(vec![own], Last, 0, -1)))),
                Demand::NextUp => Some(column(here).lt(column(navigation(self.all(), Last, 0, 1)))),
                Demand::AboveFirst(x, n) => Some(column(here).gt(column(navigation(vec![x], First, n, 0)))),
                Demand::AboveLast(x, n) => Some(column(here).gt(column(navigation(vec![x], Last, n, 0)))),
                Demand::AbovePrevOfFirst(x) => {
                    Some(column(here).gt(column(navigation(vec![x], First, 0, -1))))
                }
                _ => None,
            });
        }
        for (own, demand) in self.demands.iter().enumerate() {
            let condition = match *demand {
                Demand::SumBelow(n) => {
                    let sum = aggregate(sum_udaf(), WindowArg::Column(table.v), self.all());
                    read(sum, int.clone()).lt(lit(n))
                }
                Demand::CountUpTo(x, n) => {
                    let one = WindowArg::Constant(ScalarValue::Int64(Some(1)));
                    read(aggregate(count_udaf(), one, vec![x]), int.clone()).lt_eq(lit(n))
                }
                Demand::NotMatch(n) => read(MatchValueKind::MatchNumber, int.clone()).not_eq(lit(n)),
                Demand::Behind(x) => {
                    let before = navigation(self.all(), Last, 0, -1);
                    read(MatchValueKind::Classifier(before), DataType::Utf8).eq(lit(Recipe::name(x)))
                }
                _ => continue,
            };
            conditions[own] = Some(condition);
        }
        let fields = values
            .iter()
            .enumerate()
            .map(|(idx, value)| Arc::new(Field::new(value_column(idx), value.data_type.clone(), true)));
        let fields: Vec<FieldRef> = fields.collect();
        let is_final = self.shown == Shown::One;
        let here = || navigation(self.all(), Last, 0, 0);
        let one = WindowArg::Constant(ScalarValue::Int64(Some(1)));
        MatchRecognize {
            passed: if is_final { table.partition.clone() } else { table.passed.clone() },
            partition: table.partition.clone(),
            order_by: vec![OrderColumn { column: table.at, descending: false, nulls_first: false }],
            variables: conditions
                .into_iter()
                .enumerate()
                .map(|(idx, condition)| Variable { name: Recipe::name(idx), condition })
                .collect(),
            pattern: self.pattern.clone(),
            condition_schema: Arc::new(
                DFSchema::from_unqualified_fields(fields.into(), Default::default()).unwrap(),
            ),
            condition_values: values,
            measures: vec![
                value(MatchValueKind::MatchNumber, int.clone(), is_final),
                value(MatchValueKind::Classifier(here()), DataType::Utf8, is_final),
                value(MatchValueKind::Column(here(), table.v), int.clone(), is_final),
                value(
                    MatchValueKind::Column(navigation(vec![0], First, 1, 0), table.v),
                    int.clone(),
                    is_final,
                ),
                value(MatchValueKind::Column(navigation(vec![0], First, 0, -1), table.v), int.clone(), true),
                value(aggregate(count_udaf(), one, self.all()), int.clone(), is_final),
                value(aggregate(sum_udaf(), WindowArg::Column(table.v), vec![0]), int, true),
            ],
            shown: self.shown,
            skip: self.skip.clone(),
            within: self.within.map(|micros| Within { micros }),
            sources: vec![],
            is_closing: false,
        }
    }
}

/// SplitMix64 (Steele et al., OOPSLA 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    pub fn pattern(&mut self, depth: usize, n_variables: usize) -> Pattern {
        let leaf = |rng: &mut Rng| match rng.below(20) {
            0 => Pattern::Start,
            1 => Pattern::End,
            2 => Pattern::Empty,
            n => Pattern::Row { variable: rng.below(n_variables), is_excluded: n == 3 },
        };
        if depth == 0 {
            return leaf(self);
        }
        let parts =
            |rng: &mut Rng| (0..2 + rng.below(2)).map(|_| rng.pattern(depth - 1, n_variables)).collect();
        match self.below(8) {
            0 => leaf(self),
            1..=3 => Pattern::Concat(parts(self)),
            4 => Pattern::Alternation(parts(self)),
            _ => {
                let (min, max) =
                    [(0, None), (1, None), (0, Some(1)), (2, Some(3)), (0, Some(2)), (2, None), (2, Some(2))]
                        [self.below(7)];
                Pattern::Repetition(Box::new(Repetition {
                    pattern: self.pattern(depth - 1, n_variables),
                    min,
                    max,
                    is_reluctant: self.below(4) == 0,
                }))
            }
        }
    }

    fn demand(&mut self, n_variables: usize) -> Demand {
        let (x, n) = (self.below(n_variables), self.below(2));
        match self.below(DEMANDS + 3) {
            0 => Demand::Nothing,
            1 => Demand::Up,
            2 => Demand::NextUp,
            3 => Demand::AboveFirst(x, n),
            4 => Demand::AboveLast(x, n),
            5 => Demand::AbovePrevOfFirst(x),
            6 => Demand::SumBelow(4 + self.below(8) as i64),
            7 => Demand::CountUpTo(x, 1 + n as i64),
            8 => Demand::NotMatch(1 + n as i64),
            9 => Demand::Behind(x),
            _ => Demand::Below(1 + self.below(4) as i64),
        }
    }

    pub fn recipe(&mut self) -> Recipe {
        let n_variables = 1 + self.below(3);
        let depth = 1 + self.below(3);
        let is_plain = self.below(2) == 0;
        let demands = (0..n_variables).map(|_| match is_plain {
            // Conditions that a place settles alone, so that places are remembered.
            true => [Demand::Below(2), Demand::Below(3), Demand::Up, Demand::Nothing][self.below(4)],
            false => self.demand(n_variables),
        });
        let demands = demands.collect();
        let shown = [
            Shown::One,
            Shown::All(EmptyMatches::Show),
            Shown::All(EmptyMatches::Omit),
            Shown::All(EmptyMatches::WithUnmatchedRows),
        ][self.below(4)];
        let skip = match self.below(6) {
            0 | 1 => Skip::ToNextRow,
            2 => Skip::ToLast(vec![self.below(n_variables)]),
            3 => Skip::ToFirst(vec![self.below(n_variables)]),
            _ => Skip::PastLastRow,
        };
        Recipe {
            pattern: self.pattern(depth, n_variables),
            demands,
            shown,
            skip,
            within: (self.below(4) == 0).then(|| 1 + self.below(4) as i64),
        }
    }
}
