//! Arithmetic of exact numbers.
//!
//! Arrow's decimals have a fixed scale, PostgreSQL's numerics each their own, so the scale of a result is chosen by the
//! types: a quotient has at least 16 digits behind the point, a product those of both factors as far as 18, and then the
//! larger factor's. Results are rounded half away from zero; what 38 digits do not hold is an error.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Decimal128Array, PrimitiveArray};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, i256};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::postgres::arithmetic::infix;

const PRECISION: u8 = 38;

/// The digits behind the point that a quotient has at least.
const QUOTIENT_SCALE: i8 = 16;

/// The digits behind the point that a product has of its own accord.
const PRODUCT_SCALE: i8 = 18;

/// The names under which the functions are registered, for rules that make calls of them.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Operator::Plus, Operator::Minus, Operator::Multiply, Operator::Divide, Operator::Modulo]
        .into_iter()
        .map(|op| Arc::new(ScalarUDF::from(Numeric::new(op))))
        .collect()
}

/// A call of the operator.
pub(crate) fn call(op: Operator, left: Expr, right: Expr) -> Expr {
    ScalarUDF::from(Numeric::new(op)).call(vec![left, right])
}

/// The exact type that an integer or exact type is computed in.
pub(crate) fn exact(data_type: &DataType) -> Option<(u8, i8)> {
    match data_type {
        DataType::Int8 | DataType::UInt8 => Some((3, 0)),
        DataType::Int16 | DataType::UInt16 => Some((5, 0)),
        DataType::Int32 | DataType::UInt32 => Some((10, 0)),
        DataType::Int64 => Some((19, 0)),
        DataType::UInt64 => Some((20, 0)),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => Some((*precision, *scale)),
        _ => None,
    }
}

/// Whether an operation is of exact numbers, of which one is no integer.
pub(crate) fn is_exact(op: Operator, left: &DataType, right: &DataType) -> bool {
    let is_decimal = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..));
    let fits = |data_type: &DataType| exact(data_type).is_some() || *data_type == DataType::Null;
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo)
        && (is_decimal(left) || is_decimal(right))
        && fits(left)
        && fits(right)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Numeric {
    op: Operator,
    signature: Signature,
}

