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
//! needed, and its checksums are compared by `tidemill check-data`. From an object store what the checkpoint names is
//! copied into local files first.
//!
//! That no pack is removed which a kept manifest names rests on this: a captured state goes on from the one that was captured
//! before it, so a run that is in the older and not in the newer one is in no later one either. Should one
//! come back nevertheless, it is written again (see `is_written`). Why another server cannot need it stands in `claim.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemill_core::crash_point;

use crate::{Error, Root, Run, RunId, VersionedObject, versioned};

const FORMAT: u32 = 1;
/// How rows are encoded as bytes; another one cannot be read.
const ROW_FORMAT: &str = "arrow-row-59";
/// The last version of the manifest of an owner that has been dropped.
pub(crate) const REMOVED: &[u8] = b"removed";

/// Of an object store, packs have the term of their writer above this bit of their number, and so are of one writer.
const TERM_SHIFT: u32 = 40;

/// How many packs are fetched at once.
const N_FETCHED: usize = 4;

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

/// A shorter blob stays in memory where the root is not a directory.
const KEPT_BYTES_MIN: usize = 64 << 10;

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
        self.ids().map(|id| id.pack).collect()
    }

    /// What it names. What is empty is nowhere: its pack need not exist.
    fn ids(&self) -> impl Iterator<Item = &RunId> {
        self.runs.values().flatten().chain(self.blobs.values()).filter(|id| id.len > 0)
    }

    /// What it names of each pack, ascending.
    fn parts(&self) -> BTreeMap<u64, Vec<Range<u64>>> {
        let mut parts: BTreeMap<u64, Vec<Range<u64>>> = BTreeMap::new();
        for id in self.ids() {
            parts.entry(id.pack).or_default().push(id.offset..id.offset.saturating_add(id.len));
        }
        parts.values_mut().for_each(|parts| parts.sort_by_key(|part| part.start));
        parts
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
    /// The packs that each kept version of the manifest names, or may name: one that failed may be there.
    kept: BTreeMap<u64, BTreeSet<u64>>,
    /// Packs that have been written since the last manifest.
    unnamed: BTreeSet<u64>,
    /// Packs that no manifest will name again.
    garbage: BTreeSet<u64>,
    blobs: BTreeMap<String, (Bytes, RunId)>,
}

impl CheckpointStore {
    /// Opens the checkpoints below `root`; with the newest one, if there is any. Whoever wrote them until now cannot
    /// any more.
    pub async fn open(root: Root) -> Result<(CheckpointStore, Option<Checkpoint>), Error> {
        CheckpointStore::open_if(root, |_| true).await
    }

    /// The same, without the checkpoint where its owner's words say that nobody wants it. What it names may be missing then: it
    /// can be what was written late, after all else had been removed.
    pub async fn open_if(
        root: Root,
        is_wanted: impl FnOnce(&Value) -> bool,
    ) -> Result<(CheckpointStore, Option<Checkpoint>), Error> {
        let (manifest, content) = VersionedObject::take_over(root.child("manifest")).await?;
        let packs = root.child("packs").list().await?;
        let packs: BTreeSet<u64> = packs.iter().filter_map(|name| name.parse().ok()).collect();
        let newest = packs.iter().rfind(|pack| is_of_term_until(root.term(), **pack));
        let next_pack = newest.map_or(0, |pack| pack + 1).max(root.term() << TERM_SHIFT);
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut store = CheckpointStore {
            id,
            root,
            manifest,
            next_pack,
            kept: BTreeMap::new(),
            unnamed: BTreeSet::new(),
            garbage: BTreeSet::new(),
            blobs: BTreeMap::new(),
        };
        let content = content.filter(|content| content.as_ref() != REMOVED);
        let Some(content) = content else { return Ok((store, None)) };
        let path = store.root.display("manifest");
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let manifest = Manifest::parse(&path, &content)?;
        if !is_wanted(&manifest.meta) {
            return Ok((store, None));
        }
        let map = |(pack, parts): (u64, Vec<Range<u64>>)| {
            let (root, damaged) = (&store.root, &damaged);
            async move {
                let name = pack_name(pack);
                match root.map_parts(&name, &parts).await? {
                    Some(file) => Ok((pack, file)),
                    None => Err(damaged(format!("it names \"{name}\", which does not exist"))),
                }
            }
        };
        let mapped = stream::iter(manifest.parts().into_iter().map(map).collect::<Vec<_>>());
        let files: BTreeMap<u64, Bytes> = mapped.buffer_unordered(N_FETCHED).try_collect().await?;
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
        let mut is_known = true;
        for (version, content) in store.manifest.kept().await? {
            match Manifest::parse(&path, &content) {
                Ok(manifest) => drop(store.kept.insert(version, manifest.packs())),
                Err(error) => {
                    tracing::warn!(path, version, %error, "an older checkpoint cannot be read");
                    is_known = false;
                }
            }
        }
        if is_known {
            store.collect(packs).await;
        }
        Ok((store, Some(checkpoint)))
    }

