//! What a stateful step computes. One struct per operator.
//!
//! All positions are columns of the node's input without its weight.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DFSchemaRef, JoinType, ScalarValue};
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan};

use crate::asof::Asof;
use crate::{MatchRecognize, RelationId, Window};

/// One incremental step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The changes of a relation.
    Input(Input),
    /// A keyed changelog becomes a delta.
    Upsert(Upsert),
    /// Every row of the input once.
    Distinct,
    Aggregate(Aggregate),
    Join(Join),
    TopN(TopN),
    /// The input's rows in the first step, and nothing later: constants.
    Once,
    SetOperation(SetOperation),
    Recompute(Recompute),
    /// In the plan of a [`Recompute`]: the rows of one of its inputs.
    Held(Held),
    /// In the plan of a [`Recompute`]: passes a recursive term's rows on, as long as it ends some day.
    Bounded,
    Temporal(Temporal),
    Session(Session),
    Hold(Hold),
    Every(Every),
    Expire(Expire),
    Asof(Asof),
    Lookup(Lookup),
    Window(Window),
    /// Before the rewrite, and in a SELECT, its input and output have no weights.
    MatchRecognize(Box<MatchRecognize>),
}

/// The changes of a relation, as they come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    pub relation: RelationId,
    pub name: String,
    /// Which columns of the relation, in this order. Not for [`InputKind::Upsert`], whose key columns
    /// and sequence are needed first.
    pub projection: Vec<usize>,
    pub kind: InputKind,
}

/// What the weight of an input row means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// Every weight is positive.
    Append,
    /// A Z-set.
    Delta,
    /// A positive weight sets the row of its key, a negative one deletes it; the last column before
    /// the weight is the sequence in which the changes happened.
    Upsert,
}

/// Output: the input's columns without the sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upsert {
    /// The primary key.
    pub keys: Vec<usize>,
    /// A key that nothing has set for so many microseconds is forgotten, and its row taken back.
    pub ttl: Option<i64>,
}

/// Input: group columns first. Output: group columns, then one column per call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Aggregate {
    pub n_groups: usize,
    pub calls: Vec<AggregateCall>,
    /// No input row is ever retracted.
    pub is_append_only: bool,
    /// A group is forgotten when it is complete.
    pub close: Option<Close>,
    /// Groups with a [`Close`] leave before it as well; else each leaves once, when it is complete.
    pub is_early: bool,
    /// A group that nothing has touched for so many microseconds is forgotten and taken back. Only of append-only
    /// input: that of others expires by [`Expire`].
    pub ttl: Option<i64>,
}

/// One aggregate function call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AggregateCall {
    pub function: AggregateFunction,
    pub args: Vec<usize>,
    /// A Boolean column: only rows where it is true count.
    pub filter: Option<usize>,
    pub distinct: bool,
    pub order_by: Vec<OrderColumn>,
    pub ignore_nulls: bool,
    pub return_type: DataType,
    /// As the user wrote it, for EXPLAIN and messages.
    pub display: String,
}

/// Which function, by how it can be maintained.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    /// `count(*)` has no argument.
    Count,
    Sum,
    Avg,
    Min,
    Max,
    /// The first value in the order of `order_by`.
    First,
    /// Any other: touched groups are aggregated again, unless it is linear.
    Other(OtherAggregate),
}

/// An aggregate function that is DataFusion's own, or a user's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OtherAggregate {
    pub udf: Arc<AggregateUDF>,
    /// The arguments that are constants, by their position among all arguments; `args` are the others.
    pub constants: Vec<(usize, ScalarValue)>,
}

impl OtherAggregate {
    /// Whether, over arguments of these types, a row can be taken out of what is known of a group as easily as in.
    pub fn is_linear(&self, args: &[DataType]) -> bool {
        let is_known = match args {
            [DataType::Boolean] => matches!(self.udf.name(), "bool_and" | "bool_or"),
            [DataType::Int64] => self.udf.name() == "bit_xor",
            [DataType::Float64] => matches!(self.udf.name(), "var" | "var_pop" | "stddev" | "stddev_pop"),
            [DataType::Float64, DataType::Float64] => {
                let name = self.udf.name();
                matches!(name, "covar_samp" | "covar_pop" | "corr") || name.starts_with("regr_")
            }
            _ => false,
        };
        is_known && self.constants.is_empty()
    }
}

