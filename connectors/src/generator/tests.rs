use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use tidemill_core::source::{Changes, Offset, Offsets, Source, SourceBatch};

use crate::conformance;
use crate::declared::Declared;
use crate::registry::{create_source, source_columns};
use crate::spec::{Format, IncludeKind};

const BID: &str = "auction bigint!, bidder bigint!, price bigint!, channel text!, url text!, date_time timestamp!, extra text!";

fn generator(columns: &str) -> Declared {
    Declared::new("generator", columns)
}

fn source(declared: &Declared) -> Arc<dyn Source> {
    create_source(&declared.source()).unwrap()
}

async fn next(source: &dyn Source, split: usize, from: Option<u64>) -> SourceBatch {
    let split = source.splits().await.unwrap()[split].clone();
    let from = from.map_or(split.start, Offset::from);
    source.open(&split.id, &from).await.unwrap().next(None).await.unwrap().expect("there are rows")
}

fn rows(batch: &SourceBatch) -> &RecordBatch {
    let Changes::Append(rows) = &batch.changes else { panic!("the generator appends") };
    rows
}

async fn table(table: &str, columns: &str, events: u64) -> RecordBatch {
    let declared = generator(columns).with("table", table).with("events", events).with("batch_rows", 65536);
    rows(&next(&*source(&declared), 0, None).await).clone()
}

