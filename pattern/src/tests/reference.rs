//! Row patterns by their definition: every way to map rows to variables, the preferred ones first, until one fits.
//!
//! Nothing is remembered and nothing is clever: a pattern takes what is to come after it as a function.

use tidemill_plan::{EmptyMatches, Pattern, Shown, Skip};

use super::Case;
use crate::testing::{Demand, Recipe};

pub(super) struct Reference<'a> {
    pub case: &'a Case,
}

type Mapped = Vec<(usize, bool)>;

/// What comes after a part of a pattern; says whether all of it fits.
type Rest<'r> = &'r mut dyn FnMut(&mut Mapped) -> bool;

/// A search: its first row, and the number that its match would have.
#[derive(Clone, Copy)]
struct Search {
    start: usize,
    number: i64,
}

impl Reference<'_> {
    fn v(&self, row: i64) -> Option<i64> {
        usize::try_from(row).ok().and_then(|row| self.case.rows.get(row)?.0)
    }

    fn fits(&self, search: Search, pattern: &Pattern, mapped: &mut Mapped, rest: Rest<'_>) -> bool {
        let row = search.start + mapped.len();
        match pattern {
            Pattern::Empty => rest(mapped),
            Pattern::Start => row == 0 && rest(mapped),
            Pattern::End => row == self.case.rows.len() && rest(mapped),
            Pattern::Row { variable, is_excluded } => {
                if row == self.case.rows.len() {
                    return false;
                }
                mapped.push((*variable, *is_excluded));
                if self.demands(search, mapped) && rest(mapped) {
                    return true;
                }
                mapped.pop();
                false
            }
            Pattern::Concat(parts) => match &parts[..] {
                [] => rest(mapped),
                [first, others @ ..] => {
                    let others = Pattern::Concat(others.to_vec());
                    self.fits(search, first, mapped, &mut |mapped| self.fits(search, &others, mapped, rest))
                }
            },
            Pattern::Alternation(parts) => parts.iter().any(|part| self.fits(search, part, mapped, rest)),
            Pattern::Repetition(repetition) => {
                self.repeats(search, pattern, repetition.min, repetition.max, mapped, rest)
            }
        }
    }

    fn repeats(
        &self,
        search: Search,
        pattern: &Pattern,
        min: u32,
        max: Option<u32>,
        mapped: &mut Mapped,
        rest: Rest<'_>,
    ) -> bool {
        let Pattern::Repetition(repetition) = pattern else { unreachable!() };
        let part = &repetition.pattern;
        let fewer = max.map(|max| max.saturating_sub(1));
        if min > 0 {
            return self.fits(search, part, mapped, &mut |mapped| {
                self.repeats(search, pattern, min - 1, fewer, mapped, rest)
            });
        }
        if repetition.is_reluctant && rest(mapped) {
            return true;
        }
        let n_before = mapped.len();
        if max != Some(0) {
            let once_more = self.fits(search, part, mapped, &mut |mapped| match mapped.len() == n_before {
                // An iteration that takes no row is the last.
                true => rest(mapped),
                false => self.repeats(search, pattern, 0, fewer, mapped, rest),
            });
            if once_more {
                return true;
            }
        }
        !repetition.is_reluctant && rest(mapped)
    }

    /// Whether the last mapped row fulfils what its variable demands.
    fn demands(&self, search: Search, mapped: &Mapped) -> bool {
        let (own, row) = (mapped[mapped.len() - 1].0, (search.start + mapped.len() - 1) as i64);
        let times = self.case.times();
        if let Some(within) = self.case.recipe.within
            && times[row as usize] - times[search.start] >= within
        {
            return false;
        }
        let of = |variable: usize| self.rows_of(search.start, mapped, &[variable]);
        let above = |other: Option<i64>| match (self.v(row), other) {
            (Some(own), Some(other)) => own > other,
            _ => false,
        };
        match self.case.recipe.demands[own] {
            Demand::Nothing => true,
            Demand::Below(n) => self.v(row).is_some_and(|v| v < n),
            Demand::Up => above(self.v(row - 1)),
            Demand::NextUp => match (self.v(row), self.v(row + 1)) {
                (Some(own), Some(next)) => own < next,
                _ => false,
            },
            Demand::AboveFirst(x, n) => above(of(x).get(n).and_then(|row| self.v(*row))),
            Demand::AboveLast(x, n) => above(of(x).iter().rev().nth(n).and_then(|row| self.v(*row))),
            Demand::AbovePrevOfFirst(x) => above(of(x).first().and_then(|row| self.v(*row - 1))),
            Demand::SumBelow(n) => {
                let values: Vec<i64> = (search.start as i64..=row).filter_map(|row| self.v(row)).collect();
                !values.is_empty() && values.iter().sum::<i64>() < n
            }
            Demand::CountUpTo(x, n) => of(x).len() as i64 <= n,
            Demand::NotMatch(n) => search.number != n,
            Demand::Behind(x) => mapped.len() > 1 && mapped[mapped.len() - 2].0 == x,
        }
    }

    fn rows_of(&self, start: usize, mapped: &[(usize, bool)], variables: &[usize]) -> Vec<i64> {
        let is_one = |(_, (variable, _)): &(usize, &(usize, bool))| variables.contains(variable);
        mapped.iter().enumerate().filter(is_one).map(|(idx, _)| (start + idx) as i64).collect()
    }

    /// What is shown, a line for each row.
    pub fn run(&self) -> Result<Vec<String>, ()> {
        let n_rows = self.case.rows.len();
        let (mut lines, mut start, mut number, mut covered) = (Vec::new(), 0, 0, 0);
        while start < n_rows {
            let mut mapped = Vec::new();
            let search = Search { start, number: number + 1 };
            if !self.fits(search, &self.case.recipe.pattern, &mut mapped, &mut |_| true) {
                if self.case.recipe.shown == Shown::All(EmptyMatches::WithUnmatchedRows) && start >= covered {
                    lines.push(format!("{} - - - - - - -", text(self.v(start as i64))));
                }
                start += 1;
                continue;
            }
            number += 1;
            covered = covered.max(start + mapped.len());
            self.show(start, number, &mapped, &mut lines);
            let place = |variables: &Vec<usize>, is_last: bool| -> Result<usize, ()> {
                let rows = self.rows_of(start, &mapped, variables);
                let row = if is_last { rows.last() } else { rows.first() };
                row.map(|row| *row as usize).filter(|row| *row > start).ok_or(())
            };
            start = match &self.case.recipe.skip {
                _ if mapped.is_empty() => start + 1,
                Skip::PastLastRow => start + mapped.len(),
                Skip::ToNextRow => start + 1,
                Skip::ToFirst(variables) => place(variables, false)?,
                Skip::ToLast(variables) => place(variables, true)?,
            };
        }
        Ok(lines)
    }

    fn show(&self, start: usize, number: i64, mapped: &Mapped, lines: &mut Vec<String>) {
        let all = self.case.recipe.all();
        let line = |seen: &[(usize, bool)], passed: Option<i64>| {
            let last = self.rows_of(start, seen, &all).last().copied();
            let a = self.rows_of(start, seen, &[0]);
            let a_all = self.rows_of(start, mapped, &[0]);
            let values: Vec<i64> = a_all.iter().filter_map(|row| self.v(*row)).collect();
            let words = [
                number.to_string(),
                seen.last().map_or("-".into(), |(variable, _)| Recipe::name(*variable)),
                text(last.and_then(|row| self.v(row))),
                text(a.get(1).and_then(|row| self.v(*row))),
                text(a_all.first().and_then(|row| self.v(*row - 1))),
                seen.len().to_string(),
                text((!values.is_empty()).then(|| values.iter().sum())),
            ];
            let passed = passed.map(|row| text(self.v(row)));
            passed.into_iter().chain(words).collect::<Vec<_>>().join(" ")
        };
        match self.case.recipe.shown {
            Shown::One => lines.push(line(mapped, None)),
            Shown::All(EmptyMatches::Omit) if mapped.is_empty() => (),
            Shown::All(_) if mapped.is_empty() => lines.push(line(mapped, Some(start as i64))),
            Shown::All(_) => {
                for (idx, (_, is_excluded)) in mapped.iter().enumerate() {
                    if !is_excluded {
                        lines.push(line(&mapped[..=idx], Some((start + idx) as i64)));
                    }
                }
            }
        }
    }
}

fn text(value: Option<i64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}
