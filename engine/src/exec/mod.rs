//! Incremental operators as DataFusion execution plans.
//!
//! A rewritten plan is planned by DataFusion's own physical planner; [`IncrementalPlanner`] adds the
//! two nodes that it does not know. [`InputExec`] gives the changes that a step is about, and
//! [`OperatorExec`] adapts any [`Operator`](crate::operators::Operator): it asks for its inputs
//! distributed by the operator's keys, for which DataFusion inserts repartitions, and partition *p* runs
//! lane *p*. Operators that are the same are one ([`shared`]).

mod batch_plan;
mod durations;
mod input;
mod operator;
mod planner;
mod shared;

pub(crate) use batch_plan::{BatchPlan, BoundedExec, HeldExec, HeldSlot, Iterations};
pub(crate) use input::{InputExec, InputSlot};
pub(crate) use operator::{LaneMetrics, Lanes, OperatorExec, OperatorMetrics};
pub(crate) use planner::{Compiled, compile};
pub(crate) use shared::StepPlan;
