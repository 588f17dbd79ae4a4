use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidemill_core::source::{ConnectorError, Offset, SourceBatch, SplitId};

use crate::conformance::Transcript;
use crate::declared::Declared;
use crate::formats::Decoder;
use crate::formats::avro::encoder::AvroEncoder;
use crate::formats::avro::fake_registry::{FakeRegistry, How};
use crate::formats::avro::schema_registry::SchemaRegistry;
use crate::formats::avro::source_columns;
use crate::formats::records::{Record, Records};
use crate::options::Options;
use crate::spec::{Encode, Format};

/// A value being written, by the rules of Avro's specification.
#[derive(Debug, Clone, Default)]
struct Avro(Vec<u8>);

impl Avro {
    fn framed(id: u32) -> Avro {
        Avro([&[0], &id.to_be_bytes()[..]].concat())
    }

    fn raw(mut self, bytes: &[u8]) -> Avro {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Of int, long, and what is written as one: zigzag, seven bits a byte.
    fn long(mut self, value: i64) -> Avro {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    fn bytes(self, bytes: &[u8]) -> Avro {
        self.long(bytes.len() as i64).raw(bytes)
    }

    fn text(self, text: &str) -> Avro {
        self.bytes(text.as_bytes())
    }
}

fn record(fields: Value) -> String {
    json!({ "type": "record", "name": "r", "fields": fields }).to_string()
}

fn field(name: &str, avro_type: Value) -> Value {
    json!({ "name": name, "type": avro_type })
}

fn logical(avro_type: &str, logical: &str) -> Value {
    json!({ "type": avro_type, "logicalType": logical })
}

fn avro(columns: &str, registry: &FakeRegistry) -> Declared {
    Declared::new("kafka", columns).encode(Encode::Avro, &[("schema.registry", &registry.url)])
}

fn inline(columns: &str, schema: &str) -> Declared {
    Declared::new("kafka", columns).encode(Encode::Avro, &[("schema", schema)])
}

fn decoder(declared: &Declared) -> Decoder {
    Decoder::new(&declared.source(), Encode::Avro).unwrap()
}

/// Key and value of a record.
type Sent<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Decodes records, after their schemas have been fetched; a change a line, bad records behind them.
async fn decode(decoder: &Decoder, records: &[Sent<'_>]) -> Vec<String> {
    let mut bytes = Vec::new();
    let mut copy = |part: &[u8]| {
        bytes.extend_from_slice(part);
        bytes.len() - part.len()..bytes.len()
    };
    let list: Vec<Record> = records
        .iter()
        .map(|(key, value)| Record {
            key: key.map(&mut copy),
            value: value.map(&mut copy),
            ..Record::default()
        })
        .collect();
    let records = Records { bytes: &bytes, records: &list, ..Records::default() };
    let missing = decoder.missing_schemas(&records);
    decoder.fetch_schemas(&missing).await.unwrap();
    let (changes, bad) = decoder.decode(&records);
    assert!(bad.is_sorted_by_key(|(idx, _)| *idx), "bad records come in order: {bad:?}");
    let mut transcript = Transcript::default();
    let batch = SourceBatch { changes, next: Offset::from(0), bad: Vec::new(), n_bytes: 0 };
    transcript.add(&SplitId::from("0"), &batch);
    let bad = bad.into_iter().map(|(idx, fault)| format!("bad {idx}: {} {}", fault.sqlstate, fault.reason));
    transcript.rows.into_iter().chain(bad).collect()
}

async fn values(declared: &Declared, values: &[Avro]) -> Vec<String> {
    let records: Vec<_> = values.iter().map(|value| (None, Some(&value.0[..]))).collect();
    decode(&decoder(declared), &records).await
}

async fn columns(registry: &FakeRegistry, subject: &str) -> Result<Arc<Schema>, ConnectorError> {
    source_columns(&avro("", registry).source(), subject).await
}

/// A declaration with the columns that the schema has by itself.
async fn inferred(schema: &str) -> Declared {
    let mut declared = inline("", schema);
    declared.schema = source_columns(&declared.source(), "").await.unwrap();
    declared
}

#[tokio::test]
async fn every_type_becomes_a_column() {
    let schema = record(json!([
        field("a_boolean", json!("boolean")),
        field("an_int", json!("int")),
        field("a_long", json!("long")),
        field("a_float", json!("float")),
        field("a_double", json!("double")),
        field("some_bytes", json!("bytes")),
        field("a_string", json!("string")),
        field("a_null", json!("null")),
        field("maybe", json!(["null", "long"])),
        field("maybe_not", json!(["string", "null"])),
        field("an_enum", json!({ "type": "enum", "name": "e", "symbols": ["RED", "GREEN"] })),
        field("a_fixed", json!({ "type": "fixed", "name": "f", "size": 3 })),
        field("a_date", logical("int", "date")),
        field("time_ms", logical("int", "time-millis")),
        field("time_us", logical("long", "time-micros")),
        field("at_ms", logical("long", "timestamp-millis")),
        field("at_us", logical("long", "timestamp-micros")),
        field("at_ns", logical("long", "timestamp-nanos")),
        field("local_ms", logical("long", "local-timestamp-millis")),
        field("local_us", logical("long", "local-timestamp-micros")),
        field("a_decimal", json!({ "type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2 })),
        field(
            "fixed_decimal",
            json!({ "type": "fixed", "name": "d", "size": 4, "logicalType": "decimal", "precision": 8, "scale": 3 }),
        ),
        field("a_uuid", logical("string", "uuid")),
        field("a_list", json!({ "type": "array", "items": ["null", "int"] })),
        field("a_map", json!({ "type": "map", "values": "long" })),
        field(
            "a_record",
            json!({ "type": "record", "name": "inner", "fields": [
            field("x", json!("int")), field("c", json!("e")),
        ] })
        ),
        field("a_union", json!(["null", "string", "long"])),
    ]));
    let value = Avro::default()
        .raw(&[1])
        .long(-1)
        .long(1 << 40)
        .raw(&1.5f32.to_le_bytes())
        .raw(&(-2.25f64).to_le_bytes())
        .bytes(b"\x00\xff")
        .text("tide")
        .long(1)
        .long(7)
        .long(1)
        .long(1)
        .raw(b"xyz")
        .long(19_723)
        .long(1_500)
        .long(1_500_000)
        .long(1_700_000_000_123)
        .long(1_700_000_000_123_456)
        .long(1_700_000_000_123_456_789)
        .long(1_700_000_000_123)
        .long(1_700_000_000_123_456)
        .bytes(&(-12_345i32).to_be_bytes())
        .raw(&1_000i32.to_be_bytes())
        .text("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
        .long(2)
        .long(1)
        .long(5)
        .long(0)
        .long(0)
        .long(1)
        .text("k")
        .long(9)
        .long(0)
        .long(3)
        .long(0)
        .long(1)
        .text("u");
    let declared = inferred(&schema).await;
    let rows = values(&declared, &[value]).await;
    let shown: Vec<String> = declared
        .schema
        .fields()
        .iter()
        .zip(rows[0].split(" | "))
        .map(|(field, value)| format!("{} {}: {value}", field.name(), field.data_type()))
        .collect();
    assert_eq!(
        shown,
        [
            "a_boolean Boolean: true",
            "an_int Int32: -1",
            "a_long Int64: 1099511627776",
            "a_float Float32: 1.5",
            "a_double Float64: -2.25",
            "some_bytes Binary: 00ff",
            "a_string Utf8: tide",
            "a_null Utf8: NULL",
            "maybe Int64: 7",
            "maybe_not Utf8: NULL",
            "an_enum Utf8: GREEN",
            "a_fixed Binary: 78797a",
            "a_date Date32: 2024-01-01",
            "time_ms Time64(µs): 00:00:01.500",
            "time_us Time64(µs): 00:00:01.500",
            "at_ms Timestamp(µs, \"UTC\"): 2023-11-14T22:13:20.123Z",
            "at_us Timestamp(µs, \"UTC\"): 2023-11-14T22:13:20.123456Z",
            "at_ns Timestamp(µs, \"UTC\"): 2023-11-14T22:13:20.123456Z",
            "local_ms Timestamp(µs): 2023-11-14T22:13:20.123",
            "local_us Timestamp(µs): 2023-11-14T22:13:20.123456",
            "a_decimal Decimal128(10, 2): -123.45",
            "fixed_decimal Decimal128(8, 3): 1.000",
            "a_uuid Utf8: 6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "a_list List(Int32): [5, NULL]",
            "a_map Map(\"entries\": non-null Struct(\"key\": non-null Utf8, \"value\": Int64), unsorted): {k: 9}",
            "a_record Struct(\"x\": Int32, \"c\": Utf8): {x: 3, c: RED}",
            "a_union Utf8: \"u\"",
        ]
    );
    let pg_type = |name: &str| {
        declared.schema.field_with_name(name).unwrap().metadata().get(tidemill_core::PG_TYPE).cloned()
    };
    assert_eq!((pg_type("a_uuid").as_deref(), pg_type("a_union").as_deref()), (Some("uuid"), Some("jsonb")));
}

#[tokio::test]
async fn fields_become_the_declared_types() {
    let schema = record(json!([
        field("n", json!("long")),
        field("s", json!("string")),
        field("at", json!("long")),
        field("d", json!("string")),
        field("l", json!({ "type": "array", "items": "long" })),
        field("o", json!({ "type": "record", "name": "o", "fields": [field("x", json!("int"))] })),
        field("u", json!(["null", "int", "string"])),
        field("f", json!("double")),
    ]));
    let value = |n: i64, s: &str| {
        let value = Avro::default().long(n).text(s).long(1_000).text("2024-01-01").long(1).long(4).long(0);
        value.long(6).long(2).text("12").raw(&2.5f64.to_le_bytes())
    };
    let rows = values(
        &inline("n int, s decimal, at timestamp, d date, l text, o text, u bigint, f text", &schema),
        &[value(1, "1.25"), value(1 << 40, "1"), value(2, "x"), value(3, "3")],
    )
    .await;
    assert_eq!(
        rows,
        [
            r#"1 | 1.25 | 1970-01-01T00:00:01 | 2024-01-01 | [4] | {"x":6} | 12 | 2.5"#,
            r#"3 | 3.00 | 1970-01-01T00:00:01 | 2024-01-01 | [4] | {"x":6} | 12 | 2.5"#,
            "bad 1: 22003 the declared schema: field \"n\" of type long holds 1099511627776, which is no Int32",
            "bad 2: 22P02 the declared schema: field \"s\" of type string holds \"x\" is not a valid Decimal128(10, 2)",
        ]
    );
    // A double is no integer, though Arrow would cut it off.
    let rows = values(&inline("f bigint", &schema), &[value(1, "1")]).await;
    assert_eq!(rows, ["bad 0: 42804 the declared schema: field \"f\" of type double cannot become Int64"]);
    // Items and fields as they are declared, with faults of their row.
    let mut declared = inline("x bigint", &schema);
    let item = Arc::new(Field::new("item", DataType::Int16, true));
    let o = vec![Field::new("y", DataType::Utf8, true), Field::new("x", DataType::Int64, true)];
    declared.schema = Arc::new(Schema::new(vec![
        Field::new("l", DataType::List(item), true),
        Field::new_struct("o", o, true),
    ]));
    let large =
        Avro::default().long(1).text("").long(0).text("").long(2).long(1).long(70_000).long(0).long(6);
    let large = large.long(0).raw(&[0; 8]);
    assert_eq!(
        values(&declared, &[value(1, ""), large, value(2, "")]).await,
        [
            "[4] | {y: NULL, x: 6}",
            "[4] | {y: NULL, x: 6}",
            "bad 1: 22003 the declared schema: field \"l\" of type array holds 70000, which is no Int16",
        ]
    );
}

#[tokio::test]
async fn schemas_of_a_topic_stand_in_one_batch() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("id", json!("int")), field("name", json!("string"))])));
    registry.add(
        2,
        &record(json!([
            field("extra", json!({ "type": "array", "items": "string" })),
            field("name", json!(["null", "string"])),
            field("id", json!("long")),
        ])),
    );
    registry.add(3, &record(json!([field("id", json!("long"))])));
    registry.add(4, &record(json!([field("id", json!({ "type": "map", "values": "int" }))])));
    registry.add_answer(5, json!({ "schema": "message M {}", "schemaType": "PROTOBUF" }));
    registry.add(6, "\"string\"");
    let declared = avro("id bigint!, name text, price double", &registry);
    let rows = values(
        &declared,
        &[
            Avro::framed(2).long(1).text("x").long(0).long(1).text("b").long(1 << 33),
            Avro::framed(1).long(1).text("a"),
            Avro::framed(4).long(0),
            Avro::framed(3).long(3),
            Avro::framed(99).long(3),
            Avro::framed(5).long(3),
            Avro::framed(2).long(0).long(0).long(4),
            Avro::framed(6).text("x"),
            Avro::framed(1).long(5).text("e"),
        ],
    )
    .await;
    assert_eq!(
        rows,
        [
            "8589934592 | b | NULL".to_string(),
            "1 | a | NULL".to_string(),
            "3 | NULL | NULL".to_string(),
            "4 | NULL | NULL".to_string(),
            "5 | e | NULL".to_string(),
            "bad 2: 42804 schema id 4: field \"id\" of type map cannot become Int64".to_string(),
            format!("bad 4: 22P02 schema id 99 is unknown to schema registry \"{}\"", registry.url),
            "bad 5: 22P02 schema id 5 is of type PROTOBUF, not AVRO".to_string(),
            "bad 7: 22P02 schema id 6 cannot be read: it is string, not a record".to_string(),
        ]
    );
}

#[tokio::test]
async fn schemas_are_asked_for_once() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("id", json!("long"))])));
    let decoder = decoder(&avro("id bigint", &registry));
    let value = Avro::framed(1).long(7);
    for _ in 0..3 {
        let unknown = Avro::framed(2);
        let rows = decode(&decoder, &[(None, Some(&value.0)), (None, Some(&unknown.0))]).await;
        assert_eq!(rows[0], "7");
    }
    assert_eq!(registry.asked(), ["GET /schemas/ids/1", "GET /schemas/ids/2"]);
}

