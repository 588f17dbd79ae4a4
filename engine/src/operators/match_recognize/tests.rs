//! What is given out, summed up, is what a scan of all rows gives.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{SortColumn, SortOptions, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use tidemill_core::Delta;
use tidemill_pattern::testing::{Demand, Recipe, Rng, Table};
use tidemill_pattern::{Advance, Extent, Matcher, Rows, Scan, Stand};
use tidemill_plan as plan;
use tidemill_plan::{CloseSource, EmptyMatches, Pattern, RelationId, Repetition, Shown, Skip};

use crate::operators::testing::property::{self, Multiset};
use crate::operators::testing::{Bench, schema, show};

const INPUT: &str = "k:t v:i at:ts";
const SOURCE: RelationId = RelationId(1);

fn table() -> Table {
    Table { v: 1, at: 2, partition: vec![0], passed: vec![0, 1, 2] }
}

fn output(shown: Shown) -> &'static str {
    match shown {
        Shown::One => "k:t n:i c:t v:i a:i p:i count:i sum:i",
        Shown::All(_) => "k:t v:i at:ts n:i c:t l:i a:i p:i count:i sum:i",
    }
}

fn pattern(recipe: &Recipe, sources: &[CloseSource], is_closing: bool) -> plan::MatchRecognize {
    plan::MatchRecognize { sources: sources.to_vec(), is_closing, ..recipe.plan(&table()) }
}

/// In the order of a SELECT.
fn sorted(rows: &RecordBatch) -> RecordBatch {
    let ascending = SortOptions { descending: false, nulls_first: true };
    let by_time = SortOptions { descending: false, nulls_first: false };
    let column =
        |idx: usize, options| SortColumn { values: rows.column(idx).clone(), options: Some(options) };
    let columns = [column(0, ascending), column(2, by_time), column(1, ascending)];
    take_record_batch(rows, &lexsort_to_indices(&columns, None).unwrap()).unwrap()
}

fn shown(batches: Vec<RecordBatch>) -> Multiset {
    let deltas: Vec<RecordBatch> =
        batches.into_iter().map(|rows| Delta::inserts(&rows).into_batch()).collect();
    show(&deltas)
}

/// The answer of a SELECT over all rows; `None` if it is an error.
fn batch_answer(pattern: &plan::MatchRecognize, output: &SchemaRef, rows: &RecordBatch) -> Option<Multiset> {
    let matcher = Matcher::new(pattern, &rows.schema()).unwrap();
    let mut batches = Vec::new();
    let run = matcher.run(&sorted(rows), output, &|| true, |batch| {
        batches.push(batch);
        Ok(())
    });
    run.ok().map(|()| shown(batches))
}

/// What is settled when times up to `limit` are complete.
fn settled(
    pattern: &plan::MatchRecognize,
    output: &SchemaRef,
    rows: &RecordBatch,
    limit: i64,
) -> Option<Multiset> {
    let matcher = Matcher::new(pattern, &rows.schema()).unwrap();
    let times = rows.column(2).as_primitive::<TimestampMicrosecondType>();
    let complete = times.iter().map(|time| Some(time.is_some_and(|time| time <= limit))).collect();
    let rows = sorted(&filter_record_batch(rows, &complete).unwrap());
    let mut batches = Vec::new();
    let ranges = match rows.num_rows() {
        0 => Vec::new(),
        _ => arrow::compute::partition(&[rows.column(0).clone()]).unwrap().ranges(),
    };
    for range in ranges {
        let rows = rows.slice(range.start, range.len());
        let extent = Extent { is_first: true, is_complete: false, horizon: Some(limit) };
        let mut rows = Rows::new(rows.columns().to_vec(), rows.num_rows(), matcher.time(), extent).unwrap();
        let mut scan = Scan::new(&matcher, Stand::default());
        let mut sightings = Vec::new();
        while let Advance::Done(sighting) = scan.advance(&mut rows, &|| true).ok()? {
            sightings.extend(sighting);
        }
        let columns = matcher.show(&sightings, &rows).unwrap().columns;
        batches.push(RecordBatch::try_new(output.clone(), columns).unwrap());
    }
    Some(shown(batches))
}

fn line(delta: &[(i64, String)]) -> String {
    delta.iter().map(|(weight, row)| format!("{weight:+} {row}")).collect::<Vec<_>>().join("; ")
}

/// What happens in a step.
#[derive(Debug, Clone)]
struct Step {
    delta: Vec<(i64, String)>,
    watermark: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Rows change anywhere.
    Anywhere,
    /// They come in the order of a time that a watermark completes; with WITHIN what is settled is forgotten.
    Watermark,
    /// Matches leave once.
    Closing,
}

