//! One pipeline or sink of a dataflow: its plan, its operators' state, its view or outbox.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::execution::context::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;
use tidemill_core::sink::{Delivery, SinkBatch};
use tidemill_core::{Delta, Epoch, delta_schema};
use tidemill_plan::{Growth, InputKind, PipelinePlan, RelationId};
use tidemill_storage::{Budget, Checkpoint, Run, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::Error;
use crate::exec::{Compiled, LaneMetrics, OperatorMetrics, compile};
use crate::feed::Reads;
use crate::halt::Halt;
use crate::index::{Built, IndexSpec, IsBuilt};
use crate::metrics::{Counter, Histogram};
use crate::name::Name;
use crate::operators::{LateRows, Operator, StepContext};
use crate::outbox::Outbox;
use crate::status::{LaneStatus, OperatorStatus};
use crate::time::TimeSource;
use crate::view::{Held, History, View, ViewSnapshot};

/// Rows of an input batch above which it is cut up for the lanes.
const LANE_ROWS: usize = 4096;

/// A lane, even one in which a step has panicked: its state is put back like any other's.
fn whole(lane: &Mutex<Box<dyn Operator>>) -> MutexGuard<'_, Box<dyn Operator>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What others see of a member while it runs.
#[derive(Debug)]
pub struct MemberHandle {
    pub id: RelationId,
    pub name: Name,
    pub schema: SchemaRef,
    pub(crate) history: RwLock<History>,
    /// The last epoch that the member has finished.
    pub(crate) frontier: watch::Sender<Epoch>,
    /// Why it takes nothing in, if it does not.
    halt: RwLock<Option<Halt>>,
    pub(crate) subscribers: std::sync::Mutex<Vec<mpsc::UnboundedSender<(Epoch, Delta)>>>,
    pub metrics: MemberMetrics,
    /// The memory that its state may take.
    budget: RwLock<Arc<Budget>>,
    /// What its operators have done, since they were last made.
    operators: RwLock<Vec<Arc<OperatorMetrics>>>,
    /// By an operator's id, what keeps its state from growing for ever.
    bounds: RwLock<BTreeMap<String, &'static str>>,
}

/// What a member has done.
#[derive(Debug, Default)]
pub struct MemberMetrics {
    pub steps: Counter,
    pub rows_in: Counter,
    pub rows_out: Counter,
    pub step_time: Histogram,
    /// From the arrival of a step's oldest row to its result being readable.
    pub latency: Histogram,
    pub state_bytes: AtomicU64,
    pub late_rows: Counter,
    /// Input rows that a fill has taken in, and of how many, where that is known.
    pub fill_rows: Counter,
    pub fill_rows_total: OnceLock<u64>,
}

/// What a checkpoint holds of a member's outbox.
pub(crate) fn outbox_blobs(blobs: &BTreeMap<String, Bytes>, id: RelationId) -> BTreeMap<String, Bytes> {
    let prefix = format!("{id}/outbox");
    let of_member = blobs.range(prefix.clone()..).map_while(|(name, bytes)| {
        let end = name.strip_prefix(&prefix)?;
        Some((end.to_owned(), bytes.clone()))
    });
    of_member.collect()
}

impl MemberHandle {
    /// Of something that shows nothing yet.
    pub(crate) fn new(
        id: RelationId,
        name: &Name,
        schema: SchemaRef,
        budget: &Arc<Budget>,
        frontier: Epoch,
    ) -> MemberHandle {
        MemberHandle {
            id,
            name: name.clone(),
            schema,
            history: RwLock::default(),
            frontier: watch::Sender::new(frontier),
            halt: RwLock::default(),
            subscribers: Default::default(),
            metrics: MemberMetrics::default(),
            budget: RwLock::new(budget.clone()),
            operators: RwLock::default(),
            bounds: RwLock::default(),
        }
    }

    /// The memory that its state may take.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        self.budget.read().expect("nobody panics while holding it").clone()
    }

    pub fn frontier(&self) -> Epoch {
        *self.frontier.borrow()
    }

    pub(crate) fn halt(&self) -> Option<Halt> {
        self.halt.read().expect("nobody panics while holding it").clone()
    }

    pub(crate) fn set_halt(&self, halt: Option<Halt>) {
        *self.halt.write().expect("nobody panics while holding it") = halt;
    }

    /// Whether it takes in what is sealed.
    pub(crate) fn is_running(&self) -> bool {
        self.halt.read().expect("nobody panics while holding it").is_none()
    }

    /// Why it does not run, if it does not.
    pub(crate) fn not_running(&self) -> Option<Error> {
        let reason = self.halt()?.reason(&self.name.get());
        Some(Error::NotRunning { kind: "pipeline", name: self.name.to_string(), reason })
    }

    /// The newest snapshot; a sink has none, nor has a pipeline that is being filled.
    pub fn latest(&self) -> Option<Arc<ViewSnapshot>> {
        self.history.read().expect("nobody panics while holding it").latest()
    }

    /// What the member showed at `epoch`, if that is still known.
    pub fn at(&self, epoch: Epoch) -> Option<Arc<ViewSnapshot>> {
        self.history.read().expect("nobody panics while holding it").at(epoch, self.frontier())
    }
}

