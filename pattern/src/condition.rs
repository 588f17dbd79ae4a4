//! What DEFINE demands of a row.
//!
//! Most conditions read only the row itself and its neighbours. Such a *free* condition is a property of the row: it is
//! evaluated for many rows at once, and what is found out stays. Others also read rows that an earlier
//! part of the match settled (`FIRST(A.price)`); as long as these stay the same, while a repetition
//! goes on, many rows are evaluated at once as well. Evaluating ahead may meet an error, such as a division by
//! zero, in a row that nobody asks for; then rows are evaluated one by one.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::physical_expr::PhysicalExpr;

use crate::Error;
use crate::rows::{Known, Rows};
use crate::trail::{Notes, Place, Source, Trail, Value, shifted};

/// How many rows are evaluated at once, at most.
const BLOCK_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Condition {
    variable: usize,
    expr: Arc<dyn PhysicalExpr>,
    /// Of what it reads, in the order of its columns.
    schema: SchemaRef,
    reads: Vec<Read>,
    /// How many rows behind the tested one it reads.
    ahead: usize,
    /// It depends on the place of the row only.
    pub is_free: bool,
    /// Its value for many rows can be computed while the rest of the match stays as it is.
    is_columnar: bool,
}

#[derive(Debug)]
struct Read {
    /// Among the values of all conditions.
    value: usize,
    /// How far from the tested row, where that is all that matters.
    relative: Option<i64>,
}

/// What a condition may read beside the rows of the match.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub values: &'a [Value],
    pub variables: &'a [tidemill_plan::Variable],
    /// The number of the match.
    pub number: i64,
}

/// What a condition gave for some rows, as long as the other rows that it reads stay the same.
#[derive(Debug, Default)]
pub(crate) struct Block {
    others: Vec<Place>,
    first: usize,
    results: Vec<bool>,
}

/// Whether a row fulfils a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    True,
    False,
    /// Rows that it depends on have not been read.
    Unread,
}

impl Test {
    fn of(is_true: bool) -> Test {
        if is_true { Test::True } else { Test::False }
    }
}

impl Condition {
    /// `reads` are the values that stand in the columns of `schema`, which `expr` is over.
    pub fn new(
        variable: usize,
        expr: Arc<dyn PhysicalExpr>,
        reads: Vec<usize>,
        values: &[Value],
        notes: &Notes,
    ) -> Condition {
        let read = |value: &usize| {
            let relative = match &values[*value].source {
                // The tested row is the last one of its variable.
                Source::Column(way, _)
                    if way.end == tidemill_plan::NavigationEnd::Last
                        && way.offset == 0
                        && notes.has(way.set, variable) =>
                {
                    Some(way.shift)
                }
                _ => None,
            };
            Read { value: *value, relative }
        };
        let field = |value: &usize| {
            let name = tidemill_plan::value_column(*value);
            Field::new(name, values[*value].data_type.clone(), true)
        };
        let schema = Arc::new(Schema::new(reads.iter().map(field).collect::<Vec<_>>()));
        let reads: Vec<Read> = reads.iter().map(read).collect();
        let shift = |read: &Read| match &values[read.value].source {
            Source::Column(way, _) | Source::Classifier(way) => way.shift.max(0) as usize,
            Source::MatchNumber | Source::Aggregate(_) => 0,
        };
        let is_columnar = reads.iter().all(|read| matches!(values[read.value].source, Source::Column(..)));
        Condition {
            variable,
            expr,
            schema,
            ahead: reads.iter().map(shift).max().unwrap_or(0),
            is_free: is_columnar && reads.iter().all(|read| read.relative.is_some()),
            is_columnar,
            reads,
        }
    }

    /// How many rows behind the tested one it reads.
    pub fn ahead(&self) -> usize {
        self.ahead
    }

    /// For a free condition, without any match around the row.
    pub fn test_free(&self, row: usize, values: &[Value], rows: &mut Rows) -> Result<Test, Error> {
        let known = &mut rows.known[self.variable];
        known.resize(rows.len, Known::Nothing);
        match known[row] {
            Known::True => return Ok(Test::True),
            Known::False => return Ok(Test::False),
            Known::Nothing => (),
        }
        // Twice as many as are known in one piece before it.
        let n_before =
            known[..row].iter().rev().take(BLOCK_MAX).take_while(|known| **known != Known::Nothing).count();
        let unknown = known[row..].iter().take_while(|known| **known == Known::Nothing).count();
        let Some(n_rows) = self.n_rows(row, (2 * n_before).clamp(1, BLOCK_MAX).min(unknown), rows) else {
            return Ok(Test::Unread);
        };
        let results = self.evaluate(row, n_rows, None, values, rows)?;
        for (idx, result) in results.iter().enumerate() {
            rows.known[self.variable][row + idx] = if *result { Known::True } else { Known::False };
        }
        Ok(Test::of(results[0]))
    }

