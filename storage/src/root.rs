//! Where everything durable is: an object store, under a prefix.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};
use tokio::sync::watch;

use crate::run_file::{self, RunFile, Scratch, file_error};
use crate::{Error, claim, s3};

/// How a root is opened.
#[derive(Debug, Clone)]
pub struct RootOptions {
    /// The local directory for files of state, where the root is not one itself; without a name, one of the user's.
    pub cache: Option<PathBuf>,
    /// How many versions stay of what has versions, checkpoints above all.
    pub n_kept: u64,
    /// Where S3 is, instead of where the environment says.
    pub s3_endpoint: Option<String>,
    pub s3_region: Option<String>,
}

impl Default for RootOptions {
    fn default() -> RootOptions {
        RootOptions { cache: None, n_kept: 3, s3_endpoint: None, s3_region: None }
    }
}

/// An object store and the prefix of all our objects in it.
#[derive(Debug, Clone)]
pub struct Root {
    shared: Arc<Shared>,
    prefix: Path,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    /// What it is called.
    url: String,
    /// The directory, where the store is one: files in it are synced before we count on them.
    directory: Option<PathBuf>,
    /// How long the prefix is that all our objects have.
    n_prefix_parts: usize,
    scratch: Lazy,
    n_kept: u64,
    /// Since when this server has the root; see `claim.rs`.
    term: OnceLock<u64>,
    /// Who has it now, if that is somebody else.
    lost: watch::Sender<Option<String>>,
}

/// The name of the local directory for files that need not survive the process.
const SCRATCH: &str = "state";

/// What is longer than this is written and read in pieces of this length, several at once.
const PIECE_BYTES: usize = 16 << 20;
const N_PIECES: usize = 8;
/// Less than this between two pieces is read along.
const GAP_BYTES_MAX: u64 = 1 << 20;

/// How often a server looks whether it still has its root.
const CLAIM_LOOK: Duration = Duration::from_secs(5);

/// The scratch directory, made when it is first asked for: who only looks into a root must not empty it.
#[derive(Debug)]
struct Lazy {
    directory: PathBuf,
    opened: OnceLock<Arc<Scratch>>,
}

impl Lazy {
    fn new(directory: PathBuf) -> Lazy {
        Lazy { directory, opened: OnceLock::new() }
    }
}

impl Root {
    /// What `data` names: `s3://bucket/prefix`, or a local directory, with or without `file://`.
    pub fn open(data: &str, options: &RootOptions) -> Result<Root, Error> {
        match data.split_once("://") {
            None => Root::directory_with(FilePath::new(data), options),
            Some(("file", path)) => Root::directory_with(FilePath::new(path), options),
            Some(("s3", _)) => {
                let (store, prefix) = s3::open(data, options)?;
                let cache = options.cache.clone().unwrap_or_else(cache_of_user);
                Ok(Root::of_store(Arc::new(store), data, prefix, cache, options.n_kept))
            }
            Some((scheme, _)) => Err(Error::InvalidUrl {
                url: data.to_owned(),
                reason: format!("data cannot be kept at \"{scheme}://\""),
            }),
        }
    }

    /// A local directory, created if it is missing.
    pub fn local(directory: &FilePath) -> Result<Root, Error> {
        Root::directory_with(directory, &RootOptions::default())
    }

