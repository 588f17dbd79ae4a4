//! A [`Delta`]: the difference of two multisets of rows, as one Arrow batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

/// The name of the column that holds each row's weight; always the last column of a delta.
pub const WEIGHT: &str = "__weight";

/// Rows of one schema, each with a signed weight: a Z-set (Budiu et al., VLDB 2023).
///
/// A weight of 2 is two copies inserted, −1 is one copy retracted. The same row may stand in a
/// delta more than once; only the sum of its weights means something.
#[derive(Debug, Clone)]
pub struct Delta {
    batch: RecordBatch,
}

impl Delta {
    /// Takes a batch whose last column is `__weight Int64`.
    pub fn new(batch: RecordBatch) -> Delta {
        let schema = batch.schema_ref();
        let last = schema.fields().last().expect("a delta has a weight column");
        assert_eq!(last.data_type(), &DataType::Int64, "the last column of a delta is its weight");
        Delta { batch }
    }

    /// Every row of `rows` once.
    pub fn inserts(rows: &RecordBatch) -> Delta {
        Delta::weighted(rows, Arc::new(Int64Array::from_value(1, rows.num_rows())))
    }

    /// Every row of `rows` retracted once.
    pub fn retractions(rows: &RecordBatch) -> Delta {
        Delta::weighted(rows, Arc::new(Int64Array::from_value(-1, rows.num_rows())))
    }

    /// `rows` with one weight each.
    pub fn weighted(rows: &RecordBatch, weights: ArrayRef) -> Delta {
        let mut columns = rows.columns().to_vec();
        columns.push(weights);
        let batch = RecordBatch::try_new(delta_schema(rows.schema_ref()), columns)
            .expect("weights have the type and length that their schema says");
        Delta { batch }
    }

    /// No rows, of the given row schema.
    pub fn empty(row_schema: &Schema) -> Delta {
        Delta { batch: RecordBatch::new_empty(delta_schema(row_schema)) }
    }

    /// The rows with their weight column.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// The rows with their weight column.
    pub fn into_batch(self) -> RecordBatch {
        self.batch
    }

    /// The rows without their weights.
    pub fn rows(&self) -> RecordBatch {
        let n_columns = self.batch.num_columns() - 1;
        let indices: Vec<usize> = (0..n_columns).collect();
        self.batch.project(&indices).expect("all columns but the last exist")
    }

    /// One weight per row.
    pub fn weights(&self) -> &Int64Array {
        let last = self.batch.num_columns() - 1;
        self.batch.column(last).as_any().downcast_ref().expect("the weight column is Int64")
    }

    /// The number of rows, whatever their weights.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    /// One delta out of many of the same schema.
    pub fn concat(schema: &SchemaRef, deltas: &[Delta]) -> Result<Delta, ArrowError> {
        if let [only] = deltas {
            return Ok(only.clone());
        }
        let batches = deltas.iter().map(Delta::batch);
        Ok(Delta { batch: arrow::compute::concat_batches(schema, batches)? })
    }
}

/// `row_schema` with the weight column behind it.
pub fn delta_schema(row_schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = row_schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new_with_metadata(fields, row_schema.metadata().clone()))
}
