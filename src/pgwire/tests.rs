//! The wire, driven by real clients over real sockets; the session behind it is a puppet.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::{BufMut, Bytes, BytesMut};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use tidemill_core::SqlState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use crate::pgwire::copy::{CopyFormat, CopyOptions};
use crate::pgwire::server::{Server, ServerConfig};
use crate::session::api::*;

// ---- The puppet ----------------------------------------------------------------------------

#[derive(Default)]
struct World {
    /// Lets the stream of `tail` go on.
    go_on: Notify,
    n_streams_alive: AtomicUsize,
    n_sessions_closed: AtomicUsize,
    copied: Mutex<Vec<RecordBatch>>,
    log: Mutex<Vec<String>>,
}

struct Factory(Arc<World>);

impl SessionFactory for Factory {
    fn connect(&self, startup: StartupParams) -> BoxFuture<'_, Result<Box<dyn SessionApi>, SqlError>> {
        Box::pin(async move {
            if startup.database != "tidemill" {
                let message = format!("database \"{}\" does not exist", startup.database);
                return Err(SqlError::new(SqlState::UNDEFINED_DATABASE, message));
            }
            let changes = startup.options.into_iter().filter(|(name, _)| name == "TimeZone");
            let puppet: Box<dyn SessionApi> = Box::new(Puppet {
                world: Arc::clone(&self.0),
                status: TransactionStatus::Idle,
                notices: Vec::new(),
                changes: changes.collect(),
                timeout: None,
            });
            Ok(puppet)
        })
    }
}

struct Puppet {
    world: Arc<World>,
    status: TransactionStatus,
    notices: Vec<Notice>,
    changes: Vec<(String, String)>,
    timeout: Option<Duration>,
}

fn two_columns() -> SchemaRef {
    let fields = vec![Field::new("n", DataType::Int32, true), Field::new("name", DataType::Utf8, true)];
    Arc::new(Schema::new(fields))
}

fn numbered(range: std::ops::Range<i32>) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(range.clone()));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(range.map(|n| format!("row {n}"))));
    RecordBatch::try_new(two_columns(), vec![numbers, names]).unwrap()
}

