//! PostgreSQL's types and Arrow's.
//!
//! Declared columns are `Utf8` for every character type, never `Utf8View`: one representation in
//! state, in files and on the wire; DataFusion may use views inside a plan. What Arrow has no type
//! for keeps its PostgreSQL name in the field's metadata under [`PG_TYPE`]: `json`, `jsonb` and
//! `uuid` are `Utf8` with a name, and so is `varchar(n)`, whose length is not enforced by Arrow.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::{SqlState, did_you_mean};

use crate::error::Error;
use crate::parser::cursor::Cursor;

pub use tidemill_core::PG_TYPE;

/// `numeric` without precision.
pub const NUMERIC: DataType = DataType::Decimal128(38, 10);

/// Composite types inside each other.
const DEPTH_MAX: usize = 20;

/// A column's type: Arrow's, and PostgreSQL's name where Arrow's does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    pub data_type: DataType,
    pub pg_type: Option<String>,
}

impl ColumnType {
    /// A field of this type.
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        Field::new(name, self.data_type.clone(), nullable).with_metadata(self.metadata())
    }

    /// What the field's metadata says.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.pg_type.iter().map(|name| (PG_TYPE.to_string(), name.clone())).collect()
    }
}

impl From<DataType> for ColumnType {
    fn from(data_type: DataType) -> ColumnType {
        ColumnType { data_type, pg_type: None }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pg_type {
            Some(name) => f.write_str(name),
            None => f.write_str(&pg_type_name(&self.data_type)),
        }
    }
}

/// The PostgreSQL type of a field, with what its metadata says.
pub fn pg_type_of(field: &Field) -> String {
    match field.metadata().get(PG_TYPE) {
        Some(name) => name.clone(),
        None => pg_type_name(field.data_type()),
    }
}

/// The name of a type that is kept as text, such as `uuid` or `character varying(3)`.
pub fn declared_type(field: &Field) -> Option<&str> {
    field.metadata().get(PG_TYPE).map(String::as_str)
}

/// What PostgreSQL calls the type, as in `\d`.
pub fn pg_type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "unknown".to_string(),
        DataType::Boolean => "boolean".to_string(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint".to_string(),
        DataType::Int32 | DataType::UInt16 => "integer".to_string(),
        // Unsigned ones of 64 bits are counts and positions.
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "bigint".to_string(),
        DataType::Float16 | DataType::Float32 => "real".to_string(),
        DataType::Float64 => "double precision".to_string(),
        DataType::Decimal128(38, 10) => "numeric".to_string(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("numeric({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_string(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "bytea".to_string()
        }
        DataType::Date32 | DataType::Date64 => "date".to_string(),
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone".to_string(),
        DataType::Timestamp(_, None) => "timestamp without time zone".to_string(),
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone".to_string(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_string(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("{}[]", pg_type_of(item)),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", crate::parser::quote(field.name()), pg_type_of(field)))
                .collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map<{}, {}>", pg_type_of(&fields[0]), pg_type_of(&fields[1]))
            }
            _ => "map".to_string(),
        },
        DataType::Dictionary(_, values) => pg_type_name(values),
        DataType::RunEndEncoded(_, values) => pg_type_of(values),
        DataType::Union(..) => "json".to_string(),
    }
}

/// The type that `text` names.
pub fn parse_type(text: &str) -> Result<ColumnType, Error> {
    crate::parser::read(text, |cursor| cursor.column_type())
}

/// Every name of a type, for who lists them.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// Every name that [`Cursor::column_type`] knows, for hints.
const NAMES: [&str; 40] = [
    "smallint",
    "integer",
    "int",
    "bigint",
    "int2",
    "int4",
    "int8",
    "real",
    "float",
    "float4",
    "float8",
    "double",
    "numeric",
    "decimal",
    "text",
    "varchar",
    "character",
    "char",
    "bpchar",
    "string",
    "boolean",
    "bool",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "bytea",
    "json",
    "jsonb",
    "uuid",
    "struct",
    "row",
    "bytes",
    "tinyint",
    "name",
    "oid",
    "map",
    "array",
];

