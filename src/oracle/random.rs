//! Random queries over random tables: what each pipeline shows equals its batch answer, after every
//! statement and as time passes, in any number of lanes, across crashes.
//!
//! `TIDEMILL_SEEDS=200 cargo test --lib random_queries` runs more seeds, `TIDEMILL_SEEDS=200-400` others;
//! `TIDEMILL_SEED=17` runs one. A failing case is shrunk, and printed as a `.slt` file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use tidemill_core::SqlState;
use tidemill_engine::{EngineConfig, TimeSource};

use super::grammar::{Change, Choices, Grammar, Table, change, tables};
use super::{multiset, number, run, runtime};
use crate::database::Database;
use crate::session::Session;

const N_QUERIES: usize = 12;
const N_LIVES: usize = 2;
const N_CHANGES: usize = 4;
/// How many seeds CI runs.
const N_SEEDS: u64 = 8;
/// 2026-01-01 00:00:10, in microseconds: among the times of the rows.
const START: i64 = 1_767_225_610_000_000;

/// What is run.
#[derive(Debug, Clone, PartialEq)]
struct Case {
    tables: Vec<Table>,
    /// What the queries were made over: the tables, and what is `below`.
    readable: Vec<Table>,
    /// Views and pipelines that the queries read like tables.
    below: Vec<Below>,
    queries: Vec<String>,
    /// Changes before there are pipelines.
    before: Vec<Change>,
    /// The lives of a server, each with its lanes and changes.
    lives: Vec<(usize, Vec<Change>)>,
}

/// A relation between the tables and the queries.
#[derive(Debug, Clone, PartialEq)]
struct Below {
    name: String,
    is_view: bool,
    sql: String,
}

impl Case {
    fn of(choices: &mut Choices, n_queries: usize) -> Case {
        let tables = tables(choices);
        let lanes = choices.below(3);
        let changes = |choices: &mut Choices, n: usize| -> Vec<Change> {
            (0..n).map(|_| change(choices, &tables)).collect()
        };
        let before = changes(choices, 7);
        let lives =
            (0..N_LIVES).map(|life| ([1, 4, 2][(life + lanes) % 3], changes(choices, N_CHANGES))).collect();
        let mut readable = tables.clone();
        let mut below = Vec::new();
        for name in ["v0", "p_below"] {
            let query = Grammar::new(&readable).query(choices, 1);
            readable.push(Table { name: name.into(), columns: query.columns, is_keyed: false });
            below.push(Below { name: name.into(), is_view: name == "v0", sql: query.sql });
        }
        let queries = (0..n_queries).map(|_| Grammar::new(&readable).query(choices, 2).sql).collect();
        Case { tables, readable, below, queries, before, lives }
    }

    fn changes_mut(&mut self) -> impl Iterator<Item = &mut Vec<Change>> {
        std::iter::once(&mut self.before).chain(self.lives.iter_mut().map(|life| &mut life.1))
    }

    /// The case as a test file.
    fn slt(&self) -> String {
        let mut text = String::from("# A pipeline differed from its batch answer.\n");
        let mut add = |sql: &str| match sql.starts_with("--") {
            true => text += &format!("\n#{}\n", &sql[2..]),
            false => text += &format!("\nstatement ok\n{sql}\n"),
        };
        self.tables.iter().for_each(|table| add(&table.ddl()));
        self.before.iter().for_each(|change| add(&change.sql()));
        for below in &self.below {
            add(&below.ddl());
        }
        for (idx, query) in self.queries.iter().enumerate() {
            add(&format!("CREATE PIPELINE p{idx} AS {query}"));
        }
        for (n_lanes, changes) in &self.lives {
            add(&format!("-- in {n_lanes} lanes"));
            changes.iter().for_each(|change| add(&change.sql()));
        }
        text
    }
}

impl Below {
    fn ddl(&self) -> String {
        let kind = if self.is_view { "VIEW" } else { "PIPELINE" };
        format!("CREATE {kind} {} AS {}", self.name, self.sql)
    }
}

/// What came of a case.
#[derive(Debug, Default)]
struct Outcome {
    n_compared: usize,
    /// Comparisons whose answer had rows.
    n_with_rows: usize,
    /// Batch queries that failed, so that there was nothing to compare with.
    failed: BTreeMap<String, usize>,
    /// Why queries were not maintained, and which.
    refused: BTreeMap<String, Vec<String>>,
    /// Which query differed, and how.
    failure: Option<(usize, String)>,
}

