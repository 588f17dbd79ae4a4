//! The parsed query, with what DataFusion does not plan written in what it does.
//!
//! Nothing is decided here that needs a type, except that of a literal: a number is `integer` where it fits, else
//! `bigint`, else `numeric`, and only the text still says which.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, DateTimeField, DuplicateTreatment, ExactNumberInfo, Expr,
    Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments,
    Ident, Interval, LimitClause, NamedWindowDefinition, NamedWindowExpr, ObjectName, ObjectNamePart,
    OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Query, Select, SelectItem, SetExpr, Subscript,
    TableFactor, TimezoneInfo, TrimWhereField, UnaryOperator, Value, ValueWithSpan, VisitorMut, WindowFrame,
    WindowFrameBound, WindowSpec, WindowType,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidemill_core::SqlState;

use crate::naming::name_columns;
use crate::postgres::set_functions;
use crate::refusal::Refusal;

/// Rewrites a query and all that it holds.
pub fn rewrite_query(query: &mut Query) -> Result<(), Refusal> {
    match crate::visit::walk_mut(query, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Rewrites an expression that stands alone.
pub fn rewrite_expr(expr: &mut Expr) -> Result<(), Refusal> {
    match crate::visit::walk_mut(expr, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Functions whose result has the type of their arguments, so that a literal's type shows.
const POLYMORPHIC: &[&str] = &[
    "abs",
    "array_agg",
    "array_append",
    "array_cat",
    "array_fill",
    "array_position",
    "array_positions",
    "array_prepend",
    "array_remove",
    "array_replace",
    "avg",
    "coalesce",
    "first_value",
    "gcd",
    "generate_series",
    "greatest",
    "lag",
    "last_value",
    "lcm",
    "lead",
    "least",
    "max",
    "min",
    "mod",
    "mode",
    "nth_value",
    "nullif",
    "pg_typeof",
    "sum",
    "to_hex",
    "to_json",
    "to_jsonb",
    "json_build_array",
    "jsonb_build_array",
    "json_build_object",
    "jsonb_build_object",
];

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        resolve_function_aliases(query);
        // The columns of a subquery have PostgreSQL's names for the query around it, too.
        name_columns(query);
        if let Some(clause) = &mut query.limit_clause {
            limits_to_numbers(clause);
        }
        match fetch_to_limit(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(refusal),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        narrow_outputs(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        // Before its parts are looked at: a negated number is one literal, and binds tighter than a power.
        if let Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } = expr
            && let Expr::BinaryOp { left, op: BinaryOperator::PGExp, right } = operand.as_mut()
        {
            let base = Expr::UnaryOp { op: UnaryOperator::Minus, expr: take(left) };
            *expr = Expr::BinaryOp { left: Box::new(base), op: BinaryOperator::PGExp, right: take(right) };
        }
        if let Expr::UnaryOp { op: UnaryOperator::Not, expr: operand } = expr
            && has_row_subquery(operand)
        {
            return ControlFlow::Break(not_in_rows());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        match rewritten(expr) {
            Ok(Some(replacement)) => *expr = replacement,
            Ok(None) => (),
            Err(refusal) => return ControlFlow::Break(refusal),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
        match set_functions::in_from(factor) {
            Ok(Some(replacement)) => *factor = replacement,
            Ok(None) => (),
            Err(refusal) => return ControlFlow::Break(refusal),
        }
        ControlFlow::Continue(())
    }
}

fn rewritten(expr: &mut Expr) -> Result<Option<Expr>, Refusal> {
    Ok(Some(match expr {
        Expr::Interval(interval) => match interval_text(interval) {
            Some(text) => cast(string(text), interval_type()),
            None => return Ok(None),
        },
        Expr::AtTimeZone { timestamp, time_zone } => {
            call("timezone", vec![take_expr(time_zone), take_expr(timestamp)])
        }
        Expr::Extract { field, expr, .. } => {
            let field = match field {
                DateTimeField::Custom(ident) => ident.value.to_lowercase(),
                other => other.to_string().to_lowercase().trim_matches('\'').to_owned(),
            };
            // Only these have digits behind the point.
            let is_fractional = ["second", "millisecond", "epoch", "julian"]
                .iter()
                .any(|unit| field.trim_end_matches('s') == *unit);
            let function = if is_fractional { "extract" } else { "extract_field" };
            call(function, vec![string(field), take_expr(expr)])
        }
        Expr::UnaryOp { op, expr } => {
            let function = match op {
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::BitwiseNot => {
                    let all = cast(
                        Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number_literal(1)) },
                        DataType::SmallInt(None),
                    );
                    let operand = nested(narrowed(take_expr(expr)));
                    return Ok(Some(nested(operation(operand, BinaryOperator::PGBitwiseXor, all))));
                }
                _ => return Ok(None),
            };
            call(function, vec![narrowed(take_expr(expr))])
        }
        Expr::BinaryOp { left, op, right } => return Ok(binary(left, op, right)),
        // A row is NULL where all of its fields are, and not NULL where none is.
        Expr::IsNull(operand) | Expr::IsNotNull(operand) if row_of(operand).is_some() => {
            let fields = row_of(operand).unwrap_or_default();
            let is_null = matches!(expr, Expr::IsNull(_));
            let tests = fields.into_iter().map(|field| match is_null {
                true => Expr::IsNull(Box::new(nested(field))),
                false => Expr::IsNotNull(Box::new(nested(field))),
            });
            nested(
                tests
                    .reduce(|a, b| operation(a, BinaryOperator::And, b))
                    .unwrap_or(Expr::Value(Value::Boolean(true).into())),
            )
        }
        // Strings compare by their bytes, which is what this collation says.
        Expr::Collate { expr, collation } => {
            let name = collation.to_string();
            let name = name.trim_matches('"').rsplit(['.', '"']).next().unwrap_or_default();
            if !["C", "POSIX", "default", "ucs_basic"].contains(&name) {
                return Err(Refusal::unsupported(format!("collation \"{name}\""))
                    .with_hint("Strings compare by their bytes, as with COLLATE \"C\".")
                    .near("collate"));
            }
            take_expr(expr)
        }
        Expr::CompoundFieldAccess { access_chain, .. } => {
            for access in access_chain {
                if let AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, .. }) = access {
                    lower_bound.get_or_insert_with(|| number_literal(1));
                    upper_bound.get_or_insert_with(|| number_literal(i32::MAX.into()));
                }
            }
            return Ok(None);
        }
        // By name, so that they are our own functions.
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let from = substring_from.as_mut().map_or_else(|| number_literal(1), |from| take_expr(from));
            let length = substring_for.as_mut().map(|length| take_expr(length));
            call("substr", [take_expr(expr), from].into_iter().chain(length).collect())
        }
        Expr::Position { expr, r#in } => call("strpos", vec![take_expr(r#in), take_expr(expr)]),
        Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
            let length = overlay_for.as_mut().map(|length| take_expr(length));
            let args = [take_expr(expr), take_expr(overlay_what), take_expr(overlay_from)];
            call("overlay", args.into_iter().chain(length).collect())
        }
        Expr::Trim { expr, trim_where, trim_what, trim_characters } => {
            let function = match trim_where {
                Some(TrimWhereField::Leading) => "ltrim",
                Some(TrimWhereField::Trailing) => "rtrim",
                _ => "btrim",
            };
            let characters = trim_what.as_mut().map(|what| take_expr(what));
            let args = std::iter::once(take_expr(expr)).chain(characters);
            call(function, args.chain(trim_characters.take().into_iter().flatten()).collect())
        }
        Expr::InList { expr, list, negated } => {
            let Expr::Tuple(left) = expr.as_ref() else { return Ok(None) };
            let mut rows = Vec::new();
            for item in list.iter() {
                let Expr::Tuple(right) = item else { return Ok(None) };
                rows.push(nested(rows_equal(left, right)?));
            }
            let any = rows.into_iter().reduce(|a, b| operation(a, BinaryOperator::Or, b));
            let any = nested(any.expect("a list has items"));
            if *negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(any) } } else { any }
        }
        Expr::InSubquery { expr, subquery, negated } => {
            let Expr::Tuple(left) = expr.as_ref() else { return Ok(None) };
            if *negated {
                return Err(not_in_rows());
            }
            row_in_subquery(left, subquery)?
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let Some(escape) = escape_of(escape_char.as_ref()) else { return Err(not_one_character()) };
            let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
            let regex = match literal_text(pattern) {
                Some(pattern) => string(similar_to_regex(&pattern, escape)),
                None => {
                    let escape = string(escape.map_or_else(String::new, String::from));
                    call("similar_to_escape", vec![take_expr(pattern), escape])
                }
            };
            nested(operation(nested(take_expr(expr)), op, regex))
        }
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            let Some(escape) = escape_char.take() else { return Ok(None) };
            let Some(escape) = escape_of(Some(&escape)) else { return Err(not_one_character()) };
            **pattern = match literal_text(pattern) {
                Some(text) => string(with_backslashes(&text, escape)),
                None => {
                    let escape = string(escape.map_or_else(String::new, String::from));
                    call("like_escape", vec![take_expr(pattern), escape])
                }
            };
            return Ok(None);
        }
        // The elements take the type of what they are compared with.
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } if array_literal(right).is_some() => {
            let list = array_literal(right).unwrap_or_default();
            Expr::InList { expr: Box::new(take_expr(left)), list, negated: false }
        }
        Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } if array_literal(right).is_some() => {
            let list = array_literal(right).unwrap_or_default();
            Expr::InList { expr: Box::new(take_expr(left)), list, negated: true }
        }
        // Planned with the type of the left side: an array of it.
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } if is_parameter(right) => {
            let any = BinaryOperator::Custom(EQUALS_ANY.to_owned());
            nested(operation(nested(take_expr(left)), any, take_expr(right)))
        }
        Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } if is_parameter(right) => {
            let any = BinaryOperator::Custom(EQUALS_ANY.to_owned());
            let any = nested(operation(nested(take_expr(left)), any, take_expr(right)));
            nested(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(any) })
        }
        Expr::AnyOp { left, compare_op, right, .. } if is_pattern_operator(compare_op) => {
            match right.as_ref() {
                Expr::Subquery(_) => return Err(pattern_of_subquery()),
                _ => {
                    call("match_any", vec![take_expr(left), take_expr(right), string(compare_op.to_string())])
                }
            }
        }
        Expr::AllOp { left, compare_op, right } if is_pattern_operator(compare_op) => match right.as_ref() {
            Expr::Subquery(_) => return Err(pattern_of_subquery()),
            _ => call("match_all", vec![take_expr(left), take_expr(right), string(compare_op.to_string())]),
        },
        Expr::Function(function) => return function_call(function),
        Expr::Case { conditions, else_result, .. } => {
            for when in conditions {
                when.result = narrowed(when.result.clone());
            }
            if let Some(result) = else_result {
                **result = narrowed(take_expr(result));
            }
            return Ok(None);
        }
        Expr::Array(array) => {
            for element in &mut array.elem {
                *element = narrowed(element.clone());
            }
            return Ok(None);
        }
        Expr::Value(ValueWithSpan { value: Value::UnicodeStringLiteral(text), .. }) => string(text.clone()),
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => {
            let hex = digits.to_lowercase();
            // What exact numbers do not hold is a floating-point one.
            let exponent = hex.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
            if exponent.is_some_and(|exponent| exponent.abs() > 30) {
                return Ok(Some(cast(string(hex), DataType::DoublePrecision)));
            }
            // More than a `bigint` holds, except what a minus sign in front makes fit.
            if (19..=38).contains(&hex.len())
                && hex.parse::<i64>().is_err()
                && hex.parse::<u128>().is_ok_and(|n| n != 1 << 63)
            {
                return Ok(Some(cast(
                    string(hex),
                    DataType::Numeric(ExactNumberInfo::PrecisionAndScale(38, 0)),
                )));
            }
            let Some(hex) = hex.strip_prefix("0x") else { return Ok(None) };
            let Ok(number) = i64::from_str_radix(hex, 16) else { return Ok(None) };
            number_literal(number)
        }
        _ => return Ok(None),
    }))
}

