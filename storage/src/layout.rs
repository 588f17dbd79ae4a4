//! How an arrangement lays out a row: as one string of bytes that sorts like the row.
//!
//! The encoding is Arrow's row format: each column's bytes compare as the column does, and the
//! bytes of a row are those of its columns one after the other. So the bytes of the first k
//! columns are a prefix of the row's, and all rows of one key lie next to each other.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};

use crate::Error;

/// A column of an arrangement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortColumn {
    pub name: String,
    pub data_type: DataType,
    pub descending: bool,
    pub nulls_first: bool,
}

impl SortColumn {
    /// A column in ascending order, NULL first.
    pub fn ascending(field: &Field) -> SortColumn {
        SortColumn {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            descending: false,
            nulls_first: true,
        }
    }

    /// The bytes of values of this column. In a row they stand as they are, and none begins with those of another.
    pub fn encode(&self, values: &ArrayRef) -> Result<Rows, Error> {
        Ok(RowConverter::new(vec![self.sort_field()])?.convert_columns(std::slice::from_ref(values))?)
    }

    fn sort_field(&self) -> SortField {
        let options = SortOptions { descending: self.descending, nulls_first: self.nulls_first };
        SortField::new_with_options(self.data_type.clone(), options)
    }
}

/// The columns of an arrangement, of which the first `n_keys` are its key.
#[derive(Debug)]
pub struct Layout {
    columns: Vec<SortColumn>,
    n_keys: usize,
    schema: SchemaRef,
    rows: RowConverter,
    keys: RowConverter,
}

impl Layout {
    /// Rows of `columns`, looked up by the first `n_keys` of them.
    pub fn new(columns: Vec<SortColumn>, n_keys: usize) -> Result<Arc<Layout>, Error> {
        assert!(n_keys <= columns.len(), "the key is a prefix of the columns");
        let fields: Vec<SortField> = columns.iter().map(SortColumn::sort_field).collect();
        let schema_fields: Vec<Field> =
            columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)).collect();
        Ok(Arc::new(Layout {
            keys: RowConverter::new(fields[..n_keys].to_vec())?,
            rows: RowConverter::new(fields)?,
            schema: Arc::new(Schema::new(schema_fields)),
            columns,
            n_keys,
        }))
    }

    pub fn columns(&self) -> &[SortColumn] {
        &self.columns
    }

    pub fn n_keys(&self) -> usize {
        self.n_keys
    }

    /// The columns as a schema; all of them nullable.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The bytes of whole rows.
    pub fn encode_rows(&self, columns: &[ArrayRef]) -> Result<Rows, Error> {
        Ok(self.rows.convert_columns(columns)?)
    }

    /// The bytes of keys. A layout without key columns has one key, which is empty: do not ask.
    pub fn encode_keys(&self, columns: &[ArrayRef]) -> Result<Rows, Error> {
        assert!(self.n_keys > 0, "there is nothing to encode in an empty key");
        Ok(self.keys.convert_columns(columns)?)
    }

    /// The columns of encoded rows.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, Error> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.rows.parser();
        // The parser marks rows as coming from outside, which makes every string be checked as UTF-8
        // once more; that also catches a damaged file that its checksum did not.
        let rows: Vec<_> = rows.into_iter().collect();
        Ok(self.rows.convert_rows(rows.iter().map(|row| parser.parse(row)))?)
    }

    /// Encoded rows as a batch of [`schema`](Layout::schema).
    pub fn decode_batch<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<RecordBatch, Error> {
        let rows: Vec<_> = rows.into_iter().collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let columns = self.decode(rows)?;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}
