//! `tidemill demo`: a stream of auctions, pipelines over it, and a page that shows them change.

mod meter;
mod page;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use tidemill_sql::parser::split_statements;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::meter::{Meter, Reading};
use self::page::{HISTORY, Page};
use crate::cli::lock::DataLock;
use crate::cli::number::{bytes, grouped, millis};
use crate::cli::report::Origin;
use crate::cli::settings::{ConfigFlags, usage};
use crate::cli::table::Table;
use crate::cli::{Failure, psql_line, say, start_logging, stop_requests};
use crate::config::{check_addresses, parse_duration};
use crate::server::{self, Service, StartOptions};
use crate::session::api::SqlError;

/// The statements, and the name that errors give them.
const SQL: &str = include_str!("../../examples/nexmark/demo.sql");
const FILE: &str = "examples/nexmark/demo.sql";
/// The option of the sources in [`SQL`] that `--rate` changes.
const RATE: &str = "rate = '50000'";
/// What the page shows of the views.
const QUERY: &str = "SELECT * FROM hot_auctions ORDER BY window_start DESC, rank LIMIT 9";

const FRAME_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(1);
const QUERY_INTERVAL: Duration = Duration::from_millis(400);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill demo
  tidemill demo --for 10s --no-page
  tidemill demo --rate 200000

The statements are those of examples/nexmark/demo.sql. While it runs, psql can read the views too: the
page shows the line. Without --data everything is gone at the end.")]
pub struct Demo {
    /// End by itself after this time, such as 10s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    ends_after: Option<Duration>,
    /// Events per second; 0 for as many as possible (default: 50000)
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Keep state here, and go on from it the next time
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// A line per second instead of the page
    #[arg(long)]
    no_page: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Demo {
    pub async fn run(self) -> Result<(), Failure> {
        let has_page = !self.no_page && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        // Log lines would tear the page apart; what has failed stands on it.
        let default_log = if has_page { "off" } else { "warn" };
        let config = self.flags.sources().load().map_err(usage)?.with_default_log(default_log);
        check_addresses(&config).map_err(usage)?;
        start_logging(&config)?;
        let stop = stop_requests().map_err(|error| Failure::io("cannot handle signals", &error))?;
        let ephemeral =
            tempfile::tempdir().map_err(|error| Failure::io("cannot make a directory", &error))?;
        let data_dir = self.data.clone().unwrap_or_else(|| ephemeral.path().display().to_string());
        let _lock = DataLock::acquire(&data_dir)?;
        let options = StartOptions {
            data_dir,
            listen: Some(free_or_any(config.listen)),
            http: config.http.map(free_or_any),
            is_catalog_only: false,
            config,
        };
        let service = server::start(options).await?;
        let watched = self.watch(&service, has_page, &stop).await;
        let stopped = service.shutdown().await;
        let total = watched?;
        stopped?;
        say(&summary(&total));
        match total.failures.is_empty() {
            true => Ok(()),
            false => Err(Failure::Reported),
        }
    }

    /// Sets everything up and shows it until it is to end.
    async fn watch(
        &self,
        service: &Arc<dyn Service>,
        has_page: bool,
        stop: &CancellationToken,
    ) -> Result<Reading, Failure> {
        set_up(service, self.rate).await?;
        let began = Instant::now();
        let watch = Watch {
            service,
            began,
            ends_after: self.ends_after,
            stop,
            meter: Meter::new(began, service.status()),
        };
        match has_page {
            true => watch.show_page().await,
            false => Ok(watch.show_lines().await),
        }
    }
}

/// Runs the statements, with another rate if one is wanted.
async fn set_up(service: &Arc<dyn Service>, rate: Option<u64>) -> Result<(), Failure> {
    let text = match rate {
        Some(rate) => SQL.replace(RATE, &format!("rate = '{rate}'")),
        None => SQL.to_owned(),
    };
    let report = |error: &SqlError, offset: usize| {
        eprint!("{}", Origin { file: Some(FILE), text: &text, offset }.error(error));
        Failure::Reported
    };
    let statements = split_statements(&text).map_err(|error| report(&error.into(), 0))?;
    for (offset, sql) in &statements {
        service.run_sql(sql).await.map_err(|error| report(&error, *offset))?;
    }
    Ok(())
}

/// The address, or one with a free port where somebody has it already.
fn free_or_any(address: SocketAddr) -> SocketAddr {
    match TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => SocketAddr::new(address.ip(), 0),
    }
}

/// A demo that runs.
struct Watch<'a> {
    service: &'a Arc<dyn Service>,
    began: Instant,
    ends_after: Option<Duration>,
    stop: &'a CancellationToken,
    meter: Meter,
}

