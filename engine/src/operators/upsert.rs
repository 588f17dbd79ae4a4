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
    use tidemill_plan as plan;

    use crate::operators::testing::Bench;

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
}
