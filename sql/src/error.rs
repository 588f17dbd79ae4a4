//! What is wrong with a statement, as PostgreSQL would say it.
//!
//! One shape for all: SQLSTATE, message, detail, hint, position. The texts come from two places.
//! The parser's are written here and in [`crate::parser`]. DataFusion's, met in planning or in
//! execution, are translated by [`Error::from_datafusion`]: by their type where they have one, by
//! their text where DataFusion has nothing else to offer. A text that no rule knows keeps its own
//! words, under the SQLSTATE of its kind; nothing is swallowed.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use tidemill_core::{Diagnostic, SqlState, did_you_mean};

use crate::parser::dialect::TidemillDialect;
use crate::parser::text::Text;
use crate::refusal::Refusal;

/// What a client gets to read.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Report>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    sqlstate: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<usize>,
}

/// The relations that a statement could have meant, for hints: schema and name.
#[derive(Debug, Clone, Default)]
pub struct RelationNames(pub Vec<(String, String)>);

impl Error {
    /// An error without position or advice.
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Error {
        let message = message.into();
        Error(Box::new(Report { sqlstate, message, detail: None, hint: None, position: None }))
    }

    /// `syntax error at or near "near"`.
    pub fn syntax(near: &str) -> Error {
        Error::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{near}\""))
    }

    /// `syntax error at end of input`.
    pub fn end_of_input() -> Error {
        Error::new(SqlState::SYNTAX_ERROR, "syntax error at end of input")
    }

    /// `{feature} is not supported`.
    pub fn unsupported(feature: impl fmt::Display) -> Error {
        Error::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{feature} is not supported"))
    }

    /// Expressions that are nested deeper than planning can bear.
    pub fn too_complex() -> Error {
        Error::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is nested too deeply")
            .with_hint("Split it into several views, or replace long chains of OR by IN (…).")
    }

    /// With advice, in whole sentences.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// With advice, if there is any.
    pub fn with_hint_opt(mut self, hint: Option<String>) -> Error {
        self.0.hint = hint.or(self.0.hint);
        self
    }

    /// With facts that are too long for the message.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Error {
        self.0.detail = Some(detail.into());
        self
    }

    /// At a character of the statement, from 1.
    pub fn at(mut self, position: usize) -> Error {
        self.0.position = Some(position);
        self
    }

    /// At a character of the statement, unless it already says where.
    pub fn or_at(mut self, position: Option<usize>) -> Error {
        self.0.position = self.0.position.or(position);
        self
    }

    /// The same error seen from a text in which the statement begins `offset` characters later.
    pub fn shifted(mut self, offset: usize) -> Error {
        self.0.position = self.0.position.map(|position| position + offset);
        self
    }

    /// The same error, with its position somewhere else.
    pub(crate) fn moved(mut self, to: impl FnOnce(usize) -> usize) -> Error {
        self.0.position = self.0.position.map(to);
        self
    }

    /// What DataFusion said about the statement `sql`, in PostgreSQL's words.
    ///
    /// The position is DataFusion's span where it has one (plan with `collect_spans`, from the
    /// statement's own text); else it is that of the name in question, looked up in `sql`.
    pub fn from_datafusion(error: DataFusionError, sql: &str, candidates: &RelationNames) -> Error {
        let text = Text::new(sql);
        let translation = Translation { text: &text, candidates };
        translation.translate(&error, None)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sqlstate, message, detail, hint, position } = &*self.0;
        write!(f, "{sqlstate}: {message}")?;
        if let Some(position) = position {
            write!(f, " @{position}")?;
        }
        if let Some(detail) = detail {
            write!(f, " DETAIL: {detail}")?;
        }
        if let Some(hint) = hint {
            write!(f, " HINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Diagnostic for Error {
    fn sqlstate(&self) -> SqlState {
        self.0.sqlstate
    }

    fn hint(&self) -> Option<String> {
        self.0.hint.clone()
    }

    fn detail(&self) -> Option<String> {
        self.0.detail.clone()
    }

    fn position(&self) -> Option<usize> {
        self.0.position
    }
}

/// The way of one DataFusion error into ours.
struct Translation<'a> {
    text: &'a Text<'a>,
    candidates: &'a RelationNames,
}

