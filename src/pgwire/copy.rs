//! The formats of `COPY`: text, CSV and binary, both ways.
//!
//! Values are those of [`encode`](super::encode) and [`decode`](super::decode); here is what stands
//! around them. See "File Formats" on the page of `COPY` in PostgreSQL's manual.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::SchemaRef;
use bytes::{Buf, BufMut, BytesMut};
use tidemill_core::SqlState;

use crate::pgwire::decode::{ValueError, binary_column, text_column, utf8};
use crate::pgwire::encode::{BatchEncoder, Format};
use crate::pgwire::types::column_type;
use crate::session::api::SqlError;

const BINARY_SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Rows are handed on when so many, or so many bytes of values, are together.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyHeader {
    None,
    /// Written; skipped when read.
    Line,
    /// Read, and compared with the names of the columns.
    Match,
}

/// `COPY … WITH (…)`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: u8,
    /// What stands for null.
    pub null: String,
    pub header: CopyHeader,
    pub quote: u8,
    pub escape: u8,
    /// `FORCE_QUOTE *`
    pub force_quote: bool,
}

impl CopyOptions {
    pub fn text() -> Self {
        CopyOptions {
            format: CopyFormat::Text,
            delimiter: b'\t',
            null: "\\N".to_owned(),
            header: CopyHeader::None,
            quote: b'"',
            escape: b'"',
            force_quote: false,
        }
    }

    pub fn csv() -> Self {
        CopyOptions { format: CopyFormat::Csv, delimiter: b',', null: String::new(), ..Self::text() }
    }

    pub fn binary() -> Self {
        CopyOptions { format: CopyFormat::Binary, ..Self::text() }
    }

    /// Refuses what could not be read back.
    pub fn validate(&self) -> Result<(), SqlError> {
        let refuse = |message: &str| Err(SqlError::new(SqlState::INVALID_PARAMETER, message));
        let is_newline = |byte: u8| matches!(byte, b'\n' | b'\r');
        if self.format == CopyFormat::Binary {
            return match self.header {
                CopyHeader::None => Ok(()),
                _ => refuse("cannot specify HEADER in BINARY mode"),
            };
        }
        if !self.delimiter.is_ascii() || is_newline(self.delimiter) {
            return refuse("COPY delimiter must be a single one-byte character");
        }
        if self.null.contains(['\n', '\r']) {
            return refuse("COPY null representation cannot use newline or carriage return");
        }
        if self.null.as_bytes().contains(&self.delimiter) {
            return refuse("COPY delimiter character must not appear in the NULL specification");
        }
        if self.format == CopyFormat::Text {
            // These have a meaning behind a backslash.
            if b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&self.delimiter) {
                let delimiter = char::from(self.delimiter);
                return refuse(&format!("COPY delimiter cannot be \"{delimiter}\""));
            }
            return Ok(());
        }
        for (name, byte) in [("quote", self.quote), ("escape", self.escape)] {
            if !byte.is_ascii() || is_newline(byte) {
                return refuse(&format!("COPY {name} must be a single one-byte character"));
            }
        }
        if self.quote == self.delimiter {
            return refuse("COPY delimiter and quote must be different");
        }
        if self.null.as_bytes().contains(&self.quote) {
            return refuse("CSV quote character must not appear in the NULL specification");
        }
        Ok(())
    }
}

// ---- Out -----------------------------------------------------------------------------------

/// Writes rows. A caller writes the header, each row and the trailer, in messages as it likes.
pub struct CopyWriter {
    options: CopyOptions,
    names: Vec<String>,
    value: BytesMut,
}

impl CopyWriter {
    pub fn new(options: CopyOptions, schema: &SchemaRef) -> Self {
        CopyWriter {
            options,
            names: schema.fields().iter().map(|field| field.name().clone()).collect(),
            value: BytesMut::new(),
        }
    }