fn binary(left: &mut Expr, op: &BinaryOperator, right: &mut Expr) -> Option<Expr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    match (row_of(left), row_of(right)) {
        (Some(a), Some(b)) if a.len() == b.len() && !a.is_empty() => {
            let (a, b) = (&a[..], &b[..]);
            let compared = match op {
                Eq => rows_equal(a, b).ok()?,
                NotEq => {
                    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(rows_equal(a, b).ok()?)) }
                }
                Lt | LtEq | Gt | GtEq => rows_compared(a, op, b),
                _ if op.to_string().eq_ignore_ascii_case("overlaps") => overlaps(a, b)?,
                _ => return None,
            };
            return Some(nested(compared));
        }
        _ => (),
    }
    match op {
        BinaryOperator::PGRegexMatch
        | BinaryOperator::PGRegexIMatch
        | BinaryOperator::PGRegexNotMatch
        | BinaryOperator::PGRegexNotIMatch => {
            let pattern = literal_text(right)?;
            let translated = crate::functions::regex_of(&pattern);
            (translated != pattern)
                .then(|| operation(nested(left.clone()), op.clone(), string(translated.into_owned())))
        }
        BinaryOperator::PGStartsWith => Some(call("starts_with", vec![left.clone(), right.clone()])),
        BinaryOperator::PGOverlap => Some(call("array_has_any", vec![left.clone(), right.clone()])),
        BinaryOperator::PGExp => Some(call("power", vec![left.clone(), right.clone()])),
        _ => None,
    }
}

