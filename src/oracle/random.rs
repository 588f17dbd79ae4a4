//! Random queries over random tables: what each pipeline shows equals its batch answer, after every
//! statement, in any number of lanes, across crashes.
//!
//! `TIDEMILL_SEEDS=200 cargo test --lib random_queries` runs more seeds; `TIDEMILL_SEED=17` runs one. A failing case
//! is shrunk, and printed as a `.slt` file.

use std::collections::BTreeMap;
use std::path::Path;

use tidemill_core::SqlState;
use tidemill_engine::EngineConfig;

use super::grammar::{Choices, Grammar, statement, tables};
use super::{multiset, run, runtime};
use crate::database::Database;
use crate::session::Session;

const N_QUERIES: usize = 10;
const N_LIVES: usize = 2;
const N_STATEMENTS: usize = 4;

/// What is run.
#[derive(Debug, Clone)]
struct Case {
    tables: Vec<String>,
    queries: Vec<String>,
    /// Statements before there are pipelines.
    before: Vec<String>,
    /// The lives of a server, each with its lanes and statements.
    lives: Vec<(usize, Vec<String>)>,
}

impl Case {
    fn of(choices: &mut Choices, n_queries: usize) -> Case {
        let tables = tables(choices);
        let lanes = choices.below(3);
        let statements = |choices: &mut Choices, n: usize| -> Vec<String> {
            (0..n).map(|_| statement(choices, &tables)).collect()
        };
        let before = statements(choices, 3);
        let lives = (0..N_LIVES)
            .map(|life| ([1, 4, 2][(life + lanes) % 3], statements(choices, N_STATEMENTS)))
            .collect();
        let queries = (0..n_queries).map(|_| Grammar::new(&tables).query(choices, 2).sql).collect();
        Case { tables: tables.iter().map(|table| table.ddl()).collect(), queries, before, lives }
    }

    /// The case as a test file.
    fn slt(&self) -> String {
        let mut text = String::from("# A pipeline differed from its batch answer.\n");
        let mut add = |sql: &str| text += &format!("\nstatement ok\n{sql}\n");
        self.tables.iter().chain(&self.before).for_each(|sql| add(sql));
        for (idx, query) in self.queries.iter().enumerate() {
            add(&format!("CREATE PIPELINE p{idx} AS {query}"));
        }
        for (_, statements) in &self.lives {
            statements.iter().for_each(|sql| add(sql));
        }
        text
    }
}

/// What came of a case.
#[derive(Debug, Default)]
struct Outcome {
    n_compared: usize,
    /// Why queries were not maintained, and how often.
    refused: BTreeMap<String, usize>,
    /// Which query differed, and how.
    failure: Option<(usize, String)>,
}

fn try_case(case: &Case) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let mut outcome = Outcome::default();
    let mut created = Vec::new();
    for life in 0..case.lives.len() {
        let runtime = runtime();
        runtime.block_on(live(case, life, directory.path(), &mut created, &mut outcome));
        runtime.shutdown_timeout(std::time::Duration::ZERO);
        if outcome.failure.is_some() {
            break;
        }
    }
    outcome
}

