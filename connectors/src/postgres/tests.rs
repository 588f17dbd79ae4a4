//! Against a real PostgreSQL, which `tests/services/postgres.sh` starts; `TIDEMILL_TEST_OFFLINE=1` leaves out what needs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DurationMicrosecondArray,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, RecordBatch,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, IntervalMonthDayNano, Schema};
use tidemill_core::sink::{Refusals, Refused, SinkBatch, SinkWriter, Written};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Delta, Epoch, PG_TYPE};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::conformance;
use crate::declared::Declared;
use crate::postgres::config::PostgresSinkConfig;
use crate::registry::{create_sink, validate_sink};
use crate::spec::{Encode, Format};

/// A server of the test's own.
struct Postgres {
    directory: tempfile::TempDir,
    url: String,
}

fn script(action: &str, directory: &Path) -> std::process::Output {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/services/postgres.sh");
    Command::new("bash").arg(path).arg(action).arg(directory).output().expect("bash can be run")
}

impl Postgres {
    fn start() -> Option<Postgres> {
        if std::env::var("TIDEMILL_TEST_OFFLINE").is_ok_and(|value| value == "1") {
            println!("skipped: TIDEMILL_TEST_OFFLINE=1, and PostgreSQL may have to be installed");
            return None;
        }
        let mut postgres = Postgres { directory: tempfile::tempdir().unwrap(), url: String::new() };
        postgres.start_again();
        Some(postgres)
    }

    fn start_again(&mut self) {
        let output = script("start", self.directory.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.url =
            format!("postgresql://postgres@{}/postgres", String::from_utf8_lossy(&output.stdout).trim());
    }

    async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }

    async fn execute(&self, sql: &str) {
        self.connect().await.batch_execute(sql).await.unwrap();
    }

    /// Rows as `a|b`.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let messages = self.connect().await.simple_query(sql).await.unwrap();
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|idx| row.get(idx).unwrap_or("NULL"));
                Some(values.collect::<Vec<_>>().join("|"))
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    fn sink(&self, table: &str, columns: &str) -> Declared {
        Declared::new("postgres", columns).id(table).with("url", &self.url).with("table", table)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        script("stop", self.directory.path());
    }
}

const ROW: &str = "id bigint!, name text";

fn batch(to: u64, rows: &[(i64, Option<&str>, i64)]) -> SinkBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let names: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1)));
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let rows = RecordBatch::try_new(Declared::new("postgres", ROW).schema, vec![ids, names]).unwrap();
    SinkBatch { from: Epoch(to - 1), to: Epoch(to), delta: Delta::weighted(&rows, weights) }
}

async fn open(declared: &Declared, known: u64) -> Result<Box<dyn SinkWriter>, ConnectorError> {
    create_sink(&declared.sink())?.open(Written::perhaps_to(Epoch(known))).await
}