#[tokio::test]
async fn bad_records_cost_themselves_only() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("id", json!("long")), field("name", json!("string"))])));
    let good = |id: i64| Avro::framed(1).long(id).text("good");
    let rows = values(
        &avro("id bigint, name text", &registry),
        &[
            good(1),
            Avro::default().raw(br#"{"id": 1}"#),
            Avro::framed(1).long(2).long(10).raw(b"short"),
            good(3),
            Avro::default(),
            Avro::default().raw(&[0, 0, 0]),
            good(4).raw(b"more"),
            good(5),
            Avro::framed(1),
            Avro::framed(1).raw(&[0xff; 12]),
            Avro::framed(1).long(6).bytes(b"\xff\xfe"),
            good(7),
            good(8).raw(&Avro::framed(1).long(9).text("twice").0),
            good(10),
            good(11).raw(&[0]),
        ],
    )
    .await;
    let ids: Vec<&str> =
        rows.iter().map(|row| row.as_str()).take_while(|row| !row.starts_with("bad")).collect();
    assert_eq!(ids, ["1 | good", "3 | good", "5 | good", "7 | good", "10 | good"]);
    assert_eq!(
        rows[5..],
        [
            "bad 1: 22P02 the record is no Avro of a schema registry: it begins with 0x7b where 0x00 and the id of its schema should stand",
            "bad 2: 22P02 schema id 1: the record ends within its value",
            "bad 4: 22P02 the record is empty",
            "bad 5: 22P02 the record ends within the id of its schema",
            "bad 6: 22P02 schema id 1: bytes follow the record's value",
            "bad 8: 22P02 schema id 1: the record ends within its value",
            "bad 9: 22P02 schema id 1: bad varint",
            "bad 10: 22P02 schema id 1: Encountered non UTF-8 data: invalid utf-8 sequence of 1 bytes from index 0",
            "bad 12: 22P02 schema id 1: bytes follow the record's value",
            "bad 14: 22P02 schema id 1: bytes follow the record's value",
        ]
    );
}

