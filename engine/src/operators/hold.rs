//! `EMIT ON WINDOW CLOSE` over rows that are no groups: each leaves once its time is complete.
//!
//! State: rows whose time is not complete, by time. What is retracted before that was never there. A row
//! whose time is complete when it comes, or NULL, is late.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::Close;
use tidemill_storage::{RunBuilder, SortColumn};

use super::closing::{is_complete, limit, micros};
use super::{
    BATCH_ROWS, Build, LateRows, Operator, Output, StateTable, StepContext, ascending, output_batch,
};
use crate::Error;

pub(crate) struct Hold {
    close: Close,
    /// Time in microseconds, the row.
    held: StateTable,
    output: SchemaRef,
}

impl Hold {
    pub fn new(hold: &plan::Hold, build: &Build) -> Result<Hold, Error> {
        let input = &build.inputs[0];
        let all: Vec<usize> = (0..input.fields().len()).collect();
        let mut columns = vec![SortColumn::ascending(&Field::new("__time", DataType::Int64, false))];
        columns.extend(ascending(input, &all));
        let deal_by = all.iter().map(|column| column + 1).collect();
        Ok(Hold {
            close: hold.close.clone(),
            held: StateTable::new("held", columns, 1, deal_by)?,
            output: build.output.clone(),
        })
    }

    fn behind(&self, time: i64) -> Result<Vec<u8>, Error> {
        let time: ArrayRef = Arc::new(Int64Array::from(vec![time.saturating_add(1)]));
        Ok(self.held.layout().encode_keys(&[time])?.row(0).data().to_vec())
    }
}

impl Operator for Hold {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("rows are held of one input") };
        let mut output = Output::default();
        let before = limit(&self.close.sources, &context.watermarks_before);
        if !input.is_empty() {
            let times = micros(input.batch().column(self.close.column))?;
            let late: BooleanArray = is_complete(&times, before).into_iter().map(Some).collect();
            if late.true_count() > 0 {
                let rows = Delta::new(filter_record_batch(input.batch(), &late)?).rows();
                let column = self.output.field(self.close.column).name();
                let reason = format!("rows up to this \"{column}\" have been emitted, or it is NULL");
                output.late.push(LateRows { rows, reason });
            }
            let on_time = Delta::new(filter_record_batch(input.batch(), &arrow::compute::not(&late)?)?);
            let times: ArrayRef = Arc::new(micros(on_time.batch().column(self.close.column))?);
            let columns = [&[times], on_time.rows().columns()].concat();
            self.held.add(&columns, on_time.weights().values())?;
        }
        let Some(now) = limit(&self.close.sources, &context.watermarks) else { return Ok(output) };
        let snapshot = self.held.snapshot();
        let mut cursor = snapshot.cursor();
        if let Some(before) = before {
            cursor.seek(&self.behind(before)?);
        }
        let end = self.behind(now)?;
        let due: Vec<(&[u8], i64)> = cursor.take_while(|(row, _)| *row < &end[..]).collect();
        if due.iter().any(|(_, weight)| *weight < 0) {
            return Err(Error::NegativeWeight { operator: "EMIT ON WINDOW CLOSE" });
        }
        let mut gone = RunBuilder::with_capacity(due.len(), 0);
        due.iter().for_each(|(row, weight)| gone.push(row, -weight));
        self.held.arrangement.append(gone.finish());
        for due in due.chunks(BATCH_ROWS) {
            let columns = self.held.layout().decode(due.iter().map(|(row, _)| *row))?;
            let weights = due.iter().map(|(_, weight)| *weight).collect();
            output.push(output_batch(&self.output, columns[1..].to_vec(), weights)?);
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.held]
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;
    use tidemill_plan::{Close, CloseSource, RelationId};

    use crate::operators::testing::Bench;

    #[test]
    fn rows_leave_when_their_time_is_complete() {
        let source = RelationId(1);
        let close = Close { column: 1, sources: vec![CloseSource { relation: source, delay: 1 }] };
        Bench::new(plan::Operator::Hold(plan::Hold { close }), &["a:t at:ts"], &["a:t at:ts"])
            .check("+ x 5; +2 y 3; + z 9", "")
            .watermark(source, 6)
            .check("- y 3", "+ x 5; + y 3")
            .watermark(source, 6)
            .check("+ late 5; + w 6; + none NULL", "")
            .late(2)
            .watermark(source, 20)
            .check("- z 9", "+ w 6");
    }
}
