use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use proptest::prelude::*;
use tidemill_core::sink::SinkBatch;
use tidemill_core::source::{Changes, ConnectorError, Offset, SourceBatch, SplitId};
use tidemill_core::{Delta, Epoch};

use crate::conformance::Transcript;
use crate::declared::Declared;
use crate::formats::Decoder;
use crate::formats::changelog::{self, Changelog};
use crate::formats::csv::{Dialect, RecordEnd};
use crate::formats::records::{Record, Records};
use crate::spec::{Encode, Format, IncludeKind};

/// Decodes `(key, value)` records; a change a line, bad records behind them.
fn decode(declared: &Declared, records: &[(Option<&str>, Option<&str>)]) -> Vec<String> {
    let spec = declared.source();
    let decoder = Decoder::new(&spec, spec.encode).unwrap();
    decode_with(&decoder, records)
}

fn decode_with(decoder: &Decoder, records: &[(Option<&str>, Option<&str>)]) -> Vec<String> {
    let mut bytes = Vec::new();
    let mut copy = |text: &str| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.len() - text.len()..bytes.len()
    };
    let record = |(idx, (key, value)): (usize, &(Option<&str>, Option<&str>))| Record {
        key: key.map(&mut copy),
        value: value.map(&mut copy),
        offset: idx as i64 + 10,
        timestamp_millis: Some(1000),
        headers: 0..0,
    };
    let list: Vec<Record> = records.iter().enumerate().map(record).collect();
    let records = Records { bytes: &bytes, records: &list, headers: &[], partition: Some(3), file: None };
    let (changes, bad) = decoder.decode(&records);
    assert!(bad.is_sorted_by_key(|(idx, _)| *idx), "bad records come in order: {bad:?}");
    let mut transcript = Transcript::default();
    let batch = SourceBatch { changes, next: Offset::from(0), bad: Vec::new(), n_bytes: 0 };
    transcript.add(&SplitId::from("0"), &batch);
    let bad = bad.into_iter().map(|(idx, fault)| format!("bad {idx}: {} {}", fault.sqlstate, fault.reason));
    transcript.rows.into_iter().chain(bad).collect()
}

/// Decodes values without keys.
fn values(declared: &Declared, values: &[&str]) -> Vec<String> {
    let records: Vec<_> = values.iter().map(|value| (None, Some(*value))).collect();
    decode(declared, &records)
}

fn refused(declared: &Declared) -> ConnectorError {
    let spec = declared.source();
    Decoder::new(&spec, spec.encode).unwrap_err()
}

fn json(columns: &str) -> Declared {
    Declared::new("kafka", columns).encode(Encode::Json, &[])
}

fn csv(columns: &str, options: &[(&str, &str)]) -> Declared {
    Declared::new("kafka", columns).encode(Encode::Csv, options)
}

