//! Definitions in transactions, `tidemill migrate`, and the migration tools of others.
//!
//! `tests/services/migrations.sh` installs and runs those tools; the first time it needs the network. Where there is none,
//! `TIDEMILL_TEST_OFFLINE=1` leaves these tests out, and says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio_postgres::Client;

use crate::recovery::replay;
use crate::server::{self, Server, execute, failure, query, try_query};

async fn started() -> (tempfile::TempDir, Server, Client) {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    (directory, server, client)
}

/// The rows of a query, each as one line.
async fn lines(client: &Client, sql: &str) -> Vec<String> {
    query(client, sql).await.iter().map(|row| row.join("|")).collect()
}

/// The user's relations, as tools see them.
const RELATIONS: &str = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_of_a_block_come_together_or_not_at_all() {
    let (_directory, mut server, one) = started().await;
    let other = server.connect().await;
    execute(&one, "CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 10), (2, 20)").await;
    execute(&one, "CREATE TABLE old (a INT); INSERT INTO old VALUES (1)").await;
    let before = lines(&other, RELATIONS).await;
    let block = "BEGIN; CREATE SCHEMA s; CREATE TABLE s.u (id SERIAL PRIMARY KEY, a INT); \
                 INSERT INTO s.u (a) VALUES (7), (8); CREATE VIEW w AS SELECT a FROM s.u; \
                 CREATE PIPELINE p AS SELECT sum(v) AS s FROM t; CREATE INDEX ON t (v); \
                 ALTER TABLE old ADD COLUMN b INT DEFAULT 5; INSERT INTO t VALUES (3, 30)";

    // The block sees what it has made; nobody else does.
    execute(&one, block).await;
    assert_eq!(lines(&one, "SELECT a FROM w ORDER BY a").await, ["7", "8"]);
    assert_eq!(lines(&one, "SELECT a, b FROM old").await, ["1|5"]);
    assert_eq!(lines(&one, "SELECT s FROM p").await, ["30"], "a pipeline shows what is committed");
    assert_eq!(lines(&other, RELATIONS).await, before);
    assert_eq!(failure(&other, "SELECT * FROM w").await.code().code(), "42P01");
    assert_eq!(lines(&other, "SELECT * FROM old").await, ["1"]);

    // Taken back, nothing of it is there, and all of it can be made again.
    execute(&one, "ROLLBACK").await;
    assert_eq!(lines(&one, RELATIONS).await, before);
    assert_eq!(lines(&one, "SELECT * FROM old").await, ["1"]);

    // So it is when a statement fails, when the client goes, and when the server is killed.
    execute(&one, block).await;
    assert_eq!(failure(&one, "CREATE TABLE t (a INT)").await.code().code(), "42P07");
    execute(&one, "COMMIT").await;
    assert_eq!(lines(&one, RELATIONS).await, before, "COMMIT of a failed block takes it back");
    let gone = server.connect().await;
    execute(&gone, block).await;
    drop(gone);
    // Whoever changes definitions next waits until that has been taken back.
    execute(&one, "CREATE TABLE x (a INT); DROP TABLE x").await;
    assert_eq!(lines(&one, RELATIONS).await, before);
    execute(&one, block).await;
    server.kill_and_restart().await;
    let one = server.connect().await;
    let other = server.connect().await;
    assert_eq!(lines(&one, RELATIONS).await, before);

    // Committed, all of it is there at once, also after a kill.
    execute(&one, block).await;
    execute(&one, "COMMIT").await;
    let check = async |client: &Client| {
        assert_eq!(lines(client, "SELECT id, a FROM s.u ORDER BY a").await.len(), 2);
        assert_eq!(lines(client, "SELECT s FROM p").await, ["60"]);
        assert_eq!(lines(client, "SELECT a, b FROM old").await, ["1|5"]);
        assert_eq!(lines(client, "SELECT count(*) FROM pg_indexes WHERE indexname = 't_v_idx'").await, ["1"]);
    };
    check(&other).await;
    server.kill_and_restart().await;
    check(&server.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_and_savepoints_of_a_block_wait_for_its_end() {
    let (_directory, server, one) = started().await;
    let other = server.connect().await;
    execute(
        &one,
        "CREATE TABLE t (a INT); INSERT INTO t VALUES (1); CREATE PIPELINE p AS SELECT sum(a) AS s FROM t",
    )
    .await;
    execute(&one, "BEGIN; DROP TABLE t CASCADE").await;
    assert_eq!(failure(&one, "SELECT * FROM t").await.code().code(), "42P01");
    assert_eq!(lines(&other, "SELECT s FROM p").await, ["1"]);
    execute(&other, "INSERT INTO t VALUES (2)").await;
    execute(&one, "ROLLBACK").await;
    assert_eq!(lines(&one, "SELECT s FROM p").await, ["3"]);

    // Who defines something meanwhile waits for the block, or says for how long; two that wait for each other are told.
    execute(&one, "BEGIN; CREATE TABLE a (x INT)").await;
    execute(&other, "SET lock_timeout = '50ms'").await;
    assert_eq!(failure(&other, "CREATE TABLE b (x INT)").await.code().code(), "55P03");
    execute(&other, "SET lock_timeout = 0; BEGIN; UPDATE t SET a = a").await;
    let waiting = one.simple_query("DELETE FROM t WHERE a > 100");
    let (waited, refused) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let refused = failure(&other, "CREATE TABLE b (x INT)").await;
        execute(&other, "ROLLBACK").await;
        refused
    });
    assert_eq!(refused.code().code(), "40P01");
    waited.unwrap();
    execute(&one, "ROLLBACK").await;

    // A pipeline over the same name, in one step.
    execute(&one, "BEGIN; DROP PIPELINE p; CREATE PIPELINE p AS SELECT max(a) AS s FROM t").await;
    assert_eq!(lines(&other, "SELECT s FROM p").await, ["3"]);
    execute(&one, "COMMIT").await;
    assert_eq!(lines(&other, "SELECT s FROM p").await, ["2"]);

    execute(
        &one,
        "BEGIN; CREATE TABLE a (x INT); SAVEPOINT one; CREATE TABLE b (x INT); INSERT INTO a VALUES (1); DROP TABLE a; \
         ROLLBACK TO one; CREATE TABLE c (x INT); COMMIT",
    )
    .await;
    let relations = lines(&other, RELATIONS).await;
    assert_eq!(relations, ["public.a", "public.c", "public.p", "public.t"]);
    assert_eq!(lines(&other, "SELECT * FROM a").await, Vec::<String>::new());
    // A savepoint also mends a failure.
    execute(&one, "BEGIN; SAVEPOINT one; CREATE TABLE d (x INT)").await;
    assert_eq!(failure(&one, "CREATE TABLE a (x INT)").await.code().code(), "42P07");
    execute(&one, "ROLLBACK TO one; CREATE TABLE e (x INT); COMMIT").await;
    assert_eq!(lines(&other, RELATIONS).await, ["public.a", "public.c", "public.e", "public.p", "public.t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_of_a_block_begins_with_its_commit() {
    let (directory, server, one) = started().await;
    let path = directory.path().join("out");
    execute(&one, "CREATE TABLE t (a INT); INSERT INTO t VALUES (1)").await;
    let create = format!(
        "CREATE SINK s FROM t WITH (connector = 'file', path = '{}') FORMAT DEBEZIUM ENCODE JSON",
        path.display()
    );
    execute(&one, &format!("BEGIN; {create}")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    execute(&one, "ROLLBACK").await;
    // Whether the destination can be written to has been tried, so its directories are there.
    let mut entries = std::fs::read_dir(&path).into_iter().flatten();
    assert!(!entries.any(|entry| entry.expect("it can be read").path().is_file()), "nothing is delivered");
    execute(&one, &format!("BEGIN; {create}; COMMIT")).await;
    delivered(&server, &one, "1").await;
    // One that is dropped in a block delivers as long as it is there for others, and goes on if it stays.
    execute(&one, &format!("BEGIN; DROP SINK s; {create}; ROLLBACK; INSERT INTO t VALUES (2)")).await;
    delivered(&server, &one, "2").await;
    // One in its place takes over with the block, and finds what the block has written.
    let other = create.replace("/out'", "/other'");
    execute(&one, &format!("BEGIN; DROP SINK s; {other}; INSERT INTO t VALUES (3); COMMIT")).await;
    delivered(&server, &one, "3").await;
    assert_eq!(replay(&path).len(), 2, "the old one has had its last row");
    assert_eq!(replay(&directory.path().join("other")).len(), 3);
}

/// Waits until the sink that there is has delivered so many rows.
async fn delivered(server: &server::Server, client: &tokio_postgres::Client, n_rows: &str) {
    let deadline = std::time::Instant::now() + server::TIMEOUT;
    while query(client, "SELECT rows_delivered FROM tm_sinks").await != [[n_rows]] {
        assert!(std::time::Instant::now() < deadline, "{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_table_keeps_what_others_write() {
    let (_directory, server, one) = started().await;
    let other = server.connect().await;
    execute(&one, "CREATE TABLE t (id INT PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, '10')").await;
    // Who writes between the copy and the commit makes the block fail, not vanish.
    execute(&one, "BEGIN; ALTER TABLE t ADD COLUMN w INT").await;
    execute(&other, "INSERT INTO t VALUES (2, '20')").await;
    assert_eq!(failure(&one, "COMMIT").await.code().code(), "40001");
    assert_eq!(lines(&other, "SELECT * FROM t ORDER BY 1").await, ["1|10", "2|20"]);
    // Who planned before the commit and writes after it is told to try again.
    execute(&other, "BEGIN; INSERT INTO t VALUES (3, '30')").await;
    execute(&one, "ALTER TABLE t ALTER COLUMN v TYPE INT, ADD COLUMN w INT DEFAULT 7").await;
    let refused = failure(&other, "COMMIT").await;
    assert!(["40001", "55000"].contains(&refused.code().code()), "{refused}");
    execute(&one, "ALTER TABLE t RENAME COLUMN id TO key; INSERT INTO t VALUES (4, 40, DEFAULT)").await;
    assert_eq!(lines(&other, "SELECT key, v + 1, w FROM t ORDER BY 1").await, ["1|11|7", "2|21|7", "4|41|7"]);
    assert_eq!(
        failure(&one, "INSERT INTO t VALUES (4, 0, 0)").await.code().code(),
        "23505",
        "the key is kept"
    );
    assert_eq!(failure(&one, "ALTER TABLE t ADD COLUMN x INT NOT NULL").await.code().code(), "23502");
    // Half way dropped, it leaves the session as it was.
    execute(&one, "INSERT INTO t VALUES (5, 50, 0)").await;
    execute(&one, "CREATE PIPELINE p AS SELECT sum(v) AS s FROM t").await;
    assert_eq!(failure(&one, "ALTER TABLE t DROP COLUMN w").await.code().code(), "2BP01");
    execute(&one, "ALTER TABLE t ALTER COLUMN w SET DEFAULT 8; INSERT INTO t (key, v) VALUES (6, 60)").await;
    assert_eq!(lines(&one, "SELECT w, (SELECT s FROM p) FROM t WHERE key = 6").await, ["8|180"]);
    // What others add to a table that the block has changed already is copied too.
    execute(&one, "CREATE TABLE u (id INT PRIMARY KEY, v INT); INSERT INTO u VALUES (1, 1)").await;
    execute(&one, "BEGIN; UPDATE u SET v = 5").await;
    execute(&other, "INSERT INTO u VALUES (2, 2)").await;
    execute(&one, "ALTER TABLE u ADD COLUMN w INT; COMMIT").await;
    assert_eq!(lines(&one, "SELECT id, v FROM u ORDER BY 1").await, ["1|5", "2|2"]);
    // In a snapshot it cannot be: it would not be there afterwards.
    execute(&one, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM u").await;
    execute(&other, "INSERT INTO u VALUES (3, 3)").await;
    let refused = match one.batch_execute("ALTER TABLE u ADD COLUMN x INT; COMMIT").await {
        Ok(()) => panic!("a row would be lost"),
        Err(error) => error.code().expect("an error of the server").code().to_owned(),
    };
    assert_eq!(refused, "40001");
    let _ = one.batch_execute("ROLLBACK").await;
    assert_eq!(lines(&one, "SELECT count(*) FROM u").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_give_no_number_twice() {
    let (_directory, mut server, one) = started().await;
    execute(&one, "CREATE SEQUENCE s; CREATE TABLE t (id SERIAL, v INT)").await;
    assert_eq!(lines(&one, "SELECT nextval('s'), nextval('s'), currval('s'), lastval()").await.len(), 1);
    execute(&one, "INSERT INTO t (v) VALUES (1), (2); INSERT INTO t VALUES (DEFAULT, 3)").await;
    assert_eq!(lines(&one, "SELECT id, v FROM t ORDER BY v").await, ["1|1", "2|2", "3|3"]);
    // A rolled back block has taken its numbers.
    execute(&one, "BEGIN; INSERT INTO t (v) VALUES (9); ROLLBACK; INSERT INTO t (v) VALUES (4)").await;
    assert_eq!(lines(&one, "SELECT id FROM t WHERE v = 4").await, ["5"]);
    server.kill_and_restart().await;
    let one = server.connect().await;
    execute(&one, "INSERT INTO t (v) VALUES (5)").await;
    let after: i64 = lines(&one, "SELECT id FROM t WHERE v = 5").await[0].parse().unwrap();
    assert!((6..=38).contains(&after), "{after}");
    // After a stop in order no number is left out.
    server.terminate().await;
    server.restart().await;
    let one = server.connect().await;
    execute(&one, "INSERT INTO t (v) VALUES (6)").await;
    assert_eq!(lines(&one, "SELECT id FROM t WHERE v = 6").await, [(after + 1).to_string()]);
    // Many at once.
    let sessions = futures::future::join_all((0..4).map(|_| server.connect())).await;
    let inserts = sessions.iter().map(|client| async {
        for _ in 0..20 {
            execute(client, "INSERT INTO t (v) VALUES (0)").await;
        }
    });
    futures::future::join_all(inserts).await;
    assert_eq!(lines(&one, "SELECT count(*) - count(DISTINCT id) FROM t").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advisory_locks_are_held_waited_for_and_given_back() {
    let (_directory, server, one) = started().await;
    let other = server.connect().await;
    assert_eq!(lines(&one, "SELECT pg_advisory_lock(42)").await, [""]);
    assert_eq!(lines(&other, "SELECT pg_try_advisory_lock(42)").await, ["f"]);
    assert_eq!(lines(&other, "SELECT pg_try_advisory_lock(4, 2)").await, ["t"]);
    let shown = "SELECT objid, objsubid, mode, granted FROM pg_locks WHERE locktype = 'advisory' ORDER BY 1";
    assert_eq!(lines(&one, shown).await, ["2|2|ExclusiveLock|t", "42|1|ExclusiveLock|t"]);
    // Waiting ends with the lock, with its time, or with a cancel.
    execute(&other, "SET lock_timeout = '50ms'").await;
    assert_eq!(failure(&other, "SELECT pg_advisory_lock(42)").await.code().code(), "55P03");
    execute(&other, "SET lock_timeout = 0; SET statement_timeout = '50ms'").await;
    assert_eq!(failure(&other, "SELECT pg_advisory_lock(42)").await.code().code(), "57014");
    execute(&other, "SET statement_timeout = 0").await;
    assert_eq!(lines(&one, shown).await.len(), 2, "nobody waits any more");
    let waiting = other.simple_query("SELECT pg_advisory_lock(42)");
    let (waited, ()) = tokio::join!(waiting, async {
        while lines(&one, "SELECT 1 FROM pg_locks WHERE NOT granted").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(lines(&one, "SELECT pg_advisory_unlock(42)").await, ["t"]);
    });
    waited.unwrap();
    assert_eq!(lines(&one, "SELECT pg_try_advisory_lock(42)").await, ["f"]);
    // A transaction's own end with it, a session's with the session.
    execute(&one, "BEGIN; SELECT pg_advisory_xact_lock(7)").await;
    assert_eq!(lines(&other, "SELECT pg_try_advisory_lock(7)").await, ["f"]);
    execute(&one, "COMMIT").await;
    assert_eq!(lines(&other, "SELECT pg_try_advisory_lock(7)").await, ["t"]);
    drop(other);
    let deadline = std::time::Instant::now() + server::TIMEOUT;
    while !lines(&one, shown).await.is_empty() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // As drivers send it, with a parameter.
    let taken = one.query_one("SELECT pg_try_advisory_lock($1::bigint)", &[&99i64]).await.unwrap();
    assert!(taken.get::<_, bool>(0));
}

/// Runs the command line on a directory of migrations.
struct Tool {
    directory: tempfile::TempDir,
    url: String,
}

impl Tool {
    fn new(server: &Server) -> Tool {
        Tool { directory: server::directory(), url: server.url() }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.directory.path().join(file), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.arg("migrate").args(args).arg("--dir").arg(self.directory.path());
        if args[0] != "new" {
            command.args(["--url", &self.url]);
        }
        command
    }

    /// Exit code, what it prints, what it complains about.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&self.path(), "DIR");
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    fn path(&self) -> String {
        self.directory.path().display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_are_applied_once_and_taken_back() {
    let (_directory, server, client) = started().await;
    let tool = Tool::new(&server);
    tool.write(
        "0001_orders.sql",
        "-- migrate:up\nCREATE TABLE orders (id SERIAL PRIMARY KEY, n INT);\nINSERT INTO orders (n) VALUES (1), (2);\n\n\
         -- migrate:down\nDROP TABLE orders;\n",
    );
    tool.write("0002_totals.up.sql", "CREATE PIPELINE totals AS SELECT sum(n) AS n FROM orders;");
    tool.write("0002_totals.down.sql", "DROP PIPELINE totals;");

    let (code, out, _) = tool.run(&["plan"]);
    assert_eq!(code, 5, "{out}");
    assert!(out.contains("+ table public.orders: created"), "{out}");
    assert!(out.contains("+ pipeline public.totals: created: back-fill of about 0 rows"), "{out}");
    let (code, out, _) = tool.run(&["up", "--dry-run"]);
    assert_eq!(code, 0);
    assert!(out.contains("CREATE PIPELINE totals") && out.contains("BEGIN;"), "{out}");
    assert!(lines(&client, RELATIONS).await.is_empty(), "a dry run does nothing");

    let (code, out, err) = tool.run(&["up"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(lines(&client, "SELECT n FROM totals").await, ["3"]);
    let (code, out, _) = tool.run(&["up"]);
    assert_eq!((code, out.as_str()), (0, "Nothing to apply.\n"));
    let (code, out, _) = tool.run(&["plan"]);
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = tool.run(&["status"]);
    assert_eq!(code, 0, "{out}");

    // What is planned over rows that are there, and over readers.
    tool.write(
        "0003_more.sql",
        "-- migrate:up\nCREATE OR REPLACE PIPELINE totals AS SELECT max(n) AS n FROM orders;\nALTER TABLE orders RENAME TO o;\n\
         -- migrate:down\nSELECT 1;\n",
    );
    let (code, out, _) = tool.run(&["plan"]);
    assert_eq!(code, 5);
    assert!(out.contains("~ pipeline public.totals: rebuilt: back-fill of about 2 rows"), "{out}");
    assert!(
        out.contains("~ table public.orders: renamed to o; its state stays; read by pipeline public.totals"),
        "{out}"
    );
    assert_eq!(tool.run(&["status"]).0, 5);

    // One that fails is rolled back whole, and says where.
    let (code, _, err) = tool.run(&["up"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("DIR/0003_more.sql:3"), "{err}");
    assert!(err.contains("cannot rename table orders"), "{err}");
    assert!(err.contains("rolled back"), "{err}");
    assert_eq!(lines(&client, "SELECT n FROM totals").await, ["3"], "the statement before it, too");
    // Mistakes are found before anything runs.
    tool.write("0003_more.sql", "-- migrate:up\nCREATE TABLE fine (a INT);\n\nCREATE TABEL wrong (a INT);\n");
    let (code, _, err) = tool.run(&["up"]);
    assert_eq!(code, 1);
    assert!(err.starts_with("DIR/0003_more.sql:4:8: ERROR:  42601"), "{err}");
    tool.write("0003_more.sql", "-- migrate:up\nBEGIN;\nCREATE TABLE fine (a INT);\nCOMMIT;\n");
    assert!(tool.run(&["up"]).2.contains("transaction of its own"));
    assert!(lines(&client, "SELECT 1 FROM pg_class WHERE relname = 'fine'").await.is_empty());
    tool.write(
        "0003_more.sql",
        "-- migrate:up transaction:false\nCREATE TABLE fine (a INT);\nBEGIN;\nCOMMIT;\n",
    );
    assert_eq!(tool.run(&["up", "1"]).0, 0);

    // Without a way back there is none.
    let (code, _, err) = tool.run(&["down"]);
    assert_eq!(code, 1);
    assert!(err.contains("does not say how to take it back"), "{err}");
    // A changed file is refused, and the way out is said.
    tool.write(
        "0003_more.sql",
        "-- migrate:up transaction:false\nCREATE TABLE fine (a INT);\n-- migrate:down\nDROP TABLE fine;\n",
    );
    let (code, _, err) = tool.run(&["up"]);
    assert_eq!(code, 6);
    assert!(err.contains("is not what was applied as 0003") && err.contains("migrate repair 0003"), "{err}");
    assert_eq!(tool.run(&["status"]).0, 6);
    assert_eq!(tool.run(&["repair", "0003"]).0, 0);
    let (code, out, _) = tool.run(&["down", "--dry-run"]);
    assert_eq!(code, 0);
    assert!(out.contains("DROP TABLE fine"), "{out}");
    let (code, out, err) = tool.run(&["down", "3"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(
        lines(&client, RELATIONS).await,
        ["public.tidemill_migrations", "public.tidemill_migrations_pkey"]
    );
    assert_eq!(tool.run(&["up", "2"]).0, 0);
    assert_eq!(lines(&client, "SELECT version FROM tidemill_migrations ORDER BY 1").await, ["0001", "0002"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_migrations_do_not_collide() {
    let (_directory, server, client) = started().await;
    let tool = Tool::new(&server);
    let (code, out, _) = tool.run(&["new", "one thing"]);
    assert_eq!(code, 0, "{out}");
    let made = PathBuf::from(out.trim().replace("DIR", &tool.path()));
    assert!(std::fs::read_to_string(&made).unwrap().starts_with("-- migrate:up"));
    std::fs::write(&made, "-- migrate:up\nCREATE TABLE t (a INT);\n").unwrap();
    let runs: Vec<_> = (0..3).map(|_| tool.command(&["up"]).spawn().unwrap()).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    assert_eq!(lines(&client, "SELECT count(*) FROM tidemill_migrations").await, ["1"]);
    // Who does not want to wait.
    let holder = tool.command(&["up"]);
    drop(holder);
    let lock = lines(&client, "SELECT classid, objid FROM pg_locks").await;
    assert!(lock.is_empty(), "{lock:?}");
    execute(&client, "SELECT pg_advisory_lock(1952801893, 0)").await;
    std::fs::write(tool.directory.path().join("99990101000000_later.sql"), "SELECT 1;").unwrap();
    // Another table's runs have another lock; so this one goes on.
    assert_eq!(
        tool.run(&["up", "--table", "public.other", "--lock-timeout", "0"]).0,
        1,
        "t is there already"
    );
    let none = Tool { directory: server::directory(), url: "postgres://127.0.0.1:1/x".into() };
    assert_eq!(none.run(&["status"]).0, 3);
}

/// Runs a tool of others in a directory.
fn other(tool: &str, directory: &Path, args: &[&str], variables: &[(&str, &str)]) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/migrations.sh");
    let output = Command::new(script)
        .arg(tool)
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .expect("bash can be run");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn is_offline() -> bool {
    let is_offline = std::env::var("TIDEMILL_TEST_OFFLINE").is_ok_and(|value| value == "1");
    if is_offline {
        println!("skipped: TIDEMILL_TEST_OFFLINE=1, and a tool may have to be fetched");
    }
    is_offline
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dbmate_migrates() {
    if is_offline() {
        return;
    }
    let (_directory, server, client) = started().await;
    let files = server::directory();
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    write(
        "1_orders.sql",
        "-- migrate:up\nCREATE TABLE orders (id BIGSERIAL PRIMARY KEY, n INT);\nINSERT INTO orders (n) VALUES (1), (2);\n\
         CREATE PIPELINE totals AS SELECT sum(n) AS n FROM orders;\n-- migrate:down\nDROP PIPELINE totals;\nDROP TABLE orders;\n",
    );
    let url = format!("{}?sslmode=disable", server.url().replace("postgresql", "postgres"));
    let run = |args: &[&str]| {
        let directory = files.path().display().to_string();
        let mut all = vec!["--url", &url, "-d", &directory, "--no-dump-schema"];
        all.extend(args);
        other("dbmate", files.path(), &all, &[])
    };
    let out = run(&["up"]).unwrap();
    assert!(out.contains("Applied: 1_orders.sql"), "{out}");
    assert_eq!(lines(&client, "SELECT n FROM totals").await, ["3"]);
    assert_eq!(lines(&client, "SELECT version FROM schema_migrations").await, ["1"]);
    // One that fails is rolled back.
    write("2_bad.sql", "-- migrate:up\nCREATE TABLE half (a INT);\nSELECT 1/0;\n-- migrate:down\n");
    let out = run(&["up"]).unwrap_err();
    assert!(out.contains("division by zero"), "{out}");
    assert!(lines(&client, "SELECT 1 FROM pg_class WHERE relname = 'half'").await.is_empty());
    std::fs::remove_file(files.path().join("2_bad.sql")).unwrap();
    run(&["down"]).unwrap();
    assert_eq!(
        lines(&client, RELATIONS).await,
        ["public.schema_migrations", "public.schema_migrations_pkey"]
    );
    run(&["status"]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_pg_migrate_migrates() {
    if is_offline() {
        return;
    }
    let (_directory, server, client) = started().await;
    let files = server::directory();
    std::fs::create_dir(files.path().join("migrations")).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(files.path().join("migrations").join(name), text).unwrap();
    };
    write(
        "1_orders.sql",
        "-- Up Migration\nCREATE TABLE orders (id serial PRIMARY KEY, n int);\nINSERT INTO orders (n) VALUES (1), (2);\n\
         CREATE PIPELINE totals AS SELECT sum(n) AS n FROM orders;\n-- Down Migration\nDROP PIPELINE totals;\nDROP TABLE orders;\n",
    );
    write(
        "2_more.js",
        "exports.up = (pgm) => {\n  pgm.createTable('more', { id: 'id', name: { type: 'varchar(100)', notNull: true }, \
         at: { type: 'timestamp', notNull: true, default: pgm.func('current_timestamp') } });\n  \
         pgm.addColumns('more', { extra: { type: 'integer', default: 7 } });\n  pgm.createIndex('more', 'name');\n  \
         pgm.sql(\"INSERT INTO more (name) VALUES ('a')\");\n};\nexports.down = (pgm) => { pgm.dropTable('more'); };\n",
    );
    let url = server.url();
    let run = |args: &[&str]| other("node-pg-migrate", files.path(), args, &[("DATABASE_URL", &url)]);
    run(&["up"]).unwrap();
    assert_eq!(lines(&client, "SELECT n FROM totals").await, ["3"]);
    assert_eq!(lines(&client, "SELECT id, name, extra FROM more").await, ["1|a|7"]);
    assert_eq!(lines(&client, "SELECT name FROM pgmigrations ORDER BY id").await, ["1_orders", "2_more"]);
    run(&["up"]).unwrap();
    run(&["down", "2"]).unwrap();
    assert!(try_query(&client, "SELECT 1 FROM orders").await.is_err());
    assert_eq!(lines(&client, "SELECT count(*) FROM pgmigrations").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alembic_migrates() {
    if is_offline() {
        return;
    }
    let (_directory, server, client) = started().await;
    let files = server::directory();
    let run = |args: &[&str]| other("alembic", files.path(), args, &[]);
    run(&["init", "migrations"]).unwrap();
    let ini = files.path().join("alembic.ini");
    let text = std::fs::read_to_string(&ini).unwrap();
    let url = server.url().replace("postgresql", "postgresql+psycopg2");
    let text: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with("sqlalchemy.url") {
            true => format!("sqlalchemy.url = {url}"),
            false => line.to_owned(),
        })
        .collect();
    std::fs::write(&ini, text.join("\n")).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(files.path().join("migrations/versions").join(name), text).unwrap();
    };
    write(
        "one.py",
        "from alembic import op\nimport sqlalchemy as sa\nrevision = 'one'\ndown_revision = None\n\n\
         def upgrade():\n    op.create_table('orders', sa.Column('id', sa.Integer, primary_key=True), sa.Column('n', sa.Integer))\n    \
         op.execute('INSERT INTO orders (n) VALUES (1), (2)')\n    \
         op.execute('CREATE PIPELINE totals AS SELECT sum(n) AS n FROM orders')\n\n\
         def downgrade():\n    op.execute('DROP PIPELINE totals')\n    op.drop_table('orders')\n",
    );
    write(
        "two.py",
        "from alembic import op\nimport sqlalchemy as sa\nrevision = 'two'\ndown_revision = 'one'\n\n\
         def upgrade():\n    op.create_table('more', sa.Column('id', sa.BigInteger, primary_key=True), sa.Column('name', sa.String(50), nullable=False))\n    \
         op.add_column('more', sa.Column('extra', sa.Integer, server_default='7'))\n    \
         op.alter_column('more', 'name', new_column_name='title')\n    op.create_index('more_title', 'more', ['title'])\n    \
         op.execute(\"INSERT INTO more (title) VALUES ('a')\")\n\n\
         def downgrade():\n    op.drop_index('more_title')\n    op.drop_column('more', 'extra')\n    op.drop_table('more')\n",
    );
    run(&["upgrade", "head"]).unwrap();
    assert_eq!(lines(&client, "SELECT n FROM totals").await, ["3"]);
    assert_eq!(lines(&client, "SELECT id, title, extra FROM more").await, ["1|a|7"]);
    assert_eq!(lines(&client, "SELECT version_num FROM alembic_version").await, ["two"]);
    let current = run(&["current"]).unwrap();
    assert!(current.contains("two (head)"), "{current}");
    run(&["downgrade", "one"]).unwrap();
    assert!(try_query(&client, "SELECT 1 FROM more").await.is_err());
    // What fails takes the whole run back.
    write(
        "bad.py",
        "from alembic import op\nrevision = 'bad'\ndown_revision = 'two'\n\n\
         def upgrade():\n    op.execute('CREATE TABLE half (a INT)')\n    op.execute('SELECT 1/0')\n\ndef downgrade():\n    pass\n",
    );
    assert!(run(&["upgrade", "head"]).is_err());
    assert!(try_query(&client, "SELECT 1 FROM half").await.is_err());
    assert!(try_query(&client, "SELECT 1 FROM more").await.is_err());
    assert_eq!(lines(&client, "SELECT version_num FROM alembic_version").await, ["one"]);
    run(&["downgrade", "base"]).unwrap();
    assert_eq!(lines(&client, RELATIONS).await, ["public.alembic_version", "public.alembic_version_pkey"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flyway_migrates() {
    if is_offline() {
        return;
    }
    let (_directory, server, client) = started().await;
    let files = server::directory();
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    write(
        "V1__orders.sql",
        "CREATE TABLE orders (id SERIAL PRIMARY KEY, n INT);\nINSERT INTO orders (n) VALUES (1), (2);\n\
         CREATE PIPELINE totals AS SELECT sum(n) AS n FROM orders;\n",
    );
    write("V2__more.sql", "CREATE TABLE more (a INT);\nALTER TABLE more ADD COLUMN b INT DEFAULT 7;\n");
    let url = format!("jdbc:postgresql://{}/tidemill", server.sql);
    let directory = files.path().display().to_string();
    let run = |command: &str| other("flyway", files.path(), &[&url, "tidemill", &directory, command], &[]);
    let out = run("migrate").unwrap();
    assert!(out.contains("applied 2"), "{out}");
    assert_eq!(lines(&client, "SELECT n FROM totals").await, ["3"]);
    let history = "SELECT version, success FROM flyway_schema_history ORDER BY installed_rank";
    assert_eq!(lines(&client, history).await, ["1|t", "2|t"]);
    run("validate").unwrap();
    assert!(run("migrate").unwrap().contains("applied 0"));
    write("V3__bad.sql", "CREATE TABLE half (a INT);\nSELECT 1/0;\n");
    let out = run("migrate").unwrap_err();
    assert!(out.contains("division by zero"), "{out}");
    assert!(try_query(&client, "SELECT 1 FROM half").await.is_err());
    assert_eq!(lines(&client, history).await, ["1|t", "2|t"]);
}
