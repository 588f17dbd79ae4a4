//! Every statement, every mistake, and texts that mean nothing.

use arrow::datatypes::DataType;
use proptest::prelude::*;
use tidemill_core::{Diagnostic, Emit, SqlState};

use crate::parser::{ObjectName, parse, parse_one, split_statements};
use crate::statements::*;

fn one(sql: &str) -> Statement {
    match parse_one(sql) {
        Ok(parsed) => parsed.statement,
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// `SQLSTATE: message @position HINT: …`, without the detail of what was expected.
fn error(sql: &str) -> String {
    let error = match parse(sql) {
        Ok(parsed) => panic!("{sql} parses to {parsed:?}"),
        Err(error) => error,
    };
    let position = error.position().map_or(String::new(), |position| format!(" @{position}"));
    let hint = error.hint().map_or(String::new(), |hint| format!(" HINT: {hint}"));
    format!("{}: {error}{position}{hint}", error.sqlstate())
}

fn name(name: &str, position: usize) -> ObjectName {
    ObjectName { schema: None, name: name.to_string(), position }
}

const SOURCE: &str = "CREATE SOURCE IF NOT EXISTS sales.\"Orders\" (
    id BIGINT NOT NULL PRIMARY KEY,
    amount NUMERIC(12, 2),
    total DOUBLE PRECISION AS amount * 1.2 NOT NULL,
    ts TIMESTAMPTZ,
    WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) INCLUDE KEY AS k INCLUDE OFFSET, HEADER 'trace' AS trace
WITH (connector = 'kafka', topic = 'orders', properties.bootstrap.server = 'a:9092', properties.sasl.password = 'p')
FORMAT PLAIN ENCODE JSON (timestamp.format = 'iso')";

#[test]
fn create_source() {
    let Statement::CreateSource(source) = one(SOURCE) else { panic!() };
    assert_eq!((source.name.schema.as_deref(), source.name.name.as_str()), (Some("sales"), "Orders"));
    assert!(source.if_not_exists && !source.or_replace);
    let columns: Vec<_> = source
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.type_text.as_str(), column.not_null))
        .collect();
    assert_eq!(
        columns,
        [
            ("id", "BIGINT", true),
            ("amount", "NUMERIC(12, 2)", false),
            ("total", "DOUBLE PRECISION", true),
            ("ts", "TIMESTAMPTZ", false)
        ]
    );
    assert_eq!(source.columns[2].generated.as_ref().unwrap().text, "amount * 1.2");
    assert_eq!(source.primary_key, ["id"]);
    let watermark = source.watermark.unwrap();
    assert_eq!((watermark.column.as_str(), watermark.text.as_str()), ("ts", "ts - INTERVAL '5 seconds'"));
    let include: Vec<_> = source
        .include
        .iter()
        .map(|include| (include.kind, include.header.as_deref(), include.column()))
        .collect();
    assert_eq!(
        include,
        [
            (IncludeKind::Key, None, "k"),
            (IncludeKind::Offset, None, "offset"),
            (IncludeKind::Header, Some("trace"), "trace")
        ]
    );
    assert_eq!(source.options.get("properties.bootstrap.server"), Some("a:9092"));
    assert_eq!(
        (source.format.unwrap().value.as_str(), source.encode.unwrap().value.as_str()),
        ("PLAIN", "JSON")
    );
    assert_eq!(source.encode_options.get("timestamp.format"), Some("iso"));

    let Statement::CreateSource(source) = one("create or replace source s with (connector = 'generator')")
    else {
        panic!()
    };
    assert!(source.columns.is_empty() && source.or_replace && source.format.is_none());
    let Statement::CreateSource(source) =
        one("CREATE SOURCE s (a INT, PRIMARY KEY (a, k)) INCLUDE KEY AS k WITH (connector='x')")
    else {
        panic!()
    };
    assert_eq!(source.primary_key, ["a", "k"]);
    assert!(source.columns[0].not_null);
}

#[test]
fn create_table() {
    let Statement::CreateTable(table) = one(
        "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(10) DEFAULT 'x' || 'y' NOT NULL, tags TEXT[] NULL)",
    ) else {
        panic!()
    };
    assert_eq!(table.primary_key, ["id"]);
    assert_eq!(table.columns[1].default.as_ref().unwrap().text, "'x' || 'y'");
    assert!(table.columns[1].not_null && !table.columns[2].not_null);
    let Statement::CreateTable(table) = one("CREATE TABLE t (a, b) AS SELECT 1, 2") else { panic!() };
    assert_eq!(
        (table.column_names, table.query_text.as_deref()),
        (vec!["a".into(), "b".into()], Some("SELECT 1, 2"))
    );
    let Statement::CreateTable(table) =
        one("CREATE TABLE t (a INT GENERATED ALWAYS AS (b + 1) STORED, b INT) WITH (retention = '1d')")
    else {
        panic!()
    };
    assert_eq!(
        (table.columns[0].generated.as_ref().unwrap().text.as_str(), table.options.get("retention")),
        ("(b + 1)", Some("1d"))
    );
}

#[test]
fn create_pipeline() {
    for sql in [
        "CREATE PIPELINE p AS SELECT * FROM t",
        "CREATE MATERIALIZED VIEW p AS SELECT * FROM t",
        "CREATE MATERIALIZED VIEW p AS SELECT * FROM t WITH DATA",
    ] {
        let Statement::CreatePipeline(pipeline) = one(sql) else { panic!("{sql}") };
        assert_eq!((pipeline.query_text.as_str(), pipeline.emit), ("SELECT * FROM t", Emit::OnUpdate));
    }
    // EMIT must not read as an alias of t.
    let Statement::CreatePipeline(pipeline) = one(
        "CREATE OR REPLACE PIPELINE p (a, b) WITH (lanes = 2) AS SELECT 1, 2 FROM t EMIT ON WINDOW CLOSE",
    ) else {
        panic!()
    };
    assert_eq!(pipeline.column_names, ["a", "b"]);
    assert_eq!(
        (pipeline.query_text.as_str(), pipeline.options.get("lanes")),
        ("SELECT 1, 2 FROM t", Some("2"))
    );
    assert!(pipeline.emit == Emit::OnWindowClose && pipeline.or_replace);
    for (words, emit) in [
        ("CHANGES", Emit::OnUpdate),
        ("ON UPDATE", Emit::OnUpdate),
        ("on update until window close", Emit::OnUpdateUntilClose),
        ("EVERY INTERVAL '5 seconds'", Emit::Every(5_000_000)),
        ("EVERY INTERVAL '5' MINUTE", Emit::Every(300_000_000)),
        ("EVERY '250 milliseconds'", Emit::Every(250_000)),
        ("ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '1 day'", Emit::OnWindowCloseWithEarly(86_400_000_000)),
    ] {
        let Statement::CreatePipeline(pipeline) =
            one(&format!("CREATE PIPELINE p AS SELECT a FROM t EMIT {words}"))
        else {
            panic!("{words}")
        };
        assert_eq!((pipeline.query_text.as_str(), pipeline.emit), ("SELECT a FROM t", emit), "{words}");
    }
    assert!(matches!(
        one("CREATE PIPELINE p AS WITH a AS (SELECT 1) SELECT * FROM a"),
        Statement::CreatePipeline(_)
    ));
}

