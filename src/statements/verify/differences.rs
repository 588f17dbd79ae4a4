//! The difference of two multisets of rows.
//!
//! Rows are compared as a whole, copies counted. Sums of floats depend on the order of their summands, so
//! rows that are alike but for the last digits of floats are told apart from those that differ.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_core::SqlState;
use tidemill_plan::fnv1a;

use crate::session::api::SqlError;

/// Floats this near to each other, in proportion, are the same number summed in another order.
const ROUNDING: f64 = 1e-9;
/// What is left of numbers that cancel out.
const ROUNDING_NEAR_ZERO: f64 = 1e-12;

/// What a row takes beside its content, about.
const ROW_BYTES: usize = 48;

/// Which rows are compared.
pub struct Sampling {
    pub percent: Option<f64>,
    /// Rows with the same values here are in the sample together; all columns if there are none.
    pub key: Vec<usize>,
}

/// Rows that are expected, less those that are shown.
pub struct Differences {
    schema: SchemaRef,
    sampling: Sampling,
    rows: RowConverter,
    keys: RowConverter,
    counts: HashMap<Box<[u8]>, i64>,
    /// What `counts` takes, and may take.
    bytes: usize,
    bytes_max: usize,
    n_expected: i64,
    n_shown: i64,
}

/// What was found.
pub struct Found {
    schema: SchemaRef,
    pub n_expected: i64,
    pub n_shown: i64,
    pub n_missing: i64,
    pub n_extra: i64,
    /// Rows that differ in the last digits of floats only.
    pub n_rounding: i64,
    /// The rows that differ, in order, and how often each is expected more often than shown.
    differing: RecordBatch,
    copies: Vec<i64>,
}

fn failed(error: ArrowError) -> SqlError {
    SqlError::from_datafusion(error.into())
}

fn too_many(bytes_max: usize) -> SqlError {
    SqlError::new(SqlState::OUT_OF_MEMORY, format!("the rows to compare do not fit into {bytes_max} bytes"))
        .with_hint("Compare a part of them, as in VERIFY PIPELINE p SAMPLE 10 PERCENT, or SET verify_memory to more.")
}

fn converter(schema: &Schema, columns: &[usize]) -> Result<RowConverter, SqlError> {
    let field = |column: &usize| SortField::new(schema.field(*column).data_type().clone());
    RowConverter::new(columns.iter().map(field).collect()).map_err(failed)
}

impl Differences {
    pub fn new(schema: SchemaRef, mut sampling: Sampling, bytes_max: usize) -> Result<Differences, SqlError> {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        if sampling.key.is_empty() {
            sampling.key = all.clone();
        }
        Ok(Differences {
            rows: converter(&schema, &all)?,
            keys: converter(&schema, &sampling.key)?,
            sampling,
            schema,
            counts: HashMap::new(),
            bytes: 0,
            bytes_max,
            n_expected: 0,
            n_shown: 0,
        })
    }

    pub fn expect(&mut self, batch: &RecordBatch) -> Result<(), SqlError> {
        self.n_expected += self.add(batch, 1)?;
        Ok(())
    }

    pub fn show(&mut self, batch: &RecordBatch) -> Result<(), SqlError> {
        self.n_shown += self.add(batch, -1)?;
        Ok(())
    }

    fn add(&mut self, batch: &RecordBatch, weight: i64) -> Result<i64, SqlError> {
        let rows = self.rows.convert_columns(batch.columns()).map_err(failed)?;
        let keys = match self.sampling.percent {
            Some(percent) if percent < 100.0 => {
                let columns: Vec<ArrayRef> =
                    self.sampling.key.iter().map(|column| batch.column(*column).clone()).collect();
                Some((self.keys.convert_columns(&columns).map_err(failed)?, percent))
            }
            _ => None,
        };
        let mut n_rows = 0;
        for idx in 0..batch.num_rows() {
            if let Some((keys, percent)) = &keys {
                // The low bits of FNV are the well mixed ones.
                let place = fnv1a(keys.row(idx).data()) % 1_000_000;
                if place as f64 >= percent * 10_000.0 {
                    continue;
                }
            }
            n_rows += 1;
            let row = rows.row(idx).data();
            match self.counts.get_mut(row) {
                Some(count) if *count == -weight => {
                    self.counts.remove(row);
                    self.bytes -= row.len() + ROW_BYTES;
                }
                Some(count) => *count += weight,
                None => {
                    self.counts.insert(row.into(), weight);
                    self.bytes += row.len() + ROW_BYTES;
                }
            }
        }
        match self.bytes > self.bytes_max {
            true => Err(too_many(self.bytes_max)),
            false => Ok(n_rows),
        }
    }

