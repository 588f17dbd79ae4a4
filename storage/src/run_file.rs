//! A run in a file of its own, written while runs are merged and mapped from then on.
//!
//! The file is made as long as the run can become, with its blocks allocated, so that a full disk is an
//! error here and not a fault of a write to memory later. What is left over at its end is cut off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use memmap2::{Mmap, MmapMut};

use crate::Error;
use crate::run::{HEADER_BYTES, RUN_BYTES_MAX, Rows, Run, Sections, head};

/// The local directory for files of state that need not survive the process.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    next: AtomicU64,
    /// Held as long as somebody uses the directory: others tell by it that it is not garbage.
    _lock: File,
}

/// The name of the file in a scratch directory that its process has locked.
const LOCK: &str = "LOCK";

impl Scratch {
    /// Makes a directory of this process's own below `parent`. What others left there is removed.
    pub fn open(parent: &Path) -> Result<Scratch, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let left = std::fs::read_dir(parent).into_iter().flatten().flatten();
        for entry in left.filter(|entry| is_garbage(&entry.path())) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
        let own = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(own);
        let make = || -> std::io::Result<File> {
            std::fs::create_dir_all(&directory)?;
            let lock = File::create(directory.join(LOCK))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = make().map_err(|source| file_error("created", &directory, source))?;
        Ok(Scratch { directory, next: AtomicU64::new(0), _lock: lock })
    }

