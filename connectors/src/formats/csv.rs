//! CSV records: splitting a text into records, and records into columns.
//!
//! As in RFC 4180 and PostgreSQL: a field that begins with the quote goes up to the closing one
//! and may hold delimiters, line ends and doubled quotes. A quote elsewhere in a field is an
//! ordinary character. A quoted field is never NULL.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Fields};
use tidemill_core::SqlState;
use tidemill_core::did_you_mean;
use tidemill_core::source::ConnectorError;

use crate::formats::records::{Decoded, Fault};
use crate::formats::text;
use crate::options::{AsciiChar, options};

options! {
    /// `ENCODE CSV (…)`
    pub struct CsvOptions {
        /// Whether the first line of a file names the columns. Then columns are matched by name,
        /// otherwise by position.
        "header" => header: bool = "false",
        /// The text that stands for NULL where it is not quoted. In columns that are not text, an empty
        /// field is NULL as well.
        "null" => null: String = "",
        /// What separates fields.
        "delimiter" => delimiter: AsciiChar = ",",
        /// What encloses fields that hold delimiters or line ends.
        "quote" => quote: AsciiChar = "\"",
        /// What stands before a quote inside of quotes; the quote itself unless given.
        "escape" => escape: Option<AsciiChar>,
    }
}

/// The characters that mean something.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    pub delimiter: u8,
    pub quote: u8,
    /// Another escape character than the doubled quote.
    pub escape: Option<u8>,
}

/// What stands at the beginning of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordEnd {
    /// A record of `len` bytes; the next one begins behind its line end, at `next`.
    At { len: usize, next: usize },
    /// The text ends within the record.
    Incomplete {
        /// Whether that is inside of quotes.
        quoted: bool,
    },
}

impl Dialect {
    /// Where the record at the beginning of `text` ends.
    pub fn record_end(&self, text: &[u8]) -> RecordEnd {
        let mut at = 0;
        while let Some(found) = memchr::memchr2(b'\n', self.quote, &text[at..]) {
            let here = at + found;
            if text[here] == b'\n' {
                let len = if here > 0 && text[here - 1] == b'\r' { here - 1 } else { here };
                return RecordEnd::At { len, next: here + 1 };
            }
            let begins_field = here == 0 || text[here - 1] == self.delimiter;
            if !begins_field {
                at = here + 1;
                continue;
            }
            match self.closing_quote(text, here + 1) {
                Some(closing) => at = closing + 1,
                None => return RecordEnd::Incomplete { quoted: true },
            }
        }
        RecordEnd::Incomplete { quoted: false }
    }

    /// The quote that ends the quoted field whose inside begins at `from`.
    fn closing_quote(&self, text: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let here = match self.escape {
                None => at + memchr::memchr(self.quote, text.get(at..)?)?,
                Some(escape) => at + memchr::memchr2(self.quote, escape, text.get(at..)?)?,
            };
            match self.escape {
                Some(escape) if text[here] == escape => at = here + 2,
                None if text.get(here + 1) == Some(&self.quote) => at = here + 2,
                _ => return Some(here),
            }
        }
    }

    /// Calls `field` with each field of a record, unquoted, and whether it was quoted.
    fn fields(&self, record: &[u8], scratch: &mut Vec<u8>, mut field: impl FnMut(FieldText)) {
        let mut at = 0;
        loop {
            let end = if record.get(at) == Some(&self.quote) {
                let closing = self.closing_quote(record, at + 1).unwrap_or(record.len());
                // What follows the closing quote, up to the delimiter, belongs to the field too.
                let rest = (closing + 1).min(record.len());
                let end =
                    rest + memchr::memchr(self.delimiter, &record[rest..]).unwrap_or(record.len() - rest);
                let inside = at + 1..closing;
                let is_plain = end == rest
                    && memchr::memchr2(
                        self.quote,
                        self.escape.unwrap_or(self.quote),
                        &record[inside.clone()],
                    )
                    .is_none();
                if is_plain {
                    field(FieldText::Record { range: inside, quoted: true });
                } else {
                    let from = scratch.len();
                    self.unescape(&record[inside], scratch);
                    scratch.extend_from_slice(&record[rest..end]);
                    field(FieldText::Scratch(from..scratch.len()));
                }
                end
            } else {
                let end = at + memchr::memchr(self.delimiter, &record[at..]).unwrap_or(record.len() - at);
                field(FieldText::Record { range: at..end, quoted: false });
                end
            };
            if end >= record.len() {
                return;
            }
            at = end + 1;
        }
    }

    fn unescape(&self, inside: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while at < inside.len() {
            let escape = self.escape.unwrap_or(self.quote);
            let Some(found) = memchr::memchr(escape, &inside[at..]) else {
                break;
            };
            out.extend_from_slice(&inside[at..at + found]);
            if let Some(escaped) = inside.get(at + found + 1) {
                out.push(*escaped);
            }
            at += found + 2;
        }
        out.extend_from_slice(inside.get(at..).unwrap_or_default());
    }

    /// The fields of a header line.
    pub fn header(&self, line: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut scratch = Vec::new();
        let mut fields = Vec::new();
        self.fields(line, &mut scratch, |field| fields.push(field));
        for field in fields {
            let text = match field {
                FieldText::Record { range, .. } => &line[range],
                FieldText::Scratch(range) => &scratch[range],
            };
            names.push(String::from_utf8_lossy(text).trim().to_string());
        }
        names
    }
}

