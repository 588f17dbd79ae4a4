//! What clients see: psql, tokio-postgres, HTTP.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt};
use tokio_postgres::error::ErrorPosition;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::kafka::wait_for;
use crate::server::{self, Server, execute, failure, query, sorted};

/// Long enough for anything that is on its way already.
const SOON: Duration = Duration::from_secs(20);

async fn started() -> (tempfile::TempDir, Server, Client) {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    (directory, server, client)
}

/// Relations to look at.
const ORDERS: &str = "
    CREATE TABLE orders (id BIGINT PRIMARY KEY, customer TEXT NOT NULL, amount DECIMAL(10, 2), at TIMESTAMP);
    COMMENT ON TABLE orders IS 'what was ordered';
    CREATE PIPELINE totals AS SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer;
    CREATE VIEW big AS SELECT * FROM totals WHERE total > 100;
    CREATE SOURCE numbers WITH (connector = 'generator', data = 'sequence', events = '10');
    CREATE PIPELINE sums AS SELECT sum(n) AS s FROM numbers;
    CREATE SINK nowhere FROM totals WITH (connector = 'blackhole');
    INSERT INTO orders VALUES (1, 'ann', 60, '2024-01-01 10:00:00'), (2, 'ann', 50.5, NULL), (3, 'bob', 7, NULL);
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_commands_work() {
    let (_directory, server, client) = started().await;
    execute(&client, ORDERS).await;
    let commands = [
        "\\d",
        "\\dt",
        "\\dm",
        "\\dv",
        "\\d orders",
        "\\d totals",
        "\\d big",
        "\\d+ orders",
        "\\l",
        "\\dn",
        "\\du",
        "\\df",
        "\\dt+",
        "\\dm+",
        "\\di",
        "\\ds",
        "\\dT",
        "\\dp",
        "\\conninfo",
        "\\encoding",
    ];
    let mut failed = Vec::new();
    for command in commands {
        match server.psql(&[command]) {
            Ok(_) => (),
            Err(error) => failed.push(format!("{command}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let shows = |command: &str, texts: &[&str]| {
        let output = server.psql(&[command]).expect("tried above");
        for text in texts {
            assert!(output.contains(text), "{command} does not show {text}:\n{output}");
        }
    };
    shows("\\d", &["orders", "totals", "big"]);
    shows("\\dt", &["orders"]);
    shows("\\dm", &["totals", "sums"]);
    shows("\\dv", &["big"]);
    shows(
        "\\d orders",
        &["id", "bigint", "customer", "text", "not null", "amount", "numeric(10,2)", "at", "timestamp"],
    );
    shows("\\d totals", &["customer", "total"]);
    shows("\\l", &["tidemill"]);
    shows("\\dn", &["public"]);
    shows("\\du", &["tidemill"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_shows_results_and_errors_as_it_does_of_postgresql() {
    let (_directory, server, client) = started().await;
    execute(&client, ORDERS).await;
    let output = server.psql(&["SELECT customer, n, total FROM totals ORDER BY customer"]).expect("a SELECT");
    assert_eq!(
        output,
        " customer | n | total  \n----------+---+--------\n ann      | 2 | 110.50\n bob      | 1 |   7.00\n(2 rows)\n\n"
    );
    let output = server.psql(&["SELECT count(*), 1 FROM orders"]).expect("a SELECT");
    assert!(output.contains("count") && output.contains("?column?"), "{output}");
    for (sql, tag) in [
        ("INSERT INTO orders VALUES (4, 'eve', 1, NULL)", "INSERT 0 1"),
        ("UPDATE orders SET amount = 2 WHERE id = 4", "UPDATE 1"),
        ("DELETE FROM orders WHERE id = 4", "DELETE 1"),
        ("CREATE TABLE tagged (a INT)", "CREATE TABLE"),
        ("CREATE PIPELINE tagged_p AS SELECT a FROM tagged", "CREATE PIPELINE"),
        ("DROP PIPELINE tagged_p", "DROP PIPELINE"),
        ("TRUNCATE tagged", "TRUNCATE TABLE"),
        ("DROP TABLE tagged", "DROP TABLE"),
        ("SET application_name = 'x'", "SET"),
        ("FLUSH", "FLUSH"),
    ] {
        assert_eq!(server.psql(&[sql]).as_deref().map(str::trim), Ok(tag), "{sql}");
    }
    let error = server.psql(&["SELECT amuont FROM orders"]).expect_err("no such column");
    assert!(error.contains("ERROR:  column \"amuont\" does not exist"), "{error}");
    assert!(error.contains("LINE 1: SELECT amuont FROM orders"), "{error}");
    assert!(error.contains("\n               ^"), "the caret is below the name:\n{error}");
    assert!(error.contains("HINT:  Perhaps you meant"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_and_binary_results() {
    let (_directory, _server, client) = started().await;
    execute(&client, ORDERS).await;
    let insert = client
        .prepare("INSERT INTO orders (id, customer) VALUES ($1, $2) RETURNING id, customer")
        .await
        .unwrap();
    assert_eq!(insert.params(), [Type::INT8, Type::TEXT]);
    let row = client.query_one(&insert, &[&10_i64, &"zoe"]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (10, "zoe"));
    let row =
        client.query_one("SELECT n, customer FROM totals WHERE customer = $1", &[&"zoe"]).await.unwrap();
    assert_eq!(row.columns()[0].name(), "n");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (1, "zoe"));
    let row = client.query_one(
        "SELECT id + $1, at IS NULL, 1.5::float8, NULL::int FROM orders WHERE id = $2",
        &[&5_i64, &10_i64],
    );
    let row = row.await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1), row.get::<_, f64>(2)), (15, true, 1.5));
    assert_eq!(row.get::<_, Option<i32>>(3), None);
    let n =
        client.execute("UPDATE orders SET customer = $1 WHERE id = $2", &[&"zed", &10_i64]).await.unwrap();
    assert_eq!(n, 1);
    let n = client.execute("DELETE FROM orders WHERE id = $1", &[&10_i64]).await.unwrap();
    assert_eq!(n, 1);
    assert_eq!(query(&client, "SELECT customer FROM totals WHERE customer IN ('zoe', 'zed')").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_in_and_out() {
    let (_directory, _server, mut client) = started().await;
    execute(
        &client,
        "CREATE TABLE t (a BIGINT, b TEXT); CREATE PIPELINE n AS SELECT count(*) AS n, sum(a) AS s FROM t",
    )
    .await;
    let mut sink = Box::pin(client.copy_in("COPY t FROM STDIN").await.unwrap());
    for chunk in ["1\tone\n2\t\\N\n", "3\ttab\\there", "\n"] {
        sink.send(Bytes::from(chunk)).await.unwrap();
    }
    assert_eq!(sink.as_mut().finish().await.unwrap(), 3);
    drop(sink);
    assert_eq!(query(&client, "SELECT * FROM n").await, [["3", "6"]]);
    let mut sink =
        Box::pin(client.copy_in("COPY t (b, a) FROM STDIN WITH (FORMAT csv, HEADER true)").await.unwrap());
    sink.send(Bytes::from("b,a\n\"x, y\",4\n,5\n")).await.unwrap();
    assert_eq!(sink.as_mut().finish().await.unwrap(), 2);
    drop(sink);
    let out =
        client.copy_out("COPY (SELECT a, b FROM t ORDER BY a) TO STDOUT WITH (FORMAT csv)").await.unwrap();
    let out: Vec<Bytes> = out.try_collect().await.unwrap();
    let text = String::from_utf8(out.concat()).unwrap();
    assert_eq!(text, "1,one\n2,\n3,tab\there\n4,\"x, y\"\n5,\n");
    // A bad line changes nothing.
    let mut sink = Box::pin(client.copy_in("COPY t FROM STDIN").await.unwrap());
    sink.send(Bytes::from("6\tsix\nseven\t7\n")).await.unwrap();
    let error = sink.as_mut().finish().await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("22P02"), "{error}");
    drop(sink);
    assert_eq!(query(&client, "SELECT count(*) FROM t").await, [["5"]]);
    // In a transaction as well.
    let transaction = client.transaction().await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribe_over_a_cursor() {
    let (_directory, server, client) = started().await;
    execute(
        &client,
        "CREATE TABLE t (k TEXT, v INT); CREATE PIPELINE p AS SELECT k, sum(v) AS s FROM t GROUP BY k",
    )
    .await;
    execute(&client, "INSERT INTO t VALUES ('a', 1)").await;
    let other = server.connect().await;
    execute(&other, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO p").await;
    let first = query(&other, "FETCH ALL FROM c").await;
    assert_eq!(weights(&first), [["1", "a", "1"]]);
    execute(&client, "INSERT INTO t VALUES ('a', 2), ('b', 5)").await;
    let mut changes = Vec::new();
    while changes.len() < 3 {
        changes.extend(query(&other, "FETCH ALL FROM c").await);
    }
    let epochs: Vec<u64> = changes.iter().map(|row| row[0].parse().unwrap()).collect();
    let before: u64 = first[0][0].parse().unwrap();
    assert!(epochs.iter().all(|epoch| *epoch > before), "the changes are of a later epoch: {changes:?}");
    let mut changes = weights(&changes);
    changes.sort();
    assert_eq!(changes, [["-1", "a", "1"], ["1", "a", "3"], ["1", "b", "5"]]);
    execute(&other, "CLOSE c; COMMIT").await;
}

fn weights(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row[1..].to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribe_as_a_stream_until_cancelled() {
    let (_directory, server, client) = started().await;
    execute(&client, "CREATE TABLE t (a BIGINT); CREATE PIPELINE p AS SELECT a FROM t WHERE a > 0; INSERT INTO t VALUES (1)").await;
    let other = server.connect().await;
    let cancel = other.cancel_token();
    let rows = other.query_raw("SUBSCRIBE TO p", Vec::<i64>::new()).await.unwrap();
    let mut rows = Box::pin(rows);
    let next =
        tokio::time::timeout(SOON, rows.next()).await.expect("the snapshot comes at once").unwrap().unwrap();
    assert_eq!((next.get::<_, i64>("weight"), next.get::<_, i64>("a")), (1, 1));
    // Each change comes while the statement still runs.
    for a in [2_i64, 3] {
        execute(&client, &format!("INSERT INTO t VALUES ({a})")).await;
        let next = tokio::time::timeout(SOON, rows.next())
            .await
            .expect("a change comes by itself")
            .unwrap()
            .unwrap();
        assert_eq!((next.get::<_, i64>("weight"), next.get::<_, i64>("a")), (1, a));
    }
    execute(&client, "DELETE FROM t WHERE a = 2").await;
    let next =
        tokio::time::timeout(SOON, rows.next()).await.expect("a change comes by itself").unwrap().unwrap();
    assert_eq!((next.get::<_, i64>("weight"), next.get::<_, i64>("a")), (-1, 2));
    cancel.cancel_query(NoTls).await.unwrap();
    let end = tokio::time::timeout(SOON, rows.next()).await.expect("it can be cancelled").unwrap();
    let error = end.expect_err("it ends with an error");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
    drop(rows);
    assert_eq!(query(&other, "SELECT count(*) FROM p").await, [["2"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_at_its_timeout() {
    let (_directory, _server, client) = started().await;
    execute(&client, "CREATE TABLE t (a BIGINT)").await;
    execute(&client, "SET statement_timeout = '300ms'").await;
    let error = failure(&client, "SUBSCRIBE TO t").await;
    assert_eq!(error.code().code(), "57014");
    // Nothing of it is left over.
    assert_eq!(query(&client, "SELECT 1").await, [["1"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_reads_one_snapshot() {
    let (_directory, server, mut client) = started().await;
    execute(
        &client,
        "CREATE TABLE t (a INT); CREATE PIPELINE p AS SELECT count(*) AS n FROM t; INSERT INTO t VALUES (1)",
    )
    .await;
    let other = server.connect().await;
    execute(&other, "BEGIN").await;
    assert_eq!(query(&other, "SELECT n FROM p").await, [["1"]]);
    execute(&client, "INSERT INTO t VALUES (2)").await;
    assert_eq!(query(&other, "SELECT n FROM p").await, [["1"]]);
    assert_eq!(query(&other, "SELECT count(*) FROM t").await, [["1"]]);
    execute(&other, "COMMIT").await;
    execute(&other, "SET freshness = 'strict'").await;
    assert_eq!(query(&other, "SELECT n FROM p").await, [["2"]]);
    // Through the client's own way to do it.
    let transaction = client.build_transaction().read_only(true).start().await.unwrap();
    let row = transaction.query_one("SELECT n FROM p", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
    transaction.rollback().await.unwrap();
}

/// A statement that must fail.
struct Wrong {
    sql: &'static str,
    sqlstate: &'static str,
    message: &'static str,
    /// A part of the hint; empty where there is none.
    hint: &'static str,
    /// Where the position points to; empty where there is none.
    at: &'static str,
}

/// What users expect to be told, as it was found in issues of other systems.
const WRONG: &[Wrong] = &[
    Wrong {
        sql: "selet 1",
        sqlstate: "42601",
        message: "syntax error at or near \"selet\"",
        hint: "SELECT",
        at: "selet",
    },
    Wrong {
        sql: "SELECT amuont FROM orders",
        sqlstate: "42703",
        message: "column \"amuont\" does not exist",
        hint: "Perhaps you meant \"orders.amount\".",
        at: "amuont",
    },
    Wrong {
        sql: "SELECT o.amuont FROM orders AS o",
        sqlstate: "42703",
        message: "column o.amuont does not exist",
        hint: "Perhaps you meant \"o.amount\".",
        at: "o.amuont",
    },
    Wrong {
        sql: "SELECT id FROM odrers",
        sqlstate: "42P01",
        message: "relation \"odrers\" does not exist",
        hint: "Perhaps you meant \"orders\".",
        at: "odrers",
    },
    Wrong {
        sql: "SELECT id FROM orders AS a JOIN orders AS b ON a.id = b.id",
        sqlstate: "42702",
        message: "column reference \"id\" is ambiguous",
        hint: "It could be a.id or b.id",
        at: "id FROM",
    },
    Wrong {
        sql: "SELECT customer + at FROM orders",
        sqlstate: "42883",
        message: "operator does not exist",
        hint: "",
        at: "",
    },
    Wrong {
        sql: "CREATE PIPELINE p AS SELECT id FROM orders ORDER BY id",
        sqlstate: "0A000",
        message: "ORDER BY without LIMIT",
        hint: "LIMIT",
        at: "ORDER",
    },
    Wrong {
        sql: "CREATE PIPELINE p AS SELECT id, random() AS r FROM orders",
        sqlstate: "42P17",
        message: "random()",
        hint: "Compute it",
        at: "random",
    },
    Wrong {
        sql: "CREATE PIPELINE p AS SELECT id FROM orders ORDER BY id",
        sqlstate: "0A000",
        message: "ORDER BY without LIMIT",
        hint: "Add a LIMIT",
        at: "ORDER",
    },
    Wrong {
        sql: "CREATE PIPELINE p AS SELECT count(*) AS n FROM orders EMIT ON WINDOW CLOSE",
        sqlstate: "42P20",
        message: "EMIT ON WINDOW CLOSE",
        hint: "WATERMARK FOR",
        at: "",
    },
    Wrong {
        sql: "CREATE PIPELINE p AS SELECT count(*) AS n FROM HOP(orders, at, INTERVAL '3 seconds', INTERVAL '10 seconds')",
        sqlstate: "22023",
        message: "is not a multiple of the slide",
        hint: "Choose a size",
        at: "HOP",
    },
    Wrong {
        sql: "CREATE SOURCE s (at TEXT, WATERMARK FOR at AS at) WITH (connector = 'generator', data = 'sequence')",
        sqlstate: "42804",
        message: "WATERMARK FOR \"at\" needs a timestamp, but the column is text",
        hint: "",
        at: "at AS",
    },
    Wrong {
        sql: "CREATE SINK k AS SELECT customer, n FROM totals WHERE n > 1 WITH (connector = 'file', path = '/tmp/x') \
              FORMAT PLAIN ENCODE JSON",
        sqlstate: "0A000",
        message: "",
        hint: "",
        at: "",
    },
    Wrong {
        sql: "INSERT INTO numbers VALUES (1, NULL)",
        sqlstate: "42809",
        message: "\"numbers\" is a source, not a table",
        hint: "use CREATE TABLE",
        at: "numbers",
    },
    Wrong {
        sql: "INSERT INTO totals VALUES ('x', 1, 1)",
        sqlstate: "42809",
        message: "\"totals\" is a pipeline, not a table",
        hint: "tables that it reads",
        at: "totals",
    },
    Wrong {
        sql: "DROP TABLE orders",
        sqlstate: "2BP01",
        message: "cannot drop table orders because other objects depend on it",
        hint: "CASCADE",
        at: "",
    },
    Wrong {
        sql: "CREATE SOURCE s WITH (connector = 'generator', evnts = '3')",
        sqlstate: "22023",
        message: "\"evnts\"",
        hint: "Perhaps you meant \"events\".",
        at: "",
    },
    Wrong {
        sql: "CREATE SOURCE s (a INT) WITH (connector = 'kafak', topic = 't')",
        sqlstate: "42704",
        message: "\"kafak\"",
        hint: "kafka",
        at: "",
    },
    Wrong {
        sql: "CREATE SOURCE s (a INT) WITH (connector = 'file', path = '/nonexistent/x.csv') FORMAT PLAIN ENCODE CSV",
        sqlstate: "",
        message: "/nonexistent/x.csv",
        hint: "",
        at: "",
    },
    Wrong {
        sql: "SELECT 1 / (id - id) FROM orders",
        sqlstate: "22012",
        message: "division by zero",
        hint: "",
        at: "",
    },
    Wrong {
        sql: "SELECT customer::int FROM orders",
        sqlstate: "22P02",
        message: "invalid input syntax for type integer",
        hint: "",
        at: "",
    },
    Wrong {
        sql: "INSERT INTO orders (id, customer) VALUES (1, 'again')",
        sqlstate: "23505",
        message: "duplicate key value violates",
        hint: "ON CONFLICT",
        at: "",
    },
    Wrong {
        sql: "SUBSCRIBE TO numbers",
        sqlstate: "42809",
        message: "cannot subscribe to source \"numbers\"",
        hint: "Subscribe to a pipeline or a table.",
        at: "numbers",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_where_and_what_to_do() {
    let (_directory, _server, client) = started().await;
    execute(&client, ORDERS).await;
    let mut failed = Vec::new();
    for wrong in WRONG {
        let error = match client.simple_query(wrong.sql).await {
            Ok(_) => {
                failed.push(format!("{}\n  succeeded", wrong.sql));
                continue;
            }
            Err(error) => error,
        };
        let Some(db) = error.as_db_error() else {
            failed.push(format!("{}\n  {error}", wrong.sql));
            break;
        };
        let mut complain = |what: &str, expected: &str| {
            let position = db.position();
            failed.push(format!(
                "{}\n  {what} should be {expected:?}: {}, at {position:?}",
                wrong.sql,
                server::describe(&error)
            ));
        };
        if !wrong.sqlstate.is_empty() && db.code().code() != wrong.sqlstate {
            complain("SQLSTATE", wrong.sqlstate);
        }
        if ["XX000", "XX001"].contains(&db.code().code()) {
            complain("SQLSTATE", "something that says what kind of error it is");
        }
        if !db.message().contains(wrong.message) {
            complain("the message", wrong.message);
        }
        if !wrong.hint.is_empty() && !db.hint().unwrap_or_default().contains(wrong.hint) {
            complain("the hint", wrong.hint);
        }
        if !wrong.at.is_empty() {
            let expected = wrong.sql.find(wrong.at).expect("the statement has it") + 1;
            if db.position() != Some(&ErrorPosition::Original(expected as u32)) {
                complain("the position", &format!("{expected}, at {}", wrong.at));
            }
        }
    }
    assert!(failed.is_empty(), "{} complaints:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cascade_says_what_went() {
    let (_directory, server, client) = started().await;
    execute(&client, ORDERS).await;
    let output = std::process::Command::new("psql")
        .args(["--no-psqlrc", "-d", &server.url(), "-c", "DROP TABLE orders CASCADE"])
        .output()
        .expect("psql can be run");
    let notices = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{notices}");
    for name in ["totals", "big", "nowhere"] {
        assert!(notices.contains("NOTICE") && notices.contains(name), "no notice of {name}:\n{notices}");
    }
    assert_eq!(query(&client, "SHOW TABLES").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_can_be_shown_and_run_again() {
    let (_directory, _server, client) = started().await;
    execute(&client, ORDERS).await;
    let mut created = Vec::new();
    for (kind, name) in [
        ("TABLE", "orders"),
        ("PIPELINE", "totals"),
        ("VIEW", "big"),
        ("SOURCE", "numbers"),
        ("SINK", "nowhere"),
    ] {
        let rows = query(&client, &format!("SHOW CREATE {kind} {name}")).await;
        created.push((kind, name, rows[0].last().expect("a column").clone()));
    }
    execute(&client, "DROP SOURCE numbers CASCADE; DROP TABLE orders CASCADE").await;
    for (kind, name, sql) in created {
        execute(&client, &sql).await;
        let rows = query(&client, &format!("SHOW CREATE {kind} {name}")).await;
        assert_eq!(rows[0].last(), Some(&sql), "a definition comes back as it was shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_relations_show_what_runs() {
    let (_directory, server, client) = started().await;
    execute(&client, ORDERS).await;
    server.wait_until_finished(&["numbers"]).await;
    let sources = query(&client, "SELECT name, state, rows, bad_records FROM tm_sources").await;
    assert_eq!(sources, [["numbers", "FINISHED", "10", "0"]]);
    assert_eq!(query(&client, "SELECT s FROM sums").await, [["45"]]);
    let pipelines = sorted(&client, "SELECT name, state, late_rows, error FROM tm_pipelines").await;
    assert_eq!(pipelines, [["sums", "RUNNING", "0", "NULL"], ["totals", "RUNNING", "0", "NULL"]]);
    let sinks = query(&client, "SELECT name, state, last_error FROM tm_sinks").await;
    assert_eq!(sinks, [["nowhere", "RUNNING", "NULL"]]);
    let jobs = sorted(&client, "SELECT object, job, state, error FROM tm_jobs").await;
    assert_eq!(jobs, ["nowhere", "sums", "totals"].map(|name| [name, "FILL", "DONE", "NULL"]));
    assert_eq!(query(&client, "SELECT * FROM tm_dead_letters").await.len(), 0);
    let behind = query(&client, "SELECT count(*) FROM tm_epochs WHERE epochs_behind > 0").await;
    assert_eq!(behind, [["0"]]);
    let steps: Vec<Vec<String>> =
        query(&client, "SELECT steps FROM tm_pipelines WHERE name = 'totals'").await;
    assert!(steps[0][0].parse::<u64>().unwrap() > 0, "{steps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_tells_health_and_metrics() {
    let (_directory, server, client) = started().await;
    execute(&client, ORDERS).await;
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.get("/readyz").await.0, 200);
    assert_eq!(server.get("/nothing").await.0, 404);
    let (status, metrics) = server.get("/metrics").await;
    assert_eq!(status, 200);
    for name in ["tidemill_", "# TYPE", "# HELP", "totals"] {
        assert!(metrics.contains(name), "the metrics lack {name}:\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_become_dead_letters() {
    let (directory, server, client) = started().await;
    let path = directory.path().join("in.jsonl");
    std::fs::write(&path, "{\"a\": 1}\nnot json\n{\"a\": \"x\"}\n{\"a\": 2}\n").unwrap();
    let sql = format!(
        "CREATE SOURCE s (a INT) WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE JSON; \
         CREATE PIPELINE p AS SELECT sum(a) AS s, count(*) AS n FROM s",
        path.display()
    );
    execute(&client, &sql).await;
    server.wait_until_finished(&["s"]).await;
    assert_eq!(query(&client, "SELECT * FROM p").await, [["3", "2"]]);
    let letters =
        query(&client, "SELECT object, raw, reason FROM tm_dead_letters ORDER BY \"offset\"::bigint").await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert_eq!((letters[0][0].as_str(), letters[0][1].as_str()), ("s", server::bytea("not json").as_str()));
    assert!(!letters[1][2].is_empty());
    assert_eq!(query(&client, "SELECT bad_records FROM tm_sources").await, [["2"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_come_too_late_become_dead_letters() {
    let (directory, server, client) = started().await;
    let path = directory.path().join("in.jsonl");
    let append = |lines: &[&str]| {
        let text: String = lines.iter().map(|at| format!("{{\"at\": \"2024-01-01 00:{at}\"}}\n")).collect();
        // At no moment is it shorter than it was: its reader would take that for damage.
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    append(&["00:10", "00:20", "02:00"]);
    let window = "FROM TUMBLE(s, at, INTERVAL '1 minute') GROUP BY window_start";
    let session = "FROM SESSION(s, at, INTERVAL '1 minute')";
    let sql = format!(
        "CREATE SOURCE s (at TIMESTAMP, WATERMARK FOR at AS at) \
         WITH (connector = 'file', path = '{}', watch = 'true', discovery_interval = '20ms') FORMAT PLAIN ENCODE JSON; \
         CREATE PIPELINE n_rows AS SELECT count(*) AS n FROM s; \
         CREATE PIPELINE closed AS SELECT window_start, count(*) AS n {window} EMIT ON WINDOW CLOSE; \
         CREATE PIPELINE early AS SELECT window_start, count(*) AS n {window} EMIT ON UPDATE UNTIL WINDOW CLOSE; \
         CREATE PIPELINE sessions AS SELECT at, window_end {session} EMIT ON WINDOW CLOSE; \
         CREATE PIPELINE rows AS SELECT at FROM s EMIT ON WINDOW CLOSE; \
         CREATE PIPELINE kept AS SELECT window_start, count(*) AS n {window}",
        path.display()
    );
    execute(&client, &sql).await;
    wait_for(&server, "SELECT n FROM n_rows", &["3"]).await;
    // Late for all but the last pipeline, which waits for nothing; the second is not late for the open window.
    append(&["00:30", "02:30"]);
    wait_for(&server, "SELECT n FROM n_rows", &["5"]).await;
    let late = "SELECT object, stage, reason <> '' FROM tm_dead_letters ORDER BY object";
    wait_for(&server, "SELECT count(*) FROM tm_dead_letters", &["4"]).await;
    let letters = lines(&client, late).await;
    assert_eq!(letters.len(), 4, "{letters:?}");
    for (letter, object) in letters.iter().zip(["closed", "early", "rows", "sessions"]) {
        assert!(letter.starts_with(&format!("{object}|late|")), "{letters:?}");
        assert!(letter.ends_with("|t"), "{letters:?}");
    }
    let rows = query(&client, "SELECT raw FROM tm_dead_letters WHERE object = 'rows'").await;
    assert_eq!(rows, [[server::bytea("2024-01-01T00:00:30")]]);
    let shown = |pipeline: &str| format!("SELECT to_char(window_start, 'MI'), n FROM {pipeline} ORDER BY 1");
    assert_eq!(lines(&client, &shown("closed")).await, ["00|2"]);
    assert_eq!(lines(&client, &shown("early")).await, ["00|2", "02|2"]);
    assert_eq!(lines(&client, &shown("kept")).await, ["00|3", "02|2"]);
    let counted = "SELECT name, late_rows FROM tm_pipelines WHERE late_rows > 0 ORDER BY name";
    assert_eq!(lines(&client, counted).await, ["closed|1", "early|1", "rows|1", "sessions|1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_write_at_once() {
    let (_directory, server, client) = started().await;
    execute(&client, "CREATE TABLE t (k INT, v BIGINT); CREATE PIPELINE p AS SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k").await;
    let writers: Vec<_> = (0..8)
        .map(|k| {
            let address = server.sql.clone();
            tokio::spawn(async move {
                let client = server::connect(&address).await.expect("a connection");
                for v in 1..=20 {
                    execute(&client, &format!("INSERT INTO t VALUES ({k}, {v})")).await;
                    let rows = query(&client, &format!("SELECT n FROM p WHERE k = {k}")).await;
                    assert_eq!(rows, [[v.to_string()]], "a session sees its own writes at once");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no writer fails");
    }
    execute(&client, "SET freshness = 'strict'").await;
    let rows = query(&client, "SELECT count(*), min(n), max(n), min(s), max(s) FROM p").await;
    assert_eq!(rows, [["8", "20", "20", "210", "210"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_statements_in_one_text() {
    let (_directory, _server, client) = started().await;
    let messages = client
        .simple_query(
            "CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2); SELECT a FROM t ORDER BY a; ; SELECT 'x'",
        )
        .await
        .unwrap();
    let values: Vec<&str> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(values, ["1", "2", "x"]);
    // The first error ends the text.
    let error =
        failure(&client, "INSERT INTO t VALUES (3); SELECT nothing FROM t; INSERT INTO t VALUES (4)").await;
    assert_eq!(error.position(), Some(&ErrorPosition::Original(34)), "the position is in the whole text");
    assert_eq!(query(&client, "SELECT count(*) FROM t WHERE a = 4").await, [["0"]]);
}

/// The rows of a query, each as one line.
async fn lines(client: &Client, sql: &str) -> Vec<String> {
    query(client, sql).await.iter().map(|row| row.join("|")).collect()
}

/// Two sessions and what one sees of the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_isolated() {
    let (_directory, server, one) = started().await;
    let other = server.connect().await;
    // What others have committed is in pipelines a moment later, unless one waits for it.
    execute(&other, "SET freshness = 'strict'").await;
    execute(&one, "CREATE TABLE t (id INT PRIMARY KEY, v INT); CREATE TABLE u (a INT)").await;
    execute(&one, "CREATE PIPELINE p AS SELECT count(*) AS n FROM t").await;
    execute(&one, "INSERT INTO t VALUES (1, 10), (2, 20)").await;

    // Nobody else sees it, until all of it is seen at once.
    execute(&one, "BEGIN; INSERT INTO t VALUES (3, 30); INSERT INTO u VALUES (1)").await;
    assert_eq!(lines(&other, "SELECT count(*) FROM t").await, ["2"]);
    execute(&one, "COMMIT").await;
    assert_eq!(lines(&other, "SELECT (SELECT n FROM p), (SELECT count(*) FROM u)").await, ["3|1"]);

    // A COPY is part of its block.
    execute(&one, "BEGIN").await;
    let sink = one.copy_in("COPY u FROM STDIN").await.unwrap();
    let mut sink = Box::pin(sink);
    sink.send(Bytes::from_static(b"7\n8\n")).await.unwrap();
    sink.as_mut().finish().await.unwrap();
    assert_eq!(lines(&one, "SELECT count(*) FROM u").await, ["3"]);
    execute(&one, "ROLLBACK").await;
    assert_eq!(lines(&one, "SELECT count(*) FROM u").await, ["1"]);

    // Who wants the lock waits for it, and may say for how long.
    execute(&one, "BEGIN; UPDATE t SET v = 11 WHERE id = 1").await;
    execute(&other, "SET lock_timeout = '50ms'").await;
    let refused = failure(&other, "UPDATE t SET v = 12 WHERE id = 1").await;
    assert_eq!(refused.code().code(), "55P03");
    execute(&other, "SET lock_timeout = 0; INSERT INTO t VALUES (4, 40)").await;
    let waiting = other.simple_query("UPDATE t SET v = v + 1 WHERE id = 1");
    let (waited, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        execute(&one, "COMMIT").await;
    });
    waited.unwrap();
    assert_eq!(lines(&one, "SELECT v FROM t WHERE id = 1").await, ["12"]);

    // A circle of waiting is found by whoever closes it, and the other goes on.
    execute(&one, "BEGIN; DELETE FROM u").await;
    execute(&other, "BEGIN; UPDATE t SET v = 0 WHERE id = 2").await;
    let refused = |client, sql| async move {
        let outcome = tokio_postgres::Client::simple_query(client, sql).await;
        if let Err(error) = &outcome {
            assert_eq!(error.code().map(|code| code.code()), Some("40P01"));
            execute(client, "ROLLBACK").await;
        }
        outcome.is_err()
    };
    let (one_refused, other_refused) =
        tokio::join!(refused(&one, "UPDATE t SET v = 1 WHERE id = 2"), refused(&other, "DELETE FROM u"));
    assert!(one_refused != other_refused);
    let winner = if one_refused { &other } else { &one };
    execute(winner, "COMMIT").await;
    let expected = if one_refused { "0" } else { "1" };
    assert_eq!(lines(&other, "SELECT v FROM t WHERE id = 2").await, [expected]);

    // A key that somebody else has taken meanwhile.
    execute(&one, "BEGIN; INSERT INTO t VALUES (5, 50); INSERT INTO u VALUES (5)").await;
    execute(&other, "INSERT INTO t VALUES (5, 51)").await;
    assert_eq!(failure(&one, "COMMIT").await.code().code(), "40001");
    assert_eq!(lines(&one, "SELECT v, (SELECT count(*) FROM u) FROM t WHERE id = 5").await, ["51|0"]);

    // Isolation levels.
    execute(&one, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT v FROM t").await;
    execute(&other, "UPDATE t SET v = 100 WHERE id = 1").await;
    assert_eq!(lines(&one, "SELECT v FROM t WHERE id = 1").await, ["12"]);
    assert_eq!(failure(&one, "UPDATE t SET v = v + 1 WHERE id = 1").await.code().code(), "40001");
    execute(&one, "ROLLBACK").await;
    execute(&one, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT n FROM p; INSERT INTO u VALUES (6)").await;
    execute(&other, "DELETE FROM t WHERE id = 5").await;
    assert_eq!(failure(&one, "COMMIT").await.code().code(), "40001");
    assert_eq!(lines(&one, "SELECT count(*) FROM u").await, ["0"]);

    // Who leaves takes its writes and locks along.
    execute(&one, "BEGIN; DELETE FROM t").await;
    drop(one);
    execute(&other, "UPDATE t SET v = 0").await;
    assert_eq!(lines(&other, "SELECT count(*) FROM t").await, ["4"]);
}

/// An upsert looks for keys under the table's lock, which an INSERT does not need: it may take one in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upsert_does_not_fail_beside_inserts() {
    let (_directory, server, one) = started().await;
    let other = server.connect().await;
    execute(&one, "CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    const N_KEYS: usize = 100;
    let inserts = async {
        for id in 0..N_KEYS {
            // The upsert may have been first.
            let _ = one.simple_query(&format!("INSERT INTO t VALUES ({id}, 0)")).await;
        }
    };
    let upserts = async {
        for id in 0..N_KEYS {
            let sql =
                format!("INSERT INTO t VALUES ({id}, 1) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n");
            other.simple_query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    };
    tokio::join!(inserts, upserts);
    assert_eq!(lines(&one, "SELECT count(*), sum(n) FROM t").await, [format!("{N_KEYS}|{N_KEYS}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_notify_each_other() {
    let (_directory, server, client) = started().await;
    let (listener, mut connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let Ok(AsyncMessage::Notification(note)) = message {
                let _ = sender.send((note.channel().to_owned(), note.payload().to_owned()));
            }
        }
    });
    execute(&listener, "LISTEN news").await;
    execute(&client, "NOTIFY news, 'one'; NOTIFY other, 'unheard'").await;
    execute(
        &client,
        "BEGIN; NOTIFY news, 'two'; NOTIFY news, 'two'; SAVEPOINT s; NOTIFY news, 'taken back'; ROLLBACK TO s; NOTIFY news",
    )
    .await;
    execute(&client, "COMMIT").await;
    execute(&client, "BEGIN; NOTIFY news, 'taken back too'; ROLLBACK").await;
    assert_eq!(failure(&client, "NOTIFY news, 'of no use'; SELECT 1/0").await.code().code(), "22012");
    query(&client, "SELECT pg_notify('news', 'three')").await;
    for payload in ["one", "two", "", "three"] {
        let note = tokio::time::timeout(SOON, heard.recv()).await.expect("it is heard").unwrap();
        assert_eq!(note, ("news".to_owned(), payload.to_owned()));
    }
    // A client hears of nothing while it is in a transaction.
    execute(&listener, "BEGIN").await;
    execute(&client, "NOTIFY news, 'four'").await;
    query(&listener, "SELECT 1").await;
    assert!(heard.try_recv().is_err());
    execute(&listener, "COMMIT; UNLISTEN news").await;
    assert_eq!(tokio::time::timeout(SOON, heard.recv()).await.expect("it is heard").unwrap().1, "four");
    execute(&client, "NOTIFY news, 'five'").await;
    query(&listener, "SELECT 1").await;
    assert!(heard.try_recv().is_err());
    let long = "x".repeat(8000);
    assert_eq!(failure(&client, &format!("NOTIFY news, '{long}'")).await.code().code(), "22023");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_seen_cancelled_and_ended() {
    let (_directory, server, client) = started().await;
    let other = server.connect().await;
    execute(&other, "SET application_name = 'other'; BEGIN").await;
    let pid = query(&other, "SELECT pg_backend_pid()").await[0][0].clone();
    let seen = "SELECT application_name, state, usename, datname, query FROM pg_stat_activity WHERE application_name = 'other'";
    let row = ["other", "idle in transaction", "tidemill", "tidemill", "SELECT pg_backend_pid()"];
    assert_eq!(query(&client, seen).await, [row.map(str::to_owned).to_vec()]);
    execute(&other, "COMMIT").await;
    let sleeping = tokio::spawn(async move {
        let error = failure(&other, "SELECT pg_sleep(600)").await;
        (other, error)
    });
    let active = format!(
        "SELECT pg_cancel_backend({pid}) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'"
    );
    while query(&client, &active).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (other, error) = tokio::time::timeout(SOON, sleeping).await.expect("it is cancelled").unwrap();
    assert_eq!(error.code().code(), "57014");
    assert_eq!(query(&client, &format!("SELECT pg_terminate_backend({pid})")).await, [["t"]]);
    assert_eq!(query(&client, "SELECT pg_terminate_backend(0)").await, [["f"]]);
    let ended = async {
        while !other.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("it is ended");
    execute(&client, "SET statement_timeout = '50ms'").await;
    assert_eq!(failure(&client, "SELECT pg_sleep(600)").await.code().code(), "57014");
    // On a busy machine this, too, may take longer than that.
    execute(&client, "RESET statement_timeout").await;
    assert_eq!(query(&client, "SELECT pg_sleep(0), 1 AS one").await, [["", "1"]]);
}
