//! Checkpoints: what a dataflow or a table is at an epoch, in one compare-and-swap.
//!
//! ```text
//! <root>/manifest/0…0n    what belongs to checkpoint n: for every arrangement its runs, for every blob
//!                         its place, and the owner's own words (offsets, watermarks, …), as JSON
//! <root>/packs/0…0m       the runs and blobs that were new in one checkpoint, one behind the other
//! ```
//!
//! A run is written once, by the first checkpoint that holds it; later ones name it again. A pack that
//! none of the kept manifests names is garbage. A run that is in a file already becomes a pack of its own: below a
//! local root by a second name of the file, so that such a checkpoint costs no more than syncing it.
//!
//! Reading a checkpoint maps its packs and looks at the headers of the runs. What is behind them is read when it is
//! needed, and its checksums are compared by `tidemill check-data`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Root, Run, RunId, VersionedObject};

const FORMAT: u32 = 1;
/// How rows are encoded as bytes; another one cannot be read.
const ROW_FORMAT: &str = "arrow-row-59";
/// As many as versions are kept of the manifest.
const N_MANIFESTS: usize = 3;

/// What is to be durable together.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The owner's own words.
    pub meta: Value,
    /// The runs of every arrangement, oldest first.
    pub runs: BTreeMap<String, Vec<Arc<Run>>>,
    pub blobs: BTreeMap<String, Bytes>,
}

/// Above this a pack is full. Its pieces are what is in memory anyway.
const PACK_BYTES_MAX: u64 = 256 << 20;

/// Runs are read where they lie in a mapped pack, as numbers of up to 8 bytes.
const ALIGNMENT: u64 = 64;

/// A pack that is being put together, and the runs in it.
#[derive(Default)]
struct Pack {
    pieces: Vec<Bytes>,
    len: u64,
    runs: Vec<(Arc<Run>, RunId)>,
}

impl Pack {
    /// Appends pieces as one; gives where it begins, and how long it is.
    fn place(&mut self, pieces: Vec<Bytes>) -> (u64, u64) {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        if len > 0 {
            let padding = self.len.next_multiple_of(ALIGNMENT) - self.len;
            self.pieces.push(Bytes::from_static(&[0; ALIGNMENT as usize]).slice(..padding as usize));
            self.len += padding;
        }
        let offset = self.len;
        self.pieces.extend(pieces);
        self.len += len;
        (offset, len)
    }
}

/// What a checkpoint cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointStats {
    pub bytes_written: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    row_format: String,
    meta: Value,
    pub runs: BTreeMap<String, Vec<RunId>>,
    pub blobs: BTreeMap<String, RunId>,
}

impl Manifest {
    /// Reads a manifest; `path` is for the error.
    pub fn parse(path: &str, content: &[u8]) -> Result<Manifest, Error> {
        let manifest: Manifest = serde_json::from_slice(content)
            .map_err(|error| Error::Damaged { path: path.to_owned(), reason: error.to_string() })?;
        if manifest.format != FORMAT || manifest.row_format != ROW_FORMAT {
            return Err(Error::UnknownFormat {
                path: path.to_owned(),
                found: format!("checkpoint {} with {}", manifest.format, manifest.row_format),
                known: format!("checkpoint {FORMAT} with {ROW_FORMAT}"),
            });
        }
        Ok(manifest)
    }

    pub fn packs(&self) -> BTreeSet<u64> {
        // What is empty is nowhere: its pack need not exist.
        let ids = self.runs.values().flatten().chain(self.blobs.values());
        ids.filter(|id| id.len > 0).map(|id| id.pack).collect()
    }
}

/// Writes and reads the checkpoints of one owner.
#[derive(Debug)]
pub struct CheckpointStore {
    /// Tells this store's runs from others', which come along when one owner takes over another's state.
    id: u64,
    root: Root,
    manifest: VersionedObject,
    next_pack: u64,
    /// The packs that each kept manifest names, oldest first.
    kept: VecDeque<BTreeSet<u64>>,
    blobs: BTreeMap<String, (Bytes, RunId)>,
}

