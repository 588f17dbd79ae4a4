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
//! The planner gives equal operators the same [`Lanes`](super::Lanes). [`StepPlan::new`] then finds what is the same in
//! the physical plan, which DataFusion takes for a tree: such operators, and what else is work over them or over
//! inputs, such as filters and dealing rows out. Its places become leaves that read one list of batches per lane.
//! Whoever polls first drives the lane, the others wait for the list and not for each other, so that no
//! order of polling can block. A lane's list goes when its last reader has read it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, TryStreamExt, stream};

use super::{InputExec, InputSlot, OperatorExec};

/// A plan that runs once in each step, in which what is the same is computed once.
pub(crate) struct StepPlan {
    plan: Arc<dyn ExecutionPlan>,
    /// What several places of the plan read, each behind what it reads itself.
    shared: Vec<Arc<SharedPlan>>,
}

impl StepPlan {
    /// Puts one [`SharedPlan`] in the place of sub-plans that are the same.
    pub fn new(plan: Arc<dyn ExecutionPlan>) -> Result<StepPlan> {
        let mut classes = Classes::default();
        classes.count_places(&plan);
        let mut sharing = Sharing { classes, known: HashMap::new(), plans: Vec::new() };
        // A copy, since nodes are known by where they are, and these have to stay.
        let replaced = sharing.replace(plan.clone())?;
        Ok(StepPlan { plan: replaced, shared: sharing.plans })
    }

    /// The plan as it runs in the next step: afresh, all but its operators' state.
    pub fn begin(&self) -> Result<Arc<dyn ExecutionPlan>> {
        self.shared.iter().try_for_each(|shared| shared.reset())?;
        reset_plan_states(self.plan.clone())
    }

    pub fn n_parts(&self) -> usize {
        self.plan.output_partitioning().partition_count()
    }

    /// Whether rows put there are read: not those of a plan in whose place another one is read.
    pub fn reads(&self, slot: &Arc<InputSlot>) -> bool {
        let plans = self.shared.iter().map(|shared| &shared.plan).chain([&self.plan]);
        plans.into_iter().any(|plan| reads(plan, slot))
    }
}

/// The sub-plans of a plan, those that are the same under the same number.
#[derive(Default)]
struct Classes {
    known: Vec<Class>,
    /// Those of nodes of a name over inputs of some classes.
    by_inputs: HashMap<(String, Vec<usize>), Vec<usize>>,
    /// By where a node is, while the plan that it is part of lives.
    by_node: HashMap<*const (), usize>,
}

struct Class {
    /// One of them.
    plan: Arc<dyn ExecutionPlan>,
    /// Of how many places it is read, if what is the same is computed once.
    n_places: usize,
}

impl Classes {
    fn of(&mut self, plan: &Arc<dyn ExecutionPlan>) -> usize {
        let node = Arc::as_ptr(plan).cast::<()>();
        if let Some(class) = self.by_node.get(&node) {
            return *class;
        }
        let inputs = match plan.is::<OperatorExec>() {
            // Its lanes say it all, and must not run twice whatever became of what is below.
            true => Vec::new(),
            false => plan.children().into_iter().map(|child| self.of(child)).collect(),
        };
        let alike = self.by_inputs.entry((plan.name().to_owned(), inputs)).or_default();
        let same = alike.iter().find(|class| does_the_same(self.known[**class].plan.as_ref(), plan.as_ref()));
        let class = same.copied().unwrap_or_else(|| {
            self.known.push(Class { plan: plan.clone(), n_places: 0 });
            alike.push(self.known.len() - 1);
            self.known.len() - 1
        });
        self.by_node.insert(node, class);
        class
    }

    fn count_places(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        if is_work(plan.as_ref()) {
            let class = self.of(plan);
            self.known[class].n_places += 1;
            if self.known[class].n_places > 1 {
                return;
            }
        }
        plan.children().into_iter().for_each(|child| self.count_places(child));
    }
}

/// Whether to do it again costs more than to keep what it gives until all have read it.
fn is_work(plan: &dyn ExecutionPlan) -> bool {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return projection.expr().iter().any(|projected| !projected.expr.is::<Column>());
    }
    plan.is::<OperatorExec>()
        || plan.is::<FilterExec>()
        || plan.is::<RepartitionExec>()
        || plan.is::<UnnestExec>()
}

