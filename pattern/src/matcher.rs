//! The search for a match that begins at a row.
//!
//! Of all ways to map rows to variables the pattern prefers one; the first one found by trying what is preferred
//! and coming back for the rest is it. Two things keep that from taking for ever. Where all that is yet
//! to come depends only on the place among the rows, a place that led nowhere once is not tried again, by this
//! search nor by one from a later row: most patterns then take a time in proportion to rows times steps. And a
//! search that takes too many steps all the same is an error.
//!
//! A search tells how far it looked. As long as no row before that changes, and none that conditions look back to, it
//! gives the same again.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::{Column as ColumnName, DFSchema};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::create_physical_expr;
use tidemill_plan as plan;

use crate::Error;
use crate::condition::{Block, Condition, Context, Test};
use crate::program::{Program, Step};
use crate::rows::Rows;
use crate::trail::{Notes, Trail, Value};

/// How many steps a search takes at most. Each takes some ten nanoseconds, or a microsecond where a condition has to be
/// evaluated for one row.
const STEPS_MAX: usize = 10_000_000;

/// How many steps are taken between two looks at whether somebody still waits.
const STEPS_BETWEEN_LOOKS: usize = 1 << 16;

/// A plan's `MATCH_RECOGNIZE`, ready to run. It holds nothing of any row.
#[derive(Debug)]
pub struct Matcher {
    pub(crate) plan: plan::MatchRecognize,
    program: Program,
    /// For each step, whether what comes of it depends on the place only.
    free_steps: Vec<bool>,
    conditions: Vec<Option<Condition>>,
    condition_values: Vec<Value>,
    condition_notes: Notes,
    condition_memberships: Vec<Vec<usize>>,
    pub(crate) measures: Vec<Value>,
    pub(crate) measure_notes: Notes,
    pub(crate) measure_memberships: Vec<Vec<usize>>,
    /// The column that WITHIN measures.
    time: Option<usize>,
    n_steps_max: usize,
}

/// A run of rows that the pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its first row; of an empty one, the row at which it is.
    pub start: usize,
    /// For each row its variable, and whether it is excluded.
    pub(crate) mapped: Vec<(u16, bool)>,
}

impl Match {
    /// Behind its last row.
    pub fn end(&self) -> usize {
        self.start + self.mapped.len()
    }

    pub fn is_empty(&self) -> bool {
        self.mapped.is_empty()
    }

    /// The variable of each row.
    pub fn variables(&self) -> impl Iterator<Item = usize> {
        self.mapped.iter().map(|(variable, _)| usize::from(*variable))
    }
}

/// What a search comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It has to know rows that have not been read.
    Unread,
    Done {
        found: Option<Match>,
        /// It depends on no row from here on. One more than there are rows: on there being no more.
        reach: usize,
    },
}

/// Places that led nowhere.
#[derive(Debug, Default)]
pub struct Memory {
    /// For each step that is free and has two ways on, a bit for each row.
    visited: Vec<Vec<u64>>,
    touched: Vec<(u32, u32)>,
    /// How far the searches looked that found these places to lead nowhere.
    reach: usize,
    blocks: Vec<Block>,
}

impl Memory {
    fn visit(&mut self, step: usize, row: usize) -> bool {
        let (word, bit) = (row / 64, 1u64 << (row % 64));
        if self.visited.len() <= step {
            self.visited.resize_with(step + 1, Vec::new);
        }
        let words = &mut self.visited[step];
        if words.len() <= word {
            words.resize((word + 1).next_power_of_two(), 0);
        }
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        if is_new {
            self.touched.push((step as u32, word as u32));
        }
        is_new
    }

    fn forget(&mut self) {
        for (step, word) in self.touched.drain(..) {
            self.visited[step as usize][word as usize] = 0;
        }
        self.reach = 0;
    }
}

/// What to come back for.
#[derive(Debug, Clone, Copy)]
enum Way {
    Step { step: usize, n_rows: usize },
    Register { register: usize, before: usize },
}

