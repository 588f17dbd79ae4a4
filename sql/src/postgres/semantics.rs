//! Analyzer rules: what can be decided when the types of all operands are known.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::type_union_coercion;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Between, BinaryExpr, Case, Cast, Expr, ExprSchemable, LogicalPlan, Operator,
    Projection, ScalarUDF, SortExpr, Union,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercionRewriter;

use crate::functions::with_one_zero;
use crate::postgres::arithmetic::Checked;
use crate::postgres::intervals::{INTERVAL, Op};
use crate::postgres::numeric;
use crate::postgres::text::{TextCast, TextFormat};
use crate::types::PG_TYPE;

/// Before types are coerced: what changes the type of a result.
#[derive(Debug)]
pub(crate) struct BeforeCoercion;

impl AnalyzerRule for BeforeCoercion {
    fn name(&self) -> &str {
        "postgres_before_coercion"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = plan.transform_up_with_subqueries(|node| {
            let schema = input_schema(&node);
            let names = NamePreserver::new(&node);
            let typed = node.map_expressions(|expr| {
                let name = names.save(&expr);
                let typed = expr.transform_up(|expr| exact(expr, &schema))?;
                Ok(typed.update_data(|expr| name.restore(expr)))
            })?;
            // Types below may have changed even where this node's expressions have not.
            let node = typed.data.recompute_schema()?;
            match node {
                LogicalPlan::Join(mut join) => {
                    for (left, right) in &mut join.on {
                        alike(&mut [left, right], &schema);
                    }
                    Ok(Transformed::yes(LogicalPlan::Join(join)))
                }
                LogicalPlan::Aggregate(aggregate) => exact_averages(aggregate),
                LogicalPlan::Union(union) => {
                    Ok(Transformed::yes(TypeCoercionRewriter::coerce_union(adopted_types(union)?)?))
                }
                other => Ok(Transformed::yes(other)),
            }
        })?;
        Ok(plan.data)
    }
}

/// A string without a type has, in a column of a UNION, that of the other queries; numbers of which some are floating-point are
/// all of that type.
fn adopted_types(mut union: Union) -> Result<Union> {
    for column in 0..union.schema.fields().len() {
        let types = || union.inputs.iter().map(|input| input.schema().field(column).data_type());
        let is_exact =
            |data_type: &DataType| matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..));
        if !types().any(DataType::is_floating) || !types().any(is_exact) {
            continue;
        }
        for input in &mut union.inputs {
            let schema = input.schema().clone();
            let exprs = schema.columns().into_iter().enumerate().map(|(idx, from)| {
                let (relation, name) = (from.relation.clone(), from.name.clone());
                match idx == column && schema.field(idx).data_type().is_numeric() {
                    true => Expr::Cast(Cast::new(Box::new(Expr::Column(from)), DataType::Float64))
                        .alias_qualified(relation, name),
                    false => Expr::Column(from),
                }
            });
            let exprs = exprs.collect();
            *input = Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, input.clone())?));
        }
    }
    for column in 0..union.schema.fields().len() {
        let others = union.inputs.iter().filter(|input| literal_of(input, column).is_none());
        let other =
            others.map(|input| input.schema().field(column)).find(|field| !field.data_type().is_null());
        let has_own_text = |field: &&FieldRef| {
            let declared = field.metadata().get(PG_TYPE);
            declared.is_some_and(|declared| ["uuid", "jsonb"].contains(&declared.as_str()))
        };
        let is_adopted = |field: &&FieldRef| !is_string(field.data_type()) || has_own_text(field);
        let Some(target) = other.filter(is_adopted).cloned() else { continue };
        for input in &mut union.inputs {
            if literal_of(input, column).is_none() {
                continue;
            }
            let LogicalPlan::Projection(projection) = input.as_ref() else { continue };
            let mut exprs = projection.expr.clone();
            let name = exprs[column].schema_name().to_string();
            let literal = std::mem::take(&mut exprs[column]).unalias();
            exprs[column] = Expr::Cast(Cast { expr: Box::new(literal), field: target.clone() }).alias(name);
            *input = Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, projection.input.clone())?));
        }
    }
    Ok(union)
}

