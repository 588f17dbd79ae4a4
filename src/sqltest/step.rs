//! What each step of a test does.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, TimeUnit};
use futures::TryStreamExt;
use tidemill_catalog::{Definition, Kind, Object};
use tidemill_connectors::stand_in::{GivenRecord, GivenRows};
use tidemill_core::{Epoch, SqlState};
use tidemill_sql::parser::test_script::{
    AdvanceTime, Expect, Expected, ExpectedChange, Fragment, Given, GivenWhat, Step,
};
use tidemill_sql::parser::{Name, ObjectName, quote, quote_literal};
use tidemill_sql::statements::{CopyDirection, Like, Statement};
use tokio_util::sync::CancellationToken;

use super::changes::Counted;
use super::expect::{Difference, as_rows_of, compare, signed};
use super::run::{Live, Next, Run, Wrong};
use super::script::Line;
use crate::names::find;
use crate::session::Session;
use crate::session::api::{Response, RowsTag, SessionApi, SqlError};
use crate::statements::dml;

/// Rows and their columns.
struct Rows {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Live {
    /// Runs statements; gives the rows of the last one, if it has some.
    pub async fn execute(&mut self, sql: &str) -> Result<(), SqlError> {
        self.run(sql).await.map(drop)
    }

    async fn run(&mut self, sql: &str) -> Result<Option<Rows>, SqlError> {
        let outcome = self.respond(sql).await;
        if let Err(error) = &outcome {
            self.session.failed(error);
        }
        self.session.take_notices();
        self.session.end_of_request().await?;
        outcome
    }

    async fn respond(&mut self, sql: &str) -> Result<Option<Rows>, SqlError> {
        let mut last = None;
        for parsed in SessionApi::parse(&mut self.session, sql)? {
            let never = CancellationToken::new();
            last = match self.session.execute(&parsed, Vec::new(), &never).await? {
                Response::Rows { tag: RowsTag::SUBSCRIBE, .. } => None,
                Response::Rows { schema, rows, .. } => {
                    let batches = rows.try_collect().await.map_err(|error| self.session.explain(error))?;
                    Some(Rows { schema, batches })
                }
                Response::CopyOut { rows, .. } => {
                    let all: Result<Vec<RecordBatch>, _> = rows.try_collect().await;
                    all.map_err(|error| self.session.explain(error))?;
                    None
                }
                Response::Command { .. } | Response::CopyIn { .. } | Response::Empty => None,
            };
        }
        Ok(last)
    }

    /// The rows of a query.
    async fn query(&mut self, sql: &str) -> Result<Rows, SqlError> {
        let rows = self.run(sql).await?;
        rows.ok_or_else(|| SqlError::new(SqlState::SYNTAX_ERROR, "that gives no rows"))
    }

    /// The rows of a query that stands inside of a step.
    async fn query_at(&mut self, query: &Fragment) -> Result<Rows, SqlError> {
        self.query(&query.sql).await.map_err(|error| shifted(error, query))
    }

    /// The rows of a query that the test has not asked: whatever its session is in the middle of, and may do.
    async fn ask(&self, sql: &str) -> Result<Rows, SqlError> {
        let database = self.database.clone();
        let session = Session::new(database.clone(), "tidemill".into());
        Live { database, session }.query(sql).await
    }

    fn find(&self, name: &ObjectName) -> Option<Arc<Object>> {
        let search_path = self.session.settings.search_path();
        find(&self.session.catalog(), name.schema.as_deref(), &name.name, &search_path)
    }

    fn resolve(&self, name: &ObjectName) -> Result<Arc<Object>, SqlError> {
        let search_path = self.session.settings.search_path();
        let catalog = self.session.catalog();
        let found = catalog.resolve(name.schema.as_deref(), &name.name, &search_path).cloned();
        found.map_err(|error| SqlError::from(error).with_position(name.position))
    }

