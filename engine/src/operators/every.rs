//! `EMIT EVERY …` and early results of windows: changes are held back and leave together.
//!
//! ```text
//!            boundary               boundary
//!   ────┼────x──y──x─────────┼──────────z──────▶ now
//!       │                    └ out: x and y, as one change
//! ```
//!
//! Boundaries are the multiples of the interval since 1970, so that they are the same whatever happens. At the first
//! step that reaches one, all changes of the epochs before it leave; those of the step itself wait for the
//! next. When the pipeline is made its first result leaves at once.
//!
//! With windows, rows whose time is complete leave at once too.
//!
//! State: the changes that are held back, those of a row added up.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{RunBuilder, Snapshot, SortColumn};

use super::closing::{limit, micros};
use super::{BATCH_ROWS, Build, Operator, Output, StateTable, StepContext, ascending, output_batch};
use crate::Error;

pub(crate) struct Every {
    every: plan::Every,
    /// The row's time in microseconds, the row.
    held: StateTable,
    output: SchemaRef,
}

impl Every {
    pub fn new(every: &plan::Every, build: &Build) -> Result<Every, Error> {
        let input = &build.inputs[0];
        let all: Vec<usize> = (0..input.fields().len()).collect();
        let mut columns = vec![SortColumn::ascending(&Field::new("__time", DataType::Int64, true))];
        columns.extend(ascending(input, &all));
        let deal_by = all.iter().map(|column| column + 1).collect();
        Ok(Every {
            every: every.clone(),
            held: StateTable::new("held", columns, 1, deal_by)?,
            output: build.output.clone(),
        })
    }

    fn hold(&mut self, input: &Delta) -> Result<(), Error> {
        let times: ArrayRef = match &self.every.close {
            Some(close) => Arc::new(micros(input.batch().column(close.column))?),
            None => Arc::new(Int64Array::new_null(input.len())),
        };
        let columns = [&[times], input.rows().columns()].concat();
        self.held.add(&columns, input.weights().values())
    }

    /// Lets go of what is held: all of it, or what is complete.
    fn release(&mut self, complete: Option<(Option<i64>, i64)>, output: &mut Output) -> Result<(), Error> {
        let snapshot = self.held.snapshot();
        let mut cursor = snapshot.cursor();
        let end = match complete {
            Some((before, now)) => {
                // Up to the limit before nothing is left.
                cursor.seek(&self.behind(before.unwrap_or(i64::MIN))?);
                Some(self.behind(now)?)
            }
            None => None,
        };
        let released: Vec<(&[u8], i64)> =
            cursor.take_while(|(row, _)| end.as_ref().is_none_or(|end| *row < &end[..])).collect();
        if end.is_none() {
            // Nothing is left, so that nothing need be merged either.
            self.held.arrangement.reset(Snapshot::of(snapshot.layout().clone(), Vec::new()));
        } else {
            let mut gone = RunBuilder::with_capacity(released.len(), 0);
            released.iter().for_each(|(row, weight)| gone.push(row, -weight));
            self.held.arrangement.append(gone.finish());
        }
        for rows in released.chunks(BATCH_ROWS) {
            let columns = self.held.layout().decode(rows.iter().map(|(row, _)| *row))?;
            let weights = rows.iter().map(|(_, weight)| *weight).collect();
            output.push(output_batch(&self.output, columns[1..].to_vec(), weights)?);
        }
        Ok(())
    }

    fn behind(&self, time: i64) -> Result<Vec<u8>, Error> {
        let time: ArrayRef = Arc::new(Int64Array::from(vec![time.saturating_add(1)]));
        Ok(self.held.layout().encode_keys(&[time])?.row(0).data().to_vec())
    }

    /// How many boundaries there are up to a time.
    fn boundary(&self, time: i64) -> i64 {
        time.div_euclid(self.every.interval)
    }
}

impl Operator for Every {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("changes of one input are held back") };
        let mut output = Output::default();
        if self.boundary(context.now) > self.boundary(context.now_before) {
            self.release(None, &mut output)?;
        }
        if !input.is_empty() {
            self.hold(input)?;
        }
        if context.is_created {
            self.release(None, &mut output)?;
        } else if let Some(close) = &self.every.close
            && let Some(now) = limit(&close.sources, &context.watermarks)
        {
            let before = limit(&close.sources, &context.watermarks_before);
            self.release(Some((before, now)), &mut output)?;
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.held]
    }

    fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        let is_empty = self.held.arrangement.current().cursor().next().is_none();
        let next = (self.boundary(now) + 1).saturating_mul(self.every.interval);
        Ok((!is_empty).then_some(next))
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;
    use tidemill_plan::{Close, CloseSource, RelationId};

    use crate::operators::testing::Bench;

    #[test]
    fn changes_leave_together_at_the_boundary() {
        let every = plan::Every { interval: 10, close: None };
        Bench::new(plan::Operator::Every(every), &["a:t v:i"], &["a:t v:i"])
            .now(3)
            .check("+ x 1; + y 1", "")
            .next_time(Some(10))
            .now(7)
            .check("- x 1; + x 2", "")
            .now(10)
            // What comes at the boundary belongs to the next.
            .check("- y 1", "+ x 2; + y 1")
            .next_time(Some(20))
            .now(35)
            .check("", "- y 1")
            .next_time(None)
            .now(36)
            .check("+ z 1; - z 1", "")
            .next_time(None);
    }

    #[test]
    fn what_is_complete_does_not_wait() {
        let source = RelationId(1);
        let close = Close { column: 0, sources: vec![CloseSource { relation: source, delay: 1 }] };
        let every = plan::Every { interval: 10, close: Some(close) };
        Bench::new(plan::Operator::Every(every), &["at:ts v:i"], &["at:ts v:i"])
            .now(1)
            .check("+ 5 1; + 9 1; + NULL 1", "")
            .watermark(source, 6)
            .now(2)
            .check("- 5 1; + 5 2; + 20 1", "+ 5 2")
            .now(10)
            .check("- 9 1; + 9 2", "+ 9 1; + 20 1; + NULL 1")
            .watermark(source, 11)
            .check("- 20 1", "- 9 1; + 9 2");
    }
}
