//! DEFINE and MEASURES: what is read of a match, and the expressions over it.
//!
//! Each part of an expression that reads the match (`A.price`, `PREV(LAST(A.x, 2))`, `avg(A.price)`, `CLASSIFIER()`) is
//! taken out before DataFusion sees it, and a column stands in its place. An expression within it is about one row,
//! or an aggregate over rows, and planned over the table itself, without the names of variables. So all
//! types, coercions and PostgreSQL's rules are the ones of any other query.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, DataFusionError, Result, Span};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    EmptyRelation, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, Value,
    VisitorMut,
};
use tidemill_core::SqlState;
use tidemill_plan::{
    MatchAggregate, MatchValue, MatchValueKind, Navigation, NavigationEnd, WindowArg, value_column,
};

use super::pattern::Names;
use super::{Columns, settled, span_of, span_of_name, wrong};
use crate::delta::literal_micros;
use crate::postgres::{self, TextFormat};

pub(super) use tidemill_plan::value_column as value;

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clause {
    Define,
    Measures { is_one_row: bool },
}

/// What expressions read, and how what they were written with is made of it.
#[derive(Default)]
pub(super) struct Values {
    values: Vec<MatchValue>,
    /// For each part that was taken out: an expression over the values, and its type.
    slots: Vec<(Expr, DataType)>,
}

impl Values {
    pub fn finish(self) -> Vec<MatchValue> {
        self.values
    }

    /// The column of a value; it is added if it is new.
    fn column(&mut self, value: MatchValue) -> Expr {
        let is_same = |known: &MatchValue| (&known.kind, known.is_final) == (&value.kind, value.is_final);
        let idx = match self.values.iter().position(is_same) {
            Some(idx) => idx,
            None => {
                self.values.push(value);
                self.values.len() - 1
            }
        };
        Expr::Column(Column::from_name(value_column(idx)))
    }

    fn slot(&mut self, expr: Expr, data_type: DataType) -> SqlExpr {
        self.slots.push((expr, data_type));
        SqlExpr::Identifier(Ident::with_quote('"', slot_name(self.slots.len() - 1)))
    }

    fn slot_schema(&self) -> Result<DFSchema> {
        let field = |(idx, (_, data_type)): (usize, &(Expr, DataType))| {
            Arc::new(Field::new(slot_name(idx), data_type.clone(), true))
        };
        let fields: Vec<_> = self.slots.iter().enumerate().map(field).collect();
        DFSchema::from_unqualified_fields(fields.into(), Default::default())
    }

    fn schema(&self) -> Result<DFSchema> {
        let field = |(idx, value): (usize, &MatchValue)| {
            Arc::new(Field::new(value_column(idx), value.data_type.clone(), true))
        };
        let fields: Vec<_> = self.values.iter().enumerate().map(field).collect();
        DFSchema::from_unqualified_fields(fields.into(), Default::default())
    }
}

fn slot_name(idx: usize) -> String {
    format!("__slot{idx}")
}

pub(super) struct Binder<'a, 'c> {
    pub names: &'a Names,
    /// The table.
    pub input: &'a LogicalPlan,
    pub columns: &'a mut Columns,
    pub context: &'c mut dyn RelationPlannerContext,
    pub text: &'a Arc<dyn TextFormat>,
    /// The measures: name, expression, place in the text.
    pub outputs: Vec<(String, Expr, Option<Span>)>,
}

