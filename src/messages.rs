//! The errors that users meet first, word by word: each says what, where, why, and what works instead.
//!
//! The numbers are those of a list of twenty cases. Not among them is 18 (a sink whose columns are others than
//! the query's): a sink takes its columns from its query. 11 (a window function over rows without a
//! watermark) is an error only where somebody waits for the watermark, which is 12.

use std::time::Duration;

use futures::TryStreamExt;
use tidemill_engine::EngineConfig;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::session::Session;
use crate::session::api::{Response, SessionApi, SqlError};

const SETUP: &str = "
CREATE TABLE orders (id INT PRIMARY KEY, amount INT, note TEXT);
CREATE TABLE events (at TIMESTAMP, v INT);
CREATE TABLE spans (lo INT, hi INT);
CREATE SCHEMA other;
CREATE TABLE other.hidden (id INT);
CREATE SOURCE bid (WATERMARK FOR date_time AS date_time - INTERVAL '1 second')
    WITH (connector = 'generator', table = 'bid', events = '100');
CREATE SOURCE clicks WITH (connector = 'generator', table = 'bid', rate = '10');
CREATE SOURCE views WITH (connector = 'generator', table = 'bid', rate = '10');
CREATE PIPELINE counts AS SELECT amount, count(*) AS n FROM orders GROUP BY amount;
";

