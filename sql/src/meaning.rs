//! Sub-plans that mean the same become the same.
//!
//! `(SELECT k, count(*) AS n FROM t AS a GROUP BY k)` and the same of `t AS b` differ in names only, which plans
//! are full of. Bottom up, each node gets the number of its meaning: what it does, with columns named by
//! their position, to inputs of which meanings. In the place of a node whose meaning has been there before stands that
//! first one, under the names that are known above. What is equal is then maintained once.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result, TableReference, UnnestOptions};
use datafusion::functions_table::generate_series::GenerateSeriesTable;
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, Projection, SkipType, TableScan};
use tidemill_plan::RelationId;

use crate::relations::relation_of;

/// Puts the first of the sub-plans that mean the same in the place of the others.
pub(crate) fn unify(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_down(|node| match node {
        LogicalPlan::TableScan(scan) => with_arguments(scan),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(Meanings::default().unify(plan.data)?.0)
}

/// Scans are equal to DataFusion if their names are, and all of `generate_series()` have the same. So that they
/// are told apart from here on, their arguments become part of the name.
fn with_arguments(scan: TableScan) -> Result<Transformed<LogicalPlan>> {
    let provider = source_as_provider(&scan.source)?;
    let Some(series) = (provider.as_ref() as &dyn Any).downcast_ref::<GenerateSeriesTable>() else {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    };
    let debug = format!("{series:?}");
    // Its arguments are its own secret, but for this.
    let arguments = debug.split_once("args: ").map_or(debug.as_str(), |(_, arguments)| arguments);
    let table_name = TableReference::bare(format!("{}: {arguments}", scan.table_name.table()));
    Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { table_name, ..scan })))
}

#[derive(Default)]
struct Meanings {
    numbers: HashMap<Meaning, usize>,
    /// The first plan of each.
    firsts: Vec<LogicalPlan>,
}

/// A node and the meanings of its inputs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Meaning {
    node: Node,
    inputs: Vec<usize>,
}

/// What a node does to its inputs, whatever columns are called.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Node {
    Scan {
        relation: RelationId,
        projection: Option<Vec<usize>>,
    },
    Projection(Vec<Expr>),
    Filter(Expr),
    Aggregate {
        groups: Vec<Expr>,
        calls: Vec<Expr>,
    },
    Window(Vec<Expr>),
    Join {
        join_type: JoinType,
        on: Vec<(Expr, Expr)>,
        filter: Option<Expr>,
        null_equality: NullEquality,
        is_null_aware: bool,
    },
    Sort {
        /// With the directions.
        by: Vec<(Expr, bool, bool)>,
        fetch: Option<usize>,
    },
    Limit {
        skip: usize,
        fetch: Option<usize>,
    },
    Union,
    Unnest {
        /// With how deep.
        lists: Vec<(usize, usize)>,
        structs: Vec<usize>,
        sources: Vec<usize>,
        options: UnnestOptions,
    },
    /// Any other is the same as what is equal to it, with all that is below.
    Other(Box<LogicalPlan>),
}

impl Meanings {
    fn unify(&mut self, plan: LogicalPlan) -> Result<(LogicalPlan, usize)> {
        let mut inputs = Vec::new();
        let plan = match plan {
            // What a recursion reads of itself means something only within it.
            LogicalPlan::RecursiveQuery(_) => plan,
            plan => {
                let unified = plan.map_children(|input| {
                    let (input, meaning) = self.unify(input)?;
                    inputs.push(meaning);
                    Ok(Transformed::yes(input))
                })?;
                unified.data
            }
        };
        if let (LogicalPlan::SubqueryAlias(_), [input]) = (&plan, &inputs[..]) {
            let meaning = *input;
            return Ok((plan, meaning));
        }
        let meaning = Meaning { node: node(&plan)?, inputs };
        if let Some(number) = self.numbers.get(&meaning) {
            let first = &self.firsts[*number];
            let plan = if costs_nothing(&plan) || *first == plan { plan } else { renamed(first, &plan)? };
            return Ok((plan, *number));
        }
        let number = self.firsts.len();
        self.numbers.insert(meaning, number);
        self.firsts.push(plan.clone());
        Ok((plan, number))
    }
}

