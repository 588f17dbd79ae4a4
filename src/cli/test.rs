//! `tidemill test`: tests of pipelines, written in SQL.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use tidemill_core::SqlState;

use super::{Failure, say, start_logging};
use crate::config::Config;
use crate::session::api::SqlError;
use crate::sqltest::{FileReport, Options, TestReport, find, junit, run_file};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill test tests
  tidemill test tests/orders.test.sql --filter 'late rows'
  tidemill test tests --lanes 1,4 --crash-everywhere --junit report.xml

A directory's tests are its files that end in .test.sql. No server is needed, and nothing outside is read or written.

Exit codes: 0 all tests passed, 1 a test failed, 2 used wrongly.")]
pub struct Test {
    /// Files of tests, and directories of them
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// Write the results to a file, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Run the tests whose name, or whose file's name, contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Run each test in each of these numbers of lanes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=256))]
    lanes: Vec<u32>,
    /// Run each test once more, with a crash and a restart behind every statement
    #[arg(long)]
    crash_everywhere: bool,
    /// Do not compare pipelines with the batch answers of their queries
    #[arg(long)]
    no_verify: bool,
}

impl Test {
    pub fn run(self) -> Result<(), Failure> {
        // What a pipeline fails on, the test says: unless RUST_LOG asks for more.
        start_logging(&Config { log: "off".into(), ..Config::default() })?;
        let files = find(&self.paths).map_err(Failure::Usage)?;
        let options = Options {
            lanes: self.lanes.iter().map(|n_lanes| *n_lanes as usize).collect(),
            crashes_everywhere: self.crash_everywhere,
            verifies: !self.no_verify,
            filter: self.filter.clone(),
        };
        let began = Instant::now();
        let mut reports = Vec::new();
        for file in &files {
            say(&format!("{}\n", file.display()));
            let report = run_file(file, &options, |test| say(&line(test)));
            if let Some(error) = &report.error {
                say(&indented(error));
            }
            reports.push(report);
        }
        if let Some(path) = &self.junit {
            std::fs::write(path, junit(&reports))
                .map_err(|error| Failure::io(&format!("cannot write \"{}\"", path.display()), &error))?;
        }
        let n_failed: usize = reports.iter().map(FileReport::n_failed).sum();
        say(&format!("{} in {:.1} s\n", summary(&reports), began.elapsed().as_secs_f64()));
        if n_failed > 0 {
            return Err(Failure::Reported);
        }
        match &self.filter {
            Some(filter) if reports.iter().all(|report| report.tests.is_empty()) => {
                let message = format!("no test has a name that contains \"{filter}\"");
                Err(Failure::Usage(SqlError::new(SqlState::INVALID_PARAMETER, message)))
            }
            _ => Ok(()),
        }
    }
}

/// What became of a test.
fn line(test: &TestReport) -> String {
    let label = if test.label.is_empty() { String::new() } else { format!(" [{}]", test.label) };
    match &test.failure {
        None => format!("  ok    {}{label} ({} ms)\n", test.name, test.duration.as_millis()),
        Some(failure) => format!("  FAIL  {}{label}\n{}", test.name, indented(&failure.text)),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}").trim_end().to_owned() + "\n").collect()
}

fn summary(reports: &[FileReport]) -> String {
    let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let n_tests: usize = reports.iter().map(|report| report.tests.len()).sum();
    let n_failed: usize =
        reports.iter().map(|report| report.tests.iter().filter(|test| test.failure.is_some()).count()).sum();
    let n_unread = reports.iter().filter(|report| report.error.is_some()).count();
    let mut text = format!("{}: {} passed", count(n_tests, "test"), n_tests - n_failed);
    if n_failed > 0 {
        text += &format!(", {n_failed} failed");
    }
    if n_unread > 0 {
        text += &format!(", {} not understood", count(n_unread, "file"));
    }
    text
}