impl Binder<'_, '_> {
    /// Each variable's condition, over the values that are returned with it.
    pub fn define(
        &mut self,
        conditions: &[(Ident, SqlExpr)],
    ) -> Result<(Vec<MatchValue>, DFSchemaRef, Vec<Option<Expr>>)> {
        let n_variables = self.names.all().len();
        let mut values = Values::default();
        let mut bound: Vec<Option<(Expr, &SqlExpr)>> = vec![None; n_variables];
        for (name, condition) in conditions {
            let [variable] = self.names.find_variable(name)?[..] else {
                let message = format!("\"{}\" is a SUBSET, which has no condition of its own", name.value);
                let hint = "Define the variables that it is the union of.";
                return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of_name(name)));
            };
            if bound[variable].is_some() {
                let message = format!("variable \"{}\" is defined more than once", name.value);
                let hint = "Join the conditions with AND.";
                return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of_name(name)));
            }
            let expr = self.expr(condition, Clause::Define, &mut values)?;
            self.refuse_unsteady(&expr, condition)?;
            bound[variable] = Some((expr, condition));
        }
        let schema = Arc::new(values.schema()?);
        let conditions = bound
            .into_iter()
            .map(|bound| bound.map(|(expr, written)| self.condition(expr, written, &schema)).transpose())
            .collect::<Result<Vec<_>>>()?;
        Ok((values.finish(), schema, conditions))
    }

    /// A measure's expression, over `values`.
    pub fn measure(&mut self, expr: &SqlExpr, clause: Clause, values: &mut Values) -> Result<Expr> {
        self.expr(expr, clause, values)
    }

    /// The length of the interval of WITHIN, in microseconds.
    pub fn within(&mut self, expr: &SqlExpr) -> Result<i64> {
        let planned = self.context.sql_to_expr(expr.clone(), &DFSchema::empty())?;
        let settled = self.settled(planned, &Arc::new(DFSchema::empty()))?;
        literal_micros(&settled).filter(|micros| *micros > 0).ok_or_else(|| {
            wrong(
                SqlState::INVALID_PARAMETER,
                "WITHIN needs a positive constant of days or less",
                Some("Write it as an interval, such as WITHIN INTERVAL '10 minutes'."),
                span_of(expr),
            )
        })
    }

    /// An expression over the values, as it was planned and not yet coerced.
    fn expr(&mut self, expr: &SqlExpr, clause: Clause, values: &mut Values) -> Result<Expr> {
        let mut expr = expr.clone();
        settled(crate::visit::walk_mut(&mut expr, &mut Taker { binder: self, clause, values }))?;
        let schema = values.slot_schema()?;
        let planned = self.context.sql_to_expr(expr, &schema)?;
        planned
            .transform(|expr| match &expr {
                Expr::Column(column) => {
                    let slot = column.name.strip_prefix("__slot").and_then(|idx| idx.parse::<usize>().ok());
                    match slot.and_then(|slot| values.slots.get(slot)) {
                        Some((value, _)) => {
                            Ok(Transformed::new(value.clone(), true, TreeNodeRecursion::Jump))
                        }
                        None => Ok(Transformed::no(expr)),
                    }
                }
                _ => Ok(Transformed::no(expr)),
            })
            .data()
    }

    /// A condition with types coerced and constants folded.
    fn condition(&self, expr: Expr, written: &SqlExpr, schema: &DFSchemaRef) -> Result<Expr> {
        let settled = self.settled(expr, schema)?;
        match settled.get_type(schema.as_ref())? {
            DataType::Boolean | DataType::Null => Ok(settled),
            other => Err(wrong(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "argument of DEFINE must be type boolean, not type {}",
                    crate::types::pg_type_name(&other)
                ),
                Some("Compare it with something."),
                span_of(written),
            )),
        }
    }

    /// An expression over the columns of `schema`, as the analyzer leaves it, with constants folded.
    fn settled(&self, expr: Expr, schema: &DFSchemaRef) -> Result<Expr> {
        let empty =
            LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, schema: schema.clone() });
        let plan = LogicalPlan::Projection(Projection::try_new(vec![expr.alias("c")], Arc::new(empty))?);
        let LogicalPlan::Projection(analyzed) = postgres::analyzed(plan, self.text)? else {
            return Err(DataFusionError::Internal("a projection stays one when types are settled".into()));
        };
        let expr = analyzed.expr.into_iter().next().expect("one goes in, and one comes out").unalias();
        let simplify = SimplifyContext::builder().with_schema(schema.clone()).build();
        ExprSimplifier::new(simplify).simplify(expr)
    }

    fn refuse_unsteady(&self, expr: &Expr, written: &SqlExpr) -> Result<()> {
        let mut found = None;
        expr.apply(|expr| {
            match expr {
                Expr::ScalarFunction(function)
                    if function.func.signature().volatility != Volatility::Immutable =>
                {
                    found = Some(format!("{}()", function.name()));
                }
                Expr::Placeholder(placeholder) => found = Some(format!("the parameter {}", placeholder.id)),
                _ => (),
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        match found {
            None => Ok(()),
            Some(what) => Err(wrong(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("DEFINE with {what} is not supported"),
                Some(
                    "Compute it as a column of the table: FROM (SELECT *, … AS x FROM t) MATCH_RECOGNIZE (…).",
                ),
                span_of(written),
            )),
        }
    }

    /// What an expression reads of the match, if it is all that it does.
    fn take(&mut self, expr: &SqlExpr, scope: Scope, values: &mut Values) -> Result<Option<SqlExpr>> {
        match expr {
            SqlExpr::Prefixed { prefix, value } => {
                let is_final = prefix.value.eq_ignore_ascii_case("final");
                if !is_final && !prefix.value.eq_ignore_ascii_case("running") {
                    return Ok(None);
                }
                if is_final && scope.clause == Clause::Define {
                    let message = "FINAL is not known yet in DEFINE";
                    let hint = "DEFINE sees a match up to the current row: write RUNNING, or nothing.";
                    return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of(expr)));
                }
                let is_final = is_final || scope.clause == (Clause::Measures { is_one_row: true });
                match self.take(value, Scope { is_final, ..scope }, values)? {
                    Some(taken) => Ok(Some(taken)),
                    None => Err(wrong(
                        SqlState::SYNTAX_ERROR,
                        format!(
                            "{} belongs before a column, FIRST, LAST or an aggregate",
                            prefix.value.to_uppercase()
                        ),
                        None,
                        span_of(expr),
                    )),
                }
            }
            SqlExpr::Identifier(_) | SqlExpr::CompoundIdentifier(_) => {
                let way = Way { end: NavigationEnd::Last, offset: 0, shift: 0 };
                self.navigate(expr, expr, way, scope, values).map(Some)
            }
            SqlExpr::Function(function) => self.take_function(expr, function, scope, values),
            SqlExpr::Subquery(_)
            | SqlExpr::Exists { .. }
            | SqlExpr::InSubquery { .. }
            | SqlExpr::AnyOp { .. }
            | SqlExpr::AllOp { .. }
                if has_subquery(expr) =>
            {
                Err(wrong(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "a subquery in DEFINE or MEASURES is not supported",
                    Some(
                        "Join its result to the table first: FROM (SELECT t.*, x.y FROM t JOIN x …) MATCH_RECOGNIZE (…).",
                    ),
                    span_of(expr),
                ))
            }
            _ => Ok(None),
        }
    }

    fn take_function(
        &mut self,
        expr: &SqlExpr,
        function: &Function,
        scope: Scope,
        values: &mut Values,
    ) -> Result<Option<SqlExpr>> {
        let [ObjectNamePart::Identifier(name)] = &function.name.0[..] else { return Ok(None) };
        let name = name.value.to_lowercase();
        if function.over.is_some() {
            return Err(wrong(
                SqlState::WINDOWING,
                "a window function in MATCH_RECOGNIZE is not supported",
                Some("Compute it in a subquery that MATCH_RECOGNIZE reads, or over its result."),
                span_of(expr),
            ));
        }
        match name.as_str() {
            "first" | "last" | "prev" | "next" => {
                let way = self.way(expr, function, &name)?;
                Ok(Some(self.navigate(expr, way.1, way.0, scope, values)?))
            }
            "classifier" | "match_number" => {
                let way = Way { end: NavigationEnd::Last, offset: 0, shift: 0 };
                Ok(Some(self.navigate(expr, expr, way, scope, values)?))
            }
            _ if self.context.context_provider().get_aggregate_meta(&name).is_some() => {
                Ok(Some(self.aggregate(expr, function, scope, values)?))
            }
            _ => Ok(None),
        }
    }

    /// `PREV(LAST(x, 2), 1)`: the way, and `x`.
    fn way<'e>(&self, expr: &SqlExpr, function: &'e Function, name: &str) -> Result<(Way, &'e SqlExpr)> {
        let upper = name.to_uppercase();
        let usage = |message: String| {
            let hint = format!("Write {upper}(column), or {upper}(column, number).");
            wrong(SqlState::SYNTAX_ERROR, message, Some(&hint), span_of(expr))
        };
        let args =
            plain_args(function).ok_or_else(|| usage(format!("{upper} takes a column and a number")))?;
        let (inner, number) = match args[..] {
            [inner] => (inner, None),
            [inner, number] => (inner, Some(number)),
            _ => return Err(usage(format!("{upper} does not take {} arguments", args.len()))),
        };
        let number = match number {
            None => None,
            Some(number) => match literal_number(number) {
                Some(number) => Some(number),
                None => {
                    return Err(usage(format!(
                        "the second argument of {upper} is a number that is not negative"
                    )));
                }
            },
        };
        let is_physical = matches!(name, "prev" | "next");
        let nested = match inner {
            SqlExpr::Function(function) => navigation_name(function).map(|name| (function, name)),
            _ => None,
        };
        if let Some((_, inner_name)) = &nested
            && (!is_physical || matches!(inner_name.as_str(), "prev" | "next"))
        {
            let message = format!("{upper} of {} is not supported", inner_name.to_uppercase());
            let hint = "PREV and NEXT may be around FIRST and LAST, and around nothing else.";
            return Err(wrong(SqlState::FEATURE_NOT_SUPPORTED, message, Some(hint), span_of(expr)));
        }
        let (mut way, inner) = match nested {
            Some((function, inner_name)) => self.way(inner, function, &inner_name)?,
            None => (Way { end: NavigationEnd::Last, offset: 0, shift: 0 }, inner),
        };
        match name {
            "first" => {
                way.end = NavigationEnd::First;
                way.offset = number.unwrap_or(0) as usize;
            }
            "last" => way.offset = number.unwrap_or(0) as usize,
            "prev" => way.shift = -number.unwrap_or(1),
            _ => way.shift = number.unwrap_or(1),
        }
        Ok((way, inner))
    }

    /// A column, an expression over the columns of one row, or the name of its variable, of the row that `way` leads to.
    fn navigate(
        &mut self,
        whole: &SqlExpr,
        read: &SqlExpr,
        way: Way,
        scope: Scope,
        values: &mut Values,
    ) -> Result<SqlExpr> {
        let value = |kind, data_type| MatchValue {
            kind,
            data_type,
            // A match's number is the same all along.
            is_final: scope.is_final,
            display: whole.to_string(),
        };
        let go = |variables: Vec<usize>| Navigation {
            variables,
            end: way.end,
            offset: way.offset,
            shift: way.shift,
        };
        if let SqlExpr::Function(function) = read
            && let Some(name @ ("classifier" | "match_number")) = function_name(function).as_deref()
        {
            let args = plain_args(function).unwrap_or_default();
            if name == "match_number" && args.is_empty() && way == Way::HERE {
                let column = values.column(value(MatchValueKind::MatchNumber, DataType::Int64));
                return Ok(values.slot(column, DataType::Int64));
            }
            let variables = match args[..] {
                _ if name == "match_number" => None,
                [] => Some(self.names.all()),
                [SqlExpr::Identifier(ident)] => Some(self.names.find(ident)?.to_vec()),
                _ => None,
            };
            let Some(variables) = variables else {
                let message = format!("{} does not take these arguments", name.to_uppercase());
                let hint = "Write MATCH_NUMBER(), CLASSIFIER() or CLASSIFIER(variable).";
                return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of(whole)));
            };
            let column = values.column(value(MatchValueKind::Classifier(go(variables)), DataType::Utf8));
            return Ok(values.slot(column, DataType::Utf8));
        }
        let (row, variables) = self.of_one_variable(read)?;
        let Some(variables) = variables else {
            let message = "this reads no column of a row";
            let hint = "FIRST, LAST, PREV and NEXT take a column of a variable, such as A.price.";
            return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of(whole)));
        };
        let schema = self.input.schema().clone();
        let planned = self.context.sql_to_expr(row, &schema)?;
        let column = self.columns.of(&planned);
        let data_type = self.row_type(planned)?;
        let column = values.column(value(MatchValueKind::Column(go(variables), column), data_type.clone()));
        Ok(values.slot(column, data_type))
    }

    /// The type of an expression over a row of the table, as the projection that computes it will have it.
    fn row_type(&self, expr: Expr) -> Result<DataType> {
        let plan = LogicalPlan::Projection(Projection::try_new(
            vec![expr.alias("c")],
            Arc::new(self.input.clone()),
        )?);
        Ok(postgres::typed(plan)?.schema().field(0).data_type().clone())
    }

    /// An expression without the names of variables, and which variables' rows it is about.
    fn of_one_variable(&self, expr: &SqlExpr) -> Result<(SqlExpr, Option<Vec<usize>>)> {
        let mut expr = expr.clone();
        let mut stripper = Stripper { names: self.names, found: None };
        settled(crate::visit::walk_mut(&mut expr, &mut stripper))?;
        Ok((expr, stripper.found))
    }

    fn aggregate(
        &mut self,
        whole: &SqlExpr,
        function: &Function,
        scope: Scope,
        values: &mut Values,
    ) -> Result<SqlExpr> {
        let mut function = function.clone();
        let mut variables = None;
        let FunctionArguments::List(list) = &mut function.args else {
            return Err(wrong(
                SqlState::SYNTAX_ERROR,
                "an aggregate needs its arguments",
                None,
                span_of(whole),
            ));
        };
        for arg in &mut list.args {
            if let FunctionArg::Unnamed(arg @ FunctionArgExpr::QualifiedWildcard(_)) = arg {
                let FunctionArgExpr::QualifiedWildcard(name) = &*arg else {
                    unreachable!("as it was matched")
                };
                let [ObjectNamePart::Identifier(name)] = &name.0[..] else { continue };
                variables = Some(self.names.find(name)?.to_vec());
                *arg = FunctionArgExpr::Wildcard;
            }
        }
        let (stripped, found) = self.of_one_variable(&SqlExpr::Function(function))?;
        let variables = variables.or(found).unwrap_or_else(|| self.names.all());
        let schema = self.input.schema().clone();
        let call = self.context.sql_to_expr(stripped, &schema)?;
        let plan = LogicalPlanBuilder::from(self.input.clone())
            .aggregate(Vec::<Expr>::new(), vec![call.alias("c")])?
            .build()?;
        let plan = postgres::analyzed(plan, self.text)?;
        // An average of exact numbers is a quotient of two aggregates.
        let (expr, aggregate) = match plan {
            LogicalPlan::Aggregate(aggregate) => (None, aggregate),
            LogicalPlan::Projection(projection) => match projection.input.as_ref() {
                LogicalPlan::Aggregate(aggregate) => {
                    (Some(projection.expr[0].clone().unalias_nested().data), aggregate.clone())
                }
                _ => return Err(unknown_aggregate(whole)),
            },
            _ => return Err(unknown_aggregate(whole)),
        };
        let mut columns: Vec<(String, Expr)> = Vec::new();
        for (idx, call) in aggregate.aggr_expr.iter().enumerate() {
            let Expr::AggregateFunction(call) = call.clone().unalias_nested().data else {
                return Err(unknown_aggregate(whole));
            };
            let field = aggregate.schema.field(idx).clone();
            let kind = MatchValueKind::Aggregate(self.match_aggregate(
                whole,
                call,
                variables.clone(),
                field.clone(),
            )?);
            let data_type = field.data_type().clone();
            // What tells quotients' parts apart in EXPLAIN.
            let display = match aggregate.aggr_expr.len() {
                1 => whole.to_string(),
                _ => format!("{whole}.{idx}"),
            };
            let value = MatchValue { kind, is_final: scope.is_final, data_type, display };
            columns.push((field.name().clone(), values.column(value)));
        }
        let Some(expr) = expr else {
            let data_type = aggregate.schema.field(0).data_type().clone();
            return Ok(values.slot(columns.remove(0).1, data_type));
        };
        let data_type = expr.get_type(aggregate.schema.as_ref())?;
        let expr = expr
            .transform(|expr| match &expr {
                Expr::Column(column) => {
                    let found = columns.iter().find(|(name, _)| *name == column.name);
                    let (_, value) = found.ok_or_else(|| unknown_aggregate(whole))?;
                    Ok(Transformed::new(value.clone(), true, TreeNodeRecursion::Jump))
                }
                _ => Ok(Transformed::no(expr)),
            })
            .data()?;
        Ok(values.slot(expr, data_type))
    }

    fn match_aggregate(
        &mut self,
        whole: &SqlExpr,
        call: AggregateFunction,
        variables: Vec<usize>,
        return_field: datafusion::arrow::datatypes::FieldRef,
    ) -> Result<MatchAggregate> {
        let params = call.params;
        if !params.order_by.is_empty() {
            return Err(wrong(
                SqlState::FEATURE_NOT_SUPPORTED,
                "ORDER BY within an aggregate of MATCH_RECOGNIZE is not supported",
                Some("Its rows come in the order of the match."),
                span_of(whole),
            ));
        }
        let mut arg = |arg: Expr| match arg.unalias() {
            Expr::Literal(value, _) => WindowArg::Constant(value),
            expr => WindowArg::Column(self.columns.of(&expr)),
        };
        let args = params.args.into_iter().map(&mut arg).collect();
        let filter = params.filter.map(|filter| self.columns.of(&filter));
        Ok(MatchAggregate {
            function: call.func,
            args,
            filter,
            distinct: params.distinct,
            ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
            variables,
            return_field,
        })
    }
}

