//! What is pending, oldest first: in segments what checkpoints hold, in memory what has come since.
//!
//! Of a segment that is not about to leave nothing is in memory, not even where its batches begin. So a destination may be
//! away for days, whatever comes meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidemill_core::sink::{SinkBatch, Written};
use tidemill_core::{Delta, Epoch};

use super::FLUSH_ROWS;
use crate::Error;
use crate::ipc::{decode_batch, encode_batch};

/// A segment that is so long does not become longer.
const SEGMENT_BYTES: usize = 64 << 20;
/// The end of the name of the blob that says what the others mean.
const HEAD: &str = "/head";

#[derive(Debug, Default)]
pub(super) struct Queue {
    segments: VecDeque<Segment>,
    next_segment: u64,
    /// What is in no segment yet.
    recent: VecDeque<Recent>,
    /// What can be at the destination, in this life and those before. `perhaps` is what a checkpoint says that a writer may
    /// write, before it does.
    pub written: Written,
    /// The last checkpoint's `perhaps`, until it is durable.
    captured: Epoch,
    /// The `perhaps` of the last durable checkpoint: what ends later stays here.
    allowed: Epoch,
    /// Whether the destination was found to be the one that was written to, and nobody has doubted that since.
    pub is_verified: bool,
}

#[derive(Debug)]
struct Recent {
    header: Header,
    delta: Delta,
}

/// Batches, one behind the other, each behind its header.
#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: Bytes,
    /// Where the first batch begins that has not arrived.
    at: usize,
    /// Rows from there on.
    n_rows: usize,
    last: Epoch,
    /// The batches from there on, while they are in memory as well.
    deltas: Option<VecDeque<Delta>>,
}

/// What is known of a batch without reading it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub from: Epoch,
    pub to: Epoch,
    /// When it came, in milliseconds since 1970.
    since: u64,
    pub n_rows: usize,
    /// Of the rows, which follow.
    n_bytes: usize,
}

