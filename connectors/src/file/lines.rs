//! Reading a file of records in lines: JSON and CSV.
//!
//! Offsets count bytes of the text, before compression. A compressed file cannot be entered in
//! the middle: to resume, it is decompressed up to the offset.
//!
//! ```text
//! buffer   |…consumed…|record \n record \n reco|      position = offset of the first record
//!                      ^ begin                  ^ end: the rest of "reco" comes with the next fill
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use flate2::read::MultiGzDecoder;
use tidemill_core::SqlState;
use tidemill_core::source::{BadRecord, ConnectorError, Offset, SourceBatch};

use crate::file::io_error;
use crate::file::source::{Cursor, ReadOut};
use crate::formats::Decoder;
use crate::formats::csv::{Dialect, RecordEnd};
use crate::formats::records::{Fault, Record, Records};

/// How much is read at a time.
const FILL_BYTES: u64 = 1 << 20;

/// What there is to know for reading the files of a source.
#[derive(Debug, Clone)]
pub struct LinesConfig {
    pub decoder: Decoder,
    pub splitter: Splitter,
    /// Wait for more at the end of a file.
    pub follow: bool,
    pub batch_rows: usize,
    pub record_bytes_max: usize,
}

/// How text is split into records.
#[derive(Debug, Clone, Copy)]
pub enum Splitter {
    /// At line ends.
    Lines,
    /// At line ends that are not quoted.
    Csv { dialect: Dialect, header: bool },
}

/// Reads one file.
pub struct LinesCursor {
    config: LinesConfig,
    path: String,
    gzip: bool,
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// Where in the buffer the next record begins.
    begin: usize,
    /// The offset of the next record.
    position: u64,
    /// The header has been read, if there is to be one.
    header_done: bool,
}

impl LinesCursor {
    pub fn open(
        config: LinesConfig,
        path: &str,
        gzip: bool,
        from: u64,
    ) -> Result<LinesCursor, ConnectorError> {
        let input = open_at(path, gzip, 0)?;
        let header_done = !matches!(config.splitter, Splitter::Csv { header: true, .. });
        let mut cursor = LinesCursor {
            config,
            path: path.to_string(),
            gzip,
            input,
            buffer: Vec::new(),
            begin: 0,
            position: 0,
            header_done,
        };
        if from > 0 {
            if !cursor.header_done && !cursor.read_header()? {
                return Err(cursor.shrunk(from));
            }
            cursor.seek(from)?;
        }
        Ok(cursor)
    }

    /// Goes to an offset.
    fn seek(&mut self, to: u64) -> Result<(), ConnectorError> {
        self.input = open_at(&self.path, self.gzip, to)?;
        self.buffer.clear();
        self.begin = 0;
        self.position = to;
        Ok(())
    }

    /// Reads on; whether there was anything.
    fn fill(&mut self) -> Result<bool, ConnectorError> {
        self.buffer.drain(..self.begin);
        self.begin = 0;
        let n_bytes = self.input.by_ref().take(FILL_BYTES).read_to_end(&mut self.buffer);
        Ok(n_bytes.map_err(|error| io_error("read", &self.path, &error))? > 0)
    }

    /// Reads the names of the columns; false if the file does not have its first line yet.
    fn read_header(&mut self) -> Result<bool, ConnectorError> {
        let Splitter::Csv { dialect, .. } = self.config.splitter else {
            unreachable!("only CSV has headers")
        };
        loop {
            let text = &self.buffer[self.begin..];
            let (len, next) = match dialect.record_end(text) {
                RecordEnd::At { len, next } => (len, next),
                RecordEnd::Incomplete { .. } => {
                    if self.fill()? {
                        continue;
                    }
                    // A header alone, without line end, is the whole file; or its writer is at work.
                    let len = self.buffer.len() - self.begin;
                    if len == 0 || self.config.follow {
                        return Ok(false);
                    }
                    (len, len)
                }
            };
            let line = strip_mark(&self.buffer[self.begin..self.begin + len]);
            let header = dialect.header(line);
            self.config.decoder.set_csv_header(&header, &self.path)?;
            self.begin += next;
            self.position += next as u64;
            self.header_done = true;
            return Ok(true);
        }
    }

