//! Errors and notices as messages, and DataFusion's errors as SQLSTATEs.

use std::error::Error;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use tidemill_core::SqlState;

use crate::session::api::{Notice, SqlError};

pub(crate) const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState("54000");
pub(crate) const INVALID_CHARACTERS: SqlState = SqlState("22021");
pub(crate) const INVALID_BINARY: SqlState = SqlState("22P03");
pub(crate) const DATETIME_OVERFLOW: SqlState = SqlState("22008");
pub(crate) const IDLE_IN_TRANSACTION_TIMEOUT: SqlState = SqlState("25P03");

pub(crate) fn error_response(error: &SqlError) -> ErrorResponse {
    let severity = if error.fatal { "FATAL" } else { "ERROR" };
    let mut fields =
        fields(severity, error.sqlstate, &error.message, error.detail.as_deref(), error.hint.as_deref());
    if let Some(position) = error.position {
        fields.push((b'P', position.to_string()));
    }
    ErrorResponse::new(fields)
}

pub(crate) fn notice_response(notice: &Notice) -> NoticeResponse {
    NoticeResponse::new(fields(
        notice.severity,
        notice.sqlstate,
        &notice.message,
        notice.detail.as_deref(),
        notice.hint.as_deref(),
    ))
}

fn fields(
    severity: &str,
    sqlstate: SqlState,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', sqlstate.0.to_owned()),
        (b'M', text(message)),
    ];
    fields.extend(detail.map(|detail| (b'D', text(detail))));
    fields.extend(hint.map(|hint| (b'H', text(hint))));
    fields
}

/// A zero byte ends a field; a message that quotes one must not end early.
fn text(text: &str) -> String {
    text.replace('\0', "\\0")
}

pub(crate) fn from_datafusion(error: DataFusionError) -> SqlError {
    // A session's own error may sit under any number of contexts.
    let mut source: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = source {
        if let Some(ours) = error.downcast_ref::<SqlError>() {
            return ours.clone();
        }
        // What a function of ours says of a value is met here wherever no statement is at hand.
        if let Some(ours) = error.downcast_ref::<tidemill_sql::Error>() {
            return ours.clone().into();
        }
        source = error.source();
    }
    SqlError::new(sqlstate_of(&error), message_of(&error))
}

fn message_of(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => message_of(inner),
        DataFusionError::Shared(inner) => message_of(inner),
        DataFusionError::Collection(errors) if !errors.is_empty() => message_of(&errors[0]),
        DataFusionError::ArrowError(inner, _) => match &**inner {
            ArrowError::DivideByZero => "division by zero".to_owned(),
            ArrowError::ExternalError(inner) => inner.to_string(),
            ArrowError::CastError(text)
            | ArrowError::ParseError(text)
            | ArrowError::ComputeError(text)
            | ArrowError::ArithmeticOverflow(text)
            | ArrowError::InvalidArgumentError(text) => text.clone(),
            inner => inner.to_string(),
        },
        DataFusionError::External(inner) => inner.to_string(),
        DataFusionError::Plan(text)
        | DataFusionError::Execution(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::ResourcesExhausted(text) => text.clone(),
        error => error.strip_backtrace(),
    }
}

fn sqlstate_of(error: &DataFusionError) -> SqlState {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => sqlstate_of(inner),
        DataFusionError::Shared(inner) => sqlstate_of(inner),
        DataFusionError::Collection(errors) if !errors.is_empty() => sqlstate_of(&errors[0]),
        DataFusionError::ArrowError(inner, _) => match &**inner {
            ArrowError::DivideByZero => SqlState::DIVISION_BY_ZERO,
            ArrowError::ArithmeticOverflow(_) => SqlState::NUMERIC_OUT_OF_RANGE,
            ArrowError::CastError(_) | ArrowError::ParseError(_) => SqlState::INVALID_TEXT,
            ArrowError::MemoryError(_) => SqlState::OUT_OF_MEMORY,
            ArrowError::NotYetImplemented(_) => SqlState::FEATURE_NOT_SUPPORTED,
            ArrowError::InvalidArgumentError(_) | ArrowError::ComputeError(_) => SqlState::DATA_EXCEPTION,
            ArrowError::IoError(..) => SqlState::IO_ERROR,
            _ => SqlState::INTERNAL_ERROR,
        },
        DataFusionError::SQL(..) => SqlState::SYNTAX_ERROR,
        DataFusionError::NotImplemented(_) => SqlState::FEATURE_NOT_SUPPORTED,
        DataFusionError::SchemaError(inner, _) => match &**inner {
            SchemaError::AmbiguousReference { .. } => SqlState::AMBIGUOUS_COLUMN,
            SchemaError::DuplicateQualifiedField { .. } | SchemaError::DuplicateUnqualifiedField { .. } => {
                SqlState::DUPLICATE_COLUMN
            }
            SchemaError::FieldNotFound { .. } => SqlState::UNDEFINED_COLUMN,
        },
        DataFusionError::Configuration(_) => SqlState::INVALID_PARAMETER,
        DataFusionError::ResourcesExhausted(_) => SqlState::OUT_OF_MEMORY,
        DataFusionError::Plan(_) => SqlState::SYNTAX_ERROR,
        DataFusionError::Execution(_) => SqlState::DATA_EXCEPTION,
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => SqlState::IO_ERROR,
        _ => SqlState::INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_error_is_found_under_contexts() {
        let own = SqlError::new(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist").with_position(7);
        let wrapped = DataFusionError::External(Box::new(own.clone()))
            .context("while planning")
            .context("while running");
        assert_eq!(from_datafusion(wrapped), own);
    }

    #[test]
    fn division_by_zero_has_its_code_and_postgres_text() {
        let error = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        let error = from_datafusion(error.context("projection"));
        assert_eq!(error.sqlstate, SqlState::DIVISION_BY_ZERO);
        assert_eq!(error.message, "division by zero");
    }

    #[test]
    fn zero_bytes_do_not_cut_a_message() {
        let response = error_response(&SqlError::new(SqlState::INVALID_TEXT, "a\0b"));
        assert!(response.fields.contains(&(b'M', "a\\0b".to_owned())));
    }
}
