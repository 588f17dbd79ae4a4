//! Where everything durable is: an object store, under a prefix.

use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::Error;
use crate::run_file::{self, RunFile, Scratch, file_error};

/// An object store and the prefix of all our objects in it.
#[derive(Debug, Clone)]
pub struct Root {
    store: Arc<dyn ObjectStore>,
    /// The directory, where the store is one: files in it are synced before we count on them.
    directory: Option<PathBuf>,
    scratch: Arc<Lazy>,
    prefix: Path,
}

/// The name of the local directory for files that need not survive the process.
const SCRATCH: &str = "state";

/// The scratch directory, made when it is first asked for: who only looks into a root must not empty it.
#[derive(Debug)]
struct Lazy {
    directory: PathBuf,
    opened: OnceLock<Arc<Scratch>>,
}

impl Root {
    /// A local directory, created if it is missing.
    pub fn local(directory: &FilePath) -> Result<Root, Error> {
        let file_error = |verb, source| Error::File { verb, path: directory.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(|e| file_error("created", e))?;
        let directory = directory.canonicalize().map_err(|e| file_error("found", e))?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(&directory).map_err(|source| {
            Error::Object { verb: "opened", path: directory.display().to_string(), source }
        })?;
        Ok(Root {
            store: Arc::new(store),
            scratch: Arc::new(Lazy { directory: directory.join(SCRATCH), opened: OnceLock::new() }),
            directory: Some(directory),
            prefix: Path::default(),
        })
    }

    /// Memory, for tests.
    pub fn memory() -> Root {
        Root {
            store: Arc::new(object_store::memory::InMemory::new()),
            scratch: Arc::new(Lazy {
                directory: std::env::temp_dir().join(format!("tidemill-{}", std::process::id())),
                opened: OnceLock::new(),
            }),
            directory: None,
            prefix: Path::default(),
        }
    }

    /// The part of this root below `name`.
    pub fn child(&self, name: &str) -> Root {
        Root { prefix: self.path(name), ..self.clone() }
    }

    /// The local directory of this root, if it has one.
    pub fn directory(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(self.prefix.as_ref()))
    }

    /// Where files go that need not survive the process. What an earlier process left there is removed.
    pub fn scratch(&self) -> Result<Arc<Scratch>, Error> {
        if let Some(scratch) = self.scratch.opened.get() {
            return Ok(scratch.clone());
        }
        let scratch = Arc::new(Scratch::open(&self.scratch.directory)?);
        Ok(self.scratch.opened.get_or_init(|| scratch).clone())
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The whole path of an object, for messages.
    pub fn display(&self, name: &str) -> String {
        let path = self.path(name);
        match &self.directory {
            Some(directory) => directory.join(path.as_ref()).display().to_string(),
            None => path.to_string(),
        }
    }

    /// An object's bytes, or `None` where there is no such object.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let error = |source| Error::Object { verb: "read", path: self.display(name), source };
        match self.store.get(&self.path(name)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(error)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(error(source)),
        }
    }

    /// An object as mapped memory, of which nothing is read before it is looked at, or `None` where there is no
    /// such object. What is not local is first copied into the scratch directory.
    pub async fn map(&self, name: &str) -> Result<Option<Bytes>, Error> {
        if let Some(directory) = &self.directory {
            let path = directory.join(self.path(name).as_ref());
            return match std::fs::File::open(&path) {
                Ok(file) => {
                    let mapped =
                        run_file::map(&file).map_err(|source| file_error("mapped", &path, source))?;
                    Ok(Some(Bytes::from_owner(mapped)))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(file_error("opened", &path, source)),
            };
        }
        let error = |source| Error::Object { verb: "read", path: self.display(name), source };
        let mut content = match self.store.get(&self.path(name)).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        let mut file = self.scratch()?.file()?;
        while let Some(piece) = content.try_next().await.map_err(error)? {
            file.push(&piece)?;
        }
        file.finish().map(Some)
    }

    /// Makes a local file an object; durable on return. Below a local root it gets another name and is not copied.
    pub(crate) async fn adopt(&self, name: &str, file: &Arc<RunFile>) -> Result<(), Error> {
        let Some(directory) = &self.directory else {
            let content = std::fs::File::open(&file.path).and_then(|file| run_file::map(&file));
            let content = content.map_err(|source| file_error("mapped", &file.path, source))?;
            return self.put_pieces(name, vec![Bytes::from_owner(content)]).await;
        };
        let path = directory.join(self.path(name).as_ref());
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
        self.put_with(name, pieces.into_iter().collect(), PutMode::Overwrite).await.map(drop)
    }

    /// Writes an object unless it exists; says whether it did. Durable on return.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<bool, Error> {
        self.put_with(name, bytes.into(), PutMode::Create).await
    }

    async fn put_with(&self, name: &str, payload: PutPayload, mode: PutMode) -> Result<bool, Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.path(name), payload, options).await {
            Ok(_) => self.sync(name).await.map(|()| true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(Error::Object { verb: "written", path: self.display(name), source }),
        }
    }

    /// Makes a written file survive a power failure; object stores do so by themselves.
    async fn sync(&self, name: &str) -> Result<(), Error> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(self.path(name).as_ref());
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
        let found: Vec<_> = self.store.list(prefix).try_collect().await.map_err(|source| Error::Object {
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
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Object { verb: "deleted", path: self.display(name), source }),
        }
    }
}
