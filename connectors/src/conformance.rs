//! What every source must do, as a suite that the tests of each connector run; [`sink`] is that of sinks.
//!
//! The engine relies on these for "nothing is lost, nothing is doubled": it resumes at the `next`
//! of any batch that a checkpoint covers, reads up to an `until` when it repeats an epoch, and
//! drops a `next` that is pending whenever something else is more urgent.

pub mod sink;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_core::source::{Changes, Offset, Offsets, Source, SourceBatch, Split, SplitId, SplitReader};

/// All that was read of a split: rows and bad records in words, and how far each batch went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    pub rows: Vec<String>,
    pub bad: Vec<String>,
    /// The columns that are looked at, unless all are.
    only: Option<BTreeSet<usize>>,
}

/// A place between two batches.
#[derive(Debug)]
struct Mark {
    at: Offset,
    n_rows: usize,
    n_bad: usize,
}

/// Checks a source whose splits end, or whose splits are to be read up to `ends`. Gives what is
/// in them, so that the caller can check that too.
///
/// The more batches the source makes of its rows, the more this finds.
pub async fn check(source: &dyn Source, ends: &Offsets) -> Transcript {
    let splits = source.splits().await.expect("splits are found");
    assert!(!splits.is_empty(), "there is something to read");
    let mut all = Transcript::default();
    for split in &splits {
        let end = ends.get(&split.id);
        let transcript = check_split(source, split, end).await;
        all.rows.extend(transcript.rows);
        all.bad.extend(transcript.bad);
    }
    all
}

async fn check_split(source: &dyn Source, split: &Split, end: Option<&Offset>) -> Transcript {
    let id = &split.id;
    let (whole, marks) = read(source, id, &split.start, end).await;

    let (again, _) = read(source, id, &split.start, end).await;
    assert_eq!(again, whole, "split {id}: replay gives the same");

    for mark in &marks {
        let (rest, _) = read(source, id, &mark.at, end).await;
        assert_eq!(rest, whole.behind(mark), "split {id}: from offset {} comes exactly the rest", mark.at);
    }

    for mark in &marks {
        let mut reader = source.open(id, &split.start).await.expect("the split opens");
        let (first, marks_seen) = read_on(&mut *reader, id, Some(&mark.at)).await;
        assert_eq!(
            first,
            whole.up_to(mark),
            "split {id}: until offset {} comes exactly what is before",
            mark.at
        );
        if let Some(last) = marks_seen.last() {
            assert_eq!(last.at, mark.at, "split {id}: `until` is reached exactly");
        }
        let (rest, _) = read_on(&mut *reader, id, end).await;
        assert_eq!(rest, whole.behind(mark), "split {id}: behind `until` the same reader goes on");
    }

    let mut reader = source.open(id, &split.start).await.expect("the split opens");
    let mut patched = Transcript::default();
    loop {
        let read = match poll_once(reader.next(end)) {
            Some(read) => read,
            // Dropped while pending. Whatever it had begun must not be missing now.
            None => reader.next(end).await,
        };
        match read.expect("the split is readable") {
            Some(batch) => patched.add(id, &batch),
            None => break,
        }
    }
    assert_eq!(patched, whole, "split {id}: dropping a pending call loses nothing");

    let mut reader = source.open(id, &split.start).await.expect("the split opens");
    let first = reader.next(end).await.expect("the split is readable");
    let n_columns = first.as_ref().map_or(0, n_columns);
    let subsets = (0..n_columns).map(|column| BTreeSet::from([column])).chain([BTreeSet::new()]);
    for columns in subsets {
        let mut expected = Transcript { only: Some(columns.clone()), ..Transcript::default() };
        let mut reader = source.open(id, &split.start).await.expect("the split opens");
        read_into(&mut expected, &mut *reader, id, end).await;
        let mut reader = source.open(id, &split.start).await.expect("the split opens");
        reader.read_only(&columns);
        let mut read = Transcript { only: Some(columns), ..Transcript::default() };
        read_into(&mut read, &mut *reader, id, end).await;
        assert_eq!(read, expected, "split {id}: what is left out changes nothing else");
    }
    whole
}