/// Counts the streams that live.
struct Alive(Arc<World>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.n_streams_alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Puppet {
    fn rows(
        &self,
        batches: impl futures::Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    ) -> SendableRecordBatchStream {
        self.world.n_streams_alive.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(Arc::clone(&self.world));
        let batches = batches.inspect(move |_| {
            let _ = &alive;
        });
        Box::pin(RecordBatchStreamAdapter::new(two_columns(), batches))
    }
}

impl SessionApi for Puppet {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        if let Some(at) = sql.find("syntax") {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at or near \"syntax\"")
                .with_position(at + 1));
        }
        let statements = sql.split(';').map(str::trim).filter(|sql| !sql.is_empty());
        Ok(statements.map(|sql| Parsed::new(sql, sql.to_owned())).collect())
    }

    fn describe<'a>(
        &'a mut self,
        statement: &'a Parsed,
        params: &'a [Option<PgType>],
    ) -> BoxFuture<'a, Result<Described, SqlError>> {
        Box::pin(async move {
            let sql = statement.statement::<String>().unwrap();
            if let Some(types) = sql.strip_prefix("echo ") {
                let types = types.split(' ').enumerate().map(|(n, name)| {
                    let inferred = tokio_type(name);
                    params.get(n).cloned().flatten().unwrap_or(inferred)
                });
                let types: Vec<PgType> = types.collect();
                let fields = types.iter().map(|pg| {
                    let data_type = crate::pgwire::types::arrow_type(pg);
                    let field = Field::new("v", data_type.unwrap_or(DataType::Decimal128(38, 2)), true);
                    field.with_metadata([("pg_type".to_owned(), pg.name().to_owned())].into())
                });
                let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                return Ok(Described { params: types, columns: Some(columns) });
            }
            let has_rows = ["rows", "tail", "endless", "midway", "other"];
            let has_rows = has_rows.iter().any(|word| sql.starts_with(word));
            Ok(Described { params: Vec::new(), columns: has_rows.then(two_columns) })
        })
    }

    fn execute<'a>(
        &'a mut self,
        statement: &'a Parsed,
        params: Vec<ScalarValue>,
        _cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Response, SqlError>> {
        Box::pin(async move {
            self.world.log.lock().unwrap().push(statement.sql().to_owned());
            let (word, rest) = statement.sql().split_once(' ').unwrap_or((statement.sql(), ""));
            let command = |tag: &str| Ok(Response::Command { tag: tag.to_owned() });
            let select = |rows| Ok(Response::Rows { schema: two_columns(), rows, tag: RowsTag::SELECT });
            match word {
                "rows" => {
                    let n: i32 = rest.parse().unwrap();
                    let batches = (0..n).step_by(1000).map(move |at| Ok(numbered(at..n.min(at + 1000))));
                    select(self.rows(stream::iter(batches)))
                }
                "tail" => {
                    let world = Arc::clone(&self.world);
                    let rest = stream::once(async move {
                        world.go_on.notified().await;
                        Ok(numbered(1..2))
                    });
                    select(self.rows(stream::iter([Ok(numbered(0..1))]).chain(rest)))
                }
                "endless" => {
                    let batches = stream::iter([Ok(numbered(0..1))]).chain(stream::pending());
                    select(self.rows(batches))
                }
                "flood" => select(self.rows(stream::repeat_with(|| Ok(numbered(0..1000))))),
                "midway" => {
                    let error = SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero");
                    let error = DataFusionError::External(Box::new(error)).context("somewhere");
                    select(self.rows(stream::iter([Ok(numbered(0..1)), Err(error)])))
                }
                "other" => {
                    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
                    let rows = RecordBatchStreamAdapter::new(Arc::clone(&schema), stream::empty());
                    Ok(Response::Rows { schema, rows: Box::pin(rows), tag: RowsTag::SELECT })
                }
                "echo" => {
                    let described = self.describe(statement, &[]).await?;
                    let schema = described.columns.unwrap();
                    let fields: Vec<Field> = schema
                        .fields()
                        .iter()
                        .zip(&params)
                        .map(|(field, value)| field.as_ref().clone().with_data_type(value.data_type()))
                        .collect();
                    let schema = Arc::new(Schema::new(fields));
                    let columns = params.iter().map(|value| value.to_array().unwrap()).collect();
                    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
                    let rows = RecordBatchStreamAdapter::new(Arc::clone(&schema), stream::iter([Ok(batch)]));
                    Ok(Response::Rows { schema, rows: Box::pin(rows), tag: RowsTag::SELECT })
                }
                "hang" => std::future::pending().await,
                "fail" => Err(SqlError::new(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist")
                    .with_position(6)
                    .with_detail("There are none.")
                    .with_hint("Did you mean \"y\"?")),
                "panic" => panic!("the puppet's strings are tangled"),
                "begin" | "BEGIN" | "START" => {
                    self.status = TransactionStatus::Transaction;
                    command("BEGIN")
                }
                "commit" | "COMMIT" | "ROLLBACK" => {
                    self.status = TransactionStatus::Idle;
                    command("COMMIT")
                }
                "notice" => {
                    self.notices.push(Notice::new("take note"));
                    command("NOTICE")
                }
                "zone" => {
                    self.changes.push(("TimeZone".to_owned(), rest.to_owned()));
                    command("SET")
                }
                "timeout" => {
                    self.timeout = Some(Duration::from_millis(rest.parse().unwrap()));
                    command("SET")
                }
                "copy_out" => {
                    let batches = (0..3).map(|n| Ok(numbered(n..n + 1)));
                    Ok(Response::CopyOut { rows: self.rows(stream::iter(batches)), options: copy(rest) })
                }
                // psql sends its input only when it has sent a COPY itself.
                "copy_in" | "COPY" => Ok(Response::CopyIn {
                    schema: two_columns(),
                    options: copy(rest.strip_prefix("t FROM STDIN WITH ").unwrap_or(rest)),
                    sink: Box::new(Collector { world: Arc::clone(&self.world), rows: Vec::new() }),
                }),
                _ => command("DONE"),
            }
        })
    }

    fn status(&self) -> TransactionStatus {
        self.status
    }

    fn failed(&mut self, error: &SqlError) {
        self.world.log.lock().unwrap().push(format!("failed {}", error.sqlstate));
        if self.status == TransactionStatus::Transaction {
            self.status = TransactionStatus::Error;
        }
    }

    fn end_of_request(&mut self) -> BoxFuture<'_, Result<(), SqlError>> {
        Box::pin(async move {
            self.world.log.lock().unwrap().push("end".to_owned());
            Ok(())
        })
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.world.n_sessions_closed.fetch_add(1, Ordering::SeqCst);
        })
    }
}

