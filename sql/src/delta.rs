//! The delta rewrite: from a plan over relations to a plan over their changes.
//!
//! Every node of the result computes, from the changes of its inputs, the change of what the original
//! node would give (Budiu et al., *DBSP: Automatic Incremental View Maintenance*, VLDB 2023). A linear
//! node is its own incremental version: it stays DataFusion's, and carries the weight along as one more
//! column. Any other becomes an [`IncrementalNode`]; what it reads is first made into plain columns by
//! a projection. A node that is neither is refused by name.
//!
//! On the way up each node's [`Properties`] are derived: whether it only ever inserts, which
//! columns are unique, and when the values of a time column are complete.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, DataFusionError, JoinType, NullEquality, ScalarValue, TableReference,
};
use datafusion::logical_expr::expr::{
    AggregateFunction as AggregateFunctionExpr, NullTreatment, WindowFunction,
};
use datafusion::logical_expr::{
    Aggregate as AggregatePlan, EmptyRelation, Expr, Extension, FetchType, Filter, Join as JoinPlan, Limit,
    LogicalPlan, Operator as BinaryOperator, Projection, SkipType, Sort, SortExpr, SubqueryAlias, TableScan,
    Union, Unnest, Window, WindowFunctionDefinition, build_join_schema,
};
use tidemill_core::{SqlState, WEIGHT};
use tidemill_plan::{
    Aggregate, AggregateCall, AggregateFunction, Close, CloseSource, IncrementalNode, Input, InputKind, Join,
    Operator, OrderColumn, Properties, RelationId, TopN, Upsert,
};

use crate::refusal::Refusal;
use crate::relations::relation_of;

/// Why there is no incremental plan.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
}

type Result<T> = std::result::Result<T, DeltaError>;

/// What the rewrite of a whole plan gives.
#[derive(Debug)]
pub struct Rewritten {
    pub plan: LogicalPlan,
    pub properties: Properties,
    pub inputs: BTreeSet<RelationId>,
}

/// Rewrites an optimised plan.
pub fn rewrite(plan: &LogicalPlan, emit_on_window_close: bool) -> Result<Rewritten> {
    let mut rewriter = Rewriter { emit_on_window_close, n_closed: 0, inputs: BTreeSet::new() };
    let node = rewriter.rewrite(plan, None)?;
    if emit_on_window_close && rewriter.n_closed == 0 {
        return Err(Refusal {
            sqlstate: SqlState::WINDOWING,
            message: "EMIT ON WINDOW CLOSE needs a GROUP BY on a window or time column that a watermark completes"
                .into(),
            hint: Some(
                "Declare WATERMARK FOR ts AS ts - INTERVAL '5 seconds' on the source, and group by window_start \
                 or window_end of TUMBLE or HOP over that column."
                    .into(),
            ),
            near: Some("emit".into()),
        }
        .into());
    }
    Ok(Rewritten { plan: node.plan, properties: node.properties, inputs: rewriter.inputs })
}

/// A rewritten node.
struct Node {
    /// Its last column is the weight.
    plan: LogicalPlan,
    properties: Properties,
}

struct Rewriter {
    emit_on_window_close: bool,
    /// How many aggregates emit on window close.
    n_closed: usize,
    inputs: BTreeSet<RelationId>,
}

/// An upper bound on `row_number()`, found in a filter above its window node.
#[derive(Clone)]
struct RankBound {
    /// The bounded column, in the schema of the node that is rewritten with it.
    column: usize,
    limit: usize,
}

impl Rewriter {
    fn rewrite(&mut self, plan: &LogicalPlan, bound: Option<RankBound>) -> Result<Node> {
        match plan {
            LogicalPlan::TableScan(scan) => self.table_scan(scan),
            LogicalPlan::Projection(projection) => self.projection(projection, bound),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::SubqueryAlias(alias) => self.subquery_alias(alias, bound),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Window(window) => self.window(window, bound),
            LogicalPlan::EmptyRelation(empty) => empty_relation(empty),
            LogicalPlan::Values(_) => Err(Refusal::not_incremental("a VALUES list")
                .with_hint("Insert the rows into a table and read that.")
                .near("values")
                .into()),
            LogicalPlan::RecursiveQuery(_) => {
                Err(Refusal::not_incremental("WITH RECURSIVE").near("recursive").into())
            }
            LogicalPlan::Distinct(_) => Err(Refusal::not_incremental("DISTINCT ON").near("distinct").into()),
            other => Err(Refusal::not_incremental(format!("the plan node {}", other.display())).into()),
        }
    }

