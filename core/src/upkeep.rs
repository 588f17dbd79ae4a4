//! How a query's result is kept: when its changes leave, and what is forgotten.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// When changes of a result leave. Lengths of time are in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// With the step that makes them.
    #[default]
    OnUpdate,
    /// The same, but a group whose window is complete is forgotten: rows that come later are late.
    OnUpdateUntilClose,
    /// Each group once, when its window is complete.
    OnWindowClose,
    /// The same, and so often what there is of windows that are not complete.
    OnWindowCloseWithEarly(i64),
    /// So often, whatever has changed since the last time as one change.
    Every(i64),
}

impl Emit {
    /// Whether groups are forgotten when a watermark has completed them.
    pub fn forgets_closed(self) -> bool {
        matches!(self, Emit::OnUpdateUntilClose | Emit::OnWindowClose | Emit::OnWindowCloseWithEarly(_))
    }

    /// Whether nothing leaves of a group that is not complete.
    pub fn waits_for_close(self) -> bool {
        self == Emit::OnWindowClose
    }
}

/// As it stands behind a query; nothing for the default.
impl fmt::Display for Emit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Emit::OnUpdate => Ok(()),
            Emit::OnUpdateUntilClose => f.write_str("EMIT ON UPDATE UNTIL WINDOW CLOSE"),
            Emit::OnWindowClose => f.write_str("EMIT ON WINDOW CLOSE"),
            Emit::OnWindowCloseWithEarly(micros) => {
                write!(f, "EMIT ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '{}'", length(*micros))
            }
            Emit::Every(micros) => write!(f, "EMIT EVERY INTERVAL '{}'", length(*micros)),
        }
    }
}

/// After how many microseconds without a change the rows of a key are forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ttl {
    /// Of relations that are not named.
    pub default: Option<i64>,
    /// By the relation's name or alias in the query; `None` for never.
    pub by_relation: BTreeMap<String, Option<i64>>,
}

impl Ttl {
    pub fn is_none(&self) -> bool {
        self.default.is_none() && self.by_relation.is_empty()
    }
}

/// How a query's result is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upkeep {
    pub emit: Emit,
    pub ttl: Ttl,
}

impl From<Emit> for Upkeep {
    fn from(emit: Emit) -> Upkeep {
        Upkeep { emit, ttl: Ttl::default() }
    }
}

/// A length of time in its largest whole unit.
fn length(micros: i64) -> String {
    let units = [
        (86_400_000_000, "days"),
        (3_600_000_000, "hours"),
        (60_000_000, "minutes"),
        (1_000_000, "seconds"),
        (1000, "milliseconds"),
    ];
    match units.iter().find(|(unit, _)| micros % unit == 0) {
        Some((unit, name)) => format!("{} {name}", micros / unit),
        None => format!("{micros} microseconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_is_shown_as_it_is_written() {
        assert_eq!(Emit::Every(90_000_000).to_string(), "EMIT EVERY INTERVAL '90 seconds'");
        assert_eq!(
            Emit::OnWindowCloseWithEarly(1).to_string(),
            "EMIT ON WINDOW CLOSE WITH EARLY EVERY INTERVAL '1 microseconds'"
        );
    }
}
