use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, Decimal256Array, DictionaryArray,
    DurationMillisecondArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array, IntervalMonthDayNanoArray, LargeStringArray, ListArray, MapBuilder, NullArray, StringArray,
    StringBuilder, StringViewArray, StructArray, Time32SecondArray, Time64NanosecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
    UInt64Array,
};
use arrow::array::{BooleanArray, Int32Builder, ListBuilder};
use arrow::datatypes::{Int8Type, IntervalMonthDayNano, i256};
use arrow::datatypes::{Int32Type, Schema};

use super::*;
use crate::pgwire::types::PG_TYPE;

fn of_field(array: ArrayRef, pg: Option<&str>, format: Format) -> Vec<Option<Vec<u8>>> {
    let mut field = Field::new("c", array.data_type().clone(), true);
    if let Some(pg) = pg {
        field = field.with_metadata([(PG_TYPE.to_owned(), pg.to_owned())].into());
    }
    let column = Column::new(&array, &field, format).unwrap();
    (0..array.len())
        .map(|row_idx| {
            let mut out = BytesMut::new();
            column.write(row_idx, &mut out).unwrap();
            (!column.is_null(row_idx)).then(|| out.to_vec())
        })
        .collect()
}

fn texts_as(array: impl Array + 'static, pg: Option<&str>) -> Vec<String> {
    let values = of_field(Arc::new(array), pg, Format::Text).into_iter();
    values.map(|v| v.map_or("∅".into(), |v| String::from_utf8(v).unwrap())).collect()
}

fn texts(array: impl Array + 'static) -> Vec<String> {
    texts_as(array, None)
}

fn binary_as(array: impl Array + 'static, pg: Option<&str>) -> String {
    let values = of_field(Arc::new(array), pg, Format::Binary).remove(0).unwrap();
    values.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn binary_of(array: impl Array + 'static) -> String {
    binary_as(array, None)
}

// Compared with what PostgreSQL 15 gave: the text of floats, years before Christ, intervals, arrays
// and records, and the binary forms of numerics, arrays, vectors and intervals (`encode(numeric_send(n),
// 'hex')` and so on). The rest follows its documentation.

#[test]
fn integers_and_booleans() {
    assert_eq!(
        texts(Int64Array::from(vec![Some(0), Some(-7), Some(i64::MIN), Some(i64::MAX), None])),
        ["0", "-7", "-9223372036854775808", "9223372036854775807", "∅"]
    );
    assert_eq!(texts(Int32Array::from(vec![9, 10, 99, 100, 12345])), ["9", "10", "99", "100", "12345"]);
    assert_eq!(texts(UInt64Array::from(vec![u64::MAX])), ["18446744073709551615"]);
    assert_eq!(texts(BooleanArray::from(vec![true, false])), ["t", "f"]);
    assert_eq!(binary_of(Int16Array::from(vec![-2])), "fffe");
    assert_eq!(binary_of(Int64Array::from(vec![258])), "0000000000000102");
    assert_eq!(binary_as(Int64Array::from(vec![2200]), Some("oid")), "00000898");
    assert_eq!(binary_of(BooleanArray::from(vec![true])), "01");
    assert_eq!(binary_of(UInt64Array::from(vec![10_000])), "0000000000002710");
}

#[test]
fn floats_are_shortest_in_postgres_form() {
    let values = vec![
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.1,
        1e14,
        123456789012345.0,
        1e15,
        1e20,
        1e-4,
        0.00012345,
        1e-5,
        1.2345e-7,
        1.7976931348623157e308,
        5e-324,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1234567.891,
    ];
    assert_eq!(
        texts(Float64Array::from(values)),
        [
            "0",
            "-0",
            "1",
            "-1.5",
            "0.1",
            "100000000000000",
            "123456789012345",
            "1e+15",
            "1e+20",
            "0.0001",
            "0.00012345",
            "1e-05",
            "1.2345e-07",
            "1.7976931348623157e+308",
            "5e-324",
            "NaN",
            "Infinity",
            "-Infinity",
            "1234567.891"
        ]
    );
    assert_eq!(
        texts(Float32Array::from(vec![0.1, 100000.0, 999999.0, 1e6, 1234567.0, 16777216.0])),
        ["0.1", "100000", "999999", "1e+06", "1.234567e+06", "1.6777216e+07"]
    );
    assert_eq!(binary_of(Float64Array::from(vec![1.5])), "3ff8000000000000");
}

#[test]
fn numerics_keep_their_scale() {
    let decimals = Decimal128Array::from(vec![0, 5, -5, 12345, -100, 10i128.pow(25)])
        .with_precision_and_scale(38, 2)
        .unwrap();
    assert_eq!(texts(decimals), ["0.00", "0.05", "-0.05", "123.45", "-1.00", "100000000000000000000000.00"]);
    let negative_scale = Decimal128Array::from(vec![0, 12]).with_precision_and_scale(10, -3).unwrap();
    assert_eq!(texts(negative_scale), ["0", "12000"]);
    let wide = Decimal256Array::from(vec![i256::from_string(&"9".repeat(50)).unwrap()])
        .with_precision_and_scale(60, 10)
        .unwrap();
    assert_eq!(texts(wide), [format!("{}.{}", "9".repeat(40), "9".repeat(10))]);

    let binary = |value, scale| {
        binary_of(Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).unwrap())
    };
    // ndigits, weight, sign, dscale, digits in base 10,000
    assert_eq!(binary(12345, 2), "0002".to_owned() + "0000" + "0000" + "0002" + "007b" + "1194");
    assert_eq!(binary(0, 2), "0000000000000002");
    assert_eq!(binary(-1, 4), "0001ffff400000040001");
    assert_eq!(binary(100_000_000, 0), "00010002000000000001");
    assert_eq!(binary(1, 9), "0001fffd00000009".to_owned() + "03e8");
    assert_eq!(
        binary_as(StringArray::from(vec!["-1.5e3"]), Some("numeric")),
        "0001000040000000".to_owned() + "05dc"
    );
    assert_eq!(binary_as(StringArray::from(vec!["NaN"]), Some("numeric")), "00000000c0000000");
}

