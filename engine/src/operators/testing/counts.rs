//! How many instructions the operators take, counted by callgrind: the same on any machine, whatever else it does.
//!
//! What is counted is one step of 400 changes, half of them retractions, over a state of 4,000 rows. Tests are not optimised, so that the numbers
//! say nothing about how fast it is; but what makes an operator do more work shows in them.
//!
//! ```text
//! TIDEMILL_BLESS=1 cargo test --package tidemill-engine counts     write the numbers down
//! cargo test --release --package tidemill-engine counts -- --nocapture     show those of optimised code
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::JoinType;
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::{AggregateCall, AggregateFunction, OrderColumn};

use super::property::Rng;
use super::{Bench, parse, schema};

const ROWS: usize = 4_000;
const CHANGES: usize = 400;
/// Another compiler makes other code of the same.
const TOLERANCE: f64 = 0.15;
const RECORD: &str = "src/operators/testing/counts.txt";

/// What callgrind counts within.
#[inline(never)]
fn counted(bench: &mut Bench, inputs: &[Delta]) {
    black_box(bench.operator.step(&bench.context, black_box(inputs)).unwrap());
}

/// Rows of a key and a number, as the tests' text has them.
fn row(rng: &mut Rng) -> String {
    format!("k{} {}", rng.below(400), rng.below(1_000_000))
}

/// Fills an operator in a few steps, then takes back some of its rows and gives it as many others.
fn count(mut bench: Bench) {
    let mut rng = Rng(7);
    let rows: Vec<String> = (0..ROWS).map(|_| row(&mut rng)).collect();
    let n_inputs = bench.inputs.len();
    for part in rows.chunks(ROWS / 8) {
        let text: String = part.iter().fold(String::new(), |mut text, row| {
            write!(text, "+ {row}; ").unwrap();
            text
        });
        bench.step(&vec![text.as_str(); n_inputs]).unwrap();
    }
    let mut text = String::new();
    for idx in 0..CHANGES / 2 {
        write!(text, "- {}; + {}; ", rows[idx * ROWS / CHANGES], row(&mut rng)).unwrap();
    }
    let mut deltas = vec![parse(&bench.inputs[0], &text)];
    deltas.resize_with(n_inputs, || parse(&bench.inputs[n_inputs - 1], ""));
    counted(&mut bench, &deltas);
}

fn operators() -> BTreeMap<&'static str, Bench> {
    let call = |function: AggregateFunction| AggregateCall {
        function,
        args: vec![1],
        filter: None,
        distinct: false,
        order_by: Vec::new(),
        ignore_nulls: false,
        return_type: DataType::Int64,
        display: "call".into(),
    };
    let aggregate = |calls: Vec<AggregateCall>| {
        plan::Operator::Aggregate(plan::Aggregate {
            n_groups: 1,
            calls,
            is_append_only: false,
            close: None,
            is_early: false,
            ttl: None,
        })
    };
    let join = |join_type| {
        let pair = DFSchema::try_from(schema("k:t a:i r:t b:i").as_ref().clone()).unwrap();
        plan::Operator::Join(plan::Join {
            join_type,
            left_keys: vec![0],
            right_keys: vec![0],
            null_equals_null: false,
            n_left: 2,
            n_right: 2,
            filter: None,
            pair_schema: Arc::new(pair),
            is_append_only: false,
            trim: None,
        })
    };
    let top = plan::Operator::TopN(plan::TopN {
        partition: vec![0],
        order_by: vec![OrderColumn { column: 1, descending: true, nulls_first: false }],
        offset: 0,
        limit: 3,
        rank: false,
        with_ties: false,
        is_append_only: false,
    });
    let (one, two, pair) = (&["k:t v:i"], &["k:t a:i", "r:t b:i"], &["k:t a:i r:t b:i"]);
    BTreeMap::from([
        ("sum", Bench::new(aggregate(vec![call(AggregateFunction::Sum)]), one, &["k:t s:i"])),
        ("max", Bench::new(aggregate(vec![call(AggregateFunction::Max)]), one, &["k:t hi:i"])),
        ("join", Bench::new(join(JoinType::Inner), two, pair)),
        ("left_join", Bench::new(join(JoinType::Left), two, pair)),
        ("top_n", Bench::new(top, one, &["k:t v:i"])),
        ("distinct", Bench::new(plan::Operator::Distinct, one, &["k:t v:i"])),
    ])
}

/// What the test below runs in processes of its own.
#[test]
#[ignore = "is run by the other test"]
fn one_operator() {
    let Ok(name) = std::env::var("TIDEMILL_COUNTED") else { return };
    count(operators().remove(name.as_str()).expect("there is such an operator"));
}

/// The instructions of one operator's step.
fn instructions(name: &str) -> u64 {
    let test = format!("{}::one_operator", module_path!().split_once("::").unwrap().1);
    let counted = format!("{}::counted", module_path!());
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={counted}*"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--ignored", "--test-threads=1"])
        .env("TIDEMILL_COUNTED", name)
        .output()
        .expect("valgrind runs: apt-get install valgrind");
    let log = String::from_utf8_lossy(&output.stderr);
    let collected =
        log.lines().find_map(|line| line.split_once("Collected :")).map(|(_, number)| number.trim());
    let number = collected.and_then(|number| number.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.filter(|number| *number > 0).unwrap_or_else(|| panic!("nothing was counted: {log}"))
}

#[test]
fn operators_do_as_much_work_as_they_did() {
    let counts: BTreeMap<&str, u64> = operators().keys().map(|name| (*name, instructions(name))).collect();
    let mut shown = String::new();
    for (name, count) in &counts {
        writeln!(shown, "{name:<12}{:>10.1} thousand a change", *count as f64 / CHANGES as f64 / 1e3)
            .unwrap();
    }
    println!("{shown}");
    if !cfg!(debug_assertions) {
        return;
    }
    let path = format!("{}/{RECORD}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TIDEMILL_BLESS").is_some() {
        let lines = counts.iter().map(|(name, count)| format!("{name} {count}\n"));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        return;
    }
    let record = std::fs::read_to_string(&path).unwrap();
    for line in record.lines() {
        let (name, before) = line.split_once(' ').unwrap();
        let (before, now) = (before.parse::<f64>().unwrap(), counts[name] as f64);
        assert!(
            (now / before - 1.0).abs() <= TOLERANCE,
            "{name}: {now} instructions where {before} are on record in engine/{RECORD}. \
             If that is meant, or the compiler is another one, write it down anew with TIDEMILL_BLESS=1.\n{shown}"
        );
    }
    assert_eq!(record.lines().count(), counts.len(), "each operator is on record");
}
