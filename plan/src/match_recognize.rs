//! `MATCH_RECOGNIZE`, as data: the pattern as a tree, conditions and measures by what they read of a match.
//!
//! A *match* is a run of rows of a partition, each mapped to a variable. What DEFINE and MEASURES say of it is split
//! in two. A [`MatchValue`] reads something of the match: a column of a row that is found by going
//! to a variable's first or last row and from there to a neighbour, an aggregate over a variable's rows, or which
//! variable a row has. Conditions are expressions over such values; measures are computed by a projection above, whose
//! columns the values are.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::{AggregateUDF, Expr};

use crate::operator::{CloseSource, OrderColumn};
use crate::window::WindowArg;

/// Output: the columns `passed` of each row that is shown, then a column for each of `measures`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MatchRecognize {
    pub passed: Vec<usize>,
    pub partition: Vec<usize>,
    pub order_by: Vec<OrderColumn>,
    pub variables: Vec<Variable>,
    pub pattern: Pattern,
    /// What the conditions read.
    pub condition_values: Vec<MatchValue>,
    /// The names and types of `condition_values`.
    pub condition_schema: DFSchemaRef,
    pub measures: Vec<MatchValue>,
    pub shown: Shown,
    pub skip: Skip,
    pub within: Option<Within>,
    /// The times of the first column of the order are complete by these; empty where they never are.
    pub sources: Vec<CloseSource>,
    /// `EMIT ON WINDOW CLOSE`: a match leaves once, when nothing can change it.
    pub is_closing: bool,
}

/// A name that the pattern maps rows to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variable {
    pub name: String,
    /// Over [`MatchRecognize::condition_schema`]; without one any row will do.
    pub condition: Option<Expr>,
}

/// A regular expression over rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// No row.
    Empty,
    /// A row that is mapped to a variable; between `{-` and `-}` it is matched and not shown.
    Row {
        variable: usize,
        is_excluded: bool,
    },
    /// `^`: before the first row of the partition.
    Start,
    /// `$`: behind its last.
    End,
    Concat(Vec<Pattern>),
    /// The first that leads to a match.
    Alternation(Vec<Pattern>),
    Repetition(Box<Repetition>),
}

/// `A{2,5}`, and with it `*`, `+` and `?`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repetition {
    pub pattern: Pattern,
    pub min: u32,
    pub max: Option<u32>,
    /// As few as possible: `*?`.
    pub is_reluctant: bool,
}

/// `ONE ROW PER MATCH`, `ALL ROWS PER MATCH …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown {
    One,
    All(EmptyMatches),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmptyMatches {
    Show,
    Omit,
    /// Those, and rows that no match has.
    WithUnmatchedRows,
}

/// `AFTER MATCH SKIP`: where the search goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Skip {
    PastLastRow,
    ToNextRow,
    /// To the first row of one of these variables.
    ToFirst(Vec<usize>),
    ToLast(Vec<usize>),
}

/// `WITHIN INTERVAL …`: all rows of a match lie less than this behind the first, by the first column of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Within {
    pub micros: i64,
}

/// Something that is read of a match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MatchValue {
    pub kind: MatchValueKind,
    /// Of the whole match; otherwise of its rows up to the current one.
    pub is_final: bool,
    pub data_type: DataType,
    /// As the user wrote it, for EXPLAIN and messages.
    pub display: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MatchValueKind {
    Column(Navigation, usize),
    /// The name of the variable that a row is mapped to.
    Classifier(Navigation),
    /// How many matches of the partition there were, with this one.
    MatchNumber,
    Aggregate(MatchAggregate),
}

/// A way to a row: `PREV(LAST(A.x, 2), 1)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Navigation {
    /// Among the rows of these variables, ascending,
    pub variables: Vec<usize>,
    pub end: NavigationEnd,
    /// the one that is so many behind the first, or before the last,
    pub offset: usize,
    /// and from there so many rows of the partition on, or back.
    pub shift: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NavigationEnd {
    First,
    Last,
}