/// One pipeline or sink.
pub(crate) struct Member {
    pub id: RelationId,
    /// What its state is called in checkpoints: after it has been replaced, not by its own id.
    state: RelationId,
    pub handle: Arc<MemberHandle>,
    pub inputs: BTreeSet<RelationId>,
    compiled: Compiled,
    session: SessionState,
    view: Option<View>,
    /// Indexes of the view that are being built.
    builds: Mutex<JoinSet<Built>>,
    pub outbox: Option<Outbox>,
    has_run: bool,
    /// The last step was a part of a fill, of which operators wait for the end.
    is_filling: bool,
    is_append_only: bool,
    /// The epoch that its state is of.
    taken: Epoch,
    /// Says what the plan means; state of another plan is not taken over.
    fingerprint: String,
}

/// What a member is called.
pub(crate) struct Identity<'a> {
    pub id: RelationId,
    /// In checkpoints.
    pub state: RelationId,
    pub name: &'a Name,
}

/// What a handle had before another member took its member's place.
pub(crate) struct GiveBack {
    handle: Arc<MemberHandle>,
    budget: Arc<Budget>,
    bounds: BTreeMap<String, &'static str>,
}

impl GiveBack {
    /// The member is to stand there again.
    pub fn give_back(self) {
        let poisoned = "nobody panics while holding it";
        *self.handle.budget.write().expect(poisoned) = self.budget;
        *self.handle.bounds.write().expect(poisoned) = self.bounds;
    }
}

/// What a step gave.
pub(crate) struct StepResult {
    /// The change of the member's relation, weight last.
    pub changes: Vec<RecordBatch>,
    pub late: Vec<LateRows>,
}

impl Member {
    /// A member without state. With the handle of the one before, its readers do not notice that it is another.
    pub async fn new(
        Identity { id, state, name }: Identity<'_>,
        plan: &PipelinePlan,
        session: &SessionState,
        outbox: Option<Outbox>,
        budget: &Arc<Budget>,
        handle: Option<Arc<MemberHandle>>,
    ) -> Result<Member, Error> {
        let compiled = compile(&plan.delta_plan, session).await?;
        for lane in compiled.operators.iter().flat_map(|lanes| &lanes.lanes) {
            let mut operator = lane.lock().expect("nothing has run yet");
            operator.state().into_iter().for_each(|table| table.arrangement.keep_within(budget));
        }
        let n_parts = compiled.plan.n_parts();
        let view = match outbox {
            Some(_) => None,
            None => {
                let key = plan
                    .properties
                    .unique_keys
                    .iter()
                    .min_by_key(|key| key.len())
                    .cloned()
                    .unwrap_or_default();
                let mut view = View::new(plan.schema.clone(), &key, n_parts)?;
                view.keep_within(budget);
                Some(view)
            }
        };
        let handle = handle.unwrap_or_else(|| {
            let handle = MemberHandle::new(id, name, plan.schema.clone(), budget, Epoch::ZERO);
            Arc::new(MemberHandle { bounds: RwLock::new(bounds(plan)), ..handle })
        });
        *handle.operators.write().expect("nobody panics while holding it") =
            compiled.operators.iter().map(|lanes| lanes.metrics.clone()).collect();
        Ok(Member {
            id,
            state,
            handle,
            inputs: plan.inputs.iter().copied().collect(),
            fingerprint: plan.delta_plan.display_indent().to_string(),
            compiled,
            session: session.clone(),
            view,
            builds: Mutex::default(),
            outbox,
            has_run: false,
            is_filling: false,
            taken: Epoch::ZERO,
            is_append_only: plan.properties.is_append_only,
        })
    }

