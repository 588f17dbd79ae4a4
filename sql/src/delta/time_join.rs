//! `ASOF JOIN`.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_plan::{Asof, IncrementalNode, Operator, Properties, Trim, TrimSide};

use super::columns::{Columns, with_weight};
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
        let (left_node, right_node) = (self.rewrite(left, None)?, self.rewrite(right, None)?);
        let trim = trim(asof, &left_node.properties, &right_node.properties);
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
        let inputs = vec![
            Columns::all(left.schema()).project(left_node.plan)?,
            Columns::all(right.schema()).project(right_node.plan)?,
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
