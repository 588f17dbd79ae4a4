//! The user's pages: what is shown there works, and what there is, is shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::postgres::is_blessing;
use crate::server::{self, Server};

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Functions that others are planned as, which nobody calls by their names.
const BEHIND_OTHERS: &[&str] = &[
    "array_or_empty",
    "byteacat",
    "date_trunc_years",
    "generate_series_array",
    "generate_subscripts_array",
    "json_of",
    "jsonb_of",
    "jsonb_path_query_list",
    "match_all",
    "match_any",
    "regexp_matches_array",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// `README.md` and all pages of `docs/` that have examples.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut directories = vec![root().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the directory can be read") {
            let path = entry.expect("the directory can be read").path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => directories.push(path),
                Some("md") => pages.push(path),
                _ => (),
            }
        }
    }
    pages.retain(|page| fs::read_to_string(page).expect("a page is text").contains("```sql\n"));
    pages.sort();
    pages
}

/// The statements of a page's examples, each with the SQLSTATE that it is to fail with: `-- ERROR 42P01` stands on a line of
/// its own in front of it.
///
/// A block that begins with `-- needs` is about something outside that is not there.
fn examples(text: &str) -> Vec<(String, Option<String>)> {
    let blocks = text.split("```sql\n").skip(1).map(|block| block.split("```").next().expect("a block ends"));
    let statements =
        blocks.filter(|block| !block.starts_with("-- needs ")).flat_map(|block| block.split(";\n"));
    let example = |statement: &str| {
        let expected = statement.lines().find_map(|line| line.strip_prefix("-- ERROR "));
        let sqlstate = expected.and_then(|rest| rest.split_whitespace().next());
        (statement.to_owned(), sqlstate.map(str::to_owned))
    };
    statements.map(str::trim).filter(|statement| !statement.is_empty()).map(example).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_statements_run() {
    let (mut n_statements, mut failed) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page is text");
        let name = page.strip_prefix(root()).unwrap_or(&page).display().to_string();
        // Where the examples are as in the repository, and what is written is in nobody's way.
        let directory = server::directory();
        std::os::unix::fs::symlink(root().join("examples"), directory.path().join("examples"))
            .expect("a link can be made");
        let key = directory.path().join("secret.key");
        fs::write(&key, "5".repeat(64)).expect("a file can be written");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it can be made private");
        let keys = ["--secret-key-file", key.to_str().expect("a path is text")];
        let server = Server::start_in(directory.path(), directory.path(), &keys).await;
        let client = server.connect().await;
        for (statement, expected) in examples(&text) {
            n_statements += 1;
            let result = tokio::time::timeout(STATEMENT_TIMEOUT, client.simple_query(&statement)).await;
            let got = match result {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(server::describe(&error)),
                Err(_) => Some("no answer".into()),
            };
            match (expected, got) {
                (None, None) => (),
                (Some(sqlstate), Some(got)) if got.starts_with(&sqlstate) => (),
                (_, got) => {
                    failed.push(format!("{name}: {statement}\n  {}", got.unwrap_or("succeeded".into())))
                }
            }
        }
    }
    println!("{n_statements} statements of {} pages do what the pages say", pages().len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn examples_are_cut_out_of_pages() {
    let page = "text\n```sql\nSELECT 1;\n\n-- ERROR 42P01\nSELECT *\nFROM x;\n```\n```sql\n-- needs Kafka\nSELECT 2;\n```\n```text\nno\n```";
    let sqlstates: Vec<Option<String>> = examples(page).into_iter().map(|(_, sqlstate)| sqlstate).collect();
    assert_eq!(sqlstates, [None, Some("42P01".to_owned())]);
}

/// Every verb that a statement can begin with, and every type, has its place in the reference.
#[test]
fn statements_and_types_are_documented() {
    let page = fs::read_to_string(root().join("docs/reference/sql.md")).expect("the reference is there");
    let missing = |names: &[&'static str]| -> Vec<&'static str> {
        let is_listed = |name: &str| {
            [format!("`{name}`"), format!("`{name} "), format!("`{name}("), format!("`{name}<")]
                .iter()
                .any(|listed| page.contains(listed))
        };
        names.iter().copied().filter(|name| !is_listed(name)).collect()
    };
    assert_eq!(missing(tidemill_sql::statements::verbs()), [""; 0], "statements");
    assert_eq!(missing(tidemill_sql::types::names()), [""; 0], "types");
}

/// `docs/reference/functions.md`, from the registry.
fn functions() -> String {
    let planner = tidemill_sql::Planner::new(1);
    let state = planner.state();
    let names = |names: Vec<String>| {
        let mut names: Vec<String> = names
            .into_iter()
            .filter(|name| !BEHIND_OTHERS.contains(&name.as_str()) && !name.starts_with("__"))
            .map(|name| format!("`{name}`"))
            .collect();
        names.sort();
        names.dedup();
        names.join(", ")
    };
    format!(
        "# Functions\n\nAll functions that a query can call, generated from the registry. Those with a name that PostgreSQL has mean what\n\
         they mean there; [differences.md](differences.md) lists the exceptions.\n\n\
         ## Scalar functions\n\n{}\n\n## Functions that give rows\n\nIn FROM, and those with one column also in the SELECT list.\n\n{}\n\n\
         ## Aggregate functions\n\n{}\n\n## Window functions\n\n{}\n",
        names(state.scalar_functions().keys().cloned().collect()),
        names(tidemill_sql::set_functions().map(str::to_owned).chain(["unnest".to_owned()]).collect()),
        names(state.aggregate_functions().keys().cloned().collect()),
        names(state.window_functions().keys().cloned().collect()),
    )
}

#[test]
fn functions_are_documented() {
    let path = root().join("docs/reference/functions.md");
    let page = functions();
    if is_blessing() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/functions.md is stale: TIDEMILL_BLESS=1 writes it");
}
