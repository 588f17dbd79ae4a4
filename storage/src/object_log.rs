//! The table log in an object store.
//!
//! ```text
//! object 0…0n:  "TMLOS" version 0 0 | term u64 | record | record | …      records as in `log.rs`
//! ```
//!
//! Each group of writes is one object, created only where it does not exist. So a server that has lost the root meets, at the
//! number where it would go on, the object with which the newer one began (see `claim.rs`), and acknowledges nothing any
//! more. Those first objects stay, without records, long after what follows them was trimmed: with each the place of an older
//! server would be free again.
//!
//! A write whose answer does not come may have been made or not, or be made later. To call it failed would be wrong, for
//! statements after it could count on that; so it is tried again until it is known, and until then nothing else is
//! written. The store's being away makes writers wait, and loses nothing.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tidemill_core::Epoch;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::log::{Group, LogRecord, Refused, Request, decode_all};
use crate::{Error, Root};

const HEADER: &[u8; 8] = b"TMLOS\x01\0\0";
/// How many objects are read at once.
const N_READ: usize = 16;
/// How many objects of those that servers began with stay.
const N_BEGINNINGS: usize = 1000;
/// How long it is waited at most before a store that does not answer is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

struct Object {
    number: u64,
    newest: Epoch,
    /// With which a server began.
    is_beginning: bool,
}

/// Opens the log, and starts who writes it.
pub(crate) async fn open(root: &Root, inbox: UnboundedReceiver<Request>) -> Result<Vec<LogRecord>, Error> {
    let mut objects = Vec::new();
    let mut records = Vec::new();
    let mut next = 0;
    loop {
        for (number, read) in read(root, next).await? {
            next = number + 1;
            let newest = read.iter().map(|record| record.epoch).max().unwrap_or(Epoch::ZERO);
            objects.push(Object { number, newest, is_beginning: read.is_empty() });
            records.extend(read);
        }
        if root.put_new(&object_name(next), header(root.term()).into()).await? {
            break;
        }
        // The one before us has written once more.
        root.check_claim().await?;
    }
    root.check_claim().await?;
    objects.push(Object { number: next, newest: Epoch::ZERO, is_beginning: true });
    let writer = Writer { root: root.clone(), objects, next: next + 1 };
    tokio::spawn(writer.run(inbox));
    Ok(records)
}

/// The records of all objects from number `first` on.
pub(crate) async fn read(root: &Root, first: u64) -> Result<Vec<(u64, Vec<LogRecord>)>, Error> {
    let names = root.list().await?;
    let numbers: Vec<u64> =
        names.iter().filter_map(|name| name.parse().ok()).filter(|number| *number >= first).collect();
    let read = |number: u64| async move {
        let name = object_name(number);
        // Whoever writes it may have trimmed it since it was listed.
        let Some(content) = root.get(&name).await? else { return Ok(None) };
        let records = decode(&root.display(&name), &content)?;
        Ok::<_, Error>(Some((number, records)))
    };
    let found = stream::iter(numbers.into_iter().map(read).collect::<Vec<_>>()).buffered(N_READ);
    Ok(found.try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
}

fn decode(path: &str, content: &[u8]) -> Result<Vec<LogRecord>, Error> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    if !content.starts_with(&HEADER[..5]) {
        return Err(damaged("it is not part of a log".into()));
    }
    if content.get(5) != Some(&HEADER[5]) {
        let found = content.get(5).map_or("object log".into(), |version| format!("object log {version}"));
        return Err(Error::UnknownFormat {
            path: path.to_owned(),
            found,
            known: format!("object log {}", HEADER[5]),
        });
    }
    let records = content.get(HEADER.len() + 8..).ok_or_else(|| damaged("it is cut off".into()))?;
    match decode_all(records) {
        (records, []) => Ok(records),
        (_, rest) => Err(damaged(format!("the record at byte {} is broken", content.len() - rest.len()))),
    }
}

pub(crate) fn header(term: u64) -> Vec<u8> {
    [HEADER.as_slice(), &term.to_le_bytes()].concat()
}

pub(crate) fn object_name(number: u64) -> String {
    format!("{number:020}")
}

struct Writer {
    root: Root,
    /// Those that there are, oldest first.
    objects: Vec<Object>,
    next: u64,
}

impl Writer {
    async fn run(mut self, mut inbox: UnboundedReceiver<Request>) {
        while let Some(first) = inbox.recv().await {
            let mut group = Group::new(first, &mut inbox);
            if !group.is_empty() {
                let bytes = std::mem::take(&mut group.bytes);
                let outcome = self.append(&bytes, group.newest).await;
                let trim = group.trim;
                group.answer(&outcome);
                if let (Some(epoch), Ok(())) = (trim, &outcome) {
                    self.trim(epoch);
                }
            } else if let Some(epoch) = group.trim {
                self.trim(epoch);
            }
        }
    }