fn try_case(case: &Case) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let mut outcome = Outcome::default();
    let mut created = Vec::new();
    let mut now = START;
    for life in 0..case.lives.len() {
        let runtime = runtime();
        now = runtime.block_on(live(case, life, directory.path(), now, &mut created, &mut outcome));
        runtime.shutdown_timeout(std::time::Duration::ZERO);
        if outcome.failure.is_some() {
            break;
        }
    }
    outcome
}

/// One life of a server; gives the time of its end.
async fn live(
    case: &Case,
    life: usize,
    directory: &Path,
    mut now: i64,
    created: &mut Vec<usize>,
    outcome: &mut Outcome,
) -> i64 {
    let (n_lanes, changes) = &case.lives[life];
    let config = EngineConfig {
        checkpoint_interval: std::time::Duration::from_millis(20),
        time: TimeSource::manual(now),
        // So little that state of a few hundred rows lies in files.
        memory_limit: 16 << 10,
        // In every other life so few that most steps are taken in parts.
        rows_max: [256 << 10, 2][life % 2],
        ..EngineConfig::default()
    };
    let database = Database::open(directory, *n_lanes, config).await.unwrap();
    let mut session = Session::new(database, "tidemill".into());
    if life == 0 {
        for table in &case.tables {
            run(&mut session, &table.ddl()).await.unwrap_or_else(|error| panic!("{table:?}: {error}"));
        }
        for change in &case.before {
            make(&mut session, change, &mut now).await;
        }
        create(&mut session, case, created, outcome).await;
        if outcome.failure.is_some() {
            return now;
        }
    }
    for change in changes {
        make(&mut session, change, &mut now).await;
        for idx in created.iter().copied() {
            let batch = match run(&mut session, &case.queries[idx]).await {
                Ok(batch) => batch,
                Err(error) => {
                    *outcome.failed.entry(error.to_string()).or_default() += 1;
                    continue;
                }
            };
            let batch = multiset(&batch);
            let differs = match run(&mut session, &format!("SELECT * FROM p{idx}")).await {
                Err(error) => Some(error.to_string()),
                Ok(shown) => {
                    let shown = multiset(&shown);
                    (shown != batch).then(|| format!("shows {shown:#?}\nshould show {batch:#?}"))
                }
            };
            outcome.n_compared += 1;
            outcome.n_with_rows += usize::from(!batch.is_empty());
            if let Some(how) = differs {
                outcome.failure = Some((idx, format!("after {}, in {n_lanes} lanes:\n{how}", change.sql())));
                return now;
            }
        }
    }
    now
}

async fn create(session: &mut Session, case: &Case, created: &mut Vec<usize>, outcome: &mut Outcome) {
    for below in &case.below {
        if let Err(error) = run(session, &below.ddl()).await {
            // Those that read it go without an answer, so it is read in another way.
            let view = Below { is_view: true, ..below.clone() };
            outcome.refused.entry(error.to_string()).or_default().push(below.sql.clone());
            if run(session, &view.ddl()).await.is_err() {
                continue;
            }
        }
    }
    for (idx, query) in case.queries.iter().enumerate() {
        match run(session, &format!("CREATE PIPELINE p{idx} AS {query}")).await {
            Ok(_) => created.push(idx),
            Err(error) => {
                let text = error.to_string();
                // What cannot be maintained is refused; what DataFusion cannot run is nobody's.
                if error.sqlstate != SqlState::FEATURE_NOT_SUPPORTED && run(session, query).await.is_ok() {
                    outcome.failure = Some((idx, format!("not created: {text}")));
                    return;
                }
                outcome.refused.entry(text).or_default().push(query.clone());
            }
        }
    }
}

/// Lets something happen. A statement that breaks a key or a type's bounds is an error, and changes nothing.
async fn make(session: &mut Session, change: &Change, now: &mut i64) {
    if let Change::Pass(seconds) = change {
        *now += *seconds as i64 * 1_000_000;
        session.database.engine.advance_to(*now).await.unwrap();
        return;
    }
    let sql = change.sql();
    if let Err(error) = run(session, &sql).await {
        assert!(["22", "23"].contains(&&error.sqlstate.0[..2]), "{sql}: {error}");
    }
}

