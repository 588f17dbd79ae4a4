//! Joins of all kinds.

use std::sync::Arc;

use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Extension, Join as JoinPlan, LogicalPlan, build_join_schema};
use tidemill_plan::{IncrementalNode, Join, Operator, Properties};

use super::columns::{Columns, with_weight};
use super::expire::expiring;
use super::properties::join_properties;
use super::{Node, Result, Rewriter, interval_join, refuse_subqueries, temporal};
use crate::functions::with_one_zero;
use crate::refusal::Refusal;

impl Rewriter {
    pub(super) fn join(&mut self, join: &JoinPlan) -> Result<Node> {
        if let (JoinType::Inner, Some(filter)) = (join.join_type, &join.filter) {
            // Of an inner join, the condition may as well be asked of its result.
            let mut split = temporal::split(filter, &join.schema)?;
            if !split.is_timeless() {
                let plain = JoinPlan { filter: split.plain.take(), ..join.clone() };
                let node = self.join(&plain)?;
                return self.timed_filter(node, split, &join.schema);
            }
        }
        let mut left = self.rewrite(&join.left, None)?;
        let mut right = self.rewrite(&join.right, None)?;
        if join.null_aware {
            return Err(Refusal::not_incremental("NOT IN over a subquery")
                .with_hint(
                    "Write NOT EXISTS (SELECT … WHERE …), which treats NULL the way one usually means.",
                )
                .near("not")
                .into());
        }
        let has_single_row = |properties: &Properties| properties.unique_keys.iter().any(Vec::is_empty);
        if join.on.is_empty() && !has_single_row(&left.properties) && !has_single_row(&right.properties) {
            self.cross_joins.push(LogicalPlan::Join(join.clone()).display().to_string());
        }
        let n_left = join.left.schema().fields().len();
        let n_right = join.right.schema().fields().len();
        let mut left_columns = Columns::all(join.left.schema());
        let mut right_columns = Columns::all(join.right.schema());
        let (mut left_keys, mut right_keys) = (Vec::new(), Vec::new());
        for (left, right) in &join.on {
            left_keys.push(left_columns.of(&with_one_zero(left.clone(), join.left.schema())?));
            right_keys.push(right_columns.of(&with_one_zero(right.clone(), join.right.schema())?));
        }
        if let Some(filter) = &join.filter {
            refuse_subqueries(filter)?;
        }
        let on: Vec<(usize, usize)> = left_keys.iter().copied().zip(right_keys.iter().copied()).collect();
        let pair_schema = build_join_schema(join.left.schema(), join.right.schema(), &JoinType::Inner)?;
        let trim = interval_join::trim(
            join.join_type,
            join.filter.as_ref(),
            &pair_schema,
            &on,
            &left.properties,
            &right.properties,
        );
        // What watermarks bound needs no other bound.
        let left_ttl = self.ttl_of(&join.left, &left.plan)?.filter(|_| trim.is_none());
        let right_ttl = self.ttl_of(&join.right, &right.plan)?.filter(|_| trim.is_none());
        left.properties = expiring(left.properties, left_ttl);
        right.properties = expiring(right.properties, right_ttl);
        let is_append_only = join.join_type == JoinType::Inner
            && left.properties.is_append_only
            && right.properties.is_append_only;
        let mut properties = join_properties(
            join,
            &left.properties,
            &right.properties,
            &left_keys,
            &right_keys,
            is_append_only,
        );
        if let Some(trim) = &trim {
            properties.closes = interval_join::closes(trim, &left.properties, &right.properties);
        } else if is_append_only {
            // Of two streams, a row of either may still meet rows of any time.
            properties.closes.iter_mut().for_each(Vec::clear);
        }
        // A key that always gets rows would keep them all.
        let inputs = vec![
            Self::expire_rows(left_columns.project(left.plan)?, left_ttl),
            Self::expire_rows(right_columns.project(right.plan)?, right_ttl),
        ];
        let operator = Operator::Join(Join {
            join_type: join.join_type,
            left_keys,
            right_keys,
            null_equals_null: join.null_equality == NullEquality::NullEqualsNull,
            n_left,
            n_right,
            filter: join.filter.clone(),
            pair_schema: Arc::new(pair_schema),
            is_append_only,
            trim: trim.map(Box::new),
        });
        let node = IncrementalNode { operator, inputs, schema: with_weight(&join.schema)? };
        Ok(Node { plan: LogicalPlan::Extension(Extension { node: Arc::new(node) }), properties })
    }
}
