//! An object with versions, changed by compare-and-swap.
//!
//! Version *n* is the object `name/0…0n`. It is created only where it does not exist, so of two
//! writers that both read version *n*−1 one fails: the older process is fenced out. A few versions
//! are kept, so that a damaged newest one can be told from a missing one, and nothing that only an
//! older one names is removed too early.
//!
//! Below a root that servers claim (see `claim.rs`) a version begins with a line `writer <term>`, so that no two
//! servers write the same bytes, and a version counts once a look at the claims has followed it.

use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Root};

const WRITER: &[u8] = b"writer ";

/// How long it is waited at most before a store that does not answer is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// An object of which each version is written once.
#[derive(Debug)]
pub struct VersionedObject {
    root: Root,
    /// The version that this process read or wrote last; 0 where there is none.
    version: u64,
    /// The oldest version that there may be.
    oldest: u64,
}

impl VersionedObject {
    /// Finds the newest version below `root`. Its content comes along, or `None` where there never was one.
    pub async fn open(root: Root) -> Result<(VersionedObject, Option<Bytes>), Error> {
        let (object, content) = VersionedObject::read(root).await?;
        Ok((object, content.map(|written| written.content)))
    }

    async fn read(root: Root) -> Result<(VersionedObject, Option<Written>), Error> {
        loop {
            let versions = versions(&root).await?;
            let (Some(oldest), Some(newest)) = (versions.first(), versions.last()) else {
                return Ok((VersionedObject { root, version: 0, oldest: 1 }, None));
            };
            // It may have been removed meanwhile, where somebody else goes on writing.
            if let Some(bytes) = root.get(&object_name(*newest)).await? {
                let object = VersionedObject { version: *newest, oldest: *oldest, root };
                return Ok((object, Some(Written::parse(bytes))));
            }
        }
    }

