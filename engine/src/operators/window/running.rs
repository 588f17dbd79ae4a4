//! Calls that only ever go on: `row_number()`, `rank()`, and sums and the like from the beginning of the
//! partition to the current row.
//!
//! What all rows of a partition have come to is kept as its *carry*: how many they are, and the
//! accumulators' states. Rows behind the last one are computed from that, without the rows before
//! them; any other change computes the partition from its beginning.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::filter;
use arrow::datatypes::{DataType, SchemaRef, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrameUnits, WindowFunctionDefinition};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_plan::WindowExpr;
use tidemill_plan::WindowCall;

use crate::Error;

/// What the rows of a partition have come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Carry {
    pub n_rows: u64,
    /// How many different values of ORDER BY there are.
    pub n_groups: u64,
    /// The states of all accumulators, in the order of the calls.
    pub states: Vec<ScalarValue>,
}

pub(super) enum Running {
    /// `row_number()`: the number of rows before, added to the one among the new.
    RowNumber,
    Rank,
    DenseRank,
    Aggregate(Aggregate),
}

/// An aggregate from the first row of the partition to the current one.
pub(super) struct Aggregate {
    function: Arc<AggregateFunctionExpr>,
    args: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// `RANGE` and `GROUPS`: to the last row that ties with the current one.
    by_peers: bool,
}

impl Running {
    pub fn of(
        call: &WindowCall,
        is_ordered: bool,
        args: Vec<Arc<dyn PhysicalExpr>>,
        filter: Option<Arc<dyn PhysicalExpr>>,
        schema: &SchemaRef,
    ) -> Result<Option<Running>, Error> {
        if !call.runs(is_ordered) {
            return Ok(None);
        }
        let function = match &call.function {
            WindowFunctionDefinition::WindowUDF(function) => {
                return Ok(Some(match function.name() {
                    "row_number" => Running::RowNumber,
                    "rank" => Running::Rank,
                    "dense_rank" => Running::DenseRank,
                    other => unreachable!("{other}() does not run"),
                }));
            }
            WindowFunctionDefinition::AggregateUDF(function) => function,
        };
        let by_peers = call.frame.units != WindowFrameUnits::Rows;
        let function = AggregateExprBuilder::new(function.clone(), args.clone())
            .schema(schema.clone())
            .alias(call.display.clone())
            .with_ignore_nulls(call.ignore_nulls)
            .build()?;
        Ok(Some(Running::Aggregate(Aggregate { function: Arc::new(function), args, filter, by_peers })))
    }

    pub fn needs_peers(&self) -> bool {
        match self {
            Running::RowNumber => false,
            Running::Rank | Running::DenseRank => true,
            Running::Aggregate(aggregate) => aggregate.by_peers,
        }
    }

    /// The types of its part of [`Carry::states`].
    pub fn state_fields(&self) -> Result<Vec<DataType>, Error> {
        let Running::Aggregate(aggregate) = self else { return Ok(Vec::new()) };
        Ok(aggregate.function.state_fields()?.iter().map(|field| field.data_type().clone()).collect())
    }

    /// The results of `rows`, which follow those that came to `carry`; takes its part of the carry's states, and
    /// gives the new one.
    pub fn run<'s>(
        &self,
        expr: &dyn WindowExpr,
        rows: &RecordBatch,
        peers: &[Range<usize>],
        carry: &Carry,
        states: &mut impl Iterator<Item = &'s ScalarValue>,
    ) -> Result<(ArrayRef, Vec<ScalarValue>), Error> {
        let before = match self {
            Running::RowNumber | Running::Rank => carry.n_rows,
            Running::DenseRank => carry.n_groups,
            Running::Aggregate(aggregate) => return aggregate.run(rows, peers, states),
        };
        let among = expr.evaluate(rows)?;
        let numbers: UInt64Array = among.as_primitive::<UInt64Type>().unary(|number| number + before);
        Ok((Arc::new(numbers), Vec::new()))
    }
}

impl Aggregate {
    fn run<'s>(
        &self,
        rows: &RecordBatch,
        peers: &[Range<usize>],
        states: &mut impl Iterator<Item = &'s ScalarValue>,
    ) -> Result<(ArrayRef, Vec<ScalarValue>), Error> {
        let mut accumulator = self.function.create_accumulator()?;
        let n_states = self.function.state_fields()?.len();
        let carried =
            states.take(n_states).map(|state| state.to_array()).collect::<Result<Vec<ArrayRef>, _>>()?;
        if !carried.is_empty() {
            accumulator.merge_batch(&carried)?;
        }
        let n_rows = rows.num_rows();
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(rows)?.into_array(n_rows);
        let args = self.args.iter().map(evaluate).collect::<Result<Vec<_>, _>>()?;
        let mask = self.filter.as_ref().map(evaluate).transpose()?;
        let mask: Option<&BooleanArray> = mask.as_ref().map(|mask| mask.as_boolean());
        let mut results = Vec::with_capacity(n_rows);
        // The same slices as DataFusion adds, so that sums of floats are the same to the last bit.
        let mut add = |added: Range<usize>| -> Result<(), Error> {
            let slice = |arg: &ArrayRef| arg.slice(added.start, added.len());
            let values = match mask {
                None => args.iter().map(slice).collect(),
                Some(mask) => {
                    let mask = mask.slice(added.start, added.len());
                    args.iter().map(|arg| filter(&slice(arg), &mask)).collect::<Result<Vec<_>, _>>()?
                }
            };
            accumulator.update_batch(&values)?;
            let result = accumulator.evaluate()?;
            results.extend(std::iter::repeat_n(result, added.len()));
            Ok(())
        };
        if self.by_peers {
            peers.iter().cloned().try_for_each(&mut add)?;
        } else {
            (0..n_rows).try_for_each(|row_idx| add(row_idx..row_idx + 1))?;
        }
        Ok((ScalarValue::iter_to_array(results)?, accumulator.state()?))
    }
}
