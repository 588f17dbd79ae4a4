//! Constant rows: all of them in the first step, none later.
//!
//! State: a row that says that they have been given, so that neither a restart nor an undone step gives them
//! twice or never.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field};
use tidemill_core::Delta;
use tidemill_storage::SortColumn;

use super::{Operator, Output, StateTable, StepContext};
use crate::Error;

/// Whether an operator has run before.
pub(super) struct Given {
    pub state: StateTable,
}

impl Given {
    pub fn new() -> Result<Given, Error> {
        let column = SortColumn::ascending(&Field::new("given", DataType::Int64, false));
        Ok(Given { state: StateTable::new("given", vec![column], 0, Vec::new())? })
    }

    /// Whether this is the first time, which it then was.
    pub fn is_first(&mut self) -> Result<bool, Error> {
        if !self.state.arrangement.current().runs().is_empty() {
            return Ok(false);
        }
        self.state.add(&[Arc::new(Int64Array::from(vec![1])) as ArrayRef], &[1])?;
        Ok(true)
    }
}

pub(crate) struct Once {
    given: Given,
}

impl Once {
    pub fn new() -> Result<Once, Error> {
        Ok(Once { given: Given::new()? })
    }
}

impl Operator for Once {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("constants are one input") };
        let mut output = Output::default();
        if self.given.is_first()? {
            output.push(input.batch().clone());
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.given.state]
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;

    use crate::operators::testing::Bench;

    #[test]
    fn rows_are_given_once() {
        Bench::new(plan::Operator::Once, &["a:t"], &["a:t"])
            .check("+ x; + x; + y", "+2 x; + y")
            .check("+ x; + x; + y", "");
    }

    #[test]
    fn no_rows_are_given_once_too() {
        Bench::new(plan::Operator::Once, &["a:t"], &["a:t"]).check("", "").check("+ x", "");
    }
}
