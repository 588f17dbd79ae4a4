//! What has no incremental version: the plan runs again over all rows, and the difference goes out.
//!
//! State: the rows of every input, and the result of the last run. So a step costs what a SELECT would, and
//! steps in which no input changed cost nothing.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use tidemill_core::Delta;
use tidemill_storage::{Run, RunBuilder, Snapshot, SortColumn, sort_rows};

use super::once::Given;
use super::{
    BATCH_ROWS, Build, Operator, Output, StateTable, StepContext, output_batch, state_columns, state_values,
};
use crate::Error;
use crate::exec::BatchPlan;

pub(crate) struct Recompute {
    given: Given,
    inputs: Vec<(SchemaRef, StateTable)>,
    result: StateTable,
    plan: Arc<BatchPlan>,
    output: SchemaRef,
}

impl Recompute {
    pub fn new(build: &Build) -> Result<Recompute, Error> {
        let plan = build.batch_plan.clone().expect("a recomputed plan comes with its execution plan");
        let input = |(idx, schema): (usize, &SchemaRef)| {
            Ok((schema.clone(), StateTable::new(format!("input{idx}"), columns(schema), 0, Vec::new())?))
        };
        let inputs = build.inputs.iter().enumerate().map(input).collect::<Result<_, Error>>()?;
        let fields = &build.output.fields()[..build.output.fields().len() - 1];
        let schema: SchemaRef = Arc::new(Schema::new(fields.to_vec()));
        let result = StateTable::new("result", columns(&schema), 0, Vec::new())?;
        Ok(Recompute { given: Given::new()?, inputs, result, plan, output: build.output.clone() })
    }
}

fn columns(schema: &SchemaRef) -> Vec<SortColumn> {
    state_columns(schema, &(0..schema.fields().len()).collect::<Vec<_>>())
}

impl Operator for Recompute {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        assert_eq!(inputs.len(), self.inputs.len(), "as many inputs as the plan has");
        let mut output = Output::default();
        let is_touched = inputs.iter().any(|input| !input.is_empty());
        if !self.given.is_first()? && !is_touched {
            return Ok(output);
        }
        let mut held = Vec::new();
        for (input, (schema, table)) in inputs.iter().zip(&mut self.inputs) {
            table
                .add(&state_values(input.rows().columns().to_vec(), input.len()), input.weights().values())?;
            held.push(rows(schema, table.arrangement.current())?);
        }
        let mut encoded: Vec<Arc<Run>> = Vec::new();
        for batch in self.plan.run(held)? {
            let values = state_values(batch.columns().to_vec(), batch.num_rows());
            let rows = self.result.layout().encode_rows(&values)?;
            encoded.push(sort_rows(&rows, &vec![1; batch.num_rows()]));
        }
        let after = Snapshot::of(self.result.arrangement.layout().clone(), encoded);
        let change = difference(self.result.arrangement.current(), &after);
        let n_columns = self.output.fields().len() - 1;
        for start in (0..change.len()).step_by(BATCH_ROWS) {
            let range = start..(start + BATCH_ROWS).min(change.len());
            let mut columns = self.result.layout().decode(range.clone().map(|idx| change.row(idx)))?;
            columns.truncate(n_columns);
            let weights = range.map(|idx| change.weight(idx)).collect();
            output.push(output_batch(&self.output, columns, weights)?);
        }
        self.result.arrangement.append(change);
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        let mut tables = vec![&mut self.given.state];
        tables.extend(self.inputs.iter_mut().map(|(_, table)| table));
        tables.push(&mut self.result);
        tables
    }
}

/// All rows, copies repeated.
fn rows(schema: &SchemaRef, snapshot: &Snapshot) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    let mut pending: Vec<&[u8]> = Vec::new();
    let batch = |rows: &mut Vec<&[u8]>| -> Result<RecordBatch, Error> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let mut columns = snapshot.layout().decode(rows.drain(..))?;
        columns.truncate(schema.fields().len());
        Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
    };
    for (row, weight) in snapshot.cursor() {
        if weight < 0 {
            return Err(Error::NegativeWeight { operator: "a recomputed query" });
        }
        for _ in 0..weight {
            pending.push(row);
            if pending.len() == BATCH_ROWS {
                batches.push(batch(&mut pending)?);
            }
        }
    }
    if !pending.is_empty() {
        batches.push(batch(&mut pending)?);
    }
    Ok(batches)
}

/// What has to be added to `before` to get `after`.
fn difference(before: &Snapshot, after: &Snapshot) -> Arc<Run> {
    let (mut before, mut after) = (before.cursor().peekable(), after.cursor().peekable());
    let mut change = RunBuilder::with_capacity(0, 0);
    loop {
        let (row, weight) = match (before.peek(), after.peek()) {
            (None, None) => return change.finish(),
            (Some(old), Some(new)) if old.0 == new.0 => (old.0, new.1 - old.1),
            (Some(old), Some(new)) if old.0 > new.0 => *new,
            (None, Some(new)) => *new,
            (Some(old), _) => (old.0, -old.1),
        };
        before.next_if(|old| old.0 == row);
        after.next_if(|new| new.0 == row);
        if weight != 0 {
            change.push(row, weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn snapshot(values: &[(i64, i64)]) -> Snapshot {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let mut table = StateTable::new("t", columns(&schema), 0, Vec::new()).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values.iter().map(|value| value.0)));
        table.add(&[column], &values.iter().map(|value| value.1).collect::<Vec<_>>()).unwrap();
        table.snapshot()
    }

    #[test]
    fn difference_leads_from_one_result_to_the_next() {
        let before = snapshot(&[(1, 2), (2, 1), (4, 1)]);
        let after = snapshot(&[(1, 1), (3, 1), (4, 1), (9, 2)]);
        let change = difference(&before, &after);
        let weights: Vec<i64> = (0..change.len()).map(|idx| change.weight(idx)).collect();
        assert_eq!(weights, [-1, -1, 1, 2]);
        assert_eq!(difference(&after, &after).len(), 0);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let schema: SchemaRef = Arc::new(Schema::empty());
        let mut table = StateTable::new("t", columns(&schema), 0, Vec::new()).unwrap();
        table.add(&state_values(Vec::new(), 3), &[1, 1, 1]).unwrap();
        let batches = rows(&schema, table.arrangement.current()).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }
}
