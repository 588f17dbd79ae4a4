//! What rows have been mapped to, and how values of a match are read from it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{filter, take};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use tidemill_plan::{MatchAggregate, MatchValue, MatchValueKind, Navigation, NavigationEnd, WindowArg};

use crate::Error;
use crate::rows::Rows;

/// A value, with where its rows are noted.
#[derive(Debug)]
pub(crate) struct Value {
    pub source: Source,
    pub is_final: bool,
    pub data_type: arrow::datatypes::DataType,
}

#[derive(Debug)]
pub(crate) enum Source {
    Column(Way, usize),
    Classifier(Way),
    MatchNumber,
    /// Which of the trail's aggregates.
    Aggregate(usize),
}

/// A [`Navigation`] among the rows that are noted for its variables.
#[derive(Debug)]
pub(crate) struct Way {
    pub set: usize,
    pub end: NavigationEnd,
    pub offset: usize,
    pub shift: i64,
}

/// Where a way leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Row(usize),
    Nowhere,
    /// Behind the rows that have been read.
    Unread,
}

/// Which rows are noted, and what is computed over them.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Sets of variables, each ascending.
    sets: Vec<Vec<usize>>,
    aggregates: Vec<Aggregate>,
}

#[derive(Debug)]
pub(crate) struct Aggregate {
    set: usize,
    function: AggregateFunctionExpr,
    args: Vec<WindowArg>,
    filter: Option<usize>,
    /// It can be asked in between. Others may give their values away when they are.
    goes_on: bool,
}

impl Notes {
    /// The number of a set of variables.
    pub fn set(&mut self, variables: &[usize]) -> usize {
        if let Some(set) = self.sets.iter().position(|known| known == variables) {
            return set;
        }
        self.sets.push(variables.to_vec());
        self.sets.len() - 1
    }

    pub fn has(&self, set: usize, variable: usize) -> bool {
        self.sets[set].contains(&variable)
    }

    /// `input` is the schema of the rows.
    pub fn value(&mut self, value: &MatchValue, input: &SchemaRef) -> Result<Value, Error> {
        let mut way = |navigation: &Navigation| Way {
            set: self.set(&navigation.variables),
            end: navigation.end,
            offset: navigation.offset,
            shift: navigation.shift,
        };
        let source = match &value.kind {
            MatchValueKind::Column(navigation, column) => Source::Column(way(navigation), *column),
            MatchValueKind::Classifier(navigation) => Source::Classifier(way(navigation)),
            MatchValueKind::MatchNumber => Source::MatchNumber,
            MatchValueKind::Aggregate(aggregate) => {
                let set = self.set(&aggregate.variables);
                let function = function(aggregate, input)?;
                let (args, filter) = (aggregate.args.clone(), aggregate.filter);
                let goes_on = !aggregate.distinct
                    && matches!(aggregate.function.name(), "count" | "sum" | "avg" | "min" | "max");
                self.aggregates.push(Aggregate { set, function, args, filter, goes_on });
                Source::Aggregate(self.aggregates.len() - 1)
            }
        };
        Ok(Value { source, is_final: value.is_final, data_type: value.data_type.clone() })
    }

    /// For each of `n_variables` variables, the sets that it is in.
    pub fn memberships(&self, n_variables: usize) -> Vec<Vec<usize>> {
        let sets_of = |variable| (0..self.sets.len()).filter(|set| self.has(*set, variable)).collect();
        (0..n_variables).map(sets_of).collect()
    }
}

fn function(aggregate: &MatchAggregate, input: &SchemaRef) -> Result<AggregateFunctionExpr, Error> {
    let arg = |arg: &WindowArg| -> Arc<dyn PhysicalExpr> {
        match arg {
            WindowArg::Column(idx) => Arc::new(Column::new(input.field(*idx).name(), *idx)),
            WindowArg::Constant(value) => Arc::new(Literal::new(value.clone())),
        }
    };
    let builder =
        AggregateExprBuilder::new(aggregate.function.clone(), aggregate.args.iter().map(arg).collect())
            .schema(Arc::new(Schema::new(input.fields().clone())))
            .alias(aggregate.return_field.name())
            .with_ignore_nulls(aggregate.ignore_nulls);
    let builder = if aggregate.distinct { builder.distinct() } else { builder };
    Ok(builder.build()?)
}

impl Aggregate {
    pub fn accumulator(&self) -> Result<Box<dyn Accumulator>, Error> {
        Ok(self.function.create_accumulator()?)
    }