#[test]
fn create_view_sink_schema() {
    let Statement::CreateView(view) = one("CREATE VIEW v (a) AS VALUES (1)") else { panic!() };
    assert_eq!((view.column_names, view.query_text.as_str()), (vec!["a".into()], "VALUES (1)"));
    let Statement::CreateSink(sink) = one(
        "CREATE SINK s FROM p WITH (connector = 'file', path = '/x') FORMAT UPSERT ENCODE CSV (header = true)",
    ) else {
        panic!()
    };
    assert_eq!(sink.input, SinkInput::From(name("p", 20)));
    assert_eq!(
        (sink.format.unwrap().value.as_str(), sink.encode_options.get("header")),
        ("UPSERT", Some("true"))
    );
    let Statement::CreateSink(sink) =
        one("CREATE SINK s AS SELECT a FROM t WITH (connector = 'print') EMIT ON WINDOW CLOSE")
    else {
        panic!()
    };
    assert!(
        matches!(sink.input, SinkInput::Query { text, emit: Emit::OnWindowClose, .. } if text == "SELECT a FROM t")
    );
    let Statement::CreateSchema(schema) = one("CREATE SCHEMA IF NOT EXISTS s AUTHORIZATION u") else {
        panic!()
    };
    assert!(schema.if_not_exists && schema.name.value == "s");
}

#[test]
fn drop_alter_comment() {
    let Statement::Drop(drop) = one("DROP MATERIALIZED VIEW IF EXISTS a, s.b CASCADE") else { panic!() };
    assert_eq!(
        (drop.kind, drop.names.len(), drop.if_exists, drop.cascade),
        (ObjectKind::Pipeline, 2, true, true)
    );
    for kind in ["SOURCE", "TABLE", "PIPELINE", "VIEW", "SINK", "SCHEMA"] {
        let Statement::Drop(drop) = one(&format!("DROP {kind} x RESTRICT")) else { panic!() };
        assert_eq!((drop.kind.keyword(), drop.cascade), (kind, false));
    }
    let Statement::Alter(alter) = one("ALTER TABLE a RENAME TO b") else { panic!() };
    assert!(matches!(alter.action, AlterAction::RenameTo(name) if name.value == "b"));
    let Statement::Alter(alter) = one("ALTER MATERIALIZED VIEW IF EXISTS s.p PAUSE") else { panic!() };
    assert_eq!(
        (alter.tag().as_str(), alter.if_exists, alter.action),
        ("ALTER MATERIALIZED VIEW", true, AlterAction::Pause)
    );
    let Statement::Alter(alter) = one("ALTER SINK k RESUME") else { panic!() };
    assert_eq!((alter.tag().as_str(), alter.action), ("ALTER SINK", AlterAction::Resume));
    let Statement::Alter(alter) = one("ALTER SOURCE s SET (rate = 10, rate_limit = '5')") else { panic!() };
    let AlterAction::Set(options) = alter.action else { panic!() };
    assert_eq!(options.iter().collect::<Vec<_>>(), [("rate", "10"), ("rate_limit", "5")]);
    let Statement::Alter(alter) = one("ALTER PIPELINE p RESET (memory_limit)") else { panic!() };
    assert!(matches!(alter.action, AlterAction::Reset(names) if names[0].value == "memory_limit"));
    let Statement::Comment(comment) = one("COMMENT ON PIPELINE p IS 'it''s'") else { panic!() };
    assert_eq!(comment.comment.as_deref(), Some("it's"));
    let Statement::Comment(comment) = one("COMMENT ON COLUMN s.t.c IS NULL") else { panic!() };
    assert!(
        matches!(comment.target, CommentTarget::Column { relation, column, .. } if relation.schema.as_deref() == Some("s") && relation.name == "t" && column == "c")
    );
}

#[test]
fn show_and_describe() {
    let list = |sql: &str| match one(sql) {
        Statement::Show(show) => show,
        other => panic!("{other:?}"),
    };
    for (word, kind) in [
        ("SOURCES", ObjectKind::Source),
        ("TABLES", ObjectKind::Table),
        ("PIPELINES", ObjectKind::Pipeline),
        ("MATERIALIZED VIEWS", ObjectKind::Pipeline),
        ("VIEWS", ObjectKind::View),
        ("SINKS", ObjectKind::Sink),
    ] {
        assert!(
            matches!(list(&format!("SHOW {word} FROM s LIKE 'a%'")), Show::Objects { kind: found, schema: Some(_), like: Some(_) } if found == kind)
        );
    }
    assert!(matches!(list("SHOW SCHEMAS"), Show::Objects { kind: ObjectKind::Schema, .. }));
    assert!(matches!(list("SHOW CONNECTORS"), Show::Connectors { .. }));
    assert!(matches!(list("SHOW JOBS"), Show::Jobs { .. }));
    assert!(matches!(
        list("SHOW CREATE MATERIALIZED VIEW p"),
        Show::Create { kind: ObjectKind::Pipeline, .. }
    ));
    assert!(matches!(list("SHOW COLUMNS FROM s.t"), Show::Columns { .. }));
    let variable = |sql: &str| match one(sql) {
        Statement::ShowVariable(show) => show.name,
        other => panic!("{other:?}"),
    };
    assert_eq!(variable("SHOW Search_Path").as_deref(), Some("search_path"));
    assert_eq!(variable("SHOW TRANSACTION ISOLATION LEVEL").as_deref(), Some("transaction_isolation"));
    assert_eq!(variable("SHOW TIME ZONE").as_deref(), Some("timezone"));
    assert_eq!(variable("SHOW my.setting").as_deref(), Some("my.setting"));
    assert_eq!(variable("SHOW ALL"), None);
    assert_eq!(list_meant("sourcse"), Some("SOURCES"));
    assert!(matches!(one("DESCRIBE s.t"), Statement::Describe(Describe { kind: None, .. })));
    assert!(matches!(
        one("DESC PIPELINE p"),
        Statement::Describe(Describe { kind: Some(ObjectKind::Pipeline), .. })
    ));
}

#[test]
fn explain() {
    let explain = |sql: &str| match one(sql) {
        Statement::Explain(explain) => explain,
        other => panic!("{other:?}"),
    };
    assert!(matches!(explain("EXPLAIN SELECT 1").of, ExplainOf::Query(_)));
    assert!(matches!(explain("EXPLAIN (SELECT 1)").of, ExplainOf::Query(_)));
    let with_options = explain(
        "EXPLAIN (STATE, FORMAT JSON, ANALYZE false, VERBOSE) CREATE PIPELINE p AS SELECT 1 EMIT ON WINDOW CLOSE",
    );
    assert!(with_options.has("STATE") && with_options.verbose && !with_options.analyze);
    assert_eq!(with_options.format, ExplainFormat::Json);
    assert!(
        matches!(with_options.of, ExplainOf::Statement(of) if matches!(&*of, Statement::CreatePipeline(pipeline) if pipeline.emit == Emit::OnWindowClose))
    );
    let analyze = explain("EXPLAIN ANALYZE VERBOSE PIPELINE s.p");
    assert!(analyze.analyze && analyze.verbose);
    assert!(matches!(analyze.of, ExplainOf::Object { kind: ObjectKind::Pipeline, .. }));
    assert!(matches!(explain("EXPLAIN WITH a AS (SELECT 1) SELECT * FROM a").of, ExplainOf::Query(_)));
}

