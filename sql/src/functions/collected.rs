//! Aggregates of all values of a group: JSON, percentiles, the most frequent value.
//!
//! Each collects values as `array_agg` does, in the order of its ORDER BY, and makes its result of the list in the end.

use std::cmp::Reverse;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray};
use datafusion::arrow::compute::{cast, partition, sort};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Float64Type, IntervalMonthDayNanoType,
};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::functions_aggregate::array_agg::ArrayAgg;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::physical_expr::expressions::Literal;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::grouped::grouped_functions;
use crate::functions::json::{as_jsonb, write_key, write_value};
use crate::postgres::{INTERVAL, between};
use crate::types::PG_TYPE;

/// All of them, to be registered in a session.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    [
        ("json_agg", Kind::Array { is_binary: false }),
        ("jsonb_agg", Kind::Array { is_binary: true }),
        ("json_object_agg", Kind::Object { is_binary: false }),
        ("jsonb_object_agg", Kind::Object { is_binary: true }),
        ("percentile_cont", Kind::Continuous),
        ("percentile_disc", Kind::Discrete),
        ("mode", Kind::Mode),
    ]
    .into_iter()
    .map(|(name, kind)| Arc::new(AggregateUDF::from(Collected::new(name, kind))))
    .chain(grouped_functions())
    .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// `json_agg(value)`
    Array { is_binary: bool },
    /// `json_object_agg(key, value)`
    Object { is_binary: bool },
    /// `percentile_cont(fraction) WITHIN GROUP (ORDER BY value)`
    Continuous,
    /// `percentile_disc(fraction) WITHIN GROUP (ORDER BY value)`
    Discrete,
    /// `mode() WITHIN GROUP (ORDER BY value)`
    Mode,
}

impl Kind {
    fn n_args(self) -> usize {
        match self {
            Kind::Array { .. } | Kind::Mode => 1,
            Kind::Object { .. } | Kind::Continuous | Kind::Discrete => 2,
        }
    }

