//! What EXPLAIN says of a rewritten plan, derived on the way up beside it.
//!
//! How state grows is a question of how many rows its input holds in the long run. A relation is finite
//! when it is a table, a source that ends, or a pipeline over such: what an operator keeps of it is in
//! proportion to what is stored anyway, and shrinks with it. Any other source gives rows for ever; an
//! operator then keeps an entry for each key or for each row, until something bounds it.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, JoinType};
use datafusion::logical_expr::LogicalPlan;
use tidemill_plan::{
    Aggregate, AggregateFunction, Asof, Cost, ExplainedNode, ExplainedState, Growth, IncrementalNode,
    InputKind, Join, Lookup, MatchRecognize, Operator, Properties, TopN,
};

/// The plans that a rewrite has made so far and that are not yet the input of another.
#[derive(Default)]
pub(super) struct Explained {
    nodes: Vec<(LogicalPlan, ExplainedNode)>,
    /// Relations that end, or that are stored.
    finite: std::collections::BTreeSet<tidemill_plan::RelationId>,
}

impl Explained {
    /// To be given to [`Explained::finish`] or [`Explained::abandon`].
    pub fn begin(&self) -> usize {
        self.nodes.len()
    }

    /// The same, for a plan over the one that was explained last.
    pub fn begin_over(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Notes that a relation is finite.
    pub fn finite(&mut self, relation: tidemill_plan::RelationId) {
        self.finite.insert(relation);
    }

    pub fn abandon(&mut self, begin: usize) {
        self.nodes.truncate(begin);
    }

    /// Explains a plan whose inputs have been explained since `begin`.
    pub fn finish(&mut self, begin: usize, plan: &LogicalPlan, properties: &Properties) {
        let mut inputs = self.nodes.split_off(begin);
        let mut node = self.explain(plan, &mut inputs);
        node.is_append_only = properties.is_append_only;
        let names = |key: &Vec<usize>| key.iter().map(|column| column_name(plan, *column)).collect();
        node.unique_keys = properties.unique_keys.iter().map(names).collect();
        node.unique_keys.sort();
        node.unique_keys.dedup();
        if properties.unique_keys.iter().any(Vec::is_empty) {
            node.rows = Growth::Finite;
        }
        self.nodes.push((plan.clone(), node));
    }

    /// The whole plan, once it is made.
    pub fn take(mut self) -> ExplainedNode {
        self.nodes.pop().map(|(_, node)| node).unwrap_or_default()
    }

    /// A plan down to the `known` ones. What lies between was made by the rewrite of one node.
    fn explain(&self, plan: &LogicalPlan, known: &mut Vec<(LogicalPlan, ExplainedNode)>) -> ExplainedNode {
        if let Some(idx) = known.iter().position(|(known, _)| known == plan) {
            return known.swap_remove(idx).1;
        }
        let inputs: Vec<ExplainedNode> =
            plan.inputs().into_iter().map(|input| self.explain(input, known)).collect();
        let mut node = ExplainedNode {
            kind: kind(plan).into(),
            display: plan.display().to_string(),
            rows: inputs.iter().map(|input| input.rows).max().unwrap_or_default(),
            is_append_only: inputs.iter().all(|input| input.is_append_only),
            inputs,
            ..ExplainedNode::default()
        };
        match plan {
            LogicalPlan::Extension(extension) => {
                if let Some(operator) = extension.node.as_any().downcast_ref::<IncrementalNode>() {
                    node.id = operator.meaning(&plan.inputs());
                    self.operator(operator, &mut node);
                }
            }
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
                let is_kept = |key: &Vec<String>| {
                    key.iter().all(|name| plan.schema().fields().iter().any(|field| field.name() == name))
                };
                node.unique_keys =
                    node.inputs[0].unique_keys.iter().filter(|key| is_kept(key)).cloned().collect();
            }
            _ => (),
        }
        node
    }