const NESTED: &str = r#"{"type": "record", "name": "r", "fields": [
    {"name": "l", "type": {"type": "array", "items": ["null", "string"]}},
    {"name": "m", "type": {"type": "map", "values": {"type": "fixed", "name": "f", "size": 2}}},
    {"name": "u", "type": ["null", "long", "string", {"type": "enum", "name": "e", "symbols": ["A", "B"]}]},
    {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 1}},
    {"name": "t", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "b", "type": "boolean"}]}"#;

fn nested() -> Avro {
    let value =
        Avro::default().long(2).long(1).text("a").long(0).long(0).long(1).text("k").raw(b"xy").long(0);
    value.long(3).long(1).bytes(&[7]).text("6ba7b810-9dad-11d1-80b4-00c04fd430c8").raw(&[1])
}

#[tokio::test]
async fn every_truncated_record_is_bad_and_its_neighbours_are_not() {
    let declared = inferred(NESTED).await;
    let good = values(&declared, &[nested()]).await;
    assert_eq!(good, ["[a, NULL] | {k: 7879} | \"B\" | 0.7 | 6ba7b810-9dad-11d1-80b4-00c04fd430c8 | true"]);
    let decoder = decoder(&declared);
    for len in 0..nested().0.len() {
        let whole = nested().0;
        let records = [(None, Some(&whole[..])), (None, Some(&whole[..len])), (None, Some(&whole[..]))];
        let rows = decode(&decoder, &records).await;
        assert_eq!((&rows[0], &rows[1]), (&good[0], &good[0]), "{len}: {rows:?}");
        assert!(rows[2].starts_with("bad 1: 22P02 the declared schema: "), "{len}: {}", rows[2]);
    }
}

