//! Why a query cannot be a pipeline.

use tidemill_core::{Diagnostic, SqlState};

/// A query that is fine as a SELECT, but cannot be maintained.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub sqlstate: SqlState,
    pub message: String,
    pub hint: Option<String>,
    /// A word of the query near which the reader should look.
    pub near: Option<String>,
}

impl Refusal {
    /// A construct that has no incremental operator.
    pub fn not_incremental(construct: impl std::fmt::Display) -> Refusal {
        Refusal {
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: format!("a pipeline cannot maintain {construct}"),
            hint: Some(
                "Leave it out of the pipeline and use it in a SELECT over the pipeline's result.".into(),
            ),
            near: None,
        }
    }

    /// A construct that no query can have.
    pub fn unsupported(construct: impl std::fmt::Display) -> Refusal {
        Refusal {
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: format!("{construct} is not supported"),
            hint: None,
            near: None,
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }

    pub fn near(mut self, word: impl Into<String>) -> Refusal {
        self.near = Some(word.into());
        self
    }

    pub fn with_sqlstate(mut self, sqlstate: SqlState) -> Refusal {
        self.sqlstate = sqlstate;
        self
    }
}

impl Diagnostic for Refusal {
    fn sqlstate(&self) -> SqlState {
        self.sqlstate
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