    fn operator(&self, operator: &IncrementalNode, node: &mut ExplainedNode) {
        let input = |idx: usize| operator.inputs[idx].schema().as_ref();
        let rows = node.rows;
        let stored = match &operator.operator {
            Operator::Input(read) => {
                node.relation = Some(read.name.clone());
                node.is_append_only = read.kind == InputKind::Append;
                node.rows = match (self.finite.contains(&read.relation), read.kind) {
                    (true, _) => Growth::Finite,
                    (false, InputKind::Append) => Growth::PerRow,
                    // What takes rows back has some row per something.
                    (false, InputKind::Delta | InputKind::Upsert) => Growth::PerKey,
                };
                return;
            }
            Operator::Upsert(upsert) => Stored {
                cost: Cost::PerKey,
                key: names(input(0), &upsert.keys),
                growth: upsert.ttl.map_or(rows, |_| rows.min(Growth::Ttl)),
                rows: upsert.ttl.map_or(rows, |_| rows.min(Growth::Ttl)),
                remedy: None,
            },
            Operator::Distinct => {
                let n_columns = input(0).fields().len() - 1;
                let columns: Vec<usize> = (0..n_columns).collect();
                let is_small = columns.iter().all(|column| is_small(input(0), *column));
                let growth = if is_small { Growth::Finite } else { rows.min(Growth::PerKey) };
                Stored {
                    cost: Cost::PerKey,
                    key: names(input(0), &columns),
                    growth,
                    rows: growth,
                    remedy: None,
                }
            }
            Operator::Aggregate(aggregate) => aggregated(aggregate, input(0), rows),
            Operator::Join(join) => joined(join, input(0), node),
            Operator::TopN(top_n) => first_rows(top_n, input(0), rows),
            Operator::Once => {
                node.is_append_only = true;
                node.rows = Growth::Finite;
                return;
            }
            Operator::SetOperation(_) => {
                let columns: Vec<usize> = (0..input(0).fields().len() - 1).collect();
                let growth = worst(node).min(Growth::PerKey);
                let key = names(input(0), &columns);
                Stored { cost: Cost::PerKey, key, growth, rows: growth, remedy: None }
            }
            Operator::Recompute(_) => {
                let growth = worst(node);
                Stored { cost: Cost::Recompute, key: Vec::new(), growth, rows: growth, remedy: None }
            }
            Operator::Temporal(temporal) => {
                let growth = match temporal.until.is_empty() {
                    true => rows,
                    false => rows.min(Growth::TemporalFilter),
                };
                Stored { cost: Cost::Linear, key: Vec::new(), growth, rows: growth, remedy: None }
            }
            Operator::Session(session) => {
                let growth = match session.close.is_some() {
                    true => rows.min(Growth::Watermark),
                    false => rows,
                };
                let key = names(input(0), &session.partition);
                let remedy = Some("Add EMIT ON WINDOW CLOSE, over a time column with a watermark.".into());
                Stored { cost: Cost::PerPartition, key, growth, rows, remedy }
            }
            Operator::Hold(hold) => {
                let key = names(input(0), &[hold.close.column]);
                let growth = rows.min(Growth::Watermark);
                Stored { cost: Cost::Linear, key, growth, rows, remedy: None }
            }
            Operator::Every(_) => {
                let columns: Vec<usize> = (0..input(0).fields().len() - 1).collect();
                let key = names(input(0), &columns);
                Stored { cost: Cost::Linear, key, growth: rows.min(Growth::Emission), rows, remedy: None }
            }
            Operator::Expire(expire) => {
                let growth = rows.min(Growth::Ttl);
                let key = names(input(0), &expire.keys);
                Stored { cost: Cost::PerKey, key, growth, rows: growth, remedy: None }
            }
            Operator::Window(window) => Stored {
                cost: Cost::PerPartition,
                key: names(input(0), &window.partition),
                growth: rows,
                rows,
                remedy: Some(
                    "Partition by a window that a watermark completes, and add EMIT ON WINDOW CLOSE.".into(),
                ),
            },
            Operator::Asof(asof) => asof_joined(asof, input(0), node),
            Operator::Lookup(lookup) => looked_up(lookup, input(0), node),
            Operator::MatchRecognize(pattern) => matched(pattern, input(0), rows),
            Operator::Held(_) | Operator::Bounded => unreachable!("parts of a batch plan"),
        };
        node.cost = stored.cost;
        node.is_append_only = false;
        node.rows = stored.rows;
        node.state = Some(ExplainedState { key: stored.key, growth: stored.growth, remedy: stored.remedy });
    }
}

