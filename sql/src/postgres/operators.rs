//! Operators that mean something else in PostgreSQL, planned by the types of their operands.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::functions_nested::expr_fn::array_has;
use datafusion::logical_expr::expr::{Placeholder, ScalarFunction};
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawBinaryExpr, RawFieldAccessExpr,
};
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, GetFieldAccess, Operator, when};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::postgres::intervals::{INTERVAL, Op, TIME, TIMESTAMP};
use crate::postgres::numeric;
use crate::postgres::syntax::EQUALS_ANY;
use crate::types::PG_TYPE;

#[derive(Debug)]
pub(crate) struct PostgresOperators;

impl ExprPlanner for PostgresOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let (left, right) = (narrowed(left), narrowed(right));
        let right = typed_parameter(&op, &left, right, schema);
        // What has no type yet is coerced later.
        let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema)) else {
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        };
        if matches!(&op, BinaryOperator::Custom(name) if name == EQUALS_ANY) {
            let unknown = Expr::Literal(ScalarValue::Boolean(None), None);
            let any = when(left.clone().is_null(), unknown).otherwise(array_has(right, left))?;
            return Ok(PlannerResult::Planned(any));
        }
        if let Some(function) = json_operator(&op, &left, &left_type, &right_type, schema) {
            return Ok(PlannerResult::Planned(call(function, left, right)?));
        }
        let is_bytes = |data_type: &DataType| *data_type == DataType::Binary;
        if op == BinaryOperator::StringConcat && is_bytes(&left_type) && is_bytes(&right_type) {
            return Ok(PlannerResult::Planned(call("byteacat", left, right)?));
        }
        match planned(&op, left, right, &left_type, &right_type) {
            Ok(planned) => Ok(PlannerResult::Planned(planned)),
            Err(operands) => {
                let (left, right) = *operands;
                Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
            }
        }
    }

    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let is_jsonb = access.expr.to_field(schema).is_ok_and(|(_, field)| {
            *field.data_type() == DataType::Utf8
                && field.metadata().get(PG_TYPE).is_some_and(|declared| declared == "jsonb")
        });
        let key = match (&access.field_access, is_jsonb) {
            (GetFieldAccess::NamedStructField { name }, true) => Expr::Literal(name.clone(), None),
            (GetFieldAccess::ListIndex { key }, true) => key.as_ref().clone(),
            _ => return Ok(PlannerResult::Original(access)),
        };
        Ok(PlannerResult::Planned(call("jsonb_object_field", access.expr, key)?))
    }

    fn plan_aggregate(&self, mut expr: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        expr.args = named_by_casts(expr.args);
        Ok(PlannerResult::Original(expr))
    }
}

/// A parameter with the type that an operator wants beside its left side, where DataFusion does not find it itself.
fn typed_parameter(op: &BinaryOperator, left: &Expr, right: Expr, schema: &DFSchema) -> Expr {
    let Expr::Placeholder(Placeholder { id, field: None }) = right else { return right };
    let untyped = |id| Expr::Placeholder(Placeholder { id, field: None });
    let Ok((_, left)) = left.to_field(schema) else { return untyped(id) };
    let texts = || DataType::new_list(DataType::Utf8, true);
    let declared = left.metadata().get(PG_TYPE).filter(|declared| declared.starts_with("json"));
    let field = match (op, declared) {
        (BinaryOperator::Custom(name), _) if name == EQUALS_ANY => {
            let item = left.as_ref().clone().with_name("item").with_nullable(true);
            Field::new("", DataType::List(Arc::new(item)), true)
        }
        (BinaryOperator::AtArrow | BinaryOperator::ArrowAt, Some(declared)) => {
            let metadata = [(PG_TYPE.to_owned(), declared.clone())];
            Field::new("", DataType::Utf8, true).with_metadata(metadata.into())
        }
        (
            BinaryOperator::HashArrow
            | BinaryOperator::HashLongArrow
            | BinaryOperator::HashMinus
            | BinaryOperator::QuestionPipe
            | BinaryOperator::QuestionAnd,
            Some(_),
        ) => Field::new("", texts(), true),
        (
            BinaryOperator::Arrow
            | BinaryOperator::LongArrow
            | BinaryOperator::Question
            | BinaryOperator::AtQuestion
            | BinaryOperator::AtAt,
            Some(_),
        ) => Field::new("", DataType::Utf8, true),
        _ => return untyped(id),
    };
    Expr::Placeholder(Placeholder { id, field: Some(Arc::new(field)) })
}

