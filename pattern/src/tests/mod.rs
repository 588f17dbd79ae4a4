//! The matcher against a reference that is obviously right, and what patterns mean, one line each.

mod reference;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::logical_expr::{col, lit};
use tidemill_plan::{EmptyMatches, MatchRecognize, Pattern, Repetition, Shown, Skip, value_column};

use self::reference::Reference;
use crate::testing::{Demand, Recipe, Rng, Table};
use crate::{Advance, Error, Extent, Matcher, Rows, Scan, Sighting, Stand};

#[derive(Debug, Clone)]
struct Case {
    recipe: Recipe,
    /// The values, and how many microseconds each is behind the one before.
    rows: Vec<(Option<i64>, i64)>,
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true), Field::new("at", time, true)]))
}

impl Case {
    fn times(&self) -> Vec<i64> {
        self.rows
            .iter()
            .scan(0, |at, (_, gap)| {
                *at += gap;
                Some(*at)
            })
            .collect()
    }

    fn plan(&self) -> MatchRecognize {
        self.recipe.plan(&Table { v: 0, at: 1, partition: vec![], passed: vec![0] })
    }

    fn columns(&self) -> Vec<ArrayRef> {
        let values: Int64Array = self.rows.iter().map(|(value, _)| *value).collect();
        vec![Arc::new(values), Arc::new(TimestampMicrosecondArray::from(self.times()))]
    }

    /// All that is shown, a line for each row; or the error. Rows are given `n_at_once`.
    fn run(&self, n_at_once: usize) -> Result<Vec<String>, Error> {
        let matcher = Matcher::new(&self.plan(), &schema())?;
        let n_rows = self.rows.len();
        let part = |n: usize| self.columns().iter().map(|column| column.slice(0, n)).collect::<Vec<_>>();
        let mut n = n_at_once.min(n_rows);
        let extent = |n: usize| Extent { is_first: true, is_complete: n == n_rows, horizon: None };
        let mut rows = Rows::new(part(n), n, matcher.time(), extent(n))?;
        let mut scan = Scan::new(&matcher, Stand::default());
        let mut sightings: Vec<Sighting> = Vec::new();
        while !scan.is_at_end(&rows) {
            match scan.advance(&mut rows, &|| true)? {
                Advance::Done(sighting) => sightings.extend(sighting),
                Advance::Unread => {
                    assert!(n < n_rows, "all rows are there");
                    n = (n + n_at_once).min(n_rows);
                    rows.extend(part(n), n, matcher.time(), extent(n))?;
                }
            }
        }
        let shown = matcher.show(&sightings, &rows)?;
        let options = FormatOptions::default().with_null("-");
        let formatters: Vec<_> = shown
            .columns
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        let line = |row: usize| {
            formatters.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ")
        };
        Ok((0..shown.n_rows).map(line).collect())
    }
}

fn random(rng: &mut Rng) -> Case {
    let recipe = rng.recipe();
    let row = |rng: &mut Rng| ((rng.below(8) > 0).then(|| rng.below(5) as i64), rng.below(3) as i64);
    Case { recipe, rows: (0..rng.below(10)).map(|_| row(rng)).collect() }
}

/// What both give, or that both fail.
fn compare(case: &Case, n_at_once: usize) -> Result<(), String> {
    let expected = Reference { case }.run();
    let found = case.run(n_at_once).map_err(|error| error.to_string());
    match (&found, &expected) {
        (Ok(found), Ok(expected)) if found == expected => Ok(()),
        (Err(_), Err(())) => Ok(()),
        _ => Err(format!("{case:#?}\nfound    {found:?}\nexpected {expected:?}")),
    }
}

#[test]
fn matcher_gives_what_the_reference_gives() {
    let n_seeds = std::env::var("TIDEMILL_SEEDS").map_or(8_000, |n| n.parse().unwrap());
    let mut n_shown = 0;
    for seed in 0..n_seeds {
        let mut rng = Rng(seed);
        let mut case = random(&mut rng);
        let n_at_once = 1 + rng.below(4) * rng.below(4);
        n_shown += Reference { case: &case }.run().map_or(0, |rows| rows.len());
        let Err(mut failure) = compare(&case, n_at_once) else { continue };
        // As few rows as still fail.
        let mut idx = 0;
        while idx < case.rows.len() {
            let mut fewer = case.clone();
            fewer.rows.remove(idx);
            match compare(&fewer, n_at_once) {
                Ok(()) => idx += 1,
                Err(smaller) => (case, failure) = (fewer, smaller),
            }
        }
        panic!("seed {seed}: {failure}");
    }
    assert!(n_shown as u64 > n_seeds, "cases that match nothing prove nothing");
}

