//! `tidemill run`: a file as a job.
//!
//! The statements run in their order. Queries at the end of the file wait until the stream is done, so
//! that their answers are about all of it.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tidemill_core::SqlState;
use tidemill_engine::{EngineStatus, PipelineStatus, State};
use tidemill_sql::parser::split_statements;
use tokio_util::sync::CancellationToken;

use super::lock::DataLock;
use super::number::grouped;
use super::report::{Origin, plain};
use super::settings::{ConfigFlags, usage};
use super::table::{Format, Table};
use super::{Failure, file_name, print, read_statements, start_logging, stop_requests};
use crate::server::{self, Service, StartOptions, StatementResult};
use crate::session::api::SqlError;

/// How often it is looked whether all is done.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill run job.sql
  tidemill run report.sql --format csv > report.csv
  tidemill run resumable.sql --data ./job-state
  echo 'SELECT 1' | tidemill run -

Without --data everything is gone at the end. The job ends when all sources have been read to their
end, or with Ctrl-C; then the queries at the end of the file are answered. Errors name
file:line:column, and the exit code is 1.")]
pub struct Run {
    /// File of statements; - for the standard input
    file: String,
    /// Keep state here, and go on from it the next time
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// How rows are printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Print rows only: no tags, no progress, no summary
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Run {
    pub async fn run(self) -> Result<(), Failure> {
        let text = read_statements(&self.file)?;
        let config = self.flags.sources().load().map_err(usage)?.with_default_log("warn");
        start_logging(&config)?;
        let stop = stop_requests().map_err(|error| Failure::io("cannot handle signals", &error))?;
        let ephemeral =
            tempfile::tempdir().map_err(|error| Failure::io("cannot make a directory", &error))?;
        let data_dir = self.data.clone().unwrap_or_else(|| ephemeral.path().display().to_string());
        let _lock = DataLock::acquire(&data_dir)?;
        let options = StartOptions { data_dir, listen: None, http: None, is_catalog_only: false, config };
        let service = server::start(options).await?;
        let job = Job {
            service: &service,
            file: file_name(&self.file),
            text: &text,
            format: self.format,
            is_quiet: self.quiet,
            is_terminal: std::io::stderr().is_terminal(),
        };
        let result = tokio::select! {
            result = job.run(&stop) => result,
            error = service.lost() => {
                service.abandon().await;
                return Err(Failure::TakenOver(error));
            }
        };
        let stopped = service.shutdown().await;
        result?;
        Ok(stopped?)
    }
}

/// A text that runs.
struct Job<'a> {
    service: &'a Arc<dyn Service>,
    file: &'a str,
    text: &'a str,
    format: Format,
    is_quiet: bool,
    is_terminal: bool,
}

