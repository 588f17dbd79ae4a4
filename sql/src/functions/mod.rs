//! Functions that DataFusion does not have.

mod convert_from;
mod hop_starts;
mod with_ties;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use convert_from::ConvertFrom;
use hop_starts::HopStarts;
pub(crate) use with_ties::WITH_TIES;
use with_ties::WithTies;

/// All of them, to be registered in a session.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(HopStarts::new())),
        Arc::new(ScalarUDF::from(ConvertFrom::new())),
        Arc::new(ScalarUDF::from(WithTies::new())),
    ]
}
