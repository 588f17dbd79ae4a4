//! `ASOF JOIN` and `FOR SYSTEM_TIME AS OF`: joins with one row of many, which time picks.
//!
//! ```sql
//! FROM trades AS t ASOF JOIN quotes AS q MATCH_CONDITION (t.ts >= q.ts) ON t.symbol = q.symbol
//! FROM trades AS t ASOF LEFT JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts
//! FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency
//! FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF now() AS r ON o.currency = r.currency
//! ```
//!
//! The third one means an ASOF join by `o.ts >= r.t`, where `t` is the time from which a row of `rates` is valid. The last
//! one takes what is there when the left row comes; to a SELECT everything comes now, so that it is a plain join.
//!
//! DataFusion has no such joins. In the syntax tree one becomes an inner or left join whose condition carries a mark, and in the
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
    BinaryOperator as SqlOperator, Expr as SqlExpr, Ident, JoinConstraint, JoinOperator, ObjectName, Query,
    SetExpr, TableFactor, TableVersion, TableWithJoins, VisitorMut,
};
use tidemill_core::SqlState;
use tidemill_plan::{Asof, IncrementalNode, Lookup, Nearest, Operator};

use crate::planner::Names;
use crate::refusal::Refusal;
use crate::set_operations::Lowering;
use crate::types::pg_type_name;

/// What a mark compares with the construct that it stands for.
const MARK: &str = "__time_join";

/// How a join was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Construct {
    Asof,
    /// `FOR SYSTEM_TIME AS OF` a time of the left row.
    Version,
    /// `FOR SYSTEM_TIME AS OF now()`
    Arrival,
}

impl Construct {
    const ALL: [Construct; 3] = [Construct::Asof, Construct::Version, Construct::Arrival];

