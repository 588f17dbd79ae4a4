//! DataFusion's window functions over the columns of the state.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_empty_array};
use arrow::compute::{SortOptions, concat};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::utils::evaluate_partition_ranges;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::WindowExpr;
use datafusion::physical_plan::windows::create_window_expr;
use tidemill_plan as plan;
use tidemill_plan::{Scope, WindowArg};

use super::changes::{Segment, Side};
use super::running::{Carry, Running};
use crate::Error;

/// The calls of one window node.
pub(super) struct Functions {
    calls: Vec<Call>,
    order: Vec<PhysicalSortExpr>,
    schema: SchemaRef,
    encoder: RowConverter,
    /// What is computed again when rows change.
    pub scope: Scope,
    /// How many rows have been evaluated.
    #[cfg(test)]
    pub n_evaluated: std::cell::Cell<usize>,
}

struct Call {
    expr: Arc<dyn WindowExpr>,
    data_type: DataType,
    running: Option<Running>,
}

/// What an evaluation gives.
pub(super) struct Evaluated {
    /// The results of the wanted rows, one array per call.
    pub results: Vec<ArrayRef>,
    /// What each segment has come to, where the calls run.
    pub carries: Vec<Carry>,
}

impl Functions {
    /// `columns` are the input's in the order of the state, whose schema is `schema`.
    pub fn new(
        window: &plan::Window,
        columns: &[usize],
        schema: &SchemaRef,
        input: &SchemaRef,
    ) -> Result<Functions, Error> {
        let column = |column: usize| -> Arc<dyn PhysicalExpr> {
            let idx = columns.iter().position(|known| *known == column).expect("a permutation");
            Arc::new(Column::new(schema.field(idx).name(), idx))
        };
        let partition: Vec<_> = window.partition.iter().map(|idx| column(*idx)).collect();
        let order: Vec<_> = window
            .order_by
            .iter()
            .map(|order| PhysicalSortExpr {
                expr: column(order.column),
                options: SortOptions { descending: order.descending, nulls_first: order.nulls_first },
            })
            .collect();
        let mut calls = Vec::new();
        let scope = window.scope(input.fields());
        for call in &window.calls {
            let args: Vec<Arc<dyn PhysicalExpr>> = call
                .args
                .iter()
                .map(|arg| match arg {
                    WindowArg::Column(idx) => column(*idx),
                    WindowArg::Constant(value) => Arc::new(Literal::new(value.clone())),
                })
                .collect();
            let filter = call.filter.map(column);
            let expr = create_window_expr(
                &call.function,
                call.display.clone(),
                &args,
                &partition,
                &order,
                Arc::new(call.frame.clone()),
                schema.clone(),
                call.ignore_nulls,
                call.distinct,
                filter.clone(),
            )?;
            // Says now what could only fail later: an aggregate that cannot slide, for one.
            expr.create_window_fn()?;
            let running = match &scope {
                Scope::Running { .. } => Running::of(call, !order.is_empty(), args, filter, schema)?,
                _ => None,
            };
            calls.push(Call { data_type: expr.field()?.data_type().clone(), expr, running });
        }
        let fields = calls.iter().map(|call| SortField::new(call.data_type.clone())).collect();
        Ok(Functions {
            calls,
            order,
            schema: schema.clone(),
            encoder: RowConverter::new(fields)?,
            scope,
            #[cfg(test)]
            n_evaluated: Default::default(),
        })
    }

    /// Whether a row changes the results of rows before it that tie with it.
    pub fn needs_peers(&self) -> bool {
        self.calls.iter().any(|call| call.running.as_ref().is_some_and(Running::needs_peers))
    }

    /// The columns of a [`Carry`].
    pub fn carry_fields(&self) -> Result<Vec<Field>, Error> {
        let mut fields =
            vec![Field::new("rows", DataType::Int64, false), Field::new("groups", DataType::Int64, false)];
        for running in self.calls.iter().filter_map(|call| call.running.as_ref()) {
            for field in running.state_fields()? {
                fields.push(Field::new(format!("state{}", fields.len() - 2), field, true));
            }
        }
        Ok(fields)
    }

    /// The results of a side's wanted rows; `columns` are those of all its rows.
    pub fn evaluate(&self, columns: Vec<ArrayRef>, side: &Side) -> Result<Evaluated, Error> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        #[cfg(test)]
        self.n_evaluated.set(self.n_evaluated.get() + batch.num_rows());
        let mut parts: Vec<Vec<ArrayRef>> =
            self.calls.iter().map(|call| vec![new_empty_array(&call.data_type)]).collect();
        let mut carries = Vec::new();
        for segment in &side.segments {
            if matches!(self.scope, Scope::Running { .. }) {
                carries.push(self.run(&batch, segment, &mut parts)?);
                continue;
            }
            if segment.wanted.is_empty() {
                continue;
            }
            let rows = batch.slice(segment.rows.start, segment.rows.len());
            for (call, parts) in self.calls.iter().zip(&mut parts) {
                parts.push(look_around(call, &rows, segment)?);
            }
        }
        let results = parts
            .iter()
            .map(|parts| Ok(concat(&parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>())?))
            .collect::<Result<_, Error>>()?;
        Ok(Evaluated { results, carries })
    }

    /// Goes on from a segment's carry over its wanted rows, which are its last.
    fn run(
        &self,
        batch: &RecordBatch,
        segment: &Segment,
        parts: &mut [Vec<ArrayRef>],
    ) -> Result<Carry, Error> {
        assert_eq!(segment.rows.end, segment.wanted.end, "a running segment ends with its partition");
        if segment.wanted.is_empty() {
            return Ok(Carry::default());
        }
        let rows = batch.slice(segment.rows.start, segment.rows.len());
        let wanted = batch.slice(segment.wanted.start, segment.wanted.len());
        let order = self
            .order
            .iter()
            .map(|sort| sort.evaluate_to_sort_column(&wanted))
            .collect::<Result<Vec<_>, _>>()?;
        let peers = evaluate_partition_ranges(wanted.num_rows(), &order)?;
        let mut states = segment.carry.states.iter();
        let mut new_states = Vec::new();
        for (call, parts) in self.calls.iter().zip(parts) {
            let part = match &call.running {
                None => look_around(call, &rows, segment)?,
                Some(running) => {
                    let own = call.expr.as_ref();
                    let (results, state) = running.run(own, &wanted, &peers, &segment.carry, &mut states)?;
                    new_states.extend(state);
                    results
                }
            };
            parts.push(part);
        }
        Ok(Carry {
            n_rows: segment.carry.n_rows + wanted.num_rows() as u64,
            n_groups: segment.carry.n_groups + peers.len() as u64,
            states: new_states,
        })
    }

    pub fn encode(&self, results: &[ArrayRef]) -> Result<Rows, Error> {
        Ok(self.encoder.convert_columns(results)?)
    }
}

/// The results of a segment's wanted rows from all of its rows.
fn look_around(call: &Call, rows: &RecordBatch, segment: &Segment) -> Result<ArrayRef, Error> {
    let results = call.expr.evaluate(rows)?;
    assert_eq!(results.len(), rows.num_rows(), "{} gives one result per row", call.expr.name());
    Ok(results.slice(segment.wanted.start - segment.rows.start, segment.wanted.len()))
}