/// An aggregate over the rows of some variables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MatchAggregate {
    pub function: Arc<AggregateUDF>,
    pub args: Vec<WindowArg>,
    pub filter: Option<usize>,
    pub distinct: bool,
    pub ignore_nulls: bool,
    pub variables: Vec<usize>,
    pub return_field: FieldRef,
}

impl Pattern {
    /// Whether it matches no rows at all, if nothing else.
    pub fn is_nullable(&self) -> bool {
        match self {
            Pattern::Empty | Pattern::Start | Pattern::End => true,
            Pattern::Row { .. } => false,
            Pattern::Concat(parts) => parts.iter().all(Pattern::is_nullable),
            Pattern::Alternation(parts) => parts.iter().any(Pattern::is_nullable),
            Pattern::Repetition(repetition) => repetition.min == 0 || repetition.pattern.is_nullable(),
        }
    }

    /// How many rows a match has at most.
    pub fn n_rows_max(&self) -> Option<usize> {
        match self {
            Pattern::Empty | Pattern::Start | Pattern::End => Some(0),
            Pattern::Row { .. } => Some(1),
            Pattern::Concat(parts) => {
                parts.iter().map(Pattern::n_rows_max).try_fold(0usize, |sum, n| sum.checked_add(n?))
            }
            Pattern::Alternation(parts) => {
                parts.iter().map(Pattern::n_rows_max).try_fold(0, |max, n| Some(max.max(n?)))
            }
            Pattern::Repetition(repetition) => match repetition.pattern.n_rows_max()? {
                0 => Some(0),
                n => n.checked_mul(repetition.max? as usize),
            },
        }
    }

    /// Calls `found` for each place of a row in the pattern.
    pub fn visit_rows(&self, found: &mut impl FnMut(usize, bool)) {
        match self {
            Pattern::Empty | Pattern::Start | Pattern::End => (),
            Pattern::Row { variable, is_excluded } => found(*variable, *is_excluded),
            Pattern::Concat(parts) | Pattern::Alternation(parts) => {
                parts.iter().for_each(|part| part.visit_rows(found));
            }
            Pattern::Repetition(repetition) => repetition.pattern.visit_rows(found),
        }
    }

    /// The variables that the first row of a match may have.
    pub fn first_variables(&self) -> Vec<usize> {
        let mut variables = match self {
            Pattern::Empty | Pattern::Start | Pattern::End => Vec::new(),
            Pattern::Row { variable, .. } => vec![*variable],
            Pattern::Concat(parts) => {
                let n_nullable = parts.iter().take_while(|part| part.is_nullable()).count();
                parts.iter().take(n_nullable + 1).flat_map(Pattern::first_variables).collect()
            }
            Pattern::Alternation(parts) => parts.iter().flat_map(Pattern::first_variables).collect(),
            Pattern::Repetition(repetition) => repetition.pattern.first_variables(),
        };
        variables.sort_unstable();
        variables.dedup();
        variables
    }

    /// Whether it asks where the partition begins or ends.
    pub fn has_anchor(&self, anchor: &Pattern) -> bool {
        match self {
            Pattern::Start | Pattern::End => self == anchor,
            Pattern::Empty | Pattern::Row { .. } => false,
            Pattern::Concat(parts) | Pattern::Alternation(parts) => {
                parts.iter().any(|part| part.has_anchor(anchor))
            }
            Pattern::Repetition(repetition) => repetition.pattern.has_anchor(anchor),
        }
    }
}

impl MatchValue {
    fn shift(&self) -> i64 {
        match &self.kind {
            MatchValueKind::Column(navigation, _) | MatchValueKind::Classifier(navigation) => {
                navigation.shift
            }
            MatchValueKind::MatchNumber | MatchValueKind::Aggregate(_) => 0,
        }
    }
}

impl MatchRecognize {
    /// How many rows before a match's first it may depend on.
    pub fn back(&self) -> usize {
        let values = self.condition_values.iter().chain(&self.measures);
        values.map(|value| value.shift().min(0).unsigned_abs() as usize).max().unwrap_or(0)
    }

