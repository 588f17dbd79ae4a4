//! Random changes, and the batch answer after each step.
//!
//! ```text
//! property(operator, &["k:t v:i"], "k:t n:i", "SELECT k, count(*) FROM i0 GROUP BY k");
//! ```
//!
//! Input *n* is the table `i<n>` of the SQL, which DataFusion answers over all rows that are there after a
//! step. What the operator has given out by then, summed up, must be the same multiset. Between steps the
//! operator is now and then built anew around its state, as recovery does: whatever it keeps outside of its
//! state tables is lost then.
//!
//! Rows insert, repeat, retract what is there, come and go within a step; values are few, so that keys meet,
//! with NULLs and the ends of the types among them. A failing case is made as small as it goes and
//! shown in one-line notation. `TIDEMILL_SEEDS=500` runs more of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use tidemill_plan as plan;

use super::{Bench, parse, schema, show};

/// For each row, in notation, how often it is there.
pub(crate) type Multiset = BTreeMap<String, i64>;

/// For each input the rows of its delta: weight and row.
type Step = Vec<Vec<(i64, String)>>;

/// `operator` gives what `sql` gives.
#[track_caller]
pub(crate) fn property(operator: plan::Operator, inputs: &[&str], output: &str, sql: &str) {
    Property::new(operator, inputs, output, sql).check();
}

/// What must hold of an operator, and which input it is to hold for.
pub(crate) struct Property {
    operator: plan::Operator,
    inputs: Vec<String>,
    output: String,
    sql: String,
    is_append_only: bool,
    n_rows_max: u64,
    n_steps: usize,
    n_seeds: u64,
}

impl Property {
    pub fn new(operator: plan::Operator, inputs: &[&str], output: &str, sql: &str) -> Property {
        Property {
            operator,
            inputs: inputs.iter().map(|input| input.to_string()).collect(),
            output: output.into(),
            sql: sql.into(),
            is_append_only: false,
            n_rows_max: 6,
            n_steps: 8,
            n_seeds: n_seeds(6),
        }
    }

    /// Nothing is ever retracted.
    pub fn append_only(self) -> Property {
        Property { is_append_only: true, ..self }
    }

    /// A few steps of up to `n_rows` rows: output that takes more than one batch, hot keys.
    pub fn large(self, n_rows: u64) -> Property {
        Property { n_rows_max: n_rows, n_steps: 3, n_seeds: n_seeds(1), ..self }
    }

    #[track_caller]
    pub fn check(self) {
        let batch = Batch::new();
        for seed in 0..self.n_seeds {
            let steps = self.steps(&mut Rng(seed));
            if let Err(failure) = self.run(&batch, seed, &steps) {
                let (steps, failure) = self.shrink(&batch, seed, steps, failure);
                panic!("seed {seed}: {failure}\n{}\nsteps:\n{}", self.sql, notation(&steps));
            }
        }
    }

    fn steps(&self, rng: &mut Rng) -> Vec<Step> {
        let schemas: Vec<SchemaRef> = self.inputs.iter().map(|input| schema(input)).collect();
        let mut present: Vec<Multiset> = vec![Multiset::new(); schemas.len()];
        let mut step = || {
            let delta = |(schema, present): (&SchemaRef, &mut Multiset)| {
                let n_rows = if rng.below(6) == 0 { 0 } else { rng.below(self.n_rows_max + 1) };
                (0..n_rows).map(|_| self.change(rng, schema, present)).collect()
            };
            schemas.iter().zip(&mut present).map(delta).collect()
        };
        (0..self.n_steps).map(|_| step()).collect()
    }

    /// One row more, or less.
    fn change(&self, rng: &mut Rng, schema: &SchemaRef, present: &mut Multiset) -> (i64, String) {
        let known: Vec<&String> = present.keys().collect();
        let pick = |rng: &mut Rng| known[rng.below(known.len() as u64) as usize].clone();
        let (weight, row) = match rng.below(10) {
            0..4 if !known.is_empty() && !self.is_append_only => {
                let row = pick(rng);
                let copies = present[&row];
                (if rng.below(2) == 0 { -copies } else { -1 }, row)
            }
            4 if !known.is_empty() => (1 + rng.below(2) as i64, pick(rng)),
            _ => (1 + i64::from(rng.below(8) == 0), rng.row(schema)),
        };
        *present.entry(row.clone()).or_default() += weight;
        present.retain(|_, weight| *weight > 0);
        (weight, row)
    }