fn tokio_type(name: &str) -> PgType {
    let types = [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::TEXT,
        Type::VARCHAR,
        Type::NUMERIC,
        Type::BYTEA,
        Type::JSON,
        Type::JSONB,
        Type::UUID,
        Type::INT4_ARRAY,
        Type::TEXT_ARRAY,
    ];
    types.into_iter().find(|pg| pg.name() == name).unwrap()
}

fn copy(format: &str) -> CopyOptions {
    match format {
        "csv" => CopyOptions::csv(),
        "binary" => CopyOptions::binary(),
        _ => CopyOptions::text(),
    }
}

struct Collector {
    world: Arc<World>,
    rows: Vec<RecordBatch>,
}

impl CopyInSink for Collector {
    fn write(&mut self, rows: RecordBatch) -> BoxFuture<'_, Result<(), SqlError>> {
        Box::pin(async move {
            self.rows.push(rows);
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<u64, SqlError>> {
        Box::pin(async move {
            let n_rows = self.rows.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
            self.world.copied.lock().unwrap().extend(self.rows);
            Ok(n_rows)
        })
    }
}

// ---- The stage -----------------------------------------------------------------------------

struct Stage {
    address: SocketAddr,
    world: Arc<World>,
    connections: Arc<Connections>,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

async fn stage_for(n_connections_max: usize) -> Stage {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = Arc::new(World::default());
    let shutdown = CancellationToken::new();
    let config = ServerConfig { n_connections_max, ..ServerConfig::default() };
    let server = Server::new(config, Arc::new(Factory(Arc::clone(&world))), shutdown.clone());
    let connections = server.connections();
    let server = tokio::spawn(server.serve(listener));
    Stage { address, world, connections, shutdown, server }
}

async fn stage() -> Stage {
    stage_for(10).await
}

impl Stage {
    fn url(&self) -> String {
        format!("postgres://me@{}/tidemill", self.address)
    }

    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn psql(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new("psql");
        command.args(["-X", "-At", "-d", &self.url()]).args(args);
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            use std::process::Stdio;
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = child.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }

    /// Waits for what happens in other tasks; fails when it does not.
    async fn until(&self, what: &str, condition: impl Fn(&Stage) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn state(error: &tokio_postgres::Error) -> &str {
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).code().code()
}

fn summary(messages: &[SimpleQueryMessage]) -> Vec<String> {
    messages
        .iter()
        .map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                format!("{}|{}", row.get(0).unwrap(), row.get(1).unwrap())
            }
            SimpleQueryMessage::CommandComplete(n) => format!("complete {n}"),
            SimpleQueryMessage::RowDescription(columns) => format!("{} columns", columns.len()),
            _ => "?".to_owned(),
        })
        .collect()
}

// ---- Simple protocol -----------------------------------------------------------------------

#[tokio::test]
async fn simple_query_of_several_statements() {
    let stage = stage().await;
    let client = stage.client().await;
    let messages = client.simple_query("rows 2; nothing; rows 0").await.unwrap();
    assert_eq!(
        summary(&messages),
        ["2 columns", "0|row 0", "1|row 1", "complete 2", "complete 0", "2 columns", "complete 0"]
    );
    // The request ends once, before its last answer.
    assert_eq!(*stage.world.log.lock().unwrap(), ["rows 2", "nothing", "rows 0", "end"]);
    let messages = client.simple_query(" ; ").await.unwrap();
    assert_eq!(summary(&messages), ["complete 0"]);
}

#[tokio::test]
async fn failing_statement_stops_the_rest_and_keeps_what_was_answered() {
    let stage = stage().await;
    let output = stage.psql(&["-c", "rows 1; fail; rows 2"], "").await;
    // psql shows the answers before the error.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0|row 0\n");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("ERROR:  relation \"x\" does not exist"), "{stderr}");
    assert!(stderr.contains("HINT:  Did you mean \"y\"?"), "{stderr}");
    assert_eq!(*stage.world.log.lock().unwrap(), ["rows 1", "fail", "failed 42P01", "end"]);
}

#[tokio::test]
async fn error_carries_all_its_parts() {
    let stage = stage().await;
    let client = stage.client().await;
    let error = client.simple_query("fail").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42P01");
    assert_eq!(error.severity(), "ERROR");
    assert_eq!(error.detail(), Some("There are none."));
    assert_eq!(error.hint(), Some("Did you mean \"y\"?"));
    assert_eq!(error.position(), Some(&tokio_postgres::error::ErrorPosition::Original(6)));
    let error = client.simple_query("a syntax").await.unwrap_err();
    assert_eq!(state(&error), "42601");
    client.simple_query("rows 1").await.unwrap();
}

#[tokio::test]
async fn error_in_the_stream_comes_after_its_rows() {
    let stage = stage().await;
    let client = stage.client().await;
    let rows = client.simple_query_raw("midway").await.unwrap();
    let (mut n_rows, mut error) = (0, None);
    let mut rows = std::pin::pin!(rows);
    while let Some(message) = rows.next().await {
        match message {
            Ok(SimpleQueryMessage::Row(_)) => n_rows += 1,
            Ok(_) => (),
            Err(e) => error = Some(e),
        }
    }
    assert_eq!((n_rows, state(&error.unwrap())), (1, "22012"));
    client.simple_query("rows 1").await.unwrap();
}

#[tokio::test]
async fn rows_are_seen_while_the_stream_waits() {
    let stage = stage().await;
    let client = stage.client().await;
    let mut rows = std::pin::pin!(client.query_raw("tail", &[] as &[&i32]).await.unwrap());
    // The stream has not ended: the first row must not wait for it.
    let first = timeout(Duration::from_secs(5), rows.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.get::<_, i32>(0), 0);
    stage.world.go_on.notify_one();
    assert_eq!(rows.try_next().await.unwrap().unwrap().get::<_, &str>(1), "row 1");
    assert!(rows.try_next().await.unwrap().is_none());
}

// ---- Ends of statements --------------------------------------------------------------------

#[tokio::test]
async fn cancel_ends_a_stream_and_an_execution() {
    let stage = stage().await;
    let client = stage.client().await;
    for sql in ["endless", "hang", "flood"] {
        let cancel = client.cancel_token();
        let running = client.simple_query(sql);
        let cancelling = async {
            stage.until("statement runs", |s| s.connections.list()[0].is_busy()).await;
            stage
                .until("stream runs", |s| {
                    sql == "hang" || s.world.n_streams_alive.load(Ordering::SeqCst) == 1
                })
                .await;
            cancel.cancel_query(NoTls).await.unwrap();
        };
        let (result, ()) = tokio::join!(running, cancelling);
        let error = result.unwrap_err();
        assert_eq!(state(&error), "57014", "{sql}");
        assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to user request");
        assert_eq!(stage.world.n_streams_alive.load(Ordering::SeqCst), 0);
    }
    // Now nothing runs, so it must not hit what comes.
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    client.simple_query("rows 1").await.unwrap();
}

#[tokio::test]
async fn cancel_needs_the_secret() {
    let stage = stage().await;
    let client = stage.client().await;
    let backend = stage.connections.list().remove(0);
    let running = tokio::spawn(async move { client.simple_query("hang").await });
    stage.until("statement runs", |_| backend.is_busy()).await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    let mut request = BytesMut::new();
    for word in [16, 80_877_102, backend.pid, 12345] {
        request.put_i32(word);
    }
    socket.write_all(&request).await.unwrap();
    assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    assert!(backend.is_busy());
    assert!(stage.connections.cancel(backend.pid));
    assert_eq!(state(&running.await.unwrap().unwrap_err()), "57014");
}

#[tokio::test]
async fn statement_timeout_covers_execution_and_stream() {
    let stage = stage().await;
    let client = stage.client().await;
    client.simple_query("timeout 50").await.unwrap();
    for sql in ["endless", "hang"] {
        let error = client.simple_query(sql).await.unwrap_err();
        assert_eq!(state(&error), "57014");
        let message = error.as_db_error().unwrap().message();
        assert_eq!(message, "canceling statement due to statement timeout");
        let error = client.query("endless", &[]).await.unwrap_err();
        assert_eq!(state(&error), "57014");
    }
    client.simple_query("rows 1").await.unwrap();
}

#[tokio::test]
async fn client_that_idles_in_a_transaction_is_disconnected() {
    let stage = stage().await;
    let mut socket = startup(&stage, 0, &[]).await;
    read_until_ready(&mut socket).await;
    socket.write_all(b"Q\0\0\0\x16timeout 50; begin\0").await.unwrap();
    let mut answer = Vec::new();
    let all = timeout(Duration::from_secs(5), socket.read_to_end(&mut answer));
    all.await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("25P03"), "{answer:?}");
}

