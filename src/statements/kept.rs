//! Plans of prepared statements, kept from one run to the next.
//!
//! A statement that runs again gets one plan for all values of its parameters. Physical, since that is where the time goes:
//! in it parameters are calls of a function that gives their values of the moment, and a scan finds its snapshot and,
//! by the values, its rows anew for each run ([`bind_plan`]). It is used as long as nothing has changed that it was made by: definitions, who asks, the search
//! path, the parameters' types, and roughly the sizes of what it reads.
//!
//! Some statements are planned each time: those over anything that is not stored, or of which policies show a part, with functions that give another value each time
//! or for each session, with subqueries that remain, and where a parameter may have a say in the plan: in a LIMIT, or as an argument of a
//! function, which may want a constant.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::sqlparser::ast::Query;
use futures::StreamExt;
use tidemill_catalog::Catalog;
use tidemill_engine::{ReadView, ViewTable, bind_plan, without_snapshots};
use tidemill_plan::RelationId;
use tidemill_sql::QueryPlan;

use super::describe::param_idx;
use super::{execution_error, query};
use crate::names::SnapshotNames;
use crate::pg_catalog;
use crate::policies::{Policies, Reader};
use crate::session::api::SqlError;
use crate::session::{Call, Session};

/// A relation that has so many times more or fewer rows than when a plan was made wants another.
const GROWTH_MAX: u64 = 8;
/// Among relations below this, sizes make no difference.
const ROWS_MIN: u64 = 8192;

/// The plan of a prepared statement, if it has one.
#[derive(Debug, Default)]
pub struct KeptPlan(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// It has not run yet. Most statements run once.
    #[default]
    New,
    /// It has run once, or could not be read when a plan was wanted.
    Used,
    Planned(Arc<Plan>),
    /// It has to be planned each time.
    Unfit,
}

#[derive(Debug)]
struct Plan {
    made_for: MadeFor,
    relations: BTreeSet<RelationId>,
    rows: BTreeMap<RelationId, u64>,
    physical: Arc<dyn ExecutionPlan>,
    values: Arc<Values>,
    context: Arc<TaskContext>,
    schema: SchemaRef,
}

/// What a plan was made by.
#[derive(Debug)]
struct MadeFor {
    catalog: Arc<Catalog>,
    users: [String; 2],
    search_path: Vec<String>,
    types: Vec<DataType>,
}

/// The values of a plan's parameters in the run that has it.
#[derive(Debug, Default)]
struct Values {
    now: RwLock<Vec<ScalarValue>>,
    /// Counts, by its references, the run.
    run: Arc<()>,
}

/// What a run gives.
type Rows = (SchemaRef, SendableRecordBatchStream);

impl MadeFor {
    fn new(session: &Session, params: &[ScalarValue]) -> MadeFor {
        MadeFor {
            catalog: session.catalog(),
            users: [session.user().to_owned(), session.session_user().to_owned()],
            search_path: session.settings.search_path(),
            types: params.iter().map(ScalarValue::data_type).collect(),
        }
    }

    fn fits(&self, session: &Session, params: &[ScalarValue]) -> bool {
        let types = params.iter().map(ScalarValue::data_type);
        Arc::ptr_eq(&self.catalog, &session.catalog())
            && self.users == [session.user(), session.session_user()]
            && types.eq(self.types.iter().cloned())
            && self.search_path == session.settings.search_path()
    }
}

