//! From a parsed query to a plan: for a SELECT as it is, for a pipeline rewritten to deltas.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider, SchemaProvider,
    TableProvider,
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DataFusionError, TableReference};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{ExecutionProps, QueryPlanner, SessionState};
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, ScalarUDF, Volatility};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Distinct as SqlDistinct, Expr as SqlExpr, Query, SetExpr, Statement};
use tidemill_core::{SqlState, Upkeep};
use tidemill_pattern::MatchRecognizePlanner;
use tidemill_plan::AsofPlanner;
use tidemill_plan::PipelinePlan;

use crate::delta::{DeltaError, mark_now, rewrite};
use crate::first_rows::{rewrite_fetch, rewrite_first_rows};
use crate::functions::{aggregate_functions, scalar_functions, window_functions};
use crate::lateral::{lower_lateral_unnest, rewrite_unnest};
use crate::match_recognize::MatchRecognizeRelations;
use crate::meaning::unify;
use crate::misread::{refuse_correlation, refuse_misread};
use crate::named_windows::rewrite_named_windows;
use crate::naming::name_columns;
use crate::postgres::{self, ArrowText, TextFormat};
use crate::refusal::Refusal;
use crate::set_operations::{Lowering, lower_set_operations, mark_set_operations};
use crate::subqueries::lower_subqueries;
use crate::tie_break::physical_rules;
use crate::time_joins::{Versions, lower_time_joins, mark_time_joins};
use crate::windows::rewrite_windows;

/// The one database.
pub const DATABASE: &str = "tidemill";

/// Where the planner finds names that are given without a schema: the search path has decided for each what it is, and
/// what has that name in a schema may be something else. No user's schema begins like this.
const SEARCHED: &str = "%searched";

/// What a name in a query stands for.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// Something with rows: for a pipeline a [`RelationTable`](crate::RelationTable), for a SELECT a snapshot.
    Table(Arc<dyn TableProvider>),
    /// A view, by its query.
    View(Box<Query>),
}

/// What the planner asks for names.
pub trait Names: Send + Sync {
    /// What `name` stands for; without a schema, along the search path.
    fn resolve(&self, schema: Option<&str>, name: &str) -> std::result::Result<Option<Resolved>, Refusal>;

    /// What names mean within a view; what they mean outside, if nothing is said.
    fn within(&self, _schema: Option<&str>, _name: &str) -> Option<Box<dyn Names + '_>> {
        None
    }

    /// What is known of a relation as one of versions.
    fn versions(&self, _schema: Option<&str>, _name: &str) -> Option<Versions> {
        None
    }
}

/// DataFusion's rules that are wrong for a standing query, each with its reason.
const EXCLUDED_RULES: &[&str] = &[
    // A limit below a union or a join keeps rows that a retraction above would have to bring back.
    "push_down_limit",
];

/// How deep views may nest.
const VIEW_DEPTH_MAX: usize = 64;

/// Plans queries. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Planner {
    state: SessionState,
    text: Arc<dyn TextFormat>,
    pipeline_optimizer: Arc<Optimizer>,
}

impl Planner {
    /// A planner whose plans run in `n_lanes` partitions.
    pub fn new(n_lanes: usize) -> Planner {
        Planner::with_text(n_lanes, Arc::new(ArrowText))
    }