#[tokio::test]
async fn client_that_leaves_takes_its_stream_along() {
    let stage = stage().await;
    for sql in ["endless", "flood"] {
        let config: tokio_postgres::Config = stage.url().parse().unwrap();
        let (client, connection) = config.connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let running = tokio::spawn(async move { client.simple_query(sql).await });
        stage.until("stream runs", |s| s.world.n_streams_alive.load(Ordering::SeqCst) == 1).await;
        connection.abort();
        stage.until("stream dropped", |s| s.world.n_streams_alive.load(Ordering::SeqCst) == 0).await;
        stage.until("place is free", |s| s.connections.is_empty()).await;
        running.abort();
    }
    assert_eq!(stage.world.n_sessions_closed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn shutdown_ends_statements_and_idle_clients() {
    let stage = stage().await;
    let (busy, idle) = (stage.client().await, stage.client().await);
    let running = tokio::spawn(async move { busy.simple_query("endless").await });
    stage.until("stream runs", |s| s.world.n_streams_alive.load(Ordering::SeqCst) == 1).await;
    stage.shutdown.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(state(&error), "57P01");
    assert_eq!(error.as_db_error().unwrap().severity(), "FATAL");
    timeout(Duration::from_secs(5), stage.server).await.unwrap().unwrap();
    assert!(idle.simple_query("rows 1").await.is_err());
    assert_eq!(stage.world.n_sessions_closed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn panic_of_a_statement_is_its_connections_end_only() {
    let stage = stage().await;
    let (client, other) = (stage.client().await, stage.client().await);
    let error = client.simple_query("panic").await.unwrap_err();
    assert_eq!(state(&error), "XX000");
    other.simple_query("rows 1").await.unwrap();
    stage.until("place is free", |s| s.connections.len() == 1).await;
}

// ---- Extended protocol ---------------------------------------------------------------------

#[tokio::test]
async fn binary_rows_of_many_batches() {
    let stage = stage().await;
    let client = stage.client().await;
    let rows = client.query("rows 20500", &[]).await.unwrap();
    assert_eq!(rows.len(), 20_500);
    assert_eq!(rows[20_499].get::<_, i32>(0), 20_499);
    assert_eq!(rows[20_499].get::<_, &str>(1), "row 20499");
    assert_eq!(client.execute("rows 7", &[]).await.unwrap(), 7);
    assert_eq!(client.execute("nothing", &[]).await.unwrap(), 0);
}

#[tokio::test]
async fn parameters_come_back_as_they_went() {
    let stage = stage().await;
    let client = stage.client().await;
    let statement = client.prepare("echo bool int2 int4 int8 float4 float8 text bytea").await.unwrap();
    let params: [&(dyn ToSql + Sync); 8] =
        [&true, &-2i16, &3i32, &i64::MIN, &1.5f32, &-0.1f64, &"ä'\n", &&b"\x00\xff"[..]];
    let row = client.query_one(&statement, &params).await.unwrap();
    assert!(row.get::<_, bool>(0));
    assert_eq!(row.get::<_, i16>(1), -2);
    assert_eq!(row.get::<_, i32>(2), 3);
    assert_eq!(row.get::<_, i64>(3), i64::MIN);
    assert_eq!(row.get::<_, f32>(4), 1.5);
    assert_eq!(row.get::<_, f64>(5), -0.1);
    assert_eq!(row.get::<_, &str>(6), "ä'\n");
    assert_eq!(row.get::<_, &[u8]>(7), b"\x00\xff");

    let arrays = client.prepare("echo _int4 _text int8").await.unwrap();
    let params: [&(dyn ToSql + Sync); 3] = [&vec![Some(1), None], &vec!["a", ""], &None::<i64>];
    let row = client.query_one(&arrays, &params);
    let row = row.await.unwrap();
    assert_eq!(row.get::<_, Vec<Option<i32>>>(0), [Some(1), None]);
    assert_eq!(row.get::<_, Vec<&str>>(1), ["a", ""]);
    assert_eq!(row.get::<_, Option<i64>>(2), None);
    // The client's own type goes before what would be inferred.
    let typed = client.prepare_typed("echo int4", &[Type::INT8]).await.unwrap();
    assert_eq!(typed.params(), [Type::INT8]);
}

#[tokio::test]
async fn portal_gives_its_rows_in_portions() {
    let stage = stage().await;
    let mut client = stage.client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("rows 2500", &[]).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 999).await.unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() <= 999);
        seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert_eq!(seen, (0..2500).collect::<Vec<_>>());
    // One that is left halfway goes with its transaction.
    let half = transaction.bind("rows 2500", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&half, 1).await.unwrap().len(), 1);
    assert_eq!(stage.world.n_streams_alive.load(Ordering::SeqCst), 1);
    transaction.commit().await.unwrap();
    assert_eq!(stage.world.n_streams_alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn errors_of_the_extended_protocol_end_at_the_sync() {
    let stage = stage().await;
    let client = stage.client().await;
    let code = async |sql: &str| client.query(sql, &[]).await.map(|_| ()).unwrap_err();
    assert_eq!(state(&code("fail").await), "42P01");
    assert_eq!(state(&code("midway").await), "22012");
    assert_eq!(state(&code("syntax").await), "42601");
    assert_eq!(state(&code("nothing; nothing").await), "42601");
    assert_eq!(state(&code("other").await), "0A000");
    assert!(client.query("", &[]).await.unwrap().is_empty());
    assert_eq!(client.query("rows 3", &[]).await.unwrap().len(), 3);
    // Pipelined: each is answered, the failure in the middle hurts nobody else.
    let (first, second, third) =
        tokio::join!(client.query("rows 1", &[]), client.query("fail", &[]), client.query("rows 2", &[]));
    assert_eq!((first.unwrap().len(), third.unwrap().len()), (1, 2));
    assert_eq!(state(&second.unwrap_err()), "42P01");
}

// ---- COPY ----------------------------------------------------------------------------------

#[tokio::test]
async fn copy_out_in_all_formats() {
    let stage = stage().await;
    let client = stage.client().await;
    let all = async |sql: &str| {
        let bytes: Vec<Bytes> = client.copy_out(sql).await.unwrap().try_collect().await.unwrap();
        bytes.concat()
    };
    assert_eq!(all("copy_out text").await, b"0\trow 0\n1\trow 1\n2\trow 2\n");
    assert_eq!(all("copy_out csv").await, b"0,row 0\n1,row 1\n2,row 2\n");
    let stream = client.copy_out("copy_out binary").await.unwrap();
    let types = [Type::INT4, Type::TEXT];
    let rows: Vec<_> =
        tokio_postgres::binary_copy::BinaryCopyOutStream::new(stream, &types).try_collect().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<i32>(0)).collect::<Vec<_>>(), [0, 1, 2]);
    let output = stage.psql(&["-c", "copy_out csv"], "").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0,row 0\n1,row 1\n2,row 2\n");
}

#[tokio::test]
async fn copy_in_in_all_formats() {
    let stage = stage().await;
    let client = stage.client().await;
    for (sql, pieces) in [("copy_in text", ["0\tro", "w 0\n"]), ("copy_in csv", ["0,\"row", " 0\""])] {
        let mut sink = std::pin::pin!(client.copy_in(sql).await.unwrap());
        for piece in pieces {
            sink.send(Bytes::from(piece)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 1);
        assert_eq!(stage.world.copied.lock().unwrap().pop().unwrap(), numbered(0..1));
    }
    let sink = client.copy_in("copy_in binary").await.unwrap();
    let writer = tokio_postgres::binary_copy::BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]);
    let mut writer = std::pin::pin!(writer);
    writer.as_mut().write(&[&0i32, &"row 0"]).await.unwrap();
    assert_eq!(writer.finish().await.unwrap(), 1);
    assert_eq!(stage.world.copied.lock().unwrap().pop().unwrap(), numbered(0..1));

    let output = stage.psql(&["-c", "COPY t FROM STDIN WITH text"], "0\trow 0\n\\.\n").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "COPY 1\n", "{output:?}");
    assert_eq!(stage.world.copied.lock().unwrap().pop().unwrap(), numbered(0..1));
}

