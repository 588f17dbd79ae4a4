//! Rows by folder, as Hive names folders: `country=DE/day=2026-01-31/`.

use std::collections::HashMap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_core::source::ConnectorError;
use tidemill_core::{SqlState, did_you_mean};

/// The folder of NULL, by a name that other programs know.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// How rows are divided.
#[derive(Debug, Clone, Default)]
pub struct Partitioning {
    /// Places of the columns that are folders; without any, there are no folders.
    columns: Vec<usize>,
    /// Places of the others.
    kept: Vec<usize>,
}

impl Partitioning {
    /// `a, b`, of the columns of `schema`.
    pub fn new(text: &str, schema: &Schema) -> Result<Partitioning, ConnectorError> {
        let invalid = |sqlstate, message: String, hint: String| {
            Err(ConnectorError::fatal(sqlstate, message).with_hint(hint))
        };
        let mut columns = Vec::new();
        for name in text.split(',').map(str::trim) {
            let Ok(idx) = schema.index_of(name) else {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let message = format!("column \"{name}\" of partition_by does not exist");
                let hint = match did_you_mean(name, names.clone()) {
                    Some(near) => format!("Perhaps you meant \"{near}\"."),
                    None => format!("The columns are: {}.", names.collect::<Vec<_>>().join(", ")),
                };
                return invalid(SqlState::UNDEFINED_COLUMN, message, hint);
            };
            if columns.contains(&idx) {
                let message = format!("column \"{name}\" stands in partition_by twice");
                return invalid(SqlState::INVALID_PARAMETER, message, "Name each column once.".into());
            }
            let data_type = schema.field(idx).data_type();
            if !has_name(data_type) {
                let message = format!("column \"{name}\" of partition_by is no name of a folder");
                let hint = "Partition by texts, numbers, booleans, dates or timestamps.".into();
                return invalid(SqlState::DATATYPE_MISMATCH, message, hint);
            }
            columns.push(idx);
        }
        let kept: Vec<usize> = (0..schema.fields().len()).filter(|idx| !columns.contains(idx)).collect();
        if kept.is_empty() {
            let message = "partition_by names all columns, which leaves nothing for the files".into();
            let hint = "The columns of folders are not in the files: leave one out.".into();
            return invalid(SqlState::INVALID_PARAMETER, message, hint);
        }
        Ok(Partitioning { columns, kept })
    }

    /// The schema of the files.
    pub fn schema(&self, rows: &SchemaRef) -> SchemaRef {
        match self.columns.is_empty() {
            true => rows.clone(),
            false => rows.project(&self.kept).expect("the places are those of columns").into(),
        }
    }

    /// The rows of each folder, in their order; folders in the order in which they first come.
    pub fn divide(&self, rows: RecordBatch) -> Result<Vec<(String, RecordBatch)>, ArrowError> {
        if self.columns.is_empty() {
            return Ok(vec![(String::new(), rows)]);
        }
        const OPTIONS: FormatOptions<'static> = FormatOptions::new()
            .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
            .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
        let schema = rows.schema();
        let mut values = Vec::new();
        for idx in &self.columns {
            let column = rows.column(*idx);
            values.push((
                escape(schema.field(*idx).name()),
                column,
                ArrayFormatter::try_new(column, &OPTIONS)?,
            ));
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut folders: Vec<(String, Vec<u32>)> = Vec::new();
        let mut folder = String::new();
        for row_idx in 0..rows.num_rows() {
            folder.clear();
            for (name, column, formatter) in &values {
                folder.push_str(name);
                folder.push('=');
                match column.is_null(row_idx) {
                    true => folder.push_str(NULL),
                    false => folder.push_str(&escape(&formatter.value(row_idx).try_to_string()?)),
                }
                folder.push('/');
            }
            let place = match places.get(&folder) {
                Some(place) => *place,
                None => {
                    places.insert(folder.clone(), folders.len());
                    folders.push((folder.clone(), Vec::new()));
                    folders.len() - 1
                }
            };
            folders[place].1.push(row_idx as u32);
        }
        let kept = rows.project(&self.kept)?;
        let taken = |(folder, rows): (String, Vec<u32>)| {
            Ok((folder, take_record_batch(&kept, &UInt32Array::from(rows))?))
        };
        folders.into_iter().map(taken).collect()
    }
}

/// Whether values are short texts, of which each stands for itself alone.
fn has_name(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_name(values),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Boolean => true,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => true,
        DataType::Time32(_) | DataType::Time64(_) => true,
        other => other.is_numeric(),
    }
}

/// What Hive, Spark and DuckDB read as the value: `%` and two digits for what paths and globs do not like.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"'
            | '#'
            | '%'
            | '\''
            | '*'
            | '/'
            | ':'
            | '='
            | '?'
            | '\\'
            | '{'
            | '['
            | ']'
            | '^'
            | '\x00'..='\x1f'
            | '\x7f' => {
                escaped.push_str(&format!("%{:02X}", c as u32));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn rows_go_into_folders() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a/b=%"), None, Some(""), Some("a/b=%")]));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 0, 1_500_000, 0]));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let rows = RecordBatch::try_from_iter([("t", texts), ("id", ids), ("at time", times)]).unwrap();
        let partitioning = Partitioning::new("t, at time", &rows.schema()).unwrap();
        assert_eq!(partitioning.schema(&rows.schema()).fields().len(), 1);
        let divided = partitioning.divide(rows.clone()).unwrap();
        let shown: Vec<(&str, String)> = divided
            .iter()
            .map(|(folder, rows)| (folder.as_str(), crate::conformance::lines(rows).join(";")))
            .collect();
        assert_eq!(
            shown,
            [
                ("t=a%2Fb%3D%25/at time=1970-01-01 00%3A00%3A00/", "1;4".to_string()),
                ("t=__HIVE_DEFAULT_PARTITION__/at time=1970-01-01 00%3A00%3A00/", "2".to_string()),
                ("t=/at time=1970-01-01 00%3A00%3A01.500/", "3".to_string()),
            ]
        );
        let all = Partitioning::default().divide(rows).unwrap();
        assert_eq!((all.len(), all[0].0.as_str(), all[0].1.num_columns()), (1, "", 3));
    }

    #[test]
    fn wrong_columns_are_named() {
        let schema = Schema::new(crate::declared::columns("id bigint, name text, raw bytes"));
        let error = |text: &str| {
            let error = Partitioning::new(text, &schema).unwrap_err();
            format!("{} {error} {}", error.sqlstate, error.hint.as_deref().unwrap_or_default())
        };
        assert_eq!(
            error("nam"),
            "42703 column \"nam\" of partition_by does not exist Perhaps you meant \"name\"."
        );
        assert!(error("id, id").contains("twice"));
        assert!(error("raw").starts_with("42804 column \"raw\" of partition_by is no name of a folder"));
        let all = Schema::new(crate::declared::columns("id bigint"));
        assert!(Partitioning::new("id", &all).unwrap_err().to_string().contains("all columns"));
    }
}
