use super::*;

fn text(value: &str, pg: &PgType) -> Result<ScalarValue, SqlError> {
    parameter(Some(value.as_bytes()), Format::Text, pg)
}

fn binary(value: &[u8], pg: &PgType) -> Result<ScalarValue, SqlError> {
    parameter(Some(value), Format::Binary, pg)
}

fn sqlstate(value: &str, pg: &PgType) -> &'static str {
    text(value, pg).unwrap_err().sqlstate.0
}

#[test]
fn text_parameters() {
    assert_eq!(text(" 42 ", &PgType::INT4).unwrap(), ScalarValue::Int32(Some(42)));
    assert_eq!(text("yes", &PgType::BOOL).unwrap(), ScalarValue::Boolean(Some(true)));
    assert_eq!(text("of", &PgType::BOOL).unwrap(), ScalarValue::Boolean(Some(false)));
    assert_eq!(text("-Infinity", &PgType::FLOAT8).unwrap(), ScalarValue::Float64(Some(f64::NEG_INFINITY)));
    assert_eq!(text("\\x00ff", &PgType::BYTEA).unwrap(), ScalarValue::Binary(Some(vec![0, 255])));
    assert_eq!(text("a\\\\b\\001", &PgType::BYTEA).unwrap(), ScalarValue::Binary(Some(b"a\\b\x01".to_vec())));
    assert_eq!(text("x", &PgType::UNKNOWN).unwrap(), ScalarValue::Utf8(Some("x".into())));
    // As columns of the type keep them.
    assert_eq!(
        text("{\"b\":2,\"a\":1}", &PgType::JSONB).unwrap(),
        ScalarValue::Utf8(Some(r#"{"a": 1, "b": 2}"#.into()))
    );
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    assert_eq!(text(&uuid.to_uppercase(), &PgType::UUID).unwrap(), ScalarValue::Utf8(Some(uuid.into())));
    assert_eq!(sqlstate("xyz", &PgType::UUID), "22P02");
    assert_eq!(sqlstate("{", &PgType::JSONB), "22P02");
    assert_eq!(parameter(None, Format::Text, &PgType::INT8).unwrap(), ScalarValue::Int64(None));
}

#[test]
fn what_is_wrong_has_its_code() {
    assert_eq!(sqlstate("x", &PgType::INT4), "22P02");
    assert_eq!(sqlstate("99999", &PgType::INT2), "22003");
    assert_eq!(sqlstate("o", &PgType::BOOL), "22P02");
    assert_eq!(sqlstate("2024-02-30", &PgType::DATE), "22008");
    assert_eq!(sqlstate("yesterday-ish", &PgType::TIMESTAMP), "22007");
    assert_eq!(sqlstate("1 fortnight", &PgType::INTERVAL), "22007");
    assert_eq!(sqlstate("{1,2", &PgType::INT4_ARRAY), "22P02");
    assert_eq!(sqlstate("NaN", &PgType::NUMERIC), "0A000");
    assert_eq!(binary(&[1], &PgType::INT4).unwrap_err().sqlstate.0, "22P03");
    assert_eq!(text("a\0", &PgType::TEXT).unwrap_err().sqlstate.0, "22021");
    let error = text("x", &PgType::INT4).unwrap_err();
    assert_eq!(error.message, "invalid input syntax for type integer: \"x\"");
}

#[test]
fn numerics_keep_the_scale_they_came_with() {
    let decimal = |value, scale| ScalarValue::Decimal128(Some(value), 38, scale);
    assert_eq!(text("12.50", &PgType::NUMERIC).unwrap(), decimal(1250, 2));
    assert_eq!(text("-1e3", &PgType::NUMERIC).unwrap(), decimal(-1000, 0));
    assert_eq!(text("1.5e-3", &PgType::NUMERIC).unwrap(), decimal(15, 4));
    // 123.45 and -0.0001 as PostgreSQL sends them
    let value = [0, 2, 0, 0, 0, 0, 0, 2, 0, 0x7b, 0x11, 0x94];
    assert_eq!(binary(&value, &PgType::NUMERIC).unwrap(), decimal(12345, 2));
    let value = [0, 1, 0xff, 0xff, 0x40, 0, 0, 4, 0, 1];
    assert_eq!(binary(&value, &PgType::NUMERIC).unwrap(), decimal(-1, 4));
    assert!(matches!(
        text(&"9".repeat(50), &PgType::NUMERIC).unwrap(),
        ScalarValue::Decimal256(Some(_), 76, 0)
    ));
}

#[test]
fn columns_of_numeric_round_half_away_from_zero() {
    let round = |value: &str| {
        let column = text_column(&StringArray::from(vec![value]), &DataType::Decimal128(4, 1));
        column.map(|column| ScalarValue::try_from_array(&column, 0).unwrap().to_string())
    };
    assert_eq!(round("99.95").unwrap(), ScalarValue::Decimal128(Some(1000), 4, 1).to_string());
    assert_eq!(round("-0.05").unwrap(), ScalarValue::Decimal128(Some(-1), 4, 1).to_string());
    assert_eq!(round("0.04").unwrap(), ScalarValue::Decimal128(Some(0), 4, 1).to_string());
    assert_eq!(round("999.95").unwrap_err().error.sqlstate.0, "22003");
}

#[test]
fn dates_and_times_of_every_form() {
    let date = |value| text(value, &PgType::DATE).unwrap();
    assert_eq!(date("2024-01-01"), ScalarValue::Date32(Some(19_723)));
    assert_eq!(date("20240101"), ScalarValue::Date32(Some(19_723)));
    assert_eq!(date("0001-12-31 BC"), ScalarValue::Date32(Some(-719_163)));
    assert_eq!(date("infinity"), ScalarValue::Date32(Some(i32::MAX)));
    let micros = |value, pg| match text(value, &pg).unwrap() {
        ScalarValue::TimestampMicrosecond(Some(micros), _) => micros,
        other => panic!("{other}"),
    };
    const DAY: i64 = 1_704_067_200_000_000;
    assert_eq!(micros("2024-01-01 00:00:01.5", PgType::TIMESTAMP), DAY + 1_500_000);
    assert_eq!(micros("2024-01-01T00:00:01Z", PgType::TIMESTAMP), DAY + 1_000_000);
    assert_eq!(micros("2024-01-01 02:00:00+02", PgType::TIMESTAMP), DAY + 7_200_000_000);
    assert_eq!(micros("2024-01-01 02:00:00+02", PgType::TIMESTAMPTZ), DAY);
    assert_eq!(micros("2024-01-01 02:30:00+0230", PgType::TIMESTAMPTZ), DAY);
    assert_eq!(micros("2023-12-31 23:00:00 -01:00", PgType::TIMESTAMPTZ), DAY);
    assert_eq!(micros("2024-01-01", PgType::TIMESTAMPTZ), DAY);
    assert_eq!(
        text("23:59:59.25", &PgType::TIME).unwrap(),
        ScalarValue::Time64Microsecond(Some(86_399_250_000))
    );
    assert_eq!(binary(&[0, 0, 0, 1], &PgType::DATE).unwrap(), ScalarValue::Date32(Some(10_958)));
    let zoned = binary(&1000i64.to_be_bytes(), &PgType::TIMESTAMPTZ).unwrap();
    assert_eq!(zoned, ScalarValue::TimestampMicrosecond(Some(946_684_800_001_000), Some("+00:00".into())));
}

#[test]
fn intervals_of_every_form() {
    let interval = |months, days, micros| Interval { months, days, micros };
    let parse = |value| parse_interval(value).unwrap();
    assert_eq!(parse("1 year 2 mons -3 days +04:05:06.7"), interval(14, -3, 14_706_700_000));
    assert_eq!(parse("1 day"), interval(0, 1, 0));
    assert_eq!(parse("5 seconds"), interval(0, 0, 5_000_000));
    assert_eq!(parse("1.5 hours"), interval(0, 0, 5_400_000_000));
    assert_eq!(parse("10ms"), interval(0, 0, 10_000));
    assert_eq!(parse("@ 1 hour ago"), interval(0, 0, -3_600_000_000));
    assert_eq!(parse("-00:00:01"), interval(0, 0, -1_000_000));
    assert_eq!(parse("P1Y2M3DT4H5M6.5S"), interval(14, 3, 14_706_500_000));
    assert_eq!(parse("1.5 months"), interval(1, 15, 0));
}

#[test]
fn arrays_in_text_and_binary() {
    let list = |value: ScalarValue| value.to_string();
    let ints = text("{1,NULL,3}", &PgType::INT4_ARRAY).unwrap();
    assert_eq!(list(ints.clone()), "[1, , 3]");
    let words = text(r#"{a,"b \"c\"",NULL,"NULL",""}"#, &PgType::TEXT_ARRAY).unwrap();
    assert_eq!(list(words), r#"[a, b "c", , NULL, ]"#);
    let mut value = Vec::new();
    for word in [1u32, 1, 23, 3, 1, 4, 1, u32::MAX, 4, 3] {
        value.extend(word.to_be_bytes());
    }
    assert_eq!(binary(&value, &PgType::INT4_ARRAY).unwrap(), ints);
    assert_eq!(binary(&[0; 12], &PgType::INT4_ARRAY).unwrap_err().sqlstate.0, "42804");
    assert!(text("{{{{{{{1}}}}}}}", &PgType::INT4_ARRAY).is_err());
}

#[test]
fn uuids_have_one_form_inside() {
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let bytes = parse_uuid("{A0EEBC999C0B4EF8BB6D6BB9BD380A11}").unwrap();
    assert_eq!(binary(&bytes, &PgType::UUID).unwrap(), ScalarValue::Utf8(Some(uuid.into())));
    assert!(parse_uuid("a0").is_err());
    assert!(parse_uuid(&format!("{uuid}0")).is_err());
}

#[test]
fn error_of_a_column_knows_its_row() {
    let values = StringArray::from(vec!["1", "2", "x"]);
    let error = text_column(&values, &DataType::Int32).unwrap_err();
    assert_eq!(error.row_idx, 2);
    let lists = StringArray::from(vec!["{1}", "{2,x}"]);
    let list = DataType::new_list(DataType::Int32, true);
    assert_eq!(text_column(&lists, &list).unwrap_err().row_idx, 1);
}
