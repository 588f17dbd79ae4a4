//! The whole value in one column, undecoded.

use arrow::array::BinaryBuilder;
use arrow::datatypes::{DataType, FieldRef, Fields};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::records::Decoded;
use crate::formats::text;

/// Puts values into one column of bytes or text.
#[derive(Debug, Clone)]
pub struct BytesDecoder {
    column: FieldRef,
}

impl BytesDecoder {
    pub fn new(declared: &Fields) -> Result<BytesDecoder, ConnectorError> {
        let [column] = &declared[..] else {
            let message = format!("ENCODE BYTES fills one column, but {} are declared", declared.len());
            return Err(ConnectorError::fatal(SqlState::INVALID_TABLE_DEFINITION, message)
                .with_hint("Declare one column of type BYTEA or TEXT, beside those of INCLUDE."));
        };
        match column.data_type() {
            DataType::Binary
            | DataType::BinaryView
            | DataType::LargeBinary
            | DataType::Utf8
            | DataType::Utf8View
            | DataType::LargeUtf8 => Ok(BytesDecoder { column: column.clone() }),
            other => {
                let message =
                    format!("column \"{}\" cannot be of type {other} in ENCODE BYTES", column.name());
                Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message)
                    .with_hint("Declare it as BYTEA or TEXT."))
            }
        }
    }

    pub fn decode(&self, values: &[&[u8]]) -> Decoded {
        let data_type = self.column.data_type();
        let mut faults = Vec::new();
        let column = match data_type {
            DataType::Binary | DataType::BinaryView | DataType::LargeBinary => {
                let n_bytes = values.iter().map(|value| value.len()).sum();
                let mut builder = BinaryBuilder::with_capacity(values.len(), n_bytes);
                values.iter().for_each(|value| builder.append_value(value));
                arrow::compute::cast(&builder.finish(), data_type).expect("bytes are bytes")
            }
            _ => text::parse_column(
                self.column.name(),
                data_type,
                values.iter().map(|value| Some(*value)),
                &mut faults,
            ),
        };
        let mut decoded =
            Decoded { columns: vec![column], rows: (0..values.len()).collect(), bad: Vec::new() };
        decoded.remove(faults);
        decoded
    }
}