/// Writes each batch in a transaction of its own.
async fn write(writer: &mut dyn SinkWriter, batches: &[SinkBatch]) -> Result<(), ConnectorError> {
    for batch in batches {
        writer.write(batch).await?;
        writer.flush().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_epoch_arrive_together() {
    let Some(mut postgres) = Postgres::start() else { return };

    // Rows are added, with all that is special in text.
    let append = postgres.sink("append", ROW).with("create_table", "true");
    let mut writer = open(&append, 0).await.unwrap();
    assert_eq!(writer.reached(), Some(Epoch(0)));
    write(&mut *writer, &[batch(2, &[(1, Some("a\tb\\c\nd\r\"é'"), 1), (2, None, 2)])]).await.unwrap();
    write(&mut *writer, &[batch(3, &[(3, Some("\\N"), 1), (4, Some(""), 1)])]).await.unwrap();
    writer.flush().await.unwrap();
    let rows = "SELECT id, replace(replace(replace(name, E'\\t', '<t>'), E'\\n', '<n>'), E'\\r', '<r>') FROM append ORDER BY id";
    assert_eq!(postgres.rows(rows).await, ["1|a<t>b\\c<n>d<r>\"é'", "2|NULL", "2|NULL", "3|\\N", "4|"]);
    assert_eq!(postgres.rows("SELECT sink, epoch FROM tidemill_progress").await, ["append|3"]);

    // Of two writers that hold the same rows, one writes; another name makes no difference.
    let append = append.named("renamed");
    let mut heir = open(&append, 4).await.unwrap();
    assert_eq!(heir.reached(), Some(Epoch(3)));
    write(&mut *heir, &[batch(4, &[(5, Some("once"), 1)])]).await.unwrap();
    let error = write(&mut *writer, &[batch(4, &[(5, Some("once"), 1)])]).await.unwrap_err();
    assert_eq!((error.sqlstate.0, error.transient), ("55006", true), "{error}");
    assert_eq!(postgres.rows("SELECT count(*) FROM append WHERE id = 5").await, ["1"]);
    let ahead = open(&append, 3).await.err().expect("the destination is ahead");
    assert!(ahead.to_string().contains("epoch 4, but this server wrote no more than 3"), "{ahead}");

    let gone_back = Written { surely: Epoch(5), perhaps: Epoch(5) };
    let gone_back =
        create_sink(&append.sink()).unwrap().open(gone_back).await.err().expect("it has gone back");
    assert!(gone_back.to_string().contains("epoch 4, but it had 5 before"), "{gone_back}");

    // A restart in between: what was cut off is written by the next writer.
    postgres.execute("ALTER TABLE append ADD CHECK (id < 100)").await;
    let error = write(&mut *heir, &[batch(5, &[(6, None, 1), (100, None, 1)])]).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "22000", "{error}");
    assert!(
        !error.transient && error.hint.as_deref().is_some_and(|hint| hint.contains("Failing row")),
        "{error}"
    );
    let mut heir = open(&append, 5).await.unwrap();
    assert_eq!(heir.reached(), Some(Epoch(4)));
    script("stop", postgres.directory.path());
    let error = write(&mut *heir, &[batch(5, &[(6, None, 1)])]).await.unwrap_err();
    assert!(error.transient, "{error}");
    let error = open(&append, 5).await.err().expect("nobody is there");
    assert_eq!((error.sqlstate.0, error.transient), ("08001", true), "{error}");
    postgres.start_again();
    let append = append.with("url", &postgres.url);
    let mut heir = open(&append, 5).await.unwrap();
    write(&mut *heir, &[batch(5, &[(6, None, 1)])]).await.unwrap();
    // A flush that is dropped goes on, and is the same when it is called again.
    heir.write(&batch(6, &[(7, None, 1)])).await.unwrap();
    let _ = conformance::poll_once(heir.flush());
    heir.flush().await.unwrap();
    assert_eq!(postgres.rows("SELECT count(*), count(DISTINCT id) FROM append").await, ["8|7"]);

    // Keys are kept current.
    let upsert = postgres.sink("Upsert\"s", ROW).with("table", "\"Upsert\"\"s\"").retracting().key(&[0]);
    let upsert = upsert.format(Format::Upsert).with("create_table", "true");
    let mut writer = open(&upsert, 0).await.unwrap();
    let first = [(1, Some("a"), 1), (2, Some("b"), 1), (3, Some("c"), 1)];
    write(&mut *writer, &[batch(1, &first)]).await.unwrap();
    // Several epochs at once, of which the last counts: an update, a deletion, a row that comes back.
    for batch in [
        batch(2, &[(1, Some("a"), -1), (2, Some("b"), -1), (1, Some("z"), 1)]),
        batch(3, &[(3, Some("c"), -1), (2, Some("y"), 1), (4, Some("d"), 1)]),
        batch(4, &[(4, Some("d"), -1)]),
    ] {
        writer.write(&batch).await.unwrap();
    }
    writer.flush().await.unwrap();
    let rows = "SELECT * FROM \"Upsert\"\"s\" ORDER BY id";
    assert_eq!(postgres.rows(rows).await, ["1|z", "2|y"]);
    let only_key = postgres.sink("keys", "id bigint!").retracting().key(&[0]).format(Format::Upsert);
    assert!(create_sink(&only_key.sink()).is_ok());

    // At least once keeps no epoch.
    let loose = postgres.sink("loose", ROW).with("create_table", "true").with("delivery", "at_least_once");
    let mut writer = open(&loose, 0).await.unwrap();
    write(&mut *writer, &[batch(1, &[(1, None, 1)]), batch(1, &[(1, None, 1)])]).await.unwrap();
    assert_eq!(postgres.rows("SELECT count(*) FROM loose").await, ["2"]);
    assert_eq!(
        postgres.rows("SELECT count(*) FROM tidemill_progress WHERE sink LIKE '%loose%'").await,
        ["0"]
    );

    refused_rows_are_left_out(&postgres).await;
    tables_are_checked(&postgres).await;
    rounding_is_refused(&postgres).await;
    every_type_arrives(&postgres).await;
}

async fn refused_rows_are_left_out(postgres: &Postgres) {
    // Two rows cannot stand beside each other, which no row is to blame for alone: the first one stays.
    let checks = "CHECK (id < 100), name varchar(3) UNIQUE";
    postgres.execute(&format!("CREATE TABLE strict (id bigint PRIMARY KEY {checks})")).await;
    for (format, delivery) in [
        (Format::Plain, "exactly_once"),
        (Format::Plain, "at_least_once"),
        (Format::Upsert, "exactly_once"),
        (Format::Upsert, "at_least_once"),
    ] {
        postgres.execute("TRUNCATE strict").await;
        let declared = postgres.sink("strict", ROW).format(format).with("delivery", delivery);
        let declared = declared.id(&format!("{format:?}{delivery}")).named("strict");
        let declared = if format == Format::Upsert { declared.retracting().key(&[0]) } else { declared };
        let kept = Arc::new(Keeping::new(&postgres.url, "strict"));
        let mut writer = open(&declared, 0).await.unwrap();
        writer.leave_out(kept.clone());
        let mut rows: Vec<(i64, Option<String>, i64)> =
            (0..50).map(|id| (id, Some(format!("n{id}")), 1)).collect();
        rows[7] = (107, None, 1);
        rows[30].1 = Some("long".into());
        rows[41].1 = Some("n40".into());
        let named: Vec<_> = rows.iter().map(|(id, name, weight)| (*id, name.as_deref(), *weight)).collect();
        writer.write(&batch(1, &named)).await.unwrap();
        writer.write(&batch(2, &[(60, Some("x"), 1), (100, None, 1)])).await.unwrap();
        writer.flush().await.unwrap();
        let refused = kept.refused();
        assert_eq!(refused.len(), 4, "{refused:?}");
        for (kept, (row, why)) in refused.iter().zip([
            ("1/7 107|NULL", "strict_id_check"),
            ("1/30 30|long", "too long"),
            ("1/41 41|n40", "strict_name_key"),
            ("2/1 100|NULL", "strict_id_check"),
        ]) {
            assert!(kept.starts_with(&format!("0 rows: {row} 22000 ")) && kept.contains(why), "{kept}");
        }
        assert_eq!(postgres.rows("SELECT count(*), max(id) FROM strict").await, ["48|60"]);

        // All is taken in one attempt where nothing is refused, and nothing of it where what is refused cannot be kept.
        write(&mut *writer, &[batch(3, &[(61, Some("y"), 1)])]).await.unwrap();
        kept.fail();
        let error = write(&mut *writer, &[batch(4, &[(62, None, 1), (100, None, 1)])]).await.unwrap_err();
        assert_eq!(error.to_string(), "no room");
        assert_eq!(postgres.rows("SELECT count(*), max(id) FROM strict").await, ["49|61"]);
    }
}

/// Keeps refused rows, and says how many rows others saw meanwhile.
struct Keeping {
    url: String,
    table: &'static str,
    refused: Mutex<Option<Vec<String>>>,
}

impl Keeping {
    fn new(url: &str, table: &'static str) -> Keeping {
        Keeping { url: url.to_owned(), table, refused: Mutex::new(Some(Vec::new())) }
    }

    fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone().unwrap_or_default()
    }

    fn fail(&self) {
        *self.refused.lock().unwrap() = None;
    }
}