    pub fn finish(self) -> Result<Found, SqlError> {
        let mut differing: Vec<(Box<[u8]>, i64)> =
            self.counts.into_iter().filter(|(_, count)| *count != 0).collect();
        differing.sort();
        let parser = self.rows.parser();
        let columns =
            self.rows.convert_rows(differing.iter().map(|(row, _)| parser.parse(row))).map_err(failed)?;
        let fields: Vec<Field> =
            self.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(differing.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(failed)?;
        let mut copies: Vec<i64> = differing.into_iter().map(|(_, copies)| copies).collect();
        let n_rounding = pair_rounded(&batch, &mut copies)?;
        let n_missing = copies.iter().filter(|n| **n > 0).sum();
        let n_extra = -copies.iter().filter(|n| **n < 0).sum::<i64>();
        Ok(Found {
            schema,
            n_expected: self.n_expected,
            n_shown: self.n_shown,
            n_missing,
            n_extra,
            n_rounding,
            differing: batch,
            copies,
        })
    }
}

/// Takes out pairs of a missing and an extra row that are the same but for rounding; gives their number.
fn pair_rounded(batch: &RecordBatch, copies: &mut [i64]) -> Result<i64, SqlError> {
    let schema = batch.schema();
    let is_float = |column: &usize| schema.field(*column).data_type().is_floating();
    let (floats, others): (Vec<usize>, Vec<usize>) = (0..schema.fields().len()).partition(is_float);
    if floats.is_empty() || batch.num_rows() == 0 {
        return Ok(0);
    }
    let mut groups: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    if others.is_empty() {
        groups.insert(Vec::new(), (0..batch.num_rows()).collect());
    } else {
        let columns: Vec<ArrayRef> = others.iter().map(|column| batch.column(*column).clone()).collect();
        let rows = converter(&schema, &others)?.convert_columns(&columns).map_err(failed)?;
        for idx in 0..batch.num_rows() {
            groups.entry(rows.row(idx).data().to_vec()).or_default().push(idx);
        }
    }
    let floats = floats
        .iter()
        .map(|column| cast(batch.column(*column), &DataType::Float64).map_err(failed))
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    let is_same = |a: usize, b: usize| {
        floats.iter().all(|column| {
            let column = column.as_primitive::<Float64Type>();
            match (column.is_valid(a), column.is_valid(b)) {
                (true, true) => is_rounded(column.value(a), column.value(b)),
                (a, b) => a == b,
            }
        })
    };
    let mut n_rounding = 0;
    for group in groups.values() {
        // Rows of a group ascend, so what belongs together is near.
        for (place, missing) in group.iter().enumerate() {
            for extra in group.iter().skip(place + 1).take(64) {
                let n = copies[*missing].abs().min(copies[*extra].abs());
                if n > 0 && copies[*missing].signum() != copies[*extra].signum() && is_same(*missing, *extra)
                {
                    copies[*missing] -= n * copies[*missing].signum();
                    copies[*extra] -= n * copies[*extra].signum();
                    n_rounding += n;
                }
            }
        }
    }
    Ok(n_rounding)
}

fn is_rounded(a: f64, b: f64) -> bool {
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    if a.is_infinite() || b.is_infinite() {
        return a == b;
    }
    (a - b).abs() <= (a.abs().max(b.abs()) * ROUNDING).max(ROUNDING_NEAR_ZERO)
}

impl Found {
    fn places(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        self.copies.iter().copied().enumerate().filter(|(_, copies)| *copies != 0)
    }

