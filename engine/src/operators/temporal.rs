//! Comparisons with `now()` in WHERE: each row is in the output from one moment to another.
//!
//! ```text
//! WHERE ts <= now() + i AND ts > now() - j        from = ts - i        until = ts + j
//!
//!                 from                    until
//!       waiting    |     in the output      |   gone
//!   ───────────────●────────────────────────○────────────▶ now
//! ```
//!
//! State: rows that wait, by the time at which they enter, and rows that are in the output, by the time
//! at which they leave. A step moves those whose time has come, and places the rows of its input. A
//! retraction goes where its row is now, which the two times alone say; so what is gone needs no state.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{RunBuilder, SortColumn};

use super::{BATCH_ROWS, Build, Operator, Output, StateTable, StepContext, ascending, output_batch};
use crate::Error;

/// The time of a row that never leaves.
const NEVER: i64 = i64::MAX;

pub(crate) struct Temporal {
    n_columns: usize,
    from: Vec<usize>,
    until: Vec<usize>,
    /// From, until, the row.
    waiting: StateTable,
    /// Until, the row.
    leaving: StateTable,
    output: SchemaRef,
}

/// Rows with the time at which each of them leaves.
struct Entering {
    until: Vec<i64>,
    weights: Vec<i64>,
    columns: Vec<ArrayRef>,
}

impl Temporal {
    pub fn new(temporal: &plan::Temporal, build: &Build) -> Result<Temporal, Error> {
        let all: Vec<usize> = (0..temporal.n_columns).collect();
        let table = |name: &str, times: &[&str]| {
            let time = |name: &&str| SortColumn::ascending(&Field::new(*name, DataType::Int64, false));
            let mut columns: Vec<SortColumn> = times.iter().map(time).collect();
            columns.extend(ascending(&build.inputs[0], &all));
            StateTable::new(name, columns, 1, all.iter().map(|column| column + times.len()).collect())
        };
        Ok(Temporal {
            n_columns: temporal.n_columns,
            from: temporal.from.clone(),
            until: temporal.until.clone(),
            waiting: table("waiting", &["__from", "__until"])?,
            leaving: table("leaving", &["__until"])?,
            output: build.output.clone(),
        })
    }

    /// Lets rows in that have waited long enough.
    fn enter_due(&mut self, context: &StepContext, output: &mut Output) -> Result<(), Error> {
        let snapshot = self.waiting.snapshot();
        let due = due_rows(&self.waiting, &snapshot, context)?;
        for due in due.chunks(BATCH_ROWS) {
            let columns = self.waiting.layout().decode(due.iter().map(|(row, _)| *row))?;
            let entering = Entering {
                until: columns[1].as_primitive::<Int64Type>().values().to_vec(),
                weights: due.iter().map(|(_, weight)| *weight).collect(),
                columns: columns[2..].to_vec(),
            };
            self.enter(context.now, entering, output)?;
        }
        self.waiting.arrangement.append(taken_out(&due));
        Ok(())
    }

    /// Puts rows into the output that are not there yet, if it is not too late.
    fn enter(&mut self, now: i64, entering: Entering, output: &mut Output) -> Result<(), Error> {
        let Entering { until, weights, columns } = entering;
        let is_in: UInt32Array =
            (0..until.len()).filter(|row| now < until[*row]).map(|row| row as u32).collect::<Vec<_>>().into();
        if is_in.is_empty() {
            return Ok(());
        }
        let columns: Vec<ArrayRef> =
            columns.iter().map(|column| take(column, &is_in, None)).collect::<Result<_, _>>()?;
        let pick =
            |values: &[i64]| is_in.values().iter().map(|row| values[*row as usize]).collect::<Vec<_>>();
        let (until, weights) = (pick(&until), pick(&weights));
        let ends: UInt32Array = (0..until.len())
            .filter(|row| until[*row] != NEVER)
            .map(|row| row as u32)
            .collect::<Vec<_>>()
            .into();
        if !ends.is_empty() {
            let until: ArrayRef = Arc::new(Int64Array::from(until));
            let mut leaving = vec![take(&until, &ends, None)?];
            for column in &columns {
                leaving.push(take(column, &ends, None)?);
            }
            let weights: Vec<i64> = ends.values().iter().map(|row| weights[*row as usize]).collect();
            self.leaving.add(&leaving, &weights)?;
        }
        output.push(output_batch(&self.output, columns, weights)?);
        Ok(())
    }

    /// Takes rows out whose time is over.
    fn leave_due(&mut self, context: &StepContext, output: &mut Output) -> Result<(), Error> {
        let snapshot = self.leaving.snapshot();
        let due = due_rows(&self.leaving, &snapshot, context)?;
        for due in due.chunks(BATCH_ROWS) {
            let columns = self.leaving.layout().decode(due.iter().map(|(row, _)| *row))?;
            let weights = due.iter().map(|(_, weight)| -weight).collect();
            output.push(output_batch(&self.output, columns[1..].to_vec(), weights)?);
        }
        self.leaving.arrangement.append(taken_out(&due));
        Ok(())
    }

