//! A pattern as the steps of a search.
//!
//! The search tries what the pattern prefers first and comes back for the rest, as backtracking regular expressions
//! do (Cox, *Regular Expression Matching: the Virtual Machine Approach*, 2009). Repetitions are written out:
//! `A{2,3}` is `A A A?`. An iteration that takes no row ends its loop, so that none goes on for ever.

use tidemill_plan::{Pattern, Repetition};

use crate::Error;

/// How many steps a program has at most.
const LEN_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next row is one of this variable.
    Row {
        variable: usize,
        is_excluded: bool,
    },
    /// Goes on at `first`, and if nothing comes of it, at `second`.
    Split {
        first: usize,
        second: usize,
    },
    Jump(usize),
    /// The partition begins, or ends, here.
    Start,
    End,
    /// An iteration begins; its place is noted in a register.
    Enter(usize),
    /// An iteration ends; if it took no row, the loop does.
    Leave {
        register: usize,
        exit: usize,
    },
    Match,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub steps: Vec<Step>,
    pub n_registers: usize,
}

impl Program {
    pub fn new(pattern: &Pattern) -> Result<Program, Error> {
        if len(pattern) > LEN_MAX {
            return Err(Error::TooLarge { n_max: LEN_MAX });
        }
        let mut program = Program { steps: Vec::new(), n_registers: 0 };
        program.add(pattern);
        program.steps.push(Step::Match);
        Ok(program)
    }

    fn add(&mut self, pattern: &Pattern) {
        match pattern {
            Pattern::Empty => (),
            Pattern::Row { variable, is_excluded } => {
                self.steps.push(Step::Row { variable: *variable, is_excluded: *is_excluded });
            }
            Pattern::Start => self.steps.push(Step::Start),
            Pattern::End => self.steps.push(Step::End),
            Pattern::Concat(parts) => parts.iter().for_each(|part| self.add(part)),
            Pattern::Alternation(parts) => self.alternation(parts),
            Pattern::Repetition(repetition) => self.repetition(repetition),
        }
    }

    fn alternation(&mut self, parts: &[Pattern]) {
        let Some((last, others)) = parts.split_last() else { return };
        let mut ends = Vec::new();
        for part in others {
            let split = self.hole();
            self.add(part);
            ends.push(self.hole());
            self.steps[split] = Step::Split { first: split + 1, second: self.steps.len() };
        }
        self.add(last);
        for end in ends {
            self.steps[end] = Step::Jump(self.steps.len());
        }
    }

    fn repetition(&mut self, repetition: &Repetition) {
        let Repetition { pattern, min, max, is_reluctant } = repetition;
        (0..*min).for_each(|_| self.add(pattern));
        let mut splits = Vec::new();
        let mut leaves = Vec::new();
        let n_optional = max.map(|max| max.saturating_sub(*min));
        for _ in 0..n_optional.unwrap_or(1) {
            let split = self.hole();
            splits.push(split);
            let register = pattern.is_nullable().then(|| {
                self.n_registers += 1;
                self.steps.push(Step::Enter(self.n_registers - 1));
                self.n_registers - 1
            });
            self.add(pattern);
            if let Some(register) = register {
                leaves.push((self.hole(), register));
            }
            if n_optional.is_none() {
                self.steps.push(Step::Jump(split));
            }
        }
        let exit = self.steps.len();
        for split in splits {
            self.steps[split] = match is_reluctant {
                false => Step::Split { first: split + 1, second: exit },
                true => Step::Split { first: exit, second: split + 1 },
            };
        }
        for (leave, register) in leaves {
            self.steps[leave] = Step::Leave { register, exit };
        }
    }

    /// A step that is put in later.
    fn hole(&mut self) -> usize {
        self.steps.push(Step::Match);
        self.steps.len() - 1
    }

    /// For each step, whether what follows it depends on nothing but the place among the rows: `is_free` says so
    /// of a variable's condition.
    pub fn free_steps(&self, is_free: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut free: Vec<bool> = self
            .steps
            .iter()
            .map(|step| match step {
                Step::Row { variable, .. } => is_free(*variable),
                // What a register holds is not part of the place.
                Step::Enter(_) | Step::Leave { .. } => false,
                _ => true,
            })
            .collect();
        loop {
            let mut is_changed = false;
            for (idx, step) in self.steps.iter().enumerate().rev() {
                let follows = match step {
                    Step::Split { first, second } => free[*first] && free[*second],
                    Step::Jump(next) => free[*next],
                    Step::Match => true,
                    _ => free[idx + 1],
                };
                is_changed |= free[idx] && !follows;
                free[idx] &= follows;
            }
            if !is_changed {
                return free;
            }
        }
    }
}

/// How many steps a pattern takes, at least.
fn len(pattern: &Pattern) -> usize {
    let sum = |parts: &[Pattern]| parts.iter().map(len).fold(0usize, usize::saturating_add);
    match pattern {
        Pattern::Empty => 0,
        Pattern::Row { .. } | Pattern::Start | Pattern::End => 1,
        Pattern::Concat(parts) => sum(parts),
        Pattern::Alternation(parts) => sum(parts).saturating_add(2 * parts.len()),
        Pattern::Repetition(repetition) => {
            let n_copies = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(repetition.min);
            len(&repetition.pattern).saturating_add(3).saturating_mul(n_copies as usize)
        }
    }
}
