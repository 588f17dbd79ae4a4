//! Each statement is denied while any one thing is missing that it needs, and works with all of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tidemill_engine::EngineConfig;

use crate::database::Database;
use crate::session::Session;
use crate::session::api::SessionApi;
use crate::statements::testing::{on_a_runtime, run, try_run};

async fn open(directory: &Path) -> Arc<Database> {
    Database::open(directory, 1, EngineConfig::default()).await.unwrap()
}

fn session(database: &Arc<Database>, user: &str) -> Session {
    Session::new(database.clone(), user.into())
}

async fn state(session: &mut Session, sql: &str) -> String {
    match try_run(session, sql).await {
        Ok(_) => "ok".into(),
        Err(error) => error.sqlstate.0.into(),
    }
}

/// What everything is tried on, in schema `s`, which all of it belongs to `ann` with.
const WORLD: &str = "
    CREATE ROLE ann LOGIN; CREATE ROLE team; CREATE ROLE other;
    GRANT CREATE ON DATABASE tidemill TO ann;
    SET ROLE ann;
    CREATE SCHEMA s;
    CREATE TABLE s.t (id INT PRIMARY KEY, n INT);
    CREATE TABLE s.u (id INT, n INT);
    INSERT INTO s.t VALUES (1, 1), (2, 2); INSERT INTO s.u VALUES (1, 10);
    CREATE VIEW s.v AS SELECT * FROM s.t;
    CREATE PIPELINE s.p AS SELECT n, count(*) AS c FROM s.t GROUP BY n;
    CREATE SOURCE s.src WITH (connector = 'generator', data = 'sequence', events = '10');
    CREATE SINK s.k FROM s.p WITH (connector = 'blackhole');
    GRANT CREATE, USAGE ON SCHEMA s TO other;
    SET search_path = s, public;
    RESET ROLE;
";

/// What comes before a statement, the statement, and what it needs: what stands behind GRANT; `IN role`; `OWN kind name`; an attribute
/// of the role. `$r` is the role, `$n` the number of the try.
type Case = (&'static str, &'static str, &'static [&'static str]);

const USAGE: &str = "USAGE ON SCHEMA s";
const CREATE: &str = "CREATE ON SCHEMA s";
const SELECT_T: &str = "SELECT ON s.t";
const SELECT_U: &str = "SELECT ON TABLE s.u";
const SELECT_V: &str = "SELECT ON VIEW s.v";
const SELECT_P: &str = "SELECT ON PIPELINE s.p";

