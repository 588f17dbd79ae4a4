//! Errors and notices as a terminal shows them, in psql's verbose form:
//!
//! ```text
//! flights.sql:12:8: ERROR:  42703: column "carier" does not exist
//! LINE 12: SELECT carier, count(*) FROM flights
//!                 ^
//! HINT:  Perhaps you meant to reference the column "carrier".
//! ```

use unicode_width::UnicodeWidthStr;

use tokio_postgres::error::{DbError, ErrorPosition};

use crate::session::api::SqlError;

/// The widest part of a line that is shown around an error.
const WIDTH_MAX: usize = 100;

/// A text that statements come from, and where one of them begins in it.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// A file's name; nothing at a prompt.
    pub file: Option<&'a str>,
    pub text: &'a str,
    /// The number of characters before the statement that an error's position counts from.
    pub offset: usize,
}

/// What there is to say of an error, whoever found it.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    pub sqlstate: &'a str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
    /// In characters of the statement, from 1.
    pub position: Option<usize>,
}

impl<'a> From<&'a SqlError> for Problem<'a> {
    fn from(error: &'a SqlError) -> Problem<'a> {
        Problem {
            sqlstate: error.sqlstate.0,
            message: &error.message,
            detail: error.detail.as_deref(),
            hint: error.hint.as_deref(),
            position: error.position,
        }
    }
}

impl<'a> From<&'a DbError> for Problem<'a> {
    fn from(error: &'a DbError) -> Problem<'a> {
        Problem {
            sqlstate: error.code().code(),
            message: error.message(),
            detail: error.detail(),
            hint: error.hint(),
            position: match error.position() {
                Some(ErrorPosition::Original(position)) => Some(*position as usize),
                _ => None,
            },
        }
    }
}

impl Origin<'_> {
    /// The error with its place.
    pub fn error<'a>(&self, error: impl Into<Problem<'a>>) -> String {
        let error = error.into();
        let place = self.place(error.position);
        // Without a position the statement is what is known.
        let line_column = place.as_ref().map_or_else(|| self.start(), |place| (place.line, place.column));
        let mut out = match (self.file, &place) {
            (Some(file), Some(_)) => format!("{file}:{}:{}: ", line_column.0, line_column.1),
            (Some(file), None) => format!("{file}:{}: ", line_column.0),
            (None, _) => String::new(),
        };
        out += &format!("ERROR:  {}: {}\n", error.sqlstate, error.message);
        if let Some(place) = place {
            let prefix = format!("LINE {}: ", place.line);
            out += &format!("{prefix}{}\n", place.excerpt);
            out += &format!("{}^\n", " ".repeat(prefix.len() + place.before.width()));
        }
        if let Some(detail) = error.detail {
            out += &format!("DETAIL:  {detail}\n");
        }
        if let Some(hint) = error.hint {
            out += &format!("HINT:  {hint}\n");
        }
        out
    }

    /// Line and column of the statement.
    fn start(&self) -> (usize, usize) {
        let before = self.text.chars().take(self.offset);
        before.fold((1, 1), |(line, column), c| if c == '\n' { (line + 1, 1) } else { (line, column + 1) })
    }

    fn place(&self, position: Option<usize>) -> Option<Place> {
        let idx = self.offset + position?.checked_sub(1)?;
        let chars: Vec<char> = self.text.chars().collect();
        if idx > chars.len() {
            return None;
        }
        let start = chars[..idx].iter().rposition(|c| *c == '\n').map_or(0, |newline| newline + 1);
        let end = chars[idx..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| idx + n);
        let line = 1 + chars[..start].iter().filter(|c| **c == '\n').count();
        let show = |chars: &[char]| -> String {
            chars.iter().map(|c| if c.is_control() { ' ' } else { *c }).collect()
        };
        // Of a long line, what is around the error.
        let (from, to) = match end - start > WIDTH_MAX {
            true => (idx.saturating_sub(WIDTH_MAX / 2).max(start), (idx + WIDTH_MAX / 2).min(end)),
            false => (start, end),
        };
        let head = if from > start { "..." } else { "" };
        let tail = if to < end { "..." } else { "" };
        Some(Place {
            line,
            column: idx - start + 1,
            excerpt: format!("{head}{}{tail}", show(&chars[from..to])).trim_end().to_owned(),
            before: format!("{head}{}", show(&chars[from..idx])),
        })
    }
}

struct Place {
    line: usize,
    column: usize,
    excerpt: String,
    before: String,
}

/// An error that has no place in a text.
pub fn plain(error: &SqlError) -> String {
    let mut out = format!("error: {}\n", error.message);
    if let Some(detail) = &error.detail {
        out += &format!("detail: {detail}\n");
    }
    if let Some(hint) = &error.hint {
        out += &format!("hint: {hint}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use tidemill_core::SqlState;

    use super::*;

    #[test]
    fn errors_in_files_have_line_and_column() {
        let text = "CREATE SOURCE s;\n\nSELECT 'ü',\n\tcarier FROM s;\n";
        let offset = text.chars().position(|c| c == 'S').unwrap();
        assert_eq!(offset, 7);
        let offset = 18;
        let statement: String = text.chars().skip(offset).collect();
        let position = statement
            .chars()
            .collect::<String>()
            .find("carier")
            .map(|at| statement[..at].chars().count() + 1);
        let mut error = SqlError::new(SqlState::UNDEFINED_COLUMN, "column \"carier\" does not exist")
            .with_detail("There is more.")
            .with_hint("Did you mean \"carrier\"?");
        error.position = position;
        let origin = Origin { file: Some("job.sql"), text, offset };
        let expected = "job.sql:4:2: ERROR:  42703: column \"carier\" does not exist
LINE 4:  carier FROM s;
         ^
DETAIL:  There is more.
HINT:  Did you mean \"carrier\"?
";
        assert_eq!(origin.error(&error), expected);

        error.position = None;
        error.detail = None;
        error.hint = None;
        assert_eq!(origin.error(&error), "job.sql:3: ERROR:  42703: column \"carier\" does not exist\n");
        let prompt = Origin { file: None, text: "SELECT 1", offset: 0 };
        error.position = Some(8);
        let expected =
            "ERROR:  42703: column \"carier\" does not exist\nLINE 1: SELECT 1\n               ^\n";
        assert_eq!(prompt.error(&error), expected);
    }

    #[test]
    fn wide_characters_and_long_lines_keep_the_caret_below() {
        let error = SqlError::new(SqlState::SYNTAX_ERROR, "no").with_position(4);
        let wide = Origin { file: None, text: "日本 x", offset: 0 }.error(&error);
        assert_eq!(wide, "ERROR:  42601: no\nLINE 1: 日本 x\n             ^\n");

        let text = format!("{}X{}", "a".repeat(300), "b".repeat(300));
        let long = Origin { file: None, text: &text, offset: 0 }.error(&error.clone().with_position(301));
        let lines: Vec<&str> = long.lines().collect();
        assert!(lines[1].starts_with("LINE 1: ...aaa") && lines[1].ends_with("bbb..."), "{long}");
        assert_eq!(lines[1].as_bytes()[lines[2].len() - 1], b'X');

        // At the end of the text, and beyond it.
        let end = Origin { file: None, text: "SELECT", offset: 0 }.error(&error.clone().with_position(7));
        assert_eq!(end, "ERROR:  42601: no\nLINE 1: SELECT\n              ^\n");
        let beyond = Origin { file: None, text: "SELECT", offset: 0 }.error(&error.with_position(70));
        assert_eq!(beyond, "ERROR:  42601: no\n");
    }
}
