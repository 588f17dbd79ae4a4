//! `MATCH_RECOGNIZE`, which stands in the plan already; what is left is how time bounds it.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_plan::{
    CloseSource, IncrementalNode, MatchRecognize, MatchValueKind, Operator, Properties, Shown,
};

use super::columns::{Columns, with_weight};
use super::{Node, Result, Rewriter};

impl Rewriter {
    pub(super) fn match_recognize(
        &mut self,
        pattern: &MatchRecognize,
        input: &LogicalPlan,
        schema: &DFSchema,
    ) -> Result<Node> {
        let node = self.rewrite(input, None)?;
        let projected = Columns::all(input.schema()).project(node.plan)?;
        let mut pattern = pattern.clone();
        let sources: Vec<CloseSource> = match pattern.order_by.first() {
            Some(order) if !order.descending => node.properties.closes[order.column].clone(),
            _ => Vec::new(),
        };
        pattern.is_closing = self.upkeep.emit.waits_for_close() && !sources.is_empty();
        self.n_closed += usize::from(pattern.is_closing);
        // Without an end in sight nothing can be forgotten, and no row needs to be called late.
        if pattern.is_closing || pattern.is_bounded_in_time() {
            pattern.sources = sources;
        }
        let ttl = self.ttl_of(input, &projected)?.filter(|_| pattern.sources.is_empty());
        let projected = Self::expire(projected, ttl, &pattern.partition);
        let n_passed = pattern.passed.len();
        let closes = |idx: usize| match pattern.passed.get(idx) {
            // What all rows of a partition have in common. A match that waits for its end may outlast it.
            Some(column) if pattern.partition.contains(column) && !pattern.is_closing && ttl.is_none() => {
                node.properties.closes[*column].clone()
            }
            _ => Vec::new(),
        };
        let mut properties = Properties {
            is_append_only: pattern.is_closing,
            unique_keys: Vec::new(),
            closes: (0..schema.fields().len()).map(closes).collect(),
        };
        let is_number = |value: &tidemill_plan::MatchValue| value.kind == MatchValueKind::MatchNumber;
        if let (Shown::One, Some(number)) = (pattern.shown, pattern.measures.iter().position(is_number)) {
            properties.unique_keys.push((0..n_passed).chain([n_passed + number]).collect());
        }
        let operator = Operator::MatchRecognize(Box::new(pattern));
        let node = IncrementalNode { operator, inputs: vec![projected], schema: with_weight(schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }
}