impl CheckpointStore {
    /// Opens the checkpoints below `root`; with the newest one, if there is any.
    pub async fn open(root: Root) -> Result<(CheckpointStore, Option<Checkpoint>), Error> {
        let (manifest, content) = VersionedObject::open(root.child("manifest")).await?;
        let packs = root.child("packs").list().await?;
        let next_pack =
            packs.iter().filter_map(|name| name.parse::<u64>().ok()).max().map_or(0, |pack| pack + 1);
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut store =
            CheckpointStore { id, root, manifest, next_pack, kept: VecDeque::new(), blobs: BTreeMap::new() };
        let Some(content) = content else { return Ok((store, None)) };
        let path = store.root.display("manifest");
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let manifest = Manifest::parse(&path, &content)?;
        let live = manifest.packs();
        let mut files: BTreeMap<u64, Bytes> = BTreeMap::new();
        for pack in &live {
            let name = pack_name(*pack);
            let Some(file) = store.root.map(&name).await? else {
                return Err(damaged(format!("it names \"{name}\", which does not exist")));
            };
            files.insert(*pack, file);
        }
        let slice = |id: &RunId| -> Result<Bytes, Error> {
            if id.len == 0 {
                return Ok(Bytes::new());
            }
            let file = &files[&id.pack];
            let end = id.offset.checked_add(id.len).filter(|end| *end <= file.len() as u64);
            let Some(end) = end else {
                return Err(damaged(format!("pack {} is shorter than it says", id.pack)));
            };
            Ok(file.slice(id.offset as usize..end as usize))
        };
        let mut checkpoint = Checkpoint { meta: manifest.meta.clone(), ..Checkpoint::default() };
        for (name, ids) in &manifest.runs {
            let mut runs = Vec::new();
            for id in ids {
                let run = Run::of_mapped(&store.root.display(&pack_name(id.pack)), slice(id)?)?;
                run.set_id(store.id, *id, None);
                runs.push(Arc::new(run));
            }
            checkpoint.runs.insert(name.clone(), runs);
        }
        for (name, id) in &manifest.blobs {
            let blob = slice(id)?;
            store.blobs.insert(name.clone(), (blob.clone(), *id));
            checkpoint.blobs.insert(name.clone(), blob);
        }
        // What a crash left behind: written, but never named.
        for name in packs {
            if let Ok(pack) = name.parse::<u64>()
                && !live.contains(&pack)
            {
                store.root.delete(&pack_name(pack)).await?;
            }
        }
        store.kept.push_back(live);
        Ok((store, Some(checkpoint)))
    }

    /// Makes a checkpoint durable.
    pub async fn write(&mut self, checkpoint: &Checkpoint) -> Result<CheckpointStats, Error> {
        let is_new = |run: &&Arc<Run>| run.id_in(self.id).is_none();
        let new_runs: Vec<Arc<Run>> = checkpoint.runs.values().flatten().filter(is_new).cloned().collect();
        let mut bytes_written = 0;
        for run in &new_runs {
            if let Some(file) = run.file() {
                let id = RunId { pack: self.next_pack, offset: 0, len: file.len };
                self.root.adopt(&pack_name(id.pack), file).await?;
                self.next_pack += 1;
                run.set_id(self.id, id, None);
                bytes_written += file.len as usize;
            }
        }
        let mut pack = Pack::default();
        for run in new_runs.iter().filter(|run| run.file().is_none()) {
            let (offset, len) = pack.place(run.to_pieces());
            pack.runs.push((run.clone(), RunId { pack: self.next_pack, offset, len }));
            if pack.len > PACK_BYTES_MAX {
                bytes_written += self.write_pack(std::mem::take(&mut pack)).await?.0;
            }
        }
        let mut blobs = BTreeMap::new();
        for (name, bytes) in &checkpoint.blobs {
            let id = match self.blobs.get(name) {
                Some((known, id)) if is_same(known, bytes) => *id,
                _ => {
                    let (offset, len) = pack.place(vec![bytes.clone()]);
                    RunId { pack: self.next_pack, offset, len }
                }
            };
            blobs.insert(name.clone(), (bytes.clone(), id));
        }
        let number = self.next_pack;
        let (n_bytes, mapped) = self.write_pack(pack).await?;
        bytes_written += n_bytes;
        for (bytes, id) in blobs.values_mut() {
            if let Some(file) = mapped.as_ref().filter(|_| id.pack == number && id.len > 0) {
                *bytes = piece(file, *id);
            }
        }
        let manifest = Manifest {
            format: FORMAT,
            row_format: ROW_FORMAT.into(),
            meta: checkpoint.meta.clone(),
            runs: checkpoint
                .runs
                .iter()
                .map(|(name, runs)| {
                    (
                        name.clone(),
                        runs.iter().map(|run| run.id_in(self.id).expect("written above")).collect(),
                    )
                })
                .collect(),
            blobs: blobs.iter().map(|(name, (_, id))| (name.clone(), *id)).collect(),
        };
        let content = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        self.manifest.put(content.into()).await?;
        self.blobs = blobs;
        self.kept.push_back(manifest.packs());
        if self.kept.len() > N_MANIFESTS {
            let dropped = self.kept.pop_front().expect("there are several");
            for pack in dropped {
                if !self.kept.iter().any(|packs| packs.contains(&pack)) {
                    self.root.delete(&pack_name(pack)).await?;
                }
            }
        }
        Ok(CheckpointStats { bytes_written })
    }