    /// Where the next record ends. `is_last` says that nothing comes behind `text`.
    fn record_end(&self, text: &[u8], is_last: bool) -> Option<(usize, usize, Option<Fault>)> {
        let end = match self.config.splitter {
            Splitter::Lines => match memchr::memchr(b'\n', text) {
                Some(at) => RecordEnd::At { len: at, next: at + 1 },
                None => RecordEnd::Incomplete { quoted: false },
            },
            Splitter::Csv { dialect, .. } => dialect.record_end(text),
        };
        let too_long = text.len() > self.config.record_bytes_max;
        match end {
            RecordEnd::At { len, next } if len <= self.config.record_bytes_max => Some((len, next, None)),
            RecordEnd::Incomplete { quoted: false } if is_last && !too_long => {
                (!text.is_empty()).then_some((text.len(), text.len(), None))
            }
            RecordEnd::Incomplete { quoted: true } if is_last && !too_long => {
                Some(self.first_line(text, Fault::new(SqlState::BAD_COPY_FORMAT, "a quote is not closed")))
            }
            RecordEnd::Incomplete { .. } if !too_long => None,
            _ => {
                let max = self.config.record_bytes_max;
                let reason = format!("the record is longer than {max} bytes (option \"max_record_bytes\")");
                Some(self.first_line(text, Fault::new(SqlState::BAD_COPY_FORMAT, reason)))
            }
        }
    }

    /// Gives up the first line of `text` only: what follows may be in order.
    fn first_line(&self, text: &[u8], fault: Fault) -> (usize, usize, Option<Fault>) {
        let len = memchr::memchr(b'\n', text).unwrap_or(text.len());
        (len, (len + 1).min(text.len()), Some(fault))
    }

    /// Decodes a batch of records that stand at `begin`.
    fn batch(&mut self, records: &[Record], torn: Vec<(i64, Vec<u8>, Fault)>, n_bytes: usize) -> SourceBatch {
        let records =
            Records { bytes: &self.buffer, records, headers: &[], partition: None, file: Some(&self.path) };
        let (changes, faults) = self.config.decoder.decode(&records);
        let mut bad: Vec<(i64, Vec<u8>, Fault)> = torn;
        for (idx, fault) in faults {
            bad.push((records.records[idx].offset, records.raw(idx).to_vec(), fault));
        }
        bad.sort_by_key(|(offset, _, _)| *offset);
        let bad = bad.into_iter().map(|(offset, raw, fault)| BadRecord {
            offset: Offset::from(offset as u64),
            raw,
            sqlstate: fault.sqlstate,
            reason: fault.reason,
        });
        self.begin += n_bytes;
        self.position += n_bytes as u64;
        SourceBatch { changes, next: Offset::from(self.position), bad: bad.collect(), n_bytes }
    }

    fn shrunk(&self, from: u64) -> ConnectorError {
        let message =
            format!("file \"{}\" is shorter than what has been read of it, {from} bytes", self.path);
        ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
            .with_hint("Files of a source may grow, but not change. Give new content a new name.")
    }
}

impl Cursor for LinesCursor {
    fn position(&self) -> u64 {
        self.position
    }

    fn rewind(&mut self, to: u64) -> Result<(), ConnectorError> {
        self.seek(to)
    }

    fn read_only(&mut self, columns: &BTreeSet<usize>) {
        self.config.decoder.read_only(columns);
    }

