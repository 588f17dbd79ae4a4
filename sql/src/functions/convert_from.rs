//! `convert_from(bytea, encoding)`: bytes as text.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, StringBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

/// All text is UTF8; bytes that are not are an error, as in PostgreSQL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ConvertFrom {
    signature: Signature,
}

impl ConvertFrom {
    pub fn new() -> ConvertFrom {
        let types = TypeSignature::Exact(vec![DataType::Binary, DataType::Utf8]);
        ConvertFrom { signature: Signature::new(types, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ConvertFrom {
    fn name(&self) -> &str {
        "convert_from"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [bytes, encoding] = &args.args[..] else {
            return exec_err!("convert_from takes bytes and the name of an encoding");
        };
        let bytes = bytes.to_array(args.number_rows)?;
        let encodings = encoding.to_array(args.number_rows)?;
        let (bytes, encodings) = (bytes.as_binary::<i32>(), encodings.as_string::<i32>());
        let mut texts = StringBuilder::with_capacity(bytes.len(), bytes.values().len());
        for row in 0..bytes.len() {
            if bytes.is_null(row) || encodings.is_null(row) {
                texts.append_null();
                continue;
            }
            if !["utf8", "utf-8", "unicode"].contains(&encodings.value(row).to_lowercase().as_str()) {
                return exec_err!("invalid source encoding name \"{}\"", encodings.value(row));
            }
            match std::str::from_utf8(bytes.value(row)) {
                Ok(text) => texts.append_value(text),
                Err(error) => return exec_err!("invalid byte sequence for encoding \"UTF8\": {error}"),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(texts.finish())))
    }
}