    /// A blob of the last checkpoint, where it lies in a file, if it does.
    pub fn blob(&self, name: &str) -> Option<Bytes> {
        self.blobs.get(name).map(|(bytes, _)| bytes.clone())
    }

    /// Writes a pack, after which the runs in it are durable; gives its length and, below a local root, the file. Should the manifest fail after that, the next one names
    /// them where they are.
    async fn write_pack(&mut self, pack: Pack) -> Result<(usize, Option<Bytes>), Error> {
        let mut mapped = None;
        if pack.len > 0 {
            let name = pack_name(self.next_pack);
            self.root.put_pieces(&name, pack.pieces).await?;
            self.next_pack += 1;
            if self.root.directory().is_some() {
                mapped = self.root.map(&name).await?;
            }
        }
        for (run, id) in pack.runs {
            run.set_id(self.id, id, mapped.as_ref().map(|file| piece(file, id)));
        }
        Ok((pack.len as usize, mapped))
    }

    /// Removes everything: the owner has been dropped.
    pub async fn remove(self) -> Result<(), Error> {
        remove_all(&self.root).await
    }
}

/// Whether two blobs are the same, which those that lie at one place are.
fn is_same(a: &Bytes, b: &Bytes) -> bool {
    (a.as_ptr() == b.as_ptr() && a.len() == b.len()) || a == b
}

/// What a pack's file has at a place.
fn piece(file: &Bytes, id: RunId) -> Bytes {
    file.slice(id.offset as usize..(id.offset + id.len) as usize)
}

/// Removes all objects below `root`, manifests first, so that what is left can be told to be garbage.
pub async fn remove_all(root: &Root) -> Result<(), Error> {
    for name in root.child("manifest").list().await? {
        root.delete(&format!("manifest/{name}")).await?;
    }
    for name in root.list().await? {
        root.delete(&name).await?;
    }
    Ok(())
}

