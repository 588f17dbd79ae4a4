//! The log that tables append to: durable before acknowledged.
//!
//! ```text
//! segment file 00…0n.log:  "TMLOG" version 0 0 | record | record | …
//! record:                  n_bytes u32 | crc32 u32 | epoch u64 | relation u32 | payload
//! ```
//!
//! One thread writes; whatever has been handed to it while it synced the last group goes out with
//! the next sync (group commit). A record that was cut off by a crash at the end of the last segment
//! was never acknowledged and is dropped; a broken record anywhere else is damage.
//!
//! In an object store the log is written by `object_log.rs`, with the same records.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_core::{Epoch, crash_point};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::run_file::file_error;
use crate::{Error, Root, object_log};

const HEADER: &[u8; 8] = b"TMLOG\x01\0\0";
/// A segment is closed when it is longer than this.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// One change of one relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub epoch: Epoch,
    pub relation: u32,
    pub payload: Vec<u8>,
}

/// Why records are not in the log.
#[derive(Debug, Clone)]
pub(crate) enum Refused {
    /// Another server has the root.
    Fenced,
    Failed(std::io::ErrorKind, String),
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Refused {
        Refused::Failed(error.kind(), error.to_string())
    }
}

type Answer = oneshot::Sender<Result<(), Refused>>;

pub(crate) enum Request {
    Append(Vec<u8>, Epoch, Answer),
    Trim(Epoch),
}

/// What has come in while the last group was written.
#[derive(Default)]
pub(crate) struct Group {
    /// Records, encoded.
    pub bytes: Vec<u8>,
    pub newest: Epoch,
    answers: Vec<Answer>,
    pub trim: Option<Epoch>,
}

impl Group {
    pub fn new(first: Request, inbox: &mut UnboundedReceiver<Request>) -> Group {
        let mut group = Group { newest: Epoch::ZERO, ..Group::default() };
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Append(record, epoch, answer) => {
                    group.bytes.extend(record);
                    group.newest = group.newest.max(epoch);
                    group.answers.push(answer);
                }
                Request::Trim(epoch) => group.trim = Some(epoch),
            }
            next = inbox.try_recv().ok();
        }
        group
    }

    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    pub fn answer(self, outcome: &Result<(), Refused>) {
        for answer in self.answers {
            // Nobody waits any more where the statement was cancelled.
            let _ = answer.send(outcome.clone());
        }
    }
}

/// An open log; its copies are the same log.
#[derive(Debug, Clone)]
pub struct Log {
    requests: UnboundedSender<Request>,
    root: Root,
}

impl Log {
    /// Opens the log below `root` and reads what is in it. Whoever wrote it until now cannot any more.
    pub async fn open(root: &Root) -> Result<(Log, Vec<LogRecord>), Error> {
        let (requests, inbox) = unbounded_channel();
        let records = match root.directory() {
            Some(directory) => open_files(&directory, inbox)?,
            None => object_log::open(root, inbox).await?,
        };
        Ok((Log { requests, root: root.clone() }, records))
    }

    /// Reads all records without changing anything; says how many there are.
    pub async fn check(root: &Root) -> Result<usize, Error> {
        Ok(read(root).await?.values().map(Vec::len).sum())
    }

    /// Appends records of one epoch, all or none; durable when the future is done.
    ///
    /// As long as an object store does not answer, this waits: what may have been written cannot be called failed.
    pub async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
        let Some(epoch) = records.iter().map(|record| record.epoch).max() else { return Ok(()) };
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes);
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send(Request::Append(bytes, epoch, answer));
        // The writer is gone only where the process ends.
        let ended = || Refused::Failed(std::io::ErrorKind::Other, "its writer has ended".into());
        let outcome = match sent {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(ended()),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Refused::Fenced) => Err(self.root.fenced().expect("whoever refuses for that knows it")),
            Err(Refused::Failed(kind, reason)) => Err(Error::File {
                verb: "appended to",
                path: self.root.display(""),
                source: std::io::Error::new(kind, reason),
            }),
        }
    }

    /// The records of epochs behind `from` up to `to`, which have been appended.
    pub async fn between(&self, from: Epoch, to: Epoch) -> Result<Vec<LogRecord>, Error> {
        let segments = read(&self.root).await?;
        let is_asked = |record: &LogRecord| from < record.epoch && record.epoch <= to;
        Ok(segments.into_values().flatten().filter(is_asked).collect())
    }

    /// Says that records up to `epoch` are not needed any more.
    pub fn trim(&self, epoch: Epoch) {
        // Should the writer be gone, the next one trims.
        let _ = self.requests.send(Request::Trim(epoch));
    }
}