impl Cursor<'_> {
    /// A type with its array brackets.
    pub(crate) fn column_type(&mut self) -> Result<ColumnType, Error> {
        let mut open = 0;
        let column_type = self.nested_type(0, &mut open)?;
        match open {
            0 => Ok(column_type),
            // `struct<a int>>`
            _ => Err(self.unexpected("one \">\" less")),
        }
    }

    /// `open` counts the `>` that were read as half of a `>>` and belong to the type outside.
    fn nested_type(&mut self, depth: usize, open: &mut usize) -> Result<ColumnType, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::too_complex().at(self.position()));
        }
        let mut column_type = self.base_type(depth, open)?;
        loop {
            if *open > 0 {
                return Ok(column_type);
            }
            let brackets = self.eat_token(&Token::LBracket);
            if brackets {
                if let Token::Number(..) = self.peek().token {
                    // As in PostgreSQL, the size says nothing.
                    self.integer()?;
                }
                self.expect_token(&Token::RBracket)?;
            } else if !self.eat("ARRAY") {
                return Ok(column_type);
            }
            column_type = list_of(column_type);
        }
    }

    fn base_type(&mut self, depth: usize, open: &mut usize) -> Result<ColumnType, Error> {
        let position = self.position();
        let (Token::Word(word), quoted) = (
            &self.peek().token,
            matches!(&self.peek().token, Token::Word(word) if word.quote_style.is_some()),
        ) else {
            return Err(self.unexpected("a type"));
        };
        let name = if quoted { word.value.clone() } else { word.value.to_lowercase() };
        if !quoted
            && ["primary", "not", "null", "default", "as", "references", "unique", "check", "constraint"]
                .contains(&name.as_str())
        {
            return Err(self.unexpected("a type"));
        }
        self.advance();
        if name == "pg_catalog" && self.eat_token(&Token::Period) {
            return self.base_type(depth, open);
        }
        let plain = |data_type: DataType| Ok(ColumnType::from(data_type));
        let named =
            |data_type: DataType, name: &str| Ok(ColumnType { data_type, pg_type: Some(name.to_string()) });
        match name.as_str() {
            "smallint" | "int2" | "tinyint" => plain(DataType::Int16),
            "integer" | "int" | "int4" => plain(DataType::Int32),
            "bigint" | "int8" | "oid" => plain(DataType::Int64),
            "real" | "float4" => plain(DataType::Float32),
            "float8" => plain(DataType::Float64),
            "double" => {
                self.eat("PRECISION");
                plain(DataType::Float64)
            }
            "float" => match self.modifiers(1)?.first() {
                Some(1..=24) => plain(DataType::Float32),
                Some(25..=53) | None => plain(DataType::Float64),
                Some(_) => Err(invalid("precision for type float must be between 1 and 53 bits", position)),
            },
            "numeric" | "decimal" | "dec" => self.numeric(position),
            "text" | "string" => plain(DataType::Utf8),
            "varchar" => self.characters("character varying"),
            "bpchar" => self.characters("character"),
            "char" | "character" | "nchar" => match self.eat("VARYING") {
                true => self.characters("character varying"),
                false => self.characters("character"),
            },
            "boolean" | "bool" => plain(DataType::Boolean),
            "date" => plain(DataType::Date32),
            "time" => {
                self.time_precision()?;
                match self.with_time_zone()? {
                    true => Err(Error::unsupported("type time with time zone")
                        .with_hint("Use time, or timestamptz.")
                        .at(position)),
                    false => plain(DataType::Time64(TimeUnit::Microsecond)),
                }
            }
            "timetz" => Err(Error::unsupported("type time with time zone")
                .with_hint("Use time, or timestamptz.")
                .at(position)),
            "timestamp" => {
                self.time_precision()?;
                match self.with_time_zone()? {
                    true => plain(timestamptz()),
                    false => plain(DataType::Timestamp(TimeUnit::Microsecond, None)),
                }
            }
            "timestamptz" => {
                self.time_precision()?;
                plain(timestamptz())
            }
            "interval" => {
                self.time_precision()?;
                plain(DataType::Interval(IntervalUnit::MonthDayNano))
            }
            "bytea" | "bytes" => plain(DataType::Binary),
            "json" | "jsonb" | "uuid" | "name" => named(DataType::Utf8, &name),
            "struct" | "row" => self.composite(depth, open),
            "map" => self.map(depth, open),
            "array" => {
                self.expect_token(&Token::Lt)?;
                let item = self.nested_type(depth + 1, open)?;
                self.close(open)?;
                Ok(list_of(item))
            }
            "serial" | "bigserial" | "serial4" | "serial8" | "smallserial" => {
                Err(Error::unsupported(format!("type {name}"))
                    .with_hint("It is for columns of CREATE TABLE; elsewhere use integer or bigint.")
                    .at(position))
            }
            _ => {
                let hint = did_you_mean(&name, NAMES).map(|near| format!("Did you mean {near}?"));
                Err(Error::new(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"))
                    .with_hint_opt(hint)
                    .at(position))
            }
        }
    }

    fn numeric(&mut self, position: usize) -> Result<ColumnType, Error> {
        let modifiers = self.modifiers(2)?;
        let (precision, scale) = match modifiers.as_slice() {
            [] => return Ok(NUMERIC.into()),
            [precision] => (*precision, 0),
            [precision, scale, ..] => (*precision, *scale),
        };
        if !(1..=76).contains(&precision) {
            return Err(invalid(format!("NUMERIC precision {precision} must be between 1 and 76"), position));
        }
        if scale > precision {
            return Err(invalid(
                format!("NUMERIC scale {scale} must be between 0 and precision {precision}"),
                position,
            ));
        }
        let (precision, scale) = (precision as u8, scale as i8);
        Ok(match precision {
            ..=38 => DataType::Decimal128(precision, scale).into(),
            _ => DataType::Decimal256(precision, scale).into(),
        })
    }

    fn characters(&mut self, name: &str) -> Result<ColumnType, Error> {
        let position = self.position();
        let pg_type = match self.modifiers(1)?.first() {
            Some(0) => {
                return Err(invalid("length for a character type must be at least 1", position));
            }
            Some(length) => Some(format!("{name}({length})")),
            None => None,
        };
        Ok(ColumnType { data_type: DataType::Utf8, pg_type })
    }

    fn modifiers(&mut self, n_max: usize) -> Result<Vec<u64>, Error> {
        if !self.is_token(&Token::LParen) {
            return Ok(Vec::new());
        }
        let position = self.position();
        let modifiers = self.parenthesized(Cursor::integer)?;
        match modifiers.len() <= n_max {
            true => Ok(modifiers),
            false => Err(invalid("too many type modifiers", position)),
        }
    }

    fn time_precision(&mut self) -> Result<(), Error> {
        let position = self.position();
        match self.modifiers(1)?.first() {
            // All are kept in microseconds, as in PostgreSQL.
            None | Some(0..=6) => Ok(()),
            Some(_) => Err(invalid("precision of a time type must be between 0 and 6", position)),
        }
    }

    fn with_time_zone(&mut self) -> Result<bool, Error> {
        if self.eat_all(&["WITHOUT", "TIME", "ZONE"]) {
            return Ok(false);
        }
        Ok(self.eat_all(&["WITH", "TIME", "ZONE"]))
    }

    /// Behind `struct` or `row`: `<a int, b text>` or `(a int, b text)`.
    fn composite(&mut self, depth: usize, open: &mut usize) -> Result<ColumnType, Error> {
        let round = self.eat_token(&Token::LParen);
        if !round {
            self.expect_token(&Token::Lt)?;
        }
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let name = self.name()?;
            if fields.iter().any(|field| *field.name() == name.value) {
                let message = format!("field \"{}\" is specified more than once", name.value);
                return Err(Error::new(SqlState::DUPLICATE_COLUMN, message).at(name.position));
            }
            self.eat_token(&Token::Colon);
            let field_type = self.nested_type(depth + 1, open)?;
            fields.push(field_type.field(&name.value, true));
            if *open > 0 || !self.eat_token(&Token::Comma) {
                break;
            }
        }
        match round {
            true => self.expect_token(&Token::RParen)?,
            false => self.close(open)?,
        }
        Ok(DataType::Struct(Fields::from(fields)).into())
    }

    fn map(&mut self, depth: usize, open: &mut usize) -> Result<ColumnType, Error> {
        self.expect_token(&Token::Lt)?;
        let key = self.nested_type(depth + 1, open)?;
        self.expect_token(&Token::Comma)?;
        let value = self.nested_type(depth + 1, open)?;
        self.close(open)?;
        let entries = Fields::from(vec![key.field("key", false), value.field("value", true)]);
        Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false).into())
    }

    /// A `>`, which may be half of a `>>`.
    fn close(&mut self, open: &mut usize) -> Result<(), Error> {
        if *open > 0 {
            *open -= 1;
            return Ok(());
        }
        if self.eat_token(&Token::ShiftRight) {
            *open += 1;
            return Ok(());
        }
        self.expect_token(&Token::Gt)
    }
}