proptest! {
    /// Whatever is changed in a record, the ones beside it are read.
    #[test]
    fn changed_bytes_stay_within_their_record(
        changes in prop::collection::vec((0usize..80, any::<u8>()), 1..4),
        tail in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut changed = nested().0;
        let len = changed.len();
        changes.iter().for_each(|(place, byte)| changed[place % len] = *byte);
        changed.extend(tail);
        let whole = nested().0;
        let rows = futures::executor::block_on(async {
            let decoder = decoder(&inferred(NESTED).await);
            let records = [(None, Some(&whole[..])), (None, Some(&changed[..])), (None, Some(&whole[..]))];
            decode(&decoder, &records).await
        });
        let good = "[a, NULL] | {k: 7879} | \"B\" | 0.7 | 6ba7b810-9dad-11d1-80b4-00c04fd430c8 | true";
        prop_assert_eq!(rows.len(), 3);
        prop_assert_eq!(&rows[0], good);
        prop_assert!(rows[1] == good || rows[2] == good, "{:?}", rows);
    }
}

#[tokio::test]
async fn values_of_a_declared_schema_may_have_its_fingerprint() {
    let schema = r#"{"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}"#;
    let rabin = arrow_avro::schema::AvroSchema::new(schema.to_string())
        .fingerprint(arrow_avro::schema::FingerprintAlgorithm::Rabin)
        .unwrap();
    let arrow_avro::schema::Fingerprint::Rabin(rabin) = rabin else { unreachable!("as asked for") };
    let framed = Avro::default().raw(&[0xC3, 1]).raw(&rabin.to_le_bytes()).long(5);
    let other = Avro::default().raw(&[0xC3, 1]).raw(&[0; 8]).long(5);
    let rows = values(&inline("n bigint", schema), &[Avro::default().long(-98), framed, other]).await;
    assert_eq!(rows, ["-98", "5", "bad 2: 22P02 the declared schema: bytes follow the record's value"]);
    // A value that is no record fills the only column.
    let rows = values(&inline("n bigint", "\"long\""), &[Avro::default().long(3)]).await;
    assert_eq!(rows, ["3"]);
}