    fn table_scan(&mut self, scan: &TableScan) -> Result<Node> {
        let provider = source_as_provider(&scan.source)?;
        let Some(relation) = relation_of(provider.as_ref()) else {
            return Err(Refusal::not_incremental(format!("the system relation \"{}\"", scan.table_name))
                .near(scan.table_name.table())
                .into());
        };
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(internal("a filter or limit was pushed into a relation"));
        }
        self.inputs.insert(relation.id);
        let n_columns = relation.schema.fields().len();
        let wanted: Vec<usize> = scan.projection.clone().unwrap_or_else(|| (0..n_columns).collect());
        let node = |operator, inputs, schema| {
            LogicalPlan::Extension(Extension { node: Arc::new(IncrementalNode { operator, inputs, schema }) })
        };
        let project_properties = |columns: &[usize]| {
            project_columns(&relation.properties, &columns.iter().map(|c| Some(*c)).collect::<Vec<_>>())
        };
        if relation.kind != InputKind::Upsert {
            let input = Input {
                relation: relation.id,
                name: relation.name.clone(),
                projection: wanted.clone(),
                kind: relation.kind,
            };
            let schema = with_weight(&scan.projected_schema)?;
            return Ok(Node {
                plan: node(Operator::Input(input), Vec::new(), schema),
                properties: project_properties(&wanted),
            });
        }
        // A changelog by key is turned into a delta before anything else may look at it; that needs
        // the key, whether the query does or not.
        let mut columns = wanted.clone();
        columns.extend(relation.primary_key.iter().filter(|key| !wanted.contains(key)));
        let keys = relation
            .primary_key
            .iter()
            .map(|key| columns.iter().position(|column| column == key).expect("keys were added above"))
            .collect();
        let qualified = |field: &FieldRef| (Some(scan.table_name.clone()), field.clone());
        let fields: Vec<(Option<TableReference>, FieldRef)> =
            columns.iter().map(|column| qualified(&relation.schema.fields()[*column])).collect();
        let upserted = with_weight(&DFSchema::new_with_metadata(fields.clone(), Default::default())?)?;
        let mut sequenced = fields;
        sequenced.push((None, Arc::new(Field::new(tidemill_plan::SEQUENCE, DataType::Int64, false))));
        let sequenced = with_weight(&DFSchema::new_with_metadata(sequenced, Default::default())?)?;
        let input = Input {
            relation: relation.id,
            name: relation.name.clone(),
            projection: columns.clone(),
            kind: InputKind::Upsert,
        };
        let changelog = node(Operator::Input(input), Vec::new(), sequenced);
        let upsert = node(Operator::Upsert(Upsert { keys }), vec![changelog], upserted);
        let n_kept = wanted.len();
        let kept = project(upsert, |fields| fields[..n_kept].to_vec())?;
        Ok(Node { plan: kept, properties: project_properties(&wanted) })
    }

    fn projection(&mut self, projection: &Projection, bound: Option<RankBound>) -> Result<Node> {
        // A bound on a column that is passed through is a bound below.
        let below = bound.and_then(|bound| {
            let source = column_of(&projection.expr[bound.column])?;
            Some(RankBound { column: projection.input.schema().maybe_index_of_column(source)?, ..bound })
        });
        let input = self.rewrite(&projection.input, below)?;
        let input_schema = projection.input.schema();
        let sources: Vec<Option<usize>> = projection
            .expr
            .iter()
            .map(|expr| column_of(expr).and_then(|column| input_schema.maybe_index_of_column(column)))
            .collect();
        let mut properties = project_columns(&input.properties, &sources);
        for (idx, expr) in projection.expr.iter().enumerate() {
            if sources[idx].is_none() {
                properties.closes[idx] = closes_of(expr, input_schema, &input.properties);
            }
        }
        let mut exprs = projection.expr.clone();
        exprs.push(weight_of(&input.plan));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan))?);
        Ok(Node { plan, properties })
    }

    fn filter(&mut self, filter: &Filter) -> Result<Node> {
        refuse_subqueries(&filter.predicate)?;
        let bound = rank_bound(&filter.predicate, filter.input.schema());
        let input = self.rewrite(&filter.input, bound)?;
        let plan = LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input.plan))?);
        Ok(Node { plan, properties: input.properties })
    }

    fn subquery_alias(&mut self, alias: &SubqueryAlias, bound: Option<RankBound>) -> Result<Node> {
        let input = self.rewrite(&alias.input, bound)?;
        let plan =
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input.plan), alias.alias.clone())?);
        Ok(Node { plan, properties: input.properties })
    }

    fn union(&mut self, union: &Union) -> Result<Node> {
        let mut inputs = Vec::new();
        let mut is_append_only = true;
        let mut closes: Option<Vec<Vec<CloseSource>>> = None;
        for input in &union.inputs {
            let node = self.rewrite(input, None)?;
            is_append_only &= node.properties.is_append_only;
            // A value is complete when it is in every input; one that never is spoils all.
            closes = Some(match closes {
                None => node.properties.closes,
                Some(closes) => closes
                    .into_iter()
                    .zip(node.properties.closes)
                    .map(|(mut a, b)| {
                        if a.is_empty() || b.is_empty() {
                            return Vec::new();
                        }
                        a.extend(b);
                        a
                    })
                    .collect(),
            });
            inputs.push(Arc::new(node.plan));
        }
        let plan = LogicalPlan::Union(Union { inputs, schema: with_weight(&union.schema)? });
        let properties =
            Properties { is_append_only, unique_keys: Vec::new(), closes: closes.unwrap_or_default() };
        Ok(Node { plan, properties })
    }

    fn unnest(&mut self, unnest: &Unnest) -> Result<Node> {
        let input = self.rewrite(&unnest.input, None)?;
        let n_input = unnest.input.schema().fields().len();
        let closes =
            unnest.dependency_indices.iter().map(|source| input.properties.closes[*source].clone()).collect();
        let properties =
            Properties { is_append_only: input.properties.is_append_only, unique_keys: Vec::new(), closes };
        let mut dependency_indices = unnest.dependency_indices.clone();
        dependency_indices.push(n_input);
        let plan = LogicalPlan::Unnest(Unnest {
            input: Arc::new(input.plan),
            dependency_indices,
            schema: with_weight(&unnest.schema)?,
            ..unnest.clone()
        });
        Ok(Node { plan, properties })
    }

    fn aggregate(&mut self, aggregate: &AggregatePlan) -> Result<Node> {
        let input = self.rewrite(&aggregate.input, None)?;
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err(Refusal::not_incremental("GROUPING SETS, ROLLUP or CUBE")
                .with_hint("Write one pipeline per grouping, or UNION ALL of them.")
                .near("group")
                .into());
        }
        let mut columns = Columns::new(&aggregate.group_expr);
        let n_groups = aggregate.group_expr.len();
        let mut calls = Vec::new();
        for (idx, expr) in aggregate.aggr_expr.iter().enumerate() {
            let return_type = aggregate.schema.field(n_groups + idx).data_type().clone();
            calls.push(call(expr, return_type, &mut columns)?);
        }
        let input_schema = aggregate.input.schema();
        let group_closes: Vec<Vec<CloseSource>> = aggregate
            .group_expr
            .iter()
            .map(|expr| closes_of(expr, input_schema, &input.properties))
            .collect();
        let is_append_only = input.properties.is_append_only;
        let projected = columns.project(input.plan)?;
        let close = self.close(&group_closes);
        let mut closes = group_closes;
        closes.resize(n_groups + calls.len(), Vec::new());
        let is_distinct = calls.is_empty() && close.is_none() && n_groups > 0;
        let properties = Properties {
            is_append_only: close.is_some() || (is_distinct && is_append_only),
            unique_keys: vec![(0..n_groups).collect()],
            closes,
        };
        let operator = if is_distinct {
            Operator::Distinct
        } else {
            Operator::Aggregate(Aggregate { n_groups, calls, is_append_only, close })
        };
        let node =
            IncrementalNode { operator, inputs: vec![projected], schema: with_weight(&aggregate.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }

    /// Which group column decides when a group is complete, if the pipeline waits for that.
    fn close(&mut self, group_closes: &[Vec<CloseSource>]) -> Option<Close> {
        if !self.emit_on_window_close {
            return None;
        }
        let (column, sources) = group_closes.iter().enumerate().find(|(_, sources)| !sources.is_empty())?;
        self.n_closed += 1;
        Some(Close { column, sources: sources.clone() })
    }

    fn join(&mut self, join: &JoinPlan) -> Result<Node> {
        let left = self.rewrite(&join.left, None)?;
        let right = self.rewrite(&join.right, None)?;
        if join.null_aware {
            return Err(Refusal::not_incremental("NOT IN over a subquery")
                .with_hint(
                    "Write NOT EXISTS (SELECT … WHERE …), which treats NULL the way one usually means.",
                )
                .near("not")
                .into());
        }
        let has_single_row = |properties: &Properties| properties.unique_keys.iter().any(Vec::is_empty);
        if join.on.is_empty() && !has_single_row(&left.properties) && !has_single_row(&right.properties) {
            return Err(Refusal {
                sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                message: "a join in a pipeline needs at least one equality between its sides".into(),
                hint: Some(
                    "Add a condition such as a.key = b.key; every pair of rows would be compared.".into(),
                ),
                near: Some("join".into()),
            }
            .into());
        }
        let n_left = join.left.schema().fields().len();
        let n_right = join.right.schema().fields().len();
        let mut left_columns = Columns::all(join.left.schema());
        let mut right_columns = Columns::all(join.right.schema());
        let left_keys: Vec<usize> = join.on.iter().map(|(left, _)| left_columns.of(left)).collect();
        let right_keys: Vec<usize> = join.on.iter().map(|(_, right)| right_columns.of(right)).collect();
        if let Some(filter) = &join.filter {
            refuse_subqueries(filter)?;
        }
        let is_append_only = join.join_type == JoinType::Inner
            && left.properties.is_append_only
            && right.properties.is_append_only;
        let pair_schema = build_join_schema(join.left.schema(), join.right.schema(), &JoinType::Inner)?;
        let properties = join_properties(
            join,
            &left.properties,
            &right.properties,
            &left_keys,
            &right_keys,
            is_append_only,
        );
        let operator = Operator::Join(Join {
            join_type: join.join_type,
            left_keys,
            right_keys,
            null_equals_null: join.null_equality == NullEquality::NullEqualsNull,
            n_left,
            n_right,
            filter: join.filter.clone(),
            pair_schema: Arc::new(pair_schema),
            is_append_only,
        });
        let node = IncrementalNode {
            operator,
            inputs: vec![left_columns.project(left.plan)?, right_columns.project(right.plan)?],
            schema: with_weight(&join.schema)?,
        };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }

    fn sort(&mut self, sort: &Sort) -> Result<Node> {
        match sort.fetch {
            Some(limit) => self.top_n(&sort.input, &sort.expr, 0, limit),
            // The order of a subquery's rows means nothing; at the top it has been refused before.
            None => self.rewrite(&sort.input, None),
        }
    }

    fn limit(&mut self, limit: &Limit) -> Result<Node> {
        let SkipType::Literal(offset) = limit.get_skip_type()? else {
            return Err(Refusal::not_incremental("an OFFSET that is not a constant").near("offset").into());
        };
        let fetch = match limit.get_fetch_type()? {
            FetchType::Literal(Some(fetch)) => fetch,
            FetchType::Literal(None) => {
                return Err(Refusal::not_incremental("OFFSET without LIMIT").near("offset").into());
            }
            FetchType::UnsupportedExpr => {
                return Err(Refusal::not_incremental("a LIMIT that is not a constant").near("limit").into());
            }
        };
        // Projections may have come between the limit and its order.
        match limit.input.as_ref() {
            LogicalPlan::Sort(sort) => self.top_n(&sort.input, &sort.expr, offset, fetch),
            LogicalPlan::Projection(projection)
                if matches!(projection.input.as_ref(), LogicalPlan::Sort(_)) =>
            {
                let below = Limit {
                    skip: limit.skip.clone(),
                    fetch: limit.fetch.clone(),
                    input: projection.input.clone(),
                };
                let moved =
                    Projection::try_new(projection.expr.clone(), Arc::new(LogicalPlan::Limit(below)))?;
                self.projection(&moved, None)
            }
            _ => Err(Refusal::not_incremental("LIMIT without ORDER BY")
                .with_hint("Say which rows are the first: add ORDER BY.")
                .near("limit")
                .into()),
        }
    }

    fn top_n(
        &mut self,
        input: &LogicalPlan,
        order: &[SortExpr],
        offset: usize,
        limit: usize,
    ) -> Result<Node> {
        let node = self.rewrite(input, None)?;
        let n_columns = input.schema().fields().len();
        let mut columns = Columns::all(input.schema());
        let order_by = columns.order_by(order);
        let projected = columns.project(node.plan)?;
        let mut properties = node.properties;
        properties.is_append_only = false;
        if offset == 0 && limit <= 1 {
            properties.unique_keys.push(Vec::new());
        }
        let operator = Operator::TopN(TopN { partition: Vec::new(), order_by, offset, limit, rank: false });
        let plan = incremental(operator, projected, with_weight(input.schema())?, n_columns)?;
        Ok(Node { plan, properties })
    }

    /// `row_number() OVER (PARTITION BY … ORDER BY …)` under a bound on it.
    fn window(&mut self, window: &Window, bound: Option<RankBound>) -> Result<Node> {
        let [expr] = &window.window_expr[..] else {
            return Err(Refusal::not_incremental("several window functions in one SELECT")
                .near("over")
                .into());
        };
        let function = match expr {
            Expr::WindowFunction(function) => function,
            Expr::Alias(alias) => match alias.expr.as_ref() {
                Expr::WindowFunction(function) => function,
                _ => return Err(internal("a window expression is a window function")),
            },
            _ => return Err(internal("a window expression is a window function")),
        };
        let n_columns = window.input.schema().fields().len();
        let is_row_number =
            matches!(&function.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "row_number");
        let bound = bound.filter(|bound| bound.column == n_columns && is_row_number);
        let Some(bound) = bound else {
            return Err(refuse_window(function));
        };
        let node = self.rewrite(&window.input, None)?;
        let mut columns = Columns::all(window.input.schema());
        let partition: Vec<usize> =
            function.params.partition_by.iter().map(|expr| columns.of(expr)).collect();
        let order_by = columns.order_by(&function.params.order_by);
        let projected = columns.project(node.plan)?;
        let mut properties = node.properties;
        properties.is_append_only = false;
        // Computed partition columns are not in the output; only plain ones make a key.
        if partition.iter().all(|column| *column < n_columns) {
            let mut key = partition.clone();
            if bound.limit <= 1 {
                properties.unique_keys.push(key.clone());
            }
            key.push(n_columns);
            properties.unique_keys.push(key);
        }
        properties.closes.push(Vec::new());
        let operator =
            Operator::TopN(TopN { partition, order_by, offset: 0, limit: bound.limit, rank: true });
        let plan = incremental(operator, projected, with_weight(&window.schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}

/// A node that passes the first `n_columns` of its input on. Positions say which they are.
fn incremental(
    operator: Operator,
    input: LogicalPlan,
    schema: DFSchemaRef,
    n_columns: usize,
) -> Result<LogicalPlan> {
    assert!(schema.fields().len() > n_columns, "a node adds columns, never drops them");
    let node = IncrementalNode { operator, inputs: vec![input], schema };
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

fn empty_relation(empty: &EmptyRelation) -> Result<Node> {
    if empty.produce_one_row {
        return Err(Refusal::not_incremental("a SELECT without FROM")
            .with_hint("Insert the row into a table and read that.")
            .into());
    }
    let n_columns = empty.schema.fields().len();
    let plan = LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: with_weight(&empty.schema)?,
    });
    let properties = Properties {
        is_append_only: true,
        unique_keys: vec![Vec::new()],
        closes: vec![Vec::new(); n_columns],
    };
    Ok(Node { plan, properties })
}

fn refuse_window(function: &WindowFunction) -> DeltaError {
    let name = function.fun.name();
    let refusal = if name == "row_number" {
        Refusal::not_incremental("row_number() without an upper bound")
            .with_hint("Bound it: SELECT … FROM (SELECT …, row_number() OVER (…) AS n FROM …) WHERE n <= 10.")
    } else {
        Refusal::not_incremental(format!("the window function {name}()"))
    };
    refusal.near("over").into()
}

/// The columns that an operator needs, each computed once.
struct Columns {
    exprs: Vec<Expr>,
}

impl Columns {
    fn new(exprs: &[Expr]) -> Columns {
        Columns { exprs: exprs.to_vec() }
    }

    fn all(schema: &DFSchema) -> Columns {
        Columns { exprs: schema.iter().map(|field| Expr::Column(Column::from(field))).collect() }
    }

    /// The position of an expression's value; it is added if it is new.
    fn of(&mut self, expr: &Expr) -> usize {
        let expr = expr.clone().unalias();
        if let Some(idx) = self.exprs.iter().position(|known| known.clone().unalias() == expr) {
            return idx;
        }
        self.exprs.push(expr);
        self.exprs.len() - 1
    }

    fn order_by(&mut self, order: &[SortExpr]) -> Vec<OrderColumn> {
        let order_column = |sort: &SortExpr| OrderColumn {
            column: self.of(&sort.expr),
            descending: !sort.asc,
            nulls_first: sort.nulls_first,
        };
        order.iter().map(order_column).collect()
    }

    /// A projection of `input`, a rewritten plan, to these columns and the weight.
    fn project(self, input: LogicalPlan) -> Result<LogicalPlan> {
        let weight = weight_of(&input);
        let is_identity = self.exprs.len() + 1 == input.schema().fields().len()
            && self.exprs.iter().enumerate().all(|(idx, expr)| match expr {
                Expr::Column(column) => input.schema().maybe_index_of_column(column) == Some(idx),
                _ => false,
            });
        if is_identity {
            return Ok(input);
        }
        let mut exprs: Vec<Expr> = self
            .exprs
            .into_iter()
            .enumerate()
            .map(|(idx, expr)| match expr {
                Expr::Column(_) => expr,
                // Two computed columns may well print alike; their positions tell them apart.
                Expr::Alias(alias) => alias.expr.alias(format!("{}#{idx}", alias.name)),
                other => {
                    let name = other.schema_name().to_string();
                    other.alias(format!("{name}#{idx}"))
                }
            })
            .collect();
        exprs.push(weight);
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
    }
}

fn call(expr: &Expr, return_type: DataType, columns: &mut Columns) -> Result<AggregateCall> {
    let display = expr.schema_name().to_string();
    let expr = expr.clone().unalias();
    let Expr::AggregateFunction(AggregateFunctionExpr { func, params }) = expr else {
        return Err(internal("an aggregate expression is an aggregate function"));
    };
    let is_constant = |expr: &Expr| matches!(expr, Expr::Literal(value, _) if !value.is_null());
    let function = match func.name() {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        _ => {
            return Err(Refusal::not_incremental(format!("the aggregate function {}()", func.name()))
                .near(func.name().to_string())
                .into());
        }
    };
    if !params.order_by.is_empty() {
        return Err(Refusal::not_incremental(format!("ORDER BY inside {}()", func.name()))
            .near(func.name().to_string())
            .into());
    }
    let counts_rows =
        function == AggregateFunction::Count && !params.distinct && params.args.iter().all(is_constant);
    let args = if counts_rows { Vec::new() } else { params.args.iter().map(|arg| columns.of(arg)).collect() };
    Ok(AggregateCall {
        function,
        args,
        filter: params.filter.as_ref().map(|filter| columns.of(filter)),
        distinct: params.distinct,
        order_by: Vec::new(),
        ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
        return_type,
        display,
    })
}

fn join_properties(
    join: &JoinPlan,
    left: &Properties,
    right: &Properties,
    left_keys: &[usize],
    right_keys: &[usize],
    is_append_only: bool,
) -> Properties {
    let n_left = join.left.schema().fields().len();
    let covers = |keys: &[usize], unique: &[usize]| unique.iter().all(|column| keys.contains(column));
    let left_has_one = left.unique_keys.iter().any(|unique| covers(left_keys, unique));
    let right_has_one = right.unique_keys.iter().any(|unique| covers(right_keys, unique));
    let shifted = |unique: &[usize]| unique.iter().map(|column| column + n_left).collect::<Vec<_>>();
    let unique_keys = match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.unique_keys.clone(),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right.unique_keys.clone(),
        join_type => {
            let pads_left = matches!(join_type, JoinType::Right | JoinType::Full);
            let pads_right = matches!(join_type, JoinType::Left | JoinType::Full);
            let mut unique_keys = Vec::new();
            if right_has_one && !pads_left {
                unique_keys.extend(left.unique_keys.clone());
            }
            if left_has_one && !pads_right {
                unique_keys.extend(right.unique_keys.iter().map(|unique| shifted(unique)));
            }
            for left_unique in &left.unique_keys {
                for right_unique in &right.unique_keys {
                    let mut both = left_unique.clone();
                    both.extend(shifted(right_unique));
                    unique_keys.push(both);
                }
            }
            unique_keys
        }
    };
    let n_output = join.schema.fields().len();
    let never = |properties: &Properties| vec![Vec::new(); properties.closes.len()];
    let mut closes = match join.join_type {
        JoinType::Inner => [left.closes.clone(), right.closes.clone()].concat(),
        JoinType::Left => [left.closes.clone(), never(right)].concat(),
        JoinType::Right => [never(left), right.closes.clone()].concat(),
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.closes.clone(),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right.closes.clone(),
        JoinType::Full => [never(left), never(right)].concat(),
    };
    closes.resize(n_output, Vec::new());
    Properties { is_append_only, unique_keys, closes }
}

/// The properties of a projection to `sources`, the input's columns where an output is just one.
fn project_columns(properties: &Properties, sources: &[Option<usize>]) -> Properties {
    let unique_keys = properties
        .unique_keys
        .iter()
        .filter_map(|key| {
            key.iter().map(|column| sources.iter().position(|source| source == &Some(*column))).collect()
        })
        .collect();
    let closes = sources
        .iter()
        .map(|source| source.map_or_else(Vec::new, |source| properties.closes[source].clone()))
        .collect();
    Properties { is_append_only: properties.is_append_only, unique_keys, closes }
}

/// When the values of an expression over time columns are complete.
fn closes_of(expr: &Expr, schema: &DFSchema, properties: &Properties) -> Vec<CloseSource> {
    let delayed = |sources: Vec<CloseSource>, delay: i64| -> Vec<CloseSource> {
        sources.into_iter().map(|source| CloseSource { delay: source.delay + delay, ..source }).collect()
    };
    match expr {
        Expr::Alias(alias) => closes_of(&alias.expr, schema, properties),
        Expr::Column(column) => match schema.maybe_index_of_column(column) {
            Some(idx) => properties.closes[idx].clone(),
            None => Vec::new(),
        },
        Expr::Cast(cast)
            if matches!(
                cast.field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
            ) =>
        {
            closes_of(&cast.expr, schema, properties)
        }
        // v = ts + i, so the last v that the times below a watermark can give is i later.
        Expr::BinaryExpr(binary) => {
            let Some(interval) = literal_micros(&binary.right) else { return Vec::new() };
            let sources = closes_of(&binary.left, schema, properties);
            match binary.op {
                BinaryOperator::Plus => delayed(sources, -interval),
                BinaryOperator::Minus => delayed(sources, interval),
                _ => Vec::new(),
            }
        }
        Expr::ScalarFunction(function) => match (function.name(), &function.args[..]) {
            // A window that starts at v holds times up to v + size, and no further.
            ("date_bin", [size, time]) => match literal_micros(size) {
                Some(size) => delayed(closes_of(time, schema, properties), size - 1),
                None => Vec::new(),
            },
            ("date_trunc", [unit, time]) => match literal_unit_micros(unit) {
                Some(size) => delayed(closes_of(time, schema, properties), size - 1),
                None => Vec::new(),
            },
            // Of a list, what holds for its elements.
            ("hop_starts", [_, size, time]) => match literal_micros(size) {
                Some(size) => delayed(closes_of(time, schema, properties), size - 1),
                None => Vec::new(),
            },
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn literal_micros(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
            Some(i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1000)
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
            Some(i64::from(interval.days) * 86_400_000_000 + i64::from(interval.milliseconds) * 1000)
        }
        Expr::Literal(ScalarValue::DurationMicrosecond(Some(micros)), _) => Some(*micros),
        _ => None,
    }
}

fn literal_unit_micros(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else { return None };
    match value.try_as_str()??.to_lowercase().as_str() {
        "second" => Some(1_000_000),
        "minute" => Some(60_000_000),
        "hour" => Some(3_600_000_000),
        "day" => Some(86_400_000_000),
        _ => None,
    }
}

fn column_of(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}

/// The tightest `column <= n` among the conjuncts of a predicate.
fn rank_bound(predicate: &Expr, schema: &DFSchema) -> Option<RankBound> {
    let Expr::BinaryExpr(binary) = predicate else { return None };
    if binary.op == BinaryOperator::And {
        return rank_bound(&binary.left, schema).or_else(|| rank_bound(&binary.right, schema));
    }
    let (column, op, literal) = match (column_of(&binary.left), column_of(&binary.right)) {
        (Some(column), None) => (column, binary.op, &binary.right),
        (None, Some(column)) => (column, binary.op.swap()?, &binary.left),
        _ => return None,
    };
    let Expr::Literal(value, _) = literal.as_ref() else { return None };
    let value = match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(Some(value)) => value,
        _ => return None,
    };
    let limit = match op {
        BinaryOperator::LtEq | BinaryOperator::Eq => value,
        BinaryOperator::Lt => value - 1,
        _ => return None,
    };
    let column = schema.maybe_index_of_column(column)?;
    Some(RankBound { column, limit: usize::try_from(limit).unwrap_or(0) })
}

fn refuse_subqueries(predicate: &Expr) -> Result<()> {
    let mut found = false;
    predicate.apply(|expr| {
        found |= matches!(
            expr,
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_)
        );
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if found {
        return Err(Refusal::not_incremental("this kind of correlated subquery")
            .with_hint("Write it as a join.")
            .near("select")
            .into());
    }
    Ok(())
}

/// The weight column of a rewritten plan.
fn weight_of(plan: &LogicalPlan) -> Expr {
    let schema = plan.schema();
    let last = schema.fields().len() - 1;
    assert_eq!(schema.field(last).name(), WEIGHT, "the last column of a rewritten plan is its weight");
    Expr::Column(Column::from(schema.qualified_field(last)))
}

/// `schema` with the weight behind it.
fn with_weight(schema: &DFSchema) -> Result<DFSchemaRef> {
    let mut fields: Vec<(Option<TableReference>, FieldRef)> =
        schema.iter().map(|(qualifier, field)| (qualifier.cloned(), field.clone())).collect();
    fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
    Ok(Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?))
}

/// A projection of a rewritten plan to some of its columns and the weight.
fn project(plan: LogicalPlan, choose: impl Fn(&[Expr]) -> Vec<Expr>) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mut exprs = choose(&columns[..columns.len() - 1]);
    exprs.push(weight_of(&plan));
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

fn internal(what: &str) -> DeltaError {
    DataFusionError::Internal(what.into()).into()
}
