//! `tidemill check-data`: whether a data directory is sound.

use clap::Args;
use tidemill_catalog::Catalog;
use tidemill_core::SqlState;
use tidemill_storage::{Root, VersionedObject};

use super::lock::{DataLock, local_dir};
use super::settings::{ConfigFlags, usage};
use super::{Failure, number, print, start_logging};
use crate::session::api::SqlError;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill check-data
  tidemill check-data /var/lib/tidemill
  tidemill check-data s3://bucket/prefix

Reads everything and compares it with its checksums; nothing is changed. The server of a directory must not be
running; of an object store it may.
Exit code 1 when something is damaged.")]
pub struct CheckData {
    /// The data directory, or s3://bucket/prefix
    #[arg(value_name = "DIR|URL", default_value = "./tidemill-data")]
    data: String,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl CheckData {
    pub async fn run(self) -> Result<(), Failure> {
        let name = self.data;
        let config = self.flags.sources().load().map_err(usage)?.with_default_log("warn");
        start_logging(&config)?;
        let nothing = || {
            let message = format!("\"{name}\" is not a data directory");
            Failure::Error(SqlError::new(SqlState::IO_ERROR, message))
        };
        // To make it, as a start does, would say that it is sound.
        if local_dir(&name).is_some_and(|directory| !directory.join("catalog").is_dir()) {
            return Err(nothing());
        }
        let _lock = DataLock::acquire(&name)?;
        let root = Root::open(&name, &config.root_options())?;
        let (_, catalog) = VersionedObject::open(root.child("catalog")).await?;
        if catalog.is_none() {
            return Err(nothing());
        }
        let mut checked = tidemill_storage::check(&root).await?;
        if let Some(Err(error)) = catalog.map(|content| Catalog::from_bytes(&content)) {
            checked.problems.insert(0, format!("the catalog is damaged: {error}"));
        }
        for problem in &checked.problems {
            eprintln!("{problem}");
        }
        print(&format!(
            "{name}: {} checkpoints, {} rows in {} runs of {}, {} records in the table log: {}\n",
            checked.n_checkpoints,
            number::grouped(checked.n_rows as u64),
            checked.n_runs,
            number::bytes(checked.n_bytes),
            checked.n_records,
            if checked.problems.is_empty() { "ok" } else { "damaged" },
        ));
        match checked.problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::Reported),
        }
    }
}
