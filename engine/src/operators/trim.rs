//! What bounds the state of an interval join.
//!
//! ```text
//! ON a.k = b.k AND b.ts BETWEEN a.ts + low AND a.ts + high
//!
//!             b's that a row of a may meet
//!                 ├──────────────┤
//!   ────●─────────┴──────────────┴────┃────▶ b.ts
//!      a.ts    + low          + high   b's times are complete up to here: the row of a can go
//! ```
//!
//! Rows that can meet nobody any more change no result, so when they go is free. Each step looks through a
//! part of the state that is in proportion to its own rows, going round and round, so that what stays
//! is in proportion to what is needed and no step stops for a great clean-up.
//!
//! A row that comes when its time is complete is late: what it should have met may be gone.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::filter_record_batch;
use tidemill_core::Delta;
use tidemill_plan::TrimSide;
use tidemill_storage::RunBuilder;

use super::closing::{is_complete, limit, micros};
use super::{LateRows, StateTable, StepContext};
use crate::Error;

/// Rows looked at per row that came in, and at least this many.
pub(super) const SHARE: usize = 2;
pub(super) const AT_LEAST: usize = 64;

/// One side of a join whose rows go some time.
pub(super) struct Trim {
    pub side: TrimSide,
    /// The time column among the state's.
    position: usize,
    /// Where the next step goes on. Not state: it has no say in any result.
    at: Vec<u8>,
}

impl Trim {
    /// `columns` are the input's in the order of the state.
    pub fn new(side: TrimSide, columns: &[usize]) -> Trim {
        let position =
            columns.iter().position(|column| *column == side.time).expect("the state has all columns");
        Trim { side, position, at: Vec::new() }
    }

    /// Looks through a part of the state.
    pub fn sweep(
        &mut self,
        context: &StepContext,
        state: &mut StateTable,
        n_rows: usize,
    ) -> Result<(), Error> {
        let Some(limit) = limit(&self.side.other, &context.watermarks) else { return Ok(()) };
        let snapshot = state.snapshot();
        let n_looks = AT_LEAST + SHARE * n_rows;
        let mut cursor = snapshot.cursor();
        cursor.seek(&self.at);
        let seen: Vec<(&[u8], i64)> = cursor.by_ref().take(n_looks).collect();
        self.at = cursor.next().map(|(row, _)| row.to_vec()).unwrap_or_default();
        let columns: Vec<ArrayRef> = state.layout().decode(seen.iter().map(|(row, _)| *row))?;
        let times = micros(&columns[self.position])?;
        let mut gone = RunBuilder::with_capacity(0, 0);
        for (idx, (row, weight)) in seen.iter().enumerate() {
            let is_over = times.is_null(idx) || times.value(idx).saturating_add(self.side.reach) <= limit;
            if is_over {
                gone.push(row, -weight);
            }
        }
        state.arrangement.append(gone.finish());
        Ok(())
    }
}

/// Takes out the rows that come too late to one side of a join.
pub(super) fn split_late(
    side: &TrimSide,
    context: &StepContext,
    input: &Delta,
) -> Result<(Delta, Option<LateRows>), Error> {
    let times = micros(input.batch().column(side.time))?;
    let limit = limit(&side.own, &context.watermarks_before);
    // A row without a time meets nobody, late or not.
    let late: BooleanArray = is_complete(&times, limit)
        .into_iter()
        .enumerate()
        .map(|(row, is_complete)| Some(is_complete && times.is_valid(row)))
        .collect();
    if late.true_count() == 0 {
        return Ok((input.clone(), None));
    }
    let on_time = filter_record_batch(input.batch(), &arrow::compute::not(&late)?)?;
    let rows = Delta::new(filter_record_batch(input.batch(), &late)?).rows();
    let reason = "rows that it could join may be gone: its time is below the watermark".into();
    Ok((Delta::new(on_time), Some(LateRows { rows, reason })))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use tidemill_plan::{CloseSource, RelationId};

    use super::*;
    use crate::operators::ascending;
    use crate::operators::testing::schema;

    #[test]
    fn state_keeps_what_the_other_side_may_still_meet() {
        let (own, other) = (RelationId(1), RelationId(2));
        let close = |relation| vec![CloseSource { relation, delay: 1 }];
        let side = TrimSide { time: 1, reach: 10, own: close(own), other: close(other) };
        let mut trim = Trim::new(side, &[0, 1]);
        let columns = ascending(&schema("k:i at:ts"), &[0, 1]);
        let mut state = StateTable::new("left", columns, 1, vec![0]).unwrap();
        let times: Vec<i64> = (0..1000).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(times.iter().map(|at| at * 37 % 1000))),
            Arc::new(TimestampMicrosecondArray::from(times.clone())),
        ];
        state.add(&columns, &vec![1; 1000]).unwrap();
        let mut context =
            StepContext { watermarks: BTreeMap::from([(other, 511)]), ..StepContext::default() };
        // Once around.
        for _ in 0..1000 / AT_LEAST + 1 {
            trim.sweep(&context, &mut state, 0).unwrap();
        }
        assert_eq!(state.snapshot().count(), 499, "rows of 0 to 500 can only meet times up to 510");
        // Nothing is known of the other side's time: nothing goes.
        context.watermarks.clear();
        trim.sweep(&context, &mut state, 10_000).unwrap();
        assert_eq!(state.snapshot().count(), 499);
        context.watermarks.insert(other, i64::MAX);
        trim.sweep(&context, &mut state, 10_000).unwrap();
        assert_eq!(state.snapshot().count(), 0);
    }
}