    /// The source of a name.
    fn source(&self, name: &ObjectName, verb: &str) -> Result<Arc<Object>, SqlError> {
        let object = self.resolve(name)?;
        let hint = match object.kind() {
            Kind::Source => return Ok(object),
            Kind::Table => format!("Write INSERT INTO {name}."),
            _ => "Rows are given to sources; those of all else follow from them.".into(),
        };
        let message = format!("\"{}\" is a {}, and {verb} is of a source", object.name, object.kind().name());
        Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message).with_hint(hint).with_position(name.position))
    }
}

/// An error of a part of a step, where it stands in the step.
fn shifted(mut error: SqlError, fragment: &Fragment) -> SqlError {
    error.position = Some(fragment.offset + error.position.unwrap_or(1));
    error
}

impl Run {
    /// Does a step, and lets everything take it in.
    pub async fn step(&mut self, live: &mut Live, line: &Line) -> Result<Next, Wrong> {
        let sql = &line.scripted.sql;
        match &line.scripted.step {
            Step::Statement(statement) => self.statement(live, statement, sql).await?,
            Step::Given(given) => self.given(live, given).await?,
            Step::Finish(source) => {
                let object = live.source(source, "FINISH")?;
                self.stand_ins.finish(object.oid)?;
            }
            Step::AdvanceTime(advance) => self.advance_time(live, advance).await?,
            Step::Checkpoint => live.database.engine.checkpoint_all().await?,
            Step::Crash => return Ok(Next::Crash),
            Step::Restart => return Ok(Next::Restart),
            Step::Expect(expect) => self.expect(live, expect).await?,
            Step::Test(_) | Step::Include(_) => unreachable!("the script is made of what they stand for"),
        }
        self.settle(live).await?;
        Ok(Next::Step)
    }