    /// The same for who is going to write. Whoever wrote it until now cannot any more.
    pub async fn take_over(root: Root) -> Result<(VersionedObject, Option<Bytes>), Error> {
        loop {
            let (mut object, written) = VersionedObject::read(root.clone()).await?;
            let Some(written) = written else { return Ok((object, None)) };
            if root.term() == 0 || object.put_next(&written.content).await? {
                return Ok((object, Some(written.content)));
            }
            root.check_claim().await?;
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// The content of each version that is kept, oldest first.
    pub(crate) async fn kept(&self) -> Result<Vec<(u64, Bytes)>, Error> {
        let mut kept = Vec::new();
        for version in self.oldest..=self.version {
            if let Some(bytes) = self.root.get(&object_name(version)).await? {
                kept.push((version, Written::parse(bytes).content));
            }
        }
        Ok(kept)
    }

    /// Writes the next version; [`Error::Conflict`] or [`Error::Fenced`] where somebody else has.
    pub async fn put(&mut self, content: Bytes) -> Result<(), Error> {
        while !self.put_next(&content).await? {
            if self.root.term() == 0 {
                return Err(Error::Conflict { path: self.root.display(""), version: self.version + 1 });
            }
            // As long as the root is ours, what is there is a version of our own whose answer never came, or of
            // somebody who has lost the root. Either way the next one replaces it.
            self.root.check_claim().await?;
            self.version += 1;
        }
        let n_kept = self.root.n_kept();
        while self.oldest + n_kept <= self.version {
            // What has been written stays written, whether this works or not.
            if let Err(error) = self.root.delete(&object_name(self.oldest)).await {
                tracing::warn!(%error, "an old version cannot be removed");
                break;
            }
            self.oldest += 1;
        }
        Ok(())
    }

    /// The same; in an object store it is tried until it is known whether it was done.
    ///
    /// A write whose answer does not come may have been made, or be made later. Who takes back what the version names,
    /// because it failed, must be sure that it did.
    pub async fn put_surely(&mut self, content: Bytes) -> Result<(), Error> {
        let mut pause = Duration::from_millis(50);
        let mut is_told = false;
        loop {
            match self.put(content.clone()).await {
                Err(error @ Error::Object { .. }) if self.root.term() > 0 => {
                    if let Some(fenced) = self.root.fenced() {
                        return Err(fenced);
                    }
                    if !std::mem::replace(&mut is_told, true) {
                        let source = std::error::Error::source(&error);
                        tracing::error!(%error, ?source, "it may have been written or not; it is tried until that is known");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                outcome => return outcome,
            }
        }
    }

    /// Whether the next version could be written.
    async fn put_next(&mut self, content: &Bytes) -> Result<bool, Error> {
        let next = self.version + 1;
        let term = self.root.term();
        let bytes = match term {
            0 => content.clone(),
            term => [WRITER, term.to_string().as_bytes(), b"\n", content].concat().into(),
        };
        if !self.root.put_new(&object_name(next), bytes).await? {
            return Ok(false);
        }
        self.root.check_claim().await?;
        self.version = next;
        Ok(true)
    }

    /// Fails where the newest version below `root` is from a later term than ours.
    pub(crate) async fn open_own(root: Root) -> Result<VersionedObject, Error> {
        let (object, written) = VersionedObject::read(root).await?;
        if written.is_some_and(|written| written.term > object.root.term()) {
            object.root.check_claim().await?;
        }
        Ok(object)
    }
}

/// A version, and who wrote it.
struct Written {
    term: u64,
    content: Bytes,
}

impl Written {
    fn parse(bytes: Bytes) -> Written {
        let term = || -> Option<(u64, usize)> {
            let rest = bytes.strip_prefix(WRITER)?;
            let n_digits = rest.iter().position(|byte| *byte == b'\n')?;
            let term = std::str::from_utf8(&rest[..n_digits]).ok()?.parse().ok()?;
            Some((term, WRITER.len() + n_digits + 1))
        };
        match term() {
            Some((term, at)) => Written { term, content: bytes.slice(at..) },
            None => Written { term: 0, content: bytes },
        }
    }
}

/// A version's content, without the line that says who wrote it.
pub(crate) fn content(bytes: Bytes) -> Bytes {
    Written::parse(bytes).content
}

async fn versions(root: &Root) -> Result<Vec<u64>, Error> {
    let names = root.list().await?;
    Ok(names.iter().filter_map(|name| name.parse::<u64>().ok()).collect())
}

pub(crate) fn object_name(version: u64) -> String {
    format!("{version:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn second_writer_is_fenced_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::local(directory.path()).unwrap().child("manifest");
        let (mut first, content) = VersionedObject::open(root.clone()).await.unwrap();
        assert_eq!(content, None);
        for n in 0..5 {
            first.put(format!("{n}").into()).await.unwrap();
        }
        let (mut second, content) = VersionedObject::open(root.clone()).await.unwrap();
        assert_eq!(content.as_deref(), Some(&b"4"[..]));
        second.put("5".into()).await.unwrap();
        assert!(matches!(first.put("6".into()).await, Err(Error::Conflict { version: 6, .. })));
        assert_eq!(root.list().await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn older_server_is_fenced_out_however_long_it_sleeps() {
        let root = Root::memory();
        let old = root.same_store();
        old.claim().await.unwrap();
        let (mut sleeper, _) = VersionedObject::take_over(old.child("x")).await.unwrap();
        for n in 1..=4 {
            sleeper.put(format!("{n}").into()).await.unwrap();
        }
        let new = root.same_store();
        new.claim().await.unwrap();
        let (mut heir, content) = VersionedObject::take_over(new.child("x")).await.unwrap();
        assert_eq!((content.as_deref(), heir.version()), (Some(&b"4"[..]), 5));
        // As long as the place is taken, and when it is free again.
        for n in 0..9 {
            let error = sleeper.put(format!("stale {n}").into()).await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
            let (mut other, _) = VersionedObject::open(old.child("x")).await.unwrap();
            assert!(matches!(other.put("stale".into()).await, Err(Error::Fenced { .. })));
            heir.put(format!("{n}").into()).await.unwrap();
            let (_, content) = VersionedObject::open(new.child("x")).await.unwrap();
            assert_eq!(content, Some(format!("{n}").into()));
        }
        assert!(old.lost().await.to_string().contains("taken over"));
    }

    #[tokio::test]
    async fn version_whose_answer_was_lost_is_replaced() {
        let root = Root::memory();
        root.claim().await.unwrap();
        let (mut object, _) = VersionedObject::take_over(root.child("x")).await.unwrap();
        object.put("1".into()).await.unwrap();
        root.child("x").put(&object_name(2), "writer 1\nlost".into()).await.unwrap();
        object.put("2".into()).await.unwrap();
        assert_eq!(object.version(), 3);
        let (_, content) = VersionedObject::open(root.child("x")).await.unwrap();
        assert_eq!(content.as_deref(), Some(&b"2"[..]));
    }
}
