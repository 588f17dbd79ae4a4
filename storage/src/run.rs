//! A run: sorted rows with their weights, written once and never changed.
//!
//! ```text
//! header, 64 bytes │ heads u64 × n │ offsets u32 × (n + 1) │ weights i64 × n, if flagged │ row bytes
//! ```
//!
//! All numbers are little-endian, and sections begin at multiples of 8. Rows ascend as bytes and none
//! stands twice; no weight is zero. Most runs hold insertions only, and then the weights, all 1, are left
//! out. A row's *head* is the 8 bytes behind the prefix that all rows of the run share, so that most comparisons
//! of a search touch one dense array.
//!
//! What is in memory is what is in a file: a run is read where it lies, on the heap or in a mapped file. So
//! opening a file of state reads its header, however long it is, and the kernel's page cache decides which
//! parts of it take memory.

use std::sync::{Arc, Mutex, OnceLock};

use arrow::buffer::{Buffer, ScalarBuffer};
use bytes::Bytes;

use crate::Error;
use crate::budget::Charge;
use crate::run_file::RunFile;

#[cfg(target_endian = "big")]
compile_error!("runs are little-endian, in memory as in files");

/// Where a run is durable: a part of a pack (see [`CheckpointStore`](crate::CheckpointStore)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct RunId {
    pub pack: u64,
    pub offset: u64,
    pub len: u64,
}

/// The longest that the rows of one run may be together. Offsets are 32 bits wide.
pub(crate) const RUN_BYTES_MAX: usize = 1 << 31;

const MAGIC: &[u8; 5] = b"TMRUN";
const VERSION: u8 = 2;
const HAS_WEIGHTS: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 64;

/// Sorted, consolidated rows.
#[derive(Debug)]
pub struct Run {
    heads: ScalarBuffer<u64>,
    offsets: ScalarBuffer<u32>,
    /// Empty where every weight is 1.
    weights: ScalarBuffer<i64>,
    rows: Buffer,
    n_shared: usize,
    home: Home,
    place: Mutex<Option<Place>>,
    /// Whose memory it takes.
    charge: OnceLock<Charge>,
}

/// What a run's bytes are part of.
#[derive(Debug, Clone)]
enum Home {
    Heap,
    /// A file of its own.
    File(Arc<RunFile>),
    /// A mapped file that somebody else keeps.
    Mapped,
}

/// Where a run is durable.
#[derive(Debug, Clone)]
struct Place {
    store: u64,
    id: RunId,
    /// What is there, where it can be read without being fetched.
    mapped: Option<Bytes>,
}

/// Where the sections of a run begin, and what its header says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sections {
    pub n_rows: usize,
    pub n_bytes: usize,
    pub n_shared: usize,
    pub offsets_at: usize,
    /// `None` where every weight is 1.
    pub weights_at: Option<usize>,
    pub rows_at: usize,
}

impl Sections {
    /// The sections of a run of so many rows, one behind the other.
    pub fn packed(n_rows: usize, n_bytes: usize, n_shared: usize, has_weights: bool) -> Sections {
        let offsets_at = HEADER_BYTES + n_rows * 8;
        let weights_at = (offsets_at + (n_rows + 1) * 4).next_multiple_of(8);
        let rows_at = if has_weights { weights_at + n_rows * 8 } else { weights_at };
        let weights_at = has_weights.then_some(weights_at);
        Sections { n_rows, n_bytes, n_shared, offsets_at, weights_at, rows_at }
    }

    /// How long the file is.
    pub fn len(&self) -> usize {
        self.rows_at + self.n_bytes
    }