    fn directory_with(directory: &FilePath, options: &RootOptions) -> Result<Root, Error> {
        let file_error = |verb, source| Error::File { verb, path: directory.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(|e| file_error("created", e))?;
        let directory = directory.canonicalize().map_err(|e| file_error("found", e))?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(&directory).map_err(|source| {
            Error::Object { verb: "opened", path: directory.display().to_string(), source }
        })?;
        let shared = Shared {
            store: Arc::new(store),
            url: directory.display().to_string(),
            scratch: Lazy::new(directory.join(SCRATCH)),
            directory: Some(directory),
            n_prefix_parts: 0,
            n_kept: options.n_kept,
            term: OnceLock::new(),
            lost: watch::Sender::new(None),
        };
        Ok(Root { shared: Arc::new(shared), prefix: Path::default() })
    }

    /// Memory, for tests.
    pub fn memory() -> Root {
        let store = Arc::new(object_store::memory::InMemory::new());
        let cache = std::env::temp_dir().join("tidemill-memory");
        Root::of_store(store, "memory://", Path::default(), cache, RootOptions::default().n_kept)
    }

    /// Any object store; `url` is what it is called, `cache` is for files that need not survive.
    pub fn of_store(
        store: Arc<dyn ObjectStore>,
        url: &str,
        prefix: Path,
        cache: PathBuf,
        n_kept: u64,
    ) -> Root {
        let shared = Shared {
            store,
            url: url.trim_end_matches('/').to_owned(),
            directory: None,
            n_prefix_parts: prefix.parts().count(),
            scratch: Lazy::new(cache),
            n_kept,
            term: OnceLock::new(),
            lost: watch::Sender::new(None),
        };
        Root { shared: Arc::new(shared), prefix }
    }

    /// The same objects as another server sees them.
    #[cfg(test)]
    pub(crate) fn same_store(&self) -> Root {
        let shared = &self.shared;
        let cache = shared.scratch.directory.clone();
        Root::of_store(shared.store.clone(), &shared.url, self.prefix.clone(), cache, shared.n_kept)
    }

    /// The part of this root below `name`.
    pub fn child(&self, name: &str) -> Root {
        Root { prefix: self.path(name), ..self.clone() }
    }

    /// The local directory of this root, if it has one.
    pub fn directory(&self) -> Option<PathBuf> {
        self.shared.directory.as_ref().map(|directory| directory.join(self.prefix.as_ref()))
    }

    /// Where files go that need not survive the process. What an earlier process left there is removed.
    pub fn scratch(&self) -> Result<Arc<Scratch>, Error> {
        let lazy = &self.shared.scratch;
        if let Some(scratch) = lazy.opened.get() {
            return Ok(scratch.clone());
        }
        let scratch = Arc::new(Scratch::open(&lazy.directory)?);
        Ok(lazy.opened.get_or_init(|| scratch).clone())
    }

    fn path(&self, name: &str) -> Path {
        name.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The whole path of an object, for messages.
    pub fn display(&self, name: &str) -> String {
        let path = self.path(name);
        match &self.shared.directory {
            Some(directory) => directory.join(path.as_ref()).display().to_string(),
            None => {
                let ours = path.parts().skip(self.shared.n_prefix_parts);
                ours.fold(self.shared.url.clone(), |url, part| format!("{url}/{}", part.as_ref()))
            }
        }
    }

    /// How many versions stay of what has versions.
    pub(crate) fn n_kept(&self) -> u64 {
        self.shared.n_kept.max(1)
    }

    /// Makes this server the one that writes to the root. A directory has its lock; see [`Root::lost`] for the others.
    pub async fn claim(&self) -> Result<(), Error> {
        assert_eq!(self.path(""), self.whole().prefix, "a root is claimed as a whole");
        if self.shared.directory.is_some() {
            return Ok(());
        }
        self.probe().await?;
        let term = claim::claim(self).await?;
        self.shared.term.set(term).expect("a root is claimed once");
        Ok(())
    }

    /// All of it, if this is a part.
    fn whole(&self) -> Root {
        let prefix = self.prefix.parts().take(self.shared.n_prefix_parts).collect();
        Root { prefix, ..self.clone() }
    }

    /// The number of this server among those that have claimed the root; 0 where nobody has to.
    pub fn term(&self) -> u64 {
        self.shared.term.get().copied().unwrap_or(0)
    }

    /// [`Error::Fenced`] where another server has claimed the root.
    pub async fn check_claim(&self) -> Result<(), Error> {
        let term = self.term();
        if term == 0 {
            return Ok(());
        }
        if self.shared.lost.borrow().is_none() {
            let Some(by) = claim::successor(&self.whole(), term).await? else { return Ok(()) };
            self.shared.lost.send_replace(Some(by));
        }
        Err(self.fenced().expect("known by now"))
    }

    /// The error of who has lost the root, if that is known.
    pub(crate) fn fenced(&self) -> Option<Error> {
        let by = self.shared.lost.borrow().clone()?;
        Some(Error::Fenced { root: self.shared.url.clone(), by })
    }

    /// Waits until another server has the root, looking from time to time; gives the error to end with.
    pub async fn lost(&self) -> Error {
        let mut lost = self.shared.lost.subscribe();
        loop {
            if let Some(error) = self.fenced() {
                return error;
            }
            let look = async {
                match self.term() {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(CLAIM_LOOK).await,
                }
            };
            tokio::select! {
                () = look => {
                    // A store that does not answer says nothing about who has the root.
                    let _ = self.check_claim().await;
                }
                changed = lost.changed() => changed.expect("we have the sender"),
            }
        }
    }

    /// Makes sure that the store heeds conditions: one that ignores them would let two servers destroy each other's work.
    async fn probe(&self) -> Result<(), Error> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("probe/{}-{}", std::process::id(), now.as_nanos());
        let refused = || Error::NoConditionalPut { root: self.shared.url.clone() };
        let outcome = async {
            let first = self.put_with(&name, PutPayload::from_static(b"1"), PutMode::Create).await?;
            let second = self.put_with(&name, PutPayload::from_static(b"2"), PutMode::Create).await?;
            Ok(first && !second)
        };
        let outcome: Result<bool, Error> = outcome.await;
        let removed = self.delete(&name).await;
        match outcome {
            Ok(true) => removed,
            Ok(false) => Err(refused()),
            Err(Error::Object { source: object_store::Error::NotImplemented { .. }, .. }) => Err(refused()),
            Err(error) => match is_not_implemented(&error) {
                true => Err(refused()),
                false => Err(error),
            },
        }
    }

    /// An object's bytes, or `None` where there is no such object.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let error = |source| Error::Object { verb: "read", path: self.display(name), source };
        match self.shared.store.get(&self.path(name)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(error)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(error(source)),
        }
    }