    /// A planner whose casts from and to text are done by `text`.
    pub fn with_text(n_lanes: usize, text: Arc<dyn TextFormat>) -> Planner {
        let mut config = SessionConfig::new()
            .with_target_partitions(n_lanes)
            .with_default_catalog_and_schema(DATABASE, SEARCHED)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false);
        let options = config.options_mut();
        options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
        options.sql_parser.collect_spans = true;
        options.sql_parser.parse_float_as_decimal = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        let mut defaults = SessionStateBuilder::new().with_default_features();
        let scalars = defaults.scalar_functions().take().unwrap_or_default();
        let mut expr_planners: Vec<Arc<dyn ExprPlanner>> = vec![postgres::expr_planner()];
        expr_planners.extend(defaults.expr_planners().take().unwrap_or_default());
        // What is replaced goes away under its other names too: a session that is built from another registers its
        // functions again, in any order, and would find the replaced one under an alias.
        let own = [postgres::scalar_functions(), scalar_functions()].concat();
        let is_replaced = |function: &Arc<ScalarUDF>| own.iter().any(|known| known.name() == function.name());
        let mut scalars: Vec<Arc<ScalarUDF>> =
            scalars.into_iter().filter(|function| !is_replaced(function)).collect();
        scalars.extend(own.iter().cloned());
        let own = aggregate_functions();
        let is_replaced =
            |function: &Arc<AggregateUDF>| own.iter().any(|known| known.name() == function.name());
        let mut aggregates: Vec<Arc<AggregateUDF>> =
            defaults.aggregate_functions().take().unwrap_or_default();
        aggregates.retain(|function| !is_replaced(function));
        aggregates.extend(own.iter().cloned());
        let mut windows = defaults.window_functions().take().unwrap_or_default();
        windows.extend(window_functions());
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_physical_optimizer_rules(physical_rules())
            .with_expr_planners(expr_planners)
            .with_scalar_functions(scalars)
            .with_aggregate_functions(aggregates)
            .with_window_functions(windows)
            .with_relation_planners(vec![Arc::new(MatchRecognizeRelations { text: text.clone() })])
            .with_query_planner(Arc::new(SelectPlanner));
        let state = postgres::configure(builder, text.clone()).build();
        let rules = Optimizer::new()
            .rules
            .into_iter()
            .filter(|rule| !EXCLUDED_RULES.contains(&rule.name()))
            .collect();
        Planner { state, text, pipeline_optimizer: Arc::new(Optimizer::with_rules(rules)) }
    }

    /// The same, with more functions; one that has the name of another replaces it.
    pub fn with_functions(&self, functions: Vec<Arc<ScalarUDF>>) -> Planner {
        let mut planner = self.clone();
        let is_replaced = |known: &Arc<ScalarUDF>| functions.iter().any(|it| it.name() == known.name());
        let mut all: Vec<Arc<ScalarUDF>> = planner.state.scalar_functions().values().cloned().collect();
        all.retain(|known| !is_replaced(known));
        all.extend(functions);
        planner.state =
            SessionStateBuilder::new_from_existing(planner.state).with_scalar_functions(all).build();
        planner
    }

    /// The session state that plans are made with.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// A plan of a query as it stands, not optimised, with the session that can run it.
    ///
    /// Its columns have the names that PostgreSQL gives them, made unique; `display_names` says what
    /// the user is to see.
    pub async fn plan_query(&self, query: &Query, names: &dyn Names) -> Result<QueryPlan, DeltaError> {
        let mut query = query.clone();
        let display_names = name_columns(&mut query);
        let mut state = self.state_for(&mut query, names, 0).await?;
        // Evaluated before the query, a subquery of two rows is an error; as a join it would double rows. A pipeline
        // has only the join.
        state.config_mut().options_mut().optimizer.enable_physical_uncorrelated_scalar_subquery = true;
        let plan = postgres::typed(rewrite_first_rows(state.statement_to_plan(statement(query)).await?)?)?;
        let plan = lowered(plan, Lowering::Select)?;
        Ok(QueryPlan { plan, state, display_names })
    }

    /// An incremental plan of a query.
    pub async fn plan_pipeline(
        &self,
        query: &Query,
        names: &dyn Names,
        upkeep: &Upkeep,
    ) -> Result<PipelinePlan, DeltaError> {
        // DISTINCT ON asks its order which row is the first.
        let is_order_used =
            query.limit_clause.is_some() || query.fetch.is_some() || is_distinct_on(&query.body);
        if query.order_by.is_some() && !is_order_used {
            return Err(Refusal::not_incremental("ORDER BY without LIMIT")
                .with_hint(
                    "A pipeline's result has no order. Add a LIMIT, or order it in the SELECT that reads it.",
                )
                .near("order")
                .into());
        }
        let mut query = query.clone();
        let display_names = name_columns(&mut query);
        check_column_names(display_names.as_deref())?;
        let state = self.state_for(&mut query, names, 0).await?;
        let plan = postgres::typed(rewrite_first_rows(state.statement_to_plan(statement(query)).await?)?)?;
        let plan = lowered(plan, Lowering::Pipeline)?;
        refuse_unsteady_functions(&plan)?;
        let optimized = self.optimize_for_pipeline(&state, plan)?;
        let schema: SchemaRef = Arc::new(Schema::new(
            optimized.schema().fields().iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>(),
        ));
        let rewritten = rewrite(&unify(optimized)?, upkeep)?;
        Ok(PipelinePlan {
            delta_plan: rewritten.plan,
            schema,
            properties: rewritten.properties,
            inputs: rewritten.inputs.into_iter().collect(),
            cross_joins: rewritten.cross_joins,
            explained: rewritten.explained,
        })
    }

    /// An expression over the columns of `schema`, types coerced and constants folded.
    pub fn plan_expr(&self, expr: &SqlExpr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
        let mut expr = expr.clone();
        postgres::rewrite_expr(&mut expr).map_err(|refusal| DataFusionError::External(Box::new(refusal)))?;
        let parsed = self.state.create_logical_expr(&expr.to_string(), schema)?;
        let simplify = datafusion::logical_expr::simplify::SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .build();
        let simplifier = datafusion::optimizer::simplify_expressions::ExprSimplifier::new(simplify);
        let checked = postgres::checked(simplifier.coerce(parsed, schema)?, schema, &self.text)?;
        simplifier.simplify(checked.data)
    }

    fn optimize_for_pipeline(
        &self,
        state: &SessionState,
        plan: LogicalPlan,
    ) -> Result<LogicalPlan, DataFusionError> {
        let analyzed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        // Types have been settled, and nothing has been folded yet.
        let marked = mark_now(analyzed)?;
        if !marked.transformed {
            return self.pipeline_optimizer.optimize(marked.data, state, |_, _| {});
        }
        // What is computed only once would be a column that reads the time, where comparisons with it are wanted.
        let is_kept =
            |rule: &&Arc<dyn OptimizerRule + Send + Sync>| rule.name() != "common_sub_expression_eliminate";
        let rules = self.pipeline_optimizer.rules.iter().filter(is_kept).cloned().collect();
        Optimizer::with_rules(rules).optimize(marked.data, state, |_, _| {})
    }

    /// A session in which the relations that `query` names can be found.
    async fn state_for(
        &self,
        query: &mut Query,
        names: &dyn Names,
        depth: usize,
    ) -> Result<SessionState, DeltaError> {
        refuse_misread(query)?;
        mark_set_operations(query)?;
        mark_time_joins(query, names)?;
        rewrite_unnest(query)?;
        rewrite_windows(query)?;
        rewrite_fetch(query)?;
        rewrite_named_windows(query)?;
        postgres::rewrite_query(query)?;
        let references = self.state.resolve_table_references(&statement(query.clone()))?;
        let mut schemas: HashMap<String, Arc<MemorySchemaProvider>> = HashMap::new();
        schemas.insert(SEARCHED.into(), Arc::default());
        for reference in references {
            let (catalog, schema, name) = match &reference {
                TableReference::Bare { table } => (None, None, table),
                TableReference::Partial { schema, table } => (None, Some(schema), table),
                TableReference::Full { catalog, schema, table } => (Some(catalog), Some(schema), table),
            };
            if catalog.is_some_and(|catalog| catalog.as_ref() != DATABASE) {
                return Err(Refusal {
                    sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                    message: format!("cross-database references are not implemented: \"{reference}\""),
                    hint: Some(format!("There is one database, \"{DATABASE}\".")),
                    near: None,
                }
                .into());
            }
            let Some(resolved) = names.resolve(schema.map(|schema| schema.as_ref()), name)? else { continue };
            let table: Arc<dyn TableProvider> = match resolved {
                Resolved::Table(table) => table,
                Resolved::View(view) => {
                    if depth >= VIEW_DEPTH_MAX {
                        return Err(
                            Refusal::not_incremental(format!("views nested more than {depth} deep")).into()
                        );
                    }
                    let mut view = *view;
                    let sql = view.to_string();
                    name_columns(&mut view);
                    let within = names.within(schema.map(|schema| schema.as_ref()), name);
                    let within = within.as_deref().unwrap_or(names);
                    let state = Box::pin(self.state_for(&mut view, within, depth + 1)).await?;
                    let plan = postgres::typed(rewrite_first_rows(
                        state.statement_to_plan(statement(view)).await?,
                    )?)?;
                    Arc::new(ViewTable::new(plan, Some(sql)))
                }
            };
            let schema = schema.map_or(SEARCHED, |schema| schema.as_ref()).to_owned();
            let schema = schemas.entry(schema).or_default();
            // The database may be named or not.
            if !schema.table_exist(name) {
                schema.register_table(name.to_string(), table)?;
            }
        }
        let catalog = Arc::new(MemoryCatalogProvider::new());
        for (name, schema) in schemas {
            catalog.register_schema(&name, schema)?;
        }
        let list = MemoryCatalogProviderList::new();
        datafusion::catalog::CatalogProviderList::register_catalog(&list, DATABASE.into(), catalog);
        let mut state = self.state.clone();
        state.register_catalog_list(Arc::new(list));
        // With a counter of its own for the names that rules make up: a query has one plan, whatever was planned before it,
        // or the state of a pipeline would not fit its plan after a restart.
        *state.execution_props_mut() = ExecutionProps::new();
        Ok(state)
    }
}

