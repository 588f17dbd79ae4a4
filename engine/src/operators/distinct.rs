//! `SELECT DISTINCT`: every row of the input once.
//!
//! A row enters the output when its weight in the input rises from zero, and leaves when it falls
//! back to zero. State: the weight of every row present.

use arrow::datatypes::SchemaRef;
use tidemill_core::Delta;
use tidemill_storage::sort_rows;

use super::{Build, Operator, Output, StateTable, StepContext, ascending, output_batch};
use crate::Error;

pub(crate) struct Distinct {
    state: StateTable,
    output: SchemaRef,
}

impl Distinct {
    pub fn new(build: &Build) -> Result<Distinct, Error> {
        let schema = &build.inputs[0];
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let state = StateTable::new("rows", ascending(schema, &all), all.len(), all)?;
        Ok(Distinct { state, output: build.output.clone() })
    }
}

impl Operator for Distinct {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("distinct has one input") };
        let mut output = Output::default();
        if input.is_empty() {
            return Ok(output);
        }
        let rows = self.state.layout().encode_rows(input.rows().columns())?;
        let change = sort_rows(&rows, input.weights().values());
        let before = self.state.arrangement.current().weights((0..change.len()).map(|idx| change.row(idx)));
        let mut crossed = Vec::new();
        let mut weights = Vec::new();
        for (idx, before) in before.into_iter().enumerate() {
            let after = before + change.weight(idx);
            if after < 0 {
                // Not our bug, hence no assert: a source retracted a row that it never sent.
                return Err(Error::NegativeWeight { operator: "DISTINCT" });
            }
            if (before > 0) != (after > 0) {
                crossed.push(change.row(idx));
                weights.push(if after > 0 { 1 } else { -1 });
            }
        }
        let columns = self.state.layout().decode(crossed)?;
        output.push(output_batch(&self.output, columns, weights)?);
        self.state.arrangement.append(change);
        Ok(output)
    }

    fn is_divisible(&self) -> bool {
        true
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.state]
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;

    use crate::operators::testing::Bench;
    use crate::operators::testing::property::property;

    fn distinct() -> Bench {
        Bench::new(plan::Operator::Distinct, &["a:t"], &["a:t"])
    }

    #[test]
    fn row_leaves_with_its_last_copy() {
        distinct().check("+2 x", "+ x").check("- x", "").check("- x", "- x");
    }

    #[test]
    fn null_is_one_value() {
        distinct().check("+ NULL; + NULL; + y", "+ NULL; + y").check("-2 NULL", "- NULL");
    }

    #[test]
    fn retraction_of_nothing_is_an_error() {
        distinct().check("+ x", "+ x").fails("-2 x", "never there");
    }

    #[test]
    fn distinct_is_the_batch_answer() {
        property(plan::Operator::Distinct, &["a:t"], "a:t", "SELECT DISTINCT * FROM i0");
        let columns = "a:i b:f c:b d:ts";
        property(plan::Operator::Distinct, &[columns], columns, "SELECT DISTINCT * FROM i0");
    }
}