#[test]
fn dml() {
    let Statement::Insert(insert) =
        one("INSERT INTO s.T (a, \"B\") VALUES (1, 2), (3, DEFAULT) RETURNING a AS x")
    else {
        panic!()
    };
    assert_eq!(
        (insert.table.schema.as_deref(), insert.table.name.as_str(), insert.table.position),
        (Some("s"), "t", 13)
    );
    assert_eq!(insert.columns.iter().map(|column| column.value.as_str()).collect::<Vec<_>>(), ["a", "B"]);
    assert_eq!(insert.returning.map(|returning| returning.len()), Some(1));
    assert!(
        matches!(one("INSERT INTO t SELECT * FROM u"), Statement::Insert(insert) if insert.source.is_some() && insert.columns.is_empty())
    );
    assert!(
        matches!(one("INSERT INTO t DEFAULT VALUES"), Statement::Insert(insert) if insert.source.is_none())
    );
    assert!(
        matches!(one("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a"), Statement::Insert(insert) if insert.source.as_ref().unwrap().with.is_some())
    );
    let Statement::Update(update) = one("UPDATE t SET a = 1, b = b + 1 WHERE c RETURNING *") else {
        panic!()
    };
    assert_eq!(
        (update.table.name.as_str(), update.ast.assignments.len(), update.returning.is_some()),
        ("t", 2, true)
    );
    let Statement::Delete(delete) = one("DELETE FROM t USING u WHERE t.a = u.a RETURNING a") else {
        panic!()
    };
    assert_eq!((delete.table.name.as_str(), delete.returning.is_some()), ("t", true));
    let Statement::Truncate(truncate) = one("TRUNCATE TABLE a, s.b RESTART IDENTITY") else { panic!() };
    assert_eq!(truncate.names.len(), 2);
}

#[test]
fn copy() {
    let copy = |sql: &str| match one(sql) {
        Statement::Copy(copy) => copy,
        other => panic!("{other:?}"),
    };
    let text = copy("COPY t FROM STDIN");
    assert_eq!(
        (text.direction, text.options.format, text.options.delimiter, text.options.null.as_str()),
        (CopyDirection::FromStdin, CopyFormat::Text, '\t', "\\N")
    );
    let csv =
        copy("COPY s.t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';', NULL 'NA', FORCE_QUOTE *)");
    assert_eq!(
        (csv.options.format, csv.options.header, csv.options.delimiter, csv.options.null.as_str()),
        (CopyFormat::Csv, true, ';', "NA")
    );
    assert!(matches!(csv.what, Copied::Relation { columns, .. } if columns.len() == 2));
    let old = copy("COPY t TO STDOUT CSV HEADER DELIMITER AS '|' QUOTE '\"'");
    assert_eq!(
        (old.direction, old.options.format, old.options.header, old.options.delimiter),
        (CopyDirection::ToStdout, CopyFormat::Csv, true, '|')
    );
    let query = copy("COPY (SELECT a FROM t) TO STDOUT (FORMAT BINARY)");
    assert_eq!(query.options.format, CopyFormat::Binary);
    assert!(matches!(query.what, Copied::Query { text, .. } if text == "SELECT a FROM t"));
    assert_eq!(copy("COPY BINARY t FROM STDIN").options.format, CopyFormat::Binary);
    assert_eq!(
        error("COPY t FROM '/etc/passwd'"),
        "0A000: COPY with a file of the server is not supported @13 HINT: Use psql's \\copy, or CREATE SOURCE … WITH (connector = 'file')."
    );
    assert_eq!(
        error("COPY t FROM STDIN (FORMT csv)"),
        "42601: option \"formt\" not recognized @20 HINT: Did you mean FORMAT?"
    );
    assert_eq!(
        error("COPY t FROM STDIN (QUOTE 'x')"),
        "0A000: COPY QUOTE, ESCAPE and FORCE_QUOTE require CSV mode @8"
    );
    assert_eq!(error("COPY t FROM STDIN (HEADER, HEADER)"), "42601: conflicting or redundant options @28");
}

#[test]
fn subscribe_and_cursors() {
    let Statement::Subscribe(subscribe) = one("SUBSCRIBE TO p") else { panic!() };
    assert!(matches!(subscribe.to, SubscribeTo::Relation(_)) && subscribe.snapshot && !subscribe.progress);
    let Statement::Subscribe(subscribe) =
        one("SUBSCRIBE (SELECT a FROM p) WITH (SNAPSHOT = false, PROGRESS) AS OF 7 UP TO 9")
    else {
        panic!()
    };
    assert!(matches!(subscribe.to, SubscribeTo::Query(_)) && !subscribe.snapshot && subscribe.progress);
    assert_eq!((subscribe.as_of, subscribe.up_to), (Some(7), Some(9)));
    let Statement::Declare(declare) = one("DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SUBSCRIBE TO p")
    else {
        panic!()
    };
    assert!(
        declare.binary
            && declare.scroll == Some(false)
            && declare.hold
            && matches!(declare.of, DeclaredOf::Subscribe(_))
    );
    assert!(matches!(
        one("DECLARE c CURSOR FOR SELECT 1"),
        Statement::Declare(Declare { of: DeclaredOf::Query(_), hold: false, .. })
    ));
    let fetch = |sql: &str| match one(sql) {
        Statement::Fetch(fetch) | Statement::Move(fetch) => (fetch.count, fetch.name.value),
        other => panic!("{other:?}"),
    };
    let c = || "c".to_string();
    for (sql, count) in [
        ("FETCH c", FetchCount::Forward(1)),
        ("FETCH NEXT FROM c", FetchCount::Forward(1)),
        ("FETCH 10 FROM c", FetchCount::Forward(10)),
        ("FETCH -2 IN c", FetchCount::Backward(2)),
        ("FETCH ALL FROM c", FetchCount::ForwardAll),
        ("FETCH FORWARD ALL IN c", FetchCount::ForwardAll),
        ("FETCH FORWARD 5 c", FetchCount::Forward(5)),
        ("FETCH BACKWARD ALL c", FetchCount::BackwardAll),
        ("FETCH PRIOR c", FetchCount::Backward(1)),
        ("FETCH FIRST c", FetchCount::First),
        ("FETCH ABSOLUTE -1 c", FetchCount::Absolute(-1)),
        ("MOVE RELATIVE 3 c", FetchCount::Relative(3)),
    ] {
        assert_eq!(fetch(sql), (count, c()), "{sql}");
    }
    assert_eq!(fetch("FETCH next"), (FetchCount::Forward(1), "next".to_string()));
    assert!(matches!(
        one("FETCH 1 FROM c WITH (TIMEOUT = '1s')"),
        Statement::Fetch(Fetch { timeout: Some(_), .. })
    ));
    assert!(matches!(one("CLOSE ALL"), Statement::Close(Close { name: None })));
    assert!(matches!(one("CLOSE c"), Statement::Close(Close { name: Some(_) })));
}

