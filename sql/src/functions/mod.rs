//! Functions that DataFusion does not have, or that mean something else in PostgreSQL.

mod convert_from;
mod datetime;
mod hop_starts;
mod json;
mod round_even;
mod rows;
mod strings;
mod to_char;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use convert_from::ConvertFrom;
use hop_starts::HopStarts;
pub use round_even::RoundEven;

/// All of them, to be registered in a session.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let own =
        vec![Arc::new(ScalarUDF::from(HopStarts::new())), Arc::new(ScalarUDF::from(ConvertFrom::new()))];
    [own, datetime::functions(), strings::functions(), json::functions()].concat()
}
