//! `INTERSECT ALL` and `EXCEPT ALL`, which, like joins by time, stand in the plan as the operators that they become.

use std::sync::Arc;

use datafusion::logical_expr::{Extension, LogicalPlan};
use tidemill_plan::{IncrementalNode, Operator, Properties, SetOperation};

use super::columns::{Columns, with_weight};
use super::{Node, Result, Rewriter, internal};
use crate::refusal::Refusal;

impl Rewriter {
    pub(super) fn extension(&mut self, extension: &Extension) -> Result<Node> {
        let Some(node) = extension.node.as_any().downcast_ref::<IncrementalNode>() else {
            return Err(Refusal::not_incremental(format!("the plan node {}", extension.node.name())).into());
        };
        let [left, right] = &node.inputs[..] else {
            return Err(internal("what is incremental before the rewrite has two inputs"));
        };
        match &node.operator {
            Operator::SetOperation(kind) => self.set_operation(*kind, node, left, right),
            Operator::Asof(asof) => self.asof_join(asof, node, left, right),
            Operator::Join(join) if join.is_lookup => self.lookup_join(join, node, left, right),
            _ => Err(internal("only set operations and joins by time are incremental before the rewrite")),
        }
    }

    fn set_operation(
        &mut self,
        kind: SetOperation,
        node: &IncrementalNode,
        left: &LogicalPlan,
        right: &LogicalPlan,
    ) -> Result<Node> {
        let mut inputs = Vec::new();
        for input in [left, right] {
            let columns = Columns::all(input.schema());
            let row: Vec<usize> = (0..input.schema().fields().len()).collect();
            let plan = columns.project(self.rewrite(input, None)?.plan)?;
            inputs.push(Self::expire(plan, self.ttl_of(input)?, &row));
        }
        let properties = Properties {
            is_append_only: false,
            unique_keys: Vec::new(),
            closes: vec![Vec::new(); node.schema.fields().len()],
        };
        let operator = Operator::SetOperation(kind);
        let node = IncrementalNode { operator, inputs, schema: with_weight(&node.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }
}