    fn read(&mut self, until: Option<u64>) -> Result<ReadOut, ConnectorError> {
        if until.is_some_and(|until| self.position >= until) {
            return Ok(ReadOut::End);
        }
        if !self.header_done && !self.read_header()? {
            return Ok(if self.config.follow { ReadOut::Idle } else { ReadOut::End });
        }
        let mut is_end = false;
        loop {
            // What is visible ends where the buffer does, or at `until`.
            let n_wanted = until.map_or(usize::MAX, |until| (until - self.position) as usize);
            let end = self.buffer.len().min(self.begin.saturating_add(n_wanted));
            let is_whole = end - self.begin == n_wanted;
            let is_last = is_whole || (is_end && !self.config.follow);

            let mut records = Vec::new();
            let mut torn = Vec::new();
            let mut at = self.begin;
            while records.len() + torn.len() < self.config.batch_rows {
                let Some((len, next, fault)) = self.record_end(&self.buffer[at..end], is_last) else {
                    break;
                };
                let offset = (self.position + (at - self.begin) as u64) as i64;
                let mut line = &self.buffer[at..at + len];
                if offset == 0 {
                    line = strip_mark(line);
                }
                line = line.strip_suffix(b"\r").unwrap_or(line);
                if let Some(fault) = fault {
                    torn.push((offset, line.to_vec(), fault));
                } else if !is_blank(line, self.config.splitter) {
                    let begin = at + (line.as_ptr() as usize - self.buffer[at..].as_ptr() as usize);
                    records.push(Record {
                        value: Some(begin..begin + line.len()),
                        offset,
                        ..Record::default()
                    });
                }
                at += next;
            }
            let n_bytes = at - self.begin;
            if !records.is_empty() || !torn.is_empty() {
                return Ok(ReadOut::Batch(self.batch(&records, torn, n_bytes)));
            }
            // Blank lines only: they are over.
            self.begin = at;
            self.position += n_bytes as u64;
            if is_last {
                return Ok(ReadOut::End);
            }
            if is_end {
                return self.wait();
            }
            is_end = !self.fill()?;
        }
    }
}

impl LinesCursor {
    /// At the end of a file that may grow.
    fn wait(&self) -> Result<ReadOut, ConnectorError> {
        let known = self.position + (self.buffer.len() - self.begin) as u64;
        let metadata = std::fs::metadata(&self.path).map_err(|error| io_error("read", &self.path, &error))?;
        if metadata.len() < known {
            return Err(self.shrunk(known));
        }
        Ok(ReadOut::Idle)
    }
}

/// Opens a file at an offset of its text.
fn open_at(path: &str, gzip: bool, offset: u64) -> Result<Box<dyn Read + Send>, ConnectorError> {
    let mut file = File::open(path).map_err(|error| io_error("open", path, &error))?;
    if !gzip {
        let len = file.metadata().map_err(|error| io_error("open", path, &error))?.len();
        if len < offset {
            return Err(ends_before(path, offset));
        }
        file.seek(SeekFrom::Start(offset)).map_err(|error| io_error("read", path, &error))?;
        return Ok(Box::new(file));
    }
    let mut text = MultiGzDecoder::new(std::io::BufReader::with_capacity(1 << 17, file));
    let skipped = std::io::copy(&mut text.by_ref().take(offset), &mut std::io::sink());
    if skipped.map_err(|error| io_error("decompress", path, &error))? < offset {
        return Err(ends_before(path, offset));
    }
    Ok(Box::new(text))
}

fn ends_before(path: &str, offset: u64) -> ConnectorError {
    let message = format!("file \"{path}\" ends before offset {offset}, up to which it has been read");
    ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
        .with_hint("Files of a source may grow, but not change. Give new content a new name.")
}

/// A line without the byte order mark that some programs begin a file with.
fn strip_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

/// Whether the line holds no record. In CSV of one column, blanks are a value.
fn is_blank(line: &[u8], splitter: Splitter) -> bool {
    match splitter {
        Splitter::Lines => line.trim_ascii().is_empty(),
        Splitter::Csv { .. } => line.is_empty(),
    }
}

/// The names in the first line of a file; `None` of an empty one.
pub fn read_header(path: &str, gzip: bool, dialect: Dialect) -> Result<Option<Vec<String>>, ConnectorError> {
    let mut input = open_at(path, gzip, 0)?;
    let mut text = Vec::new();
    loop {
        let n_bytes = input.by_ref().take(1 << 16).read_to_end(&mut text);
        let is_end = n_bytes.map_err(|error| io_error("read", path, &error))? == 0;
        let len = match dialect.record_end(&text) {
            RecordEnd::At { len, .. } => len,
            RecordEnd::Incomplete { .. } if is_end => text.len(),
            RecordEnd::Incomplete { .. } => continue,
        };
        return Ok((len > 0).then(|| dialect.header(strip_mark(&text[..len]))));
    }
}
