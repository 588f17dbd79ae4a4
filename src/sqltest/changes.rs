//! Rows with weights, and what a subscriber of a relation was told.
//!
//! A subscriber loses its connection in a crash. It comes again once the server has caught up, and finds out what has become of
//! the rows that it knew: if recovery brings back anything else than what was there, that is a change as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use tidemill_core::{Delta, Epoch};
use tidemill_engine::Subscription;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::session::api::SqlError;

/// A multiset of rows, of which there may be fewer than none.
#[derive(Debug)]
pub struct Counted {
    schema: SchemaRef,
    rows: RowConverter,
    counts: BTreeMap<Box<[u8]>, i64>,
}

fn failed(error: ArrowError) -> SqlError {
    SqlError::from_datafusion(error.into())
}

impl Counted {
    pub fn new(schema: &Schema) -> Result<Counted, SqlError> {
        let fields: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let sort = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(sort).map_err(failed)?;
        Ok(Counted { schema: Arc::new(Schema::new(fields)), rows, counts: BTreeMap::new() })
    }

    /// Adds rows so many times.
    pub fn add(&mut self, rows: &RecordBatch, weight: i64) -> Result<(), SqlError> {
        let weights = Int64Array::from_value(weight, rows.num_rows());
        self.add_weighted(rows, &weights)
    }

    pub fn add_delta(&mut self, delta: &Delta) -> Result<(), SqlError> {
        self.add_weighted(&delta.rows(), delta.weights())
    }

    pub fn add_weighted(&mut self, rows: &RecordBatch, weights: &Int64Array) -> Result<(), SqlError> {
        let converted = self.rows.convert_columns(rows.columns()).map_err(failed)?;
        for (row, weight) in converted.iter().zip(weights.values()) {
            let count = self.counts.entry(row.data().into()).or_default();
            *count += weight;
            if *count == 0 {
                self.counts.remove(row.data());
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The rows that there are, each as often as it is, and then those that there are less than none of.
    pub fn parts(&self) -> Result<(RecordBatch, RecordBatch), SqlError> {
        let part = |sign: i64| {
            let parser = self.rows.parser();
            let mut rows = Vec::new();
            for (row, count) in &self.counts {
                let copies = usize::try_from(count * sign).unwrap_or(0);
                rows.extend(std::iter::repeat_n(parser.parse(row), copies));
            }
            let n_rows = rows.len();
            let columns = self.rows.convert_rows(rows)?;
            let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
            RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
        };
        Ok((part(1).map_err(failed)?, part(-1).map_err(failed)?))
    }
}

/// A subscriber of a pipeline or table.
#[derive(Debug)]
pub struct Subscriber {
    pub oid: u32,
    schema: SchemaRef,
    /// All rows, as far as it was told.
    known: Counted,
    /// Not asked for yet; each is what came in one epoch.
    pub told: Vec<Delta>,
    changes: UnboundedReceiver<(Epoch, Delta)>,
}

impl Subscriber {
    /// What is there already is no change.
    pub fn new(oid: u32, subscription: Subscription) -> Result<Subscriber, SqlError> {
        let schema = subscription.snapshot.schema.clone();
        let known = rows_of(&subscription)?;
        Ok(Subscriber { oid, schema, known, told: Vec::new(), changes: subscription.changes })
    }

    /// Takes up what has come.
    pub fn listen(&mut self) -> Result<(), SqlError> {
        while let Ok((_, delta)) = self.changes.try_recv() {
            self.known.add_delta(&delta)?;
            self.told.push(delta);
        }
        Ok(())
    }

    /// Comes again after a restart.
    pub fn come_again(&mut self, subscription: Subscription) -> Result<(), SqlError> {
        let now = rows_of(&subscription)?;
        let (rows, _) = now.parts()?;
        let (before, _) = self.known.parts()?;
        let mut difference = Counted::new(&self.schema)?;
        difference.add(&rows, 1)?;
        difference.add(&before, -1)?;
        if !difference.is_empty() {
            let (added, removed) = difference.parts()?;
            self.told.extend([Delta::retractions(&removed), Delta::inserts(&added)]);
        }
        self.known = now;
        self.changes = subscription.changes;
        Ok(())
    }
}

fn rows_of(subscription: &Subscription) -> Result<Counted, SqlError> {
    let mut rows = Counted::new(&subscription.snapshot.schema)?;
    for batch in subscription.snapshot.batches()? {
        rows.add(&batch, 1)?;
    }
    Ok(rows)
}