impl Numeric {
    fn new(op: Operator) -> Numeric {
        Numeric { op, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn result(&self, left: (u8, i8), right: (u8, i8)) -> (u8, i8) {
        let whole = |(precision, scale): (u8, i8)| i16::from(precision) - i16::from(scale);
        let larger = left.1.max(right.1);
        let (n_whole, scale) = match self.op {
            Operator::Plus | Operator::Minus => (whole(left).max(whole(right)) + 1, larger),
            Operator::Multiply => {
                let scale = match left.1 + right.1 {
                    scale if scale <= PRODUCT_SCALE => scale,
                    _ => larger.max(PRODUCT_SCALE),
                };
                (whole(left) + whole(right) + 1, scale)
            }
            Operator::Divide => (i16::from(PRECISION), larger.max(QUOTIENT_SCALE)),
            _ => (whole(left).min(whole(right)).max(1), larger),
        };
        let precision = (n_whole + i16::from(scale)).clamp(1, i16::from(PRECISION));
        (precision as u8, scale)
    }
}

impl ScalarUDFImpl for Numeric {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "numeric_add",
            Operator::Minus => "numeric_sub",
            Operator::Multiply => "numeric_mul",
            Operator::Divide => "numeric_div",
            _ => "numeric_mod",
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

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let coerced = |data_type: &DataType| match (data_type, exact(data_type)) {
            (DataType::Null, _) => Ok(DataType::Decimal128(1, 0)),
            (_, Some((precision, scale))) => Ok(DataType::Decimal128(precision.min(PRECISION), scale)),
            _ => plan_err!("Cannot coerce arithmetic expression {data_type} to valid types"),
        };
        arg_types.iter().map(coerced).collect()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [left, right] = arg_types else { return plan_err!("an operator has two arguments") };
        match (exact(left), exact(right)) {
            (Some(left), Some(right)) => {
                let (precision, scale) = self.result(left, right);
                Ok(DataType::Decimal128(precision, scale))
            }
            _ => plan_err!("Cannot coerce arithmetic expression {left} {} {right} to valid types", self.op),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = &args.args[..] else { return internal_err!("an operator has two arguments") };
        let scale_of = |value: &ColumnarValue| exact(&value.data_type()).map_or(0, |(_, scale)| scale);
        let (left_scale, right_scale) = (scale_of(left), scale_of(right));
        let DataType::Decimal128(precision, scale) = *args.return_type() else {
            return internal_err!("the result of exact arithmetic is exact");
        };
        let is_constant = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let n_rows = if is_constant { 1 } else { args.number_rows };
        let rescale = |value: &ColumnarValue| value.to_array(n_rows);
        let (left, right) = (rescale(left)?, rescale(right)?);
        let step = Step { op: self.op, left_scale, right_scale, scale, limit: 10i128.pow(precision.into()) };
        let result = step.apply(left.as_primitive(), right.as_primitive())?;
        let result: ArrayRef = Arc::new(result.with_precision_and_scale(precision, scale)?);
        match is_constant {
            true => Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

/// The operation on the digits.
struct Step {
    op: Operator,
    left_scale: i8,
    right_scale: i8,
    scale: i8,
    /// What the result's absolute value has to stay below.
    limit: i128,
}

impl Step {
    fn apply(&self, left: &Decimal128Array, right: &Decimal128Array) -> Result<Decimal128Array, ArrowError> {
        let common = self.left_scale.max(self.right_scale);
        let (left_factor, right_factor) = (power(common - self.left_scale), power(common - self.right_scale));
        let overflow = || ArrowError::ArithmeticOverflow("numeric".into());
        let limited = |value: i128| if value.abs() < self.limit { Ok(value) } else { Err(overflow()) };
        match self.op {
            Operator::Plus | Operator::Minus => binary(left, right, |a, b| {
                let a = a.checked_mul(left_factor).ok_or_else(overflow)?;
                let b = b.checked_mul(right_factor).ok_or_else(overflow)?;
                let sum = if self.op == Operator::Plus { a.checked_add(b) } else { a.checked_sub(b) };
                limited(sum.ok_or_else(overflow)?)
            }),
            Operator::Multiply => {
                let n_cut = self.left_scale + self.right_scale - self.scale;
                let divisor = power(n_cut);
                binary(left, right, |a, b| match a.checked_mul(b) {
                    Some(product) => limited(if n_cut == 0 { product } else { divided(product, divisor) }),
                    None => {
                        let product = i256::from_i128(a).wrapping_mul(i256::from_i128(b));
                        let product = divided_wide(product, i256::from_i128(divisor));
                        limited(product.to_i128().ok_or_else(overflow)?)
                    }
                })
            }
            Operator::Divide => {
                // a·10^-la / b·10^-lb at the result's scale: a·10^(scale - la + lb) / b.
                let shift = self.scale - self.left_scale + self.right_scale;
                let factor = power(shift);
                binary(left, right, |a, b| {
                    if b == 0 {
                        return Err(ArrowError::DivideByZero);
                    }
                    match a.checked_mul(factor) {
                        Some(a) => limited(divided(a, b)),
                        None => {
                            let a = i256::from_i128(a).wrapping_mul(i256::from_i128(factor));
                            limited(divided_wide(a, i256::from_i128(b)).to_i128().ok_or_else(overflow)?)
                        }
                    }
                })
            }
            _ => binary(left, right, |a, b| {
                if b == 0 {
                    return Err(ArrowError::DivideByZero);
                }
                let a = a.checked_mul(left_factor).ok_or_else(overflow)?;
                let b = b.checked_mul(right_factor).ok_or_else(overflow)?;
                Ok(a % b)
            }),
        }
    }
}

fn binary(
    left: &Decimal128Array,
    right: &Decimal128Array,
    op: impl Fn(i128, i128) -> Result<i128, ArrowError>,
) -> Result<PrimitiveArray<Decimal128Type>, ArrowError> {
    datafusion::arrow::compute::try_binary(left, right, op)
}

fn power(exponent: i8) -> i128 {
    10i128.pow(exponent.clamp(0, 38) as u32)
}

/// Rounded half away from zero.
fn divided(a: i128, b: i128) -> i128 {
    let (quotient, rest) = (a / b, a % b);
    // |rest| >= |b| / 2, without doubling what may be near the end of the range.
    if rest.unsigned_abs() >= b.unsigned_abs() - rest.unsigned_abs() && rest != 0 {
        quotient + if (a < 0) == (b < 0) { 1 } else { -1 }
    } else {
        quotient
    }
}

fn divided_wide(a: i256, b: i256) -> i256 {
    let (quotient, rest) = (a.wrapping_div(b), a.wrapping_rem(b));
    if rest == i256::ZERO || rest.wrapping_abs() < b.wrapping_abs().wrapping_sub(rest.wrapping_abs()) {
        return quotient;
    }
    let one = if (a < i256::ZERO) == (b < i256::ZERO) { i256::ONE } else { i256::MINUS_ONE };
    quotient.wrapping_add(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_rounded_half_away_from_zero() {
        assert_eq!(divided(5, 2), 3);
        assert_eq!(divided(-5, 2), -3);
        assert_eq!(divided(5, -2), -3);
        assert_eq!(divided(4, 3), 1);
        assert_eq!(divided(i128::MAX, i128::MAX), 1);
        assert_eq!(divided_wide(i256::from_i128(-7), i256::from_i128(2)), i256::from_i128(-4));
    }
}