impl Job<'_> {
    async fn run(&self, stop: &CancellationToken) -> Result<(), Failure> {
        let statements = split_statements(self.text).map_err(|error| self.report(&error.into(), 0))?;
        let is_other = |(_, sql): &(usize, String)| !is_query(sql);
        let n_now = statements.iter().rposition(is_other).map_or(0, |last| last + 1);
        let (now, held) = statements.split_at(n_now);
        for statement in now {
            self.statement(statement, stop).await?;
        }
        let began = Instant::now();
        self.stream(stop).await?;
        let n_rows = n_rows(&self.service.status());
        if !self.is_quiet && n_rows > 0 {
            let seconds = began.elapsed().as_secs_f64();
            let rate = grouped((n_rows as f64 / seconds.max(1e-3)) as u64);
            eprintln!("{} rows in {seconds:.1} s, {rate} rows/s", grouped(n_rows));
        }
        for statement in held {
            self.statement(statement, &CancellationToken::new()).await?;
        }
        Ok(())
    }

    async fn statement(
        &self,
        (offset, sql): &(usize, String),
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut running = std::pin::pin!(self.service.run_sql(sql));
        let results = loop {
            tokio::select! {
                results = &mut running => break results,
                () = stop.cancelled() => {
                    self.clear_line();
                    let interrupted = SqlError::new(SqlState::QUERY_CANCELED, "interrupted");
                    return Err(self.report(&interrupted, *offset));
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    filling(&self.service.status()).iter().for_each(|line| self.show_line(line));
                }
            }
        };
        self.clear_line();
        for result in results.map_err(|error| self.report(&error, *offset))? {
            self.answer(&result)?;
        }
        Ok(())
    }

    fn answer(&self, result: &StatementResult) -> Result<(), Failure> {
        for notice in &result.notices {
            eprintln!("NOTICE:  {notice}");
        }
        if !result.rows.is_empty() {
            print(&Table::from_batches(&result.rows)?.render(self.format));
        } else if self.format == Format::Table && !self.is_quiet {
            print(&format!("{}\n", result.tag));
        }
        Ok(())
    }

    /// Until all is done, or stopped.
    async fn stream(&self, stop: &CancellationToken) -> Result<(), Failure> {
        let began = Instant::now();
        let mut last = (began, n_rows(&self.service.status()));
        // A pipeline that has just been created may not have begun to read: to be done is to be so twice.
        let mut was_done = false;
        loop {
            let status = self.service.status();
            let progress = progress(&status);
            let is_done = progress == Progress::Done;
            if let Progress::Failed(reason) = progress {
                self.clear_line();
                eprint!("{}", plain(&SqlError::new(SqlState::INTERNAL_ERROR, reason)));
                return Err(Failure::Reported);
            }
            if is_done && was_done || stop.is_cancelled() {
                self.clear_line();
                return Ok(());
            }
            was_done = is_done;
            if last.0.elapsed() >= Duration::from_secs(1) {
                let n_rows = n_rows(&status);
                let rate = (n_rows.saturating_sub(last.1)) as f64 / last.0.elapsed().as_secs_f64();
                last = (Instant::now(), n_rows);
                self.show_progress(&status, n_rows, rate as u64, began.elapsed());
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => (),
                () = stop.cancelled() => (),
            }
        }
    }

    fn show_progress(&self, status: &EngineStatus, n_rows: u64, rate: u64, elapsed: Duration) {
        self.show_line(&format!(
            "{} s  {} rows  {} rows/s  epoch {}  Ctrl-C stops",
            elapsed.as_secs(),
            grouped(n_rows),
            grouped(rate),
            status.epoch
        ));
    }

    fn show_line(&self, line: &str) {
        if self.is_quiet || !self.is_terminal {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        let line = format!("\r\x1b[K{line}");
        // It is for those who look.
        let _ = stderr.write_all(line.as_bytes()).and_then(|()| stderr.flush());
    }

    fn clear_line(&self) {
        if !self.is_quiet && self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn report(&self, error: &SqlError, offset: usize) -> Failure {
        eprint!("{}", Origin { file: Some(self.file), text: self.text, offset }.error(error));
        Failure::Reported
    }
}

/// Whether a statement only reads.
fn is_query(sql: &str) -> bool {
    let word: String = sql.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
    sql.starts_with('(') || ["SELECT", "WITH", "VALUES", "TABLE"].contains(&word.to_uppercase().as_str())
}

fn n_rows(status: &EngineStatus) -> u64 {
    status.sources.iter().map(|source| source.rows).sum()
}

/// What is being filled, and how far that has come.
fn filling(status: &EngineStatus) -> Option<String> {
    let all = status.pipelines.iter().chain(status.sinks.iter().map(|sink| &sink.pipeline));
    let of = |pipeline: &PipelineStatus| {
        let (n_done, n_total) = pipeline.fill?;
        let name = &pipeline.name;
        Some(match n_total {
            Some(n_total) if n_total > 0 => {
                // A total may be an estimate.
                let percent = (n_done as f64 / n_total as f64 * 100.0).min(100.0) as u64;
                format!("filling {name}: {} of {} rows  {percent} %", grouped(n_done), grouped(n_total))
            }
            _ => format!("filling {name}: {} rows", grouped(n_done)),
        })
    };
    all.filter_map(of).next()
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Streaming,
    Done,
    Failed(String),
}

/// Done is when nothing more will come and all that came has arrived.
fn progress(status: &EngineStatus) -> Progress {
    let sinks = status.sinks.iter().map(|sink| ("sink", &sink.pipeline));
    let pipelines: Vec<(&str, &PipelineStatus)> =
        status.pipelines.iter().map(|pipeline| ("pipeline", pipeline)).chain(sinks).collect();
    let sources = status.sources.iter().map(|source| ("source", &source.name, &source.state));
    let states = sources.chain(pipelines.iter().map(|(kind, p)| (*kind, &p.name, &p.state)));
    for (kind, name, state) in states {
        if let Some(reason) = state.error() {
            return Progress::Failed(format!("{kind} \"{name}\" has failed: {reason}"));
        }
    }
    let is_read = status.sources.iter().all(|source| matches!(source.state, State::Finished | State::Idle));
    let has_arrived = pipelines.iter().all(|(_, p)| p.state != State::Filling && p.epoch >= status.epoch);
    // What is gathered leaves when the server ends.
    let is_delivered = status.sinks.iter().all(|sink| sink.rows_pending <= sink.rows_gathered);
    match is_read && has_arrived && is_delivered {
        true => Progress::Done,
        false => Progress::Streaming,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tidemill_core::Epoch;

    use super::*;
    use crate::server::testing::{FakeService, pipeline, source};

    fn status(state: State, epoch: u64, pipeline_epoch: u64) -> EngineStatus {
        EngineStatus {
            epoch: Epoch(epoch),
            sources: vec![source("s", state)],
            pipelines: vec![PipelineStatus { epoch: Epoch(pipeline_epoch), ..pipeline("p") }],
            ..EngineStatus::default()
        }
    }

    #[test]
    fn a_job_is_done_when_all_has_arrived() {
        assert_eq!(progress(&EngineStatus::default()), Progress::Done);
        assert_eq!(progress(&status(State::Running, 5, 5)), Progress::Streaming);
        assert_eq!(progress(&status(State::Finished, 5, 4)), Progress::Streaming);
        assert_eq!(progress(&status(State::Finished, 5, 5)), Progress::Done);
        assert_eq!(progress(&status(State::Idle, 5, 5)), Progress::Done);
        let failed = status(State::Failed("no such file".into()), 5, 5);
        assert_eq!(progress(&failed), Progress::Failed("source \"s\" has failed: no such file".into()));

        let sinks = FakeService::example().status().sinks;
        let mut pending = EngineStatus { sinks, ..status(State::Finished, 5, 5) };
        assert_eq!(progress(&pending), Progress::Streaming);
        pending.sinks[0].rows_pending = 0;
        assert_eq!(progress(&pending), Progress::Done);
    }

    #[test]
    fn fills_show_how_far_they_are() {
        let with = |fill| EngineStatus {
            pipelines: vec![pipeline("other"), PipelineStatus { fill, ..pipeline("p") }],
            ..EngineStatus::default()
        };
        let line = |fill| filling(&with(fill)).unwrap_or_default();
        assert_eq!(line(None), "");
        assert_eq!(line(Some((65_536, Some(1_000_000)))), "filling p: 65,536 of 1,000,000 rows  6 %");
        assert_eq!(line(Some((70, Some(60)))), "filling p: 70 of 60 rows  100 %");
        assert_eq!(line(Some((1_234, None))), "filling p: 1,234 rows");
    }

    fn job<'a>(service: &'a Arc<dyn Service>, text: &'a str) -> Job<'a> {
        Job { service, file: "job.sql", text, format: Format::Table, is_quiet: true, is_terminal: false }
    }

    #[tokio::test]
    async fn last_queries_wait_for_the_end_of_the_stream() {
        let fake = Arc::new(FakeService::new(status(State::Running, 5, 5)));
        let service: Arc<dyn Service> = fake.clone();
        let text = "CREATE SOURCE s; SELECT 1; CREATE PIPELINE p; SELECT 2; (SELECT 3); -- the end\n";
        let job = job(&service, text);
        let stop = CancellationToken::new();
        let seen = AtomicUsize::new(0);
        let end = async {
            while fake.statements.lock().unwrap().len() < 3 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(POLL_INTERVAL * 3).await;
            seen.store(fake.statements.lock().unwrap().len(), Ordering::Relaxed);
            *fake.status.lock().unwrap() = status(State::Finished, 6, 6);
        };
        let (result, ()) = tokio::join!(job.run(&stop), end);
        result.unwrap();
        assert_eq!(seen.load(Ordering::Relaxed), 3);
        let expected = ["CREATE SOURCE s", "SELECT 1", "CREATE PIPELINE p", "SELECT 2", "(SELECT 3)"];
        assert_eq!(*fake.statements.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_job_ends_with_its_first_error_or_when_stopped() {
        let mut fake = FakeService::new(status(State::Running, 5, 5));
        fake.answer = Box::new(|sql| match sql {
            "BAD" => Err(SqlError::new(SqlState::SYNTAX_ERROR, "no").with_position(1)),
            _ => Ok(Vec::new()),
        });
        let fake = Arc::new(fake);
        let service: Arc<dyn Service> = fake.clone();
        let stop = CancellationToken::new();
        let result = job(&service, "GOOD; BAD; GOOD").run(&stop).await;
        assert!(matches!(result, Err(Failure::Reported)));
        assert_eq!(*fake.statements.lock().unwrap(), ["GOOD", "BAD"]);

        let unterminated = job(&service, "GOOD; 'BAD").run(&stop).await;
        assert!(matches!(unterminated, Err(Failure::Reported)));

        let (result, ()) = tokio::join!(async { job(&service, "GOOD; SELECT 1").run(&stop).await }, async {
            tokio::time::sleep(POLL_INTERVAL).await;
            stop.cancel();
        });
        result.unwrap();
        assert_eq!(fake.statements.lock().unwrap().last().unwrap(), "SELECT 1");
    }
}