    /// Removes those of `packs` that no kept manifest names: what a crash left behind, or what was needed until now.
    async fn collect(&mut self, packs: BTreeSet<u64>) {
        let is_kept = |pack: &u64| self.kept.values().any(|kept| kept.contains(pack));
        // Whoever has a later term may be about to name his.
        let is_ours = |pack: &u64| is_of_term_until(self.root.term(), *pack);
        self.garbage.extend(packs.iter().filter(|pack| !is_kept(pack) && is_ours(pack)));
        let names = self.garbage.iter().map(|pack| pack_name(*pack)).collect();
        match self.root.delete_all(names).await {
            Ok(()) => self.garbage.clear(),
            // The checkpoint is durable all the same; the next one tries again.
            Err(error) => tracing::warn!(%error, "what no checkpoint needs cannot be removed"),
        }
    }

    /// Whether a run is where it says, and stays there.
    fn is_written(&self, run: &Run) -> bool {
        run.id_in(self.id).is_some_and(|id| {
            let is_in = |packs: &BTreeSet<u64>| packs.contains(&id.pack);
            id.len == 0 || is_in(&self.unnamed) || self.kept.values().any(is_in)
        })
    }

    /// Makes a checkpoint durable.
    pub async fn write(&mut self, checkpoint: &Checkpoint) -> Result<CheckpointStats, Error> {
        let is_new = |run: &&Arc<Run>| !self.is_written(run);
        let new_runs: Vec<Arc<Run>> = checkpoint.runs.values().flatten().filter(is_new).cloned().collect();
        let mut bytes_written = 0;
        for run in &new_runs {
            if let Some(file) = run.file() {
                let id = RunId { pack: self.take_number(), offset: 0, len: file.len };
                self.root.adopt(&pack_name(id.pack), file).await?;
                self.written(id.pack);
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
        for (bytes, id) in blobs.values_mut().filter(|(_, id)| id.pack == number && id.len > 0) {
            match &mapped {
                Some(file) => *bytes = piece(file, *id),
                None if bytes.len() >= KEPT_BYTES_MIN => *bytes = self.root.keep(bytes.clone()).await?,
                None => (),
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
        let packs = manifest.packs();
        // Should we not hear that it was written, it may be there all the same.
        self.kept.entry(self.manifest.version() + 1).or_default().extend(&packs);
        crash_point("checkpoint.packed");
        self.manifest.put(content.into()).await?;
        crash_point("checkpoint.named");
        self.blobs = blobs;
        let version = self.manifest.version();
        self.kept.insert(version, packs);
        let later = self.kept.split_off(&(version + 1).saturating_sub(self.root.n_kept()));
        let dropped = std::mem::replace(&mut self.kept, later);
        let mut candidates = std::mem::take(&mut self.unnamed);
        candidates.extend(dropped.into_values().flatten());
        self.collect(candidates).await;
        Ok(CheckpointStats { bytes_written })
    }

    /// A blob of the last checkpoint, where it lies in a file, if it is worth one.
    pub fn blob(&self, name: &str) -> Option<Bytes> {
        self.blobs.get(name).map(|(bytes, _)| bytes.clone())
    }

    /// Writes a pack, after which the runs in it are durable; gives its length and, below a local root, the file. Should
    /// the manifest fail after that, the next one names them where they are.
    async fn write_pack(&mut self, pack: Pack) -> Result<(usize, Option<Bytes>), Error> {
        let mut mapped = None;
        if pack.len > 0 {
            let number = self.take_number();
            let name = pack_name(number);
            self.root.put_pieces(&name, pack.pieces).await?;
            self.written(number);
            if self.root.directory().is_some() {
                mapped = self.root.map(&name).await?;
            }
        }
        for (run, id) in pack.runs {
            run.set_id(self.id, id, mapped.as_ref().map(|file| piece(file, id)));
        }
        Ok((pack.len as usize, mapped))
    }

    /// A number for a pack, used once: a write that has failed may be made yet, and would take the place of what had been
    /// written under that number since.
    fn take_number(&mut self) -> u64 {
        let number = self.next_pack;
        self.next_pack += 1;
        self.garbage.insert(number);
        number
    }

    /// A pack is there, for a manifest to name.
    fn written(&mut self, number: u64) {
        self.garbage.remove(&number);
        self.unnamed.insert(number);
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
    let manifest = root.child("manifest");
    let mut last = None;
    if root.term() > 0 && !root.list().await?.is_empty() {
        // Another server may be reading, and from then on need, what is here: it has it, or we may remove it.
        let mut object = VersionedObject::open_own(manifest.clone()).await?;
        object.put(Bytes::from_static(REMOVED)).await?;
        last = Some(format!("manifest/{}", versioned::object_name(object.version())));
    }
    let is_other = |name: &String| Some(name) != last.as_ref();
    let (manifests, others): (Vec<String>, Vec<String>) =
        root.list().await?.into_iter().filter(is_other).partition(|name| name.starts_with("manifest/"));
    root.delete_all(manifests).await?;
    root.delete_all(others).await?;
    root.delete_all(last.into_iter().collect()).await
}

/// Whether a pack was written by a server with this term, or an earlier one. Without terms there is one server.
fn is_of_term_until(term: u64, pack: u64) -> bool {
    term == 0 || pack >> TERM_SHIFT <= term
}

pub(crate) fn pack_name(pack: u64) -> String {
    format!("packs/{pack:020}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::RunBuilder;
    use crate::testing::Troubled;

    #[tokio::test]
    async fn write_that_failed_and_is_made_later_changes_nothing() {
        let store = Arc::new(Troubled::default());
        let scratch = tempfile::tempdir().unwrap();
        let root = || {
            let cache = scratch.path().to_owned();
            Root::of_store(store.clone(), "s3://b", object_store::path::Path::default(), cache, 3)
        };
        let (mut checkpoints, _) = CheckpointStore::open(root()).await.unwrap();
        let of = |rows: &[&str]| Checkpoint {
            runs: BTreeMap::from([("t".to_owned(), vec![run(rows)])]),
            ..Checkpoint::default()
        };
        store.refuse("packs");
        assert!(checkpoints.write(&of(&["given up"])).await.is_err());
        checkpoints.write(&of(&["a", "b"])).await.unwrap();
        store.make_what_was_refused().await;
        let (_, found) = CheckpointStore::open(root()).await.unwrap();
        assert_eq!(rows(&found.unwrap(), "t"), ["a", "b"]);
    }

    #[tokio::test]
    async fn checkpoint_that_nobody_wants_may_be_a_ruin() {
        let root = Root::memory();
        let (mut checkpoints, _) = CheckpointStore::open(root.clone()).await.unwrap();
        let checkpoint = Checkpoint {
            meta: json!({ "of": 7 }),
            runs: BTreeMap::from([("t".to_owned(), vec![run(&["a"])])]),
            ..Checkpoint::default()
        };
        checkpoints.write(&checkpoint).await.unwrap();
        root.delete(&pack_name(0)).await.unwrap();
        assert!(matches!(CheckpointStore::open(root.clone()).await, Err(Error::Damaged { .. })));
        let (store, found) = CheckpointStore::open_if(root.clone(), |meta| meta["of"] == 8).await.unwrap();
        assert!(found.is_none());
        store.remove().await.unwrap();
        assert_eq!(root.list().await.unwrap(), Vec::<String>::new());
    }

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
        // All that a kept manifest names is still there, and nothing else.
        assert_eq!(root.child("packs").list().await.unwrap().len(), 4);
        let checked = crate::check(&Root::local(directory.path()).unwrap()).await.unwrap();
        assert_eq!((checked.n_checkpoints, checked.problems), (3, Vec::new()));
        store.remove().await.unwrap();
        assert_eq!(root.list().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn older_server_can_neither_write_nor_destroy() {
        let root = Root::memory();
        let old_root = root.same_store();
        old_root.claim().await.unwrap();
        let (mut old, _) = CheckpointStore::open(old_root.child("dataflows/7")).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        let shared = run(&["a"]);
        for n in 0..6 {
            checkpoint.runs.insert("x".into(), vec![shared.clone(), run(&[&format!("b{n}")])]);
            old.write(&checkpoint).await.unwrap();
        }
        let new_root = root.same_store();
        new_root.claim().await.unwrap();
        let (mut new, found) = CheckpointStore::open(new_root.child("dataflows/7")).await.unwrap();
        let mut taken = found.unwrap();
        assert_eq!(rows(&taken, "x"), ["a", "b5"]);
        // The older one goes on as if nothing had happened, in turns with the newer one, which removes what it needs no more.
        for n in 0..9 {
            checkpoint.runs.insert("x".into(), vec![shared.clone(), run(&[&format!("stale{n}")])]);
            let error = old.write(&checkpoint).await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
            let error = remove_all(&old_root.child("dataflows/7")).await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
            let kept = taken.runs["x"][0].clone();
            taken.runs.insert("x".into(), vec![kept, run(&[&format!("c{n}")])]);
            new.write(&taken).await.unwrap();
            let checked = crate::check(&root).await.unwrap();
            assert_eq!(checked.problems, Vec::<String>::new());
        }
        let last_root = root.same_store();
        last_root.claim().await.unwrap();
        let (_, found) = CheckpointStore::open(last_root.child("dataflows/7")).await.unwrap();
        assert_eq!(rows(&found.unwrap(), "x"), ["a", "c8"]);
        remove_all(&last_root.child("dataflows/7")).await.unwrap();
        assert_eq!(last_root.child("dataflows").list().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn packs_of_a_later_server_are_let_be() {
        let root = Root::memory();
        root.claim().await.unwrap();
        let (mut store, _) = CheckpointStore::open(root.child("x")).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        checkpoint.runs.insert("x".into(), vec![run(&["a"])]);
        store.write(&checkpoint).await.unwrap();
        // The next one has claimed, and written what it is about to name.
        let later = (2 << TERM_SHIFT) + 5;
        root.child("x").put(&pack_name(later), "later".into()).await.unwrap();
        let (mut store, _) = CheckpointStore::open(root.child("x")).await.unwrap();
        assert_eq!(store.next_pack, (1 << TERM_SHIFT) + 1);
        checkpoint.runs.insert("x".into(), vec![run(&["b"])]);
        store.write(&checkpoint).await.unwrap();
        assert_eq!(root.child("x").get(&pack_name(later)).await.unwrap().as_deref(), Some(&b"later"[..]));
    }

    #[tokio::test]
    async fn run_that_comes_back_is_written_again() {
        let root = Root::memory();
        let (mut store, _) = CheckpointStore::open(root.clone()).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        let returning = run(&["a"]);
        checkpoint.runs.insert("x".into(), vec![returning.clone()]);
        store.write(&checkpoint).await.unwrap();
        for n in 0..4 {
            checkpoint.runs.insert("x".into(), vec![run(&[&format!("b{n}")])]);
            store.write(&checkpoint).await.unwrap();
        }
        checkpoint.runs.insert("x".into(), vec![returning]);
        store.write(&checkpoint).await.unwrap();
        assert_eq!(crate::check(&root).await.unwrap().problems, Vec::<String>::new());
        let (_, found) = CheckpointStore::open(root).await.unwrap();
        assert_eq!(rows(&found.unwrap(), "x"), ["a"]);
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
