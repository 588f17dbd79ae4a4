//! What PostgreSQL means where DataFusion means something else.
//!
//! A query passes three places on its way, in this order, whether it is a SELECT or a pipeline's:
//!
//! 1. [`syntax`] rewrites the parsed query: forms that DataFusion does not plan, and what has to be decided while
//!    it is still known how something was written (a number is `integer` when it fits).
//! 2. [`operators`] and [`types`] plan operators and type names.
//! 3. [`semantics`] are analyzer rules around DataFusion's type coercion: arithmetic that is checked, casts that round
//!    and that read and write text as PostgreSQL does, comparison of intervals.
//!
//! What still differs is marked in `sqllogictest/postgres/`, from which `docs/reference/differences.md` is made.

mod arithmetic;
mod intervals;
mod numeric;
mod operators;
mod semantics;
mod set_functions;
mod syntax;
mod text;
mod types;

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, plan_err};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;

pub use syntax::{rewrite_expr, rewrite_query};
pub use text::{ArrowText, TextFormat};

pub(crate) use semantics::checked;
pub(crate) use syntax::{similar_to_regex, with_backslashes};

use semantics::{AfterCoercion, BeforeCoercion};

/// A session that plans as PostgreSQL means it.
pub fn configure(builder: SessionStateBuilder, text: Arc<dyn TextFormat>) -> SessionStateBuilder {
    builder.with_type_planner(Arc::new(types::PostgresTypes)).with_analyzer_rules(rules(text))
}

/// The planners of operators, which are asked before DataFusion's.
pub fn expr_planner() -> Arc<operators::PostgresOperators> {
    Arc::new(operators::PostgresOperators)
}

/// A planned query with the types that its results have in PostgreSQL.
///
/// It is a rule of the analyzer as well, but a query's columns are described before it is analyzed.
pub fn typed(plan: LogicalPlan) -> Result<LogicalPlan> {
    BeforeCoercion.analyze(plan, &ConfigOptions::default())
}

/// A plan with all types settled, as the analyzer leaves it.
pub(crate) fn analyzed(plan: LogicalPlan, text: &Arc<dyn TextFormat>) -> Result<LogicalPlan> {
    let options = ConfigOptions::default();
    rules(text.clone()).iter().try_fold(plan, |plan, rule| rule.analyze(plan, &options))
}

fn rules(text: Arc<dyn TextFormat>) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        Arc::new(ResolveGroupingFunction::new()),
        Arc::new(BeforeCoercion),
        Arc::new(TypeCoercion::new()),
        Arc::new(AfterCoercion::new(text)),
    ]
}

/// Functions that operators are planned as, and that have names of their own as well.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    [numeric::functions(), intervals::functions()].concat()
}

/// The exact type that an integer or exact type is computed in.
pub(crate) fn exact_type(data_type: &DataType) -> Option<DataType> {
    numeric::exact(data_type).map(|(precision, scale)| DataType::Decimal128(precision, scale))
}

pub(crate) use intervals::{INTERVAL, between, length as interval_length};

/// The names of the functions that give rows.
pub fn set_functions() -> impl Iterator<Item = &'static str> {
    set_functions::names()
}

/// The one type of both, where NULL has any.
fn common(left: &DataType, right: &DataType) -> Result<DataType> {
    match (left, right) {
        (DataType::Null, other) | (other, DataType::Null) => Ok(other.clone()),
        (left, right) if left == right => Ok(left.clone()),
        (left, right) => plan_err!("Cannot coerce arithmetic expression {left} + {right} to valid types"),
    }
}
