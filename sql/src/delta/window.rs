//! Window functions.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, Projection, Window as WindowPlan, WindowFunctionDefinition,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column as ColumnExpr, Literal};
use tidemill_plan::{
    CloseSource, IncrementalNode, Operator, Properties, TopN, Window, WindowArg, WindowCall,
};

use super::columns::{Columns, incremental, weight_of, with_weight};
use super::expire::expiring;
use super::session::session_bounds;
use super::top_n::RankBound;
use super::{Node, Result, Rewriter, internal};
use crate::refusal::Refusal;

impl Rewriter {
    pub(super) fn window(&mut self, window: &WindowPlan, bound: Option<RankBound>) -> Result<Node> {
        if let Some((bounds, function)) = session_bounds(window) {
            return self.session(window, bounds, function);
        }
        let n_columns = window.input.schema().fields().len();
        let functions: Vec<&WindowFunction> =
            window.window_expr.iter().map(window_function).collect::<Result<_>>()?;
        if let [function] = functions[..]
            && (is_row_number(function) || (is_rank(function) && !function.params.order_by.is_empty()))
            && let Some(bound) = bound.filter(|bound| bound.column == n_columns)
        {
            return self.first_rows(window, function, bound.limit);
        }
        let mut node = self.rewrite(&window.input, None)?;
        let mut ttl = self.ttl_of(&window.input, &node.plan)?;
        node.properties = expiring(node.properties, ttl);
        // DataFusion puts functions of one sort order into one node; each operator has one partition and
        // one order. They are chained in whatever order that gives, and put into theirs at the end.
        let mut places: Vec<usize> = Vec::new();
        for group in groups(&functions) {
            node = chain(node, window, &functions, &group, ttl.take())?;
            places.extend(group);
        }
        if places.is_sorted() {
            return Ok(node);
        }
        reorder(node, n_columns, &places)
    }

