//! A test, from one life of its server to the next.
//!
//! A server lives in a runtime of its own. To kill it is to end the runtime: its tasks are dropped where they are, nothing is
//! flushed, no checkpoint is made; what is on disk is all that the next one finds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_connectors::stand_in::StandIns;
use tidemill_core::{Epoch, SqlState};
use tidemill_engine::{EngineConfig, State, TimeSource};
use tidemill_plan::RelationId;
use tidemill_sql::parser::test_script::{Expect, Given, Step};
use tidemill_sql::parser::{ObjectName, STACK_BYTES_MIN};

use super::changes::Subscriber;
use super::expect::Difference;
use super::script::{Line, Script};
use super::{Crashes, Failure, Mode};
use crate::database::Database;
use crate::names::find;
use crate::session::Session;
use crate::session::api::{SessionApi, SqlError, TransactionStatus};

/// 2000-01-01 00:00:00: when every test begins.
pub const START: i64 = 946_684_800_000_000;

/// Nothing that a test does takes so long.
const STEP_MAX: Duration = Duration::from_secs(120);
/// How long it takes at most until what was given is read, and what was sent has arrived.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How long the tasks of a server may take to notice that it has been killed.
const DEATH_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for what nobody says.
const LOOK: Duration = Duration::from_millis(1);

/// Why a step cannot be done, or has not the result that is expected.
pub enum Wrong {
    Error(SqlError),
    Differs(Difference),
}

impl<E: Into<SqlError>> From<E> for Wrong {
    fn from(error: E) -> Wrong {
        Wrong::Error(error.into())
    }
}

/// What comes behind a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Step,
    /// The server is killed, and starts again.
    Crash,
    /// It is stopped, and starts again.
    Restart,
}

/// Why a life of the server is over.
enum Stop {
    Done,
    NextLife,
    Failed(Failure),
}

/// A server while it lives.
pub struct Live {
    pub database: Arc<Database>,
    pub session: Session,
}

/// A test that runs.
pub struct Run {
    lines: Arc<Vec<Line>>,
    /// How many of the lines are the set-up.
    n_set_up: usize,
    next: usize,
    mode: Mode,
    pub verifies: bool,
    directory: PathBuf,
    time: TimeSource,
    pub stand_ins: Arc<StandIns>,
    /// What a client says again when it is connected again.
    pub settings: Vec<String>,
    /// The relations of which changes are expected, and who listens to them.
    watched: Vec<ObjectName>,
    pub subscribers: BTreeMap<String, Subscriber>,
    /// How much of what sinks have sent has been asked for.
    pub n_asked: BTreeMap<u32, usize>,
    /// Pipelines and sinks that have failed, why, and behind which line.
    pub failed: BTreeMap<String, (String, usize)>,
    /// Failures that were expected.
    pub expected_failures: BTreeSet<String>,
    /// Late rows of these epochs came again, since no checkpoint had them.
    pub superseded: Vec<(String, Epoch, Epoch)>,
}

/// Runs a test in one mode; gives why it fails, if it does.
pub fn run(script: &Script, idx: usize, mode: Mode, verifies: bool) -> Option<Failure> {
    let test = &script.tests[idx];
    let directory = match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => return Some(plain(format!("cannot make a directory: {error}"))),
    };
    let lines: Vec<Line> = script.set_up.iter().chain(&test.steps).cloned().collect();
    let mut run = Run {
        next: 0,
        mode,
        n_set_up: script.set_up.len(),
        verifies,
        directory: directory.path().to_owned(),
        time: TimeSource::manual(START),
        stand_ins: StandIns::new(partitions(&lines)),
        settings: Vec::new(),
        watched: watched(&lines),
        subscribers: BTreeMap::new(),
        n_asked: BTreeMap::new(),
        failed: BTreeMap::new(),
        expected_failures: BTreeSet::new(),
        superseded: Vec::new(),
        lines: Arc::new(lines),
    };
    loop {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES_MIN)
            .thread_name("tidemill-test")
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return Some(plain(format!("cannot start threads: {error}"))),
        };
        let lived = runtime.block_on(async { tokio::spawn(live(run)).await });
        runtime.shutdown_timeout(DEATH_MAX);
        match lived {
            Ok((_, Stop::Done)) => return None,
            Ok((_, Stop::Failed(failure))) => return Some(failure),
            Ok((next, Stop::NextLife)) => run = next,
            Err(error) => return Some(plain(format!("the test broke off: {error}"))),
        }
    }
}

fn plain(message: String) -> Failure {
    Failure { text: format!("{message}\n"), message }
}

/// How many partitions sources are given rows in, by name.
fn partitions(lines: &[Line]) -> BTreeMap<String, u32> {
    let mut partitions: BTreeMap<String, u32> = BTreeMap::new();
    for line in lines {
        if let Step::Given(Given { source, partition, .. }) = &line.scripted.step {
            let known = partitions.entry(source.name.clone()).or_insert(1);
            *known = (*known).max(partition + 1);
        }
    }
    partitions
}

