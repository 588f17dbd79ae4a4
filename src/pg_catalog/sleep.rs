//! `pg_sleep(seconds)`: waits, without holding a thread.
//!
//! It is an asynchronous function of DataFusion's, so that cancelling the statement, its timeout, and the end of the
//! connection end the waiting by dropping it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, not_impl_err, plan_err};
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::pg_catalog::functions::rows_of;
use crate::pg_catalog::layout::field;
use crate::pg_catalog::value::{Value, to_array};

/// The function's name.
pub const SLEEP: &str = "pg_sleep";

pub fn function() -> Arc<ScalarUDF> {
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Volatile);
    Arc::new(AsyncScalarUDF::new(Arc::new(Sleep { signature })).into_scalar_udf())
}

#[derive(Debug)]
struct Sleep {
    signature: Signature,
}

impl PartialEq for Sleep {
    fn eq(&self, _: &Sleep) -> bool {
        true
    }
}

impl Eq for Sleep {}

impl Hash for Sleep {
    fn hash<H: Hasher>(&self, state: &mut H) {
        SLEEP.hash(state);
    }
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &str {
        SLEEP
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        plan_err!("the type of {SLEEP} is that of its field")
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(field(SLEEP, "void")))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_impl_err!("{SLEEP} waits, which can be done in a query only")
    }
}

#[async_trait::async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = rows_of(&args)?;
        // A constant is one row of arguments, however many rows it is for.
        let n_each = args.number_rows.max(1) / rows.len().max(1);
        let mut values = Vec::with_capacity(args.number_rows);
        for row in rows {
            for _ in 0..n_each {
                values.push(match row.first() {
                    Some(Value::Float(seconds)) => {
                        let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
                        tokio::time::sleep(time).await;
                        Value::from("")
                    }
                    _ => Value::Null,
                });
            }
        }
        match args.number_rows {
            0 => Ok(ColumnarValue::Scalar(ScalarValue::try_from(args.return_field.data_type())?)),
            _ => Ok(ColumnarValue::Array(to_array(&values, args.return_field.data_type())?)),
        }
    }
}
