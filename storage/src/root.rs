//! Where everything durable is: an object store, under a prefix.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::Error;

/// An object store and the prefix of all our objects in it.
#[derive(Debug, Clone)]
pub struct Root {
    store: Arc<dyn ObjectStore>,
    /// The directory, where the store is one: files in it are synced before we count on them.
    directory: Option<PathBuf>,
    prefix: Path,
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
        Ok(Root { store: Arc::new(store), directory: Some(directory), prefix: Path::default() })
    }

    /// Memory, for tests.
    pub fn memory() -> Root {
        Root {
            store: Arc::new(object_store::memory::InMemory::new()),
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

    /// Writes an object; durable on return.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        self.put_with(name, bytes, PutMode::Overwrite).await.map(drop)
    }

    /// Writes an object unless it exists; says whether it did. Durable on return.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<bool, Error> {
        self.put_with(name, bytes, PutMode::Create).await
    }

    async fn put_with(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<bool, Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.path(name), PutPayload::from_bytes(bytes), options).await {
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