/// Opens a log in files, and starts who writes it.
fn open_files(directory: &Path, inbox: UnboundedReceiver<Request>) -> Result<Vec<LogRecord>, Error> {
    std::fs::create_dir_all(directory).map_err(|source| file_error("created", directory, source))?;
    let paths = segment_paths(directory)?;
    let mut records = Vec::new();
    let mut segments = Vec::new();
    for (idx, path) in paths.iter().enumerate() {
        let read = read_segment(path, idx + 1 == paths.len())?;
        let newest = read.iter().map(|record| record.epoch).max().unwrap_or(Epoch::ZERO);
        segments.push(Segment { path: path.clone(), newest });
        records.extend(read);
    }
    let next = paths.last().and_then(|path| segment_number(path)).map_or(0, |number| number + 1);
    let mut writer = Writer { directory: directory.to_owned(), closed: segments, open: None, next };
    std::thread::Builder::new()
        .name("table-log".into())
        .spawn(move || writer.run(inbox))
        .expect("the system can start a thread");
    Ok(records)
}

/// The records of each segment of the log below `root`, by its number. Nothing is changed.
pub(crate) async fn read(root: &Root) -> Result<BTreeMap<u64, Vec<LogRecord>>, Error> {
    match root.directory() {
        Some(directory) if directory.exists() => read_files(&directory),
        Some(_) => Ok(BTreeMap::new()),
        None => Ok(object_log::read(root, 0).await?.into_iter().collect()),
    }
}

/// Makes a log of `records` below `root`, where there is none.
pub(crate) async fn write(root: &Root, records: &[LogRecord]) -> Result<(), Error> {
    let mut bytes = match root.directory() {
        Some(_) => HEADER.to_vec(),
        None => object_log::header(0),
    };
    records.iter().for_each(|record| encode(record, &mut bytes));
    let name = match root.directory() {
        Some(_) => segment_name(0),
        None => object_log::object_name(0),
    };
    root.put(&name, bytes.into()).await
}

fn read_files(directory: &Path) -> Result<BTreeMap<u64, Vec<LogRecord>>, Error> {
    let paths = segment_paths(directory)?;
    let mut segments = BTreeMap::new();
    for (idx, path) in paths.iter().enumerate() {
        let content = match std::fs::read(path) {
            Ok(content) => content,
            // Whoever writes it has trimmed it since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(file_error("read", path, source)),
        };
        let is_last = idx + 1 == paths.len();
        if is_unbegun(&content) {
            continue;
        }
        let segment = ReadSegment::of(path, &content)?;
        if !is_last && segment.end < content.len() {
            return Err(segment.broken(path));
        }
        segments.insert(segment_number(path).unwrap_or_default(), segment.records);
    }
    Ok(segments)
}

fn segment_number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn segment_name(number: u64) -> String {
    format!("{number:020}.log")
}

fn encode(record: &LogRecord, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 8]);
    out.extend(record.epoch.0.to_le_bytes());
    out.extend(record.relation.to_le_bytes());
    out.extend(&record.payload);
    let n_bytes = (out.len() - start - 8) as u32;
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&n_bytes.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The segments of a log, oldest first.
fn segment_paths(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>())
        .map_err(|source| file_error("listed", directory, source))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    Ok(paths)
}

/// What can be read of a segment.
struct ReadSegment {
    records: Vec<LogRecord>,
    /// Where that ends: at the end of the segment, or at a record that is broken.
    end: usize,
}

