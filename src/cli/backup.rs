//! `tidemill backup`: a consistent copy of all data, here or in an object store.

use clap::Args;
use tidemill_core::SqlState;
use tidemill_storage::Root;

use super::lock::{DataLock, local_dir};
use super::settings::{ConfigFlags, usage};
use super::{Failure, number, print, start_logging};
use crate::session::api::SqlError;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill backup /var/lib/tidemill /backup/monday
  tidemill backup ./tidemill-data s3://bucket/monday
  tidemill backup s3://bucket/monday /var/lib/tidemill     restores it

The server of the first may run; the copy is what it would recover after a crash at some moment meanwhile. There must
be nothing yet at the second.")]
pub struct Backup {
    /// A data directory, or s3://bucket/prefix
    #[arg(value_name = "FROM")]
    from: String,
    /// A directory, or s3://bucket/prefix
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Backup {
    pub async fn run(self) -> Result<(), Failure> {
        let config = self.flags.sources().load().map_err(usage)?.with_default_log("warn");
        start_logging(&config)?;
        if local_dir(&self.from).is_some_and(|directory| !directory.join("catalog").is_dir()) {
            let message = format!("\"{}\" is not a data directory", self.from);
            return Err(Failure::Error(SqlError::new(SqlState::IO_ERROR, message)));
        }
        let _lock = DataLock::acquire(&self.to)?;
        let from = Root::open(&self.from, &config.root_options())?;
        let to = Root::open(&self.to, &config.root_options())?;
        let copied = tidemill_storage::copy(&from, &to).await?;
        print(&format!(
            "{}: {} checkpoints with {}, {} records of the table log\n",
            self.to,
            copied.n_checkpoints,
            number::bytes(copied.n_bytes),
            copied.n_records,
        ));
        Ok(())
    }
}