/// The fields of `(a, b)` or `ROW(a, b)`.
fn row_of(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Tuple(fields) => Some(fields.clone()),
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("row") => {
            match &function.args {
                FunctionArguments::List(list) => positional(&list.args),
                _ => None,
            }
        }
        _ => None,
    }
}

/// `(a, b) = (c, d)`: equal where all are, NULL where that is not known.
fn rows_equal(left: &[Expr], right: &[Expr]) -> Result<Expr, Refusal> {
    if left.len() != right.len() {
        return Err(Refusal {
            sqlstate: SqlState::SYNTAX_ERROR,
            message: "unequal number of entries in row expressions".into(),
            hint: None,
            near: None,
        });
    }
    let pairs = left.iter().zip(right);
    let equal = pairs.map(|(a, b)| operation(nested(a.clone()), BinaryOperator::Eq, nested(b.clone())));
    Ok(equal.reduce(|a, b| operation(a, BinaryOperator::And, b)).expect("a row has columns"))
}

/// `(a, b) < (c, d)` as `a < c OR a = c AND b < d`.
fn rows_compared(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Expr {
    let (a, b) = (nested(left[0].clone()), nested(right[0].clone()));
    if left.len() == 1 {
        return operation(a, op.clone(), b);
    }
    let strict = match op {
        BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::Gt,
        op => op.clone(),
    };
    let rest = nested(rows_compared(&left[1..], op, &right[1..]));
    let tied = operation(operation(a.clone(), BinaryOperator::Eq, b.clone()), BinaryOperator::And, rest);
    operation(operation(a, strict, b), BinaryOperator::Or, nested(tied))
}

/// `(s1, e1) OVERLAPS (s2, e2)`, each pair in either order, and ends that are not part of their span.
fn overlaps(left: &[Expr], right: &[Expr]) -> Option<Expr> {
    let ([s1, e1], [s2, e2]) = (left, right) else { return None };
    let end = |start: &Expr, end: &Expr| match end {
        Expr::Interval(_) => nested(operation(start.clone(), BinaryOperator::Plus, end.clone())),
        Expr::Cast { data_type: DataType::Interval { .. }, .. } => {
            nested(operation(start.clone(), BinaryOperator::Plus, end.clone()))
        }
        _ => end.clone(),
    };
    let (e1, e2) = (end(s1, e1), end(s2, e2));
    let first = |a: &Expr, b: &Expr| call("least", vec![a.clone(), b.clone()]);
    let last = |a: &Expr, b: &Expr| call("greatest", vec![a.clone(), b.clone()]);
    let below = |a, b| operation(a, BinaryOperator::Lt, b);
    let meet = operation(first(s1, &e1), BinaryOperator::Eq, first(s2, &e2));
    let cross = operation(
        below(first(s1, &e1), last(s2, &e2)),
        BinaryOperator::And,
        below(first(s2, &e2), last(s1, &e1)),
    );
    Some(operation(nested(meet), BinaryOperator::Or, nested(cross)))
}

/// `(a, b) IN (SELECT …)` as `EXISTS`, which is as good where only true counts.
fn row_in_subquery(left: &[Expr], subquery: &Query) -> Result<Expr, Refusal> {
    let names: Vec<String> = (0..left.len()).map(|idx| format!("row_{idx}")).collect();
    let outer: Vec<Expr> = left.to_vec();
    let columns: Vec<Expr> = names
        .iter()
        .map(|name| Expr::CompoundIdentifier(vec![Ident::new("row_in"), Ident::new(name)]))
        .collect();
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM ({subquery}) AS row_in ({}) WHERE {})",
        names.join(", "),
        rows_equal(&columns, &outer)?
    );
    let query = parsed(&sql).ok_or_else(not_in_rows)?;
    let SetExpr::Select(select) = *query.body else { return Err(not_in_rows()) };
    match select.projection.into_iter().next() {
        Some(SelectItem::UnnamedExpr(exists)) => Ok(exists),
        _ => Err(not_in_rows()),
    }
}

