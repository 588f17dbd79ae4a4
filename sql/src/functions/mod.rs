//! Functions that DataFusion does not have.

mod convert_from;
mod epoch_bound;
mod hop_starts;
mod session_bounds;

use std::sync::Arc;

use datafusion::logical_expr::{ScalarUDF, WindowUDF};

use convert_from::ConvertFrom;
pub(crate) use epoch_bound::EpochBound;
use hop_starts::WindowBounds;
use session_bounds::SessionFunction;

/// All of them, to be registered in a session.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(WindowBounds::hop())),
        Arc::new(ScalarUDF::from(WindowBounds::cumulate())),
        Arc::new(ScalarUDF::from(ConvertFrom::new())),
    ]
}

/// Window functions, to be registered in a session.
pub fn window_functions() -> Vec<Arc<WindowUDF>> {
    vec![
        Arc::new(WindowUDF::from(SessionFunction::start())),
        Arc::new(WindowUDF::from(SessionFunction::end())),
    ]
}
