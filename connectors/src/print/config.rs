//! The options of the print sink.

use crate::options::options;

options! {
    /// `WITH (connector = 'print', …)`
    pub struct PrintConfig {
        /// Text before each line, to tell the output of several sinks apart.
        "prefix" => prefix: String = "",
    }
}