const CASES: &[Case] = &[
    ("", "SELECT * FROM s.t", &[USAGE, SELECT_T]),
    ("", "SELECT count(*) FROM s.t", &[USAGE, SELECT_T]),
    ("", "SELECT * FROM s.t JOIN s.u USING (id)", &[USAGE, SELECT_T, SELECT_U]),
    ("", "SELECT (SELECT max(n) FROM s.t)", &[USAGE, SELECT_T]),
    (
        "",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM s.t WHERE n IN (SELECT n FROM s.u))",
        &[USAGE, SELECT_T, SELECT_U],
    ),
    (
        "",
        "WITH t AS (SELECT * FROM s.u) SELECT * FROM t UNION ALL SELECT * FROM s.t",
        &[USAGE, SELECT_T, SELECT_U],
    ),
    // What is called as the table inside is not the table outside.
    (
        "",
        "SELECT * FROM (WITH t AS (SELECT 1 AS n) SELECT * FROM t) AS a, s.v, s.t",
        &[USAGE, SELECT_T, SELECT_V],
    ),
    ("", "VALUES (1)", &[]),
    // All that can stand for a relation, beside a view whose owner reads the same table.
    ("", "SELECT * FROM s.v UNION ALL SELECT * FROM s.t", &[USAGE, SELECT_T, SELECT_V]),
    (
        "",
        "SELECT * FROM s.v, LATERAL (SELECT * FROM s.t WHERE t.id = v.id) AS x",
        &[USAGE, SELECT_T, SELECT_V],
    ),
    ("", "SELECT * FROM s.v, unnest((SELECT array_agg(n) FROM s.t)) AS x", &[USAGE, SELECT_T, SELECT_V]),
    (
        "",
        "SELECT v.n + (SELECT max(n) FROM s.t) FROM s.v ORDER BY (SELECT min(n) FROM s.u)",
        &[USAGE, SELECT_T, SELECT_U, SELECT_V],
    ),
    (
        "",
        "SELECT v.id, x.id FROM s.v JOIN (s.t AS x JOIN s.u USING (id)) ON true",
        &[USAGE, SELECT_T, SELECT_U, SELECT_V],
    ),
    (
        "",
        "WITH RECURSIVE r AS (SELECT id FROM s.v UNION SELECT t.id FROM s.t JOIN r ON r.id = t.id) SELECT * FROM r",
        &[USAGE, SELECT_T, SELECT_V],
    ),
    (
        "",
        "SELECT * FROM s.v ASOF JOIN s.t MATCH_CONDITION (v.n >= t.n) ON v.id = t.id",
        &[USAGE, SELECT_T, SELECT_V],
    ),
    (
        "",
        "SELECT * FROM s.v, s.t MATCH_RECOGNIZE (ORDER BY id MEASURES a.n AS m PATTERN (a) DEFINE a AS a.n > 0) AS x",
        &[USAGE, SELECT_T, SELECT_V],
    ),
    (
        "",
        "SELECT c.relname FROM pg_class AS c, s.v WHERE EXISTS (SELECT 1 FROM s.t)",
        &[USAGE, SELECT_T, SELECT_V],
    ),
    ("", "SELECT * FROM s.v", &[USAGE, SELECT_V]),
    ("", "SELECT * FROM s.p", &[USAGE, SELECT_P]),
    ("", "SELECT c.relname FROM pg_class AS c, s.t", &[USAGE, SELECT_T]),
    ("", "SELECT * FROM tm_dead_letters", &["IN pg_read_all_data"]),
    ("", "SELECT * FROM tm_audit_log", &["IN pg_monitor"]),
    ("", "SELECT * FROM s.u, s.t, s.p", &["IN pg_read_all_data"]),
    ("", "EXPLAIN SELECT * FROM s.t", &[USAGE, SELECT_T]),
    ("", "EXPLAIN ANALYZE SELECT * FROM s.t", &[USAGE, SELECT_T]),
    ("", "EXPLAIN CREATE PIPELINE x AS SELECT * FROM s.t", &[USAGE, SELECT_T]),
    ("", "EXPLAIN CREATE SINK x FROM s.p WITH (connector = 'blackhole')", &[USAGE, SELECT_P]),
    ("", "EXPLAIN PIPELINE s.p", &[USAGE, SELECT_P]),
    ("", "EXPLAIN SINK s.k", &[USAGE, "OWN SINK s.k"]),
    ("", "VERIFY PIPELINE s.p", &[USAGE, SELECT_P]),
    ("", "SUBSCRIBE TO s.p", &[USAGE, SELECT_P]),
    ("", "SUBSCRIBE TO s.t", &[USAGE, SELECT_T]),
    (
        "",
        "DECLARE c$n CURSOR WITH HOLD FOR SELECT * FROM s.t; FETCH 1 FROM c$n; CLOSE c$n",
        &[USAGE, SELECT_T],
    ),
    ("", "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO s.t; MOVE 1 FROM c; COMMIT", &[USAGE, SELECT_T]),
    ("", "DEALLOCATE ALL; PREPARE q AS SELECT * FROM s.t; EXECUTE q", &[USAGE, SELECT_T]),
    ("", "COPY s.t TO STDOUT", &[USAGE, SELECT_T]),
    ("", "COPY (SELECT * FROM s.t) TO STDOUT", &[USAGE, SELECT_T]),
    ("", "COPY s.t FROM STDIN", &[USAGE, "INSERT ON s.t"]),
    ("", "INSERT INTO s.u VALUES (1, 2)", &[USAGE, "INSERT ON s.u"]),
    ("", "INSERT INTO s.u DEFAULT VALUES", &[USAGE, "INSERT ON s.u"]),
    ("", "INSERT INTO s.u VALUES (1, 2) RETURNING id", &[USAGE, "INSERT ON s.u", SELECT_U]),
    ("", "INSERT INTO s.u SELECT * FROM s.t", &[USAGE, "INSERT ON s.u", SELECT_T]),
    ("", "INSERT INTO s.t VALUES (1, 5) ON CONFLICT DO NOTHING", &[USAGE, "INSERT ON s.t"]),
    ("", "INSERT INTO s.t VALUES (1, 5) ON CONFLICT (id) DO NOTHING", &[USAGE, "INSERT ON s.t", SELECT_T]),
    (
        "",
        "INSERT INTO s.t VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
        &[USAGE, "INSERT ON s.t", "UPDATE ON s.t", SELECT_T],
    ),
    ("", "INSERT INTO s.u SELECT * FROM s.t", &["IN pg_read_all_data", "IN pg_write_all_data"]),
    ("", "UPDATE s.u SET n = 7", &[USAGE, "UPDATE ON s.u"]),
    ("", "UPDATE s.u SET n = DEFAULT", &[USAGE, "UPDATE ON s.u"]),
    ("", "UPDATE s.u SET n = n + 1", &[USAGE, "UPDATE ON s.u", SELECT_U]),
    ("", "UPDATE s.u SET n = 7 WHERE id = 1", &[USAGE, "UPDATE ON s.u", SELECT_U]),
    ("", "UPDATE s.u SET n = 7 RETURNING n", &[USAGE, "UPDATE ON s.u", SELECT_U]),
    ("", "UPDATE s.u SET n = (SELECT max(n) FROM s.t)", &[USAGE, "UPDATE ON s.u", SELECT_U, SELECT_T]),
    ("", "DELETE FROM s.u WHERE id = 100", &[USAGE, "DELETE ON s.u", SELECT_U]),
    (
        "",
        "DELETE FROM s.u WHERE id IN (SELECT id + 100 FROM s.t)",
        &[USAGE, "DELETE ON s.u", SELECT_U, SELECT_T],
    ),
    ("", "DELETE FROM s.u RETURNING id", &[USAGE, "DELETE ON s.u", SELECT_U]),
    ("", "DELETE FROM s.u", &[USAGE, "DELETE ON s.u"]),
    ("", "WITH x AS (SELECT 1) INSERT INTO s.u SELECT 1, n FROM s.t", &[USAGE, "INSERT ON s.u", SELECT_T]),
    ("", "TRUNCATE s.u", &[USAGE, "TRUNCATE ON s.u"]),
    ("", "BEGIN; INSERT INTO s.u VALUES (1, 1); COMMIT", &[USAGE, "INSERT ON s.u"]),
    ("", "CREATE TABLE s.x$n (a INT)", &[CREATE]),
    ("", "CREATE TABLE s.x$n AS SELECT * FROM s.t", &[CREATE, USAGE, SELECT_T]),
    ("", "CREATE VIEW s.x$n AS SELECT * FROM s.v", &[CREATE, USAGE, "SELECT ON s.v"]),
    ("", "CREATE PIPELINE s.x$n AS SELECT n FROM s.p", &[CREATE, USAGE, SELECT_P]),
    ("", "CREATE PIPELINE s.x$n AS SELECT n FROM s.v", &[CREATE, USAGE, "SELECT ON s.v"]),
    (
        "",
        "CREATE MATERIALIZED VIEW s.x$n AS SELECT count(*) FROM s.src",
        &[CREATE, USAGE, "SELECT ON SOURCE s.src"],
    ),
    ("", "CREATE SINK s.x$n FROM s.p WITH (connector = 'blackhole')", &[CREATE, USAGE, SELECT_P]),
    ("", "CREATE SINK s.x$n AS SELECT * FROM s.t WITH (connector = 'blackhole')", &[CREATE, USAGE, SELECT_T]),
    (
        "",
        "CREATE SINK s.x$n FROM s.p WITH (connector = 'file', path = '$dir/out$n') FORMAT DEBEZIUM ENCODE JSON",
        &[CREATE, USAGE, SELECT_P, "IN pg_write_server_files"],
    ),
    ("", "CREATE SOURCE s.x$n WITH (connector = 'generator', table = 'bid', events = '1')", &[CREATE]),
    (
        "",
        "CREATE SOURCE s.x$n (a INT) WITH (connector = 'file', path = '$dir/in.csv') FORMAT PLAIN ENCODE CSV",
        &[CREATE, "IN pg_read_server_files"],
    ),
    ("", "CREATE SCHEMA x$n", &["CREATE ON DATABASE tidemill"]),
    ("", "CREATE SCHEMA x$n AUTHORIZATION team", &["CREATE ON DATABASE tidemill", "IN team"]),
    ("CREATE TABLE s.d$n (a INT)", "DROP TABLE s.d$n", &[USAGE, "OWN TABLE s.d$n"]),
    (
        "CREATE TABLE s.d$n (a INT)",
        "CREATE OR REPLACE TABLE s.d$n (b INT)",
        &[USAGE, CREATE, "OWN TABLE s.d$n"],
    ),
    (
        "CREATE VIEW s.d$n AS SELECT 1 AS a",
        "CREATE OR REPLACE VIEW s.d$n AS SELECT 2 AS a",
        &[USAGE, CREATE, "OWN VIEW s.d$n"],
    ),
    ("CREATE TABLE s.d$n (a INT)", "ALTER TABLE s.d$n RENAME TO e$n", &[USAGE, CREATE, "OWN TABLE s.d$n"]),
    ("CREATE TABLE s.d$n (a INT)", "ALTER TABLE s.d$n OWNER TO other", &["IN other", "OWN TABLE s.d$n"]),
    (
        "CREATE TABLE s.d$n (a INT)",
        "ALTER TABLE s.d$n ADD COLUMN b INT; ALTER TABLE s.d$n ALTER a SET DEFAULT 1",
        &[USAGE, "OWN TABLE s.d$n"],
    ),
    (
        "CREATE TABLE s.d$n (a INT)",
        "ALTER TABLE s.d$n ALTER a SET DEFAULT 1; ALTER TABLE s.d$n RENAME a TO b",
        &[USAGE, "OWN TABLE s.d$n"],
    ),
    ("CREATE TABLE s.d$n (a INT)", "CREATE INDEX ON s.d$n (a)", &[USAGE, "OWN TABLE s.d$n"]),
    (
        "CREATE TABLE s.d$n (a INT); CREATE INDEX i$n ON s.d$n (a)",
        "DROP INDEX s.i$n",
        &[USAGE, "OWN TABLE s.d$n"],
    ),
    ("", "CREATE POLICY a$n ON s.t USING (true)", &[USAGE, "OWN TABLE s.t"]),
    (
        "CREATE TABLE s.d$n (a INT); CREATE POLICY a ON s.d$n USING (true)",
        "ALTER POLICY a ON s.d$n USING (a > 0); DROP POLICY a ON s.d$n",
        &[USAGE, "OWN TABLE s.d$n"],
    ),
    (
        "CREATE TABLE s.d$n (a INT)",
        "ALTER TABLE s.d$n ENABLE ROW LEVEL SECURITY; ALTER TABLE s.d$n FORCE ROW LEVEL SECURITY",
        &[USAGE, "OWN TABLE s.d$n"],
    ),
    ("", "ALTER ROLE $r BYPASSRLS", &["SUPERUSER"]),
    ("", "CREATE SECRET s.x$n AS 'a'", &[CREATE]),
    ("CREATE SECRET s.d$n AS 'a'", "ALTER SECRET s.d$n AS 'b'", &[USAGE, "OWN SECRET s.d$n"]),
    (
        "CREATE SECRET s.d$n AS 'a'",
        "CREATE OR REPLACE SECRET s.d$n AS 'b'",
        &[USAGE, CREATE, "OWN SECRET s.d$n"],
    ),
    ("CREATE SECRET s.d$n AS 'a'", "ALTER SECRET s.d$n RENAME TO e$n", &[USAGE, CREATE, "OWN SECRET s.d$n"]),
    ("CREATE SECRET s.d$n AS 'a'", "ALTER SECRET s.d$n OWNER TO other", &["IN other", "OWN SECRET s.d$n"]),
    ("CREATE SECRET s.d$n AS 'a'", "DROP SECRET s.d$n", &[USAGE, "OWN SECRET s.d$n"]),
    (
        "CREATE SECRET s.d$n AS '10'",
        "CREATE SOURCE s.x$n WITH (connector = 'generator', table = 'bid', events = SECRET s.d$n)",
        &[CREATE, USAGE, "USAGE ON SECRET s.d$n"],
    ),
    (
        "CREATE SECRET s.d$n AS '10MB'",
        "CREATE SINK s.x$n FROM s.p WITH (connector = 'blackhole', memory_limit = SECRET s.d$n)",
        &[CREATE, USAGE, SELECT_P, "USAGE ON SECRET s.d$n"],
    ),
    (
        "CREATE SECRET s.d$n AS '10'",
        "GRANT USAGE ON SECRET s.d$n TO other",
        &["USAGE ON SECRET s.d$n WITH GRANT OPTION"],
    ),
    ("", "CREATE SEQUENCE s.x$n", &[CREATE]),
    (
        "CREATE TABLE s.d$n (a INT)",
        "CREATE SEQUENCE s.x$n OWNED BY s.d$n.a",
        &[CREATE, USAGE, "OWN TABLE s.d$n"],
    ),
    ("CREATE SEQUENCE s.d$n", "DROP SEQUENCE s.d$n", &[USAGE, "OWN SEQUENCE s.d$n"]),
    ("CREATE SEQUENCE s.d$n", "ALTER SEQUENCE s.d$n RESTART", &[USAGE, "OWN SEQUENCE s.d$n"]),
    ("CREATE SEQUENCE s.d$n", "SELECT last_value FROM s.d$n", &[USAGE, "SELECT ON s.d$n"]),
    (
        "CREATE SEQUENCE s.d$n",
        "SELECT nextval('s.d$n'), currval('s.d$n')",
        &[USAGE, "USAGE ON SEQUENCE s.d$n"],
    ),
    ("CREATE SEQUENCE s.d$n", "SELECT setval('s.d$n', 5)", &[USAGE, "UPDATE ON SEQUENCE s.d$n"]),
    (
        "CREATE TABLE s.d$n (id SERIAL, a INT)",
        "INSERT INTO s.d$n (a) VALUES (1)",
        &[USAGE, "INSERT ON s.d$n", "USAGE ON SEQUENCE s.d$n_id_seq"],
    ),
    // As in PostgreSQL, the numbers of an identity column come with the table.
    (
        "CREATE TABLE s.d$n (id INT GENERATED ALWAYS AS IDENTITY, a INT)",
        "INSERT INTO s.d$n (a) VALUES (1)",
        &[USAGE, "INSERT ON s.d$n"],
    ),
    (
        "CREATE TABLE s.d$n (id INT GENERATED ALWAYS AS IDENTITY, a INT)",
        "INSERT INTO s.d$n (a) VALUES (1); SELECT setval('s.d$n_id_seq', 7)",
        &[USAGE, "INSERT ON s.d$n", "UPDATE ON SEQUENCE s.d$n_id_seq"],
    ),
    ("", "BEGIN; CREATE TABLE s.x$n (a INT); INSERT INTO s.x$n VALUES (1); COMMIT", &[CREATE, USAGE]),
    ("CREATE SCHEMA d$n", "ALTER SCHEMA d$n OWNER TO other", &["IN other", "OWN SCHEMA d$n"]),
    (
        "CREATE PIPELINE s.d$n AS SELECT 1 AS a",
        "ALTER PIPELINE s.d$n PAUSE; ALTER PIPELINE s.d$n RESUME; ALTER PIPELINE s.d$n RESTART",
        &[USAGE, "OWN PIPELINE s.d$n"],
    ),
    (
        "CREATE PIPELINE s.d$n AS SELECT 1 AS a",
        "REFRESH MATERIALIZED VIEW s.d$n",
        &[USAGE, "OWN PIPELINE s.d$n"],
    ),
    (
        "CREATE PIPELINE s.d$n AS SELECT 1 AS a",
        "ALTER PIPELINE s.d$n SET (memory_limit = '64MB'); ALTER PIPELINE s.d$n RESET (memory_limit)",
        &[USAGE, "OWN PIPELINE s.d$n"],
    ),
    ("CREATE SCHEMA d$n", "DROP SCHEMA d$n", &["OWN SCHEMA d$n"]),
    ("CREATE SCHEMA d$n; CREATE TABLE d$n.t (a INT)", "DROP TABLE d$n.t", &["OWN SCHEMA d$n"]),
    ("CREATE SCHEMA d$n", "COMMENT ON SCHEMA d$n IS 'mine'", &["OWN SCHEMA d$n"]),
    ("", "COMMENT ON TABLE s.t IS 'mine'", &[USAGE, "OWN TABLE s.t"]),
    ("", "COMMENT ON COLUMN s.t.n IS 'mine'", &[USAGE, "OWN TABLE s.t"]),
    ("", "DROP SINK s.k; ", &[USAGE, "OWN SINK s.k"]),
    ("", "GRANT SELECT ON s.u TO other", &["SELECT ON s.u WITH GRANT OPTION"]),
    ("", "REVOKE SELECT ON s.u FROM other", &["SELECT ON s.u WITH GRANT OPTION"]),
    ("", "GRANT ALL ON s.u TO other WITH GRANT OPTION", &["OWN TABLE s.u"]),
    ("", "GRANT USAGE ON SCHEMA s TO other", &["USAGE ON SCHEMA s WITH GRANT OPTION"]),
    ("", "GRANT team TO other", &["IN team WITH ADMIN OPTION"]),
    ("", "REVOKE team FROM other", &["IN team WITH ADMIN OPTION"]),
    ("", "SET ROLE team; RESET ROLE", &["IN team"]),
    ("", "SET role = 'team'; RESET role", &["IN team"]),
    ("", "CREATE ROLE x$n", &["CREATEROLE"]),
    ("", "CREATE USER x$n IN ROLE team", &["CREATEROLE", "IN team WITH ADMIN OPTION"]),
    ("", "CREATE ROLE x$n SUPERUSER", &["SUPERUSER"]),
    ("CREATE ROLE d$n", "DROP ROLE d$n", &["CREATEROLE", "IN d$n WITH ADMIN OPTION"]),
    ("CREATE ROLE d$n", "ALTER ROLE d$n PASSWORD 'x'", &["CREATEROLE", "IN d$n WITH ADMIN OPTION"]),
    ("CREATE ROLE d$n", "ALTER ROLE d$n RENAME TO e$n", &["CREATEROLE", "IN d$n WITH ADMIN OPTION"]),
    ("CREATE ROLE d$n SUPERUSER", "ALTER ROLE d$n PASSWORD 'x'", &["SUPERUSER"]),
    ("", "ALTER ROLE $r SUPERUSER", &["SUPERUSER"]),
    ("CREATE ROLE d$n", "REASSIGN OWNED BY d$n TO other", &["IN d$n", "IN other"]),
    ("CREATE ROLE d$n", "DROP OWNED BY d$n", &["IN d$n"]),
    ("", "ALTER DEFAULT PRIVILEGES FOR ROLE team GRANT SELECT ON TABLES TO other", &["IN team"]),
    ("", "ALTER DEFAULT PRIVILEGES FOR ROLE team GRANT USAGE ON SEQUENCES TO other", &["IN team"]),
    ("", "ALTER DEFAULT PRIVILEGES FOR ROLE team REVOKE SELECT ON TABLES FROM other", &["IN team"]),
    ("", "SET SESSION AUTHORIZATION other; RESET SESSION AUTHORIZATION", &["SUPERUSER"]),
];