struct Case {
    number: u32,
    sql: &'static str,
    sqlstate: &'static str,
    message: &'static str,
    /// The text that the position points to.
    at: Option<&'static str>,
    /// Stands in detail or hint.
    advice: &'static str,
    /// What the advice comes to.
    works: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case {
        number: 1,
        sql: "selet 1",
        sqlstate: "42601",
        message: "syntax error at or near \"selet\"",
        at: Some("selet"),
        advice: "SELECT",
        works: Some("SELECT 1"),
    },
    Case {
        number: 2,
        sql: "SELECT id,\n  amuont FROM orders AS o",
        sqlstate: "42703",
        message: "column \"amuont\" does not exist",
        at: Some("amuont"),
        advice: "Perhaps you meant \"o.amount\".",
        works: Some("SELECT id,\n  o.amount FROM orders AS o"),
    },
    Case {
        number: 3,
        sql: "SELECT * FROM orderz",
        sqlstate: "42P01",
        message: "relation \"orderz\" does not exist",
        at: Some("orderz"),
        advice: "Perhaps you meant \"orders\".",
        works: Some("SELECT * FROM orders"),
    },
    Case {
        number: 3,
        sql: "SELECT * FROM hidden",
        sqlstate: "42P01",
        message: "relation \"hidden\" does not exist",
        at: Some("hidden"),
        advice: "There is \"other.hidden\": name its schema, or add it to search_path.",
        works: Some("SELECT * FROM other.hidden"),
    },
    Case {
        number: 4,
        sql: "SELECT id FROM orders AS a JOIN orders AS b ON a.id = b.id",
        sqlstate: "42702",
        message: "column reference \"id\" is ambiguous",
        at: Some("id FROM"),
        advice: "It could be a.id or b.id: say which.",
        works: Some("SELECT a.id FROM orders AS a JOIN orders AS b ON a.id = b.id"),
    },
    Case {
        number: 5,
        sql: "SELECT amount + note FROM orders",
        sqlstate: "42883",
        message: "operator does not exist: integer + text",
        at: None,
        advice: "explicit type casts",
        works: Some("SELECT amount + note::int FROM orders"),
    },
    Case {
        number: 6,
        sql: "CREATE PIPELINE p AS\nSELECT id FROM orders\nORDER BY id",
        sqlstate: "0A000",
        message: "ORDER BY without LIMIT",
        at: Some("ORDER BY"),
        advice: "Add a LIMIT",
        works: Some("CREATE PIPELINE works_6 AS SELECT id FROM orders ORDER BY id LIMIT 10"),
    },
    Case {
        number: 7,
        sql: "CREATE PIPELINE p AS\nSELECT c.auction FROM clicks AS c JOIN views AS v ON c.bidder = v.bidder",
        sqlstate: "0A000",
        message: "the join of \"clicks\" and \"views\" keeps every row of \"clicks\" and \"views\" for ever",
        at: Some("JOIN"),
        advice: "join with a table",
        works: Some(
            "CREATE PIPELINE works_7 AS SELECT a.n FROM counts AS a JOIN orders AS o ON a.amount = o.amount",
        ),
    },
    Case {
        number: 8,
        sql: "CREATE PIPELINE p AS SELECT id, now() AS seen FROM orders",
        sqlstate: "0A000",
        message: "now()",
        at: Some("now"),
        advice: "SELECT that reads the pipeline",
        works: Some("SELECT amount, now() AS seen FROM counts"),
    },
    Case {
        number: 9,
        sql: "CREATE PIPELINE p AS SELECT id, random() AS r FROM orders",
        sqlstate: "42P17",
        message: "random() gives another value each time",
        at: Some("random"),
        advice: "in the SELECT that reads the pipeline",
        works: Some("SELECT amount, random() AS r FROM counts"),
    },
    Case {
        number: 10,
        sql: "CREATE PIPELINE p AS SELECT o.id FROM orders AS o JOIN spans AS s ON o.amount < s.hi",
        sqlstate: "0A000",
        message: "compares every pair of rows",
        at: Some("JOIN"),
        advice: "a.key = b.key",
        works: Some(
            "CREATE PIPELINE works_10 AS SELECT o.id FROM orders AS o JOIN spans AS s ON o.id = s.lo AND o.amount < s.hi",
        ),
    },
    Case {
        number: 12,
        sql: "CREATE PIPELINE p AS SELECT window_start, count(*) AS n FROM \
              TUMBLE(events, at, INTERVAL '1 minute') GROUP BY window_start EMIT ON WINDOW CLOSE",
        sqlstate: "42P20",
        message: "EMIT ON WINDOW CLOSE needs a GROUP BY on, or a column of, a window or time that a watermark completes",
        at: Some("EMIT"),
        advice: "WATERMARK FOR",
        works: Some(
            "CREATE PIPELINE works_12 AS SELECT window_start, count(*) AS n FROM \
             TUMBLE(bid, date_time, INTERVAL '1 minute') GROUP BY window_start EMIT ON WINDOW CLOSE",
        ),
    },
    Case {
        number: 13,
        sql: "SELECT count(*) FROM HOP(events, at, INTERVAL '3 seconds', INTERVAL '10 seconds')",
        sqlstate: "22023",
        message: "the window size INTERVAL '10 seconds' is not a multiple of the slide INTERVAL '3 seconds'",
        at: Some("HOP"),
        advice: "a size that the slide or step divides",
        works: Some("SELECT count(*) FROM HOP(events, at, INTERVAL '2 seconds', INTERVAL '10 seconds')"),
    },
    Case {
        number: 14,
        sql: "CREATE SOURCE s (ts TEXT, WATERMARK FOR ts AS ts) WITH (connector = 'generator', data = 'sequence')",
        sqlstate: "42804",
        message: "WATERMARK FOR \"ts\" needs a timestamp, but the column is text",
        at: Some("ts AS ts"),
        advice: "",
        works: None,
    },
    Case {
        number: 15,
        sql: "CREATE SINK s AS SELECT note FROM orders WITH (connector = 'kafka', topic = 't', \
              properties.bootstrap.server = 'localhost:1') FORMAT UPSERT ENCODE JSON",
        sqlstate: "42P16",
        message: "sink \"s\" is upsert but no key could be derived from the query",
        at: None,
        advice: "primary_key = '…'",
        works: None,
    },
    Case {
        number: 16,
        sql: "CREATE SINK s FROM counts WITH (connector = 'file', path = '/nowhere', primary_key = 'n') FORMAT UPSERT ENCODE JSON",
        sqlstate: "42P16",
        message: "the rows of sink \"s\" are not unique by primary_key (n)",
        at: None,
        advice: "Valid keys are (amount).",
        works: None,
    },
    Case {
        number: 17,
        sql: "CREATE SINK s FROM counts WITH (connector = 'file', path = '/nowhere') FORMAT PLAIN ENCODE JSON",
        sqlstate: "0A000",
        message: "query of sink \"s\" produces updates, but FORMAT PLAIN is append-only",
        at: None,
        advice: "Updates come from Input: counts",
        works: None,
    },
    Case {
        number: 19,
        sql: "INSERT INTO bid VALUES (1)",
        sqlstate: "42809",
        message: "\"bid\"",
        at: Some("bid"),
        advice: "use CREATE TABLE",
        works: Some("INSERT INTO orders VALUES (1, 2, 'x')"),
    },
    Case {
        number: 19,
        sql: "SELECT * FROM bid",
        sqlstate: "42809",
        message: "source \"bid\" is not stored",
        at: Some("bid"),
        advice: "CREATE PIPELINE p AS SELECT",
        works: Some("CREATE PIPELINE works_19 AS SELECT * FROM bid"),
    },
    Case {
        number: 20,
        sql: "CREATE TABLE k (a INT) WITH (connector = 'generator')",
        sqlstate: "42809",
        message: "a table has no connector",
        at: None,
        advice: "CREATE SOURCE",
        works: Some("CREATE SOURCE k WITH (connector = 'generator', table = 'bid')"),
    },
];