impl Watch<'_> {
    async fn show_lines(mut self) -> Reading {
        say(&format!("{}\n", psql_line(self.service).unwrap_or_default()));
        while self.next_frame(LINE_INTERVAL).await {
            self.observe();
            say(&line(self.began.elapsed(), &self.meter.recent()));
        }
        self.observe();
        self.meter.total()
    }

    async fn show_page(mut self) -> Result<Reading, Failure> {
        let failed = |error: std::io::Error| Failure::io("cannot draw on the terminal", &error);
        let mut terminal = ratatui::try_init().map_err(failed)?;
        let _restored = Restored;
        let (answers, _asking) = ask(Arc::clone(self.service));
        let (mut keys, _listening) = listen();
        let mut history = VecDeque::new();
        loop {
            self.observe();
            let page = self.page(&mut history, &answers);
            terminal.draw(|frame| page.draw(frame)).map_err(failed)?;
            tokio::select! {
                goes_on = self.next_frame(FRAME_INTERVAL) => if !goes_on { break },
                Some(key) = keys.recv() => match is_quit(&key) {
                    true => break,
                    false => redraw(&mut terminal, &key).map_err(failed)?,
                },
            }
        }
        self.observe();
        Ok(self.meter.total())
    }

    fn page(&self, history: &mut VecDeque<u64>, answers: &watch::Receiver<Answer>) -> Page {
        let recent = self.meter.recent();
        history.push_back(recent.events_per_second());
        if history.len() > HISTORY {
            history.pop_front();
        }
        Page {
            elapsed: self.began.elapsed(),
            ends_after: self.ends_after,
            events_total: self.meter.total().events,
            recent,
            history: history.clone(),
            query: QUERY,
            answer: answers.borrow().clone(),
            psql: psql_line(self.service).unwrap_or_default(),
            http: self.service.http_addr().map(|address| format!("http://{address}/")),
        }
    }

    fn observe(&mut self) {
        self.meter.observe(Instant::now(), self.service.status());
    }

    /// Waits; false when it is time to end.
    async fn next_frame(&self, interval: Duration) -> bool {
        let left = self.ends_after.map(|end| end.saturating_sub(self.began.elapsed()));
        tokio::select! {
            () = tokio::time::sleep(left.unwrap_or(interval).min(interval)) => (),
            () = self.stop.cancelled() => (),
        }
        let is_over = self.ends_after.is_some_and(|end| self.began.elapsed() >= end);
        !is_over && !self.stop.is_cancelled()
    }
}

/// Gives the terminal back, also when drawing failed.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

type Answer = Result<Table, String>;

/// Asks the views again and again, beside the page, which must not wait for them.
fn ask(service: Arc<dyn Service>) -> (watch::Receiver<Answer>, DropGuard) {
    let (sender, receiver) = watch::channel(Ok(Table::default()));
    let end = CancellationToken::new();
    let guard = end.clone().drop_guard();
    tokio::spawn(end.run_until_cancelled_owned(async move {
        loop {
            let answer = answer(&service).await;
            if sender.send(answer).is_err() {
                return;
            }
            tokio::time::sleep(QUERY_INTERVAL).await;
        }
    }));
    (receiver, guard)
}

async fn answer(service: &Arc<dyn Service>) -> Answer {
    let results = service.run_sql(QUERY).await.map_err(|error| error.to_string())?;
    let batches = results.into_iter().next().unwrap_or_default().rows;
    Table::from_batches(&batches).map_err(|error| error.to_string())
}

/// The keys that are pressed. In raw mode Ctrl-C is one of them.
fn listen() -> (mpsc::UnboundedReceiver<KeyEvent>, DropGuard) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let end = CancellationToken::new();
    let guard = end.clone().drop_guard();
    std::thread::spawn(move || {
        while !end.is_cancelled() {
            match event::poll(FRAME_INTERVAL) {
                Ok(false) => continue,
                // Without a keyboard there are still signals.
                Err(_) => return,
                Ok(true) => (),
            }
            let Ok(event) = event::read() else { return };
            if let Event::Key(key) = event
                && sender.send(key).is_err()
            {
                return;
            }
        }
    });
    (receiver, guard)
}

fn is_quit(key: &KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// Ctrl-L, for a terminal that others have written to.
fn redraw(terminal: &mut DefaultTerminal, key: &KeyEvent) -> std::io::Result<()> {
    match key.code {
        KeyCode::Char('l') if key.modifiers.contains(KeyModifiers::CONTROL) => terminal.clear(),
        _ => Ok(()),
    }
}

fn line(elapsed: Duration, recent: &Reading) -> String {
    let mut line = format!(
        "{:>4} s  {:>9} events/s  {:>4} epochs/s  row to view p50 {:>7} p99 {:>7}  state {}\n",
        elapsed.as_secs(),
        grouped(recent.events_per_second()),
        grouped(recent.epochs_per_second()),
        millis(recent.latency_p50),
        millis(recent.latency_p99),
        bytes(recent.state_bytes)
    );
    recent.failures.iter().for_each(|failure| line += &format!("        {failure}\n"));
    line
}

fn summary(total: &Reading) -> String {
    let mut summary = format!(
        "{:.1} s: {} events, {} events/s, {} epochs\n\
         row to view, slowest of {} pipelines: p50 {}, p99 {}\n\
         state: {}\n",
        total.seconds,
        grouped(total.events),
        grouped(total.events_per_second()),
        grouped(total.epochs),
        total.pipelines.len(),
        millis(total.latency_p50),
        millis(total.latency_p99),
        bytes(total.state_bytes)
    );
    total.failures.iter().for_each(|failure| summary += &format!("{failure}\n"));
    summary
}

#[cfg(test)]
mod tests;