    async fn statement(&mut self, live: &mut Live, statement: &Statement, sql: &str) -> Result<(), Wrong> {
        match statement {
            Statement::Subscribe(_) => {
                let error = SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, "SUBSCRIBE never ends")
                    .with_hint("Write EXPECT CHANGES OF … for what a subscriber is told.");
                return Err(error.into());
            }
            Statement::Copy(copy) if copy.direction == CopyDirection::FromStdin => {
                let error =
                    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, "COPY … FROM STDIN needs a client")
                        .with_hint("Write INSERT.");
                return Err(error.into());
            }
            _ => (),
        }
        live.execute(sql).await?;
        let is_of_session = matches!(
            statement,
            Statement::Set(_)
                | Statement::Reset(_)
                | Statement::SetRole(_)
                | Statement::SetSessionAuthorization(_)
                | Statement::Discard(_)
                | Statement::Prepare(_)
                | Statement::Deallocate(_)
        );
        if is_of_session {
            self.settings.push(sql.to_owned());
        }
        Ok(())
    }

    async fn given(&mut self, live: &mut Live, given: &Given) -> Result<(), Wrong> {
        let object = live.source(&given.source, "GIVEN")?;
        let rows = live.query_at(&given.rows).await?;
        let now = live.database.engine.now();
        let at = |error: SqlError| match error.position {
            Some(_) => error,
            None => shifted(error, &given.rows),
        };
        if given.what == GivenWhat::Records {
            let records = records(&rows).map_err(at)?;
            return Ok(self
                .stand_ins
                .give_records(object.oid, given.partition, &records, now)
                .map_err(|error| at(error.into()))?);
        }
        let Some(source) = self.stand_ins.given(object.oid) else {
            return Err(SqlError::new(SqlState::INTERNAL_ERROR, "nothing stands in for the source").into());
        };
        let columns =
            given_columns(&object, &source.schema, given, rows.schema.fields().len()).map_err(at)?;
        let batch = arrange(&source.schema, &columns, &rows, &object.name).map_err(at)?;
        let given = GivenRows {
            partition: given.partition,
            rows: batch,
            columns: &columns,
            are_deleted: given.what == GivenWhat::Deletes,
            now,
        };
        Ok(self.stand_ins.give(object.oid, given).map_err(|error| at(error.into()))?)
    }

    async fn advance_time(&mut self, live: &mut Live, advance: &AdvanceTime) -> Result<(), Wrong> {
        let (fragment, sql) = match advance {
            AdvanceTime::By(by) => (by, format!("SELECT now() + ({})", by.sql)),
            AdvanceTime::To(to) => (to, format!("SELECT CAST({} AS timestamptz)", to.sql)),
        };
        let at = |mut error: SqlError| {
            error.position = Some(fragment.offset + 1);
            error
        };
        let rows = live.query(&sql).await.map_err(at)?;
        let times = rows.batches.iter().find(|batch| batch.num_rows() == 1).map(|batch| batch.column(0));
        let micros = times.map(|times| {
            let micros = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())))
                .and_then(|times| cast(&times, &DataType::Int64))?;
            let micros = micros.as_primitive::<Int64Type>();
            Ok::<_, arrow::error::ArrowError>(micros.is_valid(0).then(|| micros.value(0)))
        });
        let to = micros.transpose().map_err(dml::arrow_error)?.flatten();
        let Some(to) = to else {
            return Err(at(SqlError::new(SqlState::INVALID_PARAMETER, "that is no time")).into());
        };
        let now = live.database.engine.now();
        if to < now {
            let shown = |micros: i64| match chrono::DateTime::from_timestamp_micros(micros) {
                Some(time) => time.format("%Y-%m-%d %H:%M:%S%.f").to_string(),
                None => format!("{micros} µs"),
            };
            let message = format!("time does not go back: it is {}, not {}", shown(now), shown(to));
            let error = SqlError::new(SqlState::INVALID_PARAMETER, message)
                .with_hint("A test begins at 2000-01-01 00:00:00.");
            return Err(at(error).into());
        }
        self.advance(live, to).await
    }

    async fn expect(&mut self, live: &mut Live, expect: &Expect) -> Result<(), Wrong> {
        match expect {
            Expect::Rows { of, columns, in_order, rows } => {
                self.expect_rows(live, of, columns, *in_order, rows.as_ref()).await
            }
            Expect::Changes { of, columns, changes } => self.expect_changes(live, of, columns, changes).await,
            Expect::LateRows { n, of } => self.expect_letters(live, *n, of.as_ref(), true).await,
            Expect::DeadLetters { n, of } => self.expect_letters(live, *n, of.as_ref(), false).await,
            Expect::Failed { of, like } => self.expect_failed(live, of, like.as_deref()),
            Expect::Error { sqlstate, like, statement } => {
                expect_error(live, sqlstate.as_deref(), like.as_deref(), statement).await
            }
        }
    }

    async fn expect_rows(
        &mut self,
        live: &mut Live,
        of: &Expected,
        columns: &[Name],
        in_order: bool,
        rows: Option<&Fragment>,
    ) -> Result<(), Wrong> {
        let (name, found, pipeline) = match of {
            Expected::Query(query) => ("the query".to_owned(), live.query_at(query).await?, None),
            Expected::Relation(name) => {
                let object = live.find(name);
                self.refuse_failed(object.as_deref(), name)?;
                let found = match &object {
                    Some(sink) if sink.kind() == Kind::Sink => self.arrived(live, sink, columns).await?,
                    _ => relation(live, object.as_deref(), name, columns).await?,
                };
                let pipeline = object.filter(|object| object.kind() == Kind::Pipeline);
                (format!("\"{}\"", name.name), found, pipeline)
            }
        };
        let expected = match rows {
            Some(rows) => {
                let given = live.query_at(rows).await?;
                as_rows_of(&found.schema, &name, &given.batches).map_err(|error| shifted(error, rows))?
            }
            None => as_rows_of(&found.schema, &name, &[])?,
        };
        if let Some(difference) = compare(&expected, &found.batches, in_order)? {
            return Err(Wrong::Differs(difference));
        }
        match pipeline {
            Some(pipeline) if self.verifies => self.verify(live, &pipeline).await,
            _ => Ok(()),
        }
    }

    /// Who has failed shows what was right once.
    fn refuse_failed(&self, object: Option<&Object>, name: &ObjectName) -> Result<(), SqlError> {
        let Some((reason, _)) = object.and_then(|object| self.failed.get(&object.name)) else {
            return Ok(());
        };
        let message = format!("\"{}\" has failed: {reason}", name.name);
        Err(SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, message)
            .with_hint(format!("Where that is what is to happen, write EXPECT {name} FAILED;"))
            .with_position(name.position))
    }

    /// What a sink's destination holds: all that it was sent, taken together.
    async fn arrived(&mut self, live: &Live, sink: &Object, columns: &[Name]) -> Result<Rows, Wrong> {
        self.deliver(live, sink.oid).await?;
        let schema = sink.arrow_schema();
        let mut all = Counted::new(&schema)?;
        for batch in self.stand_ins.sent(sink.oid) {
            all.add_delta(&batch.delta)?;
        }
        let (rows, below) = all.parts()?;
        if below.num_rows() > 0 {
            let message = format!("sink \"{}\" was sent deletions of rows that it was not sent", sink.name);
            return Err(SqlError::new(SqlState::DATA_CORRUPTED, message).into());
        }
        let places = places(sink, columns)?;
        let rows = rows.project(&places).map_err(dml::arrow_error)?;
        Ok(Rows { schema: rows.schema(), batches: vec![rows] })
    }

    /// Compares a pipeline with the batch answer of its query, where there is one.
    async fn verify(&self, live: &Live, pipeline: &Object) -> Result<(), Wrong> {
        // What has come too late is in the batch answer, and not in the pipeline.
        if self.n_letters(live, None, true).await? > 0 {
            return Ok(());
        }
        let sql = format!("VERIFY PIPELINE {}.{}", quote(&pipeline.schema), quote(&pipeline.name));
        let report = match live.ask(&sql).await {
            Ok(report) => report,
            // It depends on when rows came, which no batch knows; or it is paused.
            Err(error)
                if [SqlState::FEATURE_NOT_SUPPORTED, SqlState::NOT_IN_PREREQUISITE_STATE]
                    .contains(&error.sqlstate) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let text = |batch: &RecordBatch, name: &str| {
            let column = batch.column_by_name(name).map(|column| column.as_string::<i32>().value(0));
            column.unwrap_or_default().to_owned()
        };
        match report.batches.first() {
            Some(batch) if text(batch, "verdict") == "different" => Err(Wrong::Differs(Difference {
                message: format!(
                    "\"{}\" shows what is expected, but its query, run as a batch, gives another answer",
                    pipeline.name
                ),
                rows: format!("{}\n", text(batch, "examples")),
            })),
            _ => Ok(()),
        }
    }

    async fn expect_changes(
        &mut self,
        live: &mut Live,
        of: &ObjectName,
        columns: &[Name],
        changes: &[ExpectedChange],
    ) -> Result<(), Wrong> {
        let object = live.resolve(of)?;
        self.refuse_failed(Some(&object), of)?;
        let places = places(&object, columns)?;
        let schema = object.arrow_schema().project(&places).map_err(dml::arrow_error)?;
        let told = match object.kind() {
            // In between, changes may have cancelled out, depending on when they left.
            Kind::Sink => {
                self.deliver(live, object.oid).await?;
                let sent = self.stand_ins.sent(object.oid);
                let n_before = self.n_asked.insert(object.oid, sent.len()).unwrap_or_default();
                let mut all = Counted::new(&schema)?;
                for batch in &sent[n_before..] {
                    let rows = batch.delta.rows().project(&places).map_err(dml::arrow_error)?;
                    all.add_weighted(&rows, batch.delta.weights())?;
                }
                vec![all]
            }
            Kind::Pipeline | Kind::Table => {
                let subscriber = self.subscribers.get_mut(&of.to_string());
                let told = subscriber.map(|subscriber| std::mem::take(&mut subscriber.told));
                let mut epochs = Vec::new();
                for delta in told.unwrap_or_default() {
                    let rows = delta.rows().project(&places).map_err(dml::arrow_error)?;
                    let mut epoch = Counted::new(&schema)?;
                    epoch.add_weighted(&rows, delta.weights())?;
                    epochs.push(epoch);
                }
                epochs
            }
            kind => {
                let message = format!("\"{}\" is a {}, which tells nobody of changes", of.name, kind.name());
                return Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message)
                    .with_hint("Changes are expected of pipelines, tables and sinks.")
                    .with_position(of.position)
                    .into());
            }
        };
        let mut found = Vec::new();
        for epoch in told {
            let (added, removed) = epoch.parts()?;
            found.push(signed(&added, &removed)?);
        }
        let added = expected_part(live, &schema, of, changes, true).await?;
        let removed = expected_part(live, &schema, of, changes, false).await?;
        match compare(&signed(&added, &removed)?, &found, false)? {
            Some(difference) => Err(Wrong::Differs(difference)),
            None => Ok(()),
        }
    }

    async fn expect_letters(
        &self,
        live: &Live,
        n: u64,
        of: Option<&ObjectName>,
        is_late: bool,
    ) -> Result<(), Wrong> {
        let what = if is_late { "late rows" } else { "dead letters" };
        if let Some(name) = of {
            let object = live.resolve(name)?;
            if is_late && !matches!(object.kind(), Kind::Pipeline | Kind::Sink) {
                let message =
                    format!("\"{}\" is a {}, of which no row is late", name.name, object.kind().name());
                return Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message)
                    .with_hint("Rows are late for a pipeline or sink, which has closed their time.")
                    .with_position(name.position)
                    .into());
            }
        }
        let found = self.n_letters(live, of.map(|name| name.name.as_str()), is_late).await?;
        if found == n {
            return Ok(());
        }
        let message = format!("{n} {what} are expected, and there are {found}");
        let stage = if is_late { "stage = 'late'" } else { "stage <> 'late'" };
        let sql = format!(
            "SELECT object, encode(raw, 'escape') AS row, reason FROM tm_dead_letters WHERE {stage} ORDER BY 1, 2 LIMIT 20"
        );
        let letters = live.ask(&sql).await?;
        let rows = match letters.batches.iter().any(|batch| batch.num_rows() > 0) {
            true => crate::cli::table::Table::from_batches(&letters.batches)?.render(Default::default()),
            false => String::new(),
        };
        Err(Wrong::Differs(Difference { message, rows }))
    }

    /// How many rows were late, or records bad, since the test began.
    async fn n_letters(&self, live: &Live, of: Option<&str>, is_late: bool) -> Result<u64, Wrong> {
        let stage = if is_late { "stage = 'late'" } else { "stage <> 'late'" };
        let of = of.map(|name| format!(" AND object = {}", quote_literal(name))).unwrap_or_default();
        let sql = format!("SELECT object, \"offset\" FROM tm_dead_letters WHERE {stage}{of}");
        let letters = live.ask(&sql).await?;
        let mut n_letters = 0;
        for batch in &letters.batches {
            let objects = batch.column(0).as_string::<i32>();
            let offsets = batch.column(1).as_string::<i32>();
            for row in 0..batch.num_rows() {
                let epoch = offsets.value(row).split('/').next().and_then(|epoch| epoch.parse().ok());
                let is_superseded = |(name, from, to): &(String, Epoch, Epoch)| {
                    let epoch = epoch.map(Epoch);
                    name == objects.value(row) && epoch.is_some_and(|epoch| epoch > *from && epoch <= *to)
                };
                n_letters += u64::from(!(is_late && self.superseded.iter().any(is_superseded)));
            }
        }
        Ok(n_letters)
    }

    fn expect_failed(&mut self, live: &Live, of: &ObjectName, like: Option<&str>) -> Result<(), Wrong> {
        let object = live.resolve(of)?;
        let Some((reason, _)) = self.failed.get(&object.name) else {
            let message = format!("\"{}\" runs, but is expected to have failed", of.name);
            return Err(SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, message).into());
        };
        if let Some(pattern) = like
            && !is_like(pattern, reason)
        {
            let message = format!("\"{}\" has failed, but not like '{pattern}': {reason}", of.name);
            return Err(SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, message).into());
        }
        // Those that are tied to it stand still together.
        self.expected_failures.extend(self.failed.keys().cloned());
        Ok(())
    }
}

