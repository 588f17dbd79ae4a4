//! A statement's text, and where in it things stand.
//!
//! The tokenizer counts lines and columns in characters, both from 1; PostgreSQL's clients want
//! one number, in characters from 1; slices want bytes from 0. This file is the only one that
//! converts between the three.

use datafusion::sql::sqlparser::tokenizer::Location;

/// A text that can be asked for positions.
#[derive(Debug, Clone)]
pub struct Text<'a> {
    sql: &'a str,
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
struct Line {
    /// Where the line begins, in bytes.
    byte: usize,
    /// Where the line begins, in characters.
    char: usize,
    /// Columns are bytes: the usual case, and quadratic work without this.
    ascii: bool,
}

impl<'a> Text<'a> {
    /// Indexes the lines of `sql`.
    pub fn new(sql: &'a str) -> Text<'a> {
        let mut lines = Vec::new();
        let (mut byte, mut char) = (0, 0);
        for line in sql.split_inclusive('\n') {
            lines.push(Line { byte, char, ascii: line.is_ascii() });
            byte += line.len();
            char += line.chars().count();
        }
        if lines.is_empty() || sql.ends_with('\n') {
            lines.push(Line { byte, char, ascii: true });
        }
        Text { sql, lines }
    }

    /// The text itself.
    pub fn sql(&self) -> &'a str {
        self.sql
    }

    /// The character position, from 1, of a location; `None` for the empty location that the
    /// parser gives to what was not in the text.
    pub fn position(&self, location: Location) -> Option<usize> {
        let line = self.line(location)?;
        Some(line.char + location.column.max(1) as usize)
    }

    /// The byte offset of a location, at most the length of the text.
    pub fn byte(&self, location: Location) -> Option<usize> {
        let line = self.line(location)?;
        let column = location.column.max(1) as usize - 1;
        let rest = &self.sql[line.byte..];
        let within = match line.ascii {
            true => column.min(rest.len()),
            false => rest.char_indices().nth(column).map_or(rest.len(), |(byte, _)| byte),
        };
        Some(line.byte + within)
    }

    /// The character position, from 1, of a byte offset.
    pub fn position_of_byte(&self, byte: usize) -> usize {
        self.sql[..byte].chars().count() + 1
    }

    /// One past the last character, as PostgreSQL counts the end of input.
    pub fn end_position(&self) -> usize {
        self.sql.trim_end().chars().count() + 1
    }

    fn line(&self, location: Location) -> Option<&Line> {
        // Line 0 is the parser's "nowhere".
        self.lines.get((location.line as usize).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_and_offsets_count_bytes() {
        let text = Text::new("SELECT 'é',\n  x");
        let x = Location::new(2, 3);
        assert_eq!(text.position(x), Some(15));
        assert_eq!(&text.sql()[text.byte(x).unwrap()..], "x");
        let comma = Location::new(1, 11);
        assert_eq!(&text.sql()[text.byte(comma).unwrap()..][..1], ",");
        assert_eq!(text.position(Location::empty()), None);
        assert_eq!(text.end_position(), 16);
        assert_eq!(text.position_of_byte(text.byte(x).unwrap()), 15);
    }

    #[test]
    fn the_empty_text_has_one_line() {
        assert_eq!(Text::new("").position(Location::new(1, 1)), Some(1));
        assert_eq!(Text::new("a\n").position(Location::new(2, 1)), Some(3));
    }
}