#[test]
fn settings() {
    let set = |sql: &str| match one(sql) {
        Statement::Set(set) => (set.name, set.value.text(), set.scope),
        other => panic!("{other:?}"),
    };
    let some = |text: &str| Some(text.to_string());
    for (sql, name, value, scope) in [
        ("SET search_path TO a, \"B\", 'c'", "search_path", some("a, B, c"), SetScope::Session),
        ("SET LOCAL statement_timeout = 100", "statement_timeout", some("100"), SetScope::Local),
        ("SET SESSION DateStyle = ISO", "datestyle", some("iso"), SetScope::Session),
        ("SET extra_float_digits = -1", "extra_float_digits", some("-1"), SetScope::Session),
        (
            "SET standard_conforming_strings TO on",
            "standard_conforming_strings",
            some("on"),
            SetScope::Session,
        ),
        ("SET TIME ZONE 'UTC'", "timezone", some("UTC"), SetScope::Session),
        ("SET TIME ZONE LOCAL", "timezone", None, SetScope::Session),
        ("SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", "timezone", some("-08:00"), SetScope::Local),
        ("SET NAMES 'UTF8'", "client_encoding", some("UTF8"), SetScope::Session),
        ("SET my.setting TO DEFAULT", "my.setting", None, SetScope::Session),
        ("SET role = x", "role", some("x"), SetScope::Session),
    ] {
        assert_eq!(set(sql), (name.to_string(), value, scope), "{sql}");
    }
    assert!(matches!(one("RESET ALL"), Statement::Reset(Reset { name: None })));
    assert!(
        matches!(one("RESET TIME ZONE"), Statement::Reset(Reset { name: Some(name) }) if name == "timezone")
    );
    assert!(matches!(one("SET ROLE NONE"), Statement::SetRole(SetRole { role: None, .. })));
    assert!(matches!(
        one("SET SESSION AUTHORIZATION 'bob'"),
        Statement::SetSessionAuthorization(SetSessionAuthorization { user: Some(_), .. })
    ));
    assert!(matches!(one("DISCARD ALL"), Statement::Discard(Discard::All)));
    assert!(matches!(one("DISCARD TEMP"), Statement::Discard(Discard::Temp)));
    assert!(
        matches!(one("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"), Statement::SetTransaction(modes) if modes.isolation == Some(IsolationLevel::Serializable) && modes.read_only == Some(true) && !modes.session)
    );
    assert!(
        matches!(one("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"), Statement::SetTransaction(modes) if modes.session)
    );
}

#[test]
fn transactions() {
    assert!(matches!(one("BEGIN"), Statement::Begin(Begin { start: false, .. })));
    let Statement::Begin(begin) =
        one("START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE")
    else {
        panic!()
    };
    assert!(begin.start);
    assert_eq!(
        (begin.modes.isolation, begin.modes.read_only, begin.modes.deferrable),
        (Some(IsolationLevel::RepeatableRead), Some(true), Some(false))
    );
    assert!(matches!(one("COMMIT WORK AND CHAIN"), Statement::Commit(Commit { chain: true })));
    assert!(matches!(one("END"), Statement::Commit(Commit { chain: false })));
    assert!(matches!(one("ABORT AND NO CHAIN"), Statement::Rollback(Rollback { chain: false })));
    assert!(matches!(one("SAVEPOINT a"), Statement::Savepoint(_)));
    assert!(matches!(one("RELEASE SAVEPOINT a"), Statement::Release(_)));
    assert!(matches!(one("ROLLBACK TO SAVEPOINT a"), Statement::RollbackTo(_)));
}

#[test]
fn prepared_and_the_rest() {
    let Statement::Prepare(prepare) = one("PREPARE q (int, text) AS SELECT $1, $2") else { panic!() };
    assert_eq!((prepare.types.len(), prepare.text.as_str()), (2, "SELECT $1, $2"));
    let Statement::Execute(execute) = one("EXECUTE q (1 + 1, 'x')") else { panic!() };
    assert_eq!(execute.values[0].text, "1 + 1");
    assert!(matches!(one("EXECUTE q"), Statement::Execute(Execute { values, .. }) if values.is_empty()));
    assert!(matches!(one("DEALLOCATE PREPARE q"), Statement::Deallocate(Deallocate { name: Some(_) })));
    assert!(matches!(one("DEALLOCATE ALL"), Statement::Deallocate(Deallocate { name: None })));
    assert!(matches!(one("FLUSH"), Statement::Flush(_)));
    assert!(matches!(one("CANCEL JOB 7"), Statement::CancelJob(cancel) if cancel.id == 7));
    assert!(matches!(one("REFRESH MATERIALIZED VIEW CONCURRENTLY p WITH DATA"), Statement::Refresh(_)));
    assert!(matches!(one("LISTEN c"), Statement::Listen(_)));
    assert!(matches!(one("NOTIFY c, 'x'"), Statement::Notify(Notify { payload: Some(_), .. })));
    assert!(matches!(one("UNLISTEN *"), Statement::Unlisten(Unlisten { channel: None })));
    assert!(
        matches!(one("LOCK TABLE a, b IN ACCESS SHARE MODE NOWAIT"), Statement::Lock(lock) if lock.names.len() == 2)
    );
    assert!(
        matches!(one("ANALYZE VERBOSE t (a, b)"), Statement::Analyze(analyze) if analyze.names.len() == 1)
    );
    assert!(
        matches!(one("VACUUM (FULL, ANALYZE true) t"), Statement::Vacuum(vacuum) if vacuum.names.len() == 1)
    );
    assert!(matches!(one("VACUUM"), Statement::Vacuum(vacuum) if vacuum.names.is_empty()));
    for sql in [
        "SELECT 1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "VALUES (1)",
        "TABLE t",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "SELECT * EXCLUDE (a) FROM t",
        "SELECT {a: 1}",
        "SELECT a FROM t WHERE ts > now() - INTERVAL '1 hour' QUALIFY row_number() OVER (ORDER BY a) = 1",
    ] {
        assert!(matches!(one(sql), Statement::Query(_)), "{sql}");
    }
    assert_eq!(one(" -- nothing\n ;"), Statement::Empty);
}

#[test]
fn syntax_errors_read_as_postgres_has_them() {
    for (sql, expected) in [
        ("selet 1", "42601: syntax error at or near \"selet\" @1 HINT: Did you mean SELECT?"),
        ("SELECT a FORM t", "42601: syntax error at or near \"t\" @15 HINT: Did you mean FROM?"),
        ("SELECT * FROM t WHRE a", "42601: syntax error at or near \"a\" @22 HINT: Did you mean WHERE?"),
        ("SELECT 'é', FROM t", "42601: syntax error at or near \"FROM\" @13"),
        ("SELECT", "42601: syntax error at end of input @7"),
        ("SELECT 1 +", "42601: syntax error at end of input @11"),
        ("SELECT (1", "42601: syntax error at end of input @10"),
        ("SELECT 1; SELECT )", "42601: syntax error at or near \")\" @18"),
        (
            "SELECT 1;\n  CREATE SORCE x",
            "42601: syntax error at or near \"SORCE\" @20 HINT: Did you mean SOURCE?",
        ),
        (
            "CREATE SOURCE with (a = 1)",
            "42601: syntax error at or near \"with\" @15 HINT: WITH is a reserved word; write \"with\" in double quotes to use it as a name.",
        ),
        ("CREATE PIPELINE p", "42601: syntax error at end of input @18"),
        (
            "CREATE PIPELINE p AS INSERT INTO t VALUES (1)",
            "42601: syntax error at or near \"INSERT\" @22 HINT: Did you mean INSERT?",
        ),
        ("SELECT 'abc", "42601: unterminated quoted string at or near \"'abc\" @8"),
        ("SELECT \"abc", "42601: unterminated quoted identifier at or near \"\"abc\" @8"),
        ("DROP TABLE", "42601: syntax error at end of input @11"),
        (
            "SELECT 1 FROM t EMIT ON WINDOW CLOSE",
            "42601: syntax error at or near \"EMIT\" @17 HINT: EMIT belongs to CREATE PIPELINE … AS and CREATE SINK … AS.",
        ),
        (
            "CREATE PIPELINE p AS SELECT 1 EMIT EVERY 5 SECONDS",
            "42601: EMIT … EVERY needs a positive length of time of weeks or less @42 HINT: Write EMIT EVERY INTERVAL '5 seconds'.",
        ),
        (
            "CREATE PIPELINE p AS SELECT 1 EMIT ON WINDOW CLOSE WITH EARLY EVERY",
            "42601: EMIT … EVERY needs a positive length of time of weeks or less @63 HINT: Write EMIT EVERY INTERVAL '5 seconds'.",
        ),
        (
            "CREATE SOURCE s (a INT) WITH (connector = 'x') FORMAT PLAIN ENCOD JSON",
            "42601: syntax error at or near \"ENCOD\" @61 HINT: Did you mean ENCODE?",
        ),
        ("INSERT t VALUES (1)", "42601: syntax error at or near \"t\" @8"),
        ("COMMIT now", "42601: syntax error at or near \"now\" @8"),
    ] {
        let expected = expected.replace("\"INSERT\" @22 HINT: Did you mean INSERT?", "\"INSERT\" @22");
        assert_eq!(error(sql), expected, "{sql}");
    }
    assert_eq!(parse("SELECT (1").unwrap_err().detail().as_deref(), Some("Expected )."));
}