impl ReadSegment {
    fn of(path: &Path, content: &[u8]) -> Result<ReadSegment, Error> {
        let path = path.display().to_string();
        if !content.starts_with(&HEADER[..5]) {
            return Err(Error::Damaged { path, reason: "it is not a log".into() });
        }
        if content.get(5) != Some(&HEADER[5]) {
            let found = content.get(5).map_or("log".into(), |version| format!("log {version}"));
            return Err(Error::UnknownFormat { path, found, known: format!("log {}", HEADER[5]) });
        }
        let (records, rest) = decode_all(content.get(HEADER.len()..).unwrap_or_default());
        Ok(ReadSegment { records, end: content.len() - rest.len() })
    }

    fn broken(&self, path: &Path) -> Error {
        let path = path.display().to_string();
        Error::Damaged { path, reason: format!("the record at byte {} is broken", self.end) }
    }
}

/// Whether a segment never had a record: its header is synced before the first one comes.
fn is_unbegun(content: &[u8]) -> bool {
    content.len() < HEADER.len() && HEADER.starts_with(content)
}

fn read_segment(path: &Path, is_last: bool) -> Result<Vec<LogRecord>, Error> {
    let content = std::fs::read(path).map_err(|source| file_error("read", path, source))?;
    if is_unbegun(&content) {
        std::fs::remove_file(path).map_err(|source| file_error("removed", path, source))?;
        return Ok(Vec::new());
    }
    let segment = ReadSegment::of(path, &content)?;
    if segment.end < content.len() {
        if !is_last {
            return Err(segment.broken(path));
        }
        // Cut off now: the next segment makes this one an inner one.
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(segment.end as u64).and_then(|()| file.sync_data()))
            .map_err(|source| file_error("cut back", path, source))?;
    }
    Ok(segment.records)
}

/// The records that `bytes` begin with, and what follows them.
pub(crate) fn decode_all(bytes: &[u8]) -> (Vec<LogRecord>, &[u8]) {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((record, after)) = decode(rest) {
        records.push(record);
        rest = after;
    }
    (records, rest)
}

fn decode(bytes: &[u8]) -> Option<(LogRecord, &[u8])> {
    let (n_bytes, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (body, after) = rest.split_at_checked(u32::from_le_bytes(*n_bytes) as usize)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (epoch, body) = body.split_first_chunk::<8>()?;
    let (relation, payload) = body.split_first_chunk::<4>()?;
    let record = LogRecord {
        epoch: Epoch(u64::from_le_bytes(*epoch)),
        relation: u32::from_le_bytes(*relation),
        payload: payload.to_vec(),
    };
    Some((record, after))
}

struct Segment {
    path: PathBuf,
    newest: Epoch,
}

struct Writer {
    directory: PathBuf,
    closed: Vec<Segment>,
    open: Option<(Segment, File, u64)>,
    next: u64,
}

impl Writer {
    fn run(&mut self, mut inbox: UnboundedReceiver<Request>) {
        while let Some(first) = inbox.blocking_recv() {
            let group = Group::new(first, &mut inbox);
            if let Some(epoch) = group.trim {
                self.trim(epoch);
            }
            if !group.is_empty() {
                let outcome = self.append(&group.bytes, group.newest);
                group.answer(&outcome.map_err(Refused::from));
            }
        }
    }

    fn append(&mut self, bytes: &[u8], newest: Epoch) -> std::io::Result<()> {
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let (segment, file, n_bytes) = self.open.as_mut().expect("opened above");
        let written = file.write_all(bytes).and_then(|()| {
            crash_point("log.written");
            file.sync_data()
        });
        if let Err(error) = written {
            // What the file ends with is unknown. To say that these records failed is right only once they cannot be read
            // any more: what follows counts on that, and a record in the middle of a segment must not be broken.
            cut(&segment.path, file, *n_bytes);
            return Err(error);
        }
        crash_point("log.synced");
        segment.newest = segment.newest.max(newest);
        *n_bytes += bytes.len() as u64;
        if *n_bytes > SEGMENT_BYTES_MAX {
            let (segment, ..) = self.open.take().expect("it is open");
            self.closed.push(segment);
        }
        Ok(())
    }

    /// Begins the next segment; if that cannot be done, nothing is left of it.
    fn create(&mut self) -> std::io::Result<(Segment, File, u64)> {
        let path = self.directory.join(segment_name(self.next));
        let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
        let written = file
            .write_all(HEADER)
            .and_then(|()| file.sync_data())
            .and_then(|()| File::open(&self.directory)?.sync_all());
        if let Err(error) = written {
            // Should it stay, it is empty, which reading takes for what it is; its number is not used again.
            if std::fs::remove_file(&path).is_err() {
                self.next += 1;
            }
            return Err(error);
        }
        self.next += 1;
        Ok((Segment { path, newest: Epoch::ZERO }, file, HEADER.len() as u64))
    }

    fn trim(&mut self, epoch: Epoch) {
        self.closed.retain(|segment| {
            let is_needed = segment.newest > epoch;
            if !is_needed && let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "a segment of the table log cannot be removed");
            }
            is_needed
        });
    }
}