impl KeptPlan {
    /// The rows of a query by a plan that is kept, if there is one or can be.
    pub(super) async fn stream(
        &self,
        session: &mut Session,
        query: &Query,
        call: &Call<'_>,
    ) -> Result<Option<Rows>, SqlError> {
        let known = {
            let mut state = self.state();
            match &*state {
                State::New => {
                    *state = State::Used;
                    return Ok(None);
                }
                State::Unfit => return Ok(None),
                State::Used => None,
                State::Planned(plan) => Some(plan.clone()),
            }
        };
        let n_notices = session.notices.len();
        if let Some(plan) = known
            && plan.made_for.fits(session, &call.params)
        {
            let view = query::read(session, &plan.relations).await?;
            if plan.is_as_large(&view) {
                let rows = plan.run(session, &view, call)?;
                if rows.is_none() {
                    session.notices.truncate(n_notices);
                }
                return Ok(rows);
            }
        }
        session.notices.truncate(n_notices);
        match Plan::new(session, query, call).await {
            Ok(Some((plan, view))) => {
                let plan = Arc::new(plan);
                *self.state() = State::Planned(plan.clone());
                plan.run(session, &view, call)
            }
            // What is wrong with it is said where it is planned as it is, and what is to be noticed again.
            failed => {
                session.notices.truncate(n_notices);
                *self.state() = if failed.is_ok() { State::Unfit } else { State::Used };
                Ok(None)
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    /// A plan and what it is to read first; none if there is no plan that could be kept. An error may be one of the moment.
    async fn new(
        session: &mut Session,
        query: &Query,
        call: &Call<'_>,
    ) -> Result<Option<(Plan, Arc<ReadView>)>, SqlError> {
        let references = query::references(session, query, &BTreeMap::new())?;
        let is_plain = references.system.is_empty() && !references.is_catalog_query;
        if !is_plain || session.database.is_for_checks() || pg_catalog::has_effects(query) {
            return Ok(None);
        }
        let view = query::read(session, &references.relations).await?;
        let plan = Plan::over(session, query, call, references.relations, &view).await;
        Ok(plan.unwrap_or_default().map(|plan| (plan, view)))
    }

    async fn over(
        session: &Session,
        query: &Query,
        call: &Call<'_>,
        relations: BTreeSet<RelationId>,
        view: &ReadView,
    ) -> Result<Option<Plan>, SqlError> {
        let database = &session.database;
        let made_for = MadeFor::new(session, &call.params);
        let policies = Policies { database, reader: Reader::of(session), change: None };
        let names = SnapshotNames {
            catalog: &made_for.catalog,
            scope: (&made_for.search_path).into(),
            role: session.user().into(),
            policies: &policies,
            snapshots: &view.relations,
            system: &BTreeMap::new(),
            given: None,
            sequences: &database.sequences,
            is_for_checks: false,
            params: Some(call.params.clone().into()),
        };
        let planned = database.planner.plan_query(query, &names).await;
        let QueryPlan { plan, state, display_names } =
            planned.map_err(|error| database.delta_error(error, call.sql))?;
        let error = |error| execution_error(database, error, call.sql);
        if !is_fit(&plan).map_err(error)? {
            return Ok(None);
        }
        let typed = typed(plan, &made_for.types).map_err(error)?;
        let optimized = state.optimize(&typed).map_err(error)?;
        let values = Arc::new(Values::default());
        let plan = with_calls(optimized, &values, &made_for.types).map_err(error)?;
        let physical = state.query_planner().create_physical_plan(&plan, &state).await.map_err(error)?;
        let planned = QueryPlan { plan: typed, state, display_names };
        let context = planned.state.task_ctx();
        let shown = query::planned_query(planned, &made_for.catalog, &made_for.search_path).schema;
        let schema = query::shown_schema(&physical.schema(), &shown);
        let physical = without_snapshots(physical).map_err(error)?;
        let rows = view.relations.iter().map(|(id, snapshot)| (*id, snapshot.size().rows)).collect();
        Ok(Some(Plan { made_for, relations, rows, physical, values, context, schema }))
    }

    fn is_as_large(&self, view: &ReadView) -> bool {
        view.relations.iter().filter(|(id, _)| self.relations.contains(id)).all(|(id, snapshot)| {
            let now = snapshot.size().rows.max(ROWS_MIN);
            let then = self.rows.get(id).copied().unwrap_or_default().max(ROWS_MIN);
            now / GROWTH_MAX <= then && then / GROWTH_MAX <= now
        })
    }

    /// Begins a run, unless another one of the same session has not ended.
    fn run(&self, session: &Session, view: &ReadView, call: &Call<'_>) -> Result<Option<Rows>, SqlError> {
        let run = self.values.run.clone();
        if Arc::strong_count(&run) > 2 {
            return Ok(None);
        }
        let error = |error| execution_error(&session.database, error, call.sql);
        *self.values.now.write().unwrap_or_else(PoisonError::into_inner) = call.params.clone();
        let physical = bind_plan(&self.physical, &view.relations, &call.params).map_err(error)?;
        let rows = execute_stream(physical, self.context.clone()).map_err(error)?;
        let rows = query::shown_rows(self.schema.clone(), rows);
        // The values are this run's until its rows are out, or nobody wants them.
        let rows = rows.inspect(move |_| {
            let _ = &run;
        });
        let rows = RecordBatchStreamAdapter::new(self.schema.clone(), rows);
        Ok(Some((self.schema.clone(), Box::pin(rows))))
    }
}

/// Whether a plan can be kept.
fn is_fit(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut is_fit = true;
    plan.apply_with_subqueries(|node| {
        is_fit &= match node {
            LogicalPlan::TableScan(scan) => {
                let table = source_as_provider(&scan.source)?;
                (table.as_ref() as &dyn Any).is::<ViewTable>()
            }
            LogicalPlan::Subquery(_) | LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_) => false,
            _ => true,
        };
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                is_fit &= match expr {
                    Expr::ScalarFunction(call) => {
                        call.func.signature().volatility == Volatility::Immutable
                            && !call.args.iter().any(is_parameter)
                    }
                    Expr::AggregateFunction(call) => !call.params.args.iter().any(is_parameter),
                    Expr::WindowFunction(call) => !call.params.args.iter().any(is_parameter),
                    Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => false,
                    _ => true,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(is_fit)
}

/// Whether an argument is a constant but for parameters. Functions may want to know it before they run: a delimiter, digits, a format.
fn is_parameter(argument: &Expr) -> bool {
    let has_placeholder = argument.exists(|expr| Ok(matches!(expr, Expr::Placeholder(_))));
    has_placeholder.unwrap_or(true) && argument.column_refs().is_empty()
}

/// The type of a parameter, and which it is.
fn param<'a>(
    placeholder: &Placeholder,
    types: &'a [DataType],
) -> Result<(usize, &'a DataType), DataFusionError> {
    let found = param_idx(&placeholder.id).and_then(|idx| Some((idx, types.get(idx)?)));
    found.ok_or_else(|| DataFusionError::Plan(format!("there is no parameter {}", placeholder.id)))
}

/// A plan whose parameters are of the types that their values have.
fn typed(plan: LogicalPlan, types: &[DataType]) -> Result<LogicalPlan, DataFusionError> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let node = node.map_expressions(|expr| {
            expr.transform_up(|expr| {
                let Expr::Placeholder(placeholder) = expr else { return Ok(Transformed::no(expr)) };
                let (_, of) = param(&placeholder, types)?;
                let field = Some(Arc::new(Field::new("", of.clone(), true)));
                Ok(Transformed::yes(Expr::Placeholder(Placeholder { field, ..placeholder })))
            })
        })?;
        node.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(plan.data)
}

/// A plan with calls in the places of parameters, but for what scans look for.
fn with_calls(
    plan: LogicalPlan,
    values: &Arc<Values>,
    types: &[DataType],
) -> Result<LogicalPlan, DataFusionError> {
    let plan = plan.transform_up_with_subqueries(|node| {
        if matches!(node, LogicalPlan::TableScan(_)) {
            return Ok(Transformed::no(node));
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let replaced = expr.transform_up(|expr| {
                let Expr::Placeholder(placeholder) = &expr else { return Ok(Transformed::no(expr)) };
                let (idx, of) = param(placeholder, types)?;
                let (of, values) = (of.clone(), values.clone());
                let function = ScalarUDF::from(Param { idx, of, values, signature: signature() });
                Ok(Transformed::yes(function.call(Vec::new())))
            })?;
            Ok(replaced.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(plan.data)
}

/// Volatile, so that nobody computes it before it runs.
fn signature() -> Signature {
    Signature::nullary(Volatility::Volatile)
}

/// The value of a parameter in the run that goes on.
#[derive(Debug)]
struct Param {
    idx: usize,
    of: DataType,
    values: Arc<Values>,
    signature: Signature,
}

impl PartialEq for Param {
    fn eq(&self, other: &Param) -> bool {
        self.idx == other.idx && Arc::ptr_eq(&self.values, &other.values)
    }
}

impl Eq for Param {}

impl std::hash::Hash for Param {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.idx.hash(state);
    }
}

impl ScalarUDFImpl for Param {
    fn name(&self) -> &str {
        "parameter"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.of.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let values = self.values.now.read().unwrap_or_else(PoisonError::into_inner);
        match values.get(self.idx) {
            Some(value) => Ok(ColumnarValue::Scalar(value.clone())),
            None => Err(DataFusionError::Internal("a parameter has no value".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use futures::TryStreamExt;
    use tidemill_sql::parser;

    use super::*;
    use crate::session::api::Response;
    use crate::statements::testing::{on_a_runtime, open, run};

    struct Prepared {
        parsed: parser::Parsed,
        kept: KeptPlan,
    }

    impl Prepared {
        fn new(sql: &str) -> Prepared {
            Prepared { parsed: parser::parse(sql).unwrap().remove(0), kept: KeptPlan::default() }
        }

        async fn begin(
            &self,
            session: &mut Session,
            params: &[ScalarValue],
            is_kept: bool,
        ) -> Result<SendableRecordBatchStream, SqlError> {
            let call = Call {
                statement: &self.parsed.statement,
                sql: &self.parsed.sql,
                params: params.to_vec(),
                kept: is_kept.then_some(&self.kept),
            };
            match session.run(call).await? {
                Response::Rows { rows, .. } => Ok(rows),
                _ => panic!("a query gives rows"),
            }
        }

        /// Its rows, in no order, or what is wrong.
        async fn run(&self, session: &mut Session, params: &[ScalarValue], is_kept: bool) -> Vec<String> {
            match self.begin(session, params, is_kept).await {
                Ok(rows) => match rows.try_collect::<Vec<RecordBatch>>().await {
                    Ok(batches) => lines(&batches),
                    Err(error) => vec![format!("{:?}", session_error(session, error))],
                },
                Err(error) => vec![format!("{error:?}")],
            }
        }

        fn is_planned(&self) -> bool {
            matches!(*self.kept.state(), State::Planned(_))
        }
    }

    fn session_error(session: &Session, error: DataFusionError) -> SqlError {
        crate::session::api::SessionApi::explain(session, error)
    }

    fn lines(batches: &[RecordBatch]) -> Vec<String> {
        let shown = arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string();
        let mut lines: Vec<String> =
            shown.lines().filter(|line| line.starts_with('|')).map(Into::into).collect();
        lines.sort();
        lines
    }

    fn int(value: i64) -> ScalarValue {
        ScalarValue::Int64(Some(value))
    }

    fn text(value: &str) -> ScalarValue {
        ScalarValue::Utf8(Some(value.into()))
    }

    #[test]
    fn a_kept_plan_gives_what_a_new_one_gives() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let mut session = open(directory.path()).await;
            run(&mut session, "CREATE TABLE t (k bigint PRIMARY KEY, g int, v bigint, s text)").await;
            run(&mut session, "CREATE PIPELINE p AS SELECT g, count(*) AS n, sum(v) AS v FROM t GROUP BY g")
                .await;
            run(&mut session, "CREATE INDEX by_g ON t (g)").await;
            run(&mut session, "CREATE VIEW w AS SELECT k, s || '!' AS loud FROM t WHERE g < 9").await;
            let numbers =
                [vec![int(3), int(7)], vec![int(0), int(500)], vec![int(7), int(3)], vec![int(-1), int(1)]];
            let texts = [vec![text("s3")], vec![text("")], vec![text("s7")], vec![ScalarValue::Utf8(None)]];
            let fit: Vec<(Prepared, &[Vec<ScalarValue>])> = [
                ("SELECT * FROM t WHERE k = $1", &numbers[..]),
                ("SELECT v FROM t WHERE k = $1 AND v >= $2 - 500", &numbers),
                ("SELECT count(*), sum(v), min(s) FROM t WHERE k > $1 AND k <= $2", &numbers),
                ("SELECT a.k, b.v FROM t a JOIN t b ON a.v = b.k WHERE a.k BETWEEN $1 AND $2", &numbers),
                ("SELECT k + $2 AS n, $1 AS one FROM t WHERE k IN ($1, 5, $2)", &numbers),
                ("SELECT k FROM t WHERE g = $1 ORDER BY v DESC LIMIT 2", &numbers),
                ("SELECT g, count(*) FROM t GROUP BY g HAVING count(*) > $1", &numbers),
                ("SELECT k FROM t WHERE k = $1 UNION ALL SELECT -k FROM t WHERE k = $2", &numbers),
                ("SELECT t.s, p.n FROM t LEFT JOIN p ON t.g = p.g AND p.n > $2 WHERE t.k = $1", &numbers),
                ("SELECT n / $1 FROM p WHERE g = $2", &numbers),
                ("SELECT k, row_number() OVER (ORDER BY v, k) FROM t WHERE k < $1 + 5", &numbers),
                ("SELECT k FROM t WHERE s = $1", &texts),
                ("SELECT loud FROM w WHERE loud = $1 || '!' OR k = 3", &texts),
                ("SELECT s FROM t WHERE s LIKE $1", &texts),
            ]
            .map(|(sql, params)| (Prepared::new(sql), params))
            .into();
            for round in 0..6 {
                run(&mut session, &format!(
                    "INSERT INTO t SELECT n + {round} * 20, n % 11, n * 3 % 17, 's' || n FROM generate_series(0, 19) AS x(n)"
                ))
                .await;
                run(&mut session, &format!("DELETE FROM t WHERE k % 7 = {round}")).await;
                run(&mut session, "SET freshness = 'strict'").await;
                for (prepared, params) in &fit {
                    for params in *params {
                        let expected = prepared.run(&mut session, params, false).await;
                        let rows = prepared.run(&mut session, params, true).await;
                        assert_eq!(rows, expected, "round {round}: {} with {params:?}", prepared.parsed.sql);
                    }
                    assert!(prepared.is_planned(), "{}", prepared.parsed.sql);
                }
            }

            // Two runs of one statement beside each other.
            let (prepared, params) = &fit[2];
            let expected = [&params[0], &params[1]].map(|params| params.clone());
            let first = prepared.begin(&mut session, &expected[0], true).await.unwrap();
            let second = prepared.run(&mut session, &expected[1], true).await;
            let first = lines(&first.try_collect::<Vec<_>>().await.unwrap());
            assert_eq!(first, prepared.run(&mut session, &expected[0], false).await);
            assert_eq!(second, prepared.run(&mut session, &expected[1], false).await);

            // What it was made by changes.
            let by_text = [text("3"), text("7")];
            let (prepared, numbers) = (&fit[0].0, &numbers);
            for params in [&by_text[..1], &numbers[0][..1]] {
                let expected = prepared.run(&mut session, params, false).await;
                assert_eq!(prepared.run(&mut session, params, true).await, expected);
            }
            run(&mut session, "DROP VIEW w; DROP PIPELINE p").await;
            run(&mut session, "ALTER TABLE t RENAME COLUMN v TO w").await;
            let expected = fit[2].0.run(&mut session, &numbers[0], false).await;
            assert!(expected[0].contains("42703"), "{expected:?}");
            assert_eq!(fit[2].0.run(&mut session, &numbers[0], true).await, expected);
            run(&mut session, "CREATE ROLE reader").await;
            run(&mut session, "SET ROLE reader").await;
            let denied = prepared.run(&mut session, &numbers[0], true).await;
            assert!(denied[0].contains("42501"), "{denied:?}");
        });
    }

    #[test]
    fn what_a_plan_cannot_be_kept_for_is_planned_each_time() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let mut session = open(directory.path()).await;
            run(&mut session, "CREATE TABLE t (k bigint PRIMARY KEY)").await;
            run(&mut session, "INSERT INTO t VALUES (1), (2), (3)").await;
            for (sql, n_rows) in [
                ("SELECT now() > TIMESTAMP '2000-01-01' FROM t", 3),
                ("SELECT k FROM t LIMIT $1", 2),
                ("SELECT k FROM t WHERE k = (SELECT max(k) FROM t WHERE k <= $1)", 1),
                ("SELECT name FROM tm_tables WHERE name = 't'", 1),
                ("SELECT current_user", 1),
                ("SELECT relname FROM pg_class WHERE relname = 't'", 1),
                ("SELECT random() < 2", 1),
                ("SELECT string_agg(k::text, $1::text) FROM t", 1),
                ("SELECT round(1.2345 * k, $1::int) FROM t", 3),
            ] {
                let prepared = Prepared::new(sql);
                for _ in 0..3 {
                    // The names of the columns are a line too.
                    assert_eq!(prepared.run(&mut session, &[int(2)], true).await.len(), n_rows + 1, "{sql}");
                }
                assert!(!prepared.is_planned(), "{sql}");
            }
        });
    }

    #[test]
    fn policies_hold_for_a_plan_that_others_had() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let mut session = open(directory.path()).await;
            run(
                &mut session,
                "CREATE ROLE ann; CREATE TABLE t (k bigint PRIMARY KEY, who text); \
                 INSERT INTO t VALUES (1, 'ann'), (2, 'bob'), (3, 'ann'); GRANT SELECT ON t TO ann; \
                 CREATE POLICY own ON t USING (who = current_user); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            )
            .await;
            let prepared = Prepared::new("SELECT k FROM t WHERE k >= $1");
            for role in ["tidemill", "ann", "tidemill", "ann"] {
                run(&mut session, &format!("SET ROLE {role}")).await;
                for _ in 0..2 {
                    let expected = prepared.run(&mut session, &[int(2)], false).await;
                    assert_eq!(expected.len(), if role == "ann" { 2 } else { 3 });
                    assert_eq!(prepared.run(&mut session, &[int(2)], true).await, expected, "{role}");
                }
            }
        });
    }
}