/// A string in a column of a SELECT that nothing has given a type.
fn literal_of(input: &LogicalPlan, column: usize) -> Option<&str> {
    let LogicalPlan::Projection(projection) = input else { return None };
    let mut expr = &projection.expr[column];
    while let Expr::Alias(alias) = expr {
        expr = &alias.expr;
    }
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
        _ => None,
    }
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// What the expressions of a node are about.
fn input_schema(node: &LogicalPlan) -> DFSchema {
    let mut schema = merge_schema(&node.inputs());
    if let LogicalPlan::TableScan(scan) = node {
        schema.merge(&scan.projected_schema);
    }
    schema
}

/// Sums of `bigint` as `numeric`, which cannot overflow, and arithmetic of exact numbers.
fn exact(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::AggregateFunction(mut function) if function.func.name() == "sum" => {
            let widened = widen(&mut function.params.args, schema) || !function.params.order_by.is_empty();
            function.params.order_by.clear();
            let expr = Expr::AggregateFunction(function);
            Ok(if widened { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        // It reads its position out of a literal of 64 bits.
        Expr::AggregateFunction(mut function) if function.func.name() == "nth_value" => {
            for arg in function.params.args.iter_mut().skip(1) {
                let literal = match &*arg {
                    Expr::Cast(cast) => cast.expr.as_ref(),
                    other => other,
                };
                let position = match literal {
                    Expr::Literal(value, _) if value.data_type().is_integer() => {
                        value.cast_to(&DataType::Int64)?
                    }
                    _ => continue,
                };
                *arg = Expr::Literal(position, None);
            }
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        }
        Expr::WindowFunction(mut function) if function.fun.name() == "sum" => {
            let widened = widen(&mut function.params.args, schema);
            let expr = Expr::WindowFunction(function);
            Ok(if widened { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        // The order says nothing, and DataFusion takes it for arguments.
        Expr::AggregateFunction(mut function)
            if !function.params.order_by.is_empty() && is_free_of_order(function.func.name()) =>
        {
            function.params.order_by.clear();
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        }
        Expr::Case(mut case) => {
            let mut compared: Vec<&mut Expr> = case.expr.iter_mut().map(Box::as_mut).collect();
            if !compared.is_empty() {
                compared.extend(case.when_then_expr.iter_mut().map(|(when, _)| when.as_mut()));
            }
            alike(&mut compared, schema);
            let results = case.when_then_expr.iter_mut().map(|(_, then)| then).chain(&mut case.else_expr);
            alike(&mut results.map(Box::as_mut).collect::<Vec<_>>(), schema);
            common_results(case, schema)
        }
        Expr::ScalarFunction(function) if function.name() == "round" => Ok(rounding(function, schema)),
        Expr::ScalarFunction(mut function) if matches!(function.name(), "ceil" | "floor") => {
            // The next whole number may have one digit more.
            if let [arg] = &mut function.args[..]
                && let Ok(DataType::Decimal128(precision @ ..38, scale @ 1..)) = arg.get_type(schema)
                && !is_cast_from(arg, &DataType::Decimal128(precision - 1, scale), schema)
            {
                let wider =
                    Cast::new(Box::new(std::mem::take(arg)), DataType::Decimal128(precision + 1, scale));
                *arg = Expr::Cast(wider);
                return Ok(Transformed::yes(Expr::ScalarFunction(function)));
            }
            Ok(Transformed::no(Expr::ScalarFunction(function)))
        }
        Expr::ScalarFunction(mut function)
            if matches!(function.name(), "coalesce" | "nullif" | "greatest" | "least" | "nvl") =>
        {
            alike(&mut function.args.iter_mut().collect::<Vec<_>>(), schema);
            Ok(Transformed::yes(Expr::ScalarFunction(function)))
        }
        Expr::InList(mut list) => {
            alike(&mut std::iter::once(list.expr.as_mut()).chain(&mut list.list).collect::<Vec<_>>(), schema);
            Ok(Transformed::yes(Expr::InList(list)))
        }
        Expr::Between(mut between) => {
            alike(&mut [&mut between.expr, &mut between.low, &mut between.high].map(Box::as_mut), schema);
            Ok(Transformed::yes(Expr::Between(between)))
        }
        Expr::BinaryExpr(mut binary) if is_comparison(binary.op) => {
            alike(&mut [&mut binary.left, &mut binary.right].map(Box::as_mut), schema);
            Ok(Transformed::yes(Expr::BinaryExpr(binary)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let exact = match (left.get_type(schema), right.get_type(schema)) {
                (Ok(left), Ok(right)) => numeric::is_exact(op, &left, &right),
                _ => false,
            };
            match exact {
                true => Ok(Transformed::yes(numeric::call(op, *left, *right))),
                false => Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
            }
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Whether an expression is a cast of a value of a type, as it is when it comes here again.
fn is_cast_from(expr: &Expr, data_type: &DataType, schema: &DFSchema) -> bool {
    matches!(expr, Expr::Cast(cast) if cast.expr.get_type(schema).is_ok_and(|from| from == *data_type))
}

/// Whether an aggregate is the same in whatever order its values come.
fn is_free_of_order(function: &str) -> bool {
    let free = [
        "avg",
        "bit_and",
        "bit_or",
        "bit_xor",
        "bool_and",
        "bool_or",
        "corr",
        "count",
        "covar_pop",
        "covar_samp",
        "max",
        "min",
        "stddev",
        "stddev_pop",
        "var",
        "var_pop",
        "var_samp",
    ];
    free.contains(&function) || function.starts_with("regr_")
}

/// Values that are compared with each other, or of which one is chosen, of one type, where DataFusion would choose another:
/// floating-point and exact numbers meet as `double precision`, and a string without a type is what the others are.
fn alike(values: &mut [&mut Expr], schema: &DFSchema) {
    let types: Vec<Option<DataType>> = values.iter().map(|value| value.get_type(schema).ok()).collect();
    let is_exact =
        |data_type: &DataType| matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..));
    let known = || types.iter().flatten();
    if known().any(DataType::is_floating) && known().any(is_exact) {
        for (value, data_type) in values.iter_mut().zip(&types) {
            if data_type.as_ref().is_some_and(|it| it.is_numeric() && *it != DataType::Float64) {
                **value = Expr::Cast(Cast::new(Box::new(std::mem::take(*value)), DataType::Float64));
            }
        }
        return;
    }
    let is_literal = |value: &Expr| matches!(value, Expr::Literal(ScalarValue::Utf8(Some(_)), _));
    let declared = values.iter().filter(|value| !is_literal(value)).find_map(|value| {
        let (_, field) = value.to_field(schema).ok()?;
        let declared = field.metadata().get(PG_TYPE)?;
        ["uuid", "jsonb"].contains(&declared.as_str()).then_some(field)
    });
    let Some(declared) = declared else { return };
    // Of the type alone: whether it is NULL, the literal says.
    let target = Arc::new(declared.as_ref().clone().with_nullable(true));
    for value in values.iter_mut().filter(|value| is_literal(value)) {
        **value = Expr::Cast(Cast { expr: Box::new(std::mem::take(*value)), field: target.clone() });
    }
}

/// The results of a CASE in their common type, which DataFusion finds only when it coerces types.
fn common_results(mut case: Case, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let results = || case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr);
    let types = results().map(|result| result.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let is_literal = |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(_), _));
    // A string without a type takes that of the others.
    let typed =
        results().zip(&types).filter(|(result, _)| !is_literal(result)).map(|(_, data_type)| data_type);
    let common = typed
        .filter(|data_type| !data_type.is_null())
        .cloned()
        .map(Some)
        .reduce(|a, b| type_union_coercion(&a?, &b?))
        .flatten();
    let Some(common) = common.filter(|common| types.iter().any(|data_type| data_type != common)) else {
        return Ok(Transformed::no(Expr::Case(case)));
    };
    let conform = |result: &mut Box<Expr>| {
        if result.get_type(schema).is_ok_and(|data_type| data_type != common) {
            let converted = Cast::new(Box::new(std::mem::take(result.as_mut())), common.clone());
            **result = Expr::Cast(converted);
        }
    };
    case.when_then_expr.iter_mut().for_each(|(_, then)| conform(then));
    case.else_expr.iter_mut().for_each(conform);
    Ok(Transformed::yes(Expr::Case(case)))
}

/// `round`: of floating-point numbers to even, of exact ones to the scale asked for, which the result then has.
fn rounding(function: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    let data_type = function.args.first().and_then(|arg| arg.get_type(schema).ok());
    let digits = match function.args.get(1) {
        None => Some(0),
        Some(Expr::Literal(value, _)) => match value.cast_to(&DataType::Int32) {
            Ok(ScalarValue::Int32(digits)) => digits,
            _ => None,
        },
        Some(_) => None,
    };
    match (data_type, digits, &function.args[..]) {
        (Some(data_type), _, [arg]) if data_type.is_floating() => {
            Transformed::yes(ScalarUDF::from(crate::functions::RoundEven::new()).call(vec![arg.clone()]))
        }
        (Some(data_type), _, [arg]) if data_type.is_integer() => {
            Transformed::yes(Expr::Cast(Cast::new(Box::new(arg.clone()), DataType::Float64)))
        }
        (Some(DataType::Decimal128(precision, scale)), Some(digits @ 0..=38), [arg, ..]) => {
            let digits = digits as i8;
            let n_whole = i16::from(precision) - i16::from(scale) + 1;
            let precision = (n_whole + i16::from(digits)).clamp(1, 38) as u8;
            Transformed::yes(Expr::Cast(Cast::new(
                Box::new(arg.clone()),
                DataType::Decimal128(precision, digits.min(precision as i8)),
            )))
        }
        _ => Transformed::no(Expr::ScalarFunction(function)),
    }
}

fn widen(args: &mut [Expr], schema: &DFSchema) -> bool {
    let [arg] = args else { return false };
    let precision = match arg.get_type(schema) {
        Ok(DataType::Int64) => 19,
        Ok(DataType::UInt64) => 20,
        _ => return false,
    };
    let exact = Cast::new(Box::new(std::mem::take(arg)), DataType::Decimal128(precision, 0));
    *arg = Expr::Cast(exact);
    true
}

/// `avg(x)` of exact numbers as `sum(x) / count(x)`, exactly divided; `min` and `max` of intervals by their length.
fn exact_averages(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let schema = aggregate.input.schema();
    let kind_of = |expr: &Expr| -> Option<Kind> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else {
            return None;
        };
        let [arg] = &params.args[..] else { return None };
        let data_type = arg.get_type(schema).ok()?;
        match (func.name(), data_type) {
            ("avg", DataType::Decimal128(..)) => Some(Kind::Average),
            ("min", INTERVAL) => Some(Kind::Least),
            ("max", INTERVAL) => Some(Kind::Greatest),
            _ => None,
        }
    };
    if !aggregate.aggr_expr.iter().any(|expr| kind_of(expr).is_some()) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let columns = aggregate.schema.columns();
    let n_groups = columns.len() - aggregate.aggr_expr.len();
    let mut calls: Vec<Expr> = Vec::new();
    // The position of a call that is made once, whoever asks for it.
    let mut position = |call: Expr| match calls.iter().position(|known| *known == call) {
        Some(idx) => idx,
        None => {
            calls.push(call);
            calls.len() - 1
        }
    };
    enum Output {
        Same(usize),
        Quotient(usize, usize),
    }
    let mut outputs = Vec::new();
    for expr in &aggregate.aggr_expr {
        let Some(kind) = kind_of(expr) else {
            outputs.push(Output::Same(position(expr.clone())));
            continue;
        };
        let Expr::AggregateFunction(AggregateFunction { params, .. }) = expr.clone().unalias() else {
            unreachable!("a kind is of an aggregate function")
        };
        let call = |func: Arc<AggregateUDF>,
                    params: &datafusion::logical_expr::expr::AggregateFunctionParams| {
            Expr::AggregateFunction(AggregateFunction { func, params: params.clone() })
        };
        outputs.push(match kind {
            Kind::Average => {
                let sum = position(call(sum_udaf(), &params));
                let count = position(call(count_udaf(), &params));
                Output::Quotient(sum, count)
            }
            Kind::Least | Kind::Greatest => {
                let arg = params.args[0].clone();
                let mut ordered = params.clone();
                let key = Op::Length.call(vec![arg.clone()]);
                ordered.order_by = vec![SortExpr::new(key, kind == Kind::Least, false)];
                let present = arg.is_not_null();
                ordered.filter = Some(Box::new(match ordered.filter.take() {
                    Some(filter) => filter.and(present),
                    None => present,
                }));
                ordered.distinct = false;
                Output::Same(position(call(first_value_udaf(), &ordered)))
            }
        });
    }
    let inner = Aggregate::try_new(aggregate.input.clone(), aggregate.group_expr.clone(), calls)?;
    let inner_columns = inner.schema.columns();
    let mut exprs: Vec<Expr> = inner_columns[..n_groups].iter().cloned().map(Expr::Column).collect();
    for (column, output) in columns[n_groups..].iter().zip(outputs) {
        let inner = |idx: usize| Expr::Column(inner_columns[n_groups + idx].clone());
        let expr = match output {
            Output::Same(idx) => inner(idx),
            Output::Quotient(sum, count) => {
                numeric::call(Operator::Divide, inner(sum), null_if_zero(inner(count)))
            }
        };
        exprs.push(match &expr {
            Expr::Column(same) if same == column => expr,
            _ => expr.alias_qualified(column.relation.clone(), column.name.clone()),
        });
    }
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(LogicalPlan::Aggregate(inner)))?);
    Ok(Transformed::yes(plan))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Average,
    Least,
    Greatest,
}

/// The sum of no values is NULL, and so is their average.
fn null_if_zero(count: Expr) -> Expr {
    datafusion::functions::core::expr_fn::nullif(count, datafusion::prelude::lit(0i64))
}

/// After types have been coerced: nothing here changes a type.
#[derive(Debug)]
pub(crate) struct AfterCoercion {
    text: Arc<dyn TextFormat>,
}

impl AfterCoercion {
    pub fn new(text: Arc<dyn TextFormat>) -> AfterCoercion {
        AfterCoercion { text }
    }
}

impl AnalyzerRule for AfterCoercion {
    fn name(&self) -> &str {
        "postgres_after_coercion"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = plan.transform_up_with_subqueries(|node| {
            let schema = input_schema(&node);
            let names = NamePreserver::new(&node);
            let is_sort = matches!(node, LogicalPlan::Sort(_));
            let rewritten = node.map_expressions(|expr| {
                let name = names.save(&expr);
                let mut rewritten = checked(expr, &schema, &self.text)?;
                if is_sort && rewritten.data.get_type(&schema)? == INTERVAL {
                    rewritten = Transformed::yes(Op::Length.call(vec![rewritten.data]));
                }
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })?;
            rewritten.map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(plan.data)
    }
}

/// An expression, coerced, with PostgreSQL's arithmetic, casts and comparisons.
pub(crate) fn checked(
    expr: Expr,
    schema: &DFSchema,
    text: &Arc<dyn TextFormat>,
) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| match expr {
        Expr::BinaryExpr(binary) => arithmetic(binary, schema),
        Expr::Cast(cast) => conversion(cast, schema, text),
        Expr::Negative(operand) if operand.get_type(schema)? == INTERVAL => {
            Ok(Transformed::yes(Op::Negate.call(vec![*operand])))
        }
        Expr::Between(between) if between.expr.get_type(schema)? == INTERVAL => {
            let key = |expr: Box<Expr>| Box::new(Op::Length.call(vec![*expr]));
            let Between { expr, negated, low, high } = between;
            Ok(Transformed::yes(Expr::Between(Between::new(key(expr), negated, key(low), key(high)))))
        }
        Expr::InList(list) if list.expr.get_type(schema)? == INTERVAL => {
            let key = |expr: Expr| Op::Length.call(vec![expr]);
            let InList { expr, list, negated } = list;
            let list = list.into_iter().map(key).collect();
            Ok(Transformed::yes(Expr::InList(InList::new(Box::new(key(*expr)), list, negated))))
        }
        Expr::AggregateFunction(mut function) if function.params.distinct => {
            for arg in &mut function.params.args {
                *arg = with_one_zero(std::mem::take(arg), schema)?;
            }
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        }
        Expr::WindowFunction(mut function) => {
            for key in &mut function.params.partition_by {
                *key = with_one_zero(std::mem::take(key), schema)?;
            }
            Ok(Transformed::yes(Expr::WindowFunction(function)))
        }
        other => Ok(Transformed::no(other)),
    })
}

fn arithmetic(binary: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let BinaryExpr { left, op, right } = binary;
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    let same = |left, right| Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr::new(left, op, right))));
    if left_type == INTERVAL && right_type == INTERVAL && is_comparison(op) {
        let key = |expr: Box<Expr>| Box::new(Op::Length.call(vec![*expr]));
        return Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(key(left), op, key(right)))));
    }
    if left_type != right_type {
        return same(left, right);
    }
    match Checked::of(op, &left_type) {
        Some(function) => Ok(Transformed::yes(ScalarUDF::from(function).call(vec![*left, *right]))),
        None => same(left, right),
    }
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn conversion(cast: Cast, schema: &DFSchema, text: &Arc<dyn TextFormat>) -> Result<Transformed<Expr>> {
    let source = cast.expr.get_type(schema)?;
    let target: FieldRef = cast.field.clone();
    let declared = target.metadata().get(PG_TYPE);
    let is_text = is_string;
    let again =
        |expr: Expr| Transformed::yes(Expr::Cast(Cast { expr: Box::new(expr), field: target.clone() }));
    let is_json = || {
        let field = cast.expr.to_field(schema).ok();
        field.is_some_and(|(_, field)| {
            field.metadata().get(PG_TYPE).is_some_and(|declared| declared.starts_with("json"))
        })
    };
    match (&source, target.data_type()) {
        // A number in a jsonb is a numeric, which is rounded.
        (source, target_type) if is_text(source) && target_type.is_integer() && is_json() => {
            let exact = |scale| Arc::new(Field::new("", DataType::Decimal128(38, scale), true));
            let read = ScalarUDF::from(TextCast::read(text.clone(), exact(10))).call(vec![*cast.expr]);
            Ok(again(Expr::Cast(Cast { expr: Box::new(read), field: exact(0) })))
        }
        (source, DataType::Utf8)
            if !is_text(source) && declared.is_some_and(|declared| declared.starts_with("character")) =>
        {
            let plain = Arc::new(Field::new("", DataType::Utf8, true));
            let written = ScalarUDF::from(TextCast::write(text.clone(), plain)).call(vec![*cast.expr]);
            Ok(Transformed::yes(ScalarUDF::from(TextCast::read(text.clone(), target)).call(vec![written])))
        }
        (source, DataType::Utf8) if is_text(source) && declared.is_some() => {
            Ok(Transformed::yes(ScalarUDF::from(TextCast::read(text.clone(), target)).call(vec![*cast.expr])))
        }
        (source, target_type) if is_text(source) && !is_text(target_type) && is_read(target_type) => {
            Ok(Transformed::yes(ScalarUDF::from(TextCast::read(text.clone(), target)).call(vec![*cast.expr])))
        }
        (source, target_type) if is_text(target_type) && is_written(source) => Ok(Transformed::yes(
            ScalarUDF::from(TextCast::write(text.clone(), target)).call(vec![*cast.expr]),
        )),
        (DataType::List(from), DataType::List(to))
            if to.data_type().is_integer()
                && (from.data_type().is_floating()
                    || matches!(from.data_type(), DataType::Decimal128(_, 1..))) =>
        {
            let whole = |precision| Field::new_list_field(DataType::Decimal128(38, precision), true);
            let exact = Cast::new(cast.expr, DataType::List(Arc::new(whole(6))));
            Ok(again(Expr::Cast(Cast::new(Box::new(Expr::Cast(exact)), DataType::List(Arc::new(whole(0)))))))
        }
        (source, target_type) if source.is_floating() && target_type.is_integer() => {
            Ok(again(ScalarUDF::from(crate::functions::RoundEven::new()).call(vec![*cast.expr])))
        }
        (DataType::Decimal128(precision, scale), target_type) if *scale > 0 && target_type.is_integer() => {
            // Rounded at the point first: the cast to an integer cuts off.
            let precision = (*precision - *scale as u8 + 1).min(38);
            let whole = Cast::new(cast.expr, DataType::Decimal128(precision, 0));
            Ok(again(Expr::Cast(whole)))
        }
        // A cast to a field gives what the field says, NULL or not; its plan asks the operand.
        _ if declared.is_some() && target.is_nullable() && !cast.expr.nullable(schema)? => {
            let field = Arc::new(target.as_ref().clone().with_nullable(false));
            Ok(Transformed::yes(Expr::Cast(Cast { expr: cast.expr, field })))
        }
        _ => Ok(Transformed::no(Expr::Cast(cast))),
    }
}

/// Types whose values are read as PostgreSQL reads them.
fn is_read(data_type: &DataType) -> bool {
    data_type.is_primitive()
        || matches!(
            data_type,
            DataType::Boolean | DataType::Binary | DataType::List(_) | DataType::LargeList(_)
        )
}

/// Types whose values Arrow writes otherwise; integers it writes alike, and faster.
fn is_written(data_type: &DataType) -> bool {
    !data_type.is_integer()
        && !matches!(
            data_type,
            DataType::Null
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Dictionary(..)
                | DataType::RunEndEncoded(..)
        )
}