/// Where a field's text is.
enum FieldText {
    Record { range: Range<usize>, quoted: bool },
    Scratch(Range<usize>),
}

/// Turns CSV records into columns.
#[derive(Debug, Clone)]
pub struct CsvDecoder {
    dialect: Dialect,
    null: Vec<u8>,
    columns: Fields,
    /// For each column the index of its field.
    places: Vec<usize>,
    /// How many fields each record has.
    n_fields: usize,
    /// Columns that are looked at, but not made.
    left_out: Vec<usize>,
}

impl CsvOptions {
    pub fn dialect(&self) -> Dialect {
        let quote = self.quote.0;
        let escape = self.escape.map(|escape| escape.0).filter(|escape| *escape != quote);
        Dialect { delimiter: self.delimiter.0, quote, escape }
    }
}

impl CsvDecoder {
    /// A decoder of records whose fields are `columns` in their order.
    pub fn new(options: &CsvOptions, columns: Fields) -> Result<CsvDecoder, ConnectorError> {
        if let Some(column) = columns.iter().find(|column| !text::is_parsable(column.data_type())) {
            let message =
                format!("column \"{}\" cannot be of type {} in CSV", column.name(), column.data_type());
            return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message));
        }
        Ok(CsvDecoder {
            dialect: options.dialect(),
            null: options.null.clone().into_bytes(),
            places: (0..columns.len()).collect(),
            n_fields: columns.len(),
            left_out: Vec::new(),
            columns,
        })
    }

    /// Makes no values of some columns where it can tell without which of them are bad: of texts.
    pub fn leave_out(&mut self, columns: &[usize]) {
        let is_text = |idx: &usize| self.columns[*idx].data_type() == &DataType::Utf8;
        self.left_out = columns.iter().copied().filter(is_text).collect();
    }

    /// Finds the columns by the names in the header of `file`.
    pub fn set_header(&mut self, header: &[String], file: &str) -> Result<(), ConnectorError> {
        let place = |column: &Arc<Field>| {
            header.iter().position(|name| name == column.name()).ok_or_else(|| {
                let message = format!("file \"{file}\" has no column \"{}\"", column.name());
                let error = ConnectorError::fatal(SqlState::UNDEFINED_COLUMN, message);
                match did_you_mean(column.name(), header.iter().map(String::as_str)) {
                    Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                    None => error.with_hint(format!("Its header names: {}.", header.join(", "))),
                }
            })
        };
        self.places = self.columns.iter().map(place).collect::<Result<_, _>>()?;
        self.n_fields = header.len();
        Ok(())
    }

    pub fn decode(&self, values: &[&[u8]]) -> Decoded {
        let n_columns = self.columns.len();
        let mut column_of = vec![usize::MAX; self.n_fields];
        for (column_idx, place) in self.places.iter().enumerate() {
            column_of[*place] = column_idx;
        }
        let mut scratch = Vec::new();
        // Row by row; `None` is NULL.
        let mut fields: Vec<Option<FieldText>> = Vec::with_capacity(values.len() * n_columns);
        let mut rows: Vec<usize> = Vec::with_capacity(values.len());
        let mut bad = Vec::new();
        for (value_idx, value) in values.iter().enumerate() {
            let begin = fields.len();
            fields.resize_with(begin + n_columns, || None);
            let mut n_fields = 0;
            self.dialect.fields(value, &mut scratch, |field| {
                if let Some(column_idx) = column_of.get(n_fields).filter(|idx| **idx != usize::MAX) {
                    let is_null = match &field {
                        FieldText::Record { range, quoted: false } => value[range.clone()] == self.null,
                        _ => false,
                    };
                    fields[begin + column_idx] = (!is_null).then_some(field);
                }
                n_fields += 1;
            });
            if n_fields == self.n_fields {
                rows.push(value_idx);
            } else {
                fields.truncate(begin);
                bad.push((value_idx, self.wrong_count(n_fields)));
            }
        }

        let mut faults = Vec::new();
        let columns: Vec<ArrayRef> = (0..n_columns)
            .map(|column_idx| {
                let column = &self.columns[column_idx];
                let texts = rows.iter().enumerate().map(|(row_idx, value_idx)| {
                    fields[row_idx * n_columns + column_idx].as_ref().map(|field| match field {
                        FieldText::Record { range, .. } => &values[*value_idx][range.clone()],
                        FieldText::Scratch(range) => &scratch[range.clone()],
                    })
                });
                match self.left_out.contains(&column_idx) {
                    true => text::check_texts(column, texts, &mut faults),
                    false => text::parse_column(column.name(), column.data_type(), texts, &mut faults),
                }
            })
            .collect();
        let mut decoded = Decoded { columns, rows, bad };
        decoded.remove(faults);
        decoded
    }

    fn wrong_count(&self, n_fields: usize) -> Fault {
        let reason = match self.columns.iter().zip(&self.places).find(|(_, place)| **place >= n_fields) {
            Some((column, _)) => {
                let expected = self.n_fields;
                format!(
                    "the record has {n_fields} fields of {expected}: none for column \"{}\"",
                    column.name()
                )
            }
            None => format!("the record has {n_fields} fields where {} are expected", self.n_fields),
        };
        Fault::new(SqlState::BAD_COPY_FORMAT, reason)
    }
}
