//! Casts from and to text, by the functions that read and write values on the wire.

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field};
use bytes::BytesMut;
use datafusion::common::{DataFusionError, Result};
use tidemill_core::SqlState;
use tidemill_sql::TextFormat;

use crate::pgwire::decode::{self, text_column};
use crate::pgwire::encode::text_of;
use crate::session::api::SqlError;

/// PostgreSQL's texts.
#[derive(Debug)]
pub struct PostgresText;

impl TextFormat for PostgresText {
    fn read(&self, texts: &StringArray, field: &Field) -> Result<ArrayRef> {
        if let Some(declared) = tidemill_sql::types::declared_type(field) {
            let mut values = StringBuilder::new();
            for text in texts {
                let value = text.map(|text| declared_text(text, declared)).transpose();
                values.append_option(value.map_err(travelling)?);
            }
            return Ok(std::sync::Arc::new(values.finish()));
        }
        text_column(texts, field.data_type()).map_err(|error| travelling(error.error))
    }

    fn write(&self, values: &ArrayRef, field: &Field) -> Result<StringArray> {
        // A boolean is `t` on the wire, and `true` as text.
        if *values.data_type() == DataType::Boolean {
            let texts = arrow::compute::cast(values, &DataType::Utf8)?;
            return Ok(arrow::array::AsArray::as_string::<i32>(&texts).clone());
        }
        let column = text_of(values, field).map_err(travelling)?;
        let mut texts = StringBuilder::with_capacity(values.len(), values.len() * 16);
        let mut buffer = BytesMut::new();
        for row_idx in 0..values.len() {
            if column.is_null(row_idx) {
                texts.append_null();
                continue;
            }
            buffer.clear();
            column.write(row_idx, &mut buffer).map_err(travelling)?;
            texts.append_value(std::str::from_utf8(&buffer).expect("text is UTF-8"));
        }
        Ok(texts.finish())
    }
}

/// As in PostgreSQL.
const NAME_BYTES_MAX: usize = 63;

/// A text as a value of a type that is kept as text.
pub(crate) fn declared_text(text: &str, declared: &str) -> Result<String, SqlError> {
    let length = |declared: &str| {
        let (_, rest) = declared.split_once('(')?;
        rest.trim_end_matches(')').parse::<usize>().ok()
    };
    match declared {
        "uuid" => decode::parse_uuid(text).map(|uuid| decode::uuid_text(&uuid)),
        "json" => {
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map_err(|error| invalid_json(text, &error))?;
            Ok(text.to_owned())
        }
        "jsonb" => {
            let value: serde_json::Value =
                serde_json::from_str(text).map_err(|error| invalid_json(text, &error))?;
            Ok(tidemill_sql::json::jsonb_text(&value))
        }
        "name" => Ok(text[..text.floor_char_boundary(NAME_BYTES_MAX.min(text.len()))].to_owned()),
        // A cast cuts off what is too long; only an assignment refuses it.
        declared if declared.starts_with("character varying") => Ok(match length(declared) {
            Some(length) => text.chars().take(length).collect(),
            None => text.to_owned(),
        }),
        declared if declared.starts_with("character") => {
            let length = length(declared).unwrap_or(usize::MAX);
            let kept: String = text.chars().take(length).collect();
            Ok(kept.trim_end_matches(' ').to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

fn invalid_json(text: &str, error: &serde_json::Error) -> SqlError {
    SqlError::new(SqlState::INVALID_TEXT, "invalid input syntax for type json")
        .with_detail(format!("{error}: {text}"))
}

/// An error on its way through DataFusion, which hands it on as it is.
fn travelling(error: SqlError) -> DataFusionError {
    let mut known = tidemill_sql::Error::new(error.sqlstate, error.message);
    if let Some(detail) = error.detail {
        known = known.with_detail(detail);
    }
    DataFusionError::External(Box::new(known.with_hint_opt(error.hint)))
}
