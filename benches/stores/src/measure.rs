//! What a process takes: time, memory, and bytes that go to disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Time by the clock, and for which a thread or process had a core.
#[derive(Debug, Default, Clone, Copy)]
pub struct Spent {
    pub wall: Duration,
    pub cpu: Duration,
}

impl Spent {
    /// Adds what `work` takes of this thread.
    pub fn by<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (began, cpu) = (Instant::now(), thread_cpu());
        let result = work();
        self.wall += began.elapsed();
        self.cpu += thread_cpu() - cpu;
        result
    }
}

pub fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

/// Of all threads, those that have ended included.
pub fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of memory, by their kind.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub resident: u64,
    /// Of that, what is in no file.
    pub anonymous: u64,
    /// The most there was since `forget_peak`.
    pub peak: u64,
}

pub fn memory() -> Memory {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux says so");
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    Memory { resident: of("VmRSS:"), anonymous: of("RssAnon:"), peak: of("VmHWM:") }
}

pub fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("a process may do so with itself");
}

/// Bytes that this process has changed in files, whenever the kernel writes them.
pub fn bytes_written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("Linux says so");
    line.parse().unwrap()
}

/// Bytes on disk below a directory; a file with several names counts once.
pub fn disk_bytes(directory: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let mut n_bytes = 0;
    each_file(directory, &mut |file| {
        // A store may remove files meanwhile.
        if let Ok(data) = fs::metadata(file)
            && seen.insert(data.ino())
        {
            n_bytes += data.blocks() * 512;
        }
    });
    n_bytes
}

/// Takes the files below a directory out of the page cache.
pub fn evict(directory: &Path) {
    each_file(directory, &mut |file| {
        let file = fs::File::open(file).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    });
}

fn each_file(directory: &Path, found: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => each_file(&entry.path(), found),
            Ok(kind) if kind.is_file() => found(&entry.path()),
            _ => (),
        }
    }
}