async fn live(case: &Case, life: usize, directory: &Path, created: &mut Vec<usize>, outcome: &mut Outcome) {
    let (n_lanes, statements) = &case.lives[life];
    let config = EngineConfig {
        checkpoint_interval: std::time::Duration::from_millis(20),
        // So little that state of a few hundred rows lies in files.
        memory_limit: 16 << 10,
        ..EngineConfig::default()
    };
    let database = Database::open(directory, *n_lanes, config).await.unwrap();
    let mut session = Session::new(database, "tidemill".into());
    if life == 0 {
        for sql in case.tables.iter().chain(&case.before) {
            run(&mut session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        for (idx, query) in case.queries.iter().enumerate() {
            match run(&mut session, &format!("CREATE PIPELINE p{idx} AS {query}")).await {
                Ok(_) => created.push(idx),
                Err(error) => {
                    let text = error.to_string();
                    // What cannot be maintained is refused; what DataFusion cannot run is nobody's.
                    if error.sqlstate != SqlState::FEATURE_NOT_SUPPORTED
                        && run(&mut session, query).await.is_ok()
                    {
                        outcome.failure = Some((idx, format!("not created: {text}")));
                        return;
                    }
                    *outcome.refused.entry(text).or_default() += 1;
                }
            }
        }
    }
    for sql in statements {
        run(&mut session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        for idx in created.iter().copied() {
            let Ok(batch) = run(&mut session, &case.queries[idx]).await else { continue };
            let differs = match run(&mut session, &format!("SELECT * FROM p{idx}")).await {
                Err(error) => Some(error.to_string()),
                Ok(shown) => {
                    let (shown, batch) = (multiset(&shown), multiset(&batch));
                    (shown != batch).then(|| format!("shows {shown:#?}\nshould show {batch:#?}"))
                }
            };
            outcome.n_compared += 1;
            if let Some(how) = differs {
                outcome.failure = Some((idx, format!("after {sql}, in {n_lanes} lanes:\n{how}")));
                return;
            }
        }
    }
}

/// A smaller case that fails as well: choices are left out, then made plainer, while it does.
fn shrink(seed: u64, failing: usize) -> Option<(Case, String)> {
    let mut choices = Choices::random(seed);
    let mut full = Case::of(&mut choices, N_QUERIES);
    full.queries = vec![full.queries[failing].clone()];
    let fails = |case: &Case| std::panic::catch_unwind(|| try_case(case)).ok()?.failure;
    let mut best = (full.clone(), fails(&full)?.1);
    // Statements first: each makes every later trial cheaper.
    let n_statements = best.0.before.len() + best.0.lives.iter().map(|life| life.1.len()).sum::<usize>();
    for skipped in (0..n_statements).rev() {
        let mut case = best.0.clone();
        let mut idx = skipped;
        for statements in
            std::iter::once(&mut case.before).chain(case.lives.iter_mut().map(|life| &mut life.1))
        {
            if idx < statements.len() {
                statements.remove(idx);
                break;
            }
            idx -= statements.len();
        }
        if let Some((_, how)) = fails(&case) {
            best = (case, how);
        }
    }
    // The query next, from the choices that made it.
    let choices = Choices::random(seed);
    let tables = tables(&mut choices.clone());
    let mut query = query_choices(seed, failing);
    let mut width = query.len() / 2;
    while width > 0 {
        let mut start = 0;
        while start + width <= query.len() {
            let mut fewer = query.clone();
            fewer.drain(start..start + width);
            let mut case = best.0.clone();
            case.queries = vec![Grammar::new(&tables).query(&mut Choices::replay(fewer.clone()), 2).sql];
            match (case.queries[0].len() < best.0.queries[0].len()).then(|| fails(&case)).flatten() {
                Some((_, how)) => {
                    best = (case, how);
                    query = fewer;
                }
                None => start += width,
            }
        }
        width /= 2;
    }
    Some(best)
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

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

#[test]
fn random_queries_equal_their_batch_answers() {
    let seeds = match number("TIDEMILL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TIDEMILL_SEEDS").unwrap_or(4),
    };
    let mut n_compared = 0;
    let mut n_refused = 0;
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for seed in seeds {
        let case = Case::of(&mut Choices::random(seed), N_QUERIES);
        let outcome = try_case(&case);
        if let Some((idx, how)) = outcome.failure {
            let shrunk = shrink(seed, idx);
            let text = match &shrunk {
                Some((case, how)) => format!("{}\n{how}", case.slt()),
                None => "it does not fail alone".into(),
            };
            panic!("seed {seed}, {}\n{how}\n\nshrunk:\n{text}", case.queries[idx]);
        }
        n_compared += outcome.n_compared;
        n_refused += outcome.refused.values().sum::<usize>();
        for (why, n) in outcome.refused {
            *refused.entry(why).or_default() += n;
        }
    }
    println!("{n_compared} answers compared, {n_refused} queries refused: {refused:#?}");
    assert!(n_compared > 0, "every query was refused: {refused:#?}");
}

#[test]
fn choices_make_the_same_case_again() {
    for seed in 0..20 {
        let mut choices = Choices::random(seed);
        let case = Case::of(&mut choices, 3);
        let again = Case::of(&mut Choices::replay(choices.made().to_vec()), 3);
        assert_eq!((case.queries, case.lives), (again.queries, again.lives));
    }
}

/// A pipeline's plan is made again at each start, and must fit the state of the last one.
#[test]
fn a_query_has_one_plan() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let database = Database::open(directory.path(), 2, EngineConfig::default()).await.unwrap();
        let mut session = Session::new(database, "tidemill".into());
        for seed in 0..number("TIDEMILL_SEEDS").unwrap_or(4) {
            let case = Case::of(&mut Choices::random(seed), N_QUERIES);
            for sql in &case.tables {
                run(&mut session, sql).await.unwrap();
            }
            for query in &case.queries {
                let explain = format!("EXPLAIN CREATE PIPELINE p AS {query}");
                let Ok(first) = run(&mut session, &explain).await else { continue };
                let first = multiset(&first);
                for _ in 0..4 {
                    assert_eq!(multiset(&run(&mut session, &explain).await.unwrap()), first, "{query}");
                }
            }
            for table in &case.tables {
                let name = table.split(' ').nth(2).unwrap();
                run(&mut session, &format!("DROP TABLE {name}")).await.unwrap();
            }
        }
    });
}