#[test]
fn dates_and_times() {
    assert_eq!(
        texts(Date32Array::from(vec![0, 19_723, -719_163, 2_932_897, i32::MAX, -1])),
        ["1970-01-01", "2024-01-01", "0001-12-31 BC", "10000-01-01", "infinity", "1969-12-31"]
    );
    assert_eq!(
        texts(TimestampMicrosecondArray::from(vec![
            1_704_067_200_000_000,
            1_704_067_200_120_000,
            1_704_067_200_000_001,
            -1,
            i64::MAX,
        ])),
        [
            "2024-01-01 00:00:00",
            "2024-01-01 00:00:00.12",
            "2024-01-01 00:00:00.000001",
            "1969-12-31 23:59:59.999999",
            "infinity"
        ]
    );
    let zoned = TimestampMillisecondArray::from(vec![1_704_067_200_500]).with_timezone("+02:00");
    assert_eq!(texts(zoned), ["2024-01-01 00:00:00.5+00"]);
    assert_eq!(texts(TimestampSecondArray::from(vec![1])), ["1970-01-01 00:00:01"]);
    assert_eq!(texts(TimestampNanosecondArray::from(vec![1_999])), ["1970-01-01 00:00:00.000001"]);
    assert_eq!(texts(Time32SecondArray::from(vec![3661])), ["01:01:01"]);
    assert_eq!(texts(Time64NanosecondArray::from(vec![1_500_000_000])), ["00:00:01.5"]);
    assert_eq!(binary_of(Date32Array::from(vec![10_958])), "00000001");
    assert_eq!(binary_of(TimestampMillisecondArray::from(vec![946_684_800_001])), "00000000000003e8");
    assert_eq!(binary_of(Time32SecondArray::from(vec![1])), "00000000000f4240");
}