    /// For the last row of `trail`, which is mapped to the variable for now.
    pub fn test(
        &self,
        block: &mut Block,
        trail: &mut Trail<'_>,
        context: &Context<'_>,
        rows: &Rows,
    ) -> Result<Test, Error> {
        let values = context.values;
        let row = trail.next_row() - 1;
        if self.n_rows(row, 1, rows).is_none() {
            return Ok(Test::Unread);
        }
        if !self.is_columnar {
            return self.test_alone(row, trail, context, rows);
        }
        let place = |read: &Read| match (&values[read.value].source, read.relative) {
            (Source::Column(way, _), None) => Some(trail.find(way, rows)),
            _ => None,
        };
        let others: Vec<Place> = self.reads.iter().filter_map(place).collect();
        if others.contains(&Place::Unread) {
            return Ok(Test::Unread);
        }
        let is_same = block.others == others;
        if is_same && let Some(result) = row.checked_sub(block.first).and_then(|idx| block.results.get(idx)) {
            return Ok(Test::of(*result));
        }
        let goes_on = is_same && block.first + block.results.len() == row;
        let n_wanted = if goes_on { (2 * block.results.len()).clamp(1, BLOCK_MAX) } else { 1 };
        let n_rows = self.n_rows(row, n_wanted, rows).expect("one row can be tested");
        let results = self.evaluate(row, n_rows, Some(&others), values, rows)?;
        *block = Block { others, first: row, results };
        Ok(Test::of(block.results[0]))
    }

    /// How many rows from one on, of so many, can be tested now; none if not even the first.
    fn n_rows(&self, row: usize, n_wanted: usize, rows: &Rows) -> Option<usize> {
        let n_there = rows.len - row;
        let n_testable = if rows.is_complete { n_there } else { n_there.saturating_sub(self.ahead) };
        (n_testable > 0).then(|| n_wanted.min(n_testable))
    }

    /// Rows from one on. With an error in one of them there is only the first.
    fn evaluate(
        &self,
        row: usize,
        n_rows: usize,
        others: Option<&[Place]>,
        values: &[Value],
        rows: &Rows,
    ) -> Result<Vec<bool>, Error> {
        let mut others = others.unwrap_or_default().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.reads.len());
        for read in &self.reads {
            let Source::Column(_, column) = &values[read.value].source else {
                unreachable!("only columns are read for many rows at once");
            };
            let index = |place: Place| match place {
                Place::Row(row) => Some(row as u32),
                Place::Nowhere | Place::Unread => None,
            };
            let indices: UInt32Array = match read.relative {
                Some(shift) => (row..row + n_rows).map(|row| index(shifted(row, shift, rows))).collect(),
                None => {
                    let place = others.next().expect("there is a place for each");
                    std::iter::repeat_n(index(*place), n_rows).collect()
                }
            };
            columns.push(take(&rows.columns[*column], &indices, None)?);
        }
        match self.evaluate_columns(columns.clone(), n_rows) {
            Err(_) if n_rows > 1 => {
                let first = columns.iter().map(|column| column.slice(0, 1)).collect();
                self.evaluate_columns(first, 1)
            }
            other => other,
        }
    }

    fn evaluate_columns(&self, columns: Vec<ArrayRef>, n_rows: usize) -> Result<Vec<bool>, Error> {
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let result = self.expr.evaluate(&batch)?.into_array(n_rows)?;
        if result.data_type().is_null() {
            return Ok(vec![false; n_rows]);
        }
        // What is not known is not fulfilled.
        Ok(result.as_boolean().iter().map(|result| result == Some(true)).collect())
    }

    fn test_alone(
        &self,
        row: usize,
        trail: &mut Trail<'_>,
        context: &Context<'_>,
        rows: &Rows,
    ) -> Result<Test, Error> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.reads.len());
        for read in &self.reads {
            let value = &context.values[read.value];
            columns.push(match &value.source {
                Source::Column(way, column) => {
                    let index = match trail.find(way, rows) {
                        Place::Row(row) => Some(row as u32),
                        Place::Nowhere => None,
                        Place::Unread => return Ok(Test::Unread),
                    };
                    take(&rows.columns[*column], &UInt32Array::from(vec![index]), None)?
                }
                Source::Classifier(way) => {
                    if trail.find(way, rows) == Place::Unread {
                        return Ok(Test::Unread);
                    }
                    let name = trail.classifier(way, rows).map(|idx| &context.variables[idx].name[..]);
                    Arc::new(StringArray::from(vec![name]))
                }
                Source::MatchNumber => Arc::new(Int64Array::from(vec![context.number])),
                Source::Aggregate(idx) => {
                    let result: ScalarValue = trail.aggregate(*idx, rows)?;
                    let result = result.to_array()?;
                    if result.data_type() == &value.data_type {
                        result
                    } else {
                        cast(&result, &value.data_type)?
                    }
                }
            });
        }
        assert!(row < rows.len, "a tested row is there");
        Ok(Test::of(self.evaluate_columns(columns, 1)?[0]))
    }
}