/// Plans what a SELECT runs.
#[derive(Debug)]
struct SelectPlanner;

#[async_trait]
impl QueryPlanner for SelectPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![
            Arc::new(MatchRecognizePlanner),
            Arc::new(AsofPlanner),
        ]);
        planner.create_physical_plan(plan, session).await
    }
}

/// A planned SELECT.
#[derive(Debug)]
pub struct QueryPlan {
    pub plan: LogicalPlan,
    pub state: SessionState,
    /// The names of the columns as PostgreSQL would show them, where they are not the plan's own.
    pub display_names: Option<Vec<String>>,
}

/// What DataFusion would not do, or not rightly, made of what it does. Views have been inlined by now.
fn lowered(plan: LogicalPlan, lowering: Lowering) -> Result<LogicalPlan, DataFusionError> {
    let plan = lower_time_joins(lower_set_operations(plan, lowering)?, lowering)?;
    let plan = lower_lateral_unnest(plan)?;
    refuse_correlation(&plan)?;
    lower_subqueries(plan)
}

fn statement(query: Query) -> DfStatement {
    DfStatement::Statement(Box::new(Statement::Query(Box::new(query))))
}

fn is_distinct_on(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => matches!(select.distinct, Some(SqlDistinct::On(_))),
        _ => false,
    }
}

