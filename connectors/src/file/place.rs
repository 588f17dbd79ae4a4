//! Where a sink's files go: a local directory or a bucket. What is there is there as a whole, and stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, WriteMultipart};
use tidemill_core::source::ConnectorError;
use tidemill_core::{SqlState, crash_point};

use crate::file::io_error;

/// What is longer than this goes to a store in pieces of this length, several at once.
const PIECE_BYTES: usize = 16 << 20;
const N_PIECES: usize = 4;
/// How many files go to a store at once.
const N_FILES: usize = 8;

/// A place for files, which have names relative to it.
#[derive(Debug, Clone)]
pub enum Place {
    Directory(PathBuf),
    Bucket { url: String, store: Arc<AmazonS3>, prefix: String },
}

/// A file to be written.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: String,
    pub bytes: Bytes,
}

impl Place {
    /// As messages name it.
    pub fn name(&self) -> String {
        match self {
            Place::Directory(directory) => directory.display().to_string(),
            Place::Bucket { url, .. } => url.clone(),
        }
    }

    /// Whether files can be written and removed.
    pub async fn probe(&self, name: &str) -> Result<(), ConnectorError> {
        let probe = Named { name: name.to_owned(), bytes: Bytes::from_static(b"probe\n") };
        self.put_all(vec![probe]).await?;
        self.delete(name).await
    }

    /// A file's content, or `None` where there is no such file.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, ConnectorError> {
        match self {
            Place::Directory(directory) => {
                let path = directory.join(name);
                match fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(io_error("read", &path.to_string_lossy(), &error)),
                }
            }
            Place::Bucket { store, .. } => {
                let path = self.object(name)?;
                let found = async { store.get(&path).await?.bytes().await };
                match found.await {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(self.error("read", name, &error)),
                }
            }
        }
    }

    /// Writes files: each appears as a whole, in the place of one of its name, and all are durable on return.
    pub async fn put_all(&self, files: Vec<Named>) -> Result<(), ConnectorError> {
        match self {
            Place::Directory(directory) => {
                let directory = directory.clone();
                let written = tokio::task::spawn_blocking(move || write_local(&directory, &files));
                written.await.map_err(|error| {
                    let message = format!("writing to \"{}\" broke off: {error}", self.name());
                    ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
                })?
            }
            Place::Bucket { .. } => {
                let puts = files.into_iter().map(|file| self.put_object(file));
                stream::iter(puts.collect::<Vec<_>>()).buffer_unordered(N_FILES).try_collect().await
            }
        }
    }

    async fn put_object(&self, file: Named) -> Result<(), ConnectorError> {
        let Place::Bucket { store, .. } = self else { unreachable!("only a bucket has objects") };
        let path = self.object(&file.name)?;
        let written = async {
            if file.bytes.len() <= PIECE_BYTES {
                return store.put(&path, file.bytes.into()).await;
            }
            // It appears when it is finished.
            let upload = store.put_multipart(&path).await?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES);
            let mut rest = file.bytes;
            while !rest.is_empty() {
                upload.wait_for_capacity(N_PIECES).await?;
                upload.put(rest.split_to(rest.len().min(PIECE_BYTES)));
            }
            upload.finish().await
        };
        written.await.map(drop).map_err(|error| self.error("write", &file.name, &error))
    }

    /// Removes a file, if it is there.
    pub async fn delete(&self, name: &str) -> Result<(), ConnectorError> {
        match self {
            Place::Directory(directory) => {
                let path = directory.join(name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        Err(io_error("remove", &path.to_string_lossy(), &error))
                    }
                    _ => Ok(()),
                }
            }
            Place::Bucket { store, .. } => match store.delete(&self.object(name)?).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.error("remove", name, &error)),
            },
        }
    }

    fn object(&self, name: &str) -> Result<ObjectPath, ConnectorError> {
        let Place::Bucket { prefix, .. } = self else { unreachable!("only a bucket has objects") };
        // The names are escaped already.
        ObjectPath::parse(format!("{prefix}/{name}")).map_err(|error| {
            let message = format!("\"{name}\" cannot be the name of an object: {error}");
            ConnectorError::fatal(SqlState::DATA_EXCEPTION, message)
        })
    }

    fn error(&self, what: &str, name: &str, error: &object_store::Error) -> ConnectorError {
        use object_store::Error as E;
        let message = format!("cannot {what} \"{}/{name}\": {}", self.name(), reason(error));
        match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                ConnectorError::fatal(SqlState::INVALID_AUTHORIZATION, message).with_hint(
                    "The server signs with s3.access_key_id and s3.secret_access_key of the sink, or with what its environment \
                     says. It needs the right to read, write and delete objects.",
                )
            }
            E::NotFound { .. } => {
                ConnectorError::fatal(SqlState::UNDEFINED_TABLE, message).with_hint("Does the bucket exist?")
            }
            _ => ConnectorError::transient(SqlState::IO_ERROR, message),
        }
    }
}

/// The last of an error's reasons, which says what it was.
fn reason(error: &object_store::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

/// Each file is written under a hidden name, synced and renamed, and its directory synced: whoever lists the
/// directory sees whole files only.
fn write_local(directory: &Path, files: &[Named]) -> Result<(), ConnectorError> {
    let mut changed: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files {
        let path = directory.join(&file.name);
        let failed = |error| io_error("write", &path.to_string_lossy(), &error);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            unreachable!("a file has a name, and is in the directory");
        };
        make_directory(parent, &mut changed).map_err(failed)?;
        let hidden = parent.join(format!(".{}.tmp", name.to_string_lossy()));
        let write = || {
            let mut out = File::create(&hidden)?;
            out.write_all(&file.bytes)?;
            out.sync_all()?;
            crash_point("file.hidden");
            fs::rename(&hidden, &path)
        };
        write().map_err(failed)?;
        changed.insert(parent.to_owned());
    }
    for directory in changed {
        let synced = File::open(&directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| io_error("sync", &directory.to_string_lossy(), &error))?;
    }
    Ok(())
}

/// A new directory is durable only when the one that it is in is.
fn make_directory(directory: &Path, changed: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent, changed)?;
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        changed.insert(parent.to_owned());
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        outcome => outcome,
    }
}
