//! `tidemill config show`: each setting with its value and where it came from.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::table::{Format, Table};
use super::{Failure, print};
use crate::config::{ConfigError, LogFormat, Sources};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  tidemill config show
  TIDEMILL_LANES=1 tidemill config show --config prod.toml")]
pub enum Settings {
    /// Print each setting with its value and where it came from
    Show(Show),
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    flags: ConfigFlags,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Flags that are settings, for every command that starts a server.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigFlags {
    /// Configuration file (default: tidemill.toml here, in ~/.config/tidemill or /etc/tidemill) [env: TIDEMILL_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Number of parts that a dataflow is cut into (default: one per core) [env: TIDEMILL_LANES]
    #[arg(long, value_name = "N")]
    pub lanes: Option<u32>,
    /// How long rows wait at most to become an epoch (default: 10ms) [env: TIDEMILL_EPOCH_INTERVAL]
    #[arg(long, value_name = "DURATION")]
    pub epoch_interval: Option<String>,
    /// How often state is made durable (default: 1s) [env: TIDEMILL_CHECKPOINT_INTERVAL]
    #[arg(long, value_name = "DURATION")]
    pub checkpoint_interval: Option<String>,
    /// Memory for state, beyond which it lies in files (default: half of what there is) [env: TIDEMILL_MEMORY_LIMIT]
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// Directory for files of state while the data is in an object store (default: in the user's cache) [env: TIDEMILL_CACHE]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<String>,
    /// What is logged, such as info or warn,tidemill=debug [env: TIDEMILL_LOG]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look (default: text) [env: TIDEMILL_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

impl ConfigFlags {
    /// Where settings come from, when these flags were given.
    pub fn sources(&self) -> Sources {
        let mut flags = Vec::new();
        let texts = [
            ("epoch_interval", &self.epoch_interval),
            ("checkpoint_interval", &self.checkpoint_interval),
            ("memory_limit", &self.memory_limit),
            ("cache", &self.cache),
            ("log", &self.log),
        ];
        flags.extend(self.lanes.map(|lanes| ("lanes", lanes.into())));
        flags.extend(texts.into_iter().filter_map(|(key, text)| Some((key, text.clone()?.into()))));
        flags.extend(self.log_format.map(|format| ("log_format", format.to_string().into())));
        Sources::of_process(self.config.clone(), flags)
    }
}

/// A setting that is wrong is a command line that is wrong.
pub fn usage(error: ConfigError) -> Failure {
    Failure::Usage(error.into())
}

impl Settings {
    pub fn run(&self) -> Result<(), Failure> {
        let Settings::Show(show) = self;
        let loaded = show.flags.sources().load().map_err(usage)?;
        let names = ["key", "value", "origin"].map(str::to_owned).to_vec();
        let rows = loaded.origins().into_iter();
        let rows = rows.map(|(key, value, origin)| vec![Some(key.to_owned()), Some(value), Some(origin)]);
        print(&Table::from_text(names, rows.collect()).render(show.format));
        Ok(())
    }
}