    fn next_path(&self) -> PathBuf {
        self.directory.join(format!("{:020}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new file of `len` bytes, which are zeros until they are written.
    pub(crate) fn file(&self, len: u64) -> Result<ScratchFile, Error> {
        let path = self.next_path();
        let open = || {
            let file = create(&path)?;
            // The handle, and later the mapping, hold on to it.
            std::fs::remove_file(&path)?;
            file.set_len(len)?;
            Ok(file)
        };
        let file = open().map_err(|source| file_error("created", &path, source))?;
        Ok(ScratchFile { file, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Whether nobody uses a scratch directory any more.
fn is_garbage(directory: &Path) -> bool {
    match File::open(directory.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Of a process that was killed before it had made its lock, or that is just about to make it.
        Err(_) => directory.metadata().and_then(|data| data.modified()).is_ok_and(|modified| {
            modified.elapsed().is_ok_and(|age| age > std::time::Duration::from_secs(60))
        }),
    }
}

/// A file without a name, gone with whoever has it open or mapped.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    file: File,
    /// For messages.
    path: PathBuf,
}

impl ScratchFile {
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, at).map_err(|source| file_error("written", &self.path, source))
    }

    /// What was written, mapped.
    pub fn finish(self) -> Result<Bytes, Error> {
        let mapped = map(&self.file).map_err(|source| file_error("mapped", &self.path, source))?;
        Ok(Bytes::from_owner(mapped))
    }
}

/// The file of one run. It is removed with its last user.
#[derive(Debug)]
pub(crate) struct RunFile {
    pub path: PathBuf,
    pub len: u64,
}

impl RunFile {
    /// Makes its content survive a power failure.
    pub fn sync(&self) -> Result<(), Error> {
        let sync = || File::open(&self.path)?.sync_data();
        sync().map_err(|source| file_error("synced", &self.path, source))
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Builds a run in a file from rows that come in ascending order.
#[derive(Debug)]
pub(crate) struct RunFileBuilder {
    file: Arc<RunFile>,
    handle: File,
    map: MmapMut,
    sections: Sections,
    n_rows_max: usize,
    weights_at: usize,
    all_one: bool,
}

impl RunFileBuilder {
    /// For at most `n_rows` rows of `n_bytes` together, of which all begin with the same `n_shared` bytes.
    pub fn new(
        scratch: &Scratch,
        n_rows: usize,
        n_bytes: usize,
        n_shared: usize,
    ) -> Result<RunFileBuilder, Error> {
        assert!(n_bytes <= RUN_BYTES_MAX, "a run is bounded by its offsets");
        let most = Sections::packed(n_rows, n_bytes, n_shared, true);
        let path = scratch.next_path();
        let error = |source| file_error("written", &path, source);
        let handle = create(&path).map_err(error)?;
        let file = Arc::new(RunFile { path: path.clone(), len: 0 });
        allocate(&handle, most.len() as u64).map_err(error)?;
        // SAFETY: the file is new, its name is known to nobody else, and it is not made shorter than what
        // is read of it while it is mapped.
        let map = unsafe { MmapMut::map_mut(&handle) }.map_err(error)?;
        let weights_at = most.weights_at.expect("asked for");
        Ok(RunFileBuilder {
            file,
            handle,
            map,
            sections: Sections { n_rows: 0, n_bytes: 0, ..most },
            n_rows_max: n_rows,
            weights_at,
            all_one: true,
        })
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.map[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn finish(mut self) -> Result<Arc<Run>, Error> {
        let Sections { n_rows, n_bytes, offsets_at, rows_at, .. } = self.sections;
        self.sections.weights_at = (!self.all_one).then_some(self.weights_at);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.map[HEADER_BYTES..HEADER_BYTES + n_rows * 8]);
        hasher.update(&self.map[offsets_at..offsets_at + (n_rows + 1) * 4]);
        if let Some(at) = self.sections.weights_at {
            hasher.update(&self.map[at..at + n_rows * 8]);
        }
        hasher.update(&self.map[rows_at..rows_at + n_bytes]);
        let header = self.sections.header(hasher.finalize());
        self.put(0, &header);
        let len = self.sections.len();
        let path = self.file.path.clone();
        let error = |source| file_error("written", &path, source);
        let map = self.map.make_read_only().map_err(error)?;
        self.handle.set_len(len as u64).map_err(error)?;
        let mut file = self.file;
        Arc::get_mut(&mut file).expect("nobody else has it yet").len = len as u64;
        let content = Bytes::from_owner(map).slice(..len);
        Ok(Arc::new(Run::in_file(self.sections, content, file)))
    }
}

impl Rows for RunFileBuilder {
    fn push(&mut self, row: &[u8], weight: i64) {
        if weight == 0 {
            return;
        }
        let Sections { n_rows, n_bytes, n_shared, offsets_at, rows_at, .. } = self.sections;
        assert!(n_rows < self.n_rows_max, "there are no more rows than were announced");
        self.put(HEADER_BYTES + n_rows * 8, &head(row, n_shared).to_le_bytes());
        self.put(rows_at + n_bytes, row);
        let end = n_bytes + row.len();
        self.put(offsets_at + (n_rows + 1) * 4, &(end as u32).to_le_bytes());
        self.put(self.weights_at + n_rows * 8, &weight.to_le_bytes());
        self.sections.n_rows = n_rows + 1;
        self.sections.n_bytes = end;
        self.all_one &= weight == 1;
    }
}

fn allocate(file: &File, len: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        // Some file systems cannot; there a full disk ends the process, and the checkpoint is what counts.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(len),
        outcome => Ok(outcome?),
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(path)
}

/// Maps a file that is not changed any more.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: files of state are written once; who changes them nevertheless does what no program survives.
    unsafe { Mmap::map(file) }
}

pub(crate) fn file_error(verb: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { verb, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunBuilder;

    #[test]
    fn run_in_a_file_is_the_run_on_the_heap() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(&directory.path().join("state")).unwrap();
        for weights in [[1, 1, 1], [1, 0, -3]] {
            let rows = [&b"shared-a"[..], b"shared-b", b"shared-c"];
            let mut on_heap = RunBuilder::with_capacity(0, 0);
            let mut in_file = RunFileBuilder::new(&scratch, 5, 100, 6).unwrap();
            for (row, weight) in rows.iter().zip(weights) {
                on_heap.push(row, weight);
                in_file.push(row, weight);
            }
            let (on_heap, in_file) = (on_heap.finish(), in_file.finish().unwrap());
            let all = |run: &Run| -> Vec<_> {
                (0..run.len()).map(|idx| (run.row(idx).to_vec(), run.weight(idx))).collect()
            };
            assert_eq!(all(&in_file), all(&on_heap));
            assert_eq!((in_file.heap_size(), in_file.is_insertions()), (0, on_heap.is_insertions()));
            for key in ["", "shared", "shared-a", "shared-b", "shared-bb", "t"] {
                assert_eq!(in_file.lower_bound(key.as_bytes(), 0), on_heap.lower_bound(key.as_bytes(), 0));
            }
            // The file can be read as it is, and in pieces.
            let path = in_file.file().unwrap().path.clone();
            let content = Bytes::from(std::fs::read(&path).unwrap());
            assert_eq!(content.len() as u64, in_file.file().unwrap().len);
            assert_eq!(all(&Run::from_bytes("x", content).unwrap()), all(&on_heap));
            assert_eq!(all(&Run::from_bytes("x", in_file.to_bytes()).unwrap()), all(&on_heap));
            drop(in_file);
            assert!(!path.exists());
        }
    }
}