    /// How many rows behind a match's last its measures may depend on.
    pub fn ahead(&self) -> usize {
        self.measures.iter().map(|value| value.shift().max(0) as usize).max().unwrap_or(0)
    }

    /// Whether results depend on how many matches there were before.
    pub fn numbers_matches(&self) -> bool {
        let mut values = self.condition_values.iter().chain(&self.measures);
        values.any(|value| matches!(value.kind, MatchValueKind::MatchNumber))
    }

    /// Whether rows are shown that no match has.
    pub fn shows_unmatched_rows(&self) -> bool {
        self.shown == Shown::All(EmptyMatches::WithUnmatchedRows)
    }

    /// Whether what was in a partition before matters to later matches once the rows themselves do not.
    pub fn remembers(&self) -> bool {
        self.back() > 0 || self.numbers_matches() || self.pattern.has_anchor(&Pattern::Start)
    }

    /// Whether a match is settled in bounded time behind its first row.
    pub fn is_bounded_in_time(&self) -> bool {
        let looks_ahead = self.ahead() > 0
            || self.condition_values.iter().any(|value| value.shift() > 0)
            || self.pattern.has_anchor(&Pattern::End);
        self.within.is_some() && !looks_ahead
    }

    /// Of a variable, or of several: `A`, `(A, B)`.
    fn names(&self, variables: &[usize]) -> String {
        let names: Vec<&str> = variables.iter().map(|idx| self.variables[*idx].name.as_str()).collect();
        match &names[..] {
            [name] => (*name).to_owned(),
            names => format!("({})", names.join(", ")),
        }
    }

    fn fmt_pattern(&self, pattern: &Pattern, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match pattern {
            Pattern::Empty => write!(f, "()"),
            Pattern::Row { variable, is_excluded: false } => write!(f, "{}", self.variables[*variable].name),
            Pattern::Row { variable, is_excluded: true } => {
                write!(f, "{{- {} -}}", self.variables[*variable].name)
            }
            Pattern::Start => write!(f, "^"),
            Pattern::End => write!(f, "$"),
            Pattern::Concat(parts) => {
                for (idx, part) in parts.iter().enumerate() {
                    let space = if idx == 0 { "" } else { " " };
                    write!(f, "{space}")?;
                    self.fmt_part(part, matches!(part, Pattern::Alternation(_)), f)?;
                }
                Ok(())
            }
            Pattern::Alternation(parts) => {
                for (idx, part) in parts.iter().enumerate() {
                    let bar = if idx == 0 { "" } else { " | " };
                    write!(f, "{bar}")?;
                    self.fmt_part(part, false, f)?;
                }
                Ok(())
            }
            Pattern::Repetition(repetition) => {
                let is_simple = matches!(repetition.pattern, Pattern::Row { .. } | Pattern::Empty);
                self.fmt_part(&repetition.pattern, !is_simple, f)?;
                match (repetition.min, repetition.max) {
                    (0, None) => write!(f, "*")?,
                    (1, None) => write!(f, "+")?,
                    (0, Some(1)) => write!(f, "?")?,
                    (min, None) => write!(f, "{{{min},}}")?,
                    (min, Some(max)) if min == max => write!(f, "{{{min}}}")?,
                    (min, Some(max)) => write!(f, "{{{min},{max}}}")?,
                }
                match repetition.is_reluctant {
                    true => write!(f, "?"),
                    false => Ok(()),
                }
            }
        }
    }

    fn fmt_part(&self, part: &Pattern, in_parentheses: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !in_parentheses {
            return self.fmt_pattern(part, f);
        }
        write!(f, "(")?;
        self.fmt_pattern(part, f)?;
        write!(f, ")")
    }

