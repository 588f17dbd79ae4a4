//! The demo's statements against the real parser and planner, the rest against a made-up service.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use arrow::datatypes::{Field, Schema};
use tidemill_core::{SqlState, Upkeep};
use tidemill_plan::{InputKind, Properties, RelationId};
use tidemill_sql::parser::parse;
use tidemill_sql::statements::{CreateSource, SinkInput, Statement};
use tidemill_sql::{Names, Planner, Refusal, Relation, RelationTable, Resolved};

use super::*;
use crate::server::testing::FakeService;

#[derive(Default)]
struct Relations(HashMap<String, Relation>);

impl Names for Relations {
    fn resolve(&self, _: Option<&str>, name: &str) -> Result<Option<Resolved>, Refusal> {
        let relation = self.0.get(name).cloned();
        Ok(relation.map(|relation| Resolved::Table(Arc::new(RelationTable { relation }))))
    }
}

impl Relations {
    fn add(&mut self, name: &str, schema: Schema, kind: InputKind, properties: Properties) {
        let id = RelationId(self.0.len() as u32 + 1);
        let schema = Arc::new(schema);
        let relation = Relation {
            id,
            name: name.into(),
            schema,
            kind,
            primary_key: Vec::new(),
            properties,
            is_finite: false,
        };
        self.0.insert(name.into(), relation);
    }

    fn add_source(&mut self, source: &CreateSource) {
        let fields = source.columns.iter();
        let fields = fields.map(|c| Field::new(&c.name, c.data_type().clone(), !c.not_null));
        let closes = vec![Vec::new(); source.columns.len()];
        let properties = Properties { is_append_only: true, unique_keys: Vec::new(), closes };
        self.add(&source.name.name, Schema::new(fields.collect::<Vec<_>>()), InputKind::Append, properties);
    }
}

#[tokio::test]
async fn every_statement_can_be_planned() {
    let planner = Planner::new(2);
    let mut relations = Relations::default();
    for parsed in parse(SQL).unwrap() {
        match parsed.statement {
            Statement::CreateSource(source) => relations.add_source(&source),
            Statement::CreatePipeline(pipeline) => {
                let plan = planner.plan_pipeline(&pipeline.query, &relations, &Upkeep::default()).await;
                let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", pipeline.name.name));
                let name = &pipeline.name.name;
                relations.add(name, plan.schema.as_ref().clone(), InputKind::Delta, plan.properties);
            }
            Statement::CreateSink(sink) => match sink.input {
                SinkInput::From(name) => assert!(relations.0.contains_key(&name.name)),
                _ => panic!("sinks of the demo take a pipeline"),
            },
            other => panic!("unexpected in the demo: {other:?}"),
        }
    }
    let parsed = parse(QUERY).unwrap().remove(0);
    let Statement::Query(query) = parsed.statement else { panic!("{parsed:?}") };
    planner.plan_query(&query.query, &relations).await.unwrap();
}

#[test]
fn the_rate_is_where_it_is_replaced() {
    assert_eq!(SQL.matches(RATE).count(), 3);
    assert_eq!(SQL.matches("connector = 'generator'").count(), 3);
}

#[tokio::test]
async fn a_demo_runs_its_statements_and_ends_in_time() {
    let fake = Arc::new(FakeService::example());
    let service: Arc<dyn Service> = fake.clone();
    let end = Duration::from_millis(30);
    let demo = Demo {
        ends_after: Some(end),
        rate: Some(7),
        data: None,
        no_page: true,
        flags: ConfigFlags::default(),
    };
    let total = demo.watch(&service, false, &CancellationToken::new()).await.unwrap();
    assert!(total.seconds >= end.as_secs_f64() && total.seconds < 5.0, "{total:?}");
    let statements = fake.statements.lock().unwrap().clone();
    assert_eq!(statements.iter().filter(|sql| sql.contains("rate = '7'")).count(), 3);
    assert!(statements.iter().all(|sql| sql.starts_with("CREATE ") && sql.contains(" IF NOT EXISTS ")));
    assert!(!fake.was_shut_down.load(Ordering::Relaxed));

    let stop = CancellationToken::new();
    stop.cancel();
    let endless = Demo { ends_after: None, ..demo };
    endless.watch(&service, false, &stop).await.unwrap();
}

#[tokio::test]
async fn an_error_in_its_statements_ends_it() {
    let mut fake = FakeService::example();
    fake.answer = Box::new(|_| Err(SqlError::new(SqlState::INTERNAL_ERROR, "no")));
    let service: Arc<dyn Service> = Arc::new(fake);
    assert!(matches!(set_up(&service, None).await, Err(Failure::Reported)));
    assert_eq!(answer(&service).await, Err("no".into()));
}

#[test]
fn lines_and_summary_say_the_numbers() {
    let reading = Reading {
        seconds: 10.0,
        events: 500_000,
        epochs: 980,
        latency_p50: Duration::from_micros(3_100),
        latency_p99: Duration::from_millis(25),
        state_bytes: 12 << 20,
        failures: vec!["sink \"x\" has failed: no".into()],
        ..Reading::default()
    };
    assert_eq!(
        line(Duration::from_secs(3), &reading),
        "   3 s     50,000 events/s    98 epochs/s  row to view p50  3.1 ms p99   25 ms  state 12.0 MiB\n        \
         sink \"x\" has failed: no\n"
    );
    assert_eq!(
        summary(&reading),
        "10.0 s: 500,000 events, 50,000 events/s, 980 epochs\n\
         row to view, slowest of 0 pipelines: p50 3.1 ms, p99 25 ms\n\
         state: 12.0 MiB\n\
         sink \"x\" has failed: no\n"
    );
}

#[test]
fn a_taken_port_is_replaced_by_a_free_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    assert_eq!(free_or_any(taken).port(), 0);
    drop(listener);
    assert_eq!(free_or_any(taken), taken);
}

#[test]
fn the_keys_that_quit() {
    let key = |code, modifiers| is_quit(&KeyEvent::new(code, modifiers));
    assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
    assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
}
