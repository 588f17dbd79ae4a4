//! Walks over syntax trees that are compiled once.
//!
//! `sqlparser`'s own are compiled anew for each visitor, some five hundred functions every time; with thirty visitors that was a tenth of
//! the program and minutes of its compilation. These take a visitor by reference.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, ObjectName, OrderBy, Query, Select, SelectItem, Statement, TableFactor, ValueWithSpan,
    Visit, VisitMut, Visitor, VisitorMut,
};

/// A part of a syntax tree.
pub trait Node {
    /// Lets a visitor see all of it.
    fn accept(&self, visitor: &mut AnyVisitor<'_>) -> ControlFlow<()>;
    /// Lets a visitor change all of it.
    fn accept_mut(&mut self, visitor: &mut AnyVisitorMut<'_>) -> ControlFlow<()>;
}

macro_rules! nodes {
    ($($node:ty),*) => {$(
        impl Node for $node {
            fn accept(&self, visitor: &mut AnyVisitor<'_>) -> ControlFlow<()> {
                Visit::visit(self, visitor)
            }

            fn accept_mut(&mut self, visitor: &mut AnyVisitorMut<'_>) -> ControlFlow<()> {
                VisitMut::visit(self, visitor)
            }
        }
    )*};
}

nodes!(Query, Select, Expr, Statement, Vec<SelectItem>, Option<Distinct>, Option<Expr>, Option<OrderBy>);

/// Lets a visitor see all of a tree, or stop.
pub fn walk<V: Visitor>(node: &impl Node, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut stopping = Stopping { visitor, stopped: None };
    let _ = node.accept(&mut AnyVisitor(&mut stopping));
    stopping.stopped.map_or(ControlFlow::Continue(()), ControlFlow::Break)
}

/// Lets a visitor change all of a tree, or stop.
pub fn walk_mut<V: VisitorMut>(node: &mut impl Node, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut stopping = StoppingMut { visitor, stopped: None };
    let _ = node.accept_mut(&mut AnyVisitorMut(&mut stopping));
    stopping.stopped.map_or(ControlFlow::Continue(()), ControlFlow::Break)
}

/// Any visitor.
pub struct AnyVisitor<'v>(&'v mut dyn Visitor<Break = ()>);

/// Any visitor that changes what it sees.
pub struct AnyVisitorMut<'v>(&'v mut dyn VisitorMut<Break = ()>);

/// Keeps what a visitor stopped with.
struct Stopping<'v, V: Visitor> {
    visitor: &'v mut V,
    stopped: Option<V::Break>,
}

struct StoppingMut<'v, V: VisitorMut> {
    visitor: &'v mut V,
    stopped: Option<V::Break>,
}

impl<V: Visitor> Stopping<'_, V> {
    fn note(&mut self, flow: ControlFlow<V::Break>) -> ControlFlow<()> {
        flow.map_break(|stopped| self.stopped = Some(stopped))
    }
}

impl<V: VisitorMut> StoppingMut<'_, V> {
    fn note(&mut self, flow: ControlFlow<V::Break>) -> ControlFlow<()> {
        flow.map_break(|stopped| self.stopped = Some(stopped))
    }
}

impl Visitor for AnyVisitor<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, node: &Query) -> ControlFlow<()> {
        self.0.pre_visit_query(node)
    }

    fn post_visit_query(&mut self, node: &Query) -> ControlFlow<()> {
        self.0.post_visit_query(node)
    }

    fn pre_visit_select(&mut self, node: &Select) -> ControlFlow<()> {
        self.0.pre_visit_select(node)
    }

    fn post_visit_select(&mut self, node: &Select) -> ControlFlow<()> {
        self.0.post_visit_select(node)
    }

    fn pre_visit_relation(&mut self, node: &ObjectName) -> ControlFlow<()> {
        self.0.pre_visit_relation(node)
    }

    fn post_visit_relation(&mut self, node: &ObjectName) -> ControlFlow<()> {
        self.0.post_visit_relation(node)
    }

    fn pre_visit_table_factor(&mut self, node: &TableFactor) -> ControlFlow<()> {
        self.0.pre_visit_table_factor(node)
    }

    fn post_visit_table_factor(&mut self, node: &TableFactor) -> ControlFlow<()> {
        self.0.post_visit_table_factor(node)
    }

    fn pre_visit_expr(&mut self, node: &Expr) -> ControlFlow<()> {
        self.0.pre_visit_expr(node)
    }

    fn post_visit_expr(&mut self, node: &Expr) -> ControlFlow<()> {
        self.0.post_visit_expr(node)
    }

    fn pre_visit_statement(&mut self, node: &Statement) -> ControlFlow<()> {
        self.0.pre_visit_statement(node)
    }

    fn post_visit_statement(&mut self, node: &Statement) -> ControlFlow<()> {
        self.0.post_visit_statement(node)
    }

    fn pre_visit_value(&mut self, node: &ValueWithSpan) -> ControlFlow<()> {
        self.0.pre_visit_value(node)
    }

    fn post_visit_value(&mut self, node: &ValueWithSpan) -> ControlFlow<()> {
        self.0.post_visit_value(node)
    }
}