/// The elements of `ARRAY[1, 2]`, or of `'{1,2}'` if there are some and none is an array or in quotes.
fn array_literal(expr: &Expr) -> Option<Vec<Expr>> {
    if let Expr::Array(array) = expr {
        return Some(array.elem.clone()).filter(|elements| !elements.is_empty());
    }
    let text = literal_text(expr)?;
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() || inner.contains(['{', '"', '\\']) {
        return None;
    }
    let element = |text: &str| match text.trim() {
        null if null.eq_ignore_ascii_case("null") => Expr::Value(Value::Null.into()),
        text => string(text),
    };
    Some(inner.split(',').map(element).collect())
}

/// What `x = ANY ($1)` is planned from, an operator that nobody can write.
pub(super) const EQUALS_ANY: &str = "= ANY";

fn is_parameter(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(value.value, Value::Placeholder(_)),
        Expr::Nested(inner) => is_parameter(inner),
        _ => false,
    }
}

fn is_pattern_operator(op: &BinaryOperator) -> bool {
    use BinaryOperator as Op;
    matches!(
        op,
        Op::PGLikeMatch
            | Op::PGILikeMatch
            | Op::PGNotLikeMatch
            | Op::PGNotILikeMatch
            | Op::PGRegexMatch
            | Op::PGRegexIMatch
            | Op::PGRegexNotMatch
            | Op::PGRegexNotIMatch
    )
}

fn pattern_of_subquery() -> Refusal {
    Refusal::unsupported("LIKE ANY over a subquery")
        .with_hint("Write EXISTS (SELECT 1 FROM … AS p WHERE x LIKE p.pattern).")
        .near("like")
}

fn literal_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => value.value.clone().into_string(),
        Expr::Nested(inner) => literal_text(inner),
        _ => None,
    }
}

/// The escape character: a backslash, unless another is named or, with `''`, none.
fn escape_of(escape: Option<&ValueWithSpan>) -> Option<Option<char>> {
    match escape {
        None => Some(Some('\\')),
        Some(value) => {
            let text = value.value.clone().into_string()?;
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (escape, None) => Some(escape),
                _ => None,
            }
        }
    }
}

fn not_one_character() -> Refusal {
    Refusal {
        sqlstate: SqlState("22025"),
        message: "invalid escape string".into(),
        hint: Some("Escape string must be empty or one character.".into()),
        near: Some("escape".into()),
    }
}

/// A pattern of LIKE with another escape character, escaped by backslashes.
pub(crate) fn with_backslashes(pattern: &str, escape: Option<char>) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                text.push('\\');
                text.extend(chars.next());
            }
            '\\' => text.push_str("\\\\"),
            c => text.push(c),
        }
    }
    text
}