/// `sum(x::bigint)` and `sum(x::real)` are two: DataFusion leaves a cast out of a call's name, and takes calls of the same
/// name for the same column.
fn named_by_casts(args: Vec<Expr>) -> Vec<Expr> {
    let named = |arg: Expr| match arg {
        Expr::Cast(cast) if !matches!(*cast.expr, Expr::Literal(..)) => {
            let name = format!("{}::{}", cast.expr.schema_name(), cast.field.data_type());
            Expr::Cast(cast).alias(name)
        }
        other => other,
    };
    args.into_iter().map(named).collect()
}

/// The function behind an operator of `json` or `jsonb`.
fn json_operator(
    op: &BinaryOperator,
    left: &Expr,
    left_type: &DataType,
    right_type: &DataType,
    schema: &DFSchema,
) -> Option<&'static str> {
    let declared = |expr: &Expr| {
        let (_, field) = expr.to_field(schema).ok()?;
        field.metadata().get(PG_TYPE).cloned()
    };
    if *left_type != DataType::Utf8 {
        return None;
    }
    let left_name = declared(left);
    let is_binary = left_name.as_deref() == Some("jsonb");
    let choose = |json: &'static str, jsonb: &'static str| Some(if is_binary { jsonb } else { json });
    match op {
        BinaryOperator::Arrow => choose("json_object_field", "jsonb_object_field"),
        BinaryOperator::LongArrow => choose("json_object_field_text", "jsonb_object_field_text"),
        BinaryOperator::HashArrow => choose("json_path", "jsonb_path"),
        BinaryOperator::HashLongArrow => choose("json_path_text", "jsonb_path_text"),
        BinaryOperator::AtArrow if *right_type == DataType::Utf8 => Some("jsonb_contains"),
        BinaryOperator::ArrowAt if *right_type == DataType::Utf8 => Some("jsonb_contained"),
        BinaryOperator::Lt if is_binary => Some("jsonb_lt"),
        BinaryOperator::LtEq if is_binary => Some("jsonb_le"),
        BinaryOperator::Gt if is_binary => Some("jsonb_gt"),
        BinaryOperator::GtEq if is_binary => Some("jsonb_ge"),
        BinaryOperator::AtQuestion => Some("jsonb_path_exists_opr"),
        BinaryOperator::AtAt => Some("jsonb_path_match_opr"),
        BinaryOperator::Question => Some("jsonb_exists"),
        BinaryOperator::QuestionPipe => Some("jsonb_exists_any"),
        BinaryOperator::QuestionAnd => Some("jsonb_exists_all"),
        BinaryOperator::HashMinus => Some("jsonb_delete_path"),
        BinaryOperator::Minus if is_binary => Some("jsonb_delete"),
        BinaryOperator::StringConcat if is_binary => Some("jsonb_concat"),
        _ => None,
    }
}

fn call(function: &str, left: Expr, right: Expr) -> Result<Expr> {
    // `a <@ b` is `b @> a`.
    let (function, args) = match function {
        "jsonb_contained" => ("jsonb_contains", vec![right, left]),
        function => (function, vec![left, right]),
    };
    match crate::functions::scalar_functions().into_iter().find(|known| known.name() == function) {
        Some(known) => Ok(Expr::ScalarFunction(ScalarFunction::new_udf(known, args))),
        None => internal_err!("there is no function {function}"),
    }
}

/// A literal number as `integer`, which in PostgreSQL it is where it fits.
pub(crate) fn narrowed(expr: Expr) -> Expr {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), metadata) => match i32::try_from(value) {
            Ok(value) => Expr::Literal(ScalarValue::Int32(Some(value)), metadata),
            Err(_) => Expr::Literal(ScalarValue::Int64(Some(value)), metadata),
        },
        other => other,
    }
}

