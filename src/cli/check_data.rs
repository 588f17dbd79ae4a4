//! `tidemill check-data`: whether a data directory is sound.

use std::path::PathBuf;

use clap::Args;
use tidemill_catalog::Catalog;
use tidemill_core::SqlState;
use tidemill_storage::{Root, VersionedObject};

use super::lock::DataLock;
use super::{Failure, number, print};
use crate::session::api::SqlError;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill check-data
  tidemill check-data /var/lib/tidemill

Reads everything and compares it with its checksums; nothing is changed. The server must not be running.
Exit code 1 when something is damaged.")]
pub struct CheckData {
    /// The data directory
    #[arg(value_name = "DIR", default_value = "./tidemill-data")]
    directory: PathBuf,
}

impl CheckData {
    pub async fn run(self) -> Result<(), Failure> {
        let name = self.directory.display().to_string();
        // To make it, as a start does, would say that it is sound.
        if !self.directory.join("catalog").is_dir() {
            let message = format!("\"{name}\" is not a data directory");
            return Err(Failure::Error(SqlError::new(SqlState::IO_ERROR, message)));
        }
        let _lock = DataLock::acquire(&name)?;
        let root = Root::local(&self.directory)?;
        let mut checked = tidemill_storage::check(&root).await?;
        let (_, catalog) = VersionedObject::open(root.child("catalog")).await?;
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