    /// What a step looks at.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.inputs.iter().for_each(|relation| reads.add(*relation, []));
        for (input, _) in &self.compiled.inputs {
            reads.add(input.relation, input.projection.iter().copied());
        }
        reads
    }

    /// Whether each epoch has to be a step of its own.
    pub fn is_stepwise(&self) -> bool {
        self.compiled.operators.iter().any(|lanes| lanes.is_stepwise)
    }

    /// Whether `now()` has a say in its result.
    pub fn reads_time(&self) -> bool {
        self.compiled.operators.iter().any(|lanes| lanes.is_timed)
    }

    /// When its result changes next, after `now`, although no input does.
    pub fn next_time(&self, now: i64) -> Result<Option<i64>, Error> {
        let mut first = None;
        for lanes in self.compiled.operators.iter().filter(|lanes| lanes.is_timed) {
            for operator in &lanes.lanes {
                let operator = operator.lock().expect("a member whose step panicked does not go on");
                first = [first, operator.next_time(now)?].into_iter().flatten().min();
            }
        }
        Ok(first)
    }

    /// Takes the changes of its inputs as one step. On an error nothing has changed.
    pub async fn step(
        &mut self,
        context: &StepContext,
        changes: &BTreeMap<RelationId, Vec<RecordBatch>>,
    ) -> Result<StepResult, Error> {
        let mut result = StepResult { changes: Vec::new(), late: Vec::new() };
        let is_touched = self.inputs.iter().any(|input| changes.get(input).is_some_and(|c| !c.is_empty()));
        // Of sources, also where other pipelines stand in between.
        let mut timed_by = self.compiled.operators.iter().flat_map(|lanes| &lanes.timed_by);
        let is_timed =
            timed_by.any(|source| context.watermarks.get(source) != context.watermarks_before.get(source));
        let is_due = || -> Result<bool, Error> {
            Ok(self.next_time(context.now_before)?.is_some_and(|next| next <= context.now))
        };
        if self.has_run && !self.is_filling && !is_touched && !is_timed && !is_due()? {
            return Ok(result);
        }
        let start = Instant::now();
        let undo = self.undo_point();
        *self.compiled.context.write().expect("nobody panics while holding the context") = context.clone();
        let n_rows_in = self.fill(changes)?;
        let outcome = self.execute().await;
        for operator in &self.compiled.operators {
            result.late.append(&mut operator.late.lock().expect("nobody panics while holding late rows"));
        }
        match outcome {
            Ok(batches) => result.changes = batches,
            Err(error) => {
                self.undo(undo);
                return Err(error);
            }
        }
        self.has_run = true;
        self.is_filling = context.is_filling;
        if let Some(view) = &self.view {
            view.relieve();
        }
        let metrics = &self.handle.metrics;
        metrics.steps.add(1);
        metrics.rows_in.add(n_rows_in);
        metrics.rows_out.add(result.changes.iter().map(|batch| batch.num_rows()).sum());
        metrics.late_rows.add(result.late.iter().map(|late| late.rows.num_rows()).sum());
        metrics.step_time.record(start.elapsed(), 1);
        Ok(result)
    }

    fn fill(&self, changes: &BTreeMap<RelationId, Vec<RecordBatch>>) -> Result<usize, Error> {
        let n_lanes = self.session.config().target_partitions();
        let mut n_rows = 0;
        for (input, slot) in &self.compiled.inputs {
            let mut pieces = Vec::new();
            for batch in changes.get(&input.relation).into_iter().flatten() {
                n_rows += batch.num_rows();
                let n_columns = batch.num_columns();
                let mut columns = input.projection.clone();
                if input.kind == InputKind::Upsert {
                    columns.push(n_columns - 2);
                }
                columns.push(n_columns - 1);
                let projected = batch.project(&columns)?;
                // Better no answer than one over NULLs that are none.
                if let Some(column) = slot.left_out(&projected) {
                    let message = format!("column \"{column}\" of \"{}\" was left out", input.name);
                    return Err(DataFusionError::Internal(message).into());
                }
                let n_pieces = (projected.num_rows() / LANE_ROWS).clamp(1, n_lanes);
                let n_each = projected.num_rows().div_ceil(n_pieces);
                for piece in 0..n_pieces {
                    let start = piece * n_each;
                    let len = n_each.min(projected.num_rows().saturating_sub(start));
                    if len > 0 {
                        pieces.push(projected.slice(start, len));
                    }
                }
            }
            slot.fill(pieces, n_lanes);
        }
        Ok(n_rows)
    }

    /// Runs the plan over what the slots hold, adding to the view part by part.
    async fn execute(&self) -> Result<Vec<RecordBatch>, Error> {
        let plan = self.compiled.plan.begin()?;
        let n_parts = plan.output_partitioning().partition_count();
        let parts = (0..n_parts).map(|part| self.execute_part(&plan, part));
        let batches = futures::future::try_join_all(parts).await?;
        Ok(batches.into_iter().flatten().collect())
    }

    async fn execute_part(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        part: usize,
    ) -> Result<Vec<RecordBatch>, Error> {
        let stream = plan.execute(part, self.session.task_ctx())?;
        let collect = async move {
            let batches: Vec<RecordBatch> = stream.try_collect().await?;
            Ok::<_, DataFusionError>(batches)
        };
        // A task of its own, so that the lanes run beside each other; it ends with a step that is given up.
        let mut batches = AbortOnDropHandle::new(tokio::spawn(collect))
            .await
            .map_err(|error| DataFusionError::Internal(format!("a step panicked: {error}")))??;
        batches.retain(|batch| batch.num_rows() > 0);
        if let Some(view) = &self.view {
            for batch in &batches {
                view.add(part, batch)?;
            }
        }
        Ok(batches)
    }

    fn undo_point(&self) -> (Vec<Snapshot>, Option<Held>) {
        let mut operators = Vec::new();
        for lanes in &self.compiled.operators {
            for lane in &lanes.lanes {
                let mut operator = whole(lane);
                operators.extend(operator.state().iter().map(|table| table.snapshot()));
            }
        }
        (operators, self.view.as_ref().map(View::held))
    }

    fn undo(&self, (operators, held): (Vec<Snapshot>, Option<Held>)) {
        let mut snapshots = operators.into_iter();
        for lanes in &self.compiled.operators {
            for lane in &lanes.lanes {
                for table in whole(lane).state() {
                    table.arrangement.reset(snapshots.next().expect("as many as before the step"));
                }
            }
        }
        if let (Some(view), Some(held)) = (&self.view, held) {
            view.reset(held);
        }
        self.compiled.operators.iter().for_each(|lanes| lanes.measure());
    }

    /// Lets the member have these indexes and no others. Gives who says when they are ready; a member without rows has
    /// them at once.
    pub fn set_indexes(&mut self, indexes: &[IndexSpec]) -> Result<Vec<IsBuilt>, Error> {
        self.view.as_mut().map_or(Ok(Vec::new()), |view| view.set_indexes(indexes))
    }

    /// Begins to build the indexes that wait for that.
    pub fn begin_builds(&mut self) {
        let builds = self.view.as_mut().map(View::begin_builds).unwrap_or_default();
        let mut running = self.builds.lock().expect("nobody panics while holding it");
        builds.into_iter().for_each(|build| drop(running.spawn_blocking(move || build.run())));
    }

    /// Asks for an index that has been built.
    pub fn poll_built(&self, context: &mut Context<'_>) -> Poll<Built> {
        let mut builds = self.builds.lock().expect("nobody panics while holding it");
        loop {
            match builds.poll_join_next(context) {
                Poll::Ready(Some(Ok(built))) => return Poll::Ready(built),
                // It was not begun any more: the server shuts down.
                Poll::Ready(Some(Err(_))) => (),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes over an index that was built, and lets readers use it.
    pub fn finish_build(&mut self, built: Built) {
        if self.view.as_mut().is_some_and(|view| view.finish_build(built)) {
            self.renew_snapshot();
        }
    }

    /// Lets readers see the rows that they see in the orders that there are now. The view shows what they see.
    pub fn renew_snapshot(&self) {
        if let Some(view) = &self.view {
            let mut history = self.handle.history.write().expect("nobody panics while holding it");
            history.renew(|epoch| view.snapshot(epoch));
        }
    }

    /// The epoch that its state is of.
    pub fn taken(&self) -> Epoch {
        self.taken
    }

    /// Lets readers see the member at `epoch`. `is_touched` says whether the step was about it at all.
    pub fn publish(
        &mut self,
        epoch: Epoch,
        changes: &[RecordBatch],
        is_touched: bool,
        arrived: Option<Instant>,
    ) -> Result<(), Error> {
        self.taken = epoch;
        let handle = &self.handle;
        // Held all along: a subscriber's first snapshot and its first change fit together.
        let mut subscribers = handle.subscribers.lock().expect("nobody panics while holding it");
        if let Some(view) = &self.view {
            let mut history = handle.history.write().expect("nobody panics while holding it");
            let frontier = handle.frontier();
            if !changes.is_empty() {
                history.push(view.snapshot(epoch), frontier);
            } else if is_touched && epoch.0 > frontier.0 + 1 {
                // What came and went within the step was there at an epoch in between.
                history.resume(frontier, epoch);
            }
        }
        handle.frontier.send_replace(epoch);
        if changes.is_empty() {
            return Ok(());
        }
        if let Some(arrived) = arrived {
            handle.metrics.latency.record(arrived.elapsed(), 1);
        }
        if !subscribers.is_empty() {
            let delta = consolidate_delta(&handle.schema, changes)?;
            subscribers.retain(|subscriber| subscriber.send((epoch, delta.clone())).is_ok());
        }
        Ok(())
    }

    /// Lets readers see all that a fill has brought.
    pub fn publish_all(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.taken = epoch;
        let handle = &self.handle;
        let subscribers = handle.subscribers.lock().expect("nobody panics while holding it");
        if let Some(view) = &self.view {
            let snapshot = view.snapshot(epoch);
            if !subscribers.is_empty() {
                let delta = difference(handle.latest().as_deref(), &snapshot)?;
                let is_change = !delta.is_empty();
                subscribers.iter().filter(|_| is_change).for_each(|subscriber| {
                    // Who does not listen any more is forgotten at the next step.
                    let _ = subscriber.send((epoch, delta.clone()));
                });
            }
            let mut history = handle.history.write().expect("nobody panics while holding it");
            history.push(snapshot, handle.frontier());
        }
        handle.frontier.send_replace(epoch);
        Ok(())
    }

    /// Hands a step's change to the sink.
    pub fn send(&self, from: Epoch, to: Epoch, changes: &[RecordBatch]) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        if changes.is_empty() {
            return Ok(());
        }
        // Insertions alone cancel nothing out, and go in the order in which they came.
        let delta = match (self.is_append_only, outbox.delivery()) {
            (true, Delivery::AtLeastOnce) => {
                // What leaves at once needs no name.
                for batch in changes {
                    outbox.push(SinkBatch { from, to, delta: Delta::new(batch.clone()) });
                }
                return Ok(());
            }
            (true, Delivery::ExactlyOnce) => concat_delta(&self.handle.schema, changes)?,
            (false, _) => consolidate_delta(&self.handle.schema, changes)?,
        };
        if !delta.is_empty() {
            outbox.push(SinkBatch { from, to, delta });
        }
        Ok(())
    }

    /// Takes the place of another, for those who read that one. Gives what puts the other's handle back.
    pub fn take_place_of(&mut self, old: &Member) -> GiveBack {
        let (own, handle) = (&self.handle, &old.handle);
        let poisoned = "nobody panics while holding it";
        let give_back = GiveBack {
            handle: handle.clone(),
            budget: handle.budget(),
            bounds: handle.bounds.read().expect(poisoned).clone(),
        };
        // Whoever still has the handle of its own must not wait for it.
        let reason = format!("it has taken the place of \"{}\"", handle.name);
        own.set_halt(Some(Halt::Failed { reason, since: TimeSource::System.now() }));
        *handle.budget.write().expect(poisoned) = own.budget();
        *handle.operators.write().expect(poisoned) = own.operators.read().expect(poisoned).clone();
        *handle.bounds.write().expect(poisoned) = own.bounds.read().expect(poisoned).clone();
        self.id = old.id;
        self.handle = handle.clone();
        give_back
    }

    /// The change that makes another's relation this one's.
    pub fn difference_from(&self, old: &Member) -> Result<Vec<Delta>, Error> {
        let (Some(before), Some(after)) = (&old.view, &self.view) else {
            return Err(Error::Unsupported("a sink is replaced".into()));
        };
        before.snapshot(Epoch::ZERO).difference(&after.snapshot(Epoch::ZERO))
    }

    /// Whether it counts on rows of an input that stay for ever.
    pub fn counts_on_appends_of(&self, input: RelationId) -> bool {
        let inputs = &self.compiled.inputs;
        inputs.iter().any(|(known, _)| known.relation == input && known.kind == InputKind::Append)
    }

    /// The member's relation as it is now, as insertions.
    pub fn contents(&self) -> Result<Vec<RecordBatch>, Error> {
        let Some(view) = &self.view else { return Ok(Vec::new()) };
        let rows = view.snapshot(Epoch::ZERO).batches()?;
        Ok(rows.iter().map(|rows| Delta::inserts(rows).into_batch()).collect())
    }

    /// Adds what belongs into a checkpoint; gives the member's part of its words.
    pub fn capture(&self, checkpoint: &mut Checkpoint) -> serde_json::Value {
        let id = self.state;
        let mut state_bytes = 0;
        let mut add = |name: String, snapshot: &Snapshot| {
            state_bytes += snapshot.size();
            checkpoint.runs.insert(name, snapshot.runs().to_vec());
        };
        for lanes in &self.compiled.operators {
            for (lane, operator) in lanes.lanes.iter().enumerate() {
                let mut operator = operator.lock().expect("a member whose step panicked is not captured");
                for table in operator.state() {
                    add(format!("{id}/{}/{}/{lane}", lanes.id, table.name), table.arrangement.current());
                }
            }
        }
        for (part, snapshot) in self.view.iter().flat_map(View::parts).enumerate() {
            add(format!("{id}/view/{part}"), &snapshot);
        }
        for (name, snapshot) in self.view.iter().flat_map(View::captured_indexes) {
            add(format!("{id}/{name}"), &snapshot);
        }
        if let Some(outbox) = &self.outbox {
            let blobs = outbox.capture().into_iter();
            checkpoint.blobs.extend(blobs.map(|(name, bytes)| (format!("{id}/outbox{name}"), bytes)));
        }
        self.handle.metrics.state_bytes.store(state_bytes as u64, Ordering::Relaxed);
        let mut words = serde_json::json!({
            "relation": self.id,
            "name": self.handle.name.to_string(),
            "plan": self.fingerprint,
            "has_run": self.has_run,
            "n_lanes": self.session.config().target_partitions(),
        });
        if self.state != self.id {
            words["state"] = serde_json::json!(self.state);
        }
        words
    }

    /// Takes over what a checkpoint holds of this member.
    pub fn restore(
        &mut self,
        checkpoint: &Checkpoint,
        words: &serde_json::Value,
        epoch: Epoch,
    ) -> Result<(), Error> {
        if words["plan"].as_str() != Some(&self.fingerprint) {
            return Err(Error::StateMissing { what: format!("pipeline \"{}\"", self.handle.name), epoch });
        }
        self.has_run = words["has_run"].as_bool().unwrap_or(false);
        let id = self.state;
        for lanes in &self.compiled.operators {
            let names: Vec<String> = {
                let mut operator = lanes.lanes[0].lock().expect("nothing has run yet");
                operator.state().iter().map(|table| table.name.clone()).collect()
            };
            for (table_idx, name) in names.iter().enumerate() {
                let prefix = format!("{id}/{}/{name}/", lanes.id);
                let stored: Vec<&Vec<Arc<Run>>> = {
                    let lane_runs = |lane: usize| checkpoint.runs.get(&format!("{prefix}{lane}"));
                    (0..).map_while(lane_runs).collect()
                };
                if stored.is_empty() {
                    let what = format!("operator {} of \"{}\"", lanes.id, self.handle.name);
                    return Err(Error::StateMissing { what, epoch });
                }
                if stored.len() == lanes.lanes.len() {
                    for (lane, runs) in stored.iter().enumerate() {
                        let mut operator = lanes.lanes[lane].lock().expect("nothing has run yet");
                        let mut tables = operator.state();
                        tables[table_idx].arrangement.replace((*runs).clone());
                    }
                } else {
                    redeal(lanes, table_idx, &stored)?;
                }
            }
        }
        if let Some(view) = &mut self.view {
            let parts = (0..).map_while(|part| checkpoint.runs.get(&format!("{id}/view/{part}")));
            let runs = parts.flatten().cloned().collect();
            view.restore(runs, |name| checkpoint.runs.get(&format!("{id}/{name}")));
        }
        self.compiled.operators.iter().for_each(|lanes| lanes.measure());
        if let Some(outbox) = &mut self.outbox {
            let blobs = outbox_blobs(&checkpoint.blobs, id);
            if blobs.is_empty() {
                let what = format!("sink \"{}\"", self.handle.name);
                return Err(Error::StateMissing { what, epoch });
            }
            outbox.restore(&blobs, epoch)?;
        }
        self.taken = epoch;
        // What has been shown since the checkpoint stays until there is something newer.
        if self.handle.frontier() > Epoch::ZERO {
            return Ok(());
        }
        self.handle.frontier.send_replace(epoch);
        if let Some(view) = &self.view {
            let mut history = self.handle.history.write().expect("nobody panics while holding it");
            history.push(view.snapshot(epoch), epoch);
        }
        Ok(())
    }
}

impl MemberHandle {
    /// What its operators have done. Costs a few loads, and waits for nobody.
    pub fn operators(&self) -> Vec<OperatorStatus> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lane = |lane: &LaneMetrics| LaneStatus {
            steps: load(&lane.steps),
            rows_in: load(&lane.rows_in),
            rows_out: load(&lane.rows_out),
            nanos: load(&lane.nanos),
            state_rows: load(&lane.state_rows),
            state_bytes: load(&lane.state_bytes),
            state_heap_bytes: load(&lane.state_heap_bytes),
        };
        let bounds = self.bounds.read().expect("nobody panics while holding it");
        let status = |operator: &Arc<OperatorMetrics>| OperatorStatus {
            id: operator.id.clone(),
            display: operator.display.clone(),
            bound: bounds.get(&operator.id).copied().unwrap_or(Growth::Finite.bound()),
            lanes: operator.lanes.iter().map(lane).collect(),
        };
        self.operators.read().expect("nobody panics while holding it").iter().map(status).collect()
    }
}

