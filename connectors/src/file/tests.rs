use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use tidemill_core::sink::{Delivery, SinkBatch, SinkWriter, Written};
use tidemill_core::source::{ConnectorError, Offset, Offsets, Source};
use tidemill_core::{Delta, Epoch};

use crate::conformance::{self, Transcript};
use crate::declared::Declared;
use crate::file::config::FileSinkConfig;
use crate::registry::{create_sink, create_source, source_columns, validate_sink, validate_source};
use crate::spec::{Encode, Format, IncludeKind};

fn file(path: &Path, columns: &str) -> Declared {
    Declared::new("file", columns).with("path", path.display())
}

fn source(declared: &Declared) -> Arc<dyn Source> {
    create_source(&declared.source()).unwrap()
}

async fn check(declared: &Declared) -> Transcript {
    conformance::check(&*source(declared), &Offsets::new()).await
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

const CSV: &str =
    "id,name,price\r\n1,a,1.5\r\n2,\"b\nc\",NA\r\n\r\nx,bad,1\r\n3,\"d\"\"e\",2\r\n4,torn\r\n5,last,9";

#[tokio::test]
async fn csv_conforms() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.csv"), CSV).unwrap();
    fs::write(directory.path().join("b.csv.gz"), gzip(CSV.as_bytes())).unwrap();
    for name in ["a.csv", "b.csv.gz"] {
        for batch_rows in [1, 2, 100] {
            let path = directory.path().join(name);
            let declared = file(&path, "name text!, id bigint")
                .encode(Encode::Csv, &[("header", "true"), ("null", "NA")])
                .include(IncludeKind::Offset, "at bigint")
                .with("batch_rows", batch_rows);
            let transcript = check(&declared).await;
            assert_eq!(transcript.rows, ["a | 1 | 15", "b\nc | 2 | 24", "d\"e | 3 | 47", "last | 5 | 67"]);
            let at = path.display();
            assert_eq!(
                transcript.bad,
                [
                    format!("{at}@38: 22P02: column \"id\": \"x\" is not a valid Int64 <x,bad,1>"),
                    format!("{at}@59: 22P04: the record has 2 fields where 3 are expected <4,torn>"),
                ]
            );
        }
    }
}

#[tokio::test]
async fn json_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.jsonl");
    fs::write(&path, "\u{feff}{\"a\":1}\n\n{\"a\":2}\r\nno\n  {\"a\":3}\n{\"a\":\"x\"}\n\n").unwrap();
    for batch_rows in [1, 100] {
        let declared =
            file(&path, "a bigint").include(IncludeKind::File, "f text").with("batch_rows", batch_rows);
        let transcript = check(&declared).await;
        assert_eq!(transcript.rows, [1, 2, 3].map(|n| format!("{n} | {}", path.display())));
        assert_eq!(transcript.bad.len(), 2);
    }
}

fn parquet(path: &Path, n_rows: i64) {
    let ids: ArrayRef =
        Arc::new(Int64Array::from_iter((0..n_rows).map(|n| (n % 7 != 3).then_some(n * 1_000_000_000))));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..n_rows).map(|n| format!("n{n}"))));
    let rows = RecordBatch::try_from_iter([("id", ids), ("unused", names.clone()), ("name", names)]).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

#[tokio::test]
async fn parquet_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.parquet");
    parquet(&path, 20);
    // Ids from 3 on do not fit, and 3 and 10 are NULL.
    let declared =
        file(&path, "name view, id int").include(IncludeKind::Offset, "at bigint").with("batch_rows", 6);
    let transcript = check(&declared).await;
    assert_eq!(
        transcript.rows,
        [
            "n0 | 0 | 0",
            "n1 | 1000000000 | 1",
            "n2 | 2000000000 | 2",
            "n3 | NULL | 3",
            "n10 | NULL | 10",
            "n17 | NULL | 17"
        ]
    );
    assert_eq!(transcript.bad.len(), 14);
    assert!(
        transcript.bad[0].contains("@4: 22003: column \"id\"") && transcript.bad[0].contains("4000000000")
    );
    let schema = source_columns(&declared.source()).await.unwrap().unwrap();
    assert_eq!(schema.field(1).name(), "unused");

    let strict = file(&path, "id bigint!").with("batch_rows", 100);
    let transcript = check(&strict).await;
    assert_eq!((transcript.rows.len(), transcript.bad.len()), (17, 3));
    assert!(transcript.bad[0].contains("@3: 23502"), "{:?}", transcript.bad);
}

