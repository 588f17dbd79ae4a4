//! Window functions.

use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, Window, WindowFunctionDefinition};
use tidemill_plan::{Operator, TopN};

use super::columns::{Columns, incremental, with_weight};
use super::session::session_bounds;
use super::top_n::RankBound;
use super::{DeltaError, Node, Result, Rewriter, internal};
use crate::refusal::Refusal;

impl Rewriter {
    /// `row_number() OVER (PARTITION BY … ORDER BY …)` under a bound on it.
    pub(super) fn window(&mut self, window: &Window, bound: Option<RankBound>) -> Result<Node> {
        if let Some((bounds, function)) = session_bounds(window) {
            return self.session(window, bounds, function);
        }
        let [expr] = &window.window_expr[..] else {
            return Err(Refusal::not_incremental("several window functions in one SELECT")
                .near("over")
                .into());
        };
        let function = match expr {
            Expr::WindowFunction(function) => function,
            Expr::Alias(alias) => match alias.expr.as_ref() {
                Expr::WindowFunction(function) => function,
                _ => return Err(internal("a window expression is a window function")),
            },
            _ => return Err(internal("a window expression is a window function")),
        };
        let n_columns = window.input.schema().fields().len();
        let is_row_number =
            matches!(&function.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "row_number");
        let bound = bound.filter(|bound| bound.column == n_columns && is_row_number);
        let Some(bound) = bound else {
            return Err(refuse_window(function));
        };
        let node = self.rewrite(&window.input, None)?;
        let mut columns = Columns::all(window.input.schema());
        let partition: Vec<usize> =
            function.params.partition_by.iter().map(|expr| columns.of(expr)).collect();
        let order_by = columns.order_by(&function.params.order_by);
        let projected = columns.project(node.plan)?;
        let mut properties = node.properties;
        properties.is_append_only = false;
        // Computed partition columns are not in the output; only plain ones make a key.
        if partition.iter().all(|column| *column < n_columns) {
            let mut key = partition.clone();
            if bound.limit <= 1 {
                properties.unique_keys.push(key.clone());
            }
            key.push(n_columns);
            properties.unique_keys.push(key);
        }
        properties.closes.push(Vec::new());
        let operator =
            Operator::TopN(TopN { partition, order_by, offset: 0, limit: bound.limit, rank: true });
        let plan = incremental(operator, projected, with_weight(&window.schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}

fn refuse_window(function: &WindowFunction) -> DeltaError {
    let name = function.fun.name();
    let refusal = if name == "row_number" {
        Refusal::not_incremental("row_number() without an upper bound")
            .with_hint("Bound it: SELECT … FROM (SELECT …, row_number() OVER (…) AS n FROM …) WHERE n <= 10.")
    } else {
        Refusal::not_incremental(format!("the window function {name}()"))
    };
    refusal.near("over").into()
}