    /// Adds rows.
    pub fn add(
        &self,
        accumulator: &mut dyn Accumulator,
        rows: &Rows,
        positions: &[u32],
    ) -> Result<(), Error> {
        let mut indices = UInt32Array::from(positions.to_vec());
        if let Some(column) = self.filter {
            let kept = take(&rows.columns[column], &indices, None)?;
            let kept: BooleanArray = kept.as_boolean().iter().map(|kept| Some(kept == Some(true))).collect();
            indices = filter(&indices, &kept)?.as_primitive().clone();
        }
        if indices.is_empty() {
            return Ok(());
        }
        let n_rows = indices.len();
        let values = |arg: &WindowArg| -> Result<ArrayRef, Error> {
            Ok(match arg {
                WindowArg::Column(column) => take(&rows.columns[*column], &indices, None)?,
                WindowArg::Constant(value) => value.to_array_of_size(n_rows)?,
            })
        };
        let args = self.args.iter().map(values).collect::<Result<Vec<_>, _>>()?;
        Ok(accumulator.update_batch(&args)?)
    }
}

/// The rows of a match so far.
#[derive(Debug)]
pub(crate) struct Trail<'a> {
    notes: &'a Notes,
    memberships: &'a [Vec<usize>],
    pub start: usize,
    /// The variable of each row, and whether it is excluded.
    pub mapped: Vec<(u16, bool)>,
    /// For each set, its rows.
    rows: Vec<Vec<u32>>,
    running: Vec<Option<Running>>,
}

/// An aggregate over the first rows of its set.
#[derive(Debug)]
struct Running {
    accumulator: Box<dyn Accumulator>,
    n_rows: usize,
}

impl<'a> Trail<'a> {
    pub fn new(notes: &'a Notes, memberships: &'a [Vec<usize>], start: usize) -> Trail<'a> {
        Trail {
            notes,
            memberships,
            start,
            mapped: Vec::new(),
            rows: vec![Vec::new(); notes.sets.len()],
            running: notes.aggregates.iter().map(|_| None).collect(),
        }
    }

    /// The row behind the last.
    pub fn next_row(&self) -> usize {
        self.start + self.mapped.len()
    }

    pub fn push(&mut self, variable: usize, is_excluded: bool) {
        let row = self.next_row() as u32;
        self.mapped.push((variable as u16, is_excluded));
        for set in &self.memberships[variable] {
            self.rows[*set].push(row);
        }
    }

    /// Takes back all rows but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        while self.mapped.len() > len {
            let (variable, _) = self.mapped.pop().expect("it is longer");
            for set in &self.memberships[usize::from(variable)] {
                self.rows[*set].pop();
            }
        }
        for (running, aggregate) in self.running.iter_mut().zip(&self.notes.aggregates) {
            // An accumulator cannot give rows back.
            if running.as_ref().is_some_and(|running| running.n_rows > self.rows[aggregate.set].len()) {
                *running = None;
            }
        }
    }

    pub fn find(&self, way: &Way, rows: &Rows) -> Place {
        let noted = &self.rows[way.set];
        let noted = match way.end {
            NavigationEnd::First => noted.get(way.offset),
            NavigationEnd::Last => noted.len().checked_sub(way.offset + 1).map(|idx| &noted[idx]),
        };
        match noted {
            Some(row) => shifted(*row as usize, way.shift, rows),
            None => Place::Nowhere,
        }
    }

    /// The name of the variable of a row, by its number.
    pub fn classifier(&self, way: &Way, rows: &Rows) -> Option<usize> {
        match self.find(way, rows) {
            Place::Row(row) => {
                let mapped = self.mapped.get(row.checked_sub(self.start)?)?;
                Some(usize::from(mapped.0))
            }
            Place::Nowhere | Place::Unread => None,
        }
    }

    /// An aggregate over the rows so far. Rows are added one by one and in their order, so that the sum of
    /// floating-point numbers does not depend on when it was asked for.
    pub fn aggregate(&mut self, idx: usize, rows: &Rows) -> Result<ScalarValue, Error> {
        let aggregate = &self.notes.aggregates[idx];
        let noted = &self.rows[aggregate.set];
        let running = match &mut self.running[idx] {
            Some(running) => running,
            empty => empty.insert(Running { accumulator: aggregate.accumulator()?, n_rows: 0 }),
        };
        for row in &noted[running.n_rows..] {
            aggregate.add(running.accumulator.as_mut(), rows, &[*row])?;
        }
        running.n_rows = noted.len();
        let value = running.accumulator.evaluate()?;
        if !aggregate.goes_on {
            self.running[idx] = None;
        }
        Ok(value)
    }
}

/// A row so many further on.
pub(crate) fn shifted(row: usize, shift: i64, rows: &Rows) -> Place {
    match i64::try_from(row).ok().and_then(|row| row.checked_add(shift)) {
        Some(row) if row < 0 => Place::Nowhere,
        Some(row) if (row as usize) < rows.len => Place::Row(row as usize),
        _ if rows.is_complete => Place::Nowhere,
        _ => Place::Unread,
    }
}
