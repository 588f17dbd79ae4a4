//! `WINDOW w AS (…)`, written out where it is used.
//!
//! DataFusion knows `OVER w` in the select list alone, and takes `OVER (w ORDER BY …)` for `OVER (ORDER BY …)`: without
//! the partition, and without a word.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, Query, Select, SetExpr, VisitorMut, WindowSpec,
    WindowType,
};
use tidemill_core::SqlState;

use crate::refusal::Refusal;

/// Replaces the names of windows in a query and its subqueries.
pub(crate) fn rewrite_named_windows(query: &mut Query) -> Result<(), Refusal> {
    struct Queries;
    impl VisitorMut for Queries {
        type Break = Refusal;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
            let Query { body, order_by, .. } = query;
            if let SetExpr::Select(select) = body.as_mut() {
                let mut names = Names::of(select)?;
                crate::visit::walk_mut(order_by, &mut names)?;
                return names.write_out(select);
            }
            selects(body, &mut |select| Names::of(select)?.write_out(select))
        }
    }
    match crate::visit::walk_mut(query, &mut Queries) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Calls `each` for the SELECTs of a set operation; parenthesised ones are queries of their own.
fn selects(
    body: &mut SetExpr,
    each: &mut dyn FnMut(&mut Select) -> ControlFlow<Refusal>,
) -> ControlFlow<Refusal> {
    match body {
        SetExpr::Select(select) => each(select),
        SetExpr::SetOperation { left, right, .. } => {
            selects(left, each)?;
            selects(right, each)
        }
        _ => ControlFlow::Continue(()),
    }
}

/// The windows of one SELECT, each written out.
struct Names {
    windows: Vec<(String, WindowSpec)>,
    /// How many subqueries deep the visit is; they do not see these names.
    depth: usize,
}

impl Names {
    fn of(select: &mut Select) -> ControlFlow<Refusal, Names> {
        let mut names = Names { windows: Vec::new(), depth: 0 };
        for NamedWindowDefinition(name, definition) in std::mem::take(&mut select.named_window) {
            let key = key(&name);
            if names.windows.iter().any(|(known, _)| *known == key) {
                return ControlFlow::Break(windowing(&name, format!("window \"{name}\" is already defined")));
            }
            let spec = match definition {
                NamedWindowExpr::NamedWindow(other) => names.find(&other)?.clone(),
                NamedWindowExpr::WindowSpec(mut spec) => {
                    names.extend(&mut spec)?;
                    spec
                }
            };
            names.windows.push((key, spec));
        }
        ControlFlow::Continue(names)
    }

    fn write_out(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        crate::visit::walk_mut(&mut select.projection, self)?;
        crate::visit::walk_mut(&mut select.distinct, self)?;
        crate::visit::walk_mut(&mut select.qualify, self)
    }

    fn find(&self, name: &Ident) -> ControlFlow<Refusal, &WindowSpec> {
        let key = key(name);
        match self.windows.iter().find(|(known, _)| *known == key) {
            Some((_, spec)) => ControlFlow::Continue(spec),
            None => ControlFlow::Break(Refusal {
                sqlstate: SqlState::UNDEFINED_OBJECT,
                message: format!("window \"{name}\" does not exist"),
                hint: Some(format!("Define it behind the query's conditions: WINDOW {name} AS (…).")),
                near: Some(name.value.clone()),
            }),
        }
    }

    /// Adds to `(w …)` what `w` says.
    fn extend(&self, spec: &mut WindowSpec) -> ControlFlow<Refusal> {
        let Some(name) = spec.window_name.take() else { return ControlFlow::Continue(()) };
        let base = self.find(&name)?;
        let cannot =
            |what: &str| ControlFlow::Break(windowing(&name, format!("cannot {what} window \"{name}\"")));
        if !spec.partition_by.is_empty() {
            return cannot("override PARTITION BY clause of");
        }
        if !spec.order_by.is_empty() && !base.order_by.is_empty() {
            return cannot("override ORDER BY clause of");
        }
        if base.window_frame.is_some() {
            return ControlFlow::Break(windowing(
                &name,
                format!("cannot copy window \"{name}\" because it has a frame clause"),
            ));
        }
        spec.partition_by = base.partition_by.clone();
        if spec.order_by.is_empty() {
            spec.order_by = base.order_by.clone();
        }
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Names {
    type Break = Refusal;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        match &mut function.over {
            Some(WindowType::NamedWindow(name)) => {
                let spec = self.find(name)?.clone();
                function.over = Some(WindowType::WindowSpec(spec));
                ControlFlow::Continue(())
            }
            Some(WindowType::WindowSpec(spec)) => self.extend(spec),
            None => ControlFlow::Continue(()),
        }
    }
}

fn key(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

fn windowing(name: &Ident, message: String) -> Refusal {
    Refusal {
        sqlstate: SqlState::WINDOWING,
        message,
        hint: Some("Write the window out: OVER (PARTITION BY … ORDER BY …).".into()),
        near: Some(name.value.clone()),
    }
}
