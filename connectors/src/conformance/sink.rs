//! What every sink must do, as a suite that the tests of each connector run.
//!
//! The engine relies on these: batches arrive whole and in the order of their epochs, nothing of them is
//! missing once `flush` has returned, and what is written again after a crash, under the epochs that it had,
//! does no harm where the sink promises that.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter, Written};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Delta, Epoch, SqlState};

use crate::conformance::poll_once;
use crate::options::OptionDoc;

/// Rows of a batch: id, name, weight.
type Row<'a> = (i64, Option<&'a str>, i64);

/// No destination is slower than this.
const LIMIT: Duration = Duration::from_secs(60);

/// Behind all epochs that the suite writes.
const WRITTEN: Written = Written { surely: Epoch::ZERO, perhaps: Epoch(1000) };

/// The columns of the rows that the suite writes: `id bigint, name text`.
pub fn schema() -> SchemaRef {
    let columns = [Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)];
    Arc::new(Schema::new(Vec::from(columns)))
}

/// Checks a sink that takes insertions and retractions.
///
/// `arrived` gives all changes that are at the destination, in their order, as `+ 1 | a` and `- 2 | NULL`,
/// one for each copy; or nothing, if the destination keeps nothing.
pub async fn check(sink: &dyn Sink, arrived: impl AsyncFn() -> Option<Vec<String>>) {
    let mut seen = arrived().await.unwrap_or_default();
    assert_eq!(seen, Vec::<String>::new(), "the destination is empty at first");
    let is_exactly_once = sink.delivery() == Delivery::ExactlyOnce;

    let mut writer = open(sink).await;
    within("a flush of nothing", writer.flush()).await.expect("there is nothing to go wrong");
    assert_eq!(arrived().await.unwrap_or_default(), seen, "a flush of nothing writes nothing");
    let alone = [
        batch(1, &[(1, Some("a"), 1), (2, Some("b, \"c\" é"), 1), (3, None, 2)]),
        batch(4, &[(1, Some("a"), -1), (3, None, -2), (1, Some("z"), 1), (4, Some("d"), 1)]),
        batch(5, &[]),
        batch(6, &[(2, Some("b, \"c\" é"), -1)]),
    ];
    for batch in &alone {
        write(&mut *writer, batch).await;
        flush(&mut *writer).await;
        expect(&mut seen, arrived().await, &[batch], "one batch, one flush");
    }

    let together = [
        batch(9, &[(5, Some("e"), 1), (6, None, 1)]),
        batch(10, &[(5, Some("e"), -1), (5, Some("f"), 1)]),
        batch(11, &[(5, Some("f"), -1), (7, Some("g"), 3)]),
    ];
    for batch in &together {
        write(&mut *writer, batch).await;
    }
    // Dropped while pending, and asked again.
    let _ = poll_once(writer.flush());
    flush(&mut *writer).await;
    expect(&mut seen, arrived().await, &together.each_ref(), "several batches, one flush");

    let many: Vec<(i64, Option<&str>, i64)> = (100..2600).map(|id| (id, Some("many"), 1)).collect();
    let many = batch(12, &many);
    write(&mut *writer, &many).await;
    flush(&mut *writer).await;
    expect(&mut seen, arrived().await, &[&many], "a batch larger than any queue");

    // After a crash the engine writes what may have arrived once more.
    drop(writer);
    let mut writer = open(sink).await;
    let again = [&together[1], &together[2], &many];
    for batch in again {
        write_unless_reached(&mut *writer, batch).await;
    }
    flush(&mut *writer).await;
    if is_exactly_once {
        assert_eq!(arrived().await.unwrap_or_default(), seen, "what has arrived does not arrive again");
    } else {
        expect(&mut seen, arrived().await, &again, "what is written again, at least once");
    }
    let next = batch(13, &[(7, Some("g"), -3), (8, None, 1)]);
    write(&mut *writer, &next).await;
    flush(&mut *writer).await;
    expect(&mut seen, arrived().await, &[&next], "what follows a redelivery");

    // A crash before the flush.
    let cut_off = batch(14, &[(8, None, -1), (9, Some("i"), 1)]);
    write(&mut *writer, &cut_off).await;
    drop(writer);
    let mut writer = open(sink).await;
    assert!(writer.reached().unwrap_or_default() < cut_off.to, "what was cut off has not been reached");
    write(&mut *writer, &cut_off).await;
    flush(&mut *writer).await;
    let Some(after) = arrived().await else { return };
    if is_exactly_once {
        expect(&mut seen, Some(after), &[&cut_off], "a batch that was cut off, once");
    } else {
        let new = &after[seen.len()..];
        for line in changes(&cut_off).keys() {
            let n = new.iter().filter(|found| *found == line).count();
            assert!((1..=2).contains(&n), "a batch that was cut off arrives at least once: {new:?}");
        }
    }
}

