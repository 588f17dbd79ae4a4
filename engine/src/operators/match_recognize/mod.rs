//! `MATCH_RECOGNIZE`: searches for a pattern in the rows of a partition.
//!
//! State: all rows, by partition, then in the order asked for, then by the other columns. A partition is *scanned*: a
//! search begins at its first row, and each search says where the next begins. How a search goes is
//! decided by the rows from `back` before its start (PREV looks no further) to its *reach*, the last row that it
//! looked at. Between two searches stands nothing but the place, how far earlier matches cover the rows behind it, and
//! the number of matches so far: with these three the rest of the scan is a function of the rows from `back` before
//! the place on. That is all that the following rests on.
//!
//! ```text
//!           mark                first change    last change
//! ────────────┼───────────────────────●──────────────●─────────────────────▶ rows
//!             ├╌╌╌╌▷ reach of all                         ├ back ┤
//!             │      searches before                             ▲
//!             └── both scans, of the old rows and of the new ────┘ meet
//! ```
//!
//! Here and there a scan leaves a *mark*: the place, the two numbers, and the furthest reach of all searches before. A
//! change behind that reach leaves everything before the mark as it was; so a step begins at the last such mark,
//! scans the rows as they were and as they are, and stops when both scans stand at the same row, `back` or more
//! rows behind the last change, with the same numbers: from there on they are one. What the one gave and the other
//! did not is the change of the output. Marks that were passed are replaced; those further on whose reach is less than
//! that of the new scan where they met are dropped, since they would not know of it.
//!
//! At a partition's end the last searches have looked at there being no more rows, and leave no marks. New last rows
//! so cost the searches that are still open, and the few since the last mark.
//!
//! Times that are complete settle searches for good; see [`settle`].

mod marks;
mod piece;
mod settle;
mod update;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{Schema, SchemaRef};
use tidemill_core::Delta;
use tidemill_pattern::{Matcher, ShownRows};
use tidemill_plan as plan;
use tidemill_storage::{Layout, SortColumn};

use self::marks::Marks;
use self::settle::Settling;
use super::{
    BATCH_ROWS, Build, Grouping, Operator, Output, StateTable, StepContext, ascending, consolidate, others,
    output_batch, state_columns, state_values,
};
use crate::Error;

pub(crate) struct MatchRecognize {
    matcher: Matcher,
    /// The input's columns in the order of the state: partition, order, the others.
    columns: Vec<usize>,
    n_partition: usize,
    rows: StateTable,
    /// Not where matches leave once: nothing is scanned twice there.
    marks: Option<Marks>,
    /// Where times can be complete.
    settling: Option<Settling>,
    result: Shown,
}

/// What the output shows, and the difference of two such things.
pub(crate) struct Shown {
    layout: Arc<Layout>,
    output: SchemaRef,
}

/// Rows that go and rows that come.
#[derive(Default)]
pub(crate) struct Changes {
    old: Vec<ShownRows>,
    new: Vec<ShownRows>,
    n_rows: usize,
}

impl Changes {
    fn retract(&mut self, rows: ShownRows) {
        self.n_rows += rows.n_rows;
        self.old.push(rows);
    }

    fn insert(&mut self, rows: ShownRows) {
        self.n_rows += rows.n_rows;
        self.new.push(rows);
    }
}

impl Shown {
    fn new(output: &SchemaRef) -> Result<Shown, Error> {
        let fields = &output.fields()[..output.fields().len() - 1];
        let schema: SchemaRef = Arc::new(Schema::new(fields.to_vec()));
        let columns = state_columns(&schema, &(0..fields.len()).collect::<Vec<_>>());
        Ok(Shown { layout: Layout::new(columns, 0)?, output: output.clone() })
    }

    /// Gives what turns the old rows into the new ones.
    fn give(&self, changes: Changes, output: &mut Output) -> Result<(), Error> {
        let encode = |rows: &ShownRows| {
            Ok::<_, Error>(self.layout.encode_rows(&state_values(rows.columns.clone(), rows.n_rows))?)
        };
        let old = changes.old.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let new = changes.new.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let mut rows: Vec<&[u8]> = Vec::with_capacity(changes.n_rows);
        let mut weights = Vec::with_capacity(changes.n_rows);
        for (side, weight) in [(&old, -1), (&new, 1)] {
            for encoded in side {
                rows.extend((0..encoded.num_rows()).map(|idx| encoded.row(idx).data()));
                weights.resize(rows.len(), weight);
            }
        }
        let change = consolidate(&rows, &weights);
        let n_columns = self.output.fields().len() - 1;
        for start in (0..change.len()).step_by(BATCH_ROWS) {
            let chunk = start..(start + BATCH_ROWS).min(change.len());
            let mut columns = self.layout.decode(chunk.clone().map(|idx| change.row(idx)))?;
            columns.truncate(n_columns);
            let weights = chunk.map(|idx| change.weight(idx)).collect();
            output.push(output_batch(&self.output, columns, weights)?);
        }
        Ok(())
    }