/// The regular expression of a pattern of SIMILAR TO, which matches a whole text.
pub(crate) fn similar_to_regex(pattern: &str, escape: Option<char>) -> String {
    let mut regex = String::from("^(?:");
    let mut in_set = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                if let Some(escaped) = chars.next() {
                    if !escaped.is_alphanumeric() {
                        regex.push('\\');
                    }
                    regex.push(escaped);
                }
            }
            '[' | ']' => {
                in_set = c == '[';
                regex.push(c);
            }
            c if in_set => regex.push(c),
            '%' => regex.push_str("(?s:.*)"),
            '_' => regex.push_str("(?s:.)"),
            '.' | '^' | '$' | '\\' => {
                regex.push('\\');
                regex.push(c);
            }
            c => regex.push(c),
        }
    }
    regex.push_str(")$");
    regex
}

fn has_row_subquery(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => has_row_subquery(inner),
        Expr::InSubquery { expr, .. } => matches!(expr.as_ref(), Expr::Tuple(_)),
        Expr::BinaryOp { left, right, .. } => has_row_subquery(left) || has_row_subquery(right),
        _ => false,
    }
}

fn not_in_rows() -> Refusal {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: "NOT over a comparison of rows with a subquery is not supported".into(),
        hint: Some(
            "Write NOT EXISTS (SELECT 1 FROM … WHERE a = … AND b = …), which treats NULLs as unequal.".into(),
        ),
        near: Some("not".into()),
    }
}

/// `e` of `FROM jsonb_array_elements(j) AS e` as `e.value`.
fn resolve_function_aliases(query: &mut Query) {
    struct Aliases(Vec<(String, &'static str)>);
    impl VisitorMut for Aliases {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Identifier(ident) = expr
                && let Some((_, column)) =
                    self.0.iter().find(|(alias, _)| *alias == ident.value.to_lowercase())
            {
                *expr = Expr::CompoundIdentifier(vec![ident.clone(), Ident::new(*column)]);
            }
            ControlFlow::Continue(())
        }
    }
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let aliases: Vec<_> = factors.filter_map(set_functions::column_of_alias).collect();
    if aliases.is_empty() {
        return;
    }
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(Expr::Identifier(name)) = item else { continue };
        if aliases.iter().any(|(alias, _)| *alias == name.value.to_lowercase()) {
            let alias = name.clone();
            *item = SelectItem::ExprWithAlias { expr: Expr::Identifier(alias.clone()), alias };
        }
    }
    let _ = crate::visit::walk_mut(query, &mut Aliases(aliases));
}

/// `ARRAY(SELECT x … ORDER BY k)` as `(SELECT array_or_empty(array_agg(x ORDER BY k)) FROM (…))`.
fn array_subquery(mut query: Query) -> Result<Expr, Refusal> {
    let one_column = || Refusal {
        sqlstate: SqlState::SYNTAX_ERROR,
        message: "subquery must return only one column".into(),
        hint: None,
        near: Some("array".into()),
    };
    let mut order = Vec::new();
    let sorts = match &query.order_by {
        Some(OrderBy { kind: OrderByKind::Expressions(sorts), .. }) => sorts.clone(),
        _ => Vec::new(),
    };
    for (idx, sort) in sorts.into_iter().enumerate() {
        let key = format!("key_{idx}");
        let is_output = match &sort.expr {
            Expr::Value(_) => true,
            Expr::Identifier(ident) => is_alias_of_output(&query.body, ident),
            _ => false,
        };
        let sorted_by = match query.body.as_mut() {
            SetExpr::Select(select) if select.distinct.is_none() && !is_output => {
                select
                    .projection
                    .push(SelectItem::ExprWithAlias { expr: sort.expr.clone(), alias: Ident::new(&key) });
                key
            }
            _ => "item".to_owned(),
        };
        order.push(OrderByExpr { expr: Expr::Identifier(Ident::new(sorted_by)), ..sort });
    }
    let n_keys = order.iter().filter(|sort| sort.expr.to_string() != "item").count();
    if let SetExpr::Select(select) = query.body.as_ref()
        && select.projection.len() != n_keys + 1
    {
        return Err(one_column());
    }
    let names: Vec<String> = std::iter::once("item".to_owned())
        .chain(order.iter().map(|sort| sort.expr.to_string()).filter(|name| name != "item"))
        .collect();
    let order: Vec<String> = order.iter().map(ToString::to_string).collect();
    let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
    let sql = format!(
        "SELECT (SELECT array_or_empty(array_agg(item{order})) FROM ({query}) AS items ({}))",
        names.join(", ")
    );
    let outer = parsed(&sql).ok_or_else(one_column)?;
    match *outer.body {
        SetExpr::Select(select) => match select.projection.into_iter().next() {
            Some(SelectItem::UnnamedExpr(array)) => Ok(array),
            _ => Err(one_column()),
        },
        _ => Err(one_column()),
    }
}

fn is_alias_of_output(body: &SetExpr, name: &Ident) -> bool {
    let SetExpr::Select(select) = body else { return true };
    select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias == name))
}