/// Whether computing it twice is as good: an order is only part of what stands above it, and looks for it.
fn costs_nothing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => projection.expr.iter().all(is_column),
        LogicalPlan::TableScan(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Sort(_) => true,
        _ => false,
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

/// `first` with the columns' names of `plan`.
fn renamed(first: &LogicalPlan, plan: &LogicalPlan) -> Result<LogicalPlan> {
    let names = first.schema().iter().zip(plan.schema().iter());
    let exprs = names.map(|(known, (qualifier, field))| {
        let column = Column::from(known);
        match (&column.relation, column.name()) == (&qualifier.cloned(), field.name()) {
            true => Expr::Column(column),
            false => Expr::Column(column).alias_qualified(qualifier.cloned(), field.name()),
        }
    });
    let projection =
        Projection::try_new_with_schema(exprs.collect(), Arc::new(first.clone()), plan.schema().clone())?;
    Ok(LogicalPlan::Projection(projection))
}

fn node(plan: &LogicalPlan) -> Result<Node> {
    let inputs = plan.inputs();
    let schemas: Vec<&DFSchema> = inputs.iter().map(|input| input.schema().as_ref()).collect();
    let one = |expr: &Expr| nameless(expr, &schemas);
    let all = |exprs: &[Expr]| exprs.iter().map(one).collect::<Result<Vec<Expr>>>();
    Ok(match plan {
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
            match relation_of(source_as_provider(&scan.source)?.as_ref()) {
                Some(relation) => Node::Scan { relation: relation.id, projection: scan.projection.clone() },
                None => Node::Other(Box::new(plan.clone())),
            }
        }
        LogicalPlan::Projection(projection) => Node::Projection(all(&projection.expr)?),
        LogicalPlan::Filter(filter) => Node::Filter(one(&filter.predicate)?),
        LogicalPlan::Aggregate(aggregate) => {
            Node::Aggregate { groups: all(&aggregate.group_expr)?, calls: all(&aggregate.aggr_expr)? }
        }
        LogicalPlan::Window(window) => Node::Window(all(&window.window_expr)?),
        LogicalPlan::Join(join) => {
            let on = join
                .on
                .iter()
                .map(|(left, right)| Ok((nameless(left, &schemas[..1])?, nameless(right, &schemas[1..])?)));
            Node::Join {
                join_type: join.join_type,
                on: on.collect::<Result<_>>()?,
                filter: join.filter.as_ref().map(one).transpose()?,
                null_equality: join.null_equality,
                is_null_aware: join.null_aware,
            }
        }
        LogicalPlan::Sort(sort) => {
            let by = sort.expr.iter().map(|sort| Ok((one(&sort.expr)?, sort.asc, sort.nulls_first)));
            Node::Sort { by: by.collect::<Result<_>>()?, fetch: sort.fetch }
        }
        LogicalPlan::Limit(limit) => match (limit.get_skip_type()?, limit.get_fetch_type()?) {
            (SkipType::Literal(skip), FetchType::Literal(fetch)) => Node::Limit { skip, fetch },
            _ => Node::Other(Box::new(plan.clone())),
        },
        LogicalPlan::Union(_) => Node::Union,
        LogicalPlan::Unnest(unnest) if unnest.options.recursions.is_empty() => Node::Unnest {
            lists: unnest.list_type_columns.iter().map(|(column, list)| (*column, list.depth)).collect(),
            structs: unnest.struct_type_columns.clone(),
            sources: unnest.dependency_indices.clone(),
            options: unnest.options.clone(),
        },
        other => Node::Other(Box::new(other.clone())),
    })
}

/// An expression whose columns are called by their position in the inputs' columns, all in a row.
fn nameless(expr: &Expr, inputs: &[&DFSchema]) -> Result<Expr> {
    let position = |column: &Column| {
        let mut begin = 0;
        for schema in inputs {
            if let Some(position) = schema.maybe_index_of_column(column) {
                return Some(begin + position);
            }
            begin += schema.fields().len();
        }
        None
    };
    let plain = expr.clone().transform_up(|expr| {
        Ok(match expr {
            Expr::Alias(alias) => Transformed::yes(*alias.expr),
            Expr::Column(column) => match position(&column) {
                Some(position) => {
                    Transformed::yes(Expr::Column(Column::new_unqualified(position.to_string())))
                }
                None => Transformed::no(Expr::Column(column)),
            },
            other => Transformed::no(other),
        })
    })?;
    Ok(plain.data)
}