/// Statements that touch nothing of anybody's. Queries that begin with FROM or TABLE are not planned yet.
const NEED_NOTHING: [&str; 23] = [
    "ABORT",
    "ANALYZE",
    "BEGIN",
    "CLOSE",
    "COMMIT",
    "DEALLOCATE",
    "DESC",
    "DESCRIBE",
    "DISCARD",
    "END",
    "FLUSH",
    "FROM",
    "LISTEN",
    "LOCK",
    "NOTIFY",
    "RELEASE",
    "ROLLBACK",
    "SAVEPOINT",
    "SHOW",
    "START",
    "TABLE",
    "UNLISTEN",
    "VACUUM",
];

/// How a need is given, and taken away.
fn given_and_taken(need: &str, role: &str) -> (String, String) {
    if let Some(object) = need.strip_prefix("OWN ") {
        return (format!("ALTER {object} OWNER TO {role}"), format!("ALTER {object} OWNER TO ann"));
    }
    if let Some(of) = need.strip_prefix("IN ") {
        let (of, option) = of.split_once(" WITH ").unwrap_or((of, ""));
        let option = if option.is_empty() { "" } else { "WITH ADMIN OPTION" };
        return (format!("GRANT {of} TO {role} {option}"), format!("REVOKE {of} FROM {role}"));
    }
    if !need.contains(" ON ") {
        return (format!("ALTER ROLE {role} {need}"), format!("ALTER ROLE {role} NO{need}"));
    }
    let (what, option) = need.split_once(" WITH ").unwrap_or((need, ""));
    let option = if option.is_empty() { "" } else { "WITH GRANT OPTION" };
    (format!("GRANT {what} TO {role} {option}"), format!("REVOKE {what} FROM {role} CASCADE"))
}