    /// How long an object is, or `None` where there is no such object.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        match self.shared.store.head(&self.path(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Object { verb: "read", path: self.display(name), source }),
        }
    }

    /// An object as mapped memory, of which nothing is read before it is looked at, or `None` where there is no
    /// such object.
    pub async fn map(&self, name: &str) -> Result<Option<Bytes>, Error> {
        self.map_parts(name, &[Range { start: 0, end: u64::MAX }]).await
    }

    /// The same where only `parts` of it, ascending, are going to be read. Of an object that is not local they, and little
    /// more, are copied into the scratch directory first; all else reads as zeros. What is shorter than its last
    /// part gives less.
    pub(crate) async fn map_parts(&self, name: &str, parts: &[Range<u64>]) -> Result<Option<Bytes>, Error> {
        match &self.shared.directory {
            Some(_) => self.map_file(name),
            None => match self.size(name).await? {
                None => Ok(None),
                Some(size) => {
                    let within = |part: &Range<u64>| part.start.min(size)..part.end.min(size);
                    self.fetch(name, &parts.iter().map(within).collect::<Vec<_>>()).await
                }
            },
        }
    }

    fn map_file(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let path = PathBuf::from(self.display(name));
        match std::fs::File::open(&path) {
            Ok(file) => {
                let mapped = run_file::map(&file).map_err(|source| file_error("mapped", &path, source))?;
                Ok(Some(Bytes::from_owner(mapped)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file_error("opened", &path, source)),
        }
    }

    async fn fetch(&self, name: &str, parts: &[Range<u64>]) -> Result<Option<Bytes>, Error> {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match joined.last_mut() {
                Some(last) if part.start <= last.end + GAP_BYTES_MAX => last.end = last.end.max(part.end),
                _ => joined.push(part.clone()),
            }
        }
        let piece = PIECE_BYTES as u64;
        let pieces = joined.iter().flat_map(|part| {
            let starts = part.clone().step_by(PIECE_BYTES);
            starts.map(move |start| start..part.end.min(start + piece))
        });
        let path = self.path(name);
        let get = |piece: Range<u64>| {
            let path = &path;
            async move { Ok((piece.start, self.shared.store.get_range(path, piece).await?)) }
        };
        let file = self.scratch()?.file(joined.last().map_or(0, |last| last.end))?;
        let mut fetched = stream::iter(pieces.map(get).collect::<Vec<_>>()).buffer_unordered(N_PIECES);
        loop {
            match fetched.try_next().await {
                Ok(Some((start, bytes))) => file.write_at(start, &bytes)?,
                Ok(None) => break,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(source) => return Err(Error::Object { verb: "read", path: self.display(name), source }),
            }
        }
        drop(fetched);
        file.finish().map(Some)
    }

    /// The same bytes in a local file instead of in memory.
    pub(crate) async fn keep(&self, bytes: Bytes) -> Result<Bytes, Error> {
        let scratch = self.scratch()?;
        let write = move || {
            let file = scratch.file(bytes.len() as u64)?;
            file.write_at(0, &bytes)?;
            file.finish()
        };
        tokio::task::spawn_blocking(write).await.expect("writing a file does not panic")
    }

    /// Makes a local file an object; durable on return. Below a local root it gets another name and is not copied.
    pub(crate) async fn adopt(&self, name: &str, file: &Arc<RunFile>) -> Result<(), Error> {
        if self.shared.directory.is_none() {
            let content = std::fs::File::open(&file.path).and_then(|file| run_file::map(&file));
            let content = content.map_err(|source| file_error("mapped", &file.path, source))?;
            return self.put_pieces(name, vec![Bytes::from_owner(content)]).await;
        }
        let path = PathBuf::from(self.display(name));
        let file = file.clone();
        let link = move || -> Result<(), Error> {
            file.sync()?;
            let error = |source| file_error("linked", &path, source);
            let parent = path.parent().expect("a file is in a directory");
            std::fs::create_dir_all(parent).map_err(error)?;
            match std::fs::hard_link(&file.path, &path) {
                // What a failed checkpoint left; no manifest names it.
                Err(exists) if exists.kind() == std::io::ErrorKind::AlreadyExists => {
                    std::fs::remove_file(&path).map_err(error)?;
                    std::fs::hard_link(&file.path, &path).map_err(error)?;
                }
                outcome => outcome.map_err(error)?,
            }
            std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(error)
        };
        tokio::task::spawn_blocking(link).await.expect("linking does not panic")
    }

    /// Writes an object; durable on return.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        self.put_pieces(name, vec![bytes]).await
    }

    /// Writes an object out of pieces, which are not copied; durable on return.
    pub(crate) async fn put_pieces(&self, name: &str, pieces: Vec<Bytes>) -> Result<(), Error> {
        let n_bytes: usize = pieces.iter().map(Bytes::len).sum();
        if self.shared.directory.is_some() || n_bytes <= 4 * PIECE_BYTES {
            return self.put_with(name, pieces.into_iter().collect(), PutMode::Overwrite).await.map(drop);
        }
        let write = async {
            let upload = self.shared.store.put_multipart(&self.path(name)).await?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES);
            for piece in pieces {
                let mut rest = piece;
                while !rest.is_empty() {
                    upload.wait_for_capacity(N_PIECES).await?;
                    upload.put(rest.split_to(rest.len().min(PIECE_BYTES)));
                }
            }
            upload.finish().await
        };
        let written = write.await;
        written.map(drop).map_err(|source| Error::Object {
            verb: "written",
            path: self.display(name),
            source,
        })
    }

    /// Writes an object unless it exists; says whether it did. Durable on return.
    ///
    /// In an object store an answer can get lost, and the same write that is tried again then finds itself. So what
    /// is written there must be told from what anybody else writes.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<bool, Error> {
        let mut n_tries = 0;
        loop {
            if self.put_with(name, bytes.clone().into(), PutMode::Create).await? {
                return Ok(true);
            }
            if self.shared.directory.is_some() {
                return Ok(false);
            }
            n_tries += 1;
            match self.get(name).await? {
                Some(found) => return Ok(found == bytes),
                // Of two writes at once a store may refuse both.
                None if n_tries < 10 => tokio::time::sleep(Duration::from_millis(20 * n_tries)).await,
                None => return Ok(false),
            }
        }
    }

    async fn put_with(&self, name: &str, payload: PutPayload, mode: PutMode) -> Result<bool, Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.shared.store.put_opts(&self.path(name), payload, options).await {
            Ok(_) => self.sync(name).await.map(|()| true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(Error::Object { verb: "written", path: self.display(name), source }),
        }
    }

    /// Makes a written file survive a power failure; object stores do so by themselves.
    async fn sync(&self, name: &str) -> Result<(), Error> {
        if self.shared.directory.is_none() {
            return Ok(());
        }
        let path = PathBuf::from(self.display(name));
        let sync = move || -> Result<(), Error> {
            let error = |source| Error::File { verb: "synced", path: path.display().to_string(), source };
            std::fs::File::open(&path).and_then(|file| file.sync_data()).map_err(error)?;
            let parent = path.parent().expect("a file is in a directory");
            std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(error)
        };
        tokio::task::spawn_blocking(sync).await.expect("syncing does not panic")
    }

    /// The names of all objects below this root, relative to it, in order.
    pub async fn list(&self) -> Result<Vec<String>, Error> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let found: Vec<_> =
            self.shared.store.list(prefix).try_collect().await.map_err(|source| Error::Object {
                verb: "listed",
                path: self.display(""),
                source,
            })?;
        let n_prefix_parts = self.prefix.parts().count();
        let relative = |path: &Path| -> String {
            let parts: Vec<_> =
                path.parts().skip(n_prefix_parts).map(|part| part.as_ref().to_owned()).collect();
            parts.join("/")
        };
        let mut names: Vec<String> = found.iter().map(|object| relative(&object.location)).collect();
        names.sort();
        Ok(names)
    }

    /// Removes an object; one that does not exist is fine.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        self.delete_all(vec![name.to_owned()]).await
    }

    /// Removes objects, in their order where the store is a directory; what does not exist is fine.
    pub(crate) async fn delete_all(&self, names: Vec<String>) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let first = self.display(&names[0]);
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        let mut deleted = self.shared.store.delete_stream(stream::iter(paths).boxed());
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => (),
                Err(source) => return Err(Error::Object { verb: "deleted", path: first, source }),
            }
        }
        Ok(())
    }
}

