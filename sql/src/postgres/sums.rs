//! `sum`, whose result PostgreSQL makes wide enough.
//!
//! The sum of `bigint` is `numeric`: it cannot overflow, neither in a query nor, later, in a pipeline that has been adding
//! for a year. The sum of smaller integers is `bigint`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, Volatility,
};

pub(crate) fn functions() -> Vec<Arc<AggregateUDF>> {
    vec![Arc::new(AggregateUDF::from(WideSum::new()))]
}

/// DataFusion's sum over wider arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WideSum {
    sum: Sum,
    signature: Signature,
}

impl WideSum {
    fn new() -> WideSum {
        WideSum { sum: Sum::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for WideSum {
    fn name(&self) -> &str {
        self.sum.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [DataType::Int64] => Ok(vec![DataType::Decimal128(19, 0)]),
            [DataType::UInt64] => Ok(vec![DataType::Decimal128(20, 0)]),
            arg_types => {
                let fields: Vec<FieldRef> = arg_types
                    .iter()
                    .map(|data_type| {
                        Arc::new(datafusion::arrow::datatypes::Field::new("x", data_type.clone(), true))
                    })
                    .collect();
                let fields = datafusion::logical_expr::type_coercion::functions::fields_with_udf(&fields, &self.sum_udf())?;
                Ok(fields.iter().map(|field| field.data_type().clone()).collect())
            }
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.sum.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.sum.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.sum.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.sum.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.sum.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.sum.create_sliding_accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.sum.set_monotonicity(data_type)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.sum.default_value(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.sum.documentation()
    }
}

impl WideSum {
    fn sum_udf(&self) -> AggregateUDF {
        AggregateUDF::from(Sum::new())
    }
}

/// The aggregate, for rules that make calls of it.
pub(crate) fn sum_udaf() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(WideSum::new()))
}
