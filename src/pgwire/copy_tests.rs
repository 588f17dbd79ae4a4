use arrow::array::{ArrayRef, AsArray, Float64Array, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};

use super::*;

fn schema() -> SchemaRef {
    let fields = vec![Field::new("id", DataType::Int32, false), Field::new("name", DataType::Utf8, true)];
    Arc::new(Schema::new(fields))
}

fn rows() -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
    let names = vec![Some("a\tb\\c\nd"), None, Some(""), Some("\"q\", \\N")];
    let names: ArrayRef = Arc::new(StringArray::from(names));
    RecordBatch::try_new(schema(), vec![ids, names]).unwrap()
}

fn written(options: CopyOptions, rows: &RecordBatch) -> Vec<u8> {
    let mut writer = CopyWriter::new(options, &rows.schema());
    let mut out = BytesMut::new();
    writer.header(&mut out);
    let batch = writer.batch(rows).unwrap();
    for row_idx in 0..batch.n_rows() {
        writer.row(&batch, row_idx, &mut out).unwrap();
    }
    writer.trailer(&mut out);
    out.to_vec()
}

fn read_in_pieces(options: CopyOptions, bytes: &[u8], size: usize) -> Result<RecordBatch, SqlError> {
    let mut reader = CopyReader::new(options, schema());
    for piece in bytes.chunks(size) {
        reader.push(piece)?;
    }
    Ok(reader.finish()?.unwrap_or_else(|| RecordBatch::new_empty(schema())))
}

fn read(options: CopyOptions, text: &str) -> Result<RecordBatch, SqlError> {
    read_in_pieces(options, text.as_bytes(), 7)
}

#[test]
fn text_as_postgres_writes_it() {
    let text = String::from_utf8(written(CopyOptions::text(), &rows())).unwrap();
    assert_eq!(text, "1\ta\\tb\\\\c\\nd\n2\t\\N\n3\t\n4\t\"q\", \\\\N\n");
}

#[test]
fn csv_as_postgres_writes_it() {
    let options = CopyOptions { header: CopyHeader::Line, ..CopyOptions::csv() };
    let text = String::from_utf8(written(options, &rows())).unwrap();
    assert_eq!(text, "id,name\n1,\"a\tb\\c\nd\"\n2,\n3,\"\"\n4,\"\"\"q\"\", \\N\"\n");
}

#[test]
fn what_is_written_is_read_again_in_pieces_of_any_size() {
    let with_header = CopyOptions { header: CopyHeader::Match, ..CopyOptions::csv() };
    let odd =
        CopyOptions { quote: b'\'', escape: b'\\', delimiter: b';', null: "NA".into(), ..CopyOptions::csv() };
    for options in [CopyOptions::text(), CopyOptions::csv(), with_header, odd, CopyOptions::binary()] {
        options.validate().unwrap();
        let bytes = written(options.clone(), &rows());
        for size in [1, 2, 3, 5, 1000] {
            assert_eq!(read_in_pieces(options.clone(), &bytes, size).unwrap(), rows(), "{options:?} {size}");
        }
    }
}

#[test]
fn escapes_line_ends_and_the_end_marker() {
    let batch = read(CopyOptions::text(), "1\t\\x41\\102\\q\r\n2\ta\\\nb\n\\.\nnot read").unwrap();
    assert_eq!(batch.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["ABq", "a\nb"]);
    let batch = read(CopyOptions::csv(), "7,last line without end").unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int32Type>().value(0), 7);
}

#[test]
fn errors_name_line_and_column() {
    let fails = |options, text| {
        let error: SqlError = read(options, text).unwrap_err();
        (error.sqlstate.0, error.message, error.detail.unwrap())
    };
    assert_eq!(
        fails(CopyOptions::text(), "1\ta\nx\tb\n"),
        (
            "22P02",
            "invalid input syntax for type integer: \"x\"".into(),
            "COPY line 2, column \"id\".".into()
        )
    );
    assert_eq!(
        fails(CopyOptions::text(), "1\n"),
        ("22P04", "missing data for column \"name\"".into(), "COPY line 1.".into())
    );
    assert_eq!(fails(CopyOptions::text(), "1\ta\tb\n").1, "extra data after last expected column");
    assert_eq!(fails(CopyOptions::csv(), "1,\"a\n").1, "unterminated CSV quoted field");
    // The second row begins in the third line.
    assert_eq!(fails(CopyOptions::csv(), "1,\"a\nb\"\nx,\n").2, "COPY line 3, column \"id\".");
    assert_eq!(fails(CopyOptions::text(), "\\N\ta\n").0, "23502");
    let header = CopyOptions { header: CopyHeader::Match, ..CopyOptions::csv() };
    assert_eq!(fails(header, "id,nom\n").0, "22P04");
    assert_eq!(
        fails(CopyOptions::binary(), "this is no binary copy").1,
        "COPY file signature not recognized"
    );
}

#[test]
fn options_that_cannot_be_read_back_are_refused() {
    let bad = [
        CopyOptions { delimiter: b'a', ..CopyOptions::text() },
        CopyOptions { delimiter: b'\n', ..CopyOptions::csv() },
        CopyOptions { quote: b',', ..CopyOptions::csv() },
        CopyOptions { null: "a,b".into(), ..CopyOptions::csv() },
        CopyOptions { header: CopyHeader::Line, ..CopyOptions::binary() },
    ];
    for options in bad {
        assert_eq!(options.validate().unwrap_err().sqlstate, SqlState::INVALID_PARAMETER);
    }
}

#[test]
fn many_rows_come_in_batches() {
    let floats = Arc::new(Schema::new(vec![Field::new("f", DataType::Float64, true)]));
    let mut reader = CopyReader::new(CopyOptions::text(), floats);
    let text: String = (0..10_000).map(|n| format!("{n}.5\n")).collect();
    reader.push(text.as_bytes()).unwrap();
    let first = reader.take_full_batch().unwrap().unwrap();
    assert_eq!(first.num_rows(), 10_000);
    let values: &Float64Array = first.column(0).as_primitive();
    assert_eq!(values.value(9_999), 9_999.5);
    assert!(reader.finish().unwrap().is_none());
}