    /// What stands in the mark.
    fn tag(self) -> &'static str {
        match self {
            Construct::Asof => "asof",
            Construct::Version => "version",
            Construct::Arrival => "arrival",
        }
    }

    /// The word by which it is found in the query.
    fn word(self) -> &'static str {
        match self {
            Construct::Asof => "asof",
            Construct::Version | Construct::Arrival => "system_time",
        }
    }
}

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
            to_flow(mark_body(&mut query.body, self.0))
        }

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
            match factor {
                TableFactor::NestedJoin { table_with_joins, .. } => to_flow(mark(table_with_joins, self.0)),
                // Those of joins have been taken.
                TableFactor::Table { version: Some(_), .. } => ControlFlow::Break(refused_version(
                    "FOR SYSTEM_TIME AS OF is supported behind JOIN and LEFT JOIN only".into(),
                    "Write FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency.".into(),
                )),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match crate::visit::walk_mut(query, &mut Marker(names)) {
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

fn mark_body(body: &mut SetExpr, names: &dyn Names) -> std::result::Result<(), Refusal> {
    match body {
        SetExpr::Select(select) => select.from.iter_mut().try_for_each(|from| mark(from, names)),
        SetExpr::SetOperation { left, right, .. } => {
            mark_body(left, names)?;
            mark_body(right, names)
        }
        // What stands in parentheses is visited as a query of its own.
        _ => Ok(()),
    }
}

fn mark(from: &mut TableWithJoins, names: &dyn Names) -> std::result::Result<(), Refusal> {
    for join in &mut from.joins {
        // What it means here is told in `parser::asof`.
        let is_flagged = std::mem::take(&mut join.global);
        if let TableFactor::Table { version, .. } = &mut join.relation
            && let Some(version) = version.take()
        {
            mark_version(&mut join.join_operator, &join.relation, version, names)?;
            continue;
        }
        match &mut join.join_operator {
            JoinOperator::AsOf { match_condition, constraint } => {
                let on = match constraint {
                    JoinConstraint::On(on) => Some(on.clone()),
                    JoinConstraint::None => None,
                    JoinConstraint::Using(_) | JoinConstraint::Natural => return Err(no_using()),
                };
                let marked = marked(Construct::Asof, [Some(match_condition.clone()), on])?;
                join.join_operator = match is_flagged {
                    true => JoinOperator::LeftOuter(marked),
                    false => JoinOperator::Inner(marked),
                };
            }
            JoinOperator::Join(constraint) | JoinOperator::Left(constraint) if is_flagged => {
                *constraint = match constraint {
                    JoinConstraint::On(on) => marked(Construct::Asof, [Some(on.clone()), None])?,
                    JoinConstraint::None => marked(Construct::Asof, [None, None])?,
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
fn marked(
    construct: Construct,
    conditions: [Option<SqlExpr>; 2],
) -> std::result::Result<JoinConstraint, Refusal> {
    let mut marked = parsed(&format!("'{MARK}' = '{}'", construct.tag()))?;
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

fn refused_version(message: String, hint: String) -> Refusal {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message,
        hint: Some(hint),
        near: Some("system_time".into()),
    }
}

fn mark_version(
    operator: &mut JoinOperator,
    relation: &TableFactor,
    version: TableVersion,
    names: &dyn Names,
) -> std::result::Result<(), Refusal> {
    let TableVersion::ForSystemTimeAsOf(time) = version else {
        return Err(refused_version(
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
            return Err(refused_version(
                "a join with FOR SYSTEM_TIME AS OF is an inner or a left join".into(),
                "The relation of which versions are taken stands on the right of JOIN or LEFT JOIN.".into(),
            ));
        }
    };
    let JoinConstraint::On(on) = constraint else {
        return Err(refused_version(
            "a join with FOR SYSTEM_TIME AS OF takes its keys from ON, not from USING or NATURAL".into(),
            "Write JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency.".into(),
        ));
    };
    let TableFactor::Table { name, alias, .. } = relation else { unreachable!("looked at by the caller") };
    if is_now(&time) {
        *constraint = marked(Construct::Arrival, [Some(on.clone()), None])?;
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
        return Err(refused_version(
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
        return Err(refused_version(
            message,
            asof(versions.times.first().map_or("valid_from", String::as_str)),
        ));
    };
    if !versions.primary_key.is_empty() && !versions.primary_key.contains(time_column) {
        return Err(refused_version(
            format!(
                "\"{table}\" keeps only the last row of each {}, so that it has no earlier versions",
                versions.primary_key.join(", ")
            ),
            format!(
                "Let \"{time_column}\" be a part of its PRIMARY KEY, or declare none, so that each version is a row; or take \
                 the row that is there when the left one comes: FOR SYSTEM_TIME AS OF now()."
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
        op: SqlOperator::GtEq,
        right: Box::new(valid_from),
    };
    *constraint = marked(Construct::Version, [Some(condition), Some(on.clone())])?;
    Ok(())
}

/// `now()`, `proctime()`, `current_timestamp` and the like.
fn is_now(expr: &SqlExpr) -> bool {
    let named = |name: &ObjectName| {
        let name = name.to_string().to_lowercase();
        ["now", "proctime", "current_timestamp", "localtimestamp"].contains(&name.as_str())
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
            return Ok(Transformed::yes(match (time_join.pick.is_none(), lowering) {
                // Everything comes now.
                (true, Lowering::Select) => time_join.plain()?,
                _ => time_join.node()?,
            }));
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
    /// Expressions of the left and of the right, of one type, and how they are compared; `None` for what is there when
    /// the left row comes.
    pick: Option<(Nearest, Expr, Expr)>,
}

impl<'a> TimeJoin<'a> {
    fn of(join: &'a Join) -> Result<Option<TimeJoin<'a>>> {
        let Some(filter) = &join.filter else { return Ok(None) };
        let conjuncts = split_conjunction(filter);
        let Some(construct) = conjuncts.iter().find_map(|conjunct| mark_of(conjunct)) else {
            return Ok(None);
        };
        let wrong = |what: &str| wrong(construct, what);
        let mut keys: Vec<(Expr, Expr)> = Vec::new();
        for (left, right) in &join.on {
            keys.push(of_one_type(left.clone(), right.clone(), BinaryOperator::Eq, construct, join)?);
        }
        let mut picks = Vec::new();
        for conjunct in conjuncts {
            if mark_of(conjunct).is_some() {
                continue;
            }
            let Some((op, left, right)) = comparison(conjunct, join) else {
                return Err(wrong(&format!("not {}", conjunct.human_display())));
            };
            let (left, right) = of_one_type(left, right, op, construct, join)?;
            let nearest = match op {
                BinaryOperator::Eq => {
                    keys.push((left, right));
                    continue;
                }
                _ if construct == Construct::Arrival => {
                    return Err(wrong(&format!("not {}", conjunct.human_display())));
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
        let n_wanted = usize::from(construct != Construct::Arrival);
        if picks.len() != n_wanted {
            return Err(wrong(if picks.is_empty() { "and there is none" } else { "and there are more" }));
        }
        Ok(Some(TimeJoin { join, keys, pick: picks.pop() }))
    }

    fn is_outer(&self) -> bool {
        self.join.join_type == JoinType::Left
    }

    /// An ordinary join.
    fn plain(&self) -> Result<LogicalPlan> {
        let (left, right) = (self.join.left.as_ref().clone(), self.join.right.as_ref().clone());
        let on = self.keys.iter().map(|(left, right)| left.clone().eq(right.clone()));
        LogicalPlanBuilder::from(left).join_on(right, self.join.join_type, on)?.build()
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
        let is_outer = self.is_outer();
        let operator = match &self.pick {
            Some((nearest, left, right)) => Operator::Asof(Asof {
                left_keys,
                right_keys,
                left_time: position(&mut left_columns, left),
                right_time: position(&mut right_columns, right),
                nearest: *nearest,
                n_left,
                n_right,
                is_outer,
                trim: None,
            }),
            None => {
                let is_append_only = false;
                Operator::Lookup(Lookup { left_keys, right_keys, n_left, n_right, is_outer, is_append_only })
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
}

fn mark_of(expr: &Expr) -> Option<Construct> {
    let word = |expr: &Expr| match expr {
        Expr::Literal(word, _) => word.try_as_str().flatten().map(str::to_owned),
        _ => None,
    };
    let Expr::BinaryExpr(BinaryExpr { left, op: BinaryOperator::Eq, right }) = expr else { return None };
    if word(left)? != MARK {
        return None;
    }
    let named = word(right)?;
    Construct::ALL.into_iter().find(|construct| construct.tag() == named)
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

fn of_one_type(
    left: Expr,
    right: Expr,
    op: BinaryOperator,
    construct: Construct,
    join: &Join,
) -> Result<(Expr, Expr)> {
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
            near: Some(construct.word().into()),
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

fn wrong(construct: Construct, what: &str) -> DataFusionError {
    let (message, hint) = match construct {
        Construct::Asof => (
            "an ASOF join takes equalities of both sides and one comparison of their times by >=, >, <= or <",
            "Write ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts. What else a row of one side must fulfil, a subquery can ask: \
             ASOF JOIN (SELECT … FROM b WHERE …) AS b.",
        ),
        Construct::Version => (
            "a join with FOR SYSTEM_TIME AS OF takes a time of the left side, and equalities of both sides",
            "Write JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency. What else must hold can stand in WHERE, \
             or in an ASOF join with a subquery.",
        ),
        Construct::Arrival => (
            "a join with FOR SYSTEM_TIME AS OF now() takes equalities of both sides",
            "Write JOIN rates FOR SYSTEM_TIME AS OF now() AS r ON o.currency = r.currency. What else must hold can stand in WHERE, \
             or in a view of which the versions are taken.",
        ),
    };
    DataFusionError::External(Box::new(Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: format!("{message}, {what}"),
        hint: Some(hint.into()),
        near: Some(construct.word().into()),
    }))
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}
