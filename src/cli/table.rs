//! Results as text: aligned for people, CSV and JSON lines for programs.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use bytes::BytesMut;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::pgwire::encode::{BatchEncoder, Format as WireFormat};
use crate::session::api::SqlError;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// A table with aligned columns.
    #[default]
    Table,
    /// CSV with a header line; NULL is an empty field.
    Csv,
    /// One JSON object per line.
    Json,
}

/// What a column holds, as far as it matters for writing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Boolean,
    Text,
}

/// Rows as text, in the words of the wire protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<(String, Kind)>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// The batches must have one schema; without any the table has no columns.
    pub fn from_batches(batches: &[RecordBatch]) -> Result<Table, SqlError> {
        let Some(first) = batches.first() else { return Ok(Table::default()) };
        let fields = first.schema_ref().fields().iter();
        let columns = fields.map(|field| (field.name().clone(), kind(field.data_type()))).collect();
        let mut rows = Vec::new();
        for batch in batches {
            let encoder = BatchEncoder::new(batch, &vec![WireFormat::Text; batch.num_columns()])?;
            for row_idx in 0..batch.num_rows() {
                let row = encoder.columns().iter().map(|column| {
                    if column.is_null(row_idx) {
                        return Ok(None);
                    }
                    let mut text = BytesMut::new();
                    column.write(row_idx, &mut text)?;
                    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
                });
                rows.push(row.collect::<Result<_, SqlError>>()?);
            }
        }
        Ok(Table { columns, rows })
    }

    /// The rows of a client that knows the names and the text only: a column is one of numbers when
    /// all its values look like numbers.
    pub fn from_text(names: Vec<String>, rows: Vec<Vec<Option<String>>>) -> Table {
        let kind = |idx: usize| {
            let mut values = rows.iter().filter_map(|row| row[idx].as_deref()).peekable();
            let is_number = |value: &str| value.parse::<f64>().is_ok();
            match values.peek().is_some() && values.all(is_number) {
                true => Kind::Number,
                false => Kind::Text,
            }
        };
        let columns = names.into_iter().enumerate().map(|(idx, name)| (name, kind(idx))).collect();
        Table { columns, rows }
    }

    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.aligned(),
            Format::Csv => self.csv(),
            Format::Json => self.json(),
        }
    }

    fn aligned(&self) -> String {
        // A value with line ends would tear the table apart.
        let shown = |value: &Option<String>| value.as_deref().unwrap_or_default().replace('\n', "\u{21b5}");
        let widths: Vec<usize> = (self.columns.iter().enumerate())
            .map(|(idx, (name, _))| {
                let values = self.rows.iter().map(|row| shown(&row[idx]).width());
                values.chain([name.width()]).max().unwrap_or_default()
            })
            .collect();
        let line = |cells: Vec<String>| cells.join("|").trim_end().to_owned() + "\n";
        let header = self.columns.iter().zip(&widths).map(|((name, _), width)| {
            let left = (width - name.width()) / 2;
            format!(" {}{name}{} ", " ".repeat(left), " ".repeat(width - name.width() - left))
        });
        let mut out = line(header.collect());
        out += &widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+");
        out.push('\n');
        for row in &self.rows {
            let cells = row.iter().zip(&self.columns).zip(&widths).map(|((value, (_, kind)), width)| {
                let value = shown(value);
                let space = " ".repeat(width - value.width());
                match kind {
                    Kind::Number => format!(" {space}{value} "),
                    _ => format!(" {value}{space} "),
                }
            });
            out += &line(cells.collect());
        }
        out + &match self.rows.len() {
            1 => "(1 row)\n".to_owned(),
            n_rows => format!("({n_rows} rows)\n"),
        }
    }

    fn csv(&self) -> String {
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut out = line(self.columns.iter().map(|(name, _)| csv_field(name)).collect());
        for row in &self.rows {
            out += &line(row.iter().map(|value| value.as_deref().map_or(String::new(), csv_field)).collect());
        }
        out
    }

    fn json(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let fields = self.columns.iter().zip(row);
            let object =
                fields.map(|((name, kind), value)| (name.clone(), json_value(*kind, value.as_deref())));
            out += &Value::Object(object.collect()).to_string();
            out.push('\n');
        }
        out
    }
}

fn kind(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Boolean => Kind::Boolean,
        data_type if data_type.is_numeric() => Kind::Number,
        _ => Kind::Text,
    }
}

/// In quotes where it must be; the empty text too, or it would read as NULL.
fn csv_field(text: &str) -> String {
    match text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn json_value(kind: Kind, value: Option<&str>) -> Value {
    match (kind, value) {
        (_, None) => Value::Null,
        (Kind::Boolean, Some(value)) => Value::Bool(value == "t"),
        // What JSON has no number for, such as NaN, stays text.
        (Kind::Number, Some(value)) => {
            value.parse().map(Value::Number).unwrap_or_else(|_| Value::String(value.into()))
        }
        (Kind::Text, Some(value)) => Value::String(value.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};

    use super::*;

    fn example() -> Table {
        let columns: [(&str, ArrayRef); 4] = [
            ("name", Arc::new(StringArray::from(vec![Some("Zürich, CH"), Some("日本"), None]))),
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-300)]))),
            ("share", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 2.0]))),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ];
        Table::from_batches(&[
            RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap()
        ])
        .unwrap()
    }

    #[test]
    fn tables_are_aligned() {
        let expected = "    name    |  n   | share | ok
------------+------+-------+----
 Zürich, CH |    1 |   0.5 | t
 日本       |      |   NaN | f
            | -300 |     2 |
(3 rows)
";
        assert_eq!(example().render(Format::Table), expected);
        let one = Table::from_text(vec!["x".into()], vec![vec![Some("a\nb".into())]]);
        assert_eq!(one.render(Format::Table), "  x\n-----\n a\u{21b5}b\n(1 row)\n");
    }

    #[test]
    fn csv_is_quoted() {
        let expected = "name,n,share,ok\n\"Zürich, CH\",1,0.5,t\n日本,,NaN,f\n,-300,2,\n";
        assert_eq!(example().render(Format::Csv), expected);
        let tricky = Table::from_text(
            vec!["a".into(), "b".into()],
            vec![vec![Some("say \"hi\"".into()), Some(String::new())], vec![None, Some("x".into())]],
        );
        assert_eq!(tricky.render(Format::Csv), "a,b\n\"say \"\"hi\"\"\",\"\"\n,x\n");
    }

    #[test]
    fn json_keeps_types() {
        let expected = concat!(
            r#"{"name":"Zürich, CH","n":1,"share":0.5,"ok":true}"#,
            "\n",
            r#"{"name":"日本","n":null,"share":"NaN","ok":false}"#,
            "\n",
            r#"{"name":null,"n":-300,"share":2,"ok":null}"#,
            "\n"
        );
        assert_eq!(example().render(Format::Json), expected);
    }

    #[test]
    fn text_that_looks_like_numbers_is_aligned_right() {
        let table = Table::from_text(
            vec!["a".into(), "b".into(), "c".into()],
            vec![
                vec![Some("1".into()), Some("1".into()), None],
                vec![Some("20".into()), Some("x".into()), None],
            ],
        );
        let kinds: Vec<_> = table.columns.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds, [Kind::Number, Kind::Text, Kind::Text]);
    }
}