fn steps(rng: &mut Rng, mode: Mode, n_partitions: usize, n_times: usize) -> Vec<Step> {
    let mut present: BTreeMap<String, i64> = BTreeMap::new();
    let mut watermark = -1;
    let mut steps = Vec::new();
    for _ in 0..8 {
        let mut delta = Vec::new();
        let base = if mode == Mode::Anywhere { 0 } else { watermark.max(0) as usize };
        for _ in 0..rng.below(8) {
            let known: Vec<String> = present.keys().cloned().collect();
            let is_retracted = mode == Mode::Anywhere && !known.is_empty() && rng.below(3) == 0;
            let (row, weight) = match is_retracted {
                true => {
                    let row = known[rng.below(known.len())].clone();
                    (row.clone(), if rng.below(2) == 0 { -present[&row] } else { -1 })
                }
                false => {
                    let value = if rng.below(8) == 0 { "NULL".to_owned() } else { rng.below(5).to_string() };
                    let at = match rng.below(12) {
                        0 => "NULL".to_owned(),
                        // Late now and then.
                        1 => base.saturating_sub(rng.below(3)).to_string(),
                        _ => (base + rng.below(n_times)).to_string(),
                    };
                    let key = ["a", "b", "c"][rng.below(n_partitions)];
                    (format!("{key} {value} {at}"), 1 + (rng.below(6) == 0) as i64)
                }
            };
            *present.entry(row.clone()).or_default() += weight;
            present.retain(|_, weight| *weight > 0);
            delta.push((weight, row));
        }
        watermark += [0, 1, 2, 5][rng.below(4)];
        steps.push(Step { delta, watermark });
    }
    steps
}

/// Runs the steps, and compares after each. Gives how many rows were shown at the end.
fn run(recipe: &Recipe, mode: Mode, steps: &[Step]) -> Result<usize, String> {
    let sources = match mode {
        Mode::Anywhere => vec![],
        _ => vec![CloseSource { relation: SOURCE, delay: 1 }],
    };
    let pattern = pattern(recipe, &sources, mode == Mode::Closing);
    let sources = match mode {
        Mode::Watermark if !pattern.is_bounded_in_time() => vec![],
        _ => sources,
    };
    let pattern = plan::MatchRecognize { sources: sources.clone(), ..pattern };
    let (input, output_schema) = (schema(INPUT), schema(output(recipe.shown)));
    let operator = plan::Operator::MatchRecognize(Box::new(pattern.clone()));
    let mut bench = Bench::new(operator, &[INPUT], &[output(recipe.shown)]);
    let mut present = Multiset::new();
    let mut given = Multiset::new();
    let mut limit_before = i64::MIN;
    for (idx, step) in steps.iter().enumerate() {
        if idx % 3 == 2 {
            bench.rebuild();
        }
        bench = bench.watermark(SOURCE, step.watermark);
        let limit = step.watermark - 1;
        for (weight, row) in &step.delta {
            let at = row.rsplit_once(' ').unwrap().1;
            let is_late = match at {
                "NULL" => mode == Mode::Closing,
                at => !sources.is_empty() && at.parse::<i64>().unwrap() <= limit_before,
            };
            if !is_late {
                *present.entry(row.clone()).or_default() += weight;
            }
        }
        present.retain(|_, weight| *weight != 0);
        limit_before = limit;
        let rows = property::rows(&input, &present);
        let expected = match mode {
            Mode::Closing => settled(&pattern, &output_schema, &rows, limit),
            _ => batch_answer(&pattern, &output_schema, &rows),
        };
        let found = bench.step(&[&line(&step.delta)]);
        match (found, expected) {
            (Err(_), None) => return Ok(0),
            (Err(error), Some(_)) => return Err(format!("step {}: {error}", idx + 1)),
            (Ok(_), None) => return Err(format!("step {}: the batch fails, the step does not", idx + 1)),
            (Ok(output), Some(expected)) => {
                property::add(&mut given, &show(&output.batches));
                property::same(&given, &expected).map_err(|error| format!("step {}: {error}", idx + 1))?;
            }
        }
    }
    Ok(given.len())
}

/// With fewer and fewer rows, as long as it fails.
fn shrink(recipe: &Recipe, mode: Mode, mut steps: Vec<Step>, mut failure: String) -> String {
    let is_possible = |steps: &[Step]| {
        let mut present: BTreeMap<&str, i64> = BTreeMap::new();
        steps.iter().all(|step| {
            step.delta.iter().for_each(|(weight, row)| *present.entry(row).or_default() += weight);
            present.values().all(|weight| *weight >= 0)
        })
    };
    let mut is_smaller = true;
    while is_smaller {
        is_smaller = false;
        for step in 0..steps.len() {
            for row in (0..steps[step].delta.len()).rev() {
                let mut fewer = steps.clone();
                fewer[step].delta.remove(row);
                if is_possible(&fewer)
                    && let Err(error) = attempt(recipe, mode, &fewer)
                {
                    (steps, failure, is_smaller) = (fewer, error, true);
                }
            }
        }
    }
    let lines: Vec<String> =
        steps.iter().map(|step| format!("  {:?} watermark {}", line(&step.delta), step.watermark)).collect();
    format!("{recipe:#?}\n{mode:?}\n{}\n{failure}", lines.join("\n"))
}