/// What an operator keeps, and how many rows it gives.
struct Stored {
    cost: Cost,
    key: Vec<String>,
    growth: Growth,
    rows: Growth,
    remedy: Option<String>,
}

fn aggregated(aggregate: &Aggregate, input: &DFSchema, rows: Growth) -> Stored {
    let groups: Vec<usize> = (0..aggregate.n_groups).collect();
    let is_linear = |call: &tidemill_plan::AggregateCall, other: &tidemill_plan::OtherAggregate| {
        let args: Vec<DataType> = call.args.iter().map(|arg| input.field(*arg).data_type().clone()).collect();
        other.is_linear(&args) && (!call.distinct || args.len() == 1)
    };
    let keeps_values = |call: &tidemill_plan::AggregateCall| match &call.function {
        AggregateFunction::Min | AggregateFunction::Max | AggregateFunction::First => {
            !aggregate.is_append_only
        }
        AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg => call.distinct,
        AggregateFunction::Other(other) => call.distinct || !is_linear(call, other),
    };
    let recomputes = |call: &tidemill_plan::AggregateCall| match &call.function {
        AggregateFunction::Other(other) => !is_linear(call, other),
        _ => false,
    };
    let cost = match aggregate.calls.iter().any(recomputes) {
        true => Cost::Recompute,
        false => Cost::PerKey,
    };
    let key = names(input, &groups);
    if aggregate.close.is_some() {
        // Each group is forgotten, and more come.
        return Stored { cost, key, growth: rows.min(Growth::Watermark), rows, remedy: None };
    }
    if aggregate.ttl.is_some() {
        let growth = rows.min(Growth::Ttl);
        return Stored { cost, key, growth, rows: growth, remedy: None };
    }
    let per_group = match groups.iter().all(|column| is_small(input, *column)) {
        true => Growth::Finite,
        false => rows.min(Growth::PerKey),
    };
    let kept = aggregate.calls.iter().find(|call| keeps_values(call));
    let growth = if kept.is_some() { per_group.max(rows) } else { per_group };
    let remedy = kept.map(|call| match call.distinct {
        true => format!(
            "{} keeps every distinct value: group by a window that a watermark completes and add EMIT ON WINDOW CLOSE.",
            call.display
        ),
        false => format!(
            "{} keeps every value, since its input takes rows back: aggregate before the step that does, or group \
             by a window that a watermark completes and add EMIT ON WINDOW CLOSE.",
            call.display
        ),
    });
    let remedy = remedy.or_else(|| {
        Some("Group by a window that a watermark completes and add EMIT ON WINDOW CLOSE.".to_owned())
    });
    Stored { cost, key, growth, rows: per_group, remedy }
}

fn asof_joined(asof: &Asof, left: &DFSchema, node: &ExplainedNode) -> Stored {
    let (left_rows, right_rows) = (node.inputs[0].rows, node.inputs[1].rows);
    let growth = match asof.trim.is_some() {
        // Of each key the last right row stays, and left rows until the right has passed them.
        true => left_rows.min(Growth::Watermark).max(right_rows.min(Growth::PerKey)),
        false => left_rows.max(right_rows),
    };
    let remedy =
        "Declare a WATERMARK for the times of both sides, of append-only inputs; one row for each key then stays."
            .to_owned();
    Stored {
        cost: Cost::PerKey,
        key: names(left, &asof.left_keys),
        growth,
        rows: left_rows,
        remedy: Some(remedy),
    }
}

fn looked_up(lookup: &Lookup, left: &DFSchema, node: &ExplainedNode) -> Stored {
    let (left_rows, right_rows) = (node.inputs[0].rows, node.inputs[1].rows);
    let growth = match lookup.is_append_only {
        // Left rows pass by.
        true => right_rows,
        false => left_rows.max(right_rows),
    };
    let remedy = match right_rows {
        Growth::Finite => "Let the left be append-only: what its rows have met is then not kept.",
        _ => "Look up in a table, or in a source with a PRIMARY KEY, of which one row for each key is kept.",
    };
    let key = names(left, &lookup.left_keys);
    Stored { cost: Cost::PerKey, key, growth, rows: left_rows, remedy: Some(remedy.into()) }
}