    /// The first rows that differ, a line each.
    pub fn examples(&self, n_max: usize) -> Result<String, SqlError> {
        let options = FormatOptions::default().with_null("NULL");
        let columns = self
            .differing
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).map_err(failed))
            .collect::<Result<Vec<_>, _>>()?;
        let line = |(idx, copies): (usize, i64)| {
            let values: Vec<String> = columns
                .iter()
                .zip(self.schema.fields())
                .map(|(column, field)| format!("{}={}", field.name(), column.value(idx)))
                .collect();
            let times = if copies.abs() > 1 { format!(" {} times", copies.abs()) } else { String::new() };
            format!("{}{times}: ({})", kind(copies), values.join(", "))
        };
        Ok(self.places().take(n_max).map(line).collect::<Vec<_>>().join("\n"))
    }

    /// The rows that differ, in order, and how often each is expected more often than shown.
    pub fn differing(&self) -> (&RecordBatch, &[i64]) {
        (&self.differing, &self.copies)
    }

    /// All rows that differ, behind what is the matter with each and how often.
    pub fn rows(&self) -> Result<RecordBatch, SqlError> {
        let name = |name: &str| {
            let mut name = name.to_owned();
            while self.schema.field_with_name(&name).is_ok() {
                name.insert(0, '_');
            }
            name
        };
        let mut fields = vec![
            Arc::new(Field::new(name("difference"), DataType::Utf8, true)),
            Arc::new(Field::new(name("copies"), DataType::Int64, true)),
        ];
        fields.extend(self.schema.fields().iter().cloned());
        let schema = Arc::new(Schema::new(fields));
        let places: Vec<(usize, i64)> = self.places().collect();
        let kinds: ArrayRef = Arc::new(StringArray::from_iter_values(places.iter().map(|(_, n)| kind(*n))));
        let copies: ArrayRef = Arc::new(Int64Array::from_iter_values(places.iter().map(|(_, n)| n.abs())));
        let slices: Vec<RecordBatch> = places.iter().map(|(idx, _)| self.differing.slice(*idx, 1)).collect();
        let rows = concat_batches(&self.schema, &slices).map_err(failed)?;
        let mut columns = vec![kinds, copies];
        columns.extend(rows.columns().iter().cloned());
        RecordBatch::try_new(schema, columns).map_err(failed)
    }
}

fn kind(copies: i64) -> &'static str {
    if copies > 0 { "missing" } else { "extra" }
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    fn batch(rows: &[(i64, f64)]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("k", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
        ]);
        let k: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
        let x: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1)));
        RecordBatch::try_new(Arc::new(schema), vec![k, x]).unwrap()
    }

    fn compare(expected: &[(i64, f64)], shown: &[(i64, f64)], percent: Option<f64>) -> Found {
        let sampling = Sampling { percent, key: vec![0] };
        let mut differences = Differences::new(batch(&[]).schema(), sampling, usize::MAX).unwrap();
        differences.expect(&batch(expected)).unwrap();
        differences.show(&batch(shown)).unwrap();
        differences.finish().unwrap()
    }

    #[test]
    fn copies_count_and_rounding_does_not() {
        let found = compare(
            &[(1, 0.1 + 0.2), (2, 5.0), (2, 5.0), (3, 7.0)],
            &[(1, 0.3), (2, 5.0), (3, 7.5), (4, 1.0)],
            None,
        );
        assert_eq!((found.n_expected, found.n_shown), (4, 4));
        assert_eq!((found.n_missing, found.n_extra, found.n_rounding), (2, 2, 1));
        assert_eq!(
            found.examples(3).unwrap(),
            "missing: (k=2, x=5.0)\nmissing: (k=3, x=7.0)\nextra: (k=3, x=7.5)"
        );
        assert_eq!(found.rows().unwrap().num_rows(), 4);
    }

    #[test]
    fn a_sample_is_the_same_on_both_sides() {
        let all: Vec<(i64, f64)> = (0..10_000).map(|k| (k, k as f64)).collect();
        let found = compare(&all, &all, Some(10.0));
        assert_eq!((found.n_missing, found.n_extra), (0, 0));
        assert_eq!(found.n_expected, found.n_shown);
        assert!((800..1200).contains(&found.n_expected), "{}", found.n_expected);
    }
}