/// Whether two nodes do the same, given inputs that are.
fn does_the_same(a: &dyn ExecutionPlan, b: &dyn ExecutionPlan) -> bool {
    if let (Some(a), Some(b)) = (a.downcast_ref::<OperatorExec>(), b.downcast_ref::<OperatorExec>()) {
        return Arc::ptr_eq(&a.lanes, &b.lanes);
    }
    if a.schema() != b.schema() || a.fetch() != b.fetch() {
        return false;
    }
    if let (Some(a), Some(b)) = (a.downcast_ref::<InputExec>(), b.downcast_ref::<InputExec>()) {
        return a.input == b.input;
    }
    if let (Some(a), Some(b)) = (a.downcast_ref::<ProjectionExec>(), b.downcast_ref::<ProjectionExec>()) {
        return a.expr() == b.expr();
    }
    if let (Some(a), Some(b)) = (a.downcast_ref::<FilterExec>(), b.downcast_ref::<FilterExec>()) {
        return a.predicate() == b.predicate() && a.projection() == b.projection();
    }
    if let (Some(a), Some(b)) = (a.downcast_ref::<RepartitionExec>(), b.downcast_ref::<RepartitionExec>()) {
        return a.partitioning() == b.partitioning() && !a.preserve_order() && !b.preserve_order();
    }
    if let (Some(a), Some(b)) = (a.downcast_ref::<UnnestExec>(), b.downcast_ref::<UnnestExec>()) {
        let indices = |unnest: &UnnestExec| {
            let list = |list: &ListUnnest| (list.index_in_input_schema, list.depth);
            unnest.list_column_indices().iter().map(list).collect::<Vec<_>>()
        };
        return indices(a) == indices(b)
            && a.struct_column_indices() == b.struct_column_indices()
            && a.options() == b.options();
    }
    (a.is::<UnionExec>() && b.is::<UnionExec>())
        || (a.is::<CoalescePartitionsExec>() && b.is::<CoalescePartitionsExec>())
}

fn reads(plan: &Arc<dyn ExecutionPlan>, slot: &Arc<InputSlot>) -> bool {
    plan.downcast_ref::<InputExec>().is_some_and(|input| Arc::ptr_eq(&input.slot, slot))
        || plan.children().into_iter().any(|child| reads(child, slot))
}

struct Sharing {
    classes: Classes,
    known: HashMap<usize, Arc<SharedPlan>>,
    plans: Vec<Arc<SharedPlan>>,
}

impl Sharing {
    fn replace(&mut self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let class = if is_work(plan.as_ref()) { Some(self.classes.of(&plan)) } else { None };
        let class = class.filter(|class| self.classes.known[*class].n_places > 1);
        if let Some(known) = class.and_then(|class| self.known.get(&class)) {
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
        let Some(class) = class else { return Ok(plan) };
        let shared = Arc::new(SharedPlan::new(plan, self.classes.known[class].n_places));
        self.known.insert(class, shared.clone());
        self.plans.push(shared.clone());
        Ok(Arc::new(SharedExec { shared }))
    }
}

/// What a lane gives in a step: errors are shared as well.
type Outcome = Result<Arc<[RecordBatch]>, Arc<DataFusionError>>;

/// A plan that several others read.
struct SharedPlan {
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
    fn reset(&self) -> Result<()> {
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
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, lit};
    use datafusion::physical_plan::collect;
    use tidemill_plan::{Input, InputKind, RelationId};

    use super::*;

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
    async fn the_same_filters_of_the_same_input_are_one() {
        let filter = |input: InputExec, above: i64| -> Arc<dyn ExecutionPlan> {
            let column = Arc::new(Column::new("a", 0));
            let predicate = Arc::new(BinaryExpr::new(column, Operator::Gt, lit(above)));
            Arc::new(FilterExec::try_new(predicate, Arc::new(input)).unwrap())
        };
        let inputs: Vec<InputExec> = (0..4).map(|_| input(2)).collect();
        let slots: Vec<Arc<InputSlot>> = inputs.iter().map(|input| input.slot.clone()).collect();
        let (one, two) = (batch(&inputs[0], 1), batch(&inputs[0], 2));
        let plans = inputs.into_iter().zip([1, 1, 0, 1]).map(|(input, above)| filter(input, above));
        let plan = StepPlan::new(UnionExec::try_new(plans.collect()).unwrap()).unwrap();
        let is_read: Vec<bool> = slots.iter().map(|slot| plan.reads(slot)).collect();
        assert_eq!(is_read, [true, false, true, false]);
        for _ in 0..2 {
            slots.iter().for_each(|slot| slot.fill(vec![one.clone(), two.clone()], 2));
            let batches = collect(plan.begin().unwrap(), Arc::default()).await.unwrap();
            // Three rows of 2 for each filter, and three of 1 for the one that lets them through.
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 15);
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