impl Translation<'_> {
    /// Unwraps what is only wrapping, keeping the innermost span.
    fn translate(&self, error: &DataFusionError, position: Option<usize>) -> Error {
        match error {
            DataFusionError::Context(_, inner) => self.translate(inner, position),
            DataFusionError::Shared(inner) => self.translate(inner, position),
            DataFusionError::Collection(errors) => match errors.first() {
                Some(first) => self.translate(first, position),
                None => Error::new(SqlState::INTERNAL_ERROR, "planning failed without a reason"),
            },
            DataFusionError::Diagnostic(diagnostic, inner) => {
                let span = diagnostic.span.map(|span| Location::new(span.start.line, span.start.column));
                let position = span.and_then(|location| self.text.position(location)).or(position);
                let error = self.translate(inner, position);
                let candidates: Vec<&str> = diagnostic
                    .notes
                    .iter()
                    .filter_map(|note| note.message.strip_prefix("possible column "))
                    .collect();
                match candidates.len() {
                    2.. if error.sqlstate() == SqlState::AMBIGUOUS_COLUMN => {
                        error.with_hint(format!("It could be {}: say which.", candidates.join(" or ")))
                    }
                    _ => error,
                }
            }
            DataFusionError::SchemaError(schema_error, _) => self.schema_error(schema_error, position),
            DataFusionError::ArrowError(arrow_error, _) => self.arrow_error(arrow_error, position),
            DataFusionError::External(inner) => self.external(inner.as_ref(), position),
            DataFusionError::Plan(message) => self.plan(message, position),
            DataFusionError::Execution(message) => self
                .known(message, position)
                .unwrap_or_else(|| self.plain(SqlState::DATA_EXCEPTION, message, position)),
            DataFusionError::NotImplemented(message) => self.not_implemented(message, position),
            DataFusionError::Internal(message) => {
                // Some of what users do wrong is reported as internal; known texts come first.
                self.known(message, position)
                    .unwrap_or_else(|| self.plain(SqlState::INTERNAL_ERROR, message, position))
            }
            DataFusionError::Configuration(message) => {
                self.plain(SqlState::INVALID_PARAMETER, message, position)
            }
            DataFusionError::ResourcesExhausted(message) => {
                self.plain(SqlState::OUT_OF_MEMORY, message, position)
            }
            DataFusionError::SQL(parser_error, _) => {
                let message = parser_error.to_string();
                self.plain(SqlState::SYNTAX_ERROR, message.trim_start_matches("sql parser error: "), position)
            }
            DataFusionError::IoError(io) => self.plain(SqlState::IO_ERROR, &io.to_string(), position),
            DataFusionError::ObjectStore(store) => {
                self.plain(SqlState::IO_ERROR, &store.to_string(), position)
            }
            other => {
                let message = other.strip_backtrace();
                self.known(&message, position)
                    .unwrap_or_else(|| self.plain(SqlState::INTERNAL_ERROR, &message, position))
            }
        }
    }

    /// An error of ours that travelled through DataFusion comes out as it went in.
    fn external(
        &self,
        error: &(dyn std::error::Error + Send + Sync + 'static),
        position: Option<usize>,
    ) -> Error {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return ours.clone().or_at(position);
        }
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            let near = refusal.near.as_deref();
            return Error::new(refusal.sqlstate, refusal.message.clone())
                .with_hint_opt(refusal.hint.clone())
                .or_at(position.or_else(|| near.and_then(|word| self.find(word))));
        }
        if let Some(arrow) = error.downcast_ref::<ArrowError>() {
            return self.arrow_error(arrow, position);
        }
        if let Some(inner) = error.downcast_ref::<DataFusionError>() {
            return self.translate(inner, position);
        }
        if let Some(connector) = error.downcast_ref::<tidemill_core::source::ConnectorError>() {
            return Error::new(connector.sqlstate, connector.message.clone())
                .with_hint_opt(connector.hint.clone())
                .or_at(position);
        }
        if let Some(pattern) = error.downcast_ref::<tidemill_pattern::Error>() {
            return Error::new(pattern.sqlstate(), pattern.to_string())
                .with_hint_opt(pattern.hint())
                .or_at(position);
        }
        let message = error.to_string();
        self.known(&message, position)
            .unwrap_or_else(|| self.plain(SqlState::INTERNAL_ERROR, &message, position))
    }

    fn schema_error(&self, error: &SchemaError, position: Option<usize>) -> Error {
        match error {
            SchemaError::FieldNotFound { field, valid_fields } => {
                self.unknown_column(field, valid_fields, position)
            }
            SchemaError::AmbiguousReference { field } => self.ambiguous(&field.name, position),
            SchemaError::DuplicateUnqualifiedField { name }
            | SchemaError::DuplicateQualifiedField { name, .. } => Error::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{name}\" is specified more than once"),
            )
            .with_hint("Give one of them another name with AS.")
            .or_at(position.or_else(|| self.find_last(name))),
        }
    }

    fn unknown_column(&self, field: &Column, valid: &[Column], position: Option<usize>) -> Error {
        let position = position.or_else(|| {
            field
                .spans
                .first()
                .and_then(|span| self.text.position(Location::new(span.start.line, span.start.column)))
        });
        if let Some(relation) = &field.relation {
            // The qualifier is what is unknown when no field carries it.
            let known = valid
                .iter()
                .any(|column| column.relation.as_ref().is_some_and(|it| it.table() == relation.table()));
            if !known {
                let relations =
                    valid.iter().filter_map(|column| column.relation.as_ref().map(|it| it.table()));
                let hint = did_you_mean(relation.table(), relations)
                    .map(|near| format!("Perhaps you meant to reference the table alias \"{near}\"."));
                return Error::new(
                    SqlState::UNDEFINED_TABLE,
                    format!("missing FROM-clause entry for table \"{}\"", relation.table()),
                )
                .with_hint_opt(hint)
                .or_at(position.or_else(|| self.find(relation.table())));
            }
        }
        let of_relation = |column: &&Column| match &field.relation {
            Some(relation) => column.relation.as_ref().is_some_and(|it| it.table() == relation.table()),
            None => true,
        };
        let near =
            did_you_mean(&field.name, valid.iter().filter(of_relation).map(|column| column.name.as_str()));
        let hint = near
            .and_then(|near| valid.iter().filter(of_relation).find(|column| column.name == near))
            .map(|column| match &column.relation {
                Some(relation) => format!("Perhaps you meant \"{}.{}\".", relation.table(), column.name),
                None => format!("Perhaps you meant \"{}\".", column.name),
            });
        let message = match &field.relation {
            Some(relation) => format!("column {}.{} does not exist", relation.table(), field.name),
            None => format!("column \"{}\" does not exist", field.name),
        };
        Error::new(SqlState::UNDEFINED_COLUMN, message)
            .with_hint_opt(hint)
            .or_at(position.or_else(|| self.find(&field.name)))
    }

    fn ambiguous(&self, name: &str, position: Option<usize>) -> Error {
        Error::new(SqlState::AMBIGUOUS_COLUMN, format!("column reference \"{name}\" is ambiguous"))
            .with_hint(format!("Say which relation it is of: relation.{name}."))
            .or_at(position.or_else(|| self.find(name)))
    }

    fn arrow_error(&self, error: &ArrowError, position: Option<usize>) -> Error {
        match error {
            ArrowError::DivideByZero => self.division_by_zero(position),
            ArrowError::ArithmeticOverflow(_) => self.overflow(position),
            ArrowError::CastError(message) => {
                self.known(message, position).unwrap_or_else(|| self.cast(message, position))
            }
            ArrowError::ParseError(message) => {
                self.known(message, position).unwrap_or_else(|| self.cast(message, position))
            }
            ArrowError::ExternalError(inner) => self.external(inner.as_ref(), position),
            ArrowError::NotYetImplemented(message) => self.not_implemented(message, position),
            ArrowError::MemoryError(message) => self.plain(SqlState::OUT_OF_MEMORY, message, position),
            ArrowError::IoError(message, _) => self.plain(SqlState::IO_ERROR, message, position),
            other => {
                let message = other.to_string();
                self.known(&message, position)
                    .unwrap_or_else(|| self.plain(SqlState::DATA_EXCEPTION, &message, position))
            }
        }
    }

    fn plan(&self, message: &str, position: Option<usize>) -> Error {
        self.known(message, position).unwrap_or_else(|| {
            // DataFusion has one kind for all that a statement can do wrong.
            self.plain(SqlState::INVALID_OBJECT_DEFINITION, message, position)
        })
    }

    fn not_implemented(&self, message: &str, position: Option<usize>) -> Error {
        // Casts that no kernel has are type errors to a user, not missing features.
        match self.known(message, position) {
            Some(error) => error,
            None => self.plain(SqlState::FEATURE_NOT_SUPPORTED, message, position),
        }
    }

    /// Texts that DataFusion and Arrow give no type to.
    fn known(&self, message: &str, position: Option<usize>) -> Option<Error> {
        let message = message.trim();
        let lower = message.to_lowercase();
        if lower.contains("divide by zero") || lower.contains("division by zero") {
            return Some(self.division_by_zero(position));
        }
        if lower.contains("arithmetic overflow")
            || lower.contains("overflow happened")
            || lower.contains("overflow on")
        {
            return Some(self.overflow(position));
        }
        let grouping = [
            ("function calls cannot be nested", "aggregate function calls cannot be nested"),
            ("not allowed in the WHERE", "aggregate functions are not allowed in WHERE"),
        ];
        if let Some((_, ours)) = grouping.iter().find(|(theirs, _)| message.contains(theirs)) {
            return Some(Error::new(SqlState::GROUPING, *ours).or_at(position));
        }
        if message.contains("square root of a negative number") {
            return Some(
                Error::new(SqlState("2201F"), "cannot take square root of a negative number").or_at(position),
            );
        }
        if lower.contains("regex parse error") || lower.contains("regular expression") {
            return Some(
                Error::new(SqlState("2201B"), "invalid regular expression")
                    .with_detail(message.replace('\n', " "))
                    .or_at(position),
            );
        }
        // What is left of a subquery that could not be made a join.
        let unplanned = [
            "ScalarSubquery(",
            "InSubquery(",
            "Exists(",
            "OuterReferenceColumn",
            "__correlated_sq",
            "__always_true",
        ];
        if unplanned.iter().any(|word| message.contains(word)) {
            let message = "a subquery cannot refer to the outside in this way";
            let error = Error::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(
                "It can in WHERE, by equality. Else join: … LEFT JOIN (SELECT k, … GROUP BY k) AS s ON s.k = outer.k.",
            );
            return Some(error.or_at(position));
        }
        if let Some(types) = message.split("common string type for string concat operation ").nth(1) {
            return Some(self.no_operator(first_line(types), position));
        }
        if message.contains("non-boolean predicate") {
            return Some(
                Error::new(SqlState::DATATYPE_MISMATCH, "argument of WHERE must be type boolean")
                    .or_at(position),
            );
        }
        let states = [
            ("is too large to store in a Decimal", "22003", "numeric field overflow"),
            ("is too small to store in a Decimal", "22003", "numeric field overflow"),
            ("factorial of a negative number", "22003", "factorial of a negative number is undefined"),
            ("negative count not allowed", "22011", "negative substring length not allowed"),
            ("field position must not be zero", "22023", "field position must not be zero"),
            ("Unsupported date_trunc granularity", "22023", "unit not recognized for date_trunc"),
            ("Timestamp out of range", "22008", "timestamp out of range"),
            ("NTILE requires a positive integer", "22014", "argument of ntile must be greater than zero"),
            ("must be non negative integers", "22013", "frame starting offset must not be negative"),
            ("too few arguments for format", "22023", "too few arguments for format()"),
            (
                "more than one row returned by a subquery",
                "21000",
                "more than one row returned by a subquery used as an expression",
            ),
            (
                "Scalar subquery returned more than one row",
                "21000",
                "more than one row returned by a subquery used as an expression",
            ),
        ];
        if let Some((_, state, ours)) =
            states.iter().find(|(theirs, _, _)| lower.contains(&theirs.to_lowercase()))
        {
            return Some(Error::new(SqlState(state), *ours).with_detail(first_line(message)).or_at(position));
        }
        if message.contains("LIMIT must be >= 0") {
            return Some(Error::new(SqlState("2201W"), "LIMIT must not be negative").or_at(position));
        }
        if message.starts_with("Order by column out of bounds") {
            return Some(
                Error::new(SqlState("42P10"), "ORDER BY position is not in select list").or_at(position),
            );
        }
        if message.contains("columns but only") && message.contains("alias") {
            return Some(Error::new(SqlState("42P10"), first_line(message)).or_at(position));
        }
        if let Some(name) = between(message, "table '", "' not found") {
            return Some(self.unknown_relation(name, position));
        }
        if let Some(name) = between(message, "No table named '", "'")
            .or_else(|| between(message, "failed to resolve schema: ", "\n"))
        {
            return Some(self.unknown_relation(name, position));
        }
        if let Some(name) = between(message, "Invalid function '", "'") {
            let hint =
                between(message, "Did you mean '", "'").map(|near| format!("Perhaps you meant \"{near}\"."));
            return Some(self.unknown_function(name, hint, position));
        }
        if let Some(name) = between(message, "Table function '", "' not found") {
            return Some(self.unknown_function(name, None, position));
        }
        if let Some(name) = between(message, "Ambiguous reference to unqualified field ", "\n") {
            return Some(self.ambiguous(unquoted(name), position));
        }
        if let Some(name) = between(message, "No field named ", "\n") {
            let name = name.split(". ").next().unwrap_or(name).trim_end_matches('.');
            return Some(self.unknown_column(&Column::from_qualified_name(name), &[], position));
        }
        self.grouping(message, position)
            .or_else(|| self.types(message, position))
            .or_else(|| self.parameters(message, position))
            .or_else(|| lower.contains("cannot cast").then(|| self.cast(message, position)))
            .or_else(|| lower.contains("error parsing").then(|| self.cast(message, position)))
    }

    fn grouping(&self, message: &str, position: Option<usize>) -> Option<Error> {
        if !message.contains("must appear in the GROUP BY clause") && !message.contains("must be in GROUP BY")
        {
            return None;
        }
        let name = between(message, "column \"", "\" must appear")
            .or_else(|| between(message, "olumn ", " must appear"))
            .unwrap_or("");
        let name = unquoted(name.trim_matches('"'));
        let bare = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
        let error = Error::new(
            SqlState::GROUPING,
            format!(
                "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
            ),
        );
        Some(error.or_at(position.or_else(|| self.find(bare))))
    }

    fn types(&self, message: &str, position: Option<usize>) -> Option<Error> {
        if let Some(rest) = message.split("Cannot coerce arithmetic expression ").nth(1) {
            let expression = rest.split(" to valid types").next().unwrap_or(rest);
            return Some(self.no_operator(expression, position));
        }
        for start in [
            "Cannot infer common argument type for comparison operation ",
            "Cannot infer common argument type for logical boolean operation ",
        ] {
            if let Some(expression) = message.split(start).nth(1) {
                return Some(self.no_operator(first_line(expression), position));
            }
        }
        if let Some(expression) = message.split("Cannot get result type for temporal operation ").nth(1) {
            return Some(self.no_operator(expression.split(':').next().unwrap_or(expression), position));
        }
        if let Some(call) = between(message, "No function matches the given name and argument types '", "'") {
            let call = pg_types_in(call);
            let name = call.split('(').next().unwrap_or(&call).to_string();
            return Some(self.no_signature(&call, &name, position));
        }
        let mismatch = [
            "coercion from",
            "user-defined coercion failed",
            "Failed to coerce",
            "expects ",
            "There isn't a common type",
            "Incorrect data type",
            "is not a valid type",
        ]
        .iter()
        .any(|known| message.contains(known));
        if mismatch {
            let message = first_line(message);
            return Some(
                self.plain(SqlState::DATATYPE_MISMATCH, message, position)
                    .with_hint("You might need to add explicit type casts."),
            );
        }
        if message.contains("UNION") && message.contains("column")
            || message.contains("queries have different number of columns")
        {
            return Some(self.plain(SqlState::SYNTAX_ERROR, first_line(message), position));
        }
        None
    }

    fn parameters(&self, message: &str, position: Option<usize>) -> Option<Error> {
        let lower = message.to_lowercase();
        if lower.contains("placeholder type could not be resolved") || lower.contains("placeholder type for")
        {
            return Some(self.plain(SqlState::INDETERMINATE_DATATYPE, first_line(message), position));
        }
        None
    }

    fn no_operator(&self, expression: &str, position: Option<usize>) -> Error {
        Error::new(SqlState::UNDEFINED_FUNCTION, format!("operator does not exist: {}", pg_types_in(expression.trim())))
            .with_hint("No operator matches the given name and argument types. You might need to add explicit type casts.")
            .or_at(position)
    }

    fn no_signature(&self, call: &str, name: &str, position: Option<usize>) -> Error {
        Error::new(SqlState::UNDEFINED_FUNCTION, format!("function {call} does not exist"))
            .with_hint("No function matches the given name and argument types. You might need to add explicit type casts.")
            .or_at(position.or_else(|| self.find(name)))
    }

    fn unknown_function(&self, name: &str, hint: Option<String>, position: Option<usize>) -> Error {
        Error::new(SqlState::UNDEFINED_FUNCTION, format!("function {name}(…) does not exist"))
            .with_hint_opt(hint)
            .or_at(position.or_else(|| self.find(name)))
    }

    /// `name` may be qualified by database and schema, which the user may not have written.
    fn unknown_relation(&self, name: &str, position: Option<usize>) -> Error {
        let parts: Vec<&str> = name.split('.').map(|part| part.trim_matches('"')).collect();
        let bare = parts.last().copied().unwrap_or(name);
        let schema = parts.len().checked_sub(2).map(|idx| parts[idx]);
        let found = position.or_else(|| self.find(bare));
        let shown = match schema {
            Some(schema) if self.is_qualified(bare, schema) => format!("{schema}.{bare}"),
            _ => bare.to_string(),
        };
        let elsewhere = self.candidates.0.iter().find(|(_, candidate)| candidate == bare);
        let hint = match elsewhere {
            Some((elsewhere, _)) => {
                Some(format!("There is \"{elsewhere}.{bare}\": name its schema, or add it to search_path."))
            }
            None => did_you_mean(bare, self.candidates.0.iter().map(|(_, candidate)| candidate.as_str()))
                .map(|near| format!("Perhaps you meant \"{near}\".")),
        };
        Error::new(SqlState::UNDEFINED_TABLE, format!("relation \"{shown}\" does not exist"))
            .with_hint_opt(hint)
            .or_at(found)
    }

    /// Whether the user wrote `schema.name`.
    fn is_qualified(&self, name: &str, schema: &str) -> bool {
        let words = words(self.text.sql());
        words.windows(2).any(|pair| pair[0].is(schema) && pair[1].is(name) && pair[1].after_period)
    }

    fn division_by_zero(&self, position: Option<usize>) -> Error {
        Error::new(SqlState::DIVISION_BY_ZERO, "division by zero").or_at(position)
    }

    fn overflow(&self, position: Option<usize>) -> Error {
        Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "value out of range").or_at(position)
    }

    /// `Cannot cast string 'x' to value of Int64 type`, `Error parsing timestamp from 'x': …`.
    fn cast(&self, message: &str, position: Option<usize>) -> Error {
        if let (Some(value), Some(data_type)) =
            (between(message, "string '", "'"), between(message, "value of ", " type"))
        {
            return self.invalid_text(value, &pg_types_in(data_type), position);
        }
        if let Some(kind) = ["timestamp", "date", "time", "interval"]
            .iter()
            .find(|kind| message.to_lowercase().contains(&format!("error parsing {kind}")))
        {
            let value = between(message, "from '", "'").unwrap_or("");
            return Error::new(
                SqlState::DATETIME_FORMAT,
                format!("invalid input syntax for type {kind}: \"{value}\""),
            )
            .or_at(position.or_else(|| self.find_literal(value)));
        }
        if message.contains("Can't cast value") || message.contains("out of range") {
            return Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "value out of range")
                .with_detail(first_line(message))
                .or_at(position);
        }
        if let Some(value) =
            between(message, "Cannot parse '", "'").or_else(|| between(message, "string value '", "'"))
        {
            let data_type = between(message, "' as ", " ")
                .or_else(|| between(message, "to ", " "))
                .unwrap_or("the type asked for");
            return self.invalid_text(value, &pg_types_in(data_type.trim_end_matches('.')), position);
        }
        self.plain(SqlState::INVALID_TEXT, first_line(message), position)
    }

    fn invalid_text(&self, value: &str, data_type: &str, position: Option<usize>) -> Error {
        let (sqlstate, message) = match data_type.starts_with("timestamp")
            || data_type == "date"
            || data_type == "time"
        {
            true => {
                (SqlState::DATETIME_FORMAT, format!("invalid input syntax for type {data_type}: \"{value}\""))
            }
            false => {
                (SqlState::INVALID_TEXT, format!("invalid input syntax for type {data_type}: \"{value}\""))
            }
        };
        Error::new(sqlstate, message).or_at(position.or_else(|| self.find_literal(value)))
    }

    /// DataFusion's own words, in our case and without its full stop.
    fn plain(&self, sqlstate: SqlState, message: &str, position: Option<usize>) -> Error {
        let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
        let message = message.split("\nThis issue was likely caused by a bug").next().unwrap_or(message);
        let message = message.trim().trim_end_matches('.');
        let (first, rest) = message.split_at(message.find(' ').unwrap_or(message.len()));
        // `This feature …` becomes `this feature …`; `LIMIT must …` and `Utf8 is …` stay.
        let lower = first.chars().skip(1).all(char::is_lowercase);
        let first = if lower { first.to_lowercase() } else { first.to_string() };
        Error::new(sqlstate, first + rest).or_at(position)
    }

    /// The first place where the text has the identifier `name`.
    fn find(&self, name: &str) -> Option<usize> {
        self.find_all(name).first().copied()
    }

    /// The last one: the second of two that clash.
    fn find_last(&self, name: &str) -> Option<usize> {
        self.find_all(name).last().copied()
    }

    fn find_all(&self, name: &str) -> Vec<usize> {
        words(self.text.sql())
            .iter()
            .filter(|word| word.is(name))
            .filter_map(|word| self.text.position(word.location))
            .collect()
    }

    fn find_literal(&self, value: &str) -> Option<usize> {
        let tokens =
            Tokenizer::new(&TidemillDialect::default(), self.text.sql()).tokenize_with_location().ok()?;
        let token = tokens
            .iter()
            .find(|token| matches!(&token.token, Token::SingleQuotedString(it) if it == value))?;
        self.text.position(token.span.start)
    }
}

