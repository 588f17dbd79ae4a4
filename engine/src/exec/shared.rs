//! Sub-plans that stand more than once in a plan are computed once a step.
//!
//! ```text
//!        Join                        Join
//!       ╱    ╲                      ╱    ╲
//!  Filter    Project     ─▶    Filter    Project
//!     │         │                  │         │
//! Aggregate  Aggregate         SharedExec  SharedExec      both read what the one
//!     │         │                    ╲     ╱               Aggregate gives
//!   Input     Input                 Aggregate ─ Input
//! ```
//!
//! The planner gives equal operators the same [`Lanes`]; [`share`] then replaces their places in the physical plan,
//! which DataFusion takes for a tree, by leaves that read one list of batches per lane. Whoever polls first drives
//! the lane, the others wait for the list and not for each other, so that no order of polling can block.
//! A lane's list goes when its last reader has read it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Lanes, OperatorExec};

/// Puts one [`SharedPlan`] in the place of operators that are the same. Gives the new plan, and the shared parts of
/// it, each behind those that it reads.
pub(crate) fn share(plan: Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, Vec<Arc<SharedPlan>>)> {
    let mut n_places = HashMap::new();
    count_places(&plan, &mut n_places);
    n_places.retain(|_, n| *n > 1);
    let mut sharing = Sharing { n_places, known: HashMap::new(), plans: Vec::new() };
    let plan = sharing.replace(plan)?;
    Ok((plan, sharing.plans))
}

/// An operator of a plan, by the lanes that are its own.
type Identity = *const Lanes;

fn identity(plan: &dyn ExecutionPlan) -> Option<Identity> {
    plan.downcast_ref::<OperatorExec>().map(|operator| Arc::as_ptr(&operator.lanes))
}

/// How often each operator is read, if what is the same is computed once.
fn count_places(plan: &Arc<dyn ExecutionPlan>, n_places: &mut HashMap<Identity, usize>) {
    if let Some(operator) = identity(plan.as_ref()) {
        let n = n_places.entry(operator).or_default();
        *n += 1;
        if *n > 1 {
            return;
        }
    }
    plan.children().into_iter().for_each(|child| count_places(child, n_places));
}

struct Sharing {
    n_places: HashMap<Identity, usize>,
    known: HashMap<Identity, Arc<SharedPlan>>,
    plans: Vec<Arc<SharedPlan>>,
}

impl Sharing {
    fn replace(&mut self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let shared = identity(plan.as_ref())
            .and_then(|operator| self.n_places.get(&operator).map(|n_readers| (operator, *n_readers)));
        if let Some((operator, _)) = shared
            && let Some(known) = self.known.get(&operator)
        {
            return Ok(Arc::new(SharedExec { shared: known.clone() }));
        }
        let children: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
        let replaced =
            children.iter().map(|child| self.replace(child.clone())).collect::<Result<Vec<_>>>()?;
        let is_same = children.iter().zip(&replaced).all(|(old, new)| Arc::ptr_eq(old, new));
        let plan = if is_same {
            plan
        } else {
            plan.replace_children(replaced, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))?
        };
        let Some((operator, n_readers)) = shared else { return Ok(plan) };
        let shared = Arc::new(SharedPlan::new(plan, n_readers));
        self.known.insert(operator, shared.clone());
        self.plans.push(shared.clone());
        Ok(Arc::new(SharedExec { shared }))
    }
}

/// What a lane gives in a step: errors are shared as well.
type Outcome = Result<Arc<[RecordBatch]>, Arc<DataFusionError>>;

/// A plan that several others read.
pub(crate) struct SharedPlan {
    plan: Arc<dyn ExecutionPlan>,
    n_readers: usize,
    step: Mutex<Step>,
}

/// A run of the plan.
struct Step {
    plan: Arc<dyn ExecutionPlan>,
    lanes: Vec<Option<Lane>>,
}

#[derive(Clone)]
struct Lane {
    outcome: Shared<BoxFuture<'static, Outcome>>,
    n_left: usize,
}

impl fmt::Debug for SharedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPlan").field("plan", &self.plan).field("n_readers", &self.n_readers).finish()
    }
}

impl SharedPlan {
    fn new(plan: Arc<dyn ExecutionPlan>, n_readers: usize) -> SharedPlan {
        let n_lanes = plan.output_partitioning().partition_count();
        let step = Step { plan: plan.clone(), lanes: vec![None; n_lanes] };
        SharedPlan { plan, n_readers, step: Mutex::new(step) }
    }

    /// Begins a step, as [`reset_plan_states`] does for a plan. Nothing of the step before is left.
    pub fn reset(&self) -> Result<()> {
        let plan = reset_plan_states(self.plan.clone())?;
        let mut step = self.step.lock().expect("nobody panics while holding it");
        step.plan = plan;
        step.lanes.fill(None);
        Ok(())
    }

