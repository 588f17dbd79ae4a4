//! Aggregates that DataFusion computes wrongly once there is a GROUP BY, and only then.
//!
//! Its grouped `min` and `max` of floats compare with `<`, which no NaN is part of: the result depends on the order of the
//! rows. They begin with the smallest and largest finite number, so that infinities lose against numbers that
//! never came. To PostgreSQL NaN is above all others. Its grouped `bit_xor` forgets a DISTINCT.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type,
};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::bit_and_or_xor::bit_xor_udaf;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

pub(super) fn grouped_functions() -> Vec<Arc<AggregateUDF>> {
    [max_udaf(), min_udaf(), bit_xor_udaf()]
        .into_iter()
        .map(|inner| Arc::new(AggregateUDF::from(Grouped { inner })))
        .collect()
}

/// DataFusion's own function, but for what it does to groups.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Grouped {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Grouped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner.return_field(arg_fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        let forgets_distinct = args.is_distinct && self.name() == "bit_xor";
        !forgets_distinct && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let ordered = match args.return_field.data_type() {
            DataType::Float32 => DataType::Int32,
            DataType::Float64 => DataType::Int64,
            _ => return self.inner.create_groups_accumulator(args),
        };
        let return_field = Arc::new(Field::new("ordered", ordered, true));
        let inner = self.inner.create_groups_accumulator(AccumulatorArgs { return_field, ..args })?;
        Ok(Box::new(Ordered { inner }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_udf()
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The extremes of floats as those of integers in the same order, in which NaN is the last.
struct Ordered {
    inner: Box<dyn GroupsAccumulator>,
}

impl GroupsAccumulator for Ordered {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        n_groups: usize,
    ) -> Result<()> {
        self.inner.update_batch(&all(values, to_ordered), group_indices, filter, n_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(from_ordered(&self.inner.evaluate(emit_to)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(all(&self.inner.state(emit_to)?, from_ordered))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], n_groups: usize) -> Result<()> {
        self.inner.merge_batch(&all(values, to_ordered), group_indices, n_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        Ok(all(&self.inner.convert_to_state(&all(values, to_ordered), filter)?, from_ordered))
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

fn all(columns: &[ArrayRef], convert: impl Fn(&ArrayRef) -> ArrayRef) -> Vec<ArrayRef> {
    columns.iter().map(convert).collect()
}

// As integers, the bits of positive floats are in order, and those of negative ones in the opposite order.

fn to_ordered(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => unary::<Float32Type, Int32Type>(column, |value| {
            let bits = if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
            flipped_32(bits.cast_signed())
        }),
        _ => unary::<Float64Type, Int64Type>(column, |value| {
            let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
            flipped_64(bits.cast_signed())
        }),
    }
}

fn from_ordered(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Int32 => unary::<Int32Type, Float32Type>(column, |ordered| {
            f32::from_bits(flipped_32(ordered).cast_unsigned())
        }),
        _ => unary::<Int64Type, Float64Type>(column, |ordered| {
            f64::from_bits(flipped_64(ordered).cast_unsigned())
        }),
    }
}

/// All bits but the sign's, of negative numbers. Twice is not at all.
fn flipped_32(bits: i32) -> i32 {
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

fn flipped_64(bits: i64) -> i64 {
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

fn unary<A: ArrowPrimitiveType, B: ArrowPrimitiveType>(
    column: &ArrayRef,
    convert: impl Fn(A::Native) -> B::Native,
) -> ArrayRef {
    let converted: PrimitiveArray<B> = column.as_primitive::<A>().unary(convert);
    Arc::new(converted)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Float64Array;

    use super::*;

    #[test]
    fn integers_are_in_the_order_of_floats() {
        let floats = [f64::NEG_INFINITY, f64::MIN, -1.5, -0.0, 0.0, 5e-324, 2.0, f64::MAX, f64::INFINITY];
        let mut values = floats.to_vec();
        values.push(-f64::NAN);
        let column: ArrayRef = Arc::new(Float64Array::from(values));
        let ordered = to_ordered(&column);
        assert!(ordered.as_primitive::<Int64Type>().values().is_sorted_by(|a, b| a < b));
        let back = from_ordered(&ordered);
        let back = back.as_primitive::<Float64Type>().values();
        assert_eq!(back[..floats.len()], floats);
        assert!(back[floats.len()].is_nan());
    }
}