#[test]
fn intervals_carry_signs_as_postgres_does() {
    let interval = |months, days, micros: i64| IntervalMonthDayNano::new(months, days, micros * 1000);
    assert_eq!(
        texts(IntervalMonthDayNanoArray::from(vec![
            interval(0, 1, 7_384_000_000),
            interval(14, 3, 0),
            interval(-14, 3, -14_706_700_000),
            interval(0, 0, 0),
            interval(0, -1, 3_600_000_000),
            interval(1, 0, 500_000),
            interval(0, 0, 360_000_000_000),
        ])),
        [
            "1 day 02:03:04",
            "1 year 2 mons 3 days",
            "-1 years -2 mons +3 days -04:05:06.7",
            "00:00:00",
            "-1 days +01:00:00",
            "1 mon 00:00:00.5",
            "100:00:00"
        ]
    );
    assert_eq!(texts(DurationMillisecondArray::from(vec![90_061_500])), ["25:01:01.5"]);
    assert_eq!(
        binary_of(IntervalMonthDayNanoArray::from(vec![interval(1, 2, 3)])),
        "00000000000000030000000200000001"
    );
}

#[test]
fn strings_bytes_and_their_overrides() {
    assert_eq!(texts(LargeStringArray::from(vec!["ä"])), ["ä"]);
    assert_eq!(
        texts(StringViewArray::from(vec![Some("a longer string than fits inline"), None])),
        ["a longer string than fits inline", "∅"]
    );
    assert_eq!(texts(BinaryArray::from(vec![&b"\x00\xffA"[..]])), ["\\x00ff41"]);
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let bytes = crate::pgwire::decode::parse_uuid(uuid).unwrap();
    let fixed = || FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).unwrap();
    assert_eq!(texts_as(fixed(), Some("uuid")), [uuid]);
    let hex = uuid.replace('-', "");
    assert_eq!(binary_as(fixed(), Some("uuid")), hex);
    assert_eq!(binary_as(StringArray::from(vec![uuid]), Some("uuid")), hex);
    assert_eq!(binary_as(StringArray::from(vec!["1"]), Some("jsonb")), "0131");
    assert_eq!(binary_as(StringArray::from(vec!["1"]), Some("json")), "31");
    assert_eq!(texts(NullArray::new(2)), ["∅", "∅"]);
    let dictionary: DictionaryArray<Int8Type> = [Some("x"), None, Some("y"), Some("x")].into_iter().collect();
    assert_eq!(texts(dictionary), ["x", "∅", "y", "x"]);
}

