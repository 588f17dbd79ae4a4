//! `FETCH FIRST n ROWS WITH TIES`, for which DataFusion's plans have no place, travels as
//! `LIMIT __with_ties(n)` from the parsed query to the plan (see `first_rows.rs`). It is never called.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

pub(crate) const WITH_TIES: &str = "__with_ties";

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WithTies {
    signature: Signature,
}

impl WithTies {
    pub fn new() -> WithTies {
        WithTies { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WithTies {
    fn name(&self) -> &str {
        WITH_TIES
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("WITH TIES belongs to a FETCH clause")
    }
}