    fn outcome(
        &self,
        lane_idx: usize,
        context: Arc<TaskContext>,
    ) -> Result<Shared<BoxFuture<'static, Outcome>>> {
        let mut step = self.step.lock().expect("nobody panics while holding it");
        let mut lane = match step.lanes[lane_idx].take() {
            Some(lane) => lane,
            None => {
                let stream = step.plan.execute(lane_idx, context)?;
                let outcome = stream.try_collect::<Vec<_>>().map(|batches| match batches {
                    Ok(batches) => Ok(Arc::from(batches)),
                    Err(error) => Err(Arc::new(error)),
                });
                Lane { outcome: outcome.boxed().shared(), n_left: self.n_readers }
            }
        };
        lane.n_left -= 1;
        let outcome = lane.outcome.clone();
        step.lanes[lane_idx] = (lane.n_left > 0).then_some(lane);
        Ok(outcome)
    }
}

/// Reads a [`SharedPlan`].
#[derive(Debug)]
struct SharedExec {
    shared: Arc<SharedPlan>,
}

impl DisplayAs for SharedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SharedExec: readers={} ", self.shared.n_readers)?;
        self.shared.plan.fmt_as(DisplayFormatType::Default, f)
    }
}

impl ExecutionPlan for SharedExec {
    fn name(&self) -> &str {
        "SharedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.shared.plan.properties()
    }

    /// None: whoever walks a plan takes it for a tree, and would make copies of what is shared.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("what reads a shared plan has no children");
        }
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let outcome = self.shared.outcome(partition, context)?;
        let batches = stream::once(outcome).flat_map(|outcome| {
            let mut batches = Vec::new();
            match outcome {
                Ok(shared) => batches.extend(shared.iter().cloned().map(Ok)),
                Err(error) => batches.push(Err(DataFusionError::Shared(error))),
            }
            stream::iter(batches)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::union::UnionExec;
    use tidemill_plan::{Input, InputKind, RelationId};

    use super::*;
    use crate::exec::InputExec;

    fn input(n_lanes: usize) -> InputExec {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let input =
            Input { relation: RelationId(1), name: "t".into(), projection: vec![0], kind: InputKind::Append };
        InputExec::new(input, schema, n_lanes)
    }

    fn batch(input: &InputExec, value: i64) -> RecordBatch {
        RecordBatch::try_new(input.schema(), vec![Arc::new(Int64Array::from(vec![value; 3]))]).unwrap()
    }

    /// Two readers of one plan of two lanes.
    fn two_readers(plan: Arc<dyn ExecutionPlan>) -> (Arc<SharedPlan>, Arc<dyn ExecutionPlan>) {
        let shared = Arc::new(SharedPlan::new(plan, 2));
        let reader = || -> Arc<dyn ExecutionPlan> { Arc::new(SharedExec { shared: shared.clone() }) };
        let both = UnionExec::try_new(vec![reader(), reader()]).unwrap();
        (shared.clone(), both)
    }

    #[tokio::test]
    async fn each_reader_gets_all_rows_in_each_step() {
        let input = input(2);
        let slot = input.slot.clone();
        let (one, two) = (batch(&input, 1), batch(&input, 2));
        let (shared, both) = two_readers(Arc::new(input));
        let all: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(both));
        for _ in 0..2 {
            slot.fill(vec![one.clone(), two.clone()], 2);
            shared.reset().unwrap();
            let plan = reset_plan_states(all.clone()).unwrap();
            let batches = collect(plan, Arc::default()).await.unwrap();
            // The slot gave its six rows once, or one reader would have none.
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 12);
            let step = shared.step.lock().unwrap();
            assert!(step.lanes.iter().all(Option::is_none), "the lists are gone once they are read");
        }
    }

    #[tokio::test]
    async fn readers_do_not_wait_for_each_other() {
        let input = input(2);
        input.slot.fill(vec![batch(&input, 1), batch(&input, 2)], 2);
        let (shared, both) = two_readers(Arc::new(input));
        shared.reset().unwrap();
        // One after the other, the last first; and one that began and was dropped.
        let mut abandoned = both.execute(1, Arc::default()).unwrap();
        let _ = futures::poll!(abandoned.next());
        drop(abandoned);
        for (partition, value) in [(3, 2), (2, 1), (0, 1)] {
            let stream = both.execute(partition, Arc::default()).unwrap();
            let batches: Vec<RecordBatch> =
                tokio::time::timeout(Duration::from_secs(5), stream.try_collect()).await.unwrap().unwrap();
            let values = batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            assert_eq!(values.values(), &[value; 3], "partition {partition}");
        }
    }
}