/// Checks that a destination that takes nothing is an error, soon; gives it.
pub async fn check_broken(sink: &dyn Sink) -> ConnectorError {
    let attempt = async {
        let mut writer = sink.open(WRITTEN).await?;
        writer.write(&batch(1, &[(1, Some("a"), 1)])).await?;
        writer.flush().await
    };
    let error = within("an error", attempt).await.expect_err("what has not arrived is an error");
    assert!(!error.to_string().is_empty(), "an error says something");
    error
}

/// Checks that options that do not exist are refused, and near ones suggested. `create` adds an option to
/// those of a sink that is in order.
pub fn check_options(
    options: &[OptionDoc],
    create: impl Fn(&str, &str) -> Result<Arc<dyn Sink>, ConnectorError>,
) {
    let refused = |name: &str| {
        let error = create(name, "x").expect_err("an option that does not exist is refused");
        assert_eq!(error.sqlstate, SqlState::INVALID_PARAMETER, "{error}");
        assert!(error.to_string().contains(&format!("no option \"{name}\"")), "{error}");
        error.hint.expect("the hint says which options there are")
    };
    // Those with a prefix belong to a client library, which has its own words.
    for option in options.iter().filter(|option| !option.name.starts_with("properties.")) {
        let last = option.name.chars().next_back().expect("an option has a name");
        let hint = refused(&format!("{}{last}", option.name));
        assert_eq!(hint, format!("Perhaps you meant \"{}\".", option.name));
    }
    let hint = refused("qqqqqqqqqqqq");
    assert!(options.iter().all(|option| hint.contains(option.name)), "all options are listed: {hint}");
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(LIMIT, future).await;
    outcome.unwrap_or_else(|_| panic!("{what} takes longer than {LIMIT:?}"))
}

async fn open(sink: &dyn Sink) -> Box<dyn SinkWriter> {
    within("opening", sink.open(WRITTEN)).await.expect("the destination is there")
}

async fn write(writer: &mut dyn SinkWriter, batch: &SinkBatch) {
    within("a write", writer.write(batch)).await.expect("the destination takes rows");
}

/// As the engine does it after a crash.
async fn write_unless_reached(writer: &mut dyn SinkWriter, batch: &SinkBatch) {
    if batch.to > writer.reached().unwrap_or_default() {
        write(writer, batch).await;
    }
}

async fn flush(writer: &mut dyn SinkWriter) {
    within("a flush", writer.flush()).await.expect("the destination has taken the rows");
}

/// The batch that ends at epoch `to`; retractions stand before insertions.
fn batch(to: u64, rows: &[Row<'_>]) -> SinkBatch {
    let ids: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>());
    let names: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>());
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let rows = RecordBatch::try_new(schema(), vec![ids, names]).expect("columns of the schema");
    SinkBatch { from: Epoch(to - 1), to: Epoch(to), delta: Delta::weighted(&rows, weights) }
}

/// A batch as `arrived` shows it, with how often each line is there.
fn changes(batch: &SinkBatch) -> BTreeMap<String, usize> {
    let lines = crate::conformance::lines(&batch.delta.rows());
    let weights = batch.delta.weights().values().iter();
    let change = |(line, weight): (String, &i64)| {
        let sign = if *weight > 0 { '+' } else { '-' };
        (format!("{sign} {line}"), weight.unsigned_abs() as usize)
    };
    lines.into_iter().zip(weights).map(change).collect()
}

/// Behind what was seen stand these batches, one after the other, each in any order that takes nothing
/// away before it is there.
fn expect(seen: &mut Vec<String>, arrived: Option<Vec<String>>, batches: &[&SinkBatch], when: &str) {
    let Some(arrived) = arrived else { return };
    assert!(arrived.starts_with(seen), "{when}: what has arrived stays as it is: {arrived:?}");
    let mut rest = &arrived[seen.len()..];
    for batch in batches {
        let expected = changes(batch);
        let n_lines = expected.values().sum::<usize>().min(rest.len());
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        rest[..n_lines].iter().for_each(|line| *found.entry(line.clone()).or_default() += 1);
        assert_eq!(found, expected, "{when}: the batch of {} arrives whole, and in its place", batch.to);
        rest = &rest[n_lines..];
    }
    assert_eq!(rest, Vec::<String>::new(), "{when}: nothing else arrives");
    *seen = arrived;
}
