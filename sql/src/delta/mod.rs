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

mod aggregate;
mod columns;
mod constant;
mod expire;
mod explain;
mod grouping_sets;
mod hold;
mod interval_join;
mod join;
mod match_recognize;
mod properties;
mod recompute;
mod scan;
mod session;
mod set_operation;
mod temporal;
mod time_join;
mod top_n;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{
    EmptyRelation, Expr, Filter, LogicalPlan, Projection, SubqueryAlias, Union, Unnest,
};
use tidemill_core::{Emit, SqlState, Upkeep};
use tidemill_plan::{CloseSource, ExplainedNode, Properties, RelationId};

use self::columns::{column_of, weight_of, with_weight};
use self::constant::constant;
use self::explain::Explained;
pub(crate) use self::properties::literal_micros;
use self::properties::{closes_of, project_columns};
pub(crate) use self::temporal::mark_now;
use self::top_n::{RankBound, rank_bound};
use crate::refusal::Refusal;

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
    /// Joins that compare every pair of rows.
    pub cross_joins: Vec<String>,
    pub explained: ExplainedNode,
}

/// Rewrites an optimised plan.
pub fn rewrite(plan: &LogicalPlan, upkeep: &Upkeep) -> Result<Rewritten> {
    let mut rewriter = Rewriter {
        upkeep: upkeep.clone(),
        ttl_names: BTreeSet::new(),
        n_closed: 0,
        inputs: BTreeSet::new(),
        cross_joins: Vec::new(),
        explained: Explained::default(),
    };
    let mut node = rewriter.rewrite(plan, None)?;
    let begin = rewriter.explained.begin_over();
    match upkeep.emit {
        Emit::OnWindowClose if rewriter.n_closed == 0 => node = rewriter.hold(node, plan.schema())?,
        Emit::OnWindowCloseWithEarly(interval) => {
            node = rewriter.every(node, plan.schema(), interval, true)?;
        }
        Emit::Every(interval) => node = rewriter.every(node, plan.schema(), interval, false)?,
        _ => (),
    }
    rewriter.explained.finish(begin, &node.plan, &node.properties);
    rewriter.check_ttl_names(plan)?;
    if upkeep.emit.forgets_closed() && rewriter.n_closed == 0 {
        let clause = match upkeep.emit {
            Emit::OnUpdateUntilClose => "EMIT ON UPDATE UNTIL WINDOW CLOSE needs a GROUP BY on",
            _ => "EMIT ON WINDOW CLOSE needs a GROUP BY on, or a column of,",
        };
        return Err(Refusal {
            sqlstate: SqlState::WINDOWING,
            message: format!("{clause} a window or time that a watermark completes"),
            hint: Some(
                "Declare WATERMARK FOR ts AS ts - INTERVAL '5 seconds' on the source, and group by window_start \
                 or window_end of TUMBLE, HOP, CUMULATE or SESSION over that column, or have one of them in the result."
                    .into(),
            ),
            near: Some("emit".into()),
        }
        .into());
    }
    let explained = rewriter.explained.take();
    let Rewriter { inputs, cross_joins, .. } = rewriter;
    Ok(Rewritten { plan: node.plan, properties: node.properties, inputs, cross_joins, explained })
}

/// A rewritten node.
struct Node {
    /// Its last column is the weight.
    plan: LogicalPlan,
    properties: Properties,
}

struct Rewriter {
    upkeep: Upkeep,
    /// Relations that have a time to live of their own, as far as they have been met.
    ttl_names: BTreeSet<String>,
    /// How many operators forget what watermarks have completed.
    n_closed: usize,
    inputs: BTreeSet<RelationId>,
    cross_joins: Vec<String>,
    explained: Explained,
}

impl Rewriter {
    fn rewrite(&mut self, plan: &LogicalPlan, bound: Option<RankBound>) -> Result<Node> {
        let begin = self.explained.begin();
        let node = self.rewrite_node(plan, bound).inspect_err(|_| self.explained.abandon(begin))?;
        self.explained.finish(begin, &node.plan, &node.properties);
        Ok(node)
    }

    fn rewrite_node(&mut self, plan: &LogicalPlan, bound: Option<RankBound>) -> Result<Node> {
        temporal::refuse_time(plan)?;
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
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => constant(plan),
            LogicalPlan::EmptyRelation(empty) => empty_relation(empty),
            LogicalPlan::Values(_) => constant(plan),
            LogicalPlan::RecursiveQuery(_) => self.recompute(plan, "WITH RECURSIVE"),
            LogicalPlan::Extension(extension) => self.extension(extension),
            LogicalPlan::Distinct(_) => Err(Refusal::not_incremental("DISTINCT ON").near("distinct").into()),
            other => Err(Refusal::not_incremental(format!("the plan node {}", other.display())).into()),
        }
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
        let split = temporal::split(&filter.predicate, filter.input.schema())?;
        let bound = rank_bound(&filter.predicate, filter.input.schema());
        let input = self.rewrite(&filter.input, bound)?;
        if !split.is_timeless() {
            return self.timed_filter(input, split, filter.input.schema());
        }
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
}

fn empty_relation(empty: &EmptyRelation) -> Result<Node> {
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

fn internal(what: &str) -> DeltaError {
    DataFusionError::Internal(what.into()).into()
}