#[tokio::test]
async fn upserts_and_envelopes_of_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    fs::write(&path, "{\"after\":{\"a\":1},\"op\":\"c\"}\n{\"before\":{\"a\":1},\"op\":\"d\"}\n").unwrap();
    let declared = file(&path, "a bigint").format(Format::Debezium).with("batch_rows", 1);
    assert_eq!(check(&declared).await.rows, ["1 | 1", "1 | -1"]);
    parquet(&directory.path().join("p.parquet"), 2);
    let declared =
        file(&directory.path().join("p.parquet"), "name text!, id bigint").format(Format::Upsert).key(&[0]);
    assert_eq!(check(&declared).await.rows, ["+ n0 | 0", "+ n1 | 1000000000"]);
}

#[tokio::test]
async fn open_quote_costs_its_line_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.csv");
    fs::write(&path, "1,a\n2,\"open\n3,c\n4,d\n").unwrap();
    let declared = file(&path, "a bigint, b text").with("batch_rows", 1);
    let transcript = check(&declared).await;
    assert_eq!(transcript.rows, ["1 | a", "3 | c", "4 | d"]);
    assert_eq!(transcript.bad, [format!("{}@4: 22P04: a quote is not closed <2,\"open>", path.display())]);

    fs::write(&path, format!("1,a\n2,{}\n3,c\n", "x".repeat(200))).unwrap();
    let transcript = check(&declared.with("max_record_bytes", 100)).await;
    assert_eq!(transcript.rows, ["1 | a", "3 | c"]);
    assert!(transcript.bad[0].contains("longer than 100 bytes"), "{:?}", transcript.bad);
}

#[tokio::test]
async fn directory_and_pattern_list_their_files() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["b.csv", "a.csv", ".hidden.csv", "_tmp.csv", "c.txt"] {
        fs::write(directory.path().join(name), "1\n").unwrap();
    }
    let names = async |declared: Declared| -> Vec<String> {
        let splits = source(&declared.encode(Encode::Csv, &[])).splits().await.unwrap();
        splits.iter().map(|split| split.id.0.rsplit('/').next().unwrap().to_string()).collect()
    };
    assert_eq!(names(file(directory.path(), "a bigint")).await, ["a.csv", "b.csv", "c.txt"]);
    assert_eq!(names(file(&directory.path().join("*.csv"), "a bigint")).await, ["a.csv", "b.csv"]);
}

#[tokio::test]
async fn watching_follows_files_that_grow() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.csv");
    let declared = file(directory.path(), "b bigint")
        .encode(Encode::Csv, &[("header", "true")])
        .with("watch", "true")
        .with("discovery_interval", "20ms");
    let source = source(&declared);
    assert!(!source.is_bounded());
    assert!(source.splits().await.unwrap().is_empty());

    let append = |text: &str| {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    append("a,");
    let splits = source.splits().await.unwrap();
    let mut reader = source.open(&splits[0].id, &splits[0].start).await.unwrap();
    let mut seen = Transcript::default();
    // Pieces that end within the header, within a record and behind one.
    for (piece, n_rows) in [("b\n1,1\n2,", 1), ("2", 1), ("0\n", 2), ("3,30\n4,", 3), ("40\n", 4)] {
        append(piece);
        while seen.rows.len() < n_rows {
            let batch =
                tokio::time::timeout(Duration::from_secs(20), reader.next(None)).await.unwrap().unwrap();
            seen.add(&splits[0].id, &batch.expect("the file may grow"));
        }
        assert!(
            tokio::time::timeout(Duration::from_millis(30), reader.next(None)).await.is_err(),
            "no more yet"
        );
        assert_eq!(seen.rows.len(), n_rows);
    }
    assert_eq!(seen.rows, ["1", "20", "30", "40"]);

    fs::write(&path, "a,b\n").unwrap();
    let error = loop {
        match reader.next(None).await {
            Ok(_) => continue,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("is shorter than what has been read"), "{error}");
}

#[tokio::test]
async fn missing_files_and_columns_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = async |declared: &Declared| validate_source(&declared.source()).await.unwrap_err();
    let missing = error(&file(&directory.path().join("no.csv"), "a bigint")).await;
    assert_eq!(missing.sqlstate.0, "58P01");
    assert!(missing.to_string().contains("no.csv\": No such file"), "{missing}");
    let missing = error(&file(&directory.path().join("*.csv"), "a bigint")).await;
    assert!(missing.to_string().ends_with("*.csv\" matches no file"), "{missing}");

    let path = directory.path().join("a.csv");
    fs::write(&path, "carrier,name\n").unwrap();
    let declared = file(&path, "carier text").encode(Encode::Csv, &[("header", "true")]);
    let missing = error(&declared).await;
    assert_eq!(missing.sqlstate.0, "42703");
    assert_eq!(missing.hint.as_deref(), Some("Perhaps you meant \"carrier\"."));
    let schema = source_columns(&declared.source()).await.unwrap().unwrap();
    assert_eq!(schema.field(0).name(), "carrier");

    parquet(&directory.path().join("a.parquet"), 1);
    let missing = error(&file(&directory.path().join("a.parquet"), "nam text")).await;
    assert_eq!(missing.hint.as_deref(), Some("Perhaps you meant \"name\"."));
    let missing = error(&file(&path, "a bigint").encode(Encode::Parquet, &[])).await;
    assert!(missing.to_string().contains("not readable as Parquet"), "{missing}");
}