#[test]
fn json_objects_become_rows() {
    let declared = json("id bigint!, name text, price double, ok bool");
    let rows = values(
        &declared,
        &[r#"{"id": 1, "name": "a", "price": 1.5, "ok": true, "other": [1]}"#, r#" {"name": 7, "id": "2"} "#],
    );
    assert_eq!(rows, ["1 | a | 1.5 | true", "2 | 7 | NULL | NULL"]);
}

#[test]
fn bad_json_costs_itself_only() {
    let declared = json("id bigint!, name text");
    let rows = values(
        &declared,
        &[
            r#"{"id": 1}"#,
            "no json",
            r#"{"id": "x"}"#,
            r#"{"id": 2}"#,
            r#"{"id": 3"#,
            r#"{"name": "a"}"#,
            r#"{"id": 4} {"id": 5}"#,
            "",
            r#"[1]"#,
            r#"{"id": 6}"#,
            r#"{"id": 7} x"#,
        ],
    );
    assert_eq!(rows[..3], ["1 | NULL", "2 | NULL", "6 | NULL"]);
    let reasons: Vec<&str> = rows[3..].iter().map(String::as_str).collect();
    assert_eq!(reasons.len(), 8, "{reasons:#?}");
    assert!(reasons[0].starts_with("bad 1: 22P02"), "{reasons:#?}");
    assert!(reasons[1].starts_with("bad 2: 22P02") && reasons[1].contains("'id'"), "{reasons:#?}");
    assert_eq!(reasons[2], "bad 4: 22P02 the record ends within a JSON value");
    assert_eq!(reasons[3], "bad 5: 23502 column \"id\" is NULL but must not be");
    assert_eq!(reasons[4], "bad 6: 22P02 the record is more than one JSON value");
    assert_eq!(reasons[5], "bad 7: 22P02 the record is empty");
    assert!(reasons[6].starts_with("bad 8"), "{reasons:#?}");
    assert!(reasons[7].starts_with("bad 10"), "{reasons:#?}");
}

#[test]
fn json_timestamps_in_every_form() {
    let declared = json("at timestamp");
    let rows = values(
        &declared,
        &[
            r#"{"at": "2013-01-01T10:00:00Z"}"#,
            r#"{"at": "2013-01-01 10:00:00.123456"}"#,
            r#"{"at": "2013-01-01T10:00:00+02:00"}"#,
            r#"{"at": "2013-01-01"}"#,
            r#"{"at": 1357034400123}"#,
            r#"{"at": null}"#,
            r#"{"at": "soon"}"#,
        ],
    );
    assert_eq!(
        rows,
        [
            "2013-01-01T10:00:00",
            "2013-01-01T10:00:00.123456",
            "2013-01-01T08:00:00",
            "2013-01-01T00:00:00",
            "2013-01-01T10:00:00.123",
            "NULL",
            "bad 6: 22007 column \"at\": \"soon\" is not a valid Timestamp(µs)",
        ]
    );
    let declared = json("at timestamp").encode(Encode::Json, &[("timestamp_unit", "us")]);
    assert_eq!(values(&declared, &[r#"{"at": 1357034400000001}"#]), ["2013-01-01T10:00:00.000001"]);
}

#[test]
fn csv_fields_become_columns() {
    let declared = csv("id bigint!, name text, price decimal, at timestamp", &[("null", "NA")]);
    let rows = values(
        &declared,
        &[
            "1,a,1.5,2013-01-01T10:00:00Z",
            "2,NA,NA,NA",
            "3,\"NA\",,",
            "4,\"say \"\"hi\"\", x\",2,2013-01-01",
            " 5 ,, 2 ,NA",
            "x,a,1,NA",
            "6,a,1",
            "7,a,1,NA,9",
            "NA,a,1,NA",
            "8,5\" disk,1,NA",
        ],
    );
    assert_eq!(
        rows,
        [
            "1 | a | 1.50 | 2013-01-01T10:00:00",
            "2 | NULL | NULL | NULL",
            "3 | NA | NULL | NULL",
            "4 | say \"hi\", x | 2.00 | 2013-01-01T00:00:00",
            "5 |  | 2.00 | NULL",
            "8 | 5\" disk | 1.00 | NULL",
            "bad 5: 22P02 column \"id\": \"x\" is not a valid Int64",
            "bad 6: 22P04 the record has 3 fields of 4: none for column \"at\"",
            "bad 7: 22P04 the record has 5 fields where 4 are expected",
            "bad 8: 23502 column \"id\" is NULL but must not be",
        ]
    );
}

#[test]
fn csv_empty_text_is_null_unless_quoted() {
    assert_eq!(values(&csv("a text, b text", &[]), &[",\"\""]), ["NULL | "]);
    assert_eq!(
        values(&csv("a text, b text", &[("delimiter", "\\t"), ("quote", "'")]), &["x\t'y\tz'"]),
        ["x | y\tz"]
    );
    assert_eq!(values(&csv("a text", &[("escape", "\\")]), &[r#""a\"b""#]), ["a\"b"]);
}

#[test]
fn csv_header_finds_columns_by_name() {
    let declared = csv("b bigint, a text", &[("header", "true")]);
    let mut decoder = Decoder::new(&declared.source(), Encode::Csv).unwrap();
    let header = ["a".to_string(), "x".to_string(), "b".to_string()];
    decoder.set_csv_header(&header, "f.csv").unwrap();
    assert_eq!(decode_with(&decoder, &[(None, Some("1,2,3"))]), ["3 | 1"]);
    let error = decoder.set_csv_header(&["name".to_string(), "bb".to_string()], "f.csv").unwrap_err();
    assert_eq!(error.to_string(), "file \"f.csv\" has no column \"b\"");
    assert_eq!(error.hint.as_deref(), Some("Perhaps you meant \"bb\"."));
}

#[test]
fn bytes_are_taken_as_they_are() {
    let declared = Declared::new("kafka", "line text")
        .encode(Encode::Bytes, &[])
        .include(IncludeKind::Offset, "at bigint");
    assert_eq!(values(&declared, &["{not json", ""]), ["{not json | 10", " | 11"]);
    let error = refused(&Declared::new("kafka", "a text, b text").encode(Encode::Bytes, &[]));
    assert_eq!(error.to_string(), "ENCODE BYTES fills one column, but 2 are declared");
}

#[test]
fn included_columns_stand_beside_the_value() {
    let declared = json("a bigint")
        .include(IncludeKind::Key, "k text")
        .include(IncludeKind::Partition, "p int")
        .include(IncludeKind::Offset, "o bigint")
        .include(IncludeKind::Timestamp, "t timestamp")
        .include(IncludeKind::Header(Some("h".to_string())), "h bytes");
    let rows = decode(&declared, &[(Some("x"), Some(r#"{"a":1}"#)), (None, Some("bad")), (None, Some("{}"))]);
    assert_eq!(
        rows[..2],
        ["1 | x | 3 | 10 | 1970-01-01T00:00:01 | NULL", "NULL | NULL | 3 | 12 | 1970-01-01T00:00:01 | NULL",]
    );
}

#[test]
fn plain_record_without_value_is_bad() {
    assert_eq!(decode(&json("a bigint"), &[(Some("k"), None)]), ["bad 0: 22004 the record has no value"]);
}

#[test]
fn upsert_replaces_and_deletes_in_order() {
    let declared = json("id bigint!, name text!").format(Format::Upsert).key(&[0]);
    let rows = decode(
        &declared,
        &[
            (Some("1"), Some(r#"{"id":1,"name":"a"}"#)),
            (Some("1"), None),
            (Some(r#"{"id":2}"#), Some(r#"{"name":"b"}"#)),
            (Some("\"3\""), Some("null")),
            (Some("x"), None),
            (None, None),
            (Some("4"), Some(r#"{"id":4}"#)),
            (Some("5"), Some("junk")),
            (Some("6"), Some(r#"{"name":"c"}"#)),
        ],
    );
    assert_eq!(rows[..5], ["+ 1 | a", "- 1 | ", "+ 2 | b", "- 3 | ", "+ 6 | c"]);
    let reasons = &rows[5..];
    assert_eq!(reasons.len(), 4, "{reasons:#?}");
    assert_eq!(reasons[0], "bad 4: 22P02 column \"id\": \"x\" is not a valid Int64");
    assert_eq!(reasons[1], "bad 5: 22004 the record has neither key nor value");
    assert_eq!(reasons[2], "bad 6: 23502 column \"name\" is NULL but must not be");
    assert!(reasons[3].starts_with("bad 7: 22P02"), "{reasons:#?}");
}

#[test]
fn upsert_by_included_key() {
    let declared = json("name text").include(IncludeKind::Key, "k text!").format(Format::Upsert).key(&[1]);
    let rows =
        decode(&declared, &[(Some("x"), Some(r#"{"name":"a"}"#)), (Some("x"), None), (None, Some("{}"))]);
    assert_eq!(rows, ["+ a | x", "- NULL | x", "bad 2: 23502 column \"k\" is NULL but must not be"]);
}

#[test]
fn upsert_with_a_key_of_two_columns() {
    let declared = json("a bigint!, b text!, c bigint").format(Format::Upsert).key(&[0, 1]);
    let rows = decode(
        &declared,
        &[
            (Some(r#"{"a":1,"b":"x"}"#), Some(r#"{"a":1,"b":"x","c":5}"#)),
            (Some(r#"{"a":1,"b":"x"}"#), None),
            (Some(r#"{"a":1}"#), None),
        ],
    );
    assert_eq!(rows, ["+ 1 | x | 5", "- 1 | x | NULL", "bad 2: 23502 column \"b\" is NULL but must not be",]);
    let error = refused(&json("a bigint").format(Format::Upsert));
    assert_eq!(error.to_string(), "source \"s\" is upsert but has no primary key");
}

#[test]
fn debezium_with_key_upserts() {
    let declared = json("id bigint!, name text!").format(Format::Debezium).key(&[0]);
    let rows = decode(
        &declared,
        &[
            (None, Some(r#"{"before":null,"after":{"id":1,"name":"a"},"op":"r"}"#)),
            (None, Some(r#"{"schema":{},"payload":{"before":null,"after":{"id":2,"name":"b"},"op":"c"}}"#)),
            (None, Some(r#"{"before":{"id":1,"name":"a"},"after":{"id":1,"name":"z"},"op":"u","ts_ms":1}"#)),
            (None, Some(r#"{"before":{"id":2},"after":null,"op":"d"}"#)),
            (Some("2"), None),
            (None, Some(r#"{"id":2}"#)),
            (None, Some(r#"{"op":"d"}"#)),
            (None, Some(r#"{"op":"t"}"#)),
            (None, Some(r#"{"op":"m"}"#)),
        ],
    );
    assert_eq!(rows[..4], ["+ 1 | a", "+ 2 | b", "+ 1 | z", "- 2 | "]);
    assert_eq!(rows.len(), 7, "{rows:#?}");
    assert_eq!(rows[4], "bad 5: 22P02 the record is no Debezium envelope: it has no \"op\"");
    assert!(rows[5].starts_with("bad 6: 22004"), "{rows:#?}");
    assert!(rows[6].starts_with("bad 7: 0A000"), "{rows:#?}");
}

#[test]
fn debezium_without_key_has_weights() {
    let declared = json("id bigint!, at timestamp").format(Format::Debezium);
    let rows = decode(
        &declared,
        &[
            (None, Some(r#"{"after":{"id":1,"at":"2013-01-01"},"op":"c"}"#)),
            (None, Some(r#"{"before":{"id":1,"at":"2013-01-01"},"after":{"id":1,"at":"soon"},"op":"u"}"#)),
            (
                None,
                Some(r#"{"before":{"id":1,"at":"2013-01-01"},"after":{"id":1,"at":"2014-01-01"},"op":"u"}"#),
            ),
            (None, Some(r#"{"before":{"id":1,"at":"2014-01-01"},"op":"d"}"#)),
            (None, Some(r#"{"before":null,"after":{"id":1},"op":"u"}"#)),
        ],
    );
    assert_eq!(
        rows[..4],
        [
            "1 | 2013-01-01T00:00:00 | 1",
            "1 | 2013-01-01T00:00:00 | -1",
            "1 | 2014-01-01T00:00:00 | 1",
            "1 | 2014-01-01T00:00:00 | -1",
        ]
    );
    assert!(rows[4].starts_with("bad 1: 22007 column \"at\""), "{rows:#?}");
    assert!(rows[5].starts_with("bad 4: 22004"), "{rows:#?}");
    assert_eq!(rows.len(), 6);
    let error = refused(&declared.include(IncludeKind::Offset, "o bigint"));
    assert_eq!(error.to_string(), "source \"s\" cannot INCLUDE columns without a primary key");
}

#[test]
fn impossible_types_are_refused_at_once() {
    let mut declared = json("a bigint");
    declared.schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
        "a",
        arrow::datatypes::DataType::Union(
            arrow::datatypes::UnionFields::empty(),
            arrow::datatypes::UnionMode::Sparse,
        ),
        true,
    )]));
    assert!(
        refused(&declared).to_string().starts_with("column \"a\" cannot be of type"),
        "{}",
        refused(&declared)
    );
}

// Changelogs of sinks.

fn batch(rows: &[(i64, &str, i64)]) -> SinkBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let schema = Declared::new("kafka", "id bigint!, name text").schema;
    let rows = RecordBatch::try_new(schema, vec![ids, names]).unwrap();
    SinkBatch { from: Epoch(1), to: Epoch(7), delta: Delta::weighted(&rows, weights) }
}

fn changelog(
    declared: &Declared,
    op_column: Option<&str>,
    rows: &[(i64, &str, i64)],
) -> Result<String, ConnectorError> {
    let changelog = Changelog::new(&declared.sink(), false, op_column.map(str::to_string))?;
    let batch = batch(rows);
    let rows = changelog.rows(&batch, &changelog.entries(&batch)?)?;
    Ok(String::from_utf8(changelog::json_lines(&rows).unwrap()).unwrap())
}

#[test]
fn plain_changelog_repeats_rows_and_refuses_retractions() {
    let declared = json("id bigint!, name text");
    let written = changelog(&declared, None, &[(1, "a", 2), (2, "b", 1)]).unwrap();
    assert_eq!(written, "{\"id\":1,\"name\":\"a\"}\n{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n");
    for error in [
        changelog(&declared, None, &[(1, "a", -1)]).unwrap_err(),
        changelog(&declared.clone().retracting(), None, &[]).unwrap_err(),
    ] {
        assert_eq!(error.sqlstate.0, "0A000");
        assert_eq!(
            error.to_string(),
            "query of sink \"s\" produces updates, but FORMAT PLAIN is append-only"
        );
    }
    let written = changelog(&declared.retracting(), Some("op"), &[(1, "a", -1), (1, "b", 1)]).unwrap();
    assert_eq!(
        written,
        "{\"op\":\"delete\",\"id\":1,\"name\":\"a\"}\n{\"op\":\"insert\",\"id\":1,\"name\":\"b\"}\n"
    );
}

#[test]
fn debezium_changelog_pairs_rows_of_a_key() {
    let rows = [(1, "a", -1), (2, "x", -1), (1, "b", 1), (3, "c", 1)];
    let declared = json("id bigint!, name text").retracting().format(Format::Debezium);
    let written = changelog(&declared.clone().key(&[0]), None, &rows).unwrap();
    let source = r#""source":{"connector":"tidemill","name":"s","epoch":7}"#;
    assert_eq!(
        written.lines().collect::<Vec<_>>(),
        [
            format!(r#"{{"before":{{"id":2,"name":"x"}},"after":null,"op":"d",{source}}}"#),
            format!(r#"{{"before":{{"id":1,"name":"a"}},"after":{{"id":1,"name":"b"}},"op":"u",{source}}}"#),
            format!(r#"{{"before":null,"after":{{"id":3,"name":"c"}},"op":"c",{source}}}"#),
        ]
    );
    let ops: Vec<String> = changelog(&declared, None, &rows)
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["op"].as_str().unwrap().to_string()
        })
        .collect();
    assert_eq!(ops, ["d", "d", "c", "c"]);
}

#[test]
fn what_debezium_writes_it_reads() {
    let written = json("id bigint!, name text").retracting().format(Format::Debezium);
    let lines = changelog(&written, None, &[(1, "a", -1), (1, "b", 1)]).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(values(&written, &lines), ["1 | a | -1", "1 | b | 1"]);
}

#[test]
fn upsert_changelog_needs_a_key() {
    let declared = json("id bigint!, name text").retracting().format(Format::Upsert);
    let error = changelog(&declared, None, &[]).unwrap_err();
    assert_eq!(error.sqlstate.0, "42P16");
}

// Properties.

/// A record as a writer of CSV would write it, and its fields.
fn field() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[a,\"\n\r ']{0,6}").unwrap()
}

fn written(field: &str) -> String {
    format!("\"{}\"", field.replace('"', "\"\""))
}

proptest! {
    /// However a text is cut into pieces, its records end at the same places.
    #[test]
    fn csv_records_do_not_depend_on_chunks(
        rows in proptest::collection::vec(proptest::collection::vec(field(), 2), 1..6),
        crlf: bool,
    ) {
        let dialect = Dialect { delimiter: b',', quote: b'"', escape: None };
        let line_end = if crlf { "\r\n" } else { "\n" };
        let lines: Vec<String> =
            rows.iter().map(|row| row.iter().map(|field| written(field)).collect::<Vec<_>>().join(",")).collect();
        let text: String = lines.iter().map(|line| format!("{line}{line_end}")).collect();
        let (mut at, mut n) = (0, 0);
        while at < text.len() {
            // The end is found exactly when the text is long enough, and then always the same one.
            let whole = dialect.record_end(&text.as_bytes()[at..]);
            let RecordEnd::At { len, next } = whole else { panic!("a record ends") };
            prop_assert_eq!(&text[at..at + len], &lines[n]);
            for cut in at..text.len() {
                let found = dialect.record_end(&text.as_bytes()[at..cut]);
                let is_found = matches!(found, RecordEnd::At { .. });
                prop_assert_eq!(is_found, cut - at >= next, "cut at {}", cut);
            }
            at += next;
            n += 1;
        }
        prop_assert_eq!(n, rows.len());
        let declared = csv("a text, b text", &[]);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let expected: Vec<String> = rows.iter().map(|row| row.join(" | ")).collect();
        prop_assert_eq!(values(&declared, &lines), expected);
    }

    /// Good records come through whatever stands between them.
    #[test]
    fn json_isolates_bad_records(good in proptest::collection::vec(any::<bool>(), 1..60)) {
        let texts: Vec<String> = good.iter().enumerate().map(|(idx, good)| match (good, idx % 3) {
            (true, _) => format!("{{\"a\":{idx}}}"),
            (false, 0) => format!("{{\"a\":{idx}"),
            (false, 1) => "{\"a\":\"x\"}".to_string(),
            (false, _) => "}".to_string(),
        }).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let rows = values(&json("a bigint"), &texts);
        let expected: Vec<String> = (0..good.len()).filter(|idx| good[*idx]).map(|idx| idx.to_string()).collect();
        prop_assert_eq!(&rows[..expected.len()], &expected[..]);
        prop_assert_eq!(rows.len(), good.len());
        for (bad, idx) in rows[expected.len()..].iter().zip((0..good.len()).filter(|idx| !good[*idx])) {
            prop_assert!(bad.starts_with(&format!("bad {idx}: ")), "{}", bad);
        }
    }
}

#[test]
fn empty_batch_decodes() {
    let declared = json("a bigint!");
    let decoder = Decoder::new(&declared.source(), Encode::Json).unwrap();
    let (changes, bad) = decoder.decode(&Records::default());
    assert!(changes.is_empty() && bad.is_empty());
    assert!(matches!(changes, Changes::Append(_)));
}
