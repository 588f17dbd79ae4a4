//! `MATCH_RECOGNIZE` in FROM: from the parsed clause to a plan.
//!
//! ```text
//! Projection         measures, computed of what is read of a match
//!   MatchRecognize   columns passed on, and a column for each thing that is read
//!     Projection     the columns that the clause uses, and what is computed of a row alone
//!       the table
//! ```
//!
//! Everything that needs only one row is computed below, everything that needs only one row of the output above; what
//! stays in the middle is what the pattern is about. DEFINE's conditions stay there, too, typed and checked
//! here as DataFusion's analyzer would.

mod bind;
mod pattern;

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::{DFSchema, DataFusionError, Diagnostic, Result, Span};
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, Projection};
use datafusion::sql::sqlparser::ast::{
    AfterMatchSkip, EmptyMatchesMode, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, MatchRecognizePattern, Measure, ObjectNamePart, OrderByExpr, RowsPerMatch, Spanned,
    SymbolDefinition, TableFactor,
};
use tidemill_core::SqlState;
use tidemill_plan::{
    EmptyMatches, IncrementalNode, MatchRecognize, Operator, OrderColumn, Shown, Skip, Variable, Within,
};

use self::bind::{Binder, Clause, Values, value};
use self::pattern::{Names, bind_pattern};
use crate::error::Error;
use crate::parser::row_pattern::{SUBSET, WITHIN};
use crate::postgres::TextFormat;

/// Plans the table factor that DataFusion does not.
#[derive(Debug)]
pub(crate) struct MatchRecognizeRelations {
    pub text: Arc<dyn TextFormat>,
}

impl RelationPlanner for MatchRecognizeRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::MatchRecognize {
            table,
            partition_by,
            order_by,
            measures,
            rows_per_match,
            after_match_skip,
            pattern,
            symbols,
            alias,
        } = relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let parsed =
            Parsed { partition_by, order_by, measures, rows_per_match, after_match_skip, pattern, symbols };
        let input = context.plan(*table)?;
        let plan = parsed.plan(input, context, &self.text)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation { plan, alias })))
    }
}

/// The clause as it was parsed.
struct Parsed {
    partition_by: Vec<SqlExpr>,
    order_by: Vec<OrderByExpr>,
    measures: Vec<Measure>,
    rows_per_match: Option<RowsPerMatch>,
    after_match_skip: Option<AfterMatchSkip>,
    pattern: MatchRecognizePattern,
    symbols: Vec<SymbolDefinition>,
}

/// DEFINE, and what the parser has put into it.
#[derive(Default)]
struct Definitions {
    within: Option<SqlExpr>,
    subsets: Vec<(Ident, Vec<Ident>)>,
    conditions: Vec<(Ident, SqlExpr)>,
}

