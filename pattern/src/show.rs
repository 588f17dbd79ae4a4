//! What is shown of matches: rows of the input, and measures.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, StringArray, UInt32Array, new_empty_array};
use arrow::compute::{cast, take};
use datafusion::common::ScalarValue;
use tidemill_plan::Shown;

use crate::Error;
use crate::matcher::{Match, Matcher};
use crate::rows::Rows;
use crate::trail::{Place, Source, Trail};

/// Something to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// With its number.
    Match(Match, i64),
    /// A row that no match has.
    Unmatched(usize),
}

/// Rows of the output.
#[derive(Debug)]
pub struct ShownRows {
    pub columns: Vec<ArrayRef>,
    pub n_rows: usize,
}

impl Sighting {
    /// How many rows are shown of it, at most.
    pub fn n_rows_max(&self) -> usize {
        match self {
            Sighting::Match(found, _) => found.mapped.len().max(1),
            Sighting::Unmatched(_) => 1,
        }
    }
}

/// A measure's values, row by row.
enum Column {
    /// Of which row.
    Rows(Vec<Option<u32>>),
    Names(Vec<Option<u16>>),
    Numbers(Vec<Option<i64>>),
    Scalars(Vec<ScalarValue>),
}

impl Matcher {
    /// The output's columns for some sightings, in their order.
    pub fn show(&self, sightings: &[Sighting], rows: &Rows) -> Result<ShownRows, Error> {
        let mut shown: Vec<u32> = Vec::new();
        let mut columns: Vec<Column> = self
            .measures
            .iter()
            .map(|measure| match measure.source {
                Source::Column(..) => Column::Rows(Vec::new()),
                Source::Classifier(_) => Column::Names(Vec::new()),
                Source::MatchNumber => Column::Numbers(Vec::new()),
                Source::Aggregate(_) => Column::Scalars(Vec::new()),
            })
            .collect();
        for sighting in sightings {
            match sighting {
                Sighting::Match(found, number) => {
                    self.show_match(found, *number, rows, &mut shown, &mut columns)?;
                }
                Sighting::Unmatched(row) => {
                    shown.push(*row as u32);
                    for (column, measure) in columns.iter_mut().zip(&self.measures) {
                        match column {
                            Column::Rows(rows) => rows.push(None),
                            Column::Names(names) => names.push(None),
                            Column::Numbers(numbers) => numbers.push(None),
                            Column::Scalars(values) => {
                                values.push(ScalarValue::try_new_null(&measure.data_type)?)
                            }
                        }
                    }
                }
            }
        }
        let n_rows = shown.len();
        let indices = UInt32Array::from(shown);
        let mut output = Vec::with_capacity(self.plan.passed.len() + columns.len());
        for column in &self.plan.passed {
            output.push(take(&rows.columns[*column], &indices, None)?);
        }
        for (column, measure) in columns.into_iter().zip(&self.measures) {
            let values: ArrayRef = match column {
                Column::Rows(indices) => {
                    let Source::Column(_, column) = &measure.source else { unreachable!("as it was made") };
                    take(&rows.columns[*column], &UInt32Array::from(indices), None)?
                }
                Column::Names(names) => {
                    let name = |idx: Option<u16>| Some(&self.plan.variables[usize::from(idx?)].name[..]);
                    Arc::new(names.into_iter().map(name).collect::<StringArray>())
                }
                Column::Numbers(numbers) => Arc::new(Int64Array::from(numbers)),
                Column::Scalars(values) if values.is_empty() => new_empty_array(&measure.data_type),
                Column::Scalars(values) => ScalarValue::iter_to_array(values)?,
            };
            output.push(match values.data_type() == &measure.data_type {
                true => values,
                false => cast(&values, &measure.data_type)?,
            });
        }
        Ok(ShownRows { columns: output, n_rows })
    }

    fn show_match(
        &self,
        found: &Match,
        number: i64,
        rows: &Rows,
        shown: &mut Vec<u32>,
        columns: &mut [Column],
    ) -> Result<(), Error> {
        let mut trail = Trail::new(&self.measure_notes, &self.measure_memberships, found.start);
        if self.plan.shown == Shown::One || found.is_empty() {
            found
                .mapped
                .iter()
                .for_each(|(variable, excluded)| trail.push(usize::from(*variable), *excluded));
            shown.push(found.start as u32);
            for (idx, column) in columns.iter_mut().enumerate() {
                self.measure(idx, number, &mut trail, rows, column, 1)?;
            }
            return Ok(());
        }
        // First what changes from row to row; when all rows are there, what holds for the whole.
        let mut n_shown = 0;
        for (idx, (variable, is_excluded)) in found.mapped.iter().enumerate() {
            trail.push(usize::from(*variable), *is_excluded);
            if *is_excluded {
                continue;
            }
            shown.push((found.start + idx) as u32);
            n_shown += 1;
            for (idx, column) in columns.iter_mut().enumerate() {
                if !self.measures[idx].is_final {
                    self.measure(idx, number, &mut trail, rows, column, 1)?;
                }
            }
        }
        for (idx, column) in columns.iter_mut().enumerate() {
            if self.measures[idx].is_final {
                self.measure(idx, number, &mut trail, rows, column, n_shown)?;
            }
        }
        Ok(())
    }

    /// Adds a measure's value, as of the last row of `trail`, so many times.
    fn measure(
        &self,
        idx: usize,
        number: i64,
        trail: &mut Trail<'_>,
        rows: &Rows,
        column: &mut Column,
        n_times: usize,
    ) -> Result<(), Error> {
        match (&self.measures[idx].source, column) {
            (Source::Column(way, _), Column::Rows(column)) => {
                let row = match trail.find(way, rows) {
                    Place::Row(row) => Some(row as u32),
                    Place::Nowhere => None,
                    Place::Unread => unreachable!("a scan waits for what measures read"),
                };
                column.extend(std::iter::repeat_n(row, n_times));
            }
            (Source::Classifier(way), Column::Names(column)) => {
                let variable = trail.classifier(way, rows).map(|variable| variable as u16);
                column.extend(std::iter::repeat_n(variable, n_times));
            }
            (Source::MatchNumber, Column::Numbers(column)) => {
                column.extend(std::iter::repeat_n(Some(number), n_times));
            }
            (Source::Aggregate(aggregate), Column::Scalars(column)) => {
                let value = trail.aggregate(*aggregate, rows)?;
                column.extend(std::iter::repeat_n(value, n_times));
            }
            _ => unreachable!("columns are of the kind of their measure"),
        }
        Ok(())
    }
}