/// Cuts a segment back to what has been acknowledged, however long that takes.
fn cut(path: &Path, file: &File, n_bytes: u64) {
    let mut pause = Duration::from_millis(20);
    let mut is_told = false;
    while let Err(error) = file.set_len(n_bytes).and_then(|()| file.sync_data()) {
        if !std::mem::replace(&mut is_told, true) {
            tracing::error!(path = %path.display(), %error, "the table log cannot be cut back; writers wait");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u64, text: &str) -> LogRecord {
        LogRecord { epoch: Epoch(epoch), relation: 7, payload: text.into() }
    }

    async fn open(directory: &Path) -> Result<(Log, Vec<LogRecord>), Error> {
        Log::open(&Root::local(directory).unwrap()).await
    }

    #[tokio::test]
    async fn appended_records_are_read_again_and_a_torn_end_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let (log, records) = open(directory.path()).await.unwrap();
        assert_eq!(records, []);
        log.append(&[record(1, "a"), record(1, "b")]).await.unwrap();
        log.append(&[record(2, "c")]).await.unwrap();
        assert_eq!(log.between(Epoch(0), Epoch(1)).await.unwrap(), [record(1, "a"), record(1, "b")]);
        assert_eq!(log.between(Epoch(1), Epoch(9)).await.unwrap(), [record(2, "c")]);
        drop(log);

        let path = directory.path().join(format!("{:020}.log", 0));
        let mut torn = std::fs::read(&path).unwrap();
        let whole = torn.len();
        encode(&record(3, "torn"), &mut torn);
        for end in whole..torn.len() {
            std::fs::write(&path, &torn[..end]).unwrap();
            let (_, records) = open(directory.path()).await.unwrap();
            assert_eq!(records, [record(1, "a"), record(1, "b"), record(2, "c")], "cut at {end}");
        }
        // One that was never begun, for want of room, is none, wherever it stands.
        for content in [&b""[..], &HEADER[..3]] {
            std::fs::write(&path, &torn[..whole]).unwrap();
            std::fs::write(directory.path().join(format!("{:020}.log", 1)), content).unwrap();
            std::fs::write(directory.path().join(format!("{:020}.log", 2)), HEADER).unwrap();
            assert_eq!(Log::check(&Root::local(directory.path()).unwrap()).await.unwrap(), 3);
            let (_, records) = open(directory.path()).await.unwrap();
            assert_eq!(records, [record(1, "a"), record(1, "b"), record(2, "c")]);
        }
        // In a segment that is not the last one the same is damage.
        std::fs::write(&path, &torn[..whole + 3]).unwrap();
        std::fs::write(directory.path().join(format!("{:020}.log", 1)), HEADER).unwrap();
        assert!(matches!(open(directory.path()).await, Err(Error::Damaged { .. })));
    }

    #[tokio::test]
    async fn trimming_removes_what_is_old() {
        let directory = tempfile::tempdir().unwrap();
        for epoch in 1..=3 {
            // Each opening starts a new segment.
            let (log, records) = open(directory.path()).await.unwrap();
            assert_eq!(records.len() as u64, epoch - 1);
            log.append(&[record(epoch, "x")]).await.unwrap();
        }
        let (log, _) = open(directory.path()).await.unwrap();
        log.trim(Epoch(2));
        log.append(&[record(4, "y")]).await.unwrap();
        let (_, records) = open(directory.path()).await.unwrap();
        assert_eq!(records, [record(3, "x"), record(4, "y")]);
    }
}
