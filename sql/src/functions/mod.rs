//! Functions that DataFusion does not have.

mod hop_starts;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use hop_starts::HopStarts;

/// All of them, to be registered in a session.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::from(HopStarts::new()))]
}