/// Whether the answer was that the server does not know what it was asked for, as of stores without conditions.
fn is_not_implemented(error: &Error) -> bool {
    let text = std::error::Error::source(error).map(|source| source.to_string()).unwrap_or_default();
    text.contains("501 Not Implemented") || text.contains("<Code>NotImplemented</Code>")
}

/// A directory of the user's own that need not be saved.
fn cache_of_user() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| FilePath::new(&home).join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("tidemill").join(SCRATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Troubled;

    #[tokio::test]
    async fn only_the_parts_that_are_read_are_fetched() {
        let root = Root::memory();
        let n_bytes = 3 * GAP_BYTES_MAX;
        let content: Bytes = (0..n_bytes).map(|at| (at % 251) as u8 + 1).collect::<Vec<_>>().into();
        root.put("x", content.clone()).await.unwrap();
        let mapped = root.map_parts("x", &[10..20, 30..40, n_bytes - 5..n_bytes]).await.unwrap().unwrap();
        assert_eq!(mapped.len(), content.len());
        assert_eq!(mapped[10..40], content[10..40]);
        assert_eq!(mapped[content.len() - 5..], content[content.len() - 5..]);
        assert_eq!(mapped[100], 0);
        // One that is shorter than it should be gives what there is.
        assert_eq!(root.map_parts("x", &[10..20, 30..n_bytes + 9]).await.unwrap().unwrap(), {
            let mut expected = content.to_vec();
            expected[..10].fill(0);
            expected
        });
        assert_eq!(root.map("x").await.unwrap(), Some(content));
        assert_eq!(root.map("y").await.unwrap(), None);
    }

    #[tokio::test]
    async fn long_objects_go_out_in_pieces() {
        let root = Root::memory();
        let pieces: Vec<Bytes> = (0..5u8).map(|n| vec![n; PIECE_BYTES + 1].into()).collect();
        root.put_pieces("x", pieces.clone()).await.unwrap();
        assert_eq!(root.get("x").await.unwrap().unwrap(), pieces.concat());
        assert_eq!(root.map("x").await.unwrap().unwrap(), pieces.concat());
    }

    #[tokio::test]
    async fn last_server_has_the_root() {
        let first = Root::memory();
        first.claim().await.unwrap();
        first.check_claim().await.unwrap();
        let second = first.same_store();
        second.claim().await.unwrap();
        let third = second.same_store();
        third.claim().await.unwrap();
        assert_eq!((first.term(), second.term(), third.term()), (1, 2, 3));
        third.child("x").check_claim().await.unwrap();
        for old in [first, second] {
            let error = old.child("x").check_claim().await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
            old.lost().await;
        }
    }

    #[tokio::test]
    async fn store_that_ignores_conditions_is_refused() {
        let store = Arc::new(Troubled::unconditional());
        let root = Root::of_store(store, "s3://b", Path::default(), std::env::temp_dir(), 3);
        let error = root.claim().await.unwrap_err();
        assert!(matches!(error, Error::NoConditionalPut { .. }), "{error:?}");
        assert_eq!(root.list().await.unwrap(), Vec::<String>::new());
    }
}
