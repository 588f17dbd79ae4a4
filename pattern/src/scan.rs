//! One search after the other: which matches a partition has.
//!
//! The first search begins at the first row. Each says where the next begins: behind the row where none
//! was found, or where AFTER MATCH SKIP goes. Always further on, so the scan ends.

use tidemill_plan::{EmptyMatches, Shown, Skip};

use crate::matcher::{Attempt, Match, Matcher, Memory};
use crate::rows::Rows;
use crate::{Error, show::Sighting};

/// Between two searches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stand {
    /// Where the next search begins.
    pub row: usize,
    /// The rows before this one have been in some match, or are before `row`.
    pub covered: usize,
    /// How many matches there have been.
    pub n_matches: i64,
    /// The searches so far depend on no row from here on.
    pub reach: usize,
}

/// What a search did.
#[derive(Debug)]
pub enum Advance {
    /// It has to know rows that have not been read; nothing has changed.
    Unread,
    /// It is over, with what is to be shown of it.
    Done(Option<Sighting>),
}

/// Searches from a stand on.
#[derive(Debug)]
pub struct Scan<'a> {
    matcher: &'a Matcher,
    memory: Memory,
    pub stand: Stand,
}

impl<'a> Scan<'a> {
    pub fn new(matcher: &'a Matcher, stand: Stand) -> Scan<'a> {
        Scan { matcher, memory: Memory::default(), stand }
    }

    /// Whether there is nothing to search behind what has been read.
    pub fn is_at_end(&self, rows: &Rows) -> bool {
        rows.is_complete && self.stand.row >= rows.len
    }

    /// One search. `is_wanted` is asked now and then whether somebody waits for it.
    pub fn advance(&mut self, rows: &mut Rows, is_wanted: &dyn Fn() -> bool) -> Result<Advance, Error> {
        let stand = self.stand;
        if stand.row >= rows.len {
            assert!(!rows.is_complete, "no search begins behind the last row");
            return Ok(Advance::Unread);
        }
        let number = stand.n_matches + 1;
        let attempt = self.matcher.attempt(rows, stand.row, number, &mut self.memory, is_wanted)?;
        let Attempt::Done { found, mut reach } = attempt else { return Ok(Advance::Unread) };
        let plan = &self.matcher.plan;
        let next = Stand { row: stand.row + 1, covered: stand.covered.max(stand.row + 1), ..stand };
        let (next, sighting) = match found {
            None => {
                let is_shown = plan.shows_unmatched_rows() && stand.row >= stand.covered;
                (next, is_shown.then_some(Sighting::Unmatched(stand.row)))
            }
            Some(found) => {
                if !found.is_empty() {
                    reach = reach.max(found.end() + plan.ahead());
                    if reach > rows.len && plan.ahead() > 0 && !rows.is_complete {
                        return Ok(Advance::Unread);
                    }
                }
                let next = Stand {
                    row: self.next_row(&found)?,
                    covered: next.covered.max(found.end()),
                    n_matches: number,
                    ..next
                };
                let is_omitted = found.is_empty() && plan.shown == Shown::All(EmptyMatches::Omit);
                (next, (!is_omitted).then_some(Sighting::Match(found, number)))
            }
        };
        self.stand = Stand { reach: stand.reach.max(reach), ..next };
        assert!(self.stand.row > stand.row, "a scan goes on");
        Ok(Advance::Done(sighting))
    }

    /// Where AFTER MATCH SKIP goes.
    fn next_row(&self, found: &Match) -> Result<usize, Error> {
        if found.is_empty() {
            return Ok(found.start + 1);
        }
        let plan = &self.matcher.plan;
        let (variables, is_last) = match &plan.skip {
            Skip::PastLastRow => return Ok(found.end()),
            Skip::ToNextRow => return Ok(found.start + 1),
            Skip::ToFirst(variables) => (variables, false),
            Skip::ToLast(variables) => (variables, true),
        };
        let is_one = |variable: usize| variables.contains(&variable);
        let place = match is_last {
            false => found.variables().position(is_one),
            true => found.mapped.iter().rposition(|(variable, _)| is_one(usize::from(*variable))),
        };
        let names: Vec<&str> = variables.iter().map(|idx| plan.variables[*idx].name.as_str()).collect();
        let variable = names.join(", ");
        match place {
            None => Err(Error::SkipToNothing { variable }),
            Some(0) => Err(Error::SkipToFirstRow { variable }),
            Some(place) => Ok(found.start + place),
        }
    }
}