#[test]
fn each_statement_needs_each_of_its_privileges() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("in.csv"), "1\n").unwrap();
        let files = directory.path().display().to_string();
        let database = open(&directory.path().join("data")).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, WORLD).await;
        let mut wrong = Vec::new();
        let mut number = 0;
        for (setup, statement, needs) in CASES {
            let role = format!("r{number}");
            run(&mut root, &format!("CREATE ROLE {role} LOGIN")).await;
            for missing in (0..needs.len()).map(Some).chain([None]) {
                number += 1;
                let fill = |text: &str| {
                    text.replace("$n", &number.to_string()).replace("$r", &role).replace("$dir", &files)
                };
                run(&mut root, &format!("SET ROLE ann; {}; RESET ROLE", setup_as_ann(&fill(setup)))).await;
                run(&mut root, &setup_as_root(&fill(setup))).await;
                let all: Vec<(String, String)> =
                    needs.iter().map(|need| given_and_taken(&fill(need), &role)).collect();
                for (idx, (give, _)) in all.iter().enumerate() {
                    if Some(idx) != missing {
                        run(&mut root, give).await;
                    }
                }
                let mut session = session(&database, &role);
                let outcome = try_run(&mut session, &fill(statement)).await;
                // A block that has failed gives back what it holds.
                drop(session);
                match (&outcome, missing) {
                    (Ok(_), None) => (),
                    (Err(error), Some(_)) if error.sqlstate.0 == "42501" => (),
                    _ => {
                        let without = missing.map_or("everything", |idx| needs[idx]);
                        let outcome = outcome.map(|rows| rows.len()).map_err(|error| error.message);
                        let kind = if missing.is_some() { "without" } else { "with" };
                        wrong.push(format!("{statement} {kind} {without}: {outcome:?}"));
                    }
                }
                // What is gone, or has been renamed or given away, need not be taken back.
                for (idx, (_, take)) in all.iter().enumerate() {
                    if Some(idx) != missing {
                        let _ = try_run(&mut root, take).await;
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Schemas and relations are made by their owner, roles by a superuser.
fn setup_as_ann(setup: &str) -> String {
    if setup.contains("ROLE") { String::new() } else { setup.to_owned() }
}

fn setup_as_root(setup: &str) -> String {
    if setup.contains("ROLE") { setup.to_owned() } else { String::new() }
}

#[test]
fn each_kind_of_statement_is_in_the_table() {
    let words = CASES.iter().flat_map(|(_, statement, _)| statement.split(';'));
    let tried: BTreeSet<String> = words
        .filter_map(|statement| statement.split_whitespace().next())
        .map(|word| word.trim_start_matches('(').to_uppercase())
        .collect();
    let untried: Vec<&str> = tidemill_sql::statements::verbs()
        .iter()
        .copied()
        .filter(|verb| !tried.contains(*verb) && !NEED_NOTHING.contains(verb) && *verb != "CANCEL")
        .collect();
    assert!(untried.is_empty(), "what do these need? {untried:?}");
}

#[test]
fn a_privilege_that_is_misspelt_comes_with_the_one_that_was_meant() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, "CREATE TABLE t (a INT); CREATE ROLE ann").await;
        for (word, hint) in [("selec", Some("Perhaps you meant SELECT.")), ("frobnicate", None)] {
            let error = try_run(&mut root, &format!("GRANT {word} ON t TO ann")).await.unwrap_err();
            assert_eq!(error.message, format!("unrecognized privilege type \"{word}\""));
            assert_eq!((error.position, error.hint.as_deref()), (Some(7), hint));
        }
    });
}

