//! Values to and from text, as PostgreSQL's input and output functions do it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use crate::types::PG_TYPE;

/// How values are read from text and written as text. The wire protocol has this already; a planner is given its.
pub trait TextFormat: fmt::Debug + Send + Sync {
    /// The values of `field`'s type that texts stand for.
    fn read(&self, texts: &StringArray, field: &Field) -> Result<ArrayRef>;

    /// The text of each value.
    fn write(&self, values: &ArrayRef, field: &Field) -> Result<StringArray>;
}

/// Arrow's own casts: for planners that no client talks to.
#[derive(Debug)]
pub struct ArrowText;

impl TextFormat for ArrowText {
    fn read(&self, texts: &StringArray, field: &Field) -> Result<ArrayRef> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        Ok(cast_with_options(texts, field.data_type(), &options)?)
    }

    fn write(&self, values: &ArrayRef, _: &Field) -> Result<StringArray> {
        Ok(cast(values, &DataType::Utf8)?.as_string::<i32>().clone())
    }
}

/// `text → type` or `type → text`, in the place of a cast.
#[derive(Debug)]
pub(crate) struct TextCast {
    format: Arc<dyn TextFormat>,
    /// The type that is cast to.
    target: FieldRef,
    reads: bool,
    signature: Signature,
}

impl TextCast {
    pub fn read(format: Arc<dyn TextFormat>, target: FieldRef) -> TextCast {
        TextCast { format, target, reads: true, signature: Signature::any(1, Volatility::Immutable) }
    }

    pub fn write(format: Arc<dyn TextFormat>, target: FieldRef) -> TextCast {
        TextCast { format, target, reads: false, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl PartialEq for TextCast {
    fn eq(&self, other: &TextCast) -> bool {
        self.reads == other.reads && self.target == other.target
    }
}

impl Eq for TextCast {}

impl Hash for TextCast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.reads, self.target.data_type()).hash(state);
    }
}

impl ScalarUDFImpl for TextCast {
    fn name(&self) -> &str {
        "cast"
    }

    // As a cast is shown, which this is to everybody but the executor.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("CAST({} AS {})", args[0], self.target.data_type()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.target.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields[0].is_nullable();
        Ok(Arc::new(self.target.as_ref().clone().with_name(self.name()).with_nullable(nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let convert = |values: &ArrayRef| -> Result<ArrayRef> {
            let says_nothing = |declared: &String| declared == "text" || declared == "character varying";
            if self.reads
                && values.data_type() == self.target.data_type()
                && self.target.metadata().get(PG_TYPE).is_some_and(says_nothing)
            {
                return Ok(values.clone());
            }
            if self.reads {
                let texts = cast(values, &DataType::Utf8)?;
                return self.format.read(texts.as_string::<i32>(), &self.target);
            }
            let texts: ArrayRef = Arc::new(self.format.write(values, &args.arg_fields[0])?);
            Ok(cast(&texts, self.target.data_type())?)
        };
        match &args.args[0] {
            ColumnarValue::Array(values) => Ok(ColumnarValue::Array(convert(values)?)),
            ColumnarValue::Scalar(value) => {
                let converted = convert(&value.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&converted, 0)?))
            }
        }
    }
}