#[tokio::test]
async fn copy_in_that_fails_leaves_nothing() {
    let stage = stage().await;
    let client = stage.client().await;
    let mut sink = std::pin::pin!(client.copy_in("copy_in text").await.unwrap());
    sink.send(Bytes::from("0\trow 0\nx\ty\n")).await.unwrap();
    let error = sink.finish().await.unwrap_err();
    assert_eq!(state(&error), "22P02");
    assert_eq!(error.as_db_error().unwrap().detail(), Some("COPY line 2, column \"n\"."));
    // Dropped, the client says CopyFail.
    drop(client.copy_in::<_, Bytes>("copy_in text").await.unwrap());
    assert_eq!(client.query("rows 1", &[]).await.unwrap().len(), 1);
    let output = stage.psql(&["-c", "COPY t FROM STDIN WITH text"], "x\ty\n\\.\n").await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("invalid input syntax"), "{output:?}");
    assert!(stage.world.copied.lock().unwrap().is_empty());
    assert_eq!(CopyOptions::csv().format, CopyFormat::Csv);
}

// ---- Connecting ----------------------------------------------------------------------------

async fn refusal(stage: &Stage, database: &str) -> (String, String) {
    let url = format!("postgres://me@{}/{database}", stage.address);
    let error = tokio_postgres::connect(&url, NoTls).await.map(|_| ()).unwrap_err();
    (state(&error).to_owned(), error.as_db_error().unwrap().severity().to_owned())
}