impl Matcher {
    /// `input` is the schema of the rows.
    pub fn new(plan: &plan::MatchRecognize, input: &SchemaRef) -> Result<Matcher, Error> {
        let program = Program::new(&plan.pattern)?;
        let mut condition_notes = Notes::default();
        let condition_values = plan
            .condition_values
            .iter()
            .map(|value| condition_notes.value(value, input))
            .collect::<Result<Vec<_>, _>>()?;
        let mut conditions = Vec::new();
        for (idx, variable) in plan.variables.iter().enumerate() {
            let condition = match &variable.condition {
                Some(expr) => Some(condition(idx, expr, plan, &condition_values, &condition_notes)?),
                None => None,
            };
            conditions.push(condition);
        }
        let is_free = |variable: usize| conditions[variable].as_ref().is_none_or(|it| it.is_free);
        let free_steps = program.free_steps(is_free);
        let mut measure_notes = Notes::default();
        let measures = plan
            .measures
            .iter()
            .map(|value| measure_notes.value(value, input))
            .collect::<Result<Vec<_>, _>>()?;
        let n_variables = plan.variables.len();
        Ok(Matcher {
            free_steps,
            conditions,
            condition_values,
            condition_memberships: condition_notes.memberships(n_variables),
            condition_notes,
            measures,
            measure_memberships: measure_notes.memberships(n_variables),
            measure_notes,
            time: plan.within.map(|_| plan.order_by[0].column),
            n_steps_max: STEPS_MAX,
            program,
            plan: plan.clone(),
        })
    }

    #[cfg(test)]
    pub(crate) fn with_steps_max(self, n_steps_max: usize) -> Matcher {
        Matcher { n_steps_max, ..self }
    }

    pub fn plan(&self) -> &plan::MatchRecognize {
        &self.plan
    }

    /// The column that [`Rows`] have to know the times of.
    pub fn time(&self) -> Option<usize> {
        self.time
    }