/// An identifier of the text.
struct FoundWord {
    value: String,
    quoted: bool,
    location: Location,
    after_period: bool,
}

impl FoundWord {
    fn is(&self, name: &str) -> bool {
        match self.quoted {
            true => self.value == name,
            false => self.value.eq_ignore_ascii_case(name),
        }
    }
}

fn words(sql: &str) -> Vec<FoundWord> {
    let Ok(tokens) = Tokenizer::new(&TidemillDialect::default(), sql).tokenize_with_location() else {
        return Vec::new();
    };
    let mut words = Vec::new();
    let mut after_period = false;
    for token in tokens {
        match token.token {
            Token::Whitespace(_) => continue,
            Token::Word(word) => words.push(FoundWord {
                value: word.value,
                quoted: word.quote_style.is_some(),
                location: token.span.start,
                after_period,
            }),
            Token::Period => {
                after_period = true;
                continue;
            }
            _ => (),
        }
        after_period = false;
    }
    words
}

/// What stands between the first `start` and the next `end` (or the end of the text, when `end` is
/// a line break).
fn between<'a>(message: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &message[message.find(start)? + start.len()..];
    match rest.find(end) {
        Some(idx) => Some(&rest[..idx]),
        None if end == "\n" => Some(rest),
        None => None,
    }
}

