//! `tidemill migrate`: files of statements, applied once and in order.
//!
//! What has been applied is a table in the database, with a checksum of each file. A file runs in one transaction with
//! its line in that table, so that it is applied or not, whatever happens. One run at a time: an advisory lock is held.

pub(crate) mod files;
mod history;
mod plan;
mod run;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use tidemill_core::SqlState;
use tokio::runtime::Runtime;

use self::files::Migration;
use self::history::{History, State};
use super::shell::{address, connect, connection};
use super::table::{Format, Table};
use super::{Failure, print};
use crate::session::api::SqlError;

/// Migrations wait to be applied.
const PENDING: u8 = 5;
/// What has been applied is not what the files say.
const CHANGED: u8 = 6;
/// Another run holds the lock.
const LOCKED: u8 = 7;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill migrate new add_orders
  tidemill migrate plan
  tidemill migrate up
  tidemill migrate down
  tidemill migrate status --url postgres://tidemill@127.0.0.1:7432/tidemill

A file is called VERSION_NAME.sql and has a part behind \"-- migrate:up\" and one behind \"-- migrate:down\"; or it is two,
VERSION_NAME.up.sql and VERSION_NAME.down.sql. Each runs in one transaction.

Exit codes: 0 done, or nothing to do; 1 a migration failed and was rolled back; 2 used wrongly; 3 not connected;
5 migrations wait (plan, status); 6 an applied file has been changed; 7 another run holds the lock.")]
pub struct Migrate {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a file to write a migration into
    New(New),
    /// Say what would happen to each object
    Plan(Place),
    /// Apply what has not been applied
    Up(Up),
    /// Take back what was applied last
    Down(Down),
    /// List the files, and what has been applied
    Status(Place),
    /// Take the file of an applied migration for what was applied
    Repair(Repair),
}

#[derive(Debug, Args)]
struct New {
    /// What it does, in a few words
    name: String,
    /// Where the files are
    #[arg(long, default_value = "migrations")]
    dir: PathBuf,
    /// Make two files, one up and one down
    #[arg(long)]
    paired: bool,
}

/// Which files, and which database.
#[derive(Debug, Args)]
struct Place {
    /// Where the files are
    #[arg(long, default_value = "migrations")]
    dir: PathBuf,
    /// postgres://user@host:port/database; else PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSWORD
    #[arg(long)]
    url: Option<String>,
    /// The table of what has been applied
    #[arg(long, default_value = "public.tidemill_migrations", value_name = "SCHEMA.NAME")]
    table: String,
}