    /// Searches for a match that begins at row `start`, as match `number` of its partition.
    ///
    /// `memory` is of earlier searches in the same rows, from earlier starts. `is_wanted` is asked now and then.
    pub fn attempt(
        &self,
        rows: &mut Rows,
        start: usize,
        number: i64,
        memory: &mut Memory,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Attempt, Error> {
        rows.known.resize_with(self.conditions.len(), Vec::new);
        memory.blocks.resize_with(self.conditions.len(), Block::default);
        if self.plan.within.is_some() {
            // What is too late for one start may not be for the next.
            memory.forget();
        }
        let attempt = self.search(rows, start, number, memory, is_wanted)?;
        match &attempt {
            Attempt::Done { found: None, reach } => memory.reach = memory.reach.max(*reach),
            // What was tried last led somewhere.
            Attempt::Done { found: Some(_), .. } | Attempt::Unread => memory.forget(),
        }
        Ok(attempt)
    }

    fn search(
        &self,
        rows: &mut Rows,
        start: usize,
        number: i64,
        memory: &mut Memory,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Attempt, Error> {
        let within = self.plan.within.map(|within| within.micros);
        let mut trail = Trail::new(&self.condition_notes, &self.condition_memberships, start);
        let mut ways: Vec<Way> = Vec::new();
        let mut registers = vec![0; self.program.n_registers];
        let mut reach = start + 1;
        let mut step = 0;
        for n_steps in 0.. {
            if n_steps >= self.n_steps_max {
                return Err(Error::TooManySteps { n_steps: self.n_steps_max });
            }
            if n_steps % STEPS_BETWEEN_LOOKS == STEPS_BETWEEN_LOOKS - 1 && !is_wanted() {
                return Err(Error::Cancelled);
            }
            let row = trail.next_row();
            let goes_on = match self.program.steps[step] {
                Step::Match => {
                    let mut found = Match { start, mapped: trail.mapped };
                    found.mapped.shrink_to_fit();
                    return Ok(Attempt::Done { found: Some(found), reach });
                }
                Step::Jump(next) => {
                    step = next;
                    continue;
                }
                Step::Split { first, second } => {
                    if self.free_steps[step] && !memory.visit(step, row) {
                        // It has led nowhere before, as far as was looked then.
                        reach = reach.max(memory.reach);
                        false
                    } else {
                        ways.push(Way::Step { step: second, n_rows: trail.mapped.len() });
                        step = first;
                        continue;
                    }
                }
                Step::Enter(register) => {
                    ways.push(Way::Register { register, before: registers[register] });
                    registers[register] = row;
                    true
                }
                Step::Leave { register, exit } => {
                    if registers[register] == row {
                        step = exit;
                        continue;
                    }
                    true
                }
                Step::Start => row == 0 && rows.is_first,
                Step::End => {
                    reach = reach.max(row + 1);
                    if row == rows.len && !rows.is_complete {
                        return Ok(Attempt::Unread);
                    }
                    row == rows.len
                }
                Step::Row { variable, is_excluded } => {
                    if row == rows.len {
                        if !rows.is_over(start, within) {
                            if !rows.is_complete {
                                return Ok(Attempt::Unread);
                            }
                            reach = reach.max(row + 1);
                        }
                        false
                    } else if within.is_some_and(|within| !rows.is_within(start, row, within)) {
                        reach = reach.max(row + 1);
                        false
                    } else {
                        let condition = self.conditions[variable].as_ref();
                        reach = reach.max(row + 1 + condition.map_or(0, Condition::ahead));
                        let test = self.test(variable, is_excluded, number, &mut trail, memory, rows)?;
                        if test == Test::Unread {
                            return Ok(Attempt::Unread);
                        }
                        test == Test::True
                    }
                }
            };
            if goes_on {
                step += 1;
                continue;
            }
            loop {
                match ways.pop() {
                    None => return Ok(Attempt::Done { found: None, reach }),
                    Some(Way::Register { register, before }) => registers[register] = before,
                    Some(Way::Step { step: next, n_rows }) => {
                        trail.truncate(n_rows);
                        step = next;
                        break;
                    }
                }
            }
        }
        unreachable!("steps are counted without end")
    }

    /// Maps the next row to a variable, if it fulfils the condition.
    fn test(
        &self,
        variable: usize,
        is_excluded: bool,
        number: i64,
        trail: &mut Trail<'_>,
        memory: &mut Memory,
        rows: &mut Rows,
    ) -> Result<Test, Error> {
        let Some(condition) = &self.conditions[variable] else {
            trail.push(variable, is_excluded);
            return Ok(Test::True);
        };
        if condition.is_free {
            let test = condition.test_free(trail.next_row(), &self.condition_values, rows)?;
            if test == Test::True {
                trail.push(variable, is_excluded);
            }
            return Ok(test);
        }
        let n_rows = trail.mapped.len();
        trail.push(variable, is_excluded);
        let block = &mut memory.blocks[variable];
        let context = Context { values: &self.condition_values, variables: &self.plan.variables, number };
        let test = condition.test(block, trail, &context, rows)?;
        if test != Test::True {
            trail.truncate(n_rows);
        }
        Ok(test)
    }
}

fn condition(
    variable: usize,
    expr: &datafusion::logical_expr::Expr,
    plan: &plan::MatchRecognize,
    values: &[Value],
    notes: &Notes,
) -> Result<Condition, Error> {
    let columns = expr.column_refs();
    let is_read = |idx: &usize| columns.contains(&ColumnName::from_name(plan::value_column(*idx)));
    let reads: Vec<usize> = (0..values.len()).filter(is_read).collect();
    let fields = reads.iter().map(|idx| plan.condition_schema.field(*idx).as_ref().clone().into());
    let schema = DFSchema::from_unqualified_fields(
        fields.collect::<Vec<arrow::datatypes::FieldRef>>().into(),
        Default::default(),
    )?;
    let expr =
        create_physical_expr(expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    Ok(Condition::new(variable, Arc::clone(&expr), reads, values, notes))
}
