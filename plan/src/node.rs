//! The extension node by which incremental operators stand in a DataFusion plan.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, Result};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::operator::{InputKind, Operator, OrderColumn, SetOperation};
use crate::window::{Reach, Scope};

/// An [`Operator`] with its inputs and its output columns, the weight last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IncrementalNode {
    pub operator: Operator,
    pub inputs: Vec<LogicalPlan>,
    pub schema: DFSchemaRef,
}

impl IncrementalNode {
    /// A name for the operator's state that says what it is, not where it stands: the operator and a
    /// hash of what it and its inputs print in EXPLAIN.
    pub fn meaning(&self, inputs: &[&LogicalPlan]) -> String {
        let own = LogicalPlan::Extension(Extension { node: Arc::new(self.clone()) });
        let mut text = own.display().to_string();
        for input in inputs {
            text.push('\n');
            text.push_str(&input.display_indent().to_string());
        }
        format!("{}-{:016x}", self.operator.name().to_lowercase(), fnv1a(text.as_bytes()))
    }
}

/// FNV-1a, 64 bits: a hash that is the same in every build, which names in checkpoints must be.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn write_ttl(f: &mut fmt::Formatter, ttl: Option<i64>) -> fmt::Result {
    match ttl {
        Some(ttl) => write!(f, " ttl={:?}", std::time::Duration::from_micros(ttl.max(0) as u64)),
        None => Ok(()),
    }
}

