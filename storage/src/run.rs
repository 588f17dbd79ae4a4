//! A run: sorted rows with their weights, written once and never changed.
//!
//! ```text
//! bytes: "TMRUN" version u8, flags u8, 0 | n_rows u64 | n_bytes u64
//!        offsets u32 × (n_rows + 1), padded to 8 | weights i64 × n_rows, if flagged | row bytes | crc32 u32
//! ```
//!
//! All numbers are little-endian. Rows ascend as bytes and none stands twice; no weight is zero.
//! Most runs hold insertions only, and then the weights, all 1, are left out.

use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};

use crate::Error;

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
const VERSION: u8 = 1;
const HAS_WEIGHTS: u8 = 1;

/// Sorted, consolidated rows.
#[derive(Debug)]
pub struct Run {
    bytes: Bytes,
    offsets: Vec<u32>,
    /// Empty where every weight is 1.
    weights: Vec<i64>,
    /// For each row the 8 bytes behind the prefix that all rows share, so that most comparisons of
    /// a search touch one dense array.
    heads: Vec<u64>,
    n_shared: usize,
    /// Where the run is durable: in which store, and where in it.
    place: Mutex<Option<(u64, RunId)>>,
}

impl Run {
    fn new(bytes: Bytes, offsets: Vec<u32>, weights: Vec<i64>) -> Run {
        let n_rows = offsets.len() - 1;
        let row = |idx: usize| &bytes[offsets[idx] as usize..offsets[idx + 1] as usize];
        let n_shared = if n_rows == 0 { 0 } else { n_shared(row(0), row(n_rows - 1)) };
        let heads = (0..n_rows).map(|idx| head(row(idx), n_shared)).collect();
        Run { heads, n_shared, bytes, offsets, weights, place: Mutex::default() }
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.offsets.len() * 4 + self.weights.len() * 8 + self.heads.len() * 8
    }

    pub fn row(&self, idx: usize) -> &[u8] {
        &self.bytes[self.offsets[idx] as usize..self.offsets[idx + 1] as usize]
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
        place.filter(|(owner, _)| *owner == store).map(|(_, id)| id)
    }

    /// Says where the run is durable.
    pub fn set_id(&self, store: u64, id: RunId) {
        *self.place.lock().expect("nobody panics while holding it") = Some((store, id));
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
        let is_below = |idx: usize| match self.heads[idx].cmp(&key_head) {
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

    /// The run as it is stored.
    pub fn to_bytes(&self) -> Bytes {
        let n_rows = self.len();
        let mut out =
            BytesMut::with_capacity(64 + self.offsets.len() * 4 + self.weights.len() * 8 + self.bytes.len());
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(if self.weights.is_empty() { 0 } else { HAS_WEIGHTS });
        out.put_u8(0);
        out.put_u64_le(n_rows as u64);
        out.put_u64_le(self.bytes.len() as u64);
        for offset in &self.offsets {
            out.put_u32_le(*offset);
        }
        if n_rows.is_multiple_of(2) {
            out.put_u32_le(0);
        }
        for weight in &self.weights {
            out.put_i64_le(*weight);
        }
        out.put_slice(&self.bytes);
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Reads a file that [`to_bytes`](Run::to_bytes) wrote; `path` is for the error.
    pub fn from_bytes(path: &str, file: Bytes) -> Result<Run, Error> {
        let damaged = |reason: &str| Error::Damaged { path: path.into(), reason: reason.into() };
        if file.len() < 28 || &file[..5] != MAGIC {
            return Err(damaged("it is not a run"));
        }
        if file[5] != VERSION {
            return Err(Error::UnknownFormat {
                path: path.into(),
                found: format!("run {}", file[5]),
                known: format!("run {VERSION}"),
            });
        }
        let (body, crc) = file.split_at(file.len() - 4);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(damaged("its checksum does not match"));
        }
        let u64_at =
            |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes")) as usize;
        let (n_rows, n_bytes) = (u64_at(8), u64_at(16));
        let offsets_end = 24 + (n_rows + 1) * 4;
        let weights_start = offsets_end.next_multiple_of(8);
        let n_weights = if body[6] & HAS_WEIGHTS != 0 { n_rows } else { 0 };
        let bytes_start = weights_start + n_weights * 8;
        if bytes_start + n_bytes != body.len() {
            return Err(damaged("its parts do not fill it"));
        }
        let offsets = body[24..offsets_end]
            .chunks_exact(4)
            .map(|chunk| u32::from_le_bytes(chunk.try_into().expect("four bytes")))
            .collect();
        let weights = body[weights_start..bytes_start]
            .chunks_exact(8)
            .map(|chunk| i64::from_le_bytes(chunk.try_into().expect("eight bytes")))
            .collect();
        let bytes = file.slice(bytes_start..bytes_start + n_bytes);
        Ok(Run::new(bytes, offsets, weights))
    }
}

/// Builds a run from rows that come in ascending order.
#[derive(Debug)]
pub struct RunBuilder {
    bytes: Vec<u8>,
    offsets: Vec<u32>,
    weights: Vec<i64>,
    all_one: bool,
}

impl RunBuilder {
    pub fn with_capacity(n_rows: usize, n_bytes: usize) -> RunBuilder {
        let mut offsets = Vec::with_capacity(n_rows + 1);
        offsets.push(0);
        RunBuilder {
            bytes: Vec::with_capacity(n_bytes),
            offsets,
            weights: Vec::with_capacity(n_rows),
            all_one: true,
        }
    }

    /// Appends a row that is above all before it. A weight of zero is left out.
    pub fn push(&mut self, row: &[u8], weight: i64) {
        if weight == 0 {
            return;
        }
        self.bytes.extend_from_slice(row);
        assert!(self.bytes.len() <= RUN_BYTES_MAX, "a run is bounded by its offsets");
        self.offsets.push(self.bytes.len() as u32);
        self.weights.push(weight);
        self.all_one &= weight == 1;
    }

    pub fn finish(self) -> Arc<Run> {
        let weights = if self.all_one { Vec::new() } else { self.weights };
        Arc::new(Run::new(self.bytes.into(), self.offsets, weights))
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
    fn file_gives_the_run_back_and_tells_damage() {
        for rows in [&[("a", 1), ("b", 1)][..], &[("a", -2), ("bc", 1), ("c", 7)], &[]] {
            let run = run(rows);
            let file = run.to_bytes();
            let back = Run::from_bytes("x", file.clone()).unwrap();
            let read: Vec<_> =
                (0..back.len()).map(|idx| (back.row(idx).to_vec(), back.weight(idx))).collect();
            let wrote: Vec<_> = rows.iter().map(|(row, weight)| (row.as_bytes().to_vec(), *weight)).collect();
            assert_eq!(read, wrote);
            let mut broken = file.to_vec();
            let last = broken.len() - 5;
            broken[last] ^= 1;
            assert!(Run::from_bytes("x", broken.into()).is_err());
        }
    }
}
