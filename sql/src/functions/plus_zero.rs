//! `plus_zero(x)`: a floating-point number as one that equal numbers are the same bits of.
//!
//! There are two zeros, which are equal (IEEE 754-2019, 5.11). Where rows are found by the bytes of a key, in a sort or in an
//! arrangement, they would be two keys. Plans call it where that would be seen; nobody else has a use for it.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PlusZero {
    signature: Signature,
}

impl PlusZero {
    pub fn new() -> PlusZero {
        PlusZero { signature: Signature::any(1, Volatility::Immutable) }
    }
}

/// `expr`, with one zero where its type has two.
pub(crate) fn with_one_zero(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match is_needed(&expr, schema)? {
        true => Ok(ScalarUDF::from(PlusZero::new()).call(vec![expr])),
        false => Ok(expr),
    }
}

/// Whether the type of `expr` has two zeros, and it has not been made sure that it gives one.
fn is_needed(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    let is_done = matches!(expr, Expr::ScalarFunction(call) if call.func.inner().is::<PlusZero>());
    Ok(!is_done && matches!(expr.get_type(schema)?, DataType::Float32 | DataType::Float64))
}

impl ScalarUDFImpl for PlusZero {
    fn name(&self) -> &str {
        "plus_zero"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let one_zero: ArrayRef = match values.data_type() {
            DataType::Float64 => {
                Arc::new(values.as_primitive::<Float64Type>().unary(|x| x + 0.0) as Float64Array)
            }
            DataType::Float32 => {
                Arc::new(values.as_primitive::<Float32Type>().unary(|x| x + 0.0) as Float32Array)
            }
            other => return exec_err!("plus_zero takes a floating-point number, not {other}"),
        };
        Ok(ColumnarValue::Array(one_zero))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_one_and_the_rest_stays() {
        let values = [-0.0, 0.0, -1.5, f64::MIN_POSITIVE, f64::INFINITY, f64::NAN, -5e-324];
        let array = Float64Array::from(values.to_vec());
        let sums: Float64Array = array.unary(|x| x + 0.0);
        let bits: Vec<u64> = sums.values().iter().map(|x| x.to_bits()).collect();
        let mut expected: Vec<u64> = values.iter().map(|x| x.to_bits()).collect();
        expected[0] = 0;
        assert_eq!(bits, expected);
    }
}
