//! Functions that DataFusion does not have, or that mean something else in PostgreSQL.

mod convert_from;
mod datetime;
mod epoch_bound;
mod hop_starts;
mod json;
mod round_even;
mod rows;
mod session_bounds;
mod strings;
mod to_char;
mod with_ties;

use std::sync::Arc;

use datafusion::logical_expr::{ScalarUDF, WindowUDF};

use convert_from::ConvertFrom;
pub(crate) use epoch_bound::EpochBound;
use hop_starts::WindowBounds;
pub use round_even::RoundEven;
use session_bounds::SessionFunction;
pub(crate) use with_ties::WITH_TIES;
use with_ties::WithTies;

/// All of them, to be registered in a session.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let own = vec![
        Arc::new(ScalarUDF::from(WindowBounds::hop())),
        Arc::new(ScalarUDF::from(WindowBounds::cumulate())),
        Arc::new(ScalarUDF::from(ConvertFrom::new())),
        Arc::new(ScalarUDF::from(WithTies::new())),
    ];
    [own, datetime::functions(), strings::functions(), json::functions()].concat()
}

/// Window functions, to be registered in a session.
pub fn window_functions() -> Vec<Arc<WindowUDF>> {
    vec![
        Arc::new(WindowUDF::from(SessionFunction::start())),
        Arc::new(WindowUDF::from(SessionFunction::end())),
    ]
}