    pub fn header(&mut self, out: &mut BytesMut) {
        match (self.options.format, self.options.header) {
            (CopyFormat::Binary, _) => {
                out.put_slice(BINARY_SIGNATURE);
                out.put_i32(0);
                out.put_i32(0);
            }
            (_, CopyHeader::None) => (),
            (format, _) => {
                for (n, name) in self.names.iter().enumerate() {
                    if n > 0 {
                        out.put_u8(self.options.delimiter);
                    }
                    match format {
                        CopyFormat::Csv => put_csv(&self.options, name.as_bytes(), false, out),
                        _ => put_escaped(&self.options, name.as_bytes(), out),
                    }
                }
                out.put_u8(b'\n');
            }
        }
    }

    /// Prepares the rows of a batch for [`CopyWriter::row`].
    pub fn batch(&self, batch: &RecordBatch) -> Result<BatchEncoder, SqlError> {
        let format = match self.options.format {
            CopyFormat::Binary => Format::Binary,
            CopyFormat::Text | CopyFormat::Csv => Format::Text,
        };
        BatchEncoder::new(batch, &vec![format; batch.num_columns()])
    }

    pub fn row(&mut self, batch: &BatchEncoder, row_idx: usize, out: &mut BytesMut) -> Result<(), SqlError> {
        if self.options.format == CopyFormat::Binary {
            return batch.tuple(row_idx, out);
        }
        let n_columns = batch.columns().len();
        for (n, column) in batch.columns().iter().enumerate() {
            if n > 0 {
                out.put_u8(self.options.delimiter);
            }
            if column.is_null(row_idx) {
                out.put_slice(self.options.null.as_bytes());
                continue;
            }
            self.value.clear();
            column.write(row_idx, &mut self.value)?;
            match self.options.format {
                CopyFormat::Csv => put_csv(&self.options, &self.value, n_columns == 1, out),
                _ => put_escaped(&self.options, &self.value, out),
            }
        }
        out.put_u8(b'\n');
        Ok(())
    }

    pub fn trailer(&mut self, out: &mut BytesMut) {
        if self.options.format == CopyFormat::Binary {
            out.put_i16(-1);
        }
    }
}

fn put_escaped(options: &CopyOptions, value: &[u8], out: &mut BytesMut) {
    for byte in value {
        let escaped = match byte {
            b'\\' => b'\\',
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            byte if *byte == options.delimiter => *byte,
            byte => {
                out.put_u8(*byte);
                continue;
            }
        };
        out.put_slice(&[b'\\', escaped]);
    }
}

/// `alone` says that the value is a line: one that reads `\.` would end the data.
fn put_csv(options: &CopyOptions, value: &[u8], alone: bool, out: &mut BytesMut) {
    let quoted = options.force_quote
        || value == options.null.as_bytes()
        || (alone && value == b"\\.")
        || value.iter().any(|byte| {
            *byte == options.delimiter || *byte == options.quote || matches!(byte, b'\n' | b'\r')
        });
    if !quoted {
        return out.put_slice(value);
    }
    out.put_u8(options.quote);
    for byte in value {
        if *byte == options.quote || *byte == options.escape {
            out.put_u8(options.escape);
        }
        out.put_u8(*byte);
    }
    out.put_u8(options.quote);
}

// ---- In ------------------------------------------------------------------------------------

/// Reads rows of a schema out of bytes that come in pieces of any size.
pub struct CopyReader {
    options: CopyOptions,
    schema: SchemaRef,
    /// What came and is not yet read.
    pending: BytesMut,
    /// Up to here in `pending` there is no end of a line; in CSV, whether that is inside quotes.
    scanned: usize,
    in_quotes: bool,
    columns: Columns,
    /// The line that each row of `columns` began in, for errors.
    lines: Vec<u64>,
    n_bytes: usize,
    /// The line that is read next, from 1.
    line: u64,
    header_is_due: bool,
    ended: bool,
}

enum Columns {
    Text(Vec<StringBuilder>),
    Binary(Vec<BinaryBuilder>),
}