async fn expect_error(
    live: &mut Live,
    sqlstate: Option<&str>,
    like: Option<&str>,
    statement: &Fragment,
) -> Result<(), Wrong> {
    let wanted = match (sqlstate, like) {
        (Some(sqlstate), None) => sqlstate.to_owned(),
        (Some(sqlstate), Some(like)) => format!("{sqlstate} like '{like}'"),
        (None, Some(like)) => format!("one like '{like}'"),
        (None, None) => "one".to_owned(),
    };
    match live.execute(&statement.sql).await {
        Ok(()) => {
            let message = format!("the statement succeeds, but an error is expected: {wanted}");
            Err(SqlError::new(SqlState::INVALID_PARAMETER, message)
                .with_position(statement.offset + 1)
                .into())
        }
        Err(error) => {
            let is_state = sqlstate.is_none_or(|sqlstate| sqlstate == error.sqlstate.0);
            if is_state && like.is_none_or(|pattern| is_like(pattern, &error.message)) {
                return Ok(());
            }
            let message = format!("another error is expected: {wanted}");
            let found = format!("{}: {}", error.sqlstate.0, error.message);
            Err(SqlError::new(SqlState::INVALID_PARAMETER, message)
                .with_detail(format!("Found is {found}"))
                .with_position(statement.offset + 1)
                .into())
        }
    }
}