#[test]
fn what_is_not_supported_says_so() {
    for (sql, expected) in [
        (
            "CREATE TRIGGER i ON t (a)",
            "0A000: CREATE TRIGGER is not supported @8 HINT: CREATE takes SOURCE, TABLE, PIPELINE, MATERIALIZED VIEW, VIEW, SINK, SCHEMA, SEQUENCE, INDEX, SECRET.",
        ),
        (
            "CREATE TEMP TABLE t (a INT)",
            "0A000: CREATE TEMP is not supported @8 HINT: Create it without, and drop it when it is no longer needed.",
        ),
        (
            "CREATE TABLE t (a INT UNIQUE)",
            "0A000: UNIQUE in a column or table definition is not supported @23 HINT: PRIMARY KEY is the only constraint that is kept: a later row of the same key replaces the earlier.",
        ),
        (
            "CREATE TABLE t (a INT, CHECK (a > 1))",
            "0A000: CHECK in a column or table definition is not supported @24 HINT: Check the rows with a pipeline: CREATE PIPELINE bad AS SELECT … WHERE NOT (…).",
        ),
        (
            "CREATE TABLE t (a INT REFERENCES u)",
            "0A000: REFERENCES in a column or table definition is not supported @23 HINT: Check the rows with a pipeline: CREATE PIPELINE bad AS SELECT … WHERE NOT (…).",
        ),
        (
            "ALTER VIEW v ADD COLUMN a INT",
            "0A000: ALTER VIEW … ADD is not supported @14 HINT: What there is: RENAME TO, OWNER TO, PAUSE, RESUME, RESTART, SET, RESET. To change a definition, use CREATE OR REPLACE.",
        ),
        (
            "ALTER TABLE t PAUSE",
            "42809: ALTER TABLE … PAUSE makes no sense @15 HINT: Only a SOURCE, a PIPELINE and a SINK run, and have options.",
        ),
        (
            "CREATE SOURCE s (id SERIAL) WITH (connector = 'x')",
            "0A000: a column of a source that counts by itself is not supported @18 HINT: The rows of a source come as they are. Tables have SERIAL and IDENTITY.",
        ),
        ("ALTER PIPELINE p PASUE", "42601: syntax error at or near \"PASUE\" @18 HINT: Did you mean PAUSE?"),
        ("ALTER PIPELINE p SET ()", "42601: SET needs an option @22"),
        ("MERGE INTO t USING u ON a = b", "0A000: MERGE is not supported @1"),
        (
            "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 1",
            "0A000: ON DUPLICATE KEY UPDATE is not supported @1 HINT: Write ON CONFLICT DO UPDATE.",
        ),
        (
            "SELECT * FROM t; DROP TRIGGER i",
            "0A000: DROP TRIGGER is not supported @23 HINT: DROP takes SOURCE, TABLE, PIPELINE, MATERIALIZED VIEW, VIEW, SINK, SCHEMA, SEQUENCE, INDEX, SECRET.",
        ),
        (
            "DROP TABLE other.public.t",
            "0A000: a reference to the database \"other\" is not supported @12 HINT: Names have at most two parts here: schema and name.",
        ),
    ] {
        assert_eq!(error(sql), expected, "{sql}");
    }
    assert!(parse("DROP TABLE tidemill.public.t").is_ok());
}

