//! What a whole plan's changes wait for: their window or their time, under `EMIT ON WINDOW CLOSE` where no group closes,
//! or the next of the moments of `EMIT EVERY`.

use datafusion::common::DFSchema;
use tidemill_plan::{Close, Every, Hold, Operator, Properties};

use super::columns::{incremental, with_weight};
use super::{Node, Result, Rewriter};

impl Rewriter {
    /// Lets the rows of a whole plan leave only once they are complete, if a watermark completes them.
    pub(super) fn hold(&mut self, node: Node, schema: &DFSchema) -> Result<Node> {
        let Some(close) = close_of(&node.properties, schema) else { return Ok(node) };
        self.n_closed += 1;
        let mut properties = node.properties;
        properties.is_append_only = true;
        let n_columns = schema.fields().len();
        let operator = Operator::Hold(Hold { close });
        let plan = incremental(operator, node.plan, with_weight(schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }

    /// Lets the changes of a whole plan leave so often, and of windows when they are complete.
    pub(super) fn every(
        &mut self,
        node: Node,
        schema: &DFSchema,
        interval: i64,
        is_closed_at_once: bool,
    ) -> Result<Node> {
        let close = close_of(&node.properties, schema).filter(|_| is_closed_at_once);
        let mut properties = node.properties;
        for (column, closes) in properties.closes.iter_mut().enumerate() {
            // What is complete may still be held back, but for the column that says it is.
            if close.as_ref().is_none_or(|close| close.column != column) {
                closes.clear();
            }
        }
        if let Some(close) = &close {
            // Of two rows of a key one may leave before the other, unless they have the time in common.
            properties.unique_keys.retain(|key| key.contains(&close.column));
        }
        self.n_closed += usize::from(close.is_some());
        let n_columns = schema.fields().len();
        let operator = Operator::Every(Every { interval, close });
        let plan = incremental(operator, node.plan, with_weight(schema)?, n_columns)?;
        Ok(Node { plan, properties })
    }
}

/// The column that says when a row is complete.
fn close_of(properties: &Properties, schema: &DFSchema) -> Option<Close> {
    let closes = &properties.closes;
    let is_closed = |column: &usize| !closes[*column].is_empty();
    // The end of its window is what a row waits for; without windows it is a time of its own.
    let named = |name: &str| {
        let is_named = |column: &usize| schema.field(*column).name() == name;
        (0..closes.len()).filter(is_closed).find(is_named)
    };
    let column = named("window_end").or_else(|| named("window_start"));
    let column = column.or_else(|| (0..closes.len()).find(is_closed))?;
    Some(Close { column, sources: closes[column].clone() })
}