const HEADER_BYTES: usize = 40;

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let numbers = [self.from.0, self.to.0, self.since, self.n_rows as u64, self.n_bytes as u64];
        numbers.map(u64::to_le_bytes).concat()
    }

    /// The header at a place, with the end of its rows.
    fn read(bytes: &[u8], at: usize) -> Result<(Header, usize), Error> {
        let cut_off = || damaged("it is cut off");
        let rest = bytes.get(at..).ok_or_else(cut_off)?;
        let numbers: &[u8; HEADER_BYTES] = rest.first_chunk().ok_or_else(cut_off)?;
        let number = |idx: usize| {
            let bytes = numbers[8 * idx..8 * idx + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let header = Header {
            from: Epoch(number(0)),
            to: Epoch(number(1)),
            since: number(2),
            n_rows: number(3) as usize,
            n_bytes: number(4) as usize,
        };
        let end = (at + HEADER_BYTES).checked_add(header.n_bytes).filter(|end| *end <= bytes.len());
        Ok((header, end.ok_or_else(cut_off)?))
    }
}

/// A batch on its way to the writer.
#[derive(Debug)]
pub(super) struct Leaving {
    pub from: Epoch,
    pub to: Epoch,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    Memory(Delta),
    Stored(Bytes),
}

impl Leaving {
    pub fn read(self, n_columns: usize) -> Result<SinkBatch, Error> {
        let Leaving { from, to, rows } = self;
        let delta = match rows {
            Rows::Memory(delta) => delta,
            Rows::Stored(bytes) => Delta::new(decode_batch(&bytes)?),
        };
        assert_eq!(delta.batch().num_columns(), n_columns, "a sink keeps its columns");
        Ok(SinkBatch { from, to, delta })
    }
}

fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Segment {
    /// The first batch that has not arrived, and where it ends.
    fn first(&self) -> Result<(Header, usize), Error> {
        Header::read(&self.bytes, self.at)
    }

    fn memory_rows(&self) -> usize {
        if self.deltas.is_some() { self.n_rows } else { 0 }
    }
}

impl Queue {
    /// Of a sink that is new: nobody can have written for it.
    pub fn new() -> Queue {
        Queue { is_verified: true, ..Queue::default() }
    }

    pub fn push(&mut self, batch: SinkBatch) {
        let SinkBatch { from, to, delta } = batch;
        let header = Header { from, to, since: now_millis(), n_rows: delta.len(), n_bytes: 0 };
        self.recent.push_back(Recent { header, delta });
    }

    pub fn n_rows(&self) -> usize {
        let recent = self.recent.iter().map(|recent| recent.header.n_rows);
        self.segments.iter().map(|segment| segment.n_rows).chain(recent).sum()
    }

    pub fn memory_rows(&self) -> usize {
        let recent = self.recent.iter().map(|recent| recent.header.n_rows);
        self.segments.iter().map(Segment::memory_rows).chain(recent).sum()
    }

    /// What waits in checkpoints.
    pub fn stored_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes.len() - segment.at).sum()
    }

    /// How long the oldest has waited.
    pub fn age(&self) -> Option<Duration> {
        let oldest = self.first().ok()??;
        Some(Duration::from_millis(now_millis().saturating_sub(oldest.since)))
    }

    pub fn first(&self) -> Result<Option<Header>, Error> {
        match self.segments.front() {
            Some(segment) => Ok(Some(segment.first()?.0)),
            None => Ok(self.recent.front().map(|recent| recent.header)),
        }
    }

    /// The next batches behind the first `n_passed`, `all` of them or those that may leave.
    pub fn leaving(&self, n_passed: usize, all: bool) -> Result<Vec<Leaving>, Error> {
        let (mut leaving, mut n_rows, mut idx) = (Vec::new(), 0, 0);
        // False when the next one stays.
        let mut take = |header: &Header, rows: &mut dyn FnMut() -> Rows| {
            idx += 1;
            if idx <= n_passed {
                return true;
            }
            if !(all || header.to <= self.allowed) || n_rows >= FLUSH_ROWS {
                return false;
            }
            n_rows += header.n_rows;
            leaving.push(Leaving { from: header.from, to: header.to, rows: rows() });
            true
        };
        for segment in &self.segments {
            let mut at = segment.at;
            let mut deltas = segment.deltas.iter().flatten();
            while at < segment.bytes.len() {
                let (header, end) = Header::read(&segment.bytes, at)?;
                let delta = deltas.next();
                let mut rows = || match delta {
                    Some(delta) => Rows::Memory(delta.clone()),
                    None => Rows::Stored(segment.bytes.slice(at + HEADER_BYTES..end)),
                };
                if !take(&header, &mut rows) {
                    return Ok(leaving);
                }
                at = end;
            }
        }
        for recent in &self.recent {
            if !take(&recent.header, &mut || Rows::Memory(recent.delta.clone())) {
                break;
            }
        }
        Ok(leaving)
    }

    /// Takes the first batch away, which has arrived.
    pub fn pop(&mut self) -> Result<Option<Header>, Error> {
        let header = match self.segments.front_mut() {
            Some(segment) => {
                let (header, end) = segment.first()?;
                segment.at = end;
                segment.n_rows = segment.n_rows.saturating_sub(header.n_rows);
                if let Some(deltas) = &mut segment.deltas {
                    deltas.pop_front();
                }
                if end == segment.bytes.len() {
                    self.segments.pop_front();
                }
                header
            }
            None => match self.recent.pop_front() {
                Some(recent) => recent.header,
                None => return Ok(None),
            },
        };
        self.written.surely = self.written.surely.max(header.to);
        Ok(Some(header))
    }

    /// Blobs of a checkpoint, by the ends of their names.
    pub fn capture(&mut self) -> BTreeMap<String, Bytes> {
        self.store();
        if self.is_verified {
            let last = self.segments.back().map_or(Epoch::ZERO, |segment| segment.last);
            self.written.perhaps = self.written.perhaps.max(last);
        }
        // What leaves at once was not asked for leave.
        self.written.perhaps = self.written.perhaps.max(self.written.surely);
        self.captured = self.written.perhaps;
        let Written { surely, perhaps } = self.written;
        let mut head = vec![surely.0, perhaps.0];
        let mut blobs = BTreeMap::new();
        for segment in &self.segments {
            head.extend([segment.number, segment.at as u64, segment.n_rows as u64, segment.last.0]);
            blobs.insert(segment_name(segment.number), segment.bytes.clone());
        }
        let head: Vec<u8> = head.into_iter().flat_map(u64::to_le_bytes).collect();
        blobs.insert(HEAD.to_owned(), head.into());
        blobs
    }

    /// Says that what was captured last is durable, and where its blobs lie now.
    pub fn durable(&mut self, stored: &BTreeMap<String, Bytes>) {
        let mut n_rows = 0;
        for segment in &mut self.segments {
            if let Some(bytes) = stored.get(&segment_name(segment.number)) {
                segment.bytes = bytes.clone();
            }
            // What goes out next need not be read again.
            n_rows += segment.n_rows;
            if n_rows > FLUSH_ROWS {
                segment.deltas = None;
            }
        }
        self.allowed = self.captured;
    }

    /// Takes over what the checkpoint of `epoch` held.
    pub fn restore(&mut self, blobs: &BTreeMap<String, Bytes>, epoch: Epoch) -> Result<(), Error> {
        match blobs.get(HEAD) {
            Some(head) => self.restore_segments(blobs, head)?,
            None => self.restore_old(blobs, epoch)?,
        }
        self.captured = self.written.perhaps;
        self.allowed = self.written.perhaps;
        self.is_verified = false;
        Ok(())
    }

    fn restore_segments(&mut self, blobs: &BTreeMap<String, Bytes>, head: &[u8]) -> Result<(), Error> {
        let (numbers, rest) = head.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let (written, segments) =
            numbers.split_first_chunk::<2>().ok_or_else(|| damaged("its head is cut off"))?;
        let (segments, odd) = segments.as_chunks::<4>();
        if !rest.is_empty() || !odd.is_empty() {
            return Err(damaged("its head is cut off"));
        }
        self.written = Written { surely: Epoch(written[0]), perhaps: Epoch(written[1]) };
        for [number, at, n_rows, last] in segments {
            let bytes = blobs.get(&segment_name(*number)).ok_or_else(|| damaged("a segment is missing"))?;
            let segment = Segment {
                number: *number,
                bytes: bytes.clone(),
                at: *at as usize,
                n_rows: *n_rows as usize,
                last: Epoch(*last),
                deltas: None,
            };
            if segment.at >= segment.bytes.len() {
                return Err(damaged("a segment is cut off"));
            }
            self.segments.push_back(segment);
            self.next_segment = self.next_segment.max(number + 1);
        }
        Ok(())
    }

    /// Earlier builds wrote all batches as one blob, each behind its epochs and its length.
    fn restore_old(&mut self, blobs: &BTreeMap<String, Bytes>, epoch: Epoch) -> Result<(), Error> {
        let mut rest = &blobs.get("").ok_or_else(|| damaged("it is not there"))?[..];
        let cut_off = || damaged("it is cut off");
        let number = |rest: &mut &[u8]| -> Result<u64, Error> {
            let (number, after) = rest.split_first_chunk::<8>().ok_or_else(cut_off)?;
            *rest = after;
            Ok(u64::from_le_bytes(*number))
        };
        while !rest.is_empty() {
            let from = Epoch(number(&mut rest)?);
            let to = Epoch(number(&mut rest)?);
            let n_bytes = number(&mut rest)? as usize;
            let (ipc, after) = rest.split_at_checked(n_bytes).ok_or_else(cut_off)?;
            rest = after;
            self.push(SinkBatch { from, to, delta: Delta::new(decode_batch(ipc)?) });
        }
        self.written = Written::perhaps_to(epoch);
        Ok(())
    }

    /// Puts what has come since the last time into a segment.
    fn store(&mut self) {
        let Some(last) = self.recent.back() else { return };
        let last = last.header.to;
        let (mut bytes, mut n_rows, mut deltas) = (Vec::new(), 0, VecDeque::new());
        for Recent { header, delta } in self.recent.drain(..) {
            let ipc = encode_batch(delta.batch());
            bytes.extend(Header { n_bytes: ipc.len(), ..header }.bytes());
            bytes.extend(ipc);
            n_rows += header.n_rows;
            deltas.push_back(delta);
        }
        let (number, deltas) = (self.next_segment, Some(deltas));
        self.segments.push_back(Segment { number, bytes: bytes.into(), at: 0, n_rows, last, deltas });
        self.next_segment += 1;
        while self.merge_last() {}
    }

    /// Makes one of the last two segments, unless the first of them is much longer.
    fn merge_last(&mut self) -> bool {
        let n = self.segments.len();
        let Some([first, second]) = n.checked_sub(2).map(|at| [&self.segments[at], &self.segments[at + 1]])
        else {
            return false;
        };
        let (n_first, n_second) = (first.bytes.len(), second.bytes.len());
        if n_first >= 2 * n_second || n_first + n_second > SEGMENT_BYTES {
            return false;
        }
        let second = self.segments.pop_back().expect("there are two");
        let number = self.next_segment;
        self.next_segment += 1;
        let first = self.segments.back_mut().expect("there are two");
        // A number stands for the same bytes for ever. What has arrived of the first stays behind.
        first.number = number;
        first.bytes = [&first.bytes[first.at..], &second.bytes[..]].concat().into();
        first.at = 0;
        first.n_rows += second.n_rows;
        first.last = second.last;
        first.deltas = match (first.deltas.take(), second.deltas) {
            (Some(mut deltas), Some(more)) => {
                deltas.extend(more);
                Some(deltas)
            }
            _ => None,
        };
        true
    }
}

fn segment_name(number: u64) -> String {
    format!("/{number:020}")
}

fn damaged(reason: &str) -> Error {
    tidemill_storage::Error::Damaged { path: "outbox".into(), reason: reason.into() }.into()
}
