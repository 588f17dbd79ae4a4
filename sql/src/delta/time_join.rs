//! `ASOF JOIN` and `FOR SYSTEM_TIME AS OF`.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_plan::{Asof, IncrementalNode, Lookup, Operator, Properties, Trim, TrimSide};

use super::columns::{Columns, with_weight};
use super::expire::expiring;
use super::interval_join::side_closes;
use super::{Node, Result, Rewriter};

impl Rewriter {
    pub(super) fn asof_join(
        &mut self,
        asof: &Asof,
        schema: &DFSchema,
        left: &LogicalPlan,
        right: &LogicalPlan,
    ) -> Result<Node> {
        let (mut left_node, mut right_node) = (self.rewrite(left, None)?, self.rewrite(right, None)?);
        let trim = trim(asof, &left_node.properties, &right_node.properties);
        // What watermarks bound needs no other bound.
        let left_ttl = self.ttl_of(left, &left_node.plan)?.filter(|_| trim.is_none());
        let right_ttl = self.ttl_of(right, &right_node.plan)?.filter(|_| trim.is_none());
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
        let node = IncrementalNode { operator, inputs, schema: with_weight(schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }

    /// `FOR SYSTEM_TIME AS OF now()`
    pub(super) fn lookup_join(
        &mut self,
        lookup: &Lookup,
        schema: &DFSchema,
        left: &LogicalPlan,
        right: &LogicalPlan,
    ) -> Result<Node> {
        let (left_node, right_node) = (self.rewrite(left, None)?, self.rewrite(right, None)?);
        let has_one = right_node
            .properties
            .unique_keys
            .iter()
            .any(|unique| unique.iter().all(|column| lookup.right_keys.contains(column)));
        // A left row leaves with the step that it comes in, and so its times are complete when they are below.
        let mut closes = left_node.properties.closes[..lookup.n_left].to_vec();
        closes.resize(lookup.n_left + lookup.n_right, Vec::new());
        let is_append_only = left_node.properties.is_append_only;
        let properties = Properties {
            is_append_only,
            unique_keys: match has_one {
                true => unique_keys(&left_node.properties, lookup.n_left),
                false => Vec::new(),
            },
            closes,
        };
        let operator = Operator::Lookup(Lookup { is_append_only, ..lookup.clone() });
        // Left rows that are never taken back are not kept.
        let left_ttl = self.ttl_of(left, &left_node.plan)?.filter(|_| !is_append_only);
        let right_ttl = self.ttl_of(right, &right_node.plan)?;
        let left_plan = Columns::all(left.schema()).project(left_node.plan)?;
        let right_plan = Columns::all(right.schema()).project(right_node.plan)?;
        let inputs = vec![
            Self::expire_rows(left_plan, left_ttl),
            Self::expire(right_plan, right_ttl, &lookup.right_keys),
        ];
        let node = IncrementalNode { operator, inputs, schema: with_weight(schema)? };
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
    let (own, other) = (&left.closes[asof.left_time], &right.closes[asof.right_time]);
    if !asof.nearest.looks_back()
        || !left.is_append_only
        || !right.is_append_only
        || own.is_empty()
        || other.is_empty()
    {
        return None;
    }
    // One more, for what is finer than a microsecond.
    let reach = 1;
    Some(Trim {
        left: TrimSide { time: asof.left_time, reach, own: own.clone(), other: other.clone() },
        right: TrimSide { time: asof.right_time, reach, own: other.clone(), other: own.clone() },
    })
}
