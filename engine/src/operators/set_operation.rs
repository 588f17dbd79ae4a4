//! `INTERSECT ALL` and `EXCEPT ALL`.
//!
//! A row that stands *l* times on the left and *r* times on the right is in the intersection min(*l*, *r*)
//! times, and in the difference max(*l* − *r*, 0) times. NULLs equal each other. State: the rows of both
//! sides with their weights.

use arrow::datatypes::SchemaRef;
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::sort_rows;

use super::{BATCH_ROWS, Build, Operator, Output, StateTable, StepContext, ascending, output_batch};
use crate::Error;

pub(crate) struct SetOperation {
    kind: plan::SetOperation,
    left: StateTable,
    right: StateTable,
    output: SchemaRef,
}

impl SetOperation {
    pub fn new(kind: plan::SetOperation, build: &Build) -> Result<SetOperation, Error> {
        let side = |name: &str, idx: usize| {
            let schema = &build.inputs[idx];
            let all: Vec<usize> = (0..schema.fields().len()).collect();
            StateTable::new(name, ascending(schema, &all), all.len(), all)
        };
        Ok(SetOperation {
            kind,
            left: side("left", 0)?,
            right: side("right", 1)?,
            output: build.output.clone(),
        })
    }

    /// How often a row is in the output.
    fn n_copies(&self, left: i64, right: i64) -> Result<i64, Error> {
        let operator = match self.kind {
            plan::SetOperation::IntersectAll => "INTERSECT ALL",
            plan::SetOperation::ExceptAll => "EXCEPT ALL",
        };
        if left < 0 || right < 0 {
            return Err(Error::NegativeWeight { operator });
        }
        Ok(match self.kind {
            plan::SetOperation::IntersectAll => left.min(right),
            plan::SetOperation::ExceptAll => (left - right).max(0),
        })
    }
}

impl Operator for SetOperation {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [left, right] = inputs else { unreachable!("a set operation has two inputs") };
        let mut output = Output::default();
        if left.is_empty() && right.is_empty() {
            return Ok(output);
        }
        let change = |table: &StateTable, input: &Delta| -> Result<_, Error> {
            let rows = table.layout().encode_rows(input.rows().columns())?;
            Ok(sort_rows(&rows, input.weights().values()))
        };
        let (left, right) = (change(&self.left, left)?, change(&self.right, right)?);
        let mut touched: Vec<&[u8]> =
            [&left, &right].into_iter().flat_map(|run| (0..run.len()).map(|idx| run.row(idx))).collect();
        touched.sort_unstable();
        touched.dedup();
        let weights = |table: &StateTable| table.arrangement.current().weights(touched.iter().copied());
        let (left_before, right_before) = (weights(&self.left), weights(&self.right));
        self.left.arrangement.append(left.clone());
        self.right.arrangement.append(right.clone());
        let (left_after, right_after) = (weights(&self.left), weights(&self.right));
        let mut rows = Vec::new();
        let mut changes = Vec::new();
        for (idx, row) in touched.iter().enumerate() {
            let before = self.n_copies(left_before[idx], right_before[idx])?;
            let after = self.n_copies(left_after[idx], right_after[idx])?;
            if before != after {
                rows.push(*row);
                changes.push(after - before);
            }
        }
        for (rows, changes) in rows.chunks(BATCH_ROWS).zip(changes.chunks(BATCH_ROWS)) {
            let columns = self.left.layout().decode(rows.iter().copied())?;
            output.push(output_batch(&self.output, columns, changes.to_vec())?);
        }
        Ok(output)
    }

    fn is_divisible(&self) -> bool {
        true
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.left, &mut self.right]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Bench;

    fn bench(kind: plan::SetOperation) -> Bench {
        Bench::new(plan::Operator::SetOperation(kind), &["a:t b:i", "a:t b:i"], &["a:t", "b:i"])
    }

    #[test]
    fn intersection_counts_copies() {
        bench(plan::SetOperation::IntersectAll)
            .check2("+3 x 1; + NULL NULL; + y 1", "+2 x 1; +2 NULL NULL; + x 2", "+2 x 1; + NULL NULL")
            .check2("", "+5 x 1", "+ x 1")
            .check2("-2 x 1", "- NULL NULL", "-2 x 1")
            .check2("", "- NULL NULL", "- NULL NULL");
    }

    #[test]
    fn difference_counts_copies() {
        bench(plan::SetOperation::ExceptAll)
            .check2("+3 x 1; + NULL 2; + y 1", "+ x 1; + NULL 2", "+2 x 1; + y 1")
            .check2("", "+5 x 1", "-2 x 1")
            .check2("+ NULL 2", "-5 x 1", "+2 x 1; + NULL 2");
    }

    #[test]
    fn change_of_both_sides_is_one_change() {
        bench(plan::SetOperation::ExceptAll).check2("+ x 1", "", "+ x 1").check2("+ x 1", "+ x 1", "");
    }
}