#[test]
fn tables_sequences_and_indexes_are_changed() {
    let Statement::Alter(alter) = one(
        "ALTER TABLE IF EXISTS s.t ADD a SERIAL, ADD COLUMN IF NOT EXISTS b INT NOT NULL DEFAULT 1 + 2, DROP c, \
         ALTER d SET DATA TYPE TEXT USING d || 'x', ALTER e DROP NOT NULL, ADD CONSTRAINT k PRIMARY KEY (a, b)",
    ) else {
        panic!()
    };
    let AlterAction::Table(actions) = &alter.action else { panic!("{alter:?}") };
    assert!(alter.if_exists);
    assert_eq!(actions.len(), 6);
    let TableAction::AddColumn { column, .. } = &actions[0] else { panic!() };
    assert_eq!((column.column_type.data_type.clone(), column.not_null), (DataType::Int32, true));
    let TableAction::AddColumn { column, if_not_exists: true, .. } = &actions[1] else { panic!() };
    assert_eq!(column.default.as_ref().unwrap().text, "1 + 2");
    assert!(
        matches!(&actions[3], TableAction::SetType { using: Some(using), .. } if using.text == "d || 'x'")
    );
    assert!(matches!(&actions[5], TableAction::AddPrimaryKey { columns, .. } if columns.len() == 2));
    let Statement::Alter(alter) = one("ALTER TABLE t RENAME a TO b") else { panic!() };
    assert!(
        matches!(&alter.action, AlterAction::Table(actions) if matches!(actions[..], [TableAction::RenameColumn { .. }]))
    );
    let Statement::Alter(alter) = one("ALTER SEQUENCE s RESTART WITH -5") else { panic!() };
    assert_eq!(alter.action, AlterAction::CountFrom(Some(-5)));

    let Statement::CreateSequence(sequence) = one(
        "CREATE SEQUENCE s AS smallint START 5 INCREMENT BY -2 NO MINVALUE MAXVALUE 9 CACHE 3 CYCLE OWNED BY s.t.c",
    ) else {
        panic!()
    };
    let options = &sequence.options;
    assert_eq!(
        (options.start, options.increment, options.min, options.max),
        (Some(5), Some(-2), None, Some(9))
    );
    assert_eq!(
        options.owned_by.as_ref().map(|(table, column)| (table.name.as_str(), column.as_str())),
        Some(("t", "c"))
    );
    assert_eq!(options.to_string(), "AS smallint START WITH 5 INCREMENT BY -2 MAXVALUE 9 CYCLE");

    let Statement::CreateIndex(index) = one(
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.t USING btree (\"A\" DESC NULLS LAST, lower(b) text_pattern_ops) WHERE a > 1",
    ) else {
        panic!()
    };
    assert!(index.is_unique && index.if_not_exists);
    assert_eq!(index.keys[0].column.as_deref(), Some("A"));
    assert_eq!(index.keys[0].text, "\"A\" DESC NULLS LAST");
    assert_eq!(index.keys[1].column, None);

    // What is shown is what was said.
    for sql in [
        "CREATE TABLE t (\n    id BIGSERIAL NOT NULL,\n    b bigint GENERATED BY DEFAULT AS IDENTITY (START WITH 5) NOT NULL\n);",
        "CREATE SEQUENCE s START WITH 5;",
    ] {
        let shown = show_create(&one(sql)).unwrap();
        assert_eq!(shown, sql);
        assert_eq!(show_create(&one(&shown)).unwrap(), shown);
    }
    assert_eq!(error("CREATE SEQUENCE s INCREMENT 0"), "22023: INCREMENT must not be zero @29");
    assert_eq!(
        error("CREATE TABLE t (a TEXT GENERATED ALWAYS AS IDENTITY)"),
        "22023: identity column type must be smallint, integer, or bigint @17"
    );
    assert_eq!(
        error("CREATE TABLE t (a SERIAL DEFAULT 1)"),
        "42601: both default and SERIAL specified for column \"a\" @17"
    );
}

#[test]
fn roles() {
    let Statement::CreateRole(create) = one(
        "CREATE USER \"Ann\" WITH SUPERUSER NOINHERIT ENCRYPTED PASSWORD 'p' CONNECTION LIMIT -1 VALID UNTIL '2030-01-01' \
         IN ROLE a, b ADMIN c",
    ) else {
        panic!()
    };
    assert!(create.can_login && create.name.value == "Ann");
    let options = create.options;
    assert_eq!((options.superuser, options.inherit, options.login), (Some(true), Some(false), None));
    assert_eq!(options.password, Some(Some(Password("p".into()))));
    assert_eq!(options.connection_limit, Some(None));
    assert_eq!(options.valid_until.map(|(text, _)| text).as_deref(), Some("2030-01-01"));
    assert_eq!((options.in_roles.len(), options.admins.len()), (2, 1));
    let Statement::AlterRole(alter) = one("ALTER ROLE CURRENT_USER PASSWORD NULL") else { panic!() };
    assert_eq!(alter.role, RoleName::CurrentUser);
    assert!(matches!(alter.action, AlterRoleAction::Options(options) if options.password == Some(None)));
    let Statement::AlterRole(alter) = one("ALTER USER a RENAME TO b") else { panic!() };
    assert!(matches!(alter.action, AlterRoleAction::RenameTo(to) if to.value == "b"));
    assert!(
        matches!(one("DROP ROLE IF EXISTS a, b"), Statement::DropRole(drop) if drop.if_exists && drop.names.len() == 2)
    );
    assert!(
        matches!(one("REASSIGN OWNED BY a, CURRENT_USER TO b"), Statement::ReassignOwned(r) if r.from.len() == 2)
    );
    // What has such a name is still a table.
    assert!(matches!(one("DROP TABLE role"), Statement::Drop(_)));
}

#[test]
fn grants() {
    let granted = |sql: &str| match one(sql) {
        Statement::GrantPrivileges(grant) => grant,
        other => panic!("{sql}: {other:?}"),
    };
    let grant = granted("GRANT SELECT, insert ON a, s.b TO PUBLIC, GROUP c, CURRENT_USER WITH GRANT OPTION");
    let words: Vec<String> = grant.privileges.unwrap().into_iter().map(|(word, _)| word).collect();
    assert_eq!(words, ["SELECT", "INSERT"]);
    assert!(!grant.is_revoke && grant.grant_option && grant.to.len() == 3);
    assert!(matches!(grant.on, GrantOn::Relations { kind: None, names } if names.len() == 2));
    let grant = granted("REVOKE GRANT OPTION FOR ALL PRIVILEGES ON MATERIALIZED VIEW p FROM a CASCADE");
    assert!(grant.is_revoke && grant.grant_option && grant.cascade && grant.privileges.is_none());
    assert!(matches!(grant.on, GrantOn::Relations { kind: Some(ObjectKind::Pipeline), .. }));
    assert!(
        matches!(granted("GRANT USAGE, CREATE ON SCHEMA s, t TO a").on, GrantOn::Schemas(names) if names.len() == 2)
    );
    assert!(matches!(granted("GRANT CONNECT ON DATABASE tidemill TO a").on, GrantOn::Databases(_)));
    let all = granted("GRANT SELECT ON ALL PIPELINES IN SCHEMA s TO a").on;
    assert!(matches!(all, GrantOn::AllInSchema { kind: Some(ObjectKind::Pipeline), .. }));
    // A relation may be called like a kind.
    assert!(matches!(granted("GRANT SELECT ON source TO a").on, GrantOn::Relations { kind: None, .. }));
    let Statement::GrantRoles(grant) = one("GRANT a, \"B\" TO c WITH ADMIN OPTION") else { panic!() };
    assert!(grant.admin_option && grant.roles.len() == 2);
    let Statement::GrantRoles(grant) = one("REVOKE ADMIN OPTION FOR a FROM c") else { panic!() };
    assert!(grant.is_revoke && grant.admin_option);
    for (sql, expected) in [
        (
            "GRANT SELECT (a) ON t TO b",
            "0A000: a privilege on some columns is not supported @7 HINT: Grant it on a view that has only these columns.",
        ),
        ("GRANT SELECT ON FUNCTION f TO b", "0A000: GRANT ON FUNCTION is not supported @17"),
        ("GRANT SELECT ON t b", "42601: syntax error at or near \"b\" @19"),
        (
            "GRANT a TO b WITH INHERIT TRUE",
            "0A000: GRANT … WITH INHERIT or SET is not supported @19 HINT: Whether a role inherits is said once for all: ALTER ROLE … NOINHERIT.",
        ),
        ("CREATE ROLE a LOGIN NOLOGIN", "42601: conflicting or redundant options @21"),
        ("CREATE ROLE a PASSWORD x", "42601: syntax error at or near \"x\" @24"),
        ("CREATE ROLE a REPLICATION", "0A000: a role with REPLICATION is not supported @15"),
        (
            "ALTER ROLE a SET search_path = b",
            "0A000: ALTER ROLE … SET is not supported @14 HINT: Settings belong to a session: SET them when it starts, or in the connection string's options.",
        ),
    ] {
        assert_eq!(error(sql), expected, "{sql}");
    }
}

#[test]
fn definitions_are_checked() {
    for (sql, expected) in [
        ("CREATE TABLE t (a INT, A TEXT)", "42701: column \"a\" specified more than once @24"),
        (
            "CREATE TABLE t (a INT PRIMARY KEY, PRIMARY KEY (a))",
            "42P16: multiple primary keys are not allowed @36 HINT: A key of several columns is written PRIMARY KEY (a, b) behind the columns.",
        ),
        (
            "CREATE TABLE t (id INT, PRIMARY KEY (ids))",
            "42703: column \"ids\" named in key does not exist @16 HINT: Perhaps you meant \"id\".",
        ),
        (
            "CREATE TABLE t (a INT NOT NULL NULL)",
            "42601: conflicting NULL/NOT NULL declarations for column \"a\" @17",
        ),
        (
            "CREATE TABLE t (a INTEGR)",
            "42704: type \"integr\" does not exist @19 HINT: Did you mean integer?",
        ),
        (
            "CREATE SOURCE s (ts TIMESTAMP, WATERMARK FOR tss AS tss) WITH (connector='x')",
            "42703: column \"tss\" named in watermark does not exist @46 HINT: Perhaps you meant \"ts\".",
        ),
        (
            "CREATE SOURCE s (key INT) INCLUDE KEY WITH (connector='x')",
            "42701: column \"key\" specified more than once @35 HINT: Give the included column another name with AS.",
        ),
        (
            "CREATE SOURCE s (a INT) INCLUDE OFSET WITH (connector='x')",
            "42601: syntax error at or near \"OFSET\" @33 HINT: Did you mean OFFSET?",
        ),
        (
            "CREATE SINK s FROM p",
            "22023: sink \"s\" has no connector @13 HINT: Say where to write: WITH (connector = 'file', path = '…').",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = 'kafka')",
            "42809: a table has no connector @30 HINT: CREATE SOURCE reads from a connector; CREATE SINK writes to one.",
        ),
        (
            "CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1",
            "42601: OR REPLACE and IF NOT EXISTS exclude each other @19",
        ),
        (
            "EXPLAIN (STAT) SELECT 1",
            "42601: unrecognized EXPLAIN option \"stat\" @10 HINT: Did you mean STATE?",
        ),
        (
            "SUBSCRIBE TO p WITH (SNAPSHT)",
            "22023: unrecognized SUBSCRIBE option \"snapsht\" @22 HINT: Did you mean SNAPSHOT?",
        ),
    ] {
        assert_eq!(error(sql), expected, "{sql}");
    }
}