/// Inputs: left, right, of which the first `n_left` and `n_right` columns are the pair's; behind them stand
/// computed keys. Output: those of the left, of the right or of both, as the type of the join asks; a
/// mark join adds its mark.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Join {
    pub join_type: JoinType,
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    /// `IS NOT DISTINCT FROM`: a NULL key matches a NULL key.
    pub null_equals_null: bool,
    pub n_left: usize,
    pub n_right: usize,
    /// What else a pair must fulfil, over `pair_schema`: all output columns of the left, then the right.
    pub filter: Option<Expr>,
    pub pair_schema: DFSchemaRef,
    pub is_append_only: bool,
    /// When rows can be forgotten because what could meet them has come.
    pub trim: Option<Box<Trim>>,
}

/// What bounds the state of a join of rows that are near each other in time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Trim {
    pub left: TrimSide,
    pub right: TrimSide,
}

/// A row of this side can go once times of the other side are complete up to `reach` microseconds behind its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrimSide {
    pub time: usize,
    pub reach: i64,
    /// What completes the times of this side; a row below that is late.
    pub own: Vec<CloseSource>,
    /// What completes the times of the other side.
    pub other: Vec<CloseSource>,
}

/// `FOR SYSTEM_TIME AS OF now()`: each left row with the right rows of its key that are there when it comes, whatever
/// becomes of them later. Inputs: left, right, of which the first `n_left` and `n_right` columns are the pair's; behind
/// them stand computed keys. Output: the left's columns, then the right's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lookup {
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    pub n_left: usize,
    pub n_right: usize,
    /// Left rows that meet none come out with NULLs.
    pub is_outer: bool,
    /// No left row is ever taken back: nobody asks what it met.
    pub is_append_only: bool,
}

/// Output: the input's columns, then the row number from 1, or with ties the rank, if `rank` says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopN {
    pub partition: Vec<usize>,
    pub order_by: Vec<OrderColumn>,
    pub offset: usize,
    pub limit: usize,
    /// Whether the row number is a column of the output.
    pub rank: bool,
    /// Rows that tie with the last one belong to the first as well.
    pub with_ties: bool,
    /// Of the input: rows behind the first need not be kept.
    pub is_append_only: bool,
}

/// `INTERSECT ALL`, `EXCEPT ALL`. Inputs: left, right, of the same columns. Output: a row as often as both have
/// it, or as often as the left has it more often than the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetOperation {
    IntersectAll,
    ExceptAll,
}

/// A plan without an incremental version: whenever an input changes it runs again over all of their rows.
///
/// Output: the difference between its new result and the one before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recompute {
    /// Over rows, not deltas; its leaves are [`Operator::Held`].
    pub plan: LogicalPlan,
    /// What of SQL it is, for EXPLAIN.
    pub construct: String,
}

/// A leaf of a [`Recompute`]'s plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Held {
    /// Which input.
    pub input: usize,
    pub name: String,
}

/// Rows that are there for a time. Input: the row, then times in microseconds. Output: the row, while `now()` is
/// not below any time of `from`, and below all of `until`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Temporal {
    pub n_columns: usize,
    pub from: Vec<usize>,
    pub until: Vec<usize>,
}

/// Output: the first `n_columns` of the input and the bounds of each row's session. Rows without a time are in none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    pub n_columns: usize,
    pub partition: Vec<usize>,
    /// A timestamp.
    pub time: usize,
    /// Rows that follow each other by less are one session, in microseconds.
    pub gap: i64,
    pub bounds: Vec<SessionBound>,
    /// A session is forgotten when it is complete, which is a matter of its end.
    pub close: Option<Vec<CloseSource>>,
    /// Sessions with a close leave before it as well; else each leaves once, when it is complete.
    pub is_early: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionBound {
    Start,
    /// A gap behind the last row.
    End,
}

/// `EMIT ON WINDOW CLOSE`: rows leave once, when their time is complete. Output: the input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hold {
    pub close: Close,
}

/// `EMIT EVERY`: changes leave at the multiples of an interval. Output: the input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Every {
    /// In microseconds.
    pub interval: i64,
    /// What is complete leaves at once.
    pub close: Option<Close>,
}

