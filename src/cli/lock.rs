//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use tidemill_core::{Diagnostic, SqlState};

/// Held while this lives. The operating system lets go of it when the process dies, however it does.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why a data directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("data directory \"{}\" is in use by another tidemill{}", dir.display(), process(*pid))]
    Taken { dir: PathBuf, pid: Option<u32> },
    #[error("cannot use data directory \"{}\": {source}", dir.display())]
    Io { dir: PathBuf, source: std::io::Error },
}

impl Diagnostic for LockError {
    fn sqlstate(&self) -> SqlState {
        match self {
            LockError::Taken { .. } => SqlState::OBJECT_IN_USE,
            LockError::Io { .. } => SqlState::IO_ERROR,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LockError::Taken { .. } => {
                Some("Connect to that one with \"tidemill shell\", stop it, or name another --data.".into())
            }
            LockError::Io { .. } => None,
        }
    }
}

impl DataLock {
    /// Creates the directory if need be, and takes it. What is not a local directory has its lock in
    /// its manifests.
    pub fn acquire(data: &str) -> Result<Option<DataLock>, LockError> {
        let Some(dir) = local_dir(data) else { return Ok(None) };
        let io = |source| LockError::Io { dir: dir.clone(), source };
        create_private(&dir).map_err(io)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("LOCK"))
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who it is is said if it can be; that it is taken is certain.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Taken { dir, pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Some(DataLock { _file: file }))
    }
}

/// The directory that `data` means, unless it is the URL of something else.
pub fn local_dir(data: &str) -> Option<PathBuf> {
    match data.split_once("://") {
        Some(("file", path)) => Some(Path::new(path).to_owned()),
        Some(_) => None,
        None => Some(Path::new(data).to_owned()),
    }
}

/// Makes a directory that nobody else can read: everybody's rows are in it. One that is there is left as it is.
fn create_private(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    }
    builder.create(dir)
}

fn process(pid: Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_once() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let data = dir.to_str().unwrap();
        let first = DataLock::acquire(data).unwrap();
        #[cfg(unix)]
        {
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&dir).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o700);
        }
        let error = DataLock::acquire(&format!("file://{data}")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "data directory \"{data}\" is in use by another tidemill (process {})",
                std::process::id()
            )
        );
        assert!(error.hint().unwrap().contains("--data"));
        drop(first);
        DataLock::acquire(data).unwrap().unwrap();
        assert!(DataLock::acquire("s3://bucket/prefix").unwrap().is_none());

        std::fs::write(parent.path().join("file"), "").unwrap();
        let error = DataLock::acquire(parent.path().join("file").to_str().unwrap()).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
    }
}
