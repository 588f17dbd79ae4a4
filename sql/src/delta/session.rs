//! `SESSION(…)` in FROM, which is `session_start()` and `session_end()` over one window.

use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, Window, WindowFunctionDefinition};
use tidemill_plan::{CloseSource, Operator, Session, SessionBound};

use super::columns::{Columns, incremental, with_weight};
use super::properties::{closes_of, literal_micros};
use super::{Node, Result, Rewriter};
use crate::refusal::Refusal;

/// The bounds that a window node computes, if it computes nothing else and all for the same sessions.
pub(super) fn session_bounds(window: &Window) -> Option<(Vec<SessionBound>, &WindowFunction)> {
    let mut bounds = Vec::new();
    let mut first: Option<&WindowFunction> = None;
    for expr in &window.window_expr {
        let function = match expr {
            Expr::WindowFunction(function) => function,
            Expr::Alias(alias) => match alias.expr.as_ref() {
                Expr::WindowFunction(function) => function,
                _ => return None,
            },
            _ => return None,
        };
        let WindowFunctionDefinition::WindowUDF(udf) = &function.fun else { return None };
        bounds.push(match udf.name() {
            "session_start" => SessionBound::Start,
            "session_end" => SessionBound::End,
            _ => return None,
        });
        let of =
            |function: &WindowFunction| (function.params.args.clone(), function.params.partition_by.clone());
        if first.is_some_and(|first| of(first) != of(function)) {
            return None;
        }
        first.get_or_insert(function);
    }
    Some((bounds, first?))
}

impl Rewriter {
    pub(super) fn session(
        &mut self,
        window: &Window,
        bounds: Vec<SessionBound>,
        function: &WindowFunction,
    ) -> Result<Node> {
        let [time, gap] = &function.params.args[..] else {
            return Err(super::internal("a session has a time and a gap"));
        };
        let gap = literal_micros(gap).filter(|gap| *gap > 0).ok_or_else(|| {
            Refusal::not_incremental("sessions whose gap is no positive constant of days or less")
                .with_hint("Write the gap as an interval, such as INTERVAL '30 minutes'.")
                .near("session")
        })?;
        let node = self.rewrite(&window.input, None)?;
        let schema = window.input.schema();
        let n_columns = schema.fields().len();
        // A session that ends at v has its last row before v, and any row before v could make it a longer one.
        let ends: Vec<CloseSource> = closes_of(time, schema, &node.properties)
            .into_iter()
            .map(|source| CloseSource { delay: source.delay - 1, ..source })
            .collect();
        let mut columns = Columns::all(schema);
        let partition: Vec<usize> =
            function.params.partition_by.iter().map(|expr| columns.of(expr)).collect();
        let time = columns.of(time);
        let projected = columns.project(node.plan)?;
        let emit = self.upkeep.emit;
        let close = (emit.forgets_closed() && !ends.is_empty()).then(|| ends.clone());
        let is_early = close.is_some() && !emit.waits_for_close();
        let ttl = self.ttl_of(&window.input, &projected)?.filter(|_| close.is_none());
        let projected = Self::expire(projected, ttl, &partition);
        let mut properties = node.properties;
        properties.is_append_only = close.is_some() && !is_early;
        properties.closes = vec![Vec::new(); n_columns];
        for bound in &bounds {
            properties.closes.push(match bound {
                SessionBound::Start => Vec::new(),
                SessionBound::End if ttl.is_some() => Vec::new(),
                SessionBound::End => ends.clone(),
            });
        }
        self.n_closed += usize::from(close.is_some());
        let operator =
            Operator::Session(Session { n_columns, partition, time, gap, bounds, close, is_early });
        let plan = incremental(operator, projected, with_weight(&window.schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}