/// All of a split from an offset, with the place behind each batch, and the first one.
async fn read(
    source: &dyn Source,
    id: &SplitId,
    from: &Offset,
    end: Option<&Offset>,
) -> (Transcript, Vec<Mark>) {
    let mut reader = source.open(id, from).await.expect("the split opens");
    let (transcript, mut marks) = read_on(&mut *reader, id, end).await;
    marks.insert(0, Mark { at: from.clone(), n_rows: 0, n_bad: 0 });
    (transcript, marks)
}

async fn read_on(
    reader: &mut dyn SplitReader,
    id: &SplitId,
    end: Option<&Offset>,
) -> (Transcript, Vec<Mark>) {
    let mut transcript = Transcript::default();
    let marks = read_into(&mut transcript, reader, id, end).await;
    (transcript, marks)
}

async fn read_into(
    transcript: &mut Transcript,
    reader: &mut dyn SplitReader,
    id: &SplitId,
    end: Option<&Offset>,
) -> Vec<Mark> {
    let mut marks = Vec::new();
    while let Some(batch) = reader.next(end).await.expect("the split is readable") {
        transcript.add(id, &batch);
        marks.push(Mark { at: batch.next, n_rows: transcript.rows.len(), n_bad: transcript.bad.len() });
    }
    let after = reader.next(end).await.expect("the split is readable");
    assert!(after.is_none(), "split {id}: a split that has ended stays so");
    marks
}

impl Transcript {
    pub(crate) fn add(&mut self, id: &SplitId, batch: &SourceBatch) {
        let only = self.only.clone();
        let lines = |rows: &RecordBatch, n_columns: usize| match &only {
            None => lines(rows),
            Some(only) => {
                // Behind the columns, a delta has its weights.
                let columns: Vec<usize> = only.iter().copied().chain(n_columns..rows.num_columns()).collect();
                lines(&rows.project(&columns).expect("the columns are there"))
            }
        };
        let n_columns = n_columns(batch);
        match &batch.changes {
            Changes::Append(rows) => self.rows.extend(lines(rows, n_columns)),
            Changes::Delta(delta) => self.rows.extend(lines(delta.batch(), n_columns)),
            Changes::Upsert { rows, deleted } => {
                assert_eq!(rows.num_rows(), deleted.len(), "each row is deleted or not");
                let kind = |(idx, line): (usize, String)| {
                    format!("{} {line}", if deleted.value(idx) { '-' } else { '+' })
                };
                self.rows.extend(lines(rows, n_columns).into_iter().enumerate().map(kind));
            }
        }
        for bad in &batch.bad {
            let raw = String::from_utf8_lossy(&bad.raw);
            self.bad.push(format!("{id}@{}: {}: {} <{raw}>", bad.offset, bad.sqlstate, bad.reason));
        }
    }

    fn up_to(&self, mark: &Mark) -> Transcript {
        self.part(self.rows[..mark.n_rows].to_vec(), self.bad[..mark.n_bad].to_vec())
    }

    fn behind(&self, mark: &Mark) -> Transcript {
        self.part(self.rows[mark.n_rows..].to_vec(), self.bad[mark.n_bad..].to_vec())
    }

    fn part(&self, rows: Vec<String>, bad: Vec<String>) -> Transcript {
        Transcript { rows, bad, only: self.only.clone() }
    }
}

fn n_columns(batch: &SourceBatch) -> usize {
    match &batch.changes {
        Changes::Append(rows) | Changes::Upsert { rows, .. } => rows.num_columns(),
        Changes::Delta(delta) => delta.rows().num_columns(),
    }
}

/// Each row in words.
pub fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = |column| ArrayFormatter::try_new(column, &options).expect("the type can be shown");
    let formatters: Vec<_> = rows.columns().iter().map(|column| formatter(column.as_ref())).collect();
    let line = |row_idx: usize| {
        let values: Vec<String> =
            formatters.iter().map(|formatter| formatter.value(row_idx).to_string()).collect();
        values.join(" | ")
    };
    (0..rows.num_rows()).map(line).collect()
}

/// What the future gives at its first poll, if it does.
pub(crate) fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