#[test]
fn texts_are_cut_at_semicolons_that_mean_it() {
    let sql =
        "SELECT ';' ; -- ;\n /* ; /* ; */ ; */ SELECT $$;$$, $a$ ; $$ ; $a$;;\n\tSELECT \"a;b\" -- end\n";
    let parts = split_statements(sql).unwrap();
    let texts: Vec<&str> = parts.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["SELECT ';'", "SELECT $$;$$, $a$ ; $$ ; $a$", "SELECT \"a;b\""]);
    for (offset, text) in parts {
        assert!(sql.chars().skip(offset).collect::<String>().starts_with(&text));
    }
    let parsed = parse("SELECT 'é'; SELECT 2").unwrap();
    assert_eq!((parsed[1].sql.as_str(), parsed[1].offset), ("SELECT 2", 12));
    assert_eq!(
        parse_one("SELECT 1; SELECT 2").unwrap_err().to_string(),
        "cannot insert multiple commands into a prepared statement"
    );
    assert!(parse("").unwrap().is_empty());
}

#[test]
fn spans_count_from_the_statement_itself() {
    use datafusion::sql::sqlparser::ast::Spanned;
    let parsed = parse("SELECT 1;  SELECT aa,\n bb").unwrap().remove(1);
    let Statement::Query(select) = parsed.statement else { panic!() };
    let start = select.query.span().start;
    assert_eq!((start.line, start.column), (1, 1));
}

/// Definitions of every kind, in every form that prints differently.
const DEFINITIONS: [&str; 14] = [
    SOURCE,
    "CREATE SOURCE s WITH (connector = 'file', path = '/x', api_key = 'k')",
    "CREATE TABLE t (a INT PRIMARY KEY, \"select\" struct<x int, y text[]> DEFAULT NULL, u uuid)",
    "CREATE TABLE t (a, b) AS SELECT 1, 2",
    "CREATE OR REPLACE PIPELINE p (a) WITH (\"Odd key\" = 'it''s') AS SELECT 1 EMIT ON WINDOW CLOSE",
    "CREATE PIPELINE p WITH (ttl = '1 day', ttl.x = 'none') AS SELECT 1 EMIT EVERY INTERVAL '90' SECOND",
    "CREATE PIPELINE p AS SELECT 1 EMIT ON WINDOW CLOSE WITH EARLY EVERY '1 hour 1 minute'",
    "CREATE VIEW s.v AS SELECT a -- why\n FROM t",
    "CREATE SINK k FROM s.p WITH (connector = 'kafka', secret.id = 'x') FORMAT UPSERT ENCODE JSON",
    "CREATE SOURCE s (a INT) WITH (connector = 'kafka', password = SECRET \"S\".pw, secret = secret) FORMAT PLAIN ENCODE JSON (token = SECRET t)",
    "CREATE SECRET IF NOT EXISTS s.pw AS 'x'",
    "CREATE OR REPLACE SECRET pw AS 'x'",
    "CREATE SINK k AS SELECT 1 AS a WITH (connector = 'print') EMIT ON WINDOW CLOSE",
    "CREATE SCHEMA \"S\"",
];

#[test]
fn shown_definitions_parse_to_the_same_and_keep_secrets() {
    for sql in DEFINITIONS {
        let shown = show_create(&one(sql)).unwrap();
        let again = show_create(&one(&shown)).unwrap();
        assert_eq!(shown, again, "{sql}");
    }
    let shown = show_create(&one(SOURCE)).unwrap();
    assert_eq!(
        shown,
        "CREATE SOURCE IF NOT EXISTS sales.\"Orders\" (
    id bigint NOT NULL,
    amount numeric(12,2),
    total double precision AS amount * 1.2 NOT NULL,
    ts timestamp with time zone,
    PRIMARY KEY (id),
    WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
)
INCLUDE KEY AS k
INCLUDE OFFSET
INCLUDE HEADER 'trace' AS trace
WITH (
    connector = 'kafka',
    topic = 'orders',
    properties.bootstrap.server = 'a:9092',
    properties.sasl.password = '[redacted]'
)
FORMAT PLAIN ENCODE JSON (
    timestamp.format = 'iso'
);"
    );
}

/// On the least stack that is promised to be enough.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(crate::parser::STACK_BYTES_MIN)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    on_a_small_stack(|| {
        for (open, close) in [
            ("(", ")"),
            ("(SELECT ", ")"),
            ("CASE WHEN ", " END"),
            ("- ", ""),
            ("NOT ", ""),
            ("f(", ")"),
            ("ARRAY[", "]"),
            ("{a: ", "}"),
            ("INTERVAL ", ""),
            ("CAST(", " AS INT)"),
            ("position(", ")"),
            ("EXISTS (SELECT ", ")"),
            ("a IN (SELECT ", ")"),
        ] {
            for n in [20, 60, 120, 5_000] {
                let sql = format!("SELECT {}1{}", open.repeat(n), close.repeat(n));
                let _ = parse(&sql);
            }
        }
        assert_eq!(
            parse(&format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000))).unwrap_err().sqlstate(),
            SqlState("54001")
        );
        for (open, close) in [("(", ")"), ("(SELECT * FROM ", ") a"), ("a JOIN (", " ON x)")] {
            for n in [10, 60, 5_000] {
                let _ = parse(&format!("SELECT * FROM {}t{}", open.repeat(n), close.repeat(n)));
            }
        }
        for (open, close) in [("ARRAY<", ">"), ("STRUCT<a ", ">"), ("MAP<int, ", ">"), ("", "[]")] {
            let _ = parse(&format!("SELECT CAST(1 AS {}int{})", open.repeat(5_000), close.repeat(5_000)));
        }
        for (open, close) in [
            ("WITH a AS (", ") SELECT 1"),
            ("EXPLAIN ", ""),
            ("PREPARE a AS ", ""),
            ("SELECT 1 WHERE a IN (", ")"),
            ("GROUPING SETS (", ")"),
            ("SELECT * FROM unnest(", ")"),
        ] {
            let _ = parse(&format!("{}SELECT 1{}", open.repeat(5_000), close.repeat(5_000)));
        }
        for (open, close) in [("struct<a ", ">"), ("row(a ", ")"), ("map<text, ", ">"), ("array<", ">")] {
            let sql = format!("CREATE TABLE t (a {}int{})", open.repeat(5_000), close.repeat(5_000));
            assert_eq!(parse(&sql).unwrap_err().sqlstate(), SqlState("54001"), "{open}");
        }
        // As deep as it goes, and what was read is cloned and dropped.
        for n in (1..100).rev() {
            if let Ok(parsed) = parse(&format!("SELECT {}1{}", "(SELECT ".repeat(n), ")".repeat(n))) {
                assert!(n >= 20);
                drop(parsed.clone());
                break;
            }
        }
    });
}