fn attempt(recipe: &Recipe, mode: Mode, steps: &[Step]) -> Result<usize, String> {
    let run = std::panic::AssertUnwindSafe(|| run(recipe, mode, steps));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!(
            "panic: {}",
            text.or(panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
        ))
    })
}

#[track_caller]
fn property(mode: Mode, n_seeds: u64) {
    let mut n_shown = 0;
    for seed in 0..property::n_seeds(n_seeds) {
        let mut rng = Rng(seed);
        let mut recipe = rng.recipe();
        if mode == Mode::Watermark {
            recipe.within = Some(1 + rng.below(5) as i64);
        }
        let (n_partitions, n_times) = (1 + rng.below(3), 2 + rng.below(20));
        let steps = steps(&mut rng, mode, n_partitions, n_times);
        match attempt(&recipe, mode, &steps) {
            Ok(n) => n_shown += n as u64,
            Err(failure) => panic!("seed {seed}: {}", shrink(&recipe, mode, steps, failure)),
        }
    }
    assert!(n_shown > n_seeds / 2, "cases that match nothing prove nothing: {n_shown}");
}

#[test]
fn changes_anywhere_give_what_a_scan_of_all_rows_gives() {
    property(Mode::Anywhere, 1000);
}

#[test]
fn what_is_forgotten_is_not_missed() {
    property(Mode::Watermark, 1000);
}

#[test]
fn matches_leave_once_when_they_are_settled() {
    property(Mode::Closing, 1000);
}

fn rows_of(variable: usize) -> Pattern {
    Pattern::Row { variable, is_excluded: false }
}

fn recipe(parts: Vec<Pattern>, demands: Vec<Demand>) -> Recipe {
    Recipe {
        pattern: Pattern::Concat(parts),
        demands,
        shown: Shown::One,
        skip: Skip::PastLastRow,
        within: None,
    }
}

fn many(pattern: Pattern) -> Pattern {
    Pattern::Repetition(Box::new(Repetition { pattern, min: 1, max: None, is_reluctant: false }))
}

/// An operator with its rows: `v` is 4, 3, 2, 1, 0, 4, …, one after the other in time.
struct Long {
    bench: Bench,
    given: Multiset,
    present: Multiset,
    pattern: plan::MatchRecognize,
    output: SchemaRef,
}

impl Long {
    fn new(recipe: &Recipe, n_rows: i64, is_numbered: bool) -> Long {
        let mut pattern = pattern(recipe, &[], false);
        let mut columns = output(recipe.shown).to_owned();
        if !is_numbered {
            pattern.measures.retain(|measure| measure.kind != plan::MatchValueKind::MatchNumber);
            columns = columns.replace(" n:i", "");
        }
        let operator = plan::Operator::MatchRecognize(Box::new(pattern.clone()));
        let bench = Bench::new(operator, &[INPUT], &[&columns]);
        let output = schema(&columns);
        let mut long = Long { bench, given: Multiset::new(), present: Multiset::new(), pattern, output };
        let rows: Vec<String> = (0..n_rows).map(|at| format!("+ a {} {}", 4 - at % 5, at * 10)).collect();
        long.step(&rows.join("; "));
        long
    }

    fn step(&mut self, delta: &str) {
        let output = self.bench.step(&[delta]).unwrap();
        property::add(&mut self.given, &show(&output.batches));
        for row in delta.split("; ") {
            let (sign, row) = row.split_once(' ').unwrap();
            *self.present.entry(row.into()).or_default() += if sign == "+" { 1 } else { -1 };
        }
        self.present.retain(|_, weight| *weight != 0);
        let rows = property::rows(&schema(INPUT), &self.present);
        let expected = batch_answer(&self.pattern, &self.output, &rows).unwrap();
        property::same(&self.given, &expected).unwrap();
    }

    fn n_searches(&mut self, delta: &str) -> usize {
        let before = super::update::N_SEARCHES.get();
        self.step(delta);
        super::update::N_SEARCHES.get() - before
    }
}