/// `A` is a value below 1, `B` below 2, and so on; letters, `*`, `+`, `?`, `|`, parentheses, `^`, `$`.
fn parse(text: &str) -> Pattern {
    let chars: Vec<char> = text.chars().filter(|char| *char != ' ').collect();
    let (pattern, rest) = parse_alternation(&chars);
    assert!(rest.is_empty(), "{rest:?} is left of {text:?}");
    pattern
}

fn parse_alternation(mut chars: &[char]) -> (Pattern, &[char]) {
    let mut parts = Vec::new();
    loop {
        let mut sequence = Vec::new();
        while let Some(char) = chars.first().filter(|char| **char != '|' && **char != ')') {
            chars = &chars[1..];
            let pattern = match char {
                '(' => {
                    let (inner, rest) = parse_alternation(chars);
                    chars = &rest[1..];
                    inner
                }
                '^' => Pattern::Start,
                '$' => Pattern::End,
                letter => Pattern::Row { variable: (*letter as u8 - b'A') as usize, is_excluded: false },
            };
            let bounds = match chars.first() {
                Some('*') => Some((0, None)),
                Some('+') => Some((1, None)),
                Some('?') => Some((0, Some(1))),
                _ => None,
            };
            let Some((min, max)) = bounds else {
                sequence.push(pattern);
                continue;
            };
            chars = &chars[1..];
            let is_reluctant = chars.first() == Some(&'?');
            chars = &chars[usize::from(is_reluctant)..];
            sequence.push(Pattern::Repetition(Box::new(Repetition { pattern, min, max, is_reluctant })));
        }
        parts.push(if sequence.len() == 1 { sequence.remove(0) } else { Pattern::Concat(sequence) });
        match chars.first() {
            Some('|') => chars = &chars[1..],
            _ => break,
        }
    }
    (if parts.len() == 1 { parts.remove(0) } else { Pattern::Alternation(parts) }, chars)
}

fn case(pattern: &str, values: &str) -> Case {
    let recipe = Recipe {
        pattern: parse(pattern),
        demands: (1..=4).map(Demand::Below).collect(),
        shown: Shown::All(EmptyMatches::WithUnmatchedRows),
        skip: Skip::PastLastRow,
        within: None,
    };
    Case { recipe, rows: values.chars().map(|value| (value.to_digit(10).map(i64::from), 1)).collect() }
}

/// For each row its variable, and a bar in front of each match's first; `.` is in none, `_` an empty match.
fn classified(case: &Case) -> String {
    let mut text = String::new();
    let mut number = String::new();
    for line in case.run(1).unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        let (own, variable) = (words[1], words[2]);
        if own != "-" && own != number {
            text.push('|');
            number = own.to_owned();
        }
        text.push_str(match (own, variable) {
            ("-", _) => ".",
            (_, "-") => "_",
            (_, variable) => variable,
        });
    }
    text
}

#[test]
fn patterns_mean_what_sql_says() {
    // A is 0; B is 0 or 1; C is up to 2; D is up to 3.
    for (pattern, values, expected) in [
        ("A B", "0123", "|AB.."),
        ("A B", "0000", "|AB|AB"),
        // Greedy and reluctant.
        ("A+ B", "0001", "|AAAB"),
        ("A+ B", "0000", "|AAAB"),
        ("A+? B", "0001", "|AB|AB"),
        ("B*? C", "012", "|C|C|C"),
        ("B* C", "012", "|BBC"),
        ("A?? B", "01", "|B|B"),
        ("A? B", "01", "|AB"),
        // The first alternative that leads to a match, not the longest.
        ("A | A B", "01", "|A."),
        ("A B | A", "01", "|AB"),
        ("(A | A B) C", "012", "|AC."),
        ("(D | C) A", "20", "|DA"),
        // Coming back for less.
        ("B+ A", "0010", "|BBBA"),
        ("B* B B", "0101", "|BBBB"),
        ("(A+)+ D", "00003", "|AAAAD"),
        // Empty matches never loop, and give way to nothing else.
        ("A*", "0010", "|AA|_|A"),
        ("A*?", "00", "|_|_"),
        ("(A*)*", "001", "|AA|_"),
        ("(A?)*? B", "01", "|B|B"),
        ("(A | ^)* B", "01", "|AB"),
        // Anchors.
        ("^A", "00", "|A."),
        ("A$", "00", ".|A"),
        ("^ $", "", ""),
        ("A+ $", "0010", "...|A"),
        ("$", "0", "."),
        // NULL fulfils nothing.
        ("A", "0x0", "|A.|A"),
    ] {
        assert_eq!(classified(&case(pattern, values)), expected, "{pattern} over {values}");
    }
}