/// Output: the input's rows, of each key as long as something has touched it in the last `ttl` microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expire {
    pub keys: Vec<usize>,
    pub ttl: i64,
}

/// A column to order by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OrderColumn {
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

/// When a value of a time column is complete.
///
/// A row with value *v* can no longer appear once, for every source, its watermark is at least
/// *v* + `delay`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Close {
    /// The time column; of an aggregate, a group column.
    pub column: usize,
    pub sources: Vec<CloseSource>,
}

/// A source that decides on completeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseSource {
    pub relation: RelationId,
    /// Microseconds from the value to the watermark that closes it.
    pub delay: i64,
}

/// The relation's columns as a step sees them: `schema` and what the kind adds.
pub const SEQUENCE: &str = "__sequence";

impl Input {
    /// The row schema of this input, given the relation's.
    pub fn row_schema(&self, relation: &SchemaRef) -> SchemaRef {
        Arc::new(relation.project(&self.projection).expect("projections are made from the relation's schema"))
    }
}

impl Operator {
    /// The sources whose watermarks say what is complete, and so what it gives and forgets.
    pub fn close_sources(&self) -> Vec<CloseSource> {
        match self {
            Operator::Aggregate(aggregate) => {
                aggregate.close.as_ref().map(|close| close.sources.clone()).unwrap_or_default()
            }
            Operator::Hold(hold) => hold.close.sources.clone(),
            Operator::Every(every) => {
                every.close.as_ref().map(|close| close.sources.clone()).unwrap_or_default()
            }
            Operator::Session(session) => session.close.clone().unwrap_or_default(),
            Operator::Join(join) => trim_sources(join.trim.as_deref()),
            Operator::Asof(asof) => trim_sources(asof.trim.as_deref()),
            Operator::MatchRecognize(pattern) => pattern.sources.clone(),
            Operator::Input(_)
            | Operator::Upsert(_)
            | Operator::Distinct
            | Operator::TopN(_)
            | Operator::Once
            | Operator::SetOperation(_)
            | Operator::Recompute(_)
            | Operator::Held(_)
            | Operator::Bounded
            | Operator::Temporal(_)
            | Operator::Expire(_)
            | Operator::Lookup(_)
            | Operator::Window(_) => Vec::new(),
        }
    }

    /// Whether its output may change because time passes.
    pub fn is_timed(&self) -> bool {
        match self {
            Operator::Temporal(_) | Operator::Every(_) | Operator::Expire(_) => true,
            Operator::Aggregate(aggregate) => aggregate.ttl.is_some(),
            Operator::Upsert(upsert) => upsert.ttl.is_some(),
            _ => false,
        }
    }

    /// Whether what it gives depends on which epochs a step holds, so that each has to be a step of its own.
    pub fn is_stepwise(&self) -> bool {
        match self {
            Operator::Lookup(_) => true,
            Operator::Temporal(_) => false,
            // When a key was touched, and what lies before a boundary, is a matter of each epoch's time.
            other => other.is_timed(),
        }
    }

    /// A word for EXPLAIN, metrics and the names of state.
    pub fn name(&self) -> &'static str {
        match self {
            Operator::Input(_) => "Input",
            Operator::Upsert(_) => "Upsert",
            Operator::Distinct => "Distinct",
            Operator::Aggregate(_) => "Aggregate",
            Operator::Join(_) => "Join",
            Operator::TopN(_) => "TopN",
            Operator::Once => "Once",
            Operator::SetOperation(_) => "SetOperation",
            Operator::Recompute(_) => "Recompute",
            Operator::Held(_) => "Held",
            Operator::Bounded => "Bounded",
            Operator::Temporal(_) => "TemporalFilter",
            Operator::Session(_) => "Session",
            Operator::Hold(_) => "Hold",
            Operator::Every(_) => "EmitEvery",
            Operator::Expire(_) => "Expire",
            Operator::Asof(_) => "AsofJoin",
            Operator::Lookup(_) => "LookupJoin",
            Operator::Window(_) => "Window",
            Operator::MatchRecognize(_) => "MatchRecognize",
        }
    }
}

fn trim_sources(trim: Option<&Trim>) -> Vec<CloseSource> {
    let sides = trim.into_iter().flat_map(|trim| [&trim.left, &trim.right]);
    sides.flat_map(|side| side.own.iter().chain(&side.other)).copied().collect()
}