    /// Whether the value stands in `WITHIN GROUP`.
    fn is_ordered_set(self) -> bool {
        matches!(self, Kind::Continuous | Kind::Discrete | Kind::Mode)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Collected {
    name: &'static str,
    kind: Kind,
    /// The values come in the order of the ORDER BY.
    is_input_ordered: bool,
    signature: Signature,
}

impl Collected {
    fn new(name: &'static str, kind: Kind) -> Collected {
        let signature = Signature::user_defined(Volatility::Immutable);
        Collected { name, kind, is_input_ordered: false, signature }
    }

    /// What is collected of the arguments: the value, or key and value.
    fn item(&self, args: &[FieldRef]) -> FieldRef {
        match self.kind {
            Kind::Object { .. } => {
                let named = |idx: usize, name| args[idx].as_ref().clone().with_name(name).with_nullable(true);
                let pair = Fields::from(vec![named(0, "key"), named(1, "value")]);
                Arc::new(Field::new_list_field(DataType::Struct(pair), true))
            }
            _ => Arc::new(args[0].as_ref().clone().with_name("item").with_nullable(true)),
        }
    }
}

impl AggregateUDFImpl for Collected {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if arg_types.len() != self.kind.n_args() {
            return plan_err!("{} takes {} arguments", self.name, self.kind.n_args());
        }
        let fraction = |data_type: &DataType| match data_type {
            DataType::List(_) => DataType::new_list(DataType::Float64, true),
            _ => DataType::Float64,
        };
        Ok(match self.kind {
            Kind::Array { .. } => vec![crate::functions::json::coerced(&arg_types[0])],
            Kind::Object { .. } => {
                let key = match &arg_types[0] {
                    data_type if data_type.is_nested() => {
                        return plan_err!("key value must be scalar, not array, composite, or json");
                    }
                    _ => DataType::Utf8,
                };
                vec![key, crate::functions::json::coerced(&arg_types[1])]
            }
            Kind::Continuous if arg_types[0] == INTERVAL => vec![INTERVAL, fraction(&arg_types[1])],
            Kind::Continuous if arg_types[0].is_numeric() || arg_types[0].is_null() => {
                vec![DataType::Float64, fraction(&arg_types[1])]
            }
            Kind::Continuous => {
                return plan_err!(
                    "No function matches the given name and argument types '{}({})'.",
                    self.name,
                    arg_types[0]
                );
            }
            Kind::Discrete => vec![arg_types[0].clone(), fraction(&arg_types[1])],
            Kind::Mode => arg_types.to_vec(),
        })
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Array { .. } | Kind::Object { .. } => DataType::Utf8,
            Kind::Mode => arg_types[0].clone(),
            Kind::Continuous | Kind::Discrete => match arg_types.get(1) {
                Some(DataType::List(_)) => DataType::new_list(arg_types[0].clone(), true),
                _ => arg_types[0].clone(),
            },
        })
    }

    fn return_field(&self, args: &[FieldRef]) -> Result<FieldRef> {
        let types: Vec<DataType> = args.iter().map(|arg| arg.data_type().clone()).collect();
        let field = Field::new(self.name, self.return_type(&types)?, true);
        let declared = match self.kind {
            Kind::Array { is_binary } | Kind::Object { is_binary } => {
                if is_binary {
                    "jsonb"
                } else {
                    "json"
                }
            }
            // One of the values, whatever it was declared as.
            _ if *field.data_type() == types[0] => {
                return Ok(Arc::new(field.with_metadata(args[0].metadata().clone())));
            }
            _ => return Ok(Arc::new(field)),
        };
        Ok(Arc::new(field.with_metadata([(PG_TYPE.to_owned(), declared.to_owned())].into())))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let item = self.item(args.input_fields);
        ArrayAgg::default().state_fields(StateFieldsArgs { input_fields: &[item], ..args })
    }

    fn supports_within_group_clause(&self) -> bool {
        self.kind.is_ordered_set()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::SoftRequirement
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(Arc::new(Collected { is_input_ordered: beneficial_ordering, ..self.as_ref().clone() })))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let item = self.item(args.expr_fields);
        let fraction = match self.kind {
            Kind::Continuous | Kind::Discrete => Some(Fraction::of(&args)?),
            _ => None,
        };
        let array_agg = Arc::new(ArrayAgg::default()).with_beneficial_ordering(self.is_input_ordered)?;
        let Some(array_agg) = array_agg else { return internal_err!("array_agg takes any order") };
        let list = DataType::List(item.clone());
        let values = array_agg.accumulator(AccumulatorArgs {
            return_field: Arc::new(Field::new("values", list, true)),
            exprs: &args.exprs[..1],
            expr_fields: std::slice::from_ref(&item),
            // NULL is a value for JSON, and none for a percentile.
            ignore_nulls: self.kind.is_ordered_set(),
            schema: args.schema,
            order_bys: args.order_bys,
            is_reversed: args.is_reversed,
            name: args.name,
            is_distinct: args.is_distinct,
        })?;
        Ok(Box::new(Collector {
            kind: self.kind,
            item,
            result: args.return_field.clone(),
            fraction,
            // `percentile_cont(value, fraction)` is DataFusion's other way to write it.
            is_to_be_sorted: self.kind.is_ordered_set() && args.order_bys.is_empty(),
            values,
        }))
    }
}

/// What a percentile is asked for.
#[derive(Debug)]
enum Fraction {
    One(Option<f64>),
    Many(Vec<Option<f64>>),
}

impl Fraction {
    fn of(args: &AccumulatorArgs) -> Result<Fraction> {
        let Some(literal) = args.exprs[1].downcast_ref::<Literal>() else {
            return exec_err!("the fraction of a percentile must be a constant");
        };
        let checked = |fraction: Option<f64>| match fraction {
            Some(fraction) if !(0.0..=1.0).contains(&fraction) => {
                let message = format!("percentile value {fraction} is not between 0 and 1");
                let error = Error::new(SqlState::NUMERIC_OUT_OF_RANGE, message);
                Err(DataFusionError::External(Box::new(error)))
            }
            fraction => Ok(fraction),
        };
        match literal.value() {
            ScalarValue::List(list) if list.is_null(0) => Ok(Fraction::One(None)),
            ScalarValue::List(list) => {
                let fractions = cast(&list.value(0), &DataType::Float64)?;
                let fractions = fractions.as_primitive::<Float64Type>().iter();
                Ok(Fraction::Many(fractions.map(checked).collect::<Result<_>>()?))
            }
            value => match value.cast_to(&DataType::Float64)? {
                ScalarValue::Float64(fraction) => Ok(Fraction::One(checked(fraction)?)),
                other => internal_err!("a fraction is a number, not {other}"),
            },
        }
    }
}

#[derive(Debug)]
struct Collector {
    kind: Kind,
    /// What is collected.
    item: FieldRef,
    result: FieldRef,
    fraction: Option<Fraction>,
    is_to_be_sorted: bool,
    values: Box<dyn Accumulator>,
}

impl Collector {
    /// The columns that are collected: the value, and what it is ordered by.
    fn collected(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let (args, order) = columns.split_at(self.kind.n_args());
        let value = match (self.kind, self.item.data_type()) {
            (Kind::Object { .. }, DataType::Struct(pair)) => {
                Arc::new(StructArray::try_new(pair.clone(), args.to_vec(), None)?)
            }
            _ => args[0].clone(),
        };
        Ok([&[value], order].concat())
    }