#[test]
fn what_is_skipped() {
    let found = |skip: Skip, pattern: &str, values: &str| {
        let mut case = case(pattern, values);
        (case.recipe.shown, case.recipe.skip) = (Shown::One, skip);
        case.run(2).map(|lines| {
            lines.iter().map(|line| line.split(' ').nth(5).unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        })
    };
    // How many rows the matches have.
    assert_eq!(found(Skip::PastLastRow, "A+", "0001").unwrap(), "3");
    assert_eq!(found(Skip::ToNextRow, "A+", "0001").unwrap(), "3 2 1");
    assert_eq!(found(Skip::ToLast(vec![0]), "C A+", "20020").unwrap(), "3 2");
    assert_eq!(found(Skip::ToFirst(vec![0]), "D A+", "3003").unwrap(), "3 2");
    let nothing = found(Skip::ToFirst(vec![1]), "A B?", "03").unwrap_err();
    assert!(matches!(nothing, Error::SkipToNothing { .. }), "{nothing}");
    let first = found(Skip::ToFirst(vec![0]), "A+", "00").unwrap_err();
    assert!(matches!(first, Error::SkipToFirstRow { .. }), "{first}");
}

#[test]
fn a_search_without_end_is_an_error() {
    // Sums depend on the whole way, so no place can be remembered: 2^n ways to share n rows.
    let values = "0".repeat(64);
    let mut case = case("(A | B)+ C", &values);
    case.recipe.demands = vec![Demand::SumBelow(9), Demand::SumBelow(9), Demand::Below(-1)];
    let matcher = Matcher::new(&case.plan(), &schema()).unwrap().with_steps_max(100_000);
    let extent = Extent { is_first: true, is_complete: true, horizon: None };
    let mut rows = Rows::new(case.columns(), case.rows.len(), None, extent).unwrap();
    let error = Scan::new(&matcher, Stand::default()).advance(&mut rows, &|| true).unwrap_err();
    assert!(matches!(error, Error::TooManySteps { n_steps: 100_000 }), "{error}");
    // Whoever waits can go.
    let mut n_asked = std::cell::Cell::new(0);
    let is_wanted = || {
        n_asked.set(n_asked.get() + 1);
        false
    };
    let matcher = Matcher::new(&case.plan(), &schema()).unwrap();
    let error = Scan::new(&matcher, Stand::default()).advance(&mut rows, &is_wanted).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(*n_asked.get_mut(), 1);
}

#[test]
fn places_that_led_nowhere_are_not_tried_again() {
    // Without memory: 3^n ways from the first row alone, and each row begins anew.
    let values = "0".repeat(2000);
    let mut case = case("(A | B | A B)+ C", &values);
    case.recipe.demands = vec![Demand::Below(1), Demand::Below(2), Demand::Below(-1)];
    assert_eq!(case.run(2000).unwrap().len(), 2000, "no row is in a match");
}

#[test]
fn patterns_that_are_too_large_are_refused() {
    let many = |pattern, n| {
        Pattern::Repetition(Box::new(Repetition { pattern, min: n, max: Some(n), is_reluctant: false }))
    };
    let row = Pattern::Row { variable: 0, is_excluded: false };
    let mut case = case("A", "0");
    case.recipe.pattern = many(many(row, 1000), 1000);
    assert!(matches!(case.run(1).unwrap_err(), Error::TooLarge { .. }));
}

#[test]
fn an_error_in_a_row_that_nobody_asks_for_is_none() {
    // 12 / v > 3, and the row with 0 is behind the match that the rows before it make.
    let mut plan = case("A A", "1").plan();
    let quotient = lit(12i64) / col(value_column(0));
    plan.variables[0].condition = Some(quotient.gt(lit(3i64)));
    plan.measures.truncate(1);
    let matcher = Matcher::new(&plan, &schema()).unwrap();
    let run = |values: Vec<i64>| {
        let n_rows = values.len();
        let times: Vec<i64> = (0..n_rows as i64).collect();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(values)), Arc::new(TimestampMicrosecondArray::from(times))];
        let extent = Extent { is_first: true, is_complete: true, horizon: None };
        let mut rows = Rows::new(columns, n_rows, None, extent).unwrap();
        let mut scan = Scan::new(&matcher, Stand::default());
        scan.advance(&mut rows, &|| true)?;
        scan.advance(&mut rows, &|| true)
    };
    assert!(run(vec![2, 2, 1, 1, 0]).is_ok());
    assert!(run(vec![2, 2, 1, 0, 1]).is_err());
}