const ENVELOPE: &str = r#"{"type": "record", "name": "Envelope", "namespace": "db.t", "fields": [
    {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": [
        {"name": "id", "type": "long"},
        {"name": "at", "type": {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}},
        {"name": "name", "type": ["null", "string"], "default": null}]}], "default": null},
    {"name": "after", "type": ["null", "Value"], "default": null},
    {"name": "source", "type": {"type": "record", "name": "Source", "fields": [{"name": "db", "type": "string"}]}},
    {"name": "op", "type": "string"},
    {"name": "ts_ms", "type": ["null", "long"], "default": null}]}"#;

#[tokio::test]
async fn debezium_envelopes_become_changes() {
    let registry = FakeRegistry::start();
    registry.add(1, ENVELOPE);
    registry.add_version("t", 1);
    let image = |avro: Avro, row: Option<(i64, &str)>| match row {
        Some((id, name)) => avro.long(1).long(id).long(1_000_000).long(1).text(name),
        None => avro.long(0),
    };
    let envelope = |op: &str, before: Option<(i64, &str)>, after: Option<(i64, &str)>| {
        image(image(Avro::framed(1), before), after).text("db").text(op).long(0).0
    };
    let records = [
        envelope("c", None, Some((1, "a"))),
        envelope("u", Some((1, "a")), Some((1, "b"))),
        envelope("x", None, Some((1, "a"))),
        envelope("d", Some((1, "b")), None),
    ];
    let mut records: Vec<Sent<'_>> = records.iter().map(|value| (None, Some(&value[..]))).collect();
    records.push((None, None));
    let declared = avro("id bigint!, at timestamp, name text", &registry).format(Format::Debezium);
    let declared =
        declared.encode(Encode::Avro, &[("schema.registry", &registry.url), ("timestamp_unit", "us")]);
    let inferred = source_columns(&declared.source(), "t").await.unwrap();
    let names: Vec<&str> = inferred.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["id", "at", "name"]);
    let unsupported = "bad 2: 0A000 operation \"x\" of the Debezium envelope is not supported";
    assert_eq!(
        decode(&decoder(&declared), &records).await,
        [
            "1 | 1970-01-01T00:00:01 | a | 1",
            "1 | 1970-01-01T00:00:01 | a | -1",
            "1 | 1970-01-01T00:00:01 | b | 1",
            "1 | 1970-01-01T00:00:01 | b | -1",
            unsupported,
        ]
    );
    assert_eq!(
        decode(&decoder(&declared.key(&[0])), &records).await,
        [
            "+ 1 | 1970-01-01T00:00:01 | a",
            "+ 1 | 1970-01-01T00:00:01 | b",
            "- 1 | 1970-01-01T00:00:01 | b",
            unsupported
        ]
    );
}

