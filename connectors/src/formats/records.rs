//! Records as they came: bytes with their place in the split, not yet decoded.

use std::ops::Range;

use tidemill_core::SqlState;

/// One record; the ranges are places in [`Records::bytes`].
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub key: Option<Range<usize>>,
    /// Without a value, the record deletes its key (`FORMAT UPSERT`).
    pub value: Option<Range<usize>>,
    /// Its position in the split.
    pub offset: i64,
    /// When it was written, in milliseconds since 1970.
    pub timestamp_millis: Option<i64>,
    /// Its places in [`Records::headers`].
    pub headers: Range<usize>,
}

/// The name and value of a header; the ranges are places in [`Records::bytes`].
#[derive(Debug, Clone)]
pub struct Header {
    pub name: Range<usize>,
    pub value: Option<Range<usize>>,
}

/// Records of one split in their order.
#[derive(Debug, Clone, Default)]
pub struct Records<'a> {
    pub bytes: &'a [u8],
    pub records: &'a [Record],
    pub headers: &'a [Header],
    /// The partition's number, where partitions have one.
    pub partition: Option<i32>,
    /// The file's path, where there is a file.
    pub file: Option<&'a str>,
}

impl<'a> Records<'a> {
    pub fn get(&self, range: &Range<usize>) -> &'a [u8] {
        &self.bytes[range.clone()]
    }

    /// The value of a record, or its key where it has no value: what a dead letter shows.
    pub fn raw(&self, idx: usize) -> &'a [u8] {
        let record = &self.records[idx];
        record.value.as_ref().or(record.key.as_ref()).map_or(&[], |range| self.get(range))
    }
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub sqlstate: SqlState,
    /// Names the column where one is at fault.
    pub reason: String,
}

impl Fault {
    pub fn new(sqlstate: SqlState, reason: impl Into<String>) -> Fault {
        Fault { sqlstate, reason: reason.into() }
    }
}

/// Columns decoded out of values, of which some may have been bad.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// One row for each good value.
    pub columns: Vec<arrow::array::ArrayRef>,
    /// For each row the index of its value, ascending.
    pub rows: Vec<usize>,
    /// The other values, ascending.
    pub bad: Vec<(usize, Fault)>,
}

impl Decoded {
    /// Takes the rows with faults, given by row index, out of the rows.
    pub fn remove(&mut self, mut faults: Vec<(usize, Fault)>) {
        if faults.is_empty() {
            return;
        }
        // The first fault of a row tells its reason.
        faults.sort_by_key(|(row_idx, _)| *row_idx);
        faults.dedup_by_key(|(row_idx, _)| *row_idx);
        let mut keep = vec![true; self.rows.len()];
        for (row_idx, fault) in faults {
            keep[row_idx] = false;
            self.bad.push((self.rows[row_idx], fault));
        }
        self.bad.sort_by_key(|(value_idx, _)| *value_idx);
        let mut kept = keep.iter();
        self.rows.retain(|_| *kept.next().expect("one flag per row"));
        let keep = arrow::array::BooleanArray::from(keep);
        for column in &mut self.columns {
            *column = arrow::compute::filter(column, &keep).expect("the mask is as long as the column");
        }
    }
}
