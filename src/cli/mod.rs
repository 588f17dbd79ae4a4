//! The command line.
//!
//! Exit codes: 0 done, 1 failed, 2 used wrongly, 3 not connected, 4 another server has the data; from 5 on those of
//! `migrate`.

pub mod lock;
pub mod number;
pub mod report;
pub mod table;

mod backup;
mod check;
mod check_data;
mod migrate;
mod run;
pub(crate) mod settings;
mod shell;
mod signals;
mod start;
mod test;
mod version;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tidemill_core::SqlState;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::demo::Demo;
use crate::server::Service;
use crate::session::api::SqlError;

pub(crate) use self::migrate::files as migrations;
pub(crate) use self::signals::stop_requests;
pub use self::version::VERSION;

/// Stack of the threads that plan and execute: deep expressions are walked by recursion.
const STACK_BYTES: usize = 8 << 20;

#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    about = "A SQL-first streaming database",
    after_help = "Examples:
  tidemill demo                                    see it move, without setting anything up
  tidemill start                                   serve SQL on 127.0.0.1:7432
  psql postgres://tidemill@127.0.0.1:7432/tidemill
  tidemill run job.sql                             run a file as a job
  tidemill test tests                              run tests of pipelines

Exit codes: 0 done, 1 failed, 2 used wrongly, 3 not connected, 4 another server has the data; those of
\"tidemill migrate\" from 5 on are in its help.",
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Start(start::Start),
    /// Run a file of statements as a job, until its sources end or Ctrl-C
    Run(run::Run),
    /// Parse, bind and plan a file of statements without running it
    Check(check::Check),
    /// Copy data from one place to another, while its server runs
    Backup(backup::Backup),
    /// Compare everything in a data directory with its checksums
    CheckData(check_data::CheckData),
    /// Run tests of pipelines, without a server
    Test(test::Test),
    /// Apply files of statements to a server, each once
    Migrate(migrate::Migrate),
    /// Talk SQL to a server
    Shell(shell::Shell),
    /// Watch a stream of auctions being queried, without setting anything up
    Demo(Demo),
    /// Look at the configuration
    #[command(subcommand)]
    Config(settings::Settings),
    /// Say what this is
    Version(version::Version),
}

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// It is to be reported.
    Error(SqlError),
    /// It has been reported.
    Reported,
    /// The command line does not make sense.
    Usage(SqlError),
    /// No server answers.
    NotConnected(SqlError),
    /// Another server has the data now.
    TakenOver(SqlError),
    /// It has been said, and has a code of its own.
    Code(u8),
    /// It is to be reported, and has a code of its own.
    Coded(u8, SqlError),
}

impl<E: Into<SqlError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(error.into())
    }
}

impl Failure {
    pub(crate) fn io(what: &str, error: &std::io::Error) -> Failure {
        Failure::Error(SqlError::new(SqlState::IO_ERROR, format!("{what}: {error}")))
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Error(_) | Failure::Reported => 1,
            Failure::Usage(_) => 2,
            Failure::NotConnected(_) => 3,
            Failure::TakenOver(_) => 4,
            Failure::Code(code) | Failure::Coded(code, _) => *code,
        })
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .thread_name("tidemill")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match command {
        Command::Start(start) => runtime.block_on(start.run()),
        Command::Run(run) => runtime.block_on(run.run()),
        Command::Check(check) => runtime.block_on(check.run()),
        Command::Backup(backup) => runtime.block_on(backup.run()),
        Command::CheckData(check) => runtime.block_on(check.run()),
        Command::Test(test) => test.run(),
        Command::Migrate(migrate) => migrate.run(&runtime),
        Command::Shell(shell) => shell.run(&runtime),
        Command::Demo(demo) => runtime.block_on(demo.run()),
        Command::Config(settings) => settings.run(),
        Command::Version(version) => {
            print(&version.run());
            Ok(())
        }
    };
    // Not to wait for what blocks, such as a read of a terminal.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Error(error)
                | Failure::Usage(error)
                | Failure::NotConnected(error)
                | Failure::TakenOver(error)
                | Failure::Coded(_, error) => {
                    eprint!("{}", report::plain(error));
                }
                Failure::Reported | Failure::Code(_) => (),
            }
            failure.exit_code()
        }
    }
}

/// Writes to the standard output. When nobody reads it any more, as behind `| head`, there is nothing
/// left to do.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a message to the standard output, if anybody reads it.
pub(crate) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A server goes on without its audience.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Sends log lines to the standard error. `RUST_LOG` is heard as well, as in other programs.
pub(crate) fn start_logging(config: &Config) -> Result<(), Failure> {
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = filter.as_deref().unwrap_or(&config.log);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        let error =
            SqlError::new(SqlState::INVALID_PARAMETER, format!("invalid log filter \"{filter}\": {error}"));
        Failure::Usage(error.with_hint("Write a level such as info, or a list such as warn,tidemill=debug."))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // It can only have been set before, in tests.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

/// A text file of statements, `-` for the standard input.
pub(crate) fn read_statements(path: &str) -> Result<String, Failure> {
    let text = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        path => std::fs::read_to_string(path),
    };
    text.map_err(|error| Failure::io(&format!("cannot read \"{path}\""), &error))
}

/// How a file is called in messages.
pub(crate) fn file_name(path: &str) -> &str {
    if path == "-" { "<stdin>" } else { path }
}

/// The line that connects psql.
pub(crate) fn psql_line(service: &Arc<dyn Service>) -> Option<String> {
    service.sql_addr().map(|address| format!("psql postgres://tidemill@{address}/tidemill"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn commands_are_declared_soundly() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_has_examples() {
        for command in Cli::command().get_subcommands() {
            if command.get_name() == "version" {
                continue;
            }
            let help = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
