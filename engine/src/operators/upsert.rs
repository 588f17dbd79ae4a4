//! A keyed changelog becomes a delta.
//!
//! Each change sets or deletes the row of its key; the last of a key in a step wins, by sequence. Out
//! goes the difference to the row that was there before. State: the row of every key.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::take;
use arrow::datatypes::{Int64Type, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{Run, RunBuilder};

use super::expiry::Expiry;
use super::{Build, Grouping, Operator, Output, StateTable, StepContext, ascending, others, output_batch};
use crate::Error;

pub(crate) struct Upsert {
    state: StateTable,
    /// Column order of the state: keys, then the others.
    columns: Vec<usize>,
    n_keys: usize,
    expiry: Option<Expiry>,
    output: SchemaRef,
}

impl Upsert {
    pub fn new(upsert: &plan::Upsert, build: &Build) -> Result<Upsert, Error> {
        let n_columns = build.output.fields().len() - 1;
        let schema = Arc::new(build.inputs[0].project(&(0..n_columns).collect::<Vec<_>>())?);
        let mut columns = upsert.keys.clone();
        columns.extend(others(&schema, &upsert.keys));
        let n_keys = upsert.keys.len();
        let sort_columns = ascending(&schema, &columns);
        let deal_by: Vec<usize> = (0..n_keys).collect();
        let expiry = match upsert.ttl {
            Some(ttl) => Some(Expiry::new(ttl, &sort_columns[..n_keys], &deal_by)?),
            None => None,
        };
        let state = StateTable::new("rows", sort_columns, n_keys, deal_by)?;
        Ok(Upsert { state, columns, n_keys, expiry, output: build.output.clone() })
    }

    /// Takes back the rows of keys that nothing has set for long.
    fn forget(&mut self, context: &StepContext, output: &mut Output) -> Result<(), Error> {
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        let expired = expiry.expired(context)?;
        let snapshot = self.state.snapshot();
        let mut gone = RunBuilder::with_capacity(expired.len(), 0);
        snapshot.lookup(expired.iter().map(Vec::as_slice), |_, row, weight| gone.push(row, -weight));
        self.give(gone.finish(), output)
    }

    fn give(&mut self, run: Arc<Run>, output: &mut Output) -> Result<(), Error> {
        if run.is_empty() {
            return Ok(());
        }
        let decoded = self.state.layout().decode((0..run.len()).map(|idx| run.row(idx)))?;
        let mut columns = decoded.clone();
        for (position, column) in self.columns.iter().enumerate() {
            columns[*column] = decoded[position].clone();
        }
        let weights = (0..run.len()).map(|idx| run.weight(idx)).collect();
        output.push(output_batch(&self.output, columns, weights)?);
        self.state.arrangement.append(run);
        Ok(())
    }
}

impl Operator for Upsert {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("upsert has one input") };
        let mut output = Output::default();
        self.forget(context, &mut output)?;
        if input.is_empty() {
            return Ok(output);
        }
        let batch = input.batch();
        let columns: Vec<_> = self.columns.iter().map(|idx| batch.column(*idx).clone()).collect();
        let sequence = batch.column(batch.num_columns() - 2).as_primitive::<Int64Type>();
        let grouping = Grouping::new(&columns[..self.n_keys], input.len())?;

        let mut last = grouping.firsts.clone();
        for (row_idx, group) in grouping.ids.iter().enumerate() {
            let winner = &mut last[*group as usize];
            if sequence.value(row_idx) >= sequence.value(*winner as usize) {
                *winner = row_idx as u32;
            }
        }
        if let Some(expiry) = &mut self.expiry {
            let winners = arrow::array::UInt32Array::from(last.clone());
            let keys = columns[..self.n_keys]
                .iter()
                .map(|column| take(column, &winners, None))
                .collect::<Result<Vec<_>, _>>()?;
            let is_set: Vec<bool> =
                last.iter().map(|row_idx| input.weights().value(*row_idx as usize) > 0).collect();
            expiry.touch(context.arrival, &keys, &grouping.keys().collect::<Vec<_>>(), &is_set)?;
        }
        let set: Vec<u32> =
            last.into_iter().filter(|row_idx| input.weights().value(*row_idx as usize) > 0).collect();
        let set = arrow::array::UInt32Array::from(set);
        let new_columns =
            columns.iter().map(|column| take(column, &set, None)).collect::<Result<Vec<_>, _>>()?;

        let snapshot = self.state.snapshot();
        let mut changes = Vec::new();
        let mut weights = Vec::new();
        snapshot.lookup(grouping.keys(), |_, row, weight| {
            changes.push(row);
            weights.push(-weight);
        });
        let new_rows = self.state.layout().encode_rows(&new_columns)?;
        changes.extend(new_rows.iter().map(|row| row.data()));
        weights.resize(changes.len(), 1);

        let run = super::consolidate(&changes, &weights);
        self.give(run, &mut output)?;
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        let mut tables = vec![&mut self.state];
        tables.extend(self.expiry.iter_mut().flat_map(Expiry::state));
        tables
    }

    fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        self.expiry.as_ref().map_or(Ok(None), |expiry| expiry.next_time(now))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_plan as plan;

    use crate::operators::testing::property::{Multiset, Rng, add, n_seeds, same};
    use crate::operators::testing::{Bench, show};

    fn upsert() -> Bench {
        let operator = plan::Operator::Upsert(plan::Upsert { keys: vec![1], ttl: None });
        Bench::new(operator, &["v:t k:i seq:i"], &["v:t k:i"])
    }

    #[test]
    fn last_change_of_a_key_wins() {
        upsert()
            .check("+ a 1 0; + b 1 1; + c 2 2", "+ b 1; + c 2")
            .check("+ d 1 3", "- b 1; + d 1")
            .check("- NULL 1 4; + d 1 5", "")
            .check("+ e 2 6; - NULL 2 7; - NULL 3 8", "- c 2");
    }

    #[test]
    fn a_key_that_nothing_sets_is_forgotten() {
        let operator = plan::Operator::Upsert(plan::Upsert { keys: vec![1], ttl: Some(10) });
        Bench::new(operator, &["v:t k:i seq:i"], &["v:t k:i"])
            .now(1)
            .check("+ a 1 0; + b 2 1", "+ a 1; + b 2")
            .now(6)
            .check("+ a 1 2", "")
            .next_time(Some(11))
            .now(11)
            .check("", "- b 2")
            .now(12)
            .check("- NULL 1 3; - NULL 2 4; + c 3 5", "- a 1; + c 3")
            .now(22)
            .check("+ d 3 6", "- c 3; + d 3")
            .n_state(&[1, 1, 1]);
    }

    /// What has been given out is the last row of every key that is not deleted.
    #[test]
    fn rows_are_those_of_a_map() {
        for seed in 0..n_seeds(40) {
            let mut rng = Rng(seed);
            let operator = plan::Operator::Upsert(plan::Upsert { keys: vec![2, 0], ttl: None });
            let mut bench = Bench::new(operator, &["k:t v:i l:i seq:i"], &["k:t v:i l:i"]);
            let mut rows: BTreeMap<(&str, u64), String> = BTreeMap::new();
            let mut given = Multiset::new();
            let mut sequence = 0;
            let mut steps = String::new();
            for _ in 0..10 {
                if rng.below(4) == 0 {
                    bench.rebuild();
                }
                let mut changes = Vec::new();
                for _ in 0..rng.below(8) {
                    let key = (rng.pick(&["a", "b", "NULL", "''"]), rng.below(2));
                    let value = rng.pick(&["1", "2", "NULL", "-9223372036854775808"]);
                    let row = format!("{} {value} {}", key.0, key.1);
                    if rng.below(4) == 0 {
                        changes.push(format!("- {} NULL {} {sequence}", key.0, key.1));
                        rows.remove(&key);
                    } else {
                        changes.push(format!("+ {row} {sequence}"));
                        rows.insert(key, row);
                    }
                    sequence += 1;
                }
                // The sequence says what was last, not the place in the delta.
                for idx in 1..changes.len() {
                    changes.swap(idx, rng.below(idx as u64 + 1) as usize);
                }
                let line = changes.join("; ");
                steps.push_str(&format!("  {line:?}\n"));
                add(&mut given, &show(&bench.step(&[&line]).unwrap().batches));
                let expected: Multiset = rows.values().map(|row| (row.clone(), 1)).collect();
                same(&given, &expected).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{steps}"));
            }
        }
    }
}