fn is_like(pattern: &str, text: &str) -> bool {
    Like { pattern: pattern.to_owned(), ignore_case: false }.matches(text)
}

/// The rows of a relation that can be selected from.
async fn relation(
    live: &mut Live,
    object: Option<&Object>,
    name: &ObjectName,
    columns: &[Name],
) -> Result<Rows, Wrong> {
    if let Some(object) = object {
        if object.kind() == Kind::Source {
            let message = format!("\"{}\" is a source, which keeps no rows", name.name);
            return Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message)
                .with_hint("Rows are expected of what reads it.")
                .with_position(name.position)
                .into());
        }
        places(object, columns)?;
    }
    let items: Vec<String> = columns.iter().map(|column| quote(&column.value)).collect();
    let items = if items.is_empty() { "*".to_owned() } else { items.join(", ") };
    let rows = live.query(&format!("SELECT {items} FROM {name}")).await;
    Ok(rows.map_err(|error| error.with_position(name.position))?)
}

/// Where columns stand in a relation; all of them where none is named.
fn places(object: &Object, columns: &[Name]) -> Result<Vec<usize>, SqlError> {
    let place = |name: &Name| {
        let found = object.column_idx(&name.value);
        found.ok_or_else(|| dml::no_column(object, &name.value, Some(name.position)))
    };
    match columns {
        [] => Ok((0..object.columns.len()).collect()),
        columns => columns.iter().map(place).collect(),
    }
}

