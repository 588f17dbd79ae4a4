//! The rows of a relation that policies let a reader see.
//!
//! The filter is a step of its own that takes in nothing from above: were it merged with what the query says, a predicate that fails (`1 / x`)
//! would be evaluated on rows that are not to be seen, and its error would tell of them. What the query says still helps to *find* rows, which shows nothing: a
//! snapshot only compares keys with it.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::TryStreamExt;

/// A relation of which not all rows are seen.
#[derive(Debug)]
pub struct RowFilter {
    pub table: Arc<dyn TableProvider>,
    filter: Expr,
    /// The relation's columns, as the filter names them.
    columns: DFSchema,
}

impl RowFilter {
    pub fn new(table: Arc<dyn TableProvider>, filter: Expr, columns: DFSchema) -> RowFilter {
        RowFilter { table, filter, columns }
    }

    /// What the relation is asked for: what the filter and the query say, as far as it finds rows by that.
    pub fn looked_up(&self, filters: &[Expr]) -> Result<Vec<Expr>> {
        let all: Vec<&Expr> = split_conjunction(&self.filter).into_iter().chain(filters).collect();
        let supported = self.table.supports_filters_pushdown(&all)?;
        let is_used = |(expr, support): (&Expr, TableProviderFilterPushDown)| {
            (support != TableProviderFilterPushDown::Unsupported).then(|| expr.clone())
        };
        Ok(all.into_iter().zip(supported).filter_map(is_used).collect())
    }
}

#[async_trait]
impl TableProvider for RowFilter {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = self.table.supports_filters_pushdown(filters)?.into_iter();
        Ok(support
            .map(|support| match support {
                TableProviderFilterPushDown::Unsupported => support,
                _ => TableProviderFilterPushDown::Inexact,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let of_filter = self.filter.column_refs();
        let is_named = |idx: &usize| of_filter.iter().any(|column| column.name == *schema.field(*idx).name());
        let mut read = wanted.clone();
        read.extend((0..schema.fields().len()).filter(|idx| is_named(idx) && !wanted.contains(idx)));
        let input = self.table.scan(state, Some(&read), &self.looked_up(filters)?, None).await?;
        let fields = read.iter().map(|idx| {
            let (qualifier, field) = self.columns.qualified_field(*idx);
            (qualifier.cloned(), field.clone())
        });
        let columns = DFSchema::new_with_metadata(fields.collect(), Default::default())?;
        let predicate = create_physical_expr(
            &self.filter,
            &columns,
            state.execution_props(),
            &PhysicalPlanningContext::default(),
        )?;
        Ok(Arc::new(RowFilterExec::new(input, predicate, wanted.len())))
    }
}

/// Lets rows through, and their first columns.
#[derive(Debug)]
struct RowFilterExec {
    input: Arc<dyn ExecutionPlan>,
    predicate: Arc<dyn PhysicalExpr>,
    n_columns: usize,
    properties: Arc<PlanProperties>,
}

impl RowFilterExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        predicate: Arc<dyn PhysicalExpr>,
        n_columns: usize,
    ) -> RowFilterExec {
        let columns: Vec<usize> = (0..n_columns).collect();
        let schema = Arc::new(input.schema().project(&columns).expect("the input begins with them"));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(
                input.output_partitioning().partition_count(),
            ),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        RowFilterExec { input, predicate, n_columns, properties: Arc::new(properties) }
    }
}

impl DisplayAs for RowFilterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        // Not the condition, which is about the reader.
        f.write_str("RowFilterExec: policies")
    }
}

impl ExecutionPlan for RowFilterExec {
    fn name(&self) -> &str {
        "RowFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        f(&self.predicate)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(RowFilterExec::new(input, self.predicate.clone(), self.n_columns))),
            Err(_) => internal_err!("a row filter has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (predicate, columns) = (self.predicate.clone(), (0..self.n_columns).collect::<Vec<_>>());
        let batches = self.input.execute(partition, context)?.and_then(move |batch| {
            let seen = seen(&batch, &predicate)
                .and_then(|batch| batch.project(&columns).map_err(DataFusionError::from));
            std::future::ready(seen)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// The rows for which a condition is true.
pub fn seen(batch: &RecordBatch, condition: &Arc<dyn PhysicalExpr>) -> Result<RecordBatch> {
    let is_seen = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(filter_record_batch(batch, is_seen.as_boolean())?)
}