async fn run(session: &mut Session, sql: &str) -> Result<(), SqlError> {
    for parsed in SessionApi::parse(session, sql)? {
        let response = SessionApi::execute(session, &parsed, Vec::new(), &CancellationToken::new()).await?;
        if let Response::Rows { rows, .. } = response {
            let _: Vec<_> = rows.try_collect().await.map_err(|error| session.explain(error))?;
        }
    }
    Ok(())
}

fn check(case: &Case, error: &SqlError) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |is_right: bool, what: String| {
        if !is_right {
            wrong.push(format!("{} {}\n  {what}\n  {error:?}", case.number, case.sql));
        }
    };
    expect(error.sqlstate.0 == case.sqlstate, format!("is not {}", case.sqlstate));
    expect(error.message.contains(case.message), format!("does not say {}", case.message));
    let advice = format!("{} {}", error.detail.as_deref().unwrap_or(""), error.hint.as_deref().unwrap_or(""));
    expect(advice.contains(case.advice), format!("does not advise {}", case.advice));
    if let Some(at) = case.at {
        let rest: Option<String> =
            error.position.map(|position| case.sql.chars().skip(position - 1).collect());
        let is_there = rest.is_some_and(|rest| rest.to_lowercase().starts_with(&at.to_lowercase()));
        expect(is_there, format!("is not at {at}"));
    }
    wrong
}

async fn all() {
    let directory = tempfile::tempdir().unwrap();
    let config = EngineConfig { checkpoint_interval: Duration::from_millis(20), ..EngineConfig::default() };
    let database = Database::open(directory.path(), 1, config).await.unwrap();
    let mut session = Session::new(database, "tidemill".into());
    run(&mut session, SETUP).await.unwrap();
    let mut wrong = Vec::new();
    for case in CASES {
        let setting = if case.number == 7 { "reject" } else { "warn" };
        run(&mut session, &format!("SET unbounded_state = '{setting}'")).await.unwrap();
        let cross_joins = if case.number == 10 { "reject" } else { "warn" };
        run(&mut session, &format!("SET cross_joins = '{cross_joins}'")).await.unwrap();
        match run(&mut session, case.sql).await {
            Ok(()) => wrong.push(format!("{} {}\n  is no error", case.number, case.sql)),
            Err(error) => wrong.extend(check(case, &error)),
        }
        if let Some(works) = case.works
            && let Err(error) = run(&mut session, works).await
        {
            wrong.push(format!("{} {works}\n  does not work: {error:?}", case.number));
        }
    }
    // The same as a warning, and not at all.
    let create = |n: u32| {
        format!(
            "CREATE PIPELINE j{n} AS SELECT c.auction FROM clicks AS c JOIN views AS v ON c.bidder = v.bidder"
        )
    };
    session.take_notices();
    run(&mut session, &create(1)).await.unwrap();
    let notices = session.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!((notices[0].severity, notices[0].sqlstate.0), ("WARNING", "01000"));
    assert!(
        notices[0].message.starts_with("the join of \"clicks\" and \"views\" keeps every row"),
        "{notices:?}"
    );
    run(&mut session, "SET unbounded_state = 'allow'").await.unwrap();
    run(&mut session, &create(2)).await.unwrap();
    // An entry for each key is what most want; it is refused only where anything that grows is.
    run(&mut session, "SET unbounded_state = 'warn'").await.unwrap();
    let per_key = "CREATE PIPELINE per_key AS SELECT bidder, count(*) AS n FROM clicks GROUP BY bidder";
    run(&mut session, per_key).await.unwrap();
    assert_eq!(session.take_notices(), []);
    run(&mut session, "DROP PIPELINE per_key; SET unbounded_state = 'reject'").await.unwrap();
    assert_eq!(run(&mut session, per_key).await.unwrap_err().sqlstate.0, "0A000");
    assert_eq!(run(&mut session, "SET unbounded_state = 'maybe'").await.unwrap_err().sqlstate.0, "22023");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refusals_say_what_where_why_and_what_works() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(all()).await.unwrap() });
    runtime.shutdown_timeout(Duration::ZERO);
}