#[test]
fn ambiguous_nesting_takes_no_exponential_time() {
    on_a_small_stack(|| {
        // Twenty calls inside each other are read; the rest is refused, at once.
        assert!(parse(&format!("SELECT {}1{}", "f(".repeat(20), ")".repeat(20))).is_ok());
        let started = std::time::Instant::now();
        for (open, close) in
            [("position(", ")"), ("CASE WHEN ", " END"), ("f(a => ", ")"), ("((SELECT * FROM ", ") a)")]
        {
            let _ = parse(&format!("SELECT {}1{}", open.repeat(40), close.repeat(40)));
            let _ = parse(&format!("SELECT * FROM {}1{}", open.repeat(40), close.repeat(40)));
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
    });
}

#[test]
fn long_chains_are_bounded_and_long_lists_are_not() {
    on_a_small_stack(|| {
        for operator in [" OR ", " + ", " AND ", " || ", "::int::", " IS NULL IS "] {
            let sql = format!("SELECT {}a", format!("a{operator}").repeat(100_000));
            assert_eq!(parse(&sql).unwrap_err().sqlstate(), SqlState("54001"), "{operator}");
        }
        let unions = "SELECT 1 UNION ALL ".repeat(50_000) + "SELECT 1";
        assert_eq!(parse(&unions).unwrap_err().sqlstate(), SqlState("54001"));
        let _ = parse(&format!("SELECT a{}", "[1]".repeat(50_000)));
        let _ = parse(&format!("SELECT a{}", ".b".repeat(50_000)));
        // What fits is parsed, cloned and dropped within the stack.
        let parsed = parse(&format!("SELECT {}a", "a OR ".repeat(900))).unwrap();
        drop(parsed.clone());
        let unions = parse(&("SELECT 1 UNION ALL ".repeat(900) + "SELECT 1")).unwrap();
        drop(unions.clone());
        let list = (0..50_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        assert!(parse(&format!("SELECT a IN ({list})")).is_ok());
        let rows = (0..20_000).map(|n| format!("({n}, -1, 'x')")).collect::<Vec<_>>().join(", ");
        assert!(parse(&format!("INSERT INTO t VALUES {rows}")).is_ok());
    });
}

/// Statements to be spoiled.
const VALID: [&str; 31] = [
    SOURCE,
    "CREATE TABLE t (a struct<b int[], c map<text, numeric(3,1)>> DEFAULT 'x' NOT NULL, PRIMARY KEY (a))",
    "CREATE PIPELINE p (a) WITH (x = -1) AS SELECT count(*) FILTER (WHERE a > 1) OVER (PARTITION BY b) FROM t EMIT ON WINDOW CLOSE",
    "CREATE SINK s AS SELECT $$é$$ FROM t WITH (connector = 'print') FORMAT PLAIN ENCODE JSON (a = 1)",
    "SELECT a, \"B\"::int, E'\\n', INTERVAL '1 day' FROM t AS x LEFT JOIN u USING (a) WHERE a IN (1, 2) GROUP BY 1 ORDER BY 2 LIMIT 3;",
    "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT * FROM r",
    "INSERT INTO s.t (a, b) VALUES (1, 'é'), (DEFAULT, NULL) RETURNING *",
    "UPDATE t SET a = 1 FROM u WHERE t.b = u.b RETURNING a",
    "DELETE FROM t USING u WHERE t.a = u.a",
    "COPY t (a) FROM STDIN WITH (FORMAT csv, HEADER true, DELIMITER ';', FORCE_QUOTE (a))",
    "COPY (SELECT 1) TO STDOUT CSV HEADER",
    "DECLARE c BINARY CURSOR WITH HOLD FOR SUBSCRIBE TO p WITH (PROGRESS) AS OF 3",
    "FETCH FORWARD 10 FROM c WITH (TIMEOUT = '1s')",
    "EXPLAIN (STATE, FORMAT JSON) CREATE PIPELINE p AS SELECT 1",
    "SHOW MATERIALIZED VIEWS FROM s LIKE 'a%'",
    "SET LOCAL TIME ZONE INTERVAL '1' HOUR TO MINUTE",
    "SET search_path = a, 'b'",
    "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
    "PREPARE q (int) AS SELECT $1",
    "EXECUTE q (1, 'a')",
    "COMMENT ON COLUMN s.t.c IS 'x'",
    "ALTER SOURCE IF EXISTS a RENAME TO b",
    "ALTER MATERIALIZED VIEW p PAUSE; ALTER SINK IF EXISTS k RESTART; ALTER SOURCE s SET (rate = '10', a.b = c)",
    "ALTER PIPELINE p RESET (memory_limit, x.y)",
    "DROP PIPELINE IF EXISTS a, b.c CASCADE",
    "CREATE ROLE a WITH LOGIN NOINHERIT PASSWORD 'x' CONNECTION LIMIT -1 VALID UNTIL 'infinity' IN ROLE b, c ADMIN d",
    "ALTER ROLE CURRENT_USER PASSWORD NULL; DROP USER IF EXISTS a, b; DROP OWNED BY a CASCADE",
    "GRANT SELECT, INSERT ON MATERIALIZED VIEW a, s.b TO PUBLIC, GROUP c WITH GRANT OPTION",
    "REVOKE GRANT OPTION FOR ALL PRIVILEGES ON ALL TABLES IN SCHEMA s FROM a CASCADE; GRANT a TO b WITH ADMIN OPTION",
    "ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s REVOKE ALL ON TABLES FROM b; REASSIGN OWNED BY a TO b",
    "LOCK TABLE a IN SHARE ROW EXCLUSIVE MODE; VACUUM (FULL) t; NOTIFY a, 'b'",
];

/// Whatever the text, the answer is statements or an error that points into the text.
fn check(sql: &str) {
    match parse(sql) {
        Ok(parsed) => parsed.iter().for_each(|parsed| {
            let _ = show_create(&parsed.statement);
            let _ = redact(&parsed.sql);
        }),
        Err(error) => {
            assert!(
                error.position().is_none_or(|position| (1..=sql.chars().count() + 1).contains(&position)),
                "{error:?} in {sql:?}"
            );
            assert!(!error.to_string().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_tokens_never_panic(idxs in prop::collection::vec((0..VALID.len(), 0usize..40), 0..40)) {
        let words = idxs.iter().filter_map(|(statement, word)| VALID[*statement].split_inclusive([' ', '(', ')', ',']).nth(*word));
        check(&words.collect::<String>());
    }

    #[test]
    fn spoiled_statements_never_panic(
        statement in 0..VALID.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..3, any::<char>()), 1..6),
    ) {
        let mut chars: Vec<char> = VALID[statement].chars().collect();
        for (idx, edit, char) in edits {
            let idx = idx.index(chars.len().max(1)).min(chars.len().saturating_sub(1));
            match edit {
                0 if !chars.is_empty() => drop(chars.remove(idx)),
                1 => chars.insert(idx, char),
                _ => chars.truncate(idx),
            }
        }
        check(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn every_statement_to_be_spoiled_is_valid() {
    for sql in VALID {
        assert!(parse(sql).is_ok(), "{sql}: {:?}", parse(sql));
    }
}