fn joined(join: &Join, left: &DFSchema, node: &ExplainedNode) -> Stored {
    let growth = match join.trim.is_some() {
        true => worst(node).min(Growth::Watermark),
        false => worst(node),
    };
    let rows = match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => node.inputs[0].rows,
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => node.inputs[1].rows,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => growth,
    };
    let remedy =
        "Group the endless side by the key or by a closed window first, or join with a table or a source \
                  with a PRIMARY KEY, of which one row for each key is kept."
            .to_owned();
    Stored { cost: Cost::PerKey, key: names(left, &join.left_keys), growth, rows, remedy: Some(remedy) }
}

fn first_rows(top_n: &TopN, input: &DFSchema, rows: Growth) -> Stored {
    let per_partition = match top_n.partition.iter().all(|column| is_small(input, *column)) {
        true => Growth::Finite,
        false => rows.min(Growth::PerKey),
    };
    Stored {
        cost: Cost::PerPartition,
        key: names(input, &top_n.partition),
        // Rows behind the first may become first when others leave.
        growth: if top_n.is_append_only { per_partition } else { rows },
        rows: per_partition,
        remedy: Some(
            "Where the best value is enough, max(…) or min(…) with GROUP BY keeps one row for each key; else \
             declare a PRIMARY KEY on the source, so that one row for each key is kept."
                .into(),
        ),
    }
}

fn matched(pattern: &MatchRecognize, input: &DFSchema, rows: Growth) -> Stored {
    let is_trimmed = !pattern.sources.is_empty();
    let growth = match () {
        () if is_trimmed && pattern.is_bounded_in_time() && !pattern.remembers() => {
            rows.min(Growth::Watermark)
        }
        // The last rows of each partition stay: the next match looks back to them, or counts on from them.
        () if is_trimmed && pattern.is_bounded_in_time() => rows.min(Growth::PerKey),
        () if is_trimmed && pattern.pattern.n_rows_max().is_some() => rows.min(Growth::PerKey),
        () => rows,
    };
    let remedy = match (is_trimmed, pattern.is_bounded_in_time()) {
        (true, true) => {
            "MATCH_NUMBER(), PREV and ^ need the last rows of each partition for ever: do without them."
        }
        (true, false) => {
            "Add WITHIN INTERVAL '…' to the pattern, and do without NEXT and $, so that a match is over some day."
        }
        (false, _) => {
            "Order by a time column with a watermark first, and add WITHIN INTERVAL '…' to the pattern, so that rows are \
             forgotten when no match can need them."
        }
    };
    let key = names(input, &pattern.partition);
    Stored { cost: Cost::PerPartition, key, growth, rows, remedy: Some(remedy.into()) }
}

/// How the largest of the inputs grows.
fn worst(node: &ExplainedNode) -> Growth {
    node.inputs.iter().map(|input| input.rows).max().unwrap_or_default()
}

/// Whether a column has few values by its type.
fn is_small(schema: &DFSchema, column: usize) -> bool {
    matches!(schema.field(column).data_type(), DataType::Boolean | DataType::Null)
}

fn names(schema: &DFSchema, columns: &[usize]) -> Vec<String> {
    columns.iter().map(|column| shown(schema.field(*column).name())).collect()
}

fn column_name(plan: &LogicalPlan, column: usize) -> String {
    shown(plan.schema().field(column).name())
}

/// A computed column without the number that told it apart.
fn shown(name: &str) -> String {
    match name.rsplit_once('#') {
        Some((name, number)) if !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) => {
            name.into()
        }
        _ => name.into(),
    }
}

fn kind(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Projection(_) => "Projection",
        LogicalPlan::Filter(_) => "Filter",
        LogicalPlan::SubqueryAlias(_) => "SubqueryAlias",
        LogicalPlan::Union(_) => "Union",
        LogicalPlan::Unnest(_) => "Unnest",
        LogicalPlan::EmptyRelation(_) => "EmptyRelation",
        LogicalPlan::Extension(extension) => {
            match extension.node.as_any().downcast_ref::<IncrementalNode>() {
                Some(node) => node.operator.name(),
                None => "Extension",
            }
        }
        _ => "Node",
    }
}
