//! The incremental plan: what passes from `sql` to `engine`.
//!
//! A pipeline's plan is a DataFusion logical plan over *deltas*: the last column of every node is the
//! row's weight (`__weight Int64`). Linear nodes (filter, projection, union all, unnest) are DataFusion's
//! own. Everything that needs state, and every input, is an [`IncrementalNode`], whose [`Operator`]
//! says by data alone what is to be computed: columns are positions in the node's inputs, expressions
//! have been evaluated by a projection below. So a plan can be shown, compared, and one day shipped.

mod asof;
mod explain;
mod match_recognize;
mod node;
mod operator;
mod pipeline;
mod window;

pub use asof::{Asof, AsofPlanner, Nearest};
pub use explain::{Cost, ExplainedNode, ExplainedState, Growth};
pub use match_recognize::{
    EmptyMatches, MatchAggregate, MatchRecognize, MatchValue, MatchValueKind, Navigation, NavigationEnd,
    Pattern, Repetition, Shown, Skip, Variable, Within, value_column,
};
pub use node::{IncrementalNode, fnv1a};
pub use operator::{
    Aggregate, AggregateCall, AggregateFunction, Close, CloseSource, Every, Expire, Held, Hold, Input,
    InputKind, Join, Lookup, Operator, OrderColumn, OtherAggregate, Recompute, SEQUENCE, Session,
    SessionBound, SetOperation, Temporal, TopN, Trim, TrimSide, Upsert,
};
pub use pipeline::{PipelinePlan, Properties, RelationId};
pub use window::{Reach, Scope, Window, WindowArg, WindowCall};