fn first_line(message: &str) -> &str {
    message.trim().lines().next().unwrap_or("")
}

fn unquoted(name: &str) -> &str {
    name.trim().trim_matches('"')
}

/// Arrow's type names in a text, replaced by PostgreSQL's.
fn pg_types_in(text: &str) -> String {
    // Longer names first: `LargeUtf8` contains `Utf8`.
    const NAMES: [(&str, &str); 24] = [
        ("Interval(MonthDayNano)", "interval"),
        ("Interval(YearMonth)", "interval"),
        ("Interval(DayTime)", "interval"),
        ("LargeBinary", "bytea"),
        ("BinaryView", "bytea"),
        ("Binary", "bytea"),
        ("LargeUtf8", "text"),
        ("Utf8View", "text"),
        ("Utf8", "text"),
        ("Boolean", "boolean"),
        ("UInt64", "numeric"),
        ("UInt32", "bigint"),
        ("UInt16", "integer"),
        ("UInt8", "smallint"),
        ("Int64", "bigint"),
        ("Int32", "integer"),
        ("Int16", "smallint"),
        ("Int8", "smallint"),
        ("Float64", "double precision"),
        ("Float32", "real"),
        ("Float16", "real"),
        ("Date32", "date"),
        ("Date64", "date"),
        ("Null", "unknown"),
    ];
    let mut text = text.to_string();
    for unit in ["ns", "µs", "ms", "s"] {
        for (zoned, name) in [("Timestamp", "timestamp"), ("Time64", "time"), ("Time32", "time")] {
            text = text.replace(&format!("{zoned}({unit})"), name);
        }
        while let Some(start) = text.find(&format!("Timestamp({unit}, ")) {
            let end = text[start..].find(')').map_or(text.len(), |idx| start + idx + 1);
            text.replace_range(start..end, "timestamp with time zone");
        }
    }
    while let Some(start) = text.find("Decimal128(").or_else(|| text.find("Decimal256(")) {
        let end = text[start..].find(')').map_or(text.len(), |idx| start + idx + 1);
        text.replace_range(start..end, "numeric");
    }
    NAMES.iter().fold(text, |text, (arrow, postgres)| text.replace(arrow, postgres))
}
