//! Small numbers that survive: how far a sequence has counted, which change of definitions was the last to be decided.
//!
//! A table of the system's own, so that they are as durable as rows are, in the same log, and can be decided in the
//! same epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan::RelationId;

use crate::Error;
use crate::table::{OnConflict, Table, TableSpec, TableWrite};

/// The table's identity: below the first that users get.
pub const MARKS: RelationId = RelationId(1001);

fn schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![number("key"), number("value")]))
}

pub(crate) fn table() -> TableSpec {
    TableSpec {
        id: MARKS,
        name: "tm_marks".into(),
        schema: schema(),
        primary_key: vec![0],
        indexes: Vec::new(),
    }
}

fn batch(marks: &[(i64, i64)]) -> RecordBatch {
    let column = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let keys = column(marks.iter().map(|(key, _)| *key).collect());
    let values = column(marks.iter().map(|(_, value)| *value).collect());
    RecordBatch::try_new(schema(), vec![keys, values]).expect("the columns are those of the schema")
}

/// Sets some of them.
pub(crate) fn write(marks: &[(i64, i64)]) -> TableWrite {
    TableWrite::Insert { rows: batch(marks), on_conflict: OnConflict::Replace }
}

/// Forgets one that has this value.
pub(crate) fn erase(key: i64, value: i64) -> TableWrite {
    TableWrite::Change(Delta::retractions(&batch(&[(key, value)])))
}

/// All of them.
pub(crate) fn read(table: &Table) -> Result<BTreeMap<i64, i64>, Error> {
    let snapshot = table.rows();
    let rows: Vec<&[u8]> = snapshot.cursor().filter(|(_, weight)| *weight > 0).map(|(row, _)| row).collect();
    let batch = table.rules.shape.decode(&rows)?;
    let column = |idx: usize| batch.column(idx).as_primitive::<Int64Type>().values().iter().copied();
    Ok(column(0).zip(column(1)).collect())
}