/// There is no job to be cancelled here, which is what a superuser is told.
#[test]
fn jobs_are_cancelled_by_superusers() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(&directory.path().join("data")).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, "CREATE ROLE ann LOGIN").await;
        let mut ann = session(&database, "ann");
        assert_eq!(try_run(&mut ann, "CANCEL JOB 77").await.unwrap_err().sqlstate.0, "42501");
        assert_eq!(try_run(&mut root, "CANCEL JOB 77").await.unwrap_err().sqlstate.0, "42704");
    });
}

#[test]
fn views_and_pipelines_run_with_the_rights_of_their_owners() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, WORLD).await;
        run(
            &mut root,
            "CREATE ROLE bob LOGIN; GRANT USAGE ON SCHEMA s TO bob, PUBLIC; GRANT SELECT ON s.v, s.p TO bob",
        )
        .await;
        let mut bob = session(&database, "bob");
        assert_eq!(run(&mut bob, "SELECT count(*) FROM s.v").await, [["2"]]);
        assert_eq!(run(&mut bob, "SELECT count(*) FROM s.p").await, [["2"]]);
        assert_eq!(
            state(&mut bob, "SELECT * FROM s.v, s.t").await,
            "42501",
            "the view's right is not the reader's"
        );
        // A name that the view means is not found elsewhere, whatever the reader's path.
        run(&mut root, "CREATE SCHEMA evil AUTHORIZATION bob").await;
        run(&mut bob, "CREATE TABLE evil.t (id INT, n INT); SET search_path = evil, s").await;
        assert_eq!(state(&mut bob, "SELECT * FROM s.v, s.t").await, "42501");
        run(&mut bob, "RESET search_path").await;
        // Nor by a pipeline, for which nobody would have asked whether bob may read it.
        run(&mut root, "CREATE SCHEMA hidden; CREATE TABLE hidden.t (id INT, n INT); INSERT INTO hidden.t VALUES (77, 7)").await;
        run(
            &mut root,
            "GRANT USAGE ON SCHEMA hidden TO bob; SET ROLE ann; SET search_path = s; \
             CREATE VIEW x AS SELECT id FROM t; GRANT SELECT ON x TO bob; RESET search_path; RESET ROLE",
        )
        .await;
        run(
            &mut bob,
            "SET search_path = hidden, s; CREATE PIPELINE evil.p AS SELECT id FROM s.x; RESET search_path",
        )
        .await;
        assert_eq!(run(&mut bob, "SELECT id FROM evil.p ORDER BY id").await, [["1"], ["2"]]);

        // The owner of the view in between has to be allowed, too.
        run(&mut root, "GRANT CREATE, USAGE ON SCHEMA s TO team; GRANT SELECT ON s.t TO team").await;
        run(
            &mut root,
            "SET ROLE team; CREATE VIEW s.w AS SELECT * FROM s.t; GRANT SELECT ON s.w TO bob; RESET ROLE",
        )
        .await;
        assert_eq!(state(&mut bob, "SELECT * FROM s.w").await, "ok");
        run(&mut root, "REVOKE SELECT ON s.t FROM team").await;
        assert_eq!(state(&mut bob, "SELECT * FROM s.w").await, "42501");
        assert_eq!(
            state(&mut root, "SELECT * FROM s.w").await,
            "42501",
            "it is its owner's right that is missing"
        );
        run(&mut root, "ALTER VIEW s.w OWNER TO ann").await;
        assert_eq!(state(&mut bob, "SELECT * FROM s.w").await, "ok");
    });
}