fn unknown_aggregate(whole: &SqlExpr) -> DataFusionError {
    wrong(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("{whole} is not supported in MATCH_RECOGNIZE"),
        Some("Collect the values, and aggregate them over the result."),
        span_of(whole),
    )
}

/// How a row is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    end: NavigationEnd,
    offset: usize,
    shift: i64,
}

impl Way {
    const HERE: Way = Way { end: NavigationEnd::Last, offset: 0, shift: 0 };
}

/// How an expression is read.
#[derive(Debug, Clone, Copy)]
struct Scope {
    clause: Clause,
    is_final: bool,
}

/// Takes out of an expression what reads the match.
struct Taker<'t, 'a, 'c> {
    binder: &'t mut Binder<'a, 'c>,
    clause: Clause,
    values: &'t mut Values,
}

impl VisitorMut for Taker<'_, '_, '_> {
    type Break = DataFusionError;

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<DataFusionError> {
        if let SqlExpr::Identifier(ident) = expr
            && ident.quote_style == Some('"')
            && ident.value.starts_with("__slot")
        {
            return ControlFlow::Continue(());
        }
        let scope =
            Scope { clause: self.clause, is_final: self.clause == Clause::Measures { is_one_row: true } };
        match self.binder.take(expr, scope, self.values) {
            Ok(Some(taken)) => {
                *expr = taken;
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// Takes the names of variables off columns, and notes which they were.
struct Stripper<'a> {
    names: &'a Names,
    found: Option<Vec<usize>>,
}

impl Stripper<'_> {
    fn note(&mut self, variables: Vec<usize>, expr: &SqlExpr) -> Result<()> {
        match &self.found {
            Some(found) if *found != variables => Err(wrong(
                SqlState::SYNTAX_ERROR,
                "an expression about one row cannot read the rows of several variables",
                Some(
                    "Use one variable within FIRST, LAST, PREV, NEXT or an aggregate; name a union of several with SUBSET.",
                ),
                span_of(expr),
            )),
            _ => {
                self.found = Some(variables);
                Ok(())
            }
        }
    }
}

impl VisitorMut for Stripper<'_> {
    type Break = DataFusionError;

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<DataFusionError> {
        let step = (|| -> Result<()> {
            match &*expr {
                SqlExpr::Identifier(_) => self.note(self.names.all(), expr),
                SqlExpr::CompoundIdentifier(parts) => {
                    let [variable, column] = &parts[..] else {
                        let message = format!("\"{expr}\" is not a column of a variable");
                        let hint = "Write variable.column; what is inside of a column, as (A.x).y.";
                        return Err(wrong(SqlState::SYNTAX_ERROR, message, Some(hint), span_of(expr)));
                    };
                    let variables = self.names.find(variable)?.to_vec();
                    self.note(variables, expr)?;
                    *expr = SqlExpr::Identifier(column.clone());
                    Ok(())
                }
                SqlExpr::Function(function) => match function_name(function).as_deref() {
                    Some("first" | "last" | "prev" | "next" | "classifier" | "match_number") => Err(wrong(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        format!("{expr} within an aggregate, FIRST, LAST, PREV or NEXT is not supported"),
                        Some("PREV and NEXT may be around FIRST and LAST; otherwise use them side by side."),
                        span_of(expr),
                    )),
                    _ => Ok(()),
                },
                SqlExpr::Subquery(_) | SqlExpr::Exists { .. } | SqlExpr::InSubquery { .. } => Err(wrong(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "a subquery in DEFINE or MEASURES is not supported",
                    Some("Join its result to the table first."),
                    span_of(expr),
                )),
                _ => Ok(()),
            }
        })();
        match step {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn has_subquery(expr: &SqlExpr) -> bool {
    match expr {
        SqlExpr::AnyOp { right, .. } | SqlExpr::AllOp { right, .. } => {
            matches!(right.as_ref(), SqlExpr::Subquery(_))
        }
        _ => true,
    }
}

fn function_name(function: &Function) -> Option<String> {
    match &function.name.0[..] {
        [ObjectNamePart::Identifier(name)] => Some(name.value.to_lowercase()),
        _ => None,
    }
}

/// The name of a function that goes from row to row.
fn navigation_name(function: &Function) -> Option<String> {
    function_name(function).filter(|name| matches!(name.as_str(), "first" | "last" | "prev" | "next"))
}

fn plain_args(function: &Function) -> Option<Vec<&SqlExpr>> {
    let list = match &function.args {
        FunctionArguments::List(list) => list,
        FunctionArguments::None => return Some(Vec::new()),
        FunctionArguments::Subquery(_) => return None,
    };
    let plain = |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
    if !list.args.iter().all(plain) || !list.clauses.is_empty() || list.duplicate_treatment.is_some() {
        return None;
    }
    let expr = |arg| match arg {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => expr,
        _ => unreachable!("all are expressions"),
    };
    Some(list.args.iter().map(expr).collect())
}

/// A whole number that is not negative, with whatever casts PostgreSQL's types have put around it.
fn literal_number(expr: &SqlExpr) -> Option<i64> {
    match expr {
        SqlExpr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse::<u32>().ok().map(i64::from),
            _ => None,
        },
        SqlExpr::Cast { expr, .. } | SqlExpr::Nested(expr) => literal_number(expr),
        _ => None,
    }
}