    fn place(&mut self, now: i64, input: &Delta, output: &mut Output) -> Result<(), Error> {
        let batch = input.batch();
        let times = |columns: &[usize]| -> Vec<Int64Array> {
            columns.iter().map(|column| batch.column(*column).as_primitive::<Int64Type>().clone()).collect()
        };
        let (from, until) = (times(&self.from), times(&self.until));
        let mut waits: (Vec<u32>, Vec<i64>, Vec<i64>) = Default::default();
        let mut enters: (Vec<u32>, Vec<i64>) = Default::default();
        for row in 0..input.len() {
            // A comparison with NULL is never true.
            if from.iter().chain(&until).any(|times| times.is_null(row)) {
                continue;
            }
            let from = from.iter().map(|times| times.value(row)).max().unwrap_or(i64::MIN);
            let until = until.iter().map(|times| times.value(row)).min().unwrap_or(NEVER);
            if from >= until {
                continue;
            }
            if now < from {
                waits.0.push(row as u32);
                waits.1.push(from);
                waits.2.push(until);
            } else if now < until {
                enters.0.push(row as u32);
                enters.1.push(until);
            }
        }
        let pick = |rows: &UInt32Array| -> Result<(Vec<ArrayRef>, Vec<i64>), Error> {
            let columns = batch.columns()[..self.n_columns].iter().map(|column| take(column, rows, None));
            let weights = rows.values().iter().map(|row| input.weights().value(*row as usize)).collect();
            Ok((columns.collect::<Result<_, _>>()?, weights))
        };
        let (columns, weights) = pick(&UInt32Array::from(enters.0))?;
        let entering = Entering { until: enters.1, weights, columns };
        let (columns, weights) = pick(&UInt32Array::from(waits.0))?;
        let mut waiting: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(waits.1)), Arc::new(Int64Array::from(waits.2))];
        waiting.extend(columns);
        self.waiting.add(&waiting, &weights)?;
        self.enter(now, entering, output)
    }
}

impl Operator for Temporal {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("a temporal filter has one input") };
        let mut output = Output::default();
        self.enter_due(context, &mut output)?;
        self.leave_due(context, &mut output)?;
        if !input.is_empty() {
            self.place(context.now, input, &mut output)?;
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.waiting, &mut self.leaving]
    }

    fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        let mut next = None;
        for table in [&self.waiting, &self.leaving] {
            let snapshot = table.arrangement.current();
            let mut cursor = snapshot.cursor();
            cursor.seek(&bound(table, now)?);
            if let Some((row, _)) = cursor.next() {
                let time = table.layout().decode([row])?[0].as_primitive::<Int64Type>().value(0);
                next = Some(next.map_or(time, |next: i64| next.min(time)));
            }
        }
        Ok(next)
    }
}

/// The encoded time right behind `now`.
fn bound(table: &StateTable, now: i64) -> Result<Vec<u8>, Error> {
    let behind: ArrayRef = Arc::new(Int64Array::from(vec![now.saturating_add(1)]));
    Ok(table.layout().encode_keys(&[behind])?.row(0).data().to_vec())
}

/// The rows whose time has come since the step before.
fn due_rows<'a>(
    table: &StateTable,
    snapshot: &'a tidemill_storage::Snapshot,
    context: &StepContext,
) -> Result<Vec<(&'a [u8], i64)>, Error> {
    if context.now <= context.now_before {
        return Ok(Vec::new());
    }
    // What was due before has been taken out: do not walk over what is left of it.
    let mut cursor = snapshot.cursor();
    cursor.seek(&bound(table, context.now_before)?);
    let end = bound(table, context.now)?;
    Ok(cursor.take_while(|(row, _)| *row < &end[..]).collect())
}

fn taken_out(rows: &[(&[u8], i64)]) -> Arc<tidemill_storage::Run> {
    let mut run = RunBuilder::with_capacity(rows.len(), rows.iter().map(|(row, _)| row.len()).sum());
    rows.iter().for_each(|(row, weight)| run.push(row, -weight));
    run.finish()
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;

    use crate::operators::testing::Bench;

    fn between() -> Bench {
        let temporal = plan::Temporal { n_columns: 1, from: vec![1], until: vec![2] };
        Bench::new(plan::Operator::Temporal(temporal), &["a:t f:i u:i"], &["a:t"])
    }

    #[test]
    fn row_enters_and_leaves_as_time_passes() {
        between()
            .now(10)
            .check("+ x 5 20; +2 y 15 30; + z 1 10; + w 20 20; + v NULL 90; + u 0 NULL", "+ x")
            .next_time(Some(15))
            .now(14)
            .check("", "")
            .now(15)
            .check("", "+2 y")
            .next_time(Some(20))
            .now(25)
            .check("", "- x")
            .now(30)
            .check("", "-2 y")
            .next_time(None);
    }

    #[test]
    fn retraction_finds_its_row_wherever_it_is() {
        between()
            .now(10)
            .check("+ x 5 20; + y 15 30; + z 5 12", "+ x; + z")
            .now(13)
            .check("- z 5 12; - y 15 30", "- z")
            .now(16)
            .check("- x 5 20; + y 15 30", "- x; + y")
            .next_time(Some(30))
            // Over before it was seen.
            .now(40)
            .check("- y 15 30; + x 35 38", "- y")
            .next_time(None);
    }

    #[test]
    fn time_jumps_over_a_whole_life() {
        between().now(0).check("+ x 5 20", "").now(50).check("- x 5 20; + y 45 60", "+ y");
    }

    #[test]
    fn one_sided() {
        let from = plan::Temporal { n_columns: 1, from: vec![1], until: vec![] };
        Bench::new(plan::Operator::Temporal(from), &["a:t f:i"], &["a:t"])
            .now(1)
            .check("+ x 5; + y 1", "+ y")
            .now(5)
            .check("- y 1", "+ x; - y")
            .next_time(None);
    }
}