#[tokio::test]
async fn keys_of_upserts_are_avro_json_or_text() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("name", json!("string"))])));
    registry.add(2, &record(json!([field("id", json!("long"))])));
    registry.add(3, "\"long\"");
    let declared = avro("id bigint!, name text", &registry).format(Format::Upsert).key(&[0]);
    let value = Avro::framed(1).text("a").0;
    let (of_record, bare) = (Avro::framed(2).long(7).0, Avro::framed(3).long(8).0);
    let rows = decode(
        &decoder(&declared),
        &[
            (Some(&of_record), Some(&value)),
            (Some(b"5"), Some(&value)),
            (Some(&bare), None),
            (Some(br#"{"id": 6}"#), None),
            (Some(&Avro::framed(9).0), None),
            (Some(&of_record), None),
        ],
    )
    .await;
    assert_eq!(rows[..5], ["+ 7 | a", "+ 5 | a", "- 8 | NULL", "- 6 | NULL", "- 7 | NULL"]);
    assert!(rows[5].starts_with("bad 4: 22P02 schema id 9 is unknown to"), "{}", rows[5]);
}

#[tokio::test]
async fn columns_are_those_of_the_latest_schema() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("id", json!("long"))])));
    registry.add(2, &record(json!([field("id", json!("long")), field("name", json!(["null", "string"]))])));
    registry.add_version("t-value", 1);
    registry.add_version("t-value", 2);
    let schema = columns(&registry, "t-value").await.unwrap();
    let shown: Vec<String> = schema.fields().iter().map(|field| format!("{field}")).collect();
    assert_eq!(schema.fields().len(), 2, "{shown:?}");
    assert!(schema.fields().iter().all(|field| field.is_nullable()), "a later schema may leave them out");
    let error = columns(&registry, "other-value").await.unwrap_err();
    assert_eq!(error.sqlstate.0, "42704");
    assert_eq!(
        error.to_string(),
        format!("subject \"other-value\" does not exist in schema registry \"{}\"", registry.url)
    );
}