fn check_column_names(names: Option<&[String]>) -> Result<(), Refusal> {
    let names = names.unwrap_or_default();
    for (idx, name) in names.iter().enumerate() {
        if names[..idx].contains(name) {
            return Err(Refusal {
                sqlstate: SqlState::DUPLICATE_COLUMN,
                message: format!("column \"{name}\" specified more than once"),
                hint: Some(format!("Give one of them another name: … AS {name}_2.")),
                near: Some(name.clone()),
            });
        }
    }
    Ok(())
}

/// Refuses functions that would give another value when a step is replayed.
fn refuse_unsteady_functions(plan: &LogicalPlan) -> Result<(), DeltaError> {
    let mut unsteady = None;
    plan.apply_with_subqueries(|node| {
        datafusion::common::tree_node::TreeNode::apply(node, |node| {
            node.apply_expressions(|expr| {
                datafusion::common::tree_node::TreeNode::apply(expr, |expr| {
                    if let Expr::ScalarFunction(function) = expr
                        && function.func.signature().volatility == Volatility::Volatile
                    {
                        // By the name that the user knows it by.
                        unsteady = Some(match function.name() {
                            "uuid" => "gen_random_uuid".to_owned(),
                            name => name.to_owned(),
                        });
                        return Ok(TreeNodeRecursion::Stop);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })
    })?;
    match unsteady {
        None => Ok(()),
        Some(name) => Err(Refusal {
            sqlstate: SqlState::INVALID_OBJECT_DEFINITION,
            message: format!(
                "{name}() gives another value each time, so a pipeline over it has no one answer"
            ),
            hint: Some(
                "Compute it where the rows come from, or in the SELECT that reads the pipeline.".into(),
            ),
            near: Some(name),
        }
        .into()),
    }
}