/// A smaller case that fails as well: parts are left out, then made plainer, while it does.
fn shrink(seed: u64, failing: usize) -> Option<(Case, String)> {
    let full = Case::of(&mut Choices::random(seed), N_QUERIES);
    let case = Case { queries: vec![full.queries[failing].clone()], ..full };
    let how = fails(&case)?;
    let mut best = Best { case, how };
    // Changes first: each makes every later trial cheaper.
    best.without_changes();
    best.with_one_life();
    best.with_plainer_query(seed, failing);
    best.without_relations();
    best.without_rows();
    best.without_columns();
    best.without_changes();
    Some((best.case, best.how))
}

fn fails(case: &Case) -> Option<String> {
    let outcome = std::panic::catch_unwind(|| try_case(case)).ok()?;
    outcome.failure.map(|(_, how)| how)
}

/// The smallest case so far that fails.
struct Best {
    case: Case,
    how: String,
}

impl Best {
    /// Takes another case if it fails.
    fn take(&mut self, case: Case) -> bool {
        if case == self.case {
            return false;
        }
        let Some(how) = fails(&case) else { return false };
        *self = Best { case, how };
        true
    }

    fn without_changes(&mut self) {
        let n_changes: usize = self.case.clone().changes_mut().map(|changes| changes.len()).sum();
        for skipped in (0..n_changes).rev() {
            let mut case = self.case.clone();
            let mut idx = skipped;
            for changes in case.changes_mut() {
                if idx < changes.len() {
                    changes.remove(idx);
                    break;
                }
                idx -= changes.len();
            }
            self.take(case);
        }
    }

    fn with_one_life(&mut self) {
        let mut case = self.case.clone();
        let changes = case.lives.iter().flat_map(|(_, changes)| changes.clone()).collect();
        case.lives = vec![(1, changes)];
        if !self.take(case.clone()) {
            case.lives[0].0 = 4;
            self.take(case);
        }
    }

    fn without_relations(&mut self) {
        for idx in (0..self.case.below.len()).rev() {
            let mut case = self.case.clone();
            case.below.remove(idx);
            self.take(case);
        }
        for idx in (0..self.case.tables.len()).rev() {
            let mut case = self.case.clone();
            let table = case.tables.remove(idx).name;
            for changes in case.changes_mut() {
                changes.retain(|change| !names(&change.sql(), &table));
            }
            self.take(case);
        }
    }

    /// The query from the choices that made it, of which some are left out.
    fn with_plainer_query(&mut self, seed: u64, failing: usize) {
        let mut made = query_choices(seed, failing);
        let mut width = made.len() / 2;
        while width > 0 {
            let mut start = 0;
            while start + width <= made.len() {
                let mut fewer = made.clone();
                fewer.drain(start..start + width);
                let grammar = &mut Grammar::new(&self.case.readable);
                let query = grammar.query(&mut Choices::replay(fewer.clone()), 2).sql;
                let case = Case { queries: vec![query], ..self.case.clone() };
                let is_shorter = case.queries[0].len() < self.case.queries[0].len();
                match is_shorter && self.take(case) {
                    true => made = fewer,
                    false => start += width,
                }
            }
            width /= 2;
        }
    }

    fn without_rows(&mut self) {
        for list in 0..1 + self.case.lives.len() {
            for idx in 0..self.case.clone().changes_mut().nth(list).map_or(0, |changes| changes.len()) {
                let mut row = 0;
                loop {
                    let mut case = self.case.clone();
                    let Some(Change::Insert { rows, .. }) =
                        case.changes_mut().nth(list).and_then(|changes| changes.get_mut(idx))
                    else {
                        break;
                    };
                    if row >= rows.len() || rows.len() == 1 {
                        break;
                    }
                    rows.remove(row);
                    if !self.take(case) {
                        row += 1;
                    }
                }
            }
        }
    }

    /// Columns that nothing names.
    fn without_columns(&mut self) {
        for table in 0..self.case.tables.len() {
            for column in (1..self.case.tables[table].columns.len()).rev() {
                let mut case = self.case.clone();
                let table_name = case.tables[table].name.clone();
                let name = case.tables[table].columns.remove(column).name;
                let is_named = case
                    .queries
                    .iter()
                    .chain(case.below.iter().map(|below| &below.sql))
                    .any(|sql| names(sql, &name));
                if is_named {
                    continue;
                }
                for changes in case.changes_mut() {
                    for change in changes {
                        if let Change::Insert { table, rows, .. } = change
                            && *table == table_name
                        {
                            rows.iter_mut().for_each(|row| drop(row.remove(column)));
                        }
                    }
                }
                self.take(case);
            }
        }
    }
}

