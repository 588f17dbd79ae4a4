//! A time to live: rows of a key that nothing has touched for so long are forgotten before an operator sees them.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_core::SqlState;
use tidemill_plan::{Expire, IncrementalNode, Operator, Properties};

use super::{Result, Rewriter};
use crate::refusal::Refusal;

impl Rewriter {
    /// The time to live of rows of `input`, a plan before the rewrite: the longest of the relations that it reads.
    /// `None` where the rewritten plan forgets them by itself.
    pub(super) fn ttl_of(&mut self, input: &LogicalPlan, rewritten: &LogicalPlan) -> Result<Option<i64>> {
        if self.upkeep.ttl.is_none() {
            return Ok(None);
        }
        let mut longest = None;
        let mut is_endless = false;
        // A relation has its own name, and those that are given to it or to what is made of it.
        let mut aliases: Vec<String> = Vec::new();
        let mut todo: Vec<(&LogicalPlan, usize)> = vec![(input, 0)];
        while let Some((plan, n_aliases)) = todo.pop() {
            aliases.truncate(n_aliases);
            match plan {
                LogicalPlan::SubqueryAlias(alias) => aliases.push(alias.alias.table().to_owned()),
                LogicalPlan::TableScan(scan) => {
                    let ttl = &self.upkeep.ttl;
                    let names = aliases.iter().map(String::as_str).chain([scan.table_name.table()]);
                    let own = names.filter_map(|name| Some((name, ttl.by_relation.get(name)?))).next();
                    if let Some((name, _)) = own {
                        self.ttl_names.insert(name.to_owned());
                    }
                    match own.map_or(ttl.default, |(_, length)| *length) {
                        Some(length) => longest = longest.max(Some(length)),
                        None => is_endless = true,
                    }
                }
                _ => (),
            }
            let n_aliases = aliases.len();
            todo.extend(plan.inputs().into_iter().map(|input| (input, n_aliases)));
        }
        Ok(longest.filter(|_| !is_endless && !forgets(rewritten)))
    }

    /// `plan`, the rewritten input of an operator with `keys`, of which each lives for `ttl` with all of its rows. Without
    /// keys each row lives for itself.
    pub(super) fn expire(plan: LogicalPlan, ttl: Option<i64>, keys: &[usize]) -> LogicalPlan {
        let Some(ttl) = ttl else { return plan };
        if keys.is_empty() {
            return Self::expire_rows(plan, Some(ttl));
        }
        let schema = plan.schema().clone();
        let operator = Operator::Expire(Expire { keys: keys.to_vec(), ttl });
        let node = IncrementalNode { operator, inputs: vec![plan], schema };
        LogicalPlan::Extension(Extension { node: Arc::new(node) })
    }

    /// The same, where each row lives for itself.
    pub(super) fn expire_rows(plan: LogicalPlan, ttl: Option<i64>) -> LogicalPlan {
        let all: Vec<usize> = (0..plan.schema().fields().len() - 1).collect();
        match all.is_empty() {
            true => plan,
            false => Self::expire(plan, ttl, &all),
        }
    }

    /// Names that have a time to live, and that no relation of the query has.
    pub(super) fn check_ttl_names(&self, plan: &LogicalPlan) -> Result<()> {
        let Some(unknown) = self.upkeep.ttl.by_relation.keys().find(|name| !self.ttl_names.contains(*name))
        else {
            return Ok(());
        };
        let mut known = Vec::new();
        plan.apply(|node| {
            match node {
                LogicalPlan::TableScan(scan) => known.push(scan.table_name.table().to_owned()),
                LogicalPlan::SubqueryAlias(alias) => known.push(alias.alias.table().to_owned()),
                _ => (),
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        known.sort();
        known.dedup();
        let hint = match known.contains(unknown) {
            true => "Rows of it are kept by no operator of the query.".to_owned(),
            false => format!("Its relations are called {}.", known.join(", ")),
        };
        Err(Refusal {
            sqlstate: SqlState::INVALID_PARAMETER,
            message: format!("ttl.{unknown} names no relation of which the query keeps rows"),
            hint: Some(hint),
            near: Some("ttl".into()),
        }
        .into())
    }
}

/// Whether every row of a rewritten plan is forgotten some time by a step of it.
fn forgets(plan: &LogicalPlan) -> bool {
    if let LogicalPlan::Extension(extension) = plan
        && let Some(node) = extension.node.as_any().downcast_ref::<IncrementalNode>()
    {
        let is_forgotten = match &node.operator {
            Operator::Expire(_) => true,
            Operator::Aggregate(aggregate) => aggregate.ttl.is_some(),
            Operator::Upsert(upsert) => upsert.ttl.is_some(),
            _ => false,
        };
        if is_forgotten {
            return true;
        }
    }
    let inputs = plan.inputs();
    !inputs.is_empty() && inputs.into_iter().all(forgets)
}

/// What holds for rows that are forgotten some time.
pub(super) fn expiring(properties: Properties, ttl: Option<i64>) -> Properties {
    match ttl {
        None => properties,
        Some(_) => Properties {
            is_append_only: false,
            // A row goes when its time has come, whatever a watermark says.
            closes: vec![Vec::new(); properties.closes.len()],
            ..properties
        },
    }
}
