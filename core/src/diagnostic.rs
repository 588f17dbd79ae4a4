//! What an error tells its reader beside its text: SQLSTATE, hint, detail, position.

use std::fmt;

/// A five-character condition code, as in PostgreSQL's appendix A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl SqlState {
    pub const WARNING: SqlState = SqlState("01000");
    pub const CONNECTION_FAILURE: SqlState = SqlState("08001");
    pub const PROTOCOL_VIOLATION: SqlState = SqlState("08P01");
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState("0A000");
    pub const CARDINALITY_VIOLATION: SqlState = SqlState("21000");
    pub const DATA_EXCEPTION: SqlState = SqlState("22000");
    pub const NUMERIC_OUT_OF_RANGE: SqlState = SqlState("22003");
    pub const NULL_NOT_ALLOWED: SqlState = SqlState("22004");
    pub const DATETIME_FORMAT: SqlState = SqlState("22007");
    pub const DIVISION_BY_ZERO: SqlState = SqlState("22012");
    pub const INVALID_PARAMETER: SqlState = SqlState("22023");
    pub const SKIP_TO_NON_EXISTENT_ROW: SqlState = SqlState("2202K");
    pub const SKIP_TO_FIRST_ROW_OF_MATCH: SqlState = SqlState("2202L");
    pub const INVALID_TEXT: SqlState = SqlState("22P02");
    pub const BAD_COPY_FORMAT: SqlState = SqlState("22P04");
    pub const NOT_NULL_VIOLATION: SqlState = SqlState("23502");
    pub const UNIQUE_VIOLATION: SqlState = SqlState("23505");
    pub const ACTIVE_TRANSACTION: SqlState = SqlState("25001");
    pub const READ_ONLY_TRANSACTION: SqlState = SqlState("25006");
    pub const NO_ACTIVE_TRANSACTION: SqlState = SqlState("25P01");
    pub const IN_FAILED_TRANSACTION: SqlState = SqlState("25P02");
    pub const INVALID_SAVEPOINT: SqlState = SqlState("3B001");
    pub const INVALID_STATEMENT_NAME: SqlState = SqlState("26000");
    pub const INVALID_AUTHORIZATION: SqlState = SqlState("28000");
    pub const DEPENDENT_OBJECTS: SqlState = SqlState("2BP01");
    pub const INVALID_CURSOR_NAME: SqlState = SqlState("34000");
    pub const UNDEFINED_DATABASE: SqlState = SqlState("3D000");
    pub const UNDEFINED_SCHEMA: SqlState = SqlState("3F000");
    pub const SERIALIZATION_FAILURE: SqlState = SqlState("40001");
    pub const DEADLOCK_DETECTED: SqlState = SqlState("40P01");
    pub const SYNTAX_ERROR: SqlState = SqlState("42601");
    pub const UNDEFINED_COLUMN: SqlState = SqlState("42703");
    pub const AMBIGUOUS_COLUMN: SqlState = SqlState("42702");
    pub const DUPLICATE_COLUMN: SqlState = SqlState("42701");
    pub const UNDEFINED_OBJECT: SqlState = SqlState("42704");
    pub const DUPLICATE_OBJECT: SqlState = SqlState("42710");
    pub const GROUPING: SqlState = SqlState("42803");
    pub const DATATYPE_MISMATCH: SqlState = SqlState("42804");
    pub const WRONG_OBJECT_TYPE: SqlState = SqlState("42809");
    pub const UNDEFINED_FUNCTION: SqlState = SqlState("42883");
    pub const UNDEFINED_TABLE: SqlState = SqlState("42P01");
    pub const DUPLICATE_CURSOR: SqlState = SqlState("42P03");
    pub const DUPLICATE_PREPARED_STATEMENT: SqlState = SqlState("42P05");
    pub const DUPLICATE_SCHEMA: SqlState = SqlState("42P06");
    pub const DUPLICATE_TABLE: SqlState = SqlState("42P07");
    pub const INVALID_TABLE_DEFINITION: SqlState = SqlState("42P16");
    pub const INVALID_OBJECT_DEFINITION: SqlState = SqlState("42P17");
    pub const INDETERMINATE_DATATYPE: SqlState = SqlState("42P18");
    pub const WINDOWING: SqlState = SqlState("42P20");
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState("53300");
    pub const OUT_OF_MEMORY: SqlState = SqlState("53200");
    pub const STATEMENT_TOO_COMPLEX: SqlState = SqlState("54001");
    pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState("54000");
    pub const NOT_IN_PREREQUISITE_STATE: SqlState = SqlState("55000");
    pub const LOCK_NOT_AVAILABLE: SqlState = SqlState("55P03");
    pub const OBJECT_IN_USE: SqlState = SqlState("55006");
    pub const DISK_FULL: SqlState = SqlState("53100");
    pub const QUERY_CANCELED: SqlState = SqlState("57014");
    pub const ADMIN_SHUTDOWN: SqlState = SqlState("57P01");
    pub const IO_ERROR: SqlState = SqlState("58030");
    pub const INTERNAL_ERROR: SqlState = SqlState("XX000");
    pub const DATA_CORRUPTED: SqlState = SqlState("XX001");
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What every crate's `Error` says of itself, so that a client gets more than text.
pub trait Diagnostic: std::error::Error {
    /// The condition code.
    fn sqlstate(&self) -> SqlState;

    /// What to do about it: whole sentences.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Facts that are too long for the message.
    fn detail(&self) -> Option<String> {
        None
    }

    /// Where in the statement, in characters from 1.
    fn position(&self) -> Option<usize> {
        None
    }
}

/// The name among `candidates` that `name` was most likely meant to be.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    // Two typing errors in a word of eight letters are still the same word; two in three are not.
    let distance_max = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance with transposition of neighbours (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["amount", "auction", "bidder"];
        assert_eq!(did_you_mean("amuont", names), Some("amount"));
        assert_eq!(did_you_mean("AMOUNT", names), Some("amount"));
        assert_eq!(did_you_mean("price", names), None);
        assert_eq!(did_you_mean("a", ["b"]), Some("b"));
    }
}
