//! The general aggregate: the values of each touched group go through DataFusion's own accumulator again.
//!
//! A step costs in proportion to the groups that it touches. The values of a group are replayed in the order of the
//! call's ORDER BY, then of the values themselves, so that the result does not depend on the order in which rows
//! came, lanes ran or the server was restarted.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use tidemill_plan::{AggregateCall, OtherAggregate};

use super::calls::{Touched, ValuesLayout, values_change};
use super::{BATCH_ROWS, StateTable};
use crate::Error;

/// Functions to which a value's copies make no difference.
const COPIES_IGNORED: &[&str] = &["bool_and", "bool_or", "bit_and", "bit_or", "approx_distinct"];

pub(crate) struct Replay {
    /// The group's key, what the values are ordered by, the arguments.
    pub table: StateTable,
    /// Columns of the input: what the values are ordered by, the arguments.
    columns: Vec<usize>,
    n_order: usize,
    /// All arguments, in the function's order.
    arguments: Vec<Argument>,
    function: AggregateFunctionExpr,
    /// A value counts once, however many copies there are.
    ignores_copies: bool,
}

enum Argument {
    /// A position among the arguments that are columns.
    Column(usize),
    Constant(ScalarValue),
}

impl Replay {
    pub fn new(
        call_idx: usize,
        call: &AggregateCall,
        other: &OtherAggregate,
        values: &ValuesLayout,
    ) -> Result<Replay, Error> {
        let mut columns: Vec<usize> = call.order_by.iter().map(|order| order.column).collect();
        let n_order = columns.len();
        columns.extend(&call.args);
        let mut layout: Vec<_> = call.order_by.iter().map(|order| values.ordered(order)).collect();
        layout.extend(call.args.iter().map(|arg| values.ascending(*arg)));
        let table = values.table(call_idx, layout)?;

        let mut arguments: Vec<Argument> = (0..call.args.len()).map(Argument::Column).collect();
        for (position, value) in &other.constants {
            arguments.insert(*position, Argument::Constant(value.clone()));
        }
        let schema = Schema::new(
            columns.iter().map(|column| values.input.field(*column).as_ref().clone()).collect::<Vec<_>>(),
        );
        let column =
            |idx: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(schema.field(idx).name(), idx)) };
        let argument = |argument: &Argument| -> Arc<dyn PhysicalExpr> {
            match argument {
                Argument::Column(idx) => column(n_order + idx),
                Argument::Constant(value) => Arc::new(Literal::new(value.clone())),
            }
        };
        let order_by = call.order_by.iter().enumerate().map(|(idx, order)| {
            let options =
                arrow::compute::SortOptions { descending: order.descending, nulls_first: order.nulls_first };
            PhysicalSortExpr::new(column(idx), options)
        });
        let function = AggregateExprBuilder::new(other.udf.clone(), arguments.iter().map(argument).collect())
            .order_by(order_by.collect())
            .schema(Arc::new(schema.clone()))
            .alias(call.display.clone())
            .with_ignore_nulls(call.ignore_nulls)
            .build()?;
        let ignores_copies = call.distinct || COPIES_IGNORED.contains(&other.udf.name());
        Ok(Replay { table, columns, n_order, arguments, function, ignores_copies })
    }

    /// Takes the step's rows in; gives the result of each touched group. `old` are the results before, where
    /// `before` says that there was one.
    pub fn update(
        &mut self,
        touched: &Touched,
        rows: &UInt32Array,
        old: &ArrayRef,
        before: &[Option<u32>],
    ) -> Result<ArrayRef, Error> {
        let values: Vec<ArrayRef> =
            self.columns.iter().map(|column| touched.batch.column(*column).clone()).collect();
        let (change, groups) = values_change(&self.table, touched, rows, &values)?;
        self.table.arrangement.append(change);
        let mut stale: Vec<bool> = before.iter().map(|row| row.is_none()).collect();
        groups.iter().for_each(|group| stale[*group as usize] = true);

        let mut results: Vec<ScalarValue> = (0..before.len())
            .map(|group| match stale[group] {
                // An aggregate's value over no rows, unless rows are found below.
                true => self.function.create_accumulator()?.evaluate(),
                false => ScalarValue::try_from_array(old, group),
            })
            .collect::<Result<_, _>>()?;
        self.replay(touched, &stale, &mut results)?;
        let results = ScalarValue::iter_to_array(results)?;
        // What an accumulator calls the fields of a list may differ from what it declared.
        Ok(if results.data_type() == old.data_type() { results } else { cast(&results, old.data_type())? })
    }

    fn replay(&self, touched: &Touched, stale: &[bool], results: &mut [ScalarValue]) -> Result<(), Error> {
        let snapshot = self.table.snapshot();
        let stale: Vec<usize> = (0..stale.len()).filter(|group| stale[*group]).collect();
        let mut values: Vec<(usize, &[u8], i64)> = Vec::new();
        snapshot.lookup(stale.iter().map(|group| touched.group_keys[*group]), |idx, row, weight| {
            values.push((stale[idx], row, if self.ignores_copies { weight.min(1) } else { weight }));
        });
        if values.iter().any(|(_, _, weight)| *weight < 0) {
            return Err(Error::NegativeWeight { operator: "GROUP BY" });
        }
        let mut chunk = Chunk::default();
        let mut current: Option<(usize, Box<dyn Accumulator>)> = None;
        for (group, row, weight) in values {
            for _ in 0..weight {
                chunk.push(group, row);
                if chunk.rows.len() == BATCH_ROWS {
                    self.run(&mut chunk, &mut current, results)?;
                }
            }
        }
        self.run(&mut chunk, &mut current, results)?;
        if let Some((group, mut accumulator)) = current {
            results[group] = accumulator.evaluate()?;
        }
        Ok(())
    }

    /// Feeds a chunk of values to the accumulators of their groups, one after the other. `current` is the
    /// one that may have more to come.
    fn run(
        &self,
        chunk: &mut Chunk,
        current: &mut Option<(usize, Box<dyn Accumulator>)>,
        results: &mut [ScalarValue],
    ) -> Result<(), Error> {
        let n_rows = chunk.rows.len();
        let columns = self.table.layout().decode(chunk.rows.drain(..))?;
        let values = &columns[self.table.layout().n_keys()..];
        let (order, args) = values.split_at(self.n_order);
        // Functions that heed an order take it behind their arguments.
        let mut inputs = self
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Column(idx) => Ok(args[*idx].clone()),
                Argument::Constant(value) => value.to_array_of_size(n_rows),
            })
            .collect::<Result<Vec<ArrayRef>, _>>()?;
        inputs.extend(order.iter().cloned());
        let mut start = 0;
        for (group, end) in chunk.ends.drain(..) {
            let slices: Vec<ArrayRef> = inputs.iter().map(|input| input.slice(start, end - start)).collect();
            start = end;
            let mut accumulator = match current.take() {
                Some((known, accumulator)) if known == group => accumulator,
                finished => {
                    if let Some((known, mut accumulator)) = finished {
                        results[known] = accumulator.evaluate()?;
                    }
                    self.function.create_accumulator()?
                }
            };
            accumulator.update_batch(&slices)?;
            *current = Some((group, accumulator));
        }
        Ok(())
    }
}

/// Values of some groups, one group after the other.
#[derive(Default)]
struct Chunk<'a> {
    rows: Vec<&'a [u8]>,
    /// Each group with the end of its rows.
    ends: Vec<(usize, usize)>,
}

impl<'a> Chunk<'a> {
    fn push(&mut self, group: usize, row: &'a [u8]) {
        self.rows.push(row);
        match self.ends.last_mut() {
            Some((last, end)) if *last == group => *end += 1,
            _ => self.ends.push((group, self.rows.len())),
        }
    }
}