#[tokio::test]
async fn conforms() {
    for table in ["person", "auction", "bid"] {
        let declared = generator("date_time timestamp!, extra view").include(IncludeKind::Offset, "n bigint");
        let declared =
            declared.with("table", table).with("events", 330).with("splits", 3).with("batch_rows", 11);
        let transcript = conformance::check(&*source(&declared), &Offsets::new()).await;
        let n_rows = match table {
            "person" => 7,
            "auction" => 21,
            _ => 6 * 46 + 26,
        };
        assert_eq!(transcript.rows.len(), n_rows, "{table}");
    }
    let declared =
        generator("event_type bigint!, date_time timestamp!").with("events", 130).with("batch_rows", 7);
    assert_eq!(conformance::check(&*source(&declared), &Offsets::new()).await.rows.len(), 130);
    let declared = generator("n bigint!").with("data", "sequence").with("events", 10).with("batch_rows", 3);
    let transcript = conformance::check(&*source(&declared), &Offsets::new()).await;
    assert_eq!(transcript.rows, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn rate_conforms() {
    let declared = generator("n bigint!").with("data", "sequence").with("events", 40).with("rate", 4000);
    assert_eq!(conformance::check(&*source(&declared), &Offsets::new()).await.rows.len(), 40);
}

/// The stream of a seed is part of the interface: benchmarks and their answers rest on it.
#[tokio::test]
async fn rows_of_a_seed_never_change() {
    let declared = generator(BID).with("table", "bid").with("events", 6).with("seed", 42);
    let transcript = conformance::check(&*source(&declared), &Offsets::new()).await;
    let golden = "1002 | 1000 | 172 | Facebook | \
         https://www.nexmark.com/hfor/owej/ttwh/item.htm?query=1 | 2015-07-15T00:00:00 | \
         yhjusfmuidqrlgcvrxsndgirucbozegpmssaauhvtqgfwytejkvysptmpwqgrzzvmikaje\n\
         1000 | 1000 | 165106 | channel-4059 | \
         https://www.nexmark.com/xhvk/fwit/jfbx/item.htm?query=1&channel_id=1542455296 | \
         2015-07-15T00:00:00 | lmndgmmfyfsdaonpcmnfpzjhsuqsgbgjcnqzcflgefdemsmflfbgivlxh";
    assert_eq!(transcript.rows.join("\n"), golden);
}

#[tokio::test]
async fn fewer_columns_are_the_same_columns() {
    let all = table("bid", BID, 5000).await;
    let some = table("bid", "price bigint, url view, auction int", 5000).await;
    assert_eq!(all.column_by_name("price").unwrap(), some.column(0));
    assert_eq!(
        all.column_by_name("url").unwrap().as_string::<i32>().value(77),
        some.column(1).as_string_view().value(77)
    );
    assert_eq!(all.num_rows(), some.num_rows());
}

#[tokio::test]
async fn splits_deal_out_the_same_rows() {
    let read = async |splits: u64| {
        let declared = generator(BID).with("table", "bid").with("events", 1000).with("splits", splits);
        let mut rows = conformance::check(&*source(&declared), &Offsets::new()).await.rows;
        rows.sort();
        rows
    };
    assert_eq!(read(1).await, read(4).await);
}

#[tokio::test]
async fn ids_refer_to_what_has_been() {
    const EVENTS: u64 = 60_000;
    let people = table("person", "id bigint", EVENTS).await;
    let auctions =
        table("auction", "id bigint, seller bigint, date_time timestamp, expires timestamp", EVENTS).await;
    let bids = table("bid", "auction bigint, bidder bigint, date_time timestamp, price bigint", EVENTS).await;
    let ints =
        |batch: &RecordBatch, idx: usize| batch.column(idx).as_primitive::<Int64Type>().values().to_vec();
    let times = |batch: &RecordBatch, idx: usize| {
        batch.column(idx).as_primitive::<TimestampMicrosecondType>().values().to_vec()
    };
    assert_eq!((people.num_rows(), auctions.num_rows(), bids.num_rows()), (1200, 3600, 55200));
    assert_eq!(ints(&people, 0), (1000..2200).collect::<Vec<_>>());
    assert_eq!(ints(&auctions, 0), (1000..4600).collect::<Vec<_>>());
    // The auction with an id is as old as its place says.
    let opened = times(&auctions, 2);
    for ((auction, bidder), at) in ints(&bids, 0).iter().zip(ints(&bids, 1)).zip(times(&bids, 2)) {
        assert!(opened[(*auction - 1000) as usize] <= at, "auction {auction} has begun");
        assert!((1000..2200).contains(&bidder));
    }
    for (idx, seller) in ints(&auctions, 1).iter().enumerate() {
        assert!((1000..=1000 + idx as i64 / 3).contains(seller), "seller {seller} of auction {idx} exists");
    }
    assert!(times(&auctions, 3).iter().zip(&opened).all(|(expires, opened)| expires > opened));
    assert!(ints(&bids, 3).iter().all(|price| (100..=100_000_000).contains(price)));
    // Half of the bids go to one auction in a hundred.
    let hot = ints(&bids, 0).iter().filter(|auction| (**auction - 1000) % 100 == 0).count() as f64;
    let share = hot / bids.num_rows() as f64;
    assert!((0.45..0.56).contains(&share), "{share}");
    let distinct: HashSet<i64> = ints(&bids, 1).into_iter().collect();
    assert!(distinct.len() > 600, "{} bidders", distinct.len());
}

#[tokio::test]
async fn all_events_in_one_stream() {
    let schema = source_columns(&generator("").source()).await.unwrap().unwrap();
    let mut declared = generator("").with("events", 100);
    declared.schema = schema;
    let batch = next(&*source(&declared), 0, None).await;
    let rows = rows(&batch);
    assert_eq!(rows.num_rows(), 100);
    let bids = rows.column_by_name("bid").unwrap().as_struct();
    let alone = table("bid", "url text", 100).await;
    assert_eq!(
        bids.column_by_name("url").unwrap().as_string::<i32>().value(54),
        alone.column(0).as_string::<i32>().value(46)
    );
    use arrow::array::Array;
    assert_eq!(bids.null_count(), 8);
    assert_eq!(rows.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>(), 6 + 2 * 92);
}

#[tokio::test]
async fn rate_is_kept() {
    let declared = generator("n bigint!").with("data", "sequence").with("rate", 20_000);
    let source = source(&declared);
    let splits = source.splits().await.unwrap();
    let mut reader = source.open(&splits[0].id, &splits[0].start).await.unwrap();
    let began = Instant::now();
    let (mut n_rows, mut n_batches) = (0, 0);
    while began.elapsed() < Duration::from_millis(300) {
        let batch = reader.next(None).await.unwrap().unwrap();
        n_rows += batch.changes.len();
        n_batches += 1;
        // However slow the machine, nothing comes before it is due.
        assert!(n_rows as f64 <= began.elapsed().as_secs_f64() * 20_000.0 + 1.0);
    }
    assert!(n_batches <= 61, "batches collect rows for 5 ms: {n_batches}");
    assert!(n_rows > 600, "{n_rows}");
}

#[tokio::test]
async fn what_has_come_once_comes_again_at_once() {
    let declared = generator("n bigint!").with("data", "sequence").with("rate", 10);
    let source = source(&declared);
    let splits = source.splits().await.unwrap();
    let mut reader = source.open(&splits[0].id, &splits[0].start).await.unwrap();
    let until = Offset::from(20_000u64);
    let read = async {
        let mut n_rows = 0;
        while let Some(batch) = reader.next(Some(&until)).await.unwrap() {
            n_rows += batch.changes.len();
        }
        n_rows
    };
    // At its rate it would take half an hour.
    let n_rows = tokio::time::timeout(Duration::from_secs(30), read).await.expect("nothing waits");
    assert_eq!(n_rows, 20_000);
}

#[tokio::test]
async fn resumes_anywhere_at_once() {
    let declared = generator("n bigint!").with("data", "sequence");
    let batch = next(&*source(&declared), 0, Some(1 << 50)).await;
    assert_eq!(rows(&batch).column(0).as_primitive::<Int64Type>().value(0), 1 << 50);
}

#[test]
fn wrong_declarations_are_refused() {
    let error = |declared: &Declared| {
        let error = create_source(&declared.source()).unwrap_err();
        format!("{} {error} ({})", error.sqlstate, error.hint.as_deref().unwrap_or_default())
    };
    assert_eq!(
        error(&generator("prise bigint").with("table", "bid")),
        "42703 connector \"generator\" makes no column \"prise\" (Perhaps you meant \"price\".)"
    );
    assert_eq!(
        error(&generator("n bigint").with("data", "nexmrk")),
        "22023 option \"data\" of connector \"generator\" cannot be \"nexmrk\" (Expected one of nexmark, sequence.)"
    );
    assert!(
        error(&generator("url date").with("table", "bid").with("split", "2")).contains("no option \"split\"")
    );
    assert!(error(&generator("n bool").with("data", "sequence").with("splits", 0)).contains("cannot be 0"));
    assert!(
        error(&generator("n bigint").with("data", "sequence").format(Format::Upsert)).starts_with("0A000")
    );
    let included = generator("n bigint").with("data", "sequence").include(IncludeKind::Key, "k bytes");
    assert_eq!(error(&included), "0A000 connector \"generator\" has no key to INCLUDE (It has: offset.)");
}

/// Not a test of speed, but a way to look at it:
/// `cargo test --release -p tidemill-connectors bids_per_second -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn bids_per_second() {
    for columns in
        [BID, "auction bigint, price bigint, date_time timestamp", "auction bigint, url view, extra view"]
    {
        let declared = generator(columns).with("table", "bid");
        let source = source(&declared);
        let splits = source.splits().await.unwrap();
        let mut reader = source.open(&splits[0].id, &splits[0].start).await.unwrap();
        let began = Instant::now();
        let mut n_rows = 0;
        while began.elapsed() < Duration::from_secs(2) {
            n_rows += reader.next(None).await.unwrap().unwrap().changes.len();
        }
        println!("{:.1} M bids/s of {columns}", n_rows as f64 / began.elapsed().as_secs_f64() / 1e6);
    }
}
