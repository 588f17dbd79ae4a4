//! Scripts from end to end: what passes, in every mode, and what fails, in its words.

use super::*;

fn run_with(text: &str, options: &Options) -> FileReport {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.test.sql");
    std::fs::write(&path, text).unwrap();
    let mut report = run_file(&path, options, |_| ());
    let shown = format!("{}/", directory.path().display());
    for failure in report.tests.iter_mut().filter_map(|test| test.failure.as_mut()) {
        failure.text = failure.text.replace(&shown, "");
    }
    report.error = report.error.map(|error| error.replace(&shown, ""));
    report
}

/// The number of runs, all of which pass.
fn passes_with(text: &str, options: &Options) -> usize {
    let report = run_with(text, options);
    assert_eq!(report.error, None);
    for test in &report.tests {
        if let Some(failure) = &test.failure {
            panic!("{} [{}]: {}", test.name, test.label, failure.text);
        }
    }
    report.tests.len()
}

/// As it is, and with crashes everywhere.
fn passes(text: &str) {
    let options = Options { lanes: vec![2], crashes_everywhere: true, ..Options::default() };
    assert!(passes_with(text, &options) >= 2);
}

/// What the one test of a script fails with.
fn fails(text: &str) -> String {
    let mut report = run_with(text, &Options::default());
    assert_eq!(report.error, None);
    assert_eq!(report.tests.len(), 1, "one test");
    report.tests.remove(0).failure.expect("the test fails").text
}

const ORDERS: &str = "CREATE SOURCE orders (id BIGINT, who TEXT, amount BIGINT, at TIMESTAMP NOT NULL, twice BIGINT AS amount * 2,
    WATERMARK FOR at AS at - INTERVAL '10 seconds')
WITH (connector = 'kafka', topic = 'orders', properties.bootstrap.server = 'nowhere:9092') FORMAT PLAIN ENCODE JSON;
CREATE PIPELINE spent AS SELECT who, sum(twice) AS twice FROM orders GROUP BY who;
CREATE PIPELINE per_minute AS
SELECT window_start AS minute, count(*) AS n FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start
EMIT ON WINDOW CLOSE;
";