    fn run(&self, batch: &Batch, seed: u64, steps: &[Step]) -> Result<(), String> {
        // An assertion that does not hold is made small like any other failure.
        let run = AssertUnwindSafe(|| self.run_steps(batch, seed, steps));
        catch_unwind(run).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    }

    fn run_steps(&self, batch: &Batch, seed: u64, steps: &[Step]) -> Result<(), String> {
        let inputs: Vec<&str> = self.inputs.iter().map(String::as_str).collect();
        let schemas: Vec<SchemaRef> = inputs.iter().map(|input| schema(input)).collect();
        let mut bench = Bench::new(self.operator.clone(), &inputs, &[&self.output]);
        let mut present: Vec<Multiset> = vec![Multiset::new(); inputs.len()];
        let mut given = Multiset::new();
        let mut rng = Rng(!seed);
        for (idx, step) in steps.iter().enumerate() {
            if rng.below(4) == 0 {
                bench.rebuild();
            }
            let texts: Vec<String> = step.iter().map(|delta| line(delta)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let output = bench.step(&texts).map_err(|error| format!("step {}: {error}", idx + 1))?;
            add(&mut given, &show(&output.batches));
            for (present, delta) in present.iter_mut().zip(step) {
                delta.iter().for_each(|(weight, row)| *present.entry(row.clone()).or_default() += weight);
                present.retain(|_, weight| *weight != 0);
            }
            let tables: Vec<RecordBatch> =
                schemas.iter().zip(&present).map(|(schema, present)| rows(schema, present)).collect();
            same(&given, &batch.answer(&self.sql, tables)).map_err(|e| format!("step {}: {e}", idx + 1))?;
        }
        Ok(())
    }

    /// Takes out rows one by one as long as the case fails.
    fn shrink(
        &self,
        batch: &Batch,
        seed: u64,
        mut steps: Vec<Step>,
        mut failure: String,
    ) -> (Vec<Step>, String) {
        let places = |steps: &[Step]| -> Vec<(usize, usize, usize)> {
            let inputs = steps.iter().enumerate().flat_map(|(step, inputs)| {
                inputs.iter().enumerate().map(move |(input, rows)| (step, input, rows.len()))
            });
            inputs.flat_map(|(step, input, n)| (0..n).map(move |row| (step, input, row))).rev().collect()
        };
        let mut is_smaller = true;
        while is_smaller {
            is_smaller = false;
            for (step, input, row) in places(&steps) {
                let mut fewer = steps.clone();
                fewer[step][input].remove(row);
                if !is_possible(&fewer) {
                    continue;
                }
                if let Err(error) = self.run(batch, seed, &fewer) {
                    (steps, failure) = (fewer, error);
                    is_smaller = true;
                }
            }
        }
        (steps, failure)
    }
}

/// Whether after every step no row is there less than not at all.
fn is_possible(steps: &[Step]) -> bool {
    let mut present: Vec<BTreeMap<&str, i64>> = Vec::new();
    steps.iter().all(|step| {
        present.resize(step.len(), BTreeMap::new());
        for (present, delta) in present.iter_mut().zip(step) {
            delta.iter().for_each(|(weight, row)| *present.entry(row).or_default() += weight);
        }
        present.iter().all(|present| present.values().all(|weight| *weight >= 0))
    })
}

/// The steps as they stand in a `check` or `check2`.
fn notation(steps: &[Step]) -> String {
    let inputs = |step: &Step| {
        let inputs: Vec<String> = step.iter().map(|delta| format!("{:?}", line(delta))).collect();
        format!("  ({})", inputs.join(", "))
    };
    steps.iter().map(inputs).collect::<Vec<_>>().join("\n")
}

fn line(delta: &[(i64, String)]) -> String {
    let row = |(weight, row): &(i64, String)| match weight {
        1 => format!("+ {row}"),
        -1 => format!("- {row}"),
        weight => format!("{weight:+} {row}"),
    };
    delta.iter().map(row).collect::<Vec<_>>().join("; ")
}

/// A multiset as a batch, each row as often as it is there.
pub(crate) fn rows(schema: &SchemaRef, present: &Multiset) -> RecordBatch {
    let copies = present.iter().flat_map(|(row, n)| (0..*n).map(move |_| (1, row.clone())));
    parse(schema, &line(&copies.collect::<Vec<_>>())).rows()
}

pub(crate) fn add(sum: &mut Multiset, change: &Multiset) {
    for (row, weight) in change {
        *sum.entry(row.clone()).or_default() += weight;
    }
    sum.retain(|_, weight| *weight != 0);
}

/// Says in which rows two answers differ.
pub(crate) fn same(incremental: &Multiset, batch: &Multiset) -> Result<(), String> {
    let mut difference = incremental.clone();
    for (row, weight) in batch {
        *difference.entry(row.clone()).or_default() -= weight;
    }
    difference.retain(|_, weight| *weight != 0);
    if difference.is_empty() {
        return Ok(());
    }
    let mut text = String::from("what was given out differs from the batch answer:");
    for (row, weight) in difference.into_iter().take(20) {
        let word = if weight > 0 { "too many" } else { "too few" };
        write!(text, "\n  {} {word} of ({row})", weight.abs()).expect("text can be written to");
    }
    Err(text)
}

/// DataFusion, asked about tables `i0`, `i1` …
pub(crate) struct Batch {
    runtime: tokio::runtime::Runtime,
    session: SessionContext,
}

impl Batch {
    pub fn new() -> Batch {
        let config = SessionConfig::new().with_target_partitions(1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Batch { runtime, session: SessionContext::new_with_config(config) }
    }

    pub fn answer(&self, sql: &str, tables: Vec<RecordBatch>) -> Multiset {
        for (idx, rows) in tables.into_iter().enumerate() {
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
            let name = format!("i{idx}");
            self.session.deregister_table(&name).unwrap();
            self.session.register_table(name, Arc::new(table)).unwrap();
        }
        let batches = self
            .runtime
            .block_on(async { self.session.sql(sql).await?.collect().await })
            .unwrap_or_else(|error| panic!("the batch answer: {error}"));
        let deltas: Vec<RecordBatch> =
            batches.iter().map(|rows| tidemill_core::Delta::inserts(rows).into_batch()).collect();
        show(&deltas)
    }
}

pub(crate) fn n_seeds(n: u64) -> u64 {
    std::env::var("TIDEMILL_SEEDS").map_or(n, |seeds| seeds.parse().expect("TIDEMILL_SEEDS is a number"))
}

/// SplitMix64 (Steele et al., OOPSLA 2014).
pub(crate) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    /// A row in notation.
    pub fn row(&mut self, schema: &SchemaRef) -> String {
        let words: Vec<String> = schema.fields().iter().map(|field| self.value(field.data_type())).collect();
        words.join(" ")
    }

