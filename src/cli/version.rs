//! `tidemill version`

use clap::Args;
use serde_json::json;

/// What was built.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, where the build was told.
const COMMIT: Option<&str> = option_env!("TIDEMILL_COMMIT");

#[derive(Debug, Args)]
pub struct Version {
    /// As a JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Version {
    pub fn run(&self) -> String {
        if self.json {
            let version = json!({
                "name": "tidemill",
                "version": VERSION,
                "commit": COMMIT,
                "datafusion": datafusion::DATAFUSION_VERSION,
                "arrow": arrow::ARROW_VERSION,
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
            });
            return version.to_string() + "\n";
        }
        let commit = COMMIT.map_or(String::new(), |commit| format!(" ({commit})"));
        format!(
            "tidemill {VERSION}{commit}, DataFusion {}, Arrow {}\n",
            datafusion::DATAFUSION_VERSION,
            arrow::ARROW_VERSION
        )
    }
}
