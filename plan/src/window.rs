//! Window functions: what each row sees of the others of its partition.

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFunctionDefinition};

use crate::operator::OrderColumn;

/// Output: the first `n_columns` of the input, then one column per call. What stands behind them in
/// the input are partition keys, order keys and arguments that are not columns themselves.
///
/// Rows that tie in `order_by` stand in the order of their first `n_columns` columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    pub n_columns: usize,
    pub partition: Vec<usize>,
    pub order_by: Vec<OrderColumn>,
    pub calls: Vec<WindowCall>,
    /// No input row is ever retracted.
    pub is_append_only: bool,
}

/// One window function call; its partition and order are its node's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowCall {
    pub function: WindowFunctionDefinition,
    pub args: Vec<WindowArg>,
    pub frame: WindowFrame,
    /// A Boolean column: only rows where it is true count.
    pub filter: Option<usize>,
    pub ignore_nulls: bool,
    pub distinct: bool,
    pub return_field: FieldRef,
    /// As the user wrote it, for EXPLAIN and messages.
    pub display: String,
}

/// An argument. Some functions take constants only, such as the offset of `lag`, so these stay what they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WindowArg {
    Column(usize),
    Constant(ScalarValue),
}