#[tokio::test]
async fn connections_are_refused_with_a_reason() {
    let stage = stage_for(1).await;
    assert_eq!(refusal(&stage, "nowhere").await, ("3D000".into(), "FATAL".into()));
    let client = stage.client().await;
    assert_eq!(refusal(&stage, "tidemill").await, ("53300".into(), "FATAL".into()));
    drop(client);
    stage.until("place is free", |s| s.connections.is_empty()).await;
    stage.client().await.simple_query("rows 1").await.unwrap();
}

#[tokio::test]
async fn notices_and_settings_reach_the_client() {
    let stage = stage().await;
    let script = "notice;\nrows 1;\n\\echo :SERVER_VERSION_NAME\n\\conninfo\n";
    let output = stage.psql(&[], script).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(err.contains("NOTICE:  take note"), "{err}");
    assert!(out.starts_with("NOTICE\n0|row 0\n16.6\n"), "{out}");
    // `timezone` is among what libpq-like clients are told; raw, since tokio-postgres hides it.
    let mut socket = startup(&stage, 0, &[("options", "-c TimeZone=CET")]).await;
    let text = String::from_utf8_lossy(&read_until_ready(&mut socket).await).into_owned();
    assert!(text.contains("server_version\0"), "{text}");
    assert!(text.contains("TimeZone\0CET\0"), "{text}");
}

