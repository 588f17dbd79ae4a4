//! A time to live before an operator: rows of a key that nothing has touched for so long are taken back.
//!
//! So whatever stands above forgets them as if they had been deleted, and its result is the exact one over the
//! rows that are left. A key is touched by a change of its rows that lasts to the end of the epoch.
//!
//! State: the rows of the keys that live, and when each key was touched. A row that is retracted after it was
//! forgotten is not there to be retracted, and that is all.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{RunBuilder, Snapshot, sort_rows};

use super::expiry::Expiry;
use super::{
    BATCH_ROWS, Build, Grouping, Operator, Output, StateTable, StepContext, others, output_batch,
    state_columns, state_values,
};
use crate::Error;

pub(crate) struct Expire {
    rows: StateTable,
    expiry: Expiry,
    /// The input's columns in the order of the state: keys first.
    columns: Vec<usize>,
    n_keys: usize,
    output: SchemaRef,
}

impl Expire {
    pub fn new(expire: &plan::Expire, build: &Build) -> Result<Expire, Error> {
        let input = &build.inputs[0];
        let mut columns = expire.keys.clone();
        columns.extend(others(input, &expire.keys));
        let sort_columns = state_columns(input, &columns);
        let n_keys = expire.keys.len();
        let deal_by: Vec<usize> = (0..n_keys).collect();
        Ok(Expire {
            expiry: Expiry::new(expire.ttl, &sort_columns[..n_keys], &deal_by)?,
            rows: StateTable::new("rows", sort_columns, n_keys, deal_by)?,
            columns,
            n_keys,
            output: build.output.clone(),
        })
    }

    fn forget(&mut self, context: &StepContext, output: &mut Output) -> Result<(), Error> {
        let expired = self.expiry.expired(context)?;
        if expired.is_empty() {
            return Ok(());
        }
        let snapshot = self.rows.snapshot();
        let mut gone: Vec<(&[u8], i64)> = Vec::new();
        snapshot.lookup(expired.iter().map(Vec::as_slice), |_, row, weight| gone.push((row, -weight)));
        self.give(&gone, output)?;
        let mut run = RunBuilder::with_capacity(gone.len(), 0);
        gone.iter().for_each(|(row, weight)| run.push(row, *weight));
        self.rows.arrangement.append(run.finish());
        Ok(())
    }

    /// Adds the step's rows, less the retractions of what is not there.
    fn take_in(&mut self, arrival: i64, input: &Delta, output: &mut Output) -> Result<(), Error> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| input.batch().column(*column).clone()).collect();
        let columns = state_values(columns, input.len());
        let change = sort_rows(&self.rows.layout().encode_rows(&columns)?, input.weights().values());
        let before = self.rows.snapshot();
        let known = before.weights((0..change.len()).map(|idx| change.row(idx)));
        let mut lasting: Vec<(&[u8], i64)> = Vec::new();
        for (idx, known) in known.into_iter().enumerate() {
            // Of a retraction, as many as are there.
            let weight = change.weight(idx).max(-known);
            if weight != 0 {
                lasting.push((change.row(idx), weight));
            }
        }
        if lasting.is_empty() {
            return Ok(());
        }
        let mut run = RunBuilder::with_capacity(lasting.len(), 0);
        lasting.iter().for_each(|(row, weight)| run.push(row, *weight));
        self.rows.arrangement.append(run.finish());
        let decoded = self.give(&lasting, output)?;

        let grouping = Grouping::new(&decoded[..self.n_keys], lasting.len())?;
        let firsts = UInt32Array::from(grouping.firsts.clone());
        let keys = decoded[..self.n_keys]
            .iter()
            .map(|column| take(column, &firsts, None))
            .collect::<Result<Vec<_>, _>>()?;
        let after = self.rows.snapshot();
        let encoded: Vec<&[u8]> = grouping.keys().collect();
        let is_there: Vec<bool> = encoded.iter().map(|key| has_rows(&after, key)).collect();
        self.expiry.touch(arrival, &keys, &encoded, &is_there)
    }

    /// Gives rows of state out; gives their columns in the order of the state.
    fn give(&self, rows: &[(&[u8], i64)], output: &mut Output) -> Result<Vec<ArrayRef>, Error> {
        let decoded = self.rows.layout().decode(rows.iter().map(|(row, _)| *row))?;
        for (start, chunk) in rows.chunks(BATCH_ROWS).enumerate() {
            let columns = (0..self.columns.len())
                .map(|column| {
                    let position = self.columns.iter().position(|known| *known == column);
                    decoded[position.expect("a permutation")].slice(start * BATCH_ROWS, chunk.len())
                })
                .collect();
            let weights = chunk.iter().map(|(_, weight)| *weight).collect();
            output.push(output_batch(&self.output, columns, weights)?);
        }
        Ok(decoded)
    }
}

fn has_rows(snapshot: &Snapshot, key: &[u8]) -> bool {
    let mut found = false;
    snapshot.lookup_while(key, |_, _| {
        found = true;
        false
    });
    found
}

impl Operator for Expire {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("rows of one input expire") };
        let mut output = Output::default();
        self.forget(context, &mut output)?;
        if !input.is_empty() {
            self.take_in(context.arrival, input, &mut output)?;
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        let [touched, due] = self.expiry.state();
        vec![&mut self.rows, touched, due]
    }

    fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        self.expiry.next_time(now)
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;

    use crate::operators::testing::Bench;

    fn expire(keys: &[usize]) -> Bench {
        let operator = plan::Operator::Expire(plan::Expire { keys: keys.to_vec(), ttl: 10 });
        Bench::new(operator, &["k:t v:i"], &["k:t v:i"])
    }

    #[test]
    fn rows_go_with_their_key_when_nothing_has_touched_it() {
        expire(&[0])
            .now(1)
            .check("+ a 1; +2 b 1; + NULL 1", "+ a 1; +2 b 1; + NULL 1")
            .next_time(Some(11))
            .now(5)
            .check("+ a 2", "+ a 2")
            .now(11)
            .check("", "-2 b 1; - NULL 1")
            .next_time(Some(15))
            // Forgotten before what comes with the same step, which is new.
            .now(15)
            .check("+ a 3; - b 1", "- a 1; - a 2; + a 3")
            .next_time(Some(25))
            .now(16)
            .check("- a 1; - a 3", "- a 3")
            .next_time(None)
            .n_state(&[0, 0, 0]);
    }

    #[test]
    fn what_comes_and_goes_within_a_step_touches_nothing() {
        expire(&[0])
            .now(1)
            .check("+ a 1", "+ a 1")
            .now(5)
            .check("+ a 2; - a 2; - a 9", "")
            .next_time(Some(11));
        // A row that is its own key is touched by another copy.
        expire(&[0, 1])
            .now(1)
            .check("+ a 1", "+ a 1")
            .now(5)
            .check("+ a 1", "+ a 1")
            .now(14)
            .check("", "")
            .now(15)
            .check("", "-2 a 1");
    }
}