impl PartialOrd for IncrementalNode {
    /// Plans have no order that means anything; DataFusion asks for one all the same.
    fn partial_cmp(&self, other: &IncrementalNode) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for IncrementalNode {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        // The plan is not optimised any more once it has these nodes.
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let input_column = |input: usize, idx: usize| self.inputs[input].schema().field(idx).name().clone();
        let list = |input: usize, columns: &[usize]| {
            columns.iter().map(|idx| input_column(input, *idx)).collect::<Vec<_>>().join(", ")
        };
        let order_list = |order_by: &[OrderColumn]| {
            let order_column = |order: &OrderColumn| {
                let direction = if order.descending { " DESC" } else { "" };
                format!("{}{direction}", input_column(0, order.column))
            };
            order_by.iter().map(order_column).collect::<Vec<_>>().join(", ")
        };
        match &self.operator {
            Operator::Input(input) => {
                let kind = match input.kind {
                    InputKind::Append => "append-only",
                    InputKind::Delta => "retracting",
                    InputKind::Upsert => "upsert",
                };
                let n_columns = self.schema.fields().len() - 1;
                let columns: Vec<_> =
                    self.schema.fields()[..n_columns].iter().map(|field| field.name().as_str()).collect();
                write!(f, "Input: {} [{}] {kind}", input.name, columns.join(", "))
            }
            Operator::Upsert(upsert) => {
                write!(f, "Upsert: key=[{}]", list(0, &upsert.keys))?;
                write_ttl(f, upsert.ttl)
            }
            Operator::Distinct => write!(f, "Distinct"),
            Operator::Aggregate(aggregate) => {
                let groups: Vec<_> = (0..aggregate.n_groups).collect();
                let calls: Vec<_> = aggregate.calls.iter().map(|call| call.display.as_str()).collect();
                write!(f, "Aggregate: group=[{}] calls=[{}]", list(0, &groups), calls.join(", "))?;
                if let Some(close) = &aggregate.close {
                    write!(f, " close={}", input_column(0, close.column))?;
                    if aggregate.is_early {
                        write!(f, " early")?;
                    }
                }
                write_ttl(f, aggregate.ttl)
            }
            Operator::Join(join) => {
                write!(f, "Join: {} ", join.join_type)?;
                let pairs: Vec<_> = join
                    .left_keys
                    .iter()
                    .zip(&join.right_keys)
                    .map(|(left, right)| format!("{} = {}", input_column(0, *left), input_column(1, *right)))
                    .collect();
                write!(f, "on=[{}]", pairs.join(", "))?;
                if let Some(filter) = &join.filter {
                    write!(f, " filter={filter}")?;
                }
                if let Some(trim) = &join.trim {
                    let (left, right) = (input_column(0, trim.left.time), input_column(1, trim.right.time));
                    let span =
                        std::time::Duration::from_micros((trim.left.reach + trim.right.reach).max(0) as u64);
                    write!(f, " state=[{left}, {right} within {span:?} of the watermark]")?;
                }
                Ok(())
            }
            Operator::Session(session) => {
                let gap = std::time::Duration::from_micros(session.gap.max(0) as u64);
                let partition = list(0, &session.partition);
                write!(
                    f,
                    "Session: partition=[{partition}] time={} gap={gap:?}",
                    input_column(0, session.time)
                )?;
                if session.close.is_some() {
                    write!(f, " close=window_end")?;
                    if session.is_early {
                        write!(f, " early")?;
                    }
                }
                Ok(())
            }
            Operator::Hold(hold) => write!(f, "Hold: close={}", input_column(0, hold.close.column)),
            Operator::Every(every) => {
                write!(f, "EmitEvery: {:?}", std::time::Duration::from_micros(every.interval.max(0) as u64))?;
                match &every.close {
                    Some(close) => write!(f, " close={}", input_column(0, close.column)),
                    None => Ok(()),
                }
            }
            Operator::Expire(expire) => {
                write!(f, "Expire: key=[{}]", list(0, &expire.keys))?;
                write_ttl(f, Some(expire.ttl))
            }
            Operator::Asof(asof) => {
                write!(f, "AsofJoin: ")?;
                asof.fmt_with(&input_column, f)?;
                match &asof.trim {
                    Some(_) => write!(f, " state=[what is behind both watermarks goes]"),
                    None => Ok(()),
                }
            }
            Operator::Lookup(lookup) => {
                let keys = lookup.left_keys.iter().zip(&lookup.right_keys);
                let keys: Vec<_> = keys
                    .map(|(left, right)| format!("{} = {}", input_column(0, *left), input_column(1, *right)))
                    .collect();
                let kind = if lookup.is_outer { "Left" } else { "Inner" };
                write!(f, "LookupJoin: {kind} on=[{}]", keys.join(", "))?;
                match lookup.is_append_only {
                    true => Ok(()),
                    false => write!(f, " keeps=[what each row met]"),
                }
            }
            Operator::Temporal(temporal) => write!(
                f,
                "TemporalFilter: from=[{}] until=[{}]",
                list(0, &temporal.from),
                list(0, &temporal.until)
            ),
            Operator::TopN(top_n) => {
                let partition = list(0, &top_n.partition);
                write!(f, "TopN: limit={} ", top_n.limit)?;
                if top_n.with_ties {
                    write!(f, "with ties ")?;
                }
                if top_n.offset > 0 {
                    write!(f, "offset={} ", top_n.offset)?;
                }
                write!(f, "partition=[{partition}] order=[{}]", order_list(&top_n.order_by))
            }
            Operator::Window(window) => {
                let calls: Vec<_> = window.calls.iter().map(|call| call.display.as_str()).collect();
                write!(
                    f,
                    "Window: partition=[{}] order=[{}] calls=[{}] ",
                    list(0, &window.partition),
                    order_list(&window.order_by),
                    calls.join(", ")
                )?;
                match window.scope(self.inputs[0].schema().fields()) {
                    Scope::Rows(Reach { back, ahead }) => {
                        write!(f, "recompute=[rows {back} back, {ahead} ahead]")
                    }
                    Scope::Values => write!(f, "recompute=[values within the frames]"),
                    Scope::Running { .. } => write!(f, "recompute=[new last rows, else the partition]"),
                    Scope::Partition => write!(f, "recompute=[the partition]"),
                }
            }
            Operator::MatchRecognize(pattern) => pattern.fmt_with(&|idx| input_column(0, idx), f),
            Operator::Once => write!(f, "Once: constant rows"),
            Operator::SetOperation(SetOperation::IntersectAll) => write!(f, "SetOperation: INTERSECT ALL"),
            Operator::SetOperation(SetOperation::ExceptAll) => write!(f, "SetOperation: EXCEPT ALL"),
            Operator::Recompute(recompute) => {
                // On one line, since a node is a line; all of it, since it says what the state means.
                let plan = recompute.plan.display_indent().to_string();
                let nodes: Vec<&str> = plan.lines().map(str::trim).collect();
                write!(f, "Recompute: {}, all of it at each change [", recompute.construct)?;
                write!(f, "{}]", nodes.join(" | "))
            }
            Operator::Held(held) => write!(f, "Held: {}", held.name),
            Operator::Bounded => write!(f, "Bounded"),
        }
    }

    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        match self.operator {
            // Their columns are positions, and which of two right rows of one time an ASOF join takes is a matter of
            // all columns; what is below may still be pruned.
            Operator::MatchRecognize(_) | Operator::Asof(_) | Operator::Lookup(_) => {
                let all = |input: &LogicalPlan| (0..input.schema().fields().len()).collect();
                Some(self.inputs.iter().map(all).collect())
            }
            _ => None,
        }
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<IncrementalNode> {
        Ok(IncrementalNode { inputs, ..self.clone() })
    }
}
