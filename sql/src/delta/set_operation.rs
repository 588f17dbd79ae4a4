//! `INTERSECT ALL` and `EXCEPT ALL`, which, like row patterns and joins by time, stand in the plan as the operators that they become.

use std::sync::Arc;

use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_plan::{IncrementalNode, Operator, Properties};

use super::columns::{Columns, with_weight};
use super::{Node, Result, Rewriter, internal};
use crate::refusal::Refusal;

impl Rewriter {
    pub(super) fn extension(&mut self, extension: &Extension) -> Result<Node> {
        let Some(node) = extension.node.as_any().downcast_ref::<IncrementalNode>() else {
            return Err(Refusal::not_incremental(format!("the plan node {}", extension.node.name())).into());
        };
        if let (Operator::MatchRecognize(pattern), [input]) = (&node.operator, &node.inputs[..]) {
            return self.match_recognize(pattern, input, &node.schema);
        }
        if let (Operator::Asof(asof), [left, right]) = (&node.operator, &node.inputs[..]) {
            return self.asof_join(asof, &node.schema, left, right);
        }
        if let (Operator::Lookup(lookup), [left, right]) = (&node.operator, &node.inputs[..]) {
            return self.lookup_join(lookup, &node.schema, left, right);
        }
        let (Operator::SetOperation(kind), [left, right]) = (&node.operator, &node.inputs[..]) else {
            return Err(internal(
                "only set operations, row patterns and joins by time are nodes of ours before the rewrite",
            ));
        };
        let mut inputs = Vec::new();
        for input in [left, right] {
            let columns = Columns::all(input.schema());
            let plan = columns.project(self.rewrite(input, None)?.plan)?;
            let ttl = self.ttl_of(input, &plan)?;
            inputs.push(Self::expire_rows(plan, ttl));
        }
        let properties = Properties {
            is_append_only: false,
            unique_keys: Vec::new(),
            closes: vec![Vec::new(); node.schema.fields().len()],
        };
        let operator = Operator::SetOperation(*kind);
        let node = IncrementalNode { operator, inputs, schema: with_weight(&node.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }
}
