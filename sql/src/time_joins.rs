//! `ASOF JOIN`: a join with one row of many, which time picks.
//!
//! ```sql
//! FROM trades AS t ASOF JOIN quotes AS q MATCH_CONDITION (t.ts >= q.ts) ON t.symbol = q.symbol
//! FROM trades AS t ASOF LEFT JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts
//! ```
//!
//! DataFusion has no such join. In the syntax tree it becomes an inner or left join whose condition carries a mark, and in the
//! plan the marked join becomes a node of ours, which a SELECT and a pipeline each run in their way.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, Result};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Extension, Join, LogicalPlan, LogicalPlanBuilder,
    Operator as BinaryOperator, cast,
};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator as SqlOperator, Expr as SqlExpr, JoinConstraint, JoinOperator, Query, SetExpr,
    TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use tidemill_core::SqlState;
use tidemill_plan::{Asof, IncrementalNode, Nearest, Operator};

use crate::refusal::Refusal;
use crate::types::pg_type_name;

/// What a mark compares with itself.
const MARK: &str = "__time_join";

/// Marks the joins of a query and of its subqueries.
pub(crate) fn mark_time_joins(query: &mut Query) -> std::result::Result<(), Refusal> {
    struct Marker;
    impl VisitorMut for Marker {
        type Break = Refusal;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
            to_flow(mark_body(&mut query.body))
        }

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
            match factor {
                TableFactor::NestedJoin { table_with_joins, .. } => to_flow(mark(table_with_joins)),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match VisitMut::visit(query, &mut Marker) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

fn to_flow(result: std::result::Result<(), Refusal>) -> ControlFlow<Refusal> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(refusal) => ControlFlow::Break(refusal),
    }
}

fn mark_body(body: &mut SetExpr) -> std::result::Result<(), Refusal> {
    match body {
        SetExpr::Select(select) => select.from.iter_mut().try_for_each(mark),
        SetExpr::SetOperation { left, right, .. } => {
            mark_body(left)?;
            mark_body(right)
        }
        // What stands in parentheses is visited as a query of its own.
        _ => Ok(()),
    }
}

fn mark(from: &mut TableWithJoins) -> std::result::Result<(), Refusal> {
    for join in &mut from.joins {
        // What it means here is told in `parser::asof`.
        let is_flagged = std::mem::take(&mut join.global);
        match &mut join.join_operator {
            JoinOperator::AsOf { match_condition, constraint } => {
                let on = match constraint {
                    JoinConstraint::On(on) => Some(on.clone()),
                    JoinConstraint::None => None,
                    JoinConstraint::Using(_) | JoinConstraint::Natural => return Err(no_using()),
                };
                let marked = marked([Some(match_condition.clone()), on])?;
                join.join_operator = match is_flagged {
                    true => JoinOperator::LeftOuter(marked),
                    false => JoinOperator::Inner(marked),
                };
            }
            JoinOperator::Join(constraint) | JoinOperator::Left(constraint) if is_flagged => {
                *constraint = match constraint {
                    JoinConstraint::On(on) => marked([Some(on.clone()), None])?,
                    JoinConstraint::None => marked([None, None])?,
                    JoinConstraint::Using(_) | JoinConstraint::Natural => return Err(no_using()),
                };
            }
            _ => (),
        }
    }
    Ok(())
}

fn no_using() -> Refusal {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: "an ASOF join takes its keys from ON, not from USING or NATURAL".into(),
        hint: Some(
            "Write ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.k = b.k, or ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts."
                .into(),
        ),
        near: Some("asof".into()),
    }
}

/// The condition of a join with a mark.
fn marked(conditions: [Option<SqlExpr>; 2]) -> std::result::Result<JoinConstraint, Refusal> {
    let mut marked = parsed(&format!("'{MARK}' = '{MARK}'"))?;
    for condition in conditions.into_iter().flatten() {
        marked = SqlExpr::BinaryOp {
            left: Box::new(marked),
            op: SqlOperator::And,
            right: Box::new(SqlExpr::Nested(Box::new(condition))),
        };
    }
    Ok(JoinConstraint::On(marked))
}

fn parsed(sql: &str) -> std::result::Result<SqlExpr, Refusal> {
    crate::parser::parse_expr(sql).map_err(|error| Refusal {
        sqlstate: SqlState::INTERNAL_ERROR,
        message: error.to_string(),
        hint: None,
        near: None,
    })
}

/// Replaces the marked joins of a plan.
pub(crate) fn lower_time_joins(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut is_changed = false;
    plan.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = &node
            && let Some(time_join) = TimeJoin::of(join)?
        {
            is_changed = true;
            return Ok(Transformed::yes(time_join.node()?));
        }
        if is_changed { Ok(Transformed::yes(node.recompute_schema()?)) } else { Ok(Transformed::no(node)) }
    })
    .map(|transformed| transformed.data)
}

/// A marked join, taken apart.
struct TimeJoin<'a> {
    join: &'a Join,
    /// Expressions of the left and of the right, of one type, that are equal.
    keys: Vec<(Expr, Expr)>,
    nearest: Nearest,
    /// Expressions of the left and of the right, of one type.
    times: (Expr, Expr),
}

