//! Operators under test: one line per step.
//!
//! `+ a 1; -2 b NULL` is a delta: each row with its weight, a sign and a count. Columns are declared as
//! `name:type` with `t` text, `i` bigint, `u` unsigned bigint, `f` double, `d` decimal and
//! `dd` a sum of decimals, `b` boolean, `ts`
//! timestamp in microseconds. `NULL` is NULL, `''` the empty text.

mod counts;
pub(crate) mod property;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use tidemill_core::{Delta, delta_schema};
use tidemill_plan as plan;
use tidemill_plan::RelationId;

use super::{Build, Operator, StepContext, build};

pub(crate) fn schema(text: &str) -> SchemaRef {
    let field = |column: &str| {
        let (name, data_type) = column.split_once(':').unwrap();
        let data_type = match data_type {
            "t" => DataType::Utf8,
            "i" => DataType::Int64,
            "u" => DataType::UInt64,
            "f" => DataType::Float64,
            "d" => DataType::Decimal128(12, 2),
            "dd" => DataType::Decimal128(22, 2),
            "b" => DataType::Boolean,
            "ts" => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => panic!("unknown type {other}"),
        };
        Field::new(name, data_type, true)
    };
    Arc::new(Schema::new(text.split_whitespace().map(field).collect::<Vec<_>>()))
}

pub(crate) fn parse(schema: &SchemaRef, text: &str) -> Delta {
    let mut weights = Vec::new();
    let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); schema.fields().len()];
    for row in text.split(';').map(str::trim).filter(|row| !row.is_empty()) {
        let mut words = row.split_whitespace();
        let weight = match words.next().unwrap() {
            "+" => 1,
            "-" => -1,
            count => count.parse().unwrap(),
        };
        weights.push(weight);
        for column in &mut columns {
            let word = words.next().unwrap_or_else(|| panic!("too few columns in {row:?}"));
            let word = if word == "''" { "" } else { word };
            column.push((word != "NULL").then(|| word.to_owned()));
        }
        assert_eq!(words.next(), None, "too many columns in {row:?}");
    }
    let columns: Vec<ArrayRef> = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            let text: ArrayRef = Arc::new(StringArray::from(column));
            let options = CastOptions { safe: false, ..CastOptions::default() };
            match field.data_type() {
                DataType::Timestamp(_, _) => {
                    let micros = cast_with_options(&text, &DataType::Int64, &options).unwrap();
                    cast_with_options(&micros, field.data_type(), &options).unwrap()
                }
                data_type => cast_with_options(&text, data_type, &options).unwrap(),
            }
        })
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(weights.len()));
    let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &options).unwrap();
    Delta::weighted(&rows, Arc::new(Int64Array::from(weights)))
}

pub(crate) fn show(deltas: &[RecordBatch]) -> BTreeMap<String, i64> {
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    for batch in deltas {
        let delta = Delta::new(batch.clone());
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<ArrayRef> = delta
            .rows()
            .columns()
            .iter()
            .map(|column| match column.data_type() {
                DataType::Timestamp(_, _) => arrow::compute::cast(column, &DataType::Int64).unwrap(),
                _ => column.clone(),
            })
            .collect();
        let formatters: Vec<_> = columns
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row_idx in 0..delta.len() {
            let word = |column: &ArrayFormatter| match column.value(row_idx).to_string() {
                word if word.is_empty() => "''".into(),
                word => word,
            };
            let words: Vec<String> = formatters.iter().map(word).collect();
            *rows.entry(words.join(" ")).or_default() += delta.weights().value(row_idx);
        }
    }
    rows.retain(|_, weight| *weight != 0);
    rows
}

fn built(operator: &plan::Operator, inputs: &[SchemaRef], output: &SchemaRef) -> Box<dyn Operator> {
    let filter = match operator {
        plan::Operator::Join(join) => join.filter.as_ref().map(|filter| {
            let pair: &DFSchema = &join.pair_schema;
            datafusion::physical_expr::create_physical_expr(
                filter,
                pair,
                &ExecutionProps::new(),
                &PhysicalPlanningContext::default(),
            )
            .unwrap()
        }),
        _ => None,
    };
    build(&Build {
        operator,
        inputs: inputs.to_vec(),
        output: delta_schema(output),
        filter,
        batch_plan: None,
    })
    .unwrap()
}