#[async_trait::async_trait]
impl Refusals for Keeping {
    async fn keep(&self, refused: Vec<Refused>) -> Result<(), ConnectorError> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let n_rows: i64 =
            client.query_one(&format!("SELECT count(*) FROM {}", self.table), &[]).await.unwrap().get(0);
        let mut kept = self.refused.lock().unwrap();
        let Some(kept) = kept.as_mut() else {
            return Err(ConnectorError::transient(tidemill_core::SqlState::DISK_FULL, "no room"));
        };
        for Refused { to, place, row, error } in refused {
            let row = conformance::lines(&row).remove(0).replace(" | ", "|");
            kept.push(format!("{n_rows} rows: {to}/{place} {row} {} {error}", error.sqlstate.0));
        }
        Ok(())
    }
}

async fn tables_are_checked(postgres: &Postgres) {
    let check = async |declared: &Declared| {
        let error = validate_sink(&declared.sink()).await.unwrap_err();
        format!("{} {error} ({})", error.sqlstate, error.hint.as_deref().unwrap_or_default())
    };
    let at = postgres.url.trim_start_matches("postgresql://postgres@").to_string();
    let upsert =
        |columns: &str| postgres.sink("stock", columns).retracting().key(&[0]).format(Format::Upsert);
    assert_eq!(
        check(&upsert(ROW)).await,
        format!(
            "42P01 table \"stock\" does not exist at \"{at}\" (Option create_table = 'true' creates it: \
             CREATE TABLE \"stock\" (\"id\" bigint NOT NULL, \"name\" text, PRIMARY KEY (\"id\")))"
        )
    );
    postgres
        .execute("CREATE TABLE stock (id integer, nam text, full_name text GENERATED ALWAYS AS (nam) STORED)")
        .await;
    assert!(
        check(&postgres.sink("stok", ROW)).await.contains("(Perhaps you meant \"stock\". Or create_table")
    );
    assert_eq!(
        check(&upsert(ROW)).await,
        "42804 column \"id\" is bigint, but that of table \"stock\" is integer (Cast it in the query: \
         CAST(\"id\" AS integer). Or ALTER TABLE \"stock\" ALTER COLUMN \"id\" TYPE bigint)"
    );
    postgres.execute("ALTER TABLE stock ALTER id TYPE numeric(20, 2)").await;
    assert_eq!(
        check(&upsert(ROW)).await,
        "42703 table \"stock\" has no column \"name\" (Perhaps you meant \"nam\": name it so in the query. \
         Or ALTER TABLE \"stock\" ADD COLUMN \"name\" text)"
    );
    assert!(
        check(&upsert("id bigint, full_name text")).await.contains("is generated, and cannot be written")
    );
    assert_eq!(
        check(&upsert("id bigint, nam text")).await,
        "42P16 table \"stock\" has no unique key of the sink's key (\"id\") (To add it: ALTER TABLE \"stock\" ADD \
         PRIMARY KEY (\"id\"). Or name another key of the query with primary_key = '…' in WITH.)"
    );
    // A part of the rows, another order of columns and a wider key are no key.
    postgres
        .execute("CREATE UNIQUE INDEX ON stock (id) WHERE nam <> ''; CREATE UNIQUE INDEX ON stock (nam, id)")
        .await;
    assert!(check(&upsert("id bigint, nam text")).await.starts_with("42P16"));
    let both = postgres.sink("stock", "id bigint, nam text").retracting().key(&[0, 1]).format(Format::Upsert);
    validate_sink(&both.sink()).await.unwrap();
    postgres.execute("ALTER TABLE stock ADD PRIMARY KEY (id), ADD COLUMN owner text NOT NULL").await;
    assert_eq!(
        check(&upsert("id bigint, nam text")).await,
        "23502 table \"stock\" needs a value for column \"owner\", which the sink does not have (Add the column to \
         the query, or give it a default in the table.)"
    );
    postgres.execute("ALTER TABLE stock ALTER owner SET DEFAULT 'x'").await;
    validate_sink(&upsert("id bigint, nam text").sink()).await.unwrap();

    let unknown = upsert(ROW)
        .with("url", postgres.url.replace("/postgres", "/nowhere").replace("//nowhere", "//postgres"));
    assert!(
        check(&unknown).await.starts_with("3D000 cannot connect to PostgreSQL at"),
        "{}",
        check(&unknown).await
    );
    // Without the right to make the table of epochs, the error says what it takes.
    postgres
        .execute(
            "CREATE ROLE plain LOGIN; CREATE SCHEMA theirs; CREATE TABLE theirs.t (id bigint PRIMARY KEY, name text); \
             GRANT USAGE ON SCHEMA theirs TO plain; GRANT SELECT, INSERT, UPDATE, DELETE ON theirs.t TO plain",
        )
        .await;
    let url = postgres.url.replacen("postgres@", "plain@", 1);
    let plain = postgres.sink("theirs.t", ROW).with("url", url);
    assert!(
        check(&plain)
            .await
            .contains("(Let somebody run: CREATE TABLE IF NOT EXISTS \"theirs\".\"tidemill_progress\"")
    );
    validate_sink(&plain.with("delivery", "at_least_once").sink()).await.unwrap();
}

