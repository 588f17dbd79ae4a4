//! `ASOF JOIN` and `FOR SYSTEM_TIME AS OF`: joins with one row of many, which time picks.
//!
//! ```sql
//! FROM trades AS t ASOF JOIN quotes AS q MATCH_CONDITION (t.ts >= q.ts) ON t.symbol = q.symbol
//! FROM trades AS t ASOF LEFT JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts
//! FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency
//! FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF now() AS r ON o.currency = r.currency
//! ```
//!
//! The first, Snowflake's, keeps the left rows that match nothing; of the second, DuckDB's, `LEFT` says so. The third
//! is an ASOF join with `o.ts >= r.t`, where `t` is the time from which a row of `rates` is valid. The
//! fourth takes the row that is there when the left row arrives; for a SELECT everything arrives now.
//!
//! DataFusion has none of these. In the syntax tree each becomes an inner or left join whose condition carries a mark.
//! In the plan the marked join is replaced: for a pipeline by an operator. For a SELECT the rows of
//! both sides are put in one order, each right row begins a group, and the left rows of the group get its columns:
//!
//! ```text
//!   side   time   group            first_value(v) OVER (PARTITION BY key, group)
//!   right    3      1      ┐
//!   left     5      1      ├ 1st
//!   left     7      1      ┘
//!   right    8      2      ┐
//!   left     8      2      ┘ 2nd
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, Result, ScalarValue};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_window::expr_fn::first_value;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, ExprSchemable, Extension, Join, LogicalPlan, LogicalPlanBuilder,
    Operator as BinaryOperator, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
    build_join_schema, cast, lit, when,
};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, SetExpr, TableFactor,
    TableVersion, TableWithJoins, VisitMut, VisitorMut,
};
use tidemill_core::SqlState;
use tidemill_plan::{Asof, IncrementalNode, Nearest, Operator};

use crate::Error;
use crate::planner::Names;
use crate::refusal::Refusal;
use crate::set_operations::Lowering;

/// What a mark compares with the kind of the join.
const MARK: &str = "__time_join";
/// The nearest row in time.
const NEAREST: &str = "nearest";
/// The row that is there when the left one arrives.
const ARRIVAL: &str = "arrival";

/// What is known of a relation whose rows are versions of something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// Columns that can say from when a row is valid: the one with the watermark, or else all times.
    pub times: Vec<String>,
    /// Columns of which no two rows that are there at once agree in all.
    pub primary_key: Vec<String>,
}