pub(crate) fn pack_name(pack: u64) -> String {
    format!("packs/{pack:020}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::RunBuilder;

    fn run(rows: &[&str]) -> Arc<Run> {
        let mut builder = RunBuilder::with_capacity(rows.len(), 0);
        rows.iter().for_each(|row| builder.push(row.as_bytes(), 1));
        builder.finish()
    }

    fn rows(checkpoint: &Checkpoint, name: &str) -> Vec<String> {
        let runs = &checkpoint.runs[name];
        let row = |run: &Run, idx| String::from_utf8(run.row(idx).to_vec()).unwrap();
        runs.iter().flat_map(|run| (0..run.len()).map(move |idx| row(run, idx))).collect()
    }

    #[tokio::test]
    async fn only_what_is_new_is_written_and_the_newest_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::local(directory.path()).unwrap().child("dataflows/7");
        let (mut store, found) = CheckpointStore::open(root.clone()).await.unwrap();
        assert!(found.is_none());
        let old = run(&["a", "b"]);
        let mut checkpoint = Checkpoint { meta: json!({"epoch": 1}), ..Checkpoint::default() };
        checkpoint.runs.insert("x".into(), vec![old.clone()]);
        checkpoint.blobs.insert("outbox".into(), "hello".into());
        let first = store.write(&checkpoint).await.unwrap();
        for epoch in 2..7 {
            checkpoint.meta = json!({"epoch": epoch});
            let new = run(&[&format!("c{epoch}")]);
            checkpoint.runs.insert("x".into(), vec![old.clone(), new]);
            let next = store.write(&checkpoint).await.unwrap();
            assert!(next.bytes_written < first.bytes_written);
        }
        assert_eq!(root.child("packs").list().await.unwrap().len(), 4);
        // A pack that no manifest names, as a crash leaves it.
        root.put("packs/00000000000000000099", "garbage".into()).await.unwrap();
        let (store, found) = CheckpointStore::open(root.clone()).await.unwrap();
        let found = found.unwrap();
        assert_eq!(found.meta, json!({"epoch": 6}));
        assert_eq!(rows(&found, "x"), ["a", "b", "c6"]);
        assert_eq!(found.blobs["outbox"], "hello");
        assert_eq!(root.child("packs").list().await.unwrap().len(), 2);
        store.remove().await.unwrap();
        assert_eq!(root.list().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn empty_blob_needs_no_pack() {
        let root = Root::memory();
        let (mut store, _) = CheckpointStore::open(root.clone()).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        checkpoint.blobs.insert("outbox".into(), Bytes::new());
        store.write(&checkpoint).await.unwrap();
        checkpoint.runs.insert("x".into(), vec![run(&["a"])]);
        store.write(&checkpoint).await.unwrap();
        checkpoint.runs.clear();
        for _ in 0..5 {
            store.write(&checkpoint).await.unwrap();
        }
        let (_, found) = CheckpointStore::open(root).await.unwrap();
        assert_eq!(found.unwrap().blobs["outbox"], Bytes::new());
    }

    #[tokio::test]
    async fn runs_of_another_store_are_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::local(directory.path()).unwrap();
        let (mut first, _) = CheckpointStore::open(root.child("1")).await.unwrap();
        let (mut second, _) = CheckpointStore::open(root.child("2")).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        checkpoint.runs.insert("x".into(), vec![run(&["a", "b"])]);
        first.write(&checkpoint).await.unwrap();
        second.write(&checkpoint).await.unwrap();
        first.remove().await.unwrap();
        let (_, found) = CheckpointStore::open(root.child("2")).await.unwrap();
        assert_eq!(rows(&found.unwrap(), "x"), ["a", "b"]);
    }

    #[tokio::test]
    async fn run_in_a_file_becomes_a_pack_without_being_copied() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        for root in [Root::local(directory.path()).unwrap(), Root::memory()] {
            let mut builder =
                crate::run_file::RunFileBuilder::new(&root.scratch().unwrap(), 3, 30, 0).unwrap();
            ["a", "b", "c"].iter().for_each(|row| crate::run::Rows::push(&mut builder, row.as_bytes(), 1));
            let in_file = builder.finish().unwrap();
            let (mut store, _) = CheckpointStore::open(root.clone()).await.unwrap();
            let mut checkpoint = Checkpoint::default();
            checkpoint.runs.insert("x".into(), vec![in_file.clone(), run(&["d"])]);
            store.write(&checkpoint).await.unwrap();
            if root.directory().is_some() {
                let links = std::fs::metadata(&in_file.file().unwrap().path).unwrap().nlink();
                assert_eq!(links, 2);
            }
            drop((in_file, checkpoint));
            let (_, found) = CheckpointStore::open(root).await.unwrap();
            let found = found.unwrap();
            assert_eq!(rows(&found, "x"), ["a", "b", "c", "d"]);
            assert!(found.runs["x"].iter().all(|run| !run.is_on_heap()));
        }
    }
}
