//! DataFusion's functions, with the signatures that PostgreSQL has beside theirs.
//!
//! `substr` of text stays DataFusion's kernel; `substr` of bytes and `substr` by a regular expression are functions of
//! rows ([`rows`](super::rows)). Which one a call means, its types say.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TypeSignature, Volatility,
};

use crate::functions::rows::{Overload, RowFunction};

/// The functions that have more signatures.
pub(crate) fn functions(extensions: Vec<(&'static str, Vec<Overload>)>) -> Vec<Arc<ScalarUDF>> {
    let known = datafusion::functions::all_default_functions();
    let extended = |(name, overloads)| {
        let base = known.iter().find(|function| function.name() == name);
        let base = base.unwrap_or_else(|| unreachable!("DataFusion has a function {name}")).clone();
        Arc::new(ScalarUDF::from(Extended::new(base, name, overloads)))
    };
    extensions.into_iter().map(extended).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extended {
    base: Arc<ScalarUDF>,
    more: RowFunction,
    signature: Signature,
}

impl Extended {
    fn new(base: Arc<ScalarUDF>, name: &'static str, overloads: Vec<Overload>) -> Extended {
        let signature = Signature::one_of(
            vec![TypeSignature::UserDefined, TypeSignature::Nullary],
            Volatility::Immutable,
        );
        Extended { base, more: RowFunction::new(name, overloads, true), signature }
    }

    /// PostgreSQL's preferred type where a function takes several: a date is truncated as a timestamptz, and a string
    /// beside times is one of them.
    fn preferred(&self, data_type: &DataType, all: &[DataType]) -> DataType {
        match (self.base.name(), data_type) {
            ("date_trunc", DataType::Date32) => crate::types::timestamptz(),
            ("coalesce", DataType::Utf8) => {
                all.iter().find(|other| other.is_temporal()).unwrap_or(data_type).clone()
            }
            (_, other) => other.clone(),
        }
    }
}

impl ScalarUDFImpl for Extended {
    fn name(&self) -> &str {
        self.base.name()
    }

    fn aliases(&self) -> &[String] {
        self.base.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if let Some(types) = self.more.exactly(arg_types) {
            return Ok(types);
        }
        let fields: Vec<FieldRef> = arg_types
            .iter()
            .map(|data_type| {
                Arc::new(datafusion::arrow::datatypes::Field::new(
                    "arg",
                    self.preferred(data_type, arg_types),
                    true,
                ))
            })
            .collect();
        let coerced = fields_with_udf(&fields, self.base.as_ref())?;
        Ok(coerced.iter().map(|field| field.data_type().clone()).collect())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match self.more.exactly(arg_types) {
            Some(_) => self.more.return_type(arg_types),
            None => self.base.return_type(arg_types),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        match self.more.exactly(&types) {
            Some(_) => self.more.return_field_from_args(args),
            None => self.base.return_field_from_args(args),
        }
    }

    fn short_circuits(&self) -> bool {
        self.base.short_circuits()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let types = args.iter().map(|arg| arg.get_type(info.schema())).collect::<Result<Vec<_>>>()?;
        match self.more.exactly(&types) {
            Some(_) => Ok(ExprSimplifyResult::Original(args)),
            None => self.base.inner().simplify(args, info),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        match self.more.exactly(&types) {
            Some(_) => self.more.invoke_with_args(args),
            None => self.base.invoke_with_args(args),
        }
    }
}