async fn startup(stage: &Stage, minor: i32, parameters: &[(&str, &str)]) -> TcpStream {
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    let mut message = BytesMut::new();
    message.put_i32(0);
    message.put_i32(3 << 16 | minor);
    for (name, value) in [("user", "me"), ("database", "tidemill")].iter().chain(parameters) {
        message.put_slice(format!("{name}\0{value}\0").as_bytes());
    }
    message.put_u8(0);
    let length = (message.len() as i32).to_be_bytes();
    message[..4].copy_from_slice(&length);
    socket.write_all(&message).await.unwrap();
    socket
}

async fn read_until_ready(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(b"Z\0\0\0\x05I") {
        let n = timeout(Duration::from_secs(5), socket.read_buf(&mut all)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {all:?}");
    }
    all
}

/// asyncpg sends its Sync only when it has seen what became of a Parse.
#[tokio::test]
async fn error_of_what_is_flushed_goes_out_without_a_sync() {
    let stage = stage().await;
    let mut socket = startup(&stage, 0, &[]).await;
    read_until_ready(&mut socket).await;
    // Describe a statement that there is not, and Flush.
    socket.write_all(b"D\0\0\0\x0aSnope\0H\0\0\0\x04").await.unwrap();
    let mut answer = Vec::with_capacity(4096);
    timeout(Duration::from_secs(5), socket.read_buf(&mut answer)).await.expect("it goes out").unwrap();
    assert!(answer.starts_with(b"E") && answer.windows(5).any(|window| window == b"26000"), "{answer:?}");
    // What follows is skipped until the Sync.
    socket.write_all(b"D\0\0\0\x0aSnope\0S\0\0\0\x04").await.unwrap();
    assert_eq!(read_until_ready(&mut socket).await, b"Z\0\0\0\x05I");
}

#[tokio::test]
async fn protocol_3_2_has_long_secrets_and_newer_ones_are_talked_down() {
    let stage = stage().await;
    let answer = read_until_ready(&mut startup(&stage, 2, &[]).await).await;
    // Type, length and pid, then 32 bytes of secret.
    assert!(answer.windows(5).any(|window| window == b"K\0\0\0\x28"), "{answer:?}");
    let answer = read_until_ready(&mut startup(&stage, 0, &[]).await).await;
    assert!(answer.windows(5).any(|window| window == b"K\0\0\0\x0c"), "{answer:?}");
    let answer = read_until_ready(&mut startup(&stage, 7, &[("_pq_.new", "1")]).await).await;
    let mut negotiation = b"v\0\0\0\x15\0\x03\0\x02\0\0\0\x01_pq_.new\0".to_vec();
    negotiation[4] = negotiation.len() as u8 - 1;
    assert!(answer.starts_with(&negotiation), "{answer:?}");
}

#[tokio::test]
async fn encryption_is_declined_and_nonsense_refused() {
    let stage = stage().await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    for code in [80_877_104, 80_877_103] {
        let mut request = BytesMut::new();
        request.put_i32(8);
        request.put_i32(code);
        socket.write_all(&request).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'N');
    }
    let mut answer = Vec::new();
    let mut old = TcpStream::connect(stage.address).await.unwrap();
    old.write_all(b"\0\0\0\x09\0\x02\0\0\0").await.unwrap();
    old.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("unsupported frontend protocol 2.0"));

    // A Bind whose counts promise more than it holds; pgwire's decoder alone would panic.
    let mut socket = startup(&stage, 0, &[]).await;
    read_until_ready(&mut socket).await;
    socket.write_all(b"B\0\0\0\x08\0\0\0\x01").await.unwrap();
    answer.clear();
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("08P01"));
}

#[tokio::test]
async fn text_of_another_encoding_is_an_error_of_its_statement() {
    let stage = stage().await;
    let mut socket = startup(&stage, 0, &[]).await;
    read_until_ready(&mut socket).await;
    socket.write_all(b"Q\0\0\0\x0arows\xe4\0").await.unwrap();
    let answer = read_until_ready(&mut socket).await;
    assert!(String::from_utf8_lossy(&answer).contains("22021"), "{answer:?}");
    socket.write_all(b"Q\0\0\0\x0brows 1\0").await.unwrap();
    assert!(String::from_utf8_lossy(&read_until_ready(&mut socket).await).contains("row 0"));
}

#[tokio::test]
async fn transaction_state_is_told() {
    let stage = stage().await;
    let mut socket = startup(&stage, 0, &[]).await;
    read_until_ready(&mut socket).await;
    socket.write_all(b"Q\0\0\0\x0abegin\0").await.unwrap();
    let mut answer = vec![0; 17];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T");
    socket.write_all(b"Q\0\0\0\x09fail\0").await.unwrap();
    answer.clear();
    while !answer.ends_with(b"Z\0\0\0\x05E") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0);
    }
}