#[derive(Debug, Args)]
struct Up {
    /// How many to apply; else all
    n: Option<usize>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lock: LockFlags,
    /// Only print what would be run
    #[arg(long)]
    dry_run: bool,
    /// Refuse files with lower numbers than what has been applied
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct Down {
    /// How many to take back
    #[arg(default_value_t = 1)]
    n: usize,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lock: LockFlags,
    /// Only print what would be run
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Repair {
    /// The number of the migration
    version: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lock: LockFlags,
}

#[derive(Debug, Clone, Copy, Args)]
struct LockFlags {
    /// How many seconds to wait for another run
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    lock_timeout: u64,
}

impl LockFlags {
    fn timeout(self) -> Duration {
        Duration::from_secs(self.lock_timeout)
    }
}

impl Migrate {
    pub fn run(self, runtime: &Runtime) -> Result<(), Failure> {
        match self.command {
            Command::New(new) => files::create(&new.dir, &new.name, new.paired),
            Command::Plan(place) => {
                let (client, migrations) = place.open(runtime)?;
                runtime.block_on(async {
                    let history = History::read(&client, &place.table).await?;
                    plan::print_plan(&client, &history, &migrations).await
                })
            }
            Command::Status(place) => {
                let (client, migrations) = place.open(runtime)?;
                let history = runtime.block_on(History::read(&client, &place.table))?;
                status(&history, &migrations)
            }
            Command::Up(up) => {
                let (client, migrations) = up.place.open(runtime)?;
                runtime.block_on(async {
                    if up.dry_run {
                        let history = History::read(&client, &up.place.table).await?;
                        let pending = run::pending(&history, &migrations, up.n, up.strict)?;
                        return run::show(pending.iter().map(|migration| &migration.up));
                    }
                    let _lock = run::lock(&client, &up.place.table, up.lock.timeout()).await?;
                    let history = History::open(&client, &up.place.table).await?;
                    let pending = run::pending(&history, &migrations, up.n, up.strict)?;
                    run::up(&client, &history, &pending).await
                })
            }
            Command::Down(down) => {
                let (client, migrations) = down.place.open(runtime)?;
                runtime.block_on(async {
                    if down.dry_run {
                        let history = History::read(&client, &down.place.table).await?;
                        let last = run::last_applied(&history, &migrations, down.n)?;
                        return run::show(last.iter().map(|(_, part)| *part));
                    }
                    let _lock = run::lock(&client, &down.place.table, down.lock.timeout()).await?;
                    let history = History::open(&client, &down.place.table).await?;
                    let last = run::last_applied(&history, &migrations, down.n)?;
                    run::down(&client, &history, &last).await
                })
            }
            Command::Repair(repair) => {
                let (client, migrations) = repair.place.open(runtime)?;
                runtime.block_on(async {
                    let _lock = run::lock(&client, &repair.place.table, repair.lock.timeout()).await?;
                    let history = History::open(&client, &repair.place.table).await?;
                    run::repair(&client, &history, &migrations, &repair.version).await
                })
            }
        }
    }
}

impl Place {
    /// The database, and what the directory has.
    fn open(&self, runtime: &Runtime) -> Result<(tokio_postgres::Client, Vec<Migration>), Failure> {
        let migrations = files::read(&self.dir)?;
        let mut config = connection(self.url.as_deref(), |name| std::env::var(name).ok())?;
        config.application_name("tidemill migrate");
        let (client, mut notices) = connect(runtime, &config)?;
        let address = address(&config);
        runtime.spawn(async move {
            while let Some(notice) = notices.recv().await {
                eprintln!("{}: {}:  {}", address, notice.severity(), notice.message());
            }
        });
        Ok((client, migrations))
    }
}

/// Lists what there is. What waits and what has changed shows in the exit code.
fn status(history: &History, migrations: &[Migration]) -> Result<(), Failure> {
    let states = history.states(migrations);
    let rows = states.iter().map(|state| {
        let words = match state.state {
            State::Applied => "applied",
            State::Pending => "waits",
            State::Changed => "applied, and changed since",
            State::Missing => "applied, its file is missing",
        };
        vec![
            Some(state.version.to_owned()),
            Some(state.name.to_owned()),
            Some(words.to_owned()),
            state.applied_at.map(str::to_owned),
        ]
    });
    let names = ["version", "name", "state", "applied_at"].map(str::to_owned).to_vec();
    print(&Table::from_text(names, rows.collect()).render(Format::Table));
    let has = |wanted: State| states.iter().any(|state| state.state == wanted);
    match (has(State::Changed), has(State::Pending)) {
        (true, _) => Err(Failure::Code(CHANGED)),
        (false, true) => Err(Failure::Code(PENDING)),
        (false, false) => Ok(()),
    }
}

/// What a client library says, where there is no place in a file to say it about.
fn client_error(error: tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(error) => {
            let state = SqlState(Box::leak(error.code().code().to_owned().into_boxed_str()));
            let mut shown = SqlError::new(state, error.message());
            shown.detail = error.detail().map(str::to_owned);
            shown.hint = error.hint().map(str::to_owned);
            Failure::Error(shown)
        }
        None => {
            let message = format!("the connection was lost: {error}");
            Failure::NotConnected(SqlError::new(SqlState::CONNECTION_FAILURE, message))
        }
    }
}