/// Scripts of a page: the blocks that say so.
fn examples(page: &str) -> Vec<&str> {
    page.split("```sql test\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
fn the_page_shows_what_works() {
    let examples = examples(include_str!("../../docs/testing.md"));
    assert_eq!(examples.len(), 3);
    let options = Options { lanes: vec![1, 3], crashes_everywhere: true, ..Options::default() };
    for example in examples {
        assert!(passes_with(example, &options) >= 4);
    }
}

#[test]
fn the_example_of_flights_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.test.sql");
    let options = Options { lanes: vec![2], ..Options::default() };
    let report = run_file(&path, &options, |_| ());
    assert_eq!(report.error, None);
    for test in &report.tests {
        assert_eq!(test.failure.as_ref().map(|failure| &failure.text), None, "{}", test.name);
    }
    assert_eq!(report.tests.len(), 7);
}

#[test]
fn late_rows_are_late_again_after_a_crash() {
    passes(&format!(
        "{ORDERS}
TEST 'late';
GIVEN orders (id, who, amount, at) VALUES (1, 'a', 1, '2026-01-01 12:00:05');
EXPECT per_minute EMPTY;
GIVEN orders (id, who, amount, at) VALUES (2, 'a', 1, '2026-01-01 12:01:15');
EXPECT per_minute VALUES ('2026-01-01 12:00:00', 1);
GIVEN orders (id, who, amount, at) VALUES (3, 'a', 1, '2026-01-01 12:00:10');
EXPECT 1 LATE ROW OF per_minute;
CRASH;
CRASH;
EXPECT 1 LATE ROW;
EXPECT NO LATE ROWS OF spent;
EXPECT per_minute VALUES ('2026-01-01 12:00:00', 1);
RESTART;
GIVEN orders (id, who, amount, at) VALUES (4, 'a', 1, '2026-01-01 12:02:15');
EXPECT per_minute VALUES ('2026-01-01 12:00:00', 1), ('2026-01-01 12:01:00', 1);
EXPECT CHANGES OF per_minute + ('2026-01-01 12:00:00', 1), + ('2026-01-01 12:01:00', 1);
EXPECT spent VALUES ('a', 8);
EXPECT NO DEAD LETTERS;"
    ));
}

#[test]
fn changes_are_told_by_epoch_and_once() {
    passes(
        "CREATE TABLE t (k INT PRIMARY KEY, v INT);
INSERT INTO t VALUES (1, 10);
CREATE PIPELINE p AS SELECT v % 2 AS odd, count(*) AS n FROM t GROUP BY v % 2;
TEST 'changes';
EXPECT NO CHANGES OF p;
INSERT INTO t VALUES (2, 20), (3, 31);
EXPECT CHANGES OF p: - (0, 1), + (0, 2), + (1, 1);
EXPECT NO CHANGES OF p;
UPDATE t SET v = v + 1 WHERE k = 3;
CRASH;
UPDATE t SET v = v + 1 WHERE k = 3;
EXPECT CHANGES OF p - (0, 2), + (0, 3), - (1, 1), - (0, 3), + (0, 2), + (1, 1);
EXPECT CHANGES OF t (v) + (20), + (31), - (31), + (32), - (32), + (33);
-- What comes and goes in one epoch does not show.
BEGIN;
INSERT INTO t VALUES (9, 9);
DELETE FROM t WHERE k = 9;
COMMIT;
EXPECT CHANGES OF p EMPTY;
-- A pipeline that comes later: what it is filled with is no change.
CREATE PIPELINE late AS SELECT max(v) AS v FROM t;
INSERT INTO t VALUES (4, 40);
EXPECT CHANGES OF late - (33), + (40);",
    );
}

#[test]
fn keys_deletes_records_and_partitions() {
    passes(
        "CREATE SOURCE u (id BIGINT, name TEXT NOT NULL, PRIMARY KEY (id))
INCLUDE partition AS part INCLUDE offset AS pos INCLUDE timestamp AS at
WITH (connector = 'kafka', topic = 'u', properties.bootstrap.server = 'nowhere:9092') FORMAT UPSERT ENCODE JSON;
CREATE PIPELINE p AS SELECT * FROM u;
CREATE SOURCE d (k INT, v INT)
WITH (connector = 'kafka', topic = 'd', properties.bootstrap.server = 'nowhere:9092') FORMAT DEBEZIUM ENCODE JSON;
CREATE PIPELINE q AS SELECT k, v FROM d;
TEST 'a key has one row';
ADVANCE TIME TO '2026-01-01 12:00:00';
GIVEN u VALUES (1, 'a'), (2, 'b'), (1, 'c');
EXPECT p VALUES (1, 'c', 0, 2, '2026-01-01 12:00:00'), (2, 'b', 0, 1, '2026-01-01 12:00:00');
GIVEN DELETES OF u (id) VALUES (2), (7);
GIVEN u (id, name) IN PARTITION 1 VALUES (3, 'd');
EXPECT p (id, name, part, pos) VALUES (1, 'c', 0, 2), (3, 'd', 1, 0);
GIVEN RECORDS OF u IN PARTITION 1 VALUES ('3', NULL), ('4', '{\"name\": \"e\"}'), ('5', '{'), ('6', '{}');
EXPECT p (id, name) VALUES (1, 'c'), (4, 'e');
EXPECT 2 DEAD LETTERS OF u;
EXPECT 2 DEAD LETTERS;
EXPECT NO DEAD LETTERS OF p;
EXPECT NO LATE ROWS;
TEST 'whole rows are taken back';
GIVEN d VALUES (1, 1), (1, 1), (2, NULL);
GIVEN DELETES OF d VALUES (1, 1);
EXPECT q VALUES (1, 1), (2, NULL);
GIVEN d SELECT i, i FROM generate_series(10, 11) AS g(i);
EXPECT q VALUES (1, 1), (2, NULL), (10, 10), (11, 11);
GIVEN d SELECT 1, 2 WHERE false;
EXPECT CHANGES OF q + (1, 1), + (1, 1), + (2, NULL), - (1, 1), + (10, 10), + (11, 11);",
    );
}

#[test]
fn time_passes_when_it_is_told_to() {
    passes(
        "CREATE SOURCE s (k INT, at TIMESTAMP, WATERMARK FOR at AS at)
WITH (connector = 'kafka', topic = 's', properties.bootstrap.server = 'nowhere:9092', idle_timeout = '30s') FORMAT PLAIN ENCODE JSON;
CREATE PIPELINE recent AS SELECT k FROM s WHERE at > now() - INTERVAL '1 minute';
CREATE PIPELINE w AS SELECT window_end, count(*) AS n FROM TUMBLE(s, at, INTERVAL '1 minute') GROUP BY window_end EMIT ON WINDOW CLOSE;
TEST 'rows leave at their time';
ADVANCE TIME TO '2026-01-01 12:00:00';
GIVEN s VALUES (1, '2026-01-01 11:59:10'), (2, '2026-01-01 11:59:30');
EXPECT recent VALUES (1), (2);
ADVANCE TIME BY INTERVAL '10 seconds';
EXPECT recent VALUES (2);
ADVANCE TIME BY '1 hour';
EXPECT recent EMPTY;
EXPECT CHANGES OF recent + (1), + (2), - (1), - (2);
EXPECT SELECT now(): VALUES ('2026-01-01 13:00:10+00');
TEST 'a silent partition does not hold the watermark back for ever' WITHOUT CRASHES;
GIVEN s IN PARTITION 0 VALUES (1, '2026-01-01 12:00:01');
GIVEN s IN PARTITION 1 VALUES (2, '2026-01-01 12:00:02');
ADVANCE TIME BY INTERVAL '20 seconds';
GIVEN s IN PARTITION 0 VALUES (3, '2026-01-01 12:01:30');
EXPECT w EMPTY;
ADVANCE TIME BY INTERVAL '9 seconds';
EXPECT w EMPTY;
ADVANCE TIME BY INTERVAL '1 second';
EXPECT w VALUES ('2026-01-01 12:01:00', 2);",
    );
}

#[test]
fn moments_on_the_way_are_not_left_out() {
    let options = Options { lanes: vec![1, 3], ..Options::default() };
    passes_with(
        "CREATE TABLE t (k INT);
CREATE PIPELINE kept WITH (ttl = '7 seconds') AS SELECT count(*) AS n, min(k) AS k FROM t;
CREATE PIPELINE told AS SELECT n FROM kept EMIT EVERY INTERVAL '5 seconds';
TEST 'what a ttl forgets is told at the moments between';
INSERT INTO t VALUES (1);
EXPECT told VALUES (0);
-- At 5 the row, at 7 it is forgotten, at 10 that is told.
ADVANCE TIME BY INTERVAL '1 minute';
EXPECT CHANGES OF told - (0), + (1), - (1), + (0);
EXPECT told VALUES (0);",
        &options,
    );
}

#[test]
fn sinks_keep_what_they_send() {
    passes(&format!(
        "{ORDERS}
CREATE SINK out FROM spent
WITH (connector = 'kafka', topic = 'out', properties.bootstrap.server = 'nowhere:9092') FORMAT UPSERT ENCODE JSON;
CREATE SINK file FROM orders WITH (connector = 'file', path = '/nowhere/at/all') FORMAT PLAIN ENCODE JSON;
TEST 'exactly once';
GIVEN orders (id, who, amount, at) VALUES (1, 'a', 1, '2026-01-01 12:00:05'), (2, 'b', 2, '2026-01-01 12:00:05');
EXPECT out VALUES ('a', 2), ('b', 4);
EXPECT CHANGES OF out + ('a', 2), + ('b', 4);
GIVEN orders (id, who, amount, at) VALUES (3, 'a', 1, '2026-01-01 12:00:05');
CRASH;
EXPECT CHANGES OF out - ('a', 2), + ('a', 4);
EXPECT out (who) VALUES ('a'), ('b');
EXPECT file (id, twice) VALUES (1, 2), (2, 4), (3, 2);
CRASH;
EXPECT NO CHANGES OF out;
TEST 'at least once' WITHOUT CRASHES;
CREATE SINK p FROM spent WITH (connector = 'blackhole');
GIVEN orders (id, who, amount, at) VALUES (1, 'a', 1, '2026-01-01 12:00:05');
EXPECT p VALUES ('a', 2);
GIVEN orders (id, who, amount, at) VALUES (1, 'a', 1, '2026-01-01 12:00:05');
RESTART;
EXPECT p VALUES ('a', 4);"
    ));
}

#[test]
fn sources_end_fail_and_are_paused() {
    let options = Options { lanes: vec![2], crashes_everywhere: true, ..Options::default() };
    passes_with(
        "CREATE SOURCE f (k INT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (connector = 'file', path = '/nowhere/*.csv');
CREATE PIPELINE w AS SELECT window_end, count(*) AS n FROM TUMBLE(f, at, INTERVAL '1 minute') GROUP BY window_end EMIT ON WINDOW CLOSE;
TEST 'the end closes all windows';
GIVEN f VALUES (1, '2026-01-01 12:00:01');
EXPECT w EMPTY;
FINISH f;
EXPECT w VALUES ('2026-01-01 12:01:00', 1);
EXPECT ERROR LIKE '%does not exist%' IN SELECT * FROM nowhere;
TEST 'a pipeline fails' WITHOUT CRASHES;
CREATE PIPELINE bad AS SELECT 10 / k AS x FROM f;
GIVEN f VALUES (2, NULL);
EXPECT bad VALUES (5);
GIVEN f VALUES (0, NULL);
EXPECT bad FAILED LIKE 'in \"bad\": %Divide by zero%';
EXPECT w EMPTY;
TEST 'what is paused waits';
ALTER PIPELINE w PAUSE;
CREATE PIPELINE all_of_it AS SELECT k FROM f;
ALTER SOURCE f PAUSE;
GIVEN f VALUES (1, '2026-01-01 12:00:01');
EXPECT all_of_it EMPTY;
ALTER SOURCE f RESUME;
EXPECT all_of_it VALUES (1);
GIVEN f VALUES (2, '2026-01-01 12:01:00');
EXPECT w EMPTY;
ALTER PIPELINE w RESUME;
EXPECT w VALUES ('2026-01-01 12:01:00', 1);",
        &options,
    );
}

#[test]
fn errors_views_orders_and_settings() {
    passes(
        "CREATE SCHEMA x;
SET search_path = x, public;
CREATE TABLE t (k INT PRIMARY KEY, v DOUBLE PRECISION, s TEXT);
CREATE VIEW view AS SELECT k, s FROM t;
PREPARE one AS SELECT 1;
TEST 'queries';
INSERT INTO t VALUES (1, 0.1, 'a'), (2, NULL, NULL);
UPDATE t SET v = v + 0.2 WHERE k = 1;
CRASH;
EXPECT t VALUES (1, 0.3, 'a'), (2, NULL, NULL);
EXPECT x.view (s) VALUES (NULL), ('a');
EXPECT view SELECT k, s FROM t;
EXPECT (SELECT k FROM t ORDER BY k DESC) IN ORDER VALUES (2), (1);
EXPECT SELECT name FROM tm_pipelines: EMPTY;
EXPECT ERROR '23505' LIKE '%duplicate key%' IN INSERT INTO t VALUES (1);
EXPECT ERROR '42601' IN SELEC;
EXPECT ERROR IN SELECT 1 / 0;
EXECUTE one;
BEGIN;
INSERT INTO t VALUES (3);
EXPECT SELECT count(*) FROM t: VALUES (3);
ROLLBACK;
EXPECT SELECT count(*) FROM t: VALUES (2);
TEST 'a role that may not look at what went wrong';
CREATE PIPELINE p AS SELECT k FROM t;
CREATE ROLE eve;
GRANT USAGE ON SCHEMA x TO eve;
GRANT SELECT ON p TO eve;
SET ROLE eve;
EXPECT p EMPTY;
EXPECT ERROR '42501' IN SELECT * FROM t;
EXPECT NO LATE ROWS;",
    );
}

#[test]
fn what_fails_says_what_differs() {
    let orders = format!("{ORDERS}TEST 'x';\n");
    let given = "GIVEN orders (id, who, amount, at) VALUES (1, 'a', 1, '2026-01-01 12:00:05'), (2, 'b', 2, '2026-01-01 12:00:06');\n";
    assert_eq!(
        fails(&format!(
            "{orders}{given}EXPECT spent\n  VALUES ('a', 2), ('b', 5), ('c', NULL), ('c', NULL);"
        )),
        "t.test.sql:10: EXPECT spent …
3 missing, 1 unexpected: 4 rows expected, 2 found
            | copies | who | twice
------------+--------+-----+-------
 unexpected |      1 | b   | 4
 missing    |      1 | b   | 5
 missing    |      2 | c   | NULL
"
    );
    assert_eq!(
        fails(&format!("{orders}{given}EXPECT CHANGES OF spent + ('a', 2), - ('b', 4);")),
        "t.test.sql:10: EXPECT CHANGES OF spent + ('a', 2), - ('b', 4)
1 missing, 1 unexpected: 2 rows expected, 2 found
            | change | who | twice
------------+--------+-----+-------
 unexpected | +      | b   |     4
 missing    | -      | b   |     4
"
    );
    assert_eq!(
        fails(&format!(
            "{orders}{given}EXPECT (SELECT who FROM spent ORDER BY who) IN ORDER VALUES ('b'), ('a');"
        )),
        "t.test.sql:10: EXPECT (SELECT who FROM spent ORDER BY who) IN ORDER VALUES ('b'), ('a')
the rows are those expected, in another order from row 1
          | who
----------+-----
 expected | b
 found    | a
"
    );
    let many = fails("TEST 'x';\nEXPECT (SELECT i FROM generate_series(1, 30) AS g(i)) EMPTY;");
    assert!(many.contains("30 unexpected: 0 rows expected, 30 found"), "{many}");
    assert!(many.ends_with(" … and 10 more\n"), "{many}");
}

#[test]
fn mistakes_have_a_place_and_advice() {
    // One pipeline less to make each time.
    let (orders, _) = ORDERS.split_once("CREATE PIPELINE per_minute").unwrap();
    let orders = format!("{orders}\n\n\nCREATE TABLE t (k INT);\nTEST 'x';\n");
    for (statement, at, parts) in [
        ("GIVEN t VALUES (1)", "10:7", &["42809", "is a table", "INSERT INTO t"][..]),
        ("GIVEN spent VALUES (1)", "10:7", &["42809", "is a pipeline"]),
        ("GIVEN order VALUES (1)", "10:7", &["42601", "reserved"]),
        ("GIVEN ordes VALUES (1)", "10:7", &["42P01", "orders"]),
        ("GIVEN orders VALUES (1, 'a')", "10:14", &["2 values for 4 columns", "(id, who, amount, at)"]),
        ("GIVEN orders (id, whom) VALUES (1, 'a')", "10:19", &["42703", "\"whom\"", "\"who\""]),
        ("GIVEN orders (id, id) VALUES (1, 1)", "10:19", &["42701"]),
        ("GIVEN orders (twice) VALUES (1)", "10:15", &["428C9", "is computed"]),
        ("GIVEN orders (id, at) VALUES ('x', now())", "10:23", &["22P02"]),
        ("GIVEN orders (id) VALUES (1)", "10:19", &["23502", "\"at\" is NULL"]),
        ("GIVEN orders (id) VALUES (nix)", "10:27", &["42703"]),
        ("GIVEN DELETES OF orders (id) VALUES (1)", "10:30", &["42809", "takes no row back"]),
        ("FINISH orders", "10", &["never ends", "GIVEN it a row of a later time"]),
        ("FINISH t", "10:8", &["42809"]),
        (
            "ADVANCE TIME TO '1999-01-01'",
            "10:17",
            &["does not go back: it is 2000-01-01 00:00:00, not 1999-01-01"],
        ),
        ("ADVANCE TIME BY INTERVAL '-1 second'", "10:17", &["does not go back"]),
        ("ADVANCE TIME TO 'noon'", "10:17", &["22007"]),
        ("ADVANCE TIME TO NULL", "10:17", &["that is no time"]),
        ("EXPECT spend VALUES (1)", "10:8", &["42P01", "spent"]),
        ("EXPECT orders VALUES (1)", "10:8", &["is a source", "what reads it"]),
        (
            "EXPECT spent VALUES (1)",
            "10:14",
            &["rows of 1 column are expected, but \"spent\" has 2 columns", "(who, twice)"],
        ),
        ("EXPECT spent (whom) VALUES (1)", "10:15", &["42703", "\"who\""]),
        ("EXPECT (SELECT 1) VALUES (1, 2)", "10:19", &["rows of 2 columns", "the query has 1 column"]),
        ("EXPECT (SELECT 4) VALUES (3.7)", "10:19", &["3.7 is expected in column", "it is never that"]),
        ("EXPECT (SELECT 1) VALUES ('x')", "10:19", &["22P02"]),
        ("EXPECT (SELECT nix) VALUES (1)", "10:16", &["42703"]),
        ("EXPECT spent VALUES (nix, 1)", "10:22", &["42703"]),
        ("EXPECT CHANGES OF orders EMPTY", "10:19", &["tells nobody of changes"]),
        ("EXPECT CHANGES OF spent + ('a')", "10:27", &["rows of 1 column"]),
        ("EXPECT 1 LATE ROW OF orders", "10:22", &["of which no row is late"]),
        ("EXPECT spent FAILED", "10", &["runs, but is expected to have failed"]),
        ("EXPECT ERROR '22012' IN SELECT 1", "10:25", &["succeeds, but an error is expected: 22012"]),
        (
            "EXPECT ERROR '22012' IN SELECT nix",
            "10:25",
            &["another error is expected: 22012", "Found is 42703"],
        ),
        ("SUBSCRIBE TO spent", "10", &["EXPECT CHANGES OF"]),
        ("COPY t FROM STDIN", "10", &["Write INSERT"]),
        ("SELECT nix", "10:8", &["42703"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.test.sql");
        std::fs::write(&path, format!("{orders}{statement};")).unwrap();
        let report = run_file(&path, &Options::default(), |_| ());
        let text = match (report.error, report.tests.first()) {
            (Some(error), _) => error,
            (None, Some(test)) => test.failure.clone().unwrap_or_else(|| panic!("{statement} succeeds")).text,
            (None, None) => panic!("{statement}: no test"),
        };
        let place = format!("t.test.sql:{at}: ");
        assert!(text.contains(&place), "{statement}: not at {at}: {text}");
        for part in parts {
            assert!(text.contains(part), "{statement}: no \"{part}\" in: {text}");
        }
    }
    // A test ends with what fails first, and the next one is run.
    let report = run_with("TEST 'a'; SELECT 1 / 0; SELECT nix; TEST 'b'; SELECT 1;", &Options::default());
    let failed: Vec<bool> = report.tests.iter().map(|test| test.failure.is_some()).collect();
    assert_eq!((failed, report.n_failed()), (vec![true, false], 1));
}

#[test]
fn a_failure_that_nobody_expects_is_one() {
    let text = "CREATE TABLE t (k INT);
CREATE PIPELINE bad AS SELECT 10 / k AS x FROM t;
TEST 'x';
INSERT INTO t VALUES (0);
EXPECT t VALUES (0);";
    let failure = fails(text);
    assert!(failure.starts_with("t.test.sql:4: ERROR:  55000: \"bad\" has failed: "), "{failure}");
    assert!(failure.contains("Divide by zero") && failure.contains("EXPECT bad FAILED;"), "{failure}");
    let failure = fails(&text.replace("EXPECT t", "EXPECT bad"));
    assert!(failure.starts_with("t.test.sql:5:8: ERROR:  55000: \"bad\" has failed"), "{failure}");
}

#[test]
fn modes_and_filters() {
    let text = "CREATE TABLE t (k INT);\nTEST 'one of two';\nINSERT INTO t VALUES (1);\nTEST 'two of two' WITHOUT CRASHES;\nTEST 'none';";
    let options = Options {
        lanes: vec![1, 2],
        crashes_everywhere: true,
        filter: Some("of two".into()),
        ..Options::default()
    };
    let report = run_with(text, &options);
    let runs: Vec<String> =
        report.tests.iter().map(|test| format!("{}:{} [{}]", test.line, test.name, test.label)).collect();
    let crash = "a crash behind every statement";
    assert_eq!(
        runs,
        [
            "2:one of two [1 lane]".to_owned(),
            format!("2:one of two [1 lane, {crash}]"),
            "2:one of two [2 lanes]".to_owned(),
            format!("2:one of two [2 lanes, {crash}]"),
            "4:two of two [1 lane]".to_owned(),
            "4:two of two [2 lanes]".to_owned(),
        ]
    );
    let unread = run_with("TEST 'a'; GVEN x;", &Options::default());
    assert_eq!(unread.n_failed(), 1);
    assert!(unread.error.unwrap().starts_with("t.test.sql:1:11: ERROR:  42601"));
}