#[test]
fn wrong_declarations_are_refused() {
    let path = Path::new("/nowhere/data");
    let error = |declared: &Declared| create_source(&declared.source()).unwrap_err().to_string();
    assert_eq!(error(&file(path, "a bigint")), "path \"/nowhere/data\" does not tell what its files hold");
    assert_eq!(
        error(&file(path, "a bigint").encode(Encode::Csv, &[("heder", "true")])),
        "ENCODE CSV has no option \"heder\""
    );
    assert_eq!(
        error(&Declared::new("file", "a bigint").encode(Encode::Json, &[])),
        "connector \"file\" needs the option \"path\""
    );
    assert_eq!(
        error(&file(path, "a bigint").encode(Encode::Csv, &[("delimiter", ",,")])),
        "option \"delimiter\" of ENCODE CSV cannot be \",,\""
    );
    assert!(error(&file(path, "a bigint").encode(Encode::Bytes, &[])).contains("cannot read ENCODE BYTES"));
}

fn batch(to: u64, rows: &[(i64, &str, i64)]) -> SinkBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let schema = Declared::new("file", "id bigint, name text").schema;
    let rows = RecordBatch::try_new(schema, vec![ids, names]).unwrap();
    SinkBatch { from: Epoch(to - 1), to: Epoch(to), delta: Delta::weighted(&rows, weights) }
}

fn sink(path: &Path) -> Declared {
    file(path, "id bigint, name text")
}

#[tokio::test]
async fn sink_conforms() {
    for (encode, compression) in
        [(Encode::Json, "none"), (Encode::Csv, "gzip"), (Encode::Json, "gzip"), (Encode::Parquet, "zstd")]
    {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let declared = sink(&out).encode(encode, &[]).with("compression", compression);
        let declared = declared.retracting().with("op_column", "op");
        let options: &[(&str, &str)] = if encode == Encode::Csv { &[("header", "true")] } else { &[] };
        let written = file(&out, "op text, id bigint, name text").encode(encode, options);
        let arrived = async || {
            if !out.exists() {
                return Some(Vec::new());
            }
            let line = |row: String| row.replacen("insert |", "+", 1).replacen("delete |", "-", 1);
            Some(check(&written).await.rows.into_iter().map(line).collect())
        };
        conformance::sink::check(&*create_sink(&declared.sink()).unwrap(), arrived).await;
    }
}

#[tokio::test]
async fn sink_refuses_unknown_options() {
    let declared = sink(Path::new("/tmp/nowhere"));
    let create = |name: &str, value: &str| create_sink(&declared.clone().with(name, value).sink());
    conformance::sink::check_options(FileSinkConfig::DOCS, create);
}

#[tokio::test]
async fn sink_whose_directory_is_a_file_fails() {
    let place = tempfile::NamedTempFile::new().unwrap();
    let error = conformance::sink::check_broken(&*create_sink(&sink(place.path()).sink()).unwrap()).await;
    assert!(error.to_string().contains(&place.path().display().to_string()), "{error}");
}

const ANY: Written = Written { surely: Epoch::ZERO, perhaps: Epoch(1000) };