/// The rows that are expected to come, or to go.
async fn expected_part(
    live: &mut Live,
    schema: &Schema,
    of: &ObjectName,
    changes: &[ExpectedChange],
    is_insertion: bool,
) -> Result<RecordBatch, SqlError> {
    let of = format!("\"{}\"", of.name);
    let schema = Arc::new(schema.clone());
    let mut batches = Vec::new();
    // One by one: a mistake is in one of them.
    for change in changes.iter().filter(|change| change.is_insertion == is_insertion) {
        let at = |mut error: SqlError| {
            error.position = Some(change.row.offset + 1);
            error
        };
        let rows = live.query(&format!("VALUES {}", change.row.sql)).await.map_err(at)?;
        batches.push(as_rows_of(&schema, &of, &rows.batches).map_err(at)?);
    }
    match batches.is_empty() {
        true => as_rows_of(&schema, &of, &[]),
        false => dml::concat(&schema, &batches),
    }
}

/// Which columns of a source's records values are given for.
fn given_columns(
    object: &Object,
    read: &Schema,
    given: &Given,
    n_values: usize,
) -> Result<Vec<usize>, SqlError> {
    let Definition::Source(definition) = &object.definition else {
        unreachable!("resolved as a source");
    };
    let mut columns = Vec::new();
    for name in &given.columns {
        let Some(idx) = object.column_idx(&name.value) else {
            return Err(dml::no_column(object, &name.value, Some(name.position)));
        };
        if object.columns[idx].generated.is_some() {
            let message = format!("column \"{}\" of source \"{}\" is computed", name.value, object.name);
            return Err(SqlError::new(SqlState("428C9"), message)
                .with_hint("Leave it out: it follows from the others.")
                .with_position(name.position));
        }
        let place = read.index_of(&name.value).expect("what is not computed is read");
        if columns.contains(&place) {
            let message = format!("column \"{}\" is given twice", name.value);
            return Err(SqlError::new(SqlState::DUPLICATE_COLUMN, message).with_position(name.position));
        }
        columns.push(place);
    }
    if given.columns.is_empty() {
        // What is known of a record beside its content need not be said.
        let is_included = |name: &str| definition.include.iter().any(|include| include.column == name);
        let all = 0..read.fields().len();
        columns = match n_values == read.fields().len() {
            true => all.collect(),
            false => all.filter(|idx| !is_included(read.field(*idx).name())).collect(),
        };
    }
    if columns.len() != n_values {
        let names: Vec<&str> = columns.iter().map(|idx| read.field(*idx).name().as_str()).collect();
        let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let message = format!("{} for {}", count(n_values, "value"), count(columns.len(), "column"));
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, message)
            .with_hint(format!("Values are for ({}).", names.join(", "))));
    }
    Ok(columns)
}