/// Marks the joins of a query and of its subqueries.
pub(crate) fn mark_time_joins(query: &mut Query, names: &dyn Names) -> std::result::Result<(), Refusal> {
    struct Marker<'a>(&'a dyn Names);
    impl VisitorMut for Marker<'_> {
        type Break = Refusal;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
            match self.mark_body(&mut query.body) {
                Ok(()) => ControlFlow::Continue(()),
                Err(refusal) => ControlFlow::Break(refusal),
            }
        }

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
            if let TableFactor::NestedJoin { table_with_joins, .. } = factor
                && let Err(refusal) = self.mark(table_with_joins)
            {
                return ControlFlow::Break(refusal);
            }
            if let TableFactor::Table { version: Some(_), .. } = factor {
                return ControlFlow::Break(Refusal {
                    sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                    message: "FOR SYSTEM_TIME AS OF is supported behind JOIN and LEFT JOIN only".into(),
                    hint: Some(
                        "Write FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency."
                            .into(),
                    ),
                    near: Some("system_time".into()),
                });
            }
            ControlFlow::Continue(())
        }
    }
    impl Marker<'_> {
        fn mark_body(&self, body: &mut SetExpr) -> std::result::Result<(), Refusal> {
            match body {
                SetExpr::Select(select) => select.from.iter_mut().try_for_each(|from| self.mark(from)),
                SetExpr::SetOperation { left, right, .. } => {
                    self.mark_body(left)?;
                    self.mark_body(right)
                }
                _ => Ok(()),
            }
        }

        fn mark(&self, from: &mut TableWithJoins) -> std::result::Result<(), Refusal> {
            for join in &mut from.joins {
                // `ASOF LEFT JOIN` is read as `GLOBAL LEFT JOIN`, see `parser::asof`.
                let is_global = std::mem::take(&mut join.global);
                if let TableFactor::Table { version, .. } = &mut join.relation
                    && let Some(version) = version.take()
                {
                    mark_version(&mut join.join_operator, &join.relation, version, self.0)?;
                    continue;
                }
                match &mut join.join_operator {
                    JoinOperator::AsOf { match_condition, constraint } => {
                        let on = match constraint {
                            JoinConstraint::On(on) => Some(on.clone()),
                            JoinConstraint::None => None,
                            JoinConstraint::Using(_) | JoinConstraint::Natural => return Err(no_using()),
                        };
                        let conditions = [Some(match_condition.clone()), on];
                        join.join_operator = JoinOperator::LeftOuter(marked(NEAREST, conditions)?);
                    }
                    JoinOperator::Join(constraint)
                    | JoinOperator::Inner(constraint)
                    | JoinOperator::Left(constraint)
                    | JoinOperator::LeftOuter(constraint)
                        if is_global =>
                    {
                        let JoinConstraint::On(on) = constraint else { return Err(no_using()) };
                        *constraint = marked(NEAREST, [Some(on.clone()), None])?;
                    }
                    _ if is_global => {
                        return Err(Refusal {
                            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                            message: "an ASOF join is an inner or a left join".into(),
                            hint: Some(
                                "Write ASOF JOIN or ASOF LEFT JOIN, with the side whose rows are all to stay on the left."
                                    .into(),
                            ),
                            near: Some("asof".into()),
                        });
                    }
                    _ => (),
                }
            }
            Ok(())
        }
    }
    match VisitMut::visit(query, &mut Marker(names)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
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
fn marked(kind: &str, conditions: [Option<SqlExpr>; 2]) -> std::result::Result<JoinConstraint, Refusal> {
    let mut marked = parsed(&format!("'{MARK}' = '{kind}'"))?;
    for condition in conditions.into_iter().flatten() {
        marked = SqlExpr::BinaryOp {
            left: Box::new(marked),
            op: datafusion::sql::sqlparser::ast::BinaryOperator::And,
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

fn mark_version(
    operator: &mut JoinOperator,
    relation: &TableFactor,
    version: TableVersion,
    names: &dyn Names,
) -> std::result::Result<(), Refusal> {
    let refused = |message: String, hint: String| Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message,
        hint: Some(hint),
        near: Some("system_time".into()),
    };
    let TableVersion::ForSystemTimeAsOf(time) = version else {
        return Err(refused(
            "of the ways to name a version of a relation, FOR SYSTEM_TIME AS OF is supported".into(),
            "Write JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r.".into(),
        ));
    };
    let constraint = match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint) => constraint,
        _ => {
            return Err(refused(
                "a join with FOR SYSTEM_TIME AS OF is an inner or a left join".into(),
                "The relation of which versions are taken stands on the right of JOIN or LEFT JOIN.".into(),
            ));
        }
    };
    let JoinConstraint::On(on) = constraint else {
        return Err(refused(
            "a join with FOR SYSTEM_TIME AS OF takes its keys from ON, not from USING or NATURAL".into(),
            "Write JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency.".into(),
        ));
    };
    let TableFactor::Table { name, alias, .. } = relation else { unreachable!("looked at by the caller") };
    if is_now(&time) {
        *constraint = marked(ARRIVAL, [Some(on.clone()), None])?;
        return Ok(());
    }
    let identifiers: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let (schema, table) = match &identifiers[..] {
        [table] => (None, &table.value),
        [.., schema, table] => (Some(schema.value.as_str()), &table.value),
        [] => unreachable!("a name has a part"),
    };
    let asof = |time_column: &str| {
        format!(
            "Write what is meant as an ASOF join: … ASOF JOIN {name} AS r MATCH_CONDITION ({time} >= r.{time_column}) ON …."
        )
    };
    let Some(versions) = names.versions(schema, table) else {
        return Err(refused(
            format!("it is not known from when rows of \"{table}\" are valid"),
            asof("valid_from"),
        ));
    };
    let [time_column] = &versions.times[..] else {
        let message = match versions.times.len() {
            0 => format!("\"{table}\" has no column that says from when a row is valid"),
            _ => format!(
                "\"{table}\" has several columns that could say from when a row is valid: {}",
                versions.times.join(", ")
            ),
        };
        return Err(refused(message, asof(versions.times.first().map_or("valid_from", String::as_str))));
    };
    if !versions.primary_key.is_empty() && !versions.primary_key.contains(time_column) {
        return Err(refused(
            format!(
                "\"{table}\" keeps only the last row of each {}, so that it has no earlier versions",
                versions.primary_key.join(", ")
            ),
            format!(
                "Let \"{time_column}\" be a part of its PRIMARY KEY, or declare none, so that each version is a row; \
                 or take the row that is there when the left one arrives: FOR SYSTEM_TIME AS OF now()."
            ),
        ));
    }
    let qualifier = match alias {
        Some(alias) => alias.name.clone(),
        None => identifiers[identifiers.len() - 1].clone(),
    };
    let valid_from =
        SqlExpr::CompoundIdentifier(vec![qualifier, Ident::with_quote('"', time_column.clone())]);
    let condition = SqlExpr::BinaryOp {
        left: Box::new(SqlExpr::Nested(Box::new(time))),
        op: datafusion::sql::sqlparser::ast::BinaryOperator::GtEq,
        right: Box::new(valid_from),
    };
    *constraint = marked(NEAREST, [Some(condition), Some(on.clone())])?;
    Ok(())
}

/// `now()`, `proctime()`, `current_timestamp`.
fn is_now(expr: &SqlExpr) -> bool {
    let named = |name: &ObjectName| {
        let name = name.to_string().to_lowercase();
        ["now", "proctime", "current_timestamp"].contains(&name.as_str())
    };
    match expr {
        SqlExpr::Function(function) => named(&function.name),
        SqlExpr::Nested(inner) => is_now(inner),
        _ => false,
    }
}

/// Replaces the marked joins of a plan.
pub(crate) fn lower_time_joins(plan: LogicalPlan, lowering: Lowering) -> Result<LogicalPlan> {
    let mut is_changed = false;
    plan.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = &node
            && let Some(time_join) = TimeJoin::of(join)?
        {
            is_changed = true;
            let lowered = match lowering {
                Lowering::Pipeline => time_join.incremental()?,
                Lowering::Select => time_join.batch()?,
            };
            return Ok(Transformed::yes(lowered));
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
    pick: Pick,
}

enum Pick {
    Nearest { nearest: Nearest, left: Expr, right: Expr },
    Arrival,
}

impl<'a> TimeJoin<'a> {
    fn of(join: &'a Join) -> Result<Option<TimeJoin<'a>>> {
        let Some(filter) = &join.filter else { return Ok(None) };
        let conjuncts = split_conjunction(filter);
        let Some(mark) = conjuncts.iter().find_map(|conjunct| mark_of(conjunct)) else { return Ok(None) };
        let is_arrival = mark == ARRIVAL;
        let mut keys: Vec<(Expr, Expr)> = Vec::new();
        for (left, right) in &join.on {
            keys.push(of_one_type(left.clone(), right.clone(), join)?);
        }
        let mut picks = Vec::new();
        for conjunct in conjuncts {
            if mark_of(conjunct).is_some() {
                continue;
            }
            let Some((op, left, right)) = comparison(conjunct, join) else {
                return Err(wrong(is_arrival, &format!("not {conjunct}")));
            };
            let (left, right) = of_one_type(left, right, join)?;
            let nearest = match op {
                BinaryOperator::Eq => {
                    keys.push((left, right));
                    continue;
                }
                BinaryOperator::GtEq => Nearest::AtOrBefore,
                BinaryOperator::Gt => Nearest::Before,
                BinaryOperator::LtEq => Nearest::AtOrAfter,
                BinaryOperator::Lt => Nearest::After,
                _ => return Err(wrong(is_arrival, &format!("not {conjunct}"))),
            };
            let data_type = left.get_type(join.left.schema())?;
            if !is_time(&data_type) {
                let shown = crate::types::pg_type_name(&data_type);
                return Err(wrong(is_arrival, &format!("not a comparison of values of type {shown}")));
            }
            picks.push(Pick::Nearest { nearest, left, right });
        }
        let n_picks = picks.len();
        let pick = match (picks.pop(), is_arrival) {
            (Some(pick), false) if n_picks == 1 => pick,
            (None, true) => Pick::Arrival,
            (None, false) => return Err(wrong(false, "and there is none")),
            _ => return Err(wrong(is_arrival, "and no more")),
        };
        Ok(Some(TimeJoin { join, keys, pick }))
    }

    fn is_outer(&self) -> bool {
        self.join.join_type == JoinType::Left
    }

    fn incremental(&self) -> Result<LogicalPlan> {
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
        let operator = match &self.pick {
            Pick::Nearest { nearest, left, right } => Operator::Asof(Asof {
                left_keys,
                right_keys,
                left_time: position(&mut left_columns, left),
                right_time: position(&mut right_columns, right),
                nearest: *nearest,
                n_left,
                n_right,
                is_outer: self.is_outer(),
                trim: None,
            }),
            Pick::Arrival => {
                let pair_schema = build_join_schema(left.schema(), right.schema(), &JoinType::Inner)?;
                Operator::Join(tidemill_plan::Join {
                    join_type: self.join.join_type,
                    left_keys,
                    right_keys,
                    null_equals_null: false,
                    n_left,
                    n_right,
                    filter: None,
                    pair_schema: Arc::new(pair_schema),
                    is_append_only: false,
                    is_lookup: true,
                    trim: None,
                })
            }
        };
        let project = |input: &Arc<LogicalPlan>, columns: Vec<Expr>, n: usize| match columns.len() == n {
            true => Ok(input.as_ref().clone()),
            false => LogicalPlanBuilder::from(input.as_ref().clone()).project(columns)?.build(),
        };
        let inputs = vec![project(left, left_columns, n_left)?, project(right, right_columns, n_right)?];
        let node = IncrementalNode { operator, inputs, schema: self.join.schema.clone() };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    fn batch(&self) -> Result<LogicalPlan> {
        let Pick::Nearest { nearest, left: left_time, right: right_time } = &self.pick else {
            // Now is when everything arrives.
            let (left, right) = (self.join.left.as_ref().clone(), self.join.right.as_ref().clone());
            let on = self.keys.iter().map(|(left, right)| left.clone().eq(right.clone()));
            return LogicalPlanBuilder::from(left).join_on(right, self.join.join_type, on)?.build();
        };
        let (left, right) = (&self.join.left, &self.join.right);
        let null = |field: &datafusion::arrow::datatypes::FieldRef| -> Result<Expr> {
            Ok(lit(ScalarValue::try_new_null(field.data_type())?))
        };
        let mut left_exprs = Vec::new();
        let mut right_exprs = Vec::new();
        let mut push = |name: String, left: Expr, right: Expr| {
            left_exprs.push(left.alias(&name));
            right_exprs.push(right.alias(name));
        };
        for (idx, (column, (_, field))) in columns(left.schema()).into_iter().zip(left.schema().iter()).enumerate() {
            push(format!("__l{idx}"), column, null(field)?);
        }
        for (idx, (column, (_, field))) in columns(right.schema()).into_iter().zip(right.schema().iter()).enumerate() {
            push(format!("__r{idx}"), null(field)?, column);
        }
        for (idx, (left, right)) in self.keys.iter().enumerate() {
            push(format!("__k{idx}"), left.clone(), right.clone());
        }
        push("__time".into(), left_time.clone(), right_time.clone());
        push("__is_right".into(), lit(false), lit(true));
        let unqualified = |name: String| Expr::Column(Column::new_unqualified(name));
        let named = |prefix: &str, n: usize| -> Vec<Expr> {
            (0..n).map(|idx| unqualified(format!("{prefix}{idx}"))).collect()
        };
        let n_right = right.schema().fields().len();
        let keys = named("__k", self.keys.len());
        let (time, is_right) = (unqualified("__time".into()), unqualified("__is_right".into()));
        // Of the right, only rows that can match.
        let matchable = conjunction(keys.iter().chain([&time]).map(|column| column.clone().is_not_null()))
            .expect("there is a time");
        let rows = LogicalPlanBuilder::from(left.as_ref().clone())
            .project(left_exprs)?
            .union(
                LogicalPlanBuilder::from(right.as_ref().clone())
                    .project(right_exprs)?
                    .filter(matchable)?
                    .build()?,
            )?;
        let looks_ahead = matches!(nearest, Nearest::AtOrAfter | Nearest::After);
        let is_strict = matches!(nearest, Nearest::Before | Nearest::After);
        // A left row without a time comes before all right ones. At one time, a right row comes before those that
        // it matches, and the right rows in such an order that the first of them is the last one before the left.
        let mut order = vec![
            Sort::new(time, !looks_ahead, true),
            Sort::new(is_right.clone(), is_strict, true),
        ];
        order.extend(named("__r", n_right).into_iter().map(|column| Sort::new(column, false, false)));
        let frame = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        );
        let counted = when(is_right.clone(), lit(1i64)).end()?;
        let count = WindowFunction::new(WindowFunctionDefinition::AggregateUDF(count_udaf()), vec![counted]);
        let group = Expr::from(count)
            .partition_by(keys.clone())
            .order_by(order.clone())
            .window_frame(frame.clone())
            .build()?
            .alias("__group");
        let mut groups = keys;
        groups.push(unqualified("__group".into()));
        let mut firsts = Vec::new();
        let matched = named("__r", n_right).into_iter().chain([is_right.clone()]);
        for (idx, column) in matched.enumerate() {
            let first = first_value(column)
                .partition_by(groups.clone())
                .order_by(order.clone())
                .window_frame(frame.clone())
                .build()?;
            firsts.push(first.alias(format!("__m{idx}")));
        }
        let is_matched = unqualified(format!("__m{n_right}"));
        let mut kept = is_right.is_false();
        if !self.is_outer() {
            kept = kept.and(is_matched);
        }
        let schema = &self.join.schema;
        let n_left = left.schema().fields().len();
        let results = named("__l", n_left).into_iter().chain(named("__m", n_right));
        let output: Vec<Expr> = results
            .zip(schema.iter())
            .map(|(column, (qualifier, field))| column.alias_qualified(qualifier.cloned(), field.name()))
            .collect();
        rows.window([group])?.window(firsts)?.filter(kept)?.project(output)?.build()
    }
}

fn mark_of(expr: &Expr) -> Option<&str> {
    let Expr::BinaryExpr(BinaryExpr { left, op: BinaryOperator::Eq, right }) = expr else { return None };
    let (Expr::Literal(mark, _), Expr::Literal(kind, _)) = (left.as_ref(), right.as_ref()) else {
        return None;
    };
    (mark.try_as_str()?? == MARK).then_some(kind.try_as_str()??)
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

fn of_one_type(left: Expr, right: Expr, join: &Join) -> Result<(Expr, Expr)> {
    let (left_type, right_type) = (left.get_type(join.left.schema())?, right.get_type(join.right.schema())?);
    if left_type == right_type {
        return Ok((left, right));
    }
    let Some(common) = comparison_coercion(&left_type, &right_type) else {
        let shown = crate::types::pg_type_name;
        let message = format!("{} cannot be compared with {}", shown(&left_type), shown(&right_type));
        return Err(DataFusionError::External(Box::new(Error::new(SqlState::DATATYPE_MISMATCH, message))));
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

fn wrong(is_arrival: bool, what: &str) -> DataFusionError {
    let (message, hint) = match is_arrival {
        false => (
            format!(
                "an ASOF join takes equalities of both sides and one comparison of their times by >=, >, <= or <, {what}"
            ),
            "Write ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.k = b.k. What else a row of one side must fulfil, a \
             subquery can ask: ASOF JOIN (SELECT … FROM b WHERE …) AS b.",
        ),
        true => (
            format!("a join with FOR SYSTEM_TIME AS OF now() takes equalities of both sides, {what}"),
            "What else a row of the right must fulfil, its relation has to ask: create a pipeline with that WHERE, and \
             join it.",
        ),
    };
    DataFusionError::External(Box::new(
        Error::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint),
    ))
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}
