//! All flights of `examples/flights`, streamed in small batches: at the end every pipeline shows DataFusion's
//! batch answer to the same SELECT over the same files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{CsvReadOptions, SessionContext};

use crate::server::{self, Server, execute, query};

/// Small enough that every pipeline takes hundreds of steps.
const BATCH_ROWS: usize = 500;

/// Sums of doubles depend on their order, by this part of the sum at most.
const TOLERANCE: f64 = 1e-9;

const SOURCES: [&str; 5] = ["flights", "weather", "airlines", "airports", "planes"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_flights_give_the_batch_answers() {
    let directory = server::directory();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let statements = statements();
    for sql in &statements {
        let small =
            sql.replace("connector = 'file',", &format!("connector = 'file', batch_rows = '{BATCH_ROWS}',"));
        execute(&client, &small).await;
    }
    let batch = batch_session(directory.path()).await;
    server.wait_until_finished(&SOURCES).await;
    let mut n_pipelines = 0;
    for sql in &statements {
        let Some((name, select)) = pipeline(sql) else { continue };
        let streamed = query(&client, &format!("SELECT * FROM {name}")).await;
        let answer = answer(&batch, &select).await;
        compare(&name, streamed, answer);
        n_pipelines += 1;
    }
    assert_eq!(n_pipelines, 9, "flights.sql has this many pipelines");
    // What the page says about the data.
    let delivered = query(&client, "SELECT rows FROM tm_sources WHERE name = 'flights'").await;
    assert_eq!(delivered, [["336776"]]);
    assert_eq!(query(&client, "SELECT count(*) FROM daily").await, [["366"]]);
    assert_eq!(query(&client, "SELECT count(*) FROM tm_dead_letters").await, [["0"]]);
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/data").join(file)
}

/// The statements of the example, without comments.
fn statements() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.sql");
    let text = std::fs::read_to_string(path).expect("the example is there");
    let lines: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let statements = lines.join("\n");
    statements.split(';').map(|sql| sql.trim().to_owned()).filter(|sql| !sql.is_empty()).collect()
}

/// Name and SELECT of a `CREATE PIPELINE`, the SELECT as DataFusion alone understands it.
fn pipeline(sql: &str) -> Option<(String, String)> {
    let rest = sql.strip_prefix("CREATE PIPELINE ")?;
    let (name, select) = rest.split_once(" AS").expect("a pipeline has a query");
    // Every window is closed when the flights are over.
    let select = select.replace("EMIT ON WINDOW CLOSE", "").replace(
        "TUMBLE(flights, time_hour, INTERVAL '1 day')",
        "(SELECT *, date_bin(INTERVAL '1 day', time_hour) AS window_start FROM flights) AS flights",
    );
    Some((name.to_owned(), select))
}

/// The files as tables of DataFusion.
async fn batch_session(directory: &Path) -> SessionContext {
    let context = SessionContext::new();
    for name in SOURCES {
        let text = null_as_nothing(&read(name));
        let path = directory.join(format!("{name}.csv"));
        std::fs::write(&path, &text).expect("the directory can be written");
        let header = text.lines().next().expect("the file has a header");
        let schema = Schema::new(header.split(',').map(field).collect::<Vec<Field>>());
        let options = CsvReadOptions::new().has_header(true).schema(&schema);
        let path = path.to_str().expect("the path is text");
        context.register_csv(name, path, options).await.expect("the file can be registered");
    }
    context
}

/// The text of a source's file. DataFusion is built without compression.
fn read(name: &str) -> String {
    let (plain, compressed) = (data(&format!("{name}.csv")), data(&format!("{name}.csv.gz")));
    if plain.exists() {
        return std::fs::read_to_string(plain).expect("the file is text");
    }
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(File::open(compressed).expect("the file is there"));
    reader.read_to_string(&mut text).expect("the file is compressed text");
    text
}

/// The only NULL that DataFusion's CSV reader knows is an empty field, of which the files have none.
fn null_as_nothing(text: &str) -> String {
    let mut nulled = String::with_capacity(text.len());
    for line in text.lines() {
        let fields: Vec<&str> = line.split(',').map(|field| if field == "NA" { "" } else { field }).collect();
        nulled += &fields.join(",");
        nulled.push('\n');
    }
    nulled
}

fn field(column: &str) -> Field {
    let data_type = match column {
        "time_hour" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "temp" | "wind_speed" | "precip" | "visib" => DataType::Float64,
        "dep_time" | "dep_delay" | "arr_delay" | "flight" | "distance" | "seats" => DataType::Int32,
        _ => DataType::Utf8,
    };
    Field::new(column, data_type, true)
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Double(f64),
}

/// Which columns are doubles, and the rows.
async fn answer(context: &SessionContext, select: &str) -> (Vec<bool>, Vec<Vec<String>>) {
    let frame = context.sql(select).await.unwrap_or_else(|error| panic!("{error}\n[SQL] {select}"));
    let types: Vec<DataType> =
        frame.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{error}\n[SQL] {select}"));
    let mut rows = Vec::new();
    for batch in &batches {
        let options =
            FormatOptions::default().with_null("NULL").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S"));
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("the type can be shown"))
            .collect();
        for idx in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(idx).to_string()).collect());
        }
    }
    (types.iter().map(|data_type| *data_type == DataType::Float64).collect(), rows)
}

/// Both as multisets: rows whose exact columns agree are paired in the order of their doubles.
fn compare(name: &str, streamed: Vec<Vec<String>>, (is_double, answer): (Vec<bool>, Vec<Vec<String>>)) {
    let n_rows = (streamed.len(), answer.len());
    let keyed = |rows: Vec<Vec<String>>| {
        let mut keyed: BTreeMap<Vec<String>, Vec<Vec<f64>>> = BTreeMap::new();
        for row in rows {
            let values: Vec<Value> = row
                .into_iter()
                .zip(&is_double)
                .map(|(text, is_double)| match (is_double, text.parse()) {
                    (true, Ok(number)) => Value::Double(number),
                    _ => Value::Text(text),
                })
                .collect();
            let exact = values.iter().filter_map(|value| match value {
                Value::Text(text) => Some(text.clone()),
                Value::Double(_) => None,
            });
            let doubles = values.iter().filter_map(|value| match value {
                Value::Text(_) => None,
                Value::Double(number) => Some(*number),
            });
            keyed.entry(exact.collect()).or_default().push(doubles.collect());
        }
        for rows in keyed.values_mut() {
            rows.sort_by(|a, b| a.partial_cmp(b).expect("no double is NaN"));
        }
        keyed
    };
    let (streamed, mut answer) = (keyed(streamed), keyed(answer));
    let mut differences = Vec::new();
    for (key, rows) in streamed {
        let expected = answer.remove(&key).unwrap_or_default();
        let close = |a: &f64, b: &f64| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0);
        let same = rows.len() == expected.len()
            && rows
                .iter()
                .zip(&expected)
                .all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b)));
        if !same {
            differences.push(format!("{key:?}: the pipeline has {rows:?}, the batch answer {expected:?}"));
        }
    }
    differences
        .extend(answer.iter().map(|(key, rows)| format!("{key:?}: only in the batch answer: {rows:?}")));
    let shown = differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        differences.is_empty(),
        "pipeline {name} differs in {} places ({} rows, {} in the batch answer):\n{shown}",
        differences.len(),
        n_rows.0,
        n_rows.1
    );
    println!("{name}: {} rows are the batch answer", n_rows.0);
}