/// Rows of some columns as rows of all, with NULL in the others.
fn arrange(read: &SchemaRef, columns: &[usize], rows: &Rows, source: &str) -> Result<RecordBatch, SqlError> {
    let given = dml::concat(&rows.schema, &rows.batches)?;
    let n_rows = given.num_rows();
    let column = |(idx, field): (usize, &Arc<arrow::datatypes::Field>)| -> Result<ArrayRef, SqlError> {
        match columns.iter().position(|column| *column == idx) {
            Some(place) => dml::assign(given.column(place), field, source),
            None => Ok(new_null_array(field.data_type(), n_rows)),
        }
    };
    let columns = read.fields().iter().enumerate().map(column).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(super::expect::nullable(read), columns, &options)
        .map_err(dml::arrow_error)
}

/// Rows of a value, or of a key and a value, as records.
fn records(rows: &Rows) -> Result<Vec<GivenRecord>, SqlError> {
    let n_columns = rows.schema.fields().len();
    if !(1..=2).contains(&n_columns) {
        let message = format!("a record is given by {n_columns} values");
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, message)
            .with_hint("A record is its value, or its key and its value."));
    }
    let mut records = Vec::new();
    for batch in &rows.batches {
        let columns: Vec<ArrayRef> = batch
            .columns()
            .iter()
            .map(|column| match column.data_type() {
                DataType::Utf8 | DataType::Binary | DataType::Null => {
                    cast(column, &DataType::Binary).map_err(dml::arrow_error)
                }
                other => Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("a record is text or bytea, not {}", tidemill_sql::types::pg_type_name(other)),
                )),
            })
            .collect::<Result<_, _>>()?;
        let part = |column: &ArrayRef, row: usize| {
            let column = column.as_binary::<i32>();
            column.is_valid(row).then(|| column.value(row).to_vec())
        };
        for row in 0..batch.num_rows() {
            records.push(match &columns[..] {
                [value] => GivenRecord { key: None, value: part(value, row) },
                [key, value] => GivenRecord { key: part(key, row), value: part(value, row) },
                _ => unreachable!("counted above"),
            });
        }
    }
    Ok(records)
}
