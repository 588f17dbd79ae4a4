//! What has no incremental version of its own runs again over all rows of the relations that it reads.

use std::sync::Arc;

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Extension, LogicalPlan, RecursiveQuery, TableScan};
use datafusion::optimizer::push_down_limit::PushDownLimit;
use datafusion::optimizer::{Optimizer, OptimizerContext};
use tidemill_plan::{Held, IncrementalNode, Operator, Properties, Recompute};

use super::columns::with_weight;
use super::{Node, Result, Rewriter, temporal};
use crate::refusal::Refusal;
use crate::relations::relation_of;

impl Rewriter {
    /// `construct` is what of SQL it is.
    pub(super) fn recompute(&mut self, plan: &LogicalPlan, construct: &str) -> Result<Node> {
        let mut scans: Vec<TableScan> = Vec::new();
        let mut reads_time = false;
        let mut looks_up = false;
        plan.apply(|node| {
            if let LogicalPlan::Extension(extension) = node
                && let Some(node) = extension.node.as_any().downcast_ref::<IncrementalNode>()
            {
                looks_up |= matches!(node.operator, Operator::Lookup(_));
            }
            for expr in node.expressions() {
                reads_time |= temporal::reads_time(&expr)?;
            }
            if let LogicalPlan::TableScan(scan) = node
                && is_relation(scan)?
            {
                scans.push(scan.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        if reads_time {
            return Err(temporal::misplaced(format!(
                "a pipeline cannot use now() in what {construct} reads; compare with it in a pipeline that this one reads"
            )));
        }
        if looks_up {
            let what = format!("FOR SYSTEM_TIME AS OF now() within {construct}");
            return Err(Refusal::not_incremental(what)
                .with_hint("Join in a pipeline that this one reads.")
                .near("system_time")
                .into());
        }
        let mut inputs = Vec::new();
        for scan in &scans {
            let read = self.table_scan(scan)?.plan;
            let ttl = self.ttl_of(&LogicalPlan::TableScan(scan.clone()), &read)?;
            inputs.push(Self::expire_rows(read, ttl));
        }
        let mut n_held = 0;
        let batch = plan.clone().transform_down(|node| match node {
            LogicalPlan::TableScan(scan) if is_relation(&scan)? => {
                let operator =
                    Operator::Held(Held { input: n_held, name: scan.table_name.table().to_owned() });
                n_held += 1;
                Ok(Transformed::yes(leaf(operator, Vec::new(), scan.projected_schema.clone())))
            }
            LogicalPlan::RecursiveQuery(query) => {
                let schema = query.recursive_term.schema().clone();
                let term = leaf(Operator::Bounded, vec![query.recursive_term.as_ref().clone()], schema);
                let recursive_term = Arc::new(term);
                Ok(Transformed::yes(LogicalPlan::RecursiveQuery(RecursiveQuery { recursive_term, ..query })))
            }
            other => Ok(Transformed::no(other)),
        })?;
        assert_eq!(n_held, inputs.len(), "both walks meet the same scans in the same order");
        // As for a SELECT: rows that tie at a limit are told apart where the sort knows of it.
        let limits = Optimizer::with_rules(vec![Arc::new(PushDownLimit::new())]);
        let batch = limits.optimize(batch.data, &OptimizerContext::new(), |_, _| {})?;
        let properties = Properties {
            is_append_only: inputs.is_empty(),
            unique_keys: Vec::new(),
            closes: vec![Vec::new(); plan.schema().fields().len()],
        };
        let operator = Operator::Recompute(Recompute { plan: batch, construct: construct.into() });
        Ok(Node { plan: leaf(operator, inputs, with_weight(plan.schema())?), properties })
    }
}

/// Whether it is not a table function, nor the working table of a recursion.
fn is_relation(scan: &TableScan) -> datafusion::common::Result<bool> {
    Ok(relation_of(source_as_provider(&scan.source)?.as_ref()).is_some())
}

fn leaf(
    operator: Operator,
    inputs: Vec<LogicalPlan>,
    schema: datafusion::common::DFSchemaRef,
) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(IncrementalNode { operator, inputs, schema }) })
}