impl Parsed {
    fn plan(
        self,
        input: LogicalPlan,
        context: &mut dyn RelationPlannerContext,
        text: &Arc<dyn TextFormat>,
    ) -> Result<LogicalPlan> {
        let definitions = definitions(self.symbols)?;
        let mut names = Names::default();
        let pattern = bind_pattern(&self.pattern, &mut names)?;
        let n_variables = names.len();
        for (name, members) in &definitions.subsets {
            names.add_subset(name, members)?;
        }
        let shown = match &self.rows_per_match {
            None | Some(RowsPerMatch::OneRow) => Shown::One,
            Some(RowsPerMatch::AllRows(None | Some(EmptyMatchesMode::Show))) => {
                Shown::All(EmptyMatches::Show)
            }
            Some(RowsPerMatch::AllRows(Some(EmptyMatchesMode::Omit))) => Shown::All(EmptyMatches::Omit),
            Some(RowsPerMatch::AllRows(Some(EmptyMatchesMode::WithUnmatched))) => {
                Shown::All(EmptyMatches::WithUnmatchedRows)
            }
        };
        let mut is_excluding = false;
        pattern.visit_rows(&mut |_, is_excluded| is_excluding |= is_excluded);
        if is_excluding && shown == Shown::All(EmptyMatches::WithUnmatchedRows) {
            return Err(wrong(
                SqlState::SYNTAX_ERROR,
                "a pattern with {- … -} cannot be shown WITH UNMATCHED ROWS",
                Some("Write ALL ROWS PER MATCH without WITH UNMATCHED ROWS, or take out {- and -}."),
                None,
            ));
        }
        let skip = skip(self.after_match_skip.as_ref(), &names)?;
        if let Skip::ToFirst(variables) = &skip {
            let first = pattern.first_variables();
            if !first.is_empty() && first.iter().all(|variable| variables.contains(variable)) {
                return Err(wrong(
                    SqlState::SKIP_TO_FIRST_ROW_OF_MATCH,
                    "AFTER MATCH SKIP TO FIRST goes to the first row of every match, and would find the same again for ever",
                    Some(
                        "Skip to a variable that does not begin the match, or write AFTER MATCH SKIP TO NEXT ROW.",
                    ),
                    None,
                ));
            }
        }

        let schema = input.schema().clone();
        // What is shown of a row comes first.
        let mut columns = Columns::default();
        let mut partition = Vec::new();
        for expr in &self.partition_by {
            let bound = context.sql_to_expr(expr.clone(), &schema)?;
            let Expr::Column(_) = bound else {
                return Err(wrong(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "PARTITION BY of an expression is not supported in MATCH_RECOGNIZE",
                    Some(
                        "Compute it in a subquery: FROM (SELECT *, … AS key FROM t) MATCH_RECOGNIZE (PARTITION BY key …).",
                    ),
                    span_of(expr),
                ));
            };
            if shown == Shown::One {
                partition.push(columns.of(&bound));
            } else {
                partition.push(schema.index_of_column(bound.try_as_col().expect("it is a column"))?);
            }
        }
        if shown != Shown::One {
            schema.columns().into_iter().for_each(|column| _ = columns.of(&Expr::Column(column)));
        }
        let n_passed = columns.exprs.len();
        let mut order_columns = Vec::new();
        for order in &self.order_by {
            let bound = context.sql_to_expr(order.expr.clone(), &schema)?;
            let descending = order.options.asc == Some(false);
            let nulls_first = order.options.nulls_first.unwrap_or(descending);
            order_columns.push(OrderColumn { column: columns.of(&bound), descending, nulls_first });
        }

        let mut binder = Binder {
            names: &names,
            input: &input,
            columns: &mut columns,
            context,
            text,
            outputs: Vec::new(),
        };
        let (condition_values, condition_schema, conditions) = binder.define(&definitions.conditions)?;
        let mut measures = Values::default();
        for measure in &self.measures {
            let clause = Clause::Measures { is_one_row: shown == Shown::One };
            let expr = binder.measure(&measure.expr, clause, &mut measures)?;
            let name = binder.context.normalize_ident(measure.alias.clone());
            binder.outputs.push((name, expr, span_of(&measure.expr)));
        }
        let outputs = std::mem::take(&mut binder.outputs);
        let measures = measures.finish();
        let within = definitions.within.map(|within| binder.within(&within)).transpose()?;
        let variables: Vec<Variable> = names
            .variables(n_variables)
            .into_iter()
            .zip(conditions)
            .map(|(name, condition)| Variable { name, condition })
            .collect();

        let node = MatchRecognize {
            passed: (0..n_passed).collect(),
            partition,
            order_by: order_columns,
            variables,
            pattern,
            condition_values,
            condition_schema,
            measures,
            shown,
            skip,
            within: within.map(|micros| Within { micros }),
            sources: Vec::new(),
            is_closing: false,
        };
        tidemill_pattern::check(&node).map_err(DataFusionError::from)?;
        let below = columns.project(input)?;
        if node.within.is_some() {
            check_within(&node, below.schema())?;
        }
        matched(node, below, outputs)
    }
}

/// The clause's node over `input`, and the measures over that.
fn matched(
    node: MatchRecognize,
    input: LogicalPlan,
    outputs: Vec<(String, Expr, Option<Span>)>,
) -> Result<LogicalPlan> {
    let mut fields: Vec<_> =
        node.passed.iter().map(|idx| input.schema().field(*idx).as_ref().clone()).collect();
    let mut exprs: Vec<Expr> = fields
        .iter()
        .map(|field| Expr::Column(datafusion::common::Column::from_name(field.name())))
        .collect();
    for (idx, measure) in node.measures.iter().enumerate() {
        fields.push(datafusion::arrow::datatypes::Field::new(value(idx), measure.data_type.clone(), true));
    }
    let mut names: Vec<String> =
        fields[..node.passed.len()].iter().map(|field| field.name().clone()).collect();
    for (name, expr, span) in outputs {
        if names.contains(&name) {
            return Err(wrong(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{name}\" specified more than once"),
                Some("A measure's name has to differ from those of the other columns of the result."),
                span,
            ));
        }
        exprs.push(expr.alias(&name));
        names.push(name);
    }
    let fields: Vec<_> = fields.into_iter().map(Arc::new).collect();
    let schema = Arc::new(DFSchema::from_unqualified_fields(fields.into(), Default::default())?);
    let node =
        IncrementalNode { operator: Operator::MatchRecognize(Box::new(node)), inputs: vec![input], schema };
    let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// What the operator reads of a row, each computed once.