pub(crate) struct Bench {
    plan: plan::Operator,
    operator: Box<dyn Operator>,
    inputs: Vec<SchemaRef>,
    output: SchemaRef,
    context: StepContext,
    n_late: usize,
}

impl Bench {
    pub fn new(operator: plan::Operator, inputs: &[&str], output: &[&str]) -> Bench {
        let inputs: Vec<SchemaRef> = inputs.iter().map(|text| schema(text)).collect();
        let output = schema(&output.join(" "));
        let plan = operator;
        let operator = built(&plan, &inputs, &output);
        Bench { plan, operator, inputs, output, context: StepContext::default(), n_late: 0 }
    }

    /// A new operator takes over the state, and nothing else.
    pub fn rebuild(&mut self) {
        let mut operator = built(&self.plan, &self.inputs, &self.output);
        for (new, old) in operator.state().into_iter().zip(self.operator.state()) {
            assert_eq!(new.name, old.name, "state has one order");
            std::mem::swap(&mut new.arrangement, &mut old.arrangement);
        }
        self.operator = operator;
    }

    pub fn n_tables(&mut self) -> usize {
        self.operator.state().len()
    }

    /// How many rows all tables of state have, counting copies.
    pub fn n_state_rows(&mut self) -> i64 {
        self.operator.state().iter().map(|table| table.snapshot().count()).sum()
    }

    pub fn watermark(mut self, relation: RelationId, micros: i64) -> Bench {
        self.context.watermarks.insert(relation, micros);
        self
    }

    pub fn now(mut self, micros: i64) -> Bench {
        self.context.now = micros;
        self.context.arrival = micros;
        self
    }

    pub fn epoch(mut self, epoch: u64) -> Bench {
        self.context.epoch = tidemill_core::Epoch(epoch);
        self
    }

    pub fn filling(mut self, is_filling: bool) -> Bench {
        self.context.is_filling = is_filling;
        self
    }

    pub fn next_time(self, expected: Option<i64>) -> Bench {
        assert_eq!(self.operator.next_time(self.context.now).unwrap(), expected, "the next time");
        self
    }

    pub fn check(self, input: &str, expected: &str) -> Bench {
        self.check_inputs(&[input], expected)
    }

    pub fn check2(self, left: &str, right: &str, expected: &str) -> Bench {
        self.check_inputs(&[left, right], expected)
    }

    pub fn step(&mut self, inputs: &[&str]) -> Result<super::Output, crate::Error> {
        let deltas: Vec<Delta> =
            inputs.iter().zip(&self.inputs).map(|(text, schema)| parse(schema, text)).collect();
        let output = self.operator.step(&self.context, &deltas);
        self.context.watermarks_before = self.context.watermarks.clone();
        self.context.now_before = self.context.now;
        output
    }

    fn check_inputs(mut self, inputs: &[&str], expected: &str) -> Bench {
        let output = self.step(inputs).unwrap();
        self.n_late = output.late.iter().map(|late| late.rows.num_rows()).sum();
        let expected = parse(&self.output, expected).into_batch();
        assert_eq!(show(&output.batches), show(&[expected]), "for {inputs:?}");
        self
    }

    /// How many rows each table of state has.
    pub fn n_state(mut self, expected: &[i64]) -> Bench {
        let tables = self.operator.state().into_iter();
        assert_eq!(
            tables.map(|table| table.snapshot().count()).collect::<Vec<_>>(),
            expected,
            "rows of state"
        );
        self
    }

    pub fn late(self, n_rows: usize) -> Bench {
        assert_eq!(self.n_late, n_rows, "late rows");
        self
    }

    pub fn fails(self, input: &str, message: &str) {
        self.fails_on(&[input], message);
    }

    pub fn fails2(self, left: &str, right: &str, message: &str) {
        self.fails_on(&[left, right], message);
    }

    fn fails_on(mut self, inputs: &[&str], message: &str) {
        let error = self.step(inputs).expect_err("the step must fail").to_string();
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    }
}
