//! `EMIT ON WINDOW CLOSE` where no group closes: rows wait for their window, or for their time.

use datafusion::common::DFSchema;
use tidemill_plan::{Close, Hold, Operator};

use super::columns::{incremental, with_weight};
use super::{Node, Result, Rewriter};

impl Rewriter {
    /// Lets the rows of a whole plan leave only once they are complete, if a watermark completes them.
    pub(super) fn hold(&mut self, node: Node, schema: &DFSchema) -> Result<Node> {
        let closes = &node.properties.closes;
        let is_closed = |column: &usize| !closes[*column].is_empty();
        // The end of its window is what a row waits for; without windows it is a time of its own.
        let named = |name: &str| {
            let is_named = |column: &usize| schema.field(*column).name() == name;
            (0..closes.len()).filter(is_closed).find(is_named)
        };
        let column = named("window_end").or_else(|| named("window_start"));
        let Some(column) = column.or_else(|| (0..closes.len()).find(is_closed)) else { return Ok(node) };
        self.n_closed += 1;
        let sources = closes[column].clone();
        let mut properties = node.properties;
        properties.is_append_only = true;
        let n_columns = schema.fields().len();
        let operator = Operator::Hold(Hold { close: Close { column, sources } });
        let plan = incremental(operator, node.plan, with_weight(schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}