#[test]
fn roles_come_and_go_and_survive_a_restart() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        {
            let database = open(&path).await;
            let mut root = session(&database, "tidemill");
            run(&mut root, WORLD).await;
            run(
                &mut root,
                "CREATE USER bob PASSWORD 'secret' CONNECTION LIMIT 3 VALID UNTIL '2100-01-02' IN ROLE team",
            )
            .await;
            run(&mut root, "GRANT SELECT ON ALL TABLES IN SCHEMA s TO team; GRANT USAGE ON SCHEMA s TO team")
                .await;
            database.engine.shutdown().await.unwrap();
        }
        let database = open(&path).await;
        let mut root = session(&database, "tidemill");
        let sql = "SELECT rolcanlogin, rolconnlimit, rolpassword, rolvaliduntil FROM pg_authid WHERE rolname = 'bob'";
        assert_eq!(run(&mut root, sql).await, [["true", "3", "********", "2100-01-02T00:00:00Z"]]);
        let mut bob = session(&database, "bob");
        assert_eq!(run(&mut bob, "SELECT count(*) FROM s.t").await, [["2"]]);
        assert_eq!(run(&mut bob, "SELECT current_user, session_user").await, [["bob", "bob"]]);
        run(&mut bob, "SET ROLE team").await;
        assert_eq!(run(&mut bob, "SELECT current_user, session_user").await, [["team", "bob"]]);
        run(&mut bob, "RESET ALL").await;
        assert_eq!(run(&mut bob, "SHOW role").await, [["team"]]);
        run(&mut bob, "RESET ROLE; BEGIN; SET LOCAL ROLE team").await;
        assert_eq!(run(&mut bob, "SHOW role").await, [["team"]]);
        run(&mut bob, "ROLLBACK").await;
        assert_eq!(run(&mut bob, "SHOW role").await, [["none"]]);
        assert_eq!(run(&mut bob, "SHOW is_superuser").await, [["off"]]);
        // Everybody changes the own password, and nothing else of the own role.
        assert_eq!(state(&mut bob, "ALTER ROLE bob PASSWORD 'other'").await, "ok");
        assert_eq!(state(&mut bob, "ALTER ROLE CURRENT_USER PASSWORD NULL").await, "ok");
        for sql in [
            "ALTER ROLE bob SUPERUSER",
            "ALTER ROLE bob PASSWORD 'x' CREATEROLE",
            "ALTER ROLE ann PASSWORD 'x'",
        ] {
            assert_eq!(state(&mut bob, sql).await, "42501", "{sql}");
        }
        assert_eq!(state(&mut root, "DROP ROLE team").await, "2BP01");
        run(&mut root, "REVOKE ALL ON ALL TABLES IN SCHEMA s FROM team; REVOKE ALL ON SCHEMA s FROM team; DROP ROLE team").await;
        assert_eq!(state(&mut bob, "SELECT * FROM s.t").await, "42501");
        assert_eq!(state(&mut root, "DROP ROLE IF EXISTS nobody").await, "ok");
        assert_eq!(state(&mut root, "DROP ROLE nobody").await, "42704");
        assert_eq!(state(&mut root, "DROP ROLE tidemill").await, "55006");
        // One that is gone may do nothing, also in a session that it still has.
        run(&mut root, "DROP ROLE bob").await;
        assert_eq!(state(&mut bob, "CREATE TABLE public.x (a INT)").await, "42501");
    });
}