/// The expression, or the operands where the operator means what DataFusion means.
fn planned(
    op: &BinaryOperator,
    left: Expr,
    right: Expr,
    left_type: &DataType,
    right_type: &DataType,
) -> Result<Expr, Box<(Expr, Expr)>> {
    use BinaryOperator::{Divide, Minus, Multiply, Plus};
    let is_time = |data_type: &DataType| matches!(data_type, DataType::Time64(_) | DataType::Time32(_));
    let is_timestamp = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..));
    let is_number = |data_type: &DataType| data_type.is_numeric();
    let is_text = |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _));
    let is_interval = |data_type: &DataType| *data_type == INTERVAL;
    let date = DataType::Date32;
    let exact_op = match op {
        Plus => Some(Operator::Plus),
        Minus => Some(Operator::Minus),
        Multiply => Some(Operator::Multiply),
        Divide => Some(Operator::Divide),
        BinaryOperator::Modulo => Some(Operator::Modulo),
        _ => None,
    };
    if let Some(op) = exact_op.filter(|op| numeric::is_exact(*op, left_type, right_type)) {
        return Ok(numeric::call(op, left, right));
    }
    // A literal without a type takes the other side's.
    if matches!(op, Plus | Minus) || is_comparison(op) {
        let adopts =
            |data_type: &DataType| is_interval(data_type) || (is_comparison(op) && data_type.is_temporal());
        if is_text(&right) && adopts(left_type) {
            return planned(op, left, cast(right, left_type), left_type, left_type);
        }
        if is_text(&left) && adopts(right_type) {
            return planned(op, cast(left, right_type), right, right_type, right_type);
        }
        if is_text(&right) && matches!(op, Plus | Minus) && (is_timestamp(left_type) || *left_type == date) {
            let target = if *op == Plus { &INTERVAL } else { left_type };
            return planned(op, left, cast(right, target), left_type, target);
        }
    }
    if exact_op.is_some() {
        if is_text(&right) && left_type.is_numeric() {
            return planned(op, left, cast(right, left_type), left_type, left_type);
        }
        if is_text(&left) && right_type.is_numeric() {
            return planned(op, cast(left, right_type), right, right_type, right_type);
        }
    }
    match (op, left_type, right_type) {
        (Plus, DataType::Date32, days) if days.is_integer() => {
            Ok(Op::DateAdd.call(vec![left, cast(right, &DataType::Int32)]))
        }
        (Plus, days, DataType::Date32) if days.is_integer() => {
            Ok(Op::DateAdd.call(vec![right, cast(left, &DataType::Int32)]))
        }
        (Minus, DataType::Date32, days) if days.is_integer() => {
            Ok(Op::DateSubtract.call(vec![left, cast(right, &DataType::Int32)]))
        }
        (Minus, DataType::Date32, DataType::Date32) => Ok(Op::DateDifference.call(vec![left, right])),
        (Minus, a, b)
            if is_timestamp(a) && (is_timestamp(b) || *b == date) || *a == date && is_timestamp(b) =>
        {
            Ok(Op::TimestampDifference.call(vec![cast(left, &TIMESTAMP), cast(right, &TIMESTAMP)]))
        }
        (Plus, DataType::Date32, time) if is_time(time) => {
            Ok(Op::DateTime.call(vec![left, cast(right, &TIME)]))
        }
        (Plus, time, DataType::Date32) if is_time(time) => {
            Ok(Op::DateTime.call(vec![right, cast(left, &TIME)]))
        }
        (Plus | Minus, DataType::Date32, b) if is_interval(b) => {
            Err(Box::new((cast(left, &TIMESTAMP), right)))
        }
        (Plus, a, DataType::Date32) if is_interval(a) => Err(Box::new((cast(right, &TIMESTAMP), left))),
        (Plus, a, b) if is_time(a) && is_interval(b) => Ok(Op::TimeAdd.call(vec![cast(left, &TIME), right])),
        (Plus, a, b) if is_interval(a) && is_time(b) => Ok(Op::TimeAdd.call(vec![cast(right, &TIME), left])),
        (Minus, a, b) if is_time(a) && is_interval(b) => {
            Ok(Op::TimeSubtract.call(vec![cast(left, &TIME), right]))
        }
        (Minus, a, b) if is_time(a) && is_time(b) => {
            Ok(Op::TimeDifference.call(vec![cast(left, &TIME), cast(right, &TIME)]))
        }
        (Plus, a, b) if is_interval(a) && is_timestamp(b) => Err(Box::new((right, left))),
        (Multiply, a, b) if is_interval(a) && is_number(b) => {
            Ok(Op::Multiply.call(vec![left, cast(right, &DataType::Float64)]))
        }
        (Multiply, a, b) if is_number(a) && is_interval(b) => {
            Ok(Op::Multiply.call(vec![right, cast(left, &DataType::Float64)]))
        }
        (Divide, a, b) if is_interval(a) && is_number(b) => {
            Ok(Op::Divide.call(vec![left, cast(right, &DataType::Float64)]))
        }
        // In PostgreSQL a real that meets another number becomes double precision.
        (Plus | Minus | Multiply | Divide, DataType::Float32, b)
            if is_number(b) && *b != DataType::Float32 =>
        {
            Err(Box::new((cast(left, &DataType::Float64), right)))
        }
        (Plus | Minus | Multiply | Divide, a, DataType::Float32)
            if is_number(a) && *a != DataType::Float32 =>
        {
            Err(Box::new((left, cast(right, &DataType::Float64))))
        }
        _ => Err(Box::new((left, right))),
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

fn cast(expr: Expr, data_type: &DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), data_type.clone()))
}
