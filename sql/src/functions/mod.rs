//! Functions that DataFusion does not have, or that mean something else in PostgreSQL.

mod arrays;
mod bytes;
mod collected;
mod convert_from;
mod datetime;
mod declared;
mod epoch_bound;
mod extended;
mod grouped;
mod hop_starts;
mod json;
mod jsonpath;
mod patterns;
mod plus_zero;
mod round_even;
mod rows;
mod session_bounds;
mod strings;
mod to_char;
mod with_ties;

use std::sync::Arc;

use datafusion::logical_expr::{ScalarUDF, WindowUDF};

pub use collected::aggregate_functions;
use convert_from::ConvertFrom;
pub(crate) use epoch_bound::EpochBound;
use hop_starts::WindowBounds;
pub(crate) use plus_zero::with_one_zero;
pub use round_even::RoundEven;
use session_bounds::SessionFunction;
pub(crate) use strings::regex_of;
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
    [
        own,
        arrays::functions(),
        bytes::functions(),
        datetime::functions(),
        declared::functions(),
        json::functions(),
        jsonpath::functions(),
        patterns::functions(),
        strings::functions(),
        extended::functions([bytes::extensions(), datetime::extensions(), strings::extensions()].concat()),
    ]
    .concat()
}

/// Window functions, to be registered in a session.
pub fn window_functions() -> Vec<Arc<WindowUDF>> {
    vec![
        Arc::new(WindowUDF::from(SessionFunction::start())),
        Arc::new(WindowUDF::from(SessionFunction::end())),
    ]
}