#[tokio::test]
async fn referred_schemas_are_fetched() {
    let registry = FakeRegistry::start();
    registry.add(1, r#"{"type": "enum", "name": "Color", "namespace": "n", "symbols": ["RED"]}"#);
    registry.add_version("color", 1);
    registry.add_answer(
        2,
        json!({
            "schema": r#"{"type": "record", "name": "Car", "namespace": "n", "fields": [
                {"name": "inside", "type": "Color"}, {"name": "outside", "type": ["null", "n.Color"]}]}"#,
            "references": [{ "name": "n.Color", "subject": "color", "version": 1 }],
        }),
    );
    let declared = avro("inside text, outside text", &registry);
    let rows = values(&declared, &[Avro::framed(2).long(0).long(1).long(0)]).await;
    assert_eq!(rows, ["RED | RED"]);
}

#[tokio::test]
async fn registry_that_is_away_is_no_bad_record() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("id", json!("long"))])));
    let decoder = decoder(&avro("id bigint", &registry));
    for how in
        [How::Away, How::With(404, "<html>no such page</html>"), How::With(503, "{}"), How::With(200, "ok")]
    {
        registry.answer_like(how.clone());
        let error = decoder.fetch_schemas(&[1]).await.unwrap_err();
        assert!(error.transient, "{how:?}: {error}");
        assert_eq!(error.sqlstate.0, "08001", "{how:?}: {error}");
    }
    registry.answer_like(How::Well);
    let value = Avro::framed(1).long(7);
    assert_eq!(decode(&decoder, &[(None, Some(&value.0))]).await, ["7"]);

    let gone = "http://127.0.0.1:9";
    let registry = SchemaRegistry::new("ENCODE AVRO", gone, None, None).unwrap();
    let error = registry.schema(1).await.unwrap_err();
    assert!(
        error.to_string().starts_with("schema registry \"http://127.0.0.1:9\" does not answer: "),
        "{error}"
    );
}

#[tokio::test]
async fn registry_asks_for_a_login() {
    let registry = FakeRegistry::start();
    registry.add(1, &record(json!([field("id", json!("long"))])));
    // user:secret
    registry.answer_like(How::ToLogin("Basic dXNlcjpzZWNyZXQ="));
    let open = |password| SchemaRegistry::new("ENCODE AVRO", &registry.url, Some("user"), password).unwrap();
    assert!(open(Some("secret")).schema(1).await.unwrap().is_ok());
    let error = open(Some("wrong")).schema(1).await.unwrap_err();
    assert!(!error.transient);
    assert_eq!(error.sqlstate.0, "28000");
    assert!(!format!("{:?}", open(Some("secret"))).contains("secret"));
}

