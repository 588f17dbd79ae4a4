use datafusion::common::DataFusionError;
use tidemill_core::{Diagnostic, SqlState};

/// What can go wrong while rows are matched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Execution(#[from] DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("the search for a match took more than {n_steps} steps from one row")]
    TooManySteps { n_steps: usize },
    #[error("the pattern is too large: it has more than {n_max} parts when its repetitions are written out")]
    TooLarge { n_max: usize },
    #[error("AFTER MATCH SKIP TO \"{variable}\" finds no row: the match has none of it")]
    SkipToNothing { variable: String },
    #[error(
        "AFTER MATCH SKIP TO \"{variable}\" would find the same match for ever: it is the first row of it"
    )]
    SkipToFirstRow { variable: String },
    #[error("canceled")]
    Cancelled,
}

impl Diagnostic for Error {
    fn sqlstate(&self) -> SqlState {
        match self {
            Error::Execution(_) | Error::Arrow(_) => SqlState::DATA_EXCEPTION,
            Error::TooManySteps { .. } | Error::TooLarge { .. } => SqlState::STATEMENT_TOO_COMPLEX,
            Error::SkipToNothing { .. } => SqlState::SKIP_TO_NON_EXISTENT_ROW,
            Error::SkipToFirstRow { .. } => SqlState::SKIP_TO_FIRST_ROW_OF_MATCH,
            Error::Cancelled => SqlState::QUERY_CANCELED,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::TooManySteps { .. } => {
                "Repetitions that can share out the same rows in many ways, such as (A | B)* (A | B)*, take a time that \
                 grows with the number of ways. Let DEFINE tell the variables apart, or bound the match with WITHIN \
                 INTERVAL '…' or {n,m}."
            }
            Error::TooLarge { .. } => {
                "Use smaller numbers in {n,m}, or test the length with count(*) in a WHERE."
            }
            Error::SkipToNothing { .. } => {
                "Skip to a variable that every match has, or write AFTER MATCH SKIP PAST LAST ROW."
            }
            Error::SkipToFirstRow { .. } => {
                "Skip to a variable that does not begin the match, or write AFTER MATCH SKIP TO NEXT ROW."
            }
            Error::Execution(_) | Error::Arrow(_) | Error::Cancelled => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> DataFusionError {
        match error {
            Error::Execution(error) => error,
            other => DataFusionError::External(Box::new(other)),
        }
    }
}