impl VisitorMut for AnyVisitorMut<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, node: &mut Query) -> ControlFlow<()> {
        self.0.pre_visit_query(node)
    }

    fn post_visit_query(&mut self, node: &mut Query) -> ControlFlow<()> {
        self.0.post_visit_query(node)
    }

    fn pre_visit_select(&mut self, node: &mut Select) -> ControlFlow<()> {
        self.0.pre_visit_select(node)
    }

    fn post_visit_select(&mut self, node: &mut Select) -> ControlFlow<()> {
        self.0.post_visit_select(node)
    }

    fn pre_visit_relation(&mut self, node: &mut ObjectName) -> ControlFlow<()> {
        self.0.pre_visit_relation(node)
    }

    fn post_visit_relation(&mut self, node: &mut ObjectName) -> ControlFlow<()> {
        self.0.post_visit_relation(node)
    }

    fn pre_visit_table_factor(&mut self, node: &mut TableFactor) -> ControlFlow<()> {
        self.0.pre_visit_table_factor(node)
    }

    fn post_visit_table_factor(&mut self, node: &mut TableFactor) -> ControlFlow<()> {
        self.0.post_visit_table_factor(node)
    }

    fn pre_visit_expr(&mut self, node: &mut Expr) -> ControlFlow<()> {
        self.0.pre_visit_expr(node)
    }

    fn post_visit_expr(&mut self, node: &mut Expr) -> ControlFlow<()> {
        self.0.post_visit_expr(node)
    }

    fn pre_visit_statement(&mut self, node: &mut Statement) -> ControlFlow<()> {
        self.0.pre_visit_statement(node)
    }

    fn post_visit_statement(&mut self, node: &mut Statement) -> ControlFlow<()> {
        self.0.post_visit_statement(node)
    }

    fn pre_visit_value(&mut self, node: &mut ValueWithSpan) -> ControlFlow<()> {
        self.0.pre_visit_value(node)
    }

    fn post_visit_value(&mut self, node: &mut ValueWithSpan) -> ControlFlow<()> {
        self.0.post_visit_value(node)
    }
}

impl<V: Visitor> Visitor for Stopping<'_, V> {
    type Break = ();

    fn pre_visit_query(&mut self, node: &Query) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_query(node);
        self.note(flow)
    }

    fn post_visit_query(&mut self, node: &Query) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_query(node);
        self.note(flow)
    }

    fn pre_visit_select(&mut self, node: &Select) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_select(node);
        self.note(flow)
    }

    fn post_visit_select(&mut self, node: &Select) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_select(node);
        self.note(flow)
    }

    fn pre_visit_relation(&mut self, node: &ObjectName) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_relation(node);
        self.note(flow)
    }

    fn post_visit_relation(&mut self, node: &ObjectName) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_relation(node);
        self.note(flow)
    }

    fn pre_visit_table_factor(&mut self, node: &TableFactor) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_table_factor(node);
        self.note(flow)
    }

    fn post_visit_table_factor(&mut self, node: &TableFactor) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_table_factor(node);
        self.note(flow)
    }

    fn pre_visit_expr(&mut self, node: &Expr) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_expr(node);
        self.note(flow)
    }

    fn post_visit_expr(&mut self, node: &Expr) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_expr(node);
        self.note(flow)
    }

    fn pre_visit_statement(&mut self, node: &Statement) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_statement(node);
        self.note(flow)
    }

    fn post_visit_statement(&mut self, node: &Statement) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_statement(node);
        self.note(flow)
    }

    fn pre_visit_value(&mut self, node: &ValueWithSpan) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_value(node);
        self.note(flow)
    }

    fn post_visit_value(&mut self, node: &ValueWithSpan) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_value(node);
        self.note(flow)
    }
}

impl<V: VisitorMut> VisitorMut for StoppingMut<'_, V> {
    type Break = ();

    fn pre_visit_query(&mut self, node: &mut Query) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_query(node);
        self.note(flow)
    }

    fn post_visit_query(&mut self, node: &mut Query) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_query(node);
        self.note(flow)
    }

    fn pre_visit_select(&mut self, node: &mut Select) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_select(node);
        self.note(flow)
    }

    fn post_visit_select(&mut self, node: &mut Select) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_select(node);
        self.note(flow)
    }

    fn pre_visit_relation(&mut self, node: &mut ObjectName) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_relation(node);
        self.note(flow)
    }

    fn post_visit_relation(&mut self, node: &mut ObjectName) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_relation(node);
        self.note(flow)
    }

    fn pre_visit_table_factor(&mut self, node: &mut TableFactor) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_table_factor(node);
        self.note(flow)
    }

    fn post_visit_table_factor(&mut self, node: &mut TableFactor) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_table_factor(node);
        self.note(flow)
    }

    fn pre_visit_expr(&mut self, node: &mut Expr) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_expr(node);
        self.note(flow)
    }

    fn post_visit_expr(&mut self, node: &mut Expr) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_expr(node);
        self.note(flow)
    }

    fn pre_visit_statement(&mut self, node: &mut Statement) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_statement(node);
        self.note(flow)
    }

    fn post_visit_statement(&mut self, node: &mut Statement) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_statement(node);
        self.note(flow)
    }

    fn pre_visit_value(&mut self, node: &mut ValueWithSpan) -> ControlFlow<()> {
        let flow = self.visitor.pre_visit_value(node);
        self.note(flow)
    }

    fn post_visit_value(&mut self, node: &mut ValueWithSpan) -> ControlFlow<()> {
        let flow = self.visitor.post_visit_value(node);
        self.note(flow)
    }
}
