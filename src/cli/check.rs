//! `tidemill check`: whether a file of statements would be understood.

use std::io::Write;

use clap::Args;

use super::lock::DataLock;
use super::report::Origin;
use super::settings::{ConfigFlags, usage};
use super::{Failure, file_name, print, read_statements, start_logging};
use crate::server::{self, StartOptions};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill check pipelines.sql
  tidemill check migration.sql --data /var/lib/tidemill

All errors are printed as file:line:column. The data directory's server must not be running.")]
pub struct Check {
    /// File of statements; - for the standard input
    file: String,
    /// Check against the catalog of this data directory; else against an empty one
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Check {
    pub async fn run(self) -> Result<(), Failure> {
        let text = read_statements(&self.file)?;
        let config = self.flags.sources().load().map_err(usage)?.with_default_log("error");
        start_logging(&config)?;
        let ephemeral =
            tempfile::tempdir().map_err(|error| Failure::io("cannot make a directory", &error))?;
        let data_dir = self.data.unwrap_or_else(|| ephemeral.path().display().to_string());
        let _lock = DataLock::acquire(&data_dir)?;
        let options = StartOptions { data_dir, listen: None, http: None, is_catalog_only: true, config };
        let service = server::start(options).await?;
        let errors = service.check_sql(&text).await;
        service.shutdown().await?;
        let origin = Origin { file: Some(file_name(&self.file)), text: &text, offset: 0 };
        if errors.is_empty() {
            print(&format!("{}: ok\n", file_name(&self.file)));
            return Ok(());
        }
        let mut stderr = std::io::stderr().lock();
        for error in &errors {
            // Who cannot be told cannot be told so either.
            let _ = stderr.write_all(origin.error(error).as_bytes());
        }
        Err(Failure::Reported)
    }
}
