//! A keyed changelog becomes a delta.
//!
//! Each change sets or deletes the row of its key; the last of a key in a step wins, by sequence. Out
//! goes the difference to the row that was there before. State: the row of every key.

use arrow::array::AsArray;
use arrow::compute::take;
use arrow::datatypes::{Int64Type, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;

use super::{Build, Grouping, Operator, Output, StateTable, StepContext, ascending, others, output_batch};
use crate::Error;

pub(crate) struct Upsert {
    state: StateTable,
    /// Column order of the state: keys, then the others.
    columns: Vec<usize>,
    n_keys: usize,
    output: SchemaRef,
}

impl Upsert {
    pub fn new(upsert: &plan::Upsert, build: &Build) -> Result<Upsert, Error> {
        let n_columns = build.output.fields().len() - 1;
        let schema = std::sync::Arc::new(build.inputs[0].project(&(0..n_columns).collect::<Vec<_>>())?);
        let mut columns = upsert.keys.clone();
        columns.extend(others(&schema, &upsert.keys));
        let n_keys = upsert.keys.len();
        let state = StateTable::new("rows", ascending(&schema, &columns), n_keys, (0..n_keys).collect())?;
        Ok(Upsert { state, columns, n_keys, output: build.output.clone() })
    }
}

impl Operator for Upsert {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("upsert has one input") };
        let mut output = Output::default();
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
        let decoded = self.state.layout().decode((0..run.len()).map(|idx| run.row(idx)))?;
        let mut columns = decoded.clone();
        for (position, column) in self.columns.iter().enumerate() {
            columns[*column] = decoded[position].clone();
        }
        let weights = (0..run.len()).map(|idx| run.weight(idx)).collect();
        output.push(output_batch(&self.output, columns, weights)?);
        self.state.arrangement.append(run);
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.state]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_plan as plan;

    use crate::operators::testing::property::{Multiset, Rng, add, n_seeds, same};
    use crate::operators::testing::{Bench, show};

    fn upsert() -> Bench {
        let operator = plan::Operator::Upsert(plan::Upsert { keys: vec![1] });
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

    /// What has been given out is the last row of every key that is not deleted.
    #[test]
    fn rows_are_those_of_a_map() {
        for seed in 0..n_seeds(40) {
            let mut rng = Rng(seed);
            let operator = plan::Operator::Upsert(plan::Upsert { keys: vec![2, 0] });
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