    /// `row_number()` or `rank()` with an upper bound: only the first rows of each partition are of interest.
    fn first_rows(&mut self, window: &WindowPlan, function: &WindowFunction, limit: usize) -> Result<Node> {
        let n_columns = window.input.schema().fields().len();
        let node = self.rewrite(&window.input, None)?;
        let mut columns = Columns::all(window.input.schema());
        let partition: Vec<usize> =
            function.params.partition_by.iter().map(|expr| columns.of(expr)).collect();
        let order_by = columns.order_by(&function.params.order_by);
        let projected = columns.project(node.plan)?;
        let ttl = self.ttl_of(&window.input, &projected)?;
        let projected = Self::expire(projected, ttl, &partition);
        let mut properties = expiring(node.properties, ttl);
        let is_append_only = std::mem::take(&mut properties.is_append_only);
        let with_ties = is_rank(function);
        if is_plain(&partition, n_columns) && !with_ties {
            let mut key = partition.clone();
            if limit <= 1 {
                properties.unique_keys.push(key.clone());
            }
            key.push(n_columns);
            properties.unique_keys.push(key);
        }
        keep_closes_of_partition(&mut properties, &partition);
        properties.closes.push(Vec::new());
        let operator = Operator::TopN(TopN {
            partition,
            order_by,
            offset: 0,
            limit,
            rank: true,
            with_ties,
            is_append_only,
        });
        let plan = incremental(operator, projected, with_weight(&window.schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}

/// A window operator for the functions of `group` over `node`, whose columns become its input's.
fn chain(
    node: Node,
    window: &WindowPlan,
    functions: &[&WindowFunction],
    group: &[usize],
    ttl: Option<i64>,
) -> Result<Node> {
    let schema = node.plan.schema().clone();
    let n_columns = schema.fields().len() - 1;
    let mut columns =
        Columns::new(&schema.columns()[..n_columns].iter().cloned().map(Expr::Column).collect::<Vec<_>>());
    let params = &functions[group[0]].params;
    let partition: Vec<usize> = params.partition_by.iter().map(|expr| columns.of(expr)).collect();
    let order_by = columns.order_by(&params.order_by);
    let n_input = window.input.schema().fields().len();
    let mut calls = Vec::new();
    let mut fields: Vec<_> = schema.iter().map(|(table, field)| (table.cloned(), field.clone())).collect();
    fields.pop();
    let mut properties = node.properties;
    for idx in group {
        let (table, field) = window.schema.qualified_field(n_input + idx);
        fields.push((table.cloned(), field.clone()));
        let function = functions[*idx];
        if is_row_number(function) && is_plain(&partition, n_columns) {
            let mut key = partition.clone();
            key.push(n_columns + calls.len());
            properties.unique_keys.push(key);
        }
        calls.push(WindowCall {
            function: function.fun.clone(),
            args: function.params.args.iter().map(|arg| argument(arg, &mut columns)).collect(),
            frame: function.params.window_frame.clone(),
            filter: function.params.filter.as_ref().map(|filter| columns.of(filter)),
            ignore_nulls: function.params.null_treatment == Some(NullTreatment::IgnoreNulls),
            distinct: function.params.distinct,
            return_field: field.clone(),
            display: Expr::WindowFunction(Box::new(function.clone())).schema_name().to_string(),
        });
    }
    let projected = columns.project(node.plan)?;
    for call in &calls {
        refuse_varying_arguments(call)?;
        refuse_frames_that_cannot_slide(call, projected.schema())?;
    }
    let projected = Rewriter::expire(projected, ttl, &partition);
    let is_append_only = properties.is_append_only;
    properties.is_append_only = false;
    keep_closes_of_partition(&mut properties, &partition);
    properties.closes.resize(n_columns + calls.len(), Vec::new());
    let schema = DFSchema::new_with_metadata(fields, schema.metadata().clone())?;
    let operator = Operator::Window(Window { n_columns, partition, order_by, calls, is_append_only });
    let node = IncrementalNode { operator, inputs: vec![projected], schema: with_weight(&schema)? };
    Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
}

/// Puts the calls' columns, of which `places` says where each belongs, into the order of the plan.
fn reorder(node: Node, n_columns: usize, places: &[usize]) -> Result<Node> {
    let schema = node.plan.schema();
    let column = |idx: usize| Expr::Column(Column::from(schema.qualified_field(idx)));
    let source = |idx: usize| match idx.checked_sub(n_columns) {
        None => idx,
        Some(call) => n_columns + places.iter().position(|place| *place == call).expect("a permutation"),
    };
    let sources: Vec<usize> = (0..n_columns + places.len()).map(source).collect();
    let mut exprs: Vec<Expr> = sources.iter().map(|idx| column(*idx)).collect();
    exprs.push(weight_of(&node.plan));
    let sources: Vec<Option<usize>> = sources.into_iter().map(Some).collect();
    let properties = super::properties::project_columns(&node.properties, &sources);
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(node.plan))?);
    Ok(Node { plan, properties })
}

/// The positions of functions that share their partition and order.
fn groups(functions: &[&WindowFunction]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (idx, function) in functions.iter().enumerate() {
        let shares = |group: &&mut Vec<usize>| {
            let known = &functions[group[0]].params;
            known.partition_by == function.params.partition_by && known.order_by == function.params.order_by
        };
        match groups.iter_mut().find(shares) {
            Some(group) => group.push(idx),
            None => groups.push(vec![idx]),
        }
    }
    groups
}

/// What says how far `lag` looks, or what it gives where there is nothing, is a constant for DataFusion.
fn refuse_varying_arguments(call: &WindowCall) -> Result<()> {
    let name = call.function.name();
    let n_values = match name {
        "lag" | "lead" | "nth_value" => 1,
        "ntile" => 0,
        _ => return Ok(()),
    };
    if call.args.iter().skip(n_values).all(|arg| matches!(arg, WindowArg::Constant(_))) {
        return Ok(());
    }
    Err(Refusal::not_incremental(format!("{name}() with an argument that is not a constant"))
        .with_hint(match name {
            "lag" | "lead" => format!(
                "Only its first argument may vary, in a SELECT as well. For a default, write coalesce({name}(…) OVER (…), …)."
            ),
            _ => "Write a number, in a SELECT as well.".to_owned(),
        })
        .near(name)
        .into())
}

/// Over a frame whose start moves, an aggregate has to take rows back, which not all can; DataFusion
/// would say so when it runs.
fn refuse_frames_that_cannot_slide(call: &WindowCall, input: &DFSchema) -> Result<()> {
    let WindowFunctionDefinition::AggregateUDF(function) = &call.function else { return Ok(()) };
    if call.frame.is_ever_expanding() {
        return Ok(());
    }
    let args = call
        .args
        .iter()
        .map(|arg| -> Arc<dyn PhysicalExpr> {
            match arg {
                WindowArg::Column(idx) => Arc::new(ColumnExpr::new(input.field(*idx).name(), *idx)),
                WindowArg::Constant(value) => Arc::new(Literal::new(value.clone())),
            }
        })
        .collect();
    let builder = AggregateExprBuilder::new(function.clone(), args)
        .schema(Arc::new(input.as_arrow().clone()))
        .alias(call.display.clone())
        .with_ignore_nulls(call.ignore_nulls);
    let builder = if call.distinct { builder.distinct() } else { builder };
    match builder.build()?.create_sliding_accumulator() {
        Ok(_) => Ok(()),
        Err(DataFusionError::NotImplemented(_)) => {
            let name = function.name();
            Err(Refusal::not_incremental(format!("{name}() over a frame whose start moves"))
                .with_hint(format!(
                    "{name}() cannot take a row back: begin its frame at UNBOUNDED PRECEDING, in a SELECT as well."
                ))
                .near(name)
                .into())
        }
        Err(error) => Err(error.into()),
    }
}

fn argument(arg: &Expr, columns: &mut Columns) -> WindowArg {
    match arg.clone().unalias() {
        Expr::Literal(value, _) => WindowArg::Constant(value),
        expr => WindowArg::Column(columns.of(&expr)),
    }
}

fn window_function(expr: &Expr) -> Result<&WindowFunction> {
    match expr {
        Expr::WindowFunction(function) => Ok(function),
        Expr::Alias(alias) => window_function(&alias.expr),
        _ => Err(internal("a window expression is a window function")),
    }
}

fn is_row_number(function: &WindowFunction) -> bool {
    matches!(&function.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "row_number")
}

fn is_rank(function: &WindowFunction) -> bool {
    matches!(&function.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "rank")
}

/// Computed partition columns are not in the output; only plain ones make a key of it.
fn is_plain(partition: &[usize], n_columns: usize) -> bool {
    partition.iter().all(|column| *column < n_columns)
}

/// A late row of a partition can bring back, or change, rows of it with any other values: only what
/// all rows of the partition have in common is complete when they are.
fn keep_closes_of_partition(properties: &mut Properties, partition: &[usize]) {
    for (column, closes) in properties.closes.iter_mut().enumerate() {
        if !partition.contains(&column) {
            *closes = Vec::<CloseSource>::new();
        }
    }
}