#[derive(Default)]
struct Columns {
    exprs: Vec<Expr>,
}

impl Columns {
    /// The position of an expression's value.
    fn of(&mut self, expr: &Expr) -> usize {
        if let Some(idx) = self.exprs.iter().position(|known| known == expr) {
            return idx;
        }
        self.exprs.push(expr.clone());
        self.exprs.len() - 1
    }

    fn project(self, input: LogicalPlan) -> Result<LogicalPlan> {
        let mut names: Vec<String> = Vec::new();
        let named = |(idx, expr): (usize, Expr)| {
            let name = match &expr {
                Expr::Column(column) if !names.contains(&column.name) => column.name.clone(),
                other => format!("{}#{idx}", other.schema_name()),
            };
            names.push(name.clone());
            expr.alias(name)
        };
        let exprs = self.exprs.into_iter().enumerate().map(named).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
    }
}

fn definitions(symbols: Vec<SymbolDefinition>) -> Result<Definitions> {
    let mut definitions = Definitions::default();
    for SymbolDefinition { symbol, definition } in symbols {
        if symbol.value == WITHIN && symbol.quote_style.is_some() {
            definitions.within = Some(definition);
            continue;
        }
        match subset(&definition) {
            Some(members) => definitions.subsets.push((symbol, members)),
            None => definitions.conditions.push((symbol, definition)),
        }
    }
    Ok(definitions)
}

/// The members, if a definition is that of a SUBSET.
fn subset(definition: &SqlExpr) -> Option<Vec<Ident>> {
    let SqlExpr::Function(function) = definition else { return None };
    let [ObjectNamePart::Identifier(name)] = &function.name.0[..] else { return None };
    let (true, FunctionArguments::List(list)) = (name.value == SUBSET, &function.args) else { return None };
    let member = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Identifier(ident))) => Some(ident.clone()),
        _ => None,
    };
    list.args.iter().map(member).collect()
}

fn skip(skip: Option<&AfterMatchSkip>, names: &Names) -> Result<Skip> {
    Ok(match skip {
        None | Some(AfterMatchSkip::PastLastRow) => Skip::PastLastRow,
        Some(AfterMatchSkip::ToNextRow) => Skip::ToNextRow,
        Some(AfterMatchSkip::ToFirst(name)) => Skip::ToFirst(names.find(name)?.to_vec()),
        Some(AfterMatchSkip::ToLast(name)) => Skip::ToLast(names.find(name)?.to_vec()),
    })
}

fn check_within(node: &MatchRecognize, input: &DFSchema) -> Result<()> {
    let is_time = node.order_by.first().is_some_and(|order| {
        let data_type = input.field(order.column).data_type();
        !order.descending && matches!(data_type, datafusion::arrow::datatypes::DataType::Timestamp(_, _))
    });
    match is_time {
        true => Ok(()),
        false => Err(wrong(
            SqlState::DATATYPE_MISMATCH,
            "WITHIN needs a timestamp to measure: the first column of ORDER BY, ascending",
            Some("Write ORDER BY ts, or take out WITHIN."),
            None,
        )),
    }
}

/// An error about a part of the query.
fn wrong(
    sqlstate: SqlState,
    message: impl Into<String>,
    hint: Option<&str>,
    span: Option<Span>,
) -> DataFusionError {
    let message = message.into();
    let error = Error::new(sqlstate, message.clone()).with_hint_opt(hint.map(str::to_owned));
    let error = DataFusionError::External(Box::new(error));
    match span {
        Some(span) => error.with_diagnostic(Diagnostic::new_error(message, Some(span))),
        None => error,
    }
}

fn span_of(node: &impl Spanned) -> Option<Span> {
    Span::try_from_sqlparser_span(node.span())
}

fn span_of_name(name: &Ident) -> Option<Span> {
    Span::try_from_sqlparser_span(name.span)
}

/// Turns a visitor's end into a result.
fn settled(flow: ControlFlow<DataFusionError>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}
