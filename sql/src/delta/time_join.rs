//! `ASOF JOIN` and `FOR SYSTEM_TIME AS OF`.

use std::sync::Arc;

use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_plan::{Asof, IncrementalNode, Join, Nearest, Operator, Properties, Trim, TrimSide};

use super::columns::{Columns, with_weight};
use super::expire::expiring;
use super::interval_join::side_closes;
use super::{Node, Result, Rewriter};
use crate::refusal::Refusal;

impl Rewriter {
    pub(super) fn asof_join(
        &mut self,
        asof: &Asof,
        node: &IncrementalNode,
        left: &LogicalPlan,
        right: &LogicalPlan,
    ) -> Result<Node> {
        let (mut left_node, mut right_node) = (self.rewrite(left, None)?, self.rewrite(right, None)?);
        let trim = trim(asof, &left_node.properties, &right_node.properties);
        // What watermarks bound needs no other bound.
        let ttl_of = |rewriter: &mut Rewriter, input: &LogicalPlan| match trim {
            Some(_) => Ok(None),
            None => rewriter.ttl_of(input),
        };
        let (left_ttl, right_ttl) = (ttl_of(self, left)?, ttl_of(self, right)?);
        left_node.properties = expiring(left_node.properties, left_ttl);
        right_node.properties = expiring(right_node.properties, right_ttl);
        let mut closes = vec![Vec::new(); asof.n_left + asof.n_right];
        if let Some(trim) = &trim {
            // A left row is settled once the right is complete up to its time.
            let of_left = side_closes(&left_node.properties, &trim.left);
            closes[..asof.n_left].clone_from_slice(&of_left[..asof.n_left]);
        }
        let properties = Properties {
            // The next right row may match better.
            is_append_only: false,
            unique_keys: unique_keys(&left_node.properties, asof.n_left),
            closes,
        };
        let operator = Operator::Asof(Asof { trim: trim.map(Box::new), ..asof.clone() });
        let left_plan = Columns::all(left.schema()).project(left_node.plan)?;
        let right_plan = Columns::all(right.schema()).project(right_node.plan)?;
        let inputs = vec![
            Self::expire(left_plan, left_ttl, &asof.left_keys),
            Self::expire(right_plan, right_ttl, &asof.right_keys),
        ];
        let node = IncrementalNode { operator, inputs, schema: with_weight(&node.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }

    pub(super) fn lookup_join(
        &mut self,
        join: &Join,
        node: &IncrementalNode,
        left: &LogicalPlan,
        right: &LogicalPlan,
    ) -> Result<Node> {
        let (left_node, right_node) = (self.rewrite(left, None)?, self.rewrite(right, None)?);
        if !left_node.properties.is_append_only {
            return Err(Refusal::not_incremental(
                "FOR SYSTEM_TIME AS OF now() where rows of the left are taken back: what they met when they came is gone",
            )
            .with_hint(
                "Let the left be an append-only source or table, with what changes its rows above the join; or leave out \
                 FOR SYSTEM_TIME AS OF now(), and the result follows the changes of both sides.",
            )
            .near("system_time")
            .into());
        }
        let has_one = right_node
            .properties
            .unique_keys
            .iter()
            .any(|unique| unique.iter().all(|column| join.right_keys.contains(column)));
        let mut closes = left_node.properties.closes[..join.n_left].to_vec();
        closes.resize(join.n_left + join.n_right, Vec::new());
        let properties = Properties {
            is_append_only: true,
            unique_keys: match has_one {
                true => unique_keys(&left_node.properties, join.n_left),
                false => Vec::new(),
            },
            closes,
        };
        let operator = Operator::Join(Join { is_append_only: true, ..join.clone() });
        let right_plan = Columns::all(right.schema()).project(right_node.plan)?;
        let inputs = vec![
            Columns::all(left.schema()).project(left_node.plan)?,
            Self::expire(right_plan, self.ttl_of(right)?, &join.right_keys),
        ];
        let node = IncrementalNode { operator, inputs, schema: with_weight(&node.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }
}

/// The keys of a side whose rows are at most once in the result.
fn unique_keys(properties: &Properties, n_columns: usize) -> Vec<Vec<usize>> {
    let is_kept = |key: &&Vec<usize>| key.iter().all(|column| *column < n_columns);
    properties.unique_keys.iter().filter(is_kept).cloned().collect()
}

/// When rows can go. A row that looks ahead waits for a right row that may never come.
fn trim(asof: &Asof, left: &Properties, right: &Properties) -> Option<Trim> {
    let looks_back = matches!(asof.nearest, Nearest::AtOrBefore | Nearest::Before);
    let (own, other) = (&left.closes[asof.left_time], &right.closes[asof.right_time]);
    if !looks_back || !left.is_append_only || !right.is_append_only || own.is_empty() || other.is_empty() {
        return None;
    }
    // One more, for what is finer than a microsecond.
    let reach = 1;
    Some(Trim {
        left: TrimSide { time: asof.left_time, reach, own: own.clone(), other: other.clone() },
        right: TrimSide { time: asof.right_time, reach, own: other.clone(), other: own.clone() },
    })
}