#[test]
fn wrong_options_are_refused() {
    let refused = |options: &[(&str, &str)]| {
        let declared = Declared::new("kafka", "a bigint").encode(Encode::Avro, options);
        let error = Decoder::new(&declared.source(), Encode::Avro).unwrap_err();
        assert_eq!(error.sqlstate.0, "22023", "{error}");
        assert!(error.hint.is_some(), "{error}");
        error.to_string()
    };
    let registry = ("schema.registry", "http://localhost:8081");
    assert_eq!(refused(&[]), "ENCODE AVRO needs the option \"schema.registry\" or \"schema\"");
    assert_eq!(
        refused(&[registry, ("schema", "{}")]),
        "ENCODE AVRO has both options \"schema.registry\" and \"schema\""
    );
    assert_eq!(
        refused(&[("schema", "\"long\""), ("subject", "t")]),
        "option \"subject\" of ENCODE AVRO needs the option \"schema.registry\""
    );
    assert_eq!(
        refused(&[("schema.registry", "localhost:8081")]),
        "option \"schema.registry\" of ENCODE AVRO cannot be \"localhost:8081\""
    );
    assert_eq!(
        refused(&[("schema.registry", "http://user:secret@localhost:8081")]),
        "option \"schema.registry\" of ENCODE AVRO has a login in its URL"
    );
    assert_eq!(
        refused(&[registry, ("schema.registry.password", "x")]),
        "option \"schema.registry.password\" of ENCODE AVRO needs the option \"schema.registry.username\""
    );
    assert_eq!(
        refused(&[registry, ("schema.regsitry", "x")]),
        "ENCODE AVRO has no option \"schema.regsitry\""
    );
    assert!(
        refused(&[("schema", "{")])
            .starts_with("option \"schema\" of ENCODE AVRO cannot be read: it is no JSON")
    );
    assert!(refused(&[registry, ("timestamp_unit", "h")]).contains("cannot be \"h\""));
}

fn encoder(registry: &FakeRegistry, schema: &Schema) -> Result<AvroEncoder, ConnectorError> {
    let options = [("schema.registry".to_string(), registry.url.clone())].into();
    let mut options = Options::new("ENCODE AVRO", &options);
    AvroEncoder::new(&mut options, "the.topic", schema)
}

#[tokio::test]
async fn sink_registers_what_it_writes() {
    let registry = FakeRegistry::start();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
    ]));
    let encoder = encoder(&registry, &schema).unwrap();
    encoder.register().await.unwrap();
    encoder.register().await.unwrap();
    assert_eq!(registry.asked(), ["POST /subjects/the.topic-value/versions"]);
    assert_eq!(
        registry.schema(101),
        json!({ "type": "record", "name": "the_topic", "fields": [
            { "name": "id", "type": "long" },
            { "name": "name", "type": ["null", "string"], "default": null },
        ] })
    );
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, -1]));
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let rows = RecordBatch::try_new(schema, vec![ids, names]).unwrap();
    let expected = [Avro::framed(101).long(1).long(1).text("a").0, Avro::framed(101).long(-1).long(0).0];
    assert_eq!(encoder.encode(&rows).unwrap(), expected);
}

#[tokio::test]
async fn sink_refuses_what_the_registry_or_avro_does_not_allow() {
    let registry = FakeRegistry::start();
    registry.add(7, "\"long\"");
    registry.add_version("the.topic-value", 7);
    let of = |name: &str, data_type: DataType| {
        encoder(&registry, &Schema::new(vec![Field::new(name, data_type, true)]))
    };
    let error = of("a", DataType::Int64).unwrap().register().await.unwrap_err();
    assert_eq!(error.sqlstate.0, "42804");
    assert!(!error.transient);
    assert!(
        error.to_string().ends_with(": Schema being registered is incompatible with an earlier schema"),
        "{error}"
    );
    assert_eq!(of("a b", DataType::Int64).unwrap_err().sqlstate.0, "42P16");
    let error = of("a", DataType::Duration(TimeUnit::Second)).unwrap_err();
    assert_eq!(error.sqlstate.0, "0A000");
}