    /// Gives rows that only come.
    fn insert(&self, rows: ShownRows, output: &mut Output) -> Result<(), Error> {
        for start in (0..rows.n_rows).step_by(BATCH_ROWS) {
            let len = BATCH_ROWS.min(rows.n_rows - start);
            let columns = rows.columns.iter().map(|column| column.slice(start, len)).collect();
            output.push(output_batch(&self.output, columns, vec![1; len])?);
        }
        Ok(())
    }
}

impl MatchRecognize {
    pub fn new(pattern: &plan::MatchRecognize, build: &Build) -> Result<MatchRecognize, Error> {
        let input = &build.inputs[0];
        let mut columns: Vec<usize> = pattern.partition.clone();
        let mut sort_columns = ascending(input, &columns);
        for order in &pattern.order_by {
            if columns.contains(&order.column) {
                continue;
            }
            columns.push(order.column);
            sort_columns.push(SortColumn {
                descending: order.descending,
                nulls_first: order.nulls_first,
                ..SortColumn::ascending(input.field(order.column))
            });
        }
        let n_partition = pattern.partition.len();
        let rest = others(input, &columns);
        sort_columns.extend(ascending(input, &rest));
        columns.extend(rest);
        let deal_by: Vec<usize> = (0..n_partition).collect();
        let rows = StateTable::new("rows", sort_columns, n_partition, deal_by)?;
        let matcher = Matcher::new(pattern, input)?;
        let marks = match pattern.is_closing {
            true => None,
            false => Some(Marks::new("marks", &rows, n_partition)?),
        };
        let settling = match pattern.sources.is_empty() {
            true => None,
            false => Some(Settling::new(pattern, &rows, n_partition)?),
        };
        Ok(MatchRecognize {
            matcher,
            columns,
            n_partition,
            rows,
            marks,
            settling,
            result: Shown::new(&build.output)?,
        })
    }

    /// Columns of the state in the order of the input.
    fn input_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        let mut input: Vec<Option<ArrayRef>> = vec![None; columns.len()];
        for (column, place) in columns.iter().zip(&self.columns) {
            input[*place] = Some(column.clone());
        }
        input.into_iter().map(|column| column.expect("a permutation")).collect()
    }
}

impl Operator for MatchRecognize {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("a row pattern has one input") };
        let mut output = Output::default();
        let input = match &self.settling {
            Some(settling) => {
                let (on_time, late) = settling.split_late(context, input)?;
                output.late.extend(late);
                on_time
            }
            None => input.clone(),
        };
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| input.batch().column(*column).clone()).collect();
        let grouping = Grouping::new(&columns[..self.n_partition], input.len())?;
        if !input.is_empty() {
            let changed = self.rows.layout().encode_rows(&columns)?;
            let before = self.rows.snapshot();
            self.rows.arrangement.add(&changed, input.weights().values());
            if self.marks.is_some() {
                self.update(&before, &changed, &grouping, &mut output)?;
            }
        }
        if self.settling.is_some() {
            self.settle(context, &input, (&columns[..self.n_partition], &grouping), &mut output)?;
        }
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        let marks = self.marks.iter_mut().map(|marks| &mut marks.table);
        let settling = self.settling.iter_mut().flat_map(Settling::state);
        std::iter::once(&mut self.rows).chain(marks).chain(settling).collect()
    }
}

/// Some rows of a batch.
fn part(batch: &RecordBatch, keep: &arrow::array::BooleanArray) -> Result<Delta, Error> {
    Ok(Delta::new(arrow::compute::filter_record_batch(batch, keep)?))
}

/// Columns one behind the other.
fn joined(parts: Vec<ShownRows>) -> Result<ShownRows, Error> {
    let n_rows = parts.iter().map(|part| part.n_rows).sum();
    let n_columns = parts.first().map_or(0, |part| part.columns.len());
    let column = |idx: usize| {
        let arrays: Vec<&dyn arrow::array::Array> =
            parts.iter().map(|part| part.columns[idx].as_ref()).collect();
        concat(&arrays)
    };
    Ok(ShownRows { columns: (0..n_columns).map(column).collect::<Result<_, _>>()?, n_rows })
}

#[cfg(test)]
mod tests;