    async fn append(&mut self, bytes: &[u8], newest: Epoch) -> Result<(), Refused> {
        let name = object_name(self.next);
        let content: Bytes = [header(self.root.term()).as_slice(), bytes].concat().into();
        let mut pause = Duration::from_millis(50);
        let mut is_told = false;
        loop {
            if self.root.fenced().is_some() {
                return Err(Refused::Fenced);
            }
            let written = async {
                let is_written = self.root.put_new(&name, content.clone()).await?;
                if !is_written {
                    self.root.check_claim().await?;
                }
                Ok(is_written)
            };
            match written.await {
                Ok(true) => break,
                Ok(false) => {
                    // Nobody but us may write here, and we write a number once.
                    let reason = format!("\"{}\" is there already", self.root.display(&name));
                    return Err(Refused::Failed(std::io::ErrorKind::AlreadyExists, reason));
                }
                Err(Error::Fenced { .. }) => return Err(Refused::Fenced),
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        let reason = error.to_string();
                        tracing::error!(%reason, source = ?std::error::Error::source(&error), "the table log cannot be written; writers wait");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        if is_told {
            tracing::info!("the table log is written again");
        }
        self.objects.push(Object { number: self.next, newest, is_beginning: false });
        self.next += 1;
        Ok(())
    }

    /// Removes what is not needed any more, while others write.
    fn trim(&mut self, epoch: Epoch) {
        let last = self.next - 1;
        let n_beginnings = self.objects.iter().filter(|object| object.is_beginning).count();
        let mut n_too_many = n_beginnings.saturating_sub(N_BEGINNINGS);
        let mut names = Vec::new();
        self.objects.retain(|object| {
            let is_needed = match object.is_beginning {
                true => n_too_many == 0,
                false => object.newest > epoch,
            };
            n_too_many -= usize::from(object.is_beginning && !is_needed);
            // The newest stays: where it stands, the next one begins.
            let stays = is_needed || object.number == last;
            if !stays {
                names.push(object_name(object.number));
            }
            stays
        });
        if names.is_empty() {
            return;
        }
        let root = self.root.clone();
        tokio::spawn(async move {
            if let Err(error) = root.delete_all(names).await {
                // What stays is read once more at the next start, and trimmed then.
                tracing::warn!(%error, "the table log cannot be trimmed");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Log;

    fn record(epoch: u64, text: &str) -> LogRecord {
        LogRecord { epoch: Epoch(epoch), relation: 7, payload: text.into() }
    }

    async fn open(root: &Root) -> (Root, Log, Vec<LogRecord>) {
        let root = root.same_store();
        root.claim().await.unwrap();
        let (log, records) = Log::open(&root.child("log")).await.unwrap();
        (root, log, records)
    }

    #[tokio::test]
    async fn appended_records_are_read_again() {
        let root = Root::memory();
        let (_, log, records) = open(&root).await;
        assert_eq!(records, []);
        log.append(&[record(1, "a"), record(1, "b")]).await.unwrap();
        log.append(&[record(2, "c")]).await.unwrap();
        let (own, _, records) = open(&root).await;
        assert_eq!(records, [record(1, "a"), record(1, "b"), record(2, "c")]);
        assert_eq!(Log::check(&own.child("log")).await.unwrap(), 3);

        let name = object_name(2);
        let log = root.child("log");
        let whole = log.get(&name).await.unwrap().unwrap();
        for end in [whole.len() - 1, 17, 12, 3] {
            log.put(&name, whole.slice(..end)).await.unwrap();
            assert!(matches!(Log::check(&log).await, Err(Error::Damaged { .. })), "cut at {end}");
        }
        let mut future = whole.to_vec();
        future[5] = 9;
        log.put(&name, future.into()).await.unwrap();
        assert!(matches!(Log::check(&log).await, Err(Error::UnknownFormat { .. })));
    }

    #[tokio::test]
    async fn older_server_acknowledges_nothing_any_more() {
        let root = Root::memory();
        let (_, old, _) = open(&root).await;
        old.append(&[record(1, "a")]).await.unwrap();
        let (_, new, records) = open(&root).await;
        assert_eq!(records, [record(1, "a")]);
        // Also when all that the newer one wrote has been trimmed.
        for epoch in 2..9 {
            new.append(&[record(epoch, "b")]).await.unwrap();
            new.trim(Epoch(epoch - 1));
        }
        let error = old.append(&[record(2, "stale")]).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
        new.append(&[record(9, "c")]).await.unwrap();
        let (_, _, records) = open(&root).await;
        assert!(records.ends_with(&[record(8, "b"), record(9, "c")]), "{records:?}");
        assert!(!records.contains(&record(2, "stale")));
    }
}