/// Whether a word stands in a text.
fn names(sql: &str, word: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// The choices that make the query number `idx` of a seed.
fn query_choices(seed: u64, idx: usize) -> Vec<u32> {
    let made = |n_queries: usize| {
        let mut choices = Choices::random(seed);
        Case::of(&mut choices, n_queries);
        choices.made().to_vec()
    };
    made(idx + 1)[made(idx).len()..].to_vec()
}

/// `TIDEMILL_SEEDS=200`, or `100-200`; `TIDEMILL_SEED=17`.
fn seeds(default: u64) -> Range<u64> {
    if let Some(seed) = number("TIDEMILL_SEED") {
        return seed..seed + 1;
    }
    let text = std::env::var("TIDEMILL_SEEDS").unwrap_or_default();
    match text.split_once('-') {
        Some((first, end)) => first.parse().unwrap()..end.parse().unwrap(),
        None => 0..text.parse().unwrap_or(default),
    }
}

#[test]
fn random_queries_equal_their_batch_answers() {
    let mut total = Outcome::default();
    let mut n_queries = 0;
    let mut failures = Vec::new();
    for seed in seeds(N_SEEDS) {
        let case = Case::of(&mut Choices::random(seed), N_QUERIES);
        let outcome = try_case(&case);
        if let Some((idx, how)) = outcome.failure {
            let shrunk = match shrink(seed, idx) {
                Some((case, how)) => format!("{}\n{how}", case.slt()),
                None => "it does not fail alone".into(),
            };
            println!("seed {seed}, {}\n{how}\n\nshrunk:\n{shrunk}", case.queries[idx]);
            failures.push(seed);
        }
        n_queries += case.queries.len() + case.below.len();
        total.n_compared += outcome.n_compared;
        total.n_with_rows += outcome.n_with_rows;
        for (why, queries) in outcome.refused {
            total.refused.entry(why).or_default().extend(queries);
        }
        for (why, n) in outcome.failed {
            *total.failed.entry(why).or_default() += n;
        }
    }
    let n_refused: usize = total.refused.values().map(Vec::len).sum();
    println!(
        "{} answers compared, {} of them with rows; of {n_queries} queries {n_refused} refused: {:#?}; batch answers that \
         failed: {:#?}",
        total.n_compared, total.n_with_rows, total.refused, total.failed
    );
    assert!(failures.is_empty(), "seeds {failures:?} failed");
    // A grammar whose queries are refused proves nothing.
    assert!(n_refused * 10 < n_queries.max(1), "{n_refused} of {n_queries} were refused");
    // Nor does one whose answers are empty.
    assert!(total.n_with_rows * 5 > total.n_compared * 2, "more than three of five answers have no rows");
}

#[test]
fn choices_make_the_same_case_again() {
    for seed in 0..20 {
        let mut choices = Choices::random(seed);
        let case = Case::of(&mut choices, 3);
        assert_eq!(case, Case::of(&mut Choices::replay(choices.made().to_vec()), 3));
    }
}

/// A pipeline's plan is made again at each start, and must fit the state of the last one.
#[test]
fn a_query_has_one_plan() {
    for seed in seeds(4) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = runtime();
        runtime.block_on(async {
            let database = Database::open(directory.path(), 2, EngineConfig::default()).await.unwrap();
            let mut session = Session::new(database, "tidemill".into());
            let case = Case::of(&mut Choices::random(seed), N_QUERIES);
            for table in &case.tables {
                run(&mut session, &table.ddl()).await.unwrap();
            }
            for query in case.below.iter().map(|below| &below.sql).chain(&case.queries) {
                let explain = format!("EXPLAIN CREATE PIPELINE p AS {query}");
                let Ok(first) = run(&mut session, &explain).await else { continue };
                let first = multiset(&first);
                for _ in 0..4 {
                    assert_eq!(multiset(&run(&mut session, &explain).await.unwrap()), first, "{query}");
                }
            }
        });
        runtime.shutdown_timeout(std::time::Duration::ZERO);
    }
}