/// What bounds the state of each operator of a plan.
fn bounds(plan: &PipelinePlan) -> BTreeMap<String, &'static str> {
    let nodes = plan.explained.walk().into_iter();
    nodes.filter_map(|(_, node)| Some((node.id.clone(), node.state.as_ref()?.growth.bound()))).collect()
}

/// Deals the rows of a table that was kept in another number of lanes out anew, with the hash by which
/// DataFusion repartitions.
fn redeal(lanes: &crate::exec::Lanes, table_idx: usize, stored: &[&Vec<Arc<Run>>]) -> Result<(), Error> {
    let (layout, deal_by) = {
        let mut operator = lanes.lanes[0].lock().expect("nothing has run yet");
        let tables = operator.state();
        (tables[table_idx].arrangement.layout().clone(), tables[table_idx].deal_by.clone())
    };
    let all: Vec<Arc<Run>> = stored.iter().flat_map(|runs| runs.iter().cloned()).collect();
    let snapshot = Snapshot::of(layout.clone(), all);
    let (rows, weights): (Vec<&[u8]>, Vec<i64>) = snapshot.cursor().unzip();
    let rows = layout.decode_batch(rows)?;
    let delta = Delta::weighted(&rows, Arc::new(arrow::array::Int64Array::from(weights)));
    let column = |idx: &usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("", *idx)) };
    let exprs = deal_by.iter().map(column).collect();
    let mut partitioner = BatchPartitioner::new_hash_partitioner(exprs, lanes.lanes.len(), Time::new())?;
    partitioner.partition(delta.into_batch(), |lane, batch| {
        let delta = Delta::new(batch);
        let mut operator = lanes.lanes[lane].lock().expect("nothing has run yet");
        operator.state()[table_idx].add(delta.rows().columns(), delta.weights().values())?;
        Ok(())
    })?;
    Ok(())
}