#[test]
fn passwords_are_shown_to_nobody() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, "CREATE ROLE ann PASSWORD 'hunter2'").await;
        for sql in [
            "SELECT * FROM pg_authid",
            "SELECT * FROM pg_shadow",
            "SELECT * FROM pg_roles",
            "SHOW ALL",
            "SELECT * FROM pg_settings",
        ] {
            let rows = run(&mut root, sql).await.concat().concat();
            assert!(!rows.contains("hunter2") && !rows.contains("SCRAM-SHA-256$"), "{sql}: {rows}");
        }
        let parsed = SessionApi::parse(&mut root, "ALTER ROLE ann PASSWORD 'hunter3'").unwrap();
        let statement = tidemill_sql::parser::parse_one(parsed[0].sql()).unwrap().statement;
        assert!(!format!("{statement:?}").contains("hunter3"));
        for sql in ["ALTER ROLE nobody PASSWORD 'hunter4'", "ALTER ROLE ann PASSWORD 'hunter4' NONSENSE"] {
            let error = try_run(&mut root, sql).await.unwrap_err();
            assert!(!format!("{error:?}").contains("hunter4"), "{error:?}");
        }
        // What the catalog keeps is a verifier.
        let files = std::fs::read_dir(directory.path().join("catalog")).unwrap().flatten();
        let kept: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
        assert!(kept.contains("SCRAM-SHA-256$4096:") && !kept.contains("hunter2"));
    });
}

#[test]
fn pg_catalog_shows_who_may_what() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, WORLD).await;
        run(&mut root, "CREATE ROLE bob LOGIN IN ROLE team; GRANT SELECT ON s.t TO team WITH GRANT OPTION; GRANT SELECT, INSERT ON s.u TO PUBLIC").await;
        let sql = "SELECT relname, array_to_string(relacl, ',') FROM pg_class WHERE relname IN ('t', 'u', 'v') ORDER BY 1";
        assert_eq!(
            run(&mut root, sql).await,
            [["t", "ann=arwdD/ann,team=r*/ann"], ["u", "ann=arwdD/ann,=ar/ann"], ["v", "NULL"],]
        );
        let mut bob = session(&database, "bob");
        for (sql, expected) in [
            ("has_table_privilege('s.t', 'SELECT')", "true"),
            ("has_table_privilege('s.t', 'SELECT WITH GRANT OPTION')", "true"),
            ("has_table_privilege('s.t', 'INSERT, DELETE')", "false"),
            ("has_table_privilege('s.u', 'DELETE, INSERT')", "true"),
            ("has_table_privilege('ann', 's.t', 'TRUNCATE')", "true"),
            ("has_table_privilege('public', 's.u', 'SELECT')", "true"),
            ("has_table_privilege('public', 's.t', 'SELECT')", "false"),
            ("has_table_privilege('s.t'::regclass, 'SELECT')", "true"),
            ("has_table_privilege('tidemill', 's.t', 'UPDATE')", "true"),
            ("has_table_privilege('pg_class', 'SELECT')", "true"),
            ("has_table_privilege('pg_class', 'INSERT')", "false"),
            ("has_any_column_privilege('s.t', 'SELECT')", "true"),
            ("has_column_privilege('s.t', 'n', 'UPDATE')", "false"),
            ("has_schema_privilege('s', 'USAGE')", "false"),
            ("has_schema_privilege('public', 'USAGE')", "true"),
            ("has_schema_privilege('public', 'CREATE')", "false"),
            ("has_database_privilege('tidemill', 'CONNECT')", "true"),
            ("has_database_privilege('tidemill', 'CREATE')", "false"),
            ("pg_has_role('team', 'MEMBER')", "true"),
            ("pg_has_role('bob', 'ann', 'USAGE')", "false"),
            ("has_table_privilege(12345678::oid, 'SELECT')", "NULL"),
        ] {
            assert_eq!(run(&mut bob, &format!("SELECT {sql}")).await, [[expected]], "{sql}");
        }
        assert_eq!(state(&mut bob, "SELECT has_table_privilege('s.nothing', 'SELECT')").await, "42P01");
        assert_eq!(state(&mut bob, "SELECT has_table_privilege('s.t', 'FLY')").await, "22023");
        assert_eq!(state(&mut bob, "SELECT has_table_privilege('nobody', 's.t', 'SELECT')").await, "42704");
        let sql = "SELECT grantee, table_name, privilege_type, is_grantable FROM information_schema.table_privileges \
                   WHERE table_schema = 's' ORDER BY 1, 2, 3";
        assert_eq!(
            run(&mut bob, sql).await,
            [
                ["PUBLIC", "u", "INSERT", "NO"],
                ["PUBLIC", "u", "SELECT", "NO"],
                ["team", "t", "SELECT", "YES"],
            ]
        );
        let sql = "SELECT r.rolname, m.rolname FROM pg_auth_members AS a JOIN pg_roles AS r ON r.oid = a.roleid \
                   JOIN pg_roles AS m ON m.oid = a.member";
        assert_eq!(run(&mut bob, sql).await, [["team", "bob"]]);
    });
}