#[test]
fn arrays_quote_what_needs_it() {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for value in [Some("a"), None, Some(""), Some("null"), Some("a b"), Some("q\"\\"), Some("{,}")] {
        builder.values().append_option(value);
    }
    builder.append(true);
    builder.append(true);
    builder.append(false);
    assert_eq!(texts(builder.finish()), [r#"{a,NULL,"","null","a b","q\"\\","{,}"}"#, "{}", "∅"]);

    let ints = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None])]);
    assert_eq!(texts(ints.clone()), ["{1,NULL}"]);
    assert_eq!(
        binary_of(ints.clone()),
        "00000001".to_owned()
            + "00000001"
            + "00000017"
            + "00000002"
            + "00000001"
            + "00000004"
            + "00000001"
            + "ffffffff"
    );
    let vector = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), Some(2)])]);
    assert_eq!(texts_as(vector.clone(), Some("int2vector")), ["1 2"]);
    let sent = "0000000100000000000000150000000200000000000000020001000000020002";
    assert_eq!(binary_as(vector, Some("int2vector")), sent);
    assert_eq!(binary_as(StringArray::from(vec!["1 2"]), Some("int2vector")), sent);

    let mut outer = ListBuilder::new(ListBuilder::new(Int32Builder::new()));
    outer.values().append_value([Some(1), Some(2)]);
    outer.values().append_value([Some(3), Some(4)]);
    outer.append(true);
    outer.values().append_value([Some(1)]);
    outer.values().append_value([Some(2), Some(3)]);
    outer.append(true);
    let nested = outer.finish();
    assert_eq!(texts(nested.clone()), ["{{1,2},{3,4}}", "{{1},{2,3}}"]);
    assert!(binary_of(nested.slice(0, 1)).starts_with(
        &("00000002".to_owned()
            + "00000000"
            + "00000017"
            + "00000002"
            + "00000001"
            + "00000002"
            + "00000001")
    ));
    let field = Field::new("c", nested.data_type().clone(), true);
    let nested: ArrayRef = Arc::new(nested);
    let column = Column::new(&nested, &field, Format::Binary).unwrap();
    let error = column.write(1, &mut BytesMut::new()).unwrap_err();
    assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn records_and_maps() {
    let record = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1])) as ArrayRef),
        (
            Arc::new(Field::new("b", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec!["a \"b\""])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("c", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef,
        ),
    ]);
    assert_eq!(texts(record.clone()), [r#"(1,"a ""b""",)"#]);
    assert!(binary_of(record).starts_with("00000003000000170000000400000001"));

    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a\"");
    map.values().append_value(1);
    map.keys().append_value("b");
    map.values().append_null();
    map.append(true).unwrap();
    assert_eq!(texts(map.finish()), [r#"{"a\"": 1, "b": null}"#]);
}

#[test]
fn row_is_a_message() {
    let batch = RecordBatch::try_from_iter([
        ("a", Arc::new(Int32Array::from(vec![Some(42)])) as ArrayRef),
        ("b", Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef),
    ])
    .unwrap();
    let encoder = BatchEncoder::new(&batch, &[Format::Text, Format::Text]).unwrap();
    let mut out = BytesMut::new();
    encoder.data_row(0, &mut out).unwrap();
    assert_eq!(&out[..], b"D\0\0\0\x10\0\x02\0\0\0\x0242\xff\xff\xff\xff");
}

/// Prints rows per second; run with `--ignored --nocapture`, optimised.
#[test]
#[ignore = "a measurement"]
fn speed_of_a_million_rows() {
    const N_ROWS: usize = 1_000_000;
    let ids: Vec<i64> = (0..N_ROWS as i64).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("small", Arc::new(Int32Array::from_iter_values(ids.iter().map(|id| (id % 1000) as i32)))),
        ("price", Arc::new(Float64Array::from_iter_values(ids.iter().map(|id| *id as f64 / 7.0)))),
        ("name", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("name {id}"))))),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(
                ids.iter().map(|id| 1_704_067_200_000_000 + id * 1001),
            )),
        ),
        (
            "sum",
            Arc::new(
                Decimal128Array::from_iter_values(ids.iter().map(|id| i128::from(*id) * 13))
                    .with_precision_and_scale(18, 2)
                    .unwrap(),
            ),
        ),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    for format in [Format::Text, Format::Binary] {
        let start = std::time::Instant::now();
        let mut out = BytesMut::with_capacity(1 << 20);
        let mut n_bytes = 0;
        for at in (0..N_ROWS).step_by(8192) {
            let batch = batch.slice(at, 8192.min(N_ROWS - at));
            let encoder = BatchEncoder::new(&batch, &[format; 6]).unwrap();
            for row_idx in 0..encoder.n_rows() {
                encoder.data_row(row_idx, &mut out).unwrap();
                if out.len() > 64 * 1024 {
                    n_bytes += out.len();
                    out.clear();
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{format:?}: {:.2} M rows/s, {:.0} MB/s",
            N_ROWS as f64 / seconds / 1e6,
            n_bytes as f64 / seconds / 1e6
        );
    }
}
