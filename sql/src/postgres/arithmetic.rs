//! `+`, `-`, `*` of integers and `/` of floating-point numbers, checked.
//!
//! DataFusion's own wrap around, and give infinity. Arrow has both kernels; these are the checked ones, which are loops
//! over the values as well.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Datum, Scalar};
use datafusion::arrow::compute::kernels::numeric::{add, div, mul, rem, sub};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// One operator over two arguments of one type.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checked {
    op: Operator,
    signature: Signature,
}

impl Checked {
    /// `None` for an operator whose kernel in DataFusion is checked already, or is none of arithmetic.
    pub fn of(op: Operator, data_type: &DataType) -> Option<Checked> {
        let is_checked = match op {
            Operator::Plus | Operator::Minus | Operator::Multiply => data_type.is_integer(),
            Operator::Divide | Operator::Modulo => data_type.is_floating(),
            _ => false,
        };
        is_checked.then(|| Checked { op, signature: Signature::any(2, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "int_add",
            Operator::Minus => "int_subtract",
            Operator::Multiply => "int_multiply",
            Operator::Divide => "float_divide",
            _ => "float_modulo",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(infix(self.op, &args[0].to_string(), &args[1].to_string()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("{} {} {}", args[0].schema_name(), self.op, args[1].schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        super::common(&arg_types[0], &arg_types[1])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = &args.args[..] else { return internal_err!("an operator has two arguments") };
        apply(left, right, |left, right| match self.op {
            Operator::Plus => add(left, right),
            Operator::Minus => sub(left, right),
            Operator::Multiply => mul(left, right),
            op => {
                if has_zero(right) {
                    return Err(ArrowError::DivideByZero);
                }
                if op == Operator::Divide { div(left, right) } else { rem(left, right) }
            }
        })
    }
}

/// Whether a floating-point divisor is zero anywhere.
fn has_zero(divisor: &dyn Datum) -> bool {
    let (array, _) = divisor.get();
    match array.data_type() {
        DataType::Float32 => {
            let array = array.as_primitive::<Float32Type>();
            array.values().contains(&0.0) && array.iter().any(|value| value == Some(0.0))
        }
        DataType::Float64 => {
            let array = array.as_primitive::<Float64Type>();
            array.values().contains(&0.0) && array.iter().any(|value| value == Some(0.0))
        }
        _ => false,
    }
}

/// Applies a kernel to any mix of columns and constants.
pub(crate) fn apply(
    left: &ColumnarValue,
    right: &ColumnarValue,
    kernel: impl Fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError>,
) -> Result<ColumnarValue> {
    let constant = |value: &ColumnarValue| -> Result<Option<Scalar<ArrayRef>>> {
        match value {
            ColumnarValue::Array(_) => Ok(None),
            ColumnarValue::Scalar(value) => Ok(Some(value.to_scalar()?)),
        }
    };
    let (left_constant, right_constant) = (constant(left)?, constant(right)?);
    let values = match (left, right, &left_constant, &right_constant) {
        (ColumnarValue::Array(left), ColumnarValue::Array(right), ..) => kernel(left, right)?,
        (ColumnarValue::Array(left), _, _, Some(right)) => kernel(left, right)?,
        (_, ColumnarValue::Array(right), Some(left), _) => kernel(left, right)?,
        (_, _, Some(left), Some(right)) => {
            let value = kernel(left, right)?;
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&value, 0)?));
        }
        _ => return internal_err!("a value is a column or a constant"),
    };
    Ok(ColumnarValue::Array(Arc::clone(&values)))
}

/// `a op b`, with parentheses where an operand is an operation itself.
pub(crate) fn infix(op: Operator, left: &str, right: &str) -> String {
    let grouped = |operand: &str| match operand.contains(' ') && !operand.ends_with(')') {
        true => format!("({operand})"),
        false => operand.to_owned(),
    };
    format!("{} {op} {}", grouped(left), grouped(right))
}
