//! From a rewritten logical plan to an execution plan with its inputs and operators.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Result, internal_err};
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use tidemill_plan as plan;
use tidemill_plan::IncrementalNode;

use super::durations::with_durations;
use super::{
    BatchPlan, BoundedExec, HeldExec, HeldSlot, InputExec, InputSlot, Iterations, LaneMetrics, Lanes,
    OperatorExec, OperatorMetrics, StepPlan,
};
use crate::operators::{Build, StepContext, build, distribution};

/// An execution plan with the ends that a dataflow holds.
pub(crate) struct Compiled {
    pub plan: StepPlan,
    pub inputs: Vec<(plan::Input, Arc<InputSlot>)>,
    pub operators: Vec<Arc<Lanes>>,
    pub context: Arc<RwLock<StepContext>>,
}

/// Plans a rewritten query. `session` says the number of lanes.
pub(crate) async fn compile(logical: &LogicalPlan, session: &SessionState) -> Result<Compiled> {
    let planner = Arc::new(IncrementalPlanner::default());
    let physical = DefaultPhysicalPlanner::with_extension_planners(vec![planner.clone()]);
    let plan = physical.create_physical_plan(&with_durations(logical)?, session).await?;
    let plan = StepPlan::new(plan)?;
    let mut found = std::mem::take(&mut *planner.found.lock().expect("planning does not panic"));
    found.inputs.retain(|(_, slot)| plan.reads(slot));
    let operators = found.operators.into_iter().map(|(_, lanes)| lanes).collect();
    Ok(Compiled { plan, inputs: found.inputs, operators, context: planner.context.clone() })
}

#[derive(Default)]
struct IncrementalPlanner {
    context: Arc<RwLock<StepContext>>,
    found: Mutex<Found>,
}

impl IncrementalPlanner {
    /// The lanes of an operator that does the same to the same.
    fn known(&self, node: &IncrementalNode) -> Option<Arc<Lanes>> {
        let found = self.found.lock().expect("planning does not panic");
        found.operators.iter().find(|(known, _)| known == node).map(|(_, lanes)| lanes.clone())
    }
}

#[derive(Default)]
struct Found {
    inputs: Vec<(plan::Input, Arc<InputSlot>)>,
    operators: Vec<(IncrementalNode, Arc<Lanes>)>,
    /// How often each meaning has occurred.
    ids: HashMap<String, usize>,
    /// Of a batch plan.
    held: Vec<(usize, Arc<HeldSlot>)>,
    bounds: Vec<Arc<Iterations>>,
}

#[async_trait]
impl ExtensionPlanner for IncrementalPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        planning_context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<IncrementalNode>() else { return Ok(None) };
        let schema: SchemaRef = Arc::new(node.schema.as_arrow().clone());
        let n_lanes = session.config().target_partitions();
        if let plan::Operator::Input(input) = &node.operator {
            let exec = InputExec::new(input.clone(), schema, n_lanes);
            let mut found = self.found.lock().expect("planning does not panic");
            found.inputs.push((input.clone(), exec.slot.clone()));
            return Ok(Some(Arc::new(exec)));
        }
        if let plan::Operator::Held(held) = &node.operator {
            let exec = HeldExec::new(held.name.clone(), schema);
            let mut found = self.found.lock().expect("planning does not panic");
            found.held.push((held.input, exec.slot.clone()));
            return Ok(Some(Arc::new(exec)));
        }
        if let (plan::Operator::Bounded, [input]) = (&node.operator, physical_inputs) {
            let exec = BoundedExec::new(input.clone());
            let mut found = self.found.lock().expect("planning does not panic");
            found.bounds.push(exec.iterations.clone());
            return Ok(Some(Arc::new(exec)));
        }
        if let Some(lanes) = self.known(node) {
            return Ok(Some(Arc::new(OperatorExec::new(lanes, physical_inputs.to_vec(), schema))));
        }
        let batch_plan = match &node.operator {
            plan::Operator::Recompute(recompute) => Some(Arc::new(batch_plan(recompute, session).await?)),
            _ => None,
        };
        let filter = match &node.operator {
            plan::Operator::Join(join) => match &join.filter {
                Some(filter) => {
                    let expr =
                        planner.create_physical_expr(filter, &join.pair_schema, session, planning_context)?;
                    Some(expr)
                }
                None => None,
            },
            _ => None,
        };
        let inputs: Vec<SchemaRef> =
            physical_inputs.iter().map(|input| row_schema(&input.schema())).collect();
        let distribution = distribution(&node.operator, &inputs);
        let is_single = distribution.is_empty() || distribution.iter().any(Vec::is_empty);
        let n_lanes = if is_single { 1 } else { n_lanes };
        let parts = Build { operator: &node.operator, inputs, output: schema.clone(), filter, batch_plan };
        let lanes =
            (0..n_lanes).map(|_| Ok(Mutex::new(build(&parts)?))).collect::<Result<_, crate::Error>>()?;
        let display =
            LogicalPlan::Extension(datafusion::logical_expr::Extension { node: Arc::new(node.clone()) });
        let meaning = node.meaning(logical_inputs);
        let mut found = self.found.lock().expect("planning does not panic");
        let n_before = found.ids.entry(meaning.clone()).or_default();
        *n_before += 1;
        let id = if *n_before == 1 { meaning } else { format!("{meaning}.{n_before}") };
        let metrics = OperatorMetrics {
            display: display.display().to_string(),
            id: id.clone(),
            lanes: (0..n_lanes).map(|_| LaneMetrics::default()).collect(),
        };
        let lanes = Arc::new(Lanes {
            id,
            distribution,
            lanes,
            is_timed: node.operator.is_timed(),
            is_stepwise: node.operator.is_stepwise(),
            timed_by: node.operator.close_sources().iter().map(|source| source.relation).collect(),
            context: self.context.clone(),
            late: Mutex::default(),
            metrics: Arc::new(metrics),
        });
        found.operators.push((node.clone(), lanes.clone()));
        Ok(Some(Arc::new(OperatorExec::new(lanes, physical_inputs.to_vec(), schema))))
    }
}

/// The plan of a query that is computed as a whole, in one partition.
async fn batch_plan(recompute: &plan::Recompute, session: &dyn Session) -> Result<BatchPlan> {
    let Some(session) = session.as_any().downcast_ref::<SessionState>() else {
        return internal_err!("plans are made with a session of DataFusion's own");
    };
    let mut session = session.clone();
    session.config_mut().options_mut().execution.target_partitions = 1;
    let planner = Arc::new(IncrementalPlanner::default());
    // Row patterns and ASOF joins are those of a SELECT here, over rows without weights.
    let physical = DefaultPhysicalPlanner::with_extension_planners(vec![
        Arc::new(tidemill_pattern::MatchRecognizePlanner),
        Arc::new(plan::AsofPlanner),
        planner.clone(),
    ]);
    let plan = physical.create_physical_plan(&recompute.plan, &session).await?;
    let found = std::mem::take(&mut *planner.found.lock().expect("planning does not panic"));
    Ok(BatchPlan { plan, slots: found.held, bounds: found.bounds, session })
}

/// A delta's schema without its weight.
fn row_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = &schema.fields()[..schema.fields().len() - 1];
    Arc::new(Schema::new(fields.to_vec()))
}