fn list_of(item: ColumnType) -> ColumnType {
    DataType::List(Arc::new(item.field("item", true))).into()
}

pub(crate) fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn invalid(message: impl Into<String>, position: usize) -> Error {
    Error::new(SqlState::INVALID_PARAMETER, message).at(position)
}

#[cfg(test)]
mod tests {
    use tidemill_core::Diagnostic;

    use super::*;

    fn arrow(text: &str) -> DataType {
        parse_type(text).unwrap().data_type
    }

    #[test]
    fn names_become_arrow_types() {
        let micros = TimeUnit::Microsecond;
        let expected = [
            ("int2", DataType::Int16),
            ("INTEGER", DataType::Int32),
            ("bigint", DataType::Int64),
            ("real", DataType::Float32),
            ("double precision", DataType::Float64),
            ("float(24)", DataType::Float32),
            ("numeric", DataType::Decimal128(38, 10)),
            ("numeric(12, 2)", DataType::Decimal128(12, 2)),
            ("decimal(5)", DataType::Decimal128(5, 0)),
            ("numeric(50,3)", DataType::Decimal256(50, 3)),
            ("varchar", DataType::Utf8),
            ("character varying(10)", DataType::Utf8),
            ("char(3)", DataType::Utf8),
            ("bool", DataType::Boolean),
            ("date", DataType::Date32),
            ("time(3) without time zone", DataType::Time64(micros)),
            ("timestamp", DataType::Timestamp(micros, None)),
            ("timestamp(3) with time zone", timestamptz()),
            ("timestamptz", timestamptz()),
            ("pg_catalog.int4", DataType::Int32),
            ("interval", DataType::Interval(IntervalUnit::MonthDayNano)),
            ("bytea", DataType::Binary),
            ("jsonb", DataType::Utf8),
        ];
        for (text, data_type) in expected {
            assert_eq!(arrow(text), data_type, "{text}");
        }
    }

