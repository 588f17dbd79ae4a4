//! Tests of pipelines, written in SQL: what `tidemill test` runs.
//!
//! A file is a script (`script.rs`): definitions that all of its tests share, and the tests. Each test runs on a database of its own
//! (`run.rs`), whose sources read what the test gives them, whose sinks keep what they are to send, and whose clock
//! stands still until the test moves it. Behind every statement everything is taken in, so that what a test sees depends
//! on nothing but its statements.
//!
//! ```text
//!  files.rs     which files there are
//!  script.rs    a file, and what it includes, as steps
//!  run.rs       a test, from one life of its server to the next
//!  step.rs      what each step does
//!  expect.rs    what is expected, compared with what there is
//!  changes.rs   what subscribers were told, over crashes
//!  junit.rs     the results for machines
//! ```

mod changes;
mod expect;
mod files;
mod junit;
mod run;
mod script;
mod step;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant};

pub use self::files::find;
pub use self::junit::junit;
use self::script::Script;

/// How tests are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Each test is run in each of these numbers of lanes.
    pub lanes: Vec<usize>,
    /// Each test is run once more, with a crash behind every statement.
    pub crashes_everywhere: bool,
    /// Whether pipelines of which rows are expected are compared with the batch answers of their queries.
    pub verifies: bool,
    /// What the name of a test, or of its file, has to contain.
    pub filter: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { lanes: vec![1], crashes_everywhere: false, verifies: true, filter: None }
    }
}

/// One of the ways in which a test is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    pub n_lanes: usize,
    pub crashes: Crashes,
}

/// Behind which statements the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crashes {
    Nowhere,
    /// Behind those of the test, and not of the set-up.
    InTest,
    Everywhere,
}

/// What became of a file.
#[derive(Debug)]
pub struct FileReport {
    pub name: String,
    /// Why none of its tests was run.
    pub error: Option<String>,
    pub tests: Vec<TestReport>,
}

/// What became of a test in one mode.
#[derive(Debug)]
pub struct TestReport {
    pub name: String,
    /// What tells this run from others of the same test, if there are any.
    pub label: String,
    pub line: usize,
    pub duration: Duration,
    pub failure: Option<Failure>,
}

/// Why a test has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In one line.
    pub message: String,
    /// All that there is to say: where, what, and the rows.
    pub text: String,
}

impl FileReport {
    pub fn n_failed(&self) -> usize {
        self.tests.iter().filter(|test| test.failure.is_some()).count() + usize::from(self.error.is_some())
    }
}

/// Runs the tests of a file; says what became of each as soon as it is known.
///
/// Not to be called from a task: each life of a server has a runtime of its own.
pub fn run_file(path: &Path, options: &Options, mut tell: impl FnMut(&TestReport)) -> FileReport {
    let name = path.display().to_string();
    let script = match Script::load(path) {
        Ok(script) => script,
        Err(error) => return FileReport { name, error: Some(error), tests: Vec::new() },
    };
    let mut tests: Vec<TestReport> = Vec::new();
    let is_wanted = |test: &str| {
        options.filter.as_deref().is_none_or(|filter| test.contains(filter) || name.contains(filter))
    };
    for (idx, test) in script.tests.iter().enumerate().filter(|(_, test)| is_wanted(&test.name)) {
        for mut mode in modes(options, test.without_crashes) {
            // What all tests share, one of them tries out.
            let label = label(options, mode);
            if mode.crashes == Crashes::Everywhere && tests.iter().any(|known| known.label == label) {
                mode.crashes = Crashes::InTest;
            }
            let began = Instant::now();
            let failure = run::run(&script, idx, mode, options.verifies);
            let report = TestReport {
                name: test.name.clone(),
                label,
                line: test.line,
                duration: began.elapsed(),
                failure,
            };
            tell(&report);
            tests.push(report);
        }
    }
    FileReport { name, error: None, tests }
}

fn modes(options: &Options, without_crashes: bool) -> Vec<Mode> {
    let mut modes = Vec::new();
    for n_lanes in options.lanes.iter().copied() {
        modes.push(Mode { n_lanes, crashes: Crashes::Nowhere });
        if options.crashes_everywhere && !without_crashes {
            modes.push(Mode { n_lanes, crashes: Crashes::Everywhere });
        }
    }
    modes
}

fn label(options: &Options, mode: Mode) -> String {
    let mut words = Vec::new();
    if options.lanes.len() > 1 {
        words.push(match mode.n_lanes {
            1 => "1 lane".to_owned(),
            n_lanes => format!("{n_lanes} lanes"),
        });
    }
    if mode.crashes != Crashes::Nowhere {
        words.push("a crash behind every statement".to_owned());
    }
    words.join(", ")
}