    fn json_array(&self, values: &ArrayRef, is_binary: bool) -> Result<ScalarValue> {
        let mut text = String::from("[");
        for idx in 0..values.len() {
            text.push_str(if idx > 0 { ", " } else { "" });
            if idx > 0 && values.data_type().is_nested() && !is_binary {
                text.push_str("\n ");
            }
            write_value(values, &self.item, idx, &mut text)?;
        }
        text.push(']');
        Ok(ScalarValue::Utf8(Some(if is_binary { as_jsonb(&text)? } else { text })))
    }

    fn json_object(&self, pairs: &ArrayRef, is_binary: bool) -> Result<ScalarValue> {
        let pairs = pairs.as_struct();
        let (keys, values, value) = (pairs.column(0), pairs.column(1), &pairs.fields()[1]);
        let mut text = String::from("{ ");
        for idx in 0..pairs.len() {
            text.push_str(if idx > 0 { ", " } else { "" });
            write_key(keys, idx, &mut text)?;
            text.push_str(" : ");
            write_value(values, value, idx, &mut text)?;
        }
        text.push_str(" }");
        Ok(ScalarValue::Utf8(Some(if is_binary { as_jsonb(&text)? } else { text })))
    }

    /// `result` of each fraction that is asked for.
    fn percentiles(
        &self,
        values: &ArrayRef,
        result: impl Fn(&ArrayRef, f64) -> Result<ScalarValue>,
    ) -> Result<ScalarValue> {
        let null = || ScalarValue::try_from(values.data_type());
        let one = |fraction: Option<f64>| fraction.map_or_else(null, |fraction| result(values, fraction));
        match self.fraction.as_ref() {
            Some(Fraction::One(fraction)) => one(*fraction),
            Some(Fraction::Many(fractions)) => {
                let results = fractions.iter().map(|fraction| one(*fraction)).collect::<Result<Vec<_>>>()?;
                let list = ScalarValue::new_list(&results, values.data_type(), true);
                Ok(ScalarValue::List(list))
            }
            None => internal_err!("a percentile has a fraction"),
        }
    }
}

impl Accumulator for Collector {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let collected = self.collected(columns)?;
        self.values.update_batch(&collected)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let ScalarValue::List(list) = self.values.evaluate()? else {
            return internal_err!("array_agg gives an array");
        };
        let list: &ListArray = &list;
        if list.is_null(0) || list.value_length(0) == 0 {
            return ScalarValue::try_from(self.result.data_type());
        }
        let mut values = list.value(0);
        if self.is_to_be_sorted {
            values = sort(&values, None)?;
        }
        match self.kind {
            Kind::Array { is_binary } => self.json_array(&values, is_binary),
            Kind::Object { is_binary } => self.json_object(&values, is_binary),
            Kind::Continuous => self.percentiles(&values, interpolated),
            Kind::Discrete => self.percentiles(&values, |values, fraction| {
                let position = (fraction * values.len() as f64).ceil() as usize;
                ScalarValue::try_from_array(values, position.max(1) - 1)
            }),
            Kind::Mode => most_frequent(&values),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn retract_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let collected = self.collected(columns)?;
        self.values.retract_batch(&collected)
    }

    fn supports_retract_batch(&self) -> bool {
        self.values.supports_retract_batch()
    }
}

/// The value at a fraction of the way through sorted values, between two of them in proportion.
fn interpolated(values: &ArrayRef, fraction: f64) -> Result<ScalarValue> {
    let position = fraction * (values.len() - 1) as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    let share = position - low as f64;
    Ok(match values.data_type() {
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>();
            let (low, high) = (values.value(low), values.value(high));
            ScalarValue::Float64(Some(if low == high { low } else { low + share * (high - low) }))
        }
        _ => {
            let values = values.as_primitive::<IntervalMonthDayNanoType>();
            ScalarValue::IntervalMonthDayNano(Some(between(values.value(low), values.value(high), share)?))
        }
    })
}

/// The most frequent of sorted values, the first of those that are as frequent.
fn most_frequent(values: &ArrayRef) -> Result<ScalarValue> {
    let bounds = partition(std::slice::from_ref(values))?;
    let ranges = bounds.ranges();
    match ranges.iter().min_by_key(|range| Reverse(range.len())) {
        Some(range) => ScalarValue::try_from_array(values, range.start),
        None => ScalarValue::try_from(values.data_type()),
    }
}
