//! What a value is declared as: `pg_typeof`, and the functions that say it of texts.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::types::{PG_TYPE, pg_type_of};

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let declaration =
        |name, declared| Declared { name, declared, signature: Signature::any(1, Volatility::Immutable) };
    vec![
        Arc::new(ScalarUDF::from(declaration("json_of", "json"))),
        Arc::new(ScalarUDF::from(declaration("jsonb_of", "jsonb"))),
        Arc::new(ScalarUDF::from(PgTypeof { signature: Signature::any(1, Volatility::Immutable) })),
    ]
}

/// A text that is known to be a `json` or a `jsonb`, as one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Declared {
    name: &'static str,
    declared: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Declared {
    fn name(&self) -> &str {
        self.name
    }

    // It is not written by anybody, and has the name of what it declares.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = Field::new(self.name, args.arg_fields[0].data_type().clone(), true);
        Ok(Arc::new(field.with_metadata([(PG_TYPE.to_owned(), self.declared.to_owned())].into())))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args.swap_remove(0))
    }
}

/// `pg_typeof(any)`
#[derive(Debug, PartialEq, Eq, Hash)]
struct PgTypeof {
    signature: Signature,
}

impl ScalarUDFImpl for PgTypeof {
    fn name(&self) -> &str {
        "pg_typeof"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = Field::new(self.name(), DataType::Utf8, false);
        Ok(Arc::new(field.with_metadata([(PG_TYPE.to_owned(), "regtype".to_owned())].into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut name = pg_type_of(&args.arg_fields[0]);
        // The type, without its modifier.
        if let (Some(start), Some(end)) = (name.find('('), name.find(')')) {
            name.replace_range(start..=end, "");
        }
        Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(name))))
    }
}