/// A change as one batch, with the names of `schema`.
fn concat_delta(schema: &SchemaRef, changes: &[RecordBatch]) -> Result<Delta, Error> {
    let delta_schema = delta_schema(schema);
    let renamed = |batch: &RecordBatch| RecordBatch::try_new(delta_schema.clone(), batch.columns().to_vec());
    let changes = changes.iter().map(renamed).collect::<Result<Vec<_>, _>>()?;
    Ok(Delta::new(arrow::compute::concat_batches(&delta_schema, &changes)?))
}

/// The change that makes one view another.
fn difference(before: Option<&ViewSnapshot>, after: &ViewSnapshot) -> Result<Delta, Error> {
    let mut changes = Vec::new();
    for (snapshot, weight) in before.map(|before| (before, -1)).into_iter().chain([(after, 1)]) {
        for rows in snapshot.batches()? {
            let weights = Arc::new(arrow::array::Int64Array::from_value(weight, rows.num_rows()));
            changes.push(Delta::weighted(&rows, weights).into_batch());
        }
    }
    consolidate_delta(&after.schema, &changes)
}

/// A change with each row once and no weight zero, retractions first.
pub(crate) fn consolidate_delta(schema: &SchemaRef, changes: &[RecordBatch]) -> Result<Delta, Error> {
    let all = concat_delta(schema, changes)?;
    let view = View::new(schema.clone(), &[], 1)?;
    view.add(0, all.batch())?;
    let snapshot = view.snapshot(Epoch::ZERO);
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    for is_insertion in [false, true] {
        for (row, weight) in snapshot.arrangement().cursor() {
            if (weight > 0) == is_insertion {
                rows.push(row);
                weights.push(weight);
            }
        }
    }
    let rows = snapshot.decode(&rows)?;
    Ok(Delta::weighted(&rows, Arc::new(arrow::array::Int64Array::from(weights))))
}