/// PostgreSQL reads text as the type of the column, and would say nothing about digits that it does not keep.
async fn rounding_is_refused(postgres: &Postgres) {
    let columns = [
        ("a double", "real", true),
        ("a double", "numeric", true),
        ("a double", "numeric(10,2)", true),
        ("a double", "integer", true),
        ("a double", "double precision", false),
        ("a real", "double precision", false),
        ("a bigint", "double precision", true),
        ("a bigint", "real", true),
        ("a bigint", "numeric(5,0)", false),
        ("a bigint", "numeric(5,-2)", true),
        ("a int", "real", true),
        ("a int", "double precision", false),
        ("a decimal", "double precision", true),
        ("a decimal", "numeric(12,1)", true),
        ("a decimal", "numeric(12,2)", false),
        ("a decimal", "numeric", false),
        ("a timestamp", "timestamp(3)", true),
        ("a timestamp", "timestamp(6)", false),
        ("a timestamp", "timestamp with time zone", false),
        ("a text", "name", true),
        ("a text", "varchar(3)", false),
    ];
    for (idx, (ours, theirs, is_refused)) in columns.into_iter().enumerate() {
        let table = format!("rounding{idx}");
        postgres.execute(&format!("CREATE TABLE {table} (a {theirs})")).await;
        let checked = validate_sink(&postgres.sink(&table, ours).sink()).await;
        assert_eq!(checked.is_err(), is_refused, "{ours} to {theirs}: {checked:?}");
        let Err(error) = checked else { continue };
        assert_eq!(error.sqlstate.0, "42804", "{error}");
        assert!(
            error.to_string().ends_with("which would round or cut values silently"),
            "{ours} to {theirs}: {error}"
        );
        assert!(error.hint.is_some_and(|hint| hint.contains("CAST(\"a\" AS ")), "{ours} to {theirs}");
    }
}