impl CopyReader {
    pub fn new(options: CopyOptions, schema: SchemaRef) -> Self {
        let header_is_due = options.format == CopyFormat::Binary || options.header != CopyHeader::None;
        CopyReader {
            columns: Columns::new(options.format, schema.fields().len()),
            options,
            schema,
            pending: BytesMut::new(),
            scanned: 0,
            in_quotes: false,
            lines: Vec::new(),
            n_bytes: 0,
            line: 1,
            header_is_due,
            ended: false,
        }
    }

    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SqlError> {
        if self.ended {
            // Behind `\.` there may be anything.
            return Ok(());
        }
        self.pending.extend_from_slice(bytes);
        match self.options.format {
            CopyFormat::Binary => while self.binary_row()? {},
            CopyFormat::Text | CopyFormat::Csv => {
                while !self.ended
                    && let Some(end) = self.line_end()
                {
                    let line = self.pending.split_to(end + 1);
                    self.scanned = 0;
                    self.text_line(&line[..end])?;
                }
            }
        }
        Ok(())
    }

    /// A batch, when enough rows are together.
    pub fn take_full_batch(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        if self.lines.len() < BATCH_ROWS && self.n_bytes < BATCH_BYTES {
            return Ok(None);
        }
        self.take_batch()
    }

    /// The rows that are left, once all bytes are in.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        if !self.ended {
            match self.options.format {
                CopyFormat::Binary => {
                    if !self.pending.is_empty() || self.header_is_due {
                        return Err(self.malformed("unexpected EOF in COPY data"));
                    }
                }
                CopyFormat::Text | CopyFormat::Csv => {
                    // Whether the quotes are closed shows by looking at all of it.
                    if self.line_end().is_none() && self.in_quotes {
                        return Err(self.malformed("unterminated CSV quoted field"));
                    }
                    let line = self.pending.split();
                    if !line.is_empty() {
                        self.text_line(&line)?;
                    }
                }
            }
        }
        self.take_batch()
    }

    fn malformed(&self, message: impl Into<String>) -> SqlError {
        SqlError::new(SqlState::BAD_COPY_FORMAT, message).with_detail(format!("COPY line {}.", self.line))
    }

    /// The newline that ends the next row.
    fn line_end(&mut self) -> Option<usize> {
        let mut at = self.scanned;
        while at < self.pending.len() {
            let byte = self.pending[at];
            if self.options.format == CopyFormat::Text {
                if byte == b'\\' {
                    // A backslash takes the byte behind it along, be it a newline.
                    if at + 1 == self.pending.len() {
                        break;
                    }
                    at += 2;
                    continue;
                }
            } else if self.in_quotes && byte == self.options.escape && byte != self.options.quote {
                if at + 1 == self.pending.len() {
                    break;
                }
                at += 2;
                continue;
            } else if byte == self.options.quote {
                // A doubled quote closes and opens: it comes out right.
                self.in_quotes = !self.in_quotes;
            }
            if byte == b'\n' && !self.in_quotes {
                self.scanned = at;
                return Some(at);
            }
            at += 1;
        }
        self.scanned = at;
        None
    }

    fn text_line(&mut self, line: &[u8]) -> Result<(), SqlError> {
        let first_line = self.line;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"\\." {
            self.ended = true;
            return Ok(());
        }
        let fields = match self.options.format {
            CopyFormat::Csv => csv_fields(&self.options, line),
            _ => text_fields(&self.options, line),
        };
        let n_columns = self.schema.fields().len();
        if std::mem::take(&mut self.header_is_due) {
            if self.options.header == CopyHeader::Match {
                self.match_header(&fields)?;
            }
        } else {
            // A line without anything is a row of a table without columns.
            let n_fields = if n_columns == 0 && line.is_empty() { 0 } else { fields.len() };
            if n_fields > n_columns {
                return Err(self.malformed("extra data after last expected column"));
            }
            if let Some(field) = self.schema.fields().get(n_fields) {
                let message = format!("missing data for column \"{}\"", field.name());
                return Err(self.malformed(message));
            }
            let Columns::Text(columns) = &mut self.columns else {
                unreachable!("lines are text");
            };
            for (n, (column, field)) in columns.iter_mut().zip(&fields).enumerate() {
                let Some(field) = field else {
                    column.append_null();
                    continue;
                };
                self.n_bytes += field.len();
                let text = utf8(field).map_err(|error| {
                    let name = self.schema.field(n).name();
                    error.with_detail(format!("COPY line {first_line}, column \"{name}\"."))
                })?;
                column.append_value(text);
            }
            self.lines.push(first_line);
        }
        self.line += 1 + line.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(())
    }

    fn match_header(&self, fields: &[Option<Vec<u8>>]) -> Result<(), SqlError> {
        let names = self.schema.fields().iter().map(|field| field.name().as_bytes());
        let same = fields.len() == self.schema.fields().len()
            && fields.iter().zip(names).all(|(field, name)| field.as_deref() == Some(name));
        if same {
            return Ok(());
        }
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        Err(self
            .malformed("column names of the header line do not match")
            .with_hint(format!("Expected are: {}.", names.join(", "))))
    }

    /// Reads a row if all of it is there.
    fn binary_row(&mut self) -> Result<bool, SqlError> {
        if self.ended {
            self.pending.clear();
            return Ok(false);
        }
        let mut rest = &self.pending[..];
        if self.header_is_due {
            if rest.len() < 19 {
                return Ok(false);
            }
            if !rest.starts_with(BINARY_SIGNATURE) {
                return Err(self.malformed("COPY file signature not recognized"));
            }
            rest.advance(BINARY_SIGNATURE.len());
            let flags = rest.get_u32();
            if flags >> 16 != 0 {
                return Err(self.malformed("unrecognized critical flags in COPY file header"));
            }
            let Ok(extension) = usize::try_from(rest.get_i32()) else {
                return Err(self.malformed("invalid COPY file header (wrong length)"));
            };
            if rest.len() < extension {
                return Ok(false);
            }
            self.header_is_due = false;
            self.pending.advance(19 + extension);
            return Ok(true);
        }
        let Ok(n_fields) = rest.try_get_i16() else {
            return Ok(false);
        };
        if n_fields == -1 {
            self.ended = true;
            self.pending.clear();
            return Ok(false);
        }
        let n_columns = self.schema.fields().len();
        if n_fields != n_columns as i16 {
            let message = format!("row field count is {n_fields}, expected {n_columns}");
            return Err(self.malformed(message));
        }
        // Looked through first: a builder cannot take back half a row.
        let values = rest;
        for _ in 0..n_fields {
            let Ok(length) = rest.try_get_i32() else {
                return Ok(false);
            };
            if length < -1 {
                return Err(self.malformed("invalid field size"));
            }
            match rest.get(length.max(0) as usize..) {
                Some(behind) => rest = behind,
                None => return Ok(false),
            }
        }
        let length = self.pending.len() - rest.len();
        let mut values = values;
        let Columns::Binary(columns) = &mut self.columns else {
            unreachable!("the format is binary");
        };
        for column in columns {
            match usize::try_from(values.get_i32()) {
                Err(_) => column.append_null(),
                Ok(length) => {
                    column.append_value(&values[..length]);
                    values.advance(length);
                    self.n_bytes += length;
                }
            }
        }
        self.lines.push(self.line);
        self.line += 1;
        self.pending.advance(length);
        Ok(true)
    }

    fn take_batch(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        let lines = std::mem::take(&mut self.lines);
        self.n_bytes = 0;
        if lines.is_empty() {
            return Ok(None);
        }
        let n_columns = self.schema.fields().len();
        let columns = std::mem::replace(&mut self.columns, Columns::new(self.options.format, n_columns));
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(n_columns);
        let located = |n: usize, ValueError { row_idx, error }: ValueError| {
            let name = self.schema.field(n).name();
            let line = lines.get(row_idx).copied().unwrap_or(0);
            let place = format!("COPY line {line}, column \"{name}\".");
            SqlError {
                detail: Some(match &error.detail {
                    Some(detail) => format!("{detail} {place}"),
                    None => place,
                }),
                ..error
            }
        };
        match columns {
            Columns::Text(columns) => {
                for (n, mut column) in columns.into_iter().enumerate() {
                    let data_type = self.schema.field(n).data_type();
                    let array = text_column(&column.finish(), data_type);
                    arrays.push(array.map_err(|error| located(n, error))?);
                }
            }
            Columns::Binary(columns) => {
                for (n, mut column) in columns.into_iter().enumerate() {
                    let field = self.schema.field(n);
                    let pg_type = column_type(field).pg_type;
                    let array = binary_column(&column.finish(), &pg_type, field.data_type());
                    arrays.push(array.map_err(|error| located(n, error))?);
                }
            }
        }
        for (n, (array, field)) in arrays.iter().zip(self.schema.fields()).enumerate() {
            if !field.is_nullable()
                && let Some(row_idx) = (0..array.len()).find(|row_idx| array.is_null(*row_idx))
            {
                let message =
                    format!("null value in column \"{}\" violates not-null constraint", field.name());
                let error = SqlError::new(SqlState::NOT_NULL_VIOLATION, message);
                return Err(located(n, ValueError { row_idx, error }));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map(Some)
            .map_err(|error| SqlError::new(SqlState::INTERNAL_ERROR, error.to_string()))
    }
}

impl Columns {
    fn new(format: CopyFormat, n_columns: usize) -> Self {
        match format {
            CopyFormat::Binary => Columns::Binary((0..n_columns).map(|_| BinaryBuilder::new()).collect()),
            CopyFormat::Text | CopyFormat::Csv => {
                Columns::Text((0..n_columns).map(|_| StringBuilder::new()).collect())
            }
        }
    }
}

/// The fields of a line of text; null is what reads as such before backslashes are resolved.
fn text_fields(options: &CopyOptions, line: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut at = 0;
    loop {
        let ends = at >= line.len();
        if ends || line[at] == options.delimiter {
            let raw = &line[start..at.min(line.len())];
            let null = raw == options.null.as_bytes();
            fields.push((!null).then(|| unescape(raw)));
            if ends {
                return fields;
            }
            start = at + 1;
        }
        at += if line[at] == b'\\' { 2 } else { 1 };
    }
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            value.push(byte);
            continue;
        }
        let is_octal = |byte: &u8| (b'0'..=b'7').contains(byte);
        value.push(match bytes.next() {
            None => b'\\',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0b,
            Some(digit) if is_octal(&digit) => {
                let mut code = digit - b'0';
                for _ in 0..2 {
                    if let Some(digit) = bytes.next_if(is_octal) {
                        code = code.wrapping_mul(8) | (digit - b'0');
                    }
                }
                code
            }
            Some(b'x') if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut code = 0u8;
                for _ in 0..2 {
                    if let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit) {
                        let digit = char::from(digit).to_digit(16).unwrap_or(0);
                        code = code << 4 | digit as u8;
                    }
                }
                code
            }
            Some(byte) => byte,
        });
    }
    value
}

/// The fields of a record of CSV; what was quoted is never null.
fn csv_fields(options: &CopyOptions, record: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::new();
    let mut value = Vec::new();
    let (mut in_quotes, mut was_quoted) = (false, false);
    let mut bytes = record.iter().copied().peekable();
    loop {
        let byte = bytes.next();
        match byte {
            Some(byte) if in_quotes => {
                let escapes = byte == options.escape
                    && bytes.peek().is_some_and(|b| *b == options.quote || *b == options.escape);
                if escapes {
                    value.extend(bytes.next());
                } else if byte == options.quote {
                    in_quotes = false;
                } else {
                    value.push(byte);
                }
            }
            Some(byte) if byte == options.quote => {
                in_quotes = true;
                was_quoted = true;
            }
            Some(byte) if byte != options.delimiter => value.push(byte),
            byte => {
                let null = !was_quoted && value == options.null.as_bytes();
                fields.push((!null).then(|| std::mem::take(&mut value)));
                value.clear();
                was_quoted = false;
                if byte.is_none() {
                    return fields;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
