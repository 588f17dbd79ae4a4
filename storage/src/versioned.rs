//! An object with versions, changed by compare-and-swap.
//!
//! Version *n* is the object `name/0…0n`. It is created only where it does not exist, so of two
//! writers that both read version *n*−1 one fails: the older process is fenced out. A few versions
//! are kept, so that a damaged newest one can be told from a missing one, and nothing that only an
//! older one names is removed too early.

use bytes::Bytes;

use crate::{Error, Root};

/// How many versions stay.
const N_KEPT: u64 = 3;

/// An object of which each version is written once.
#[derive(Debug)]
pub struct VersionedObject {
    root: Root,
    /// The version that this process read or wrote last; 0 where there is none.
    version: u64,
}

impl VersionedObject {
    /// Finds the newest version below `root`. Its content comes along, or `None` where there never was one.
    pub async fn open(root: Root) -> Result<(VersionedObject, Option<Bytes>), Error> {
        let names = root.list().await?;
        let newest = names.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        let Some(version) = newest else {
            return Ok((VersionedObject { root, version: 0 }, None));
        };
        let content = root.get(&object_name(version)).await?;
        Ok((VersionedObject { root, version }, content))
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Writes the next version; [`Error::Conflict`] where somebody else has.
    pub async fn put(&mut self, content: Bytes) -> Result<(), Error> {
        let next = self.version + 1;
        if !self.root.put_new(&object_name(next), content).await? {
            return Err(Error::Conflict { path: self.root.display(""), version: next });
        }
        self.version = next;
        if next > N_KEPT {
            self.root.delete(&object_name(next - N_KEPT)).await?;
        }
        Ok(())
    }
}

fn object_name(version: u64) -> String {
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
}