    /// The header of a run whose sections have this checksum.
    pub fn header(&self, crc: u32) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..5].copy_from_slice(MAGIC);
        header[5] = VERSION;
        header[6] = if self.weights_at.is_some() { HAS_WEIGHTS } else { 0 };
        let mut put = |at: usize, value: usize| {
            header[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
        };
        put(8, self.n_rows);
        put(16, self.n_bytes);
        put(24, self.n_shared);
        put(32, self.offsets_at);
        put(40, self.weights_at.unwrap_or(self.rows_at));
        put(48, self.rows_at);
        header[56..60].copy_from_slice(&crc.to_le_bytes());
        let own = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&own.to_le_bytes());
        header
    }

    /// Reads the header of a file; with the checksum of its sections.
    fn parse(path: &str, file: &[u8]) -> Result<(Sections, u32), Error> {
        let damaged = |reason: &str| Error::Damaged { path: path.into(), reason: reason.into() };
        if file.len() < 6 || &file[..5] != MAGIC {
            return Err(damaged("it is not a run"));
        }
        if file[5] != VERSION {
            return Err(Error::UnknownFormat {
                path: path.into(),
                found: format!("run {}", file[5]),
                known: format!("run {VERSION}"),
            });
        }
        if file.len() < HEADER_BYTES {
            return Err(damaged("it is shorter than its header"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
        if crc32fast::hash(&file[..60]) != u32_at(60) {
            return Err(damaged("the checksum of its header does not match"));
        }
        let number =
            |at: usize| usize::try_from(u64_at(at)).ok().filter(|number| *number <= isize::MAX as usize / 16);
        let read = || -> Option<Sections> {
            let weights_at = number(40)?;
            Some(Sections {
                n_rows: number(8)?,
                n_bytes: number(16)?,
                n_shared: number(24)?,
                offsets_at: number(32)?,
                weights_at: (file[6] & HAS_WEIGHTS != 0).then_some(weights_at),
                rows_at: number(48)?,
            })
        };
        let sections = read().ok_or_else(|| damaged("its header makes no sense"))?;
        let heads_end = HEADER_BYTES + sections.n_rows * 8;
        let offsets_end = sections.offsets_at + (sections.n_rows + 1) * 4;
        let weights_fit = sections.weights_at.is_none_or(|weights_at| {
            weights_at.is_multiple_of(8)
                && offsets_end <= weights_at
                && weights_at + sections.n_rows * 8 <= sections.rows_at
        });
        let fits = sections.offsets_at.is_multiple_of(4)
            && heads_end <= sections.offsets_at
            && offsets_end <= sections.rows_at
            && weights_fit
            && sections.len() == file.len();
        match fits {
            true => Ok((sections, u32_at(56))),
            false => Err(damaged("its parts do not fit it")),
        }
    }
}

impl Run {
    fn on_heap(rows: Vec<u8>, offsets: Vec<u32>, weights: Vec<i64>) -> Run {
        let n_rows = offsets.len() - 1;
        let row = |idx: usize| &rows[offsets[idx] as usize..offsets[idx + 1] as usize];
        let n_shared = if n_rows == 0 { 0 } else { n_shared(row(0), row(n_rows - 1)) };
        let heads: Vec<u64> = (0..n_rows).map(|idx| head(row(idx), n_shared)).collect();
        Run {
            heads: heads.into(),
            offsets: offsets.into(),
            weights: weights.into(),
            rows: rows.into(),
            n_shared,
            home: Home::Heap,
            place: Mutex::default(),
            charge: OnceLock::new(),
        }
    }

    fn of_sections(sections: Sections, file: Buffer, home: Home) -> Run {
        let n_rows = sections.n_rows;
        let section = |at: usize, len: usize| file.slice_with_length(at, len);
        Run {
            heads: ScalarBuffer::new(section(HEADER_BYTES, n_rows * 8), 0, n_rows),
            offsets: ScalarBuffer::new(section(sections.offsets_at, (n_rows + 1) * 4), 0, n_rows + 1),
            weights: match sections.weights_at {
                Some(at) => ScalarBuffer::new(section(at, n_rows * 8), 0, n_rows),
                None => ScalarBuffer::default(),
            },
            rows: section(sections.rows_at, sections.n_bytes),
            n_shared: sections.n_shared,
            home,
            place: Mutex::default(),
            charge: OnceLock::new(),
        }
    }

    /// A run whose file was just written.
    pub(crate) fn in_file(sections: Sections, content: Bytes, file: Arc<RunFile>) -> Run {
        Run::of_sections(sections, content.into(), Home::File(file))
    }

    /// Takes a run out of a mapped file without reading more of it than its header; `path` is for the error.
    pub(crate) fn of_mapped(path: &str, file: Bytes) -> Result<Run, Error> {
        let (sections, _) = Sections::parse(path, &file)?;
        Ok(Run::of_sections(sections, file.into(), Home::Mapped))
    }

    /// Takes a run out of a file's bytes, all of which it checks; `path` is for the error.
    pub fn from_bytes(path: &str, file: Bytes) -> Result<Run, Error> {
        Run::check(path, &file)?;
        let (sections, _) = Sections::parse(path, &file)?;
        // Sections are read as numbers where they lie.
        let is_aligned = file.as_ptr().align_offset(8) == 0;
        let file = if is_aligned { Buffer::from(file) } else { Buffer::from(&file[..]) };
        Ok(Run::of_sections(sections, file, Home::Heap))
    }

    /// Reads all of a file and compares it with its checksums; gives its number of rows.
    pub fn check(path: &str, file: &[u8]) -> Result<usize, Error> {
        let (sections, crc) = Sections::parse(path, file)?;
        let end_of = |at: usize, len: usize| &file[at..at + len];
        let n_rows = sections.n_rows;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(end_of(HEADER_BYTES, n_rows * 8));
        hasher.update(end_of(sections.offsets_at, (n_rows + 1) * 4));
        if let Some(at) = sections.weights_at {
            hasher.update(end_of(at, n_rows * 8));
        }
        hasher.update(end_of(sections.rows_at, sections.n_bytes));
        if hasher.finalize() != crc {
            return Err(Error::Damaged { path: path.into(), reason: "its checksum does not match".into() });
        }
        Ok(n_rows)
    }

    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Bytes, wherever they are.
    pub fn size(&self) -> usize {
        self.rows.len() + self.offsets.len() * 4 + self.weights.len() * 8 + self.heads.len() * 8
    }

    /// Bytes on the heap.
    pub fn heap_size(&self) -> usize {
        match self.home {
            Home::Heap => self.size(),
            Home::File(_) | Home::Mapped => 0,
        }
    }

    pub fn is_on_heap(&self) -> bool {
        matches!(self.home, Home::Heap)
    }

    /// The bytes of the rows, without what finds them.
    pub(crate) fn n_row_bytes(&self) -> usize {
        self.rows.len()
    }

    pub fn row(&self, idx: usize) -> &[u8] {
        &self.rows[self.offsets[idx] as usize..self.offsets[idx + 1] as usize]
    }

    /// Whether a row begins with `key`. Mostly its head says that it does not, and the row, which lies elsewhere in memory,
    /// is not looked at.
    pub(crate) fn starts_with(&self, idx: usize, key: &[u8]) -> bool {
        if key.len() > self.n_shared {
            let n_unknown = 8 * (8 - (key.len() - self.n_shared).min(8));
            if (self.heads[idx] ^ head(key, self.n_shared)) >> n_unknown != 0 {
                return false;
            }
        }
        self.row(idx).starts_with(key)
    }

    pub fn weight(&self, idx: usize) -> i64 {
        self.weights.get(idx).copied().unwrap_or(1)
    }

    /// Whether every weight is 1.
    pub fn is_insertions(&self) -> bool {
        self.weights.is_empty()
    }

    /// Where the run is durable in a store, if it is. What another store holds does not count: it may be
    /// removed with its owner.
    pub fn id_in(&self, store: u64) -> Option<RunId> {
        let place = self.place.lock().expect("nobody panics while holding it");
        place.as_ref().filter(|place| place.store == store).map(|place| place.id)
    }

    /// Says where the run is durable, and what is there, if it is mapped.
    pub fn set_id(&self, store: u64, id: RunId, mapped: Option<Bytes>) {
        *self.place.lock().expect("nobody panics while holding it") = Some(Place { store, id, mapped });
    }

    /// The same run where it is durable, which takes no memory; if it can be read there.
    pub(crate) fn where_durable(&self) -> Option<Run> {
        let place = self.place.lock().expect("nobody panics while holding it").clone()?;
        let run = Run::of_mapped("a pack that has just been written", place.mapped.clone()?).ok()?;
        *run.place.lock().expect("nobody else has it yet") = Some(Place { mapped: None, ..place });
        Some(run)
    }

    /// Says that this run is durable where another one of the same rows is.
    pub(crate) fn take_place_of(&self, other: &Run) {
        let place = other.place.lock().expect("nobody panics while holding it").clone();
        *self.place.lock().expect("nobody panics while holding it") = place;
    }

    /// The file that holds this run and nothing else.
    pub(crate) fn file(&self) -> Option<&Arc<RunFile>> {
        match &self.home {
            Home::File(file) => Some(file),
            Home::Heap | Home::Mapped => None,
        }
    }

    /// Says whose memory the run takes, unless somebody's it does already.
    pub(crate) fn charge(&self, charge: impl FnOnce() -> Charge) {
        if self.is_on_heap() {
            self.charge.get_or_init(charge);
        }
    }

    /// The first row at or behind `from` that is not below `key`.
    ///
    /// Gallops from `from`, so that a sorted batch of keys costs a merge where it is dense and a
    /// binary search where it is sparse.
    pub fn lower_bound(&self, key: &[u8], from: usize) -> usize {
        let n_rows = self.len();
        if from >= n_rows {
            return n_rows;
        }
        // What all rows share decides for all of them at once.
        let n_common = self.n_shared.min(key.len());
        match key[..n_common].cmp(&self.row(0)[..n_common]) {
            std::cmp::Ordering::Less => return from,
            std::cmp::Ordering::Greater => return n_rows,
            std::cmp::Ordering::Equal if key.len() <= self.n_shared => return from,
            std::cmp::Ordering::Equal => (),
        }
        let key_head = head(key, self.n_shared);
        let heads: &[u64] = &self.heads;
        let is_below = |idx: usize| match heads[idx].cmp(&key_head) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => self.row(idx) < key,
        };
        if !is_below(from) {
            return from;
        }
        // Invariant: `low` is below the key, `high` is not, or is the end.
        let (mut low, mut step) = (from, 1);
        let mut high = loop {
            let next = low + step;
            if next >= n_rows {
                break n_rows;
            }
            if !is_below(next) {
                break next;
            }
            low = next;
            step *= 2;
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if is_below(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// The run as it is stored, in pieces that are not copied.
    pub(crate) fn to_pieces(&self) -> Vec<Bytes> {
        let has_weights = !self.weights.is_empty();
        let sections = Sections::packed(self.len(), self.rows.len(), self.n_shared, has_weights);
        let section = |buffer: &Buffer| Bytes::from_owner(Section(buffer.clone()));
        let offsets_end = sections.offsets_at + self.offsets.len() * 4;
        let parts = [
            section(self.heads.inner()),
            section(self.offsets.inner()),
            section(self.weights.inner()),
            section(&self.rows),
        ];
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        let header = Bytes::copy_from_slice(&sections.header(hasher.finalize()));
        let padding = Bytes::from_static(&[0; 8]).slice(..offsets_end.next_multiple_of(8) - offsets_end);
        let [heads, offsets, weights, rows] = parts;
        vec![header, heads, offsets, padding, weights, rows]
    }

    /// The run as it is stored.
    pub fn to_bytes(&self) -> Bytes {
        self.to_pieces().concat().into()
    }

    /// What [`Sections::header`] needs of the smallest prefix that these runs' rows share.
    pub(crate) fn n_shared_by(runs: &[Arc<Run>]) -> usize {
        let filled = || runs.iter().filter(|run| !run.is_empty());
        let first = filled().map(|run| run.row(0)).min();
        let last = filled().map(|run| run.row(run.len() - 1)).max();
        first.zip(last).map_or(0, |(first, last)| n_shared(first, last))
    }
}

/// Bytes that a buffer owns.
struct Section(Buffer);

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Takes rows that come in ascending order.
pub(crate) trait Rows {
    /// Appends a row that is above all before it. A weight of zero is left out.
    fn push(&mut self, row: &[u8], weight: i64);
}

/// Builds a run from rows that come in ascending order.
#[derive(Debug)]
pub struct RunBuilder {
    rows: Vec<u8>,
    offsets: Vec<u32>,
    /// Empty as long as every weight is 1.
    weights: Vec<i64>,
    all_one: bool,
}

impl RunBuilder {
    pub fn with_capacity(n_rows: usize, n_bytes: usize) -> RunBuilder {
        let mut offsets = Vec::with_capacity(n_rows + 1);
        offsets.push(0);
        RunBuilder { rows: Vec::with_capacity(n_bytes), offsets, weights: Vec::new(), all_one: true }
    }

    /// Appends a row that is above all before it. A weight of zero is left out.
    pub fn push(&mut self, row: &[u8], weight: i64) {
        if weight == 0 {
            return;
        }
        if self.all_one && weight != 1 {
            self.all_one = false;
            self.weights.reserve(self.offsets.capacity() - 1);
            self.weights.resize(self.offsets.len() - 1, 1);
        }
        if !self.all_one {
            self.weights.push(weight);
        }
        self.rows.extend_from_slice(row);
        assert!(self.rows.len() <= RUN_BYTES_MAX, "a run is bounded by its offsets");
        self.offsets.push(self.rows.len() as u32);
    }

    pub fn finish(mut self) -> Arc<Run> {
        let weights = if self.all_one { Vec::new() } else { self.weights };
        // Merging leaves room for rows that cancelled out.
        if self.rows.capacity() > self.rows.len() + self.rows.len() / 4 {
            self.rows.shrink_to_fit();
        }
        Arc::new(Run::on_heap(self.rows, self.offsets, weights))
    }
}

impl Rows for RunBuilder {
    fn push(&mut self, row: &[u8], weight: i64) {
        RunBuilder::push(self, row, weight);
    }
}

/// How many bytes two rows have in common at their start.
fn n_shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The 8 bytes of `row` from `start`, padded with zeros, as a number that compares like them.
pub(crate) fn head(row: &[u8], start: usize) -> u64 {
    let rest = row.get(start..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(padded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: &[(&str, i64)]) -> Arc<Run> {
        let mut builder = RunBuilder::with_capacity(rows.len(), 0);
        for (row, weight) in rows {
            builder.push(row.as_bytes(), *weight);
        }
        builder.finish()
    }

    #[test]
    fn lower_bound_agrees_with_a_linear_search() {
        let names = ["", "a", "aa", "aab", "ab", "abcdefghij", "abcdefghijk", "abcdefghik", "b"];
        for n_skipped in 0..names.len() {
            let rows: Vec<_> = names[n_skipped..].iter().map(|name| (*name, 1)).collect();
            let run = run(&rows);
            for key in ["", "a", "aaa", "ab", "abcdefghijj", "abcdefghijk", "abd", "b", "c"] {
                let expected =
                    (0..run.len()).find(|idx| run.row(*idx) >= key.as_bytes()).unwrap_or(run.len());
                for from in 0..=expected {
                    assert_eq!(
                        run.lower_bound(key.as_bytes(), from),
                        expected,
                        "{key} from {from} in {rows:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn heads_do_not_hide_what_begins_with_a_key() {
        let names =
            ["", "a", "a\0", "aa", "aab", "ab", "abcdefgh", "abcdefghij", "abcdefghijk", "abcdefghik", "b"];
        for first in 0..names.len() {
            for last in first..names.len() {
                let rows: Vec<_> = names[first..=last].iter().map(|name| (*name, 1)).collect();
                let run = run(&rows);
                for key in
                    names.into_iter().chain(["\0", "abcdefghi", "abcdefghj", "abcdefghijklmnopqrst", "c"])
                {
                    for (idx, (name, _)) in rows.iter().enumerate() {
                        let expected = name.starts_with(key);
                        assert_eq!(
                            run.starts_with(idx, key.as_bytes()),
                            expected,
                            "{key} and {name} in {rows:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn file_gives_the_run_back_and_tells_damage() {
        for rows in [&[("a", 1), ("b", 1)][..], &[("a", -2), ("bc", 1), ("c", 7)], &[]] {
            let run = run(rows);
            let file = run.to_bytes();
            let wrote: Vec<_> = rows.iter().map(|(row, weight)| (row.as_bytes().to_vec(), *weight)).collect();
            // Wherever the bytes lie.
            for shift in [0, 1] {
                let shifted: Bytes = [&b"x"[..shift], &file[..]].concat().into();
                let back = Run::from_bytes("x", shifted.slice(shift..)).unwrap();
                let read: Vec<_> =
                    (0..back.len()).map(|idx| (back.row(idx).to_vec(), back.weight(idx))).collect();
                assert_eq!(read, wrote);
            }
            let (sections, _) = Sections::parse("x", &file).unwrap();
            let offsets_end = sections.offsets_at + (rows.len() + 1) * 4;
            let padding = offsets_end..offsets_end.next_multiple_of(8);
            for at in 0..file.len() {
                let mut broken = file.to_vec();
                broken[at] ^= 1;
                let is_told = Run::from_bytes("x", broken.into()).is_err();
                assert!(is_told || padding.contains(&at), "byte {at}");
            }
            for len in 0..file.len() {
                assert!(Run::from_bytes("x", file.slice(..len)).is_err(), "cut at {len}");
            }
        }
    }
}