/// The relations of which changes are expected somewhere.
fn watched(lines: &[Line]) -> Vec<ObjectName> {
    let mut watched: Vec<ObjectName> = Vec::new();
    for line in lines {
        if let Step::Expect(Expect::Changes { of, .. }) = &line.scripted.step
            && !watched.iter().any(|known| known.to_string() == of.to_string())
        {
            watched.push(of.clone());
        }
    }
    watched
}

async fn live(mut run: Run) -> (Run, Stop) {
    let stop = run.live().await.unwrap_or_else(Stop::Failed);
    (run, stop)
}

impl Run {
    async fn live(&mut self) -> Result<Stop, Failure> {
        let opened = tokio::time::timeout(STEP_MAX, self.open()).await;
        let mut live =
            opened.unwrap_or_else(|_| Err(too_long().into())).map_err(|wrong| self.failure(wrong))?;
        let lines = self.lines.clone();
        while let Some(line) = lines.get(self.next) {
            if self.next == self.n_set_up {
                // What the set-up has changed is where the test begins.
                self.subscribers.values_mut().for_each(|subscriber| subscriber.told.clear());
            }
            self.next += 1;
            let done = tokio::time::timeout(STEP_MAX, self.step(&mut live, line)).await;
            let next =
                done.unwrap_or_else(|_| Err(too_long().into())).map_err(|wrong| self.failure(wrong))?;
            let next = self.or_crash(&live, line, next);
            if next != Next::Step {
                self.end(live, next).await.map_err(|wrong| self.failure(wrong))?;
                return Ok(Stop::NextLife);
            }
        }
        let is_expected = |name: &String| self.expected_failures.contains(name);
        let failed = self.failed.iter().find(|(name, _)| !is_expected(name));
        match failed.map(|(name, (reason, line))| (name.clone(), reason.clone(), *line)) {
            Some((name, reason, line)) => {
                self.next = line;
                let message = format!("\"{name}\" has failed: {reason}");
                let error = SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, message)
                    .with_hint(format!("Where that is what is to happen, write EXPECT {name} FAILED;"));
                Err(self.failure(error.into()))
            }
            None => Ok(Stop::Done),
        }
    }

    /// Starts a server on what the last one has left, and lets it read again what it had read.
    async fn open(&mut self) -> Result<Live, Wrong> {
        self.stand_ins.hide();
        let config = EngineConfig {
            // Nothing happens by itself: what is to be seen is sealed, what is to last is checkpointed when the test says so.
            epoch_interval: Duration::from_secs(3600),
            checkpoint_interval: Duration::MAX,
            time: self.time.clone(),
            restart_limit: 0,
            ..EngineConfig::default()
        };
        let stand_ins = self.stand_ins.clone();
        let database =
            Database::open_for_tests(&self.directory, self.mode.n_lanes, config, stand_ins).await?;
        let session = Session::new(database.clone(), "tidemill".into());
        let mut live = Live { database, session };
        for sql in self.settings.clone() {
            live.execute(&sql).await?;
        }
        self.settle(&live).await?;
        while self.stand_ins.show() {
            self.settle(&live).await?;
        }
        self.settle(&live).await?;
        for subscriber in self.subscribers.values_mut() {
            // Of what has failed or is gone nobody hears any more.
            let engine = &live.database.engine;
            if let Ok(subscription) = engine.subscribe(RelationId(subscriber.oid), engine.epoch()).await {
                subscriber.come_again(subscription)?;
            }
        }
        Ok(live)
    }

    /// The same step, or behind it the crash that the mode asks for.
    fn or_crash(&self, live: &Live, line: &Line, next: Next) -> Next {
        let is_change = !matches!(line.scripted.step, Step::Expect(_));
        // A block that is open would be rolled back.
        let is_idle = live.session.status() == TransactionStatus::Idle;
        let is_crashing = match self.mode.crashes {
            Crashes::Nowhere => false,
            Crashes::InTest => self.next > self.n_set_up,
            Crashes::Everywhere => true,
        };
        match next {
            Next::Step if is_crashing && is_change && is_idle => Next::Crash,
            next => next,
        }
    }

    /// Ends a life.
    async fn end(&mut self, live: Live, next: Next) -> Result<(), Wrong> {
        let engine = &live.database.engine;
        if next == Next::Restart {
            engine.shutdown().await?;
            return Ok(());
        }
        // Both ways back are gone: from a checkpoint of just now, and by reading again what came since the last one.
        if self.mode.crashes != Crashes::Nowhere && self.next.is_multiple_of(2) {
            engine.checkpoint_all().await?;
        }
        let status = engine.status().await;
        let sinks = status.sinks.iter().map(|sink| &sink.pipeline);
        for pipeline in status.pipelines.iter().chain(sinks) {
            self.superseded.push((pipeline.name.clone(), pipeline.checkpoint_epoch, engine.epoch()));
        }
        Ok(())
    }

    /// Waits until everything that was given or said has been taken in everywhere.
    pub async fn settle(&mut self, live: &Live) -> Result<(), Wrong> {
        let engine = &live.database.engine;
        let settled = tokio::time::timeout(SETTLE_MAX, async {
            loop {
                let status = engine.status().await;
                let running = status.sources.iter().filter(|source| source.state == State::Running);
                let running: Vec<u32> = running.map(|source| source.id.0).collect();
                self.stand_ins.read(&running).await;
                engine.settle().await?;
                // That a source has ended, its reader knows before the engine does; and when the engine knows it, what
                // follows from that has not been taken in yet.
                let status = engine.status().await;
                let is_ending = status.sources.iter().any(|source| match source.state {
                    State::Running => self.stand_ins.has_ended(source.id.0),
                    _ => running.contains(&source.id.0),
                });
                let is_sending = status.sinks.iter().any(|sink| {
                    sink.pipeline.state == State::Running
                        && sink.rows_pending > 0
                        && self.stand_ins.sends_at_once(sink.pipeline.id.0)
                });
                if !is_ending && !is_sending {
                    return Ok::<_, SqlError>(status);
                }
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
        let status = settled.unwrap_or_else(|_| Err(too_long()))?;
        for subscriber in self.subscribers.values_mut() {
            subscriber.listen()?;
        }
        let sinks = status.sinks.iter().map(|sink| &sink.pipeline);
        let mut failed = BTreeMap::new();
        for pipeline in status.pipelines.iter().chain(sinks) {
            if let State::Failed(reason) | State::Restarting(reason) = &pipeline.state {
                let line = self.failed.get(&pipeline.name).map_or(self.next, |(_, line)| *line);
                // An error and what it comes from stand on lines of their own.
                let reason: Vec<&str> = reason.lines().filter(|line| *line != "caused by").collect();
                failed.insert(pipeline.name.clone(), (reason.join(": "), line));
            }
        }
        self.failed = failed;
        self.watch(live).await
    }

    /// Listens to what changes are expected of, as soon as it is there.
    async fn watch(&mut self, live: &Live) -> Result<(), Wrong> {
        let engine = &live.database.engine;
        let search_path = live.session.settings.search_path();
        let catalog = live.database.catalog();
        for name in &self.watched {
            let Some(object) = find(&catalog, name.schema.as_deref(), &name.name, &search_path) else {
                continue;
            };
            let key = name.to_string();
            if self.subscribers.get(&key).is_some_and(|subscriber| subscriber.oid == object.oid) {
                continue;
            }
            // Others cannot be subscribed to: who asks for their changes is told.
            if let Ok(subscription) = engine.subscribe(RelationId(object.oid), engine.epoch()).await {
                self.subscribers.insert(key, Subscriber::new(object.oid, subscription)?);
            }
        }
        Ok(())
    }

    /// Waits until a sink has sent all that it has. What is delivered exactly once leaves with checkpoints.
    pub async fn deliver(&self, live: &Live, oid: u32) -> Result<(), Wrong> {
        let engine = &live.database.engine;
        let delivered = tokio::time::timeout(SETTLE_MAX, async {
            loop {
                engine.checkpoint_all().await?;
                let status = engine.status().await;
                let Some(sink) = status.sinks.iter().find(|sink| sink.pipeline.id.0 == oid) else {
                    return Ok(());
                };
                if sink.rows_pending == 0 || sink.pipeline.state != State::Running {
                    return Ok::<_, SqlError>(());
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(delivered.await.unwrap_or_else(|_| Err(too_long()))?)
    }

    /// Moves the clock on. What happens by itself happens at its time, and not all at the end.
    pub async fn advance(&mut self, live: &Live, to: i64) -> Result<(), Wrong> {
        /// More moments than anybody looks at between two steps.
        const MOMENTS_MAX: usize = 10_000;
        let engine = &live.database.engine;
        let mut last = None;
        for _ in 0..MOMENTS_MAX {
            let moment = engine.next_time().await.filter(|moment| *moment < to);
            if moment.is_none() || moment == last {
                break;
            }
            last = moment;
            engine.advance_to(moment.unwrap_or(to)).await?;
        }
        engine.advance_to(to).await?;
        Ok(())
    }

    /// What is wrong with the step that was done last.
    fn failure(&self, wrong: Wrong) -> Failure {
        let Some(line) = self.lines.get(self.next.saturating_sub(1)) else {
            return match wrong {
                Wrong::Error(error) => plain(error.message),
                Wrong::Differs(difference) => plain(difference.message),
            };
        };
        match wrong {
            Wrong::Error(error) => Failure { text: line.error(&error), message: error.message },
            Wrong::Differs(Difference { message, rows }) => {
                let sql = line.scripted.sql.trim();
                let first = sql.lines().next().unwrap_or_default();
                let more = if first.len() < sql.len() { " …" } else { "" };
                let text = format!("{}: {first}{more}\n{message}\n{rows}", line.place());
                Failure { message, text }
            }
        }
    }
}

fn too_long() -> SqlError {
    SqlError::new(SqlState::QUERY_CANCELED, "it takes too long: something waits for what does not come")
}