    /// In one line that tells apart whatever gives different results. `column` names an input's column.
    pub fn fmt_with(&self, column: &dyn Fn(usize) -> String, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |columns: &[usize]| columns.iter().map(|idx| column(*idx)).collect::<Vec<_>>().join(", ");
        let order_column = |order: &OrderColumn| match (order.descending, order.nulls_first) {
            (false, false) => column(order.column),
            (false, true) => format!("{} NULLS FIRST", column(order.column)),
            (true, true) => format!("{} DESC", column(order.column)),
            (true, false) => format!("{} DESC NULLS LAST", column(order.column)),
        };
        let order: Vec<String> = self.order_by.iter().map(order_column).collect();
        write!(
            f,
            "MatchRecognize: partition=[{}] order=[{}] pattern=[",
            list(&self.partition),
            order.join(", ")
        )?;
        self.fmt_pattern(&self.pattern, f)?;
        let shown = match self.shown {
            Shown::One => "one row",
            Shown::All(EmptyMatches::Show) => "all rows",
            Shown::All(EmptyMatches::Omit) => "all rows omit empty",
            Shown::All(EmptyMatches::WithUnmatchedRows) => "all rows with unmatched",
        };
        write!(f, "] show=[{shown}] skip=[")?;
        match &self.skip {
            Skip::PastLastRow => write!(f, "past last row")?,
            Skip::ToNextRow => write!(f, "to next row")?,
            Skip::ToFirst(variables) => write!(f, "to first {}", self.names(variables))?,
            Skip::ToLast(variables) => write!(f, "to last {}", self.names(variables))?,
        }
        let values: Vec<String> =
            self.condition_values.iter().map(|value| self.value_text(value, column)).collect();
        let define = |variable: &Variable| {
            let condition = variable.condition.as_ref()?;
            Some(format!("{} AS {}", variable.name, with_values(condition, &values)))
        };
        let defines: Vec<String> = self.variables.iter().filter_map(define).collect();
        let measures: Vec<String> =
            self.measures.iter().map(|value| self.value_text(value, column)).collect();
        write!(f, "] define=[{}] measures=[{}]", defines.join(", "), measures.join(", "))?;
        if let Some(within) = self.within {
            let span = std::time::Duration::from_micros(within.micros.max(0) as u64);
            write!(f, " within={span:?}")?;
        }
        if self.is_closing {
            write!(f, " close={}", column(self.order_by[0].column))?;
        }
        Ok(())
    }

    fn value_text(&self, value: &MatchValue, column: &dyn Fn(usize) -> String) -> String {
        let go = |navigation: &Navigation, what: String| {
            let end = match navigation.end {
                NavigationEnd::First => "FIRST",
                NavigationEnd::Last => "LAST",
            };
            let names = match navigation.variables.len() == self.variables.len() {
                true => String::new(),
                false => format!("{}.", self.names(&navigation.variables)),
            };
            let logical = match (navigation.end, navigation.offset) {
                (NavigationEnd::Last, 0) => format!("{names}{what}"),
                (_, 0) => format!("{end}({names}{what})"),
                (_, offset) => format!("{end}({names}{what}, {offset})"),
            };
            match navigation.shift {
                0 => logical,
                shift @ ..0 => format!("PREV({logical}, {})", shift.unsigned_abs()),
                shift => format!("NEXT({logical}, {shift})"),
            }
        };
        let text = match &value.kind {
            MatchValueKind::Column(navigation, idx) => go(navigation, column(*idx)),
            MatchValueKind::Classifier(navigation) => go(navigation, "CLASSIFIER()".into()),
            MatchValueKind::MatchNumber => "MATCH_NUMBER()".into(),
            MatchValueKind::Aggregate(_) => value.display.clone(),
        };
        match value.is_final && self.shown != Shown::One {
            true => format!("FINAL {text}"),
            false => text,
        }
    }
}

/// A condition as it was written: with what it reads in place of the columns that hold it.
fn with_values(condition: &Expr, values: &[String]) -> String {
    let mut text = condition.to_string();
    // Longer names first: `v1` is a part of `v10`.
    for (idx, value) in values.iter().enumerate().rev() {
        text = text.replace(&value_column(idx), value);
    }
    text
}

/// The name of the column that holds a value.
pub fn value_column(idx: usize) -> String {
    format!("__value{idx}")
}