    #[test]
    fn composites_nest() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        assert_eq!(arrow("int[]"), DataType::List(item(DataType::Int32)));
        assert_eq!(arrow("int[3][]"), DataType::List(item(arrow("int[]"))));
        assert_eq!(arrow("int array"), arrow("array<int>"));
        let inner = DataType::Struct(Fields::from(vec![Field::new("b", DataType::Utf8, true)]));
        let outer = DataType::Struct(Fields::from(vec![Field::new("a", inner.clone(), true)]));
        assert_eq!(arrow("struct<a struct<b text>>"), outer);
        assert_eq!(arrow("row(a row(b text))"), outer);
        assert_eq!(arrow("struct<a struct<b text>>[]"), DataType::List(item(outer)));
        assert_eq!(pg_type_name(&arrow("map<text, map<text, int>>")), "map<text, map<text, integer>>");
    }

    #[test]
    fn printed_types_read_back() {
        for text in [
            "smallint",
            "numeric",
            "numeric(9,2)",
            "timestamp with time zone",
            "uuid",
            "character varying(7)",
            "struct<a integer, b text[]>[]",
            "struct<\"A b\" json>",
            "interval",
            "time without time zone",
        ] {
            let column_type = parse_type(text).unwrap();
            assert_eq!(column_type.to_string(), text);
            assert_eq!(parse_type(&column_type.to_string()).unwrap(), column_type);
        }
    }

    #[test]
    fn names_without_arrow_type_stay_in_the_metadata() {
        let field = parse_type("uuid").unwrap().field("id", false);
        assert_eq!((field.data_type(), pg_type_of(&field).as_str()), (&DataType::Utf8, "uuid"));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| format!("{:?}", parse_type(text).unwrap_err());
        assert_eq!(error("integr"), "42704: type \"integr\" does not exist @1 HINT: Did you mean integer?");
        assert_eq!(error("numeric(99)"), "22023: NUMERIC precision 99 must be between 1 and 76 @1");
        assert_eq!(error("numeric(3,4)"), "22023: NUMERIC scale 4 must be between 0 and precision 3 @1");
        assert_eq!(parse_type("struct<a int>>").unwrap_err().sqlstate(), SqlState::SYNTAX_ERROR);
        assert_eq!(parse_type("timetz").unwrap_err().sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(error("struct<a int, a int>"), "42701: field \"a\" is specified more than once @15");
    }
}