async fn every_type_arrives(postgres: &Postgres) {
    let typed = |name: &str, array: ArrayRef, pg_type: Option<&str>| {
        let field = Field::new(name, array.data_type().clone(), true);
        let metadata = pg_type.map(|name| (PG_TYPE.to_string(), name.to_string())).into_iter().collect();
        (field.with_metadata(metadata), array)
    };
    let pair =
        Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)]);
    let x: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
    let y: ArrayRef = Arc::new(StringArray::from(vec![Some("a\"b"), None]));
    let pairs: ArrayRef = Arc::new(StructArray::new(pair, vec![x, y], Some(vec![true, false].into())));
    let list = vec![Some(vec![Some(1), None, Some(3)]), None];
    let texts = {
        let mut builder = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        builder.append_value([Some("a,b"), Some("c\"d\\e"), None, Some("NULL")]);
        builder.append_null();
        builder.finish()
    };
    let columns: Vec<(Field, ArrayRef)> = vec![
        typed("bool", Arc::new(BooleanArray::from(vec![Some(true), None])), None),
        typed("small", Arc::new(Int16Array::from(vec![Some(-5), None])), None),
        typed("int", Arc::new(Int32Array::from(vec![Some(i32::MIN), None])), None),
        typed("big", Arc::new(Int64Array::from(vec![Some(i64::MAX), None])), None),
        typed("double", Arc::new(Float64Array::from(vec![Some(f64::NAN), None])), None),
        typed("tiny", Arc::new(Float64Array::from(vec![Some(-1.5e-300), None])), None),
        typed("endless", Arc::new(Float64Array::from(vec![Some(f64::NEG_INFINITY), None])), None),
        typed(
            "num",
            Arc::new(
                Decimal128Array::from(vec![Some(-12345), None]).with_precision_and_scale(20, 2).unwrap(),
            ),
            None,
        ),
        typed("bytes", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff\\"[..]), None])), None),
        typed("day", Arc::new(Date32Array::from(vec![Some(-1), None])), None),
        typed("time", Arc::new(Time64MicrosecondArray::from(vec![Some(3_723_000_004), None])), None),
        typed("ts", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None])), None),
        typed(
            "tz",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("+00:00")),
            None,
        ),
        typed(
            "span",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(14, -3, -5_000_000_000)),
                None,
            ])),
            None,
        ),
        typed("lasting", Arc::new(DurationMicrosecondArray::from(vec![Some(90_000_001), None])), None),
        typed("ints", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list)), None),
        typed("texts", Arc::new(texts), None),
        typed("pair", pairs, None),
        typed("doc", Arc::new(StringArray::from(vec![Some(r#"{"b": [1, "x\n"]}"#), None])), Some("jsonb")),
        typed(
            "id",
            Arc::new(StringArray::from(vec![Some("00000000-0000-0000-0000-00000000000a"), None])),
            Some("uuid"),
        ),
        typed("short", Arc::new(StringArray::from(vec![Some("abc"), None])), Some("varchar(3)")),
        typed("mood", Arc::new(StringArray::from(vec![Some("glad"), None])), None),
    ];
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let rows = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    let mut declared = postgres.sink("types", ROW).with("create_table", "true");
    declared.schema = schema;
    validate_sink(&declared.sink()).await.unwrap();
    let types = postgres
        .rows("SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'types'::regclass AND attnum > 0")
        .await;
    assert_eq!(
        types,
        [
            "boolean, smallint, integer, bigint, double precision, double precision, double precision, numeric, bytea, date, \
          time without time zone, timestamp without time zone, timestamp with time zone, interval, interval, integer[], \
          text[], jsonb, jsonb, uuid, character varying(3), text"
        ]
    );
    postgres.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); ALTER TABLE types ALTER mood TYPE mood USING mood::mood").await;
    let mut writer = open(&declared, 0).await.unwrap();
    let batch = SinkBatch { from: Epoch(0), to: Epoch(1), delta: Delta::inserts(&rows) };
    write(&mut *writer, &[batch]).await.unwrap();
    let expected = [
        r#"t|-5|-2147483648|9223372036854775807|NaN|-1.5e-300|-Infinity|-123.45|\x00ff5c|1969-12-31|01:02:03.000004|1969-12-31 23:59:59.999999|1970-01-01 00:00:00.000001+00|1 year 2 mons -3 days -00:00:05|00:01:30.000001|{1,NULL,3}|{"a,b","c\"d\\e",NULL,"NULL"}|{"x": 1, "y": "a\"b"}|{"b": [1, "x\n"]}|00000000-0000-0000-0000-00000000000a|abc|glad"#.to_string(),
        ["NULL"; 22].join("|"),
    ];
    assert_eq!(postgres.rows("SELECT * FROM types ORDER BY small NULLS LAST").await, expected);
}

#[tokio::test]
async fn destination_that_is_not_there_is_an_error() {
    let declared = Declared::new("postgres", "id bigint, name text").with("table", "t");
    let declared = declared.with("url", "postgresql://me@127.0.0.1:1/db");
    let error = conformance::sink::check_broken(&*create_sink(&declared.sink()).unwrap()).await;
    assert_eq!((error.sqlstate.0, error.transient), ("08001", true));
    assert!(error.to_string().starts_with("cannot connect to PostgreSQL at \"127.0.0.1:1/db\": "), "{error}");
    let began = std::time::Instant::now();
    let error =
        validate_sink(&declared.with("url", "postgresql://me@10.255.255.1:1/db").sink()).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "08001", "{error}");
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn wrong_declarations_are_refused() {
    let declared = Declared::new("postgres", ROW).with("table", "t").with("url", "postgresql://me@h/db");
    let error = |declared: &Declared| create_sink(&declared.sink()).unwrap_err();
    let show = |error: ConnectorError| format!("{error} ({})", error.hint.as_deref().unwrap_or_default());
    create_sink(&declared.sink()).unwrap();
    assert!(
        show(error(&declared.clone().with("url", "mysql://me:secret@h"))).contains("Expected postgresql://")
    );
    assert!(!show(error(&declared.clone().with("url", "mysql://me:secret@h"))).contains("secret"));
    let inside = show(error(&declared.clone().with("url", "postgresql://me:secret@h/db")));
    assert!(
        inside.contains("holds a password (Give it as password") && !inside.contains("secret"),
        "{inside}"
    );
    assert!(show(error(&declared.clone().with("url", "postgresql:///db"))).contains("names no host"));
    assert!(
        show(error(&declared.clone().with("table", "a.b.c"))).ends_with("(Expected table or schema.table.)")
    );
    assert!(show(error(&declared.clone().encode(Encode::Json, &[]))).contains("has no ENCODE JSON"));
    assert!(show(error(&declared.clone().format(Format::Debezium))).contains("FORMAT UPSERT"));
    assert_eq!(error(&declared.clone().retracting()).sqlstate.0, "0A000");
    assert_eq!(error(&declared.clone().format(Format::Upsert)).sqlstate.0, "42P16");
    let create = |name: &str, value: &str| create_sink(&declared.clone().with(name, value).sink());
    conformance::sink::check_options(PostgresSinkConfig::DOCS, create);
}