impl<'a> TimeJoin<'a> {
    fn of(join: &'a Join) -> Result<Option<TimeJoin<'a>>> {
        let Some(filter) = &join.filter else { return Ok(None) };
        let conjuncts = split_conjunction(filter);
        if !conjuncts.iter().any(|conjunct| is_mark(conjunct)) {
            return Ok(None);
        }
        let mut keys: Vec<(Expr, Expr)> = Vec::new();
        for (left, right) in &join.on {
            keys.push(of_one_type(left.clone(), right.clone(), BinaryOperator::Eq, join)?);
        }
        let mut picks = Vec::new();
        for conjunct in conjuncts {
            if is_mark(conjunct) {
                continue;
            }
            let Some((op, left, right)) = comparison(conjunct, join) else {
                return Err(wrong(&format!("not {}", conjunct.human_display())));
            };
            let (left, right) = of_one_type(left, right, op, join)?;
            let nearest = match op {
                BinaryOperator::Eq => {
                    keys.push((left, right));
                    continue;
                }
                BinaryOperator::GtEq => Nearest::AtOrBefore,
                BinaryOperator::Gt => Nearest::Before,
                BinaryOperator::LtEq => Nearest::AtOrAfter,
                BinaryOperator::Lt => Nearest::After,
                _ => return Err(wrong(&format!("not {}", conjunct.human_display()))),
            };
            let data_type = left.get_type(join.left.schema())?;
            if !is_time(&data_type) {
                let shown = pg_type_name(&data_type);
                return Err(wrong(&format!("not a comparison of values of type {shown}")));
            }
            picks.push((nearest, left, right));
        }
        let [(nearest, left, right)] = &picks[..] else {
            return Err(wrong(if picks.is_empty() { "and there is none" } else { "and there are more" }));
        };
        let times = (left.clone(), right.clone());
        Ok(Some(TimeJoin { join, keys, nearest: *nearest, times }))
    }

    fn is_outer(&self) -> bool {
        self.join.join_type == JoinType::Left
    }

    fn node(&self) -> Result<LogicalPlan> {
        let (left, right) = (&self.join.left, &self.join.right);
        let mut left_columns = columns(left.schema());
        let mut right_columns = columns(right.schema());
        let (n_left, n_right) = (left_columns.len(), right_columns.len());
        // A column stands for itself, anything else is computed behind the columns.
        let position = |columns: &mut Vec<Expr>, expr: &Expr| {
            columns.iter().position(|known| known == expr).unwrap_or_else(|| {
                columns.push(expr.clone().alias(format!("__time_join_{}", columns.len())));
                columns.len() - 1
            })
        };
        let left_keys = self.keys.iter().map(|(left, _)| position(&mut left_columns, left)).collect();
        let right_keys = self.keys.iter().map(|(_, right)| position(&mut right_columns, right)).collect();
        let operator = Operator::Asof(Asof {
            left_keys,
            right_keys,
            left_time: position(&mut left_columns, &self.times.0),
            right_time: position(&mut right_columns, &self.times.1),
            nearest: self.nearest,
            n_left,
            n_right,
            is_outer: self.is_outer(),
            trim: None,
        });
        let project = |input: &Arc<LogicalPlan>, columns: Vec<Expr>, n: usize| match columns.len() == n {
            true => Ok(input.as_ref().clone()),
            false => LogicalPlanBuilder::from(input.as_ref().clone()).project(columns)?.build(),
        };
        let inputs = vec![project(left, left_columns, n_left)?, project(right, right_columns, n_right)?];
        let node = IncrementalNode { operator, inputs, schema: self.join.schema.clone() };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }
}

fn is_mark(expr: &Expr) -> bool {
    let is_word = |expr: &Expr| match expr {
        Expr::Literal(word, _) => word.try_as_str().flatten() == Some(MARK),
        _ => false,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: BinaryOperator::Eq, right }) => {
            is_word(left) && is_word(right)
        }
        _ => false,
    }
}

/// A comparison of the left side with the right one.
fn comparison(expr: &Expr, join: &Join) -> Option<(BinaryOperator, Expr, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let is_of = |expr: &Expr, schema: &DFSchema| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| schema.has_column(column))
    };
    let (of_left, of_right) = (join.left.schema(), join.right.schema());
    if is_of(left, of_left) && is_of(right, of_right) {
        return Some((*op, left.as_ref().clone(), right.as_ref().clone()));
    }
    if is_of(left, of_right) && is_of(right, of_left) {
        return Some((op.swap()?, right.as_ref().clone(), left.as_ref().clone()));
    }
    None
}

fn of_one_type(left: Expr, right: Expr, op: BinaryOperator, join: &Join) -> Result<(Expr, Expr)> {
    let (left_type, right_type) = (left.get_type(join.left.schema())?, right.get_type(join.right.schema())?);
    if left_type == right_type {
        return Ok((left, right));
    }
    let Some(common) = comparison_coercion(&left_type, &right_type) else {
        let (left_type, right_type) = (pg_type_name(&left_type), pg_type_name(&right_type));
        return Err(DataFusionError::External(Box::new(Refusal {
            sqlstate: SqlState::UNDEFINED_FUNCTION,
            message: format!("operator does not exist: {left_type} {op} {right_type}"),
            hint: Some("No operator takes these types. You might need to add explicit type casts.".into()),
            near: Some("asof".into()),
        })));
    };
    let to_common = |expr: Expr, data_type: DataType| match data_type == common {
        true => expr,
        false => cast(expr, common.clone()),
    };
    Ok((to_common(left, left_type), to_common(right, right_type)))
}

/// Whether values of a type are numbers of ticks.
fn is_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(_, _)
            | DataType::Date32
            | DataType::Date64
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
    )
}

fn wrong(what: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: format!(
            "an ASOF join takes equalities of both sides and one comparison of their times by >=, >, <= or <, {what}"
        ),
        hint: Some(
            "Write ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts. What else a row of one side must fulfil, a subquery can ask: \
             ASOF JOIN (SELECT … FROM b WHERE …) AS b."
                .into(),
        ),
        near: Some("asof".into()),
    }))
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}
