//! What the two benchmark suites share: their queries stand in `examples/`, a file each, and each is a pipeline
//! whose answer is compared with the batch answer of the same text.

use std::path::Path;

use arrow::array::RecordBatch;

use super::{multiset, run};
use crate::session::Session;

/// A query of a suite.
#[derive(Debug, Clone)]
pub(super) struct SuiteQuery {
    /// `q7`
    pub name: String,
    pub sql: String,
}

/// The queries in a folder, in the order of their numbers.
pub(super) fn queries(folder: &str) -> Vec<SuiteQuery> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut queries: Vec<(u32, SuiteQuery)> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let number =
                name.strip_prefix('q').and_then(|number| number.parse().ok()).expect("q and a number");
            (number, SuiteQuery { name, sql: std::fs::read_to_string(&path).unwrap() })
        })
        .collect();
    queries.sort_by_key(|(number, _)| *number);
    queries.into_iter().map(|(_, query)| query).collect()
}

/// Reads everything at one epoch, and compares each pipeline of `shown` with the batch answer over `stored`, two
/// schemas. Gives the number of rows of each answer.
pub(super) async fn compare(
    session: &mut Session,
    queries: &[SuiteQuery],
    shown: &str,
    stored: &str,
    context: &str,
) -> Vec<usize> {
    run(session, &format!("SET search_path = {stored}, public")).await.unwrap();
    // A block reads one snapshot: a stream that goes on meanwhile changes neither side.
    run(session, "BEGIN").await.unwrap();
    let mut n_rows = Vec::new();
    for SuiteQuery { name, sql } in queries {
        let batch = run(session, sql).await.unwrap_or_else(|error| panic!("{name}, {context}: {error}"));
        let pipeline = run(session, &format!("SELECT * FROM {shown}.{name}")).await;
        let pipeline = pipeline.unwrap_or_else(|error| panic!("pipeline {name}, {context}: {error}"));
        let (batch, pipeline) = (multiset(&batch), multiset(&pipeline));
        let missing: Vec<_> = batch.iter().filter(|row| pipeline.get(row.0) != Some(row.1)).take(5).collect();
        let extra: Vec<_> = pipeline.iter().filter(|row| batch.get(row.0) != Some(row.1)).take(5).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "{name}, {context}: the batch answer has {missing:#?}, the pipeline {extra:#?}"
        );
        n_rows.push(batch.values().sum());
    }
    run(session, "COMMIT").await.unwrap();
    n_rows
}

pub(super) fn n_rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}