/// Aggregates that keep each value: of DISTINCT values they are in the order of these.
const ORDERED_IF_DISTINCT: &[&str] = &["array_agg", "string_agg", "json_agg", "jsonb_agg"];

fn order_distinct(list: &mut FunctionArgumentList) {
    let is_ordered = list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)));
    if list.duplicate_treatment == Some(DuplicateTreatment::Distinct)
        && !is_ordered
        && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(value))) = list.args.first()
    {
        let options = OrderByOptions { asc: None, nulls_first: None };
        let by_value = OrderByExpr { expr: value.clone(), options, with_fill: None };
        list.clauses.push(FunctionArgumentClause::OrderBy(vec![by_value]));
    }
}

/// A frame's bound is read as it was written, before there are types.
fn keep_bounds(frame: &mut WindowFrame) {
    let bounds = std::iter::once(&mut frame.start_bound).chain(frame.end_bound.as_mut());
    for bound in bounds {
        let (WindowFrameBound::Preceding(Some(offset)) | WindowFrameBound::Following(Some(offset))) = bound
        else {
            continue;
        };
        if let Expr::Cast { expr, data_type: DataType::Interval { .. }, .. } = offset.as_mut()
            && let Expr::Value(_) = expr.as_ref()
        {
            **offset = Expr::Interval(Interval {
                value: take(expr),
                leading_field: None,
                leading_precision: None,
                last_field: None,
                fractional_seconds_precision: None,
            });
        }
    }
}

/// `OVER (w ORDER BY x)` with what the window `w` is defined as.
fn spell_out_windows(select: &mut Select) {
    struct Windows(Vec<(String, WindowSpec)>);
    impl VisitorMut for Windows {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr
                && let Some(WindowType::WindowSpec(spec)) = &mut function.over
                && let Some(name) = &spec.window_name
                && let Some((_, named)) = self.0.iter().find(|(known, _)| *known == name.value.to_lowercase())
            {
                spec.window_name = named.window_name.clone();
                if spec.partition_by.is_empty() {
                    spec.partition_by = named.partition_by.clone();
                }
                if spec.order_by.is_empty() {
                    spec.order_by = named.order_by.clone();
                }
                if spec.window_frame.is_none() {
                    spec.window_frame = named.window_frame.clone();
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut windows = Vec::new();
    for NamedWindowDefinition(name, definition) in &mut select.named_window {
        if let NamedWindowExpr::WindowSpec(spec) = definition {
            spec.window_frame.iter_mut().for_each(keep_bounds);
            windows.push((name.value.to_lowercase(), spec.clone()));
        }
    }
    if !windows.is_empty() {
        let _ = crate::visit::walk_mut(&mut select.projection, &mut Windows(windows));
    }
}

fn function_call(function: &mut Function) -> Result<Option<Expr>, Refusal> {
    if let Some(WindowType::WindowSpec(spec)) = &mut function.over {
        spec.window_frame.iter_mut().for_each(keep_bounds);
    }
    let [ObjectNamePart::Identifier(ident)] = &function.name.0[..] else { return Ok(None) };
    let name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
    if POLYMORPHIC.contains(&name.as_str())
        && let FunctionArguments::List(list) = &mut function.args
    {
        for arg in &mut list.args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg {
                *expr = narrowed(expr.clone());
            }
        }
    }
    if name == "array"
        && let FunctionArguments::Subquery(query) = &function.args
    {
        return array_subquery(query.as_ref().clone()).map(Some);
    }
    if ORDERED_IF_DISTINCT.contains(&name.as_str())
        && let FunctionArguments::List(list) = &mut function.args
    {
        order_distinct(list);
    }
    let arguments = || match &function.args {
        FunctionArguments::List(list) => positional(&list.args),
        _ => Some(Vec::new()),
    };
    if function.over.is_none()
        && let Some(arguments) = arguments()
        && let Some(rows) = set_functions::in_projection(&name, arguments)?
    {
        return Ok(Some(rows));
    }
    Ok(renamed_call(function, &name))
}

/// Functions that DataFusion has under other names, or with other arguments.
fn renamed_call(function: &Function, name: &str) -> Option<Expr> {
    let arguments = || match &function.args {
        FunctionArguments::List(list) => positional(&list.args),
        _ => Some(Vec::new()),
    };
    match name {
        // The clock of DataFusion has nanoseconds; ours and PostgreSQL's has microseconds.
        "now" | "current_timestamp" | "transaction_timestamp" | "statement_timestamp" | "clock_timestamp" => {
            Some(cast(call("now", Vec::new()), timestamp_type(true)))
        }
        "localtimestamp" => Some(cast(call("now", Vec::new()), timestamp_type(false))),
        "localtime" => Some(cast(call("now", Vec::new()), DataType::Time(None, TimezoneInfo::None))),
        "mod" => {
            let arguments = arguments()?;
            let [a, b] = &arguments[..] else { return None };
            Some(nested(operation(nested(a.clone()), BinaryOperator::Modulo, nested(b.clone()))))
        }
        // PostgreSQL's other name for the same.
        "ceiling" | "every" | "variance" | "gen_random_uuid" | "array_remove" | "array_replace"
        | "date_part" => {
            let other = match name {
                // DataFusion's own of these names do less: the first element only, and no fractions.
                "array_remove" => "array_remove_all",
                "array_replace" => "array_replace_all",
                "date_part" => "date_part_of",
                "ceiling" => "ceil",
                "every" => "bool_and",
                "variance" => "var_samp",
                _ => "uuid",
            };
            let mut renamed = function.clone();
            renamed.name = ObjectName::from(vec![Ident::new(other)]);
            let renamed = Expr::Function(renamed);
            Some(if other == "uuid" { cast(renamed, DataType::Uuid) } else { renamed })
        }
        // DataFusion counts in unsigned numbers.
        "cardinality" | "array_position" | "array_ndims" | "array_upper" | "array_lower" | "regexp_count"
        | "regexp_instr" => Some(cast(Expr::Function(function.clone()), DataType::Int(None))),
        // An empty array has no length.
        "array_length" => {
            let length = call("nullif", vec![Expr::Function(function.clone()), number_literal(0)]);
            Some(cast(length, DataType::Int(None)))
        }
        "make_interval" => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let mut fields: Vec<Expr> = (0..7).map(|_| number_literal(0)).collect();
            const NAMES: [&str; 7] = ["years", "months", "weeks", "days", "hours", "mins", "secs"];
            for (idx, arg) in list.args.iter().enumerate() {
                let (idx, value) = match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (idx, value),
                    FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                        let named = name.value.to_lowercase();
                        (NAMES.iter().position(|known| *known == named)?, value)
                    }
                    _ => return None,
                };
                *fields.get_mut(idx)? = value.clone();
            }
            Some(call("make_interval", fields)).filter(|replacement| {
                // Unchanged when it is full already, or it would be made again and again.
                *replacement != Expr::Function(function.clone())
            })
        }
        // Who asked for the rows of a function by unnest() has them already.
        "unnest" => match &arguments()?[..] {
            [Expr::Function(inner)] if inner.name == function.name => Some(Expr::Function(inner.clone())),
            _ => None,
        },
        "age" => match &arguments()?[..] {
            // Since midnight.
            [time] => {
                let today = cast(call("current_date", Vec::new()), timestamp_type(false));
                Some(call("age", vec![today, time.clone()]))
            }
            _ => None,
        },
        "array_positions" => Some(cast(Expr::Function(function.clone()), parsed_type("int[]")?)),
        // A type's name as a function is a cast.
        "int2" | "int4" | "int8" | "float4" | "float8" | "numeric" | "bool" | "text" | "varchar" | "date"
        | "timestamptz" => match &arguments()?[..] {
            [value] => parsed_type(name).map(|data_type| cast(value.clone(), data_type)),
            _ => None,
        },
        "date_trunc" => {
            let arguments = arguments()?;
            let [unit, time] = &arguments[..] else { return None };
            let written = literal_text(unit)?.to_lowercase();
            let n_years = match written.trim_end_matches('s') {
                "decade" => 10,
                "century" | "centurie" | "c" => 100,
                "millennium" | "millennia" | "mil" => 1000,
                other if other != written => {
                    return Some(call("date_trunc", vec![string(other), time.clone()]));
                }
                _ => return None,
            };
            Some(call("date_trunc_years", vec![number_literal(n_years), time.clone()]))
        }
        "timezone" => {
            let arguments = arguments()?;
            (arguments.len() == 1).then(|| call("timezone", vec![string("UTC"), arguments[0].clone()]))
        }
        _ => None,
    }
}