/// The files below a directory that readers see, with their content, by name.
fn tree(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            if name.split('/').any(|part| part.starts_with(['.', '_'])) {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn names(directory: &Path) -> Vec<String> {
    tree(directory).into_keys().collect()
}

async fn write_all(writer: &mut dyn SinkWriter, batches: &[SinkBatch]) {
    for batch in batches {
        writer.write(batch).await.unwrap();
    }
}

#[tokio::test]
async fn sink_writes_a_file_for_each_flush() {
    for (encode, compression) in
        [(Encode::Json, "none"), (Encode::Json, "gzip"), (Encode::Csv, "gzip"), (Encode::Parquet, "zstd")]
    {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("deep/out");
        let declared = sink(&out).encode(encode, &[]).with("compression", compression);
        validate_sink(&declared.sink()).await.unwrap();
        let made = create_sink(&declared.sink()).unwrap();
        assert_eq!(made.delivery(), Delivery::ExactlyOnce);
        let mut writer = made.open(ANY).await.unwrap();
        assert!(writer.flush_at().is_none(), "there is nothing to gather");
        writer.write(&batch(2, &[(1, "a", 1), (2, "b,\"\n", 2)])).await.unwrap();
        assert!(writer.flush_at().is_some_and(|at| at <= Instant::now()), "nothing is waited for");
        writer.flush().await.unwrap();
        write_all(&mut *writer, &[batch(10, &[(3, "c", 1)]), batch(11, &[])]).await;
        writer.flush().await.unwrap();
        let before = tree(&out);
        let ending = before.keys().next().unwrap().split_once('.').unwrap().1.to_owned();
        assert_eq!(names(&out), [2, 11].map(|to| format!("s-{to:020}.{ending}")));

        // After a crash, and under another name: it says what is there.
        let renamed = create_sink(&declared.clone().named("renamed").sink()).unwrap();
        let mut writer = renamed.open(ANY).await.unwrap();
        assert_eq!(writer.reached(), Some(Epoch(11)));
        writer.write(&batch(12, &[])).await.unwrap();
        writer.flush().await.unwrap();
        assert_eq!(tree(&out), before);

        // What the sink writes the source reads.
        let options: &[(&str, &str)] = if encode == Encode::Csv { &[("header", "true")] } else { &[] };
        let read = sink(&out).encode(encode, options);
        assert_eq!(check(&read).await.rows, ["1 | a", "2 | b,\"\n", "2 | b,\"\n", "3 | c"]);
    }
}

#[tokio::test]
async fn sink_makes_folders_of_columns() {
    for encode in [Encode::Json, Encode::Csv, Encode::Parquet] {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        let declared = sink(out).encode(encode, &[]).with("partition_by", "name").retracting();
        let declared = declared.with("op_column", "op");
        let mut writer = create_sink(&declared.sink()).unwrap().open(ANY).await.unwrap();
        let rows = [(1, "x/y", -1), (2, "x/y", 1), (3, "", 1), (4, "z", 1)];
        write_all(&mut *writer, &[batch(1, &rows), batch(2, &[(5, "z", 1)])]).await;
        writer.flush().await.unwrap();
        let file = names(out)[0].rsplit('/').next().unwrap().to_owned();
        assert_eq!(names(out), ["name=", "name=x%2Fy", "name=z"].map(|folder| format!("{folder}/{file}")));
        let options: &[(&str, &str)] = if encode == Encode::Csv { &[("header", "true")] } else { &[] };
        for (folder, expected) in
            [("name=x%2Fy", vec!["delete | 1", "insert | 2"]), ("name=z", vec!["insert | 4", "insert | 5"])]
        {
            let read =
                crate::file::tests::file(&out.join(folder), "op text, id bigint").encode(encode, options);
            assert_eq!(check(&read).await.rows, expected, "{folder}");
        }
    }
    let refused = |declared: Declared| create_sink(&declared.sink()).unwrap_err().to_string();
    let declared = sink(Path::new("/tmp/x")).with("partition_by", "name").retracting();
    assert!(refused(declared.clone().format(Format::Debezium)).contains("an update may be of two folders"));
    assert!(
        refused(declared.with("op_column", "op").with("partition_by", "nam"))
            .contains("\"nam\" of partition_by")
    );
    assert!(refused(sink(Path::new("/tmp/x")).with("roll_size", "5GB")).contains("cannot be 5GB"));
    assert!(refused(sink(Path::new("gs://bucket/x"))).contains("\"gs://\""));
}

#[tokio::test]
async fn sink_gathers_by_time_and_size() {
    let directory = tempfile::tempdir().unwrap();
    let declared = sink(directory.path()).with("roll_size", "80kB").with("roll_interval", "1 hour");
    let made = create_sink(&declared.sink()).unwrap();
    let mut writer = made.open(ANY).await.unwrap();
    let many: Vec<(i64, &str, i64)> = (0..1000).map(|id| (id, "abcdefghij", 1)).collect();
    writer.write(&batch(1, &many)).await.unwrap();
    let at = writer.flush_at().expect("it waits for more");
    assert!(at > Instant::now() + Duration::from_secs(3500));
    writer.write(&batch(2, &many)).await.unwrap();
    assert_eq!(writer.flush_at(), Some(at), "the first row counts");
    assert_eq!(names(directory.path()), Vec::<String>::new());
    writer.write(&batch(3, &many)).await.unwrap();
    assert_eq!(writer.flush_at(), None, "a file is full");
    writer.flush().await.unwrap();
    assert_eq!(names(directory.path()), ["s-00000000000000000003.jsonl"]);

    // More than a file takes becomes several.
    let all: Vec<(i64, &str, i64)> = (0..30_000).map(|id| (id, "abcdefghij", 1)).collect();
    writer.write(&batch(4, &all)).await.unwrap();
    writer.flush().await.unwrap();
    let files = tree(directory.path());
    let sizes: Vec<(&str, usize)> =
        files.iter().skip(1).map(|(name, bytes)| (&name[21..], bytes.len())).collect();
    assert_eq!(
        sizes.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["4-0000.jsonl", "4-0001.jsonl", "4-0002.jsonl", "4-0003.jsonl"]
    );
    assert!(sizes.iter().all(|(_, n_bytes)| *n_bytes < 500_000), "{sizes:?}");
}

#[tokio::test]
async fn sink_completes_what_a_crash_has_left() {
    let batches = [
        batch(1, &[(1, "a", 1), (2, "b", 1)]),
        batch(2, &[(3, "a", 1), (4, "c", 1)]),
        batch(3, &[(5, "a", 1)]),
    ];
    // What stands at the destination when a server is killed while it writes the first two as one group: nothing, the
    // progress, then one file after the other.
    for n_there in 0..=4usize {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        let declared = sink(out).with("partition_by", "name");
        let made = create_sink(&declared.sink()).unwrap();
        let mut writer = made.open(ANY).await.unwrap();
        write_all(&mut *writer, &batches[..2]).await;
        writer.flush().await.unwrap();
        drop(writer);
        let whole = tree(out);
        assert_eq!(whole.len(), 3);
        let files: Vec<&String> = whole.keys().collect();
        let progress = out.join("_tidemill/_s");
        match n_there {
            0 => fs::remove_file(&progress).unwrap(),
            _ => {
                let begun = serde_json::json!({"reached": 0, "writing": {"to": 2, "files": files}});
                fs::write(&progress, begun.to_string()).unwrap();
            }
        }
        for name in files.iter().skip(n_there.saturating_sub(1)) {
            fs::remove_file(out.join(name)).unwrap();
        }

        // The next one gets all three at once, and gathers for longer.
        let made = create_sink(&declared.named("renamed").with("roll_interval", "1 hour").sink()).unwrap();
        let mut writer = made.open(ANY).await.unwrap();
        assert_eq!(writer.reached(), Some(Epoch(0)));
        write_all(&mut *writer, &batches).await;
        if n_there > 0 {
            assert_eq!(tree(out), whole, "{n_there}: what was begun is complete before anything else");
        }
        writer.flush().await.unwrap();
        let mut lines: Vec<String> = Vec::new();
        for (name, content) in tree(out) {
            let folder = name.split_once('/').unwrap().0;
            lines.extend(String::from_utf8(content).unwrap().lines().map(|line| format!("{folder} {line}")));
        }
        lines.sort();
        let expected = [("a", 1), ("a", 3), ("a", 5), ("b", 2), ("c", 4)];
        assert_eq!(lines, expected.map(|(name, id)| format!("name={name} {{\"id\":{id}}}")), "{n_there}");
        assert_eq!(made.open(ANY).await.unwrap().reached(), Some(Epoch(3)));
    }
}

#[tokio::test]
async fn sink_does_not_go_on_at_another_place() {
    let directory = tempfile::tempdir().unwrap();
    let made = create_sink(&sink(directory.path()).sink()).unwrap();
    let mut writer = made.open(ANY).await.unwrap();
    writer.write(&batch(5, &[(1, "a", 1)])).await.unwrap();
    writer.flush().await.unwrap();
    let said = async |surely: u64, perhaps: u64| {
        let written = Written { surely: Epoch(surely), perhaps: Epoch(perhaps) };
        made.open(written).await.err().map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(said(5, 5).await, "");
    assert!(said(0, 4).await.contains("epoch 5, but this server wrote no more than 4"));
    assert!(said(6, 6).await.contains("epoch 5, but it had 6 before"));
    // Begun by another one, which knew more.
    let progress = directory.path().join("_tidemill/_s");
    fs::write(&progress, r#"{"reached": 5, "writing": {"to": 8, "files": []}}"#).unwrap();
    assert!(said(5, 7).await.contains("epoch 8, but this server wrote no more than 7"));
    fs::remove_file(&progress).unwrap();
    assert!(said(5, 7).await.contains("has forgotten how far this sink has come"));
    assert_eq!(said(5, 5).await, "", "all has arrived");
    fs::write(&progress, "x").unwrap();
    assert!(said(5, 5).await.contains("does not say how far sink \"s\" is"));
}

#[tokio::test]
async fn sink_writes_changes_if_asked() {
    let directory = tempfile::tempdir().unwrap();
    let write = async |declared: Declared| -> Result<String, ConnectorError> {
        let mut writer = create_sink(&declared.sink())?.open(ANY).await?;
        writer.write(&batch(1, &[(1, "a", -1), (1, "b", 1)])).await?;
        writer.flush().await?;
        // Each of them begins anew.
        fs::remove_dir_all(directory.path().join("_tidemill")).unwrap();
        Ok(fs::read_to_string(directory.path().join("s-00000000000000000001.jsonl")).unwrap())
    };
    let declared = sink(directory.path()).retracting();
    let error = write(declared.clone()).await.unwrap_err();
    assert_eq!(error.sqlstate.0, "0A000");
    let written = write(declared.clone().with("op_column", "op")).await.unwrap();
    assert_eq!(written.lines().next(), Some("{\"op\":\"delete\",\"id\":1,\"name\":\"a\"}"));
    let written = write(declared.clone().with("force_append_only", "true")).await.unwrap();
    assert_eq!(written, "{\"id\":1,\"name\":\"b\"}\n");
    let written = write(declared.clone().format(Format::Debezium).key(&[0])).await.unwrap();
    assert_eq!(written.lines().count(), 1);
    let error = write(declared.format(Format::Upsert).key(&[0])).await.unwrap_err();
    assert!(error.to_string().contains("cannot write FORMAT UPSERT"), "{error}");
}

#[tokio::test]
async fn sink_without_place_says_so() {
    let declared = sink(Path::new("/proc/no/such"));
    let error = validate_sink(&declared.sink()).await.unwrap_err();
    assert!(error.to_string().contains("/proc/no/such"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The conformance suite over any content at all.
    #[test]
    fn any_text_conforms(
        text in "([a-c0-9]{0,3}[,\"\n\r]{1,2}){0,12}[a-c]{0,2}",
        batch_rows in 1u64..4,
        zipped: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(if zipped { "t.csv.gz" } else { "t.csv" });
        fs::write(&path, if zipped { gzip(text.as_bytes()) } else { text.clone().into_bytes() }).unwrap();
        let declared = file(&path, "a text, b text").with("batch_rows", batch_rows)
            .encode(Encode::Csv, &[]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&declared));
    }
}

#[tokio::test]
async fn large_file_keeps_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.csv.gz");
    // Several times what is read at once, with records across the borders.
    let text: String = (0..300_000).map(|n| format!("{n},\"x\ny\"\n")).collect();
    fs::write(&path, gzip(text.as_bytes())).unwrap();
    let source = source(&file(&path, "n bigint, t text"));
    let id = source.splits().await.unwrap()[0].id.clone();
    let mut reader = source.open(&id, &Offset::from(0)).await.unwrap();
    let (mut n_rows, mut n_bytes) = (0, 0);
    while let Some(batch) = reader.next(None).await.unwrap() {
        let mut seen = Transcript::default();
        seen.add(&id, &batch);
        assert!(seen.bad.is_empty());
        assert_eq!(seen.rows[0], format!("{n_rows} | x\ny"));
        n_rows += seen.rows.len();
        n_bytes += batch.n_bytes;
    }
    assert_eq!((n_rows, n_bytes), (300_000, text.len()));
}