#[test]
fn what_is_created_can_be_given_away_at_once_and_all_of_it_dropped() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, WORLD).await;
        run(&mut root, "CREATE ROLE bob LOGIN; GRANT USAGE ON SCHEMA s TO bob").await;
        let mut ann = session(&database, "ann");
        let mut bob = session(&database, "bob");
        run(&mut ann, "ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO bob").await;
        run(&mut ann, "CREATE PIPELINE s.later AS SELECT count(*) AS n FROM s.t").await;
        assert_eq!(run(&mut bob, "SELECT n FROM s.later").await, [["2"]]);
        assert_eq!(state(&mut bob, "SELECT * FROM s.p").await, "42501", "it was there before");
        let sql = "SELECT pg_get_userbyid(defaclrole), defaclnamespace::regnamespace::text, defaclobjtype, array_to_string(defaclacl, ',') FROM pg_default_acl";
        assert_eq!(run(&mut bob, sql).await, [["ann", "s", "r", "bob=r/ann"]]);
        assert_eq!(
            state(&mut ann, "ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT USAGE ON SCHEMAS TO bob").await,
            "0LP01"
        );
        assert_eq!(state(&mut ann, "ALTER DEFAULT PRIVILEGES GRANT USAGE ON TABLES TO bob").await, "0LP01");
        assert_eq!(state(&mut root, "DROP ROLE bob").await, "2BP01");
        run(&mut root, "DROP OWNED BY bob; DROP ROLE bob").await;

        // What others have on top of it is in the way.
        run(&mut root, "GRANT SELECT ON s.t TO other; SET ROLE other; CREATE VIEW s.of_other AS SELECT * FROM s.t; RESET ROLE").await;
        assert_eq!(state(&mut root, "DROP OWNED BY ann").await, "2BP01");
        run(&mut root, "DROP OWNED BY ann CASCADE; DROP ROLE ann").await;
        assert_eq!(
            run(&mut root, "SELECT count(*) FROM pg_class WHERE relname IN ('t', 'p', 'later', 'of_other')")
                .await,
            [["0"]]
        );
    });
}

#[test]
fn what_is_done_is_recorded() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        database.audit.set_level(crate::config::AuditLevel::Writes);
        run(
            &mut root,
            "CREATE ROLE bob LOGIN PASSWORD 'hunter2'; CREATE TABLE t (a INT); INSERT INTO t VALUES (1)",
        )
        .await;
        let mut bob = session(&database, "bob");
        assert_eq!(state(&mut bob, "SELECT * FROM t").await, "42501");
        run(&mut root, "SELECT * FROM t; PREPARE d AS DELETE FROM t; EXECUTE d; SET ROLE bob").await;
        assert_eq!(state(&mut root, "DROP TABLE t").await, "42501");
        run(&mut root, "RESET ROLE").await;
        let sql = "SELECT \"user\", role, action, sqlstate, statement FROM tm_audit_log";
        assert_eq!(
            run(&mut root, sql).await,
            [
                ["tidemill", "tidemill", "change", "00000", "CREATE ROLE bob LOGIN PASSWORD '[redacted]'"],
                ["tidemill", "tidemill", "change", "00000", "CREATE TABLE t (a INT)"],
                ["tidemill", "tidemill", "write", "00000", "INSERT INTO t VALUES (1)"],
                ["bob", "bob", "denied", "42501", "SELECT * FROM t"],
                ["tidemill", "tidemill", "write", "00000", "DELETE FROM t"],
                ["tidemill", "tidemill", "change", "00000", "SET ROLE bob"],
                ["tidemill", "bob", "denied", "42501", "DROP TABLE t"],
                ["tidemill", "bob", "change", "00000", "RESET ROLE"],
            ]
        );
    });
}

#[test]
fn what_is_wrong_with_a_grant_is_said() {
    on_a_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await;
        let mut root = session(&database, "tidemill");
        run(&mut root, WORLD).await;
        for (sql, expected) in [
            ("GRANT SELECT ON s.nothing TO ann", "42P01"),
            ("GRANT SELECT ON s.t TO nobody", "42704"),
            ("GRANT FLY ON s.t TO ann", "42601"),
            ("GRANT USAGE ON s.t TO ann", "0LP01"),
            ("GRANT INSERT ON s.p TO ann", "0LP01"),
            ("GRANT ALL ON SINK s.k TO ann", "0LP01"),
            ("GRANT SELECT ON PIPELINE s.t TO ann", "42809"),
            ("GRANT SELECT ON SCHEMA s TO ann", "0LP01"),
            ("GRANT SELECT ON s.t TO PUBLIC WITH GRANT OPTION", "0LP01"),
            ("GRANT SELECT (id) ON s.t TO ann", "0A000"),
            ("GRANT EXECUTE ON FUNCTION f TO ann", "0A000"),
            ("GRANT nobody TO ann", "42704"),
            ("GRANT ann TO ann", "0LP01"),
            ("GRANT CONNECT ON DATABASE nothing TO ann", "3D000"),
            ("CREATE ROLE ann", "42710"),
            ("CREATE ROLE pg_mine", "42939"),
            ("CREATE ROLE x LOGIN NOLOGIN", "42601"),
            ("CREATE ROLE x FLYING", "42601"),
            ("CREATE ROLE x CONNECTION LIMIT -5", "22023"),
            ("CREATE ROLE x VALID UNTIL 'sometime'", "22007"),
            ("CREATE ROLE x PASSWORD 'md5a3556571e93b0d20722ba62be61e8c2d'", "0A000"),
            ("ALTER ROLE tidemill NOSUPERUSER", "0A000"),
            ("DROP ROLE CURRENT_USER", "42601"),
            ("SET ROLE nobody", "42704"),
        ] {
            assert_eq!(state(&mut root, sql).await, expected, "{sql}");
        }
        // All tables are those that it can be on.
        assert_eq!(state(&mut root, "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA s TO team").await, "ok");
        let mut ann = session(&database, "ann");
        assert_eq!(state(&mut ann, "GRANT SELECT ON s.t TO team; REVOKE ALL ON s.t FROM team").await, "ok");
        let error = try_run(&mut session(&database, "other"), "SELECT * FROM s.t").await.unwrap_err();
        assert_eq!(error.message, "permission denied for table t");
        assert_eq!(error.hint.unwrap(), "Its owner, ann, can allow it: GRANT SELECT ON s.t TO other.");
    });
}