fn positional(args: &[FunctionArg]) -> Option<Vec<Expr>> {
    args.iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect()
}

/// `FETCH FIRST n ROWS ONLY` as `LIMIT n`.
fn fetch_to_limit(query: &mut Query) -> Result<(), Refusal> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.with_ties || fetch.percent {
        let what = if fetch.percent { "PERCENT" } else { "WITH TIES" };
        return Err(Refusal {
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: format!("FETCH FIRST … {what} is not supported"),
            hint: Some("Use rank() OVER (ORDER BY …) in a subquery, and a bound on it.".into()),
            near: Some("fetch".into()),
        });
    }
    let quantity = fetch.quantity.unwrap_or_else(|| number_literal(1));
    match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, .. }) => *limit = Some(quantity),
        clause => {
            *clause =
                Some(LimitClause::LimitOffset { limit: Some(quantity), offset: None, limit_by: Vec::new() });
        }
    }
    Ok(())
}

/// `LIMIT '1'`: a text in quotes has the type that its place asks for. What is no number is the planner's to refuse.
fn limits_to_numbers(clause: &mut LimitClause) {
    let exprs = match clause {
        LimitClause::LimitOffset { limit, offset, .. } => {
            [limit.as_mut(), offset.as_mut().map(|offset| &mut offset.value)]
        }
        LimitClause::OffsetCommaLimit { offset, limit } => [Some(limit), Some(offset)],
    };
    for expr in exprs.into_iter().flatten() {
        if let Expr::Value(value) = &*expr
            && let Value::SingleQuotedString(text) = &value.value
            && let Ok(number) = text.trim().parse()
        {
            *expr = number_literal(number);
        }
    }
}