#[test]
fn a_change_costs_the_searches_around_it() {
    // Falling prices: each match is five rows of the 3000.
    let falling = recipe(vec![rows_of(0), many(rows_of(1))], vec![Demand::Nothing, Demand::Up]);
    let mut long = Long::new(&falling, 3000, false);
    for delta in [
        "+ a 2 15003",
        "- a 2 15003",
        "- a 4 20000",
        "+ a 0 29999",
        "+ a 4 30000",
        "- a 4 0",
        "+ a 1 1; + a 1 29000",
    ] {
        let n_searches = long.n_searches(delta);
        assert!(n_searches <= 200, "{n_searches} searches for {delta:?}");
    }
    // All later numbers are others: the scan goes on to the end.
    let counted = Recipe { shown: Shown::All(EmptyMatches::Show), ..falling };
    assert!(Long::new(&counted, 300, true).n_searches("+ a 9 1") > 300);
}

#[test]
fn matches_that_overlap_are_found_again() {
    let mut overlapping = recipe(
        vec![rows_of(0), many(rows_of(1)), rows_of(2)],
        vec![Demand::Below(5), Demand::AboveFirst(0, 0), Demand::Below(1)],
    );
    overlapping.skip = Skip::ToNextRow;
    overlapping.shown = Shown::All(EmptyMatches::WithUnmatchedRows);
    let mut long = Long::new(&overlapping, 700, false);
    for delta in ["+ a 0 3505", "- a 0 3505", "+ a 3 12; + a 3 6990", "- a 3 12", "- a 3 6990"] {
        long.step(delta);
    }
}

#[test]
fn state_behind_the_watermark_is_dropped() {
    let mut drop = recipe(vec![rows_of(0), many(rows_of(1))], vec![Demand::Nothing, Demand::Below(3)]);
    drop.within = Some(30);
    let sources = [CloseSource { relation: SOURCE, delay: 1 }];
    for is_closing in [false, true] {
        // Without what looks back or counts: nothing of a partition has to stay.
        let mut pattern = pattern(&drop, &sources, is_closing);
        pattern.measures.retain(|measure| match &measure.kind {
            plan::MatchValueKind::MatchNumber => false,
            plan::MatchValueKind::Column(navigation, _) => navigation.shift == 0,
            _ => true,
        });
        let names = "k:t c:t v:i a:i count:i sum:i";
        let operator = plan::Operator::MatchRecognize(Box::new(pattern));
        let mut bench = Bench::new(operator, &[INPUT], &[names]);
        let mut n_max = 0;
        for at in 0..500 {
            let row = format!("+ k{} {} {at}", at % 40, at % 5);
            bench = bench.watermark(SOURCE, at - 5);
            bench.step(&[&row]).unwrap();
            n_max = n_max.max(bench.n_state_rows());
        }
        assert!(n_max <= 200, "{n_max} rows of state");
        let mut bench = bench.watermark(SOURCE, 10_000);
        bench.step(&[""]).unwrap();
        assert_eq!(bench.n_state_rows(), 0, "all is settled, closing {is_closing}");
    }
}

#[test]
fn late_rows_are_given_to_nobody() {
    let mut near = recipe(vec![rows_of(0), rows_of(1)], vec![Demand::Below(2), Demand::Below(2)]);
    near.within = Some(10);
    let sources = [CloseSource { relation: SOURCE, delay: 1 }];
    let operator = plan::Operator::MatchRecognize(Box::new(pattern(&near, &sources, true)));
    Bench::new(operator, &[INPUT], &[output(Shown::One)])
        .watermark(SOURCE, 4)
        .check("+ a 0 3; + a 1 8", "")
        .watermark(SOURCE, 9)
        // The match is settled: nothing can come between the two.
        .check("+ a 1 3", "+ a 1 B 1 NULL NULL 2 0")
        .late(1)
        .check("+ a 1 NULL", "")
        .late(1);
}

#[test]
fn retraction_of_nothing_is_an_error() {
    let one = recipe(vec![rows_of(0)], vec![Demand::Nothing]);
    let operator = plan::Operator::MatchRecognize(Box::new(pattern(&one, &[], false)));
    Bench::new(operator, &[INPUT], &[output(Shown::One)])
        .check("+ a 1 1", "+ a 1 A 1 NULL NULL 1 1")
        .fails("-2 a 1 1", "never there");
}

#[test]
fn a_failed_step_leaves_what_was() {
    let mut to_b = recipe(vec![rows_of(0), many(rows_of(0))], vec![Demand::Below(4), Demand::Nothing]);
    to_b.skip = Skip::ToLast(vec![1]);
    let operator = plan::Operator::MatchRecognize(Box::new(pattern(&to_b, &[], false)));
    let mut bench = Bench::new(operator, &[INPUT], &[output(Shown::One)]);
    bench.step(&["+ a 1 1"]).unwrap();
    let error = bench.step(&["+ a 1 2"]).unwrap_err();
    assert_eq!(
        tidemill_core::Diagnostic::sqlstate(&error),
        tidemill_core::SqlState::SKIP_TO_NON_EXISTENT_ROW
    );
    assert!(bench.n_tables() == 2, "its tables are all there");
}