    fn value(&mut self, data_type: &DataType) -> String {
        if self.below(7) == 0 {
            return "NULL".into();
        }
        let is_rare = self.below(10) == 0;
        let text = match data_type {
            DataType::Utf8 if is_rare => self.pick(&["''", "\u{10ffff}", "a\u{0}", "NULLS"]),
            DataType::Utf8 => self.pick(&["a", "b", "ab"]),
            DataType::Boolean => self.pick(&["true", "false"]),
            DataType::Int64 if is_rare => self.pick(&["-9223372036854775808", "9223372036854775807", "-1"]),
            DataType::UInt64 if is_rare => self.pick(&["18446744073709551615", "9223372036854775808"]),
            // Sums of these are exact in any order, so that they can be compared as they are.
            DataType::Float64 if is_rare => self.pick(&["inf", "-inf", "NaN", "-0.5"]),
            DataType::Float64 => self.pick(&["0.25", "1.5", "-3.0", "1024.0"]),
            DataType::Decimal128(_, _) if is_rare => self.pick(&["9999999999.99", "-9999999999.99"]),
            DataType::Decimal128(_, _) => self.pick(&["0.01", "2.50", "-7.00"]),
            DataType::Int64 | DataType::UInt64 | DataType::Timestamp(_, _) => {
                return self.below(4).to_string();
            }
            other => panic!("no random values of type {other}"),
        };
        text.into()
    }
}