/// The types of literals that are columns of a result.
fn narrow_outputs(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            spell_out_windows(select);
            narrow_projection(select);
        }
        SetExpr::SetOperation { left, right, .. } => {
            narrow_outputs(left);
            narrow_outputs(right);
        }
        SetExpr::Values(values) => {
            // A long list is an INSERT's, whose columns have their own types; a cast for each would only cost.
            const ROWS_MAX: usize = 64;
            adopt_types(&mut values.rows.iter_mut().map(|row| &mut row.content[..]).collect::<Vec<_>>());
            if values.rows.len() <= ROWS_MAX {
                for row in &mut values.rows {
                    row.content.iter_mut().for_each(|value| *value = narrowed(value.clone()));
                }
            }
        }
        _ => (),
    }
}

/// In a column of VALUES, literals without a type have that of a cast in the same column.
fn adopt_types(rows: &mut [&mut [Expr]]) {
    let n_columns = rows.first().map_or(0, |row| row.len());
    for column in 0..n_columns {
        let declared = rows.iter().find_map(|row| match row.get(column) {
            Some(Expr::Cast { data_type, .. }) => Some(data_type.clone()),
            Some(Expr::TypedString(typed)) => Some(typed.data_type.clone()),
            _ => None,
        });
        let Some(declared) = declared else { continue };
        // A number beside floating-point ones is one.
        let is_float = matches!(
            declared,
            DataType::DoublePrecision | DataType::Double(_) | DataType::Float8 | DataType::Float64
        );
        for row in rows.iter_mut() {
            let Some(value) = row.get_mut(column) else { continue };
            let Expr::Value(ValueWithSpan { value: literal, .. }) = &*value else { continue };
            let adopts = match literal {
                Value::SingleQuotedString(_) | Value::Null => true,
                Value::Number(..) => is_float,
                _ => false,
            };
            if adopts {
                *value = cast(value.clone(), declared.clone());
            }
        }
    }
}

fn narrow_projection(select: &mut Select) {
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                *expr = narrowed(expr.clone());
            }
            _ => (),
        }
    }
}

/// A literal number that fits, as `integer`.
pub(super) fn narrowed(expr: Expr) -> Expr {
    let digits = match &expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => digits.replace('_', ""),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => {
                format!("-{}", digits.replace('_', ""))
            }
            _ => return expr_of(expr.as_ref(), UnaryOperator::Minus),
        },
        Expr::Nested(inner) => return narrowed(inner.as_ref().clone()).into_nested(),
        _ => return expr,
    };
    match digits.parse::<i32>() {
        Ok(_) => cast(expr, DataType::Int(None)),
        Err(_) => expr,
    }
}

fn expr_of(operand: &Expr, op: UnaryOperator) -> Expr {
    Expr::UnaryOp { op, expr: Box::new(operand.clone()) }
}

trait IntoNested {
    fn into_nested(self) -> Expr;
}

impl IntoNested for Expr {
    fn into_nested(self) -> Expr {
        Expr::Nested(Box::new(self))
    }
}

/// The text of an interval literal with its fields, in words that the type's input understands.
fn interval_text(interval: &Interval) -> Option<String> {
    let Expr::Value(ValueWithSpan { value, .. }) = interval.value.as_ref() else { return None };
    let text = match value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => text.clone(),
        Value::DollarQuotedString(text) => text.value.clone(),
        Value::Number(digits, _) => digits.clone(),
        _ => return None,
    };
    let is_plain = text.trim().parse::<f64>().is_ok();
    let words = match (&interval.leading_field, &interval.last_field) {
        (None, _) => text,
        (Some(field), None) if is_plain => format!("{text} {field}"),
        // `'1:30' MINUTE TO SECOND` has no hours.
        (Some(DateTimeField::Minute), Some(_)) if text.matches(':').count() == 1 => format!("00:{text}"),
        // `'3 4' DAY TO HOUR`
        (Some(DateTimeField::Day), Some(DateTimeField::Hour)) if !text.contains(':') => {
            let (days, hours) = text.trim().split_once(' ')?;
            format!("{days} days {hours} hours")
        }
        _ => text,
    };
    Some(words)
}

fn interval_type() -> DataType {
    DataType::Interval { fields: None, precision: None }
}

fn timestamp_type(zoned: bool) -> DataType {
    DataType::Timestamp(None, if zoned { TimezoneInfo::WithTimeZone } else { TimezoneInfo::None })
}

fn parsed(sql: &str) -> Option<Box<Query>> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).ok()?.parse_query().ok()
}

fn parsed_type(name: &str) -> Option<DataType> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(name).ok()?.parse_data_type().ok()
}

pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn operation(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn nested(expr: Expr) -> Expr {
    match expr {
        Expr::Nested(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) => expr,
        other => Expr::Nested(Box::new(other)),
    }
}

fn string(text: impl Into<String>) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.into()).into())
}

fn number_literal(number: i64) -> Expr {
    Expr::Value(Value::Number(number.to_string(), false).into())
}

fn take(expr: &mut Box<Expr>) -> Box<Expr> {
    Box::new(take_expr(expr))
}

fn take_expr(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}
